package docloud

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/internal/config"
)

// Shared is what all bakes of a process share: one session for each account,
// so that they wait together.
type Shared struct {
	tempo Tempo

	mu       sync.Mutex
	sessions map[[sha256.Size]byte]*Session
}

// NewShared makes what the components of one process share.
func NewShared(t Tempo) *Shared {
	return &Shared{tempo: t, sessions: map[[sha256.Size]byte]*Session{}}
}

// Session talks to DigitalOcean with one token. It is safe for concurrent use.
type Session struct {
	// API is DigitalOcean's own client.
	API *godo.Client

	settled
	tempo     Tempo
	transport *transport
	droplets  watch[*godo.Droplet]
	actions   watch[*godo.Action]

	mu    sync.Mutex
	facts map[string]*fact
}

// fact is something asked for once.
type fact struct {
	mu    sync.Mutex
	known bool
	at    time.Time
	value any
}

// Connect makes a session, or gives the one that is there. It does not call
// the API.
func (s *Shared) Connect(a *Access) (*Session, error) {
	set, ps := a.settle(true)
	if err := firstError(ps); err != nil {
		return nil, err
	}
	return s.session(set), nil
}

func firstError(ps []config.Problem) error {
	for _, p := range ps {
		if !p.Warning {
			return errors.New(strings.TrimRight(p.Summary+". "+p.Detail, ". "))
		}
	}
	return nil
}

func (s *Shared) session(set settled) *Session {
	key := sha256.Sum256([]byte(fmt.Sprint(set.url, "\n", set.token, "\n", set.retryMax, set.waitMin, set.waitMax, set.timeout, set.throttle)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.sessions[key]; old != nil {
		return old
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxIdleConnsPerHost = 64
	if Loopback(set.url) {
		base.Proxy = nil
	}
	t := &transport{settled: set, next: base, tempo: s.tempo}
	client := godo.NewClient(&http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token goes nowhere else
	}})
	client.BaseURL, client.UserAgent = set.url, "ingot "+client.UserAgent
	n := &Session{API: client, settled: set, tempo: s.tempo, transport: t, facts: map[string]*fact{}}
	n.droplets = watch[*godo.Droplet]{one: n.droplet, many: n.someDroplets}
	n.actions = watch[*godo.Action]{one: n.action, many: n.someActions}
	s.sessions[key] = n
	return n
}

// URL is where the API is.
func (s *Session) URL() *url.URL { return s.url }

// Calls is how many calls the session has made.
func (s *Session) Calls() int {
	s.transport.mu.Lock()
	defer s.transport.mu.Unlock()
	return s.transport.calls
}

// Account is the account's id; empty when the token may not know.
func (s *Session) Account(ctx context.Context) (string, error) {
	v, err := s.fact(ctx, "account", time.Hour, func(ctx context.Context) (any, error) {
		a, _, err := s.API.Account.Get(ctx)
		switch {
		case Status(err) == http.StatusForbidden:
			return "", nil
		case err != nil:
			return nil, err
		case a.Team != nil && a.Team.UUID != "":
			return a.Team.UUID, nil
		}
		return a.UUID, nil
	})
	if err != nil {
		return "", err
	}
	return v.(string), nil
}

// fact asks once for what does not change soon, however many want to know.
func (s *Session) fact(ctx context.Context, name string, lasts time.Duration, ask func(context.Context) (any, error)) (any, error) {
	s.mu.Lock()
	f := s.facts[name]
	if f == nil {
		f = &fact{}
		s.facts[name] = f
	}
	s.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known && time.Since(f.at) < lasts {
		return f.value, nil
	}
	v, err := ask(ctx)
	if err == nil {
		f.value, f.known, f.at = v, true, time.Now()
	}
	return v, err
}

// Ref says how to reach the account of a session again, from another process.
// It has no secrets.
type Ref struct {
	URL     string `json:"api_url"`
	Token   string `json:"token"`             // env:NAME, doctl:CONTEXT or template
	Account string `json:"account,omitempty"` // empty: not known
}

// Ref says how to reach the session's account again.
func (s *Session) Ref(ctx context.Context) (Ref, error) {
	id, err := s.Account(ctx)
	return Ref{URL: s.url.String(), Token: s.source, Account: id}, err
}

// Again makes a session with the account of ref, whose token it looks for where
// it was.
func (s *Shared) Again(ctx context.Context, ref Ref) (*Session, error) {
	s.mu.Lock()
	for _, old := range s.sessions {
		old.mu.Lock()
		f := old.facts["account"]
		old.mu.Unlock()
		if old.url.String() == ref.URL && old.source == ref.Token && f != nil {
			f.mu.Lock()
			same := f.known && f.value == ref.Account
			f.mu.Unlock()
			if same {
				s.mu.Unlock()
				return old, nil
			}
		}
	}
	s.mu.Unlock()
	a := &Access{APIURL: ref.URL}
	if name, ok := strings.CutPrefix(ref.Token, "env:"); ok {
		a.APIToken = os.Getenv(name)
	} else if name, ok := strings.CutPrefix(ref.Token, "doctl:"); ok && name != "" {
		if _, _, err := doctl(name); err == nil {
			a.DoctlContext = name
		}
	}
	n, err := s.Connect(a)
	if err != nil {
		if ref.Token == "template" {
			err = fmt.Errorf("%w (the bake had its token from the template, which is not kept)", err)
		}
		return nil, err
	}
	if ref.Account == "" {
		return n, nil
	}
	id, err := n.Account(ctx)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask whose the token is: %w", err)
	case id == "":
		return nil, fmt.Errorf("the token from %s may not read its account, so that it cannot be told whether it is the one of the bake (%s): give it account:read", n.source, ref.Account)
	case id != ref.Account:
		return nil, fmt.Errorf("the token from %s is of account %s, and the bake was in %s: set DIGITALOCEAN_TOKEN to a token of that account", n.source, id, ref.Account)
	}
	return n, nil
}

// Data puts ref into a lease's data.
func (r Ref) Data(data map[string]string) map[string]string {
	data["api_url"], data["token"], data["account"] = r.URL, r.Token, r.Account
	return data
}

// RefOf reads what Data has put there.
func RefOf(data map[string]string) Ref {
	return Ref{URL: data["api_url"], Token: data["token"], Account: data["account"]}
}

// page is the largest that the API gives.
const page = 200

// Pages asks for all pages of a list.
func Pages[T any](ctx context.Context, list func(context.Context, *godo.ListOptions) ([]T, *godo.Response, error)) ([]T, error) {
	var all []T
	for n := 1; ; n++ {
		some, resp, err := list(ctx, &godo.ListOptions{Page: n, PerPage: page})
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if len(some) == 0 || resp == nil || resp.Links == nil || resp.Links.IsLastPage() {
			return all, nil
		}
	}
}

// Droplet is the droplet after wait at the latest.
func (s *Session) Droplet(ctx context.Context, id int, wait time.Duration) (*godo.Droplet, error) {
	return s.droplets.look(ctx, id, wait)
}

// Action is the action after wait at the latest.
func (s *Session) Action(ctx context.Context, id int, wait time.Duration) (*godo.Action, error) {
	return s.actions.look(ctx, id, wait)
}

func (s *Session) droplet(ctx context.Context, id int) (*godo.Droplet, error) {
	d, _, err := s.API.Droplets.Get(ctx, id)
	return d, err
}

// someDroplets lists one page; who is not on it is asked for alone.
func (s *Session) someDroplets(ctx context.Context, ids []int) (map[int]*godo.Droplet, error) {
	all, _, err := s.API.Droplets.List(ctx, &godo.ListOptions{PerPage: page})
	if err != nil {
		return nil, err
	}
	return pick(all, ids, func(d *godo.Droplet) int { return d.ID }), nil
}

func (s *Session) action(ctx context.Context, id int) (*godo.Action, error) {
	a, _, err := s.API.Actions.Get(ctx, id)
	return a, err
}

// someActions lists the account's newest actions.
func (s *Session) someActions(ctx context.Context, ids []int) (map[int]*godo.Action, error) {
	all, _, err := s.API.Actions.List(ctx, &godo.ListOptions{PerPage: page})
	if err != nil {
		return nil, err
	}
	return pick(all, ids, func(a *godo.Action) int { return a.ID }), nil
}

func pick[T any](all []T, ids []int, id func(*T) int) map[int]*T {
	wanted := map[int]bool{}
	for _, i := range ids {
		wanted[i] = true
	}
	found := map[int]*T{}
	for i := range all {
		if it := &all[i]; wanted[id(it)] {
			found[id(it)] = it
		}
	}
	return found
}

// ActionError says that an action has failed.
type ActionError struct{ Action godo.Action }

func (e *ActionError) Error() string {
	a := e.Action
	s := fmt.Sprintf("DigitalOcean says that the action %q (%d) on %s %d has errored", a.Type, a.ID, a.ResourceType, a.ResourceID)
	if a.RegionSlug != "" {
		s += " in " + a.RegionSlug
	}
	if a.StartedAt != nil {
		s += ", begun at " + a.StartedAt.UTC().Format(time.RFC3339)
	}
	if a.CompletedAt != nil {
		s += ", ended at " + a.CompletedAt.UTC().Format(time.RFC3339)
	}
	return s
}

// Completed waits for an action. A new action may not be found for a moment.
func (s *Session) Completed(ctx context.Context, id int, w Wait) error {
	start := time.Now()
	return s.Until(ctx, w, func(ctx context.Context, wait time.Duration) (bool, error) {
		a, err := s.Action(ctx, id, wait)
		switch {
		case NotFound(err) && s.Young(start):
			return false, Later(err)
		case err != nil:
			return false, err
		case a.Status == "errored":
			return false, &ActionError{*a}
		}
		return a.Status == godo.ActionCompleted, nil
	})
}

// Young says whether something made at that time may not be found yet.
func (s *Session) Young(made time.Time) bool { return time.Since(made) < 4*s.Settle() }

// MayHeal says whether the API refuses something only because a resource is
// busy, or was made just before start.
func (s *Session) MayHeal(err error, start time.Time) bool {
	return Busy(err) || (NotFound(err) || Pending(err)) && s.Young(start)
}

// IDOf reads an id that a ledger has.
func IDOf(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is no id of DigitalOcean", text)
	}
	return n, nil
}

// Close gives up idle connections.
func (s *Session) Close() { s.transport.next.(*http.Transport).CloseIdleConnections() }

// Do makes a call that godo has no method for.
func (s *Session) Do(ctx context.Context, method, path string, body, into any) error {
	req, err := s.API.NewRequest(ctx, method, path, body)
	if err != nil {
		return err
	}
	if into == nil {
		into = io.Discard
	}
	_, err = s.API.Do(ctx, req, into)
	return err
}

// Source says in words where the token was found.
func (s *Session) Source() string {
	if name, ok := strings.CutPrefix(s.source, "env:"); ok {
		return name + " in the environment"
	}
	if name, ok := strings.CutPrefix(s.source, "doctl:"); ok {
		return fmt.Sprintf("doctl's context %q", name)
	}
	return "the template"
}
