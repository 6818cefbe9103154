// Package shelllocal runs scripts on this host once the image exists.
package shelllocal

import (
	"context"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/internal/shelllocal"
	"github.com/ingotbuild/ingot/postprocessors"
)

// PostProcessor is the shell-local post-processor.
type PostProcessor struct{ o shelllocal.Options }

// New returns a shell-local post-processor with the default options.
func New() *PostProcessor { return &PostProcessor{} }

var _ postprocessors.PostProcessor = (*PostProcessor)(nil)

// Options implements postprocessors.PostProcessor.
func (p *PostProcessor) Options() any { return &p.o }

// Check implements postprocessors.PostProcessor.
func (p *PostProcessor) Check(_ context.Context, env *postprocessors.Env) []config.Problem {
	return p.o.Check(bake(env, nil))
}

// Process implements postprocessors.PostProcessor. It returns its input, which is always kept.
func (p *PostProcessor) Process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, bool, error) {
	err := p.o.Run(ctx, &shelllocal.Job{Bake: bake(env, in.Values), RunID: env.RunID, Events: env.Events})
	if err != nil {
		return nil, true, err
	}
	return in, true, nil
}

func bake(env *postprocessors.Env, values map[string]string) script.Bake {
	return script.Bake{BuildName: env.BuildName, BuilderType: env.BuilderType, Dir: env.Dir, Values: values, Template: env.Template}
}
