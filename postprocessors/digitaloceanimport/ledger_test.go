//go:build linux

package digitaloceanimport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/builders"
)

const bakeID = "bake1"

// ledger is builders.Leases in memory.
type ledger struct {
	mu   sync.Mutex
	last int
	open []builders.Lease
	// dead is set when the process has been killed: nothing is written any more.
	dead bool
	// before is asked before each write, and may kill.
	before func(what string)
}

var errDead = errors.New("the process is dead")

func (l *ledger) write(what string, do func()) error {
	if l.before != nil {
		l.before(what)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errDead
	}
	do()
	return nil
}

func (l *ledger) Intend(_ context.Context, kind, name string, data map[string]string) (lease builders.Lease, err error) {
	err = l.write("intend "+kind, func() {
		l.last++
		lease = builders.Lease{ID: fmt.Sprint(l.last), BakeID: bakeID, Builder: "digitalocean-import", Kind: kind, Name: name, Data: maps.Clone(data), Created: time.Now()}
		l.open = append(l.open, lease)
	})
	return lease, err
}

func (l *ledger) Created(_ context.Context, lease builders.Lease, id string) error {
	return l.write("created "+lease.Kind, func() {
		for i := range l.open {
			if l.open[i].ID == lease.ID {
				l.open[i].ExternalID = id
			}
		}
	})
}

func (l *ledger) Released(_ context.Context, lease builders.Lease) error {
	return l.write("released "+lease.Kind, func() {
		l.open = slices.DeleteFunc(l.open, func(o builders.Lease) bool { return o.ID == lease.ID })
	})
}

func (l *ledger) Open() []builders.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.open)
}

func (l *ledger) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

func (l *ledger) killed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// release gives back what is open, newest first, by p; with finished but for
// what guards the artifact. What fails stays.
func (l *ledger) release(ctx context.Context, p *PostProcessor, finished bool) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, lease := range slices.Backward(l.Open()) {
		if !finished || lease.Data[builders.UntilRecorded] == "" {
			if err := p.Release(ctx, lease); err != nil {
				errs = append(errs, fmt.Errorf("give back %s %s: %w", lease.Kind, lease.Name, err))
				continue
			}
		}
		errs = append(errs, l.Released(ctx, lease))
	}
	return errors.Join(errs...)
}

// clean checks that no lease is left.
func (l *ledger) clean(t *testing.T, what string) {
	t.Helper()
	for _, lease := range l.Open() {
		t.Errorf("%s: the lease of %s %s is open", what, lease.Kind, lease.Name)
	}
}
