package templates

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// value is a local or a data source: what is evaluated once, after all that it
// refers to.
type value struct {
	name      string // local.x or data.type.x
	at        hcl.Range
	expr      hcl.Expression // of a local
	block     *hcl.Block     // of a data source
	sensitive bool

	needs  []*value
	result cty.Value
	wrong  bool // it refers to what there is not
}

var localSchema = &hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "expression", Required: true}, {Name: "sensitive"}}}

// local declares the values of a local or a locals block.
func (l *loader) local(b *hcl.Block) {
	if b.Type == "locals" {
		attrs, diags := b.Body.JustAttributes()
		l.add(diags...)
		for _, a := range inOrder(attrs) {
			l.declareValue(&value{name: "local." + a.Name, at: a.NameRange, expr: a.Expr})
		}
		return
	}
	content, diags := config.Content(b.Body, localSchema)
	l.add(diags...)
	if content.Attributes["expression"] == nil {
		return
	}
	v := &value{name: "local." + b.Labels[0], at: b.DefRange, expr: content.Attributes["expression"].Expr}
	if a := content.Attributes["sensitive"]; a != nil {
		s := l.literal(a, cty.Bool)
		v.sensitive = s != cty.NilVal && s.True()
	}
	l.declareValue(v)
}

func (l *loader) declareValue(v *value) {
	if first, ok := l.values[v.name]; ok {
		what, name, _ := strings.Cut(v.name, ".")
		l.duplicate(v.at, what, name, first.at)
		return
	}
	l.values[v.name] = v
}

// evaluateValues evaluates the locals and the data sources, each after those
// it refers to.
func (l *loader) evaluateValues() {
	all := make([]*value, 0, len(l.values))
	for _, name := range slices.Sorted(maps.Keys(l.values)) {
		all = append(all, l.values[name])
	}
	for _, v := range all {
		v.result = cty.DynamicVal // so that what needs a wrong one is not blamed
		l.findNeeds(v, all)
	}
	sorted, cycle := order(all, func(v *value) []*value { return v.needs })
	if cycle != nil {
		l.add(failure(&cycle[0].at, "Cycle: "+arrows(cycle, func(v *value) string { return v.name }),
			"These values refer to one another, so none of them can be evaluated first."))
	}
	for _, v := range sorted {
		if v.wrong {
			continue
		}
		// Only what it refers to: the whole would be copied for each value.
		ctx := l.ctx.NewChild()
		ctx.Variables = objects(v.needs)
		if v.block != nil {
			v.result = l.readData(v.block, ctx)
			continue
		}
		var diags hcl.Diagnostics
		v.result, diags = v.expr.Value(ctx)
		l.add(diags...)
		if diags.HasErrors() {
			v.result = cty.DynamicVal
		}
		if v.sensitive {
			l.secret(v.result)
		}
	}
	maps.Copy(l.ctx.Variables, objects(all))
}

// objects makes the variables local and data of values that are known.
func objects(values []*value) map[string]cty.Value {
	locals := map[string]cty.Value{}
	data := map[string]map[string]cty.Value{}
	for _, v := range values {
		if v.block == nil {
			locals[strings.TrimPrefix(v.name, "local.")] = v.result
			continue
		}
		typ, name := v.block.Labels[0], v.block.Labels[1]
		if data[typ] == nil {
			data[typ] = map[string]cty.Value{}
		}
		data[typ][name] = v.result
	}
	types := map[string]cty.Value{}
	for typ, sources := range data {
		types[typ] = cty.ObjectVal(sources)
	}
	return map[string]cty.Value{"local": cty.ObjectVal(locals), "data": cty.ObjectVal(types)}
}

// findNeeds fills in what a value refers to.
func (l *loader) findNeeds(v *value, all []*value) {
	var refs []hcl.Traversal
	if v.block != nil {
		refs = references(v.block.Body)
	} else {
		refs = v.expr.Variables()
	}
	seen := map[*value]bool{}
	need := func(other *value) {
		if !seen[other] {
			seen[other] = true
			v.needs = append(v.needs, other)
		}
	}
	for _, t := range refs {
		name := t.RootName()
		last := 1 // the step that completes the name
		if name == "data" {
			last = 2
		} else if name != "local" {
			continue
		}
		for i := 1; i <= last && name != ""; i++ {
			if k := key(t, i); k != "" {
				name += "." + k
			} else {
				name = ""
			}
		}
		switch other := l.values[name]; {
		case other != nil:
			need(other)
		case name != "":
			v.wrong = true
			r := t.SourceRange()
			what, short, _ := strings.Cut(name, ".")
			l.add(failure(&r, "Unknown "+what, "There is no %s named %q.%s", what, short, config.DidYouMean(short, l.valueNames(what))))
		default: // the whole object, or a name that is computed
			for _, other := range all {
				if other != v && strings.HasPrefix(other.name, t.RootName()+".") {
					need(other)
				}
			}
		}
	}
}

// valueNames are the names of the locals or of the data sources.
func (l *loader) valueNames(what string) []string {
	var names []string
	for name := range l.values {
		if short, ok := strings.CutPrefix(name, what+"."); ok {
			names = append(names, short)
		}
	}
	return slices.Sorted(slices.Values(names))
}
