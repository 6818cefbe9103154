package imagefs

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/ingotbuild/ingot/internal/event"
)

// packedTree packs makeTree's tree with GNU tar and returns its path and the tree.
func packedTree(t testing.TB, ext string) (file, tree string) {
	t.Helper()
	if tool := map[string]string{".gz": "gzip", ".zst": "zstd", ".xz": "xz"}[ext]; tool != "" {
		need(t, tool)
	}
	tree = filepath.Join(t.TempDir(), "tree")
	makeTree(t, tree)
	file = filepath.Join(t.TempDir(), "base.tar"+ext)
	run(t, "tar", "-C", tree, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-caf", file, ".")
	do(t, ClampTimes(t.Context(), tree, time.Time{}))
	return file, tree
}

func TestTarballBase(t *testing.T) {
	for ext, media := range map[string]string{"": mediaTar, ".gz": mediaGzip, ".zst": mediaZstd, ".xz": mediaZstd} {
		t.Run("tar"+ext, func(t *testing.T) {
			file, tree := packedTree(t, ext)
			dir := t.TempDir()
			s := openStoreAt(t, dir)
			base, err := s.TarballBase(t.Context(), file)
			do(t, err)
			sameTree(t, describe(t, base.LowerDirs()[0]), describe(t, tree))
			l := base.Layers[0]
			if l.MediaType != media {
				t.Errorf("media type %s, want %s", l.MediaType, media)
			}
			if ext != ".xz" {
				if d, _ := hashFile(file); d != l.Digest {
					t.Error("the tarball was not kept as it is")
				}
			}
			p, err := s.blobPath(l.Digest)
			do(t, err)
			if d, err := hashFile(p); err != nil || d != l.Digest {
				t.Errorf("blob: %v, %v", d, err)
			}
			// The same again does not read the file: it cannot.
			fi, err := os.Stat(file)
			do(t, err)
			again, err := openStoreAt(t, dir).TarballBase(t.Context(), file)
			do(t, err)
			if again.Fingerprint != base.Fingerprint || again.Layers[0].Dir != l.Dir {
				t.Errorf("warm: %+v, cold: %+v", again, base)
			}
			if e := s.cached("file", file); e == nil || e.Stamp != fileStamp(fi) {
				t.Errorf("the file is not remembered: %+v", e)
			}
			// Another content under the same name is another base.
			do(t, os.WriteFile(file, makeTar(t, dirEntryFile("new")), 0o600))
			other, err := s.TarballBase(t.Context(), file)
			do(t, err)
			if other.Fingerprint == base.Fingerprint {
				t.Error("the fingerprint is the same for other content")
			}
		})
	}
}

func dirEntryFile(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, "x"}
}

func TestTarballBaseRefuses(t *testing.T) {
	s := openStore(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		p := filepath.Join(dir, name)
		do(t, os.WriteFile(p, []byte(content), 0o600))
		return p
	}
	cut := func(ext string) string {
		file, _ := packedTree(t, ext)
		b, err := os.ReadFile(file)
		do(t, err)
		return string(b[:len(b)/2])
	}
	for _, p := range []string{
		write("text", "this is not a tar archive, however one looks at it"+strings.Repeat(".", 1000)),
		write("cut.gz", "\x1f\x8b\x08"), write("cut.zst", "\x28\xb5\x2f\xfd"), write("cut.xz", "\xfd7zXZ\x00"),
		write("evil.tar", string(makeTar(t, dirEntryFile("../evil")))),
		dir, filepath.Join(dir, "missing"),
		write("cut2.gz", cut(".gz")), write("cut2.zst", cut(".zst")), write("cut2.xz", cut(".xz")), write("cut2.tar", cut("")),
		write("empty", ""),
	} {
		if _, err := s.TarballBase(t.Context(), p); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: got %v, want an error that names the file", p, err)
		}
	}
	if left := mustReadDir(t, s.path("layers")); len(left) > 0 {
		t.Errorf("failures left %v in layers", left)
	}
	if left, _ := os.ReadDir(s.tmp); len(left) > 0 {
		t.Errorf("failures left %v behind", left)
	}
}

// A layer that another boot wrote without fsync may be damaged.
func TestLayerOfAnotherBoot(t *testing.T) {
	s := openStore(t)
	file, tree := packedTree(t, "")
	base, err := s.TarballBase(t.Context(), file)
	do(t, err)
	dir := base.Layers[0].Dir
	for _, tt := range []struct {
		m    marker
		kept bool
	}{{marker{Boot: "other"}, false}, {marker{Boot: "other", Synced: true}, true}, {marker{Boot: s.boot}, true}} {
		do(t, os.WriteFile(filepath.Join(dir, "damage"), nil, 0o600))
		do(t, s.writeJSON(dir+".json", tt.m, false))
		_, err := s.TarballBase(t.Context(), file)
		do(t, err)
		_, err = os.Stat(filepath.Join(dir, "damage"))
		if kept := err == nil; kept != tt.kept {
			t.Errorf("%+v: kept %v, want %v", tt.m, kept, tt.kept)
		}
		os.Remove(filepath.Join(dir, "damage"))
	}
	do(t, os.Remove(dir+".json"))
	do(t, os.RemoveAll(dir))
	_, err = s.TarballBase(t.Context(), file)
	do(t, err)
	sameTree(t, describe(t, dir), describe(t, tree))
}

// Several stores in one directory do not get in each other's way.
func TestConcurrentStores(t *testing.T) {
	file, tree := packedTree(t, "")
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		s := openStoreAt(t, dir)
		wg.Go(func() {
			base, err := s.TarballBase(t.Context(), file)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Collect(t.Context(), 0); err != nil {
				t.Error(err)
			}
			digest, err := s.WriteImage(t.Context(), base, Layer{}, ImageConfig{}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.LayerDirs(t.Context(), digest); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := openStoreAt(t, dir)
	base, err := s.TarballBase(t.Context(), file)
	do(t, err)
	sameTree(t, describe(t, base.Layers[0].Dir), describe(t, tree))
}

func bakedImage(t testing.TB, s *Store, compression string) (digest string, base *Base, delta Layer) {
	t.Helper()
	base, err := s.TarballBase(t.Context(), gzTarball(t))
	do(t, err)
	upper := t.TempDir()
	makeTree(t, upper)
	delta, err = s.PackDelta(t.Context(), upper, PackOptions{Epoch: epoch, Compression: compression})
	do(t, err)
	digest, err = s.WriteImage(t.Context(), base, delta, ImageConfig{
		Cmd: []string{"serve"}, Env: []string{"A=1"}, ExposedPorts: []string{"80", "53/udp"}, User: "1000:1000",
		WorkingDir: "/srv", Labels: map[string]string{"z": "1", "a": "2"}, Created: epoch,
		Annotations: map[string]string{"org.example.note": "x"},
	}, nil)
	do(t, err)
	return digest, base, delta
}

func gzTarball(t testing.TB) string {
	f, _ := packedTree(t, ".gz")
	return f
}

func TestImage(t *testing.T) {
	s := openStore(t)
	digest, base, delta := bakedImage(t, s, "")
	again, err := s.WriteImage(t.Context(), base, delta, ImageConfig{
		Cmd: []string{"serve"}, Env: []string{"A=1"}, ExposedPorts: []string{"80", "53/udp"}, User: "1000:1000",
		WorkingDir: "/srv", Labels: map[string]string{"z": "1", "a": "2"}, Created: epoch,
		Annotations: map[string]string{"org.example.note": "x"},
	}, nil)
	do(t, err)
	if again != digest {
		t.Errorf("the same image has digests %s and %s", digest, again)
	}
	img, err := s.Image(digest)
	do(t, err)
	if len(img.Layers) != 2 || img.Layers[1].DiffID != delta.DiffID || img.Config.Config.User != "1000:1000" ||
		img.Annotations["org.example.note"] != "x" || len(img.Config.History) != 2 {
		t.Errorf("read back: %+v", img)
	}
	if _, ok := img.Config.Config.ExposedPorts["80/tcp"]; !ok {
		t.Errorf("ports: %v", img.Config.Config.ExposedPorts)
	}
	dirs, err := s.LayerDirs(t.Context(), digest)
	do(t, err)
	if len(dirs) != 2 || dirs[1] != base.Layers[0].Dir {
		t.Errorf("lower directories %v are not top first", dirs)
	}
	child, err := s.ImageBase(t.Context(), digest)
	do(t, err)
	next, err := s.WriteImage(t.Context(), child, Layer{}, ImageConfig{Env: []string{"A=2", "B=3"}, Entrypoint: []string{"/init"}}, nil)
	do(t, err)
	img, err = s.Image(next)
	do(t, err)
	if !slices.Equal(img.Config.Config.Env, []string{"A=2", "B=3"}) || img.Config.Config.Cmd != nil || img.Config.Config.WorkingDir != "/srv" {
		t.Errorf("merged config: %+v", img.Config.Config)
	}
}

func TestImageErrors(t *testing.T) {
	s := openStore(t)
	for _, d := range []string{"", "sha256:zz", "sha256:../../../etc/passwd", "md5:" + strings.Repeat("0", 64)} {
		if _, err := s.Image(d); err == nil || !strings.Contains(err.Error(), "not a digest") {
			t.Errorf("%q: %v", d, err)
		}
		if err := s.Delete(t.Context(), d); err == nil {
			t.Errorf("deleted %q", d)
		}
	}
	if _, err := s.Image("sha256:" + strings.Repeat("0", 64)); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	const secret = "hunter2"
	for _, cfg := range []ImageConfig{{Env: []string{"=" + secret}}, {ExposedPorts: []string{"http"}}} {
		if _, err := s.WriteImage(t.Context(), HostBase(""), Layer{}, cfg, nil); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%+v: got %v", cfg, err)
		}
	}
}

func TestHostImage(t *testing.T) {
	s := openStore(t)
	upper := t.TempDir()
	makeTree(t, upper)
	delta, err := s.PackDelta(t.Context(), upper, PackOptions{})
	do(t, err)
	digest, err := s.WriteImage(t.Context(), HostBase("x"), delta, ImageConfig{}, nil)
	do(t, err)
	img, err := s.Image(digest)
	do(t, err)
	if len(img.Layers) != 1 || img.Annotations[annotationBaseKind] != KindHost {
		t.Errorf("%+v", img)
	}
	base, err := s.ImageBase(t.Context(), digest)
	do(t, err)
	if !base.OnHost || len(base.Layers) != 1 {
		t.Errorf("a delta on a host as a base: %+v", base)
	}
	// What is baked on it needs the host too.
	next, err := s.WriteImage(t.Context(), base, Layer{}, ImageConfig{}, nil)
	do(t, err)
	if img, err := s.Image(next); err != nil || !img.OnHost() {
		t.Errorf("an image on that: %+v, %v", img, err)
	}
}

func TestDirectoryBase(t *testing.T) {
	s := openStore(t)
	tree := t.TempDir()
	makeTree(t, tree)
	base, err := s.DirectoryBase(t.Context(), tree)
	do(t, err)
	if base.Layers[0].Dir != tree || len(mustReadDir(t, s.path("blobs/sha256"))) > 0 {
		t.Errorf("the directory was packed before it had to be: %+v", base)
	}
	digest, err := s.WriteImage(t.Context(), base, Layer{}, ImageConfig{}, nil)
	do(t, err)
	dirs, err := s.LayerDirs(t.Context(), digest)
	do(t, err)
	do(t, ClampTimes(t.Context(), tree, time.Time{}))
	sameTree(t, describe(t, dirs[0]), describe(t, tree))
	do(t, os.WriteFile(filepath.Join(tree, "etc/hostname"), []byte("other name\n"), 0o644))
	changed, err := s.DirectoryBase(t.Context(), tree)
	do(t, err)
	if changed.Fingerprint == base.Fingerprint {
		t.Error("the fingerprint did not change with the tree")
	}
}

func mustReadDir(t testing.TB, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	do(t, err)
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

func TestDeleteAndCollect(t *testing.T) {
	dir := t.TempDir()
	s := openStoreAt(t, dir)
	keep, base, _ := bakedImage(t, s, "")
	upper := t.TempDir()
	do(t, os.WriteFile(filepath.Join(upper, "only-here"), []byte("x"), 0o644))
	delta, err := s.PackDelta(t.Context(), upper, PackOptions{})
	do(t, err)
	gone, err := s.WriteImage(t.Context(), base, delta, ImageConfig{}, nil)
	do(t, err)
	_, err = s.LayerDirs(t.Context(), gone)
	do(t, err)
	do(t, s.ensureLayer(t.Context(), &delta))

	// Another process must not take away what this one uses.
	other := openStoreAt(t, dir)
	do(t, other.Delete(t.Context(), gone))
	if _, err := os.Stat(delta.Dir); err != nil {
		t.Errorf("a layer in use was removed: %v", err)
	}
	do(t, s.Close())
	do(t, other.Close())

	// What a crashed process left is removed as well.
	do(t, os.MkdirAll(filepath.Join(dir, "tmp/crashed/layer"), 0o755))
	last := openStoreAt(t, dir)
	do(t, last.Delete(t.Context(), gone)) // again: success
	if _, err := last.Image(gone); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted image: %v", err)
	}
	if ok, _ := last.hasBlob(delta.Digest); ok {
		t.Error("the deleted image's blob is still there")
	}
	if _, err := os.Stat(delta.Dir); err == nil {
		t.Error("the deleted image's layer is still there")
	}
	if _, err := os.Stat(filepath.Join(dir, "tmp/crashed")); err == nil {
		t.Error("the crashed process's files are still there")
	}
	_, err = last.LayerDirs(t.Context(), keep)
	do(t, err)
	do(t, last.Delete(t.Context(), keep))
	do(t, last.Close())
	last = openStoreAt(t, dir)
	_, err = last.Collect(t.Context(), 0)
	do(t, err)
	for _, sub := range []string{"blobs/sha256", "layers", "images", "cache"} {
		if left := mustReadDir(t, filepath.Join(dir, sub)); len(left) > 0 {
			t.Errorf("%s still holds %v", sub, left)
		}
	}
}

// The way through a real registry server, an OCI layout and a docker archive.
func TestOCIBase(t *testing.T) {
	need(t, "skopeo")
	s := openStore(t)
	digest, _, _ := bakedImage(t, s, CompressGzip)
	img, err := s.Image(digest)
	do(t, err)
	want, err := s.LayerDirs(t.Context(), digest)
	do(t, err)

	work := t.TempDir()
	layoutDir := filepath.Join(work, "layout")
	_, err = s.ExportOCI(t.Context(), digest, layoutDir, "v1")
	do(t, err)
	archive := filepath.Join(work, "image.tar")
	_, err = s.ExportDockerArchive(t.Context(), digest, archive, "golden:v1")
	do(t, err)
	var requests int
	handler := registry.New()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		handler.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	run(t, "skopeo", "copy", "--dest-tls-verify=false", "oci:"+layoutDir+":v1", "docker://"+host+"/golden:v1")

	for _, ref := range []string{"oci:" + layoutDir, "oci:" + layoutDir + ":v1", "docker-archive:" + archive, host + "/golden:v1"} {
		t.Run(strings.SplitN(ref, ":", 2)[0], func(t *testing.T) {
			dir := t.TempDir()
			pulled := openStoreAt(t, dir)
			base, err := pulled.OCIBase(t.Context(), ref, OCIOptions{})
			do(t, err)
			got := base.LowerDirs()
			if len(got) != len(want) {
				t.Fatalf("%d layers, want %d", len(got), len(want))
			}
			for i := range got {
				sameTree(t, describe(t, got[i]), describe(t, want[i]))
			}
			if base.Config.Config.User != "1000:1000" || base.Layers[1].DiffID != img.Layers[1].DiffID {
				t.Errorf("base: %+v", base)
			}
			before := requests
			warm, err := pulled.OCIBase(t.Context(), ref, OCIOptions{})
			do(t, err)
			if warm.Fingerprint != base.Fingerprint {
				t.Error("the fingerprint changed without reason")
			}
			if n := requests - before; n > 2 { // the API's ping and one HEAD
				t.Errorf("a warm base took %d requests", n)
			}
		})
	}
	for _, ref := range []string{"oci:" + layoutDir + ":nope", "oci:/missing", "docker-archive:/missing", host + "/none:v1", "UPPER CASE"} {
		if _, err := s.OCIBase(t.Context(), ref, OCIOptions{}); err == nil || !strings.Contains(err.Error(), ref) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
	if _, err := s.OCIBase(t.Context(), "oci:"+layoutDir, OCIOptions{Platform: "linux/s390x"}); err == nil {
		t.Error("an image for another machine was taken")
	}
}

// A registry's lies are found out.
func TestOCIBaseChecksDigests(t *testing.T) {
	s := openStore(t)
	digest, _, delta := bakedImage(t, s, CompressGzip)
	dir := filepath.Join(t.TempDir(), "layout")
	_, err := s.ExportOCI(t.Context(), digest, dir, "v1")
	do(t, err)
	p := filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(delta.Digest, "sha256:"))
	do(t, os.Remove(p)) // a hard link into the store
	do(t, os.WriteFile(p, []byte("other content"), 0o644))
	if _, err := openStore(t).OCIBase(t.Context(), "oci:"+dir, OCIOptions{}); err == nil || !strings.Contains(err.Error(), delta.Digest) {
		t.Errorf("got %v", err)
	}
}

// fakeDebootstrap puts a program of that name in the PATH which writes a small
// tree, and says how often it ran.
func fakeDebootstrap(t *testing.T, body string) (runs func() int) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "runs")
	script := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo \"debootstrap ${FAKE_VERSION:-1.0}\"; exit; fi\n" +
		"echo run >>" + log + "\nfor a; do suite=$target target=$mirror mirror=$a; done\n" + body
	do(t, os.WriteFile(filepath.Join(dir, "debootstrap"), []byte(script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() int {
		b, _ := os.ReadFile(log)
		return bytes.Count(b, []byte("run"))
	}
}

func TestDebootstrapBase(t *testing.T) {
	runs := fakeDebootstrap(t, `mkdir "$target/etc"; echo "$suite $mirror $*" >"$target/etc/args"; ln -s ../run/gone "$target/etc/resolv.conf"
hostname >"$target/etc/hostname"; echo 0123456789abcdef >"$target/etc/machine-id"; mkdir -p "$target/var/cache/apt/archives"; touch "$target/var/cache/apt/archives/a_1%3a1.deb"
mount -t tmpfs none "$target/etc" && touch "$target/etc/in-own-namespace"; echo "I: done"`)
	state, status := "1", 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debian/dists/bookworm/InRelease" {
			status = 404
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, "Suite: stable\nDate: Sat, 05 Sep 2026 10:00:00 UTC\nState: %s\n", state)
	}))
	defer srv.Close()
	var mu sync.Mutex
	var said []string
	s, err := Open(t.TempDir(), event.Scope{Sink: event.Func(func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, string(e.Kind)+": "+e.Text)
	})})
	if os.Geteuid() != 0 {
		missing(t, "needs root")
	}
	do(t, err)
	defer s.Close()
	d := Debootstrap{Suite: "bookworm", Mirror: srv.URL + "/debian/", Include: []string{"nginx-light"}, Arch: "arm64"}
	base, err := s.DebootstrapBase(t.Context(), d)
	do(t, err)
	args, err := os.ReadFile(filepath.Join(base.Layers[0].Dir, "etc/args"))
	do(t, err)
	for _, want := range []string{"bookworm " + srv.URL + "/debian ", "--variant=minbase", "--include=nginx-light", "--arch=arm64"} {
		if !strings.Contains(string(args), want) {
			t.Errorf("debootstrap was run with %s, want %s", args, want)
		}
	}
	for _, f := range []string{"etc/resolv.conf", "etc/hostname", "var/cache/apt/archives/a_1%3a1.deb"} {
		if _, err := os.Lstat(filepath.Join(base.Layers[0].Dir, f)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is in the base: %v", f, err)
		}
	}
	if id, err := os.ReadFile(filepath.Join(base.Layers[0].Dir, "etc/machine-id")); err != nil || len(id) > 0 {
		t.Errorf("machine-id is %q, %v", id, err)
	}
	if _, err := os.Stat(filepath.Join(base.Layers[0].Dir, "etc/in-own-namespace")); err == nil {
		t.Error("the tool's mounts are visible outside of it")
	}
	if base.Config.Architecture != "arm64" || !slices.Contains(said, "output: I: done") {
		t.Errorf("%+v; events %q", base, said)
	}
	step := func(what string, wantRuns int, want string) {
		t.Helper()
		_, err := s.DebootstrapBase(t.Context(), d)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		if n := runs(); n != wantRuns {
			t.Errorf("%s: the tool ran %d times, want %d", what, n, wantRuns)
		}
	}
	step("again", 1, "")
	state = "2"
	step("the mirror moved on", 2, "")
	status = 503
	step("the mirror is down", 2, "")
	if last := said[len(said)-1]; !strings.HasPrefix(last, "warning: the mirror does not work") {
		t.Errorf("no warning: %q", last)
	}
	status = 200
	t.Setenv("FAKE_VERSION", "2.0")
	step("another debootstrap", 3, "")
	status = 503
	d.Include = nil
	step("down, and other options", 3, "503")
	status, d.Suite = 200, "nosuch"
	step("no such suite", 3, "no such suite")
	d.Suite = "--evil"
	step("an option as suite", 3, "want a name")
}

func TestDebootstrapDiesWithContext(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mirror := filepath.Join(dir, "mirror/dists/bookworm")
	do(t, os.MkdirAll(mirror, 0o755))
	do(t, os.WriteFile(filepath.Join(mirror, "InRelease"), []byte("x"), 0o644))
	fifo := filepath.Join(dir, "fifo")
	do(t, syscall.Mkfifo(fifo, 0o600))
	// Its grandchild holds the pipe open until it is dead as well.
	fakeDebootstrap(t, "(exec 3>"+fifo+"; echo up >&3; exec sleep 1000) & wait\n")
	s := openStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.DebootstrapBase(ctx, Debootstrap{Suite: "bookworm", Mirror: "file://" + filepath.Join(dir, "mirror")})
		done <- err
	}()
	f, err := os.Open(fifo)
	do(t, err)
	defer f.Close()
	up := make([]byte, 3)
	_, err = io.ReadFull(f, up)
	do(t, err)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := io.ReadAll(f); err != nil { // ends when the last writer is gone
		t.Error(err)
	}
	if left := mustReadDir(t, s.tmp); len(left) > 0 {
		t.Errorf("it left %v behind", left)
	}
}

// A cache file that someone damaged is as good as none.
func TestDamagedCache(t *testing.T) {
	s := openStore(t)
	file, _ := packedTree(t, "")
	_, err := s.TarballBase(t.Context(), file)
	do(t, err)
	for _, name := range mustReadDir(t, s.path("cache")) {
		do(t, os.WriteFile(s.path("cache", name), []byte(`{"layers":[{"digest":"../../x"}]}`), 0o600))
	}
	_, err = s.TarballBase(t.Context(), file)
	do(t, err)
}

func TestSkopeoReadsLayout(t *testing.T) {
	need(t, "skopeo", "umoci")
	s := openStore(t)
	for _, compression := range []string{CompressZstd, CompressGzip} {
		digest, _, delta := bakedImage(t, s, compression)
		dir := filepath.Join(t.TempDir(), "layout")
		out, err := s.ExportOCI(t.Context(), digest, dir, "v1")
		do(t, err)
		if out.Digest != digest || out.Bytes == 0 {
			t.Errorf("%+v", out)
		}
		var got struct {
			Digest string
			Layers []string
			Env    []string
			Labels map[string]string
		}
		do(t, json.Unmarshal([]byte(run(t, "skopeo", "inspect", "oci:"+dir+":v1")), &got))
		if got.Digest != digest || len(got.Layers) != 2 || got.Layers[1] != delta.Digest || got.Labels["a"] != "2" {
			t.Errorf("skopeo sees %+v", got)
		}
		run(t, "skopeo", "copy", "oci:"+dir+":v1", "dir:"+filepath.Join(t.TempDir(), "copy"))
		if compression == CompressGzip { // all that umoci 0.4 reads
			bundle := filepath.Join(t.TempDir(), "bundle")
			run(t, "umoci", "unpack", "--keep-dirlinks", "--image", dir+":v1", bundle)
			b, err := os.ReadFile(filepath.Join(bundle, "rootfs/etc/hostname"))
			if err != nil || string(b) != "golden\n" {
				t.Errorf("umoci unpacked %q, %v", b, err)
			}
		}
		// Over an OCI layout, but over nothing else.
		_, err = s.ExportOCI(t.Context(), digest, dir, "v2")
		do(t, err)
		precious := t.TempDir()
		do(t, os.WriteFile(filepath.Join(precious, "data"), nil, 0o600))
		if _, err := s.ExportOCI(t.Context(), digest, precious, "v1"); err == nil {
			t.Error("a directory that is no OCI layout was replaced")
		}
		if left := mustReadDir(t, filepath.Dir(dir)); !slices.Equal(left, []string{"layout"}) {
			t.Errorf("beside the layout: %v", left)
		}
	}
}

func TestExportOCITag(t *testing.T) {
	s := openStore(t)
	digest, err := s.WriteImage(t.Context(), HostBase(""), Layer{}, ImageConfig{}, nil)
	do(t, err)
	for tag, good := range map[string]bool{
		"v1.2_3-4": true, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, "": false, ".a": false, "a/b": false, "a\n": false,
	} {
		if _, err := s.ExportOCI(t.Context(), digest, filepath.Join(t.TempDir(), "layout"), tag); (err == nil) != good {
			t.Errorf("tag %q: %v", tag, err)
		}
	}
}

func TestDockerArchive(t *testing.T) {
	need(t, "skopeo", "tar")
	s := openStore(t)
	digest, _, _ := bakedImage(t, s, "")
	dir := t.TempDir()
	var digests []string
	for i := range 2 {
		p := filepath.Join(dir, fmt.Sprintf("%d.tar", i))
		out, err := s.ExportDockerArchive(t.Context(), digest, p, "golden:v1")
		do(t, err)
		digests = append(digests, out.Digest)
		run(t, "skopeo", "inspect", "docker-archive:"+p)
		run(t, "tar", "-tvf", p)
	}
	if digests[0] != digests[1] {
		t.Error("the same image gave two archives")
	}
	if exec.Command("docker", "version").Run() != nil {
		missing(t, "no Docker engine answers")
	}
	if out := run(t, "docker", "load", "-i", filepath.Join(dir, "0.tar")); !strings.Contains(out, "golden:v1") {
		t.Errorf("docker load: %s", out)
	}
	run(t, "docker", "rmi", "golden:v1")
}
