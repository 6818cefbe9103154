package rollouts_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/rollouts"
	"github.com/ingotbuild/ingot/rollouts/rollouttest"
)

// socketPath returns a path short enough for a unix socket, in a directory
// that is not there yet.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ingot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "web.sock")
}

// TestOverUnixSocket is the whole way, with real sockets and in real time.
func TestOverUnixSocket(t *testing.T) {
	path := socketPath(t)
	var launcher rollouttest.Launcher
	var journal rollouttest.Journal
	cfg := rollouts.NewConfig("web")
	cfg.Port = 8080
	cfg.Health.Interval = 5 * time.Millisecond
	cfg.Soak = 50 * time.Millisecond
	start := func() (*rollouts.Client, chan error) {
		control, err := rollouts.ListenControl(path)
		if err != nil {
			t.Fatal(err)
		}
		s := rollouts.NewSupervisor(rollouts.SupervisorOptions{
			Name: "web", Config: cfg, Launcher: &launcher, Journal: &journal,
			Events: event.Func(func(e event.Event) {
				if e.Step != "rollout web" {
					t.Errorf("event without its step: %+v", e)
				}
			}),
		})
		done := make(chan error, 1)
		go func() { done <- s.Serve(context.Background(), control) }()
		client, err := rollouts.Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		return client, done
	}
	client, done := start()
	if runtime.GOOS != "windows" {
		for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
			if fi, err := os.Stat(p); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want mode %#o", p, fi.Mode(), err, want)
			}
		}
	}
	if _, err := rollouts.ListenControl(path); err == nil || !strings.Contains(err.Error(), "supervisor is running") {
		t.Errorf("a second supervisor: %v", err)
	}
	ctx := t.Context()
	for _, v := range []string{"v1", "v2"} {
		n := 0
		if err := client.Start(ctx, target(v), func(u rollouts.Update) { n++ }); err != nil || n < 5 {
			t.Fatalf("%s: %v after %d updates", v, err, n)
		}
	}
	st, err := client.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.Service != "web" || st.Phase != rollouts.PhaseHolding || st.Live.Version != "v2" || st.Old.Version != "v1" ||
		!st.Live.InTraffic || len(st.Live.Instances) != 2 || st.Live.Instances[0].ID == "" || time.Until(st.OldUntil) < 23*time.Hour {
		t.Errorf("status %+v", st)
	}
	if at, err := netip.ParseAddrPort(st.Address); err != nil || !at.Addr().IsLoopback() {
		t.Errorf("by default the proxy listens on %s, %v", st.Address, err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	ask := func(want string) {
		t.Helper()
		resp, err := (&http.Client{Transport: tr}).Get("http://" + st.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != want {
			t.Errorf("%q %v, want %s", b, err, want)
		}
	}
	ask("v2")
	launcher.Handle("v3", bad(always))
	cfg.Health.Deadline = 6 * time.Second // it is waited for, and in it v1 comes up and v3 answers
	if err := client.Back(ctx, nil); err != nil {
		t.Error(err)
	}
	ask("v1")
	if err := client.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(launcher.Running()); n != 0 {
		t.Errorf("%d instances outlive the supervisor", n)
	}
	if _, err := rollouts.Dial(path); err == nil {
		t.Error("somebody answers after the end")
	}
	if c, err := net.Dial("tcp", st.Address); err == nil {
		c.Close()
		t.Error("the proxy's port is open after the end")
	}

	// The next one comes up by itself, on the same port.
	client, done = start()
	if err := client.Retire(ctx); err == nil || !strings.Contains(err.Error(), "no old version") {
		t.Errorf("retire: %v", err) // answered once v1 is up
	}
	again, err := client.Status(ctx)
	if err != nil || again.Address != st.Address {
		t.Errorf("the address moved from %s to %s, %v", st.Address, again.Address, err)
	}
	ask("v1")
	outcome(t, client.Start(ctx, target("v3"), nil), rollouts.PhaseRolledBack, "answered 500")
	if err := client.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListenControl(t *testing.T) {
	path := socketPath(t)
	dir := filepath.Dir(path)
	if _, err := rollouts.ListenControl(filepath.Join(dir, strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a long path: %v", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rollouts.ListenControl(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is gone: %q %v", b, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := rollouts.ListenControl(path)
	if err != nil {
		t.Fatalf("over what a crash has left: %v", err)
	}
	l.Close()
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := rollouts.ListenControl(path); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("in an open directory: %v", err)
	}
}

func TestControlRefusesNonsense(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return w.control.Dial(ctx)
		}}}
		for _, r := range []struct {
			method, path, body string
			want               int
		}{
			{"POST", "/v1/start", `{`, 400},
			{"POST", "/v1/start", `{"version":"v1","digest":"d","more":1}`, 400},
			{"POST", "/v1/start", `{"version":"` + strings.Repeat("v", 20000) + `"}`, 400},
			{"POST", "/v1/start", `null`, 409},
			{"GET", "/v1/start", ``, 405},
			{"GET", "/v1/other", ``, 404},
		} {
			req, err := http.NewRequest(r.method, "http://supervisor"+r.path, strings.NewReader(r.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != r.want {
				t.Errorf("%s %s %.40s: %d, want %d", r.method, r.path, r.body, resp.StatusCode, r.want)
			}
		}
		w.check(rollouts.PhaseNone, "", "")
	})
}

func TestServeRefusesBadBeginnings(t *testing.T) {
	good := rollouts.NewConfig("web")
	good.Port = 80
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name, want string
		set        func(o *rollouts.SupervisorOptions, j *rollouttest.Journal)
	}{
		{"name", "lower-case", func(o *rollouts.SupervisorOptions, _ *rollouttest.Journal) { o.Name = "../web" }},
		{"config", "option port", func(o *rollouts.SupervisorOptions, _ *rollouttest.Journal) { o.Config.Port = 0 }},
		{"port taken", "free it", func(o *rollouts.SupervisorOptions, _ *rollouttest.Journal) {
			o.Config.Listen = taken.Addr().String()
		}},
		{"journal refuses", "disk full", func(_ *rollouts.SupervisorOptions, j *rollouttest.Journal) {
			j.Hook(func(string) error { return errors.New("disk full") }, nil)
		}},
		{"journal is no JSON", "not understood", func(_ *rollouts.SupervisorOptions, j *rollouttest.Journal) { put(t, j, `{"format":`) }},
		{"journal from the future", "format 2", func(_ *rollouts.SupervisorOptions, j *rollouttest.Journal) { put(t, j, `{"format":2}`) }},
		{"journal with too large a fleet", "fleet of", func(_ *rollouts.SupervisorOptions, j *rollouttest.Journal) {
			put(t, j, `{"format":1,"live":{"replicas":1000000}}`)
		}},
		{"journal with a phase unknown", "phase", func(_ *rollouts.SupervisorOptions, j *rollouttest.Journal) {
			put(t, j, `{"format":1,"phase":"dancing"}`)
		}},
		{"journal without what is rolled out", "phase", func(_ *rollouts.SupervisorOptions, j *rollouttest.Journal) {
			put(t, j, `{"format":1,"phase":"soaking"}`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &rollouttest.Journal{}
			o := rollouts.SupervisorOptions{Name: "web", Config: good, Launcher: &rollouttest.Launcher{}, Journal: j}
			c.set(&o, j)
			control := rollouttest.Listen("control")
			err := rollouts.NewSupervisor(o).Serve(t.Context(), control)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if _, err := control.Dial(t.Context()); err == nil {
				t.Error("the control listener is open")
			}
		})
	}
}

func put(t *testing.T, j *rollouttest.Journal, doc string) {
	t.Helper()
	if _, err := j.SaveService(t.Context(), "web", json.RawMessage(doc), 0, "put"); err != nil {
		t.Fatal(err)
	}
}

func TestConfigCheck(t *testing.T) {
	ok := rollouts.NewConfig("web")
	ok.Port = 80
	if ps := ok.Check(); len(ps) > 0 {
		t.Errorf("the defaults: %v", ps)
	}
	for option, set := range map[string]func(c *rollouts.Config){
		"image":                func(c *rollouts.Config) { c.Image = "" },
		"channel":              func(c *rollouts.Config) { c.Channel = "" },
		"replicas":             func(c *rollouts.Config) { c.Replicas = 0 },
		"port":                 func(c *rollouts.Config) { c.Port = 70000 },
		"listen":               func(c *rollouts.Config) { c.Listen = "8080" },
		"drain":                func(c *rollouts.Config) { c.Drain = -1 },
		"soak":                 func(c *rollouts.Config) { c.Soak = -1 },
		"keep_old":             func(c *rollouts.Config) { c.KeepOld = -1 },
		"health.path":          func(c *rollouts.Config) { c.Health.Path = "/a b" },
		"health.status":        func(c *rollouts.Config) { c.Health.Status = 99 },
		"health.interval":      func(c *rollouts.Config) { c.Health.Interval = 0 },
		"health.timeout":       func(c *rollouts.Config) { c.Health.Timeout = 0 },
		"health.healthy_after": func(c *rollouts.Config) { c.Health.HealthyAfter = 0 },
		"health.deadline":      func(c *rollouts.Config) { c.Health.Deadline = time.Second },
	} {
		c := ok
		set(&c)
		if ps := c.Check(); len(ps) != 1 || ps[0].Option != option || ps[0].Summary == "" || ps[0].Detail == "" {
			t.Errorf("%s: %+v", option, ps)
		}
	}
}
