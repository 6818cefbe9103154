package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"golang.org/x/sys/unix"

	cloud "github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// inMotoNet marks the process that runs TestAmazonOnMoto in a network of its own.
const inMotoNet = "INGOT_TEST_IN_MOTO_NET"

// motoAddress is free: the network has nothing else in it.
const motoAddress = "127.0.0.1:5000"

// motoRegions are those that smallAMI bakes for.
var motoRegions = [...]string{"us-east-1", "us-west-2"}

// motoAMIs are the AMIs that moto has from the beginning, in every region.
const (
	motoAMI  = "ami-0123456789abcdef0"
	motoAMIs = `[{"ami_id": "` + motoAMI + `", "name": "debian-12-amd64-20260101-0001", "description": "Debian 12",
  "owner_id": "136693071363", "public": true, "virtualization_type": "hvm", "architecture": "x86_64", "state": "available",
  "image_type": "machine", "hypervisor": "xen", "root_device_type": "ebs", "root_device_name": "/dev/xvda"}]`
)

// Another EC2 emulator takes the same template. What it has not got, machines,
// stands beside it, at the addresses that it gives out.
//
// All of it runs in a network that has nothing but loopback, so that no other
// address could be reached even without the guard.
func TestAmazonOnMoto(t *testing.T) {
	server, err := exec.LookPath("moto_server")
	if err != nil {
		t.Skip("needs moto_server (pip install 'moto[server]'); it is optional, in CI too")
	}
	needSandbox(t)
	runtime.LockOSThread() // the children end with this thread
	if os.Getenv(inMotoNet) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAmazonOnMoto$", "-test.v", "-test.timeout=5m")
		cmd.Env = append(os.Environ(), inMotoNet+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	if err := loopbackUp(); err != nil {
		t.Fatalf("bring loopback up: %v", err)
	}
	m := startMoto(t, server)
	t.Run("bake", m.testBake)
	t.Run("guard", m.testGuard)
}

// loopbackUp brings the loopback device of a new network up.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// moto is a running moto_server.
type moto struct {
	env []string // of programs that bake there
}

func startMoto(t *testing.T, server string) *moto {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"amis.json": motoAMIs})
	var log bytes.Buffer
	host, port, err := net.SplitHostPort(motoAddress)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(server, "-H", host, "-p", port)
	cmd.Env = append(os.Environ(), "MOTO_AMIS_PATH="+filepath.Join(dir, "amis.json"))
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("moto says\n%s", &log)
		}
	})
	for up := time.NewTicker(50 * time.Millisecond); ; {
		if c, err := net.Dial("tcp", motoAddress); err == nil {
			c.Close()
			up.Stop()
			break
		}
		select {
		case <-up.C:
		case <-ended:
			t.Fatalf("moto_server has ended:\n%s", &log)
		}
	}
	m := &moto{}
	gate := httptest.NewServer(m.gate())
	t.Cleanup(gate.Close)
	m.env = []string{
		"AWS_ENDPOINT_URL=" + gate.URL, "AWS_ACCESS_KEY_ID=" + cloud.AccessKey, "AWS_SECRET_ACCESS_KEY=" + cloud.SecretKey, "AWS_SESSION_TOKEN=",
		"AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1", "AWS_PROFILE=", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		"AWS_EC2_METADATA_DISABLED=true", "INGOT_EMULATED_CLOUD=50",
	}
	return m
}

// gate passes calls on to moto, and gives in the way that moto understands what
// moto 5.2 does not take as EC2 does:
//   - CreateImage with tags for the snapshots (not implemented, it says): without them;
//   - DeleteKeyPair by KeyPairId (it deletes nothing, and says that it has): by the name.
func (m *moto) gate() http.Handler {
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: motoAddress})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		form, ferr := url.ParseQuery(string(body))
		if err = errors.Join(err, ferr); err == nil {
			switch form.Get("Action") {
			case "CreateImage":
				for k := range maps.Clone(form) {
					if at, ok := strings.CutSuffix(k, ".ResourceType"); ok && form.Get(k) == "snapshot" {
						maps.DeleteFunc(form, func(k string, _ []string) bool { return strings.HasPrefix(k, at+".") })
					}
				}
				body = []byte(form.Encode())
			case "DeleteKeyPair":
				var keys *ec2.DescribeKeyPairsOutput
				if keys, err = m.ec2("us-east-1").DescribeKeyPairs(r.Context(), &ec2.DescribeKeyPairsInput{Filters: []types.Filter{
					{Name: aws.String("key-pair-id"), Values: []string{form.Get("KeyPairId")}}}}); err == nil && len(keys.KeyPairs) == 1 {
					form.Set("KeyName", *keys.KeyPairs[0].KeyName)
					body = []byte(form.Encode())
				}
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		pass.ServeHTTP(w, r)
	})
}

// config reaches moto itself.
func (*moto) config(region string) aws.Config {
	return aws.Config{Region: region, BaseEndpoint: aws.String("http://" + motoAddress), Credentials: credentials.NewStaticCredentialsProvider(cloud.AccessKey, cloud.SecretKey, "")}
}

func (m *moto) ec2(region string) *ec2.Client { return ec2.NewFromConfig(m.config(region)) }

func (m *moto) testBake(t *testing.T) {
	ctx, c := t.Context(), m.ec2("us-east-1")
	vpc, err := c.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("127.77.0.0/16")})
	if err != nil {
		t.Fatal(err)
	}
	subnet, err := c.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: vpc.Vpc.VpcId, CidrBlock: aws.String("127.77.1.0/24"), AvailabilityZone: aws.String("us-east-1a")})
	if err != nil {
		t.Fatal(err)
	}
	before := m.inventory(t)
	stand := m.standIn(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"small.pkr.hcl": smallWith(t, fmt.Sprintf("subnet_id = %q", *subnet.Subnet.SubnetId))})
	out := ingotDone(t, t.TempDir(), m.env, "build", "-var", "n=moto", "-var", "profile=", filepath.Join(dir, "small.pkr.hcl"))
	for _, region := range motoRegions {
		m.checkImage(t, region)
	}
	var more []string
	for _, x := range m.inventory(t) {
		if !slices.Contains(before, x) {
			more = append(more, x)
		}
	}
	if len(more) > 0 {
		t.Errorf("left there: %q\n%s", more, out)
	}
	disk := stand.ended(t)
	if text, err := disk.ReadFile("opt/small"); err != nil || string(text) != "moto\n" {
		t.Errorf("the disk holds %q; %v", text, err)
	}
	if keys, err := disk.ReadFile("home/admin/.ssh/authorized_keys"); err == nil && len(bytes.TrimSpace(keys)) > 0 {
		t.Errorf("the disk lets somebody in: %s", keys)
	}
}

// smallWith is smallAMI with a further option.
func smallWith(t *testing.T, option string) string {
	t.Helper()
	const after = `  ssh_username  = "admin"` + "\n"
	if !strings.Contains(smallAMI, after) {
		t.Fatal("smallAMI has changed")
	}
	return strings.Replace(smallAMI, after, after+"  "+option+"\n", 1)
}

// checkImage checks the AMI that the bake has made in a region. moto's copies
// have no tags whatever CopyImage was told.
func (m *moto) checkImage(t *testing.T, region string) {
	t.Helper()
	c := m.ec2(region)
	out, err := c.DescribeImages(t.Context(), &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"small-moto"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Images) != 1 || out.Images[0].State != types.ImageStateAvailable {
		t.Fatalf("%s has the AMIs %+v", region, out.Images)
	}
	image := out.Images[0]
	tag := slices.IndexFunc(image.Tags, func(tag types.Tag) bool { return *tag.Key == "Base" && *tag.Value == motoAMI })
	if region == motoRegions[0] && tag < 0 {
		t.Errorf("the AMI has the tags %+v", image.Tags)
	}
	shared, err := c.DescribeImageAttribute(t.Context(), &ec2.DescribeImageAttributeInput{ImageId: image.ImageId, Attribute: types.ImageAttributeNameLaunchPermission})
	if err != nil {
		t.Fatal(err)
	}
	if p := shared.LaunchPermissions; len(p) != 1 || aws.ToString(p[0].UserId) != "111122223333" {
		t.Errorf("%s in %s is shared with %+v", *image.ImageId, region, p)
	}
}

// Where no subnet is asked for, moto gives the instance a public address.
func (m *moto) testGuard(t *testing.T) {
	before := m.inventory(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"small.pkr.hcl": smallWith(t, `ssh_timeout = "10s"`)})
	cmd, out := ingotIn(t.TempDir(), m.env, "build", "-var", "n=guard", "-var", "profile=", filepath.Join(dir, "small.pkr.hcl"))
	err := cmd.Run()
	if said := regexp.MustCompile(`loopback addresses only, not to 54\.214\.[0-9]+\.[0-9]+:22\b`); err == nil || !said.MatchString(out.String()) {
		t.Errorf("it does not say that the guard refused the address: %v\n%s", err, out)
	}
	if after := m.inventory(t); !slices.Equal(before, after) {
		t.Errorf("there was %q\nthere is %q", before, after)
	}
}

// inventory is what a bake makes there but its AMIs and their snapshots. What
// EC2 ends with an instance by itself is not in it: moto keeps the network interface.
func (m *moto) inventory(t *testing.T) (all []string) {
	t.Helper()
	ctx := t.Context()
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, region := range motoRegions {
		c := m.ec2(region)
		add := func(kind string, id *string) { all = append(all, region+" "+kind+" "+aws.ToString(id)) }
		instances, err := c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
		fail(err)
		for _, r := range instances.Reservations {
			for _, i := range r.Instances {
				if i.State.Name != types.InstanceStateNameTerminated {
					add("instance", i.InstanceId)
				}
			}
		}
		volumes, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{})
		fail(err)
		for _, v := range volumes.Volumes {
			add("volume", v.VolumeId)
		}
		groups, err := c.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
		fail(err)
		for _, g := range groups.SecurityGroups {
			add("security group", g.GroupId)
		}
		keys, err := c.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{})
		fail(err)
		for _, k := range keys.KeyPairs {
			add("key pair", k.KeyPairId)
		}
	}
	c := iam.NewFromConfig(m.config("us-east-1"))
	roles, err := c.ListRoles(ctx, &iam.ListRolesInput{})
	fail(err)
	for _, r := range roles.Roles {
		all = append(all, "role "+aws.ToString(r.RoleName))
	}
	profiles, err := c.ListInstanceProfiles(ctx, &iam.ListInstanceProfilesInput{})
	fail(err)
	for _, p := range profiles.InstanceProfiles {
		all = append(all, "instance profile "+aws.ToString(p.InstanceProfileName))
	}
	return all
}

// standIn is the machine behind the one instance that moto has.
type standIn struct {
	host   *machines.Host
	client *ec2.Client
	done   chan struct{} // closed when the machine has run and was stopped, or err is set

	volume *machines.Volume
	err    error
}

// standIn boots a machine for the first instance that moto has, as far as moto
// knows how, until the instance is stopped.
func (m *moto) standIn(t *testing.T) *standIn {
	t.Helper()
	host, err := machines.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{host: host, client: m.ec2("us-east-1"), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(s.done)
		s.err = s.follow(ctx)
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ended is what the machine's disk held when it was stopped.
func (s *standIn) ended(t *testing.T) *machines.Content {
	t.Helper()
	<-s.done
	if s.err != nil {
		t.Fatal(s.err)
	}
	c, err := s.volume.Content()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *standIn) follow(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var machine *machines.Machine
	for {
		out, err := s.client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
		if err != nil {
			return err
		}
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				running := i.State.Name == types.InstanceStateNameRunning
				switch {
				case machine == nil && running:
					if machine, err = s.boot(ctx, i); err != nil {
						return err
					}
				case machine != nil && !running:
					return machine.Stop(ctx)
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("no instance was stopped")
		}
	}
}

// boot boots a machine from what moto knows of an instance, at its address.
func (s *standIn) boot(ctx context.Context, i types.Instance) (*machines.Machine, error) {
	cfg := machines.Config{ID: *i.InstanceId, User: "admin"}
	data, err := s.client.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: i.InstanceId, Attribute: types.InstanceAttributeNameUserData})
	if err != nil {
		return nil, err
	}
	if cfg.UserData, err = base64.StdEncoding.DecodeString(aws.ToString(data.UserData.Value)); err != nil {
		return nil, fmt.Errorf("the user data: %w", err)
	}
	keys, err := s.client.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{*i.KeyName}, IncludePublicKey: aws.Bool(true)})
	if err != nil {
		return nil, err
	}
	for _, k := range keys.KeyPairs {
		cfg.Keys = append(cfg.Keys, aws.ToString(k.PublicKey))
	}
	address, err := netip.ParseAddr(aws.ToString(i.PrivateIpAddress))
	if err != nil || !address.IsLoopback() {
		return nil, fmt.Errorf("the instance has the address %v, which is no loopback one; %v", address, err)
	}
	if s.volume, err = s.host.NewVolume(s.host.HostContent(), 8<<30); err != nil {
		return nil, err
	}
	cfg.Root = s.volume
	m, err := s.host.Boot(ctx, cfg)
	if err != nil {
		return nil, err
	}
	_, err = m.Serve(address, []int{22}, nil)
	return m, err
}
