package amazon

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// RunOptions say which instance is launched, where, and how it is reached: for
// every builder that boots one.
type RunOptions struct {
	// InstanceType such as "t3.micro". It is required, except beside SpotInstanceTypes.
	InstanceType string `cfg:"instance_type"`
	// SourceAMI is the id of the AMI to start from.
	SourceAMI string `cfg:"source_ami"`
	// SourceAMIFilter looks for it. Beside SourceAMI, that AMI must fit the filter.
	SourceAMIFilter *AMIFilter `cfg:"source_ami_filter,block"`
	// EBSOptimized gives the instance bandwidth of its own to its volumes.
	EBSOptimized bool `cfg:"ebs_optimized"`
	// EnableNitroEnclave lets the instance have enclaves.
	EnableNitroEnclave bool `cfg:"enable_nitro_enclave"`
	// EnableUnlimitedCredits lets an instance of a T type burst for a price.
	EnableUnlimitedCredits bool `cfg:"enable_unlimited_credits"`
	// EnableT2Unlimited is the old name of EnableUnlimitedCredits.
	EnableT2Unlimited bool `cfg:"enable_t2_unlimited"`
	// LicenseSpecifications are licence configurations that count the instance.
	LicenseSpecifications []LicenseSpecification `cfg:"license_specifications,block"`
	// Placement says which host it is on.
	Placement *Placement `cfg:"placement,block"`
	// Tenancy is the old place of Placement's.
	Tenancy string `cfg:"tenancy"`
	// AvailabilityZone to launch it in. Default: one that has room.
	AvailabilityZone string `cfg:"availability_zone"`
	// CapacityReservationPreference "open" uses reserved capacity that fits,
	// "none" does not. Default: "none".
	CapacityReservationPreference string `cfg:"capacity_reservation_preference"`
	// CapacityReservationID or CapacityReservationGroupARN is the reservation to use.
	CapacityReservationID       string `cfg:"capacity_reservation_id"`
	CapacityReservationGroupARN string `cfg:"capacity_reservation_group_arn"`

	// SkipQuotaCheck does not ask first whether the vCPUs of the instance type
	// still fit the account's quota. An option of Ingot's own.
	SkipQuotaCheck bool `cfg:"skip_quota_check"`

	// SpotPrice asks for a spot instance, at most at this price in dollars per
	// hour, or with "auto" at most at the price on demand.
	SpotPrice string `cfg:"spot_price"`
	// SpotInstanceTypes are types to choose from, in place of InstanceType; they ask for a spot instance.
	SpotInstanceTypes []string `cfg:"spot_instance_types"`
	// SpotAllocationStrategy chooses among types and zones: "lowest-price",
	// "diversified", "capacity-optimized", "capacity-optimized-prioritized" or
	// "price-capacity-optimized". Default: "price-capacity-optimized".
	SpotAllocationStrategy string `cfg:"spot_allocation_strategy"`
	// SpotOnDemandFallback launches on demand when no type in no zone is to be
	// had as a spot instance. An option of Ingot's own.
	SpotOnDemandFallback bool `cfg:"spot_on_demand_fallback"`
	// SpotTags are tags of the spot request, FleetTags of the fleet.
	SpotTags  map[string]string `cfg:"spot_tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	SpotTag   []Tag             `cfg:"spot_tag,block"`
	FleetTags map[string]string `cfg:"fleet_tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	FleetTag  []Tag             `cfg:"fleet_tag,block"`
	// BlockDurationMinutes is without effect: EC2 has it no more.
	BlockDurationMinutes int `cfg:"block_duration_minutes"`
	// SpotPriceAutoProduct is without effect: "auto" needs it no more.
	SpotPriceAutoProduct string `cfg:"spot_price_auto_product"`

	// VPCID is the network. Default: the subnet's, or the account's default one.
	VPCID string `cfg:"vpc_id"`
	// VPCFilter looks for the VPC; one must fit.
	VPCFilter *Filter `cfg:"vpc_filter,block"`
	// SubnetID is the subnet in it.
	SubnetID string `cfg:"subnet_id"`
	// SubnetFilter looks for the subnet.
	SubnetFilter *SubnetFilter `cfg:"subnet_filter,block"`
	// SecurityGroupID and SecurityGroupIDs are groups to use, in place of a temporary one.
	SecurityGroupID  string   `cfg:"security_group_id"`
	SecurityGroupIDs []string `cfg:"security_group_ids"`
	// SecurityGroupFilter looks for them; at least one must fit.
	SecurityGroupFilter *Filter `cfg:"security_group_filter,block"`
	// AssociatePublicIPAddress gives the instance a public address, or none.
	// Default: as the subnet says.
	AssociatePublicIPAddress *bool `cfg:"associate_public_ip_address"`
	// TemporarySecurityGroupSourceCIDRs may connect to the instance. Default:
	// the address of this host alone (Packer's is everybody).
	TemporarySecurityGroupSourceCIDRs []string `cfg:"temporary_security_group_source_cidrs"`
	// TemporarySecurityGroupSourcePublicIP admits this host's address in the
	// internet, which is so anyway where the instance is reached at a public address.
	TemporarySecurityGroupSourcePublicIP bool `cfg:"temporary_security_group_source_public_ip"`

	// IAMInstanceProfile is the instance profile to launch with, by name.
	IAMInstanceProfile string `cfg:"iam_instance_profile"`
	// SkipProfileValidation does not ask first whether it exists.
	SkipProfileValidation bool `cfg:"skip_profile_validation"`
	// TemporaryIAMInstanceProfilePolicyDocument is the policy of a role, and
	// its instance profile, that exist as long as the bake.
	TemporaryIAMInstanceProfilePolicyDocument *PolicyDocument `cfg:"temporary_iam_instance_profile_policy_document,block"`

	// UserData is given to the instance. Ingot adds the host key and the end at
	// Expires to it, in whatever form of cloud-init it is.
	UserData string `cfg:"user_data"`
	// UserDataFile is a file with it.
	UserDataFile string `cfg:"user_data_file"`
	// InjectHostKey gives the instance an SSH host key that is made here, by its
	// user data, so that it is known whom the connection reaches; it is removed
	// before the AMI is made. False: the key is read from the instance's
	// console. Default: true for Linux. An option of Ingot's own.
	InjectHostKey *bool `cfg:"inject_host_key"`
	// MetadataOptions of the instance.
	MetadataOptions *MetadataOptions `cfg:"metadata_options,block"`
	// ShutdownBehavior is what a shutdown from within does: "stop" or
	// "terminate". Default: "terminate", so that an instance that is left
	// behind ends at Expires; "stop" with DisableStopInstance. (Packer's is "stop".)
	ShutdownBehavior string `cfg:"shutdown_behavior"`
	// DisableStopInstance leaves it to a provisioner to shut the instance down, and waits for it.
	DisableStopInstance bool `cfg:"disable_stop_instance"`
	// Expires is how long the instance may live: it then shuts itself down, even
	// if nobody comes for it, and is what `ingot sweep` may take. It must be
	// longer than all provisioners take. Default: "6h". An option of Ingot's own.
	Expires time.Duration `cfg:"expires"`
	// RunTags of everything that exists for the bake, and of the AMI unless SkipAMIRunTags.
	RunTags map[string]string `cfg:"run_tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	RunTag  []Tag             `cfg:"run_tag,block"`
	// RunVolumeTags of the instance's volumes.
	RunVolumeTags map[string]string `cfg:"run_volume_tags" render:"late" vars:"BuildRegion SourceAMI SourceAMICreationDate SourceAMIName SourceAMIOwner SourceAMIOwnerName SourceAMITags"`
	RunVolumeTag  []Tag             `cfg:"run_volume_tag,block"`
	// WindowsPasswordTimeout bounds the wait for a password that Windows makes.
	WindowsPasswordTimeout time.Duration `cfg:"windows_password_timeout"`

	// SSHInterface is the address to connect to: "public_ip", "private_ip",
	// "public_dns", "private_dns", "ipv6", or "session_manager" for a tunnel
	// that needs no open port. Default: the public address where there is one,
	// else the private one.
	SSHInterface string `cfg:"ssh_interface"`
	// PauseBeforeSSM is waited before the tunnel is opened.
	PauseBeforeSSM time.Duration `cfg:"pause_before_ssm"`
	// SessionManagerPort is the local port of the tunnel. Default: a free one.
	SessionManagerPort int `cfg:"session_manager_port"`
}

// Filter finds things by what EC2 knows of them.
type Filter struct {
	// Filters are EC2's filters by name; several values stand with commas between.
	Filters map[string]string `cfg:"filters"`
	// Filter blocks are further ones.
	Filter []FilterPair `cfg:"filter,block"`
}

// FilterPair is one filter.
type FilterPair struct {
	// Name of the filter; Key is another word for it.
	Name string `cfg:"name"`
	Key  string `cfg:"key"`
	// Value to find; several stand with commas between.
	Value string `cfg:"value"`
}

// AMIFilter finds an AMI.
type AMIFilter struct {
	Filter
	// Owners are accounts, or "self", "amazon", "aws-marketplace".
	Owners []string `cfg:"owners"`
	// MostRecent takes the newest of those that fit. Default: one only may fit.
	MostRecent bool `cfg:"most_recent"`
	// IncludeDeprecated finds deprecated ones too.
	IncludeDeprecated bool `cfg:"include_deprecated"`
}

// SubnetFilter finds a subnet.
type SubnetFilter struct {
	Filter
	// MostFree takes the one with the most free addresses, Random any. Default: one only may fit.
	MostFree bool `cfg:"most_free"`
	Random   bool `cfg:"random"`
}

// Placement says where an instance is.
type Placement struct {
	// HostResourceGroupARN is the group of dedicated hosts to use.
	HostResourceGroupARN string `cfg:"host_resource_group_arn"`
	// HostID is the dedicated host.
	HostID string `cfg:"host_id"`
	// Tenancy is "default", "dedicated" or "host".
	Tenancy string `cfg:"tenancy"`
}

// LicenseSpecification is one licence configuration.
type LicenseSpecification struct {
	// LicenseConfigurationRequest has its ARN.
	LicenseConfigurationRequest *LicenseConfiguration `cfg:"license_configuration_request,block"`
}

// LicenseConfiguration names one.
type LicenseConfiguration struct {
	// LicenseConfigurationARN of it.
	LicenseConfigurationARN string `cfg:"license_configuration_arn"`
}

// PolicyDocument is an IAM policy.
type PolicyDocument struct {
	// Version of the policy language. Default: "2012-10-17".
	Version string `cfg:"Version"`
	// Statement blocks of it.
	Statement []PolicyStatement `cfg:"Statement,block"`
}

// PolicyStatement allows or denies.
type PolicyStatement struct {
	// Effect is "Allow" or "Deny".
	Effect string `cfg:"Effect"`
	// Action are the calls, Resource what they may be made on.
	Action   []string `cfg:"Action"`
	Resource []string `cfg:"Resource"`
}

// MetadataOptions are those of the instance's metadata service.
type MetadataOptions struct {
	// HTTPEndpoint is "enabled" or "disabled". Without it, cloud-init finds
	// neither user data nor the temporary key. Default: "enabled".
	HTTPEndpoint string `cfg:"http_endpoint"`
	// HTTPTokens "required" is IMDSv2 alone, "optional" IMDSv1 too. Default:
	// "required" (Packer's is "optional").
	HTTPTokens string `cfg:"http_tokens"`
	// HTTPPutResponseHopLimit is how many hops away the service may be asked
	// from, 1 to 64. Default: 1.
	HTTPPutResponseHopLimit int `cfg:"http_put_response_hop_limit"`
	// InstanceMetadataTags "enabled" tells the tags there. Default: "disabled".
	InstanceMetadataTags string `cfg:"instance_metadata_tags"`
}

const defaultExpires = 6 * time.Hour

func runDefaults() RunOptions {
	return RunOptions{WindowsPasswordTimeout: 20 * time.Minute, Expires: defaultExpires}
}

// spot says whether a spot instance is asked for.
func (o *RunOptions) spot() bool {
	return o.SpotPrice != "" && o.SpotPrice != "0" || len(o.SpotInstanceTypes) > 0
}

// types are the instance types to choose from.
func (o *RunOptions) types() []string {
	if len(o.SpotInstanceTypes) > 0 {
		return o.SpotInstanceTypes
	}
	return []string{o.InstanceType}
}

func (o *RunOptions) groups() []string {
	if o.SecurityGroupID != "" {
		return append([]string{o.SecurityGroupID}, o.SecurityGroupIDs...)
	}
	return o.SecurityGroupIDs
}

// ownGroup says that no security group is given, so that a temporary one is made.
func (o *RunOptions) ownGroup() bool {
	return len(o.groups()) == 0 && o.SecurityGroupFilter.empty()
}

// tokens is what http_tokens is set to.
func (m *MetadataOptions) tokens() string {
	if m == nil || m.HTTPTokens == "" {
		return "required"
	}
	return m.HTTPTokens
}

func (m *MetadataOptions) off() bool { return m != nil && m.HTTPEndpoint == "disabled" }

const sessionManager = "session_manager"

var (
	amiID    = regexp.MustCompile(`^ami-[0-9a-f]{8,17}$`)
	spotCost = regexp.MustCompile(`^\d+(\.\d+)?$`)
)

// check reports everything wrong with the options.
func (o *RunOptions) check(comm *communicator.Options, dir string) []config.Problem {
	var ps problems
	oneOf := func(option, value string, known ...string) {
		for _, k := range known {
			if value == k || value == "" {
				return
			}
		}
		ps.add(option, fmt.Sprintf("%s is %q", option, value), "It can be %s.", strings.Join(known, " or "))
	}
	both := func(a string, isA bool, b string, isB bool) {
		if isA && isB {
			ps.add(b, a+" and "+b+" are both given", "Give one of them.")
		}
	}
	if o.InstanceType == "" && len(o.SpotInstanceTypes) == 0 {
		ps.add("instance_type", "instance_type is missing", `Give the type of the instance, such as "t3.micro".`)
	}
	both("instance_type", o.InstanceType != "", "spot_instance_types", len(o.SpotInstanceTypes) > 0)
	o.checkSource(&ps)
	both("tenancy", o.Tenancy != "", "placement.tenancy", o.Placement != nil && o.Placement.Tenancy != "")
	if p := o.Placement; p != nil {
		oneOf("placement.tenancy", p.Tenancy, "default", "dedicated", "host")
		both("placement.host_id", p.HostID != "", "placement.host_resource_group_arn", p.HostResourceGroupARN != "")
	}
	oneOf("tenancy", o.Tenancy, "default", "dedicated", "host")
	oneOf("capacity_reservation_preference", o.CapacityReservationPreference, "none", "open")
	both("capacity_reservation_id", o.CapacityReservationID != "", "capacity_reservation_group_arn", o.CapacityReservationGroupARN != "")
	if o.CapacityReservationPreference != "" {
		both("capacity_reservation_preference", true, "capacity_reservation_id", o.CapacityReservationID != "")
		both("capacity_reservation_preference", true, "capacity_reservation_group_arn", o.CapacityReservationGroupARN != "")
	}
	for i, l := range o.LicenseSpecifications {
		if l.LicenseConfigurationRequest == nil || l.LicenseConfigurationRequest.LicenseConfigurationARN == "" {
			ps.add(fmt.Sprintf("license_specifications.%d", i), "A licence without an ARN", "Give license_configuration_request { license_configuration_arn }.")
		}
	}
	o.checkSpot(&ps, oneOf)

	both("vpc_id", o.VPCID != "", "vpc_filter", !o.VPCFilter.empty())
	both("subnet_id", o.SubnetID != "", "subnet_filter", o.SubnetFilter != nil && !o.SubnetFilter.Filter.empty())
	if f := o.SubnetFilter; f != nil {
		both("subnet_filter.most_free", f.MostFree, "subnet_filter.random", f.Random)
	}
	both("security_group_id", o.SecurityGroupID != "", "security_group_ids", len(o.SecurityGroupIDs) > 0)
	both("security_group_ids", len(o.groups()) > 0, "security_group_filter", !o.SecurityGroupFilter.empty())
	for option, f := range map[string]*Filter{"vpc_filter": o.VPCFilter, "security_group_filter": o.SecurityGroupFilter} {
		f.check(&ps, option)
	}
	if o.SubnetFilter != nil {
		o.SubnetFilter.check(&ps, "subnet_filter")
	}
	for i, c := range o.TemporarySecurityGroupSourceCIDRs {
		if p, err := netip.ParsePrefix(c); err != nil {
			ps.add(fmt.Sprintf("temporary_security_group_source_cidrs.%d", i), fmt.Sprintf("%q is no range of addresses", c), `Write it as "203.0.113.7/32".`)
		} else if p.Bits() == 0 {
			ps.warn(fmt.Sprintf("temporary_security_group_source_cidrs.%d", i), "The instance's port is open to everybody", "%s admits the whole internet. Leave the option out to admit this host alone.", c)
		}
	}
	if o.ownGroup() && o.SSHInterface != sessionManager && len(o.TemporarySecurityGroupSourceCIDRs) == 0 && comm.Kind() == communicator.SSHKind {
		for option, host := range map[string]string{"ssh_bastion_host": comm.SSHBastionHost, "ssh_proxy_host": comm.SSHProxyHost} {
			if host != "" {
				ps.add(option, "It is not known which address connects to the instance",
					`The connection comes from %s, by an address that only you know. Give it: temporary_security_group_source_cidrs = ["ADDRESS/32"]; or give security_group_ids.`, host)
			}
		}
	}

	both("iam_instance_profile", o.IAMInstanceProfile != "", "temporary_iam_instance_profile_policy_document", o.TemporaryIAMInstanceProfilePolicyDocument != nil)
	if d := o.TemporaryIAMInstanceProfilePolicyDocument; d != nil {
		if len(d.Statement) == 0 {
			ps.add("temporary_iam_instance_profile_policy_document", "A policy without a statement", "Give Statement { Effect, Action, Resource }.")
		}
		for i, s := range d.Statement {
			at := fmt.Sprintf("temporary_iam_instance_profile_policy_document.Statement.%d", i)
			if s.Effect != "Allow" && s.Effect != "Deny" {
				ps.add(at+".Effect", fmt.Sprintf("Effect is %q", s.Effect), "It can be Allow or Deny.")
			}
			if len(s.Action) == 0 || len(s.Resource) == 0 {
				ps.add(at, "A statement without Action or Resource", "Give both.")
			}
		}
	}
	both("user_data", o.UserData != "", "user_data_file", o.UserDataFile != "")
	oneOf("shutdown_behavior", o.ShutdownBehavior, "stop", "terminate")
	if o.DisableStopInstance && o.ShutdownBehavior == "terminate" {
		ps.add("shutdown_behavior", "The instance would be gone before its AMI is made", `With disable_stop_instance it shuts itself down, and shutdown_behavior = "terminate" ends it then. Leave shutdown_behavior out.`)
	}
	if m := o.MetadataOptions; m != nil {
		oneOf("metadata_options.http_endpoint", m.HTTPEndpoint, "enabled", "disabled")
		oneOf("metadata_options.http_tokens", m.HTTPTokens, "required", "optional")
		oneOf("metadata_options.instance_metadata_tags", m.InstanceMetadataTags, "enabled", "disabled")
		if m.HTTPPutResponseHopLimit < 0 || m.HTTPPutResponseHopLimit > 64 {
			ps.add("metadata_options.http_put_response_hop_limit", "Out of range", "It can be 1 to 64.")
		}
	}
	if o.Expires < 10*time.Minute {
		ps.add("expires", fmt.Sprintf("expires is %v", o.Expires), "The instance would end itself while it is baked. Give at least 10m, and more than all provisioners take.")
	}
	if o.Expires > 30*24*time.Hour {
		ps.add("expires", fmt.Sprintf("expires is %v", o.Expires), "It can be 30 days (720h) at most.")
	}
	if o.WindowsPasswordTimeout < 0 {
		ps.add("windows_password_timeout", "windows_password_timeout is negative", "")
	}
	o.checkConnection(&ps, oneOf, comm)
	checkTags(&ps, "run_tags", o.RunTags, "run_tag", o.RunTag)
	checkTags(&ps, "run_volume_tags", o.RunVolumeTags, "run_volume_tag", o.RunVolumeTag)
	checkTags(&ps, "spot_tags", o.SpotTags, "spot_tag", o.SpotTag)
	checkTags(&ps, "fleet_tags", o.FleetTags, "fleet_tag", o.FleetTag)
	checkLate(&ps, o)
	if text, err := o.userData(dir); err != nil {
		ps.add("user_data_file", "user_data_file cannot be read", "%v.", err)
	} else if _, err := mergeUserData(text, extra{}); err != nil {
		option := "user_data"
		if o.UserDataFile != "" {
			option = "user_data_file"
		}
		ps.add(option, "The user data cannot be used", "%v.", err)
	}
	return ps
}

func (o *RunOptions) checkSource(ps *problems) {
	f := o.SourceAMIFilter
	switch {
	case o.SourceAMI == "" && (f == nil || f.Filter.empty()):
		ps.add("source_ami", "source_ami is missing", "Give the id of the AMI to start from, or source_ami_filter to look for it.")
	case o.SourceAMI != "" && !amiID.MatchString(o.SourceAMI):
		ps.add("source_ami", fmt.Sprintf("%q is no id of an AMI", o.SourceAMI), "It looks like ami-0123456789abcdef0.")
	}
	if f != nil {
		if len(f.Owners) == 0 && !f.Filter.empty() {
			ps.add("source_ami_filter.owners", "source_ami_filter has no owners", "Anybody may publish an AMI under any name. Give the accounts that you trust, such as \"self\", \"amazon\", or a number.")
		}
		f.check(ps, "source_ami_filter")
	}
}

func (o *RunOptions) checkSpot(ps *problems, oneOf func(option, value string, known ...string)) {
	if p := o.SpotPrice; p != "" && p != "auto" && !spotCost.MatchString(p) {
		ps.add("spot_price", fmt.Sprintf("spot_price is %q", p), `It is "auto", or a price in dollars per hour such as "0.05".`)
	}
	oneOf("spot_allocation_strategy", o.SpotAllocationStrategy, "lowest-price", "diversified", "capacity-optimized", "capacity-optimized-prioritized", "price-capacity-optimized")
	if o.BlockDurationMinutes != 0 {
		ps.warn("block_duration_minutes", "block_duration_minutes is without effect", "EC2 has no spot instances of a set duration any more.")
	}
	if o.SpotPriceAutoProduct != "" {
		ps.warn("spot_price_auto_product", "spot_price_auto_product is without effect", `spot_price = "auto" needs it no more.`)
	}
	if !o.spot() {
		for option, given := range map[string]bool{
			"spot_allocation_strategy": o.SpotAllocationStrategy != "", "spot_on_demand_fallback": o.SpotOnDemandFallback,
			"spot_tags": len(o.SpotTags)+len(o.SpotTag) > 0, "fleet_tags": len(o.FleetTags)+len(o.FleetTag) > 0,
		} {
			if given {
				ps.warn(option, option+" is without effect", "It is for spot instances; give spot_price or spot_instance_types.")
			}
		}
		return
	}
	for option, given := range map[string]bool{
		"placement": o.Placement != nil, "tenancy": o.Tenancy != "", "license_specifications": len(o.LicenseSpecifications) > 0,
		"enable_nitro_enclave": o.EnableNitroEnclave, "capacity_reservation_id": o.CapacityReservationID != "",
		"capacity_reservation_group_arn": o.CapacityReservationGroupARN != "", "capacity_reservation_preference": o.CapacityReservationPreference != "",
	} {
		if given {
			ps.warn(option, option+" is without effect", "A spot instance cannot have it.")
		}
	}
	if o.DisableStopInstance {
		ps.add("disable_stop_instance", "A spot instance cannot be stopped and kept", "Leave disable_stop_instance out, or bake on demand.")
	}
}

func (o *RunOptions) checkConnection(ps *problems, oneOf func(option, value string, known ...string), comm *communicator.Options) {
	oneOf("ssh_interface", o.SSHInterface, "public_ip", "private_ip", "public_dns", "private_dns", "ipv6", sessionManager)
	if o.SSHInterface == sessionManager {
		if comm.Kind() == communicator.WinRMKind {
			ps.add("ssh_interface", "Session Manager is for SSH only", `Use communicator = "ssh", or another ssh_interface.`)
		}
		if o.IAMInstanceProfile == "" && o.TemporaryIAMInstanceProfilePolicyDocument == nil {
			ps.add("iam_instance_profile", "Session Manager needs an instance profile", "Its agent on the instance must be let in: give iam_instance_profile with a role that has AmazonSSMManagedInstanceCore, or temporary_iam_instance_profile_policy_document.")
		}
	}
	if o.SessionManagerPort < 0 || o.SessionManagerPort > 65535 {
		ps.add("session_manager_port", "It is no port", "Give 1 to 65535, or leave it out.")
	}
	if o.PauseBeforeSSM < 0 {
		ps.add("pause_before_ssm", "pause_before_ssm is negative", "")
	}
	switch comm.TemporaryKeyPairType {
	case "ecdsa":
		ps.add("temporary_key_pair_type", "EC2 takes no ecdsa keys", "It can be ed25519, the default, or rsa.")
	case "ed25519":
		if comm.Kind() == communicator.WinRMKind {
			ps.add("temporary_key_pair_type", "The password of Windows needs an RSA key", "Leave temporary_key_pair_type out, or set it to rsa.")
		}
	case "rsa":
		if n := comm.TemporaryKeyPairBits; n != 0 && n != 2048 && n != 3072 && n != 4096 {
			ps.add("temporary_key_pair_bits", "EC2 does not take such a key", "An RSA key can have 2048, 3072 or 4096 bits.")
		}
	}
	if comm.SSHKeypairName != "" && comm.SSHPrivateKeyFile == "" && !comm.SSHAgentAuth && comm.SSHPassword == "" && comm.Kind() == communicator.SSHKind {
		ps.add("ssh_keypair_name", "The private key of ssh_keypair_name is missing", "Give it as ssh_private_key_file, or load it into an ssh-agent and set ssh_agent_auth.")
	}
}

func (f *Filter) empty() bool { return f == nil || len(f.Filters)+len(f.Filter) == 0 }

func (f *Filter) check(ps *problems, option string) {
	if f == nil {
		return
	}
	for i, p := range f.Filter {
		if p.name() == "" || p.Value == "" {
			ps.add(fmt.Sprintf("%s.filter.%d", option, i), "A filter without name or value", "Give both.")
		}
	}
	if _, err := f.ec2(); err != nil {
		ps.add(option+".filters", "A filter that cannot be read", "%v.", err)
	}
}

func (p FilterPair) name() string {
	if p.Name != "" {
		return p.Name
	}
	return p.Key
}
