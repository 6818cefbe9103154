package windowsshell

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/winrmtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/winrm"
	"github.com/ingotbuild/ingot/provisioners"
)

// start gives a machine, and what it was asked to do.
func start(t *testing.T) (machine.Machine, *[]string, *[][]string) {
	t.Helper()
	var lines []string
	var calls [][]string
	e := &winrmtest.Emulator{Other: func(p *winrmtest.Process) int {
		lines = append(lines, p.Line)
		if text, args, ok := winrmtest.Call(p); ok {
			if calls = append(calls, args); strings.Contains(text, "$a[2] + [char]10") {
				fmt.Fprint(p.Stderr, args[2]+"\n")
			}
		}
		return 0
	}}
	s := winrmtest.New(t, false, func(s *winrmtest.Server) { s.Run = e.Run })
	m, err := winrm.Dial(t.Context(), winrm.Config{Host: s.Host, Port: s.Port, User: s.User, Password: s.Password, NoProxy: true, Timeout: time.Minute}, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, &lines, &calls
}

func TestProvision(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.bat")
	if err := os.WriteFile(file, []byte("a\nb\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, lines, calls := start(t)
	p := New()
	p.o.Script, p.o.Env, p.o.RemotePath = file, map[string]string{"A": `"%x%"`}, "c:/t/s.bat"
	env := &provisioners.Env{BuildName: "web", BuilderType: "null"}
	if problems := p.Check(t.Context(), env); problems != nil {
		t.Fatal(problems)
	}
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	if len(*lines) != 1 {
		t.Fatalf("%d commands, want one", len(*lines))
	}
	args := (*calls)[0]
	text, _ := base64.StdEncoding.DecodeString(args[1])
	if args[0] != "c:/t/s.bat" || string(text) != "a\r\nb\r\n" || strings.Join(args[5:9], " ") != `A "%x%" PACKER_BUILDER_TYPE null` {
		t.Errorf("%q with %q", text, args)
	}

	p = New()
	p.o.Inline = []string{"dir {{ .Host }}"}
	p.o.ExecuteCommand, p.o.RemotePath, p.o.Env = `{{.Vars}}cmd /c "{{.Path}}"`, "c:/t/i.bat", map[string]string{"A": "a b"}
	env.Values = map[string]string{"Host": "h"}
	if problems := p.Check(t.Context(), env); problems != nil {
		t.Fatal(problems)
	}
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	if want := `set "A=a b" && set "PACKER_BUILDER_TYPE=null" && set "PACKER_BUILD_NAME=web" && cmd /c "c:/t/i.bat"`; len(*lines) != 4 || (*lines)[2] != want {
		t.Errorf("lines %q", *lines)
	}
	if text, _ := base64.StdEncoding.DecodeString((*calls)[1][1]); string(text) != "@echo off\r\ndir h\r\n" {
		t.Errorf("script %q", text)
	}
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		o    func(*Options)
		want string
	}{
		"nothing": {func(*Options) {}, ""},
		"missing": {func(o *Options) { o.Scripts = []string{"nowhere.bat"} }, "scripts"},
		"quotes": {func(o *Options) {
			o.Inline, o.ExecuteCommand, o.Env = []string{"x"}, "x", map[string]string{"A": `" & del`}
		}, "execute_command"},
		"negative":   {func(o *Options) { o.Inline, o.StartRetryTimeout = []string{"x"}, -1 }, "start_retry_timeout"},
		"no command": {func(o *Options) { o.Inline, o.EnvVarFormat = []string{"x"}, "set %s=%s && " }, "env_var_format"},
	} {
		p := New()
		test.o(&p.o)
		if problems := p.Check(t.Context(), &provisioners.Env{}); len(problems) != 1 || problems[0].Option != test.want {
			t.Errorf("%s: %v", name, problems)
		}
	}
	if err := New().Provision(t.Context(), &provisioners.Env{}, nil); !errors.Is(err, machine.ErrNone) {
		t.Errorf("without a machine: %v", err)
	}
}
