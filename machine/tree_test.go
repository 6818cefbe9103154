package machine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/machine"
)

func write(t *testing.T, dir, name, content string, mode fs.FileMode) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		t.Fatal(err)
	}
	return p
}

// listing is one line per entry of a tree's stream.
func listing(t *testing.T, tree machine.Tree) string {
	t.Helper()
	var stream, out bytes.Buffer
	if err := tree.WriteTar(t.Context(), &stream); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&stream)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Nanosecond() != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: time %v, owner %q:%q", h.Name, h.ModTime, h.Uname, h.Gname)
		}
		fmt.Fprintf(&out, "%c %04o %d:%d %s>%s %s\n", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname, b)
	}
}

func TestTrees(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes and links are those of Unix")
	}
	dir := t.TempDir()
	long := strings.Repeat("n", 150)
	write(t, dir, "a/run.sh", "go", 0o755)
	write(t, dir, "a/"+long, "long", 0o600)
	write(t, dir, "a/sub/ro", "x", 0o444)
	for _, err := range []error{
		os.Chmod(filepath.Join(dir, "a"), 0o750),
		os.Link(filepath.Join(dir, "a/run.sh"), filepath.Join(dir, "a/twin.sh")),
		os.Symlink("/nowhere", filepath.Join(dir, "a/sub/link")),
		os.Symlink("a", filepath.Join(dir, "to-a")),
		os.Mkdir(filepath.Join(dir, "empty"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	below := func(prefix string) string {
		return "0 0600 0:0 " + prefix + long + "> long\n" +
			"0 0755 0:0 " + prefix + "run.sh> go\n" +
			"5 0755 0:0 " + prefix + "sub/> \n" +
			"2 0777 0:0 " + prefix + "sub/link>/nowhere \n" +
			"0 0444 0:0 " + prefix + "sub/ro> x\n" +
			"1 0755 0:0 " + prefix + "twin.sh>" + prefix + "run.sh \n"
	}
	owned := machine.BytesTree("f", []byte("data"), 0o600|fs.ModeSetuid)
	owned.UID, owned.GID = 7, 8
	a := filepath.Join(dir, "a")
	for name, tc := range map[string]struct {
		tree machine.Tree
		want string
	}{
		"file":           {machine.FileTree(filepath.Join(a, "run.sh"), "bin/go"), "0 0755 0:0 bin/go> go\n"},
		"bytes":          {owned, "0 4600 7:8 f> data\n"},
		"contents":       {machine.DirTree(a, ""), below("")},
		"below a prefix": {machine.DirTree(a, "opt/x"), "5 0750 0:0 opt/x/> \n" + below("opt/x/")},
		"through a link": {machine.DirTree(filepath.Join(dir, "to-a"), ""), below("")},
		"empty":          {machine.DirTree(filepath.Join(dir, "empty"), ""), ""},
		"joined": {machine.Join(machine.BytesTree("1", nil, 0o600), machine.BytesTree("2", []byte("b"), 0o644)),
			"0 0600 0:0 1> \n0 0644 0:0 2> b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.ReplaceAll(listing(t, tc.tree), "2 0755", "2 0777") // a link's own mode differs between systems
			if got != tc.want {
				t.Errorf("got\n%swant\n%s", got, tc.want)
			}
		})
	}
}

func TestTreeErrors(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "f", "x", 0o600)
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx  context.Context
		tree machine.Tree
		want string
	}{
		"missing":      {t.Context(), machine.FileTree(filepath.Join(dir, "no"), "f"), "no such file"},
		"not a dir":    {t.Context(), machine.DirTree(file, ""), "is not a directory"},
		"not a file":   {t.Context(), machine.FileTree(dir, "f"), "is a directory"},
		"no name":      {t.Context(), machine.BytesTree("", nil, 0o600), "no name"},
		"climbs":       {t.Context(), machine.BytesTree("../f", nil, 0o600), "stay below"},
		"absolute":     {t.Context(), machine.FileTree(file, "/etc/f"), "relative"},
		"socket":       {t.Context(), machine.DirTree(filepath.Dir(sock), ""), "neither file, directory nor symbolic link"},
		"cancelled":    {cancelled, machine.DirTree(dir, ""), "context canceled"},
		"shrinks":      {t.Context(), shrinking(t, dir), "became shorter"},
		"reader stops": {t.Context(), machine.FileTree(file, "f"), "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			w := io.Discard
			if name == "reader stops" {
				w = failing{}
			}
			if err := tc.tree.WriteTar(tc.ctx, w); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// shrinking is cut short when its progress is first told, in the middle.
func shrinking(t *testing.T, dir string) machine.Tree {
	path := write(t, dir, "big", strings.Repeat("x", 1<<20), 0o600)
	tree := machine.FileTree(path, "big")
	tree.Progress = func(int64, int64) { os.Truncate(path, 0) }
	return tree
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("enough") }

func TestProgress(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "12345", 0o600)
	tree := machine.Join(machine.DirTree(dir, ""), machine.BytesTree("b", []byte("678"), 0o600))
	var done, total int64
	tree.Progress = func(d, n int64) {
		if d < done || n != 8 {
			t.Errorf("progress %d of %d after %d", d, n, done)
		}
		done, total = d, n
	}
	if err := tree.WriteTar(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	if done != 8 || total != 8 {
		t.Errorf("ended at %d of %d, want 8 of 8", done, total)
	}
}

func TestDirSinkKeepsATree(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes and links are those of Unix")
	}
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "made", "for it")
	write(t, src, "d/f", "one", 0o640)
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, err := range []error{
		os.Symlink("f", filepath.Join(src, "d/l")),
		os.Symlink("missing", filepath.Join(src, "d/dangling")),
		os.Symlink("loop", filepath.Join(src, "d/loop")),
		os.Link(filepath.Join(src, "d/f"), filepath.Join(src, "d/h")),
		os.Chtimes(filepath.Join(src, "d/f"), old, old),
		os.Chtimes(filepath.Join(src, "d"), old, old),
		os.Chmod(filepath.Join(src, "d"), 0o555),
		os.Chmod(filepath.Join(src, "d/f"), 0o640|fs.ModeSetuid),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		os.Chmod(filepath.Join(src, "d"), 0o755)
		os.Chmod(filepath.Join(dst, "d"), 0o755)
	})
	for range 2 { // the second time over what is there
		if err := machine.Copy(t.Context(), machine.DirTree(src, ""), machine.DirSink(dst)); err != nil {
			t.Fatal(err)
		}
	}
	got := listing(t, machine.DirTree(dst, ""))
	want := strings.ReplaceAll(listing(t, machine.DirTree(src, "")), "4640", "0640")
	if got != want || !strings.Contains(want, ">d/f") {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, name := range []string{"d", "d/f"} {
		if fi, err := os.Stat(filepath.Join(dst, name)); err != nil || !fi.ModTime().Equal(old) {
			t.Errorf("%s: %v, time %v, want %v", name, err, fi.ModTime(), old)
		}
	}
	if err := machine.Copy(t.Context(), machine.DirTree(src, ""), machine.TrustedDirSink(dst)); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dst, "d/f")); err != nil || fi.Mode() != 0o640|fs.ModeSetuid {
		t.Errorf("trusted: %v, mode %v", err, fi.Mode())
	}
}

type raw []tar.Header

// stream writes headers as a hostile machine may; regular files contain "evil".
func (r raw) stream(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range r {
		h.Mode = 0o755
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(tw, "evil")
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDirSinkRefusesEscapes(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	sym := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for name, tc := range map[string]struct {
		entries raw
		want    string
	}{
		"parent":                 {raw{reg("../f")}, "outside"},
		"parent inside":          {raw{reg("a/../../f")}, "outside"},
		"absolute":               {raw{reg("/f")}, "outside"},
		"through a link":         {raw{sym("l", ".."), reg("l/f")}, "escapes"},
		"through an absolute":    {raw{sym("l", "/"), reg("l/f")}, "escapes"},
		"link kept":              {raw{sym("l", "../secret")}, "refuse the symbolic link"},
		"absolute link kept":     {raw{sym("l", "/etc/passwd")}, "refuse the symbolic link"},
		"two links":              {raw{sym("a/b/up", "../.."), sym("l", "a/b/up/..")}, "refuse the symbolic link"},
		"dangling":               {raw{sym("l", "missing/../../x")}, "refuse the symbolic link"},
		"hard link out":          {raw{{Typeflag: tar.TypeLink, Name: "h", Linkname: "../secret"}}, "escapes"},
		"hard link to a link":    {raw{sym("l", "x"), {Typeflag: tar.TypeLink, Name: "h", Linkname: "l"}}, "not a file"},
		"device":                 {raw{{Typeflag: tar.TypeBlock, Name: "sda"}}, "neither file"},
		"pipe":                   {raw{{Typeflag: tar.TypeFifo, Name: "p"}}, "neither file"},
		"file over a directory":  {raw{{Typeflag: tar.TypeDir, Name: "d/"}, reg("d")}, "in the way"},
		"directory over a file":  {raw{reg("d"), {Typeflag: tar.TypeDir, Name: "d/"}}, "exists"},
		"existing link followed": {raw{reg("there/f")}, "escapes"},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			write(t, top, "secret", "s", 0o600)
			dst := filepath.Join(top, "dst")
			if err := os.Mkdir(dst, 0o755); err != nil {
				t.Fatal(err)
			}
			if name == "existing link followed" {
				if err := os.Symlink("..", filepath.Join(dst, "there")); err != nil {
					t.Fatal(err)
				}
			}
			err := machine.DirSink(dst).ReadTar(t.Context(), bytes.NewReader(tc.entries.stream(t)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			outside, _ := os.ReadDir(top)
			if len(outside) != 2 {
				t.Errorf("outside of the directory stands %v", outside)
			}
			for _, link := range []string{"l", "h"} {
				if _, err := os.Stat(filepath.Join(dst, link)); err == nil {
					t.Errorf("%s is kept and leads out", link)
				}
			}
		})
	}
}

func TestFileIsNotWrittenThroughAnExistingLink(t *testing.T) {
	dir := t.TempDir()
	keep := write(t, dir, "keep", "kept", 0o600)
	dst := filepath.Join(dir, "dst")
	if err := os.Mkdir(dst, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, sink := range []machine.Sink{machine.DirSink(dst), machine.FileSink(filepath.Join(dst, "f"))} {
		if err := os.Remove(filepath.Join(dst, "f")); i > 0 && err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(keep, filepath.Join(dst, "f")); err != nil {
			t.Fatal(err)
		}
		if err := machine.Copy(t.Context(), machine.BytesTree("f", []byte("new"), 0o644), sink); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(keep); string(b) != "kept" {
			t.Errorf("sink %d wrote %q through a link", i, b)
		}
		if b, _ := os.ReadFile(filepath.Join(dst, "f")); string(b) != "new" {
			t.Errorf("sink %d: content %q", i, b)
		}
	}
}

func TestShortStreamIsAnError(t *testing.T) {
	var whole bytes.Buffer
	tree := machine.Join(machine.BytesTree("a", []byte("1"), 0o600), machine.BytesTree("b", []byte("2"), 0o600))
	if err := tree.WriteTar(t.Context(), &whole); err != nil {
		t.Fatal(err)
	}
	end := whole.Len()
	for _, n := range []int{0, 100, 512, 513, 1024, 1536, 2048, end - 512, end - 1} {
		for _, oneRead := range []bool{false, true} {
			var r io.Reader = bytes.NewReader(whole.Bytes()[:n])
			if oneRead {
				r = dataAndEOF{r}
			}
			if err := machine.DirSink(t.TempDir()).ReadTar(t.Context(), r); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d of %d bytes: error %v, want an unexpected end", n, end, err)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := machine.FileSink(file).ReadTar(t.Context(), bytes.NewReader(whole.Bytes()[:1024])); err == nil {
		t.Error("a short stream made a file")
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	padded := io.MultiReader(bytes.NewReader(whole.Bytes()), bytes.NewReader(make([]byte, 10240)))
	if err := machine.DirSink(t.TempDir()).ReadTar(t.Context(), padded); err != nil {
		t.Errorf("padding: %v", err)
	}
	endless := io.MultiReader(bytes.NewReader(whole.Bytes()), zeros{})
	if err := machine.DirSink(t.TempDir()).ReadTar(t.Context(), endless); err == nil {
		t.Error("endless data after the end were accepted")
	}
}

type dataAndEOF struct{ r io.Reader }

func (d dataAndEOF) Read(p []byte) (int, error) {
	n, _ := io.ReadFull(d.r, p)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestFileSinkTakesExactlyOneFile(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		tree machine.Tree
		want string
	}{
		"none":      {machine.Join(), "no file came"},
		"two":       {machine.Join(machine.BytesTree("a", nil, 0o600), machine.BytesTree("b", nil, 0o600)), "more than one"},
		"directory": {machine.DirTree(dir, "d"), "a directory came"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := machine.Copy(t.Context(), tc.tree, machine.FileSink(path)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("a file was made")
			}
		})
	}
	if err := machine.Copy(t.Context(), machine.BytesTree("other", nil, 0o600), machine.NamedFileSink(filepath.Join(dir, "x"), "f")); err == nil {
		t.Error("a file of another name was taken")
	}
	path := filepath.Join(dir, "new", "f")
	if err := machine.Copy(t.Context(), machine.BytesTree("other", []byte("\x00\xff"), 0o600), machine.FileSink(path)); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "\x00\xff" {
		t.Errorf("content %q", b)
	}
}

func TestQuote(t *testing.T) {
	if got, want := machine.Quote("a-b", "", "it's", "$x y"), `a-b '' 'it'\''s' '$x y'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzDirSink(f *testing.F) {
	var b bytes.Buffer
	if err := machine.Join(machine.BytesTree("a/b", []byte("x"), 0o644), machine.BytesTree("c", nil, 0o600)).WriteTar(f.Context(), &b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:700])
	f.Add(bytes.Replace(b.Bytes(), []byte("a/b"), []byte("../"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		top := t.TempDir()
		dst := filepath.Join(top, "d")
		machine.DirSink(dst).ReadTar(t.Context(), bytes.NewReader(data))
		if outside, _ := os.ReadDir(top); len(outside) > 1 {
			t.Errorf("written outside: %v", outside)
		}
	})
}
