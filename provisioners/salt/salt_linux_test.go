package salt

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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

// Salt itself is not in Debian. This program stands in for salt-call on a real
// machine: it records how it was called and what it found, prints what Salt
// prints, and exits as it is told. So the tests prove what Salt is given, and
// what becomes of its answers, but not that Salt accepts it.
const standIn = `echo "salt-call $*" >>/record
find /srv /etc/salt -type f 2>/dev/null | sort | while read f; do echo "$f: $(cat "$f")"; done >>/record
[ ! -f /say ] || cat /say
[ ! -f /hang ] || sleep 987
exit $(cat /status 2>/dev/null || echo 0)
`

func say(t *testing.T, m machine.Machine, text, status string) {
	t.Helper()
	for name, content := range map[string]string{"say": text, "status": status} {
		if err := m.Put(t.Context(), "/", machine.BytesTree(name, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	Sh(t, m, "rm -f /record /hang")
}

const good = `[INFO    ] Loading fresh modules for state activity
local:
----------
          ID: /etc/web
    Function: file.managed
      Result: True
     Comment: File /etc/web updated
     Started: 12:00:00.000001
    Duration: 4.1 ms
     Changes:   
              ----------
              diff:
                  New file

Summary for local
------------
Succeeded: 2 (changed=1)
Failed:    0
------------
Total states run:     2
Total run time:   4.105 ms
`

const bad = `local:
----------
          ID: configure
    Function: cmd.run
        Name: /bin/configure
      Result: False
     Comment: Command "/bin/configure" run
     Started: 12:00:00.000001
    Duration: 4.1 ms
     Changes:   
              ----------
              pid:
                  12
              stderr:
                  no pipework
----------
          ID: after
    Function: file.managed
        Name: /etc/after
      Result: False
     Comment: One or more requisite failed: web.configure
              and another line: of it
     Started: 12:00:01.0
    Duration: 0.0 ms
     Changes:   

Summary for local
------------
Succeeded: 1 (changed=2)
Failed:    2
------------
Total states run:     3
`

func TestHighstate(t *testing.T) {
	m := Start(t)
	Program(t, m, "salt-call", standIn)
	env, _ := Env(t, map[string]string{"states/top.sls": "top", "states/web/init.sls": "web", "states/.git/config": "x", "pillar/top.sls": "secret", "grains": "role: web"})
	say(t, m, good, "0")
	Sh(t, m, "mkdir -p /srv/salt && echo old >/srv/salt/old.sls")
	p := New()
	p.o.LocalStateTree, p.o.LocalPillarRoots, p.o.GrainsFile, p.o.DisableSudo = "states", "pillar", "grains", true
	p.o.SaltCallArgs = "--no-color"
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 1)
	const want = `salt-call --local state.highstate --file-root=/srv/salt --pillar-root=/srv/pillar --retcode-passthrough -l info --no-color
/etc/salt/grains: role: web
/srv/pillar/top.sls: secret
/srv/salt/top.sls: top
/srv/salt/web/init.sls: web`
	if got := Sh(t, m, "cat /record"); got != want {
		t.Errorf("salt-call had\n%s\nwant\n%s", got, want)
	}
	if got := Sh(t, m, "ls -A /tmp"); got != "" {
		t.Errorf("left: %s", got)
	}
	say(t, m, strings.Replace(good, " (changed=1)", "", 1), "0")
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 0)
}

func TestMinionConfigAndCustomState(t *testing.T) {
	m := Start(t)
	Program(t, m, "salt-call", standIn)
	env, _ := Env(t, map[string]string{"states/web.sls": "web", "m.conf": "file_client: local"})
	say(t, m, good, "0")
	p := New()
	p.o.LocalStateTree, p.o.MinionConfig, p.o.DisableSudo, p.o.CustomState, p.o.LogLevel = "states", "m.conf", true, "web", "debug"
	p.o.SaltBinDir, p.o.NoExitOnFailure, p.o.SkipBootstrap, p.o.TempConfigDir = "/usr/local/bin", true, true, "/var/it's here"
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	const want = "salt-call --local state.sls web -l debug\n/etc/salt/minion: file_client: local\n/srv/salt/web.sls: web"
	if got := Sh(t, m, "cat /record; ls -A /var | grep it || true"); got != want {
		t.Errorf("salt-call had\n%s\nwant\n%s", got, want)
	}
}

func TestFailures(t *testing.T) {
	m := Start(t)
	Program(t, m, "salt-call", standIn)
	env, l := Env(t, map[string]string{"states/web.sls": "web"})
	p := New()
	p.o.LocalStateTree, p.o.DisableSudo = "states", true
	for name, tc := range map[string]struct {
		say, status string
		want        []string
	}{
		"a state":          {bad, "2", []string{"exit status 2", `configure (cmd.run): Command "/bin/configure" run`, "after (file.managed): One or more requisite failed: web.configure · and another line: of it"}},
		"but the status":   {bad, "0", []string{"exit status 0, but says that states failed", "configure (cmd.run)"}},
		"no summary":       {bad[:strings.Index(bad, "Summary")], "0", []string{"configure (cmd.run)", "after (file.managed)"}},
		"does not compile": {"local:\n    Data failed to compile:\n----------\n    Rendering SLS 'base:web' failed: Jinja syntax error\n", "0", []string{"Rendering SLS 'base:web' failed: Jinja syntax error"}},
		"a log":            {"[CRITICAL] Rendering SLS failed\n[INFO    ] nothing\n", "1", []string{"exit status 1", "Rendering SLS failed"}},
		"silence":          {"", "11", []string{"exit status 11; it printed nothing"}},
	} {
		say(t, m, tc.say, tc.status)
		err := p.Provision(t.Context(), env, m)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		Fails(t, err, tc.want...)
	}
	say(t, m, bad, "2")
	p.o.NoExitOnFailure = true
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Error(err)
	}
	if !strings.Contains(l.String(), "warning: no_exit_on_failure: salt-call ended with exit status 2:") {
		t.Errorf("events:\n%s", l)
	}
}

func TestBootstrap(t *testing.T) {
	m := Start(t)
	env, l := Env(t, map[string]string{"states/web.sls": "web"})
	p := New()
	p.o.LocalStateTree, p.o.DisableSudo, p.o.BootstrapArgs = "states", true, "-x python3 stable"
	Program(t, m, "curl", `echo "curl $*" >>/curl; printf 'echo "$*" >>/bootstrap; echo sorry, no mirror; exit 3' >"$4"`)
	err := p.Provision(t.Context(), env, m)
	Fails(t, err, "Salt is not on the machine even after its installation", "sorry, no mirror")
	if got := Sh(t, m, "cat /curl /bootstrap; ls -A /tmp /srv"); got != "curl -fL https://bootstrap.saltproject.io -o /tmp/salt/install_salt.sh\n-x python3 stable\n/srv:\n\n/tmp:" {
		t.Errorf("the bootstrap did %q", got)
	}
	// Its exit status means little, as in Packer; what counts is the program.
	Program(t, m, "curl", `printf 'printf "#!/bin/sh\\necho Succeeded: 3\\n" >/usr/local/bin/salt-call; chmod 755 /usr/local/bin/salt-call; exit 3' >"$4"`)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 0)
	if !strings.Contains(l.String(), "warning: the installation of Salt ended with exit status 3, but the program is there") {
		t.Errorf("events:\n%s", l)
	}
	Program(t, m, "curl", `exit 99`)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Errorf("Salt is there, and was installed again: %v", err)
	}
}

func TestCancel(t *testing.T) {
	m := Start(t)
	Program(t, m, "salt-call", standIn)
	env, l := Env(t, map[string]string{"states/web.sls": "web"})
	say(t, m, "working\n", "0")
	Sh(t, m, "touch /hang")
	p := New()
	p.o.LocalStateTree, p.o.DisableSudo = "states", true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.Output = func(s string) {
		if s == "working" {
			cancel()
		}
	}
	if err := p.Provision(ctx, env, m); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	Processes(t, m, "sleep 987|salt-call")
	if got := Sh(t, m, "ls -A /tmp"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// Formulas come from a real git repository.
func TestFormulas(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		sandboxtest.Missing(t, "needs git")
	}
	m := Start(t)
	Program(t, m, "salt-call", standIn)
	env, l := Env(t, map[string]string{"states/top.sls": "top", "states/have/init.sls": "mine", "repo.git/vault/init.sls": "vault 1", "repo.git/have/init.sls": "theirs", "repo.git/README": "x"})
	repo := filepath.Join(env.Dir, "repo.git")
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-qm", "1")
	git("tag", "v1")
	sandboxtest.Write(t, repo, "vault/init.sls", "vault 2", 0o644)
	git("commit", "-qam", "2")
	say(t, m, good, "0")
	p := New()
	p.o.LocalStateTree, p.o.DisableSudo = "states", true
	p.o.Formulas = []string{"git::file://" + repo + "//vault?ref=v1", "git::file://" + repo + "//have"}
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	if got := Sh(t, m, "cd /srv/salt; find . -type f | sort; cat vault/init.sls have/init.sls"); got != "./have/init.sls\n./top.sls\n./vault/init.sls\nvault 1mine" {
		t.Errorf("the machine has %s", got)
	}
	if _, err := os.Stat(filepath.Join(env.Dir, "states", "vault")); err == nil {
		t.Error("the local state tree was changed")
	}
	if !strings.Contains(l.String(), "has the formula have") {
		t.Errorf("events:\n%s", l)
	}
	p.o.Formulas = []string{"git::file://" + repo + "//no/such"}
	Fails(t, p.Provision(t.Context(), env, m), "entry 1", "no directory no/such")
	p.o.Formulas = []string{"git::file://" + repo + "//vault?ref=nope"}
	Fails(t, p.Provision(t.Context(), env, m), "git checkout", "nope")
}
