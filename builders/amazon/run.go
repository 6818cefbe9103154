package amazon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// The kinds of leases of what exists for the machine.
const (
	leaseInstance = "instance"
	leaseFleet    = "fleet"
	leaseTemplate = "launch-template"
	leaseProfile  = "instance-profile"
	leaseRole     = "role"
	leaseGroup    = "security-group"
	leaseKey      = "key-pair"
	leaseVolume   = "volume" // of an instance that has ended; found by its tags only
)

// The keys of a lease's Data.
const (
	dataRegion = "region"
	dataAccess = "access"
	dataSource = "source" // "amazon-ebs.web"
	// dataVolumes says that the instance has volumes which do not end with it;
	// dataKeep are the devices, with commas between, of those that are to stay.
	dataVolumes = "volumes"
	dataKeep    = "keep"
)

// The tags of everything temporary.
const (
	tagBuild   = "ingot:build"   // the bake's id
	tagSource  = "ingot:source"  // "amazon-ebs.web"
	tagLease   = "ingot:lease"   // the name of its lease
	tagCreated = "ingot:created" // when, RFC 3339
	tagExpires = "ingot:expires" // when nobody needs it any more
	tagKeep    = "ingot:keep"    // a volume, or a snapshot, that the template wants to stay
)

// running is the machine of one bake, and what exists for it.
type running struct {
	env     *Env
	session *awscloud.Session
	access  *awscloud.Access
	o       *RunOptions
	comm    *communicator.Options
	run     *builders.Run
	source  string
	looks   *lookups
	// launch are the block devices to launch with; keep those whose volumes stay.
	launch func(types.Image) []types.BlockDeviceMapping
	keep   []string
	// loose says that volumes are taken off the instance before it ends.
	loose bool
	// allowed asks whether what comes after the machine may be done with it,
	// while it boots; nil: nothing is asked.
	allowed func(ctx context.Context, id string) error

	expires time.Time
	image   types.Image
	network network
	key     keyPair
	groups  []string
	// ownGroup, ownProfile say that they were made for this bake, moments ago.
	ownGroup, ownProfile bool
	profile              string
	main                 *instance
	// stuck says that something of the bake could not be given back.
	stuck bool
	// terminated says when instances have been told to end.
	terminated map[string]time.Time
}

// instance is one that was launched.
type instance struct {
	id    string
	lease builders.Lease
	spot  bool
	// hostKey is the injected host key's private half, hostPublic its line; "": none.
	hostKey, hostPublic string
	conn                machine.Machine
	close               []func()
}

// name names something of this bake.
func (r *running) name(what string) string {
	if what == "" {
		return "ingot-" + r.run.BakeID
	}
	return "ingot-" + r.run.BakeID + "-" + what
}

// data is what a release needs to know beside the name.
func (r *running) data(more ...string) map[string]string {
	d := map[string]string{dataRegion: r.session.Region, dataAccess: r.access.Public(), dataSource: r.source}
	for i := 0; i+1 < len(more); i += 2 {
		d[more[i]] = more[i+1]
	}
	return d
}

// marks are the tags by which Ingot finds what a lease names.
func (r *running) marks(lease string) map[string]string {
	return map[string]string{
		tagBuild: r.run.BakeID, tagSource: r.source, tagLease: lease,
		tagCreated: time.Now().UTC().Format(time.RFC3339), tagExpires: r.expires.UTC().Format(time.RFC3339),
	}
}

// lateData are the values of late-rendered options.
func lateData(region string, i types.Image) map[string]any {
	tags := map[string]string{}
	for _, t := range i.Tags {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return map[string]any{
		"BuildRegion": region, "SourceAMI": aws.ToString(i.ImageId), "SourceAMICreationDate": aws.ToString(i.CreationDate),
		"SourceAMIName": aws.ToString(i.Name), "SourceAMIOwner": aws.ToString(i.OwnerId),
		"SourceAMIOwnerName": aws.ToString(i.ImageOwnerAlias), "SourceAMITags": tags,
	}
}

func renderEnv(run *builders.Run) render.Env {
	return render.Env{BuildName: run.Source, BuildType: run.Type, TemplateDir: run.Dir, Now: run.Created, Clean: cleanName}
}

// userTags are the template's tags of one option. The source AMI is looked up
// only where they speak of it.
func (r *running) userTags(ctx context.Context, option string, m map[string]string, blocks []Tag) (map[string]string, error) {
	data := map[string]any{}
	late := func(s string) bool { return strings.Contains(s, "{{") }
	needs := slices.ContainsFunc(blocks, func(t Tag) bool { return late(t.key()) || late(t.Value) })
	for k, v := range m {
		needs = needs || late(k) || late(v)
	}
	if needs {
		image, err := r.looks.Image(ctx)
		if err != nil {
			return nil, err
		}
		data = lateData(r.session.Region, image)
	}
	out, errs := renderTagOptions(option, m, strings.TrimSuffix(option, "s"), blocks, data, renderEnv(r.run))
	var all []error
	for _, e := range errs {
		all = append(all, fmt.Errorf("%s: %w", e.Option, e.Err))
	}
	return out, errors.Join(all...)
}

// tags are the tags of something temporary: the template's, and Ingot's own.
func (r *running) tags(ctx context.Context, lease string) (map[string]string, error) {
	all, err := r.userTags(ctx, "run_tags", r.o.RunTags, r.o.RunTag)
	if err != nil {
		return nil, err
	}
	maps.Copy(all, r.marks(lease))
	return all, nil
}

func ec2Tags(m map[string]string) []types.Tag {
	var out []types.Tag
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, types.Tag{Key: aws.String(k), Value: aws.String(m[k])})
	}
	return out
}

func tagged(kind types.ResourceType, m map[string]string) []types.TagSpecification {
	if len(m) == 0 {
		return nil
	}
	return []types.TagSpecification{{ResourceType: kind, Tags: ec2Tags(m)}}
}

// lastWord is how long a call that creates something may go on after the bake
// was cancelled: its answer says what is to be given back.
const lastWord = 10 * time.Second

// unhurried is a context for a call that creates something.
func unhurried(ctx context.Context) (context.Context, context.CancelFunc) {
	c, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(lastWord, cancel)
		context.AfterFunc(c, func() { t.Stop() })
	})
	return c, func() { stop(); cancel() }
}

// create makes the call that creates what the lease names, and notes its id.
// Where the cloud has refused, nothing was created, and the lease is struck.
func (r *running) create(ctx context.Context, l builders.Lease, call func(ctx context.Context) (id string, err error)) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	c, cancel := unhurried(ctx)
	defer cancel()
	id, err := call(c)
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if refused(err) {
			err = errors.Join(awscloud.Explain(err), r.run.Leases.Released(ctx, l))
		}
		return "", awscloud.Explain(err)
	}
	return id, r.run.Leases.Created(context.WithoutCancel(ctx), l, id)
}

// refused says that a call was answered, and has certainly created nothing.
func refused(err error) bool {
	return err != nil && !awscloud.IsUnanswered(err) && !awscloud.IsThrottled(err) && !isDuplicate(err)
}

// isDuplicate says that something of that name exists: perhaps what an earlier
// try has made, whose answer was lost.
func isDuplicate(err error) bool {
	code := awscloud.Code(err)
	return strings.HasSuffix(code, ".Duplicate") || strings.Contains(code, "AlreadyExists")
}

// lost finds what an earlier try has made, as soon as it can be found.
func (r *running) lost(ctx context.Context, l builders.Lease, find finder) (string, error) {
	var id string
	err := r.session.Wait(ctx, awscloud.Wait{What: "the " + l.Kind + " " + l.Name + " to be found by its tags", Timeout: r.env.Settle + time.Second, First: -1}, func(ctx context.Context) (bool, string, error) {
		ids, err := find(ctx, l)
		if len(ids) > 0 {
			id = ids[0]
		}
		return id != "", "", err
	})
	return id, err
}

// boot launches the machine and connects to it.
func (r *running) boot(ctx context.Context) (machine.Machine, error) {
	r.expires = time.Now().Add(r.o.Expires)
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	maps.Copy(r.run.Values, sourceValues(r.session.Region, r.image))
	in, err := r.start(ctx, "machine", r.image, r.launch(r.image))
	if err != nil {
		return nil, err
	}
	r.main = in
	r.run.Values["ID"] = in.id
	if r.allowed == nil {
		return r.connect(ctx, in, r.run.Values)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var asked sync.WaitGroup
	var refused error
	asked.Go(func() {
		if refused = r.allowed(ctx, in.id); refused != nil {
			cancel(refused)
		}
	})
	m, err := r.connect(ctx, in, r.run.Values)
	asked.Wait()
	if refused != nil && m != nil {
		err = errors.Join(refused, m.Close())
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// proof launches a machine from the AMI that was made, in the same network.
func (r *running) proof(ctx context.Context, ami string) (machine.Machine, error) {
	image, err := r.session.Images("").Get(ctx, ami)
	if err != nil {
		return nil, awscloud.Explain(err)
	}
	in, err := r.start(ctx, "proof", image, nil)
	if err != nil {
		return nil, err
	}
	return r.connect(ctx, in, map[string]string{})
}

// prepare makes, side by side, all that a launch needs.
func (r *running) prepare(ctx context.Context) error {
	// The last to be leased is the first to be given back: the group can go only
	// when the instance has gone.
	var group, role, profile, key builders.Lease
	var err error
	intend := func(l *builders.Lease, kind, name string) {
		if err == nil {
			*l, err = r.run.Leases.Intend(ctx, kind, name, r.data())
		}
	}
	if r.ownGroup = r.o.ownGroup(); r.ownGroup {
		intend(&group, leaseGroup, r.name(""))
	}
	if r.ownProfile = r.o.TemporaryIAMInstanceProfilePolicyDocument != nil; r.ownProfile {
		intend(&role, leaseRole, r.name(""))
		intend(&profile, leaseProfile, r.name(""))
	}
	if r.needsKey() {
		r.key.name = r.comm.TemporaryKeyPairName
		if r.key.name == "" {
			r.key.name = r.name("")
		}
		intend(&key, leaseKey, r.key.name)
	}
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		r.image, err = r.looks.Image(gctx)
		return err
	})
	g.Go(func() (err error) {
		if r.network, err = r.looks.Network(gctx); err != nil {
			return err
		}
		if !r.ownGroup {
			r.groups, err = r.looks.Groups(gctx)
			return err
		}
		return r.makeGroup(gctx, group)
	})
	g.Go(func() error {
		switch {
		case r.ownProfile:
			return r.makeProfile(gctx, role, profile)
		default:
			r.profile = r.o.IAMInstanceProfile
		}
		return nil
	})
	g.Go(func() error {
		if key.ID == "" {
			r.key.name = r.comm.SSHKeypairName
			return nil
		}
		return r.makeKey(gctx, key)
	})
	return g.Wait()
}
