package amazon

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// injects says whether the host key is put in by user data, and why not.
func (r *running) injects(image types.Image, last bool) (yes bool, why string) {
	switch {
	case r.comm.Kind() != communicator.SSHKind || len(r.comm.SSHHostKey) > 0:
		return false, ""
	case r.o.InjectHostKey != nil && !*r.o.InjectHostKey:
		return false, "inject_host_key is false"
	case isWindowsImage(image):
		return false, "Windows takes no host key from user data"
	case r.o.MetadataOptions.off():
		return false, "without http_endpoint the instance finds no user data"
	case r.o.DisableStopInstance && !last:
		return false, "with disable_stop_instance it could not be removed for certain"
	}
	return true, ""
}

// start launches an instance from an image and returns when its id is known.
func (r *running) start(ctx context.Context, role string, image types.Image, disks []types.BlockDeviceMapping) (*instance, error) {
	in := &instance{spot: r.o.spot() && role == "machine"}
	add := extra{expires: r.expires, windows: isWindowsImage(image)}
	inject, why := r.injects(image, role != "machine")
	if inject {
		var err error
		if add.hostKey, add.hostPublic, err = newHostKey(); err != nil {
			return nil, fmt.Errorf("make the SSH host key: %w", err)
		}
	}
	text, err := r.o.userData(r.run.Dir)
	if err != nil {
		return nil, err
	}
	m, err := mergeUserData(text, add)
	if err != nil {
		return nil, fmt.Errorf("the user data: %w", err)
	}
	if m.hostKey {
		in.hostKey, in.hostPublic = add.hostKey, add.hostPublic
	} else if inject {
		why = m.why
	}
	if why != "" && r.comm.Kind() == communicator.SSHKind {
		r.run.Events.Say("The host key is not put in, since " + why)
	}
	if !m.expires {
		r.run.Events.Warn("The instance does not end itself if it is left behind: nothing can be added to the user data. `ingot sweep` ends it.")
	}
	data := r.data()
	if stays(image, disks) || r.loose {
		data[dataVolumes] = "left"
		data[dataKeep] = strings.Join(r.keep, ",")
	}
	l := launch{running: r, role: role, image: image, disks: disks, userData: base64.StdEncoding.EncodeToString(m.data)}
	if l.tags, err = r.tags(ctx, r.name(role)); err != nil {
		return nil, err
	}
	if l.volumeTags, err = r.userTags(ctx, "run_volume_tags", r.o.RunVolumeTags, r.o.RunVolumeTag); err != nil {
		return nil, err
	}
	maps.Copy(l.volumeTags, r.marks(r.name(role)))
	r.run.Events.Say(fmt.Sprintf("Launching %s from %s (%s) in %s", strings.Join(r.o.types(), " or "), aws.ToString(image.ImageId), aws.ToString(image.Name), r.session.Region))
	launch := l.onDemand
	if in.spot {
		if l.spotTags, err = r.userTags(ctx, "spot_tags", r.o.SpotTags, r.o.SpotTag); err != nil {
			return nil, err
		}
		if l.fleetTags, err = r.userTags(ctx, "fleet_tags", r.o.FleetTags, r.o.FleetTag); err != nil {
			return nil, err
		}
		for k, v := range l.tags {
			if _, own := l.fleetTags[k]; !own {
				l.fleetTags[k] = v
			}
		}
		launch = l.fleet
	}
	if in.id, in.lease, err = launch(ctx, data); err != nil {
		return nil, err
	}
	in.spot = l.isSpot
	return in, nil
}

// stays says whether the instance would leave volumes behind.
func stays(image types.Image, disks []types.BlockDeviceMapping) bool {
	all := map[string]bool{}
	for _, ms := range [][]types.BlockDeviceMapping{image.BlockDeviceMappings, disks} {
		for _, m := range ms {
			switch {
			case m.NoDevice != nil:
				all[aws.ToString(m.DeviceName)] = false
			case m.Ebs != nil && m.Ebs.DeleteOnTermination != nil:
				all[aws.ToString(m.DeviceName)] = !*m.Ebs.DeleteOnTermination
			}
		}
	}
	for _, left := range all {
		if left {
			return true
		}
	}
	return false
}

// launch is one launch under way.
type launch struct {
	*running
	role     string
	image    types.Image
	disks    []types.BlockDeviceMapping
	userData string

	tags, volumeTags, spotTags, fleetTags map[string]string
	isSpot                                bool
}

// place is where one try is made.
type place struct{ subnet, zone string }

// places are where to try, one after another.
func (l *launch) places() []place {
	var all []place
	for _, s := range l.network.subnets {
		all = append(all, place{aws.ToString(s.SubnetId), aws.ToString(s.AvailabilityZone)})
	}
	if len(all) == 0 {
		all = []place{{"", l.o.AvailabilityZone}}
	}
	return all
}

// others are further zones of the default VPC, for when EC2 chose one without room.
func (l *launch) others(ctx context.Context) []place {
	if len(l.network.subnets) > 0 || l.o.AvailabilityZone != "" {
		return nil
	}
	out, err := l.session.EC2("").DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: equals("default-for-az", "true")})
	if err != nil {
		return nil // the first error says more
	}
	var all []place
	for _, s := range out.Subnets {
		all = append(all, place{aws.ToString(s.SubnetId), aws.ToString(s.AvailabilityZone)})
	}
	return all
}

var burstable = regexp.MustCompile(`^t[0-9]+[a-z]*\.`)

// credits is how an instance of a T type bursts; nil for others.
func (o *RunOptions) credits() *types.CreditSpecificationRequest {
	if !slices.ContainsFunc(o.types(), burstable.MatchString) {
		return nil
	}
	if o.EnableUnlimitedCredits || o.EnableT2Unlimited {
		return &types.CreditSpecificationRequest{CpuCredits: aws.String("unlimited")}
	}
	return &types.CreditSpecificationRequest{CpuCredits: aws.String("standard")}
}

func (o *RunOptions) shutdownBehavior() types.ShutdownBehavior {
	switch {
	case o.ShutdownBehavior != "":
		return types.ShutdownBehavior(o.ShutdownBehavior)
	case o.DisableStopInstance:
		return types.ShutdownBehaviorStop
	}
	return types.ShutdownBehaviorTerminate
}

func (o *RunOptions) metadata() *types.InstanceMetadataOptionsRequest {
	m := o.MetadataOptions
	if m.off() {
		return &types.InstanceMetadataOptionsRequest{HttpEndpoint: types.InstanceMetadataEndpointStateDisabled}
	}
	r := &types.InstanceMetadataOptionsRequest{
		HttpEndpoint: types.InstanceMetadataEndpointStateEnabled, HttpTokens: types.HttpTokensState(m.tokens()), HttpPutResponseHopLimit: aws.Int32(1),
	}
	if m != nil && m.HTTPPutResponseHopLimit > 0 {
		r.HttpPutResponseHopLimit = aws.Int32(int32(m.HTTPPutResponseHopLimit))
	}
	if m != nil && m.InstanceMetadataTags != "" {
		r.InstanceMetadataTags = types.InstanceMetadataTagsState(m.InstanceMetadataTags)
	}
	return r
}

// input is the call for one place.
func (l *launch) input(at place, token string) *ec2.RunInstancesInput {
	o := l.o
	instanceTags := maps.Clone(l.tags)
	if instanceTags["Name"] == "" {
		instanceTags["Name"] = "Ingot Builder"
	}
	in := &ec2.RunInstancesInput{
		ImageId: l.image.ImageId, InstanceType: types.InstanceType(o.types()[0]), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), ClientToken: &token,
		UserData: optional(l.userData), BlockDeviceMappings: l.disks, EbsOptimized: optionalBool(o.EBSOptimized), KeyName: optional(l.key.name),
		InstanceInitiatedShutdownBehavior: o.shutdownBehavior(), MetadataOptions: o.metadata(), CreditSpecification: o.credits(),
		TagSpecifications: slices.Concat(tagged(types.ResourceTypeInstance, instanceTags), tagged(types.ResourceTypeVolume, l.volumeTags),
			tagged(types.ResourceTypeNetworkInterface, l.tags)),
	}
	if l.profile != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: &l.profile}
	}
	if o.AssociatePublicIPAddress != nil {
		in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), AssociatePublicIpAddress: o.AssociatePublicIPAddress, SubnetId: optional(at.subnet),
			Groups: l.groups, DeleteOnTermination: aws.Bool(true),
		}}
	} else {
		in.SubnetId, in.SecurityGroupIds = optional(at.subnet), l.groups
	}
	p := &types.Placement{Tenancy: types.Tenancy(o.Tenancy)}
	if at.subnet == "" {
		p.AvailabilityZone = optional(at.zone)
	}
	if o.Placement != nil {
		p.HostId, p.HostResourceGroupArn = optional(o.Placement.HostID), optional(o.Placement.HostResourceGroupARN)
		if o.Placement.Tenancy != "" {
			p.Tenancy = types.Tenancy(o.Placement.Tenancy)
		}
	}
	if *p != (types.Placement{}) {
		in.Placement = p
	}
	if o.EnableNitroEnclave {
		in.EnclaveOptions = &types.EnclaveOptionsRequest{Enabled: aws.Bool(true)}
	}
	for _, s := range o.LicenseSpecifications {
		in.LicenseSpecifications = append(in.LicenseSpecifications, types.LicenseConfigurationRequest{LicenseConfigurationArn: &s.LicenseConfigurationRequest.LicenseConfigurationARN})
	}
	c := &types.CapacityReservationSpecification{}
	switch {
	case o.CapacityReservationID != "" || o.CapacityReservationGroupARN != "":
		c.CapacityReservationTarget = &types.CapacityReservationTarget{
			CapacityReservationId: optional(o.CapacityReservationID), CapacityReservationResourceGroupArn: optional(o.CapacityReservationGroupARN),
		}
	case o.CapacityReservationPreference != "":
		c.CapacityReservationPreference = types.CapacityReservationPreference(o.CapacityReservationPreference)
	default:
		c.CapacityReservationPreference = types.CapacityReservationPreferenceNone
	}
	in.CapacityReservationSpecification = c
	return in
}

func optionalBool(b bool) *bool {
	if !b {
		return nil
	}
	return &b
}

// onDemand launches on demand, in the next place when one has no room.
func (l *launch) onDemand(ctx context.Context, data map[string]string) (string, builders.Lease, error) {
	lease, err := l.run.Leases.Intend(ctx, leaseInstance, l.name(l.role), data)
	if err != nil {
		return "", lease, err
	}
	places, more := l.places(), true
	var failures []error
	certain := true // EC2 has refused every try, so that there is no instance
	for n := 0; n < len(places); n++ {
		var id string
		err := l.patiently(ctx, func(ctx context.Context) error {
			// A token for each place: with another place it is another request.
			out, err := l.session.EC2("").RunInstances(ctx, l.input(places[n], fmt.Sprintf("%s-%d", lease.Name, n)))
			if err == nil && len(out.Instances) != 1 {
				err = fmt.Errorf("EC2 launched %d instances for one", len(out.Instances))
			}
			if err == nil {
				id = aws.ToString(out.Instances[0].InstanceId)
			}
			return err
		})
		if err == nil {
			return id, lease, l.run.Leases.Created(context.WithoutCancel(ctx), lease, id)
		}
		certain = certain && refused(err)
		where := places[n].zone
		if where == "" {
			where = l.session.Region
		}
		failures = append(failures, fmt.Errorf("launch %s in %s: %w", l.o.types()[0], where, awscloud.Explain(err)))
		if !awscloud.IsCapacity(err) || ctx.Err() != nil {
			break
		}
		if more && n == len(places)-1 {
			more = false
			places = append(places, l.others(ctx)...)
		}
		if n < len(places)-1 {
			l.run.Events.Say(fmt.Sprintf("No room for %s in %s: %s; trying %s", l.o.types()[0], where, awscloud.Code(err), places[n+1].zone))
		}
	}
	if ctx.Err() != nil {
		return "", lease, context.Cause(ctx)
	}
	if certain {
		failures = append(failures, l.run.Leases.Released(ctx, lease))
	}
	return "", lease, errors.Join(failures...)
}

// patiently makes a launch again while EC2 does not know yet what was made for it.
func (l *launch) patiently(ctx context.Context, call func(ctx context.Context) error) error {
	var last error
	w := awscloud.Wait{What: "EC2 to know what was made for the launch", Timeout: 4 * time.Minute, First: -1}
	w.Pace = awscloud.ShortPace
	w.Pace.Grace = 0
	err := l.session.Wait(ctx, w, func(wctx context.Context) (bool, string, error) {
		c, cancel := unhurried(ctx)
		defer cancel()
		last = call(c)
		switch {
		case last == nil:
			return true, "", nil
		case ctx.Err() == nil && wctx.Err() == nil && l.unknownYet(last):
			return false, awscloud.Explain(last).Error(), nil
		}
		return false, "", last
	})
	if last != nil && err != nil && ctx.Err() == nil {
		return errors.Join(err, last)
	}
	return err
}

// unknownYet says of a launch's error that EC2 does not know something yet that
// was made for the launch.
func (l *launch) unknownYet(err error) bool {
	code := awscloud.Code(err)
	return l.ownProfile && isProfileError(err) ||
		l.ownGroup && (code == "InvalidGroup.NotFound" || code == "InvalidGroupId.NotFound") ||
		l.key.private != nil && code == "InvalidKeyPair.NotFound" ||
		l.role != "machine" && strings.HasPrefix(code, "InvalidAMIID.") ||
		strings.HasPrefix(code, "InvalidLaunchTemplate") && awscloud.IsNotFound(err) // the template is always this bake's own
}

// isProfileError says that EC2 does not know the instance profile, or not yet what is in it.
func isProfileError(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.HasPrefix(awscloud.Code(err), "Invalid") && (strings.Contains(text, "iaminstanceprofile") || strings.Contains(text, "iam instance profile"))
}

// fleet launches a spot instance: EC2 chooses among types and zones. Where none
// is to be had, it launches on demand, if the template wants that.
func (l *launch) fleet(ctx context.Context, data map[string]string) (string, builders.Lease, error) {
	none := builders.Lease{}
	template, err := l.run.Leases.Intend(ctx, leaseTemplate, l.name(""), data)
	if err != nil {
		return "", none, err
	}
	tags, err := l.running.tags(ctx, template.Name)
	if err != nil {
		return "", none, err
	}
	places := l.places()
	id, err := l.create(ctx, template, func(ctx context.Context) (string, error) {
		out, err := l.session.EC2("").CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{
			LaunchTemplateName: &template.Name, ClientToken: &template.Name, LaunchTemplateData: l.template(places[0]),
			TagSpecifications: tagged(types.ResourceTypeLaunchTemplate, tags),
		})
		if err != nil {
			return "", err
		}
		return aws.ToString(out.LaunchTemplate.LaunchTemplateId), nil
	})
	if err != nil {
		return "", none, fmt.Errorf("make the temporary launch template: %w", err)
	}
	kinds := []types.DefaultTargetCapacityType{types.DefaultTargetCapacityTypeSpot}
	if l.o.SpotOnDemandFallback {
		kinds = append(kinds, types.DefaultTargetCapacityTypeOnDemand)
	}
	var failures []error
	for _, kind := range kinds {
		// The fleet's lease ends nothing but the fleet; the instance is found by its tags.
		fleet, err := l.run.Leases.Intend(ctx, leaseFleet, l.name("fleet-"+string(kind)), data)
		if err != nil {
			return "", none, err
		}
		lease, err := l.run.Leases.Intend(ctx, leaseInstance, l.name(l.role), data)
		if err != nil {
			return "", none, err
		}
		instance, err := l.oneOfFleet(ctx, fleet, id, places, kind)
		if err == nil {
			l.isSpot = kind == types.DefaultTargetCapacityTypeSpot
			return instance, lease, l.run.Leases.Created(context.WithoutCancel(ctx), lease, instance)
		}
		if ctx.Err() != nil {
			return "", none, context.Cause(ctx)
		}
		failures = append(failures, err)
		if errors.Is(err, errNoRoom) || refused(err) {
			if err := l.run.Leases.Released(ctx, lease); err != nil { // it launched nothing
				return "", none, err
			}
		}
		if !errors.Is(err, errNoRoom) {
			break
		}
		l.run.Events.Say(err.Error())
	}
	return "", none, errors.Join(failures...)
}

// errNoRoom is in the error of a fleet that launched nothing for want of capacity.
var errNoRoom = errors.New("nothing to be had")

func (l *launch) oneOfFleet(ctx context.Context, lease builders.Lease, template string, places []place, kind types.DefaultTargetCapacityType) (string, error) {
	var overrides []types.FleetLaunchTemplateOverridesRequest
	for i, t := range l.o.types() {
		for _, at := range places {
			o := types.FleetLaunchTemplateOverridesRequest{InstanceType: types.InstanceType(t), Priority: aws.Float64(float64(i))}
			switch {
			case l.o.AssociatePublicIPAddress != nil: // the template's interface has the subnet
			case at.subnet != "":
				o.SubnetId = &at.subnet
			default:
				o.AvailabilityZone = optional(at.zone)
			}
			if p := l.o.SpotPrice; kind == types.DefaultTargetCapacityTypeSpot && p != "" && p != "auto" {
				o.MaxPrice = &p
			}
			overrides = append(overrides, o)
			if l.o.AssociatePublicIPAddress != nil {
				break
			}
		}
	}
	in := &ec2.CreateFleetInput{
		Type:                        types.FleetTypeInstant,
		TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(1), DefaultTargetCapacityType: kind},
		LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{
			LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{LaunchTemplateId: &template, Version: aws.String("$Latest")},
			Overrides:                   overrides,
		}},
		TagSpecifications: tagged(types.ResourceTypeFleet, l.fleetTags),
	}
	if kind == types.DefaultTargetCapacityTypeSpot {
		strategy := l.o.SpotAllocationStrategy
		if strategy == "" {
			strategy = string(types.SpotAllocationStrategyPriceCapacityOptimized)
		}
		in.SpotOptions = &types.SpotOptionsRequest{AllocationStrategy: types.SpotAllocationStrategy(strategy)}
	}
	var instance string
	var failures []types.CreateFleetError
	tries := 0
	err := l.patiently(ctx, func(ctx context.Context) error {
		in.ClientToken = aws.String(fmt.Sprintf("%s-%d", lease.Name, tries))
		out, err := l.session.EC2("").CreateFleet(ctx, in)
		if err != nil {
			return err
		}
		if err := l.run.Leases.Created(context.WithoutCancel(ctx), lease, aws.ToString(out.FleetId)); err != nil {
			return err
		}
		failures = out.Errors
		for _, i := range out.Instances {
			for _, id := range i.InstanceIds {
				instance = id
			}
		}
		if instance == "" && len(failures) > 0 {
			// Of a fleet that begins, what is not known yet is no error of the call.
			f := &smithy.GenericAPIError{Code: aws.ToString(failures[0].ErrorCode), Message: aws.ToString(failures[0].ErrorMessage)}
			if l.unknownYet(f) {
				tries++ // the same token would give the same fleet
				return errors.Join(f, (&releaser{session: l.session, region: l.session.Region}).fleet(ctx, builders.Lease{ExternalID: aws.ToString(out.FleetId)}))
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("launch by a fleet: %w", awscloud.Explain(err))
	}
	if instance != "" {
		return instance, nil
	}
	var why []string
	room := len(failures) > 0
	for _, f := range failures {
		room = room && awscloud.IsCapacityCode(aws.ToString(f.ErrorCode))
		where := ""
		if f.LaunchTemplateAndOverrides != nil && f.LaunchTemplateAndOverrides.Overrides != nil {
			o := f.LaunchTemplateAndOverrides.Overrides
			where = strings.TrimSpace(fmt.Sprintf("%s %s%s", o.InstanceType, aws.ToString(o.SubnetId), aws.ToString(o.AvailabilityZone))) + ": "
		}
		why = append(why, fmt.Sprintf("%s%s: %s", where, aws.ToString(f.ErrorCode), aws.ToString(f.ErrorMessage)))
	}
	if len(why) == 0 {
		why = []string{"EC2 gives no reason"}
	}
	text := strings.Join(slices.Compact(why), "; ")
	if room {
		return "", fmt.Errorf("no %s instance of %s is to be had: %w: %s", kind, strings.Join(l.o.types(), ", "), errNoRoom, text)
	}
	return "", fmt.Errorf("the fleet launched no %s instance: %s", kind, text)
}

// template is the call for an instance as a launch template has it.
func (l *launch) template(at place) *types.RequestLaunchTemplateData {
	in := l.input(at, "")
	d := &types.RequestLaunchTemplateData{
		ImageId: in.ImageId, UserData: in.UserData, KeyName: in.KeyName, EbsOptimized: in.EbsOptimized, CreditSpecification: in.CreditSpecification,
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate, // one that cannot be stopped
		MetadataOptions: &types.LaunchTemplateInstanceMetadataOptionsRequest{
			HttpEndpoint:            types.LaunchTemplateInstanceMetadataEndpointState(in.MetadataOptions.HttpEndpoint),
			HttpTokens:              types.LaunchTemplateHttpTokensState(in.MetadataOptions.HttpTokens),
			HttpPutResponseHopLimit: in.MetadataOptions.HttpPutResponseHopLimit,
			InstanceMetadataTags:    types.LaunchTemplateInstanceMetadataTagsState(in.MetadataOptions.InstanceMetadataTags),
		},
	}
	if in.IamInstanceProfile != nil {
		d.IamInstanceProfile = &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: in.IamInstanceProfile.Name}
	}
	for _, n := range in.NetworkInterfaces {
		d.NetworkInterfaces = append(d.NetworkInterfaces, types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{
			DeviceIndex: n.DeviceIndex, AssociatePublicIpAddress: n.AssociatePublicIpAddress, SubnetId: n.SubnetId, Groups: n.Groups, DeleteOnTermination: n.DeleteOnTermination,
		})
	}
	if len(in.NetworkInterfaces) == 0 {
		d.SecurityGroupIds = in.SecurityGroupIds
	}
	for _, m := range in.BlockDeviceMappings {
		r := types.LaunchTemplateBlockDeviceMappingRequest{DeviceName: m.DeviceName, NoDevice: m.NoDevice, VirtualName: m.VirtualName}
		if e := m.Ebs; e != nil {
			r.Ebs = &types.LaunchTemplateEbsBlockDeviceRequest{
				DeleteOnTermination: e.DeleteOnTermination, Encrypted: e.Encrypted, Iops: e.Iops, KmsKeyId: e.KmsKeyId, SnapshotId: e.SnapshotId,
				Throughput: e.Throughput, VolumeSize: e.VolumeSize, VolumeType: e.VolumeType,
			}
		}
		d.BlockDeviceMappings = append(d.BlockDeviceMappings, r)
	}
	for _, t := range in.TagSpecifications {
		d.TagSpecifications = append(d.TagSpecifications, types.LaunchTemplateTagSpecificationRequest{ResourceType: t.ResourceType, Tags: t.Tags})
	}
	spot := maps.Clone(l.tags)
	maps.Copy(spot, l.spotTags)
	d.TagSpecifications = append(d.TagSpecifications, types.LaunchTemplateTagSpecificationRequest{ResourceType: types.ResourceTypeSpotInstancesRequest, Tags: ec2Tags(spot)})
	return d
}
