package cloudinit

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

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

// log collects what is said, and counts the commands of its machine.
type log struct {
	machine.Machine
	mu   sync.Mutex
	said []string
	runs int
}

func (l *log) Run(ctx context.Context, c machine.Command) error {
	l.runs++
	return l.Machine.Run(ctx, c)
}

func (l *log) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, e.Text)
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.said, "\n")
}

func (l *log) must(t *testing.T, line string) {
	t.Helper()
	var out strings.Builder
	if err := l.Machine.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
}

func (l *log) provision(ctx context.Context, change func(*Options)) error {
	p := New()
	if change != nil {
		change(&p.o)
	}
	return p.Provision(ctx, &provisioners.Env{Events: event.Scope{Sink: l}}, l)
}

// host is a machine with the host's own cloud-init, and configured so that it
// needs no network.
func host(t *testing.T, userData string) *log {
	t.Helper()
	sandboxtest.Need(t)
	if sandbox.InUserNamespace() {
		t.Skip(`base "host" needs root`)
	}
	if _, err := exec.LookPath("cloud-init"); err != nil {
		sandboxtest.Missing(t, "needs cloud-init (Debian: cloud-init)")
	}
	l := &log{Machine: sandboxtest.Start(t, sandbox.HostBase)}
	l.must(t, `mkdir -p /var/lib/cloud/seed/nocloud
cd /var/lib/cloud/seed/nocloud
echo 'instance-id: i-1' >meta-data
echo 'version: 2' >network-config
printf '#cloud-config\n%s\n' `+machine.Quote(userData)+` >user-data
find /etc/cloud/cloud.cfg.d -type f ! -name 05_logging.cfg -exec rm {} +
cat >/etc/cloud/cloud.cfg <<'X'
datasource_list: [NoCloud]
cloud_init_modules: []
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]

X`)
	return l
}

// boot runs what an init would run.
const boot = `(sleep 1; cloud-init init --local; cloud-init init; cloud-init modules --mode=config; cloud-init modules --mode=final) >/dev/null 2>&1 </dev/null &`

// The real cloud-init is waited for, in one command.
func TestDone(t *testing.T) {
	l := host(t, `runcmd: ["sleep 2", "touch /srv/done"]`)
	l.must(t, boot)
	if err := l.provision(t.Context(), nil); err != nil {
		t.Fatalf("%v\n%s", err, l.text())
	}
	if l.runs != 1 {
		t.Errorf("%d commands", l.runs)
	}
	l.must(t, "[ -e /srv/done ]")
	for _, want := range []string{"waiting for cloud-init", "cloud-init: modules-final", "cloud-init is done"} {
		if !strings.Contains(l.text(), want) {
			t.Errorf("it does not say %q:\n%s", want, l.text())
		}
	}
	// Again there is nothing to wait for.
	if err := l.provision(t.Context(), func(o *Options) { o.WaitTimeout = 2 * time.Minute }); err != nil {
		t.Error(err)
	}
}

// Its error is the bake's error.
func TestFailed(t *testing.T) {
	l := host(t, `runcmd: ["echo it is broken >&2", "exit 3"]`)
	l.must(t, boot)
	err := l.provision(t.Context(), nil)
	for _, want := range []string{"cloud-init has failed", "Runparts: 1 failures (runcmd)", "\n    it is broken"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// It does not wait for ever, nor after a cancel, and leaves no process.
func TestNever(t *testing.T) {
	l := host(t, "")
	err := l.provision(t.Context(), func(o *Options) { o.WaitTimeout = time.Second })
	if err == nil || !strings.Contains(err.Error(), "not done within wait_timeout (1s)") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const waits = "for p in /proc/[0-9]*/cmdline; do if tr '\\0' ' ' <$p | grep '[c]loud-init status --wait *$'; then exit 0; fi; done; exit 1"
	go func() {
		for ctx.Err() == nil && l.Machine.Run(ctx, machine.Command{Line: waits}) != nil {
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
	}()
	if err := l.provision(ctx, nil); err != context.Canceled {
		t.Errorf("%v", err)
	}
	l.must(t, "for p in /proc/[0-9]*/cmdline; do if tr '\\0' ' ' <$p | grep '[c]loud-init status'; then exit 1; fi; done")
}

// old is a cloud-init that has no status command, and its files.
const old = `mkdir -p /run/cloud-init; printf '#!/bin/sh\necho usage >&2; exit 2\n' >/bin/cloud-init; chmod +x /bin/cloud-init
`

func TestWithoutStatus(t *testing.T) {
	for name, tc := range map[string]struct{ setup, err, said string }{
		"absent":   {"true", "not installed on this machine", ""},
		"done":     {old + "(sleep 1; echo '{\"v1\": {\"errors\": []}}' >/run/x; mv /run/x /run/cloud-init/result.json) >/dev/null 2>&1 &", "", "cloud-init is done"},
		"failed":   {old + "printf '%s' '{\"v1\": {\"errors\": [\"it broke\"]}}' >/run/cloud-init/result.json; mkdir -p /var/log; echo why >/var/log/cloud-init-output.log", "has failed:\n    it broke\nThe last lines of /var/log/cloud-init-output.log are:\n    why", ""},
		"never":    {old, "not done within wait_timeout (3s)", ""},
		"stages":   {old + "printf '{\\n \"v1\": {\\n  \"stage\": \"init-local\"\\n }\\n}\\n' >/run/cloud-init/status.json", "not done within", "cloud-init: init-local"},
		"disabled": {old + "touch /run/cloud-init/disabled", "cloud-init is disabled", ""},
	} {
		t.Run(name, func(t *testing.T) {
			sandboxtest.Need(t)
			l := &log{Machine: sandboxtest.Start(t, sandboxtest.Busybox(t))}
			l.must(t, tc.setup)
			err := l.provision(t.Context(), func(o *Options) {
				if strings.Contains(tc.err, "not done") {
					o.WaitTimeout = 3 * time.Second
				}
			})
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v, want %q", err, tc.err)
			}
			if !strings.Contains(l.text(), tc.said) {
				t.Errorf("it says\n%s", l.text())
			}
		})
	}
}
