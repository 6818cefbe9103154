//go:build linux

package machines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

func TestMain(m *testing.M) {
	Reexec(nil)
	if dir := os.Getenv(asVictim); dir != "" {
		victim(dir)
	}
	os.Exit(m.Run())
}

func multipartOf(parts ...string) []byte {
	var b strings.Builder
	b.WriteString("Content-Type: multipart/mixed; boundary=\"here\"\nMIME-Version: 1.0\n\n")
	for _, p := range parts {
		kind, text, _ := strings.Cut(p, "|")
		fmt.Fprintf(&b, "--here\nContent-Type: %s; charset=\"utf-8\"\nMIME-Version: 1.0\n\n%s\n", kind, text)
	}
	b.WriteString("--here--\n")
	return []byte(b.String())
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ")
}

// A bake by hand: the image of a machine boots as another one.
func TestImage(t *testing.T) {
	needSSH(t)
	need(t, "sudo", "sudo")
	h := newHost(t)
	client, _, pub := newKey(t)
	host, private, hostPub := newKey(t)
	data := multipartOf(
		"text/cloud-config|#cloud-config\nssh_keys:\n  ed25519_private: |\n"+indent(private)+"\n  ed25519_public: "+hostPub+
			"\nwrite_files:\n- path: /etc/from-write-files\n  content: written\n  permissions: '0600'\n  owner: admin:admin\n",
		"text/cloud-config|#cloud-config\nruncmd:\n- echo first >/etc/from-runcmd\n- [sh, -c, 'echo \"$0\" >/etc/from-list', 'two words']\n",
		"text/x-shellscript|#!/bin/sh\necho first >/etc/from-script\n")
	root := volume(t, h, h.HostContent(), 0)
	m := boot(t, h, Config{ID: "i-first", Hostname: "first", Root: root, User: "admin", Keys: []string{pub}, UserData: data})
	l := login{addr: serve(t, h, m, nil, 22), user: "admin", auth: ssh.PublicKeys(client), hostKey: host.PublicKey()}
	out, err := l.run(t, "hostname; stat -c '%a %U' /etc/from-write-files; sudo -n id -u; sudo -n sh -c 'echo baked >/etc/baked'; cloud-init status --wait")
	if want := "first\n600 admin\n0\nstatus: done"; err != nil || out != want {
		t.Errorf("over SSH: %q, %v, want %q", out, err, want)
	}
	block := regexp.MustCompile(`(?s)-----BEGIN SSH HOST KEY KEYS-----\n(.*)\n-----END SSH HOST KEY KEYS-----`).FindSubmatch(m.Console())
	if block == nil || string(block[1]) != hostPub || !bytes.Contains(m.Console(), []byte(ssh.FingerprintSHA256(host.PublicKey()))) {
		t.Errorf("the console does not show the host key:\n%s", m.Console())
	}
	as := l
	as.user = "root"
	if out := as.hint(t); !strings.Contains(out, `Please login as the user "admin"`) {
		t.Errorf("root's login: %q", out)
	}

	// A copy of the running machine, and one of the stopped machine.
	early := content(t, root)
	must(t, m, "echo late >/etc/late")
	stop(t, m)
	image := content(t, root)
	if _, err := l.dial(); err == nil {
		t.Error("a stopped machine lets us in")
	}
	reads(t, early, "/etc/baked", "baked")
	reads(t, early, "/etc/late", "")
	for name, want := range map[string]string{
		"etc/baked": "baked", "etc/late": "late", "etc/from-write-files": "written", "etc/from-runcmd": "first", "etc/from-list": "two words",
		"etc/from-script": "first", "var/lib/cloud/data/instance-id": "i-first", "home/admin/.ssh/authorized_keys": pub,
		"usr/local/sbin/shutdown": "", "usr/local/bin/cloud-init": "", "run/initctl": "", "etc/machine-id": "",
	} {
		reads(t, image, name, want)
	}

	// The machine goes on, and what it does is not in the image.
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := l.run(t, "cat /etc/late; sudo sh -c 'echo changed >/etc/late'"); err != nil || out != "late" {
		t.Errorf("started again: %q, %v", out, err)
	}
	if b := bytes.Count(m.Console(), []byte("Cloud-init v. 22.4.2 running")); b != 2 {
		t.Errorf("%d boots on the console", b)
	}
	second := volume(t, h, image, 0)
	if err := image.Remove(); err != nil {
		t.Fatal(err)
	}
	client2, _, pub2 := newKey(t)
	m2 := boot(t, h, Config{ID: "i-second", Root: second, User: "admin", Keys: []string{pub2}, UserData: []byte("#!/bin/sh\necho second >/etc/from-runcmd\n")})
	l2 := login{addr: serve(t, h, m2, nil, 22), user: "admin", auth: ssh.PublicKeys(client2)}
	out, err = l2.run(t, "hostname; cat /etc/baked /etc/late /etc/from-runcmd; ls /etc/ssh/ssh_host_*_key")
	if want := "i-second\nbaked\nlate\nsecond\n/etc/ssh/ssh_host_ecdsa_key\n/etc/ssh/ssh_host_ed25519_key"; err != nil || out != want {
		t.Errorf("the second machine: %q, %v, want %q", out, err, want)
	}
	l2.hostKey = host.PublicKey()
	if _, err := l2.dial(); err == nil {
		t.Error("the second machine has the first one's host key")
	}
	if c, err := image.ReadFile("/etc/baked"); err == nil {
		t.Errorf("a removed content reads %q", c)
	}
}

// Passwords are for those who ask for them.
func TestPassword(t *testing.T) {
	needSSH(t)
	h := newHost(t)
	try := func(id, data string) error {
		m := boot(t, h, Config{ID: id, Root: volume(t, h, h.HostContent(), 0), User: "ubuntu", UserData: []byte(data)})
		l := login{addr: serve(t, h, m, nil, 22), user: "ubuntu", auth: ssh.Password("open sesame")}
		_, err := l.run(t, "true")
		return err
	}
	if err := try("i-no", "#cloud-config\npassword: open sesame\n"); err == nil {
		t.Error("a password opens a machine that wants keys")
	}
	if err := try("i-yes", "#cloud-config\npassword: open sesame\nchpasswd: {expire: false}\nssh_pwauth: true\n"); err != nil {
		t.Errorf("the password of the user data: %v", err)
	}
}

func TestRootIsDefault(t *testing.T) {
	needSSH(t)
	h := newHost(t)
	client, _, pub := newKey(t)
	m := boot(t, h, Config{ID: "d-1", Root: volume(t, h, h.HostContent(), 0), Keys: []string{pub},
		UserData: []byte("#cloud-config\nusers:\n- default\n- {name: deploy, groups: 'sudo', shell: /bin/sh, ssh_authorized_keys: ['" + pub + "']}\nssh_genkeytypes: [rsa]\n")})
	l := login{addr: serve(t, h, m, nil, 22), user: "root", auth: ssh.PublicKeys(client)}
	if out, err := l.run(t, "id -u; echo $HOME; ls /etc/ssh/ssh_host_*_key"); err != nil || out != "0\n/root\n/etc/ssh/ssh_host_rsa_key" {
		t.Errorf("root: %q, %v", out, err)
	}
	l.user = "deploy"
	if out, err := l.run(t, "id -un; pwd"); err != nil || out != "deploy\n/home/deploy" {
		t.Errorf("deploy: %q, %v", out, err)
	}
}

func TestAdmit(t *testing.T) {
	needSSH(t)
	h := newHost(t)
	client, _, pub := newKey(t)
	m := boot(t, h, Config{ID: "i-1", Root: volume(t, h, h.HostContent(), 0), Keys: []string{pub}})
	var open atomic.Bool
	var from, port atomic.Value
	a := serve(t, h, m, func(f netip.Addr, p int) bool {
		from.Store(f)
		port.Store(p)
		return open.Load()
	}, 22, 8080)
	l := login{addr: a, user: "root", auth: ssh.PublicKeys(client)}
	if _, err := l.dial(); err == nil {
		t.Error("who is not admitted gets in")
	}
	if f := from.Load().(netip.Addr); !f.IsLoopback() || port.Load() != 22 {
		t.Errorf("admit was asked for %v, port %v", f, port.Load())
	}
	open.Store(true)
	if _, err := l.run(t, "true"); err != nil {
		t.Error(err)
	}
	// Nobody listens on the other port.
	c, err := net.Dial("tcp", netip.AddrPortFrom(a, 8080).String())
	if err == nil {
		_, err = io.ReadAll(c)
		c.Close()
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a port where nobody listens: %v", err)
	}
}

// However a machine is told to switch itself off, the cloud hears of it.
func TestPoweroff(t *testing.T) {
	needSSH(t)
	need(t, "sudo", "sudo")
	h := newHost(t)
	client, _, pub := newKey(t)
	off := make(chan struct{}, 10)
	root := volume(t, h, h.HostContent(), 0)
	m := boot(t, h, Config{ID: "i-1", Root: root, User: "admin", Keys: []string{pub}, Poweroff: func() { off <- struct{}{} }})
	l := login{addr: serve(t, h, m, nil, 22), user: "admin", auth: ssh.PublicKeys(client)}
	lines := []string{"sudo shutdown -h now", "sudo /sbin/shutdown -P +0", "sudo poweroff", "sudo /usr/sbin/halt -p", "sudo systemctl poweroff"}
	if _, err := os.Stat("/usr/bin/systemctl"); err == nil {
		lines = append(lines, "sudo sh -c 'ln -s /usr/bin/systemctl /run/poweroff; /run/poweroff'") // systemd's own, as an image may bring it along
	}
	for _, line := range lines {
		if out, err := l.run(t, line); err != nil {
			var missing *ssh.ExitMissingError // cut off before it could answer
			if !errors.As(err, &missing) && !errors.Is(err, io.EOF) {
				var exit *ssh.ExitError
				if !errors.As(err, &exit) || exit.Signal() == "" {
					t.Errorf("%s: %v: %s", line, err, out)
				}
			}
		}
		hear(t, line, off)
		if m.Running() {
			t.Errorf("after %s it runs on", line)
		}
		if _, err := m.Dial(t.Context(), 22); !errors.Is(err, errStopped) {
			t.Errorf("after %s it answers: %v", line, err)
		}
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Not these.
	out, err := l.run(t, "/usr/local/sbin/shutdown -h now && echo went down; sudo shutdown -h +1 && sudo cat /run/shutdown.pid | grep -q . && sudo shutdown -c && sudo shutdown -k now; sudo shutdown -h tomorrow || echo no")
	if err != nil || !strings.HasPrefix(out, "shutdown: only root may do that\nThe machine goes down in 1 minutes") || !strings.HasSuffix(out, "no") {
		t.Errorf("%q, %v", out, err)
	}
	// Started again, its disk is the same one.
	must(t, m, "echo kept >/etc/kept; echo x >/run/gone")
	before := m.running()
	_, _ = l.run(t, "sudo reboot")
	eventually(t, "it starts again", func() bool { r := m.running(); return r != nil && r != before })
	eventually(t, "it answers again", func() bool { _, err := l.run(t, "true"); return err == nil })
	if out := must(t, m, "cat /etc/kept; ls /run/gone 2>&1 || true"); !strings.HasPrefix(out, "kept\n") || !strings.Contains(out, "cannot access") {
		t.Errorf("after a reboot: %q", out)
	}
	// Stop is no end by itself.
	stop(t, m)
	stop(t, m)
	select {
	case <-off:
		t.Error("Poweroff was called once more")
	default:
	}
}

func TestBootRefuses(t *testing.T) {
	h := newHost(t)
	tree := h.TreeContent(sandboxtest.Busybox(t))
	root := volume(t, h, tree, 0)
	for want, cfg := range map[string]Config{
		"no SSH server":          {ID: "i-1", Root: root},
		"needs an id":            {Root: root},
		"cannot make the user":   {ID: "i-1", Root: root, User: "a b", NoSSH: true},
		"no such file":           {ID: "i-1", Root: volume(t, h, h.RawContent("/nonexistent"), 1<<20), NoSSH: true},
		"the disk is blank":      {ID: "i-1", Root: volume(t, h, nil, 1<<20), NoSSH: true},
		"want a name":            {ID: "i-1", Root: root, Disks: map[string]*Volume{"/dev/../x": root}, NoSSH: true},
		"in use by machine i-1":  {ID: "i-1", Root: root, Disks: map[string]*Volume{"/dev/xvdf": root}, NoSSH: true},
		"neither an ext4 file s": {ID: "i-1", Root: rawVolume(t, h), NoSSH: true},
	} {
		if _, err := h.Boot(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// All that was refused has left the disk as it was.
	m := boot(t, h, Config{ID: "i-1", Root: root, NoSSH: true})
	if err := root.Remove(); err == nil || !strings.Contains(err.Error(), "in use by machine i-1") {
		t.Errorf("a disk in use is removed: %v", err)
	}
	if _, err := root.AttachHere(); err == nil {
		t.Error("a disk in use is attached")
	}
	stop(t, m)
	if err := root.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := root.Content(); err == nil {
		t.Error("a removed disk has content")
	}
}

// rawVolume is a disk with nothing that boots on it.
func rawVolume(t *testing.T, h *Host) *Volume {
	v := volume(t, h, nil, 1<<20)
	content(t, v)
	return v
}

// Busybox: no bash, no useradd, no sudo, no systemd.
func TestSmallSystem(t *testing.T) {
	h := newHost(t)
	root := volume(t, h, h.TreeContent(sandboxtest.Busybox(t)), 0)
	off := make(chan struct{}, 1)
	m := boot(t, h, Config{ID: "i-1", Root: root, User: "ec2-user", Keys: []string{"ssh-ed25519 AAAA test"}, NoSSH: true, Poweroff: func() { off <- struct{}{} },
		UserData: []byte("#cloud-config\nwrite_files:\n- {path: /home/ec2-user/x, content: x, owner: ec2-user}\nbootcmd:\n- echo boot >>/etc/boots\n")})
	if out := must(t, m, "stat -c %U /home/ec2-user/x; id -u ec2-user; cat /home/ec2-user/.ssh/authorized_keys"); out != "ec2-user\n1000\nssh-ed25519 AAAA test" {
		t.Errorf("%q", out)
	}
	stop(t, m)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// This shell takes its own for a command without a path. It may be cut off before it can answer.
	if err := m.Run(t.Context(), machine.Command{Line: "/usr/local/sbin/poweroff"}); err != nil && !strings.Contains(err.Error(), "went away") {
		t.Error(err)
	}
	hear(t, "poweroff", off)
	c := content(t, root)
	reads(t, c, "etc/boots", "boot\nboot")
	reads(t, c, "usr/local/sbin/poweroff", "")
	// What had to be made for the running machine is gone.
	for _, d := range []string{"proc", "dev", "run", "sys"} {
		if c.s.hasDir(d) {
			t.Errorf("/%s has stayed in the image", d)
		}
	}
}

func TestAddresses(t *testing.T) {
	h := newHost(t)
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a, err := h.Address()
			mu.Lock()
			defer mu.Unlock()
			if err != nil || !a.IsLoopback() || seen[a] {
				t.Errorf("%v, %v", a, err)
			}
			seen[a] = true
		})
	}
	wg.Wait()
}
