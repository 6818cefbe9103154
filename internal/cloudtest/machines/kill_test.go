//go:build linux

package machines

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

const asVictim = "INGOT_TEST_MACHINES_VICTIM"

// victim is a process that has machines and is killed.
func victim(dir string) {
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	h, err := New(filepath.Join(dir, "host"))
	if err != nil {
		fail(err)
	}
	tree := h.TreeContent(filepath.Join(dir, "tree"))
	root, err := h.NewVolume(tree, 64<<20)
	if err != nil {
		fail(err)
	}
	disk, err := h.NewVolume(nil, 16<<20)
	if err != nil {
		fail(err)
	}
	m, err := h.Boot(context.Background(), Config{ID: "i-1", Root: root, Disks: map[string]*Volume{"/dev/xvdf": disk}, NoSSH: true})
	if err != nil {
		fail(err)
	}
	other, err := h.NewVolume(tree, 64<<20)
	if err != nil {
		fail(err)
	}
	if _, err := other.AttachHere(); err != nil {
		fail(err)
	}
	a, err := h.Address()
	if err != nil {
		fail(err)
	}
	if _, err := m.Serve(a, []int{8080}, nil); err != nil {
		fail(err)
	}
	fmt.Println("up", a)
	select {}
}

// A killed process leaves files and nothing else.
func TestKill(t *testing.T) {
	sandboxtest.Need(t)
	needLoop(t)
	dir := t.TempDir()
	if err := os.Rename(sandboxtest.Busybox(t), filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asVictim+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "up ")
	if err != nil || !ok {
		_ = cmd.Process.Kill()
		t.Fatalf("%q, %v", line, err)
	}
	if n := len(devices(t, dir)); n != 2 {
		t.Errorf("there are %d devices, want 2", n)
	}
	kids := children(t, cmd.Process.Pid)
	if len(kids) == 0 {
		t.Error("the machine has no process")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the devices are gone", func() bool { return len(devices(t, dir)) == 0 })
	eventually(t, "the machines are gone", func() bool {
		for _, pid := range kids {
			if unix.Kill(pid, 0) == nil {
				return false
			}
		}
		return true
	})
	if c, err := net.Dial("tcp", addr+":8080"); err == nil {
		c.Close()
		t.Error("somebody listens still")
	}
	if mounts := readFile(t, "/proc/self/mountinfo"); strings.Contains(mounts, dir) {
		t.Errorf("a mount is left:\n%s", mounts)
	}
}

// children are the processes that a process has started.
func children(t testing.TB, pid int) (out []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that has ended
		}
		for _, p := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(p)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n)
		}
	}
	return out
}

func readFile(t testing.TB, p string) string {
	t.Helper()
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Close leaves nothing of what a Host has had.
func TestClose(t *testing.T) {
	needLoop(t)
	h := newHost(t)
	dir := h.dir
	kids := children(t, os.Getpid())
	tree := h.TreeContent(sandboxtest.Busybox(t))
	m := boot(t, h, Config{ID: "i-1", Root: volume(t, h, tree, 64<<20), Disks: map[string]*Volume{"/dev/xvdf": volume(t, h, nil, 16<<20)}, NoSSH: true})
	a := serve(t, h, m, nil, 8080)
	attached := volume(t, h, tree, 64<<20)
	if _, err := attached.AttachHere(); err != nil {
		t.Fatal(err)
	}
	if len(devices(t, dir)) != 2 || len(children(t, os.Getpid())) <= len(kids) {
		t.Error("there is nothing to take away")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the devices are gone", func() bool { return len(devices(t, dir)) == 0 })
	// Other tests and programs of this host mount and unmount, too.
	if mounts := readFile(t, "/proc/self/mountinfo"); strings.Contains(mounts, dir) {
		t.Errorf("a mount is left:\n%s", mounts)
	}
	if now := children(t, os.Getpid()); len(now) != len(kids) {
		t.Errorf("processes were %v and are %v", kids, now)
	}
	for _, port := range []string{"8080", "9"} {
		if l, err := net.Listen("tcp", net.JoinHostPort(a.String(), port)); err != nil {
			t.Errorf("port %s is taken still: %v", port, err)
		} else {
			l.Close()
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/ingot-i-1")
	if err != nil || len(cgroups) > 0 {
		t.Errorf("cgroups are left: %v, %v", cgroups, err)
	}
	if _, err := h.NewVolume(tree, 0); err == nil {
		t.Error("a closed host makes volumes")
	}
	if err := h.Close(); err != nil {
		t.Errorf("close once more: %v", err)
	}
}
