package checksum

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/postprocessors"
)

// The sums of "abc" are from FIPS 180-4 and RFC 1321.
var abc = map[string]string{
	"md5":    "900150983cd24fb0d6963f7d28e17f72",
	"sha1":   "a9993e364706816aba3e25717850c26c9cd0d89d",
	"sha224": "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
	"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	"sha384": "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
	"sha512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
}

func artifact(t *testing.T, dir string, names ...string) *builders.Artifact {
	t.Helper()
	for _, n := range names {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, n), []byte("abc"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &builders.Artifact{ID: "x", Files: names}
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEveryType(t *testing.T) {
	p, dir := New(), t.TempDir()
	for kind := range abc {
		p.o.ChecksumTypes = append(p.o.ChecksumTypes, kind)
	}
	if problems := p.Check(t.Context(), nil); problems != nil {
		t.Fatal(problems)
	}
	env := &postprocessors.Env{BuildName: "web", BuilderType: "file", Dir: dir}
	in := artifact(t, dir, "a.img", "sub/b.img")
	destroyed := false
	in.Destroy = func(context.Context) error { destroyed = true; return nil }
	var out *builders.Artifact
	for range 2 { // the second run changes nothing
		var keep bool
		var err error
		if out, keep, err = p.Process(t.Context(), env, in); err != nil || !keep {
			t.Fatalf("keep %v, error %v", keep, err)
		}
	}
	if len(out.Files) != 2+len(abc) || len(in.Files) != 2 || out.ID != "x" {
		t.Errorf("artifact %+v of %+v", out, in)
	}
	for kind, sum := range abc {
		if got, want := content(t, dir, "packer_web_file_"+kind+".checksum"), sum+"\ta.img\n"+sum+"\tb.img\n"; got != want {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
	if err := out.Destroy(t.Context()); err != nil || !destroyed {
		t.Errorf("destroy: %v, input destroyed: %v", err, destroyed)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.checksum")); left != nil {
		t.Errorf("left after destroy: %v", left)
	}
}

func TestDefaultIsMD5(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := New().Process(t.Context(), &postprocessors.Env{BuildName: "web", BuilderType: "file", Dir: dir}, artifact(t, dir, "f")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir, "packer_web_file_md5.checksum"); got != abc["md5"]+"\tf\n" {
		t.Errorf("got %q", got)
	}
}

// Types and bakes may share a file; only what is made anew is replaced.
func TestSharedOutput(t *testing.T) {
	dir := t.TempDir()
	p := New()
	p.o.Output, p.o.ChecksumTypes = "sums/all", []string{"sha1", "md5"}
	stale := strings.Repeat("0", 32) + "\tf\n" + strings.Repeat("1", 32) + "\tother"
	artifact(t, dir, "sums/all")
	if err := os.WriteFile(filepath.Join(dir, "sums/all"), []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Process(t.Context(), &postprocessors.Env{Dir: dir}, artifact(t, dir, "f")); err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("1", 32) + "\tother\n" + abc["sha1"] + "\tf\n" + abc["md5"] + "\tf\n"
	if got := content(t, dir, "sums/all"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestNothingToSum(t *testing.T) {
	warned := false
	env := &postprocessors.Env{Dir: t.TempDir(), Events: event.Scope{Sink: event.Func(func(e event.Event) { warned = e.Kind == event.Warning })}}
	in := &builders.Artifact{ID: "ami-1"}
	out, keep, err := New().Process(t.Context(), env, in)
	if out != in || !keep || err != nil || !warned {
		t.Errorf("out %v, keep %v, error %v, warned %v", out, keep, err, warned)
	}
}

func TestErrors(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	good := artifact(t, dir, "f")
	for name, tc := range map[string]struct {
		ctx  context.Context
		in   *builders.Artifact
		o    Options
		want string
	}{
		"missing file": {t.Context(), &builders.Artifact{Files: []string{"gone"}}, Options{Output: "o"}, "gone"},
		"directory":    {t.Context(), &builders.Artifact{Files: []string{"."}}, Options{Output: "o"}, "directory"},
		"cancelled":    {cancelled, good, Options{Output: "o"}, "context canceled"},
		"bad template": {t.Context(), good, Options{Output: "{{.Nope}}"}, "Nope"},
	} {
		t.Run(name, func(t *testing.T) {
			_, keep, err := (&PostProcessor{tc.o}).Process(tc.ctx, &postprocessors.Env{Dir: dir}, tc.in)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !keep {
				t.Errorf("error %v, keep %v, want %q", err, keep, tc.want)
			}
		})
	}
	_, _, err := (&PostProcessor{Options{Output: "o"}}).Process(t.Context(), &postprocessors.Env{Dir: dir}, &builders.Artifact{Files: []string{"gone"}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v does not unwrap", err)
	}
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Options
		want []string
	}{
		"types":     {Options{Output: "o", ChecksumTypes: []string{"md5", "crc32", "SHA1"}}, []string{"checksum_types", "checksum_types"}},
		"template":  {Options{Output: "{{"}, []string{"output"}},
		"no output": {Options{}, []string{"output"}},
	} {
		var got []string
		for _, p := range (&PostProcessor{tc.o}).Check(t.Context(), nil) {
			got = append(got, p.Option)
		}
		if fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: problems with %q, want %q", name, got, tc.want)
		}
	}
}
