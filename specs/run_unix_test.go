//go:build unix

package specs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("conf", "one\nserver_tokens on;\nthree\n", 0o644)
	write("it's: a %n\\ file", "x", 0o600)
	write("empty", "", 0o600)
	write("big", strings.Repeat("x", maxContent+1), 0o600)
	write("binary", "\x00\x1b[31m\xff\n", 0o600)
	write("program", "", 0o755|os.ModeSetuid)
	for name, target := range map[string]string{"link": "conf", "dangling": "nowhere", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	src := strings.ReplaceAll(`
file "DIR/conf" {
	exist           = true # pass: file
	be_file         = true # pass
	be_directory    = true # fail: file
	be_mode         = 0644 # pass
	be_owned_by     = `+strconv.Itoa(os.Getuid())+` # pass
	be_grouped_into = "nobody-here" # fail: (
	contain         = "server_tokens" # pass
	its "content" {
		match      = "^server_tokens\\s+on;$" # pass
		not_match  = "server_tokens\\s+on" # fail: line 2: server_tokens on;
		include    = "four" # fail: not in its 3 lines
		start_with = "one\n" # pass
		eq         = "one" # fail: "one\nserver_tokens on;\nthree\n"
	}
	its "size" {
		eq              = 28 # pass
		be_greater_than = 100 # fail: 28
		be_less_than    = 29 # pass
		be_in           = [1, 28] # pass
	}
	its "mode" { eq = "644" } # pass
	its "mode" { be_in = ["0600", 0640] } # fail: 0644
	its "uid" { eq = `+strconv.Itoa(os.Getuid())+` } # pass
	its "sha256sum" { eq = "0000" } # fail: "
	its "md5sum" { match = "^[0-9a-f]{32}$" } # pass
	should_not {
		be_mode    = "0600" # pass
		be_symlink = true # pass
		exist      = true # fail: file
		its "content" { match = "four" } # pass
	}
}
file "DIR/it's: a %n\\ file" {
	be_mode = "600" # pass
	its "content" { eq = "x" } # pass
	its "sha256sum" { eq = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" } # pass
}
file "DIR/program" {
	be_mode = "4755" # pass
	its "mode" { eq = "755" } # fail: 4755
}
file "DIR/empty" {
	its "content" { eq = "" } # pass
	its "content" { match = "x" } # fail: empty
}
file "DIR/big" {
	its "content" { not_match = "y" } # error: longer than
}
file "DIR/binary" {
	its "content" { include = "y" } # fail: \x00\x1b[31m\xff
}
file "DIR/gone" {
	be_mode = "644" # fail: no such file
	be_linked_to = "x" # fail: no such file
	its "content" { not_match = "x" } # fail: no such file
	its "size" { eq = 0 } # fail: no such file
	its "sha256sum" { eq = "" } # fail: no such file
	its "link_target" { eq = "" } # fail: no such file
	should_not {
		exist        = true # pass: no such file
		be_directory = true # pass
		be_owned_by  = "root" # fail: no such file
		contain      = "x" # fail: no such file
	}
}
file "DIR/conf/below" {
	exist = true # fail: no such file
}
file "DIR/link" {
	be_symlink   = true # pass
	be_file      = true # pass
	be_linked_to = "conf" # pass
	be_mode      = "0644" # pass
	its "link_target" { eq = "other" } # fail: "conf"
}
file "DIR/dangling" {
	exist      = true # fail: a symbolic link to nothing
	be_symlink = true # pass
	should_not { be_mode = "0777" } # fail: a symbolic link to nothing
}
file "DIR/loop" {
	should_not { exist = true } # error: Too many levels
}
file "DIR/conf" {
	be_linked_to = "x" # fail: not a symbolic link
}
file "DIR" {
	be_directory = true # pass
	its "content" { match = "" } # error: head ended with
}
`, "DIR", dir)
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) {
			r := run(t, m, src)
			expect(t, src, r)
			if r.RoundTrips != 1 {
				t.Errorf("%d round trips", r.RoundTrips)
			}
		})
	}
}

func TestAccounts(t *testing.T) {
	src := `
user "root" {
	exist                   = true # pass: uid 0
	have_uid                = 0 # pass
	have_home_directory     = "/roo" # fail: "/
	belong_to_group         = "roo" # fail: in root
	belong_to_primary_group = 0 # pass
}
user "root" {
	its "uid" { be_less_than = 1 } # pass
	its "groups" { include = "root" } # pass
	its "shell" { match = "^/" } # pass
	its "primary_group" { eq = "wheel" } # fail: "root"
	belong_to_group = "root" # pass
	should_not { have_login_shell = "" } # pass
}
user "no-such-user" {
	exist    = true # fail: no such user
	have_uid = 0 # fail: no such user
	its "uid" { eq = 0 } # fail: no such user
	should_not {
		exist           = true # pass
		belong_to_group = "root" # fail: no such user
	}
}
group "root" {
	exist    = true # pass: gid 0
	have_gid = 1 # fail: "0"
	its "gid" { eq = "0" } # pass
	should_not {
		its "members" { include = "nobody" } # pass
	}
}
group "no-such-group" {
	exist = true # fail: no such group
	should_not { exist = true } # pass
	its "gid" { be_less_than = 10 } # fail: no such group
}
`
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}
}

func TestCommands(t *testing.T) {
	const src = `
timeout = "1m"
command "echo out; echo err >&2; exit 7" {
	its "stdout" { eq = "out" } # pass
	its "stdout" { include = "err" } # fail: "out\n"
	its "stderr" { eq = "err\n" } # pass
	its "exit_status" { eq = 7 } # pass
	its "exit_status" { be_in = [0, 1] } # fail: 7
}
command "kill -9 $$" {
	its "exit_status" { eq = 137 } # pass
}
command "exit 124" {
	its "exit_status" { eq = 124 } # pass
}
command "echo 'unfinished" {
	its "exit_status" { be_greater_than = 0 } # pass
}
command "read line; echo got=$line" {
	its "stdout" { eq = "got=" } # pass
}
command "exec >&-; echo x" {
	its "stdout" { eq = "" } # pass
}
command "printf 'a\\0b\\377\\n\\n'" {
	its "stdout" { start_with = "a" } # pass
	its "stdout" { eq = "a" } # fail: a\x00b
}
command "no-such-command-here" {
	its "exit_status" { be_in = [126, 127] } # pass
	its "stderr" { include = "no-such-command-here" } # pass
}
command "sleep 600" {
	timeout = "1s"
	its "exit_status" { eq = 0 } # error: did not end within 1s
	should_not {
		its "stdout" { match = "x" } # error: did not end within 1s
	}
}
command "echo before\necho after" {
	its "stdout" { match = "^after$" } # pass
}
command "cat /proc/$PPID/cmdline /proc/*/cmdline | tr '\\0' '\\n'" {
	its "exit_status" { be_in = [0, 1] } # pass
}
command "sleep 120 & echo started" {
	its "stdout" { eq = "started" } # pass
}
command "echo last" {
	its "stdout" { eq = "last" } # pass
}
`
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			expect(t, src, run(t, m, src))
			if d := time.Since(start); d > 100*time.Second {
				t.Errorf("a child in the background held the run up for %s", d)
			}
		})
		t.Run(name+" without /proc", func(t *testing.T) {
			t.Parallel()
			m := &local{shell: m.shell, edit: func(l string) string { return strings.ReplaceAll(l, "/proc/self/task", "/nowhere") }}
			expect(t, src, run(t, m, src))
		})
	}
}

func TestStubbornCommand(t *testing.T) {
	const src = `
command "trap '' TERM; while :; do sleep 1; done" {
	timeout = "1s"
	its "exit_status" { eq = 0 } # error: did not end within 1s
}
command "echo next" {
	its "stdout" { eq = "next" } # pass
}
`
	expect(t, src, run(t, &local{}, src))
	expect(t, src, run(t, &local{edit: func(l string) string { return strings.ReplaceAll(l, "/proc/self/task", "/nowhere") }}, src))
}

// ss is heard only where it can be understood.
func TestWhichSocketsAreAsked(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("this system has no /proc/net")
	}
	const v4, any = "tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:*", "tcp LISTEN 0 128 *:22 *:*"
	for _, c := range []struct{ plain, extended, heard string }{
		{"echo '" + v4 + "'", "exit 7", "ss\n"},
		{"echo 'tcp LISTEN 0 128 [::]:22 [::]:*'", "exit 7", "ss\n"},
		{"echo '" + v4 + "'; echo '" + any + "'", "echo '" + any + " ino:1 sk:1 v6only:0 <->'", "ss-e\n"},
		{"echo '" + any + "'", "echo '" + any + " ino:1 sk:1 <->'", ""},
		{"echo 'tcp LISTEN 0 128 :::22 :::*'", "echo 'tcp LISTEN 0 128 :::22 :::* ino:1 v6only:1 <->'", "ss-e\n"},
		{"echo '" + v4 + "'; exit 1", "exit 7", ""},
		{"echo '" + any + "'", "echo '" + any + " v6only:0'; exit 1", ""},
		{"echo 'udp UNCONN 0 0 0.0.0.0:22 0.0.0.0:*'; echo 'Cannot open netlink' >&2", "exit 7", ""},
		{"echo 'Netid State'", "echo 'Netid State'", ""},
		{"true", "exit 7", ""},
	} {
		script := "ss() { case $2 in *e) " + c.extended + " ;; *) " + c.plain + " ;; esac; }\n" + sockets.script
		out, err := exec.Command("sh", "-c", script).Output()
		want := c.heard
		if want == "" {
			want = "= tcp"
		}
		if err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("%+v: %v, %.200q", c, err, out)
		}
	}
}

func TestPorts(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("this system has no /proc/net")
	}
	listen := func(network, address string) string {
		var a net.Addr
		if strings.HasPrefix(network, "udp") {
			c, err := net.ListenPacket(network, address)
			if err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { c.Close() })
			a = c.LocalAddr()
		} else {
			l, err := net.Listen(network, address)
			if err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { l.Close() })
			a = l.Addr()
		}
		_, port, err := net.SplitHostPort(a.String())
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	src := fmt.Sprintf(`
port "%s" {
	be_listening = { with = "tcp", on = "127.0.0.1" } # pass: tcp 127.0.0.1:
	should_not {
		be_listening = { with = "udp" } # pass
	}
}
port "%[1]s" {
	be_listening = { with = "tcp6" } # fail: tcp 127.0.0.1:
	should_not { be_listening = { on = "0.0.0.0" } } # pass
}
port "%[1]s" {
	be_listening = { on = "127.0.0.2" } # fail: tcp 127.0.0.1:
	should_not { be_listening = true } # fail
}
port "%s" {
	be_listening = { with = "udp", on = "127.0.0.1" } # pass
}
port "1" {
	be_listening = true # fail: nothing listens
}
`, listen("tcp4", "127.0.0.1:0"), listen("udp4", "127.0.0.1:0"))
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}

	t.Run("dual stack", func(t *testing.T) {
		need(t, "ss")
		probe, err := net.Listen("tcp6", "[::1]:0")
		if err != nil {
			t.Skip("this system has no IPv6")
		}
		probe.Close()
		src := fmt.Sprintf(`
port "%s" {
	be_listening = { on = "0.0.0.0" } # pass
}
port "%[1]s" {
	be_listening = { with = "tcp6", on = "::" } # pass
}
port "%s" {
	be_listening = { on = "0.0.0.0" } # fail: tcp [::]:
	should_not { be_listening = { on = "0.0.0.0", with = "tcp" } } # pass
}
`, listen("tcp", "[::]:0"), listen("tcp6", "[::]:0"))
		expect(t, src, run(t, &local{}, src))
	})
}

func TestProcesses(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("this system has no /proc")
	}
	start := func(path string, args ...string) {
		c := exec.Command(path, args...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		asleep(t, c.Process.Pid)
	}
	sleep := filepath.Join(t.TempDir(), "ingot-spec-test-long-name")
	data, err := os.ReadFile(need(t, "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sleep, data, 0o700); err != nil {
		t.Fatal(err)
	}
	start(sleep, "600")
	start(sleep, "601")
	one := filepath.Join(filepath.Dir(sleep), "ingot-spec-one")
	if err := os.WriteFile(one, data, 0o700); err != nil {
		t.Fatal(err)
	}
	start(one, "602")
	src := `
process "ingot-spec-test-long-name" {
	be_running = true # pass: pid
	its "count" { eq = 2 } # pass
	its "uid" { eq = ` + strconv.Itoa(os.Geteuid()) + ` } # pass
	its "user" { match = "." } # pass
	its "pid" { be_greater_than = 1 } # error: 2 processes of this name differ
}
process "ingot-spec-one" {
	its "args" { match = "/ingot-spec-one 602$" } # pass
	its "ppid" { eq = ` + strconv.Itoa(os.Getpid()) + ` } # pass
	its "state" { start_with = "S" } # pass
	its "threads" { eq = 1 } # pass
	its "rss" { be_greater_than = 1 } # pass
	its "vsz" { be_greater_than = 1 } # pass
}
process "ingot-spec" {
	be_running = true # fail: no such process
	its "count" { eq = 0 } # pass
	its "user" { eq = "" } # fail: no such process
	should_not { be_running = true } # pass
}
`
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}
}

// asleep waits until a program that has been started has come to its sleep.
func asleep(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(stat), ") S ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it does not sleep: %s", stat)
		}
	}
}

func TestDpkg(t *testing.T) {
	need(t, "dpkg-query")
	if fi, err := os.Stat("/var/lib/dpkg/status"); err != nil || fi.Size() == 0 {
		t.Skip("this is not a Debian system")
	}
	const src = `
package "dpkg" {
	be_installed = { with_version = ">= 1.15, < 99" } # pass: installed: 1.
	its "version" { be_greater_than = "1.15~rc1" } # pass
	its "version" { eq = "1.0" } # fail: 1.
	should_not { be_installed = true } # fail: installed: 1.
}
package "no-such-package" {
	be_installed = true # fail: not installed
	its "version" { be_less_than = 9 } # fail: not installed
	should_not { be_installed = { with_version = "1.0" } } # pass
}
`
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}
}

func TestServiceWithoutManager(t *testing.T) {
	m := &local{edit: func(l string) string { // as in a container
		return strings.NewReplacer("/run/systemd/system", "/nonexistent", "/run/openrc/softlevel", "/nonexistent", "/proc/1/comm", "/dev/null").Replace(l)
	}}
	const src = `
service "no-such-service" {
	be_running = true # error: no service manager runs here
	retry { within = "1h" }
	should_not { be_running = true } # error: no service manager runs here
}
`
	expect(t, src, run(t, m, src))
}

func TestRetryAsksOnlyWhatFails(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	src := fmt.Sprintf(`
command "echo >>%s; wc -l <%[1]s" {
	its "stdout" { match = "^ *3$" } # pass
	its "stdout" { match = "[0-9]" } # pass
	retry { within = "1m" }
}
command "echo steady" {
	its "stdout" { eq = "steady" } # pass
}
command "false" {
	its "exit_status" { eq = 0 } # fail: 1
}
`, count)
	m := &local{}
	r := run(t, m, src)
	expect(t, src, r)
	if r.RoundTrips != 3 || len(m.lines) != 3 || r.Results[0].Tries != 3 || r.Results[1].Tries != 1 {
		t.Errorf("%d round trips, %d lines, %+v", r.RoundTrips, len(m.lines), r.Results)
	}
	if strings.Contains(m.lines[1], "steady") || !strings.Contains(m.lines[1], "wc -l") {
		t.Errorf("the second round asks %s", m.lines[1])
	}
}

func TestRetryEndsWithContext(t *testing.T) {
	s := compile(t, `
command "false" {
	its "exit_status" { eq = 0 }
	retry {
		within   = "1h"
		interval = "1h"
	}
}`)
	s.Checks[0].RetryWithin = 2 * time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	m := &local{edit: func(l string) string { time.AfterFunc(time.Second, cancel); return l }}
	r, err := s.Run(ctx, m, RunOptions{})
	if !errors.Is(err, context.Canceled) || r.Passed() {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestManyChecksGoByStdin(t *testing.T) {
	var src strings.Builder
	for i := range 500 {
		fmt.Fprintf(&src, "file \"/nonexistent/%s%d\" {\n\tshould_not { exist = true }\n}\n", strings.Repeat("long/", 40), i)
	}
	src.WriteString("command \"sleep 600\" {\n timeout = \"1s\"\n its \"exit_status\" { eq = 0 }\n}\ncommand \"cat\" {\n its \"stdout\" { eq = \"\" }\n}\n")
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) {
			r := run(t, m, src.String())
			if c := r.Counts(); c.Passed != 501 || c.Errors != 1 || r.RoundTrips != 1 {
				t.Errorf("%+v in %d round trips", c, r.RoundTrips)
			}
			if got := m.lines[len(m.lines)-1]; !strings.HasSuffix(got, " -s") {
				t.Errorf("a script of this length is in the command line, %d bytes", len(got))
			}
		})
	}
}

func TestTagsAndEvents(t *testing.T) {
	s := compile(t, `
tags = ["all"]
command "true" {
	tags = ["quick"]
	its "exit_status" { eq = 0 }
}
command "sleep 600" {
	tags = ["slow"]
	its "exit_status" { eq = 0 }
}
command "exit 0" {
	its "exit_status" { eq = 0 }
}`)
	for _, c := range []struct {
		opt  RunOptions
		want string
	}{
		{RunOptions{Tags: []string{"quick"}}, "pass skip skip"},
		{RunOptions{SkipTags: []string{"slow"}}, "pass skip pass"},
		{RunOptions{Tags: []string{"all"}, SkipTags: []string{"slow", "quick"}}, "skip skip pass"},
	} {
		var got []string
		c.opt.Events = event.Scope{Sink: event.Func(func(e event.Event) { got = append(got, string(e.Data.(Result).Status)) })}
		r, err := s.Run(t.Context(), &local{}, c.opt)
		if err != nil || !r.Passed() || strings.Join(got, " ") != c.want {
			t.Errorf("%v, %v: wanted %s", got, err, c.want)
		}
	}
	m := &local{}
	if r, err := s.Run(t.Context(), m, RunOptions{Tags: []string{"none"}}); err != nil || len(m.lines) != 0 || r.Counts().Skipped != 3 {
		t.Errorf("%v, %v", err, m.lines)
	}
}

func TestWhen(t *testing.T) {
	if _, err := os.Stat("/etc/os-release"); err != nil {
		t.Skip("this system does not say what it is")
	}
	trace := filepath.Join(t.TempDir(), "ran")
	src := strings.ReplaceAll(`
command "true" {
	its "exit_status" { eq = 0 } # pass
}
command "touch TRACE" {
	when = os.id == "no-such-distribution"
	its "exit_status" { eq = 0 } # skip: when is false: os.id is "
}
command "echo here" {
	when = os.kernel == "linux" && os.family != "beos"
	its "stdout" { eq = "here" } # pass
}
file "/" {
	when = os.init == "bsd"
	be_file = true # skip
}
file "/" {
	when = os.id != ""
	be_file = true # fail: directory
	should_not { be_directory = true } # fail
}
file "/" {
	when = 1 == 2
	be_file = true # skip: when is false
}
file "/" {
	skip = "not our business"
	be_file = true # skip: not our business
}
file "/" {
	be_file = true # waived: waived until 9999-12-31: it is one
	be_directory = true # pass
	waive {
		reason = "it is one"
		until  = "9999-12-31"
	}
}
`, "TRACE", trace)
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) {
			r := run(t, m, src)
			expect(t, src, r)
			if c := r.Counts(); r.RoundTrips != 2 || c.Waived != 1 || r.Verdict() != Fail {
				t.Errorf("%d round trips, %+v", r.RoundTrips, c)
			}
			if _, err := os.Stat(trace); err == nil {
				t.Error("a command that does not apply was run")
			}
		})
	}
	src = "file \"/\" {\nwhen = os.id == \"x\"\nbe_file = true # skip\n}\n"
	if r := run(t, &local{}, src); r.RoundTrips != 1 || !r.Passed() {
		t.Errorf("%+v", r)
	}
	blind := &local{edit: func(l string) string { return strings.ReplaceAll(l, "uname -s", "true") }}
	src = "file \"/\" {\nwhen = os.id == \"x\"\nbe_file = true # error: whether it applies could not be found out\n}\ncommand \"true\" {\nwhen = os.id == \"x\"\nits \"exit_status\" { eq = 0 } # error: whether it applies\n}\n"
	r := run(t, blind, src)
	expect(t, src, r)
	if r.Verdict() != Error {
		t.Error(r.Verdict())
	}
}

// A check whose turn never comes is an error.
func TestCancelledBeforeTheSecondRound(t *testing.T) {
	s := compile(t, "command \"true\" {\nwhen = os.kernel != \"\"\nits \"exit_status\" { eq = 0 }\n}\nfile \"/\" {\nexist = true\n}\n")
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		m := fake{answer: func(_ context.Context, token string, stdout, stderr io.Writer) error {
			cancel()
			for i, out := range []string{"l:41ed:0:0:1:root:root:/\nt:41ed:0:0:1:root:root:/\n", "kernel=Linux\narch=x86_64\ninit=none\n+ID=debian\n"} {
				fmt.Fprintf(stdout, "\n%s B %d\n%s\n%[1]s E %[2]d 0\n", token, i, out)
				fmt.Fprintf(stderr, "\n%s B %d\n\n%[1]s E %[2]d 0\n", token, i)
			}
			fmt.Fprintf(stdout, "\n%s END 2\n", token)
			fmt.Fprintf(stderr, "\n%s END 2\n", token)
			return nil
		}}
		r, err := s.Run(ctx, m, RunOptions{})
		if !errors.Is(err, context.Canceled) || r.Results[0].Status != Error || r.Results[0].Message == "" || r.Results[1].Status != Pass {
			t.Errorf("%v, %+v", err, r.Results)
		}
	}
}

func TestSudo(t *testing.T) {
	if _, err := exec.LookPath("sudo"); err == nil && os.Getuid() != 0 {
		t.Skip("the answer depends on this system's sudo")
	}
	s := compile(t, "sudo = true\ncommand \"id -u\" {\n\tits \"stdout\" { eq = 0 }\n}")
	r, err := s.Run(t.Context(), &local{}, RunOptions{})
	if os.Getuid() == 0 {
		if err != nil || !r.Passed() {
			t.Errorf("%v: %+v", err, r)
		}
	} else if err == nil || !strings.Contains(err.Error(), "sudo") {
		t.Errorf("without sudo: %v", err)
	}
}

// fake is a machine that answers as it likes. It knows the script.
type fake struct {
	machine.Machine
	answer func(ctx context.Context, token string, stdout, stderr io.Writer) error
}

func (f fake) Platform() machine.Platform { return machine.Platform{OS: "linux"} }

func (f fake) Run(ctx context.Context, c machine.Command) error {
	m := regexp.MustCompile(`n=(\w+)/(\w+)\n`).FindStringSubmatch(c.Line)
	return f.answer(ctx, m[2]+m[1], c.Stdout, c.Stderr)
}

func TestHostileMachines(t *testing.T) {
	const src = `
command "true" {
	its "exit_status" { eq = 0 }
	should_not {
		its "stdout" { match = "x" }
	}
}
command "false" {
	should_not {
		its "stdout" { match = "x" }
	}
}`
	both := func(format string) func(context.Context, string, io.Writer, io.Writer) error {
		return func(_ context.Context, token string, stdout, stderr io.Writer) error {
			s := strings.ReplaceAll(format, "T ", token+" ")
			io.WriteString(stdout, s)
			io.WriteString(stderr, s)
			return nil
		}
	}
	const good = "\nT B 0\n\nT E 0 0\n\nT B 1\n\nT E 1 1\n\nT END 2\n"
	for _, c := range []struct {
		name, err string
		passed    int
		answer    func(ctx context.Context, token string, stdout, stderr io.Writer) error
	}{
		{"honest", "", 3, both(good)},
		{"silent", "broke off after 0 of 2", 0, both("")},
		{"garbage", "broke off", 0, both("\x00\xff garbage \n B 0 \n")},
		{"forged without the token", "broke off", 0, both("\n0000 B 0\n\n0000 E 0 0\n\n0000 END 2\n")},
		{"no end", "broke off after 2 of 2", 3, both(strings.TrimSuffix(good, "\nT END 2\n"))},
		{"half", "broke off after 1 of 2", 2, both("\nT B 0\n\nT E 0 0\n\nT B 1\n")},
		{"early end", "out of place", 0, both("\nT B 0\n\nT E 0 0\n\nT END 2\n")},
		{"wrong count", "out of place", 0, both("\nT B 0\n\nT E 0 0\n\nT B 1\n\nT E 1 1\n\nT END 3\n")},
		{"twice", "out of place", 0, both("\nT B 0\n\nT E 0 0\n\nT B 0\n\nT E 0 0\n\nT END 2\n")},
		{"out of order", "out of place", 0, both("\nT B 1\n\nT E 1 0\n\nT B 0\n\nT E 0 0\n\nT END 2\n")},
		{"nested", "out of place", 0, both("\nT B 0\n\nT B 1\n\nT E 1 0\n\nT E 0 0\n\nT END 2\n")},
		{"bad status", "ended with the status", 0, both("\nT B 0\n\nT E 0 zero\n\nT B 1\n\nT E 1 1\n\nT END 2\n")},
		{"status too large", "ended with the status", 0, both("\nT B 0\n\nT E 0 256\n\nT B 1\n\nT E 1 1\n\nT END 2\n")},
		{"endless line", "out of place", 0, both("\nT " + strings.Repeat("B", 500))},
		{"only stdout", "did not come apart", 0, func(ctx context.Context, token string, stdout, _ io.Writer) error {
			return both(good)(ctx, token, stdout, io.Discard)
		}},
		{"different statuses", "", 1, func(ctx context.Context, token string, stdout, stderr io.Writer) error {
			both(good)(ctx, token, stdout, io.Discard)
			return both(strings.Replace(good, "E 0 0", "E 0 9", 1))(ctx, token, io.Discard, stderr)
		}},
		{"endless", "printed more than 65536 bytes", 0, func(ctx context.Context, token string, stdout, _ io.Writer) error {
			io.WriteString(stdout, "\n"+token+" B 0\n")
			for ctx.Err() == nil {
				stdout.Write(make([]byte, 4096))
			}
			return ctx.Err()
		}},
		{"sudo refuses", "a password is required", 0, func(_ context.Context, _ string, _, stderr io.Writer) error {
			io.WriteString(stderr, "sudo: a password is required\n")
			return &machine.ExitError{Status: 1}
		}},
		{"cannot connect", "no route", 0, func(context.Context, string, io.Writer, io.Writer) error { return errors.New("no route") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := compile(t, src).Run(t.Context(), fake{answer: c.answer}, RunOptions{MaxOutput: 64 << 10})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, wanted %q", err, c.err)
			}
			n := r.Counts()
			if n.Passed != c.passed || n.Passed+n.Failed+n.Errors != 3 || n.Passed < 3 && r.Passed() {
				t.Errorf("%+v, wanted %d passed", n, c.passed)
			}
		})
	}

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		m := fake{answer: func(ctx context.Context, _ string, _, _ io.Writer) error { <-ctx.Done(); return ctx.Err() }}
		if r, err := compile(t, src).Run(ctx, m, RunOptions{}); !errors.Is(err, context.Canceled) || r.Counts().Errors != 3 {
			t.Errorf("%v", err)
		}
	})
}

// A machine that has nothing but busybox and what the test puts there.
func TestBusyboxRoot(t *testing.T) {
	busybox := need(t, "busybox")
	if os.Getuid() != 0 {
		t.Skip("only root can change the root directory")
	}
	root := t.TempDir()
	put := func(name, content string, mode os.FileMode) {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	put("bin/busybox", string(data), 0o755)
	for _, applet := range strings.Fields("sh cat grep head id kill md5sum readlink sed setsid sha256sum sleep sort stat tail timeout wc") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	if err := exec.Command("chroot", root, "/bin/sh", "-c", "true").Run(); err != nil {
		t.Skipf("this busybox does not run on its own: %v", err)
	}
	put("dev/null", "", 0o666)
	put("etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:33:44::/srv:/sbin/nologin\n", 0o644)
	put("etc/group", "root:x:0:\nweb:x:44:\nextra:x:45:www,root\n", 0o644)
	put("bin/apk", "#!/bin/sh\n[ \"$*\" = 'info -v' ] && printf 'musl-1.2.4-r2\\nnginx-mod-http-lua-1.24.0-r15\\nnginx-1.24.0-r15\\n'\n", 0o755)
	put("run/openrc/softlevel", "default\n", 0o644)
	put("etc/init.d/nginx", "#!/bin/sh\n", 0o755)
	put("etc/init.d/crond", "#!/bin/sh\n", 0o755)
	put("bin/rc-service", "#!/bin/sh\n[ \"$1\" = nginx ] || exit 3\n", 0o755)
	if err := os.MkdirAll(filepath.Join(root, "etc/runlevels/default"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/init.d/nginx", filepath.Join(root, "etc/runlevels/default/nginx")); err != nil {
		t.Fatal(err)
	}
	const src = `
package "nginx" {
	be_installed = { with_version = ">= 1.24, < 1.24.1_rc1" } # pass: installed: 1.24.0-r15
}
package "lua" {
	should_not { be_installed = true } # pass
}
service "nginx" {
	be_enabled = true # pass: /etc/runlevels/default/nginx
	be_running = true # pass
}
service "crond" {
	be_enabled = true # fail: no boot link
	be_running = true # fail: 3
}
service "nothing" {
	be_running = true # fail: no such service
}
user "www" {
	belong_to_group         = "extra" # pass
	belong_to_primary_group = "web" # pass
	its "home" { eq = "/srv" } # pass
}
group "extra" {
	its "members" { include = "root" } # pass
}
file "/etc/init.d/nginx" {
	be_mode     = 0755 # pass
	be_owned_by = "root" # pass
	its "content" { eq = "#!/bin/sh\n" } # pass
	its "md5sum" { eq = "3e2b31c72181b87149ff995e7202c0e3" } # pass
}
file "/etc/nothing" {
	should_not { exist = true } # pass
	its "content" { not_match = "x" } # fail: no such file
	its "sha256sum" { eq = "" } # fail: no such file
	be_linked_to = "x" # fail: no such file
}
command "sleep 60" {
	timeout = "1s"
	its "exit_status" { eq = 0 } # error: did not end within 1s
}
port "22" {
	should_not { be_listening = true } # error: /proc/net/tcp
}
process "init" {
	should_not { be_running = true } # error: hidden
}
`
	expect(t, src, run(t, &local{root: root}, src))
	if err := os.Remove(filepath.Join(root, "bin/timeout")); err != nil {
		t.Fatal(err)
	}
	expect(t, src, run(t, &local{root: root}, src))
}

func TestOneHungFileCostsNoOther(t *testing.T) {
	dir := t.TempDir()
	put := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	hung := filepath.Join(dir, "hung")
	if err := syscall.Mkfifo(hung, 0o600); err != nil {
		t.Fatal(err)
	}
	src := fmt.Sprintf("timeout = \"3s\"\nfile %q {\n its \"content\" { eq = \"a\" } # pass\n}\nfile %q {\n its \"content\" { eq = \"\" } # error: did not end within 3s\n}\n"+
		"file %q {\n its \"content\" { eq = \"b\" } # pass\n}\nfile %q {\n its \"content\" { eq = \"b\" } # fail: c\n}\n", put("a"), hung, put("b"), put("c"))
	for name, m := range shells(t) {
		for _, proc := range []string{"with /proc", "without"} {
			t.Run(name+" "+proc, func(t *testing.T) {
				t.Parallel()
				m := &local{shell: m.shell}
				if proc == "without" {
					m.edit = func(l string) string { return strings.ReplaceAll(l, "/proc/self/task", "/nowhere") }
				}
				r := run(t, m, src)
				expect(t, src, r)
				if r.RoundTrips != 1 {
					t.Errorf("%d round trips", r.RoundTrips)
				}
			})
		}
	}
}
