//go:build linux

package ec2

import (
	"cmp"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

type fleet struct {
	item
	kind        string
	clientToken string
	deleted     bool
	instances   []*instance
	capacity    int64
}

func (f *fleet) values(_ *call, n string) []string {
	switch n {
	case "type":
		return str(f.kind)
	case "fleet-state":
		return str(f.state())
	}
	return nil
}

func (f *fleet) state() string {
	if f.deleted {
		return "deleted"
	}
	return "active"
}

type spotRequest struct {
	item
	instance      string
	state, status string
	persistent    bool
}

func (s *spotRequest) values(_ *call, n string) []string {
	switch n {
	case "spot-instance-request-id":
		return str(s.id)
	case "instance-id":
		return str(s.instance)
	case "state":
		return str(s.state)
	case "status-code":
		return str(s.status)
	}
	return nil
}

type overrideItem struct {
	Template string `xml:"launchTemplateSpecification>launchTemplateId"`
	Version  string `xml:"launchTemplateSpecification>version"`
	Type     string `xml:"overrides>instanceType,omitempty"`
	Subnet   string `xml:"overrides>subnetId,omitempty"`
	Zone     string `xml:"overrides>availabilityZone,omitempty"`
}

type fleetErrorItem struct {
	From      overrideItem `xml:"launchTemplateAndOverrides"`
	Lifecycle string       `xml:"lifecycle"`
	Code      string       `xml:"errorCode"`
	Message   string       `xml:"errorMessage"`
}

type fleetInstanceItem struct {
	From      overrideItem `xml:"launchTemplateAndOverrides"`
	Lifecycle string       `xml:"lifecycle"`
	IDs       []string     `xml:"instanceIds>item"`
	Type      string       `xml:"instanceType"`
}

type createFleetResponse struct {
	ID        string              `xml:"fleetId"`
	Errors    []fleetErrorItem    `xml:"errorSet>item"`
	Instances []fleetInstanceItem `xml:"fleetInstanceSet>item"`
}

// pool is one type in one zone that a fleet may take instances from.
type pool struct {
	in       *runInstancesRequest
	from     overrideItem
	price    float64
	maxPrice string
	priority float64
}

func (k *call) createFleet(in *createFleetRequest) (*createFleetResponse, error) {
	target := in.TargetCapacitySpecification
	switch {
	case in.Type != "instant":
		return nil, fail("UnsupportedOperation", "This emulator has fleets of type instant, not %q", in.Type)
	case target == nil || target.TotalTargetCapacity == nil:
		return nil, missing("TargetCapacitySpecification.TotalTargetCapacity")
	case *target.TotalTargetCapacity < 1:
		return nil, invalid("TotalTargetCapacity", "%d", *target.TotalTargetCapacity)
	case len(in.LaunchTemplateConfigs) == 0:
		return nil, missing("LaunchTemplateConfigs")
	}
	lifecycle := target.DefaultTargetCapacityType
	if lifecycle == "" {
		lifecycle = "on-demand"
	}
	if lifecycle != "spot" && lifecycle != "on-demand" {
		return nil, invalid("DefaultTargetCapacityType", "%q", lifecycle)
	}
	strategy := ""
	if o := in.SpotOptions; o != nil {
		strategy = o.AllocationStrategy
	}
	if lifecycle == "on-demand" {
		strategy = "lowest-price"
		if o := in.OnDemandOptions; o != nil && o.AllocationStrategy != "" {
			strategy = o.AllocationStrategy
		}
	}
	known := []string{"", "lowest-price", "lowestPrice", "diversified", "capacity-optimized", "capacityOptimized", "capacity-optimized-prioritized", "capacityOptimizedPrioritized", "price-capacity-optimized", "priceCapacityOptimized", "prioritized"}
	if !slices.Contains(known, strategy) {
		return nil, fail("InvalidParameterValue", "The allocation strategy '%s' is not valid", strategy)
	}
	tags, err := specified(in.TagSpecification, kindFleet, kindInstance)
	if err != nil {
		return nil, err
	}
	pools, err := k.pools(in)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	f := &fleet{item: k.newItem(kindFleet, tags["fleet"]), kind: in.Type, clientToken: in.ClientToken, capacity: *target.TotalTargetCapacity}
	f.id = "fleet-" + randomHex(8) + "-" + randomHex(4) + "-" + randomHex(4) + "-" + randomHex(4) + "-" + randomHex(12)
	k.fleets.m[f.id] = f
	switch strategy {
	case "prioritized", "capacity-optimized-prioritized", "capacityOptimizedPrioritized":
		slices.SortStableFunc(pools, func(a, b pool) int { return cmp.Compare(a.priority, b.priority) })
	default:
		slices.SortStableFunc(pools, func(a, b pool) int { return cmp.Compare(a.price, b.price) })
	}
	out := &createFleetResponse{ID: f.id}
	left := *target.TotalTargetCapacity
	for _, p := range pools {
		if left == 0 {
			break
		}
		list, err := k.fromPool(f, p, lifecycle, left, tags)
		if err != nil {
			var e *apiError
			if !errors.As(err, &e) {
				return nil, err
			}
			out.Errors = append(out.Errors, fleetErrorItem{p.from, lifecycle, e.code, e.message})
			continue
		}
		item := fleetInstanceItem{From: p.from, Lifecycle: lifecycle, Type: p.in.InstanceType}
		for _, i := range list {
			item.IDs = append(item.IDs, i.id)
		}
		f.instances = append(f.instances, list...)
		out.Instances = append(out.Instances, item)
		left -= int64(len(list))
	}
	return out, nil
}

// pools are all combinations of templates and overrides, in their order.
func (k *call) pools(in *createFleetRequest) ([]pool, error) {
	var list []pool
	for _, c := range in.LaunchTemplateConfigs {
		spec := c.LaunchTemplateSpecification
		if spec == nil {
			return nil, missing("LaunchTemplateConfigs.LaunchTemplateSpecification")
		}
		if spec.Version == "" {
			return nil, fail("InvalidLaunchTemplate", "A launch template's version must be given")
		}
		t, err := k.templateOf(spec.LaunchTemplateId, spec.LaunchTemplateName)
		if err != nil {
			return nil, err
		}
		data, err := k.templateData(t.id, "", spec.Version)
		if err != nil {
			return nil, err
		}
		overrides := c.Overrides
		if len(overrides) == 0 {
			overrides = []fleetLaunchTemplateOverridesRequest{{}}
		}
		for _, o := range overrides {
			d, err := cloneData(data)
			if err != nil {
				return nil, err
			}
			one := &runInstancesRequest{InstanceType: o.InstanceType, ImageId: o.ImageId, SubnetId: o.SubnetId, MinCount: ptr(int64(1)), MaxCount: ptr(int64(1))}
			if o.SubnetId != "" && len(d.NetworkInterface) > 0 {
				d.NetworkInterface[0].SubnetId, one.SubnetId = o.SubnetId, ""
			}
			if o.AvailabilityZone != "" {
				if o.SubnetId != "" {
					return nil, combination("An override names a subnet or an Availability Zone, not both")
				}
				one.Placement = &placement{AvailabilityZone: o.AvailabilityZone}
			}
			overlay(reflect.ValueOf(one), reflect.ValueOf(d))
			p := pool{in: one, from: overrideItem{t.id, spec.Version, o.InstanceType, o.SubnetId, o.AvailabilityZone}, maxPrice: o.MaxPrice}
			if p.priority, err = strconv.ParseFloat("0"+strings.TrimSpace(o.Priority), 64); err != nil {
				return nil, invalid("Priority", "%q", o.Priority)
			}
			if kd, ok := typeNamed(one.InstanceType); ok {
				p.price = kd.price
			}
			list = append(list, p)
		}
	}
	return list, nil
}

// fromPool launches up to n instances of one pool.
func (k *call) fromPool(f *fleet, p pool, lifecycle string, n int64, tags map[string]map[string]string) ([]*instance, error) {
	p.in.MaxCount = &n
	if m := p.in.InstanceMarketOptions; m != nil && lifecycle == "spot" && m.SpotOptions != nil && p.maxPrice == "" {
		p.maxPrice = m.SpotOptions.MaxPrice
	}
	// The fleet says what is bought how; a template that says so itself is refused.
	if p.in.InstanceMarketOptions != nil && lifecycle == "on-demand" {
		return nil, fail("InvalidFleetConfig", "A launch template with market options cannot be used for On-Demand capacity")
	}
	p.in.InstanceMarketOptions = nil
	plan, err := k.planLaunch(p.in)
	if err != nil {
		return nil, err
	}
	if lifecycle == "spot" {
		plan.spot = true
		if err := plan.affordable(p.maxPrice); err != nil {
			return nil, err
		}
	}
	for kd, more := range tags {
		if kd == "fleet" {
			continue
		}
		all := maps.Clone(plan.tags[kd])
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, more)
		plan.tags[kd] = all
	}
	own := map[string]string{}
	maps.Copy(own, plan.tags["instance"])
	own["aws:ec2:fleet-id"] = f.id
	plan.tags["instance"] = own
	plan.fleet = f.id
	return k.tryLaunch(plan)
}

type fleetItem struct {
	ID          string              `xml:"fleetId"`
	State       string              `xml:"fleetState"`
	Type        string              `xml:"type"`
	ClientToken string              `xml:"clientToken"`
	Created     string              `xml:"createTime"`
	Instances   []fleetInstanceItem `xml:"fleetInstanceSet>item"`
	Tags        []tagItem           `xml:"tagSet>item"`
}

type describeFleetsResponse struct {
	Fleets    []fleetItem `xml:"fleetSet>item"`
	NextToken string      `xml:"nextToken,omitempty"`
}

func (k *call) describeFleets(in *describeFleetsRequest) (*describeFleetsResponse, error) {
	list, err := find(k, k.fleets, in.FleetId, in.Filter)
	if err != nil {
		return nil, err
	}
	if len(in.FleetId) == 0 {
		// Fleets of type instant are described only if they are named.
		list = slices.DeleteFunc(list, func(f *fleet) bool { return f.kind == "instant" })
	}
	out := &describeFleetsResponse{}
	for _, f := range list {
		i := fleetItem{f.id, f.state(), f.kind, f.clientToken, iso(f.born), nil, tagItems(f.tags)}
		for _, n := range f.instances {
			lifecycle := "on-demand"
			if n.spot != nil {
				lifecycle = "spot"
			}
			i.Instances = append(i.Instances, fleetInstanceItem{Lifecycle: lifecycle, IDs: str(n.id), Type: n.kind.name})
		}
		out.Fleets = append(out.Fleets, i)
	}
	return out, nil
}

type deletedFleet struct {
	ID  string `xml:"fleetId"`
	Now string `xml:"currentFleetState"`
	Was string `xml:"previousFleetState"`
}

type undeletedFleet struct {
	ID      string `xml:"fleetId"`
	Code    string `xml:"error>code"`
	Message string `xml:"error>message"`
}

type deleteFleetsResponse struct {
	Deleted []deletedFleet   `xml:"successfulFleetDeletionSet>item"`
	Failed  []undeletedFleet `xml:"unsuccessfulFleetDeletionSet>item"`
}

func (k *call) deleteFleets(in *deleteFleetsRequest) (*deleteFleetsResponse, error) {
	switch {
	case len(in.FleetId) == 0:
		return nil, missing("FleetId")
	case in.TerminateInstances == nil:
		return nil, missing("TerminateInstances")
	}
	out := &deleteFleetsResponse{}
	for _, id := range in.FleetId {
		f, ok := k.fleets.m[id]
		switch {
		case !ok:
			out.Failed = append(out.Failed, undeletedFleet{id, "fleetIdDoesNotExist", "The fleet '" + id + "' does not exist"})
			continue
		case !*in.TerminateInstances && f.kind == "instant":
			out.Failed = append(out.Failed, undeletedFleet{id, "fleetNotInDeletableState", "The instances of an instant fleet are terminated with it"})
			continue
		}
		if err := k.commit(); err != nil {
			return nil, err
		}
		was := f.state()
		for _, i := range f.instances {
			k.end(i, "Client.UserInitiatedShutdown: User initiated shutdown")
		}
		f.deleted = true
		out.Deleted = append(out.Deleted, deletedFleet{id, "deleted_terminating", was})
	}
	return out, nil
}

type spotItem struct {
	ID       string    `xml:"spotInstanceRequestId"`
	Instance string    `xml:"instanceId,omitempty"`
	State    string    `xml:"state"`
	Status   string    `xml:"status>code"`
	Type     string    `xml:"type"`
	Created  string    `xml:"createTime"`
	Tags     []tagItem `xml:"tagSet>item"`
}

type describeSpotInstanceRequestsResponse struct {
	Requests  []spotItem `xml:"spotInstanceRequestSet>item"`
	NextToken string     `xml:"nextToken,omitempty"`
}

func (k *call) describeSpotInstanceRequests(in *describeSpotInstanceRequestsRequest) (*describeSpotInstanceRequestsResponse, error) {
	list, err := find(k, k.spots, in.SpotInstanceRequestId, in.Filter)
	if err != nil {
		return nil, err
	}
	out := &describeSpotInstanceRequestsResponse{}
	for _, s := range list {
		kd := "one-time"
		if s.persistent {
			kd = "persistent"
		}
		out.Requests = append(out.Requests, spotItem{s.id, s.instance, s.state, s.status, kd, iso(s.born), tagItems(s.tags)})
	}
	return out, nil
}

type cancelledSpot struct {
	ID    string `xml:"spotInstanceRequestId"`
	State string `xml:"state"`
}

type cancelSpotInstanceRequestsResponse struct {
	Requests []cancelledSpot `xml:"spotInstanceRequestSet>item"`
}

func (k *call) cancelSpotInstanceRequests(in *cancelSpotInstanceRequestsRequest) (*cancelSpotInstanceRequestsResponse, error) {
	list, err := find(k, k.spots, in.SpotInstanceRequestId, nil)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	out := &cancelSpotInstanceRequestsResponse{}
	for _, s := range list {
		s.state, s.status = "cancelled", "request-canceled-and-instance-running"
		out.Requests = append(out.Requests, cancelledSpot{s.id, s.state})
	}
	return out, nil
}

type activeInstance struct {
	Instance string `xml:"instanceId"`
	Type     string `xml:"instanceType"`
	Health   string `xml:"instanceHealth"`
}

type describeFleetInstancesResponse struct {
	Instances []activeInstance `xml:"activeInstanceSet>item"`
	Fleet     string           `xml:"fleetId"`
}

func (k *call) describeFleetInstances(in *describeFleetInstancesRequest) (*describeFleetInstancesResponse, error) {
	f, err := k.fleets.get(k, in.FleetId)
	if err != nil {
		return nil, err
	}
	out := &describeFleetInstancesResponse{Fleet: f.id}
	for _, i := range f.instances {
		if i.state(k.now()) == running {
			out.Instances = append(out.Instances, activeInstance{i.id, i.kind.name, "healthy"})
		}
	}
	return out, nil
}
