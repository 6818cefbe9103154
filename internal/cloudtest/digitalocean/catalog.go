//go:build linux

package digitalocean

import "slices"

// region is a data centre.
type region struct {
	slug, name string
	available  bool
	features   []string
}

// size is a kind of droplet.
type size struct {
	slug, description   string
	memory, vcpus, disk int // MB, number, GB
	transfer            float64
	monthly             float64
	regions             []string
	available           bool
}

// catalog fills what the cloud offers.
func (c *Cloud) catalog() {
	for _, r := range []struct{ slug, name string }{
		{"nyc1", "New York 1"}, {"nyc3", "New York 3"}, {"sfo3", "San Francisco 3"}, {"tor1", "Toronto 1"},
		{"ams3", "Amsterdam 3"}, {"fra1", "Frankfurt 1"}, {"lon1", "London 1"},
		{"sgp1", "Singapore 1"}, {"blr1", "Bangalore 1"}, {"syd1", "Sydney 1"},
	} {
		c.regions = append(c.regions, &region{r.slug, r.name, true,
			[]string{"backups", "ipv6", "metadata", "install_agent", "storage", "image_transfer"}})
	}
	// Regions that take no new droplets.
	for _, r := range []struct{ slug, name string }{{"nyc2", "New York 2"}, {"sfo1", "San Francisco 1"}, {"ams2", "Amsterdam 2"}} {
		c.regions = append(c.regions, &region{r.slug, r.name, false, []string{"ipv6", "metadata"}})
	}
	var open []string
	for _, r := range c.regions {
		if r.available {
			open = append(open, r.slug)
		}
	}
	few := []string{"nyc3", "sfo3", "ams3", "fra1"}
	c.sizes = []*size{
		{"s-1vcpu-512mb-10gb", "Basic", 512, 1, 10, 0.5, 4, []string{"nyc1", "nyc3", "sfo3", "ams3", "fra1"}, true},
		{"s-1vcpu-1gb", "Basic", 1024, 1, 25, 1, 6, open, true},
		{"s-1vcpu-2gb", "Basic", 2048, 1, 50, 2, 12, open, true},
		{"s-2vcpu-2gb", "Basic", 2048, 2, 60, 3, 18, open, true},
		{"s-2vcpu-4gb", "Basic", 4096, 2, 80, 4, 24, open, true},
		{"s-4vcpu-8gb", "Basic", 8192, 4, 160, 5, 48, open, true},
		{"c-2", "CPU-Optimized", 4096, 2, 25, 4, 42, few, true},
		{"g-2vcpu-8gb", "General Purpose", 8192, 2, 25, 4, 63, few, true},
		// Retired.
		{"512mb", "Legacy Basic", 512, 1, 20, 1, 5, nil, false},
	}
	c.vpcs = c.defaultVPCs()
	c.projects = []*project{c.defaultProject()}
}

func (c *Cloud) region(slug string) *region {
	i := slices.IndexFunc(c.regions, func(r *region) bool { return r.slug == slug })
	if i < 0 {
		return nil
	}
	return c.regions[i]
}

func (c *Cloud) size(slug string) *size {
	i := slices.IndexFunc(c.sizes, func(s *size) bool { return s.slug == slug })
	if i < 0 {
		return nil
	}
	return c.sizes[i]
}

func (c *Cloud) regionView(slug string) obj {
	r := c.region(slug)
	sizes := []string{}
	for _, s := range c.sizes {
		if slices.Contains(s.regions, slug) {
			sizes = append(sizes, s.slug)
		}
	}
	return obj{"name": r.name, "slug": r.slug, "available": r.available, "features": r.features, "sizes": sizes}
}

func (s *size) view() obj {
	regions := s.regions
	if regions == nil {
		regions = []string{}
	}
	return obj{
		"slug": s.slug, "memory": s.memory, "vcpus": s.vcpus, "disk": s.disk, "transfer": s.transfer,
		"price_monthly": s.monthly, "price_hourly": s.monthly / 672, "regions": regions, "available": s.available,
		"description": s.description,
	}
}

func getAccount(q *request) (any, error) {
	return obj{"account": obj{
		"droplet_limit": dropletLimit, "floating_ip_limit": 5, "volume_limit": 10, "email": "someone@example.com", "name": "Someone",
		"uuid": q.c.account, "email_verified": true, "status": q.c.accountStatus, "status_message": "",
		"team": obj{"uuid": q.c.account, "name": "My Team"},
	}}, nil
}

func listRegions(q *request) (any, error) {
	var all []obj
	for _, r := range q.c.regions {
		all = append(all, q.c.regionView(r.slug))
	}
	return q.page("regions", all)
}

func listSizes(q *request) (any, error) {
	var all []obj
	for _, s := range q.c.sizes {
		all = append(all, s.view())
	}
	return q.page("sizes", all)
}
