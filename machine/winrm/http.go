package winrm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bodgit/ntlmssp"
)

// client sends messages and gets replies.
type client struct {
	cfg   Config
	url   string
	proxy func(*http.Request) (*url.URL, error)
	tls   *tls.Config
	grace time.Duration // beyond a request's own timeout

	mu   sync.Mutex
	idle []*session
}

// errors of connecting that no retry heals, or that only the machine's own
// start heals.
type (
	// authError is a refused user or password.
	authError struct{ user, scheme string }
	// schemeError says that the machine does not offer the way to log in.
	schemeError struct{ want, offered string }
	// weakError says that the machine would have messages unencrypted.
	weakError struct{ flags uint32 }
	// statusError is an HTTP status with nothing of WS-Management in it.
	statusError struct {
		status int
		text   string
	}
)

func (e *authError) Error() string {
	return fmt.Sprintf("the machine refused the password of user %q (HTTP 401 to %s)", e.user, e.scheme)
}

func (e *schemeError) Error() string {
	s := fmt.Sprintf("the machine does not offer %s to log in, but %s", e.want, e.offered)
	if e.want == "Basic" {
		return s + "; set winrm_use_ntlm = true, or allow Basic on the machine (WSMan:\\localhost\\Service\\Auth\\Basic)"
	}
	return s
}

func (e *weakError) Error() string {
	return fmt.Sprintf("the machine does not encrypt by NTLM (flags %#08x)", e.flags)
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("HTTP status %d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

func newClient(cfg Config) (*client, error) {
	c := &client{cfg: cfg, grace: 30 * time.Second}
	scheme := "http"
	if cfg.HTTPS {
		scheme = "https"
		c.tls = &tls.Config{ServerName: cfg.ServerName, InsecureSkipVerify: cfg.Insecure}
		if len(cfg.CACert) > 0 {
			c.tls.RootCAs = x509.NewCertPool()
			if !c.tls.RootCAs.AppendCertsFromPEM(cfg.CACert) {
				return nil, errors.New("the CA certificate is not in PEM form")
			}
		}
	}
	c.url = scheme + "://" + net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port)) + "/wsman"
	switch {
	case cfg.NoProxy:
	case cfg.Proxy != "":
		u, err := url.Parse(cfg.Proxy)
		if err != nil || u.Host == "" {
			return nil, errors.New("the proxy's address is no URL") // without it: it may hold a password
		}
		c.proxy = http.ProxyURL(u)
	default:
		c.proxy = http.ProxyFromEnvironment
	}
	return c, nil
}

// session is a way to the machine. With NTLM it is one connection, since that
// is what logs in, and one user at a time has it.
type session struct {
	c    *client
	http *http.Client
	ntlm *ntlmssp.Client // nil: Basic, or not logged in yet
}

func (c *client) newSession() *session {
	t := &http.Transport{
		Proxy: c.proxy, TLSClientConfig: c.tls.Clone(),
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true, MaxResponseHeaderBytes: 64 << 10,
	}
	if c.cfg.NTLM {
		t.MaxConnsPerHost = 1
	}
	return &session{c: c, http: &http.Client{
		Transport: t,
		// The password goes to nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (c *client) take() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return s
	}
	return c.newSession()
}

func (c *client) giveBack(s *session, err error) {
	if err != nil && c.cfg.NTLM {
		s.http.CloseIdleConnections() // its sequence numbers no longer agree
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) < maxShells*2 {
		c.idle = append(c.idle, s)
		return
	}
	s.http.CloseIdleConnections()
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.idle {
		s.http.CloseIdleConnections()
	}
	c.idle = nil
}

// do sends one message and reads its reply.
func (c *client) do(ctx context.Context, r request) (*reply, error) {
	text, id := r.xml(c.url)
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout+c.grace, fmt.Errorf("no answer within %v", r.timeout+c.grace))
	defer cancel()
	s := c.take()
	status, body, err := s.exchange(ctx, []byte(text))
	c.giveBack(s, err)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, plain(err)
	}
	rep, err := parseReply(body, id)
	if _, ok := errors.AsType[*fault](err); !ok && status != http.StatusOK {
		return nil, &statusError{status, oneLine(string(body[:min(len(body), 200)]))}
	}
	return rep, err
}

// plain takes the method and the URL off an error of net/http.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

const soapType = "application/soap+xml;charset=UTF-8"

func (s *session) exchange(ctx context.Context, text []byte) (status int, body []byte, err error) {
	if !s.c.cfg.NTLM {
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(s.c.cfg.User+":"+s.c.cfg.Password))
		resp, body, err := s.post(ctx, soapType, basic, text)
		if err != nil {
			return 0, nil, err
		}
		if resp.StatusCode == http.StatusUnauthorized {
			return 0, nil, s.refused(resp, "Basic")
		}
		return resp.StatusCode, body, nil
	}
	// A connection that was idle may have been closed, and with it the login.
	for try := 0; ; try++ {
		fresh := s.ntlm == nil
		if fresh {
			if err := s.login(ctx); err != nil {
				return 0, nil, err
			}
		}
		status, body, err := s.onLogin(ctx, text)
		if err == nil && status == http.StatusUnauthorized {
			s.ntlm = nil
			if !fresh && try == 0 {
				continue
			}
			return 0, nil, errors.New("the machine forgot the NTLM login at once (is there a proxy that shares connections?)")
		}
		return status, body, err
	}
}

func (s *session) post(ctx context.Context, contentType, authorization string, body []byte) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.c.url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "Ingot")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := readAll(resp.Body, replyLimit)
	return resp, b, err
}

// refused tells a wrong password from a way to log in that is not offered.
func (s *session) refused(resp *http.Response, scheme string) error {
	var offered []string
	for _, v := range resp.Header.Values("WWW-Authenticate") {
		name, _, _ := strings.Cut(strings.TrimSpace(v), " ")
		if strings.EqualFold(name, scheme) {
			return &authError{s.c.cfg.User, scheme}
		}
		offered = append(offered, oneLine(name))
	}
	if offered == nil {
		offered = []string{"nothing"}
	}
	return &schemeError{scheme, strings.Join(offered, ", ")}
}

// The flags of MS-NLMP that make sealing as strong as NTLM has it.
const ntlmSealing = 0x00000001 | 0x00000010 | 0x00000020 | 0x00080000 | 0x20000000 | 0x40000000

// login makes the connection one of the user's, by empty messages.
func (s *session) login(ctx context.Context) error {
	user, domain := s.c.cfg.User, ""
	if d, u, ok := strings.Cut(user, `\`); ok {
		user, domain = u, d
	}
	n, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(user, s.c.cfg.Password), ntlmssp.SetDomain(domain), ntlmssp.SetVersion(ntlmssp.DefaultVersion()))
	if err != nil {
		return err
	}
	hello, err := n.Authenticate(nil, nil)
	if err != nil {
		return fmt.Errorf("NTLM: %w", err)
	}
	resp, body, err := s.post(ctx, soapType, "Negotiate "+base64.StdEncoding.EncodeToString(hello), nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return &statusError{resp.StatusCode, oneLine(string(body[:min(len(body), 200)]))}
	}
	var challenge []byte
	for _, v := range resp.Header.Values("WWW-Authenticate") {
		if name, token, ok := strings.Cut(v, " "); ok && strings.EqualFold(name, "Negotiate") {
			challenge, err = base64.StdEncoding.DecodeString(strings.TrimSpace(token))
		}
	}
	if challenge == nil {
		if refused := s.refused(resp, "Negotiate"); !errors.As(refused, new(*authError)) {
			return refused
		}
		return errors.New("the machine offers Negotiate and then gives no NTLM challenge")
	}
	if err != nil {
		return fmt.Errorf("the NTLM challenge: %w", err)
	}
	answer, err := answerChallenge(n, challenge, s.seals())
	if err != nil {
		return fmt.Errorf("the NTLM challenge: %w", err)
	}
	resp, body, err = s.post(ctx, soapType, "Negotiate "+base64.StdEncoding.EncodeToString(answer), nil)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusUnauthorized:
		return &authError{s.c.cfg.User, "NTLM"}
	case resp.StatusCode != http.StatusOK:
		return &statusError{resp.StatusCode, oneLine(string(body[:min(len(body), 200)]))}
	}
	s.ntlm = n
	return nil
}

// seals says whether the messages are encrypted by NTLM: TLS does it otherwise.
func (s *session) seals() bool { return !s.c.cfg.HTTPS }

// answerChallenge refuses a machine that would have the messages go in the
// clear, and survives what the library does not expect.
func answerChallenge(n *ntlmssp.Client, challenge []byte, seal bool) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			answer, err = nil, fmt.Errorf("it is malformed (%v)", p)
		}
	}()
	if len(challenge) < 32 {
		return nil, errors.New("it is too short")
	}
	if flags := binary.LittleEndian.Uint32(challenge[20:]); seal && flags&ntlmSealing != ntlmSealing {
		return nil, &weakError{flags}
	}
	return n.Authenticate(challenge, nil)
}

func (s *session) onLogin(ctx context.Context, text []byte) (int, []byte, error) {
	if !s.seals() {
		resp, body, err := s.post(ctx, soapType, "", text)
		if err != nil {
			return 0, nil, err
		}
		return resp.StatusCode, body, nil
	}
	sealed, signature, err := s.ntlm.SecuritySession().Wrap(text)
	if err != nil {
		return 0, nil, err
	}
	resp, body, err := s.post(ctx, sealedType, "", pack(sealed, signature, len(text)))
	if err != nil {
		return 0, nil, err
	}
	if resp.StatusCode == http.StatusUnauthorized {
		return resp.StatusCode, nil, nil
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "multipart/encrypted" {
		if resp.StatusCode == http.StatusOK {
			return 0, nil, &damaged{errors.New("the reply is not encrypted, and may not be the machine's")}
		}
		return 0, nil, &statusError{resp.StatusCode, ""} // what is in it nobody vouches for
	}
	sealed, signature, length, err := unpack(body)
	if err != nil {
		return 0, nil, &damaged{fmt.Errorf("the encrypted reply: %w", err)}
	}
	body, err = s.ntlm.SecuritySession().Unwrap(sealed, signature)
	if err != nil {
		return 0, nil, &damaged{fmt.Errorf("the encrypted reply: %w", err)}
	}
	if len(body) != length {
		return 0, nil, &damaged{fmt.Errorf("the encrypted reply: %d bytes, said to be %d", len(body), length)}
	}
	return resp.StatusCode, body, nil
}

// The form of an encrypted message, MS-WSMV 2.2.9.1.
const (
	sealedProtocol = "application/HTTP-SPNEGO-session-encrypted"
	sealedType     = `multipart/encrypted;protocol="` + sealedProtocol + `";boundary="Encrypted Boundary"`
	boundary       = "--Encrypted Boundary"
	sealedHead     = "\tContent-Type: application/octet-stream\r\n"
)

func pack(sealed, signature []byte, length int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, boundary+"\r\n\tContent-Type: "+sealedProtocol+"\r\n\tOriginalContent: type="+soapType+";Length=%d\r\n"+boundary+"\r\n"+sealedHead, length)
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(signature))))
	b.Write(signature)
	b.Write(sealed)
	b.WriteString(boundary + "--\r\n")
	return b.Bytes()
}

var errSealed = errors.New("it is not of the form of MS-WSMV")

func unpack(b []byte) (sealed, signature []byte, length int, err error) {
	head, rest, ok := bytes.Cut(b, []byte("Length="))
	if !ok || !bytes.Contains(head, []byte(sealedProtocol)) {
		return nil, nil, 0, errSealed
	}
	number, rest, ok := bytes.Cut(rest, []byte("\r\n"))
	if !ok {
		return nil, nil, 0, errSealed
	}
	if length, err = strconv.Atoi(string(bytes.TrimSpace(number))); err != nil || length < 0 {
		return nil, nil, 0, errSealed
	}
	_, data, ok := bytes.Cut(rest, []byte("application/octet-stream\r\n"))
	if !ok {
		return nil, nil, 0, errSealed
	}
	data, ok = bytes.CutSuffix(bytes.TrimSuffix(data, []byte("\r\n")), []byte(boundary+"--"))
	if !ok || len(data) < 20 || binary.LittleEndian.Uint32(data) != 16 {
		return nil, nil, 0, errSealed
	}
	return data[20:], data[4:20], length, nil
}
