//go:build unix

package specs

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/machine"
)

// inNetwork gives a machine whose commands run in a network of their own,
// which setup has made.
func inNetwork(t *testing.T, m *local, setup string) *local {
	t.Helper()
	need(t, "unshare")
	need(t, "ip")
	if os.Getuid() != 0 {
		t.Skip("only root can make a network")
	}
	wrap := func(l string) string {
		return "exec unshare -n -m /bin/sh -c " + machine.Quote("mount -t sysfs none /sys && { "+setup+"\n} >&2 || exit 1\nexec sh -c "+machine.Quote(l))
	}
	if out, err := exec.Command("sh", "-c", wrap("true")).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI cannot make that network: %v, %s", err, out)
		}
		t.Skipf("this kernel does not make that network: %v, %s", err, out)
	}
	return &local{shell: m.shell, edit: wrap}
}

// carrier ends a setup with ve0: the kernel takes its own time to call it up.
const carrier = " && for i in $(seq 600); do [ \"$(cat /sys/class/net/ve0/operstate)\" != up ] || break; sleep 0.05; done"

func TestNetwork(t *testing.T) {
	const src = `
interface "lo" {
	be_up = true # pass
	have_ipv4_address = "127.0.0.1/8" # pass
}
interface "ve0" {
	be_up = true # pass: up
	have_ipv4_address = "10.9.8.7/24" # pass
	have_ipv6_address = "fd01::7" # pass
	its "mtu" { eq = 1400 } # pass
	its "ipv4_address" { eq = "10.9.8.7/24" } # pass
	should_not { have_ipv4_address = "10.9.8.7/16" } # pass
}
interface "br0" {
	be_up = true # fail: down
}
interface "eth0" {
	exist = true # fail: no such interface
}
bridge "br0" {
	have_interface = "ve1" # pass
	should_not { have_interface = "ve0" } # pass
}
bridge "lo" {
	exist = true # fail: not a bridge
}
bond "br0" {
	exist = true # fail: not a bond
}
default_gateway {
	its "ipaddress" { eq = "10.9.8.1" } # pass
	its "interface" { eq = "ve0" } # pass
}
routing_table {
	have_entry = { destination = "10.9.8.0/24", interface = "ve0" } # pass
	should_not { have_entry = { destination = "10.9.9.0/24" } } # pass
}
routing_table {
	have_entry = { destination = "fd02::/16", gateway = "fd01::1" } # pass
}
routing_table {
	should_not { have_entry = { destination = "10.66.0.0/16" } } # pass
}
host "127.0.0.1" {
	be_reachable = true # pass
}
host "10.66.0.1" {
	be_reachable = { with = { timeout = 1 } } # fail
}
`
	const setup = `ip link set lo up && ip link add br0 type bridge && ip link add ve0 type veth peer name ve1 &&
ip link set ve1 master br0 up && ip link set ve0 mtu 1400 up && ip addr add 10.9.8.7/24 dev ve0 && ip addr add fd01::7/64 dev ve0 nodad &&
ip route add default via 10.9.8.1 && ip -6 route add fd02::/16 via fd01::1 && ip route add unreachable 10.66.0.0/16` + carrier
	need(t, "ping")
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, inNetwork(t, m, setup), src)) })
	}
}

func TestReachable(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, open, _ := net.SplitHostPort(l.Addr().String())
	const shut = "1" // no other test is given it
	src := fmt.Sprintf(`
host "127.0.0.1" {
	be_reachable = { with = { port = %s, proto = "tcp", timeout = "60s" } } # pass
	should_not { be_reachable = { with = { port = %s } } } # pass: efused
}
host "localhost" {
	be_resolvable = true # pass: 127.0.0.1
	its "ipv4_address" { eq = "127.0.0.1" } # pass
}
host "name.invalid" {
	be_reachable = { with = { port = 1 } } # fail
}
`, open, shut)
	need(t, "getent")
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}
	t.Run("by nc", func(t *testing.T) {
		need(t, "nc")
		m := &local{edit: func(l string) string { return strings.ReplaceAll(l, "command -v bash", "false") }}
		src := strings.Replace(src, "{ port = 1 } } # fail", "{ port = 1 } } # error", 1) // nc does not say why
		if r := run(t, m, src); r.Results[0].Status != Pass || r.Results[1].Status != Pass || r.Results[4].Status == Pass {
			t.Errorf("%+v", r.Results)
		}
	})
}
