package amazon

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
)

// AMIOptions say what the AMI is to be like, for every builder that makes one.
type AMIOptions struct {
	// AMIName is the AMI's name, 3 to 128 letters, digits and ()[] ./-'@_. It is
	// unique to account and region. {{ clean_resource_name }} replaces what is not allowed.
	AMIName string `cfg:"ami_name,required"`
	// AMIDescription of the AMI and its copies, at most 255 characters.
	AMIDescription string `cfg:"ami_description" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// AMIVirtualizationType is "hvm" or "paravirtual". Default: the source AMI's.
	AMIVirtualizationType string `cfg:"ami_virtualization_type"`
	// AMIUsers are accounts that may launch the AMI.
	AMIUsers []string `cfg:"ami_users"`
	// AMIGroups that may launch it: "all" makes it public.
	AMIGroups []string `cfg:"ami_groups"`
	// AMIOrgArns are organizations whose accounts may launch it, as ARNs.
	AMIOrgArns []string `cfg:"ami_org_arns"`
	// AMIOUArns are organizational units whose accounts may launch it, as ARNs.
	AMIOUArns []string `cfg:"ami_ou_arns"`
	// AMIProductCodes are product codes to put on the AMI.
	AMIProductCodes []string `cfg:"ami_product_codes"`
	// AMIRegions are further regions that get a copy of the AMI. The copies run side by side.
	AMIRegions []string `cfg:"ami_regions"`
	// SkipRegionValidation does not ask whether the regions exist and are enabled.
	SkipRegionValidation bool `cfg:"skip_region_validation"`
	// KeepPartial keeps the AMIs of the other regions, and says which are
	// missing, when a region's copy has finally failed. Default: the AMIs of all
	// regions are removed again.
	KeepPartial bool `cfg:"keep_partial"`
	// SnapshotCopyDurationMinutes has AWS finish copies within this time, for a
	// price: a multiple of 15, at most 2880.
	SnapshotCopyDurationMinutes *int `cfg:"snapshot_copy_duration_minutes"`
	// Tags of the AMI, its copies and their snapshots, given when these are created.
	Tags map[string]string `cfg:"tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// Tag blocks are further Tags.
	Tag []Tag `cfg:"tag,block"`
	// SnapshotTags are further tags of the snapshots, before Tags of the same key.
	SnapshotTags map[string]string `cfg:"snapshot_tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// SnapshotTag blocks are further SnapshotTags.
	SnapshotTag []Tag `cfg:"snapshot_tag,block"`
	// SnapshotUsers are accounts that may make volumes of the AMI's snapshots.
	SnapshotUsers []string `cfg:"snapshot_users"`
	// SnapshotGroups that may do so: "all" makes the snapshots public.
	SnapshotGroups []string `cfg:"snapshot_groups"`
	// ENASupport marks the AMI as able to use enhanced networking (ENA), or not.
	// Default: as the source AMI is.
	ENASupport *bool `cfg:"ena_support"`
	// SriovSupport marks it as able to use the older enhanced networking (Intel 82599 VF).
	SriovSupport bool `cfg:"sriov_support"`
	// ForceDeregister deregisters an own AMI of the same name, in every region,
	// right before the new one is made there. -force does too.
	ForceDeregister bool `cfg:"force_deregister"`
	// ForceDeleteSnapshot deletes its snapshots as well.
	ForceDeleteSnapshot bool `cfg:"force_delete_snapshot"`
	// EncryptBoot true encrypts all snapshots of the AMI. The volumes are
	// encrypted when they are made, so that this takes no copy of the AMI. False
	// asks for unencrypted copies. Default: as the volumes are.
	EncryptBoot *bool `cfg:"encrypt_boot"`
	// KMSKeyID is the key to encrypt with in the build's region: an id, an alias
	// ("alias/x") or an ARN. It needs encrypt_boot = true. Default: the account's key for EBS.
	KMSKeyID string `cfg:"kms_key_id"`
	// RegionKMSKeyIDs are the keys of the copies, by region: one for each of
	// ami_regions, "" for the account's key for EBS there.
	RegionKMSKeyIDs map[string]string `cfg:"region_kms_key_ids"`
	// SkipSaveBuildRegion leaves no AMI in the build's own region, only in ami_regions.
	SkipSaveBuildRegion bool `cfg:"skip_save_build_region"`
	// IMDSSupport "v2.0" makes instances of the AMI require IMDSv2.
	IMDSSupport string `cfg:"imds_support"`
	// DeprecateAt is when the AMI becomes deprecated, such as "2030-01-31T12:00:00Z".
	// EC2 rounds it to the minute.
	DeprecateAt string `cfg:"deprecate_at"`
	// DeregistrationProtection keeps the finished AMI from being deregistered.
	DeregistrationProtection *DeregistrationProtection `cfg:"deregistration_protection,block"`
	// SSMParameters are names of Systems Manager parameters that are set to the
	// AMI's id in each of its regions, as the last thing. When the bake fails
	// after that, they get their former value back.
	SSMParameters []string `cfg:"ssm_parameters"`
	// AMIMappings are block devices of the AMI beside those of the machine it is made from.
	AMIMappings []BlockDevice `cfg:"ami_block_device_mappings,block"`
}

// EBSOptions are what only amazon-ebs has of the AMI.
type EBSOptions struct {
	// SkipCreateAMI makes no AMI, for a trial.
	SkipCreateAMI bool `cfg:"skip_create_ami"`
	// SkipAMIRunTags keeps run_tags off the AMI and its snapshots.
	SkipAMIRunTags bool `cfg:"skip_ami_run_tags"`
	// LaunchMappings are block devices of the machine; they become part of the AMI.
	LaunchMappings []BlockDevice `cfg:"launch_block_device_mappings,block"`
	// NoEphemeral takes the instance store's devices xvdca to xvdcz out of the
	// AMI, which Windows AMIs may need.
	NoEphemeral bool `cfg:"no_ephemeral"`
	// FastLaunch prepares snapshots for faster launches of a Windows AMI.
	FastLaunch *FastLaunch `cfg:"fast_launch,block"`
}

// Tag is one tag.
type Tag struct {
	// Key of the tag; Name is another word for it.
	Key  string `cfg:"key" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	Name string `cfg:"name" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	// Value of the tag.
	Value string `cfg:"value,required" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
}

// DeregistrationProtection guards a finished AMI.
type DeregistrationProtection struct {
	// Enabled turns it on.
	Enabled bool `cfg:"enabled"`
	// WithCooldown keeps it for 24 hours after it has been turned off. Not even
	// a bake that fails later can remove the AMI before.
	WithCooldown bool `cfg:"with_cooldown"`
}

// FastLaunch prepares faster launches. Any of its options turns it on.
type FastLaunch struct {
	// Enable turns it on with EC2's own settings.
	Enable bool `cfg:"enable_fast_launch"`
	// TemplateID or TemplateName is the launch template that snapshots are
	// prepared with: an id is for the build's region alone, a name for all.
	TemplateID   string `cfg:"template_id"`
	TemplateName string `cfg:"template_name"`
	// TemplateVersion is the template's version. Default: its default version.
	TemplateVersion int `cfg:"template_version"`
	// Regions say which template a region has.
	Regions []FastLaunchRegion `cfg:"region_launch_templates,block"`
	// MaxParallelLaunches bounds the instances that prepare snapshots, at least 6.
	MaxParallelLaunches int `cfg:"max_parallel_launches"`
	// TargetResourceCount is how many prepared snapshots are kept. Default: EC2's own, 5.
	TargetResourceCount int `cfg:"target_resource_count"`
}

// FastLaunchRegion is fast launch in one region.
type FastLaunchRegion struct {
	// Region it is for.
	Region string `cfg:"region,required"`
	// Enable false leaves the region without fast launch. Default: true.
	Enable *bool `cfg:"enable_fast_launch"`
	// TemplateID or TemplateName is the launch template there.
	TemplateID   string `cfg:"template_id"`
	TemplateName string `cfg:"template_name"`
	// TemplateVersion is its version. Default: its default version.
	TemplateVersion int `cfg:"template_version"`
}

// BlockDevice maps one block device.
type BlockDevice struct {
	// DeviceName as EC2 knows it: "/dev/xvda", "/dev/sdf".
	DeviceName string `cfg:"device_name,required"`
	// DeleteOnTermination deletes the volume with its instance. Default: false;
	// instances of the AMI then leave it behind. The bake's own instance leaves
	// it only where this is false in so many words.
	DeleteOnTermination *bool `cfg:"delete_on_termination"`
	// Encrypted encrypts the volume. Default: as its snapshot, or the account's default.
	Encrypted *bool `cfg:"encrypted"`
	// IOPS of an io1, io2 or gp3 volume.
	IOPS int `cfg:"iops"`
	// Throughput of a gp3 volume, in MiB/s.
	Throughput int `cfg:"throughput"`
	// VolumeType is "gp3", "gp2", "io1", "io2", "st1", "sc1" or "standard".
	VolumeType string `cfg:"volume_type"`
	// VolumeSize in GiB. Default: its snapshot's.
	VolumeSize int `cfg:"volume_size"`
	// SnapshotID is the snapshot that the volume starts from.
	SnapshotID string `cfg:"snapshot_id"`
	// NoDevice leaves out a device that the source AMI has.
	NoDevice bool `cfg:"no_device"`
	// VirtualName "ephemeral0", "ephemeral1", … is a device of the instance store.
	VirtualName string `cfg:"virtual_name"`
	// KMSKeyID encrypts the volume; only at launch, and it needs encrypted = true.
	KMSKeyID string `cfg:"kms_key_id"`
}

// mapping is the block device as EC2 takes it.
func (d *BlockDevice) mapping() types.BlockDeviceMapping {
	m := types.BlockDeviceMapping{DeviceName: aws.String(d.DeviceName)}
	switch {
	case d.NoDevice:
		m.NoDevice = aws.String("")
		return m
	case d.VirtualName != "":
		m.VirtualName = aws.String(d.VirtualName)
		return m
	}
	m.Ebs = &types.EbsBlockDevice{
		DeleteOnTermination: aws.Bool(d.DeleteOnTermination != nil && *d.DeleteOnTermination), Encrypted: d.Encrypted, VolumeType: types.VolumeType(d.VolumeType),
		SnapshotId: optional(d.SnapshotID), KmsKeyId: optional(d.KMSKeyID),
	}
	if d.VolumeSize > 0 {
		m.Ebs.VolumeSize = aws.Int32(int32(d.VolumeSize))
	}
	if d.IOPS > 0 && hasIOPS(d.VolumeType) {
		m.Ebs.Iops = aws.Int32(int32(d.IOPS))
	}
	if d.Throughput > 0 && d.VolumeType == "gp3" {
		m.Ebs.Throughput = aws.Int32(int32(d.Throughput))
	}
	return m
}

func hasIOPS(volumeType string) bool {
	return slices.Contains([]string{"io1", "io2", "gp3"}, volumeType)
}

func mappings(ds []BlockDevice) []types.BlockDeviceMapping {
	var ms []types.BlockDeviceMapping
	for i := range ds {
		ms = append(ms, ds[i].mapping())
	}
	return ms
}

// optional is nil for "": what is not set is not sent.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// cleanName makes a name that EC2 allows for an AMI.
func cleanName(name string) string { return badInName.ReplaceAllString(name, "-") }

// CleanResourceName implements render.Cleaner.
func (o *AMIOptions) CleanResourceName(name string) string { return cleanName(name) }

var (
	badInName    = regexp.MustCompile(`[^a-zA-Z0-9()\[\] ./\-'@_]`)
	accountID    = regexp.MustCompile(`^\d{12}$`)
	regionName   = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-\d+$`)
	orgARN       = regexp.MustCompile(`^arn:aws[a-z-]*:organizations::\d{12}:organization/o-[a-z0-9]{10,32}$`)
	ouARN        = regexp.MustCompile(`^arn:aws[a-z-]*:organizations::\d{12}:ou/o-[a-z0-9]{10,32}/ou-[0-9a-z]{4,32}-[a-z0-9]{8,32}$`)
	snapshotID   = regexp.MustCompile(`^snap-[0-9a-f]{8,17}$`)
	ephemeral    = regexp.MustCompile(`^ephemeral([0-9]|1[0-9]|2[0-3])$`)
	ssmParameter = regexp.MustCompile(`^[a-zA-Z0-9_.\-/]+$`)
	kmsKey       = regexp.MustCompile(`^(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}` +
		`|alias/[a-zA-Z0-9:/_-]{1,250}` +
		`|arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(key/(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})|alias/[a-zA-Z0-9:/_-]{1,250}))$`)
)

// encrypts says whether the AMI is to be encrypted whatever its source is.
func (o *AMIOptions) encrypts() bool { return o.EncryptBoot != nil && *o.EncryptBoot }

// regions are those that get a copy, without the build's own.
func (o *AMIOptions) regions(build string) []string {
	var all []string
	for _, r := range o.AMIRegions {
		if r != build && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// targets are the regions in which an AMI stays, the build's own first.
func (o *AMIOptions) targets(build string) []string {
	if o.SkipSaveBuildRegion {
		return o.regions(build)
	}
	return append([]string{build}, o.regions(build)...)
}

// key is the KMS key of a region; "" is the account's own for EBS.
func (o *AMIOptions) key(build, region string) string {
	if region == build && o.KMSKeyID != "" {
		return o.KMSKeyID
	}
	return o.RegionKMSKeyIDs[region]
}

// protects says whether, and how, the AMI is kept from being deregistered.
func (o *AMIOptions) protects() (on, cooldown bool) {
	p := o.DeregistrationProtection
	return p != nil && p.Enabled, p != nil && p.Enabled && p.WithCooldown
}

// problems collects findings.
type problems []config.Problem

func (ps *problems) add(option, summary, format string, args ...any) {
	*ps = append(*ps, config.Problem{Option: option, Summary: summary, Detail: fmt.Sprintf(format, args...)})
}

func (ps *problems) warn(option, summary, format string, args ...any) {
	*ps = append(*ps, config.Problem{Option: option, Summary: summary, Detail: fmt.Sprintf(format, args...), Warning: true})
}

// Check looks for what is wrong with the options whatever the account is.
// build is the build's region, "" when that is not known here.
func (o *AMIOptions) Check(build string) []config.Problem {
	var ps problems
	o.checkName(&ps)
	o.checkSharing(&ps)
	o.checkRegions(&ps, build)
	o.checkEncryption(&ps, build)
	if t := o.AMIVirtualizationType; t != "" && t != "hvm" && t != "paravirtual" {
		ps.add("ami_virtualization_type", "Unknown type of virtualization", `It is "hvm" or "paravirtual", not %q.`, t)
	}
	if o.IMDSSupport != "" && o.IMDSSupport != "v2.0" {
		ps.add("imds_support", "Unknown version of the metadata service", `The only one to require is "v2.0"; leave the option out otherwise.`)
	}
	if d := o.DeprecateAt; d != "" {
		switch at, err := time.Parse(time.RFC3339, d); {
		case err != nil:
			ps.add("deprecate_at", "Not a time", `Write it as in RFC 3339: "2030-01-31T12:00:00Z".`)
		case at.Before(time.Now()):
			ps.add("deprecate_at", "The AMI would be deprecated before it is made", "%s is in the past; EC2 refuses that.", d)
		case at.After(time.Now().AddDate(10, 0, 0)):
			ps.add("deprecate_at", "Too far away", "EC2 deprecates an AMI at most ten years from now.")
		}
	}
	if n := o.SnapshotCopyDurationMinutes; n != nil && (*n < 15 || *n > 2880 || *n%15 != 0) {
		ps.add("snapshot_copy_duration_minutes", "Not a duration that EC2 takes", "It is a multiple of 15, from 15 to 2880, not %d.", *n)
	}
	if p := o.DeregistrationProtection; p != nil && p.WithCooldown && !p.Enabled {
		ps.warn("deregistration_protection.with_cooldown", "Without effect", "The protection is not on; set enabled = true.")
	}
	if o.ForceDeleteSnapshot && !o.ForceDeregister {
		ps.warn("force_delete_snapshot", "Without effect", "Snapshots are deleted only with the AMI that force_deregister, or -force, deregisters.")
	}
	seen := map[string]bool{}
	for i, name := range o.SSMParameters {
		at := fmt.Sprintf("ssm_parameters.%d", i)
		if first := strings.ToLower(strings.TrimPrefix(name, "/")); len(name) > 1011 || !ssmParameter.MatchString(name) || strings.HasPrefix(first, "aws") || strings.HasPrefix(first, "ssm") {
			ps.add(at, "Not a name for a parameter", "Systems Manager takes letters, digits and _.-/ and no name that begins with aws or ssm; this is %q.", name)
		}
		if seen[name] {
			ps.add(at, "Parameter given twice", "%q stands in the list already.", name)
		}
		seen[name] = true
	}
	checkTags(&ps, "tags", o.Tags, "tag", o.Tag)
	checkTags(&ps, "snapshot_tags", o.SnapshotTags, "snapshot_tag", o.SnapshotTag)
	checkDevices(&ps, "ami_block_device_mappings", o.AMIMappings, false)
	checkLate(&ps, o)
	return ps
}

func (o *AMIOptions) checkName(ps *problems) {
	n := o.AMIName
	if n == "" {
		return // Decode has said that it is required
	}
	if len(n) < 3 || len(n) > 128 {
		ps.add("ami_name", "Not a name for an AMI", "EC2 takes 3 to 128 characters; this has %d: %q.", len(n), n)
	}
	if bad := badInName.FindString(n); bad != "" {
		ps.add("ami_name", "Not a name for an AMI", `EC2 does not take %q in %q. Write "{{ clean_resource_name %s }}" or regex_replace to have such characters replaced.`, bad, n, "`…`")
	}
}

// listOption is an option that is a list.
type listOption struct {
	option string
	list   []string
}

// groups are the options that may share with everybody.
func (o *AMIOptions) groups() []listOption {
	return []listOption{{"ami_groups", o.AMIGroups}, {"snapshot_groups", o.SnapshotGroups}}
}

func (o *AMIOptions) checkSharing(ps *problems) {
	for _, l := range []struct {
		option string
		list   []string
		is     *regexp.Regexp
		what   string
	}{
		{"ami_users", o.AMIUsers, accountID, "an account's id of twelve digits"},
		{"snapshot_users", o.SnapshotUsers, accountID, "an account's id of twelve digits"},
		{"ami_org_arns", o.AMIOrgArns, orgARN, `an organization's ARN, such as "arn:aws:organizations::123456789012:organization/o-example1234"`},
		{"ami_ou_arns", o.AMIOUArns, ouARN, `an organizational unit's ARN, such as "arn:aws:organizations::123456789012:ou/o-example1234/ou-ab12-11111111"`},
	} {
		for i, v := range l.list {
			if !l.is.MatchString(v) {
				ps.add(fmt.Sprintf("%s.%d", l.option, i), "Cannot be shared with", "%q is not %s.", v, l.what)
			}
		}
	}
	for _, l := range o.groups() {
		for i, v := range l.list {
			if v != "all" {
				ps.add(fmt.Sprintf("%s.%d", l.option, i), "Unknown group", `EC2 knows only the group "all", which is everybody; this is %q.`, v)
			}
		}
	}
}

func (o *AMIOptions) checkRegions(ps *problems, build string) {
	for i, r := range o.AMIRegions {
		if !regionName.MatchString(r) && !o.SkipRegionValidation {
			ps.add(fmt.Sprintf("ami_regions.%d", i), "Not a region", `Regions are named like "eu-west-1"; this is %q.`, r)
		}
	}
	if o.SkipSaveBuildRegion && len(o.regions(build)) == 0 {
		ps.add("skip_save_build_region", "Nothing would be left", "The AMI is kept in none of the regions: name others in ami_regions, or leave this out.")
	}
	for _, r := range slices.Sorted(maps.Keys(o.RegionKMSKeyIDs)) {
		if r != build && !slices.Contains(o.AMIRegions, r) {
			ps.add("region_kms_key_ids."+r, "A key for a region without a copy", "%s is not in ami_regions.%s", r, config.DidYouMean(r, o.AMIRegions))
		}
	}
	if len(o.RegionKMSKeyIDs) > 0 {
		for _, r := range o.regions(build) {
			if _, ok := o.RegionKMSKeyIDs[r]; !ok {
				ps.add("region_kms_key_ids", "A region has no key", `%s is in ami_regions: give it a key, or "" for the account's own.`, r)
			}
		}
	}
}

func (o *AMIOptions) checkEncryption(ps *problems, build string) {
	if k := o.KMSKeyID; k != "" {
		if !o.encrypts() {
			ps.add("kms_key_id", "A key, but no encryption", "kms_key_id needs encrypt_boot = true.")
		}
		if !kmsKey.MatchString(k) {
			ps.add("kms_key_id", "Not a KMS key", `It is a key's id, "alias/NAME", or the ARN of either.`)
		}
	}
	for _, r := range slices.Sorted(maps.Keys(o.RegionKMSKeyIDs)) {
		k := o.RegionKMSKeyIDs[r]
		if k != "" && !kmsKey.MatchString(k) {
			ps.add("region_kms_key_ids."+r, "Not a KMS key", `It is a key's id, "alias/NAME", or the ARN of either.`)
		}
		if parts := strings.Split(k, ":"); len(parts) == 6 && parts[3] != r {
			ps.add("region_kms_key_ids."+r, "A key of another region", "The ARN is of a key in %s; copies in %s are encrypted by a key there.", parts[3], r)
		}
	}
	if parts := strings.Split(o.KMSKeyID, ":"); len(parts) == 6 && build != "" && parts[3] != build {
		ps.add("kms_key_id", "A key of another region", "The ARN is of a key in %s, but the build is in %s.", parts[3], build)
	}
	if !o.encrypts() {
		return
	}
	for _, l := range o.groups() {
		if slices.Contains(l.list, "all") {
			ps.add(l.option, "An encrypted AMI cannot be public", `EC2 does not share encrypted snapshots with "all". Remove encrypt_boot, or share with accounts.`)
		}
	}
	for _, l := range []listOption{
		{"ami_users", o.AMIUsers}, {"ami_org_arns", o.AMIOrgArns}, {"ami_ou_arns", o.AMIOUArns}, {"snapshot_users", o.SnapshotUsers},
	} {
		if len(l.list) == 0 {
			continue
		}
		for _, r := range o.targets(build) {
			if o.key(build, r) != "" {
				continue
			}
			where, what := "region_kms_key_ids", "In "+r
			if r == build {
				where, what = "kms_key_id", "In the build's region"
			}
			ps.add(l.option, "Encrypted with a key that cannot be shared", "%s the snapshots are encrypted with the account's default key, which no other account can use. Set a key of your own in %s.", what, where)
			break
		}
	}
}

// Check looks for what is wrong with these options beside those of the AMI.
func (o *EBSOptions) Check(build string, ami *AMIOptions) []config.Problem {
	var ps problems
	checkDevices(&ps, "launch_block_device_mappings", o.LaunchMappings, true)
	f := o.FastLaunch
	if f == nil {
		return ps
	}
	if f.TemplateID != "" && f.TemplateName != "" {
		ps.add("fast_launch.template_name", "A launch template given twice", "Give template_id or template_name, not both.")
	}
	if f.TemplateVersion < 0 || f.TemplateVersion > 0 && f.TemplateID == "" && f.TemplateName == "" {
		ps.add("fast_launch.template_version", "A version of no template", "It is the version of the template in template_id or template_name.")
	}
	if n := f.MaxParallelLaunches; n != 0 && n < 6 {
		ps.add("fast_launch.max_parallel_launches", "Too few", "EC2 takes 6 or more, not %d.", n)
	}
	if n := f.TargetResourceCount; n < 0 {
		ps.add("fast_launch.target_resource_count", "Too few", "It is 1 or more, not %d.", n)
	}
	seen := map[string]bool{}
	for i, r := range f.Regions {
		at := fmt.Sprintf("fast_launch.region_launch_templates.%d.", i)
		if build != "" && !slices.Contains(ami.targets(build), r.Region) {
			ps.add(at+"region", "No AMI there", "%s is not one of the regions that get an AMI.%s", r.Region, config.DidYouMean(r.Region, ami.targets(build)))
		}
		if seen[r.Region] {
			ps.add(at+"region", "Region given twice", "%s has a launch template already.", r.Region)
		}
		seen[r.Region] = true
		if r.TemplateID != "" && r.TemplateName != "" {
			ps.add(at+"template_name", "A launch template given twice", "Give template_id or template_name, not both.")
		}
		if r.TemplateVersion < 0 || r.TemplateVersion > 0 && r.TemplateID == "" && r.TemplateName == "" {
			ps.add(at+"template_version", "A version of no template", "It is the version of the template in template_id or template_name.")
		}
	}
	return ps
}

// checkDevices checks block devices. Only at launch may a device have a key.
func checkDevices(ps *problems, option string, ds []BlockDevice, launch bool) {
	seen := map[string]bool{}
	for i := range ds {
		d := &ds[i]
		at := fmt.Sprintf("%s.%d.", option, i)
		if seen[d.DeviceName] {
			ps.add(at+"device_name", "Device given twice", "%s stands in %s already.", d.DeviceName, option)
		}
		seen[d.DeviceName] = true
		if d.NoDevice && (d.VirtualName != "" || d.SnapshotID != "" || d.VolumeSize != 0) {
			ps.add(at+"no_device", "Both a device and none", "no_device leaves the device out; nothing else can be said of it.")
		}
		if d.VirtualName != "" && !ephemeral.MatchString(d.VirtualName) {
			ps.add(at+"virtual_name", "Not a device of the instance store", `They are named "ephemeral0" to "ephemeral23".`)
		}
		if d.SnapshotID != "" && !snapshotID.MatchString(d.SnapshotID) {
			ps.add(at+"snapshot_id", "Not a snapshot", `A snapshot's id looks like "snap-0123456789abcdef0"; this is %q.`, d.SnapshotID)
		}
		if d.KMSKeyID != "" {
			switch {
			case !launch:
				ps.add(at+"kms_key_id", "Not possible here", "A key is given where the volume is made: in launch_block_device_mappings.")
			case d.Encrypted == nil || !*d.Encrypted:
				ps.add(at+"kms_key_id", "A key, but no encryption", "kms_key_id needs encrypted = true.")
			case !kmsKey.MatchString(d.KMSKeyID):
				ps.add(at+"kms_key_id", "Not a KMS key", `It is a key's id, "alias/NAME", or the ARN of either.`)
			}
		}
		d.checkVolume(ps, at)
	}
}

// What EC2 takes for the volume types that have settings.
var (
	iopsRange = map[string][2]int{"io1": {100, 64000}, "io2": {100, 256000}, "gp3": {3000, 80000}}
	iopsRatio = map[string]int{"io1": 50, "io2": 1000, "gp3": 500}
	maxSize   = map[string]int{"standard": 1024, "gp2": 16384, "io1": 16384, "st1": 16384, "sc1": 16384, "io2": 65536, "gp3": 65536}
	minSize   = map[string]int{"io1": 4, "io2": 4, "st1": 125, "sc1": 125}
)

func (d *BlockDevice) checkVolume(ps *problems, at string) {
	limit, known := maxSize[d.VolumeType]
	if d.VolumeType != "" && !known {
		ps.add(at+"volume_type", "Unknown type of volume", "EC2 has %s, not %q.", strings.Join(slices.Sorted(maps.Keys(maxSize)), ", "), d.VolumeType)
		return
	}
	if d.VolumeSize < 0 || known && d.VolumeSize > limit || d.VolumeSize != 0 && d.VolumeSize < minSize[d.VolumeType] {
		ps.add(at+"volume_size", "Not a size for the volume", "A %s volume has %d to %d GiB, not %d.", d.VolumeType, max(1, minSize[d.VolumeType]), limit, d.VolumeSize)
	}
	r, takes := iopsRange[d.VolumeType]
	switch {
	case d.IOPS == 0 && (d.VolumeType == "io1" || d.VolumeType == "io2"):
		ps.add(at+"iops", "IOPS missing", "A %s volume needs iops, from %d to %d.", d.VolumeType, r[0], r[1])
	case d.IOPS != 0 && !takes:
		ps.add(at+"iops", "Without effect", `Only volumes of type "io1", "io2" and "gp3" have iops; set volume_type.`)
	case d.IOPS != 0 && (d.IOPS < r[0] || d.IOPS > r[1]):
		ps.add(at+"iops", "Out of range", "A %s volume has %d to %d IOPS, not %d.", d.VolumeType, r[0], r[1], d.IOPS)
	case d.VolumeSize > 0 && d.IOPS > max(iopsRatio[d.VolumeType]*d.VolumeSize, r[0]):
		ps.add(at+"iops", "Too many for its size", "A %s volume has at most %d IOPS for each GiB; %d GiB are too few for %d.", d.VolumeType, iopsRatio[d.VolumeType], d.VolumeSize, d.IOPS)
	}
	switch {
	case d.Throughput != 0 && d.VolumeType != "gp3":
		ps.add(at+"throughput", "Without effect", `Only volumes of type "gp3" have a throughput; set volume_type.`)
	case d.Throughput != 0 && (d.Throughput < 125 || d.Throughput > 2000):
		ps.add(at+"throughput", "Out of range", "A gp3 volume has 125 to 2000 MiB/s, not %d.", d.Throughput)
	}
}

// checkTags checks a map of tags and the blocks beside it.
func checkTags(ps *problems, option string, m map[string]string, blockOption string, blocks []Tag) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		checkTag(ps, option+"."+k, k, m[k])
	}
	seen := map[string]bool{}
	for i, t := range blocks {
		at := fmt.Sprintf("%s.%d", blockOption, i)
		key := t.key()
		if t.Key != "" && t.Name != "" {
			ps.add(at+".name", "A tag with two keys", "name is another word for key; give one of them.")
		}
		if _, ok := m[key]; ok || seen[key] {
			ps.add(at, "Tag given twice", "There is a tag %q already.", key)
		}
		seen[key] = true
		checkTag(ps, at, key, t.Value)
	}
}

func (t *Tag) key() string {
	if t.Key != "" {
		return t.Key
	}
	return t.Name
}

// checkTag checks one tag, whose parts may still have to be rendered.
func checkTag(ps *problems, at, key, value string) {
	if key == "" {
		ps.add(at, "A tag without a key", "Set key.")
	}
	if strings.Contains(key+value, "{{") {
		if err := lateError(key, lateVars); err != nil { // values are checked with all late options
			ps.add(at, "Invalid Go template", "The key %q cannot be rendered: %s.", key, err)
		}
		return
	}
	if err := tagError(key, value); err != nil {
		ps.add(at, "Not a tag", "%s.", err)
	}
}

// tagError says what EC2 does not take of a tag.
func tagError(key, value string) error {
	switch {
	case len([]rune(key)) > 127:
		return fmt.Errorf("the key has %d characters; EC2 takes 127", len([]rune(key)))
	case len([]rune(value)) > 256:
		return fmt.Errorf("the value of %q has %d characters; EC2 takes 256", key, len([]rune(value)))
	case strings.HasPrefix(strings.ToLower(key), "aws:"):
		return fmt.Errorf("%q begins with aws:, which is Amazon's own", key)
	case strings.HasPrefix(key, "ingot:"):
		return fmt.Errorf("%q begins with ingot:, by which Ingot finds what it has made", key)
	}
	return nil
}

// checkLate checks the Go templates that are rendered when the source AMI is known.
func checkLate(ps *problems, options any) {
	config.EachLate(options, func(field config.Field, option, s string) {
		if err := lateError(s, field.Vars); err != nil {
			ps.add(option, "Invalid Go template", "%q cannot be rendered: %s.", option, err)
		}
	})
}

// lateVars are the values of late-rendered options.
var lateVars = strings.Fields("BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags")

func lateError(s string, vars []string) error {
	if err := render.Check(s); err != nil {
		return err
	}
	return render.CheckNames(s, vars, render.Env{Now: time.Now(), Clean: cleanName})
}
