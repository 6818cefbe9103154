package manifest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/postprocessors"
)

func process(t *testing.T, o Options, env *postprocessors.Env, in *builders.Artifact) {
	t.Helper()
	p := New()
	if o.Output == "" {
		o.Output = p.o.Output
	}
	p.o = o
	if problems := p.Check(t.Context(), env); problems != nil {
		t.Fatal(problems)
	}
	out, keep, err := p.Process(t.Context(), env, in)
	if out != in || !keep || err != nil {
		t.Errorf("out %v, keep %v, error %v", out, keep, err)
	}
}

const golden = `{
  "builds": [
    {
      "name": "web",
      "builder_type": "file",
      "build_time": 946684800,
      "files": [
        {
          "name": "out/disk.img",
          "size": 5
        }
      ],
      "artifact_id": "File",
      "packer_run_uuid": "run-1",
      "custom_data": null
    },
    {
      "name": "web",
      "builder_type": "file",
      "files": [
        {
          "name": "disk.img",
          "size": 5
        }
      ],
      "artifact_id": "File",
      "packer_run_uuid": "run-1",
      "custom_data": {
        "k": "v"
      }
    },
    {
      "name": "ami",
      "builder_type": "amazon-ebs",
      "build_time": 946684800,
      "files": null,
      "artifact_id": "eu-west-1:ami-1",
      "packer_run_uuid": "run-2",
      "custom_data": null
    }
  ],
  "last_run_uuid": "run-2"
}`

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "out/disk.img"), []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // its clock starts at 2000-01-01
		env := &postprocessors.Env{BuildName: "web", BuilderType: "file", RunID: "run-1", Dir: dir}
		disk := &builders.Artifact{ID: "File", Files: []string{"out/disk.img"}}
		process(t, Options{}, env, disk)
		process(t, Options{StripPath: true, StripTime: true, CustomData: map[string]string{"k": "v"}}, env, disk)
		process(t, Options{}, &postprocessors.Env{BuildName: "ami", BuilderType: "amazon-ebs", RunID: "run-2", Dir: dir}, &builders.Artifact{ID: "eu-west-1:ami-1"})
	})
	if got, err := os.ReadFile(filepath.Join(dir, "packer-manifest.json")); err != nil || string(got) != golden {
		t.Errorf("%v, got\n%s", err, got)
	}
}

func read(t *testing.T, path string) (names []string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Builds []build }
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, b := range m.Builds {
		names = append(names, b.RunUUID+b.Name)
	}
	return names
}

func TestForceStartsOverOncePerRun(t *testing.T) {
	env := &postprocessors.Env{Dir: t.TempDir()}
	for _, step := range []struct {
		run, name string
		force     bool
		want      string
	}{
		{"1", "a", false, "[1a]"},
		{"2", "b", false, "[1a 2b]"},
		{"3", "c", true, "[3c]"},
		{"3", "d", true, "[3c 3d]"},
		{"4", "e", false, "[3c 3d 4e]"},
	} {
		env.RunID, env.BuildName, env.Force = step.run, step.name, step.force
		process(t, Options{Output: "deep/er/m.json"}, env, &builders.Artifact{})
		if got := fmt.Sprint(read(t, filepath.Join(env.Dir, "deep/er/m.json"))); got != step.want {
			t.Errorf("after %s%s: %s, want %s", step.run, step.name, got, step.want)
		}
	}
}

func TestParallelBakesLoseNothing(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			process(t, Options{}, &postprocessors.Env{BuildName: fmt.Sprint(i), Dir: dir, RunID: "r", Force: true}, &builders.Artifact{})
		})
	}
	wg.Wait()
	if got := read(t, filepath.Join(dir, "packer-manifest.json")); len(got) != 20 {
		t.Errorf("%d builds recorded, want 20: %v", len(got), got)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "packer-manifest.json")
	if err := os.WriteFile(path, []byte("not JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, in := range map[string]*builders.Artifact{
		"not a manifest": {},
		"gone.img":       {Files: []string{"gone.img"}},
	} {
		_, keep, err := New().Process(t.Context(), &postprocessors.Env{Dir: dir}, in)
		if err == nil || !strings.Contains(err.Error(), want) || !keep {
			t.Errorf("error %v, keep %v, want %q", err, keep, want)
		}
	}
	if b, _ := os.ReadFile(path); string(b) != "not JSON" {
		t.Errorf("the file was changed to %q", b)
	}
	if problems := (&PostProcessor{}).Check(t.Context(), nil); len(problems) != 1 || problems[0].Option != "output" {
		t.Errorf("no output: %v", problems)
	}
}
