package bake_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/templates"
)

// provenTemplate has a file that the second spec wants and that nobody has
// made, unless the test does.
const provenTemplate = `
source "proven" "a" { guard = true }
build {
  name    = "web"
  sources = ["proven.a"]
  spec "early" {
    after = "snapshot"
    command "true" {
      its "exit_status" { eq = 0 }
    }
  }
  provisioner "do" { say = "one" }
  spec "clean" {
    after = snapshot
    command "cat ready" {
      its "exit_status" { eq = 0 }
    }
  }
  post-processor "make" { id = "box" }
  error-cleanup-provisioner "do" { say = "cleanup" }
}
`

// provenWorld is a world whose machine runs commands in a directory of its own.
func provenWorld(t *testing.T) (w *world, dir string) {
	w = newWorld(t)
	dir = t.TempDir()
	w.machine = local.Machine{Dir: dir}
	return w, dir
}

func TestSpecAfterSnapshot(t *testing.T) {
	w, dir := provenWorld(t)
	if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	res := w.bake(provenTemplate, bake.Options{})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	w.wrote("create guard-a", "create disk-a", "create vm-a", "boot a", "do one", "snapshot a",
		"create proof-a", "boot img-a", "release proof-a", "release vm-a", "release disk-a", "make box of img-a", "destroy img-a")
	var steps []string
	for _, e := range w.events {
		if e.Kind == event.StepEnded {
			steps = append(steps, e.Step)
			if e.Seconds <= 0 {
				t.Errorf("step %q took no time", e.Step)
			}
		}
	}
	want := []string{"boot", "do", "snapshot", "boot image", "spec early after snapshot", "spec clean after snapshot", "release", "make"}
	if !slices.Equal(steps, want) {
		t.Errorf("the steps are %q, want %q", steps, want)
	}
	vs := w.versions("web")
	var reports []struct{ Spec, After string }
	if len(vs) != 1 || json.Unmarshal(vs[0].SpecSummary, &reports) != nil || len(reports) != 2 || reports[1].Spec != "clean" || reports[1].After != "snapshot" {
		t.Errorf("recorded: %+v, with %+v", vs, reports)
	}
}

func TestRedAfterSnapshot(t *testing.T) {
	begin := []string{"create guard-a", "create disk-a", "create vm-a", "boot a", "do one", "snapshot a", "create proof-a", "boot img-a"}
	gone := []string{"release proof-a", "release vm-a", "release disk-a", "release guard-a"}
	for name, tc := range map[string]struct {
		mode   bake.OnError
		choice bake.Choice
		then   []string
		stays  bool
	}{
		"cleanup":                 {mode: bake.OnErrorCleanup, then: append([]string{"do cleanup"}, gone...)},
		"abort":                   {mode: bake.OnErrorAbort, stays: true},
		"run-cleanup-provisioner": {mode: bake.OnErrorRunProvisioner, then: []string{"do cleanup"}, stays: true},
		"ask, clean up":           {mode: bake.OnErrorAsk, choice: bake.ChooseCleanup, then: append([]string{"do cleanup"}, gone...)},
		"ask, abort":              {mode: bake.OnErrorAsk, choice: bake.ChooseAbort, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := provenWorld(t)
			asked := ""
			res := w.bake(provenTemplate, bake.Options{OnError: tc.mode, Ask: func(_ context.Context, _, step string, _ error) bake.Choice {
				asked = step
				return tc.choice
			}})
			if res.Err == nil || !strings.Contains(res.Err.Error(), `spec "clean" is red, so there will be no image`) || res.Artifact != nil {
				t.Fatalf("the bake has ended with %v and %+v", res.Err, res.Artifact)
			}
			if tc.mode == bake.OnErrorAsk && asked != "spec clean after snapshot" {
				t.Errorf("asked about %q", asked)
			}
			w.wrote(slices.Concat(begin, tc.then)...)
			if vs := w.versions("web"); len(vs) > 0 {
				t.Errorf("a red image is in the registry: %+v", vs)
			}
			if !tc.stays {
				w.nothingLeft("failed")
				return
			}
			if _, resources := w.left(); !slices.Equal(resources, []string{"disk-a", "guard-a", "proof-a", "vm-a"}) {
				t.Errorf("what is left is %q", resources)
			}
			for _, want := range []string{"proof proof-a (id-proof-a)", "guard guard-a", "the image is left too, and not in the registry: img-a on the shelf"} {
				if !strings.Contains(w.said(), want) {
					t.Errorf("it does not say %q:\n%s", want, w.said())
				}
			}
		})
	}
}

func TestProofRetried(t *testing.T) {
	w, dir := provenWorld(t)
	res := w.bake(provenTemplate, bake.Options{OnError: bake.OnErrorAsk, Ask: func(context.Context, string, string, error) bake.Choice {
		if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600); err != nil {
			t.Error(err)
		}
		return bake.ChooseRetry
	}})
	if res.Err != nil || len(w.versions("web")) != 1 {
		t.Errorf("the bake has ended with %v", res.Err)
	}
	if leases, resources := w.left(); len(leases) > 0 || !slices.Equal(resources, []string{"guard-a"}) {
		t.Errorf("left: leases %q, resources %q; want the image alone", leases, resources)
	}
}

// What does not boot makes no image, and the machine that does not run gets no
// provisioner.
func TestImageThatDoesNotBoot(t *testing.T) {
	for _, point := range []string{"create proof-a", "boot img-a"} {
		w, _ := provenWorld(t)
		w.fail(point, 1)
		res := w.bake(provenTemplate, bake.Options{})
		if res.Err == nil || !strings.Contains(res.Err.Error(), point+" is broken") || len(w.versions("web")) > 0 {
			t.Errorf("%s: the bake has ended with %v", point, res.Err)
		}
		if slices.Contains(w.diary, "do cleanup") {
			t.Errorf("%s: the cleanup provisioner ran on a machine that is not there", point)
		}
		w.nothingLeft("failed")
	}
}

func TestCancelledProof(t *testing.T) {
	w, _ := provenWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	w.on["boot img-a"] = func(context.Context) error { cancel(); return nil }
	res := w.run(ctx, provenTemplate, bake.Options{})[0]
	if res.Err == nil || len(w.versions("web")) > 0 {
		t.Errorf("a cancelled bake has ended with %v", res.Err)
	}
	w.nothingLeft("cancelled")
}

func TestProofThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.pkr.hcl")
	src := `
source "fake" "a" {}
source "proven" "b" {}
build {
  sources = ["fake.a", "proven.b"]
  spec "x" {}
  spec "y" {
    except = ["fake.a"]
    after  = snapshot
    command "true" {
      its "exit_status" { eq = 0 }
    }
  }
}
spec "x" {
  after = snapshot
  command "true" {
    its "exit_status" { eq = 0 }
  }
}
`
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	tpl, diags := templates.Load(templates.Options{Path: file})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	plan, diags := tpl.Plan(templates.Selection{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	w := newWorld(t)
	diags, refused := bake.Check(t.Context(), plan, bake.CheckOptions{Components: w.components(), Validate: true})
	if len(diags) != 1 || diags[0].Subject == nil || diags[0].Subject.Start.Line != 16 || !strings.Contains(diags[0].Summary, "A fake source cannot boot its image") {
		t.Errorf("found: %v", diags)
	}
	if len(refused) != 1 {
		t.Errorf("%d bakes are refused, want the one of the fake source", len(refused))
	}
}

func TestUnsuitableAfter(t *testing.T) {
	for _, after := range []string{`"boot"`, `7`, `null`, `boot`, `true`} {
		file := filepath.Join(t.TempDir(), "t.pkr.hcl")
		src := "source \"fake\" \"a\" {}\nbuild {\n  sources = [\"fake.a\"]\n  spec \"x\" {\n    after = " + after + "\n    port \"80\" { be_listening = true }\n  }\n}\n"
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		_, diags := templates.Load(templates.Options{Path: file})
		if !diags.HasErrors() || diags[0].Subject.Start.Line != 5 {
			t.Errorf("after = %s: %v", after, diags)
		}
	}
}
