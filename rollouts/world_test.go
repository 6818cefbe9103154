package rollouts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ingotbuild/ingot/rollouts"
	"github.com/ingotbuild/ingot/rollouts/rollouttest"
)

// world is a service with everything around it, in a synctest bubble: its time
// passes only while everybody waits.
type world struct {
	t        *testing.T
	cfg      rollouts.Config
	launcher rollouttest.Launcher
	journal  rollouttest.Journal
	client   *rollouts.Client
	control  *rollouttest.Listener
	front    atomic.Pointer[rollouttest.Listener]

	cancel context.CancelFunc
	done   chan error
}

func target(v string) rollouts.Target {
	return rollouts.Target{Version: v, Digest: "sha256:" + v}
}

// inWorld runs test in a new world whose supervisor has started.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, cfg: rollouts.NewConfig("web")}
		w.cfg.Port = 8080
		w.cfg.Health.Deadline = 5 * time.Second
		w.start()
		defer func() { // also when test gives up
			w.journal.Hook(nil, nil)
			w.stop()
			if left := w.launcher.Running(); len(left) > 0 {
				t.Errorf("%d instances are left, the first is %s", len(left), left[0].ID())
			}
		}()
		test(t, w)
	})
}

// start starts a supervisor.
func (w *world) start() {
	front, control := rollouttest.Listen("front"), rollouttest.Listen("control")
	w.front.Store(front)
	w.control = control
	w.client = rollouts.NewClient(control.Dial)
	s := rollouts.NewSupervisor(rollouts.SupervisorOptions{
		Name: "web", Config: w.cfg, Launcher: &w.launcher, Journal: &w.journal, Listener: front,
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.done = cancel, make(chan error, 1)
	done := w.done
	go func() { done <- s.Serve(ctx, control) }()
}

// stop asks the supervisor to end, and waits for it.
func (w *world) stop() {
	w.t.Helper()
	if err := w.client.Stop(context.Background()); err != nil {
		w.t.Errorf("stop: %v", err)
	}
	if err := <-w.done; err != nil {
		w.t.Errorf("serve: %v", err)
	}
	w.cancel()
}

// crash ends the supervisor as a kill would: from now on nothing is written, and
// the machines die. It may be called within a save.
func (w *world) crash() {
	gone := func(string) error { return errors.New("crashed") }
	w.journal.Hook(gone, nil)
	w.cancel()
	for _, in := range w.launcher.Running() {
		in.Kill()
	}
}

// restart waits for the end of a crash and starts the next supervisor.
func (w *world) restart() {
	<-w.done
	for _, in := range w.launcher.Running() { // launched while it crashed
		in.Kill()
	}
	w.journal.Hook(nil, nil)
	w.start()
}

func (w *world) roll(v string) error { return w.client.Start(context.Background(), target(v), nil) }

func (w *world) mustRoll(v string) {
	w.t.Helper()
	if err := w.roll(v); err != nil {
		w.t.Fatalf("rolling out %s: %v", v, err)
	}
}

func (w *world) status() rollouts.Status {
	w.t.Helper()
	st, err := w.client.Status(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// settled waits until no operation is running, and returns the status.
func (w *world) settled() rollouts.Status {
	w.t.Helper()
	for range 10000 {
		synctest.Wait()
		if st := w.status(); st.Running == "" {
			return st
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatalf("an operation does not end: %+v", w.status())
	panic("unreachable")
}

// get makes one request through the proxy over a fresh connection.
func (w *world) get() string {
	w.t.Helper()
	c := w.visitor(true)
	body, err := fetch(c)
	if err != nil {
		w.t.Errorf("GET: %v", err)
	}
	return body
}

func (w *world) visitor(fresh bool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: fresh,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return w.front.Load().Dial(ctx)
		},
	}}
}

func fetch(c *http.Client) (string, error) {
	resp, err := c.Get("http://web/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	return string(b), err
}

// load is a crowd of visitors with kept and fresh connections.
type load struct {
	stop  func()
	total atomic.Int64

	mu     sync.Mutex
	failed []string
	seen   [4]string // what each visitor saw, one version after another
}

func (w *world) load() *load {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	l := &load{}
	for i := range len(l.seen) {
		c := w.visitor(i%2 == 0)
		last := ""
		wg.Go(func() {
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				body, err := fetch(c)
				l.total.Add(1)
				l.mu.Lock()
				if err != nil {
					l.failed = append(l.failed, err.Error())
				} else if body != last {
					l.seen[i] += body + " "
					last = body
				}
				l.mu.Unlock()
				time.Sleep(10 * time.Millisecond) // the pace of the visitors
			}
		})
	}
	l.stop = func() { cancel(); wg.Wait() }
	w.t.Cleanup(l.stop)
	return l
}

// end stops the load and checks that nothing failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first with: %s", len(l.failed), l.total.Load(), l.failed[0])
	}
	if l.total.Load() < 20 {
		t.Errorf("only %d requests were made", l.total.Load())
	}
}

// check compares what is live with what should be.
func (w *world) check(phase rollouts.Phase, live, running string) {
	w.t.Helper()
	synctest.Wait()
	st := w.status()
	if st.Phase != phase {
		w.t.Errorf("phase %q, want %q; reason %q", st.Phase, phase, st.Reason)
	}
	if live == "" {
		if st.Live != nil {
			w.t.Errorf("%s is live, want nothing", st.Live.Version)
		}
	} else if st.Live == nil || st.Live.Version != live || !st.Live.InTraffic || st.Live.Healthy != w.cfg.Replicas {
		w.t.Errorf("live is %+v, want %s, healthy and in traffic", st.Live, live)
	} else if got := w.get(); got != live {
		w.t.Errorf("%q answers, want %s", got, live)
	}
	if got := w.launcher.Versions(); got != running {
		w.t.Errorf("%q run, want %q", got, running)
	}
}

// bad returns a handler that answers 500 to what is asked while broken() is true.
func bad(broken func(in *rollouttest.Instance, r *http.Request) bool) func(*rollouttest.Instance) http.Handler {
	return func(in *rollouttest.Instance) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken(in, r) {
				http.Error(w, "broken", http.StatusInternalServerError)
				return
			}
			io.WriteString(w, in.Spec.Version)
		})
	}
}

func always(*rollouttest.Instance, *http.Request) bool { return true }

func isProbe(r *http.Request) bool { return r.UserAgent() == "ingot-health" }

// outcome checks that err is an *OutcomeError of the given phase that says why.
func outcome(t *testing.T, err error, phase rollouts.Phase, why string) {
	t.Helper()
	var o *rollouts.OutcomeError
	if !errors.As(err, &o) || o.Phase != phase || !strings.Contains(o.Reason, why) {
		t.Errorf("the outcome is %#v, want %s with %q", err, phase, why)
	}
}

func never(*rollouttest.Instance, *http.Request) bool { return false }
