//go:build linux

package digitalocean

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

var tagName = regexp.MustCompile(`^[a-zA-Z0-9_\-:]{1,255}$`)

// addTag makes a tag known.
func (c *Cloud) addTag(name string) {
	if !slices.Contains(c.tags, name) {
		c.tags = append(c.tags, name)
	}
}

func (c *Cloud) tagView(name string) obj {
	kind := func(path string, uris []string) obj {
		v := obj{"count": len(uris)}
		if len(uris) > 0 {
			v["last_tagged_uri"] = c.url + "/v2/" + path + "/" + uris[len(uris)-1]
		}
		return v
	}
	var droplets, images, volumes []string
	for _, d := range c.droplets {
		if slices.Contains(d.tags, name) {
			droplets = append(droplets, strconv.Itoa(d.id))
		}
	}
	for _, i := range c.images {
		if slices.Contains(i.tags, name) {
			images = append(images, strconv.Itoa(i.id))
		}
	}
	for _, v := range c.volumes {
		if slices.Contains(v.tags, name) {
			volumes = append(volumes, v.id)
		}
	}
	return obj{"name": name, "resources": obj{
		"count":    len(droplets) + len(images) + len(volumes),
		"droplets": kind("droplets", droplets), "images": kind("images", images), "volumes": kind("volumes", volumes),
		"volume_snapshots": obj{"count": 0}, "databases": obj{"count": 0},
	}}
}

func listTags(q *request) (any, error) {
	var all []obj
	for _, t := range q.c.tags {
		all = append(all, q.c.tagView(t))
	}
	return q.page("tags", all)
}

func createTag(q *request) (any, error) {
	var in struct{ Name string }
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if !tagName.MatchString(in.Name) {
		return nil, unprocessable("Tag name is invalid: it has up to 255 letters, numbers, colons, dashes and underscores.")
	}
	q.c.addTag(in.Name)
	return obj{"tag": q.c.tagView(in.Name)}, nil
}

// tag is the one in the path.
func (q *request) tag() (string, error) {
	t := q.PathValue("tag")
	if !slices.Contains(q.c.tags, t) {
		return "", notFound()
	}
	return t, nil
}

func getTag(q *request) (any, error) {
	t, err := q.tag()
	if err != nil {
		return nil, err
	}
	return obj{"tag": q.c.tagView(t)}, nil
}

func deleteTag(q *request) (any, error) {
	t, err := q.tag()
	if err != nil {
		return nil, err
	}
	drop := func(tags *[]string) {
		*tags = slices.DeleteFunc(*tags, func(o string) bool { return o == t })
	}
	drop(&q.c.tags)
	for _, d := range q.c.droplets {
		drop(&d.tags)
	}
	for _, i := range q.c.images {
		drop(&i.tags)
	}
	for _, v := range q.c.volumes {
		drop(&v.tags)
	}
	for _, f := range q.c.firewalls {
		drop(&f.tags)
	}
	return nil, nil
}

// tagsOf are the tags of the resource that a call names.
func (c *Cloud) tagsOf(kind, id string) (*[]string, error) {
	n, _ := strconv.Atoi(id)
	switch kind {
	case "droplet":
		if d := c.dropletBy(n); d != nil {
			return &d.tags, nil
		}
	case "image":
		if i := c.imageBy(id); i != nil && i.id == n && !i.public() {
			return &i.tags, nil
		}
	case "volume":
		if v := c.volumeBy(id); v != nil {
			return &v.tags, nil
		}
	default:
		return nil, unprocessable("resource_type %q is not known.", kind)
	}
	return nil, &refusal{404, "not_found", fmt.Sprintf("The %s %s could not be found.", kind, id)}
}

// resources are the tags of what the body names.
func (q *request) resources() ([]*[]string, error) {
	var in struct {
		Resources []struct {
			ID   flexible `json:"resource_id"`
			Type string   `json:"resource_type"`
		} `json:"resources"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	var all []*[]string
	for _, r := range in.Resources {
		tags, err := q.c.tagsOf(r.Type, string(r.ID))
		if err != nil {
			return nil, err
		}
		all = append(all, tags)
	}
	return all, nil
}

func tagResources(q *request) (any, error) {
	t, err := q.tag()
	if err != nil {
		return nil, err
	}
	all, err := q.resources()
	if err != nil {
		return nil, err
	}
	for _, tags := range all {
		if !slices.Contains(*tags, t) {
			*tags = append(*tags, t)
		}
	}
	return nil, nil
}

func untagResources(q *request) (any, error) {
	t, err := q.tag()
	if err != nil {
		return nil, err
	}
	all, err := q.resources()
	if err != nil {
		return nil, err
	}
	for _, tags := range all {
		*tags = slices.DeleteFunc(*tags, func(o string) bool { return o == t })
	}
	return nil, nil
}
