package digitalocean

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/docloud"
)

// errCallers begins what is said when it isn't known who is to be let in.
var errCallers = errors.New("it is not known which address the droplet is reached from, so nobody can be let in; set temporary_firewall_source_cidrs to it")

// callers are the networks that the firewall is to admit.
func (b *Builder) callers(ctx context.Context) ([]string, error) {
	o := &b.o
	if len(o.TemporaryFirewallSourceCIDRs) > 0 {
		var all []string
		for _, c := range o.TemporaryFirewallSourceCIDRs {
			p, err := prefix(c)
			if err != nil {
				return nil, err
			}
			all = append(all, p.String())
		}
		return all, nil
	}
	via := ""
	switch {
	case o.SSHBastionHost != "":
		via = o.SSHBastionHost
	case o.SSHProxyHost != "":
		via = o.SSHProxyHost
	}
	var found []netip.Addr
	var err error
	switch {
	case docloud.Loopback(b.m.sess.URL()):
		found = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	case via != "":
		// Public, unless the private network of the droplet is the way.
		found, err = resolve(ctx, via, o.ConnectWithPrivateIP)
	case o.ConnectWithPrivateIP:
		found, err = ownPrivate()
	default:
		var a netip.Addr
		if a, err = ask(ctx, o.TemporaryFirewallCheckURL); err == nil {
			found = []netip.Addr{a}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCallers, err)
	}
	var all []string
	for _, a := range found {
		all = append(all, netip.PrefixFrom(a, a.BitLen()).String())
	}
	return all, nil
}

// resolve finds the addresses of a host that stands between.
func resolve(ctx context.Context, host string, private bool) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("find the address of %s: %w", host, err)
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	found = slices.DeleteFunc(found, func(a netip.Addr) bool {
		return a.IsPrivate() != private || !a.IsGlobalUnicast()
	})
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no address that the droplet sees", host)
	}
	return found, nil
}

// ownPrivate are this host's addresses in private networks.
func ownPrivate() ([]netip.Addr, error) {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	found := private(nets)
	if len(found) == 0 {
		return nil, errors.New("this host has no private address")
	}
	return found, nil
}

func private(nets []net.Addr) (found []netip.Addr) {
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().IsPrivate() {
			found = append(found, p.Addr())
		}
	}
	return found
}

// ask learns from a web server which address calls come from.
func ask(ctx context.Context, url string) (a netip.Addr, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("there was no answer within 10s"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return a, err
	}
	// As the droplet will be reached: by version 4, and by no proxy.
	way := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp4", addr)
	}}
	defer way.CloseIdleConnections()
	resp, err := (&http.Client{Transport: way}).Do(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return a, fmt.Errorf("temporary_firewall_check_url: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 256))
	if err != nil {
		return a, fmt.Errorf("temporary_firewall_check_url: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("temporary_firewall_check_url answers %s", resp.Status)
	}
	a, err = netip.ParseAddr(strings.TrimSpace(string(text)))
	if a = a.Unmap(); err != nil || !a.Is4() || !a.IsGlobalUnicast() || a.IsPrivate() {
		return a, errors.New("temporary_firewall_check_url does not answer with a public address of version 4")
	}
	return a, nil
}
