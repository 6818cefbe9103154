package specs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/machine"
)

// What is asked from outside: of the machine's services, as their users do, by
// this host or by a connection from inside the machine. Nothing is needed on
// the machine. All that answers is hostile: time and size are bounded.

// outside is who asks.
type outside struct {
	machine machine.Machine
	address string // of the machine, for this host; may be empty
	free    chan struct{}
}

// atOnce is how many requests are under way at most.
const atOnce = 8

func newOutside(m machine.Machine, opt RunOptions) *outside {
	o := &outside{machine: m, address: opt.Address, free: make(chan struct{}, atOnce)}
	if a, ok := m.(machine.Addressed); ok && o.address == "" {
		o.address = a.Address()
	}
	return o
}

// start makes the requests among the sections, each in its own time. The facts
// are there once wait has returned.
func (o *outside) start(ctx context.Context, sections []section, known []facts, seconds []float64) (wait func()) {
	var all sync.WaitGroup
	for i, sec := range sections {
		if sec.kind.outside == nil {
			continue
		}
		all.Go(func() {
			select {
			case o.free <- struct{}{}:
				defer func() { <-o.free }()
			case <-ctx.Done():
				known[i] = facts{sec.subjects[0]: ctx.Err()}
				return
			}
			begun := time.Now()
			limited, cancel := context.WithTimeoutCause(ctx, sec.timeout, fmt.Errorf("no answer within %s", sec.timeout))
			defer cancel()
			fact, err := sec.kind.outside(limited, o, sec.subjects[0])
			switch {
			case ctx.Err() != nil: // the run was ended, and nothing is known
				fact = ctx.Err()
			case err != nil:
				fact = err
			}
			known[i], seconds[i] = facts{sec.subjects[0]: fact}, time.Since(begun).Seconds()
		})
	}
	return all.Wait
}

// A question is what a kind is asked from outside, as its key has it.
type question struct {
	Subject string            `json:"subject"`
	Options map[string]string `json:"options"`
}

func outsideKey(subject string, opts map[string]string) string {
	b, _ := json.Marshal(question{subject, opts}) // texts can always be encoded
	return string(b)
}

// readOptions decodes the values of a resource.
func readOptions(opts map[string]string, into any) error {
	raw := map[string]json.RawMessage{}
	for k, v := range opts {
		raw[k] = json.RawMessage(v)
	}
	b, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// openQuestion is the other way of outsideKey.
func openQuestion(key string, into any) (subject string, err error) {
	var q question
	if err := json.Unmarshal([]byte(key), &q); err != nil {
		return "", err
	}
	return q.Subject, readOptions(q.Options, into)
}

// Where connections are tried from.
const (
	fromRunner  = "runner"
	fromMachine = "machine"
)

// A way is how to connect.
type way struct {
	// self is the machine, by its address or its loopback.
	self string
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// theMachine is the machine as hosts of URLs and addresses have it.
const theMachine = "machine"

func isMachine(host string) bool { return host == "" || host == theMachine }

// way finds how to connect; toMachine says that it is to the machine itself.
func (o *outside) way(from string, toMachine bool) (way, error) {
	if from == fromMachine {
		d, ok := o.machine.(machine.Dialer)
		if !ok {
			return way{}, unsupported("there is no way to connect from inside this machine; ask from = \"runner\", or by a command")
		}
		return way{"127.0.0.1", d.DialContext}, nil
	}
	if toMachine && o.address == "" {
		return way{}, unsupported("this host knows no address of the machine; name its address, or ask from = \"machine\"")
	}
	return way{o.address, (&net.Dialer{}).DialContext}, nil
}

// unreached is why nobody was reached, or nil when that is not known.
type unreached string

// tried tells an address that was tried and did not answer from an error that
// says nothing about it.
func tried(ctx context.Context, err error) (unreached, error) {
	if errors.Is(err, machine.ErrCannotDial) {
		return "", err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return unreached(err.Error()), nil
}

// closeWith closes a connection when ctx ends: one through SSH knows no deadlines.
func closeWith(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.Close() })
}

// serverCertificate has the attributes of the certificate that a server shows.
func serverCertificate[F any](k *kind, get func(F) ([]*x509.Certificate, error)) map[string]attribute {
	out := map[string]attribute{}
	for name, a := range certificateAttributes(func(t valueType, of func(*x509.Certificate) (value, error)) attribute {
		a := get1(k, t, func(f F) (value, error) {
			chain, err := get(f)
			if err != nil {
				return value{}, err
			}
			if len(chain) == 0 {
				return value{}, missing("it shows no certificate, for it does not speak TLS")
			}
			return of(chain[0])
		})
		a.key = outsideKey
		return a
	}) {
		out["certificate."+name] = a
	}
	return out
}

// trusted says whether a chain leads to one of the roots, for a name.
func trusted(chain []*x509.Certificate, name string, roots *x509.CertPool) (bool, string, error) {
	if len(chain) == 0 {
		return false, "", missing("it shows no certificate, for it does not speak TLS")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between})
	if err != nil {
		return false, err.Error(), nil
	}
	return true, "of " + chain[0].Subject.String(), nil
}

// rootsOf reads a file of certificates; no file: those of this host.
func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("ca_file: %s has no certificate in PEM form", file)
	}
	return pool, nil
}

// handshake speaks TLS on a connection and gives the chain, whoever vouches for it.
func handshake(ctx context.Context, c net.Conn, name string) (*tls.Conn, []*x509.Certificate, error) {
	t := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}) // it is looked at, not trusted
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	return t, t.ConnectionState().PeerCertificates, nil
}

// asked1 is ask1 about what is asked from outside.
func asked1[F any](k *kind, presence bool, arg func(cty.Value) (argument, error), test func(F, argument) (bool, string, error)) matcher {
	m := ask1(k, presence, arg, test)
	m.about = func(subject string, _ argument, opts map[string]string) (*kind, string) {
		return k, outsideKey(subject, opts)
	}
	return m
}

// found1 is get1 of what is asked from outside.
func found1[F any](k *kind, t valueType, get func(F) (value, error)) attribute {
	a := get1(k, t, get)
	a.key = outsideKey
	return a
}

// notByScript reads no answer, for no script is ever run.
func notByScript(answer, []string) (facts, error) {
	return nil, errors.New("it is not the machine's shell that is asked")
}

// checkFrom refuses an unknown from.
func checkFrom(from string) error {
	if from != "" && from != fromRunner && from != fromMachine {
		return fmt.Errorf("from is runner or machine, not %q%s", from, suggest(from, []string{fromRunner, fromMachine}))
	}
	return nil
}

// portOf reads "443", "machine:443" or "host:443".
func portOf(s string) (host, port string, err error) {
	host, port = "", s
	if strings.Contains(s, ":") {
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", "", fmt.Errorf("%q is no port and no address such as \"mail.example:25\"", s)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", errors.New("a port is a number from 1 to 65535")
	}
	return host, port, printable(host)
}

// address is where to connect for a host and a port.
func (w way) address(host, port string) string {
	if isMachine(host) {
		host = w.self
	}
	return net.JoinHostPort(host, port)
}

func outsideResources() []resource {
	return []resource{httpResource(), tcpResource(), smtpResource(), dnsResource()}
}
