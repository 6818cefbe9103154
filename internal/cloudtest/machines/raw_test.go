//go:build linux

package machines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// mounted mounts a device for as long as f takes.
func mounted(t *testing.T, dev string, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Fatalf("mount %s: %v", dev, err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	f(dir)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The way of amazon-chroot: a snapshot's disk is attached to this host, mounted,
// written to, and imaged.
func TestAttachHere(t *testing.T) {
	needLoop(t)
	h := newHost(t)
	tree := h.TreeContent(sandboxtest.Busybox(t))
	// A disk that a machine has run on before.
	v := volume(t, h, tree, 64<<20)
	m := boot(t, h, Config{ID: "i-1", Root: v, NoSSH: true})
	must(t, m, "echo machine >/etc/machine; rm /bin/false; chmod 4755 /bin/busybox")
	stop(t, m)
	dev, err := v.AttachHere()
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dev); err != nil || fi.Mode()&os.ModeDevice == 0 {
		t.Fatalf("%s: %v, %v", dev, fi, err)
	}
	var during *Content
	mounted(t, dev, func(dir string) {
		if b := readFile(t, filepath.Join(dir, "etc/machine")); b != "machine\n" {
			t.Errorf("the machine's file has %q", b)
		}
		if _, err := os.Lstat(filepath.Join(dir, "bin/false")); !os.IsNotExist(err) {
			t.Errorf("a removed file: %v", err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "usr/local/sbin/shutdown")); !os.IsNotExist(err) {
			t.Errorf("a command of the emulation: %v", err)
		}
		fi, err := os.Stat(dir)
		if st := fi.Sys(); err != nil || st == nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "etc/chroot"), "written\n")
		if err := v.DetachHere(); err == nil || !strings.Contains(err.Error(), "still mounted") {
			t.Errorf("a mounted disk is detached: %v", err)
		}
		if err := v.Remove(); err == nil {
			t.Error("an attached disk is removed")
		}
		during = content(t, v)
		write(t, filepath.Join(dir, "etc/later"), "written\n")
	})
	if err := v.DetachHere(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device is gone", func() bool { return len(devices(t, h.dir)) == 0 })
	after := content(t, v)
	// It can be written to again, and that changes no content.
	if dev, err = v.AttachHere(); err != nil {
		t.Fatal(err)
	}
	mounted(t, dev, func(dir string) { write(t, filepath.Join(dir, "etc/later"), "changed\n") })
	if err := v.DetachHere(); err != nil {
		t.Fatal(err)
	}
	reads(t, during, "/etc/chroot", "written")
	reads(t, during, "/etc/later", "")
	reads(t, after, "/etc/later", "written")
	reads(t, after, "/bin/false", "")
	if err := v.Remove(); err != nil {
		t.Fatal(err)
	}

	// A machine boots from the image, and one from what that becomes.
	v2 := volume(t, h, after, 0)
	m2 := boot(t, h, Config{ID: "i-2", Root: v2, NoSSH: true})
	if out := must(t, m2, "cat /etc/machine /etc/chroot /etc/later; echo second >/etc/second"); out != "machine\nwritten\nwritten" {
		t.Errorf("%q", out)
	}
	stop(t, m2)
	image := content(t, v2)
	if err := v2.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := after.Remove(); err != nil {
		t.Fatal(err)
	}
	m3 := boot(t, h, Config{ID: "i-3", Root: volume(t, h, image, 128<<20), NoSSH: true})
	if out := must(t, m3, "cat /etc/machine /etc/second"); out != "machine\nsecond" {
		t.Errorf("%q", out)
	}
	stop(t, m3)
	if err := during.Remove(); err != nil {
		t.Fatal(err)
	}
}

// A disk with a partition table: its first partition counts.
func TestPartitions(t *testing.T) {
	needLoop(t)
	need(t, "sfdisk", "fdisk")
	for _, label := range []string{"dos", "gpt"} {
		t.Run(label, func(t *testing.T) {
			h := newHost(t)
			tree := sandboxtest.Busybox(t)
			file := filepath.Join(t.TempDir(), "disk")
			write(t, file, "")
			if err := os.Truncate(file, 96<<20); err != nil {
				t.Fatal(err)
			}
			here(t, "sh", "-c", "printf 'label: "+label+"\\n2048,131072,L\\n,,L\\n' | sfdisk -q "+file)
			here(t, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "offset=1048576", "-d", tree, file, "64M")
			raw := h.RawContent(file)
			if b, err := raw.ReadFile("/etc/passwd"); err != nil || !strings.HasPrefix(string(b), "root:") {
				t.Fatalf("%q, %v", b, err)
			}
			v := volume(t, h, raw, 0)
			if v.Size() != 96<<20 {
				t.Errorf("the size is %d", v.Size())
			}
			dev, err := v.AttachHere()
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the partition's device is there", func() bool { _, err := os.Stat(dev + "p1"); return err == nil })
			mounted(t, dev+"p1", func(dir string) { write(t, filepath.Join(dir, "etc/partition"), "written\n") })
			if err := v.DetachHere(); err != nil {
				t.Fatal(err)
			}
			m := boot(t, h, Config{ID: "i-1", Root: v, NoSSH: true})
			if out := must(t, m, "cat /etc/partition"); out != "written" {
				t.Errorf("%q", out)
			}
			stop(t, m)
			reads(t, raw, "/etc/partition", "")
		})
	}
}

// The way of amazon-ebssurrogate: a machine fills another disk, which becomes the
// image's root.
func TestSurrogate(t *testing.T) {
	needLoop(t)
	h := newHost(t)
	disk := volume(t, h, nil, 64<<20)
	m := boot(t, h, Config{ID: "i-1", Root: volume(t, h, h.HostContent(), 0), Disks: map[string]*Volume{"/dev/xvdf": disk}, NoSSH: true})
	if err := m.running().box.Put(t.Context(), "/root/tree", tree(sandboxtest.Busybox(t))); err != nil {
		t.Fatal(err)
	}
	must(t, m, "echo surrogate >/root/tree/etc/surrogate; test -b /dev/xvdf; mkfs.ext4 -q -d /root/tree /dev/xvdf; e2fsck -fn /dev/xvdf")
	running := content(t, disk)
	must(t, m, "debugfs -w -R 'rm /etc/surrogate' /dev/xvdf")
	stop(t, m)
	stopped := content(t, disk)
	reads(t, running, "/etc/surrogate", "surrogate")
	reads(t, stopped, "/etc/surrogate", "")
	m2 := boot(t, h, Config{ID: "i-2", Root: volume(t, h, running, 0), NoSSH: true})
	if out := must(t, m2, "cat /etc/surrogate"); out != "surrogate" {
		t.Errorf("%q", out)
	}
	// A further disk may come from a snapshot too, and keeps what it had.
	m3 := boot(t, h, Config{ID: "i-3", Root: volume(t, h, h.HostContent(), 0), Disks: map[string]*Volume{"/dev/sdf": volume(t, h, running, 0)}, NoSSH: true})
	if out := must(t, m3, "debugfs -R 'cat /etc/surrogate' /dev/sdf 2>/dev/null; id nobody >/dev/null"); out != "surrogate" {
		t.Errorf("%q", out)
	}
	if out := must(t, m3, "setpriv --reuid=nobody head -c 1 /dev/sdf 2>&1 || true"); !strings.Contains(out, "Permission denied") {
		t.Errorf("anybody reads the disk: %q", out)
	}
}

func TestHostIsNoDisk(t *testing.T) {
	h := newHost(t)
	if _, err := volume(t, h, h.HostContent(), 0).AttachHere(); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
	if _, err := h.NewVolume(nil, 0); err == nil {
		t.Error("a blank disk without a size is made")
	}
	file := filepath.Join(t.TempDir(), "disk")
	write(t, file, strings.Repeat("x", 4096))
	if _, err := h.NewVolume(h.RawContent(file), 4095); err == nil {
		t.Error("a disk smaller than its content is made")
	}
	if _, err := h.RawContent(file).ReadFile("/x"); err == nil || !strings.Contains(err.Error(), "neither an ext4") {
		t.Error(err)
	}
	small := volume(t, h, h.TreeContent(sandboxtest.Busybox(t)), 1<<20)
	if _, err := small.AttachHere(); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Error(err)
	}
}
