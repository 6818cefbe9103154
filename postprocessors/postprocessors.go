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
	Events   event.Scope
}
