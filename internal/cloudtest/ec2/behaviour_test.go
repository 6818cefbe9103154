//go:build linux

package ec2_test

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsec2 "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
)

// micro is a launch of the base image.
func micro(img types.Image) *awsec2.RunInstancesInput {
	return &awsec2.RunInstancesInput{ImageId: img.ImageId, InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
}

func TestUnknownParameters(t *testing.T) {
	c := start(t, ec2.Options{})
	for _, q := range []struct{ query, want string }{
		{"Action=DescribeImages&Version=2016-11-15&Colour=red", "UnknownParameter"},
		{"Action=DescribeImages&Version=2016-11-15&Filter.1.Nmae=red", "UnknownParameter"},
		{"Action=DescribeImages&Version=2016-11-15&ImageId.x=ami-1", "UnknownParameter"},
		{"Action=DescribeImages&Version=2016-11-15&MaxResults=many", "InvalidParameterValue"},
		{"Action=DescribeImages&Version=2016-11-15&Colour=", "<imagesSet>"},
		{"Action=Bake", "InvalidAction"},
	} {
		form, err := url.ParseQuery(q.query)
		if err != nil {
			t.Fatal(err)
		}
		r := must(http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL(), strings.NewReader(form.Encode())))(t)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+ec2.AccessKey+"/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0")
		resp := must(http.DefaultClient.Do(r))(t)
		b := must(io.ReadAll(resp.Body))(t) // one Read may bring a part only
		resp.Body.Close()
		if !strings.Contains(string(b), q.want) {
			t.Errorf("%s: %s, want %s", q.query, b, q.want)
		}
	}
}

func TestClientTokens(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	in := micro(base(t, cl))
	in.ClientToken = aws.String("build-1")
	first := must(cl.RunInstances(ctx, in))(t)
	again := must(cl.RunInstances(ctx, in))(t)
	if *first.Instances[0].InstanceId != *again.Instances[0].InstanceId {
		t.Error("the same token has launched a second instance")
	}
	in.InstanceType = types.InstanceTypeT3Small
	_, err := cl.RunInstances(ctx, in)
	wantCode(t, "the same token for another type", err, "IdempotentParameterMismatch")
	in.ClientToken = aws.String("build-2")
	other := must(cl.RunInstances(ctx, in))(t)
	if *first.Instances[0].InstanceId == *other.Instances[0].InstanceId {
		t.Error("another token has given the same instance")
	}
	must(cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{*first.Instances[0].InstanceId}}))(t)
	in.ClientToken, in.InstanceType = aws.String("build-1"), types.InstanceTypeT3Micro
	if s := must(cl.RunInstances(ctx, in))(t).Instances[0].State.Name; s != types.InstanceStateNameShuttingDown && s != types.InstanceStateNameTerminated {
		t.Errorf("a repeated call says that the instance is %s", s)
	}
	out := must(cl.DescribeInstances(ctx, &awsec2.DescribeInstancesInput{Filters: []types.Filter{{Name: aws.String("client-token"), Values: []string{"build-2"}}}}))(t)
	if len(out.Reservations) != 1 {
		t.Errorf("%d instances with the second token", len(out.Reservations))
	}
}

func TestConsistency(t *testing.T) {
	c := start(t, ec2.Options{Consistency: ec2.Consistency{Misses: 2}})
	cl, ctx := client(c, "us-east-1"), t.Context()
	i := *must(cl.RunInstances(ctx, micro(base(t, cl))))(t).Instances[0].InstanceId
	for n := range 3 {
		_, err := cl.DescribeInstances(ctx, &awsec2.DescribeInstancesInput{InstanceIds: []string{i}})
		if want := "InvalidInstanceID.NotFound"; n < 2 {
			wantCode(t, "a look at a new instance", err, want)
		} else if err != nil {
			t.Error(err)
		}
	}
	slow := start(t, ec2.Options{Consistency: ec2.Consistency{Delay: time.Hour}})
	cl = client(slow, "us-east-1")
	g := must(cl.CreateSecurityGroup(ctx, &awsec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("d")}))(t)
	_, err := cl.DescribeSecurityGroups(ctx, &awsec2.DescribeSecurityGroupsInput{GroupIds: []string{*g.GroupId}})
	wantCode(t, "a new group", err, "InvalidGroup.NotFound")
	if all := must(cl.DescribeSecurityGroups(ctx, &awsec2.DescribeSecurityGroupsInput{}))(t); len(all.SecurityGroups) != 1 {
		t.Errorf("%d groups are seen", len(all.SecurityGroups))
	}
}

// TestStates sees states of an hour: nothing here waits for them.
func TestStates(t *testing.T) {
	c := start(t, ec2.Options{Durations: ec2.Durations{Running: time.Hour, Image: time.Hour, Volume: time.Hour, Copy: time.Hour}})
	cl, ctx := client(c, "us-east-1"), t.Context()
	img := base(t, cl)
	i := *must(cl.RunInstances(ctx, micro(img)))(t).Instances[0].InstanceId
	if s := instanceOf(t, cl, i).State.Name; s != types.InstanceStateNamePending {
		t.Errorf("a new instance is %s", s)
	}
	_, err := cl.CreateImage(ctx, &awsec2.CreateImageInput{InstanceId: &i, Name: aws.String("too early")})
	wantCode(t, "an image of a pending instance", err, "InvalidParameterValue")
	_, err = cl.StopInstances(ctx, &awsec2.StopInstancesInput{InstanceIds: []string{i}})
	wantCode(t, "stopping a pending instance", err, "IncorrectInstanceState")
	v := must(cl.CreateVolume(ctx, &awsec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)}))(t)
	_, err = cl.AttachVolume(ctx, &awsec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: aws.String(ec2.HostInstance), Device: aws.String("/dev/sdf")})
	wantCode(t, "attaching a volume that is being created", err, "IncorrectState")
	cp := must(cl.CopyImage(ctx, &awsec2.CopyImageInput{SourceImageId: img.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("copy")}))(t)
	in := micro(img)
	in.ImageId = cp.ImageId
	_, err = cl.RunInstances(ctx, in)
	wantCode(t, "launching a pending image", err, "InvalidAMIID.Unavailable")
	must(cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{i}}))(t)
	waitInstance(t, cl, i, types.InstanceStateNameTerminated)

	c = start(t, ec2.Options{Durations: ec2.Durations{Running: time.Hour}, Speed: 1e6})
	cl = client(c, "us-east-1")
	i = *must(cl.RunInstances(ctx, micro(base(t, cl))))(t).Instances[0].InstanceId
	waitInstance(t, cl, i, types.InstanceStateNameRunning)
}

func TestThrottle(t *testing.T) {
	c := start(t, ec2.Options{Throttle: map[string]ec2.Bucket{"DescribeRegions": {Burst: 2}}})
	cl := client(c, "us-east-1")
	for n := range 3 {
		_, err := cl.DescribeRegions(t.Context(), &awsec2.DescribeRegionsInput{})
		if n < 2 && err != nil {
			t.Error(err)
		}
		if n == 2 {
			wantCode(t, "the third call", err, "RequestLimitExceeded")
		}
	}
	if _, err := cl.DescribeVpcs(t.Context(), &awsec2.DescribeVpcsInput{}); err != nil {
		t.Errorf("another action: %v", err)
	}
}

func TestFaults(t *testing.T) {
	c := start(t, ec2.Options{})
	cl := client(c, "us-east-1")
	group := func(name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := cl.CreateSecurityGroup(ctx, &awsec2.CreateSecurityGroupInput{GroupName: &name, Description: aws.String("d")})
		return err
	}
	for _, f := range fault.All() {
		if f == fault.Hang || f == fault.HangAfter {
			continue // the plan's own test waits for those
		}
		c.Plan().Reset()
		c.Plan().Decide(func(call fault.Call) fault.Fault {
			if call.Service != "ec2" || call.Action != "CreateSecurityGroup" || call.Region != "us-east-1" {
				t.Errorf("the call is %s", call)
			}
			return f
		})
		err := group(f.String())
		c.Plan().Decide(nil)
		if err == nil {
			t.Errorf("%s: the call succeeds", f)
		}
		if want := map[fault.Fault]string{fault.Refuse: "UnauthorizedOperation", fault.Fail: "InternalError", fault.FailAfter: "InternalError", fault.Throttle: "RequestLimitExceeded"}[f]; want != "" {
			wantCode(t, f.String(), err, want)
		}
		effect := slices.ContainsFunc(c.Left(), func(l ec2.Thing) bool { return l.Name == f.String() })
		if after := f == fault.CutAfter || f == fault.FailAfter; effect != after {
			t.Errorf("%s: the call has had its effect: %v", f, effect)
		}
	}
}

func TestDenied(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	img := base(t, cl)
	c.Deny("ec2:RunInstances", "iam:*")
	_, err := cl.RunInstances(ctx, micro(img))
	wantCode(t, "a denied launch", err, "UnauthorizedOperation")
	_, encoded, ok := strings.Cut(err.Error(), "failure message: ")
	if !ok {
		t.Fatal(err)
	}
	m := must(sts.NewFromConfig(conf(c, "us-east-1")).DecodeAuthorizationMessage(ctx, &sts.DecodeAuthorizationMessageInput{EncodedMessage: &encoded}))(t)
	if !strings.Contains(*m.DecodedMessage, "ec2:RunInstances") {
		t.Errorf("decoded: %s", *m.DecodedMessage)
	}
	_, err = iam.NewFromConfig(conf(c, "us-east-1")).GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String("r")})
	wantCode(t, "all of IAM denied", err, "AccessDenied")
	c.Deny()
	if _, err := cl.RunInstances(ctx, micro(img)); err != nil {
		t.Error(err)
	}
}

func TestLaunchesThatFail(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	img := base(t, cl)
	c.OnLaunch(func(l ec2.Launch) ec2.Outcome {
		if l.Zone == "us-east-1b" {
			return ec2.Outcome{StateReason: "Client.VolumeLimitExceeded: Volume limit exceeded"}
		}
		return ec2.Outcome{Code: "InsufficientInstanceCapacity"}
	})
	_, err := cl.RunInstances(ctx, micro(img))
	wantCode(t, "a zone without capacity", err, "InsufficientInstanceCapacity")
	in := micro(img)
	in.Placement = &types.Placement{AvailabilityZone: aws.String("us-east-1b")}
	i := waitInstance(t, cl, *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId, types.InstanceStateNameTerminated)
	if *i.StateReason.Code != "Client.VolumeLimitExceeded" {
		t.Errorf("reason %+v", i.StateReason)
	}
	c.OnLaunch(nil)
	// A root volume that does not die with its instance is left.
	in = micro(img)
	in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: img.RootDeviceName, Ebs: &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(false)}}}
	kept := *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId
	must(cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{kept}}))(t)
	waitInstance(t, cl, kept, types.InstanceStateNameTerminated)
	if left := c.Left(); len(left) != 1 || left[0].Kind != "volume" || left[0].State != "available" {
		t.Errorf("left: %v", left)
	}
	c.SetQuota(ec2.QuotaVCPUs, 1)
	_, err = cl.RunInstances(ctx, micro(img))
	wantCode(t, "more than the quota", err, "VcpuLimitExceeded")
	c.SetQuota(ec2.QuotaVCPUs, -1)
	// A key that cannot be used shows after the call.
	disabled := must(c.AddKMSKey("us-east-1", "alias/off", "Disabled"))(t)
	in = micro(img)
	in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: img.RootDeviceName, Ebs: &types.EbsBlockDevice{Encrypted: aws.Bool(true), KmsKeyId: &disabled}}}
	waitInstance(t, cl, *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId, types.InstanceStateNameTerminated)
	cp := must(cl.CopyImage(ctx, &awsec2.CopyImageInput{SourceImageId: img.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("off"), Encrypted: aws.Bool(true), KmsKeyId: aws.String("alias/off")}))(t)
	got := must(cl.DescribeImages(ctx, &awsec2.DescribeImagesInput{ImageIds: []string{*cp.ImageId}}))(t).Images[0]
	if got.State != types.ImageStateFailed || !strings.Contains(*got.StateReason.Message, "Disabled") {
		t.Errorf("the copy is %s: %+v", got.State, got.StateReason)
	}
	c.OnImage(func(m ec2.Making) string {
		if m.Action == "CopyImage" && m.Region == "us-east-1" && m.Name == "doomed" {
			return "Client.InternalError: as the test says"
		}
		return ""
	})
	cp = must(cl.CopyImage(ctx, &awsec2.CopyImageInput{SourceImageId: img.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("doomed")}))(t)
	if got := must(cl.DescribeImages(ctx, &awsec2.DescribeImagesInput{ImageIds: []string{*cp.ImageId}}))(t).Images[0]; got.State != types.ImageStateFailed {
		t.Errorf("the doomed copy is %s", got.State)
	}
}

func TestSpot(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	img := base(t, cl)
	tags := []types.Tag{{Key: aws.String("ingot:build"), Value: aws.String("b")}}
	lt := must(cl.CreateLaunchTemplate(ctx, &awsec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("lt-for-b"), LaunchTemplateData: &types.RequestLaunchTemplateData{ImageId: img.ImageId,
		UserData: aws.String(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\ntrue\n"))), InstanceMarketOptions: &types.LaunchTemplateInstanceMarketOptionsRequest{MarketType: "spot"},
		MetadataOptions:     &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: "required"},
		BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: img.RootDeviceName, Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(9)}}},
		TagSpecifications:   []types.LaunchTemplateTagSpecificationRequest{{ResourceType: "instance", Tags: tags}}}}))(t)
	c.OnLaunch(func(l ec2.Launch) ec2.Outcome {
		if l.Type == "t3.micro" {
			return ec2.Outcome{Code: "InsufficientInstanceCapacity"}
		}
		return ec2.Outcome{}
	})
	in := &awsec2.CreateFleetInput{Type: types.FleetTypeInstant, ClientToken: aws.String("f"), TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(1), DefaultTargetCapacityType: "spot"},
		LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{LaunchTemplateId: lt.LaunchTemplate.LaunchTemplateId, Version: aws.String("1")},
			Overrides: []types.FleetLaunchTemplateOverridesRequest{{InstanceType: "t3.micro"}, {InstanceType: "t3.small"}}}}}
	f := must(cl.CreateFleet(ctx, in))(t)
	if len(f.Errors) != 1 || *f.Errors[0].ErrorCode != "InsufficientInstanceCapacity" || len(f.Instances) != 1 {
		t.Fatalf("the fleet: %d errors, %d instances", len(f.Errors), len(f.Instances))
	}
	if again := must(cl.CreateFleet(ctx, in))(t); *again.FleetId != *f.FleetId {
		t.Error("the same token has made a second fleet")
	}
	i := waitInstance(t, cl, f.Instances[0].InstanceIds[0], types.InstanceStateNameRunning)
	if i.InstanceType != "t3.small" || i.InstanceLifecycle != types.InstanceLifecycleTypeSpot || i.SpotInstanceRequestId == nil || i.MetadataOptions.HttpTokens != types.HttpTokensStateRequired {
		t.Errorf("the instance is %+v", i)
	}
	if v := must(cl.DescribeVolumes(ctx, &awsec2.DescribeVolumesInput{VolumeIds: []string{*i.BlockDeviceMappings[0].Ebs.VolumeId}}))(t).Volumes[0]; *v.Size != 9 {
		t.Errorf("its root has %d GiB", *v.Size)
	}
	_, err := cl.StopInstances(ctx, &awsec2.StopInstancesInput{InstanceIds: []string{*i.InstanceId}})
	wantCode(t, "stopping a spot instance", err, "UnsupportedOperation")
	must(cl.CreateTags(ctx, &awsec2.CreateTagsInput{Resources: []string{*i.SpotInstanceRequestId}, Tags: tags}))(t)
	must(cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{*i.InstanceId}}))(t)
	waitInstance(t, cl, *i.InstanceId, types.InstanceStateNameTerminated)
	if left := c.Left(); len(left) != 1 || left[0].Kind != "launch-template" {
		t.Errorf("left: %v", left)
	}
	must(cl.DeleteLaunchTemplate(ctx, &awsec2.DeleteLaunchTemplateInput{LaunchTemplateName: aws.String("lt-for-b")}))(t)
	if h := must(cl.DescribeSpotPriceHistory(ctx, &awsec2.DescribeSpotPriceHistoryInput{InstanceTypes: []types.InstanceType{"t3.small"}}))(t); len(h.SpotPriceHistory) != 3 {
		t.Errorf("%d prices", len(h.SpotPriceHistory))
	}
}

func TestProfiles(t *testing.T) {
	c := start(t, ec2.Options{Durations: ec2.Durations{Profile: time.Hour}})
	cl, ctx, im := client(c, "us-east-1"), t.Context(), iam.NewFromConfig(conf(c, "us-east-1"))
	in := micro(base(t, cl))
	in.DryRun = aws.Bool(true)
	in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("p")}
	p := must(im.CreateInstanceProfile(ctx, &iam.CreateInstanceProfileInput{InstanceProfileName: aws.String("p"), Tags: []iamtypes.Tag{{Key: aws.String("ingot:build"), Value: aws.String("b")}}}))(t)
	must(im.CreateRole(ctx, &iam.CreateRoleInput{RoleName: aws.String("r"), AssumeRolePolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[]}`)}))(t)
	must(im.PutRolePolicy(ctx, &iam.PutRolePolicyInput{RoleName: aws.String("r"), PolicyName: aws.String("x"), PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[{}]}`)}))(t)
	must(im.AddRoleToInstanceProfile(ctx, &iam.AddRoleToInstanceProfileInput{RoleName: aws.String("r"), InstanceProfileName: aws.String("p")}))(t)
	if got := must(im.GetInstanceProfile(ctx, &iam.GetInstanceProfileInput{InstanceProfileName: aws.String("p")}))(t).InstanceProfile; len(got.Roles) != 1 || len(got.Tags) != 1 || *got.Arn != *p.InstanceProfile.Arn {
		t.Errorf("the profile is %+v", got)
	}
	_, err := cl.RunInstances(ctx, in)
	wantCode(t, "a profile that EC2 has not heard of", err, "InvalidParameterValue")
	c.SetDurations(ec2.Durations{})
	_, err = cl.RunInstances(ctx, in)
	wantCode(t, "a profile that it has heard of", err, "DryRunOperation")
	_, err = im.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: aws.String("r")})
	wantCode(t, "a role with a policy", err, "DeleteConflict")
	_, err = im.DeleteInstanceProfile(ctx, &iam.DeleteInstanceProfileInput{InstanceProfileName: aws.String("p")})
	wantCode(t, "a profile with a role", err, "DeleteConflict")
	if left := c.Left(); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	must(im.RemoveRoleFromInstanceProfile(ctx, &iam.RemoveRoleFromInstanceProfileInput{RoleName: aws.String("r"), InstanceProfileName: aws.String("p")}))(t)
	must(im.DeleteRolePolicy(ctx, &iam.DeleteRolePolicyInput{RoleName: aws.String("r"), PolicyName: aws.String("x")}))(t)
	must(im.DeleteRole(ctx, &iam.DeleteRoleInput{RoleName: aws.String("r")}))(t)
	must(im.DeleteInstanceProfile(ctx, &iam.DeleteInstanceProfileInput{InstanceProfileName: aws.String("p")}))(t)
	_, err = im.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String("r")})
	wantCode(t, "a role that is gone", err, "NoSuchEntity")
}

// TestNetwork: what a group does not admit does not come in, and another
// account sees what is shared with it.
func TestNetworkAndAccounts(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	key := must(cl.CreateKeyPair(ctx, &awsec2.CreateKeyPairInput{KeyName: aws.String("k")}))(t) // rsa
	g := must(cl.CreateSecurityGroup(ctx, &awsec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("d")}))(t)
	in := micro(base(t, cl))
	in.KeyName, in.SecurityGroupIds = aws.String("k"), []string{*g.GroupId}
	i := waitInstance(t, cl, *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId, types.InstanceStateNameRunning)
	// It is up: its console has keys.
	eventually(t, "the console", func() (bool, error) {
		out, err := cl.GetConsoleOutput(ctx, &awsec2.GetConsoleOutputInput{InstanceId: i.InstanceId})
		if err != nil || out.Output == nil {
			return false, err
		}
		b, err := base64.StdEncoding.DecodeString(*out.Output)
		return strings.Contains(string(b), "BEGIN SSH HOST KEY KEYS"), err
	})
	if reached(t, *i.PublicIpAddress) {
		t.Error("an instance without a rule is reached")
	}
	rule := func(cidr string) *awsec2.AuthorizeSecurityGroupIngressInput {
		return &awsec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: &cidr}}}}}
	}
	must(cl.AuthorizeSecurityGroupIngress(ctx, rule("127.9.9.9/32")))(t)
	if reached(t, *i.PublicIpAddress) {
		t.Error("an instance that admits others is reached")
	}
	must(cl.AuthorizeSecurityGroupIngress(ctx, rule("127.0.0.1/32")))(t)
	if got := run(t, *i.PublicIpAddress, "admin", *key.KeyMaterial, "echo in"); got != "in" {
		t.Errorf("%q", got)
	}
	must(cl.RevokeSecurityGroupIngress(ctx, &awsec2.RevokeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: rule("127.0.0.1/32").IpPermissions}))(t)
	if reached(t, *i.PublicIpAddress) {
		t.Error("an instance is reached after its rule has been revoked")
	}
	im := must(cl.CreateImage(ctx, &awsec2.CreateImageInput{InstanceId: i.InstanceId, Name: aws.String("shared"), NoReboot: aws.Bool(true)}))(t)
	waitImage(t, cl, *im.ImageId)
	who := must(sts.NewFromConfig(conf(c, "us-east-1")).AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::210987654321:role/other"), RoleSessionName: aws.String("test")}))(t)
	cf := conf(c, "us-east-1")
	cf.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: *who.Credentials.AccessKeyId, SecretAccessKey: *who.Credentials.SecretAccessKey, SessionToken: *who.Credentials.SessionToken}, nil
	})
	other := awsec2.NewFromConfig(cf)
	_, err := other.DescribeImages(ctx, &awsec2.DescribeImagesInput{ImageIds: []string{*im.ImageId}})
	wantCode(t, "another account's look at an image", err, "InvalidAMIID.NotFound")
	must(cl.ModifyImageAttribute(ctx, &awsec2.ModifyImageAttributeInput{ImageId: im.ImageId, LaunchPermission: &types.LaunchPermissionModifications{Add: []types.LaunchPermission{{UserId: aws.String("210987654321")}}}}))(t)
	if _, err := other.DescribeImages(ctx, &awsec2.DescribeImagesInput{ImageIds: []string{*im.ImageId}}); err != nil {
		t.Errorf("a look at a shared image: %v", err)
	}
	if self := must(other.DescribeImages(ctx, &awsec2.DescribeImagesInput{Owners: []string{"self"}}))(t); len(self.Images) != 0 {
		t.Errorf("the other account owns %d images", len(self.Images))
	}
}

// TestPages: lists are cut, tags are found, and what is added is described.
func TestPagesAndTags(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	var ids []string
	for range 7 {
		v := must(cl.CreateVolume(ctx, &awsec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), VolumeType: "gp3", TagSpecifications: []types.TagSpecification{
			{ResourceType: "volume", Tags: []types.Tag{{Key: aws.String("ingot:build"), Value: aws.String("b/1")}}}}}))(t)
		ids = append(ids, *v.VolumeId)
	}
	seen := 0
	pages := awsec2.NewDescribeVolumesPaginator(cl, &awsec2.DescribeVolumesInput{MaxResults: aws.Int32(5), Filters: []types.Filter{{Name: aws.String("tag:ingot:build"), Values: []string{"b/*"}}}})
	for pages.HasMorePages() {
		p := must(pages.NextPage(ctx))(t)
		if len(p.Volumes) > 5 {
			t.Errorf("a page of %d", len(p.Volumes))
		}
		seen += len(p.Volumes)
	}
	if seen != 7 {
		t.Errorf("%d volumes are seen, want 7", seen)
	}
	must(cl.DeleteTags(ctx, &awsec2.DeleteTagsInput{Resources: ids[:2], Tags: []types.Tag{{Key: aws.String("ingot:build")}}}))(t)
	tags := must(cl.DescribeTags(ctx, &awsec2.DescribeTagsInput{Filters: []types.Filter{{Name: aws.String("resource-type"), Values: []string{"volume"}}}}))(t)
	if len(tags.Tags) != 5 {
		t.Errorf("%d tags, want 5", len(tags.Tags))
	}
	must(cl.ModifyVolume(ctx, &awsec2.ModifyVolumeInput{VolumeId: &ids[0], Size: aws.Int32(2)}))(t)
	m := must(cl.DescribeVolumesModifications(ctx, &awsec2.DescribeVolumesModificationsInput{VolumeIds: ids[:1]}))(t)
	if *m.VolumesModifications[0].TargetSize != 2 || *m.VolumesModifications[0].OriginalSize != 1 {
		t.Errorf("%+v", m.VolumesModifications[0])
	}
	must(cl.EnableEbsEncryptionByDefault(ctx, &awsec2.EnableEbsEncryptionByDefaultInput{}))(t)
	if v := must(cl.CreateVolume(ctx, &awsec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)}))(t); !*v.Encrypted || !strings.HasPrefix(*v.KmsKeyId, "arn:aws:kms:us-east-1:") {
		t.Errorf("by default: %v, %v", *v.Encrypted, v.KmsKeyId)
	}
	if err := c.DropDefaultVPC("us-east-1"); err != nil {
		t.Fatal(err)
	}
	_, err := cl.CreateSecurityGroup(ctx, &awsec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("d")})
	wantCode(t, "a group without a default VPC", err, "VPCIdNotSpecified")
	_, err = cl.RunInstances(ctx, micro(base(t, cl)))
	wantCode(t, "a launch without a default VPC", err, "VPCIdNotSpecified")
	before := len(c.Left())
	c.Baseline()
	if left := c.Left(); before != 8 || len(left) != 0 {
		t.Errorf("%d left before, %v after", before, left)
	}
	old := must(cl.DescribeVolumes(ctx, &awsec2.DescribeVolumesInput{VolumeIds: ids[:1]}))(t).Volumes[0].CreateTime
	c.Backdate(2 * time.Hour)
	now := must(cl.DescribeVolumes(ctx, &awsec2.DescribeVolumesInput{VolumeIds: ids[:1]}))(t).Volumes[0].CreateTime
	if old.Sub(*now) != 2*time.Hour {
		t.Errorf("backdated by %v", old.Sub(*now))
	}
}

// TestClose: what runs ends with the cloud.
func TestClose(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	key := must(cl.CreateKeyPair(ctx, &awsec2.CreateKeyPairInput{KeyName: aws.String("k"), KeyType: types.KeyTypeEd25519}))(t)
	in := micro(base(t, cl))
	in.KeyName, in.SecurityGroupIds = aws.String("k"), []string{openGroup(t, cl, "g")}
	i := waitInstance(t, cl, *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId, types.InstanceStateNameRunning)
	run(t, *i.PublicIpAddress, "admin", *key.KeyMaterial, "true")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if reached(t, *i.PublicIpAddress) {
		t.Error("an instance of a closed cloud is reached")
	}
	if _, err := cl.DescribeRegions(ctx, &awsec2.DescribeRegionsInput{}); err == nil {
		t.Error("a closed cloud answers")
	}
}
