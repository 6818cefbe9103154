//go:build linux

package chroot_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/chroot"
	"github.com/ingotbuild/ingot/machine/machinetest"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// system are the mounts of a usual system.
var system = []chroot.Mount{
	{Type: "proc", Source: "proc", Target: "/proc"}, {Type: "sysfs", Source: "sysfs", Target: "/sys"},
	{Type: "bind", Source: "/dev", Target: "/dev"}, {Type: "devpts", Source: "devpts", Target: "/dev/pts"},
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 || sandbox.InUserNamespace() {
		sandboxtest.Missing(t, "needs root")
	}
	sandboxtest.Need(t)
}

func open(t *testing.T, root string, mounts ...chroot.Mount) chroot.Machine {
	t.Helper()
	m, err := chroot.Open(t.Context(), chroot.Config{Root: root, Mounts: mounts})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

func run(t *testing.T, m machine.Machine, line string) string {
	t.Helper()
	var out bytes.Buffer
	if err := m.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("run %s: %v\n%s", line, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

func TestMachine(t *testing.T) {
	needRoot(t)
	root := sandboxtest.Busybox(t)
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	machinetest.Run(t, func() machine.Machine { return open(t, root, system...) })
}

// As for a caller who is not root, the first process is started by another program.
func TestWrapped(t *testing.T) {
	needRoot(t)
	wrap := func(line string) (string, error) { return "env -i " + line + " 7>/dev/null", nil }
	root := sandboxtest.Busybox(t)
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	machinetest.Options{Variant: true}.Run(t, func() machine.Machine {
		m, err := chroot.Open(t.Context(), chroot.Config{Root: root, Mounts: system, Wrap: wrap})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return m
	})
	for _, bad := range []string{"exit 3; ", "echo no >&2; false "} {
		_, err := chroot.Open(t.Context(), chroot.Config{Root: root, Wrap: func(line string) (string, error) { return bad + line, nil }})
		if err == nil || strings.HasPrefix(bad, "echo") && !strings.Contains(err.Error(), "no") {
			t.Errorf("with %q: error %v", bad, err)
		}
	}
}

// A daemon that a provisioner has left, and what it has mounted, do not keep the
// file system busy.
func TestNothingKeepsTheTreeBusy(t *testing.T) {
	needRoot(t)
	at := t.TempDir()
	if err := unix.Mount("tree", at, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if out, err := exec.Command("cp", "-a", sandboxtest.Busybox(t)+"/.", at).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := open(t, at, system...)
	run(t, m, "mkdir -p /mnt && mount -t tmpfs none /mnt && (setsid sh -c 'trap \"\" TERM HUP; cd /mnt; while :; do sleep 1; done' >/dev/null 2>&1 &)")
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), at+"/") {
		t.Errorf("the host sees the machine's mounts (%v)", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Errorf("unmount: %v", err)
	}
}

// Links in the tree lead nowhere but into the tree.
func TestLinksStayInside(t *testing.T) {
	needRoot(t)
	outside, root := t.TempDir(), sandboxtest.Busybox(t)
	sandboxtest.Write(t, outside, "secret", "of the host", 0o644)
	up := strings.Repeat("../", 20)
	for name, to := range map[string]string{"abs": outside, "up": up + outside[1:], "leak": outside + "/secret"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	// The mount point is a link that leads out, too: in the tree it is this one.
	if err := os.MkdirAll(filepath.Join(root, outside), 0o755); err != nil {
		t.Fatal(err)
	}
	m := open(t, root, chroot.Mount{Type: "tmpfs", Source: "none", Target: "/abs/there"}, chroot.Mount{Type: "proc", Source: "proc", Target: "/proc"})
	if got := run(t, m, "grep -c ' "+outside+"/there ' /proc/self/mounts"); got != "1" {
		t.Errorf("the tmpfs is not where the link leads in the tree: %s", got)
	}
	for _, dst := range []string{"/abs", "/up"} {
		if err := m.Put(t.Context(), dst, machine.BytesTree("put", []byte("x"), 0o644)); err != nil {
			t.Logf("put to %s: %v", dst, err) // refused, or inside
		}
	}
	for _, src := range []string{"/leak", "/abs/secret", "/up/secret", "/proc/1/root" + outside + "/secret"} {
		got := filepath.Join(t.TempDir(), "got")
		if err := m.Get(t.Context(), src, machine.FileSink(got)); err == nil {
			t.Errorf("%s gave a file of the host", src)
		}
	}
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 1 {
		t.Errorf("outside there are now %v (%v)", left, err)
	}
}

func TestRightsAndNamespaces(t *testing.T) {
	needRoot(t)
	root := sandboxtest.Busybox(t)
	m := open(t, root, system...)
	if got := run(t, m, "mkdir -p /mnt && mount -t tmpfs none /mnt && umount /mnt && mknod /node c 1 3 && rm /node && echo yes"); got != "yes" {
		t.Errorf("root in the tree may not do what root does: %q", got)
	}
	if got := run(t, m, "readlink /proc/1/exe | grep -c memfd; hostname inside; hostname"); !strings.HasSuffix(got, "inside") {
		t.Errorf("got %q", got)
	}
	if name, err := os.Hostname(); err != nil || name == "inside" {
		t.Errorf("the host's name is %q (%v)", name, err)
	}
	if p := m.Platform(); p.OS != "linux" || p.Shell != "sh" {
		t.Errorf("platform %+v", p)
	}
}

func TestOpenRefuses(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "file")
	sandboxtest.Write(t, filepath.Dir(file), "file", "", 0o644)
	for _, root := range []string{"/", file, file + "-missing"} {
		if m, err := chroot.Open(t.Context(), chroot.Config{Root: root}); err == nil {
			_ = m.Stop(t.Context())
			t.Errorf("%s became a machine", root)
		}
	}
	_, err := chroot.Open(t.Context(), chroot.Config{Root: t.TempDir(), Mounts: []chroot.Mount{{Type: "nofs", Source: "none", Target: "/x"}}})
	if err == nil || !strings.Contains(err.Error(), "nofs") {
		t.Errorf("error %v does not name the file system that cannot be mounted", err)
	}
	m := open(t, sandboxtest.Busybox(t), chroot.Mount{Type: "nofs", Source: "none", Target: "/x", Optional: true})
	run(t, m, "true")
}
