package legacy_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"
	"golang.org/x/tools/txtar"

	"github.com/ingotbuild/ingot/templates"
)

// write writes a file into a directory of its own.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string, vars ...string) *templates.Template {
	t.Helper()
	template, diags := templates.Load(templates.Options{Path: path, Vars: vars, Environ: []string{"HOME=/home/x"}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return template
}

func plan(t *testing.T, template *templates.Template, s templates.Selection) []*templates.Bake {
	t.Helper()
	p, diags := template.Plan(s)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return p.Bakes
}

// describe tells all that a bake consists of; its full name is not in it.
func describe(b *templates.Bake) string {
	var out strings.Builder
	show := func(c *templates.Component) {
		var o struct {
			Command     string   `cfg:"command"`
			Inline      []string `cfg:"inline"`
			Environment []string `cfg:"environment_vars"`
			Content     string   `cfg:"content"`
			Output      string   `cfg:"output"`
		}
		unknown := map[string]cty.Value{"ID": cty.StringVal("id"), "Host": cty.StringVal("h"), "ConnType": cty.StringVal("none")}
		c.Decode(&o, map[string]cty.Value{"build": cty.ObjectVal(unknown)}) // most options are not in o
		fmt.Fprintf(&out, "  %s %v %+v\n", c.Type, c.Labels, o)
	}
	step := func(s *templates.Step) {
		keep := "default"
		if s.KeepInput != nil {
			keep = fmt.Sprint(*s.KeepInput)
		}
		fmt.Fprintf(&out, " %s %q pause %s timeout %s retries %d keep %s\n", s.Kind, s.Name, s.PauseBefore, s.Timeout, s.MaxRetries, keep)
		show(s.Component)
	}
	fmt.Fprintf(&out, "%s %s\n", b.Type, b.Local)
	show(b.Component)
	for _, s := range b.Steps {
		step(s)
	}
	if b.ErrorCleanup != nil {
		step(b.ErrorCleanup)
	}
	for _, chain := range b.PostProcess {
		out.WriteString(" chain\n")
		for _, s := range chain {
			step(s)
		}
	}
	return out.String()
}

// Each golden JSON template loads, and bakes what the HCL beside it bakes.
func TestLoad(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for _, f := range a.Files[:2] {
				if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var vars []string
			switch name {
			case "required-variable":
				vars = []string{"token=s3cret"}
			case "secrets-from-stores": // there is no store here
				if _, diags := templates.Load(templates.Options{Path: filepath.Join(dir, "t.json"), SyntaxOnly: true}); diags.HasErrors() {
					t.Fatal(diags)
				}
				return
			case "derived-variables": // a uuid is never the same
				vars = []string{"id=x"}
			}
			old := load(t, filepath.Join(dir, "t.json"), vars...)
			translated := load(t, filepath.Join(dir, "t.pkr.hcl"), vars...)
			if !old.Legacy || translated.Legacy {
				t.Error("Legacy is not right")
			}
			if !slices.Equal(old.Secrets(), translated.Secrets()) {
				t.Errorf("secrets %q and %q", old.Secrets(), translated.Secrets())
			}
			was, is := plan(t, old, templates.Selection{}), plan(t, translated, templates.Selection{})
			if len(was) != len(is) {
				t.Fatalf("%d bakes, then %d", len(was), len(is))
			}
			for i := range was {
				if a, b := describe(was[i]), describe(is[i]); a != b && name != "names" && name != "times" && name != "paths" {
					t.Errorf("the JSON bakes\n%s\nthe HCL\n%s", a, b)
				}
				if was[i].Name != was[i].Local || was[i].Name != was[i].Source {
					t.Errorf("the bake is named %q, not %q", was[i].Name, was[i].Local)
				}
			}
		})
	}
}

const named = `{
  "variables": {"env": "prod"},
  "builders": [
    {"type": "null", "communicator": "none"},
    {"type": "null", "communicator": "none", "name": "ubuntu-22.04"},
    {"type": "null", "communicator": "none", "name": "web-{{user ` + "`env`" + `}}"},
    {"type": "null", "communicator": "none", "name": "a*"}
  ],
  "post-processors": [[{"type": "shell-local", "inline": ["true"], "name": "first"}, "manifest"]]
}`

func TestSelection(t *testing.T) {
	template := load(t, write(t, "t.json", named), "env=test")
	all := []string{"null", "ubuntu-22.04", "web-test", "a*"}
	for _, c := range []struct {
		only, except []string
		want         []string
		steps        int // of each bake's chain
	}{
		{nil, nil, all, 2},
		{[]string{"ubuntu-22.04", "web-test"}, nil, []string{"ubuntu-22.04", "web-test"}, 2},
		{[]string{"a*"}, nil, []string{"a*"}, 2},
		{nil, []string{"a*", "null"}, []string{"ubuntu-22.04", "web-test"}, 2},
		{nil, []string{"manifest"}, all, 1},
		{nil, []string{"first"}, all, 0},
		{nil, []string{"shell-local"}, all, 2}, // it has a name
	} {
		var got []string
		for _, b := range plan(t, template, templates.Selection{Only: c.only, Except: c.except}) {
			got = append(got, b.Name)
			steps := 0
			for _, chain := range b.PostProcess {
				steps += len(chain)
			}
			if steps != c.steps {
				t.Errorf("only %q except %q: %d post-processors", c.only, c.except, steps)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("only %q except %q: %q", c.only, c.except, got)
		}
	}
	for _, name := range []string{"*", "null.null", "ubuntu*"} {
		if _, diags := template.Plan(templates.Selection{Only: []string{name}}); !diags.HasErrors() {
			t.Errorf("-only=%s selects something", name)
		}
	}
}

func TestStandardInput(t *testing.T) {
	template, diags := templates.Load(templates.Options{Path: "-", Stdin: strings.NewReader(named)})
	if diags.HasErrors() || !template.Legacy || template.Dir != "." {
		t.Fatalf("%v %q", diags, template.Dir)
	}
	for _, in := range []string{"", `{"builders": [1]}`} {
		template, diags := templates.Load(templates.Options{Path: "-", Stdin: strings.NewReader(in)})
		var b strings.Builder
		if err := templates.WriteDiagnostics(&b, template.Files, diags, 0, false); err != nil || !strings.Contains(b.String(), "on <stdin> line 1") {
			t.Errorf("%q: %s %v", in, b.String(), err)
		}
	}
	if _, diags := templates.Load(templates.Options{Path: "-"}); !diags.HasErrors() {
		t.Error("no standard input is a template")
	}
}

// Builders may have any name, images may not.
func TestImages(t *testing.T) {
	for name, want := range map[string]string{
		"web": "web", "ubuntu-22.04": "ubuntu-22.04", "web one": "web-one", "-x/ä": "x--", "*": "image", strings.Repeat("a", 99): strings.Repeat("a", 63),
	} {
		template := load(t, write(t, "t.json", fmt.Sprintf(`{"builders": [{"type": "null", "name": %q}]}`, name)))
		if got := plan(t, template, templates.Selection{})[0].Image; got != want {
			t.Errorf("%q: image %q, want %q", name, got, want)
		}
	}
}

// What a variable refers to may come from outside, declared or not.
func TestVariablesFromOutside(t *testing.T) {
	src := "{\"variables\": {\"a\": \"{{user `a`}}\", \"c\": \"{{user `a`}}-{{user `b`}}\"}, \"builders\": [{\"type\": \"null\", \"name\": \"{{user `c`}}\"}]}"
	template, diags := templates.Inspect(templates.Options{Path: write(t, "t.json", src), Vars: []string{"a=x", "b=y"}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if v, more := template.Evaluate("local.c", "test"); more.HasErrors() || v.AsString() != "x-y" {
		t.Errorf("%#v, %v", v, more)
	}
}

// What the loader finds in the translated template points at the JSON.
func TestFindings(t *testing.T) {
	for _, c := range []struct{ name, src, line, says string }{
		{"a cycle", "{\n\"variables\": {\n\"a\": \"{{user `b`}}\",\n\"b\": \"{{user `a`}}\"},\n\"builders\": [{\"type\": \"x\"}]}", "line 3", "Cycle: local.a"},
		{"an undeclared one", "{\n\"variables\": {\n\"name\": \"{{user `nam`}}\"},\n\"builders\": [{\"type\": \"x\"}]}", "line 3", "Unset variable \"nam\""},
		{"an undeclared one, used elsewhere, too", "{\n\"variables\": {\n\"a\": \"{{user `b`}}\"},\n\"builders\": [{\"type\": \"x\", \"o\": \"{{user `b`}}\"}]}", "line 4", "Unset variable \"b\""},
		{"of itself", "{\n\"variables\": {\n\"a\": \"x{{user `a`}}\"},\n\"builders\": [{\"type\": \"x\"}]}", "line 3", "Unset variable \"a\""},
		{"no value", "{\n\"variables\": {\n\"a\": null},\n\"builders\": [{\"type\": \"x\"}]}", "line 3", "Unset variable"},
		{"a version", "{\n\"min_packer_version\": \"99\",\n\"builders\": [{\"type\": \"x\"}]}", "line 2", "requires Packer >= 99"},
		{"a duration", "{\"builders\": [{\"type\": \"x\"}],\n\"provisioners\": [{\"type\": \"y\",\n\"pause_before\": \"soon\"}]}", "line 3", "duration"},
		{"retries", "{\"builders\": [{\"type\": \"x\"}],\n\"provisioners\": [{\"type\": \"y\",\n\"max_retries\": 1.5}]}", "line 3", "whole number"},
		{"both filters", "{\"builders\": [{\"type\": \"x\"}],\n\"provisioners\": [{\"type\": \"y\",\n\"only\": [\"x\"],\n\"except\": [\"x\"]}]}", "line 2", "Both only and except"},
	} {
		t.Run(c.name, func(t *testing.T) {
			template, diags := templates.Load(templates.Options{Path: write(t, "t.json", c.src)})
			var b strings.Builder
			if err := templates.WriteDiagnostics(&b, template.Files, diags, 0, false); err != nil || !diags.HasErrors() {
				t.Fatal(diags, err)
			}
			for _, want := range []string{c.line, c.says} {
				if !strings.Contains(b.String(), want) {
					t.Errorf("no %q in\n%s", want, b.String())
				}
			}
		})
	}
}

// peer is a Packer to compare with.
type peer struct {
	t    *testing.T
	path string
}

func packer(t *testing.T) peer {
	t.Helper()
	path, err := exec.LookPath("packer")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("packer is not on the PATH, and in CI it must be")
		}
		t.Skip("there is no packer on the PATH to compare with")
	}
	return peer{t, path}
}

func (p peer) run(dir string, args ...string) (string, bool) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), p.path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1", "PACKER_CACHE_DIR="+p.t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// verdicts are templates, and where Ingot's verdict is not Packer's, why.
func verdicts() map[string][2]string {
	const null = `{"type": "null", "communicator": "none"}`
	const local = `"type": "shell-local", "command": "true"`
	with := func(keys string) string { return `{"builders": [` + null + `], ` + keys + `}` }
	prov := func(options string) string { return with(`"provisioners": [{` + local + `, ` + options + `}]`) }
	posts := func(list string) string { return with(`"post-processors": ` + list) }
	return map[string][2]string{
		"minimal":              {`{"builders": [` + null + `]}`},
		"unknown key":          {with(`"foo": 1`)},
		"comment":              {with(`"_x": "y"`)},
		"comment a number":     {with(`"_x": 1`)},
		"push":                 {with(`"push": {}`)},
		"no builders":          {`{}`},
		"empty builders":       {`{"builders": []}`},
		"builders object":      {`{"builders": ` + null + `}`},
		"no type":              {`{"builders": [{"communicator": "none"}]}`},
		"same name":            {`{"builders": [` + null + `, ` + null + `]}`},
		"name number":          {`{"builders": [{"type": "null", "communicator": "none", "name": 1}]}`},
		"name empty":           {`{"builders": [{"type": "null", "communicator": "none", "name": ""}]}`},
		"name template":        {`{"variables": {"a": "b"}, "builders": [{"type": "null", "communicator": "none", "name": "x-{{user ` + "`a`" + `}}"}]}`},
		"name late":            {`{"builders": [{"type": "null", "communicator": "none", "name": "x-{{timestamp}}"}]}`},
		"null option":          {`{"builders": [{"type": "null", "communicator": "none", "ssh_host": null}]}`},
		"other case":           {`{"Builders": [` + null + `]}`, "Ingot names the right key"},
		"duplicate key":        {`{"builders": [{"type": "null", "communicator": "none", "communicator": "none"}]}`},
		"trailing comma":       {`{"builders": [` + null + `,]}`},
		"comments":             {"// x\n{\"builders\": [" + null + "]}"},
		"behind":               {`{"builders": [` + null + `]} x`},
		"list":                 {`[1]`},
		"empty":                {``},
		"variable number":      {with(`"variables": {"a": 1}`)},
		"variable bool":        {with(`"variables": {"a": true}`)},
		"variable list":        {with(`"variables": {"a": ["x"]}`)},
		"variable required":    {with(`"variables": {"a": null}`)},
		"variable env":         {with("\"variables\": {\"a\": \"{{env `NOPE`}}\"}")},
		"variable cycle":       {with("\"variables\": {\"a\": \"{{user `b`}}\", \"b\": \"{{user `a`}}\"}")},
		"variable of itself":   {with("\"variables\": {\"a\": \"{{user `a`}}\"}")},
		"variable undeclared":  {with("\"variables\": {\"a\": \"{{user `zz`}}\"}")},
		"variable function":    {with(`"variables": {"a": "{{nofunc}}"}`)},
		"variable name":        {`{"variables": {"a b.c": "x"}, "builders": [` + null + `]}`},
		"sensitive undeclared": {with(`"sensitive-variables": ["zz"]`)},
		"sensitive string":     {with(`"sensitive-variables": "zz"`)},
		"version too new":      {with(`"min_packer_version": "99.0.0"`)},
		"version bad":          {with(`"min_packer_version": "x"`)},
		"version old":          {with(`"min_packer_version": "1.2.0"`)},
		"description number":   {with(`"description": 1`)},
		"provisioners object":  {with(`"provisioners": {` + local + `}`)},
		"provisioner string":   {with(`"provisioners": ["shell-local"]`)},
		"provisioner null":     {with(`"provisioners": [null]`)},
		"provisioners null":    {with(`"provisioners": null`)},
		"provisioner untyped":  {with(`"provisioners": [{"command": "x"}]`)},
		"only":                 {prov(`"only": ["null"]`)},
		"only unknown":         {prov(`"only": ["zz"]`)},
		"except unknown":       {prov(`"except": ["zz"]`)},
		"only and except":      {prov(`"only": ["null"], "except": ["null"]`)},
		"override":             {prov(`"override": {"null": {"command": "x"}}`)},
		"override unknown":     {prov(`"override": {"zz": {"command": "x"}}`)},
		"override string":      {prov(`"override": {"null": "x"}`)},
		"override list":        {prov(`"override": []`), "Packer overlooks it"},
		"pause":                {prov(`"pause_before": "1s"`)},
		"pause number":         {prov(`"pause_before": 5`)},
		"pause bad":            {prov(`"pause_before": "x"`)},
		"timeout":              {prov(`"timeout": "5m"`)},
		"retries":              {prov(`"max_retries": 2`)},
		"retries string":       {prov(`"max_retries": "3"`)},
		"retries negative":     {prov(`"max_retries": -3`), "Packer overlooks it"},
		"retries fraction":     {prov(`"max_retries": 1.5`)},
		"env in a body":        {prov("\"inline\": [\"{{env `HOME`}}\"]"), ""},
		"name":                 {prov(`"name": "x"`), "names are allowed as in HCL"},
		"cleanup":              {with(`"error-cleanup-provisioner": {` + local + `}`)},
		"cleanup array":        {with(`"error-cleanup-provisioner": [{` + local + `}]`)},
		"cleanup only":         {with(`"error-cleanup-provisioner": {` + local + `, "only": ["null"]}`)},
		"post string":          {posts(`["manifest"]`)},
		"posts string":         {posts(`"manifest"`)},
		"posts object":         {posts(`{"type": "manifest"}`)},
		"posts nested twice":   {posts(`[[["manifest"]]]`)},
		"post number":          {posts(`[1]`)},
		"post untyped":         {posts(`[{"x": 1}]`)},
		"post only unknown":    {posts(`[{"type": "manifest", "only": ["zz"]}]`)},
		"post chain empty":     {posts(`[[]]`)},
		"post keep string":     {posts(`[{"type": "manifest", "keep_input_artifact": "true"}]`)},
		"post keep":            {posts(`[[{"type": "manifest", "keep_input_artifact": false}, "manifest"]]`)},
		"type template":        {`{"variables": {"t": "null"}, "builders": [{"type": "{{user ` + "`t`" + `}}", "communicator": "none"}]}`},
		"build value":          {prov("\"environment_vars\": [\"A={{build `ID`}}\"]")},
		"user in retries":      {`{"variables": {"n": "2"}, "builders": [` + null + `], "provisioners": [{` + local + ", \"max_retries\": \"{{user `n`}}\"}]}"},
		"user in pause":        {`{"variables": {"n": "2s"}, "builders": [` + null + `], "provisioners": [{` + local + ", \"pause_before\": \"{{user `n`}}\"}]}", "Ingot can"},
		"user undeclared":      {prov("\"environment_vars\": [\"A={{user `zz`}}\"]")},
		"user without a name":  {prov("\"environment_vars\": [\"A={{user}}\"]")},
		"user with two":        {prov("\"environment_vars\": [\"A={{user `a` `b`}}\"]")},
		"broken":               {prov("\"environment_vars\": [\"A={{user `a`\"]")},
	}
}

func TestPackerVerdicts(t *testing.T) {
	p := packer(t)
	if testing.Short() {
		t.Skip("a process for each template takes long")
	}
	for name, c := range verdicts() {
		path := write(t, "t.json", c[0])
		out, theirs := p.run(filepath.Dir(path), "validate", path)
		template, diags := templates.Load(templates.Options{Path: path})
		if _, more := template.Plan(templates.Selection{}); !diags.HasErrors() {
			diags = append(diags, more...)
		}
		ours := !diags.HasErrors()
		if (ours == theirs) != (c[1] == "") {
			t.Errorf("%s: Packer says %v, Ingot %v (%s)\n%s\n%s\n%v", name, theirs, ours, cmp.Or(c[1], "to be the same"), c[0], out, diags)
		}
	}
}

// The builds of the golden templates have the names they have in Packer.
func TestPackerNames(t *testing.T) {
	p := packer(t)
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path := write(t, "t.json", string(a.Files[0].Data))
		out, ok := p.run(filepath.Dir(path), "-machine-readable", "inspect", path)
		if !ok {
			t.Errorf("%s: Packer cannot inspect it: %s", file, out)
			continue
		}
		var theirs, ours []string
		for _, line := range strings.Split(out, "\n") {
			if parts := strings.Split(line, ","); len(parts) > 3 && parts[2] == "template-builder" {
				theirs = append(theirs, parts[3])
			}
		}
		template, diags := templates.Inspect(templates.Options{Path: path})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		for _, b := range plan(t, template, templates.Selection{}) {
			// Packer shows names as they are written, and types before they are fixed.
			ours = append(ours, strings.Replace(b.Name, "web-prod", "web-{{user `env`}}", 1))
		}
		if strings.Contains(file, "fixed") {
			theirs[slices.Index(theirs, "virtualbox")] = "virtualbox-iso"
		}
		slices.Sort(theirs)
		slices.Sort(ours)
		if !slices.Equal(theirs, ours) {
			t.Errorf("%s: Packer has %q, Ingot %q", file, theirs, ours)
		}
	}
}

// Strings have the values that they have in Packer.
func TestPackerValues(t *testing.T) {
	p := packer(t)
	variables := map[string]string{
		"a": "b", "quote": `say "hi" \ ${x} %{y}`, "derived": "{{user `a`}}-{{user `quote`}}", "upper": "{{user `a` | upper}}{{upper `q`}}",
		"year": "{{isotime `2006`}}", "both": "{{user `year`}}{{user `a`}}", "home": "{{env `INGOT_TEST_HOME`}}", "in": "{{env `INGOT_TEST_HOME`}}/{{user `a`}}",
		"empty": "", "list": "x,y,z",
	}
	values := []string{
		"plain", "${x} %{y} $${z} $ % $$", "{{user `a`}}", "{{user \"a\"}}{{ user `a` }}", "${{user `a`}} $${{user `a`}} %{{user `a`}}",
		"{{user `quote`}}", "{{user `derived`}}", "{{user `upper`}}", "{{user `year`}} {{isotime `2006`}}", "{{user `both`}}", "{{user `home`}}", "{{user `in`}}",
		"[{{user `empty`}}]", "[{{user `undeclared`}}]", "{{user `a` | upper}}", "{{upper (user `a`)}}", "{{user `derived` | upper | lower}}",
		"{{split (user `list`) `,` 1}}", "{{replace_all `,` `;` (user `list`)}}", "{{user `list` | replace `,` `;` -1}}", "{{user `list` | replace `,` `;` 1}}",
		"{{if eq (user `a`) `b`}}yes {{user `quote`}}{{else}}no{{end}}", "{{printf `%s-%s` (user `a`) (user `quote`)}}", "{{len (user `quote`)}}",
		"{{with user `a`}}{{.}}{{end}}", "x {{- user `a` -}} y", "{{/* nothing */}}z{{user `a`}}", "{{`{{`}}{{user `a`}}", "{{build_name}} {{build_type}}",
		"{{isotime `2006` | upper}}", "{{lower `ABC`}}{{user `a` | printf `%q`}}", "é{{user `a`}}ü\t|", "{{pwd}}", "{{isotime (user `empty`)}}",
	}
	var lines []string
	for i, v := range values {
		lines = append(lines, fmt.Sprintf("%d: %s", i, v))
	}
	dir := t.TempDir()
	target := filepath.Join(dir, "out")
	t.Setenv("INGOT_TEST_HOME", "/home/${x}")
	t.Chdir(dir)
	src, err := json.Marshal(map[string]any{
		"variables": variables,
		"builders":  []map[string]string{{"type": "file", "name": "my.file", "target": target, "content": strings.Join(lines, "\n")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, "t.json", string(src))
	if out, ok := p.run(dir, "build", path); !ok {
		t.Fatal(out)
	}
	theirs, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	template, diags := templates.Load(templates.Options{Path: path, Environ: os.Environ()})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var o struct {
		Target  string `cfg:"target"`
		Content string `cfg:"content"`
	}
	if diags := plan(t, template, templates.Selection{})[0].Component.Decode(&o, nil); diags.HasErrors() {
		t.Fatal(diags)
	}
	were, are := strings.Split(string(theirs), "\n"), strings.Split(o.Content, "\n")
	if len(were) != len(are) {
		t.Fatalf("Packer has %d lines, Ingot %d:\n%s\n\n%s", len(were), len(are), theirs, o.Content)
	}
	for i := range were {
		if were[i] != are[i] {
			t.Errorf("%s\nis in Packer %s\nand in Ingot %s", values[i], were[i], are[i])
		}
	}
}
