//go:build linux

package ec2

import (
	"fmt"
	"slices"
	"strconv"
)

type snapshot struct {
	item
	owner, alias        string
	volume, description string
	size                int64
	encrypted           bool
	key                 string
	line                timeline
	busy                bool // its content is being copied
	reason              string
	content             *content
	users               []string // that may make volumes of it
	public              bool
}

func (s *snapshot) state(k *call) string {
	switch {
	case s.busy || k.now().Before(s.line.end()):
		return "pending"
	case s.reason != "":
		return "error"
	}
	return "completed"
}

func (s *snapshot) progress(k *call) string {
	from, to := s.line[0].at, s.line.end()
	p := 100.0
	if to.After(from) {
		p = 100 * k.now().Sub(from).Seconds() / to.Sub(from).Seconds()
	}
	return strconv.Itoa(int(min(100, p))) + "%"
}

func (s *snapshot) values(k *call, f string) []string {
	switch f {
	case "snapshot-id":
		return str(s.id)
	case "status":
		return str(s.state(k))
	case "volume-id":
		return str(s.volume)
	case "volume-size":
		return str(strconv.FormatInt(s.size, 10))
	case "description":
		return str(s.description)
	case "owner-id":
		return str(s.owner)
	case "owner-alias":
		return str(s.alias)
	case "encrypted":
		return yes(s.encrypted)
	case "start-time":
		return str(iso(s.born))
	case "progress":
		return str(s.progress(k))
	case "storage-tier":
		return str("standard")
	}
	return nil
}

func (s *snapshot) readable(account string) bool {
	return s.owner == account || s.public || slices.Contains(s.users, account)
}

// seenSnapshot finds a snapshot of the caller's or one that the caller may read.
func (k *call) seenSnapshot(id string) (*snapshot, bool) {
	for _, sp := range k.here(k.regionName) {
		if s, ok := sp.snapshots.m[id]; ok && s.readable(k.account) {
			return s, true
		}
	}
	return nil, false
}

// readableSnapshot finds one that a volume can be made of.
func (k *call) readableSnapshot(id string) (*snapshot, error) {
	if err := kindSnapshot.check(id); err != nil {
		return nil, err
	}
	s, ok := k.seenSnapshot(id)
	if !ok || !k.visible(&s.item, true) {
		return nil, fail(kindSnapshot.absent, "The snapshot '%s' does not exist.", id)
	}
	if state := s.state(k); state != "completed" {
		return nil, fail("IncorrectState", "Snapshot %s is '%s', not 'completed'", id, state)
	}
	return s, nil
}

type snapshotItem struct {
	ID          string    `xml:"snapshotId"`
	Volume      string    `xml:"volumeId"`
	State       string    `xml:"status"`
	Message     string    `xml:"statusMessage,omitempty"`
	Start       string    `xml:"startTime"`
	Progress    string    `xml:"progress"`
	Owner       string    `xml:"ownerId"`
	Alias       string    `xml:"ownerAlias,omitempty"`
	Size        int64     `xml:"volumeSize"`
	Description string    `xml:"description"`
	Encrypted   bool      `xml:"encrypted"`
	Key         string    `xml:"kmsKeyId,omitempty"`
	Tier        string    `xml:"storageTier"`
	Tags        []tagItem `xml:"tagSet>item"`
}

func (k *call) snapshotItem(s *snapshot) snapshotItem {
	i := snapshotItem{ID: s.id, Volume: s.volume, State: s.state(k), Start: iso(s.born), Progress: s.progress(k), Owner: s.owner, Alias: s.alias, Size: s.size,
		Description: s.description, Encrypted: s.encrypted, Key: s.key, Tier: "standard"}
	if i.State == "error" {
		i.Message = s.reason
	}
	if s.owner == k.account {
		i.Tags = tagItems(s.tags)
	}
	return i
}

// snap begins a snapshot of a volume; take is what copies it, in the background.
func (k *call) snap(v *volume, description, reason string, d timeline, tags map[string]string) *snapshot {
	s := &snapshot{item: k.newItem(kindSnapshot, tags), owner: k.account, volume: v.id, description: description, size: v.size, encrypted: v.encrypted, key: v.key, line: d, reason: reason, busy: true}
	k.snapshots.m[s.id] = s
	return s
}

// fill copies a volume into a snapshot.
func (c *Cloud) fill(s *snapshot, v *volume) {
	ct, err := v.capture(c)
	c.report(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	s.busy = false
	s.content = ct
	if err != nil && s.reason == "" {
		s.reason = err.Error()
	}
}

func (k *call) createSnapshot(in *createSnapshotRequest) (*snapshotItem, error) {
	v, err := k.volumes.get(k, in.VolumeId)
	if err != nil {
		return nil, err
	}
	if s := v.state(k); s != "available" && s != "in-use" {
		return nil, fail("IncorrectState", "Volume %s is '%s'", v.id, s)
	}
	if len(in.Description) > 255 {
		return nil, invalid("Description", "it is longer than 255 characters")
	}
	tags, err := specified(in.TagSpecification, kindSnapshot)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	s := k.snap(v, in.Description, k.doomed(k.action, in.Description), k.after("pending", k.o.Durations.Snapshot, "completed"), tags["snapshot"])
	c := k.Cloud
	c.background(func() { c.fill(s, v) })
	return ptr(k.snapshotItem(s)), nil
}

type copySnapshotResponse struct {
	ID   string    `xml:"snapshotId"`
	Tags []tagItem `xml:"tagSet>item"`
}

func (k *call) copySnapshot(in *copySnapshotRequest) (*copySnapshotResponse, error) {
	if in.SourceRegion == "" {
		return nil, missing("SourceRegion")
	}
	from, err := k.elsewhere(in.SourceRegion)
	if err != nil {
		return nil, err
	}
	src, err := from.readableSnapshot(in.SourceSnapshotId)
	if err != nil {
		return nil, err
	}
	tags, err := specified(in.TagSpecification, kindSnapshot)
	if err != nil {
		return nil, err
	}
	d := disk{}
	if err := k.encrypt(&d, in.Encrypted, in.KmsKeyId); err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	s := k.copied(src, d, in.Description, k.doomed(k.action, in.Description), tags["snapshot"])
	return &copySnapshotResponse{s.id, tagItems(s.tags)}, nil
}

// copied is a snapshot with the content of another one.
func (k *call) copied(src *snapshot, d disk, description, reason string, tags map[string]string) *snapshot {
	s := &snapshot{item: k.newItem(kindSnapshot, tags), owner: k.account, volume: "vol-ffffffff", description: description, size: src.size, encrypted: d.encrypted || src.encrypted, key: d.key,
		line: k.after("pending", k.o.Durations.Copy, "completed"), reason: reason, content: src.content}
	if s.encrypted && s.key == "" {
		s.key = k.keyARN(k.defaultKey)
	}
	if why := k.keyTrouble(s.key); s.encrypted && why != "" && s.reason == "" {
		s.reason = why
	}
	k.snapshots.m[s.id] = s
	return s
}

type describeSnapshotsResponse struct {
	Snapshots []snapshotItem `xml:"snapshotSet>item"`
	NextToken string         `xml:"nextToken,omitempty"`
}

func (k *call) describeSnapshots(in *describeSnapshotsRequest) (*describeSnapshotsResponse, error) {
	list, err := k.snapshots.findIn(k, in.SnapshotId, in.Filter, k.seenSnapshot, func() []*snapshot {
		var all []*snapshot
		for _, sp := range k.here(k.regionName) {
			for _, s := range sp.snapshots.all() {
				if s.readable(k.account) {
					all = append(all, s)
				}
			}
		}
		return all
	})
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(s *snapshot) bool { return !k.ownedBy(in.Owner, s.owner, s.alias) })
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, kindSnapshot.max)
	if err != nil {
		return nil, err
	}
	out := &describeSnapshotsResponse{NextToken: next}
	for _, s := range list {
		out.Snapshots = append(out.Snapshots, k.snapshotItem(s))
	}
	return out, nil
}

// ownedBy says whether an owner is one of those that a call asks for.
func (k *call) ownedBy(asked []string, owner, alias string) bool {
	if len(asked) == 0 {
		return true
	}
	for _, o := range asked {
		if o == owner || o == "self" && owner == k.account || alias != "" && o == alias {
			return true
		}
	}
	return false
}

func (k *call) deleteSnapshot(in *deleteSnapshotRequest) (*answered, error) {
	s, err := k.snapshots.get(k, in.SnapshotId)
	if err != nil {
		return nil, err
	}
	for _, i := range k.images.m {
		if i.uses(s.id) {
			return nil, fail("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", s.id, i.id)
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	delete(k.snapshots.m, s.id) // volumes of it keep its content
	return done, nil
}

func (k *call) modifySnapshotAttribute(in *modifySnapshotAttributeRequest) (*answered, error) {
	s, err := k.snapshots.get(k, in.SnapshotId)
	if err != nil {
		return nil, err
	}
	if in.Attribute != "" && in.Attribute != "createVolumePermission" {
		return nil, invalid("Attribute", "%s cannot be changed", in.Attribute)
	}
	var add, remove []createVolumePermission
	if m := in.CreateVolumePermission; m != nil {
		add, remove = m.Add, m.Remove
	}
	var list []createVolumePermission
	for _, u := range in.UserId {
		list = append(list, createVolumePermission{UserId: u})
	}
	for _, g := range in.UserGroup {
		list = append(list, createVolumePermission{Group: g})
	}
	switch in.OperationType {
	case "add":
		add = append(add, list...)
	case "remove":
		remove = append(remove, list...)
	default:
		if len(list) > 0 {
			return nil, invalid("OperationType", "%q is neither add nor remove", in.OperationType)
		}
	}
	if len(add)+len(remove) == 0 {
		return nil, combination("No attributes specified.")
	}
	for _, p := range add {
		switch {
		case p.Group == "" && !accountID.MatchString(p.UserId):
			return nil, fail("InvalidParameterValue", "Invalid user id: %q", p.UserId)
		case p.Group != "" && p.Group != "all":
			return nil, fail("InvalidParameterValue", "Invalid group: %q", p.Group)
		case s.encrypted && p.Group != "":
			return nil, fail("OperationNotPermitted", "Encrypted snapshots with EBS default key cannot be shared, and none with all")
		case s.encrypted && k.isDefaultKey(s.key):
			return nil, fail("OperationNotPermitted", "Encrypted snapshots with EBS default key cannot be shared")
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	for _, p := range add {
		if p.Group != "" {
			s.public = true
		} else if !slices.Contains(s.users, p.UserId) {
			s.users = append(s.users, p.UserId)
		}
	}
	for _, p := range remove {
		if p.Group != "" {
			s.public = false
		}
		s.users = slices.DeleteFunc(s.users, func(u string) bool { return u == p.UserId })
	}
	return done, nil
}

type permissionItem struct {
	User         string `xml:"userId,omitempty"`
	Group        string `xml:"group,omitempty"`
	Organization string `xml:"organizationArn,omitempty"`
	Unit         string `xml:"organizationalUnitArn,omitempty"`
}

type describeSnapshotAttributeResponse struct {
	ID          string           `xml:"snapshotId"`
	Permissions []permissionItem `xml:"createVolumePermission>item"`
}

func (k *call) describeSnapshotAttribute(in *describeSnapshotAttributeRequest) (*describeSnapshotAttributeResponse, error) {
	s, err := k.snapshots.get(k, in.SnapshotId)
	if err != nil {
		return nil, err
	}
	if in.Attribute != "createVolumePermission" {
		return nil, invalid("Attribute", "this emulator describes createVolumePermission, not %q", in.Attribute)
	}
	out := &describeSnapshotAttributeResponse{ID: s.id}
	if s.public {
		out.Permissions = append(out.Permissions, permissionItem{Group: "all"})
	}
	for _, u := range s.users {
		out.Permissions = append(out.Permissions, permissionItem{User: u})
	}
	return out, nil
}

// elsewhere is the same caller in another region.
func (k *call) elsewhere(region string) (*call, error) {
	s, err := k.spaceOf(k.account, region)
	if err != nil {
		return nil, fail("InvalidRequest", "The source region '%s' is not valid", region)
	}
	o := *k
	o.regionName, o.space = region, s
	return &o, nil
}

func (k *call) String() string { return fmt.Sprintf("%s:%s in %s", k.service, k.action, k.regionName) }
