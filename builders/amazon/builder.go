// Package amazon is the builders that make Amazon machine images (AMIs).
package amazon

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/ssmtunnel"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// Env is what the Amazon builders of one process share. Make it with NewEnv.
type Env struct {
	Shared *awscloud.Shared
	// AddressURL is asked which address this host has in the internet.
	// Default: https://checkip.amazonaws.com.
	AddressURL string
	// Settle is how long a thing may exist before a search by its tags finds
	// it, for a release that knows no id. Default: 20 seconds.
	Settle time.Duration
	// Tunnel makes connections to a port of an instance through Session Manager.
	// Default: ssmtunnel.Through.
	Tunnel Tunnel
	// DevDir and SysDir take the place of /dev and /sys where the devices of
	// attached volumes are looked for, in tests. Default: these.
	DevDir, SysDir string

	mu     sync.Mutex
	looks  map[string]*lookups
	quotas map[quotaKey]*quotaLook
}

// Tunnel opens a way to a port of an instance that needs no open port of it.
type Tunnel func(ctx context.Context, s *awscloud.Session, region, instance string, port int, events event.Scope) (dial func(context.Context) (net.Conn, error), close func() error, err error)

// NewEnv makes what the builders of one process share.
func NewEnv(shared *awscloud.Shared) *Env {
	return &Env{Shared: shared, AddressURL: "https://checkip.amazonaws.com", Settle: 20 * time.Second, Tunnel: ssmtunnel.Through, looks: map[string]*lookups{}, quotas: map[quotaKey]*quotaLook{}}
}

// Options are what a source "amazon-ebs" block can say.
type Options struct {
	awscloud.Access
	AMIOptions
	EBSOptions
	RunOptions
	communicator.Options
}

// Builder bakes on an instance whose volumes become the AMI: amazon-ebs.
type Builder struct {
	onInstance
	o Options
}

// New makes a builder for one bake.
func New(env *Env) *Builder {
	return &Builder{onInstance: onInstance{env: env}, o: Options{RunOptions: runDefaults(), Options: communicator.Defaults()}}
}

var (
	_ builders.Proofer   = (*Builder)(nil)
	_ builders.Publisher = (*Builder)(nil)
	_ builders.Resumer   = (*Builder)(nil)
)

// builderID is Packer's name for the artifacts.
const builderID = "mitchellh.amazonebs"

// typeName is what a template calls the builder.
const typeName = "amazon-ebs"

// Options implements builders.Builder.
func (b *Builder) Options() any { return &b.o }

// Check implements builders.Builder.
func (b *Builder) Check(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	ps := problems(b.o.Access.Check())
	region := b.reach(ctx, &b.o.Access, env, &ps)
	ps = append(ps, b.o.AMIOptions.Check(region)...)
	ps = append(ps, b.o.EBSOptions.Check(region, &b.o.AMIOptions)...)
	ps = append(ps, b.o.RunOptions.check(&b.o.Options, env.Dir)...)
	ps = append(ps, b.o.Options.Check(env.Dir, communicator.Rules{User: true})...)
	if b.session == nil || wrong(ps) {
		return ps // the account is asked about options that are right
	}
	flight := &preflight{
		session: b.session, looks: b.looks(), ami: &b.o.AMIOptions, ebs: &b.o.EBSOptions, run: &b.o.RunOptions, comm: &b.o.Options,
		mappings: b.launchMappings, options: &b.o, force: env.Force, env: preflightEnv(env.Dir),
	}
	return append(ps, flight.check(ctx)...)
}

func (b *Builder) looks() *lookups { return b.env.lookups(b.session, &b.o.Access, &b.o.RunOptions) }

// launchMappings are the block devices to launch with.
func (b *Builder) launchMappings(source types.Image) []types.BlockDeviceMapping {
	return launchMappings(&b.o.AMIOptions, mappings(b.o.LaunchMappings), &source, b.session.Region)
}

// Boot implements builders.Builder.
func (b *Builder) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	if err := b.begin(ctx, run, typeName, &b.o.Access, &b.o.RunOptions, &b.o.Options); err != nil {
		return nil, err
	}
	b.run.launch = b.launchMappings
	for _, d := range b.o.LaunchMappings {
		if d.DeleteOnTermination != nil && !*d.DeleteOnTermination {
			b.run.keep = append(b.run.keep, d.DeviceName)
		}
	}
	if !b.o.SkipCreateAMI {
		b.run.allowed = func(ctx context.Context, id string) error { return mayMakeImage(ctx, b.session, run, id) }
	}
	return b.run.boot(ctx)
}

// BootProof implements builders.Proofer.
func (b *Builder) BootProof(ctx context.Context, _ *builders.Run, a *builders.Artifact) (machine.Machine, error) {
	return b.proof(ctx, a)
}

// Release implements builders.Builder.
func (b *Builder) Release(ctx context.Context, l builders.Lease) error {
	return b.release(ctx, &b.o.Access, l)
}

// Orphans implements builders.Builder. The leases' Data names the source.
func (b *Builder) Orphans(ctx context.Context, olderThan time.Duration) ([]builders.Lease, error) {
	return b.orphans(ctx, &b.o.Access, typeName, olderThan, false)
}

// Snapshot implements builders.Builder.
func (b *Builder) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if b.run == nil {
		return nil, errors.New("there is no machine to make an AMI of")
	}
	id, err := b.run.stop(ctx)
	if err != nil {
		return nil, err
	}
	if b.o.SkipCreateAMI {
		return &builders.Artifact{BuilderID: builderID, ID: "skip_create_ami", Text: "No AMI was made, as skip_create_ami says", Values: sourceValues(b.session.Region, b.run.image)}, nil
	}
	order := ImageOrder{
		Env: b.env, Session: b.session, Access: b.o.Access.Public(), BuilderID: builderID, AMI: &b.o.AMIOptions, FastLaunch: b.o.FastLaunch,
		Source: &b.run.image, Encrypted: b.o.encrypts(), // launchMappings has seen to it
		Available: b.run.endEarly,
		Create:    &ec2.CreateImageInput{InstanceId: &id, BlockDeviceMappings: imageMappings(&b.o.AMIOptions, b.o.NoEphemeral)},
	}
	if !b.o.SkipAMIRunTags {
		if order.RunTags, err = b.run.userTags(ctx, "run_tags", b.o.RunTags, b.o.RunTag); err != nil {
			return nil, err
		}
	}
	return MakeImage(ctx, run, order)
}

// Publish implements builders.Publisher.
func (b *Builder) Publish(ctx context.Context, run *builders.Run, a *builders.Artifact) (*builders.Artifact, error) {
	return PublishImage(ctx, b.env, b.session, run, a)
}

// Resume implements builders.Resumer.
func (b *Builder) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	return ResumeImage(ctx, b.env, run, open)
}
