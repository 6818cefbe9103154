//go:build linux

package digitalocean

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

func TestShutdownIsIgnored(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	c.IgnoreShutdown(true)
	k := begin(t, c, tempo(), source(c, `shutdown_timeout = "300ms"`))
	k.must("true")
	if !k.says("the power is cut") {
		t.Error("nobody was told that the power was cut")
	}
	if !slices.ContainsFunc(c.Plan().Calls(), func(c fault.Call) bool { return strings.HasSuffix(c.Action, "/actions") }) {
		t.Error("there was no action at all")
	}
}

// TestErrored: an action that has errored ends the wait at once, with what is
// known of it, and the bake leaves nothing.
func TestErrored(t *testing.T) {
	for _, kind := range []string{"create", "snapshot"} {
		t.Run(kind, func(t *testing.T) {
			c := cloud(t, digitalocean.Options{Durations: durations()})
			c.FailActions(func(a digitalocean.Action) bool { return a.Type == kind })
			k := begin(t, c, tempo(), source(c, `ssh_timeout = "10m"`))
			_, err := k.image(t.Context(), "true")
			failed, ok := errors.AsType[*docloud.ActionError](err)
			if !ok || failed.Action.Type != kind || !strings.Contains(err.Error(), "nyc3") {
				t.Fatalf("%v", err)
			}
			if errors.Is(err, builders.ErrUnfinished) {
				t.Error("an image that cannot be finished is said to be unfinished")
			}
			k.end(err)
			nothingLeft(t, c)
			if images := c.Left("image"); len(images) > 0 {
				t.Errorf("left: %v", images)
			}
		})
	}
}

func TestTransfers(t *testing.T) {
	const regions = `snapshot_regions = ["fra1", "sgp1"]` + "\n"
	t.Run("tried again", func(t *testing.T) {
		c := cloud(t, digitalocean.Options{Durations: durations()})
		var fails atomic.Int32
		c.FailActions(func(a digitalocean.Action) bool {
			return a.Region == "fra1" && a.Type == "transfer" && fails.Add(1) <= 2
		})
		if a := begin(t, c, tempo(), source(c, regions)).must("true"); !strings.HasPrefix(a.ID, "nyc3,fra1,sgp1:") {
			t.Errorf("%s", a.ID)
		}
	})
	t.Run("rolled back", func(t *testing.T) {
		c := cloud(t, digitalocean.Options{Durations: durations()})
		c.FailActions(func(a digitalocean.Action) bool { return a.Region == "fra1" && a.Type == "transfer" })
		k := begin(t, c, tempo(), source(c, regions))
		_, err := k.image(t.Context(), "true")
		if err == nil || !strings.Contains(err.Error(), "fra1") || !strings.Contains(err.Error(), "keep_partial") || errors.Is(err, builders.ErrUnfinished) {
			t.Fatal(err)
		}
		k.end(err)
		nothingLeft(t, c)
		if images := c.Left("image"); len(images) > 0 {
			t.Errorf("left: %v", images)
		}
	})
	t.Run("keep_partial", func(t *testing.T) {
		c := cloud(t, digitalocean.Options{Durations: durations()})
		c.FailActions(func(a digitalocean.Action) bool { return a.Region == "fra1" && a.Type == "transfer" })
		k := begin(t, c, tempo(), source(c, regions+"keep_partial = true"))
		a := k.must("true")
		if !strings.HasPrefix(a.ID, "nyc3,sgp1:") || len(a.Places) != 2 || !k.says("is in nyc3, sgp1, and nowhere else") || !k.says("bring the image to fra1") {
			t.Errorf("%s; %v", a.ID, k.said)
		}
	})
	t.Run("not waited for", func(t *testing.T) {
		d := durations()
		d.Transfer = time.Hour
		c := cloud(t, digitalocean.Options{Durations: d})
		a := begin(t, c, tempo(), source(c, regions+"wait_snapshot_transfer = false")).must("true")
		if !strings.HasPrefix(a.ID, "nyc3,fra1,sgp1:") {
			t.Errorf("%s", a.ID)
		}
	})
}

// TestSnapshotTimeout: the snapshot takes longer than is waited for. The droplet
// stays until another process finishes the image.
func TestSnapshotTimeout(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	release := c.HoldActions(func(a digitalocean.Action) bool { return a.Type == "snapshot" })
	k := begin(t, c, tempo(), source(c, "snapshot_timeout = \"200ms\"\nsnapshot_regions = [\"fra1\"]\nsnapshot_tags = [\"web\"]"))
	_, err := k.image(t.Context(), "echo x >/srv/x")
	if !errors.Is(err, builders.ErrUnfinished) || !strings.Contains(err.Error(), "snapshot_timeout") {
		t.Fatal(err)
	}
	k.end(err)
	if found := left(c); len(found) != 1 || !strings.HasPrefix(found[0], "droplet") {
		t.Fatalf("left: %v; want the droplet whose snapshot is taken, and nothing else", found)
	}
	if _, err := k.resume(quick); !errors.Is(err, builders.ErrUnfinished) {
		t.Errorf("resumed while the snapshot is taken: %v", err)
	}
	release()
	var a *builders.Artifact
	for start := time.Now(); time.Since(start) < time.Minute; { // it gives up as soon as Snapshot has
		if a, err = k.resume(quick); !errors.Is(err, builders.ErrUnfinished) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	k.end(nil)
	nothingLeft(t, c, "web")
	images := c.Left("image")
	if len(images) != 1 || images[0].ID != number(t, a) || len(images[0].Regions) != 2 || !slices.Contains(images[0].Tags, "web") {
		t.Errorf("%v; %s", images, a.ID)
	}
	if b, err := c.ReadFile(number(t, a), "/srv/x"); err != nil || string(b) != "x\n" {
		t.Errorf("%q, %v", b, err)
	}
	if a.Parent != "debian-12-x64" || !strings.HasPrefix(a.ID, "nyc3,fra1:") {
		t.Errorf("%+v", a)
	}
}

// TestLost: the droplet was destroyed by someone while its snapshot was not there yet.
func TestLost(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	release := c.HoldActions(func(a digitalocean.Action) bool { return a.Type == "snapshot" })
	c.FailActions(func(a digitalocean.Action) bool { return a.Type == "snapshot" })
	k := begin(t, c, tempo(), source(c, `snapshot_timeout = "100ms"`))
	_, err := k.image(t.Context(), "true")
	if !errors.Is(err, builders.ErrUnfinished) {
		t.Fatal(err)
	}
	k.end(err)
	release()
	s, err := tempo().Connect(&k.b.o.Access)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteDroplet(t.Context(), k.b.m.id); err != nil { // waits until it may
		t.Fatal(err)
	}
	_, err = k.resume(quick)
	if !errors.Is(err, builders.ErrImageLost) {
		t.Fatal(err)
	}
	k.end(err)
	nothingLeft(t, c)
}

// TestNetworkGone: from one call on, there is no API any more. What has begun
// is finished by another process.
func TestNetworkGone(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	for _, from := range []string{"snapshot", "transfer"} {
		t.Run(from, func(t *testing.T) {
			var mu sync.Mutex
			gone := false
			c.FailActions(func(a digitalocean.Action) bool {
				mu.Lock()
				defer mu.Unlock()
				gone = gone || a.Type == from
				return false
			})
			c.Plan().Decide(func(fault.Call) fault.Fault {
				mu.Lock()
				defer mu.Unlock()
				if gone {
					return fault.Cut
				}
				return fault.None
			})
			k := begin(t, c, tempo(), source(c, "snapshot_regions = [\"fra1\"]\nhttp_retry_wait_max = 0.01\nhttp_retry_wait_min = 0.01"))
			_, err := k.image(t.Context(), "true")
			if !errors.Is(err, builders.ErrUnfinished) {
				t.Fatal(err)
			}
			c.FailActions(nil)
			c.Plan().Decide(nil)
			k.end(err)
			a, err := k.resume(quick)
			if err != nil {
				t.Fatal(err)
			}
			k.end(nil)
			nothingLeft(t, c)
			if images := c.Left("image"); len(images) != 1 || images[0].ID != number(t, a) || len(images[0].Regions) != 2 {
				t.Errorf("%v; %s", images, a.ID)
			}
			if err := a.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKilledWhileSnapshotting stops after each write into the ledger from the
// snapshot on, as a kill does, and finishes the image from the ledger, or
// releases everything where there is nothing to finish.
func TestKilledWhileSnapshotting(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	killed := errors.New("killed")
	resumed, points := 0, 0
	for n := 1; ; n++ {
		k := begin(t, c, tempo(), source(c, "snapshot_regions = [\"fra1\"]\nsnapshot_tags = [\"web\"]"))
		var err error
		if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
			t.Fatal(err)
		}
		writes, at := 0, ""
		k.ledger.fail = func(what string, l builders.Lease) error {
			if writes++; writes >= n { // nothing is written after the kill
				if at == "" {
					at = what + " " + l.Kind
				}
				return killed
			}
			return nil
		}
		_, err = k.b.Snapshot(t.Context(), k.run)
		k.ledger.fail = nil
		_ = k.machine.Close()
		k.machine = nil
		k.b = New(tempo())
		if at == "" {
			if err != nil {
				t.Fatal(err)
			}
			k.end(errors.New("swept"))
			nothingLeft(t, c, "web")
			break
		}
		points++
		if !errors.Is(err, killed) {
			t.Errorf("%s: %v", at, err)
		}
		open := k.ledger.Open()
		if slices.ContainsFunc(open, func(l builders.Lease) bool { return l.Kind == leaseSource }) {
			a, err := k.resume(quick)
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			resumed++
			if images := c.Left("image"); len(images) != 1 || len(images[0].Regions) != 2 {
				t.Errorf("%s: %v", at, images)
			}
			k.end(nil)
			nothingLeft(t, c, "web")
			if err := a.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			continue
		}
		k.end(errors.New("swept"))
		nothingLeft(t, c, "web")
		if images := c.Left("image"); len(images) > 0 {
			t.Errorf("%s: left: %v", at, images)
		}
	}
	t.Logf("%d points, %d resumed", points, resumed)
	if resumed < 4 {
		t.Errorf("only %d of %d points could be resumed", resumed, points)
	}
}

// TestKilledAtEveryCall kills a bake when a call has had its effect and before it
// is answered, at each call from the first to the last. Another process has the
// ledger as it was then, and resumes or sweeps.
func TestKilledAtEveryCall(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: digitalocean.Durations{Visible: durations().Visible}})
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	const scale = 40
	killed := errors.New("killed")
	points, resumed := 0, 0
	for n := 1; ; n++ {
		k := begin(t, c, docloud.NewShared(docloud.Tempo{Scale: scale}), source(c, "snapshot_regions = [\"fra1\"]\nsnapshot_tags = [\"web\"]"))
		k.b.o.SnapshotName = k.run.BakeID
		ctx, cancel := context.WithCancel(t.Context())
		var dead atomic.Bool
		at := ""
		c.Plan().Reset()
		c.Plan().Done(func(call fault.Call) {
			if call.N == n {
				at = call.Action
				k.ledger.mu.Lock() // nothing is being written
				dead.Store(true)
				k.ledger.mu.Unlock()
				cancel()
			}
		})
		k.ledger.dead = &dead
		_, err := k.image(ctx, "true")
		cancel()
		c.Plan().Done(nil)
		if k.machine != nil {
			_ = k.machine.Close()
			k.machine = nil
		}
		k.ledger.dead = nil
		k.b = New(docloud.NewShared(docloud.Tempo{Scale: scale}))
		if !dead.Load() {
			if err != nil {
				t.Fatal(err)
			}
			k.end(killed)
			nothingLeft(t, c, "web")
			break
		}
		points++
		var a *builders.Artifact
		err = killed
		if slices.ContainsFunc(k.ledger.Open(), func(l builders.Lease) bool { return l.Kind == leaseSource }) || slices.ContainsFunc(k.ledger.Open(), func(l builders.Lease) bool { return l.Kind == leaseSnapshot && l.ExternalID != "" }) {
			if a, err = k.resume(scale); err != nil {
				t.Errorf("killed at call %d, %s: resume: %v", n, at, err)
			} else {
				resumed++
			}
		}
		k.end(err)
		for _, name := range left(c, "web") {
			t.Errorf("killed at call %d, %s: left: %s", n, at, name)
		}
		if images := c.Left("image"); (a != nil) != (len(images) == 1) || a != nil && (len(images[0].Regions) != 2 || !slices.Contains(images[0].Tags, "web")) {
			t.Errorf("killed at call %d, %s: %v", n, at, images)
		}
		if a != nil {
			if err := a.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("%d points, %d resumed", points, resumed)
	if points < 15 || resumed < 3 {
		t.Errorf("only %d points, of which %d could be resumed", points, resumed)
	}
}

// banner is what an SSH server says to who comes from that address of loopback.
func banner(t *testing.T, from, host string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", host+":22")
	if err != nil {
		return ""
	}
	defer conn.Close()
	line, _ := bufio.NewReader(conn).ReadString('\n') // none: turned away
	return line
}

// TestFirewall: while the droplet is there, only who is admitted gets through.
func TestFirewall(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	k := begin(t, c, tempo(), source(c, ""))
	var err error
	if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
		t.Fatal(err)
	}
	if b := banner(t, "127.0.0.1", k.run.Values["Host"]); !strings.HasPrefix(b, "SSH-") {
		t.Errorf("this host gets %q", b)
	}
	if b := banner(t, "127.0.0.9", k.run.Values["Host"]); b != "" {
		t.Errorf("another host gets %q", b)
	}
	s, err := tempo().Connect(&k.b.o.Access)
	if err != nil {
		t.Fatal(err)
	}
	walls, err := firewalls(t.Context(), s, firewallName(k.run.BakeID))
	if err != nil || len(walls) != 1 {
		t.Fatalf("%v, %v", walls, err)
	}
	if in := walls[0].InboundRules; len(in) != 1 || in[0].Protocol != "tcp" || in[0].PortRange != "22" || !slices.Equal(in[0].Sources.Addresses, []string{"127.0.0.1/32", "::1/128"}) {
		t.Errorf("the firewall lets in %+v", in)
	}
	var out []string
	for _, r := range walls[0].OutboundRules {
		out = append(out, strings.Join(append([]string{r.Protocol, r.PortRange}, r.Destinations.Addresses...), " "))
	}
	if slices.Sort(out); !slices.Equal(out, []string{"icmp 0 0.0.0.0/0 ::/0", "tcp 0 0.0.0.0/0 ::/0", "udp 0 0.0.0.0/0 ::/0"}) {
		t.Errorf("the firewall lets out %q", out)
	}
	first := func(action string) int {
		return slices.IndexFunc(c.Plan().Calls(), func(c fault.Call) bool { return c.Action == action })
	}
	if wall, droplet := first("POST /v2/firewalls"), first("POST /v2/droplets"); wall < 0 || droplet < wall {
		t.Errorf("the firewall is call %d, the droplet is call %d", wall, droplet)
	}
	k.end(errors.New("over"))
	nothingLeft(t, c)

	// Where nobody can be let in, there is no droplet. Check would refuse this one.
	c.Plan().Reset()
	k = begin(t, c, tempo(), source(c, `temporary_firewall_source_cidrs = ["nobody"]`))
	if _, err := k.b.Boot(t.Context(), k.run); err == nil {
		t.Error("a droplet is made that nobody can reach")
	}
	if first("GET /v2/account") < 0 || first("POST /v2/firewalls") >= 0 || first("POST /v2/droplets") >= 0 {
		t.Errorf("the calls were %v", c.Plan().Calls())
	}
	k.end(errors.New("over"))
	nothingLeft(t, c)

	// As the template says it.
	k = begin(t, c, tempo(), source(c, "temporary_firewall_source_cidrs = [\"127.0.0.9\", \"127.0.0.0/31\"]"))
	if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
		t.Fatal(err)
	}
	if b := banner(t, "127.0.0.9", k.run.Values["Host"]); !strings.HasPrefix(b, "SSH-") {
		t.Errorf("who is in the template gets %q", b)
	}
	if b := banner(t, "127.0.0.5", k.run.Values["Host"]); b != "" {
		t.Errorf("another host gets %q", b)
	}
	k.end(errors.New("over"))
}

// TestCallers: how the address of this host is learnt when the API is not on
// this host.
func TestCallers(t *testing.T) {
	answer := ""
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer srv.Close()
	b := New(tempo())
	b.o.APIURL, b.o.APIToken, b.o.TemporaryFirewallCheckURL = "https://api.example.com", "t", srv.URL
	s, err := b.shared.Connect(&b.o.Access)
	if err != nil {
		t.Fatal(err)
	}
	b.m = &droplet{sess: s}
	for text, want := range map[string]string{
		"203.0.113.7\n": "203.0.113.7/32", "::ffff:203.0.113.7": "203.0.113.7/32",
		"10.0.0.1": "", "2001:db8::7": "", "127.0.0.1": "", "0.0.0.0": "", "<html>": "", "": "", "203.0.113.7 198.51.100.1": "",
	} {
		answer = text
		got, err := b.callers(t.Context())
		if want == "" {
			if !errors.Is(err, errCallers) || !strings.Contains(err.Error(), "temporary_firewall_source_cidrs") {
				t.Errorf("%q: %v, %v", text, got, err)
			}
		} else if err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	answer, status = "203.0.113.7", http.StatusInternalServerError
	if _, err := b.callers(t.Context()); !errors.Is(err, errCallers) {
		t.Error(err)
	}
	b.o.SSHBastionHost = "127.0.0.1"
	if _, err := b.callers(t.Context()); !errors.Is(err, errCallers) {
		t.Error(err)
	}
	b.o.SSHBastionHost = "203.0.113.9" // an address needs no look-up
	if got, err := b.callers(t.Context()); err != nil || !slices.Equal(got, []string{"203.0.113.9/32"}) {
		t.Errorf("%v, %v", got, err)
	}
	b.o.SSHBastionHost, b.o.SSHProxyHost = "", "203.0.113.10"
	if got, err := b.callers(t.Context()); err != nil || !slices.Equal(got, []string{"203.0.113.10/32"}) {
		t.Errorf("%v, %v", got, err)
	}
	// By the private network.
	b.o.ConnectWithPrivateIP = true
	if _, err := b.callers(t.Context()); !errors.Is(err, errCallers) {
		t.Error(err)
	}
	b.o.SSHProxyHost = "10.0.0.9"
	if got, err := b.callers(t.Context()); err != nil || !slices.Equal(got, []string{"10.0.0.9/32"}) {
		t.Errorf("%v, %v", got, err)
	}
	b.o.SSHProxyHost = ""
	nets, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, n := range nets {
		if ip := n.(*net.IPNet).IP; ip.To4() != nil && ip.IsPrivate() {
			want = append(want, ip.String()+"/32")
		} else if ip.IsPrivate() {
			want = append(want, ip.String()+"/128")
		}
	}
	if got, err := b.callers(t.Context()); !slices.Equal(got, want) || (len(want) == 0) != errors.Is(err, errCallers) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	var some []net.Addr
	for _, text := range []string{"127.0.0.1/8", "203.0.113.7/24", "10.1.2.3/8", "172.17.0.1/16", "192.168.7.8/24", "169.254.1.2/16", "::1/128", "fd00::2/64", "fe80::1/64", "2001:db8::7/64"} {
		ip, n, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		some = append(some, &net.IPNet{IP: ip, Mask: n.Mask})
	}
	if got := fmt.Sprint(private(some)); got != "[10.1.2.3 172.17.0.1 192.168.7.8 fd00::2]" {
		t.Errorf("private are %s", got)
	}
}

// TestPreflight: what is wrong with the account is said before anything is made.
func TestPreflight(t *testing.T) {
	c := cloud(t, digitalocean.Options{Images: []digitalocean.BaseImage{
		{Slug: "debian-12-x64", Name: "12", Distribution: "Debian"},
		{Slug: "large-x64", Name: "large", Distribution: "Debian", MinDisk: 100},
		{Slug: "far-x64", Name: "far", Distribution: "Debian", Regions: []string{"syd1"}},
	}})
	good := source(c, "")
	change := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, test := range map[string]struct{ body, option, says string }{
		"disk":   {change("debian-12-x64", "large-x64"), "size", "100 GB"},
		"far":    {change("debian-12-x64", "far-x64"), "image", "syd1"},
		"near":   {change("nyc3", "nyc33"), "region", `Did you mean "nyc3"?`},
		"closed": {change("nyc3", "sfo1"), "region", "no new droplets"},
		"reads":  {change(c.Token(), c.AddToken("account:read", "regions:read", "sizes:read", "image:read", "droplet:read", "tag:read", "ssh_key:read", "firewall:read")), "api_token", "may not delete droplets"},
		"blind":  {change(c.Token(), c.AddToken("account:read")), "api_token", "may not read"},
	} {
		k := begin(t, c, tempo(), test.body)
		if found := k.problems(); !strings.Contains(found[test.option], test.says) {
			t.Errorf("%s: %q is not said of %s: %v", name, test.says, test.option, found)
		}
	}
	// All at once.
	k := begin(t, c, tempo(), change("nyc3", "nyc9")+"snapshot_regions = [\"x1\"]\nproject = \"none\"\nreserved_ip = \"192.0.2.1\"\nssh_key_id = 7\nssh_private_key_file = \"k\"\nprivate_networking = true\nvpc_uuid = \"760e09ef-dc84-11e8-981e-3cfdfeaae000\"\n")
	key, _, err := k.b.o.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(k.run.Dir, "k"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	found := k.problems()
	for _, option := range []string{"region", "snapshot_regions.0", "project", "reserved_ip", "ssh_key_id", "vpc_uuid"} {
		if found[option] == "" {
			t.Errorf("nothing is said of %s: %v", option, found)
		}
	}
	nothingLeft(t, c)
	// Under `ingot validate` nobody is asked.
	before := len(c.Plan().Calls())
	for _, p := range begin(t, c, tempo(), good).b.Check(t.Context(), &builders.CheckEnv{Dir: k.run.Dir, Validate: true}) {
		t.Errorf("%+v", p)
	}
	if len(c.Plan().Calls()) != before {
		t.Error("validate has called the API")
	}
}

// TestWays are other ways to have and to reach the droplet.
func TestWays(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	s, err := tempo().Connect(&docloud.Access{APIURL: c.URL(), APIToken: c.Token()})
	if err != nil {
		t.Fatal(err)
	}
	address, _, err := s.API.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "nyc3"})
	if err != nil {
		t.Fatal(err)
	}
	project, _, err := s.API.Projects.Create(t.Context(), &godo.CreateProjectRequest{Name: "builds", Purpose: "Other", Environment: "Development"})
	if err != nil {
		t.Fatal(err)
	}
	o := communicator.Defaults()
	private, public, err := o.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	key, _, err := s.API.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "mine", PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		body string
		see  func(t *testing.T, k *bake)
	}{
		"reserved address": {"reserved_ip = \"" + address.IP + `"`, func(t *testing.T, k *bake) {
			if k.run.Values["Host"] != address.IP {
				t.Errorf("reached at %s, not at %s", k.run.Values["Host"], address.IP)
			}
		}},
		"private address": {"private_networking = true\nconnect_with_private_ip = true", func(t *testing.T, k *bake) {
			d, _, err := s.API.Droplets.Get(t.Context(), k.b.m.id)
			if err != nil {
				t.Fatal(err)
			}
			if ip, _ := d.PrivateIPv4(); ip != k.run.Values["Host"] {
				t.Errorf("reached at %s, not at %s", k.run.Values["Host"], ip)
			}
		}},
		"project": {`project = "builds"`, func(t *testing.T, k *bake) {
			all, err := docloud.Pages(t.Context(), func(ctx context.Context, o *godo.ListOptions) ([]godo.ProjectResource, *godo.Response, error) {
				return s.API.Projects.ListResources(ctx, project.ID, o)
			})
			if err != nil || !slices.ContainsFunc(all, func(r godo.ProjectResource) bool { return r.URN == "do:droplet:"+strconv.Itoa(k.b.m.id) }) {
				t.Errorf("%v, %v", all, err)
			}
		}},
		"own key": {"ssh_key_id = " + strconv.Itoa(key.ID) + "\nssh_private_key_file = \"" + file + `"`, func(t *testing.T, k *bake) {
			if keys := c.Left("key"); len(keys) != 1 {
				t.Errorf("%v", keys)
			}
		}},
		"no communicator": {"communicator = \"none\"", func(t *testing.T, k *bake) {
			if k.machine != nil {
				t.Error("there is a machine")
			}
			if walls := c.Left("firewall", "key"); len(walls) != 1 {
				t.Errorf("%v", walls)
			}
		}},
		"no firewall": {"temporary_firewall = false", func(t *testing.T, k *bake) {
			if walls := c.Left("firewall"); len(walls) > 0 {
				t.Errorf("%v", walls)
			}
			if b := banner(t, "127.0.0.9", k.run.Values["Host"]); !strings.HasPrefix(b, "SSH-") {
				t.Errorf("another host gets %q", b)
			}
		}},
		"name": {`droplet_name = "builder.example.com"`, func(t *testing.T, k *bake) {
			if ds := c.Left("droplet"); len(ds) != 1 || ds[0].Name != "builder.example.com" {
				t.Errorf("%v", ds)
			}
		}},
		"multipart user data": {`user_data = "Content-Type: multipart/mixed; boundary=\"b\"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/x-shellscript\n\n#!/bin/sh\necho x >/srv/m\n--b--\n"`, func(t *testing.T, k *bake) {
			if err := k.machine.Run(t.Context(), machine.Command{Line: "cloud-init status --wait; test -s /srv/m"}); err != nil {
				t.Errorf("the script of the user data: %v", err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			k := begin(t, c, tempo(), source(c, test.body))
			k.t = t
			k.check()
			var err error
			if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
				t.Fatal(err)
			}
			test.see(t, k)
			a, err := k.b.Snapshot(t.Context(), k.run)
			if err != nil {
				t.Fatal(err)
			}
			k.end(nil)
			for _, name := range left(c) {
				if !strings.Contains(name, `"mine"`) {
					t.Errorf("left: %s", name)
				}
			}
			// A key of one's own stays, in the account and in the image; there is none that was not asked for.
			if keys := c.Left("key"); len(keys) != 1 {
				t.Errorf("keys: %v", keys)
			}
			b, _ := c.ReadFile(number(t, a), "/root/.ssh/authorized_keys") // there need be none
			if strings.Contains(string(b), strings.Fields(public)[1]) != (name == "own key") {
				t.Errorf("who is let in by the image: %q", b)
			}
			if err := a.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRateLimit: a bake goes on when the API stops it for a while.
func TestRateLimit(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	shared := tempo()
	k := begin(t, c, shared, source(c, `throttle_timeout = "1m"`))
	k.check()
	c.SetRateLimit(12, time.Second)
	if _, err := k.image(t.Context(), "true"); err != nil {
		t.Fatal(err)
	}
	k.end(nil)
	nothingLeft(t, c)
}

// TestOrphansBySource: what the platform itself knows of a bake whose ledger is lost.
func TestOrphansBySource(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	k := begin(t, c, tempo(), source(c, `expires = "1ns"`))
	var err error
	if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
		t.Fatal(err)
	}
	// Its time is over, and it runs on.
	if err := k.machine.Run(t.Context(), machine.Command{Line: "test -d /var/lib/cloud/instance && ! grep -rEi 'shutdown|poweroff|power_state' /var/lib/cloud/instance/ && test ! -e /run/systemd/shutdown/scheduled"}); err != nil {
		t.Errorf("something on the droplet is to end it: %v", err)
	}
	if there := c.Left("droplet", "firewall"); len(there) != 2 {
		t.Errorf("%v", there)
	}
	other := begin(t, c, tempo(), source(c, ""))
	found, err := other.b.Orphans(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, l := range found {
		kinds = append(kinds, l.Kind)
		if l.BakeID != k.run.BakeID || l.Data[builders.SourceKey] != "digitalocean.web" {
			t.Errorf("%+v", l)
		}
	}
	if !slices.Equal(kinds, []string{leaseKey, leaseTags, leaseFirewall, leaseDroplet}) {
		t.Errorf("%v", kinds)
	}
	for _, l := range slices.Backward(found) {
		if err := other.b.Release(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
	nothingLeft(t, c)
	_ = k.machine.Close()
	k.machine = nil
}

// TestAnotherAccount: what is not found in another account is not taken for gone.
func TestAnotherAccount(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	k := begin(t, c, tempo(), source(c, ""))
	var err error
	if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	for _, l := range k.ledger.Open() {
		l.Data["account"] = "another"
		if err := New(tempo()).Release(t.Context(), l); err == nil || !strings.Contains(err.Error(), "another") {
			t.Errorf("%s: %v", l.Kind, err)
		}
	}
	k.end(errors.New("over"))
	nothingLeft(t, c)
}
