package salt

import (
	"strings"
	"testing"

	. "github.com/ingotbuild/ingot/internal/confmgmt/confmgmttest"
	"github.com/ingotbuild/ingot/internal/script"
)

func TestCheck(t *testing.T) {
	env, _ := Env(t, map[string]string{"states/top.sls": "", "file": ""})
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"good":          {Options{LocalStateTree: "states"}, ""},
		"all at once":   {Options{LocalStateTree: "file", LocalPillarRoots: "no", MinionConfig: "states", GrainsFile: "no", LogLevel: "loud", GuestOSType: "amiga"}, "grains_file guest_os_type local_pillar_roots local_state_tree log_level minion_config"},
		"nothing":       {Options{}, "local_state_tree"},
		"exclusive":     {Options{LocalStateTree: "states", MinionConfig: "file", RemoteStateTree: "/a", RemotePillarRoots: "/b"}, "remote_pillar_roots remote_state_tree"},
		"same place":    {Options{LocalStateTree: "states", RemoteStateTree: "/a/", RemotePillarRoots: "/a"}, "remote_pillar_roots"},
		"would destroy": {Options{LocalStateTree: "states", RemoteStateTree: "/srv", TempConfigDir: "/tmp/"}, "remote_state_tree temp_config_dir"},
		"relative":      {Options{LocalStateTree: "states", TempConfigDir: "salt"}, "temp_config_dir"},
		"windows":       {Options{LocalStateTree: "states", GuestOSType: "Windows", TempConfigDir: `C:\salt\x`, RemoteStateTree: "/srv/salt"}, "remote_state_tree"},
		"no bootstrap":  {Options{LocalStateTree: "states", SkipBootstrap: true, BootstrapArgs: "-x"}, "bootstrap_args"},
		"formulas":      {Options{LocalStateTree: "states", Formulas: []string{"git::https://h/r.git//x", "x", "git::https://h/r.git"}}, "formulas formulas"},
	} {
		p := &Provisioner{o: tc.o}
		if got := Problems(t, p, env); got != tc.want {
			t.Errorf("%s: problems with %q, want %q", name, got, tc.want)
		}
	}
}

func TestParseFormula(t *testing.T) {
	for text, want := range map[string]formula{
		"git::https://host/a/b.git//vault?ref=v1":  {"https://host/a/b.git", "vault", "v1"},
		"git::ssh://git@host/a/b.git//x/y/":        {"ssh://git@host/a/b.git", "x/y", ""},
		"git::git@host:a/b.git//x?depth=1&ref=m":   {"git@host:a/b.git", "x", "m"},
		"https://host/a/b.git//x":                  {"https://host/a/b.git", "x", ""},
		"git::file:///srv/repo//x":                 {"file:///srv/repo", "x", ""},
		"https://host/x":                           {},
		"git::https://host/b.git":                  {},
		"git::https://host/b.git//":                {},
		"git::https://host/b.git//../x":            {},
		"git::https://host/b.git//a//b":            {},
		"git::--upload-pack=x.git//x":              {},
		"git::ext::sh -c x//x":                     {},
		"git::https://host/b.git//x?ref=--orphan":  {},
		"git::https://host/b.git//x?sshkey=secret": {},
	} {
		got, err := parseFormula(text)
		if got != want || (err == nil) != (want != formula{}) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func FuzzOutput(f *testing.F) {
	for _, s := range []string{
		"local:\n----------\n          ID: a\n    Function: b\n      Result: False\n     Comment: c\n              d\n\nSummary for local\nSucceeded: 1 (changed=1)\nFailed:    1\n",
		"local:\n    Data failed to compile:\n----------\n    Rendering\n", "Succeeded: 99999999999999999999 (changed=-1)\nFailed: x", "[ERROR   ] a\n[CRITICAL", "ID:\nResult: False\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := &report{}
		for line := range strings.SplitSeq(s, "\n") {
			r.line("stdout", line)
		}
		err := r.judge(0, &script.Tail{})
		if n, known := r.Changes(); n < 0 || n > 0 && !known {
			t.Errorf("%d changes, known: %v", n, known)
		}
		if err != nil && len(err.Error()) > 20<<10 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if r.failed == 0 && err != nil || r.failed > 0 && err == nil {
			t.Errorf("%d failed, and the error is %v", r.failed, err)
		}
	})
}

func FuzzParseFormula(f *testing.F) {
	f.Add("git::https://host/a/b.git//vault?ref=v1")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseFormula(s)
		if err == nil && (got.repo == "" || got.repo[0] == '-' || strings.HasPrefix(got.ref, "-") || strings.HasPrefix(got.dir, "/") || strings.Contains("/"+got.dir+"/", "/../")) {
			t.Errorf("%q gives %+v", s, got)
		}
	})
}
