package amazon

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// SurrogateSource are what a source "amazon-ebssurrogate" block can say.
type SurrogateSource struct {
	awscloud.Access
	AMIOptions
	RegisterOptions
	SurrogateOptions
	RunOptions
	communicator.Options
}

// SurrogateOptions are what only amazon-ebssurrogate has.
type SurrogateOptions struct {
	// AMIRootDevice says which of the instance's volumes becomes the AMI's root.
	AMIRootDevice *RootDevice `cfg:"ami_root_device,required,block"`
	// LaunchMappings are block devices of the instance; they become part of the AMI.
	LaunchMappings []LaunchDevice `cfg:"launch_block_device_mappings,block"`
	// SnapshotDescription is that of the snapshots that the AMI is registered
	// of. Default: "Ingot: " and the AMI's name.
	SnapshotDescription string `cfg:"snapshot_description"`
	// UseCreateImage puts the volume that was built in the place of the
	// instance's root, and has EC2 make the AMI of the instance, so that it keeps
	// the source AMI's product codes and billing. Default: the AMI is registered
	// of snapshots.
	UseCreateImage bool `cfg:"use_create_image"`
	// SkipAMIRunTags keeps run_tags off the AMI and its snapshots.
	SkipAMIRunTags bool `cfg:"skip_ami_run_tags"`
}

// RootDevice is the root of an AMI. What is not said of its volume is as in
// launch_block_device_mappings.
type RootDevice struct {
	// SourceDeviceName is the device in launch_block_device_mappings that is
	// built on, such as "/dev/xvdf".
	SourceDeviceName string `cfg:"source_device_name,required"`
	// DeviceName is the AMI's root device, such as "/dev/xvda". With
	// UseCreateImage it must be the source AMI's.
	DeviceName string `cfg:"device_name,required"`
	// DeleteOnTermination deletes the volume with an instance of the AMI.
	DeleteOnTermination *bool `cfg:"delete_on_termination"`
	// IOPS of an io1, io2 or gp3 volume.
	IOPS int `cfg:"iops"`
	// VolumeType is "gp3", "gp2", "io1", "io2", "st1", "sc1" or "standard".
	VolumeType string `cfg:"volume_type"`
	// VolumeSize in GiB, no smaller than what is built on. With UseCreateImage
	// the volume that is built on has this size, too.
	VolumeSize int `cfg:"volume_size"`
}

// LaunchDevice is a block device of the instance.
type LaunchDevice struct {
	BlockDevice
	// OmitFromArtifact leaves the device out of the AMI.
	OmitFromArtifact bool `cfg:"omit_from_artifact"`
}

// devices are the launch's block devices.
func (o *SurrogateOptions) devices() []BlockDevice {
	var ds []BlockDevice
	for _, d := range o.LaunchMappings {
		ds = append(ds, d.BlockDevice)
	}
	return ds
}

// source is the device that is built on, -1 if there is none.
func (o *SurrogateOptions) source() int {
	return slices.IndexFunc(o.LaunchMappings, func(d LaunchDevice) bool {
		return o.AMIRootDevice != nil && d.DeviceName == o.AMIRootDevice.SourceDeviceName
	})
}

// over is the volume that is built on, as the AMI is to have it.
func (r *RootDevice) over(d BlockDevice) BlockDevice {
	if r.VolumeType != "" && r.VolumeType != d.VolumeType {
		// Those were for another type.
		d.VolumeType, d.IOPS, d.Throughput = r.VolumeType, 0, 0
	}
	if r.IOPS != 0 {
		d.IOPS = r.IOPS
	}
	if r.VolumeSize != 0 {
		d.VolumeSize = r.VolumeSize
	}
	if r.DeleteOnTermination != nil {
		d.DeleteOnTermination = r.DeleteOnTermination
	}
	return d
}

// launched are the block devices to launch with.
func (o *SurrogateOptions) launched() []BlockDevice {
	ds := o.devices()
	if i := o.source(); i >= 0 && o.UseCreateImage {
		// The AMI's root is as the instance's then is.
		ends := ds[i].DeleteOnTermination
		ds[i] = o.AMIRootDevice.over(ds[i])
		ds[i].DeleteOnTermination = ends
	}
	return ds
}

func (o *SurrogateSource) check() []config.Problem {
	var ps problems
	checkDevices(&ps, "launch_block_device_mappings", o.devices(), true)
	o.RegisterOptions.check(&ps)
	if o.AMIVirtualizationType == "" {
		ps.add("ami_virtualization_type", "ami_virtualization_type is missing", `What is built has no source AMI that says it: "hvm", or the older "paravirtual".`)
	}
	if len(o.SnapshotDescription) > 255 {
		ps.add("snapshot_description", "Too long", "EC2 takes 255 characters; this has %d.", len(o.SnapshotDescription))
	}
	o.checkRoot(&ps)
	if o.UseCreateImage {
		if o.spot() {
			ps.add("use_create_image", "Not with a spot instance", "Its root volume cannot be taken off, since it cannot be stopped. Bake on demand, or leave use_create_image out.")
		}
		for option, given := range map[string]bool{
			"ami_architecture": o.AMIArchitecture != "", "boot_mode": o.BootMode != "", "uefi_data": o.UEFIData != "",
			"tpm_support": o.TPMSupport != "", "snapshot_description": o.SnapshotDescription != "",
		} {
			if given {
				ps.warn(option, option+" is without effect", "With use_create_image the AMI is in this as the source AMI.")
			}
		}
		return ps
	}
	if o.spot() {
		ps.warn("spot_price", "The snapshots are taken of a running instance", "A spot instance cannot be stopped: let the last provisioner unmount what was built.")
	}
	if o.ENASupport == nil && o.AMIVirtualizationType == "hvm" {
		ps.warn("ena_support", "The AMI runs on few types of instances", "All types of today need enhanced networking: set ena_support = true, or false to say that you know.")
	}
	return ps
}

func (o *SurrogateSource) checkRoot(ps *problems) {
	r := o.AMIRootDevice
	if r == nil || r.SourceDeviceName == "" || r.DeviceName == "" {
		return // Decode has said that they are required
	}
	var names []string
	for _, d := range o.LaunchMappings {
		names = append(names, d.DeviceName)
		if d.DeviceName == r.DeviceName && d.DeviceName != r.SourceDeviceName && !d.OmitFromArtifact {
			ps.add("ami_root_device.device_name", "Two volumes of one name", "%s of launch_block_device_mappings would be %s of the AMI too. Set omit_from_artifact in it.", d.DeviceName, r.DeviceName)
		}
	}
	for i, m := range o.AMIMappings {
		same := func(d LaunchDevice) bool { return d.DeviceName == m.DeviceName && !d.OmitFromArtifact }
		if m.DeviceName == r.DeviceName || slices.ContainsFunc(o.LaunchMappings, same) {
			ps.warn(fmt.Sprintf("ami_block_device_mappings.%d", i), "Without effect", "%s of the AMI is a volume of the instance: it is said in launch_block_device_mappings, or ami_root_device, what it is like.", m.DeviceName)
		}
	}
	i := o.source()
	if i < 0 {
		ps.add("ami_root_device.source_device_name", "No such block device", "launch_block_device_mappings has no %s.%s", r.SourceDeviceName, config.DidYouMean(r.SourceDeviceName, names))
		return
	}
	d := o.LaunchMappings[i]
	at := fmt.Sprintf("launch_block_device_mappings.%d.", i)
	switch {
	case d.OmitFromArtifact:
		ps.add(at+"omit_from_artifact", "The root cannot be left out", "%s is to be the AMI's root device.", d.DeviceName)
	case d.NoDevice || d.VirtualName != "":
		ps.add("ami_root_device.source_device_name", "Not a volume", "%s is none that a snapshot can be made of.", d.DeviceName)
	case r.VolumeSize < 0 || r.VolumeSize > 0 && r.VolumeSize < d.VolumeSize:
		ps.add("ami_root_device.volume_size", "Smaller than what is built on", "%s has %d GiB; a volume cannot be smaller than its snapshot.", d.DeviceName, d.VolumeSize)
	case r.VolumeSize != 0 || r.VolumeType != "" || r.IOPS != 0:
		root := r.over(d.BlockDevice)
		root.checkVolume(ps, "ami_root_device.")
	}
}

// registration is what the AMI is to be, but for its snapshots; and of which
// volumes these are to be, by the AMI's device names. volumes are the instance's.
func (o *SurrogateSource) registration(volumes map[string]string) (*ec2.RegisterImageInput, map[string]string, error) {
	in := &ec2.RegisterImageInput{
		RootDeviceName: aws.String(o.AMIRootDevice.DeviceName), VirtualizationType: optional(o.AMIVirtualizationType), EnaSupport: o.ENASupport,
	}
	if o.SriovSupport {
		in.SriovNetSupport = aws.String("simple")
	}
	o.RegisterOptions.apply(in)
	of := map[string]string{}
	for _, d := range o.LaunchMappings {
		if d.OmitFromArtifact || d.NoDevice {
			continue
		}
		device := d.BlockDevice
		if d.DeviceName == o.AMIRootDevice.SourceDeviceName {
			device = o.AMIRootDevice.over(device)
			device.DeviceName = o.AMIRootDevice.DeviceName
		}
		m := device.mapping()
		if m.Ebs != nil {
			if of[device.DeviceName] = volumes[d.DeviceName]; of[device.DeviceName] == "" {
				return nil, nil, fmt.Errorf("the instance has no volume at %s any more, which was to be in the AMI", d.DeviceName)
			}
			// Its own snapshot takes their place, and says whether it is encrypted.
			m.Ebs.SnapshotId, m.Ebs.Encrypted, m.Ebs.KmsKeyId = nil, nil, nil
		}
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, m)
	}
	for _, m := range mappings(o.AMIMappings) {
		same := func(x types.BlockDeviceMapping) bool { return aws.ToString(x.DeviceName) == aws.ToString(m.DeviceName) }
		if m.NoDevice == nil && !slices.ContainsFunc(in.BlockDeviceMappings, same) {
			if m.Ebs != nil && m.Ebs.SnapshotId != nil {
				m.Ebs.Encrypted, m.Ebs.KmsKeyId = nil, nil
			}
			in.BlockDeviceMappings = append(in.BlockDeviceMappings, m)
		}
	}
	return in, of, nil
}

// checkImage checks what depends on the source AMI.
func (b *Surrogate) checkImage(ctx context.Context, ps *problems) {
	image, err := b.looks().Image(ctx)
	if err != nil {
		return // the rest of the check says so
	}
	r := b.o.AMIRootDevice
	if root := aws.ToString(image.RootDeviceName); b.o.UseCreateImage && root != r.DeviceName {
		ps.add("ami_root_device.device_name", "Not the source AMI's root device", "With use_create_image the AMI's root device is %s, that of %s. Set device_name = %q.", root, aws.ToString(image.ImageId), root)
	}
	if a := image.Architecture; !b.o.UseCreateImage && b.o.AMIArchitecture == "" && a != "" && a != types.ArchitectureValuesX8664 {
		ps.warn("ami_architecture", "The AMI is for another processor", `It is registered for x86_64, the default, and built on an instance with %s. Set ami_architecture = %q if that is not meant.`, a, a)
	}
}

// Policy is the least that the credentials need for this source in the build's region.
func (o *SurrogateSource) Policy(region string) Policy {
	p := accessPolicy(&o.Access).merge(o.RunOptions.policy(region, &o.Options), o.AMIOptions.policy(region, o.UseCreateImage))
	if o.UseCreateImage {
		own := scope{"OwnMachine", nil, ofIngot(inRegions(region)), &p}
		own.need("put what was built in the place of the instance's root (use_create_image)", "ec2:DetachVolume", "ec2:AttachVolume", "ec2:ModifyInstanceAttribute")
		return p.merge()
	}
	scope{"LookAtImages", nil, inRegions(region), &p}.need("find snapshots, also those that a bake left behind", "ec2:DescribeSnapshots")
	return p.merge()
}
