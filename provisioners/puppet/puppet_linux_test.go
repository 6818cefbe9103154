package puppet

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	. "github.com/ingotbuild/ingot/internal/confmgmt/confmgmttest"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// start boots a machine on this host's own system, which has Puppet.
func start(t *testing.T) machine.Machine {
	t.Helper()
	if _, err := exec.LookPath("puppet"); err != nil {
		sandboxtest.Missing(t, "needs puppet (Debian: puppet-agent)")
	}
	return Start(t)
}

// The real Puppet, on a machine, with everything that can be staged.
func TestApply(t *testing.T) {
	m := start(t)
	env, l := Env(t, map[string]string{
		"site.pp": `
file { '/etc/baked': content => "${facts['packer_build_name']} ${facts['packer_builder_type']} ${facts['role']} ${lookup('color')}\n", mode => '0600' }
include greet
`,
		"modules/greet/manifests/init.pp":   `class greet { file { '/etc/greeting': source => 'puppet:///modules/greet/hello' } }`,
		"modules/greet/files/hello":         "hello from a module\n",
		"more modules/other/manifests/x.pp": ``,
		"hiera.yaml":                        "version: 5\nhierarchy:\n  - {name: all, path: all.yaml, datadir: /etc/data, data_hash: yaml_data}\n",
	})
	Sh(t, m, "mkdir /etc/data; echo 'color: blue' >/etc/data/all.yaml")
	p := NewMasterless()
	p.o.ManifestFile, p.o.ModulePaths, p.o.HieraConfigPath = "site.pp", []string{"modules", "more modules"}, "hiera.yaml"
	p.o.PreventSudo, p.o.CleanStagingDir = true, true
	p.o.Facter = map[string]string{"role": "it's \"$HOME\""}
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 2)
	if got, want := Sh(t, m, "cat /etc/baked /etc/greeting; stat -c %a /etc/baked"), "web sandbox it's \"$HOME\" blue\nhello from a module\n600"; got != want {
		t.Errorf("the machine has %q, want %q", got, want)
	}
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 0)
	if got := Sh(t, m, "ls -A /tmp"); got != "" {
		t.Errorf("left in /tmp: %s", got)
	}
	if text := l.String(); strings.Contains(text, "HOME") || !strings.Contains(text, "puppet apply --detailed-exitcodes --modulepath=") {
		t.Errorf("events:\n%s", text)
	}
}

func TestDirectoryOfManifestsStays(t *testing.T) {
	m := start(t)
	env, _ := Env(t, map[string]string{"m/a.pp": "file { '/etc/a': content => 'a' }", "m/b.pp": "file { '/etc/b': content => 'b' }"})
	p := NewMasterless()
	p.o.ManifestFile, p.o.PreventSudo = "m", true
	p.o.StagingDir = "/opt/it's staged"
	p.o.ExtraArguments = []string{"--log_level={{if .Sudo}}x{{else}}err{{end}}", "--environment=production"}
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	// Nothing was printed; the exit status tells that there was a change.
	Changes(t, p, 1)
	if got := Sh(t, m, `cat /etc/a /etc/b; ls "/opt/it's staged/manifests"`); got != "aba.pp\nb.pp" {
		t.Errorf("the machine has %q", got)
	}
}

func TestFailingResource(t *testing.T) {
	m := start(t)
	env, l := Env(t, map[string]string{
		"site.pp": "file { '/etc/good': content => 'x' }\nexec { '/bin/sh -c \"echo broken pipework >&2; exit 3\"': logoutput => true }",
		"bad.pp":  "file { '/etc/x': content => 'x'",
	})
	p := NewMasterless()
	p.o.ManifestFile, p.o.PreventSudo, p.o.CleanStagingDir = "site.pp", true, true
	err := p.Provision(t.Context(), env, m)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"exit status 6", "some resources failed, others were changed", "Exec[/bin/sh -c", "returned 3 instead of one of [0]"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\x1b") {
		t.Errorf("error %q holds colours", err)
	}
	Changes(t, p, 1)
	if got := Sh(t, m, "ls -A /tmp"); got != "" {
		t.Errorf("left in /tmp: %s", got)
	}
	p.o.IgnoreExitCodes = true
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Errorf("ignore_exit_codes: %v", err)
	}
	if !strings.Contains(l.String(), "ignore_exit_codes: Puppet ended with exit status 4 (some resources failed)") {
		t.Errorf("events:\n%s", l)
	}
	p.o.IgnoreExitCodes, p.o.ManifestFile = false, "bad.pp"
	err = p.Provision(t.Context(), env, m)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "Syntax error") {
		t.Errorf("a manifest that does not parse: %v", err)
	}
	if n, known := p.Changes(); known {
		t.Errorf("%d changes are known of a run that failed", n)
	}
}

// The shell's own failure has the status of Puppet's "changed".
func TestStatusOfTheShellIsNoSuccess(t *testing.T) {
	m := start(t)
	env, _ := Env(t, map[string]string{"site.pp": ""})
	for name, change := range map[string]func(*Masterless){
		"working_directory": func(p *Masterless) { p.o.WorkingDir = "/no/such directory" },
		"execute_command":   func(p *Masterless) { p.o.ExecuteCommand = "( puppet apply --detailed-exitcodes {{.ManifestFile}}" },
	} {
		p := NewMasterless()
		p.o.ManifestFile, p.o.PreventSudo = "site.pp", true
		change(p)
		if err := p.Provision(t.Context(), env, m); err == nil || !strings.Contains(err.Error(), "did not start") {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := NewMasterless()
	p.o.ManifestFile, p.o.PreventSudo, p.o.PuppetBinDir = "site.pp", true, "/no/such/bin"
	if err := p.Provision(t.Context(), env, m); err == nil || !strings.Contains(err.Error(), "puppet_bin_dir") {
		t.Errorf("no puppet: %v", err)
	}
}

// Without anything to stage, the directory to work in is still there.
func TestServerNeedsNoFile(t *testing.T) {
	m := Start(t)
	Program(t, m, "sudo", `shift; exec "$@"`)
	Program(t, m, "puppet", `echo "$PWD $* $FACTER_packer_build_name" >>/record; echo "Notice: Applied catalog in 0.1 seconds"`)
	env, _ := Env(t, nil)
	p := NewServer()
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 0)
	if got := Sh(t, m, "cat /record"); got != "/tmp/packer-puppet-server agent --onetime --no-daemonize --detailed-exitcodes --logdest=console web" {
		t.Errorf("puppet had %q", got)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	m := start(t)
	env, l := Env(t, map[string]string{"site.pp": "exec { '/bin/sleep 987': timeout => 0 }"})
	p := NewMasterless()
	p.o.ManifestFile, p.o.PreventSudo, p.o.CleanStagingDir = "site.pp", true, true
	p.o.ExtraArguments = []string{"--debug"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.Output = func(s string) {
		if strings.Contains(s, "Executing: '/bin/sleep 987'") {
			cancel()
		}
	}
	if err := p.Provision(ctx, env, m); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	Processes(t, m, "sleep 987|puppet")
	if got := Sh(t, m, "ls -A /tmp"); got != "" {
		t.Errorf("left in /tmp: %s", got)
	}
}

func TestAnotherUsersStagingDirectoryIsRefused(t *testing.T) {
	m := start(t)
	env, _ := Env(t, map[string]string{"site.pp": "file { '/etc/never': content => 'x' }"})
	p := NewMasterless()
	p.o.ManifestFile, p.o.PreventSudo = "site.pp", true
	for _, how := range []string{"mkdir S && chown nobody S", "mkdir /tmp/real && ln -s /tmp/real S"} {
		Sh(t, m, strings.ReplaceAll("rm -rf S; "+how, "S", "/tmp/packer-puppet-masterless"))
		if err := p.Provision(t.Context(), env, m); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
			t.Errorf("%s: %v", how, err)
		}
		Sh(t, m, "test ! -e /etc/never; rm -rf /tmp/real /tmp/packer-puppet-masterless")
	}
}
