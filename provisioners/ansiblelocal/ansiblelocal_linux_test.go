package ansiblelocal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// box boots a machine on this host's own system, which has Ansible.
func box(t *testing.T) *counting {
	t.Helper()
	sandboxtest.Need(t)
	if _, err := exec.LookPath("ansible-playbook"); err != nil {
		sandboxtest.Missing(t, "needs ansible-playbook (Debian: ansible-core)")
	}
	cfg := sandbox.Config{ID: fmt.Sprintf("ansible-local-%d", os.Getpid()), Dir: t.TempDir(), Layers: []string{sandbox.HostBase}, Network: sandbox.NetworkNone}
	m, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Stop(context.Background()), sandbox.Remove(cfg.Dir)); err != nil {
			t.Error(err)
		}
	})
	return &counting{Machine: m}
}

// counting counts what goes to the machine.
type counting struct {
	machine.Machine
	runs, puts int
}

func (c *counting) Run(ctx context.Context, cmd machine.Command) error {
	c.runs++
	return c.Machine.Run(ctx, cmd)
}

func (c *counting) Put(ctx context.Context, dst string, tree machine.Tree) error {
	c.puts++
	return c.Machine.Put(ctx, dst, tree)
}

func must(t *testing.T, m *counting, line string) string {
	t.Helper()
	var out bytes.Buffer
	if err := m.Machine.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, &out)
	}
	return strings.TrimSpace(out.String())
}

type fixture struct {
	p   *Provisioner
	env *provisioners.Env
	mu  sync.Mutex
	out strings.Builder
}

func (f *fixture) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.String()
}

func setup(t *testing.T, files map[string]string, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{p: New()}
	dir := t.TempDir()
	for name, text := range files {
		sandboxtest.Write(t, dir, name, text, 0o600)
	}
	f.env = &provisioners.Env{BuildName: "web", BuilderType: "sandbox", Dir: dir, Values: map[string]string{"ID": "i1"},
		Events: event.Scope{Sink: event.Func(func(e event.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.out.WriteString(e.Text + "\n")
		})}}
	change(&f.p.o)
	return f
}

func check(t *testing.T, f *fixture) {
	t.Helper()
	if problems := f.p.Check(t.Context(), f.env); problems != nil {
		t.Fatalf("Check: %+v", problems)
	}
}

func TestTree(t *testing.T) {
	f := setup(t, map[string]string{
		"plays/site.yml":                   "- hosts: web\n  gather_facts: false\n  roles: [motd, there]\n",
		"plays/roles/there/tasks/main.yml": "- copy: {dest: /etc/there, content: here}\n",
		"other.yml":                        "- hosts: all\n  gather_facts: false\n  tasks: [{copy: {src: extra.txt, dest: /etc/extra}}, {copy: {dest: /etc/vars, content: '{{ a }} {{ b }} {{ c }} {{ packer_build_name }}'}}]\n",
		"extra.txt":                        "extra",
		"x/motd/tasks/main.yml":            "- template: {src: m.j2, dest: /etc/motd}\n",
		"x/motd/templates/m.j2":            "by {{ packer_builder_type }}",
		"gv/web.yml":                       "a: group\n",
		"hv/127.0.0.1.yml":                 "b: host\n",
	}, func(o *Options) {
		o.PlaybookFiles, o.PlaybookDir = []string{"plays/site.yml", "other.yml"}, "plays"
		o.PlaybookPaths, o.RolePaths = []string{"extra.txt"}, []string{"x/motd"}
		o.GroupVars, o.HostVars, o.InventoryGroups = "gv", "hv", []string{"web"}
		o.ExtraArguments = []string{"-e", "c={{ .ID }}"}
		o.CleanStagingDirectory = true
	})
	check(t, f)
	m := box(t)
	for i, want := range []int{4, 0} {
		m.runs, m.puts = 0, 0
		if err := f.p.Provision(t.Context(), f.env, m); err != nil {
			t.Fatal(err, f.said())
		}
		if n, known := f.p.Changes(); n != want || !known {
			t.Errorf("run %d: %d changes, %v; want %d", i, n, known, want)
		}
		if m.puts != 1 || m.runs != 2 { // the second one removes the directory
			t.Errorf("run %d: %d trees and %d commands", i, m.puts, m.runs)
		}
	}
	if got := must(t, m, "cat /etc/motd /etc/there /etc/extra /etc/vars"); got != "by sandboxhereextragroup host i1 web" {
		t.Errorf("the machine has %q", got)
	}
	if left := must(t, m, "ls /tmp/packer-provisioner-ansible-local"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	if !strings.Contains(f.said(), "Play recap: 127.0.0.1: ok=4 changed=4 unreachable=0 failed=0") {
		t.Errorf("no recap in %s", f.said())
	}

	t.Run("a failing task", func(t *testing.T) {
		f := setup(t, map[string]string{"p.yml": "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: break it\n      shell: echo no space >&2; exit 7\n", "inv": "here ansible_connection=local\n"},
			func(o *Options) {
				o.PlaybookFile, o.StagingDirectory, o.InventoryFile = "p.yml", "/srv/stage it", "inv"
			})
		check(t, f)
		err := f.p.Provision(t.Context(), f.env, m)
		for _, want := range []string{"exit status 2", `here: task "break it" (p.yml:4)`, "(rc 7)", "no space"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v lacks %q", err, want)
			}
		}
		must(t, m, "test -f '/srv/stage it/p.yml'")
	})
	t.Run("no Ansible", func(t *testing.T) {
		f := setup(t, map[string]string{"p.yml": "- hosts: all\n"}, func(o *Options) { o.PlaybookFile, o.Command = "p.yml", "A=1 no-such-playbook" })
		check(t, f)
		if err := f.p.Provision(t.Context(), f.env, m); err == nil || !strings.Contains(err.Error(), "the machine has no Ansible (or no no-such-playbook)") || !strings.Contains(err.Error(), "ansible-core") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("galaxy", func(t *testing.T) {
		must(t, m, "mkdir -p /tmp/g/motd2/tasks && echo '- copy: {dest: /etc/motd2, content: x}' > /tmp/g/motd2/tasks/main.yml && mkdir /tmp/g/motd2/meta && echo 'galaxy_info: {author: a, description: d, license: MIT, min_ansible_version: \"2.9\"}' > /tmp/g/motd2/meta/main.yml && tar -C /tmp/g -czf /tmp/motd2.tgz motd2")
		for name, change := range map[string]func(*Options){
			"staged":    func(*Options) {},
			"elsewhere": func(o *Options) { o.GalaxyRolesPath = "/opt/roles" },
		} {
			f := setup(t, map[string]string{"req.yml": "- {src: /tmp/motd2.tgz, name: motd2}\n", "p.yml": "- hosts: all\n  gather_facts: false\n  roles: [motd2]\n"},
				func(o *Options) { o.PlaybookFile, o.GalaxyFile = "p.yml", "req.yml"; change(o) })
			check(t, f)
			must(t, m, "rm -f /etc/motd2")
			if err := f.p.Provision(t.Context(), f.env, m); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, f.said())
			}
			must(t, m, "test -f /etc/motd2")
		}
		must(t, m, "test -d /opt/roles/motd2")
	})
	t.Run("cancel", func(t *testing.T) {
		f := setup(t, map[string]string{"p.yml": "- hosts: all\n  gather_facts: false\n  tasks: [{shell: touch /tmp/running; sleep 1000}]\n"},
			func(o *Options) {
				o.PlaybookFile, o.StagingDirectory, o.CleanStagingDirectory = "p.yml", "/srv/cancelled", true
			})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error)
		go func() { ended <- f.p.Provision(ctx, f.env, m) }()
		must(t, m, "until [ -e /tmp/running ]; do sleep 0.05; done")
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		must(t, m, "! test -e /srv/cancelled; ! pgrep -f 'sleep 100[0]'")
	})
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		o    func(*Options)
		want []string
	}{
		"good":        {func(o *Options) { o.PlaybookFile = "p.yml" }, nil},
		"nothing":     {func(*Options) {}, []string{""}},
		"both":        {func(o *Options) { o.PlaybookFile, o.PlaybookFiles = "p.yml", []string{"p.yml"} }, []string{"playbook_files"}},
		"missing":     {func(o *Options) { o.PlaybookFile = "no.yml" }, []string{"playbook_file"}},
		"a directory": {func(o *Options) { o.PlaybookFile = "d" }, []string{"playbook_file"}},
		"no directories": {func(o *Options) {
			o.PlaybookFile, o.RolePaths, o.GroupVars = "p.yml", []string{"d", "p.yml", ""}, "p.yml"
		}, []string{"group_vars", "role_paths.1", "role_paths.2"}},
		"a hostile group":   {func(o *Options) { o.PlaybookFile, o.InventoryGroups = "p.yml", []string{"a]\nx"} }, []string{"inventory_groups.0"}},
		"relative staging":  {func(o *Options) { o.PlaybookFile, o.StagingDirectory = "p.yml", "x" }, []string{"staging_directory"}},
		"would remove /etc": {func(o *Options) { o.PlaybookFile, o.StagingDirectory, o.CleanStagingDirectory = "p.yml", "/etc/", true }, []string{"clean_staging_directory"}},
		"a bad template":    {func(o *Options) { o.PlaybookFile, o.ExtraArguments = "p.yml", []string{"{{ x"} }, []string{"extra_arguments"}},
		"no command":        {func(o *Options) { o.PlaybookFile, o.Command = "p.yml", " " }, []string{"command"}},
	} {
		f := setup(t, map[string]string{"p.yml": "", "d/x": ""}, tc.o)
		var got []string
		for _, p := range f.p.Check(t.Context(), f.env) {
			got = append(got, p.Option)
			if p.Summary == "" || p.Warning {
				t.Errorf("%s: %+v", name, p)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: problems with %q, want %q", name, got, tc.want)
		}
	}
}

func TestOneNameTwice(t *testing.T) {
	f := setup(t, map[string]string{"a/p.yml": "", "b/p.yml": ""}, func(o *Options) { o.PlaybookFiles = []string{"a/p.yml", "b/p.yml"} })
	if err := f.p.Provision(t.Context(), f.env, &counting{Machine: windows{}}); err == nil || !strings.Contains(err.Error(), "powershell") {
		t.Errorf("Windows: %v", err)
	}
	m := &counting{Machine: unix{}}
	if err := f.p.Provision(t.Context(), f.env, m); err == nil || !strings.Contains(err.Error(), "would both be p.yml") || m.puts+m.runs > 0 {
		t.Errorf("error %v", err)
	}
	if err := f.p.Provision(t.Context(), f.env, nil); !errors.Is(err, machine.ErrNone) {
		t.Errorf("no machine: %v", err)
	}
}

type windows struct{ machine.Machine }

func (windows) Platform() machine.Platform {
	return machine.Platform{OS: "windows", Shell: "powershell"}
}

type unix struct{ machine.Machine }

func (unix) Platform() machine.Platform { return machine.Platform{} }
