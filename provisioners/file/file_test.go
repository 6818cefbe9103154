//go:build unix

package file

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/provisioners"
)

// lay makes files below dir: name → content; a name that ends in / is a directory.
func lay(t *testing.T, dir string, files ...string) {
	t.Helper()
	for _, name := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(p, []byte("in "+filepath.Base(name)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// list is every file below dir, and the contents' first lines.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		out = append(out, fmt.Sprintf("%s %o %s", rel, info.Mode().Perm(), b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

type puts struct {
	machine.Machine
	n int
}

func (p *puts) Put(ctx context.Context, dst string, tree machine.Tree) error {
	p.n++
	return p.Machine.Put(ctx, dst, tree)
}

func TestUpload(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"a file to a name":             {Options{Source: "f", Destination: "new/name"}, "new/name 640 in f"},
		"a file into a directory":      {Options{Source: "d/g", Destination: "new/"}, "new/g 640 in g"},
		"a directory":                  {Options{Source: "d", Destination: "new"}, "new/d/e/h 640 in h\nnew/d/g 640 in g"},
		"a directory into a directory": {Options{Source: "d", Destination: "new/"}, "new/d/e/h 640 in h\nnew/d/g 640 in g"},
		"a directory's contents":       {Options{Source: "d/", Destination: "new"}, "new/e/h 640 in h\nnew/g 640 in g"},
		"the working directory":        {Options{Source: ".", Destination: "new"}, "new/d/e/h 640 in h\nnew/d/g 640 in g\nnew/f 640 in f"},
		"several":                      {Options{Sources: []string{"f", "d/e"}, Source: "d/g", Destination: "new/"}, "new/e/h 640 in h\nnew/f 640 in f\nnew/g 640 in g"},
		"several directories":          {Options{Sources: []string{"d/e", "d"}, Destination: "new"}, "new/d/e/h 640 in h\nnew/d/g 640 in g\nnew/e/h 640 in h"},
		"content":                      {Options{Content: "text", Destination: "new/c"}, "new/c 600 text"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := t.TempDir(), t.TempDir()
			lay(t, here, "f", "d/g", "d/e/h")
			p := New()
			tc.o.Direction = p.o.Direction
			p.o = tc.o
			var progress event.Event
			env := &provisioners.Env{Dir: here, Events: event.Scope{Sink: event.Func(func(e event.Event) {
				if e.Kind == event.Progress {
					progress = e
				}
			})}}
			if problems := p.Check(t.Context(), env); problems != nil {
				t.Fatalf("Check: %+v", problems)
			}
			p.o.Destination = there + "/" + tc.o.Destination
			m := &puts{Machine: local.Machine{}}
			if err := p.Provision(t.Context(), env, m); err != nil {
				t.Fatal(err)
			}
			if got := list(t, there); got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
			if m.n != 1 {
				t.Errorf("%d streams, want 1", m.n)
			}
			if progress.Bytes == 0 || progress.Bytes != progress.Total {
				t.Errorf("last progress: %d of %d bytes", progress.Bytes, progress.Total)
			}
		})
	}
}

// The mode and time of an existing destination are not those of the source.
func TestContentsLeaveTheDestinationAlone(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	lay(t, here, "d/f")
	if err := os.Chmod(there, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	p := New()
	p.o.Source, p.o.Destination = "d/", there
	if err := p.Provision(t.Context(), &provisioners.Env{Dir: here}, local.Machine{}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(there); err != nil || fi.Mode() != fs.ModeDir|0o777|fs.ModeSticky {
		t.Errorf("mode %v, error %v", fi.Mode(), err)
	}
}

func TestDownload(t *testing.T) {
	for name, tc := range map[string]struct {
		sources     []string
		destination string
		want        string
	}{
		"a file to a name":        {[]string{"f"}, "new/name", "new/name 644 in f"},
		"a file into a directory": {[]string{"d/g"}, "new/", "new/g 644 in g"},
		"a directory's contents":  {[]string{"d/"}, "new", "new/e/h 640 in h\nnew/g 640 in g"},
		"wildcards":               {[]string{"*"}, "new", "new/a b 640 in a b\nnew/d/e/h 640 in h\nnew/d/g 640 in g\nnew/f 640 in f"},
		"a class and a quote":     {[]string{"[!d]* b"}, "new", "new/a b 640 in a b"},
		"more after a directory":  {[]string{"d/e/", "f", "d/?"}, "new/", "new/e/h 640 in h\nnew/f 644 in f\nnew/g 640 in g\nnew/h 640 in h"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := t.TempDir(), t.TempDir()
			lay(t, there, "f", "a b", "d/g", "d/e/h")
			p := New()
			p.o.Direction, p.o.Destination = "download", tc.destination
			for _, s := range tc.sources {
				p.o.Sources = append(p.o.Sources, there+"/"+s)
			}
			env := &provisioners.Env{Dir: here}
			if problems := p.Check(t.Context(), env); problems != nil {
				t.Fatalf("Check: %+v", problems)
			}
			if err := p.Provision(t.Context(), env, local.Machine{}); err != nil {
				t.Fatal(err)
			}
			if got := list(t, here); got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	there := t.TempDir()
	lay(t, there, "f", "d/g")
	for name, tc := range map[string]struct {
		o    Options
		m    machine.Machine
		want string
	}{
		"no machine":         {Options{Content: "x", Destination: "f"}, nil, "needs a machine"},
		"missing source":     {Options{Source: "gone", Destination: there + "/x"}, local.Machine{}, `"gone" cannot be read`},
		"over a directory":   {Options{Content: "x", Destination: there + "/d"}, local.Machine{}, "in the way"},
		"missing download":   {Options{Direction: "download", Source: there + "/gone", Destination: "x"}, local.Machine{}, "no such file"},
		"directory download": {Options{Direction: "download", Source: there + "/d", Destination: "x"}, local.Machine{}, "to be one file"},
		"no match":           {Options{Direction: "download", Source: there + "/z*", Destination: "x"}, local.Machine{}, "nothing on the machine matches"},
		"only dots match":    {Options{Direction: "download", Source: there + "/.*", Destination: "x"}, local.Machine{}, "nothing on the machine matches"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Provisioner{tc.o}
			err := p.Provision(t.Context(), &provisioners.Env{Dir: t.TempDir()}, tc.m)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, "f", "d/")
	for name, tc := range map[string]struct {
		o    Options
		want []string
	}{
		"good":                  {Options{Source: "f", Destination: "/x"}, nil},
		"nothing":               {Options{Destination: "/x"}, []string{""}},
		"both":                  {Options{Source: "f", Content: "x", Destination: "/x"}, []string{"content"}},
		"no destination":        {Options{Source: "f"}, []string{"destination"}},
		"bad direction":         {Options{Source: "f", Destination: "/x", Direction: "sideways"}, []string{"direction"}},
		"missing":               {Options{Source: "gone", Destination: "/x"}, []string{"source"}},
		"missing among several": {Options{Sources: []string{"f", "gone"}, Destination: "/x/"}, []string{"sources"}},
		"missing but generated": {Options{Source: "gone", Generated: true, Destination: "/x"}, nil},
		"missing on download":   {Options{Source: "/gone", Direction: "download", Destination: "x"}, nil},
		"empty entry":           {Options{Sources: []string{""}, Destination: "/x/"}, []string{"sources"}},
		"several to one name":   {Options{Sources: []string{"f", "d"}, Destination: "/x"}, []string{"destination"}},
		"content without name":  {Options{Content: "x", Destination: "/x/"}, []string{"destination"}},
		"content downloaded":    {Options{Content: "x", Destination: "/x", Direction: "download"}, []string{"content"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.o.Direction == "" {
				tc.o.Direction = "upload"
			}
			var got []string
			for _, p := range (&Provisioner{tc.o}).Check(t.Context(), &provisioners.Env{Dir: dir}) {
				got = append(got, p.Option)
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("problems with %q, want %q", got, tc.want)
			}
		})
	}
}
