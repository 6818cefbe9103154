package docloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/digitalocean/godo"
)

// maxAnswer bounds an answer of the API: a page of 200 droplets is far below.
const maxAnswer = 32 << 20

type repeatable struct{}

// Repeatable marks calls that do no more when they are made twice, so that
// they are tried again also when it isn't known whether they took effect.
func Repeatable(ctx context.Context) context.Context {
	return context.WithValue(ctx, repeatable{}, true)
}

// transport authorizes calls, bounds each and tries again what may be.
//
// A POST that may have had its effect is not tried again here: who makes it
// looks first whether it has.
type transport struct {
	settled
	next  http.RoundTripper
	tempo Tempo

	mu    sync.Mutex
	until time.Time // nobody calls before: there are too many calls
	calls int
	left  float64 // the part of the calls of an hour that is left, as the API says
	told  bool    // whether it does
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		req.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	ctx := req.Context()
	again := req.Method != http.MethodPost || ctx.Value(repeatable{}) != nil
	var throttled time.Duration
	for try := 0; ; {
		if err := t.gate(ctx); err != nil {
			return nil, err
		}
		resp, err := t.once(req, body)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err == nil && resp.StatusCode == http.StatusTooManyRequests:
			wait, told := reset(resp.Header)
			if !told {
				wait = t.backoff(try)
				try++
			}
			throttled += wait
			deadline, has := ctx.Deadline()
			if throttled > t.throttle || has && time.Until(deadline) < wait || !told && try > t.retryMax {
				return resp, nil // the caller says it
			}
			t.mu.Lock()
			if u := time.Now().Add(wait); u.After(t.until) {
				t.until = u
			}
			t.mu.Unlock()
		case err != nil && (again || unsent(err)) || err == nil && resp.StatusCode >= 500 && again:
			if try >= t.retryMax {
				return resp, err
			}
			if err := t.tempo.sleep(ctx, t.backoff(try)); err != nil {
				return nil, err
			}
			try++
		default:
			return resp, err
		}
	}
}

// unsent says that a call cannot have had an effect.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// gate waits until calls may be made again.
func (t *transport) gate(ctx context.Context) error {
	for {
		t.mu.Lock()
		wait := time.Until(t.until)
		if wait <= 0 {
			t.calls++
		}
		t.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// note remembers how many calls are left.
func (t *transport) note(h http.Header) {
	limit, err := strconv.ParseFloat(h.Get("RateLimit-Limit"), 64)
	left, lerr := strconv.ParseFloat(h.Get("RateLimit-Remaining"), 64)
	if err != nil || lerr != nil || limit <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.told = left/limit, true
}

// strain is by how much waits are to be longer than usual, because most of the
// hour's calls have been made.
func (t *transport) strain() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.told || t.left > 0.5:
		return 1
	case t.left > 0.25:
		return 2
	case t.left > 0.1:
		return 4
	}
	return 8
}

func (t *transport) backoff(try int) time.Duration {
	d := t.waitMin << min(try, 16)
	if d > t.waitMax || d <= 0 {
		d = t.waitMax
	}
	return time.Duration((0.75 + rand.Float64()/2) * float64(d))
}

// reset says how long to wait, as the API tells it.
func reset(h http.Header) (time.Duration, bool) {
	if n, err := strconv.Atoi(h.Get("Retry-After")); err == nil && n >= 0 {
		return time.Duration(min(n, 24*3600)) * time.Second, true
	}
	if n, err := strconv.ParseInt(h.Get("RateLimit-Reset"), 10, 64); err == nil {
		// No shorter than a moment: the clocks may differ.
		return min(max(time.Until(time.Unix(n, 0)), time.Second), 24*time.Hour), true
	}
	return 0, false
}

// once makes one try, and reads the answer within its time.
func (t *transport) once(req *http.Request, body []byte) (*http.Response, error) {
	ctx, cancel := context.WithTimeoutCause(req.Context(), t.timeout, fmt.Errorf("there was no answer within %v (http_timeout)", t.timeout))
	defer cancel()
	r := req.Clone(ctx)
	r.Header.Set("Authorization", "Bearer "+t.token)
	if body != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, cause(ctx, err)
	}
	defer resp.Body.Close()
	t.note(resp.Header)
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, cause(ctx, fmt.Errorf("read the answer: %w", err))
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	resp.ContentLength = int64(len(answer))
	resp.Request = req // whose headers have no token
	return resp, nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Status is the HTTP status of the API's answer that err is, or 0.
func Status(err error) int {
	if e, ok := errors.AsType[*godo.ErrorResponse](err); ok && e.Response != nil {
		return e.Response.StatusCode
	}
	return 0
}

// NotFound says that the API does not know what was asked for.
func NotFound(err error) bool { return Status(err) == http.StatusNotFound }

// Refused says that the API has answered that it won't: trying again is of no
// use, and nothing has been done.
func Refused(err error) bool {
	s := Status(err)
	return s >= 400 && s < 500 && s != http.StatusTooManyRequests && s != http.StatusRequestTimeout
}

// Pending says that the API will not do it now, or not at all.
func Pending(err error) bool {
	return Status(err) == http.StatusUnprocessableEntity || Status(err) == http.StatusConflict
}

// Busy says that the resource is busy with something else.
func Busy(err error) bool { return Pending(err) && busyText.MatchString(err.Error()) }

var busyText = regexp.MustCompile(`(?i)pending|in progress|locked|busy`)

// Unreachable says that the API gave no answer, or none of its own.
func Unreachable(err error) bool {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return true // something else has answered
	}
	s := Status(err)
	return s >= 500 || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout
}
