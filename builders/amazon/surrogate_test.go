//go:build linux

package amazon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

// helperBody launches an instance of the emulated cloud to bake on.
const helperBody = `
region = "us-east-1"
max_retries = 2
instance_type = "t3.micro"
ssh_username = "admin"
source_ami_filter {
  filters     = { name = "debian-12-*" }
  owners      = ["136693071363"]
  most_recent = true
}
`

// surrogateBody builds on /dev/xvdf, and has two further volumes.
const surrogateBody = helperBody + `
ami_virtualization_type = "hvm"
ena_support             = true
launch_block_device_mappings {
  device_name           = "/dev/xvdf"
  volume_size           = 1
  delete_on_termination = true
}
launch_block_device_mappings {
  device_name           = "/dev/xvdg"
  volume_size           = 2
  volume_type           = "gp3"
  delete_on_termination = true
}
launch_block_device_mappings {
  device_name        = "/dev/xvdh"
  volume_size        = 1
  omit_from_artifact = true
}
`

// job is one bake of any builder under test.
type job struct {
	c       *cloud
	b       builders.Builder
	run     *builders.Run
	leases  *memory
	machine machine.Machine
}

func (c *cloud) job(t *testing.T, typ, id string, b builders.Builder, body string) *job {
	t.Helper()
	decodeInto(t, b, body)
	for _, p := range b.Check(t.Context(), &builders.CheckEnv{Dir: t.TempDir()}) {
		if !p.Warning {
			t.Fatalf("Check: %+v", p)
		}
		t.Logf("Check warns: %+v", p)
	}
	m := &memory{bake: id, struck: map[string]bool{}}
	j := &job{c: c, b: b, leases: m, run: newRun(t, id, m)}
	j.run.Type, j.run.Source = typ, "web"
	j.run.Events = event.Scope{Sink: event.Func(func(e event.Event) { t.Logf("%s: %s", e.Kind, e.Text) })}
	return j
}

func (j *job) boot(t *testing.T) {
	t.Helper()
	var err error
	if j.machine, err = j.b.Boot(t.Context(), j.run); err != nil {
		t.Fatal(err)
	}
}

func (j *job) sh(t *testing.T, line string) string {
	t.Helper()
	var out bytes.Buffer
	if err := j.machine.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%s: %v: %s", line, err, &out)
	}
	return out.String()
}

// end gives back what is open: with all, the finished things too.
func (j *job) end(t *testing.T, by builders.Builder, all bool) {
	t.Helper()
	for _, l := range slices.Backward(j.leases.Open()) {
		if !all && l.Data[builders.UntilRecorded] != "" {
			continue
		}
		if err := by.Release(context.Background(), l); err != nil {
			t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
			continue
		}
		_ = j.leases.Released(context.Background(), l) // the memory's own
	}
}

// wantNone says what the cloud has left.
func (c *cloud) wantNone(t *testing.T, after string) {
	t.Helper()
	var left []string
	for _, th := range c.Left() {
		if th.Kind != "key" {
			left = append(left, th.String())
		}
	}
	if len(left) > 0 {
		t.Errorf("%s leaves:\n%s", after, strings.Join(left, "\n"))
		c.Baseline()
	}
}

// wantAllowed says which of the calls since the plan's reset a policy has not.
func (c *cloud) wantAllowed(t *testing.T, p Policy) {
	t.Helper()
	allowed := actions(p)
	for _, call := range c.Plan().Calls() {
		if action := call.Service + ":" + call.Action; !slices.Contains(allowed, action) && action != "sts:GetCallerIdentity" { // which everybody may
			t.Errorf("%s is not in the policy", action)
		}
	}
}

// tree fills a disk of the machine with a small system, as a provisioner does
// that may not mount anything.
func (j *job) tree(t *testing.T, device, said string) {
	t.Helper()
	j.sh(t, fmt.Sprintf("mkdir -p /tmp/tree/etc && echo %s >/tmp/tree/etc/made && sudo env PATH=$PATH:/sbin:/usr/sbin mke2fs -q -F -t ext4 -d /tmp/tree %s && sync", said, device))
}

// Whichever way the AMI is made: what was built is its root, all that
// ami_root_device says of it holds, and nothing but the AMI is left.
func TestSurrogateBake(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
	for name, tc := range map[string]struct {
		body, root string
		calls      map[string]int
	}{
		"of snapshots": {root: "/dev/xvda", body: `
ami_name             = "surrogate-snapshots"
ami_architecture     = "arm64"
boot_mode            = "uefi"
tpm_support          = "v2.0"
uefi_data            = "QU1aTlVFRkk="
sriov_support        = true
snapshot_description = "what was built"
`, calls: map[string]int{"CreateSnapshot": 3, "RegisterImage": 1, "CreateTags": 0, "CreateImage": 0, "DetachVolume": 0}},
		"of the instance": {root: "the source's", body: `
ami_name         = "surrogate-instance"
use_create_image = true
`, calls: map[string]int{"CreateSnapshot": 0, "RegisterImage": 0, "CreateImage": 2, "DetachVolume": 3, "AttachVolume": 1, "ModifyInstanceAttribute": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			root := tc.root
			if root == "the source's" {
				root = aws.ToString(c.base.RootDeviceName)
			}
			b := NewSurrogate(c.env)
			c.Plan().Reset()
			j := c.job(t, surrogateName, "bake"+strings.ReplaceAll(name, " ", ""), b, surrogateBody+tc.body+fmt.Sprintf(`
run_tags = { Team = "a" }
tags     = { Base = "{{ .SourceAMI }}" }
ami_root_device {
  source_device_name    = "/dev/xvdf"
  device_name           = %q
  volume_size           = 8
  volume_type           = "gp3"
  iops                  = 4000
  delete_on_termination = false
}
ami_block_device_mappings {
  device_name  = "/dev/xvdz"
  virtual_name = "ephemeral0"
}
`, root))
			j.boot(t)
			j.tree(t, "/dev/xvdf", "surrogate")
			j.tree(t, "/dev/xvdg", "data")
			j.sh(t, "echo helper | sudo tee /etc/made >/dev/null")
			a, err := b.Snapshot(t.Context(), j.run)
			if err != nil {
				t.Fatal(err)
			}
			j.end(t, b, false)
			if left := c.temporary(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			calls := map[string]int{}
			for _, call := range c.Plan().Calls() {
				calls[call.Action]++
			}
			for action, want := range tc.calls {
				if calls[action] != want {
					t.Errorf("%s was called %d times, want %d", action, calls[action], want)
				}
			}
			t.Logf("calls: %v", calls)
			c.wantAllowed(t, b.o.Policy("us-east-1"))
			if a.BuilderID != "mitchellh.amazon.ebssurrogate" || len(a.Places) != 1 || a.ID != "us-east-1:"+a.Places[0].ID {
				t.Errorf("artifact %+v", a)
			}
			if got, err := c.ReadFile("us-east-1", a.Places[0].ID, "/etc/made"); err != nil || string(got) != "surrogate\n" {
				t.Errorf("the AMI's root has %q, %v", got, err)
			}
			i, err := c.session.Images("").Get(t.Context(), a.Places[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			if aws.ToString(i.RootDeviceName) != root || !aws.ToBool(i.EnaSupport) {
				t.Errorf("image %+v", i)
			}
			if name == "of snapshots" && (i.Architecture != types.ArchitectureValuesArm64 || i.BootMode != types.BootModeValuesUefi || i.TpmSupport != types.TpmSupportValuesV20 || aws.ToString(i.SriovNetSupport) != "simple") {
				t.Errorf("image %+v", i)
			}
			if want := map[string]string{"Team": "a", "Base": *c.base.ImageId, tagBuild: j.run.BakeID}; !maps.Equal(tagMap(i.Tags), want) {
				t.Errorf("tags %v, want %v", tagMap(i.Tags), want)
			}
			got := map[string]types.BlockDeviceMapping{}
			for _, m := range i.BlockDeviceMappings {
				got[*m.DeviceName] = m
			}
			if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{root, "/dev/xvdg", "/dev/xvdz"}) {
				t.Fatalf("devices %q", names)
			}
			if e := got[root].Ebs; *e.VolumeSize != 8 || e.VolumeType != types.VolumeTypeGp3 || *e.Iops != 4000 || *e.DeleteOnTermination {
				t.Errorf("root %+v", *e)
			}
			if e := got["/dev/xvdg"].Ebs; *e.VolumeSize != 2 || e.VolumeType != types.VolumeTypeGp3 || !*e.DeleteOnTermination {
				t.Errorf("data %+v", *e)
			}
			for _, id := range snapshotsOf(i) {
				s, err := c.session.Snapshots("").Get(t.Context(), id)
				if err != nil || name == "of snapshots" && aws.ToString(s.Description) != "what was built" || tagMap(s.Tags)["Team"] != "a" {
					t.Errorf("snapshot %+v, %v", s, err)
				}
			}
			if err := a.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			c.wantNone(t, "Destroy")
		})
	}
	if ps := c.Problems(); len(ps) > 0 {
		t.Errorf("the emulator: %v", ps)
	}
}

// The root may be the helper's own. The suite has then something to boot.
func TestSurrogateSuite(t *testing.T) {
	sandboxtest.Need(t)
	base := ec2.HostImage()
	base.User = "root"
	c := newCloud(t, ec2.Options{Images: []ec2.BaseImage{base}})
	root := aws.ToString(c.base.RootDeviceName)
	body := strings.Replace(helperBody, "admin", "root", 1) + fmt.Sprintf(`
ami_name                = "suite"
ami_virtualization_type = "hvm"
ena_support             = true
launch_block_device_mappings {
  device_name           = %[1]q
  delete_on_termination = true
}
launch_block_device_mappings {
  device_name = "/dev/xvdg"
  volume_size = 1
}
ami_root_device {
  source_device_name = %[1]q
  device_name        = %[1]q
}
`, root)
	buildertest.Run(t, buildertest.Options{
		New:    func() builders.Builder { return NewSurrogate(c.env) },
		Type:   surrogateName,
		Config: body + "force_deregister = true\nforce_delete_snapshot = true\n",
		Exists: c.leased,
		Bad: []buildertest.Bad{
			{Name: "no root", Config: strings.Replace(body, "source_device_name = \""+root, "source_device_name = \"/dev/xvdx", 1), Option: "ami_root_device.source_device_name"},
			{Name: "no type of virtualization", Config: strings.Replace(body, "ami_virtualization_type = \"hvm\"", "", 1), Option: "ami_virtualization_type"},
			{Name: "no such AMI", Config: body + "source_ami = \"ami-0123456789abcdef0\"\n", Option: "source_ami"},
		},
	})
	if left := c.temporary(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestSurrogateOptions(t *testing.T) {
	disk := func(name, more string) string {
		return fmt.Sprintf("launch_block_device_mappings {\ndevice_name = %q\nvolume_size = 10\n%s\n}\n", name, more)
	}
	rootOf := func(source, name, more string) string {
		return fmt.Sprintf("ami_root_device {\nsource_device_name = %q\ndevice_name = %q\n%s\n}\n", source, name, more)
	}
	good := rootOf("/dev/xvdf", "/dev/xvda", "")
	for _, tc := range []struct{ body, want string }{ // "": nothing; "~x": a warning
		{disk("/dev/xvdf", "") + good, ""},
		{disk("/dev/xvdg", "") + good, "ami_root_device.source_device_name"},
		{disk("/dev/xvdf", "omit_from_artifact = true") + good, "launch_block_device_mappings.0.omit_from_artifact"},
		{disk("/dev/xvdf", "") + disk("/dev/xvda", "") + good, "ami_root_device.device_name"},
		{disk("/dev/xvdf", "") + disk("/dev/xvda", "omit_from_artifact = true") + good, ""},
		{disk("/dev/xvdf", "") + rootOf("/dev/xvdf", "/dev/xvda", "volume_size = 9"), "ami_root_device.volume_size"},
		{disk("/dev/xvdf", "") + rootOf("/dev/xvdf", "/dev/xvda", "volume_type = \"io2\""), "ami_root_device.iops"},
		{disk("/dev/xvdf", "") + rootOf("/dev/xvdf", "/dev/xvda", "volume_type = \"gp2\"\niops = 100"), "ami_root_device.iops"},
		{disk("/dev/xvdf", "volume_type = \"gp3\"\niops = 4000\nthroughput = 200") + rootOf("/dev/xvdf", "/dev/xvda", "volume_type = \"gp2\""), ""},
		{disk("/dev/xvdf", "") + good + "ami_block_device_mappings {\ndevice_name = \"/dev/xvda\"\nvolume_size = 9\n}\n", "~ami_block_device_mappings.0"},
		{disk("/dev/xvdf", "") + good + "use_create_image = true\nboot_mode = \"uefi\"", "~boot_mode"},
		{disk("/dev/xvdf", "") + good + "use_create_image = true\nspot_price = \"auto\"", "use_create_image"},
		{disk("/dev/xvdf", "") + good + "spot_price = \"auto\"", "~spot_price"},
		{disk("/dev/xvdf", "") + good + "tpm_support = \"v2.0\"", "tpm_support"},
		{disk("/dev/xvdf", "") + good + "ami_architecture = \"amd64\"", "ami_architecture"},
	} {
		b := NewSurrogate(NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly})))
		decodeInto(t, b, goodRun+"ami_virtualization_type = \"hvm\"\nena_support = true\n"+tc.body)
		ps := b.o.check()
		option, warning := strings.CutPrefix(tc.want, "~")
		if tc.want == "" && len(ps) > 0 {
			t.Errorf("%s: %+v", tc.body, ps)
		}
		if tc.want != "" && !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == option && p.Warning == warning && p.Summary != "" }) {
			t.Errorf("%s: %+v, want %s", tc.body, ps, tc.want)
		}
	}
}

// What the AMI is registered as: the launch's volumes by their own snapshots,
// the root by its new name, and nothing that is to be left out.
func TestSurrogateRegistration(t *testing.T) {
	b := NewSurrogate(NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly})))
	decodeInto(t, b, goodRun+`
ami_virtualization_type = "hvm"
encrypt_boot = true
launch_block_device_mappings {
  device_name = "/dev/sdf"
  volume_size = 10
  encrypted   = true
  kms_key_id  = "alias/x"
  snapshot_id = "snap-0123456789abcdef0"
}
launch_block_device_mappings {
  device_name = "/dev/sdg"
  no_device   = true
}
launch_block_device_mappings {
  device_name  = "/dev/sdh"
  virtual_name = "ephemeral0"
}
ami_root_device {
  source_device_name = "/dev/sdf"
  device_name        = "/dev/sda1"
}
ami_block_device_mappings {
  device_name = "/dev/sdx"
  volume_size = 3
  encrypted   = true
}
`)
	in, of, err := b.o.registration(map[string]string{"/dev/sda1": "vol-helper", "/dev/sdf": "vol-built"})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(of, map[string]string{"/dev/sda1": "vol-built"}) || in.Architecture != types.ArchitectureValuesX8664 || in.EnaSupport != nil {
		t.Errorf("%v of %+v", of, in)
	}
	var got []string
	for _, m := range in.BlockDeviceMappings {
		got = append(got, fmt.Sprint(*m.DeviceName, " ", aws.ToString(m.VirtualName), m.Ebs != nil && (m.Ebs.SnapshotId != nil || m.Ebs.KmsKeyId != nil), m.Ebs != nil && m.Ebs.Encrypted != nil))
	}
	if want := []string{"/dev/sda1 false false", "/dev/sdh ephemeral0false false", "/dev/sdx false true"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if _, _, err := b.o.registration(map[string]string{"/dev/sda1": "vol-helper"}); err == nil {
		t.Error("an AMI without its root is registered")
	}
}

// An encrypted AMI takes no copy, and a spot instance no stop.
func TestSurrogateVariants(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	none := strings.Replace(surrogateBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1) +
		fmt.Sprintf("ami_root_device {\nsource_device_name = \"/dev/xvdf\"\ndevice_name = %q\n}\n", aws.ToString(c.base.RootDeviceName))
	for name, body := range map[string]string{
		"encrypted, of snapshots":    none + "encrypt_boot = true\n",
		"encrypted, of the instance": none + "encrypt_boot = true\nuse_create_image = true\n",
		"spot":                       strings.Replace(none, "instance_type = \"t3.micro\"", "spot_instance_types = [\"t3.micro\"]", 1),
	} {
		t.Run(name, func(t *testing.T) {
			b := NewSurrogate(c.env)
			id := strings.NewReplacer(" ", "", ",", "").Replace(name)
			c.Plan().Reset()
			j := c.job(t, surrogateName, id, b, body+"ami_name = \""+id+"\"\nskip_ami_run_tags = true\n")
			j.boot(t)
			a, err := b.Snapshot(t.Context(), j.run)
			if err != nil {
				t.Fatal(err)
			}
			j.end(t, b, false)
			if left := c.temporary(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			i := c.own("us-east-1")[id]
			if ids := snapshotsOf(i); len(ids) != 2 {
				t.Errorf("the AMI has the snapshots %q", ids)
			}
			for _, id := range snapshotsOf(i) {
				if s, err := c.session.Snapshots("").Get(t.Context(), id); err != nil || aws.ToBool(s.Encrypted) != strings.HasPrefix(name, "encrypted") {
					t.Errorf("%s: %+v, %v", id, s, err)
				}
			}
			for _, call := range c.Plan().Calls() {
				if call.Action == "CopyImage" || call.Action == "StopInstances" && name == "spot" {
					t.Errorf("%s was called", call)
				}
			}
			if err := a.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
			c.wantNone(t, "Destroy")
		})
	}
}

// A snapshot that the template names is not the AMI's to delete: neither when the
// bake fails, nor when its artifact is destroyed.
func TestNamedSnapshotsOutliveTheAMI(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	data := c.snapshot("another", false)
	c.Baseline()
	further := fmt.Sprintf("ami_block_device_mappings {\ndevice_name = \"/dev/xvdy\"\nsnapshot_id = %q\n}\n", data)
	surrogate := surrogateBody + fmt.Sprintf("ami_root_device {\nsource_device_name = \"/dev/xvdf\"\ndevice_name = %q\n}\n", aws.ToString(c.base.RootDeviceName))
	for name, tc := range map[string]struct {
		fresh func() builders.Builder
		body  string
	}{
		"ebs":             {func() builders.Builder { return New(c.env) }, helperBody},
		"of snapshots":    {func() builders.Builder { return NewSurrogate(c.env) }, surrogate},
		"of the instance": {func() builders.Builder { return NewSurrogate(c.env) }, surrogate + "use_create_image = true\n"},
	} {
		for _, destroyed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, destroyed %v", name, destroyed), func(t *testing.T) {
				b := tc.fresh()
				id := fmt.Sprintf("named%s%v", strings.ReplaceAll(name, " ", ""), destroyed)
				j := c.job(t, "amazon", id, b, strings.Replace(tc.body, "ssh_username = \"admin\"", "communicator = \"none\"", 1)+further+"ami_name = \""+id+"\"\n")
				j.boot(t)
				a, err := b.Snapshot(t.Context(), j.run)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Contains(snapshotsOf(c.own("us-east-1")[id]), data) {
					t.Error("the AMI has not the snapshot that is named")
				}
				if destroyed {
					err = a.Destroy(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
				j.end(t, tc.fresh(), true)
				if s, err := c.session.Snapshots("").Get(t.Context(), data); err != nil || tagMap(s.Tags)[tagBuild] != "another" {
					t.Errorf("the snapshot is %+v, %v", s, err)
				}
				c.wantNone(t, "the release")
			})
		}
	}
}

// With the ledger lost, tags alone tell what a bake has left, also half way
// through the swap of its volumes, or with snapshots that became no AMI.
func TestSurrogateOrphans(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	body := strings.Replace(surrogateBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1) +
		fmt.Sprintf("ami_root_device {\nsource_device_name = \"/dev/xvdf\"\ndevice_name = %q\n}\nami_name = \"lost\"\n", aws.ToString(c.base.RootDeviceName))
	for name, tc := range map[string]struct {
		body    string
		refused []string
		kind    string // one of which is left
	}{
		"swapping":   {body + "use_create_image = true\n", []string{"AttachVolume"}, "volume"},
		"registered": {body, []string{"RegisterImage", "DeleteSnapshot"}, "snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewSurrogate(c.env)
			j := c.job(t, surrogateName, name, b, tc.body)
			j.boot(t)
			c.Plan().Decide(func(call fault.Call) fault.Fault {
				if slices.Contains(tc.refused, call.Action) {
					return fault.Refuse
				}
				return fault.None
			})
			_, err := b.Snapshot(t.Context(), j.run)
			c.Plan().Decide(nil)
			if err == nil {
				t.Fatal("the bake succeeds")
			}
			if !slices.ContainsFunc(c.Left(), func(th ec2.Thing) bool { return th.Kind == tc.kind }) {
				t.Fatalf("there is no %s to find", tc.kind)
			}
			if other, err := New(c.env).orphans(t.Context(), &b.o.Access, typeName, 0, true); err != nil || len(other) > 0 {
				t.Errorf("amazon-ebs takes %+v for its own, %v", other, err)
			}
			finder := NewSurrogate(c.env)
			decodeInto(t, finder, tc.body)
			found, err := finder.Orphans(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range slices.Backward(found) {
				if err := finder.Release(t.Context(), l); err != nil {
					t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
				}
			}
			c.wantNone(t, "the sweep")
		})
	}
}

// everyFaultOfSnapshot tries faults at each call that one bake's Snapshot makes.
func everyFaultOfSnapshot(t *testing.T, c *cloud, typ string, fresh func() builders.Builder, body string) (points, failed int) {
	n := 0
	try := func(t *testing.T, decide func(fault.Call) fault.Fault) []fault.Call {
		n++
		b := fresh()
		j := c.job(t, typ, fmt.Sprintf("fault%s%05d", typ[10:12], n), b, strings.ReplaceAll(body, "{{n}}", fmt.Sprint(n)))
		j.boot(t)
		c.Plan().Reset()
		c.Plan().Decide(decide)
		_, err := b.Snapshot(t.Context(), j.run)
		c.Plan().Decide(nil)
		calls := c.Plan().Calls()
		if err != nil {
			failed++
			t.Log(err)
		}
		if errors.Is(err, builders.ErrUnfinished) {
			// Another process finishes what can be: everything else has been given back.
			for _, l := range slices.Backward(j.leases.Open()) {
				if l.Data[builders.Resumable] == "" {
					if err := fresh().Release(t.Context(), l); err != nil {
						t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
					}
					_ = j.leases.Released(t.Context(), l) // the memory's own
				}
			}
			a, err := fresh().(builders.Resumer).Resume(t.Context(), j.run, j.leases.Open())
			switch {
			case errors.Is(err, builders.ErrImageLost):
			case err != nil:
				t.Errorf("resume: %v", err)
			case a.ID == "":
				t.Errorf("resumed to %+v", a)
			}
		}
		j.end(t, fresh(), true)
		c.wantNone(t, "the release")
		return calls
	}
	seen := map[string]bool{}
	for _, call := range try(t, nil) {
		if seen[call.Action] {
			continue
		}
		seen[call.Action] = true
		for _, f := range fault.Sample(points, []fault.Fault{fault.Refuse, fault.Fail, fault.CutAfter, fault.FailAfter, fault.Throttle}) {
			for _, once := range []bool{true, false} {
				// Once is what is tried again at once; for good, what is given up. A throttled
				// call is waited for as long as it takes, and lost answers matter either way.
				if once != (f == fault.Throttle) && f != fault.CutAfter {
					continue
				}
				points++
				t.Run(fmt.Sprintf("%s, %s, once %v", call.Action, f, once), func(t *testing.T) {
					var hits atomic.Int32
					try(t, func(at fault.Call) fault.Fault {
						if at.Action != call.Action || hits.Add(1) > 1 && once {
							return fault.None
						}
						return f
					})
				})
			}
		}
	}
	return points, failed
}

// At each call of Snapshot, and each fault of it: a release by another process,
// which knows only the ledger, leaves nothing.
func TestEveryFaultOfSurrogateSnapshot(t *testing.T) {
	sandboxtest.Need(t)
	body := strings.Replace(surrogateBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1) + "ami_name = \"surrogate-{{n}}\"\n" +
		"ami_root_device {\nsource_device_name = \"/dev/xvdf\"\ndevice_name = %q\n}\n"
	for name, more := range map[string]string{"of snapshots": "", "of the instance": "use_create_image = true\n"} {
		c := newCloud(t, ec2.Options{})
		root := aws.ToString(c.base.RootDeviceName)
		points, failed := everyFaultOfSnapshot(t, c, surrogateName, func() builders.Builder { return NewSurrogate(c.env) }, fmt.Sprintf(body, root)+more)
		t.Logf("%s: %d points, of which %d bakes failed", name, points, failed)
		if points < 10 || failed < 3 {
			t.Errorf("%s: only %d points, and %d failures", name, points, failed)
		}
	}
}
