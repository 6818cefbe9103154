//go:build linux

package amazon

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// Inside a private network the group lets this host's private addresses in, each
// as a single one, and not its public ones or those of its containers.
func TestPrivateSources(t *testing.T) {
	if os.Geteuid() != 0 {
		sandboxtest.Missing(t, "a network is made by root")
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		sandboxtest.Missing(t, "needs ip (iproute2)")
	}
	const nowhere = "http://127.0.0.1:1"
	bakes := map[string]*running{}
	for _, body := range []string{"ssh_interface = \"private_ip\"", "ssh_interface = \"private_dns\"", "associate_public_ip_address = false"} {
		bakes[body] = toBake(t, body, nowhere)
	}
	done := make(chan error)
	go func() { // on a thread that ends with it, in a network of its own
		runtime.LockOSThread()
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		// Nothing reaches anything there: the other ends are down.
		for _, args := range [][]string{
			{"link", "add", "eth0", "type", "veth", "peer", "name", "far0"}, {"link", "add", "docker0", "type", "veth", "peer", "name", "far1"},
			{"addr", "add", "10.1.2.3/16", "dev", "eth0"}, {"addr", "add", "192.0.2.7/24", "dev", "eth0"}, {"addr", "add", "fd00::7/64", "dev", "eth0"},
			{"addr", "add", "172.17.0.1/16", "dev", "docker0"}, {"addr", "add", "10.9.9.9/32", "dev", "lo"},
			{"link", "set", "lo", "up"}, {"link", "set", "docker0", "up"}, {"link", "set", "eth0", "up"},
		} {
			if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
				done <- fmt.Errorf("ip %q: %w: %s", args, err, out)
				return
			}
		}
		for body, r := range bakes {
			if got, err := r.sources(t.Context()); err != nil || fmt.Sprint(got) != "[10.1.2.3/32]" {
				t.Errorf("%s: %v, %v", body, got, err)
			}
		}
		if out, err := exec.Command(ip, "addr", "del", "10.1.2.3/16", "dev", "eth0").CombinedOutput(); err != nil {
			done <- fmt.Errorf("%w: %s", err, out)
			return
		}
		for body, r := range bakes {
			if got, err := r.sources(t.Context()); err == nil {
				t.Errorf("%s, without a private address: %v", body, got)
			}
		}
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
