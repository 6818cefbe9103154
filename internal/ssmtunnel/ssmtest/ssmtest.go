// Package ssmtest is the other end of Session Manager's port forwarding, for
// tests and emulated clouds: the API that begins sessions, the service that
// relays their messages, and the agent in the machine, all in one handler.
package ssmtest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/datachannel"
	"github.com/xtaci/smux"
)

// Path is where the WebSockets of sessions are opened, followed by the session's id.
const Path = "/v1/data-channel/"

// Fault is what becomes of a frame between client and agent.
type Fault int

// The faults of frames.
const (
	Pass      Fault = iota
	Lose            // it never arrives
	Duplicate       // it arrives twice
	Late            // it arrives after the next two frames
	Drop            // the socket breaks before it arrives
	DropAfter       // the socket breaks after
)

// Frame is one frame between client and agent.
type Frame struct {
	Session string
	ToAgent bool
	N       int // of its direction in its session, from 1
	Type    string
	Payload uint32 // the type of payload
}

// Options is how the service and its agents are. The zero value has machines
// with a current agent that cannot be reached on any port.
type Options struct {
	// Dial connects to a port of a machine.
	Dial func(ctx context.Context, target string, port int) (net.Conn, error)
	// Ready says whether the machine's agent has registered; nil: always.
	// Until then StartSession answers TargetNotConnected.
	Ready func(target string) bool
	// Mute says of the n-th session, from 1, whether its agent never says a word.
	Mute func(n int) bool
	// AgentVersion is what the agent says of itself. Default: 3.3.987.0. Up to
	// 3.0.196.0 it carries one connection at a time.
	AgentVersion string
	// Ask has the agent ask for another action in its handshake, such as KMSEncryption.
	Ask string
	// Fault decides of each frame; nil: all pass. It is called concurrently.
	Fault func(Frame) Fault
	// Deny says of an API call, such as ResumeSession, which error code it gets; "": none.
	Deny func(action string) string
}

// Service is Session Manager with its agents. It is an http.Handler of the API
// calls StartSession, ResumeSession and TerminateSession (JSON 1.1), and of the
// WebSockets below Path.
type Service struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	sessions map[string]*session
	order    []string
}

// Session is what has become of one session.
type Session struct {
	ID, Target string
	Port       int
	Ended      bool
	Resumed    int // how often a client has come back with a new token
}

// New returns a service without sessions.
func New(o Options) *Service {
	if o.AgentVersion == "" {
		o.AgentVersion = "3.3.987.0"
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Service{o: o, ctx: ctx, cancel: cancel, sessions: map[string]*session{}}
}

// Close ends all sessions and waits for what serves them.
func (s *Service) Close() error {
	s.cancel()
	s.work.Wait()
	return nil
}

// Sessions are all sessions that were ever begun, in order.
func (s *Service) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Session
	for _, id := range s.order {
		x := s.sessions[id]
		info := x.info
		info.Ended = info.Ended || x.ch.Err() != nil
		all = append(all, info)
	}
	return all
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, action, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok && r.Method == http.MethodPost {
		s.api(w, r, action)
		return
	}
	if id, ok := strings.CutPrefix(r.URL.Path, Path); ok {
		s.socket(w, r, id)
		return
	}
	http.NotFound(w, r)
}

type input struct {
	Target, DocumentName string
	SessionID            string `json:"SessionId"`
	Parameters           map[string][]string
}

func refuse(w http.ResponseWriter, code, text string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": text, "Message": text})
}

func (s *Service) api(w http.ResponseWriter, r *http.Request, action string) {
	if s.o.Deny != nil {
		if code := s.o.Deny(action); code != "" {
			refuse(w, code, "as the test says")
			return
		}
	}
	var in input
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in); err != nil {
		refuse(w, "SerializationException", err.Error())
		return
	}
	out := map[string]any{}
	switch action {
	case "StartSession":
		port, err := strconv.ParseUint(strings.Join(in.Parameters["portNumber"], " "), 10, 16)
		switch {
		case in.DocumentName != "AWS-StartPortForwardingSession":
			refuse(w, "InvalidDocument", fmt.Sprintf("there is no document %q", in.DocumentName))
			return
		case err != nil || port == 0:
			refuse(w, "ValidationException", "portNumber is no port")
			return
		case in.Target == "" || s.o.Ready != nil && !s.o.Ready(in.Target):
			refuse(w, "TargetNotConnected", in.Target+" is not connected.")
			return
		}
		x := s.begin(Session{ID: "ingot-" + strings.ToLower(rand.Text()[:17]), Target: in.Target, Port: int(port)}, s.o.Dial)
		out["SessionId"], out["TokenValue"], out["StreamUrl"] = x.info.ID, x.token, streamURL(r, x.info.ID)
	case "ResumeSession":
		s.mu.Lock()
		x := s.sessions[in.SessionID]
		if x == nil || x.info.Ended || x.ch.Err() != nil {
			s.mu.Unlock()
			refuse(w, "DoesNotExistException", "there is no session "+in.SessionID)
			return
		}
		x.token = rand.Text()
		x.info.Resumed++
		out["SessionId"], out["TokenValue"], out["StreamUrl"] = x.info.ID, x.token, streamURL(r, x.info.ID)
		s.mu.Unlock()
	case "TerminateSession":
		s.mu.Lock()
		x := s.sessions[in.SessionID]
		s.mu.Unlock()
		if x != nil {
			x.close("")
		}
		out["SessionId"] = in.SessionID
	default:
		refuse(w, "UnknownOperationException", action)
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(out)
}

func streamURL(r *http.Request, id string) string {
	scheme := "ws://"
	if r.TLS != nil {
		scheme = "wss://"
	}
	return scheme + r.Host + Path + id + "?role=publish_subscribe"
}

// session is one session, on the agent's side.
type session struct {
	s       *Service
	ch      *datachannel.Channel
	in      *io.PipeReader
	feed    *io.PipeWriter
	info    Session // under Service.mu
	to      func(context.Context, string, int) (net.Conn, error)
	token   string             // that the next socket must show; under Service.mu
	kick    context.CancelFunc // of the socket that is; under Service.mu
	count   [2]int             // frames by direction; under Service.mu
	serving sync.Mutex         // is held by the socket that serves

	response chan datachannel.Response
	complete chan struct{} // the handshake is
	mux      bool
	// Of basic sessions.
	mu   sync.Mutex
	conn net.Conn
}

// Join is for clouds that answer the API calls themselves. It returns who serves
// one WebSocket of the session, which begins with the first; dial takes the
// place of Options.Dial. The session lasts until the agent ends it, or Close.
func (s *Service) Join(id, token, target string, port int, dial func(ctx context.Context, port int) (net.Conn, error)) http.Handler {
	s.mu.Lock()
	x := s.sessions[id]
	if x != nil {
		x.token = token
	}
	s.mu.Unlock()
	if x == nil {
		x = s.begin(Session{ID: id, Target: target, Port: port}, func(ctx context.Context, _ string, port int) (net.Conn, error) { return dial(ctx, port) })
		s.mu.Lock()
		x.token = token
		s.mu.Unlock()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.socket(w, r, id) })
}

func (s *Service) begin(info Session, dial func(context.Context, string, int) (net.Conn, error)) *session {
	x := &session{s: s, info: info, to: dial, token: rand.Text(), response: make(chan datachannel.Response, 1), complete: make(chan struct{})}
	x.in, x.feed = io.Pipe()
	x.ch = datachannel.New(datachannel.Config{Send: datachannel.OutputStream, Receive: datachannel.InputStream, Handle: x.handle})
	s.mu.Lock()
	s.sessions[x.info.ID] = x
	s.order = append(s.order, x.info.ID)
	n := len(s.order)
	s.mu.Unlock()
	s.work.Go(func() {
		select {
		case <-x.ch.Done():
		case <-s.ctx.Done():
			x.ch.End(nil)
		}
		_ = x.feed.CloseWithError(io.EOF)
		_ = x.in.Close()
		x.disconnect()
	})
	if s.o.Mute == nil || !s.o.Mute(n) {
		s.work.Go(x.run)
	}
	return x
}

// close ends the session and says so to the client, as the agent does.
func (x *session) close(output string) {
	if b, err := json.Marshal(map[string]any{
		"MessageType": datachannel.ChannelClosed, "SessionId": x.info.ID, "SchemaVersion": 1, "Output": output,
	}); err == nil {
		x.ch.Control(datachannel.ChannelClosed, b)
	}
	x.s.mu.Lock()
	x.info.Ended = true
	x.s.mu.Unlock()
	x.s.work.Go(func() {
		ctx, cancel := context.WithTimeout(x.s.ctx, 2*time.Second)
		defer cancel()
		_ = x.ch.Flush(ctx)
		x.ch.End(nil)
	})
}

// handle takes the client's messages, in order.
func (x *session) handle(kind uint32, payload []byte) error {
	switch kind {
	case datachannel.HandshakeResponse:
		var r datachannel.Response
		if err := json.Unmarshal(payload, &r); err != nil {
			return err
		}
		select {
		case x.response <- r:
		default:
		}
	case datachannel.Data:
		select {
		case <-x.complete:
		default:
			return nil // the agent loses what comes before the handshake is complete
		}
		if !x.mux {
			return x.write(payload)
		}
		_, err := x.feed.Write(payload)
		return err
	case datachannel.Flag:
		if len(payload) != 4 {
			return nil
		}
		switch binary.BigEndian.Uint32(payload) {
		case datachannel.DisconnectToPort:
			if !x.mux {
				x.disconnect()
			}
		case datachannel.TerminateSession:
			x.close("")
		}
	}
	return nil
}

// run is the agent's part of a session.
func (x *session) run() {
	actions := []datachannel.Action{{Type: "SessionType", Parameters: map[string]any{
		"SessionType": "Port",
		"Properties":  map[string]string{"portNumber": strconv.Itoa(x.info.Port), "type": "LocalPortForwarding"},
	}}}
	if x.s.o.Ask != "" {
		actions = append(actions, datachannel.Action{Type: x.s.o.Ask, Parameters: map[string]string{"KMSKeyId": "arn:aws:kms:example"}})
	}
	if x.ch.SendJSON(datachannel.HandshakeRequest, datachannel.Request{AgentVersion: x.s.o.AgentVersion, Actions: actions}) != nil {
		return
	}
	var r datachannel.Response
	select {
	case r = <-x.response:
	case <-x.ch.Done():
		return
	}
	for _, a := range r.Actions {
		if a.Status != datachannel.Success {
			x.close(a.Type + " failed on the client: " + a.Error)
			return
		}
	}
	x.mux = atLeast(r.ClientVersion, "1.1.70") && atLeast(x.s.o.AgentVersion, "3.0.196.1")
	if !x.mux {
		if err := x.connect(); err != nil {
			x.close("Unable to connect to specified port: " + err.Error())
			return
		}
	}
	close(x.complete)
	if x.ch.SendJSON(datachannel.HandshakeComplete, datachannel.Complete{Took: time.Millisecond}) != nil {
		return
	}
	if x.mux {
		x.accept()
	}
}

func atLeast(version, least string) bool {
	parts := func(s string) (n []int) {
		for p := range strings.SplitSeq(s, ".") {
			i, _ := strconv.Atoi(p)
			n = append(n, i)
		}
		return n
	}
	return slices.Compare(parts(version), parts(least)) >= 0
}

func (x *session) dial() (net.Conn, error) {
	if x.to == nil {
		return nil, errors.New("connection refused")
	}
	return x.to(x.s.ctx, x.info.Target, x.info.Port)
}

// The connection of a basic session.

func (x *session) connect() error {
	conn, err := x.dial()
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.conn = conn
	x.mu.Unlock()
	x.s.work.Go(func() {
		_, _ = io.Copy(dataOnly{x.ch}, conn)
		// The client is told nothing of the end.
		x.mu.Lock()
		defer x.mu.Unlock()
		_ = conn.Close()
		if x.conn == conn {
			x.conn = nil
		}
	})
	return nil
}

// write passes data on to the connection, and makes another where it has ended.
func (x *session) write(b []byte) error {
	x.mu.Lock()
	conn := x.conn
	x.mu.Unlock()
	if conn == nil {
		if err := x.connect(); err != nil {
			x.close("Unable to connect to specified port: " + err.Error())
			return nil
		}
		x.mu.Lock()
		conn = x.conn
		x.mu.Unlock()
		if conn == nil {
			return nil // it has ended at once
		}
	}
	_, _ = conn.Write(b) // who reads from it sees that it is broken
	return nil
}

func (x *session) disconnect() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.conn != nil {
		_ = x.conn.Close()
		x.conn = nil
	}
}

type dataOnly struct{ ch *datachannel.Channel }

func (d dataOnly) Write(b []byte) (int, error) { return d.ch.Write(b) }

// The streams of a multiplexed session.

type wire struct{ x *session }

func (w wire) Read(b []byte) (int, error)  { return w.x.in.Read(b) }
func (w wire) Write(b []byte) (int, error) { return w.x.ch.Write(b) }
func (w wire) Close() error                { return w.x.in.Close() }

func (x *session) accept() {
	cfg := smux.DefaultConfig()
	cfg.KeepAliveDisabled = true
	mux, err := smux.Server(wire{x}, cfg)
	if err != nil {
		x.ch.End(err)
		return
	}
	defer mux.Close()
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			return
		}
		conn, err := x.dial()
		if err != nil {
			var flag [4]byte
			binary.BigEndian.PutUint32(flag[:], datachannel.ConnectToPortError)
			_ = x.ch.Send(datachannel.Flag, flag[:])
			_ = stream.Close()
			continue
		}
		// As in the agent, the end of one direction is the end of both.
		x.s.work.Go(func() {
			_, _ = io.Copy(stream, conn)
			_ = stream.Close()
		})
		x.s.work.Go(func() {
			_, _ = io.Copy(conn, stream)
			_ = conn.Close()
		})
	}
}

// socket serves a client's WebSocket.
func (s *Service) socket(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	x := s.sessions[id]
	s.mu.Unlock()
	if x == nil {
		http.NotFound(w, r)
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(1 << 20)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	kind, b, err := ws.Read(ctx)
	var open datachannel.Open
	if err != nil || kind != websocket.MessageText || json.Unmarshal(b, &open) != nil || open.SchemaVersion != "1.0" ||
		len(open.RequestID) < 16 || open.ClientID == "" || open.ClientVersion == "" {
		_ = ws.Close(websocket.StatusPolicyViolation, "that opens no data channel")
		return
	}
	s.mu.Lock()
	good := open.Token == x.token && open.Token != ""
	if good {
		x.token = "" // once
		if x.kick != nil {
			x.kick()
		}
		x.kick = cancel
	}
	s.mu.Unlock()
	if !good {
		_ = ws.Close(websocket.StatusPolicyViolation, "the token is not valid")
		return
	}
	x.serving.Lock() // until the socket before has let go
	defer x.serving.Unlock()
	_ = x.ch.Serve(ctx, &faulty{x: x, ws: ws})
	_ = ws.Close(websocket.StatusNormalClosure, "")
}

// faulty is a WebSocket that treats frames as the options say.
type faulty struct {
	x    *session
	ws   *websocket.Conn
	out  line
	in   line
	next [][]byte // that have been read
}

// line is what one direction holds back.
type line struct {
	held  []byte
	after int
}

var errDropped = errors.New("the socket was dropped, as the test says")

// pass says what arrives now of a frame.
func (f *faulty) pass(l *line, toAgent bool, frame []byte) (now [][]byte, drop bool) {
	fault := Pass
	if decide := f.x.s.o.Fault; decide != nil {
		at := Frame{Session: f.x.info.ID, ToAgent: toAgent}
		if m, err := datachannel.Parse(frame); err == nil {
			at.Type, at.Payload = m.Type, m.PayloadType
		}
		i := 0
		if toAgent {
			i = 1
		}
		f.x.s.mu.Lock()
		f.x.count[i]++
		at.N = f.x.count[i]
		f.x.s.mu.Unlock()
		fault = decide(at)
	}
	switch fault {
	case Pass:
		now = [][]byte{frame}
	case Duplicate:
		now = [][]byte{frame, frame}
	case Late:
		if l.held == nil {
			l.held, l.after = frame, 3
		} else {
			now = [][]byte{frame}
		}
	case Drop:
		return nil, true
	case DropAfter:
		now, drop = [][]byte{frame}, true
	}
	if l.held != nil {
		if l.after--; l.after < 0 {
			now, l.held = append(now, l.held), nil
		}
	}
	return now, drop
}

func (f *faulty) Write(ctx context.Context, frame []byte) error {
	now, drop := f.pass(&f.out, false, frame)
	for _, b := range now {
		if err := f.ws.Write(ctx, websocket.MessageBinary, b); err != nil {
			return err
		}
	}
	if drop {
		_ = f.ws.CloseNow()
		return errDropped
	}
	return nil
}

func (f *faulty) Read(ctx context.Context) ([]byte, error) {
	for len(f.next) == 0 {
		_, b, err := f.ws.Read(ctx)
		if err != nil {
			return nil, err
		}
		now, drop := f.pass(&f.in, true, b)
		if f.next = now; drop {
			_ = f.ws.CloseNow()
			if len(f.next) == 0 {
				return nil, errDropped
			}
		}
	}
	b := f.next[0]
	f.next = f.next[1:]
	return b, nil
}
