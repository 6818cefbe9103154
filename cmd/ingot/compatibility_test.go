package main

import (
	"flag"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/tools/txtar"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/templates"
	"github.com/ingotbuild/ingot/templates/functions"
)

// row is a line of a table in docs/compatibility.md.
type row struct {
	name  string // the first cell, without backquotes
	state string
}

var states = []string{"works", "differs", "no effect", "needs a plugin"}

// compatibility reads the tables by their headings.
func compatibility(t *testing.T) map[string][]row {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("..", "..", "docs", "compatibility.md"))
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][]row{}
	for _, section := range strings.Split(strings.ReplaceAll(string(src), "\r\n", "\n"), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		for line := range strings.Lines(text) {
			cells := strings.Split(strings.TrimSpace(line), " | ")
			if len(cells) < 2 || !strings.HasPrefix(line, "|") {
				continue
			}
			state := strings.TrimSuffix(strings.TrimSpace(cells[1]), " |")
			if title == "Where Packer surprises" && len(cells) > 2 {
				state = cells[2]
			}
			tables[title] = append(tables[title], row{strings.ReplaceAll(strings.TrimPrefix(cells[0], "| "), "`", ""), state})
		}
		if rows := tables[title]; len(rows) > 0 {
			tables[title] = rows[1:] // the head
			for i, r := range tables[title] {
				if title != "Ingot's own commands and flags" && !slices.Contains(states, r.state) {
					t.Errorf("%s: %q has the state %q", title, r.name, r.state)
				}
				if slices.ContainsFunc(tables[title][:i], func(o row) bool { return o.name == r.name }) {
					t.Errorf("%s: %q is listed twice", title, r.name)
				}
			}
		}
	}
	return tables
}

func names(rows []row) []string {
	var all []string
	for _, r := range rows {
		all = append(all, r.name)
	}
	return all
}

// docs/compatibility.md says what the code does.
func TestCompatibility(t *testing.T) {
	tables := compatibility(t)
	t.Run("commands", func(t *testing.T) { commandRows(t, tables) })
	t.Run("exit codes", func(t *testing.T) {
		want := []string{strconv.Itoa(exitOK), strconv.Itoa(exitFailed), "2", strconv.Itoa(exitUnformatted), strconv.Itoa(exitUnknown)}
		if have := names(tables["Exit codes"]); !slices.Equal(have, want) {
			t.Errorf("the exit codes are %q, listed are %q", want, have)
		}
	})
	t.Run("environment", func(t *testing.T) { environmentRows(t, tables["Environment variables"]) })
	t.Run("functions", func(t *testing.T) {
		want := slices.Sorted(maps.Keys(functions.All(functions.Options{})))
		want = append(want, "env") // which stands in the default of a variable only
		slices.Sort(want)
		have := names(tables["Functions"])
		for _, name := range have {
			if !slices.Contains(want, name) {
				t.Errorf("there is no function %s", name)
			}
		}
		for _, name := range want {
			if !slices.Contains(have, name) {
				t.Errorf("the function %s is not listed", name)
			}
		}
		if len(have) != 104 {
			t.Errorf("%d functions are listed", len(have))
		}
	})
	t.Run("components", func(t *testing.T) { componentRows(t, tables["Components"]) })
	t.Run("surprises", func(t *testing.T) {
		for i, name := range names(tables["Where Packer surprises"]) {
			if name != strconv.Itoa(i+1) {
				t.Errorf("row %d has the number %s", i+1, name)
			}
		}
		if n := len(tables["Where Packer surprises"]); n != 30 {
			t.Errorf("%d are listed", n)
		}
	})
	for title, cases := range map[string]map[string]string{
		"Blocks and attributes": blockCases, "Variable rules": variableCases, "Contextual values": valueCases,
	} {
		t.Run(title, func(t *testing.T) { templateRows(t, tables[title], cases) })
	}
}

// inheriting are the commands that read a template.
var inheriting = []string{"validate", "inspect", "console", "build"}

func commandRows(t *testing.T, tables map[string][]row) {
	flags := map[string][]string{} // by verb
	for _, v := range flatVerbs() {
		if v.hidden {
			continue
		}
		flags[v.name] = []string{}
		v.run(t.Context(), &cli{out: io.Discard, err: io.Discard, v: v, onHelp: func(fs *flag.FlagSet) {
			fs.VisitAll(func(f *flag.Flag) { flags[v.name] = append(flags[v.name], f.Name) })
		}}, []string{"-help"})
	}
	all := names(tables["Commands"])
	listed := names(tables["Flags"])
	for _, r := range tables["Ingot's own commands and flags"] {
		for _, name := range strings.Split(r.name, ", ") {
			verb, option, isFlag := strings.Cut(name, " -")
			if isFlag {
				listed = append(listed, name)
			} else {
				all = append(all, name)
			}
			if fs, ok := flags[verb]; !ok || isFlag && !slices.Contains(fs, option) {
				t.Errorf("there is no %q", name)
			}
		}
	}
	for _, r := range tables["Commands"] {
		verb, word, _ := strings.Cut(r.name, " ")
		if verb == "plugin" {
			verb = "plugins"
		}
		_, ok := flags[verb]
		if ok != (r.state != "needs a plugin") {
			t.Errorf("%q is said to be: %s", r.name, r.state)
		}
		if word != "" && !slices.Contains(pluginsVerb().words(), word) {
			t.Errorf("there is no %q", r.name)
		}
	}
	for _, r := range tables["Flags"] {
		verb, name, ok := strings.Cut(r.name, " -")
		on := []string{verb}
		if !ok {
			on, name = inheriting, strings.TrimPrefix(r.name, "-")
		}
		switch r.name {
		case "-machine-readable", "-version", "-help":
			args := []string{"version", r.name}
			if r.name == "-version" {
				args = args[1:]
			}
			if _, status := answer(t, t.TempDir(), "", self(t), args...); status != exitOK {
				t.Errorf("%q: exit status %d", args, status)
			}
			continue
		case "-autocomplete-install", "-autocomplete-uninstall":
			continue // TestScripts/completion asks for them
		}
		for _, verb := range on {
			if !slices.Contains(flags[verb], name) {
				t.Errorf("%s does not know -%s", verb, name)
			}
		}
	}
	for verb, fs := range flags {
		if !slices.Contains(all, verb) {
			t.Errorf("the command %s is not listed", verb)
		}
		if strings.Contains(verb, " ") || verb == "drift" {
			continue // wholly Ingot's own: the reference has its flags
		}
		for _, name := range fs {
			if !slices.Contains(listed, verb+" -"+name) && !slices.Contains(listed, "-"+name) {
				t.Errorf("%s -%s is not listed", verb, name)
			}
		}
	}
}

var (
	reads   = regexp.MustCompile(`(?:Getenv|LookupEnv)\("([A-Z_]+)"\)`)
	literal = regexp.MustCompile(`"([A-Z][A-Z_]+[A-Z_])=?"`)
)

// environmentRows: what has an effect is in the code, and of Packer's what the
// code reads is listed.
func environmentRows(t *testing.T, rows []row) {
	read, named := map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range reads.FindAllStringSubmatch(string(src), -1) {
			read[m[1]] = true
		}
		for _, m := range literal.FindAllStringSubmatch(string(src), -1) {
			named[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, r := range rows {
		name, _, _ := strings.Cut(r.name, " ")
		have[name] = true
		elsewhere := []string{"TMPDIR", "NO_PROXY", "AWS_PROFILE"} // Go, or the SDK, reads them
		if (r.state == "works" || r.state == "differs") && !named[name] && !slices.Contains(elsewhere, name) {
			t.Errorf("%s is said to work, and no code names it", name)
		}
		if r.state == "no effect" && read[name] {
			t.Errorf("%s is said to have no effect, and is read", name)
		}
	}
	for name := range read {
		if strings.HasPrefix(name, "PACKER_") && !have[name] {
			t.Errorf("%s is read, and not listed", name)
		}
	}
}

func componentRows(t *testing.T, rows []row) {
	t.Setenv("INGOT_HOME", t.TempDir())
	comps, err := components()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for kind, types := range map[string][]string{
		"builder": slices.Collect(maps.Keys(comps.Builders)), "provisioner": slices.Collect(maps.Keys(comps.Provisioners)),
		"post-processor": slices.Collect(maps.Keys(comps.PostProcessors)), "data source": slices.Collect(maps.Keys(dataSources())),
	} {
		for _, typ := range types {
			there[kind+" "+typ] = true
		}
	}
	for _, r := range rows {
		if there[r.name] != (r.state == "works" || r.state == "differs") {
			t.Errorf("%s is said to be: %s", r.name, r.state)
		}
		delete(there, r.name)
	}
	for _, own := range []string{"builder sandbox", "provisioner cloud-init", "provisioner seal"} { // Ingot's own
		delete(there, own)
	}
	for name := range there {
		t.Errorf("%s is not listed", name)
	}
}

// templateRows loads a template for each row. A template is an error if it
// says "# error: " and a part of the finding, and gives a warning if it says
// "# warning: " and a part of that. Otherwise there is to be no finding.
func templateRows(t *testing.T, rows []row, cases map[string]string) {
	t.Setenv("INGOT_HOME", t.TempDir())
	comps, err := components()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		archive, ok := cases[r.name]
		if !ok {
			t.Errorf("there is no template for the row %q", r.name)
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			dir := t.TempDir()
			a := txtar.Parse([]byte(archive))
			if len(a.Files) == 0 {
				a.Files = []txtar.File{{Name: "t.pkr.hcl", Data: []byte(archive)}}
			}
			o := templates.Options{Path: dir, Datasources: dataSources(), Environ: []string{"PKR_VAR_env=from the environment", "PKR_VAR_list=[1]", "PKR_VAR_nobody=x"}}
			for _, f := range a.Files {
				writeFiles(t, dir, map[string]string{f.Name: string(f.Data)})
				if strings.HasPrefix(f.Name, "given") {
					o.VarFiles = append(o.VarFiles, filepath.Join(dir, f.Name))
				}
			}
			for line := range strings.Lines(archive) {
				if arg, ok := strings.CutPrefix(strings.TrimSpace(line), "# -var "); ok {
					o.Vars = append(o.Vars, arg)
				}
				if file, ok := strings.CutPrefix(strings.TrimSpace(line), "# path "); ok {
					o.Path = filepath.Join(dir, file)
				}
				o.SyntaxOnly = o.SyntaxOnly || strings.TrimSpace(line) == "# -syntax-only"
			}
			loaded, diags := templates.Load(o)
			if !diags.HasErrors() && !o.SyntaxOnly {
				plan, more := loaded.Plan(templates.Selection{})
				if diags = append(diags, more...); !more.HasErrors() {
					more, _ = bake.Check(t.Context(), plan, bake.CheckOptions{Components: comps, Dir: dir, Validate: true})
					diags = append(diags, more...)
				}
			}
			want, severity := "", hcl.DiagError
			for line := range strings.Lines(archive) {
				if text, ok := strings.CutPrefix(strings.TrimSpace(line), "# error: "); ok {
					want = text
				}
				if text, ok := strings.CutPrefix(strings.TrimSpace(line), "# warning: "); ok {
					want, severity = text, hcl.DiagWarning
				}
			}
			switch {
			case want == "" && len(diags) > 0:
				t.Errorf("there are findings: %v", diags)
			case want != "" && (len(diags) == 0 || diags[0].Severity != severity || !strings.Contains(diags[0].Summary+": "+diags[0].Detail, want)):
				t.Errorf("there is no finding that says %q: %v", want, diags)
			case r.state == "works" && severity == hcl.DiagWarning:
				t.Error("it works, and gives a warning")
			}
		})
	}
	for name := range cases {
		if !slices.Contains(names(rows), name) {
			t.Errorf("there is a template for %q, which is not listed", name)
		}
	}
}
