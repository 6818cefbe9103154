package specs

import (
	"fmt"
	"strings"
	"testing"
)

// What the tools of Debian 12 print (npm: 11).
func TestProviders(t *testing.T) {
	answers := map[string]answer{
		"gem":     {out: []byte("\n*** LOCAL GEMS ***\n\nabbrev (default: 0.1.0)\nbcrypt_pbkdf (1.1.0)\nnokogiri (1.15.4 x86_64-linux, 1.13.10)\nrack (3.1.8.rc1, default: 2.2.4)\n")},
		"npm":     {out: []byte(`{"name": "lib", "dependencies": {"corepack": {"version": "0.34.6", "overridden": false}, "@babel/core": {"version": "7.20.0-rc.1"}, "gone": {"required": "1", "missing": true}}}`)},
		"pip":     {out: []byte(`[{"name": "gyp", "version": "0.1"}, {"name": "Ruamel.yaml", "version": "0.17.21"}, {"name": "pre", "version": "1.0rc10"}]`)},
		"pear":    {out: []byte("INSTALLED PACKAGES, CHANNEL PEAR.PHP.NET:\n=========================================\nPACKAGE          VERSION STATE\nArchive_Tar      1.4.14  stable\nStructures_Graph 1.1.0RC2  beta\n")},
		"pecl":    {out: []byte("(no packages installed from channel pecl.php.net)\n")},
		"cpan":    {out: []byte("yes /etc/perl\n")},
		"package": {out: []byte("dpkg\nnginx\tamd64\tinstalled\t1.22.1-9\n")},
	}
	src := `
package "rack" {
	be_installed = { by = "gem", with_version = "= 2.2.4" } # pass: 3.1.8.rc1, 2.2.4
	should_not { be_installed = { by = "gem", with_version = ">= 3.1.8" } } # pass
}
package "nokogiri" {
	be_installed = { by = "gem", with_version = ">= 1.15" } # pass
}
package "abbrev" {
	be_installed = { by = "gem" } # pass
}
package "rac" {
	be_installed = { by = "gem" } # fail: not installed
}
package "@babel/core" {
	be_installed = { by = "npm", with_version = "< 7.20.0" } # pass: 7.20.0-rc.1
}
package "gone" {
	be_installed = { by = "npm" } # fail: not installed
}
package "ruamel-yaml" {
	be_installed = { by = "pip", with_version = ">= 0.17, < 0.18" } # pass
}
package "pre" {
	be_installed = { by = "pip3", with_version = "> 1.0rc9, < 1.0" } # pass
}
package "archive_tar" {
	be_installed = { by = "pear", with_version = ">= 1.4.2" } # pass
}
package "Structures_Graph" {
	be_installed = { by = "pear", with_version = ">= 1.1.0" } # fail: 1.1.0RC2
}
package "redis" {
	be_installed = { by = "pecl" } # fail: not installed
	should_not { be_installed = { by = "pecl" } } # pass
}
package "Net::SSLeay" {
	be_installed = { by = "cpan" } # pass: in /etc/perl
}
package "nginx" {
	be_installed = { by = "apt", with_version = "> 1.22" } # pass
	should_not { be_installed = { by = "rpm" } } # error: the machine's package manager is dpkg
}
`
	expect(t, src, recorded(t, src, answers))

	for _, kind := range []string{"gem", "npm", "pip", "pear", "pecl", "cpan"} {
		src := "package \"x\" {\n\tshould_not { be_installed = { by = \"" + kind + "\" } } # error\n}\n"
		for name, a := range map[string]answer{
			"silence": {}, "not there": {status: 1, errOut: []byte("none\n")}, "broken": {status: 1, errOut: []byte("Traceback\n")},
			"killed": {status: 137}, "garbage": {out: []byte("\x00{[\n")}, "npm's error": {status: 1, out: []byte(`{"name": "lib", "error": {"code": "EACCES"}}`)},
		} {
			r := recorded(t, src, map[string]answer{kind: a})
			if r.Results[0].Status != Error {
				t.Errorf("%s, %s: %+v", kind, name, r.Results[0])
			}
		}
	}
	checkRefused(t, `package "x" { be_installed = { by = "cpan", with_version = "1" } }`, "cannot be compared")
	checkRefused(t, `package "x" { be_installed = { by = "pip4" } }`, `did you mean "pip"?`)
}

func TestProviderVersions(t *testing.T) {
	for manager, chain := range map[string]string{
		"gem":  "0.9 < 1.0.a < 1.0.a.2 < 1.0.b1 < 1.0.rc2 < 1.0.rc10 < 1.0 = 1.0.0 < 1.0.1 < 1.9 < 1.10",
		"npm":  "1.0.0-alpha < 1.0.0-alpha.1 < 1.0.0-alpha.beta < 1.0.0-beta < 1.0.0-beta.2 < 1.0.0-beta.11 < 1.0.0-rc.1 < 1.0.0 = 1.0 < 1.0.10",                     // semver.org's own
		"pip":  "1.0.dev1 < 1.0a1.dev2 < 1.0a1 < 1.0b2.post1.dev1 < 1.0b2.post1 < 1.0rc9 < 1.0rc10 < 1.0 = 1.0.0 < 1.0.post1.dev3 < 1.0.post1 < 1.0.1 < 1.1 < 1!0.1", // PEP 440
		"pear": "1.0dev < 1.0a1 < 1.0b1 < 1.0b2 < 1.0RC1 < 1.0 < 1.0.0 < 1.0.1 < 1.0.10 < 1.1",
	} {
		s, err := schemeOf(manager)
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(chain)
		// Every pair in the chain, not only neighbours.
		for i := 0; i < len(f); i += 2 {
			smaller := false
			for j := i + 2; j < len(f); j += 2 {
				smaller = smaller || f[j-1] == "<"
				want := 0
				if smaller {
					want = -1
				}
				got, err := s.order(f[i], f[j])
				back, err2 := s.order(f[j], f[i])
				if err != nil || err2 != nil || got != want || back != -want {
					t.Errorf("%s: %s and %s give %d and %d, %v %v; wanted %d", manager, f[i], f[j], got, back, err, err2, want)
				}
			}
		}
	}
}

// What supervisor 4.2.5, runit 2.1.2 and monit 5.33.0 print.
func TestSupervised(t *testing.T) {
	for _, c := range []struct {
		under, want string
		a           answer
	}{
		{"supervisor", "pass: RUNNING", answer{out: []byte("sleeper                          RUNNING   pid 10036, uptime 0:00:03\n")}},
		{"supervisor", "fail: EXITED", answer{status: 3, out: []byte("bad                              EXITED    Nov 25 11:19 PM\n")}},
		{"supervisor", "fail: no such program", answer{status: 4, out: []byte("nope: ERROR (no such process)\n")}},
		{"supervisor", "error: no such file", answer{status: 4, out: []byte("unix:///var/run/supervisor.sock no such file\n")}},
		{"supervisor", "error: no supervisorctl", answer{status: 9, errOut: []byte("there is no supervisorctl\n")}},
		{"supervisor", "error", answer{}},
		{"runit", "pass: run: /root/s/t1: (pid 1) 1s", answer{out: []byte("run: /root/s/t1: (pid 1) 1s\n")}},
		{"runit", "fail: down: t1: 1s, normally up", answer{out: []byte("down: t1: 1s, normally up\n")}},
		{"runit", "fail: no such service", answer{status: 1, out: []byte("fail: nope: unable to change to service directory: file does not exist\n")}},
		{"runit", "fail: runsv does not run", answer{status: 1, out: []byte("fail: /root/s/t2: runsv not running\n")}},
		{"runit", "fail: runsv does not run", answer{status: 1, out: []byte("warning: /root/s/t2: unable to open supervise/ok: file does not exist\n")}},
		{"runit", "error: access denied", answer{status: 1, out: []byte("warning: t1: unable to open supervise/ok: access denied\n")}},
		{"runit", "error", answer{}},
	} {
		src := fmt.Sprintf("service \"x\" {\n\tbe_running = { under = %q } # %s\n}\n", c.under, c.want)
		expect(t, src, recorded(t, src, map[string]answer{c.under: c.a}))
	}
	const monitored = "system statistic error -- cannot read /proc/stat\nMonit 5.33.0 uptime: 0m\n\nProcess 'sh-one'\n  status                       OK\n  monitoring status            Monitored\n  monitoring mode              active\n"
	for _, c := range []struct {
		want string
		a    answer
	}{
		{"pass: Monitored", answer{out: []byte(monitored)}},
		{"fail: Not monitored", answer{out: []byte(strings.Replace(monitored, "            Monitored", "            Not monitored", 1))}},
		{"fail: no such service", answer{status: 1, errOut: []byte("Service 'nope' not found\n")}},
		{"error: HTTP interface", answer{status: 1, errOut: []byte("Monit: the monit HTTP interface is not enabled, please add the 'set httpd' statement\n")}},
		{"error", answer{}},
	} {
		src := "service \"x\" {\n\tbe_monitored_by = \"monit\" # " + c.want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"monit": c.a}))
	}
	checkRefused(t, `service "x" { be_monitored_by = "god" }`, "monit is the one")
}

func TestServiceLevels(t *testing.T) {
	src := `
service "nginx" {
	be_enabled = { with_level = 3 } # pass: multi-user.target.wants
}
service "nginx" {
	be_enabled = { with_level = "graphical.target", under = "systemd" } # pass
}
service "nginx" {
	be_enabled = { with_level = "rescue" } # fail: linked from
}
service "nginx" {
	be_enabled = { under = "openrc" } # fail: runs under systemd
	be_running = { under = "init" } # fail: runs under systemd
	should_not { be_running = { under = "systemd" } } # fail: ActiveState=active
}
`
	expect(t, src, recorded(t, src, map[string]answer{"service": {out: []byte("Init=systemd\nManager=systemd\nLink=/etc/systemd/system/multi-user.target.wants/nginx.service\n\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n")}}))
	src = "service \"x\" {\n\tbe_enabled = { with_level = \"boot\" } # pass\n}\nservice \"x\" {\n\tbe_enabled = { with_level = \"default\" } # fail\n}\n"
	expect(t, src, recorded(t, src, map[string]answer{"service": {out: []byte("Init=openrc\nManager=openrc\nLink=/etc/runlevels/boot/x\n\nScript=yes\nStatus=0\n\n")}}))
}

func TestUnitProperties(t *testing.T) {
	for _, c := range []struct {
		want string
		a    answer
	}{
		{"pass", answer{out: []byte("Restart=always\nLoadState=loaded\n")}},
		{"fail: \"no\"", answer{out: []byte("LoadState=loaded\nRestart=no\n")}},
		{"fail: no such unit", answer{out: []byte("LoadState=not-found\nRestart=no\n")}},
		{"fail: knows no property", answer{out: []byte("LoadState=loaded\n")}},
		{"error: does not run here", answer{status: 9, errOut: []byte("systemd does not run here\n")}},
		{"error", answer{}},
	} {
		src := "service \"x\" {\n\tits \"property.Restart\" { eq = \"always\" } # " + c.want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"unit property": c.a}))
	}
}
