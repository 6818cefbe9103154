//go:build linux

package ec2

import (
	"maps"
	"slices"
	"time"
)

// Phase is something that the cloud took its time for.
type Phase struct {
	// What: "boot" (from the launch until the ports answer), "stop", "terminate"
	// (until nothing holds the network any more), "image" or "copy".
	What string
	// ID and Tags are those of the instance or the image.
	ID   string
	Tags map[string]string
	// Ended is when it could first be seen to have ended: when its duration was
	// over and also the work behind it was done. Zero: it has not ended.
	Began, Ended time.Time
}

// Phases are those that have begun, in that order.
func (c *Cloud) Phases() []Phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Phase
	for _, p := range c.phases {
		all = append(all, *p)
	}
	return all
}

// phase notes that something begins. The cloud is locked.
func (c *Cloud) phase(what string, i item) *Phase {
	p := &Phase{What: what, ID: i.id, Tags: maps.Clone(i.tags), Began: c.now()}
	c.phases = append(c.phases, p)
	return p
}

// over notes that the work is done now, and the duration at the given time.
func (p *Phase) over(now, due time.Time) {
	if p != nil && p.Ended.IsZero() {
		p.Ended = slices.MaxFunc([]time.Time{now, due}, time.Time.Compare)
	}
}
