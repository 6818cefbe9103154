package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sys/unix"

	boxbuilder "github.com/ingotbuild/ingot/builders/sandbox"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/imagefs"
	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/registry"
)

// needTools skips, or in CI fails, where other people's tools are missing.
func needTools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, err.Error())
		}
	}
}

// output runs a program of this host and returns what it printed.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

func do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listing is in the image. It prints a line per file: mode, owner, size or
// device, time and name. What a machine or a container brings itself is left
// out, and so are the times and sizes of directories.
const listing = `#!/bin/sh
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /.dockerenv -o -path /etc/mtab \
  -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/resolv.conf -o -path /etc/machine-id \) -prune -o -print |
while read -r f; do
  set -- "$f" $(stat -c '%A %u/%g %s %Y %t %T' "$f")
  size=$4 when=$(date -u -d "@$5" '+%Y-%m-%d %H:%M') to=
  case $2 in
    d*) size=0 when='0000-00-00 00:00' ;;
    b*|c*) size=$((0x$6)),$((0x$7)) ;;
    l*) size=0 to=" -> $(readlink "$f")" ;;
  esac
  echo "$2 $3 $size $when $f$to"
done
`

const (
	epoch     = 1577836800 // 2020-01-01
	epochTime = "2020-01-01 00:00"
	baseTime  = 1000000000
)

// applets are what the machine of these tests can do.
const applets = "[ basename cat chmod chown cp date dd dirname du env find grep head id ln ls mkdir mkfifo mknod mktemp mv od printf readlink rm sh sort stat tail test touch tr true truncate uname wc"

// busyboxTree is a small system to start from.
func busyboxTree(t testing.TB, dir string) {
	t.Helper()
	needTools(t, "busybox")
	if os.Geteuid() != 0 {
		missing(t, "needs root, to make files of other owners")
	}
	p := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"bin", "etc", "root", "data", "tree/old/deep", "removed/whole", "usr"} {
		do(t, os.MkdirAll(p(d), 0o755))
	}
	box, err := exec.LookPath("busybox")
	do(t, err)
	program, err := os.ReadFile(box)
	do(t, err)
	for name, content := range map[string]string{
		"bin/busybox": string(program), "bin/listing": listing, "bin/ping.base": "as if it were a program\n",
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/motd": "Hello from the image\n",
		"data/kept": "kept\n", "data/gone": "gone\n", "data/changed": "old\n", "tree/old/a": "a\n", "tree/old/deep/b": "b\n", "removed/whole/c": "c\n",
	} {
		do(t, os.WriteFile(p(name), []byte(content), 0o644))
	}
	for _, name := range []string{"bin/busybox", "bin/listing", "bin/ping.base"} {
		do(t, os.Chmod(p(name), 0o755))
	}
	for _, a := range strings.Fields(applets) {
		do(t, os.Symlink("busybox", p("bin/"+a)))
	}
	do(t, unix.Setxattr(p("bin/ping.base"), "security.capability", capability, 0))
	do(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts := []unix.Timespec{{Sec: baseTime}, {Sec: baseTime}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// capability is cap_net_bind_service=ep as the kernel stores it.
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// hardTemplate does to the base whatever images get wrong.
const hardTemplate = `
variable "compression" { default = "zstd" }
source "sandbox" "s" {
  base        = "base"
  network     = "none"
  cmd         = ["/bin/cat", "/etc/motd"]
  labels      = { purpose = "proof" }
  compression = var.compression

  dynamic "output" {
    for_each = {
      "root.oci" = "oci", "root.docker" = "docker-archive", "root.tar.zst" = "tar", "root.ext4" = "ext4", "root.raw" = "raw",
      "root.qcow2" = "qcow2", "root.squashfs" = "squashfs", "root.erofs" = "erofs",
    }
    content {
      path   = output.key
      format = output.value
    }
  }
  output {
    path        = "root.tar"
    format      = "tar"
    compression = "none"
  }
}
build {
  name    = "hard"
  sources = ["sandbox.s"]
  provisioner "shell" {
    inline = [
      "cd /data",
      "echo one > first; ln first second; mkdir sub; ln first sub/third",
      "mv /bin/ping.base /bin/ping",
      "mknod null c 1 3; mknod disk b 8 17; mkfifo fifo; ln -s ../etc/motd sym; ln -s /nowhere dangling",
      "truncate -s 8M sparse; echo end >> sparse; chmod 600 sparse",
      "echo big > big; chown 3000000:4000000 big; mkdir sticky; chmod 3775 sticky; cp /bin/busybox su; chmod 4755 su",
      "echo new > changed; rm gone; touch -d '2010-05-06 07:08:09' dated; echo utf-8 > café",
      "rm -r /removed; rm -r /tree/old; mkdir /tree/old; echo new > /tree/old/new",
      "rm -r /usr; ln -s data /usr",
      "listing > /tmp/listing",
    ]
  }
  provisioner "file" {
    direction   = "download"
    source      = "/tmp/listing"
    destination = "listing"
  }
}
`

// newHardWorld is a world with hardTemplate and its base.
func newHardWorld(t *testing.T) *world {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", strconv.Itoa(epoch))
	w := newWorld(t, hardTemplate)
	busyboxTree(t, filepath.Join(w.dir, "base"))
	return w
}

// line is one of listing's, of `tar -tv` or of `unsquashfs -lln`.
var line = regexp.MustCompile(`^(\S{10}) +(\d+/\d+) +(\d+(?:, *\d+)?) +(\d{4}-\d\d-\d\d \d\d:\d\d) (.+)$`)

// entries reads a listing into one line per path. Times become what they are
// in an image, not after the epoch; root is what stands before the names.
func entries(t testing.TB, list, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for l := range strings.Lines(strings.TrimSpace(list)) {
		m := line.FindStringSubmatch(strings.TrimRight(l, "\n"))
		if m == nil {
			t.Fatalf("this is no line of a listing: %q", l)
		}
		mode, owner, size, when, name := m[1], m[2], strings.ReplaceAll(m[3], " ", ""), min(m[4], epochTime), m[5]
		name, to, _ := strings.Cut(name, " -> ")
		name, link, _ := strings.Cut(name, " link to ")
		path := func(name string) string { return "/" + strings.Trim(strings.TrimPrefix(name, root), "/") }
		switch mode[0] {
		case 'h':
			all[path(name)] = all[path(link)]
			continue
		case 'd':
			size, when = "0", ""
		case 'l':
			size = "0"
		}
		all[path(name)] = strings.Join([]string{mode, owner, size, when, to}, " ")
	}
	return all
}

// same compares two listings.
func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if len(want) < 40 {
		t.Fatalf("the machine lists %d files only: %v", len(want), want)
	}
	for p, w := range want {
		if g, ok := got[p]; !ok {
			t.Errorf("%s: %s is missing", what, p)
		} else if g != w {
			t.Errorf("%s: %s is %q, want %q", what, p, g, w)
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %s should not be there (%s)", what, p, g)
		}
	}
}

// inTree runs listing in a tree on this host.
func inTree(t testing.TB, tree string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/listing")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: tree}
	cmd.Dir, cmd.Env = "/", []string{"PATH=/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("list %s: %v\n%s", tree, err, out)
	}
	return entries(t, string(out), "")
}

func read(t testing.TB, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	do(t, err)
	return string(b)
}

// Every output is read back by the tool that its users have.
func TestImagesByOtherTools(t *testing.T) {
	needTools(t, "skopeo", "umoci", "tar", "zstd", "gzip", "xz", "unsquashfs", "e2fsck", "debugfs", "fsck.erofs", "dump.erofs", "qemu-img")
	w := newHardWorld(t)
	w.must("build", ".")
	w.clean("a bake with all outputs", nil)
	in := func(name string) string { return filepath.Join(w.dir, name) }
	want := entries(t, read(t, w.dir, "listing"), "")

	// The same input gives the same bytes, from another copy of the base as well.
	again := newHardWorld(t)
	again.must("build", ".")
	for _, f := range []string{
		"root.oci/index.json", "root.docker", "root.tar", "root.tar.zst", "root.ext4", "root.raw", "root.qcow2", "root.squashfs", "root.erofs",
	} {
		t.Run("deterministic "+f, func(t *testing.T) {
			a, b := output(t, "sha256sum", in(f)), output(t, "sha256sum", filepath.Join(again.dir, f))
			if a[:64] != b[:64] {
				t.Errorf("two bakes gave %s and %s", a[:64], b[:64])
			}
		})
	}

	t.Run("skopeo", func(t *testing.T) {
		var v registry.Version
		do(t, json.Unmarshal([]byte(w.must("show", "-json", "hard")), &v))
		digest, err := sandboxDigest(v)
		do(t, err)
		var got struct {
			Digest, Architecture string
			Layers               []string
			Labels               map[string]string
		}
		src := "oci:" + in("root.oci") + ":latest"
		do(t, json.Unmarshal([]byte(output(t, "skopeo", "inspect", src)), &got))
		if got.Digest != digest || len(got.Layers) != 2 || got.Labels["purpose"] != "proof" {
			t.Errorf("skopeo sees %+v, the registry has %s", got, digest)
		}
		// A copy checks every digest.
		output(t, "skopeo", "copy", "-q", "--insecure-policy", src, "dir:"+t.TempDir())
		output(t, "skopeo", "copy", "-q", "--insecure-policy", "docker-archive:"+in("root.docker"), "oci:"+t.TempDir()+":latest")
	})
	t.Run("docker", func(t *testing.T) {
		if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
			missing(t, fmt.Sprintf("no Docker engine answers: %v %s", err, out))
		}
		if out := output(t, "docker", "load", "-q", "-i", in("root.docker")); !strings.Contains(out, "hard:latest") {
			t.Errorf("docker load: %s", out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("docker", "rmi", "hard:latest").CombinedOutput(); err != nil {
				t.Errorf("docker rmi: %v %s", err, out)
			}
		})
		run := []string{"run", "--rm", "--network", "none", "hard:latest"}
		if out := output(t, "docker", run...); out != "Hello from the image\n" {
			t.Errorf("the container prints %q", out)
		}
		same(t, "docker", entries(t, output(t, "docker", append(run, "/bin/listing")...), ""), want)
	})
	t.Run("tar", func(t *testing.T) {
		for _, f := range []string{"root.tar", "root.tar.zst"} {
			out := output(t, "tar", "-tvf", in(f), "--numeric-owner", "--quoting-style=literal")
			same(t, f, entries(t, out, "./"), want)
			if !strings.Contains(out, " link to ") {
				t.Errorf("%s has no hard link:\n%s", f, out)
			}
		}
		tree := t.TempDir()
		output(t, "tar", "-xpf", in("root.tar"), "-C", tree, "--numeric-owner", "--xattrs", "--xattrs-include=*")
		same(t, "unpacked tar", inTree(t, tree), want)
		checkTree(t, tree)
	})
	t.Run("squashfs", func(t *testing.T) {
		same(t, "unsquashfs", entries(t, output(t, "unsquashfs", "-lln", in("root.squashfs")), "squashfs-root"), want)
		tree := filepath.Join(t.TempDir(), "tree")
		output(t, "unsquashfs", "-quiet", "-no-progress", "-dest", tree, in("root.squashfs"))
		checkTree(t, tree)
	})
	t.Run("erofs", func(t *testing.T) {
		tree := filepath.Join(t.TempDir(), "tree")
		output(t, "fsck.erofs", "--extract="+tree, in("root.erofs"))
		// Version 1.5 loses the setuid bit as it extracts, and does not show it.
		if mode := erofsMode(t, in("root.erofs"), "/data/su"); mode != syscall.S_IFREG|0o4755 {
			t.Errorf("the mode of /data/su is %o", mode)
		}
		do(t, os.Chmod(filepath.Join(tree, "data/su"), os.ModeSetuid|0o755))
		same(t, "fsck.erofs", inTree(t, tree), want)
	})
	t.Run("ext4", func(t *testing.T) {
		checkExt4(t, in("root.ext4"))
		checkExt4(t, in("root.raw")+"?offset=1048576")
	})
	t.Run("qcow2", func(t *testing.T) {
		output(t, "qemu-img", "check", in("root.qcow2"))
		output(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", in("root.raw"), in("root.qcow2"))
	})
	t.Run("umoci", func(t *testing.T) {
		gz := newHardWorld(t)
		gz.must("build", "-var", "compression=gzip", ".") // all that this tool reads
		bundle := filepath.Join(t.TempDir(), "bundle")
		output(t, "umoci", "unpack", "--image", filepath.Join(gz.dir, "root.oci")+":latest", bundle)
		tree := filepath.Join(bundle, "rootfs")
		same(t, "umoci", inTree(t, tree), want)
		checkTree(t, tree)
	})
	t.Run("as bases", func(t *testing.T) { testBases(t, w, want) })
}

// checkTree looks at what a listing does not show.
func checkTree(t *testing.T, tree string) {
	t.Helper()
	stat := func(name string) *syscall.Stat_t {
		t.Helper()
		fi, err := os.Lstat(filepath.Join(tree, name))
		do(t, err)
		return fi.Sys().(*syscall.Stat_t)
	}
	one := stat("data/first")
	if one.Nlink != 3 || stat("data/second").Ino != one.Ino || stat("data/sub/third").Ino != one.Ino {
		t.Errorf("the hard links are no more: %+v", one)
	}
	got := make([]byte, 100)
	if n, err := unix.Getxattr(filepath.Join(tree, "bin/ping"), "security.capability", got); err != nil || !slices.Equal(got[:n], capability) {
		t.Errorf("the capability of /bin/ping is %x, %v", got[:max(n, 0)], err)
	}
	if text := read(t, tree, "data/sparse"); len(text) != 8<<20+4 || !strings.HasSuffix(text, "\x00end\n") {
		t.Errorf("the sparse file has %d bytes", len(text))
	}
}

// erofsMode reads a file's mode from its inode, whose number dump.erofs knows.
func erofsMode(t *testing.T, image, path string) uint16 {
	t.Helper()
	out := output(t, "dump.erofs", "--path="+path, image)
	m := regexp.MustCompile(`NID: (\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("dump.erofs gives no number:\n%s", out)
	}
	nid, err := strconv.Atoi(m[1])
	do(t, err)
	b := []byte(read(t, image))
	inodes := int(binary.LittleEndian.Uint32(b[1024+40:])) * 4096
	return binary.LittleEndian.Uint16(b[inodes+32*nid+4:])
}

// checkExt4 has others check a file system and look into it.
func checkExt4(t *testing.T, fs string) {
	t.Helper()
	output(t, "e2fsck", "-fn", fs)
	debugfs := func(command string) string { return output(t, "debugfs", "-R", command, fs) }
	for command, want := range map[string]string{
		"stat /data/big":                          "User: 3000000   Group: 4000000",
		"stat /data/first":                        "Links: 3",
		"stat /data/su":                           "Mode:  04755",
		"stat /data/null":                         "Device major/minor number: 01:03",
		"stat /data/fifo":                         "Type: FIFO",
		"stat /data/sym":                          `"../etc/motd"`,
		"ea_get -x /bin/ping security.capability": "01 00 00 02 00 04",
		"cat /data/changed":                       "new\n",
		"ls -p /tree/old":                         "/new/",
		"stat /data/sparse":                       "Blockcount: 8\n",
	} {
		if out := debugfs(command); !strings.Contains(out, want) {
			t.Errorf("%s: debugfs %s: want %q in\n%s", fs, command, want, out)
		}
	}
	for _, gone := range []string{"/tree/old/a", "/removed", "/data/gone", "/etc/machine-id", "/proc"} {
		cmd := exec.CommandContext(t.Context(), "debugfs", "-R", "stat "+gone, fs)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "File not found") {
			t.Errorf("%s: %s should not be there: %v\n%s", fs, gone, err, out)
		}
	}
}

const onBase = `
variable "base" {}
source "sandbox" "s" {
  base    = var.base
  network = "none"
}
build {
  sources = ["sandbox.s"]
  name    = "on-base"
  provisioner "shell" {
    inline = ["listing > /tmp/listing"]
  }
  provisioner "file" {
    direction   = "download"
    source      = "/tmp/listing"
    destination = "listing"
  }
}
`

// testBases bakes on every kind of base. Each is w's image in another form, so
// each machine must see the same files.
func testBases(t *testing.T, w *world, want map[string]string) {
	in := func(name string) string { return filepath.Join(w.dir, name) }
	output(t, "gzip", "-k", in("root.tar"))
	output(t, "xz", "-k", "-0", in("root.tar"))
	tree := t.TempDir()
	output(t, "tar", "-xpf", in("root.tar"), "-C", tree, "--numeric-owner")
	srv := httptest.NewServer(ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	ref := "docker://" + strings.TrimPrefix(srv.URL, "http://") + "/images/hard:v1"
	output(t, "skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "oci:"+in("root.oci")+":latest", ref)

	do(t, os.WriteFile(in("on-base.pkr.hcl"), []byte(onBase), 0o600))
	for kind, base := range map[string]string{
		"directory": tree, "tar": in("root.tar"), "tar.gz": in("root.tar.gz"), "tar.xz": in("root.tar.xz"), "tar.zst": in("root.tar.zst"),
		"oci": "oci:root.oci", "oci with tag": "oci:" + in("root.oci") + ":latest", "docker-archive": "docker-archive:root.docker",
		"registry": ref, "image": "image:hard@v1",
	} {
		t.Run(kind, func(t *testing.T) {
			do(t, os.RemoveAll(in("listing")))
			w.must("build", "-var", "base="+base, "on-base.pkr.hcl")
			same(t, kind, entries(t, read(t, w.dir, "listing"), ""), want)
		})
	}
	if _, err := w.run("build", "-var", "base=image:hard@v2", "on-base.pkr.hcl"); err == nil {
		t.Error("a bake on an image that does not exist")
	}
}

// The example with a boot loader boots, and serves.
func TestDebianNginx(t *testing.T) {
	t.Parallel() // it mostly waits: for packages, and for a machine to boot
	if testing.Short() {
		t.Skip("bakes a whole Debian and boots it without hardware virtualisation: minutes")
	}
	needTools(t, "debootstrap", "qemu-system-x86_64", "qemu-img", "grub-mkimage", "mke2fs")
	if os.Geteuid() != 0 {
		missing(t, "debootstrap needs root")
	}
	const mirror = "http://deb.debian.org/debian"
	client := &http.Client{Timeout: 30 * time.Second}
	res, err := client.Head(mirror + "/dists/bookworm/InRelease")
	if err != nil {
		missing(t, fmt.Sprintf("the package mirror cannot be reached: %v", err))
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		missing(t, "the package mirror says "+res.Status)
	}
	cache := os.Getenv("INGOT_BENCH_CACHE")
	if cache == "" {
		cache, err = os.UserCacheDir()
		do(t, err)
		cache = filepath.Join(cache, "ingot-ci")
	}
	example, err := filepath.Abs("../../examples/debian-nginx")
	do(t, err)
	needSandbox(t)
	// The home survives, so that debootstrap is paid for once.
	w := &world{t: t, home: filepath.Join(cache, "home"), dir: t.TempDir()}
	do(t, os.MkdirAll(w.home, 0o700))
	keepBases(t, w)
	t.Cleanup(func() { keepBases(t, w) })
	w.must("build", "-var", "mirror="+mirror, example)
	disk := filepath.Join(w.dir, "dist/debian-nginx.qcow2")
	if sums := read(t, w.dir, "dist/debian-nginx.sha256"); !strings.Contains(sums, output(t, "sha256sum", disk)[:64]+"\tdebian-nginx.qcow2\n") {
		t.Errorf("the disk's checksum is not in\n%s", sums)
	}
	output(t, "qemu-img", "check", disk)
	if page := serve(t, disk); page != "Baked by Ingot\n" {
		t.Errorf("the machine answers %q", page)
	}
}

// keepBases removes everything from a world's home but the cached bases.
func keepBases(t *testing.T, w *world) {
	t.Helper()
	w.must("sweep")
	images, err := filepath.Glob(filepath.Join(boxbuilder.StoreDir(w.home), "images", "*"))
	do(t, err)
	dbs, err := filepath.Glob(filepath.Join(w.home, "registry.db*"))
	do(t, err)
	for _, f := range append(images, dbs...) {
		do(t, os.Remove(f))
	}
	store, err := imagefs.Open(boxbuilder.StoreDir(w.home), event.Scope{})
	do(t, err)
	do(t, errors.Join(store.CleanUp(context.Background()), store.Close()))
}

// serve boots a disk and returns what its web server answers.
func serve(t *testing.T, disk string) string {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", sshtest.FreePort(t))
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	var console strings.Builder
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-m", "1g", "-nographic", "-no-reboot", "-snapshot",
		"-drive", "file="+disk+",if=virtio", "-nic", "user,model=virtio-net-pci,hostfwd=tcp:"+addr+"-:80")
	cmd.Stdout, cmd.Stderr = &console, &console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended := make(chan struct{})
	var qemuErr error
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the death signal comes when the thread ends
		defer runtime.UnlockOSThread()
		qemuErr = cmd.Run()
	}()
	defer func() {
		cancel()
		<-ended
	}()
	client := &http.Client{Timeout: 10 * time.Second}
	for {
		res, err := client.Get("http://" + addr + "/")
		if err == nil {
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil {
				return string(b)
			}
		}
		select {
		case <-ended:
			t.Fatalf("QEMU ended before anything answered (%v): %v\n%s", err, qemuErr, console.String())
		case <-time.After(500 * time.Millisecond):
		}
	}
}
