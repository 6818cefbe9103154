package amazon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// volumeID is Packer's name for the artifacts.
const volumeID = "mitchellh.amazon.ebsvolume"

// volumeName is what a template calls the builder.
const volumeName = "amazon-ebsvolume"

// leaseKept is the lease of a volume that stays when the bake has succeeded. Its
// name is the value of the volume's tag tagKeep.
const leaseKept = "kept-volume"

// Volume bakes volumes, and snapshots of them, in place of an AMI: amazon-ebsvolume.
type Volume struct {
	onInstance
	o VolumeSource
}

// NewVolume makes an amazon-ebsvolume builder for one bake.
func NewVolume(env *Env) *Volume {
	return &Volume{onInstance: onInstance{env: env}, o: VolumeSource{RunOptions: runDefaults(), Options: communicator.Defaults()}}
}

var _ builders.Resumer = (*Volume)(nil)

// Options implements builders.Builder.
func (b *Volume) Options() any { return &b.o }

// Check implements builders.Builder.
func (b *Volume) Check(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	ps := problems(b.o.Access.Check())
	b.reach(ctx, &b.o.Access, env, &ps)
	ps = append(ps, b.o.check()...)
	ps = append(ps, b.o.RunOptions.check(&b.o.Options, env.Dir)...)
	ps = append(ps, b.o.Options.Check(env.Dir, communicator.Rules{User: true})...)
	if b.session == nil || wrong(ps) {
		return ps // the account is asked about options that are right
	}
	flight := &preflight{
		session: b.session, looks: b.env.lookups(b.session, &b.o.Access, &b.o.RunOptions), run: &b.o.RunOptions, comm: &b.o.Options, options: &b.o, env: preflightEnv(env.Dir),
		ami: &AMIOptions{}, ebs: &EBSOptions{SkipCreateAMI: true, LaunchMappings: b.o.devices()}, devicesOption: "ebs_volumes",
		mappings: func(types.Image) []types.BlockDeviceMapping { return b.o.launched() },
	}
	return append(ps, flight.check(ctx)...)
}

// Boot implements builders.Builder.
func (b *Volume) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	if err := b.begin(ctx, run, volumeName, &b.o.Access, &b.o.RunOptions, &b.o.Options); err != nil {
		return nil, err
	}
	// Until the bake has succeeded, all of its volumes go with the instance.
	b.run.launch, b.run.loose = func(types.Image) []types.BlockDeviceMapping { return b.o.launched() }, true
	if i := slices.IndexFunc(b.o.EBSVolumes, func(v KeptVolume) bool { return v.SnapshotVolume }); i >= 0 {
		b.run.allowed = func(ctx context.Context, id string) error {
			return maySnapshot(ctx, b.session, run, id, b.o.EBSVolumes[i].DeviceName)
		}
	}
	return b.run.boot(ctx)
}

// Snapshot implements builders.Builder: it makes the volumes stay.
func (b *Volume) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if b.run == nil {
		return nil, errors.New("there is no machine whose volumes are to stay")
	}
	id, err := b.run.stop(ctx)
	if err != nil {
		return nil, err
	}
	instance, err := b.session.Instances("").Get(ctx, id)
	if err != nil {
		return nil, awscloud.Explain(err)
	}
	p, err := b.plan(ctx, volumesOf(instance))
	if err != nil {
		return nil, err
	}
	return (&keeping{plan: p, env: b.env, session: b.session, run: run}).finish(ctx)
}

// plan is what remains to be done with the instance's volumes.
func (b *Volume) plan(ctx context.Context, volumes map[string]string) (*volumesPlan, error) {
	r := b.run
	p := &volumesPlan{
		BakeID: r.run.BakeID, Access: b.o.Access.Public(), Region: b.session.Region, Source: r.source,
		Parent: aws.ToString(r.image.ImageId), Values: sourceValues(b.session.Region, r.image),
	}
	for i := range b.o.EBSVolumes {
		v := &b.o.EBSVolumes[i]
		if v.NoDevice || v.VirtualName != "" {
			continue
		}
		at := fmt.Sprintf("ebs_volumes.%d.", i)
		one := volumePlan{
			Device: v.DeviceName, ID: volumes[v.DeviceName], Keep: v.stays(), Snapshot: v.SnapshotVolume, Description: v.SnapshotDescription,
			Users: v.SnapshotUsers, Groups: v.SnapshotGroups,
		}
		if one.ID == "" {
			return nil, fmt.Errorf("the instance has no volume at %s any more", v.DeviceName)
		}
		if one.Description == "" {
			one.Description = fmt.Sprintf("Ingot: %s %s", r.source, v.DeviceName)
		}
		var err error
		if one.Tags, err = r.userTags(ctx, at+"tags", v.Tags, v.Tag); err != nil {
			return nil, err
		}
		if one.SnapshotTags, err = r.userTags(ctx, at+"snapshot_tags", v.SnapshotTags, v.SnapshotTag); err != nil {
			return nil, err
		}
		one.SnapshotTags[tagBuild] = r.run.BakeID
		p.Volumes = append(p.Volumes, one)
	}
	return p, nil
}

// Release implements builders.Builder.
func (b *Volume) Release(ctx context.Context, l builders.Lease) error {
	return b.release(ctx, &b.o.Access, l)
}

// Orphans implements builders.Builder. What a bake has finished is none: it has tagKeep.
func (b *Volume) Orphans(ctx context.Context, olderThan time.Duration) ([]builders.Lease, error) {
	return b.orphans(ctx, &b.o.Access, volumeName, olderThan, true)
}

// Resume implements builders.Resumer.
func (b *Volume) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	i := slices.IndexFunc(open, func(l builders.Lease) bool {
		return (l.Kind == leaseKept || l.Kind == leaseSnapshot) && l.Data[builders.Resumable] != ""
	})
	if i < 0 {
		return nil, fmt.Errorf("%w: none of its leases says how", builders.ErrImageLost)
	}
	p := &volumesPlan{}
	if err := json.Unmarshal([]byte(open[i].Data[builders.Resumable]), p); err != nil {
		return nil, fmt.Errorf("the ledger's plan of the volumes cannot be read: %w", err)
	}
	if p.BakeID == "" || p.Region == "" || len(p.Volumes) == 0 {
		return nil, errors.New("the ledger's plan of the volumes is not whole")
	}
	access, err := awscloud.ReadPublic(p.Access)
	if err != nil {
		return nil, err
	}
	access.Region = p.Region
	session, err := b.env.Shared.Connect(ctx, access)
	if err != nil {
		return nil, err
	}
	return (&keeping{plan: p, env: b.env, session: session, run: run, resumed: open}).finish(ctx)
}

// volumesPlan is all that remains to be done once the instance is stopped. It
// stands in the leases of what is made, so that another process can go on with it.
type volumesPlan struct {
	BakeID  string            `json:"bake"`
	Access  string            `json:"access"`
	Region  string            `json:"region"`
	Source  string            `json:"source"`
	Volumes []volumePlan      `json:"volumes"`
	Parent  string            `json:"parent,omitempty"`
	Values  map[string]string `json:"values,omitempty"`
}

// volumePlan is one volume.
type volumePlan struct {
	Device       string            `json:"device"`
	ID           string            `json:"id"`
	Keep         bool              `json:"keep,omitempty"`
	Tags         map[string]string `json:"tags,omitempty"`
	Snapshot     bool              `json:"snapshot,omitempty"`
	Description  string            `json:"description,omitempty"`
	SnapshotTags map[string]string `json:"snapshot_tags,omitempty"`
	Users        []string          `json:"users,omitempty"`
	Groups       []string          `json:"groups,omitempty"`
}

// keeping is the way from the stopped instance to volumes that stay, and their
// snapshots. Each step can be taken again.
type keeping struct {
	plan    *volumesPlan
	env     *Env
	session *awscloud.Session
	run     *builders.Run
	// resumed are the leases that an earlier process left; nil: this is the first.
	resumed []builders.Lease
}

// tail is the way of one volume, which is that of an AMI of this volume alone.
func (k *keeping) tail(v volumePlan) *tail {
	return &tail{
		session: k.session, remover: remover{k.session, k.env.Settle}, run: k.run, resumed: k.resumed,
		plan: &imagePlan{
			BakeID: k.plan.BakeID, Access: k.plan.Access, Region: k.plan.Region, Source: k.plan.Source, FirstName: "ingot-" + k.plan.BakeID,
			Volumes: map[string]string{v.Device: v.ID}, SnapshotDescription: v.Description, SnapshotTags: v.SnapshotTags,
			SnapshotUsers: v.Users, SnapshotGroups: v.Groups,
		},
	}
}

// claim is the lease of something that stays: an open one of this bake, or a new one.
func (k *keeping) claim(ctx context.Context, kind, device string) (builders.Lease, error) {
	name := "ingot-" + k.plan.BakeID + ":" + device
	for _, l := range slices.Concat(k.run.Leases.Open(), k.resumed) {
		if l.Kind == kind && l.Name == name {
			return l, nil
		}
	}
	plan, err := json.Marshal(k.plan)
	if err != nil {
		return builders.Lease{}, fmt.Errorf("write down the plan of the volumes: %w", err)
	}
	return k.run.Leases.Intend(ctx, kind, name, map[string]string{
		builders.UntilRecorded: "yes", builders.Resumable: string(plan), dataRegion: k.plan.Region, dataAccess: k.plan.Access, dataSource: k.plan.Source,
	})
}

func (k *keeping) finish(ctx context.Context) (*builders.Artifact, error) {
	snapshots := make([]string, len(k.plan.Volumes))
	verdict := k.tail(volumePlan{}).verdict
	// First of all they are kept: the rest can then be done by another process.
	if err := k.each(ctx, verdict, func(ctx context.Context, i int) error { return k.keep(ctx, k.plan.Volumes[i]) }); err != nil {
		return nil, err
	}
	k.untie(ctx)
	if err := k.each(ctx, verdict, func(ctx context.Context, i int) (err error) {
		snapshots[i], err = k.snapshot(ctx, k.plan.Volumes[i])
		return err
	}); err != nil {
		return nil, err
	}
	if err := k.finished(ctx, snapshots); err != nil {
		return nil, verdict(ctx, err)
	}
	return k.artifact(snapshots), nil
}

// finished marks snapshots as what is to stay, for a sweep that has lost the ledger.
func (k *keeping) finished(ctx context.Context, snapshots []string) error {
	ids := slices.DeleteFunc(slices.Clone(snapshots), func(id string) bool { return id == "" })
	if len(ids) == 0 {
		return nil
	}
	err := k.tail(volumePlan{}).patiently(ctx, "the snapshots to be tagged", func(ctx context.Context) error {
		_, err := k.session.EC2(k.plan.Region).CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagKeep), Value: aws.String("finished")}}})
		return err
	})
	if err != nil {
		return fmt.Errorf("tag %s as finished: %w", strings.Join(ids, ", "), err)
	}
	return nil
}

// each does something with every volume, side by side.
func (k *keeping) each(ctx context.Context, verdict func(context.Context, ...error) error, do func(context.Context, int) error) error {
	errs := make([]error, len(k.plan.Volumes))
	var wg sync.WaitGroup
	for i, v := range k.plan.Volumes {
		wg.Go(func() {
			if err := do(ctx, i); err != nil {
				errs[i] = fmt.Errorf("%s: %w", v.Device, err)
			}
		})
	}
	wg.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 0 {
		return nil
	}
	return verdict(ctx, errs...)
}

// keep makes a volume stay: with its tag, the release of the instance leaves it alone.
func (k *keeping) keep(ctx context.Context, v volumePlan) error {
	if !v.Keep {
		return nil
	}
	l, err := k.claim(ctx, leaseKept, v.Device)
	if err != nil {
		return err
	}
	if l.ExternalID == "" {
		if err := k.run.Leases.Created(context.WithoutCancel(ctx), l, v.ID); err != nil {
			return err
		}
	}
	t := k.tail(v)
	tags := maps.Clone(v.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	tags[tagKeep] = l.Name
	err = t.patiently(ctx, v.ID+" to be tagged", func(ctx context.Context) error {
		_, err := k.session.EC2(k.plan.Region).CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{v.ID}, Tags: ec2Tags(tags)})
		return err
	})
	if err != nil {
		err = fmt.Errorf("tag %s, so that it stays: %w", v.ID, t.lost(err))
		if k.resumed == nil && ctx.Err() == nil {
			return &notBegunError{err} // without the tag it goes with the instance
		}
		return err
	}
	k.run.Events.Say(fmt.Sprintf("%s (%s) stays.", v.ID, v.Device))
	return nil
}

// untie takes from what stays the tags of something temporary.
func (k *keeping) untie(ctx context.Context) {
	var ids []string
	for _, v := range k.plan.Volumes {
		if v.Keep {
			ids = append(ids, v.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	_, err := k.session.EC2(k.plan.Region).DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{{Key: aws.String(tagExpires)}, {Key: aws.String(tagLease)}}})
	if err != nil && ctx.Err() == nil {
		k.run.Events.Warn(fmt.Sprintf("The tags %s and %s could not be taken off %s, which stay nevertheless: %v", tagExpires, tagLease, strings.Join(ids, ", "), awscloud.Explain(err)))
	}
}

// snapshot makes the snapshot of a volume, waits for it and shares it.
func (k *keeping) snapshot(ctx context.Context, v volumePlan) (string, error) {
	if !v.Snapshot {
		return "", nil
	}
	l, err := k.claim(ctx, leaseSnapshot, v.Device)
	if err != nil {
		return "", err
	}
	t := k.tail(v)
	id := l.ExternalID
	if id == "" {
		k.run.Events.Say(fmt.Sprintf("Taking a snapshot of %s (%s).", v.ID, v.Device))
		if id, err = t.captureOne(ctx, v.Device); err != nil {
			return "", fmt.Errorf("take a snapshot of %s: %w", v.ID, t.lost(err))
		}
		if err := k.run.Leases.Created(context.WithoutCancel(ctx), l, id); err != nil {
			return "", err
		}
	}
	if _, err := k.session.WaitSnapshot(ctx, k.plan.Region, id); err != nil {
		return "", t.lost(err)
	}
	if perms := t.plan.volumePermissions(); len(perms) > 0 {
		err := t.patiently(ctx, id+" to be shared", func(ctx context.Context) error {
			_, err := k.session.EC2(k.plan.Region).ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{
				SnapshotId: &id, Attribute: types.SnapshotAttributeNameCreateVolumePermission,
				CreateVolumePermission: &types.CreateVolumePermissionModifications{Add: perms},
			})
			return err
		})
		if err != nil {
			return "", fmt.Errorf("share %s: %w", id, err)
		}
	}
	k.run.Events.Say(fmt.Sprintf("%s is completed.", id))
	return id, nil
}

// artifact is what stays.
func (k *keeping) artifact(snapshots []string) *builders.Artifact {
	p := k.plan
	a := &builders.Artifact{BuilderID: volumeID, Parent: p.Parent, Values: map[string]string{}}
	maps.Copy(a.Values, p.Values)
	var ids, volumes []string
	for i, v := range p.Volumes {
		if v.Keep {
			ids, volumes = append(ids, v.ID), append(volumes, v.ID)
		}
		if snapshots[i] != "" {
			ids = append(ids, snapshots[i])
		}
	}
	slices.Sort(ids)
	var named []string
	for _, id := range ids {
		named = append(named, p.Region+":"+id)
		what := "VolumeDetails:volumeId="
		if strings.HasPrefix(id, "snap-") {
			what = "SnapshotDetails:snapshotId="
		}
		a.Places = append(a.Places, builders.Place{Platform: "amazon", Region: p.Region, ID: id, Location: consolePage(p.Region, what+id)})
	}
	a.ID = strings.Join(named, ",")
	a.Text = "EBS Volumes were created: " + strings.Join(named, ", ")
	r := &releaser{env: k.env, session: k.session, region: p.Region}
	a.Destroy = func(ctx context.Context) error {
		var errs []error
		for _, id := range volumes {
			errs = append(errs, r.deleteVolume(ctx, builders.Lease{}, id))
		}
		made := slices.DeleteFunc(slices.Clone(snapshots), func(id string) bool { return id == "" })
		return errors.Join(append(errs, remover{k.session, k.env.Settle}.removeSnapshots(ctx, p.Region, "", made, ""))...)
	}
	return a
}

// kept deletes a volume that was to stay, of a bake that has failed. What of the
// bake still has it ends first.
func (r *releaser) kept(ctx context.Context, l builders.Lease) error {
	c := r.session.EC2(r.region)
	out, err := c.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{
		{Name: aws.String("tag:" + tagBuild), Values: []string{l.BakeID}}, {Name: aws.String("tag:" + tagKeep), Values: []string{l.Name}},
	}})
	if err != nil {
		return fmt.Errorf("look for the volume %s: %w", l.Name, awscloud.Explain(err))
	}
	ids := []string{}
	if l.ExternalID != "" {
		ids = append(ids, l.ExternalID)
	}
	for _, v := range out.Volumes {
		if id := aws.ToString(v.VolumeId); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		if err := r.endHolder(ctx, l, id); err != nil {
			return err
		}
		if err := r.deleteVolume(ctx, builders.Lease{}, id); err != nil {
			return err
		}
	}
	return nil
}

// endHolder terminates the instance of the lease's bake that has a volume.
func (r *releaser) endHolder(ctx context.Context, l builders.Lease, volume string) error {
	v, err := r.session.Volumes(r.region).Get(ctx, volume)
	if awscloud.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", volume, awscloud.Explain(err))
	}
	for _, a := range v.Attachments {
		i, err := r.session.Instances(r.region).Get(ctx, aws.ToString(a.InstanceId))
		if awscloud.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s, which has %s: %w", aws.ToString(a.InstanceId), volume, awscloud.Explain(err))
		}
		if tagOf(i.Tags, tagBuild) != l.BakeID {
			return fmt.Errorf("%s is attached to %s, which is no instance of the bake: detach it there, then sweep again", volume, aws.ToString(i.InstanceId))
		}
		err = r.instance(ctx, builders.Lease{BakeID: l.BakeID, Kind: leaseInstance, ExternalID: aws.ToString(i.InstanceId), Created: l.Created})
		if err != nil {
			return err
		}
	}
	return nil
}
