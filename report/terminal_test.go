package report

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"golang.org/x/term"
)

// screen is a terminal, as far as the reporter uses one.
type screen struct {
	t          *testing.T
	mu         sync.Mutex
	cols, rows int
	lines      [][]rune // all that was ever there; the last rows of it are visible
	x, y       int      // y is an index of lines
	writes     []time.Time
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, time.Now())
	runes := []rune(string(p))
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; r {
		case '\n':
			s.x, s.y = 0, s.y+1
		case '\r':
			s.x = 0
		case '\t':
			s.x = min((s.x/8+1)*8, s.cols-1)
		case '\x1b':
			i++
			if runes[i] != '[' {
				s.t.Fatalf("escape %q", runes[i])
			}
			n := 0
			for i++; runes[i] >= '0' && runes[i] <= '9'; i++ {
				n = n*10 + int(runes[i]-'0')
			}
			switch runes[i] {
			case 'A':
				top := max(0, len(s.lines)-s.rows)
				if s.y-n < top {
					s.t.Errorf("the cursor is sent %d up from row %d, beyond the screen's top %d", n, s.y, top)
				}
				s.y = max(top, s.y-n)
			case 'J':
				s.lines = s.lines[:s.y]
			case 'm':
			default:
				s.t.Fatalf("escape sequence with %q", runes[i])
			}
		default:
			w := narrow().RuneWidth(r)
			if s.x+w > s.cols {
				s.x, s.y = 0, s.y+1
			}
			for s.y >= len(s.lines) {
				s.lines = append(s.lines, nil)
			}
			line := s.lines[s.y]
			for len(line) < s.x+w {
				line = append(line, ' ')
			}
			line[s.x] = r
			for k := 1; k < w; k++ {
				line[s.x+k] = 0 // the right half
			}
			s.lines[s.y] = line
			s.x += w
		}
		for s.y >= len(s.lines) {
			s.lines = append(s.lines, nil)
		}
	}
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out strings.Builder
	for _, line := range s.lines {
		out.WriteString(strings.TrimRight(strings.ReplaceAll(string(line), "\x00", ""), " ") + "\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func TestTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &screen{t: t, cols: 40, rows: 10, lines: [][]rune{nil}}
		r := New(s, Options{Format: Terminal, Color: true, Size: func() (int, int) { return s.cols, s.rows }})
		see := func(want string) {
			t.Helper()
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if got := s.String(); got != want {
				t.Errorf("the screen shows\n%s\nwant\n%s", got, want)
			}
		}
		web := event.Scope{Sink: r, Bake: "web"}
		long := event.Scope{Sink: r, Bake: "世界世界世界世界世界世界世界世界世界世界世界"}
		web.Emit(event.Event{Kind: event.BakeStarted})
		see("web\n")
		web.Step = "boot"
		web.Emit(event.Event{Kind: event.StepStarted})
		see("==> web: [boot]\nweb  boot  0s\n")
		web.Progress(1536, 10<<20)
		see("==> web: [boot]\nweb  boot  0s  1.5 KiB of 10.0 MiB\n")
		time.Sleep(3 * time.Second)
		see("==> web: [boot]\nweb  boot  3s  1.5 KiB of 10.0 MiB\n")
		web.Emit(event.Event{Kind: event.Output, Text: "\x1b[2J\x1b[Hevil\a " + strings.Repeat("x", 40)})
		long.Emit(event.Event{Kind: event.BakeStarted})
		see("==> web: [boot]\n==> web: evil " + strings.Repeat("x", 26) + "\n" + strings.Repeat("x", 14) +
			"\nweb  boot  3s  1.5 KiB of 10.0 MiB\n世界世界世界世界世界世界世界世界世界...\n")
		web.Emit(event.Event{Kind: event.BakeEnded, Seconds: 4, Data: &builders.Artifact{Text: "an image"}})
		long.Emit(event.Event{Kind: event.BakeEnded, Seconds: 1, Error: "no"})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		got := s.String()
		want := "Build 'web' finished after 4 seconds.\n"
		if strings.Contains(got, "boot  3s") || strings.Contains(got, "...") || !strings.Contains(got, want) || !strings.HasSuffix(got, "--> web: an image\n") {
			t.Errorf("in the end the screen shows\n%s", got)
		}
	})
}

// However much happens, there are ten frames a second, and nothing is left.
func TestTerminalPaceAndManyBakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &screen{t: t, cols: 80, rows: 8, lines: [][]rune{nil}}
		r := New(s, Options{Format: Terminal, Size: func() (int, int) { return s.cols, s.rows }})
		const bakes = 20
		for i := range bakes {
			b := event.Scope{Sink: r, Bake: fmt.Sprint("bake", i), Step: "live"}
			b.Emit(event.Event{Kind: event.BakeStarted})
			b.Emit(event.Event{Kind: event.StepStarted})
		}
		begin := time.Now()
		for i := range 1000 {
			event.Scope{Sink: r, Bake: fmt.Sprint("bake", i%bakes), Step: "live"}.Emit(event.Event{Kind: event.Output, Text: fmt.Sprint("line ", i)})
			time.Sleep(2 * time.Millisecond)
		}
		took := time.Since(begin)
		synctest.Wait()
		if got := s.String(); !strings.Contains(got, "and 15 more") || strings.Count(got, "  live  ") != 5 {
			t.Errorf("the screen shows\n%s", got[max(0, len(got)-500):])
		}
		if frames, most := len(s.writes), int(took/(100*time.Millisecond))+2; frames > most || frames < most/2 {
			t.Errorf("%d frames in %v, want at most %d", frames, took, most)
		}
		for i := range bakes {
			event.Scope{Sink: r, Bake: fmt.Sprint("bake", i)}.Emit(event.Event{Kind: event.BakeEnded})
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		got := s.String()
		for i := range 1000 {
			if want := fmt.Sprintf("==> bake%d: line %d\n", i%bakes, i); strings.Count(got, want) != 1 {
				t.Fatalf("%q is there %d times", want, strings.Count(got, want))
			}
		}
		if strings.Contains(got, "  live  ") || strings.Contains(got, "more") {
			t.Error("live lines are left")
		}
	})
}

func TestCloseDoesNotWaitForThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := New(&out, Options{Format: Terminal})
		begin := time.Now()
		r.Emit(event.Event{Kind: event.Message, Text: "one"})
		synctest.Wait()
		r.Emit(event.Event{Kind: event.Message, Text: "two"})
		if err := r.Close(); err != nil || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if out.String() != "one\ntwo\n" {
			t.Errorf("got %q", out.String())
		}
	})
}

const inTmux = "INGOT_TEST_REPORT_IN_TMUX"

// TestRealTerminal lets tmux interpret the output, and makes its window
// narrower while live lines stand on it.
func TestRealTerminal(t *testing.T) {
	if dir := os.Getenv(inTmux); dir != "" {
		helper(t, dir)
		return
	}
	if runtime.GOOS == "windows" {
		t.Skip("there is no tmux on Windows")
	}
	tmux, err := exec.LookPath("tmux")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tmux is missing")
		}
		t.Skip("tmux is missing (Debian package tmux)")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A Unix socket's path must be short.
	dir, err := os.MkdirTemp("", "ingot")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), tmux, append([]string{"-f", "/dev/null", "-S", filepath.Join(dir, "s")}, args...)...)
		// With them set, tmux would refuse to nest, and the reporter be plain.
		for _, kv := range append(os.Environ(), inTmux+"="+dir) {
			if k, _, _ := strings.Cut(kv, "="); k != "TMUX" && k != "CI" && k != "NO_COLOR" && k != "TERM" {
				cmd.Env = append(cmd.Env, kv)
			}
		}
		cmd.Env = append(cmd.Env, "LC_ALL=C.UTF-8", "TERM=screen")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	run("-u", "new-session", "-d", "-x", "100", "-y", "20", "'"+self+"' -test.run=^TestRealTerminal$; tmux wait-for -S over")
	defer func() { _ = exec.Command(tmux, "-S", filepath.Join(dir, "s"), "kill-server").Run() }() // it may have ended with its session
	run("wait-for", "live")
	during := run("capture-pane", "-p")
	if !strings.Contains(during, "web  install") || !strings.Contains(during, "line 29") {
		t.Errorf("with live lines:\n%s", during)
	}
	run("resize-window", "-x", "30", "-y", "20")
	run("wait-for", "-S", "go-on")
	run("wait-for", "ended")
	after := run("capture-pane", "-p", "-J", "-S", "-")
	for i := range 30 {
		if want := fmt.Sprintf("==> web: line %d\n", i); strings.Count(after, want) != 1 {
			t.Errorf("%q is there %d times", want, strings.Count(after, want))
		}
	}
	if strings.Contains(after, "auto chose") || strings.Contains(after, "web  install") || strings.Contains(after, "evil title") || !strings.Contains(after, "--> web: an image") {
		t.Errorf("in the end:\n%s", after)
	}
	run("wait-for", "-S", "exit")
}

func helper(t *testing.T, dir string) {
	wait := func(args ...string) {
		if out, err := exec.Command("tmux", append([]string{"-S", filepath.Join(dir, "s"), "wait-for"}, args...)...).CombinedOutput(); err != nil {
			fmt.Printf("wait-for: %v: %s\n", err, out)
		}
	}
	frames := make(chan struct{}, 1000)
	auto := New(os.Stdout, Options{}).(*reporter)
	if _, ok := auto.view.(*terminal); !ok {
		fmt.Printf("auto chose %T for a terminal\n", auto.view)
	}
	r := New(written{os.Stdout, frames}, Options{Format: Terminal, Size: func() (int, int) {
		columns, rows, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			fmt.Println(err)
		}
		return columns, rows
	}})
	web := event.Scope{Sink: r, Bake: "web", Step: "install"}
	web.Emit(event.Event{Kind: event.BakeStarted})
	web.Emit(event.Event{Kind: event.StepStarted})
	for i := range 30 {
		web.Emit(event.Event{Kind: event.Output, Text: fmt.Sprintf("\x1b]0;evil title\aline %d", i)})
	}
	web.Progress(5<<30, 10<<30)
	<-frames
	web.Emit(event.Event{Kind: event.Progress, Bytes: 6 << 30, Total: 10 << 30})
	<-frames
	wait("-S", "live")
	wait("go-on")
	web.Emit(event.Event{Kind: event.BakeEnded, Data: &builders.Artifact{Text: "an image"}})
	if err := r.Close(); err != nil {
		fmt.Println(err)
	}
	wait("-S", "ended")
	wait("exit")
}

// written tells when a frame is on the terminal.
type written struct {
	w      io.Writer
	frames chan<- struct{}
}

func (w written) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	select {
	case w.frames <- struct{}{}:
	default:
	}
	return n, err
}
