package amazon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/chroot"
)

// chrootBuilderID is Packer's name for the artifacts.
const chrootBuilderID = "mitchellh.amazon.chroot"

// The kinds of leases that only amazon-chroot has. What is started and mounted
// in the tree needs none: it ends with this process.
const (
	leaseAttachment = "attachment" // of a volume to this host
	leaseMount      = "mount"      // on this host, named by its path
)

// The keys of their data.
const (
	dataVolume   = "volume"
	dataInstance = "instance"
	dataDevice   = "device" // major:minor
	dataBoot     = "boot"   // the boot of the host that it is on
	dataMade     = "made"   // the mount point was made for it
)

// Chroot bakes without booting anything: the volume of an AMI is attached to
// this host, provisioned there, and becomes an AMI again.
type Chroot struct {
	env *Env
	o   ChrootSource

	session *awscloud.Session
	host    *imds.InstanceIdentityDocument
	run     *running
	source  *types.Image // nil: from scratch

	volume string // id
	device string // path of the disk
	part   string // path of what is mounted
	path   string // where it is mounted
	grew   bool   // the volume is larger than its snapshot
	// mounted is the lease of the mount, which Snapshot gives back.
	mounted builders.Lease
	tree    *chroot.Machine
	put     []replaced // what stands in the tree for as long as it is provisioned
}

// NewChroot makes an amazon-chroot builder for one bake.
func NewChroot(env *Env) *Chroot { return &Chroot{env: env} }

var _ builders.Resumer = (*Chroot)(nil)

// Options implements builders.Builder.
func (b *Chroot) Options() any { return &b.o }

// Check implements builders.Builder.
func (b *Chroot) Check(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	b.o.normalize()
	ps := problems(b.o.Access.Check())
	region := b.o.Region
	if !env.Validate {
		ps = append(ps, b.o.hostProblems()...)
		var err error
		if b.session, err = b.env.Shared.Connect(ctx, &b.o.Access); err != nil {
			ps.add("", "The AWS account cannot be reached", "%v.", err)
		} else {
			region = b.session.Region
		}
	}
	ps = append(ps, b.o.AMIOptions.Check(region)...)
	ps = append(ps, b.o.check()...)
	if b.session == nil || slices.ContainsFunc(ps, func(p config.Problem) bool { return !p.Warning }) {
		return ps // the account is asked about options that are right
	}
	return append(ps, b.preflight(ctx, env)...)
}

func (b *Chroot) looks() *lookups {
	return b.env.lookups(b.session, &b.o.Access, b.o.runOptions())
}

// imdsTimeout is how long the metadata service has to answer. On an instance it
// takes milliseconds.
const imdsTimeout = 15 * time.Second

// whereAmI is the instance that this host is.
func (b *Chroot) whereAmI(ctx context.Context) (*imds.InstanceIdentityDocument, error) {
	if b.host != nil {
		return b.host, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, imdsTimeout, errors.New("no answer came"))
	defer cancel()
	out, err := b.session.IMDS().GetInstanceIdentityDocument(ctx, &imds.GetInstanceIdentityDocumentInput{})
	if err == nil && (out.InstanceID == "" || out.AvailabilityZone == "" || out.Region == "") {
		err = errors.New("its answer is not whole")
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("the metadata service of EC2 does not tell which instance this host is, to attach a volume to: %w. Run Ingot on an instance in the region; in a container, with a hop limit of 2 or more", err)
	}
	b.host = &out.InstanceIdentityDocument
	return b.host, nil
}

// Boot implements builders.Builder: what it boots is a tree.
func (b *Chroot) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	b.o.normalize()
	s, err := b.env.Shared.Connect(ctx, &b.o.Access)
	if err != nil {
		return nil, err
	}
	b.session = s
	for _, n := range s.Notes {
		run.Events.Say(n)
	}
	host, err := b.whereAmI(ctx)
	if err != nil {
		return nil, err
	}
	if host.Region != s.Region {
		return nil, fmt.Errorf("this host is in %s, and the build in %s: a volume cannot be attached across regions", host.Region, s.Region)
	}
	b.run = &running{
		env: b.env, session: s, access: &b.o.Access, o: b.o.runOptions(), run: run, source: run.Type + "." + run.Source, looks: b.looks(),
		expires: time.Now().Add(defaultExpires),
	}
	if !b.o.FromScratch {
		image, err := b.run.looks.Image(ctx)
		if err != nil {
			return nil, err
		}
		b.source = &image
		maps.Copy(run.Values, sourceValues(s.Region, image))
	}
	if err := b.makeVolume(ctx); err != nil {
		return nil, err
	}
	if err := b.attach(ctx); err != nil {
		return nil, err
	}
	run.Values["ID"], run.Values["Device"] = b.volume, b.device
	if err := b.hostCommands(ctx, "pre_mount_commands", b.o.PreMountCommands); err != nil {
		return nil, err
	}
	if err := b.mount(ctx); err != nil {
		return nil, err
	}
	run.Values["MountPath"] = b.path
	if err := b.hostCommands(ctx, "post_mount_commands", b.o.PostMountCommands); err != nil {
		return nil, err
	}
	if err := b.openTree(ctx); err != nil {
		return nil, err
	}
	if err := b.prepareTree(ctx); err != nil {
		return nil, err
	}
	return b.tree, nil
}

// late renders an option with what is known by now.
func (b *Chroot) late(option, s string, more map[string]any) (string, error) {
	image := types.Image{}
	if b.source != nil {
		image = *b.source
	}
	data := lateData(b.session.Region, image)
	maps.Copy(data, more)
	out, err := render.String(s, data, renderEnv(b.run.run))
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	return out, nil
}

// openTree makes the mounted volume a machine.
func (b *Chroot) openTree(ctx context.Context) error {
	list, optional := b.o.ChrootMounts, ""
	if len(list) == 0 {
		list, optional = defaultChrootMounts(), "binfmt_misc" // a module that a host need not have
	}
	var mounts []chroot.Mount
	for _, m := range list {
		mounts = append(mounts, chroot.Mount{Type: m[0], Source: m[1], Target: m[2], Optional: m[0] == optional})
	}
	c := chroot.Config{Root: b.path, Mounts: mounts}
	if b.o.wrapped() {
		c.Wrap = b.wrap
	}
	m, err := chroot.Open(ctx, c)
	if err != nil {
		return err
	}
	b.tree = &m
	return nil
}

// Snapshot implements builders.Builder.
func (b *Chroot) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if b.tree == nil {
		return nil, errors.New("there is no tree to make an AMI of")
	}
	var pkg *packageInfo
	if name := b.o.PackageMetadata; name != "" {
		var err error
		if pkg, err = askPackage(ctx, b.tree, name); err != nil {
			return nil, fmt.Errorf("package_metadata: %w", err)
		}
	}
	if err := b.restoreTree(ctx); err != nil {
		return nil, err
	}
	if err := b.tree.Stop(ctx); err != nil {
		return nil, fmt.Errorf("end what runs in the tree: %w", err)
	}
	if err := b.unmount(ctx); err != nil {
		return nil, err
	}
	ami := b.o.AMIOptions
	tags := map[string]string{}
	if pkg != nil {
		pkg.describe(b.source, tags, &ami)
	}
	// Unmounted, the volume is whole: its snapshot can begin before it is detached.
	return MakeImage(ctx, run, ImageOrder{
		Env: b.env, Session: b.session, Access: b.o.Access.Public(), BuilderID: chrootBuilderID, AMI: &ami, RunTags: tags, Source: b.source,
		Encrypted: b.o.encrypts(), Register: b.registration(), Volumes: map[string]string{b.rootDevice(): b.volume},
		SnapshotDescription: "Ingot: " + b.o.AMIName, Captured: b.detach,
	})
}

// detach lets the volume go while its snapshot is taken. The lease's release sees to the rest.
func (b *Chroot) detach(ctx context.Context) {
	_, err := b.session.EC2("").DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &b.volume, InstanceId: &b.host.InstanceID})
	if err != nil && ctx.Err() == nil {
		b.run.run.Events.Say(fmt.Sprintf("%s could not be detached yet, which is tried again at the end: %v", b.volume, awscloud.Explain(err)))
	}
}

func (b *Chroot) rootDevice() string {
	if b.o.RootDeviceName != "" || b.source == nil {
		return b.o.RootDeviceName
	}
	return aws.ToString(b.source.RootDeviceName)
}

// registration is what the AMI is to be, but for the snapshot of its root.
func (b *Chroot) registration() *ec2.RegisterImageInput {
	in := &ec2.RegisterImageInput{RootDeviceName: aws.String(b.rootDevice()), VirtualizationType: optional(b.o.AMIVirtualizationType), EnaSupport: b.o.ENASupport}
	if s := b.source; s != nil {
		in.Architecture, in.BootMode, in.TpmSupport, in.ImdsSupport = s.Architecture, s.BootMode, s.TpmSupport, s.ImdsSupport
		in.KernelId, in.RamdiskId, in.SriovNetSupport = s.KernelId, s.RamdiskId, s.SriovNetSupport
		if in.VirtualizationType == nil {
			in.VirtualizationType = optional(string(s.VirtualizationType))
		}
		if in.EnaSupport == nil {
			in.EnaSupport = s.EnaSupport
		}
		for _, m := range s.BlockDeviceMappings {
			if aws.ToString(m.DeviceName) == aws.ToString(s.RootDeviceName) {
				m.DeviceName = in.RootDeviceName
			}
			in.BlockDeviceMappings = append(in.BlockDeviceMappings, m)
		}
	}
	for _, m := range mappings(b.o.AMIMappings) {
		same := func(o types.BlockDeviceMapping) bool { return aws.ToString(o.DeviceName) == aws.ToString(m.DeviceName) }
		switch i := slices.IndexFunc(in.BlockDeviceMappings, same); {
		case i >= 0 && m.NoDevice != nil:
			in.BlockDeviceMappings = slices.Delete(in.BlockDeviceMappings, i, i+1)
		case i >= 0:
			in.BlockDeviceMappings[i] = m
		case m.NoDevice == nil:
			in.BlockDeviceMappings = append(in.BlockDeviceMappings, m)
		}
	}
	for i, m := range in.BlockDeviceMappings {
		if m.Ebs == nil {
			continue
		}
		ebs := *m.Ebs
		if aws.ToString(m.DeviceName) == b.rootDevice() {
			// The tail sets the snapshot, which says whether it is encrypted.
			ebs.SnapshotId, ebs.Encrypted, ebs.KmsKeyId = nil, nil, nil
			if n := int32(b.o.RootVolumeSize); n > aws.ToInt32(ebs.VolumeSize) {
				ebs.VolumeSize = aws.Int32(n)
			}
		} else if ebs.SnapshotId != nil {
			ebs.Encrypted, ebs.KmsKeyId = nil, nil
		}
		in.BlockDeviceMappings[i].Ebs = &ebs
	}
	b.o.RegisterOptions.apply(in)
	return in
}

// Release implements builders.Builder.
func (b *Chroot) Release(ctx context.Context, l builders.Lease) error {
	if b.tree != nil {
		// What runs there keeps the volume busy.
		if err := b.tree.Stop(ctx); err != nil {
			return fmt.Errorf("end what runs in the tree: %w", err)
		}
	}
	if l.Kind == leaseMount { // no cloud has a say in it
		return b.releaseMount(ctx, l)
	}
	r, err := b.releaser(ctx, l)
	if err != nil {
		return err
	}
	images := remover{r.session, b.env.Settle}
	switch l.Kind {
	case leaseImage:
		return images.releaseImage(ctx, l)
	case leaseParameter:
		return images.releaseParameter(ctx, l)
	case leaseSnapshot:
		return images.releaseSnapshot(ctx, l)
	case leaseAttachment:
		return b.releaseAttachment(ctx, r, l)
	case leaseVolume:
		return r.rootVolume(ctx, l)
	}
	return fmt.Errorf("this Ingot does not know how to give back a %s of %s", l.Kind, l.Builder)
}

func (b *Chroot) releaser(ctx context.Context, l builders.Lease) (*releaser, error) {
	r := &releaser{env: b.env, session: b.session, region: l.Data[dataRegion]}
	if r.session == nil {
		a, err := awscloud.ReadPublic(l.Data[dataAccess])
		if err != nil {
			return nil, err
		}
		if b.o.Region != "" || b.o.AccessKey != "" { // decoded, for Orphans
			a = &b.o.Access
		}
		if r.session, err = b.env.Shared.Connect(ctx, a); err != nil {
			return nil, err
		}
		b.session = r.session
	}
	if r.region == "" {
		r.region = r.session.Region
	}
	return r, nil
}

// Orphans implements builders.Builder.
func (b *Chroot) Orphans(ctx context.Context, olderThan time.Duration) ([]builders.Lease, error) {
	const builder = "amazon-chroot"
	s, err := b.env.Shared.Connect(ctx, &b.o.Access)
	if err != nil {
		return nil, err
	}
	b.session = s
	snapshots, err := orphanSnapshots(ctx, s, &b.o.Access, builder, olderThan)
	if err != nil {
		return nil, err
	}
	var volumes, attachments []builders.Lease
	ours := []types.Filter{{Name: aws.String("tag-key"), Values: []string{tagBuild}}}
	for pages := ec2.NewDescribeVolumesPaginator(s.EC2(""), &ec2.DescribeVolumesInput{Filters: ours}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for volumes that were left: %w", awscloud.Explain(err))
		}
		for _, v := range page.Volumes {
			tags := tagMap(v.Tags)
			gone := v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted
			if gone || !strings.HasPrefix(tags[tagSource], builder+".") || time.Since(aws.ToTime(v.CreateTime)) < olderThan {
				continue
			}
			l := builders.Lease{BakeID: tags[tagBuild], Builder: builder, Kind: leaseVolume, Name: tags[tagLease], ExternalID: aws.ToString(v.VolumeId), Created: aws.ToTime(v.CreateTime),
				Data: map[string]string{dataRegion: s.Region, dataAccess: b.o.Access.Public(), dataSource: tags[tagSource], tagExpires: tags[tagExpires]}}
			volumes = append(volumes, l)
			for _, a := range v.Attachments {
				at := l
				at.Kind, at.Data = leaseAttachment, maps.Clone(l.Data)
				at.Data[dataVolume], at.Data[dataInstance] = l.ExternalID, aws.ToString(a.InstanceId)
				attachments = append(attachments, at)
			}
		}
	}
	return slices.Concat(snapshots, volumes, attachments), nil
}

// Resume implements builders.Resumer.
func (b *Chroot) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	return ResumeImage(ctx, b.env, run, open)
}
