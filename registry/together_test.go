package registry

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"testing"
)

// Writes that are made together are as good as those that are made alone: what
// one is refused, or spoils, is nothing to the others.
func TestTogether(t *testing.T) {
	for name, bad := range map[string]func(*sql.Tx) error{
		"refused": func(*sql.Tx) error { return refuse(ErrConflict, "no") },
		"spoiled": func(tx *sql.Tx) error { // as an interrupt does
			_, err := tx.Exec("ROLLBACK")
			return errors.Join(refuse(ErrConflict, "interrupted"), err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), filepath.Join(t.TempDir(), "registry.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			db := s
			if _, err := db.db.Exec("CREATE TABLE written (n INTEGER)"); err != nil {
				t.Fatal(err)
			}
			const n, third = 5, 2
			txs := map[*sql.Tx]bool{}
			var all []*entry
			for i := range n {
				all = append(all, &entry{t.Context(), "an entry", func(tx *sql.Tx) error {
					txs[tx] = true
					if _, err := tx.Exec("INSERT INTO written VALUES (?)", i); err != nil {
						return err
					}
					if i == third {
						return bad(tx)
					}
					return nil
				}, make(chan error, 1)})
			}
			db.commit(all)
			for i, e := range all {
				if err := <-e.done; (err != nil) != (i == third) || err != nil && !errors.Is(err, ErrConflict) {
					t.Errorf("entry %d: %v", i, err)
				}
			}
			if name == "refused" && len(txs) != 1 {
				t.Errorf("%d transactions for what goes into one", len(txs))
			}
			rows, err := db.db.Query("SELECT n FROM written ORDER BY n")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			var got []int
			for rows.Next() {
				var i int
				if err := rows.Scan(&i); err != nil {
					t.Fatal(err)
				}
				got = append(got, i)
			}
			if want := []int{0, 1, 3, 4}; !slices.Equal(got, want) {
				t.Errorf("written are %v, want %v", got, want)
			}
		})
	}
}

// Who has given up is not written, and does not wait for who is before.
func TestTogetherGivenUp(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db := s
	going, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- db.note(t.Context(), "the first", func(*sql.Tx) error { close(going); <-release; return nil })
	}()
	<-going
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = db.note(ctx, "the second", func(*sql.Tx) error { t.Error("it is written"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
