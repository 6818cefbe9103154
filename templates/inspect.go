package templates

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/templates/functions"
)

// Named is a variable or a local.
type Named struct {
	Name string
	// Value is unknown for a variable without a value, and for a local that
	// cannot be evaluated without one.
	Value     cty.Value
	Sensitive bool
}

// Outline is what a build block holds, whichever bakes its steps apply to.
type Outline struct {
	Name, Description string
	// Bakes are the uses of sources, in the order of the template.
	Bakes []*Bake
	// Steps are the provisioners and specs, in the order of the template.
	Steps []Part
	// ErrorCleanup is the provisioner for failed bakes, or nil.
	ErrorCleanup *Part
	// Chains are the post-processors.
	Chains [][]Part
}

// Part is a block of a build.
type Part struct {
	Kind StepKind
	// Type is the label of a provisioner or post-processor, "spec" for a spec.
	Type string
	// Component is the type of component that Type means; see Component.Type.
	Component string
	// Name is the block's name attribute, for a spec its label. It is empty also
	// when the name is known only in a bake.
	Name  string
	Range hcl.Range
}

// Requirement is an entry of a required_plugins block.
type Requirement struct {
	// Name is the accessor, Source the address (host/owner/name), Version the
	// constraint, each as written.
	Name, Source, Version string
	Range                 hcl.Range
}

// Inspect reads a template to show what is in it. Variables need no value, rules
// of validation are not applied, and what else is wrong behind the declarations
// is a warning. With an empty Options.Path it is a template without any file.
func Inspect(o Options) (*Template, hcl.Diagnostics) {
	l := newLoader(o)
	stages := []func(){l.read, l.declare, l.assign}
	if o.Path == "" {
		stages = stages[1:]
	}
	for _, stage := range stages {
		stage()
		if l.diags.HasErrors() {
			return l.t, l.diags
		}
	}
	for _, v := range l.variables {
		if v.value == cty.NilVal {
			v.value = cty.UnknownVal(v.typ)
		}
	}
	l.evaluate()
	if l.ctx != nil {
		l.build()
	}
	for _, d := range l.diags {
		d.Severity = hcl.DiagWarning
	}
	for _, name := range slices.Sorted(maps.Keys(l.variables)) {
		v := l.variables[name]
		l.t.variables = append(l.t.variables, Named{name, v.value, v.sensitive})
	}
	for _, name := range l.valueNames("local") {
		v := l.values["local."+name]
		if v.result == cty.NilVal {
			v.result = cty.DynamicVal
		}
		l.t.locals = append(l.t.locals, Named{name, v.result, v.sensitive})
	}
	l.t.scope = l.ctx
	return l.t, l.diags
}

// Variables returns the variables in the order of their names. Like Locals and
// Evaluate it is for templates that Inspect has read.
func (t *Template) Variables() []Named { return t.variables }

// Locals returns the locals in the order of their names.
func (t *Template) Locals() []Named { return t.locals }

// Outlines returns the build blocks in the order of the template.
func (t *Template) Outlines() []*Outline { return t.outlines }

// Requirements returns the plugins that packer blocks require.
func (t *Template) Requirements() []Requirement { return t.requirements }

// Evaluate evaluates an expression that may refer to whatever the template
// declares. name stands for the file in findings.
func (t *Template) Evaluate(expression, name string) (cty.Value, hcl.Diagnostics) {
	if err := functions.CheckSource([]byte(expression)); err != nil {
		return cty.DynamicVal, hcl.Diagnostics{failure(nil, "Expression too large or too deep", "The expression is refused: %s.", err)}
	}
	expr, diags := hclsyntax.ParseExpression([]byte(expression), name, hcl.InitialPos)
	if diags.HasErrors() {
		return cty.DynamicVal, diags
	}
	return expr.Value(t.scope)
}

// outline remembers what a build block holds.
func (s *buildScope) outline() {
	o := &Outline{Name: s.name, Description: s.description, Bakes: s.bakes}
	for _, i := range s.items {
		switch b := i.block; b.Type {
		case "provisioner":
			o.Steps = append(o.Steps, s.part(Provisioner, b))
		case "error-cleanup-provisioner":
			p := s.part(Provisioner, b)
			o.ErrorCleanup = &p
		case "spec":
			o.Steps = append(o.Steps, Part{Kind: Spec, Type: "spec", Component: "spec", Name: b.Labels[0], Range: b.DefRange})
		case "post-processor":
			o.Chains = append(o.Chains, []Part{s.part(PostProcessor, b)})
		case "post-processors":
			content, _ := config.Content(b.Body, chainSchema) // the bakes report what is wrong
			var chain []Part
			for _, b := range content.Blocks {
				chain = append(chain, s.part(PostProcessor, b))
			}
			o.Chains = append(o.Chains, chain)
		}
	}
	s.l.t.outlines = append(s.l.t.outlines, o)
}

func (s *buildScope) part(kind StepKind, b *hcl.Block) Part {
	p := Part{Kind: kind, Type: b.Labels[0], Range: b.DefRange}
	p.Component, _ = s.l.canonical(p.Type)
	content, _, _ := b.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "name"}}})
	if a := content.Attributes["name"]; a != nil {
		v, diags := a.Expr.Value(s.ctx)
		if v, err := convert.Convert(v, cty.String); err == nil && !diags.HasErrors() && v.IsKnown() && !v.IsNull() {
			p.Name = v.AsString()
		}
	}
	return p
}
