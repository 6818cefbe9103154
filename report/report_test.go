package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
)

// story is a run of two bakes, one of which fails.
func story(r Reporter) {
	web := event.Scope{Sink: r, Bake: "web.null.a"}
	db := event.Scope{Sink: r, Bake: "db.null.b"}
	r.Emit(event.Event{Time: time.Now(), Kind: event.Message, Text: "2 bakes to do"})
	web.Emit(event.Event{Kind: event.BakeStarted})
	db.Emit(event.Event{Kind: event.BakeStarted})
	web.Step, db.Step = "boot", "boot"
	web.Emit(event.Event{Kind: event.StepStarted})
	db.Emit(event.Event{Kind: event.StepStarted})
	time.Sleep(1500 * time.Millisecond)
	web.Emit(event.Event{Kind: event.StepEnded, Seconds: 1.5})
	web.Step = "shell install"
	web.Emit(event.Event{Kind: event.StepStarted})
	web.Emit(event.Event{Kind: event.Output, Stream: "stdout", Text: "the password is hunter2-hunter2"})
	web.Emit(event.Event{Kind: event.Output, Stream: "stderr", Text: "\x1b[31mred\x1b[0m \x07and\tplain"})
	db.Warn("slow disk")
	db.Progress(1<<20, 3<<20)
	time.Sleep(130 * time.Second)
	db.Emit(event.Event{Kind: event.StepEnded, Seconds: 131.5})
	db.Step = ""
	db.Emit(event.Event{Kind: event.BakeEnded, Seconds: 131.5, Data: &builders.Artifact{ID: "Null", Text: "made hunter2-hunter2"}})
	web.Emit(event.Event{Kind: event.SpecResult, Text: "port 80", Error: "nothing listens"})
	web.Emit(event.Event{Kind: event.StepEnded, Seconds: 130, Error: "exit status 1; its last lines were:\n    oh no"})
	web.Step = ""
	web.Emit(event.Event{Kind: event.BakeEnded, Seconds: 131.5, Error: "exit status 1; its last lines were:\n    oh no"})
}

func play(t *testing.T, o Options, tell func(Reporter)) string {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		r := New(&out, o)
		tell(r)
		synctest.Wait()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		r.Emit(event.Event{Kind: event.Message, Text: "too late"})
	})
	return out.String()
}

const plainStory = `2 bakes to do
==> web.null.a: [boot]
==> db.null.b: [boot]
==> web.null.a: [boot] done in 1.5s
==> web.null.a: [shell install]
==> web.null.a: the password is <sensitive>
==> web.null.a: red and	plain
==> db.null.b: Warning: slow disk
==> web.null.a: [shell install] still running after 1m0s
==> db.null.b: [boot] still running after 1m2s, 1.0 MiB of 3.0 MiB
==> web.null.a: [shell install] still running after 2m0s
==> db.null.b: [boot] still running after 2m2s, 1.0 MiB of 3.0 MiB
==> db.null.b: [boot] done in 2m12s
Build 'db.null.b' finished after 2 minutes 11 seconds.
==> web.null.a: port 80: nothing listens
==> web.null.a: [shell install] failed after 2m10s: exit status 1; its last lines were:
Build 'web.null.a' errored after 2 minutes 11 seconds: shell install: exit status 1; its last lines were:
    oh no

==> Wait completed after 2 minutes 11 seconds

==> web.null.a: seconds per step
       1.5  boot
     130.0  shell install (failed)

==> db.null.b: seconds per step
     131.5  boot

==> Some builds didn't complete successfully and had errors:
--> web.null.a: shell install: exit status 1; its last lines were:
    oh no

==> Builds finished. The artifacts of successful builds are:
--> db.null.b: made <sensitive>
`

func TestPlain(t *testing.T) {
	t.Setenv("CI", "")
	got := play(t, Options{Verbose: true, Color: true, Secrets: []string{"hunter2-hunter2"}}, story)
	if got != plainStory {
		t.Errorf("got\n%s\nwant\n%s", got, plainStory)
	}
}

func TestPlainIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{Format: Plain})
		event.Scope{Sink: r, Bake: "b"}.Say("now")
		synctest.Wait()
		if got := out.String(); got != "==> b: now\n" {
			t.Errorf("before anything else happens: %q", got)
		}
		r.Close()
	})
}

func TestTimestamp(t *testing.T) {
	var want string
	got := play(t, Options{Format: Plain, Timestamp: true}, func(r Reporter) {
		want = time.Now().Format(time.RFC3339) + ": ==> b: one\n" + time.Now().Format(time.RFC3339) + ": ==> b: two\n"
		event.Scope{Sink: r, Bake: "b"}.Say("one\ntwo")
	})
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSummaries(t *testing.T) {
	start := func(r Reporter, names ...string) {
		for _, n := range names {
			r.Emit(event.Event{Time: time.Now(), Kind: event.BakeStarted, Bake: n})
		}
	}
	end := func(r Reporter, name, err string, a *builders.Artifact) {
		r.Emit(event.Event{Kind: event.BakeEnded, Bake: name, Error: err, Data: a, Seconds: 1})
	}
	for name, tc := range map[string]struct {
		tell func(Reporter)
		want string
	}{
		"nothing ran": {func(Reporter) {}, ""},
		"no artifacts": {func(r Reporter) { start(r, "a"); end(r, "a", "", nil) },
			"Build 'a' finished after 1 second.\n\n==> Wait completed after 0 seconds\n\n==> Builds finished but no artifacts were created.\n"},
		"never ended": {func(r Reporter) { start(r, "a") },
			"\n==> Wait completed after 0 seconds\n\n==> Some builds didn't complete successfully and had errors:\n--> a: it did not come to its end\n\n==> Builds finished but no artifacts were created.\n"},
		"two of one name": {func(r Reporter) {
			start(r, "a", "a")
			end(r, "a", "", &builders.Artifact{Text: "one"})
			end(r, "a", "broken", nil)
		}, "Build 'a' finished after 1 second.\nBuild 'a' errored after 1 second: broken\n\n==> Wait completed after 0 seconds\n\n" +
			"==> Some builds didn't complete successfully and had errors:\n--> a: broken\n\n==> Builds finished. The artifacts of successful builds are:\n--> a: one\n"},
		"the step to blame": {func(r Reporter) {
			start(r, "a")
			for _, s := range [][2]string{{"shell", "tolerated"}, {"snapshot", "stop it: no"}, {"release", "give back x: no"}} {
				r.Emit(event.Event{Kind: event.StepEnded, Bake: "a", Step: s[0], Error: s[1]})
			}
			end(r, "a", "stop it: no\ngive back x: no", nil)
		}, "==> a: [shell] failed after 0s: tolerated\n==> a: [snapshot] failed after 0s: stop it: no\n==> a: [release] failed after 0s: give back x: no\n" +
			"Build 'a' errored after 1 second: snapshot: stop it: no\ngive back x: no\n\n==> Wait completed after 0 seconds\n\n" +
			"==> Some builds didn't complete successfully and had errors:\n--> a: snapshot: stop it: no\ngive back x: no\n\n==> Builds finished but no artifacts were created.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := play(t, Options{Format: Plain}, tc.tell); got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	got := play(t, Options{Format: JSON, Secrets: []string{"hunter2-hunter2", "77777"}}, func(r Reporter) {
		web := event.Scope{Sink: r, Bake: "web", Step: "spec"}
		web.Emit(event.Event{Kind: event.Output, Stream: "stdout", Text: "\x1b[1m hunter2-hunter2"})
		web.Emit(event.Event{Kind: event.SpecResult, Data: map[string]any{
			"hunter2-hunter2": []any{"a hunter2-hunter2", 77777, 1.5, nil, true}, "n": uint64(1<<63 + 1)}})
		web.Emit(event.Event{Kind: event.Message, Data: func() {}})
		web.Emit(event.Event{Kind: event.BakeEnded, Data: &builders.Artifact{ID: "x"}, Error: "e"})
	})
	want := `{"time":"2000-01-01T00:00:00Z","event":"output","bake":"web","step":"spec","stream":"stdout","text":"\u001b[1m \u003csensitive\u003e"}
{"time":"2000-01-01T00:00:00Z","event":"spec-result","bake":"web","step":"spec","data":{"\u003csensitive\u003e":["a \u003csensitive\u003e","\u003csensitive\u003e",1.5,null,true],"n":9223372036854775809}}
{"time":"2000-01-01T00:00:00Z","event":"message","bake":"web","step":"spec","data":"func() cannot be encoded: json: unsupported type: func()"}
`
	got = strings.ReplaceAll(got, localZone(), "Z")
	if !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for line := range strings.Lines(got) {
		var e event.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("line %q: %v", line, err)
		}
	}
	if strings.Count(got, "\n") != 4 || !strings.Contains(got, `"id":"x"`) {
		t.Errorf("got\n%s", got)
	}
}

// localZone is how RFC 3339 writes this host's zone in 2000.
func localZone() string {
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.Local).Format("Z07:00")
}

func TestMask(t *testing.T) {
	for name, tc := range map[string]struct {
		secrets []string
		in, out string
	}{
		"none":                    {nil, "text", "text"},
		"twice":                   {[]string{"secret"}, "secret, secrets", "<sensitive>, <sensitive>s"},
		"longest first":           {[]string{"pass", "password"}, "a password", "a <sensitive>"},
		"overlapping":             {[]string{"abcd", "cdef"}, "xabcdefy", "x<sensitive>y"},
		"overlapping itself":      {[]string{"aaaa"}, "baaaaaab", "b<sensitive>b"},
		"never again":             {[]string{"sensitive", "long secret"}, "long secret", "<sensitive>"},
		"short, alone":            {[]string{"ab"}, "ab=ab, (ab) ab", "<sensitive>=<sensitive>, (<sensitive>) <sensitive>"},
		"short, within":           {[]string{"ab"}, "grab abbey _ab ab2 éab", "grab abbey _ab ab2 éab"},
		"short is in characters":  {[]string{"ééé"}, "xéééx ééé", "xéééx <sensitive>"},
		"lines of a secret":       {[]string{"first line\nsecond line\r\n"}, "got second line", "got <sensitive>"},
		"as it looks when clean":  {[]string{"se\x1b[1mcret"}, "the secret", "the <sensitive>"},
		"blank is none":           {[]string{"", " ", "\n"}, "a b\n", "a b\n"},
		"quotes and all the rest": {[]string{`$("'\`}, `x$("'\y`, `x<sensitive>y`},
	} {
		if got := newMasker(tc.secrets).text(tc.in); got != tc.out {
			t.Errorf("%s: got %q, want %q", name, got, tc.out)
		}
	}
}

// Escapes within a secret do not hide it from the mask.
func TestSecretBrokenByEscapes(t *testing.T) {
	for _, format := range []Format{Plain, Terminal} {
		got := play(t, Options{Format: format, Secrets: []string{"hunter2"}}, func(r Reporter) {
			event.Scope{Sink: r, Bake: "b"}.Emit(event.Event{Kind: event.Output, Text: "hun\x1b[1mter2 hun\x00ter2"})
		})
		if strings.Contains(got, "hunter2") || strings.Count(got, masked) != 2 {
			t.Errorf("%s: %q", format, got)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":                     "plain\ttext\n",
		"\x1b[1;31mred\x1b[m":               "red",
		"\x1b]0;title\a\x1b]8;;url\x1b\\x":  "x",
		"\x1bPq#0\x1b\\a\x1b(Bb\x1b7\x1b=c": "abc",
		"\u009b2Ja\u009d0;t\u009cb":         "ab",
		"\x1b[2J\x1b[H\x1b[10A":             "",
		"10%\r50%\r100%":                    "100%",
		"windows\r\nline\r":                 "windows\nline",
		"bell\a back\b nul\x00 del\x7f":     "bell back nul del",
		"bad \xff\x9b utf-8":                "bad \ufffd utf-8",
		"right \u202eleft\u2066":            "right left",
		"open \x1b]0;no end":                "open ]0;no end",
		"open \x1b[12":                      "open [12",
		"open \x1b":                         "open ",
		"\x1b]0;over\nthe line\a":           "]0;over\nthe line",
		"世界 é 🙂":                            "世界 é 🙂",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[31mb\r\nc\x1b]0;t\a\u009b1m\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) {
			t.Errorf("%q is no UTF-8", got)
		}
		for _, r := range got {
			if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
				t.Errorf("clean(%q) = %q", s, got)
			}
		}
		if again := clean(got); again != got {
			t.Errorf("clean is not stable: %q, then %q", got, again)
		}
	})
}

func FuzzMask(f *testing.F) {
	f.Add("a secret text", "secret", "ret te")
	f.Fuzz(func(t *testing.T, s, one, two string) {
		got := newMasker([]string{one, two}).text(s)
		for _, secret := range []string{one, two} {
			if strings.TrimSpace(secret) == "" || utf8.RuneCountInString(secret) < 4 {
				continue
			}
			// The mask itself, and what is beside it, may spell a secret by chance.
			for _, part := range strings.Split(got, masked) {
				if strings.Contains(part, secret) {
					t.Errorf("%q shows %q", got, secret)
				}
			}
		}
	})
}

// blocked is a writer that waits for its release.
type blocked struct {
	release chan struct{}
	bytes.Buffer
}

func (b *blocked) Write(p []byte) (int, error) {
	<-b.release
	return b.Buffer.Write(p)
}

func TestSlowWriterHoldsUpNoBake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blocked{release: make(chan struct{})}
		r := New(w, Options{Format: JSON})
		s := event.Scope{Sink: r, Bake: "b"}
		const n = 5000
		for i := range n { // none of these may block: the test would deadlock
			s.Emit(event.Event{Kind: event.Output, Text: fmt.Sprint(i)})
			s.Progress(int64(i), n)
		}
		close(w.release)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		next, progress := 0, 0
		for line := range strings.Lines(w.String()) {
			var e event.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			switch e.Kind {
			case event.Progress:
				progress++
			case event.Output:
				if e.Text != fmt.Sprint(next) {
					t.Fatalf("line %s came where %d is due", e.Text, next)
				}
				next++
			}
		}
		if next != n || progress == 0 || progress > maxQueue {
			t.Errorf("%d of %d lines, %d of %d progress events", next, n, progress, n)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blocked{release: make(chan struct{})}
		r := New(w, Options{Format: JSON})
		const lines, length = 300, 10 << 10
		r.(*reporter).most = 100 * length
		sent := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			text := strings.Repeat("x", length)
			for range lines {
				r.Emit(event.Event{Kind: event.Output, Text: text})
				sent++
			}
		}()
		synctest.Wait() // the sender and the writer wait for each other
		// A full queue, and what the writer took before: one line to a full queue.
		full := r.(*reporter).most/(&record{Event: event.Event{Text: strings.Repeat("x", length)}}).size() + 1
		if sent < full || sent > 2*full {
			t.Errorf("%d lines were taken, want %d to %d", sent, full, 2*full)
		}
		close(w.release)
		<-done
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(w.String(), "\n"); got != lines {
			t.Errorf("%d lines of %d", got, lines)
		}
	})
}

type broken struct{ writes int }

func (b *broken) Write([]byte) (int, error) { b.writes++; return 0, io.ErrShortWrite }

func TestBrokenWriterIsToldAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &broken{}
		r := New(w, Options{Format: Plain})
		for range 3 {
			r.Emit(event.Event{Kind: event.Message, Text: "x"})
			synctest.Wait()
		}
		if err := r.Close(); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("error %v", err)
		}
		if err := r.Close(); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("the second time: %v", err)
		}
		if w.writes != 1 {
			t.Errorf("%d writes, want none after the first failed", w.writes)
		}
	})
}

func TestConcurrentEmit(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, Options{Format: Plain})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			lines := event.Scope{Sink: r, Bake: fmt.Sprint("b", i)}.Lines("stdout")
			for j := range 500 {
				fmt.Fprintf(lines, "line %d\n", j)
			}
		})
	}
	wg.Wait()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "\n"); got != 4000 {
		t.Errorf("%d lines, want 4000", got)
	}
}

// A file that is no terminal gets plain lines, whatever else is asked.
func TestAutoIsPlainForAFile(t *testing.T) {
	t.Setenv("CI", "")
	t.Setenv("NO_COLOR", "")
	f, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := New(f, Options{Color: true})
	story2 := event.Scope{Sink: r, Bake: "b", Step: "boot"}
	story2.Emit(event.Event{Kind: event.BakeStarted})
	story2.Emit(event.Event{Kind: event.StepStarted})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(f.Name())
	if !strings.HasPrefix(string(b), "==> b: [boot]\n") || strings.Contains(string(b), "\x1b") {
		t.Errorf("got %q", b)
	}
}
