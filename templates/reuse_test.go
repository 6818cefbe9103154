package templates

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// decoded is an option of a bake's source.
func decoded(t *testing.T, b *Bake, extra map[string]cty.Value) string {
	t.Helper()
	var o componentOptions
	if diags := b.Component.Decode(&o, extra); diags.HasErrors() {
		t.Fatal(diags)
	}
	return o.Output
}

func TestForEach(t *testing.T) {
	const archive = `
source "null" "a" { output = "${each.key}=${each.value.size}" }
build {
  name     = "web"
  for_each = { eu = { size = 1 }, us = { size = 2 } }
  sources  = ["null.a"]
  provisioner "shell" { name = "in-${each.key}" }
}
`
	plan := mustPlan(t, archive, Selection{})
	var got []string
	for _, b := range plan.Bakes {
		got = append(got, strings.Join([]string{b.Name, b.Image, decoded(t, b, nil), stepNames(b)}, "|"))
	}
	want := "web-eu.null.a|web-eu|eu=1|provisioner:shell:in-eu web-us.null.a|web-us|us=2|provisioner:shell:in-us"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	for forEach, want := range map[string]string{
		`["b", "a"]`:                       "web-b.null.a web-a.null.a",
		`convert(["b", "a"], set(string))`: "web-a.null.a web-b.null.a",
		`{ "12.04" = 1 }`:                  "web-12.04.null.a",
	} {
		plan := mustPlan(t, "source \"null\" \"a\" {}\nbuild {\n name = \"web\"\n for_each = "+forEach+"\n sources = [\"null.a\"]\n}", Selection{})
		if got := strings.Join(bakeNames(plan), " "); got != want {
			t.Errorf("%s: got %s, want %s", forEach, got, want)
		}
	}
	for name, want := range map[string]string{"": "eu.null.a", `name = "x-${each.key}-y"`: "x-eu-y.null.a", `name = "x"`: "x-eu.null.a"} {
		plan := mustPlan(t, "source \"null\" \"a\" {}\nbuild {\n"+name+"\n for_each = [\"eu\"]\n image = \"line\"\n sources = [\"null.a\"]\n}", Selection{})
		if got := strings.Join(bakeNames(plan), " "); got != want || plan.Bakes[0].Image != "line" {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestForEachErrors(t *testing.T) {
	for forEach, want := range map[string]string{
		`"a"`:        "must be a map",
		`[1, null]`:  "must be a map",
		`null`:       "must be a map",
		`["a b"]`:    "becomes part of names",
		`["-a"]`:     "becomes part of names",
		`[""]`:       "becomes part of names",
		`["a", "a"]`: "is there twice",
		`var.none`:   "Unsupported attribute",
	} {
		t.Run(forEach, func(t *testing.T) {
			template, diags := load(t, "source \"null\" \"a\" {}\nbuild {\n for_each = "+forEach+"\n sources = [\"null.a\"]\n}", Options{})
			expect(t, template, diags, hcl.DiagError, 3, want)
		})
	}
	template, diags := load(t, "source \"null\" \"a\" {}\nbuild {\n for_each = []\n sources = [\"null.a\"]\n}", Options{})
	expect(t, template, diags, hcl.DiagWarning, 3, "bakes nothing")
}

func TestExtend(t *testing.T) {
	const archive = `
-- web.pkr.hcl --
source "null" "a" {}
source "null" "b" {}
build {
  name    = "web"
  sources = ["null.a", "null.b"]
  provisioner "shell" { name = "first" }
  post-processor "manifest" {}
}
build {
  name    = "other"
  sources = ["null.a"]
}
-- web.ingot.hcl --
build {
  name  = "web"
  image = "line"
  spec "shared" {}
  provisioner "shell" { only = ["null.b"] }
  error-cleanup-provisioner "shell" {}
  post-processor "checksum" {}
}
spec "shared" { port = 80 }
`
	plan := mustPlan(t, archive, Selection{})
	var got []string
	for _, b := range plan.Bakes {
		got = append(got, b.Name+"|"+b.Image+"|"+stepNames(b))
	}
	want := []string{
		"web.null.a|line|provisioner:shell:first spec:spec:shared cleanup:shell [manifest:] [checksum:]",
		"web.null.b|line|provisioner:shell:first spec:spec:shared provisioner:shell: cleanup:shell [manifest:] [checksum:]",
		"other.null.a|other|",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestExtendErrors(t *testing.T) {
	const base = "-- a.pkr.hcl --\nsource \"null\" \"a\" {}\nbuild {\n name = \"web\"\n image = \"x\"\n sources = [\"null.a\"]\n error-cleanup-provisioner \"x\" {}\n}\n"
	for extension, want := range map[string]string{
		"build {\n name = \"wbe\"\n}":                                           `No build to add to|Did you mean "web"?`,
		"build {\n image = \"y\"\n}":                                            "Build without a source",
		"build {\n name = \"web\"\n image = \"y\"\n}":                           "Duplicate argument|image",
		"build {\n name = \"web\"\n for_each = []\n}":                           "for_each without sources",
		"build {\n name = \"web\"\n error-cleanup-provisioner \"x\" {}\n}":      "at most one",
		"build {\n name = \"web\"\n provisionner \"x\" {}\n}":                   `Did you mean "provisioner"?`,
		"build {\n name = \"web\"\n provisioner \"x\" {\n only = [\"a\"]\n}\n}": "No such source",
	} {
		t.Run(extension, func(t *testing.T) {
			template, diags := load(t, base+"-- b.ingot.hcl --\n"+extension, Options{})
			severity := hcl.DiagError
			if want == "No such source" {
				severity = hcl.DiagWarning
			}
			expect(t, template, diags, severity, 0, strings.Split(want, "|")...)
		})
	}
	template, diags := load(t, base+"-- b.pkr.hcl --\nbuild {\n name = \"web\"\n}", Options{})
	expect(t, template, diags, hcl.DiagError, 1, "Build without a source", "*.ingot.hcl")
}

func TestInclude(t *testing.T) {
	const archive = `
source "null" "a" {}
source "null" "b" {}
steps "base" {
  provisioner "shell" { name = "base" }
}
steps "hardening" {
  include = [steps.base]
  provisioner "shell" {
    name = "${source.name}-${build.name}"
    only = ["null.b", "null.elsewhere"]
  }
  spec "hard" {}
}
steps "late" {
  provisioner "file" {}
}
spec "hard" {
  only = ["null.b"]
  timeout = "5s"
}
build {
  name    = "n"
  include = [steps.hardening]
  sources = ["null.a", "null.b"]
  provisioner "sleep" {}
  include "late" { only = ["null.a"] }
  provisioner "sleep" { name = "end" }
}
`
	plan := mustPlan(t, archive, Selection{})
	for i, want := range []string{
		"provisioner:shell:base provisioner:sleep: provisioner:file: provisioner:sleep:end",
		"provisioner:shell:base provisioner:shell:b-n spec:spec:hard provisioner:sleep: provisioner:sleep:end",
	} {
		if got := stepNames(plan.Bakes[i]); got != want {
			t.Errorf("%s:\n got %s\nwant %s", plan.Bakes[i].Name, got, want)
		}
	}
	if got := plan.Bakes[1].Steps[2].Timeout.String(); got != "5s" {
		t.Errorf("the timeout of a shared spec is %s", got)
	}
}

func TestIncludeErrors(t *testing.T) {
	build := func(s string) string {
		return "source \"null\" \"a\" {}\nbuild {\n sources = [\"null.a\"]\n" + s + "\n}\nsteps \"base\" {\n}\n"
	}
	for _, c := range []struct {
		archive string
		line    int
		want    string
	}{
		{build("include = [steps.bsae]"), 4, `Unknown steps|Did you mean "base"?`},
		{build("include \"bsae\" {}"), 4, `Unknown steps|Did you mean "base"?`},
		{build("include = steps.base"), 4, "Invalid include"},
		{build("include = [base]"), 4, "Invalid include"},
		{build("include \"base\" {\n onyl = []\n}"), 5, `Did you mean "only"?`},
		{build("include \"one\" {\n only = [\"null.a\"]\n except = [\"null.a\"]\n}") + "steps \"one\" {\n provisioner \"x\" {}\n}", 4, "Both only and except"},
		{"steps \"a\" {\n include = [steps.b]\n}\nsteps \"b\" {\n include \"a\" {}\n}", 5, "Cycle: steps.a -> steps.b -> steps.a"},
		{"steps \"a\" {\n post-processor \"x\" {}\n}", 2, "Unsupported block type"},
		{"steps \"a\" {}\nsteps \"a\" {}", 2, "Duplicate steps"},
	} {
		t.Run(c.want, func(t *testing.T) {
			template, diags := load(t, c.archive, Options{})
			if len(diags) > 1 && strings.HasPrefix(c.want, "Cycle") {
				diags = diags[:1] // the same circle, entered at another list
			}
			expect(t, template, diags, hcl.DiagError, c.line, strings.Split(c.want, "|")...)
		})
	}
}

const needsTemplate = `
source "null" "a" {}
source "null" "b" {}
source "null" "web" { output = "from ${build.base.artifact.id}" }
build {
  name    = "web"
  sources = ["null.web"]
}
build {
  name    = "base"
  sources = ["null.a"]
}
build {
  name    = "both"
  sources = ["null.a", "null.b"]
}
build {
  name       = "last"
  sources    = ["null.a"]
  depends_on = [build.web]
  provisioner "shell" {
    inline = [build.both.artifacts["null.b"].files[0], build.ID]
  }
}
`

func needsOf(bakes []*Bake) string {
	var out []string
	for _, b := range bakes {
		out = append(out, b.Name+"("+strings.Join(bakeNames(&Plan{Bakes: b.Needs}), " ")+")")
	}
	return strings.Join(out, " ")
}

func TestNeeds(t *testing.T) {
	template := mustLoad(t, needsTemplate, Options{})
	if got, want := needsOf(template.bakes), "web.null.web(base.null.a) base.null.a() both.null.a() both.null.b() last.null.a(web.null.web both.null.b)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	plan, diags := template.Plan(Selection{Only: []string{"last.*"}})
	if diags.HasErrors() || len(diags) != 3 {
		t.Fatal(diags)
	}
	for _, d := range diags {
		if d.Summary != "Bake added" {
			t.Error(d)
		}
	}
	if got, want := needsOf(plan.Bakes), "web.null.web(base.null.a) base.null.a() both.null.b() last.null.a(web.null.web both.null.b)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// What a plan needs is in the plan itself.
	for _, b := range plan.Bakes {
		for _, n := range b.Needs {
			if n == template.bakes[0] || n == template.bakes[1] {
				t.Errorf("%s needs a bake that is not of the plan", b.Name)
			}
		}
	}
	_, diags = template.Plan(Selection{Except: []string{"base.*"}})
	expect(t, template, diags, hcl.DiagError, 5, "Needed bake left out", "web.null.web", "base.null.a")
}

func TestArtifactsOfNeeds(t *testing.T) {
	template := mustLoad(t, needsTemplate, Options{})
	web, last := template.bakes[0], template.bakes[4]
	var o componentOptions
	diags := web.Component.Decode(&o, nil)
	expect(t, template, diags, hcl.DiagError, 4, "Value not known yet")
	known := func(b *Bake) map[string]cty.Value {
		return b.Artifacts(func(n *Bake) cty.Value {
			return cty.ObjectVal(map[string]cty.Value{
				"id": cty.StringVal("id-of-" + n.Name), "version": cty.StringVal("v1"), "files": cty.ListVal([]cty.Value{cty.StringVal("file-of-" + n.Name)}),
				"places": cty.ListValEmpty(ArtifactType.AttributeType("places").ElementType()),
			})
		})
	}
	if got := decoded(t, web, map[string]cty.Value{"build": cty.ObjectVal(known(web))}); got != "from id-of-base.null.a" {
		t.Errorf("got %s", got)
	}
	extra := known(last)
	extra["ID"] = cty.StringVal("own")
	if diags := last.Steps[0].Component.Decode(&o, map[string]cty.Value{"build": cty.ObjectVal(extra)}); diags.HasErrors() {
		t.Fatal(diags)
	}
	if got := fmt.Sprint(o.Inline); got != "[file-of-both.null.b own]" {
		t.Errorf("got %s", got)
	}
}

func TestNeedsOfForEach(t *testing.T) {
	template := mustLoad(t, `
source "null" "base" {}
source "null" "web" { output = build["base-${each.key}"].artifact.id }
source "null" "one" { output = build.base-eu.artifact.id }
build {
  name     = "base"
  for_each = ["eu", "us"]
  sources  = ["null.base"]
}
build {
  name       = "web"
  for_each   = ["eu", "us"]
  sources    = ["null.web"]
  depends_on = ["base-${each.key}"]
}
build {
  name       = "one"
  sources    = ["null.one"]
}
build {
  name       = "all"
  sources    = ["null.base"]
  depends_on = [build.base]
}
`, Options{})
	want := "base-eu.null.base() base-us.null.base() web-eu.null.web(base-eu.null.base) web-us.null.web(base-us.null.base)" +
		" one.null.one(base-eu.null.base) all.null.base(base-eu.null.base base-us.null.base)"
	if got := needsOf(template.bakes); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	web := template.bakes[3]
	v := web.Artifacts(func(n *Bake) cty.Value { return cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(n.Name)}) })
	if got := decoded(t, web, map[string]cty.Value{"build": cty.ObjectVal(v)}); got != "base-us.null.base" {
		t.Errorf("got %s", got)
	}
}

func TestNeedsErrors(t *testing.T) {
	build := func(name, rest string) string {
		return "build {\n name = \"" + name + "\"\n sources = [\"null." + name + "\"]\n " + rest + "\n}\n"
	}
	sources := "source \"null\" \"a\" {}\nsource \"null\" \"b\" {}\nsource \"null\" \"c\" {}\n"
	for _, c := range []struct {
		archive string
		line    int
		want    string
	}{
		{sources + build("a", "depends_on = [build.b]") + build("b", "depends_on = [build.c]") + build("c", "depends_on = [\"a\"]"), 4,
			"Cycle: a.null.a -> b.null.b -> c.null.c -> a.null.a"},
		{sources + build("a", "depends_on = [build.a]"), 4, "Cycle: a.null.a -> a.null.a"},
		{sources + build("a", "image = \"x\"") + build("b", "depends_on = [build.a]") + build("c", "image = \"x\"\n depends_on = [build.b]"), 4,
			`Cycle of images: "x" -> "b" -> "x"`},
		{sources + build("a", "depends_on = build.b"), 7, "Invalid depends_on"},
		{sources + build("a", "depends_on = [[]]"), 7, "Wrong type of value|depends_on"},
		{sources + build("a", "depends_on = [build.bb]") + strings.Replace(build("b", ""), `"b"`, `"bbb"`, 1), 7, `Unknown build|Did you mean "bbb"?`},
		{"source \"null\" \"b\" {\n output = build.aa.artifact.id\n}\nsource \"null\" \"a\" {}\n" + build("a", "") + build("b", ""), 2, `Unknown build|Did you mean "a"?`},
		{"source \"null\" \"b\" {\n output = build.name\n}\nsource \"null\" \"a\" {}\n" + build("a", "") + build("b", ""), 2, `Unknown build|provisioners and post-processors only`},
		{"source \"null\" \"b\" {\n output = build.a.artifact.id\n}\nsource \"null\" \"a\" {}\nsource \"null\" \"c\" {}\nbuild {\n name = \"a\"\n sources = [\"null.a\", \"null.c\"]\n}\n" + build("b", ""), 2,
			`Ambiguous artifact|build.a.artifacts["null.a"]`},
		{"source \"null\" \"b\" {\n output = build.a.artifacts[\"null.x\"].id\n}\nsource \"null\" \"a\" {}\n" + build("a", "") + build("b", ""), 2, `Unknown artifact|null.x`},
		{"source \"null\" \"b\" {\n output = build.a.artifact.id\n}\nsource \"null\" \"a\" {}\n" + build("a", "for_each = [\"x\", \"y\"]") + build("b", ""), 2, `Ambiguous artifact|build.a-x`},
	} {
		t.Run(c.want, func(t *testing.T) {
			template, diags := load(t, c.archive, Options{})
			expect(t, template, diags, hcl.DiagError, c.line, strings.Split(c.want, "|")...)
		})
	}
}
