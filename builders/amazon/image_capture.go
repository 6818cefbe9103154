package amazon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// capture takes the snapshots that the image is registered of, and waits for
// them. It is the lease of the image that stands for them: by the mark of the
// bake they are found again, after a crash, and removed with it.
func (t *tail) capture(ctx context.Context) error {
	p := t.plan
	if len(p.Volumes) == 0 || t.snapshots != nil {
		return nil
	}
	ids := map[string]string{}
	var mu sync.Mutex
	var begun errgroup.Group
	for device, volume := range p.Volumes {
		begun.Go(func() error {
			id, err := t.captureOne(ctx, device)
			if err != nil {
				return fmt.Errorf("take a snapshot of %s (%s): %w", volume, device, called(err))
			}
			mu.Lock()
			defer mu.Unlock()
			ids[device] = id
			return nil
		})
	}
	if err := begun.Wait(); err != nil {
		return err
	}
	if t.captured != nil {
		t.captured(ctx)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, id := range ids {
		g.Go(func() error {
			_, err := t.session.WaitSnapshot(gctx, p.Region, id)
			return t.lost(err)
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	t.snapshots = ids
	return nil
}

// captureOne begins the snapshot of a device, or finds the one that has been begun.
func (t *tail) captureOne(ctx context.Context, device string) (string, error) {
	p := t.plan
	name := p.FirstName + ":" + device
	old := t.resumed != nil
	for try := 1; ; try++ {
		if old {
			id, err := t.findSnapshot(ctx, name)
			if id != "" || err != nil {
				return id, err
			}
		}
		tags := maps.Clone(p.SnapshotTags)
		tags[tagSource], tags[tagLease] = p.Source, name
		c, cancel := unhurried(ctx)
		var id string
		var failed error
		// Throttled, it is waited for. Nothing else is tried again by itself: there is
		// no client token, and each try may make a snapshot.
		err := t.session.Wait(c, awscloud.Wait{What: "a snapshot to be begun", First: -1}, func(ctx context.Context) (bool, string, error) {
			out, err := t.session.EC2(p.Region).CreateSnapshot(ctx, &ec2.CreateSnapshotInput{
				VolumeId: aws.String(p.Volumes[device]), Description: optional(p.SnapshotDescription), TagSpecifications: tagged(types.ResourceTypeSnapshot, tags),
			}, func(o *ec2.Options) { o.Retryer = aws.NopRetryer{} })
			if awscloud.IsThrottled(err) {
				return false, awscloud.Code(err), nil
			}
			if failed = err; err == nil {
				id = aws.ToString(out.SnapshotId)
			}
			return true, "", nil
		})
		cancel()
		if err == nil {
			err = failed
		}
		switch {
		case err == nil:
			return id, nil
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case !awscloud.IsUnanswered(err) || try == tries:
			return "", err
		}
		old = true
	}
}

func (t *tail) findSnapshot(ctx context.Context, name string) (string, error) {
	var id string
	err := t.session.Wait(ctx, awscloud.Wait{What: "the snapshot " + name + " to show", Timeout: t.remover.settle + time.Second, First: -1}, func(ctx context.Context) (bool, string, error) {
		out, err := t.session.EC2(t.plan.Region).DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: []types.Filter{
			{Name: aws.String("tag:" + tagBuild), Values: []string{t.plan.BakeID}}, {Name: aws.String("tag:" + tagLease), Values: []string{name}},
		}})
		if err != nil {
			return false, "", err
		}
		for _, s := range out.Snapshots {
			id = aws.ToString(s.SnapshotId)
		}
		return id != "", "", nil
	})
	if isTimeout(err) && ctx.Err() == nil {
		return "", nil
	}
	return id, err
}

// orphanSnapshots are snapshots of a builder's bakes that no image is made of.
func orphanSnapshots(ctx context.Context, s *awscloud.Session, a *awscloud.Access, builder string, olderThan time.Duration) ([]builders.Lease, error) {
	c := s.EC2("")
	ours := []types.Filter{{Name: aws.String("tag-key"), Values: []string{tagBuild}}}
	images, err := c.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: ours, IncludeDeprecated: aws.Bool(true), IncludeDisabled: aws.Bool(true)})
	if err != nil {
		return nil, fmt.Errorf("look for images: %w", awscloud.Explain(err))
	}
	used := map[string]bool{}
	for _, i := range images.Images {
		for _, id := range snapshotsOf(i) {
			used[id] = true
		}
	}
	var all []builders.Lease
	for pages := ec2.NewDescribeSnapshotsPaginator(c, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: ours}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for snapshots that were left: %w", awscloud.Explain(err))
		}
		for _, v := range page.Snapshots {
			tags := tagMap(v.Tags)
			if _, kept := tags[tagKeep]; kept || used[aws.ToString(v.SnapshotId)] || !strings.HasPrefix(tags[tagSource], builder+".") || time.Since(aws.ToTime(v.StartTime)) < olderThan {
				continue
			}
			all = append(all, builders.Lease{BakeID: tags[tagBuild], Builder: builder, Kind: leaseSnapshot, Name: tags[tagLease], ExternalID: aws.ToString(v.SnapshotId),
				Created: aws.ToTime(v.StartTime), Data: map[string]string{dataRegion: s.Region, dataAccess: a.Public(), dataSource: tags[tagSource]}})
		}
	}
	return all, nil
}

func isTimeout(err error) bool {
	var timeout *awscloud.TimeoutError
	return errors.As(err, &timeout)
}
