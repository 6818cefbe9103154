package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// server is a real HTTP server on a loopback port.
type server struct {
	*httptest.Server
	id    string
	dials atomic.Int64
	conns sync.Map // open connections
}

func (s *server) ID() string { return s.id }

func (s *server) Dial(ctx context.Context) (net.Conn, error) {
	s.dials.Add(1)
	return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
}

func serve(t *testing.T, id string, h http.HandlerFunc) *server {
	t.Helper()
	s := &server{id: id}
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, id)
		}
	}
	s.Server = httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(c net.Conn, st http.ConnState) {
		if st == http.StateClosed || st == http.StateHijacked {
			s.conns.Delete(c)
		} else {
			s.conns.Store(c, st)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// dead is an instance that cannot be reached.
type dead struct{ dials atomic.Int64 }

func (*dead) ID() string { return "dead" }
func (d *dead) Dial(context.Context) (net.Conn, error) {
	d.dials.Add(1)
	return nil, errors.New("connection refused")
}

func fleetOf(name string, bs ...Backend) *Fleet {
	f := NewFleet(name, nil)
	for _, b := range bs {
		f.Add(b).SetHealthy(true)
	}
	return f
}

// front starts a proxy for live and returns its base URL.
func front(t *testing.T, live, fallback *Fleet) (*Proxy, string) {
	t.Helper()
	p := New(nil)
	mustSwitch(t, p, live, fallback)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := p.Server()
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return p, "http://" + l.Addr().String()
}

func mustSwitch(t *testing.T, p *Proxy, live, fallback *Fleet) {
	t.Helper()
	if _, err := p.Switch(p.Table().Rev, live, fallback, 0); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, c *http.Client, method, url, body string) (int, string) {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func client(t *testing.T) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// eventually waits for what follows from what has happened, without being told.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after a minute: %s", what)
		}
	}
}

func TestRoundRobinOverHealthy(t *testing.T) {
	f := NewFleet("blue", nil)
	var ms []*Member
	for _, id := range []string{"a", "b", "c"} {
		ms = append(ms, f.Add(serve(t, id, nil)))
	}
	ms[0].SetHealthy(true)
	ms[2].SetHealthy(true)
	_, url := front(t, f, nil)
	got := map[string]int{}
	for range 10 {
		_, body := do(t, client(t), "GET", url, "")
		got[body]++
	}
	if got["b"] != 0 || got["a"] < 3 || got["c"] < 3 {
		t.Errorf("10 requests went to %v; b takes no traffic, the others share it", got)
	}
}

func TestConnectFailureIsRetriedAndMarked(t *testing.T) {
	d := &dead{}
	f := fleetOf("blue", d, serve(t, "a", nil))
	_, url := front(t, f, nil)
	for range 6 {
		if code, body := do(t, client(t), "POST", url, "payload"); code != 200 || body != "a" {
			t.Fatalf("POST: %d %q", code, body)
		}
	}
	if n := d.dials.Load(); n != 1 {
		t.Errorf("the dead instance was dialled %d times; the first failure takes it out", n)
	}
	if n := f.Healthy(); n != 1 {
		t.Errorf("%d healthy members, want 1", n)
	}
}

// TestReset: an instance that takes a request and breaks the connection.
func TestReset(t *testing.T) {
	for _, c := range []struct {
		method, body string
		killers      int
		code, tries  int
	}{
		{"GET", "", 1, 200, 1},
		{"DELETE", "", 1, 200, 1},
		{"POST", "", 1, 502, 1},
		{"PUT", "body", 1, 502, 1},
		{"GET", "", 3, 502, 2}, // it must not go through the whole fleet
	} {
		t.Run(fmt.Sprintf("%s %q %d", c.method, c.body, c.killers), func(t *testing.T) {
			var tries atomic.Int64
			kill := func(http.ResponseWriter, *http.Request) {
				tries.Add(1)
				panic(http.ErrAbortHandler)
			}
			f := NewFleet("blue", nil)
			for i := range c.killers {
				f.Add(serve(t, fmt.Sprint("killer", i), kill)).SetHealthy(true)
			}
			// The proxy begins with index 1 of two: the killer is first when it comes second.
			good := f.Add(serve(t, "good", nil))
			good.SetHealthy(c.killers == 1)
			if c.killers == 1 {
				f.next.Store(1)
			}
			_, url := front(t, f, nil)
			code, _ := do(t, client(t), c.method, url, c.body)
			if code != c.code || int(tries.Load()) != c.tries {
				t.Errorf("status %d after %d tries, want %d after %d", code, tries.Load(), c.code, c.tries)
			}
			if r, n := f.Counts(); r != 1 || n != map[bool]int64{true: 1}[c.code >= 500] {
				t.Errorf("counted %d requests, %d failures", r, n)
			}
		})
	}
}

func TestNoHealthyInstance(t *testing.T) {
	f := NewFleet("blue", nil)
	f.Add(serve(t, "a", nil))
	p, url := front(t, f, nil)
	if code, _ := do(t, client(t), "GET", url, ""); code != 503 {
		t.Errorf("status %d, want 503", code)
	}
	if r, n := f.Counts(); r != 1 || n != 1 {
		t.Errorf("counted %d requests, %d failures; want 1, 1", r, n)
	}
	mustSwitch(t, p, nil, nil)
	if code, _ := do(t, client(t), "GET", url, ""); code != 503 {
		t.Errorf("status without a fleet %d, want 503", code)
	}
}

func TestFallback(t *testing.T) {
	blue := fleetOf("blue", serve(t, "blue", nil))
	green := fleetOf("green", &dead{}, &dead{})
	_, url := front(t, green, blue)
	for range 3 {
		if code, body := do(t, client(t), "POST", url, "x"); code != 200 || body != "blue" {
			t.Fatalf("%d %q", code, body)
		}
	}
	if r, _ := blue.Counts(); r != 3 {
		t.Errorf("blue counted %d requests, want 3", r)
	}
	eventually(t, "nothing in flight", func() bool { return blue.InFlight() == 0 && green.InFlight() == 0 })
}

func TestSwitchChecksRevisionAndGuard(t *testing.T) {
	p := New(nil)
	blue := fleetOf("blue", serve(t, "a", nil))
	if _, err := p.Switch(0, blue, nil, 2); err == nil {
		t.Error("a fleet of one passed for two")
	} else if g := (*GuardError)(nil); !errors.As(err, &g) || g.Healthy != 1 || g.Need != 2 {
		t.Errorf("not the guard's error: %v", err)
	}
	if tab := p.Table(); tab.Rev != 0 || tab.Live != nil {
		t.Errorf("a refused switch changed the table: %+v", tab)
	}
	if _, err := p.Switch(0, blue, nil, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Switch(0, nil, nil, 0); err == nil {
		t.Error("a stale revision was accepted")
	}
	if p.Table().Live != blue {
		t.Error("a stale switch changed the table")
	}
}

func TestHeaders(t *testing.T) {
	got := make(chan *http.Request, 1)
	f := fleetOf("blue", serve(t, "a", func(w http.ResponseWriter, r *http.Request) {
		got <- r
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("X-End", "1")
	}))
	_, url := front(t, f, nil)
	req, _ := http.NewRequest("GET", url+"/p%2Fq?a=1;b=%zz", nil)
	req.Host = "shop.example"
	for k, v := range map[string]string{
		"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "Forwarded": "for=6.6.6.6",
		"Connection": "X-Secret", "X-Secret": "1", "Te": "gzip", "Accept-Encoding": "br",
	} {
		req.Header.Set(k, v)
	}
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	in := <-got
	for k, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "http",
		"Forwarded": "", "X-Secret": "", "Te": "", "Via": "", "Accept-Encoding": "br",
	} {
		if v := in.Header.Get(k); v != want {
			t.Errorf("the instance saw %s %q, want %q", k, v, want)
		}
	}
	if in.Host != "shop.example" || in.RequestURI != "/p%2Fq?a=1;b=%zz" {
		t.Errorf("the instance saw host %q, URI %q", in.Host, in.RequestURI)
	}
	if resp.Header.Get("X-Hop") != "" || resp.Header.Get("Via") != "" || resp.Header.Get("X-End") != "1" {
		t.Errorf("the client saw %v", resp.Header)
	}
}

func TestConnectMethodIsRefused(t *testing.T) {
	f := fleetOf("blue", serve(t, "a", nil))
	_, url := front(t, f, nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT inner.example:22 HTTP/1.1\r\nHost: inner.example:22\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 405 {
		t.Errorf("status %d, want 405", resp.StatusCode)
	}
}

func TestUpgradeAndDrainCounter(t *testing.T) {
	f := fleetOf("blue", serve(t, "a", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		io.Copy(c, rw)
	}))
	p, url := front(t, f, nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	mustSwitch(t, p, fleetOf("green", serve(t, "b", nil)), nil) // must not cut it
	for _, word := range []string{"ping\n", "pong\n"} {
		io.WriteString(c, word)
		if got, err := br.ReadString('\n'); got != word || err != nil {
			t.Fatalf("echo: %q %v", got, err)
		}
	}
	if n := f.InFlight(); n != 1 {
		t.Errorf("%d in flight during the upgrade, want 1", n)
	}
	c.Close()
	eventually(t, "nothing in flight", func() bool { return f.InFlight() == 0 })
}

func TestStreamsPassAtOnce(t *testing.T) {
	next := make(chan struct{})
	f := fleetOf("blue", serve(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "line %d\n", i)
			http.NewResponseController(w).Flush()
			<-next
		}
	}))
	_, url := front(t, f, nil)
	resp, err := client(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i := range 3 {
		if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
		next <- struct{}{} // not before the line has come through
	}
}

// TestBrokenAnswerCounts: an instance that dies in the middle of its answer.
func TestBrokenAnswerCounts(t *testing.T) {
	f := fleetOf("blue", serve(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "short")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	_, url := front(t, f, nil)
	resp, err := client(t).Get(url)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("the client was told that the short answer is whole")
	}
	eventually(t, "one failure counted", func() bool { r, n := f.Counts(); return r == 1 && n == 1 && f.InFlight() == 0 })
}

func TestRequestUnderWayFinishesOnOldFleet(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	blue := fleetOf("blue", serve(t, "blue", func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		io.WriteString(w, "blue")
	}))
	green := fleetOf("green", serve(t, "green", nil))
	p, url := front(t, blue, nil)
	answer := make(chan string, 1)
	c := client(t)
	go func() {
		resp, err := c.Get(url)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-entered
	mustSwitch(t, p, green, nil)
	if _, body := do(t, c, "GET", url, ""); body != "green" {
		t.Errorf("after the switch %q answers", body)
	}
	if n := blue.InFlight(); n != 1 {
		t.Errorf("blue has %d in flight, want 1", n)
	}
	close(leave)
	if got := <-answer; got != "blue" {
		t.Errorf("the request under way got %q", got)
	}
	eventually(t, "blue drained", func() bool { return blue.InFlight() == 0 })
}

func TestRemoveDropsIdleConnections(t *testing.T) {
	s := serve(t, "a", nil)
	f := NewFleet("blue", nil)
	m := f.Add(s)
	m.SetHealthy(true)
	_, url := front(t, f, nil)
	c := client(t)
	// Not each one is kept: net/http gives it up where its own writer is late.
	asked := int64(0)
	eventually(t, "a connection serves again", func() bool {
		do(t, c, "GET", url, "")
		asked++
		return s.dials.Load() < asked
	})
	f.Remove(m)
	eventually(t, "no connection left", func() bool {
		n := 0
		s.conns.Range(func(any, any) bool { n++; return true })
		return n == 0
	})
	if f.Healthy() != 0 {
		t.Error("a removed member counts as healthy")
	}
}

// watched is a client's connection that tells when the other side ends it.
type watched struct {
	net.Conn
	cut *atomic.Int64
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		w.cut.Add(1)
	}
	return n, err
}

// TestSwitchUnderLoad flips between two fleets while clients hammer, with
// kept and with fresh connections: nothing fails, kept connections are kept,
// and a fleet that has drained gets no straggler.
func TestSwitchUnderLoad(t *testing.T) {
	var off [2]atomic.Bool // the fleet has been drained: a request there is a straggler
	var strays atomic.Int64
	var fleets [2]*Fleet
	for i, name := range []string{"blue", "green"} {
		h := func(w http.ResponseWriter, r *http.Request) {
			if off[i].Load() {
				strays.Add(1)
			}
			io.Copy(w, r.Body)
			io.WriteString(w, name)
		}
		fleets[i] = fleetOf(name, serve(t, name+"0", h), serve(t, name+"1", h))
	}
	p, url := front(t, fleets[0], fleets[1])

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var wg sync.WaitGroup
	var total, failed, cut atomic.Int64
	const kept = 4
	for i := range kept + 2 {
		tr := &http.Transport{DisableKeepAlives: i >= kept, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if i < kept && err == nil {
				c = watched{c, &cut}
			}
			return c, err
		}}
		wg.Go(func() {
			defer tr.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				method, body := "GET", ""
				if n%3 == 0 {
					method, body = "POST", "x"
				}
				req, _ := http.NewRequest(method, url, strings.NewReader(body))
				resp, err := (&http.Client{Transport: tr}).Do(req)
				total.Add(1)
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				if i < kept && resp.Close {
					cut.Add(1)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if s := strings.TrimPrefix(string(b), body); err != nil || resp.StatusCode != 200 || s != "blue" && s != "green" {
					failed.Add(1)
					t.Errorf("%s: %d %q %v", method, resp.StatusCode, b, err)
					return
				}
			}
		})
	}
	for i := range 40 {
		from, to := i%2, (i+1)%2
		off[to].Store(false)
		mustSwitch(t, p, fleets[to], nil)
		eventually(t, "drained", func() bool { return fleets[from].InFlight() == 0 })
		off[from].Store(true)
		seen := total.Load()
		eventually(t, "traffic goes on", func() bool { return total.Load() > seen+20 || ctx.Err() != nil })
	}
	stop()
	wg.Wait()
	t.Logf("%d requests, %d failed", total.Load(), failed.Load())
	if failed.Load() != 0 || strays.Load() != 0 {
		t.Errorf("%d of %d requests failed, %d came to a drained fleet", failed.Load(), total.Load(), strays.Load())
	}
	if n := cut.Load(); n > 0 {
		t.Errorf("%d connections that clients keep were ended", n)
	}
}

// TestNoStragglerAfterDrain hammers the choice of a fleet alone: once a fleet
// has left the table and nothing is in flight on it, no request enters it.
func TestNoStragglerAfterDrain(t *testing.T) {
	p := New(nil)
	fleets := [2]*Fleet{fleetOf("blue", &dead{}), fleetOf("green", &dead{})}
	mustSwitch(t, p, fleets[0], nil)
	var off [2]atomic.Bool
	var stop atomic.Bool
	var strays atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				req := &pass{}
				p.enter(req, nil)
				for i := range fleets {
					if req.fleet == fleets[i] && off[i].Load() {
						strays.Add(1)
					}
				}
				req.fleet.inFlight.Add(-1)
			}
		})
	}
	began := time.Now()
	for i := 0; i < 50000 && time.Since(began) < 2*time.Second; i++ {
		from, to := i%2, (i+1)%2
		off[to].Store(false)
		mustSwitch(t, p, fleets[to], nil)
		for fleets[from].InFlight() != 0 {
			runtime.Gosched()
		}
		off[from].Store(true)
	}
	stop.Store(true)
	wg.Wait()
	if n := strays.Load(); n > 0 {
		t.Errorf("%d requests entered a drained fleet", n)
	}
}

func BenchmarkProxy(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	defer srv.Close()
	f := fleetOf("blue", &server{Server: srv, id: "a"})
	p := New(nil)
	if _, err := p.Switch(0, f, nil, 1); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}
