package bake

import (
	"context"
	"fmt"
	"maps"

	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/templates"
)

// inOrder runs the bakes, each when all it needs have ended well, and as far as
// that and the limit allow in the order of the template.
func (r *run) inOrder(ctx context.Context, bakes []*templates.Bake) []Result {
	limit := r.Parallel
	if limit < 1 {
		limit = len(bakes)
	}
	type note struct {
		bake   int
		result *Result // nil: only the place is free
	}
	notes := make(chan note)
	results := make([]Result, len(bakes))
	started := make([]bool, len(bakes))
	running := 0
	for left := len(bakes); left > 0; {
		for i, b := range bakes {
			if started[i] || running == limit || !r.ready(b) {
				continue
			}
			started[i] = true
			running++
			err := r.obstacle(ctx, b)
			go func() {
				free := func() { notes <- note{bake: i} }
				var res Result
				if err != nil {
					res = r.skip(ctx, b, err)
					free()
				} else {
					res = r.bake(ctx, b, free)
				}
				notes <- note{i, &res}
			}()
		}
		n := <-notes
		if n.result == nil {
			running--
			continue
		}
		left--
		results[n.bake] = *n.result
		r.ended.Store(bakes[n.bake], n.result)
	}
	return results
}

// result is what a bake has come to; nil while it has not ended.
func (r *run) result(b *templates.Bake) *Result {
	v, _ := r.ended.Load(b)
	res, _ := v.(*Result)
	return res
}

func (r *run) ready(b *templates.Bake) bool {
	for _, n := range b.Needs {
		if r.result(n) == nil {
			return false
		}
	}
	return true
}

// obstacle is why a bake cannot begin, or nil.
func (r *run) obstacle(ctx context.Context, b *templates.Bake) error {
	if err := r.Refused[b]; err != nil {
		return err
	}
	for _, n := range b.Needs {
		switch {
		case r.result(n).Err == nil:
		case ctx.Err() != nil:
			return errCancelled
		default:
			return fmt.Errorf("not baked, because it needs %q, which failed", n.Name)
		}
	}
	return nil
}

// skip is a bake that cannot begin.
func (r *run) skip(ctx context.Context, b *templates.Bake, err error) Result {
	scope := event.Scope{Sink: r.Events, Bake: b.Name}
	scope.Emit(event.Event{Kind: event.BakeStarted})
	r.lines[b.Image].done(ctx, &one{run: r, bake: b}, nil)
	scope.Emit(event.Event{Kind: event.BakeEnded, Error: err.Error()})
	return Result{Name: b.Name, Err: err}
}

// artifacts are the variables by which a bake refers to what it needs; nil when
// it needs nothing.
func (r *run) artifacts(b *templates.Bake) map[string]cty.Value {
	if len(b.Needs) == 0 {
		return nil
	}
	builds := b.Artifacts(func(n *templates.Bake) cty.Value { return artifact(r.result(n)) })
	return map[string]cty.Value{"build": cty.ObjectVal(builds)}
}

// artifact is a finished bake's artifact as the template sees it.
func artifact(res *Result) cty.Value {
	a := res.Artifact
	files := []cty.Value{}
	for _, f := range a.Files {
		files = append(files, cty.StringVal(f))
	}
	places := []cty.Value{}
	for _, p := range a.Places {
		places = append(places, cty.ObjectVal(map[string]cty.Value{
			"platform": cty.StringVal(p.Platform), "region": cty.StringVal(p.Region), "id": cty.StringVal(p.ID),
			"digest": cty.StringVal(p.Digest), "location": cty.StringVal(p.Location),
		}))
	}
	types := templates.ArtifactType.AttributeTypes()
	return cty.ObjectVal(map[string]cty.Value{
		"id": cty.StringVal(a.ID), "version": cty.StringVal(res.Version),
		"files": list(types["files"], files), "places": list(types["places"], places),
	})
}

func list(t cty.Type, values []cty.Value) cty.Value {
	if len(values) == 0 {
		return cty.ListValEmpty(t.ElementType())
	}
	return cty.ListVal(values)
}

// withArtifacts adds artifacts to the variable build.
func withArtifacts(extra, artifacts map[string]cty.Value) map[string]cty.Value {
	if artifacts == nil {
		return extra
	}
	build := artifacts["build"].AsValueMap()
	if build == nil {
		return extra
	}
	maps.Copy(build, extra["build"].AsValueMap())
	return map[string]cty.Value{"build": cty.ObjectVal(build)}
}

// checkNeedy checks a bake again whose options were not all known when the
// plan was checked.
func (r *run) checkNeedy(ctx context.Context, b *templates.Bake) error {
	if len(b.Needs) == 0 {
		return nil
	}
	o := CheckOptions{Components: r.Components, Dir: r.Dir, Force: r.Force, artifacts: r.artifacts(b)}
	if d := dedupe(checkBake(ctx, b, o)); d.HasErrors() {
		return d
	}
	return nil
}
