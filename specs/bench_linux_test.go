package specs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
	"golang.org/x/crypto/ssh"
)

// hundred is the same hundred checks in three languages.
type hundred struct {
	spec string // ours
	ruby string // Serverspec's
	// hand is what somebody who wants it fast writes by hand: each tool is
	// called once for all it is asked about. It decides nothing, and knows of
	// no timeouts, of nothing missing and of no other distribution.
	hand string
	// naive is a command for each check.
	naive string
}

// words runs a command and gives the first n words of its output.
func words(b *testing.B, n int, line string) []string {
	b.Helper()
	out, err := exec.Command("sh", "-c", line).Output()
	if err != nil {
		b.Fatalf("%s: %v", line, err)
	}
	got := strings.Fields(string(out))
	if len(got) < n {
		b.Fatalf("%s: %d of %d", line, len(got), n)
	}
	return got[:n]
}

func newHundred(b *testing.B) hundred {
	for _, tool := range []string{"dpkg-query", "systemctl", "ss", "getent", "stat"} {
		need(b, tool)
	}
	var spec, ruby, naive, hand strings.Builder
	say := func(to *strings.Builder, format string, args ...any) { fmt.Fprintf(to, format+"\n", args...) }
	all := func(what []string) string { return machine.Quote(what...) }

	packages := words(b, 25, "dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u")
	for _, p := range packages {
		say(&spec, "package %q {\n be_installed = true\n}", p)
		say(&ruby, "describe package(%q) do it { should be_installed } end", p)
		say(&naive, `dpkg-query -W -f '${db:Status-Status}' %s | grep -qx installed || echo no`, p)
	}
	say(&hand, "dpkg-query -W -f '${Package} ${db:Status-Status}\n' %s", all(packages))

	units := words(b, 15, "systemctl list-unit-files --no-legend --state=enabled --type=service,timer | cut -d' ' -f1 | grep -v @")
	for _, u := range units {
		say(&spec, "service %q {\n be_enabled = true\n}", u)
		say(&ruby, "describe service(%q) do it { should be_enabled } end", u)
		say(&naive, "systemctl -q is-enabled %s || echo no", u)
	}
	say(&hand, "systemctl is-enabled %s", all(units))

	for range 10 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		say(&spec, "port %q {\n be_listening = true\n}", port)
		say(&ruby, "describe port(%s) do it { should be_listening } end", port)
		say(&naive, "ss -Htln | grep -q ':%s ' || echo no", port)
	}
	say(&hand, "ss -Htunl")

	dir := b.TempDir()
	var paths []string
	for i := range 25 {
		p := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(p, []byte("first\nport = 80\nlast\n"), 0o644); err != nil {
			b.Fatal(err)
		}
		paths = append(paths, p)
		matcher, should, command := "exist = true", "exist", "test -e "+p
		switch {
		case i >= 19:
			matcher, should, command = `contain = "port = 80"`, "contain 'port = 80'", "grep -q 'port = 80' "+p
		case i >= 13:
			matcher, should, command = `be_owned_by = "root"`, "be_owned_by 'root'", `test "$(stat -c %U `+p+`)" = root`
		case i >= 7:
			matcher, should, command = `be_mode = "0644"`, "be_mode 644", `test "$(stat -c %a `+p+`)" = 644`
		}
		say(&spec, "file %q {\n %s\n}", p, matcher)
		say(&ruby, "describe file(%q) do it { should %s } end", p, should)
		say(&naive, "%s || echo no", command)
	}
	say(&hand, "stat -c '%%n %%a %%U' %s", all(paths[:19]))
	for _, p := range paths[19:] {
		say(&hand, "grep -c 'port = 80' %s", p)
	}

	users := words(b, 5, "getent passwd | cut -d: -f1")
	for _, u := range users {
		uid, home := words(b, 1, "id -u "+u)[0], words(b, 1, "getent passwd "+u+" | cut -d: -f6")[0]
		say(&spec, "user %q {\n exist = true\n have_uid = %s\n have_home_directory = %q\n}", u, uid, home)
		say(&ruby, "describe user(%q) do\n it { should exist }\n it { should have_uid %s }\n it { should have_home_directory %q }\nend", u, uid, home)
		say(&naive, "getent passwd %s >/dev/null || echo no\ntest \"$(id -u %s)\" = %s || echo no\ntest \"$(getent passwd %s | cut -d: -f6)\" = %s || echo no", u, u, uid, u, home)
	}
	say(&hand, "getent passwd %s", all(users))

	for i := range 10 {
		command := fmt.Sprintf("echo %d", i)
		if i < 5 {
			say(&spec, "command %q {\n its \"stdout\" { match = \"%d\" }\n}", command, i)
			say(&ruby, "describe command(%q) do its(:stdout) { should match /%d/ } end", command, i)
		} else {
			say(&spec, "command %q {\n its \"exit_status\" { eq = 0 }\n}", command)
			say(&ruby, "describe command(%q) do its(:exit_status) { should eq 0 } end", command)
		}
		say(&naive, "sh -c '%s' >/dev/null || echo no", command)
		say(&hand, "sh -c '%s'", command)
	}
	return hundred{spec.String(), ruby.String(), hand.String(), naive.String()}
}

// BenchmarkHundredChecks sets a hundred checks over SSH beside the same by
// hand in one script on the same open connection, and beside Serverspec where
// there is one: go test -run - -bench Hundred -benchtime 1x ./specs
func BenchmarkHundredChecks(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("the checks are made as root")
	}
	h := newHundred(b)
	server := sshtest.Start(b, sshtest.Options{})
	spec := compile(b, h.spec)
	if len(spec.Checks) != 100 {
		b.Fatalf("%d checks", len(spec.Checks))
	}
	for _, ms := range []int{0, 40} {
		b.Run(fmt.Sprintf("%dms", ms), func(b *testing.B) {
			port := server.Port
			if ms > 0 {
				port = sshtest.NewRelay(b, server.Address(), time.Duration(ms)*time.Millisecond, 0).Port
			}
			key, err := sshmachine.ParseKey(server.Key, nil, nil, "the test")
			if err != nil {
				b.Fatal(err)
			}
			config := sshmachine.Config{Hops: []sshmachine.Hop{{
				Host: server.Host, Port: port, User: server.User,
				HostKeys: sshmachine.HostKeys{Known: []ssh.PublicKey{server.HostPublicKey()}}, Login: sshmachine.Login{Keys: []sshmachine.Key{key}},
			}}}
			m, err := sshmachine.Dial(b.Context(), config)
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()

			check := func(m machine.Machine) {
				r, err := spec.Run(b.Context(), m, RunOptions{})
				if err != nil || r.RoundTrips != 1 || r.Counts().Passed != 100 {
					var text strings.Builder
					_ = r.WriteText(&text, false)
					b.Fatalf("%v: %s", err, text.String())
				}
			}
			script := func(text string) {
				var said strings.Builder
				if err := m.Run(b.Context(), machine.Command{Line: "exec sh -c " + machine.Quote(text), Stdout: &said, Stderr: &said}); err != nil {
					b.Fatalf("%v: %s", err, said.String())
				}
				if text == h.naive && said.String() != "" {
					b.Fatalf("by hand: %s", said.String())
				}
			}
			// Other work on the host hits all alike: they take turns, and the best counts.
			best := map[string]time.Duration{}
			take := func(what string, f func()) {
				start := time.Now()
				f()
				if d := time.Since(start); best[what] == 0 || d < best[what] {
					best[what] = d
				}
			}
			for range 7 {
				take("ingot", func() { check(m) })
				take("script", func() { script(h.hand) })
				take("naive-script", func() { script(h.naive) })
				take("ingot-cold", func() {
					m, err := sshmachine.Dial(b.Context(), config)
					if err != nil {
						b.Fatal(err)
					}
					defer m.Close()
					check(m)
				})
			}
			if _, err := exec.LookPath("rspec"); err == nil {
				for range 2 {
					take("serverspec", func() { byServerspec(b, h.ruby, server, port) })
				}
			}
			b.ReportMetric(0, "ns/op")
			for what, d := range best {
				b.ReportMetric(d.Seconds(), what+"-s")
			}
			b.ReportMetric(best["ingot"].Seconds()/best["script"].Seconds(), "ratio-script")
			b.ReportMetric(best["ingot"].Seconds()/best["naive-script"].Seconds(), "ratio-naive")
			if best["serverspec"] > 0 {
				b.ReportMetric(best["ingot"].Seconds()/best["serverspec"].Seconds(), "ratio-serverspec")
				b.ReportMetric(best["ingot-cold"].Seconds()/best["serverspec"].Seconds(), "ratio-serverspec-cold")
			}
		})
	}
}

func byServerspec(b *testing.B, ruby string, server *sshtest.Server, port int) {
	dir := b.TempDir()
	head := fmt.Sprintf("require 'serverspec'\nset :backend, :ssh\nset :host, '127.0.0.1'\nset :ssh_options, {port: %d, user: %q, keys: [%q], keys_only: true, config: false, verify_host_key: :never}\n", port, server.User, server.KeyFile)
	file, result := filepath.Join(dir, "hundred_spec.rb"), filepath.Join(dir, "result.json")
	if err := os.WriteFile(file, []byte(head+ruby), 0o600); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "rspec", "--default-path", dir, "--options", os.DevNull, "--format", "json", "--out", result, file)
	cmd.Dir = dir
	said, err := cmd.CombinedOutput()
	data, readErr := os.ReadFile(result)
	type example struct {
		Status          string
		FullDescription string `json:"full_description"`
	}
	var report struct{ Examples []example }
	if jsonErr := json.Unmarshal(data, &report); errors.Join(readErr, jsonErr) != nil || len(report.Examples) != 100 {
		b.Fatalf("rspec: %v: %s", err, said)
	}
	if i := slices.IndexFunc(report.Examples, func(e example) bool { return e.Status != "passed" }); i >= 0 {
		b.Fatalf("Serverspec does not pass: %s", report.Examples[i].FullDescription)
	}
}
