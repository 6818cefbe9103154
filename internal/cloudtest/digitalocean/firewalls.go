//go:build linux

package digitalocean

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// firewall says who reaches the droplets that it is for. A droplet that no
// firewall is for is open.
type firewall struct {
	id, name string
	created  time.Time
	// changed is when it was changed last: it takes a while to be applied.
	changed           time.Time
	droplets          []int
	tags              []string
	inbound, outbound []rule
}

// rule lets traffic pass. Sources or Destinations is set.
type rule struct {
	Protocol     string  `json:"protocol"`
	Ports        string  `json:"ports"`
	Sources      *remote `json:"sources,omitempty"`
	Destinations *remote `json:"destinations,omitempty"`
}

// remote is the other end of a rule.
type remote struct {
	Addresses     []string `json:"addresses,omitempty"`
	Tags          []string `json:"tags,omitempty"`
	DropletIDs    []int    `json:"droplet_ids,omitempty"`
	LoadBalancers []string `json:"load_balancer_uids,omitempty"`
	Kubernetes    []string `json:"kubernetes_ids,omitempty"`
}

// visitor is who connects to a droplet.
type visitor struct {
	address netip.Addr
	// balancer is its id when a load balancer connects.
	balancer string
}

// admits says whether the firewalls let a visitor to a droplet's port.
func (c *Cloud) admits(d *droplet, port int, from visitor) bool {
	open := true
	for _, f := range c.firewalls {
		if !f.covers(d) {
			continue
		}
		open = false
		for _, r := range f.inbound {
			if r.Protocol == "tcp" && r.hasPort(port) && c.isFrom(r.Sources, from) {
				return true
			}
		}
	}
	return open
}

func (f *firewall) covers(d *droplet) bool {
	return slices.Contains(f.droplets, d.id) || slices.ContainsFunc(f.tags, func(t string) bool { return slices.Contains(d.tags, t) })
}

func (r rule) hasPort(port int) bool {
	lo, hi, err := portRange(r.Ports)
	return err == nil && lo <= port && port <= hi
}

// portRange reads "22", "8000-9000", "0" and "all".
func portRange(s string) (lo, hi int, err error) {
	if s == "all" || s == "0" || s == "" {
		return 1, 65535, nil
	}
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	if lo, err = strconv.Atoi(from); err != nil {
		return 0, 0, err
	}
	if hi, err = strconv.Atoi(to); err != nil {
		return 0, 0, err
	}
	if lo < 1 || hi > 65535 || lo > hi {
		return 0, 0, fmt.Errorf("ports %s are out of range", s)
	}
	return lo, hi, nil
}

func prefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}

func (c *Cloud) isFrom(r *remote, v visitor) bool {
	if v.balancer != "" && slices.Contains(r.LoadBalancers, v.balancer) {
		return true
	}
	for _, a := range r.Addresses {
		if p, err := prefix(a); err == nil && v.address.IsValid() && p.Contains(v.address.Unmap()) {
			return true
		}
	}
	for _, d := range c.droplets {
		if d.public != v.address && d.private != v.address || !v.address.IsValid() {
			continue
		}
		if slices.Contains(r.DropletIDs, d.id) || slices.ContainsFunc(r.Tags, func(t string) bool { return slices.Contains(d.tags, t) }) {
			return true
		}
	}
	return false
}

func (c *Cloud) firewallView(f *firewall) obj {
	status := "succeeded"
	pending := []obj{}
	if time.Since(f.changed) < c.o.Durations.Firewall {
		status = "waiting"
		for _, d := range c.droplets {
			if f.covers(d) {
				pending = append(pending, obj{"droplet_id": d.id, "removing": false, "status": "waiting"})
			}
		}
	}
	return obj{
		"id": f.id, "name": f.name, "status": status, "created_at": stamp(f.created), "pending_changes": pending,
		"droplet_ids": append([]int{}, f.droplets...), "tags": orEmpty(f.tags),
		"inbound_rules": ruleViews(f.inbound), "outbound_rules": ruleViews(f.outbound),
	}
}

func ruleViews(rules []rule) []rule {
	shown := []rule{}
	for _, r := range rules {
		if r.Ports == "all" || r.Ports == "" {
			r.Ports = "0" // all ports, as the API answers
		}
		shown = append(shown, r)
	}
	return shown
}

// firewallWish is the body of a creation or a change.
type firewallWish struct {
	Name     string   `json:"name"`
	Droplets []int    `json:"droplet_ids"`
	Tags     []string `json:"tags"`
	Inbound  []rule   `json:"inbound_rules"`
	Outbound []rule   `json:"outbound_rules"`
}

var firewallName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.-]+$`)

// judge refuses what DigitalOcean would refuse.
func (w firewallWish) judge(c *Cloud, self *firewall) error {
	if !firewallName.MatchString(w.Name) || len(w.Name) > 255 {
		return badRequest("name is invalid: only letters, numbers, dots and dashes, and it begins with a letter or number")
	}
	for _, f := range c.firewalls {
		if f != self && f.name == w.Name {
			return conflict("duplicate name")
		}
	}
	if len(w.Inbound)+len(w.Outbound) == 0 {
		return badRequest("must specify at least one inbound or outbound rule")
	}
	if err := c.judgeTargets(w.Droplets, w.Tags); err != nil {
		return err
	}
	return c.judgeRules(w.Inbound, w.Outbound)
}

func (c *Cloud) judgeTargets(droplets []int, tags []string) error {
	for _, id := range droplets {
		if c.dropletBy(id) == nil {
			return badRequest("droplet %d does not exist", id)
		}
	}
	for _, t := range tags {
		if !slices.Contains(c.tags, t) {
			return badRequest("tag %q does not exist", t)
		}
	}
	return nil
}

func (c *Cloud) judgeRules(inbound, outbound []rule) error {
	for i, r := range slices.Concat(inbound, outbound) {
		far, kind := r.Sources, "sources"
		if i >= len(inbound) {
			far, kind = r.Destinations, "destinations"
		}
		switch {
		case !slices.Contains([]string{"tcp", "udp", "icmp"}, r.Protocol):
			return badRequest("protocol %q is invalid", r.Protocol)
		case far == nil || reflect.DeepEqual(*far, remote{}):
			return badRequest("%s of a rule must not be empty", kind)
		case r.Protocol != "icmp" && r.Ports == "":
			return badRequest("ports must be given for %s", r.Protocol)
		}
		if _, _, err := portRange(r.Ports); err != nil {
			return badRequest("ports %q are invalid", r.Ports)
		}
		for _, a := range far.Addresses {
			if _, err := prefix(a); err != nil {
				return badRequest("address %q is invalid", a)
			}
		}
		if err := c.judgeTargets(nil, far.Tags); err != nil {
			return err
		}
	}
	return nil
}

func listFirewalls(q *request) (any, error) {
	var all []obj
	for _, f := range q.c.firewalls {
		all = append(all, q.c.firewallView(f))
	}
	return q.page("firewalls", all)
}

func listDropletFirewalls(q *request) (any, error) {
	d, err := q.droplet()
	if err != nil {
		return nil, err
	}
	var all []obj
	for _, f := range q.c.firewalls {
		if f.covers(d) {
			all = append(all, q.c.firewallView(f))
		}
	}
	return q.page("firewalls", all)
}

func createFirewall(q *request) (any, error) {
	var in firewallWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := in.judge(q.c, nil); err != nil {
		return nil, err
	}
	f := &firewall{id: uuid.NewString(), name: in.Name, created: time.Now(), changed: time.Now(),
		droplets: in.Droplets, tags: in.Tags, inbound: in.Inbound, outbound: in.Outbound}
	q.c.firewalls = append(q.c.firewalls, f)
	return obj{"firewall": q.c.firewallView(f)}, nil
}

// firewall is the one in the path.
func (q *request) firewall() (*firewall, error) {
	i := slices.IndexFunc(q.c.firewalls, func(f *firewall) bool { return f.id == q.PathValue("firewall") })
	if i < 0 {
		return nil, notFound()
	}
	return q.c.firewalls[i], nil
}

func getFirewall(q *request) (any, error) {
	f, err := q.firewall()
	if err != nil {
		return nil, err
	}
	return obj{"firewall": q.c.firewallView(f)}, nil
}

func updateFirewall(q *request) (any, error) {
	f, err := q.firewall()
	if err != nil {
		return nil, err
	}
	var in firewallWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := in.judge(q.c, f); err != nil {
		return nil, err
	}
	f.name, f.droplets, f.tags, f.inbound, f.outbound, f.changed = in.Name, in.Droplets, in.Tags, in.Inbound, in.Outbound, time.Now()
	return obj{"firewall": q.c.firewallView(f)}, nil
}

func deleteFirewall(q *request) (any, error) {
	f, err := q.firewall()
	if err != nil {
		return nil, err
	}
	q.c.firewalls = slices.DeleteFunc(q.c.firewalls, func(o *firewall) bool { return o == f })
	return nil, nil
}

// change reads a body and changes the firewall in the path by it.
func (q *request) change(do func(f *firewall, in firewallWish) error) (any, error) {
	f, err := q.firewall()
	if err != nil {
		return nil, err
	}
	var in firewallWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := do(f, in); err != nil {
		return nil, err
	}
	f.changed = time.Now()
	return nil, nil
}

// union is a with what it lacks of b, without what b has.
func union[T any](a, b []T) []T { return append(without(a, b), b...) }

func without[T any](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool {
		return slices.ContainsFunc(b, func(y T) bool { return reflect.DeepEqual(x, y) })
	})
}

func addFirewallDroplets(q *request) (any, error) {
	return q.change(func(f *firewall, in firewallWish) error {
		if err := q.c.judgeTargets(in.Droplets, nil); err != nil {
			return err
		}
		f.droplets = union(f.droplets, in.Droplets)
		return nil
	})
}

func removeFirewallDroplets(q *request) (any, error) {
	return q.change(func(f *firewall, in firewallWish) error {
		f.droplets = without(f.droplets, in.Droplets)
		return nil
	})
}

func addFirewallTags(q *request) (any, error) {
	return q.change(func(f *firewall, in firewallWish) error {
		if err := q.c.judgeTargets(nil, in.Tags); err != nil {
			return err
		}
		f.tags = union(f.tags, in.Tags)
		return nil
	})
}

func removeFirewallTags(q *request) (any, error) {
	return q.change(func(f *firewall, in firewallWish) error {
		f.tags = without(f.tags, in.Tags)
		return nil
	})
}

func addFirewallRules(q *request) (any, error) {
	return q.change(func(f *firewall, in firewallWish) error {
		if err := q.c.judgeRules(in.Inbound, in.Outbound); err != nil {
			return err
		}
		f.inbound, f.outbound = union(f.inbound, in.Inbound), union(f.outbound, in.Outbound)
		return nil
	})
}

func removeFirewallRules(q *request) (any, error) {
	return q.change(func(f *firewall, in firewallWish) error {
		f.inbound, f.outbound = without(f.inbound, in.Inbound), without(f.outbound, in.Outbound)
		return nil
	})
}
