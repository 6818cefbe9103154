package specs

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadPackages(t *testing.T) {
	for _, c := range []struct {
		name, out, err string
		status         int
		want           map[string]string
	}{
		{"dpkg", "dpkg\nnginx\tamd64\tinstalled\t1.22.1-9\nold\tall\tconfig-files\t1\nhalf\tamd64\thalf-configured\t2\nlibc6\tamd64\tinstalled\t2.36\nlibc6\ti386\tinstalled\t2.36\n",
			"dpkg-query: no packages found matching absent\n", 1, map[string]string{
				"nginx": "dpkg [1.22.1-9]", "old": "dpkg [] config-files", "half": "dpkg [] half-configured", "absent": "dpkg []",
				"libc6": "dpkg [2.36 2.36]", "libc6:i386": "dpkg [2.36]", "unsaid": "dpkg gave no answer"}},
		{"dpkg is broken", "dpkg\n", "dpkg-query: error: failed to open package info file\n", 2, map[string]string{"nginx": "error: failed to open"}},
		{"rpm", "rpm\nkernel\tx86_64\tinstalled\t5.14-1\nkernel\tx86_64\tinstalled\t5.14-2\nbind\tx86_64\tinstalled\t32:9.16-1\nbash\tx86_64\tinstalled\t5.1-1\npackage absent is not installed\n",
			"", 1, map[string]string{"kernel": "rpm [5.14-1 5.14-2]", "bind": "rpm [32:9.16-1]", "bash.x86_64": "rpm [5.1-1]", "absent": "rpm []", "bash-5.1": "rpm gave no answer"}},
		{"rpm without its database", "rpm\npackage nginx is not installed\n", "error: cannot open Packages database in /var/lib/rpm\n", 1, map[string]string{"nginx": "cannot open Packages"}},
		{"pacman", "pacman\nnginx 1.24.0-1\n", "error: package 'absent' was not found\n", 1, map[string]string{"nginx": "pacman [1.24.0-1]", "absent": "pacman []", "sh": "pacman gave no answer"}},
		{"apk", "apk\nmusl-1.2.4-r2\nlua5.4-libs-5.4.6-r0\n.build-deps-20240101.1-r0\n", "", 0, map[string]string{
			"musl": "apk [1.2.4-r2]", "lua5.4-libs": "apk [5.4.6-r0]", "lua5.4": "apk []", ".build-deps": "apk [20240101.1-r0]"}},
		{"apk is broken", "apk\n", "ERROR: Unable to read database\n", 99, map[string]string{"musl": "Unable to read"}},
		{"apk says nothing", "apk\n", "", 0, map[string]string{"musl": "exit status 0"}},
		{"none", "none\n", "", 0, map[string]string{"nginx": "not possible on this machine"}},
		{"unheard of", "brew\x1b[0m\n", "", 0, map[string]string{"nginx": `brew\x1b[0m`}},
		{"silence", "", "", 0, map[string]string{"nginx": "exit status 0"}},
	} {
		for subject, want := range c.want {
			got := ""
			all, err := readPackages(answer{out: []byte(c.out), errOut: []byte(c.err), status: c.status}, []string{subject})
			if err != nil {
				got = err.Error()
			} else if p, ok := all[subject].(pkg); ok {
				got = strings.TrimSpace(fmt.Sprintf("%s %v %s", p.manager, p.versions, p.state))
				if got != want {
					t.Errorf("%s, %s: got %s, wanted %s", c.name, subject, got, want)
				}
			} else {
				got = fmt.Sprint(all[subject])
			}
			if !strings.Contains(got, want) {
				t.Errorf("%s, %s: got %s, wanted %s", c.name, subject, got, want)
			}
		}
	}
}

func TestReadServices(t *testing.T) {
	for _, c := range []struct {
		name, out        string
		enabled, running string // of the service x, asked for between two others
	}{
		{"systemd", "Init=systemd\nManager=systemd\n\nLoadState=loaded\nActiveState=active\n\nLoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nUnitFileState=enabled\n\nLoadState=loaded\n",
			"true enabled", "false LoadState=loaded ActiveState=failed SubState=failed Result=exit-code"},
		{"reloading and static", "Init=systemd\nManager=systemd\n\na=b\n\nActiveState=reloading\nUnitFileState=static\n\na=b\n", "false static", "true"},
		{"starting and masked", "Init=systemd\nManager=systemd\n\na=b\n\nActiveState=activating\nUnitFileState=masked\n\na=b\n", "false masked", "false"},
		{"runtime only", "Init=systemd\nManager=systemd\n\na=b\n\nActiveState=active\nUnitFileState=enabled-runtime\n\na=b\n", "false enabled-runtime", "true"},
		{"not found", "Init=systemd\nManager=systemd\n\na=b\n\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n\na=b\n", "false no such unit", "false LoadState=not-found"},
		{"silent systemd", "Init=systemd\nManager=systemd\n\na=b\n\na=b\n\na=b\n", "error unit file state", "error did not say"},
		{"from a script", "Init=systemd\nManager=systemd\nLink=/etc/rc3.d/S01x\nLink=/etc/rc3.d/S01y\n\na=b\n\nActiveState=active\nUnitFileState=generated\n\na=b\n", "true generated, linked from /etc/rc3.d/S01x", "true"},
		{"from a script, off", "Init=systemd\nManager=systemd\nLink=/etc/rc3.d/S01y\n\na=b\n\nActiveState=active\nUnitFileState=generated\n\na=b\n", "false generated, no boot link", "true"},
		{"a block is lost", "Init=systemd\nManager=systemd\n\na=b\n\nActiveState=active\n", "error 2 answers to 3", "error 2 answers to 3"},
		{"container", "Init=none\nManager=systemd\n\na=b\n\nUnitFileState=enabled\n\na=b\n\n", "true enabled", "error no service manager runs here"},
		{"container, not found", "Init=none\nManager=systemd\n\na=b\n\nUnitFileState=Failed to get unit file state for x.service: No such file or directory\n\na=b\n\n", "false no such unit", "error no service"},
		{"container, new systemd", "Init=none\nManager=systemd\n\na=b\n\nUnitFileState=not-found\n\na=b\n\n", "false no such unit", "error no service"},
		{"container, broken", "Init=none\nManager=systemd\n\na=b\n\nUnitFileState=Failed to connect to bus\n\na=b\n\n", "error Failed to connect", "error no service"},
		{"bare container", "Init=none\nManager=none\n\n\n\n\n", "error no service manager is installed", "error no service manager runs here"},
		{"openrc", "Init=openrc\nManager=openrc\nLink=/etc/runlevels/default/x\n\n\nScript=yes\nStatus=0\n\n\n", "true linked from /etc/runlevels/default/x", "true running"},
		{"openrc, for shutdown only", "Init=openrc\nManager=openrc\nLink=/etc/runlevels/shutdown/x\n\n\nScript=yes\nStatus=3\n\n\n", "false no boot link", "false its status command gives 3"},
		{"openrc, crashed", "Init=openrc\nManager=openrc\n\n\nScript=yes\nStatus=32\n\n\n", "false no boot link", "false"},
		{"sysv", "Init=sysv\nManager=sysv\nLink=/etc/rc2.d/S20x\n\n\nScript=yes\nStatus=4\n\n\n", "true", "false"},
		{"sysv, strange", "Init=sysv\nManager=sysv\n\n\nScript=yes\nStatus=150\n\n\n", "false", "error 150"},
		{"sysv, absent", "Init=sysv\nManager=sysv\n\n\n\n\n", "false no such service", "false no such service"},
		{"nothing", "", "error", "error"},
		{"nonsense", "Init=\x1b\nManager=x\n\n\n\n\n", "error unknown service manager", `error unknown service manager answered: \x1b`},
	} {
		all, err := readServices(answer{out: []byte(c.out)}, []string{"before", "x", "after"})
		say := func(f func(unit) (bool, string, error)) string {
			if err != nil {
				return "error " + err.Error()
			}
			ok, actual, err := f(all["x"].(unit))
			if err != nil {
				return "error " + err.Error()
			}
			return fmt.Sprint(ok, " ", actual)
		}
		check := func(what, got, want string) {
			verdict, detail, _ := strings.Cut(want, " ")
			if !strings.HasPrefix(got, verdict+" ") || !strings.Contains(got, detail) {
				t.Errorf("%s, %s: got %s, wanted %s", c.name, what, got, want)
			}
		}
		check("enabled", say(unit.enabled), c.enabled)
		check("running", say(unit.running), c.running)
	}
}

func TestReadSockets(t *testing.T) {
	const tables = `= tcp tcp6 udp udp6
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 00000000d6355ae0 100 0 0 10 0
  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 00000000d6355ae0 100 0 0 10 0
  0: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 19 1 00000000d6355ae0 100 0 0 10 0
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 00000000d6355ae0 100 0 0 10 0
  0: 00000000000000000000000000000000:01BC 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 14 1 00000000d6355ae0 100 0 0 10 0
  0: 00000000000000000000000000000000:01BD 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 15 1 00000000d6355ae0 100 0 0 10 0
  0: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 16 1 00000000d6355ae0 100 0 0 10 0
  0: 0000000000000000FFFF00000100007F:0051 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17 1 00000000d6355ae0 100 0 0 10 0
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  0: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 18 1 00000000d6355ae0 100 0 0 10 0
  0: 3500007F:0036 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20 1 00000000d6355ae0 100 0 0 10 0
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
`
	const ss = `ss-e
tcp   LISTEN 0 128 0.0.0.0:22 0.0.0.0:* ino:11 sk:1 cgroup:/ <->
tcp   LISTEN 0 128 127.0.0.1:8080 0.0.0.0:* users:(("x",pid=1,fd=3)) ino:12 sk:1 <->
tcp   LISTEN 0 128 *:443 *:* users:(("x",pid=1,fd=3)) ino:13 sk:1 cgroup:/ v6only:0 <->
tcp   LISTEN 0 128 [::]:444 [::]:* ino:14 sk:2 v6only:1 <->
tcp   LISTEN 0 128 [::]:445 [::]:* ino:15 sk:2 <->
tcp   LISTEN 0 128 [2001:db8::1]:80 [::]:* ino:16 sk:2 v6only:1 <->
tcp   LISTEN 0 128 [::ffff:127.0.0.1]:81 *:* ino:17 sk:2 v6only:0 <->
tcp   LISTEN 0 128 [fe80::1]%eth0:82 [::]:* ino:17 sk:2 v6only:0 <->
udp   UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* uid:101 ino:18 sk:2 <->
`
	const plain = `ss
tcp   LISTEN 0 128 0.0.0.0:22 0.0.0.0:*
tcp   LISTEN 0 128 127.0.0.1:8080 0.0.0.0:*
tcp   LISTEN 0 128 [::]:444 [::]:*
tcp   LISTEN 0 128 [2001:db8::1]:80 [::]:*
tcp   LISTEN 0 128 [::ffff:127.0.0.1]:81 [::]:*
tcp   LISTEN 0 128 [fe80::1]%eth0:82 [::]:*
udp   UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*
`
	for _, c := range []struct{ port, proto, on, want string }{
		{"22", "", "", "true tcp 0.0.0.0:22"},
		{"22", "tcp", "0.0.0.0", "true"},
		{"22", "tcp6", "", "false"},
		{"22", "", "::", "false"},
		{"8080", "", "127.0.0.1", "true tcp 127.0.0.1:8080"},
		{"443", "tcp", "0.0.0.0", ""},
		{"443", "tcp", "::", "true tcp [::]:443"},
		{"444", "tcp", "0.0.0.0", ""},
		{"444", "tcp", "::", "true"},
		{"445", "tcp", "0.0.0.0", "error cannot tell"},
		{"445", "tcp", "", "true"},
		{"80", "tcp6", "2001:db8::1", "true tcp [2001:db8::1]:80"},
		{"81", "", "127.0.0.1", "true"},
		{"53", "udp", "127.0.0.53", "true udp 127.0.0.53:53"},
		{"53", "tcp", "", "false udp"},
		{"8081", "", "", "false"},
		{"54", "", "", "false"},
		{"5", "", "", "false nothing listens"},
	} {
		for name, out := range map[string]string{"tables": tables, "ss": ss, "plain ss": plain} {
			if name == "plain ss" && (c.port == "443" || c.port == "445") { // what it is not heard for
				continue
			}
			want := c.want
			if want == "" { // only ss can tell
				want = map[string]string{"443": "true", "444": "false"}[c.port]
				if name == "tables" {
					want = "error cannot tell"
				}
			}
			all, err := readSockets(answer{out: []byte(out)}, []string{c.port})
			if err != nil {
				t.Fatal(err)
			}
			s, diags := parse(t, fmt.Sprintf("port %q {\n be_listening = { %s %s }\n}", c.port,
				map[bool]string{true: "with = \"" + c.proto + "\","}[c.proto != ""], map[bool]string{true: "on = \"" + c.on + "\""}[c.on != ""]))
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			ok, actual, err := s.Checks[0].judge(all[c.port])
			got := fmt.Sprint(ok, " ", actual)
			if err != nil {
				got = "error " + err.Error()
			}
			verdict, detail, _ := strings.Cut(want, " ")
			if !strings.HasPrefix(got, verdict+" ") || !strings.Contains(got, detail) {
				t.Errorf("%s: %+v: got %s", name, c, got)
			}
		}
	}
	for _, bad := range []string{
		"= tcp\nsl\n0: 00:16 0:0 0A\n", "= tcp\nsl\n0: 00000000:FFFFF 0:0 0A\n", "= tcp\nsl\n0: 0000000G:0016 0:0 0A\n", "= tcp\nsl\nwhat is this here\n",
		"= tcp\n0: 00000000:0016 0:0 0A\nsl\n", "= tcp\n", "= tcp\nsl\nsl\n", "= tcp tcp6\nsl\n", "sl\n", "",
		"ss\ntcp LISTEN\n", "ss\ntcp LISTEN 0 1 *:22 *:* ino:1\n", "ss\ntcp LISTEN 0 1 0.0.0.0:http 0.0.0.0:*\n", "ss\ntcp LISTEN 0 1 22 0.0.0.0:*\n", "ss\nraw UNCONN 0 1 0.0.0.0:1 0.0.0.0:*\n",
	} {
		if all, err := readSockets(answer{out: []byte(bad)}, []string{"22"}); err == nil {
			t.Errorf("%q is read as %v", bad, all)
		}
	}
}

func TestReadProcesses(t *testing.T) {
	var out strings.Builder
	out.WriteString("self 50\n")
	for _, p := range [][]string{
		{"1", "0", "systemd", "S", "0"}, {"10", "1", "sshd", "S", "0"}, {"40", "10", "bash", "S", "1000"}, {"45", "40", "timeout", "S", "1000"},
		{"50", "45", "sh", "S", "1000"}, {"51", "50", "grep", "R", "1000"}, {"60", "1", "nginx", "S", "0"}, {"61", "60", "nginx", "S", "33"},
		{"62", "60", "defunct", "Z", "33"}, {"70", "1", "sh", "S", "33"}, {"9", "1", "a-name-of-15-ch", "S", "99"},
	} {
		f := "/proc/" + p[0] + "/status:"
		fmt.Fprintf(&out, "%sName:\t%s\n%sState:\t%s (x)\n%sPPid:\t%s\n%sUid:\t7\t%s\t7\t7\n%sGid:\t7\t%s\t7\t7\n", f, p[2], f, p[3], f, p[1], f, p[4], f, p[4])
	}
	out.WriteString("passwd:root:x:0:0::/root:/bin/sh\npasswd:www-data:x:33:33::/:/bin/false\ngroup:www:x:33:\n")
	want := map[string]string{
		"systemd": "[1 root ]", "sshd": "[10 root ]", "nginx": "[60 root ][61 www-data www]", "sh": "[70 www-data www]",
		"timeout": "", "grep": "", "bash": "", "defunct": "", "a-name-of-15-characters": "[9  ]", "absent": "",
	}
	for subject, w := range want {
		all, err := readProcesses(answer{out: []byte(out.String())}, []string{subject})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, p := range all[subject].([]process) {
			got += fmt.Sprintf("[%s %s %s]", p.pid, p.user, p.group)
		}
		if got != w {
			t.Errorf("%s: got %s, wanted %s", subject, got, w)
		}
	}
	if _, err := readProcesses(answer{out: []byte("self 5\n")}, nil); err == nil {
		t.Error("an empty /proc is no error")
	}
}

// expect compares the verdicts, one word each, with those that the comments
// at the ends of the spec's lines announce: "# fail: part of actual or message".
func expect(t *testing.T, src string, r *Report) {
	t.Helper()
	want := map[int][2]string{}
	for i, l := range strings.Split(src, "\n") {
		if m := regexp.MustCompile(`# (pass|fail|error|skip|waived)(?:: (.*))?$`).FindStringSubmatch(l); m != nil {
			want[i+1] = [2]string{m[1], m[2]}
		}
	}
	if len(want) != len(r.Results) {
		t.Errorf("%d results, %d are expected", len(r.Results), len(want))
	}
	for _, x := range r.Results {
		w, got := want[x.Line], x.Actual+x.Message
		if string(x.Status) != w[0] || !strings.Contains(got, w[1]) {
			t.Errorf("line %d: %s %q %s: %s: %s\n\twanted %s: %s", x.Line, x.Resource, x.Subject, x.Expect, x.Status, got, w[0], w[1])
		}
	}
}

// everything is a spec that says all that can be said.
func everything(t testing.TB) *Spec {
	t.Helper()
	src, err := os.ReadFile("testdata/everything.spec.hcl")
	if err != nil {
		t.Fatal(err)
	}
	s, diags := parse(t, string(src))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return s
}

// What the fuzzer is to try stands in that file, so nothing may be left out of it.
func TestEverythingIsSaid(t *testing.T) {
	said := map[string]bool{}
	for _, c := range everything(t).Checks {
		said[c.Resource+" "+c.Property] = true
	}
	for _, r := range resources() {
		for name := range r.matchers {
			if !said[r.name+" "+name] {
				t.Errorf("testdata/everything.spec.hcl lacks %s %s", r.name, name)
			}
		}
		for name := range r.attributes {
			if !said[r.name+" its "+name] {
				t.Errorf("testdata/everything.spec.hcl lacks %s its %s", r.name, name)
			}
		}
		for prefix := range r.paths {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(said)), func(s string) bool { return strings.HasPrefix(s, r.name+" its "+prefix) }) {
				t.Errorf("testdata/everything.spec.hcl lacks %s its %s…", r.name, prefix)
			}
		}
	}
}

// A machine cannot bring a reader down, nor leave a subject unanswered.
func FuzzReaders(f *testing.F) {
	checks := everything(f).Checks
	gossSpec, diags := CompileGoss("testdata/goss/machine.yaml", GossOptions{Inline: `{"dir": "/d", "http": "http://h:1", "port": "1", "md5": "x"}`})
	if diags.HasErrors() {
		f.Fatal(diags)
	}
	checks = append(checks, gossSpec.Checks...)
	for i := range checks {
		for _, out := range []string{
			"", "x\n", "dpkg\nx\tamd64\tinstalled\t1.0\n", "Init=systemd\nManager=systemd\n\nActiveState=active\n",
			"= tcp\n-\n0A 00000000:0016 11\nss\nx ino:11 v6only:0\n", "l:81a4:0:0:1:0:root:root:/x\nm:No such file or directory:/x\n",
			"x:x:0:0::/:/bin/sh\n=x:0\n+\nx:x:0:\n", "self 1\n/proc/1/status:Name:\tx\n/proc/1/status:PPid:\t1\n", `{"a": [1, {"b": null}]}`,
			`[{"n": "x", "props": {"State": "Running", "StartMode": "Auto"}, "sid": "S-1-5-32-544", "groups": [], "dir": false, "size": "1", "data": "eA==", "rules": [{"sid": "S-1-1-0", "rights": "-1", "allow": true, "only": false}], "sids": ["S-1-1-0"]}, {"whole": true, "self": "1", "pid": "1"}]`,
			"1 2 0:1 / /proc rw - proc proc rw\nusage 0 0 /proc\n", "curl\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nx", ";; status: NOERROR\na. 1 IN CAA 0 issue \"x\"\n",
		} {
			f.Add(out, "error: ", byte(0), uint16(i))
		}
	}
	f.Fuzz(func(t *testing.T, out, errOut string, status byte, check uint16) {
		c := checks[int(check)%len(checks)]
		if k, ok := windowsKinds()[c.kind.wider().name]; ok && c.misfit(true) == nil {
			var records []record
			if json.Unmarshal([]byte(out), &records) == nil {
				if all, err := k.read(records, []string{c.key}); err == nil {
					if all[c.key] == nil {
						t.Errorf("%s: no answer for %q", c.kind.name, c.key)
					}
					c.verdict(all[c.key], &Result{}, time.Time{})
				}
			}
		}
		if c.kind.windows {
			return
		}
		all, err := c.kind.read(answer{out: []byte(out), errOut: []byte(errOut), status: int(status)}, []string{c.key})
		if err != nil {
			return
		}
		if all[c.key] == nil {
			t.Errorf("%s: no answer for %q", c.kind.name, c.key)
		}
		if g := c.goss; g != nil {
			if c.skip != "" { // it is never asked
				return
			}
			results := make([]Result, g.first+1)
			results[0].Status = Pass
			g.verdict(all[c.key], results, g.first)
			return
		}
		var r Result
		c.verdict(all[c.key], &r, time.Time{})
	})
}

// checkRefused compiles what has to be refused with a message that holds want.
func checkRefused(t *testing.T, src, want string) {
	t.Helper()
	_, diags := parse(t, src)
	if !diags.HasErrors() || !strings.Contains(diags.Error()+diags.Errs()[0].Error(), want) {
		t.Errorf("%s\ngave %v\nwanted %s", src, diags, want)
	}
}

// recorded judges a spec by what tools printed elsewhere; answers has them by
// the kind of fact.
func recorded(t *testing.T, src string, answers map[string]answer) *Report {
	t.Helper()
	s, diags := parse(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	due := make([]int, len(s.Checks))
	for i := range due {
		due[i] = i
	}
	r := &Report{Results: make([]Result, len(due))}
	sections, of := s.sections(due, false)
	for i, c := range s.Checks {
		x := &r.Results[i]
		*x = Result{Resource: c.Resource, Subject: c.Subject, Expect: c.Expect, Line: c.Range.Start.Line}
		a, ok := answers[c.kind.name]
		if !ok {
			t.Fatalf("no answer is recorded for %s", c.kind.name)
		}
		all, err := c.kind.read(a, sections[of[i]].subjects)
		fact := all[c.key]
		if err != nil {
			fact = err
		}
		c.verdict(fact, x, time.Time{})
	}
	return r
}

// Every row of the table can be judged: names, kinds and readers fit together.
func TestTable(t *testing.T) {
	for _, r := range resources() {
		if len(r.matchers)+len(r.attributes)+len(r.paths) == 0 {
			t.Errorf("%s is not a whole row", r.name)
		}
		for name, m := range r.matchers {
			if m.kind == nil || m.argument == nil || m.test == nil {
				t.Errorf("%s %s is not whole", r.name, name)
			}
		}
		for name, a := range r.attributes {
			fits := false
			for _, c := range comparisons() {
				fits = fits || slices.Contains(c.types, a.typ)
			}
			if a.kind == nil || a.get == nil || !fits {
				t.Errorf("%s %s is not whole", r.name, name)
			}
		}
	}
}
