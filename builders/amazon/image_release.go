package amazon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// remover gives images back.
type remover struct {
	s *awscloud.Session
	// settle is how long a thing may exist before it is found.
	settle time.Duration
}

// releaseImage removes the image of a lease, and its snapshots. Of one whose id
// never came, it removes what has its name and the mark of its bake.
func (r remover) releaseImage(ctx context.Context, l builders.Lease) error {
	region, name, ok := strings.Cut(l.Name, "/")
	if !ok {
		return fmt.Errorf("the lease's name %q is not REGION/NAME", l.Name)
	}
	found, err := r.findLeased(ctx, region, name, l)
	if err != nil {
		return fmt.Errorf("look for the image %s: %w", l.Name, awscloud.Explain(err))
	}
	ours := removal{snapshots: true, unprotect: true, build: l.BakeID, keep: strings.Fields(l.Data[dataForeign])}
	for _, i := range found {
		if err := r.removeImage(ctx, region, i, ours); err != nil {
			return fmt.Errorf("remove the image %s in %s: %w", aws.ToString(i.ImageId), region, awscloud.Explain(err))
		}
	}
	if len(found) == 0 {
		// Its snapshots may have outlived it.
		return r.removeSnapshots(ctx, region, l.ExternalID, nil, l.BakeID)
	}
	return nil
}

// fresh is how long after its lease an image may be there without being seen.
const fresh = 5 * time.Minute

func (r remover) findLeased(ctx context.Context, region, name string, l builders.Lease) ([]types.Image, error) {
	var ours []types.Image
	look := func(ctx context.Context) (bool, string, error) {
		if l.ExternalID != "" {
			i, err := r.s.Images(region).Get(ctx, l.ExternalID)
			if err == nil {
				ours = []types.Image{i}
			} else if awscloud.IsNotFound(err) {
				err = nil
			}
			return len(ours) > 0, "", err
		}
		found, err := named(ctx, r.s, region, name)
		ours = slices.DeleteFunc(found, func(i types.Image) bool { return l.BakeID == "" || tagOf(i.Tags, tagBuild) != l.BakeID })
		return len(ours) > 0, "", err
	}
	if time.Since(l.Created) > fresh {
		_, _, err := look(ctx)
		return ours, err
	}
	err := r.s.Wait(ctx, awscloud.Wait{What: "the image " + l.Name + " to show", Timeout: r.settle + time.Second, First: -1}, look)
	var timeout *awscloud.TimeoutError
	if errors.As(err, &timeout) && ctx.Err() == nil {
		return nil, nil
	}
	return ours, err
}

// removal says how an image is removed.
type removal struct {
	snapshots bool // with its snapshots
	// unprotect turns its protection off first.
	unprotect bool
	// build is the bake whose snapshots in the region go too, although the image
	// does not name them: a copy under way does not.
	build string
	// keep are snapshots that the image has, and that are not its own.
	keep []string
}

// removeImage deregisters an image. That it is gone already is success.
func (r remover) removeImage(ctx context.Context, region string, i types.Image, how removal) error {
	c := r.s.EC2(region)
	in := &ec2.DeregisterImageInput{ImageId: i.ImageId}
	if how.snapshots && len(how.keep) == 0 {
		in.DeleteAssociatedSnapshots = aws.Bool(true)
	}
	// With a cool-down, EC2 gives the end of the protection here, not "disabled".
	if p := aws.ToString(i.DeregistrationProtection); how.unprotect && p != "" && p != "disabled" {
		_, err := c.DisableImageDeregistrationProtection(ctx, &ec2.DisableImageDeregistrationProtectionInput{ImageId: i.ImageId})
		if err != nil && !awscloud.IsNotFound(err) {
			return err
		}
	}
	out, err := c.DeregisterImage(ctx, in)
	switch {
	case err == nil:
	case awscloud.IsNotFound(err):
		out = &ec2.DeregisterImageOutput{}
	case awscloud.Code(err) == "OperationNotPermitted":
		return fmt.Errorf("%w: its deregistration protection must be turned off first, and 24 hours pass if it has a cool-down", awscloud.Explain(err))
	default:
		return err
	}
	if !how.snapshots {
		return nil
	}
	left := slices.DeleteFunc(snapshotsOf(i), func(id string) bool {
		return slices.Contains(how.keep, id) || slices.ContainsFunc(out.DeleteSnapshotResults, func(d types.DeleteSnapshotReturnCode) bool {
			return aws.ToString(d.SnapshotId) == id && d.ReturnCode == types.SnapshotReturnCodesSuccess
		})
	})
	return r.removeSnapshots(ctx, region, aws.ToString(i.ImageId), left, how.build)
}

func snapshotsOf(i types.Image) []string {
	var ids []string
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil && m.Ebs.SnapshotId != nil {
			ids = append(ids, *m.Ebs.SnapshotId)
		}
	}
	return ids
}

// removeSnapshots deletes snapshots of an image that is gone, and all others of
// a bake in the region that are part of no image. What another AMI is made of
// stays.
func (r remover) removeSnapshots(ctx context.Context, region, image string, ids []string, build string) error {
	c := r.s.EC2(region)
	var ofBuild []string
	if build != "" {
		marked := []types.Filter{{Name: aws.String("tag:" + tagBuild), Values: []string{build}}}
		out, err := c.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: marked, IncludeDeprecated: aws.Bool(true), IncludeDisabled: aws.Bool(true)})
		if err != nil {
			return err
		}
		var used []string
		for _, i := range out.Images {
			if aws.ToString(i.ImageId) != image {
				used = append(used, snapshotsOf(i)...)
			}
		}
		pages := ec2.NewDescribeSnapshotsPaginator(c, &ec2.DescribeSnapshotsInput{
			OwnerIds: []string{"self"}, Filters: marked,
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, snap := range page.Snapshots {
				if id := aws.ToString(snap.SnapshotId); !slices.Contains(ids, id) && !slices.Contains(used, id) {
					ofBuild = append(ofBuild, id)
				}
			}
		}
	}
	var errs []error
	for _, id := range slices.Concat(ids, ofBuild) {
		_, err := c.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id})
		if awscloud.Code(err) == "InvalidSnapshot.InUse" && slices.Contains(ids, id) {
			// The image that has it was deregistered this moment.
			err = r.s.Wait(ctx, awscloud.Wait{What: "snapshot " + id + " to be free", Timeout: r.settle + time.Second}, func(ctx context.Context) (bool, string, error) {
				_, err := c.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id})
				if awscloud.Code(err) == "InvalidSnapshot.InUse" {
					return false, "in use", nil
				}
				return err == nil || awscloud.IsNotFound(err), "", err
			})
			var timeout *awscloud.TimeoutError
			if errors.As(err, &timeout) && ctx.Err() == nil {
				err = nil // it has become part of another AMI
			}
		}
		if err != nil && !awscloud.IsNotFound(err) && awscloud.Code(err) != "InvalidSnapshot.InUse" {
			errs = append(errs, fmt.Errorf("delete snapshot %s: %w", id, awscloud.Explain(err)))
		}
	}
	return errors.Join(errs...)
}

// releaseSnapshot deletes the snapshot of a lease: by its id, or by the mark of
// its bake.
func (r remover) releaseSnapshot(ctx context.Context, l builders.Lease) error {
	if l.ExternalID != "" {
		return r.removeSnapshots(ctx, l.Data[dataRegion], "", []string{l.ExternalID}, "")
	}
	return r.removeSnapshots(ctx, l.Data[dataRegion], "", nil, l.BakeID)
}

// dataForeign, in the data of an image's lease, are snapshots of it that were
// there before: the template names them. They outlive the image.
const dataForeign = "foreign"

// The keys of the data of a parameter's lease.
const (
	dataParameter = "parameter"
	dataValue     = "value"    // what it was set to
	dataFormer    = "former"   // what it was before
	dataDataType  = "datatype" // the former value's
)

// imageType is the data type of parameters whose value is an AMI's id. Systems
// Manager checks that the AMI exists.
const imageType = "aws:ec2:image"

// point lets the parameters point to the image of the region.
func (t *tail) point(ctx context.Context, r *regionImage) error {
	for _, name := range t.plan.Parameters {
		if err := t.pointOne(ctx, r, name); err != nil {
			return fmt.Errorf("set the parameter %s: %w", name, err)
		}
	}
	return nil
}

func (t *tail) pointOne(ctx context.Context, r *regionImage, name string) error {
	c := t.session.SSM(r.region)
	full := r.region + "/" + name
	var former *ssmtypes.Parameter
	if err := t.patiently(ctx, "the parameter to be read", func(ctx context.Context) (err error) {
		former, err = parameter(ctx, c, name)
		return err
	}); err != nil {
		return err
	}
	if former != nil && aws.ToString(former.Value) == r.id() {
		return nil
	}
	if former != nil && former.Type != ssmtypes.ParameterTypeString {
		return fmt.Errorf("it is there already, as a %s; only a String can hold the id of an AMI", former.Type)
	}
	// An earlier process may have noted what was there before.
	if !slices.ContainsFunc(t.open(), func(l builders.Lease) bool { return l.Kind == leaseParameter && l.Name == full }) {
		data := map[string]string{
			builders.UntilRecorded: "yes", dataRegion: r.region, dataAccess: t.plan.Access, dataParameter: name, dataValue: r.id(),
		}
		if former != nil {
			data[dataFormer], data[dataDataType] = aws.ToString(former.Value), aws.ToString(former.DataType)
		}
		if _, err := t.run.Leases.Intend(ctx, leaseParameter, full, data); err != nil { // its name is all its id
			return err
		}
	}
	if err := t.patiently(ctx, "the parameter to be written", func(ctx context.Context) error {
		// Not left unanswered when another region fails: it might be written after
		// its release has looked.
		ctx, cancel := unhurried(ctx)
		defer cancel()
		_, err := c.PutParameter(ctx, &ssm.PutParameterInput{
			Name: &name, Value: aws.String(r.id()), Type: ssmtypes.ParameterTypeString, DataType: aws.String(imageType), Overwrite: aws.Bool(true),
		})
		return err
	}); err != nil {
		return err
	}
	// The value counts only once Systems Manager has looked at the AMI.
	err := t.session.Wait(ctx, awscloud.Wait{What: "the parameter to take its value", First: -1}, func(ctx context.Context) (bool, string, error) {
		now, err := parameter(ctx, c, name)
		if err != nil || now == nil {
			return false, "", err
		}
		return aws.ToString(now.Value) == r.id(), aws.ToString(now.Value), nil
	})
	return called(err)
}

// parameter reads a parameter, nil when there is none. A secret's value stays secret.
func parameter(ctx context.Context, c *ssm.Client, name string) (*ssmtypes.Parameter, error) {
	out, err := c.GetParameter(ctx, &ssm.GetParameterInput{Name: &name})
	if awscloud.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return out.Parameter, nil
}

// releaseParameter gives a parameter its former value back, unless it has
// another than ours by now.
func (r remover) releaseParameter(ctx context.Context, l builders.Lease) error {
	c := r.s.SSM(l.Data[dataRegion])
	name := l.Data[dataParameter]
	now, err := parameter(ctx, c, name)
	if err == nil && now != nil && aws.ToString(now.Value) == l.Data[dataValue] {
		if former, was := l.Data[dataFormer]; was {
			_, err = c.PutParameter(ctx, &ssm.PutParameterInput{
				Name: &name, Value: &former, Type: ssmtypes.ParameterTypeString, DataType: optional(l.Data[dataDataType]), Overwrite: aws.Bool(true),
			})
		} else if _, err = c.DeleteParameter(ctx, &ssm.DeleteParameterInput{Name: &name}); awscloud.IsNotFound(err) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("give the parameter %s in %s its former value back: %w", name, l.Data[dataRegion], awscloud.Explain(err))
	}
	return nil
}
