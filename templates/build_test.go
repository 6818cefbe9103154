package templates

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

func bakeNames(p *Plan) (names []string) {
	for _, b := range p.Bakes {
		names = append(names, b.Name)
	}
	return names
}

// stepNames writes a bake's steps as kind:type:name, chains of post-processors
// in brackets.
func stepNames(b *Bake) string {
	var out []string
	for _, s := range b.Steps {
		out = append(out, fmt.Sprintf("%s:%s:%s", s.Kind, s.Component.Type, s.Name))
	}
	if b.ErrorCleanup != nil {
		out = append(out, "cleanup:"+b.ErrorCleanup.Component.Type)
	}
	for _, chain := range b.PostProcess {
		var names []string
		for _, s := range chain {
			names = append(names, s.Component.Type+":"+s.Name)
		}
		out = append(out, "["+strings.Join(names, " ")+"]")
	}
	return strings.Join(out, " ")
}

func TestBakes(t *testing.T) {
	plan := mustPlan(t, `
source "null" "a" {}
source "file" "b" {}
build {
  name    = "web"
  image   = "line-${source.name}"
  sources = ["source.null.a", "sources.file.b", "null.a"]
  source "null.a" {
    name = "second"
  }
}
build {
  name    = "db"
  sources = ["null.a"]
}
build {
  sources = ["file.b"]
}
`, Selection{})
	var got []string
	for _, b := range plan.Bakes {
		got = append(got, strings.Join([]string{b.Name, b.BuildName, b.Type, b.Source, b.Local, b.Image}, "|"))
	}
	want := []string{
		"web.null.a|web|null|a|a|line-a", "web.file.b|web|file|b|b|line-b", "web.null.a|web|null|a|a|line-a", "web.null.second|web|null|a|second|line-second",
		"db.null.a|db|null|a|a|db", "file.b||file|b|b|b",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTwoBakesOfOneName(t *testing.T) {
	template, diags := load(t, "source \"null\" \"a\" {}\nbuild {\n sources = [\"null.a\"]\n}\nbuild {\n sources = [\"null.a\"]\n}", Options{})
	expect(t, template, diags, hcl.DiagWarning, 5, "Two bakes of one name", `"null.a"`, ":2")
}

const stepsTemplate = `
source "null" "a" {}
source "null" "b" {}
spec "shared" { port = 80 }
build {
  name    = "n"
  sources = ["null.a"]
  source "null.b" { name = "bb" }
  provisioner "shell" {
    name           = "first"
    pause_before   = "5s"
    timeout        = "1m"
    max_retries    = 2
    idempotent     = true
    inline         = ["x"]
  }
  spec "shared" {}
  provisioner "file" { only = ["null.bb"] }
  dynamic "provisioner" {
    for_each = ["x", "y"]
    labels   = ["shell"]
    content {
      name   = "dynamic-${provisioner.value}"
      except = ["null.bb"]
    }
  }
  spec "own" {
    port              = 81
    continue_on_error = true
    only              = ["null.a"]
  }
  error-cleanup-provisioner "shell-local" { except = ["null.a"] }
  post-processor "manifest" { name = "m" }
  post-processors {
    post-processor "checksum" {}
    post-processor "compress" {
      keep_input_artifact = false
      only                = ["null.a"]
    }
    post-processor "shell-local" { name = "last" }
  }
}
`

func TestSteps(t *testing.T) {
	plan := mustPlan(t, stepsTemplate, Selection{})
	a, b := plan.Bakes[0], plan.Bakes[1]
	if got, want := stepNames(a), "provisioner:shell:first spec:spec:shared provisioner:shell:dynamic-x provisioner:shell:dynamic-y spec:spec:own"+
		" [manifest:m] [checksum: compress: shell-local:last]"; got != want {
		t.Errorf("a:\n got %s\nwant %s", got, want)
	}
	if got, want := stepNames(b), "provisioner:shell:first spec:spec:shared provisioner:file: cleanup:shell-local [manifest:m] [checksum: shell-local:last]"; got != want {
		t.Errorf("b:\n got %s\nwant %s", got, want)
	}
	first, own, compress := a.Steps[0], a.Steps[4], a.PostProcess[1][1]
	if first.PauseBefore != 5*time.Second || first.Timeout != time.Minute || first.MaxRetries != 2 || first.ContinueOnError || !first.Idempotent || a.Steps[2].Idempotent {
		t.Errorf("%+v", first)
	}
	if !own.ContinueOnError || compress.KeepInput == nil || *compress.KeepInput || a.PostProcess[0][0].KeepInput != nil {
		t.Errorf("%+v %+v", own, compress)
	}
	// The attributes that every block may have are not left for the component.
	for _, s := range append(a.Steps, a.PostProcess[1]...) {
		var o struct {
			Inline []string `cfg:"inline"`
			Port   int      `cfg:"port"`
		}
		if diags := s.Component.Decode(&o, nil); diags.HasErrors() {
			t.Errorf("%s %s: %v", s.Kind, s.Name, diags)
		}
		if want := map[string]int{"shared": 80, "own": 81}[s.Name]; o.Port != want {
			t.Errorf("%s %s: port %d, want %d", s.Kind, s.Name, o.Port, want)
		}
	}
}

func TestStepsInJSON(t *testing.T) {
	plan := mustPlan(t, `
-- t.pkr.json --
{
  "source": {"null": {"a": {}}},
  "spec": {"shared": {"port": 80}},
  "build": {
    "name": "n",
    "sources": ["null.a"],
    "provisioner": [
      {"shell": {"inline": ["${source.name} ${build.name}"], "timeout": "1m"}},
      {"file": {"only": ["null.a"], "override": {"a": {"inline": ["over"]}}}}
    ],
    "spec": [{"shared": {}}],
    "post-processors": [{"post-processor": [{"checksum": {}}, {"compress": {}}]}]
  }
}
`, Selection{})
	a := plan.Bakes[0]
	if got, want := stepNames(a), "provisioner:shell: provisioner:file: spec:spec:shared [checksum: compress:]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i, want := range []string{"a n", "over"} {
		var o struct {
			Inline []string `cfg:"inline"`
		}
		if diags := a.Steps[i].Component.Decode(&o, nil); diags.HasErrors() || !reflect.DeepEqual(o.Inline, []string{want}) {
			t.Errorf("%v %v", o, diags)
		}
	}
}

func TestBuildErrors(t *testing.T) {
	const head = "source \"null\" \"web\" {}\n"
	inBuild := func(s string) string { return head + "build {\n sources = [\"null.web\"]\n" + s + "\n}" }
	tests := []struct {
		name, archive string
		severity      hcl.DiagnosticSeverity
		line          int
		want          []string
	}{
		{"no source", head + "build {\n}", hcl.DiagError, 2, []string{"Build without a source"}},
		{"unknown source", head + "build {\n sources = [\"null.wbe\"]\n}", hcl.DiagError, 3, []string{"Unknown source", `Did you mean "null.web"?`}},
		{"unknown source block", head + "build {\n source \"nul.web\" {}\n}", hcl.DiagError, 3, []string{"Unknown source", `Did you mean "null.web"?`}},
		{"short reference", head + "build {\n sources = [\"web\"]\n}", hcl.DiagError, 3, []string{"Invalid source reference"}},
		{"long reference", head + "build {\n sources = [\"a.null.web.x\"]\n}", hcl.DiagError, 3, []string{"Invalid source reference"}},
		{"sources no list", head + "build {\n sources = \"null.web\"\n}", hcl.DiagError, 3, []string{"Wrong type of value", "list of strings"}},
		{"unknown argument", inBuild("nmae = 1"), hcl.DiagError, 4, []string{`Did you mean "name"?`}},
		{"unknown block", inBuild("provisionner \"x\" {}"), hcl.DiagError, 4, []string{`Did you mean "provisioner"?`}},
		{"unknown dynamic block", inBuild("dynamic \"provisionner\" {\n for_each = []\n content {}\n}"), hcl.DiagError, 4, []string{`Did you mean "provisioner"?`}},
		{"unknown in a chain", inBuild("post-processors {\n post-procesor \"x\" {}\n}"), hcl.DiagError, 5, []string{`Did you mean "post-processor"?`}},
		{"name no string", inBuild("name = []"), hcl.DiagError, 4, []string{"must be a string"}},
		{"name refers to build", inBuild("name = build.ID"), hcl.DiagError, 4, []string{"Unknown variable"}},
		{"two cleanups", inBuild("error-cleanup-provisioner \"x\" {}\nerror-cleanup-provisioner \"x\" {}"), hcl.DiagError, 5, []string{"at most one", "t.pkr.hcl:4"}},
		{"only and except", inBuild("provisioner \"x\" {\n only = [\"null.web\"]\n except = [\"null.web\"]\n}"), hcl.DiagError, 4, []string{"Both only and except"}},
		{"only of nothing", inBuild("provisioner \"x\" {\n only = [\"null.wbe\"]\n}"), hcl.DiagWarning, 4, []string{"No such source", `Did you mean "null.web"?`}},
		{"bare duration", inBuild("provisioner \"x\" {\n timeout = \"5\"\n}"), hcl.DiagError, 5, []string{"Invalid duration"}},
		{"negative", inBuild("provisioner \"x\" {\n pause_before = \"-5s\"\n}"), hcl.DiagError, 5, []string{"Negative value", "pause_before"}},
		{"override no object", inBuild("provisioner \"x\" {\n override = [1]\n}"), hcl.DiagError, 5, []string{"Invalid override"}},
		{"override of no objects", inBuild("provisioner \"x\" {\n override = { web = 1 }\n}"), hcl.DiagError, 5, []string{"Invalid override", "web"}},
		{"override of nothing", inBuild("provisioner \"x\" {\n override = { wbe = {} }\n}"), hcl.DiagWarning, 5, []string{"Override without effect", `Did you mean "web"?`}},
		{"unknown spec", "spec \"shared\" {\n x = 1\n}\n" + inBuild("spec \"shraed\" {}"), hcl.DiagError, 7, []string{"Unknown spec", `Did you mean "shared"?`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			template, diags := load(t, test.archive, Options{})
			expect(t, template, diags, test.severity, test.line, test.want...)
		})
	}
}

func TestPlanSelects(t *testing.T) {
	const archive = `
source "null" "a" {}
source "null" "b" {}
source "file" "c" {}
build {
  name    = "x"
  sources = ["null.a", "null.b"]
}
build { sources = ["null.a", "file.c"] }
`
	template := mustLoad(t, archive, Options{})
	tests := []struct {
		s        Selection
		want     string
		warnings int
	}{
		{Selection{}, "x.null.a x.null.b null.a file.c", 0},
		{Selection{Only: []string{"null.a"}}, "null.a", 0},
		{Selection{Only: []string{"*.null.a"}}, "x.null.a", 0},
		{Selection{Only: []string{"*null.?"}}, "x.null.a x.null.b null.a", 0},
		{Selection{Only: []string{"x.*", "file.[a-c]"}}, "x.null.a x.null.b file.c", 0},
		{Selection{Except: []string{"x.*"}}, "null.a file.c", 0},
		{Selection{Only: []string{"*.a"}, Except: []string{"x.*"}}, "null.a", 0},
		{Selection{Only: []string{"nothing", "null.a"}, Except: []string{"nobody"}}, "null.a", 2},
	}
	for _, test := range tests {
		plan, diags := template.Plan(test.s)
		if diags.HasErrors() || len(diags) != test.warnings {
			t.Errorf("%+v: %v", test.s, diags)
			continue
		}
		if got := strings.Join(bakeNames(plan), " "); got != test.want {
			t.Errorf("%+v: got %s, want %s", test.s, got, test.want)
		}
	}
	for want, s := range map[string]Selection{
		"No builds to run": {Except: []string{"*"}},
		"Invalid pattern":  {Only: []string{"[a"}},
	} {
		if plan, diags := template.Plan(s); plan != nil || !strings.Contains(diags.Error(), want) {
			t.Errorf("%+v: %v, %v; want %s", s, plan, diags, want)
		}
	}
	if plan, diags := mustLoad(t, "variables {}", Options{}).Plan(Selection{}); plan != nil || !strings.Contains(diags.Error(), "Missing build block") {
		t.Errorf("%v, %v", plan, diags)
	}
}

func TestExceptCutsChains(t *testing.T) {
	template := mustLoad(t, stepsTemplate, Options{})
	for pattern, want := range map[string]string{
		"compress": "[manifest:m] [checksum:]", // by type, with the rest of its chain
		"last":     "[manifest:m] [checksum: compress:]",
		"m":        "[checksum: compress: shell-local:last]",
		"manifest": "[manifest:m] [checksum: compress: shell-local:last]", // it has a name
	} {
		plan, diags := template.Plan(Selection{Except: []string{pattern}})
		if diags.HasErrors() || !strings.HasSuffix(stepNames(plan.Bakes[0]), " spec:spec:own "+want) {
			t.Errorf("-except %s: %v %s", pattern, diags, stepNames(plan.Bakes[0]))
		}
		if (pattern == "manifest") != (len(diags) == 1) {
			t.Errorf("-except %s: %v", pattern, diags)
		}
	}
	if got := stepNames(template.bakes[0]); !strings.HasSuffix(got, "[manifest:m] [checksum: compress: shell-local:last]") {
		t.Errorf("a plan changed its template: %s", got)
	}
}

type componentOptions struct {
	Inline []string          `cfg:"inline" render:"late" vars:"Vars"`
	Output string            `cfg:"output"`
	Env    map[string]string `cfg:"env"`
	Disks  []struct {
		Path string `cfg:"path,required"`
	} `cfg:"disk"`
}

const componentTemplate = `
variable "v" { default = "var" }
locals { l = ["x", "y"] }
source "null" "a" {
  output = "{{build_name}}-{{build_type}}-${var.v}-${source.type}"
  dynamic "disk" {
    for_each = local.l
    content { path = "${disk.value}-${source.name}" }
  }
}
build {
  name = "n"
  source "null.a" {
    name = "loc"
    env  = { ROOT = path.root, VERSION = packer.version }
    disk { path = "z" }
  }
  provisioner "shell" {
    inline   = ["{{ .Vars }} ${source.name} ${build.name} ${build.ID}"]
    output   = upper("base")
    disk { path = "base" }
    override = {
      loc = { output = "over", disk = [{ path = "over" }] }
    }
  }
}
`

func TestDecodeSource(t *testing.T) {
	template := mustLoad(t, componentTemplate, Options{})
	var o componentOptions
	if diags := template.bakes[0].Component.Decode(&o, nil); diags.HasErrors() {
		t.Fatal(text(template, diags))
	}
	if o.Output != "a-null-var-null" {
		t.Errorf("output %q", o.Output)
	}
	if want := map[string]string{"ROOT": filepath.ToSlash(template.Dir), "VERSION": PackerVersion}; !reflect.DeepEqual(o.Env, want) {
		t.Errorf("env %v, want %v", o.Env, want)
	}
	var paths []string
	for _, d := range o.Disks {
		paths = append(paths, d.Path)
	}
	if want := []string{"x-loc", "y-loc", "z"}; !reflect.DeepEqual(paths, want) {
		t.Errorf("disks %v, want %v", paths, want)
	}
}

func TestDecodeStep(t *testing.T) {
	template := mustLoad(t, componentTemplate, Options{})
	c := template.bakes[0].Steps[0].Component
	var o componentOptions
	diags := c.Decode(&o, map[string]cty.Value{"build": cty.ObjectVal(map[string]cty.Value{"ID": cty.StringVal("i-1")})})
	if diags.HasErrors() {
		t.Fatal(text(template, diags))
	}
	if want := []string{"{{ .Vars }} loc n i-1"}; !reflect.DeepEqual(o.Inline, want) || o.Output != "over" || len(o.Disks) != 1 || o.Disks[0].Path != "over" {
		t.Errorf("%+v", o)
	}
	// Without the values of the build there is no build.ID.
	diags = c.Decode(&componentOptions{}, nil)
	expect(t, template, diags, hcl.DiagError, 19, "Unsupported attribute", "ID")
}

func TestDecodeErrors(t *testing.T) {
	tests := []struct {
		name, source, extra string
		line                int
		want                []string
	}{
		{"unknown", "otuput = 1", "", 2, []string{"Unsupported argument", `Did you mean "output"?`}},
		{"unknown in the build", "", "otuput = 1", 7, []string{"Unsupported argument", `Did you mean "output"?`}},
		{"in both places", "output = 1", "output = 2", 7, []string{"Duplicate argument", "output"}},
		{"missing in a block", "disk {\n }", "", 2, []string{"Missing required argument", `"path"`}},
		{"unknown template field", "output = \"{{ .Nope }}\"", "", 2, []string{"Invalid Go template", `"output"`, ".Nope"}},
		{"template field in a list", "env = {\n A = \"{{nope}}\" }", "", 3, []string{"Invalid Go template", `"env.A"`, "nope"}},
		{"unknown in dynamic", "dynamic \"disk\" {\n for_each = [1]\n content {\n path = disk.kye\n}\n}", "", 5, []string{"Unsupported attribute"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			template := mustLoad(t, "source \"null\" \"a\" {\n"+test.source+"\n}\nbuild {\n source \"null.a\" {\n name = \"n\"\n"+test.extra+"\n }\n}", Options{})
			diags := template.bakes[0].Component.Decode(&componentOptions{}, nil)
			expect(t, template, diags, hcl.DiagError, test.line, test.want...)
		})
	}
}

func TestOverrideErrors(t *testing.T) {
	template := mustLoad(t, strings.Replace(componentTemplate, "output = \"over\"", "otuput = \"over\"", 1), Options{})
	diags := template.bakes[0].Steps[0].Component.Decode(&componentOptions{}, map[string]cty.Value{"build": cty.ObjectVal(map[string]cty.Value{"ID": cty.StringVal("i-1")})})
	expect(t, template, diags, hcl.DiagError, 22, "Unsupported argument", "otuput", `Did you mean "output"?`)
}

func TestOverlayJustAttributes(t *testing.T) {
	template := mustLoad(t, `locals {
  a = 1
  b = 2
}`, Options{})
	var base hcl.Body
	for _, f := range template.Files {
		content, _ := f.Body.Content(rootSchema)
		base = content.Blocks[0].Body
	}
	attrs, diags := (&overlay{Body: base, values: map[string]cty.Value{"b": cty.StringVal("over"), "c": cty.True}}).JustAttributes()
	if diags.HasErrors() || len(attrs) != 3 {
		t.Fatal(attrs, diags)
	}
	if v, _ := attrs["b"].Expr.Value(nil); !v.RawEquals(cty.StringVal("over")) {
		t.Errorf("b = %#v", v)
	}
}

func TestDiagnose(t *testing.T) {
	template := mustLoad(t, componentTemplate, Options{})
	bake := template.bakes[0]
	for option, line := range map[string]int{"output": 5, "disk.0": 6, "disk.2.path": 16, "disk.1.path": 8, "env.VERSION": 15, "nothing": 4, "": 4} {
		diags := bake.Component.Diagnose([]config.Problem{{Option: option, Summary: "S", Detail: "D"}})
		expect(t, template, diags, hcl.DiagError, line, "S", "D")
	}
	diags := bake.Steps[0].Component.Diagnose([]config.Problem{{Option: "output", Summary: "S", Warning: true}})
	expect(t, template, diags, hcl.DiagWarning, 22, "S")
}

func TestRollouts(t *testing.T) {
	template := mustLoad(t, `
variables { port = 80 }
rollout "web" {
  listen = ":${var.port}"
  target { name = "t" }
}
rollout "api" { listen = ":81" }
`, Options{})
	var got []string
	for _, r := range template.Rollouts {
		var o struct {
			Listen string `cfg:"listen,required"`
			Target *struct {
				Name string `cfg:"name"`
			} `cfg:"target"`
		}
		if diags := r.Decode(&o, nil); diags.HasErrors() {
			t.Fatal(text(template, diags))
		}
		got = append(got, r.Type+" "+r.Labels[0]+" "+o.Listen)
	}
	if want := []string{"rollout api :81", "rollout web :80"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestConcurrentDecode is for the race detector: bakes decode side by side.
func TestConcurrentDecode(t *testing.T) {
	template := mustLoad(t, componentTemplate, Options{})
	done := make(chan hcl.Diagnostics)
	for range 8 {
		go func() { done <- template.bakes[0].Component.Decode(&componentOptions{}, nil) }()
	}
	for range 8 {
		if diags := <-done; diags.HasErrors() {
			t.Error(diags)
		}
	}
}

// TestLateNames: what a component renders when it runs is looked at before.
func TestLateNames(t *testing.T) {
	template := mustLoad(t, `
source "null" "a" {}
build {
  sources = ["null.a"]
  provisioner "x" {
    inline = [
      "{{ .Vars }} {{ .Host }}",
      "docker ps --format '{{ .Names }}'",
    ]
  }
}
`, Options{})
	extra := map[string]cty.Value{"build": cty.ObjectVal(map[string]cty.Value{"Host": cty.StringVal("h")})}
	diags := template.bakes[0].Steps[0].Component.Decode(&componentOptions{}, extra)
	expect(t, template, diags, hcl.DiagError, 8, "Invalid Go template", `"inline.1"`, "{{ .Names }} is unknown", "known here are .Host, .Vars")
}

type cleanOptions struct {
	Name string `cfg:"name"`
}

func (*cleanOptions) CleanResourceName(s string) string { return strings.ReplaceAll(s, ".", "-") }

func TestCleanResourceName(t *testing.T) {
	template := mustLoad(t, "source \"null\" \"a\" {\n name = \"{{ clean_resource_name `a.b` }}\"\n}\nbuild {\n sources = [\"null.a\"]\n}", Options{})
	var o cleanOptions
	if diags := template.bakes[0].Component.Decode(&o, nil); diags.HasErrors() || o.Name != "a-b" {
		t.Errorf("%q, %v", o.Name, diags)
	}
	diags := template.bakes[0].Component.Decode(&struct {
		Name string `cfg:"name"`
	}{}, nil)
	expect(t, template, diags, hcl.DiagError, 2, "clean_resource_name exists only in sources")
}

func TestCanonicalTypes(t *testing.T) {
	template := mustLoad(t, `
packer {
  required_plugins {
    myamazon = { source = "github.com/hashicorp/amazon", version = ">= 1" }
    amazon   = { source = "github.com/acme/other", version = ">= 1" }
    my-tools = { source = "github.com/hashicorp/ansible", version = ">= 1" }
  }
}
source "myamazon-ebs" "a" {}
source "amazon-ebs" "b" {}
build {
  sources = ["myamazon-ebs.a", "amazon-ebs.b"]
  provisioner "my-tools" { only = ["myamazon-ebs.a"] }
  provisioner "my-tools-local" { only = ["myamazon-ebs.a"] }
  post-processor "my-tools" {}
}
`, Options{})
	a, b := template.bakes[0], template.bakes[1]
	for got, want := range map[string]string{
		a.Name + " " + a.Type + " " + a.Component.Type + " " + a.Component.Plugin: "myamazon-ebs.a myamazon-ebs amazon-ebs github.com/hashicorp/amazon",
		b.Name + " " + b.Component.Type + " " + b.Component.Plugin:                "amazon-ebs.b other-ebs github.com/acme/other",
		stepNames(a): "provisioner:ansible: provisioner:ansible-local: [ansible:]",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	// -except means the type as it is written.
	plan, diags := template.Plan(Selection{Except: []string{"my-tools"}})
	if len(diags) > 0 || len(plan.Bakes[0].PostProcess) > 0 {
		t.Errorf("%v", diags)
	}
	for typ, want := range map[string]string{"docker": "docker", "amazon-ebs": "amazon", "amazonia": "", "hcloud": "hcloud", "windows-update": "windows-update", "shell": "", "file": ""} {
		if got := PluginOf(typ); got != want {
			t.Errorf("PluginOf(%q) = %q, want %q", typ, got, want)
		}
	}
}

func TestHCPRegistry(t *testing.T) {
	block := func(s string) string { return "\nhcp_packer_registry {\n" + s + "\n}" }
	for _, c := range []struct{ body, want string }{
		{`bucket_name = "ab"`, "Invalid bucket_name"},
		{`description = "` + strings.Repeat("x", 256) + `"`, "Invalid description"},
		{`bukcet_name = "abc"`, `Did you mean "bucket_name"?`},
		{`channels = 1 + "x"`, "Invalid operand"},
	} {
		_, diags := load(t, block(c.body), Options{})
		if len(diags) != 2 || !strings.Contains(diags[1].Error(), c.want) && !strings.Contains(diags[0].Error(), c.want) {
			t.Errorf("%s: %v", c.body, diags)
		}
	}
	template, diags := load(t, block(`bucket_labels = { a = "b" }`)+block(""), Options{})
	if len(diags) != 2 || !strings.Contains(diags.Error(), "without effect") || diags[1].Summary != "Duplicate block" {
		t.Error(text(template, diags))
	}
}

// bigTemplate has n sources, and one build of 70 lines for each ten of them.
func bigTemplate(n int) string {
	var b strings.Builder
	b.WriteString("variable \"region\" {\n  default = \"eu\"\n}\n")
	for i := range n {
		fmt.Fprintf(&b, "locals {\n  name%d = \"${var.region}-%d\"\n  next%d = upper(local.name%d)\n}\n", i, i, i, i)
		fmt.Fprintf(&b, "source \"null\" \"s%d\" {\n", i)
		for line := range 30 {
			fmt.Fprintf(&b, "  env%d = local.next%d\n", line, i)
		}
		b.WriteString("}\n")
		if i%10 != 9 {
			continue
		}
		fmt.Fprintf(&b, "build {\n  name    = \"b%d\"\n  sources = [", i)
		for j := range 10 {
			fmt.Fprintf(&b, "\"null.s%d\", ", i-j)
		}
		b.WriteString("]\n")
		for line := range 20 {
			fmt.Fprintf(&b, "  provisioner \"shell\" {\n    name    = \"n%d\"\n    timeout = \"5m\"\n    inline  = [\"echo ${local.name%d}\"]\n    env     = {\n      A = var.region\n    }\n  }\n", line, i)
		}
		for range 5 {
			b.WriteString("  post-processor \"manifest\" {\n    output = \"x\"\n  }\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// Which steps a bake has must not depend on which bake came before it.
func TestStepsOfManySources(t *testing.T) {
	plan := mustPlan(t, `
variable "b" { default = "null.b" }
source "null" "a" {}
source "null" "b" {}
source "null" "c" {}
build {
  sources = ["null.a", "null.b", "null.c"]
  provisioner "one" { only = ["null.c"] }
  provisioner "two" { except = ["null.a"] }
  provisioner "three" { only = [var.b] }
  provisioner "four" { only = [] }
  provisioner "five" {
    only = ["null.a", "null.c"]
    name = upper("five")
  }
  post-processor "six" { only = ["null.b"] }
  post-processors {
    post-processor "seven" { except = ["null.b"] }
  }
}
`, Selection{})
	for i, want := range []string{"four five seven", "two three four six", "one two four five seven"} {
		var have []string
		for _, s := range slices.Concat(append([][]*Step{plan.Bakes[i].Steps}, plan.Bakes[i].PostProcess...)...) {
			have = append(have, s.Component.Type)
		}
		if got := strings.Join(have, " "); got != want {
			t.Errorf("%s has %s, want %s", plan.Bakes[i].Name, got, want)
		}
	}
	// Who is left out by all still is looked at.
	template, diags := load(t, `
source "null" "a" {}
source "null" "b" {}
build {
  sources = ["null.a", "null.b"]
  provisioner "x" {
    only    = ["null.b"]
    timeout = "5"
  }
}
`, Options{})
	expect(t, template, diags, hcl.DiagError, 8, "duration")
}

// BenchmarkLoad shows how the cost of reading a template grows with its length.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{10, 50, 100, 200, 400} {
		template := bigTemplate(n)
		name := filepath.Join(b.TempDir(), "t.pkr.hcl")
		writeFile(b, name, template)
		lines := strings.Count(template, "\n")
		b.Run(fmt.Sprintf("sources=%d/lines=%d", n, lines), func(b *testing.B) {
			for b.Loop() {
				t, diags := Load(Options{Path: name})
				if diags.HasErrors() || len(t.bakes) != n {
					b.Fatal(diags)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(lines), "ns/line")
		})
	}
	// Every source in one build, each with steps of its own.
	for _, n := range []int{25, 50, 100, 200} {
		name := filepath.Join(b.TempDir(), "t.pkr.hcl")
		template := ownSteps(n)
		writeFile(b, name, template)
		b.Run(fmt.Sprintf("own-steps/sources=%d/lines=%d", n, strings.Count(template, "\n")), func(b *testing.B) {
			for b.Loop() {
				t, diags := Load(Options{Path: name})
				if diags.HasErrors() || len(t.bakes) != n || len(t.bakes[n-1].Steps) != 6 {
					b.Fatal(diags)
				}
			}
		})
	}
}

// ownSteps is a template with one build of n sources and six steps for each.
func ownSteps(n int) string {
	var b, sources strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "source \"null\" \"s%d\" {\n  communicator = \"none\"\n}\n", i)
		fmt.Fprintf(&sources, "\"null.s%d\", ", i)
	}
	fmt.Fprintf(&b, "build {\n  sources = [%s]\n", sources.String())
	for i := range 6 * n {
		fmt.Fprintf(&b, "  provisioner \"shell-local\" {\n    only = [\"null.s%d\"]\n    inline = [\n      \"echo {{build_name}}\",\n    ]\n    timeout = \"5m\"\n  }\n", i%n)
	}
	b.WriteString("}\n")
	return b.String()
}
