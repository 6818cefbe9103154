//go:build linux

package digitaloceanimport

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/postprocessors"
)

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}

const quick = 200

func cloud(t *testing.T) *digitalocean.Cloud {
	t.Helper()
	sandboxtest.Need(t)
	c, err := digitalocean.New(digitalocean.Options{Dir: t.TempDir(), Durations: digitalocean.Realistic().Scale(1.0 / quick)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, v := range c.Violations() {
			t.Errorf("violation of DigitalOcean's description: %s", v)
		}
	})
	access, secret := c.SpacesKeys()
	t.Setenv("DIGITALOCEAN_SPACES_ACCESS_KEY", access)
	t.Setenv("DIGITALOCEAN_SPACES_SECRET_KEY", secret)
	t.Setenv("SPACES_ENDPOINT_URL", c.SpacesURL())
	return c
}

// disk makes a raw disk image with one file in it.
func disk(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"mke2fs", "qemu-img"} {
		if _, err := exec.LookPath(tool); err != nil {
			sandboxtest.Missing(t, "there is no "+tool)
		}
	}
	dir := t.TempDir()
	sandboxtest.Write(t, filepath.Join(dir, "tree"), "etc/hello", "hello\n", 0o644)
	raw := filepath.Join(dir, "disk.raw")
	if out, err := exec.CommandContext(t.Context(), "mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(dir, "tree"), raw, "16m").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return raw
}

type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// process imports the file, and does with its leases what the engine does.
func process(t *testing.T, c *digitalocean.Cloud, ctx context.Context, file, more string) (*builders.Artifact, *said, error) {
	t.Helper()
	p, l := newProcessor(), &ledger{}
	a, s, err := begin(t, c, ctx, p, l, file, more)
	if e := l.release(ctx, p, err == nil); e != nil {
		t.Errorf("%v; %v", err, e)
	}
	return a, s, err
}

// newProcessor makes a post-processor as another process would.
func newProcessor() *PostProcessor { return New(docloud.NewShared(docloud.Tempo{Scale: quick})) }

// begin imports the file, and leaves what it leaves.
func begin(t *testing.T, c *digitalocean.Cloud, ctx context.Context, p *PostProcessor, l *ledger, file, more string) (*builders.Artifact, *said, error) {
	t.Helper()
	return beginWith(t, c, ctx, p, l, file, "image_regions = [\"nyc3\", \"fra1\", \"fra1\", \"sgp1\"]\n"+more)
}

func beginWith(t *testing.T, c *digitalocean.Cloud, ctx context.Context, p *PostProcessor, l *ledger, file, more string) (*builders.Artifact, *said, error) {
	t.Helper()
	body := fmt.Sprintf("api_url = %q\napi_token = %q\nspaces_region = \"nyc3\"\nspace_name = \"images\"\nimage_name = \"imported\"\n%s", c.URL(), c.Token(), more)
	f, diags := hclsyntax.ParseConfig([]byte(body), "x.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, p.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	s := &said{}
	env := &postprocessors.Env{BakeID: bakeID, Dir: t.TempDir(), Leases: l, Events: event.Scope{Sink: event.Func(func(e event.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lines = append(s.lines, e.Text)
	})}}
	if ps := p.Check(ctx, env); len(ps) > 0 {
		t.Fatalf("%+v", ps)
	}
	a, keep, err := p.Process(ctx, env, &builders.Artifact{BuilderID: "x", Files: []string{"/nowhere/readme.txt", file}})
	if err != nil && !keep {
		t.Error("a failure takes the input away")
	}
	return a, s, err
}

func clean(t *testing.T, c *digitalocean.Cloud, kinds ...string) {
	t.Helper()
	for _, r := range c.Left(kinds...) {
		t.Errorf("left: %s", r)
	}
}

// watch puts a proxy before Spaces, and returns the times that the addresses it
// was asked by were valid for, in seconds.
func watch(t *testing.T, c *digitalocean.Cloud) func() []string {
	t.Helper()
	at, err := url.Parse(c.SpacesURL())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lasts []string
	next := httputil.NewSingleHostReverseProxy(at)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := r.URL.Query().Get("X-Amz-Expires"); s != "" {
			mu.Lock()
			lasts = append(lasts, s)
			mu.Unlock()
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Setenv("SPACES_ENDPOINT_URL", srv.URL)
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(lasts)
	}
}

func TestImport(t *testing.T) {
	c := cloud(t)
	lasts := watch(t, c)
	raw := disk(t)
	qcow := strings.TrimSuffix(raw, ".raw") + ".qcow2"
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-O", "qcow2", raw, qcow).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(content) // to memory
	_ = z.Close()
	if err := os.WriteFile(raw+".gz", packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	timeouts := map[string]string{raw: "30m", qcow: "2h", raw + ".gz": "240h"}
	for _, file := range []string{raw, qcow, raw + ".gz"} {
		a, s, err := process(t, c, t.Context(), file, fmt.Sprintf("image_tags = [\"web\"]\nimage_description = \"d\"\ntimeout = %q", timeouts[file]))
		if err != nil {
			t.Fatal(err)
		}
		_, id, _ := strings.Cut(a.ID, ":")
		if !strings.HasPrefix(a.ID, "nyc3,fra1,sgp1:") || a.BuilderID != "pearkes.digitalocean" || len(a.Places) != 3 {
			t.Errorf("%+v", a)
		}
		if b, err := c.ReadFile(id, "/etc/hello"); err != nil || string(b) != "hello\n" {
			t.Errorf("%s: %q, %v", file, b, err)
		}
		images := c.Left("image")
		if len(images) != 1 || images[0].ID != id || len(images[0].Regions) != 3 || !slices.Contains(images[0].Tags, "web") {
			t.Errorf("%v", images)
		}
		if strings.Contains(s.text(), "X-Amz-Signature") {
			t.Errorf("the address of the object was said: %s", s.text())
		}
		clean(t, c, "object", "upload")
		if err := a.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// An hour at least, a week at most.
	if got := lasts(); !slices.Equal(got, []string{"3600", "7200", "604800"}) {
		t.Errorf("the addresses of the objects are valid for %q seconds", got)
	}
	// Kept where the template wants it.
	if _, _, err := process(t, c, t.Context(), raw, `skip_clean = true`+"\n"+`space_object_name = "kept"`); err != nil {
		t.Fatal(err)
	}
	if o := c.Left("object"); len(o) != 1 || o[0].ID != "images/kept" {
		t.Errorf("%v", o)
	}
	if got := fetch(t, c.SpacesURL()+"/images/kept"); !bytes.Contains(got, []byte("AccessDenied")) {
		t.Errorf("who has no keys gets %.100q", got)
	}
}

func TestImportFails(t *testing.T) {
	c := cloud(t)
	raw := disk(t)
	// No disk image at all.
	garbage := filepath.Join(t.TempDir(), "x.raw.gz")
	if err := os.WriteFile(garbage, []byte("\x1f\x8bnothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := process(t, c, t.Context(), garbage, ""); err == nil {
		t.Error("garbage is imported as an image")
	}
	clean(t, c)
	if _, _, err := process(t, c, t.Context(), "/x/y.iso", ""); err == nil || !strings.Contains(err.Error(), ".qcow2") {
		t.Errorf("%v", err)
	}
	// A region that does not take it: nothing stays.
	c.FailActions(func(a digitalocean.Action) bool { return a.Type == "transfer" && a.Region == "sgp1" })
	if _, _, err := process(t, c, t.Context(), raw, ""); err == nil || !strings.Contains(err.Error(), "sgp1") {
		t.Errorf("%v", err)
	}
	c.FailActions(nil)
	clean(t, c)
	// Cancelled while the image is made.
	ctx, cancel := context.WithCancel(t.Context())
	c.Plan().Done(func(call fault.Call) {
		if call.Action == "POST /v2/images" {
			cancel()
		}
	})
	if _, _, err := process(t, c, ctx, raw, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	c.Plan().Done(nil)
	clean(t, c)
	// A timeout.
	if _, _, err := process(t, c, t.Context(), raw, `timeout = "1ns"`); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("%v", err)
	}
	clean(t, c)
	// Keys that are none.
	t.Setenv("DIGITALOCEAN_SPACES_SECRET_KEY", "wrong")
	if _, _, err := process(t, c, t.Context(), raw, ""); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("%v", err)
	}
	t.Setenv("DIGITALOCEAN_SPACES_SECRET_KEY", "")
	if _, _, err := process(t, c, t.Context(), raw, ""); err == nil || !strings.Contains(err.Error(), "spaces_secret") {
		t.Errorf("%v", err)
	}
}

// TestParts uploads in parts, and gives up those that are there when one fails.
func TestParts(t *testing.T) {
	c := cloud(t)
	p := New(nil)
	p.o.SpaceName, p.o.SpacesRegion = "images", "nyc3"
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, err := p.endpoint()
	if err == nil {
		p.store, err = p.client(at, "nyc3")
	}
	if err != nil {
		t.Fatal(err)
	}
	p.part = 5 << 20
	l := &ledger{}
	u := &upload{PostProcessor: p, leases: l, data: map[string]string{dataID: "x", dataRegion: "nyc3", dataSpace: "images", dataKey: "large"}}
	var mu sync.Mutex
	var last int64
	progress := func(done, _ int64) {
		mu.Lock()
		defer mu.Unlock()
		last = max(last, done)
	}
	if err := u.put(t.Context(), f, progress); err != nil {
		t.Fatal(err)
	}
	if last != int64(len(content)) {
		t.Errorf("progress ended at %d of %d", last, len(content))
	}
	where, err := u.address(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, where); !bytes.Equal(got, content) {
		t.Errorf("got %d bytes, want %d", len(got), len(content))
	}
	if bare, _, _ := strings.Cut(where, "?"); len(fetch(t, bare)) > 1000 {
		t.Error("anyone can read the object")
	}
	if open := l.Open(); len(open) != 1 || open[0].Kind != leaseObject {
		t.Errorf("leases %+v", open)
	}
	for range 2 {
		if err := p.Release(t.Context(), u.object); err != nil {
			t.Error(err)
		}
	}
	if err := u.done(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := u.put(ctx, f, func(int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if up := c.Left("upload"); len(up) != 1 {
		t.Errorf("uploads %v", up)
	}
	if err := l.release(t.Context(), p, false); err != nil {
		t.Error(err)
	}
	clean(t, c)
}

func fetch(t *testing.T, at string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "curl", "-s", "--noproxy", "*", at).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDiskImage(t *testing.T) {
	for want, files := range map[string][]string{
		"b.QCOW2":    {"a.txt", "b.QCOW2", "c.raw"},
		"x.raw.gz":   {"x.gz", "x.raw.gz"},
		"x.vhdx.bz2": {"x.vhdx.bz2"},
		"d/x.img":    {"d.img/x", "d/x.img"},
		"":           {"x.iso", "x.gz", "raw", "x.raw.xz"},
	} {
		if got, _ := diskImage(files); got != want {
			t.Errorf("%q: %q, want %q", files, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	good := func() *PostProcessor {
		p := New(nil)
		p.o.SpacesRegion, p.o.SpaceName, p.o.ImageName, p.o.ImageRegions = "nyc3", "images", "n", []string{"nyc3"}
		return p
	}
	if ps := good().Check(t.Context(), nil); len(ps) > 0 {
		t.Errorf("%+v", ps)
	}
	for option, spoil := range map[string]func(*Options){
		"spaces_region":     func(o *Options) { o.SpacesRegion = "a/b" },
		"space_name":        func(o *Options) { o.SpaceName = "A" },
		"space_object_name": func(o *Options) { o.SpaceObjectName = "{{" },
		"spaces_endpoint":   func(o *Options) { o.SpacesEndpoint = "http://example.com" },
		"image_name":        func(o *Options) { o.ImageName = "a\nb" },
		"image_regions":     func(o *Options) { o.ImageRegions = nil },
		"image_regions.1":   func(o *Options) { o.ImageRegions = []string{"nyc3", "N"} },
		"image_tags.0":      func(o *Options) { o.ImageTags = []string{"a b"} },
		"timeout":           func(o *Options) { o.Timeout = 0 },
	} {
		p := good()
		spoil(&p.o)
		if ps := p.Check(t.Context(), nil); len(ps) != 1 || ps[0].Option != option {
			t.Errorf("%s: %+v", option, ps)
		}
	}
}
