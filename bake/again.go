package bake

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/specs"
	"github.com/ingotbuild/ingot/templates"
)

// canTell says whether a step's provisioner knows what it changes.
func (o *one) canTell(st *templates.Step) bool {
	newP, ok := o.Components.Provisioners[st.Component.Type]
	if !ok {
		return false
	}
	_, ok = newP().(provisioners.Idempotent)
	return ok
}

// runsAgain says whether a step is to be checked for idempotence.
func (o *one) runsAgain(st *templates.Step) bool {
	if st.Kind != templates.Provisioner || st == o.bake.ErrorCleanup {
		return false
	}
	return st.Idempotent || o.CheckIdempotent && o.canTell(st)
}

// cannotRunAgain names the provisioners that -check-idempotent passes over.
func (o *one) cannotRunAgain() (names []string) {
	for _, st := range o.bake.Steps {
		if st.Kind == templates.Provisioner && !o.canTell(st) {
			names = append(names, stepName(st))
		}
	}
	return names
}

// again runs a provisioner that has just ended well a second time. It is not
// tried again: what changed something in this run may well change nothing in
// the next.
func (o *one) again(ctx context.Context, st *templates.Step, s event.Scope) error {
	s.Say("once more: a second run must change nothing")
	return within(ctx, st, func(ctx context.Context) error {
		p, err := o.provision(ctx, st, s)
		switch {
		case o.brun.SkipMachine && errors.Is(err, machine.ErrNone):
			return nil // the first run was skipped, too
		case err != nil:
			return fmt.Errorf("it ran well once, but not a second time: %w", err)
		}
		x, ok := p.(provisioners.Idempotent)
		if !ok {
			return fmt.Errorf("a %s provisioner cannot be checked for idempotence: it cannot tell whether it has changed anything", st.Component.Type)
		}
		switch n, known := x.Changes(); {
		case !known:
			return errors.New("it cannot be said whether the second run changed anything, for it gave no account of that")
		case n > 0:
			return fmt.Errorf("it is not idempotent: the second run changed %d thing(s)", n)
		}
		s.Say("idempotent: the second run changed nothing")
		return nil
	})
}

// prove runs what a provisioner offers as the proof of its work.
func (o *one) prove(ctx context.Context, st *templates.Step, p provisioners.Provisioner, s event.Scope) error {
	x, ok := p.(provisioners.Proven)
	if !ok {
		return nil
	}
	src := x.Proof()
	if len(src) == 0 {
		return nil
	}
	name := stepName(st)
	f, d := hclsyntax.ParseConfig(src, "proof of "+name, hcl.InitialPos)
	if d.HasErrors() {
		return fmt.Errorf("the proof of this step cannot be read, which is a mistake in Ingot; please report it: %w", d)
	}
	sp, d := specs.Compile(f.Body, nil, name)
	if d.HasErrors() {
		return fmt.Errorf("the proof of this step cannot be read, which is a mistake in Ingot; please report it: %w", d)
	}
	return o.judge(ctx, st, sp, s)
}
