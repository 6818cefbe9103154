package specs

import "testing"

func TestInterfaces(t *testing.T) {
	const sys = `state bond0 up
flags bond0 0x1443
mtu bond0 1500
speed bond0 20000
bond bond0 eth0 eth1
state br0 down
flags br0 0x1002
mtu br0 9000
speed br0 -1
bridge br0 yes
port br0 veth1
state lo unknown
flags lo 0x9
mtu lo 65536
speed lo ` + "\n"
	const addrs = `addr 1: lo    inet 127.0.0.1/8 scope host lo\       valid_lft forever preferred_lft forever
addr 1: lo    inet6 ::1/128 scope host \       valid_lft forever preferred_lft forever
addr 4: bond0    inet 192.0.2.2/24 brd 192.0.2.255 scope global bond0\       valid_lft forever preferred_lft forever
addr 4: bond0    inet 10.8.0.1 peer 10.8.0.2/32 scope global bond0\       valid_lft forever preferred_lft forever
`
	src := `
interface "bond0" {
	exist = true # pass
	be_up = true # pass
	have_ipv4_address = "192.0.2.2" # pass
	have_ipv6_address = "fd00::2" # fail: no such address
	its "speed" { eq = 20000 } # pass
	its "mtu" { be_less_than = 1501 } # pass
	its "ipv4_address" { match = "^10.8.0.1/32$" } # pass
	its "ipv6_address" { not_match = "x" } # fail: no such address
	should_not {
		have_ipv4_address = "192.0.2.2/16" # pass
	}
}
interface "lo" {
	be_up = true # pass: unknown
	have_ipv4_address = "127.0.0.1/8" # pass
	have_ipv6_address = "::1/128" # pass
	its "speed" { be_greater_than = 1 } # error: knows no speed
}
interface "br0" {
	be_up = true # fail: down
	its "speed" { be_greater_than = 1 } # error: knows no speed
}
interface "eth9" {
	exist = true # fail: no such interface
	be_up = true # fail
	its "mtu" { eq = 0 } # fail: no such interface
	should_not { have_ipv4_address = "127.0.0.1" } # fail: no such interface
}
bridge "br0" {
	exist = true # pass: of veth1
	have_interface = "veth1" # pass
	should_not { have_interface = "veth" } # pass
}
bridge "lo" {
	exist = true # fail: not a bridge
	should_not { have_interface = "veth" } # fail: not a bridge
}
bond "bond0" {
	exist = true # pass
	have_interface = "eth1" # pass
}
bond "bond1" {
	exist = true # fail: no such interface
}
`
	expect(t, src, recorded(t, src, map[string]answer{"interface": {out: []byte(sys + addrs)}}))
	src = "interface \"lo\" {\n\tbe_up = true # pass\n\thave_ipv4_address = \"127.0.0.1\" # error: no ip program\n}\n"
	expect(t, src, recorded(t, src, map[string]answer{"interface": {out: []byte(sys + "noip\n")}}))
}

func TestRoutes(t *testing.T) {
	// From this project's development machine, with two routes added.
	const out = `4 Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
4 eth0	00000000	010200C0	0003	0	0	100	00000000	0	0	0
4 wlan0	00000000	0100A8C0	0003	0	0	600	00000000	0	0	0
4 eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
4 *	0000010A	00000000	0201	0	0	0	0000FFFF	0	0	0
6 fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
6 00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
6 00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
`
	src := `
default_gateway {
	its "ipaddress" { eq = "192.0.2.1" } # pass
	its "interface" { eq = "wlan0" } # fail: "eth0"
}
routing_table {
	have_entry = { destination = "default", gateway = "192.0.2.1", interface = "eth0" } # pass
}
routing_table {
	have_entry = { destination = "0.0.0.0/0", gateway = "192.0.2.2" } # fail: via 192.0.2.1 dev eth0
}
routing_table {
	have_entry = { destination = "192.0.2.0/24" } # pass
}
routing_table {
	have_entry = { destination = "192.0.2.0/25" } # fail: no route to that
}
routing_table {
	have_entry = { destination = "default", gateway = "fd00::1" } # pass
}
routing_table {
	have_entry = { destination = "fd00::/64", interface = "eth0" } # pass
}
routing_table {
	should_not { have_entry = { destination = "10.1.0.0/16" } } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"route": {out: []byte(out)}}))
	for out, want := range map[string]string{
		"4 Iface x y\n": "fail: no default gateway",
		"":              "error: exit status 0",
		"4 eth0	00000000	0102	0003	0	0	100	00000000	0	0	0\n":                                                                                                        "error: not a route",
		"4 a	00000000	010200C0	0003	0	0	1	00000000	0	0	0\n4 b	00000000	010200C0	0003	0	0	1	00000000	0	0	0\n":                                                        "error: there are several",
		"6 00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n": "fail: \"fd00::1\"",
	} {
		src := "default_gateway {\n\tits \"ipaddress\" { eq = \"x\" } # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"route": {out: []byte(out)}}))
	}
}

func TestHosts(t *testing.T) {
	src := `
host "db.internal" {
	be_resolvable = { by = "hosts" } # pass: 10.0.0.5
}
host "DB" {
	be_resolvable = { by = "hosts" } # pass
}
host "old" {
	be_resolvable = { by = "hosts" } # fail: not in the hosts file
}
host "internal" {
	should_not { be_resolvable = { by = "hosts" } } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"hosts": {out: []byte("127.0.0.1 localhost\n10.0.0.5\tdb.internal db # old\n#10.0.0.6 old\n")}}))

	src = `
host "x" {
	be_resolvable = true # pass: 192.0.2.7, 2001:db8::7
	its "ipaddress" { match = "^192.0.2.7$" } # pass
	its "ipv4_address" { eq = "192.0.2.7" } # pass
	its "ipv6_address" { eq = "2001:db8::7" } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"host": {out: []byte("192.0.2.7       STREAM x\n192.0.2.7       DGRAM  \n2001:db8::7     STREAM \n")}}))
	for _, c := range []struct {
		want string
		a    answer
	}{
		{"fail: no address", answer{status: 2}},
		{"error: no getent", answer{status: 9, errOut: []byte("there is no getent\n")}},
		{"error", answer{}},
		{"error: not an address", answer{out: []byte("\x1b[31m x\n")}},
	} {
		src := "host \"x\" {\n\tbe_resolvable = true # " + c.want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"host": c.a}))
	}
}

// The forms in which the three programs answer, as their authors document them.
func TestNameServers(t *testing.T) {
	for _, c := range []struct {
		want string
		a    answer
	}{
		{"pass: 93.184.215.14", answer{out: []byte("dig\n; <<>> DiG 9.18 <<>> x\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n;x.\t\tIN\tA\nx.\t300\tIN\tA\t93.184.215.14\n")}},
		{"fail: know no address", answer{out: []byte("dig\n;; ->>HEADER<<- opcode: QUERY, status: NXDOMAIN, id: 1\n")}},
		{"error", answer{status: 9, out: []byte("dig\n;; communications error to 10.0.0.1#53: timed out\n;; no servers could be reached\n")}},
		{"error", answer{out: []byte("dig\n;; ->>HEADER<<- opcode: QUERY, status: SERVFAIL, id: 1\n")}},
		{"pass: 192.0.2.1, 2001:db8::1", answer{out: []byte("host\nx has address 192.0.2.1\nx has IPv6 address 2001:db8::1\nx mail is handled by 10 mx.x.\n")}},
		{"fail", answer{status: 1, out: []byte("host\nHost x not found: 3(NXDOMAIN)\n")}},
		{"error", answer{status: 1, out: []byte("host\n;; connection timed out; no servers could be reached\n")}},
		{"pass: 192.0.2.1", answer{out: []byte("nslookup\nServer:\t\t10.0.0.1\nAddress:\t10.0.0.1#53\n\nNon-authoritative answer:\nName:\tx\nAddress: 192.0.2.1\n")}},
		{"pass: 192.0.2.1", answer{out: []byte("nslookup\nServer:    10.0.0.1\nAddress 1: 10.0.0.1 dns\n\nName:      x\nAddress 1: 192.0.2.1 x\n")}}, // old busybox
		{"fail", answer{status: 1, out: []byte("nslookup\nServer:\t\t10.0.0.1\nAddress:\t10.0.0.1#53\n\n** server can't find x: NXDOMAIN\n")}},
		{"error", answer{status: 1, out: []byte("nslookup\nServer:\t\t10.0.0.1\nAddress:\t10.0.0.1#53\n\n** server can't find x: SERVFAIL\n")}},
		{"error", answer{status: 1, out: []byte("nslookup\n;; connection timed out; no servers could be reached\n")}},
		{"error: none of dig, host and nslookup", answer{out: []byte("none\n")}},
		{"error", answer{}},
	} {
		src := "host \"x\" {\n\tbe_resolvable = { by = \"dns\" } # " + c.want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"dns": c.a}))
	}
}

func TestPing(t *testing.T) {
	for _, c := range []struct {
		want string
		a    answer
	}{
		{"pass", answer{out: []byte("1 packets transmitted, 1 received\n")}},
		{"fail: no answer to ping", answer{status: 1, out: []byte("1 packets transmitted, 0 received, 100% packet loss\n")}},
		{"fail: not known", answer{status: 2, errOut: []byte("ping: x: Name or service not known\n")}},
		{"fail: unreachable", answer{status: 2, errOut: []byte("ping: connect: Network is unreachable\n")}},
		{"fail: bad address", answer{status: 1, errOut: []byte("ping: bad address 'x'\n")}}, // busybox
		{"error: permission denied", answer{status: 1, errOut: []byte("ping: permission denied (are you root?)\n")}},
		{"error: not permitted", answer{status: 2, errOut: []byte("ping: socket: Operation not permitted\n")}},
		{"error: no ping", answer{status: 9, errOut: []byte("there is no ping\n")}},
	} {
		src := "host \"x\" {\n\tbe_reachable = true # " + c.want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"ping": c.a}))
	}
}

func TestNetworkRefuses(t *testing.T) {
	for src, want := range map[string]string{
		`bridge "a/b" { exist = true }`:                                       "not a name",
		`interface "lo" { have_ipv4_address = "localhost" }`:                  "is not an address",
		`interface "lo" { have_ipv4_address = "::1" }`:                        "other IP version",
		`routing_table { have_entry = "default" }`:                            "an object with destination",
		`routing_table { have_entry = { gateway = "192.0.2.1" } }`:            "destination is missing",
		`routing_table { have_entry = { destination = "here" } }`:             "is not a network",
		`routing_table { have_entry = { destinaton = "default" } }`:           `did you mean "destination"?`,
		`host "x" { be_reachable = { with = { port = 53, proto = "udp" } } }`: "silence is an answer",
		`host "x" { be_reachable = { with = { port = 0 } } }`:                 "1 to 65535",
		`host "x" { be_reachable = { with = { timeout = "1m" } } }`:           "whole number of seconds",
		`host "x" { be_resolvable = { by = "magic" } }`:                       "dns, hosts",
		`host "-x" { be_resolvable = true }`:                                  "not a name",
		`default_gateway "x" { its "interface" { eq = "x" } }`:                "Extraneous label",
		`default_gateway { its "ip" { eq = "x" } }`:                           "Known: interface, ipaddress",
	} {
		checkRefused(t, src, want)
	}
}
