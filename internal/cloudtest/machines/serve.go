//go:build linux

package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// server forwards the ports of one address to a machine.
type server struct {
	h         *Host
	m         *Machine
	admit     func(netip.Addr, int) bool
	ctx       context.Context
	cancel    context.CancelFunc
	listeners []net.Listener
	wg        sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil once closed
}

// Serve listens on addr for each port and forwards to the machine's port of that
// number, until the Closer, or the Host, is closed; the machine may be stopped and
// started meanwhile. admit, unless nil, is asked at each connection; who is not
// admitted, or finds nobody listening in the machine, sees the connection reset.
func (m *Machine) Serve(addr netip.Addr, ports []int, admit func(from netip.Addr, port int) bool) (io.Closer, error) {
	s := &server{h: m.h, m: m, admit: admit, conns: map[net.Conn]bool{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	m.h.mu.Lock()
	if m.h.closed {
		m.h.mu.Unlock()
		return nil, errClosed
	}
	m.h.listeners[s] = true
	m.h.mu.Unlock()
	for _, port := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort(addr.String(), strconv.Itoa(port)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open port %d of machine %s: %w", port, m.cfg.ID, err), s.Close())
		}
		s.listeners = append(s.listeners, l)
		s.wg.Go(func() { s.accept(l, port) })
	}
	return s, nil
}

// Close implements io.Closer. It is idempotent, and returns when the last
// connection has ended.
func (s *server) Close() error {
	s.cancel()
	var errs []error
	for _, l := range s.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
	s.h.mu.Lock()
	delete(s.h.listeners, s)
	s.h.mu.Unlock()
	return errors.Join(errs...)
}

func (s *server) accept(l net.Listener, port int) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !s.track(c) {
			continue
		}
		s.wg.Go(func() {
			defer s.untrack(c)
			s.forward(c.(*net.TCPConn), port)
		})
	}
}

// track notes a connection for Close, or closes it at once when that has been.
func (s *server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		c.Close()
		return false
	}
	s.conns[c] = true
	return true
}

func (s *server) untrack(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *server) forward(c *net.TCPConn, port int) {
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if s.admit != nil && !s.admit(from, port) {
		_ = c.SetLinger(0)
		return
	}
	d, err := s.m.Dial(s.ctx, port)
	if err != nil {
		_ = c.SetLinger(0)
		return
	}
	to, ok := d.(*net.TCPConn)
	if !ok || !s.track(to) {
		d.Close()
		return
	}
	defer s.untrack(to)
	back := make(chan struct{})
	go func() {
		defer close(back)
		pass(c, to)
	}()
	pass(to, c)
	<-back
}

// pass copies until the end of from, and says so to the other side. What breaks
// off breaks both directions off.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	_ = to.CloseWrite()
}
