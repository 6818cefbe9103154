package rollouttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/ingotbuild/ingot/rollouts"
)

// Journal is a rollouts.Journal in memory. The zero value is ready for use.
type Journal struct {
	mu     sync.Mutex
	docs   map[string]entry
	events []string
	before func(event string) error
	after  func(event string) error
}

type entry struct {
	doc json.RawMessage
	rev int64
}

// Hook makes every save call before, which can refuse it, and after, which can
// fail it although it has happened. Either may be nil.
func (j *Journal) Hook(before, after func(event string) error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.before, j.after = before, after
}

// Events returns what has been noted so far, oldest first.
func (j *Journal) Events() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

// LoadService implements rollouts.Journal.
func (j *Journal) LoadService(_ context.Context, name string) (json.RawMessage, int64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.docs[name]
	return slices.Clone(e.doc), e.rev, nil
}

// SaveService implements rollouts.Journal.
func (j *Journal) SaveService(_ context.Context, name string, doc json.RawMessage, rev int64, event string) (int64, error) {
	j.mu.Lock()
	before, after := j.before, j.after
	j.mu.Unlock()
	if before != nil {
		if err := before(event); err != nil {
			return 0, err
		}
	}
	rev, err := j.save(name, doc, rev, event)
	if err == nil && after != nil {
		err = after(event)
	}
	return rev, err
}

func (j *Journal) save(name string, doc json.RawMessage, rev int64, event string) (int64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if now := j.docs[name].rev; now != rev {
		return 0, fmt.Errorf("service %s is at revision %d, not %d", name, now, rev)
	}
	if j.docs == nil {
		j.docs = map[string]entry{}
	}
	j.docs[name] = entry{slices.Clone(doc), rev + 1}
	j.events = append(j.events, event)
	return rev + 1, nil
}

// Listener is a net.Listener whose connections are pipes within the process.
type Listener struct {
	name   string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Listen makes a Listener.
func Listen(name string) *Listener {
	return &Listener{name: name, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to l. It fails once l is closed.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	select { // a closed listener never wins against a waiting Accept
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: l.Addr(), Err: errors.New("connection refused")}
	default:
	}
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: l.Addr(), Err: errors.New("connection refused")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return pipeAddr(l.name) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

// Launcher launches HTTP servers within the process. The zero value is ready
// for use; every instance then answers with its version.
type Launcher struct {
	mu       sync.Mutex
	running  map[string]*Instance
	handlers map[string]func(*Instance) http.Handler
	failures map[string]error
	launched int
	most     int
}

// Handle makes the instances of version that are launched from now on serve
// what handler returns.
func (l *Launcher) Handle(version string, handler func(*Instance) http.Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.handlers == nil {
		l.handlers = map[string]func(*Instance) http.Handler{}
	}
	l.handlers[version] = handler
}

// Fail makes launches of version fail with err; nil: succeed again.
func (l *Launcher) Fail(version string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failures == nil {
		l.failures = map[string]error{}
	}
	l.failures[version] = err
}

// Running returns the instances that run, ordered by name.
func (l *Launcher) Running() []*Instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.running), func(a, b *Instance) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
}

// Versions returns the versions of the instances that run, in the order of
// their names, parted by spaces.
func (l *Launcher) Versions() string {
	var vs []string
	for _, in := range l.Running() {
		vs = append(vs, in.Spec.Version)
	}
	return strings.Join(vs, " ")
}

// Most returns the largest number of instances that ever ran at once.
func (l *Launcher) Most() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most
}

// Launch implements rollouts.Launcher.
func (l *Launcher) Launch(ctx context.Context, spec rollouts.InstanceSpec) (rollouts.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failures[spec.Version]; err != nil {
		return nil, err
	}
	if left := l.running[spec.Name]; left != nil {
		left.end(errors.New("replaced"))
		delete(l.running, spec.Name)
	}
	l.launched++
	in := &Instance{Spec: spec, id: fmt.Sprintf("%s#%d", spec.Name, l.launched), from: l, l: Listen(spec.Name), done: make(chan struct{})}
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, spec.Version) })
	if make := l.handlers[spec.Version]; make != nil {
		h = make(in)
	}
	in.srv = &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go in.srv.Serve(in.l)
	if l.running == nil {
		l.running = map[string]*Instance{}
	}
	l.running[spec.Name] = in
	l.most = max(l.most, len(l.running))
	return in, nil
}

// Instance is what Launcher launches.
type Instance struct {
	Spec rollouts.InstanceSpec
	id   string
	from *Launcher
	l    *Listener
	srv  *http.Server
	once sync.Once
	done chan struct{}
	err  error
}

// ID implements rollouts.Instance.
func (in *Instance) ID() string { return in.id }

// Dial implements rollouts.Instance.
func (in *Instance) Dial(ctx context.Context) (net.Conn, error) { return in.l.Dial(ctx) }

// Done implements rollouts.Instance.
func (in *Instance) Done() <-chan struct{} { return in.done }

// Err implements rollouts.Instance.
func (in *Instance) Err() error {
	select {
	case <-in.done:
		return in.err
	default:
		return nil
	}
}

// Stop implements rollouts.Instance.
func (in *Instance) Stop(context.Context) error { in.gone(nil); return nil }

// Kill makes the instance die: its connections break.
func (in *Instance) Kill() { in.gone(errors.New("killed")) }

func (in *Instance) gone(err error) {
	in.from.mu.Lock()
	if in.from.running[in.Spec.Name] == in {
		delete(in.from.running, in.Spec.Name)
	}
	in.from.mu.Unlock()
	in.end(err)
}

func (in *Instance) end(err error) {
	in.once.Do(func() {
		in.err = err
		in.l.Close()
		in.srv.Close()
		close(in.done)
	})
}
