// Package winrmtest is a WinRM endpoint for tests: a real HTTP server that
// speaks WS-Management as MS-WSMV describes it, with logins by Basic and
// NTLMv2, encryption by NTLM, shells, commands with their streams, limits and
// faults. What a command does, the test says. It is no Windows: what cmd.exe
// and PowerShell make of a command line, it does not prove.
package winrmtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// Server is a WinRM endpoint. Fields are set before the first request.
type Server struct {
	Host string
	Port int
	// CACert is the certificate of a TLS server, in PEM form.
	CACert         []byte
	User, Password string
	// Basic and Negotiate are the logins that it offers.
	Basic, Negotiate bool
	// AllowUnencrypted is Windows' option of that name; TLS is always allowed.
	AllowUnencrypted bool
	// WeakNTLM is a server that would not encrypt.
	WeakNTLM bool
	// MaxEnvelope is the largest message in bytes.
	MaxEnvelope int
	// Run is what a command does; its value is the exit status.
	Run func(*Process) int
	// Intercept may answer an HTTP request itself, and then says true. The
	// action is empty while the message is none (a login, or sealed garbage).
	Intercept func(action string, w http.ResponseWriter, r *http.Request) bool

	http *httptest.Server
	tls  bool

	mu      sync.Mutex
	shells  map[string]*shell
	actions map[string]int
	bytes   int64
}

// Process is a command that runs.
type Process struct {
	Context        context.Context // ends when the command is terminated
	Line           string
	Env            map[string]string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

type shell struct {
	env      map[string]string
	commands map[string]*command
}

type command struct {
	stop  context.CancelFunc
	stdin *io.PipeWriter

	mu      sync.Mutex
	changed chan struct{} // closed and renewed with each change
	out     []piece
	queued  int
	input   [][]byte
	ended   bool // of the input
	done    bool
	status  int
}

type piece struct {
	stream string
	data   []byte
}

// New starts a server that the test's end stops.
func New(t testing.TB, tls bool, setup func(*Server)) *Server {
	t.Helper()
	s := &Server{
		User: "Administrator", Password: "p&<ä\"'", Basic: true, Negotiate: true, AllowUnencrypted: true,
		MaxEnvelope: 500 << 10, shells: map[string]*shell{}, actions: map[string]int{}, tls: tls,
	}
	if setup != nil {
		setup(s)
	}
	s.http = httptest.NewUnstartedServer(s)
	s.http.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, &conn{})
	}
	if tls {
		s.http.StartTLS()
		s.CACert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	} else {
		s.http.Start()
	}
	u, err := url.Parse(s.http.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.Host = u.Hostname()
	if s.Port, err = strconv.Atoi(u.Port()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Reboot()
		s.http.Close()
	})
	return s
}

type connKey struct{}

// conn is what a connection remembers.
type conn struct {
	mu   sync.Mutex
	ntlm ntlm
}

// Reboot ends all shells and connections.
func (s *Server) Reboot() {
	s.mu.Lock()
	for _, sh := range s.shells {
		sh.end()
	}
	s.shells = map[string]*shell{}
	s.mu.Unlock()
	s.http.CloseClientConnections()
}

// ForgetShells ends all shells, as the service's restart does.
func (s *Server) ForgetShells() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shells {
		sh.end()
	}
	s.shells = map[string]*shell{}
}

// Shells is how many shells are open.
func (s *Server) Shells() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.shells)
}

// Count is how often an action was asked for, by the last word of its URI.
func (s *Server) Count(action string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.actions[action]
}

// Received is how many bytes of messages came.
func (s *Server) Received() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

func (sh *shell) end() {
	for _, c := range sh.commands {
		c.stop()
	}
}

// message is a request as the specification has it.
type message struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Header  struct {
		To               string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing To"`
		MessageID        string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing MessageID"`
		Action           string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing Action"`
		ReplyTo          string `xml:"http://schemas.xmlsoap.org/ws/2004/08/addressing ReplyTo>Address"`
		ResourceURI      string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd ResourceURI"`
		MaxEnvelopeSize  int    `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd MaxEnvelopeSize"`
		OperationTimeout string `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OperationTimeout"`
		Selectors        []pair `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd SelectorSet>Selector"`
		Options          []pair `xml:"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd OptionSet>Option"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Header"`
	Body struct {
		Shell *struct {
			Input  string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell InputStreams"`
			Output string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell OutputStreams"`
			Env    []pair `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Environment>Variable"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Shell"`
		CommandLine *struct {
			Command   string   `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Command"`
			Arguments []string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Arguments"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell CommandLine"`
		Send *struct {
			Stream []struct {
				Name      string `xml:",attr"`
				CommandId string `xml:",attr"`
				End       bool   `xml:",attr"`
				Data      string `xml:",chardata"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Stream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Send"`
		Receive *struct {
			DesiredStream struct {
				CommandId string `xml:",attr"`
				Names     string `xml:",chardata"`
			} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell DesiredStream"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Receive"`
		Signal *struct {
			CommandId string `xml:",attr"`
			Code      string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Code"`
		} `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Signal"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

type pair struct {
	Name  string `xml:",attr"`
	Value string `xml:",chardata"`
}

func get(pairs []pair, name string) string {
	for _, p := range pairs {
		if p.Name == name {
			return strings.TrimSpace(p.Value)
		}
	}
	return ""
}

const soapType = "application/soap+xml;charset=UTF-8"

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	s.bytes += int64(len(body))
	s.mu.Unlock()
	c := r.Context().Value(connKey{}).(*conn)
	c.mu.Lock() // a connection has one request at a time anyway
	defer c.mu.Unlock()
	if s.Intercept != nil && len(body) == 0 && s.Intercept("", w, r) {
		return
	}
	if r.URL.Path != "/wsman" {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	sealed := strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/encrypted")
	if !s.login(c, w, r, sealed) {
		return
	}
	if len(body) == 0 { // a login without a message
		w.WriteHeader(http.StatusOK)
		return
	}
	if sealed {
		data, sig, length, err := unpackSealed(body)
		if err == nil {
			body, err = c.ntlm.unseal(data, sig)
		}
		if err != nil || len(body) != length {
			http.Error(w, fmt.Sprint(err), http.StatusBadRequest)
			return
		}
	}
	status, reply := s.handle(w, r, body)
	if reply == nil {
		return
	}
	if !sealed {
		w.Header().Set("Content-Type", soapType)
		w.WriteHeader(status)
		_, _ = w.Write(reply)
		return
	}
	data, sig := c.ntlm.seal(reply)
	w.Header().Set("Content-Type", `multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"`)
	w.WriteHeader(status)
	_, _ = w.Write(packSealed(data, sig, len(reply)))
}

// login says whether the request is the user's. Otherwise it has answered.
func (s *Server) login(c *conn, w http.ResponseWriter, r *http.Request, sealed bool) bool {
	offer := func() bool {
		if s.Negotiate {
			w.Header().Add("WWW-Authenticate", "Negotiate")
		}
		if s.Basic {
			w.Header().Add("WWW-Authenticate", `Basic realm="WSMAN"`)
		}
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	allowed := s.tls || sealed || s.AllowUnencrypted || r.ContentLength == 0
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case scheme == "" && c.ntlm.loggedIn && allowed:
		return true
	case scheme == "Basic" && s.Basic && allowed:
		if user, password, ok := r.BasicAuth(); ok && user == s.User && password == s.Password {
			return true
		}
	case scheme == "Negotiate" && s.Negotiate && allowed:
		msg, err := base64.StdEncoding.DecodeString(token)
		if err != nil || len(msg) < 12 {
			break
		}
		if msg[8] == 1 {
			c.ntlm = ntlm{}
			w.Header().Set("WWW-Authenticate", "Negotiate "+base64.StdEncoding.EncodeToString(c.ntlm.answer(msg, s.WeakNTLM)))
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
		if c.ntlm.challenge == nil {
			break // the challenge was another connection's
		}
		if c.ntlm.check(msg, s.User, s.Password) == nil {
			return true
		}
		c.ntlm = ntlm{}
	}
	return offer()
}

// handle answers one message. A nil reply: it is answered, or has nobody to answer to.
func (s *Server) handle(w http.ResponseWriter, r *http.Request, body []byte) (int, []byte) {
	if len(body) > s.MaxEnvelope {
		return refuse("", "w:EncodingLimit", 0, "The message is larger than MaxEnvelopeSizekb allows.")
	}
	var m message
	if err := xml.Unmarshal(body, &m); err != nil {
		return refuse("", "w:SchemaValidationError", 0, err.Error())
	}
	h := m.Header
	action := h.Action[strings.LastIndexByte(h.Action, '/')+1:]
	s.mu.Lock()
	s.actions[action]++
	s.mu.Unlock()
	if s.Intercept != nil && s.Intercept(action, w, r) {
		return 0, nil
	}
	if h.To == "" || h.MessageID == "" || !strings.HasSuffix(h.ReplyTo, "role/anonymous") || h.MaxEnvelopeSize < 8192 ||
		strings.TrimSpace(h.ResourceURI) != "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd" {
		return refuse(h.MessageID, "a:MessageInformationHeaderRequired", 2150858751, "A header is missing or wrong.")
	}
	timeout, err := time.ParseDuration(strings.ToLower(strings.TrimPrefix(h.OperationTimeout, "PT")))
	if err != nil {
		return refuse(h.MessageID, "w:TimedOut", 0, "OperationTimeout")
	}
	if h.Action == transfer+"Create" {
		return s.create(&m)
	}
	id := get(h.Selectors, "ShellId")
	s.mu.Lock()
	sh := s.shells[id]
	if sh != nil && h.Action == transfer+"Delete" {
		sh.end()
		delete(s.shells, id)
	}
	s.mu.Unlock()
	if sh == nil {
		return refuse(h.MessageID, "w:InvalidSelectors", 2150858843, "The request for the Windows Remote Shell with ShellId "+id+" failed because the shell was not found on the server.")
	}
	b := &m.Body
	switch {
	case h.Action == transfer+"Delete":
		return reply(&m, transfer+"DeleteResponse", "")
	case h.Action == rsp+"Command" && b.CommandLine != nil:
		return s.command(&m, sh)
	case h.Action == rsp+"Send" && b.Send != nil && len(b.Send.Stream) == 1:
		in := b.Send.Stream[0]
		c := s.find(sh, in.CommandId)
		data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(in.Data))
		if c == nil || err != nil || in.Name != "stdin" || !c.feed(data, in.End) {
			return refuse(h.MessageID, "w:InvalidParameter", 2150858752, "There is no such command, or it takes no input.")
		}
		return reply(&m, rsp+"SendResponse", `<rsp:SendResponse/>`)
	case h.Action == rsp+"Receive" && b.Receive != nil:
		c := s.find(sh, b.Receive.DesiredStream.CommandId)
		if c == nil || b.Receive.DesiredStream.Names != "stdout stderr" {
			return refuse(h.MessageID, "w:InvalidParameter", 2150858752, "There is no such command or stream.")
		}
		return s.receive(r.Context(), &m, c, b.Receive.DesiredStream.CommandId, timeout)
	case h.Action == rsp+"Signal" && b.Signal != nil:
		c := s.find(sh, b.Signal.CommandId)
		if c == nil || b.Signal.Code != rsp+"signal/terminate" {
			return refuse(h.MessageID, "w:InvalidParameter", 2150858752, "There is no such command or signal.")
		}
		c.stop()
		return reply(&m, rsp+"SignalResponse", `<rsp:SignalResponse/>`)
	}
	return refuse(h.MessageID, "a:ActionNotSupported", 2150858754, "This action is not supported.")
}

const (
	transfer = "http://schemas.xmlsoap.org/ws/2004/09/transfer/"
	rsp      = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/"
)

func (s *Server) find(sh *shell, id string) *command {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sh.commands[id]
}

func (s *Server) create(m *message) (int, []byte) {
	if m.Body.Shell == nil || m.Body.Shell.Input != "stdin" || m.Body.Shell.Output != "stdout stderr" {
		return refuse(m.Header.MessageID, "w:SchemaValidationError", 0, "Shell")
	}
	sh := &shell{env: map[string]string{}, commands: map[string]*command{}}
	for _, v := range m.Body.Shell.Env {
		sh.env[v.Name] = v.Value
	}
	id := strings.ToUpper(uuid.NewString())
	s.mu.Lock()
	s.shells[id] = sh
	s.mu.Unlock()
	return reply(m, transfer+"CreateResponse", `<x:ResourceCreated><a:Address>http://windows/wsman</a:Address><a:ReferenceParameters>`+
		`<w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">`+id+`</w:Selector></w:SelectorSet>`+
		`</a:ReferenceParameters></x:ResourceCreated><rsp:Shell><rsp:ShellId>`+id+`</rsp:ShellId><rsp:State>Connected</rsp:State></rsp:Shell>`)
}

func (s *Server) command(m *message, sh *shell) (int, []byte) {
	id := strings.ToUpper(uuid.NewString())
	ctx, stop := context.WithCancel(context.Background())
	in, inW := io.Pipe()
	c := &command{stop: stop, stdin: inW, changed: make(chan struct{})}
	line := strings.Join(append([]string{m.Body.CommandLine.Command}, m.Body.CommandLine.Arguments...), " ")
	s.mu.Lock()
	sh.commands[id] = c
	s.mu.Unlock()
	p := &Process{Context: ctx, Line: line, Env: sh.env, Stdin: in, Stdout: &stream{c, ctx, "stdout"}, Stderr: &stream{c, ctx, "stderr"}}
	go c.pump(ctx)
	go func() {
		status := 1
		if s.Run != nil {
			status = s.Run(p)
		}
		_ = in.CloseWithError(io.ErrClosedPipe)
		if ctx.Err() != nil {
			status = -1073741510 // STATUS_CONTROL_C_EXIT
		}
		stop()
		c.change(func() { c.done, c.status = true, status })
	}()
	return reply(m, rsp+"CommandResponse", `<rsp:CommandResponse><rsp:CommandId>`+id+`</rsp:CommandId></rsp:CommandResponse>`)
}

func (c *command) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// feed queues input; pump gives it to the command.
func (c *command) feed(data []byte, end bool) bool {
	ok := true
	c.change(func() {
		if ok = !c.done && !c.ended; ok {
			c.input, c.ended = append(c.input, data), end
		}
	})
	return ok
}

func (c *command) pump(ctx context.Context) {
	for {
		c.mu.Lock()
		input, ended, changed := c.input, c.ended, c.changed
		c.input = nil
		c.mu.Unlock()
		for _, data := range input {
			if _, err := c.stdin.Write(data); err != nil {
				return
			}
		}
		if ended && input == nil {
			c.stdin.Close()
			return
		}
		if input != nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.stdin.CloseWithError(ctx.Err())
			return
		}
	}
}

// stream is an output. It blocks while much is unread, as a pipe does.
type stream struct {
	c    *command
	ctx  context.Context
	name string
}

const queueLimit = 1 << 20

func (o *stream) Write(p []byte) (int, error) {
	for {
		o.c.mu.Lock()
		full, changed := o.c.queued > queueLimit, o.c.changed
		o.c.mu.Unlock()
		if !full {
			break
		}
		select {
		case <-changed:
		case <-o.ctx.Done():
			return 0, o.ctx.Err()
		}
	}
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	o.c.change(func() {
		o.c.out = append(o.c.out, piece{o.name, slices.Clone(p)})
		o.c.queued += len(p)
	})
	return len(p), nil
}

// receive waits for output or the end.
func (s *Server) receive(ctx context.Context, m *message, c *command, id string, timeout time.Duration) (int, []byte) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		c.mu.Lock()
		ready, changed := len(c.out) > 0 || c.done, c.changed
		c.mu.Unlock()
		if ready {
			break
		}
		select {
		case <-changed:
		case <-timer.C:
			return refuse(m.Header.MessageID, "w:TimedOut", 2150858793, "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.")
		case <-ctx.Done():
			return 0, nil
		}
	}
	var b strings.Builder
	b.WriteString(`<rsp:ReceiveResponse>`)
	c.change(func() {
		room := (m.Header.MaxEnvelopeSize - 4096) / 4 * 3
		for len(c.out) > 0 && room > 0 {
			p := &c.out[0]
			n := min(len(p.data), room)
			fmt.Fprintf(&b, `<rsp:Stream Name="%s" CommandId="%s">%s</rsp:Stream>`, p.stream, id, base64.StdEncoding.EncodeToString(p.data[:n]))
			room -= n + 200
			c.queued -= n
			if p.data = p.data[n:]; len(p.data) == 0 {
				c.out = c.out[1:]
			}
		}
		if c.done && len(c.out) == 0 {
			fmt.Fprintf(&b, `<rsp:Stream Name="stdout" CommandId="%[1]s" End="true"></rsp:Stream><rsp:Stream Name="stderr" CommandId="%[1]s" End="true"></rsp:Stream>`+
				`<rsp:CommandState CommandId="%[1]s" State="`+rsp+`CommandState/Done"><rsp:ExitCode>%[2]d</rsp:ExitCode></rsp:CommandState>`, id, c.status)
		} else {
			fmt.Fprintf(&b, `<rsp:CommandState CommandId="%s" State="`+rsp+`CommandState/Running"/>`, id)
		}
	})
	b.WriteString(`</rsp:ReceiveResponse>`)
	return reply(m, rsp+"ReceiveResponse", b.String())
}

const envelope = `<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"` +
	` xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"` +
	` xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><s:Header><a:Action>%s</a:Action>` +
	`<a:MessageID>uuid:%s</a:MessageID><a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To><a:RelatesTo>%s</a:RelatesTo></s:Header><s:Body>%s</s:Body></s:Envelope>`

func reply(m *message, action, body string) (int, []byte) {
	return http.StatusOK, fmt.Appendf(nil, envelope, action, strings.ToUpper(uuid.NewString()), escape(m.Header.MessageID), body)
}

func refuse(to, subcode string, code uint64, text string) (int, []byte) {
	return http.StatusInternalServerError, fmt.Appendf(nil, envelope, "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault", strings.ToUpper(uuid.NewString()), escape(to),
		fmt.Sprintf(`<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>%s</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang="en-US">%s</s:Text></s:Reason>`+
			`<s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="%d" Machine="windows"><f:Message>%[2]s</f:Message></f:WSManFault></s:Detail></s:Fault>`, subcode, escape(text), code))
}

// Fault is the body of a fault, for Intercept.
func Fault(subcode string, code uint64, text string) []byte {
	_, b := refuse("", subcode, code, text)
	return b
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
