package amazon

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// VolumeSource are what a source "amazon-ebsvolume" block can say.
type VolumeSource struct {
	awscloud.Access
	VolumeOptions
	RunOptions
	communicator.Options
}

// VolumeOptions are what only amazon-ebsvolume has.
type VolumeOptions struct {
	// EBSVolumes are volumes of the instance that stay when it has gone.
	EBSVolumes []KeptVolume `cfg:"ebs_volumes,required,block"`
	// ENASupport is without effect: no AMI is made.
	ENASupport *bool `cfg:"ena_support"`
	// SriovSupport is without effect, too.
	SriovSupport bool `cfg:"sriov_support"`
}

// KeptVolume is a volume that is made for what is put on it. Without
// delete_on_termination it stays; with it, only its snapshot does.
type KeptVolume struct {
	BlockDevice
	// Tags of the volume.
	Tags map[string]string `cfg:"tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// Tag blocks are further Tags.
	Tag []Tag `cfg:"tag,block"`
	// SnapshotVolume makes a snapshot of the volume.
	SnapshotVolume bool `cfg:"snapshot_volume"`
	// SnapshotDescription is that of the snapshot. Default: "Ingot: " and the
	// source's name and the device.
	SnapshotDescription string `cfg:"snapshot_description"`
	// SnapshotTags of the snapshot, given when it is made.
	SnapshotTags map[string]string `cfg:"snapshot_tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// SnapshotTag blocks are further SnapshotTags.
	SnapshotTag []Tag `cfg:"snapshot_tag,block"`
	// SnapshotUsers are accounts that may make volumes of the snapshot.
	SnapshotUsers []string `cfg:"snapshot_users"`
	// SnapshotGroups that may do so: "all" makes the snapshot public.
	SnapshotGroups []string `cfg:"snapshot_groups"`
}

// stays says whether the volume stays when the instance has gone.
func (v *KeptVolume) stays() bool { return v.DeleteOnTermination == nil || !*v.DeleteOnTermination }

func (o *VolumeOptions) devices() []BlockDevice {
	var ds []BlockDevice
	for _, v := range o.EBSVolumes {
		ds = append(ds, v.BlockDevice)
	}
	return ds
}

func (o *VolumeOptions) launched() []types.BlockDeviceMapping { return mappings(o.devices()) }

func (o *VolumeSource) check() []config.Problem {
	var ps problems
	checkDevices(&ps, "ebs_volumes", o.devices(), true)
	if o.ENASupport != nil {
		ps.warn("ena_support", "ena_support is without effect", "It says something of an AMI, and none is made.")
	}
	if o.SriovSupport {
		ps.warn("sriov_support", "sriov_support is without effect", "It says something of an AMI, and none is made.")
	}
	stays := false
	for i := range o.EBSVolumes {
		v := &o.EBSVolumes[i]
		at := fmt.Sprintf("ebs_volumes.%d.", i)
		if v.NoDevice || v.VirtualName != "" {
			if v.SnapshotVolume {
				ps.add(at+"snapshot_volume", "Not a volume", "%s is none that a snapshot can be made of.", v.DeviceName)
			}
			continue
		}
		stays = stays || v.stays() || v.SnapshotVolume
		if !v.stays() && !v.SnapshotVolume {
			ps.warn(at+"delete_on_termination", "Nothing of it stays", "%s goes with the instance, and there is no snapshot of it: set snapshot_volume, or leave delete_on_termination out.", v.DeviceName)
		}
		checkTags(&ps, at+"tags", v.Tags, at+"tag", v.Tag)
		checkTags(&ps, at+"snapshot_tags", v.SnapshotTags, at+"snapshot_tag", v.SnapshotTag)
		if len(v.SnapshotDescription) > 255 {
			ps.add(at+"snapshot_description", "Too long", "EC2 takes 255 characters; this has %d.", len(v.SnapshotDescription))
		}
		v.checkSharing(&ps, at)
		if o.spot() && v.SnapshotVolume {
			ps.warn(at+"snapshot_volume", "The snapshot is taken of a running instance", "A spot instance cannot be stopped: let the last provisioner unmount %s.", v.DeviceName)
		}
	}
	if len(o.EBSVolumes) > 0 && !stays {
		ps.add("ebs_volumes", "Nothing would be made", "No volume stays, and no snapshot is taken.")
	}
	checkLate(&ps, &o.VolumeOptions)
	return ps
}

func (v *KeptVolume) checkSharing(ps *problems, at string) {
	encrypted := v.Encrypted != nil && *v.Encrypted
	for i, u := range v.SnapshotUsers {
		if !accountID.MatchString(u) {
			ps.add(fmt.Sprintf("%ssnapshot_users.%d", at, i), "Cannot be shared with", "%q is not an account's id of twelve digits.", u)
		}
	}
	for i, g := range v.SnapshotGroups {
		if g != "all" {
			ps.add(fmt.Sprintf("%ssnapshot_groups.%d", at, i), "Unknown group", `EC2 knows only the group "all", which is everybody; this is %q.`, g)
		}
	}
	if encrypted && len(v.SnapshotGroups) > 0 {
		ps.add(at+"snapshot_groups", "An encrypted snapshot cannot be public", `EC2 does not share encrypted snapshots with "all". Share with accounts, or remove encrypted.`)
	}
	if encrypted && v.KMSKeyID == "" && len(v.SnapshotUsers) > 0 {
		ps.add(at+"snapshot_users", "Encrypted with a key that cannot be shared", "The account's default key is of no use to other accounts. Set a key of your own in kms_key_id.")
	}
	if v.SnapshotVolume {
		return
	}
	for option, given := range map[string]bool{
		"snapshot_description": v.SnapshotDescription != "", "snapshot_tags": len(v.SnapshotTags)+len(v.SnapshotTag) > 0,
		"snapshot_users": len(v.SnapshotUsers) > 0, "snapshot_groups": len(v.SnapshotGroups) > 0,
	} {
		if given {
			ps.warn(at+option, option+" is without effect", "There is no snapshot of %s: set snapshot_volume.", v.DeviceName)
		}
	}
}

// Policy is the least that the credentials need for this source in the build's region.
func (o *VolumeSource) Policy(region string) Policy {
	p := accessPolicy(&o.Access).merge(o.RunOptions.policy(region, &o.Options))
	in := inRegions(region)
	keep := scope{"KeepVolumes", nil, in, &p}
	keep.need("tag the volumes that stay", "ec2:CreateTags")
	own := scope{"OwnMachine", nil, ofIngot(in), &p}
	own.need("take the tags of something temporary off them", "ec2:DeleteTags")
	scope{"Look", nil, in, &p}.need("find snapshots, also those that a bake left behind", "ec2:DescribeImages", "ec2:DescribeSnapshots")
	for _, v := range o.EBSVolumes {
		if !v.SnapshotVolume {
			continue
		}
		keep.need("make snapshots of volumes (snapshot_volume)", "ec2:CreateSnapshot")
		own.need("delete the snapshots of a bake that failed", "ec2:DeleteSnapshot")
		if len(v.SnapshotUsers)+len(v.SnapshotGroups) > 0 {
			own.need("share the snapshots", "ec2:ModifySnapshotAttribute")
		}
	}
	// The same keys as an AMI's.
	for _, v := range o.EBSVolumes {
		if v.KMSKeyID != "" {
			encrypt := true
			p = p.merge((&AMIOptions{EncryptBoot: &encrypt, KMSKeyID: v.KMSKeyID}).keysOnly(region))
		}
	}
	return p.merge()
}

// keysOnly is what the keys of the build's region take.
func (o *AMIOptions) keysOnly(build string) Policy {
	var p Policy
	o.keyPolicy(build, []string{build}, &p)
	return p
}
