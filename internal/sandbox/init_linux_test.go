package sandbox_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

// within waits until cond holds.
func within(t *testing.T, d time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", d, what)
		}
	}
}

// httpdInit is a system whose init keeps a web server running.
func httpdInit(t *testing.T) func(*Config) {
	t.Helper()
	tree := sandboxtest.Busybox(t)
	sandboxtest.Write(t, tree, "etc/inittab", "::sysinit:/bin/mkdir /run/was\n::respawn:/bin/httpd -f -p 8080 -h /www\n::shutdown:/bin/touch /stopped\n", 0o644)
	sandboxtest.Write(t, tree, "www/index.html", "hello\n", 0o644)
	return func(c *Config) { c.Layers, c.Init, c.Network = []string{tree}, "/sbin/init", NetworkNone }
}

func get(m *Machine) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return m.Dial(ctx, "tcp", "127.0.0.1:8080")
	}}}
	resp, err := client.Get("http://machine/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestBusyboxInit(t *testing.T) {
	var cfg Config
	change := httpdInit(t)
	m := start(t, func(c *Config) { change(c); cfg = *c })
	serves := func() bool { s, err := get(m); return err == nil && s == "hello\n" }
	if out := must(t, m, "cat /proc/1/comm && id -u"); out != "init\n0" {
		t.Errorf("process 1 and user: %q", out)
	}
	within(t, time.Minute, "the service that init starts", serves)
	must(t, m, "test -d /run/was && kill $(pidof httpd)")
	within(t, time.Minute, "the service that init starts again", serves)
	// A command's processes end with it, although this process 1 is not Ingot's.
	ctx, cancel := context.WithCancel(t.Context())
	err := m.Run(ctx, machine.Command{Line: "sleep 600 & echo up; wait", Stdout: writer(func([]byte) { cancel() })})
	if err == nil {
		t.Error("a command whose context ended succeeds")
	}
	within(t, time.Minute, "the end of the command's processes", func() bool { out, err := sh(t, m, "pidof sleep"); return err != nil && out == "" })
	stops(t, m, cfg)
	if _, err := os.Stat(filepath.Join(cfg.Dir, "upper/stopped")); err != nil {
		t.Errorf("init did not run its shutdown action: %v", err)
	}
}

// stops checks that Stop ends everything, and that nothing holds on to what the machine had.
func stops(t *testing.T, m *Machine, cfg Config) {
	t.Helper()
	at := time.Now()
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(at); d >= 30*time.Second { // then it had to be killed
		t.Errorf("the stop took %s", d)
	}
	select {
	case <-m.Done():
	default:
		t.Error("the machine has been stopped, and is not done")
	}
	if err := m.Run(t.Context(), machine.Command{Line: "true"}); err == nil {
		t.Error("a command ran on a machine that was stopped")
	}
	for _, d := range cfg.Cgroup {
		within(t, time.Minute, "an empty cgroup "+d, func() bool { b, err := os.ReadFile(filepath.Join(d, "cgroup.procs")); return err != nil || len(b) == 0 })
	}
}

func TestNoSuchInit(t *testing.T) {
	change := httpdInit(t)
	for init, want := range map[string]string{
		"/sbin/nothing":   "the image has no init at /sbin/nothing",
		"/www/index.html": "start the image's init /www/index.html: permission denied", // found only by trying
	} {
		cfg := Config{ID: fmt.Sprintf("no-init-%d", os.Getpid()), Dir: t.TempDir()}
		change(&cfg)
		cfg.Init = init
		m, err := Start(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("init %s: %v, want %q", init, err, want)
		}
		if m != nil {
			_ = m.Stop(context.Background())
		}
	}
}

// systemdTree are layers of a system with systemd: from the directory of big
// test files, or this host's own.
func systemdTree(t *testing.T) []string {
	t.Helper()
	if cache := os.Getenv("INGOT_BENCH_CACHE"); cache != "" {
		if found, _ := filepath.Glob(filepath.Join(cache, "*/usr/lib/systemd/systemd")); len(found) > 0 {
			return []string{strings.TrimSuffix(found[0], "/usr/lib/systemd/systemd")}
		}
	}
	if _, err := os.Stat("/usr/lib/systemd/systemd"); err == nil && !InUserNamespace() {
		return []string{HostBase}
	}
	t.Skip("needs a system with systemd: a tree in $INGOT_BENCH_CACHE, or this host")
	return nil
}

func TestSystemdInit(t *testing.T) {
	units := t.TempDir()
	if err := os.Chmod(units, 0o755); err != nil {
		t.Fatal(err)
	}
	// No target of the system's own: what a host starts is no business of this test.
	sandboxtest.Write(t, units, "etc/systemd/system/default.target", "[Unit]\nDescription=Test\nWants=suite.service\n", 0o644)
	sandboxtest.Write(t, units, "etc/systemd/system/suite.service", `[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh -c 'echo up > /run/suite; exec sleep 600'
ExecStop=/bin/sh -c 'echo down > /var/suite'
Restart=always
RestartSec=0
`, 0o644)
	layers := append([]string{units}, systemdTree(t)...)
	var cfg Config
	m := start(t, func(c *Config) {
		c.Layers, c.Init, c.Network = layers, "/usr/lib/systemd/systemd", NetworkNone
		cfg = *c
	})
	if out := must(t, m, "cat /proc/1/comm"); out != "systemd" {
		t.Errorf("process 1: %q", out)
	}
	within(t, time.Minute, "the service that systemd starts", func() bool { out, _ := sh(t, m, "cat /run/suite"); return out == "up" })
	within(t, time.Minute, "systemctl", func() bool { out, _ := sh(t, m, "systemctl is-active suite.service"); return out == "active" })
	must(t, m, "rm /run/suite && kill $(systemctl show -p MainPID --value suite.service)")
	within(t, time.Minute, "the service that systemd starts again", func() bool { out, _ := sh(t, m, "cat /run/suite"); return out == "up" })
	stops(t, m, cfg)
	if b, err := os.ReadFile(filepath.Join(cfg.Dir, "upper/var/suite")); err != nil || string(b) != "down\n" {
		t.Errorf("systemd did not stop its service in order: %q, %v", b, err)
	}
}

// The engine dies: so does a machine with an init of its own.
func TestInitDiesWithItsEngine(t *testing.T) {
	change := httpdInit(t)
	if os.Getenv("INGOT_TEST_ENGINE") != "" {
		m := start(t, change)
		fmt.Println("pid", must(t, m, "echo up"))
		select {}
	}
	sandboxtest.Need(t)
	diesWithItsEngine(t, exec.Command(os.Args[0], "-test.run=^TestInitDiesWithItsEngine$"))
}
