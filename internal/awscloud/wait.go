package awscloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Pace is how long and how often one kind of thing is waited for.
type Pace struct {
	// First is when to look for the first time. Then the time between two looks
	// is Min at first, later the time waited so far divided by Slow (0: 10), and
	// never more than Cap, each a little more or less by chance.
	First, Min, Cap time.Duration
	Slow            int
	// Timeout is how long to wait, where neither aws_polling nor the
	// environment says it.
	Timeout time.Duration
	// Grace is how long after the wait began the thing may be unknown to the cloud.
	Grace time.Duration
}

// The paces of what bakes wait for.
var (
	InstancePace = Pace{First: 5 * time.Second, Min: time.Second, Slow: 8, Cap: 10 * time.Second, Timeout: 10 * time.Minute, Grace: time.Minute}
	VolumePace   = Pace{First: time.Second, Min: time.Second, Slow: 6, Cap: 10 * time.Second, Timeout: 10 * time.Minute, Grace: time.Minute}
	ImagePace    = Pace{First: 12 * time.Second, Min: time.Second, Slow: 20, Cap: 15 * time.Second, Timeout: 2 * time.Hour, Grace: 2 * time.Minute}
	SnapshotPace = Pace{First: 8 * time.Second, Min: 2 * time.Second, Slow: 8, Cap: 15 * time.Second, Timeout: 2 * time.Hour, Grace: 2 * time.Minute}
	// ShortPace is for what takes moments: a name that spreads, a dependency that goes.
	ShortPace = Pace{First: 500 * time.Millisecond, Min: 500 * time.Millisecond, Cap: 5 * time.Second, Timeout: 5 * time.Minute, Grace: time.Minute}
)

// next is the time to the next look, after the given time of waiting.
func (p Pace) next(waited time.Duration) time.Duration {
	slow := p.Slow
	if slow == 0 {
		slow = 10
	}
	d := min(max(p.Min, waited/time.Duration(slow)), p.Cap)
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// faster is the pace for a cloud that is so much faster. What a wait is bound by stays.
func (p Pace) faster(speed float64) Pace {
	if speed > 1 {
		for _, d := range []*time.Duration{&p.First, &p.Min, &p.Cap, &p.Grace} {
			*d = time.Duration(float64(*d) / speed)
		}
	}
	return p
}

// polling is what the user says of all waits.
type polling struct {
	delay    time.Duration // 0: as the pace has it
	attempts int           // 0: not said
	timeout  time.Duration // 0: not said
}

// packerDelay is what an attempt counts as where no delay is set.
const packerDelay = 15 * time.Second

func readPolling(p *Polling, env func(string) string) (polling, error) {
	number := func(name string, given int) (int, error) {
		s := env(name)
		if given != 0 || s == "" {
			return given, nil
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("%s is %q in the environment: it is a number of 0 or more", name, s)
		}
		return n, nil
	}
	if p == nil {
		p = &Polling{}
	}
	delay, err1 := number("AWS_POLL_DELAY_SECONDS", p.DelaySeconds)
	attempts, err2 := number("AWS_MAX_ATTEMPTS", p.MaxAttempts)
	timeout, err3 := number("AWS_TIMEOUT_SECONDS", 0)
	if attempts > 0 {
		timeout = 0
	}
	return polling{time.Duration(delay) * time.Second, attempts, time.Duration(timeout) * time.Second}, errors.Join(err1, err2, err3)
}

// apply is the pace as the user wants it, and what to change for a longer wait.
func (q polling) apply(p Pace) (Pace, string) {
	option := "aws_polling { max_attempts } or AWS_MAX_ATTEMPTS, which count 15 seconds each"
	if q.delay > 0 {
		p.Cap = q.delay
		p.Min, p.First = min(p.Min, q.delay), min(p.First, q.delay)
		option = fmt.Sprintf("aws_polling { max_attempts } or AWS_MAX_ATTEMPTS, which count %v each", q.delay)
	}
	switch {
	case q.attempts > 0:
		d := q.delay
		if d == 0 {
			d = packerDelay
		}
		p.Timeout = time.Duration(q.attempts) * d
	case q.timeout > 0:
		p.Timeout, option = q.timeout, "AWS_TIMEOUT_SECONDS"
	}
	return p, option
}

// Wait is something to wait for.
type Wait struct {
	// What completes "waited one minute for": "instance i-1 to stop".
	What string
	Pace Pace // zero: ShortPace
	// Timeout, when it is not 0, takes the place of the pace's and of the user's.
	Timeout time.Duration
	// Option says what changes Timeout.
	Option string
	// First, when it is not 0, takes the place of the pace's; negative: look at once.
	First time.Duration
	// Since is when what is waited for began, where that was before the wait.
	Since time.Time
	// Like names things that take about equally long, such as "stop t3.micro":
	// what was learned of them says when to look first, and how often then. "":
	// nothing.
	Like string
}

// TimeoutError says that a wait is over without what was waited for.
type TimeoutError struct {
	What   string
	Waited time.Duration
	// State is the last that was seen.
	State string
	// Option says what makes Ingot wait longer.
	Option string
}

func (e *TimeoutError) Error() string {
	s := fmt.Sprintf("waited %v for %s", e.Waited, e.What)
	if e.State != "" {
		s += fmt.Sprintf(", and the last that was seen is %q", e.State)
	}
	if e.Option != "" {
		s += "; to wait longer, raise " + e.Option
	}
	return s
}

// Wait looks until look says that it is done, or fails. While the cloud does
// not know the thing yet (IsNotFound), or throttles, it goes on.
func (s *Session) Wait(ctx context.Context, w Wait, look func(ctx context.Context) (done bool, state string, err error)) error {
	return s.wait(ctx, w, func(ctx context.Context, after time.Duration) (bool, string, error) {
		if after > 0 {
			t := time.NewTimer(after)
			defer t.Stop()
			select {
			case <-ctx.Done():
				return false, "", ctx.Err()
			case <-t.C:
			}
		}
		return look(ctx)
	})
}

// Watch is Wait with looks that are shared with those of other bakes. It
// returns the thing as it was seen last.
func Watch[T any](ctx context.Context, s *Session, b *Batch[T], id string, w Wait, judge func(T) (done bool, state string, err error)) (T, error) {
	var last T
	err := s.wait(ctx, w, func(ctx context.Context, after time.Duration) (bool, string, error) {
		v, err := b.get(ctx, id, after)
		if err != nil {
			return false, "", err
		}
		last = v
		return judge(v)
	})
	return last, err
}

func (s *Session) wait(ctx context.Context, w Wait, look func(ctx context.Context, after time.Duration) (bool, string, error)) error {
	if w.Pace == (Pace{}) {
		w.Pace = ShortPace
	}
	pace, option := s.polling.apply(w.Pace.faster(s.shared.o.Speed))
	if w.Timeout > 0 {
		pace.Timeout, option = w.Timeout, w.Option
	}
	start := time.Now()
	if w.Since.IsZero() {
		w.Since = start
	}
	over := &TimeoutError{What: w.What, Waited: pace.Timeout, Option: option}
	ctx, cancel := context.WithTimeoutCause(ctx, pace.Timeout, over)
	defer cancel()
	known := s.shared.expected(w.Like)
	after := max(pace.First-time.Since(w.Since), 0)
	if known.Took > 0 {
		after = max(min(known.Took-known.Spread-time.Since(w.Since), blind*pace.Cap), time.Millisecond)
	}
	if w.First != 0 {
		after = max(Pace{First: w.First}.faster(s.shared.o.Speed).First, 0)
	}
	var before time.Duration // at the last look that saw it not done
	for {
		done, state, err := look(ctx, after)
		waited := time.Since(start)
		if state != "" {
			over.State = state
		}
		switch {
		case done && err == nil:
			s.shared.learn(w.Like, before, time.Since(w.Since))
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
		case IsNotFound(err) && waited < pace.Grace, IsThrottled(err):
		case errors.Is(err, context.DeadlineExceeded): // of one look; the wait's own is above
		default:
			return Explain(err)
		}
		before = time.Since(w.Since)
		if after = pace.next(waited); known.Took > 0 {
			after = known.next(pace, before)
		}
	}
}

// timing is how long things of one kind have taken of late, and how far from
// that, about, one of them may be: as they differ, and as rarely as was looked.
type timing struct{ Took, Spread time.Duration }

// blind is how many times the cap of a pace nobody looks because it is thought
// to be too early.
const blind = 4

// next is the time to the next look, after the given time: rarely before it may
// be done, then often, and when it takes much longer than was thought as if nothing were known.
func (t timing) next(p Pace, waited time.Duration) time.Duration {
	usual := p.next(waited)
	if waited > 2*t.Took+p.Min {
		return usual
	}
	if early := t.Took - t.Spread - waited; early > 0 {
		return max(min(early, blind*p.Cap), min(usual, p.Min/8))
	}
	step := max(t.Spread/2, t.Took/40, p.Min/8, (waited-t.Took-t.Spread)/4)
	return min(step+time.Duration((rand.Float64()-0.5)*0.2*float64(step)), usual)
}

// expected is how long things like that have taken of late; zero: not known.
func (s *Shared) expected(like string) timing {
	if like == "" {
		return timing{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timings == nil {
		s.timings = map[string]timing{}
		if s.o.TimingsFile != "" {
			if b, err := os.ReadFile(s.o.TimingsFile); err != nil || json.Unmarshal(b, &s.timings) != nil {
				s.timings = map[string]timing{} // it only says when to look
			}
		}
	}
	t := s.timings[like]
	if t.Took <= 0 || t.Took > 2*time.Hour || t.Spread < 0 {
		return timing{}
	}
	t.Spread = min(t.Spread, t.Took)
	return t
}

// learn remembers that something came to be done between two looks: a mean, and
// a mean distance from it, that follow the last few.
func (s *Shared) learn(like string, from, to time.Duration) {
	if like == "" {
		return
	}
	t := s.expected(like)
	took, unsure := (from+to)/2, (to-from)/2
	if from == 0 { // it was done at the first look already
		took, unsure = to*7/8, to/8
	}
	if t.Took == 0 {
		t = timing{took, unsure}
	} else {
		t.Spread = (t.Spread + max(unsure, (took-t.Took).Abs()-t.Spread)) / 2
		t.Took = (t.Took + took) / 2
	}
	s.mu.Lock()
	s.timings[like] = t
	b, err := json.Marshal(s.timings)
	n := len(s.timings)
	s.mu.Unlock()
	if s.o.TimingsFile == "" || n > 1000 || err != nil {
		return
	}
	// Not synced: it costs each bake of many more than it is worth, and a file that
	// is lost or broken only makes the next process look as the first one did.
	tmp, err := os.CreateTemp(filepath.Dir(s.o.TimingsFile), ".timings-*")
	if err != nil {
		return
	}
	_, err = tmp.Write(b)
	if errors.Join(err, tmp.Close()) != nil || os.Rename(tmp.Name(), s.o.TimingsFile) != nil {
		_ = os.Remove(tmp.Name())
	}
}
