// Package fault lets an emulated cloud misbehave on purpose: it counts the
// calls that arrive, and a test decides of each whether it is answered well.
package fault

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
)

// Call is one call of a cloud's API.
type Call struct {
	// N counts the calls of all services, from 1, in the order in which they arrive.
	N int
	// Service and Action name it: "ec2" and "RunInstances", "digitalocean" and "POST /v2/droplets".
	Service, Action string
	// Region is the one it was sent to, where the service has regions.
	Region string
}

func (c Call) String() string {
	s := c.Service + " " + c.Action
	if c.Region != "" {
		s += " in " + c.Region
	}
	return s
}

// Fault is what happens to a call.
type Fault int

// The faults. "Before" is without effect on the cloud; "after" is once the call
// has had its effect, so that only the answer is lost.
const (
	None Fault = iota
	// Refuse answers a final error: the caller may not do that.
	Refuse
	// Fail answers an error of the server's, which a client may try again.
	Fail
	// Throttle answers that there are too many calls.
	Throttle
	// Cut closes the connection before, CutAfter after.
	Cut
	CutAfter
	// FailAfter answers an error of the server's after.
	FailAfter
	// Hang and HangAfter answer nothing until the caller gives up.
	Hang
	HangAfter
)

var names = [...]string{"none", "refuse", "fail", "throttle", "cut", "cut after", "fail after", "hang", "hang after"}

func (f Fault) String() string {
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("fault %d", int(f))
	}
	return names[f]
}

// All are the faults, without None.
func All() []Fault {
	return []Fault{Refuse, Fail, Throttle, Cut, CutAfter, FailAfter, Hang, HangAfter}
}

// Sample is some of the faults for the nth of many calls, so that over the calls
// each has its turn. With INGOT_EVERY_FAULT=1 it is all of them: where every call
// goes wrong in every way, that takes many minutes.
func Sample(n int, of []Fault) []Fault {
	if os.Getenv("INGOT_EVERY_FAULT") == "1" || len(of) < 3 {
		return of
	}
	i := n % len(of)
	return []Fault{of[i], of[(i+len(of)/2)%len(of)]}
}

// Plan records the calls and decides of their faults. The zero Plan has none.
type Plan struct {
	mu     sync.Mutex
	calls  []Call
	decide func(Call) Fault
	done   func(Call)
}

// Decide sets who decides from now on; nil: no faults. It is called on the
// goroutine of the call, before the call has any effect, and may do other
// things there, such as ending the caller's process.
func (p *Plan) Decide(f func(Call) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = f
}

// Done sets who is told of each call that has had its effect, before it is answered.
func (p *Plan) Done(f func(Call)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = f
}

// Calls are the calls so far.
func (p *Plan) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// Reset forgets the calls so far; the next one is number 1.
func (p *Plan) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = nil
}

func (p *Plan) arrive(c Call) (Call, Fault, func(Call)) {
	p.mu.Lock()
	c.N = len(p.calls) + 1
	p.calls = append(p.calls, c)
	decide, done := p.decide, p.done
	p.mu.Unlock()
	if decide == nil {
		return c, None, done
	}
	return c, decide(c), done
}

// maxBody bounds a request; a client of an emulator sends no more, except to an
// object store, which stands outside.
const maxBody = 64 << 20

// Handler puts the plan before a cloud's API. name says what call a request
// is; refuse answers Refuse, Fail, FailAfter and Throttle in the words of that API.
func (p *Plan) Handler(name func(r *http.Request, body []byte) Call, refuse func(w http.ResponseWriter, r *http.Request, f Fault), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		again := func() { r.Body = io.NopCloser(bytes.NewReader(body)) }
		again()
		c, f, done := p.arrive(name(r, body))
		again()
		switch f {
		case Refuse, Fail, Throttle:
			refuse(w, r, f)
			return
		case Cut:
			panic(http.ErrAbortHandler)
		case Hang:
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		// The effect comes first, and whole, whatever becomes of the answer.
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		if done != nil {
			done(c)
		}
		switch f {
		case CutAfter:
			panic(http.ErrAbortHandler)
		case FailAfter:
			refuse(w, r, f)
			return
		case HangAfter:
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		for k, v := range answer.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // who has gone away wants no answer
	})
}
