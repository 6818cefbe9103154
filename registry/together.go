package registry

import (
	"context"
	"database/sql"
	"slices"
	"sync"
)

// together commits writes that are wanted at the same time at once: a commit
// waits for the disk, and the ledger of many bakes would wait once for each lease.
type together struct {
	mu      sync.Mutex
	waiting []*entry
	busy    bool // somebody commits, and takes those who wait next
}

// entry is one write of a common transaction.
type entry struct {
	ctx  context.Context
	what string
	f    func(*sql.Tx) error
	done chan error
}

// maxTogether bounds one transaction, so that nobody waits long for others.
const maxTogether = 64

// note is write for what must be quick while many bakes do the same. Nobody
// suffers from another's error, and nothing is told to be written before it is on the disk.
func (s *SQLite) note(ctx context.Context, what string, f func(*sql.Tx) error) error {
	e := &entry{ctx, what, f, make(chan error, 1)}
	g := &s.together
	g.mu.Lock()
	g.waiting = append(g.waiting, e)
	if !g.busy {
		g.busy = true
		go s.commitTogether()
	}
	g.mu.Unlock()
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.waiting, e)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i >= 0 {
		return s.explain(what, ctx.Err())
	}
	return <-e.done // it is under way
}

func (s *SQLite) commitTogether() {
	g := &s.together
	for {
		g.mu.Lock()
		n := min(len(g.waiting), maxTogether)
		these := slices.Clone(g.waiting[:n])
		g.waiting = slices.Delete(g.waiting, 0, n)
		g.busy = n > 0
		g.mu.Unlock()
		switch n {
		case 0:
			return
		case 1:
			these[0].done <- s.write(these[0].ctx, these[0].what, these[0].f)
		default:
			s.commit(these)
		}
	}
}

// commit makes all writes in one transaction, or, when one has spoiled it for
// the others, each in its own.
func (s *SQLite) commit(these []*entry) {
	errs := make([]error, len(these))
	spoiled := false
	err := s.write(context.Background(), "write leases", func(tx *sql.Tx) error {
		for i, e := range these {
			if _, err := tx.Exec("SAVEPOINT entry"); err != nil {
				spoiled = true
				return err
			}
			end := "RELEASE entry"
			if errs[i] = e.f(tx); errs[i] != nil {
				end = "ROLLBACK TO entry; RELEASE entry"
			}
			// What is interrupted takes the whole transaction with it.
			if _, err := tx.Exec(end); err != nil {
				spoiled = true
				return err
			}
		}
		return nil
	})
	for i, e := range these {
		switch {
		case spoiled:
			e.done <- s.write(e.ctx, e.what, e.f)
		case err != nil:
			e.done <- err
		default:
			e.done <- s.explain(e.what, errs[i])
		}
	}
}
