//go:build linux

package digitalocean

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Action is what FailActions is asked about.
type Action struct {
	// Type is "create", "shutdown", "snapshot", "transfer" …, ResourceType "droplet", "image", "reserved_ip".
	Type, ResourceType string
	// Resource is its number, Region where the action takes place; of a transfer, the target.
	Resource int
	Region   string
}

// action is something that happens to a droplet, an image or an address.
type action struct {
	Action
	id                 int
	status             string
	started, completed time.Time
}

const (
	inProgress = "in-progress"
	completed  = "completed"
	errored    = "errored"
)

// errPlanned is why an action ends as errored when FailActions says so.
var errPlanned = errors.New("planned by the test")

// begin starts an action that takes at least so long. do, if any, is its work, which is done
// without c.mu; done is told the result, with c.mu held, as the action ends. An
// action that is to fail does no work.
func (c *Cloud) begin(what Action, takes time.Duration, do func(context.Context) error, done func(error)) *action {
	a := &action{Action: what, id: c.id(), status: inProgress, started: time.Now()}
	c.actions = append(c.actions, a)
	var planned error
	if c.fails != nil && c.fails(what) {
		planned = errPlanned
	}
	var held chan struct{}
	if c.holds != nil && c.holds(what) {
		held = c.release
	}
	c.work.Go(func() {
		err := planned
		if err == nil && do != nil {
			err = do(c.ctx)
		}
		if c.wait(takes-time.Since(a.started)) != nil {
			return
		}
		if held != nil {
			select {
			case <-held:
			case <-c.ctx.Done():
				return
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil && planned == nil {
			c.violations = append(c.violations, "the emulator's own trouble: "+what.Type+" of a "+what.ResourceType+": "+err.Error())
		}
		a.completed, a.status = time.Now(), completed
		if err != nil {
			a.status = errored
		}
		done(err)
	})
	return a
}

func (c *Cloud) actionView(a *action) obj {
	v := obj{
		"id": a.id, "status": a.status, "type": a.Type, "started_at": stamp(a.started), "completed_at": nil,
		"resource_id": a.Resource, "resource_type": a.ResourceType, "region": c.regionView(a.Region), "region_slug": a.Region,
	}
	if !a.completed.IsZero() {
		v["completed_at"] = stamp(a.completed)
	}
	return v
}

// actionsOf are those that are shown and pass the filter, the newest first.
func (c *Cloud) actionsOf(filter func(*action) bool) []obj {
	var all []obj
	for _, a := range slices.Backward(c.actions) {
		if c.seen(a.started) && filter(a) {
			all = append(all, c.actionView(a))
		}
	}
	return all
}

// action is the one in the path, if the filter passes it.
func (q *request) action(filter func(*action) bool) (any, error) {
	id, err := q.number("action")
	if err != nil {
		return nil, err
	}
	for _, a := range q.c.actions {
		if a.id == id && q.c.seen(a.started) && filter(a) {
			return obj{"action": q.c.actionView(a)}, nil
		}
	}
	return nil, notFound()
}

func every(*action) bool { return true }

// on is the filter for what happens to one thing.
func on(resourceType string, id int) func(*action) bool {
	return func(a *action) bool { return a.ResourceType == resourceType && a.Resource == id }
}

func listActions(q *request) (any, error) { return q.page("actions", q.c.actionsOf(every)) }

func getAction(q *request) (any, error) { return q.action(every) }

func listDropletActions(q *request) (any, error) {
	d, err := q.droplet()
	if err != nil {
		return nil, err
	}
	return q.page("actions", q.c.actionsOf(on("droplet", d.id)))
}

func getDropletAction(q *request) (any, error) {
	d, err := q.droplet()
	if err != nil {
		return nil, err
	}
	return q.action(on("droplet", d.id))
}

func listImageActions(q *request) (any, error) {
	i, err := q.image()
	if err != nil {
		return nil, err
	}
	return q.page("actions", q.c.actionsOf(on("image", i.id)))
}

func getImageAction(q *request) (any, error) {
	i, err := q.image()
	if err != nil {
		return nil, err
	}
	return q.action(on("image", i.id))
}
