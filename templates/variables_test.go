package templates

import (
	"reflect"
	"slices"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

func TestPrecedence(t *testing.T) {
	const archive = `
-- t.pkr.hcl --
variable "fruit" { default = "default" }
source "null" "a" {}
build {
  name    = var.fruit
  sources = ["null.a"]
}
-- a.auto.pkrvars.hcl --
fruit = "auto-hcl"
-- b.auto.pkrvars.hcl --
fruit = "auto-hcl-b"
-- a.auto.pkrvars.json --
{"fruit": "auto-json"}
-- plain.pkrvars.hcl --
fruit = "file"
-- other.json --
{"fruit": "file-json"}
`
	const noAuto = "-- t.pkr.hcl --\nvariable \"fruit\" { default = env(\"DEFAULT\") }\nsource \"null\" \"a\" {}\nbuild {\n name = var.fruit\n sources = [\"null.a\"]\n}\n"
	const onlyHCL = noAuto + "-- b.auto.pkrvars.hcl --\nfruit = \"b\"\n-- a.auto.pkrvars.hcl --\nfruit = \"a\"\n"
	tests := []struct {
		name, archive string
		o             Options
		want          string
	}{
		{"default", noAuto, Options{Environ: []string{"DEFAULT=from env"}}, "from env"},
		{"environment", noAuto, Options{Environ: []string{"PKR_VAR_fruit=pkr", "DEFAULT=x"}}, "pkr"},
		{"own environment", noAuto, Options{Environ: []string{"INGOT_VAR_fruit=ingot", "PKR_VAR_fruit=pkr"}}, "ingot"},
		{"auto hcl, last name", onlyHCL, Options{Environ: []string{"INGOT_VAR_fruit=ingot"}}, "b"},
		{"auto json", archive, Options{Environ: []string{"PKR_VAR_fruit=pkr"}}, "auto-json"},
		{"no auto files for one file", archive, Options{Path: "t.pkr.hcl"}, "default"},
		{"var file", archive, Options{VarFiles: []string{"plain.pkrvars.hcl"}}, "file"},
		{"last var file", archive, Options{VarFiles: []string{"plain.pkrvars.hcl", "other.json"}}, "file-json"},
		{"last var file, other way", archive, Options{VarFiles: []string{"other.json", "plain.pkrvars.hcl"}}, "file"},
		{"var", archive, Options{VarFiles: []string{"other.json"}, Vars: []string{"fruit=one", "fruit=two=2"}}, "two=2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := mustLoad(t, test.archive, test.o).bakes[0].BuildName; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestValues covers how a value is read: as it is written for strings, numbers
// and variables without a type, as an expression otherwise.
func TestValues(t *testing.T) {
	list := cty.ListVal([]cty.Value{cty.StringVal("a")})
	tests := []struct {
		declaration, text string
		want              cty.Value
	}{
		{`type = string`, `["a"]`, cty.StringVal(`["a"]`)},
		{`type = string`, ``, cty.StringVal("")},
		{`type = number`, `5`, cty.NumberIntVal(5)},
		{``, `["raw"]`, cty.StringVal(`["raw"]`)},
		{`type = any`, `{}`, cty.StringVal(`{}`)},
		{`type = bool`, `true`, cty.True},
		{`default = false`, `true`, cty.True},
		{`default = "x"`, `true`, cty.StringVal("true")},
		{`default = []`, `["a"]`, cty.StringVal(`["a"]`)},
		{`default = null`, `x`, cty.StringVal("x")},
		{`type = list(string)`, `["a"]`, list},
		{"type = list(string)\n default = []", `["a"]`, list},
		{`type = map(number)`, `{ a = "1" }`, cty.MapVal(map[string]cty.Value{"a": cty.NumberIntVal(1)})},
		{`type = object({ a = string, b = optional(number, 7) })`, `{ a = 1 }`, cty.ObjectVal(map[string]cty.Value{"a": cty.StringVal("1"), "b": cty.NumberIntVal(7)})},
		{`type = set(string)`, `null`, cty.NullVal(cty.Set(cty.String))},
	}
	for _, test := range tests {
		l := loadVariable(t, test.declaration, []string{"v=" + test.text}, nil)
		if l.diags.HasErrors() {
			t.Errorf("{ %s } = %s: %v", test.declaration, test.text, l.diags)
		} else if got := l.variables["v"].value; !got.RawEquals(test.want) {
			t.Errorf("{ %s } = %s gives %#v, want %#v", test.declaration, test.text, got, test.want)
		}
		l = loadVariable(t, test.declaration, nil, []string{"PKR_VAR_v=" + test.text})
		if got := l.variables["v"].value; !got.RawEquals(test.want) {
			t.Errorf("{ %s } = %s from the environment gives %#v, want %#v", test.declaration, test.text, got, test.want)
		}
	}
}

func loadVariable(t *testing.T, declaration string, vars, environ []string) *loader {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir+"/t.pkr.hcl", "variable \"v\" {\n "+declaration+"\n}\n")
	l := newLoader(Options{Path: dir, Vars: vars, Environ: environ})
	l.read()
	l.declare()
	l.assign()
	return l
}

func TestVariableErrors(t *testing.T) {
	tests := []struct {
		name, archive string
		o             Options
		line          int
		want          []string
	}{
		{"unset", "\nvariable \"x\" {}", Options{}, 2, []string{`Unset variable "x"`, "-var", "PKR_VAR_x", "default"}},
		{"undeclared", "variable \"fruit\" { default = 1 }", Options{Vars: []string{"friut=1"}}, 0, []string{"Undefined variable friut", `Did you mean "fruit"?`}},
		{"no value", "", Options{Vars: []string{"fruit"}}, 0, []string{"Invalid -var", "name=value"}},
		{"bool word", "variable \"b\" { type = bool }", Options{Vars: []string{"b=yes"}}, 1, []string{"Invalid value for variable", `"b"`, "-var", "bool"}},
		{"bool word from the environment", "variable \"b\" { type = bool }", Options{Environ: []string{"PKR_VAR_b=yes"}}, 1, []string{"Invalid value for variable", "PKR_VAR_b"}},
		{"number word", "variable \"n\" { type = number }", Options{Vars: []string{"n=x"}}, 1, []string{"Invalid value for variable", "number"}},
		{"deep value", "variable \"n\" { type = list(any) }", Options{Vars: []string{"n=" + string(slices.Repeat([]byte("["), 50000))}}, 1, []string{"refused"}},
		{"default of another type", "variable \"n\" {\n type = number\n default = \"x\"\n}", Options{}, 3, []string{"Invalid value for variable", "from default"}},
		{"optional in the type", "variable \"n\" {\n type = object({ a = optional(string) })\n default = 1\n}", Options{}, 3, []string{"Invalid value for variable"}},
		{"default refers", "variable \"n\" {\n default = var.x\n}", Options{}, 2, []string{"Variables not allowed"}},
		{"default calls", "variable \"n\" {\n default = upper(\"x\")\n}", Options{}, 2, []string{"no function named \"upper\""}},
		{"unknown type", "variable \"n\" {\n type = strnig\n default = 1\n}", Options{}, 2, []string{"Invalid type specification"}},
		{"unknown argument", "variable \"n\" {\n defualt = 1\n}", Options{}, 2, []string{`Did you mean "default"?`}},
		{"sensitive not literal", "variable \"n\" {\n default = 1\n sensitive = \"maybe\"\n}", Options{}, 3, []string{"literal bool"}},
		{"bad name", "variable \"a b\" {\n default = 1\n}", Options{}, 1, []string{"Invalid variable name"}},
		{"var file ending", "", Options{VarFiles: []string{"x.txt"}}, 0, []string{"must end in .hcl or .json"}},
		{"var file missing", "", Options{VarFiles: []string{"x.pkrvars.hcl"}}, 0, []string{"File not readable", "x.pkrvars.hcl"}},
		{"var file with a declaration", "-- t.pkr.hcl --\n-- v.hcl --\nvariable \"x\" {\n}\n", Options{VarFiles: []string{"v.hcl"}}, 1, []string{"Variable declared in a variable file"}},
		{"var file with a reference", "-- t.pkr.hcl --\nvariable \"x\" {}\n-- v.hcl --\nx = local.y\n", Options{VarFiles: []string{"v.hcl"}}, 1, []string{"Variables not allowed"}},
		{"condition elsewhere", validation("var.y == 1 && var.x == 1", "No."), Options{}, 4, []string{"Invalid reference in validation", "var.x"}},
		{"condition of nothing", validation("true", "No."), Options{}, 4, []string{"checks nothing"}},
		{"condition no bool", validation("[var.x]", "No."), Options{}, 4, []string{"true or false"}},
		{"message no sentence", validation("var.x == 1", "no."), Options{}, 5, []string{"must be a sentence"}},
		{"message without end", validation("var.x == 1", "No"), Options{}, 5, []string{"must be a sentence"}},
		{"message empty", validation("var.x == 1", ""), Options{}, 5, []string{"must be a sentence"}},
		{"condition missing", "variable \"x\" {\n default = 1\n validation {\n error_message = \"No.\"\n }\n}", Options{}, 3, []string{"Missing required argument", "condition"}},
		{"not valid", validation("var.x == 2", "It is one!"), Options{}, 2, []string{"Invalid value for variable", "It is one!", ":3"}},
		{"not valid by -var", validation("var.x == 1", "It is not one."), Options{Vars: []string{"x=2"}}, 1, []string{"It is not one."}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			template, diags := load(t, test.archive, test.o)
			expect(t, template, diags, hcl.DiagError, test.line, test.want...)
		})
	}
}

func validation(condition, message string) string {
	return "variable \"x\" {\n default = 1\n validation {\n condition = " + condition + "\n error_message = \"" + message + "\"\n }\n}"
}

func TestValidationChecksTheWinningValueOnly(t *testing.T) {
	mustLoad(t, validation(`length(regexall("^[0-9]+$", var.x)) > 0 && var.x == 2`, "It is not two."), Options{Vars: []string{"x=1", "x=2"}})
}

func TestUndeclaredNames(t *testing.T) {
	const archive = "-- t.pkr.hcl --\nvariables {\n fruit = 1\n}\n-- a.auto.pkrvars.hcl --\n\nfriut = 1\n"
	environ := []string{"PKR_VAR_nothing=1", "INGOT_VAR_nothing=1", "PKR_VAR_"}
	template, diags := load(t, archive, Options{Environ: environ})
	if len(diags) > 0 {
		t.Error(text(template, diags))
	}
	template, diags = load(t, archive, Options{Environ: environ, WarnUndeclared: true})
	expect(t, template, diags, hcl.DiagWarning, 2, "Undefined variable friut", `Did you mean "fruit"?`)
}

func TestSecrets(t *testing.T) {
	template := mustLoad(t, `
variable "pw" {
  default   = "hunter2"
  sensitive = true
}
variable "key" {
  default   = { lines = "first\r\n\nsecond\n", list = ["in list", 4711, true, null, ""] }
  sensitive = true
}
variable "open" { default = "open" }
local "derived" {
  expression = upper(var.pw)
  sensitive  = true
}
locals { plain = "plain" }
`, Options{})
	want := []string{"4711", "HUNTER2", "first", "first\r\n\nsecond\n", "hunter2", "in list", "second"}
	if got := template.Secrets(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestSecretsOfAFailedLoad(t *testing.T) {
	template, diags := load(t, "variable \"pw\" {\n sensitive = true\n}\nlocals {\n x = parseint(var.pw, 10)\n}", Options{Vars: []string{"pw=hunter2"}})
	if !diags.HasErrors() || !reflect.DeepEqual(template.Secrets(), []string{"hunter2"}) {
		t.Errorf("%q, %v", template.Secrets(), diags)
	}
}

func TestLocals(t *testing.T) {
	template := mustLoad(t, `
locals {
  a = "${local.b}a"
  b = local["c"]
  d = length(local.all)
}
local "c" { expression = "c" }
locals { all = [local.a, local.b, try(local.c, "")] }
source "null" "x" {}
build {
  name    = "${local.a}-${local.d}"
  sources = ["null.x"]
}
`, Options{})
	if got := template.bakes[0].BuildName; got != "ca-3" {
		t.Errorf("got %q", got)
	}
	for _, test := range []struct {
		name, archive string
		line          int
		want          []string
	}{
		{"cycle", "locals {\n a = local.b\n b = local.c\n c = local.b\n}", 3, []string{"Cycle: local.b -> local.c -> local.b"}},
		{"itself", "locals {\n a = local.a\n}", 2, []string{"Cycle: local.a -> local.a"}},
		{"unknown", "locals {\n abc = 1\n b = can(local.abd)\n}", 3, []string{"Unknown local", `Did you mean "abc"?`}},
		{"unknown variable", "variables {\n fruit = 1\n}\nlocals {\n b = var.friut\n}", 5, []string{"Unsupported attribute", "friut"}},
		{"no expression", "local \"x\" {\n}", 1, []string{"Missing required argument"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			template, diags := load(t, test.archive, Options{})
			expect(t, template, diags, hcl.DiagError, test.line, test.want...)
		})
	}
}
