//go:build linux

package amazon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// volumeBody has one volume that stays with its snapshot, one that just stays,
// and one of which there is only a snapshot.
const volumeBody = helperBody + `
ebs_volumes {
  device_name          = "/dev/xvdf"
  volume_size          = 1
  tags                 = { Of = "{{ .SourceAMI }}" }
  snapshot_volume      = true
  snapshot_description = "what was put on it"
  snapshot_users       = ["210987654321"]
  snapshot_tags        = { Data = "yes" }
}
ebs_volumes {
  device_name = "/dev/xvdg"
  volume_size = 1
  tag {
    key   = "Plain"
    value = "yes"
  }
}
ebs_volumes {
  device_name           = "/dev/xvdh"
  volume_size           = 1
  delete_on_termination = true
  snapshot_volume       = true
}
`

// volumes and snapshots of the account that are no AMI's, by id.
func (c *cloud) stays(t *testing.T) (volumes map[string]types.Volume, snapshots map[string]types.Snapshot) {
	t.Helper()
	v, err := c.session.EC2("").DescribeVolumes(t.Context(), &ec2api.DescribeVolumesInput{Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{tagBuild}}}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.session.EC2("").DescribeSnapshots(t.Context(), &ec2api.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
	if err != nil {
		t.Fatal(err)
	}
	volumes, snapshots = map[string]types.Volume{}, map[string]types.Snapshot{}
	for _, x := range v.Volumes {
		volumes[*x.VolumeId] = x
	}
	for _, x := range s.Snapshots {
		snapshots[*x.SnapshotId] = x
	}
	return volumes, snapshots
}

// What was put on the volumes is there when the instance has gone, and nothing
// else is left; not even a sweep that has lost the ledger takes it.
func TestVolumeBake(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
	b := NewVolume(c.env)
	c.Plan().Reset()
	j := c.job(t, volumeName, "bakevolume", b, volumeBody)
	j.boot(t)
	for _, th := range c.Left() {
		if th.Kind == "volume" && th.Tags[tagKeep] != "" {
			t.Errorf("%s is kept before anything has succeeded", th)
		}
	}
	j.tree(t, "/dev/xvdf", "first")
	j.tree(t, "/dev/xvdh", "third")
	a, err := b.Snapshot(t.Context(), j.run)
	if err != nil {
		t.Fatal(err)
	}
	j.end(t, b, false)
	c.wantAllowed(t, b.o.Policy("us-east-1"))
	volumes, snapshots := c.stays(t)
	if len(volumes) != 2 || len(snapshots) != 2 {
		t.Fatalf("%d volumes and %d snapshots stay, want 2 and 2", len(volumes), len(snapshots))
	}
	ids := slices.Sorted(maps.Keys(snapshots))
	ids = append(ids, slices.Sorted(maps.Keys(volumes))...)
	for i := range ids {
		ids[i] = "us-east-1:" + ids[i]
	}
	if a.BuilderID != "mitchellh.amazon.ebsvolume" || a.ID != strings.Join(ids, ",") || len(a.Places) != 4 || a.Parent != *c.base.ImageId {
		t.Errorf("artifact %+v, want %q", a, ids)
	}
	for id, v := range volumes {
		tags := tagMap(v.Tags)
		if v.State != types.VolumeStateAvailable || tags[tagExpires] != "" || tags[tagLease] != "" || tags[tagKeep] == "" || (tags["Of"] == *c.base.ImageId) == (tags["Plain"] == "yes") {
			t.Errorf("%s is %s with tags %v", id, v.State, tags)
		}
	}
	for id, s := range snapshots {
		tags := tagMap(s.Tags)
		if tags["Data"] != "yes" {
			if d := aws.ToString(s.Description); d != "Ingot: amazon-ebsvolume.web /dev/xvdh" {
				t.Errorf("%s: %q, %v", id, d, tags)
			}
			continue
		}
		attr, err := c.session.EC2("").DescribeSnapshotAttribute(t.Context(), &ec2api.DescribeSnapshotAttributeInput{SnapshotId: &id, Attribute: types.SnapshotAttributeNameCreateVolumePermission})
		if err != nil || len(attr.CreateVolumePermissions) != 1 || aws.ToString(s.Description) != "what was put on it" || s.State != types.SnapshotStateCompleted {
			t.Errorf("%s: %+v, %+v, %v", id, s, attr, err)
		}
	}
	// An AMI of the snapshots shows what is in them.
	for said, tag := range map[string]string{"first\n": "yes", "third\n": ""} {
		for id, s := range snapshots {
			if tagMap(s.Tags)["Data"] != tag {
				continue
			}
			out, err := c.session.EC2("").RegisterImage(t.Context(), &ec2api.RegisterImageInput{
				Name: aws.String("look-" + id), Architecture: types.ArchitectureValuesX8664, RootDeviceName: aws.String("/dev/xvda"), VirtualizationType: aws.String("hvm"),
				BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: &id}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.session.WaitImage(t.Context(), "", *out.ImageId); err != nil {
				t.Fatal(err)
			}
			if got, err := c.ReadFile("us-east-1", *out.ImageId, "/etc/made"); err != nil || string(got) != said {
				t.Errorf("in %s: %q, %v; want %q", id, got, err, said)
			}
			if _, err := c.session.EC2("").DeregisterImage(t.Context(), &ec2api.DeregisterImageInput{ImageId: out.ImageId}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found, err := b.Orphans(t.Context(), 0); err != nil || len(found) > 0 {
		t.Errorf("a sweep would take %+v, %v", found, err)
	}
	if err := a.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	c.wantNone(t, "Destroy")
	if ps := c.Problems(); len(ps) > 0 {
		t.Errorf("the emulator: %v", ps)
	}
}

// A bake that fails keeps nothing: neither when a snapshot fails, nor when
// something fails after all has been made.
func TestVolumeRollback(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	body := strings.Replace(volumeBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1)
	c.OnImage(func(m ec2.Making) string {
		if m.Name == "what was put on it" {
			return "Client.InternalError: no luck"
		}
		return ""
	})
	b := NewVolume(c.env)
	j := c.job(t, volumeName, "failing", b, body)
	j.boot(t)
	if a, err := b.Snapshot(t.Context(), j.run); err == nil || errors.Is(err, builders.ErrUnfinished) || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("%+v, %v", a, err)
	}
	j.end(t, NewVolume(c.env), true)
	c.wantNone(t, "a bake whose snapshot fails")
	c.OnImage(nil)
	// The last to be leased is the first to go, while the instance still has it.
	b = NewVolume(c.env)
	j = c.job(t, volumeName, "failinglater", b, body)
	j.boot(t)
	if _, err := b.Snapshot(t.Context(), j.run); err != nil {
		t.Fatal(err)
	}
	j.end(t, NewVolume(c.env), true)
	c.wantNone(t, "a bake that fails later")
}

// At each write of the ledger the process dies. A release by what the ledger
// says leaves nothing but what another process then finishes, or loses.
func TestVolumeDiesAndIsResumed(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	body := strings.Replace(volumeBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1)
	finished, lost := 0, 0
	for n := 0; ; n++ {
		id := fmt.Sprintf("dies%04d", n)
		b := NewVolume(c.env)
		j := c.job(t, volumeName, id, b, body)
		j.boot(t)
		left := n
		j.run.Leases = &mortal{memory: j.leases, die: func() bool { left--; return left < 0 }}
		_, err := b.Snapshot(t.Context(), j.run)
		if err != nil && !errors.Is(err, errDead) {
			t.Fatal(err)
		}
		j.leases.kill(false)
		j.run.Leases = j.leases
		if err == nil {
			j.end(t, b, true)
			break
		}
		// As the engine's sweep: what can be resumed stays.
		var open []builders.Lease
		for _, l := range slices.Backward(j.leases.Open()) {
			if l.Data[builders.Resumable] != "" {
				open = append(open, l)
			} else if err := NewVolume(c.env).Release(context.Background(), l); err != nil {
				t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
			} else {
				_ = j.leases.Released(context.Background(), l) // the memory's own
			}
		}
		slices.Reverse(open)
		if len(open) > 0 {
			a, err := NewVolume(c.env).Resume(t.Context(), j.run, open)
			switch {
			case errors.Is(err, builders.ErrImageLost):
				lost++
			case err != nil:
				t.Errorf("point %d: resume: %v", n, err)
			default:
				finished++
				if len(a.Places) != 4 {
					t.Errorf("point %d: resumed to %+v", n, a)
				}
			}
		}
		j.end(t, NewVolume(c.env), true)
		c.wantNone(t, fmt.Sprintf("point %d", n))
	}
	t.Logf("%d finished, %d lost", finished, lost)
	if finished == 0 || lost == 0 {
		t.Errorf("%d were finished and %d lost; want some of both", finished, lost)
	}
}

// mortal is a ledger whose process dies right after a write.
type mortal struct {
	*memory
	die func() bool // called with the lock held
}

func (d *mortal) after(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && d.die() {
		d.dead = true
		err = errDead
	}
	return err
}

func (d *mortal) Intend(ctx context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	l, err := d.memory.Intend(ctx, kind, name, data)
	return l, d.after(err)
}

func (d *mortal) Created(ctx context.Context, l builders.Lease, id string) error {
	return d.after(d.memory.Created(ctx, l, id))
}

// A wait for a snapshot that is over is no failure: it is gone on with.
func TestVolumeUnfinished(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Durations: ec2.Durations{Snapshot: time.Hour}})
	body := strings.Replace(volumeBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1)
	short := NewVolume(c.env)
	j := c.job(t, volumeName, "unfinished", short, body+"aws_polling {\ndelay_seconds = 1\nmax_attempts = 2\n}\n")
	j.boot(t)
	_, err := short.Snapshot(t.Context(), j.run)
	if !errors.Is(err, builders.ErrUnfinished) {
		t.Fatalf("%v", err)
	}
	for _, l := range slices.Backward(j.leases.Open()) {
		if l.Data[builders.Resumable] == "" {
			if err := short.Release(t.Context(), l); err != nil {
				t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
			}
			_ = j.leases.Released(t.Context(), l) // the memory's own
		}
	}
	c.SetDurations(ec2.Durations{})
	c.Finish()
	open := j.leases.Open()
	a, err := NewVolume(c.env).Resume(t.Context(), j.run, open)
	for errors.Is(err, builders.ErrUnfinished) {
		a, err = NewVolume(c.env).Resume(t.Context(), j.run, open)
	}
	if err != nil || len(a.Places) != 4 {
		t.Fatalf("%+v, %v", a, err)
	}
	j.end(t, NewVolume(c.env), true)
	c.wantNone(t, "the release")
}

func TestVolumeSuite(t *testing.T) {
	sandboxtest.Need(t)
	base := ec2.HostImage()
	base.User = "root"
	c := newCloud(t, ec2.Options{Images: []ec2.BaseImage{base}})
	body := strings.Replace(volumeBody, "admin", "root", 1)
	buildertest.Run(t, buildertest.Options{
		New: func() builders.Builder { return NewVolume(c.env) }, Type: volumeName, Config: body,
		Exists: func(l builders.Lease) bool {
			if l.Kind != leaseKept {
				return c.leased(l)
			}
			return slices.ContainsFunc(c.Left(), func(th ec2.Thing) bool { return th.Kind == "volume" && th.Tags[tagKeep] == l.Name })
		},
		Bad: []buildertest.Bad{
			{Name: "nothing stays", Config: helperBody + "ebs_volumes {\ndevice_name = \"/dev/xvdf\"\nvolume_size = 1\ndelete_on_termination = true\n}\n", Option: "ebs_volumes"},
			{Name: "no such key", Config: body + "ebs_volumes {\ndevice_name = \"/dev/xvdk\"\nvolume_size = 1\nencrypted = true\nkms_key_id = \"alias/none\"\n}\n", Option: "ebs_volumes.3.kms_key_id"},
		},
	})
	// A bake that is only booted is recorded nowhere, and those of the suite are all failures but one.
	if left := c.temporary(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestEveryFaultOfVolumeSnapshot(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	body := strings.Replace(volumeBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1)
	points, failed := everyFaultOfSnapshot(t, c, volumeName, func() builders.Builder { return NewVolume(c.env) }, body)
	t.Logf("%d points, of which %d bakes failed", points, failed)
	if points < 15 || failed < 5 {
		t.Errorf("only %d points, and %d failures", points, failed)
	}
}

func TestVolumeOptions(t *testing.T) {
	disk := func(more string) string {
		return "ebs_volumes {\ndevice_name = \"/dev/xvdf\"\nvolume_size = 10\n" + more + "\n}\n"
	}
	for body, want := range map[string]string{ // "": nothing; "~x": a warning
		disk(""):                       "",
		disk("snapshot_volume = true"): "",
		disk("delete_on_termination = true\nsnapshot_volume = true"):                          "",
		disk("delete_on_termination = true"):                                                  "ebs_volumes",
		disk("") + disk(""):                                                                   "ebs_volumes.1.device_name",
		disk("snapshot_volume = true\nsnapshot_users = [\"me\"]"):                             "ebs_volumes.0.snapshot_users.0",
		disk("snapshot_volume = true\nsnapshot_groups = [\"some\"]"):                          "ebs_volumes.0.snapshot_groups.0",
		disk("snapshot_volume = true\nencrypted = true\nsnapshot_groups = [\"all\"]"):         "ebs_volumes.0.snapshot_groups",
		disk("snapshot_volume = true\nencrypted = true\nsnapshot_users = [\"123456789012\"]"): "ebs_volumes.0.snapshot_users",
		disk("snapshot_description = \"x\""):                                                  "~ebs_volumes.0.snapshot_description",
		disk("tags = { \"ingot:x\" = \"y\" }"):                                                "ebs_volumes.0.tags.ingot:x",
		disk("tags = { x = \"{{ .Nothing }}\" }"):                                             "ebs_volumes.0.tags.x",
		disk("virtual_name = \"ephemeral0\"\nsnapshot_volume = true"):                         "ebs_volumes.0.snapshot_volume",
		disk("") + "ena_support = true":                                                       "~ena_support",
		disk("snapshot_volume = true") + "spot_price = \"auto\"":                              "~ebs_volumes.0.snapshot_volume",
	} {
		b := NewVolume(NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly})))
		decodeInto(t, b, strings.Replace(goodRun, "ami_name = \"web\"\n", "", 1)+body)
		ps := b.o.check()
		option, warning := strings.CutPrefix(want, "~")
		if want == "" && len(ps) > 0 {
			t.Errorf("%s: %+v", body, ps)
		}
		if want != "" && !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == option && p.Warning == warning && p.Summary != "" }) {
			t.Errorf("%s: %+v, want %s", body, ps, want)
		}
	}
}
