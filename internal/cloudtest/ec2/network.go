//go:build linux

package ec2

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// zones are those of a region, by their letters.
const zones = "abc"

type vpc struct {
	item
	cidr      string
	byDefault bool
}

func (v *vpc) values(k *call, f string) []string {
	switch f {
	case "vpc-id":
		return str(v.id)
	case "is-default", "isDefault":
		return yes(v.byDefault)
	case "state":
		return str("available")
	case "cidr", "cidr-block-association.cidr-block":
		return str(v.cidr)
	case "owner-id":
		return str(k.account)
	}
	return nil
}

type subnet struct {
	item
	vpc, zone, cidr string
	byDefault       bool
	public          bool // what is launched in it gets a public address
	free            int64
}

func (s *subnet) values(k *call, f string) []string {
	switch f {
	case "subnet-id":
		return str(s.id)
	case "vpc-id":
		return str(s.vpc)
	case "availability-zone", "availabilityZone":
		return str(s.zone)
	case "availability-zone-id":
		return str(zoneID(s.zone))
	case "default-for-az", "defaultForAz":
		return yes(s.byDefault)
	case "map-public-ip-on-launch":
		return yes(s.public)
	case "state":
		return str("available")
	case "cidr-block", "cidr":
		return str(s.cidr)
	case "owner-id":
		return str(k.account)
	case "available-ip-address-count":
		return str(strconv.FormatInt(s.free, 10))
	}
	return nil
}

func zoneID(zone string) string {
	parts := strings.Split(zone, "-")
	if len(parts) != 3 {
		return zone
	}
	return parts[0][:2] + parts[1][:1] + parts[2][:1] + "-az" + strconv.Itoa(int(parts[2][1]-'a')+1)
}

func (c *Cloud) addDefaultVPC(s *space) {
	v := &vpc{item: c.newItem(kindVPC, nil), cidr: "127.0.0.0/8", byDefault: true}
	s.vpcs.m[v.id] = v
	for i, letter := range zones {
		n := &subnet{item: c.newItem(kindSubnet, nil), vpc: v.id, zone: s.region + string(letter), cidr: "127." + strconv.Itoa(64*i) + ".0.0/10", byDefault: true, public: true, free: int64(4091 - i)}
		s.subnets.m[n.id] = n
	}
	c.addDefaultGroup(s, v)
}

func (c *Cloud) addDefaultGroup(s *space, v *vpc) {
	g := &group{item: c.newItem(kindGroup, nil), name: "default", description: "default VPC security group", vpc: v.id, owner: s.account}
	g.rules = []*rule{c.newRule(rule{protocol: "-1", from: -1, to: -1, group: g.id}), c.newRule(rule{egress: true, protocol: "-1", from: -1, to: -1, cidr4: "0.0.0.0/0"})}
	s.groups.m[g.id] = g
}

// defaultVPC is the account's in this region, if it has one.
func (s *space) defaultVPC() *vpc {
	for _, v := range s.vpcs.all() {
		if v.byDefault {
			return v
		}
	}
	return nil
}

func noDefaultVPC() error { return fail("VPCIdNotSpecified", "No default VPC for this user") }

// DropDefaultVPC removes the default VPC of the caller's account in a region,
// as an account may have none.
func (c *Cloud) DropDefaultVPC(region string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.spaceOf(c.o.Account, region)
	if err != nil {
		return err
	}
	if v := s.defaultVPC(); v != nil {
		s.dropVPC(v)
	}
	return nil
}

func (s *space) dropVPC(v *vpc) {
	delete(s.vpcs.m, v.id)
	for id, n := range s.subnets.m {
		if n.vpc == v.id {
			delete(s.subnets.m, id)
		}
	}
	for id, g := range s.groups.m {
		if g.vpc == v.id {
			delete(s.groups.m, id)
		}
	}
}

type regionItem struct {
	Name     string `xml:"regionName"`
	Endpoint string `xml:"regionEndpoint"`
	OptIn    string `xml:"optInStatus"`
}

type describeRegionsResponse struct {
	Regions []regionItem `xml:"regionInfo>item"`
}

func (k *call) describeRegions(in *describeRegionsRequest) (*describeRegionsResponse, error) {
	out := &describeRegionsResponse{}
	for _, r := range in.RegionName {
		if !slices.Contains(k.o.Regions, r) {
			return nil, fail("InvalidParameterValue", "Invalid region names: [%s]", r)
		}
	}
	for _, r := range k.o.Regions {
		if len(in.RegionName) == 0 || slices.Contains(in.RegionName, r) {
			// The endpoint names this host; a client has it from elsewhere.
			out.Regions = append(out.Regions, regionItem{r, strings.TrimPrefix(k.URL(), "http://"), "opt-in-not-required"})
		}
	}
	var err error
	out.Regions = slices.DeleteFunc(out.Regions, func(r regionItem) bool {
		for _, f := range in.Filter {
			have := map[string]string{"region-name": r.Name, "endpoint": r.Endpoint, "opt-in-status": r.OptIn}
			h, ok := have[f.Name]
			if !ok {
				err = fail("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
			}
			if !slices.ContainsFunc(f.Value, func(w string) bool { return wildcard(w, h) }) {
				return true
			}
		}
		return false
	})
	return out, err
}

type zoneItem struct {
	Name   string `xml:"zoneName"`
	ID     string `xml:"zoneId"`
	State  string `xml:"zoneState"`
	Region string `xml:"regionName"`
	Type   string `xml:"zoneType"`
	OptIn  string `xml:"optInStatus"`
}

type describeAvailabilityZonesResponse struct {
	Zones []zoneItem `xml:"availabilityZoneInfo>item"`
}

func (k *call) describeAvailabilityZones(in *describeAvailabilityZonesRequest) (*describeAvailabilityZonesResponse, error) {
	out := &describeAvailabilityZonesResponse{}
	for _, z := range in.ZoneName {
		if !k.hasZone(z) {
			return nil, fail("InvalidParameterValue", "Invalid availability zone: [%s]", z)
		}
	}
	for _, letter := range zones {
		z := k.regionName + string(letter)
		if len(in.ZoneName) > 0 && !slices.Contains(in.ZoneName, z) {
			continue
		}
		ok := true
		for _, f := range in.Filter {
			have := map[string]string{"zone-name": z, "zone-id": zoneID(z), "state": "available", "region-name": k.regionName, "zone-type": "availability-zone", "opt-in-status": "opt-in-not-required"}
			h, known := have[f.Name]
			if !known {
				return nil, fail("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
			}
			ok = ok && slices.ContainsFunc(f.Value, func(w string) bool { return wildcard(w, h) })
		}
		if ok {
			out.Zones = append(out.Zones, zoneItem{z, zoneID(z), "available", k.regionName, "availability-zone", "opt-in-not-required"})
		}
	}
	return out, nil
}

func (k *call) hasZone(z string) bool {
	return len(z) == len(k.regionName)+1 && strings.HasPrefix(z, k.regionName) && strings.Contains(zones, z[len(z)-1:])
}

type vpcItem struct {
	ID        string    `xml:"vpcId"`
	Owner     string    `xml:"ownerId"`
	State     string    `xml:"state"`
	CIDR      string    `xml:"cidrBlock"`
	Tenancy   string    `xml:"instanceTenancy"`
	IsDefault bool      `xml:"isDefault"`
	Tags      []tagItem `xml:"tagSet>item"`
}

func (k *call) vpcItem(v *vpc) vpcItem {
	return vpcItem{v.id, k.account, "available", v.cidr, "default", v.byDefault, tagItems(v.tags)}
}

type describeVpcsResponse struct {
	VPCs      []vpcItem `xml:"vpcSet>item"`
	NextToken string    `xml:"nextToken,omitempty"`
}

func (k *call) describeVpcs(in *describeVpcsRequest) (*describeVpcsResponse, error) {
	list, err := find(k, k.vpcs, in.VpcId, in.Filter)
	if err != nil {
		return nil, err
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, kindVPC.max)
	if err != nil {
		return nil, err
	}
	out := &describeVpcsResponse{NextToken: next}
	for _, v := range list {
		out.VPCs = append(out.VPCs, k.vpcItem(v))
	}
	return out, nil
}

type createVpcResponse struct {
	VPC vpcItem `xml:"vpc"`
}

func (k *call) createVpc(in *createVpcRequest) (*createVpcResponse, error) {
	p, err := netip.ParsePrefix(in.CidrBlock)
	if err != nil || !p.Addr().IsLoopback() {
		return nil, invalid("CidrBlock", "%q is no block of loopback addresses, which are all that this emulator has", in.CidrBlock)
	}
	tags, err := specified(in.TagSpecification, kindVPC)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	v := &vpc{item: k.newItem(kindVPC, tags["vpc"]), cidr: p.String()}
	k.vpcs.m[v.id] = v
	k.addDefaultGroup(k.space, v)
	return &createVpcResponse{k.vpcItem(v)}, nil
}

func (k *call) deleteVpc(in *deleteVpcRequest) (*answered, error) {
	v, err := k.vpcs.get(k, in.VpcId)
	if err != nil {
		return nil, err
	}
	for _, n := range k.subnets.m {
		if n.vpc == v.id {
			return nil, fail("DependencyViolation", "The vpc '%s' has dependencies and cannot be deleted.", v.id)
		}
	}
	for _, g := range k.groups.m {
		if g.vpc == v.id && g.name != "default" {
			return nil, fail("DependencyViolation", "The vpc '%s' has dependencies and cannot be deleted.", v.id)
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	k.dropVPC(v)
	return done, nil
}

type subnetItem struct {
	ID        string    `xml:"subnetId"`
	ARN       string    `xml:"subnetArn"`
	State     string    `xml:"state"`
	Owner     string    `xml:"ownerId"`
	VPC       string    `xml:"vpcId"`
	CIDR      string    `xml:"cidrBlock"`
	Free      int64     `xml:"availableIpAddressCount"`
	Zone      string    `xml:"availabilityZone"`
	ZoneID    string    `xml:"availabilityZoneId"`
	IsDefault bool      `xml:"defaultForAz"`
	Public    bool      `xml:"mapPublicIpOnLaunch"`
	Tags      []tagItem `xml:"tagSet>item"`
}

func (k *call) subnetItem(s *subnet) subnetItem {
	return subnetItem{s.id, "arn:aws:ec2:" + k.regionName + ":" + k.account + ":subnet/" + s.id, "available", k.account, s.vpc, s.cidr, s.free, s.zone, zoneID(s.zone), s.byDefault, s.public, tagItems(s.tags)}
}

type describeSubnetsResponse struct {
	Subnets   []subnetItem `xml:"subnetSet>item"`
	NextToken string       `xml:"nextToken,omitempty"`
}

func (k *call) describeSubnets(in *describeSubnetsRequest) (*describeSubnetsResponse, error) {
	list, err := find(k, k.subnets, in.SubnetId, in.Filter)
	if err != nil {
		return nil, err
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, kindSubnet.max)
	if err != nil {
		return nil, err
	}
	out := &describeSubnetsResponse{NextToken: next}
	for _, s := range list {
		out.Subnets = append(out.Subnets, k.subnetItem(s))
	}
	return out, nil
}

type createSubnetResponse struct {
	Subnet subnetItem `xml:"subnet"`
}

func (k *call) createSubnet(in *createSubnetRequest) (*createSubnetResponse, error) {
	v, err := k.vpcs.get(k, in.VpcId)
	if err != nil {
		return nil, err
	}
	zone := in.AvailabilityZone
	if zone == "" {
		zone = k.regionName + zones[:1]
	}
	if !k.hasZone(zone) {
		return nil, invalid("availabilityZone", "%s is no zone of %s", zone, k.regionName)
	}
	whole, err := netip.ParsePrefix(v.cidr)
	if err != nil {
		return nil, err
	}
	p, err := netip.ParsePrefix(in.CidrBlock)
	if err != nil || !whole.Contains(p.Addr()) || p.Bits() < whole.Bits() {
		return nil, fail("InvalidSubnet.Range", "The CIDR '%s' is invalid.", in.CidrBlock)
	}
	tags, err := specified(in.TagSpecification, kindSubnet)
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	s := &subnet{item: k.newItem(kindSubnet, tags["subnet"]), vpc: v.id, zone: zone, cidr: p.String(), free: 1<<(32-p.Bits()) - 5}
	k.subnets.m[s.id] = s
	return &createSubnetResponse{k.subnetItem(s)}, nil
}

func (k *call) deleteSubnet(in *deleteSubnetRequest) (*answered, error) {
	s, err := k.subnets.get(k, in.SubnetId)
	if err != nil {
		return nil, err
	}
	for _, i := range k.instances.m {
		if i.subnet == s.id && i.state(k.now()) != terminated {
			return nil, fail("DependencyViolation", "The subnet '%s' has dependencies and cannot be deleted.", s.id)
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	delete(k.subnets.m, s.id)
	return done, nil
}

func (k *call) modifySubnetAttribute(in *modifySubnetAttributeRequest) (*answered, error) {
	s, err := k.subnets.get(k, in.SubnetId)
	if err != nil {
		return nil, err
	}
	if m := in.MapPublicIpOnLaunch; m != nil {
		s.public = isTrue(m.Value)
	}
	return done, nil
}

type accountAttribute struct {
	Name   string   `xml:"attributeName"`
	Values []string `xml:"attributeValueSet>item>attributeValue"`
}

type describeAccountAttributesResponse struct {
	Attributes []accountAttribute `xml:"accountAttributeSet>item"`
}

func (k *call) describeAccountAttributes(in *describeAccountAttributesRequest) (*describeAccountAttributesResponse, error) {
	byDefault := "none"
	if v := k.defaultVPC(); v != nil {
		byDefault = v.id
	}
	out := &describeAccountAttributesResponse{}
	for _, a := range []accountAttribute{{"default-vpc", str(byDefault)}, {"supported-platforms", str("VPC")}, {"vpc-max-security-groups-per-interface", str("5")}} {
		if len(in.AttributeName) == 0 || slices.Contains(in.AttributeName, a.Name) {
			out.Attributes = append(out.Attributes, a)
		}
	}
	return out, nil
}
