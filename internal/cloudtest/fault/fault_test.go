package fault

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	var plan Plan
	var effects atomic.Int32
	s := httptest.NewServer(plan.Handler(
		func(r *http.Request, body []byte) Call { return Call{Service: "test", Action: string(body)} },
		func(w http.ResponseWriter, _ *http.Request, f Fault) { http.Error(w, f.String(), 500) },
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			effects.Add(1)
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write(b)
		})))
	defer s.Close()
	for _, c := range []struct {
		fault  Fault
		effect bool
		status int // 0: no answer
	}{
		{None, true, 201}, {Refuse, false, 500}, {Fail, false, 500}, {Throttle, false, 500}, {Cut, false, 0},
		{CutAfter, true, 0}, {FailAfter, true, 500}, {Hang, false, 0}, {HangAfter, true, 0},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		plan.Reset()
		plan.Decide(func(Call) Fault {
			if c.fault == Hang {
				cancel() // who waits in vain gives up, but not before the call is there
			}
			return c.fault
		})
		var done atomic.Int32
		plan.Done(func(Call) {
			done.Add(1)
			if c.fault == HangAfter {
				cancel()
			}
		})
		effects.Store(0)
		req, err := http.NewRequestWithContext(ctx, "POST", s.URL, strings.NewReader("DoIt"))
		if err != nil {
			t.Fatal(err)
		}
		req.GetBody = nil // a lost answer must not be asked for again
		resp, err := s.Client().Do(req)
		status := 0
		if err == nil {
			status = resp.StatusCode
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if c.fault == None && string(b) != "DoIt" {
				t.Errorf("the call answers %q", b)
			}
		}
		if c.fault == Hang || c.fault == HangAfter {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", c.fault, err)
			}
		}
		cancel()
		if status != c.status || (effects.Load() == 1) != c.effect || (done.Load() == 1) != c.effect {
			t.Errorf("%s: status %d, %d effects, told of %d", c.fault, status, effects.Load(), done.Load())
		}
		if calls := plan.Calls(); len(calls) != 1 || calls[0].Action != "DoIt" || calls[0].N != 1 {
			t.Errorf("%s: calls %v", c.fault, calls)
		}
	}
}
