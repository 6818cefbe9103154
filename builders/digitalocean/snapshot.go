package digitalocean

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/docloud"
)

// builderID is Packer's name for the artifact.
const builderID = "pearkes.digitalocean"

// plan is what is to come of the image once its droplet is off. It is all that
// Resume has, and stands in the ledger.
type plan struct {
	Ref             docloud.Ref   `json:"ref"`
	Droplet         int           `json:"droplet"`
	Name            string        `json:"name"`
	Region          string        `json:"region"`
	Targets         []string      `json:"targets,omitempty"`
	Tags            []string      `json:"tags,omitempty"`
	Wait            bool          `json:"wait"`
	KeepPartial     bool          `json:"keep_partial,omitempty"`
	Parent          string        `json:"parent,omitempty"`
	StateTimeout    time.Duration `json:"state_timeout"`
	SnapshotTimeout time.Duration `json:"snapshot_timeout"`
	TransferTimeout time.Duration `json:"transfer_timeout"`
}

// Snapshot implements builders.Builder.
func (b *Builder) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := b.clean(ctx, run.Events); err != nil {
		return nil, err
	}
	run.Events.Say(fmt.Sprintf("Shutting the droplet %d down", b.m.id))
	if err := b.off(ctx, run); err != nil {
		return nil, err
	}
	p := plan{
		Ref: b.m.ref, Droplet: b.m.id, Name: b.o.SnapshotName, Region: b.o.Region, Targets: b.o.targets(), Tags: b.o.SnapshotTags,
		Wait: or(b.o.WaitSnapshotTransfer, true), KeepPartial: b.o.KeepPartial, Parent: b.m.parent,
		StateTimeout: b.o.StateTimeout, SnapshotTimeout: b.o.SnapshotTimeout, TransferTimeout: b.o.TransferTimeout,
	}
	if p.Name == "" {
		p.Name = fmt.Sprintf("packer-%d", run.Created.Unix())
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	guard := func(data map[string]string) map[string]string {
		data[builders.UntilRecorded], data[builders.Resumable] = "yes", string(text)
		return p.Ref.Data(data)
	}
	id := strconv.Itoa(b.m.id)
	image, err := run.Leases.Intend(ctx, leaseSnapshot, p.Name, guard(map[string]string{"droplet": id}))
	if err != nil {
		return nil, err
	}
	// From here on the droplet must live until its snapshot is taken, also when
	// this process dies: a lease that Resume needs takes it over.
	kept, err := run.Leases.Intend(ctx, leaseSource, id, guard(map[string]string{"tag": b.m.tags.build, "name": b.m.name}))
	if err == nil {
		err = run.Leases.Created(ctx, kept, id)
	}
	if err == nil {
		err = run.Leases.Released(ctx, b.m.lease)
	}
	if err != nil {
		return nil, err
	}
	kept.ExternalID = id
	t := tail{plan: p, builder: b, sess: b.m.sess, run: run, image: image, source: &kept}
	return t.finish(ctx)
}

// off powers the droplet off: cleanly, if its system does it in time.
func (b *Builder) off(ctx context.Context, run *builders.Run) error {
	s, id := b.m.sess, b.m.id
	act := func(do func(context.Context, int) (*godo.Action, *godo.Response, error)) error {
		w := docloud.Wait{What: fmt.Sprintf("droplet %d to be free", id), Option: "state_timeout", Timeout: b.o.StateTimeout}
		return s.Patiently(ctx, w, func(ctx context.Context) error {
			_, _, err := do(docloud.Repeatable(ctx), id)
			if docloud.Pending(err) { // it may be off already
				if d, _, derr := s.API.Droplets.Get(ctx, id); derr == nil && d.Status == "off" {
					return nil
				}
			}
			return err
		})
	}
	isOff := func(d *godo.Droplet) bool { return d.Status == "off" }
	if err := act(s.API.DropletActions.Shutdown); err != nil {
		return fmt.Errorf("shut the droplet down: %w", err)
	}
	err := b.state(ctx, id, docloud.Wait{What: fmt.Sprintf("droplet %d to shut down", id), Option: "shutdown_timeout", Timeout: b.o.ShutdownTimeout}, isOff)
	if _, over := errors.AsType[*docloud.TimeoutError](err); over && ctx.Err() == nil {
		run.Events.Warn(fmt.Sprintf("The droplet's system has not shut down within %v (shutdown_timeout): the power is cut", b.o.ShutdownTimeout))
		if err = act(s.API.DropletActions.PowerOff); err == nil {
			err = b.state(ctx, id, docloud.Wait{What: fmt.Sprintf("droplet %d to be off", id), Option: "state_timeout", Timeout: b.o.StateTimeout}, isOff)
		}
	}
	if err != nil {
		return fmt.Errorf("power the droplet off: %w", err)
	}
	return nil
}

// Resume implements builders.Resumer.
func (b *Builder) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	t := tail{builder: b, run: run, again: true}
	for i, l := range open {
		switch l.Kind {
		case leaseSnapshot:
			t.image = l
		case leaseSource:
			t.source = &open[i]
		}
	}
	if t.image.ID == "" {
		return nil, fmt.Errorf("%w: its bake has no lease of a snapshot", builders.ErrImageLost)
	}
	if err := json.Unmarshal([]byte(t.image.Data[builders.Resumable]), &t.plan); err != nil {
		return nil, fmt.Errorf("read the plan of the image from the ledger: %w", err)
	}
	sess, err := b.shared.Again(ctx, t.plan.Ref)
	if err != nil {
		return nil, unfinished(ctx, err)
	}
	t.sess = sess
	return t.finish(ctx)
}

// tail is what is left to do once the droplet is off. Everything in it may have
// been done before, in part, by a process that died.
type tail struct {
	plan
	builder *Builder
	sess    *docloud.Session
	run     *builders.Run
	image   builders.Lease  // of the snapshot
	source  *builders.Lease // of the droplet; nil: it has been given back
	again   bool
}

// unfinished marks an error that leaves the image to be finished later.
func unfinished(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	_, over := errors.AsType[*docloud.TimeoutError](err)
	s := docloud.Status(err)
	if over || docloud.Unreachable(err) || s == http.StatusUnauthorized || s == http.StatusForbidden {
		return fmt.Errorf("%w: %w", builders.ErrUnfinished, err)
	}
	return err
}

func (t *tail) finish(ctx context.Context) (*builders.Artifact, error) {
	a, err := t.steps(ctx)
	if err != nil {
		return nil, unfinished(ctx, err)
	}
	return a, nil
}

func (t *tail) steps(ctx context.Context) (*builders.Artifact, error) {
	id := 0
	var err error
	if t.image.ExternalID != "" {
		id, err = docloud.IDOf(t.image.ExternalID)
	} else {
		id, err = t.snapshot(ctx)
	}
	if err != nil {
		return nil, err
	}

	// The copies, the tags, and the end of the droplet, which costs money: side
	// by side. What fails waits for the others, so that it can be said what is there.
	var errs [2]error
	var failed []error
	var there []string
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = t.giveBack(ctx) })
	wg.Go(func() {
		if err := t.sess.TagImage(ctx, id, t.Tags, docloud.Wait{Option: "state_timeout", Timeout: t.StateTimeout}); err != nil {
			errs[1] = fmt.Errorf("tag the image: %w", err)
		}
	})
	there, failed = t.transfers(ctx, id)
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(append(failed, err)...)
	}
	if err := errors.Join(failed...); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if slices.ContainsFunc(failed, func(err error) bool { return errors.Is(unfinished(ctx, err), builders.ErrUnfinished) }) {
			return nil, err
		}
		if !t.KeepPartial {
			return nil, fmt.Errorf("the image is not in every region, so it is removed everywhere (keep_partial = true keeps it): %w", err)
		}
		for _, err := range failed {
			t.run.Events.Warn(fmt.Sprintf("keep_partial: %v", err))
		}
		t.run.Events.Warn(fmt.Sprintf("keep_partial: the image %d is in %s, and nowhere else", id, strings.Join(there, ", ")))
	}
	return t.artifact(id, there), nil
}

// snapshot takes the snapshot and returns the image's id.
func (t *tail) snapshot(ctx context.Context) (int, error) {
	action, err := t.begun(ctx)
	if err != nil {
		return 0, err
	}
	if action == nil {
		t.run.Events.Say(fmt.Sprintf("Taking the snapshot %s of droplet %d", t.Name, t.Droplet))
		w := docloud.Wait{What: fmt.Sprintf("droplet %d to be free", t.Droplet), Option: "state_timeout", Timeout: t.StateTimeout}
		action, err = docloud.Once(ctx, t.sess, func(ctx context.Context) (a *godo.Action, err error) {
			err = t.sess.Patiently(ctx, w, func(ctx context.Context) (err error) {
				a, _, err = t.sess.API.DropletActions.Snapshot(ctx, t.Droplet, t.Name)
				return err
			})
			return a, err
		}, func(ctx context.Context) (*godo.Action, bool, error) {
			a, err := t.action(ctx)
			return a, a != nil, err
		})
		if err != nil {
			return 0, fmt.Errorf("take the snapshot: %w", err)
		}
	}
	if action.ID > 0 {
		w := docloud.Wait{
			What: fmt.Sprintf("the snapshot of droplet %d (action %d)", t.Droplet, action.ID), Option: "snapshot_timeout", Timeout: t.SnapshotTimeout, First: 3 * time.Second,
		}
		if err := t.sess.Completed(ctx, action.ID, w); err != nil {
			return 0, err
		}
	}
	var id int
	var more []int
	w := docloud.Wait{What: "the image of the snapshot to be seen", Option: "state_timeout", Timeout: t.StateTimeout}
	start := time.Now()
	err = t.sess.Until(ctx, w, func(ctx context.Context, wait time.Duration) (bool, error) {
		ids, err := snapshotsOf(ctx, t.sess, t.Droplet, t.Name)
		if err != nil {
			return false, err
		}
		if len(ids) > 0 {
			slices.Sort(ids)
			id, more = ids[0], ids[1:]
			return true, nil
		}
		if !t.sess.Young(start) && t.again && action.ID == 0 {
			return false, fmt.Errorf("%w: droplet %d is gone, and no snapshot of it is there", builders.ErrImageLost, t.Droplet)
		}
		_ = t.sess.Pause(ctx, wait) // Until sees it when ctx ends
		return false, nil
	})
	if err != nil {
		return 0, err
	}
	if err := t.run.Leases.Created(ctx, t.image, strconv.Itoa(id)); err != nil {
		return 0, err
	}
	// A call without an answer may have taken one more.
	if err := docloud.Each(ctx, more, func(ctx context.Context, id int) error {
		_, err := t.sess.DeleteImage(ctx, id)
		return err
	}); err != nil {
		return 0, fmt.Errorf("remove a second snapshot: %w", err)
	}
	t.run.Events.Say(fmt.Sprintf("The snapshot %s is image %d", t.Name, id))
	return id, nil
}

// begun is the action that another process has begun, if any. One without an id
// stands for one of a droplet that is gone.
func (t *tail) begun(ctx context.Context) (*godo.Action, error) {
	if !t.again {
		return nil, nil
	}
	find := func(ctx context.Context) (*godo.Action, bool, error) {
		a, err := t.action(ctx)
		return a, a != nil, err
	}
	var a *godo.Action
	var err error
	if t.sess.Young(t.image.Created) { // it may not be seen yet
		a, _, err = docloud.Search(ctx, t.sess, find)
	} else {
		a, _, err = find(ctx)
	}
	if docloud.NotFound(err) {
		return &godo.Action{}, nil
	}
	if a == nil || err != nil {
		return nil, err
	}
	if a.Status == "errored" {
		return nil, fmt.Errorf("%w: %w", builders.ErrImageLost, &docloud.ActionError{Action: *a})
	}
	return a, nil
}

// action is the newest action by which a snapshot of the droplet is taken. The
// droplet is the bake's own, so nobody else takes one.
func (t *tail) action(ctx context.Context) (*godo.Action, error) {
	all, err := docloud.Pages(ctx, func(ctx context.Context, o *godo.ListOptions) ([]godo.Action, *godo.Response, error) {
		return t.sess.API.Droplets.Actions(ctx, t.Droplet, o)
	})
	if err != nil {
		return nil, err
	}
	var newest *godo.Action
	for i := range all {
		if all[i].Type == "snapshot" && (newest == nil || all[i].ID > newest.ID) {
			newest = &all[i]
		}
	}
	return newest, nil
}

// snapshotsOf are the images of the droplet's snapshots of that name, also when
// the droplet is gone.
func snapshotsOf(ctx context.Context, s *docloud.Session, droplet int, name string) (ids []int, err error) {
	of, err := docloud.Pages(ctx, func(ctx context.Context, o *godo.ListOptions) ([]godo.Image, *godo.Response, error) {
		return s.API.Droplets.Snapshots(ctx, droplet, o)
	})
	for _, i := range of {
		if i.Name == name {
			ids = append(ids, i.ID)
		}
	}
	if !docloud.NotFound(err) {
		return ids, err
	}
	all, err := docloud.Pages(ctx, s.API.Snapshots.ListDroplet)
	for _, i := range all {
		if id, ierr := strconv.Atoi(i.ID); ierr == nil && i.ResourceID == strconv.Itoa(droplet) && i.Name == name {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// giveBack ends the droplet: everything of it is in the image. Its lease would
// otherwise be struck with the image's.
func (t *tail) giveBack(ctx context.Context) error {
	if t.source == nil {
		return nil
	}
	if err := releaseDroplet(ctx, t.sess, *t.source); err != nil {
		return fmt.Errorf("destroy the droplet, of which the image has been made: %w", err)
	}
	return t.run.Leases.Released(ctx, *t.source)
}

// transfers brings the image to all its regions, and says in which it is.
func (t *tail) transfers(ctx context.Context, id int) (there []string, failed []error) {
	errs := make([]error, len(t.Targets))
	var wg sync.WaitGroup
	for i, region := range t.Targets {
		wg.Go(func() {
			if err := t.sess.Transfer(ctx, id, region, t.TransferTimeout, "transfer_timeout", t.Wait, t.again); err != nil {
				errs[i] = fmt.Errorf("bring the image to %s: %w", region, err)
			}
		})
	}
	if len(t.Targets) > 0 {
		t.run.Events.Say("Bringing the image to " + strings.Join(t.Targets, ", "))
	}
	wg.Wait()
	there = []string{t.Region}
	for i, region := range t.Targets {
		if errs[i] == nil {
			there = append(there, region)
		} else {
			failed = append(failed, errs[i])
		}
	}
	return there, failed
}

// artifact is the finished image.
func (t *tail) artifact(id int, regions []string) *builders.Artifact {
	a := &builders.Artifact{
		BuilderID: builderID,
		ID:        fmt.Sprintf("%s:%d", strings.Join(regions, ","), id),
		Text:      fmt.Sprintf("A snapshot was created: '%s' (ID: %d) in regions '%s'", t.Name, id, strings.Join(regions, ",")),
		Parent:    t.Parent,
		Values:    t.run.Values,
		Destroy:   func(ctx context.Context) error { _, err := t.sess.DeleteImage(ctx, id); return err },
	}
	for _, r := range regions {
		a.Places = append(a.Places, builders.Place{Platform: "digitalocean", Region: r, ID: strconv.Itoa(id), Location: fmt.Sprintf("https://cloud.digitalocean.com/images/snapshots/droplets?i=%d", id)})
	}
	return a
}
