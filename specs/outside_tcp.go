package specs

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

type tcpOptions struct {
	From   string `json:"from"`
	Host   string `json:"host"` // in the certificate
	CAFile string `json:"ca_file"`
	// For SMTP alone.
	Helo string `json:"helo"`
	TLS  bool   `json:"tls"`
}

func (o tcpOptions) check() error {
	if err := checkFrom(o.From); err != nil {
		return err
	}
	if o.Host != "" {
		if err := checkHost(o.Host); err != nil {
			return fmt.Errorf("host: %w", err)
		}
	}
	if o.Helo != "" {
		if err := checkHost(o.Helo); err != nil {
			return fmt.Errorf("helo: %w", err)
		}
	}
	_, err := rootsOf(o.CAFile)
	return err
}

func checkTCP(_ string, opts map[string]string) error {
	var o tcpOptions
	if err := readOptions(opts, &o); err != nil {
		return err
	}
	return o.check()
}

func tcpSubject(label string) error {
	host, _, err := portOf(label)
	if err == nil && host != "" {
		err = checkHost(host)
	}
	return err
}

// A service is what was found behind a TCP port.
type service struct {
	unreached  unreached
	failed     error // why TLS or SMTP came to nothing
	banner     string
	extensions []string
	name       string // that its certificate should have
	roots      *x509.CertPool
	chain      []*x509.Certificate
	tls        string
}

func (s *service) err() error {
	if s.unreached != "" {
		return errors.New(string(s.unreached))
	}
	return s.failed
}

func reachableService(k *kind, how func(*service) string) matcher {
	return asked1(k, true, options(), func(s *service, _ argument) (bool, string, error) {
		if s.unreached != "" {
			return false, string(s.unreached), nil
		}
		return true, how(s), nil
	})
}

// certificateOf is what a service's kind can say when it speaks TLS.
func certificateOf(k *kind) (map[string]attribute, matcher) {
	attrs := serverCertificate(k, func(s *service) ([]*x509.Certificate, error) { return s.chain, s.err() })
	attrs["tls_version"] = found1(k, typeText, func(s *service) (value, error) { return value{text: s.tls}, s.err() })
	return attrs, asked1(k, false, options(), func(s *service, _ argument) (bool, string, error) {
		if err := s.err(); err != nil {
			return false, "", err
		}
		return trusted(s.chain, s.name, s.roots)
	})
}

func tcpResource() resource {
	attrs, valid := certificateOf(tlsServices)
	return resource{
		name: "tcp", subject: tcpSubject, check: checkTCP,
		values: map[string]cty.Type{"from": cty.String, "host": cty.String, "ca_file": cty.String},
		matchers: map[string]matcher{
			"be_reachable":           reachableService(tcpServices, func(s *service) string { return "connected to " + s.name }),
			"have_valid_certificate": valid,
		},
		attributes: attrs,
	}
}

func smtpResource() resource {
	attrs, valid := certificateOf(smtpTLS)
	return resource{
		name: "smtp", subject: tcpSubject, check: checkTCP,
		values: map[string]cty.Type{"from": cty.String, "host": cty.String, "ca_file": cty.String, "helo": cty.String, "tls": cty.Bool},
		matchers: map[string]matcher{
			"be_reachable":           reachableService(smtpServices, func(s *service) string { return s.banner }),
			"have_valid_certificate": valid,
			"have_extension": asked1(smtpServices, true, extension, func(s *service, a argument) (bool, string, error) {
				for _, e := range s.extensions {
					if word, _, _ := strings.Cut(e, " "); strings.EqualFold(word, a.text) {
						return true, e, s.err()
					}
				}
				return false, "it has " + strings.Join(s.extensions, ", "), s.err()
			}),
		},
		attributes: merge(attrs, map[string]attribute{
			"banner":     found1(smtpServices, typeText, func(s *service) (value, error) { return value{text: s.banner}, s.err() }),
			"extensions": found1(smtpServices, typeList, func(s *service) (value, error) { return value{list: s.extensions}, s.err() }),
		}),
	}
}

var extensionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*$`)

func extension(v cty.Value) (argument, error) {
	a, err := text(v)
	if err == nil && !extensionName.MatchString(a.text) {
		err = fmt.Errorf("%q is no extension's name, such as \"STARTTLS\"", a.text)
	}
	return a, err
}

var (
	tcpServices  = &kind{name: "outside tcp", each: true, read: notByScript, outside: askTCP(func(context.Context, *service, net.Conn, tcpOptions) error { return nil })}
	tlsServices  = &kind{name: "outside tls", each: true, read: notByScript, outside: askTCP(speakTLS)}
	smtpServices = &kind{name: "outside smtp", each: true, read: notByScript, outside: askTCP(func(ctx context.Context, s *service, c net.Conn, o tcpOptions) error {
		return speakSMTP(ctx, s, c, o, false)
	})}
	smtpTLS = &kind{name: "outside smtp by tls", each: true, read: notByScript, outside: askTCP(func(ctx context.Context, s *service, c net.Conn, o tcpOptions) error {
		return speakSMTP(ctx, s, c, o, true)
	})}
)

// askTCP connects and lets speak do the rest. An error of speak's is one of
// what was asked for, and not of the connection.
func askTCP(speak func(context.Context, *service, net.Conn, tcpOptions) error) func(context.Context, *outside, string) (any, error) {
	return func(ctx context.Context, o *outside, key string) (any, error) {
		var opt tcpOptions
		subject, err := openQuestion(key, &opt)
		if err != nil {
			return nil, err
		}
		host, port, err := portOf(subject)
		if err != nil {
			return nil, err
		}
		w, err := o.way(opt.From, isMachine(host))
		if err != nil {
			return nil, err
		}
		s := &service{}
		if s.roots, err = rootsOf(opt.CAFile); err != nil {
			return nil, err
		}
		to := w.address(host, port)
		c, err := w.dial(ctx, "tcp", to)
		if err != nil {
			s.unreached, err = tried(ctx, err)
			return s, err
		}
		defer c.Close()
		defer closeWith(ctx, c)()
		s.name = opt.Host
		if s.name == "" {
			if s.name, _ = splitHost(to); isMachine(host) && opt.From == fromMachine {
				s.name = "localhost"
			}
		}
		if s.failed = speak(ctx, s, c, opt); s.failed != nil && ctx.Err() != nil {
			s.failed = context.Cause(ctx)
		}
		return s, nil
	}
}

func speakTLS(ctx context.Context, s *service, c net.Conn, _ tcpOptions) error {
	_, err := s.secure(ctx, c)
	return err
}

func (s *service) secure(ctx context.Context, c net.Conn) (*tls.Conn, error) {
	t, chain, err := handshake(ctx, c, s.name)
	if err != nil {
		return nil, fmt.Errorf("it does not speak TLS: %w", err)
	}
	s.chain, s.tls = chain, tls.VersionName(t.ConnectionState().Version)
	return t, nil
}

// maxTalk is how much of what a mail server says is read.
const maxTalk = 64 << 10

// speakSMTP reads the greeting and the extensions, and with byTLS what the
// server shows of itself after STARTTLS. Who does not greet is no mail server
// that can be reached.
func speakSMTP(ctx context.Context, s *service, c net.Conn, o tcpOptions, byTLS bool) error {
	if o.TLS {
		t, err := s.secure(ctx, c)
		if err != nil {
			s.unreached = unreached(err.Error())
			return err
		}
		c = t
	}
	r := textproto.NewReader(bufio.NewReader(io.LimitReader(c, maxTalk)))
	_, banner, err := r.ReadResponse(220)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		s.unreached = unreached("no greeting of a mail server: " + err.Error())
		return err
	}
	s.banner = banner
	name := o.Helo
	if name == "" {
		name = "localhost"
	}
	say := func(line string, want int) (string, error) {
		if _, err := io.WriteString(c, line+"\r\n"); err != nil {
			return "", err
		}
		_, text, err := r.ReadResponse(want)
		if err != nil {
			return "", fmt.Errorf("its answer to %s: %w", line, err)
		}
		return text, nil
	}
	text, err := say("EHLO "+name, 250)
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(text, "\n")
	s.extensions = lines([]byte(rest))
	if byTLS && !o.TLS {
		if _, err := say("STARTTLS", 220); err != nil {
			return err
		}
		if r.R.Buffered() > 0 {
			return errors.New("it says more than its answer to STARTTLS")
		}
		_, err := s.secure(ctx, c)
		return err
	}
	_, _ = io.WriteString(c, "QUIT\r\n") // a courtesy
	return nil
}
