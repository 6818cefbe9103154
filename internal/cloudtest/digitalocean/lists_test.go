//go:build linux

package digitalocean_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// TestLists makes one of each and looks at it in every way, so that all answers
// are held against the description.
func TestLists(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	ctx := t.Context()
	ok := func(what string, good bool, err error) {
		t.Helper()
		if err != nil || !good {
			t.Errorf("%s: as expected: %v, %v", what, good, err)
		}
	}
	vpc, _, err := g.VPCs.Create(ctx, &godo.VPCCreateRequest{Name: "net", RegionSlug: "nyc3"})
	ok("create a VPC", true, err)
	volume, _, err := g.Storage.CreateVolume(ctx, &godo.VolumeCreateRequest{Region: "nyc3", Name: "data", SizeGigaBytes: 1, Tags: []string{"x"}})
	ok("create a volume", true, err)
	want := droplet("web", "debian-12-x64")
	want.Backups, want.IPv6, want.Monitoring, want.Tags, want.VPCUUID = true, true, true, []string{"x"}, vpc.ID
	want.Volumes = []godo.DropletCreateVolume{{ID: volume.ID}}
	d, _, err := g.Droplets.Create(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	d, _ = up(t, g, d.ID)
	v6, err := d.PublicIPv6()
	ok("the droplet", v6 != "" && d.NextBackupWindow != nil && len(d.Features) == 5 && len(d.VolumeIDs) == 1, err)
	a, _, err := g.DropletActions.Snapshot(ctx, d.ID, "web")
	done(t, g, a, err)
	a, _, err = g.DropletActions.Rename(ctx, d.ID, "web-2")
	done(t, g, a, err)

	droplets, _, err := g.Droplets.List(ctx, nil)
	ok("droplets", len(droplets) == 1 && droplets[0].Name == "web-2" && len(droplets[0].SnapshotIDs) == 1, err)
	gpus, _, err := g.Droplets.ListWithGPUs(ctx, nil)
	ok("droplets with GPUs", len(gpus) == 0, err)
	backups, _, err := g.Droplets.Backups(ctx, d.ID, nil)
	ok("backups", len(backups) == 0, err)
	actions, resp, err := g.Actions.List(ctx, &godo.ListOptions{PerPage: 2})
	ok("actions", len(actions) == 2 && resp.Meta.Total == 3 && actions[0].Type == "rename", err)
	vpcs, _, err := g.VPCs.List(ctx, &godo.ListOptions{PerPage: 200})
	ok("VPCs", vpcs[len(vpcs)-1].ID == vpc.ID, err)
	vpc, _, err = g.VPCs.Get(ctx, vpc.ID)
	ok("a VPC", vpc.Name == "net", err)
	yes := true
	vpc, _, err = g.VPCs.Update(ctx, vpc.ID, &godo.VPCUpdateRequest{Name: "new", Default: &yes})
	ok("the VPC changed", vpc.Name == "new" && vpc.Default, err)
	volumes, _, err := g.Storage.ListVolumes(ctx, &godo.ListVolumeParams{Name: "data", Region: "nyc3"})
	ok("volumes", len(volumes) == 1 && volumes[0].DropletIDs[0] == d.ID, err)
	volume, _, err = g.Storage.GetVolume(ctx, volume.ID)
	ok("a volume", volume.Name == "data", err)
	tags, _, err := g.Tags.List(ctx, nil)
	ok("tags", len(tags) == 1 && tags[0].Resources.Volumes.Count == 1, err)

	snapshots, _, err := g.Snapshots.ListDroplet(ctx, nil)
	ok("snapshots", len(snapshots) == 1 && snapshots[0].Name == "web", err)
	none, _, err := g.Snapshots.ListVolume(ctx, nil)
	ok("snapshots of volumes", len(none) == 0, err)
	image, err := strconv.Atoi(snapshots[0].ID)
	ok("the snapshot's number", true, err)
	a, _, err = g.ImageActions.Transfer(ctx, image, &godo.ActionRequest{"type": "transfer", "region": "lon1"})
	done(t, g, a, err)
	_, _, err = g.ImageActions.Convert(ctx, image)
	refused(t, err, 422, "Only backups")
	_, err = g.Snapshots.Delete(ctx, snapshots[0].ID)
	ok("delete a snapshot", len(c.Left("image")) == 0, err)

	rule := []godo.InboundRule{{Protocol: "icmp", Sources: &godo.Sources{Addresses: []string{"::/0"}}}, {Protocol: "udp", PortRange: "53", Sources: &godo.Sources{Tags: []string{"x"}}}}
	out := []godo.OutboundRule{{Protocol: "tcp", PortRange: "all", Destinations: &godo.Destinations{Addresses: []string{"0.0.0.0/0"}}}}
	f, _, err := g.Firewalls.Create(ctx, &godo.FirewallRequest{Name: "fw", InboundRules: rule, OutboundRules: out, DropletIDs: []int{d.ID}, Tags: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Firewalls.RemoveDroplets(ctx, f.ID, d.ID)
	ok("take the droplet from the firewall", true, err)
	_, err = g.Firewalls.AddTags(ctx, f.ID, "x")
	ok("tag the firewall", true, err)
	f, _, err = g.Firewalls.Get(ctx, f.ID)
	ok("a firewall", len(f.DropletIDs) == 0 && len(f.Tags) == 1 && len(f.InboundRules) == 2 && len(f.OutboundRules) == 1, err)
	firewalls, _, err := g.Firewalls.List(ctx, nil)
	ok("firewalls", len(firewalls) == 1, err)

	ip, _, err := g.ReservedIPs.Create(ctx, &godo.ReservedIPCreateRequest{DropletID: d.ID})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the address is assigned", func() bool {
		all, _, err := g.ReservedIPs.List(ctx, nil)
		return err == nil && len(all) == 1 && !all[0].Locked && all[0].Droplet != nil
	})
	a, _, err = g.ReservedIPActions.Unassign(ctx, ip.IP)
	done(t, g, a, err)
	a, _, err = g.ReservedIPActions.Get(ctx, ip.IP, a.ID)
	ok("an action of an address", a.Status == "completed", err)
	actions, _, err = g.ReservedIPActions.List(ctx, ip.IP, nil)
	ok("actions of an address", len(actions) == 2, err)

	wish := &godo.LoadBalancerRequest{Name: "lb", Region: "nyc3", DropletIDs: []int{d.ID},
		ForwardingRules: []godo.ForwardingRule{{EntryProtocol: "tcp", EntryPort: 2222, TargetProtocol: "tcp", TargetPort: 22}}}
	lb, _, err := g.LoadBalancers.Create(ctx, wish)
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.LoadBalancers.RemoveDroplets(ctx, lb.ID, d.ID)
	ok("take the droplet from behind the balancer", true, err)
	_, err = g.LoadBalancers.AddDroplets(ctx, lb.ID, d.ID)
	ok("and put it there again", true, err)
	_, err = g.LoadBalancers.AddDroplets(ctx, lb.ID, 17)
	refused(t, err, 422, "droplet 17")
	_, err = g.LoadBalancers.RemoveForwardingRules(ctx, lb.ID, wish.ForwardingRules...)
	refused(t, err, 422, "must remain")
	wish.Name = "new"
	lb, _, err = g.LoadBalancers.Update(ctx, lb.ID, wish)
	ok("the balancer changed", lb.Name == "new" && len(lb.DropletIDs) == 1, err)
	balancers, _, err := g.LoadBalancers.List(ctx, nil)
	ok("balancers", len(balancers) == 1 && balancers[0].HealthCheck.Port == 22, err)

	_, _, err = g.Domains.Create(ctx, &godo.DomainCreateRequest{Name: "example.com"})
	ok("create a domain", true, err)
	domains, _, err := g.Domains.List(ctx, nil)
	ok("domains", len(domains) == 1, err)
	records, _, err := g.Domains.Records(ctx, "example.com", nil)
	ok("records", len(records) == 3, err)
	record, _, err := g.Domains.Record(ctx, "example.com", records[0].ID)
	ok("a record", record.Type == "NS", err)

	projects, _, err := g.Projects.List(ctx, nil)
	ok("projects", len(projects) == 1 && projects[0].IsDefault, err)
	resources, _, err := g.Projects.ListResources(ctx, projects[0].ID, nil)
	ok("resources of the project", len(resources) == 5, err)

	kinds := map[string]int{}
	for _, r := range c.Left() {
		kinds[r.Kind]++
	}
	if got := fmt.Sprint(kinds); got != "map[domain:1 droplet:1 firewall:1 load_balancer:1 reserved_ip:1 tag:1 volume:1 vpc:1]" {
		t.Errorf("left: %s", got)
	}
}
