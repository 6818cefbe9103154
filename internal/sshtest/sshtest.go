//go:build linux

// Package sshtest starts Debian's sshd for tests, on a loopback port and with
// nothing of the host's configuration.
package sshtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Missing skips the test, or fails it in CI, where nothing may be missing.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Server is one sshd.
type Server struct {
	Host string
	Port int
	User string // who may log in
	Home string // the user's home directory in a session
	// HostKey is the host key in authorized_keys form.
	HostKey string
	// Dir holds the configuration and the keys; KeyFile is the private key that
	// may log in, Key its content.
	Dir, KeyFile string
	Key          []byte

	t    testing.TB
	o    Options
	sshd string
	cmd  *exec.Cmd
	log  *os.File
}

// Options say what an sshd is like.
type Options struct {
	// Config are further lines of sshd_config. They come first, and so win.
	Config string
	// Password is what the user may log in with. It needs root: the server has
	// an /etc/shadow of its own then.
	Password string
	// Interactive asks for the password by keyboard-interactive, through PAM.
	Interactive bool
	// SmallDisk mounts a file system of 1 MiB at the server's Dir/small. It needs root.
	SmallDisk bool
	// NoSFTP leaves out the sftp subsystem.
	NoSFTP bool
	// Path is the PATH of what runs in a session.
	Path string
}

// Start starts an sshd that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	sshd := "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		Missing(t, "needs sshd (Debian: openssh-server)")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, o: o, sshd: sshd, Host: "127.0.0.1", Port: FreePort(t), User: me.Username, Dir: t.TempDir()}
	s.KeyFile = filepath.Join(s.Dir, "user_key")
	var pub string
	s.Key, pub = NewKey(t)
	host, hostPub := NewKey(t)
	s.HostKey = hostPub
	s.write("user_key", s.Key)
	s.write("host_key", host)
	s.write("authorized_keys", []byte(pub+"\n"))
	config := o.Config + "\n"
	config += "Port " + strconv.Itoa(s.Port) + "\nListenAddress 127.0.0.1\nPidFile none\nStrictModes no\nUseDNS no\nPermitRootLogin yes\n"
	config += "HostKey " + s.Dir + "/host_key\nAuthorizedKeysFile " + s.Dir + "/authorized_keys\n"
	config += "MaxStartups 200:30:300\nLoginGraceTime 120\n"
	if !o.Interactive {
		config += "UsePAM no\nKbdInteractiveAuthentication no\n"
	} else {
		config += "UsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication no\n"
	}
	if o.Password == "" {
		config += "PasswordAuthentication no\n"
	}
	if !o.NoSFTP {
		config += "Subsystem sftp /usr/lib/openssh/sftp-server\n"
	}
	// A home of its own: a login script of the host's user may do anything, and take long.
	s.Home = filepath.Join(s.Dir, "home")
	if err := os.Mkdir(s.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	config += "SetEnv HOME=" + s.Home
	if o.Path != "" {
		config += " PATH=" + o.Path
	}
	config += "\n"
	s.write("sshd_config", []byte(config))
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if o.Password != "" {
		s.shadow()
	}
	if o.SmallDisk && os.Geteuid() != 0 {
		Missing(t, "needs root, to mount a small file system")
	}
	s.Up()
	t.Cleanup(s.Down)
	return s
}

func (s *Server) write(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, name), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// shadow prepares an /etc/shadow in which the user has the password.
func (s *Server) shadow() {
	s.t.Helper()
	if os.Geteuid() != 0 {
		Missing(s.t, "needs root, to give sshd an /etc/shadow of its own")
	}
	perl := exec.Command("perl", "-e", `print crypt(<STDIN>, "\$6\$ingottest\$")`)
	perl.Stdin = strings.NewReader(s.o.Password)
	hash, err := perl.Output()
	if err != nil || len(hash) < 50 {
		Missing(s.t, "needs perl to make a password hash")
	}
	s.write("shadow", fmt.Appendf(nil, "%s:%s:19000:0:99999:7:::\n", s.User, hash))
	s.write("pam", []byte("auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n"))
}

// Up starts the server, anew after Down, and waits until it listens.
func (s *Server) Up() {
	s.t.Helper()
	args := []string{s.sshd, "-D", "-e", "-f", filepath.Join(s.Dir, "sshd_config")}
	if s.o.Password != "" || s.o.SmallDisk {
		// The mounts are in a namespace of the server's own, and end with it.
		mounts := "true"
		if s.o.Password != "" {
			mounts += " && mount --bind " + s.Dir + "/shadow /etc/shadow"
		}
		if s.o.Interactive {
			mounts += " && mount --bind " + s.Dir + "/pam /etc/pam.d/sshd"
		}
		if s.o.SmallDisk {
			mounts += " && mkdir -p " + s.Dir + "/small && mount -t tmpfs -o size=1m none " + s.Dir + "/small"
		}
		args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", mounts + ` && exec "$@"`, "sh"}, args...)
	}
	said := len(s.Log())
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	s.log = log
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	// What answers on the port could be another's, so the server has to say it.
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.Log()[said:], "Server listening on"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("sshd does not listen: %s", s.Log())
		}
	}
}

// Down ends the server and every connection to it, as a reboot does.
func (s *Server) Down() {
	if s.cmd == nil {
		return
	}
	sessions := s.children(s.cmd.Process.Pid)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	for _, pid := range sessions {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	s.log.Close()
	s.cmd = nil
}

// Freeze stops the server and its sessions, so that they neither answer nor
// close, until thaw is called.
func (s *Server) Freeze() (thaw func()) {
	all := append(s.children(s.Pid()), s.Pid())
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	return func() {
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

// children are all processes below pid, those that left their session included.
func (s *Server) children(pid int) (all []int) {
	out, err := exec.Command("ps", "-e", "-o", "pid=,ppid=").Output()
	if err != nil {
		return nil
	}
	below := map[int]bool{pid: true}
	for more := true; more; {
		more = false
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			if len(f) != 2 {
				continue
			}
			p, _ := strconv.Atoi(f[0])
			pp, _ := strconv.Atoi(f[1])
			if below[pp] && !below[p] {
				below[p], more = true, true
				all = append(all, p)
			}
		}
	}
	return all
}

// Pid is the server's process.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Log is what the server has said.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(b)
}

// Address is host and port.
func (s *Server) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Signer is the key that may log in.
func (s *Server) Signer() ssh.Signer {
	s.t.Helper()
	k, err := ssh.ParsePrivateKey(s.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// HostPublicKey is the host key.
func (s *Server) HostPublicKey() ssh.PublicKey {
	s.t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// KnownHosts is a line of a known_hosts file.
func (s *Server) KnownHosts() string {
	return fmt.Sprintf("[%s]:%d %s\n", s.Host, s.Port, s.HostKey)
}

// Authorize lets another line of authorized_keys in, beside those there are.
func (s *Server) Authorize(line string) {
	s.t.Helper()
	name := filepath.Join(s.Dir, "authorized_keys")
	old, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("authorized_keys", append(old, line+"\n"...))
}

// NewKey makes an ed25519 key: in PEM form, and as a line of authorized_keys.
func NewKey(t testing.TB) (private []byte, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// given are the ports that FreePort has given.
var given sync.Map

// FreePort is a TCP port of the loopback that nobody listens on. It is none of
// those that the kernel gives to whoever asks for any, or one of them could get
// it before its use.
func FreePort(t testing.TB) int {
	t.Helper()
	const low = 10000
	high := 32768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(b), &high)
	}
	if high < low+1000 {
		t.Fatalf("this host gives all ports from %d on to whoever asks for any: see `sysctl net.ipv4.ip_local_port_range`", high)
	}
	for range 1000 {
		port := low + mathrand.IntN(high-low)
		if _, twice := given.LoadOrStore(port, true); twice {
			continue
		}
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// Without makes a directory for Options.Path that has links to all programs of
// the host but some.
func Without(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	not := map[string]bool{}
	for _, n := range names {
		not[n] = true
	}
	for _, from := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		list, err := os.ReadDir(from)
		if err != nil {
			continue
		}
		for _, e := range list {
			if !not[e.Name()] {
				_ = os.Symlink(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())) // the first wins
			}
		}
	}
	return dir
}

// BusyBox makes a directory for Options.Path that has the applets of busybox only.
func BusyBox(t testing.TB) string {
	t.Helper()
	exe, err := exec.LookPath("busybox")
	if err != nil {
		Missing(t, "needs busybox (Debian: busybox-static)")
	}
	out, err := exec.Command(exe, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name := range bytes.FieldsSeq(out) {
		if err := os.Symlink(exe, filepath.Join(dir, string(name))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Wait calls done until it says yes.
func Wait(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for !done() {
		if ctx.Err() != nil {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
