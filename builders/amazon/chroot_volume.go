package amazon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// makeVolume makes the root volume in this host's zone.
func (b *Chroot) makeVolume(ctx context.Context) error {
	r := b.run
	name := r.name("root")
	tags, err := r.userTags(ctx, "root_volume_tags", b.o.RootVolumeTags, b.o.RootVolumeTag)
	if err != nil {
		return err
	}
	if len(tags) == 0 {
		tags = map[string]string{"Name": name}
	}
	for k, v := range r.marks(name) {
		tags[k] = v
	}
	in := &ec2.CreateVolumeInput{
		AvailabilityZone: &b.host.AvailabilityZone, ClientToken: &name, VolumeType: types.VolumeType(b.o.RootVolumeType),
		Encrypted: b.o.EncryptBoot, TagSpecifications: tagged(types.ResourceTypeVolume, tags),
	}
	if b.o.encrypts() {
		in.KmsKeyId = optional(b.o.key(b.session.Region, b.session.Region))
	}
	if n := b.o.RootVolumeSize; n > 0 {
		in.Size = aws.Int32(int32(n))
	}
	if b.source != nil {
		root := rootMapping(*b.source)
		if root == nil || root.SnapshotId == nil {
			return fmt.Errorf("the source AMI %s has no EBS snapshot of its root device", aws.ToString(b.source.ImageId))
		}
		in.SnapshotId = root.SnapshotId
		b.grew = in.Size != nil && *in.Size > aws.ToInt32(root.VolumeSize)
		if in.VolumeType == "" {
			in.VolumeType = root.VolumeType
		}
		if in.VolumeType == root.VolumeType {
			in.Iops, in.Throughput = root.Iops, root.Throughput
			if !hasIOPS(string(in.VolumeType)) {
				in.Iops = nil
			}
		}
	}
	if in.Iops == nil && (in.VolumeType == types.VolumeTypeIo1 || in.VolumeType == types.VolumeTypeIo2) {
		in.Iops = aws.Int32(int32(iopsRange[string(in.VolumeType)][0]))
	}
	l, err := r.run.Leases.Intend(ctx, leaseVolume, name, r.data())
	if err != nil {
		return err
	}
	r.run.Events.Say(fmt.Sprintf("Making the root volume in %s.", b.host.AvailabilityZone))
	b.volume, err = r.create(ctx, l, func(ctx context.Context) (string, error) {
		out, err := b.session.EC2("").CreateVolume(ctx, in)
		if err != nil {
			return "", err
		}
		return aws.ToString(out.VolumeId), nil
	})
	if err != nil {
		return fmt.Errorf("make the root volume: %w", err)
	}
	_, err = b.session.WaitVolume(ctx, "", b.volume, types.VolumeStateAvailable)
	return err
}

// names are those to attach the volume by, in the order to try them: bakes that
// start side by side begin at different ones. That EC2 gives a name to one volume
// only is all the locking there has to be.
func (b *Chroot) names(ctx context.Context) ([]string, error) {
	if b.o.DevicePath != "" {
		return []string{b.o.DevicePath}, nil
	}
	self, err := b.session.Instances("").Get(ctx, b.host.InstanceID)
	if err != nil {
		return nil, fmt.Errorf("look at this host, %s: %w", b.host.InstanceID, awscloud.Explain(err))
	}
	var free []string
	add := func(name string) {
		suffix := strings.TrimPrefix(strings.TrimPrefix(name, "/dev/sd"), "/dev/xvd")
		taken := slices.ContainsFunc(self.BlockDeviceMappings, func(m types.InstanceBlockDeviceMapping) bool {
			n := strings.TrimPrefix(aws.ToString(m.DeviceName), "/dev/")
			return strings.TrimPrefix(strings.TrimPrefix(n, "sd"), "xvd") == suffix
		})
		for _, local := range []string{"sd" + suffix, "xvd" + suffix} {
			if _, err := os.Lstat(b.env.dev(local)); err == nil {
				taken = true
			}
		}
		if !taken {
			free = append(free, name)
		}
	}
	for c := 'f'; c <= 'p'; c++ {
		add("/dev/sd" + string(c))
	}
	rand.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	few := len(free)
	for _, first := range "bcd" {
		for c := 'a'; c <= 'z'; c++ {
			if first != 'd' || c <= 'x' {
				add("/dev/xvd" + string(first) + string(c))
			}
		}
	}
	more := free[few:]
	rand.Shuffle(len(more), func(i, j int) { more[i], more[j] = more[j], more[i] })
	if len(free) == 0 {
		return nil, fmt.Errorf("no device name is free at this host, %s", b.host.InstanceID)
	}
	return free, nil
}

// nameTaken says of an answer to AttachVolume that the name is another's by now.
func nameTaken(err error) bool {
	return awscloud.Code(err) == "InvalidParameterValue" && strings.Contains(err.Error(), "in use")
}

// attach attaches the volume and finds its device.
func (b *Chroot) attach(ctx context.Context) error {
	r := b.run
	names, err := b.names(ctx)
	if err != nil {
		return err
	}
	l, err := r.run.Leases.Intend(ctx, leaseAttachment, b.volume+"@"+b.host.InstanceID, r.data(dataVolume, b.volume, dataInstance, b.host.InstanceID, dataBoot, bootID()))
	if err != nil {
		return err
	}
	var name string
	for _, name = range names {
		var out *ec2.AttachVolumeOutput
		c, cancel := unhurried(ctx)
		out, err = b.session.EC2("").AttachVolume(c, &ec2.AttachVolumeInput{VolumeId: &b.volume, InstanceId: &b.host.InstanceID, Device: &name})
		cancel()
		if awscloud.Code(err) == "VolumeInUse" {
			// An earlier try has had effect, and its answer was lost.
			v, e := b.session.Volumes("").Get(ctx, b.volume)
			if e == nil && len(v.Attachments) == 1 && aws.ToString(v.Attachments[0].InstanceId) == b.host.InstanceID {
				name, err = aws.ToString(v.Attachments[0].Device), nil
			}
		}
		if out != nil && aws.ToString(out.Device) != "" {
			name = *out.Device
		}
		if err == nil || !nameTaken(err) || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("attach %s to this host, %s, as %s: %w", b.volume, b.host.InstanceID, name, awscloud.Explain(err))
		if !awscloud.IsUnanswered(err) {
			err = errors.Join(err, r.run.Leases.Released(ctx, l))
		}
		return err
	}
	if err := r.run.Leases.Created(context.WithoutCancel(ctx), l, b.volume); err != nil {
		return err
	}
	r.run.Events.Say(fmt.Sprintf("Attached %s as %s.", b.volume, name))
	return b.findDevice(ctx, name)
}

// devicePace is for what the kernel of this host sees, which costs nothing to ask.
var devicePace = awscloud.Pace{First: 20 * time.Millisecond, Min: 50 * time.Millisecond, Cap: time.Second, Timeout: 5 * time.Minute}

// findDevice waits for the device of the volume.
func (b *Chroot) findDevice(ctx context.Context, name string) error {
	err := b.session.Wait(ctx, awscloud.Wait{What: "the device of " + b.volume + " to appear on this host", Pace: devicePace, Timeout: devicePace.Timeout}, func(context.Context) (bool, string, error) {
		var err error
		b.device, err = b.env.deviceOf(b.volume, name, b.o.NVMeDevicePath)
		return b.device != "", "", err
	})
	if isTimeout(err) {
		return fmt.Errorf("%w. It was looked for by its serial number (NVMe) and as %s; where it is can be set by nvme_device_path", err, name)
	}
	return err
}

// deviceOf is the device of a volume on this host, or "". given, unless empty, is
// where the user says that it is.
func (e *Env) deviceOf(volume, name, given string) (string, error) {
	serial := strings.Replace(volume, "-", "", 1)
	exists := func(p string) bool { _, err := os.Stat(p); return err == nil }
	if given != "" {
		if !exists(given) {
			return "", nil
		}
		if is := e.serial(filepath.Base(given)); is != "" && is != serial {
			return "", fmt.Errorf("nvme_device_path is %s, but that is the volume %s and not %s, which was attached: leave the option out, or attach nothing else meanwhile", given, is, volume)
		}
		return given, nil
	}
	if p := e.dev("disk/by-id/nvme-Amazon_Elastic_Block_Store_" + serial); exists(p) {
		to, err := os.Readlink(p)
		if err != nil {
			return "", fmt.Errorf("find the device of %s: %w", volume, err)
		}
		if !filepath.IsAbs(to) {
			return filepath.Join(filepath.Dir(p), to), nil
		}
		return to, nil
	}
	// Without udev there are no such links.
	disks, err := filepath.Glob(filepath.Join(e.sys(), "block", "nvme*"))
	if err != nil {
		return "", err
	}
	for _, d := range disks {
		if n := filepath.Base(d); e.serial(n) == serial && exists(e.dev(n)) {
			return e.dev(n), nil
		}
	}
	suffix := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(name, "/dev/"), "xvd"), "sd")
	for _, p := range []string{e.dev("xvd" + suffix), e.dev("sd" + suffix)} {
		if exists(p) {
			return p, nil
		}
	}
	return "", nil
}

// serial is the serial number of an NVMe disk: its volume's id without the dash.
func (e *Env) serial(disk string) string {
	b, err := os.ReadFile(filepath.Join(e.sys(), "block", disk, "device", "serial"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// dev is a path below /dev.
func (e *Env) dev(name string) string {
	if e.DevDir != "" {
		return filepath.Join(e.DevDir, name)
	}
	return filepath.Join("/dev", name)
}

func (e *Env) sys() string {
	if e.SysDir != "" {
		return e.SysDir
	}
	return "/sys"
}

// partitionPath is the path of a disk's partition.
func partitionPath(disk, number string) string {
	if last := disk[len(disk)-1]; '0' <= last && last <= '9' {
		return disk + "p" + number
	}
	return disk + number
}

// releaseAttachment detaches the volume. The release of the volume waits for the end of that.
func (b *Chroot) releaseAttachment(ctx context.Context, r *releaser, l builders.Lease) error {
	volume, instance := l.Data[dataVolume], l.Data[dataInstance]
	if boot := l.Data[dataBoot]; boot == "" || boot == bootID() {
		// With the ledger lost, nobody else knows of a mount. Only a device that is
		// certainly this volume's is touched.
		if err := b.unmountVolume(ctx, volume); err != nil {
			return err
		}
	}
	c := r.session.EC2(r.region)
	err := r.session.Wait(ctx, awscloud.Wait{What: volume + " to be detached", Timeout: releaseTime, First: -1}, func(ctx context.Context) (bool, string, error) {
		_, err := c.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &volume, InstanceId: &instance})
		switch code := awscloud.Code(err); {
		case err == nil:
			return true, "", nil
		case awscloud.IsNotFound(err):
			return true, "", nil
		case code != "IncorrectState":
			return false, "", err
		}
		// It is available, or on its way from one state to another.
		v, err := r.session.Volumes(r.region).Get(ctx, volume)
		if awscloud.IsNotFound(err) {
			return true, "", nil
		}
		if err != nil {
			return false, "", err
		}
		for _, a := range v.Attachments {
			if aws.ToString(a.InstanceId) == instance && a.State != types.VolumeAttachmentStateDetached && a.State != types.VolumeAttachmentStateDetaching {
				return false, string(a.State), nil
			}
		}
		return true, "", nil
	})
	if err != nil {
		return fmt.Errorf("detach %s from %s: %w", volume, instance, err)
	}
	return nil
}

// findVolumes finds volumes by the tags of their lease.
func findVolumes(c *ec2.Client) finder {
	return func(ctx context.Context, l builders.Lease) ([]string, error) {
		out, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{Filters: leaseFilter(l)})
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, v := range out.Volumes {
			if v.State != types.VolumeStateDeleting && v.State != types.VolumeStateDeleted {
				ids = append(ids, aws.ToString(v.VolumeId))
			}
		}
		return ids, nil
	}
}

// rootVolume deletes the volume of a lease.
func (r *releaser) rootVolume(ctx context.Context, l builders.Lease) error {
	ids, err := r.ids(ctx, l, findVolumes(r.session.EC2(r.region)))
	if err != nil {
		return fmt.Errorf("look for the volume %s: %w", l.Name, err)
	}
	for _, id := range ids {
		if err := r.deleteVolume(ctx, l, id); err != nil {
			return err
		}
	}
	return nil
}
