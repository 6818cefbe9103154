package seal

import (
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/provisioners"
)

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		o    func(*Options)
		want []string // option: part of the summary
	}{
		"defaults": {func(*Options) {}, nil},
		"good paths": {func(o *Options) {
			o.Paths, o.Keep = []string{"/opt/x", "/var/*/y", "/data", "/etc/x*"}, []string{"/tmp", "/var/log/*"}
		}, nil},
		"relative": {func(o *Options) { o.Paths, o.Keep = []string{"opt"}, []string{"", "~/x"} }, []string{"keep: \"\" in keep", "keep: \"~/x\"", "paths: \"opt\""}},
		"unclean":  {func(o *Options) { o.Paths = []string{"/opt/../etc", "/opt/"} }, []string{"paths: \"/opt/\"", "paths: \"/opt/../etc\""}},
		"the system": {func(o *Options) { o.Paths = []string{"/", "/*", "/usr", "/lib64", "/e*/x", "/var/*"} },
			[]string{`paths: "/"`, `paths: "/*"`, `paths: "/e*/x"`, `paths: "/lib64"`, `paths: "/usr"`, `paths: "/var/*"`}},
		"nothing":     {func(o *Options) { *o = Options{} }, []string{": There is nothing to seal"}},
		"two lines":   {func(o *Options) { o.Paths = []string{"/a\n/b"} }, []string{"paths: \"/a\\n/b\" in paths is no absolute path"}},
		"only a path": {func(o *Options) { *o = Options{Paths: []string{"/opt/x"}} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			tc.o(&p.o)
			problems := p.Check(t.Context(), &provisioners.Env{})
			if len(problems) != len(tc.want) {
				t.Fatalf("%v, want %q", problems, tc.want)
			}
			for i, want := range tc.want {
				if got := problems[i].Option + ": " + problems[i].Summary; !strings.HasPrefix(got, want) {
					t.Errorf("%q, want it to begin with %q", got, want)
				}
			}
		})
	}
}

// What a machine says of itself may be anything.
func TestHostileOutput(t *testing.T) {
	for _, line := range []string{
		"T", "T ", "T group", "T group x y z", "T group -5 -6 z", "T group 99999999999999999999 1 z", "T began now", "T began 1;rm -rf /", "T path", "T end", "U end", "T end\x00",
	} {
		r := &reader{token: "T", all: true}
		r.line(line)
		if r.ended || r.began != "" || r.total.files < 0 || r.total.bytes < 0 {
			t.Errorf("after %q: %+v", line, r)
		}
	}
}
