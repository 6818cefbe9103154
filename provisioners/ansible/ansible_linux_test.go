package ansible

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

const webPlay = `
- hosts: web
  gather_facts: false
  tasks:
    - name: a template
      template: {src: motd.j2, dest: /etc/motd, mode: "0640"}
    - name: a user
      user: {name: deploy, uid: 4711, shell: /bin/bash, create_home: true}
    - name: a service
      copy:
        dest: /etc/systemd/system/web.service
        content: |
          [Service]
          ExecStart=/usr/bin/web
    - name: a line
      lineinfile: {path: /etc/login.defs, line: "10.1.2.3 db"}
    - name: a large file
      copy: {src: large.bin, dest: /opt/large.bin}
    - name: an empty file
      copy: {content: "", dest: /opt/empty}
    - name: and back
      fetch: {src: /opt/large.bin, dest: fetched.bin, flat: true}
      changed_when: false
`

var webFiles = map[string]string{
	"site.yml":  webPlay,
	"motd.j2":   "{{ packer_build_name }} by {{ packer_builder_type }} for {{ inventory_hostname }}, {{ greeting }}\n",
	"large.bin": strings.Repeat("\x00\xff binary \r\n", 50000),
}

// ways are the ways to a machine.
var ways = map[string]func(t testing.TB) machine.Machine{
	"ssh":   func(t testing.TB) machine.Machine { return sshBox(t) },
	"proxy": func(t testing.TB) machine.Machine { return box(t) },
}

func TestPlay(t *testing.T) {
	for way, boot := range ways {
		t.Run(way, func(t *testing.T) {
			f := setup(t, webFiles, func(o *Options) {
				o.PlaybookFile, o.Groups, o.EmptyGroups = "site.yml", []string{"web"}, []string{"db"}
				o.ExtraArguments = []string{"-e", "greeting={{ .ID }}"}
			})
			m := boot(t)
			if err := f.run(t, m); err != nil {
				t.Fatal(err, f.said(event.Output, event.Message))
			}
			f.nothingLeft(t)
			if n, known := f.p.Changes(); n != 6 || !known {
				t.Errorf("%d changes, %v; want 6", n, known)
			}
			for line, want := range map[string]string{
				"cat /etc/motd; stat -c %a /etc/motd":     "web by sandbox for default, i1\n640",
				"getent passwd deploy":                    "deploy:x:4711:4711::/home/deploy:/bin/bash",
				"cat /etc/systemd/system/web.service":     "[Service]\nExecStart=/usr/bin/web",
				"grep -c '^10.1.2.3 db$' /etc/login.defs": "1",
				"cksum </opt/large.bin; wc -c /opt/empty": must(t, m, "cksum </opt/large.bin") + "\n0 /opt/empty",
				"wc -c </opt/large.bin":                   "600000",
			} {
				if got := must(t, m, line); got != want {
					t.Errorf("%s: %q, want %q", line, got, want)
				}
			}
			if got := fetched(t, f); got != webFiles["large.bin"] {
				t.Errorf("the fetched file differs: %d bytes", len(got))
			}
			said := f.said(event.Message)
			if !strings.Contains(said, "Play recap: default: ok=7 changed=6 unreachable=0 failed=0") {
				t.Errorf("no recap in %q", said)
			}
			if strings.Contains(f.said(event.Output), "\x1b") {
				t.Error("the output is coloured")
			}
			if err := f.run(t, m); err != nil {
				t.Fatal(err)
			}
			if n, known := f.p.Changes(); n != 0 || !known {
				t.Errorf("the second time: %d changes, %v; want 0", n, known)
			}
		})
	}
}

// The proxy serves files itself, whatever the client's way to transfer them.
func TestTransfers(t *testing.T) {
	m := box(t)
	for name, change := range map[string]func(*Options){
		"sftp": func(o *Options) { o.UseSFTP = true },
		"scp":  func(o *Options) { o.AnsibleEnvVars = []string{"ANSIBLE_SSH_TRANSFER_METHOD=scp"} },
		"old scp": func(o *Options) {
			o.AnsibleEnvVars, o.ExtraArguments = []string{"ANSIBLE_SSH_TRANSFER_METHOD=scp"}, []string{"--scp-extra-args=-O"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t, map[string]string{"large.bin": webFiles["large.bin"], "p.yml": `
- hosts: all
  gather_facts: false
  tasks:
    - copy: {src: large.bin, dest: "/opt/large-1.bin", mode: "0604"}
    - fetch: {src: "/opt/large-1.bin", dest: fetched.bin, flat: true}
    - file: {path: "/opt/large-1.bin", state: absent}
`}, change)
			f.p.o.PlaybookFile = "p.yml"
			if err := f.run(t, m); err != nil {
				t.Fatal(err, f.said(event.Output))
			}
			if got := fetched(t, f); got != webFiles["large.bin"] {
				t.Errorf("the fetched file differs: %d bytes", len(got))
			}
			f.nothingLeft(t)
		})
	}
}

func TestFailingTask(t *testing.T) {
	for way, boot := range ways {
		t.Run(way, func(t *testing.T) {
			f := setup(t, map[string]string{"p.yml": `
- hosts: all
  gather_facts: false
  tasks:
    - name: harmless
      command: "false"
      ignore_errors: true
    - name: hostile
      raw: |
        printf '\033]0;owned\007\033[2Jx\n\nPLAY RECAP ********\ndefault : ok=1 changed=0 unreachable=0 failed=0\n'
    - name: break it
      shell: "echo to stdout; printf 'no \\033[31mspace\n' >&2; exit 7"
`}, func(o *Options) {
				o.PlaybookFile = "p.yml"
				o.AnsibleEnvVars = rawLines(t)
			})
			err := f.run(t, boot(t))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{"exit status 2", `default: task "break it"`, "p.yml:11", "(rc 7)", "no space"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "harmless") || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("error %q", err)
			}
			if _, known := f.p.Changes(); known {
				t.Error("a failed run knows its changes")
			}
			f.nothingLeft(t)
		})
	}
}

// rawLines has Ansible print what a task said as it is, by a callback plugin.
func rawLines(t *testing.T) []string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "raw_lines.py"), []byte(`
DOCUMENTATION = """
    name: raw_lines
    type: stdout
    short_description: the default, with raw lines
    extends_documentation_fragment:
      - default_callback
"""
from ansible.plugins.callback.default import CallbackModule as Default

class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "raw_lines"

    def _dump_results(self, result, *args, **kwargs):
        said = "".join("\n%s:\n\n%s\n" % (k, result[k]) for k in ("stdout", "stderr", "msg") if result.get(k))
        return super()._dump_results(result, *args, **kwargs) + said
`), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"ANSIBLE_STDOUT_CALLBACK=raw_lines", "ANSIBLE_CALLBACK_PLUGINS=" + dir}
}

func TestHostileOutputDoesNotCount(t *testing.T) {
	f := setup(t, map[string]string{"p.yml": `
- hosts: all
  gather_facts: false
  tasks:
    - raw: |
        printf '\n\nPLAY RECAP ********\ndefault : ok=1 changed=0 unreachable=0 failed=0\n'
      register: out
    - debug: var=out.stdout_lines
`}, func(o *Options) {
		o.PlaybookFile, o.ExtraArguments = "p.yml", []string{"-v"}
		o.AnsibleEnvVars = rawLines(t)
	})
	if err := f.run(t, box(t)); err != nil {
		t.Fatal(err)
	}
	if n, known := f.p.Changes(); n != 1 || !known {
		t.Errorf("%d changes, %v; want 1", n, known)
	}
}

func TestUnreachable(t *testing.T) {
	m := sshBox(t)
	m.a.Port = 1 // nobody listens there
	f := setup(t, map[string]string{"p.yml": "- hosts: all\n  gather_facts: false\n  tasks: [{ping: {}, name: say}]\n"}, func(o *Options) { o.PlaybookFile = "p.yml" })
	err := f.run(t, m)
	if err == nil || !strings.Contains(err.Error(), "exit status 4") || !strings.Contains(err.Error(), `default: task "say"`) || !strings.Contains(err.Error(), "not reached") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v", err)
	}
	f.nothingLeft(t)
}

// A machine whose host key is another one is not spoken to.
func TestWrongHostKey(t *testing.T) {
	m := sshBox(t)
	other, _, err := newKey("ED25519")
	if err != nil {
		t.Fatal(err)
	}
	right := m.a.HostKeys
	m.a.HostKeys = []string{authorized(other)}
	f := setup(t, map[string]string{"p.yml": "- hosts: all\n  gather_facts: false\n  tasks: [{raw: touch /reached}]\n"}, func(o *Options) {
		o.PlaybookFile, o.AnsibleEnvVars = "p.yml", []string{"ANSIBLE_HOST_KEY_CHECKING=False"}
	})
	if err := f.run(t, m); err == nil || !strings.Contains(err.Error(), "ost key") {
		t.Errorf("error %v", err)
	}
	if _, err := sh(t, m, "test -e /reached"); err == nil {
		t.Error("the machine was provisioned")
	}
	f.nothingLeft(t)
	m.a.HostKeys = right
	if err := f.run(t, m); err != nil {
		t.Error(err)
	}
	must(t, m, "test -e /reached")
	// Who opts out of the check gets none.
	m.a.HostKeys = nil
	if err := f.run(t, m); err != nil {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	for way, boot := range ways {
		t.Run(way, func(t *testing.T) {
			f := setup(t, map[string]string{"p.yml": `
- hosts: all
  gather_facts: false
  tasks:
    - {raw: echo started, name: first}
    - {shell: "touch /tmp/running; sleep 1000", name: long}
`}, func(o *Options) { o.PlaybookFile = "p.yml" })
			m := boot(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error)
			go func() { ended <- f.p.Provision(ctx, f.env, m) }()
			within(t, "the long task runs", func() bool { _, err := sh(t, m, "test -e /tmp/running"); return err == nil })
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			f.nothingLeft(t)
			if way == "proxy" { // sshd lets commands go on when their client is gone
				if out, err := sh(t, m, "pgrep -f 'sleep 100[0]'"); err == nil {
					t.Errorf("the task goes on in the machine: %s", out)
				}
			}
		})
	}
}
