package amazon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// preflight asks the account, before anything is made in it, whether the bake
// can come to a good end. What it looks up is remembered for the bake.
type preflight struct {
	session *awscloud.Session
	looks   *lookups
	ami     *AMIOptions
	// ebs is nil for builders without these options; run is nil for those that
	// boot no instance.
	ebs *EBSOptions
	run *RunOptions
	// comm is nil where run is.
	comm *communicator.Options
	// devicesOption is what ebs.LaunchMappings are called. Default: launch_block_device_mappings.
	devicesOption string
	// mappings are those to launch with, of the source AMI.
	mappings func(types.Image) []types.BlockDeviceMapping
	// options is all of them, for those that are rendered late.
	options any
	force   bool
	env     render.Env

	lates []lateString
}

// lateString is a string that is rendered late, by its option.
type lateString struct{ option, text string }

// check makes all checks side by side. What they find stands in a fixed order.
func (p *preflight) check(ctx context.Context) []config.Problem {
	checks := []func(context.Context, *problems){p.regions, p.source, p.instanceTypes, p.quota, p.network, p.profile, p.launch, p.keys}
	if p.ebs == nil || !p.ebs.SkipCreateAMI {
		checks = append(checks, p.names, p.parameters, p.copying)
	}
	// EachLate writes what it reads: not beside the checks.
	config.EachLate(p.options, func(_ config.Field, option, s string) { p.lates = append(p.lates, lateString{option, s}) })
	found := make([]problems, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { c(ctx, &found[i]) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return []config.Problem{{Summary: "The check was not finished", Detail: context.Cause(ctx).Error() + "."}}
	}
	return slices.Concat(found...)
}

// unchecked says that something could not be checked: an error, unless it was
// only that the check itself is not allowed, while the bake may be.
func (ps *problems) unchecked(option, what string, err error) {
	text := strings.TrimSuffix(awscloud.Explain(err).Error(), ".") + "."
	switch awscloud.Code(err) {
	case "UnauthorizedOperation", "AccessDenied", "AccessDeniedException":
		ps.warn(option, "It could not be checked "+what, "The credentials may not ask: %s", text)
	default:
		ps.add(option, "It could not be checked "+what, "%s", text)
	}
}

// regionStates are the regions that the account sees, by name: whether it has
// opted in to each. Nil: nobody is to be asked.
func (p *preflight) regionStates(ctx context.Context) (map[string]string, error) {
	if p.ami.SkipRegionValidation || len(p.ami.regions(p.session.Region)) == 0 {
		return nil, nil // that the build's region answers is seen by everything else
	}
	return p.looks.regions.get(ctx, func(ctx context.Context) (map[string]string, error) {
		out, err := p.session.EC2("").DescribeRegions(ctx, &ec2.DescribeRegionsInput{AllRegions: aws.Bool(true)})
		if err != nil {
			return nil, err
		}
		known := map[string]string{}
		for _, r := range out.Regions {
			known[aws.ToString(r.RegionName)] = aws.ToString(r.OptInStatus)
		}
		return known, nil
	})
}

const notOptedIn = "not-opted-in"

// usable are the regions of a list that can be asked something.
func (p *preflight) usable(ctx context.Context, regions []string) []string {
	known, err := p.regionStates(ctx)
	if err != nil || known == nil {
		return regions
	}
	return slices.DeleteFunc(slices.Clone(regions), func(r string) bool {
		status, ok := known[r]
		return !ok || status == notOptedIn
	})
}

// regions checks that the regions exist and are enabled.
func (p *preflight) regions(ctx context.Context, ps *problems) {
	known, err := p.regionStates(ctx)
	if err != nil {
		ps.unchecked("ami_regions", "which regions there are", err)
		return
	}
	for i, r := range p.ami.AMIRegions {
		at := fmt.Sprintf("ami_regions.%d", i)
		switch status, ok := known[r]; {
		case known == nil:
		case !ok:
			ps.add(at, "No such region", "%q is none of the %d regions that this account sees.%s", r, len(known), config.DidYouMean(r, slices.Sorted(maps.Keys(known))))
		case status == notOptedIn:
			ps.add(at, "The region is not enabled", "The account has to opt in to %s first.", r)
		}
	}
}

// sourceOption is the option that names the source AMI.
func (p *preflight) sourceOption() string {
	if p.run.SourceAMI == "" {
		return "source_ami_filter"
	}
	return "source_ami"
}

// source checks that the source AMI is there and fits the rest.
func (p *preflight) source(ctx context.Context, ps *problems) {
	if p.run == nil {
		return
	}
	image, err := p.looks.Image(ctx)
	if err != nil {
		ps.add(p.sourceOption(), "No source AMI", "%s.", trimDot(err))
		return
	}
	id := aws.ToString(image.ImageId)
	if image.State != "" && image.State != types.ImageStateAvailable {
		ps.add(p.sourceOption(), "The source AMI cannot be launched", "%s is %s.", id, image.State)
	}
	if image.RootDeviceType != types.DeviceTypeEbs {
		ps.add(p.sourceOption(), "The source AMI has no EBS volume", "The root device of %s is of type %q. Choose an EBS-backed AMI.", id, image.RootDeviceType)
	}
	if v := p.ami.AMIVirtualizationType; v != "" && string(image.VirtualizationType) != v {
		ps.add("ami_virtualization_type", "The source AMI is of another type", "%s is %s, and so will be an AMI of it.", id, image.VirtualizationType)
	}
	if image.VirtualizationType != types.VirtualizationTypeHvm {
		if aws.ToBool(p.ami.ENASupport) {
			ps.add("ena_support", "Not with this source AMI", "Enhanced networking needs an HVM image; %s is %s.", id, image.VirtualizationType)
		}
		if p.ami.SriovSupport {
			ps.add("sriov_support", "Not with this source AMI", "Enhanced networking needs an HVM image; %s is %s.", id, image.VirtualizationType)
		}
	}
	if p.ebs != nil && len(p.ebs.FastLaunch.plan(p.session.Region, []string{p.session.Region})) > 0 && image.Platform != types.PlatformValuesWindows {
		ps.add("fast_launch", "Fast launch is for Windows", "%s is no Windows AMI.", id)
	}
	if p.comm != nil && isWindowsImage(image) && !saysHostKey(p.comm) {
		ps.add("ssh_host_key", "The host key would not be known", "%s.", noWindowsKey)
	}
	p.devices(image, ps)
	p.late(image, ps)
}

// devices checks the launch mappings against the source AMI's.
func (p *preflight) devices(image types.Image, ps *problems) {
	if p.ebs == nil {
		return
	}
	root := aws.ToString(image.RootDeviceName)
	for i := range p.ebs.LaunchMappings {
		d := &p.ebs.LaunchMappings[i]
		at := fmt.Sprintf("%s.%d.", cmp.Or(p.devicesOption, "launch_block_device_mappings"), i)
		same := func(m types.BlockDeviceMapping) bool { return aws.ToString(m.DeviceName) == d.DeviceName }
		if j := slices.IndexFunc(image.BlockDeviceMappings, same); j >= 0 {
			if ebs := image.BlockDeviceMappings[j].Ebs; ebs != nil && d.VolumeSize > 0 && d.SnapshotID == "" && d.VolumeSize < int(aws.ToInt32(ebs.VolumeSize)) {
				ps.add(at+"volume_size", "Smaller than the source AMI", "%s of %s has %d GiB; a volume cannot be smaller than its snapshot.", d.DeviceName, aws.ToString(image.ImageId), *ebs.VolumeSize)
			}
			continue
		}
		if rootLike(d.DeviceName) && d.SnapshotID == "" && !d.NoDevice && d.VirtualName == "" {
			ps.warn(at+"device_name", "Not the root device", "The root device of %s is %s; %s is a further, empty volume.", aws.ToString(image.ImageId), root, d.DeviceName)
		}
	}
}

// rootLike says of a device's name that people mean the root device by it.
func rootLike(name string) bool {
	return slices.Contains([]string{"/dev/sda1", "/dev/xvda", "/dev/sda", "xvda", "sda1"}, name)
}

// late renders what is rendered late, now that the source AMI is known.
func (p *preflight) late(image types.Image, ps *problems) {
	data := lateData(p.session.Region, image)
	seen := map[string]bool{}
	add := func(option string, err error) {
		if !seen[option] {
			ps.add(option, "Invalid Go template", "%q cannot be rendered: %s.", option, err)
		}
		seen[option] = true
	}
	_, errs := p.ami.render(data, p.env)
	for _, e := range errs {
		add(e.Option, e.Err)
	}
	for _, l := range p.lates {
		said := func(e config.OptionError) bool {
			return e.Option == l.option || strings.HasPrefix(l.option, e.Option+".")
		}
		if slices.ContainsFunc(errs, said) {
			continue
		}
		if _, err := renderLate(l.text, data, p.env); err != nil {
			add(l.option, err)
		}
	}
}

// typeOption is the option that an instance type stands in.
func (p *preflight) typeOption(i int) string {
	if len(p.run.SpotInstanceTypes) > 0 {
		return fmt.Sprintf("spot_instance_types.%d", i)
	}
	return "instance_type"
}

// instanceTypes checks that the types exist, fit the source AMI, and are to be
// had where the instance goes.
func (p *preflight) instanceTypes(ctx context.Context, ps *problems) {
	if p.run == nil {
		return
	}
	names := p.run.types()
	known, err := p.knownTypes(ctx)
	if err != nil {
		ps.unchecked(p.typeOption(0), "whether the instance type fits", err)
		return
	}
	image, imageErr := p.looks.Image(ctx)
	for i, n := range names {
		j := slices.IndexFunc(known, func(t types.InstanceTypeInfo) bool { return string(t.InstanceType) == n })
		if j < 0 {
			ps.add(p.typeOption(i), "No such instance type", "%s does not exist in %s.%s", n, p.session.Region, likeType(n))
			continue
		}
		if imageErr == nil {
			p.fits(known[j], image, p.typeOption(i), ps)
		}
	}
	p.offered(ctx, ps)
}

// knownTypes are those of the types that exist in the region.
func (p *preflight) knownTypes(ctx context.Context) ([]types.InstanceTypeInfo, error) {
	return p.looks.types.get(ctx, func(ctx context.Context) ([]types.InstanceTypeInfo, error) {
		// A filter bears a type that does not exist.
		out, err := p.session.EC2("").DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{Filters: []types.Filter{{Name: aws.String("instance-type"), Values: p.run.types()}}})
		if err != nil {
			return nil, err
		}
		return out.InstanceTypes, nil
	})
}

// likeType suggests a type that is written nearly so.
func likeType(name string) string {
	var names []string
	for _, t := range types.InstanceType("").Values() {
		if string(t) == name {
			return "" // it is right, and only not there
		}
		names = append(names, string(t))
	}
	return config.DidYouMean(name, names)
}

func (p *preflight) fits(t types.InstanceTypeInfo, image types.Image, option string, ps *problems) {
	id := aws.ToString(image.ImageId)
	if t.ProcessorInfo != nil && image.Architecture != "" {
		var archs []string
		for _, a := range t.ProcessorInfo.SupportedArchitectures {
			archs = append(archs, string(a))
		}
		if len(archs) > 0 && !slices.Contains(archs, string(image.Architecture)) {
			ps.add(option, "The processor is another one", "The source AMI %s is for %s; %s has %s.", id, image.Architecture, t.InstanceType, strings.Join(archs, " and "))
		}
	}
	if v := t.SupportedVirtualizationTypes; len(v) > 0 && image.VirtualizationType != "" && !slices.Contains(v, image.VirtualizationType) {
		ps.add(option, "Virtualized in another way", "The source AMI %s is %s, which %s cannot run.", id, image.VirtualizationType, t.InstanceType)
	}
	if n := t.NetworkInfo; n != nil && n.EnaSupport == types.EnaSupportRequired && image.EnaSupport != nil && !*image.EnaSupport {
		ps.add(option, "The source AMI cannot use its network", "%s needs an AMI with enhanced networking (ENA), which %s has not.", t.InstanceType, id)
	}
	if e := t.EbsInfo; e != nil && e.EncryptionSupport == types.EbsEncryptionSupportUnsupported && p.ami.encrypts() {
		ps.add(option, "No encrypted volumes", "%s cannot have encrypted volumes, which encrypt_boot asks for.", t.InstanceType)
	}
}

// offered checks that at least one type is to be had in at least one of the zones.
func (p *preflight) offered(ctx context.Context, ps *problems) {
	n, err := p.looks.Network(ctx)
	if err != nil {
		return // network says so
	}
	var zones []string
	for _, s := range n.subnets {
		zones = append(zones, aws.ToString(s.AvailabilityZone))
	}
	if z := p.run.AvailabilityZone; z != "" && len(zones) == 0 {
		zones = []string{z}
	}
	where, err := p.looks.zones.get(ctx, func(ctx context.Context) (map[string]bool, error) {
		out, err := p.session.EC2("").DescribeInstanceTypeOfferings(ctx, &ec2.DescribeInstanceTypeOfferingsInput{
			LocationType: types.LocationTypeAvailabilityZone,
			Filters:      []types.Filter{{Name: aws.String("instance-type"), Values: p.run.types()}},
		})
		if err != nil {
			return nil, err
		}
		where := map[string]bool{}
		for _, o := range out.InstanceTypeOfferings {
			where[aws.ToString(o.Location)] = true
		}
		return where, nil
	})
	if err != nil {
		ps.unchecked(p.typeOption(0), "where the instance type is to be had", err)
		return
	}
	if len(where) == 0 {
		ps.add(p.typeOption(0), "Not to be had in the region", "%s has none of %s.", p.session.Region, strings.Join(p.run.types(), ", "))
		return
	}
	if len(zones) > 0 && !slices.ContainsFunc(zones, func(z string) bool { return where[z] }) {
		ps.add(p.typeOption(0), "Not to be had in the zone", "%s: there is none in %s, but in %s.",
			strings.Join(p.run.types(), ", "), strings.Join(slices.Compact(slices.Sorted(slices.Values(zones))), ", "), strings.Join(slices.Sorted(maps.Keys(where)), ", "))
	}
}

// network checks that VPC, subnet and security groups are there.
func (p *preflight) network(ctx context.Context, ps *problems) {
	if p.run == nil {
		return
	}
	n, err := p.looks.Network(ctx)
	if err != nil {
		ps.add(p.networkOption(), "No network", "%s.", trimDot(err))
		return
	}
	if len(n.subnets) > 0 && !slices.ContainsFunc(n.subnets, func(s types.Subnet) bool { return s.AvailableIpAddressCount == nil || *s.AvailableIpAddressCount > 0 }) {
		ps.add(p.networkOption(), "No address is left", "No subnet that fits has a free address, such as %s.", aws.ToString(n.subnets[0].SubnetId))
	}
	ids, err := p.looks.Groups(ctx)
	if err != nil {
		ps.add("security_group_filter", "No security group", "%s.", trimDot(err))
		return
	}
	if len(p.run.groups()) == 0 {
		return
	}
	out, err := p.session.EC2("").DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: aws.String("group-id"), Values: ids}}})
	option := "security_group_ids"
	if p.run.SecurityGroupID != "" {
		option = "security_group_id"
	}
	if err != nil {
		ps.unchecked(option, "whether the security groups exist", err)
		return
	}
	for _, id := range ids {
		i := slices.IndexFunc(out.SecurityGroups, func(g types.SecurityGroup) bool { return aws.ToString(g.GroupId) == id })
		switch {
		case i < 0:
			ps.add(option, "No such security group", "%s does not exist in %s.", id, p.session.Region)
		case n.vpc != "" && aws.ToString(out.SecurityGroups[i].VpcId) != n.vpc:
			ps.add(option, "A security group of another VPC", "%s is in %s, and the instance will be in %s.", id, aws.ToString(out.SecurityGroups[i].VpcId), n.vpc)
		}
	}
}

func (p *preflight) networkOption() string {
	o := p.run
	switch {
	case o.SubnetID != "":
		return "subnet_id"
	case o.SubnetFilter != nil && !o.SubnetFilter.empty():
		return "subnet_filter"
	case !o.VPCFilter.empty():
		return "vpc_filter"
	case o.VPCID != "":
		return "vpc_id"
	}
	return "availability_zone"
}

// profile checks that the instance profile exists.
func (p *preflight) profile(ctx context.Context, ps *problems) {
	if p.run == nil || p.run.IAMInstanceProfile == "" || p.run.SkipProfileValidation {
		return
	}
	_, err := p.session.IAM().GetInstanceProfile(ctx, &iam.GetInstanceProfileInput{InstanceProfileName: &p.run.IAMInstanceProfile})
	switch {
	case awscloud.IsNotFound(err):
		ps.add("iam_instance_profile", "No such instance profile", "%q does not exist in the account. It is the profile's name, not that of its role and no ARN.", p.run.IAMInstanceProfile)
	case err != nil:
		ps.unchecked("iam_instance_profile", "whether the instance profile exists", err)
	}
}

// launch has EC2 say whether it would launch the instance: it checks the
// permissions, and much of what is asked for.
func (p *preflight) launch(ctx context.Context, ps *problems) {
	if p.run == nil || p.run.spot() {
		return // a fleet has no such trial that says as much
	}
	image, err := p.looks.Image(ctx)
	if err != nil {
		return
	}
	n, err := p.looks.Network(ctx)
	if err != nil {
		return
	}
	in := &ec2.RunInstancesInput{
		DryRun: aws.Bool(true), ImageId: image.ImageId, InstanceType: types.InstanceType(p.run.InstanceType), MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		BlockDeviceMappings: p.mappings(image),
		TagSpecifications: []types.TagSpecification{
			{ResourceType: types.ResourceTypeInstance, Tags: ec2Tags(map[string]string{tagBuild: "preflight"})},
			{ResourceType: types.ResourceTypeVolume, Tags: ec2Tags(map[string]string{tagBuild: "preflight"})},
		},
	}
	if len(n.subnets) > 0 {
		in.SubnetId = n.subnets[0].SubnetId
	}
	if p.run.IAMInstanceProfile != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: &p.run.IAMInstanceProfile}
	}
	_, err = p.session.EC2("").RunInstances(ctx, in)
	switch code := awscloud.Code(err); {
	case err == nil, code == "DryRunOperation", awscloud.IsCapacity(err):
	case strings.Contains(strings.ToLower(err.Error()), "iaminstanceprofile"):
		// profile says so; a new one may not be known everywhere yet
	case code == "UnauthorizedOperation":
		ps.add("", "The instance may not be launched", "%s. `ingot iam-policy` prints what the bake needs.", trimDot(awscloud.Explain(err)))
	default:
		ps.add("", "The instance cannot be launched", "EC2 says beforehand: %s.", trimDot(awscloud.Explain(err)))
	}
}

// names checks that the AMI's name is free in each region that it will be in.
func (p *preflight) names(ctx context.Context, ps *problems) {
	replace := p.ami.ForceDeregister || p.force
	each(p.usable(ctx, p.ami.targets(p.session.Region)), ps, func(region string, ps *problems) {
		found, err := named(ctx, p.session, region, p.ami.AMIName)
		if err != nil {
			ps.unchecked("ami_name", "whether the AMI's name is free in "+region, err)
			return
		}
		for _, i := range found {
			id := aws.ToString(i.ImageId)
			if !replace {
				ps.add("ami_name", "The name is taken", "%s in %s is named %q. Choose another name, such as one with {{timestamp}}, or set force_deregister.", id, region, p.ami.AMIName)
			} else if d := aws.ToString(i.DeregistrationProtection); d != "" && d != "disabled" {
				ps.add("ami_name", "The former AMI is protected", "%s in %s is protected from being deregistered (%s), and has the name. Turn that off first.", id, region, d)
			}
		}
	})
}

// each asks something of several regions, side by side; what is found stands in
// their order.
func each(regions []string, ps *problems, do func(region string, ps *problems)) {
	found := make([]problems, len(regions))
	var wg sync.WaitGroup
	for i, r := range regions {
		wg.Go(func() { do(r, &found[i]) })
	}
	wg.Wait()
	*ps = append(*ps, slices.Concat(found...)...)
}

// keys checks that the KMS keys are there and can encrypt volumes.
func (p *preflight) keys(ctx context.Context, ps *problems) {
	type use struct{ region, key, option string }
	var uses []use
	build := p.session.Region
	for _, r := range p.usable(ctx, append([]string{build}, p.ami.regions(build)...)) {
		if k := p.ami.key(build, r); k != "" {
			option := "region_kms_key_ids." + r
			if r == build && p.ami.KMSKeyID != "" {
				option = "kms_key_id"
			}
			uses = append(uses, use{r, k, option})
		}
	}
	if p.ebs != nil {
		for i, d := range p.ebs.LaunchMappings {
			if d.KMSKeyID != "" {
				uses = append(uses, use{build, d.KMSKeyID, fmt.Sprintf("%s.%d.kms_key_id", cmp.Or(p.devicesOption, "launch_block_device_mappings"), i)})
			}
		}
	}
	found := make([]problems, len(uses))
	var wg sync.WaitGroup
	for i, u := range uses {
		wg.Go(func() { p.key(ctx, &found[i], u.region, u.key, u.option) })
	}
	wg.Wait()
	*ps = append(*ps, slices.Concat(found...)...)
}

func (p *preflight) key(ctx context.Context, ps *problems, region, key, option string) {
	out, err := p.session.KMS(region).DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
	if awscloud.IsNotFound(err) {
		ps.add(option, "No such KMS key", "%s does not exist in %s.", key, region)
		return
	}
	if err != nil || out.KeyMetadata == nil {
		ps.unchecked(option, "whether the KMS key can be used", err)
		return
	}
	m := out.KeyMetadata
	switch {
	case m.KeyState != "" && m.KeyState != kmstypes.KeyStateEnabled:
		ps.add(option, "The KMS key cannot be used", "%s in %s is %s.", key, region, m.KeyState)
	case m.KeySpec != "" && m.KeySpec != kmstypes.KeySpecSymmetricDefault, m.KeyUsage != "" && m.KeyUsage != kmstypes.KeyUsageTypeEncryptDecrypt:
		ps.add(option, "The KMS key is of another kind", "EBS takes symmetric keys for encryption; %s is %s for %s.", key, m.KeySpec, m.KeyUsage)
	}
	shared := slices.Concat(p.ami.AMIUsers, p.ami.SnapshotUsers, p.ami.AMIOrgArns, p.ami.AMIOUArns)
	if m.KeyManager == kmstypes.KeyManagerTypeAws && len(shared) > 0 {
		ps.add(option, "The KMS key cannot be shared", "%s in %s is Amazon's own for this account; no other account can use what it encrypts.", key, region)
	}
}

// parameters checks that the SSM parameters, where they are there, can take an id.
func (p *preflight) parameters(ctx context.Context, ps *problems) {
	if len(p.ami.SSMParameters) == 0 {
		return
	}
	each(p.usable(ctx, p.ami.targets(p.session.Region)), ps, func(region string, ps *problems) {
		for names := range slices.Chunk(p.ami.SSMParameters, 10) {
			out, err := p.session.SSM(region).GetParameters(ctx, &ssm.GetParametersInput{Names: names})
			if err != nil {
				ps.unchecked("ssm_parameters", "whether the parameters in "+region+" can be set", err)
				return
			}
			for _, v := range out.Parameters {
				if v.Type != ssmtypes.ParameterTypeString {
					at := fmt.Sprintf("ssm_parameters.%d", slices.Index(p.ami.SSMParameters, aws.ToString(v.Name)))
					ps.add(at, "The parameter is of another type", "%s in %s is a %s; only a String can hold the id of an AMI.", aws.ToString(v.Name), region, v.Type)
				}
			}
		}
	})
}

// copying has EC2 say whether the AMI may be copied to each region.
func (p *preflight) copying(ctx context.Context, ps *problems) {
	others := p.ami.regions(p.session.Region)
	if len(others) == 0 || p.run == nil {
		return
	}
	image, err := p.looks.Image(ctx)
	if err != nil {
		return
	}
	each(p.usable(ctx, others), ps, func(region string, ps *problems) {
		tags := ec2Tags(map[string]string{tagBuild: "preflight"})
		_, err := p.session.EC2(region).CopyImage(ctx, &ec2.CopyImageInput{
			DryRun: aws.Bool(true), Name: &p.ami.AMIName, SourceImageId: image.ImageId, SourceRegion: &p.session.Region,
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: tags}, {ResourceType: types.ResourceTypeSnapshot, Tags: tags}},
		})
		// The source AMI stands in for the one to come: only what is not allowed counts.
		if awscloud.Code(err) == "UnauthorizedOperation" {
			ps.add("ami_regions", "No copy may be made", "In %s: %s. `ingot iam-policy` prints what the bake needs.", region, trimDot(awscloud.Explain(err)))
		}
	})
}

// mayMakeImage has EC2 say whether an AMI may be made of the instance, before
// anything is provisioned on it for nothing.
func mayMakeImage(ctx context.Context, s *awscloud.Session, run *builders.Run, instance string) error {
	tags := ec2Tags(map[string]string{tagBuild: run.BakeID})
	_, err := s.EC2("").CreateImage(ctx, &ec2.CreateImageInput{
		DryRun: aws.Bool(true), InstanceId: &instance, Name: aws.String("ingot-" + run.BakeID), NoReboot: aws.Bool(true),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: tags}, {ResourceType: types.ResourceTypeSnapshot, Tags: tags}},
	})
	if awscloud.Code(err) == "UnauthorizedOperation" {
		return fmt.Errorf("no AMI may be made of the instance: %w", awscloud.Explain(err))
	}
	return nil
}

// trimDot is an error's text to put before a full stop.
func trimDot(err error) string { return strings.TrimSuffix(err.Error(), ".") }

// preflightEnv is what functions say in strings that are rendered for the check alone.
func preflightEnv(dir string) render.Env {
	return render.Env{TemplateDir: dir, Now: time.Now(), Clean: cleanName}
}
