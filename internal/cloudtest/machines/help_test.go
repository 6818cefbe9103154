//go:build linux

package machines

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

// waitLong bounds what a test waits for; nothing takes nearly as long.
const waitLong = 50 * time.Second

func newHost(t testing.TB) *Host {
	t.Helper()
	sandboxtest.Need(t)
	if os.Geteuid() != 0 {
		sandboxtest.Missing(t, "needs root: the machines stand on this host's own system")
	}
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

// needSSH skips where this host has no SSH server for machines on its own system.
func needSSH(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(sshdPath); err != nil {
		sandboxtest.Missing(t, "needs sshd (Debian: openssh-server)")
	}
}

// need skips where a program is missing.
func need(t testing.TB, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		sandboxtest.Missing(t, "needs "+program+" (Debian: "+pkg+")")
	}
}

// needLoop skips where no block devices can be made of files.
func needLoop(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		sandboxtest.Missing(t, "needs loop devices: "+err.Error())
	}
	need(t, "mke2fs", "e2fsprogs")
}

func volume(t testing.TB, h *Host, from *Content, size int64) *Volume {
	t.Helper()
	v, err := h.NewVolume(from, size)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func content(t testing.TB, v *Volume) *Content {
	t.Helper()
	c, err := v.Content()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func boot(t testing.TB, h *Host, cfg Config) *Machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLong)
	defer cancel()
	m, err := h.Boot(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Ready(ctx); err != nil {
		t.Fatalf("%v\n%s", err, m.Console())
	}
	return m
}

func stop(t testing.TB, m *Machine) {
	t.Helper()
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// must runs a command in a machine and returns what it printed.
func must(t testing.TB, m *Machine, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLong)
	defer cancel()
	var out bytes.Buffer
	if err := m.Run(ctx, machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

// here runs a program on this host.
func here(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// reads checks a file of a content; want "" means that there is none.
func reads(t testing.TB, c *Content, name, want string) {
	t.Helper()
	b, err := c.ReadFile(name)
	switch {
	case want == "" && !errors.Is(err, os.ErrNotExist):
		t.Errorf("%s: %q, %v, want none", name, b, err)
	case want != "" && (err != nil || strings.TrimSpace(string(b)) != want):
		t.Errorf("%s: %q, %v, want %q", name, b, err, want)
	}
}

// newKey makes a key pair: the signer, the private key in OpenSSH's form, and the
// line for authorized_keys.
func newKey(t testing.TB) (ssh.Signer, string, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
}

// login is one way into a machine.
type login struct {
	addr    netip.Addr
	user    string
	auth    ssh.AuthMethod
	hostKey ssh.PublicKey // nil: any
}

func (l login) dial() (*ssh.Client, error) {
	cfg := &ssh.ClientConfig{User: l.user, Auth: []ssh.AuthMethod{l.auth}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: waitLong}
	if l.hostKey != nil {
		cfg.HostKeyCallback = ssh.FixedHostKey(l.hostKey)
		cfg.HostKeyAlgorithms = []string{l.hostKey.Type()}
	}
	return ssh.Dial("tcp", netip.AddrPortFrom(l.addr, 22).String(), cfg)
}

// run runs a command over SSH.
func (l login) run(t testing.TB, line string) (string, error) {
	t.Helper()
	c, err := l.dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	out, err := s.CombinedOutput(line)
	return strings.TrimSpace(string(out)), err
}

// hint is the first line that a login answers a command with.
func (l login) hint(t testing.TB) string {
	t.Helper()
	c, err := l.dial()
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("echo ran"); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	return line
}

// hear waits for a machine to have ended by itself.
func hear(t testing.TB, line string, off <-chan struct{}) {
	t.Helper()
	select {
	case <-off:
	case <-time.After(waitLong):
		t.Fatalf("%s: nothing happened", line)
	}
}

func serve(t testing.TB, h *Host, m *Machine, admit func(netip.Addr, int) bool, ports ...int) netip.Addr {
	t.Helper()
	a, err := h.Address()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Serve(a, ports, admit); err != nil {
		t.Fatal(err)
	}
	return a
}

// devices are the loop devices whose files stand below dir.
func devices(t testing.TB, dir string) (out []string) {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), dir) {
			out = append(out, f)
		}
	}
	return out
}

// eventually waits for what the kernel does in its own time.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitLong); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s", what, waitLong)
		}
	}
}

func tree(dir string) machine.Tree { return machine.DirTree(dir, "") }
