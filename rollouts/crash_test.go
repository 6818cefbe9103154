package rollouts_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ingotbuild/ingot/rollouts"
	"github.com/ingotbuild/ingot/rollouts/rollouttest"
)

// TestCrashMatrix ends the supervisor at every write of the journal, just
// before and just after it, and at the first write after the restart as well.
// Whatever the point, the next supervisor comes to the same end.
func TestCrashMatrix(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(w *world)
		do    func(w *world)
		// What is live at the end. The operation may never have begun.
		phase, early    rollouts.Phase
		live, earlyLive string
	}{
		{
			name:  "rollout",
			setup: func(w *world) { w.mustRoll("v1") },
			do:    func(w *world) { w.roll("v2") },
			phase: rollouts.PhaseHolding, live: "v2", early: rollouts.PhaseDone, earlyLive: "v1",
		},
		{
			name:  "first rollout",
			setup: func(w *world) { w.settled() },
			do:    func(w *world) { w.roll("v1") },
			phase: rollouts.PhaseDone, live: "v1", early: rollouts.PhaseNone,
		},
		{
			name:  "unhealthy green",
			setup: func(w *world) { w.mustRoll("v1"); w.launcher.Handle("v2", bad(always)) },
			do:    func(w *world) { w.roll("v2") },
			phase: rollouts.PhaseRolledBack, live: "v1", early: rollouts.PhaseDone, earlyLive: "v1",
		},
		{
			name:  "green fails in traffic",
			setup: func(w *world) { w.mustRoll("v1"); w.launcher.Handle("v2", failsAfter(time.Second)) },
			do:    func(w *world) { w.roll("v2") },
			phase: rollouts.PhaseRolledBack, live: "v1", early: rollouts.PhaseDone, earlyLive: "v1",
		},
		{
			name:  "back",
			setup: func(w *world) { w.mustRoll("v1"); w.mustRoll("v2") },
			do:    func(w *world) { w.client.Back(context.Background(), nil) },
			phase: rollouts.PhaseRolledBack, live: "v1", early: rollouts.PhaseHolding, earlyLive: "v2",
		},
		{
			name:  "retire",
			setup: func(w *world) { w.mustRoll("v1"); w.mustRoll("v2") },
			do:    func(w *world) { w.client.Retire(context.Background()) },
			phase: rollouts.PhaseDone, live: "v2", early: rollouts.PhaseHolding, earlyLive: "v2",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			points := 0
			for point := 1; ; point++ {
				var crashed atomic.Bool
				for _, after := range []bool{false, true} {
					for _, twice := range []bool{false, true} {
						t.Run(fmt.Sprintf("point %d after=%v twice=%v", point, after, twice), func(t *testing.T) {
							inWorld(t, func(t *testing.T, w *world) {
								c.setup(w)
								arm := func(n int) {
									hook := func(string) error {
										if n--; n == 0 {
											crashed.Store(true)
											w.crash()
											return errors.New("crashed")
										}
										return nil
									}
									if after {
										w.journal.Hook(nil, hook)
									} else {
										w.journal.Hook(hook, nil)
									}
								}
								crashed.Store(false)
								arm(point)
								c.do(w)
								if !crashed.Load() {
									w.journal.Hook(nil, nil)
									return
								}
								if twice {
									<-w.done
									arm(2) // the first is the claim of the service
									w.start()
									crashed.Store(false)
									for range 400 { // until it crashes or has nothing more to write
										time.Sleep(50 * time.Millisecond)
										if crashed.Load() {
											break
										}
									}
									if !crashed.Load() {
										w.crash()
									}
									crashed.Store(true)
								}
								w.restart()
								st := w.settled()
								phase, live := c.phase, c.live
								if point == 1 && !after { // nothing had been written: nothing was begun
									phase, live = c.early, c.earlyLive
								}
								runs := strings.TrimSpace(strings.Repeat(live+" ", w.cfg.Replicas))
								if live == "" {
									runs = ""
								}
								if st.Phase == rollouts.PhaseHolding && st.Old != nil && len(st.Old.Instances) > 0 {
									runs = "v1 v1 " + runs
								}
								w.check(phase, live, runs)
							})
						})
					}
				}
				if !crashed.Load() {
					break
				}
				points = point
			}
			t.Logf("%d points", points)
			if least := map[string]int{"retire": 1, "back": 3}[c.name]; points < max(least, 1) || least == 0 && points < 3 {
				t.Errorf("only %d points were tried", points)
			}
		})
	}
}

// failsAfter makes an instance that passes its checks for d.
func failsAfter(d time.Duration) func(*rollouttest.Instance) http.Handler {
	return func(in *rollouttest.Instance) http.Handler {
		until := time.Now().Add(d)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isProbe(r) && time.Now().After(until) {
				http.Error(w, "tired", http.StatusServiceUnavailable)
				return
			}
			io.WriteString(w, in.Spec.Version)
		})
	}
}

// TestModel runs random events against a model of a few lines, and compares
// after each. Versions whose number divides by 3 never get healthy, those with
// remainder 1 by 5 fail in traffic. A visitor asks all the time; it may fail only while
// the supervisor is down or after a whole live fleet was killed.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) { model(t, w, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func model(t *testing.T, w *world, rnd *rand.Rand) {
	good := func(n int) bool { return n%3 != 0 && n%5 != 1 }
	var live, old int // the model
	var asleep, lax atomic.Bool
	var served atomic.Value // version numbers that may answer: " 1 2 "
	served.Store(" ")
	next := 1
	name := func(n int) string { return fmt.Sprint("v", n) }
	lax.Store(true) // until something is live

	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c := w.visitor(true)
		for ctx.Err() == nil {
			if !asleep.Load() {
				body, err := fetch(c)
				if err != nil && !lax.Load() && !asleep.Load() {
					t.Errorf("a visitor failed: %v", err)
				}
				if err == nil && !strings.Contains(served.Load().(string), " "+body+" ") {
					t.Errorf("%s answered a visitor; only%smay", body, served.Load())
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	defer func() { stop(); <-ended }()

	begin := func(n int) chan error {
		// A version that never gets healthy must never be seen.
		may := " " + name(live) + " "
		if n%3 != 0 {
			may += name(n) + " "
		}
		served.Store(may)
		switch {
		case n%3 == 0:
			w.launcher.Handle(name(n), bad(always))
		case n%5 == 1:
			w.launcher.Handle(name(n), failsAfter(time.Second))
		}
		done := make(chan error, 1)
		go func() { done <- w.roll(name(n)) }()
		return done
	}
	arrive := func(n int) { // what the model says comes of a rollout
		if good(n) {
			live, old = n, live
		} else {
			old = 0
		}
	}
	crash := func() {
		asleep.Store(true)
		lax.Store(true)
		w.crash()
		w.restart()
		w.settled()
		asleep.Store(false)
	}
	var log []string
	for range 20 {
		var did string
		switch rnd.IntN(8) {
		case 0, 1: // a rollout
			n := next
			next++
			did = "roll " + name(n)
			err := <-begin(n)
			if (err == nil) != good(n) {
				t.Errorf("%s: %v", did, err)
			}
			arrive(n)
		case 2: // a rollout, and a crash within
			n := next
			next++
			after := 100*time.Millisecond + time.Duration(rnd.Int64N(int64(3*time.Second)))
			did = fmt.Sprintf("roll %s, crash after %v", name(n), after)
			done := begin(n)
			time.Sleep(after)
			crash()
			<-done
			arrive(n)
		case 3:
			did = "back"
			served.Store(" " + name(live) + " " + name(old) + " ")
			err := w.client.Back(ctx, nil)
			if (err == nil) != (old != 0) {
				t.Errorf("back to %d: %v", old, err)
			}
			if old != 0 {
				live, old = old, 0
			}
		case 4:
			did = "retire"
			err := w.client.Retire(ctx)
			if (err == nil) != (old != 0) {
				t.Errorf("retire %d: %v", old, err)
			}
			old = 0
		case 5: // one instance dies, of whichever fleet
			did = "kill"
			if ins := w.launcher.Running(); len(ins) > 0 {
				in := ins[rnd.IntN(len(ins))]
				did += " " + in.ID()
				in.Kill()
				time.Sleep(5 * time.Second)
			}
		case 6: // a whole host's worth
			did = "kill all"
			lax.Store(true)
			for _, in := range w.launcher.Running() {
				in.Kill()
			}
			time.Sleep(5 * time.Second)
		case 7:
			did = "crash"
			crash()
		}
		log = append(log, did)
		w.settled()
		synctest.Wait()

		// The invariants.
		st := w.status()
		if st.Next != nil {
			t.Errorf("%s is left as next", st.Next.Version)
		}
		for what, f := range map[string]struct {
			got  *rollouts.FleetStatus
			want int
		}{"live": {st.Live, live}, "old": {st.Old, old}} {
			if got := f.got; (got != nil) != (f.want != 0) || got != nil && got.Version != name(f.want) {
				t.Errorf("%s is %+v, the model says %s", what, got, name(f.want))
			}
		}
		if live != 0 && (!st.Live.InTraffic || st.Live.Healthy != w.cfg.Replicas) {
			t.Errorf("live is not in full traffic: %+v", st.Live)
		}
		if st.Old != nil && st.Old.InTraffic {
			t.Error("the old fleet is in traffic")
		}
		for _, in := range w.launcher.Running() {
			if v := in.Spec.Version; v != name(live) && v != name(old) {
				t.Errorf("%s is left", in.ID())
			}
		}
		if n := w.launcher.Most(); n > 2*w.cfg.Replicas {
			t.Errorf("%d instances ran at once", n)
		}
		served.Store(" " + name(live) + " ")
		lax.Store(live == 0)
		if t.Failed() {
			t.Fatalf("after: %s", strings.Join(log, "; "))
		}
	}
}
