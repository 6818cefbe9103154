package awscloud

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// maxIDs is how many ids one call asks for; EC2 takes 200 values of a filter.
const maxIDs = 100

// lookTimeout bounds one call, with the tries that the SDK makes anew.
const lookTimeout = 90 * time.Second

// Batch looks at many resources of one kind in one call. An id that the cloud
// does not know fails nobody but who has asked for it.
type Batch[T any] struct {
	kind     string
	describe func(ctx context.Context, ids []string) (map[string]T, error)

	mu      sync.Mutex
	waiting []*ask[T]
	busy    bool
	timer   *time.Timer
	// gap is the least time between two calls: throttling makes it longer for
	// all, and each answer shorter again.
	gap  time.Duration
	last time.Time
}

const maxGap = 30 * time.Second

// ask is one look that somebody wants.
type ask[T any] struct {
	id string
	// due is when the look is wanted; from soonest on it goes along with another's.
	due, soonest time.Time
	reply        chan answer[T]
	gone         func() // told when who has asked is gone; set while the call is made
}

type answer[T any] struct {
	value T
	err   error
}

// Get looks at once.
func (b *Batch[T]) Get(ctx context.Context, id string) (T, error) { return b.get(ctx, id, 0) }

// get looks after that time, or somewhat earlier together with others.
func (b *Batch[T]) get(ctx context.Context, id string, after time.Duration) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	now := time.Now()
	a := &ask[T]{id: id, due: now.Add(after), soonest: now.Add(after / 2), reply: make(chan answer[T], 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, a)
	b.schedule()
	b.mu.Unlock()
	select {
	case r := <-a.reply:
		return r.value, r.err
	case <-ctx.Done():
		b.mu.Lock()
		b.waiting = slices.DeleteFunc(b.waiting, func(o *ask[T]) bool { return o == a })
		if a.gone != nil {
			a.gone()
		}
		b.schedule()
		b.mu.Unlock()
		return none, ctx.Err()
	}
}

// schedule sets the timer for the look that is due next. b.mu is held.
func (b *Batch[T]) schedule() {
	if b.timer != nil {
		b.timer.Stop()
	}
	if b.busy || len(b.waiting) == 0 {
		return
	}
	next := slices.MinFunc(b.waiting, func(x, y *ask[T]) int { return x.due.Compare(y.due) }).due
	if soonest := b.last.Add(b.gap); next.Before(soonest) {
		next = soonest
	}
	b.timer = time.AfterFunc(time.Until(next), b.fire)
}

// fire makes one call for all that are due, or nearly so.
func (b *Batch[T]) fire() {
	b.mu.Lock()
	now := time.Now()
	if b.busy || !slices.ContainsFunc(b.waiting, func(a *ask[T]) bool { return !a.due.After(now) }) {
		b.schedule()
		b.mu.Unlock()
		return
	}
	// Who has waited longest goes first.
	slices.SortStableFunc(b.waiting, func(x, y *ask[T]) int { return x.due.Compare(y.due) })
	var these, later []*ask[T]
	var ids []string
	for _, a := range b.waiting {
		known := slices.Contains(ids, a.id)
		if a.soonest.After(now) || !known && len(ids) == maxIDs {
			later = append(later, a)
			continue
		}
		these = append(these, a)
		if !known {
			ids = append(ids, a.id)
		}
	}
	b.waiting, b.busy, b.last = later, true, now
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	left := len(these)
	for _, a := range these {
		a.gone = func() {
			if left--; left == 0 {
				cancel() // nobody wants the answer
			}
		}
	}
	b.mu.Unlock()

	found, err := b.describe(ctx, ids)
	cancel()

	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = false
	if IsThrottled(err) {
		b.gap = min(max(2*b.gap, time.Second), maxGap)
	} else if b.gap /= 2; b.gap < 100*time.Millisecond {
		b.gap = 0
	}
	for _, a := range these {
		a.gone = nil
		r := answer[T]{err: err}
		if err == nil {
			v, ok := found[a.id]
			if r.value = v; !ok {
				r.err = &NotFoundError{b.kind + " " + a.id}
			}
		} else if errors.Is(err, context.Canceled) {
			// Who is still here was not the one that left.
			r.err = context.DeadlineExceeded
		}
		a.reply <- r
	}
	b.schedule()
}

// batch makes the batch of a kind in a region once.
func batch[T any](s *Session, kind, region string, describe func(ctx context.Context, c *ec2.Client, ids []string) (map[string]T, error)) *Batch[T] {
	if region == "" {
		region = s.Region
	}
	c := s.EC2(region)
	s.mu.Lock()
	defer s.mu.Unlock()
	key := kind + " " + region
	if b, ok := s.batches[key].(*Batch[T]); ok {
		return b
	}
	b := &Batch[T]{kind: kind, describe: func(ctx context.Context, ids []string) (map[string]T, error) { return describe(ctx, c, ids) }}
	s.batches[key] = b
	return b
}

// byID is the filter for ids: unlike a list of ids, it bears one that is unknown.
func byID(name string, ids []string) []types.Filter {
	return []types.Filter{{Name: aws.String(name), Values: ids}}
}

// Instances looks at instances of a region; "" is the session's.
func (s *Session) Instances(region string) *Batch[types.Instance] {
	return batch(s, "instance", region, func(ctx context.Context, c *ec2.Client, ids []string) (map[string]types.Instance, error) {
		found := map[string]types.Instance{}
		pages := ec2.NewDescribeInstancesPaginator(c, &ec2.DescribeInstancesInput{Filters: byID("instance-id", ids)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, r := range page.Reservations {
				for _, i := range r.Instances {
					found[aws.ToString(i.InstanceId)] = i
				}
			}
		}
		return found, nil
	})
}

// Images looks at the account's own images of a region.
func (s *Session) Images(region string) *Batch[types.Image] {
	return batch(s, "image", region, func(ctx context.Context, c *ec2.Client, ids []string) (map[string]types.Image, error) {
		found := map[string]types.Image{}
		pages := ec2.NewDescribeImagesPaginator(c, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: byID("image-id", ids), IncludeDeprecated: aws.Bool(true)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, i := range page.Images {
				found[aws.ToString(i.ImageId)] = i
			}
		}
		return found, nil
	})
}

// Snapshots looks at the account's own snapshots of a region.
func (s *Session) Snapshots(region string) *Batch[types.Snapshot] {
	return batch(s, "snapshot", region, func(ctx context.Context, c *ec2.Client, ids []string) (map[string]types.Snapshot, error) {
		found := map[string]types.Snapshot{}
		pages := ec2.NewDescribeSnapshotsPaginator(c, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: byID("snapshot-id", ids)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, i := range page.Snapshots {
				found[aws.ToString(i.SnapshotId)] = i
			}
		}
		return found, nil
	})
}

// Volumes looks at volumes of a region.
func (s *Session) Volumes(region string) *Batch[types.Volume] {
	return batch(s, "volume", region, func(ctx context.Context, c *ec2.Client, ids []string) (map[string]types.Volume, error) {
		found := map[string]types.Volume{}
		pages := ec2.NewDescribeVolumesPaginator(c, &ec2.DescribeVolumesInput{Filters: byID("volume-id", ids)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, i := range page.Volumes {
				found[aws.ToString(i.VolumeId)] = i
			}
		}
		return found, nil
	})
}
