package imagefs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// exportTwice exports a tree twice, from two copies made in between a change
// of access times, and fails if the bytes differ.
func exportTwice(t *testing.T, format, tree string, opt TreeOptions) (string, Output) {
	t.Helper()
	if err := CheckTools(format, opt.Bootable); err != nil {
		missing(t, err.Error())
	}
	dir := t.TempDir()
	first := filepath.Join(dir, "first")
	out, err := ExportTree(t.Context(), format, tree, first, opt)
	do(t, err)
	again := filepath.Join(t.TempDir(), "tree")
	run(t, "cp", "-a", tree, again)
	run(t, "cat", filepath.Join(again, "etc/hostname"))
	second := filepath.Join(dir, "second")
	out2, err := ExportTree(t.Context(), format, again, second, opt)
	do(t, err)
	if out.Digest != out2.Digest {
		t.Errorf("%s: the same tree gave %s and %s", format, out.Digest, out2.Digest)
	}
	if d, _ := hashFile(first); d != out.Digest {
		t.Errorf("%s: the digest reported is not the file's", format)
	}
	if fi, err := os.Stat(first); err != nil || fi.Size() != out.Bytes || fi.Mode().Perm() != 0o644 {
		t.Errorf("%s: %v, %v, reported %d bytes", format, fi, err, out.Bytes)
	}
	if got := mustReadDir(t, dir); len(got) != 2 {
		t.Errorf("%s left %v beside its output", format, got)
	}
	return first, out
}

func hardTree(t *testing.T) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	return tree
}

var treeOptions = TreeOptions{Epoch: epoch, Seed: "sha256:seed", Label: "golden"}

func TestExportTar(t *testing.T) {
	need(t, "zstd", "gzip")
	for compression, ext := range map[string]string{"": "zstd", "gzip": "gzip", "none": ""} {
		tree := hardTree(t)
		opt := treeOptions
		opt.Compression, opt.Exclude = compression, []string{"home"}
		p, _ := exportTwice(t, FormatTar, tree, opt)
		dir := t.TempDir()
		args := []string{"-xpf", p, "-C", dir, "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner"}
		if ext != "" {
			args = append([]string{"--" + ext}, args...)
		}
		run(t, "tar", args...)
		do(t, os.RemoveAll(filepath.Join(tree, "home")))
		do(t, os.Chtimes(tree, oldTime, oldTime))
		do(t, ClampTimes(t.Context(), tree, epoch))
		sameTree(t, describe(t, dir), describe(t, tree))
	}
}

func TestExportSquashfs(t *testing.T) {
	need(t, "unsquashfs")
	tree := hardTree(t)
	for _, compression := range []string{"", "gzip", "lz4"} {
		opt := treeOptions
		opt.Compression = compression
		p, _ := exportTwice(t, FormatSquashfs, tree, opt)
		dir := filepath.Join(t.TempDir(), "out")
		run(t, "unsquashfs", "-quiet", "-no-progress", "-dest", dir, p)
		want := filepath.Join(t.TempDir(), "want")
		run(t, "cp", "-a", tree, want)
		do(t, ClampTimes(t.Context(), want, epoch))
		sameTree(t, describe(t, dir), describe(t, want))
	}
}

func TestExportErofs(t *testing.T) {
	need(t, "fsck.erofs")
	tree := hardTree(t)
	for _, compression := range []string{"", "lz4"} {
		opt := treeOptions
		opt.Compression = compression
		p, _ := exportTwice(t, FormatErofs, tree, opt)
		run(t, "fsck.erofs", p)
		if dump := run(t, "dump.erofs", "--path=/etc/hostname", p); !strings.Contains(dump, "2020-09-13") {
			t.Errorf("a time after the epoch was not clamped:\n%s", dump)
		}
		if dump := run(t, "dump.erofs", "--path=/etc/shadow", p); !strings.Contains(dump, "2017-07-14") {
			t.Errorf("a time before the epoch was not kept:\n%s", dump)
		}
	}
}

// checkExt4 lets e2fsck and debugfs look at a file system.
func checkExt4(t *testing.T, p string, withDevices bool) {
	t.Helper()
	run(t, "e2fsck", "-fn", p)
	stat := func(name string) string { return run(t, "debugfs", "-R", "stat "+name, p) }
	for name, want := range map[string]string{
		"/usr/bin/ping":       "security.capability",
		"/home/user/.profile": "User: 200000   Group: 3000000",
		"/usr/bin/tool":       "Mode:  04755",
		"/etc/hostname":       "mtime: 0x5f5e1000",
		"/etc/shadow":         "mtime: 0x59682f00:00000000",
		"/usr/bin/ping-link":  "Links: 2",
		"/dev/fifo":           "Type: FIFO",
	} {
		if out := stat(name); !strings.Contains(out, want) {
			t.Errorf("%s: want %s in\n%s", name, want, out)
		}
	}
	if withDevices {
		if out := stat("/dev/sda"); !strings.Contains(out, "Type: block special") || !strings.Contains(out, "number: 08:01") {
			t.Errorf("device node:\n%s", out)
		}
	}
	if out := run(t, "debugfs", "-R", "ea_get -x /usr/bin/ping security.capability", p); !strings.Contains(out, "01 00 00 02 00 04") {
		t.Errorf("capability: %s", out)
	}
}

func TestExportExt4(t *testing.T) {
	need(t, "e2fsck", "debugfs", "dumpe2fs")
	tree := hardTree(t)
	for _, size := range []int64{0, 100 << 20, 300<<20 + 12345} {
		opt := treeOptions
		opt.Size = size
		p, out := exportTwice(t, FormatExt4, tree, opt)
		checkExt4(t, p, devices(t))
		if size > 0 && out.Bytes != size/4096*4096 {
			t.Errorf("size %d, want %d", out.Bytes, size)
		}
		super := run(t, "dumpe2fs", "-h", p)
		for _, want := range []string{"golden", uuidFrom(opt.Seed), "Sun Sep 13 12:26:40 2020"} {
			if !strings.Contains(super, want) {
				t.Errorf("want %q in\n%s", want, super)
			}
		}
	}
	// Without an epoch nothing is clamped, and the bytes still do not depend on the clock.
	p, _ := exportTwice(t, FormatExt4, tree, TreeOptions{Seed: "x"})
	if out := run(t, "debugfs", "-R", "stat /etc/hostname", p); !strings.Contains(out, "mtime: 0x6553f100") {
		t.Errorf("the time was changed:\n%s", out)
	}
}

// Times beyond 2038 use the extra bits.
func TestExportExt4LateTimes(t *testing.T) {
	need(t, "e2fsck", "debugfs")
	tree := hardTree(t)
	late := time.Date(2050, 1, 2, 3, 4, 5, 0, time.UTC)
	do(t, os.Chtimes(filepath.Join(tree, "etc/shadow"), late, late))
	p, _ := exportTwice(t, FormatExt4, tree, TreeOptions{Seed: "x"})
	run(t, "e2fsck", "-fn", p)
	if out := run(t, "debugfs", "-R", "stat /etc/shadow", p); !strings.Contains(out, "Jan  2 03:04:05 2050") {
		t.Errorf("the time was changed:\n%s", out)
	}
}

func TestExportDisk(t *testing.T) {
	need(t, "qemu-img", "e2fsck", "debugfs")
	tree := hardTree(t)
	for _, tt := range []struct{ format, compression string }{{FormatRaw, ""}, {FormatQcow2, ""}, {FormatQcow2, "zstd"}} {
		opt := treeOptions
		opt.Size, opt.Compression = 200<<20, tt.compression
		opt.Bootable = true // it has no kernel
		if CheckTools(tt.format, true) != nil {
			opt.Bootable = false
		}
		p, out := exportTwice(t, tt.format, tree, opt)
		if opt.Bootable && !strings.Contains(out.Note, "no boot loader, because the image has no") {
			t.Errorf("note: %s", out.Note)
		}
		if !strings.Contains(out.Note, "-kernel") {
			t.Errorf("note: %s", out.Note)
		}
		raw := p
		if tt.format == FormatQcow2 {
			run(t, "qemu-img", "check", p)
			raw = filepath.Join(t.TempDir(), "raw")
			run(t, "qemu-img", "convert", "-O", "raw", p, raw)
		}
		disk, err := os.ReadFile(raw)
		do(t, err)
		part := disk[446:462]
		start, n := binary.LittleEndian.Uint32(part[8:]), binary.LittleEndian.Uint32(part[12:])
		if disk[510] != 0x55 || disk[511] != 0xaa || part[4] != 0x83 || start != 2048 || int(start+n)*512 != len(disk) || len(disk) != 200<<20 {
			t.Errorf("partition %x on a disk of %d bytes", part, len(disk))
		}
		fs := filepath.Join(t.TempDir(), "part")
		do(t, os.WriteFile(fs, disk[1<<20:], 0o600))
		checkExt4(t, fs, devices(t))
	}
}

// The boot sectors are GRUB's, with the block lists set. (That they boot is
// for a test with QEMU and a real kernel.)
func TestBootLoader(t *testing.T) {
	if err := CheckTools(FormatRaw, true); err != nil {
		missing(t, err.Error())
	}
	if _, err := os.Stat("/" + grubDir + "/boot.img"); err != nil {
		missing(t, "grub-pc-bin is not installed")
	}
	tree := hardTree(t)
	do(t, os.Mkdir(filepath.Join(tree, "boot"), 0o755))
	for _, f := range []string{"vmlinuz-6.9.1-amd64", "vmlinuz-6.10.1-amd64", "initrd.img-6.9.1-amd64", "initrd.img-6.10.1-amd64", "vmlinuz-7.0-noinitrd", "vmlinuz-9; reboot"} {
		do(t, os.WriteFile(filepath.Join(tree, "boot", f), []byte(f), 0o644))
	}
	opt := treeOptions
	opt.Bootable, opt.KernelOptions = true, "quiet"
	p, out := exportTwice(t, FormatRaw, tree, opt)
	if !strings.Contains(out.Note, "/boot/vmlinuz-6.10.1-amd64") || !strings.Contains(out.Note, "ro console=ttyS0 quiet") {
		t.Errorf("note: %s", out.Note)
	}
	disk, err := os.ReadFile(p)
	do(t, err)
	if !bytes.Contains(disk[:512], []byte("GRUB")) || binary.LittleEndian.Uint64(disk[0x5c:]) != 1 {
		t.Error("the MBR does not start GRUB")
	}
	if !bytes.Contains(disk[512:1<<20], []byte("search.fs_uuid "+uuidFrom(opt.Seed))) {
		// The configuration may be compressed in core.img; then its length tells.
		if binary.LittleEndian.Uint16(disk[512+508:]) == 0 {
			t.Error("core.img has no block list")
		}
	}
	opt.KernelOptions = "x; halt"
	if _, err := ExportTree(t.Context(), FormatRaw, tree, p, opt); err == nil || !strings.Contains(err.Error(), "kernel options") {
		t.Errorf("got %v", err)
	}
}

func TestExportRefuses(t *testing.T) {
	tree := hardTree(t)
	do(t, os.WriteFile(filepath.Join(tree, "big"), bytes.Repeat([]byte("x"), 20<<20), 0o644))
	for _, tt := range []struct {
		format string
		opt    TreeOptions
		want   string
	}{
		{FormatExt4, TreeOptions{Size: 16 << 20}, "larger size"},
		{FormatExt4, TreeOptions{Size: 1}, "larger size"},
		{FormatRaw, TreeOptions{Size: 16 << 20}, "larger size"},
		{FormatRaw, TreeOptions{Size: 1}, "larger size"},
		{FormatRaw, TreeOptions{Size: 4 << 40}, "2048 GiB"},
		{FormatRaw, TreeOptions{Compression: "zstd"}, "qcow2"},
		{FormatQcow2, TreeOptions{Compression: "rar"}, "zlib"},
		{FormatExt4, TreeOptions{Label: strings.Repeat("x", 17)}, "16 bytes"},
		{FormatExt4, TreeOptions{UUID: "x"}, "not a UUID"},
		{FormatExt4, TreeOptions{Exclude: []string{"etc"}}, "tar only"},
		{FormatTar, TreeOptions{Exclude: []string{"/etc"}}, "inside it"},
		{FormatTar, TreeOptions{Compression: "rar"}, "unknown compression"},
		{FormatSquashfs, TreeOptions{Compression: "rar"}, "unknown compression"},
		{FormatErofs, TreeOptions{Compression: "rar"}, "unknown compression"},
		{FormatOCI, TreeOptions{}, "from the store"},
		{"iso", TreeOptions{}, "unknown output format"},
	} {
		dir := t.TempDir()
		p := filepath.Join(dir, "out")
		_, err := ExportTree(t.Context(), tt.format, tree, p, tt.opt)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %+v: got %v, want an error about %q", tt.format, tt.opt, err, tt.want)
		}
		if left := mustReadDir(t, dir); len(left) > 0 {
			t.Errorf("%s left %v behind", tt.format, left)
		}
	}
}

// A size that is just enough must do; below it, the error comes before mke2fs.
func TestExt4SizeIsExact(t *testing.T) {
	need(t, "e2fsck")
	tree := hardTree(t)
	do(t, os.WriteFile(filepath.Join(tree, "big"), bytes.Repeat([]byte("x"), 150<<20), 0o644))
	m, err := measureTree(t.Context(), tree)
	do(t, err)
	lo, hi := int64(1), int64(1<<30)
	for hi-lo > ext4Block {
		mid := (lo + hi) / 2
		if _, _, err := ext4Layout(m, mid); err != nil {
			lo = mid
		} else {
			hi = mid
		}
	}
	p := filepath.Join(t.TempDir(), "fs")
	_, err = ExportTree(t.Context(), FormatExt4, tree, p, TreeOptions{Size: hi + ext4Block})
	do(t, err)
	run(t, "e2fsck", "-fn", p)
}

func TestToolsAreNamed(t *testing.T) {
	_, err := tool{"no-such-tool", "no-such-package"}.find()
	if err == nil || !strings.Contains(err.Error(), "apt-get install no-such-package") {
		t.Errorf("got %v", err)
	}
}

func TestToolOutput(t *testing.T) {
	if out, err := (tool{"echo", "coreutils"}).run(t.Context(), nil, "hello"); err != nil || out != "hello\n" {
		t.Errorf("got %q, %v", out, err)
	}
	_, err := (tool{"ls", "coreutils"}).run(t.Context(), nil, "/no-such-file")
	if err == nil || !strings.Contains(err.Error(), "ls: ") || !strings.Contains(err.Error(), "no-such-file") {
		t.Errorf("got %v, want the tool's own words", err)
	}
}

func TestToolDiesWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := (tool{"sleep", "coreutils"}).run(ctx, nil, "1000"); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestCompareVersions(t *testing.T) {
	ordered := []string{"5.10.0-9", "5.10.0-10", "6.1.0", "6.1.0-1", "6.1.0-53-amd64", "6.9", "6.10", "10"}
	for i, a := range ordered {
		for j, b := range ordered {
			if c := compareVersions(a, b); (c < 0) != (i < j) || (c == 0) != (i == j) {
				t.Errorf("%s, %s: %d", a, b, c)
			}
		}
	}
}
