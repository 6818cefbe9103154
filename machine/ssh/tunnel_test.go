package sshmachine

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
)

// A connection from the machine reaches what the machine reaches; one that was
// refused is told from one that could not be tried.
func TestDialContext(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	m := dial(t, Config{Hops: []Hop{hop(t, s)}, Timeout: 30 * time.Second})
	if got := m.Address(); got != s.Host {
		t.Errorf("the address is %q", got)
	}
	c, err := m.DialContext(t.Context(), "tcp", "localhost:"+strconv.Itoa(hello(t)))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello\n" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	if _, err := m.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(sshtest.FreePort(t)))); err == nil || errors.Is(err, machine.ErrCannotDial) {
		t.Errorf("a closed port: %v", err)
	}
	if _, err := m.DialContext(t.Context(), "udp", "127.0.0.1:53"); !errors.Is(err, machine.ErrCannotDial) {
		t.Errorf("UDP: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.DialContext(ctx, "tcp", "127.0.0.1:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	m.Close()
	if _, err := m.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, machine.ErrCannotDial) {
		t.Errorf("closed: %v", err)
	}
}

func TestDialContextProhibited(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Config: "AllowTcpForwarding no"})
	m := dial(t, Config{Hops: []Hop{hop(t, s)}, Timeout: 30 * time.Second})
	if _, err := m.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, machine.ErrCannotDial) {
		t.Errorf("prohibited: %v", err)
	}
}

// Through a bastion this host does not reach the machine by its address.
func TestNoAddress(t *testing.T) {
	bastion, s := sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{})
	m := dial(t, Config{Hops: []Hop{hop(t, bastion), hop(t, s)}, Timeout: 30 * time.Second})
	if got := m.Address(); got != "" {
		t.Errorf("the address is %q", got)
	}
	c, err := m.DialContext(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(hello(t)))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
