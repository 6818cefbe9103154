package templates

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

func TestFilesOfADirectory(t *testing.T) {
	const archive = `
-- b.pkr.hcl --
source "null" "b" {}
build { sources = ["null.b"] }
-- a.pkr.json --
{"source": {"null": {"a": {}}}, "build": [{"sources": ["null.a"]}]}
-- z.ingot.hcl --
source "null" "z" {}
build { sources = ["null.z"] }
-- y.ingot.json --
{"source": {"null": {"y": {}}}, "build": {"sources": ["null.y"]}}
-- other.hcl --
this is not read
-- sub/c.pkr.hcl --
nor is this
-- .hidden.pkr.hcl --
source "null" "hidden" {}
build { sources = ["null.hidden"] }
`
	var names []string
	for _, b := range mustPlan(t, archive, Selection{}).Bakes {
		names = append(names, b.Name)
	}
	if want := []string{"null.hidden", "null.b", "null.a", "null.z", "null.y"}; !reflect.DeepEqual(names, want) {
		t.Errorf("bakes %v, want %v", names, want)
	}
	one := mustLoad(t, archive, Options{Path: "b.pkr.hcl"})
	if len(one.Files) != 1 || len(one.bakes) != 1 || one.Dir == "" || strings.HasSuffix(one.Dir, ".hcl") {
		t.Errorf("one file: %v in %q", one.Files, one.Dir)
	}
}

func TestLoadErrors(t *testing.T) {
	tests := []struct {
		name, archive string
		o             Options
		line          int
		want          []string
	}{
		{name: "no files", archive: "-- x.hcl --\n", want: []string{"Could not find any config file", ".pkr.hcl"}},
		{name: "no such file", archive: "-- x.hcl --\n", o: Options{Path: "none.pkr.hcl"}, want: []string{"Template not found", "none.pkr.hcl"}},
		{name: "other ending", archive: "-- x.hcl --\n", o: Options{Path: "x.hcl"}, want: []string{"Not a template", "x.hcl"}},
		{name: "too deep", archive: "locals { a = " + strings.Repeat("[", 50000) + "}", want: []string{"File too large or too deep", "brackets"}},
		{name: "syntax", archive: "build {\n  name = \n}", line: 2, want: []string{"Invalid expression"}},
		{name: "unknown block", archive: "\nbiuld {}", line: 2, want: []string{"Unsupported block type", `Did you mean "build"?`}},
		{name: "unknown block, syntax only", archive: "sorce \"a\" \"b\" {}", o: Options{SyntaxOnly: true}, line: 1, want: []string{`Did you mean "source"?`}},
		{name: "unknown property", archive: "-- t.pkr.json --\n{\"buidl\": {}}", line: 1, want: []string{"Unsupported argument", `Did you mean "build"?`}},
		{name: "dynamic at the top", archive: "dynamic \"build\" {\n}", line: 1, want: []string{"Unsupported block type"}},
		{name: "label missing", archive: "source \"null\" {\n}", line: 1, want: []string{"Missing name for source"}},
		{name: "duplicate source", archive: "source \"a\" \"b\" {}\nsource \"a\" \"b\" {}", line: 2, want: []string{"Duplicate source", "a.b", ":1"}},
		{name: "duplicate spec", archive: "spec \"b\" {}\nspec \"b\" {}", line: 2, want: []string{"Duplicate spec"}},
		{name: "duplicate rollout", archive: "rollout \"b\" {}\nrollout \"b\" {}", line: 2, want: []string{"Duplicate rollout"}},
		{name: "duplicate variable", archive: "variable \"b\" {}\nvariables {\n b = 1\n}", line: 3, want: []string{"Duplicate variable"}},
		{name: "duplicate local", archive: "locals {\n b = 1\n}\nlocal \"b\" {\n expression = 1\n}", line: 4, want: []string{"Duplicate local"}},
		{name: "required version", archive: "packer {\n required_version = \">= 2.0.0\"\n}", line: 2, want: []string{"Unsupported Packer version", ">= 2.0.0", PackerVersion}},
		{name: "bad version", archive: "packer {\n required_version = \"soon\"\n}", line: 2, want: []string{"Invalid version constraint"}},
		{name: "version not literal", archive: "packer {\n required_version = var.x\n}", line: 2, want: []string{"Variables not allowed"}},
		{name: "unknown in packer", archive: "packer {\n required_plugin {}\n}", line: 2, want: []string{`Did you mean "required_plugins"?`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			template, diags := load(t, test.archive, test.o)
			expect(t, template, diags, hcl.DiagError, test.line, test.want...)
		})
	}
}

func TestRequiredPlugins(t *testing.T) {
	for requirement, want := range map[string]string{
		`{ source = "github.com/hashicorp/amazon", version = ">= 1.2, < 2" }`:     "",
		`{ source = "example.com/a/b/c/d", version = "~> 1.0" }`:                  "",
		`"github.com/hashicorp/amazon"`:                                           "write {",
		`null`:                                                                    "write {",
		`{ source = "github.com/hashicorp/amazon" }`:                              "both",
		`{ source = "github.com/hashicorp/amazon", version = "1", extra = "x" }`:  "only",
		`{ source = "github.com/hashicorp/amazon", version = 1 }`:                 "each a string",
		`{ source = "github.com/hashicorp/amazon", version = "new" }`:             "no version constraint",
		`{ source = "github.com/hashicorp/amazon", version = ">= 1.0.0-beta" }`:   "prerelease",
		`{ source = "hashicorp/amazon", version = "1" }`:                          "3 to 16 parts",
		`{ source = "https://github.com/hashicorp/amazon", version = "1" }`:       "scheme",
		`{ source = "github.com/hashicorp/packer-plugin-amazon", version = "1" }`: "packer-plugin-",
		`{ source = "github.com/hashicorp/amazon?x=1", version = "1" }`:           "query",
	} {
		template, diags := load(t, "packer {\n required_plugins {\n  p = "+requirement+"\n }\n}", Options{})
		if want == "" {
			if len(diags) > 0 {
				t.Errorf("%s: %v", requirement, diags)
			}
			continue
		}
		t.Run(requirement, func(t *testing.T) { expect(t, template, diags, hcl.DiagError, 3, "Invalid plugin requirement", want) })
	}
}

func TestAcceptedWithoutEffect(t *testing.T) {
	template, diags := load(t, "communicator \"ssh\" \"x\" {\n any = thing\n}", Options{})
	expect(t, template, diags, hcl.DiagWarning, 1, "without effect", "communicator")
	template, diags = load(t, "source \"null\" \"a\" {}\nbuild {\n sources = [\"null.a\"]\n hcp_packer_registry {\n }\n}", Options{})
	expect(t, template, diags, hcl.DiagWarning, 4, "without effect", "HCP Packer", "ingot images")
}

func TestSyntaxOnlyEvaluatesNothing(t *testing.T) {
	template, diags := load(t, `
variable "unset" {}
locals { x = nothing.at.all }
build { sources = ["null.none"] }
`, Options{SyntaxOnly: true})
	if len(diags) > 0 {
		t.Error(text(template, diags))
	}
}

// As with Packer: who keeps alternatives in one directory can look at them.
func TestLateFindings(t *testing.T) {
	for name, archive := range map[string]string{
		"Duplicate source":           "source \"null\" \"a\" {}\nsource \"null\" \"a\" {}\nbuild {\n sources = [\"null.a\"]\n}",
		"Unsupported Packer version": "-- t.json --\n{\"min_packer_version\": \"99\", \"builders\": [{\"type\": \"null\"}]}",
	} {
		path := ""
		if strings.HasPrefix(archive, "-- ") {
			path = "t.json"
		}
		template, diags := load(t, archive, Options{Path: path, SyntaxOnly: true})
		if len(diags) > 0 {
			t.Errorf("%s, syntax only:\n%s", name, text(template, diags))
		}
		template, diags = load(t, archive, Options{Path: path})
		expect(t, template, diags, hcl.DiagError, 0, name)
		for file := range template.Files {
			template, diags = Inspect(Options{Path: file})
			expect(t, template, diags, hcl.DiagWarning, 0, name)
		}
	}
}

func TestAllErrorsOfAStageAtOnce(t *testing.T) {
	template, diags := load(t, `
variable "a" {}
variable "b" {}
variable "c" {
  default = 1
  validation {
    condition     = var.c > 1
    error_message = "Too small."
  }
}
`, Options{})
	if len(diags) != 3 {
		t.Error(text(template, diags))
	}
	_, diags = load(t, `
source "null" "a" {}
build {
  sources = ["null.a", "null.b", "c"]
  post-processor "x" {
    only = 1
    mane = 2
  }
  provisioner "x" {
    timeout = "5"
    max_retries = -1
  }
}
`, Options{})
	var lines []int
	for _, d := range diags {
		lines = append(lines, d.Subject.Start.Line)
	}
	if want := []int{4, 4, 5, 10, 11}; !reflect.DeepEqual(lines, want) {
		t.Errorf("findings on lines %v: %v", lines, diags)
	}
}

// What is wrong in one stage does not hide what is wrong in the next, and
// nobody is blamed for what another is the reason of.
func TestErrorsOfAllStagesAtOnce(t *testing.T) {
	template, diags := load(t, `
variable "unset" {}
locals {
  wrong = local.nope
  needs = upper(local.wrong)
  late  = var.unset
}
source "null" "a" {}
build {
  name    = local.needs
  sources = ["null.a", "null.b"]
  provisioner "x" {
    timeout  = "5"
    override = local.late
  }
}
build { sources = local.wrong }
`, Options{EvaluateData: true})
	var lines []int
	for _, d := range diags {
		lines = append(lines, d.Subject.Start.Line)
	}
	if want := []int{2, 4, 11, 13}; !reflect.DeepEqual(lines, want) {
		t.Errorf("findings on lines %v:\n%s", lines, text(template, diags))
	}
	plan, _ := template.Plan(Selection{})
	if len(plan.Bakes) != 1 {
		t.Fatalf("%d bakes", len(plan.Bakes))
	}
	var options struct {
		X string `cfg:"x"`
	}
	if diags := plan.Bakes[0].Component.Decode(&options, nil); len(diags) > 0 {
		t.Error(diags)
	}
}

func TestSuggestions(t *testing.T) {
	for name, c := range map[string]struct{ archive, want string }{
		"variable":      {"variable \"region\" {\n default = 1\n}\nlocals {\n x = [var.regoin]\n}", `named "regoin". Did you mean "region"?`},
		"local":         {"locals {\n region = 1\n x = local.regoin\n}", `Did you mean "region"?`},
		"path":          {"locals {\n x = path.rot\n}", `Did you mean "root"?`},
		"nothing near":  {"locals {\n x = path.elsewhere\n}", "named \"elsewhere\".\n"},
		"not its value": {"variable \"v\" {\n default = { hunter = 1 }\n}\nlocals {\n x = var.v.huntr\n}", "named \"huntr\".\n"},
		"argument":      {"", `there is no name before the "="`},
		"no result":     {"locals {\n x = log(0, 0)\n}", "failed: it has no result for these arguments (Float.SetFloat64(NaN)).\n"},
	} {
		o := Options{}
		if name == "argument" {
			o.Vars = []string{"=x"}
		}
		template, diags := load(t, c.archive, o)
		if got := text(template, diags); len(diags) != 1 || !strings.Contains(got, c.want) || strings.Contains(got, "goroutine") {
			t.Errorf("%s:\n%s", name, got)
		}
	}
}

func TestSuggestionForPattern(t *testing.T) {
	template := mustLoad(t, "source \"null\" \"web\" {}\nbuild {\n sources = [\"null.web\"]\n}", Options{})
	_, diags := template.Plan(Selection{Only: []string{"nul.web"}})
	if len(diags) != 2 || !strings.Contains(diags[0].Detail, `Did you mean "null.web"?`) {
		t.Error(diags)
	}
}

func TestWriteDiagnostics(t *testing.T) {
	template, diags := load(t, "source \"null\" \"web\" {}\nbuild {\n  sources = [\"null.wbe\"]\n}", Options{})
	got := text(template, diags)
	name := filepath.Join(template.Dir, "t.pkr.hcl")
	want := "Error: Unknown source\n\n  on " + name + " line 3, in build:\n   3:   sources = [\"null.wbe\"]\n\n" +
		"The template declares no source \"null\" \"wbe\". Did you mean \"null.web\"?\n\n"
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestDiagnosticsDoNotShowValues(t *testing.T) {
	for name, archive := range map[string]string{
		"in an expression": "variable \"pw\" {\n sensitive = true\n}\nlocals {\n x = var.pw.field\n}",
		"in a condition":   "variable \"pw\" {\n sensitive = true\n validation {\n condition = regex(\"x\", var.pw) == \"\"\n error_message = \"No.\"\n }\n}",
		"of another type":  "variable \"pw\" {\n sensitive = true\n type = map(string)\n}",
		"a number":         "variable \"pw\" {\n sensitive = true\n type = number\n}",
	} {
		template, diags := load(t, archive, Options{Vars: []string{"pw=hunter2"}})
		if got := text(template, diags); !diags.HasErrors() || strings.Contains(got, "hunter2") {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	template, diags := load(t, "", Options{Vars: []string{"hunter2"}})
	if got := text(template, diags); !diags.HasErrors() || strings.Contains(got, "hunter2") {
		t.Error(got)
	}
	template, diags = load(t, "-- t.pkr.hcl --\nvariable \"pw\" {\n type = number\n}\n-- v.pkrvars.hcl --\npw = \"hunter2\"\n", Options{VarFiles: []string{"v.pkrvars.hcl"}})
	if got := text(template, diags); !diags.HasErrors() || strings.Contains(got, "hunter2") || !strings.Contains(got, "v.pkrvars.hcl line 1") {
		t.Error(got)
	}
}

func TestFormat(t *testing.T) {
	if got := string(Format([]byte("a=1\nlong   = 2\n"))); got != "a    = 1\nlong = 2\n" {
		t.Errorf("%q", got)
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"variable \"a\" {\n type = list(string)\n default = [\"x\"]\n}\nlocals {\n b = var.a[0]\n}\n",
		"source \"null\" \"a\" {\n x = 1\n}\nbuild {\n name = \"n\"\n image = source.name\n source \"null.a\" {\n name = \"l\"\n }\n provisioner \"shell\" {\n override = { l = { x = 1 } }\n }\n spec \"s\" {}\n}\nspec \"s\" {}\n",
		"source \"null\" \"a\" {}\nbuild {\n sources = [\"source.null.a\"]\n dynamic \"provisioner\" {\n for_each = [1]\n labels = [\"x\"]\n content {\n name = provisioner.key\n }\n }\n post-processors {\n post-processor \"m\" {}\n }\n}\n",
		"variable \"a\" {\n validation {\n condition = var.a != \"\"\n error_message = \"No.\"\n }\n}\n",
		"local \"a\" {\n expression = local.b\n sensitive = true\n}\nlocals {\n b = local.a\n c = templatefile(\"x\", {})\n}\n",
		"packer {\n required_version = \"> 1\"\n required_plugins {\n a = { source = \"a/b/c\", version = \"1\" }\n }\n}\nrollout \"r\" {}\n",
		"data \"null\" \"a\" {\n input = local.b\n}\nlocals {\n b = \"x\"\n}\nsource \"null\" \"a\" {\n x = data.null.a.output\n}\nbuild {\n name = data.null.a.output\n sources = [\"null.a\"]\n}\n",
		"source \"null\" \"a\" {\n x = build.b-k.artifact.id\n}\nsource \"null\" \"b\" {}\nbuild {\n name = \"b\"\n for_each = { k = 1 }\n sources = [\"null.b\"]\n}\nbuild {\n sources = [\"null.a\"]\n depends_on = [build.b]\n include = [steps.s]\n include \"s\" {\n only = [\"null.a\"]\n }\n}\nsteps \"s\" {\n provisioner \"x\" {}\n}\n",
		`{"variable": {"a": {"default": "x"}}, "locals": {"b": "${var.a}"}, "build": [{"sources": ["null.a"]}], "source": {"null": {"a": {}}}}`,
	} {
		f.Add(s, "a = \"v\"\n", "v")
		f.Add(s, `{"a": ["v"]}`, "[\"v\"]")
	}
	f.Fuzz(func(t *testing.T, template, values, arg string) {
		if len(template)+len(values)+len(arg) > 2000 {
			t.Skip("long inputs only make the search slower")
		}
		ending := func(s string) string {
			if strings.HasPrefix(s, "{") {
				return ".json"
			}
			return ".hcl"
		}
		dir := t.TempDir()
		for name, s := range map[string]string{"t.pkr" + ending(template): template, "v.auto.pkrvars" + ending(values): values} {
			writeFile(t, filepath.Join(dir, name), s)
		}
		o := withData(len(arg)%2 == 0)
		delete(o.Datasources, "http")
		o.Path, o.Vars, o.Environ, o.WarnUndeclared = dir, []string{"a=" + arg}, []string{"PKR_VAR_b=" + arg}, true
		loaded, diags := Load(o)
		_ = text(loaded, diags)
		for _, d := range diags {
			if d.Summary == "" {
				t.Errorf("finding without a summary: %+v", d)
			}
		}
		if diags.HasErrors() {
			return
		}
		_ = loaded.Secrets()
		plan, _ := loaded.Plan(Selection{Except: []string{"*" + arg}})
		if plan == nil {
			return
		}
		for _, b := range plan.Bakes {
			var options struct {
				X int `cfg:"x"`
			}
			for _, s := range append(b.Steps, &Step{Component: b.Component}) {
				_ = s.Component.Decode(&options, nil)
			}
		}
	})
}
