// Package templates reads the template language: HCL files that Packer reads
// too, with Ingot's own block types in the same files or beside them. Load
// turns files and variables into a Template, Plan turns that into the bakes to run.
package templates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/templates/functions"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// PackerVersion is the version of Packer whose language this package reads.
// required_version is checked against it, and packer.version is it.
const PackerVersion = "1.16.0"

// Options say what to load.
type Options struct {
	// Path is a directory, or one file of a kind that is read in a directory:
	// *.pkr.hcl, *.pkr.json, *.ingot.hcl, *.ingot.json. Any other *.json is a
	// legacy template, and so is Stdin, for which "-" stands.
	Path string
	// Stdin is the standard input, read when Path is "-"; nil is an empty one.
	Stdin io.Reader
	// Vars are values for variables, "name=value", the last one of a name wins.
	Vars []string
	// LaxVars passes over a name in Vars that no variable has; the Template's
	// Undeclared has it. Otherwise it is an error.
	LaxVars bool
	// VarFiles are files with values, later ones win.
	VarFiles []string
	// Environ is the environment, as os.Environ gives it.
	Environ []string
	// WarnUndeclared makes names in variable files that no variable declares
	// warnings. Otherwise they are passed over.
	WarnUndeclared bool
	// Datasources are the data sources that there are, by type.
	Datasources map[string]func() datasources.Source
	// EvaluateData has data sources read. Otherwise what depends on them is
	// not known, and findings that only this is the reason of are left out.
	EvaluateData bool
	// Context bounds the reading of data sources, and the functions that ask a
	// server, also those in components that are decoded later. Default:
	// context.Background.
	Context context.Context
	// SyntaxOnly ends the work after the declarations are read: nothing is
	// evaluated, variables need no value, and the Template has no bakes.
	SyntaxOnly bool
}

// Template is a template that has been read and evaluated.
type Template struct {
	// Dir is the directory of the template, as it was given.
	Dir string
	// Files are the template's files by name, for the snippets of diagnostics.
	// Variable files are not among them: they hold secrets.
	Files map[string]*hcl.File
	// Legacy says that the template is a legacy one, of JSON. Its bakes have the
	// names of its builders, and are selected by exactly these.
	Legacy bool
	// Undeclared are the names that Options.LaxVars lets pass.
	Undeclared []string
	// Rollouts are the top-level rollout blocks in the order of their names.
	Rollouts []*Component

	bakes []*Bake

	mu      sync.Mutex
	secrets []string
	// For inspect.go.
	variables, locals []Named
	outlines          []*Outline
	requirements      []Requirement
	scope             *hcl.EvalContext
}

// Secrets returns every string, and every line of a string, in the values of
// variables and locals that are declared sensitive, and their numbers as text;
// and whatever functions have got from a store of secrets by now.
// Bools and blank lines are left out: hiding them would only garble output.
// Short secrets are in it, whoever hides them has to decide what to do. They
// are sorted, and known as far as Load came, also when it failed.
func (t *Template) Secrets() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(t.secrets)))
}

// hide remembers a secret, and each of its lines.
func (t *Template) hide(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, part := range append(strings.Split(s, "\n"), s) {
		if part = strings.TrimSuffix(part, "\r"); strings.TrimSpace(part) != "" {
			t.secrets = append(t.secrets, part)
		}
	}
}

// Load reads a template. It reports as much as it can at once. The Template is
// never nil. When there are errors, its Files and Secrets are of use, and the
// bakes that Plan gives of it can be checked for what else is wrong, no more.
func Load(o Options) (*Template, hcl.Diagnostics) {
	l := newLoader(o)
	for _, stage := range []func(){l.read, l.declare, l.assign} {
		stage()
		if l.diags.HasErrors() {
			return l.t, l.diags
		}
	}
	// What is wrong with a value is no reason not to look at the rest.
	l.check()
	l.evaluate()
	if l.ctx != nil {
		l.build()
	}
	return l.t, l.diags
}

func newLoader(o Options) *loader {
	return &loader{
		o:         o,
		t:         &Template{Files: map[string]*hcl.File{}},
		variables: map[string]*variable{},
		values:    map[string]*value{},
		plugins:   map[string]string{},
		sources:   map[string]*hcl.Block{},
		specs:     map[string]*hcl.Block{},
		stepLists: map[string]*hcl.Block{},
		rollouts:  map[string]*hcl.Block{},
		seen:      map[string]bool{},
		usedLists: map[string]bool{},
		now:       time.Now(),
	}
}

type loader struct {
	o     Options
	t     *Template
	diags hcl.Diagnostics
	now   time.Time

	varFiles  []string // auto-loaded ones
	variables map[string]*variable
	values    map[string]*value     // locals and data sources
	plugins   map[string]string     // required_plugins: source addresses by name
	sources   map[string]*hcl.Block // by "type.name"
	specs     map[string]*hcl.Block
	stepLists map[string]*hcl.Block
	rollouts  map[string]*hcl.Block
	builds    []*hcl.Block
	hcp       hcl.Blocks
	scopes    []*buildScope
	ctx       *hcl.EvalContext // variables and locals, path, packer, functions
	seen      map[string]bool  // findings
	usedLists map[string]bool  // names of stepLists
	late      hcl.Diagnostics  // findings that neither -syntax-only nor inspect is to fail for, as with Packer
}

// add collects findings, each once: one block may serve many bakes.
func (l *loader) add(diags ...*hcl.Diagnostic) {
	for _, d := range diags {
		key := fmt.Sprint(d.Summary, "\x00", d.Detail, "\x00", d.Subject)
		if !l.seen[key] {
			l.seen[key] = true
			l.diags = append(l.diags, d)
		}
	}
}

// addKnown is add without the findings that are made only because data sources
// are not read.
func (l *loader) addKnown(diags hcl.Diagnostics) {
	for _, d := range diags {
		if !l.lenient() || !config.BecauseUnknown(d) {
			l.add(d)
		}
	}
}

// lenient tells whether values that are not known are no fault: data sources
// are not read, or what the values come from is wrong, and has been reported.
func (l *loader) lenient() bool { return !l.o.EvaluateData || l.diags.HasErrors() }

func failure(at *hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: at}
}

func warning(at *hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	d := failure(at, summary, format, args...)
	d.Severity = hcl.DiagWarning
	return d
}

// kinds are the endings of a template's files, in the order they are read.
var kinds = [...]string{".pkr.hcl", ".pkr.json", ".ingot.hcl", ".ingot.json"}

func isTemplate(path string) bool {
	return slices.ContainsFunc(kinds[:], func(k string) bool { return strings.HasSuffix(path, k) })
}

// read finds and parses the template's files.
func (l *loader) read() {
	if l.readLegacy() {
		return
	}
	info, err := os.Stat(l.o.Path)
	if err != nil {
		l.add(failure(nil, "Template not found", "The template %q cannot be read: %s.", l.o.Path, reason(err)))
		return
	}
	files := []string{l.o.Path}
	if info.IsDir() {
		l.t.Dir = l.o.Path
		files = l.list(kinds[:]...)
		l.varFiles = l.list(".auto.pkrvars.hcl", ".auto.pkrvars.json")
		if len(files) == 0 {
			l.add(failure(nil, "Could not find any config file", "The directory %q has no file that ends in %s.", l.o.Path, strings.Join(kinds[:], ", ")))
		}
	} else {
		l.t.Dir = filepath.Dir(l.o.Path)
		if !isTemplate(l.o.Path) {
			l.add(failure(nil, "Not a template", "The name of %q must end in one of %s; a legacy template's ends in .json.", l.o.Path, strings.Join(kinds[:], ", ")))
			return
		}
	}
	for _, name := range files {
		file, diags := parse(name)
		l.add(diags...)
		if file != nil {
			l.t.Files[name] = file
		}
	}
}

// list returns the directory's files with one of the endings: ending by
// ending, in the order of names.
func (l *loader) list(endings ...string) []string {
	entries, err := os.ReadDir(l.o.Path)
	if err != nil {
		l.add(failure(nil, "Directory not readable", "The directory %q cannot be read: %s.", l.o.Path, reason(err)))
		return nil
	}
	var files []string
	for _, ending := range endings {
		for _, e := range entries {
			if !e.IsDir() && strings.HasSuffix(e.Name(), ending) {
				files = append(files, filepath.Join(l.o.Path, e.Name()))
			}
		}
	}
	return files
}

func reason(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// parse parses one file of HCL or, by its name, JSON.
func parse(name string) (*hcl.File, hcl.Diagnostics) {
	src, err := readFile(name)
	if err != nil {
		return nil, hcl.Diagnostics{failure(nil, "File not readable", "The file %q cannot be read: %s.", name, reason(err))}
	}
	if err := functions.CheckSource(src); err != nil {
		return nil, hcl.Diagnostics{failure(nil, "File too large or too deep", "The file %q is refused: %s.", name, err)}
	}
	if strings.HasSuffix(name, ".json") {
		return json.Parse(src, name)
	}
	return hclsyntax.ParseConfig(src, name, hcl.InitialPos)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, functions.MaxSource+1))
}

var rootSchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
	{Type: "packer"},
	{Type: "source", LabelNames: []string{"type", "name"}},
	{Type: "build"},
	{Type: "variable", LabelNames: []string{"name"}},
	{Type: "variables"},
	{Type: "local", LabelNames: []string{"name"}},
	{Type: "locals"},
	{Type: "data", LabelNames: []string{"type", "name"}},
	{Type: "hcp_packer_registry"},
	{Type: "communicator", LabelNames: []string{"type", "name"}},
	{Type: "spec", LabelNames: []string{"name"}},
	{Type: "steps", LabelNames: []string{"name"}},
	{Type: "rollout", LabelNames: []string{"name"}},
}}

// declare reads the top level of all files and remembers what they declare.
func (l *loader) declare() {
	var blocks hcl.Blocks
	for _, name := range l.fileNames() {
		content, diags := config.Content(l.t.Files[name].Body, rootSchema)
		l.add(diags...)
		blocks = append(blocks, content.Blocks...)
	}
	for _, b := range blocks.OfType("packer") {
		l.packer(b)
	}
	l.hcp = blocks.OfType("hcp_packer_registry")
	for _, b := range blocks {
		switch b.Type {
		case "source":
			l.once(l.sources, b, b.Labels[0]+"."+b.Labels[1])
		case "spec":
			l.once(l.specs, b, b.Labels[0])
		case "steps":
			l.once(l.stepLists, b, b.Labels[0])
		case "rollout":
			l.once(l.rollouts, b, b.Labels[0])
		case "build":
			l.builds = append(l.builds, b)
		case "variable":
			l.variable(b)
		case "variables":
			l.variableDefaults(b)
		case "local", "locals":
			l.local(b)
		case "data":
			l.declareValue(&value{name: "data." + b.Labels[0] + "." + b.Labels[1], at: b.DefRange, block: b})
		case "communicator":
			l.add(withoutEffect(b))
		}
	}
}

// fileNames returns the template's files in the order they are read.
func (l *loader) fileNames() []string {
	if l.t.Legacy {
		return slices.Collect(maps.Keys(l.t.Files)) // there is one
	}
	var names []string
	if l.t.Files[stdinName] != nil {
		names = append(names, stdinName)
	}
	for _, kind := range kinds {
		var some []string
		for name := range l.t.Files {
			if strings.HasSuffix(name, kind) {
				some = append(some, name)
			}
		}
		slices.Sort(some)
		names = append(names, some...)
	}
	return names
}

func (l *loader) once(into map[string]*hcl.Block, b *hcl.Block, name string) {
	if first, ok := into[name]; ok {
		d := twice(b.DefRange, b.Type, name, first.DefRange)
		if b.Type == "source" {
			l.late = append(l.late, d) // alternatives may lie in one directory
		} else {
			l.add(d)
		}
		return
	}
	into[name] = b
}

func (l *loader) duplicate(at hcl.Range, what, name string, first hcl.Range) {
	l.add(twice(at, what, name, first))
}

func twice(at hcl.Range, what, name string, first hcl.Range) *hcl.Diagnostic {
	return failure(&at, "Duplicate "+what, "The %s %q is already declared at %s:%d. Names must be unique.", what, name, first.Filename, first.Start.Line)
}

// check refuses variables without a value, and values that break a rule.
func (l *loader) check() {
	if !l.o.SyntaxOnly {
		l.checkVariables()
	}
}

// evaluate gives everything that can be known before the bakes a value.
func (l *loader) evaluate() {
	if l.o.SyntaxOnly {
		return
	}
	values := map[string]cty.Value{}
	for name, v := range l.variables {
		values[name] = v.value
	}
	cwd, err := os.Getwd()
	if err != nil {
		l.add(failure(nil, "No working directory", "The working directory cannot be found: %s.", err))
		return
	}
	l.ctx = &hcl.EvalContext{
		Functions: l.library(l.t.Dir),
		Variables: map[string]cty.Value{
			"var": cty.ObjectVal(values),
			"path": cty.ObjectVal(map[string]cty.Value{
				"root": cty.StringVal(filepath.ToSlash(l.t.Dir)),
				"cwd":  cty.StringVal(filepath.ToSlash(cwd)),
			}),
			"packer": cty.ObjectVal(map[string]cty.Value{
				"version": cty.StringVal(PackerVersion),
				// Set by HashiCorp's hosted registry only.
				"iterationID":        cty.UnknownVal(cty.String),
				"versionFingerprint": cty.UnknownVal(cty.String),
			}),
		},
	}
	l.evaluateValues()
}

// library are the functions, for relative paths that start at dir.
func (l *loader) library(dir string) map[string]function.Function {
	return functions.All(functions.Options{Dir: dir, Now: l.now, Environ: l.o.Environ, Context: l.o.Context, Secret: l.t.hide})
}

// secret remembers the leaves of a value.
func (l *loader) secret(v cty.Value) {
	// The callback never fails.
	_ = cty.Walk(v, func(_ cty.Path, leaf cty.Value) (bool, error) {
		if !leaf.IsKnown() || leaf.IsNull() {
			return false, nil
		}
		switch leaf.Type() {
		case cty.Number:
			l.t.hide(leaf.AsBigFloat().Text('f', -1))
		case cty.String:
			l.t.hide(leaf.AsString())
		}
		return true, nil
	})
}
