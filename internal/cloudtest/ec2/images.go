//go:build linux

package ec2

import (
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

type image struct {
	item
	owner, alias             string
	name, description        string
	arch, root               string
	platform                 string // "windows" or ""
	mappings                 []mapping
	line                     timeline
	busy                     bool
	reason                   string
	created                  time.Time
	public                   bool
	permissions              []launchPermission
	products                 []string
	deprecated               time.Time
	protection               string // disabled, enabled-without-cooldown, …
	disabled                 bool
	imds, tpm, boot          string
	ena                      bool
	sriov                    string
	sourceInstance           string
	sourceImage, sourceSpace string // and its region
	location                 string
	fast                     *fastLaunch
	content                  *content // of the root
}

// mapping is one device of an image.
type mapping struct {
	device, virtual string
	ebs             *ebsMapping
}

type ebsMapping struct {
	snapshot         string
	size             int64
	kind             string
	iops, throughput int64
	dies             bool
	encrypted        bool
	key              string
}

// request is the mapping as a launch would ask for it.
func (m mapping) request() blockDeviceMapping {
	e := &ebsBlockDevice{SnapshotId: m.ebs.snapshot, VolumeSize: &m.ebs.size, VolumeType: m.ebs.kind, DeleteOnTermination: &m.ebs.dies}
	if l := volumeLimits[m.ebs.kind]; l.maxIOPS > 0 && m.ebs.iops > 0 {
		e.Iops = ptr(m.ebs.iops)
	}
	if m.ebs.encrypted && m.ebs.snapshot == "" {
		e.Encrypted, e.KmsKeyId = ptr(true), m.ebs.key
	}
	if m.ebs.kind == "gp3" && m.ebs.throughput > 0 {
		e.Throughput = ptr(m.ebs.throughput)
	}
	return blockDeviceMapping{DeviceName: m.device, Ebs: e}
}

func (i *image) state(k *call) string {
	switch {
	case i.disabled:
		return "disabled"
	case i.busy || k.now().Before(i.line.end()):
		return "pending"
	case i.reason != "":
		return "failed"
	}
	return "available"
}

func (i *image) uses(snapshot string) bool {
	return slices.ContainsFunc(i.mappings, func(m mapping) bool { return m.ebs != nil && m.ebs.snapshot == snapshot })
}

func (i *image) details() string {
	if i.platform == "windows" {
		return "Windows"
	}
	return "Linux/UNIX"
}

func (i *image) launchable(account string) bool {
	return i.owner == account || i.public || slices.ContainsFunc(i.permissions, func(p launchPermission) bool { return p.UserId == account })
}

func (i *image) values(k *call, f string) []string {
	if strings.HasPrefix(f, "block-device-mapping.") {
		list := []string{}
		for _, m := range i.mappings {
			e := m.ebs
			if e == nil {
				e = &ebsMapping{}
			}
			v, ok := map[string]string{"device-name": m.device, "snapshot-id": e.snapshot, "volume-size": strconv.FormatInt(e.size, 10), "volume-type": e.kind,
				"delete-on-termination": strconv.FormatBool(e.dies), "encrypted": strconv.FormatBool(e.encrypted)}[strings.TrimPrefix(f, "block-device-mapping.")]
			if !ok {
				return nil
			}
			list = append(list, v)
		}
		return list
	}
	switch f {
	case "image-id":
		return str(i.id)
	case "name":
		return str(i.name)
	case "description":
		return str(i.description)
	case "owner-id":
		return str(i.owner)
	case "owner-alias":
		return str(i.alias)
	case "architecture":
		return str(i.arch)
	case "state":
		return str(i.state(k))
	case "root-device-type":
		return str("ebs")
	case "root-device-name":
		return str(i.root)
	case "virtualization-type":
		return str("hvm")
	case "hypervisor":
		return str("xen")
	case "image-type":
		return str("machine")
	case "is-public":
		return yes(i.public)
	case "ena-support":
		return yes(i.ena)
	case "sriov-net-support":
		return str(i.sriov)
	case "platform":
		return str(i.platform)
	case "platform-details":
		return str(i.details())
	case "creation-date":
		return str(iso(i.created))
	case "imds-support":
		return str(i.imds)
	case "source-instance-id":
		return str(i.sourceInstance)
	case "source-image-id":
		return str(i.sourceImage)
	case "source-image-region":
		return str(i.sourceSpace)
	case "manifest-location":
		return str(i.location)
	case "product-code":
		return slices.Clone(append([]string{}, i.products...))
	case "state-reason-code", "state-reason-message":
		return str(i.reason)
	case "kernel-id", "ramdisk-id", "product-code.type", "image-allowed":
		return []string{}
	}
	return nil
}

// addBase puts a base image into a space.
func (c *Cloud) addBase(s *space, b BaseImage, ct *content) {
	arch := b.Architecture
	if arch == "" {
		arch = map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH]
	}
	root, size := b.RootDevice, b.Size
	if root == "" {
		root = "/dev/xvda"
	}
	if size == 0 {
		size = 8
	}
	was := time.Now()
	sn := &snapshot{item: c.newItem(kindSnapshot, nil), owner: b.Owner, alias: b.Alias, volume: "vol-ffffffff", size: size, description: "of " + b.Name, line: timeline{{was, "completed"}}, content: ct, public: true}
	s.snapshots.m[sn.id] = sn
	i := &image{item: c.newItem(kindImage, maps.Clone(b.Tags)), owner: b.Owner, alias: b.Alias, name: b.Name, description: b.Description, arch: arch, root: root, line: timeline{{was, "available"}},
		created: b.Created, public: true, deprecated: b.Deprecated, protection: "disabled", ena: true, sriov: "simple", boot: "uefi-preferred", location: b.Owner + "/" + b.Name, content: ct,
		mappings: []mapping{{device: root, ebs: &ebsMapping{snapshot: sn.id, size: size, kind: "gp3", iops: 3000, throughput: 125, dies: true}}}}
	if b.Windows {
		i.platform = "windows"
	}
	s.images.m[i.id] = i
}

// seenImage finds an image of the caller's or one that is shared with the caller.
func (k *call) seenImage(id string) (*image, bool) {
	for _, sp := range k.here(k.regionName) {
		if i, ok := sp.images.m[id]; ok && i.launchable(k.account) {
			return i, true
		}
	}
	return nil, false
}

func (k *call) snapshotAnywhere(id string) (*snapshot, bool) {
	for _, sp := range k.here(k.regionName) {
		if s, ok := sp.snapshots.m[id]; ok {
			return s, true
		}
	}
	return nil, false
}

func (k *call) launchableImage(id string) (*image, error) {
	if err := kindImage.check(id); err != nil {
		return nil, err
	}
	i, ok := k.seenImage(id)
	if !ok || !k.visible(&i.item, true) {
		return nil, fail(kindImage.absent, "The image id '[%s]' does not exist", id)
	}
	if s := i.state(k); s != "available" {
		return nil, fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available (state %s)", id, s)
	}
	return i, nil
}

// ownImage finds one of the caller's own.
func (k *call) ownImage(id string) (*image, error) {
	if id == "" {
		return nil, missing("ImageId")
	}
	i, err := k.images.get(k, id)
	if err == nil {
		return i, nil
	}
	if _, ok := k.seenImage(id); ok {
		return nil, fail("AuthFailure", "Not authorized for image:%s", id)
	}
	return nil, err
}

var imageName = regexp.MustCompile(`^[a-zA-Z0-9()\[\] ./\-'@_]{3,128}$`)

func (k *call) newImageName(name string) error {
	if name == "" {
		return missing("name")
	}
	if !imageName.MatchString(name) {
		return fail("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'")
	}
	n := 1
	for _, i := range k.images.m {
		n++
		if i.name == name {
			return fail("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", name, i.id)
		}
	}
	if !k.within(QuotaImages, n) {
		return fail("AMIQuotaExceeded", "The AMI quota of %d has been reached", k.quotas[QuotaImages])
	}
	return nil
}

type createImageResponse struct {
	ID string `xml:"imageId"`
}

func (k *call) createImage(in *createImageRequest) (*createImageResponse, error) {
	if in.InstanceId == "" {
		return nil, missing("InstanceId")
	}
	if err := k.newImageName(in.Name); err != nil {
		return nil, err
	}
	if len(in.Description) > 255 {
		return nil, invalid("Description", "it is longer than 255 characters")
	}
	tags, err := specified(in.TagSpecification, kindImage, kindSnapshot)
	if err != nil {
		return nil, err
	}
	i, err := k.instances.get(k, in.InstanceId)
	if err != nil {
		return nil, err
	}
	s := i.state(k.now())
	if s != running && s != stopped && s != stopping {
		return nil, fail("InvalidParameterValue", "Instance is not in state 'running' or 'stopped' (%s is %s)", i.id, s)
	}
	if i.at(i.rootDevice) == nil {
		return nil, fail("IncorrectState", "Instance '%s' has no root volume", i.id)
	}
	drop := map[string]bool{}
	change := map[string]*ebsBlockDevice{}
	var blank []mapping
	for _, m := range in.BlockDeviceMapping {
		switch {
		case m.DeviceName == "":
			return nil, missing("deviceName")
		case !devicePath.MatchString(m.DeviceName):
			return nil, fail("InvalidBlockDeviceMapping", "Invalid device name %s", m.DeviceName)
		case m.Ebs == nil && m.VirtualName == "":
			drop[m.DeviceName] = true
		case m.Ebs == nil:
			blank = append(blank, mapping{device: m.DeviceName, virtual: m.VirtualName})
		case m.Ebs.Encrypted != nil:
			return nil, fail("InvalidBlockDeviceMapping", "the encrypted flag cannot be specified since device %s has a snapshot specified.", m.DeviceName)
		case i.at(m.DeviceName) != nil:
			if m.Ebs.SnapshotId != "" {
				return nil, fail("InvalidBlockDeviceMapping", "The snapshot of device %s is made by this call", m.DeviceName)
			}
			change[m.DeviceName] = m.Ebs
		default:
			b, err := k.registered(m)
			if err != nil {
				return nil, err
			}
			blank = append(blank, b)
		}
	}
	if drop[i.rootDevice] {
		return nil, fail("InvalidBlockDeviceMapping", "The root device %s cannot be left out", i.rootDevice)
	}
	var disks []*attachment
	for _, a := range i.disks {
		if drop[a.device] {
			continue
		}
		if e := change[a.device]; e != nil && e.VolumeSize != nil && *e.VolumeSize < a.volume.size {
			return nil, fail("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than the volume at %s, expect size>= %dGB", *e.VolumeSize, a.device, a.volume.size)
		}
		disks = append(disks, a)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	img := k.addImage(in.Name, in.Description, tags["image"], k.o.Durations.Image)
	img.arch, img.root, img.platform, img.ena, img.sriov, img.boot = i.image.arch, i.rootDevice, i.image.platform, i.ena, i.sriov, i.image.boot
	img.imds, img.tpm, img.products = i.image.imds, i.image.tpm, slices.Clone(i.image.products)
	img.sourceInstance = i.id
	img.sourceImage, img.sourceSpace = i.image.id, k.regionName
	img.reason = k.doomed(k.action, in.Name)
	img.busy = true
	phase := k.phase("image", img.item)
	var list []*snapshot
	var volumes []*volume
	for _, a := range disks {
		sn := k.snap(a.volume, fmt.Sprintf("Created by CreateImage(%s) for %s", i.id, img.id), "", img.line, maps.Clone(tags["snapshot"]))
		list, volumes = append(list, sn), append(volumes, a.volume)
		e := &ebsMapping{sn.id, a.volume.size, a.volume.kind, a.volume.iops, a.volume.throughput, a.dies, a.volume.encrypted, a.volume.key}
		if c := change[a.device]; c != nil {
			e.size = intOr(c.VolumeSize, e.size)
			if c.VolumeType != "" {
				e.kind = c.VolumeType
			}
			e.iops, e.throughput = intOr(c.Iops, e.iops), intOr(c.Throughput, e.throughput)
			if c.DeleteOnTermination != nil {
				e.dies = *c.DeleteOnTermination
			}
		}
		img.mappings = append(img.mappings, mapping{device: a.device, ebs: e})
	}
	img.mappings = append(img.mappings, blank...)
	c := k.Cloud
	take := func() {
		for n, sn := range list {
			c.fill(sn, volumes[n])
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		img.busy = false
		phase.over(c.now(), img.line.end())
		for n, sn := range list {
			if sn.reason != "" && img.reason == "" {
				img.reason = sn.reason
			}
			if volumes[n] == disks[0].volume || disks[n].device == img.root {
				img.content = sn.content
			}
		}
	}
	switch {
	case s == running && !isTrue(in.NoReboot):
		k.restart(i, take)
	default:
		k.then(i, func() error { take(); return nil })
	}
	return &createImageResponse{img.id}, nil
}

// addImage makes an image of the caller's that is pending for a while.
func (k *call) addImage(name, description string, tags map[string]string, d time.Duration) *image {
	i := &image{item: k.newItem(kindImage, maps.Clone(tags)), owner: k.account, name: name, description: description, line: k.after("pending", d, "available"), created: k.now(),
		protection: "disabled", location: k.account + "/" + name}
	k.images.m[i.id] = i
	return i
}

// registered reads a mapping of RegisterImage.
func (k *call) registered(m blockDeviceMapping) (mapping, error) {
	if m.DeviceName == "" {
		return mapping{}, missing("deviceName")
	}
	if !devicePath.MatchString(m.DeviceName) {
		return mapping{}, fail("InvalidBlockDeviceMapping", "Invalid device name %s", m.DeviceName)
	}
	if m.Ebs == nil {
		return mapping{device: m.DeviceName, virtual: m.VirtualName}, nil
	}
	var from *snapshot
	if m.Ebs.SnapshotId != "" {
		var err error
		if from, err = k.readableSnapshot(m.Ebs.SnapshotId); err != nil {
			return mapping{}, err
		}
		if m.Ebs.Encrypted != nil {
			return mapping{}, combination("the encrypted flag cannot be specified since device %s has a snapshot specified.", m.DeviceName)
		}
	}
	d, err := k.newDisk(" for device "+m.DeviceName, m.Ebs.VolumeSize, m.Ebs.VolumeType, m.Ebs.Iops, m.Ebs.Throughput, m.Ebs.Encrypted, m.Ebs.KmsKeyId, from)
	if err != nil {
		return mapping{}, err
	}
	dies := true
	if m.Ebs.DeleteOnTermination != nil {
		dies = *m.Ebs.DeleteOnTermination
	}
	return mapping{device: m.DeviceName, ebs: &ebsMapping{m.Ebs.SnapshotId, d.size, d.kind, d.iops, d.throughput, dies, d.encrypted, d.key}}, nil
}

func (k *call) registerImage(in *registerImageRequest) (*createImageResponse, error) {
	if err := k.newImageName(in.Name); err != nil {
		return nil, err
	}
	tags, err := specified(in.TagSpecification, kindImage, kindSnapshot)
	if err != nil {
		return nil, err
	}
	arch := in.Architecture
	if arch == "" {
		arch = "i386"
	}
	switch {
	case in.ImageLocation != "":
		return nil, fail("UnsupportedOperation", "This emulator registers no images of manifests in S3")
	case !slices.Contains([]string{"x86_64", "arm64", "i386"}, arch):
		return nil, invalid("Architecture", "%q", in.Architecture)
	case in.RootDeviceName == "":
		return nil, missing("rootDeviceName")
	case len(in.BlockDeviceMapping) == 0:
		return nil, missing("blockDeviceMapping")
	case in.VirtualizationType == "" || in.VirtualizationType == "paravirtual":
		if in.EnaSupport != nil && *in.EnaSupport || in.SriovNetSupport != "" {
			return nil, combination("Enhanced networking needs the virtualization type 'hvm'")
		}
		if in.KernelId == "" {
			return nil, fail("UnsupportedOperation", "This emulator has no paravirtual machines; virtualizationType hvm is needed")
		}
	case in.VirtualizationType != "hvm":
		return nil, invalid("VirtualizationType", "%q", in.VirtualizationType)
	case in.SriovNetSupport != "" && in.SriovNetSupport != "simple":
		return nil, invalid("SriovNetSupport", "%q", in.SriovNetSupport)
	case in.ImdsSupport != "" && in.ImdsSupport != "v2.0":
		return nil, invalid("ImdsSupport", "%q is not v2.0", in.ImdsSupport)
	case !slices.Contains([]string{"", "legacy-bios", "uefi", "uefi-preferred"}, in.BootMode):
		return nil, invalid("BootMode", "%q", in.BootMode)
	case in.TpmSupport != "" && (in.TpmSupport != "v2.0" || in.BootMode != "uefi"):
		return nil, combination("TpmSupport v2.0 needs the boot mode uefi")
	case in.UefiData != "" && in.BootMode != "uefi" && in.BootMode != "uefi-preferred":
		return nil, combination("UefiData needs the boot mode uefi")
	}
	var list []mapping
	var root *snapshot
	seen := map[string]bool{}
	for _, m := range in.BlockDeviceMapping {
		if seen[m.DeviceName] {
			return nil, fail("InvalidBlockDeviceMapping", "The device '%s' is used in more than one block-device mapping", m.DeviceName)
		}
		seen[m.DeviceName] = true
		r, err := k.registered(m)
		if err != nil {
			return nil, err
		}
		if r.device == in.RootDeviceName && r.ebs != nil && r.ebs.snapshot != "" {
			if root, err = k.readableSnapshot(r.ebs.snapshot); err != nil {
				return nil, err
			}
			r.ebs.encrypted, r.ebs.key = root.encrypted, root.key
		}
		list = append(list, r)
	}
	if root == nil {
		return nil, fail("InvalidBlockDeviceMapping", "Root device name '%s' has no snapshot mapped to it", in.RootDeviceName)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	i := k.addImage(in.Name, in.Description, tags["image"], k.o.Durations.Image)
	i.arch, i.root, i.mappings, i.ena, i.sriov = arch, in.RootDeviceName, list, isTrue(in.EnaSupport), in.SriovNetSupport
	i.boot, i.tpm, i.imds, i.products, i.content = in.BootMode, in.TpmSupport, in.ImdsSupport, nil, root.content
	i.reason = k.doomed(k.action, in.Name)
	return &createImageResponse{i.id}, nil
}

func (k *call) copyImage(in *copyImageRequest) (*createImageResponse, error) {
	switch {
	case in.SourceRegion == "":
		return nil, missing("SourceRegion")
	case in.SourceImageId == "":
		return nil, missing("SourceImageId")
	}
	if err := k.newImageName(in.Name); err != nil {
		return nil, err
	}
	from, err := k.elsewhere(in.SourceRegion)
	if err != nil {
		return nil, err
	}
	tags, err := specified(in.TagSpecification, kindImage, kindSnapshot)
	if err != nil {
		return nil, err
	}
	if err := kindImage.check(in.SourceImageId); err != nil {
		return nil, err
	}
	src, ok := from.seenImage(in.SourceImageId)
	switch {
	case !ok || !from.visible(&src.item, true):
		return nil, fail("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", in.SourceImageId)
	case src.state(from) != "available":
		return nil, fail("InvalidRequest", "Image %s in %s is not in the state 'available' but '%s'", src.id, in.SourceRegion, src.state(from))
	}
	if m := in.SnapshotCopyCompletionDurationMinutes; m != nil && (*m < 15 || *m > 2880 || *m%15 != 0) {
		return nil, invalid("SnapshotCopyCompletionDurationMinutes", "%d is no multiple of 15 up to 2880", *m)
	}
	copies := 1
	for _, i := range k.images.m {
		if i.sourceImage != "" && i.sourceInstance == "" && i.state(k) == "pending" {
			copies++
		}
	}
	if !k.within(QuotaCopies, copies) {
		return nil, fail("ResourceLimitExceeded", "The concurrent copy limit of %d has been reached", k.quotas[QuotaCopies])
	}
	if in.KmsKeyId != "" && !isTrue(in.Encrypted) {
		return nil, fail("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	}
	for _, m := range src.mappings {
		if m.ebs != nil && m.ebs.encrypted && in.Encrypted != nil && !*in.Encrypted {
			return nil, fail("InvalidRequest", "The image %s is encrypted: a copy of it cannot be unencrypted", src.id)
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	imageTags := maps.Clone(tags["image"])
	if isTrue(in.CopyImageTags) && src.owner == k.account {
		all := maps.Clone(src.tags)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, imageTags)
		imageTags = all
	}
	i := k.addImage(in.Name, in.Description, imageTags, k.o.Durations.Copy)
	i.arch, i.root, i.platform, i.ena, i.sriov, i.boot, i.tpm, i.imds = src.arch, src.root, src.platform, src.ena, src.sriov, src.boot, src.tpm, src.imds
	i.sourceImage, i.sourceSpace = src.id, in.SourceRegion
	k.phase("copy", i.item).over(k.now(), i.line.end())
	i.content = src.content
	i.reason = k.doomed(k.action, in.Name)
	if in.Description == "" {
		i.description = "[Copied " + src.id + " from " + in.SourceRegion + "] " + src.description
	}
	for _, m := range src.mappings {
		c := mapping{device: m.device, virtual: m.virtual}
		if m.ebs != nil {
			e := *m.ebs
			if s, ok := from.snapshotAnywhere(e.snapshot); ok {
				d := disk{}
				_ = k.encrypt(&d, in.Encrypted, in.KmsKeyId) // its only error was asked for above
				if s.encrypted && in.KmsKeyId == "" {
					d.encrypted, d.key = true, k.keyARN(k.defaultKey)
				}
				sn := k.copied(s, d, fmt.Sprintf("Copied for DestinationAmi %s from SourceAmi %s for SourceSnapshot %s.", i.id, src.id, s.id), "", maps.Clone(tags["snapshot"]))
				e.snapshot, e.encrypted, e.key = sn.id, sn.encrypted, sn.key
				if sn.reason != "" && i.reason == "" {
					i.reason = sn.reason
				}
			}
			c.ebs = &e
		}
		i.mappings = append(i.mappings, c)
	}
	return &createImageResponse{i.id}, nil
}

type deregisterImageResponse struct {
	answered
	Results []deletedSnapshot `xml:"deleteSnapshotResultSet>item"`
}

type deletedSnapshot struct {
	ID   string `xml:"snapshotId"`
	Code string `xml:"returnCode"`
}

func (k *call) deregisterImage(in *deregisterImageRequest) (*deregisterImageResponse, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	if i.protection != "disabled" {
		return nil, fail("OperationNotPermitted", "The image %s is protected from deregistration. To deregister it, first disable deregistration protection.", i.id)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	delete(k.images.m, i.id)
	out := &deregisterImageResponse{answered: *done}
	if isTrue(in.DeleteAssociatedSnapshots) {
		for _, m := range i.mappings {
			if m.ebs == nil || m.ebs.snapshot == "" {
				continue
			}
			code := "success"
			for _, o := range k.images.m {
				if o.uses(m.ebs.snapshot) {
					code = "skipped"
				}
			}
			if _, own := k.snapshots.m[m.ebs.snapshot]; !own {
				code = "missing-permissions"
			}
			if code == "success" {
				delete(k.snapshots.m, m.ebs.snapshot)
			}
			out.Results = append(out.Results, deletedSnapshot{m.ebs.snapshot, code})
		}
	}
	return out, nil
}

type mappingItem struct {
	Device  string   `xml:"deviceName"`
	Virtual string   `xml:"virtualName,omitempty"`
	EBS     *ebsItem `xml:"ebs"`
}

type ebsItem struct {
	Snapshot   string `xml:"snapshotId,omitempty"`
	Size       int64  `xml:"volumeSize"`
	Dies       bool   `xml:"deleteOnTermination"`
	Type       string `xml:"volumeType"`
	IOPS       int64  `xml:"iops,omitempty"`
	Throughput int64  `xml:"throughput,omitempty"`
	Encrypted  bool   `xml:"encrypted"`
	Key        string `xml:"kmsKeyId,omitempty"`
}

type imageItem struct {
	ID             string        `xml:"imageId"`
	Location       string        `xml:"imageLocation"`
	State          string        `xml:"imageState"`
	Owner          string        `xml:"imageOwnerId"`
	Alias          string        `xml:"imageOwnerAlias,omitempty"`
	Public         bool          `xml:"isPublic"`
	Products       []productItem `xml:"productCodes>item"`
	Architecture   string        `xml:"architecture"`
	Type           string        `xml:"imageType"`
	Platform       string        `xml:"platform,omitempty"`
	Details        string        `xml:"platformDetails"`
	Usage          string        `xml:"usageOperation"`
	Name           string        `xml:"name"`
	Description    string        `xml:"description,omitempty"`
	RootType       string        `xml:"rootDeviceType"`
	Root           string        `xml:"rootDeviceName"`
	Mappings       []mappingItem `xml:"blockDeviceMapping>item"`
	Virtual        string        `xml:"virtualizationType"`
	Hypervisor     string        `xml:"hypervisor"`
	ENA            bool          `xml:"enaSupport,omitempty"`
	Sriov          string        `xml:"sriovNetSupport,omitempty"`
	Boot           string        `xml:"bootMode,omitempty"`
	TPM            string        `xml:"tpmSupport,omitempty"`
	IMDS           string        `xml:"imdsSupport,omitempty"`
	Created        string        `xml:"creationDate"`
	Deprecated     string        `xml:"deprecationTime,omitempty"`
	Protection     string        `xml:"deregistrationProtection,omitempty"`
	SourceInstance string        `xml:"sourceInstanceId,omitempty"`
	SourceImage    string        `xml:"sourceImageId,omitempty"`
	SourceRegion   string        `xml:"sourceImageRegion,omitempty"`
	StateReason    *reasonItem   `xml:"stateReason"`
	Tags           []tagItem     `xml:"tagSet>item"`
}

type productItem struct {
	Code string `xml:"productCode"`
	Type string `xml:"type"`
}

func (k *call) imageItem(i *image) imageItem {
	o := imageItem{ID: i.id, Location: i.location, State: i.state(k), Owner: i.owner, Alias: i.alias, Public: i.public, Architecture: i.arch, Type: "machine", Platform: i.platform, Details: i.details(),
		Usage: "RunInstances", Name: i.name, Description: i.description, RootType: "ebs", Root: i.root, Virtual: "hvm", Hypervisor: "xen", ENA: i.ena, Sriov: i.sriov, Boot: i.boot, TPM: i.tpm, IMDS: i.imds,
		Created: iso(i.created), SourceInstance: i.sourceInstance, SourceImage: i.sourceImage, SourceRegion: i.sourceSpace}
	if !i.deprecated.IsZero() {
		o.Deprecated = iso(i.deprecated)
	}
	if i.owner == k.account {
		o.Tags, o.Protection = tagItems(i.tags), i.protection
	}
	for _, p := range i.products {
		o.Products = append(o.Products, productItem{p, "marketplace"})
	}
	if o.State == "failed" {
		o.StateReason = &reasonItem{"Client.InternalError", i.reason}
		if p := reasonParts.FindStringSubmatch(i.reason); p != nil {
			o.StateReason = &reasonItem{p[1], i.reason}
		}
	}
	for _, m := range i.mappings {
		t := mappingItem{Device: m.device, Virtual: m.virtual}
		if e := m.ebs; e != nil {
			t.EBS = &ebsItem{e.snapshot, e.size, e.dies, e.kind, 0, 0, e.encrypted, ""}
			if volumeLimits[e.kind].maxIOPS > 0 {
				t.EBS.IOPS, t.EBS.Throughput = e.iops, e.throughput
			}
		}
		o.Mappings = append(o.Mappings, t)
	}
	return o
}

type describeImagesResponse struct {
	Images    []imageItem `xml:"imagesSet>item"`
	NextToken string      `xml:"nextToken,omitempty"`
}

func (k *call) describeImages(in *describeImagesRequest) (*describeImagesResponse, error) {
	if len(in.ImageId) > 0 && in.MaxResults != nil {
		return nil, combination("The parameter imageIdsSet cannot be used with the parameter maxResults")
	}
	list, err := k.images.findIn(k, in.ImageId, in.Filter, k.seenImage, func() []*image {
		var all []*image
		for _, sp := range k.here(k.regionName) {
			for _, i := range sp.images.all() {
				if i.launchable(k.account) {
					all = append(all, i)
				}
			}
		}
		return all
	})
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(i *image) bool {
		switch {
		case !k.ownedBy(in.Owner, i.owner, i.alias):
			return true
		case i.disabled && !isTrue(in.IncludeDisabled) && len(in.ImageId) == 0:
			return true
		case len(in.ImageId) > 0 || isTrue(in.IncludeDeprecated) || i.owner == k.account || i.deprecated.IsZero():
		case k.now().After(i.deprecated):
			return true
		}
		return !k.executable(in.ExecutableBy, i)
	})
	list, next, err := page(list, in.MaxResults, in.NextToken, 1, kindImage.max)
	if err != nil {
		return nil, err
	}
	out := &describeImagesResponse{NextToken: next}
	for _, i := range list {
		out.Images = append(out.Images, k.imageItem(i))
	}
	return out, nil
}

func (k *call) executable(by []string, i *image) bool {
	if len(by) == 0 {
		return true
	}
	for _, b := range by {
		if b == "all" && i.public {
			return true
		}
		who := b
		if b == "self" {
			who = k.account
		}
		if slices.ContainsFunc(i.permissions, func(p launchPermission) bool { return p.UserId == who }) {
			return true
		}
	}
	return false
}

var accountID = regexp.MustCompile(`^[0-9]{12}$`)

func (k *call) modifyImageAttribute(in *modifyImageAttributeRequest) (*answered, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	var add, remove, list []launchPermission
	if m := in.LaunchPermission; m != nil {
		add, remove = m.Add, m.Remove
	}
	for _, v := range in.UserId {
		list = append(list, launchPermission{UserId: v})
	}
	for _, v := range in.UserGroup {
		list = append(list, launchPermission{Group: v})
	}
	for _, v := range in.OrganizationArn {
		list = append(list, launchPermission{OrganizationArn: v})
	}
	for _, v := range in.OrganizationalUnitArn {
		list = append(list, launchPermission{OrganizationalUnitArn: v})
	}
	switch in.OperationType {
	case "add":
		add = append(add, list...)
	case "remove":
		remove = append(remove, list...)
	default:
		// The SDK's launchPermission together with userId is what plug-ins send.
		if len(list) > 0 && in.LaunchPermission == nil {
			return nil, invalid("OperationType", "%q is neither add nor remove", in.OperationType)
		}
	}
	if in.Attribute == "description" && in.Description == nil {
		in.Description = &attributeValue{in.Value}
	}
	given := 0
	for _, is := range []bool{len(add)+len(remove) > 0, in.Description != nil, in.ImdsSupport != nil, len(in.ProductCode) > 0} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return nil, combination("No attributes specified.")
	case given > 1:
		return nil, combination("Fields for multiple attribute types specified")
	case in.ImdsSupport != nil && in.ImdsSupport.Value != "v2.0":
		return nil, invalid("ImdsSupport", "%q is not v2.0", in.ImdsSupport.Value)
	case i.state(k) == "pending" && len(add) > 0:
		return nil, fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available", i.id)
	case in.Description != nil && len(in.Description.Value) > 255:
		return nil, invalid("Description", "it is longer than 255 characters")
	}
	for _, p := range add {
		switch {
		case p.Group != "" && p.Group != "all":
			return nil, fail("InvalidAMIAttributeItemValue", "Invalid attribute item value %q for userGroup item type.", p.Group)
		case p.UserId != "" && !accountID.MatchString(p.UserId):
			return nil, fail("InvalidAMIAttributeItemValue", "Invalid attribute item value %q for userId item type.", p.UserId)
		case p.OrganizationArn != "" && !strings.HasPrefix(p.OrganizationArn, "arn:aws:organizations::"):
			return nil, fail("InvalidAMIAttributeItemValue", "Invalid attribute item value %q for organizationArn item type.", p.OrganizationArn)
		case p.OrganizationalUnitArn != "" && !strings.HasPrefix(p.OrganizationalUnitArn, "arn:aws:organizations::"):
			return nil, fail("InvalidAMIAttributeItemValue", "Invalid attribute item value %q for organizationalUnitArn item type.", p.OrganizationalUnitArn)
		}
		for _, m := range i.mappings {
			switch {
			case m.ebs == nil || !m.ebs.encrypted:
			case p.Group != "":
				return nil, combination("Snapshot %s is encrypted: an image of it cannot be public", m.ebs.snapshot)
			case k.isDefaultKey(m.ebs.key):
				return nil, fail("InvalidParameter", "Snapshots encrypted with the AWS Managed CMK can't be shared. Specify another snapshot.")
			}
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	for _, p := range add {
		if p.Group != "" {
			i.public = true
		} else if !slices.Contains(i.permissions, p) {
			i.permissions = append(i.permissions, p)
		}
	}
	for _, p := range remove {
		if p.Group != "" {
			i.public = false
		}
		i.permissions = slices.DeleteFunc(i.permissions, func(o launchPermission) bool { return o == p })
	}
	if in.Description != nil {
		i.description = in.Description.Value
	}
	if in.ImdsSupport != nil {
		i.imds = in.ImdsSupport.Value
	}
	i.products = append(i.products, in.ProductCode...)
	return done, nil
}

func (k *call) resetImageAttribute(in *resetImageAttributeRequest) (*answered, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	if in.Attribute != "launchPermission" {
		return nil, invalid("Attribute", "only launchPermission can be reset")
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	i.public, i.permissions = false, nil
	return done, nil
}

type describeImageAttributeResponse struct {
	ID          string           `xml:"imageId"`
	Description *stringAttribute `xml:"description"`
	IMDS        *stringAttribute `xml:"imdsSupport"`
	Boot        *stringAttribute `xml:"bootMode"`
	Protection  *stringAttribute `xml:"deregistrationProtection"`
	Sriov       *stringAttribute `xml:"sriovNetSupport"`
	TPM         *stringAttribute `xml:"tpmSupport"`
	Permissions []permissionItem `xml:"launchPermission>item"`
	Products    []productItem    `xml:"productCodes>item"`
	Mappings    []mappingItem    `xml:"blockDeviceMapping>item"`
}

func (k *call) describeImageAttribute(in *describeImageAttributeRequest) (*describeImageAttributeResponse, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	out := &describeImageAttributeResponse{ID: i.id}
	text := func(s string) *stringAttribute { return &stringAttribute{s} }
	switch in.Attribute {
	case "description":
		out.Description = text(i.description)
	case "imdsSupport":
		out.IMDS = text(i.imds)
	case "bootMode":
		out.Boot = text(i.boot)
	case "deregistrationProtection":
		out.Protection = text(i.protection)
	case "sriovNetSupport":
		out.Sriov = text(i.sriov)
	case "tpmSupport":
		out.TPM = text(i.tpm)
	case "launchPermission":
		if i.public {
			out.Permissions = append(out.Permissions, permissionItem{Group: "all"})
		}
		for _, p := range i.permissions {
			out.Permissions = append(out.Permissions, permissionItem{p.UserId, p.Group, p.OrganizationArn, p.OrganizationalUnitArn})
		}
	case "productCodes":
		out.Products = k.imageItem(i).Products
	case "blockDeviceMapping":
		out.Mappings = k.imageItem(i).Mappings
	default:
		return nil, invalid("Attribute", "this emulator does not describe %q", in.Attribute)
	}
	return out, nil
}

func (k *call) enableImageDeprecation(in *enableImageDeprecationRequest) (*answered, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	if in.DeprecateAt == "" {
		return nil, missing("DeprecateAt")
	}
	at, err := time.Parse(time.RFC3339, in.DeprecateAt)
	if err != nil {
		return nil, invalid("DeprecateAt", "%q is no time", in.DeprecateAt)
	}
	if at.Before(k.now()) {
		return nil, invalid("DeprecateAt", "%s is in the past", in.DeprecateAt)
	}
	if at.After(k.now().AddDate(10, 0, 0)) {
		return nil, invalid("DeprecateAt", "%s is more than 10 years from now", in.DeprecateAt)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	i.deprecated = at.Round(time.Minute)
	return done, nil
}

func (k *call) disableImageDeprecation(in *disableImageDeprecationRequest) (*answered, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	i.deprecated = time.Time{}
	return done, nil
}

type protectionResponse struct {
	Return string `xml:"return"`
}

func (k *call) enableImageDeregistrationProtection(in *enableImageDeregistrationProtectionRequest) (*protectionResponse, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	i.protection = "enabled-without-cooldown"
	if isTrue(in.WithCooldown) {
		i.protection = "enabled-with-cooldown"
	}
	return &protectionResponse{"true"}, nil
}

func (k *call) disableImageDeregistrationProtection(in *disableImageDeregistrationProtectionRequest) (*protectionResponse, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	if i.protection == "enabled-with-cooldown" {
		i.protection = "disabled after cooldown"
	} else if i.protection != "disabled after cooldown" {
		i.protection = "disabled"
	}
	return &protectionResponse{"true"}, nil
}

func (k *call) disableImage(in *disableImageRequest) (*answered, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	i.disabled, i.public, i.permissions = true, false, nil
	return done, nil
}

func (k *call) enableImage(in *enableImageRequest) (*answered, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	i.disabled = false
	return done, nil
}
