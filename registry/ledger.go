package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/ingotbuild/ingot/builders"
)

// BeginBake implements Store.
func (s *SQLite) BeginBake(ctx context.Context, b Bake) error {
	if b.ID == "" || strings.Trim(b.ID, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return fmt.Errorf("bake id %.80q: use lower-case letters and digits", b.ID)
	}
	if b.Image != "" {
		if err := CheckImage(b.Image); err != nil {
			return err
		}
	}
	if b.Started.IsZero() {
		b.Started = now()
	}
	return s.note(ctx, "begin bake "+b.ID, func(tx *sql.Tx) error {
		isNew, err := changed(ctx, tx, `INSERT INTO bake (id, name, image, template, host, boot_id, pid, start_ticks, started)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			b.ID, b.Name, b.Image, b.Template, b.Owner.Host, b.Owner.BootID, b.Owner.PID, b.Owner.StartTicks, stamp(b.Started))
		if err == nil && !isNew {
			return refuse(ErrConflict, "bake %s is in the ledger already", b.ID)
		}
		return err
	})
}

// EndBake implements Store.
func (s *SQLite) EndBake(ctx context.Context, id, outcome string) error {
	switch outcome {
	case "success", "failed", "cancelled", "swept":
	default:
		return fmt.Errorf("outcome %q of bake %s: it is success, failed, cancelled or swept", outcome, id)
	}
	return s.note(ctx, "end bake "+id, func(tx *sql.Tx) error {
		before, err := outcomeOf(ctx, tx, id)
		switch {
		case err != nil || before == outcome:
			return err
		case before != "":
			return refuse(ErrConflict, "bake %s has ended already, as %s", id, before)
		}
		_, err = tx.ExecContext(ctx, "UPDATE bake SET ended = ?, outcome = ? WHERE id = ?", stamp(now()), outcome, id)
		return err
	})
}

// AdoptBake implements Store.
func (s *SQLite) AdoptBake(ctx context.Context, id string, from, to Owner) error {
	return s.write(ctx, "adopt bake "+id, func(tx *sql.Tx) error {
		outcome, err := outcomeOf(ctx, tx, id)
		if err != nil {
			return err
		}
		if outcome != "" {
			return refuse(ErrConflict, "bake %s has ended, as %s", id, outcome)
		}
		ours, err := changed(ctx, tx, `UPDATE bake SET host = ?, boot_id = ?, pid = ?, start_ticks = ?
			WHERE id = ? AND host = ? AND boot_id = ? AND pid = ? AND start_ticks = ?`,
			to.Host, to.BootID, to.PID, to.StartTicks, id, from.Host, from.BootID, from.PID, from.StartTicks)
		if err == nil && !ours {
			return refuse(ErrConflict, "bake %s belongs to another process by now", id)
		}
		return err
	})
}

// outcomeOf returns how a bake ended; empty while it runs.
func outcomeOf(ctx context.Context, tx *sql.Tx, id string) (outcome string, err error) {
	err = tx.QueryRowContext(ctx, "SELECT outcome FROM bake WHERE id = ?", id).Scan(&outcome)
	if errors.Is(err, sql.ErrNoRows) {
		err = refuse(ErrNotFound, "bake %q is not in the ledger", id)
	}
	return outcome, err
}

// Intend implements Store.
func (s *SQLite) Intend(ctx context.Context, l builders.Lease) (builders.Lease, error) {
	id, err := uuid.NewV7() // its first bits are the time
	if err != nil {
		return builders.Lease{}, fmt.Errorf("make a lease's id: %w", err)
	}
	l.ID, l.Created = id.String(), now()
	err = s.note(ctx, fmt.Sprintf("lease %s %q", l.Kind, l.Name), func(tx *sql.Tx) error {
		outcome, err := outcomeOf(ctx, tx, l.BakeID)
		if err != nil {
			return err
		}
		if outcome != "" {
			return refuse(ErrConflict, "bake %s may create no %s: it has ended, as %s", l.BakeID, l.Kind, outcome)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO lease (id, bake, builder, kind, name, external_id, data, created)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			l.ID, l.BakeID, l.Builder, l.Kind, l.Name, l.ExternalID, stringMap(l.Data), stamp(l.Created))
		return err
	})
	if err != nil {
		return builders.Lease{}, err
	}
	return l, nil
}

// Created implements Store.
func (s *SQLite) Created(ctx context.Context, leaseID, externalID string) error {
	return s.note(ctx, "add an id to lease "+leaseID, func(tx *sql.Tx) error {
		before, err := externalIDOf(ctx, tx, leaseID)
		switch {
		case err != nil || before == externalID:
			return err
		case before != "":
			return refuse(ErrConflict, "lease %s is for %s, it can't be for %s too", leaseID, before, externalID)
		}
		_, err = tx.ExecContext(ctx, "UPDATE lease SET external_id = ? WHERE id = ?", externalID, leaseID)
		return err
	})
}

// Released implements Store.
func (s *SQLite) Released(ctx context.Context, leaseID string) error {
	return s.note(ctx, "strike lease "+leaseID, func(tx *sql.Tx) error {
		if _, err := externalIDOf(ctx, tx, leaseID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE lease SET released = ? WHERE id = ? AND released IS NULL", stamp(now()), leaseID)
		return err
	})
}

// externalIDOf returns the platform's id for a lease; empty while it has none.
func externalIDOf(ctx context.Context, tx *sql.Tx, leaseID string) (id string, err error) {
	err = tx.QueryRowContext(ctx, "SELECT external_id FROM lease WHERE id = ?", leaseID).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = refuse(ErrNotFound, "lease %q is not in the ledger", leaseID)
	}
	return id, err
}

const bakeColumns = "bake.id, bake.name, bake.image, bake.template, host, boot_id, pid, start_ticks, started, ended, outcome"

func bakeFields(b *Bake) []any {
	return []any{&b.ID, &b.Name, &b.Image, &b.Template, &b.Owner.Host, &b.Owner.BootID, &b.Owner.PID, &b.Owner.StartTicks,
		(*stamp)(&b.Started), (*stamp)(&b.Ended), &b.Outcome}
}

// OpenLeases implements Store.
func (s *SQLite) OpenLeases(ctx context.Context) (leases []OwnedLease, err error) {
	scan := func(row scanner) (l OwnedLease, err error) {
		fields := []any{&l.ID, &l.Builder, &l.Kind, &l.Lease.Name, &l.ExternalID, (*stringMap)(&l.Data), (*stamp)(&l.Created)}
		err = row.Scan(append(fields, bakeFields(&l.Bake)...)...)
		l.BakeID = l.Bake.ID
		return l, err
	}
	err = s.read(ctx, "read the open leases", func(tx *sql.Tx) error {
		leases, err = collect(ctx, tx, scan, `SELECT lease.id, builder, kind, lease.name, external_id, data, created, `+bakeColumns+`
			FROM lease JOIN bake ON bake.id = lease.bake WHERE released IS NULL ORDER BY lease.id`)
		return err
	})
	return leases, err
}

// OpenBakes implements Store.
func (s *SQLite) OpenBakes(ctx context.Context) (bakes []Bake, err error) {
	scan := func(row scanner) (b Bake, err error) { return b, row.Scan(bakeFields(&b)...) }
	err = s.read(ctx, "read the open bakes", func(tx *sql.Tx) error {
		bakes, err = collect(ctx, tx, scan, "SELECT "+bakeColumns+" FROM bake WHERE ended IS NULL ORDER BY started, id")
		return err
	})
	return bakes, err
}
