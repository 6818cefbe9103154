package specs

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// Recorded is a spec in a form that can be compiled again without the template
// that it comes from: every expression is replaced by its value. Only a when
// that asks for the machine's platform stays as it is.
type Recorded struct {
	Name string `json:"name"`
	// Source is the inside of a spec block.
	Source string `json:"source"`
	// Left counts the checks that are not in it, since their values are sensitive.
	Left int `json:"left,omitempty"`
}

// Record makes a Recorded of the body of a spec that has been compiled.
func Record(body hcl.Body, ctx *hcl.EvalContext, name string) (*Recorded, error) {
	rows := resources()
	r := &recorder{compiler: &compiler{ctx: ctx}}
	content := r.content(body, specSchema(rows))
	f := hclwrite.NewEmptyFile()
	r.attributes(f.Body(), content.Attributes)
	for _, b := range content.Blocks {
		if b.Type == "goss" {
			return nil, fmt.Errorf("record spec %q: it has the goss file %q, and such files are not kept", name, b.Labels[0])
		}
		i := slices.IndexFunc(rows, func(x resource) bool { return x.name == b.Type })
		r.resource(f.Body(), b, rows[i])
	}
	if r.diags.HasErrors() {
		return nil, r.diags
	}
	if r.err != nil {
		return nil, fmt.Errorf("record spec %q: %w", name, r.err)
	}
	return &Recorded{Name: name, Source: string(f.Bytes()), Left: r.left}, nil
}

// Compile makes a spec of it. file is what it is called in results.
func (r *Recorded) Compile(file string, functions map[string]function.Function) (*Spec, hcl.Diagnostics) {
	f, diags := hclsyntax.ParseConfig([]byte(r.Source), file, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	return Compile(f.Body, &hcl.EvalContext{Functions: functions}, r.Name)
}

type recorder struct {
	*compiler
	left int
	err  error
}

// resource writes a block for every element of its for_each, or one.
func (r *recorder) resource(to *hclwrite.Body, b *hcl.Block, row resource) {
	content := r.content(b.Body, row.schema())
	a := content.Attributes["for_each"]
	if a == nil {
		r.instance(to, b, content, row)
		return
	}
	outer := r.ctx
	for _, e := range r.elements(a) {
		r.ctx = outer.NewChild()
		r.ctx.Variables = map[string]cty.Value{"each": e}
		r.instance(to, b, content, row)
	}
	r.ctx = outer
}

func (r *recorder) instance(to *hclwrite.Body, b *hcl.Block, content *hcl.BodyContent, row resource) {
	labels := b.Labels
	if a := content.Attributes["name"]; a != nil {
		if v, _ := r.value(a, cty.String); v != cty.NilVal {
			labels = []string{v.AsString()}
		}
	}
	block := hclwrite.NewBlock(b.Type, labels)
	before := r.left
	r.attributes(block.Body(), content.Attributes)
	for _, inner := range content.Blocks {
		r.inner(block.Body(), inner, row)
	}
	// What says nothing any more would be no spec.
	if r.left > before && !checksSomething(block.Body()) {
		return
	}
	to.AppendBlock(block)
}

// inner writes a block within a resource, whatever its attributes are called.
func (r *recorder) inner(to *hclwrite.Body, b *hcl.Block, row resource) {
	block := hclwrite.NewBlock(b.Type, b.Labels)
	before := r.left
	if b.Type == "should_not" {
		content := r.content(b.Body, row.negated())
		r.attributes(block.Body(), content.Attributes)
		for _, its := range content.Blocks {
			r.inner(block.Body(), its, row)
		}
	} else {
		attrs, diags := b.Body.JustAttributes()
		r.diags = append(r.diags, diags...)
		r.attributes(block.Body(), attrs)
	}
	if r.left > before && len(block.Body().Attributes())+len(block.Body().Blocks()) == 0 {
		return
	}
	to.AppendBlock(block)
}

func checksSomething(b *hclwrite.Body) bool {
	for name := range b.Attributes() {
		if !slices.Contains([]string{"skip", "tags", "timeout", "title", "when"}, name) {
			return true
		}
	}
	for _, inner := range b.Blocks() {
		if inner.Type() != "retry" && inner.Type() != "waive" && (len(inner.Body().Attributes()) > 0 || len(inner.Body().Blocks()) > 0) {
			return true
		}
	}
	return false
}

// attributes writes values, in the order of the file.
func (r *recorder) attributes(to *hclwrite.Body, attrs hcl.Attributes) {
	var names []string
	for name := range attrs {
		if name != "for_each" && name != "name" {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return attrs[a].Range.Start.Byte - attrs[b].Range.Start.Byte })
	for _, name := range names {
		a := attrs[name]
		if name == "when" {
			r.when(to, a)
			continue
		}
		v, sensitive := r.value(a, cty.NilType)
		switch {
		case v == cty.NilVal:
		case sensitive:
			r.left++
		default:
			to.SetAttributeValue(name, v)
		}
	}
}

// when writes a condition as it stands in the file, with the values in it that
// come from the template.
func (r *recorder) when(to *hclwrite.Body, a *hcl.Attribute) {
	at := a.Expr.Range()
	src, err := os.ReadFile(at.Filename)
	if err != nil || !at.CanSliceBytes(src) || strings.HasSuffix(at.Filename, ".json") {
		r.err = fmt.Errorf("the condition at %s:%d cannot be kept", at.Filename, at.Start.Line)
		return
	}
	vars := a.Expr.Variables()
	slices.SortFunc(vars, func(x, y hcl.Traversal) int { return y.SourceRange().Start.Byte - x.SourceRange().Start.Byte })
	text := slices.Clone(at.SliceBytes(src))
	for _, t := range vars { // the last first, so that the places of the others stay
		if t.RootName() == "os" {
			continue
		}
		v, diags := t.TraverseAbs(r.ctx)
		if diags.HasErrors() {
			r.diags = append(r.diags, diags...)
			return
		}
		v, marks := v.UnmarkDeep()
		if len(marks) > 0 {
			r.left++
			to.SetAttributeValue("skip", cty.StringVal("its condition has a sensitive value, which is not recorded"))
			return
		}
		lit := hclwrite.TokensForValue(v).Bytes()
		from, end := t.SourceRange().Start.Byte-at.Start.Byte, t.SourceRange().End.Byte-at.Start.Byte
		text = slices.Replace(text, from, end, lit...)
	}
	text = slices.Concat([]byte("("), text, []byte(")")) // so that it may have several lines
	if _, diags := hclsyntax.ParseExpression(text, at.Filename, hcl.InitialPos); diags.HasErrors() {
		r.err = fmt.Errorf("the condition at %s:%d is not what it was when the template was read", at.Filename, at.Start.Line)
		return
	}
	to.SetAttributeRaw("when", hclwrite.Tokens{{Type: hclsyntax.TokenIdent, Bytes: text}})
}
