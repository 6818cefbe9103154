package bake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/registry"
)

// BootOptions say which machine Boot is to boot.
type BootOptions struct {
	// Builder boots it. Its options are decoded, and were found good.
	Builder builders.Builder
	// Type is the builder's name in Components, by which Sweep finds it.
	Type string
	// Name is what the ledger says the machine is for.
	Name   string
	Store  registry.Store
	Dir    string // where relative paths start
	Events event.Scope
}

// Boot boots a machine that no image comes of. What it takes stands in the
// ledger first, as with a bake, and is given back by close, which may be called
// once, also after ctx has ended; or by Sweep when this process is gone before.
func Boot(ctx context.Context, o BootOptions) (_ machine.Machine, close func() error, err error) {
	owner, err := proc.Self()
	if err != nil {
		return nil, nil, fmt.Errorf("say in the ledger who boots: %w", err)
	}
	l := &ledger{store: o.Store, bakeID: randomID(20), builder: o.Type}
	if err := o.Store.BeginBake(ctx, registry.Bake{ID: l.bakeID, Name: o.Name, Owner: owner}); err != nil {
		return nil, nil, fmt.Errorf("note the machine in the ledger: %w", err)
	}
	release := func(outcome string) error {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		var errs []error
		open := l.Open()
		for i := len(open) - 1; i >= 0; i-- {
			if err := o.Builder.Release(cctx, open[i]); err != nil {
				errs = append(errs, fmt.Errorf("give back %s %s: %w; it stays in the ledger, `ingot sweep` tries again", open[i].Kind, open[i].Name, err))
				continue
			}
			errs = append(errs, l.Released(cctx, open[i]))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		return o.Store.EndBake(cctx, l.bakeID, outcome)
	}
	m, err := o.Builder.Boot(ctx, &builders.Run{
		BakeID: l.bakeID, Name: o.Name, Type: o.Type, Dir: o.Dir, Created: time.Now(), Leases: l, Events: o.Events, Values: map[string]string{},
	})
	if err != nil {
		return nil, nil, errors.Join(cause(ctx, err), release("failed"))
	}
	return m, func() error { return errors.Join(m.Close(), release("success")) }, nil
}
