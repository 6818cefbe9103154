package confmgmt

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// windows is a machine that takes files into a directory and answers commands
// as the test says. There is no Windows here to run them.
type windows struct {
	dir    string
	lines  []string
	answer func(line string, c machine.Command) error
}

func (w *windows) Run(_ context.Context, c machine.Command) error {
	w.lines = append(w.lines, c.Line)
	return w.answer(c.Line, c)
}

func (w *windows) Put(ctx context.Context, _ string, tree machine.Tree) error {
	return machine.Copy(ctx, tree, machine.DirSink(w.dir))
}
func (w *windows) Get(context.Context, string, machine.Sink) error { return errors.New("no") }
func (w *windows) Platform() machine.Platform {
	return machine.Platform{OS: "windows", Shell: "powershell"}
}
func (w *windows) Close() error { return nil }

// mark finds the mark of the run in its batch file.
func (w *windows) mark(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, runFile))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "echo ingot-")
	mark, _, _ := strings.Cut(rest, " ")
	return "ingot-" + mark
}

func TestWindows(t *testing.T) {
	var warned []string
	env := &provisioners.Env{Events: event.Scope{Sink: event.Func(func(e event.Event) {
		if e.Kind == event.Warning {
			warned = append(warned, e.Text)
		}
	})}}
	for name, tc := range map[string]struct {
		marks string
		fails map[string]int // the status of the lines that contain it
		err   string
		judge bool
		lines int
	}{
		"good":     {marks: "ran \r\n", judge: true, lines: 3},
		"fails":    {marks: "half a lineran \r\n", fails: map[string]int{runFile: 4}, judge: true, err: "judged 4", lines: 3},
		"install":  {marks: "install 7 \r\n", fails: map[string]int{runFile: 1}, err: "installation of Chef ended with exit status 7", lines: 2},
		"prepare":  {marks: "prepare 5 \r\n", fails: map[string]int{runFile: 1}, err: "could not be put in their places (exit status 5)", lines: 2},
		"after":    {marks: "ran \r\n", fails: map[string]int{afterFile(0): 9}, judge: true, err: "the command after Chef failed with exit status 9", lines: 3},
		"not run":  {fails: map[string]int{runFile: 1}, err: "did not run the command (exit status 1)", lines: 2},
		"lost":     {marks: "ran \r\n", fails: map[string]int{runFile: machine.DisconnectStatus}, err: "connection was lost", lines: 3},
		"not gone": {marks: "ran \r\n", fails: map[string]int{"Remove-Item": 1}, judge: true, lines: 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := &windows{dir: t.TempDir()}
			w.answer = func(line string, c machine.Command) error {
				if strings.Contains(line, runFile) && c.Stdout != nil {
					fmt.Fprint(c.Stdout, "works\r\n")
					before, after, found := strings.Cut(tc.marks, "ran ")
					if found {
						fmt.Fprint(c.Stderr, before+w.mark(t)+" ran "+after)
					} else if tc.marks != "" {
						fmt.Fprint(c.Stderr, w.mark(t)+" "+tc.marks)
					}
				}
				for part, status := range tc.fails {
					if strings.HasPrefix(line, "powershell") == (part == "Remove-Item") && strings.Contains(line, part) {
						return &machine.ExitError{Status: status}
					}
				}
				return nil
			}
			judged, warnings := false, len(warned)
			job := &Job{
				Env: env, Machine: w, Windows: true, What: "Chef", Dir: "C:/Windows/Temp/it's x", Tree: machine.BytesTree("f", nil, 0o644),
				Secrets: []string{"C:/Windows/Temp/it's x/key"}, Install: &Install{Probe: "where chef", Command: "get chef"}, Prepare: "move a b",
				Command: "chef run", After: []string{"knife x"},
			}
			err := job.Run(t.Context(), func(status int, _ *script.Tail) error {
				if judged = true; status != 0 {
					return fmt.Errorf("judged %d", status)
				}
				return nil
			})
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if judged != tc.judge {
				t.Errorf("judged: %v", judged)
			}
			if len(w.lines) != tc.lines || !strings.HasPrefix(w.lines[len(w.lines)-1], "powershell.exe ") || !strings.Contains(w.lines[len(w.lines)-1], "'C:/Windows/Temp/it''s x/key','C:/Windows/Temp/it''s x/ingot-run.cmd'") {
				t.Errorf("commands %q", w.lines)
			}
			if w.lines[0] != `cmd.exe /d /c "C:\Windows\Temp\it's x\ingot-run.cmd"` {
				t.Errorf("the first command is %s", w.lines[0])
			}
			if left := len(warned) > warnings; left != (name == "not gone") {
				t.Errorf("warnings: %q", warned[warnings:])
			}
			b, err := os.ReadFile(filepath.Join(w.dir, runFile))
			if err != nil {
				t.Fatal(err)
			}
			mark := w.mark(t)
			if got, want := string(b), strings.Join([]string{"@echo off", "where chef >nul 2>nul && goto ingot_have", "echo Installing Chef", "get chef",
				"if errorlevel 1 echo " + mark + " install %errorlevel% 1>&2& exit /b 1", ":ingot_have",
				"move a b", "if errorlevel 1 echo " + mark + " prepare %errorlevel% 1>&2& exit /b 1", "echo " + mark + " ran 1>&2", "chef run", ""}, "\r\n"); got != want {
				t.Errorf("the batch file is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// The task's log carries what the batch file says, marks and all.
func TestElevated(t *testing.T) {
	for _, status := range []int{0, 4} {
		w := &windows{dir: t.TempDir()}
		w.answer = func(line string, c machine.Command) error {
			if len(w.lines) > 1 || c.Stdout == nil {
				return nil
			}
			if line == `cmd.exe /d /c "C:\t\ingot-run.cmd"` {
				t.Errorf("the login user ran it")
			}
			in, err := io.ReadAll(c.Stdin)
			if err != nil {
				t.Fatal(err)
			}
			var args []string // the script, then its own: path, content, mark, …
			for l := range strings.Lines(string(in)) {
				b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(l))
				if err != nil {
					t.Fatal(err)
				}
				args = append(args, string(b[1:]))
			}
			content, err := base64.StdEncoding.DecodeString(args[2])
			if err != nil || args[1] != "C:/t/ingot-elevated.ps1" || string(content) != "& cmd.exe /d /c \"C:\\t\\ingot-run.cmd\"\r\nexit $LASTEXITCODE\r\n" {
				t.Errorf("the task's script is %s: %s (%v)", args[1], content, err)
			}
			if !slices.Contains(args, `CORP\admin`) || !slices.Contains(args, "hunter2") || strings.Contains(line, "hunter2") {
				t.Error("the account does not come through the input, and there only")
			}
			fmt.Fprint(c.Stderr, args[3]+"\n")
			fmt.Fprint(c.Stdout, w.mark(t)+" ran\r\nworks\r\n")
			if status != 0 {
				return &machine.ExitError{Status: status}
			}
			return nil
		}
		var lines []string
		job := &Job{
			Env: &provisioners.Env{}, Machine: w, Windows: true, What: "Chef", Dir: "C:/t", Tree: machine.BytesTree("f", nil, 0o644),
			Command: "chef run", Line: func(_, text string) { lines = append(lines, text) },
		}
		if err := job.RunAs(`CORP\admin`, "hunter2"); err != nil {
			t.Fatal(err)
		}
		judged := -1
		err := job.Run(t.Context(), func(n int, _ *script.Tail) error { judged = n; return nil })
		if err != nil || judged != status || strings.Join(lines, "|") != "works" {
			t.Errorf("%v; judged %d, want %d; lines %q", err, judged, status, lines)
		}
	}
}

func TestFacts(t *testing.T) {
	facts := map[string]string{"b": "it's", "a": "$x y"}
	if got, want := Facts(facts, false), `FACTER_a='$x y' FACTER_b='it'"'"'s'`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := Facts(facts, true), `SET "FACTER_a=$x y" & SET "FACTER_b=it's"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestFit(t *testing.T) {
	w := &windows{}
	for _, tc := range []struct {
		m    machine.Machine
		win  bool
		want string
	}{{nil, false, "needs a machine"}, {w, false, `set guest_os_type = "windows"`}, {w, true, ""}} {
		err := Fit("x", tc.m, tc.win)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("error %v, want %q", err, tc.want)
		}
	}
}

func TestMarksAreTakenOut(t *testing.T) {
	var got, told []string
	w := &watch{mark: "ingot-X", line: func(stream, text string) { told = append(told, stream+" "+text) }}
	w.tail.Next = event.Func(func(e event.Event) { got = append(got, e.Text) })
	scope := event.Scope{Sink: w}
	out := scope.Lines("stderr")
	io.WriteString(out, "ingot-X ran\n\x1b[31mred\x1b[0m\nhalf ingot-X left /a b\n")
	for range 2 * maxMarks {
		io.WriteString(out, "ingot-X again\n")
	}
	if !slices.Equal(got, []string{"\x1b[31mred\x1b[0m", "half "}) || !slices.Equal(told, []string{"stderr red", "stderr half "}) {
		t.Errorf("events %q, told %q", got, told)
	}
	if len(w.marks) != maxMarks || w.marks[0] != "ran" || w.marks[1] != "left /a b" {
		t.Errorf("marks %q", w.marks[:3])
	}
}

func TestSaid(t *testing.T) {
	var s Said
	s.Add("  a ")
	s.Add("a")
	s.Add("")
	s.Add(strings.Repeat("é", saidLong))
	for i := range 2 * saidMost {
		s.Add(fmt.Sprint(i))
	}
	text := s.Or(nil)
	if n := strings.Count(text, "\n"); n != saidMost+1 || !strings.HasPrefix(text, ":\n    a\n    é") || !strings.HasSuffix(text, "… and more, in the output above") {
		t.Errorf("%d lines: %s", n, text)
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[1;31mError\x1b[0m", "\x1b]0;title\x07x", "a\r\x00\x9b31mb", "\u202egnp", "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Clean(s) {
			if r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
				t.Errorf("%q holds %q", Clean(s), r)
			}
		}
	})
}
