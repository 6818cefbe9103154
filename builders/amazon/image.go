package amazon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// The kinds of leases of a finished image.
const (
	leaseImage     = "image"         // an AMI with its snapshots, named REGION/NAME
	leaseSnapshot  = "snapshot"      // one that an AMI is to be made of
	leaseParameter = "ssm-parameter" // a parameter that points to it, named REGION/PARAMETER
)

// MakeImage makes the AMI that is ordered, with its copies, and does all else
// that its options say. Each step can be taken again: when the error wraps
// builders.ErrUnfinished, ResumeImage goes on. With run.Unproven, what lets
// others see the AMIs is left to PublishImage.
//
// A failure leaves the images in the ledger, with UntilRecorded: that they are
// released takes back those of all regions.
func MakeImage(ctx context.Context, run *builders.Run, o ImageOrder) (*builders.Artifact, error) {
	p, err := o.plan(run)
	if err != nil {
		return nil, err
	}
	t := &tail{plan: p, session: o.Session, remover: remover{o.Session, o.Env.Settle}, run: run, captured: o.Captured, available: o.Available}
	return t.finish(ctx)
}

// ResumeImage is builders.Resumer's Resume for all that MakeImage makes.
func ResumeImage(ctx context.Context, env *Env, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	i := slices.IndexFunc(open, func(l builders.Lease) bool { return l.Kind == leaseImage && l.Data[builders.Resumable] != "" })
	if i < 0 {
		return nil, fmt.Errorf("%w: none of its leases says how", builders.ErrImageLost)
	}
	p, err := decodePlan(open[i].Data[builders.Resumable])
	if err != nil {
		return nil, err
	}
	access, err := awscloud.ReadPublic(p.Access)
	if err != nil {
		return nil, err
	}
	access.Region = p.Region
	session, err := env.Shared.Connect(ctx, access)
	if err != nil {
		return nil, err
	}
	t := &tail{plan: p, session: session, remover: remover{session, env.Settle}, run: run, resumed: open}
	return t.finish(ctx)
}

// PublishImage is builders.Publisher's Publish for all that MakeImage makes.
func PublishImage(ctx context.Context, env *Env, s *awscloud.Session, run *builders.Run, a *builders.Artifact) (*builders.Artifact, error) {
	t := &tail{session: s, remover: remover{s, env.Settle}, run: run}
	var images []*regionImage
	for _, place := range a.Places {
		open := run.Leases.Open()
		i := slices.IndexFunc(open, func(l builders.Lease) bool {
			return l.Kind == leaseImage && l.ExternalID == place.ID && l.Data[builders.Resumable] != ""
		})
		if i < 0 {
			return nil, fmt.Errorf("no lease says what is to be done with %s in %s", place.ID, place.Region)
		}
		var err error
		if t.plan, err = decodePlan(open[i].Data[builders.Resumable]); err != nil {
			return nil, err
		}
		images = append(images, &regionImage{region: place.Region, lease: open[i]})
	}
	if t.plan == nil {
		return a, nil // nothing has been made
	}
	images, err := t.take(ctx, images, t.look, t.share, t.point, t.protect)
	if err != nil {
		return nil, err
	}
	return t.artifact(images), nil
}

// tail is the way from the stopped machine to the finished AMIs.
type tail struct {
	plan    *imagePlan
	session *awscloud.Session
	remover remover
	run     *builders.Run
	// resumed are the leases that an earlier process left; nil: this is the first.
	resumed []builders.Lease
	// captured is called when all snapshots of volumes have begun.
	captured func(context.Context)
	// available is called beside the copies, once the first image is available.
	available func(context.Context)
	// snapshots are those of volumes, by block device.
	snapshots map[string]string

	mu     sync.Mutex
	struck []string // ids of leases
}

// open are the bake's open leases.
func (t *tail) open() []builders.Lease {
	all := t.run.Leases.Open()
	for _, l := range t.resumed {
		if !slices.ContainsFunc(all, func(o builders.Lease) bool { return o.ID == l.ID }) {
			all = append(all, l)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(all, func(l builders.Lease) bool { return slices.Contains(t.struck, l.ID) })
}

// strike strikes a lease: of what is gone, or has certainly not come to be.
func (t *tail) strike(ctx context.Context, l builders.Lease) error {
	t.mu.Lock()
	t.struck = append(t.struck, l.ID)
	t.mu.Unlock()
	return t.run.Leases.Released(context.WithoutCancel(ctx), l)
}

// regionImage is the AMI of one region.
type regionImage struct {
	region string
	lease  builders.Lease
	image  types.Image
	err    error
}

func (r *regionImage) id() string { return aws.ToString(r.image.ImageId) }

func (t *tail) finish(ctx context.Context) (*builders.Artifact, error) {
	p := t.plan
	first, err := t.first(ctx)
	if err != nil {
		return nil, t.verdict(ctx, err)
	}
	if t.available != nil && len(p.Copies) > 0 {
		var beside sync.WaitGroup
		defer beside.Wait()
		actx, stop := context.WithCancel(ctx)
		defer stop()
		beside.Go(func() { t.available(actx) })
	}
	images := t.copies(ctx, first)
	if !p.intermediate() {
		images = append([]*regionImage{first}, images...)
	}
	if images, err = t.kept(ctx, images); err != nil {
		return nil, err
	}
	// Only now that the images are there, in all regions, are they shown to
	// anybody, and only if nothing can come out against them any more.
	steps := []regionStep{t.settle}
	if !t.run.Unproven {
		steps = append(steps, t.point, t.protect)
	}
	if images, err = t.take(ctx, images, steps...); err != nil {
		return nil, err
	}
	if p.intermediate() && first != nil {
		if err := t.dropIntermediate(ctx, first); err != nil {
			return nil, err
		}
	}
	return t.artifact(images), nil
}

// regionStep does something to the image of a region.
type regionStep func(context.Context, *regionImage) error

// take takes steps one after another, each in every region, and returns the
// images that are well after them.
func (t *tail) take(ctx context.Context, images []*regionImage, steps ...regionStep) (_ []*regionImage, err error) {
	for _, do := range steps {
		t.each(ctx, images, do)
		if images, err = t.kept(ctx, images); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// each does something in every region, side by side. Where one fails and the
// others are not to be kept, they are not waited for.
func (t *tail) each(ctx context.Context, images []*regionImage, do regionStep) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for _, r := range images {
		wg.Go(func() {
			r.err = do(ctx, r)
			if r.err != nil && !t.plan.KeepPartial && !isUnfinished(r.err) {
				stop()
			}
		})
	}
	wg.Wait()
}

// kept are the images that are well. Where others are not, that is an error,
// unless they may be missing: then their regions are cleared.
func (t *tail) kept(ctx context.Context, images []*regionImage) ([]*regionImage, error) {
	var well, failed []*regionImage
	var errs []error
	for _, r := range images {
		if r.err == nil {
			well = append(well, r)
			continue
		}
		failed = append(failed, r)
		errs = append(errs, fmt.Errorf("in %s: %w", r.region, r.err))
	}
	if len(failed) == 0 {
		return well, nil
	}
	unfinished := slices.ContainsFunc(failed, func(r *regionImage) bool { return isUnfinished(r.err) })
	if !t.plan.KeepPartial || len(well) == 0 || unfinished || ctx.Err() != nil {
		return nil, t.verdict(ctx, errs...)
	}
	for i, r := range failed {
		t.run.Events.Warn(fmt.Sprintf("There is no AMI in %s: %v. The others are kept (keep_partial).", r.region, errs[i]))
		if err := t.discard(ctx, r.lease); err != nil {
			return nil, t.verdict(ctx, fmt.Errorf("clear %s of what failed there: %w", r.region, err))
		}
	}
	return well, nil
}

// verdict makes one error of all: unfinished only when nothing has failed for good.
func (t *tail) verdict(ctx context.Context, errs ...error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	var final, open []error
	for _, err := range errs {
		switch {
		case isUnfinished(err):
			open = append(open, err)
		case !errors.Is(err, context.Canceled): // stopped because of another
			final = append(final, err)
		}
	}
	if len(final) > 0 {
		for _, err := range open {
			final = append(final, fmt.Errorf("(not finished: %v)", err))
		}
		return errors.Join(final...)
	}
	if len(open) == 0 {
		return errors.Join(errs...)
	}
	return fmt.Errorf("%w: %w", builders.ErrUnfinished, errors.Join(open...))
}

// isUnfinished says of an error that more time, another network or fresh
// credentials can heal it.
func isUnfinished(err error) bool {
	var timeout *awscloud.TimeoutError
	var nothing *notBegunError
	switch {
	case errors.As(err, &nothing):
		return false
	case errors.As(err, &timeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, builders.ErrUnfinished):
		return true
	case errors.Is(err, context.Canceled), errors.Is(err, builders.ErrImageLost):
		return false
	}
	if cloud := awscloud.Code(err); cloud != "" {
		return awscloud.IsUnanswered(err) || awscloud.IsThrottled(err) || credentialsEnded(err)
	}
	var call *callError
	return errors.As(err, &call) && awscloud.IsUnanswered(call.err)
}

// credentialsEnded says that a call was refused for want of valid credentials,
// and not of a permission.
func credentialsEnded(err error) bool {
	return slices.Contains([]string{
		"AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "RequestExpired",
	}, awscloud.Code(err))
}

// callError marks what a call to the cloud has failed with.
type callError struct{ err error }

func (e *callError) Error() string { return awscloud.Explain(e.err).Error() }
func (e *callError) Unwrap() error { return e.err }

func called(err error) error {
	var have *callError
	var failed *awscloud.FailedError
	if err == nil || errors.As(err, &have) || errors.As(err, &failed) {
		return err
	}
	return &callError{err}
}

// claim is the lease of an image: an open one of this bake, or a new one.
func (t *tail) claim(ctx context.Context, region, name string) (l builders.Lease, old bool, err error) {
	full := region + "/" + name
	for _, open := range t.open() {
		if open.Kind == leaseImage && open.Name == full {
			return open, true, nil
		}
	}
	plan, err := t.plan.encode()
	if err != nil {
		return l, false, err
	}
	data := map[string]string{builders.UntilRecorded: "yes", builders.Resumable: plan, dataRegion: region, dataAccess: t.plan.Access}
	if foreign := t.plan.foreign(); len(foreign) > 0 && name == t.plan.FirstName && region == t.plan.Region {
		data[dataForeign] = strings.Join(foreign, " ")
	}
	l, err = t.run.Leases.Intend(ctx, leaseImage, full, data)
	return l, false, err
}

// created notes an image's id, also when the bake has been cancelled meanwhile.
func (t *tail) created(ctx context.Context, l *builders.Lease, id string) error {
	l.ExternalID = id
	return t.run.Leases.Created(context.WithoutCancel(ctx), *l, id)
}

// first makes the image of the machine, and waits for it. It is nil when it
// was an intermediate one that has served.
func (t *tail) first(ctx context.Context) (*regionImage, error) {
	p := t.plan
	mine := func(l builders.Lease) bool { return l.Kind == leaseImage && l.Name == p.Region+"/"+p.FirstName }
	if t.resumed != nil && !slices.ContainsFunc(t.resumed, mine) {
		if p.intermediate() {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: the ledger does not have the image of the build's region any more", builders.ErrImageLost)
	}
	l, old, err := t.claim(ctx, p.Region, p.FirstName)
	if err != nil {
		return nil, err
	}
	if l.ExternalID == "" && p.Image != "" {
		err = t.created(ctx, &l, p.Image)
	} else if l.ExternalID == "" {
		err = t.begin(ctx, &l, old)
	}
	if err != nil {
		return nil, err
	}
	r := &regionImage{region: p.Region, lease: l}
	if r.image, err = t.session.WaitImage(ctx, p.Region, l.ExternalID); err != nil {
		return nil, t.lost(err)
	}
	if p.Encrypted {
		for _, m := range r.image.BlockDeviceMappings {
			if m.Ebs != nil && m.Ebs.SnapshotId != nil && !aws.ToBool(m.Ebs.Encrypted) {
				return nil, fmt.Errorf("%s of the image is not encrypted (%s), although encrypt_boot asks for it", aws.ToString(m.DeviceName), *m.Ebs.SnapshotId)
			}
		}
	}
	t.run.Events.Say(fmt.Sprintf("%s is available in %s.", l.ExternalID, p.Region))
	return r, nil
}

// lost adds, to an error of a resumed image, that it cannot be helped.
func (t *tail) lost(err error) error {
	var failed *awscloud.FailedError
	if t.resumed != nil && (errors.As(err, &failed) || awscloud.IsNotFound(err)) {
		return fmt.Errorf("%w: %w", builders.ErrImageLost, err)
	}
	return called(err)
}

// tries bounds how often an image is begun anew.
const tries = 3

// begin makes the first image, or finds the one that an unanswered call has
// made: CreateImage and RegisterImage take no client token.
func (t *tail) begin(ctx context.Context, l *builders.Lease, old bool) error {
	p := t.plan
	if err := t.capture(ctx); err != nil {
		if ctx.Err() != nil || isUnfinished(err) {
			return err
		}
		return t.notBegun(ctx, l, err)
	}
	var err error
	for try := 1; ; try++ {
		if old {
			id, taken, e := t.search(ctx, p.Region, p.FirstName)
			switch {
			case e != nil:
				return errors.Join(e, err)
			case id != "":
				return t.created(ctx, l, id)
			case taken != "" && (!p.Replace || try == tries):
				err = fmt.Errorf("an AMI named %q is in %s already: %s. Choose another name, or set force_deregister", p.FirstName, p.Region, taken)
				return t.notBegun(ctx, l, err)
			case err != nil && try == tries:
				return t.notBegun(ctx, l, fmt.Errorf("no image has come of it: %v", awscloud.Explain(err)))
			}
		}
		if p.Replace {
			if err := t.replace(ctx, p.Region, p.FirstName); err != nil {
				return err
			}
		}
		var id string
		if id, err = t.create(ctx); err == nil {
			return t.created(ctx, l, id)
		}
		old = true // it may be there by now, or another of that name
		if ctx.Err() != nil || credentialsEnded(err) {
			return called(err)
		}
		if !awscloud.IsUnanswered(err) && awscloud.Code(err) != "InvalidAMIName.Duplicate" {
			return t.notBegun(ctx, l, err)
		}
	}
}

// notBegun strikes the lease of an image that will not come to be.
func (t *tail) notBegun(ctx context.Context, l *builders.Lease, err error) error {
	err = &notBegunError{fmt.Errorf("make the AMI %q in %s: %w", t.plan.FirstName, t.plan.Region, awscloud.Explain(err))}
	if t.resumed != nil {
		err = fmt.Errorf("%w: it had not been begun, and cannot be now: %w", builders.ErrImageLost, err)
	}
	if len(t.plan.Volumes) > 0 {
		// Nothing else tells of the snapshots that were to be the image.
		if e := t.remover.removeSnapshots(context.WithoutCancel(ctx), t.plan.Region, "", nil, t.plan.BakeID); e != nil {
			return errors.Join(err, e)
		}
	}
	return errors.Join(err, t.strike(ctx, *l))
}

// notBegunError says that there is nothing to go on with, whatever the reason.
type notBegunError struct{ err error }

func (e *notBegunError) Error() string { return e.err.Error() }
func (e *notBegunError) Unwrap() error { return e.err }

// create makes the call that begins the first image. An instance that EC2 does
// not know to be stopped yet is waited for.
func (t *tail) create(ctx context.Context) (string, error) {
	p := t.plan
	t.run.Events.Say(fmt.Sprintf("Making the AMI %q in %s.", p.FirstName, p.Region))
	make := t.createOf
	if p.Register != nil {
		make = t.register
	}
	var id string
	err := t.session.Wait(ctx, awscloud.Wait{What: "an AMI to be begun", First: -1}, func(ctx context.Context) (bool, string, error) {
		var err error
		id, err = make(ctx, t.session.EC2(p.Region))
		if notStopped(err) && !t.ended(ctx) {
			return false, awscloud.Code(err), nil
		}
		return err == nil, "", err
	})
	return id, err
}

// ended says that the instance to make the image of is gone, or going.
func (t *tail) ended(ctx context.Context) bool {
	if t.plan.Create == nil {
		return false
	}
	i, err := t.session.Instances(t.plan.Region).Get(ctx, aws.ToString(t.plan.Create.InstanceId))
	state := awscloud.InstanceState(i)
	return awscloud.IsNotFound(err) || state == types.InstanceStateNameTerminated || state == types.InstanceStateNameShuttingDown
}

func notStopped(err error) bool {
	code := awscloud.Code(err)
	return code == "IncorrectInstanceState" || code == "InvalidParameterValue" && strings.Contains(err.Error(), "not in state")
}

func (t *tail) register(ctx context.Context, c *ec2.Client) (string, error) {
	p := t.plan
	in := *p.Register
	in.BlockDeviceMappings = slices.Clone(in.BlockDeviceMappings)
	for i, m := range in.BlockDeviceMappings {
		if id := t.snapshots[aws.ToString(m.DeviceName)]; id != "" && m.Ebs != nil {
			ebs := *m.Ebs
			ebs.SnapshotId = &id
			in.BlockDeviceMappings[i].Ebs = &ebs
		}
	}
	in.Name, in.Description, in.TagSpecifications = &p.FirstName, optional(p.Description), p.tagSpecs()[:1]
	if in.EnaSupport == nil {
		in.EnaSupport = p.ENA
	}
	if p.Sriov {
		in.SriovNetSupport = aws.String("simple")
	}
	if p.IMDSv2 {
		in.ImdsSupport = types.ImdsSupportValuesV20
	}
	out, err := c.RegisterImage(ctx, &in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ImageId), nil
}

func (t *tail) createOf(ctx context.Context, c *ec2.Client) (string, error) {
	p := t.plan
	// An attribute at a time is what EC2 takes.
	var changes []*ec2.ModifyInstanceAttributeInput
	if p.Sriov {
		changes = append(changes, &ec2.ModifyInstanceAttributeInput{SriovNetSupport: &types.AttributeValue{Value: aws.String("simple")}})
	}
	if p.ENA != nil {
		changes = append(changes, &ec2.ModifyInstanceAttributeInput{EnaSupport: &types.AttributeBooleanValue{Value: p.ENA}})
	}
	for _, change := range changes {
		change.InstanceId = p.Create.InstanceId
		if _, err := c.ModifyInstanceAttribute(ctx, change); err != nil {
			return "", err
		}
	}
	in := *p.Create
	in.Name, in.Description, in.TagSpecifications = &p.FirstName, optional(p.Description), p.tagSpecs()
	out, err := c.CreateImage(ctx, &in)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ImageId), nil
}

// search looks for an image by its name: one of this bake, or another that has
// the name. It is patient with one that has just been made.
func (t *tail) search(ctx context.Context, region, name string) (ours, other string, err error) {
	err = t.session.Wait(ctx, awscloud.Wait{What: "the AMI " + name + " to show", Timeout: t.remover.settle + time.Second, First: -1}, func(ctx context.Context) (bool, string, error) {
		found, err := named(ctx, t.session, region, name)
		if err != nil {
			return false, "", err
		}
		for _, i := range found {
			if tagOf(i.Tags, tagBuild) == t.plan.BakeID {
				ours = aws.ToString(i.ImageId)
			} else {
				other = aws.ToString(i.ImageId)
			}
		}
		return len(found) > 0, "", nil
	})
	var timeout *awscloud.TimeoutError
	if errors.As(err, &timeout) && ctx.Err() == nil {
		return "", "", nil
	}
	return ours, other, called(err)
}

// named are the account's own images of a name.
func named(ctx context.Context, s *awscloud.Session, region, name string) ([]types.Image, error) {
	out, err := s.EC2(region).DescribeImages(ctx, &ec2.DescribeImagesInput{
		Owners: []string{"self"}, Filters: []types.Filter{{Name: aws.String("name"), Values: []string{name}}},
		IncludeDeprecated: aws.Bool(true), IncludeDisabled: aws.Bool(true),
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out.Images, func(i types.Image) bool { return aws.ToString(i.Name) != name }), nil
}

func tagOf(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

// replace deregisters other images of the name, as force_deregister says.
func (t *tail) replace(ctx context.Context, region, name string) error {
	found, err := named(ctx, t.session, region, name)
	if err != nil {
		return called(err)
	}
	for _, i := range found {
		if tagOf(i.Tags, tagBuild) == t.plan.BakeID {
			continue
		}
		t.run.Events.Say(fmt.Sprintf("Deregistering %s, the former %q in %s.", aws.ToString(i.ImageId), name, region))
		if err := t.remover.removeImage(ctx, region, i, removal{snapshots: t.plan.ReplaceSnapshots}); err != nil {
			return fmt.Errorf("deregister the former AMI %s in %s: %w", aws.ToString(i.ImageId), region, called(err))
		}
	}
	return nil
}

// copies makes all copies of the first image, each by itself, and waits for them.
func (t *tail) copies(ctx context.Context, first *regionImage) []*regionImage {
	images := make([]*regionImage, len(t.plan.Copies))
	for i, c := range t.plan.Copies {
		images[i] = &regionImage{region: c.Region}
	}
	t.each(ctx, images, func(ctx context.Context, r *regionImage) error {
		i := slices.Index(images, r)
		return t.copy(ctx, t.plan.Copies[i], first, r)
	})
	return images
}

// copy makes one copy. When EC2 gives it up for a reason that may pass, it is made anew.
func (t *tail) copy(ctx context.Context, c copyPlan, first, r *regionImage) error {
	p := t.plan
	var old bool
	var err error
	if r.lease, old, err = t.claim(ctx, c.Region, p.Name); err != nil {
		return err
	}
	dead := "" // the copy before, which has failed
	for try := 1; ; try++ {
		if r.lease.ExternalID == "" && old {
			ours, _, err := t.search(ctx, c.Region, p.Name)
			if err != nil {
				return err
			}
			if ours != "" {
				if err := t.created(ctx, &r.lease, ours); err != nil {
					return err
				}
			}
		}
		if r.lease.ExternalID == "" {
			if first == nil {
				return fmt.Errorf("%w: what the copy was to be made of is gone", builders.ErrImageLost)
			}
			if p.Replace {
				if err := t.replace(ctx, c.Region, p.Name); err != nil {
					return err
				}
			}
			if err := t.beginCopy(ctx, c, first.id(), dead, &r.lease); err != nil {
				return err
			}
		}
		if r.image, err = t.session.WaitCopy(ctx, c.Region, r.lease.ExternalID); err == nil {
			t.run.Events.Say(fmt.Sprintf("%s is available in %s.", r.lease.ExternalID, c.Region))
			return nil
		}
		var failed *awscloud.FailedError
		gone := awscloud.IsNotFound(err) && t.resumed != nil
		if !gone && (!errors.As(err, &failed) || permanent(failed)) || try == tries || first == nil {
			return called(err)
		}
		if failed != nil {
			t.run.Events.Say(fmt.Sprintf("The copy in %s failed, and is made anew: %v", c.Region, failed))
		}
		dead = r.lease.ExternalID
		if err := t.remove(ctx, c.Region, dead); err != nil {
			return err
		}
		if err := t.created(ctx, &r.lease, ""); err != nil {
			return err
		}
		old = false
	}
}

// permanent says of a failed copy that another would fail as well.
func permanent(f *awscloud.FailedError) bool {
	text := strings.ToLower(f.Code + " " + f.Message)
	return slices.ContainsFunc([]string{"kms", "key", "not authorized", "permission", "denied"}, func(s string) bool { return strings.Contains(text, s) })
}

// beginCopy makes the call that begins a copy. The same token gives the same
// copy however often the call is made; dead tells a new copy from a failed one.
func (t *tail) beginCopy(ctx context.Context, c copyPlan, source, dead string, l *builders.Lease) error {
	p := t.plan
	sum := sha256.Sum256([]byte(strings.Join([]string{p.BakeID, c.Region, source, dead}, " ")))
	in := &ec2.CopyImageInput{
		Name: &p.Name, Description: optional(p.Description), SourceImageId: &source, SourceRegion: &p.Region,
		ClientToken: aws.String("ingot-" + hex.EncodeToString(sum[:16])), Encrypted: c.Encrypted, KmsKeyId: optional(c.Key),
		SnapshotCopyCompletionDurationMinutes: p.CopyMinutes, TagSpecifications: p.tagSpecs(),
	}
	t.run.Events.Say(fmt.Sprintf("Copying %s from %s to %s.", source, p.Region, c.Region))
	var id string
	// A quota of copies at a time is waited for, as a copy is.
	w := awscloud.Wait{What: "a copy to begin in " + c.Region, Pace: awscloud.ImagePace, First: -1}
	err := t.session.Wait(ctx, w, func(ctx context.Context) (bool, string, error) {
		out, err := t.session.EC2(c.Region).CopyImage(ctx, in)
		if code := awscloud.Code(err); code == "ResourceLimitExceeded" || code == "SnapshotCopyLimitExceeded" {
			return false, code, nil
		}
		if err != nil {
			return false, "", err
		}
		id = aws.ToString(out.ImageId)
		return true, "", nil
	})
	if err == nil {
		return t.created(ctx, l, id)
	}
	if err = called(err); isUnfinished(err) || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, t.strike(ctx, *l))
}

// settle does what is done to an image that is available. It shares it too,
// unless that has to wait.
func (t *tail) settle(ctx context.Context, r *regionImage) error {
	steps := t.settling(r)
	if !t.run.Unproven {
		steps = append(steps, t.sharing(r)...)
	}
	return t.side(ctx, r, steps)
}

// share shares an image that was settled before.
func (t *tail) share(ctx context.Context, r *regionImage) error {
	return t.side(ctx, r, t.sharing(r))
}

// look finds out how an image is whose lease has its id.
func (t *tail) look(ctx context.Context, r *regionImage) (err error) {
	r.image, err = t.session.Images(r.region).Get(ctx, r.lease.ExternalID)
	return called(err)
}

// settling are the steps that make an image what machines of it see.
func (t *tail) settling(r *regionImage) (steps []step) {
	p := t.plan
	c := t.session.EC2(r.region)
	id := aws.String(r.id())
	add := func(what string, do func(context.Context) error) { steps = append(steps, step{what, do}) }
	if len(p.ProductCodes) > 0 {
		add("set its product codes", func(ctx context.Context) error {
			_, err := c.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{
				ImageId: id, Attribute: aws.String("productCodes"), OperationType: types.OperationTypeAdd, ProductCodes: p.ProductCodes,
			})
			return err
		})
	}
	if p.IMDSv2 && r.image.ImdsSupport != types.ImdsSupportValuesV20 {
		add("require IMDSv2", func(ctx context.Context) error {
			_, err := c.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{ImageId: id, ImdsSupport: &types.AttributeValue{Value: aws.String("v2.0")}})
			return err
		})
	}
	if p.Description != "" && aws.ToString(r.image.Description) != p.Description {
		add("describe it", func(ctx context.Context) error {
			_, err := c.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{ImageId: id, Description: &types.AttributeValue{Value: &p.Description}})
			return err
		})
	}
	t.tagSteps(r, snapshotsOf(r.image), add)
	return steps
}

// sharing are the steps that let others see an image, and count on it.
func (t *tail) sharing(r *regionImage) (steps []step) {
	p := t.plan
	c := t.session.EC2(r.region)
	id := aws.String(r.id())
	add := func(what string, do func(context.Context) error) { steps = append(steps, step{what, do}) }
	if perms := p.launchPermissions(); len(perms) > 0 {
		add("share it", func(ctx context.Context) error {
			_, err := c.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{ImageId: id, LaunchPermission: &types.LaunchPermissionModifications{Add: perms}})
			return err
		})
	}
	if perms := p.volumePermissions(); len(perms) > 0 {
		for _, snap := range snapshotsOf(r.image) {
			add("share "+snap, func(ctx context.Context) error {
				_, err := c.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{
					SnapshotId: &snap, Attribute: types.SnapshotAttributeNameCreateVolumePermission,
					CreateVolumePermission: &types.CreateVolumePermissionModifications{Add: perms},
				})
				return err
			})
		}
	}
	if p.DeprecateAt != nil {
		add("set when it is deprecated", func(ctx context.Context) error {
			_, err := c.EnableImageDeprecation(ctx, &ec2.EnableImageDeprecationInput{ImageId: id, DeprecateAt: p.DeprecateAt})
			return err
		})
	}
	if f, ok := p.FastLaunch[r.region]; ok { // it launches machines, which cost
		add("turn fast launch on", func(ctx context.Context) error { return f.enable(ctx, c, id) })
	}
	return steps
}

// tagSteps are the tags that could not be given at creation: RegisterImage
// makes no snapshots, and an image that was there already has none of ours.
func (t *tail) tagSteps(r *regionImage, snapshots []string, add func(string, func(context.Context) error)) {
	p := t.plan
	first := r.region == p.Region && !p.intermediate()
	if !first || p.Create != nil {
		return
	}
	tag := func(ids []string, tags map[string]string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := t.session.EC2(r.region).CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: ec2Tags(tags)})
			return err
		}
	}
	if p.Image != "" {
		add("tag it", tag([]string{r.id()}, p.ImageTags))
	}
	// Those of Volumes were tagged when they were made, and others are not ours.
	if len(snapshots) > 0 && len(p.Volumes) == 0 {
		add("tag its snapshots", tag(snapshots, p.SnapshotTags))
	}
}

// step is one thing to do to an image.
type step struct {
	what string
	do   func(context.Context) error
}

// side takes steps side by side, each until it is done or fails for good.
func (t *tail) side(ctx context.Context, r *regionImage, steps []step) error {
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, s := range steps {
		wg.Go(func() {
			if err := t.patiently(ctx, r.id()+" to take: "+s.what, s.do); err != nil {
				errs[i] = fmt.Errorf("%s: %s: %w", r.id(), s.what, err)
			}
		})
	}
	wg.Wait()
	// What has failed for good says more than what was not answered.
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil && !isUnfinished(err) }); i >= 0 {
		errs[0], errs[i] = errs[i], errs[0]
		for i, err := range errs[1:] {
			if isUnfinished(err) {
				errs[i+1] = fmt.Errorf("(not finished: %v)", err)
			}
		}
	}
	return errors.Join(errs...)
}

// patiently makes a call, again while it is throttled, or EC2 does not know yet
// what it is about.
func (t *tail) patiently(ctx context.Context, what string, call func(context.Context) error) error {
	return called(t.session.Wait(ctx, awscloud.Wait{What: what, First: -1}, func(ctx context.Context) (bool, string, error) {
		err := call(ctx)
		return err == nil, "", err
	}))
}

func (p *imagePlan) launchPermissions() []types.LaunchPermission {
	var all []types.LaunchPermission
	for _, v := range p.Users {
		all = append(all, types.LaunchPermission{UserId: aws.String(v)})
	}
	for _, v := range p.Groups {
		all = append(all, types.LaunchPermission{Group: types.PermissionGroup(v)})
	}
	for _, v := range p.OrgARNs {
		all = append(all, types.LaunchPermission{OrganizationArn: aws.String(v)})
	}
	for _, v := range p.OUARNs {
		all = append(all, types.LaunchPermission{OrganizationalUnitArn: aws.String(v)})
	}
	return all
}

func (p *imagePlan) volumePermissions() []types.CreateVolumePermission {
	var all []types.CreateVolumePermission
	for _, v := range p.SnapshotUsers {
		all = append(all, types.CreateVolumePermission{UserId: aws.String(v)})
	}
	for _, v := range p.SnapshotGroups {
		all = append(all, types.CreateVolumePermission{Group: types.PermissionGroup(v)})
	}
	return all
}

// enable begins fast launch. That EC2 prepares the snapshots is not waited for:
// the AMI can be launched before, only not as fast.
func (f *fastLaunchPlan) enable(ctx context.Context, c *ec2.Client, id *string) error {
	in := &ec2.EnableFastLaunchInput{ImageId: id}
	if f.Version != "" {
		in.LaunchTemplate = &types.FastLaunchLaunchTemplateSpecificationRequest{
			LaunchTemplateId: optional(f.TemplateID), LaunchTemplateName: optional(f.TemplateName), Version: &f.Version,
		}
	}
	if f.Parallel > 0 {
		in.MaxParallelLaunches = &f.Parallel
	}
	if f.Count > 0 {
		in.SnapshotConfiguration = &types.FastLaunchSnapshotConfigurationRequest{TargetResourceCount: &f.Count}
	}
	out, err := c.EnableFastLaunch(ctx, in)
	if err != nil {
		return err
	}
	if out.State == types.FastLaunchStateCodeEnablingFailed || out.State == types.FastLaunchStateCodeEnabledFailed {
		return &awscloud.FailedError{What: "fast launch of " + *id, State: string(out.State), Message: aws.ToString(out.StateTransitionReason)}
	}
	return nil
}

func (t *tail) protect(ctx context.Context, r *regionImage) error {
	if !t.plan.Protect {
		return nil
	}
	return t.side(ctx, r, []step{{"protect it from being deregistered", func(ctx context.Context) error {
		_, err := t.session.EC2(r.region).EnableImageDeregistrationProtection(ctx, &ec2.EnableImageDeregistrationProtectionInput{
			ImageId: aws.String(r.id()), WithCooldown: aws.Bool(t.plan.Cooldown),
		})
		return err
	}}})
}

// dropIntermediate removes the image that was only there to be copied. When that
// fails, its lease becomes one of something temporary: that is tried again, and
// the copies are not held up.
func (t *tail) dropIntermediate(ctx context.Context, first *regionImage) error {
	err := t.discard(ctx, first.lease)
	if err == nil {
		return nil
	}
	t.run.Events.Warn(fmt.Sprintf("The intermediate image %s in %s could not be removed yet: %v", first.id(), first.region, err))
	keep := context.WithoutCancel(ctx)
	l, err := t.run.Leases.Intend(keep, leaseImage, first.lease.Name, map[string]string{
		dataRegion: first.region, dataAccess: t.plan.Access, dataForeign: first.lease.Data[dataForeign],
	})
	if err == nil {
		err = t.run.Leases.Created(keep, l, first.id())
	}
	if err == nil {
		err = t.strike(ctx, first.lease)
	}
	return err
}

// discard releases an image that is not kept.
func (t *tail) discard(ctx context.Context, l builders.Lease) error {
	if !slices.ContainsFunc(t.open(), func(o builders.Lease) bool { return o.ID == l.ID }) {
		return nil // never begun, or struck
	}
	if err := t.remover.releaseImage(ctx, l); err != nil {
		return err
	}
	return t.strike(ctx, l)
}

// remove removes a failed image of ours and its snapshots.
func (t *tail) remove(ctx context.Context, region, id string) error {
	return called(t.remover.removeImage(ctx, region, types.Image{ImageId: &id}, removal{snapshots: true, unprotect: true, build: t.plan.BakeID}))
}
