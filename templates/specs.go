package templates

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/templates/functions"
	"github.com/zclconf/go-cty/cty"
)

// stdinName is the file that standard input is called, where it is one of HCL.
const stdinName = "<stdin>"

// Specs reads a template for its spec blocks at the top level alone, to check
// them without a bake; "-" is one of HCL on standard input. Of variables,
// locals and data sources only those are looked at that these blocks need, and
// no build is. The components are in the order of the files.
func Specs(o Options) (*Template, []*Component, hcl.Diagnostics) {
	l := newLoader(o)
	read := l.read
	if o.Path == "-" {
		read = l.readStdin
	}
	for _, stage := range []func(){read, l.declare} {
		stage()
		if l.diags.HasErrors() {
			return l.t, nil, l.diags
		}
	}
	blocks := slices.SortedFunc(maps.Values(l.specs), l.byPlace)
	if len(blocks) == 0 {
		l.noSpecs()
		return l.t, nil, l.diags
	}
	l.keepNeeded(blocks)
	l.assign()
	if l.diags.HasErrors() {
		return l.t, nil, l.diags
	}
	l.check()
	l.evaluate()
	if l.ctx == nil {
		return l.t, nil, l.diags
	}
	var found []*Component
	for _, b := range blocks {
		// What only a bake can heed. A timeout is for the spec itself.
		var attrs struct {
			filter
			PauseBefore     time.Duration `cfg:"pause_before"`
			MaxRetries      int           `cfg:"max_retries"`
			ContinueOnError bool          `cfg:"continue_on_error"`
		}
		rest, _ := l.after(b.Body, l.ctx) // which machine it is checked on, the caller says
		body, diags := config.Take(title(b), rest, l.ctx, &attrs)
		l.add(diags...)
		found = append(found, l.component(b, "spec", body, l.ctx, l.env("", "")))
	}
	return l.t, found, l.diags
}

func (l *loader) readStdin() {
	l.t.Dir = "."
	var src []byte
	if l.o.Stdin != nil {
		var err error
		if src, err = readAll(l.o.Stdin); err != nil {
			l.add(failure(nil, "File not readable", "Standard input cannot be read: %s.", err))
			return
		}
	}
	if err := functions.CheckSource(src); err != nil {
		l.add(failure(nil, "File too large or too deep", "Standard input is refused: %s.", err))
		return
	}
	file, diags := hclsyntax.ParseConfig(src, stdinName, hcl.InitialPos)
	l.add(diags...)
	if file != nil {
		l.t.Files[stdinName] = file
	}
}

func (l *loader) byPlace(a, b *hcl.Block) int {
	if x, y := a.DefRange, b.DefRange; x.Filename == y.Filename {
		return x.Start.Byte - y.Start.Byte
	}
	names := l.fileNames()
	return slices.Index(names, a.DefRange.Filename) - slices.Index(names, b.DefRange.Filename)
}

// noSpecs says that there are none, and where there are some that are not meant.
func (l *loader) noSpecs() {
	what := "The template"
	if l.t.Dir != l.o.Path {
		what = "The file"
	}
	where := l.o.Path
	if where == "-" {
		what, where = "The file", stdinName
	}
	detail := "%s %q has no spec block at the top level: spec \"name\" { package \"nginx\" { be_installed = true } }."
	for _, b := range l.builds {
		content, _, _ := b.Body.PartialContent(buildSchema)
		if len(content.Blocks.OfType("spec")) > 0 {
			detail = "%s %q has spec blocks only in its builds, which are theirs. Move one to the top level; an empty block spec \"name\" {} in the build stands for it there."
			break
		}
	}
	l.add(failure(nil, "No specs", detail, what, where))
}

// keepNeeded forgets the values that no spec needs, so that they are neither
// evaluated nor asked for.
func (l *loader) keepNeeded(blocks []*hcl.Block) {
	names := slices.Sorted(maps.Keys(l.values))
	values, variables := map[string]*value{}, map[string]*variable{}
	var visit func(refs []hcl.Traversal)
	visit = func(refs []hcl.Traversal) {
		for _, t := range refs {
			switch root := t.RootName(); root {
			case "var":
				for name, v := range l.variables {
					if k := key(t, 1); k == "" || k == name {
						variables[name] = v
					}
				}
			case "local", "data":
				prefix := root + "."
				for i := 1; i < 3 && key(t, i) != "" && (i == 1 || root == "data"); i++ {
					prefix += key(t, i) + "."
				}
				for _, name := range names {
					v := l.values[name]
					if values[name] != nil || !strings.HasPrefix(name+".", prefix) {
						continue
					}
					values[name] = v
					if v.block != nil {
						visit(references(v.block.Body))
					} else {
						visit(v.expr.Variables())
					}
				}
			}
		}
	}
	for _, b := range blocks {
		refs := references(b.Body)
		for _, t := range refs {
			if root := t.RootName(); root == "build" || root == "source" {
				r := t.SourceRange()
				l.add(failure(&r, "Known in a bake only", "What is in %q is known only while an image is baked, and this spec is checked without one.", root))
			}
		}
		visit(refs)
	}
	l.values = values
	for name, v := range l.variables {
		// The others stay, for -var may name them; their value is nobody's business.
		if variables[name] == nil {
			v.rules = nil
			if v.value == cty.NilVal {
				v.value = cty.UnknownVal(v.typ)
			}
		}
	}
}
