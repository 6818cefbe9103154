package datachannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// Payload is how much data a message carries. The agent and Amazon's own
	// client send that much, so that it is known to pass.
	Payload = 1024
	// window is how many messages may be under way without an acknowledgement.
	window = 256
	// maxEarly is how far ahead of the expected message one may be.
	maxEarly = 10000
	// maxControl bounds the acknowledgements that wait to be sent.
	maxControl = 2 * maxEarly

	firstTimeout = 200 * time.Millisecond
	firstRTT     = 100 * time.Millisecond
	granularity  = 10 * time.Millisecond
	maxTimeout   = time.Second
	maxBackoff   = 5 * time.Second
)

// Socket is what frames travel on, in practice a WebSocket. Read and Write may
// be called at the same time.
type Socket interface {
	Read(ctx context.Context) ([]byte, error)
	Write(ctx context.Context, frame []byte) error
}

// ErrClosed is the end of a Channel that was closed here.
var ErrClosed = errors.New("the channel was closed")

// ClosedError is the end of a Channel that the other side closed.
type ClosedError struct {
	Output string // what it said, if anything; not to be trusted
}

func (e *ClosedError) Error() string {
	if e.Output == "" {
		return "the session was closed by its other end"
	}
	return fmt.Sprintf("the session was closed by its other end: %q", e.Output)
}

// Config is the one side of a Channel.
type Config struct {
	// Send and Receive are the types of the stream messages of this side and
	// of the other.
	Send, Receive string
	// Handle gets the stream messages, each once and in order, one at a time.
	// While it blocks, nothing more is read from the socket. The payload is its
	// own. It has to return when the channel ends; an error ends the channel.
	Handle func(kind uint32, payload []byte) error
	// Invalid is told of frames that are none. They are passed over: what was
	// lost with one comes again. Nil: nobody.
	Invalid func(error)
	// Patience is how long a message may go without acknowledgement before the
	// channel ends; 0: 5 minutes.
	Patience time.Duration
}

// Channel is an ordered stream of messages each way, over one socket after another.
type Channel struct {
	cfg  Config
	done chan struct{}
	wake chan struct{} // the sender has something to do

	mu       sync.Mutex
	room     sync.Cond // out has become shorter, or the channel has ended
	err      error
	out      []*outgoing // not acknowledged, in order
	next     int64
	control  [][]byte // acknowledgements and the like to be sent
	writing  bool     // the sender has taken something that is not yet on the socket
	paused   bool
	rtt, dev time.Duration
	timeout  time.Duration

	// Of the reader alone.
	expected int64
	early    map[int64]*Message
}

type outgoing struct {
	sequence    int64
	frame       []byte
	first, last time.Time // sent; zero: never on this socket
	tries       int       // on this socket
}

// New returns a channel that has no socket yet.
func New(cfg Config) *Channel {
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Minute
	}
	c := &Channel{
		cfg: cfg, done: make(chan struct{}), wake: make(chan struct{}, 1),
		rtt: firstRTT, timeout: firstTimeout, early: map[int64]*Message{},
	}
	c.room.L = &c.mu
	return c
}

// Done is closed when the channel has ended.
func (c *Channel) Done() <-chan struct{} { return c.done }

// Err is why the channel has ended, nil before.
func (c *Channel) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// End ends the channel for that reason, if it has not ended yet. Nil: ErrClosed.
func (c *Channel) End(err error) {
	if err == nil {
		err = ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
		c.room.Broadcast()
	}
}

func (c *Channel) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Send queues one stream message. It blocks while too many are under way, until
// the channel ends.
func (c *Channel) Send(kind uint32, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) >= window && c.err == nil {
		c.room.Wait()
	}
	if c.err != nil {
		return c.err
	}
	m := Message{Type: c.cfg.Send, Created: time.Now(), Sequence: c.next, ID: uuid.New(), PayloadType: kind, Payload: payload}
	if c.next == 0 {
		m.Flags = 1
	}
	c.out = append(c.out, &outgoing{sequence: c.next, frame: m.Append(nil)})
	c.next++
	c.poke()
	return nil
}

// SendJSON is Send with v as JSON.
func (c *Channel) SendJSON(kind uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Send(kind, b)
}

// Write sends data in as many messages as it takes.
func (c *Channel) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		part := p[n:min(n+Payload, len(p))]
		if err := c.Send(Data, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Control queues a message outside of the stream. Nobody acknowledges it.
func (c *Channel) Control(kind string, payload []byte) {
	m := Message{Type: kind, Created: time.Now(), Flags: 3, ID: uuid.New(), Payload: payload}
	c.mu.Lock()
	defer c.mu.Unlock()
	// What is acknowledged too late comes again, and is acknowledged then.
	if len(c.control) < maxControl {
		c.control = append(c.control, m.Append(nil))
		c.poke()
	}
}

// Flush waits until everything sent has been acknowledged and no control
// message is left, or the channel or ctx ends.
func (c *Channel) Flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.room.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for (len(c.out) > 0 || len(c.control) > 0 || c.writing) && c.err == nil && ctx.Err() == nil {
		c.room.Wait()
	}
	if c.err != nil {
		return c.err
	}
	return ctx.Err()
}

// Serve runs the channel over one socket until the socket fails, ctx is done or
// the channel ends, and says why. In the first two cases the channel goes on
// with the next socket, where all that was not acknowledged is sent anew.
// Serve is called once at a time.
func (c *Channel) Serve(ctx context.Context, s Socket) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.paused, c.writing, c.control = false, false, nil
	for _, o := range c.out {
		o.last, o.tries = time.Time{}, 0
	}
	c.mu.Unlock()

	var g sync.WaitGroup
	defer g.Wait()
	defer cancel(nil)
	g.Go(func() {
		if err := c.send(ctx, s); err != nil {
			cancel(err)
		}
	})
	g.Go(func() {
		select {
		case <-c.done:
			cancel(c.Err())
		case <-ctx.Done():
		}
	})
	for {
		frame, err := s.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		m, err := Parse(frame)
		if err != nil {
			c.invalid(err)
			continue
		}
		if err := c.receive(m); err != nil {
			c.End(err)
			return err
		}
	}
}

func (c *Channel) invalid(err error) {
	if c.cfg.Invalid != nil {
		c.cfg.Invalid(err)
	}
}

// receive takes one message; an error ends the channel.
func (c *Channel) receive(m *Message) error {
	switch m.Type {
	case c.cfg.Receive:
		c.unpause()
		return c.stream(m)
	case Acknowledge:
		c.unpause()
		var a acknowledgement
		if err := json.Unmarshal(m.Payload, &a); err != nil {
			c.invalid(fmt.Errorf("an acknowledgement that cannot be read: %w", err))
			return nil
		}
		if a.Type == "" || a.Type == c.cfg.Send {
			c.acknowledged(a.Sequence)
		}
	case ChannelClosed:
		var closed Closed
		if err := json.Unmarshal(m.Payload, &closed); err != nil {
			c.invalid(fmt.Errorf("the end of the session cannot be read: %w", err))
		}
		return &ClosedError{Output: closed.Output}
	case PausePublication:
		c.mu.Lock()
		c.paused = true
		c.mu.Unlock()
	case StartPublication:
		c.unpause()
	}
	// Types that are not known are of no concern to a client; new ones may come.
	return nil
}

func (c *Channel) unpause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused {
		c.paused = false
		c.poke()
	}
}

func (c *Channel) stream(m *Message) error {
	switch {
	case m.Sequence < c.expected:
		c.acknowledge(m) // the first acknowledgement was lost
		return nil
	case m.Sequence > c.expected:
		if len(c.early) < maxEarly && m.Sequence-c.expected <= maxEarly {
			c.early[m.Sequence] = m
			c.acknowledge(m)
		}
		return nil
	}
	if err := c.cfg.Handle(m.PayloadType, m.Payload); err != nil {
		return err
	}
	c.acknowledge(m)
	c.expected++
	for {
		m, ok := c.early[c.expected]
		if !ok {
			return nil
		}
		if err := c.cfg.Handle(m.PayloadType, m.Payload); err != nil {
			return err
		}
		delete(c.early, c.expected)
		c.expected++
	}
}

func (c *Channel) acknowledge(m *Message) {
	b, err := json.Marshal(acknowledgement{Type: m.Type, ID: m.ID.String(), Sequence: m.Sequence, Sequential: true})
	if err == nil { // always
		c.Control(Acknowledge, b)
	}
}

func (c *Channel) acknowledged(sequence int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.out, func(o *outgoing) bool { return o.sequence == sequence })
	if i < 0 || c.out[i].first.IsZero() {
		return // known already, or never sent
	}
	// A message that was sent twice does not tell which of the two came through.
	if o := c.out[i]; o.tries == 1 {
		c.measure(time.Since(o.last))
	}
	c.out = slices.Delete(c.out, i, i+1)
	c.room.Broadcast()
	c.poke()
}

// measure smooths the time of a round trip as TCP does (RFC 6298).
func (c *Channel) measure(rtt time.Duration) {
	diff := time.Duration(math.Abs(float64(c.rtt - rtt)))
	c.dev += (diff - c.dev) / 4
	c.rtt += (rtt - c.rtt) / 8
	c.timeout = min(c.rtt+max(granularity, 4*c.dev), maxTimeout)
}

// send writes what is due until the socket fails, or the channel or ctx ends.
func (c *Channel) send(ctx context.Context, s Socket) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		frames, wait, err := c.due(time.Now())
		if err != nil {
			c.End(err)
			return err
		}
		for _, f := range frames {
			if err := s.Write(ctx, f); err != nil {
				return err
			}
		}
		if len(frames) > 0 {
			c.mu.Lock()
			c.writing = false
			c.room.Broadcast() // for Flush
			c.mu.Unlock()
			continue
		}
		timer.Reset(wait)
		select {
		case <-c.wake:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// due takes what is to be sent now, and says how long it is until there is more.
func (c *Channel) due(now time.Time) (frames [][]byte, wait time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	frames, c.control = c.control, nil
	wait = time.Hour
	for _, o := range c.out {
		if !o.first.IsZero() && now.Sub(o.first) > c.cfg.Patience {
			return nil, 0, fmt.Errorf("nothing was acknowledged for %v", c.cfg.Patience)
		}
		after := min(c.timeout<<min(max(o.tries-1, 0), 16), maxBackoff)
		if since := now.Sub(o.last); o.last.IsZero() || since >= after {
			if o.first.IsZero() {
				o.first = now
			}
			o.last = now
			o.tries++
			frames = append(frames, o.frame)
			wait = min(wait, after)
		} else {
			wait = min(wait, after-since)
		}
		if c.paused {
			break // one message now and then, in case the start of publication is lost
		}
	}
	c.writing = len(frames) > 0
	return frames, wait, nil
}
