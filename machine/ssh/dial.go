package sshmachine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const (
	dialTimeout      = 15 * time.Second
	freshDialTimeout = 2 * time.Second // at first
	handshakeTimeout = time.Minute
	defaultTimeout   = 5 * time.Minute
	defaultKeepAlive = 5 * time.Second
	// firstDelay and maxDelay are between attempts, authDelay between logins.
	firstDelay = 100 * time.Millisecond
	maxDelay   = 3 * time.Second
	authDelay  = 5 * time.Second
	// freshDelay takes the place of maxDelay for as long as a machine that boots is
	// likely to take, freshTime.
	freshDelay = 300 * time.Millisecond
	freshTime  = 2 * time.Minute
)

// link is one connection to the machine, with those to the bastions before it.
type link struct {
	*ssh.Client
	before []*ssh.Client
	gone   chan struct{} // closed when the connection has ended
	broken atomic.Bool   // nothing more comes; true before any session notices
	used   sync.WaitGroup
}

// heard notes in broken that its connection has come to an end.
type heard struct {
	net.Conn
	broken *atomic.Bool
}

func (h heard) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if err != nil {
		h.broken.Store(true)
	}
	return n, err
}

func (l *link) close() {
	l.Client.Close()
	for i := len(l.before) - 1; i >= 0; i-- {
		l.before[i].Close()
	}
	<-l.gone
	l.used.Wait()
}

// alive says that the connection has not ended, as far as one knows.
func (l *link) alive() bool {
	select {
	case <-l.gone:
		return false
	default:
		return true
	}
}

// why says what kind of wait may heal an error of connecting.
type why int

const (
	never why = iota // a refusal that will be repeated
	soon             // the machine is not there yet
	login            // the machine refuses the login
)

// dial connects, and tries again while that may heal. again says that it was
// connected before: what refuses a login then is a machine that goes down or up.
func (m *Machine) dial(ctx context.Context, again bool) (*link, error) {
	timeout := m.cfg.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	until := time.Now().Add(timeout)
	limited, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	var (
		last     error
		said     string
		refusals int
		counted  time.Time
		waits    = map[why]time.Duration{soon: firstDelay, login: firstDelay}
	)
	limit := map[why]time.Duration{soon: maxDelay, login: authDelay}
	patience := dialTimeout
	for start := time.Now(); ; {
		if m.cfg.Fresh {
			// What nobody answers is sent again by the kernel, after one second, two, four:
			// a machine that comes up meanwhile is found later than by another attempt.
			waited := time.Since(start)
			patience = min(max(waited/4, freshDialTimeout), dialTimeout)
			if limit[soon] = maxDelay; waited < freshTime {
				limit[soon] = freshDelay
			}
		}
		l, err := m.dialOnce(limited, patience)
		if err == nil {
			return l, nil
		}
		if ctx.Err() == nil && limited.Err() == nil || last == nil {
			last = err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w, while the machine could not be reached: %w", ctx.Err(), last)
		}
		kind := m.classify(err, again)
		if kind == login {
			if now := time.Now(); now.Sub(counted) >= 5*time.Second {
				refusals, counted = refusals+1, now
			}
			if n := m.cfg.HandshakeAttempts; n > 0 && refusals >= n && !again {
				return nil, fmt.Errorf("%w; that was refused login %d of ssh_handshake_attempts", last, refusals)
			}
		}
		if kind == never && limited.Err() == nil {
			return nil, err
		}
		delay := waits[kind]
		waits[kind] = min(2*delay, limit[kind])
		// Machines that boot side by side are not to knock side by side.
		delay = delay/2 + rand.N(delay)
		if time.Until(until) <= delay {
			return nil, fmt.Errorf("the machine could not be reached within %s (%v): %w", cmp.Or(m.cfg.TimeoutOption, "ssh_timeout"), timeout, last)
		}
		if text := last.Error(); kind == login && text != said {
			said = text
			m.cfg.Events.Say("Waiting for the machine to take the login: " + text)
		}
		_ = pause(ctx, delay) // the next attempt fails where it has ended
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// classify tells what may heal from what will not.
func (m *Machine) classify(err error, again bool) why {
	if auth, ok := errors.AsType[*AuthError](err); ok {
		if !auth.Bastion && (m.cfg.Fresh || again || m.cfg.HandshakeAttempts > 0) {
			return login
		}
		return never
	}
	if _, ok := errors.AsType[*HostKeyError](err); ok {
		return never
	}
	if _, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok {
		return never
	}
	if _, ok := errors.AsType[proxyError](err); ok {
		return never
	}
	if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok { // of a bastion
		if open.Reason == ssh.Prohibited || open.Reason == ssh.UnknownChannelType {
			return never
		}
		return soon
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound && !m.cfg.Fresh && !again {
			return never
		}
		return soon
	}
	if errors.Is(err, ErrNotYet) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return soon
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return soon
	}
	for _, errno := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPIPE, syscall.EADDRNOTAVAIL,
	} {
		if errors.Is(err, errno) {
			return soon
		}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "read" || op.Op == "write" || op.Timeout()) {
		return soon
	}
	// The SOCKS library has only words for what its server says.
	for _, sign := range []string{"connection refused", "host unreachable", "network unreachable", "TTL expired", "general SOCKS server failure", "Bad Gateway", "Service Unavailable", "Gateway Timeout", "Exceeded MaxStartups", "connection lost"} {
		if strings.Contains(err.Error(), sign) {
			return soon
		}
	}
	return never
}

// dialOnce connects through all hops, and waits that long for each to be reached.
func (m *Machine) dialOnce(ctx context.Context, patience time.Duration) (_ *link, err error) {
	hops := append([]Hop(nil), m.cfg.Hops...)
	last := len(hops) - 1
	if m.cfg.Address != nil {
		host, port, err := m.cfg.Address(ctx)
		if err != nil {
			return nil, err
		}
		hops[last].Host = host
		if port != 0 {
			hops[last].Port = port
		}
	}
	l := &link{gone: make(chan struct{})}
	defer func() {
		if err != nil {
			for i := len(l.before) - 1; i >= 0; i-- {
				l.before[i].Close()
			}
		}
	}()
	for i, h := range hops {
		c, err := m.hop(ctx, l, i, h, i < last, patience)
		if err != nil {
			return nil, err
		}
		if i < last {
			l.before = append(l.before, c)
		} else {
			l.Client = c
		}
	}
	go func() {
		_ = l.Wait() // why it ended is told by what was under way
		close(l.gone)
	}()
	m.mu.Lock()
	m.at = hops[last]
	m.mu.Unlock()
	return l, nil
}

// hop connects to one server, through the one before it if there is one.
func (m *Machine) hop(ctx context.Context, l *link, i int, h Hop, bastion bool, patience time.Duration) (*ssh.Client, error) {
	where := h.Address()
	fail := func(err error) error {
		if bastion {
			return fmt.Errorf("connect to the bastion %s: %w", where, err)
		}
		return fmt.Errorf("connect to %s: %w", where, err)
	}
	dialCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var conn net.Conn
	var err error
	switch {
	case i > 0:
		conn, err = l.before[i-1].DialContext(dialCtx, "tcp", where)
	case m.cfg.Proxy != nil:
		conn, err = m.cfg.Proxy.dial(dialCtx, where)
	default:
		var d net.Dialer
		conn, err = d.DialContext(dialCtx, "tcp", where)
	}
	if err != nil {
		return nil, fail(err)
	}
	if m.cfg.ReadWriteTimeout > 0 && i == 0 {
		conn = &timed{conn, m.cfg.ReadWriteTimeout}
	}
	if !bastion {
		conn = heard{conn, &l.broken}
	}
	c, err := m.handshake(ctx, conn, m.checkers[i], h, bastion)
	if err != nil {
		return nil, fail(err)
	}
	return c, nil
}

func (m *Machine) handshake(ctx context.Context, conn net.Conn, keys *checker, h Hop, bastion bool) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var a attempt
	methods, end := a.methods(ctx, h.Login)
	defer end()
	var shown ssh.PublicKey
	var keyErr error // the library hides its type
	cfg := &ssh.ClientConfig{
		User: h.User, Auth: methods, ClientVersion: "SSH-2.0-Ingot",
		HostKeyAlgorithms: keys.algorithms(h.Address()),
		HostKeyCallback: func(address string, _ net.Addr, key ssh.PublicKey) error {
			shown = key
			keyErr = keys.check(address, key)
			return keyErr
		},
		AuthCallback: func(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.reached, a.accepts = true, c.AllowedMethods
			return nil, nil
		},
	}
	cfg.Ciphers, cfg.KeyExchanges = m.cfg.Ciphers, m.cfg.KeyExchanges
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, chans, reqs, err := ssh.NewClientConn(conn, h.Address(), cfg)
	if !stop() && err == nil {
		c.Close()
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		switch {
		case keyErr != nil:
			return nil, keyErr
		case ctx.Err() != nil:
			return nil, fmt.Errorf("the SSH handshake was not done in time: %w", ctx.Err())
		}
		if refused := a.refused(h, bastion, err); refused != nil {
			return nil, refused
		}
		if neg, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok && cfg.HostKeyAlgorithms != nil && strings.Contains(neg.Error(), "host key") {
			return nil, &HostKeyError{Host: h.Address(), Got: "none of the kinds that are known", Want: cfg.HostKeyAlgorithms, options: cmp.Or(keys.Advice, "give the right key as ssh_host_key")}
		}
		return nil, err
	}
	keys.pin(shown)
	return ssh.NewClient(c, chans, reqs), nil
}

// timed bounds each read and write.
type timed struct {
	net.Conn
	d time.Duration
}

func (t *timed) Read(p []byte) (int, error) {
	if err := t.SetReadDeadline(time.Now().Add(t.d)); err != nil {
		return 0, err
	}
	return t.Conn.Read(p)
}

func (t *timed) Write(p []byte) (int, error) {
	if err := t.SetWriteDeadline(time.Now().Add(t.d)); err != nil {
		return 0, err
	}
	return t.Conn.Write(p)
}

// live is the connection, made anew when it has ended.
func (m *Machine) live(ctx context.Context) (*link, error) {
	select {
	case m.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-m.dialing }()
	m.mu.Lock()
	cur, closed := m.cur, m.closed
	m.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if cur != nil && cur.alive() {
		return cur, nil
	}
	if cur != nil {
		cur.close()
	}
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.life, cancel)()
	l, err := m.dial(both, cur != nil)
	if err != nil {
		if ctx.Err() == nil && m.life.Err() != nil {
			err = errClosed
		}
		return nil, err
	}
	if err := m.adopt(l); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

var errClosed = errors.New("the connection to the machine was closed")

// adopt puts a new connection into use.
func (m *Machine) adopt(l *link) error {
	if m.cfg.ForwardAgent {
		if err := agent.ForwardToRemote(l.Client, m.cfg.AgentSocket); err != nil {
			return err
		}
	}
	if err := m.remoteTunnels(l); err != nil {
		return err
	}
	l.used.Go(func() { m.keepAlive(l) })
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	m.cur = l
	return nil
}

// keepAlive proves the connection, and ends it when it is dead.
func (m *Machine) keepAlive(l *link) {
	every := m.cfg.KeepAlive
	if every == 0 {
		every = defaultKeepAlive
	}
	if every < 0 {
		return
	}
	if t := m.cfg.ReadWriteTimeout; t > 0 {
		every = min(every, t/2) // what is idle is not dead
	}
	patience := max(3*every, 15*time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		// The first few tell how far away the machine is: a busy one looks farther.
		if n >= 5 {
			select {
			case <-l.gone:
				return
			case <-tick.C:
			}
		}
		dead := time.AfterFunc(patience, func() { l.Client.Close() })
		start := time.Now()
		_, _, err := l.SendRequest("keepalive@openssh.com", true, nil)
		dead.Stop()
		if err != nil {
			return
		}
		m.seen(time.Since(start))
	}
}

// seen notes a round trip.
func (m *Machine) seen(took time.Duration) {
	for {
		best := m.away.Load()
		if best != 0 && best <= int64(took) || m.away.CompareAndSwap(best, int64(took)) {
			return
		}
	}
}
