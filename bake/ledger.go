package bake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/registry"
)

// ledger is the registry's ledger as one bake's builder, or one of its
// post-processors, sees it. It also keeps the open leases at hand, so that giving
// them back needs no look-up.
type ledger struct {
	store   registry.Store
	bakeID  string
	builder string
	// final: nobody goes on with what is unfinished, so no lease is Resumable.
	final bool
	// kept: the leases stay open on purpose.
	kept bool
	// finished: the image exists, so leases that guard it stay until it is recorded.
	finished bool
	// unfinished: the image may still come to exist, so what Resume needs stays.
	unfinished bool
	// resume is added to leases that are Resumable.
	resume string

	mu     sync.Mutex
	leases []builders.Lease
}

func (l *ledger) Intend(ctx context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	switch {
	case data[builders.Resumable] == "":
	case l.final:
		data = maps.Clone(data)
		delete(data, builders.Resumable)
	case l.resume != "":
		data = maps.Clone(data)
		data[resumeKey] = l.resume
	}
	lease, err := l.store.Intend(ctx, builders.Lease{BakeID: l.bakeID, Builder: l.builder, Kind: kind, Name: name, Data: data})
	if err != nil {
		return lease, fmt.Errorf("write the lease of %s %s into the ledger: %w", kind, name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases = append(l.leases, lease)
	return lease, nil
}

func (l *ledger) Created(ctx context.Context, lease builders.Lease, externalID string) error {
	if err := l.store.Created(ctx, lease.ID, externalID); err != nil {
		return fmt.Errorf("write the id of %s %s into the ledger: %w", lease.Kind, lease.Name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.leases {
		if l.leases[i].ID == lease.ID {
			l.leases[i].ExternalID = externalID
		}
	}
	return nil
}

func (l *ledger) Released(ctx context.Context, lease builders.Lease) error {
	if err := l.store.Released(ctx, lease.ID); err != nil {
		return fmt.Errorf("strike the lease of %s %s: %w", lease.Kind, lease.Name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases = slices.DeleteFunc(l.leases, func(x builders.Lease) bool { return x.ID == lease.ID })
	return nil
}

func (l *ledger) Open() []builders.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.leases)
}

// renew writes what a resume has to know into the leases that have it. They are
// leased anew, since a lease does not change: of two, the newer counts.
func (l *ledger) renew(ctx context.Context, resume string) error {
	l.resume = resume
	for _, old := range l.Open() {
		if old.Data[resumeKey] == "" {
			continue
		}
		again, err := l.Intend(ctx, old.Kind, old.Name, old.Data)
		if err != nil {
			return err
		}
		if old.ExternalID != "" {
			if err := l.Created(ctx, again, old.ExternalID); err != nil {
				return err
			}
		}
		if err := l.Released(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

// settle strikes the leases that guarded what is finished, oldest first.
func (l *ledger) settle(ctx context.Context) error {
	for _, lease := range l.Open() {
		if lease.Data[builders.UntilRecorded] != "" {
			if err := l.Released(ctx, lease); err != nil {
				return err
			}
		}
	}
	return nil
}
