package rollouts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingotbuild/ingot/rollouts/proxy"
)

const (
	// unhealthyAfter consecutive failed checks take an instance out of traffic;
	// one may be a hiccup.
	unhealthyAfter = 2
	// Back-off between relaunches. It starts anew once an instance has lived backoffMax.
	backoffMin, backoffMax = 100 * time.Millisecond, 10 * time.Second
	// stopTimeout bounds one attempt to stop an instance.
	stopTimeout = 30 * time.Second
	// healthBody is how much of a health check's answer is read.
	healthBody = 64 << 10
)

// fleetDoc is what the journal keeps of a fleet.
type fleetDoc struct {
	Color    string `json:"color"`
	Version  string `json:"version"`
	Digest   string `json:"digest"`
	Image    string `json:"image"`
	Replicas int    `json:"replicas"`
}

func (f fleetDoc) String() string { return f.Version + " (" + f.Color + ")" }

// fleet keeps a fixed number of instances running and checked until stop.
type fleet struct {
	doc    fleetDoc
	health Health
	launch Launcher
	traf   *proxy.Fleet
	note   func(warning bool, text string)
	notify func()

	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards slots' fields
	slots []*slot
	// failures counts failed launches, deaths, and health lost.
	failures int
	lastErr  string
}

type slot struct {
	spec   InstanceSpec
	inst   Instance
	member *proxy.Member
	fails  int
	err    string
}

// newFleet starts launching. note must not block; notify is called after every change.
func newFleet(ctx context.Context, service string, doc fleetDoc, cfg Config, l Launcher, note func(bool, string), notify func()) *fleet {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleet{doc: doc, health: cfg.Health, launch: l, note: note, notify: notify, cancel: cancel}
	f.traf = proxy.NewFleet(doc.String(), notify)
	for i := range doc.Replicas {
		s := &slot{spec: InstanceSpec{
			Service: service, Color: doc.Color, Index: i,
			Image: doc.Image, Version: doc.Version, Digest: doc.Digest,
			Name: fmt.Sprintf("%s-%s-%s-%d", service, doc.Color, doc.Version, i),
			Port: cfg.Port,
		}}
		f.slots = append(f.slots, s)
		f.wg.Go(func() { f.keep(ctx, s) })
	}
	return f
}

// stop ends every instance and returns when none is left.
func (f *fleet) stop() {
	f.cancel()
	f.wg.Wait()
}

func (f *fleet) healthy() int { return f.traf.Healthy() }
func (f *fleet) full() bool   { return f.healthy() >= f.doc.Replicas }

// confirm checks every instance now, as what the last checks saw may be over.
func (f *fleet) confirm(ctx context.Context) bool {
	var insts []Instance
	f.mu.Lock()
	for _, s := range f.slots {
		if s.inst != nil {
			insts = append(insts, s.inst)
		}
	}
	f.mu.Unlock()
	var wg sync.WaitGroup
	var passed atomic.Int64
	for _, in := range insts {
		wg.Go(func() {
			if f.probe(ctx, in) == nil {
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	return int(passed.Load()) == f.doc.Replicas
}

// trouble returns the number of failures so far and the last one.
func (f *fleet) trouble() (int, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures, f.lastErr
}

func (f *fleet) failed(s *slot, err string) {
	f.mu.Lock()
	s.fails++
	s.err = err
	f.failures++
	f.lastErr = err
	f.mu.Unlock()
	f.notify()
}

// keep runs one instance after another in s until ctx ends.
func (f *fleet) keep(ctx context.Context, s *slot) {
	backoff := backoffMin
	for {
		started := time.Now()
		err := f.run(ctx, s)
		if ctx.Err() != nil {
			return
		}
		text := fmt.Sprintf("%s: %v", s.spec.Name, err)
		f.failed(s, text)
		if time.Since(started) >= backoffMax {
			backoff = backoffMin
		}
		wait := backoff/2 + rand.N(backoff)
		f.note(true, fmt.Sprintf("%s; launching it again in %v", text, wait.Round(time.Millisecond)))
		if !sleep(ctx, wait) {
			return
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// run launches one instance, checks it until it ends or ctx does, and leaves
// nothing of it.
func (f *fleet) run(ctx context.Context, s *slot) error {
	lctx, cancel := context.WithTimeout(ctx, f.health.Deadline)
	inst, err := f.launch.Launch(lctx, s.spec)
	cancel()
	if err != nil {
		return fmt.Errorf("launching: %w", err)
	}
	m := f.traf.Add(inst)
	f.mu.Lock()
	s.inst, s.member = inst, m
	f.mu.Unlock()
	f.notify()

	f.check(ctx, s, inst, m)

	f.traf.Remove(m)
	f.mu.Lock()
	s.inst, s.member = nil, nil
	f.mu.Unlock()
	died := errors.New("the instance ended by itself")
	if err := inst.Err(); err != nil {
		died = fmt.Errorf("the instance died: %w", err)
	}
	for {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		err := inst.Stop(sctx)
		cancel()
		if err == nil {
			return died
		}
		f.note(true, fmt.Sprintf("%s: stopping the instance: %v", s.spec.Name, err))
		// The next one has the same name, so this one has to go first; but a
		// supervisor that is to end must end.
		if !sleep(ctx, backoffMax) {
			return err
		}
	}
}

// check asks the instance until it ends or ctx does, and sets its health.
func (f *fleet) check(ctx context.Context, s *slot, inst Instance, m *proxy.Member) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a check under way ends with the instance
		select {
		case <-inst.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	passed, missed := 0, 0
	for {
		err := f.probe(ctx, inst)
		if ctx.Err() != nil {
			return
		}
		was := passed >= f.health.HealthyAfter
		if was && !m.Healthy() { // the proxy could not reach it
			passed = 0
			f.lost(s, "a request could not reach the instance")
			was = false
		}
		if err == nil {
			passed, missed = passed+1, 0
			if passed == f.health.HealthyAfter {
				m.SetHealthy(true)
			}
		} else {
			missed++
			f.mu.Lock()
			s.err = fmt.Sprintf("%s: health check: %v", s.spec.Name, err)
			f.mu.Unlock()
			if !was {
				passed = 0
			} else if missed >= unhealthyAfter {
				passed = 0
				m.SetHealthy(false)
				f.lost(s, "health check: "+err.Error())
			}
		}
		if !sleep(ctx, f.health.Interval) {
			return
		}
	}
}

// lost notes that an instance in good health is so no more.
func (f *fleet) lost(s *slot, why string) {
	text := s.spec.Name + ": " + why
	f.mu.Lock()
	f.failures++
	f.lastErr, s.err = text, text
	f.mu.Unlock()
	f.note(true, text)
	f.notify()
}

// probe makes one health check.
func (f *fleet) probe(ctx context.Context, inst Instance) error {
	ctx, cancel := context.WithTimeout(ctx, f.health.Timeout)
	defer cancel()
	t := http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return inst.Dial(ctx) },
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+f.health.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "ingot-health")
	resp, err := t.RoundTrip(req) // a redirect is an answer like any other
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, healthBody))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if want := f.health.Status; want != 0 && resp.StatusCode != want {
		return fmt.Errorf("GET %s answered %d, not %d", f.health.Path, resp.StatusCode, want)
	} else if want == 0 && (resp.StatusCode < 200 || resp.StatusCode > 299) {
		return fmt.Errorf("GET %s answered %d, not 200 to 299", f.health.Path, resp.StatusCode)
	}
	if !bytes.Contains(body, []byte(f.health.Contains)) {
		return fmt.Errorf("the answer to GET %s does not contain %q", f.health.Path, f.health.Contains)
	}
	return nil
}

func (f *fleet) status(inTraffic bool) *FleetStatus {
	st := f.doc.status()
	st.InTraffic = inTraffic
	st.Healthy = f.healthy()
	st.Requests, st.Failures = f.traf.Counts()
	st.InFlight = f.traf.InFlight()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slots {
		is := InstanceStatus{Name: s.spec.Name, Failures: s.fails, LastError: s.err}
		if s.inst != nil {
			is.ID, is.Healthy = s.inst.ID(), s.member.Healthy()
		}
		st.Instances = append(st.Instances, is)
	}
	return st
}

// why says what keeps the fleet from being healthy, as far as that is known.
func (f *fleet) why() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slots {
		if s.err != "" && (s.member == nil || !s.member.Healthy()) {
			return ": " + s.err
		}
	}
	return ""
}

func (f fleetDoc) status() *FleetStatus {
	return &FleetStatus{Color: f.Color, Version: f.Version, Digest: f.Digest, Replicas: f.Replicas}
}

// sleep waits for d; it returns false at once when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
