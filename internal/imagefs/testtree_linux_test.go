package imagefs

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"golang.org/x/sys/unix"
)

// need skips the test when a tool is missing, except in CI.
func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, name := range tools {
		if _, err := (tool{name, name}).find(); err != nil {
			missing(t, "the tool "+name+" is missing")
		}
	}
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root, to make files of other owners")
	}
}

// devices says whether device nodes may be made here.
func devices(t testing.TB) bool {
	t.Helper()
	p := filepath.Join(t.TempDir(), "dev")
	return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil
}

func openStore(t testing.TB) *Store { return openStoreAt(t, t.TempDir()) }

func openStoreAt(t testing.TB, dir string) *Store {
	t.Helper()
	needRoot(t)
	s, err := Open(dir, event.Scope{Sink: event.Func(func(e event.Event) {
		if e.Kind == event.Warning {
			t.Log("warning:", e.Text)
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	need(t, name)
	p, _ := tool{name, name}.find()
	cmd := exec.Command(p, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A capability set as the kernel stores it: cap_net_bind_service=ep, revision 2.
var capability, _ = hex.DecodeString("0100000200040000000000000000000000000000")

var (
	oldTime = time.Unix(1500000000, 123456789)
	epoch   = time.Unix(1600000000, 0)
	newTime = time.Unix(1700000000, 987654321)
)

// makeTree makes a small tree with one of everything that is hard.
func makeTree(t testing.TB, dir string) {
	t.Helper()
	needRoot(t)
	p := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"", "etc", "usr/bin", "dev", "var/lib/deep/er", "home/user"} {
		do(t, os.MkdirAll(p(d), 0o755))
	}
	write := func(name, content string, mode os.FileMode) {
		do(t, os.WriteFile(p(name), []byte(content), 0o600))
		do(t, unix.Chmod(p(name), uint32(mode)))
	}
	write("etc/hostname", "golden\n", 0o644)
	write("etc/shadow", "root:*:\n", 0o640)
	write("usr/bin/tool", "#!/bin/sh\necho tool\n", 0o4755)
	write("usr/bin/ping", strings.Repeat("binary", 100000), 0o755)
	write("home/user/.profile", "", 0o600)
	write("home/user/caf\xe9", "latin-1 name\n", 0o644)
	write("home/user/"+strings.Repeat("long", 50), "long name\n", 0o644)
	do(t, os.Chown(p("home/user/.profile"), 200000, 3000000))
	do(t, os.Chown(p("home/user"), 200000, 200000))
	do(t, os.Chmod(p("home/user"), os.ModeSticky|os.ModeSetgid|0o770))
	do(t, os.Link(p("usr/bin/ping"), p("usr/bin/ping-link")))
	do(t, os.Symlink("ping", p("usr/bin/sym")))
	do(t, os.Symlink("/etc/absolute", p("etc/abs")))
	do(t, unix.Lsetxattr(p("usr/bin/ping"), "security.capability", capability, 0))
	do(t, unix.Lsetxattr(p("etc/hostname"), "user.note", []byte("with \x00 byte"), 0))
	do(t, unix.Mkfifo(p("dev/fifo"), 0o620))
	if devices(t) {
		do(t, unix.Mknod(p("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		do(t, unix.Mknod(p("dev/sda"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 1))))
	}
	f, err := os.Create(p("var/lib/sparse"))
	do(t, err)
	_, err = f.WriteAt([]byte("end"), 8<<20)
	do(t, err)
	do(t, f.Close())
	setAllTimes(t, dir, oldTime)
	do(t, os.Chtimes(p("etc/hostname"), newTime, newTime))
}

func setAllTimes(t testing.TB, dir string, when time.Time) {
	t.Helper()
	do(t, walkTree(context.Background(), dir, byName, func(n *node) error { return setTimes(n.pfd, n.leaf, when) }))
}

// describe lists everything about a tree that an image must keep.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	links := map[inode]string{}
	err := walkTree(context.Background(), dir, byName, func(n *node) error {
		if isWhiteout(&n.st) {
			lines = append(lines, fmt.Sprintf("%q is deleted", n.name))
			return nil
		}
		line := fmt.Sprintf("%q mode=%o owner=%d:%d mtime=%d", n.name, n.st.Mode, n.st.Uid, n.st.Gid, n.st.Mtim.Sec)
		at := procPath(n.pfd, n.leaf)
		if !n.isDir() && n.st.Nlink > 1 {
			id := inode{uint64(n.st.Dev), n.st.Ino}
			if links[id] == "" {
				links[id] = n.name
			}
			line += " inode=" + links[id]
		}
		switch n.kind() {
		case unix.S_IFREG:
			d, err := hashFile(at)
			if err != nil {
				return err
			}
			line += " content=" + d[:19]
		case unix.S_IFLNK:
			l, err := readlinkat(n)
			if err != nil {
				return err
			}
			line += " -> " + l
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev=%d", n.st.Rdev)
		}
		names, err := xattrNames(at)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			v, err := xattrValue(at, name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%x", name, v)
		}
		lines = append(lines, line)
		return nil
	})
	do(t, err)
	return strings.Join(lines, "\n")
}

func sameTree(t testing.TB, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, l := range g {
		if !slices.Contains(w, l) {
			t.Errorf("unexpected: %s", l)
		}
	}
	for _, l := range w {
		if !slices.Contains(g, l) {
			t.Errorf("missing:    %s", l)
		}
	}
}

type entry struct {
	hdr     tar.Header
	content string
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.hdr
		h.Size = int64(len(e.content))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		do(t, tw.WriteHeader(&h))
		_, err := io.WriteString(tw, e.content)
		do(t, err)
	}
	do(t, tw.Close())
	return buf.Bytes()
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, content}
}
func dir(name string) entry { return entry{tar.Header{Typeflag: tar.TypeDir, Name: name}, ""} }
func symlink(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}, ""}
}
func hardlink(name, to string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}, ""}
}

// benchTree is a tree like a small system's, or the one that
// INGOT_BENCH_TREE names.
func benchTree(b *testing.B) string {
	if dir := os.Getenv("INGOT_BENCH_TREE"); dir != "" {
		return dir
	}
	dir := b.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+rnd.IntN(10))
		for j := range words[i] {
			words[i][j] = byte(rnd.IntN(256))
		}
	}
	var buf bytes.Buffer
	for i := range 4000 {
		buf.Reset()
		size := 1 << (4 + rnd.IntN(13))
		if i%200 == 0 {
			size = 1 << 20
		}
		for buf.Len() < size {
			buf.Write(words[rnd.IntN(len(words))])
		}
		d := filepath.Join(dir, fmt.Sprintf("d%d", i%97), fmt.Sprintf("e%d", i%7))
		do(b, os.MkdirAll(d, 0o755))
		do(b, os.WriteFile(filepath.Join(d, fmt.Sprintf("f%d", i)), buf.Bytes(), 0o644))
	}
	return dir
}

func tarDevice(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeChar, Name: name, Devmajor: 1, Devminor: 3}
}
