package legacy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what the golden files should say")

// said writes findings as one line each.
func said(diags hcl.Diagnostics) string {
	var b strings.Builder
	for _, d := range diags {
		kind, at := "error", ""
		if d.Severity == hcl.DiagWarning {
			kind = "warning"
		}
		if d.Subject != nil {
			at = fmt.Sprintf(" %d:%d-%d:%d", d.Subject.Start.Line, d.Subject.Start.Column, d.Subject.End.Line, d.Subject.End.Column)
		}
		fmt.Fprintf(&b, "%s%s %s: %s\n", kind, at, d.Summary, d.Detail)
	}
	return b.String()
}

// Each golden file has a template, t.json, and what it is translated to.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			src := a.Files[0].Data
			got, diags := Upgrade(src, "t.json", false)
			if diags.HasErrors() {
				t.Fatal(said(diags))
			}
			out := &txtar.Archive{Files: []txtar.File{a.Files[0], {Name: "t.pkr.hcl", Data: got}}}
			if len(diags) > 0 {
				fixed, _ := Fix(src, "t.json")
				out.Files = append(out.Files, txtar.File{Name: "findings", Data: []byte(said(diags))}, txtar.File{Name: "fixed.json", Data: fixed})
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(out), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if want := string(txtar.Format(a)); want != string(txtar.Format(out)) {
				t.Errorf("got:\n%s\nwant:\n%s", txtar.Format(out), want)
			}
			if f := hclwrite.Format(got); string(f) != string(got) {
				t.Error("the HCL is not in the canonical layout")
			}
			annotated, _ := Upgrade(src, "t.json", true)
			if _, diags := hclsyntax.ParseConfig(annotated, "t.pkr.hcl", hcl.InitialPos); diags.HasErrors() {
				t.Errorf("annotated: %s", diags)
			}
			if len(annotated) <= len(got) {
				t.Error("annotations are missing")
			}
		})
	}
}

const nullBuilder = `{"type": "null", "communicator": "none"}`

// Each template is wrong. at is the first finding's place, says what is in it.
func TestErrors(t *testing.T) {
	inBuilder := func(option string) string { return `{"builders": [{"type": "x", ` + option + `}]}` }
	with := func(keys string) string { return "{\"builders\": [" + nullBuilder + "],\n" + keys + "}" }
	for name, c := range map[string]struct{ src, at, says string }{
		"empty":               {" \n", "1:1", "The file is empty."},
		"trailing comma":      {"{\"builders\": [\n  {\"type\": \"null\"},\n]}", "2:19", "comma before a closing bracket"},
		"comment":             {"{\n// x\n\"builders\": []}", "2:1", `"_comment"`},
		"hash":                {"# x\n{}", "1:1", `"_comment"`},
		"single quotes":       {"{'builders': []}", "1:2", "double quotes"},
		"cut off":             {"{\"builders\": [", "1:15", "ends before"},
		"behind the end":      {"{}\n x", "2:2", "invalid character 'x' after top-level value"},
		"not text":            {"{\"a\": \"\xff\"}", "1:8", "not UTF-8"},
		"control character":   {"{\"a\": \"\x01\"}", "1:8", "invalid character"},
		"duplicate key":       {inBuilder("\"a\": 1,\n \"é\": \"ü\", \"a\": 2"), "2:12", `The key "a" is given twice in this object; the first is on line 1.`},
		"duplicate at top":    {with("\"_c\": \"a\", \"_c\": \"b\""), "2:12", "given twice"},
		"too deep":            {inBuilder(`"a": ` + strings.Repeat("[", 200) + strings.Repeat("]", 200)), "1:131", "100 deep"},
		"huge number":         {inBuilder(`"a": 1e999`), "1:34", "too large"},
		"list":                {"[1]", "1:1", `but this is an array`},
		"unknown key":         {with(`"provisoners": []`), "2:1", `Did you mean "provisioners"?`},
		"other case":          {`{"Builders": []}`, "1:2", `Did you mean "builders"?`},
		"comment of an array": {with(`"_x": []`), "2:7", "A comment must be a string"},
		"no builders":         {`{}`, "1:1", "at least one builder"},
		"empty builders":      {`{"builders": []}`, "1:1", "at least one builder"},
		"builders an object":  {`{"builders": {}}`, "1:14", `"builders" must be an array, but it is an object`},
		"builder a string":    {`{"builders": ["null"]}`, "1:15", "A builder must be an object"},
		"builder untyped":     {`{"builders": [{"name": "x"}]}`, "1:15", `needs a "type"`},
		"type a number":       {`{"builders": [{"type": 1}]}`, "1:24", `"type" must be a string, but it is a number`},
		"type a template":     {`{"builders": [{"type": "{{user x}}"}]}`, "1:24", "written out"},
		"two of a name":       {"{\"builders\": [" + nullBuilder + ",\n" + nullBuilder + "]}", "2:1", `There is a builder "null" on line 1 already`},
		"name with late":      {inBuilder("\"name\": \"{{build_name}}\""), "1:37", "The name of a builder may hold"},
		"name an array":       {inBuilder(`"name": []`), "1:37", "must be a string, but it is an array"},
		"option name":         {inBuilder(`"a b": 1`), "1:29", `No option can be named "a b"`},
		"env in a body":       {inBuilder("\"a\": \"{{env `X`}}\""), "1:34", "values of \"variables\" only"},
		"call of no literal":  {inBuilder("\"a\": \"{{user .X}}\""), "1:34", "cannot be written in HCL"},
		"broken with user":    {inBuilder("\"a\": \"{{user `x`\""), "1:34", "cannot be read"},
		"define":              {inBuilder("\"a\": \"{{define `x`}}{{user `x`}}{{end}}\""), "1:34", "cannot be read"},
		"variable a number":   {with(`"variables": {"n": 3}`), "2:20", "Write it in double quotes"},
		"variable broken":     {with(`"variables": {"n": "{{"}`), "2:20", "cannot be read"},
		"variable unknown":    {with(`"variables": {"n": "{{nofunc}}"}`), "2:20", "cannot be rendered"},
		"variable composed":   {with("\"variables\": {\"a\": \"\", \"n\": \"{{user `a` | nofunc}}\"}"), "2:29", "cannot be rendered"},
		"variable with build": {with("\"variables\": {\"n\": \"{{build `ID`}}\"}"), "2:20", "cannot be written in HCL"},
		"variables an array":  {with(`"variables": []`), "2:14", "must be an object"},
		"sensitive a string":  {with(`"sensitive-variables": "x"`), "2:24", "must be an array"},
		"sensitive a number":  {with(`"sensitive-variables": [1]`), "2:25", "must be an array of names"},
		"description":         {with(`"description": 1`), "2:16", "must be a string"},
		"min version":         {with(`"min_packer_version": 1`), "2:23", "must be a string"},
		"provisioners":        {with(`"provisioners": {}`), "2:17", "must be an array"},
		"provisioner":         {with(`"provisioners": ["shell"]`), "2:18", "must be an object with a \"type\""},
		"provisioner null":    {with(`"provisioners": [null]`), "2:18", "but this is null"},
		"only":                {with(`"provisioners": [{"type": "x", "only": ["nul"]}]`), "2:41", `names the builder "nul", which the template does not have. Did you mean "null"?`},
		"except of a number":  {with(`"provisioners": [{"type": "x", "except": [1]}]`), "2:43", "names of builders"},
		"override":            {with(`"provisioners": [{"type": "x", "override": {"q": {}}}]`), "2:45", `"override" names the builder "q"`},
		"override a string":   {with(`"provisioners": [{"type": "x", "override": "q"}]`), "2:44", "must be an object"},
		"cleanup an array":    {with(`"error-cleanup-provisioner": []`), "2:30", "must be an object"},
		"post-processors":     {with(`"post-processors": "manifest"`), "2:20", "must be an array"},
		"post-processor":      {with(`"post-processors": [1]`), "2:21", "must be an object"},
		"post-processor name": {with(`"post-processors": [{"name": "x"}]`), "2:21", "needs a \"type\""},
		"nested chain":        {with(`"post-processors": [["x", ["y"]]]`), "2:27", "cannot hold another chain"},
		"keep a string":       {with(`"post-processors": [{"type": "x", "keep_input_artifact": "true"}]`), "2:58", "must be true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			text, diags := Upgrade([]byte(c.src), "t.json", false)
			if !diags.HasErrors() || text != nil {
				t.Fatalf("no error, but %s", text)
			}
			if got := said(diags); !strings.HasPrefix(got, "error "+c.at+"-") || !strings.Contains(got, c.says) {
				t.Errorf("got %s\nwant %s %s", got, c.at, c.says)
			}
			if file, again := Parse([]byte(c.src), "t.json"); said(again) != said(diags) || file == nil || string(file.Bytes) != c.src {
				t.Errorf("Parse says %s", said(again))
			}
		})
	}
}

// Several mistakes are told at once.
func TestErrorsAtOnce(t *testing.T) {
	_, diags := Upgrade([]byte(`{"zork": 1, "builders": [{"typ": "x"}], "provisioners": [1], "post-processors": 2, "variables": {"a": []}}`), "t.json", false)
	if len(diags) != 5 {
		t.Errorf("%d findings:\n%s", len(diags), said(diags))
	}
}

// Every part of the translated file stands where it comes from in the JSON.
func TestPlaces(t *testing.T) {
	const src = `{
  "builders": [
    {
      "type": "x",
      "option": "a",
      "object": {
        "inner": "{{user ` + "`v`" + `}}"
      },
      "list": [
        {"k": 1}
      ]
    }
  ],
  "variables": {"v": "1"}
}`
	file, diags := Parse([]byte(src), "t.json")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	content, _, diags := file.Body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "source", LabelNames: []string{"t", "n"}}}})
	if diags.HasErrors() || len(content.Blocks) != 1 {
		t.Fatal(diags)
	}
	b := content.Blocks[0]
	if b.DefRange.Start.Line != 3 {
		t.Errorf("the source is at %s", b.DefRange)
	}
	parts, _ := b.Body.Content(&hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: "option"}, {Name: "object"}},
		Blocks:     []hcl.BlockHeaderSchema{{Type: "list"}},
	})
	if at := parts.Attributes["option"].Expr.Range(); at.String() != "t.json:5,7-20" {
		t.Errorf("the option is at %s", at)
	}
	vars := parts.Attributes["object"].Expr.Variables()
	if len(vars) != 1 || vars[0].SourceRange().Start.Line != 7 {
		t.Errorf("the variable is at %s", vars[0].SourceRange())
	}
	if at := parts.Blocks[0].DefRange; at.Start.Line != 10 {
		t.Errorf("the block is at %s", at)
	}
}

// The cost of a template grows with its size only.
func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		var builders []string
		for i := range n {
			builders = append(builders, fmt.Sprintf(`{"type": "x", "name": "b%d", "a": "{{user %s}}-{{timestamp}}", "l": ["x", "y"], "m": {"k": "v"}}`, i, "`v`"))
		}
		src := []byte(`{"variables": {"v": "1"}, "builders": [` + strings.Join(builders, ",\n") + `]}`)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if _, diags := Parse(src, "t.json"); diags.HasErrors() {
					b.Fatal(diags)
				}
			}
		})
	}
}

func seeds(f *testing.F) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Files[0].Data)
	}
	for _, c := range fixCases {
		f.Add([]byte(fixTemplate(c.list, c.in)))
	}
	f.Add([]byte("{\"provisioners\":[{\"type\":\"powershell\",\"environment_vars\":[\"``$\"]}]}"))
}

// Whatever is read, what comes out is HCL and JSON.
func FuzzTemplate(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		text, diags := Upgrade(src, "t.json", false)
		if (text == nil) != diags.HasErrors() {
			t.Fatalf("%s with %s", text, said(diags))
		}
		file, again := Parse(src, "t.json")
		if file == nil || again.HasErrors() != diags.HasErrors() {
			t.Fatalf("Parse says %s, Upgrade %s; %s", said(again), said(diags), text)
		}
		fixed, _ := Fix(src, "t.json")
		if fixed == nil {
			return
		}
		if _, wrong := readJSON(fixed, "t.json"); wrong.HasErrors() {
			t.Fatalf("%s: %s", fixed, said(wrong))
		}
		_, wrong := Fix(fixed, "t.json")
		// "``$" is written for "`$", which by itself is written for "$".
		if wrong = slices.DeleteFunc(wrong, func(d *hcl.Diagnostic) bool { return d.Summary == "Outdated: escaped by hand" }); len(wrong) > 0 {
			t.Fatalf("fixed again: %s: %s", fixed, said(wrong))
		}
		if _, more := Upgrade(fixed, "t.json", true); more.HasErrors() != diags.HasErrors() {
			t.Fatalf("fixed: %s: %s; before: %s", fixed, said(more), said(diags))
		}
	})
}

// Whatever a Go template says, its translation is an HCL expression.
func FuzzString(f *testing.F) {
	for _, s := range []string{"${{user `a`}}", "{{if user `a`}}x{{else}}{{build `ID`}}{{end}}", "{{isotime (user `a`) | upper}}", "$$${%{{{user `a`}}", "{{range $x := split (user `a`) `,` 0}}{{$x}}{{end}}", "{{template \"x\"}}{{pwd}}", "{{ user `a` | printf `%s` | replace `a` `b` -1 }}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, in := range []place{inBody, inVariable, inName} {
			tr := newTranslator(&node{}, false)
			tr.vars = []*variable{{name: "a", hcl: "a"}}
			tr.byName["a"] = tr.vars[0]
			text := tr.express(s, in, hcl.Range{Filename: "t.json"})
			if _, diags := hclsyntax.ParseExpression([]byte(text), "x", hcl.InitialPos); diags.HasErrors() {
				t.Fatalf("%q: %s: %s", s, text, diags)
			}
		}
	})
}

// Packer has these in variables only; its HCL has them everywhere, and so has
// what Packer translates.
func TestStoresInOptions(t *testing.T) {
	for in, want := range map[string]string{
		"{{aws_secretsmanager `a/b`}}":               `aws_secretsmanager("a/b", null)`,
		"x {{ aws_secretsmanager `a` `k` | upper }}": `"x ${upper(aws_secretsmanager("a", "k"))}"`,
		"{{vault `p` `k`}}{{consul_key `k`}}":        `"${vault("p", "k")}${consul_key("k")}"`,
		"{{if true}}{{consul_key `k`}}{{end}}":       `"{{if true}}{{${jsonencode(consul_key("k"))}}}{{end}}"`,
	} {
		src := fmt.Sprintf(`{"builders": [%s], "provisioners": [{"type": "shell-local", "command": %q}]}`, nullBuilder, in)
		got, diags := Upgrade([]byte(src), "t.json", false)
		if len(diags) > 0 || !strings.Contains(string(got), "command = "+want+"\n") {
			t.Errorf("%s: %s\n%s", in, got, said(diags))
		}
	}
}
