//go:build linux

package ec2

import (
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

const maxUserData = 16 << 10

// launchPlan is a launch that has been checked.
type launchPlan struct {
	count       int
	image       *image
	kind        instanceType
	subnet      *subnet
	groups      []string
	key         *keyPair
	userData    []byte
	profile     *profile
	shutdown    string
	public      bool
	spot        bool
	persistent  bool
	disks       []plannedDisk
	metadata    metadataOptions
	tenancy     string
	credits     string
	clientToken string
	enclave     bool
	noTerminate bool
	noStop      bool
	optimized   bool
	tags        map[string]map[string]string
	fleet       string
}

type plannedDisk struct {
	device string
	disk
	dies bool
}

type runInstancesResponse struct {
	reservation
	l []*instance
}

// refresh shows a repeated call what has become of the instances.
func (r *runInstancesResponse) refresh(k *call) {
	for n, i := range r.l {
		r.Instances[n] = k.instanceItem(i)
	}
}

func (k *call) runInstances(in *runInstancesRequest) (*runInstancesResponse, error) {
	p, err := k.planLaunch(in)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	out, err := k.tryLaunch(p)
	if err != nil {
		return nil, err
	}
	r := &runInstancesResponse{reservation: reservation{ID: "r-" + randomHex(17), Owner: k.account}, l: out}
	for _, i := range out {
		r.Instances = append(r.Instances, k.instanceItem(i))
	}
	return r, nil
}

// planLaunch checks a launch as EC2 does before it has an effect.
func (k *call) planLaunch(in *runInstancesRequest) (*launchPlan, error) {
	if t := in.LaunchTemplate; t != nil {
		data, err := k.templateData(t.LaunchTemplateId, t.LaunchTemplateName, t.Version)
		if err != nil {
			return nil, err
		}
		overlay(reflect.ValueOf(in), reflect.ValueOf(data))
	}
	p := &launchPlan{clientToken: in.ClientToken, noTerminate: isTrue(in.DisableApiTermination), noStop: isTrue(in.DisableApiStop), optimized: isTrue(in.EbsOptimized)}
	var err error
	switch {
	case in.ImageId == "":
		return nil, missing("ImageId")
	case in.MinCount == nil:
		return nil, missing("MinCount")
	case in.MaxCount == nil:
		return nil, missing("MaxCount")
	case *in.MinCount < 1 || *in.MaxCount < *in.MinCount:
		return nil, invalid("MinCount", "%d to %d instances", *in.MinCount, *in.MaxCount)
	}
	p.count = int(*in.MaxCount)
	if p.image, err = k.launchableImage(in.ImageId); err != nil {
		return nil, err
	}
	typ := in.InstanceType
	if typ == "" {
		typ = "m1.small"
	}
	var ok bool
	if p.kind, ok = typeNamed(typ); !ok {
		return nil, fail("InvalidParameterValue", "Invalid value '%s' for InstanceType.", typ)
	}
	if p.kind.arch != p.image.arch {
		return nil, fail("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.", p.kind.arch, p.image.arch)
	}
	if p.kind.nitro && !p.image.ena {
		return nil, fail("InvalidParameterCombination", "Enhanced networking with the Elastic Network Adapter (ENA) is required for the '%s' instance type. Ensure that you are using an AMI that is enabled for ENA.", typ)
	}
	if in.KeyName != "" {
		if p.key, err = k.keyNamed(in.KeyName); err != nil {
			return nil, err
		}
	}
	if p.userData, err = decodeUserData(in.UserData); err != nil {
		return nil, err
	}
	if err := k.planNetwork(p, in); err != nil {
		return nil, err
	}
	if pr := in.IamInstanceProfile; pr != nil {
		if p.profile, err = k.usableProfile(pr.Arn, pr.Name); err != nil {
			return nil, err
		}
	}
	switch p.shutdown = in.InstanceInitiatedShutdownBehavior; p.shutdown {
	case "":
		p.shutdown = "stop"
	case "stop", "terminate":
	default:
		return nil, fail("InvalidParameterValue", "Value (%s) for parameter instanceInitiatedShutdownBehavior is invalid.", p.shutdown)
	}
	p.metadata, err = metadataOptions{Tokens: "optional", Hops: 1, Endpoint: "enabled", IPv6: "disabled", Tags: "disabled"}.with(in.MetadataOptions)
	if err != nil {
		return nil, err
	}
	if p.image.imds == "v2.0" && (in.MetadataOptions == nil || in.MetadataOptions.HttpTokens == "") {
		p.metadata.Tokens = "required"
		if in.MetadataOptions == nil || in.MetadataOptions.HttpPutResponseHopLimit == nil {
			p.metadata.Hops = 2
		}
	}
	if m := in.InstanceMarketOptions; m != nil && m.MarketType != "" {
		if err := p.market(m); err != nil {
			return nil, err
		}
	}
	if err := p.rest(in); err != nil {
		return nil, err
	}
	if p.disks, err = k.planDisks(p.image, in.BlockDeviceMapping); err != nil {
		return nil, err
	}
	p.tags, err = specified(in.TagSpecification, kindInstance, kindVolume, kindInterface, kindSpot, kind{resource: "elastic-gpu"})
	if err != nil {
		return nil, err
	}
	cpus := int64(0)
	for _, i := range k.instances.m {
		if s := i.state(k.now()); s == pending || s == running {
			cpus += i.kind.cpus
		}
	}
	if !k.within(QuotaVCPUs, int(cpus+p.kind.cpus*int64(p.count))) {
		if p.spot {
			return nil, fail("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
		}
		return nil, fail("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit of %d allows for the instance bucket that the specified instance type belongs to.", k.quotas[QuotaVCPUs])
	}
	return p, nil
}

func decodeUserData(text string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "").Replace(text))
	if err != nil {
		return nil, fail("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if len(b) > maxUserData {
		return nil, fail("InvalidParameterValue", "User data is limited to %d bytes", maxUserData)
	}
	return b, nil
}

func (p *launchPlan) market(m *instanceMarketOptionsRequest) error {
	if m.MarketType != "spot" {
		return fail("InvalidParameterValue", "Invalid value '%s' for MarketType", m.MarketType)
	}
	p.spot = true
	if o := m.SpotOptions; o != nil {
		p.persistent = o.SpotInstanceType == "persistent"
		if o.InstanceInterruptionBehavior != "" && o.InstanceInterruptionBehavior != "terminate" && !p.persistent {
			return combination("Interruption behavior '%s' requires a persistent Spot Instance request", o.InstanceInterruptionBehavior)
		}
		if o.BlockDurationMinutes != nil {
			return fail("UnsupportedOperation", "Spot Instances with a defined duration are no longer available")
		}
		return p.affordable(o.MaxPrice)
	}
	return nil
}

// affordable checks a maximum price against what the instance costs.
func (p *launchPlan) affordable(price string) error {
	if price == "" {
		return nil
	}
	f, err := strconv.ParseFloat(price, 64)
	if err != nil || f <= 0 {
		return fail("InvalidParameterValue", "Invalid value '%s' for SpotPrice", price)
	}
	if cost := p.kind.spotPrice(p.subnet.zone); f < cost {
		return fail("SpotMaxPriceTooLow", "Your Spot request price of %s is lower than the minimum required Spot request fulfillment price of %.4f.", price, cost)
	}
	return nil
}

// rest checks the smaller options.
func (p *launchPlan) rest(in *runInstancesRequest) error {
	if c := in.CreditSpecification; c != nil && c.CpuCredits != "" {
		switch {
		case c.CpuCredits != "standard" && c.CpuCredits != "unlimited":
			return invalid("CreditSpecification.CpuCredits", "%q", c.CpuCredits)
		case !p.kind.burst():
			return combination("The specified 'CreditSpecification' is not supported for instance type '%s'", p.kind.name)
		}
		p.credits = c.CpuCredits
	}
	if c := in.CapacityReservationSpecification; c != nil {
		switch {
		case c.CapacityReservationPreference != "" && c.CapacityReservationTarget != nil:
			return combination("CapacityReservationPreference and CapacityReservationTarget may not be given together")
		case !slices.Contains([]string{"", "open", "none", "capacity-reservations-only"}, c.CapacityReservationPreference):
			return invalid("CapacityReservationPreference", "%q", c.CapacityReservationPreference)
		case p.spot && c.CapacityReservationTarget != nil:
			return combination("A Spot Instance cannot use a Capacity Reservation")
		}
	}
	p.tenancy = "default"
	if pl := in.Placement; pl != nil {
		switch {
		case !slices.Contains([]string{"", "default", "dedicated", "host"}, pl.Tenancy):
			return invalid("Placement.Tenancy", "%q", pl.Tenancy)
		case pl.HostId != "" && pl.Tenancy != "host", pl.HostResourceGroupArn != "" && pl.Tenancy != "" && pl.Tenancy != "host":
			return combination("A host may be named only with the tenancy 'host'")
		case pl.Tenancy != "":
			p.tenancy = pl.Tenancy
		}
	}
	if in.EnclaveOptions != nil && isTrue(in.EnclaveOptions.Enabled) {
		if p.kind.cpus < 4 || !p.kind.nitro {
			return fail("UnsupportedOperation", "The instance type '%s' does not support Nitro Enclaves", p.kind.name)
		}
		p.enclave = true
	}
	return nil
}

// planNetwork decides subnet, groups and whether there is a public address.
func (k *call) planNetwork(p *launchPlan, in *runInstancesRequest) error {
	subnetID, groupIDs, groupNames := in.SubnetId, in.SecurityGroupId, in.SecurityGroup
	var public *bool
	if len(in.NetworkInterface) > 0 {
		switch {
		case in.SubnetId != "":
			return combination("Network interfaces and an instance-level subnet ID may not be specified on the same request")
		case len(in.SecurityGroupId)+len(in.SecurityGroup) > 0:
			return combination("Network interfaces and an instance-level security groups may not be specified on the same request")
		case in.PrivateIpAddress != "":
			return combination("Network interfaces and an instance-level private IP address may not be specified on the same request")
		case len(in.NetworkInterface) > 1:
			return fail("UnsupportedOperation", "This emulator gives an instance one network interface")
		}
		n := in.NetworkInterface[0]
		switch {
		case n.DeviceIndex == nil:
			return missing("NetworkInterface.1.DeviceIndex")
		case *n.DeviceIndex != 0:
			return invalid("NetworkInterface.1.DeviceIndex", "The first network interface has index 0")
		case n.NetworkInterfaceId != "":
			return fail("UnsupportedOperation", "This emulator has no network interfaces that are made before their instance")
		}
		subnetID, groupIDs, public = n.SubnetId, n.SecurityGroupId, n.AssociatePublicIpAddress
	}
	zone := ""
	if pl := in.Placement; pl != nil && pl.AvailabilityZone != "" {
		if zone = pl.AvailabilityZone; !k.hasZone(zone) {
			return fail("InvalidParameterValue", "Invalid availability zone: [%s]", zone)
		}
	}
	if subnetID == "" {
		v := k.defaultVPC()
		if v == nil {
			return noDefaultVPC()
		}
		for _, s := range k.subnets.all() {
			if s.vpc == v.id && s.byDefault && (zone == s.zone || zone == "" && p.kind.in(s.zone)) && p.subnet == nil {
				p.subnet = s
			}
		}
		if p.subnet == nil {
			return fail("MissingInput", "No subnets found for the default VPC '%s'. Please specify a subnet.", v.id)
		}
	} else {
		s, err := k.subnets.get(k, subnetID)
		if err != nil {
			return err
		}
		if zone != "" && zone != s.zone {
			return fail("InvalidParameterValue", "Value (%s) for parameter availabilityZone is invalid. Subnet '%s' is in the availability zone %s", zone, s.id, s.zone)
		}
		if len(groupNames) > 0 {
			return combination("The parameter groupName cannot be used with the parameter subnet")
		}
		p.subnet = s
	}
	if !p.kind.in(p.subnet.zone) {
		return fail("Unsupported", "Your requested instance type (%s) is not supported in your requested Availability Zone (%s). Please retry your request by not specifying an Availability Zone or choosing another one.", p.kind.name, p.subnet.zone)
	}
	for _, n := range groupNames {
		g, err := k.groupOf("", n)
		if err != nil {
			return err
		}
		groupIDs = append(slices.Clone(groupIDs), g.id)
	}
	if len(groupIDs) == 0 {
		for _, g := range k.groups.all() {
			if g.vpc == p.subnet.vpc && g.name == "default" {
				groupIDs = []string{g.id}
			}
		}
	}
	if len(groupIDs) > 5 {
		return fail("SecurityGroupsPerInstanceLimitExceeded", "The maximum number of security groups per interface has been reached.")
	}
	for _, id := range groupIDs {
		g, err := k.groups.get(k, id)
		if err != nil {
			return err
		}
		if g.vpc != p.subnet.vpc {
			return fail("InvalidParameter", "Security group %s and subnet %s belong to different networks.", g.id, p.subnet.id)
		}
	}
	p.groups = groupIDs
	p.public = p.subnet.public
	if public != nil {
		p.public = *public
	}
	return nil
}

// planDisks are the image's disks, changed by what the call says of them.
func (k *call) planDisks(img *image, given []blockDeviceMapping) ([]plannedDisk, error) {
	byDevice := map[string]blockDeviceMapping{}
	var order []string
	for _, m := range img.mappings {
		if m.ebs == nil {
			continue
		}
		byDevice[m.device] = m.request()
		order = append(order, m.device)
	}
	seen := map[string]bool{}
	for _, g := range given {
		switch {
		case g.DeviceName == "":
			return nil, missing("deviceName")
		case !devicePath.MatchString(g.DeviceName):
			return nil, fail("InvalidBlockDeviceMapping", "Invalid device name %s", g.DeviceName)
		case seen[g.DeviceName]:
			return nil, fail("InvalidBlockDeviceMapping", "The device '%s' is used in more than one block-device mapping", g.DeviceName)
		case g.Ebs != nil && g.VirtualName != "":
			return nil, fail("InvalidBlockDeviceMapping", "The device '%s' may only have one of ebs, virtualName and noDevice", g.DeviceName)
		}
		seen[g.DeviceName] = true
		was, inImage := byDevice[g.DeviceName]
		if g.Ebs == nil {
			if g.DeviceName == img.root {
				return nil, fail("InvalidBlockDeviceMapping", "The root device %s cannot be left out", g.DeviceName)
			}
			delete(byDevice, g.DeviceName) // no device, or an instance store volume that these types have not
			continue
		}
		if !inImage {
			order = append(order, g.DeviceName)
		} else {
			if g.Ebs.SnapshotId != "" && g.DeviceName == img.root && g.Ebs.SnapshotId != was.Ebs.SnapshotId {
				return nil, fail("InvalidBlockDeviceMapping", "snapshotId cannot be modified on root device")
			}
			e := *g.Ebs
			if e.VolumeType != "" && e.VolumeType != was.Ebs.VolumeType {
				was.Ebs.Iops, was.Ebs.Throughput = nil, nil
			}
			overlay(reflect.ValueOf(&e), reflect.ValueOf(was.Ebs))
			g.Ebs = &e
		}
		byDevice[g.DeviceName] = g
	}
	var list []plannedDisk
	for _, dev := range order {
		m, ok := byDevice[dev]
		if !ok {
			continue
		}
		e := m.Ebs
		var from *snapshot
		if e.SnapshotId != "" {
			// Who may use the image may use its snapshots.
			if s, ok := k.snapshotAnywhere(e.SnapshotId); ok && img.uses(s.id) {
				from = s
			} else {
				var err error
				if from, err = k.readableSnapshot(e.SnapshotId); err != nil {
					return nil, err
				}
			}
		}
		d, err := k.newDisk(" for device "+dev, e.VolumeSize, e.VolumeType, e.Iops, e.Throughput, e.Encrypted, e.KmsKeyId, from)
		if err != nil {
			return nil, err
		}
		dies := dev == img.root
		if e.DeleteOnTermination != nil {
			dies = *e.DeleteOnTermination
		}
		list = append(list, plannedDisk{dev, d, dies})
	}
	return list, nil
}

// tryLaunch launches what was planned, unless the cloud has no room.
func (k *call) tryLaunch(p *launchPlan) ([]*instance, error) {
	var o Outcome
	if k.onLaunch != nil {
		o = k.onLaunch(Launch{Region: k.regionName, Zone: p.subnet.zone, Type: p.kind.name, ImageID: p.image.id, Spot: p.spot})
	}
	if o.Code != "" {
		if o.Message == "" {
			o.Message = fmt.Sprintf("We currently do not have sufficient %s capacity in the Availability Zone you requested (%s). Our system will be working on provisioning additional capacity.", p.kind.name, p.subnet.zone)
		}
		return nil, fail(o.Code, "%s", o.Message)
	}
	var list []*instance
	for n := range p.count {
		i, err := k.launch(p, n)
		if err != nil {
			return nil, err
		}
		reason := o.StateReason
		for _, d := range p.disks {
			if d.keyReason != "" && reason == "" {
				reason = "Client.InternalError: Client error on launch"
			}
		}
		if reason != "" {
			now := k.now()
			i.line = timeline{{now, pending}, {now.Add(k.real(k.o.Durations.Running)), terminated}}
			i.reason, i.doomed = reason, true
			delete(k.interfaces.m, i.eni.id)
			for _, a := range i.disks {
				a.volume.at = nil
				delete(k.volumes.m, a.volume.id)
			}
			i.disks = nil
		} else {
			k.boot(i)
		}
		list = append(list, i)
	}
	return list, nil
}

// launch makes an instance and its disks.
func (k *call) launch(p *launchPlan, index int) (*instance, error) {
	private, err := k.host.Address()
	if err != nil {
		return nil, err
	}
	i := &instance{item: k.newItem(kindInstance, maps.Clone(p.tags["instance"])), space: k.space, image: p.image, kind: p.kind, zone: p.subnet.zone, vpc: p.subnet.vpc, subnet: p.subnet.id,
		key: p.key, groups: p.groups, private: private, userData: p.userData, profile: p.profile, shutdown: p.shutdown, fleet: p.fleet, clientToken: p.clientToken, rootDevice: p.image.root,
		metadata: p.metadata, tenancy: p.tenancy, ebsOptimized: p.optimized, enclave: p.enclave, ena: p.image.ena, sriov: p.image.sriov, noTerminate: p.noTerminate, noStop: p.noStop,
		credits: p.credits, line: k.after(pending, k.o.Durations.Running, running), launched: k.now(), index: index}
	if p.public {
		if i.public, err = k.host.Address(); err != nil {
			return nil, err
		}
	}
	i.eni = &netInterface{item: k.newItem(kindInterface, maps.Clone(p.tags["network-interface"])), instance: i}
	i.eni.known = true
	k.interfaces.m[i.eni.id] = i.eni
	if p.spot {
		s := &spotRequest{item: k.newItem(kindSpot, maps.Clone(p.tags["spot-instances-request"])), instance: i.id, state: "active", status: "fulfilled", persistent: p.persistent}
		s.id = "sir-" + randomHex(8)
		k.spots.m[s.id] = s
		i.spot = s
	}
	for _, d := range p.disks {
		v := k.addVolume(d.disk, i.zone, maps.Clone(p.tags["volume"]))
		v.known = true
		v.line = timeline{{k.now(), "available"}}
		a := &attachment{volume: v, instance: i, device: d.device, dies: d.dies, line: timeline{{k.now(), "attached"}}, since: iso(k.now())}
		v.at = a
		i.disks = append(i.disks, a)
	}
	k.instances.m[i.id] = i
	i.phase = k.phase("boot", i.item)
	return i, nil
}
