//go:build linux

package sshmachine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
)

func run(t testing.TB, m machine.Machine, c machine.Command) string {
	t.Helper()
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	if err := m.Run(t.Context(), c); err != nil {
		t.Fatalf("%s: %v: %s", c.Line, err, &said)
	}
	return out.String()
}

// Neither the command nor its environment is in the machine's list of processes.
func TestNothingInTheProcessList(t *testing.T) {
	m := dial(t, Config{Hops: []Hop{hop(t, sshtest.Start(t, sshtest.Options{}))}})
	list := run(t, m, machine.Command{Line: "echo PASS $SECRET | grep -q hunter && ps -e -o args= # visible", Env: map[string]string{"SECRET": "hunter-two"}})
	if !strings.Contains(list, "sshd") || strings.Contains(list, "hunter-two") || strings.Contains(list, "# visible") {
		t.Errorf("the list of processes has the command or its environment, or is none:\n%.2000s", list)
	}
}

// What login scripts say spoils neither output nor files.
func TestNoisyLogin(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	noise := "echo welcome; echo warning >&2\n"
	if err := os.WriteFile(filepath.Join(s.Home, ".bashrc"), []byte(noise), 0o600); err != nil {
		t.Fatal(err)
	}
	m := dial(t, Config{Hops: []Hop{hop(t, s)}})
	if got := run(t, m, machine.Command{Line: "echo out"}); got != "out\n" {
		t.Errorf("got %q", got)
	}
	if err := m.Put(t.Context(), s.Home+"/d", machine.BytesTree("f", []byte("x"), 0o600)); err != nil {
		t.Error(err)
	}
	to := filepath.Join(t.TempDir(), "f")
	if err := m.Get(t.Context(), s.Home+"/d/f", machine.FileSink(to)); err != nil {
		t.Error(err)
	}
}

// A server that runs something else instead of commands is no machine, and says so.
func TestForcedCommand(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Config: "ForceCommand echo this account is not available; exit 1"})
	err := atOnce(t, Config{Hops: []Hop{hop(t, s)}})
	if !strings.Contains(err.Error(), "not available") {
		t.Errorf("error %v", err)
	}
}

// Cancel reaches what left the process group, and works when the only session
// that the server allows is the one to be cancelled.
func TestCancelEndsTheSession(t *testing.T) {
	for _, config := range []string{"", "MaxSessions 1"} {
		s := sshtest.Start(t, sshtest.Options{Config: config})
		m := dial(t, Config{Hops: []Hop{hop(t, s)}})
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- m.Run(ctx, machine.Command{Line: "trap '' TERM\nbash -mc 'sleep 1000 & echo $!; wait' & echo $$; while :; do sleep 1000; done", Stdout: w})
		}()
		var pids [2]int
		for i := range pids {
			if _, err := fmt.Fscan(r, &pids[i]); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || err.Error() != context.Canceled.Error() {
			t.Errorf("%q: error %v", config, err)
		}
		for _, pid := range pids {
			sshtest.Wait(t, "a process ends", func() bool { return ended(pid) })
		}
	}
}

func ended(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

// The cap sinks to what the server allows, and nothing fails of it.
func TestSessionCap(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Config: "MaxSessions 3"})
	m := dial(t, Config{Hops: []Hop{hop(t, s)}})
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			if got := run(t, m, machine.Command{Line: fmt.Sprintf("sleep 0.1; echo %d", i)}); got != fmt.Sprintln(i) {
				t.Errorf("%d: got %q", i, got)
			}
		})
	}
	wg.Wait()
	if m.slots.most > 3 || m.slots.used != 0 {
		t.Errorf("the cap is %d, %d in use", m.slots.most, m.slots.used)
	}
}

func TestTerminal(t *testing.T) {
	m := dial(t, Config{Hops: []Hop{hop(t, sshtest.Start(t, sshtest.Options{}))}, PTY: true})
	mark := "of" + strconv.FormatUint(rand.Uint64(), 36) // in /tmp there are others' files, too
	got := run(t, m, machine.Command{Line: "test -t 1 && tty >/dev/tty; cat; echo $A; stty size </dev/tty #" + mark, Stdin: strings.NewReader("in\n"), Env: map[string]string{"A": "b"}})
	if !strings.HasPrefix(got, "/dev/pts/") && !strings.HasPrefix(got, "not a tty") || !strings.HasSuffix(got, "\nin\nb\n40 80\n") {
		t.Errorf("got %q", got)
	}
	exit, ok := errors.AsType[*machine.ExitError](m.Run(t.Context(), machine.Command{Line: "exit 7 #" + mark}))
	if !ok || exit.Status != 7 {
		t.Errorf("exit 7: %v", exit)
	}
	if left := run(t, m, machine.Command{Line: "grep -ls " + mark + " /tmp/.ingot-* || true"}); left != "" {
		t.Errorf("files are left: %s", left)
	}
}

func TestDiskFull(t *testing.T) {
	for name, path := range map[string]func(testing.TB) string{
		"tar":    func(testing.TB) string { return "" },
		"sftp":   func(t testing.TB) string { return sshtest.Without(t, "tar") },
		"frames": func(t testing.TB) string { return sshtest.Without(t, "tar") },
	} {
		t.Run(name, func(t *testing.T) {
			s := sshtest.Start(t, sshtest.Options{SmallDisk: true, Path: path(t), NoSFTP: name == "frames"})
			m := dial(t, Config{Hops: []Hop{hop(t, s)}})
			err := m.Put(t.Context(), s.Dir+"/small", machine.BytesTree("the file", make([]byte, 4<<20), 0o600))
			if err == nil || !strings.Contains(err.Error(), "the file") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// hello is a server that says hello to whoever connects.
func hello(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello\n")
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func TestTunnels(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	port := hello(t)
	here, there := sshtest.FreePort(t), sshtest.FreePort(t)
	to := "127.0.0.1:" + strconv.Itoa(port)
	m := dial(t, Config{Hops: []Hop{hop(t, s)}, Timeout: 30 * time.Second, LocalTunnels: []Tunnel{{here, to}}, RemoteTunnels: []Tunnel{{there, to}}})
	ask := func() {
		t.Helper()
		for _, p := range []int{here, there} {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(c)
			if err != nil || string(b) != "hello\n" {
				t.Errorf("through port %d: %q, %v", p, b, err)
			}
			c.Close()
		}
	}
	ask()
	s.Down()
	s.Up()
	run(t, m, machine.Command{Line: "true"})
	ask() // they are there again
	m.Close()
	for _, p := range []int{here, there} {
		sshtest.Wait(t, "the tunnel is gone", func() bool {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p))
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	}
}

// httpProxy is an HTTP proxy that wants a login.
func httpProxy(t *testing.T, used *atomic.Int64) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
		if u, p, _ := r.BasicAuth(); u != "u" || p != "p" || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		out, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		used.Add(1)
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n")
		join(in, out)
		in.Close()
		out.Close()
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// socksProxy is one that wants a login: RFC 1928 and 1929, as far as it goes.
func socksProxy(t *testing.T, used *atomic.Int64) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(c net.Conn) error {
		defer c.Close()
		read := func(n int) []byte {
			b := make([]byte, n)
			_, _ = io.ReadFull(c, b)
			return b
		}
		read(int(read(2)[1]))
		if _, err := c.Write([]byte{5, 2}); err != nil {
			return err
		}
		u := read(int(read(2)[1]))
		p := read(int(read(1)[0]))
		if string(u) != "u" || string(p) != "p" {
			_, err := c.Write([]byte{1, 1})
			return err
		}
		if _, err := c.Write([]byte{1, 0}); err != nil {
			return err
		}
		host := ""
		switch read(4)[3] {
		case 1:
			host = net.IP(read(4)).String()
		case 3:
			host = string(read(int(read(1)[0])))
		}
		port := read(2)
		out, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1]))))
		if err != nil {
			_, err := c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
			return err
		}
		defer out.Close()
		used.Add(1)
		if _, err := c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
			return err
		}
		join(c, out)
		return nil
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func TestProxies(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	for kind, start := range map[string]func(*testing.T, *atomic.Int64) int{"http": httpProxy, "socks5": socksProxy} {
		t.Run(kind, func(t *testing.T) {
			var used atomic.Int64
			p := &Proxy{Kind: kind, Host: "127.0.0.1", Port: start(t, &used), User: "u", Password: "p"}
			m := dial(t, Config{Hops: []Hop{hop(t, s)}, Proxy: p})
			if got := run(t, m, machine.Command{Line: "echo x"}); got != "x\n" || used.Load() != 1 {
				t.Errorf("got %q, the proxy was used %d times", got, used.Load())
			}
			wrong := *p
			wrong.Password = "wrong"
			err := atOnce(t, Config{Hops: []Hop{hop(t, s)}, Proxy: &wrong})
			if strings.Contains(err.Error(), "wrong") || !strings.Contains(err.Error(), "roxy") {
				t.Errorf("a wrong password: %v", err)
			}
			h := hop(t, s)
			h.Port = sshtest.FreePort(t)
			if err := atOnce(t, Config{Hops: []Hop{h}, Proxy: p, Timeout: 2 * time.Second}); !strings.Contains(err.Error(), "ssh_timeout") {
				t.Errorf("a machine that is not there yet: %v", err)
			}
		})
	}
}

// TestAgent logs in by a real ssh-agent, which what runs on the machine can use
// only if that was asked for.
func TestAgent(t *testing.T) {
	if _, err := exec.LookPath("ssh-agent"); err != nil {
		sshtest.Missing(t, "needs ssh-agent (Debian: openssh-client)")
	}
	s := sshtest.Start(t, sshtest.Options{})
	dir, err := os.MkdirTemp("", "a") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
	sshtest.Wait(t, "the agent listens", func() bool { // which is later than that its socket is there
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	add := exec.Command("ssh-add", "-q", s.KeyFile)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v: %s", err, out)
	}
	h := hop(t, s)
	h.Login = Login{AgentSocket: socket}
	look := "echo ${SSH_AUTH_SOCK:-none}; ssh-add -l 2>&1"
	if got := run(t, dial(t, Config{Hops: []Hop{h}, AgentSocket: socket}), machine.Command{Line: look + "; true"}); !strings.HasPrefix(got, "none\n") || strings.Contains(got, "ED25519") {
		t.Errorf("the agent is forwarded unasked: %q", got)
	}
	if got := run(t, dial(t, Config{Hops: []Hop{h}, AgentSocket: socket, ForwardAgent: true}), machine.Command{Line: look}); !strings.Contains(got, "ED25519") {
		t.Errorf("the agent is not forwarded, though asked: %q", got)
	}
	_ = agent.Process.Kill()
	if err := atOnce(t, Config{Hops: []Hop{h}}); !strings.Contains(err.Error(), "ssh-agent") {
		t.Errorf("without the agent: %v", err)
	}
}

// A connection that is cut anywhere is never a silent success.
func TestCut(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	src := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 300<<10)
	_, _ = src.Read(data)
	dst, into := filepath.Join(s.Home, "cut"), filepath.Join(t.TempDir(), "cut")
	cuts, survived := 0, 0
	for i := range 45 {
		r := sshtest.NewRelay(t, s.Address(), 0, 0)
		h := hop(t, s)
		h.Port = r.Port
		m, err := Dial(t.Context(), Config{Hops: []Hop{h}, Timeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		_ = os.RemoveAll(dst)
		_ = os.RemoveAll(into)
		r.CutAfter.Store(1 + int64(src.Uint64()%(310<<10)))
		var good bool
		var out bytes.Buffer
		switch i % 3 {
		case 0:
			err = m.Put(t.Context(), dst, machine.BytesTree("f", data, 0o600))
			got, _ := os.ReadFile(dst + "/f")
			good = bytes.Equal(got, data)
		case 1:
			if err := os.MkdirAll(dst, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dst+"/f", data, 0o600); err != nil {
				t.Fatal(err)
			}
			err = m.Get(t.Context(), dst, machine.DirSink(into))
			got, _ := os.ReadFile(into + "/f")
			good = bytes.Equal(got, data)
		case 2:
			err = m.Run(t.Context(), machine.Command{Line: "cat", Stdin: bytes.NewReader(data), Stdout: &out})
			good = bytes.Equal(out.Bytes(), data)
		}
		if err == nil && !good {
			t.Errorf("cut %d: success, and the data differ", i)
		}
		if err != nil {
			cuts++
		} else {
			survived++
		}
		m.Close()
	}
	t.Logf("%d cuts: %d were errors, %d came after the end", cuts+survived, cuts, survived)
	if cuts < 20 {
		t.Errorf("only %d of the cuts hit", cuts)
	}
}

// A slow and long way changes nothing but the time.
func TestSlowLink(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	r := sshtest.NewRelay(t, s.Address(), 100*time.Millisecond, 512<<10)
	h := hop(t, s)
	h.Port = r.Port
	m := dial(t, Config{Hops: []Hop{h}, KeepAlive: 50 * time.Millisecond, ReadWriteTimeout: 30 * time.Second})
	data := bytes.Repeat([]byte("0123456789abcdef"), 32<<10)
	if err := m.Put(t.Context(), s.Home, machine.BytesTree("f", data, 0o600)); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "f")
	if err := m.Get(t.Context(), s.Home+"/f", machine.FileSink(to)); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(to); !bytes.Equal(got, data) {
		t.Error("the file came back changed")
	}
}

// A connection that has gone silent is found dead by the keep-alive.
func TestSilentConnection(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for the keep-alive")
	}
	s := sshtest.Start(t, sshtest.Options{})
	m := dial(t, Config{Hops: []Hop{hop(t, s)}, KeepAlive: time.Second, ReadWriteTimeout: 10 * time.Second})
	up, done := make(signal), make(chan error, 1)
	go func() { done <- m.Run(t.Context(), machine.Command{Line: "echo; sleep 600", Stdout: up}) }()
	select {
	case <-up:
	case err := <-done:
		t.Fatalf("the command has not begun: %v", err)
	}
	stop := s.Freeze()
	defer stop()
	select {
	case err := <-done:
		if exit, ok := errors.AsType[*machine.ExitError](err); !ok || exit.Status != machine.DisconnectStatus {
			t.Errorf("error %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("nobody has noticed")
	}
}

// Many machines at once leave nothing behind.
func TestFiftyMachines(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	one := func() {
		m, err := Dial(t.Context(), Config{Hops: []Hop{hop(t, s)}})
		if err != nil {
			t.Error(err)
			return
		}
		defer m.Close()
		if err := m.Run(t.Context(), machine.Command{Line: "cat", Stdin: strings.NewReader("x"), Stdout: io.Discard}); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		up := make(signal)
		go func() { <-up; cancel() }()
		if err := m.Run(ctx, machine.Command{Line: "echo; sleep 100", Stdout: up}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	one() // what is made once
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(one)
	}
	wg.Wait()
	deadline := time.Now().Add(time.Minute)
	for (runtime.NumGoroutine() > goroutines || openFiles(t) > files) && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if n, f := runtime.NumGoroutine(), openFiles(t); n > goroutines || f > files {
		b := make([]byte, 1<<20)
		t.Errorf("%d goroutines and %d files, before %d and %d\n%s", n, f, goroutines, files, b[:runtime.Stack(b, true)])
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	return len(list)
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("file 644 0 3 1:2 1 0 0\nname\x00\x00abcMARK\nend 0 0 0 0 0 0 0\n"))
	f.Add([]byte("symlink 777 -1 0 1:2 2 0 0\na/../b\x00t\x00MARK\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		_ = unframe{machine.DirSink(filepath.Join(dir, "in")), "MARK"}.ReadTar(t.Context(), bytes.NewReader(b))
		if list, _ := os.ReadDir(dir); len(list) > 1 {
			t.Error("it wrote outside")
		}
	})
}

func FuzzGate(f *testing.F) {
	f.Add([]byte("noise\nMARK 123\nout"), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var whole, parts bytes.Buffer
		a, c := &gate{mark: "MARK ", next: &whole}, &gate{mark: "MARK ", next: &parts}
		_, _ = a.Write(b)
		if cut < 0 || cut > len(b) {
			cut = 0
		}
		_, _ = c.Write(b[:cut])
		_, _ = c.Write(b[cut:])
		if len(b) < maxBefore && whole.String() != parts.String() {
			t.Errorf("%q in two parts gives %q, in one %q", b, &parts, &whole)
		}
	})
}

func FuzzAbout(f *testing.F) {
	f.Add("os=Linux\narch=x86_64\ntar=yes\nfamily=debian\n")
	f.Fuzz(func(t *testing.T, s string) {
		a := readAbout(s)
		if strings.ContainsAny(a.OS+a.Arch+a.Family, "\n\x1b ;$") {
			t.Errorf("%q gives %+v", s, a)
		}
	})
}

// Every shell reads the text of a command as it is.
func TestBoot(t *testing.T) {
	text := "printf '<%s>' \"$A\"; cat"
	all := make([]byte, 0, 256)
	for i := 1; i < 256; i++ {
		all = append(all, byte(i))
	}
	env, err := exports(map[string]string{"A": string(all)})
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range [][]string{{"dash"}, {"bash"}, {"bash", "--posix"}, {"busybox", "sh"}, {"ksh"}, {"zsh"}} {
		exe, err := exec.LookPath(shell[0])
		if err != nil {
			continue
		}
		inner := strings.TrimSuffix(strings.TrimPrefix(boot, "exec sh -c '"), "'")
		cmd := exec.Command(exe, append(shell[1:], "-c", inner)...)
		cmd.Stdin = strings.NewReader(encode(env+text) + "the rest")
		out, err := cmd.Output()
		if want := "<" + string(all) + ">the rest"; err != nil || string(out) != want {
			t.Errorf("%v: %v, got %q", shell, err, out)
		}
	}
}
