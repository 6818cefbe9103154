//go:build linux

package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	. "github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/machinetest"
)

func TestMain(m *testing.M) {
	Reexec(nil)
	os.Exit(m.Run())
}

// start boots a machine on this host's own system, or skips where that cannot be.
func start(t *testing.T, change func(*Config)) *Machine {
	t.Helper()
	sandboxtest.Need(t)
	id := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	cfg := Config{ID: fmt.Sprintf("%s-%d", id, os.Getpid()), Dir: t.TempDir(), Layers: []string{HostBase}}
	var err error
	if cfg.Cgroup, err = PlanCgroup(cfg.ID); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&cfg)
	}
	m, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		var dirs []string
		for _, d := range cfg.Cgroup {
			dirs = append(dirs, d)
		}
		if err := RemoveCgroup(dirs); err != nil {
			t.Error(err)
		}
		if err := Remove(cfg.Dir); err != nil {
			t.Error(err)
		}
	})
	return m
}

// sh runs a command and returns what it printed, trimmed.
func sh(t *testing.T, m machine.Machine, line string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := m.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out})
	return strings.TrimSpace(out.String()), err
}

func must(t *testing.T, m machine.Machine, line string) string {
	t.Helper()
	out, err := sh(t, m, line)
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

func TestSuite(t *testing.T) {
	// The machine's root may not mount; its /dev/shm has 64 MiB.
	machinetest.Options{SmallDir: "/dev/shm"}.Run(t, func() machine.Machine { return start(t, nil) })
}

// apart runs the test once more, in a process whose mounts and interfaces are
// its own: other tests of this host, such as those with containers, have theirs
// come and go. What a machine lets out shows there as it would on the host.
func apart(t *testing.T) bool {
	t.Helper()
	const env = "INGOT_TEST_APART"
	if os.Getenv(env) != "" || os.Geteuid() != 0 || InUserNamespace() {
		return false
	}
	for _, program := range []string{"unshare", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, "needs "+program)
		}
	}
	cmd := exec.Command("unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", `mount --make-rshared / && busybox ip link set lo up && exec "$@"`,
		"sh", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	}
	return true
}

// A provisioner may do its worst: the host does not notice.
func TestHostIsUntouched(t *testing.T) {
	if apart(t) {
		return
	}
	hostname, _ := os.Hostname()
	mounts := readFile(t, "/proc/self/mountinfo")
	links := interfaces(t)
	victim := exec.Command("sleep", "600.25")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	before := time.Now()
	var tmpBefore unix.Statfs_t
	if err := unix.Statfs("/tmp", &tmpBefore); err != nil {
		t.Fatal(err)
	}

	m := start(t, func(c *Config) { c.TmpSize = 64 << 20 })
	must(t, m, "echo changed > /etc/ingot-test && echo changed >> /etc/passwd && rm -rf /usr/share/doc && test ! -e /usr/share/doc")
	if out, err := sh(t, m, "kill -9 "+fmt.Sprint(victim.Process.Pid)); err == nil {
		t.Errorf("the machine could signal a host process: %s", out)
	}
	if out := must(t, m, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); strings.Contains(out, "600.25") || !strings.Contains(out, "cat /proc/") {
		t.Errorf("the machine sees the processes %q", out)
	}
	_, _ = sh(t, m, "kill -9 -1")
	if out, err := sh(t, m, "mount -t tmpfs x /mnt"); err == nil {
		t.Errorf("the machine could mount: %s", out)
	}
	if out, err := sh(t, m, "date -s 2001-01-01"); err == nil {
		t.Errorf("the machine could set the clock: %s", out)
	}
	_, _ = sh(t, m, "hostname changed; echo changed > /proc/sys/kernel/hostname")
	for _, f := range []string{"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"} {
		if out, err := sh(t, m, "echo x > "+f); err == nil {
			t.Errorf("the machine could write %s: %s", f, out)
		}
	}
	// A block device can be made, as packages do, but not opened.
	if out, err := sh(t, m, "mknod /disk b 8 0 && mknod /dev/shm/disk b 8 0; head -c 1 /disk || head -c 1 /dev/shm/disk"); err == nil {
		t.Errorf("the machine could read a block device: %s", out)
	}
	if out, err := sh(t, m, "head -c 200000000 /dev/zero > /tmp/full"); err == nil {
		t.Errorf("/tmp has no bound: %s", out)
	}
	// Port 80 in the machine is not the host's.
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go func() {
		for {
			c, err := host.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "host\n")
			c.Close()
		}
	}()
	port := host.Addr().(*net.TCPAddr).Port
	if out, err := sh(t, m, fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d'", port)); err == nil {
		t.Errorf("the machine reached the host's loopback: %s", out)
	}

	if _, err := os.Stat("/etc/ingot-test"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("/etc/ingot-test on the host: %v", err)
	}
	if strings.Contains(readFile(t, "/etc/passwd"), "changed") {
		t.Error("the host's /etc/passwd has changed")
	}
	if _, err := os.Stat("/usr/share/doc"); err != nil {
		t.Error(err)
	}
	if err := victim.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the host's process is gone: %v", err)
	}
	if h, _ := os.Hostname(); h != hostname {
		t.Errorf("the host is now called %s", h)
	}
	if d := time.Since(before); d < 0 || time.Now().Year() < 2020 {
		t.Errorf("the host's clock has moved by %s", d)
	}
	if now := readFile(t, "/proc/self/mountinfo"); now != mounts {
		t.Errorf("the host's mounts have changed:\n%s", now)
	}
	if now := interfaces(t); now != links {
		t.Errorf("the host's interfaces have changed: %s, were %s", now, links)
	}
}

func readFile(t *testing.T, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func interfaces(t *testing.T) string {
	t.Helper()
	is, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range is {
		names = append(names, i.Name)
	}
	return strings.Join(names, " ")
}

func TestHostSecretsAreHidden(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o644); err != nil {
		t.Fatal(err)
	}
	const more = "/usr/share" // on no list
	if _, err := os.Stat(more); err != nil {
		t.Fatal(err)
	}
	m := start(t, func(c *Config) { c.Hide = []string{more} })
	if out, err := sh(t, m, "ls -d "+secret+" || ls -d "+more); err == nil {
		t.Errorf("the machine sees what is hidden: %s", out)
	}
	if out := must(t, m, "find /root /home /tmp /var/tmp /run /mnt /media /srv /var/log /var/spool /var/mail/ /var/backups /etc/ssl/private -mindepth 1 ! -path /run/lock 2>/dev/null || true"); out != "" {
		t.Errorf("the machine sees in directories that should be empty:\n%s", out)
	}
	// What is on no list is seen.
	var opt []string
	entries, err := os.ReadDir("/opt")
	for _, e := range entries {
		opt = append(opt, e.Name())
	}
	if out, lerr := sh(t, m, "LC_ALL=C ls -A /opt"); out != strings.Join(opt, "\n") && (err == nil || lerr == nil) {
		t.Errorf("the machine sees in /opt %q, and there is %q, %v", out, opt, err)
	}
	there := 0
	for _, p := range Hidden {
		if p == "/etc/shadow" || p == "/etc/machine-id" {
			continue // the machine has its own
		}
		if _, err := os.Lstat(p); err == nil {
			there++
		}
		if out, err := sh(t, m, "ls -d "+p); err == nil {
			t.Errorf("the machine sees %s", out)
		}
	}
	if there == 0 {
		t.Error("this host has nothing that is to be hidden, so that nothing was tried")
	}
	for _, p := range []string{"/var/lib/docker", "/var/lib/containerd", "/etc/kubernetes", "/var/lib/kubelet", "/var/lib/postgresql", "/var/lib/mysql",
		"/etc/libvirt", "/etc/NetworkManager/system-connections", "/etc/wireguard", "/etc/openvpn", "/etc/letsencrypt"} {
		if !slices.Contains(Hidden, p) {
			t.Errorf("%s is not hidden", p)
		}
	}
	if out := must(t, m, "cut -d: -f2 /etc/shadow | grep -v -e '^[*!]' -e '^$' || true"); out != "" {
		t.Errorf("the machine has somebody's password hash")
	}
	if out := must(t, m, "ls /etc/ssh 2>/dev/null | grep -c '_key$' || true"); out != "0" {
		t.Errorf("the machine sees %s of the host's private host keys", out)
	}
	// Process 1 is Ingot's; its files lead to the engine.
	if out, err := sh(t, m, "ls -l /proc/1/fd /proc/1/exe /proc/1/root"); err == nil {
		t.Errorf("the machine looks into its process 1:\n%s", out)
	}
}

// TestOtherBase: on a base of its own a machine has no file of the host's.
func TestOtherBase(t *testing.T) {
	tree := sandboxtest.Busybox(t)
	m := start(t, func(c *Config) { c.Layers = []string{tree} })
	if out := must(t, m, "echo $(ls -A /)"); out != "bin dev etc home proc root run sbin sys tmp" {
		t.Errorf("the machine has %s", out)
	}
	if out := must(t, m, "echo $(find /bin /etc /home /root /run /tmp -type f | sort)"); out != "/bin/busybox /etc/group /etc/hostname /etc/hosts /etc/machine-id /etc/passwd /etc/resolv.conf" {
		t.Errorf("the machine has the files %s", out)
	}
	if b := must(t, m, "cat /etc/passwd"); b != strings.TrimSpace(readFile(t, filepath.Join(tree, "etc/passwd"))) {
		t.Errorf("the machine has the accounts %q", b)
	}
}

// rights are a process's capabilities and filters, as /proc/PID/status has them.
func rights(t *testing.T, status string) map[string]uint64 {
	t.Helper()
	found := map[string]uint64{}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if !strings.HasPrefix(name, "Cap") && name != "Seccomp" {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = n
	}
	return found
}

// machines are the first processes of this process's machines.
func machines(t *testing.T) (pids []int) {
	t.Helper()
	for _, pid := range descendants(t, os.Getpid()) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.HasPrefix(string(b), "ingot-machine\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestRights: what root in a machine may do, and what the agent keeps besides.
func TestRights(t *testing.T) {
	var want uint64
	for _, c := range []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
		unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT, unix.CAP_MKNOD, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP,
	} {
		want |= 1 << c
	}
	var cfg Config
	m := start(t, func(c *Config) { cfg = *c })
	own := rights(t, readFile(t, "/proc/self/status"))
	got := rights(t, must(t, m, "cat /proc/self/status"))
	for name, n := range map[string]uint64{"CapEff": want, "CapPrm": want, "CapBnd": want, "CapInh": 0, "CapAmb": 0, "Seccomp": own["Seccomp"]} {
		if v, ok := got[name]; !ok || v != n {
			t.Errorf("%s of root in the machine is %x, want %x", name, v, n)
		}
	}
	pids := machines(t)
	if len(pids) != 1 {
		t.Fatalf("this process has the machines %v", pids)
	}
	if v := rights(t, readFile(t, fmt.Sprintf("/proc/%d/status", pids[0])))["CapEff"]; v&want != want || v&(1<<unix.CAP_SYS_ADMIN) == 0 {
		t.Errorf("the agent has the capabilities %x", v)
	}
	// Without limits in the template there are none. A file that is not there limits nothing.
	for _, dir := range cfg.Cgroup {
		for f, none := range map[string]string{
			"memory.max": "max", "pids.max": "max", "cpu.max": "max 100000",
			"memory.limit_in_bytes": "9223372036854771712", "cpu.cfs_quota_us": "-1",
		} {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err == nil && strings.TrimSpace(string(b)) != none {
				t.Errorf("%s/%s is %s", dir, f, b)
			}
		}
	}
}

// TestProgramIsSealed: what runs a machine is a copy in memory that nobody can
// change, not the program on the disk.
func TestProgramIsSealed(t *testing.T) {
	start(t, nil)
	pids := machines(t)
	if len(pids) != 1 {
		t.Fatalf("this process has the machines %v", pids)
	}
	exe := fmt.Sprintf("/proc/%d/exe", pids[0])
	if at, err := os.Readlink(exe); err != nil || at != "/memfd:ingot (deleted)" {
		t.Errorf("the machine's program is %q, %v", at, err)
	}
	f, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&all != all {
		t.Errorf("its seals are %x, %v; want %x", seals, err, all)
	}
}

// TestNothingListens: neither a machine nor what runs it waits for connections
// where somebody outside could make one.
func TestNothingListens(t *testing.T) {
	if _, err := exec.LookPath("perl"); err != nil {
		missing(t, "needs perl to serve from a machine")
	}
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go func() {
		for {
			c, err := host.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "host")
			c.Close()
		}
	}()
	at := host.Addr().String()
	for _, network := range []Network{NetworkUser, NetworkNone} {
		t.Run(string(network), func(t *testing.T) {
			m := start(t, func(c *Config) { c.Network = network })
			if out := must(t, m, "cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 /proc/net/unix | grep -v -e local_address -e RefCount || true"); out != "" {
				t.Errorf("the machine has sockets before anything was started in it:\n%s", out)
			}
			// At every address of the machine, on a port that is taken on the host.
			must(t, m, fmt.Sprintf(`perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(Listen=>5,LocalAddr=>"0.0.0.0",LocalPort=>%d) or die $!; exit if fork; close STDOUT; close STDERR; while($c=$s->accept){print $c "machine";close $c}'`, host.Addr().(*net.TCPAddr).Port))
			for who, dial := range map[string]func() (net.Conn, error){
				"host":    func() (net.Conn, error) { return net.Dial("tcp", at) },
				"machine": func() (net.Conn, error) { return m.Dial(t.Context(), "tcp", at) },
			} {
				c, err := dial()
				if err != nil {
					t.Errorf("%s: %v", who, err)
					continue
				}
				if b, err := io.ReadAll(c); err != nil || string(b) != who {
					t.Errorf("the %s answers as %q, %v", who, b, err)
				}
				c.Close()
			}
			if in, out := must(t, m, "readlink /proc/self/ns/net"), link(t, "/proc/self/ns/net"); in == out {
				t.Error("the machine is in the host's network")
			}
			listening, nameless := sockets(t)
			if len(listening) != 1 || nameless == 0 {
				t.Errorf("this process listens on %q, and has %d sockets without a name; want the test's own, and the control socket", listening, nameless)
			}
		})
	}
}

func link(t *testing.T, p string) string {
	t.Helper()
	to, err := os.Readlink(p)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// sockets are this process's own: those that somebody can connect to, or that
// have a name in the file system; and how many unix sockets have none.
func sockets(t *testing.T) (open []string, nameless int) {
	t.Helper()
	own := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		// The one of the directory itself is gone.
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		for line := range strings.Lines(readFile(t, "/proc/self/net/"+proto)) {
			// A UDP socket that is not connected is in state 07.
			if f := strings.Fields(line); len(f) > 9 && own[f[9]] && (f[3] == "0A" || f[3] == "07") {
				open = append(open, proto+" "+f[1])
			}
		}
	}
	for line := range strings.Lines(readFile(t, "/proc/self/net/unix")) {
		f := strings.Fields(line)
		switch {
		case len(f) < 7 || !own[f[6]]:
		case len(f) > 7 || f[3] != "00000000":
			open = append(open, "unix "+strings.Join(f[3:], " "))
		default:
			nameless++
		}
	}
	return open, nameless
}

func TestNetworks(t *testing.T) {
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "host") })}
	go func() { _ = srv.Serve(listener) }()
	t.Cleanup(func() { srv.Close() })
	port := listener.Addr().(*net.TCPAddr).Port

	t.Run("user", func(t *testing.T) {
		m := start(t, nil)
		addrs, _ := net.InterfaceAddrs()
		targets := []string{"127.0.0.1", "198.18.0.1", "0.0.0.0"}
		for _, a := range addrs {
			if p, ok := a.(*net.IPNet); ok && p.IP.To4() != nil && !p.IP.IsLoopback() {
				targets = append(targets, p.IP.String())
			}
		}
		for _, ip := range targets {
			if out, err := sh(t, m, fmt.Sprintf("timeout 2 bash -c 'exec 3<>/dev/tcp/%s/%d'", ip, port)); err == nil {
				t.Errorf("the machine reached a port of the host by %s: %s", ip, out)
			}
		}
		if out := must(t, m, "cat /etc/resolv.conf"); out != "nameserver 198.18.0.1" {
			t.Errorf("resolv.conf: %s", out)
		}
		neighbour := start(t, nil)
		if _, err := exec.LookPath("perl"); err != nil {
			missing(t, "needs perl to serve from a machine")
		}
		must(t, neighbour, `perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(Listen=>5,LocalAddr=>"0.0.0.0",LocalPort=>8080) or die; exit if fork; close STDOUT; close STDERR; while($c=$s->accept){print $c "hello\n";close $c}'`)
		at := must(t, neighbour, "hostname -I | cut -d ' ' -f 1")
		connect := fmt.Sprintf("timeout 2 bash -c 'exec 3<>/dev/tcp/%s/8080'", at)
		must(t, neighbour, connect)
		if out, err := sh(t, m, connect); err == nil {
			t.Errorf("the machine reached its neighbour at %s: %s", at, out)
		}
	})
	t.Run("none", func(t *testing.T) {
		m := start(t, func(c *Config) { c.Network = NetworkNone })
		if out := must(t, m, "ls /sys/class/net"); out != "lo" {
			t.Errorf("network devices: %s", out)
		}
	})
	t.Run("host", func(t *testing.T) {
		m := start(t, func(c *Config) { c.Network = NetworkHost })
		must(t, m, fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d'", port))
		if _, err := exec.LookPath("perl"); err != nil {
			missing(t, "needs perl to serve from a machine")
		}
		own := must(t, m, `perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(Listen=>5,LocalAddr=>"127.0.0.1") or die $!; $|=1; print $s->sockport; exit if fork; close STDOUT; close STDERR; while($c=$s->accept){close $c}'`)
		c, err := net.Dial("tcp", "127.0.0.1:"+own)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
}

// missing skips, but CI has to have everything.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func TestDial(t *testing.T) {
	m := start(t, func(c *Config) { c.Network = NetworkNone })
	exe, err := exec.LookPath("perl")
	if err != nil {
		missing(t, "needs perl to serve from the machine")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, w := io.Pipe()
	go func() {
		_ = m.Exec(ctx, Program{Argv: []string{exe, "-MIO::Socket::INET", "-e",
			`$s=IO::Socket::INET->new(Listen=>5,LocalAddr=>"127.0.0.1",LocalPort=>80,ReuseAddr=>1) or die; $|=1; print "up\n"; while($c=$s->accept){print $c "hello\n";close $c}`}},
			machine.Command{Stdout: w})
		w.Close()
	}()
	if _, err := io.ReadFull(ready, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, ready) }()
	c, err := m.Dial(t.Context(), "tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil || string(b) != "hello\n" {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := m.Dial(t.Context(), "tcp", "127.0.0.1:81"); err == nil || errors.Is(err, machine.ErrCannotDial) {
		t.Errorf("a port that nobody listens on: %v", err)
	}
	if got := m.Address(); got != "" {
		t.Errorf("the address is %q", got)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.DialContext(t.Context(), "tcp", "127.0.0.1:80"); !errors.Is(err, machine.ErrCannotDial) {
		t.Errorf("a machine that has ended: %v", err)
	}
}

func TestLimits(t *testing.T) {
	plan, err := PlanCgroup("x")
	if err != nil || len(plan) == 0 {
		missing(t, fmt.Sprintf("no cgroups for this user: %v", err))
	}
	m := start(t, func(c *Config) { c.Memory, c.PIDs, c.CPUs = 128<<20, 64, 1 })
	if out, err := sh(t, m, "perl -e '$x = \"a\" x 400_000_000; print length $x'"); err == nil {
		t.Errorf("a command took 400 MB where 128 are allowed: %s", out)
	}
	must(t, m, "true") // the agent has survived
	if out, err := sh(t, m, "for i in $(seq 200); do sleep 5 & done; wait"); err == nil {
		t.Errorf("200 processes ran where 64 are allowed: %s", out)
	}
	// Those that did start end in five seconds, and the agent has survived.
	for over := time.Now().Add(time.Minute); ; {
		out, err := sh(t, m, "true")
		if err == nil {
			break
		}
		if !strings.Contains(fmt.Sprint(out, err), "temporarily unavailable") || time.Now().After(over) {
			t.Fatalf("%s: %v", out, err)
		}
	}
}

func TestOutputOfDaemons(t *testing.T) {
	m := start(t, nil)
	at := time.Now()
	if out := must(t, m, "sleep 60 & seq 20000 | tail -n 1; echo done"); out != "20000\ndone" {
		t.Errorf("output: %q", out)
	}
	if d := time.Since(at); d > 30*time.Second {
		t.Errorf("a background process held the command up for %s", d)
	}
	// What was written before the end is all there, however slow the reader.
	n := 0
	err := m.Run(t.Context(), machine.Command{Line: "sleep 60 & head -c 60000 /dev/zero", Stdout: writer(func(p []byte) { n += len(p); time.Sleep(time.Millisecond) })})
	if err != nil || n != 60000 {
		t.Errorf("%d bytes of 60000, %v", n, err)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// The engine dies: so does the machine, at once and without help.
func TestMachineDiesWithItsEngine(t *testing.T) {
	if os.Getenv("INGOT_TEST_ENGINE") != "" {
		m := start(t, nil)
		fmt.Println("pid", must(t, m, "echo up"))
		select {}
	}
	sandboxtest.Need(t)
	diesWithItsEngine(t, exec.Command(os.Args[0], "-test.run=^TestMachineDiesWithItsEngine$"))
}

// diesWithItsEngine starts a process that starts a machine, and kills it.
func diesWithItsEngine(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(os.Environ(), "INGOT_TEST_ENGINE=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const up = "pid up\n"
	said := make([]byte, len(up))
	if _, err := io.ReadFull(out, said); err != nil || string(said) != up {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("the engine says %q, %v", said, err)
	}
	children := descendants(t, cmd.Process.Pid)
	if len(children) == 0 {
		t.Fatal("the engine has no machine")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	deadline := time.Now().Add(time.Minute)
	for _, pid := range children {
		for {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || strings.Contains(string(b), ") Z ") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("process %d of the machine runs on: %s", pid, b)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func descendants(t *testing.T, pid int) (all []int) {
	t.Helper()
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		c, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		b = append(b, c...)
	}
	seen := map[int]bool{}
	for _, f := range strings.Fields(string(b)) {
		var n int
		if _, err := fmt.Sscan(f, &n); err == nil && !seen[n] {
			seen[n] = true
			all = append(append(all, n), descendants(t, n)...)
		}
	}
	return all
}

func TestIdentityStaysOutOfTheImage(t *testing.T) {
	lower := t.TempDir()
	for p, content := range map[string]string{"etc/hostname": "original\n", "etc/machine-id": "0123456789abcdef0123456789abcdef\n", "bin/.keep": ""} {
		if err := os.MkdirAll(filepath.Join(lower, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(lower, p), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(lower, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	var cfg Config
	m := start(t, func(c *Config) { c.Layers = []string{lower}; cfg = *c })
	if err := m.Put(t.Context(), "/etc", machine.BytesTree("added", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := m.Put(t.Context(), "/var/lib/dbus", machine.BytesTree("machine-id", []byte("x"), 0o444)); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := Restore(cfg.Dir, cfg.Layers, m.MountPoints()); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := filepath.WalkDir(filepath.Join(cfg.Dir, "upper"), func(p string, _ os.DirEntry, err error) error {
		rel, _ := filepath.Rel(filepath.Join(cfg.Dir, "upper"), p)
		left = append(left, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(left, " "), ". etc etc/added etc/machine-id var var/lib var/lib/dbus"; got != want {
		t.Errorf("the image's layer has %q, want %q", got, want)
	}
	if b := readFile(t, filepath.Join(cfg.Dir, "upper/etc/machine-id")); b != "" {
		t.Errorf("machine-id is %q, want it empty", b)
	}
}

// A machine whose /etc leads to the host's must not reach it, or the image
// would be made at the host's cost.
func TestRestoreStaysInTheLayer(t *testing.T) {
	victim, dir := t.TempDir(), t.TempDir()
	for _, f := range []string{"hosts", "hostname", "resolv.conf", "machine-id"} {
		if err := os.WriteFile(filepath.Join(victim, f), []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "upper"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "upper/etc")); err != nil {
		t.Fatal(err)
	}
	if err := Restore(dir, []string{t.TempDir()}, nil); err == nil || !strings.Contains(err.Error(), "/etc/") {
		t.Errorf("a layer whose /etc leads out of it: %v", err)
	}
	for _, f := range []string{"hosts", "hostname", "resolv.conf", "machine-id"} {
		if b := readFile(t, filepath.Join(victim, f)); b != "precious" {
			t.Errorf("the host's %s is %q", f, b)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	_, err := Start(t.Context(), Config{ID: "none", Dir: t.TempDir(), Layers: []string{"/nonexistent/base"}})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/base") {
		t.Errorf("a base that is not there: %v", err)
	}
	m := start(t, nil)
	if _, err := sh(t, m, "exit 7"); err == nil || err.Error() != "exit status 7" {
		t.Errorf("exit 7: %v", err)
	}
	if err := m.Exec(t.Context(), Program{Argv: []string{"no-such-program"}}, machine.Command{}); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a program that is not there: %v", err)
	}
	if err := m.Exec(t.Context(), Program{Argv: []string{"true"}, User: "no-such-user"}, machine.Command{}); err == nil || !strings.Contains(err.Error(), "no-such-user") {
		t.Errorf("a user that is not there: %v", err)
	}
	var out bytes.Buffer
	if err := m.Exec(t.Context(), Program{Argv: []string{"id", "-un"}, User: "nobody"}, machine.Command{Stdout: &out}); err != nil || out.String() != "nobody\n" {
		t.Errorf("as nobody: %q, %v", out.String(), err)
	}
}
