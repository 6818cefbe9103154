// Package proxy is the HTTP reverse proxy in front of a blue-green rollout. It
// sends requests to one fleet of instances and moves to another between two
// requests, without closing a client's connection.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"
)

// Table says where requests go.
type Table struct {
	// Rev counts switches. Switch needs the current one.
	Rev int64
	// Live takes the traffic; nil: every request is answered with 503.
	Live *Fleet
	// Fallback takes a request when Live has no healthy member left. May be nil.
	Fallback *Fleet
}

// Proxy is an http.Handler that passes requests on to the live fleet. Its zero
// value is not usable; see New.
type Proxy struct {
	mu    sync.Mutex // serialises Switch
	table atomic.Pointer[Table]
	rp    *httputil.ReverseProxy
	log   *log.Logger
}

// New makes a proxy that has no live fleet. Trouble in serving is written to
// logger; nil: nowhere.
func New(logger *log.Logger) *Proxy {
	if logger == nil {
		logger = log.New(io.Discard, "", 0)
	}
	p := &Proxy{log: logger}
	p.table.Store(&Table{})
	p.rp = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      roundTripper{p},
		ErrorLog:       logger,
		ModifyResponse: noteStatus,
		ErrorHandler:   answerError,
	}
	return p
}

// Server returns an HTTP/1.1 server with p as its handler and limits that keep
// slow or greedy clients from holding on. There is no limit on the length of a
// body or an answer, as both may be streams.
func (p *Proxy) Server() *http.Server {
	return &http.Server{
		Handler:           p,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          p.log,
	}
}

// Table returns where requests go now.
func (p *Proxy) Table() Table { return *p.table.Load() }

// GuardError says that a switch was refused because the fleet that would have
// become live had too few healthy members.
type GuardError struct {
	Fleet         string
	Healthy, Need int
}

func (e *GuardError) Error() string {
	return fmt.Sprintf("traffic stays where it is: fleet %s has %d healthy instances and needs %d", e.Fleet, e.Healthy, e.Need)
}

// Switch sends requests that arrive from now on to live, or to fallback where
// live has no healthy member. It returns a *GuardError when live has fewer than
// need healthy members, and an error when rev is not the current revision;
// nothing has changed then. Requests under way stay where they are.
func (p *Proxy) Switch(rev int64, live, fallback *Fleet, need int) (Table, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.Table()
	if old.Rev != rev {
		return old, fmt.Errorf("traffic stays where it is: the table is at revision %d, not %d; somebody else has switched", old.Rev, rev)
	}
	if live != nil && live.Healthy() < need {
		return old, &GuardError{Fleet: live.Name(), Healthy: live.Healthy(), Need: need}
	}
	t := Table{Rev: rev + 1, Live: live, Fallback: fallback}
	p.table.Store(&t)
	return t, nil
}

// pass is one request on its way; it lives in the request's context.
type pass struct {
	fleet  *Fleet // counted in its inFlight
	failed bool
}

type passKey struct{}

func passOf(r *http.Request) *pass { return r.Context().Value(passKey{}).(*pass) }

// ServeHTTP passes r on.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		http.Error(w, "CONNECT is not served here", http.StatusMethodNotAllowed)
		return
	}
	t := &pass{}
	whole := false
	defer func() { // also when the copying panics with http.ErrAbortHandler
		f := t.fleet
		if f == nil {
			return
		}
		if (t.failed || !whole) && r.Context().Err() == nil {
			f.failures.Add(1)
		}
		f.requests.Add(1)
		f.inFlight.Add(-1)
	}()
	p.rp.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), passKey{}, t)))
	whole = true
}

func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http"
	r.Out.URL.Host = "instance" // only names the connection pool; Out.Host is the client's
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	r.SetXForwarded() // what the client itself claimed has been dropped
}

func noteStatus(resp *http.Response) error {
	if resp.StatusCode >= 500 {
		passOf(resp.Request).failed = true
	}
	return nil
}

var errNoInstance = errors.New("no healthy instance")

func answerError(w http.ResponseWriter, r *http.Request, err error) {
	passOf(r).failed = true
	if errors.Is(err, errNoInstance) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "no healthy instance", http.StatusServiceUnavailable)
		return
	}
	http.Error(w, "the instance gave no answer", http.StatusBadGateway)
}

type roundTripper struct{ p *Proxy }

// RoundTrip tries members until one answers. A request of which nothing was
// sent may go to any number of members. One that may have been sent goes to a
// second one only if it is idempotent and has no body, and to no third: a
// request that kills its instance must not kill the fleet.
func (rt roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	t := passOf(req)
	body := req.Body
	if body != nil {
		req = req.Clone(req.Context())
		req.Body = keepOpen{body} // a failed attempt would close it; ReverseProxy closes the original
	}
	again := body == nil && idempotent(req.Method)
	var tried []*Member
	for {
		m := rt.p.enter(t, tried)
		if m == nil {
			return nil, errNoInstance
		}
		resp, err := m.transport.RoundTrip(req)
		if err == nil {
			return resp, nil
		}
		if req.Context().Err() != nil {
			return nil, err
		}
		if isDialError(err) {
			m.SetHealthy(false)
		} else if again {
			again = false
		} else {
			return nil, err
		}
		tried = append(tried, m)
	}
}

// enter chooses a member and counts t in its fleet. The table is looked at
// again after the counting, so that a fleet that has left the table and has
// nothing in flight stays so.
func (p *Proxy) enter(t *pass, tried []*Member) *Member {
	for {
		table := p.table.Load()
		f, m := table.choose(tried)
		if f != t.fleet {
			if t.fleet != nil {
				t.fleet.inFlight.Add(-1)
			}
			if t.fleet = f; f == nil {
				return nil
			}
			f.inFlight.Add(1)
		}
		if p.table.Load() == table {
			return m
		}
	}
}

// choose returns the fleet and member for one request. A fleet without a member
// is the one that a failure counts against.
func (t *Table) choose(tried []*Member) (*Fleet, *Member) {
	for _, f := range []*Fleet{t.Live, t.Fallback} {
		if f != nil {
			if m := f.pick(tried); m != nil {
				return f, m
			}
		}
	}
	return t.Live, nil
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

type keepOpen struct{ io.Reader }

func (keepOpen) Close() error { return nil }
