package specs

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/ingotbuild/ingot/machine"
)

// distant is a machine without a shell: what is asked of it from outside must
// need none. Connections from inside it are counted.
type distant struct {
	machine.Machine
	address string
	dialed  atomic.Int64
	refuse  error
}

func (d *distant) Platform() machine.Platform { return machine.Platform{OS: "linux"} }
func (d *distant) Address() string            { return d.address }
func (d *distant) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.dialed.Add(1)
	if d.refuse != nil {
		return nil, d.refuse
	}
	if network != "tcp" {
		return nil, fmt.Errorf("%w: no %s", machine.ErrCannotDial, network)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return mute{c}, nil
}

// mute knows no deadlines, as connections through SSH.
type mute struct{ net.Conn }

func (mute) SetDeadline(time.Time) error      { return errors.New("no deadlines") }
func (mute) SetReadDeadline(time.Time) error  { return errors.New("no deadlines") }
func (mute) SetWriteDeadline(time.Time) error { return errors.New("no deadlines") }

// isolated is a machine that cannot be reached in any way.
type isolated struct{ machine.Machine }

func (isolated) Platform() machine.Platform { return machine.Platform{OS: "linux"} }

func port(t testing.TB, address string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// patient gives a busy host more than the default time for an answer.
func patient(s *Spec) {
	for i := range s.Checks {
		if c := &s.Checks[i]; c.Timeout == defaultTimeout {
			c.Timeout = time.Minute
		}
	}
}

// wanted runs a spec whose lines say what is to come of them: # STATUS: TEXT.
func wanted(t *testing.T, m machine.Machine, src string, opt RunOptions) *Report {
	t.Helper()
	s, diags := parse(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	patient(s)
	r, err := s.Run(t.Context(), m, opt)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(src, "\n")
	for _, x := range r.Results {
		_, want, ok := strings.Cut(lines[x.Line-1], " # ")
		status, text, _ := strings.Cut(want, ": ")
		if got := x.Actual + x.Message; !ok || string(x.Status) != status || !strings.Contains(got, text) {
			t.Errorf("line %d: %s %q %s %s: %s: %s\n\twanted %s", x.Line, x.Resource, x.Subject, x.Property, x.Expect, x.Status, got, want)
		}
	}
	return r
}

func TestHTTPFromOutside(t *testing.T) {
	var posts atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Host", r.Host)
		w.Header().Set("X-Agent", r.UserAgent())
		fmt.Fprintln(w, `{"status": "ok", "nodes": [{"name": "a"}]}`)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		user, password, _ := r.BasicAuth()
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s:%s %s %s %s", r.Method, user, password, r.Header.Get("X-Token"), r.Header.Get("Authorization"), b)
	})
	mux.HandleFunc("/old", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/health", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/secret", http.StatusFound)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	plain := httptest.NewServer(mux)
	defer plain.Close()
	secure := httptest.NewUnstartedServer(mux)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	// Port 1 is closed: no other test is given it.
	src := strings.NewReplacer("PLAIN", port(t, plain.Listener.Addr().String()), "SECURE", port(t, secure.Listener.Addr().String()), "CLOSED", "1", "CA", ca).Replace(`
http "http://machine:PLAIN/health" {
  be_reachable = true # pass: HTTP/1.1 200
  have_header = "content-type" # pass: application/json
  its "status" { eq = 200 } # pass
  its "status" { be_in = [301, 302] } # fail: 200
  its "body" { match = "\"status\": \"ok\"" } # pass
  its "headers.X-Host" { eq = "127.0.0.1:PLAIN" } # pass
  its "headers.x-agent" { eq = "Ingot" } # pass
  its "headers.Server" { eq = "x" } # fail: no such header
  its "body_as_json.nodes[0].name" { eq = "a" } # pass
  its "response_time" { be_less_than = 60 } # pass
  its "protocol" { eq = "HTTP/1.1" } # pass
  its "tls_version" { eq = "TLS 1.3" } # fail: it is not encrypted
  its "certificate.issuer" { eq = "x" } # fail: does not speak TLS
  should_not {
    have_header = "X-Powered-By" # pass
    be_reachable = true # fail: HTTP/1.1 200
  }
}
http "http:///health" {
  connect_to = "127.0.0.1:PLAIN"
  its "status" { eq = 200 } # pass
}
http "http://app.example/health" {
  connect_to = "machine:PLAIN"
  its "headers.X-Host" { eq = "app.example" } # pass
}
http "http://machine:PLAIN/health" {
  host = "www.app.example"
  its "headers.X-Host" { eq = "www.app.example" } # pass
}
http "http://machine:PLAIN/old" {
  its "status" { eq = 302 } # pass
  its "headers.Location" { eq = "/health" } # pass
}
http "http://machine:PLAIN/old" {
  follow_redirects = true
  its "status" { eq = 200 } # pass
  its "url" { match = "/health$" } # pass
}
http "http://machine:PLAIN/away" {
  follow_redirects = true
  be_reachable = true # pass: 302
  its "status" { eq = 200 } # error: redirects to another host, 169.254.169.254
}
http "http://machine:PLAIN/loop" {
  follow_redirects = true
  its "status" { eq = 200 } # error: more than 10 times
}
http "http://machine:PLAIN/broken" {
  be_reachable = true # pass: 503
  its "status" { eq = 200 } # fail: 503
  its "body_as_json.x" { eq = 1 } # error
}
http "http://machine:PLAIN/echo" {
  method = "PUT"
  body = "line\ntwo"
  basic_auth = { user = "me", password = "sesame" }
  its "body" { match = "^PUT me:sesame" } # pass
  its "body" { match = "two$" } # pass
}
http "https://machine:SECURE/health" {
  be_reachable = true # fail: certificate
  its "status" { eq = 200 } # error: certificate
}
http "https://machine:SECURE/health" {
  insecure = true
  its "status" { eq = 200 } # pass
  its "protocol" { eq = "HTTP/2.0" } # fail: HTTP/1.1
  its "tls_version" { eq = "TLS 1.3" } # pass
}
http "https://machine:SECURE/health" {
  ca_file = "CA"
  host = "example.com"
  its "status" { eq = 200 } # pass
  its "headers.X-Host" { eq = "example.com" } # pass
  its "certificate.subject_alt_names" { include = "DNS:example.com" } # pass
  its "certificate.validity_in_days" { be_greater_than = 30 } # pass
  its "certificate.subject" { match = "Acme" } # pass
}
http "https://machine:SECURE/health" {
  ca_file = "CA"
  host = "other.example"
  be_reachable = true # fail: other.example
}
http "http://machine:CLOSED/" {
  be_reachable = true # fail: connection refused
  its "status" { eq = 200 } # error: connection refused
  should_not {
    be_reachable = true # pass: connection refused
    its "status" { eq = 200 } # error: connection refused
  }
}
`)
	src = strings.ReplaceAll(src, `"`+ca+`"`, fmt.Sprintf("%q", ca))
	m := &distant{address: "127.0.0.1"}
	r := wanted(t, m, src, RunOptions{})
	if m.dialed.Load() > 0 || r.RoundTrips > 0 {
		t.Errorf("%d connections from inside, %d round trips", m.dialed.Load(), r.RoundTrips)
	}
	if posts.Load() != 1 {
		t.Errorf("one request was made %d times", posts.Load())
	}

	// The same through the machine, which has no address. Its name is localhost then.
	from := strings.NewReplacer(`eq = "127.0.0.1:`, `eq = "localhost:`, `connect_to = "127.0.0.1:`, `connect_to = "machine:`).Replace(src)
	var inner []string
	for _, l := range strings.Split(from, "\n") {
		if strings.HasPrefix(l, "http ") {
			l += "\n  from = \"machine\""
		}
		inner = append(inner, l)
	}
	m = &distant{}
	wanted(t, m, strings.Join(inner, "\n"), RunOptions{})
	if m.dialed.Load() == 0 {
		t.Error("the machine made no connection")
	}
}

func TestNoWay(t *testing.T) {
	src := `
http "http://machine/" {
  be_reachable = true # error: this host knows no address of the machine
}
tcp "22" {
  from = "machine"
  be_reachable = true # error: no way to connect from inside this machine
  its "tls_version" { eq = "TLS 1.3" } # error: no way to connect
}
`
	wanted(t, isolated{}, src, RunOptions{})
	wanted(t, &distant{address: "127.0.0.1", refuse: fmt.Errorf("%w: forwarding is prohibited", machine.ErrCannotDial)}, `
smtp "25" {
  from = "machine"
  be_reachable = true # error: forwarding is prohibited
}
dns "x.example" {
  server = "machine"
  from = "machine"
  be_resolvable = true # error: forwarding is prohibited
}
`, RunOptions{})
}

// hostileServer answers every connection in its own way.
func hostileServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }()
		}
	}()
	return port(t, l.Addr().String())
}

func TestHostileServers(t *testing.T) {
	forever := func(head, s string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, err := io.WriteString(c, head)
			for err == nil {
				_, err = io.WriteString(c, s)
			}
		}
	}
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	src := strings.NewReplacer(
		"ENDLESS", hostileServer(t, forever("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 4096))),
		"HEADERS", hostileServer(t, forever("HTTP/1.1 200 OK\r\n", "X-A: "+strings.Repeat("x", 4096)+"\r\n")),
		"CONTINUE", hostileServer(t, forever("", "HTTP/1.1 100 Continue\r\n\r\n")),
		"GARBAGE", hostileServer(t, func(c net.Conn) { _, _ = io.WriteString(c, "\x1b[31m\x00\xff\n\n\n") }),
		"SILENT", hostileServer(t, silent),
		"STUCK", hostileServer(t, func(c net.Conn) {
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			silent(c)
		}),
		"SHORT", hostileServer(t, func(c net.Conn) {
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		}),
		"MAIL", hostileServer(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "220 hello\r\n")
			forever("", "250-"+strings.Repeat("x", 4000)+"\r\n")(c)
		}),
		"GREET", hostileServer(t, func(c net.Conn) {
			var err error
			for err == nil {
				_, err = io.WriteString(c, "220-"+strings.Repeat("x", 4000)+"\r\n")
			}
		}),
		"INJECT", hostileServer(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "220 hello\r\n250-me\r\n250 STARTTLS\r\n220 go\r\n250 injected\r\n")
			silent(c)
		}),
	).Replace(`
http "http://machine:ENDLESS/" {
  its "status" { eq = 200 } # pass
  its "body" { match = "y" } # error: longer than the 1048576 bytes
  be_reachable = true # pass
}
http "http://machine:HEADERS/" {
  be_reachable = true # fail: exceeded
  its "status" { eq = 200 } # error: exceeded
}
http "http://machine:CONTINUE/" {
  timeout = "1s"
  its "status" { eq = 200 } # error
}
http "http://machine:GARBAGE/" {
  be_reachable = true # fail: malformed HTTP response
  its "status" { eq = 200 } # error: malformed HTTP response
}
http "http://machine:SILENT/" {
  timeout = "1s"
  be_reachable = true # fail: no answer within 1s
  its "status" { eq = 200 } # error: no answer within 1s
}
http "http://machine:STUCK/" {
  timeout = "6s"
  its "status" { eq = 200 } # pass
  its "body" { eq = "half" } # error: the body did not end: no answer within 6s
}
http "http://machine:SHORT/" {
  its "body" { eq = "half" } # error: the body broke off
}
tcp "SILENT" {
  timeout = "6s"
  be_reachable = true # pass
  have_valid_certificate = true # error: no answer within 6s
}
tcp "GARBAGE" {
  its "tls_version" { eq = "TLS 1.3" } # error: it does not speak TLS
  should_not { have_valid_certificate = true } # error: it does not speak TLS
}
smtp "SILENT" {
  timeout = "1s"
  be_reachable = true # fail: no answer within 1s
  its "banner" { eq = "x" } # error: no answer within 1s
}
smtp "GARBAGE" {
  be_reachable = true # fail: no greeting
}
smtp "MAIL" {
  be_reachable = true # pass: hello
  its "extensions" { include = "x" } # error: its answer to EHLO
  should_not { have_extension = "STARTTLS" } # error: its answer to EHLO
}
smtp "GREET" {
  be_reachable = true # fail: no greeting
}
smtp "INJECT" {
  its "tls_version" { eq = "TLS 1.3" } # error: says more than its answer
}
`)
	for name, m := range map[string]*distant{"runner": {address: "127.0.0.1"}, "machine": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // what is waited for is time
			from := src
			if name == "machine" {
				from = strings.ReplaceAll(src, " {\n  ", " {\n  from = \"machine\"\n  ")
			}
			wanted(t, m, from, RunOptions{})
		})
	}
}

// A cancelled run knows nothing, and says so.
func TestOutsideCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := hostileServer(t, func(c net.Conn) { cancel(); _, _ = io.Copy(io.Discard, c) })
	s, diags := parse(t, fmt.Sprintf("http \"http://machine:%s/\" {\n  be_reachable = true\n  should_not { be_reachable = true }\n}\n", p))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	r, err := s.Run(ctx, &distant{address: "127.0.0.1"}, RunOptions{})
	if !errors.Is(err, context.Canceled) || r.Counts().Errors != 2 {
		t.Errorf("%v, %+v", err, r.Results)
	}
}

// What is not up yet is asked again, and only what did not pass.
func TestOutsideRetry(t *testing.T) {
	var n, other atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			other.Add(1)
			return
		}
		if n.Add(1) < 2 {
			w.WriteHeader(503)
		}
	}))
	defer srv.Close()
	r := wanted(t, &distant{}, fmt.Sprintf(`
http "http://machine:%[1]s/" {
  its "status" { eq = 200 } # pass
  retry {
    within   = "30s"
    interval = "1s"
  }
}
http "http://machine:%[1]s/other" {
  its "status" { eq = 200 } # pass
}
`, port(t, srv.Listener.Addr().String())), RunOptions{Address: "127.0.0.1"})
	if n.Load() != 2 || other.Load() != 1 || r.Results[0].Tries != 2 {
		t.Errorf("%d and %d requests, %d tries", n.Load(), other.Load(), r.Results[0].Tries)
	}
}

// What was given as a secret is in no result, even if the machine repeats it.
func TestOutsideSecrets(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"), " ", r.Header.Get("X-Token"), " me hunter2 sesame")
	}))
	defer srv.Close()
	src := fmt.Sprintf(`
http "http://machine:%s/" {
  basic_auth = { user = "me", password = secret }
  headers    = { X-Token = secret }
  its "body" { eq = "nothing" }
  its "body" { match = "sesame" }
}
`, port(t, srv.Listener.Addr().String()))
	s, diags := parse(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	r, err := s.Run(t.Context(), &distant{address: "127.0.0.1"}, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Results {
		for _, secret := range []string{"hunter2", "bWU6aHVudGVyMg=="} {
			if strings.Contains(fmt.Sprintf("%+v", x), secret) {
				t.Errorf("%s is in %+v", secret, x)
			}
		}
		if !strings.Contains(x.Actual, hidden) {
			t.Errorf("%+v", x)
		}
	}
	if r.Results[0].Status != Fail || r.Results[1].Status != Pass {
		t.Errorf("%+v", r.Results)
	}
}

func TestTCPAndTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	wanted(t, &distant{address: "127.0.0.1"}, strings.NewReplacer("PORT", port(t, srv.Listener.Addr().String()), "CA", fmt.Sprintf("%q", ca)).Replace(`
tcp "PORT" {
  be_reachable = true # pass: connected to 127.0.0.1
  have_valid_certificate = true # fail: unknown authority
  its "tls_version" { eq = "TLS 1.3" } # pass
  its "certificate.validity_in_days" { be_greater_than = 1 } # pass
}
tcp "127.0.0.1:PORT" {
  ca_file = CA
  have_valid_certificate = true # pass: of O=Acme Co
}
tcp "machine:PORT" {
  ca_file = CA
  host = "nobody.example"
  have_valid_certificate = true # fail: nobody.example
}
tcp "machine:PORT" {
  from = "machine"
  ca_file = CA
  host = "example.com"
  be_reachable = true # pass
  have_valid_certificate = true # pass
}
`), RunOptions{})
}

func TestSMTP(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	serve := func(c net.Conn, secure bool) {
		conf := &tls.Config{Certificates: cert.TLS.Certificates}
		if secure {
			c = tls.Server(c, conf)
		}
		fmt.Fprint(c, "220 mail.example ESMTP\r\n")
		r := bufio.NewReader(c)
		for {
			l, err := r.ReadString('\n')
			if err != nil {
				return
			}
			switch {
			case strings.HasPrefix(l, "EHLO ci.example"):
				fmt.Fprint(c, "250-mail.example\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 STARTTLS\r\n")
			case strings.HasPrefix(l, "EHLO"):
				fmt.Fprint(c, "250 mail.example\r\n")
			case strings.HasPrefix(l, "STARTTLS"):
				fmt.Fprint(c, "220 go\r\n")
				c = tls.Server(c, conf)
				r = bufio.NewReader(c)
			default:
				fmt.Fprint(c, "221 bye\r\n")
				return
			}
		}
	}
	refusing := hostileServer(t, func(c net.Conn) { fmt.Fprint(c, "554 go away\r\n") })
	src := strings.NewReplacer("PLAIN", hostileServer(t, func(c net.Conn) { serve(c, false) }), "SECURE", hostileServer(t, func(c net.Conn) { serve(c, true) }), "AWAY", refusing).Replace(`
smtp "PLAIN" {
  helo = "ci.example"
  be_reachable = true # pass: mail.example ESMTP
  have_extension = "size" # pass: SIZE 1000
  its "banner" { eq = "mail.example ESMTP" } # pass
  its "extensions" { include = "STARTTLS" } # pass
  its "extensions" { include = "CHUNKING" } # fail: [SIZE 1000, 8BITMIME, STARTTLS]
  its "tls_version" { eq = "TLS 1.3" } # pass
  its "certificate.subject_alt_names" { include = "DNS:example.com" } # pass
  have_valid_certificate = true # fail: x509: certificate
}
smtp "PLAIN" {
  should_not { have_extension = "STARTTLS" } # pass
}
smtp "SECURE" {
  helo = "ci.example"
  tls = true
  be_reachable = true # pass
  its "tls_version" { eq = "TLS 1.3" } # pass
}
smtp "PLAIN" {
  tls = true
  be_reachable = true # fail: does not speak TLS
}
smtp "AWAY" {
  be_reachable = true # fail: 554 "go away"
  its "banner" { eq = "x" } # error: 554
}
`)
	wanted(t, &distant{address: "127.0.0.1"}, src, RunOptions{})
	wanted(t, &distant{}, strings.ReplaceAll(src, " {\n  ", " {\n  from = \"machine\"\n  "), RunOptions{})
}

func TestDNS(t *testing.T) {
	zone := map[string][]string{
		"app.example. A":              {"app.example. 60 IN A 192.0.2.1", "app.example. 60 IN A 192.0.2.2"},
		"app.example. AAAA":           {"app.example. 60 IN AAAA 2001:db8::1"},
		"www.example. A":              {"www.example. 60 IN CNAME app.example.", "app.example. 60 IN A 192.0.2.1"},
		"app.example. MX":             {"app.example. 60 IN MX 10 mail.example."},
		"app.example. TXT":            {`app.example. 60 IN TXT "v=spf1 " "-all"`},
		"long.example. TXT":           {},
		"empty.example. A":            {},
		"1.2.0.192.in-addr.arpa. PTR": {"1.2.0.192.in-addr.arpa. 60 IN PTR app.example."},
	}
	for i := range 60 {
		zone["long.example. TXT"] = append(zone["long.example. TXT"], fmt.Sprintf(`long.example. 60 IN TXT "text %d %s"`, i, strings.Repeat("x", 100)))
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		switch name {
		case "broken.example.":
			m.Rcode = dns.RcodeServerFailure
		case "silent.example.":
			return
		case "forged.example.":
			m.Question[0].Name = "other.example."
			rr, _ := dns.NewRR("other.example. 60 IN A 203.0.113.9")
			m.Answer = append(m.Answer, rr)
		default:
			all, ok := zone[name+" "+dns.TypeToString[q.Question[0].Qtype]]
			if !ok && !strings.Contains(name, "example") {
				m.Rcode = dns.RcodeNameError
			}
			for _, s := range all {
				rr, err := dns.NewRR(s)
				if err != nil {
					t.Error(err)
				}
				m.Answer = append(m.Answer, rr)
			}
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && m.Len() > 1232 {
				m.Answer, m.Truncated = nil, true
			}
		}
		_ = w.WriteMsg(m)
	})
	var l net.Listener
	var pc net.PacketConn
	for range 10 { // a port that is free for TCP may be taken for UDP
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if pc, err = net.ListenPacket("udp", l.Addr().String()); err == nil {
			break
		}
		l.Close()
	}
	if pc == nil {
		t.Fatal("no port is free for both")
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: handler}, {PacketConn: pc, Handler: handler}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	src := strings.ReplaceAll(`
dns "app.example" {
  server = "machine:PORT"
  be_resolvable = true # pass: 192.0.2.1, 192.0.2.2, 2001:db8::1
  its "addresses" { include = "2001:db8::1" } # pass
  its "addresses" { include = "192.0.2.9" } # fail: [192.0.2.1, 192.0.2.2, 2001:db8::1]
}
dns "www.example" {
  server = "127.0.0.1:PORT"
  type = "A"
  its "addresses" { include = "192.0.2.1" } # pass
}
dns "app.example" {
  server = "machine:PORT"
  type = "MX"
  its "records" { include = "10 mail.example." } # pass
  its "addresses" { include = "192.0.2.1" } # fail: no addresses
}
dns "app.example" {
  server = "machine:PORT"
  type = "TXT"
  its "records" { include = "v=spf1 -all" } # pass
}
dns "192.0.2.1" {
  server = "machine:PORT"
  type = "PTR"
  its "records" { include = "app.example." } # pass
}
dns "long.example" {
  server = "machine:PORT"
  type = "TXT"
  its "records" { include = "text 59 XXX" } # pass
}
dns "nothing.invalid" {
  server = "machine:PORT"
  be_resolvable = true # fail: knows no A or AAAA record
  should_not {
    be_resolvable = true # pass: knows no A
    its "addresses" { include = "192.0.2.1" } # fail: knows no A
  }
}
dns "empty.example" {
  server = "machine:PORT"
  be_resolvable = true # fail: knows no A or AAAA record
}
dns "broken.example" {
  server = "machine:PORT"
  be_resolvable = true # error: SERVFAIL
  should_not { be_resolvable = true } # error: SERVFAIL
}
dns "silent.example" {
  server = "machine:PORT"
  timeout = "1s"
  be_resolvable = true # error: no answer within 1s
}
dns "forged.example" {
  server = "machine:PORT"
  timeout = "1s"
  be_resolvable = true # error: no answer within 1s
}
`, "PORT", port(t, l.Addr().String()))
	src = strings.ReplaceAll(src, "XXX", strings.Repeat("x", 100))
	wanted(t, &distant{address: "127.0.0.1"}, src, RunOptions{})
	m := &distant{}
	wanted(t, m, strings.ReplaceAll(src, " {\n  server", " {\n  from = \"machine\"\n  server"), RunOptions{})
	if m.dialed.Load() == 0 {
		t.Error("the machine made no connection")
	}
}

func TestOutsideRefused(t *testing.T) {
	for src, want := range map[string]string{
		`http "ftp://x/" { be_reachable = true }`:                                             "begins with http:// or https://",
		`http "http://u:p@x/" { be_reachable = true }`:                                        "give a password by basic_auth",
		"http \"http://x/\" {\n  from = \"machin\"\n  be_reachable = true\n}":                 `did you mean "machine"`,
		"http \"http://x/\" {\n  method = \"G T\"\n  be_reachable = true\n}":                  "no HTTP method",
		"http \"http://x/\" {\n  body = \"x\"\n  be_reachable = true\n}":                      "a body needs a method",
		"http \"http://x/\" {\n  headers = { \"A B\" = \"x\" }\n  be_reachable = true\n}":     "no name of a header",
		"http \"http://x/\" {\n  headers = { A = \"x\\r\\nB: y\" }\n  be_reachable = true\n}": "no header may have",
		"http \"http://x/\" {\n  headers = { host = \"x\" }\n  be_reachable = true\n}":        "said by host",
		"http \"http://x/\" {\n  headers = { A = null }\n  be_reachable = true\n}":            "A part of it is null",
		"http \"http://x/\" {\n  basic_auth = { user = \"x\" }\n  be_reachable = true\n}":     "takes user and password",
		"http \"http://x/\" {\n  host = \"a b\"\n  be_reachable = true\n}":                    "no host's name",
		"http \"http://x/\" {\n  connect_to = \"a:0\"\n  be_reachable = true\n}":              "from 1 to 65535",
		"http \"http://x/\" {\n  ca_file = \"/nowhere\"\n  be_reachable = true\n}":            "read ca_file",
		"http \"http://x/\" {\n  ca_file = \"outside_test.go\"\n  be_reachable = true\n}":     "no certificate in PEM form",
		"http \"http://x/\" {\n  insecure = \"si\"\n  be_reachable = true\n}":                 "insecure",
		"http \"http://x/\" {\n  its \"headers.a b\" { eq = 1 }\n}":                           "no attribute",
		`tcp "http" { be_reachable = true }`:                                                  "a port is a number",
		`tcp "a b:1" { be_reachable = true }`:                                                 "no host's name",
		"smtp \"25\" {\n  helo = \"x\\r\\nRCPT\"\n  be_reachable = true\n}":                   "helo",
		`smtp "25" { have_extension = "START TLS" }`:                                          "no extension's name",
		`dns "a b" { be_resolvable = true }`:                                                  "no domain name",
		"dns \"a\" {\n  type = \"ANY\"\n  be_resolvable = true\n}":                            "type is one of",
		"dns \"a\" {\n  from = \"machine\"\n  be_resolvable = true\n}":                        "needs a server",
	} {
		checkRefused(t, src, want)
	}
}
