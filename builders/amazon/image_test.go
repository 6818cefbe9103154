package amazon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/event"
)

// cloud is an emulated cloud with an account to bake in.
type cloud struct {
	*ec2.Cloud
	t       *testing.T
	env     *Env
	access  awscloud.Access
	session *awscloud.Session
	base    types.Image
}

var testRegions = []string{"us-east-1", "us-west-2", "eu-central-1"}

// newCloud starts a cloud whose images take no time, unless the options say so.
func newCloud(t *testing.T, o ec2.Options) *cloud {
	t.Helper()
	o.Dir, o.Regions = t.TempDir(), testRegions
	c, err := ec2.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, v := range c.Env() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	x := &cloud{Cloud: c, t: t, access: awscloud.Access{Region: testRegions[0], MaxRetries: 1}}
	x.connect()
	out, err := x.session.EC2("").DescribeImages(t.Context(), &ec2api.DescribeImagesInput{})
	if err != nil || len(out.Images) == 0 {
		t.Fatalf("no base image: %v", err)
	}
	x.base = out.Images[0]
	return x
}

// connect makes a new connection, as a new process would.
func (c *cloud) connect() {
	c.t.Helper()
	c.env = NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, AnswerTimeout: 2 * time.Second, Speed: 50}))
	c.env.Settle = 200 * time.Millisecond
	var err error
	if c.session, err = c.env.Shared.Connect(c.t.Context(), &c.access); err != nil {
		c.t.Fatal(err)
	}
}

// snapshot is one of the account's own, as a bake has made it.
func (c *cloud) snapshot(bake string, encrypted bool) string {
	c.t.Helper()
	tags := []types.TagSpecification{{ResourceType: types.ResourceTypeSnapshot, Tags: ec2Tags(map[string]string{tagBuild: bake})}}
	out, err := c.session.EC2("").CopySnapshot(c.t.Context(), &ec2api.CopySnapshotInput{
		SourceRegion: aws.String(testRegions[0]), SourceSnapshotId: c.base.BlockDeviceMappings[0].Ebs.SnapshotId, TagSpecifications: tags, Encrypted: aws.Bool(encrypted),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.session.WaitSnapshot(c.t.Context(), "", *out.SnapshotId); err != nil {
		c.t.Fatal(err)
	}
	return *out.SnapshotId
}

// order is an AMI to be registered of a snapshot.
func (c *cloud) order(bake, body string, encrypted bool) ImageOrder {
	c.t.Helper()
	o := decodeAMI(c.t, body)
	if errs, _ := optionsOf(o.AMIOptions.Check(testRegions[0])); len(errs) > 0 {
		c.t.Fatalf("the test's options are wrong: %v", errs)
	}
	return ImageOrder{
		Env: c.env, Session: c.session, Access: c.access.Public(), BuilderID: "mitchellh.amazonebs", AMI: &o.AMIOptions, FastLaunch: o.FastLaunch,
		RunTags: map[string]string{"Run": "tag"}, Source: &c.base, Encrypted: encrypted,
		Register: &ec2api.RegisterImageInput{
			Architecture: types.ArchitectureValues(c.base.Architecture), RootDeviceName: aws.String("/dev/xvda"), VirtualizationType: aws.String("hvm"),
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: aws.String(c.snapshot(bake, encrypted))}}},
		},
	}
}

// own are the account's images of a region by name.
func (c *cloud) own(region string) map[string]types.Image {
	c.t.Helper()
	out, err := c.session.EC2(region).DescribeImages(c.t.Context(), &ec2api.DescribeImagesInput{Owners: []string{"self"}})
	if err != nil {
		c.t.Fatal(err)
	}
	all := map[string]types.Image{}
	for _, i := range out.Images {
		all[aws.ToString(i.Name)] = i
	}
	return all
}

// left is what the account has in all regions, one a line.
func (c *cloud) left() []string {
	c.t.Helper()
	var all []string
	for _, r := range testRegions {
		for name, i := range c.own(r) {
			all = append(all, r+" image "+name+" "+*i.ImageId)
		}
		out, err := c.session.EC2(r).DescribeSnapshots(c.t.Context(), &ec2api.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, s := range out.Snapshots {
			all = append(all, r+" snapshot "+*s.SnapshotId+" "+aws.ToString(s.Description))
		}
	}
	slices.Sort(all)
	return all
}

func (c *cloud) wantNothing(what string) {
	c.t.Helper()
	if left := c.left(); len(left) > 0 {
		c.t.Errorf("%s leaves behind:\n%s", what, strings.Join(left, "\n"))
	}
}

// memory is a ledger that outlives the process that a test lets die.
type memory struct {
	mu     sync.Mutex
	dead   bool
	n      int
	bake   string
	leases []builders.Lease
	struck map[string]bool
}

var errDead = errors.New("this process is dead")

func (m *memory) Intend(_ context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return builders.Lease{}, errDead
	}
	m.n++
	l := builders.Lease{ID: fmt.Sprint(m.n), BakeID: m.bake, Builder: "amazon-ebs", Kind: kind, Name: name, Data: maps.Clone(data), Created: time.Now()}
	m.leases = append(m.leases, l)
	return l, nil
}

func (m *memory) Created(_ context.Context, l builders.Lease, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	for i := range m.leases {
		if m.leases[i].ID == l.ID {
			m.leases[i].ExternalID = id
			return nil
		}
	}
	return fmt.Errorf("there is no lease %q", l.ID)
}

func (m *memory) Released(_ context.Context, l builders.Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	n := len(m.leases)
	m.leases = slices.DeleteFunc(m.leases, func(o builders.Lease) bool { return o.ID == l.ID })
	if len(m.leases) == n {
		return fmt.Errorf("the lease %q of %s is not open", l.ID, l.Name)
	}
	return nil
}

func (m *memory) Open() []builders.Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.leases)
}

func (m *memory) kill(dead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = dead
}

func newRun(t *testing.T, bake string, m *memory) *builders.Run {
	return &builders.Run{
		BakeID: bake, Name: "amazon-ebs.web", Type: "amazon-ebs", Source: "web", Created: time.Now(), Values: map[string]string{}, Leases: m,
		Events: event.Scope{Sink: event.Func(func(e event.Event) { t.Log(e.Kind, e.Text) })},
	}
}

// release gives all open leases back, the last first, as the engine does.
func (c *cloud) release(m *memory) {
	c.t.Helper()
	open := m.Open()
	slices.Reverse(open)
	for _, l := range open {
		if err := c.releaseOne(c.t.Context(), l); err != nil {
			c.t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
			continue
		}
		if err := m.Released(c.t.Context(), l); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cloud) releaseOne(ctx context.Context, l builders.Lease) error {
	r := remover{c.session, c.env.Settle}
	switch l.Kind {
	case leaseImage:
		return r.releaseImage(ctx, l)
	case leaseParameter:
		return r.releaseParameter(ctx, l)
	}
	return fmt.Errorf("a lease of kind %s", l.Kind)
}

const threeRegions = `
ami_name        = "web-1"
ami_description = "web of {{ .SourceAMIName }}"
ami_regions     = ["us-west-2", "eu-central-1"]
ami_users       = ["210987654321"]
ami_org_arns    = ["arn:aws:organizations::123456789012:organization/o-abcdefghij"]
snapshot_users  = ["210987654321"]
tags            = { Base = "{{ .SourceAMI }}" }
snapshot_tags   = { Disk = "yes" }
imds_support    = "v2.0"
deprecate_at    = "2034-01-31T12:00:00Z"
ssm_parameters  = ["/images/web"]
deregistration_protection {
  enabled = true
}
`

func TestImageInThreeRegions(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	order := c.order("b1", threeRegions, false)
	m := &memory{bake: "b1"}
	c.Plan().Reset()
	a, err := MakeImage(t.Context(), newRun(t, "b1", m), order)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for _, call := range c.Plan().Calls() {
		calls = append(calls, call.String())
	}
	var ids []string
	for _, r := range slices.Sorted(slices.Values(testRegions)) {
		i, ok := c.own(r)["web-1"]
		if !ok {
			t.Fatalf("there is no image in %s", r)
		}
		ids = append(ids, r+":"+*i.ImageId)
		tags := tagMap(i.Tags)
		if want := map[string]string{"Base": *c.base.ImageId, "Run": "tag", tagBuild: "b1"}; !maps.Equal(tags, want) {
			t.Errorf("%s: tags %v, want %v", r, tags, want)
		}
		if aws.ToString(i.Description) != "web of "+*c.base.Name || i.ImdsSupport != types.ImdsSupportValuesV20 || !strings.HasPrefix(aws.ToString(i.DeprecationTime), "2034-01-31T12:00") || aws.ToString(i.DeregistrationProtection) == "disabled" {
			t.Errorf("%s: %+v", r, i)
		}
		perms, err := c.session.EC2(r).DescribeImageAttribute(t.Context(), &ec2api.DescribeImageAttributeInput{ImageId: i.ImageId, Attribute: types.ImageAttributeNameLaunchPermission})
		if err != nil || len(perms.LaunchPermissions) != 2 {
			t.Errorf("%s: launch permissions %+v, %v", r, perms, err)
		}
		for _, snap := range snapshotsOf(i) {
			s, err := c.session.Snapshots(r).Get(t.Context(), snap)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[string]string{"Base": *c.base.ImageId, "Run": "tag", "Disk": "yes", tagBuild: "b1"}; !maps.Equal(tagMap(s.Tags), want) {
				t.Errorf("%s: tags of %s %v, want %v", r, snap, tagMap(s.Tags), want)
			}
			attr, err := c.session.EC2(r).DescribeSnapshotAttribute(t.Context(), &ec2api.DescribeSnapshotAttributeInput{SnapshotId: &snap, Attribute: types.SnapshotAttributeNameCreateVolumePermission})
			if err != nil || len(attr.CreateVolumePermissions) != 1 {
				t.Errorf("%s: permissions of %s: %+v, %v", r, snap, attr, err)
			}
		}
		p, err := parameter(t.Context(), c.session.SSM(r), "/images/web")
		if err != nil || p == nil || *p.Value != *i.ImageId {
			t.Errorf("%s: the parameter is %+v, %v", r, p, err)
		}
	}
	if want := strings.Join(ids, ","); a.ID != want {
		t.Errorf("artifact %q, want %q", a.ID, want)
	}
	if a.BuilderID != "mitchellh.amazonebs" || len(a.Places) != 3 || a.Parent != *c.base.ImageId || a.Values["SourceAMIName"] != *c.base.Name || !strings.Contains(a.Text, "us-west-2: ami-") {
		t.Errorf("artifact %+v", a)
	}
	// One call begins each image and one look is enough, where it takes no
	// time; three settle it; two read and one writes the parameter; one protects it.
	for _, max := range []struct {
		action string
		n      int
	}{{"RegisterImage", 1}, {"CopyImage", 2}, {"CreateTags", 1}, {"DescribeImages", 3}, {"ModifyImageAttribute", 5}} {
		n := 0
		for _, call := range c.Plan().Calls()[:len(calls)] {
			if call.Action == max.action {
				n++
			}
		}
		if n > max.n {
			t.Errorf("%s was called %d times, not %d", max.action, n, max.n)
		}
	}
	t.Logf("%d calls:\n%s", len(calls), strings.Join(calls, "\n"))
	// Nothing is shared before all of it is there.
	shares := func(call string) bool {
		return strings.Contains(call, "ModifyImageAttribute") || strings.Contains(call, "ModifySnapshotAttribute") || strings.Contains(call, "PutParameter")
	}
	for _, call := range calls[slices.IndexFunc(calls, shares):] {
		if strings.Contains(call, "CopyImage") || strings.Contains(call, "DescribeImages") {
			t.Errorf("%s comes after something was shared", call)
		}
	}

	// What follows fails: all of it is taken back, the parameters too.
	c.release(m)
	c.wantNothing("a failure after the image")
	for _, r := range testRegions {
		if p, err := parameter(t.Context(), c.session.SSM(r), "/images/web"); err != nil || p != nil {
			t.Errorf("%s: the parameter is still %+v, %v", r, p, err)
		}
	}
}

func TestParameterGetsItsFormerValueBack(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	put := func(value string) {
		if _, err := c.session.SSM("").PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("web"), Value: &value, Type: ssmtypes.ParameterTypeString, Overwrite: aws.Bool(true)}); err != nil {
			t.Fatal(err)
		}
	}
	now := func() string {
		p, err := parameter(t.Context(), c.session.SSM(""), "web")
		if err != nil || p == nil {
			t.Fatalf("parameter %v, %v", p, err)
		}
		return *p.Value
	}
	put("ami-former")
	m := &memory{bake: "b1"}
	const body = "ami_name = \"web-1\"\nssm_parameters = [\"web\"]"
	a, err := MakeImage(t.Context(), newRun(t, "b1", m), c.order("b1", body, false))
	if err != nil {
		t.Fatal(err)
	}
	if now() != a.Places[0].ID {
		t.Errorf("the parameter is %q", now())
	}
	c.release(m)
	if now() != "ami-former" {
		t.Errorf("released, the parameter is %q", now())
	}
	c.wantNothing("the release")

	m = &memory{bake: "b2"}
	if _, err := MakeImage(t.Context(), newRun(t, "b2", m), c.order("b2", body, false)); err != nil {
		t.Fatal(err)
	}
	put("ami-of-somebody-else")
	c.release(m)
	if now() != "ami-of-somebody-else" {
		t.Errorf("a value that is not ours was changed to %q", now())
	}

	if _, err := c.session.SSM("").DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String("web")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.session.SSM("").PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("web"), Value: aws.String("hidden-value"), Type: ssmtypes.ParameterTypeSecureString}); err != nil {
		t.Fatal(err)
	}
	m = &memory{bake: "b3"}
	_, err = MakeImage(t.Context(), newRun(t, "b3", m), c.order("b3", body, false))
	if err == nil || !strings.Contains(err.Error(), "SecureString") || errors.Is(err, builders.ErrUnfinished) || strings.Contains(err.Error(), "hidden-value") {
		t.Errorf("a secret parameter: %v", err)
	}
	c.release(m)
}

// With a cool-down nothing removes an AMI that has been protected, and it is said so.
func TestCooldownOutlastsARelease(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	m := &memory{bake: "b1"}
	if _, err := MakeImage(t.Context(), newRun(t, "b1", m), c.order("b1", "ami_name = \"web-1\"\nderegistration_protection {\n  enabled = true\n  with_cooldown = true\n}\n", false)); err != nil {
		t.Fatal(err)
	}
	open := m.Open()
	if len(open) != 1 {
		t.Fatalf("leases %+v", open)
	}
	if err := c.releaseOne(t.Context(), open[0]); err == nil || !strings.Contains(err.Error(), "24 hours pass") {
		t.Errorf("release: %v", err)
	}
	if _, ok := c.own(testRegions[0])["web-1"]; !ok {
		t.Error("it is gone")
	}
}

func TestDestroy(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	a, err := MakeImage(t.Context(), newRun(t, "b1", &memory{bake: "b1"}), c.order("b1", "ami_name = \"web-1\"\nami_regions = [\"us-west-2\"]", false))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // also of what is gone
		if err := a.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.wantNothing("Destroy")
	}
}

func TestEncryption(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	const body = "ami_name = \"web-1\"\nencrypt_boot = true\nami_regions = [\"us-west-2\"]"
	for _, encrypted := range []bool{true, false} {
		bake := fmt.Sprintf("b%v", encrypted)
		m := &memory{bake: bake}
		c.Plan().Reset()
		a, err := MakeImage(t.Context(), newRun(t, bake, m), c.order(bake, body, encrypted))
		if err != nil {
			t.Fatal(err)
		}
		copies := 0
		for _, call := range c.Plan().Calls() {
			if call.Action == "CopyImage" {
				copies++
			}
		}
		if want := map[bool]int{true: 1, false: 2}[encrypted]; copies != want {
			t.Errorf("encrypted %v: %d copies, want %d", encrypted, copies, want)
		}
		for _, r := range testRegions[:2] {
			all := c.own(r)
			i, ok := all["web-1"]
			if !ok || len(all) != 1 || !aws.ToBool(i.BlockDeviceMappings[0].Ebs.Encrypted) {
				t.Errorf("encrypted %v: in %s there is %+v", encrypted, r, all)
			}
		}
		if err := a.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.wantNothing("Destroy")
	}

	// A caller that says so of what is not encrypted is not believed.
	m := &memory{bake: "b3"}
	order := c.order("b3", body, false)
	order.Encrypted = true
	_, err := MakeImage(t.Context(), newRun(t, "b3", m), order)
	if err == nil || !strings.Contains(err.Error(), "not encrypted") {
		t.Errorf("an image that is not encrypted: %v", err)
	}
	c.release(m)
	c.wantNothing("an image that is not encrypted")
}

func TestSkipSaveBuildRegion(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	m := &memory{bake: "b1"}
	a, err := MakeImage(t.Context(), newRun(t, "b1", m), c.order("b1", "ami_name = \"web-1\"\nskip_save_build_region = true\nami_regions = [\"us-west-2\"]", false))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(a.ID, testRegions[0]) || len(a.Places) != 1 || len(m.Open()) != 1 {
		t.Errorf("artifact %+v, leases %+v", a, m.Open())
	}
	if all := c.own(testRegions[0]); len(all) != 0 {
		t.Errorf("in the build's region there is %v", all)
	}
	if err := a.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wantNothing("Destroy")
}

func TestNameIsTaken(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	old, err := MakeImage(t.Context(), newRun(t, "b1", &memory{bake: "b1"}), c.order("b1", "ami_name = \"web-1\"\nami_regions = [\"us-west-2\"]", false))
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{bake: "b2"}
	_, err = MakeImage(t.Context(), newRun(t, "b2", m), c.order("b2", `ami_name = "web-1"`, false))
	if err == nil || !strings.Contains(err.Error(), old.Places[0].ID) || !strings.Contains(err.Error(), "force_deregister") || errors.Is(err, builders.ErrUnfinished) {
		t.Errorf("a name that is taken: %v", err)
	}
	if open := m.Open(); len(open) != 0 {
		t.Errorf("leases of what was refused: %+v", open)
	}
	before := c.left()
	m = &memory{bake: "b3"}
	now, err := MakeImage(t.Context(), newRun(t, "b3", m), c.order("b3", "ami_name = \"web-1\"\nami_regions = [\"us-west-2\"]\nforce_deregister = true\nforce_delete_snapshot = true", false))
	if err != nil {
		t.Fatal(err)
	}
	after := c.left()
	for _, l := range before {
		if slices.Contains(after, l) && !strings.Contains(l, "snapshot") || strings.Contains(strings.Join(after, "\n"), old.Places[0].ID) {
			t.Errorf("%s is still there", l)
		}
	}
	if err := now.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A copy that fails once is made anew; one that fails for good takes all
// regions with it, unless they are to be kept.
func TestCopyFails(t *testing.T) {
	const body = "ami_name = \"web-1\"\nami_regions = [\"us-west-2\", \"eu-central-1\"]\n"
	t.Run("once", func(t *testing.T) {
		c := newCloud(t, ec2.Options{})
		failed := false
		c.OnImage(func(m ec2.Making) string {
			if m.Action == "CopyImage" && m.Region == "us-west-2" && !failed {
				failed = true
				return "Server.InternalError: something broke"
			}
			return ""
		})
		a, err := MakeImage(t.Context(), newRun(t, "b1", &memory{bake: "b1"}), c.order("b1", body, false))
		if err != nil || len(a.Places) != 3 || !failed {
			t.Fatalf("%+v, %v", a, err)
		}
		if err := a.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.wantNothing("a copy that failed once")
	})
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("for good, keep_partial %v", keep), func(t *testing.T) {
			c := newCloud(t, ec2.Options{})
			c.OnImage(func(m ec2.Making) string {
				if m.Action == "CopyImage" && m.Region == "us-west-2" {
					return "Client.InternalError: The KMS key may not be used"
				}
				return ""
			})
			m := &memory{bake: "b1"}
			var warned string
			run := newRun(t, "b1", m)
			run.Events.Sink = event.Func(func(e event.Event) {
				if e.Kind == event.Warning {
					warned += e.Text
				}
			})
			a, err := MakeImage(t.Context(), run, c.order("b1", body+fmt.Sprintf("keep_partial = %v", keep), false))
			if !keep {
				if err == nil || !strings.Contains(err.Error(), "us-west-2") || !strings.Contains(err.Error(), "The KMS key may not be used") || errors.Is(err, builders.ErrUnfinished) {
					t.Errorf("the error is %v", err)
				}
				c.release(m)
				c.wantNothing("the rollback")
				return
			}
			if err != nil || len(a.Places) != 2 || strings.Contains(a.ID, "us-west-2") || !strings.Contains(warned, "us-west-2") || !strings.Contains(warned, "The KMS key") {
				t.Fatalf("%+v, %v, warned %q", a, err, warned)
			}
			if all := c.own("us-west-2"); len(all) != 0 {
				t.Errorf("in us-west-2 there is %v", all)
			}
			if err := a.Destroy(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.wantNothing("what was kept, destroyed,")
		})
	}
}

func TestFirstImageFails(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	c.OnImage(func(m ec2.Making) string {
		if m.Action == "RegisterImage" {
			return "Client.InternalError: no luck"
		}
		return ""
	})
	m := &memory{bake: "b1"}
	_, err := MakeImage(t.Context(), newRun(t, "b1", m), c.order("b1", `ami_name = "web-1"`, false))
	if err == nil || !strings.Contains(err.Error(), "no luck") || errors.Is(err, builders.ErrUnfinished) {
		t.Errorf("the error is %v", err)
	}
	c.release(m)
	c.wantNothing("an image that failed")
}

func TestQuotaOfCopiesIsWaitedFor(t *testing.T) {
	c := newCloud(t, ec2.Options{Durations: ec2.Durations{Copy: 2 * time.Second}})
	c.SetQuota(ec2.QuotaCopies, 1)
	var errs [2]error
	var wg sync.WaitGroup
	for i := range errs {
		bake := fmt.Sprintf("b%d", i)
		order := c.order(bake, fmt.Sprintf("ami_name = \"web-%d\"\nami_regions = [\"us-west-2\"]", i), false)
		wg.Go(func() {
			_, errs[i] = MakeImage(t.Context(), newRun(t, bake, &memory{bake: bake}), order)
		})
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Error(err)
	}
}

// A wait that is over leaves an image that another process finishes.
func TestWaitIsOver(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	c.access.AWSPolling = &awscloud.Polling{DelaySeconds: 1, MaxAttempts: 2}
	impatient, err := c.env.Shared.Connect(t.Context(), &c.access)
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{bake: "b1"}
	order := c.order("b1", "ami_name = \"web-1\"\nami_regions = [\"us-west-2\"]", false)
	order.Session = impatient
	c.SetDurations(ec2.Durations{Copy: time.Hour})
	_, err = MakeImage(t.Context(), newRun(t, "b1", m), order)
	if !errors.Is(err, builders.ErrUnfinished) || !strings.Contains(err.Error(), "us-west-2") || !strings.Contains(err.Error(), "max_attempts") {
		t.Fatalf("the error is %v", err)
	}
	c.Finish()
	a, err := ResumeImage(t.Context(), c.env, newRun(t, "b1", m), m.Open())
	if err != nil || len(a.Places) != 2 {
		t.Fatalf("resumed: %+v, %v", a, err)
	}
}

// point is a call, and what happens at it.
type point struct {
	n     int
	call  fault.Call
	fault fault.Fault
}

// At every call of the way to an image, and at every fault of it, the image is
// either made, or can be finished, or nothing of it is left.
func TestEveryFault(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	body := strings.Replace(threeRegions, `["us-west-2", "eu-central-1"]`, `["us-west-2"]`, 1) + "skip_save_build_region = true\n"
	bakes := 0
	begin := func() *memory {
		bakes++
		return &memory{bake: fmt.Sprintf("b%d", bakes)}
	}
	clear := func(m *memory, o ImageOrder) {
		c.release(m)
		// The snapshot that the image was to be made of has a lease of its own.
		l := builders.Lease{BakeID: m.bake, ExternalID: *o.Register.BlockDeviceMappings[0].Ebs.SnapshotId, Data: map[string]string{dataRegion: testRegions[0]}}
		if err := (remover{c.session, c.env.Settle}).releaseSnapshot(t.Context(), l); err != nil {
			t.Error(err)
		}
		c.wantNothing("the release")
	}
	m := begin()
	order := c.order(m.bake, body, false)
	c.Plan().Reset()
	if _, err := MakeImage(t.Context(), newRun(t, m.bake, m), order); err != nil {
		t.Fatal(err)
	}
	var points []point
	seen := map[string]bool{}
	for _, call := range c.Plan().Calls() {
		for _, f := range fault.Sample(call.N, []fault.Fault{fault.Refuse, fault.Fail, fault.Throttle, fault.Cut, fault.CutAfter, fault.FailAfter}) {
			// Who is throttled slows down, for seconds: three kinds of calls are enough.
			if f == fault.Throttle && !slices.Contains([]string{"RegisterImage", "CopyImage", "ModifyImageAttribute"}, call.Action) {
				continue
			}
			if key := fmt.Sprint(call.Action, call.Region, f); !seen[key] {
				seen[key] = true
				points = append(points, point{call.N, call, f})
			}
		}
	}
	clear(m, order)
	outcomes := map[string]int{}
	for _, p := range points {
		m := begin()
		order := c.order(m.bake, body, false)
		c.connect() // the one before may have been throttled
		order.Session = c.session
		c.Plan().Reset()
		var hits atomic.Int32
		c.Plan().Decide(func(call fault.Call) fault.Fault {
			// Each try of this call, so that it is lost for good; but who is
			// throttled goes on as long as it takes.
			if call.Action != p.call.Action || call.Region != p.call.Region || hits.Add(1) > 2 && p.fault == fault.Throttle {
				return fault.None
			}
			return p.fault
		})
		order.Env = c.env
		a, err := MakeImage(t.Context(), newRun(t, m.bake, m), order)
		c.Plan().Decide(nil)
		what := fmt.Sprintf("%s: %s", p.call, p.fault)
		switch {
		case hits.Load() == 0:
			outcomes["not reached"]++
		case err == nil:
			outcomes["made"]++
			if len(a.Places) != 1 {
				t.Errorf("%s: %+v", what, a)
			}
		case errors.Is(err, builders.ErrUnfinished):
			outcomes["unfinished"]++
			a, err := ResumeImage(t.Context(), c.env, newRun(t, m.bake, m), m.Open())
			if err != nil || len(a.Places) != 1 {
				t.Errorf("%s: resumed: %+v, %v", what, a, err)
			}
		default:
			outcomes["failed"]++
			if p.fault == fault.Refuse && !strings.Contains(err.Error(), "not authorized") && !strings.Contains(err.Error(), "UnauthorizedOperation") && !strings.Contains(err.Error(), "AccessDenied") {
				t.Errorf("%s: the error does not say why: %v", what, err)
			}
		}
		clear(m, order)
		if t.Failed() {
			t.Fatalf("at %s (%v)", what, err)
		}
	}
	t.Logf("%d faults: %v", len(points), outcomes)
}

// A process that dies at any call, before or after it has taken effect, leaves
// what another finishes, or what a sweep removes.
func TestDeathAtEveryCall(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	body := strings.Replace(threeRegions, `["us-west-2", "eu-central-1"]`, `["us-west-2"]`, 1)
	bakes, points := 0, 0
	for _, resume := range []bool{true, false} {
		for n := 1; ; n++ {
			reached := false
			for _, f := range []fault.Fault{fault.Cut, fault.CutAfter} {
				bakes++
				m := &memory{bake: fmt.Sprintf("d%d", bakes)}
				order := c.order(m.bake, body, false)
				ctx, die := context.WithCancel(t.Context())
				c.Plan().Reset()
				c.Plan().Decide(func(call fault.Call) fault.Fault {
					if call.N == n {
						reached = true
						m.kill(true)
						return f
					}
					if call.N > n {
						die()
						return fault.Cut // the dead make no calls
					}
					return fault.None
				})
				_, err := MakeImage(ctx, newRun(t, m.bake, m), order)
				die()
				c.Plan().Decide(nil)
				m.kill(false)
				if !reached {
					if err != nil {
						t.Fatal(err)
					}
					c.release(m)
					break
				}
				points++
				if resume && len(m.Open()) > 0 {
					a, err := ResumeImage(t.Context(), c.env, newRun(t, m.bake, m), m.Open())
					if err != nil || len(a.Places) != 2 {
						t.Fatalf("dead at call %d (%s), resumed: %+v, %v", n, f, a, err)
					}
				}
				c.release(m)
				for _, l := range c.left() {
					// The snapshot that the image was to be made of has a lease of its own.
					if !strings.Contains(l, "snapshot") || !strings.Contains(l, testRegions[0]) {
						t.Fatalf("dead at call %d (%s): %s is left", n, f, l)
					}
				}
				c.clearSnapshots()
			}
			if !reached {
				break
			}
		}
	}
	t.Logf("%d deaths", points)
}

func (c *cloud) clearSnapshots() {
	c.t.Helper()
	out, err := c.session.EC2("").DescribeSnapshots(c.t.Context(), &ec2api.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range out.Snapshots {
		if _, err := c.session.EC2("").DeleteSnapshot(c.t.Context(), &ec2api.DeleteSnapshotInput{SnapshotId: s.SnapshotId}); err != nil {
			c.t.Fatal(err)
		}
	}
}
