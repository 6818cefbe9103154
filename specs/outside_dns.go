package specs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/zclconf/go-cty/cty"
)

type dnsOptions struct {
	From   string `json:"from"`
	Server string `json:"server"`
	Type   string `json:"type"`
}

// recordTypes are what type may be.
func recordTypes() []string {
	return []string{"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"}
}

func (o dnsOptions) check() error {
	if err := checkFrom(o.From); err != nil {
		return err
	}
	if o.Type != "" && !slices.Contains(recordTypes(), o.Type) {
		return fmt.Errorf("type is one of %s, not %q", strings.Join(recordTypes(), ", "), o.Type)
	}
	if o.Server == "" && o.From == fromMachine {
		return errors.New("from = \"machine\" needs a server; what the machine's own resolver knows is checked by host \"…\" { be_resolvable = true }")
	}
	if o.Server != "" {
		host, port := splitHost(o.Server)
		if err := checkHost(host); err != nil {
			return fmt.Errorf("server: %w", err)
		}
		if port != "" {
			if _, _, err := portOf(port); err != nil {
				return fmt.Errorf("server: %w", err)
			}
		}
	}
	return nil
}

// records are what name servers know of a name.
type records struct {
	addresses []string
	data      []string
}

func dnsResource() resource {
	return resource{
		name: "dns", subject: func(label string) error {
			if _, ok := dns.IsDomainName(label); !ok || strings.ContainsAny(label, `\" `) {
				return fmt.Errorf("%q is no domain name", label)
			}
			return printable(label)
		},
		values: map[string]cty.Type{"from": cty.String, "server": cty.String, "type": cty.String},
		check: func(subject string, opts map[string]string) error {
			var o dnsOptions
			if err := readOptions(opts, &o); err != nil {
				return err
			}
			return o.check()
		},
		matchers: map[string]matcher{
			"be_resolvable": asked1(dnsRecords, true, options(), func(r *records, _ argument) (bool, string, error) {
				return true, strings.Join(r.data, ", "), nil
			}),
		},
		attributes: map[string]attribute{
			"addresses": found1(dnsRecords, typeList, func(r *records) (value, error) {
				if len(r.addresses) == 0 {
					return value{}, missing("no addresses were asked for, or none are known")
				}
				return value{list: r.addresses}, nil
			}),
			"records": found1(dnsRecords, typeList, func(r *records) (value, error) { return value{list: r.data}, nil }),
		},
	}
}

var dnsRecords = &kind{name: "outside dns", each: true, read: notByScript, outside: askDNS}

func askDNS(ctx context.Context, o *outside, key string) (any, error) {
	var opt dnsOptions
	subject, err := openQuestion(key, &opt)
	if err != nil {
		return nil, err
	}
	host, port := splitHost(opt.Server)
	w, err := o.way(opt.From, opt.Server != "" && isMachine(host))
	if err != nil {
		return nil, err
	}
	var servers []string
	if port == "" {
		port = "53"
	}
	if opt.Server != "" {
		servers = []string{w.address(host, port)}
	} else {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, unsupported("this host's name servers are not known, name one as server: " + err.Error())
		}
		for _, s := range conf.Servers {
			servers = append(servers, net.JoinHostPort(s, conf.Port))
		}
	}
	name := dns.Fqdn(subject)
	types := []string{opt.Type}
	switch opt.Type {
	case "":
		types = []string{"A", "AAAA"}
	case "PTR":
		if reverse, err := dns.ReverseAddr(subject); err == nil {
			name = reverse
		}
	}
	found := &records{}
	for _, t := range types {
		m, err := exchangeAny(ctx, w, servers, name, dns.StringToType[t], opt.From == fromMachine)
		if err != nil {
			return nil, err
		}
		found.add(m, dns.StringToType[t])
	}
	if len(found.data) == 0 {
		return nil, missing("the name server knows no " + strings.Join(types, " or ") + " record of this name")
	}
	return found, nil
}

// add takes the records of a type, those that an alias leads to as well.
func (r *records) add(m *dns.Msg, t uint16) {
	for _, rr := range m.Answer {
		if rr.Header().Rrtype != t {
			continue
		}
		text := ""
		switch rr := rr.(type) {
		case *dns.A:
			text = rr.A.String()
		case *dns.AAAA:
			text = rr.AAAA.String()
		case *dns.TXT:
			text = strings.Join(rr.Txt, "")
		default:
			text = strings.TrimPrefix(rr.String(), rr.Header().String())
		}
		if a, err := netip.ParseAddr(text); err == nil {
			text = a.String()
			r.addresses = append(r.addresses, text)
		}
		r.data = append(r.data, text)
	}
}

// exchangeAny asks one server after the other until one answers.
func exchangeAny(ctx context.Context, w way, servers []string, name string, t uint16, tcp bool) (*dns.Msg, error) {
	var errs []error
	for _, s := range servers {
		m, err := exchange(ctx, w, s, name, t, tcp)
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

const (
	// patience is how long an answer by UDP may take before it is asked for again.
	patience = 2 * time.Second
	// safeSize is what no network cuts a datagram to pieces for.
	safeSize = 1232
)

// exchange asks one server, by UDP unless that cannot be or the answer is too
// long for it.
func exchange(ctx context.Context, w way, server, name string, t uint16, tcp bool) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, t)
	q.SetEdns0(safeSize, false)
	fail := func(err error) (*dns.Msg, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("ask %s for %s: %w", server, name, err)
	}
	once := func(network string) (*dns.Msg, error) {
		c, err := w.dial(ctx, network, server)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		defer closeWith(ctx, c)()
		conn := &dns.Conn{Conn: c, UDPSize: safeSize}
		if network == "udp" {
			_ = c.SetDeadline(time.Now().Add(patience))
		}
		if err := conn.WriteMsg(q); err != nil {
			return nil, err
		}
		for {
			m, err := conn.ReadMsg()
			if err != nil {
				return nil, err
			}
			// What answers another question is somebody else's, or forged.
			if m.Id == q.Id && m.Response && len(m.Question) == 1 && m.Question[0].Qtype == t && strings.EqualFold(m.Question[0].Name, name) {
				return m, nil
			}
		}
	}
	var m *dns.Msg
	var err error
	for !tcp {
		m, err = once("udp")
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() && ctx.Err() == nil {
			continue // it may have been lost
		}
		if err != nil {
			return fail(err)
		}
		tcp = m.Truncated
		break
	}
	if tcp {
		if m, err = once("tcp"); err != nil {
			return fail(err)
		}
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return m, nil
	}
	return fail(errors.New("the name server answers " + dns.RcodeToString[m.Rcode]))
}
