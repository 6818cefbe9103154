//go:build linux

package digitalocean

import (
	"context"
	"slices"
	"time"
)

// dropletOrder is the body of an action.
type dropletOrder struct {
	Type string `json:"type"`
	Name string `json:"name"`
}

func actOnDroplet(q *request) (any, error) {
	d, err := q.droplet()
	if err != nil {
		return nil, err
	}
	var in dropletOrder
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	a, err := q.c.order(d, in)
	if err != nil {
		return nil, err
	}
	return obj{"action": q.c.actionView(a)}, nil
}

func actOnDropletsByTag(q *request) (any, error) {
	tag := q.URL.Query().Get("tag_name")
	if tag == "" {
		return nil, badRequest("tag_name is required.")
	}
	var in dropletOrder
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	all := []obj{}
	for _, d := range q.c.tagged(tag) {
		a, err := q.c.order(d, in)
		if err != nil {
			return nil, err
		}
		all = append(all, q.c.actionView(a))
	}
	return obj{"actions": all}, nil
}

// order begins what is asked of a droplet, and locks it until that is done.
func (c *Cloud) order(d *droplet, in dropletOrder) (*action, error) {
	if d.locked {
		return nil, pendingEvent("Droplet")
	}
	if d.machine == nil {
		return nil, unprocessable("The Droplet was not created.")
	}
	took := c.o.Durations
	var takes time.Duration
	var do func(context.Context) error
	done := func() {}
	off := func(ctx context.Context) error { return c.stop(ctx, d) }
	start := func(ctx context.Context) error { return d.machine.Start(ctx) }
	switch in.Type {
	case "shutdown", "power_off":
		if d.status != "active" {
			return nil, unprocessable("Droplet is already powered off.")
		}
		takes, do, done = took.PowerOff, off, func() { d.status = "off" }
		if in.Type == "shutdown" {
			takes = took.Shutdown
			if c.deaf {
				do, done = nil, func() {}
			}
		}
	case "power_on":
		if d.status != "off" {
			return nil, unprocessable("Droplet is already powered on.")
		}
		takes, do, done = took.PowerOn, start, func() { c.started(d) }
	case "reboot", "power_cycle":
		if d.status != "active" {
			return nil, unprocessable("Droplet is powered off.")
		}
		takes, done = took.Reboot, func() { c.started(d) }
		do = func(ctx context.Context) error {
			if err := off(ctx); err != nil {
				return err
			}
			return start(ctx)
		}
	case "rename":
		if len(in.Name) > 255 || !hostname.MatchString(in.Name) {
			return nil, unprocessable("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
		}
		done = func() { d.name = in.Name }
	case "snapshot":
		if len(in.Name) > 255 {
			return nil, unprocessable("Name is too long (maximum is 255 characters)")
		}
		if in.Name == "" {
			in.Name = d.name + "-" + stamp(time.Now())
		}
		takes = took.Snapshot
		made := &image{name: in.Name, kind: "snapshot", distribution: d.image.distribution, regions: []string{d.region},
			minDisk: d.size.disk, sizeGB: 2.36, status: "available", droplet: d.id}
		do = func(ctx context.Context) (err error) {
			// A machine that runs is halted for the copy, which must not meet its user data at work.
			ready, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_ = d.machine.Ready(ready) // what went wrong with it is the droplet's own matter
			made.content, err = d.root.Content()
			return err
		}
		done = func() {
			made.id, made.created = c.id(), time.Now()
			c.images = append(c.images, made)
		}
	case "":
		return nil, badRequest("type is required.")
	default:
		return nil, unprocessable("The emulator has no action %q of a Droplet.", in.Type)
	}
	d.locked = true
	return c.begin(Action{in.Type, "droplet", d.id, d.region}, takes, do, func(err error) {
		d.locked = false
		if err == nil && slices.Contains(c.droplets, d) {
			done()
		}
	}), nil
}
