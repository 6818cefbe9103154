package specs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
	"golang.org/x/net/http/httpguts"
)

type httpOptions struct {
	From            string            `json:"from"`
	Method          string            `json:"method"`
	Headers         map[string]string `json:"headers"`
	Body            string            `json:"body"`
	Host            string            `json:"host"`
	ConnectTo       string            `json:"connect_to"`
	BasicAuth       map[string]string `json:"basic_auth"`
	Insecure        bool              `json:"insecure"`
	CAFile          string            `json:"ca_file"`
	FollowRedirects bool              `json:"follow_redirects"`
}

type httpAnswer struct {
	unreached unreached
	status    int
	protocol  string
	header    map[string][]string
	url       string
	body      []byte
	bodyErr   error // why the body is not known
	failed    error // why what was asked for did not come, though somebody answered
	chain     []*x509.Certificate
	tls       string
	seconds   float64
}

func httpResource() resource {
	text := func(get func(*httpAnswer) string) attribute {
		return found1(httpAnswers, typeText, func(a *httpAnswer) (value, error) { return value{text: get(a)}, a.err() })
	}
	onKey := func(make func(string) (attribute, error)) func(string) (attribute, error) {
		return func(rest string) (attribute, error) {
			a, err := make(rest)
			a.key = outsideKey
			return a, err
		}
	}
	return resource{
		name:    "http",
		subject: func(label string) error { _, err := httpURL(label); return err },
		values: map[string]cty.Type{
			"from": cty.String, "method": cty.String, "headers": cty.Map(cty.String), "body": cty.String, "host": cty.String, "connect_to": cty.String,
			"basic_auth": cty.Map(cty.String), "insecure": cty.Bool, "ca_file": cty.String, "follow_redirects": cty.Bool,
		},
		hides: func(opts map[string]string) []string {
			var o httpOptions
			if err := readOptions(opts, &o); err != nil || o.BasicAuth == nil {
				return nil
			}
			return []string{base64.StdEncoding.EncodeToString([]byte(o.BasicAuth["user"] + ":" + o.BasicAuth["password"]))}
		},
		check: func(subject string, opts map[string]string) error {
			var o httpOptions
			if err := readOptions(opts, &o); err != nil {
				return err
			}
			return o.check()
		},
		matchers: map[string]matcher{
			"be_reachable": asked1(httpAnswers, true, options(), func(a *httpAnswer, _ argument) (bool, string, error) {
				if a.unreached != "" {
					return false, string(a.unreached), nil
				}
				return true, fmt.Sprintf("%s %d", a.protocol, a.status), nil
			}),
			"have_header": asked1(httpAnswers, true, headerName, func(a *httpAnswer, want argument) (bool, string, error) {
				v, ok := a.header[want.text]
				if !ok {
					return false, "no such header", a.err()
				}
				return true, want.text + ": " + strings.Join(v, ", "), a.err()
			}),
		},
		attributes: merge(map[string]attribute{
			"status":   found1(httpAnswers, typeNumber, func(a *httpAnswer) (value, error) { return value{text: strconv.Itoa(a.status)}, a.err() }),
			"url":      text(func(a *httpAnswer) string { return a.url }),
			"protocol": text(func(a *httpAnswer) string { return a.protocol }),
			"tls_version": found1(httpAnswers, typeText, func(a *httpAnswer) (value, error) {
				if a.tls == "" && a.err() == nil {
					return value{}, missing("it is not encrypted")
				}
				return value{text: a.tls}, a.err()
			}),
			"response_time": found1(httpAnswers, typeNumber, func(a *httpAnswer) (value, error) {
				return value{text: strconv.FormatFloat(a.seconds, 'f', 3, 64)}, a.err()
			}),
			"body": found1(httpAnswers, typeOutput, func(a *httpAnswer) (value, error) {
				return value{text: string(a.body)}, errors.Join(a.err(), a.bodyErr)
			}),
		}, serverCertificate(httpAnswers, func(a *httpAnswer) ([]*x509.Certificate, error) { return a.chain, a.err() })),
		paths: map[string]pathAttribute{
			"headers.": {"NAME", func(rest string) (attribute, error) {
				name, err := canonicalHeader(rest)
				return found1(httpAnswers, typeText, func(a *httpAnswer) (value, error) {
					v, ok := a.header[name]
					if !ok && a.err() == nil {
						return value{}, missing("no such header")
					}
					return value{text: strings.Join(v, "\n")}, a.err()
				}), err
			}},
			"body_as_json.": {"PATH", onKey(documentAt(httpAnswers, decodeJSON, func(a *httpAnswer) (string, error) {
				return string(a.body), errors.Join(a.err(), a.bodyErr)
			}))},
		},
	}
}

func (a *httpAnswer) err() error {
	if a.unreached != "" {
		return errors.New(string(a.unreached))
	}
	return a.failed
}

func httpURL(s string) (*url.URL, error) {
	if err := printable(s); err != nil {
		return nil, err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is not a URL", s)
	case u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		return nil, errors.New("a URL begins with http:// or https://, e.g. \"http://machine/health\"")
	case u.User != nil:
		return nil, errors.New("a URL is shown in every report: give a password by basic_auth")
	}
	return u, nil
}

func merge(a, b map[string]attribute) map[string]attribute {
	maps.Copy(a, b)
	return a
}

var (
	httpMethod = regexp.MustCompile(`^[A-Z]+$`)
	hostName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

func checkHost(s string) error {
	if !hostName.MatchString(s) && net.ParseIP(s) == nil {
		return fmt.Errorf("%q is no host's name and no IP address", s)
	}
	return nil
}

func (o httpOptions) check() error {
	if err := checkFrom(o.From); err != nil {
		return err
	}
	switch {
	case o.Method != "" && !httpMethod.MatchString(o.Method):
		return fmt.Errorf("%q is no HTTP method", o.Method)
	case o.Body != "" && o.Method == "":
		return errors.New("a body needs a method, such as \"POST\"")
	case o.Insecure && o.CAFile != "":
		return errors.New("with insecure the certificate is not checked, and ca_file has no use")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return fmt.Errorf("%q is no name of a header", name)
		case strings.EqualFold(name, "Host"):
			return errors.New("the header Host is said by host")
		case !httpguts.ValidHeaderFieldValue(o.Headers[name]):
			return fmt.Errorf("the value of the header %s has characters in it that no header may have", name)
		}
	}
	if o.BasicAuth != nil {
		_, user := o.BasicAuth["user"]
		_, password := o.BasicAuth["password"]
		if !user || !password || len(o.BasicAuth) != 2 {
			return errors.New("basic_auth takes user and password")
		}
	}
	if o.Host != "" {
		name, _ := splitHost(o.Host)
		if err := checkHost(name); err != nil {
			return fmt.Errorf("host: %w", err)
		}
	}
	if o.ConnectTo != "" {
		name, port := splitHost(o.ConnectTo)
		if err := checkHost(name); err != nil {
			return fmt.Errorf("connect_to: %w", err)
		}
		if port != "" {
			if _, _, err := portOf(port); err != nil {
				return fmt.Errorf("connect_to: %w", err)
			}
		}
	}
	_, err := rootsOf(o.CAFile)
	return err
}

// splitHost takes the port off, if there is one.
func splitHost(s string) (host, port string) {
	if h, p, err := net.SplitHostPort(s); err == nil {
		return h, p
	}
	return strings.Trim(s, "[]"), ""
}

func canonicalHeader(s string) (string, error) {
	if !httpguts.ValidHeaderFieldName(s) {
		return "", fmt.Errorf("%q is no name of a header", s)
	}
	return textproto.CanonicalMIMEHeaderKey(s), nil
}

func headerName(v cty.Value) (argument, error) {
	a, err := text(v)
	if err != nil {
		return a, err
	}
	a.text, err = canonicalHeader(a.text)
	return a, err
}

const (
	maxHeaders   = 64 << 10
	maxRedirects = 10
)

var httpAnswers = &kind{name: "outside http", each: true, read: notByScript, outside: askHTTP}

func askHTTP(ctx context.Context, o *outside, key string) (any, error) {
	var opt httpOptions
	subject, err := openQuestion(key, &opt)
	if err != nil {
		return nil, err
	}
	u, err := httpURL(subject)
	if err != nil {
		return nil, err
	}
	roots, err := rootsOf(opt.CAFile)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	host, toPort := u.Hostname(), port
	if opt.ConnectTo != "" {
		var p string
		if host, p = splitHost(opt.ConnectTo); p != "" {
			toPort = p
		}
	}
	w, err := o.way(opt.From, isMachine(host))
	if err != nil {
		return nil, err
	}
	// name is what the server is called: in the header, and in its certificate.
	name := u.Hostname()
	switch {
	case opt.Host != "":
		name, _ = splitHost(opt.Host)
	case !isMachine(name):
	case opt.From == fromMachine:
		name = "localhost"
	default:
		name, _ = splitHost(w.address(host, port))
	}
	target := *u
	target.Host = net.JoinHostPort(name, port)
	if u.Port() == "" {
		target.Host = strings.TrimSuffix(target.Host, ":"+port)
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			_, p, err := net.SplitHostPort(address) // redirects lead to no other host
			if err != nil {
				return nil, err
			}
			if p == port {
				p = toPort
			}
			return w.dial(ctx, "tcp", w.address(host, p))
		},
		TLSClientConfig:    &tls.Config{RootCAs: roots, InsecureSkipVerify: opt.Insecure},
		ForceAttemptHTTP2:  true,
		DisableCompression: true, // what is checked is what the server sends
		// No proxy: what is asked is the machine, not what stands in between.
		MaxResponseHeaderBytes: maxHeaders,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		switch {
		case !opt.FollowRedirects:
			return http.ErrUseLastResponse
		case len(via) > maxRedirects:
			return fmt.Errorf("it redirects more than %d times", maxRedirects)
		// Where a machine leads to is not asked: it may be what only this host can reach.
		case !strings.EqualFold(req.URL.Hostname(), name):
			return fmt.Errorf("it redirects to another host, %s, which is not followed: check that by a block of its own", Clean(req.URL.Host))
		case req.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https":
			return errors.New("it redirects from https to http, which is not followed")
		}
		return nil
	}}
	var body io.Reader
	if opt.Body != "" {
		body = strings.NewReader(opt.Body)
	}
	req, err := http.NewRequestWithContext(ctx, opt.Method, target.String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "Ingot")
	for k, v := range opt.Headers {
		req.Header.Set(k, v)
	}
	if opt.BasicAuth != nil {
		req.SetBasicAuth(opt.BasicAuth["user"], opt.BasicAuth["password"])
	}
	if opt.Host != "" {
		req.Host = opt.Host
	}

	begun := time.Now()
	resp, err := client.Do(req)
	a := &httpAnswer{}
	if resp == nil {
		if strings.Contains(err.Error(), "%!w(<nil>)") { // net/http has no words for it
			err = errors.New("malformed HTTP response: the server spoke before it was asked")
		}
		a.unreached, err = tried(ctx, err)
		return a, err
	}
	defer resp.Body.Close()
	if err != nil {
		a.failed = err // of the redirects
	}
	a.status, a.protocol, a.header, a.url = resp.StatusCode, resp.Proto, resp.Header, resp.Request.URL.String()
	if resp.TLS != nil {
		a.chain, a.tls = resp.TLS.PeerCertificates, tls.VersionName(resp.TLS.Version)
	}
	if a.failed == nil {
		a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxContent+1))
		switch {
		case err != nil && ctx.Err() != nil:
			a.bodyErr = fmt.Errorf("the body did not end: %w", context.Cause(ctx))
		case err != nil:
			a.bodyErr = fmt.Errorf("the body broke off: %w", err)
		case len(a.body) > maxContent:
			a.bodyErr = fmt.Errorf("the body is longer than the %d bytes that a spec reads", maxContent)
		}
	}
	a.seconds = time.Since(begun).Seconds()
	return a, nil
}
