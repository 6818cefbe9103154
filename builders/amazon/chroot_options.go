package amazon

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/internal/sandbox"
)

// RegisterOptions are what is said of an AMI that is registered of snapshots.
type RegisterOptions struct {
	// AMIArchitecture is the processor that the AMI is for: "x86_64", "arm64",
	// "i386", "x86_64_mac" or "arm64_mac". Default: "x86_64"; in amazon-chroot the
	// source AMI's, where there is one.
	AMIArchitecture string `cfg:"ami_architecture"`
	// BootMode is "legacy-bios", "uefi" or "uefi-preferred". Default: the
	// instance type's; in amazon-chroot the source AMI's, where there is one.
	BootMode string `cfg:"boot_mode"`
	// UEFIData is the non-volatile UEFI variable store, in base64. It needs a
	// BootMode with UEFI.
	UEFIData string `cfg:"uefi_data"`
	// TPMSupport "v2.0" gives instances a NitroTPM. It needs boot_mode = "uefi".
	TPMSupport string `cfg:"tpm_support"`
}

func (o *RegisterOptions) check(ps *problems) {
	oneOf := func(option, value string, known ...string) {
		if value != "" && !slices.Contains(known, value) {
			ps.add(option, "Unknown value", "%s is %s, not %q.%s", option, strings.Join(known, ", "), value, config.DidYouMean(value, known))
		}
	}
	oneOf("ami_architecture", o.AMIArchitecture, "x86_64", "arm64", "i386", "x86_64_mac", "arm64_mac")
	oneOf("boot_mode", o.BootMode, "legacy-bios", "uefi", "uefi-preferred")
	oneOf("tpm_support", o.TPMSupport, "v2.0")
	if o.TPMSupport != "" && o.BootMode != "uefi" {
		ps.add("tpm_support", "A TPM needs UEFI", `Set boot_mode = "uefi".`)
	}
	if o.UEFIData != "" {
		if o.BootMode != "uefi" && o.BootMode != "uefi-preferred" {
			ps.add("uefi_data", "UEFI data without UEFI", `Set boot_mode to "uefi" or "uefi-preferred".`)
		}
		if _, err := base64.StdEncoding.DecodeString(o.UEFIData); err != nil {
			ps.add("uefi_data", "Not base64", "%v.", err)
		}
	}
}

// apply puts them over what the source AMI says.
func (o *RegisterOptions) apply(in *ec2.RegisterImageInput) {
	if o.AMIArchitecture != "" {
		in.Architecture = types.ArchitectureValues(o.AMIArchitecture)
	}
	if in.Architecture == "" {
		in.Architecture = types.ArchitectureValuesX8664
	}
	if o.BootMode != "" {
		in.BootMode = types.BootModeValues(o.BootMode)
	}
	if o.TPMSupport != "" {
		in.TpmSupport = types.TpmSupportValues(o.TPMSupport)
	}
	in.UefiData = optional(o.UEFIData)
}

// ChrootOptions are what only amazon-chroot has.
type ChrootOptions struct {
	// SourceAMI is the id of the AMI to start from.
	SourceAMI string `cfg:"source_ami"`
	// SourceAMIFilter looks for it. Beside SourceAMI, that AMI must fit the filter.
	SourceAMIFilter *AMIFilter `cfg:"source_ami_filter,block"`
	// FromScratch starts with an empty volume. It needs
	// ami_block_device_mappings, ami_virtualization_type, pre_mount_commands
	// that make a file system, root_device_name and root_volume_size.
	FromScratch bool `cfg:"from_scratch"`
	// ChrootMounts are mounted in the tree while commands run in it, and seen by
	// these alone: lists of type, source and path in the tree; the type may be
	// "bind" or "rbind". Default: proc, sysfs, /dev, devpts and binfmt_misc.
	ChrootMounts [][]string `cfg:"chroot_mounts"`
	// CommandWrapper wraps each command that needs root, such as "sudo
	// {{.Command}}". Default: {{.Command}}, for an Ingot that runs as root.
	CommandWrapper string `cfg:"command_wrapper" render:"late" vars:"Command"`
	// CopyFiles of this host are in the tree, at the same path, while it is
	// provisioned; then what was there before is there again. Default:
	// ["/etc/resolv.conf"], or nothing with from_scratch.
	CopyFiles []string `cfg:"copy_files"`
	// DevicePath is the device name to attach the volume by, such as "/dev/xvdf".
	// Default: a free one.
	DevicePath string `cfg:"device_path"`
	// NVMeDevicePath is where the volume appears, such as "/dev/nvme1n1". Default:
	// it is found by its serial number.
	NVMeDevicePath string `cfg:"nvme_device_path"`
	// MountOptions for the volume, as mount(8) takes them after -o. XFS is
	// mounted with nouuid as well, since the host may be of the same image.
	MountOptions []string `cfg:"mount_options"`
	// MountPartition is the number of the partition that is the root; "0" is the
	// whole disk. Default: "1", or the whole disk where it has no partitions.
	MountPartition string `cfg:"mount_partition"`
	// MountPath is where the volume is mounted. {{.Device}} is the last part of
	// the device's path. Default: /mnt/packer-amazon-chroot-volumes/{{.Device}}.
	MountPath string `cfg:"mount_path" render:"late" vars:"Device"`
	// PreMountCommands run on this host when the volume is attached. {{.Device}} is its device.
	PreMountCommands []string `cfg:"pre_mount_commands" render:"late" vars:"Device BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// PostMountCommands run on this host when it is mounted, at {{.MountPath}}.
	PostMountCommands []string `cfg:"post_mount_commands" render:"late" vars:"Device MountPath BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// RootDeviceName is the AMI's root device, such as "/dev/xvda". Default: the source AMI's.
	RootDeviceName string `cfg:"root_device_name"`
	// RootVolumeSize in GiB. Default: the source AMI's.
	RootVolumeSize int `cfg:"root_volume_size"`
	// GrowRoot lets the partition and its file system grow to a RootVolumeSize that
	// is larger than the source AMI's, where the tools for that are there.
	// Default: true. An option of Ingot's own.
	GrowRoot *bool `cfg:"grow_root"`
	// RootVolumeType of the volume while it is provisioned. Default: the source
	// AMI's, or "gp2" with from_scratch.
	RootVolumeType string `cfg:"root_volume_type"`
	// RootVolumeTags of the volume.
	RootVolumeTags map[string]string `cfg:"root_volume_tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	RootVolumeTag  []Tag             `cfg:"root_volume_tag,block"`
	// RootVolumeEncryptBoot true encrypts the volume, and so the AMI, without a
	// copy of it. EncryptBoot is another word for it.
	RootVolumeEncryptBoot *bool `cfg:"root_volume_encrypt_boot"`
	// RootVolumeKMSKeyID is the key for that. KMSKeyID is another word for it.
	RootVolumeKMSKeyID string `cfg:"root_volume_kms_key_id"`
	// StartServices lets package managers start services in the tree. False: they
	// are told not to, and programs that start services do nothing, until the tree
	// is provisioned. An option of Ingot's own.
	StartServices bool `cfg:"start_services"`
	// PackageMetadata is a package in the tree, as dpkg or rpm know it, that the
	// AMI is baked for: its name, version, release and architecture, and the
	// source AMI's id, name and version, become tags of the AMI, and its
	// description where ami_description is not set. An option of Ingot's own.
	PackageMetadata string `cfg:"package_metadata"`
}

// ChrootSource are what a source "amazon-chroot" block can say.
type ChrootSource struct {
	awscloud.Access
	AMIOptions
	RegisterOptions
	ChrootOptions
}

// defaultChrootMounts are Packer's.
func defaultChrootMounts() [][]string {
	return [][]string{
		{"proc", "proc", "/proc"}, {"sysfs", "sysfs", "/sys"}, {"bind", "/dev", "/dev"}, {"devpts", "devpts", "/dev/pts"},
		{"binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"},
	}
}

const (
	defaultMountPath = "/mnt/packer-amazon-chroot-volumes/{{.Device}}"
	resolvConf       = "/etc/resolv.conf"
)

// normalize fills in what is not set, and brings two words for one thing together.
func (o *ChrootSource) normalize() {
	if o.RootVolumeEncryptBoot != nil {
		o.EncryptBoot = o.RootVolumeEncryptBoot
	}
	if o.RootVolumeKMSKeyID != "" {
		o.KMSKeyID = o.RootVolumeKMSKeyID
	}
	if o.CommandWrapper == "" {
		o.CommandWrapper = "{{.Command}}"
	}
	if o.MountPath == "" {
		o.MountPath = defaultMountPath
	}
	if o.CopyFiles == nil && !o.FromScratch {
		o.CopyFiles = []string{resolvConf}
	}
	if o.RootVolumeType == "" && o.FromScratch {
		o.RootVolumeType = "gp2"
	}
}

// wrapped says whether commands are wrapped.
func (o *ChrootOptions) wrapped() bool {
	return strings.Join(strings.Fields(strings.Trim(o.CommandWrapper, " ")), "") != "{{.Command}}"
}

func (o *ChrootOptions) grows() bool { return o.GrowRoot == nil || *o.GrowRoot }

// runOptions are those that name the source AMI.
func (o *ChrootOptions) runOptions() *RunOptions {
	if o.FromScratch {
		return &RunOptions{}
	}
	return &RunOptions{SourceAMI: o.SourceAMI, SourceAMIFilter: o.SourceAMIFilter}
}

var (
	devicePath  = regexp.MustCompile(`^/dev/(sd[a-z]\d{0,2}|xvd[a-z]{1,2}\d{0,2}|hd[a-z]\d{0,2})$`)
	packageName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9+._:-]*$`)
)

func (o *ChrootSource) check() []config.Problem {
	var ps problems
	o.RegisterOptions.check(&ps)
	if o.FromScratch {
		o.checkScratch(&ps)
	} else {
		o.runOptions().checkSource(&ps)
	}
	for i, m := range o.ChrootMounts {
		at := fmt.Sprintf("chroot_mounts.%d", i)
		switch {
		case len(m) != 3:
			ps.add(at, "Not a mount", "A mount has three parts: its type, its source, and its path in the tree; this has %d.", len(m))
		case m[0] == "" || !strings.HasPrefix(m[2], "/"):
			ps.add(at, "Not a mount", "It needs a type, and a path in the tree that begins with /.")
		}
	}
	for i, f := range o.CopyFiles {
		if !strings.HasPrefix(f, "/") {
			ps.add(fmt.Sprintf("copy_files.%d", i), "Not a whole path", "%q is to be at the same path in the tree, so it begins with /.", f)
		}
	}
	if o.MountPartition != "" {
		if n, err := strconv.Atoi(o.MountPartition); err != nil || n < 0 || n > 128 {
			ps.add("mount_partition", "Not a partition", `It is a partition's number, or "0" for the whole disk, not %q.`, o.MountPartition)
		}
	}
	if d := o.DevicePath; d != "" && !devicePath.MatchString(d) {
		ps.add("device_path", "Not a name to attach by", `EC2 takes names such as "/dev/sdf" or "/dev/xvdf"; where the device then appears is nvme_device_path.`)
	}
	if d := o.NVMeDevicePath; d != "" && !strings.HasPrefix(d, "/") {
		ps.add("nvme_device_path", "Not a device", `It is a path such as "/dev/nvme1n1".`)
	}
	if p := o.MountPath; !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "{{") {
		ps.add("mount_path", "Not a whole path", "The volume is mounted at a path that begins with /, not at %q.", p)
	}
	root := BlockDevice{DeviceName: "root", VolumeType: o.RootVolumeType, VolumeSize: o.RootVolumeSize}
	switch o.RootVolumeType {
	case "io1", "io2":
		root.IOPS = iopsRange[o.RootVolumeType][0] // the source AMI's, or the least
	}
	var found problems
	root.checkVolume(&found, "root_")
	for _, p := range found {
		p.Option = strings.Replace(p.Option, "root_iops", "root_volume_type", 1)
		ps = append(ps, p)
	}
	if o.RootVolumeKMSKeyID != "" && !o.encrypts() {
		ps.add("root_volume_kms_key_id", "A key, but no encryption", "It needs root_volume_encrypt_boot = true.")
	}
	if o.PackageMetadata != "" && !packageName.MatchString(o.PackageMetadata) {
		ps.add("package_metadata", "Not a package's name", "It is the name of one package, as dpkg or rpm know it, not %q.", o.PackageMetadata)
	}
	if !strings.Contains(o.CommandWrapper, ".Command") {
		ps.add("command_wrapper", "The command is not in it", `Write {{.Command}} where the command goes, as in "sudo {{.Command}}".`)
	}
	checkTags(&ps, "root_volume_tags", o.RootVolumeTags, "root_volume_tag", o.RootVolumeTag)
	checkLate(&ps, &o.ChrootOptions)
	return ps
}

func (o *ChrootSource) checkScratch(ps *problems) {
	for option, given := range map[string]bool{
		"ami_block_device_mappings": len(o.AMIMappings) > 0, "ami_virtualization_type": o.AMIVirtualizationType != "",
		"pre_mount_commands": len(o.PreMountCommands) > 0, "root_device_name": o.RootDeviceName != "", "root_volume_size": o.RootVolumeSize > 0,
	} {
		if !given {
			ps.add(option, option+" is missing", "from_scratch needs it: there is no source AMI that says it.")
		}
	}
	if o.RootDeviceName != "" && len(o.AMIMappings) > 0 && !slices.ContainsFunc(o.AMIMappings, func(d BlockDevice) bool { return d.DeviceName == o.RootDeviceName }) {
		ps.add("root_device_name", "No such block device", "ami_block_device_mappings has no %s, which is to be the AMI's root.", o.RootDeviceName)
	}
	if o.SourceAMI != "" || o.SourceAMIFilter != nil {
		ps.warn("from_scratch", "The source AMI is not used", "from_scratch starts with an empty volume.")
	}
}

// hostProblems are what this host lacks. tools are looked for where root's are.
func (o *ChrootSource) hostProblems() []config.Problem {
	var ps problems
	if runtime.GOOS != "linux" {
		ps.add("", "Not on this system", "amazon-chroot mounts the volume on the host that it runs on, which is a Linux instance on EC2; this is %s.", runtime.GOOS)
		return ps
	}
	if !o.wrapped() && os.Geteuid() != 0 {
		ps.add("command_wrapper", "Not as root", `Attached volumes are mounted by root: run Ingot as root, or set command_wrapper = "sudo {{.Command}}".`)
	} else if !o.wrapped() && sandbox.InUserNamespace() {
		ps.add("", "Root only in a user namespace", "Block devices are mounted by the system's own root.")
	}
	for _, tool := range []string{"mount", "umount", "blkid"} {
		if findTool(tool) == "" {
			ps.add("", tool+" is missing", "It is part of util-linux: install that on this host.")
		}
	}
	return ps
}

// toolDirs are where root's tools are, whatever the PATH is.
var toolDirs = [...]string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// findTool is the path of a tool, or "".
func findTool(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for _, d := range toolDirs {
		if p, err := exec.LookPath(d + "/" + name); err == nil {
			return p
		}
	}
	return ""
}

// preflight asks the account and the metadata whether the bake can come to a good end.
func (b *Chroot) preflight(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	var ps problems
	if h, err := b.whereAmI(ctx); err != nil {
		ps.add("", "Not on an instance", "%s.", trimDot(err))
	} else if h.Region != b.session.Region {
		ps.add("region", "In another region", "This host, %s, is in %s, and a volume of %s cannot be attached to it.", h.InstanceID, h.Region, b.session.Region)
	}
	if !b.o.FromScratch {
		b.checkSourceImage(ctx, &ps, preflightEnv(env.Dir))
	}
	flight := &preflight{session: b.session, ami: &b.o.AMIOptions, options: &b.o, force: env.Force, env: preflightEnv(env.Dir)}
	return append(ps, flight.check(ctx)...)
}

func (b *Chroot) checkSourceImage(ctx context.Context, ps *problems, env render.Env) {
	option := "source_ami"
	if b.o.SourceAMI == "" {
		option = "source_ami_filter"
	}
	image, err := b.looks().Image(ctx)
	if err != nil {
		ps.add(option, "No source AMI", "%s.", trimDot(err))
		return
	}
	id := aws.ToString(image.ImageId)
	if image.State != "" && image.State != types.ImageStateAvailable {
		ps.add(option, "The source AMI cannot be used", "%s is %s.", id, image.State)
	}
	root := rootMapping(image)
	switch {
	case image.RootDeviceType != types.DeviceTypeEbs || root == nil || root.SnapshotId == nil:
		ps.add(option, "The source AMI has no EBS volume", "The root device of %s is of type %q. Choose an EBS-backed AMI.", id, image.RootDeviceType)
	case b.o.RootVolumeSize > 0 && b.o.RootVolumeSize < int(aws.ToInt32(root.VolumeSize)):
		ps.add("root_volume_size", "Smaller than the source AMI", "The root volume of %s has %d GiB; a volume cannot be smaller than its snapshot.", id, *root.VolumeSize)
	case aws.ToBool(root.Encrypted) && b.o.EncryptBoot != nil && !*b.o.EncryptBoot:
		ps.add("root_volume_encrypt_boot", "The source AMI is encrypted", "A volume of an encrypted snapshot is encrypted: %s is.", id)
	}
	if image.Platform == types.PlatformValuesWindows {
		ps.add(option, "Not Linux", "%s is a Windows AMI; its volume cannot be a root for commands of this host.", id)
	}
	if v := b.o.AMIVirtualizationType; v != "" && image.VirtualizationType != "" && string(image.VirtualizationType) != v {
		ps.warn("ami_virtualization_type", "The source AMI is of another type", "%s is %s.", id, image.VirtualizationType)
	}
	if arch := hostArchitecture(); image.Architecture != "" && arch != "" && string(image.Architecture) != arch && image.Architecture != types.ArchitectureValuesI386 {
		ps.warn(option, "For another processor", "%s is for %s, and this host is %s: it must be able to run the image's programs.", id, image.Architecture, arch)
	}
	data := lateData(b.session.Region, image)
	data["Device"], data["MountPath"], data["Command"] = "/dev/xvdf", "/mnt", "true"
	config.EachLate(&b.o, func(_ config.Field, option, s string) {
		if _, err := render.String(s, data, env); err != nil {
			ps.add(option, "Invalid Go template", "%q cannot be rendered: %s.", option, err)
		}
	})
}

func hostArchitecture() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "arm64"
	}
	return ""
}

// rootMapping is the root volume of an image.
func rootMapping(i types.Image) *types.EbsBlockDevice {
	for _, m := range i.BlockDeviceMappings {
		if aws.ToString(m.DeviceName) == aws.ToString(i.RootDeviceName) {
			return m.Ebs
		}
	}
	return nil
}

// Policy is the least that the credentials need for this source in the build's region.
func (o *ChrootSource) Policy(region string) Policy {
	p := accessPolicy(&o.Access)
	in := inRegions(region)
	look := scope{"Look", nil, in, &p}
	if !o.FromScratch {
		look.need("find the source AMI", "ec2:DescribeImages")
	}
	look.need("see which device names of this host are taken", "ec2:DescribeInstances")
	look.need("wait for the volume, and find one that a bake left behind", "ec2:DescribeVolumes")
	makes := scope{"Volume", nil, in, &p}
	makes.need("make the root volume", "ec2:CreateVolume")
	makes.need("tag what the bake makes, when it is made", "ec2:CreateTags")
	// Of the volume and of this host, which no bake has marked.
	makes.need("attach the root volume to this host", "ec2:AttachVolume")
	makes.need("detach it", "ec2:DetachVolume")
	scope{"OwnVolume", nil, ofIngot(in), &p}.need("delete the root volume", "ec2:DeleteVolume")
	ami := o.AMIOptions
	if o.RootVolumeEncryptBoot != nil {
		ami.EncryptBoot = o.RootVolumeEncryptBoot
	}
	if o.RootVolumeKMSKeyID != "" {
		ami.KMSKeyID = o.RootVolumeKMSKeyID
	}
	return p.merge(ami.policy(region, false))
}
