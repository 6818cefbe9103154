package ansible

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// tool writes a program that prints text.
func tool(t *testing.T, dir, name, text string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the program of the test is a shell script")
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho x >>"+name+".asked\ncat <<'END'\n"+text+"\nEND\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return "./" + name
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"p.yml", "hosts", "key"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		o    func(*Options)
		want []string
	}{
		"good":             {func(*Options) {}, nil},
		"nothing":          {func(o *Options) { o.PlaybookFile = "" }, []string{""}},
		"both":             {func(o *Options) { o.Module = "ping" }, []string{"playbook_file"}},
		"missing":          {func(o *Options) { o.PlaybookFile, o.GalaxyFile = "no.yml", "no" }, []string{"galaxy_file", "playbook_file"}},
		"several":          {func(o *Options) { o.PlaybookFile, o.PlaybookFiles = "", []string{"p.yml", "no.yml", "d"} }, []string{"playbook_files.1", "playbook_files.2"}},
		"a directory":      {func(o *Options) { o.PlaybookFile, o.InventoryDirectory = "d", "p.yml" }, []string{"inventory_directory", "playbook_file"}},
		"args":             {func(o *Options) { o.ModuleArgs = map[string]string{"a": "b"} }, []string{"module_args"}},
		"args in a module": {func(o *Options) { o.PlaybookFile, o.Module = "", "apt name=x" }, []string{"module"}},
		"hostile names": {func(o *Options) {
			o.HostAlias, o.Groups, o.EmptyGroups, o.User = "a b", []string{"ok", "x]\n[y"}, []string{""}, "a\nb"
		}, []string{"empty_groups.0", "groups.1", "host_alias", "user"}},
		"proxy": {func(o *Options) {
			o.LocalPort, o.AnsibleProxyKeyType, o.AnsibleProxyBindAddress, o.AnsibleProxyHost = 70000, "DSA", "0.0.0.0", "-x"
		}, []string{"ansible_proxy_bind_address", "ansible_proxy_host", "ansible_proxy_key_type", "local_port"}},
		"variables":  {func(o *Options) { o.AnsibleEnvVars = []string{"A=b", "secret"} }, []string{"ansible_env_vars.1"}},
		"templates":  {func(o *Options) { o.ExtraArguments, o.InventoryFileTemplate = []string{"{{ x"}, "{{ y" }, []string{"extra_arguments", "inventory_file_template"}},
		"inventory":  {func(o *Options) { o.InventoryFile, o.Groups = "hosts", []string{"g"} }, []string{"groups (warning)"}},
		"commands":   {func(o *Options) { o.Command = "no-such-playbook" }, nil}, // validate does not ask
		"no command": {func(o *Options) { o.Command = "" }, []string{"command"}},
	} {
		p := New(&Versions{})
		p.o.PlaybookFile = "p.yml"
		tc.o(&p.o)
		var got []string
		for _, problem := range p.Check(t.Context(), &provisioners.Env{Dir: dir, Validate: true}) {
			if problem.Warning {
				problem.Option += " (warning)"
			}
			got = append(got, problem.Option)
			if problem.Summary == "" || strings.Contains(problem.Summary, "secret") {
				t.Errorf("%s: %+v", name, problem)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: problems with %q, want %q", name, got, tc.want)
		}
	}
}

func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p.yml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for name, tc := range map[string]struct{ says, want string }{
		"new":     {"ansible-playbook [core 2.14.18]\n  config file = None", ""},
		"base":    {"ansible-playbook [base 2.10.8]", ""},
		"classic": {"ansible-playbook 2.9.27", ""},
		"old":     {"ansible-playbook 2.8.20", "is Ansible 2.8, but 2.9 is the oldest"},
		"other":   {"\x1b[31mhello", `does not say which Ansible it is, but "hello"`},
	} {
		versions := &Versions{}
		for range 2 { // the second time it is known
			p := New(versions)
			p.o.PlaybookFile, p.o.Command = "p.yml", tool(t, dir, name, tc.says)
			problems := p.Check(t.Context(), &provisioners.Env{Dir: dir})
			if tc.want == "" && problems != nil || tc.want != "" && (len(problems) != 1 || problems[0].Option != "command" || !strings.Contains(problems[0].Summary, tc.want)) {
				t.Errorf("%s: %+v", name, problems)
			}
		}
		if asked, err := os.ReadFile(filepath.Join(dir, name+".asked")); err != nil || string(asked) != "x\n" {
			t.Errorf("%s: asked %q, %v", name, asked, err)
		}
	}
	p := New(&Versions{})
	p.o.PlaybookFile, p.o.GalaxyFile, p.o.Command, p.o.GalaxyCommand = "p.yml", "p.yml", "no-such-playbook", "./no-such-galaxy"
	problems := p.Check(t.Context(), &provisioners.Env{Dir: dir})
	if len(problems) != 2 || problems[0].Option != "galaxy_command" || problems[1].Option != "command" || !strings.Contains(problems[1].Detail, "ansible-core") {
		t.Errorf("%+v", problems)
	}
	if err := p.Provision(t.Context(), &provisioners.Env{Dir: dir}, nil); !errors.Is(err, machine.ErrNone) {
		t.Errorf("no machine: %v", err)
	}
}

func TestSCPCommand(t *testing.T) {
	for line, want := range map[string]string{
		"scp -t /x":          "true /x",
		"scp -r -p -f 'a b'": "false a b",
		"scp -v -t -- -x":    "true -x",
		"scp -tr ~/x":        "",
		"scp -t $HOME":       "",
		"scp -t a b":         "",
		"scp -t 'a'b'":       "",
		"scp a b":            "",
		"scp -t -f x":        "",
		"scp -tS x":          "",
		"scp -t x; reboot":   "",
		"/bin/scp -t x":      "",
	} {
		q, ok := scpCommand(line)
		if got := fmt.Sprint(q.take, " ", q.path); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %v", line, got, ok)
		}
	}
}
