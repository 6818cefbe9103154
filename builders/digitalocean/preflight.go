package digitalocean

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/digitalocean/godo"
	"github.com/google/uuid"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/docloud"
)

// preflightTime bounds the questions to the API before a bake.
const preflightTime = 2 * time.Minute

// Check implements builders.Builder. Before a bake it asks the account for all
// that the template names, and the token for what it may do.
func (b *Builder) Check(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	ps := b.o.static(env)
	if env.Validate || slices.ContainsFunc(ps, func(p config.Problem) bool { return !p.Warning }) {
		return ps
	}
	s, err := b.shared.Connect(&b.o.Access)
	if err != nil {
		return append(ps, config.Problem{Option: "api_token", Summary: fmt.Sprintf("DigitalOcean cannot be asked: %v", err)})
	}
	return append(ps, b.preflight(ctx, s)...)
}

// preflight asks everything side by side; what is the same for all bakes of the
// process is asked once.
func (b *Builder) preflight(ctx context.Context, s *docloud.Session) (ps []config.Problem) {
	ctx, cancel := context.WithTimeoutCause(ctx, preflightTime, fmt.Errorf("DigitalOcean has not answered within %v", preflightTime))
	defer cancel()
	// Everything else fails with a token that is none, and says less.
	if _, err := s.Account(ctx); err != nil {
		if docloud.Status(err) == http.StatusUnauthorized {
			return []config.Problem{{Option: "api_token", Summary: "DigitalOcean does not accept the token", Detail: fmt.Sprintf("It was taken from %s. %v.", s.Source(), err)}}
		}
		return []config.Problem{{Option: "api_url", Summary: fmt.Sprintf("DigitalOcean cannot be asked: %v", err)}}
	}
	o := &b.o
	var mu sync.Mutex
	bad := func(option, detail, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		ps = append(ps, config.Problem{Option: option, Summary: fmt.Sprintf(format, args...), Detail: detail})
	}
	// failed reports a question that had no answer; a token may lack the scope.
	failed := func(option, what string, err error) {
		if docloud.Status(err) == http.StatusForbidden {
			bad("api_token", "Give it the scope to read them; docs/guides/digitalocean.md lists all that a bake needs.", "The token may not read %s", what)
			return
		}
		bad(option, "", "DigitalOcean cannot be asked for %s: %v", what, err)
	}
	var sizes []godo.Size
	var image *godo.Image
	checks := []func(){
		func() { b.checkRegions(ctx, s, bad, failed) },
		func() {
			var err error
			if sizes, err = s.Sizes(ctx); err != nil {
				failed("size", "the sizes of droplets", err)
			}
		},
		func() { image = b.checkImage(ctx, s, bad, failed) },
		func() { b.checkScopes(ctx, s, bad) },
	}
	if o.VPCUUID != "" {
		checks = append(checks, func() {
			v, _, err := s.API.VPCs.Get(ctx, o.VPCUUID)
			switch {
			case docloud.NotFound(err):
				bad("vpc_uuid", "`doctl vpcs list` shows them.", "There is no VPC %s", o.VPCUUID)
			case err != nil:
				failed("vpc_uuid", "the VPC", err)
			case v.RegionSlug != o.Region:
				bad("vpc_uuid", "A droplet can only be in a VPC of its region.", "The VPC %s is in %s, and the droplet in %s", v.Name, v.RegionSlug, o.Region)
			}
		})
	}
	if o.Project != "" {
		checks = append(checks, func() {
			id, err := o.projectID(ctx, s)
			if err == nil && id == o.Project { // given as an id
				_, _, err = s.API.Projects.Get(ctx, id)
			}
			switch status := docloud.Status(err); {
			case status == http.StatusNotFound || err != nil && status == 0 && !docloud.Unreachable(err):
				bad("project", "`doctl projects list` shows them.", "The project %q cannot be used: %v", o.Project, err)
			case err != nil:
				failed("project", "the projects", err)
			}
		})
	}
	if o.SSHKeyID > 0 {
		checks = append(checks, func() {
			_, _, err := s.API.Keys.GetByID(ctx, o.SSHKeyID)
			if docloud.NotFound(err) {
				bad("ssh_key_id", "`doctl compute ssh-key list` shows them.", "There is no key %d", o.SSHKeyID)
			} else if err != nil {
				failed("ssh_key_id", "the key", err)
			}
		})
	}
	if o.ReservedIP != "" {
		checks = append(checks, func() {
			r, _, err := s.API.ReservedIPs.Get(ctx, o.ReservedIP)
			switch {
			case docloud.NotFound(err):
				bad("reserved_ip", "`doctl compute reserved-ip list` shows them.", "There is no reserved address %s", o.ReservedIP)
			case err != nil:
				failed("reserved_ip", "the reserved address", err)
			case r.Droplet != nil:
				bad("reserved_ip", "It is not taken away from it.", "The reserved address %s is droplet %d's (%s)", o.ReservedIP, r.Droplet.ID, r.Droplet.Name)
			case r.Region != nil && r.Region.Slug != o.Region:
				bad("reserved_ip", "It can only be a droplet's of its region.", "The reserved address %s is in %s, and the droplet in %s", o.ReservedIP, r.Region.Slug, o.Region)
			}
		})
	}
	var wg sync.WaitGroup
	for _, check := range checks {
		wg.Go(check)
	}
	wg.Wait()
	if sizes != nil {
		o.checkSize(sizes, image, bad)
	}
	slices.SortStableFunc(ps, func(a, b config.Problem) int { return strings.Compare(a.Option, b.Option) })
	return slices.CompactFunc(ps, func(a, b config.Problem) bool { return a == b })
}

type failedFunc func(option, what string, err error)

func (b *Builder) checkRegions(ctx context.Context, s *docloud.Session, bad badFunc, failed failedFunc) {
	regions, err := s.Regions(ctx)
	if err != nil {
		failed("region", "the regions", err)
		return
	}
	var names []string
	for _, r := range regions {
		names = append(names, r.Slug)
	}
	check := func(option, name string) *godo.Region {
		i := slices.Index(names, name)
		if i >= 0 {
			return &regions[i]
		}
		detail := "There are " + strings.Join(names, ", ") + "."
		if near := config.Suggest(name, names); near != "" {
			detail = fmt.Sprintf("Did you mean %q? %s", near, detail)
		}
		bad(option, detail, "There is no region %q", name)
		return nil
	}
	if r := check("region", b.o.Region); r != nil {
		switch {
		case !r.Available:
			bad("region", "", "DigitalOcean makes no new droplets in %s", b.o.Region)
		case b.o.IPVersionSix && !slices.Contains(r.Features, "ipv6"):
			bad("ipv6", "", "The region %s has no addresses of version 6", b.o.Region)
		case b.o.Backups && !slices.Contains(r.Features, "backups"):
			bad("backups", "", "The region %s has no backups", b.o.Region)
		case b.o.injectKey() && !slices.Contains(r.Features, "metadata"):
			bad("inject_host_key", "Set it to false, and ssh_host_key.", "The region %s gives droplets no user data", b.o.Region)
		}
	}
	for i, name := range b.o.SnapshotRegions {
		check(fmt.Sprintf("snapshot_regions.%d", i), name)
	}
}

// checkImage finds the base, and reports what is wrong with it.
func (b *Builder) checkImage(ctx context.Context, s *docloud.Session, bad badFunc, failed failedFunc) *godo.Image {
	o := &b.o
	if o.Image == "" {
		option := "image_name"
		if o.ImageName == "" {
			option = "image_tag"
		}
		i, err := o.newest(ctx, s)
		switch {
		case docloud.Status(err) != 0 || docloud.Unreachable(err):
			failed(option, "the images", err)
			return nil
		case err != nil:
			bad(option, "", "There is no base: %v", err)
			return nil
		}
		return &i
	}
	var i *godo.Image
	var err error
	if id, aerr := strconv.Atoi(o.Image); aerr == nil {
		i, _, err = s.API.Images.GetByID(ctx, id)
	} else {
		i, _, err = s.API.Images.GetBySlug(ctx, o.Image)
	}
	switch {
	case docloud.NotFound(err):
		bad("image", "`doctl compute image list --public` shows those of DigitalOcean.", "There is no image %s", o.Image)
		return nil
	case err != nil:
		failed("image", "the image", err)
		return nil
	case i.Status != "" && i.Status != "available":
		bad("image", i.ErrorMessage, "The image %s cannot be used: it is %s", o.Image, i.Status)
	case !slices.Contains(i.Regions, o.Region):
		bad("image", "It is in "+strings.Join(i.Regions, ", ")+".", "The image %s is not in %s", o.Image, o.Region)
	}
	return i
}

func (o *Options) checkSize(sizes []godo.Size, image *godo.Image, bad badFunc) {
	var names []string
	for _, z := range sizes {
		names = append(names, z.Slug)
	}
	i := slices.Index(names, o.Size)
	if i < 0 {
		detail := "`doctl compute size list` shows them."
		if near := config.Suggest(o.Size, names); near != "" {
			detail = fmt.Sprintf("Did you mean %q? %s", near, detail)
		}
		bad("size", detail, "There is no size %q", o.Size)
		return
	}
	z := sizes[i]
	switch {
	case !z.Available || !slices.Contains(z.Regions, o.Region):
		bad("size", "", "Droplets of size %s cannot be made in %s", o.Size, o.Region)
	case image != nil && image.MinDiskSize > z.Disk:
		bad("size", "", "The image needs a disk of %d GB, and a droplet of size %s has %d GB", image.MinDiskSize, o.Size, z.Disk)
	}
}

// checkScopes finds out whether the token may give back what the bake makes, by
// deleting what cannot exist. What it may create cannot be asked for without
// creating it.
func (b *Builder) checkScopes(ctx context.Context, s *docloud.Session, bad badFunc) {
	noise := make([]byte, 16)
	_, _ = rand.Read(noise) // never fails
	probes := map[string]func(context.Context) error{
		"droplets": func(ctx context.Context) error {
			_, err := s.API.Droplets.DeleteByTag(ctx, tagPrefix+"nothing-"+hex.EncodeToString(noise))
			return err
		},
	}
	if b.o.temporaryKey() {
		probes["SSH keys"] = func(ctx context.Context) error {
			var fp []string
			for _, c := range noise {
				fp = append(fp, hex.EncodeToString([]byte{c}))
			}
			_, err := s.API.Keys.DeleteByFingerprint(ctx, strings.Join(fp, ":"))
			return err
		}
	}
	if b.o.firewall() {
		probes["firewalls"] = func(ctx context.Context) error {
			_, err := s.API.Firewalls.Delete(ctx, uuid.NewString())
			return err
		}
	}
	var wg sync.WaitGroup
	for what, probe := range probes {
		wg.Go(func() {
			err := s.Asked(ctx, "may delete "+what, func(ctx context.Context) error {
				err := probe(ctx)
				if docloud.NotFound(err) || docloud.Pending(err) {
					return nil
				}
				return err
			})
			switch {
			case docloud.Status(err) == http.StatusForbidden:
				detail := "A token that may only read is of no use here; docs/guides/digitalocean.md lists the scopes that a bake needs."
				if what == "firewalls" {
					detail += " Without firewalls, set temporary_firewall = false."
				}
				bad("api_token", detail, "The token may not delete %s, so a bake could not clean up", what)
			case err != nil:
				bad("api_token", "", "It cannot be found out whether the token may delete %s: %v", what, err)
			}
		})
	}
	wg.Wait()
}
