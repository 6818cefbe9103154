package amazon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// surrogateID is Packer's name for the artifacts.
const surrogateID = "mitchellh.amazon.ebssurrogate"

// surrogateName is what a template calls the builder.
const surrogateName = "amazon-ebssurrogate"

// Surrogate bakes on a further volume of an instance, which becomes the root of
// the AMI: amazon-ebssurrogate.
type Surrogate struct {
	onInstance
	o SurrogateSource
}

// NewSurrogate makes an amazon-ebssurrogate builder for one bake.
func NewSurrogate(env *Env) *Surrogate {
	return &Surrogate{onInstance: onInstance{env: env}, o: SurrogateSource{RunOptions: runDefaults(), Options: communicator.Defaults()}}
}

var (
	_ builders.Proofer   = (*Surrogate)(nil)
	_ builders.Publisher = (*Surrogate)(nil)
	_ builders.Resumer   = (*Surrogate)(nil)
)

// Options implements builders.Builder.
func (b *Surrogate) Options() any { return &b.o }

// Check implements builders.Builder.
func (b *Surrogate) Check(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	ps := problems(b.o.Access.Check())
	region := b.reach(ctx, &b.o.Access, env, &ps)
	ps = append(ps, b.o.AMIOptions.Check(region)...)
	ps = append(ps, b.o.check()...)
	ps = append(ps, b.o.RunOptions.check(&b.o.Options, env.Dir)...)
	ps = append(ps, b.o.Options.Check(env.Dir, communicator.Rules{User: true})...)
	if b.session == nil || wrong(ps) {
		return ps // the account is asked about options that are right
	}
	ami := b.o.AMIOptions
	if !b.o.UseCreateImage {
		// What is built need not be like the source AMI.
		ami.AMIVirtualizationType, ami.ENASupport, ami.SriovSupport = "", nil, false
	}
	flight := &preflight{
		session: b.session, looks: b.looks(), ami: &ami, ebs: &EBSOptions{LaunchMappings: b.o.launched()}, run: &b.o.RunOptions, comm: &b.o.Options,
		mappings: b.launchMappings, options: &b.o, force: env.Force, env: preflightEnv(env.Dir),
	}
	ps = append(ps, flight.check(ctx)...)
	b.checkImage(ctx, &ps)
	return ps
}

func (b *Surrogate) looks() *lookups { return b.env.lookups(b.session, &b.o.Access, &b.o.RunOptions) }

// launchMappings are the block devices to launch with.
func (b *Surrogate) launchMappings(source types.Image) []types.BlockDeviceMapping {
	return launchMappings(&b.o.AMIOptions, mappings(b.o.launched()), &source, b.session.Region)
}

// Boot implements builders.Builder.
func (b *Surrogate) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	if err := b.begin(ctx, run, surrogateName, &b.o.Access, &b.o.RunOptions, &b.o.Options); err != nil {
		return nil, err
	}
	b.run.launch, b.run.loose = b.launchMappings, b.o.UseCreateImage
	for _, d := range b.o.LaunchMappings {
		if d.DeleteOnTermination != nil && !*d.DeleteOnTermination {
			b.run.keep = append(b.run.keep, d.DeviceName)
		}
	}
	b.run.allowed = func(ctx context.Context, id string) error {
		if b.o.UseCreateImage {
			return mayMakeImage(ctx, b.session, run, id)
		}
		return maySnapshot(ctx, b.session, run, id, b.o.AMIRootDevice.SourceDeviceName)
	}
	return b.run.boot(ctx)
}

// BootProof implements builders.Proofer.
func (b *Surrogate) BootProof(ctx context.Context, _ *builders.Run, a *builders.Artifact) (machine.Machine, error) {
	return b.proof(ctx, a)
}

// Snapshot implements builders.Builder.
func (b *Surrogate) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if b.run == nil {
		return nil, errors.New("there is no machine to make an AMI of")
	}
	id, err := b.run.stop(ctx)
	if err != nil {
		return nil, err
	}
	instance, err := b.session.Instances("").Get(ctx, id)
	if err != nil {
		return nil, awscloud.Explain(err)
	}
	order := ImageOrder{
		Env: b.env, Session: b.session, Access: b.o.Access.Public(), BuilderID: surrogateID, AMI: &b.o.AMIOptions,
		Source: &b.run.image, Encrypted: b.o.encrypts(), // launchMappings has seen to it
	}
	if !b.o.SkipAMIRunTags {
		if order.RunTags, err = b.run.userTags(ctx, "run_tags", b.o.RunTags, b.o.RunTag); err != nil {
			return nil, err
		}
	}
	if b.o.UseCreateImage {
		if err := b.swap(ctx, instance); err != nil {
			return nil, err
		}
		order.Create = &ec2.CreateImageInput{InstanceId: &id, BlockDeviceMappings: b.furtherMappings()}
		return MakeImage(ctx, run, order)
	}
	if order.Register, order.Volumes, err = b.o.registration(volumesOf(instance)); err != nil {
		return nil, err
	}
	if order.SnapshotDescription = b.o.SnapshotDescription; order.SnapshotDescription == "" {
		order.SnapshotDescription = "Ingot: " + b.o.AMIName
	}
	return MakeImage(ctx, run, order)
}

// furtherMappings are the AMI's block devices beside the instance's own.
func (b *Surrogate) furtherMappings() []types.BlockDeviceMapping {
	own := map[string]bool{}
	for _, d := range b.o.LaunchMappings {
		own[d.DeviceName] = !d.OmitFromArtifact && d.DeviceName != b.o.AMIRootDevice.SourceDeviceName
	}
	own[b.o.AMIRootDevice.DeviceName] = true
	var further []types.BlockDeviceMapping
	for _, m := range mappings(b.o.AMIMappings) {
		if !own[aws.ToString(m.DeviceName)] {
			further = append(further, m)
		}
	}
	return further
}

// swap puts the volume that was built in the place of the stopped instance's
// root, and takes off what is not to be in the AMI. All of it goes with the
// instance's lease, wherever it is attached.
func (b *Surrogate) swap(ctx context.Context, i types.Instance) error {
	id, root, source := aws.ToString(i.InstanceId), aws.ToString(i.RootDeviceName), b.o.AMIRootDevice.SourceDeviceName
	if root != b.o.AMIRootDevice.DeviceName {
		return fmt.Errorf("the root device of the instance %s is %s, and that of the AMI is to be %s, which use_create_image cannot change", id, root, b.o.AMIRootDevice.DeviceName)
	}
	volumes := volumesOf(i)
	built := volumes[source]
	if built == "" {
		return fmt.Errorf("the instance %s has no volume at %s any more, which was to be the AMI's root", id, source)
	}
	off := map[string]bool{}
	for _, d := range b.o.LaunchMappings {
		if d.OmitFromArtifact {
			off[volumes[d.DeviceName]] = true
		}
	}
	if source != root {
		off[volumes[root]], off[built] = true, true
		b.run.run.Events.Say(fmt.Sprintf("Putting %s in the place of the root of %s", built, id))
	}
	var g errgroup.Group
	for v := range off {
		if v != "" {
			g.Go(func() error { return b.detach(ctx, id, v) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if source != root {
		if err := b.attach(ctx, id, built, root); err != nil {
			return err
		}
	}
	// An instance of the AMI has it from here.
	device := b.o.AMIRootDevice.over(b.o.LaunchMappings[b.o.source()].BlockDevice)
	ends := device.mapping().Ebs.DeleteOnTermination
	err := b.session.Wait(ctx, awscloud.Wait{What: id + " to take delete_on_termination of its root", First: -1}, func(ctx context.Context) (bool, string, error) {
		_, err := b.session.EC2("").ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &id, BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{
			{DeviceName: &root, Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: ends}},
		}})
		if awscloud.Code(err) == "InvalidInstanceAttributeValue" {
			return false, "not attached yet", nil
		}
		return err == nil, "", err
	})
	if err != nil {
		return fmt.Errorf("set delete_on_termination of the root of %s: %w", id, err)
	}
	return nil
}

func (b *Surrogate) detach(ctx context.Context, instance, volume string) error {
	err := b.session.Wait(ctx, awscloud.Wait{What: volume + " to be detached", First: -1}, func(ctx context.Context) (bool, string, error) {
		_, err := b.session.EC2("").DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &volume, InstanceId: &instance})
		if awscloud.Code(err) == "IncorrectState" {
			err = nil // it has gone already, or is on its way: an earlier try was not answered
		}
		return err == nil, "", err
	})
	if err == nil {
		_, err = b.session.WaitVolume(ctx, "", volume, types.VolumeStateAvailable)
	}
	if err != nil {
		return fmt.Errorf("detach %s from %s: %w", volume, instance, err)
	}
	return nil
}

func (b *Surrogate) attach(ctx context.Context, instance, volume, device string) error {
	err := b.session.Wait(ctx, awscloud.Wait{What: volume + " to be attached", First: -1}, func(ctx context.Context) (bool, string, error) {
		_, err := b.session.EC2("").AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &volume, InstanceId: &instance, Device: &device})
		switch code := awscloud.Code(err); {
		case code == "VolumeInUse":
			err = nil // an earlier try was not answered
		case code == "IncorrectState", nameTaken(err):
			return false, awscloud.Explain(err).Error(), nil // what was detached is not gone for all of EC2 yet
		}
		return err == nil, "", err
	})
	var v types.Volume
	if err == nil {
		v, err = b.session.WaitVolume(ctx, "", volume, types.VolumeStateInUse)
	}
	if err == nil && (len(v.Attachments) != 1 || aws.ToString(v.Attachments[0].InstanceId) != instance || aws.ToString(v.Attachments[0].Device) != device) {
		err = errors.New("it is attached elsewhere")
	}
	if err != nil {
		return fmt.Errorf("attach %s to %s as %s: %w", volume, instance, device, err)
	}
	return nil
}

// Release implements builders.Builder.
func (b *Surrogate) Release(ctx context.Context, l builders.Lease) error {
	return b.release(ctx, &b.o.Access, l)
}

// Orphans implements builders.Builder.
func (b *Surrogate) Orphans(ctx context.Context, olderThan time.Duration) ([]builders.Lease, error) {
	return b.orphans(ctx, &b.o.Access, surrogateName, olderThan, true)
}

// Publish implements builders.Publisher.
func (b *Surrogate) Publish(ctx context.Context, run *builders.Run, a *builders.Artifact) (*builders.Artifact, error) {
	return PublishImage(ctx, b.env, b.session, run, a)
}

// Resume implements builders.Resumer.
func (b *Surrogate) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	return ResumeImage(ctx, b.env, run, open)
}
