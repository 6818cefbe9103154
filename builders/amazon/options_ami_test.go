package amazon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
)

type amiBlock struct {
	AMIOptions
	EBSOptions
}

func decodeAMI(t *testing.T, body string) *amiBlock {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(body), "source.hcl", hcl.InitialPos)
	o := &amiBlock{}
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, o)
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return o
}

func optionsOf(ps []config.Problem) (errs, warnings []string) {
	for _, p := range ps {
		if p.Summary == "" || p.Detail == "" {
			errs = append(errs, "no text at "+p.Option)
		}
		if p.Warning {
			warnings = append(warnings, p.Option)
		} else {
			errs = append(errs, p.Option)
		}
	}
	return errs, warnings
}

// everyOption is a source that says all that can be said of an AMI.
const everyOption = `
ami_name = "web 2026-(1)/a.b-c'@_[x]"
ami_description = "from {{ .SourceAMIName }} in {{ .BuildRegion }}"
ami_virtualization_type = "hvm"
ami_users = ["123456789012"]
ami_org_arns = ["arn:aws:organizations::123456789012:organization/o-abcdefghij"]
ami_ou_arns = ["arn:aws-us-gov:organizations::123456789012:ou/o-abcdefghij/ou-ab12-12345678"]
ami_product_codes = ["abc"]
ami_regions = ["us-east-1", "eu-west-1", "us-east-1", "us-gov-west-1"]
keep_partial = true
snapshot_copy_duration_minutes = 30
tags = { Base = "{{ .SourceAMI }}", Team = "web" }
tag {
  key   = "Release"
  value = "{{ .SourceAMITags.Release }}"
}
snapshot_tags = { Team = "disks" }
snapshot_users = ["123456789012"]
ena_support = true
sriov_support = true
force_deregister = true
force_delete_snapshot = true
encrypt_boot = true
kms_key_id = "alias/eu"
region_kms_key_ids = { us-east-1 = "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012", us-gov-west-1 = "mrk-0123456789abcdef0123456789abcdef" }
imds_support = "v2.0"
deprecate_at = "2030-01-31T12:00:00Z"
deregistration_protection {
  enabled       = true
  with_cooldown = true
}
ssm_parameters = ["/images/web/latest"]
ami_block_device_mappings {
  device_name  = "/dev/sdb"
  virtual_name = "ephemeral0"
}
launch_block_device_mappings {
  device_name           = "/dev/xvda"
  volume_size           = 100
  volume_type           = "gp3"
  iops                  = 4000
  throughput            = 250
  delete_on_termination = true
}
launch_block_device_mappings {
  device_name = "/dev/xvdb"
  volume_size = 10
  volume_type = "io1"
  iops        = 500
  encrypted   = true
  kms_key_id  = "alias/other"
}
fast_launch {
  template_name = "x"
  region_launch_templates {
    region      = "us-east-1"
    template_id = "lt-1"
    template_version = 3
  }
  max_parallel_launches = 6
}
`

func TestEveryOptionIsAccepted(t *testing.T) {
	o := decodeAMI(t, everyOption)
	errs, warnings := optionsOf(append(o.AMIOptions.Check("eu-west-1"), o.EBSOptions.Check("eu-west-1", &o.AMIOptions)...))
	if len(errs)+len(warnings) > 0 {
		t.Errorf("errors at %v, warnings at %v", errs, warnings)
	}
}

func TestWhatIsWrongWithAnAMI(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"short name", `ami_name = "ab"`, "ami_name"},
		{"long name", `ami_name = "` + strings.Repeat("a", 129) + `"`, "ami_name"},
		{"bad letters", `ami_name = "web:1"`, "ami_name"},
		{"virtualization", `ami_virtualization_type = "xen"`, "ami_virtualization_type"},
		{"user", `ami_users = ["123456789012", "bob"]`, "ami_users.1"},
		{"group", `ami_groups = ["some"]`, "ami_groups.0"},
		{"organization", `ami_org_arns = ["o-abcdefghij"]`, "ami_org_arns.0"},
		{"unit", `ami_ou_arns = ["arn:aws:organizations::123456789012:organization/o-abcdefghij"]`, "ami_ou_arns.0"},
		{"region", `ami_regions = ["Ireland"]`, "ami_regions.0"},
		{"minutes", `snapshot_copy_duration_minutes = 20`, "snapshot_copy_duration_minutes"},
		{"minutes", `snapshot_copy_duration_minutes = 0`, "snapshot_copy_duration_minutes"},
		{"imds", `imds_support = "v1.0"`, "imds_support"},
		{"not a time", `deprecate_at = "tomorrow"`, "deprecate_at"},
		{"the past", `deprecate_at = "2020-01-01T00:00:00Z"`, "deprecate_at"},
		{"far away", `deprecate_at = "2090-01-01T00:00:00Z"`, "deprecate_at"},
		{"nothing left", `skip_save_build_region = true`, "skip_save_build_region"},
		{"nothing left but the build's", "skip_save_build_region = true\nami_regions = [\"eu-west-1\"]", "skip_save_build_region"},
		{"key without encryption", `kms_key_id = "alias/x"`, "kms_key_id"},
		{"not a key", "encrypt_boot = true\nkms_key_id = \"x\"", "kms_key_id"},
		{"key of another region", "encrypt_boot = true\nkms_key_id = \"arn:aws:kms:us-east-1:123456789012:alias/x\"", "kms_key_id"},
		{"key of no region", "encrypt_boot = true\nregion_kms_key_ids = { us-east-1 = \"alias/x\" }", "region_kms_key_ids.us-east-1"},
		{"region without key", "ami_regions = [\"us-east-1\", \"us-east-2\"]\nregion_kms_key_ids = { us-east-1 = \"alias/x\" }", "region_kms_key_ids"},
		{"key of another copy", "ami_regions = [\"us-east-1\"]\nregion_kms_key_ids = { us-east-1 = \"arn:aws:kms:us-east-2:123456789012:alias/x\" }", "region_kms_key_ids.us-east-1"},
		{"shared with the default key", "encrypt_boot = true\nami_users = [\"123456789012\"]", "ami_users"},
		{"snapshots shared with the default key", "encrypt_boot = true\nsnapshot_users = [\"123456789012\"]", "snapshot_users"},
		{"a copy with the default key", "encrypt_boot = true\nkms_key_id = \"alias/x\"\nami_regions = [\"us-east-1\"]\nregion_kms_key_ids = { us-east-1 = \"\" }\nami_users = [\"123456789012\"]", "ami_users"},
		{"public and encrypted", "encrypt_boot = true\nkms_key_id = \"alias/x\"\nami_groups = [\"all\"]", "ami_groups"},
		{"amazon's tag", `tags = { "aws:x" = "y" }`, "tags.aws:x"},
		{"our tag", `tags = { "ingot:build" = "y" }`, "tags.ingot:build"},
		{"long tag", `snapshot_tags = { x = "` + strings.Repeat("v", 257) + `" }`, "snapshot_tags.x"},
		{"tag without key", "tag {\n value = \"x\"\n}", "tag.0"},
		{"tag with two keys", "tag {\n key = \"a\"\n name = \"b\"\n value = \"x\"\n}", "tag.0.name"},
		{"tag twice", "tags = { a = \"1\" }\ntag {\n key = \"a\"\n value = \"x\"\n}", "tag.0"},
		{"unknown value", `ami_description = "{{ .SourceImage }}"`, "ami_description"},
		{"unknown value in a tag", `tags = { a = "{{ .Nope }}" }`, "tags.a"},
		{"unknown value in a block", "snapshot_tag {\n key = \"a\"\n value = \"{{ .Nope }}\"\n}", "snapshot_tag.0.value"},
		{"unknown value in a key", `tags = { "{{ .Nope }}" = "a" }`, "tags.{{ .Nope }}"},
		{"not a template", `ami_description = "{{ .SourceAMI"`, "ami_description"},
		{"amazon's parameter", `ssm_parameters = ["/aws/x"]`, "ssm_parameters.0"},
		{"parameter twice", `ssm_parameters = ["x", "x"]`, "ssm_parameters.1"},
		{"key for an AMI's device", "ami_block_device_mappings {\n device_name = \"x\"\n encrypted = true\n kms_key_id = \"alias/x\"\n}", "ami_block_device_mappings.0.kms_key_id"},
		{"device twice", "launch_block_device_mappings {\n device_name = \"x\"\n}\nlaunch_block_device_mappings {\n device_name = \"x\"\n}", "launch_block_device_mappings.1.device_name"},
		{"volume type", "launch_block_device_mappings {\n device_name = \"x\"\n volume_type = \"ssd\"\n}", "launch_block_device_mappings.0.volume_type"},
		{"no iops", "launch_block_device_mappings {\n device_name = \"x\"\n volume_type = \"io2\"\n}", "launch_block_device_mappings.0.iops"},
		{"few iops", "launch_block_device_mappings {\n device_name = \"x\"\n volume_type = \"gp3\"\n iops = 100\n}", "launch_block_device_mappings.0.iops"},
		{"iops for its size", "launch_block_device_mappings {\n device_name = \"x\"\n volume_type = \"io1\"\n volume_size = 10\n iops = 501\n}", "launch_block_device_mappings.0.iops"},
		{"iops for gp2", "launch_block_device_mappings {\n device_name = \"x\"\n volume_type = \"gp2\"\n iops = 3000\n}", "launch_block_device_mappings.0.iops"},
		{"throughput", "launch_block_device_mappings {\n device_name = \"x\"\n throughput = 200\n}", "launch_block_device_mappings.0.throughput"},
		{"size", "launch_block_device_mappings {\n device_name = \"x\"\n volume_type = \"st1\"\n volume_size = 100\n}", "launch_block_device_mappings.0.volume_size"},
		{"snapshot", "launch_block_device_mappings {\n device_name = \"x\"\n snapshot_id = \"snap\"\n}", "launch_block_device_mappings.0.snapshot_id"},
		{"ephemeral", "launch_block_device_mappings {\n device_name = \"x\"\n virtual_name = \"disk0\"\n}", "launch_block_device_mappings.0.virtual_name"},
		{"no device with a size", "launch_block_device_mappings {\n device_name = \"x\"\n no_device = true\n volume_size = 3\n}", "launch_block_device_mappings.0.no_device"},
		{"key of a plain device", "launch_block_device_mappings {\n device_name = \"x\"\n kms_key_id = \"alias/x\"\n}", "launch_block_device_mappings.0.kms_key_id"},
		{"fast launch elsewhere", "fast_launch {\n region_launch_templates {\n region = \"us-west-1\"\n }\n}", "fast_launch.region_launch_templates.0.region"},
		{"fast launch by too few", "fast_launch {\n max_parallel_launches = 5\n}", "fast_launch.max_parallel_launches"},
		{"version of nothing", "fast_launch {\n template_version = 5\n}", "fast_launch.template_version"},
		{"two templates", "fast_launch {\n template_id = \"a\"\n template_name = \"b\"\n}", "fast_launch.template_name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(c.body, "ami_name") {
				c.body += "\nami_name = \"web-1\"\n"
			}
			o := decodeAMI(t, c.body)
			errs, _ := optionsOf(append(o.AMIOptions.Check("eu-west-1"), o.EBSOptions.Check("eu-west-1", &o.AMIOptions)...))
			if !slices.Equal(errs, []string{c.want}) {
				t.Errorf("errors at %q, want at %q alone", errs, c.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	if got, want := cleanName("web:2026-01-01T10:00:00Z ü(x)"), "web-2026-01-01T10-00-00Z -(x)"; got != want {
		t.Errorf("cleanName: %q, want %q", got, want)
	}
}

// plan makes a plan of the options, in eu-west-1.
func planOf(t *testing.T, body string, change func(*ImageOrder)) *imagePlan {
	t.Helper()
	o := decodeAMI(t, body)
	order := &ImageOrder{
		Session: &awscloud.Session{Region: "eu-west-1"}, BuilderID: "mitchellh.amazonebs", AMI: &o.AMIOptions, FastLaunch: o.FastLaunch,
		Source: &types.Image{
			ImageId: aws.String("ami-base"), Name: aws.String("debian"), CreationDate: aws.String("2026-01-01T00:00:00.000Z"), OwnerId: aws.String("136693071363"),
			Tags: []types.Tag{{Key: aws.String("Release"), Value: aws.String("12")}},
		},
		RunTags: map[string]string{"Team": "run", "Cost": "1"}, Encrypted: true,
	}
	if change != nil {
		change(order)
	}
	p, err := order.plan(&builders.Run{BakeID: "b1", Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlan(t *testing.T) {
	p := planOf(t, everyOption, nil)
	if p.intermediate() || !p.Encrypted {
		t.Errorf("encryption at launch needs no intermediate image: %+v", p)
	}
	if p.Description != "from debian in eu-west-1" {
		t.Errorf("description %q", p.Description)
	}
	for k, want := range map[string]string{"Base": "ami-base", "Team": "web", "Release": "12", "Cost": "1", tagBuild: "b1"} {
		if p.ImageTags[k] != want {
			t.Errorf("image tag %s is %q, want %q", k, p.ImageTags[k], want)
		}
	}
	if p.SnapshotTags["Team"] != "disks" || p.SnapshotTags["Base"] != "ami-base" {
		t.Errorf("snapshot tags %v", p.SnapshotTags)
	}
	var copies []string
	for _, c := range p.Copies {
		copies = append(copies, c.Region+" "+c.Key)
	}
	if want := []string{"us-east-1 arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012", "us-gov-west-1 mrk-0123456789abcdef0123456789abcdef"}; !slices.Equal(copies, want) {
		t.Errorf("copies %q", copies)
	}
	if f := p.FastLaunch["us-east-1"]; f.TemplateID != "lt-1" || f.TemplateName != "" || f.Version != "3" || f.Parallel != 6 {
		t.Errorf("fast launch in us-east-1: %+v", f)
	}
	if f := p.FastLaunch["us-gov-west-1"]; f.TemplateName != "x" || f.Version != "$Default" {
		t.Errorf("fast launch in us-gov-west-1: %+v", f)
	}
	if p.Values["SourceAMIName"] != "debian" || p.Values["BuildRegion"] != "eu-west-1" || p.Parent != "ami-base" {
		t.Errorf("values %v, parent %s", p.Values, p.Parent)
	}

	byCopy := planOf(t, everyOption, func(o *ImageOrder) { o.Encrypted = false })
	if !byCopy.intermediate() || byCopy.Encrypted || byCopy.Copies[0].Region != "eu-west-1" || !*byCopy.Copies[0].Encrypted || byCopy.Copies[0].Key != "alias/eu" {
		t.Errorf("volumes that are not encrypted are copied in the build's region too: %+v", byCopy)
	}
	elsewhere := planOf(t, "ami_name = \"web\"\nskip_save_build_region = true\nami_regions = [\"us-east-1\"]", nil)
	if !elsewhere.intermediate() || len(elsewhere.Copies) != 1 || elsewhere.Copies[0].Encrypted != nil {
		t.Errorf("skip_save_build_region: %+v", elsewhere)
	}
}

func TestPlanSurvivesTheLedger(t *testing.T) {
	p := planOf(t, everyOption, func(o *ImageOrder) { o.Register = nil; o.Image = "ami-1"; o.KeepImage = true })
	s, err := p.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodePlan(s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.encode()
	if err != nil || again != s {
		t.Errorf("written %s\nand again %s (%v)", s, again, err)
	}
	for _, bad := range []string{"", "{}", "[]", `{"region":"x"}`} {
		if _, err := decodePlan(bad); err == nil {
			t.Errorf("the plan %q was taken", bad)
		}
	}
}

func TestRenderingSaysWhichOption(t *testing.T) {
	o := decodeAMI(t, `
ami_name        = "web"
ami_description = "{{ .SourceAMITags.Nope }}"
tags            = { a = "{{ .SourceAMITags.Nope }}", b = "ok" }
`)
	_, errs := o.render(lateData("eu-west-1", types.Image{}), renderEnv(&builders.Run{}))
	var at []string
	for _, e := range errs {
		at = append(at, e.Option)
	}
	if !slices.Equal(at, []string{"ami_description", "tags.a"}) {
		t.Errorf("errors at %v: %v", at, errs)
	}
}

func TestLaunchMappings(t *testing.T) {
	source := &types.Image{BlockDeviceMappings: []types.BlockDeviceMapping{
		{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: aws.String("snap-1"), VolumeSize: aws.Int32(8)}},
		{DeviceName: aws.String("/dev/sdb"), VirtualName: aws.String("ephemeral0")},
		{DeviceName: aws.String("/dev/sdc"), Ebs: &types.EbsBlockDevice{SnapshotId: aws.String("snap-2")}},
	}}
	user := []types.BlockDeviceMapping{
		{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(20)}},
		{DeviceName: aws.String("/dev/sdb"), NoDevice: aws.String("")},
	}
	plain := &AMIOptions{}
	if got := launchMappings(plain, user, source, "eu-west-1"); len(got) != 2 || got[0].Ebs.Encrypted != nil {
		t.Errorf("without encrypt_boot: %+v", got)
	}
	o := &AMIOptions{EncryptBoot: aws.Bool(true), KMSKeyID: "alias/x"}
	got := launchMappings(o, user, source, "eu-west-1")
	if len(got) != 3 {
		t.Fatalf("%d mappings", len(got))
	}
	for i, want := range []string{"/dev/xvda", "/dev/sdb", "/dev/sdc"} {
		if *got[i].DeviceName != want {
			t.Errorf("mapping %d is of %s", i, *got[i].DeviceName)
		}
	}
	for _, i := range []int{0, 2} {
		if e := got[i].Ebs; !aws.ToBool(e.Encrypted) || *e.KmsKeyId != "alias/x" || e.SnapshotId != nil {
			t.Errorf("%s: %+v", *got[i].DeviceName, e)
		}
	}
	if *got[0].Ebs.VolumeSize != 20 || user[0].Ebs.Encrypted != nil {
		t.Error("the user's size is lost, or the user's mapping was changed")
	}
}
