package datachannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// line is a Socket in memory: what is written comes out at the other end.
type line struct {
	in, out chan []byte
}

func (l line) Read(ctx context.Context) ([]byte, error) {
	select {
	case b := <-l.in:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l line) Write(ctx context.Context, b []byte) error {
	select {
	case l.out <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// peer is the agent's end, by hand.
type peer struct {
	t  *testing.T
	c  *Channel
	in chan []byte // to the channel
	// sent are the stream messages that have come, acks the sequence numbers acknowledged.
	sent []*Message
	acks []int64
	out  chan []byte
}

func newPeer(t *testing.T, cfg Config) *peer {
	cfg.Send, cfg.Receive = InputStream, OutputStream
	if cfg.Handle == nil {
		cfg.Handle = func(uint32, []byte) error { return nil }
	}
	return &peer{t: t, c: New(cfg), in: make(chan []byte), out: make(chan []byte, 10000)}
}

// give sends a message to the channel.
func (p *peer) give(m Message) { p.in <- m.Append(nil) }

func (p *peer) stream(sequence int64, text string) {
	p.give(Message{Type: OutputStream, Sequence: sequence, ID: uuid.New(), PayloadType: Data, Payload: []byte(text)})
}

func (p *peer) ack(sequence int64) {
	b, err := json.Marshal(acknowledgement{Type: InputStream, Sequence: sequence, Sequential: true})
	if err != nil {
		p.t.Fatal(err)
	}
	p.give(Message{Type: Acknowledge, Payload: b})
}

// take looks at what has come since.
func (p *peer) take() {
	synctest.Wait()
	p.sent, p.acks = nil, nil
	for {
		select {
		case b := <-p.out:
			m, err := Parse(b)
			if err != nil {
				p.t.Fatal(err)
			}
			if m.Type == InputStream {
				p.sent = append(p.sent, m)
				continue
			}
			var a acknowledgement
			if err := json.Unmarshal(m.Payload, &a); err != nil || m.Type != Acknowledge || a.Type != OutputStream || !a.Sequential {
				p.t.Fatalf("%s: %s", m.Type, m.Payload)
			}
			p.acks = append(p.acks, a.Sequence)
		default:
			return
		}
	}
}

// serve runs the channel over a line, and returns its end.
func (p *peer) serve(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- p.c.Serve(ctx, line{in: p.in, out: p.out}) }()
	return done
}

func sequences(ms []*Message) string {
	var s []string
	for _, m := range ms {
		s = append(s, fmt.Sprint(m.Sequence))
	}
	return strings.Join(s, " ")
}

func (p *peer) expect(what, sent string, acks ...int64) {
	p.t.Helper()
	p.take()
	if got := sequences(p.sent); got != sent {
		p.t.Errorf("%s: it sends %q, want %q", what, got, sent)
	}
	if fmt.Sprint(p.acks) != fmt.Sprint(acks) {
		p.t.Errorf("%s: it acknowledges %v, want %v", what, p.acks, acks)
	}
}

func TestResending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := p.serve(ctx)
		for range 3 {
			if err := p.c.Send(Data, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		p.expect("at first", "0 1 2")
		if p.sent[0].Flags != 1 || p.sent[1].Flags != 0 {
			t.Errorf("flags %d and %d: the first message of a stream says so", p.sent[0].Flags, p.sent[1].Flags)
		}
		p.ack(1)
		p.ack(7) // was never sent
		time.Sleep(firstTimeout + time.Millisecond)
		p.expect("after the timeout", "0 2")
		p.ack(0)
		p.expect("what is acknowledged", "")
		// The next try is later each time.
		time.Sleep(firstTimeout + 50*time.Millisecond)
		p.expect("soon", "")
		time.Sleep(firstTimeout)
		p.expect("later", "2")
		// A new socket gets it at once.
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the end of a socket: %v", err)
		}
		done = p.serve(t.Context())
		p.expect("on another socket", "2")
		p.ack(2)
		if err := p.c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		p.c.End(nil)
		if err := <-done; !errors.Is(err, ErrClosed) || !errors.Is(p.c.Send(Data, nil), ErrClosed) || !errors.Is(p.c.Flush(t.Context()), ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Config{})
		done := p.serve(t.Context())
		p.give(Message{Type: PausePublication})
		synctest.Wait()
		for range 3 {
			if err := p.c.Send(Data, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		p.expect("paused", "0") // one, in case the start is lost
		time.Sleep(firstTimeout + time.Millisecond)
		p.expect("paused for long", "0")
		p.give(Message{Type: StartPublication})
		p.expect("started", "1 2")
		p.give(Message{Type: PausePublication})
		p.ack(0) // says that the agent is there
		p.expect("paused and acknowledged", "")
		if err := p.c.Send(Data, []byte("x")); err != nil {
			t.Fatal(err)
		}
		p.expect("by an acknowledgement", "3")
		p.c.End(nil)
		<-done
	})
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got strings.Builder
		invalid := 0
		p := newPeer(t, Config{
			Handle:  func(_ uint32, b []byte) error { got.Write(b); return nil },
			Invalid: func(error) { invalid++ },
		})
		done := p.serve(t.Context())
		p.stream(2, "c")
		p.stream(1, "b")
		p.expect("early ones", "", 2, 1)
		if got.Len() != 0 {
			t.Errorf("%q before the first", got.String())
		}
		p.stream(0, "a")
		p.stream(0, "a")
		p.stream(2, "c")
		p.expect("the first, and some again", "", 0, 0, 2)
		p.stream(maxEarly+100, "z")
		p.stream(-1, "z")
		p.in <- []byte("no frame")
		p.give(Message{Type: "a_new_type"})
		p.give(Message{Type: Acknowledge, Payload: []byte("{")})
		p.stream(3, "d")
		p.expect("too early, and noise", "", -1, 3)
		if got.String() != "abcd" || invalid != 2 {
			t.Errorf("%q, %d invalid", got.String(), invalid)
		}
		p.give(Message{Type: ChannelClosed, Payload: []byte(`{"Output":"bye"}`)})
		var closed *ClosedError
		if err := <-done; !errors.As(err, &closed) || closed.Output != "bye" || !errors.As(p.c.Err(), &closed) {
			t.Errorf("the end is %v, %v", err, p.c.Err())
		}
	})
}

func TestWindowAndPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, Config{Patience: time.Minute})
		done := p.serve(t.Context())
		written := make(chan error, 1)
		go func() {
			_, err := p.c.Write(make([]byte, (window+1)*Payload))
			written <- err
		}()
		synctest.Wait()
		select {
		case err := <-written:
			t.Fatalf("more than the window is under way: %v", err)
		default:
		}
		p.ack(0)
		if err := <-written; err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "nothing was acknowledged for 1m0s") {
			t.Errorf("the end is %v", err)
		}
	})
}

func TestHandlerEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("bad")
		p := newPeer(t, Config{Handle: func(uint32, []byte) error { return bad }})
		done := p.serve(t.Context())
		p.stream(0, "x")
		if err := <-done; !errors.Is(err, bad) || !errors.Is(p.c.Err(), bad) {
			t.Errorf("%v, %v", err, p.c.Err())
		}
		p.expect("at the end", "")
	})
}
