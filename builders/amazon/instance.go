package amazon

import (
	"context"
	"fmt"
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

// onInstance is what the builders share that bake on an instance.
type onInstance struct {
	env     *Env
	session *awscloud.Session
	run     *running
}

// reach connects to the account for Check, and returns the build's region, as
// far as it is known.
func (b *onInstance) reach(ctx context.Context, a *awscloud.Access, env *builders.CheckEnv, ps *problems) string {
	if env.Validate {
		return a.Region
	}
	s, err := b.env.Shared.Connect(ctx, a)
	if err != nil {
		ps.add("", "The AWS account cannot be reached", "%v.", err)
		return a.Region
	}
	b.session = s
	return s.Region
}

// begin makes ready what a bake on an instance needs.
func (b *onInstance) begin(ctx context.Context, run *builders.Run, builder string, a *awscloud.Access, o *RunOptions, comm *communicator.Options) error {
	s, err := b.env.Shared.Connect(ctx, a)
	if err != nil {
		return err
	}
	b.session = s
	for _, n := range s.Notes {
		run.Events.Say(n)
	}
	b.run = &running{
		env: b.env, session: s, access: a, o: o, comm: comm, run: run, source: builder + "." + run.Source, looks: b.env.lookups(s, a, o),
	}
	return nil
}

// proof boots an AMI of the bake in the build's region.
func (b *onInstance) proof(ctx context.Context, a *builders.Artifact) (machine.Machine, error) {
	for _, p := range a.Places {
		if p.Region == b.session.Region {
			return b.run.proof(ctx, p.ID)
		}
	}
	return nil, fmt.Errorf("the AMI is not in %s, where the bake's network is, so that it cannot be booted there: leave out skip_save_build_region, or the specs after the snapshot", b.session.Region)
}

// release gives a lease back. a is how the account is reached where the options
// have been decoded.
func (b *onInstance) release(ctx context.Context, a *awscloud.Access, l builders.Lease) error {
	r := &releaser{env: b.env, session: b.session, region: l.Data[dataRegion], run: b.run}
	if r.session == nil {
		if a.Region == "" && a.AccessKey == "" { // not decoded
			var err error
			if a, err = awscloud.ReadPublic(l.Data[dataAccess]); err != nil {
				return err
			}
		}
		var err error
		if r.session, err = b.env.Shared.Connect(ctx, a); err != nil {
			return err
		}
	}
	if r.region == "" {
		r.region = r.session.Region
	}
	images := remover{r.session, b.env.Settle}
	switch l.Kind {
	case leaseImage:
		return images.releaseImage(ctx, l)
	case leaseParameter:
		return images.releaseParameter(ctx, l)
	}
	if release, ok := r.kinds()[l.Kind]; ok {
		return release(ctx, l)
	}
	return fmt.Errorf("this Ingot does not know how to give back a %s of %s", l.Kind, l.Builder)
}

// orphans finds what bakes of a builder have left. With snapshots, those that no
// image is made of count too.
func (b *onInstance) orphans(ctx context.Context, a *awscloud.Access, builder string, olderThan time.Duration, snapshots bool) ([]builders.Lease, error) {
	s, err := b.env.Shared.Connect(ctx, a)
	if err != nil {
		return nil, err
	}
	all, err := orphans(ctx, s, a, builder, olderThan)
	if err != nil || !snapshots {
		return all, err
	}
	more, err := orphanSnapshots(ctx, s, a, builder, olderThan)
	return append(all, more...), err
}

// wrong says whether something is wrong, so that the account need not be asked.
func wrong(ps []config.Problem) bool {
	for _, p := range ps {
		if !p.Warning {
			return true
		}
	}
	return false
}

// volumesOf are the volumes of an instance, by device name.
func volumesOf(i types.Instance) map[string]string {
	all := map[string]string{}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil {
			all[aws.ToString(m.DeviceName)] = aws.ToString(m.Ebs.VolumeId)
		}
	}
	return all
}

// maySnapshot has EC2 say whether a snapshot may be made of a device of the
// instance, before anything is provisioned on it for nothing.
func maySnapshot(ctx context.Context, s *awscloud.Session, run *builders.Run, instance, device string) error {
	volume := ""
	w := awscloud.Wait{What: device + " of " + instance + " to show", Pace: awscloud.InstancePace}
	_, err := awscloud.Watch(ctx, s, s.Instances(""), instance, w, func(i types.Instance) (bool, string, error) {
		volume = volumesOf(i)[device]
		ended := i.State != nil && i.State.Name != types.InstanceStateNamePending
		return volume != "" || ended, "", nil
	})
	if err != nil || volume == "" {
		return nil // who connects to the instance says more of it
	}
	_, err = s.EC2("").CreateSnapshot(ctx, &ec2.CreateSnapshotInput{
		DryRun: aws.Bool(true), VolumeId: &volume, TagSpecifications: tagged(types.ResourceTypeSnapshot, map[string]string{tagBuild: run.BakeID}),
	})
	if awscloud.Code(err) == "UnauthorizedOperation" {
		return fmt.Errorf("no snapshot may be made of the instance's volumes: %w", awscloud.Explain(err))
	}
	return nil
}
