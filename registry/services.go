package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
)

// LoadService implements Store.
func (s *SQLite) LoadService(ctx context.Context, name string) (doc json.RawMessage, rev int64, err error) {
	err = s.read(ctx, "read service "+name, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, "SELECT doc, rev FROM service WHERE name = ?", name).Scan((*document)(&doc), &rev)
		if errors.Is(err, sql.ErrNoRows) {
			return needService(ctx, tx, name)
		}
		return err
	})
	return doc, rev, err
}

// needService gives a helpful error when there is no such service.
func needService(ctx context.Context, tx *sql.Tx, name string) error {
	names, err := collect(ctx, tx, scanString, "SELECT name FROM service ORDER BY name")
	if err != nil {
		return err
	}
	for _, other := range names {
		if other == name {
			return nil
		}
	}
	return notFound("service", name, names)
}

// SaveService implements Store.
func (s *SQLite) SaveService(ctx context.Context, name string, doc json.RawMessage, rev int64, event string) (int64, error) {
	if err := CheckService(name); err != nil {
		return 0, err
	}
	if !json.Valid(doc) {
		return 0, fmt.Errorf("service %s: its document is not valid JSON", name)
	}
	err := s.write(ctx, "save service "+name, func(tx *sql.Tx) error {
		query := "UPDATE service SET rev = rev + 1, doc = ?2, updated = ?3 WHERE name = ?1 AND rev = ?4"
		if rev == 0 {
			query = "INSERT INTO service (name, rev, doc, updated) VALUES (?1, ?4 + 1, ?2, ?3) ON CONFLICT DO NOTHING"
		}
		at := stamp(now())
		saved, err := changed(ctx, tx, query, name, document(doc), at, rev)
		if err != nil {
			return err
		}
		if !saved {
			if err := needService(ctx, tx, name); err != nil {
				return err
			}
			return refuse(ErrConflict, "service %s is no longer at revision %d: someone else has changed it; read it again", name, rev)
		}
		if event == "" {
			return nil
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO service_event (service, rev, event, at) VALUES (?, ?, ?, ?)", name, rev+1, event, at)
		return err
	})
	if err != nil {
		return 0, err
	}
	return rev + 1, nil
}

// Services implements Store.
func (s *SQLite) Services(ctx context.Context) (services []ServiceRow, err error) {
	scan := func(row scanner) (r ServiceRow, err error) {
		return r, row.Scan(&r.Name, &r.Rev, (*stamp)(&r.Updated), (*document)(&r.Doc))
	}
	err = s.read(ctx, "read the services", func(tx *sql.Tx) error {
		services, err = collect(ctx, tx, scan, "SELECT name, rev, updated, doc FROM service ORDER BY name")
		return err
	})
	return services, err
}

// ServiceEvents implements Store.
func (s *SQLite) ServiceEvents(ctx context.Context, name string) (events []ServiceEvent, err error) {
	scan := func(row scanner) (e ServiceEvent, err error) {
		return e, row.Scan(&e.Service, &e.Rev, &e.Event, (*stamp)(&e.At))
	}
	err = s.read(ctx, "read the log of service "+name, func(tx *sql.Tx) error {
		if err := needService(ctx, tx, name); err != nil {
			return err
		}
		events, err = collect(ctx, tx, scan, "SELECT service, rev, event, at FROM service_event WHERE service = ? ORDER BY rev", name)
		return err
	})
	return events, err
}
