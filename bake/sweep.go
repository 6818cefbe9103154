package bake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/postprocessors"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/templates"
)

// Leftover is a lease whose bake no longer runs.
type Leftover struct {
	registry.OwnedLease
	// Elsewhere: the bake ran where its process cannot be looked up from here,
	// so that it may be running still.
	Elsewhere bool
}

// Leftovers are the open leases whose bakes do not run any more.
func Leftovers(ctx context.Context, store registry.Store) ([]Leftover, error) {
	leases, err := store.OpenLeases(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	var out []Leftover
	alive := map[proc.Owner][2]bool{}
	for _, l := range leases {
		st, seen := alive[l.Bake.Owner]
		if !seen {
			a, known := proc.Alive(l.Bake.Owner)
			st = [2]bool{a, known}
			alive[l.Bake.Owner] = st
		}
		if l.Bake.Outcome == "" && st[0] {
			continue
		}
		out = append(out, Leftover{OwnedLease: l, Elsewhere: l.Bake.Outcome == "" && !st[1]})
	}
	return out, nil
}

// SweepOptions say how Sweep works.
type SweepOptions struct {
	Components Components
	Store      registry.Store
	Events     event.Sink
	DryRun     bool
	// Elsewhere includes leases whose process cannot be looked up from here.
	Elsewhere bool
	// Unfinished includes images that Resume could still finish.
	Unfinished bool
}

// Sweep gives back what bakes that no longer run have left, newest first, and
// returns what it gave back, or would with DryRun. What cannot be given back
// stays in the ledger and is part of the error.
func Sweep(ctx context.Context, o SweepOptions) ([]Leftover, error) {
	left, err := Leftovers(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	s := event.Scope{Sink: o.Events, Step: "sweep"}
	var done []Leftover
	var errs []error
	stuck := map[string]bool{}
	for i := len(left) - 1; i >= 0; i-- {
		l := left[i]
		if l.Elsewhere && !o.Elsewhere {
			s.Warn(fmt.Sprintf("%s %s belongs to a bake on %s that may be running still: left alone (-elsewhere gives it back)", l.Kind, l.Name, l.Bake.Owner.Host))
			stuck[l.BakeID] = true
			continue
		}
		if resumable(l.OwnedLease) && l.Bake.Outcome == "" && !o.Unfinished {
			kept, err := o.recorded(ctx, l.OwnedLease)
			if err != nil {
				errs = append(errs, err)
			}
			if !kept {
				stuck[l.BakeID] = true
				s.Warn(fmt.Sprintf("%s %s can still be finished: left alone (`ingot resume %s` finishes it, -unfinished gives it up)", l.Kind, l.Name, l.BakeID))
				continue
			}
		}
		if o.DryRun {
			done = append(done, l)
			continue
		}
		by, err := o.Components.releaser(l.Builder)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", l.Kind, l.Name, err))
			stuck[l.BakeID] = true
			continue
		}
		if err := o.release(ctx, by, l.OwnedLease); err != nil {
			errs = append(errs, fmt.Errorf("give back %s %s: %w", l.Kind, l.Name, err))
			stuck[l.BakeID] = true
			continue
		}
		done = append(done, l)
	}
	if !o.DryRun {
		errs = append(errs, endDead(ctx, o, stuck))
	}
	return done, errors.Join(errs...)
}

// releaser makes what gives leases of a type back: a builder, or else a post-processor.
func (c *Components) releaser(typ string) (postprocessors.Releaser, error) {
	if newBuilder, ok := c.Builders[typ]; ok {
		return newBuilder(), nil
	}
	if newP, ok := c.PostProcessors[typ]; ok {
		if r, ok := newP().(postprocessors.Releaser); ok {
			return r, nil
		}
		return noReleaser(typ), nil
	}
	return nil, fmt.Errorf("this Ingot has no builder %q to give it back", typ)
}

func (o *SweepOptions) release(ctx context.Context, by postprocessors.Releaser, l registry.OwnedLease) error {
	kept, err := o.recorded(ctx, l)
	if err != nil {
		return err
	}
	if !kept {
		if err := by.Release(ctx, l.Lease); err != nil {
			return err
		}
	}
	return o.Store.Released(ctx, l.ID)
}

// recorded says whether what the lease guards is an image in the registry: its
// bake died after recording it, before it could strike the lease. What a
// post-processor makes is never there.
func (o *SweepOptions) recorded(ctx context.Context, l registry.OwnedLease) (bool, error) {
	if _, ok := o.Components.Builders[l.Builder]; !ok || l.Data[builders.UntilRecorded] == "" {
		return false, nil
	}
	versions, err := o.Store.Versions(ctx, l.Bake.Image)
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask whether the image is recorded: %w", err)
	}
	for _, v := range versions {
		for _, a := range v.Artifacts {
			if a.BakeID == l.BakeID {
				return true, nil
			}
		}
	}
	return false, nil
}

// endDead ends the bakes whose processes are gone and that owe nothing any more.
func endDead(ctx context.Context, o SweepOptions, stuck map[string]bool) error {
	bakes, err := o.Store.OpenBakes(ctx)
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	var errs []error
	for _, b := range bakes {
		alive, known := proc.Alive(b.Owner)
		if alive || (!known && !o.Elsewhere) || stuck[b.ID] {
			continue
		}
		errs = append(errs, o.Store.EndBake(ctx, b.ID, "swept"))
	}
	return errors.Join(errs...)
}

// SweepSource gives back what bakes of one source have left for longer than
// olderThan, by what its platform itself knows: for when the ledger is gone,
// as with a CI runner that vanished. What belongs to a bake that the ledger
// here knows to be running is left alone, however old it is.
func SweepSource(ctx context.Context, b *templates.Bake, olderThan time.Duration, o SweepOptions) ([]builders.Lease, error) {
	newBuilder, ok := o.Components.Builders[b.Component.Type]
	if !ok {
		return nil, fmt.Errorf("there is no builder %q", b.Component.Type)
	}
	builder := newBuilder()
	if d := b.Component.Decode(builder.Options(), nil); d.HasErrors() {
		return nil, d
	}
	found, err := builder.Orphans(ctx, olderThan)
	if err != nil {
		return nil, fmt.Errorf("look for what %s.%s has left: %w", b.Type, b.Source, err)
	}
	bakes, err := o.Store.OpenBakes(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	running := map[string]bool{}
	for _, k := range bakes {
		alive, known := proc.Alive(k.Owner)
		running[k.ID] = alive || !known && !o.Elsewhere
	}
	s := event.Scope{Sink: o.Events, Step: "sweep"}
	var done []builders.Lease
	var errs []error
	source := b.Type + "." + b.Source
	for _, l := range slices.Backward(found) {
		if of := l.Data[builders.SourceKey]; of != "" && of != source {
			continue
		}
		if running[l.BakeID] {
			s.Warn(fmt.Sprintf("%s %s belongs to a bake that may be running: left alone", l.Kind, cmp.Or(l.ExternalID, l.Name)))
			continue
		}
		if !o.DryRun {
			if err := builder.Release(ctx, l); err != nil {
				errs = append(errs, fmt.Errorf("give back %s %s: %w", l.Kind, cmp.Or(l.ExternalID, l.Name), err))
				continue
			}
		}
		done = append(done, l)
	}
	return done, errors.Join(errs...)
}
