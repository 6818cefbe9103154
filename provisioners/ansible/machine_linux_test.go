package ansible

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// need skips the test where a program is missing.
func need(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		sandboxtest.Missing(t, fmt.Sprintf("needs %s (Debian: %s)", program, pkg))
	}
	return path
}

// box boots a machine on this host's own system, which the test may change.
func box(t testing.TB) *sandbox.Machine {
	t.Helper()
	sandboxtest.Need(t)
	need(t, "ansible-playbook", "ansible-core")
	need(t, "python3", "python3")
	id := strings.ToLower(strings.Map(func(c rune) rune {
		if c < '0' || c > 'z' || c > '9' && c < 'A' || c > 'Z' && c < 'a' {
			return '-'
		}
		return c
	}, t.Name()))
	cfg := sandbox.Config{ID: fmt.Sprintf("%s-%d", id[:min(len(id), 40)], os.Getpid()), Dir: t.TempDir(), Layers: []string{sandbox.HostBase}, Network: sandbox.NetworkNone}
	m, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := sandbox.Remove(cfg.Dir); err != nil {
			t.Error(err)
		}
	})
	return m
}

func sh(t testing.TB, m machine.Machine, line string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := m.Run(context.WithoutCancel(t.Context()), machine.Command{Line: line, Stdout: &out, Stderr: &out})
	return strings.TrimSpace(out.String()), err
}

func must(t testing.TB, m machine.Machine, line string) string {
	t.Helper()
	out, err := sh(t, m, line)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

// within waits for cond.
func within(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 2 minutes", what)
		}
	}
}

// reached is a machine that OpenSSH can reach.
type reached struct {
	machine.Machine
	a  machine.SSHAccess
	no bool
}

func (r *reached) SSHAccess() (machine.SSHAccess, bool) { return r.a, !r.no }

// sshBox is a machine in which Debian's sshd runs, at a port of this host's loopback.
func sshBox(t testing.TB) *reached {
	t.Helper()
	sshd := need(t, "sshd", "openssh-server")
	m := box(t)
	r := &reached{Machine: m}
	hostKey, hostPEM, err := newKey("ED25519")
	if err != nil {
		t.Fatal(err)
	}
	userKey, userPEM, err := newKey("ED25519")
	if err != nil {
		t.Fatal(err)
	}
	// sshd wants the directories above its files to be root's alone.
	must(t, m, "mkdir -p /run/sshd /etc/ingot-test && chmod 755 /run/sshd")
	if err := m.Put(t.Context(), "/etc/ingot-test", machine.Join(
		machine.BytesTree("host_key", hostPEM, 0o600),
		machine.BytesTree("authorized_keys", ssh.MarshalAuthorizedKey(userKey.PublicKey()), 0o644),
		machine.BytesTree("sshd_config", []byte(`Port 2222
ListenAddress 127.0.0.1
HostKey /etc/ingot-test/host_key
AuthorizedKeysFile /etc/ingot-test/authorized_keys
PermitRootLogin yes
UsePAM no
PidFile none
AllowTcpForwarding yes
Subsystem sftp internal-sftp
`), 0o644))); err != nil {
		t.Fatal(err)
	}
	// Without PAM sshd lets nobody in whose password is locked.
	must(t, m, "echo root:correct-horse | chpasswd")
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	var log syncBuffer
	done.Go(func() {
		_ = m.Exec(ctx, sandbox.Program{Argv: []string{sshd, "-D", "-e", "-f", "/etc/ingot-test/sshd_config"}}, machine.Command{Stdout: &log, Stderr: &log})
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	})
	within(t, "sshd listens", func() bool { return strings.Contains(log.String(), "Server listening") })
	r.a = machine.SSHAccess{
		Host: "127.0.0.1", Port: forward(t, m), User: "root", PrivateKey: userPEM,
		HostKeys: []string{string(ssh.MarshalAuthorizedKey(hostKey.PublicKey()))},
	}
	return r
}

// forward listens on this host's loopback and passes connections to the machine's sshd.
func forward(t testing.TB, m *sandbox.Machine) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				d, err := m.Dial(ctx, "tcp", "127.0.0.1:2222")
				if err != nil {
					return
				}
				defer d.Close()
				defer context.AfterFunc(ctx, func() { d.Close() })()
				ended := make(chan struct{})
				go func() { _, _ = io.Copy(d, c); d.Close(); close(ended) }()
				_, _ = io.Copy(c, d)
				c.Close()
				<-ended
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); all.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fixture is a provisioner in a directory with files, and what it reports.
type fixture struct {
	p   *Provisioner
	env *provisioners.Env
	tmp string // where private directories stand

	mu     sync.Mutex
	events []event.Event
	on     func(event.Event)
}

func setup(t testing.TB, files map[string]string, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{p: New(&Versions{})}
	dir := t.TempDir()
	for name, text := range files {
		sandboxtest.Write(t, dir, name, text, 0o600)
	}
	tmp, err := os.MkdirTemp("/tmp", "t") // short: sockets stand in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	f.tmp = tmp
	if tt, ok := t.(interface{ Setenv(string, string) }); ok {
		tt.Setenv("TMPDIR", tmp)
		tt.Setenv("HOME", filepath.Join(dir, "home")) // ansible makes ~/.ansible
		tt.Setenv("ANSIBLE_NOCOLOR", "")
		tt.Setenv("SSH_AUTH_SOCK", "")
	}
	f.env = &provisioners.Env{
		BakeID: "b1", BuildName: "web", BuilderType: "sandbox", RunID: "run", Dir: dir,
		Values: map[string]string{"ID": "i1"},
		Events: event.Scope{Sink: event.Func(func(e event.Event) {
			f.mu.Lock()
			f.events = append(f.events, e)
			on := f.on
			f.mu.Unlock()
			if on != nil {
				on(e)
			}
		})},
	}
	if change != nil {
		change(&f.p.o)
	}
	return f
}

// said is all text that was reported, a line each.
func (f *fixture) said(kinds ...event.Kind) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out strings.Builder
	for _, e := range f.events {
		for _, k := range kinds {
			if e.Kind == k {
				out.WriteString(e.Text + "\n")
			}
		}
	}
	return out.String()
}

// run checks and provisions.
func (f *fixture) run(t testing.TB, m machine.Machine) error {
	t.Helper()
	for _, p := range f.p.Check(t.Context(), f.env) {
		if !p.Warning {
			t.Fatalf("Check: %+v", p)
		}
	}
	return f.p.Provision(t.Context(), f.env, m)
}

// nothingLeft checks that neither files nor processes of the run are there.
func (f *fixture) nothingLeft(t testing.TB) {
	t.Helper()
	if left, err := os.ReadDir(f.tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind in the temporary directory: %v, %v", left, err)
	}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		environ, _ := os.ReadFile(file) // the process may have ended
		if bytes.Contains(environ, []byte("ANSIBLE_SSH_CONTROL_PATH_DIR="+f.tmp)) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			t.Errorf("left behind: process %s: %q", file, bytes.ReplaceAll(line, []byte{0}, []byte(" ")))
		}
	}
}
