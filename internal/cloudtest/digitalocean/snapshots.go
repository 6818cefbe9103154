//go:build linux

package digitalocean

import "strconv"

func (i *image) snapshotView() obj {
	return obj{
		"id": strconv.Itoa(i.id), "name": i.name, "created_at": stamp(i.created), "regions": orEmpty(i.regions),
		"min_disk_size": i.minDisk, "size_gigabytes": i.sizeGB, "resource_id": strconv.Itoa(i.droplet),
		"resource_type": "droplet", "tags": orEmpty(i.tags),
	}
}

func listSnapshots(q *request) (any, error) {
	kind := q.URL.Query().Get("resource_type")
	var all []obj
	for _, i := range q.c.images {
		if i.kind == "snapshot" && q.c.seen(i.created) && kind != "volume" {
			all = append(all, i.snapshotView())
		}
	}
	return q.page("snapshots", all)
}

// snapshot is the one in the path.
func (q *request) snapshot() (*image, error) {
	i := q.c.imageBy(q.PathValue("snapshot"))
	if i == nil || i.kind != "snapshot" {
		return nil, notFound()
	}
	return i, nil
}

func getSnapshot(q *request) (any, error) {
	i, err := q.snapshot()
	if err != nil {
		return nil, err
	}
	return obj{"snapshot": i.snapshotView()}, nil
}

func deleteSnapshot(q *request) (any, error) {
	i, err := q.snapshot()
	if err != nil {
		return nil, err
	}
	return nil, q.c.deleteImage(i)
}

func listDropletSnapshots(q *request) (any, error) {
	d, err := q.droplet()
	if err != nil {
		return nil, err
	}
	var all []obj
	for _, i := range q.c.images {
		if i.kind == "snapshot" && i.droplet == d.id && q.c.seen(i.created) {
			all = append(all, obj{
				"id": i.id, "name": i.name, "type": "snapshot", "created_at": stamp(i.created), "regions": orEmpty(i.regions),
				"min_disk_size": i.minDisk, "size_gigabytes": i.sizeGB,
			})
		}
	}
	return q.page("snapshots", all)
}

// listDropletBackups is always empty: backups are made weekly, and no emulator lives so long.
func listDropletBackups(q *request) (any, error) {
	if _, err := q.droplet(); err != nil {
		return nil, err
	}
	return q.page("backups", nil)
}
