// Package datasources is what a template can read while it is evaluated. One
// package per data source stands below.
package datasources

import (
	"context"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// Source reads one data block. One value serves one block.
type Source interface {
	// Options is a pointer to the struct that the block is decoded into.
	Options() any
	// Type is the type of what Read returns, which is all that is known of it
	// where data is not read, as under `ingot validate`.
	Type() cty.Type
	// Check reports everything wrong with the options that can be known
	// without reading.
	Check() []config.Problem
	// Read returns the data.
	Read(ctx context.Context) (cty.Value, error)
}

// Secretive is a Source whose data may be secret.
type Secretive interface {
	Source
	// Secrets are the texts in what Read has returned that must not be shown.
	// They are known after Read, also when it has failed.
	Secrets() []string
}
