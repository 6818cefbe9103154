package amazon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// Grant is one action that a bake needs.
type Grant struct {
	// Action such as "ec2:RunInstances".
	Action string
	// Why the bake needs it, in a few words.
	Why string
	// Resources it is needed for. Empty: "*", also where the action knows no narrower one.
	Resources []string
	// Condition under which it is enough.
	Condition map[string]map[string]any

	// sid names the statement that it stands in.
	sid string
}

// Policy is the least that the credentials of a bake must be allowed.
type Policy []Grant

// statement is one statement of an IAM policy.
type statement struct {
	Sid       string
	Effect    string
	Action    []string
	Resource  []string
	Condition map[string]map[string]any `json:",omitempty"`
}

// JSON is the policy as IAM takes it. Grants for the same resources under the
// same conditions share a statement.
func (p Policy) JSON() ([]byte, error) {
	var statements []*statement
	byScope := map[string]*statement{}
	for _, g := range p {
		resources := g.Resources
		if len(resources) == 0 {
			resources = []string{"*"}
		}
		scope, err := json.Marshal([]any{g.sid, resources, g.Condition})
		if err != nil {
			return nil, err
		}
		s := byScope[string(scope)]
		if s == nil {
			s = &statement{Sid: g.sid, Effect: "Allow", Resource: resources, Condition: g.Condition}
			byScope[string(scope)] = s
			statements = append(statements, s)
		}
		if !slices.Contains(s.Action, g.Action) {
			s.Action = append(s.Action, g.Action)
		}
	}
	// A Sid is unique in a policy.
	times := map[string]int{}
	for _, s := range statements {
		times[s.Sid]++
		if n := times[s.Sid]; n > 1 {
			s.Sid = fmt.Sprintf("%s%d", s.Sid, n)
		}
		slices.Sort(s.Action)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Version   string
		Statement []*statement
	}{"2012-10-17", statements})
	return out.Bytes(), err
}

// Reasons says of each action why it is needed, one a line.
func (p Policy) Reasons() string {
	var b strings.Builder
	width := 0
	for _, g := range p {
		width = max(width, len(g.Action))
	}
	for _, g := range p {
		fmt.Fprintf(&b, "%-*s  %s\n", width, g.Action, g.Why)
	}
	return b.String()
}

// merge joins policies; of the same action in the same scope, one stays.
func (p Policy) merge(others ...Policy) Policy {
	all := slices.Clone(p)
	for _, o := range others {
		for _, g := range o {
			same := func(x Grant) bool {
				return x.Action == g.Action && x.sid == g.sid && slices.Equal(x.Resources, g.Resources)
			}
			if !slices.ContainsFunc(all, same) {
				all = append(all, g)
			}
		}
	}
	return all
}

// MergePolicies is what several sources need together.
func MergePolicies(policies ...Policy) Policy { return Policy(nil).merge(policies...) }

// scope makes grants of one kind.
type scope struct {
	sid       string
	resources []string
	condition map[string]map[string]any
	policy    *Policy
}

func (s scope) need(why string, actions ...string) {
	for _, a := range actions {
		*s.policy = append(*s.policy, Grant{Action: a, Why: why, Resources: s.resources, Condition: s.condition, sid: s.sid})
	}
}

// partition is the part of AWS that a region is in, as ARNs have it.
func partition(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	case strings.HasPrefix(region, "us-iso-"):
		return "aws-iso"
	case strings.HasPrefix(region, "us-isob-"):
		return "aws-iso-b"
	}
	return "aws"
}

// Policy is the least that the credentials need for this source in the build's region.
func (o *Options) Policy(region string) Policy {
	p := accessPolicy(&o.Access).merge(o.RunOptions.policy(region, &o.Options))
	if !o.SkipCreateAMI {
		p = p.merge(o.AMIOptions.policy(region, true), o.EBSOptions.policy(region, &o.AMIOptions))
	}
	return p
}

// accessPolicy is what it takes to be in the account.
func accessPolicy(a *awscloud.Access) Policy {
	var p Policy
	if a.DecodeAuthorizationMessages {
		scope{sid: "Account", policy: &p}.need("say why a call was denied (decode_authorization_messages)", "sts:DecodeAuthorizationMessage")
	}
	if r := a.AssumeRole; r != nil && r.RoleARN != "" {
		scope{sid: "Role", resources: []string{r.RoleARN}, policy: &p}.need("take the role on, with the credentials before it (assume_role)", "sts:AssumeRole")
	}
	return p
}

// inRegions is the condition that a call is made in one of the regions.
func inRegions(regions ...string) map[string]map[string]any {
	if slices.Contains(regions, "") {
		return nil // the region is not known here
	}
	return map[string]map[string]any{"StringEquals": {"aws:RequestedRegion": regions}}
}

// ofIngot adds the condition that a bake has made what the call is about.
func ofIngot(c map[string]map[string]any) map[string]map[string]any {
	out := map[string]map[string]any{"StringLike": {"aws:ResourceTag/" + tagBuild: "*"}}
	for k, v := range c {
		out[k] = v
	}
	return out
}

// policy is what an instance takes, from the launch to its end.
func (o *RunOptions) policy(region string, comm *communicator.Options) Policy {
	var p Policy
	in := inRegions(region)
	look := scope{"Look", nil, in, &p}
	look.need("find the source AMI", "ec2:DescribeImages")
	look.need("wait for the instance, and learn its addresses", "ec2:DescribeInstances")
	look.need("find the subnet", "ec2:DescribeSubnets")
	look.need("check the instance type", "ec2:DescribeInstanceTypes", "ec2:DescribeInstanceTypeOfferings")
	if o.checksQuota() {
		look.need("see beforehand whether the vCPUs fit the quota (skip_quota_check)", "servicequotas:GetServiceQuota", "ec2:DescribeInstances")
	}
	look.need("find volumes that the instance leaves behind", "ec2:DescribeVolumes")
	look.need("find launch templates that bakes left behind (ingot sweep -source)", "ec2:DescribeLaunchTemplates")
	if !o.VPCFilter.empty() {
		look.need("find the VPC (vpc_filter)", "ec2:DescribeVpcs")
	}
	look.need("find security groups, also those that a bake left behind", "ec2:DescribeSecurityGroups")
	forbidden := o.InjectHostKey != nil && !*o.InjectHostKey || o.MetadataOptions.off() || o.DisableStopInstance
	if comm.Kind() == communicator.SSHKind && (forbidden || o.UserData != "" || o.UserDataFile != "") {
		look.need("read the SSH host key from the console, where it cannot be given to the instance", "ec2:GetConsoleOutput")
	}
	start := scope{"Launch", nil, in, &p}
	start.need("launch the instance", "ec2:RunInstances")
	start.need("tag what the bake makes, when it is made", "ec2:CreateTags")
	own := scope{"OwnMachine", nil, ofIngot(in), &p}
	own.need("end the instance", "ec2:TerminateInstances")
	own.need("stop the instance, so that its volumes are whole", "ec2:StopInstances")
	own.need("delete volumes that the instance leaves behind", "ec2:DeleteVolume")
	if comm.Kind() != communicator.None && comm.SSHKeypairName == "" {
		look.need("find a key pair that a bake left behind", "ec2:DescribeKeyPairs")
		start.need("give the instance a temporary key", "ec2:ImportKeyPair")
		start.need("remove the temporary key", "ec2:DeleteKeyPair")
	}
	if o.ownGroup() {
		look.need("find the VPC of the temporary security group", "ec2:DescribeVpcs")
		start.need("make the temporary security group, and let this host in", "ec2:CreateSecurityGroup", "ec2:AuthorizeSecurityGroupIngress")
		own.need("remove the temporary security group", "ec2:DeleteSecurityGroup")
	}
	if comm.Kind() == communicator.WinRMKind {
		own.need("get the password of Windows", "ec2:GetPasswordData")
	}
	if o.spot() {
		start.need("ask for a spot instance", "ec2:CreateFleet", "ec2:CreateLaunchTemplate")
		own.need("remove the temporary launch template and the fleet", "ec2:DeleteLaunchTemplate", "ec2:DeleteFleets")
	}
	if o.SSHInterface == sessionManager {
		session := scope{"SessionManager", nil, in, &p}
		session.need("connect through Session Manager (ssh_interface)", "ssm:StartSession", "ssm:ResumeSession", "ssm:TerminateSession", "ssm:DescribeInstanceInformation")
	}
	o.profilePolicy(region, &p)
	return p
}

func (o *RunOptions) profilePolicy(region string, p *Policy) {
	arn := func(kind, name string) []string {
		return []string{"arn:" + partition(region) + ":iam::*:" + kind + "/" + name}
	}
	pass := map[string]map[string]any{"StringLike": {"iam:PassedToService": "ec2.amazonaws.com*"}}
	switch {
	case o.IAMInstanceProfile != "":
		if !o.SkipProfileValidation {
			scope{"Profile", arn("instance-profile", o.IAMInstanceProfile), nil, p}.need("check that iam_instance_profile exists", "iam:GetInstanceProfile")
		}
		scope{"PassRole", nil, pass, p}.need("launch with iam_instance_profile; name its role in place of *", "iam:PassRole")
	case o.TemporaryIAMInstanceProfilePolicyDocument != nil:
		scope{"TemporaryProfile", arn("instance-profile", "ingot/*"), nil, p}.need("make and remove the temporary instance profile",
			"iam:CreateInstanceProfile", "iam:GetInstanceProfile", "iam:AddRoleToInstanceProfile", "iam:RemoveRoleFromInstanceProfile", "iam:DeleteInstanceProfile", "iam:TagInstanceProfile", "iam:ListInstanceProfileTags")
		role := scope{"TemporaryRole", arn("role", "ingot/*"), nil, p}
		role.need("make and remove its role", "iam:CreateRole", "iam:GetRole", "iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:DeleteRole", "iam:TagRole", "iam:ListRoleTags")
		scope{"FindRoles", nil, nil, p}.need("find roles that bakes left behind (ingot sweep -source)", "iam:ListRoles", "iam:ListInstanceProfiles")
		scope{"PassRole", arn("role", "ingot/*"), pass, p}.need("launch with the temporary instance profile", "iam:PassRole")
	}
}

// policy is what an AMI takes. ofInstance: it is made of an instance, and not of snapshots.
func (o *AMIOptions) policy(build string, ofInstance bool) Policy {
	var p Policy
	regions := append([]string{build}, o.regions(build)...)
	in := inRegions(regions...)
	look := scope{"LookAtImages", nil, in, &p}
	look.need("see that the AMI's name is free, and wait for the AMI", "ec2:DescribeImages")
	look.need("find the snapshots of an AMI that is taken back", "ec2:DescribeSnapshots")
	makes := scope{"MakeImages", nil, in, &p}
	if ofInstance {
		makes.need("make the AMI", "ec2:CreateImage")
		if o.ENASupport != nil || o.SriovSupport {
			scope{"OwnMachine", nil, ofIngot(inRegions(build)), &p}.need("set ena_support and sriov_support", "ec2:ModifyInstanceAttribute")
		}
	} else {
		makes.need("make the AMI of snapshots", "ec2:CreateSnapshot", "ec2:RegisterImage")
	}
	makes.need("tag the AMI and its snapshots, when they are made", "ec2:CreateTags")
	if len(regions) > 1 || o.SkipSaveBuildRegion {
		if !o.SkipRegionValidation {
			look.need("see that ami_regions exist and are enabled", "ec2:DescribeRegions")
		}
		makes.need("copy the AMI to ami_regions", "ec2:CopyImage")
	}
	own := scope{"OwnImages", nil, ofIngot(in), &p}
	remove := own
	if o.ForceDeregister {
		remove = scope{"RemoveImages", nil, in, &p}
		remove.need("deregister a former AMI of the name (force_deregister), and AMIs of a bake that failed", "ec2:DeregisterImage")
	} else {
		own.need("take the AMIs of a bake that failed back", "ec2:DeregisterImage")
	}
	if o.ForceDeregister && o.ForceDeleteSnapshot {
		remove.need("delete its snapshots (force_delete_snapshot), and those of a bake that failed", "ec2:DeleteSnapshot")
	} else {
		own.need("delete the snapshots of a bake that failed", "ec2:DeleteSnapshot")
	}
	if len(o.AMIUsers)+len(o.AMIGroups)+len(o.AMIOrgArns)+len(o.AMIOUArns)+len(o.AMIProductCodes) > 0 || o.IMDSSupport != "" {
		own.need("share the AMI, and set what it requires", "ec2:ModifyImageAttribute")
	}
	if len(o.SnapshotUsers)+len(o.SnapshotGroups) > 0 {
		own.need("share its snapshots", "ec2:ModifySnapshotAttribute")
	}
	if o.DeprecateAt != "" {
		own.need("set when the AMI is deprecated (deprecate_at)", "ec2:EnableImageDeprecation")
	}
	if on, _ := o.protects(); on {
		own.need("protect the AMI (deregistration_protection), or take that back after a failure", "ec2:EnableImageDeregistrationProtection", "ec2:DisableImageDeregistrationProtection")
	}
	o.parameterPolicy(build, &p)
	o.keyPolicy(build, regions, &p)
	return p
}

func (o *AMIOptions) parameterPolicy(build string, p *Policy) {
	if len(o.SSMParameters) == 0 {
		return
	}
	var arns []string
	for _, name := range o.SSMParameters {
		for _, r := range o.targets(build) {
			if r == "" {
				r = "*"
			}
			arns = append(arns, "arn:"+partition(r)+":ssm:"+r+":*:parameter/"+strings.TrimPrefix(name, "/"))
		}
	}
	scope{"Parameters", arns, nil, p}.need("let the parameters point to the AMI, and back after a failure (ssm_parameters)",
		"ssm:GetParameter", "ssm:GetParameters", "ssm:PutParameter", "ssm:DeleteParameter")
}

// keyPolicy is what KMS keys take, the caller's own part: EC2 uses them in its name.
func (o *AMIOptions) keyPolicy(build string, regions []string, p *Policy) {
	var named []string // in the template; of an alias, the ARN is not known
	for _, r := range regions {
		k := o.key(build, r)
		switch {
		case k == "":
		case strings.HasPrefix(k, "arn:") && !strings.Contains(k, ":alias/"):
			named = append(named, k)
		case strings.HasPrefix(k, "arn:"), strings.HasPrefix(k, "alias/"), r == "":
			named = append(named, "*")
		default:
			named = append(named, "arn:"+partition(r)+":kms:"+r+":*:key/"+k)
		}
	}
	if len(named) == 0 {
		return
	}
	if slices.Contains(named, "*") {
		named = []string{"*"}
	}
	scope{"SeeKeys", named, nil, p}.need("see that the KMS keys can be used, before the bake", "kms:DescribeKey")
	var services []string
	for _, r := range regions {
		if r == "" {
			r = "*"
		}
		services = append(services, "ec2."+r+".amazonaws.com")
	}
	via := map[string]map[string]any{"StringLike": {"kms:ViaService": services}}
	scope{"UseKeys", named, via, p}.need("have EBS encrypt volumes and snapshots with the keys",
		"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo")
	grants := map[string]map[string]any{"Bool": {"kms:GrantIsForAWSResource": "true"}}
	scope{"LendKeys", named, grants, p}.need("let EBS use the keys while a volume is attached", "kms:CreateGrant")
}

// policy is what only amazon-ebs takes.
func (o *EBSOptions) policy(build string, ami *AMIOptions) Policy {
	var p Policy
	if len(o.FastLaunch.plan(build, ami.targets(build))) > 0 {
		s := scope{"FastLaunch", nil, inRegions(ami.targets(build)...), &p}
		s.need("prepare faster launches (fast_launch); EC2 makes and launches with the caller's rights", "ec2:EnableFastLaunch", "ec2:DescribeLaunchTemplates",
			"ec2:DescribeLaunchTemplateVersions", "ec2:CreateLaunchTemplate", "ec2:RunInstances", "ec2:CreateSnapshot")
	}
	return p
}
