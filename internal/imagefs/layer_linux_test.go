package imagefs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func unpackTo(t testing.TB, archive []byte) (string, error) {
	t.Helper()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "root")
	do(t, os.Mkdir(dir, 0o755))
	_, err := unpackTar(t.Context(), bytes.NewReader(archive), dir, probe(t))
	return dir, err
}

func probe(t testing.TB) string {
	t.Helper()
	ovl, err := overlayPrefix(t.TempDir())
	do(t, err)
	return ovl
}

// What is packed and unpacked again is the same, with every compression.
func TestPackUnpack(t *testing.T) {
	for _, compression := range []string{CompressZstd, CompressGzip, CompressNone} {
		t.Run(compression, func(t *testing.T) {
			upper := filepath.Join(t.TempDir(), "upper")
			makeTree(t, upper)
			s := openStore(t)
			l, err := s.PackDelta(t.Context(), upper, PackOptions{Compression: compression, Epoch: epoch})
			do(t, err)
			do(t, s.ensureLayer(t.Context(), &l))
			do(t, ClampTimes(t.Context(), upper, epoch))
			sameTree(t, describe(t, l.Dir), describe(t, upper))

			var st unix.Stat_t
			do(t, unix.Stat(filepath.Join(l.Dir, "var/lib/sparse"), &st))
			if st.Blocks*512 > 1<<20 {
				t.Errorf("the hole of a sparse file was filled: %d bytes on disk", st.Blocks*512)
			}
		})
	}
}

// GNU tar sees the same tree in the layer.
func TestTarReadsLayer(t *testing.T) {
	need(t, "tar", "zstd")
	upper := filepath.Join(t.TempDir(), "upper")
	makeTree(t, upper)
	s := openStore(t)
	l, err := s.PackDelta(t.Context(), upper, PackOptions{Epoch: epoch})
	do(t, err)
	p, err := s.blobPath(l.Digest)
	do(t, err)
	out := t.TempDir()
	run(t, "tar", "--zstd", "-xpf", p, "-C", out, "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner")
	do(t, ClampTimes(t.Context(), upper, epoch))
	sameTree(t, describe(t, out), describe(t, upper))
}

// The bytes depend on content only: not on workers, order of creation, or clock.
func TestPackIsDeterministic(t *testing.T) {
	s := openStore(t)
	for _, compression := range []string{CompressZstd, CompressGzip} {
		var first Layer
		for i, workers := range []int{1, 2, 7} {
			upper := filepath.Join(t.TempDir(), "upper")
			if i == 1 { // another order of creation
				do(t, os.MkdirAll(filepath.Join(upper, "var/lib"), 0o755))
				do(t, os.MkdirAll(filepath.Join(upper, "usr/bin"), 0o755))
			}
			makeTree(t, upper)
			do(t, os.Chtimes(filepath.Join(upper, "etc/hostname"), time.Time{}, newTime.Add(time.Duration(i)*time.Hour)))
			l, err := s.PackDelta(t.Context(), upper, PackOptions{Compression: compression, Epoch: epoch, Workers: workers})
			do(t, err)
			if i == 0 {
				first = l
			} else if l.Digest != first.Digest || l.DiffID != first.DiffID {
				t.Errorf("%s with %d workers: %s, was %s", compression, workers, l.Digest, first.Digest)
			}
		}
	}
}

// A real overlay's deletions and replaced directories survive packing,
// unpacking and mounting again.
func TestOverlayRoundTrip(t *testing.T) {
	s := openStore(t)
	base := t.TempDir()
	for _, name := range []string{"gone", "opaque/old", "opaque/kept", "plain/a", "plain/b"} {
		do(t, os.MkdirAll(filepath.Dir(filepath.Join(base, name)), 0o755))
		do(t, os.WriteFile(filepath.Join(base, name), []byte(name), 0o644))
	}
	work := t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		do(t, os.Mkdir(filepath.Join(work, d), 0o755))
	}
	merged, upper := filepath.Join(work, "merged"), filepath.Join(work, "upper")
	mount := func(lower, rest string) {
		t.Helper()
		opts := "lowerdir=" + lower + rest
		if s.ovl == "user.overlay." {
			opts += ",userxattr"
		} else if rest != "" {
			opts += ",redirect_dir=off,metacopy=off"
		}
		if err := unix.Mount("overlay", merged, "overlay", 0, opts); err != nil {
			missing(t, "no overlay mounts here: "+err.Error())
		}
	}
	mount(base, ",upperdir="+upper+",workdir="+filepath.Join(work, "work"))
	change := func() error {
		return errors.Join(
			os.Remove(filepath.Join(merged, "gone")),
			os.RemoveAll(filepath.Join(merged, "opaque")),
			os.Mkdir(filepath.Join(merged, "opaque"), 0o755),
			os.WriteFile(filepath.Join(merged, "opaque/kept"), []byte("new"), 0o644),
			os.Remove(filepath.Join(merged, "plain/a")),
			os.WriteFile(filepath.Join(merged, "plain/c"), []byte("c"), 0o644),
			os.WriteFile(filepath.Join(merged, "excluded"), []byte("secret"), 0o600),
		)
	}
	err := change()
	want := ""
	if err == nil {
		want = strings.Join(names(t, merged), " ")
	}
	do(t, unix.Unmount(merged, 0))
	do(t, err)
	want = strings.Replace(want, "excluded ", "", 1)
	if want != ". opaque opaque/kept plain plain/b plain/c" {
		t.Fatalf("the overlay itself shows %s", want)
	}

	l, err := s.PackDelta(t.Context(), upper, PackOptions{Exclude: []string{"excluded"}})
	do(t, err)
	check := func(how, dir string) {
		t.Helper()
		mount(dir+":"+base, "")
		got := strings.Join(names(t, merged), " ")
		do(t, unix.Unmount(merged, 0))
		if got != want {
			t.Errorf("%s: %s, want %s", how, got, want)
		}
	}
	do(t, s.ensureLayer(t.Context(), &l))
	check("unpacked", l.Dir)
	unpacked := describe(t, l.Dir)
	do(t, os.RemoveAll(l.Dir))
	ok, err := s.AdoptLayer(t.Context(), upper, l)
	if err != nil || !ok {
		t.Fatalf("adopt: %v, %v", ok, err)
	}
	check("adopted", l.Dir)
	sameTree(t, describe(t, l.Dir), unpacked)

	// Other tools' view of the same layer.
	if names := tarNames(t, s, l); !slices.Equal(names, []string{
		"./", ".wh.gone", "opaque/", "opaque/.wh..wh..opq", "opaque/kept", "plain/", "plain/.wh.a", "plain/c",
	}) {
		t.Errorf("tar holds %q", names)
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	do(t, walkTree(context.Background(), dir, byName, func(n *node) error { all = append(all, n.name); return nil }))
	return all
}

func tarNames(t testing.TB, s *Store, l Layer) []string {
	t.Helper()
	f, err := s.openBlob(l.Digest)
	do(t, err)
	defer f.Close()
	r, done, err := decompress(f)
	do(t, err)
	defer done()
	var all []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		do(t, err)
		all = append(all, h.Name)
	}
}

func TestPackRefuses(t *testing.T) {
	s := openStore(t)
	tests := map[string]struct {
		make func(dir string) error
		opt  PackOptions
		want string
	}{
		"redirect": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/moved", 0o755), unix.Setxattr(dir+"/moved", s.ovl+"redirect", []byte("/old"), 0))
		}, PackOptions{}, "redirect_dir=off"},
		"whiteout name": {func(dir string) error { return os.WriteFile(dir+"/.wh.x", nil, 0o644) }, PackOptions{}, "deletion"},
		"bad exclude":   {func(string) error { return nil }, PackOptions{Exclude: []string{"../x"}}, "inside it"},
		"compression":   {func(string) error { return nil }, PackOptions{Compression: "rar"}, "unknown compression"},
		"level":         {func(string) error { return nil }, PackOptions{Compression: "gzip", Level: 99}, "level 99"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			do(t, tt.make(dir))
			_, err := s.PackDelta(t.Context(), dir, tt.opt)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error about %q", err, tt.want)
			}
		})
	}
	if left, _ := os.ReadDir(s.tmp); len(left) > 0 {
		t.Errorf("failures left %v behind", left)
	}
}

// What is mounted inside a tree does not become part of a layer.
func TestPackLeavesMountsOut(t *testing.T) {
	dir := t.TempDir()
	do(t, os.MkdirAll(filepath.Join(dir, "mnt"), 0o755))
	if err := unix.Mount("none", filepath.Join(dir, "mnt"), "tmpfs", 0, ""); err != nil {
		missing(t, "no mounts here: "+err.Error())
	}
	defer unix.Unmount(filepath.Join(dir, "mnt"), 0)
	do(t, os.WriteFile(filepath.Join(dir, "mnt/hidden"), nil, 0o600))
	if got := names(t, dir); !slices.Equal(got, []string{".", "mnt"}) {
		t.Errorf("got %q", got)
	}
}

func TestPackStopsWithContext(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir)
	s := openStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := s.PackDelta(ctx, dir, PackOptions{}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// Whatever an archive says, nothing outside of the directory changes.
func TestUnpackHostile(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	do(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("safe"), 0o600))
	before := describe(t, outside)
	deep := strings.Repeat("../", 20)
	tests := []struct {
		name    string
		entries []entry
		refused string // part of the error; empty: it unpacks, confined
		inside  string // this file must then be there
	}{
		{"dotdot", []entry{file("../evil", "x")}, "leads out", ""},
		{"dotdot inside", []entry{file("a/../../evil", "x")}, "leads out", ""},
		{"absolute", []entry{file(outside+"/victim", "evil")}, "", outside + "/victim"},
		{"absolute symlink", []entry{symlink("l", outside), file("l/victim", "evil")}, "open directory", ""},
		{"relative symlink", []entry{symlink("l", deep+outside[1:]), file("l/victim", "evil")}, "open directory", ""},
		{"symlink to existing", []entry{dir("real"), symlink("l", "/real"), file("l/f", "x")}, "", "real/f"},
		{"file over symlink", []entry{symlink("l", outside+"/victim"), file("l", "evil")}, "", "l"},
		{"directory over symlink", []entry{symlink("l", outside), dir("l"), file("l/f", "x")}, "", "l/f"},
		{"hard link out", []entry{hardlink("h", deep+outside[1:]+"/victim"), file("h", "evil")}, "leads out", ""},
		{"hard link by symlink", []entry{symlink("l", outside+"/victim"), hardlink("h", "l"), file("h", "x")}, "", "h"},
		{"hard link through symlink", []entry{symlink("l", outside), hardlink("h", "l/victim")}, "open directory", ""},
		{"whiteout of dot", []entry{dir("d"), file("d/.wh..", "")}, "whiteout of nothing", ""},
		{"whiteout of dotdot", []entry{dir("d"), file("d/.wh...", "")}, "whiteout of nothing", ""},
		{"whiteout of nothing", []entry{file(".wh.", "")}, "whiteout of nothing", ""},
		{"opaque by symlink", []entry{symlink("l", outside), file("l/.wh..wh..opq", "")}, "open directory", ""},
		{"file as directory", []entry{file("f", "x"), file("f/g", "x")}, "not a directory", ""},
		{"link loop", []entry{symlink("a", "b"), symlink("b", "a"), file("a/f", "x")}, "open directory", ""},
		{"root as file", []entry{file(".", "x")}, "not a directory", ""},
		{"magic link", []entry{symlink("p", "/proc/self/root"), file("p/x", "y")}, "open directory", ""},
		{"overlay xattr", []entry{{tar.Header{Typeflag: tar.TypeDir, Name: "d", PAXRecords: map[string]string{
			xattrRecord + "trusted.overlay.redirect": "/etc", xattrRecord + "user.overlay.opaque": "y"}}, ""}}, "", "d"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, err := unpackTo(t, makeTar(t, tt.entries...))
			if tt.refused == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)) {
				t.Errorf("got %v, want an error about %q", err, tt.refused)
			}
			if tt.inside != "" {
				if _, err := os.Lstat(filepath.Join(root, tt.inside)); err != nil {
					t.Error(err)
				}
			}
			if strings.Contains(describe(t, root), ".overlay.redirect") {
				t.Error("the archive set an overlay attribute")
			}
			if after := describe(t, outside); after != before {
				t.Errorf("outside changed:\n%s\nwas\n%s", after, before)
			}
		})
	}
}

// Later entries replace earlier ones, and whiteouts apply to lower layers only.
func TestUnpackOrder(t *testing.T) {
	root, err := unpackTo(t, makeTar(t,
		file("a", "1"), dir("a"), file("a/x", "1"), file("a", "2"),
		file("implied/dir/f", "1"),
		file(".wh.lower", ""), file("lower/f", "1"),
		dir("both"), file("both/f", "1"), file(".wh.both", ""),
		hardlink("h", "a"), hardlink("h", "implied/dir/f"), hardlink("h", "h"),
		file(".wh..wh.plnk", ""),
	))
	do(t, err)
	ovl := probe(t)
	for _, d := range []string{"lower", "both"} {
		if v, err := xattrValue(filepath.Join(root, d), ovl+"opaque"); err != nil || string(v) != "y" {
			t.Errorf("%s is not opaque: %q, %v", d, v, err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(root, "a")); string(b) != "2" {
		t.Errorf("a holds %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "h")); string(b) != "1" {
		t.Errorf("h holds %q", b)
	}
	got := strings.Join(names(t, root), " ")
	if want := ". a both both/f h implied implied/dir implied/dir/f lower lower/f"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func FuzzUnpack(f *testing.F) {
	for _, es := range [][]entry{
		{file("a", "x"), symlink("b", "a"), hardlink("c", "a"), dir("d"), file("d/.wh.e", "")},
		{symlink("l", "/etc"), file("l/f", "x"), file("l", "y")},
		{file(".wh..wh..opq", ""), file("../x", "")},
	} {
		f.Add(makeTar(f, es...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		needRoot(t)
		outer := t.TempDir()
		do(t, os.WriteFile(filepath.Join(outer, "guard"), []byte("x"), 0o600))
		root := filepath.Join(outer, "root")
		do(t, os.Mkdir(root, 0o755))
		_, _ = unpackTar(t.Context(), bytes.NewReader(b), root, "user.overlay.")
		es, err := os.ReadDir(outer)
		if err != nil || len(es) != 2 {
			t.Fatalf("something escaped: %v, %v", es, err)
		}
	})
}

func BenchmarkPack(b *testing.B) {
	need(b, "tar", "zstd")
	tree := benchTree(b)
	s := openStore(b)
	var ours, theirs time.Duration
	for b.Loop() {
		begin := time.Now()
		l, err := s.PackDelta(b.Context(), tree, PackOptions{Epoch: epoch})
		do(b, err)
		ours += time.Since(begin)
		p, _ := s.blobPath(l.Digest)
		do(b, os.Remove(p))
		begin = time.Now()
		out := filepath.Join(b.TempDir(), "ref.tar.zst")
		do(b, exec.Command("sh", "-c", `tar -C "$1" --sort=name --numeric-owner --xattrs -cf - . | zstd -q -3 -T0 -o "$2" && sync "$2"`, "sh", tree, out).Run())
		theirs += time.Since(begin)
	}
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x/tar|zstd")
}

func BenchmarkUnpack(b *testing.B) {
	need(b, "tar", "zstd")
	tree := benchTree(b)
	s := openStore(b)
	l, err := s.PackDelta(b.Context(), tree, PackOptions{Epoch: epoch})
	do(b, err)
	p, err := s.blobPath(l.Digest)
	do(b, err)
	var ours, theirs time.Duration
	for b.Loop() {
		f, err := os.Open(p)
		do(b, err)
		begin := time.Now()
		dir, _, err := s.unpack(b.Context(), f)
		do(b, err)
		ours += time.Since(begin)
		f.Close()
		do(b, os.RemoveAll(dir))
		out := filepath.Join(b.TempDir(), "ref")
		do(b, os.Mkdir(out, 0o755))
		begin = time.Now()
		do(b, exec.Command("tar", "--zstd", "-xpf", p, "-C", out, "--xattrs", "--xattrs-include=*", "--numeric-owner").Run())
		theirs += time.Since(begin)
		do(b, os.RemoveAll(out))
	}
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x/tar|zstd")
}
