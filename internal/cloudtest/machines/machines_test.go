//go:build linux

package machines

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

func TestMain(m *testing.M) {
	Reexec(nil)
	os.Exit(m.Run())
}

func newHost(t *testing.T) *Host {
	t.Helper()
	sandboxtest.Need(t)
	h, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestQuick(t *testing.T) {
	h := newHost(t)
	v, err := h.NewVolume(h.HostContent(), 0)
	if err != nil {
		t.Fatal(err)
	}
	key, pub := clientKey(t)
	start := time.Now()
	m, err := h.Boot(t.Context(), Config{ID: "i-1", Root: v, User: "admin", Keys: []string{pub}, UserData: []byte("#cloud-config\nruncmd:\n- echo hello >/etc/left\n")})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(start))
	a, err := h.Address()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Serve(a, []int{22}, nil); err != nil {
		t.Fatal(err)
	}
	t.Log(string(m.Console()))
	c, err := ssh.Dial("tcp", a.String()+":22", &ssh.ClientConfig{User: "admin", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := c.NewSession()
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	err = s.Run("id; sudo -n id; cloud-init status --wait; cat /etc/left; ps ax; sudo shutdown -h now")
	t.Log(err, out.String())
	t.Log(time.Since(start))
	_ = context.Background
	_ = m.Stop(t.Context())
	t.Log(time.Since(start))
}

func TestQuick2(t *testing.T) {
	h := newHost(t)
	v, err := h.NewVolume(h.HostContent(), 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := h.Boot(t.Context(), Config{ID: "i-1", Root: v, User: "admin", UserData: []byte("#cloud-config\nruncmd:\n- echo hello >/etc/left\n")})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	running, err := v.Content()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := v.Content()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Content{running, c} {
		b, err := c.ReadFile("/etc/left")
		t.Log(string(b), err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	v2, err := h.NewVolume(c, 0)
	if err != nil {
		t.Fatal(err)
	}
	m2, err := h.Boot(t.Context(), Config{ID: "i-2", Root: v2, User: "admin", UserData: []byte("#cloud-config\nruncmd:\n- echo hello >/etc/left2\n")})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(m2.Ready(t.Context()))
	t.Log(m.Ready(t.Context()))
	t.Log(string(m2.Console()))
	ents, _ := os.ReadDir(h.dir + "/layers")
	t.Log(ents)
}
