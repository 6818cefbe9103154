package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The user network is one user-mode TCP/IP stack for the whole process; each
// machine is a station on it that can talk to the gateway only. 198.18.0.0/15
// is set aside for tests (RFC 2544), so it hides no network that a machine may need.
const (
	userSubnet  = "198.18.0.0/16"
	userGateway = "198.18.0.1"
	gatewayMAC  = "5a:94:ef:00:00:01"
	userMTU     = 65520 // large frames: fewer wake-ups for the same bytes
)

type userNet struct {
	vn   *virtualnetwork.VirtualNetwork
	mu   sync.Mutex
	used map[uint16]bool
}

// sharedNet is made at first use; a process that boots no machine pays nothing.
var sharedNet = sync.OnceValues(func() (*userNet, error) {
	// The library reports every refused connection of a guest through the
	// global logger; those are the guest's business.
	logrus.SetOutput(io.Discard)
	vn, err := virtualnetwork.New(&types.Configuration{
		MTU: userMTU, Subnet: userSubnet, GatewayIP: userGateway, GatewayMacAddress: gatewayMAC,
	})
	if err != nil {
		return nil, fmt.Errorf("start the user-mode network stack: %w", err)
	}
	return &userNet{vn: vn, used: map[uint16]bool{0: true, 1: true, 0xffff: true}}, nil
})

// station is one machine's place on the user network.
type station struct {
	IP  netip.Addr
	MAC net.HardwareAddr
	n   uint16
	net *userNet
}

func (u *userNet) join() (station, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for n := uint16(2); n < 0xffff; n++ {
		if !u.used[n] {
			u.used[n] = true
			return station{
				IP:  netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}),
				MAC: net.HardwareAddr{0x5a, 0x94, 0xef, 0, byte(n >> 8), byte(n)},
				n:   n, net: u,
			}, nil
		}
	}
	return station{}, errors.New("the user network is full: 65,000 machines run in this process")
}

func (s station) leave() {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	delete(s.net.used, s.n)
}

// serve carries frames between the machine's tap device and the stack until
// the device is gone or tap is closed.
func (s station) serve(ctx context.Context, tap *os.File) {
	gw, _ := net.ParseMAC(gatewayMAC)
	c := &tapConn{File: tap, st: s, gateway: gw, refuse: hostAddrs()}
	_ = s.net.vn.AcceptBess(ctx, c) // ends when the machine's network namespace does
	s.leave()
}

// hostAddrs are this host's own addresses: a machine on the user network has
// no business there.
func hostAddrs() map[netip.Addr]bool {
	m := map[netip.Addr]bool{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return m
	}
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(p.IP); ok {
				m[ip.Unmap()] = true
			}
		}
	}
	return m
}

// tapConn is a tap device as the connection that the stack's switch wants. It
// passes only frames between this station and the gateway, with the station's
// own addresses, to destinations outside this host.
type tapConn struct {
	*os.File
	st      station
	gateway net.HardwareAddr
	refuse  map[netip.Addr]bool
}

func (c *tapConn) Read(p []byte) (int, error) {
	for {
		n, err := c.File.Read(p)
		if err != nil {
			return n, err
		}
		if c.outbound(p[:n]) {
			return n, nil
		}
	}
}

func (c *tapConn) Write(p []byte) (int, error) {
	if len(p) < 14 || !equal(p[6:12], c.gateway) {
		return len(p), nil // from another machine
	}
	return c.File.Write(p)
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
)

// outbound says whether a frame from the machine may pass.
func (c *tapConn) outbound(f []byte) bool {
	if len(f) < 14 || !equal(f[6:12], c.st.MAC) {
		return false
	}
	broadcast := equal(f[:6], net.HardwareAddr{255, 255, 255, 255, 255, 255})
	switch binary.BigEndian.Uint16(f[12:14]) {
	case etherARP:
		// sender and target protocol addresses
		if len(f) < 42 {
			return false
		}
		from, to := netip.AddrFrom4([4]byte(f[28:32])), netip.AddrFrom4([4]byte(f[38:42]))
		return from == c.st.IP && to == netip.MustParseAddr(userGateway)
	case etherIPv4:
		if len(f) < 34 || broadcast || !equal(f[:6], c.gateway) {
			return false
		}
		from, to := netip.AddrFrom4([4]byte(f[26:30])), netip.AddrFrom4([4]byte(f[30:34]))
		if from != c.st.IP {
			return false
		}
		return to == netip.MustParseAddr(userGateway) || c.reachable(to)
	}
	return false
}

// reachable keeps a machine off this host's loopback and addresses, off link
// local (a cloud's metadata service hands out credentials there) and off its neighbours.
func (c *tapConn) reachable(to netip.Addr) bool {
	subnet := netip.MustParsePrefix(userSubnet)
	return to.IsValid() && !to.IsLoopback() && !to.IsUnspecified() && !to.IsMulticast() && !to.IsLinkLocalUnicast() &&
		to.As4()[0] != 0 && !subnet.Contains(to) && !c.refuse[to]
}

func equal(a []byte, b net.HardwareAddr) bool { return string(a) == string(b) }

func (c *tapConn) LocalAddr() net.Addr                { return tapAddr{} }
func (c *tapConn) RemoteAddr() net.Addr               { return tapAddr{} }
func (c *tapConn) SetDeadline(t time.Time) error      { return c.File.SetDeadline(t) }
func (c *tapConn) SetReadDeadline(t time.Time) error  { return c.File.SetReadDeadline(t) }
func (c *tapConn) SetWriteDeadline(t time.Time) error { return c.File.SetWriteDeadline(t) }

type tapAddr struct{}

func (tapAddr) Network() string { return "tap" }
func (tapAddr) String() string  { return "tap" }

// openTap makes the device eth0 in the current network namespace and sets it
// up as the station says. Called inside the machine, before its privileges go.
func openTap(ip netip.Addr, mac net.HardwareAddr) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun for the machine's network: %w; load the tun module, or set network = \"host\" or \"none\"", err)
	}
	f := os.NewFile(uintptr(fd), "tap")
	req, err := unix.NewIfreq("eth0")
	if err != nil {
		f.Close()
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		f.Close()
		return nil, fmt.Errorf("make the machine's network device: %w", err)
	}
	link, err := netlink.LinkByName("eth0")
	if err == nil {
		err = netlink.LinkSetHardwareAddr(link, mac)
	}
	if err == nil {
		err = netlink.LinkSetMTU(link, userMTU)
	}
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(16, 32)}})
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(userGateway)})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("set up the machine's network device: %w", err)
	}
	return f, nil
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the machine's loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up the machine's loopback device: %w", err)
	}
	return nil
}
