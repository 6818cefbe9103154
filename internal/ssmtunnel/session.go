package ssmtunnel

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/datachannel"
	"github.com/xtaci/smux"
)

const (
	// clientVersion says what we understand in the terms of Amazon's client:
	// from 1.1.70 on smux, and since 1.2.331 smux without its own keepalive.
	clientVersion = "1.2.707.0"
	// Agents after these do the same.
	muxAfter   = "3.0.196.0"
	quietAfter = "3.1.1511.0"

	maxFrame = 1 << 20
	// lastWords is how long an end waits for what was sent before.
	lastWords = 2 * time.Second
	// maxUnread is how much the session reads ahead of its connections.
	maxUnread = 4 << 20
)

var (
	errNoHandshake = errors.New("the agent did not begin the session")
	errNotMuxed    = errors.New("the agent carries one connection in a session, and this one has been used")
)

// session is one session with the agent, over one WebSocket after another.
type session struct {
	cfg       Config
	id        string
	client    string // our id in it
	ch        *datachannel.Channel
	unread    *queue
	cancel    context.CancelFunc
	ended     chan struct{} // no goroutine is left
	copying   sync.WaitGroup
	refusals  atomic.Int64 // connections that the agent could not make
	invalid   sync.Once
	attempts  atomic.Pointer[error] // why there was no WebSocket, last
	lastFrame atomic.Int64          // when something came, in ns since 1970

	ready chan struct{}
	// Set before ready is closed.
	asked   bool          // the agent has begun the handshake
	version string        // of the agent
	mux     *smux.Session // nil: one connection only

	used, terminated bool // of the Tunnel
}

// start begins to serve the session that StartSession has answered with.
func start(cfg Config, out *ssm.StartSessionOutput) (*session, error) {
	where := aws.ToString(out.StreamUrl)
	if err := checkURL(where); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{
		cfg: cfg, id: aws.ToString(out.SessionId), client: uuid.NewString(), cancel: cancel,
		ended: make(chan struct{}), ready: make(chan struct{}),
	}
	s.ch = datachannel.New(datachannel.Config{
		Send: datachannel.InputStream, Receive: datachannel.OutputStream, Patience: cfg.Patience,
		Handle: s.handle,
		Invalid: func(err error) {
			s.invalid.Do(func() {
				s.cfg.Events.Warn(fmt.Sprintf("Session Manager sent for %s what cannot be read, which is passed over: %v", cfg.Target, err))
			})
		},
	})
	s.unread = newQueue(s.ch)
	go func() {
		defer close(s.ended)
		s.run(ctx, where, aws.ToString(out.TokenValue))
		if s.mux != nil {
			_ = s.mux.Close()
		}
		s.copying.Wait()
		cancel()
	}()
	return s, nil
}

// checkURL sees to it that the token goes to nobody unencrypted. An emulator on
// this host may do without.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return errors.New("StartSession answers with no address that can be read")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if u.Scheme == "wss" || u.Scheme == "ws" && (err == nil && ip.IsLoopback() || u.Hostname() == "localhost") {
		return nil
	}
	return fmt.Errorf("StartSession answers with an address by %q on %s, and only wss will do", u.Scheme, u.Host)
}

// run serves the channel until it ends.
func (s *session) run(ctx context.Context, where, token string) {
	var broken time.Time // since when there is no connection
	for pause := 100 * time.Millisecond; ; {
		began := time.Now()
		err := s.serve(ctx, where, token)
		if s.ch.Err() != nil {
			return
		}
		if ctx.Err() != nil {
			s.ch.End(nil)
			return
		}
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			s.ch.End(err)
			return
		}
		s.attempts.Store(&err)
		if broken.IsZero() || s.lastFrame.Load() > began.UnixNano() {
			broken, pause = time.Now(), 100*time.Millisecond
			s.cfg.Events.Warn(fmt.Sprintf("The connection to %s through Session Manager broke (%v); resuming it", s.cfg.Target, err))
		}
		for {
			if !sleep(ctx, pause) {
				s.ch.End(nil)
				return
			}
			pause = min(2*pause, 5*time.Second)
			out, err := s.cfg.Client.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: aws.String(s.id)})
			if err == nil {
				if aws.ToString(out.TokenValue) == "" {
					s.ch.End(errors.New("the session has timed out"))
					return
				}
				token = *out.TokenValue
				if next := aws.ToString(out.StreamUrl); next != "" && checkURL(next) == nil {
					where = next
				}
				break
			}
			if ctx.Err() != nil {
				continue
			}
			var none *types.DoesNotExistException
			if errors.As(err, &none) || denied(err) {
				s.ch.End(fmt.Errorf("the session cannot be resumed: %w", refused("ssm:ResumeSession", err)))
				return
			}
			if time.Since(broken) > s.cfg.Patience {
				s.ch.End(fmt.Errorf("the session could not be resumed for %v: %w", s.cfg.Patience, err))
				return
			}
		}
		if time.Since(broken) > s.cfg.Patience {
			s.ch.End(fmt.Errorf("the session could not be resumed for %v: %w", s.cfg.Patience, err))
			return
		}
	}
}

// serve opens a WebSocket and runs the channel over it until either ends.
func (s *session) serve(ctx context.Context, where, token string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	open := datachannel.Open{SchemaVersion: "1.0", RequestID: uuid.NewString(), Token: token, ClientID: s.client, ClientVersion: clientVersion}
	hello, err := json.Marshal(open)
	if err != nil {
		return err
	}
	opening, opened := context.WithTimeout(ctx, 30*time.Second)
	defer opened()
	client := http.Client{}
	if s.cfg.HTTP != nil {
		client = *s.cfg.HTTP
		client.Timeout = 0 // it would bound the life of the WebSocket
	}
	// The token is not to go anywhere else.
	client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("the service sends its client elsewhere")
	}
	//nolint:bodyclose // the library's: the body is only for reading
	ws, _, err := websocket.Dial(opening, where, &websocket.DialOptions{HTTPClient: &client})
	if err != nil {
		return err
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(maxFrame)
	if err := ws.Write(opening, websocket.MessageText, hello); err != nil {
		return err
	}
	opened()
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	g.Go(func() { s.ping(ctx, ws) })
	return s.ch.Serve(ctx, socket{ws, s})
}

// ping keeps the connection alive on its way, and cuts it when nothing answers.
func (s *session) ping(ctx context.Context, ws *websocket.Conn) {
	tick := time.NewTicker(s.cfg.Ping)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		began := time.Now().UnixNano()
		within, cancel := context.WithTimeout(ctx, s.cfg.Ping)
		err := ws.Ping(within)
		cancel()
		// Who does not read, because nobody takes what was read, sees no pong.
		if err != nil && s.lastFrame.Load() < began && !s.unread.full() {
			_ = ws.CloseNow()
			return
		}
	}
}

type socket struct {
	ws *websocket.Conn
	s  *session
}

func (k socket) Read(ctx context.Context) ([]byte, error) {
	_, b, err := k.ws.Read(ctx)
	if err == nil {
		k.s.lastFrame.Store(time.Now().UnixNano())
	}
	return b, err
}

func (k socket) Write(ctx context.Context, frame []byte) error {
	return k.ws.Write(ctx, websocket.MessageBinary, frame)
}

// handle takes the agent's messages, in order.
func (s *session) handle(kind uint32, payload []byte) error {
	handshaken := false
	select {
	case <-s.ready:
		handshaken = true
	default:
	}
	switch {
	case kind == datachannel.HandshakeRequest && !s.asked:
		return s.answer(payload)
	case kind == datachannel.HandshakeComplete && s.asked && !handshaken:
		return s.complete(payload)
	case kind == datachannel.HandshakeRequest || kind == datachannel.HandshakeComplete:
		return errors.New("the agent shakes hands out of turn")
	case !handshaken:
		return errors.New("the agent sends data before its handshake: it is too old for port forwarding")
	case kind == datachannel.Data:
		return s.unread.push(payload)
	case kind == datachannel.Flag:
		if len(payload) == 4 && binary.BigEndian.Uint32(payload) == datachannel.ConnectToPortError {
			s.refusals.Add(1)
		}
	}
	return nil // other kinds belong to other sorts of sessions
}

// answer answers a handshake request.
func (s *session) answer(payload []byte) error {
	var req struct {
		AgentVersion string
		Actions      []struct {
			Type       string          `json:"ActionType"`
			Parameters json.RawMessage `json:"ActionParameters"`
		} `json:"RequestedClientActions"`
	}
	if err := json.Unmarshal(payload, &req); err != nil {
		return fmt.Errorf("the agent's handshake cannot be read: %w", err)
	}
	resp := datachannel.Response{ClientVersion: clientVersion, Errors: []string{}}
	var errs []error
	for _, a := range req.Actions {
		done := datachannel.Action{Type: a.Type, Status: datachannel.Success}
		var err error
		switch a.Type {
		case "SessionType":
			var p struct{ SessionType string }
			if json.Unmarshal(a.Parameters, &p) != nil || p.SessionType != "Port" {
				err = fmt.Errorf("the agent begins a session of the type %q, not Port", p.SessionType)
			}
		case "KMSEncryption":
			// Amazon's agent never asks for it in port sessions.
			err = errors.New("the agent asks for a session encrypted with a KMS key, which port forwarding does not have. " +
				"Remove the key from the session preferences that hold for this instance")
		default:
			done.Status = datachannel.Unsupported
			err = fmt.Errorf("the agent asks for %q, which is not known here", a.Type)
		}
		if err != nil {
			if done.Status == datachannel.Success {
				done.Status = datachannel.Failed
			}
			done.Error = err.Error()
			resp.Errors = append(resp.Errors, done.Error)
			errs = append(errs, err)
		}
		resp.Actions = append(resp.Actions, done)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	s.asked, s.version = true, req.AgentVersion
	return s.ch.SendJSON(datachannel.HandshakeResponse, resp)
}

func (s *session) complete(payload []byte) error {
	var c datachannel.Complete
	if err := json.Unmarshal(payload, &c); err != nil {
		return fmt.Errorf("the end of the agent's handshake cannot be read: %w", err)
	}
	if !upTo(s.version, muxAfter) {
		cfg := smux.DefaultConfig()
		// smux' own signs of life would keep Session Manager from seeing that a session is idle.
		cfg.KeepAliveDisabled = !upTo(s.version, quietAfter)
		mux, err := smux.Client(wire{s}, cfg)
		if err != nil {
			return err
		}
		s.mux = mux
	}
	close(s.ready)
	return nil
}

// upTo says whether version is at most limit, and so lacks what came after
// that. A version that cannot be read is taken for a new one.
func upTo(version, limit string) bool {
	v, l := strings.Split(version, "."), strings.Split(limit, ".")
	for i := range max(len(l), len(v)) {
		var a, b int
		var err error
		if i < len(l) {
			a, _ = strconv.Atoi(l[i])
		}
		if i < len(v) {
			if b, err = strconv.Atoi(v[i]); err != nil {
				return false
			}
		}
		if a != b {
			return b < a
		}
	}
	return true
}

// handshake waits until the agent has begun the session.
func (s *session) handshake(ctx context.Context) error {
	timer := time.NewTimer(s.cfg.Handshake)
	defer timer.Stop()
	select {
	case <-s.ready:
		// The agent says that the handshake is complete a moment before it takes
		// it for complete, and what comes in between it acknowledges and drops.
		if !sleep(ctx, s.cfg.Settle) {
			return context.Cause(ctx)
		}
		return nil
	case <-s.ch.Done():
		return s.ch.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		if err := s.attempts.Load(); err != nil {
			return fmt.Errorf("%w within %v (%w)", errNoHandshake, s.cfg.Handshake, *err)
		}
		return fmt.Errorf("%w within %v", errNoHandshake, s.cfg.Handshake)
	}
}

// free says whether the session takes another connection.
func (s *session) free() bool {
	if s.ch.Err() != nil {
		return false
	}
	if s.mux != nil {
		return !s.mux.IsClosed()
	}
	return !s.used
}

// gone says whether the other side has ended the session.
func (s *session) gone() bool {
	var closed *datachannel.ClosedError
	return errors.As(s.ch.Err(), &closed)
}

// flush gives what was sent a little time to arrive.
func (s *session) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	_ = s.ch.Flush(ctx)
}

func (s *session) close() {
	s.ch.End(nil)
	s.cancel()
}

func (s *session) dial() (net.Conn, error) {
	if s.mux != nil {
		refusals := s.refusals.Load()
		stream, err := s.mux.OpenStream()
		if err != nil {
			return nil, s.why("dial", err)
		}
		return &conn{Conn: stream, s: s, refusals: refusals}, nil
	}
	if s.used {
		return nil, s.why("dial", errNotMuxed)
	}
	s.used = true
	// The pipe has the deadlines that a net.Conn must have.
	ours, theirs := net.Pipe()
	s.copying.Go(func() {
		_, _ = io.Copy(wire{s}, theirs)
		var flag [4]byte
		binary.BigEndian.PutUint32(flag[:], datachannel.DisconnectToPort)
		_ = s.ch.Send(datachannel.Flag, flag[:])
		s.flush()
		// The agent would connect again for more data. The session is over with its connection.
		s.ch.End(nil)
	})
	s.copying.Go(func() {
		_, _ = io.Copy(theirs, wire{s})
		_ = theirs.Close()
	})
	return &conn{Conn: ours, s: s}, nil
}

// why gives an error the place and, where the session has ended, its reason.
func (s *session) why(op string, err error) error {
	if end := s.ch.Err(); end != nil && !errors.Is(end, datachannel.ErrClosed) {
		err = end
	}
	return &net.OpError{Op: op, Net: "ssm", Addr: s.addr(), Err: err}
}

func (s *session) addr() net.Addr {
	return addr(net.JoinHostPort(s.cfg.Target, strconv.Itoa(s.cfg.Port)))
}

type addr string

func (addr) Network() string  { return "ssm" }
func (a addr) String() string { return string(a) }

// conn is a connection to the port.
type conn struct {
	net.Conn
	s        *session
	refusals int64 // of the session, when it was opened
	got      atomic.Bool
}

func (c *conn) LocalAddr() net.Addr  { return addr("session " + c.s.id) }
func (c *conn) RemoteAddr() net.Addr { return c.s.addr() }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.got.Store(true)
	}
	switch {
	case err == nil || errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err):
		return n, err
	case c.s.ch.Err() != nil:
		return n, c.s.why("read", err)
	case errors.Is(err, io.EOF) && !c.got.Load() && c.s.refusals.Load() > c.refusals:
		// The agent doesn't say which connection it means; one that got nothing is the likely one.
		return n, c.s.why("dial", syscall.ECONNREFUSED)
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && !isTimeout(err) {
		err = c.s.why("write", err)
	}
	return n, err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// wire is the session's bytes, without connections.
type wire struct{ s *session }

func (w wire) Read(b []byte) (int, error)  { return w.s.unread.Read(b) }
func (w wire) Write(b []byte) (int, error) { return w.s.ch.Write(b) }
func (w wire) Close() error {
	w.s.ch.End(nil)
	return nil
}

// queue holds what has come and was not read.
type queue struct {
	ch   *datachannel.Channel
	news chan struct{} // something came
	room chan struct{} // something was read
	mu   sync.Mutex
	buf  []byte
	wait atomic.Bool // push waits for room
}

func newQueue(ch *datachannel.Channel) *queue {
	return &queue{ch: ch, news: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (q *queue) full() bool { return q.wait.Load() }

// push waits until there is room.
func (q *queue) push(b []byte) error {
	for {
		q.mu.Lock()
		if len(q.buf) < maxUnread {
			q.buf = append(q.buf, b...)
			q.mu.Unlock()
			signal(q.news)
			return nil
		}
		q.mu.Unlock()
		q.wait.Store(true)
		select {
		case <-q.room:
			q.wait.Store(false)
		case <-q.ch.Done():
			return q.ch.Err()
		}
	}
}

// Read reads what is there, and fails when nothing is and the channel has ended.
func (q *queue) Read(b []byte) (int, error) {
	for {
		q.mu.Lock()
		n := copy(b, q.buf)
		q.buf = q.buf[n:]
		if len(q.buf) == 0 {
			q.buf = nil
		}
		q.mu.Unlock()
		if n > 0 || len(b) == 0 {
			signal(q.room)
			return n, nil
		}
		select {
		case <-q.news:
		case <-q.ch.Done():
			q.mu.Lock()
			left := len(q.buf)
			q.mu.Unlock()
			if left == 0 {
				return 0, q.ch.Err()
			}
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
