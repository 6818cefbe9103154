package amazon

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/config"
)

// builder is an amazon-ebs builder with the options.
func (c *cloud) builder(body string) *Builder {
	c.t.Helper()
	return decodeBuilder(c.t, New(c.env), body)
}

// decodeBuilder gives the builder the options.
func decodeBuilder(t *testing.T, b *Builder, body string) *Builder {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(body), "source.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, b.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return b
}

// source are the options that every source has here.
func (c *cloud) source(more string) string {
	return "ami_name = \"web-1\"\ninstance_type = \"t3.micro\"\nssh_username = \"admin\"\nregion = \"us-east-1\"\nmax_retries = 2\nsource_ami = \"" + *c.base.ImageId + "\"\n" + more
}

// findings are the options that the check is not content with, and its texts.
func (c *cloud) findings(body string, env builders.CheckEnv) (errs, warnings []string, text string) {
	c.t.Helper()
	env.Dir = c.t.TempDir()
	ps := c.builder(body).Check(c.t.Context(), &env)
	errs, warnings = optionsOf(ps)
	for _, p := range ps {
		text += p.Option + ": " + p.Summary + ": " + p.Detail + "\n"
	}
	return errs, warnings, text
}

func TestPreflightIsContent(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	body := c.source("ami_regions = [\"us-west-2\"]\nssm_parameters = [\"/web\"]\ntags = { Base = \"{{ .SourceAMIName }}\" }")
	c.Plan().Reset()
	errs, warnings, text := c.findings(body, builders.CheckEnv{})
	if len(errs)+len(warnings) > 0 {
		t.Errorf("findings:\n%s", text)
	}
	calls := c.Plan().Calls()
	seen := map[string]bool{}
	for _, call := range calls {
		if seen[call.String()] && call.Action != "DescribeImages" { // the source, and names
			t.Errorf("%s was asked twice", call)
		}
		seen[call.String()] = true
	}
	t.Logf("%d calls: %v", len(calls), calls)
	c.wantNothing("a check")

	c.Plan().Reset()
	if errs, _, text := c.findings(body, builders.CheckEnv{Validate: true}); len(errs) > 0 || len(c.Plan().Calls()) > 0 {
		t.Errorf("validate makes %d calls and finds\n%s", len(c.Plan().Calls()), text)
	}
}

func TestPreflightFindsEverythingAtOnce(t *testing.T) {
	c := newCloud(t, ec2.Options{Images: []ec2.BaseImage{func() ec2.BaseImage { b := ec2.HostImage(); b.Architecture = "x86_64"; return b }()}})
	if _, err := MakeImage(t.Context(), newRun(t, "b1", &memory{bake: "b1"}), c.order("b1", "ami_name = \"web-1\"\nami_regions = [\"us-west-2\"]\nskip_save_build_region = true", false)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.session.SSM("").PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/web"), Value: aws.String("x"), Type: ssmtypes.ParameterTypeSecureString}); err != nil {
		t.Fatal(err)
	}
	body := strings.Replace(c.source(`
ami_regions          = ["us-west-2", "eu-central-2"]
encrypt_boot         = true
kms_key_id           = "alias/nowhere"
subnet_id            = "subnet-0123456789abcdef0"
iam_instance_profile = "nobody"
ssm_parameters       = ["/other", "/web"]
tags                 = { Release = "{{ .SourceAMITags.Release }}" }
launch_block_device_mappings {
  device_name = "/dev/xvda"
  volume_size = 1
}
fast_launch {
  enable_fast_launch = true
}
`), "t3.micro", "t4g.micro", 1)
	errs, _, text := c.findings(body, builders.CheckEnv{})
	slices.Sort(errs)
	want := []string{"ami_name", "ami_regions.1", "fast_launch", "iam_instance_profile", "instance_type", "kms_key_id", "launch_block_device_mappings.0.volume_size", "ssm_parameters.1", "subnet_id", "tags.Release"}
	// What cannot be looked at in a region that does not exist is said at its option too.
	errs = slices.Compact(errs)
	for _, w := range want {
		if !slices.Contains(errs, w) {
			t.Errorf("nothing was found at %s", w)
		}
	}
	for _, e := range errs {
		if !slices.Contains(want, e) {
			t.Errorf("something was found at %s", e)
		}
	}
	for _, said := range []string{"us-west-2 is named", "eu-central-1\"?", "x86_64", "alias/nowhere", "8 GiB", `has no tag "Release"`} {
		if !strings.Contains(text, said) {
			t.Errorf("%q is not said", said)
		}
	}
	t.Log(text)
	if errs, _, text := c.findings(c.source("ami_regions = [\"us-west-2\"]"), builders.CheckEnv{Force: true}); len(errs) > 0 {
		t.Errorf("with -force the name may be taken:\n%s", text)
	}
}

func TestPreflightOfTheSource(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	for _, x := range []struct{ body, option, said string }{
		{strings.Replace(c.source(""), *c.base.ImageId, "ami-0123456789abcdef0", 1), "source_ami", "ami-0123456789abcdef0"},
		{strings.Replace(c.source(""), "t3.micro", "t3.mikro", 1), "instance_type", `"t3.micro"`},
		{c.source(`security_group_ids = ["sg-0123456789abcdef0"]`), "security_group_ids", "sg-0123456789abcdef0"},
		{c.source("availability_zone = \"us-east-1q\"\nassociate_public_ip_address = true"), "availability_zone", "us-east-1q"},
	} {
		errs, _, text := c.findings(x.body, builders.CheckEnv{})
		if !slices.Contains(errs, x.option) || !strings.Contains(text, x.said) {
			t.Errorf("%s\nfinds\n%s", x.body, text)
		}
	}
}

func TestPreflightOfPermissions(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	body := c.source("ami_regions = [\"us-west-2\"]")
	c.Deny("ec2:RunInstances", "ec2:CopyImage")
	errs, _, text := c.findings(body, builders.CheckEnv{})
	if !slices.Equal(errs, []string{"", "ami_regions"}) || !strings.Contains(text, "iam-policy") {
		t.Errorf("what may not be done: %s", text)
	}
	// Who may bake and not ask is warned only.
	c.Deny()
	c.connect() // what was answered is remembered
	c.Deny("ec2:DescribeRegions", "ec2:DescribeInstanceTypes")
	errs, warnings, text := c.findings(body, builders.CheckEnv{})
	slices.Sort(warnings)
	if len(errs) > 0 || !slices.Equal(warnings, []string{"ami_regions", "instance_type"}) {
		t.Errorf("what may not be asked: %s", text)
	}
}
