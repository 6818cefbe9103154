package docloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/internal/config"
)

// nobody clears the environment of all that tells of an account.
func nobody(t *testing.T) (home string) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "DIGITALOCEAN_") {
			t.Setenv(name, "")
		}
	}
	home = t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	return home
}

func doctlConfig(t *testing.T, home, text string) {
	t.Helper()
	dir := filepath.Join(home, "doctl")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const contexts = "access-token: first\nauth-contexts:\n  team: second\n  empty: \"\"\ncontext: team\n"

func TestToken(t *testing.T) {
	for name, test := range map[string]struct {
		env           map[string]string
		doctl         string
		access        Access
		token, source string
		problem       string
	}{
		"nothing":               {problem: "api_token"},
		"template":              {access: Access{APIToken: "x"}, token: "x", source: "template"},
		"order":                 {env: map[string]string{"DIGITALOCEAN_TOKEN": "a", "DIGITALOCEAN_ACCESS_TOKEN": "b", "DIGITALOCEAN_API_TOKEN": "c"}, token: "a", source: "env:DIGITALOCEAN_TOKEN"},
		"second":                {env: map[string]string{"DIGITALOCEAN_ACCESS_TOKEN": "b", "DIGITALOCEAN_API_TOKEN": "c"}, token: "b", source: "env:DIGITALOCEAN_ACCESS_TOKEN"},
		"template's env":        {env: map[string]string{"DIGITALOCEAN_ACCESS_TOKEN": "b"}, access: Access{APIToken: "b"}, token: "b", source: "env:DIGITALOCEAN_ACCESS_TOKEN"},
		"doctl":                 {doctl: contexts, token: "second", source: "doctl:team"},
		"doctl's default":       {doctl: "access-token: first\n", token: "first", source: "doctl:default"},
		"doctl's by env":        {doctl: contexts, env: map[string]string{"DIGITALOCEAN_CONTEXT": "default"}, token: "first", source: "doctl:default"},
		"doctl's by name":       {doctl: contexts, env: map[string]string{"DIGITALOCEAN_TOKEN": "a"}, access: Access{DoctlContext: "team"}, token: "second", source: "doctl:team"},
		"template's is doctl's": {doctl: contexts, access: Access{APIToken: "second"}, token: "second", source: "doctl:team"},
		"no such context":       {doctl: contexts, access: Access{DoctlContext: "other"}, problem: "doctl_context"},
		"empty context":         {doctl: contexts, access: Access{DoctlContext: "empty"}, problem: "doctl_context"},
		"both":                  {doctl: contexts, access: Access{DoctlContext: "team", APIToken: "x"}, problem: "doctl_context"},
		"no yaml":               {doctl: "access-token: [secret", problem: "api_token"},
		"no token":              {access: Access{APIToken: "a b"}, problem: "api_token"},
	} {
		t.Run(name, func(t *testing.T) {
			home := nobody(t)
			for k, v := range test.env {
				t.Setenv(k, v)
			}
			if test.doctl != "" {
				doctlConfig(t, home, test.doctl)
			}
			s, ps := test.access.settle(true)
			if test.problem != "" {
				i := slices.IndexFunc(ps, func(p config.Problem) bool { return p.Option == test.problem && !p.Warning })
				if i < 0 {
					t.Fatalf("%+v, want a problem with %s", ps, test.problem)
				}
				if strings.Contains(ps[i].Summary+ps[i].Detail, "secret") {
					t.Errorf("the text has the token in it: %+v", ps[i])
				}
				return
			}
			if firstError(ps) != nil || s.token != test.token || s.source != test.source {
				t.Errorf("%q from %s, %+v; want %q from %s", s.token, s.source, ps, test.token, test.source)
			}
		})
	}
}

func TestAccess(t *testing.T) {
	nobody(t)
	n, f := -1, -0.5
	for option, a := range map[string]Access{
		"api_url":             {APIURL: "ftp://x"},
		"http_retry_max":      {HTTPRetryMax: &n},
		"http_retry_wait_max": {HTTPRetryWaitMax: &f},
		"http_timeout":        {HTTPTimeout: -1},
		"throttle_timeout":    {ThrottleTimeout: -1},
	} {
		if ps := a.Check(false); len(ps) != 1 || ps[0].Option != option {
			t.Errorf("%s: %+v", option, ps)
		}
	}
	for _, u := range []string{"http://api.example.com", "http://10.0.0.1/", "https://user:pw@api.example.com", "https://api.example.com?x=y", "x"} {
		if ps := (&Access{APIURL: u}).Check(false); len(ps) != 1 || ps[0].Option != "api_url" {
			t.Errorf("%s: %+v", u, ps)
		}
	}
	for _, u := range []string{"http://127.0.0.1:1", "http://[::1]:1/x", "http://localhost/", "https://api.example.com/do"} {
		if ps := (&Access{APIURL: u}).Check(false); len(ps) > 0 {
			t.Errorf("%s: %+v", u, ps)
		}
	}
	t.Setenv("DIGITALOCEAN_HTTP_RETRY_MAX", "7")
	t.Setenv("DIGITALOCEAN_HTTP_RETRY_WAIT_MIN", "0.5")
	t.Setenv("DIGITALOCEAN_HTTP_RETRY_WAIT_MAX", "many")
	t.Setenv("DIGITALOCEAN_API_URL", "https://api.example.com/do")
	s, ps := (&Access{}).settle(false)
	if s.retryMax != 7 || s.waitMin != time.Second/2 || s.url.String() != "https://api.example.com/do/" {
		t.Errorf("%+v", s)
	}
	if len(ps) != 1 || ps[0].Option != "http_retry_wait_max" {
		t.Errorf("%+v", ps)
	}
}

// api is a server that answers as f says.
func api(t *testing.T, f http.HandlerFunc) *Session {
	t.Helper()
	nobody(t)
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	least, most := 0.001, 0.002
	s, err := NewShared(Tempo{Scale: 1000}).Connect(&Access{APIURL: srv.URL, APIToken: "tok", HTTPRetryWaitMin: &least, HTTPRetryWaitMax: &most, HTTPTimeout: time.Minute, ThrottleTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who has gone wants no answer
}

func TestTriesAgain(t *testing.T) {
	for name, test := range map[string]struct {
		method string
		repeat bool
		status int
		cut    bool
		calls  int32
	}{
		"GET after 500":         {method: "GET", status: 500, calls: 3},
		"GET after a cut":       {method: "GET", cut: true, calls: 3},
		"DELETE after 503":      {method: "DELETE", status: 503, calls: 3},
		"POST after 500":        {method: "POST", status: 500, calls: 1},
		"POST after a cut":      {method: "POST", cut: true, calls: 1},
		"POST after 429":        {method: "POST", status: 429, calls: 3},
		"repeatable POST":       {method: "POST", status: 500, repeat: true, calls: 3},
		"GET after a refusal":   {method: "GET", status: 403, calls: 1},
		"POST after 422":        {method: "POST", status: 422, calls: 1},
		"redirects go nowhere":  {method: "GET", status: 307, calls: 1},
		"DELETE after 429 once": {method: "DELETE", status: 429, calls: 3},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			s := api(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer tok" {
					t.Error("a call without the token")
				}
				if calls.Add(1) > 2 {
					answer(w, 200, map[string]any{})
					return
				}
				if test.cut {
					panic(http.ErrAbortHandler)
				}
				if test.status == 429 {
					w.Header().Set("Retry-After", "0")
				}
				w.Header().Set("Location", "http://127.0.0.1:1/")
				answer(w, test.status, map[string]any{"message": "no"})
			})
			ctx := t.Context()
			if test.repeat {
				ctx = Repeatable(ctx)
			}
			err := s.Do(ctx, test.method, "v2/x", nil, nil)
			if calls.Load() != test.calls {
				t.Errorf("%d calls, want %d; %v", calls.Load(), test.calls, err)
			}
			if (err == nil) != (test.calls == 3) {
				t.Error(err)
			}
		})
	}
}

func TestThrottled(t *testing.T) {
	// A wait that ends after the context is not begun.
	s := api(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("RateLimit-Reset", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10))
		answer(w, 429, map[string]any{"message": "too many"})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := s.Do(ctx, "GET", "v2/x", nil, nil); Status(err) != 429 {
		t.Error(err)
	}
	// Everyone waits for the time that one is told.
	var calls, early atomic.Int32
	var until atomic.Int64
	s = api(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			until.Store(time.Now().Add(time.Second).UnixNano())
			w.Header().Set("Retry-After", "1")
			answer(w, 429, map[string]any{})
			return
		}
		if time.Now().UnixNano() < until.Load() {
			early.Add(1)
		}
		answer(w, 200, map[string]any{})
	})
	if err := s.Do(t.Context(), "GET", "v2/first", nil, nil); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := s.Do(t.Context(), "GET", "v2/other", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if early.Load() > 0 {
		t.Errorf("%d calls before they were allowed", early.Load())
	}
}

func TestStrain(t *testing.T) {
	tr := &transport{}
	for _, test := range []struct {
		limit, left string
		want        float64
	}{{"", "", 1}, {"5000", "4999", 1}, {"5000", "2000", 2}, {"5000", "1000", 4}, {"x", "0", 4}, {"0", "0", 4}, {"5000", "0", 8}, {"5000", "5000", 1}} {
		tr.note(http.Header{"Ratelimit-Limit": {test.limit}, "Ratelimit-Remaining": {test.left}})
		if got := tr.strain(); got != test.want {
			t.Errorf("%s of %s left: %v, want %v", test.left, test.limit, got, test.want)
		}
	}
}

func TestHangs(t *testing.T) {
	nobody(t)
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		answer(w, 200, map[string]any{})
	}))
	defer srv.Close()
	least := 0.001
	s, err := NewShared(Tempo{}).Connect(&Access{APIURL: srv.URL, APIToken: "tok", HTTPTimeout: 300 * time.Millisecond, HTTPRetryWaitMin: &least})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// A busy machine may be late with an answer, too, which is then asked for once more.
	if err := s.Do(t.Context(), "GET", "v2/x", nil, nil); err != nil || calls.Load() < 2 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

// TestWaitTogether: who waits for droplets asks for all of them with one call.
func TestWaitTogether(t *testing.T) {
	var lists, gets atomic.Int32
	var mu sync.Mutex
	looks := map[int]int{}
	view := func(id int) map[string]any {
		mu.Lock()
		defer mu.Unlock()
		looks[id]++
		status := "new"
		if looks[id] > 5 {
			status = "active"
		}
		return map[string]any{"id": id, "status": status}
	}
	s := api(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/droplets" {
			lists.Add(1)
			var all []any
			for id := 1; id <= 20; id++ {
				all = append(all, view(id))
			}
			answer(w, 200, map[string]any{"droplets": all})
			return
		}
		gets.Add(1)
		id, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/v2/droplets/"))
		if id == 99 { // one that nobody knows does not disturb the others
			answer(w, 404, map[string]any{"message": "not found"})
			return
		}
		answer(w, 200, map[string]any{"droplet": view(id)})
	})
	s.tempo = Tempo{Scale: 50}
	var wg sync.WaitGroup
	for id := 1; id <= 20; id++ {
		wg.Go(func() {
			err := s.Until(t.Context(), Wait{What: "it", Option: "x", Timeout: time.Minute}, func(ctx context.Context, wait time.Duration) (bool, error) {
				d, err := s.Droplet(ctx, id, wait)
				return err == nil && d.Status == "active", err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if _, err := s.Droplet(t.Context(), 99, 0); !NotFound(err) {
			t.Error(err)
		}
	})
	wg.Wait()
	// Each alone would have looked 6 times.
	if n := lists.Load() + gets.Load(); n > 60 || lists.Load() == 0 {
		t.Errorf("%d lists and %d single looks for 20 droplets", lists.Load(), gets.Load())
	}
	// Nobody waits: nothing runs.
	s.droplets.mu.Lock()
	defer s.droplets.mu.Unlock()
	if len(s.droplets.waiting) > 0 {
		t.Errorf("%d still wait", len(s.droplets.waiting))
	}
}

func TestWatchGivesUp(t *testing.T) {
	asked, ended := make(chan struct{}), make(chan struct{})
	w := watch[int]{one: func(ctx context.Context, _ int) (int, error) {
		close(asked)
		<-ctx.Done()
		close(ended)
		return 0, ctx.Err()
	}}
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("over")
	go func() {
		<-asked
		cancel(over)
	}()
	if _, err := w.look(ctx, 1, 0); !errors.Is(err, over) {
		t.Error(err)
	}
	<-ended // the call has been stopped
}

func TestUntil(t *testing.T) {
	s := &Session{tempo: Tempo{Scale: 1000}, transport: &transport{}}
	w := Wait{What: "the moon", Option: "moon_timeout", Timeout: 50 * time.Millisecond}
	err := s.Until(t.Context(), w, func(ctx context.Context, wait time.Duration) (bool, error) {
		_ = s.Pause(ctx, wait)
		return false, Later(errors.New("it is behind a cloud"))
	})
	over, ok := errors.AsType[*TimeoutError](err)
	if !ok || !strings.Contains(err.Error(), "moon_timeout") || !strings.Contains(err.Error(), "the moon") || !strings.Contains(err.Error(), "cloud") || over.Timeout != w.Timeout {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	err = s.Until(ctx, Wait{Timeout: time.Hour}, func(context.Context, time.Duration) (bool, error) { cancel(stop); return false, nil })
	if !errors.Is(err, stop) {
		t.Error(err)
	}
	final := errors.New("final")
	if err := s.Until(t.Context(), Wait{Timeout: time.Hour}, func(context.Context, time.Duration) (bool, error) { return false, final }); err != final {
		t.Error(err)
	}
}

func TestImages(t *testing.T) {
	images := []map[string]any{
		{"id": 1, "name": "web", "created_at": "2026-01-01T00:00:00Z", "regions": []string{"nyc3"}, "tags": []string{"prod"}, "status": "available"},
		{"id": 2, "name": "web", "created_at": "2026-03-01T00:00:00Z", "regions": []string{"nyc3"}, "status": "available"},
		{"id": 3, "name": "web", "created_at": "2026-02-01T00:00:00Z", "regions": []string{"fra1"}, "tags": []string{"Prod"}, "status": "available"},
		{"id": 4, "name": "web2", "created_at": "2026-05-01T00:00:00Z", "regions": []string{"nyc3"}, "status": "available"},
		{"id": 5, "name": "web", "created_at": "2026-06-01T00:00:00Z", "regions": []string{"nyc3"}, "status": "pending"},
		{"id": 6, "name": "public", "created_at": "2026-06-01T00:00:00Z", "regions": []string{"nyc3"}, "tags": []string{"prod"}, "public": true, "status": "available"},
	}
	s := api(t, func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		from := min((page-1)*4, len(images))
		links := map[string]any{}
		if from+4 < len(images) {
			links = map[string]any{"pages": map[string]any{"next": "http://x/?page=2", "last": "http://x/?page=2"}}
		}
		answer(w, 200, map[string]any{"images": images[from:min(from+4, len(images))], "links": links})
	})
	ids := func(q ImageQuery) (ids []int) {
		t.Helper()
		found, err := s.Images(t.Context(), q)
		if err != nil {
			t.Error(err)
		}
		for _, i := range found {
			ids = append(ids, i.ID)
		}
		return ids
	}
	for want, q := range map[string]ImageQuery{
		"[2 3 1]": {Name: "web"},
		"[2 1]":   {Name: "web", Region: "nyc3", Type: "user"},
		"[3 1]":   {Tag: "prod", Type: "user"},
		"[]":      {Name: "nothing"},
	} {
		if got := fmt.Sprint(ids(q)); got != want {
			t.Errorf("%+v: %s, want %s", q, got, want)
		}
	}
}

// TestFacts: what does not change is asked for once, however many want to know.
func TestFacts(t *testing.T) {
	var calls atomic.Int32
	s := api(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			answer(w, 403, map[string]any{"message": "no"}) // what failed is asked for again
			return
		}
		answer(w, 200, map[string]any{"sizes": []any{map[string]any{"slug": "s"}}})
	})
	if _, err := s.Sizes(t.Context()); Status(err) != 403 {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if z, err := s.Sizes(t.Context()); err != nil || len(z) != 1 {
				t.Errorf("%v, %v", z, err)
			}
		})
	}
	wg.Wait()
	if calls.Load() != 2 {
		t.Errorf("%d calls", calls.Load())
	}
}

func TestAgain(t *testing.T) {
	nobody(t)
	account := "one"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer blind" {
			answer(w, 403, map[string]any{"message": "no"})
			return
		}
		answer(w, 200, map[string]any{"account": map[string]any{"uuid": account}})
	}))
	defer srv.Close()
	t.Setenv("DIGITALOCEAN_TOKEN", "tok")
	s, err := NewShared(Tempo{}).Connect(&Access{APIURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := s.Ref(t.Context())
	if err != nil || ref.Token != "env:DIGITALOCEAN_TOKEN" || ref.Account != "one" {
		t.Fatalf("%+v, %v", ref, err)
	}
	if got := RefOf(ref.Data(map[string]string{})); got != ref {
		t.Errorf("%+v", got)
	}
	if _, err := NewShared(Tempo{}).Again(t.Context(), ref); err != nil {
		t.Error(err)
	}
	account = "two"
	if _, err := NewShared(Tempo{}).Again(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "two") {
		t.Error(err)
	}
	t.Setenv("DIGITALOCEAN_TOKEN", "blind")
	if _, err := NewShared(Tempo{}).Again(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "account:read") {
		t.Error(err)
	}
	t.Setenv("DIGITALOCEAN_TOKEN", "")
	if _, err := NewShared(Tempo{}).Again(t.Context(), ref); err == nil || strings.Contains(err.Error(), "tok\"") {
		t.Error(err)
	}
}

// TestOnce: what may have been made by a call without an answer is looked for,
// and not taken for refused.
func TestOnce(t *testing.T) {
	s := &Session{tempo: Tempo{Scale: 1000}, transport: &transport{}}
	u := httptest.NewRequest("POST", "/", nil)
	refused := &godo.ErrorResponse{Response: &http.Response{StatusCode: 422, Request: u}, Message: "no"}
	lost := &url.Error{Op: "Post", URL: "x", Err: errors.New("reset")}
	nowhere := func(context.Context) (int, bool, error) { return 0, false, nil }
	for name, test := range map[string]struct {
		answers []error // of one call after another; nil: made
		find    func(context.Context) (int, bool, error)
		calls   int
		made    bool
		nothing bool
	}{
		"at once":            {answers: []error{nil}, calls: 1, made: true},
		"refused":            {answers: []error{refused}, calls: 1, nothing: true},
		"lost, and there":    {answers: []error{lost}, find: func(context.Context) (int, bool, error) { return 7, true, nil }, calls: 1, made: true},
		"lost, made anew":    {answers: []error{lost, nil}, calls: 2, made: true},
		"lost, then refused": {answers: []error{lost, refused}, calls: 2},
		"lost for good":      {answers: []error{lost, lost, lost}, calls: 3},
		"not to be found":    {answers: []error{lost}, find: func(context.Context) (int, bool, error) { return 0, false, lost }, calls: 1},
		"too late":           {answers: []error{&TimeoutError{What: "x"}}, calls: 1},
	} {
		calls := 0
		find := test.find
		if find == nil {
			find = nowhere
		}
		got, err := Once(t.Context(), s, func(context.Context) (int, error) {
			calls++
			return 7, test.answers[calls-1]
		}, find)
		if calls != test.calls || (err == nil) != test.made || test.made && got != 7 || Nothing(err) != test.nothing {
			t.Errorf("%s: %d after %d calls, %v", name, got, calls, err)
		}
	}
}

func TestBusy(t *testing.T) {
	u := httptest.NewRequest("POST", "/", nil)
	e := func(status int, text string) error {
		return &godo.ErrorResponse{Response: &http.Response{StatusCode: status, Request: u}, Message: text}
	}
	if !Busy(e(422, "Droplet already has a pending event.")) || Busy(e(422, "Name is too long")) || Busy(e(500, "pending")) {
		t.Error("busy is not told from wrong")
	}
	if !Refused(e(422, "")) || Refused(e(429, "")) || Refused(e(500, "")) || Refused(errors.New("x")) {
		t.Error("refused")
	}
}

func TestTags(t *testing.T) {
	for _, tag := range []string{"a", "env:prod", "A-b_9", strings.Repeat("x", 255)} {
		if err := CheckTag(tag); err != nil {
			t.Error(err)
		}
	}
	for _, tag := range []string{"", "a.b", "a b", "ä", "a\n", strings.Repeat("x", 256)} {
		if CheckTag(tag) == nil {
			t.Errorf("%q is taken for a tag", tag)
		}
	}
}

// A template with a placeholder for a token can be validated, and not baked.
func TestPlaceholderToken(t *testing.T) {
	a := Access{APIToken: "YOUR API KEY"}
	if _, ps := a.settle(false); len(ps) > 0 {
		t.Errorf("without need of a token: %+v", ps)
	}
	if _, ps := a.settle(true); firstError(ps) == nil {
		t.Error("the placeholder is taken for a token")
	}
}
