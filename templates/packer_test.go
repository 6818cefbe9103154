package templates_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	filebuilder "github.com/ingotbuild/ingot/builders/file"
	"github.com/ingotbuild/ingot/builders/null"
	"github.com/ingotbuild/ingot/datasources"
	datanull "github.com/ingotbuild/ingot/datasources/null"
	"github.com/ingotbuild/ingot/postprocessors"
	"github.com/ingotbuild/ingot/postprocessors/checksum"
	"github.com/ingotbuild/ingot/postprocessors/manifest"
	postshell "github.com/ingotbuild/ingot/postprocessors/shelllocal"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/provisioners/breakpoint"
	"github.com/ingotbuild/ingot/provisioners/file"
	"github.com/ingotbuild/ingot/provisioners/shell"
	provshell "github.com/ingotbuild/ingot/provisioners/shelllocal"
	"github.com/ingotbuild/ingot/provisioners/sleep"
	"github.com/ingotbuild/ingot/templates"
)

// both are the components that Ingot and the Packer of these tests have.
var both = bake.Components{
	Builders: map[string]func() builders.Builder{
		"file": func() builders.Builder { return filebuilder.New() },
		"null": func() builders.Builder { return null.New() },
	},
	Provisioners: map[string]func() provisioners.Provisioner{
		"breakpoint":  func() provisioners.Provisioner { return breakpoint.New() },
		"file":        func() provisioners.Provisioner { return file.New() },
		"shell":       func() provisioners.Provisioner { return shell.New() },
		"shell-local": func() provisioners.Provisioner { return provshell.New() },
		"sleep":       func() provisioners.Provisioner { return sleep.New() },
	},
	PostProcessors: map[string]func() postprocessors.PostProcessor{
		"checksum":    func() postprocessors.PostProcessor { return checksum.New() },
		"manifest":    func() postprocessors.PostProcessor { return manifest.New() },
		"shell-local": func() postprocessors.PostProcessor { return postshell.New() },
	},
}

// verdict is what a program has to say about a template.
type verdict struct {
	valid bool
	names []string // of the builds, sorted, when it is valid
	value string   // of the console's expression, as JSON
}

type peerCase struct {
	name string
	// text is a txtar archive, or one file t.pkr.hcl. A text without a build
	// gets one of a null source.
	text string
	// flags are -var and the like.
	flags []string
	// path is what is loaded in place of the directory.
	path string
	// value is an expression to evaluate in the console, too.
	value string
	// differs says why Ingot comes to the opposite verdict, or another value.
	differs string
}

const anyBuild = "\nsource \"null\" \"a\" { communicator = \"none\" }\nbuild { sources = [\"null.a\"] }\n"

func TestPacker(t *testing.T) {
	packer, err := exec.LookPath("packer")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("there is no packer on the PATH")
	}
	if err != nil {
		t.Skip("there is no packer on the PATH to compare with")
	}
	t.Setenv("PKR_VAR_env", "from the environment")
	t.Setenv("PKR_VAR_list", "[1]")
	t.Setenv("CHECKPOINT_DISABLE", "1")
	t.Setenv("PACKER_NO_COLOR", "1")
	if len(peerCases) < 60 {
		t.Errorf("only %d templates", len(peerCases))
	}
	version, err := exec.Command(packer, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	old := bytes.Contains(version, []byte("v1.6.6"))
	for _, c := range peerCases {
		if !old && (c.differs == newer || c.differs == later) {
			c.differs = ""
		}
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			a := txtar.Parse([]byte(c.text))
			if len(a.Files) == 0 {
				a.Files = []txtar.File{{Name: "t.pkr.hcl", Data: []byte(c.text)}}
			}
			if !strings.Contains(c.text, "build") {
				a.Files[0].Data = append(a.Files[0].Data, anyBuild...)
			}
			for _, f := range a.Files {
				if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(dir)
			theirs, said := askPacker(t, packer, c)
			ours, diags := askIngot(t, c)
			same := ours.valid == theirs.valid && slices.Equal(ours.names, theirs.names) && ours.value == theirs.value
			switch {
			case c.differs == "" && !same:
				t.Errorf("Packer: %+v\n%s\nIngot: %+v\n%s", theirs, said, ours, diags)
			case c.differs != "" && same:
				t.Errorf("there is no difference any more (%s): %+v\n%s", c.differs, ours, diags)
			}
		})
	}
}

var (
	description = regexp.MustCompile(`(?m)^  > Description: .*$`)
	sourceLine  = regexp.MustCompile(`(?m)^      ((?:null|file)\.\S+)$`)
)

func askPacker(t *testing.T, packer string, c peerCase) (v verdict, said string) {
	t.Helper()
	run := func(stdin string, args ...string) (string, bool) {
		cmd := exec.CommandContext(t.Context(), packer, args...)
		cmd.Stdin = strings.NewReader(stdin)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return out.String(), err == nil
	}
	args := append(slices.Clone(c.flags), cmp.Or(c.path, "."))
	said, v.valid = run("", append([]string{"validate"}, args...)...)
	if !v.valid {
		return v, said
	}
	if !slices.Contains(c.flags, "-syntax-only") {
		out, _ := run("", append([]string{"inspect"}, args...)...)
		_, out, _ = strings.Cut(description.ReplaceAllString(out, ""), "> builds:")
		for _, b := range strings.Split(out, "\n  > ")[1:] {
			name, rest, _ := strings.Cut(b, ":\n")
			rest, _, _ = strings.Cut(rest, "provisioners:")
			for _, m := range sourceLine.FindAllStringSubmatch(rest, -1) {
				if strings.HasPrefix(name, "<unnamed") {
					v.names = append(v.names, m[1])
				} else {
					v.names = append(v.names, name+"."+m[1])
				}
			}
		}
		slices.Sort(v.names)
	}
	if c.value != "" {
		v.value, _ = run("jsonencode("+c.value+")\n", append([]string{"console"}, args...)...)
		v.value = plainJSON(v.value)
	}
	return v, said
}

// plainJSON makes JSON of one value comparable; anything else is an error message.
func plainJSON(s string) string {
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return "no value"
	}
	return fmt.Sprint(v)
}

func askIngot(t *testing.T, c peerCase) (v verdict, said string) {
	t.Helper()
	o := templates.Options{Path: cmp.Or(c.path, "."), Environ: os.Environ(), WarnUndeclared: true, Datasources: map[string]func() datasources.Source{
		"null": func() datasources.Source { return datanull.New() },
	}}
	var s templates.Selection
	for _, f := range c.flags {
		name, value, _ := strings.Cut(f, "=")
		switch name {
		case "-var":
			o.Vars = append(o.Vars, value)
		case "-var-file":
			o.VarFiles = append(o.VarFiles, value)
		case "-syntax-only":
			o.SyntaxOnly = true
		case "-only":
			s.Only = strings.Split(value, ",")
		case "-except":
			s.Except = strings.Split(value, ",")
		default:
			t.Fatalf("flag %s", f)
		}
	}
	loaded, diags := templates.Load(o)
	if !diags.HasErrors() && !o.SyntaxOnly {
		plan, more := loaded.Plan(s)
		if diags = append(diags, more...); !more.HasErrors() {
			more, _ = bake.Check(t.Context(), plan, bake.CheckOptions{Components: both, Dir: ".", Validate: true})
			diags = append(diags, more...)
		}
	}
	said = fmt.Sprint(diags)
	if v.valid = !diags.HasErrors(); !v.valid || o.SyntaxOnly {
		return v, said
	}
	for _, outline := range loaded.Outlines() {
		for _, b := range outline.Bakes {
			v.names = append(v.names, b.Name)
		}
	}
	slices.Sort(v.names)
	if c.value != "" {
		looked, _ := templates.Inspect(o)
		got, more := looked.Evaluate("jsonencode("+c.value+")", "console")
		v.value, said = "no value", said+fmt.Sprint(more)
		if !more.HasErrors() && got.IsKnown() {
			v.value = plainJSON(got.AsString())
		}
	}
	return v, said
}
