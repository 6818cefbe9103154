//go:build unix

package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/provisioners"
)

// log collects events.
type log struct {
	mu     sync.Mutex
	events []event.Event
}

func (l *log) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// output is the lines of one stream, or of all with "".
func (l *log) output(stream string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out strings.Builder
	for _, e := range l.events {
		if e.Kind == event.Output && (stream == "" || e.Stream == stream) {
			out.WriteString(e.Text + "\n")
		}
	}
	return out.String()
}

func (l *log) warnings() (n int) {
	for _, e := range l.events {
		if e.Kind == event.Warning {
			n++
		}
	}
	return n
}

type fixture struct {
	*log
	p   *Provisioner
	env *provisioners.Env
	// folder is the remote folder: it must be empty at the end.
	folder string
}

func setup(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{log: &log{}, p: New(), folder: t.TempDir()}
	f.env = &provisioners.Env{BuildName: "web", BuilderType: "null", Dir: t.TempDir(), Values: map[string]string{"Host": "h1"}, Events: event.Scope{Sink: f.log}}
	f.p.o.RemoteFolder = f.folder
	change(&f.p.o)
	return f
}

func (f *fixture) left(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(f.folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// counting counts the commands of a machine.
type counting struct {
	machine.Machine
	runs int
}

func (c *counting) Run(ctx context.Context, cmd machine.Command) error {
	c.runs++
	return c.Machine.Run(ctx, cmd)
}

func TestProvision(t *testing.T) {
	for name, tc := range map[string]struct {
		files  map[string]string
		o      func(*Options)
		stdout string
		runs   int // 0: one
	}{
		"inline is one script, ended by its first failure": {
			o:      func(o *Options) { o.Inline = []string{"x=1", "echo $x; (exit 0)", "printf 'no newline'"} },
			stdout: "1\nno newline\n"},
		"inline renders templates once": {
			o:      func(o *Options) { o.Inline = []string{"echo {{ .Host }} {{`{{ .Names }}`}}"} },
			stdout: "h1 {{ .Names }}\n"},
		"an inline shebang is kept": {
			o:      func(o *Options) { o.Inline = []string{"#!/usr/bin/env sh", "false", "echo on"} },
			stdout: "on\n"},
		"an explicit shebang comes before it": {
			o: func(o *Options) {
				o.InlineShebang, o.Inline = "/bin/cat", []string{"#!/bin/sh", "echo not run"}
			},
			stdout: "#!/bin/cat\n#!/bin/sh\necho not run\n"},
		"scripts run in order, each in one command": {
			files:  map[string]string{"a.sh": "#!/bin/sh\necho a $0 | sed 's/ .*script_.*/ script/'", "b.sh": "echo b"},
			o:      func(o *Options) { o.Scripts = []string{"a.sh", "b.sh"} },
			stdout: "a script\nb\n", runs: 2},
		"line ends become LF": {
			files:  map[string]string{"s": "#!/bin/sh\r\necho a\r\n"},
			o:      func(o *Options) { o.Script = "s" },
			stdout: "a\n"},
		"but not those of a binary": {
			files: map[string]string{"s": "#!/bin/sh\necho 'a\r\nb'\n"},
			o: func(o *Options) {
				o.Script, o.Binary, o.ExecuteCommand = "s", true, "{{.Path}} | od -An -c | tr -s ' '"
			},
			stdout: " a \\r \\n b \\n\n"},
		"environment": {
			o: func(o *Options) {
				o.EnvironmentVars = []string{"A=list", "B=it's $HOME \"q\"", "PACKER_BUILD_NAME=mine", "C=a=b"}
				o.Env = map[string]string{"A": "map", "NL": "x\ny"}
				o.Inline = []string{`echo "$A|$B|$C|$NL|$PACKER_BUILD_NAME|$PACKER_BUILDER_TYPE|${PACKER_HTTP_ADDR-none}"`}
			},
			stdout: "map|it's $HOME \"q\"|a=b|x\ny|mine|null|none\n"},
		"environment file": {
			o: func(o *Options) {
				o.UseEnvVarFile = true
				o.Env = map[string]string{"A": "it's\n\\two lines ", "B": "2"}
				o.Inline = []string{`printf '%s|' "$A" $B; cat`}
			},
			stdout: "it's\n\\two lines |2|\n"},
		"execute_command": {
			o: func(o *Options) {
				o.ExecuteCommand = "{{.Vars}} sh {{.Path}} {{.Host}} # a comment"
				o.Env = map[string]string{"A": "1"}
				o.Inline = []string{"echo $1 $A"}
			},
			stdout: "h1 1\n"},
		"env_var_format": {
			o: func(o *Options) {
				o.EnvVarFormat, o.ExecuteCommand = "-%s=%s ", "echo {{.Vars}}; {{.Path}}"
				o.Env = map[string]string{"a.b": "c"}
				o.Inline = []string{"true"}
			},
			stdout: "-PACKER_BUILDER_TYPE=null -PACKER_BUILD_NAME=web -a.b=c\n"},
		"a name with a space": {
			o:      func(o *Options) { o.RemoteFile, o.Inline = "it's a script", []string{"echo ok"} },
			stdout: "ok\n"},
		"remote_path wins over folder and file": {
			o: func(o *Options) {
				o.RemotePath, o.RemoteFile = o.RemoteFolder+"/the path", "another"
				o.Inline = []string{`echo "${0##*/}"`}
			},
			stdout: "the path\n"},
		"the environment file is in the folder all the same": {
			o: func(o *Options) {
				o.UseEnvVarFile, o.RemotePath = true, filepath.Join(filepath.Dir(o.RemoteFolder), "elsewhere.sh")
				o.Env, o.Inline = map[string]string{"FOLDER": o.RemoteFolder}, []string{`ls "$FOLDER" | sed 's/_.*//'; ls "${0%/*}" | grep -c elsewhere`}
			},
			stdout: "varfile\n1\n"},
		"execute_command names the environment file": {
			o: func(o *Options) {
				o.UseEnvVarFile, o.ExecuteCommand = true, "grep -v PACKER {{.EnvVarFile}}; echo \"[{{.Vars}}]\"; {{.Path}}"
				o.Env, o.Inline = map[string]string{"A": "it's"}, []string{"echo \"${A-unset}\""}
			},
			stdout: "export A='it'\"'\"'s'\n[]\nunset\n"},
		"a format of one's own in the environment file": {
			o: func(o *Options) {
				o.UseEnvVarFile, o.EnvVarFormat = true, "%s=%s; export A\n"
				o.Env, o.Inline = map[string]string{"A": "b"}, []string{"echo $A"}
			},
			stdout: "b\n"},
		"valid_exit_codes": {
			o:      func(o *Options) { o.ValidExitCodes, o.Inline = []int{0, 7}, []string{"echo seven; exit 7"} },
			stdout: "seven\n"},
		"the script may remove itself": {
			o:      func(o *Options) { o.Inline = []string{"rm $0; echo gone"} },
			stdout: "gone\n"},
		"only the login user can read it": {
			o:      func(o *Options) { o.UseEnvVarFile, o.Inline = true, []string{`cd "${0%/*}"; ls -l | cut -c1-10`} },
			stdout: "total 8\n-rwx------\n-rw-------\n"},
		"everyone can, where the command may change the user": {
			o:      func(o *Options) { o.ExecuteCommand, o.Inline = "{{.Path}}", []string{`ls -l $0 | cut -c1-10`} },
			stdout: "-rwxr-xr-x\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t, tc.o)
			for n, text := range tc.files {
				if err := os.WriteFile(filepath.Join(f.env.Dir, n), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if problems := f.p.Check(t.Context(), f.env); problems != nil {
				t.Fatalf("Check: %+v", problems)
			}
			m := &counting{Machine: local.Machine{}}
			if err := f.p.Provision(t.Context(), f.env, m); err != nil {
				t.Fatal(err)
			}
			got := f.output("stdout")
			if strings.HasPrefix(tc.stdout, "total") { // the number of blocks is the file system's
				_, rest, _ := strings.Cut(got, "\n")
				got = "total 8\n" + rest
			}
			if got != tc.stdout || f.output("stderr") != "" {
				t.Errorf("stdout %q, want %q; stderr %q", got, tc.stdout, f.output("stderr"))
			}
			if m.runs != max(tc.runs, 1) {
				t.Errorf("%d commands, want %d", m.runs, max(tc.runs, 1))
			}
			if left := f.left(t); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestFailure(t *testing.T) {
	f := setup(t, func(o *Options) {
		o.Inline = []string{"i=1; while [ $i -le 30 ]; do echo line $i; i=$((i+1)); done", "echo broken >&2", "sleep 0; exit 3"}
	})
	m := &counting{Machine: local.Machine{}}
	err := f.p.Provision(t.Context(), f.env, m)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"the inline script ended with exit status 3, allowed is 0", "line 30", "broken"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if n := strings.Count(err.Error(), "\n"); n != 20 {
		t.Errorf("the error shows %d lines of output, want 20", n)
	}
	if f.output("stderr") != "broken\n" || m.runs != 1 {
		t.Errorf("stderr %q, %d commands", f.output("stderr"), m.runs)
	}
	if left := f.left(t); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestZeroCanBeInvalid(t *testing.T) {
	f := setup(t, func(o *Options) { o.ValidExitCodes, o.Inline = []int{1}, []string{"true"} })
	if err := f.p.Provision(t.Context(), f.env, local.Machine{}); err == nil || !strings.Contains(err.Error(), "exit status 0, allowed is 1") {
		t.Errorf("error %v", err)
	}
}

// A broken execute_command is the script's failure, not a reason to try again.
func TestSyntaxErrorIsNotRetried(t *testing.T) {
	f := setup(t, func(o *Options) { o.ExecuteCommand, o.Inline = "( {{.Path}}", []string{"true"} })
	m := &counting{Machine: local.Machine{}}
	if err := f.p.Provision(t.Context(), f.env, m); err == nil || m.runs != 1 {
		t.Errorf("error %v after %d commands", err, m.runs)
	}
}

func TestSkipCleanKeepsTheScriptButNotTheEnvironment(t *testing.T) {
	f := setup(t, func(o *Options) {
		o.SkipClean, o.UseEnvVarFile, o.RemoteFile, o.Inline = true, true, "kept.sh", []string{"true"}
	})
	for range 2 { // the second time over what the first left
		if err := f.p.Provision(t.Context(), f.env, local.Machine{}); err != nil {
			t.Fatal(err)
		}
	}
	if left := f.left(t); len(left) != 1 || left[0] != "kept.sh" {
		t.Errorf("left behind: %v", left)
	}
}

func TestAPlantedLinkIsNotFollowed(t *testing.T) {
	f := setup(t, func(o *Options) { o.RemoteFile, o.SkipClean, o.Inline = "s.sh", true, []string{"true"} })
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(f.folder, "s.sh")); err != nil {
		t.Fatal(err)
	}
	if err := f.p.Provision(t.Context(), f.env, local.Machine{}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "kept" {
		t.Errorf("written through the link: %q", b)
	}
}

func TestMissingFolderIsRetriedAndTold(t *testing.T) {
	f := setup(t, func(o *Options) {
		o.RemoteFolder, o.StartRetryTimeout, o.Inline = "/no/such folder", 3*time.Second, []string{"true"}
	})
	m := &counting{Machine: local.Machine{}}
	err := f.p.Provision(t.Context(), f.env, m)
	if err == nil || !strings.Contains(err.Error(), "/no/such folder") || !strings.Contains(err.Error(), "start_retry_timeout") {
		t.Errorf("error %v", err)
	}
	if m.runs < 2 || f.warnings() != 1 {
		t.Errorf("%d attempts, %d warnings", m.runs, f.warnings())
	}
}

func TestCancelStopsAndRemovesTheScript(t *testing.T) {
	f := setup(t, func(o *Options) { o.UseEnvVarFile, o.Inline = true, []string{"echo running", "sleep 1000"} })
	ctx, cancel := context.WithCancel(t.Context())
	f.env.Events.Sink = event.Func(func(e event.Event) {
		if e.Text == "running" {
			cancel()
		}
	})
	if err := f.p.Provision(ctx, f.env, local.Machine{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left := f.left(t); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// scripted is a machine that does what the test says, one function per command;
// the last one serves all further commands.
type scripted struct {
	machine.Machine
	steps []func(context.Context, machine.Command) error
	lines []string
}

func (s *scripted) Run(ctx context.Context, c machine.Command) error {
	step := s.steps[min(len(s.lines), len(s.steps)-1)]
	s.lines = append(s.lines, c.Line)
	return step(ctx, c)
}

// started plays the part of the command up to the script's start.
func started(c machine.Command) {
	_, rest, _ := strings.Cut(c.Line, "\necho ")
	mark, _, _ := strings.Cut(rest, " ")
	io.WriteString(c.Stderr, "a banner\n")
	for _, b := range mark + "\n" { // in the smallest pieces
		io.WriteString(c.Stderr, string(b))
	}
}

func exits(status int) func(context.Context, machine.Command) error {
	return func(_ context.Context, c machine.Command) error {
		if c.Stderr != nil {
			started(c)
		}
		if status == 0 {
			return nil
		}
		return &machine.ExitError{Status: status}
	}
}

func fails(context.Context, machine.Command) error { return errors.New("connection refused") }

func TestConnections(t *testing.T) {
	hang := func(ctx context.Context, _ machine.Command) error { <-ctx.Done(); return ctx.Err() }
	breaks := func(_ context.Context, c machine.Command) error {
		started(c)
		io.WriteString(c.Stdout, "half")
		return io.ErrUnexpectedEOF
	}
	nothing := func(context.Context, machine.Command) error { return nil }
	lost := exits(machine.DisconnectStatus)
	type steps = []func(context.Context, machine.Command) error
	for name, tc := range map[string]struct {
		steps  steps
		o      func(*Options)
		err    string // empty: success
		runs   int
		waited time.Duration // at most
	}{
		"starts at the third attempt":    {steps{fails, fails, exits(0)}, nil, "", 3, time.Second},
		"never starts":                   {steps{fails}, nil, "start_retry_timeout (5m0s): connection refused", 0, 5 * time.Minute},
		"never answers":                  {steps{hang}, nil, "did not answer", 1, 5 * time.Minute},
		"does nothing":                   {steps{nothing}, func(o *Options) { o.StartRetryTimeout = 0 }, "did not run the command", 1, 0},
		"fails":                          {steps{exits(4)}, nil, "exit status 4", 1, 0},
		"breaks while it runs":           {steps{breaks}, nil, "not seen to its end: unexpected EOF; its last lines were:\n    half", 1, 0},
		"disconnects":                    {steps{lost}, nil, "connection was lost", 1, 0},
		"disconnects as expected":        {steps{lost, fails, fails, exits(0)}, func(o *Options) { o.ExpectDisconnect = true }, "", 4, time.Second},
		"disconnects, by its code":       {steps{lost, exits(0)}, func(o *Options) { o.ValidExitCodes = []int{machine.DisconnectStatus} }, "", 2, 0},
		"disconnects and does not clean": {steps{lost}, func(o *Options) { o.ExpectDisconnect, o.SkipClean = true, true }, "", 1, 0},
		"never comes back":               {steps{lost, fails}, func(o *Options) { o.ExpectDisconnect = true }, "set skip_clean", 0, 5 * time.Minute},
		"pauses":                         {steps{exits(0)}, func(o *Options) { o.PauseAfter = time.Hour }, "", 1, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t, func(o *Options) { o.Inline = []string{"true"} })
			if tc.o != nil {
				tc.o(&f.p.o)
			}
			synctest.Test(t, func(t *testing.T) {
				m := &scripted{Machine: local.Machine{}, steps: tc.steps}
				begin := time.Now()
				err := f.p.Provision(t.Context(), f.env, m)
				if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				if tc.runs != 0 && len(m.lines) != tc.runs {
					t.Errorf("%d commands, want %d", len(m.lines), tc.runs)
				}
				if waited := time.Since(begin); waited > tc.waited || tc.waited >= time.Minute && waited < tc.waited-3*time.Second {
					t.Errorf("it took %v, want up to %v", waited, tc.waited)
				}
				if strings.Contains(f.output(""), "banner") {
					t.Error("what came before the script was shown as its output")
				}
			})
		})
	}
}

func TestPauseAfterCanBeCancelled(t *testing.T) {
	f := setup(t, func(o *Options) { o.Inline, o.PauseAfter = []string{"true"}, time.Hour })
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.p.Provision(ctx, f.env, &scripted{Machine: local.Machine{}, steps: []func(context.Context, machine.Command) error{exits(0)}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestUnpredictableNames(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		r, err := New().newRun(&provisioners.Env{}, nil)
		if err != nil || !strings.HasPrefix(r.path, "/tmp/script_") || seen[r.path] {
			t.Fatalf("path %q, error %v", r.path, err)
		}
		seen[r.path] = true
	}
}

func TestMachinesThatCannot(t *testing.T) {
	f := setup(t, func(o *Options) { o.Inline = []string{"true"} })
	if err := f.p.Provision(t.Context(), f.env, nil); err == nil || !strings.Contains(err.Error(), "needs a machine") {
		t.Errorf("no machine: %v", err)
	}
	if err := f.p.Provision(t.Context(), f.env, windows{}); err == nil || !strings.Contains(err.Error(), "powershell") {
		t.Errorf("Windows: %v", err)
	}
}

type windows struct{ local.Machine }

func (windows) Platform() machine.Platform {
	return machine.Platform{OS: "windows", Shell: "powershell"}
}

func TestUnknownFieldIsAnError(t *testing.T) {
	for _, o := range []Options{
		{Inline: []string{"echo {{ .Nmaes }}"}},
		{Inline: []string{"true"}, ExecuteCommand: "{{ .Nmaes }} {{.Path}}"},
	} {
		f := setup(t, func(have *Options) { have.Inline, have.ExecuteCommand = o.Inline, o.ExecuteCommand })
		m := &counting{Machine: local.Machine{}}
		if err := f.p.Provision(t.Context(), f.env, m); err == nil || !strings.Contains(err.Error(), "Nmaes") || !strings.Contains(err.Error(), "Host") || m.runs > 0 {
			t.Errorf("error %v after %d commands", err, m.runs)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s.sh"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inline := []string{"true"}
	for name, tc := range map[string]struct {
		o    Options
		want []string // options
	}{
		"good":             {Options{Script: "s.sh", Env: map[string]string{"A": ""}, EnvironmentVars: []string{"B="}}, nil},
		"nothing":          {Options{}, []string{""}},
		"two":              {Options{Inline: inline, Script: "s.sh"}, []string{"script"}},
		"three":            {Options{Inline: inline, Script: "s.sh", Scripts: []string{"s.sh"}}, []string{"script"}},
		"missing script":   {Options{Script: "no.sh"}, []string{"script"}},
		"bad scripts":      {Options{Scripts: []string{"s.sh", "", "no.sh", "."}}, []string{"scripts", "scripts", "scripts"}},
		"bad env":          {Options{Inline: inline, EnvironmentVars: []string{"A", "=x", "B=1"}, Env: map[string]string{"a b": "", "1": ""}}, []string{"environment_vars", "environment_vars", "env", "env"}},
		"bad format":       {Options{Inline: inline, EnvVarFormat: "%s"}, []string{"env_var_format"}},
		"bad command":      {Options{Inline: inline, ExecuteCommand: "{{.Path"}, []string{"execute_command"}},
		"bad inline":       {Options{Inline: []string{"{{ x }}"}}, []string{"inline"}},
		"negative pause":   {Options{Inline: inline, PauseAfter: -1}, []string{"pause_after"}},
		"negative timeout": {Options{Inline: inline, StartRetryTimeout: -1}, []string{"start_retry_timeout"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Provisioner{tc.o}
			var got []string
			for _, problem := range p.Check(t.Context(), &provisioners.Env{Dir: dir}) {
				got = append(got, problem.Option)
				if problem.Summary == "" || problem.Warning {
					t.Errorf("problem %+v", problem)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("problems with %q, want %q", got, tc.want)
			}
		})
	}
}
