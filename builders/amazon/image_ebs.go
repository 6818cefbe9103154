package amazon

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
)

// builderID is what Packer calls AMIs of amazon-ebs.
const builderID = "mitchellh.amazonebs"

// launchMappings are the block devices that the instance is launched with.
func (o *Options) launchMappings(build string) func(types.Image) []types.BlockDeviceMapping {
	return func(source types.Image) []types.BlockDeviceMapping {
		return launchMappings(&o.AMIOptions, mappings(o.LaunchMappings), &source, build)
	}
}

// preflight are the checks of the account before the bake.
func (b *Builder) preflight(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	p := &preflight{
		session: b.session, looks: b.env.lookups(b.session, &b.o.Access, &b.o.RunOptions), ami: &b.o.AMIOptions, ebs: &b.o.EBSOptions, run: &b.o.RunOptions,
		mappings: b.o.launchMappings(b.session.Region), options: &b.o, force: env.Force, env: preflightEnv(env.Dir, time.Now()),
	}
	return p.check(ctx)
}

// image makes the AMI of the stopped instance; nil with skip_create_ami.
func (b *Builder) image(ctx context.Context, run *builders.Run, instance string) (*builders.Artifact, error) {
	o := ImageOrder{
		Env: b.env, Session: b.session, Access: b.o.Access.Public(), BuilderID: builderID, AMI: &b.o.AMIOptions, FastLaunch: b.o.FastLaunch, Source: &b.run.image,
		Create: &ec2.CreateImageInput{InstanceId: aws.String(instance), BlockDeviceMappings: imageMappings(&b.o.AMIOptions, b.o.NoEphemeral)},
		// The volumes were encrypted at the launch: see launchMappings.
		Encrypted: b.o.encrypts(),
	}
	if !b.o.SkipAMIRunTags {
		var err error
		if o.RunTags, err = b.run.userTags(ctx, "run_tags", b.o.RunTags, b.o.RunTag); err != nil {
			return nil, err
		}
	}
	return MakeImage(ctx, run, o)
}

// Resume implements builders.Resumer.
func (b *Builder) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	return ResumeImage(ctx, b.env, run, open)
}

// images are the kinds of leases that a finished image takes.
func (r *releaser) images() map[string]func(context.Context, builders.Lease) error {
	m := remover{r.session, r.env.Settle}
	return map[string]func(context.Context, builders.Lease) error{leaseImage: m.releaseImage, leaseParameter: m.releaseParameter, leaseSnapshot: m.releaseSnapshot}
}
