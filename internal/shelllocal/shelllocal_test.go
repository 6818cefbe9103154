//go:build unix

package shelllocal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
)

func job(t *testing.T) (*Job, func() string) {
	t.Helper()
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "a b"))
	if err := os.Mkdir(os.TempDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var out strings.Builder
	sink := event.Func(func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == event.Output {
			fmt.Fprintf(&out, "%s\n", e.Text)
		}
	})
	b := script.Bake{BuildName: "web", BuilderType: "null", Dir: t.TempDir(), Values: map[string]string{"ID": "i-1"}}
	return &Job{Bake: b, RunID: "run-1", Events: event.Scope{Sink: sink}}, func() string {
		mu.Lock()
		defer mu.Unlock()
		return out.String()
	}
}

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"inline":                    {Options{Inline: []string{"echo {{ .ID }}; x=1", "echo $x $PWD | sed 's| .*/| |'"}}, "i-1\n1 DIR\n"},
		"inline stops at a failure": {Options{Inline: []string{"echo a; false", "echo b"}, ValidExitCodes: []int{1}}, "a\n"},
		"command":                   {Options{Command: "echo c"}, "c\n"},
		"shebang":                   {Options{Inline: []string{"text"}, InlineShebang: "/bin/cat"}, "#!/bin/cat\ntext\n"},
		"extension":                 {Options{Inline: []string{`case $0 in *.xyz) echo yes;; esac`}, TempfileExtension: ".xyz"}, "yes\n"},
		"scripts":                   {Options{Scripts: []string{"one two.sh", "b.sh"}}, "1\n2\n"},
		"environment": {Options{
			Inline:          []string{`echo "$A|$B|$PACKER_BUILD_NAME|$PACKER_BUILDER_TYPE|$PACKER_RUN_UUID|${PATH:+path}"`},
			EnvironmentVars: []string{"A=list", "B=it's $x"}, Env: map[string]string{"A": "map"},
		}, "map|it's $x|web|null|run-1|path\n"},
		"no stdin": {Options{Inline: []string{"cat; echo end"}}, "end\n"},
		"execute_command": {Options{Script: "b.sh", ExecuteCommand: []string{"/bin/sh", "-c", "{{.Vars}} sh {{.Script}}; echo {{.ID}}"}, Env: map[string]string{"A": "x"}},
			"2x\ni-1\n"},
		"execute_command as a line": {Options{Script: "b.sh", ExecuteCommand: []string{"sh {{.Script}} && echo line"}}, "2\nline\n"},
		"the variables' text": {Options{Script: "b.sh", Env: map[string]string{"A": "it's"}, ExecuteCommand: []string{"/bin/echo", "{{.Vars}}"}},
			`A='it'"'"'s' PACKER_BUILDER_TYPE='null' PACKER_BUILD_NAME='web' ` + "\n"},
		"this system":    {Options{Inline: []string{"echo here"}, OnlyOn: []string{"windows", runtime.GOOS}}, "here\n"},
		"another system": {Options{Inline: []string{"echo here"}, OnlyOn: []string{"windows"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			j, output := job(t)
			for n, text := range map[string]string{"one two.sh": "#!/bin/sh\necho 1", "b.sh": "#!/bin/sh\necho 2$A"} {
				if err := os.WriteFile(filepath.Join(j.Dir, n), []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range tc.o.Check(j.Bake) {
				if !p.Warning {
					t.Errorf("Check: %+v", p)
				}
			}
			if err := tc.o.Run(t.Context(), j); err != nil {
				t.Fatal(err)
			}
			if want := strings.ReplaceAll(tc.want, "DIR", filepath.Base(j.Dir)); output() != want {
				t.Errorf("output %q, want %q", output(), want)
			}
			if left, _ := os.ReadDir(os.TempDir()); len(left) != 0 {
				t.Errorf("temporary files left: %v", left)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Options
		want []string
	}{
		"status":        {Options{Inline: []string{"echo why >&2; exit 3"}}, []string{"the local inline script", "exit status 3", "why"}},
		"signal":        {Options{Inline: []string{"kill -9 $$"}}, []string{"exit status 137"}},
		"silence":       {Options{Inline: []string{"exit 1"}}, []string{"printed nothing"}},
		"no program":    {Options{Inline: []string{"true"}, ExecuteCommand: []string{"/no/such/program", "x"}}, []string{"/no/such/program"}},
		"unknown field": {Options{Inline: []string{"echo {{.Nmae}}"}}, []string{"inline line 1", "Nmae", "ID"}},
	} {
		t.Run(name, func(t *testing.T) {
			j, _ := job(t)
			err := tc.o.Run(t.Context(), j)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if left, _ := os.ReadDir(os.TempDir()); len(left) != 0 {
				t.Errorf("temporary files left: %v", left)
			}
		})
	}
}

// TestCancelEndsGrandchildren looks at a pipe that a grandchild holds open.
func TestCancelEndsGrandchildren(t *testing.T) {
	j, _ := job(t)
	fifo := filepath.Join(j.Dir, "fifo")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v: %s", err, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	o := Options{Inline: []string{"(trap '' TERM; echo up; while :; do sleep 1000; done) >fifo 2>&1 &", "wait"}}
	go func() { done <- o.Run(ctx, j) }()
	f, err := os.Open(fifo) // once the grandchild has it open
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	if line, err := r.ReadString('\n'); line != "up\n" {
		t.Fatalf("the grandchild said %q (%v)", line, err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := r.ReadByte(); err == nil { // end of file: nobody holds it any more
		t.Error("the grandchild goes on")
	}
}

// Many bakes write and run their scripts at the same time.
func TestParallel(t *testing.T) {
	j, _ := job(t)
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			o := Options{Inline: []string{"true"}, ExecuteCommand: []string{"{{.Script}}", ""}}
			if err := o.Run(t.Context(), j); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestCheck(t *testing.T) {
	inline := []string{"true"}
	for name, tc := range map[string]struct {
		o    Options
		want []string
	}{
		"nothing":       {Options{}, []string{""}},
		"two":           {Options{Inline: inline, Script: "x"}, []string{"script", "script"}},
		"deprecated":    {Options{Command: "true"}, []string{"command"}},
		"missing":       {Options{Scripts: []string{"gone", ""}}, []string{"scripts", "scripts"}},
		"environment":   {Options{Inline: inline, EnvironmentVars: []string{"x"}}, []string{"environment_vars"}},
		"bad templates": {Options{Inline: []string{"{{"}, ExecuteCommand: []string{"{{"}}, []string{"inline", "execute_command"}},
		"only_on":       {Options{Inline: inline, OnlyOn: []string{"linux", "beos"}}, []string{"only_on"}},
		"linux paths":   {Options{Inline: inline, UseLinuxPathing: true}, []string{"use_linux_pathing"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range tc.o.Check(script.Bake{Dir: t.TempDir()}) {
				got = append(got, p.Option)
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("problems with %q, want %q", got, tc.want)
			}
		})
	}
}

func TestLinuxPath(t *testing.T) {
	if got := linuxPath(`C:\a b\c`); got != "/mnt/c/a b/c" {
		t.Errorf("got %s", got)
	}
}
