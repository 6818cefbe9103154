package bake_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/datasources/null"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/templates"
)

// web stands first and needs base; other needs nothing.
const needy = `
source "fake" "web" {
  problem = build.base.artifact.id == "img-base" ? "" : "got ${build.base.artifact.id}"
}
source "fake" "base" {}
source "fake" "other" {}
build {
  name    = "web"
  sources = ["fake.web"]
  provisioner "do" { say = "${build.base.artifact.id} ${build.base.artifact.version} ${build.base.artifact.places[0].location} on ${build.ID}" }
}
build {
  name    = "base"
  sources = ["fake.base"]
}
`

func TestNeeds(t *testing.T) {
	for _, parallel := range []int{0, 1, 2} {
		w := newWorld(t)
		for _, r := range w.run(context.Background(), needy, bake.Options{Parallel: parallel}) {
			if r.Err != nil {
				t.Fatal(r.Name, r.Err)
			}
		}
		w.wrote(
			"create disk-base", "create vm-base", "boot base", "snapshot base", "release vm-base", "release disk-base",
			"create disk-web", "create vm-web", "boot web", "do img-base base@v1 shelf on vm-web", "snapshot web", "release vm-web", "release disk-web",
		)
	}
}

func TestFailedNeed(t *testing.T) {
	w := newWorld(t)
	w.fail("boot base", 1)
	results := w.run(context.Background(), needy, bake.Options{})
	if err := results[0].Err; err == nil || !strings.Contains(err.Error(), `it needs "base.fake.base", which failed`) {
		t.Errorf("web: %v", err)
	}
	w.wrote("create disk-base", "create vm-base", "boot base", "release vm-base", "release disk-base")
	w.nothingLeft("failed")
	if len(w.ended()) != 2 || len(w.versions("web")) > 0 {
		t.Errorf("ended %q, versions %v", w.ended(), w.versions("web"))
	}
}

func TestCancelledNeed(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	w.on["boot base"] = func(context.Context) error { cancel(); return ctx.Err() }
	w.run(ctx, needy, bake.Options{})
	w.nothingLeft("cancelled")
}

// What could not be checked before is checked before the bake begins.
func TestNeedyBakeIsCheckedInTime(t *testing.T) {
	w := newWorld(t)
	template := strings.Replace(needy, `== "img-base"`, `== "other"`, 1)
	if diags, _ := bake.Check(context.Background(), w.plan(template), bake.CheckOptions{Components: w.components()}); len(diags) > 0 {
		t.Fatal(diags)
	}
	results := w.run(context.Background(), template, bake.Options{})
	if err := results[0].Err; err == nil || !strings.Contains(err.Error(), "got img-base") || results[1].Err != nil {
		t.Errorf("web: %v, base: %v", err, results[1].Err)
	}
	w.wrote("create disk-base", "create vm-base", "boot base", "snapshot base", "release vm-base", "release disk-base")
}

func TestRefusedBakeDoesNotStopOthers(t *testing.T) {
	w := newWorld(t)
	plan := w.plan(`
source "fake" "a" { problem = "bad" }
source "fake" "b" {}
source "fake" "c" {}
build {
  name    = "web"
  sources = ["fake.a", "fake.b"]
}
build {
  name       = "next"
  sources    = ["fake.c"]
  depends_on = [build.web]
}
`)
	_, refused := bake.Check(context.Background(), plan, bake.CheckOptions{Components: w.components()})
	results, err := bake.Run(context.Background(), plan, bake.Options{Components: w.components(), Store: w.store, Refused: refused})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"bad", "", `needs "web.fake.a"`} {
		if err := results[i].Err; (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", results[i].Name, err, want)
		}
	}
	if vs := w.versions("web"); len(vs) != 1 || vs[0].Status != registry.StatusIncomplete {
		t.Errorf("versions: %+v", vs)
	}
}

// What is not known in validate is no fault, and is not checked.
func TestUnknownOptions(t *testing.T) {
	w := newWorld(t)
	file := t.TempDir() + "/t.pkr.hcl"
	writeFile(t, file, `
data "null" "x" { input = "x" }
source "fake" "a" {
  problem = data.null.x.output
}
build {
  sources = ["fake.a"]
  provisioner "do" {
    say     = data.null.x.output
    problem = "not asked"
  }
  provisioner "do" {
    say   = "x"
    gaurd = data.null.x.output
  }
  spec "s" {
    file "/x" { be_mode = data.null.x.output }
  }
}
`)
	for _, evaluate := range []bool{false, true} {
		tpl, diags := templates.Load(templates.Options{Path: file, EvaluateData: evaluate, Datasources: map[string]func() datasources.Source{
			"null": func() datasources.Source { return null.New() },
		}})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		plan, diags := tpl.Plan(templates.Selection{})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		diags, _ = bake.Check(context.Background(), plan, bake.CheckOptions{Components: w.components(), Validate: !evaluate})
		var got []string
		for _, d := range diags {
			got = append(got, d.Summary)
		}
		want := "Unsupported argument"
		if evaluate {
			want = "x, not asked, Unsupported argument, Unsuitable value for be_mode"
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("data read: %t: found %s, want %s", evaluate, s, want)
		}
	}
}

func TestForeignComponents(t *testing.T) {
	w := newWorld(t)
	plan := w.plan(`
packer {
  required_plugins {
    mine   = { source = "github.com/acme/fake", version = "1.0.0" }
    theirs = { source = "github.com/acme/other", version = "1.0.0" }
  }
}
source "mine" "a" {}
source "amazon-ebs" "b" {}
source "theirs-x" "c" {}
build {
  sources = ["mine.a", "amazon-ebs.b", "theirs-x.c"]
}
`)
	if plan.Bakes[0].Name != "mine.a" || plan.Bakes[0].Component.Type != "fake" {
		t.Errorf("%+v", plan.Bakes[0])
	}
	diags, refused := bake.Check(context.Background(), plan, bake.CheckOptions{Components: w.components()})
	if len(diags) != 2 || len(refused) != 2 || refused[plan.Bakes[0]] != nil {
		t.Fatal(diags)
	}
	for i, want := range []string{`belongs to Packer's plugin "amazon"`, "the plugin github.com/acme/other"} {
		if !strings.Contains(diags[i].Detail, want) {
			t.Errorf("%s; want %q", diags[i].Detail, want)
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
