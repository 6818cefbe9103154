package docloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Tempo is how fast a session looks. The zero Tempo is that for DigitalOcean
// itself; tests against an emulator whose clock runs faster divide.
type Tempo struct {
	// Scale is how many times as fast as DigitalOcean the cloud is.
	Scale float64
}

func (t Tempo) of(d time.Duration) time.Duration {
	if t.Scale > 0 {
		return time.Duration(float64(d) / t.Scale)
	}
	return d
}

// sleep waits, as long as ctx lasts.
func (t Tempo) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Waits for a resource that was just made. What is made can be missing from
// the API's answers for some seconds.
const settleTime = 5 * time.Second

// Settle is how long what was made may be missing from the API's answers.
func (s *Session) Settle() time.Duration { return s.tempo.of(settleTime) }

// TimeoutError says that a wait was over.
type TimeoutError struct {
	What    string // "the snapshot of droplet 5"
	Option  string // which changes it; empty: none does
	Timeout time.Duration
	Last    error // what was seen last, if that was an error
}

func (e *TimeoutError) Error() string {
	s := fmt.Sprintf("waited %v for %s", e.Timeout, e.What)
	if e.Option != "" {
		s += fmt.Sprintf(" (%s is how long to wait)", e.Option)
	}
	if e.Last != nil {
		s += fmt.Sprintf("; at last: %v", e.Last)
	}
	return s
}

// Unwrap gives what was seen last.
func (e *TimeoutError) Unwrap() error { return e.Last }

// Wait is something to wait for.
type Wait struct {
	What, Option string
	Timeout      time.Duration
	// First is the time to the first look, and between looks at the beginning.
	// Default: 1s.
	First time.Duration
	// Every is the longest time between two looks. Default: 5s.
	Every time.Duration
}

// Until looks again and again until look says that it is done, or fails with
// an error that is not ErrLater. look is told how long it has to wait before
// it looks, so that it can do so together with others.
func (s *Session) Until(ctx context.Context, w Wait, look func(ctx context.Context, wait time.Duration) (done bool, err error)) error {
	over := &TimeoutError{What: w.What, Option: w.Option, Timeout: w.Timeout}
	tctx, cancel := context.WithTimeoutCause(ctx, w.Timeout, over)
	defer cancel()
	first, every := w.First, w.Every
	if first == 0 {
		first = time.Second
	}
	if every == 0 {
		every = 5 * time.Second
	}
	first, every = s.tempo.of(first), s.tempo.of(every)
	start := time.Now()
	for {
		// An interval in proportion to the time that has gone by costs the same
		// part of every wait, and few looks at a long one.
		wait := min(max(first, time.Since(start)/20), every)
		wait = time.Duration((0.85 + 0.3*rand.Float64()) * s.transport.strain() * float64(wait))
		done, err := look(tctx, wait)
		if errors.Is(err, ErrLater) && (tctx.Err() == nil || over.Last == nil) {
			over.Last = err // also of a look that took all the time there was
		}
		switch {
		case done && err == nil:
			return nil
		case tctx.Err() != nil && ctx.Err() == nil:
			return over
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrLater):
		case err != nil:
			return err
		default:
			over.Last = nil
		}
	}
}

// Patiently does something that the API refuses while a resource is busy, or too
// new to be seen.
func (s *Session) Patiently(ctx context.Context, w Wait, do func(context.Context) error) error {
	start := time.Now()
	return s.Until(ctx, w, func(ctx context.Context, wait time.Duration) (bool, error) {
		err := do(ctx)
		if err != nil && s.MayHeal(err, start) {
			_ = s.Pause(ctx, wait) // Until sees it when ctx ends
			return false, Later(err)
		}
		return err == nil, err
	})
}

// ErrLater is in the error of a look that time can heal.
var ErrLater = errors.New("not yet")

// Later marks err as one that time can heal.
func Later(err error) error { return &laterError{err} }

type laterError struct{ error }

func (e *laterError) Unwrap() []error { return []error{e.error, ErrLater} }

// Pause waits before a look that is not shared.
func (s *Session) Pause(ctx context.Context, d time.Duration) error { return s.tempo.sleep(ctx, d) }

// watch asks for things of one kind on behalf of everyone who waits for one of
// them: in one call when there are several.
type watch[T any] struct {
	one  func(ctx context.Context, id int) (T, error)
	many func(ctx context.Context, ids []int) (map[int]T, error)

	mu      sync.Mutex
	waiting map[*watcher[T]]struct{}
	wake    chan struct{} // of the loop, while one runs
}

type watcher[T any] struct {
	id     int
	due    time.Time
	answer chan watched[T]
}

type watched[T any] struct {
	it  T
	err error
}

// look returns the thing as it is after wait at the latest: sooner when
// someone else is told of it.
func (w *watch[T]) look(ctx context.Context, id int, wait time.Duration) (T, error) {
	me := &watcher[T]{id: id, due: time.Now().Add(wait), answer: make(chan watched[T], 1)}
	w.mu.Lock()
	if w.waiting == nil {
		w.waiting = map[*watcher[T]]struct{}{}
	}
	w.waiting[me] = struct{}{}
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
		go w.loop(w.wake)
	} else {
		w.nudge()
	}
	w.mu.Unlock()
	select {
	case a := <-me.answer:
		return a.it, a.err
	case <-ctx.Done():
		w.mu.Lock()
		delete(w.waiting, me)
		w.nudge()
		w.mu.Unlock()
		var none T
		return none, context.Cause(ctx)
	}
}

// nudge makes the loop look at who waits.
func (w *watch[T]) nudge() {
	if w.wake == nil {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// loop runs while someone waits.
func (w *watch[T]) loop(wake chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w.mu.Lock()
		if len(w.waiting) == 0 {
			w.wake = nil
			w.mu.Unlock()
			return
		}
		var due time.Time
		for m := range w.waiting {
			if due.IsZero() || m.due.Before(due) {
				due = m.due
			}
		}
		now := time.Now()
		if now.Before(due) {
			w.mu.Unlock()
			timer.Reset(due.Sub(now))
			select {
			case <-timer.C:
			case <-wake:
			}
			continue
		}
		asked := slices.Collect(maps.Keys(w.waiting))
		w.mu.Unlock()
		w.ask(wake, asked)
	}
}

// ask asks for all of them, and gives up when nobody wants to know any more.
func (w *watch[T]) ask(wake chan struct{}, asked []*watcher[T]) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ids := map[int]bool{}
	for _, m := range asked {
		ids[m.id] = true
	}
	type result struct {
		found map[int]watched[T]
	}
	done := make(chan result, 1)
	go func() { done <- result{w.fetch(ctx, slices.Sorted(maps.Keys(ids)))} }()
	for {
		select {
		case r := <-done:
			w.mu.Lock()
			for _, m := range asked {
				if _, still := w.waiting[m]; still {
					delete(w.waiting, m)
					m.answer <- r.found[m.id]
				}
			}
			w.mu.Unlock()
			return
		case <-wake:
			w.mu.Lock()
			wanted := slices.ContainsFunc(asked, func(m *watcher[T]) bool { _, still := w.waiting[m]; return still })
			w.mu.Unlock()
			if !wanted {
				cancel()
			}
		}
	}
}

func (w *watch[T]) fetch(ctx context.Context, ids []int) map[int]watched[T] {
	found := map[int]watched[T]{}
	if len(ids) > 1 && w.many != nil {
		all, err := w.many(ctx, ids)
		if err != nil {
			for _, id := range ids {
				found[id] = watched[T]{err: err}
			}
			return found
		}
		for id, it := range all {
			found[id] = watched[T]{it: it}
		}
	}
	for _, id := range ids {
		if _, ok := found[id]; !ok {
			it, err := w.one(ctx, id)
			found[id] = watched[T]{it, err}
		}
	}
	return found
}
