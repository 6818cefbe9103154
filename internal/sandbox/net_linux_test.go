package sandbox

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
)

// TestOutbound holds single frames against what a machine on the user network may send.
func TestOutbound(t *testing.T) {
	gateway, err := net.ParseMAC(gatewayMAC)
	if err != nil {
		t.Fatal(err)
	}
	st := station{IP: netip.MustParseAddr("198.18.0.2"), MAC: net.HardwareAddr{0x5a, 0x94, 0xef, 0, 0, 2}}
	c := &tapConn{st: st, gateway: gateway, refuse: map[netip.Addr]bool{netip.MustParseAddr("203.0.113.9"): true}}
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	frame := func(to, from net.HardwareAddr, kind uint16, src, dst string) []byte {
		f := make([]byte, 60)
		copy(f, to)
		copy(f[6:], from)
		binary.BigEndian.PutUint16(f[12:], kind)
		s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
		if kind == etherARP {
			copy(f[28:], s[:])
			copy(f[38:], d[:])
		} else {
			copy(f[26:], s[:])
			copy(f[30:], d[:])
		}
		return f
	}
	for _, test := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"the Internet", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "203.0.113.1"), true},
		{"a private network", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "10.1.2.3"), true},
		{"the gateway, where the resolver is", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "198.18.0.1"), true},
		{"a question for the gateway", frame(broadcast, st.MAC, etherARP, "198.18.0.2", "198.18.0.1"), true},
		{"a cloud's metadata", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "169.254.169.254"), false},
		{"this host's address", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "203.0.113.9"), false},
		{"loopback", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "127.0.0.1"), false},
		{"this network", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "0.0.0.1"), false},
		{"multicast", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "224.0.0.251"), false},
		{"a neighbour by the gateway", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "198.18.0.3"), false},
		{"a neighbour's device", frame(net.HardwareAddr{0x5a, 0x94, 0xef, 0, 0, 3}, st.MAC, etherIPv4, "198.18.0.2", "198.18.0.3"), false},
		{"everybody", frame(broadcast, st.MAC, etherIPv4, "198.18.0.2", "198.18.0.1"), false},
		{"a question for a neighbour", frame(broadcast, st.MAC, etherARP, "198.18.0.2", "198.18.0.3"), false},
		{"under another's address", frame(gateway, st.MAC, etherIPv4, "198.18.0.3", "203.0.113.1"), false},
		{"an answer under another's address", frame(gateway, st.MAC, etherARP, "198.18.0.3", "198.18.0.1"), false},
		{"from another device", frame(gateway, gateway, etherIPv4, "198.18.0.2", "203.0.113.1"), false},
		{"IPv6", frame(gateway, st.MAC, 0x86dd, "198.18.0.2", "203.0.113.1"), false},
		{"cut off", frame(gateway, st.MAC, etherIPv4, "198.18.0.2", "203.0.113.1")[:33], false},
		{"nothing", nil, false},
	} {
		if got := c.outbound(test.frame); got != test.want {
			t.Errorf("%s: passes %v, want %v", test.name, got, test.want)
		}
	}
}
