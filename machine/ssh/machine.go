package sshmachine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

// Machine is a machine that is reached by SSH.
type Machine struct {
	cfg      Config
	checkers []*checker // one for each hop
	dialing  chan struct{}
	slots    slots
	life     context.Context // ends with Close
	end      context.CancelFunc
	work     sync.WaitGroup // tunnels

	mu     sync.Mutex
	cur    *link // nil before the first
	at     Hop   // the machine, as it was found
	closed bool

	about  about
	noSFTP atomic.Bool  // the machine is known to have none
	away   atomic.Int64 // the shortest round trip that was seen, in nanoseconds
}

var _ machine.Machine = (*Machine)(nil)

// Dial connects to the machine and asks it what it is. Errors that time may
// heal are tried again for cfg.Timeout; all others end it at once: a host key
// that is not accepted (*HostKeyError), a refused login (*AuthError).
func Dial(ctx context.Context, cfg Config) (*Machine, error) {
	if len(cfg.Hops) == 0 {
		return nil, errors.New("there is no host to connect to")
	}
	m := &Machine{cfg: cfg, dialing: make(chan struct{}, 1), slots: slots{most: maxSessions}}
	m.life, m.end = context.WithCancel(context.Background())
	for _, h := range cfg.Hops {
		c, err := newChecker(h.HostKeys)
		if err != nil {
			return nil, err
		}
		m.checkers = append(m.checkers, c)
	}
	err := m.start(ctx)
	if err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context) error {
	if _, err := m.live(ctx); err != nil {
		return err
	}
	if err := m.probe(ctx); err != nil {
		return fmt.Errorf("%s takes the login, but not commands: %w", m.Hop(), err)
	}
	return m.localTunnels()
}

// Hop is where the machine was found.
func (m *Machine) Hop() Hop {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

// Platform implements machine.Machine.
func (m *Machine) Platform() machine.Platform { return m.about.Platform }

// Close implements machine.Machine. Commands that run lose their connection.
func (m *Machine) Close() error {
	m.end()
	m.mu.Lock()
	cur := m.cur
	m.closed = true
	m.mu.Unlock()
	if cur != nil {
		cur.close()
	}
	m.work.Wait()
	return nil
}

// maxSessions is what sshd allows on one connection unless it is told otherwise.
const maxSessions = 10

// slots bound the sessions of a connection. The bound sinks when the server
// refuses one.
type slots struct {
	mu      sync.Mutex
	most    int
	used    int
	waiting []chan struct{}
}

func (s *slots) take(ctx context.Context) error {
	s.mu.Lock()
	if s.used < s.most {
		s.used++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	s.waiting = append(s.waiting, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.waiting, turn)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 { // the turn came at the same time
		s.give()
	}
	return ctx.Err()
}

// try takes a slot if one is free.
func (s *slots) try() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used >= s.most || len(s.waiting) > 0 {
		return false
	}
	s.used++
	return true
}

func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.wake()
}

func (s *slots) wake() {
	for len(s.waiting) > 0 && s.used < s.most {
		s.used++
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
	}
}

// takeSoon is take, but raises a bound that has sunk when nothing becomes free
// within patience: a server may refuse a session only because it has not yet
// noticed the end of another, and one command may wait for what another does.
func (s *slots) takeSoon(ctx context.Context, patience time.Duration) error {
	for {
		wait, cancel := context.WithTimeout(ctx, patience)
		err := s.take(wait)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.mu.Lock()
		if s.used < maxSessions {
			s.used++
			s.most = max(s.most, s.used)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
	}
}

// refused gives a slot back for which the server had no session, and says how
// many it has at most.
func (s *slots) refused() (others int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.most = min(s.most, max(s.used, 1))
	return s.used
}

// channel is one session on the machine, and the slot it takes.
type channel struct {
	ssh.Channel
	reqs <-chan *ssh.Request
	link *link
	once sync.Once
	give func()
}

// free closes the channel and gives its slot back.
func (c *channel) free() {
	c.once.Do(func() {
		c.Close()
		go ssh.DiscardRequests(c.reqs)
		c.give()
	})
}

// busyPatience is how long a server may refuse the only session that is asked
// for: it may not have noticed the end of the one before.
const busyPatience = 10 * time.Second

// session opens a session, and connects anew where the connection has ended.
func (m *Machine) session(ctx context.Context) (*channel, error) {
	var busy time.Time
	delay := 10 * time.Millisecond
	patience := 250 * time.Millisecond
	for lost := 0; ; {
		if err := m.slots.takeSoon(ctx, patience); err != nil {
			return nil, err
		}
		l, err := m.live(ctx)
		if err != nil {
			m.slots.give()
			return nil, err
		}
		c, err := m.open(ctx, l)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			m.slots.give()
			return nil, ctx.Err()
		}
		refused, ok := errors.AsType[*ssh.OpenChannelError](err)
		if !ok {
			m.slots.give()
			l.Client.Close() // a connection that cannot do this is none
			if lost++; lost > 3 {
				return nil, fmt.Errorf("open a session: %w", err)
			}
			continue
		}
		if m.slots.refused() > 0 {
			patience = min(2*patience, 10*time.Second)
			continue // once one of the others has ended
		}
		if busy.IsZero() {
			busy = time.Now()
		} else if time.Since(busy) > busyPatience {
			return nil, fmt.Errorf("the machine allows no session: %w (MaxSessions of its sshd?)", refused)
		}
		if err := pause(ctx, delay); err != nil {
			return nil, err
		}
		delay = min(2*delay, time.Second)
	}
}

// open opens a session on a slot that was taken.
func (m *Machine) open(ctx context.Context, l *link) (*channel, error) {
	type result struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	done := make(chan result, 1)
	go func() {
		start := time.Now()
		ch, reqs, err := l.OpenChannel("session", nil)
		if err == nil {
			m.seen(time.Since(start))
		}
		done <- result{ch, reqs, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return &channel{Channel: r.ch, reqs: r.reqs, link: l, give: m.slots.give}, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.ch.Close()
				ssh.DiscardRequests(r.reqs)
			}
		}()
		return nil, ctx.Err()
	}
}
