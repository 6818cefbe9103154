// Package postprocessors is what happens to an artifact after the image
// exists. One package per post-processor stands below.
package postprocessors

import (
	"context"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/render"
)

// PostProcessor runs one post-processor block on one artifact.
type PostProcessor interface {
	Options() any
	Check(ctx context.Context, env *Env) []config.Problem
	// Process returns the artifact for the next in the chain and whether its
	// input must be kept. A failure never destroys the input.
	Process(ctx context.Context, env *Env, in *builders.Artifact) (out *builders.Artifact, keep bool, err error)
}

// Releaser is a PostProcessor that leases what it creates. When Process has
// failed, the engine has it release what is still open, newest first; when the
// bake has died, a new value releases it, with no option decoded. The name of
// its type must not be a builder's: that is how a lease finds it.
type Releaser interface {
	// Release gives one leased resource back. It is idempotent, also after a
	// crash at any point: to release what is gone, or never came to be, is success.
	Release(ctx context.Context, l builders.Lease) error
}

// Env is what a post-processor may know about its bake.
type Env struct {
	BakeID                 string
	BuildName, BuilderType string
	RunID                  string // PACKER_RUN_UUID
	Dir                    string
	Force                  bool
	// Template is what {{timestamp}} and the like say in strings that the
	// component renders itself.
	Template render.Env
	// Leases is the bake's ledger as this post-processor sees it: its own leases,
	// for a Releaser. Those with builders.UntilRecorded guard what it makes: they
	// are struck once Process has returned that. Nothing of it is Resumable: who
	// fails has failed. Nil for Check.
	Leases builders.Leases
	Events event.Scope
}
