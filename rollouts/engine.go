package rollouts

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// launchTries failures of a new fleet end the wait for it before its deadline.
	launchTries = 3
	// A rise of errors is at least minErrors failed requests, and a share of
	// them that exceeds the old fleet's by maxRise. The share alone would let one
	// unlucky request among few decide.
	minErrors = 3
	maxRise   = 0.05
	waitTick  = 20 * time.Millisecond
)

// start rolls t out, or says that it is live already.
func (s *Supervisor) start(t Target) (*operation, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	op, err := s.begin("the rollout of "+t.Version, nil)
	if err != nil {
		return nil, err
	}
	s.spawn(op, func(ctx context.Context) error {
		st := s.state()
		color := "blue"
		if live := st.Live; live != nil {
			if live.Digest == t.Digest {
				s.say(false, fmt.Sprintf("%s (%s) is already live: nothing to do", t.Version, t.Digest))
				return nil
			}
			if live.Color == color {
				color = "green"
			}
			// The fallback goes with the old fleet, whose colour is needed now.
			if err := s.route(s.fleet(live), nil, s.needed(st)); err != nil {
				return err
			}
		}
		next := fleetDoc{Color: color, Version: t.Version, Digest: t.Digest, Image: s.opt.Config.Image, Replicas: s.opt.Config.Replicas}
		text := fmt.Sprintf("launching %d of %s", next.Replicas, next)
		return s.forward(ctx, text, func(st *state) { st.Next = &next })
	})
	return op, nil
}

// needed is how many live instances must be healthy before the fallback goes:
// any number if there is none, or none that could answer.
func (s *Supervisor) needed(st state) int {
	if f := s.proxy.Table().Fallback; f == nil || f.Healthy() == 0 {
		return 0
	}
	return st.Live.Replicas
}

// forward takes the rollout of state.Next from launching to its end. After a
// crash it begins at launching again, as the machines are gone; the version
// that comes through is the same.
func (s *Supervisor) forward(ctx context.Context, text string, change ...func(*state)) error {
	err := s.commit(ctx, text, func(st *state) {
		st.Phase, st.Reason, st.Back, st.Old, st.OldUntil = PhaseLaunching, "", false, nil, time.Time{}
		for _, c := range change {
			c(st)
		}
	})
	if err != nil {
		return err
	}
	st := s.state()
	if f := s.fleet(st.Next); f != nil { // the old fleet of before
		if err := s.release(ctx, f); err != nil {
			return s.rollback(ctx, err.Error())
		}
	}
	if err := s.advance(ctx, s.ensure(*st.Next), s.fleet(st.Live)); err != nil {
		return s.rollback(ctx, err.Error())
	}
	return s.hold(ctx)
}

// advance gives green the traffic, watches it and makes it the live version. An
// error says why that did not happen. blue is nil when nothing was live.
func (s *Supervisor) advance(ctx context.Context, green, blue *fleet) error {
	before := countsOf(blue)
	if err := s.awaitFull(ctx, green); err != nil {
		return err
	}
	name := green.doc.String()
	if err := s.commit(ctx, fmt.Sprintf("%s is healthy", name), func(st *state) { st.Phase = PhaseHealthy }); err != nil {
		return err
	}
	if err := s.commit(ctx, fmt.Sprintf("switching the traffic to %s", name), func(st *state) { st.Phase = PhaseSwitching }); err != nil {
		return err
	}
	if err := s.route(green, blue, green.doc.Replicas); err != nil {
		return err
	}
	baseline := countsOf(blue).since(before).share()
	if err := s.commit(ctx, fmt.Sprintf("%s has the traffic, watching it for %v", name, s.opt.Config.Soak), func(st *state) { st.Phase = PhaseSoaking }); err != nil {
		return err
	}
	if err := s.soak(ctx, green, baseline); err != nil {
		return err
	}
	return s.commit(ctx, fmt.Sprintf("%s is live", name), func(st *state) {
		st.Phase, st.Live, st.Old, st.Next = PhaseDraining, st.Next, st.Live, nil
	})
}

// soak watches green for the configured time.
func (s *Supervisor) soak(ctx context.Context, green *fleet, baseline float64) error {
	bad := func() error {
		if n := green.healthy(); n < green.doc.Replicas {
			return fmt.Errorf("%s has %d of %d healthy instances in traffic%s", green.doc, n, green.doc.Replicas, green.why())
		}
		if c := countsOf(green); c.failures >= minErrors && c.share() > baseline+maxRise {
			return fmt.Errorf("%d of %d requests to %s failed; before the switch it was %.1f%%", c.failures, c.requests, green.doc, 100*baseline)
		}
		return nil
	}
	err := s.wait(ctx, s.opt.Config.Soak, func() (bool, error) { return false, bad() })
	if errors.Is(err, errDeadline) {
		return bad()
	}
	return err
}

// hold ends a rollout that has reached PhaseDraining.
func (s *Supervisor) hold(ctx context.Context) error {
	st := s.state()
	live, old := s.fleet(st.Live), s.fleet(st.Old)
	if err := s.awaitFull(ctx, live); err != nil {
		if ctx.Err() != nil {
			return err
		}
		s.say(true, fmt.Sprintf("%v; where it has no healthy instance, the old fleet goes on answering", err))
	} else if err := s.route(live, nil, live.doc.Replicas); err != nil {
		s.say(true, err.Error())
	} else if old != nil {
		s.drain(ctx, old)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if st.Old == nil {
		s.settle(ctx, "the rollout is done", func(st *state) { st.Phase = PhaseDone })
		return nil
	}
	until := time.Now().Add(s.opt.Config.KeepOld)
	s.settle(ctx, fmt.Sprintf("the rollout is done; %s is kept for %v", st.Old, s.opt.Config.KeepOld), func(st *state) {
		st.Phase, st.OldUntil = PhaseHolding, until
	})
	return nil
}

// rollback undoes the rollout of state.Next. The old fleet takes the traffic
// before the new one loses it, and only if it is healthy.
func (s *Supervisor) rollback(ctx context.Context, reason string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	st := s.state()
	green, blue := s.fleet(st.Next), s.fleet(st.Live)
	s.settle(ctx, fmt.Sprintf("rolling back from %s: %s", st.Next, reason), func(st *state) {
		st.Phase, st.Reason = PhaseRollingBack, reason
	})
	if green != nil && s.proxy.Table().Live == green.traf {
		need := 0
		if blue != nil {
			need = max(1, blue.doc.Replicas)
			if s.awaitFull(ctx, blue) != nil {
				// Not all of it, but more than there is of the new one?
				need = max(1, green.healthy())
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.route(blue, nil, need); err != nil {
			reason = fmt.Sprintf("%s; and there is no way back: %v", reason, err)
			s.settle(ctx, fmt.Sprintf("%s stays in traffic, %s is kept: %s", st.Next, st.Live, reason), func(st *state) {
				st.Phase, st.Reason, st.Live, st.Old, st.Next = PhaseFailed, reason, st.Next, st.Live, nil
			})
			return &OutcomeError{PhaseFailed, reason}
		}
	}
	if green != nil {
		if err := s.release(ctx, green); err != nil {
			s.say(true, err.Error())
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.rolledBack(ctx, reason)
}

// rolledBack journals the end of a roll-back.
func (s *Supervisor) rolledBack(ctx context.Context, reason string) error {
	phase, text := PhaseRolledBack, "rolled back"
	if live := s.state().Live; live == nil {
		phase, text = PhaseFailed, "failed, and no version was live before"
	} else {
		text += ": " + live.String() + " is live"
	}
	s.settle(ctx, text, func(st *state) { st.Phase, st.Next = phase, nil })
	return &OutcomeError{phase, text + ": " + reason}
}

// startBack gives the traffic to the old fleet again.
func (s *Supervisor) startBack() (*operation, error) {
	op, err := s.begin("going back to the old version", func(st state) error {
		if st.Old == nil {
			return fmt.Errorf("service %s has no old version to go back to; roll it out", s.opt.Name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.spawn(op, s.back)
	return op, nil
}

func (s *Supervisor) back(ctx context.Context) error {
	err := s.commit(ctx, fmt.Sprintf("going back to %s", s.state().Old), func(st *state) {
		st.Phase, st.Reason, st.Back, st.Next = PhaseRollingBack, "", true, st.Old
	})
	if err != nil {
		return err
	}
	st := s.state()
	old := s.ensure(*st.Old) // still warm, or launched again
	if err = s.awaitFull(ctx, old); err == nil {
		err = s.route(old, nil, old.doc.Replicas)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		reason := fmt.Sprintf("cannot go back: %v", err)
		s.settle(ctx, fmt.Sprintf("%s stays in traffic: %s", st.Live, reason), func(st *state) {
			st.Phase, st.Reason, st.Back, st.Next = PhaseFailed, reason, false, nil
		})
		return &OutcomeError{PhaseFailed, reason}
	}
	s.settle(ctx, fmt.Sprintf("%s has the traffic", st.Old), func(st *state) {
		st.Phase, st.Live, st.Old, st.Next = PhaseDraining, st.Old, st.Live, nil
	})
	return s.wentBack(ctx)
}

// wentBack ends a going back that has reached PhaseDraining.
func (s *Supervisor) wentBack(ctx context.Context) error {
	st := s.state()
	if f := s.fleet(st.Old); f != nil {
		if err := s.release(ctx, f); err != nil {
			s.say(true, err.Error())
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.settle(ctx, fmt.Sprintf("rolled back: %s is live", st.Live), func(st *state) {
		st.Phase, st.Back, st.Old, st.OldUntil = PhaseRolledBack, false, nil, time.Time{}
	})
	return nil
}

// startRetire stops the old fleet.
func (s *Supervisor) startRetire() (*operation, error) {
	op, err := s.begin("retiring the old version", s.mayRetire)
	if err != nil {
		return nil, err
	}
	s.spawn(op, s.retire)
	return op, nil
}

func (s *Supervisor) mayRetire(st state) error {
	if st.Old == nil {
		return fmt.Errorf("service %s has no old version to retire", s.opt.Name)
	}
	return nil
}

func (s *Supervisor) retire(ctx context.Context) error {
	st := s.state()
	if err := s.route(s.fleet(st.Live), nil, s.needed(st)); err != nil {
		return fmt.Errorf("%s is not retired, as it answers in place of %s: %w", st.Old, st.Live, err)
	}
	err := s.commit(ctx, fmt.Sprintf("retiring %s", st.Old), func(st *state) {
		if st.Phase == PhaseHolding {
			st.Phase = PhaseDone
		}
		st.Old, st.OldUntil = nil, time.Time{}
	})
	if err != nil {
		return err
	}
	if f := s.fleet(st.Old); f != nil {
		return s.release(ctx, f)
	}
	return nil
}

// ensure returns the fleet for doc, launching it if it does not run.
func (s *Supervisor) ensure(doc fleetDoc) *fleet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.fleets[doc.Color]; f != nil && f.doc == doc {
		return f
	}
	f := newFleet(context.WithoutCancel(s.ctx), s.opt.Name, doc, s.opt.Config, s.opt.Launcher, s.say, s.notify)
	s.fleets[doc.Color] = f
	return f
}

// fleet returns the running fleet of doc's colour, or nil.
func (s *Supervisor) fleet(doc *fleetDoc) *fleet {
	if doc == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fleets[doc.Color]
}

// route is the only place where traffic moves.
func (s *Supervisor) route(live, fallback *fleet, need int) error {
	t := s.proxy.Table()
	rev := t.Rev
	t.Live, t.Fallback = nil, nil
	if live != nil {
		t.Live = live.traf
	}
	if fallback != nil {
		t.Fallback = fallback.traf
	}
	_, err := s.proxy.Switch(rev, t.Live, t.Fallback, need)
	return err
}

// release drains f and stops it. It refuses a fleet that takes traffic.
func (s *Supervisor) release(ctx context.Context, f *fleet) error {
	if t := s.proxy.Table(); t.Live == f.traf || t.Fallback == f.traf {
		return fmt.Errorf("%s is not stopped: it still takes traffic", f.doc)
	}
	s.drain(ctx, f)
	f.stop()
	s.mu.Lock()
	delete(s.fleets, f.doc.Color)
	s.mu.Unlock()
	return nil
}

// drain waits for the requests under way on f, as long as is configured.
func (s *Supervisor) drain(ctx context.Context, f *fleet) {
	err := s.wait(ctx, s.opt.Config.Drain, func() (bool, error) { return f.traf.InFlight() == 0, nil })
	if errors.Is(err, errDeadline) {
		s.say(true, fmt.Sprintf("%s still has %d requests under way after %v", f.doc, f.traf.InFlight(), s.opt.Config.Drain))
	}
}

// awaitFull waits until every instance of f is healthy, and has just been seen so.
func (s *Supervisor) awaitFull(ctx context.Context, f *fleet) error {
	had, _ := f.trouble()
	deadline := f.health.Deadline
	err := s.wait(ctx, deadline, func() (bool, error) {
		if f.full() && f.confirm(ctx) {
			return true, nil
		}
		if n, last := f.trouble(); n >= had+launchTries {
			return false, fmt.Errorf("%s does not come up: %s", f.doc, last)
		}
		return false, nil
	})
	if errors.Is(err, errDeadline) {
		return fmt.Errorf("%s has %d of %d healthy instances after %v%s", f.doc, f.healthy(), f.doc.Replicas, deadline, f.why())
	}
	return err
}

var errDeadline = errors.New("deadline")

// wait looks at cond at every change, and at every tick for what changes
// without a notice, until it is true or fails, or for d: errDeadline.
func (s *Supervisor) wait(ctx context.Context, d time.Duration, cond func() (bool, error)) error {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	for {
		changed := s.changes()
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-deadline.C:
			return errDeadline
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type counts struct{ requests, failures int64 }

func countsOf(f *fleet) counts {
	if f == nil {
		return counts{}
	}
	r, n := f.traf.Counts()
	return counts{r, n}
}

func (c counts) since(b counts) counts {
	return counts{c.requests - b.requests, c.failures - b.failures}
}

func (c counts) share() float64 {
	if c.requests == 0 {
		return 0
	}
	return float64(c.failures) / float64(c.requests)
}
