package ssmtunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/datachannel"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/ssmtest"
)

const target = "i-0123456789abcdef0"

// world is a Session Manager on loopback with one machine behind it, in which
// serve, where it is not nil, serves the port.
type world struct {
	*ssmtest.Service
	cfg    Config
	events *strings.Builder
}

func newWorld(t *testing.T, o ssmtest.Options, serve func(net.Conn)) *world {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() { noneLeft(t, before) })
	if serve != nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var work sync.WaitGroup
		work.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				work.Go(func() {
					defer c.Close()
					serve(c)
				})
			}
		})
		t.Cleanup(func() {
			_ = l.Close()
			work.Wait()
		})
		o.Dial = func(ctx context.Context, target string, port int) (net.Conn, error) {
			if port != 22 {
				return nil, fmt.Errorf("port %d", port)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}
	}
	w := &world{Service: ssmtest.New(o), events: new(strings.Builder)}
	server := httptest.NewServer(w.Service)
	t.Cleanup(func() {
		_ = w.Service.Close()
		server.Close()
	})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := ssm.New(ssm.Options{
		Region: "eu-west-1", BaseEndpoint: aws.String(server.URL), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""), RetryMaxAttempts: 1,
	})
	var mu sync.Mutex
	w.cfg = Config{
		Client: client, Target: target, Port: 22, Retry: time.Millisecond, Settle: time.Millisecond, HTTP: &http.Client{Transport: transport},
		Events: event.Scope{Sink: event.Func(func(e event.Event) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintln(w.events, e.Text)
		})},
	}
	return w
}

// noneLeft waits until no more goroutines run than before.
func noneLeft(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) open(t *testing.T) *Tunnel {
	t.Helper()
	tunnel, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tunnel.Close(); err != nil {
			t.Error(err)
		}
		for _, s := range w.Sessions() {
			if !s.Ended {
				t.Errorf("the session %s goes on", s.ID)
			}
		}
	})
	return tunnel
}

func dial(t *testing.T, tunnel *Tunnel) net.Conn {
	t.Helper()
	c, err := tunnel.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	return c
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// muxed is a current agent, basic one that has one connection a session.
var agents = map[string]string{"muxed": "3.3.987.0", "keepalive": "3.1.0.0", "basic": "3.0.100.0"}

func TestBothWays(t *testing.T) {
	for name, version := range agents {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ssmtest.Options{AgentVersion: version}, echo)
			tunnel := w.open(t)
			a, b := dial(t, tunnel), dial(t, tunnel)
			if a.RemoteAddr().String() != target+":22" {
				t.Errorf("the connection leads to %s", a.RemoteAddr())
			}
			for i, c := range []net.Conn{a, b, a} {
				text := fmt.Sprintf("line %d\n", i)
				if _, err := io.WriteString(c, text); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(text))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
					t.Fatalf("%q, %v; want %q", got, err, text)
				}
			}
			want := 1
			if name == "basic" {
				want = 2
			}
			if n := len(w.Sessions()); n != want {
				t.Errorf("%d sessions, want %d", n, want)
			}
			// A deadline passes, and the connection goes on.
			_ = a.SetReadDeadline(time.Now().Add(-time.Second))
			if _, err := a.Read(make([]byte, 1)); !isTimeout(err) {
				t.Errorf("a read after its deadline: %v", err)
			}
			_ = a.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := a.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Errorf("after a deadline that passed: %d, %v", n, err)
			}
		})
	}
}

// When one side ends, all that it sent before arrives, and then the end.
func TestEnds(t *testing.T) {
	const size = 300_000
	for name, version := range agents {
		t.Run(name, func(t *testing.T) {
			got := make(chan int, 2)
			w := newWorld(t, ssmtest.Options{AgentVersion: version}, func(c net.Conn) {
				b, _ := io.ReadAll(c)
				got <- len(b)
			})
			c := dial(t, w.open(t))
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if n := <-got; n != size {
				t.Errorf("%d bytes arrived before the end, want %d", n, size)
			}
			if _, err := c.Write([]byte("x")); err == nil {
				t.Error("a closed connection can be written to")
			}
		})
	}
	t.Run("far", func(t *testing.T) { // a basic session does not tell of this end
		w := newWorld(t, ssmtest.Options{}, func(c net.Conn) { _, _ = c.Write(make([]byte, size)) })
		c := dial(t, w.open(t))
		if b, err := io.ReadAll(c); len(b) != size || err != nil {
			t.Errorf("%d bytes, %v; want %d", len(b), err, size)
		}
	})
}

// flaky loses, doubles and reorders frames, a few in a hundred each, both ways.
func flaky(seed uint64) func(ssmtest.Frame) ssmtest.Fault {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0))
	return func(ssmtest.Frame) ssmtest.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch n := r.IntN(100); {
		case n < 2:
			return ssmtest.Lose
		case n < 4:
			return ssmtest.Duplicate
		case n < 7:
			return ssmtest.Late
		}
		return ssmtest.Pass
	}
}

// transfer sends size random bytes through an echo, and compares what comes back.
func transfer(t *testing.T, c net.Conn, size int64) {
	t.Helper()
	sent, came := sha256.New(), sha256.New()
	errs := make(chan error, 1)
	go func() {
		src := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
		_, err := io.Copy(io.MultiWriter(c, sent), src)
		errs <- err
	}()
	n, err := io.CopyN(came, c, size)
	if err := errors.Join(err, <-errs); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	if !bytes.Equal(sent.Sum(nil), came.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

func TestMuchOverABadLine(t *testing.T) {
	size := int64(50 << 20)
	if testing.Short() {
		size = 1 << 20
	}
	w := newWorld(t, ssmtest.Options{Fault: flaky(1)}, echo)
	transfer(t, dial(t, w.open(t)), size)
}

func TestResume(t *testing.T) {
	for name, version := range agents {
		t.Run(name, func(t *testing.T) {
			var frames atomic.Int64
			w := newWorld(t, ssmtest.Options{AgentVersion: version, Fault: func(f ssmtest.Frame) ssmtest.Fault {
				switch n := frames.Add(1); {
				case n%2000 == 700:
					return ssmtest.Drop
				case n%2000 == 1700:
					return ssmtest.DropAfter
				}
				return ssmtest.Pass
			}}, echo)
			tunnel := w.open(t)
			transfer(t, dial(t, tunnel), 2<<20)
			s := w.Sessions()
			if len(s) != 1 || s[0].Resumed < 2 {
				t.Errorf("sessions %+v, want one that was resumed again and again", s)
			}
		})
	}
}

// Someone who does not read holds up what is sent, and loses nothing.
func TestSlowReader(t *testing.T) {
	const size = 20 << 20
	sent := make(chan struct{})
	w := newWorld(t, ssmtest.Options{}, func(c net.Conn) {
		_, _ = io.Copy(c, io.LimitReader(rand.NewChaCha8([32]byte{2}), size))
		close(sent)
		_, _ = c.Read(make([]byte, 1))
	})
	w.cfg.Ping = 50 * time.Millisecond // must not take the full line for a dead one
	tunnel := w.open(t)
	c := dial(t, tunnel)
	deadline := time.Now().Add(time.Minute)
	for !tunnel.current.unread.full() {
		if time.Now().After(deadline) {
			t.Fatal("it reads on and on")
		}
		time.Sleep(time.Millisecond)
	}
	resumed := w.Sessions()[0].Resumed
	select {
	case <-sent:
		t.Error("everything is under way while nobody reads")
	case <-time.After(6 * w.cfg.Ping):
	}
	if n := w.Sessions()[0].Resumed; n != resumed {
		t.Errorf("the connection was cut %d times while nobody read", n-resumed)
	}
	want := sha256.New()
	_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{2}), size)
	got := sha256.New()
	if n, err := io.CopyN(got, c, size); err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes, %v, or others than were sent", n, err)
	}
}

func TestWaitsForTheAgent(t *testing.T) {
	var asked atomic.Int64
	w := newWorld(t, ssmtest.Options{
		Ready: func(string) bool { return asked.Add(1) > 3 },
		Mute:  func(n int) bool { return n == 1 },
	}, echo)
	w.cfg.Handshake = time.Second
	transfer(t, dial(t, w.open(t)), 1000)
	// On a busy machine others may have been too slow for a second.
	s := w.Sessions()
	for i, one := range s {
		if one.Ended != (i < len(s)-1) {
			t.Errorf("sessions %+v, want that all but the last were ended", s)
		}
	}
	if len(s) < 2 {
		t.Errorf("sessions %+v, want a mute one and another", s)
	}
	if !strings.Contains(w.events.String(), "Waiting for the SSM agent of "+target) {
		t.Errorf("events: %q", w.events)
	}
}

// A moment after its handshake, the agent acknowledges data and drops it.
func TestAgentIsDeafAtFirst(t *testing.T) {
	for name, version := range agents {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ssmtest.Options{AgentVersion: version, Deaf: 20 * time.Millisecond}, echo)
			w.cfg.Settle = 0 // the default
			transfer(t, dial(t, w.open(t)), 1000)
		})
	}
}

// A connection over which nothing comes any more, without an error, is given up for another.
func TestSilence(t *testing.T) {
	w := newWorld(t, ssmtest.Options{}, echo)
	server := httptest.NewServer(w.Service)
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer l.Close()
	var conns, silent atomic.Int64 // connections with a number up to silent say nothing more
	pump := func(n int64, to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		b := make([]byte, 32<<10)
		for {
			k, err := from.Read(b)
			if err != nil {
				return
			}
			if n > silent.Load() {
				if _, err := to.Write(b[:k]); err != nil {
					return
				}
			}
		}
	}
	work.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				near.Close()
				continue
			}
			n := conns.Add(1)
			work.Go(func() { pump(n, far, near) })
			work.Go(func() { pump(n, near, far) })
		}
	})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	w.cfg.Client = ssm.New(ssm.Options{
		// Only the WebSockets take the way that falls silent.
		Region: "eu-west-1", BaseEndpoint: aws.String(server.URL), HTTPClient: redirected{&http.Client{Transport: transport}, l.Addr().String()},
		Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""), RetryMaxAttempts: 1,
	})
	w.cfg.Ping = 50 * time.Millisecond
	tunnel, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	c := dial(t, tunnel)
	transfer(t, c, 1000)
	before := w.Sessions()[0].Resumed
	silent.Store(conns.Load())
	transfer(t, c, 1000)
	if s := w.Sessions(); len(s) != 1 || s[0].Resumed == before {
		t.Errorf("sessions %+v, want that it was resumed after %d times", s, before)
	}
}

// redirected gives the API the host that StreamUrl is to name.
type redirected struct {
	*http.Client
	host string
}

func (r redirected) Do(req *http.Request) (*http.Response, error) {
	req.Host = r.host
	return r.Client.Do(req)
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		o    ssmtest.Options
		want []string
	}{
		"absent": {ssmtest.Options{Ready: func(string) bool { return false }},
			[]string{"deadline", target, "TargetNotConnected", "AmazonSSMManagedInstanceCore"}},
		"denied": {ssmtest.Options{Deny: func(string) string { return "AccessDeniedException" }}, []string{"may not call ssm:StartSession"}},
		"other":  {ssmtest.Options{Deny: func(string) string { return "InvalidDocument" }}, []string{"InvalidDocument"}},
		"mute":   {ssmtest.Options{Mute: func(int) bool { return true }}, []string{"deadline", "did not begin the session within 50ms"}},
		"kms":    {ssmtest.Options{Ask: "KMSEncryption"}, []string{"encrypted with a KMS key"}},
		"new":    {ssmtest.Options{Ask: "Dance"}, []string{`asks for "Dance"`}},
		"cut": {ssmtest.Options{Fault: func(f ssmtest.Frame) ssmtest.Fault { return ssmtest.Drop },
			Deny: func(a string) string { return map[string]string{"ResumeSession": "AccessDeniedException"}[a] }},
			[]string{"may not call ssm:ResumeSession"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.o, echo)
			w.cfg.Handshake = 50 * time.Millisecond
			if name == "cut" || name == "kms" || name == "new" {
				w.cfg.Handshake = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ctx, over := context.WithCancelCause(ctx)
			defer over(nil)
			if c.want[0] == "deadline" { // once there has been a try, however long that took
				w.cfg.Events.Sink = event.Func(func(e event.Event) {
					if strings.HasPrefix(e.Text, "Waiting for") {
						over(context.DeadlineExceeded)
					}
				})
			}
			tunnel, err := Open(ctx, w.cfg)
			if err == nil {
				t.Fatal(tunnel.Close(), "it opened")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q in it", err, want)
				}
			}
			for _, s := range w.Sessions() {
				if !s.Ended {
					t.Errorf("the session %s goes on", s.ID)
				}
			}
		})
	}
}

// Nobody listens at first, as while a machine boots.
func TestNobodyListens(t *testing.T) {
	var tries atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, version := range agents {
		t.Run(name, func(t *testing.T) {
			tries.Store(0)
			w := newWorld(t, ssmtest.Options{AgentVersion: version, Dial: func(ctx context.Context, _ string, _ int) (net.Conn, error) {
				if tries.Add(1) < 3 {
					return nil, syscall.ECONNREFUSED
				}
				ours, theirs := net.Pipe()
				go echo(theirs)
				return ours, nil
			}}, nil)
			tunnel := w.open(t)
			for n := 1; ; n++ {
				c := dial(t, tunnel)
				if _, err := c.Write([]byte("x")); err == nil {
					_, err = c.Read(make([]byte, 1))
					if err == nil {
						break
					}
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("%v, want that the connection was refused", err)
					}
				}
				if n > 5 {
					t.Fatal("it never listens")
				}
			}
		})
	}
}

// A session that was ended from elsewhere is followed by another.
func TestAnotherSession(t *testing.T) {
	for name, version := range agents {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ssmtest.Options{AgentVersion: version}, echo)
			tunnel := w.open(t)
			c := dial(t, tunnel)
			transfer(t, c, 1000)
			if _, err := w.cfg.Client.TerminateSession(t.Context(), &ssm.TerminateSessionInput{SessionId: aws.String(w.Sessions()[0].ID)}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "closed by its other end") {
				t.Errorf("the connection ends with %v", err)
			}
			transfer(t, dial(t, tunnel), 1000)
		})
	}
}

func TestClose(t *testing.T) {
	w := newWorld(t, ssmtest.Options{Deny: func(a string) string {
		return map[string]string{"TerminateSession": "AccessDeniedException"}[a]
	}}, echo)
	tunnel, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, tunnel)
	if err := tunnel.Close(); err == nil || !strings.Contains(err.Error(), w.Sessions()[0].ID) || !strings.Contains(err.Error(), "ssm:TerminateSession") {
		t.Errorf("closing where nothing may be closed: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection of a closed tunnel can be read")
	}
	if _, err := tunnel.DialContext(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed tunnel: %v", err)
	}
}

// The token must not travel in the clear, nor to where a redirect leads.
func TestAddresses(t *testing.T) {
	for address, ok := range map[string]bool{
		"wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/x": true, "ws://127.0.0.1:9/x": true, "ws://[::1]:9/x": true, "ws://localhost/x": true,
		"ws://ssmmessages.eu-west-1.amazonaws.com/x": false, "ws://127.0.0.1.example.com/x": false, "http://127.0.0.1/": false, "": false, "wss:///x": false, "%": false,
	} {
		if err := checkURL(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
	var reached atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer elsewhere.Close()
	w := newWorld(t, ssmtest.Options{}, echo)
	redirect := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer redirect.Close()
	s, err := start(Config{Client: w.cfg.Client, Target: target, Port: 22, Patience: time.Minute, Handshake: time.Minute, Ping: time.Minute, HTTP: w.cfg.HTTP},
		&ssm.StartSessionOutput{SessionId: aws.String("none"), StreamUrl: aws.String("ws" + strings.TrimPrefix(redirect.URL, "http")), TokenValue: aws.String("token")})
	if err != nil {
		t.Fatal(err)
	}
	// It is to be resumed after the failure, and there is no such session.
	if err := s.handshake(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be resumed") {
		t.Errorf("redirected: %v", err)
	}
	<-s.ended
	if reached.Load() {
		t.Error("the redirect was followed")
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		version, limit string
		want           bool
	}{
		{"3.0.196.0", "3.0.196.0", true}, {"3.0.197.0", "3.0.196.0", false}, {"3.1.0", "3.0.196.0", false}, {"2.3.722.0", "3.0.196.0", true},
		{"3.0", "3.0.196.0", true}, {"10.0.0.0", "3.0.196.0", false}, {"", "3.0.196.0", false}, {"new", "3.0.196.0", false},
	} {
		if got := upTo(c.version, c.limit); got != c.want {
			t.Errorf("%q up to %q: %v", c.version, c.limit, got)
		}
	}
}

// An agent that does not keep to the protocol ends the session, and nothing else.
func TestHostileAgent(t *testing.T) {
	for name, c := range map[string]struct {
		kind    uint32
		payload string
		want    string
	}{
		"data first":       {datachannel.Data, "x", "before its handshake"},
		"complete first":   {datachannel.HandshakeComplete, "{}", "out of turn"},
		"no json":          {datachannel.HandshakeRequest, "{", "cannot be read"},
		"a shell":          {datachannel.HandshakeRequest, `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream"}}]}`, `"Standard_Stream", not Port`},
		"odd parameters":   {datachannel.HandshakeRequest, `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":7}]}`, "not Port"},
		"no actions":       {datachannel.HandshakeRequest, `{}`, ""},
		"a flag too early": {datachannel.Flag, "\x00\x00\x00\x03", "before its handshake"},
	} {
		s := &session{ready: make(chan struct{})}
		s.ch = datachannel.New(datachannel.Config{Send: datachannel.InputStream, Receive: datachannel.OutputStream})
		err := s.handle(c.kind, []byte(c.payload))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}
