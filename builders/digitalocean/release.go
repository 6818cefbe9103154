package digitalocean

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/docloud"
)

// The kinds of leases.
const (
	leaseKey      = "ssh key"
	leaseTags     = "tags"
	leaseFirewall = "firewall"
	leaseDroplet  = "droplet"
	leaseSource   = "snapshot source" // the droplet, from when its snapshot is to be taken; named by its id
	leaseSnapshot = "snapshot"
)

// Release implements builders.Builder.
func (b *Builder) Release(ctx context.Context, l builders.Lease) error {
	var s *docloud.Session
	if b.m != nil {
		s = b.m.sess
		if b.m.called.After(l.Created) { // the call may have waited for long
			l.Created = b.m.called
		}
	} else {
		var err error
		if s, err = b.shared.Again(ctx, docloud.RefOf(l.Data)); err != nil {
			return err
		}
	}
	return release(ctx, s, l)
}

func release(ctx context.Context, s *docloud.Session, l builders.Lease) error {
	switch l.Kind {
	case leaseKey:
		return goneFor(ctx, s, l, func(ctx context.Context) (bool, error) {
			_, err := s.API.Keys.DeleteByFingerprint(ctx, l.Data["fingerprint"])
			return deleted(err)
		})
	case leaseTags:
		return goneFor(ctx, s, l, func(ctx context.Context) (bool, error) {
			found := make(chan bool, 8)
			err := docloud.Each(ctx, strings.Fields(l.Data["tags"]), func(ctx context.Context, tag string) error {
				_, err := s.API.Tags.Delete(ctx, tag)
				was, err := deleted(err)
				if tag == l.Name {
					found <- was
				}
				return err
			})
			select {
			case was := <-found:
				return was, err
			default:
				return false, err
			}
		})
	case leaseFirewall:
		return goneFor(ctx, s, l, func(ctx context.Context) (bool, error) {
			if l.ExternalID != "" {
				_, err := s.API.Firewalls.Delete(ctx, l.ExternalID)
				return deleted(err)
			}
			all, err := firewalls(ctx, s, l.Name)
			for _, w := range all {
				if _, derr := s.API.Firewalls.Delete(ctx, w.ID); !docloud.NotFound(derr) {
					err = errors.Join(err, derr)
				}
			}
			return len(all) > 0, err
		})
	case leaseDroplet, leaseSource:
		return releaseDroplet(ctx, s, l)
	case leaseSnapshot:
		if l.ExternalID != "" {
			id, err := docloud.IDOf(l.ExternalID)
			if err != nil {
				return err
			}
			_, err = s.DeleteImage(ctx, id)
			return err
		}
		droplet, err := docloud.IDOf(l.Data["droplet"])
		if err != nil {
			return err
		}
		return goneFor(ctx, s, l, func(ctx context.Context) (bool, error) {
			ids, err := snapshotsOf(ctx, s, droplet, l.Name)
			if err == nil {
				err = docloud.Each(ctx, ids, func(ctx context.Context, id int) error {
					_, err := s.DeleteImage(ctx, id)
					return err
				})
			}
			return len(ids) > 0, err
		})
	}
	return fmt.Errorf("the builder digitalocean has no leases of kind %q", l.Kind)
}

// deleted makes of an answer to DELETE whether there was something.
func deleted(err error) (bool, error) {
	if docloud.NotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// goneFor removes what a lease is for. What isn't found, but may have been made
// a moment ago, is looked for as long as that could be invisible.
func goneFor(ctx context.Context, s *docloud.Session, l builders.Lease, remove func(context.Context) (found bool, err error)) error {
	if !s.Young(l.Created) {
		_, err := remove(ctx)
		return err
	}
	_, _, err := docloud.Search(ctx, s, func(ctx context.Context) (struct{}, bool, error) {
		found, err := remove(ctx)
		return struct{}{}, found, err
	})
	return err
}

// releaseDroplet destroys the droplet, and whatever else has its name and the
// bake's tag: a call without an answer may have made a second one.
func releaseDroplet(ctx context.Context, s *docloud.Session, l builders.Lease) error {
	known := 0
	if l.ExternalID != "" || l.Kind == leaseSource {
		var err error
		if known, err = docloud.IDOf(cmp.Or(l.ExternalID, l.Name)); err != nil {
			return err
		}
	}
	name := cmp.Or(l.Data["name"], l.Name)
	return goneFor(ctx, s, l, func(ctx context.Context) (found bool, err error) {
		if known != 0 {
			if found, err = s.DeleteDroplet(ctx, known); err != nil {
				return false, err
			}
		}
		all, err := droplets(ctx, s, l.Data["tag"])
		if err != nil {
			return false, err
		}
		all = slices.DeleteFunc(all, func(d godo.Droplet) bool { return d.ID == known || d.Name != name })
		return found || len(all) > 0, docloud.Each(ctx, all, func(ctx context.Context, d godo.Droplet) error {
			_, err := s.DeleteDroplet(ctx, d.ID)
			return err
		})
	})
}

var (
	buildTags   = regexp.MustCompile(`^ingot-build-([a-z0-9]{8,})$`)
	expiresTags = regexp.MustCompile(`^ingot-expires-([0-9]{9,12}):([a-z0-9]{8,})$`)
	sourceTags  = regexp.MustCompile(`^ingot-source-([^:]*):([^:]*):([a-z0-9]{8,})$`)
	keyNames    = regexp.MustCompile(`^ingot-([a-z0-9]{8,})-([0-9]{9,12})$`)
)

// orphan is what is known of one bake by its marks.
type orphan struct {
	leases  map[string][]builders.Lease // by kind
	tags    []string
	source  string
	newest  time.Time // of what tells when it was made
	expires time.Time
}

// Orphans implements builders.Builder. Snapshots are not among them: nothing
// tells one that nobody wants from one that is finished.
func (b *Builder) Orphans(ctx context.Context, olderThan time.Duration) ([]builders.Lease, error) {
	s, err := b.shared.Connect(&b.o.Access)
	if err != nil {
		return nil, err
	}
	ref, err := s.Ref(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	found := map[string]*orphan{}
	of := func(id string) *orphan {
		if found[id] == nil {
			found[id] = &orphan{leases: map[string][]builders.Lease{}}
		}
		return found[id]
	}
	add := func(id, kind, name, external string, made time.Time, data map[string]string) {
		o := of(id)
		if made.After(o.newest) {
			o.newest = made
		}
		o.leases[kind] = append(o.leases[kind], builders.Lease{BakeID: id, Builder: "digitalocean", Kind: kind, Name: name, ExternalID: external, Data: ref.Data(data), Created: made})
	}

	// What is made last is asked for first: a bake that begins meanwhile has
	// something that tells its age.
	tags, err := docloud.Pages(ctx, s.API.Tags.List)
	if err != nil {
		return nil, fmt.Errorf("list the tags: %w", err)
	}
	for _, t := range tags {
		if m := buildTags.FindStringSubmatch(t.Name); m != nil {
			of(m[1]).tags = append(of(m[1]).tags, t.Name)
		} else if m := expiresTags.FindStringSubmatch(t.Name); m != nil {
			unix, _ := strconv.ParseInt(m[1], 10, 64)
			of(m[2]).expires = time.Unix(unix, 0)
			of(m[2]).tags = append(of(m[2]).tags, t.Name)
		} else if m := sourceTags.FindStringSubmatch(t.Name); m != nil {
			of(m[3]).source = m[1] + "." + m[2]
			of(m[3]).tags = append(of(m[3]).tags, t.Name)
		}
	}
	all, err := docloud.Pages(ctx, s.API.Droplets.List)
	if err != nil {
		return nil, fmt.Errorf("list the droplets: %w", err)
	}
	for _, d := range all {
		for _, t := range d.Tags {
			if m := buildTags.FindStringSubmatch(t); m != nil {
				add(m[1], leaseDroplet, d.Name, strconv.Itoa(d.ID), at(d.Created, now), map[string]string{"tag": t})
			}
		}
	}
	walls, err := docloud.Pages(ctx, s.API.Firewalls.List)
	if err != nil {
		return nil, fmt.Errorf("list the firewalls: %w", err)
	}
	for _, w := range walls {
		for _, t := range w.Tags {
			if m := buildTags.FindStringSubmatch(t); m != nil && w.Name == firewallName(m[1]) {
				add(m[1], leaseFirewall, w.Name, w.ID, at(w.Created, now), map[string]string{})
			}
		}
	}
	keys, err := docloud.Pages(ctx, s.API.Keys.List)
	if err != nil {
		return nil, fmt.Errorf("list the keys: %w", err)
	}
	for _, k := range keys {
		if m := keyNames.FindStringSubmatch(k.Name); m != nil {
			unix, _ := strconv.ParseInt(m[2], 10, 64)
			add(m[1], leaseKey, k.Name, strconv.Itoa(k.ID), time.Unix(unix, 0), map[string]string{"fingerprint": k.Fingerprint})
		}
	}

	var leases []builders.Lease
	for id, o := range found {
		switch {
		case !o.newest.IsZero() && now.Sub(o.newest) < olderThan:
			continue
		case o.newest.IsZero() && olderThan > 0 && (o.expires.IsZero() || now.Before(o.expires)):
			continue // tags alone, of unknown age
		}
		if len(o.tags) > 0 {
			add(id, leaseTags, buildTag(id), buildTag(id), o.newest, map[string]string{"tags": strings.Join(o.tags, " ")})
		}
		for _, kind := range []string{leaseKey, leaseTags, leaseFirewall, leaseDroplet} {
			for _, l := range o.leases[kind] {
				if o.source != "" {
					l.Data[builders.SourceKey] = o.source
				}
				leases = append(leases, l)
			}
		}
	}
	slices.SortStableFunc(leases, func(a, b builders.Lease) int { return cmp.Compare(a.BakeID, b.BakeID) })
	return leases, nil
}

// at reads a time of the API's; what cannot be read is now, and so no orphan.
func at(text string, now time.Time) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return now
	}
	return t
}
