package registry_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/registry/registrytest"
)

// TestMain lets the test binary stand in for other processes: INGOT_TEST_CHILD
// names what to do, INGOT_TEST_PATH the registry.
func TestMain(m *testing.M) {
	run := map[string]func(context.Context, *registry.SQLite) error{"hammer": hammerChild, "lease": leaseChild}[os.Getenv("INGOT_TEST_CHILD")]
	if run == nil {
		os.Exit(m.Run())
	}
	ctx := context.Background()
	s, err := registry.Open(ctx, os.Getenv("INGOT_TEST_PATH"))
	if err == nil {
		err = errors.Join(run(ctx, s), s.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is this binary as another process that works on the registry at path.
func child(what, path string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INGOT_TEST_CHILD="+what, "INGOT_TEST_PATH="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

func open(t testing.TB, path string) *registry.SQLite {
	t.Helper()
	s, err := registry.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// raw opens the file as SQLite alone sees it.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func TestSuite(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) func() registry.Store {
		path := filepath.Join(t.TempDir(), "registry.db")
		return func() registry.Store { return open(t, path) }
	})
}

func TestOpenMakesPrivateFile(t *testing.T) {
	// The name has all that means something in a URI.
	dir := filepath.Join(t.TempDir(), "a b", "50%25#1")
	if runtime.GOOS != "windows" {
		dir += "?mode=ro"
	}
	path := filepath.Join(dir, "registry.db")
	s := open(t, path)
	if _, err := s.Record(t.Context(), registry.NewVersion{Image: "web", Status: "ready"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]fs.FileMode{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		names[e.Name()] = info.Mode().Perm()
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	names["."] = info.Mode().Perm()
	want := map[string]fs.FileMode{".": 0o700, "registry.db": 0o600, "registry.db-wal": 0o600, "registry.db-shm": 0o600}
	if len(names) != len(want) {
		t.Errorf("there are %v", names)
	}
	for name, mode := range want {
		if got, ok := names[name]; !ok || got != mode && runtime.GOOS != "windows" {
			t.Errorf("%s: %v (%v), want %v", name, got, ok, mode)
		}
	}
}

func TestOpenTakesOthersRightsAway(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no mode bits")
	}
	path := filepath.Join(t.TempDir(), "registry.db")
	open(t, path).Close()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode().Perm())
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("text"), []byte(strings.Repeat("not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	execute(t, raw(t, at("foreign")), "CREATE TABLE t (a)")
	execute(t, raw(t, at("foreign2")), "CREATE TABLE t (a); PRAGMA user_version = 1")
	open(t, at("newer")).Close()
	execute(t, raw(t, at("newer")), "PRAGMA user_version = 1000")
	for name, want := range map[string]string{
		"text":        "damaged",
		"foreign":     "not a registry",
		"foreign2":    "not a registry",
		"newer":       "newer Ingot",
		".":           "not a file",
		"text/nested": "not a directory",
	} {
		_, err := registry.Open(t.Context(), at(name))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), at(name)) && name != "text/nested" {
			t.Errorf("%s: error %v, want %q and the path", name, err, want)
		}
	}
}

func TestSurvivesPowerCuts(t *testing.T) {
	// What SQLite is told; that it obeys is for its own tests to show.
	path := filepath.Join(t.TempDir(), "registry.db")
	for name, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "fullfsync": "1"} {
		if got := registry.Pragma(t, open(t, path), name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
}

func TestHistoryShowsTampering(t *testing.T) {
	const free = "DROP TRIGGER channel_event_update; DROP TRIGGER channel_event_delete; "
	for _, test := range []struct{ name, query, want string }{
		{"nothing", "SELECT 1", ""},
		{"trigger holds against change", "UPDATE channel_event SET actor = 'me'", "append-only"},
		{"trigger holds against deletion", "DELETE FROM channel_event", "append-only"},
		{"trigger of services", "DELETE FROM service_event", "append-only"},
		{"actor", free + "UPDATE channel_event SET actor = 'me' WHERE seq = 2", "event 2"},
		{"time", free + "UPDATE channel_event SET at = '2026-01-01T00:00:00.000000Z' WHERE seq = 1", "event 1"},
		{"deletion", free + "DELETE FROM channel_event WHERE seq = 1", "event 1"},
		{"deletion of the last", free + "DELETE FROM channel_event WHERE seq = 3", "history says v2"},
		{"deletion of all", free + "DELETE FROM channel_event", "history says v0"},
		{"channel", "UPDATE channel SET version = 1", "is at v1"},
		{"deletion of the channel", "DELETE FROM channel", "but not there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "registry.db")
			s := open(t, path)
			for i := range 3 {
				v, err := s.Record(t.Context(), registry.NewVersion{Image: "web", Status: "ready"})
				if err != nil {
					t.Fatal(err)
				}
				p := registry.Promotion{Image: "web", Channel: "production", Version: v.Number, Rev: int64(i), Actor: "ci"}
				if _, err := s.Promote(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.SaveService(t.Context(), "web", json.RawMessage("{}"), 0, "made"); err != nil {
				t.Fatal(err)
			}
			_, err := raw(t, path).ExecContext(t.Context(), test.query)
			if err == nil {
				err = s.VerifyHistory(t.Context(), "web")
			}
			if got := fmt.Sprint(err); !strings.Contains(got, test.want) || (err == nil) != (test.want == "") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestWaitForTheLockEndsWithTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	s := open(t, path)
	db := raw(t, path)
	db.SetMaxOpenConns(1)
	execute(t, db, "BEGIN IMMEDIATE")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := s.Record(ctx, registry.NewVersion{Image: "web", Status: "ready"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 30*time.Second { // it would wait for a minute
		t.Errorf("it took %v", took)
	}
	if _, err := s.Images(t.Context()); err != nil {
		t.Errorf("a reader does not wait for a writer: %v", err)
	}
	execute(t, db, "ROLLBACK")
	if _, err := s.Record(t.Context(), registry.NewVersion{Image: "web", Status: "ready"}); err != nil {
		t.Error(err)
	}
}

func TestManyMakeTheSameRegistry(t *testing.T) {
	for range 10 {
		path := filepath.Join(t.TempDir(), "new", "registry.db")
		stores := make([]*registry.SQLite, 8)
		var wg sync.WaitGroup
		for i := range stores {
			wg.Go(func() {
				var err error
				if stores[i], err = registry.Open(t.Context(), path); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, s := range stores {
			if s != nil {
				s.Close()
			}
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

const hammerRounds = 10

type hammered struct {
	Numbers  []int
	Promoted int
}

func hammerChild(ctx context.Context, s *registry.SQLite) error {
	numbers, promoted, err := registrytest.Hammer(ctx, s, "child", hammerRounds)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(hammered{numbers, promoted})
}

func TestProcessesAndGoroutinesTogether(t *testing.T) {
	const stores, each, children = 4, 4, 2
	path := filepath.Join(t.TempDir(), "registry.db")
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		all hammered
	)
	add := func(h hammered, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		all.Numbers, all.Promoted = append(all.Numbers, h.Numbers...), all.Promoted+h.Promoted
	}
	defer wg.Wait() // also when a store doesn't open
	for range children {
		wg.Go(func() {
			var h hammered
			out, err := child("hammer", path).Output()
			if err == nil {
				err = json.Unmarshal(out, &h)
			}
			add(h, err)
		})
	}
	for range stores {
		s := open(t, path)
		for range each {
			wg.Go(func() {
				numbers, promoted, err := registrytest.Hammer(t.Context(), s, "parent", hammerRounds)
				add(hammered{numbers, promoted}, err)
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if want := (stores*each + children) * hammerRounds; len(all.Numbers) != want {
		t.Errorf("%d numbers given, want %d", len(all.Numbers), want)
	}
	registrytest.CheckHammered(t, open(t, path), all.Numbers, all.Promoted)
}

// leaseChild makes and strikes leases until it is killed, and says on its
// standard output what it is about to do and what was acknowledged.
func leaseChild(ctx context.Context, s *registry.SQLite) error {
	bake := fmt.Sprint("b", os.Getpid(), "t", time.Now().UnixNano())
	if err := s.BeginBake(ctx, registry.Bake{ID: bake}); err != nil {
		return err
	}
	for i := 0; ; i++ {
		l, err := s.Intend(ctx, builders.Lease{BakeID: bake, Kind: "instance", Name: fmt.Sprint("n", i)})
		if err != nil {
			return err
		}
		fmt.Println("intended", l.ID)
		if err := s.Created(ctx, l.ID, "i-"+l.ID); err != nil {
			return err
		}
		fmt.Println("created", l.ID)
		if i%2 == 0 {
			fmt.Println("releasing", l.ID)
			if err := s.Released(ctx, l.ID); err != nil {
				return err
			}
			fmt.Println("released", l.ID)
		}
	}
}

func TestKilledAtAnyInstant(t *testing.T) {
	const kills = 50
	path := filepath.Join(t.TempDir(), "registry.db")
	last := map[string]string{} // the last thing said of each lease
	for i := range kills {
		cmd := child("lease", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The kill comes while the child goes on writing, each time at another point.
		lines := bufio.NewReader(out)
		for n := 0; ; n++ {
			text, err := lines.ReadString('\n')
			if err != nil {
				break
			}
			what, id, _ := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
			last[id] = what
			if n == 2*i {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
	}
	s := open(t, path)
	if got := registry.Pragma(t, s, "integrity_check"); got != "ok" {
		t.Fatalf("integrity_check: %s", got)
	}
	leases, err := s.OpenLeases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{} // id → platform's id
	for _, l := range leases {
		open[l.ID] = l.ExternalID
	}
	for id, what := range last {
		external, isOpen := open[id]
		lost := !isOpen
		switch what {
		case "created":
			lost = external != "i-"+id
		case "releasing": // it may be either
			lost = false
		case "released":
			lost = isOpen
		}
		if lost {
			t.Errorf("lease %s was %s, and is open %v as %q", id, what, isOpen, external)
		}
	}
	t.Logf("%d leases acknowledged, %d open", len(last), len(open))
	if len(last) < kills {
		t.Errorf("%d leases in %d runs: the children did not get to work", len(last), kills)
	}
	bakes, err := s.OpenBakes(t.Context())
	if err != nil || len(bakes) != kills {
		t.Errorf("%d open bakes, want %d: %v", len(bakes), kills, err)
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "registry.db")
	open(b, path).Close()
	for b.Loop() {
		s, err := registry.Open(b.Context(), path)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMake(b *testing.B) {
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		s, err := registry.Open(b.Context(), filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

func BenchmarkLease(b *testing.B) {
	ctx := b.Context()
	s := open(b, filepath.Join(b.TempDir(), "registry.db"))
	if err := s.BeginBake(ctx, registry.Bake{ID: "b1"}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l, err := s.Intend(ctx, builders.Lease{BakeID: "b1", Kind: "instance", Name: "n"})
		if err == nil {
			err = errors.Join(s.Created(ctx, l.ID, "i-1"), s.Released(ctx, l.ID))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
