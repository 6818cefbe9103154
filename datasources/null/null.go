// Package null is the data source that gives back what it is given. It gives a
// name to a value, and holds it back until data sources are read.
package null

import (
	"context"

	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// Options are the options of a `data "null"` block.
type Options struct {
	// Input is the text to give back, as the attribute `output`.
	Input string `cfg:"input,required"`
}

// Source is the null data source.
type Source struct{ o Options }

// New returns a null data source.
func New() *Source { return &Source{} }

var _ datasources.Source = (*Source)(nil)

// Options implements datasources.Source.
func (s *Source) Options() any { return &s.o }

// Type implements datasources.Source.
func (s *Source) Type() cty.Type { return cty.Object(map[string]cty.Type{"output": cty.String}) }

// Check implements datasources.Source.
func (s *Source) Check() []config.Problem { return nil }

// Read implements datasources.Source.
func (s *Source) Read(context.Context) (cty.Value, error) {
	return cty.ObjectVal(map[string]cty.Value{"output": cty.StringVal(s.o.Input)}), nil
}
