//go:build linux

package ec2_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	awsec2 "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

func b64(s string) *string { return aws.String(base64.StdEncoding.EncodeToString([]byte(s))) }

// TestUserData: what cloud-init does is done, and the instance may end itself.
func TestUserData(t *testing.T) {
	c := start(t, ec2.Options{})
	cl, ctx := client(c, "us-east-1"), t.Context()
	key := must(cl.CreateKeyPair(ctx, &awsec2.CreateKeyPairInput{KeyName: aws.String("k"), KeyType: types.KeyTypeEd25519}))(t)
	in := micro(base(t, cl))
	in.KeyName, in.SecurityGroupIds, in.UserData = aws.String("k"), []string{openGroup(t, cl, "g")}, b64("#cloud-config\nruncmd:\n- echo done >/etc/by-cloud-init\n")
	in.InstanceInitiatedShutdownBehavior = types.ShutdownBehaviorTerminate
	i := waitInstance(t, cl, *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId, types.InstanceStateNameRunning)
	if got := run(t, *i.PublicIpAddress, "admin", *key.KeyMaterial, "cat /etc/by-cloud-init"); got != "done" {
		t.Errorf("%q", got)
	}
	// The connection may go before the command's status comes.
	_, _ = try(t, *i.PublicIpAddress, "admin", *key.KeyMaterial, "sudo poweroff")
	i = waitInstance(t, cl, *i.InstanceId, types.InstanceStateNameTerminated)
	if *i.StateReason.Code != "Client.InstanceInitiatedShutdown" {
		t.Errorf("the reason is %+v", i.StateReason)
	}
	eventually(t, "its volumes are gone", func() (bool, error) {
		return !strings.Contains(ec2Things(c.Left()), "volume "), nil
	})
}

func ec2Things(list []ec2.Thing) string {
	var b strings.Builder
	for _, l := range list {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

func TestMetadata(t *testing.T) {
	c := start(t, ec2.Options{})
	for _, e := range append(c.Env(), c.MetadataEnv()...) {
		n, v, _ := strings.Cut(e, "=")
		t.Setenv(n, v)
	}
	cf := must(config.LoadDefaultConfig(t.Context()))(t)
	m := imds.NewFromConfig(cf, func(o *imds.Options) { o.Endpoint = c.MetadataURL(); o.ClientEnableState = imds.ClientEnabled })
	doc := must(m.GetInstanceIdentityDocument(t.Context(), nil))(t)
	if doc.InstanceID != ec2.HostInstance || doc.Region != "us-east-1" || doc.AvailabilityZone != "us-east-1a" {
		t.Errorf("the document says %+v", doc)
	}
	i := instanceOf(t, client(c, "us-east-1"), ec2.HostInstance)
	if i.State.Name != types.InstanceStateNameRunning || *i.Placement.AvailabilityZone != doc.AvailabilityZone {
		t.Errorf("this host is %+v", i)
	}
	resp := must(http.Get(c.MetadataURL() + "/latest/meta-data/instance-id"))(t)
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %s", resp.Status)
	}
	// Its role gives credentials that the cloud knows.
	for _, n := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		if err := os.Unsetenv(n); err != nil {
			t.Fatal(err)
		}
	}
	cf = must(config.LoadDefaultConfig(t.Context()))(t)
	who := must(sts.NewFromConfig(cf).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}))(t)
	if !strings.Contains(*who.Arn, ":assumed-role/bakery/"+ec2.HostInstance) {
		t.Errorf("the caller is %s", *who.Arn)
	}
}

// TestChrootWay makes an image as amazon-chroot does: a volume attached to this
// host, mounted and written, and a snapshot of it registered.
func TestChrootWay(t *testing.T) {
	if os.Getuid() != 0 {
		sandboxtest.Missing(t, "needs root, to attach and mount volumes")
	}
	for _, nvme := range []bool{false, true} {
		c := start(t, ec2.Options{NVMe: nvme, Images: []ec2.BaseImage{ec2.HostImage(), {Name: "small", Owner: "136693071363", Tree: smallTree(t), User: "root", Size: 1}}})
		cl, ctx := client(c, "us-east-1"), t.Context()
		small := must(cl.DescribeImages(ctx, &awsec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"small"}}}}))(t).Images[0]
		v := must(cl.CreateVolume(ctx, &awsec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), SnapshotId: small.BlockDeviceMappings[0].Ebs.SnapshotId}))(t)
		must(cl.AttachVolume(ctx, &awsec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: aws.String(ec2.HostInstance), Device: aws.String("/dev/sdf")}))(t)
		state := func() types.Volume {
			return must(cl.DescribeVolumes(ctx, &awsec2.DescribeVolumesInput{VolumeIds: []string{*v.VolumeId}}))(t).Volumes[0]
		}
		eventually(t, "attached", func() (bool, error) {
			s := state()
			return len(s.Attachments) == 1 && s.Attachments[0].State == types.VolumeAttachmentStateAttached, nil
		})
		name := "xvdf"
		if nvme {
			name = "disk/by-id/nvme-Amazon_Elastic_Block_Store_" + strings.Replace(*v.VolumeId, "-", "", 1)
			if to, err := os.Readlink(filepath.Join(c.DeviceDir(), "nvme1n1")); err != nil || !strings.HasPrefix(to, "/dev/") {
				t.Errorf("nvme1n1 leads to %q, %v", to, err)
			}
		}
		at := t.TempDir()
		command(t, "mount", filepath.Join(c.DeviceDir(), name), at)
		b, err := os.ReadFile(filepath.Join(at, "etc/small"))
		if err != nil || string(b) != "small\n" {
			t.Errorf("on the volume: %q, %v", b, err)
		}
		if err := os.WriteFile(filepath.Join(at, "etc/baked"), []byte("here\n"), 0o600); err != nil {
			t.Error(err)
		}
		first := "xvdf1"
		if nvme {
			first = "nvme1n1p1"
		}
		if _, err := os.Stat(filepath.Join(c.DeviceDir(), first)); !os.IsNotExist(err) {
			t.Errorf("a volume without partitions has one: %v", err)
		}
		if to, err := os.Readlink(filepath.Join(c.DeviceDir(), first)); err != nil || !strings.HasSuffix(to, "p1") {
			t.Errorf("%s will lead to %q, %v", first, to, err)
		}
		must(cl.DetachVolume(ctx, &awsec2.DetachVolumeInput{VolumeId: v.VolumeId}))(t)
		if s := state(); s.State != types.VolumeStateInUse {
			t.Errorf("a volume that is still mounted is %s", s.State)
		}
		command(t, "umount", at)
		eventually(t, "available", func() (bool, error) { return state().State == types.VolumeStateAvailable, nil })
		if _, err := os.Lstat(filepath.Join(c.DeviceDir(), name)); !os.IsNotExist(err) {
			t.Errorf("the device's name is still there: %v", err)
		}
		snap := must(cl.CreateSnapshot(ctx, &awsec2.CreateSnapshotInput{VolumeId: v.VolumeId, TagSpecifications: []types.TagSpecification{{ResourceType: "snapshot", Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}}}))(t)
		eventually(t, "the snapshot", func() (bool, error) {
			s := must(cl.DescribeSnapshots(ctx, &awsec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap.SnapshotId}}))(t).Snapshots[0]
			return s.State == types.SnapshotStateCompleted, nil
		})
		ami := must(cl.RegisterImage(ctx, &awsec2.RegisterImageInput{Name: aws.String("by chroot"), Architecture: "x86_64", VirtualizationType: aws.String("hvm"), RootDeviceName: aws.String("/dev/xvda"), EnaSupport: aws.Bool(true),
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: snap.SnapshotId}}}}))(t)
		waitImage(t, cl, *ami.ImageId)
		if b, err := c.ReadFile("us-east-1", *ami.ImageId, "/etc/baked"); err != nil || string(b) != "here\n" {
			t.Errorf("in the image: %q, %v", b, err)
		}
		must(cl.DeleteVolume(ctx, &awsec2.DeleteVolumeInput{VolumeId: v.VolumeId}))(t)
	}
}

func smallTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"etc", "bin", "proc", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/small"), []byte("small\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func TestS3AndImport(t *testing.T) {
	c := start(t, ec2.Options{})
	ctx, cl := t.Context(), client(c, "us-east-1")
	if err := c.AddBucket("images", "us-east-1"); err != nil {
		t.Fatal(err)
	}
	st := s3.NewFromConfig(conf(c, "us-east-1"))
	disk := bytes.Repeat([]byte("raw disk"), 1<<10)
	must(st.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("images"), Key: aws.String("a b/disk.raw"), Body: bytes.NewReader(disk), ServerSideEncryption: s3types.ServerSideEncryptionAes256}))(t)
	got := must(st.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("images"), Key: aws.String("a b/disk.raw")}))(t)
	if b := must(io.ReadAll(got.Body))(t); !bytes.Equal(b, disk) || *got.ContentLength != int64(len(disk)) {
		t.Errorf("%d bytes come back, want %d", len(b), len(disk))
	}
	// A stream that cannot be rewound is sent in chunks.
	must(st.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("images"), Key: aws.String("stream"), Body: io.MultiReader(bytes.NewReader(disk)), ContentLength: aws.Int64(int64(len(disk)))}, s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)))(t)
	if h := must(st.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String("images"), Key: aws.String("stream")}))(t); *h.ContentLength != int64(len(disk)) {
		t.Errorf("the stream has %d bytes", *h.ContentLength)
	}
	up := must(st.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: aws.String("images"), Key: aws.String("large")}))(t)
	if left := ec2Things(c.Left()); !strings.Contains(left, "s3-upload images/large") {
		t.Errorf("left: %s", left)
	}
	part := bytes.Repeat([]byte("x"), 5<<20)
	var parts []s3types.CompletedPart
	for n := range int32(2) {
		p := must(st.UploadPart(ctx, &s3.UploadPartInput{Bucket: up.Bucket, Key: up.Key, UploadId: up.UploadId, PartNumber: aws.Int32(n + 1), Body: bytes.NewReader(part)}))(t)
		parts = append(parts, s3types.CompletedPart{ETag: p.ETag, PartNumber: aws.Int32(n + 1)})
	}
	must(st.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: up.Bucket, Key: up.Key, UploadId: up.UploadId, MultipartUpload: &s3types.CompletedMultipartUpload{Parts: parts}}))(t)
	if h := must(st.HeadObject(ctx, &s3.HeadObjectInput{Bucket: up.Bucket, Key: up.Key}))(t); *h.ContentLength != 10<<20 {
		t.Errorf("the large object has %d bytes", *h.ContentLength)
	}
	im := &awsec2.ImportImageInput{RoleName: aws.String("vmimport"), DiskContainers: []types.ImageDiskContainer{{Format: aws.String("raw"), UserBucket: &types.UserBucket{S3Bucket: aws.String("images"), S3Key: aws.String("a b/disk.raw")}}}}
	_, err := cl.ImportImage(ctx, im)
	wantCode(t, "an import without a role", err, "InvalidParameter")
	must(iam.NewFromConfig(conf(c, "us-east-1")).CreateRole(ctx, &iam.CreateRoleInput{RoleName: aws.String("vmimport"), AssumeRolePolicyDocument: aws.String("{}")}))(t)
	task := must(cl.ImportImage(ctx, im))(t)
	var image string
	eventually(t, "the import", func() (bool, error) {
		d := must(cl.DescribeImportImageTasks(ctx, &awsec2.DescribeImportImageTasksInput{ImportTaskIds: []string{*task.ImportTaskId}}))(t).ImportImageTasks[0]
		image = aws.ToString(d.ImageId)
		return *d.Status == "completed", nil
	})
	waitImage(t, cl, image)
	_, err = st.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("images"), Key: aws.String("nothing")})
	wantCode(t, "an object that is not there", err, "NoSuchKey")
	for _, o := range c.Objects() {
		must(st.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &o.Bucket, Key: &o.Name}))(t)
	}
	if o := c.Objects(); len(o) != 0 {
		t.Errorf("objects: %v", o)
	}
	c.OnImage(func(m ec2.Making) string { return "ClientError: Disk validation failed" })
	must(st.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("images"), Key: aws.String("a b/disk.raw"), Body: bytes.NewReader(disk)}))(t)
	task = must(cl.ImportImage(ctx, im))(t)
	eventually(t, "the failed import", func() (bool, error) {
		d := must(cl.DescribeImportImageTasks(ctx, &awsec2.DescribeImportImageTasksInput{ImportTaskIds: []string{*task.ImportTaskId}}))(t).ImportImageTasks[0]
		return *d.Status == "deleted" && *d.StatusMessage == "ClientError: Disk validation failed", nil
	})
}

func TestParametersKeysSecrets(t *testing.T) {
	c := start(t, ec2.Options{})
	ctx, cl := t.Context(), client(c, "us-east-1")
	sm := ssm.NewFromConfig(conf(c, "us-east-1"))
	img := base(t, cl)
	p := must(sm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("/aws/service/debian/" + *img.Name)}))(t)
	if *p.Parameter.Value != *img.ImageId {
		t.Errorf("the public parameter is %s", *p.Parameter.Value)
	}
	put := &ssm.PutParameterInput{Name: aws.String("/web/ami"), Value: img.ImageId, Type: ssmtypes.ParameterTypeString, DataType: aws.String("aws:ec2:image")}
	must(sm.PutParameter(ctx, put))(t)
	_, err := sm.PutParameter(ctx, put)
	wantCode(t, "a parameter that is there", err, "ParameterAlreadyExists")
	put.Overwrite = aws.Bool(true)
	if v := must(sm.PutParameter(ctx, put))(t).Version; v != 2 {
		t.Errorf("version %d", v)
	}
	must(sm.PutParameter(ctx, &ssm.PutParameterInput{Name: aws.String("pw"), Value: aws.String("hush"), Type: ssmtypes.ParameterTypeSecureString}))(t)
	if v := must(sm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("pw")}))(t); *v.Parameter.Value == "hush" {
		t.Error("a secret parameter is told without decryption")
	}
	if v := must(sm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("pw"), WithDecryption: aws.Bool(true)}))(t); *v.Parameter.Value != "hush" {
		t.Errorf("%q", *v.Parameter.Value)
	}
	_, err = sm.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("none")})
	wantCode(t, "no parameter", err, "ParameterNotFound")

	km := kms.NewFromConfig(conf(c, "us-east-1"))
	arn := must(c.AddKMSKey("us-east-1", "alias/web", "Disabled"))(t)
	k := must(km.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/web")}))(t).KeyMetadata
	if *k.Arn != arn || k.Enabled {
		t.Errorf("the key is %+v", k)
	}
	_, err = km.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/none")})
	wantCode(t, "no key", err, "NotFoundException")

	sec := secretsmanager.NewFromConfig(conf(c, "us-east-1"))
	must(sec.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String("db"), SecretString: aws.String(`{"user":"u"}`)}))(t)
	if v := must(sec.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String("db")}))(t); *v.SecretString != `{"user":"u"}` {
		t.Errorf("%q", *v.SecretString)
	}
	q := must(servicequotas.NewFromConfig(conf(c, "us-east-1")).GetServiceQuota(ctx, &servicequotas.GetServiceQuotaInput{ServiceCode: aws.String("ec2"), QuotaCode: aws.String("L-1216C47A")}))(t)
	if *q.Quota.Value != 1152 {
		t.Errorf("the quota is %v", *q.Quota.Value)
	}
	if n := must(ssm.NewFromConfig(conf(c, "us-west-2")).GetParameters(ctx, &ssm.GetParametersInput{Names: []string{"/web/ami"}}))(t); len(n.InvalidParameters) != 1 {
		t.Error("a parameter is in another region as well")
	}
}

// TestSessions: the agent's side is a handler of the test's, with a way to the instance.
func TestSessions(t *testing.T) {
	c := start(t, ec2.Options{})
	ctx, cl := t.Context(), client(c, "us-east-1")
	sm, im := ssm.NewFromConfig(conf(c, "us-east-1")), iam.NewFromConfig(conf(c, "us-east-1"))
	must(im.CreateRole(ctx, &iam.CreateRoleInput{RoleName: aws.String("r"), AssumeRolePolicyDocument: aws.String("{}")}))(t)
	must(im.CreateInstanceProfile(ctx, &iam.CreateInstanceProfileInput{InstanceProfileName: aws.String("p")}))(t)
	must(im.AddRoleToInstanceProfile(ctx, &iam.AddRoleToInstanceProfileInput{RoleName: aws.String("r"), InstanceProfileName: aws.String("p")}))(t)
	in := micro(base(t, cl))
	in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("p")}
	i := waitInstance(t, cl, *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId, types.InstanceStateNameRunning)
	begin := &ssm.StartSessionInput{Target: i.InstanceId, DocumentName: aws.String("AWS-StartPortForwardingSession"), Parameters: map[string][]string{"portNumber": {"22"}}}
	_, err := sm.StartSession(ctx, begin)
	wantCode(t, "a session without an agent", err, "TargetNotConnected")
	c.OnSession(func(s ec2.Session) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := s.Dial(r.Context(), s.Port())
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			defer conn.Close()
			b := make([]byte, 4)
			_, _ = io.ReadFull(conn, b)
			_, _ = w.Write(b)
		})
	})
	var s *ssm.StartSessionOutput
	eventually(t, "a session", func() (bool, error) {
		var err error
		s, err = sm.StartSession(ctx, begin)
		if code(err) == "TargetNotConnected" {
			return false, nil
		}
		return err == nil, err
	})
	get := func() (int, string) {
		u := strings.Replace(*s.StreamUrl, "ws://", "http://", 1)
		resp := must(http.Get(u))(t)
		defer resp.Body.Close()
		return resp.StatusCode, string(must(io.ReadAll(resp.Body))(t))
	}
	eventually(t, "the agent's connection", func() (bool, error) {
		status, text := get()
		return status == http.StatusOK && text == "SSH-", nil
	})
	if r := must(sm.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: s.SessionId}))(t); *r.TokenValue == *s.TokenValue {
		t.Error("a resumed session has the old token")
	}
	must(sm.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: s.SessionId}))(t)
	if status, _ := get(); status != http.StatusNotFound || len(c.Sessions()) != 0 {
		t.Errorf("after its end: %d, %v", status, c.Sessions())
	}
	ic := ec2instanceconnect.NewFromConfig(conf(c, "us-east-1"))
	pub := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3L0v3zcQ0eZlXcnJ3vXb7vVYv0K1m3Q1sQmC6tqYhK"
	must(ic.SendSSHPublicKey(ctx, &ec2instanceconnect.SendSSHPublicKeyInput{InstanceId: i.InstanceId, InstanceOSUser: aws.String("admin"), SSHPublicKey: &pub}))(t)
	if k := c.PushedKeys(*i.InstanceId); len(k) != 1 || k[0] != pub {
		t.Errorf("pushed: %v", k)
	}
}

// TestSurrogateSwap puts a second disk in the root's place, as ebssurrogate may.
func TestSurrogateSwap(t *testing.T) {
	c := start(t, ec2.Options{Images: []ec2.BaseImage{ec2.HostImage(), {Name: "small", Owner: "136693071363", Tree: smallTree(t), User: "root", Size: 1}}})
	ctx, cl := t.Context(), client(c, "us-east-1")
	img := base(t, cl)
	small := must(cl.DescribeImages(ctx, &awsec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"small"}}}}))(t).Images[0]
	in := micro(img)
	in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdf"), Ebs: &types.EbsBlockDevice{SnapshotId: small.BlockDeviceMappings[0].Ebs.SnapshotId, DeleteOnTermination: aws.Bool(true)}}}
	i := waitInstance(t, cl, *must(cl.RunInstances(ctx, in))(t).Instances[0].InstanceId, types.InstanceStateNameRunning)
	must(cl.StopInstances(ctx, &awsec2.StopInstancesInput{InstanceIds: []string{*i.InstanceId}}))(t)
	i = waitInstance(t, cl, *i.InstanceId, types.InstanceStateNameStopped)
	ids := map[string]string{}
	for _, m := range i.BlockDeviceMappings {
		ids[*m.DeviceName] = *m.Ebs.VolumeId
	}
	for _, id := range ids {
		must(cl.DetachVolume(ctx, &awsec2.DetachVolumeInput{VolumeId: &id}))(t)
	}
	_, err := cl.StartInstances(ctx, &awsec2.StartInstancesInput{InstanceIds: []string{*i.InstanceId}})
	wantCode(t, "starting without a root", err, "IncorrectInstanceState")
	must(cl.AttachVolume(ctx, &awsec2.AttachVolumeInput{VolumeId: aws.String(ids["/dev/sdf"]), InstanceId: i.InstanceId, Device: img.RootDeviceName}))(t)
	must(cl.ModifyInstanceAttribute(ctx, &awsec2.ModifyInstanceAttributeInput{InstanceId: i.InstanceId, BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{
		{DeviceName: img.RootDeviceName, Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)}}}}))(t)
	made := must(cl.CreateImage(ctx, &awsec2.CreateImageInput{InstanceId: i.InstanceId, Name: aws.String("swapped")}))(t)
	ami := waitImage(t, cl, *made.ImageId)
	if len(ami.BlockDeviceMappings) != 1 {
		t.Errorf("the image has %d disks", len(ami.BlockDeviceMappings))
	}
	if b, err := c.ReadFile("us-east-1", *made.ImageId, "/etc/small"); err != nil || string(b) != "small\n" {
		t.Errorf("in the image: %q, %v", b, err)
	}
	must(cl.TerminateInstances(ctx, &awsec2.TerminateInstancesInput{InstanceIds: []string{*i.InstanceId}}))(t)
	waitInstance(t, cl, *i.InstanceId, types.InstanceStateNameTerminated)
	must(cl.DeleteVolume(ctx, &awsec2.DeleteVolumeInput{VolumeId: aws.String(ids[*img.RootDeviceName])}))(t)
	if left := ec2Things(c.Left()); strings.Contains(left, "volume ") {
		t.Errorf("left: %s", left)
	}
}

// TestWindows: such an image is one by name only, and has what Linux has not.
func TestWindows(t *testing.T) {
	c := start(t, ec2.Options{Durations: ec2.Durations{FastLaunch: time.Hour}, Images: []ec2.BaseImage{{Name: "Windows_Server-2022", Owner: "123456789012", Tree: smallTree(t), Windows: true, Size: 1}}})
	ctx, cl := t.Context(), client(c, "us-east-1")
	img := must(cl.DescribeImages(ctx, &awsec2.DescribeImagesInput{Owners: []string{"self"}}))(t).Images[0]
	_, err := cl.EnableFastLaunch(ctx, &awsec2.EnableFastLaunchInput{ImageId: img.ImageId, MaxParallelLaunches: aws.Int32(5)})
	wantCode(t, "five parallel launches", err, "InvalidParameterValue")
	on := must(cl.EnableFastLaunch(ctx, &awsec2.EnableFastLaunchInput{ImageId: img.ImageId}))(t)
	if on.State != types.FastLaunchStateCodeEnabling || *on.MaxParallelLaunches != 6 {
		t.Errorf("%+v", on)
	}
	c.SetDurations(ec2.Durations{})
	must(cl.EnableFastLaunch(ctx, &awsec2.EnableFastLaunchInput{ImageId: img.ImageId}))(t)
	d := must(cl.DescribeFastLaunchImages(ctx, &awsec2.DescribeFastLaunchImagesInput{ImageIds: []string{*img.ImageId}}))(t)
	if len(d.FastLaunchImages) != 1 || d.FastLaunchImages[0].State != types.FastLaunchStateCodeEnabled {
		t.Errorf("%+v", d.FastLaunchImages)
	}
	if pw := must(cl.GetPasswordData(ctx, &awsec2.GetPasswordDataInput{InstanceId: aws.String(ec2.HostInstance)}))(t); *pw.PasswordData != "" {
		t.Errorf("a password: %q", *pw.PasswordData)
	}
}

// TestAttributes goes through what the end of a bake sets.
func TestAttributes(t *testing.T) {
	c := start(t, ec2.Options{})
	ctx, cl := t.Context(), client(c, "us-east-1")
	img := base(t, cl)
	own := must(cl.CopyImage(ctx, &awsec2.CopyImageInput{SourceImageId: img.ImageId, SourceRegion: aws.String("us-east-1"), Name: aws.String("own"), TagSpecifications: []types.TagSpecification{
		{ResourceType: "image", Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("1")}}}, {ResourceType: "snapshot", Tags: []types.Tag{{Key: aws.String("b"), Value: aws.String("2")}}}}}))(t).ImageId
	at := time.Now().Add(48 * time.Hour)
	must(cl.EnableImageDeprecation(ctx, &awsec2.EnableImageDeprecationInput{ImageId: own, DeprecateAt: &at}))(t)
	must(cl.ModifyImageAttribute(ctx, &awsec2.ModifyImageAttributeInput{ImageId: own, ImdsSupport: &types.AttributeValue{Value: aws.String("v2.0")}}))(t)
	must(cl.ModifyImageAttribute(ctx, &awsec2.ModifyImageAttributeInput{ImageId: own, Description: &types.AttributeValue{Value: aws.String("described")}}))(t)
	org := "arn:aws:organizations::123456789012:organization/o-abc"
	must(cl.ModifyImageAttribute(ctx, &awsec2.ModifyImageAttributeInput{ImageId: own, LaunchPermission: &types.LaunchPermissionModifications{Add: []types.LaunchPermission{{OrganizationArn: &org}, {UserId: aws.String("210987654321")}}}}))(t)
	got := waitImage(t, cl, *own)
	if *got.Description != "described" || got.ImdsSupport != types.ImdsSupportValuesV20 || got.DeprecationTime == nil || *got.SourceImageId != *img.ImageId {
		t.Errorf("the image is %+v", got)
	}
	p := must(cl.DescribeImageAttribute(ctx, &awsec2.DescribeImageAttributeInput{ImageId: own, Attribute: types.ImageAttributeNameLaunchPermission}))(t)
	if len(p.LaunchPermissions) != 2 || aws.ToString(p.LaunchPermissions[0].OrganizationArn) != org {
		t.Errorf("permissions %+v", p.LaunchPermissions)
	}
	snap := got.BlockDeviceMappings[0].Ebs.SnapshotId
	must(cl.ModifySnapshotAttribute(ctx, &awsec2.ModifySnapshotAttributeInput{SnapshotId: snap, Attribute: "createVolumePermission", OperationType: "add", UserIds: []string{"210987654321"}}))(t)
	s := must(cl.DescribeSnapshotAttribute(ctx, &awsec2.DescribeSnapshotAttributeInput{SnapshotId: snap, Attribute: "createVolumePermission"}))(t)
	if len(s.CreateVolumePermissions) != 1 || *s.CreateVolumePermissions[0].UserId != "210987654321" {
		t.Errorf("permissions %+v", s.CreateVolumePermissions)
	}
	sn := must(cl.DescribeSnapshots(ctx, &awsec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: []types.Filter{{Name: aws.String("tag:b"), Values: []string{"2"}}}}))(t)
	if len(sn.Snapshots) != 1 || *sn.Snapshots[0].SnapshotId != *snap {
		t.Errorf("%d snapshots are tagged", len(sn.Snapshots))
	}
	// It starts with version 2 of the metadata service required.
	in := micro(img)
	in.ImageId = own
	i := must(cl.RunInstances(ctx, in))(t).Instances[0]
	if i.MetadataOptions.HttpTokens != types.HttpTokensStateRequired {
		t.Errorf("tokens are %s", i.MetadataOptions.HttpTokens)
	}
	d := must(cl.DeregisterImage(ctx, &awsec2.DeregisterImageInput{ImageId: own, DeleteAssociatedSnapshots: aws.Bool(true)}))(t)
	if len(d.DeleteSnapshotResults) != 1 || d.DeleteSnapshotResults[0].ReturnCode != types.SnapshotReturnCodesSuccess {
		t.Errorf("%+v", d.DeleteSnapshotResults)
	}
	_, err := cl.DescribeSnapshots(ctx, &awsec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap}})
	wantCode(t, "its snapshot", err, "InvalidSnapshot.NotFound")
}

func TestCheckIP(t *testing.T) {
	c := start(t, ec2.Options{})
	resp := must(http.Get(c.CheckIPURL()))(t)
	defer resp.Body.Close()
	if b := must(io.ReadAll(resp.Body))(t); strings.TrimSpace(string(b)) != "127.0.0.1" {
		t.Errorf("%q", b)
	}
	if u := must(net.ResolveTCPAddr("tcp", strings.TrimPrefix(c.URL(), "http://")))(t); !u.IP.IsLoopback() {
		t.Errorf("the endpoint is %s", c.URL())
	}
}
