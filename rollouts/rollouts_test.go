package rollouts_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ingotbuild/ingot/rollouts"
	"github.com/ingotbuild/ingot/rollouts/rollouttest"
)

func TestRolloutAndBackUnderLoad(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.check(rollouts.PhaseNone, "", "")
		w.mustRoll("v1")
		w.check(rollouts.PhaseDone, "v1", "v1 v1")
		l := w.load()
		var phases []rollouts.Phase
		err := w.client.Start(t.Context(), target("v2"), func(u rollouts.Update) {
			if n := len(phases); n == 0 || phases[n-1] != u.Phase {
				phases = append(phases, u.Phase)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []rollouts.Phase{"launching", "healthy", "switching", "soaking", "draining", "holding"}
		if !slices.Equal(phases, want) {
			t.Errorf("phases %v, want %v", phases, want)
		}
		w.check(rollouts.PhaseHolding, "v2", "v1 v1 v2 v2")
		began := time.Now()
		if err := w.client.Back(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("going back to a warm fleet took %v", took)
		}
		w.check(rollouts.PhaseRolledBack, "v1", "v1 v1")
		w.mustRoll("v3")
		w.mustRoll("v4") // v1 is still held: it goes first
		w.check(rollouts.PhaseHolding, "v4", "v4 v4 v3 v3")
		l.end(t)
		for _, got := range l.seen {
			if got != "v1 v2 v1 v3 v4 " {
				t.Errorf("a visitor saw %s: a version mixed with another", got)
			}
		}
		if n := w.launcher.Most(); n > 4 {
			t.Errorf("%d instances ran at once; two fleets are 4", n)
		}
	})
}

// TestUnhealthyGreen: whatever keeps the new fleet from getting healthy, the old
// one is not touched.
func TestUnhealthyGreen(t *testing.T) {
	for _, c := range []struct {
		name, why string
		set       func(w *world)
		quick     bool
	}{
		{name: "answers 500", why: "answered 500, not 200 to 299", set: func(w *world) { w.launcher.Handle("v2", bad(always)) }},
		{name: "one of two", why: "1 of 2 healthy", set: func(w *world) {
			w.launcher.Handle("v2", bad(func(in *rollouttest.Instance, _ *http.Request) bool { return in.Spec.Index == 1 }))
		}},
		{name: "cannot be launched", why: "no such image", quick: true, set: func(w *world) { w.launcher.Fail("v2", errors.New("no such image")) }},
		{name: "dies at once", why: "died", quick: true, set: func(w *world) {
			w.launcher.Handle("v2", func(in *rollouttest.Instance) http.Handler {
				go in.Kill()
				return http.NotFoundHandler()
			})
		}},
		{name: "hangs", why: "deadline", set: func(w *world) {
			w.launcher.Handle("v2", func(*rollouttest.Instance) http.Handler {
				return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.mustRoll("v1")
				before := w.launcher.Running()
				l := w.load()
				c.set(w)
				began := time.Now()
				outcome(t, w.roll("v2"), rollouts.PhaseRolledBack, c.why)
				if took := time.Since(began); took > w.cfg.Health.Deadline+time.Second || c.quick && took > 5*time.Second {
					t.Errorf("it took %v to find out", took)
				}
				w.check(rollouts.PhaseRolledBack, "v1", "v1 v1")
				l.end(t)
				for _, got := range l.seen {
					if got != "v1 " {
						t.Errorf("a visitor saw %s", got)
					}
				}
				if !slices.Equal(w.launcher.Running(), before) {
					t.Error("the old instances were replaced")
				}
			})
		})
	}
}

func TestFirstVersionUnhealthy(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.launcher.Handle("v1", bad(always))
		outcome(t, w.roll("v1"), rollouts.PhaseFailed, "no version was live before")
		w.check(rollouts.PhaseFailed, "", "")
		w.mustRoll("v2")
		w.check(rollouts.PhaseDone, "v2", "v2 v2")
	})
}

// TestHealthyAfter: no visitor reaches an instance that has not passed enough checks.
func TestHealthyAfter(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stop()
		w.cfg.Health.HealthyAfter = 5
		w.start()
		w.mustRoll("v1")
		var early atomic.Int64
		w.launcher.Handle("v2", func(*rollouttest.Instance) http.Handler {
			var probes atomic.Int64
			return bad(func(_ *rollouttest.Instance, r *http.Request) bool {
				if isProbe(r) {
					return probes.Add(1) == 3 // which starts the count again
				}
				if probes.Load() < 3+5 {
					early.Add(1)
				}
				return false
			})(&rollouttest.Instance{Spec: rollouts.InstanceSpec{Version: "v2"}})
		})
		l := w.load()
		w.mustRoll("v2")
		l.end(t)
		if n := early.Load(); n > 0 {
			t.Errorf("%d requests came before the instance had passed 5 checks in a row", n)
		}
	})
}

// TestGreenFailsInTraffic: trouble in the soak leads back without a lost request.
func TestGreenFailsInTraffic(t *testing.T) {
	for _, c := range []struct {
		name, why string
		set       func(w *world)
		lossy     bool // it is the answers themselves that are wrong
	}{
		{name: "all die", why: "in traffic", set: func(w *world) { killInSoak(w, 2) }},
		{name: "one dies", why: "in traffic", set: func(w *world) { killInSoak(w, 1) }},
		{name: "turns unhealthy", why: "answered 500", set: func(w *world) {
			inSoak(w, func() {
				sick.Store(true)
			})
			w.launcher.Handle("v2", bad(func(_ *rollouttest.Instance, r *http.Request) bool { return isProbe(r) && sick.Load() }))
		}},
		{name: "errors rise", why: "requests to v2 (green) failed", lossy: true, set: func(w *world) {
			w.launcher.Handle("v2", bad(func(_ *rollouttest.Instance, r *http.Request) bool { return !isProbe(r) }))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sick.Store(false)
			inWorld(t, func(t *testing.T, w *world) {
				w.mustRoll("v1")
				c.set(w)
				l := w.load()
				outcome(t, w.roll("v2"), rollouts.PhaseRolledBack, c.why)
				w.check(rollouts.PhaseRolledBack, "v1", "v1 v1")
				if c.lossy {
					l.stop()
					if n := len(l.failed); n == 0 || n > 50 {
						t.Errorf("%d requests failed; the errors must be seen, and soon", n)
					}
				} else {
					l.end(t)
				}
			})
		})
	}
}

var sick atomic.Bool

// inSoak calls f half a second into the soak.
func inSoak(w *world, f func()) {
	w.journal.Hook(nil, func(event string) error {
		if strings.Contains(event, "has the traffic, watching") {
			time.AfterFunc(500*time.Millisecond, f)
		}
		return nil
	})
}

func killInSoak(w *world, n int) {
	inSoak(w, func() {
		for _, in := range w.launcher.Running() {
			if in.Spec.Version == "v2" && in.Spec.Index < n {
				in.Kill()
			}
		}
	})
}

// TestBlueIsRelaunchedForRollback: blue has died by the time it is needed.
func TestBlueIsRelaunchedForRollback(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		inSoak(w, func() {
			for _, in := range w.launcher.Running() {
				in.Kill()
			}
		})
		outcome(t, w.roll("v2"), rollouts.PhaseRolledBack, "in traffic")
		w.check(rollouts.PhaseRolledBack, "v1", "v1 v1")
	})
}

// TestNoWayBack: blue turned unhealthy while green soaked; the traffic stays.
func TestNoWayBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		var blueHit atomic.Int64
		w.launcher.Handle("v1", bad(func(_ *rollouttest.Instance, r *http.Request) bool {
			if !isProbe(r) {
				blueHit.Add(1)
			}
			return true
		}))
		inSoak(w, func() {
			for _, in := range w.launcher.Running() {
				if in.Spec.Version == "v1" || in.Spec.Index == 0 {
					in.Kill()
				}
			}
		})
		outcome(t, w.roll("v2"), rollouts.PhaseFailed, "there is no way back")
		w.check(rollouts.PhaseFailed, "v2", "v1 v1 v2 v2")
		if n := blueHit.Load(); n > 0 {
			t.Errorf("%d requests went to an unhealthy old fleet", n)
		}
		w.journal.Hook(nil, nil)
		// Going back is refused for the same reason; forward works.
		outcome(t, w.client.Back(t.Context(), nil), rollouts.PhaseFailed, "cannot go back")
		w.mustRoll("v3")
		w.check(rollouts.PhaseHolding, "v3", "v3 v3 v2 v2")
	})
}

func TestBackNeedsHealthyOld(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		if err := w.client.Back(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no old version") {
			t.Errorf("back from nothing: %v", err)
		}
		w.mustRoll("v1")
		w.mustRoll("v2")
		w.launcher.Handle("v1", bad(always))
		for _, in := range w.launcher.Running() {
			if in.Spec.Version == "v1" {
				in.Kill()
			}
		}
		l := w.load()
		outcome(t, w.client.Back(t.Context(), nil), rollouts.PhaseFailed, "cannot go back")
		w.check(rollouts.PhaseFailed, "v2", "v1 v1 v2 v2")
		w.launcher.Handle("v1", bad(never))
		for _, in := range w.launcher.Running() {
			if in.Spec.Version == "v1" {
				in.Kill()
			}
		}
		if err := w.client.Back(t.Context(), nil); err != nil { // launched again meanwhile
			t.Errorf("back to the repaired version: %v", err)
		}
		w.check(rollouts.PhaseRolledBack, "v1", "v1 v1")
		l.end(t)
	})
}

func TestSameDigestIsANoOp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		rev := w.status().Rev
		var texts []string
		same := rollouts.Target{Version: "v1-again", Digest: target("v1").Digest}
		err := w.client.Start(t.Context(), same, func(u rollouts.Update) { texts = append(texts, u.Text) })
		if err != nil || !strings.Contains(strings.Join(texts, "\n"), "already live: nothing to do") {
			t.Errorf("%v, %q", err, texts)
		}
		if got := w.status().Rev; got != rev {
			t.Errorf("the journal moved from %d to %d", rev, got)
		}
		w.check(rollouts.PhaseDone, "v1", "v1 v1")
	})
}

func TestBadTargets(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, target := range []rollouts.Target{{}, {Version: "v1"}, {Digest: "d"}, {Version: "../x", Digest: "d"}, {Version: "v\n1", Digest: "d"}, {Version: strings.Repeat("v", 201), Digest: "d"}} {
			if err := w.client.Start(t.Context(), target, nil); err == nil {
				t.Errorf("%q was accepted", target)
			}
		}
		w.check(rollouts.PhaseNone, "", "")
	})
}

// TestOneAtATime: everything is refused while a rollout runs, which goes on
// also when its client has gone.
func TestOneAtATime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		ctx, cancel := context.WithCancel(t.Context())
		began := make(chan struct{})
		var once atomic.Bool
		first := make(chan error, 1)
		go func() {
			first <- w.client.Start(ctx, target("v2"), func(rollouts.Update) {
				if once.CompareAndSwap(false, true) {
					close(began)
				}
			})
		}()
		<-began
		for name, err := range map[string]error{
			"start": w.roll("v3"), "same": w.roll("v2"), "back": w.client.Back(t.Context(), nil), "retire": w.client.Retire(t.Context()),
		} {
			var busy *rollouts.BusyError
			if !errors.As(err, &busy) || busy.Running != "the rollout of v2" {
				t.Errorf("%s: %v", name, err)
			}
		}
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the client that went away: %v", err)
		}
		w.settled()
		w.check(rollouts.PhaseHolding, "v2", "v1 v1 v2 v2")
	})
}

func TestDeadInstanceIsRelaunched(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		l := w.load()
		for i := range 5 {
			w.launcher.Running()[i%2].Kill()
			time.Sleep(1500 * time.Millisecond)
		}
		w.check(rollouts.PhaseDone, "v1", "v1 v1")
		l.end(t)
		n := 0
		for _, in := range w.status().Live.Instances {
			n += in.Failures
			if !strings.Contains(in.LastError, "killed") {
				t.Errorf("%s does not say why it died: %q", in.Name, in.LastError)
			}
		}
		if n != 5 {
			t.Errorf("%d deaths were noted, want 5", n)
		}
	})
}

func TestRelaunchBacksOff(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		var tries atomic.Int64
		w.launcher.Handle("v1", func(in *rollouttest.Instance) http.Handler {
			tries.Add(1)
			go in.Kill()
			return http.NotFoundHandler()
		})
		w.launcher.Running()[0].Kill()
		time.Sleep(5 * time.Minute)
		if n := tries.Load(); n < 20 || n > 80 {
			t.Errorf("an instance that dies at once was launched %d times in 5 minutes", n)
		}
	})
}

func TestOldFleetIsRetired(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stop()
		w.cfg.KeepOld = 2 * time.Minute
		w.start()
		if err := w.client.Retire(t.Context()); err == nil {
			t.Error("nothing was retired without an error")
		}
		w.mustRoll("v1")
		w.mustRoll("v2")
		time.Sleep(w.cfg.KeepOld - time.Second)
		w.check(rollouts.PhaseHolding, "v2", "v1 v1 v2 v2")
		time.Sleep(2 * time.Second)
		w.check(rollouts.PhaseDone, "v2", "v2 v2")
		w.mustRoll("v3")
		if err := w.client.Retire(t.Context()); err != nil {
			t.Error(err)
		}
		w.check(rollouts.PhaseDone, "v3", "v3 v3")
	})
}

// TestSlowRequestIsDrained: a request that outlasts the switch is answered; the
// old fleet counts as drained after it.
func TestSlowRequestIsDrained(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.launcher.Handle("v1", func(in *rollouttest.Instance) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !isProbe(r) {
					time.Sleep(6 * time.Second) // the work of the service
				}
				w.Write([]byte(in.Spec.Version))
			})
		})
		w.mustRoll("v1")
		slow := make(chan error, 1)
		go func() {
			body, err := fetch(w.visitor(true))
			if err == nil && body != "v1" {
				err = errors.New(body)
			}
			slow <- err
		}()
		began := time.Now()
		synctest.Wait()
		w.mustRoll("v2")
		if took := time.Since(began); took < 6*time.Second || took > 7*time.Second {
			t.Errorf("the rollout took %v; the request on the old fleet took 6s", took)
		}
		if err := <-slow; err != nil {
			t.Error(err)
		}
	})
}

// TestAnotherSupervisor: a write by somebody else takes the service away; the
// rollout does not go on on stale knowledge.
func TestAnotherSupervisor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		var once atomic.Bool
		w.journal.Hook(func(event string) error {
			if strings.Contains(event, "switching") && once.CompareAndSwap(false, true) {
				doc, rev, err := w.journal.LoadService(t.Context(), "web")
				if err != nil {
					return err
				}
				doc = []byte(strings.Replace(string(doc), `"writer":"`, `"writer":"other`, 1))
				_, err = w.journal.SaveService(t.Context(), "web", doc, rev, "somebody else")
				return err
			}
			return nil
		}, nil)
		outcome(t, w.roll("v2"), rollouts.PhaseRolledBack, "another supervisor")
		w.check(rollouts.PhaseRolledBack, "v1", "v1 v1")
	})
}

// TestJournalTrouble: lost answers are looked up, refused writes tried again,
// and a journal that stays away stops the rollout, not the service.
func TestJournalTrouble(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		w.journal.Hook(nil, func(string) error { return errors.New("answer lost") })
		w.mustRoll("v2")
		var n atomic.Int64
		w.journal.Hook(func(string) error {
			if n.Add(1)%2 == 1 {
				return errors.New("busy")
			}
			return nil
		}, nil)
		w.mustRoll("v3")
		w.check(rollouts.PhaseHolding, "v3", "v3 v3 v2 v2")
		l := w.load()
		w.journal.Hook(func(event string) error {
			if strings.Contains(event, "switching") || strings.Contains(event, "rolling back") {
				return errors.New("disk full")
			}
			return nil
		}, nil)
		outcome(t, w.roll("v4"), rollouts.PhaseRolledBack, "disk full")
		w.check(rollouts.PhaseRolledBack, "v3", "v3 v3")
		w.journal.Hook(func(string) error { return errors.New("disk full") }, nil)
		if err := w.roll("v5"); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("a rollout that could not be journalled: %v", err)
		}
		w.check(rollouts.PhaseRolledBack, "v3", "v3 v3")
		w.journal.Hook(nil, nil)
		w.mustRoll("v5")
		l.end(t)
	})
}

// TestRestart: what was live is live again; what was kept is launched for going back.
func TestRestart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		w.mustRoll("v2")
		w.stop()
		if n := len(w.launcher.Running()); n != 0 {
			t.Errorf("%d instances outlive the supervisor", n)
		}
		w.cfg.Replicas = 3
		w.start()
		w.settled()
		w.check(rollouts.PhaseHolding, "v2", "v2 v2 v2")
		w.cfg.Replicas = 2 // the old fleet is what it was
		if err := w.client.Back(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		w.check(rollouts.PhaseRolledBack, "v1", "v1 v1")
	})
}

// TestStopDuringRollout: the client is told, and the next supervisor goes on.
func TestStopDuringRollout(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.mustRoll("v1")
		result := make(chan error, 1)
		go func() { result <- w.roll("v2") }()
		time.Sleep(time.Second)
		w.stop()
		outcome(t, <-result, rollouts.PhaseSoaking, "the next one goes on")
		w.start()
		w.settled()
		w.check(rollouts.PhaseHolding, "v2", "v1 v1 v2 v2")
	})
}
