//go:build linux

package ec2

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Thing is one thing that exists in the cloud.
type Thing struct {
	// Kind is as EC2's tags name it (instance, key-pair, image, launch-template,
	// …), or iam-role, instance-profile, s3-bucket, s3-object, s3-upload, secret,
	// ssm-parameter, ssm-session.
	Kind, ID, Name string
	Account        string
	Region         string // "" where the kind has none
	State          string
	Tags           map[string]string
}

func (t Thing) String() string {
	s := t.Kind + " " + t.ID
	if t.Name != "" && t.Name != t.ID {
		s += " (" + t.Name + ")"
	}
	if t.Region != "" {
		s += " in " + t.Region
	}
	if t.State != "" {
		s += ", " + t.State
	}
	for _, k := range sortedKeys(t.Tags) {
		s += fmt.Sprintf(" %s=%s", k, t.Tags[k])
	}
	return s
}

// Left is what is there that was not there when the cloud began, in the order of
// its kinds. Terminated instances, deleted fleets, closed spot requests and
// ended sessions are not left; network interfaces and rules count as part of
// what they belong to.
func (c *Cloud) Left() []Thing {
	c.mu.Lock()
	base := c.baseline
	c.mu.Unlock()
	return slices.DeleteFunc(c.Inventory(), func(t Thing) bool { return t.State == fromBeginning || base[t.key()] })
}

const fromBeginning = "from the beginning"

func (t Thing) key() string { return strings.Join([]string{t.Kind, t.ID, t.Account, t.Region}, "|") }

// Baseline lets Left forget what is there now: a test's own preparations.
func (c *Cloud) Baseline() {
	base := map[string]bool{}
	for _, t := range c.Inventory() {
		base[t.key()] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.baseline = base
}

// Backdate makes all that has been made so far older by d, so that a test need
// not wait until it is. Only what answers say of age changes.
func (c *Cloud) Backdate(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spaces {
		for _, t := range s.tables() {
			t.each(func(_ kind, v thing) {
				b := v.base()
				if b.first {
					return
				}
				b.born = b.born.Add(-d)
				switch v := v.(type) {
				case *instance:
					v.launched = v.launched.Add(-d)
				case *image:
					v.created = v.created.Add(-d)
				}
			})
		}
	}
	for _, a := range c.accounts {
		for _, r := range a.roles {
			r.born = r.born.Add(-d)
		}
		for _, p := range a.profiles {
			p.born = p.born.Add(-d)
		}
	}
}

// Finish lets the images, snapshots and volumes that are being made be done now,
// so that a test of what takes too long need not take long itself.
func (c *Cloud) Finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for _, s := range c.spaces {
		for _, t := range s.tables() {
			t.each(func(_ kind, v thing) {
				switch v := v.(type) {
				case *image:
					v.line.finish(now)
				case *snapshot:
					v.line.finish(now)
				case *volume:
					v.line.finish(now)
				}
			})
		}
	}
}

// Inventory is everything that is there. What was there from the beginning has
// that as its State.
func (c *Cloud) Inventory() []Thing {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Thing
	for _, key := range sortedKeys(c.spaces) {
		s := c.spaces[key]
		k := &call{Cloud: c, space: s, account: s.account, regionName: s.region}
		for _, t := range s.tables() {
			t.each(func(kd kind, v thing) {
				name, state, there := k.describe(v)
				if !there {
					return
				}
				b := v.base()
				if b.first {
					state = fromBeginning
				}
				list = append(list, Thing{kd.resource, b.id, name, s.account, s.region, state, maps.Clone(b.tags)})
			})
		}
		for _, n := range sortedKeys(s.parameters) {
			list = append(list, Thing{"ssm-parameter", n, n, s.account, s.region, "", maps.Clone(s.parameters[n].tags)})
		}
		for _, n := range sortedKeys(s.secrets) {
			list = append(list, Thing{"secret", s.secrets[n].arn, n, s.account, s.region, "", nil})
		}
		for _, n := range sortedKeys(s.sessions) {
			if !s.sessions[n].ended {
				list = append(list, Thing{"ssm-session", n, s.sessions[n].Target, s.account, s.region, "", nil})
			}
		}
	}
	for _, a := range sortedKeys(c.accounts) {
		for _, n := range sortedKeys(c.accounts[a].roles) {
			r := c.accounts[a].roles[n]
			list = append(list, Thing{"iam-role", n, n, a, "", "", maps.Clone(r.tags)})
		}
		for _, n := range sortedKeys(c.accounts[a].profiles) {
			list = append(list, Thing{"instance-profile", n, n, a, "", "", maps.Clone(c.accounts[a].profiles[n].tags)})
		}
	}
	for _, b := range sortedKeys(c.stores) {
		if c.stores[b].made {
			list = append(list, Thing{"s3-bucket", b, b, c.o.Account, c.stores[b].region, "", nil})
		}
		for _, n := range sortedKeys(c.stores[b].objects) {
			list = append(list, Thing{"s3-object", b + "/" + n, n, c.o.Account, c.stores[b].region, "", nil})
		}
		for _, n := range sortedKeys(c.stores[b].uploads) {
			list = append(list, Thing{"s3-upload", b + "/" + c.stores[b].uploads[n].name, n, c.o.Account, c.stores[b].region, "", nil})
		}
	}
	slices.SortStableFunc(list, func(a, b Thing) int { return strings.Compare(a.Kind, b.Kind) })
	return list
}

// describe is a thing's name and state, and whether it counts as there.
func (k *call) describe(v thing) (name, state string, there bool) {
	switch v := v.(type) {
	case *instance:
		state = v.state(k.now())
		return v.tags["Name"], state, state != terminated
	case *volume:
		return v.tags["Name"], v.state(k), true
	case *snapshot:
		return v.description, v.state(k), true
	case *image:
		return v.name, v.state(k), true
	case *group:
		return v.name, "", true
	case *keyPair:
		return v.name, "", true
	case *launchTemplate:
		return v.name, "", true
	case *fleet:
		// An instant fleet is gone when its instances are.
		there = !v.deleted && slices.ContainsFunc(v.instances, func(i *instance) bool { return i.state(k.now()) != terminated })
		return v.kind, v.state(), there
	case *spotRequest:
		return v.instance, v.state, v.state == "active" || v.state == "open"
	case *importTask:
		state = v.state(k)
		return v.description, state, state == "active"
	case *netInterface:
		return "", "", false
	}
	return "", "", true
}

// ReadFile reads a file of an image's root, as it is in the image's content.
func (c *Cloud) ReadFile(region, image, name string) ([]byte, error) {
	c.mu.Lock()
	var ct *content
	for _, s := range c.here(region) {
		if i := s.images.m[image]; i != nil {
			ct = i.content
		}
	}
	c.mu.Unlock()
	if ct == nil {
		return nil, fmt.Errorf("%s: no image %s with a content", region, image)
	}
	return ct.ReadFile(name)
}

// ReadSnapshot reads a file of the file system that a snapshot holds.
func (c *Cloud) ReadSnapshot(region, snapshot, name string) ([]byte, error) {
	c.mu.Lock()
	var ct *content
	for _, s := range c.here(region) {
		if sn := s.snapshots.m[snapshot]; sn != nil {
			ct = sn.content
		}
	}
	c.mu.Unlock()
	if ct == nil {
		return nil, fmt.Errorf("%s: no snapshot %s with a content", region, snapshot)
	}
	return ct.ReadFile(name)
}
