//go:build linux

package digitalocean

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// volume is a further disk. It is attached when a droplet is created with it, and only so.
type volume struct {
	id, name, description, region string
	sizeGB                        int64
	fsType, fsLabel               string
	tags                          []string
	droplet                       int
	created                       time.Time
	disk                          *machines.Volume
}

func (c *Cloud) volumeView(v *volume) obj {
	droplets := []int{}
	if v.droplet != 0 {
		droplets = append(droplets, v.droplet)
	}
	return obj{"id": v.id, "name": v.name, "description": v.description, "region": c.regionView(v.region), "size_gigabytes": v.sizeGB,
		"created_at": stamp(v.created), "droplet_ids": droplets, "filesystem_type": v.fsType, "filesystem_label": v.fsLabel, "tags": orEmpty(v.tags)}
}

func (c *Cloud) volumeBy(id string) *volume {
	i := slices.IndexFunc(c.volumes, func(v *volume) bool { return v.id == id })
	if i < 0 {
		return nil
	}
	return c.volumes[i]
}

// volume is the one in the path.
func (q *request) volume() (*volume, error) {
	v := q.c.volumeBy(q.PathValue("volume"))
	if v == nil {
		return nil, notFound()
	}
	return v, nil
}

func listVolumes(q *request) (any, error) {
	name, region := q.URL.Query().Get("name"), q.URL.Query().Get("region")
	var all []obj
	for _, v := range q.c.volumes {
		if (name == "" || v.name == name) && (region == "" || v.region == region) {
			all = append(all, q.c.volumeView(v))
		}
	}
	return q.page("volumes", all)
}

var volumeName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

func createVolume(q *request) (any, error) {
	var in struct {
		Name, Description, Region string
		SizeGB                    int64  `json:"size_gigabytes"`
		FSType                    string `json:"filesystem_type"`
		FSLabel                   string `json:"filesystem_label"`
		Snapshot                  string `json:"snapshot_id"`
		Tags                      []string
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	r := q.c.region(in.Region)
	switch {
	case !volumeName.MatchString(in.Name):
		return nil, unprocessable("name is invalid: up to 64 lower case letters, numbers and dashes, beginning with a letter")
	case r == nil || !r.available:
		return nil, unprocessable("region is invalid")
	case in.SizeGB < 1 || in.SizeGB > 16384:
		return nil, unprocessable("size_gigabytes must be from 1 to 16384")
	case in.FSType != "" && in.FSType != "ext4" && in.FSType != "xfs":
		return nil, unprocessable("filesystem_type must be ext4 or xfs")
	case in.FSType != "" || in.Snapshot != "":
		return nil, unprocessable("The emulator has only blank volumes.")
	case slices.ContainsFunc(q.c.volumes, func(v *volume) bool { return v.name == in.Name && v.region == in.Region }):
		return nil, conflict("a volume with this name exists in this region")
	}
	disk, err := q.c.host.NewVolume(nil, in.SizeGB<<30)
	if err != nil {
		return nil, fmt.Errorf("a volume's disk: %w", err)
	}
	v := &volume{id: uuid.NewString(), name: in.Name, description: in.Description, region: in.Region, sizeGB: in.SizeGB,
		tags: in.Tags, created: time.Now(), disk: disk}
	for _, t := range in.Tags {
		q.c.addTag(t)
	}
	q.c.volumes = append(q.c.volumes, v)
	return obj{"volume": q.c.volumeView(v)}, nil
}

func getVolume(q *request) (any, error) {
	v, err := q.volume()
	if err != nil {
		return nil, err
	}
	return obj{"volume": q.c.volumeView(v)}, nil
}

func deleteVolume(q *request) (any, error) {
	v, err := q.volume()
	if err != nil {
		return nil, err
	}
	if v.droplet != 0 {
		return nil, conflict("volume is attached to a Droplet")
	}
	if err := v.disk.Remove(); err != nil {
		return nil, err
	}
	q.c.volumes = slices.DeleteFunc(q.c.volumes, func(o *volume) bool { return o == v })
	q.c.forgetResource(urn("volume", v.id))
	return nil, nil
}
