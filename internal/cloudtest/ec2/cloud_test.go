//go:build linux

package ec2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsec2 "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}

func start(t *testing.T, o ec2.Options) *ec2.Cloud {
	t.Helper()
	sandboxtest.Need(t)
	o.Dir = t.TempDir()
	c, err := ec2.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, err := range c.Problems() {
			t.Errorf("the emulator: %v", err)
		}
	})
	return c
}

// conf is a client's configuration that takes nothing from this machine.
func conf(c *ec2.Cloud, region string) aws.Config {
	return aws.Config{Region: region, BaseEndpoint: aws.String(c.URL()), Credentials: credentials.NewStaticCredentialsProvider(ec2.AccessKey, ec2.SecretKey, ""),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} }}
}

func client(c *ec2.Cloud, region string) *awsec2.Client { return awsec2.NewFromConfig(conf(c, region)) }

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func code(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

func wantCode(t *testing.T, what string, err error, want string) {
	t.Helper()
	if code(err) != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, f func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := f()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after two minutes", what)
		case <-tick.C:
		}
	}
}

func instanceOf(t *testing.T, cl *awsec2.Client, id string) types.Instance {
	t.Helper()
	out := must(cl.DescribeInstances(t.Context(), &awsec2.DescribeInstancesInput{InstanceIds: []string{id}}))(t)
	return out.Reservations[0].Instances[0]
}

func waitInstance(t *testing.T, cl *awsec2.Client, id string, want types.InstanceStateName) types.Instance {
	t.Helper()
	var i types.Instance
	eventually(t, id+" "+string(want), func() (bool, error) {
		i = instanceOf(t, cl, id)
		if i.State.Name == types.InstanceStateNameTerminated && want != types.InstanceStateNameTerminated {
			return false, errors.New(aws.ToString(i.StateReason.Message))
		}
		return i.State.Name == want, nil
	})
	return i
}

func waitImage(t *testing.T, cl *awsec2.Client, id string) types.Image {
	t.Helper()
	var i types.Image
	eventually(t, id+" available", func() (bool, error) {
		out, err := cl.DescribeImages(t.Context(), &awsec2.DescribeImagesInput{ImageIds: []string{id}})
		if err != nil {
			return false, err
		}
		i = out.Images[0]
		if i.State == types.ImageStateFailed {
			return false, errors.New(aws.ToString(i.StateReason.Message))
		}
		return i.State == types.ImageStateAvailable, nil
	})
	return i
}

// base is the image of this machine's own root.
func base(t *testing.T, cl *awsec2.Client) types.Image {
	t.Helper()
	out := must(cl.DescribeImages(t.Context(), &awsec2.DescribeImagesInput{Owners: []string{"136693071363"}, Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"debian-12-amd64-*"}}}}))(t)
	if len(out.Images) != 1 {
		t.Fatalf("%d base images", len(out.Images))
	}
	return out.Images[0]
}

// run runs a command in an instance over SSH.
func run(t *testing.T, host, user, key, command string) string {
	t.Helper()
	out, err := try(t, host, user, key, command)
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

// try is run for a command that may fail. That the instance is reached it waits for.
func try(t *testing.T, host, user, key, command string) (string, error) {
	t.Helper()
	signer := must(ssh.ParsePrivateKey([]byte(key)))(t)
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		t.Fatalf("%q is no loopback address", host)
	}
	var c *ssh.Client
	eventually(t, "SSH to "+host, func() (bool, error) {
		var err error
		c, err = ssh.Dial("tcp", net.JoinHostPort(host, "22"), &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second})
		return err == nil, nil
	})
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, err := s.CombinedOutput(command)
	return strings.TrimSpace(string(out)), err
}

// openGroup is a group that admits this host to port 22.
func openGroup(t *testing.T, cl *awsec2.Client, name string) string {
	t.Helper()
	g := must(cl.CreateSecurityGroup(t.Context(), &awsec2.CreateSecurityGroupInput{GroupName: &name, Description: aws.String("for a test")}))(t)
	must(cl.AuthorizeSecurityGroupIngress(t.Context(), &awsec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: []types.IpPermission{
		{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1/32")}}}}}))(t)
	return *g.GroupId
}

func TestBake(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	img := base(t, cl)
	key := must(cl.CreateKeyPair(ctx, &awsec2.CreateKeyPairInput{KeyName: aws.String("k"), KeyType: types.KeyTypeEd25519}))(t)
	group := openGroup(t, cl, "g")
	launch := func(image, userData string) types.Instance {
		t.Helper()
		in := &awsec2.RunInstancesInput{ImageId: &image, InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1), KeyName: aws.String("k"), SecurityGroupIds: []string{group},
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: []types.Tag{{Key: aws.String("ingot:build"), Value: aws.String("b1")}}}}}
		if userData != "" {
			in.UserData = &userData
		}
		out := must(cl.RunInstances(ctx, in))(t)
		return waitInstance(t, cl, *out.Instances[0].InstanceId, types.InstanceStateNameRunning)
	}
	i := launch(*img.ImageId, "")
	if got := run(t, *i.PublicIpAddress, "admin", *key.KeyMaterial, "id -un; echo baked | sudo tee /opt/by-hand"); got != "admin\nbaked" {
		t.Errorf("the first instance said %q", got)
	}
	if got := run(t, *i.PrivateIpAddress, "admin", *key.KeyMaterial, "cat /opt/by-hand"); got != "baked" {
		t.Errorf("at the private address: %q", got)
	}
	eventually(t, "the console", func() (bool, error) {
		out, err := cl.GetConsoleOutput(ctx, &awsec2.GetConsoleOutputInput{InstanceId: i.InstanceId})
		return err == nil && aws.ToString(out.Output) != "", err
	})
	must(cl.StopInstances(ctx, &awsec2.StopInstancesInput{InstanceIds: []string{*i.InstanceId}}))(t)
	waitInstance(t, cl, *i.InstanceId, types.InstanceStateNameStopped)
	made := must(cl.CreateImage(ctx, &awsec2.CreateImageInput{InstanceId: i.InstanceId, Name: aws.String("web 1"), TagSpecifications: []types.TagSpecification{
		{ResourceType: types.ResourceTypeImage, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("1")}}}}}))(t)
	ami := waitImage(t, cl, *made.ImageId)
	if aws.ToString(ami.BlockDeviceMappings[0].Ebs.SnapshotId) == "" || len(ami.Tags) != 1 || ami.CreationDate == nil {
		t.Errorf("the image is %+v", ami)
	}
	if b, err := c.ReadFile("us-east-1", *made.ImageId, "/opt/by-hand"); err != nil || string(b) != "baked\n" {
		t.Errorf("in the image: %q, %v", b, err)
	}
	west := client(c, "us-west-2")
	cp := must(west.CopyImage(ctx, &awsec2.CopyImageInput{SourceRegion: aws.String("us-east-1"), SourceImageId: made.ImageId, Name: aws.String("web 1")}))(t)
	waitImage(t, west, *cp.ImageId)
	if b, err := c.ReadFile("us-west-2", *cp.ImageId, "/opt/by-hand"); err != nil || string(b) != "baked\n" {
		t.Errorf("in the copy: %q, %v", b, err)
	}
	must(cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{*i.InstanceId}}))(t)
	second := launch(*made.ImageId, "")
	if got := run(t, *second.PublicIpAddress, "admin", *key.KeyMaterial, "cat /opt/by-hand"); got != "baked" {
		t.Errorf("the second instance said %q", got)
	}
	_, err := cl.DeleteSecurityGroup(ctx, &awsec2.DeleteSecurityGroupInput{GroupId: &group})
	wantCode(t, "deleting a group in use", err, "DependencyViolation")
	must(cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{*second.InstanceId}}))(t)
	waitInstance(t, cl, *second.InstanceId, types.InstanceStateNameTerminated)
	waitInstance(t, cl, *i.InstanceId, types.InstanceStateNameTerminated)
	must(cl.DeleteSecurityGroup(ctx, &awsec2.DeleteSecurityGroupInput{GroupId: &group}))(t)
	must(cl.DeleteKeyPair(ctx, &awsec2.DeleteKeyPairInput{KeyName: aws.String("k")}))(t)
	for _, l := range []struct {
		cl *awsec2.Client
		id string
	}{{cl, *made.ImageId}, {west, *cp.ImageId}} {
		must(l.cl.DeregisterImage(ctx, &awsec2.DeregisterImageInput{ImageId: &l.id, DeleteAssociatedSnapshots: aws.Bool(true)}))(t)
	}
	if left := c.Left(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// reached says whether a connection to an instance's SSH server brings a banner.
func reached(t *testing.T, host string) bool {
	t.Helper()
	return banner(host)
}

func banner(host string) bool {
	c, err := net.Dial("tcp", net.JoinHostPort(host, "22"))
	if err != nil {
		return false
	}
	defer c.Close()
	b := make([]byte, 4)
	n, _ := io.ReadFull(c, b)
	return n == 4 && string(b) == "SSH-"
}

// BenchmarkFifty launches fifty machines side by side, waits until each answers
// over SSH, and images and terminates them: what the emulator itself costs.
func BenchmarkFifty(b *testing.B) {
	sandboxtest.Need(b)
	c, err := ec2.New(ec2.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	cl, ctx := client(c, "us-east-1"), b.Context()
	images, err := cl.DescribeImages(ctx, &awsec2.DescribeImagesInput{Owners: []string{"136693071363"}})
	if err != nil {
		b.Fatal(err)
	}
	g, err := cl.CreateSecurityGroup(ctx, &awsec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("d")})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := cl.AuthorizeSecurityGroupIngress(ctx, &awsec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId, CidrIp: aws.String("127.0.0.0/8"), IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22)}); err != nil {
		b.Fatal(err)
	}
	for n := 0; b.Loop(); n++ {
		var all sync.WaitGroup
		for m := range 50 {
			all.Go(func() {
				out, err := cl.RunInstances(ctx, &awsec2.RunInstancesInput{ImageId: images.Images[0].ImageId, InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SecurityGroupIds: []string{*g.GroupId}})
				if err != nil {
					b.Error(err)
					return
				}
				id := *out.Instances[0].InstanceId
				for {
					d, err := cl.DescribeInstances(ctx, &awsec2.DescribeInstancesInput{InstanceIds: []string{id}})
					if err != nil {
						b.Error(err)
						return
					}
					if a := d.Reservations[0].Instances[0].PublicIpAddress; a != nil && banner(*a) {
						break
					}
					time.Sleep(100 * time.Millisecond) // a poll
				}
				if _, err := cl.CreateImage(ctx, &awsec2.CreateImageInput{InstanceId: &id, Name: aws.String(fmt.Sprintf("image %d %d", n, m)), NoReboot: aws.Bool(true)}); err != nil {
					b.Error(err)
				}
				if _, err := cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	for _, err := range c.Problems() {
		b.Error(err)
	}
}
