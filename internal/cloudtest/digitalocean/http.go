//go:build linux

package digitalocean

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
)

// obj is a JSON object of an answer.
type obj = map[string]any

// refusal is an error as the API tells it.
type refusal struct {
	status      int
	id, message string
}

func (e *refusal) Error() string { return e.message }

func notFound() error {
	return &refusal{http.StatusNotFound, "not_found", "The resource you were accessing could not be found."}
}

func unprocessable(format string, args ...any) error {
	return &refusal{http.StatusUnprocessableEntity, "unprocessable_entity", fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, "bad_request", fmt.Sprintf(format, args...)}
}

func forbidden(format string, args ...any) error {
	return &refusal{http.StatusForbidden, "forbidden", fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &refusal{http.StatusConflict, "conflict", fmt.Sprintf(format, args...)}
}

func pendingEvent(what string) error {
	return unprocessable("%s already has a pending event.", what)
}

// request is a call of the API, to be answered with c.mu held.
type request struct {
	*http.Request
	c     *Cloud
	token *token
}

// decode reads the body. Unknown fields are ignored, as by DigitalOcean.
func (q *request) decode(into any) error {
	b, err := io.ReadAll(q.Body)
	if err != nil {
		return badRequest("reading the body: %v", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return badRequest("Unable to parse the JSON body: %v", err)
	}
	return nil
}

// number is the integer in the path.
func (q *request) number(name string) (int, error) {
	n, err := strconv.Atoi(q.PathValue(name))
	if err != nil || n < 1 {
		return 0, notFound()
	}
	return n, nil
}

// need refuses who lacks a scope that the call's body asks for.
func (q *request) need(scope string) error {
	if !q.token.may(scope) {
		return forbidden("You are missing the required permission %s.", scope)
	}
	return nil
}

const maxPerPage = 200

// page answers the page of all that was asked for, with links and meta.
func (q *request) page(name string, all []obj) (any, error) {
	number := func(name string, otherwise, most int) (int, error) {
		s := q.URL.Query().Get(name)
		if s == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return 0, badRequest("%s must be a positive number, not %q.", name, s)
		}
		return min(n, most), nil
	}
	page, err := number("page", 1, 1<<30)
	if err != nil {
		return nil, err
	}
	per, err := number("per_page", 20, maxPerPage)
	if err != nil {
		return nil, err
	}
	last := max(1, (len(all)+per-1)/per)
	link := func(n int) string {
		v := maps.Clone(q.URL.Query())
		v.Set("page", strconv.Itoa(n))
		v.Set("per_page", strconv.Itoa(per))
		return q.c.url + q.URL.Path + "?" + v.Encode()
	}
	pages := obj{}
	if page > 1 {
		pages["first"], pages["prev"] = link(1), link(min(page-1, last))
	}
	if page < last {
		pages["next"], pages["last"] = link(page+1), link(last)
	}
	links := obj{}
	if len(pages) > 0 {
		links["pages"] = pages
	}
	from := min((page-1)*per, len(all))
	items := all[from:min(from+per, len(all))]
	if items == nil {
		items = []obj{}
	}
	return obj{name: items, "links": links, "meta": obj{"total": len(all)}}, nil
}

// token is an API token. Without scopes it may do everything.
type token struct {
	scopes []string
	calls  []time.Time // in the current window
}

func (t *token) may(scope string) bool {
	return scope == "" || t.scopes == nil || slices.Contains(t.scopes, scope)
}

// AddToken makes an API token with custom scopes ("droplet:create"); without any it may do everything.
func (c *Cloud) AddToken(scopes ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := "dop_v1_" + randomHex(32)
	c.tokens[s] = &token{scopes: scopes}
	return s
}

// RemoveToken makes a token invalid.
func (c *Cloud) RemoveToken(t string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tokens, t)
}

// SetRateLimit changes Options.RateLimit and RateWindow from now on.
func (c *Cloud) SetRateLimit(limit int, window time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.RateLimit, c.o.RateWindow = limit, window
}

// handler is the API: request id, description, faults, then what is real.
func (c *Cloud) handler() http.Handler {
	api := c.o.Plan.Handler(
		func(r *http.Request, _ []byte) fault.Call {
			return fault.Call{Service: "digitalocean", Action: r.Method + " " + r.URL.Path}
		},
		func(w http.ResponseWriter, r *http.Request, f fault.Fault) {
			switch f {
			case fault.Refuse:
				answerError(w, r, forbidden("You are not authorized to perform this operation"))
			case fault.Throttle:
				h := w.Header()
				h.Set("Retry-After", "1")
				h.Set("RateLimit-Limit", "5000")
				h.Set("RateLimit-Remaining", "0")
				h.Set("RateLimit-Reset", strconv.FormatInt(time.Now().Add(time.Second).Unix(), 10))
				answerError(w, r, tooMany())
			default:
				answerError(w, r, &refusal{http.StatusInternalServerError, "server_error", "Unexpected server-side error"})
			}
		},
		c.routes())
	checked := c.checked(api)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := uuid.NewString()
		r.Header.Set("X-Request-Id", id)
		w.Header().Set("X-Request-Id", id)
		checked.ServeHTTP(w, r)
	})
}

func tooMany() error {
	return &refusal{http.StatusTooManyRequests, "too_many_requests", "API rate limit exceeded."}
}

// routes is the mux of the table.
func (c *Cloud) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range table() {
		mux.Handle(r.method+" "+r.path, c.serve(r))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.violation("%s %s: the emulator has no such call", r.Method, r.URL.Path)
		answerError(w, r, &refusal{http.StatusNotImplemented, "not_implemented", "the emulator has no " + r.Method + " " + r.URL.Path})
	})
	return mux
}

func (c *Cloud) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		body, err := c.answer(w, r, rt)
		c.mu.Unlock()
		if err != nil {
			answerError(w, r, err)
			return
		}
		if body == nil {
			w.WriteHeader(rt.status)
			return
		}
		answerJSON(w, rt.status, body)
	})
}

func (c *Cloud) answer(w http.ResponseWriter, r *http.Request, rt route) (any, error) {
	if c.ctx.Err() != nil {
		return nil, &refusal{http.StatusServiceUnavailable, "service_unavailable", "the emulator is being closed"}
	}
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	t := c.tokens[secret]
	if !ok || t == nil {
		return nil, &refusal{http.StatusUnauthorized, "unauthorized", "Unable to authenticate you."}
	}
	if err := c.rate(w, t); err != nil {
		return nil, err
	}
	if !t.may(rt.scope) {
		return nil, forbidden("You are missing the required permission %s.", rt.scope)
	}
	return rt.do(&request{Request: r, c: c, token: t})
}

// rate counts a call and says in the headers what is left.
func (c *Cloud) rate(w http.ResponseWriter, t *token) error {
	now := time.Now()
	t.calls = slices.DeleteFunc(t.calls, func(at time.Time) bool { return now.Sub(at) >= c.o.RateWindow })
	limit := c.o.RateLimit
	if limit == 0 {
		limit = 5000
	}
	refused := c.o.RateLimit > 0 && len(t.calls) >= limit
	if !refused {
		t.calls = append(t.calls, now)
	}
	// The header has whole seconds: a caller that waits for them must not be early.
	reset := t.calls[0].Add(c.o.RateWindow + time.Second - 1)
	h := w.Header()
	h.Set("RateLimit-Limit", strconv.Itoa(limit))
	h.Set("RateLimit-Remaining", strconv.Itoa(max(0, limit-len(t.calls))))
	h.Set("RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10))
	if refused {
		h.Set("Retry-After", strconv.Itoa(max(1, int(time.Until(reset).Seconds()))))
		return tooMany()
	}
	return nil
}

func answerJSON(w http.ResponseWriter, status int, body any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // who has gone away wants no answer
}

func answerError(w http.ResponseWriter, r *http.Request, err error) {
	e := &refusal{http.StatusInternalServerError, "server_error", err.Error()}
	errors.As(err, &e)
	answerJSON(w, e.status, obj{"id": e.id, "message": e.message, "request_id": r.Header.Get("X-Request-Id")})
}

// flexible is a value that the API takes as a number or as a string.
type flexible string

func (f *flexible) UnmarshalJSON(b []byte) error {
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return err
	}
	switch v := v.(type) {
	case string:
		*f = flexible(v)
	case json.Number:
		*f = flexible(v.String())
	default:
		return fmt.Errorf("a number or a string is wanted, not %s", b)
	}
	return nil
}
