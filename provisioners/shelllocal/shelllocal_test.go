//go:build unix

package shelllocal_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	shared "github.com/ingotbuild/ingot/internal/shelllocal"
	"github.com/ingotbuild/ingot/postprocessors"
	post "github.com/ingotbuild/ingot/postprocessors/shelllocal"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/provisioners/shelllocal"
)

var inline = []string{`echo "$PACKER_BUILD_NAME $PACKER_RUN_UUID {{ .ID }}" >out`}

func check(t *testing.T, dir string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(b) != "web run-1 i-1\n" {
		t.Errorf("%v, wrote %q", err, b)
	}
}

func TestProvisionerNeedsNoMachine(t *testing.T) {
	p := shelllocal.New()
	p.Options().(*shared.Options).Inline = inline
	env := &provisioners.Env{BuildName: "web", RunID: "run-1", Dir: t.TempDir(), Values: map[string]string{"ID": "i-1"}}
	if problems := p.Check(t.Context(), env); problems != nil {
		t.Fatal(problems)
	}
	if err := p.Provision(t.Context(), env, nil); err != nil {
		t.Fatal(err)
	}
	check(t, env.Dir)
}

func TestPostProcessorKeepsItsInput(t *testing.T) {
	p := post.New()
	o := p.Options().(*shared.Options)
	o.Inline = inline
	env := &postprocessors.Env{BuildName: "web", RunID: "run-1", Dir: t.TempDir()}
	if problems := p.Check(t.Context(), env); problems != nil {
		t.Fatal(problems)
	}
	in := &builders.Artifact{Values: map[string]string{"ID": "i-1"}}
	out, keep, err := p.Process(t.Context(), env, in)
	if out != in || !keep || err != nil {
		t.Errorf("out %v, keep %v, error %v", out, keep, err)
	}
	check(t, env.Dir)
	o.Inline = []string{"false"}
	if out, keep, err := p.Process(t.Context(), env, in); out != nil || !keep || err == nil {
		t.Errorf("failure: out %v, keep %v, error %v", out, keep, err)
	}
}
