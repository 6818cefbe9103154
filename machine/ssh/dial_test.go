//go:build linux

package sshmachine

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
)

// thief is an SSH server that notes every try to log in.
type thief struct {
	port  int
	tries atomic.Int64
	shook atomic.Int64 // handshakes begun
}

func newThief(t *testing.T) *thief {
	t.Helper()
	th := &thief{}
	private, _ := sshtest.NewKey(t)
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	try := func() (*ssh.Permissions, error) { th.tries.Add(1); return &ssh.Permissions{}, nil }
	cfg := &ssh.ServerConfig{
		NoClientAuth:         true,
		NoClientAuthCallback: func(ssh.ConnMetadata) (*ssh.Permissions, error) { return try() },
		PasswordCallback:     func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return try() },
		PublicKeyCallback:    func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return try() },
		KeyboardInteractiveCallback: func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			return try()
		},
	}
	cfg.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	th.port = l.Addr().(*net.TCPAddr).Port
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			th.shook.Add(1)
			wg.Go(func() {
				defer c.Close()
				if s, _, _, err := ssh.NewServerConn(c, cfg); err == nil {
					s.Close()
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return th
}

// atOnce dials, which must fail, and soon.
func atOnce(t *testing.T, cfg Config) error {
	t.Helper()
	start := time.Now()
	m, err := Dial(t.Context(), cfg)
	if err == nil {
		m.Close()
		t.Fatal("it connects")
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v to fail", took)
	}
	return err
}

// A server with another host key gets nothing secret: not even a user name.
func TestManInTheMiddle(t *testing.T) {
	real := sshtest.Start(t, sshtest.Options{})
	th := newThief(t)
	files := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(files, []byte(strings.Replace(real.KnownHosts(), fmt.Sprint(real.Port), fmt.Sprint(th.port), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]HostKeys{
		"known":       {Known: []ssh.PublicKey{real.HostPublicKey()}},
		"known_hosts": {Files: []string{files}},
		"unknown":     {Files: []string{os.DevNull}},
		"nothing":     {},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			h := hop(t, real)
			h.Port, h.HostKeys = th.port, keys
			h.Login.Password = func(context.Context) (string, error) { asked = true; return "secret", nil }
			before := th.shook.Load()
			// Not even a machine that is just booting, nor patience, makes it try on.
			err := atOnce(t, Config{Hops: []Hop{h}, Fresh: true, HandshakeAttempts: 100})
			wrong, ok := errors.AsType[*HostKeyError](err)
			if !ok || strings.Contains(err.Error(), "secret\"") {
				t.Fatalf("error %v, want one of the host key", err)
			}
			if known := len(wrong.Want) > 0; known != strings.HasPrefix(name, "known") || !strings.Contains(err.Error(), "SHA256:") {
				t.Errorf("the error does not say which key it was: %v", err)
			}
			if th.tries.Load() != 0 || asked {
				t.Errorf("%d tries to log in; password asked for: %v", th.tries.Load(), asked)
			}
			if n := th.shook.Load() - before; n != 1 {
				t.Errorf("%d connections, want one", n)
			}
		})
	}
	t.Run("ignored", func(t *testing.T) { // so that the test can fail
		h := hop(t, real)
		h.Port, h.HostKeys = th.port, HostKeys{Ignore: true}
		atOnce(t, Config{Hops: []Hop{h}, Timeout: 3 * time.Second})
		if th.tries.Load() == 0 {
			t.Error("the thief sees no login, even where the key is not checked")
		}
	})
}

func TestKnownHosts(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	h := hop(t, s)
	h.HostKeys = HostKeys{Files: []string{write("# a comment\nother ssh-ed25519 AAAA\n" + s.KnownHosts())}}
	dial(t, Config{Hops: []Hop{h}})
	h.HostKeys = HostKeys{Files: []string{write("web " + s.HostKey + "\n")}, Name: "web"}
	dial(t, Config{Hops: []Hop{h}})
	h.HostKeys = HostKeys{Files: []string{write("@revoked * " + s.HostKey + "\n" + s.KnownHosts())}}
	if wrong, ok := errors.AsType[*HostKeyError](atOnce(t, Config{Hops: []Hop{h}})); !ok || !wrong.Revoked {
		t.Errorf("a revoked key: %v", wrong)
	}
	h.HostKeys = HostKeys{Files: []string{filepath.Join(t.TempDir(), "missing")}}
	if err := atOnce(t, Config{Hops: []Hop{h}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// What will be refused again is refused at once, and said with what was tried.
func TestRefusals(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	other, _ := sshtest.NewKey(t)
	h := hop(t, s)
	h.Login.Keys = []Key{key(t, other)}
	for name, cfg := range map[string]struct {
		cfg  Config
		want string
	}{
		"key":      {Config{Hops: []Hop{h}}, "tried ed25519 key SHA256:"},
		"password": {Config{Hops: []Hop{{Host: s.Host, Port: s.Port, User: s.User, HostKeys: h.HostKeys, Login: Login{Password: func(context.Context) (string, error) { return "wrong", nil }, PasswordFrom: "ssh_password"}}}}, "the server takes publickey"},
		"bastion":  {Config{Hops: []Hop{h, hop(t, s)}, Fresh: true}, "the bastion"},
		"cipher":   {Config{Hops: []Hop{hop(t, s)}, Ciphers: []string{"aes128-cbc"}}, "no common algorithm"},
		"agent":    {Config{Hops: []Hop{{Host: s.Host, Port: s.Port, User: s.User, HostKeys: h.HostKeys, Login: Login{AgentSocket: "/nowhere"}}}}, "ssh-agent"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := atOnce(t, cfg.cfg); !strings.Contains(err.Error(), cfg.want) || strings.Contains(err.Error(), "wrong") {
				t.Errorf("error %q does not say %q", err, cfg.want)
			}
		})
	}
	t.Run("timeout", func(t *testing.T) {
		h := hop(t, s)
		h.Port = sshtest.FreePort(t)
		if err := atOnce(t, Config{Hops: []Hop{h}, Timeout: 2 * time.Second}); !strings.Contains(err.Error(), "ssh_timeout (2s)") || !strings.Contains(err.Error(), "refused") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		h := hop(t, s)
		h.Port = sshtest.FreePort(t)
		if _, err := Dial(ctx, Config{Hops: []Hop{h}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("attempts", func(t *testing.T) {
		if err := atOnce(t, Config{Hops: []Hop{h}, HandshakeAttempts: 2, Fresh: true}); !strings.Contains(err.Error(), "login 2") {
			t.Errorf("error %v", err)
		}
	})
}

// What heals is waited for: an address, a port, a key.
func TestWaitsForTheMachine(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	s.Down()
	authorized := filepath.Join(s.Dir, "authorized_keys")
	line, err := os.ReadFile(authorized)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(authorized, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	h := hop(t, s)
	h.Host, h.Port = "", 0
	type result struct {
		m   *Machine
		err error
	}
	done := make(chan result, 1)
	go func() {
		m, err := Dial(t.Context(), Config{Hops: []Hop{h}, Fresh: true, Timeout: time.Minute, Address: func(context.Context) (string, int, error) {
			if asked.Add(1) < 3 {
				return "", 0, fmt.Errorf("pending: %w", ErrNotYet)
			}
			return s.Host, s.Port, nil
		}})
		done <- result{m, err}
	}()
	sshtest.Wait(t, "the address is asked for", func() bool { return asked.Load() >= 5 })
	s.Up()
	sshtest.Wait(t, "a login is refused", func() bool { return strings.Contains(s.Log(), "Connection closed by authenticating user") })
	if err := os.WriteFile(authorized, line, 0o600); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.m.Close()
	if at := r.m.Hop(); at.Host != s.Host || at.Port != s.Port {
		t.Errorf("found at %v", at)
	}
}

// Keys of all kinds: RSA signs with SHA-2 only, which a server of today demands.
func TestKeys(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(rsaKey, "", []byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(block)
	if _, err := ParseKey(text, nil, nil, "f"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("an encrypted key: %v", err)
	}
	if _, err := ParseKey(text, []byte("wrong"), nil, "f"); err == nil {
		t.Error("a wrong passphrase is taken")
	}
	k, err := ParseKey(text, []byte("open sesame"), nil, "f")
	if err != nil {
		t.Fatal(err)
	}
	s.Authorize(string(ssh.MarshalAuthorizedKey(k.PublicKey())))
	h := hop(t, s)
	h.Login.Keys = []Key{k}
	dial(t, Config{Hops: []Hop{h}})
	if a, ok := dial(t, Config{Hops: []Hop{h}}).SSHAccess(); !ok || !bytes.Contains(a.PrivateKey, []byte("OPENSSH PRIVATE KEY")) || len(a.HostKeys) != 1 || a.HostKeys[0] != s.HostKey {
		t.Errorf("access: %v, %d bytes of key, host keys %v", ok, len(a.PrivateKey), a.HostKeys)
	}
	old := sshtest.Start(t, sshtest.Options{Config: "PubkeyAcceptedAlgorithms ssh-rsa"})
	old.Authorize(string(ssh.MarshalAuthorizedKey(k.PublicKey())))
	h = hop(t, old)
	h.Login.Keys = []Key{k}
	if err := atOnce(t, Config{Hops: []Hop{h}}); err == nil {
		t.Error("it signs with SHA-1")
	}
}

// A machine that reboots is connected to anew, if it is still the same.
func TestReboot(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	m := dial(t, Config{Hops: []Hop{hop(t, s)}, Timeout: 30 * time.Second})
	up, done := make(signal), make(chan error, 1)
	go func() { done <- m.Run(t.Context(), machine.Command{Line: "echo up; sleep 600", Stdout: up}) }()
	<-up
	s.Down()
	if exit, ok := errors.AsType[*machine.ExitError](<-done); !ok || exit.Status != machine.DisconnectStatus {
		t.Errorf("the command ended with %v", exit)
	}
	next := make(chan error, 1)
	go func() { next <- m.Run(t.Context(), machine.Command{Line: "true"}) }()
	s.Up()
	if err := <-next; err != nil {
		t.Fatalf("after the reboot: %v", err)
	}
	s.Down()
	other, _ := sshtest.NewKey(t)
	if err := os.WriteFile(filepath.Join(s.Dir, "host_key"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Up()
	if _, ok := errors.AsType[*HostKeyError](m.Run(t.Context(), machine.Command{Line: "true"})); !ok {
		t.Error("another machine is taken for the same")
	}
}

// signal is closed by the first byte that is written to it.
type signal chan struct{}

func (s signal) Write(p []byte) (int, error) {
	select {
	case <-s:
	default:
		close(s)
	}
	return len(p), nil
}
