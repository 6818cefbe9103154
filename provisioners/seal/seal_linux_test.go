package seal_test

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/provisioners/seal"
	"github.com/ingotbuild/ingot/specs"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// bases are the systems that a machine is sealed on: GNU's tools, and busybox's.
func bases(t *testing.T) map[string]string {
	sandboxtest.Need(t)
	all := map[string]string{"busybox": sandboxtest.Busybox(t)}
	if !sandbox.InUserNamespace() {
		all["host"] = sandbox.HostBase
	}
	return all
}

// must runs a script on the machine and returns what it printed.
func must(t *testing.T, m machine.Machine, script string) string {
	t.Helper()
	var out, errs strings.Builder
	if err := m.Run(t.Context(), machine.Command{Line: script, Stdout: &out, Stderr: &errs}); err != nil {
		t.Fatalf("%v: %s\n%s", err, errs.String(), script)
	}
	return out.String()
}

const (
	bakesKey = "AAAAC3NzaC1lZDI1NTE5AAAAIJr2lYUBqDhzsPIFWRhgcZ8UuBnDTmwbmsmdUHuE2F7e"
	teamsKey = "AAAAC3NzaC1lZDI1NTE5AAAAIHYbAWdU0GRzNTkyk2VvN0RtXhC2sQ4TLqvfNqZT7xIn"
)

// sealing is one run of the provisioner.
type sealing struct {
	*seal.Provisioner
	mu   sync.Mutex
	said []string
}

func (s *sealing) text() string { return strings.Join(s.said, "\n") }

func run(t *testing.T, ctx context.Context, m machine.Machine, change func(*seal.Options)) (*sealing, error) {
	t.Helper()
	s := &sealing{Provisioner: seal.New()}
	o := s.Options().(*seal.Options)
	if change != nil {
		change(o)
	}
	env := &provisioners.Env{
		Values: map[string]string{"SSHPublicKey": "ssh-ed25519 " + bakesKey + " ingot\n"},
		Events: event.Scope{Sink: event.Func(func(e event.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.said = append(s.said, e.Text)
		})},
	}
	if problems := s.Check(ctx, env); len(problems) > 0 {
		t.Fatal(problems)
	}
	return s, s.Provision(ctx, env, m)
}

// prove runs the proof and returns the titles of the checks by verdict.
func (s *sealing) prove(t *testing.T, m machine.Machine) map[specs.Status][]string {
	t.Helper()
	f, d := hclsyntax.ParseConfig(s.Proof(), "proof", hcl.InitialPos)
	if d.HasErrors() {
		t.Fatalf("%v\n%s", d, s.Proof())
	}
	spec, d := specs.Compile(f.Body, nil, "proof")
	if d.HasErrors() {
		t.Fatalf("%v\n%s", d, s.Proof())
	}
	report, err := spec.Run(t.Context(), m, specs.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[specs.Status][]string{}
	for _, r := range report.Results {
		if r.Status == specs.Error || r.Property == "its exit_status" && r.Status != specs.Pass {
			t.Errorf("%s: %s %s", r.Title, r.Actual, r.Message)
		}
		if r.Property == "its stdout" {
			verdicts[r.Status] = append(verdicts[r.Status], r.Title)
		}
	}
	return verdicts
}

// plant makes of everything a bit, all of it older than the sealing.
const plant = `set -e
mkdir -p /root/.ssh /home/ann/.ssh /home/ann/.ansible/tmp/x /var/lib/dbus /var/log/app /var/log/journal/0123 /var/lib/cloud/instances/i-1 /var/lib/cloud/seed/nocloud \
  /var/lib/cloud/scripts/per-boot /var/cache/apt/archives/partial /var/lib/apt/lists/partial /var/cache/dnf/x /var/lib/systemd/coredump /var/lib/dhcp \
  /var/lib/NetworkManager /etc/udev/rules.d /etc/ssh /tmp/dir /tmp/systemd-private-1/tmp /var/tmp /var/mail /srv/extra /srv/kept /var/log/keep
for f in /root/.bash_history /home/ann/.zsh_history /home/ann/.ansible/tmp/x/y /var/lib/dbus/machine-id /var/log/app/app.log /var/log/app/app.log.1 /var/log/old.gz \
  /var/log/app-20260101 /var/log/journal/0123/system.journal /var/lib/cloud/instances/i-1/user-data.txt /var/lib/cloud/seed/nocloud/user-data \
  /var/lib/cloud/scripts/per-boot/mine.sh /var/cache/apt/archives/a.deb /var/lib/apt/lists/deb_Release /var/cache/dnf/x/y /var/lib/systemd/coredump/core.1 \
  /var/lib/systemd/random-seed /var/lib/dhcp/dhclient.eth0.leases /var/lib/NetworkManager/secret_key /etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/80-mine.rules \
  /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub /etc/ssh/sshd_config /tmp/dir/file /tmp/.hidden /tmp/systemd-private-1/tmp/f /var/tmp/file /var/mail/root \
  /root/.ssh/known_hosts /srv/extra/file /srv/kept/file /srv/one /srv/two /var/log/keep/keep.log; do
  printf 0123456789 >"$f"; touch -t 202001010000 "$f"
done
ln -sf instances/i-1 /var/lib/cloud/instance
chmod 0640 /var/log/app/app.log
chown 65534 /var/log/app/app.log
printf 'ssh-ed25519 ` + bakesKey + ` ingot\n' >/root/.ssh/authorized_keys
printf '# team\nssh-ed25519 ` + teamsKey + ` team\ncommand="x" ssh-ed25519 ` + bakesKey + ` again\nlast' >/home/ann/.ssh/authorized_keys
chmod 0600 /home/ann/.ssh/authorized_keys
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
touch -t 202001010000 /etc/machine-id
`

// gone and stay are what becomes of it.
var (
	gone = []string{
		"/root/.bash_history", "/home/ann/.zsh_history", "/home/ann/.ansible/tmp", "/var/lib/dbus/machine-id", "/var/log/app/app.log.1", "/var/log/old.gz", "/var/log/app-20260101",
		"/var/log/journal/0123", "/var/lib/cloud/instances", "/var/lib/cloud/instance", "/var/cache/apt/archives/a.deb", "/var/lib/apt/lists/deb_Release", "/var/cache/dnf/x",
		"/var/lib/systemd/coredump/core.1", "/var/lib/systemd/random-seed", "/var/lib/dhcp/dhclient.eth0.leases", "/var/lib/NetworkManager/secret_key",
		"/etc/udev/rules.d/70-persistent-net.rules", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub", "/tmp/dir", "/tmp/.hidden",
		"/tmp/systemd-private-1/tmp/f", "/var/tmp/file", "/root/.ssh/authorized_keys", "/srv/extra", "/srv/one",
	}
	stay = []string{
		"/var/lib/cloud/seed/nocloud/user-data", "/var/lib/cloud/scripts/per-boot/mine.sh", "/etc/udev/rules.d/80-mine.rules", "/etc/ssh/sshd_config",
		"/root/.ssh/known_hosts", "/srv/kept/file", "/srv/two", "/var/log/keep/keep.log",
	}
	emptied = []string{"/var/log/app/app.log", "/var/mail/root", "/etc/machine-id"}
)

func options(o *seal.Options) {
	o.Paths = []string{"/srv/extra", "/srv/kept", "/srv/o?e", "/srv/$HOME'${x}`"}
	o.Keep = []string{"/srv/kept/f*", "/var/log/keep"}
}

// state says of each path whether it is there, and how large files are.
func state(t *testing.T, m machine.Machine, paths []string) map[string]string {
	t.Helper()
	lines := must(t, m, "for f in "+machine.Quote(paths...)+`; do if [ -d "$f" ]; then echo dir; elif [ -s "$f" ]; then echo full; elif [ -e "$f" ] || [ -L "$f" ]; then echo empty; else echo gone; fi; done`)
	out := map[string]string{}
	for i, s := range strings.Fields(lines) {
		out[paths[i]] = s
	}
	return out
}

func expect(t *testing.T, m machine.Machine, want string, paths []string) {
	t.Helper()
	for p, is := range state(t, m, paths) {
		if is != want {
			t.Errorf("%s is %s, want it %s", p, is, want)
		}
	}
}

func TestSeal(t *testing.T) {
	for name, base := range bases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sandboxtest.Start(t, base)
			must(t, m, plant)
			dry, err := run(t, t.Context(), m, func(o *seal.Options) { options(o); o.DryRun = true })
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"histories: would remove 2 files, 20 bytes", "  /tmp: 3 files, 30 bytes", "  /srv/extra: 1 file, 10 bytes", "temporary_key: would remove 2 files, 186 bytes"} {
				if !strings.Contains(dry.text(), want) {
					t.Errorf("the dry run does not say %q:\n%s", want, dry.text())
				}
			}
			if dry.Proof() != nil {
				t.Error("a dry run has a proof")
			}
			for p, is := range state(t, m, slices.Concat(gone, stay, emptied)) {
				if is == "gone" || is == "empty" {
					t.Errorf("the dry run has left %s %s", p, is)
				}
			}

			first, err := run(t, t.Context(), m, options)
			if err != nil {
				t.Fatalf("%v\n%s", err, first.text())
			}
			expect(t, m, "gone", gone)
			expect(t, m, "full", stay)
			expect(t, m, "empty", emptied)
			expect(t, m, "dir", []string{"/tmp", "/var/tmp", "/var/log/app", "/var/log/journal", "/var/lib/apt/lists", "/tmp/systemd-private-1/tmp"})
			if got := must(t, m, "stat -c '%a %u' /var/log/app/app.log; stat -c %a /tmp /home/ann/.ssh/authorized_keys"); got != "640 65534\n1777\n600\n" {
				t.Errorf("modes: %q", got)
			}
			if got, want := must(t, m, "cat /home/ann/.ssh/authorized_keys"), "# team\nssh-ed25519 "+teamsKey+" team\nlast\n"; got != want {
				t.Errorf("authorized_keys: %q, want %q", got, want)
			}
			for _, want := range []string{"histories: removed 2 files, 20 bytes", "mail: removed 1 file, 10 bytes", "paths: removed 2 files, 20 bytes"} {
				if !strings.Contains(first.text(), want) {
					t.Errorf("it does not say %q:\n%s", want, first.text())
				}
			}
			if v := first.prove(t, m); len(v[specs.Fail]) > 0 || len(v[specs.Pass]) != 13 {
				t.Errorf("the proof: %v", v)
			}

			second, err := run(t, t.Context(), m, options)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(second.text(), "removed 0 files, 0 bytes in all") {
				t.Errorf("a second run says\n%s", second.text())
			}

			// The proof finds what is back.
			must(t, m, plant)
			v := second.prove(t, m)
			if len(v[specs.Pass]) > 0 || len(v[specs.Fail]) != 13 {
				t.Errorf("the proof of what is not sealed: %v", v)
			}
		})
	}
}

// What a daemon has written since is no fault; what was there before is.
func TestProofIsOfThePast(t *testing.T) {
	for name, base := range bases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sandboxtest.Start(t, base)
			s, err := run(t, t.Context(), m, nil)
			if err != nil {
				t.Fatal(err)
			}
			must(t, m, "mkdir -p /var/log /var/mail; for f in /var/log/x.log /tmp/x /var/mail/x; do echo x >$f; touch -d @$(($(date +%s) + 5)) $f; done")
			if v := s.prove(t, m); len(v[specs.Fail]) > 0 {
				t.Errorf("the proof: %v", v)
			}
			must(t, m, "touch -t 202001010000 /var/log/x.log /tmp/x /var/mail/x")
			if v := s.prove(t, m); !slices.Equal(v[specs.Fail], []string{"no mail left", "no temporary files left", "no logs left"}) {
				t.Errorf("the proof: %v", v)
			}
		})
	}
}

// Off is off: nothing of an option's is touched, and nothing is proven of it.
func TestOff(t *testing.T) {
	sandboxtest.Need(t)
	m := sandboxtest.Start(t, sandboxtest.Busybox(t))
	must(t, m, plant)
	before := must(t, m, "find / -xdev -type f -size +0c ! -path '/srv/*' | sort; cat /etc/machine-id")
	s, err := run(t, t.Context(), m, func(o *seal.Options) { *o = seal.Options{Paths: []string{"/srv/one"}} })
	if err != nil {
		t.Fatal(err)
	}
	if after := must(t, m, "find / -xdev -type f -size +0c ! -path '/srv/*' | sort; cat /etc/machine-id"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if v := s.prove(t, m); len(v[specs.Pass]) != 1 || len(v[specs.Fail]) != 0 {
		t.Errorf("the proof: %v", v)
	}
	if _, err := run(t, t.Context(), m, func(o *seal.Options) {
		*o = seal.Options{AuthorizedKeys: true, KnownHosts: true, Hostname: true}
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, m, "gone", []string{"/root/.ssh/authorized_keys", "/home/ann/.ssh/authorized_keys", "/root/.ssh/known_hosts"})
	expect(t, m, "empty", []string{"/etc/hostname"})
}

func TestUninitialized(t *testing.T) {
	sandboxtest.Need(t)
	m := sandboxtest.Start(t, sandboxtest.Busybox(t))
	must(t, m, "echo uninitialized >/etc/machine-id")
	s, err := run(t, t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := must(t, m, "cat /etc/machine-id"); got != "uninitialized\n" {
		t.Errorf("machine-id is %q", got)
	}
	if v := s.prove(t, m); len(v[specs.Fail]) > 0 {
		t.Errorf("the proof: %v", v)
	}
}

// Names may be anything, links are not followed, and holes are not counted.
func TestHostileFiles(t *testing.T) {
	for name, base := range bases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sandboxtest.Start(t, base)
			must(t, m, `cd /tmp; nl='
'
mkdir -p /srv/precious /home/eve/.ssh; echo x >/srv/precious/f; echo 'ssh-ed25519 `+bakesKey+`' >/srv/precious/keys
ln -s /srv/precious/keys /home/eve/.ssh/authorized_keys; ln -s /srv/precious/f /var/log/link; ln -s /srv/precious /tmp/link; ln -s /srv/precious/f /var/mail/eve || mkdir /var/mail
for f in -rf "* ?" '$(touch /srv/pwned)' "a${nl}9999 -rw-r--r-- 1 0 0 88888888888 b" "$(printf '\377\033[2J')" "'"; do echo x >"./$f"; done
mkdir -p d/e/f; echo x >d/e/f/g
mkdir -p /var/log; dd if=/dev/zero of=/var/log/lastlog bs=1 count=1 seek=5000000000 2>/dev/null`)
			s, err := run(t, t.Context(), m, nil)
			if err != nil {
				t.Fatalf("%v\n%s", err, s.text())
			}
			if left := must(t, m, "ls -A /tmp"); left != "" {
				t.Errorf("/tmp has %q", left)
			}
			expect(t, m, "full", []string{"/srv/precious/f", "/srv/precious/keys"})
			expect(t, m, "gone", []string{"/srv/pwned"})
			expect(t, m, "empty", []string{"/var/log/lastlog"})
			if v := s.prove(t, m); !slices.Equal(v[specs.Fail], []string{"no temporary key left"}) { // it looks through the link
				t.Errorf("the proof: %v", v)
			}
			if m := regexp.MustCompile(`logs: removed \d+ files?, (\d{10,}) bytes`).FindString(s.text()); m != "" {
				t.Errorf("holes are counted: %s", m)
			}
		})
	}
}

// A wildcard that the machine's shell takes for .. too leads nowhere else.
func TestDots(t *testing.T) {
	for name, base := range bases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sandboxtest.Start(t, base)
			must(t, m, "mkdir -p /srv/a/b /srv/x/a; for f in /srv/keep /srv/a/f /srv/a/.f /srv/x/keep /srv/x/a/.f /opt2; do echo x >$f; done; sh -c 'echo /srv/a/.*'")
			s, err := run(t, t.Context(), m, func(o *seal.Options) { *o = seal.Options{Paths: []string{"/srv/a/.*", "/srv/x/.*/keep"}} })
			if err != nil {
				t.Fatal(err)
			}
			expect(t, m, "gone", []string{"/srv/a/.f"})
			expect(t, m, "full", []string{"/srv/keep", "/srv/a/f", "/srv/x/keep", "/srv/x/a/.f", "/opt2"})
			if v := s.prove(t, m); len(v[specs.Fail]) > 0 {
				t.Errorf("the proof: %v", v)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	sandboxtest.Need(t)
	base := sandboxtest.Busybox(t)
	m := sandboxtest.Start(t, base)
	// /etc/hosts is mounted into a sandbox machine.
	s, err := run(t, t.Context(), m, func(o *seal.Options) { o.Paths = []string{"/etc/hosts"} })
	if err == nil || !strings.Contains(err.Error(), "not sealed") || !strings.Contains(err.Error(), "not all of it could be removed: /etc/hosts") {
		t.Errorf("%v", err)
	}
	if s.Proof() != nil {
		t.Error("there is a proof")
	}

	// Neither root nor sudo.
	user := as{m}
	if _, err := run(t, t.Context(), user, nil); err == nil || !strings.Contains(err.Error(), "sudo") {
		t.Errorf("as nobody: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := run(t, ctx, m, nil); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	if !sandbox.InUserNamespace() { // busybox's sh does not look for find
		m := sandboxtest.Start(t, sandbox.HostBase)
		must(t, m, `rm "$(command -v find)"`)
		if _, err := run(t, t.Context(), m, nil); err == nil || !strings.Contains(err.Error(), "needs the program find") {
			t.Errorf("without find: %v", err)
		}
	}
	if _, err := run(t, t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), machine.ErrNone.Error()) {
		t.Errorf("without a machine: %v", err)
	}
}

// as runs each command as nobody.
type as struct{ machine.Machine }

func (a as) Run(ctx context.Context, c machine.Command) error {
	c.Line = "exec su -s /bin/sh nobody -c " + machine.Quote(c.Line)
	return a.Machine.Run(ctx, c)
}

// It warns when sshd could not start again.
func TestHostKeysAreMadeAgain(t *testing.T) {
	sandboxtest.Need(t)
	const warning = "nothing on this machine makes new host keys"
	for name, tc := range map[string]struct {
		setup string
		warns bool
	}{
		"nothing":    {"", true},
		"cloud-init": {"printf '#!/bin/sh\n' >/bin/cloud-init; chmod +x /bin/cloud-init", false},
		"a unit":     {"mkdir -p /etc/systemd/system; echo ExecStart=/usr/bin/ssh-keygen -A >/etc/systemd/system/x.service", false},
		"no keys":    {"rm -r /etc/ssh", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := sandboxtest.Start(t, sandboxtest.Busybox(t))
			must(t, m, "mkdir /etc/ssh; echo x >/etc/ssh/ssh_host_rsa_key; "+tc.setup)
			s, err := run(t, t.Context(), m, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(s.text(), warning); got != tc.warns {
				t.Errorf("it says\n%s", s.text())
			}
		})
	}
}
