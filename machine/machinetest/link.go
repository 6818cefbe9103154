package machinetest

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Link is a way to a service on which connections can be slow and can break,
// for Options.Cut and Options.Slow.
type Link struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	delay    time.Duration

	mu    sync.Mutex
	left  int64 // bytes that may still pass; negative: no bound
	reset bool
	cut   bool
	pairs map[*pair]bool
	done  sync.WaitGroup
}

type pair struct {
	client *net.TCPConn
	server net.Conn
	broken atomic.Bool
}

// NewLink listens on this host and passes on to dial each connection that
// comes, and each byte after delay. It ends with t.
func NewLink(t testing.TB, dial func() (net.Conn, error), delay time.Duration) *Link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{listener: listener, dial: dial, delay: delay, left: -1, pairs: map[*pair]bool{}}
	l.done.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			l.done.Go(func() { l.serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(l.Close)
	return l
}

// Addr is where the link listens: 127.0.0.1 and a port.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// CutAfter breaks every connection when n more bytes have passed, counted over
// all of them and both directions, and takes no new one then. An even n ends
// them by a reset; an odd one by what looks like a proper end, which is worse.
func (l *Link) CutAfter(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left, l.reset = n, n%2 == 0
}

// Close breaks what is open.
func (l *Link) Close() {
	l.listener.Close()
	l.mu.Lock()
	l.cut = true
	for p := range l.pairs {
		p.client.Close()
		p.server.Close()
	}
	l.mu.Unlock()
	l.done.Wait()
}

func (l *Link) serve(client *net.TCPConn) {
	defer client.Close()
	server, err := l.dial()
	if err != nil {
		return
	}
	defer server.Close()
	p := &pair{client: client, server: server}
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return
	}
	l.pairs[p] = true
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.pass(p, server, client) })
	both.Go(func() { l.pass(p, client, server) })
	both.Wait()
	l.mu.Lock()
	delete(l.pairs, p)
	l.mu.Unlock()
}

// pass copies until the end of from, which it passes on, or until the cut.
func (l *Link) pass(p *pair, to, from net.Conn) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	under := make(chan chunk, 256) // way
	go func() {
		defer close(under)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				under <- chunk{buf[:n], time.Now().Add(l.delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range under {
		if p.broken.Load() {
			continue // a client that is not to see a reset is read until it goes
		}
		time.Sleep(time.Until(c.due))
		n := l.take(len(c.data))
		if _, err := to.Write(c.data[:n]); err != nil {
			p.broken.Store(true)
			from.Close()
		}
		if n < len(c.data) {
			l.mu.Lock()
			l.cut = true
			l.mu.Unlock()
			l.Break()
		}
	}
	if h, ok := to.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

// take says how many of n bytes may pass.
func (l *Link) take(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left < 0 {
		return n
	}
	n = int(min(int64(n), l.left))
	l.left -= int64(n)
	return n
}

// Break breaks every connection there is. New ones are taken, unless CutAfter
// has come to its end.
func (l *Link) Break() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		p.broken.Store(true)
		p.server.Close()
		if l.reset {
			_ = p.client.SetLinger(0)
			p.client.Close()
		} else {
			// The kernel would send a reset if it were closed with data unread.
			_ = p.client.CloseWrite()
		}
	}
}
