package templates

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/zclconf/go-cty/cty"
)

// Component is one block that is to be decoded into the options of a builder,
// a provisioner, a spec, a post-processor or a rollout.
type Component struct {
	// Type is the type of a source, provisioner, post-processor or data source;
	// "spec" or "rollout" for these. It is the first label, but for the types of
	// plugins that required_plugins gives another name.
	Type string
	// Plugin is the source address of the plugin that the type belongs to, when
	// required_plugins names it.
	Plugin string
	// Labels are all labels of the block.
	Labels []string
	// Range is the head of the block.
	Range hcl.Range
	// Body is what the block holds, without the attributes that every block of
	// its kind may have.
	Body hcl.Body
	// Context is what expressions in the body may refer to.
	Context *hcl.EvalContext

	block string // the block as an error names it: provisioner "shell"
	env   render.Env
}

// component makes a Component of a block. written is its type as the block has it.
func (l *loader) component(b *hcl.Block, written string, body hcl.Body, ctx *hcl.EvalContext, env render.Env) *Component {
	typ, plugin := l.canonical(written)
	return &Component{Type: typ, Plugin: plugin, Labels: b.Labels, Range: b.DefRange, Body: body, Context: ctx, block: title(b), env: env}
}

// RenderEnv is what the functions of Go templates say in this component, for
// strings that it renders itself.
func (c *Component) RenderEnv() render.Env { return c.env }

func title(b *hcl.Block) string {
	s := b.Type
	for _, label := range b.Labels {
		s += fmt.Sprintf(" %q", label)
	}
	return s
}

// Decode reads the block into an options struct, over the values it has, and
// renders the Go templates in its strings, except in fields tagged
// `render:"late"`. In these a name {{ .X }} must be one of the field's own, or
// of an attribute of build. extra holds further variables, such as build; an
// object that the context has too is extended by it. Components may be decoded at the same
// time, also several times.
func (c *Component) Decode(into any, extra map[string]cty.Value) hcl.Diagnostics {
	ctx := c.Context.NewChild()
	ctx.Variables = map[string]cty.Value{}
	for name, v := range extra {
		if base, ok := c.Context.Variables[name]; ok && isObject(base) && isObject(v) {
			merged := base.AsValueMap()
			maps.Copy(merged, v.AsValueMap())
			v = cty.ObjectVal(merged)
		}
		ctx.Variables[name] = v
	}
	body := dynblock.Expand(c.Body, ctx)
	diags := config.DecodeBlock(c.block, body, ctx, into)
	env := c.env
	if cleaner, ok := into.(render.Cleaner); ok {
		env.Clean = cleaner.CleanResourceName
	}
	errs := config.EachString(into, func(_, s string) (string, error) { return render.String(s, nil, env) })
	if build, ok := extra["build"]; ok {
		var known []string
		for name := range build.Type().AttributeTypes() {
			known = append(known, name)
		}
		config.EachLate(into, func(field config.Field, option, s string) {
			if err := render.CheckNames(s, append(known, field.Vars...), env); err != nil {
				errs = append(errs, config.OptionError{Option: option, Err: err})
			}
		})
	}
	for _, e := range errs {
		at := c.locate(body, e.Option)
		diags = append(diags, failure(&at, "Invalid Go template", "%q cannot be rendered: %s.", e.Option, e.Err))
	}
	return diags
}

func isObject(v cty.Value) bool {
	return v.Type().IsObjectType() && v.IsKnown() && !v.IsNull() && v.LengthInt() > 0
}

// Diagnose turns problems that a component found with its options into
// diagnostics that point at their places in the template.
func (c *Component) Diagnose(problems []config.Problem) hcl.Diagnostics {
	var diags hcl.Diagnostics
	body := dynblock.Expand(c.Body, c.Context)
	for _, p := range problems {
		at := c.Range
		if p.Option != "" {
			at = c.locate(body, p.Option)
		}
		d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: p.Summary, Detail: p.Detail, Subject: &at}
		if p.Warning {
			d.Severity = hcl.DiagWarning
		}
		diags = append(diags, d)
	}
	return diags
}

// locate finds an option in the body; an option that is not there, having its
// default, is found at the head of the block.
func (c *Component) locate(body hcl.Body, option string) hcl.Range {
	if at, ok := config.Locate(body, strings.Split(option, ".")); ok {
		return at
	}
	return c.Range
}

// overlay is a body some of whose arguments are replaced, as the override
// attribute of a provisioner does.
type overlay struct {
	hcl.Body
	values map[string]cty.Value
	at     hcl.Range // of the override
}

// Content is the content of the body with the arguments replaced.
func (o *overlay) Content(schema *hcl.BodySchema) (*hcl.BodyContent, hcl.Diagnostics) {
	content, diags := o.Body.Content(schema)
	taken := o.lay(content, schema)
	for _, name := range slices.Sorted(maps.Keys(o.values)) {
		if !taken[name] {
			diags = append(diags, failure(&o.at, "Unsupported argument", "An argument named %q is not expected here.", name))
		}
	}
	return content, diags
}

// PartialContent is Content without the names that the schema does not have.
func (o *overlay) PartialContent(schema *hcl.BodySchema) (*hcl.BodyContent, hcl.Body, hcl.Diagnostics) {
	content, remain, diags := o.Body.PartialContent(schema)
	taken := o.lay(content, schema)
	left := maps.Clone(o.values)
	maps.DeleteFunc(left, func(name string, _ cty.Value) bool { return taken[name] })
	return content, &overlay{remain, left, o.at}, diags
}

// JustAttributes are the attributes of the body and the replaced ones.
func (o *overlay) JustAttributes() (hcl.Attributes, hcl.Diagnostics) {
	attrs, diags := o.Body.JustAttributes()
	attrs = maps.Clone(attrs)
	for name := range o.values {
		attrs[name] = o.attribute(name)
	}
	return attrs, diags
}

func (o *overlay) attribute(name string) *hcl.Attribute {
	return &hcl.Attribute{Name: name, Expr: hcl.StaticExpr(o.values[name], o.at), Range: o.at, NameRange: o.at}
}

// lay puts the replaced arguments that the schema has into content and tells
// which those are. They replace blocks of the same name too.
func (o *overlay) lay(content *hcl.BodyContent, schema *hcl.BodySchema) map[string]bool {
	taken := map[string]bool{}
	for _, a := range schema.Attributes {
		if _, ok := o.values[a.Name]; ok {
			taken[a.Name] = true
			content.Attributes[a.Name] = o.attribute(a.Name)
		}
	}
	content.Blocks = slices.DeleteFunc(content.Blocks, func(b *hcl.Block) bool {
		return taken[b.Type] || b.Type == "dynamic" && len(b.Labels) == 1 && taken[b.Labels[0]]
	})
	return taken
}
