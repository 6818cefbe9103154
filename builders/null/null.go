// Package null is the builder that makes nothing: it connects to a machine that
// is there already, and provisions it. With communicator = "none" a build of it
// runs what works on this host, such as the shell-local provisioner.
package null

import (
	"context"
	"maps"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// Builder implements builders.Builder.
type Builder struct{ o Options }

// New makes a builder for one bake.
func New() *Builder { return &Builder{Options{communicator.Defaults()}} }

var _ builders.Builder = (*Builder)(nil)

// Options implements builders.Builder.
func (b *Builder) Options() any { return &b.o }

// Check implements builders.Builder.
func (b *Builder) Check(_ context.Context, env *builders.CheckEnv) []config.Problem {
	return b.o.Check(env.Dir, communicator.Rules{Host: true, User: true, Login: true})
}

// Boot implements builders.Builder. It connects to the machine, if there is one.
func (b *Builder) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	run.Values["ID"] = id
	m, values, err := communicator.Connect(ctx, &b.o.Options, communicator.Target{Dir: run.Dir}, run.Events)
	if err != nil {
		return nil, err
	}
	maps.Copy(run.Values, values)
	return m, nil
}

const id = "Null"

// Snapshot implements builders.Builder. Nothing comes of the bake, so nothing
// is recorded.
func (b *Builder) Snapshot(ctx context.Context, _ *builders.Run) (*builders.Artifact, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &builders.Artifact{BuilderID: "fnoeding.null", ID: id, Text: "Did not export anything. This is the null builder"}, nil
}

// Release implements builders.Builder. The builder leases nothing.
func (b *Builder) Release(context.Context, builders.Lease) error { return nil }

// Orphans implements builders.Builder.
func (b *Builder) Orphans(context.Context, time.Duration) ([]builders.Lease, error) { return nil, nil }
