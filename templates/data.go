package templates

import (
	"context"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// readData is the value of a data block. Where data is not read, or cannot be,
// it is an unknown value, of the source's type as far as there is one.
func (l *loader) readData(b *hcl.Block, ctx *hcl.EvalContext) cty.Value {
	newSource, ok := l.o.Datasources[b.Labels[0]]
	if !ok {
		names := slices.Sorted(maps.Keys(l.o.Datasources))
		l.add(failure(&b.LabelRanges[0], "Unknown data source type "+quote(b.Labels[0]), "This Ingot has these: %v.%s%s",
			names, config.DidYouMean(b.Labels[0], names), l.belongsTo(b.Labels[0])))
		return cty.DynamicVal
	}
	source := newSource()
	unknown := cty.UnknownVal(source.Type())
	c := l.component(b, b.Labels[0], b.Body, ctx, l.env("", ""))
	diags := c.Decode(source.Options(), nil)
	complete := !diags.HasErrors()
	l.addKnown(diags)
	if complete {
		diags = c.Diagnose(source.Check())
		l.add(diags...)
	}
	if !complete || diags.HasErrors() || !l.o.EvaluateData {
		return unknown
	}
	from := l.o.Context
	if from == nil {
		from = context.Background()
	}
	v, err := source.Read(from)
	if secretive, ok := source.(datasources.Secretive); ok {
		for _, secret := range secretive.Secrets() {
			l.t.hide(secret)
		}
	}
	if err != nil {
		l.add(failure(&b.DefRange, "Data source could not be read", "%s: %s.", title(b), err))
		return unknown
	}
	return v
}
