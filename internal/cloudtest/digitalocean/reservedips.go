//go:build linux

package digitalocean

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
)

// reservedIP is an address that stays when its droplet goes.
type reservedIP struct {
	ip      netip.Addr
	region  string
	droplet *droplet
	locked  bool
	created time.Time
}

func (c *Cloud) reservedView(r *reservedIP) obj {
	v := obj{"ip": r.ip.String(), "region": c.regionView(r.region), "droplet": nil, "locked": r.locked, "project_id": c.projectOf(urn("floatingip", r.ip.String())).id}
	if r.droplet != nil {
		v["droplet"] = c.dropletView(r.droplet)
	}
	return v
}

// reserved is the one in the path.
func (q *request) reserved() (*reservedIP, error) {
	i := slices.IndexFunc(q.c.addresses, func(r *reservedIP) bool { return r.ip.String() == q.PathValue("address") })
	if i < 0 {
		return nil, notFound()
	}
	return q.c.addresses[i], nil
}

func listReservedIPs(q *request) (any, error) {
	var all []obj
	for _, r := range q.c.addresses {
		all = append(all, q.c.reservedView(r))
	}
	return q.page("reserved_ips", all)
}

func createReservedIP(q *request) (any, error) {
	var in struct {
		Droplet int    `json:"droplet_id"`
		Region  string `json:"region"`
		Project string `json:"project_id"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	var d *droplet
	switch {
	case (in.Droplet == 0) == (in.Region == ""):
		return nil, unprocessable("Either a region or a Droplet must be given.")
	case in.Droplet != 0:
		if d = q.c.dropletBy(in.Droplet); d == nil {
			return nil, unprocessable("Droplet %d was not found.", in.Droplet)
		}
		in.Region = d.region
	}
	if r := q.c.region(in.Region); r == nil || !r.available {
		return nil, unprocessable("You specified an invalid region.")
	}
	home := slices.IndexFunc(q.c.projects, func(p *project) bool { return p.id == in.Project })
	if in.Project != "" && home < 0 {
		return nil, unprocessable("The project was not found.")
	}
	r := &reservedIP{region: in.Region, created: time.Now()}
	var err error
	if r.ip, err = q.c.host.Address(); err != nil {
		return nil, fmt.Errorf("a reserved address: %w", err)
	}
	q.c.addresses = append(q.c.addresses, r)
	if home >= 0 {
		q.c.projects[home].assigned[urn("floatingip", r.ip.String())] = r.created
	}
	links := obj{}
	if d != nil {
		a, err := q.c.assign(r, d)
		if err != nil {
			return nil, err
		}
		links["actions"] = []obj{q.c.link("assign_ip", a)}
	}
	return obj{"reserved_ip": q.c.reservedView(r), "links": links}, nil
}

func getReservedIP(q *request) (any, error) {
	r, err := q.reserved()
	if err != nil {
		return nil, err
	}
	return obj{"reserved_ip": q.c.reservedView(r)}, nil
}

func deleteReservedIP(q *request) (any, error) {
	r, err := q.reserved()
	if err != nil {
		return nil, err
	}
	if r.locked {
		return nil, pendingEvent("Reserved IP")
	}
	q.c.unserve(r)
	q.c.addresses = slices.DeleteFunc(q.c.addresses, func(o *reservedIP) bool { return o == r })
	q.c.forgetResource(urn("floatingip", r.ip.String()))
	return nil, nil
}

// atAddress is what is served at a reserved address.
type atAddress struct {
	io.Closer
	ip netip.Addr
}

// unserve takes an address from its droplet.
func (c *Cloud) unserve(r *reservedIP) {
	d := r.droplet
	r.droplet = nil
	if d == nil {
		return
	}
	var gone []io.Closer
	d.served = slices.DeleteFunc(d.served, func(s io.Closer) bool {
		at, ok := s.(atAddress)
		if ok = ok && at.ip == r.ip; ok {
			gone = append(gone, s)
		}
		return ok
	})
	c.work.Go(func() { closeAll(gone) })
}

func (c *Cloud) assign(r *reservedIP, d *droplet) (*action, error) {
	switch {
	case r.locked:
		return nil, pendingEvent("Reserved IP")
	case d.region != r.region:
		return nil, unprocessable("The Droplet is in another region.")
	case d.locked:
		return nil, pendingEvent("Droplet")
	case slices.ContainsFunc(c.addresses, func(o *reservedIP) bool { return o != r && o.droplet == d }):
		return nil, unprocessable("The Droplet already has a reserved IP.")
	}
	r.locked = true
	return c.begin(Action{"assign_ip", "reserved_ip", int(r.number()), r.region}, c.o.Durations.Assign,
		func(context.Context) error {
			c.mu.Lock()
			c.unserve(r)
			r.droplet = d
			start, up := d.starts, d.open
			c.mu.Unlock()
			if up { // otherwise it is served when the droplet comes up
				c.open(d, start, r.ip)
			}
			return nil
		},
		func(error) {
			r.locked = false
			if d.gone {
				r.droplet = nil
			}
		}), nil
}

// number is how an action names an address.
func (r *reservedIP) number() uint32 {
	b := r.ip.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func actOnReservedIP(q *request) (any, error) {
	r, err := q.reserved()
	if err != nil {
		return nil, err
	}
	var in struct {
		Type    string
		Droplet int `json:"droplet_id"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	var a *action
	switch in.Type {
	case "assign":
		d := q.c.dropletBy(in.Droplet)
		if d == nil {
			return nil, unprocessable("Droplet %d was not found.", in.Droplet)
		}
		if a, err = q.c.assign(r, d); err != nil {
			return nil, err
		}
	case "unassign":
		if r.locked {
			return nil, pendingEvent("Reserved IP")
		}
		if r.droplet == nil {
			return nil, unprocessable("The IP is not assigned to a Droplet.")
		}
		r.locked = true
		a = q.c.begin(Action{"unassign_ip", "reserved_ip", int(r.number()), r.region}, q.c.o.Durations.Assign, nil, func(err error) {
			r.locked = false
			if err == nil {
				q.c.unserve(r)
			}
		})
	default:
		return nil, unprocessable("type must be assign or unassign.")
	}
	return obj{"action": q.c.actionView(a)}, nil
}

func listReservedIPActions(q *request) (any, error) {
	r, err := q.reserved()
	if err != nil {
		return nil, err
	}
	return q.page("actions", q.c.actionsOf(on("reserved_ip", int(r.number()))))
}

func getReservedIPAction(q *request) (any, error) {
	r, err := q.reserved()
	if err != nil {
		return nil, err
	}
	return q.action(on("reserved_ip", int(r.number())))
}
