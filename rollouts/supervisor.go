package rollouts

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/rollouts/proxy"
)

// SupervisorOptions is what a Supervisor works with.
type SupervisorOptions struct {
	// Name is the service's name: lower-case letters, digits and "-", "_", ".",
	// at most 63.
	Name     string
	Config   Config
	Launcher Launcher
	Journal  Journal
	// Listener is where the proxy takes requests. Nil: Serve opens
	// Config.Listen. Serve closes it.
	Listener net.Listener
	// Events receives what is said to clients, too. Nil: nobody.
	Events event.Sink
}

// Supervisor owns one service: see the package's comment. Make it with
// NewSupervisor and call Serve once.
type Supervisor struct {
	opt    SupervisorOptions
	scope  event.Scope
	proxy  *proxy.Proxy
	writer string
	ready  chan struct{} // closed when operations may begin
	gone   chan struct{} // closed when no instance is left

	// Set by Serve before ready is closed.
	ctx  context.Context // ends when the supervisor is to stop
	stop context.CancelFunc

	ops sync.WaitGroup // operations, and expire

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil when nobody waits
	ending  bool          // no operation may begin
	st      state
	rev     int64
	fleets  map[string]*fleet // by colour
	op      *operation        // the current or last one
}

// operation is something asked for that takes time.
type operation struct {
	name    string
	updates []Update
	done    bool
}

// maxUpdates bounds what an operation keeps for its clients.
const maxUpdates = 1000

// NewSupervisor makes a supervisor that has not started anything.
func NewSupervisor(opt SupervisorOptions) *Supervisor {
	s := &Supervisor{
		opt:    opt,
		scope:  event.Scope{Sink: opt.Events, Step: "rollout " + opt.Name},
		writer: rand.Text(),
		ready:  make(chan struct{}),
		gone:   make(chan struct{}),
		fleets: map[string]*fleet{},
	}
	s.proxy = proxy.New(log.New(s.scope.Lines("stderr"), "", 0))
	return s
}

var serviceName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Serve brings the live version of the journal up, puts the proxy before it,
// takes orders on control, and goes on with what an earlier supervisor left
// unfinished. It returns when a client asked to stop or ctx ended, after
// draining and stopping every instance; or with an error when it cannot begin
// or a listener breaks. It closes control. The journal keeps what was under
// way, and the next supervisor goes on with it.
func (s *Supervisor) Serve(ctx context.Context, control net.Listener) error {
	s.ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	front, err := s.open()
	if err != nil {
		control.Close()
		return err
	}

	broken := make(chan error, 2)
	ctl := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	srv := s.proxy.Server()
	var servers sync.WaitGroup
	serve := func(what string, h *http.Server, l net.Listener) {
		servers.Go(func() {
			if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				broken <- fmt.Errorf("service %s: %s: %w", s.opt.Name, what, err)
				s.stop()
			}
		})
	}
	serve("the control socket", ctl, control)

	s.revive()
	serve("the proxy on "+front.Addr().String(), srv, front)
	s.resume()
	close(s.ready)
	s.ops.Go(s.expire)

	<-s.ctx.Done()
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.ops.Wait()
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opt.Config.Drain)
	if srv.Shutdown(dctx) != nil {
		srv.Close()
	}
	cancel()
	var fleets sync.WaitGroup
	for _, f := range s.fleets { // no operation is left that could change it
		fleets.Go(f.stop)
	}
	fleets.Wait()
	close(s.gone)
	dctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if ctl.Shutdown(dctx) != nil {
		ctl.Close()
	}
	servers.Wait()
	select {
	case err := <-broken:
		return err
	default:
		return nil
	}
}

// open checks the options, reads the journal, opens the proxy's listener and
// claims the service by a first write.
func (s *Supervisor) open() (front net.Listener, err error) {
	defer func() {
		if err != nil {
			if front == nil {
				front = s.opt.Listener
			}
			if front != nil {
				front.Close()
			}
		}
	}()
	if !serviceName.MatchString(s.opt.Name) {
		return nil, fmt.Errorf("service %q: a name has 1 to 63 lower-case letters, digits, dots, dashes and underscores, and starts with a letter or digit", s.opt.Name)
	}
	if ps := s.opt.Config.Check(); len(ps) > 0 {
		return nil, fmt.Errorf("service %s: option %s: %s %s", s.opt.Name, ps[0].Option, ps[0].Summary, ps[0].Detail)
	}
	st, rev, err := s.load(s.ctx)
	if err != nil {
		return nil, err
	}
	s.st, s.rev = st, rev
	if front = s.opt.Listener; front == nil {
		addr := s.opt.Config.Listen
		host, port, _ := net.SplitHostPort(addr) // Check has seen it
		if oldHost, _, err := net.SplitHostPort(st.Address); port == "0" && st.Config.Listen == addr && err == nil && (host == "" || host == oldHost) {
			_, port, _ = net.SplitHostPort(st.Address)
			addr = net.JoinHostPort(host, port)
		}
		front, err = (&net.ListenConfig{}).Listen(s.ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("service %s: opening the proxy's port: %w; free it or change the rollout block's listen", s.opt.Name, err)
		}
	}
	err = s.commit(s.ctx, "supervisor started", func(st *state) {
		st.Config = s.opt.Config
		st.Address = front.Addr().String()
		if st.Live != nil && st.Live.Replicas != s.opt.Config.Replicas {
			live := *st.Live
			live.Replicas = s.opt.Config.Replicas
			st.Live = &live
		}
	})
	return front, err
}

// revive launches the live version again and waits until it can take traffic.
func (s *Supervisor) revive() {
	live := s.state().Live
	if live == nil {
		return
	}
	f := s.ensure(*live)
	if err := s.route(f, nil, 0); err != nil {
		s.say(true, err.Error())
	}
	if err := s.awaitFull(s.ctx, f); err != nil && s.ctx.Err() == nil {
		s.say(true, fmt.Sprintf("%v; it stays in traffic as there is no other, and is launched again and again", err))
	}
}

// resume goes on with what the journal says is unfinished.
func (s *Supervisor) resume() {
	st := s.state()
	if st.Phase.resting() {
		return
	}
	var name string
	var do func(context.Context) error
	switch {
	case st.Phase == PhaseRollingBack && st.Back:
		name, do = "going back to "+st.Next.String(), s.back
	case st.Phase == PhaseRollingBack:
		name = "the roll-back from " + st.Next.String()
		do = func(ctx context.Context) error { return s.rolledBack(ctx, st.Reason) }
	case st.Phase == PhaseDraining && st.Back:
		name, do = "going back to "+st.Live.String(), s.wentBack
	case st.Phase == PhaseDraining:
		name, do = "the rollout of "+st.Live.String(), s.hold
	default:
		name = "the rollout of " + st.Next.String()
		do = func(ctx context.Context) error {
			return s.forward(ctx, "starting again after the supervisor ended while "+string(st.Phase))
		}
	}
	if op, err := s.begin(name, nil); err == nil { // else it is to stop already
		s.spawn(op, do)
	}
}

// expire retires the old fleet when it has been kept long enough.
func (s *Supervisor) expire() {
	for s.ctx.Err() == nil {
		changed := s.changes()
		st := s.state()
		wait := time.Until(st.OldUntil)
		if st.Old == nil || st.OldUntil.IsZero() {
			wait = time.Hour
		} else if wait <= 0 {
			op, err := s.begin("retiring "+st.Old.String(), s.mayRetire)
			if err == nil {
				s.end(op, s.retire(s.ctx))
				continue
			}
			wait = time.Minute
			changed = nil // what refused it may change many times a second
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-t.C:
		case <-s.ctx.Done():
		}
		t.Stop()
	}
}

// begin makes a new operation the current one, unless one is running or admit
// has an objection. Whoever began must end it.
func (s *Supervisor) begin(name string, admit func(state) error) (*operation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.op != nil && !s.op.done {
		return nil, &BusyError{Running: s.op.name}
	}
	if s.ending || s.ctx.Err() != nil {
		return nil, errors.New("refused: the supervisor is stopping")
	}
	if admit != nil {
		if err := admit(s.st); err != nil {
			return nil, err
		}
	}
	s.op = &operation{name: name}
	s.ops.Add(1)
	return s.op, nil
}

func (s *Supervisor) spawn(op *operation, do func(context.Context) error) {
	go func() { s.end(op, do(s.ctx)) }()
}

func (s *Supervisor) end(op *operation, err error) {
	s.mu.Lock()
	u := Update{Time: time.Now(), Phase: s.st.Phase, Text: op.name + " has ended", Done: true}
	if err != nil {
		u.Error = err.Error()
		u.Warning = true
		if s.ctx.Err() != nil {
			u.Error = fmt.Sprintf("the supervisor was stopped during %s (%s); the next one goes on with it", op.name, s.st.Phase)
		}
	}
	op.updates = append(op.updates, u)
	op.done = true
	s.mu.Unlock()
	s.emit(u)
	s.notify()
	s.ops.Done()
}

// say reports text to whoever watches.
func (s *Supervisor) say(warning bool, text string) {
	s.mu.Lock()
	u := Update{Time: time.Now(), Phase: s.st.Phase, Text: text, Warning: warning}
	if op := s.op; op != nil && !op.done && len(op.updates) < maxUpdates {
		op.updates = append(op.updates, u)
	}
	s.mu.Unlock()
	s.emit(u)
	s.notify()
}

func (s *Supervisor) emit(u Update) {
	if u.Warning {
		s.scope.Warn(cmp.Or(u.Error, u.Text))
	} else {
		s.scope.Say(u.Text)
	}
}

func (s *Supervisor) state() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st
}

func (s *Supervisor) revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

func (s *Supervisor) become(st state, rev int64, text string) {
	s.mu.Lock()
	s.st, s.rev = st, rev
	s.mu.Unlock()
	s.say(false, text)
}

// changes returns a channel that is closed at the next change of anything.
func (s *Supervisor) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func (s *Supervisor) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// status is what the control API tells.
func (s *Supervisor) status() Status {
	table := s.proxy.Table()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Service: s.opt.Name, Address: s.st.Address, Phase: s.st.Phase, Reason: s.st.Reason,
		OldUntil: s.st.OldUntil, Rev: s.rev,
	}
	select {
	case <-s.ready:
		if s.op != nil && !s.op.done {
			st.Running = s.op.name
		}
	default:
		st.Running = "the start of the supervisor"
	}
	of := func(d *fleetDoc) *FleetStatus {
		if d == nil {
			return nil
		}
		if f := s.fleets[d.Color]; f != nil && f.doc == *d {
			return f.status(table.Live == f.traf)
		}
		return d.status()
	}
	st.Live, st.Next, st.Old = of(s.st.Live), of(s.st.Next), of(s.st.Old)
	return st
}
