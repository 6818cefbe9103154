//go:build linux

package digitalocean

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"
)

// vpc is a private network of a region.
type vpc struct {
	id, name, description, region string
	ips                           string
	isDefault                     bool
	// given says that it was there at the beginning.
	given   bool
	created time.Time
}

func urn(kind, id string) string { return "do:" + kind + ":" + id }

func (v *vpc) view() obj {
	return obj{"id": v.id, "urn": urn("vpc", v.id), "name": v.name, "description": v.description, "region": v.region,
		"ip_range": v.ips, "default": v.isDefault, "created_at": stamp(v.created)}
}

func (c *Cloud) defaultVPCs() []*vpc {
	var all []*vpc
	for i, r := range c.regions {
		if r.available {
			all = append(all, &vpc{id: uuid.NewString(), name: "default-" + r.slug, region: r.slug, ips: fmt.Sprintf("10.%d.0.0/20", 100+i), isDefault: true, given: true, created: time.Now()})
		}
	}
	return all
}

func (c *Cloud) defaultVPC(region string) *vpc {
	i := slices.IndexFunc(c.vpcs, func(v *vpc) bool { return v.isDefault && v.region == region })
	return c.vpcs[i]
}

func (c *Cloud) vpcBy(id string) *vpc {
	i := slices.IndexFunc(c.vpcs, func(v *vpc) bool { return v.id == id })
	if i < 0 {
		return nil
	}
	return c.vpcs[i]
}

// vpc is the one in the path.
func (q *request) vpc() (*vpc, error) {
	v := q.c.vpcBy(q.PathValue("vpc"))
	if v == nil {
		return nil, notFound()
	}
	return v, nil
}

func listVPCs(q *request) (any, error) {
	var all []obj
	for _, v := range q.c.vpcs {
		all = append(all, v.view())
	}
	return q.page("vpcs", all)
}

var vpcName = regexp.MustCompile(`^[a-zA-Z0-9\-.]+$`)

func (c *Cloud) judgeVPC(name, description string, self *vpc) error {
	switch {
	case !vpcName.MatchString(name):
		return unprocessable("name is invalid: only letters, numbers, dashes and dots")
	case len(description) > 255:
		return unprocessable("description has at most 255 characters")
	case slices.ContainsFunc(c.vpcs, func(v *vpc) bool { return v != self && v.name == name }):
		return conflict("a VPC with the name %s exists", name)
	}
	return nil
}

func createVPC(q *request) (any, error) {
	var in struct {
		Name, Region, Description string
		IPRange                   string `json:"ip_range"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := q.c.judgeVPC(in.Name, in.Description, nil); err != nil {
		return nil, err
	}
	if r := q.c.region(in.Region); r == nil || !r.available {
		return nil, unprocessable("region is invalid")
	}
	if in.IPRange == "" {
		in.IPRange = fmt.Sprintf("10.%d.0.0/20", 120+len(q.c.vpcs))
	}
	p, err := netip.ParsePrefix(in.IPRange)
	if err != nil || p != p.Masked() || !p.Addr().IsPrivate() || p.Bits() < 16 || p.Bits() > 28 {
		return nil, unprocessable("ip_range is invalid: a private network from /16 to /28")
	}
	for _, v := range q.c.vpcs {
		if o, err := netip.ParsePrefix(v.ips); err == nil && o.Overlaps(p) {
			return nil, unprocessable("This range/size overlaps with another VPC network in your account")
		}
	}
	v := &vpc{id: uuid.NewString(), name: in.Name, description: in.Description, region: in.Region, ips: in.IPRange, created: time.Now()}
	q.c.vpcs = append(q.c.vpcs, v)
	return obj{"vpc": v.view()}, nil
}

func getVPC(q *request) (any, error) {
	v, err := q.vpc()
	if err != nil {
		return nil, err
	}
	return obj{"vpc": v.view()}, nil
}

// updateVPC is PUT and PATCH: what is not given stays.
func updateVPC(q *request) (any, error) {
	v, err := q.vpc()
	if err != nil {
		return nil, err
	}
	in := struct {
		Name, Description string
		Default           bool
	}{v.name, v.description, v.isDefault}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := q.c.judgeVPC(in.Name, in.Description, v); err != nil {
		return nil, err
	}
	if v.isDefault && !in.Default {
		return nil, unprocessable("Cannot unset the default VPC")
	}
	if in.Default {
		q.c.defaultVPC(v.region).isDefault = false
	}
	v.name, v.description, v.isDefault = in.Name, in.Description, in.Default
	return obj{"vpc": v.view()}, nil
}

func (c *Cloud) members(v *vpc) []obj {
	var all []obj
	for _, d := range c.droplets {
		if d.vpc == v {
			all = append(all, obj{"urn": urn("droplet", fmt.Sprint(d.id)), "name": d.name, "created_at": stamp(d.created)})
		}
	}
	for _, b := range c.balancers {
		if b.vpc == v {
			all = append(all, obj{"urn": urn("loadbalancer", b.id), "name": b.Name, "created_at": stamp(b.created)})
		}
	}
	return all
}

func listVPCMembers(q *request) (any, error) {
	v, err := q.vpc()
	if err != nil {
		return nil, err
	}
	all := q.c.members(v)
	if kind := q.URL.Query().Get("resource_type"); kind != "" {
		all = slices.DeleteFunc(all, func(m obj) bool { return !isKind(m["urn"].(string), kind) })
	}
	return q.page("members", all)
}

func deleteVPC(q *request) (any, error) {
	v, err := q.vpc()
	if err != nil {
		return nil, err
	}
	switch {
	case v.isDefault:
		return nil, forbidden("Can not delete default VPCs")
	case len(q.c.members(v)) > 0:
		return nil, forbidden("Can not delete VPC with members")
	}
	q.c.vpcs = slices.DeleteFunc(q.c.vpcs, func(o *vpc) bool { return o == v })
	return nil, nil
}
