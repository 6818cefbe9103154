package registry

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
)

// Pragma reads a setting of s's own connection.
func Pragma(t *testing.T, s *SQLite, name string) string {
	t.Helper()
	var value string
	if err := s.db.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestMigrateForward(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "registry.db")
	steps := []string{
		"CREATE TABLE a (n INTEGER) STRICT; INSERT INTO a VALUES (1)",
		"INSERT INTO a SELECT n + 1 FROM a",
		"INSERT INTO a SELECT n * 10 FROM a",
	}
	rows := func(s *SQLite) (all []string) {
		err := s.read(ctx, "test", func(tx *sql.Tx) (err error) {
			all, err = collect(ctx, tx, scanString, "SELECT n FROM a ORDER BY n")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, test := range []struct {
		steps []string
		want  string
		err   string
	}{
		{steps[:1], "1", ""},
		{steps[:1], "1", ""},
		{append(steps[:1:1], steps[1], "CREATE garbage"), "", "step 3"}, // step 2 is undone too
		{steps, "1 2 10 20", ""},
		{steps[:2], "", "schema 3 of a newer Ingot, this one knows up to 2"},
		{steps, "1 2 10 20", ""},
	} {
		s, err := open(ctx, path, test.steps)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(rows(s), " "); got != test.want {
			t.Errorf("rows %s, want %s", got, test.want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Who can compute hashes can forge an event, but not one that doesn't follow.
func TestForgedEventMustFollow(t *testing.T) {
	for _, forged := range []ChannelEvent{
		{Image: "web", Seq: 1, Channel: "production", Rev: 2, To: 1},
		{Image: "web", Seq: 1, Channel: "production", Rev: 1, From: 2, To: 1},
	} {
		s, err := Open(t.Context(), filepath.Join(t.TempDir(), "registry.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Record(t.Context(), NewVersion{Image: "web", Status: StatusReady}); err != nil {
			t.Fatal(err)
		}
		forged.At = now()
		forged.Hash = forged.hash()
		err = s.write(t.Context(), "forge", func(tx *sql.Tx) error { return insertEvent(t.Context(), tx, forged) })
		if err != nil {
			t.Fatal(err)
		}
		err = s.VerifyHistory(t.Context(), "web")
		if err == nil || !strings.Contains(err.Error(), "does not follow") {
			t.Errorf("%+v: error %v", forged, err)
		}
	}
}

func TestParseRef(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, test := range []struct {
		text string
		want Ref
		err  string
	}{
		{"web", Ref{Image: "web"}, ""},
		{"web@v2", Ref{Image: "web", Number: 2}, ""},
		{"web:v1", Ref{Image: "web", Number: 1}, ""},
		{"web@V12", Ref{Image: "web", Number: 12}, ""},
		{"web@production", Ref{Image: "web", Channel: "production"}, ""},
		{"web:production", Ref{Image: "web", Channel: "production"}, ""},
		{"web@v2b", Ref{Image: "web", Channel: "v2b"}, ""},
		{"web@v", Ref{Image: "web", Channel: "v"}, ""},
		{"v1", Ref{Image: "v1"}, ""},
		{"Base-9_x.y@2", Ref{Image: "Base-9_x.y", Channel: "2"}, ""},
		{long + "@" + long, Ref{Image: long, Channel: long}, ""},
		{"", Ref{}, "image name"},
		{"@v1", Ref{}, "image name"},
		{"web@", Ref{}, "channel name"},
		{"web@v0", Ref{}, "v1, v2"},
		{"web@v99999999999999999999", Ref{}, "v1, v2"},
		{"web@v1@v2", Ref{}, "channel name"},
		{"web:a:b", Ref{}, "channel name"},
		{"-web", Ref{}, "63 letters"},
		{".web", Ref{}, "63 letters"},
		{"we b", Ref{}, "63 letters"},
		{"wäb", Ref{}, "63 letters"},
		{"web/1", Ref{}, "63 letters"},
		{"web\n", Ref{}, "63 letters"},
		{long + "a", Ref{}, "63 letters"},
	} {
		got, err := ParseRef(test.text)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("ParseRef(%q) = %+v, %v; want %+v, %q", test.text, got, err, test.want, test.err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, text := range []string{"web", "web@v2", "web:production", "web@V007", "@", "a@b:c"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRef(text)
		if err != nil {
			if r != (Ref{}) {
				t.Errorf("%q gives %+v and %v", text, r, err)
			}
			return
		}
		again, err := ParseRef(r.String())
		if err != nil || again != r {
			t.Errorf("%q gives %+v, whose own text gives %+v, %v", text, r, again, err)
		}
	})
}

func FuzzReadExport(f *testing.F) {
	f.Add("{\"ingotRegistry\":1}\n{\"image\":{\"name\":\"web\",\"last\":2,\"created\":\"2026-03-01T12:30:00Z\"}}\n" +
		"{\"version\":{\"number\":1,\"image\":\"web\",\"status\":\"ready\",\"created\":\"2026-03-01T12:30:00Z\"}}\n{\"lines\":3}\n")
	f.Add("{\"ingotRegistry\":1}\n{\"event\":{\"image\":\"web\",\"to\":-1}}\n{\"lines\":2}\n")
	f.Add("{\"ingotRegistry\":1,\"image\":{}}\nnull\n{\"lines\":2}")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := readExport(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, l := range lines {
			if l.Image == nil && l.Version == nil && l.Event == nil && l.Channel == nil {
				t.Errorf("a line with nothing to insert passed: %+v", l)
			}
		}
	})
}
