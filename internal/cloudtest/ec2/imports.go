//go:build linux

package ec2

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// importTask makes an image of a disk in S3.
type importTask struct {
	item
	line        timeline
	description string
	image       *image
	format      string
	reason      string
	cancelled   bool
	busy        bool
}

func (t *importTask) values(k *call, f string) []string {
	if f == "task-state" {
		return str(t.state(k))
	}
	return nil
}

func (t *importTask) state(k *call) string {
	switch {
	case t.cancelled:
		return "deleted"
	case t.busy || k.now().Before(t.line.end()):
		return "active"
	case t.reason != "":
		return "deleted"
	}
	return "completed"
}

type importItem struct {
	ID           string         `xml:"importTaskId"`
	Architecture string         `xml:"architecture,omitempty"`
	Description  string         `xml:"description,omitempty"`
	Image        string         `xml:"imageId,omitempty"`
	Progress     string         `xml:"progress,omitempty"`
	Status       string         `xml:"status"`
	Message      string         `xml:"statusMessage,omitempty"`
	Details      []importDetail `xml:"snapshotDetailSet>item"`
	Tags         []tagItem      `xml:"tagSet>item"`
}

type importDetail struct {
	Format   string `xml:"format"`
	Snapshot string `xml:"snapshotId,omitempty"`
	Status   string `xml:"status"`
}

func (k *call) importItem(t *importTask) importItem {
	i := importItem{ID: t.id, Description: t.description, Status: t.state(k), Tags: tagItems(t.tags), Details: []importDetail{{t.format, "", "active"}}}
	switch i.Status {
	case "active":
		i.Message, i.Progress = "converting", "28"
	case "completed":
		// The image is the account's only from here on.
		if t.image != nil {
			i.Image, i.Architecture = t.image.id, t.image.arch
			i.Details = []importDetail{{t.format, t.image.mappings[0].ebs.snapshot, "completed"}}
		}
	case "deleted":
		i.Message = t.reason
	}
	return i
}

var importFormats = []string{"ova", "raw", "vmdk", "vhd", "vhdx"}

func (k *call) importImage(in *importImageRequest) (*importItem, error) {
	tags, err := specified(in.TagSpecification, kindImport)
	if err != nil {
		return nil, err
	}
	if len(in.DiskContainer) != 1 {
		return nil, fail("InvalidParameter", "This emulator imports one disk, not %d", len(in.DiskContainer))
	}
	d := in.DiskContainer[0]
	format := strings.ToLower(d.Format)
	roleName := in.RoleName
	if roleName == "" {
		roleName = "vmimport"
	}
	switch {
	case d.UserBucket == nil || d.UserBucket.S3Bucket == "" || d.UserBucket.S3Key == "":
		return nil, missing("DiskContainer.1.UserBucket")
	case !slices.Contains(importFormats, format):
		return nil, fail("InvalidParameter", "Unknown disk image format %q: it is none of %s", d.Format, strings.Join(importFormats, ", "))
	case in.KmsKeyId != "" && !isTrue(in.Encrypted):
		return nil, fail("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	case in.BootMode != "" && !slices.Contains([]string{"legacy-bios", "uefi", "uefi-preferred"}, in.BootMode):
		return nil, fail("InvalidParameter", "Unknown boot mode %q", in.BootMode)
	case k.accountOf(k.account).roles[roleName] == nil:
		return nil, fail("InvalidParameter", "The service role %s provided does not exist or does not have sufficient permissions", roleName)
	}
	file, err := k.objectFile(d.UserBucket.S3Bucket, d.UserBucket.S3Key)
	if err != nil {
		return nil, fail("InvalidParameter", "The given S3 object is not local to the region or cannot be read: %s", err)
	}
	enc := disk{}
	if err := k.encrypt(&enc, in.Encrypted, in.KmsKeyId); err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	t := &importTask{item: k.newItem(kindImport, tags["import-image-task"]), line: k.after("active", k.o.Durations.Import, "completed"), description: in.Description, format: format, busy: true,
		reason: k.doomed(k.action, d.UserBucket.S3Key)}
	if enc.keyReason != "" && t.reason == "" {
		t.reason = "ClientError: " + enc.keyReason
	}
	k.imports.m[t.id] = t
	arch, boot := in.Architecture, in.BootMode
	if arch == "" {
		arch = "x86_64"
	}
	late := *k
	k.background(func() { late.doImport(t, file, arch, boot, enc) })
	return ptr(k.importItem(t)), nil
}

// doImport makes image and snapshot of a file, in the background.
func (k *call) doImport(t *importTask, file, arch, boot string, enc disk) {
	var ct *content
	reason := ""
	st, err := os.Stat(file)
	switch {
	case err != nil:
		reason = "ClientError: the object cannot be read: " + err.Error()
	case t.format != "raw":
		// The file is kept as it is: it is an image that can be described and copied, not booted.
		ct = &content{k.host.RawContent(file), "root"}
	default:
		ct = &content{k.host.RawContent(file), "root"}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	t.busy = false
	if t.cancelled || t.reason != "" {
		return
	}
	if t.reason = reason; reason != "" {
		return
	}
	size := max(1, (st.Size()+gib-1)/gib)
	s := &snapshot{item: k.newItem(kindSnapshot, nil), owner: k.account, volume: "vol-ffffffff", size: size, description: "Created by AWS-VMImport service for " + t.id, line: t.line, content: ct, encrypted: enc.encrypted, key: enc.key}
	k.snapshots.m[s.id] = s
	i := k.addImage(t.id, "AWS-VMImport service: Linux", nil, 0)
	i.line = t.line
	i.arch, i.boot, i.root, i.ena, i.content = arch, boot, "/dev/sda1", true, ct
	i.mappings = []mapping{{device: i.root, ebs: &ebsMapping{snapshot: s.id, size: size, kind: "gp2", dies: true, encrypted: enc.encrypted, key: enc.key}}}
	t.image = i
}

type importsResponse struct {
	Tasks     []importItem `xml:"importImageTaskSet>item"`
	NextToken string       `xml:"nextToken,omitempty"`
}

func (k *call) describeImportImageTasks(in *describeImportImageTasksRequest) (*importsResponse, error) {
	list, err := find(k, k.imports, in.ImportTaskId, in.Filters)
	if err != nil {
		return nil, err
	}
	out := &importsResponse{}
	for _, t := range list {
		out.Tasks = append(out.Tasks, k.importItem(t))
	}
	return out, nil
}

type cancelImportResponse struct {
	ID       string `xml:"importTaskId"`
	State    string `xml:"state"`
	Previous string `xml:"previousState"`
}

func (k *call) cancelImportTask(in *cancelImportTaskRequest) (*cancelImportResponse, error) {
	t, err := k.imports.get(k, in.ImportTaskId)
	if err != nil {
		return nil, err
	}
	was := t.state(k)
	if was != "active" {
		return nil, fail("IncorrectState", "The task %s is %s", t.id, was)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	t.cancelled, t.reason = true, in.CancelReason
	if t.image != nil {
		delete(k.images.m, t.image.id)
		delete(k.snapshots.m, t.image.mappings[0].ebs.snapshot)
		t.image = nil
	}
	return &cancelImportResponse{t.id, "deleting", was}, nil
}

// fastLaunch is what EnableFastLaunch has set for an image of Windows.
type fastLaunch struct {
	line             timeline
	template         *fastLaunchLaunchTemplateSpecificationRequest
	parallel, target int64
}

type fastItem struct {
	Image       string `xml:"imageId"`
	Owner       string `xml:"ownerId"`
	Type        string `xml:"resourceType"`
	State       string `xml:"state"`
	Parallel    int64  `xml:"maxParallelLaunches"`
	Target      int64  `xml:"snapshotConfiguration>targetResourceCount"`
	Template    string `xml:"launchTemplate>launchTemplateId,omitempty"`
	TemplateBy  string `xml:"launchTemplate>launchTemplateName,omitempty"`
	TemplateVer string `xml:"launchTemplate>version,omitempty"`
	Since       string `xml:"stateTransitionTime"`
}

func (k *call) fastItem(i *image) fastItem {
	f := i.fast
	o := fastItem{Image: i.id, Owner: i.owner, Type: "snapshot", State: f.line.at(k.now()), Parallel: f.parallel, Target: f.target, Since: iso(f.line[0].at)}
	if t := f.template; t != nil {
		o.Template, o.TemplateBy, o.TemplateVer = t.LaunchTemplateId, t.LaunchTemplateName, t.Version
	}
	return o
}

func (k *call) enableFastLaunch(in *enableFastLaunchRequest) (*fastItem, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	f := &fastLaunch{template: in.LaunchTemplate, parallel: intOr(in.MaxParallelLaunches, 6), target: 5}
	if s := in.SnapshotConfiguration; s != nil {
		f.target = intOr(s.TargetResourceCount, 5)
	}
	switch {
	case i.platform != "windows":
		return nil, fail("InvalidParameter", "The image %s is not an image of Windows: fast launching is not available for it", i.id)
	case i.state(k) != "available":
		return nil, fail("InvalidAMIID.Unavailable", "The image ID '%s' is not available", i.id)
	case f.parallel < 6:
		return nil, invalid("MaxParallelLaunches", "%d is less than 6", f.parallel)
	case f.target < 1:
		return nil, invalid("SnapshotConfiguration.TargetResourceCount", "%d is less than 1", f.target)
	}
	if t := in.LaunchTemplate; t != nil {
		if t.Version == "" {
			return nil, missing("LaunchTemplate.Version")
		}
		if _, err := k.templateData(t.LaunchTemplateId, t.LaunchTemplateName, t.Version); err != nil {
			return nil, err
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	f.line = k.after("enabling", k.o.Durations.FastLaunch, "enabled")
	i.fast = f
	return ptr(k.fastItem(i)), nil
}

func (k *call) disableFastLaunch(in *disableFastLaunchRequest) (*fastItem, error) {
	i, err := k.ownImage(in.ImageId)
	if err != nil {
		return nil, err
	}
	if i.fast == nil {
		return nil, fail("InvalidParameter", "Fast launching is not enabled for %s", i.id)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	o := k.fastItem(i)
	o.State = "disabling"
	i.fast = nil
	return &o, nil
}

type fastItems struct {
	Images    []fastItem `xml:"fastLaunchImageSet>item"`
	NextToken string     `xml:"nextToken,omitempty"`
}

func (k *call) describeFastLaunchImages(in *describeFastLaunchImagesRequest) (*fastItems, error) {
	list, err := find(k, k.images, in.ImageId, in.Filter)
	if err != nil {
		return nil, err
	}
	out := &fastItems{}
	for _, i := range list {
		if i.fast != nil {
			out.Images = append(out.Images, k.fastItem(i))
		}
	}
	return out, nil
}

// bucketName is what S3 allows, so that a bucket can be a directory.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func (c *Cloud) storeDir() string { return filepath.Join(c.o.Dir, "s3") }
