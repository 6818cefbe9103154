package amazon

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/machine/communicator"
)

func ebsOptions(t *testing.T, body string) *Options {
	t.Helper()
	ami := decodeAMI(t, body)
	return &Options{AMIOptions: ami.AMIOptions, EBSOptions: ami.EBSOptions, Options: communicator.Defaults()}
}

func actions(p Policy) []string {
	var all []string
	for _, g := range p {
		all = append(all, g.Action)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// everyPolicy are policies that together have every action that a builder of
// this package may need.
func everyPolicy(t *testing.T) Policy {
	t.Helper()
	spot := ebsOptions(t, everyOption)
	spot.SpotPrice, spot.VPCFilter, spot.SSHInterface = "auto", &Filter{Filters: map[string]string{"tag:a": "b"}}, sessionManager
	spot.TemporaryIAMInstanceProfilePolicyDocument = &PolicyDocument{}
	spot.DecodeAuthorizationMessages = true
	spot.AssumeRole = &awscloud.AssumeRole{RoleARN: "arn:aws:iam::123456789012:role/x"}
	spot.UserData = "#!/bin/sh"
	windows := ebsOptions(t, everyOption)
	windows.Communicator, windows.IAMInstanceProfile = communicator.WinRMKind, "profile"
	return MergePolicies(spot.Policy("eu-west-1"), windows.Policy("eu-west-1"), (&ChrootSource{AMIOptions: windows.AMIOptions}).Policy("eu-west-1"),
		(&SurrogateSource{SurrogateOptions: SurrogateOptions{UseCreateImage: true}, Options: communicator.Defaults()}).Policy("eu-west-1"),
		(&VolumeSource{VolumeOptions: VolumeOptions{EBSVolumes: []KeptVolume{{SnapshotVolume: true}}}, Options: communicator.Defaults()}).Policy("eu-west-1"))
}

func TestPolicyIsTheLeast(t *testing.T) {
	got := actions(ebsOptions(t, `ami_name = "web"`).Policy("eu-west-1"))
	want := []string{
		"ec2:AuthorizeSecurityGroupIngress", "ec2:CreateImage", "ec2:CreateSecurityGroup", "ec2:CreateTags", "ec2:DeleteKeyPair", "ec2:DeleteSecurityGroup",
		"ec2:DeleteSnapshot", "ec2:DeleteVolume", "ec2:DeregisterImage", "ec2:DescribeImages", "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes",
		"ec2:DescribeInstances", "ec2:DescribeKeyPairs", "ec2:DescribeLaunchTemplates", "ec2:DescribeSecurityGroups", "ec2:DescribeSnapshots", "ec2:DescribeSubnets", "ec2:DescribeVolumes",
		"ec2:DescribeVpcs", "ec2:ImportKeyPair", "ec2:RunInstances", "ec2:StopInstances", "ec2:TerminateInstances",
		"servicequotas:GetServiceQuota",
	}
	if !slices.Equal(got, want) {
		t.Errorf("a plain bake is allowed\n%q\nwant\n%q", got, want)
	}
	for _, without := range []string{"skip_quota_check = true", "spot_price = \"auto\"\nspot_on_demand_fallback = true", "tenancy = \"dedicated\""} {
		b := decodeBuilder(t, New(NewEnv(nil)), "ami_name = \"web\"\n"+without)
		if got := actions(b.o.Policy("eu-west-1")); slices.Contains(got, "servicequotas:GetServiceQuota") || !slices.Contains(got, "ec2:DescribeInstances") {
			t.Errorf("with %s a bake is allowed %q", without, got)
		}
	}
	trial := actions(ebsOptions(t, "ami_name = \"web\"\nskip_create_ami = true").Policy("eu-west-1"))
	if slices.Contains(trial, "ec2:CreateImage") || slices.Contains(trial, "ec2:DeregisterImage") {
		t.Errorf("a trial without an AMI is allowed %q", trial)
	}
}

// Each option that makes another call asks for its permission, and no other does.
func TestPolicyFollowsTheOptions(t *testing.T) {
	plain := actions(ebsOptions(t, `ami_name = "web"`).Policy("eu-west-1"))
	for body, want := range map[string][]string{
		`ami_users = ["123456789012"]`:                                 {"ec2:ModifyImageAttribute"},
		`imds_support = "v2.0"`:                                        {"ec2:ModifyImageAttribute"},
		`snapshot_groups = ["all"]`:                                    {"ec2:ModifySnapshotAttribute"},
		`ami_regions = ["us-east-1"]`:                                  {"ec2:CopyImage", "ec2:DescribeRegions"},
		`ami_regions = ["eu-west-1"]`:                                  nil,
		`deprecate_at = "2030-01-01T00:00:00Z"`:                        {"ec2:EnableImageDeprecation"},
		"deregistration_protection {\n enabled = true\n}":              {"ec2:DisableImageDeregistrationProtection", "ec2:EnableImageDeregistrationProtection"},
		`ena_support = true`:                                           {"ec2:ModifyInstanceAttribute"},
		`ssm_parameters = ["/x"]`:                                      {"ssm:DeleteParameter", "ssm:GetParameter", "ssm:GetParameters", "ssm:PutParameter"},
		"fast_launch {\n enable_fast_launch = true\n}":                 {"ec2:CreateLaunchTemplate", "ec2:CreateSnapshot", "ec2:DescribeLaunchTemplateVersions", "ec2:EnableFastLaunch"},
		`encrypt_boot = true`:                                          nil,
		"encrypt_boot = true\nkms_key_id = \"alias/x\"":                {"kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"},
		`tags = { a = "b" }`:                                           nil,
		"force_deregister = true":                                      nil,
		"ami_regions = [\"us-east-1\"]\nskip_region_validation = true": {"ec2:CopyImage"},
	} {
		got := actions(ebsOptions(t, "ami_name = \"web\"\n"+body).Policy("eu-west-1"))
		got = slices.DeleteFunc(got, func(a string) bool { return slices.Contains(plain, a) })
		if !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("%s\nasks for %q besides, want %q", body, got, want)
		}
	}
}

var (
	sidForm    = regexp.MustCompile(`^[A-Za-z0-9]+$`)
	actionForm = regexp.MustCompile(`^(ec2|iam|ssm|kms|sts|servicequotas):[A-Z][A-Za-z]+$`)
)

func TestPolicyAsJSON(t *testing.T) {
	for _, region := range []string{"eu-west-1", "cn-north-1", ""} {
		o := ebsOptions(t, everyOption)
		o.IAMInstanceProfile = "web"
		b, err := o.Policy(region).JSON()
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Version   string
			Statement []struct {
				Sid, Effect      string
				Action, Resource []string
				Condition        map[string]map[string]any
			}
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		sids := map[string]bool{}
		for _, s := range doc.Statement {
			if s.Effect != "Allow" || !sidForm.MatchString(s.Sid) || sids[s.Sid] || len(s.Action) == 0 || len(s.Resource) == 0 {
				t.Errorf("statement %+v", s)
			}
			sids[s.Sid] = true
			for _, a := range s.Action {
				if !actionForm.MatchString(a) {
					t.Errorf("action %q", a)
				}
			}
			for _, r := range s.Resource {
				if r != "*" && !strings.HasPrefix(r, "arn:") {
					t.Errorf("resource %q", r)
				}
				if region == "cn-north-1" && strings.Contains(r, ":iam:") && !strings.HasPrefix(r, "arn:aws-cn:") {
					t.Errorf("%s is not in China", r)
				}
			}
			// What ends or removes things does so only to what a bake has made.
			for _, a := range []string{"ec2:TerminateInstances", "ec2:StopInstances", "ec2:DeleteVolume", "ec2:DeleteSecurityGroup"} {
				if slices.Contains(s.Action, a) && s.Condition["StringLike"]["aws:ResourceTag/ingot:build"] != "*" {
					t.Errorf("%s is allowed on anything: %+v", a, s.Condition)
				}
			}
		}
		if doc.Version != "2012-10-17" || len(b) > 6144*2 {
			t.Errorf("version %s, %d bytes", doc.Version, len(b))
		}
	}
}

// AMIs and snapshots of others are removed only where the template wants that.
func TestPolicyRemovesItsOwn(t *testing.T) {
	own := func(p Policy, action string) (only, any bool) {
		only = true
		for _, g := range p {
			if g.Action == action {
				any = true
				only = only && g.Condition["StringLike"]["aws:ResourceTag/ingot:build"] == "*"
			}
		}
		return only, any
	}
	for body, others := range map[string][]string{
		"":                             nil,
		"force_delete_snapshot = true": nil,
		"force_deregister = true":      {"ec2:DeregisterImage"},
		"force_deregister = true\nforce_delete_snapshot = true":     {"ec2:DeregisterImage", "ec2:DeleteSnapshot"},
		"ami_regions = [\"us-east-1\"]\nencrypt_boot = true":        nil,
		"ami_users = [\"123456789012\"]\nssm_parameters = [\"/x\"]": nil,
	} {
		p := ebsOptions(t, "ami_name = \"web\"\n"+body).Policy("eu-west-1")
		for _, a := range []string{"ec2:DeregisterImage", "ec2:DeleteSnapshot"} {
			if only, any := own(p, a); !any || only == slices.Contains(others, a) {
				t.Errorf("%q: %s for its own alone: %v; granted: %v", body, a, only, any)
			}
		}
		// What the documentation says that it does not guard.
		for _, a := range []string{"ec2:CreateTags", "ec2:ImportKeyPair", "ec2:DeleteKeyPair", "ec2:AuthorizeSecurityGroupIngress"} {
			for _, g := range p {
				if g.Action == a && (g.Condition["StringLike"] != nil || g.Condition["StringEquals"]["aws:RequestedRegion"] == nil) {
					t.Errorf("%q: %s under %v", body, a, g.Condition)
				}
			}
		}
	}
}

func TestEveryGrantSaysWhy(t *testing.T) {
	p := everyPolicy(t)
	reasons := p.Reasons()
	for _, g := range p {
		if g.Why == "" || !strings.Contains(reasons, g.Action) {
			t.Errorf("%s says not why", g.Action)
		}
	}
}

// Every call that this package's source makes is in the policy of a template
// that makes it.
func TestPolicyKnowsEveryCall(t *testing.T) {
	known := actions(everyPolicy(t))
	services := map[string]string{}
	for _, a := range known {
		_, name, _ := strings.Cut(a, ":")
		services[name] = a
	}
	// What the action is called where it is not the call's name; "": no permission is needed.
	other := map[string]string{"GetCallerIdentity": "", "CreateSnapshots": "ec2:CreateSnapshot"}
	clients := regexp.MustCompile(`^(\w+)Input$`)
	calls := map[string]bool{}
	files := token.NewFileSet()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") || !fs.ValidPath(e.Name()) {
			continue
		}
		f, err := parser.ParseFile(files, e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && slices.Contains([]string{"ec2", "iam", "ssm", "kms", "sts", "servicequotas"}, x.Name) {
					if m := clients.FindStringSubmatch(s.Sel.Name); m != nil {
						calls[m[1]] = true
					}
				}
			}
			return true
		})
	}
	if len(calls) < 20 {
		t.Fatalf("only %d calls were found in the source", len(calls))
	}
	for _, c := range slices.Sorted(maps.Keys(calls)) {
		if a, ok := other[c]; ok && (a == "" || slices.Contains(known, a)) {
			continue
		}
		if services[c] == "" {
			t.Errorf("%s is called and in no policy", c)
		}
	}
}
