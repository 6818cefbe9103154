package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Backend is one instance that can answer requests.
type Backend interface {
	// ID names the instance in errors.
	ID() string
	// Dial opens a connection to the service in the instance.
	Dial(ctx context.Context) (net.Conn, error)
}

const (
	// dialTimeout bounds one attempt to reach an instance.
	dialTimeout = 2 * time.Second
	// idleTimeout is shorter than the 5 s after which common servers close an
	// idle connection, so that a request seldom meets a closing one.
	idleTimeout = 4 * time.Second
)

// Fleet is a set of instances that take traffic together. All methods are safe
// for concurrent use.
type Fleet struct {
	name    string
	changed func()

	mu      sync.Mutex // guards writers of members
	members atomic.Pointer[[]*Member]

	next               atomic.Uint64
	inFlight           atomic.Int64
	requests, failures atomic.Int64
}

// NewFleet makes an empty fleet. changed, which may be nil, is called after the
// health of a member changed; it must return quickly.
func NewFleet(name string, changed func()) *Fleet {
	if changed == nil {
		changed = func() {}
	}
	f := &Fleet{name: name, changed: changed}
	f.members.Store(new([]*Member))
	return f
}

// Name is the name given to NewFleet.
func (f *Fleet) Name() string { return f.name }

// InFlight is the number of requests and upgraded connections now under way.
func (f *Fleet) InFlight() int64 { return f.inFlight.Load() }

// Counts returns how many requests the fleet has answered so far, and how many
// of them failed: status 500 and above, or no whole answer. Requests whose
// client went away are not failures.
func (f *Fleet) Counts() (requests, failures int64) {
	failures = f.failures.Load() // first, so that it never exceeds requests
	return f.requests.Load(), failures
}

// Healthy is the number of members that take traffic.
func (f *Fleet) Healthy() int {
	n := 0
	for _, m := range *f.members.Load() {
		if m.Healthy() {
			n++
		}
	}
	return n
}

// Add makes b a member. It takes no traffic before SetHealthy(true).
func (f *Fleet) Add(b Backend) *Member {
	m := &Member{fleet: f, backend: b}
	m.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			c, err := b.Dial(ctx)
			if err != nil {
				return nil, &dialError{id: b.ID(), err: err}
			}
			return c, nil
		},
		// The client's own Accept-Encoding passes through untouched.
		DisableCompression:    true,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       idleTimeout,
		ExpectContinueTimeout: time.Second,
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.setMembers(append(slices.Clone(*f.members.Load()), m))
	return m
}

// Remove takes m out of the fleet and drops its idle connections. Requests
// under way on it go on.
func (f *Fleet) Remove(m *Member) {
	f.mu.Lock()
	f.setMembers(slices.DeleteFunc(slices.Clone(*f.members.Load()), func(x *Member) bool { return x == m }))
	f.mu.Unlock()
	m.SetHealthy(false)
}

func (f *Fleet) setMembers(ms []*Member) { f.members.Store(&ms) }

// pick returns the next healthy member that is not in tried, or nil.
func (f *Fleet) pick(tried []*Member) *Member {
	ms := *f.members.Load()
	start := f.next.Add(1)
	for i := range ms {
		m := ms[(start+uint64(i))%uint64(len(ms))]
		if m.Healthy() && !slices.Contains(tried, m) {
			return m
		}
	}
	return nil
}

// Member is one instance within a fleet.
type Member struct {
	fleet     *Fleet
	backend   Backend
	transport *http.Transport
	healthy   atomic.Bool
}

// Healthy says whether the member takes traffic. It turns false by itself when
// a connection to the instance cannot be opened.
func (m *Member) Healthy() bool { return m.healthy.Load() }

// SetHealthy lets the member take traffic, or takes it out and drops its idle
// connections.
func (m *Member) SetHealthy(ok bool) {
	if !ok {
		m.transport.CloseIdleConnections()
	}
	if m.healthy.Swap(ok) != ok {
		m.fleet.changed()
	}
}

// dialError says that nothing was sent.
type dialError struct {
	id  string
	err error
}

func (e *dialError) Error() string { return "connecting to instance " + e.id + ": " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}
