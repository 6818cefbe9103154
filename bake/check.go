package bake

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/postprocessors"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/specs"
	"github.com/ingotbuild/ingot/templates"
)

// CheckOptions say where and for what a plan is checked.
type CheckOptions struct {
	Components Components
	Dir        string
	Force      bool
	// Validate: only what holds on any machine; see builders.CheckEnv. Options
	// whose values are not known yet are left for later.
	Validate bool

	artifacts map[string]cty.Value // of what a bake needs, once that has ended
}

// Check decodes every component of the plan and lets it look for everything
// that can be wrong, creating nothing. It reports all of it at once, and which
// bakes it concerns: the others may still be run, with Options.Refused.
func Check(ctx context.Context, plan *templates.Plan, o CheckOptions) (all hcl.Diagnostics, refused map[*templates.Bake]error) {
	refused = map[*templates.Bake]error{}
	// A cloud is asked about many bakes at once.
	found := make([]hcl.Diagnostics, len(plan.Bakes))
	var g errgroup.Group
	g.SetLimit(16)
	for i, b := range plan.Bakes {
		g.Go(func() error {
			found[i] = dedupe(checkBake(ctx, b, o))
			return nil
		})
	}
	_ = g.Wait() // there are no errors but those found
	for i, b := range plan.Bakes {
		if found[i].HasErrors() {
			refused[b] = found[i]
		}
		all = append(all, found[i]...)
	}
	return dedupe(all), refused
}

func checkBake(ctx context.Context, b *templates.Bake, o CheckOptions) hcl.Diagnostics {
	var all hcl.Diagnostics
	extra := withArtifacts(extraValues(b, nil, "<unknown>"), o.artifacts)
	// What another bake makes, and what a data source says that validate does
	// not read, is not known yet.
	lenient := o.Validate || len(b.Needs) > 0 && o.artifacts == nil
	discard := event.Scope{Sink: event.Discard}
	if newB, d := find(o.Components.Builders, "builder", b.Component); newB == nil {
		all = append(all, d)
	} else {
		x := newB()
		if _, ok := x.(builders.Proofer); !ok {
			for _, st := range b.Proofs {
				all = append(all, &hcl.Diagnostic{
					Severity: hcl.DiagError, Summary: fmt.Sprintf("A %s source cannot boot its image", b.Component.Type), Subject: st.After,
					Detail: fmt.Sprintf("Spec %q is to be checked on a machine that is booted from the finished image, which the %s builder cannot do. "+
						"Remove after, or leave this source out with except = [%q].", st.Name, b.Component.Type, b.Type+"."+b.Local),
				})
			}
		}
		all = append(all, check(b.Component, lenient, x.Options(), o.artifacts, func() []config.Problem {
			return x.Check(ctx, &builders.CheckEnv{Dir: o.Dir, Validate: o.Validate, Force: o.Force})
		})...)
	}
	env := &provisioners.Env{BuildName: b.Source, BuilderType: b.Type, Dir: o.Dir, Validate: o.Validate, Events: discard}
	steps := slices.Concat(b.Steps, b.Proofs)
	if b.ErrorCleanup != nil {
		steps = append(slices.Clip(steps), b.ErrorCleanup)
	}
	for _, st := range steps {
		if st.Kind == templates.Spec {
			_, d := specs.Compile(st.Component.Body, specContext(st, extra), st.Name)
			all = append(all, known(d, lenient)...)
			continue
		}
		newP, d := find(o.Components.Provisioners, "provisioner", st.Component)
		if newP == nil {
			all = append(all, d)
			continue
		}
		p := newP()
		if _, ok := p.(provisioners.Idempotent); st.Idempotent && !ok {
			all = append(all, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: fmt.Sprintf("A %s provisioner cannot be checked for idempotence", st.Component.Type),
				Detail:  "It cannot tell whether it has changed anything. Remove idempotent, and have the script or a spec check it.",
				Subject: st.Component.Range.Ptr(),
			})
		}
		all = append(all, check(st.Component, lenient, p.Options(), extra, func() []config.Problem { return p.Check(ctx, env) })...)
	}
	penv := &postprocessors.Env{BuildName: b.Source, BuilderType: b.Type, Dir: o.Dir, Force: o.Force, Events: discard}
	for _, chain := range b.PostProcess {
		for _, st := range chain {
			newP, d := find(o.Components.PostProcessors, "post-processor", st.Component)
			if newP == nil {
				all = append(all, d)
				continue
			}
			p := newP()
			all = append(all, check(st.Component, lenient, p.Options(), extra, func() []config.Problem { return p.Check(ctx, penv) })...)
		}
	}
	return all
}

// check decodes, and asks the component only when that went well: problems
// with options that were not read, or are not known yet, would be noise.
func check(c *templates.Component, lenient bool, options any, extra map[string]cty.Value, ask func() []config.Problem) hcl.Diagnostics {
	d := c.Decode(options, extra)
	if d.HasErrors() {
		return known(d, lenient)
	}
	return append(d, c.Diagnose(ask())...)
}

// known leaves out findings that are made because a value is not known yet,
// where that is no fault.
func known(d hcl.Diagnostics, lenient bool) hcl.Diagnostics {
	if !lenient {
		return d
	}
	return slices.DeleteFunc(d, config.BecauseUnknown)
}

func find[T any](table map[string]func() T, what string, c *templates.Component) (func() T, *hcl.Diagnostic) {
	if f, ok := table[c.Type]; ok {
		return f, nil
	}
	names := make([]string, 0, len(table))
	for n := range table {
		names = append(names, n)
	}
	slices.Sort(names)
	detail := fmt.Sprintf("There are %s.", strings.Join(names, ", "))
	if belongs := c.BelongsTo(); belongs != "" {
		detail = belongs + " " + detail
	} else if near := config.Suggest(c.Type, names); near != "" {
		detail = fmt.Sprintf("Did you mean %q? %s", near, detail)
	}
	return nil, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: fmt.Sprintf("Unknown %s type %q", what, c.Type), Detail: detail, Subject: c.Range.Ptr(),
	}
}

// dedupe drops findings that two bakes of one source or block share.
func dedupe(all hcl.Diagnostics) hcl.Diagnostics {
	seen := map[string]bool{}
	var out hcl.Diagnostics
	for _, d := range all {
		key := fmt.Sprint(d.Severity, d.Summary, d.Detail, d.Subject)
		if !seen[key] {
			seen[key] = true
			out = append(out, d)
		}
	}
	return out
}
