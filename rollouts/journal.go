package rollouts

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// state is the journalled document. What its pointers point to is never changed.
type state struct {
	Format int `json:"format"`
	// Writer and Seq tell one write from every other, so that a write with an
	// unknown outcome can be recognised when read back.
	Writer string `json:"writer"`
	Seq    int64  `json:"seq"`

	Config  Config `json:"config"`
	Address string `json:"address"` // where the proxy listens
	Phase   Phase  `json:"phase"`
	Reason  string `json:"reason,omitempty"`
	// Back: the operation under way goes from Live to Old (or, once draining,
	// has done so) because it was asked to.
	Back     bool      `json:"back,omitempty"`
	Live     *fleetDoc `json:"live,omitempty"`
	Next     *fleetDoc `json:"next,omitempty"`
	Old      *fleetDoc `json:"old,omitempty"`
	OldUntil time.Time `json:"old_until,omitzero"`
}

const stateFormat = 1

// journalTimeout bounds one call of the journal.
const journalTimeout = 10 * time.Second

func (s *Supervisor) load(ctx context.Context) (st state, rev int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	doc, rev, err := s.opt.Journal.LoadService(ctx, s.opt.Name)
	if err != nil {
		return state{}, 0, fmt.Errorf("reading the journal of service %s: %w", s.opt.Name, err)
	}
	if len(doc) == 0 {
		return state{Format: stateFormat}, rev, nil
	}
	if err := json.Unmarshal(doc, &st); err != nil {
		return state{}, 0, fmt.Errorf("reading the journal of service %s: revision %d is not understood: %w", s.opt.Name, rev, err)
	}
	if st.Format != stateFormat {
		return state{}, 0, fmt.Errorf("reading the journal of service %s: revision %d has format %d and this version of ingot knows %d; use the version that wrote it", s.opt.Name, rev, st.Format, stateFormat)
	}
	for _, f := range []*fleetDoc{st.Live, st.Next, st.Old} {
		if f != nil && (f.Replicas < 1 || f.Replicas > maxReplicas) {
			return state{}, 0, fmt.Errorf("reading the journal of service %s: revision %d has a fleet of %d", s.opt.Name, rev, f.Replicas)
		}
	}
	if !st.sound() {
		return state{}, 0, fmt.Errorf("reading the journal of service %s: revision %d has phase %q without the fleets that belong to it", s.opt.Name, rev, st.Phase)
	}
	return st, rev, nil
}

// sound says whether a supervisor can go on from st.
func (st *state) sound() bool {
	switch st.Phase {
	case PhaseLaunching, PhaseHealthy, PhaseSwitching, PhaseSoaking:
		return st.Next != nil
	case PhaseRollingBack:
		return st.Next != nil && (!st.Back || st.Live != nil && st.Old != nil)
	case PhaseDraining, PhaseHolding:
		return st.Live != nil
	}
	return st.Phase.resting() && (st.Old == nil || st.Live != nil)
}

// commit writes the changed state to the journal, then makes it the current
// one. When it fails nothing has changed and nothing may be done. Only one
// goroutine commits at a time: Serve before it is ready, then the operation.
func (s *Supervisor) commit(ctx context.Context, text string, change func(*state)) error {
	next := s.state()
	change(&next)
	next.Writer = s.writer
	next.Seq++
	rev, err := s.save(ctx, next, text)
	if err != nil {
		return fmt.Errorf("journalling %q: %w", text, err)
	}
	s.become(next, rev, text)
	return nil
}

// settle is commit for the steps towards safety: they are taken even when the
// journal cannot be written.
func (s *Supervisor) settle(ctx context.Context, text string, change func(*state)) {
	if err := s.commit(ctx, text, change); err != nil && ctx.Err() == nil {
		s.say(true, err.Error())
		next := s.state()
		change(&next)
		s.become(next, s.revision(), text)
	}
}

func (s *Supervisor) save(ctx context.Context, next state, text string) (int64, error) {
	data, err := json.Marshal(next)
	if err != nil {
		return 0, err
	}
	at := s.revision()
	for try := 0; ; try++ {
		sctx, cancel := context.WithTimeout(ctx, journalTimeout)
		rev, err := s.opt.Journal.SaveService(sctx, s.opt.Name, data, at, text)
		cancel()
		if err == nil {
			return rev, nil
		}
		// The write may have happened all the same.
		if got, rev, lerr := s.load(ctx); lerr == nil && rev != at {
			if got.Writer == next.Writer && got.Seq == next.Seq {
				return rev, nil
			}
			return 0, fmt.Errorf("another supervisor has taken over service %s: the journal is at revision %d, not %d: %w", s.opt.Name, rev, at, err)
		}
		if try == 2 || !sleep(ctx, 100*time.Millisecond<<try) {
			return 0, err
		}
	}
}
