//go:build linux

package digitalocean_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// reaches says whether sshd greets at an address.
func reaches(address string) bool {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return false
	}
	b := make([]byte, 4)
	_, err = io.ReadFull(c, b)
	return err == nil && string(b) == "SSH-"
}

func TestFirewalls(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	want := droplet("web", "debian-12-x64")
	want.Tags = []string{"web"}
	d, _, err := g.Droplets.Create(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	_, address := up(t, g, d.ID)
	address += ":22"
	if !reaches(address) {
		t.Fatal("a droplet without a firewall is not open")
	}
	rule := func(ports, from string) godo.InboundRule {
		return godo.InboundRule{Protocol: "tcp", PortRange: ports, Sources: &godo.Sources{Addresses: []string{from}}}
	}
	for _, x := range []struct {
		request godo.FirewallRequest
		code    int
	}{
		{godo.FirewallRequest{Name: "-", InboundRules: []godo.InboundRule{rule("22", "127.0.0.1")}}, 400},
		{godo.FirewallRequest{Name: "none"}, 400},
		{godo.FirewallRequest{Name: "ports", InboundRules: []godo.InboundRule{rule("ssh", "127.0.0.1")}}, 400},
		{godo.FirewallRequest{Name: "address", InboundRules: []godo.InboundRule{rule("22", "here")}}, 400},
		{godo.FirewallRequest{Name: "tag", Tags: []string{"unknown"}, InboundRules: []godo.InboundRule{rule("22", "127.0.0.1")}}, 400},
		{godo.FirewallRequest{Name: "droplet", DropletIDs: []int{1}, InboundRules: []godo.InboundRule{rule("22", "127.0.0.1")}}, 400},
	} {
		_, _, err := g.Firewalls.Create(t.Context(), &x.request)
		refused(t, err, x.code, "")
	}
	f, _, err := g.Firewalls.Create(t.Context(), &godo.FirewallRequest{Name: "bake", Tags: []string{"web"}, InboundRules: []godo.InboundRule{rule("22", "192.0.2.1")}})
	if err != nil {
		t.Fatal(err)
	}
	if reaches(address) {
		t.Error("the firewall admits who is not in it")
	}
	_, _, err = g.Firewalls.Create(t.Context(), &godo.FirewallRequest{Name: "bake", InboundRules: []godo.InboundRule{rule("22", "127.0.0.1")}})
	refused(t, err, 409, "duplicate name")
	mine := &godo.FirewallRulesRequest{InboundRules: []godo.InboundRule{rule("20-30", "127.0.0.0/8")}}
	if _, err := g.Firewalls.AddRules(t.Context(), f.ID, mine); err != nil {
		t.Fatal(err)
	}
	if !reaches(address) {
		t.Error("the firewall does not admit who is in it")
	}
	if all, _, err := g.Firewalls.ListByDroplet(t.Context(), d.ID, nil); err != nil || len(all) != 1 || len(all[0].InboundRules) != 2 {
		t.Errorf("firewalls of the droplet: %+v %v", all, err)
	}
	if _, err := g.Firewalls.RemoveRules(t.Context(), f.ID, mine); err != nil {
		t.Fatal(err)
	}
	if reaches(address) {
		t.Error("a rule that was removed admits")
	}
	if _, err := g.Firewalls.RemoveTags(t.Context(), f.ID, "web"); err != nil {
		t.Fatal(err)
	}
	if !reaches(address) {
		t.Error("a firewall that is not for the droplet stops")
	}
	if _, err := g.Firewalls.AddDroplets(t.Context(), f.ID, d.ID); err != nil {
		t.Fatal(err)
	}
	if reaches(address) {
		t.Error("a firewall for the droplet by its number does not stop")
	}
	f, _, err = g.Firewalls.Update(t.Context(), f.ID, &godo.FirewallRequest{Name: "new", DropletIDs: []int{d.ID}, InboundRules: []godo.InboundRule{rule("all", "0.0.0.0/0")}})
	if err != nil || f.Name != "new" || !reaches(address) {
		t.Errorf("updated: %+v %v", f, err)
	}
	if _, err := g.Firewalls.Delete(t.Context(), f.ID); err != nil || len(c.Left("firewall")) != 0 {
		t.Errorf("deleted: %v, left %v", err, c.Left("firewall"))
	}
}

func TestReservedAddress(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	d, _, err := g.Droplets.Create(t.Context(), droplet("web", "debian-12-x64"))
	if err != nil {
		t.Fatal(err)
	}
	up(t, g, d.ID)
	r, _, err := g.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "nyc3"})
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := g.ReservedIPActions.Assign(t.Context(), r.IP, d.ID)
	done(t, g, a, err)
	if !reaches(r.IP + ":22") {
		t.Error("the droplet is not at its reserved address")
	}
	if r, _, err := g.ReservedIPs.Get(t.Context(), r.IP); err != nil || r.Droplet == nil || r.Droplet.ID != d.ID {
		t.Errorf("assigned: %+v %v", r, err)
	}
	a, _, err = g.ReservedIPActions.Unassign(t.Context(), r.IP)
	done(t, g, a, err)
	until(t, "the address is free", func() bool { return !reaches(r.IP + ":22") })
	if _, err := g.ReservedIPs.Delete(t.Context(), r.IP); err != nil || len(c.Left("reserved_ip")) != 0 {
		t.Errorf("deleted: %v", err)
	}
	_, _, err = g.ReservedIPs.Create(t.Context(), &godo.ReservedIPCreateRequest{Region: "mars1"})
	refused(t, err, 422, "region")
}

func TestPoweroffFromInside(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	private, public := newKey(t)
	k, _, err := g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "k", PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := g.Droplets.Create(t.Context(), droplet("web", "debian-12-x64", k))
	if err != nil {
		t.Fatal(err)
	}
	_, address := up(t, g, d.ID)
	// Not before the connection, whose process is the shell's parent, has ended.
	shell(t, address, private, "echo kept >/root/kept; nohup sh -c \"while kill -0 $PPID; do sleep 0.05; done; poweroff\" >/dev/null 2>&1 &")
	until(t, "the droplet is off", func() bool {
		d, _, err := g.Droplets.Get(t.Context(), d.ID)
		return err == nil && d.Status == "off"
	})
	a, _, err := g.DropletActions.PowerOn(t.Context(), d.ID)
	done(t, g, a, err)
	_, address = up(t, g, d.ID)
	if got := shell(t, address, private, "cat /root/kept"); got != "kept\n" {
		t.Errorf("after it was off: %q", got)
	}
	a, _, err = g.DropletActions.Reboot(t.Context(), d.ID)
	done(t, g, a, err)
	_, address = up(t, g, d.ID)
	if got := shell(t, address, private, "cat /root/kept"); got != "kept\n" {
		t.Errorf("after a reboot: %q", got)
	}
}

func TestVPCsAndProjects(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	for _, x := range []godo.VPCCreateRequest{
		{Name: "a b", RegionSlug: "nyc3"}, {Name: "x", RegionSlug: "mars1"}, {Name: "x", RegionSlug: "nyc3", IPRange: "8.8.8.0/24"}, {Name: "x", RegionSlug: "nyc3", IPRange: "10.100.1.0/24"},
	} {
		_, _, err := g.VPCs.Create(t.Context(), &x)
		refused(t, err, 422, "")
	}
	v, _, err := g.VPCs.Create(t.Context(), &godo.VPCCreateRequest{Name: "bake", RegionSlug: "nyc3", IPRange: "10.9.0.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	if v, _, err := g.VPCs.Set(t.Context(), v.ID, godo.VPCSetDescription("for bakes")); err != nil || v.Description != "for bakes" || v.Name != "bake" {
		t.Errorf("changed: %v %v", v, err)
	}
	want := droplet("web", "debian-12-x64")
	want.VPCUUID = v.ID
	d, _, err := g.Droplets.Create(t.Context(), want)
	if err != nil || d.VPCUUID != v.ID {
		t.Fatalf("%v %v", d, err)
	}
	d, _ = up(t, g, d.ID)
	if private, err := d.PrivateIPv4(); err != nil || !reaches(private+":22") {
		t.Errorf("the private address %s: %v", private, err)
	}
	members, _, err := g.VPCs.ListMembers(t.Context(), v.ID, &godo.VPCListMembersRequest{ResourceType: "droplet"}, nil)
	if err != nil || len(members) != 1 || members[0].URN != d.URN() {
		t.Errorf("members: %v %v", members, err)
	}
	_, err = g.VPCs.Delete(t.Context(), v.ID)
	refused(t, err, 403, "members")

	p, _, err := g.Projects.Create(t.Context(), &godo.CreateProjectRequest{Name: "bakes", Purpose: "Images", Environment: "Production"})
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := g.Projects.GetDefault(t.Context())
	if err != nil || !first.IsDefault {
		t.Fatalf("the default project: %v %v", first, err)
	}
	in := func(project string) []string {
		t.Helper()
		all, _, err := g.Projects.ListResources(t.Context(), project, nil)
		if err != nil {
			t.Fatal(err)
		}
		var urns []string
		for _, r := range all {
			urns = append(urns, r.URN)
		}
		return urns
	}
	if got := in(first.ID); !slices.Equal(got, []string{d.URN()}) {
		t.Errorf("in the default project: %v", got)
	}
	if _, _, err := g.Projects.AssignResources(t.Context(), p.ID, d.URN()); err != nil {
		t.Fatal(err)
	}
	if a, b := in(first.ID), in(p.ID); len(a) != 0 || !slices.Equal(b, []string{d.URN()}) {
		t.Errorf("after the assignment: %v and %v", a, b)
	}
	_, _, err = g.Projects.AssignResources(t.Context(), p.ID, "do:droplet:1")
	refused(t, err, 404, "do:droplet:1")
	_, err = g.Projects.Delete(t.Context(), p.ID)
	refused(t, err, 412, "resources")
	if p, _, err := g.Projects.Update(t.Context(), p.ID, &godo.UpdateProjectRequest{Name: "images"}); err != nil || p.Name != "images" || p.Environment != "Production" {
		t.Errorf("changed: %v %v", p, err)
	}
	if _, err := g.Droplets.Delete(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Projects.Delete(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	if _, err := g.VPCs.Delete(t.Context(), v.ID); err != nil {
		t.Error(err)
	}
	if left := c.Left(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDomains(t *testing.T) {
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	_, _, err := g.Domains.Create(t.Context(), &godo.DomainCreateRequest{Name: "no domain"})
	refused(t, err, 422, "Name")
	if _, _, err := g.Domains.Create(t.Context(), &godo.DomainCreateRequest{Name: "example.com", IPAddress: "192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	_, _, err = g.Domains.CreateRecord(t.Context(), "example.com", &godo.DomainRecordEditRequest{Type: "A", Name: "www", Data: "example.org"})
	refused(t, err, 422, "IP address")
	r, _, err := g.Domains.CreateRecord(t.Context(), "example.com", &godo.DomainRecordEditRequest{Type: "A", Name: "www", Data: "192.0.2.2", TTL: 60})
	if err != nil {
		t.Fatal(err)
	}
	if r, _, err := g.Domains.EditRecord(t.Context(), "example.com", r.ID, &godo.DomainRecordEditRequest{Type: "A", Data: "192.0.2.3"}); err != nil || r.Data != "192.0.2.3" || r.Name != "www" || r.TTL != 60 {
		t.Errorf("changed: %v %v", r, err)
	}
	found, _, err := g.Domains.RecordsByTypeAndName(t.Context(), "example.com", "A", "www.example.com", nil)
	if err != nil || len(found) != 1 || found[0].ID != r.ID {
		t.Errorf("found: %v %v", found, err)
	}
	if _, err := g.Domains.DeleteRecord(t.Context(), "example.com", r.ID); err != nil {
		t.Error(err)
	}
	if d, _, err := g.Domains.Get(t.Context(), "example.com"); err != nil || strings.Contains(d.ZoneFile, "www") || !strings.Contains(d.ZoneFile, "192.0.2.1") {
		t.Errorf("the zone: %+v %v", d, err)
	}
	if _, err := g.Domains.Delete(t.Context(), "example.com"); err != nil || len(c.Left()) != 0 {
		t.Errorf("deleted: %v, left %v", err, c.Left())
	}
}

func TestVolume(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	v, _, err := g.Storage.CreateVolume(t.Context(), &godo.VolumeCreateRequest{Region: "nyc3", Name: "data", SizeGigaBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	private, public := newKey(t)
	k, _, err := g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "k", PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	want := droplet("web", "debian-12-x64", k)
	want.Volumes = []godo.DropletCreateVolume{{ID: v.ID}}
	d, _, err := g.Droplets.Create(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	_, address := up(t, g, d.ID)
	if got := shell(t, address, private, "echo written >/dev/sda; head -c 8 /dev/sda"); got != "written\n" {
		t.Errorf("the volume: %q", got)
	}
	_, err = g.Storage.DeleteVolume(t.Context(), v.ID)
	refused(t, err, 409, "attached")
	if _, err := g.Droplets.Delete(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	until(t, "the volume is free", func() bool {
		_, err := g.Storage.DeleteVolume(t.Context(), v.ID)
		return err == nil
	})
}

func TestLoadBalancer(t *testing.T) {
	sandboxtest.Need(t)
	if _, err := exec.LookPath("python3"); err != nil {
		sandboxtest.Missing(t, "needs python3, as a web server in droplets")
	}
	c := start(t, digitalocean.Options{Durations: digitalocean.Durations{Health: 50 * time.Millisecond}})
	g := client(t, c, c.Token())
	private, public := newKey(t)
	k, _, err := g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "k", PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	var ids []int
	addresses := map[string]string{}
	for _, name := range []string{"blue", "green"} {
		want := droplet(name, "debian-12-x64", k)
		want.Tags = []string{"web"}
		d, _, err := g.Droplets.Create(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		_, addresses[name] = up(t, g, d.ID)
		shell(t, addresses[name], private, "mkdir /srv/w && hostname >/srv/w/index.html && cd /srv/w && (nohup python3 -m http.server 8000 >/dev/null 2>&1 & echo $! >/root/pid)")
		ids = append(ids, d.ID)
	}
	lb, _, err := g.LoadBalancers.Create(t.Context(), &godo.LoadBalancerRequest{
		Name: "lb", Region: "nyc3", Tag: "web",
		ForwardingRules: []godo.ForwardingRule{
			{EntryProtocol: "http", EntryPort: 8081, TargetProtocol: "http", TargetPort: 8000},
			{EntryProtocol: "tcp", EntryPort: 2222, TargetProtocol: "tcp", TargetPort: 22},
		},
		HealthCheck: &godo.HealthCheck{Protocol: "http", Port: 8000, Path: "/", CheckIntervalSeconds: 10, ResponseTimeoutSeconds: 5, HealthyThreshold: 2, UnhealthyThreshold: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the load balancer is active", func() bool {
		lb, _, err = g.LoadBalancers.Get(t.Context(), lb.ID)
		if err != nil {
			t.Fatal(err)
		}
		return lb.Status == "active"
	})
	if slices.Sort(lb.DropletIDs); !slices.Equal(lb.DropletIDs, ids) {
		t.Errorf("droplets behind: %v", lb.DropletIDs)
	}
	fetch := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+net.JoinHostPort(lb.IP, strconv.Itoa(8081))+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 {
			return resp.Status
		}
		return strings.TrimSpace(string(b))
	}
	both := func() bool {
		seen := []string{fetch(), fetch()}
		slices.Sort(seen)
		return slices.Equal(seen, []string{"blue", "green"})
	}
	until(t, "both droplets answer", both)
	if !reaches(lb.IP + ":2222") {
		t.Error("tcp is not forwarded")
	}
	shell(t, addresses["blue"], private, "kill $(cat /root/pid)")
	until(t, "only green answers", func() bool { return !both() && fetch() == "green" })
	if _, _, err := g.Firewalls.Create(t.Context(), &godo.FirewallRequest{Name: "closed", Tags: []string{"web"},
		InboundRules: []godo.InboundRule{{Protocol: "tcp", PortRange: "22", Sources: &godo.Sources{Addresses: []string{"127.0.0.1"}}}}}); err != nil {
		t.Fatal(err)
	}
	until(t, "nobody answers through the firewall", func() bool { return strings.HasPrefix(fetch(), "503") })
	f := c.Left("firewall")[0]
	if _, err := g.Firewalls.AddRules(t.Context(), f.ID, &godo.FirewallRulesRequest{InboundRules: []godo.InboundRule{
		{Protocol: "tcp", PortRange: "8000", Sources: &godo.Sources{LoadBalancerUIDs: []string{lb.ID}}}}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the load balancer is let through", func() bool { return fetch() == "green" })
	if _, err := g.LoadBalancers.AddForwardingRules(t.Context(), lb.ID, godo.ForwardingRule{EntryProtocol: "tcp", EntryPort: 8082, TargetProtocol: "tcp", TargetPort: 8000}); err != nil {
		t.Fatal(err)
	}
	until(t, "the old rules hold after a change", func() bool { return fetch() == "green" })
	if _, err := g.LoadBalancers.Delete(t.Context(), lb.ID); err != nil {
		t.Fatal(err)
	}
	until(t, "nobody listens after deletion", func() bool { return fetch() == "" })
}

func TestManyDroplets(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	all, _, err := g.Droplets.CreateMultiple(t.Context(), &godo.DropletMultiCreateRequest{
		Names: []string{"web", "web", "db"}, Region: "nyc3", Size: "s-1vcpu-1gb", Image: godo.DropletCreateImage{Slug: "debian-12-x64"},
		SSHKeys: []godo.DropletCreateSSHKey{}, Tags: []string{"fleet"},
	})
	if err != nil || len(all) != 3 {
		t.Fatalf("%v %v", all, err)
	}
	for _, d := range all {
		up(t, g, d.ID)
	}
	if same, _, err := g.Droplets.ListByName(t.Context(), "WEB", nil); err != nil || len(same) != 2 || same[0].ID == same[1].ID {
		t.Errorf("two of the same name: %v %v", same, err)
	}
	actions, _, err := g.DropletActions.PowerOffByTag(t.Context(), "fleet")
	if err != nil || len(actions) != 3 {
		t.Fatalf("%v %v", actions, err)
	}
	for _, a := range actions {
		done(t, g, &a, nil)
	}
	if of, _, err := g.Droplets.Actions(t.Context(), all[0].ID, nil); err != nil || len(of) != 2 || of[0].Type != "power_off" || of[1].Type != "create" {
		t.Errorf("actions of a droplet: %v %v", of, err)
	}
	tag, _, err := g.Tags.Get(t.Context(), "fleet")
	if err != nil || tag.Resources.Count != 3 || tag.Resources.Droplets.Count != 3 {
		t.Errorf("the tag: %+v %v", tag, err)
	}
	if _, err := g.Tags.UntagResources(t.Context(), "fleet", &godo.UntagResourcesRequest{Resources: []godo.Resource{{ID: strconv.Itoa(all[2].ID), Type: "droplet"}}}); err != nil {
		t.Error(err)
	}
	if _, err := g.Droplets.DeleteByTag(t.Context(), "fleet"); err != nil {
		t.Error(err)
	}
	if left := c.Left("droplet"); len(left) != 1 || left[0].Name != "db" {
		t.Errorf("left: %v", left)
	}
	if _, err := g.Tags.Delete(t.Context(), "fleet"); err != nil || len(c.Left("tag")) != 0 {
		t.Errorf("the tag was deleted: %v, %v", err, c.Left("tag"))
	}
}

func TestCloseInTheMiddle(t *testing.T) {
	sandboxtest.Need(t)
	dir := t.TempDir()
	c, err := digitalocean.New(digitalocean.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	g := client(t, c, c.Token())
	first, _, err := g.Droplets.Create(t.Context(), droplet("first", "debian-12-x64"))
	if err != nil {
		t.Fatal(err)
	}
	up(t, g, first.ID)
	c.HoldActions(func(digitalocean.Action) bool { return true })
	if _, _, err := g.DropletActions.PowerOff(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, _, err := g.Droplets.Create(t.Context(), droplet("more", "debian-12-x64")); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in the directory: %v %v", left, err)
	}
	if v := c.Violations(); len(v) != 0 {
		t.Errorf("violations: %q", v)
	}
	if _, _, err := g.Account.Get(t.Context()); err == nil {
		t.Error("a closed cloud answers")
	}
}
