package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	box "github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// problems are what Check finds in a source body, in dir.
func problems(t *testing.T, body string, env builders.CheckEnv) []config.Problem {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(body), "source.hcl", hcl.InitialPos)
	b := New(Env{StateDir: t.TempDir(), Resolve: func(ref string) (string, error) {
		if ref == "web@production" {
			return "sha256:00", nil
		}
		return "", errors.New("there is no image " + ref)
	}})
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, b.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return b.Check(t.Context(), &env)
}

func output(body string) string { return "base = \"tree\"\noutput {\n" + body + "\n}\n" }

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Write(t, dir, "base.tar", "", 0o644)
	if err := os.Truncate(filepath.Join(dir, "base.tar"), 1<<30); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Write(t, dir, "old.tar", "", 0o644)
	sandboxtest.Write(t, dir, "old.oci/index.json", "", 0o644)
	if err := os.Mkdir(filepath.Join(dir, "locked"), 0o555); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, body string
		env        builders.CheckEnv
		// at is the option, say is in the summary or detail of the only problem; empty: there is none.
		at, say string
		user    bool // not for root, to whom nothing is locked
	}{
		{name: "a good source", body: output(`format = "tar"
			path = "new/dir/out.tar"`)},
		{name: "an image", body: `base = "image:web@production"`},
		{name: "no such image", body: `base = "image:web@staging"`, at: "base", say: "there is no image web@staging"},
		{name: "no such image, on another machine", body: `base = "image:web@staging"`, env: builders.CheckEnv{Validate: true}},
		{name: "base does not exist", body: `base = "nowhere.tar"`, at: "base", say: filepath.Join(dir, "nowhere.tar") + " does not exist"},
		{name: "layout does not exist", body: `base = "oci:nowhere:tag"`, at: "base", say: "nowhere does not exist"},
		{name: "layout with a tag", body: `base = "oci:tree:tag"`},
		{name: "debootstrap and base", body: "base = \"tree\"\ndebootstrap {\nsuite = \"bookworm\"\n}", at: "base", say: "cannot both be given", env: builders.CheckEnv{Validate: true}},
		{name: "suite", body: "debootstrap {\nsuite = \"--help\"\n}", at: "debootstrap.suite", say: "want a name such as bookworm", env: builders.CheckEnv{Validate: true}},
		{name: "network", body: "base = \"tree\"\nnetwork = \"wifi\"", at: "network", say: `There is no network "wifi"`},
		{name: "cpus below zero", body: "base = \"tree\"\ncpus = -0.5", at: "cpus", say: "negative"},
		{name: "pids below zero", body: "base = \"tree\"\npids = -1", at: "pids", say: "negative"},
		{name: "too little memory", body: "base = \"tree\"\nmemory = \"1m\"", at: "memory", say: "too little"},
		{name: "init", body: "base = \"tree\"\ninit = \"sbin/init\"", at: "init", say: "absolute"},
		{name: "compression", body: "base = \"tree\"\ncompression = \"lzma\"", at: "compression", say: `no compression "lzma"`},
		{name: "format", body: output(`format = "docker-archiv"
			path = "x"`), at: "output.0.format", say: `Did you mean "docker-archive"?`},
		{name: "existing file", body: output(`format = "tar"
			path = "old.tar"`), at: "output.0.path", say: "old.tar exists already"},
		{name: "existing directory", body: output(`format = "oci"
			path = "old.oci"`), at: "output.0.path", say: "directory " + filepath.Join(dir, "old.oci") + " exists already"},
		{name: "existing file, with force", body: output(`format = "tar"
			path = "old.tar"`), env: builders.CheckEnv{Force: true}},
		{name: "existing file, on another machine", body: output(`format = "tar"
			path = "old.tar"`), env: builders.CheckEnv{Validate: true}},
		{name: "the kernel's directory", body: output(`format = "tar"
			path = "/proc/out.tar"`), at: "output.0.path", say: "/proc"},
		{name: "below a file", body: output(`format = "tar"
			path = "old.tar/out.tar"`), at: "output.0.path", say: "not a directory"},
		{name: "locked directory", body: output(`format = "tar"
			path = "locked/out.tar"`), at: "output.0.path", say: "permission denied", user: true},
		{name: "one path twice", body: output(`format = "tar"
			path = "x"`) + `output {
				format = "oci"
				path   = "./x"
			}`, at: "output.1.path", say: "Another output"},
		{name: "tiny disk", body: output(`format = "ext4"
			size = "1m"
			path = "x"`), at: "output.0.size", say: "too small", env: builders.CheckEnv{Validate: true}},
		{name: "disk smaller than its base", body: "base = \"base.tar\"\noutput {\nformat = \"ext4\"\nsize = \"512m\"\npath = \"x\"\n}", at: "output.0.size", say: "too small", env: builders.CheckEnv{Validate: true}},
		{name: "size of an archive", body: output(`format = "tar"
			size = "1g"
			path = "x"`), at: "output.0.size", say: "no size"},
		{name: "a tree of the host", body: "output {\nformat = \"tar\"\npath = \"x\"\n}", at: "output.0.format", say: `Base "host" cannot be written as tar`, env: builders.CheckEnv{Validate: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.user && os.Geteuid() == 0 {
				t.Skip("root may write anywhere")
			}
			test.env.Dir = dir
			ps := problems(t, test.body, test.env)
			if test.at == "" {
				if len(ps) > 0 {
					t.Errorf("found %+v", ps)
				}
				return
			}
			if len(ps) != 1 || ps[0].Option != test.at || !strings.Contains(ps[0].Summary+" "+ps[0].Detail, test.say) || ps[0].Warning {
				t.Errorf("found %+v, want one at %q with %q", ps, test.at, test.say)
			}
		})
	}
	t.Run("everything at once", func(t *testing.T) {
		ps := problems(t, "base = \"nowhere\"\nnetwork = \"wifi\"\npids = -1\noutput {\nformat = \"zip\"\npath = \"x\"\n}", builders.CheckEnv{Dir: dir})
		if len(ps) != 4 {
			t.Errorf("found %+v, want four problems", ps)
		}
	})
	t.Run("host", func(t *testing.T) {
		ps := problems(t, "", builders.CheckEnv{Dir: dir})
		if refused := len(ps) > 0; refused != box.InUserNamespace() {
			t.Errorf("base host, in a user namespace: %t: %+v", box.InUserNamespace(), ps)
		}
	})
}
