//go:build linux

package digitalocean

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Resource is a thing that exists in the account.
type Resource struct {
	// Kind is "droplet", "image", "key", "firewall", "tag", "vpc", "project",
	// "reserved_ip", "load_balancer", "domain", "volume", "object" or "upload".
	Kind, ID, Name string
	Regions, Tags  []string
}

func (r Resource) String() string {
	s := r.Kind + " " + r.ID
	if r.Name != "" && r.Name != r.ID {
		s += " " + strconv.Quote(r.Name)
	}
	if len(r.Regions) > 0 {
		s += " in " + strings.Join(r.Regions, ",")
	}
	if len(r.Tags) > 0 {
		s += " tagged " + strings.Join(r.Tags, ",")
	}
	return s
}

// Left is all that exists and was not there at the beginning, whether the API
// shows it already or not. With kinds, only those.
func (c *Cloud) Left(kinds ...string) []Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Resource
	add := func(kind, id, name string, regions, tags []string) {
		if len(kinds) == 0 || slices.Contains(kinds, kind) {
			all = append(all, Resource{kind, id, name, slices.Clone(regions), slices.Clone(tags)})
		}
	}
	for _, d := range c.droplets {
		add("droplet", strconv.Itoa(d.id), d.name, []string{d.region}, d.tags)
	}
	for _, i := range c.images {
		if !i.public() {
			add("image", strconv.Itoa(i.id), i.name, i.regions, i.tags)
		}
	}
	for _, k := range c.keys {
		add("key", strconv.Itoa(k.id), k.name, nil, nil)
	}
	for _, f := range c.firewalls {
		add("firewall", f.id, f.name, nil, f.tags)
	}
	for _, t := range c.tags {
		add("tag", t, "", nil, nil)
	}
	for _, v := range c.vpcs {
		if !v.given {
			add("vpc", v.id, v.name, []string{v.region}, nil)
		}
	}
	for _, p := range c.projects {
		if !p.given {
			add("project", p.id, p.name, nil, nil)
		}
	}
	for _, r := range c.addresses {
		add("reserved_ip", r.ip.String(), "", []string{r.region}, nil)
	}
	for _, b := range c.balancers {
		add("load_balancer", b.id, b.Name, []string{b.region}, nil)
	}
	for _, d := range c.domains {
		add("domain", d.name, "", nil, nil)
	}
	for _, v := range c.volumes {
		add("volume", v.id, v.name, []string{v.region}, v.tags)
	}
	for _, o := range c.spaces.objects() {
		add("object", o, "", nil, nil)
	}
	for _, u := range c.spaces.uploads() {
		add("upload", u, "", nil, nil)
	}
	return all
}

// ReadFile reads a file in the content of an image, by the image's number or slug.
func (c *Cloud) ReadFile(of, name string) ([]byte, error) {
	c.mu.Lock()
	i := slices.IndexFunc(c.images, func(i *image) bool { return i.slug == of || strconv.Itoa(i.id) == of })
	if i < 0 {
		c.mu.Unlock()
		return nil, fmt.Errorf("there is no image %s", of)
	}
	content := c.images[i].content
	c.mu.Unlock()
	if content == nil {
		return nil, fmt.Errorf("image %s is not there yet", of)
	}
	return content.ReadFile(name)
}
