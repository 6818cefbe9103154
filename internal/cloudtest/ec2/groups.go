//go:build linux

package ec2

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// group is a security group.
type group struct {
	item
	name, description, vpc, owner string
	rules                         []*rule
}

// rule admits one source (or destination, if egress).
type rule struct {
	item
	egress      bool
	protocol    string // tcp, udp, icmp, -1 or a number
	from, to    int64
	cidr4       string
	cidr6       string
	group       string
	prefixList  string
	description string
}

func (r *rule) same(o *rule) bool {
	return r.egress == o.egress && r.protocol == o.protocol && r.from == o.from && r.to == o.to && r.cidr4 == o.cidr4 && r.cidr6 == o.cidr6 && r.group == o.group && r.prefixList == o.prefixList
}

func (g *group) values(_ *call, f string) []string {
	var list []string
	per := func(egress bool, v func(*rule) string) []string {
		list = []string{}
		for _, r := range g.rules {
			if r.egress == egress {
				list = append(list, v(r))
			}
		}
		return list
	}
	switch f {
	case "group-id":
		return str(g.id)
	case "group-name":
		return str(g.name)
	case "description":
		return str(g.description)
	case "vpc-id":
		return str(g.vpc)
	case "owner-id":
		return str(g.owner)
	}
	if rest, ok := strings.CutPrefix(f, "egress."); ok {
		return ruleFilter(rest, func(v func(*rule) string) []string { return per(true, v) })
	}
	return ruleFilter(f, func(v func(*rule) string) []string { return per(false, v) })
}

func ruleFilter(f string, per func(func(*rule) string) []string) []string {
	switch f {
	case "ip-permission.cidr":
		return per(func(r *rule) string { return r.cidr4 })
	case "ip-permission.ipv6-cidr":
		return per(func(r *rule) string { return r.cidr6 })
	case "ip-permission.protocol":
		return per(func(r *rule) string { return r.protocol })
	case "ip-permission.from-port":
		return per(func(r *rule) string { return strconv.FormatInt(r.from, 10) })
	case "ip-permission.to-port":
		return per(func(r *rule) string { return strconv.FormatInt(r.to, 10) })
	case "ip-permission.group-id":
		return per(func(r *rule) string { return r.group })
	}
	return nil
}

// admits says whether the group lets a TCP connection in.
func (g *group) admits(s *space, from netip.Addr, port int) bool {
	for _, r := range g.rules {
		if r.egress || r.protocol != "-1" && (r.protocol != "tcp" || int64(port) < r.from || int64(port) > r.to) {
			continue
		}
		for _, cidr := range []string{r.cidr4, r.cidr6} {
			if p, err := netip.ParsePrefix(cidr); err == nil && p.Contains(from) {
				return true
			}
		}
		for _, i := range s.instances.m {
			if r.group != "" && slices.Contains(i.groups, r.group) && i.private == from {
				return true
			}
		}
	}
	return false
}

// ports are those that the group opens to anybody, 22 left out. A range is
// served up to a bound: an emulated machine does not listen on 65535 ports.
func (g *group) ports() []int {
	var list []int
	for _, r := range g.rules {
		if r.egress || r.protocol != "tcp" {
			continue
		}
		for p := r.from; p <= r.to && p < r.from+16; p++ {
			if p > 0 && p < 65536 {
				list = append(list, int(p))
			}
		}
	}
	return list
}

func (c *Cloud) newRule(r rule) *rule {
	r.item = c.newItem(kindRule, r.tags)
	return &r
}

var (
	groupName    = regexp.MustCompile(`^[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]+$`)
	badGroupText = "Character sets beyond ASCII and a few others are not supported."
)

type createSecurityGroupResponse struct {
	answered
	ID   string    `xml:"groupId"`
	ARN  string    `xml:"securityGroupArn"`
	Tags []tagItem `xml:"tagSet>item"`
}

func (k *call) createSecurityGroup(in *createSecurityGroupRequest) (*createSecurityGroupResponse, error) {
	switch {
	case in.GroupName == "":
		return nil, missing("GroupName")
	case in.GroupDescription == "":
		return nil, missing("GroupDescription")
	case len(in.GroupName) > 255 || !groupName.MatchString(in.GroupName) || strings.HasPrefix(in.GroupName, "sg-"):
		return nil, fail("InvalidParameterValue", "Value (%s) for parameter GroupName is invalid. %s", in.GroupName, badGroupText)
	case len(in.GroupDescription) > 255 || !groupName.MatchString(in.GroupDescription):
		return nil, fail("InvalidParameterValue", "Value (%s) for parameter GroupDescription is invalid. %s", in.GroupDescription, badGroupText)
	}
	tags, err := specified(in.TagSpecification, kindGroup)
	if err != nil {
		return nil, err
	}
	v := k.defaultVPC()
	if in.VpcId != "" {
		if v, err = k.vpcs.get(k, in.VpcId); err != nil {
			return nil, err
		}
	}
	if v == nil {
		return nil, noDefaultVPC()
	}
	n := 1
	for _, g := range k.groups.m {
		if g.vpc != v.id {
			continue
		}
		if g.name == in.GroupName {
			return nil, fail("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", in.GroupName, v.id)
		}
		n++
	}
	if !k.within(QuotaGroups, n) {
		return nil, fail("SecurityGroupLimitExceeded", "The maximum number of security groups for VPC '%s' has been reached.", v.id)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	g := &group{item: k.newItem(kindGroup, tags["security-group"]), name: in.GroupName, description: in.GroupDescription, vpc: v.id, owner: k.account}
	g.rules = []*rule{k.newRule(rule{egress: true, protocol: "-1", from: -1, to: -1, cidr4: "0.0.0.0/0"})}
	k.groups.m[g.id] = g
	return &createSecurityGroupResponse{*done, g.id, k.groupARN(g), tagItems(g.tags)}, nil
}

func (k *call) groupARN(g *group) string {
	return fmt.Sprintf("arn:aws:ec2:%s:%s:security-group/%s", k.regionName, g.owner, g.id)
}

// groupOf finds a group by its id, or by its name in the default VPC.
func (k *call) groupOf(id, name string) (*group, error) {
	if id != "" {
		return k.groups.get(k, id)
	}
	if name == "" {
		return nil, missing("GroupId")
	}
	v := k.defaultVPC()
	for _, g := range k.groups.all() {
		if v != nil && g.vpc == v.id && g.name == name && k.visible(&g.item, true) {
			return g, nil
		}
	}
	return nil, fail("InvalidGroup.NotFound", "The security group '%s' does not exist", name)
}

func (k *call) deleteSecurityGroup(in *deleteSecurityGroupRequest) (*answered, error) {
	g, err := k.groupOf(in.GroupId, in.GroupName)
	if err != nil {
		return nil, err
	}
	if g.name == "default" {
		return nil, fail("CannotDelete", "the specified group: %q name: %q cannot be deleted by a user", g.id, g.name)
	}
	for _, i := range k.instances.m {
		if slices.Contains(i.groups, g.id) && i.holdsNetwork(k) {
			return nil, fail("DependencyViolation", "resource %s has a dependent object", g.id)
		}
	}
	for _, o := range k.groups.m {
		if o != g && slices.ContainsFunc(o.rules, func(r *rule) bool { return r.group == g.id }) {
			return nil, fail("DependencyViolation", "resource %s has a dependent object", g.id)
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	delete(k.groups.m, g.id)
	return done, nil
}

type ipPermissionItem struct {
	Protocol    string            `xml:"ipProtocol"`
	From        *int64            `xml:"fromPort"`
	To          *int64            `xml:"toPort"`
	Groups      []groupPairItem   `xml:"groups>item"`
	Ranges      []ipRangeItem     `xml:"ipRanges>item"`
	Ranges6     []ip6RangeItem    `xml:"ipv6Ranges>item"`
	PrefixLists []prefixListRange `xml:"prefixListIds>item"`
}

type groupPairItem struct {
	User        string `xml:"userId"`
	ID          string `xml:"groupId"`
	Description string `xml:"description,omitempty"`
}

type ipRangeItem struct {
	CIDR        string `xml:"cidrIp"`
	Description string `xml:"description,omitempty"`
}

type ip6RangeItem struct {
	CIDR        string `xml:"cidrIpv6"`
	Description string `xml:"description,omitempty"`
}

type prefixListRange struct {
	ID string `xml:"prefixListId"`
}

type groupItem struct {
	Owner       string             `xml:"ownerId"`
	ID          string             `xml:"groupId"`
	ARN         string             `xml:"securityGroupArn"`
	Name        string             `xml:"groupName"`
	Description string             `xml:"groupDescription"`
	VPC         string             `xml:"vpcId"`
	In          []ipPermissionItem `xml:"ipPermissions>item"`
	Out         []ipPermissionItem `xml:"ipPermissionsEgress>item"`
	Tags        []tagItem          `xml:"tagSet>item"`
}

// permissions gathers rules of one protocol and port range, as EC2 shows them.
func (g *group) permissions(egress bool) []ipPermissionItem {
	var list []ipPermissionItem
	at := map[string]int{}
	for _, r := range g.rules {
		if r.egress != egress {
			continue
		}
		key := fmt.Sprint(r.protocol, r.from, "-", r.to)
		i, ok := at[key]
		if !ok {
			i = len(list)
			at[key] = i
			p := ipPermissionItem{Protocol: r.protocol}
			if r.protocol != "-1" {
				p.From, p.To = &r.from, &r.to
			}
			list = append(list, p)
		}
		p := &list[i]
		switch {
		case r.cidr4 != "":
			p.Ranges = append(p.Ranges, ipRangeItem{r.cidr4, r.description})
		case r.cidr6 != "":
			p.Ranges6 = append(p.Ranges6, ip6RangeItem{r.cidr6, r.description})
		case r.group != "":
			p.Groups = append(p.Groups, groupPairItem{g.owner, r.group, r.description})
		case r.prefixList != "":
			p.PrefixLists = append(p.PrefixLists, prefixListRange{r.prefixList})
		}
	}
	return list
}

type describeSecurityGroupsResponse struct {
	Groups    []groupItem `xml:"securityGroupInfo>item"`
	NextToken string      `xml:"nextToken,omitempty"`
}

func (k *call) describeSecurityGroups(in *describeSecurityGroupsRequest) (*describeSecurityGroupsResponse, error) {
	ids := slices.Clone(in.GroupId)
	for _, name := range in.GroupName {
		g, err := k.groupOf("", name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, g.id)
	}
	list, err := find(k, k.groups, ids, in.Filter)
	if err != nil {
		return nil, err
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, kindGroup.max)
	if err != nil {
		return nil, err
	}
	out := &describeSecurityGroupsResponse{NextToken: next}
	for _, g := range list {
		out.Groups = append(out.Groups, groupItem{g.owner, g.id, k.groupARN(g), g.name, g.description, g.vpc, g.permissions(false), g.permissions(true), tagItems(g.tags)})
	}
	return out, nil
}

// rulesOf reads what a call says of rules.
func (k *call) rulesOf(g *group, egress bool, list []ipPermission) ([]*rule, error) {
	var rules []*rule
	for _, p := range list {
		proto := strings.ToLower(p.IpProtocol)
		switch proto {
		case "":
			return nil, missing("IpProtocol")
		case "6":
			proto = "tcp"
		case "17":
			proto = "udp"
		case "all":
			proto = "-1"
		case "tcp", "udp", "icmp", "icmpv6", "-1":
		default:
			if n, err := strconv.Atoi(proto); err != nil || n < 0 || n > 255 {
				return nil, fail("InvalidParameterValue", "Invalid value '%s' for IP protocol. Unknown protocol.", p.IpProtocol)
			}
		}
		r := rule{egress: egress, protocol: proto, from: -1, to: -1}
		if proto == "tcp" || proto == "udp" {
			if p.FromPort == nil || p.ToPort == nil {
				return nil, fail("InvalidParameterValue", "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.")
			}
			r.from, r.to = *p.FromPort, *p.ToPort
			if r.from < 0 || r.to > 65535 || r.from > r.to {
				return nil, fail("InvalidParameterValue", "Invalid TCP/UDP port range (%d:%d)", r.from, r.to)
			}
		} else if proto != "-1" {
			r.from, r.to = intOr(p.FromPort, -1), intOr(p.ToPort, -1)
		}
		n := len(rules)
		for _, x := range p.IpRanges {
			pre, err := netip.ParsePrefix(x.CidrIp)
			if err != nil || !pre.Addr().Is4() {
				return nil, fail("InvalidParameterValue", "CIDR block %s is malformed", x.CidrIp)
			}
			one := r
			one.cidr4, one.description = pre.Masked().String(), x.Description
			rules = append(rules, &one)
		}
		for _, x := range p.Ipv6Ranges {
			pre, err := netip.ParsePrefix(x.CidrIpv6)
			if err != nil || !pre.Addr().Is6() {
				return nil, fail("InvalidParameterValue", "CIDR block %s is malformed", x.CidrIpv6)
			}
			one := r
			one.cidr6, one.description = pre.Masked().String(), x.Description
			rules = append(rules, &one)
		}
		for _, x := range p.Groups {
			src, err := k.groupOf(x.GroupId, x.GroupName)
			if err != nil {
				return nil, err
			}
			one := r
			one.group, one.description = src.id, x.Description
			rules = append(rules, &one)
		}
		for _, x := range p.PrefixListIds {
			one := r
			one.prefixList, one.description = x.PrefixListId, x.Description
			rules = append(rules, &one)
		}
		if len(rules) == n {
			return nil, fail("MissingParameter", "Either 'cidrIp', 'cidrIpv6', 'prefixListId' or a source group must be given for group %s", g.id)
		}
	}
	if len(rules) == 0 {
		return nil, missing("IpPermissions")
	}
	return rules, nil
}

type ruleItem struct {
	ID          string         `xml:"securityGroupRuleId"`
	Group       string         `xml:"groupId"`
	Owner       string         `xml:"groupOwnerId"`
	Egress      bool           `xml:"isEgress"`
	Protocol    string         `xml:"ipProtocol"`
	From        int64          `xml:"fromPort"`
	To          int64          `xml:"toPort"`
	CIDR4       string         `xml:"cidrIpv4,omitempty"`
	CIDR6       string         `xml:"cidrIpv6,omitempty"`
	Source      *groupPairItem `xml:"referencedGroupInfo"`
	Description string         `xml:"description,omitempty"`
	Tags        []tagItem      `xml:"tagSet>item"`
}

func ruleItems(g *group, rules []*rule) []ruleItem {
	var list []ruleItem
	for _, r := range rules {
		i := ruleItem{r.id, g.id, g.owner, r.egress, r.protocol, r.from, r.to, r.cidr4, r.cidr6, nil, r.description, tagItems(r.tags)}
		if r.group != "" {
			i.Source = &groupPairItem{User: g.owner, ID: r.group}
		}
		list = append(list, i)
	}
	return list
}

type authorizeResponse struct {
	answered
	Rules []ruleItem `xml:"securityGroupRuleSet>item"`
}

const maxRules = 60

func (k *call) authorize(g *group, egress bool, list []ipPermission, specs []tagSpecification) (*authorizeResponse, error) {
	rules, err := k.rulesOf(g, egress, list)
	if err != nil {
		return nil, err
	}
	tags, err := specified(specs, kindRule)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, o := range g.rules {
		if o.egress == egress {
			n++
		}
		for _, r := range rules {
			if r.same(o) {
				return nil, fail("InvalidPermission.Duplicate", "the specified rule \"peer: %s%s%s, %s, from port: %d, to port: %d, ALLOW\" already exists", r.cidr4, r.cidr6, r.group, strings.ToUpper(r.protocol), r.from, r.to)
			}
		}
	}
	if n+len(rules) > maxRules {
		return nil, fail("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	for i, r := range rules {
		r.item = k.newItem(kindRule, tags["security-group-rule"])
		rules[i] = r
	}
	g.rules = append(g.rules, rules...)
	k.rulesChanged(k.space, g)
	return &authorizeResponse{*done, ruleItems(g, rules)}, nil
}

// flat are the permissions of a call, whether it gives them as a list or in the
// older way, one at the top.
func flat(list []ipPermission, protocol string, from, to *int64, cidr, sourceGroup string) ([]ipPermission, error) {
	if protocol == "" && cidr == "" && sourceGroup == "" {
		return list, nil
	}
	if len(list) > 0 {
		return nil, combination("The parameter 'ipPermissions' may not be used in combination with 'cidrIp', 'ipProtocol' and the like")
	}
	p := ipPermission{IpProtocol: protocol, FromPort: from, ToPort: to}
	if cidr != "" {
		p.IpRanges = []ipRange{{CidrIp: cidr}}
	}
	if sourceGroup != "" {
		p.Groups = []userIdGroupPair{{GroupName: sourceGroup}}
		if protocol == "" {
			p.IpProtocol = "-1"
		}
	}
	return []ipPermission{p}, nil
}

func (k *call) authorizeSecurityGroupIngress(in *authorizeSecurityGroupIngressRequest) (*authorizeResponse, error) {
	g, err := k.groupOf(in.GroupId, in.GroupName)
	if err != nil {
		return nil, err
	}
	list, err := flat(in.IpPermissions, in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName)
	if err != nil {
		return nil, err
	}
	return k.authorize(g, false, list, in.TagSpecification)
}

func (k *call) authorizeSecurityGroupEgress(in *authorizeSecurityGroupEgressRequest) (*authorizeResponse, error) {
	g, err := k.groups.get(k, in.GroupId)
	if err != nil {
		return nil, err
	}
	list, err := flat(in.IpPermissions, in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName)
	if err != nil {
		return nil, err
	}
	return k.authorize(g, true, list, in.TagSpecification)
}

func (k *call) revoke(g *group, egress bool, ids []string, list []ipPermission) (*answered, error) {
	var doomed []*rule
	for _, id := range ids {
		i := slices.IndexFunc(g.rules, func(r *rule) bool { return r.id == id && r.egress == egress })
		if i < 0 {
			return nil, kindRule.notFound(id)
		}
		doomed = append(doomed, g.rules[i])
	}
	if len(ids) == 0 {
		rules, err := k.rulesOf(g, egress, list)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			i := slices.IndexFunc(g.rules, r.same)
			if i < 0 {
				return nil, fail("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
			}
			doomed = append(doomed, g.rules[i])
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	g.rules = slices.DeleteFunc(g.rules, func(r *rule) bool { return slices.Contains(doomed, r) })
	return done, nil
}

func (k *call) revokeSecurityGroupIngress(in *revokeSecurityGroupIngressRequest) (*answered, error) {
	g, err := k.groupOf(in.GroupId, in.GroupName)
	if err != nil {
		return nil, err
	}
	list, err := flat(in.IpPermissions, in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName)
	if err != nil {
		return nil, err
	}
	return k.revoke(g, false, in.SecurityGroupRuleId, list)
}

func (k *call) revokeSecurityGroupEgress(in *revokeSecurityGroupEgressRequest) (*answered, error) {
	g, err := k.groups.get(k, in.GroupId)
	if err != nil {
		return nil, err
	}
	list, err := flat(in.IpPermissions, in.IpProtocol, in.FromPort, in.ToPort, in.CidrIp, in.SourceSecurityGroupName)
	if err != nil {
		return nil, err
	}
	return k.revoke(g, true, in.SecurityGroupRuleId, list)
}

type describeSecurityGroupRulesResponse struct {
	Rules     []ruleItem `xml:"securityGroupRuleSet>item"`
	NextToken string     `xml:"nextToken,omitempty"`
}

func (r *rule) values(*call, string) []string { return nil }

func (k *call) describeSecurityGroupRules(in *describeSecurityGroupRulesRequest) (*describeSecurityGroupRulesResponse, error) {
	var all []ruleItem
	for _, g := range k.groups.all() {
		for _, i := range ruleItems(g, g.rules) {
			ok := len(in.SecurityGroupRuleId) == 0 || slices.Contains(in.SecurityGroupRuleId, i.ID)
			for _, f := range in.Filter {
				have, known := map[string]string{"group-id": g.id, "security-group-rule-id": i.ID}[f.Name]
				if name, tagged := strings.CutPrefix(f.Name, "tag:"); tagged {
					for _, t := range i.Tags {
						if t.Key == name {
							have = t.Value
						}
					}
				} else if !known {
					return nil, fail("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
				}
				ok = ok && slices.ContainsFunc(f.Value, func(w string) bool { return wildcard(w, have) })
			}
			if ok {
				all = append(all, i)
			}
		}
	}
	all, next, err := page(all, in.MaxResults, in.NextToken, 5, 1000)
	return &describeSecurityGroupRulesResponse{all, next}, err
}
