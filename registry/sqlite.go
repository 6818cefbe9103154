package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite is a Store in one file of the local disk. A network file system does
// not do: processes on several machines would not see each other's locks.
type SQLite struct {
	path     string
	db       *sql.DB
	together together
}

var _ Store = (*SQLite)(nil)

// lockWait is how long one process waits for the transactions of others.
// They take milliseconds, and seconds together while the disk is overloaded;
// who holds the lock for longer is stopped or stuck.
const lockWait = time.Minute

// appID marks the file as Ingot's: "Ingo" in ASCII.
const appID = 0x496e676f

//go:embed schema/*.sql
var schema embed.FS

// Open opens the registry in the file path and makes it, readable by the user
// alone, when it is missing. A schema of an older Ingot is brought up to date,
// one of a newer Ingot is refused.
//
// No one may open and close the file by other means while a process has it
// open: on Unix that drops the process's locks.
func Open(ctx context.Context, path string) (*SQLite, error) {
	steps, err := schemaSteps()
	if err != nil {
		return nil, err
	}
	return open(ctx, path, steps)
}

// schemaSteps returns the scripts that make the schema; step n leads to version n+1.
func schemaSteps() ([]string, error) {
	names, err := fs.Glob(schema, "schema/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	steps := make([]string, len(names))
	for i, name := range names {
		text, err := schema.ReadFile(name)
		if err != nil {
			return nil, err
		}
		steps[i] = string(text)
	}
	return steps, nil
}

func open(ctx context.Context, path string, steps []string) (*SQLite, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if err := makeFile(path); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	// The connections of one process queue up in package sql, which is fair.
	// SQLite's own lock, on which they would otherwise wait, is not.
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, fmt.Errorf("open registry %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	s := &SQLite{path: path, db: db}
	if err := s.migrate(ctx, steps); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func dsn(path string) string {
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // C:/… is file:///C:/…
	}
	q := url.Values{
		"_txlock": {"immediate"},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", lockWait.Milliseconds()),
			"synchronous(FULL)", // the ledger survives a power cut
			"fullfsync(1)",      // on macOS, too
			"foreign_keys(1)",
		},
	}
	u := url.URL{Scheme: "file", Path: slashed, RawQuery: q.Encode()}
	return u.String()
}

// makeFile makes the file, which SQLite would make readable by others, and
// its directory.
func makeFile(path string) error {
	info, err := os.Stat(path)
	if err == nil {
		switch {
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s is not a file", path)
		case info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows":
			return os.Chmod(path, 0o600)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The file gets its name once it is closed: to close it while another
	// goroutine has opened it already would drop that one's locks.
	f, err := os.CreateTemp(dir, ".registry-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in dir survive a power cut.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such call, and needs none
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// migrate brings the schema to the version that steps lead to.
func (s *SQLite) migrate(ctx context.Context, steps []string) error {
	at, err := s.schemaVersion(ctx)
	if err != nil || at == len(steps) {
		return err
	}
	if at > len(steps) {
		return fmt.Errorf("registry %s has schema %d of a newer Ingot, this one knows up to %d: use that Ingot, or a newer one",
			s.path, at, len(steps))
	}
	if err := s.setWAL(ctx); err != nil {
		return err
	}
	return s.write(ctx, "bring the schema up to date", func(tx *sql.Tx) error {
		// Another process may have been faster.
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&at); err != nil {
			return err
		}
		for ; at < len(steps); at++ {
			if _, err := tx.ExecContext(ctx, steps[at]); err != nil {
				return fmt.Errorf("step %d: %w", at+1, err)
			}
			if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", at+1, appID)); err != nil {
				return err
			}
		}
		return nil
	})
}

// schemaVersion returns the schema's version; 0 for an empty file.
func (s *SQLite) schemaVersion(ctx context.Context) (int, error) {
	var version, app, tables int
	err := s.read(ctx, "read the schema's version", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)
			FROM pragma_user_version, pragma_application_id`).Scan(&version, &app, &tables)
	})
	if err == nil && app != appID && tables > 0 {
		err = fmt.Errorf("%s is a database, but not a registry of Ingot's", s.path)
	}
	return version, err
}

// setWAL turns on the write-ahead log, which the file keeps from then on.
// SQLite does not wait for locks here, so that of two processes that make the
// same registry one would be refused.
func (s *SQLite) setWAL(ctx context.Context) error {
	for deadline := time.Now().Add(lockWait); ; {
		_, err := s.db.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		if !isCode(err, sqlite3.SQLITE_BUSY) || time.Now().After(deadline) {
			return s.explain("turn on the write-ahead log", err)
		}
		select {
		case <-ctx.Done():
			return s.explain("turn on the write-ahead log", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Close gives up the file.
func (s *SQLite) Close() error { return s.explain("close", s.db.Close()) }

// write runs f in a transaction that holds the registry's one write lock from
// its start. what names it in errors.
func (s *SQLite) write(ctx context.Context, what string, f func(*sql.Tx) error) error {
	return s.transact(ctx, what, nil, f)
}

// read runs f in a transaction that sees one state of the registry.
func (s *SQLite) read(ctx context.Context, what string, f func(*sql.Tx) error) error {
	return s.transact(ctx, what, &sql.TxOptions{ReadOnly: true}, f)
}

func (s *SQLite) transact(ctx context.Context, what string, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, opts)
	if err != nil {
		return s.explain(what, err)
	}
	if err = f(tx); err == nil {
		err = tx.Commit()
	} else {
		tx.Rollback()
	}
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		err = ctx.Err() // package sql has rolled back for it
	}
	return s.explain(what, err)
}

// explain adds to an error what was done where, and what to do about it.
func (s *SQLite) explain(what string, err error) error {
	var refused *refusal
	if err == nil || errors.As(err, &refused) {
		return err
	}
	hint := ""
	switch {
	case isCode(err, sqlite3.SQLITE_BUSY):
		hint = fmt.Sprintf(": another process has held it for %v; look for one that is stopped or stuck", lockWait)
	case isCode(err, sqlite3.SQLITE_FULL):
		hint = ": make room on the disk"
	case isCode(err, sqlite3.SQLITE_CORRUPT), isCode(err, sqlite3.SQLITE_NOTADB):
		hint = ": the file is damaged; move it away and restore a copy"
	case isCode(err, sqlite3.SQLITE_READONLY), isCode(err, sqlite3.SQLITE_CANTOPEN):
		hint = ": the file and its directory must be writable"
	}
	return fmt.Errorf("registry %s: %s: %w%s", s.path, what, err, hint)
}

// isCode says whether err is SQLite's error code or one of its extensions.
func isCode(err error, code int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == code
}

// collect returns what scan makes of each row of a query.
func collect[T any](ctx context.Context, tx *sql.Tx, scan func(row scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(...any) error }

func scanString(row scanner) (s string, err error) { return s, row.Scan(&s) }

// changed runs a statement and says whether it changed anything.
func changed(ctx context.Context, tx *sql.Tx, query string, args ...any) (bool, error) {
	result, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// stamp is a time as the tables hold it. The zero time is NULL.
type stamp time.Time

const stampLayout = "2006-01-02T15:04:05.000000Z"

// now is the present with the precision of a stamp.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func (s stamp) Value() (driver.Value, error) {
	t := time.Time(s)
	if t.IsZero() {
		return nil, nil
	}
	return t.UTC().Format(stampLayout), nil
}

func (s *stamp) Scan(v any) error {
	if v == nil {
		*s = stamp{}
		return nil
	}
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("a time is %T, not text", v)
	}
	t, err := time.Parse(stampLayout, text)
	*s = stamp(t)
	return err
}

// stringMap is a map as the tables hold it: JSON, NULL when it is empty.
type stringMap map[string]string

func (m stringMap) Value() (driver.Value, error) {
	if len(m) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(m)
	return string(text), err
}

func (m *stringMap) Scan(v any) error {
	*m = nil
	if v == nil {
		return nil
	}
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("a map is %T, not text", v)
	}
	return json.Unmarshal([]byte(text), m)
}

// document is a JSON text as the tables hold it: NULL when it is empty.
type document json.RawMessage

func (d document) Value() (driver.Value, error) {
	if len(d) == 0 {
		return nil, nil
	}
	if !json.Valid(d) {
		return nil, errors.New("not valid JSON")
	}
	return string(d), nil
}

func (d *document) Scan(v any) error {
	text, ok := v.(string)
	if v != nil && !ok {
		return fmt.Errorf("a document is %T, not text", v)
	}
	*d = document(text)
	return nil
}
