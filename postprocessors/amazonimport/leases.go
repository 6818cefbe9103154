package amazonimport

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/builders"
)

// leases is a ledger that lasts as long as the process: post-processors have no other.
type leases struct {
	bake string
	mu   sync.Mutex
	all  []builders.Lease
}

var _ builders.Leases = (*leases)(nil)

func newLeases(bake string) *leases { return &leases{bake: bake} }

func (s *leases) Intend(_ context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := builders.Lease{ID: fmt.Sprint(len(s.all) + 1), BakeID: s.bake, Builder: "amazon-import", Kind: kind, Name: name, Data: data, Created: time.Now()}
	s.all = append(s.all, l)
	return l, nil
}

func (s *leases) Created(_ context.Context, l builders.Lease, externalID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.all {
		if s.all[i].ID == l.ID {
			s.all[i].ExternalID = externalID
		}
	}
	return nil
}

func (s *leases) Released(_ context.Context, l builders.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.all {
		if s.all[i].ID == l.ID {
			s.all[i].Kind = "" // the ids of the others stay theirs
		}
	}
	return nil
}

func (s *leases) Open() []builders.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.all), func(l builders.Lease) bool { return l.Kind == "" })
}
