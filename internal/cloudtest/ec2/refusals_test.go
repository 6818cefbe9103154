//go:build linux

package ec2_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsec2 "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
)

func TestRefusals(t *testing.T) {
	c := start(t, ec2.Options{Durations: ec2.Durations{Image: 0}})
	cl, ctx := client(c, "us-east-1"), t.Context()
	img := base(t, cl)
	good := func(change func(*awsec2.RunInstancesInput)) func() error {
		return func() error {
			in := &awsec2.RunInstancesInput{ImageId: img.ImageId, InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1), DryRun: aws.Bool(true)}
			change(in)
			_, err := cl.RunInstances(ctx, in)
			return err
		}
	}
	root := func(e types.EbsBlockDevice) func() error {
		return good(func(in *awsec2.RunInstancesInput) {
			in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: img.RootDeviceName, Ebs: &e}}
		})
	}
	vol := func(change func(*awsec2.CreateVolumeInput)) func() error {
		return func() error {
			in := &awsec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(8), DryRun: aws.Bool(true)}
			change(in)
			_, err := cl.CreateVolume(ctx, in)
			return err
		}
	}
	host := ec2.HostInstance
	image := func(change func(*awsec2.CreateImageInput)) func() error {
		return func() error {
			in := &awsec2.CreateImageInput{InstanceId: &host, Name: aws.String("fine"), DryRun: aws.Bool(true)}
			change(in)
			_, err := cl.CreateImage(ctx, in)
			return err
		}
	}
	group := openGroup(t, cl, "taken")
	ingress := func(p types.IpPermission) func() error {
		return func() error {
			_, err := cl.AuthorizeSecurityGroupIngress(ctx, &awsec2.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{p}})
			return err
		}
	}
	// An encrypted image with the default key, for what may not be shared.
	v := must(cl.CreateVolume(ctx, &awsec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), Encrypted: aws.Bool(true)}))(t)
	snap := must(cl.CreateSnapshot(ctx, &awsec2.CreateSnapshotInput{VolumeId: v.VolumeId}))(t)
	eventually(t, "the snapshot", func() (bool, error) {
		out, err := cl.DescribeSnapshots(ctx, &awsec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap.SnapshotId}})
		return err == nil && out.Snapshots[0].State == types.SnapshotStateCompleted, err
	})
	secret := must(cl.RegisterImage(ctx, &awsec2.RegisterImageInput{Name: aws.String("secret"), Architecture: types.ArchitectureValuesX8664, RootDeviceName: aws.String("/dev/xvda"), VirtualizationType: aws.String("hvm"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: snap.SnapshotId}}}}))(t)
	share := func(p types.LaunchPermission) func() error {
		return func() error {
			_, err := cl.ModifyImageAttribute(ctx, &awsec2.ModifyImageAttributeInput{ImageId: secret.ImageId, LaunchPermission: &types.LaunchPermissionModifications{Add: []types.LaunchPermission{p}}})
			return err
		}
	}
	many := make([]types.Tag, 51)
	for i := range many {
		many[i] = types.Tag{Key: aws.String(strings.Repeat("k", i+1)), Value: aws.String("v")}
	}
	for _, r := range []struct {
		what string
		call func() error
		code string
	}{
		{"a launch that is fine", good(func(*awsec2.RunInstancesInput) {}), "DryRunOperation"},
		{"empty strings", good(func(in *awsec2.RunInstancesInput) {
			in.SubnetId, in.UserData, in.KernelId = aws.String(""), aws.String(""), aws.String("")
			in.Placement = &types.Placement{AvailabilityZone: aws.String("")}
			in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("")}
		}), "DryRunOperation"},
		{"an image that is not there", good(func(in *awsec2.RunInstancesInput) { in.ImageId = aws.String("ami-00000000000000000") }), "InvalidAMIID.NotFound"},
		{"a malformed image id", good(func(in *awsec2.RunInstancesInput) { in.ImageId = aws.String("ami-xyz") }), "InvalidAMIID.Malformed"},
		{"an unknown type", good(func(in *awsec2.RunInstancesInput) { in.InstanceType = "t9.huge" }), "InvalidParameterValue"},
		{"the wrong architecture", good(func(in *awsec2.RunInstancesInput) { in.InstanceType = "t4g.micro" }), "InvalidParameterValue"},
		{"a type that the zone has not", good(func(in *awsec2.RunInstancesInput) {
			in.InstanceType, in.Placement = "m7i.large", &types.Placement{AvailabilityZone: aws.String("us-east-1a")}
		}), "Unsupported"},
		{"a zone of another region", good(func(in *awsec2.RunInstancesInput) {
			in.Placement = &types.Placement{AvailabilityZone: aws.String("us-west-2a")}
		}), "InvalidParameterValue"},
		{"an unknown key", good(func(in *awsec2.RunInstancesInput) { in.KeyName = aws.String("nobody") }), "InvalidKeyPair.NotFound"},
		{"groups beside an interface", good(func(in *awsec2.RunInstancesInput) {
			in.SecurityGroupIds = []string{group}
			in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0)}}
		}), "InvalidParameterCombination"},
		{"an unknown group", good(func(in *awsec2.RunInstancesInput) { in.SecurityGroupIds = []string{"sg-00000000000000000"} }), "InvalidGroup.NotFound"},
		{"user data that is no base64", good(func(in *awsec2.RunInstancesInput) { in.UserData = aws.String("#!/bin/sh") }), "InvalidUserData.Malformed"},
		{"too much user data", good(func(in *awsec2.RunInstancesInput) {
			in.UserData = aws.String(base64.StdEncoding.EncodeToString(make([]byte, 16385)))
		}), "InvalidParameterValue"},
		{"an unknown profile", good(func(in *awsec2.RunInstancesInput) {
			in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("nobody")}
		}), "InvalidParameterValue"},
		{"65 hops", good(func(in *awsec2.RunInstancesInput) {
			in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpPutResponseHopLimit: aws.Int32(65)}
		}), "InvalidParameterValue"},
		{"credits of a type that has none", good(func(in *awsec2.RunInstancesInput) {
			in.InstanceType, in.CreditSpecification = "m5.large", &types.CreditSpecificationRequest{CpuCredits: aws.String("standard")}
		}), "InvalidParameterCombination"},
		{"a spot price below the market's", good(func(in *awsec2.RunInstancesInput) {
			in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: "spot", SpotOptions: &types.SpotMarketOptions{MaxPrice: aws.String("0.0001")}}
		}), "SpotMaxPriceTooLow"},
		{"tags of what is not made", good(func(in *awsec2.RunInstancesInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: "image", Tags: many[:1]}}
		}), "InvalidParameterValue"},
		{"51 tags", good(func(in *awsec2.RunInstancesInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: many}}
		}), "TagLimitExceeded"},
		{"a reserved tag", good(func(in *awsec2.RunInstancesInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("aws:x"), Value: aws.String("1")}}}}
		}), "InvalidParameterValue"},
		{"a key without encryption", root(types.EbsBlockDevice{Encrypted: aws.Bool(false), KmsKeyId: aws.String("alias/x")}), "InvalidParameterDependency"},
		{"iops of gp2", root(types.EbsBlockDevice{VolumeType: "gp2", Iops: aws.Int32(300)}), "InvalidParameterCombination"},
		{"io1 without iops", root(types.EbsBlockDevice{VolumeType: "io1"}), "MissingParameter"},
		{"a root smaller than its snapshot", root(types.EbsBlockDevice{VolumeSize: aws.Int32(1)}), "InvalidBlockDeviceMapping"},
		{"another snapshot at the root", root(types.EbsBlockDevice{SnapshotId: snap.SnapshotId}), "InvalidBlockDeviceMapping"},
		{"throughput of io1", vol(func(in *awsec2.CreateVolumeInput) {
			in.VolumeType, in.Iops, in.Throughput = "io1", aws.Int32(100), aws.Int32(125)
		}), "InvalidParameterCombination"},
		{"too many iops a GiB", vol(func(in *awsec2.CreateVolumeInput) { in.VolumeType, in.Iops = "io1", aws.Int32(500) }), "InvalidParameterCombination"},
		{"a volume without size", vol(func(in *awsec2.CreateVolumeInput) { in.Size = nil }), "MissingParameter"},
		{"a volume in no zone", vol(func(in *awsec2.CreateVolumeInput) { in.AvailabilityZone = aws.String("mars-1a") }), "InvalidZone.NotFound"},
		{"a volume of no snapshot", vol(func(in *awsec2.CreateVolumeInput) { in.SnapshotId = aws.String("snap-00000000000000000") }), "InvalidSnapshot.NotFound"},
		{"an image name with a colon", image(func(in *awsec2.CreateImageInput) { in.Name = aws.String("a:b") }), "InvalidAMIName.Malformed"},
		{"an image name that is too short", image(func(in *awsec2.CreateImageInput) { in.Name = aws.String("ab") }), "InvalidAMIName.Malformed"},
		{"an image name that is taken", image(func(in *awsec2.CreateImageInput) { in.Name = aws.String("secret") }), "InvalidAMIName.Duplicate"},
		{"encryption in CreateImage", image(func(in *awsec2.CreateImageInput) {
			in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: img.RootDeviceName, Ebs: &types.EbsBlockDevice{Encrypted: aws.Bool(true)}}}
		}), "InvalidBlockDeviceMapping"},
		{"an instance that is not there", image(func(in *awsec2.CreateImageInput) { in.InstanceId = aws.String("i-00000000000000000") }), "InvalidInstanceID.NotFound"},
		{"sharing what the default key encrypts", share(types.LaunchPermission{UserId: aws.String("210987654321")}), "InvalidParameter"},
		{"publishing what is encrypted", share(types.LaunchPermission{Group: "all"}), "InvalidParameterCombination"},
		{"sharing with no account", share(types.LaunchPermission{UserId: aws.String("me")}), "InvalidAMIAttributeItemValue"},
		{"sharing a snapshot that the default key encrypts", func() error {
			_, err := cl.ModifySnapshotAttribute(ctx, &awsec2.ModifySnapshotAttributeInput{SnapshotId: snap.SnapshotId, Attribute: "createVolumePermission", OperationType: "add", UserIds: []string{"210987654321"}})
			return err
		}, "OperationNotPermitted"},
		{"a snapshot that an image has", func() error {
			_, err := cl.DeleteSnapshot(ctx, &awsec2.DeleteSnapshotInput{SnapshotId: snap.SnapshotId})
			return err
		}, "InvalidSnapshot.InUse"},
		{"an unencrypted copy of what is encrypted", func() error {
			_, err := client(c, "us-west-2").CopyImage(ctx, &awsec2.CopyImageInput{SourceImageId: secret.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("plain"), Encrypted: aws.Bool(false)})
			return err
		}, "InvalidRequest"},
		{"a copy from a region that is none", func() error {
			_, err := cl.CopyImage(ctx, &awsec2.CopyImageInput{SourceImageId: secret.ImageId, SourceRegion: aws.String("mars-1"), Name: aws.String("plain")})
			return err
		}, "InvalidRequest"},
		{"paravirtual", func() error {
			_, err := cl.RegisterImage(ctx, &awsec2.RegisterImageInput{Name: aws.String("old"), RootDeviceName: aws.String("/dev/sda1"), BlockDeviceMappings: []types.BlockDeviceMapping{
				{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{SnapshotId: snap.SnapshotId}}}})
			return err
		}, "UnsupportedOperation"},
		{"an image whose root has no snapshot", func() error {
			_, err := cl.RegisterImage(ctx, &awsec2.RegisterImageInput{Name: aws.String("rootless"), VirtualizationType: aws.String("hvm"), Architecture: "x86_64", RootDeviceName: aws.String("/dev/sda1"),
				BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdb"), Ebs: &types.EbsBlockDevice{SnapshotId: snap.SnapshotId}}}})
			return err
		}, "InvalidBlockDeviceMapping"},
		{"a group name that is taken", func() error {
			_, err := cl.CreateSecurityGroup(ctx, &awsec2.CreateSecurityGroupInput{GroupName: aws.String("taken"), Description: aws.String("d")})
			return err
		}, "InvalidGroup.Duplicate"},
		{"a group of no VPC", func() error {
			_, err := cl.CreateSecurityGroup(ctx, &awsec2.CreateSecurityGroupInput{GroupName: aws.String("g2"), Description: aws.String("d"), VpcId: aws.String("vpc-00000000")})
			return err
		}, "InvalidVpcID.NotFound"},
		{"a rule that is there", ingress(types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1/32")}}}), "InvalidPermission.Duplicate"},
		{"a malformed block", ingress(types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1")}}}), "InvalidParameterValue"},
		{"a rule without a source", ingress(types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22)}), "MissingParameter"},
		{"tcp without ports", ingress(types.IpPermission{IpProtocol: aws.String("tcp"), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1/32")}}}), "InvalidParameterValue"},
		{"a key that is none", func() error {
			_, err := cl.ImportKeyPair(ctx, &awsec2.ImportKeyPairInput{KeyName: aws.String("k"), PublicKeyMaterial: []byte("ssh-dss AAAA")})
			return err
		}, "InvalidKey.Format"},
		{"an unknown filter", func() error {
			_, err := cl.DescribeImages(ctx, &awsec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("colour"), Values: []string{"red"}}}})
			return err
		}, "InvalidParameterValue"},
		{"an unknown filter of what there is none of", func() error {
			_, err := cl.DescribeKeyPairs(ctx, &awsec2.DescribeKeyPairsInput{Filters: []types.Filter{{Name: aws.String("colour"), Values: []string{"red"}}}})
			return err
		}, "InvalidParameterValue"},
		{"an unknown region", func() error {
			_, err := cl.DescribeRegions(ctx, &awsec2.DescribeRegionsInput{RegionNames: []string{"mars-1"}})
			return err
		}, "InvalidParameterValue"},
		{"terminating this host", func() error {
			_, err := cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{host}})
			return err
		}, "OperationNotPermitted"},
		{"deprecation in the past", func() error {
			_, err := cl.EnableImageDeprecation(ctx, &awsec2.EnableImageDeprecationInput{ImageId: secret.ImageId, DeprecateAt: aws.Time(time.Now().Add(-time.Hour))})
			return err
		}, "InvalidParameterValue"},
		{"another account's image", func() error {
			_, err := cl.DeregisterImage(ctx, &awsec2.DeregisterImageInput{ImageId: img.ImageId})
			return err
		}, "AuthFailure"},
		{"fast launch of Linux", func() error {
			_, err := cl.EnableFastLaunch(ctx, &awsec2.EnableFastLaunchInput{ImageId: secret.ImageId})
			return err
		}, "InvalidParameter"},
		{"an action that there is not", func() error {
			_, err := cl.CreateNatGateway(ctx, &awsec2.CreateNatGatewayInput{SubnetId: aws.String("subnet-00000000")})
			return err
		}, "InvalidAction"},
		{"an unknown access key", func() error {
			cf := conf(c, "us-east-1")
			cf.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKIANOBODY", SecretAccessKey: "x"}, nil
			})
			_, err := awsec2.NewFromConfig(cf).DescribeRegions(ctx, &awsec2.DescribeRegionsInput{})
			return err
		}, "AuthFailure"},
	} {
		wantCode(t, r.what, r.call(), r.code)
	}
	must(cl.EnableImageDeregistrationProtection(ctx, &awsec2.EnableImageDeregistrationProtectionInput{ImageId: secret.ImageId}))(t)
	_, err := cl.DeregisterImage(ctx, &awsec2.DeregisterImageInput{ImageId: secret.ImageId})
	wantCode(t, "a protected image", err, "OperationNotPermitted")
}
