//go:build linux

package sshtest

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Relay stands between a client and a server, and makes the way long or cuts it.
type Relay struct {
	Port int
	// CutAfter, when positive, is after how many more bytes, in either
	// direction, every connection is cut. It counts down.
	CutAfter atomic.Int64
	// Passed counts the bytes of both directions.
	Passed atomic.Int64
	// Accepted counts the connections.
	Accepted atomic.Int64

	delay  time.Duration
	rate   int // bytes a second and direction; 0: no limit
	target string
	l      net.Listener
	mu     sync.Mutex
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
}

// NewRelay listens on the loopback. roundTrip is what the way adds to each
// round trip, rate bounds the bytes per second and direction if it is not 0.
func NewRelay(t testing.TB, target string, roundTrip time.Duration, rate int) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Port: l.Addr().(*net.TCPAddr).Port, delay: roundTrip / 2, rate: rate, target: target, l: l, conns: map[net.Conn]bool{}}
	r.wg.Go(r.accept)
	t.Cleanup(func() { l.Close(); r.Cut(); r.wg.Wait() })
	return r
}

// Cut ends all connections.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

func (r *Relay) accept() {
	for {
		in, err := r.l.Accept()
		if err != nil {
			return
		}
		r.Accepted.Add(1)
		out, err := net.Dial("tcp", r.target)
		if err != nil {
			in.Close()
			continue
		}
		r.mu.Lock()
		r.conns[in], r.conns[out] = true, true
		r.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { r.copy(out, in) })
		both.Go(func() { r.copy(in, out) })
		r.wg.Go(func() {
			both.Wait()
			r.mu.Lock()
			delete(r.conns, in)
			delete(r.conns, out)
			r.mu.Unlock()
		})
	}
}

type packet struct {
	b  []byte
	at time.Time
}

// copy passes bytes on, each delay later.
func (r *Relay) copy(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	queue := make(chan packet, 4096) // far more than is under way in the delays of tests
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := range queue {
			if d := time.Until(p.at); d > 0 {
				time.Sleep(d)
			}
			if _, err := dst.Write(p.b); err != nil {
				src.Close()
				for range queue {
				}
				return
			}
		}
	})
	b := make([]byte, 64<<10)
	for {
		n, err := src.Read(b)
		if n > 0 {
			r.Passed.Add(int64(n))
			cut := false
			if r.CutAfter.Load() > 0 {
				if left := r.CutAfter.Add(-int64(n)); left <= 0 {
					n += int(left)
					cut = true
				}
			}
			queue <- packet{bytes.Clone(b[:max(n, 0)]), time.Now().Add(r.delay)}
			if r.rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(r.rate))
			}
			if cut {
				break
			}
		}
		if err != nil {
			break
		}
	}
	close(queue)
	wg.Wait()
}
