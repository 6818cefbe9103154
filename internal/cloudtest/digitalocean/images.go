//go:build linux

package digitalocean

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// image is a base image, a snapshot of a droplet, or one that was imported.
type image struct {
	id                           int
	slug, name, distribution     string
	kind                         string // "base", "snapshot", "custom"
	description, status, trouble string
	regions, tags                []string
	created                      time.Time
	minDisk                      int // GB
	sizeGB                       float64
	droplet                      int // of a snapshot
	content                      *machines.Content
	// pending counts the actions that are under way.
	pending int
	// uses counts the disks that are being made of the content, gone says that it was deleted.
	uses int
	gone bool
}

func (i *image) public() bool { return i.kind == "base" }

func (i *image) view() obj {
	var slug any
	if i.slug != "" {
		slug = i.slug
	}
	return obj{
		"id": i.id, "name": i.name, "type": i.kind, "distribution": i.distribution, "slug": slug, "public": i.public(),
		"regions": orEmpty(i.regions), "created_at": stamp(i.created), "min_disk_size": i.minDisk, "size_gigabytes": i.sizeGB,
		"description": i.description, "tags": orEmpty(i.tags), "status": i.status, "error_message": i.trouble,
	}
}

// baseImages fills the account with what everybody has.
func (c *Cloud) baseImages() error {
	all := c.o.Images
	if all == nil {
		all = []BaseImage{
			{Slug: "debian-12-x64", Name: "12 x64", Distribution: "Debian"},
			{Slug: "debian-13-x64", Name: "13 x64", Distribution: "Debian"},
			{Slug: "ubuntu-22-04-x64", Name: "22.04 (LTS) x64", Distribution: "Ubuntu"},
			{Slug: "ubuntu-24-04-x64", Name: "24.04 (LTS) x64", Distribution: "Ubuntu"},
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range all {
		if b.Slug == "" || c.imageBy(b.Slug) != nil {
			return fmt.Errorf("base image %q: its slug is empty or taken", b.Slug)
		}
		i := &image{
			id: c.id(), slug: b.Slug, name: b.Name, distribution: b.Distribution, kind: "base", status: "available",
			regions: b.Regions, minDisk: b.MinDisk, sizeGB: 2.36, created: time.Now().AddDate(0, -1, 0),
			description: b.Distribution + " " + b.Name,
		}
		if i.minDisk == 0 {
			i.minDisk = 10
		}
		if i.regions == nil {
			for _, r := range c.regions {
				if r.available {
					i.regions = append(i.regions, r.slug)
				}
			}
		}
		if i.content = c.host.HostContent(); b.Tree != "" {
			i.content = c.host.TreeContent(b.Tree)
		}
		c.images = append(c.images, i)
	}
	return nil
}

// imageBy finds an image that is shown by its number or slug.
func (c *Cloud) imageBy(idOrSlug string) *image {
	if idOrSlug == "" {
		return nil
	}
	i := slices.IndexFunc(c.images, func(i *image) bool {
		return (i.slug == idOrSlug || strconv.Itoa(i.id) == idOrSlug) && c.seen(i.created)
	})
	if i < 0 {
		return nil
	}
	return c.images[i]
}

// image is the one in the path, by number.
func (q *request) image() (*image, error) {
	id, err := q.number("image")
	if err != nil {
		return nil, err
	}
	i := q.c.imageBy(strconv.Itoa(id))
	if i == nil {
		return nil, notFound()
	}
	return i, nil
}

// ownImage is the one in the path, if it may be changed.
func (q *request) ownImage() (*image, error) {
	i, err := q.image()
	if err != nil {
		return nil, err
	}
	if i.public() {
		return nil, forbidden("You are not authorized to perform this operation")
	}
	return i, nil
}

func listImages(q *request) (any, error) {
	v := q.URL.Query()
	kind := v.Get("type")
	if !slices.Contains([]string{"", "application", "distribution"}, kind) {
		return nil, badRequest("type must be application or distribution.")
	}
	var all []obj
	for _, i := range q.c.images {
		if q.c.seen(i.created) &&
			(kind == "" || kind == "distribution" && i.public()) &&
			(v.Get("private") != "true" || !i.public()) &&
			(v.Get("tag_name") == "" || slices.Contains(i.tags, v.Get("tag_name"))) {
			all = append(all, i.view())
		}
	}
	return q.page("images", all)
}

func getImage(q *request) (any, error) {
	i := q.c.imageBy(q.PathValue("image"))
	if i == nil {
		return nil, notFound()
	}
	return obj{"image": i.view()}, nil
}

// distributions are those that an image may say it is of.
var distributions = []string{"Arch Linux", "CentOS", "CoreOS", "Debian", "Fedora", "Fedora Atomic", "FreeBSD", "Gentoo", "openSUSE",
	"RancherOS", "Rocky Linux", "Ubuntu", "Unknown"}

func updateImage(q *request) (any, error) {
	i, err := q.ownImage()
	if err != nil {
		return nil, err
	}
	var in struct{ Name, Distribution, Description string }
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if in.Distribution != "" && !slices.Contains(distributions, in.Distribution) {
		return nil, unprocessable("Distribution is not included in the list")
	}
	for to, v := range map[*string]string{&i.name: in.Name, &i.distribution: in.Distribution, &i.description: in.Description} {
		if v != "" {
			*to = v
		}
	}
	return obj{"image": i.view()}, nil
}

func deleteImage(q *request) (any, error) {
	i, err := q.ownImage()
	if err != nil {
		return nil, err
	}
	return nil, q.c.deleteImage(i)
}

func (c *Cloud) deleteImage(i *image) error {
	if i.pending > 0 {
		return pendingEvent("Image")
	}
	c.images = slices.DeleteFunc(c.images, func(o *image) bool { return o == i })
	i.gone = true
	c.dropContent(i)
	return nil
}

// dropContent removes what a deleted image holds, unless a disk is being made of it.
func (c *Cloud) dropContent(i *image) {
	if !i.gone || i.uses > 0 || i.content == nil {
		return
	}
	content := i.content
	c.work.Go(func() {
		if err := content.Remove(); err != nil && c.ctx.Err() == nil {
			c.violation("the emulator's own trouble: removing image %d: %v", i.id, err)
		}
	})
}

func actOnImage(q *request) (any, error) {
	i, err := q.ownImage()
	if err != nil {
		return nil, err
	}
	var in struct{ Type, Region string }
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	what := Action{in.Type, "image", i.id, i.regions[0]}
	var takes time.Duration
	done := func() {}
	switch in.Type {
	case "transfer":
		r := q.c.region(in.Region)
		switch {
		case r == nil:
			return nil, unprocessable("You specified an invalid region for the transfer.")
		case !r.available || !slices.Contains(r.features, "image_transfer"):
			return nil, unprocessable("Image transfer is not available in region %s.", in.Region)
		case slices.Contains(i.regions, in.Region):
			return nil, unprocessable("Image is already available in region %s.", in.Region)
		case i.status != "available":
			return nil, unprocessable("The image is not available yet.")
		}
		what.Region, takes = in.Region, q.c.o.Durations.Transfer
		done = func() {
			if !slices.Contains(i.regions, in.Region) {
				i.regions = append(i.regions, in.Region)
			}
		}
	case "convert":
		if i.kind != "backup" {
			return nil, unprocessable("Only backups can be converted.")
		}
		takes, done = q.c.o.Durations.Convert, func() { i.kind = "snapshot" }
	default:
		return nil, unprocessable("type must be transfer or convert.")
	}
	i.pending++
	a := q.c.begin(what, takes, nil, func(err error) {
		i.pending--
		if err == nil {
			done()
		}
	})
	return obj{"action": q.c.actionView(a)}, nil
}

var imageName = regexp.MustCompile(`^[^\x00-\x1f]{1,255}$`)

func createImage(q *request) (any, error) {
	var in struct {
		Name, URL, Region, Distribution, Description string
		Tags                                         []string
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	r := q.c.region(in.Region)
	switch {
	case !imageName.MatchString(in.Name):
		return nil, unprocessable("Name can't be blank and has at most 255 characters")
	case in.URL == "":
		return nil, unprocessable("Url can't be blank")
	case r == nil || !r.available:
		return nil, unprocessable("You specified an invalid region for the image.")
	case in.Distribution != "" && !slices.Contains(distributions, in.Distribution):
		return nil, unprocessable("Distribution is not included in the list")
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
	}
	for _, t := range in.Tags {
		q.c.addTag(t)
	}
	i := &image{
		id: q.c.id(), name: in.Name, distribution: in.Distribution, kind: "custom", description: in.Description, tags: in.Tags,
		status: "NEW", created: time.Now(), regions: []string{in.Region},
	}
	if i.distribution == "" {
		i.distribution = "Unknown"
	}
	q.c.images = append(q.c.images, i)
	i.pending++
	view := i.view()
	var got imported
	q.c.begin(Action{"image_import", "image", i.id, in.Region}, q.c.o.Durations.Import,
		func(ctx context.Context) error {
			q.c.mu.Lock()
			i.status = "pending"
			q.c.mu.Unlock()
			got = q.c.fetch(ctx, i.id, in.URL)
			return nil
		},
		func(err error) {
			i.pending--
			if err != nil {
				got.trouble = "the import failed"
			}
			if got.trouble != "" {
				i.status, i.trouble = "deleted", got.trouble
				return
			}
			i.status, i.content, i.minDisk, i.sizeGB = "available", got.content, got.minDisk, got.sizeGB
		})
	return obj{"image": view}, nil
}
