//go:build linux

package digitalocean

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// droplet is a machine of the account.
type droplet struct {
	id           int
	name, region string
	size         *size
	image        *image
	vpc          *vpc
	tags         []string
	features     []string
	volumes      []*volume
	created      time.Time
	status       string // "new", "active" or "off"
	// locked is while an action is under way.
	locked          bool
	public, private netip.Addr
	v6              string

	keys     []string
	userData string
	root     *machines.Volume
	machine  *machines.Machine
	// served are the addresses on which it is reached while it is active.
	served []io.Closer
	// starts counts how often it was started and stopped, so that what belongs to an earlier start is known.
	starts int
	// open says that its addresses are being served, gone that it was deleted.
	open, gone bool
}

const (
	dropletLimit = 100
	maxUserData  = 64 << 10
	maxPerCall   = 10
)

var hostname = regexp.MustCompile(`^[a-zA-Z0-9]?[a-z0-9A-Z.\-]*[a-z0-9A-Z]$`)

func (c *Cloud) dropletView(d *droplet) obj {
	v4, v6 := []obj{}, []obj{}
	if d.status != "new" {
		if d.public.IsValid() {
			v4 = append(v4, obj{"ip_address": d.public.String(), "netmask": "255.0.0.0", "gateway": "127.0.0.1", "type": "public"})
		}
		v4 = append(v4, obj{"ip_address": d.private.String(), "netmask": "255.0.0.0", "gateway": "127.0.0.1", "type": "private"})
		if d.v6 != "" {
			v6 = append(v6, obj{"ip_address": d.v6, "netmask": 64, "gateway": "2001:db8::1", "type": "public"})
		}
	}
	snapshots, volumes := []int{}, []string{}
	for _, i := range c.images {
		if i.kind == "snapshot" && i.droplet == d.id && c.seen(i.created) {
			snapshots = append(snapshots, i.id)
		}
	}
	for _, v := range d.volumes {
		volumes = append(volumes, v.id)
	}
	var window any
	if slices.Contains(d.features, "backups") {
		start := d.created.Truncate(24*time.Hour).AddDate(0, 0, 7)
		window = obj{"start": stamp(start), "end": stamp(start.Add(23 * time.Hour))}
	}
	return obj{
		"id": d.id, "name": d.name, "memory": d.size.memory, "vcpus": d.size.vcpus, "disk": d.size.disk,
		"locked": d.locked, "status": d.status, "kernel": nil, "created_at": stamp(d.created),
		"features": orEmpty(d.features), "backup_ids": []int{}, "next_backup_window": window, "snapshot_ids": snapshots,
		"image": d.image.view(), "volume_ids": volumes, "size": d.size.view(), "size_slug": d.size.slug,
		"networks": obj{"v4": v4, "v6": v6}, "region": c.regionView(d.region), "tags": orEmpty(d.tags), "vpc_uuid": d.vpc.id,
	}
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return slices.Clone(s)
}

// dropletBy is the droplet with the number, if it is shown.
func (c *Cloud) dropletBy(id int) *droplet {
	i := slices.IndexFunc(c.droplets, func(d *droplet) bool { return d.id == id && c.seen(d.created) })
	if i < 0 {
		return nil
	}
	return c.droplets[i]
}

// droplet is the one in the path.
func (q *request) droplet() (*droplet, error) {
	id, err := q.number("droplet")
	if err != nil {
		return nil, err
	}
	d := q.c.dropletBy(id)
	if d == nil {
		return nil, notFound()
	}
	return d, nil
}

// tagged are the droplets with the tag, those that are not shown yet too.
func (c *Cloud) tagged(tag string) []*droplet {
	var all []*droplet
	for _, d := range c.droplets {
		if slices.Contains(d.tags, tag) {
			all = append(all, d)
		}
	}
	return all
}

func listDroplets(q *request) (any, error) {
	tag, name := q.URL.Query().Get("tag_name"), q.URL.Query().Get("name")
	if tag != "" && name != "" {
		return nil, badRequest("name and tag_name can't be combined.")
	}
	var all []obj
	for _, d := range q.c.droplets {
		if q.c.seen(d.created) && (tag == "" || slices.Contains(d.tags, tag)) && (name == "" || strings.EqualFold(d.name, name)) &&
			q.URL.Query().Get("type") != "gpus" {
			all = append(all, q.c.dropletView(d))
		}
	}
	return q.page("droplets", all)
}

func getDroplet(q *request) (any, error) {
	d, err := q.droplet()
	if err != nil {
		return nil, err
	}
	return obj{"droplet": q.c.dropletView(d)}, nil
}

// dropletWish is the body of a creation.
type dropletWish struct {
	Name              string     `json:"name"`
	Names             []string   `json:"names"`
	Region            string     `json:"region"`
	Size              string     `json:"size"`
	Image             flexible   `json:"image"`
	SSHKeys           []flexible `json:"ssh_keys"`
	Backups           bool       `json:"backups"`
	IPv6              bool       `json:"ipv6"`
	PrivateNetworking bool       `json:"private_networking"`
	Monitoring        bool       `json:"monitoring"`
	UserData          string     `json:"user_data"`
	Volumes           []byID     `json:"volumes"`
	Tags              []string   `json:"tags"`
	VPC               string     `json:"vpc_uuid"`
	Agent             *bool      `json:"with_droplet_agent"`
	PublicNetworking  *bool      `json:"public_networking"`
}

// byID is how a volume is named: by its id, or, as godo does, by an object with the id.
type byID string

func (v *byID) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*v = byID(s)
		return nil
	}
	var o struct{ ID string }
	err := json.Unmarshal(b, &o)
	*v = byID(o.ID)
	return err
}

func createDroplets(q *request) (any, error) {
	var in dropletWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	names := in.Names
	if in.Name != "" {
		if len(names) > 0 {
			return nil, unprocessable("You may specify either name or names, not both.")
		}
		names = []string{in.Name}
	}
	template, err := q.judge(in, names)
	if err != nil {
		return nil, err
	}
	var views, links []obj
	for _, name := range names {
		d := *template
		d.id, d.name, d.tags = q.c.id(), name, slices.Clone(template.tags)
		if err := q.c.addresses4(&d, in.PublicNetworking == nil || *in.PublicNetworking); err != nil {
			return nil, err
		}
		if in.IPv6 {
			d.v6 = fmt.Sprintf("2001:db8::%x:%x", d.id>>16, d.id&0xffff)
		}
		a := q.c.create(&d)
		views = append(views, q.c.dropletView(&d))
		links = append(links, q.c.link("create", a))
	}
	for _, t := range template.tags {
		q.c.addTag(t)
	}
	if len(in.Names) > 0 {
		return obj{"droplets": views, "links": obj{"actions": links}}, nil
	}
	return obj{"droplet": views[0], "links": obj{"actions": links}}, nil
}

func (c *Cloud) link(rel string, a *action) obj {
	return obj{"id": a.id, "rel": rel, "href": fmt.Sprintf("%s/v2/actions/%d", c.url, a.id)}
}

// judge refuses what DigitalOcean would refuse, and returns the droplet without what is its own.
func (q *request) judge(in dropletWish, names []string) (*droplet, error) {
	c := q.c
	switch {
	case len(names) == 0:
		return nil, unprocessable("Name can't be blank")
	case len(names) > maxPerCall:
		return nil, unprocessable("You can create at most %d Droplets at once.", maxPerCall)
	case len(c.droplets)+len(names) > dropletLimit:
		return nil, unprocessable("creating this/these droplet(s) will exceed your droplet limit")
	case len(in.UserData) > maxUserData:
		return nil, unprocessable("User data is too large: %d bytes, and 64 KiB are allowed.", len(in.UserData))
	}
	for _, n := range names {
		if len(n) > 255 || !hostname.MatchString(n) {
			return nil, unprocessable("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
		}
	}
	d := &droplet{region: in.Region, status: "new", locked: true, created: time.Now(), userData: in.UserData}
	if d.size = c.size(in.Size); d.size == nil {
		return nil, unprocessable("You specified an invalid size for Droplet creation.")
	}
	if d.image = c.imageBy(string(in.Image)); d.image == nil {
		return nil, unprocessable("You specified an invalid image for Droplet creation.")
	}
	if d.region == "" {
		i := slices.IndexFunc(d.image.regions, func(r string) bool { return slices.Contains(d.size.regions, r) })
		if i < 0 {
			return nil, unprocessable("No region has both the size and the image.")
		}
		d.region = d.image.regions[i]
	}
	r := c.region(d.region)
	switch {
	case r == nil:
		return nil, unprocessable("You specified an invalid region for Droplet creation.")
	case !r.available:
		return nil, unprocessable("Region is not available.")
	case !d.size.available || !slices.Contains(d.size.regions, d.region):
		return nil, unprocessable("Size is not available in this region.")
	case d.image.status != "available":
		return nil, unprocessable("The image is not available yet.")
	case !slices.Contains(d.image.regions, d.region):
		return nil, unprocessable("Image is not available in this region.")
	case d.image.minDisk > d.size.disk:
		return nil, unprocessable("This size is not available because it has a smaller disk: the image needs %d GB, and the size has %d GB.", d.image.minDisk, d.size.disk)
	case d.image.kind == "custom" && len(in.SSHKeys) == 0:
		return nil, unprocessable("SSH keys are required for Droplets from custom images.")
	}
	for _, k := range in.SSHKeys {
		found := c.key(string(k))
		if found == nil {
			return nil, unprocessable("%s are invalid key identifiers for Droplet creation.", k)
		}
		d.keys = append(d.keys, found.public)
	}
	if len(in.Tags) > 0 {
		if err := q.need("tag:create"); err != nil {
			return nil, err
		}
	}
	for _, t := range in.Tags {
		if !tagName.MatchString(t) {
			return nil, unprocessable("Tag %q is invalid: names have up to 255 letters, numbers, colons, dashes and underscores.", t)
		}
		if !slices.Contains(d.tags, t) {
			d.tags = append(d.tags, t)
		}
	}
	if d.vpc = c.defaultVPC(d.region); in.VPC != "" {
		if d.vpc = c.vpcBy(in.VPC); d.vpc == nil || d.vpc.region != d.region {
			return nil, unprocessable("VPC %s was not found in this region.", in.VPC)
		}
	}
	for _, id := range in.Volumes {
		v := c.volumeBy(string(id))
		if v == nil || v.region != d.region {
			return nil, unprocessable("Volume %s was not found in this region.", id)
		}
		if v.droplet != 0 || len(names) > 1 {
			return nil, unprocessable("Volume %s is attached already, or would be twice.", id)
		}
		d.volumes = append(d.volumes, v)
	}
	for name, on := range map[string]bool{
		"backups": in.Backups, "ipv6": in.IPv6, "monitoring": in.Monitoring, "private_networking": true,
		"droplet_agent": in.Agent == nil || *in.Agent,
	} {
		if on {
			d.features = append(d.features, name)
		}
	}
	slices.Sort(d.features)
	return d, nil
}

func (c *Cloud) addresses4(d *droplet, public bool) (err error) {
	if public {
		if d.public, err = c.host.Address(); err != nil {
			return fmt.Errorf("a public address: %w", err)
		}
	}
	if d.private, err = c.host.Address(); err != nil {
		return fmt.Errorf("a private address: %w", err)
	}
	return nil
}

// create boots a droplet, which shows as active when it has.
func (c *Cloud) create(d *droplet) *action {
	c.droplets = append(c.droplets, d)
	disks := map[string]*machines.Volume{}
	for i, v := range d.volumes {
		v.droplet = d.id
		disks[fmt.Sprintf("/dev/sd%c", 'a'+i)] = v.disk
	}
	from, disk := d.image, int64(d.size.disk)<<30
	from.uses++
	return c.begin(Action{"create", "droplet", d.id, d.region}, c.o.Durations.Create,
		func(ctx context.Context) error {
			root, err := c.host.NewVolume(from.content, disk)
			c.mu.Lock()
			from.uses--
			c.dropContent(from)
			c.mu.Unlock()
			if err != nil {
				return err
			}
			m, err := c.host.Boot(ctx, machines.Config{
				ID: fmt.Sprint(d.id), Hostname: d.name, Root: root, Disks: disks,
				UserData: []byte(d.userData), Keys: d.keys, User: "root",
				Poweroff: func() { c.ended(d) },
			})
			c.mu.Lock()
			defer c.mu.Unlock()
			d.root, d.machine = root, m
			return err
		},
		func(err error) {
			d.locked = false
			if err == nil {
				c.started(d)
			}
		})
}

// started marks a droplet as active, and opens its addresses when sshd is up.
func (c *Cloud) started(d *droplet) {
	d.status = "active"
	d.starts++
	now := d.starts
	c.later(c.o.Durations.SSH, func() {
		c.mu.Lock()
		at := []netip.Addr{d.private}
		if d.public.IsValid() {
			at = append(at, d.public)
		}
		for _, r := range c.addresses {
			if r.droplet == d {
				at = append(at, r.ip)
			}
		}
		if d.status == "active" && d.starts == now && !d.gone {
			d.open = true
		} else {
			at = nil
		}
		c.mu.Unlock()
		for _, a := range at {
			c.open(d, now, a)
		}
	})
}

// open serves a droplet, as it was started then, at an address. It is called without c.mu.
func (c *Cloud) open(d *droplet, start int, at netip.Addr) {
	s, err := d.machine.Serve(at, c.o.Ports, func(from netip.Addr, port int) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.admits(d, port, visitor{address: from})
	})
	if err != nil {
		if c.ctx.Err() == nil {
			c.violation("the emulator's own trouble: droplet %d at %s: %v", d.id, at, err)
		}
		return
	}
	c.mu.Lock()
	late := d.status != "active" || d.starts != start || d.gone
	if !late {
		d.served = append(d.served, atAddress{s, at})
	}
	c.mu.Unlock()
	if late {
		_ = s.Close() // nobody waits for it
	}
}

// ended is called when a machine has gone off by itself.
func (c *Cloud) ended(d *droplet) {
	c.mu.Lock()
	served := d.served
	d.served, d.open = nil, false
	if d.status == "active" {
		d.status = "off"
	}
	c.mu.Unlock()
	closeAll(served)
}

func closeAll(served []io.Closer) {
	for _, s := range served {
		_ = s.Close() // a listener on loopback: there is nothing to lose
	}
}

// stop takes a droplet's machine off its addresses and stops it.
func (c *Cloud) stop(ctx context.Context, d *droplet) error {
	c.mu.Lock()
	served, m := d.served, d.machine
	d.served, d.open = nil, false
	d.starts++
	c.mu.Unlock()
	closeAll(served)
	if m == nil {
		return nil
	}
	return m.Stop(ctx)
}

func deleteDroplet(q *request) (any, error) {
	d, err := q.droplet()
	if err != nil {
		return nil, err
	}
	if d.locked {
		return nil, pendingEvent("Droplet")
	}
	q.c.destroy(d)
	return nil, nil
}

func deleteDropletsByTag(q *request) (any, error) {
	tag := q.URL.Query().Get("tag_name")
	if tag == "" {
		return nil, badRequest("tag_name is required.")
	}
	all := q.c.tagged(tag)
	for _, d := range all {
		if d.locked {
			return nil, pendingEvent("Droplet")
		}
	}
	for _, d := range all {
		q.c.destroy(d)
	}
	return nil, nil
}

// destroy takes a droplet from the account; its machine ends in the background.
func (c *Cloud) destroy(d *droplet) {
	d.gone = true
	c.droplets = slices.DeleteFunc(c.droplets, func(o *droplet) bool { return o == d })
	for _, f := range c.firewalls {
		f.droplets = slices.DeleteFunc(f.droplets, func(id int) bool { return id == d.id })
	}
	for _, r := range c.addresses {
		if r.droplet == d {
			r.droplet = nil
		}
	}
	for _, b := range c.balancers {
		b.droplets = slices.DeleteFunc(b.droplets, func(id int) bool { return id == d.id })
	}
	c.forgetResource(urn("droplet", fmt.Sprint(d.id)))
	c.work.Go(func() {
		err := c.stop(c.ctx, d)
		c.mu.Lock()
		for _, v := range d.volumes {
			v.droplet = 0
		}
		c.mu.Unlock()
		if err == nil && d.root != nil {
			err = d.root.Remove()
		}
		if err != nil && c.ctx.Err() == nil {
			c.violation("the emulator's own trouble: removing droplet %d: %v", d.id, err)
		}
	})
}
