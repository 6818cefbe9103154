package specs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// networkResources are about interfaces, routes and other hosts.
func networkResources() []resource {
	device := pattern(`^[^\s/:\pC]{1,15}$`)
	members := func(what string) map[string]matcher {
		is := func(i netDevice) (string, []string) {
			if what == "bond" {
				return i.bond, i.bondMembers
			}
			return i.bridge, i.bridgeMembers
		}
		return map[string]matcher{
			"exist": ask1(interfaces, true, options(), func(i netDevice, _ argument) (bool, string, error) {
				yes, of := is(i)
				if yes == "" {
					return false, "it is there, but not a " + what, nil
				}
				return true, "of " + strings.Join(of, ", "), nil
			}),
			"have_interface": ask1(interfaces, false, text, func(i netDevice, a argument) (bool, string, error) {
				yes, of := is(i)
				if yes == "" {
					return false, "", missing("it is not a " + what)
				}
				return slices.Contains(of, a.text), "of " + strings.Join(of, ", "), nil
			}),
		}
	}
	return []resource{
		{
			name: "interface", subject: pattern(`^[^\s\pC]([^\pC]*[^\s\pC])?$`), posix: device,
			matchers: map[string]matcher{
				"exist": ask1(interfaces, true, options(), func(i netDevice, _ argument) (bool, string, error) { return true, i.state, nil }),
				"be_up": ask1(interfaces, true, options(), func(i netDevice, _ argument) (bool, string, error) {
					// Some drivers, that of lo among them, do not say more than "unknown".
					return i.flags&1 != 0 && (i.state == "up" || i.state == "unknown"), "the link is " + i.state, nil
				}),
				"have_ipv4_address": addressMatcher(false),
				"have_ipv6_address": addressMatcher(true),
			},
			attributes: map[string]attribute{
				"mtu": get1(interfaces, typeNumber, func(i netDevice) (value, error) {
					if i.mtu == "" {
						return value{}, errors.New("the machine does not say the mtu of this interface")
					}
					return value{text: i.mtu}, nil
				}),
				"speed": get1(interfaces, typeNumber, func(i netDevice) (value, error) {
					if i.speed == "" || i.speed == "-1" {
						return value{}, errors.New("the kernel knows no speed of this interface")
					}
					return value{text: i.speed}, nil
				}),
				"ipv4_address": get1(interfaces, typeText, func(i netDevice) (value, error) { return i.addresses(false) }),
				"ipv6_address": get1(interfaces, typeText, func(i netDevice) (value, error) { return i.addresses(true) }),
			},
		},
		{name: "bond", subject: device, matchers: members("bond")},
		{name: "bridge", subject: device, matchers: members("bridge")},
		{
			name: "default_gateway",
			attributes: map[string]attribute{
				"ipaddress": get1(routes, typeText, func(all []route) (value, error) {
					r, err := defaultRoute(all)
					return value{text: r.gateway.String()}, err
				}),
				"interface": get1(routes, typeText, func(all []route) (value, error) {
					r, err := defaultRoute(all)
					return value{text: r.device}, err
				}),
			},
		},
		{
			name:     "routing_table",
			matchers: map[string]matcher{"have_entry": entryMatcher(routes, readRouteEntry, hasRoute)},
		},
		{
			name: "host", subject: pattern(`^[A-Za-z0-9_:][A-Za-z0-9_.:%-]*$`),
			matchers: map[string]matcher{
				"be_resolvable": {
					kind: resolvers, presence: true, argument: choose(options("by"), "by", "dns", "hosts"),
					about: func(subject string, a argument, _ map[string]string) (*kind, string) {
						switch a.opt["by"] {
						case "dns":
							return dnsNames, subject
						case "hosts":
							return hostsFile, subject
						}
						return resolvers, subject
					},
					test: func(fact any, _ argument) (bool, string, error) {
						return true, strings.Join(fact.([]string), ", "), nil
					},
				},
				"be_reachable": {
					kind: pings, presence: true, argument: reachable,
					about: func(subject string, a argument, _ map[string]string) (*kind, string) {
						seconds := a.opt["timeout"]
						if seconds == "" {
							seconds = "5"
						}
						if port := a.opt["port"]; port != "" {
							return connects, subject + "\x00" + port + "\x00" + seconds
						}
						return pings, subject + "\x00" + seconds
					},
					test: func(fact any, _ argument) (bool, string, error) {
						why := fact.(string)
						return why == "", why, nil
					},
				},
			},
			attributes: map[string]attribute{
				"ipaddress":    get1(resolvers, typeText, func(all []string) (value, error) { return value{text: strings.Join(all, "\n")}, nil }),
				"ipv4_address": get1(resolvers, typeText, func(all []string) (value, error) { return ofFamily(all, false) }),
				"ipv6_address": get1(resolvers, typeText, func(all []string) (value, error) { return ofFamily(all, true) }),
			},
		},
	}
}

// Interfaces.

type netDevice struct {
	state, mtu, speed          string
	flags                      uint64
	bond, bridge               string
	bondMembers, bridgeMembers []string
	addrs                      []netip.Prefix
	noAddrs                    error // why the addresses are not known
}

var interfaces = &kind{
	name: "interface",
	script: `cd /sys/class/net || exit
for i in *; do
	[ -e "$i/ifindex" ] || continue
	echo "state $i $(cat "$i/operstate")"
	echo "flags $i $(cat "$i/flags")"
	echo "mtu $i $(cat "$i/mtu")"
	echo "speed $i $(cat "$i/speed" 2>/dev/null)"
	[ -d "$i/bridge" ] && echo "bridge $i yes"
	for p in "$i"/brif/*; do [ -e "$p" ] && echo "port $i ${p##*/}"; done
	[ -e "$i/bonding/slaves" ] && echo "bond $i $(cat "$i/bonding/slaves")"
done
command -v ip >/dev/null || { echo "noip"; exit 0; }
ip -o addr show | sed 's/^/addr /' && exit 0`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for interfaces")
		}
		all := map[string]*netDevice{}
		var noAddrs error
		addresses := 0
		for _, l := range lines(a.out) {
			if l == "noip" {
				noAddrs = unsupported("there is no ip program")
				continue
			}
			f := strings.Fields(l)
			if len(f) < 2 {
				return nil, fmt.Errorf("not a line about an interface: %s", Clean(l))
			}
			if f[0] == "addr" { // addr 1: lo inet 127.0.0.1/8 …
				if addresses++; len(f) < 5 || f[3] != "inet" && f[3] != "inet6" {
					continue
				}
				name, _, _ := strings.Cut(f[2], "@")
				p, err := netip.ParsePrefix(f[4])
				if err != nil {
					one, err := netip.ParseAddr(f[4]) // of a point-to-point link
					if err != nil {
						return nil, fmt.Errorf("not an address: %s", Clean(f[4]))
					}
					p = netip.PrefixFrom(one, one.BitLen())
				}
				if all[name] != nil {
					all[name].addrs = append(all[name].addrs, p)
				}
				continue
			}
			if all[f[1]] == nil {
				all[f[1]] = &netDevice{}
			}
			i, rest := all[f[1]], f[2:]
			first := ""
			if len(rest) > 0 {
				first = rest[0]
			}
			switch f[0] {
			case "state":
				i.state = first
			case "flags":
				n, err := strconv.ParseUint(strings.TrimPrefix(first, "0x"), 16, 64)
				if err != nil {
					return nil, fmt.Errorf("not an interface's flags: %s", Clean(first))
				}
				i.flags = n
			case "mtu":
				i.mtu = first
			case "speed":
				i.speed = first
			case "bridge":
				i.bridge = first
			case "port":
				i.bridgeMembers = append(i.bridgeMembers, first)
			case "bond":
				i.bond, i.bondMembers = "yes", rest
			}
		}
		if len(all) == 0 {
			return nil, errors.New("/sys/class/net is empty")
		}
		result := facts{}
		for _, s := range subjects {
			switch i := all[s]; {
			case i == nil:
				result[s] = missing("no such interface")
			case i.state == "" || i.mtu == "":
				result[s] = errors.New("/sys/class/net does not say the interface's state")
			default:
				i.noAddrs = noAddrs
				result[s] = *i
			}
		}
		return result, nil
	},
}

func (i netDevice) ofFamily(six bool) (out []netip.Prefix) {
	for _, p := range i.addrs {
		if p.Addr().Is6() == six {
			out = append(out, p)
		}
	}
	return out
}

// addresses gives an interface's addresses, one a line.
func (i netDevice) addresses(six bool) (value, error) {
	if i.noAddrs != nil {
		return value{}, i.noAddrs
	}
	var out []string
	for _, p := range i.ofFamily(six) {
		out = append(out, p.String())
	}
	if len(out) == 0 {
		return value{}, missing("it has no such address")
	}
	return value{text: strings.Join(out, "\n")}, nil
}

func addressMatcher(six bool) matcher {
	m := ask1(interfaces, false, func(v cty.Value) (argument, error) {
		a, err := text(v)
		if err != nil {
			return a, err
		}
		p, err := netip.ParsePrefix(a.text)
		if err != nil {
			addr, err2 := netip.ParseAddr(a.text)
			if err2 != nil {
				return a, fmt.Errorf("%q is not an address; write e.g. \"192.0.2.1\" or \"192.0.2.1/24\"", a.text)
			}
			p = netip.PrefixFrom(addr, -1)
			a.on = addr
		}
		if p.Addr().Is6() != six {
			return a, fmt.Errorf("%q is an address of the other IP version", a.text)
		}
		a.extra = p
		return a, nil
	}, func(i netDevice, a argument) (bool, string, error) {
		if i.noAddrs != nil {
			return false, "", i.noAddrs
		}
		var have []string
		found := false
		for _, p := range i.ofFamily(six) {
			have = append(have, p.String())
			found = found || p == a.extra || a.on.IsValid() && p.Addr() == a.on
		}
		if len(have) == 0 {
			return false, "it has no such address", nil
		}
		return found, strings.Join(have, ", "), nil
	})
	return m
}

// Routes.

type route struct {
	to      netip.Prefix
	gateway netip.Addr // invalid where there is none
	device  string
	metric  uint64
}

func (r route) String() string {
	s := r.to.String()
	if r.gateway.IsValid() {
		s += " via " + r.gateway.String()
	}
	return s + " dev " + r.device
}

var routes = &kind{
	name: "route",
	script: `sed 's/^/4 /' /proc/net/route || exit
[ -e /proc/net/ipv6_route ] && sed 's/^/6 /' /proc/net/ipv6_route
exit 0`,
	read: func(a answer, subjects []string) (facts, error) {
		out := lines(a.out)
		if a.status != 0 || len(out) == 0 {
			return nil, failed(a, "the question for routes")
		}
		all := []route{}
		for _, l := range out {
			r, up, err := parseRoute(strings.Fields(l))
			if err != nil {
				return nil, fmt.Errorf("not a route: %s", Clean(l))
			}
			if up {
				all = append(all, r)
			}
		}
		result := facts{}
		for _, s := range subjects {
			result[s] = all
		}
		return result, nil
	},
}

// parseRoute reads a line of the kernel's tables; up is false for headings and
// for what is no way anywhere.
func parseRoute(f []string) (r route, up bool, err error) {
	const rtfUp, rtfGateway, rtfReject = 1, 2, 0x200
	number := func(s string, base int) uint64 {
		n, e := strconv.ParseUint(s, base, 64)
		err = errors.Join(err, e)
		return n
	}
	address := func(s string, reversed bool) netip.Addr {
		b, e := hex.DecodeString(s)
		if reversed {
			slices.Reverse(b)
		}
		addr, ok := netip.AddrFromSlice(b)
		if e != nil || !ok {
			err = errors.Join(err, errors.New("not an address"))
		}
		return addr
	}
	var flags uint64
	switch {
	case len(f) > 2 && f[0] == "4" && f[1] == "Iface":
		return r, false, nil
	case len(f) >= 9 && f[0] == "4":
		mask := address(f[8], true)
		ones := 0
		for _, b := range mask.AsSlice() {
			for ; b != 0; b <<= 1 {
				ones++
			}
		}
		r = route{to: netip.PrefixFrom(address(f[2], true), ones), gateway: address(f[3], true), device: f[1], metric: number(f[7], 10)}
		flags = number(f[4], 16)
	case len(f) == 11 && f[0] == "6":
		r = route{to: netip.PrefixFrom(address(f[1], false), int(number(f[2], 16)&0xff)), gateway: address(f[5], false), device: f[10], metric: number(f[6], 16)}
		flags = number(f[9], 16)
	default:
		return r, false, errors.New("not a route")
	}
	if flags&rtfGateway == 0 {
		r.gateway = netip.Addr{}
	}
	return r, err == nil && flags&rtfUp != 0 && flags&rtfReject == 0, err
}

func defaultRoute(all []route) (route, error) {
	var best []route
	for _, six := range []bool{false, true} {
		for _, r := range all {
			if r.to.Bits() != 0 || r.to.Addr().Is6() != six || !r.gateway.IsValid() {
				continue
			}
			if len(best) > 0 && r.metric < best[0].metric {
				best = nil
			}
			if len(best) == 0 || r.metric == best[0].metric {
				best = append(best, r)
			}
		}
		if len(best) > 0 {
			break
		}
	}
	if len(best) == 0 {
		return route{}, missing("there is no default gateway")
	}
	for _, r := range best[1:] {
		if r != best[0] {
			return route{}, fmt.Errorf("there are several: %s and %s", best[0], r)
		}
	}
	return best[0], nil
}

// readRouteEntry reads { destination, gateway, interface }.
func readRouteEntry(v cty.Value) (route, string, error) {
	given, err := members(v, "destination", "gateway", "interface")
	if err != nil {
		return route{}, "", err
	}
	var w route
	get := map[string]string{}
	words := []string{}
	for _, k := range []string{"destination", "gateway", "interface"} {
		if given[k] == cty.NilVal {
			continue
		}
		if get[k], err = asString(given[k]); err != nil {
			return w, "", fmt.Errorf("%s: %w", k, err)
		}
		words = append(words, k+" "+get[k])
	}
	w.device = get["interface"]
	if g := get["gateway"]; g != "" {
		if w.gateway, err = netip.ParseAddr(g); err != nil {
			return w, "", fmt.Errorf("gateway: %q is not an address", g)
		}
	}
	switch d := get["destination"]; {
	case d == "":
		err = errors.New("destination is missing")
	case d == "default" && w.gateway.Is6():
		w.to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	case d == "default":
		w.to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default:
		if w.to, err = netip.ParsePrefix(d); err != nil {
			var one netip.Addr
			if one, err = netip.ParseAddr(d); err == nil {
				w.to = netip.PrefixFrom(one, one.BitLen())
			}
		}
		if err != nil {
			err = fmt.Errorf("destination: %q is not a network, such as 192.0.2.0/24, nor \"default\"", d)
		}
	}
	return w, strings.Join(words, ", "), err
}

func hasRoute(all []route, w route) (bool, string) {
	var said []string
	for _, r := range all {
		if r.to != w.to {
			continue
		}
		said = append(said, r.String())
		if (w.device == "" || w.device == r.device) && (!w.gateway.IsValid() || w.gateway == r.gateway) {
			return true, r.String()
		}
	}
	if len(said) == 0 {
		return false, "no route to that"
	}
	return false, strings.Join(said, "; ")
}

// Other hosts.

// resolvers give a name's addresses as the machine's programs see them.
var resolvers = &kind{
	name: "host",
	each: true,
	script: `command -v getent >/dev/null || { echo "there is no getent" >&2; exit 9; }
getent ahosts "$1"
r=$?
[ $r = 1 ] && { getent hosts "$1"; r=$?; } # one that knows no ahosts
exit $r`,
	read: one(func(a answer) (any, error) {
		if a.status == 2 {
			return nil, missing("the name has no address")
		}
		if a.status != 0 {
			return nil, failed(a, "getent")
		}
		var out []string
		for _, l := range lines(a.out) {
			if f := strings.Fields(l); len(f) > 0 {
				if _, err := netip.ParseAddr(f[0]); err != nil {
					return nil, fmt.Errorf("not an address: %s", Clean(f[0]))
				}
				if !slices.Contains(out, f[0]) {
					out = append(out, f[0])
				}
			}
		}
		if len(out) == 0 {
			return nil, failed(a, "getent")
		}
		return out, nil
	}),
}

// hostsFile is what /etc/hosts alone says.
var hostsFile = &kind{
	name:   "hosts",
	script: `exec cat /etc/hosts`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 && !gone(string(a.errOut)) {
			return nil, failed(a, "the question for /etc/hosts")
		}
		got := map[string][]string{}
		for _, l := range lines(a.out) {
			l, _, _ = strings.Cut(l, "#")
			f := strings.Fields(l)
			for i := 1; i < len(f); i++ {
				got[strings.ToLower(f[i])] = append(got[strings.ToLower(f[i])], f[0])
			}
		}
		result := facts{}
		for _, s := range subjects {
			if addrs := got[strings.ToLower(s)]; addrs != nil {
				result[s] = addrs
			} else {
				result[s] = missing("not in the hosts file")
			}
		}
		return result, nil
	},
}

// dnsNames are what the machine's name servers say.
var dnsNames = &kind{
	name: "dns",
	each: true,
	script: `if command -v dig >/dev/null; then echo dig; exec dig +search +time=2 +tries=2 "$1" A "$1" AAAA
elif command -v host >/dev/null; then echo host; exec host -W 4 "$1"
elif command -v nslookup >/dev/null; then echo nslookup; exec nslookup "$1"
fi
echo none`,
	read: one(func(a answer) (any, error) {
		out := lines(a.out)
		if len(out) == 0 {
			return nil, failed(a, "the question for the name")
		}
		said := string(a.out) + string(a.errOut)
		var addrs []string
		server := true // nslookup's first address is the name server's
		for _, l := range out[1:] {
			f := strings.Fields(l)
			if len(f) == 0 {
				continue
			}
			var addr string
			switch out[0] {
			case "dig":
				if len(f) >= 5 && l[0] != ';' && (f[3] == "A" || f[3] == "AAAA") {
					addr = f[4]
				}
			case "host":
				if i := slices.Index(f, "address"); i > 0 && i+1 < len(f) && f[i-1] != "no" {
					addr = f[len(f)-1]
				}
			case "nslookup":
				if strings.HasPrefix(f[0], "Name") {
					server = false
				}
				if i := slices.IndexFunc(f, func(w string) bool { return strings.HasSuffix(w, ":") }); !server && strings.HasPrefix(f[0], "Address") && i >= 0 && i+1 < len(f) {
					addr = f[i+1]
				}
			}
			if p, err := netip.ParseAddr(addr); err == nil && !slices.Contains(addrs, p.String()) {
				addrs = append(addrs, p.String())
			}
		}
		answered := strings.Contains(said, "NXDOMAIN") || strings.Contains(said, "status: NOERROR") || strings.Contains(said, "No answer") || strings.Contains(said, "can't find")
		switch {
		case out[0] == "none":
			return nil, unsupported("none of dig, host and nslookup is there")
		case len(addrs) > 0:
			return addrs, nil
		case answered && !strings.Contains(said, "SERVFAIL") && !strings.Contains(said, "timed out") && !strings.Contains(said, "REFUSED"):
			return nil, missing("the name servers know no address")
		}
		return nil, failed(a, out[0])
	}),
}

func ofFamily(all []string, six bool) (value, error) {
	var out []string
	for _, s := range all {
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() == six {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return value{}, missing("the name has no such address")
	}
	return value{text: strings.Join(out, "\n")}, nil
}

// reachable reads what be_reachable takes: true, or { with = { port, proto, timeout } }.
func reachable(v cty.Value) (argument, error) {
	if v.Type() == cty.Bool {
		return options()(v)
	}
	given, err := members(v, "with")
	if err != nil {
		return argument{}, err
	}
	given, err = members(given["with"], "port", "proto", "timeout")
	if err != nil {
		return argument{}, fmt.Errorf("with: %w", err)
	}
	a := argument{opt: map[string]string{}}
	for _, k := range []string{"proto", "port", "timeout"} {
		if given[k] == cty.NilVal {
			continue
		}
		s, err := asString(given[k])
		if err != nil {
			return a, fmt.Errorf("%s: %w", k, err)
		}
		switch k {
		case "proto":
			if s == "udp" {
				return a, errors.New("whether a UDP port is reachable cannot be told: silence is an answer too")
			}
			if s != "tcp" {
				return a, fmt.Errorf("proto is tcp, not %q", s)
			}
		case "port":
			if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
				return a, errors.New("a port is a number from 1 to 65535")
			}
		case "timeout":
			s = strings.TrimSuffix(s, "s")
			if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 || n > 300 {
				return a, errors.New("a timeout is a whole number of seconds from 1 to 300, such as \"3s\"")
			}
		}
		a.opt[k] = s
		a.words += " " + k + " " + s
	}
	if a.opt["proto"] != "" && a.opt["port"] == "" {
		return a, errors.New("proto needs a port")
	}
	a.words = "with" + a.words
	return a, nil
}

// unreachable is how programs say that they got no connection, as opposed to
// that they could not try.
func unreachable(said string) bool {
	for _, w := range []string{"refused", "timed out", "nreachable", "No route to host", "not known", "name resolution", "bad address", "No address associated", "Name does not resolve"} {
		if strings.Contains(said, w) {
			return true
		}
	}
	return false
}

// pings and connects give why a host is not reachable; empty when it is.
var pings = &kind{
	name: "ping",
	each: true,
	script: `command -v ping >/dev/null || { echo "there is no ping" >&2; exit 9; }
exec ping -c 1 -w "$2" "$1"`,
	read: one(func(a answer) (any, error) {
		said := string(a.errOut)
		switch {
		case a.status == 0:
			return "", nil
		case a.status == 9, strings.Contains(said, "not permitted"), strings.Contains(said, "permission denied"):
			return nil, failed(a, "ping")
		case a.status == 1 && strings.TrimSpace(said) == "":
			return "no answer to ping", nil
		case unreachable(said):
			return Clean(strings.TrimSpace(said)), nil
		}
		return nil, failed(a, "ping")
	}),
}

var connects = &kind{
	name: "connect",
	each: true,
	script: `command -v timeout >/dev/null || { echo "there is no timeout program" >&2; exit 9; }
if command -v bash >/dev/null; then timeout "$3" bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2"; r=$?
elif command -v nc >/dev/null; then timeout "$3" nc -z "$1" "$2"; r=$?; [ $r = 1 ] && echo "nc: refused or unreachable" >&2
else echo "neither bash nor nc is there" >&2; exit 9; fi
case $r in 124|143) echo "timed out" >&2; exit 1; esac
exit $r`,
	read: one(func(a answer) (any, error) {
		said := string(a.errOut)
		switch {
		case a.status == 0:
			return "", nil
		case a.status == 1 && unreachable(said):
			first, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
			return Clean(first), nil
		}
		return nil, failed(a, "the attempt to connect")
	}),
}
