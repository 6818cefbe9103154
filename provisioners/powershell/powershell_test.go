package powershell

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/winrmtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/winrm"
	"github.com/ingotbuild/ingot/provisioners"
)

type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s %s: %s\n", e.Kind, e.Stream, e.Text)
}

// call is one thing that the machine was asked to do.
type call struct {
	line, text string
	args       []string
}

// setup gives a WinRM machine on which act answers each call, and the calls.
func setup(t *testing.T, act func(n int, c call, p *winrmtest.Process) int) (machine.Machine, *[]call) {
	t.Helper()
	var mu sync.Mutex
	var calls []call
	e := &winrmtest.Emulator{Other: func(p *winrmtest.Process) int {
		c := call{line: p.Line}
		c.text, c.args, _ = winrmtest.Call(p)
		mu.Lock()
		calls = append(calls, c)
		n := len(calls)
		mu.Unlock()
		return act(n, c, p)
	}}
	s := winrmtest.New(t, false, func(s *winrmtest.Server) { s.Run = e.Run })
	m, err := winrm.Dial(t.Context(), winrm.Config{Host: s.Host, Port: s.Port, User: s.User, Password: s.Password, NoProxy: true, Timeout: time.Minute}, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, &calls
}

// run says the mark, as the script does.
func mark(p *winrmtest.Process, c call) { fmt.Fprint(p.Stderr, c.args[2]+"\n") }

func provision(t *testing.T, m machine.Machine, o func(*Options), env *provisioners.Env) (string, error) {
	t.Helper()
	p := New()
	o(&p.o)
	var l log
	env.Events = event.Scope{Sink: &l}
	if problems := p.Check(t.Context(), env); problems != nil {
		t.Fatal(problems)
	}
	err := p.Provision(t.Context(), env, m)
	return l.text.String(), err
}

func TestInline(t *testing.T) {
	m, calls := setup(t, func(_ int, c call, p *winrmtest.Process) int {
		mark(p, c)
		fmt.Fprint(p.Stdout, "out ü\r\n")
		fmt.Fprint(p.Stderr, "err\r\n")
		return 3
	})
	said, err := provision(t, m, func(o *Options) {
		o.Inline = []string{"echo {{ .Host }}", "é"}
		o.EnvironmentVars, o.Env = []string{"A={{ .Host }}", "B=b"}, map[string]string{"B": `'"$x`}
		o.ValidExitCodes = []int{0, 3}
	}, &provisioners.Env{BuildName: "web", BuilderType: "null", Values: map[string]string{"Host": "10.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said, "output stdout: out ü\n") || !strings.Contains(said, "output stderr: err\n") {
		t.Errorf("said:\n%s", said)
	}
	if len(*calls) != 1 {
		t.Fatalf("%d calls, want one round trip", len(*calls))
	}
	c := (*calls)[0]
	if !strings.Contains(c.line, "powershell ") || !strings.Contains(c.line, "-ExecutionPolicy bypass") || !strings.Contains(c.text, "& $a[0]") {
		t.Errorf("line %.200s", c.line)
	}
	text, _ := base64.StdEncoding.DecodeString(c.args[1])
	if string(text) != "\ufeffecho 10.0.0.1\né\n" {
		t.Errorf("script %q", text)
	}
	if !strings.HasPrefix(c.args[0], "c:/Windows/Temp/script-") || c.args[3] != "0" || c.args[4] != "1" {
		t.Errorf("arguments %q", c.args)
	}
	if got, want := strings.Join(c.args[5:], " "), `A 10.0.0.1 B '"$x PACKER_BUILDER_TYPE null PACKER_BUILD_NAME web`; got != want {
		t.Errorf("variables %q, want %q", got, want)
	}
}

func TestFailure(t *testing.T) {
	m, calls := setup(t, func(_ int, c call, p *winrmtest.Process) int {
		mark(p, c)
		fmt.Fprint(p.Stderr, "#< CLIXML\r\n<Objs><S S=\"Error\">cannot find it_x000D__x000A_</S></Objs>")
		return 1
	})
	_, err := provision(t, m, func(o *Options) { o.Inline = []string{"x"} }, &provisioners.Env{})
	if err == nil || !strings.Contains(err.Error(), "exit status 1, allowed is 0") || !strings.Contains(err.Error(), "\n    cannot find it") {
		t.Errorf("error %v", err)
	}
	if len(*calls) != 1 {
		t.Errorf("a script that ran was started %d times", len(*calls))
	}
}

func TestStartIsTriedAgain(t *testing.T) {
	m, calls := setup(t, func(n int, c call, p *winrmtest.Process) int {
		if n < 3 {
			fmt.Fprint(p.Stderr, "the disk is not ready")
			return 1
		}
		mark(p, c)
		return 0
	})
	said, err := provision(t, m, func(o *Options) { o.Inline = []string{"x"} }, &provisioners.Env{})
	if err != nil || len(*calls) != 3 || !strings.Contains(said, "the disk is not ready") {
		t.Errorf("%v after %d calls:\n%s", err, len(*calls), said)
	}
	m, _ = setup(t, func(_ int, c call, p *winrmtest.Process) int { return 1 })
	_, err = provision(t, m, func(o *Options) { o.Inline = []string{"x"}; o.StartRetryTimeout = 300 * time.Millisecond }, &provisioners.Env{})
	if err == nil || !strings.Contains(err.Error(), "start_retry_timeout (300ms)") {
		t.Errorf("error %v", err)
	}
}

func TestExecuteCommand(t *testing.T) {
	m, calls := setup(t, func(n int, c call, p *winrmtest.Process) int {
		if n == 2 {
			fmt.Fprint(p.Stdout, "ran\r\n")
			return 5
		}
		return 0
	})
	file := filepath.Join(t.TempDir(), "s.ps1")
	if err := os.WriteFile(file, []byte("a\r\nb"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := provision(t, m, func(o *Options) {
		o.Script, o.RemotePath, o.RemoteEnvVarPath = file, "c:/t/s.ps1", "c:/t/e.ps1"
		o.Env = map[string]string{"A": "$x`\"it's"}
		o.EnvVarFormat = `$env:%s="%s"; `
		o.ExecuteCommand = `powershell -c ". {{.Vars}}; &'{{.Path}}'"`
	}, &provisioners.Env{})
	if err == nil || !strings.Contains(err.Error(), "exit status 5") || !strings.Contains(said, "stdout: ran") {
		t.Errorf("%v\n%s", err, said)
	}
	if len(*calls) != 3 {
		t.Fatalf("%d calls", len(*calls))
	}
	install, run, remove := (*calls)[0], (*calls)[1], (*calls)[2]
	if install.args[0] != "c:/t/s.ps1" || install.args[1] != base64.StdEncoding.EncodeToString([]byte("a\nb")) || install.args[2] != "c:/t/e.ps1" ||
		!strings.Contains(install.args[3], "$env:A=\"`$x```\"it's\"; \n") {
		t.Errorf("installed %q", install.args)
	}
	if run.line != `powershell -c ". c:/t/e.ps1; &'c:/t/s.ps1'"` {
		t.Errorf("ran %s", run.line)
	}
	if strings.Join(remove.args, " ") != " c:/t/s.ps1 c:/t/e.ps1" {
		t.Errorf("removed %q", remove.args)
	}
}

func TestElevated(t *testing.T) {
	const password = "s3cr3t'\"$"
	m, calls := setup(t, func(n int, c call, p *winrmtest.Process) int {
		if len(c.args) > 5 {
			mark(p, c)
		}
		fmt.Fprint(p.Stdout, "elevated\r\n")
		return 0
	})
	said, err := provision(t, m, func(o *Options) {
		o.Inline, o.ElevatedUser, o.ElevatedPassword = []string{"x"}, "Administrator", "{{ .WinRMPassword }}"
		o.Env, o.UsePwsh, o.DebugMode, o.ExecutionPolicy = map[string]string{"A": "it’s"}, true, 1, "none"
	}, &provisioners.Env{Values: map[string]string{"WinRMPassword": password}})
	if err != nil || !strings.Contains(said, "stdout: elevated") || len(*calls) != 1 {
		t.Fatalf("%v after %d calls:\n%s", err, len(*calls), said)
	}
	c := (*calls)[0]
	if c.args[7] != "Administrator" || c.args[8] != password || !strings.Contains(c.text, "RegisterTaskDefinition") {
		t.Errorf("arguments %q", c.args)
	}
	if strings.Contains(c.line+c.text+said+c.args[9], password) {
		t.Error("the password is in a command line, a script, or a log")
	}
	task, ok := winrmtest.PowerShell(strings.Split(c.args[9], " > ")[0])
	if !ok || !strings.HasPrefix(c.args[9], `/d /s /c "pwsh -NoLogo`) || strings.Contains(c.args[9], "ExecutionPolicy") ||
		!strings.Contains(task, "& 'c:/Windows/Temp/script-") || !strings.Contains(task, "Set-PSDebug -Trace 1") {
		t.Errorf("the task runs %q: %s", c.args[9], task)
	}
	if !strings.Contains(c.args[5], "SetEnvironmentVariable('A', 'it’’s')") {
		t.Errorf("variables %q", c.args[5])
	}
}

func TestLostConnection(t *testing.T) {
	lost := &lostMachine{}
	_, err := provision(t, lost, func(o *Options) { o.Inline = []string{"x"} }, &provisioners.Env{})
	if err == nil || !strings.Contains(err.Error(), "connection was lost") {
		t.Errorf("error %v", err)
	}
	lost = &lostMachine{}
	if _, err = provision(t, lost, func(o *Options) { o.Inline, o.ValidExitCodes = []string{"x"}, []int{0, machine.DisconnectStatus} }, &provisioners.Env{}); err != nil || lost.n != 3 {
		t.Errorf("%v after %d commands, want the removal tried again", err, lost.n)
	}
}

// lostMachine goes away during the first command, and is back with the third.
type lostMachine struct {
	machine.Machine
	n int
}

func (l *lostMachine) Run(_ context.Context, c machine.Command) error {
	l.n++
	switch l.n {
	case 1:
		_, args, _ := winrmtest.Call(&winrmtest.Process{Line: c.Line, Stdin: c.Stdin})
		io.WriteString(c.Stderr, args[2]+"\n")
		return &machine.ExitError{Status: machine.DisconnectStatus}
	case 2:
		return errors.New("connection refused")
	}
	return nil
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		o    func(*Options)
		want string
	}{
		"nothing":         {func(*Options) {}, ""},
		"both":            {func(o *Options) { o.Inline, o.Script = []string{"x"}, "/dev/null" }, "script"},
		"missing":         {func(o *Options) { o.Script = "nowhere.ps1" }, "script"},
		"policy":          {func(o *Options) { o.Inline, o.ExecutionPolicy = []string{"x"}, "bypass; exit" }, "execution_policy"},
		"debug":           {func(o *Options) { o.Inline, o.DebugMode = []string{"x"}, 3 }, "debug_mode"},
		"password alone":  {func(o *Options) { o.Inline, o.ElevatedPassword = []string{"x"}, "p" }, "elevated_password"},
		"wrong command":   {func(o *Options) { o.Inline, o.ElevatedUser, o.ExecuteCommand = []string{"x"}, "u", "c" }, "execute_command"},
		"template":        {func(o *Options) { o.Inline = []string{"{{"} }, "inline"},
		"variable":        {func(o *Options) { o.Inline, o.EnvironmentVars = []string{"x"}, []string{"secret"} }, "environment_vars"},
		"variable name":   {func(o *Options) { o.Inline, o.Env = []string{"x"}, map[string]string{"a-b": ""} }, "env"},
		"format":          {func(o *Options) { o.Inline, o.EnvVarFormat = []string{"x"}, "%s" }, "env_var_format"},
		"elevated format": {func(o *Options) { o.Inline, o.ElevatedUser, o.ElevatedEnvVarFormat = []string{"x"}, "u", "%d" }, "elevated_env_var_format"},
		"negative":        {func(o *Options) { o.Inline, o.PauseAfter = []string{"x"}, -1 }, "pause_after"},
	} {
		p := New()
		test.o(&p.o)
		problems := p.Check(t.Context(), &provisioners.Env{})
		if len(problems) != 1 || problems[0].Option != test.want || problems[0].Summary == "" {
			t.Errorf("%s: %v", name, problems)
		}
	}
	if err := New().Provision(t.Context(), &provisioners.Env{}, nil); !errors.Is(err, machine.ErrNone) {
		t.Errorf("without a machine: %v", err)
	}
}
