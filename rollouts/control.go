package rollouts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// maxSocketPath is what every supported system allows for a unix socket's path.
const maxSocketPath = 103

// ListenControl opens the unix socket on which a supervisor takes orders. The
// socket gets mode 0600. Its directory must have mode 0700 and is made if it is
// missing. A socket that nobody answers on is replaced; it is an error if
// somebody does.
func ListenControl(path string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("opening the control socket %s: %w", path, err)
	}
	if len(path) > maxSocketPath {
		return fail(fmt.Errorf("its path is %d bytes long and systems allow %d; choose a shorter directory", len(path), maxSocketPath))
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	// The directory keeps others out also between Listen and Chmod.
	if fi, err := os.Stat(dir); err != nil {
		return fail(err)
	} else if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("directory %s has mode %#o and lets others in; it must have 0700", dir, fi.Mode().Perm()))
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return fail(errors.New("something that is no socket stands there; remove it"))
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return fail(errors.New("a supervisor is running there"))
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fail(err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fail(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fail(err)
	}
	return l, nil
}

// refusal is the body of an answer that is not 200.
type refusal struct {
	Error string `json:"error"`
	// Running is set when the refusal is a BusyError.
	Running string `json:"running,omitempty"`
}

func (s *Supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, s.status()) })
	mux.HandleFunc("POST /v1/start", func(w http.ResponseWriter, r *http.Request) {
		var t Target
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&t); err != nil {
			answer(w, http.StatusBadRequest, refusal{Error: "reading the target: " + err.Error()})
			return
		}
		s.operate(w, r, func() (*operation, error) { return s.start(t) })
	})
	mux.HandleFunc("POST /v1/back", func(w http.ResponseWriter, r *http.Request) { s.operate(w, r, s.startBack) })
	mux.HandleFunc("POST /v1/retire", func(w http.ResponseWriter, r *http.Request) { s.operate(w, r, s.startRetire) })
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		s.stop()
		select {
		case <-s.gone:
			answer(w, http.StatusOK, struct{}{})
		case <-r.Context().Done():
		}
	})
	return mux
}

// operate starts an operation and streams its updates, one JSON object a line.
// A client that goes away does not end the operation.
func (s *Supervisor) operate(w http.ResponseWriter, r *http.Request, start func() (*operation, error)) {
	select {
	case <-s.ready: // until then the live version is being brought up
	case <-r.Context().Done():
		return
	}
	op, err := start()
	if err != nil {
		ref := refusal{Error: err.Error()}
		var busy *BusyError
		if errors.As(err, &busy) {
			ref.Running = busy.Running
		}
		answer(w, http.StatusConflict, ref)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for sent := 0; ; {
		changed := s.changes()
		s.mu.Lock()
		updates, done := op.updates[sent:], op.done
		s.mu.Unlock()
		for _, u := range updates {
			if enc.Encode(u) != nil {
				return
			}
		}
		sent += len(updates)
		if err := http.NewResponseController(w).Flush(); err != nil || done {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that has gone away needs no answer
}

// Client talks to a supervisor. It is safe for concurrent use.
type Client struct{ http *http.Client }

// Dial connects to the supervisor at a control socket. It fails when nobody
// answers there.
func Dial(socketPath string) (*Client, error) {
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socketPath)
	}
	c, err := dial(context.Background())
	if err != nil {
		return nil, fmt.Errorf("no supervisor answers at %s: %w", socketPath, err)
	}
	c.Close()
	return NewClient(dial), nil
}

// NewClient makes a client of a supervisor that dial connects to.
func NewClient(dial func(ctx context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true, // few calls, and nothing to close afterwards
	}}}
}

// Start rolls target out, calls progress for every update, and returns at the
// end: nil when target is live (also when it was already, which an update says),
// *OutcomeError when it was rolled back or failed, *BusyError when another
// operation is running. When ctx ends, the rollout goes on without the client.
func (c *Client) Start(ctx context.Context, target Target, progress func(Update)) error {
	return c.operate(ctx, "start", target, progress)
}

// Back gives the traffic back to the old version, if it is kept and healthy,
// and stops the present one. Errors are those of Start.
func (c *Client) Back(ctx context.Context, progress func(Update)) error {
	return c.operate(ctx, "back", struct{}{}, progress)
}

// Retire stops the old version before its time. Errors are those of Start.
func (c *Client) Retire(ctx context.Context) error {
	return c.operate(ctx, "retire", struct{}{}, func(Update) {})
}

// Status asks what the service is and does.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	resp, err := c.call(ctx, http.MethodGet, "status", nil)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
		return st, fmt.Errorf("reading the supervisor's status: %w", err)
	}
	return st, nil
}

// Stop ends the supervisor and all its machines; it returns when they are gone.
// A rollout under way goes on when the next supervisor starts.
func (c *Client) Stop(ctx context.Context) error {
	resp, err := c.call(ctx, http.MethodPost, "stop", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *Client) operate(ctx context.Context, verb string, body any, progress func(Update)) error {
	resp, err := c.call(ctx, http.MethodPost, verb, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var u Update
		if err := d.Decode(&u); err != nil {
			return fmt.Errorf("the supervisor went away; ask for the status once it is back: %w", err)
		}
		if progress != nil {
			progress(u)
		}
		if u.Done {
			if u.Error != "" {
				return &OutcomeError{Phase: u.Phase, Reason: u.Error}
			}
			return nil
		}
	}
}

// call makes one request; a status other than 200 is an error.
func (c *Client) call(ctx context.Context, method, verb string, body any) (*http.Response, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor/v1/"+verb, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the supervisor: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var ref refusal
	if err := json.NewDecoder(resp.Body).Decode(&ref); err != nil {
		return nil, fmt.Errorf("the supervisor answered %s", resp.Status)
	}
	if ref.Running != "" {
		return nil, &BusyError{Running: ref.Running}
	}
	return nil, errors.New(ref.Error)
}
