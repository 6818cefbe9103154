package file

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/event"
)

func TestSuite(t *testing.T) {
	buildertest.Run(t, buildertest.Options{
		New:         func() builders.Builder { return New() },
		Config:      "target = \"some/where/out.txt\"\ncontent = \"hello\"",
		Exists:      exists,
		Machineless: true,
		Bad: []buildertest.Bad{
			{Name: "no target", Config: `content = "x"`, Option: "target"},
			{Name: "both", Config: "target = \"t\"\ncontent = \"x\"\nsource = \"/etc/passwd\"", Option: "source"},
			{Name: "no such source", Config: "target = \"t\"\nsource = \"nowhere\"", Option: "source"},
			{Name: "a directory", Config: "target = \"t\"\nsource = \"/\"", Option: "source"},
		},
	})
}

func exists(l builders.Lease) bool {
	_, err := os.Lstat(l.Name)
	_, part := os.Lstat(partial(l))
	return err == nil || part == nil
}

// leases keeps what is intended.
type leases struct {
	builders.Leases
	all []builders.Lease
}

func (l *leases) Intend(_ context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	l.all = append(l.all, builders.Lease{Kind: kind, Name: name, Data: data, BakeID: "id"})
	return l.all[len(l.all)-1], nil
}

func run(t *testing.T) (*builders.Run, *leases) {
	l := &leases{}
	return &builders.Run{BakeID: "id", Dir: t.TempDir(), Values: map[string]string{}, Leases: l, Events: event.Scope{Sink: event.Discard}}, l
}

func TestFile(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		want    string
		mode    os.FileMode
	}{
		"content": {Options{Target: "a/b", Content: "text"}, "text", 0o600},
		"source":  {Options{Target: "a/b", Source: "source"}, "of the source", 0o750},
		"empty":   {Options{Target: "b"}, "", 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			r, l := run(t)
			if err := os.WriteFile(filepath.Join(r.Dir, "source"), []byte("of the source"), 0o750); err != nil {
				t.Fatal(err)
			}
			b := New()
			b.o = c.options
			if _, err := b.Boot(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			a, err := b.Snapshot(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(r.Dir, c.options.Target)
			got, err := os.ReadFile(path)
			if err != nil || string(got) != c.want {
				t.Errorf("the file holds %q, %v", got, err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != c.mode && runtime.GOOS != "windows" {
				t.Errorf("the file has the mode %v, %v", info.Mode(), err)
			}
			if a.ID != "File" || len(a.Files) != 1 || a.Files[0] != c.options.Target || a.Places[0].ID != path {
				t.Errorf("%+v", a)
			}
			if _, err := os.Lstat(partial(l.all[0])); err == nil {
				t.Error("a partial file stays")
			}
			if err := a.Destroy(t.Context()); err != nil || exists(l.all[0]) {
				t.Errorf("Destroy leaves the file: %v", err)
			}
		})
	}
}

// What is not of the bake is not removed when the bake is given back.
func TestReleaseSparesOthers(t *testing.T) {
	r, l := run(t)
	path := filepath.Join(r.Dir, "out")
	if err := os.WriteFile(path, []byte("of somebody else"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := New()
	b.o = Options{Target: "out", Content: "text"}
	if _, err := b.Boot(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("changed since"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := New().Release(t.Context(), l.all[0]); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "changed since" {
		t.Errorf("%q, %v", got, err)
	}
	if err := New().Release(t.Context(), builders.Lease{Kind: "instance"}); err == nil {
		t.Error("a lease of another builder is released")
	}
}

// What an earlier version has made is not this bake's to give back.
func TestSameContent(t *testing.T) {
	r, l := run(t)
	for range 2 {
		b := New()
		b.o = Options{Target: "out", Content: "text"}
		if _, err := b.Boot(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.all) != 1 || !r.SkipMachine {
		t.Errorf("leases %v; machines are skipped: %v", l.all, r.SkipMachine)
	}
}

func TestTargetIsADirectory(t *testing.T) {
	r, l := run(t)
	b := New()
	b.o = Options{Target: ".", Content: "text"}
	if _, err := b.Boot(t.Context(), r); err == nil || len(l.all) > 0 {
		t.Errorf("%v, leases %v", err, l.all)
	}
}
