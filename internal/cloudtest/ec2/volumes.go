//go:build linux

package ec2

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

const gib = 1 << 30

// disk is what is said of a volume wherever one is made.
type disk struct {
	size             int64 // GiB
	kind             string
	iops, throughput int64
	encrypted        bool
	key              string // the ARN of its KMS key
	keyReason        string // why that key cannot be used; known only after the call
	snapshot         *snapshot
}

type volume struct {
	item
	disk
	zone   string
	line   timeline
	at     *attachment // nil: attached to nothing
	was    *attachment // until that has ended
	from   *content    // nil: blank
	source string      // the snapshot's id
	gone   bool
	// modified is when ModifyVolume has changed it last.
	modified time.Time
	grew     int64 // from that size

	mu   sync.Mutex // guards real
	real *machines.Volume
}

// attachment is a volume at an instance.
type attachment struct {
	volume   *volume
	instance *instance
	device   string
	dies     bool // with the instance
	line     timeline
	since    string
	busy     bool // the host is not through with it
	number   int  // of its NVMe device, if it is at this host
}

func (a *attachment) state(k *call) string {
	s := a.line.at(k.now())
	if a.busy {
		return a.line[0].state
	}
	return s
}

func (v *volume) state(k *call) string {
	if v.was != nil && v.was.state(k) == "detached" {
		v.was = nil
	}
	if v.at != nil || v.was != nil {
		return "in-use"
	}
	return v.line.at(k.now())
}

// open is the real disk. It may take a while and is not called with the cloud locked.
func (v *volume) open(c *Cloud) (*machines.Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.real != nil {
		return v.real, nil
	}
	var from *machines.Content
	if v.from != nil {
		from = v.from.Content
	}
	real, err := c.host.NewVolume(from, v.size*gib)
	if err != nil {
		return nil, fmt.Errorf("the disk of %s: %w", v.id, err)
	}
	v.real = real
	return real, nil
}

// capture is a copy of what is on the volume now.
func (v *volume) capture(c *Cloud) (*content, error) {
	real, err := v.open(c)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	ct, err := real.Content()
	if err != nil {
		return nil, fmt.Errorf("the content of %s: %w", v.id, err)
	}
	user := ""
	if v.from != nil {
		user = v.from.user
	}
	return &content{ct, user}, nil
}

// drop gives the real disk back.
func (v *volume) drop() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.real == nil {
		return nil
	}
	err := v.real.Remove()
	v.real = nil
	return err
}

func (v *volume) values(k *call, f string) []string {
	attached := func(get func(*attachment) string) []string {
		if v.at == nil {
			return []string{}
		}
		return str(get(v.at))
	}
	switch f {
	case "volume-id":
		return str(v.id)
	case "status":
		return str(v.state(k))
	case "availability-zone":
		return str(v.zone)
	case "size":
		return str(strconv.FormatInt(v.size, 10))
	case "snapshot-id":
		return str(v.source)
	case "volume-type":
		return str(v.kind)
	case "encrypted":
		return yes(v.encrypted)
	case "create-time":
		return str(iso(v.born))
	case "attachment.instance-id":
		return attached(func(a *attachment) string { return a.instance.id })
	case "attachment.device":
		return attached(func(a *attachment) string { return a.device })
	case "attachment.status":
		return attached(func(a *attachment) string { return a.state(k) })
	case "attachment.delete-on-termination":
		return attached(func(a *attachment) string { return strconv.FormatBool(a.dies) })
	}
	return nil
}

// volumeLimits are of each type: size in GiB, IOPS, and IOPS a GiB.
var volumeLimits = map[string]struct{ minSize, maxSize, minIOPS, maxIOPS, ratio, freeIOPS int64 }{
	"gp2": {1, 16384, 0, 0, 0, 0}, "gp3": {1, 65536, 3000, 80000, 500, 3000}, "io1": {4, 16384, 100, 64000, 50, 0}, "io2": {4, 65536, 100, 256000, 1000, 0},
	"st1": {125, 16384, 0, 0, 0, 0}, "sc1": {125, 16384, 0, 0, 0, 0}, "standard": {1, 1024, 0, 0, 0, 0},
}

// newDisk checks what a call says of a volume. device is for messages, "" if there is none.
func (k *call) newDisk(device string, size *int64, kind string, iops, throughput *int64, encrypted *bool, key string, from *snapshot) (disk, error) {
	d := disk{kind: kind, snapshot: from}
	if d.kind == "" {
		d.kind = "gp2"
	}
	limit, ok := volumeLimits[d.kind]
	if !ok {
		return d, fail("InvalidParameterValue", "Invalid value '%s' for VolumeType%s. It must be gp2, gp3, io1, io2, st1, sc1 or standard", kind, device)
	}
	switch {
	case size != nil:
		d.size = *size
		if from != nil && d.size < from.size {
			return d, fail("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size>= %dGB", d.size, from.id, from.size)
		}
	case from != nil:
		d.size = from.size
	default:
		return d, fail("MissingParameter", "The request must contain the parameter size or snapshotId%s", device)
	}
	if d.size < limit.minSize || d.size > limit.maxSize {
		return d, fail("InvalidParameterValue", "Volume of %dGiB is invalid%s. %s volumes have a size between %d and %d GiB", d.size, device, d.kind, limit.minSize, limit.maxSize)
	}
	switch {
	case iops != nil && limit.maxIOPS == 0:
		return d, combination("The parameter iops is not supported for %s volumes.", d.kind)
	case iops == nil && limit.maxIOPS > 0 && limit.freeIOPS == 0:
		return d, fail("MissingParameter", "The parameter iops must be specified for %s volumes.", d.kind)
	case iops != nil && (*iops < limit.minIOPS || *iops > limit.maxIOPS):
		return d, fail("InvalidParameterValue", "Volume iops of %d is invalid; it must be between %d and %d for %s", *iops, limit.minIOPS, limit.maxIOPS, d.kind)
	case iops != nil && *iops > max(limit.freeIOPS, limit.ratio*d.size):
		return d, combination("Iops to volume size ratio of %d/%d is too high; maximum is %d", *iops, d.size, limit.ratio)
	}
	switch {
	case throughput != nil && d.kind != "gp3":
		return d, combination("The parameter throughput is not supported for %s volumes.", d.kind)
	case throughput != nil && (*throughput < 125 || *throughput > 2000):
		return d, fail("InvalidParameterValue", "Throughput of %d is invalid; it must be between 125 and 2000 MiB/s", *throughput)
	}
	d.iops, d.throughput = intOr(iops, limit.freeIOPS), intOr(throughput, 0)
	if d.kind == "gp2" {
		d.iops = min(16000, max(100, 3*d.size))
	}
	if d.kind == "gp3" && d.throughput == 0 {
		d.throughput = 125
	}
	return d, k.encrypt(&d, encrypted, key)
}

// encrypt decides whether a disk is encrypted, and with which key.
func (k *call) encrypt(d *disk, encrypted *bool, key string) error {
	if key != "" && !isTrue(encrypted) {
		return fail("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	}
	if encrypted != nil && !*encrypted && d.snapshot != nil && d.snapshot.encrypted {
		return fail("InvalidParameterValue", "Encrypted must not be false for a volume of the encrypted snapshot %s", d.snapshot.id)
	}
	d.encrypted = isTrue(encrypted) || k.encryptDefault || d.snapshot != nil && d.snapshot.encrypted
	if !d.encrypted {
		return nil
	}
	switch {
	case key == "" && d.snapshot != nil && d.snapshot.encrypted && d.snapshot.owner == k.account:
		d.key = d.snapshot.key
		d.keyReason = k.keyTrouble(d.key)
	case key == "":
		d.key = k.keyARN(k.defaultKey)
		d.keyReason = k.keyTrouble(d.key)
	default:
		d.key, d.keyReason = k.keyARN(key), k.keyTrouble(key)
	}
	if d.snapshot != nil && d.snapshot.encrypted && d.keyReason == "" {
		d.keyReason = k.keyTrouble(d.snapshot.key)
	}
	return nil
}

type attachmentItem struct {
	Volume   string `xml:"volumeId"`
	Instance string `xml:"instanceId"`
	Device   string `xml:"device"`
	State    string `xml:"status"`
	Since    string `xml:"attachTime"`
	Dies     bool   `xml:"deleteOnTermination"`
}

func (a *attachment) item(k *call) attachmentItem {
	return attachmentItem{a.volume.id, a.instance.id, a.device, a.state(k), a.since, a.dies}
}

type volumeItem struct {
	ID          string           `xml:"volumeId"`
	Size        int64            `xml:"size"`
	Snapshot    string           `xml:"snapshotId"`
	Zone        string           `xml:"availabilityZone"`
	State       string           `xml:"status"`
	Created     string           `xml:"createTime"`
	Type        string           `xml:"volumeType"`
	IOPS        int64            `xml:"iops,omitempty"`
	Throughput  int64            `xml:"throughput,omitempty"`
	Encrypted   bool             `xml:"encrypted"`
	Key         string           `xml:"kmsKeyId,omitempty"`
	Attachments []attachmentItem `xml:"attachmentSet>item"`
	Tags        []tagItem        `xml:"tagSet>item"`
}

func (k *call) volumeItem(v *volume) volumeItem {
	i := volumeItem{ID: v.id, Size: v.size, Snapshot: v.source, Zone: v.zone, State: v.state(k), Created: iso(v.born), Type: v.kind, IOPS: v.iops, Throughput: v.throughput,
		Encrypted: v.encrypted, Key: v.key, Tags: tagItems(v.tags)}
	if v.at != nil {
		i.Attachments = []attachmentItem{v.at.item(k)}
	} else if v.was != nil {
		i.Attachments = []attachmentItem{v.was.item(k)}
	}
	return i
}

func (k *call) createVolume(in *createVolumeRequest) (*volumeItem, error) {
	if in.AvailabilityZone == "" {
		return nil, missing("AvailabilityZone")
	}
	if !k.hasZone(in.AvailabilityZone) {
		return nil, fail("InvalidZone.NotFound", "The zone '%s' does not exist.", in.AvailabilityZone)
	}
	var from *snapshot
	if in.SnapshotId != "" {
		var err error
		if from, err = k.readableSnapshot(in.SnapshotId); err != nil {
			return nil, err
		}
	}
	d, err := k.newDisk("", in.Size, in.VolumeType, in.Iops, in.Throughput, in.Encrypted, in.KmsKeyId, from)
	if err != nil {
		return nil, err
	}
	tags, err := specified(in.TagSpecification, kindVolume)
	if err != nil {
		return nil, err
	}
	if !k.within(QuotaVolume, len(k.volumes.m)+1) {
		return nil, fail("VolumeLimitExceeded", "Maximum number of volumes is reached.")
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	v := k.addVolume(d, in.AvailabilityZone, tags["volume"])
	if d.keyReason != "" {
		v.line = append(v.line[:1], change{v.line.end(), "error"})
	}
	return ptr(k.volumeItem(v)), nil
}

func (k *call) addVolume(d disk, zone string, tags map[string]string) *volume {
	v := &volume{item: k.newItem(kindVolume, tags), disk: d, zone: zone, line: k.after("creating", k.o.Durations.Volume, "available")}
	if d.snapshot != nil {
		v.from, v.source = d.snapshot.content, d.snapshot.id
		v.snapshot = nil
	}
	k.volumes.m[v.id] = v
	return v
}

type describeVolumesResponse struct {
	Volumes   []volumeItem `xml:"volumeSet>item"`
	NextToken string       `xml:"nextToken,omitempty"`
}

func (k *call) describeVolumes(in *describeVolumesRequest) (*describeVolumesResponse, error) {
	list, err := find(k, k.volumes, in.VolumeId, in.Filter)
	if err != nil {
		return nil, err
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 1, kindVolume.max)
	if err != nil {
		return nil, err
	}
	out := &describeVolumesResponse{NextToken: next}
	for _, v := range list {
		out.Volumes = append(out.Volumes, k.volumeItem(v))
	}
	return out, nil
}

func (k *call) deleteVolume(in *deleteVolumeRequest) (*answered, error) {
	v, err := k.volumes.get(k, in.VolumeId)
	if err != nil {
		return nil, err
	}
	switch s := v.state(k); s {
	case "in-use":
		at := v.at
		if at == nil {
			at = v.was
		}
		return nil, fail("VolumeInUse", "Volume %s is currently attached to %s", v.id, at.instance.id)
	case "creating":
		return nil, fail("IncorrectState", "Volume %s is '%s'; it must be 'available' or 'error'", v.id, s)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	k.removeVolume(k.space, v)
	return done, nil
}

func (c *Cloud) removeVolume(s *space, v *volume) {
	delete(s.volumes.m, v.id)
	v.gone = true
	c.background(func() { c.report(v.drop()) })
}

func (k *call) attachVolume(in *attachVolumeRequest) (*attachmentItem, error) {
	v, err := k.volumes.get(k, in.VolumeId)
	if err != nil {
		return nil, err
	}
	i, err := k.instances.get(k, in.InstanceId)
	if err != nil {
		return nil, err
	}
	switch s := i.state(k.now()); {
	case in.Device == "":
		return nil, missing("device")
	case v.state(k) == "in-use":
		return nil, fail("VolumeInUse", "%s is already attached to an instance", v.id)
	case v.state(k) != "available":
		return nil, fail("IncorrectState", "%s is not 'available'.", v.id)
	case v.zone != i.zone:
		return nil, fail("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s'", v.id, i.id)
	case s != running && s != stopped:
		return nil, fail("IncorrectState", "Instance '%s' is not 'running' or 'stopped'.", i.id)
	case i.at(in.Device) != nil || i.detaching(k, in.Device):
		return nil, fail("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", in.Device, in.Device)
	case !devicePath.MatchString(in.Device):
		return nil, fail("InvalidParameterValue", "Value (%s) for parameter device is invalid. %s is not a valid EBS device name.", in.Device, in.Device)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	a := &attachment{volume: v, instance: i, device: in.Device, line: k.after("attaching", k.o.Durations.Attach, "attached"), since: iso(k.now())}
	v.at, v.was = a, nil
	i.disks = append(i.disks, a)
	i.changed = true
	if i.id == HostInstance {
		k.attachHere(a)
	}
	return ptr(a.item(k)), nil
}

func (k *call) detachVolume(in *detachVolumeRequest) (*attachmentItem, error) {
	v, err := k.volumes.get(k, in.VolumeId)
	if err != nil {
		return nil, err
	}
	a := v.at
	if a == nil || in.InstanceId != "" && in.InstanceId != a.instance.id || in.Device != "" && in.Device != a.device {
		return nil, fail("IncorrectState", "Volume '%s'is in the 'available' state.", v.id)
	}
	i := a.instance
	if a.device == i.rootDevice && i.state(k.now()) != stopped {
		return nil, fail("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s'", v.id, i.id)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	a.line = k.after("detaching", k.o.Durations.Attach, "detached")
	v.at, v.was = nil, a
	i.disks = slices.DeleteFunc(i.disks, func(o *attachment) bool { return o == a })
	i.changed = true
	if i.id == HostInstance {
		k.detachHere(a)
	}
	return ptr(a.item(k)), nil
}

type modificationItem struct {
	Volume   string `xml:"volumeId"`
	State    string `xml:"modificationState"`
	Progress int    `xml:"progress"`
	Start    string `xml:"startTime"`
	Size     int64  `xml:"targetSize"`
	Type     string `xml:"targetVolumeType"`
	IOPS     int64  `xml:"targetIops"`
	From     int64  `xml:"originalSize"`
}

type modifyVolumeResponse struct {
	Modification modificationItem `xml:"volumeModification"`
}

func (k *call) modifyVolume(in *modifyVolumeRequest) (*modifyVolumeResponse, error) {
	v, err := k.volumes.get(k, in.VolumeId)
	if err != nil {
		return nil, err
	}
	size, typ := intOr(in.Size, v.size), in.VolumeType
	if size < v.size {
		return nil, fail("InvalidParameterValue", "New size cannot be smaller than existing size")
	}
	iops, throughput := in.Iops, in.Throughput
	if typ == "" {
		typ = v.kind
		if iops == nil && (typ == "io1" || typ == "io2") {
			iops = &v.iops
		}
	}
	d, err := k.newDisk("", &size, typ, iops, throughput, nil, "", nil)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	grown := size != v.size && v.real != nil
	v.mu.Unlock()
	if grown {
		return nil, fail("UnsupportedOperation", "This emulator cannot resize %s any more: it has been used", v.id)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	from := v.size
	v.modified = k.now()
	v.size, v.kind, v.iops, v.throughput = size, d.kind, d.iops, d.throughput
	v.grew = from
	return &modifyVolumeResponse{v.modification()}, nil
}

func (v *volume) modification() modificationItem {
	return modificationItem{v.id, "completed", 100, iso(v.modified), v.size, v.kind, v.iops, v.grew}
}

type modificationsResponse struct {
	Modifications []modificationItem `xml:"volumeModificationSet>item"`
}

func (k *call) describeVolumesModifications(in *describeVolumesModificationsRequest) (*modificationsResponse, error) {
	list, err := find(k, k.volumes, in.VolumeId, in.Filter)
	if err != nil {
		return nil, err
	}
	out := &modificationsResponse{}
	for _, v := range list {
		if !v.modified.IsZero() {
			out.Modifications = append(out.Modifications, v.modification())
		} else if len(in.VolumeId) > 0 {
			return nil, fail("InvalidVolumeModification.NotFound", "Modification for volume '%s' does not exist.", v.id)
		}
	}
	return out, nil
}
