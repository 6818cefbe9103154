// Package digitaloceanimport makes an image of DigitalOcean out of a disk image
// that a bake has written to this host.
package digitaloceanimport

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/postprocessors"
)

// Options are the options of a `post-processor "digitalocean-import"` block. The
// artifact must have a file whose name ends in .img, .raw, .vhd, .vhdx, .qcow2,
// .vdi or .vmdk, or in one of these and .gz or .bz2. It is put into a Space, where
// nobody else can read it, fetched from there by DigitalOcean, and removed again.
type Options struct {
	docloud.Access

	// SpacesKey is the access key of Spaces. Default: DIGITALOCEAN_SPACES_ACCESS_KEY
	// in the environment.
	SpacesKey string `cfg:"spaces_key"`
	// SpacesSecret is its secret. Default: DIGITALOCEAN_SPACES_SECRET_KEY in the
	// environment.
	SpacesSecret string `cfg:"spaces_secret"`
	// SpacesRegion is the region of the Space.
	SpacesRegion string `cfg:"spaces_region,required"`
	// SpaceName is the Space, which must be there.
	SpaceName string `cfg:"space_name,required"`
	// SpaceObjectName is the name that the file has there. Default:
	// "packer-import-{{timestamp}}".
	SpaceObjectName string `cfg:"space_object_name"`
	// SpacesEndpoint is where Spaces is. Default: SPACES_ENDPOINT_URL in the
	// environment, then DigitalOcean's own. Ingot's own.
	SpacesEndpoint string `cfg:"spaces_endpoint"`
	// SkipClean leaves the file in the Space.
	SkipClean bool `cfg:"skip_clean"`

	// ImageName is the image's name.
	ImageName string `cfg:"image_name,required"`
	// ImageRegions are the regions that the image is to be in. It is made in the
	// first, and brought to the others.
	ImageRegions []string `cfg:"image_regions,required"`
	// ImageDescription describes the image.
	ImageDescription string `cfg:"image_description"`
	// ImageDistribution is the name of the distribution. Default: "Unknown".
	ImageDistribution string `cfg:"image_distribution"`
	// ImageTags are the image's tags.
	ImageTags []string `cfg:"image_tags"`
	// Timeout bounds the wait for the image, and that for each further region.
	// Default: 20m.
	Timeout time.Duration `cfg:"timeout"`
}

// PostProcessor is the digitalocean-import post-processor.
type PostProcessor struct {
	shared *docloud.Shared
	o      Options
	part   int64 // the size of a part of a large object
	// sess and store are those of this process's import.
	sess  *docloud.Session
	store *s3.Client
}

// New returns a digitalocean-import post-processor with the default options.
// shared is common to all components of a process.
func New(shared *docloud.Shared) *PostProcessor {
	return &PostProcessor{shared: shared, o: Options{ImageDistribution: "Unknown", Timeout: 20 * time.Minute}, part: partSize}
}

var (
	_ postprocessors.PostProcessor = (*PostProcessor)(nil)
	_ postprocessors.Releaser      = (*PostProcessor)(nil)
)

// Options implements postprocessors.PostProcessor.
func (p *PostProcessor) Options() any { return &p.o }

var (
	slug      = regexp.MustCompile(`^[a-z0-9]+$`)
	spaceName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
)

// Check implements postprocessors.PostProcessor.
func (p *PostProcessor) Check(context.Context, *postprocessors.Env) []config.Problem {
	ps := p.o.Access.Check(false)
	bad := func(option, detail, format string, args ...any) {
		ps = append(ps, config.Problem{Option: option, Summary: fmt.Sprintf(format, args...), Detail: detail})
	}
	if !slug.MatchString(p.o.SpacesRegion) {
		bad("spaces_region", "", "%q is no region", p.o.SpacesRegion)
	}
	if !spaceName.MatchString(p.o.SpaceName) {
		bad("space_name", "", "%q is no name of a Space", p.o.SpaceName)
	}
	if err := render.Check(p.o.SpaceObjectName); err != nil {
		bad("space_object_name", "", "%v", err)
	}
	if u, err := p.endpoint(); err != nil {
		bad("spaces_endpoint", "Write it as https://nyc3.digitaloceanspaces.com.", "%v", err)
	} else if u != nil && u.Scheme != "https" && !docloud.Loopback(u) {
		bad("spaces_endpoint", "Write https.", "spaces_endpoint would send the image unencrypted over the network")
	}
	if p.o.ImageName == "" || len(p.o.ImageName) > 255 || strings.ContainsFunc(p.o.ImageName, unicode.IsControl) {
		bad("image_name", "", "image_name must have from 1 to 255 bytes, and no control characters")
	}
	if len(p.o.ImageRegions) == 0 {
		bad("image_regions", "", "image_regions is empty")
	}
	for i, r := range p.o.ImageRegions {
		if !slug.MatchString(r) {
			bad(fmt.Sprintf("image_regions.%d", i), "`doctl compute region list` shows them.", "%q is no region", r)
		}
	}
	for i, t := range p.o.ImageTags {
		if err := docloud.CheckTag(t); err != nil {
			bad(fmt.Sprintf("image_tags.%d", i), "", "%v", err)
		}
	}
	if p.o.Timeout <= 0 {
		bad("timeout", "", "timeout must be more than nothing")
	}
	return ps
}

// endpoint is where Spaces is, if not where DigitalOcean has it.
func (p *PostProcessor) endpoint() (*url.URL, error) {
	at := cmp.Or(p.o.SpacesEndpoint, os.Getenv("SPACES_ENDPOINT_URL"))
	if at == "" {
		return nil, nil
	}
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return nil, errors.New("spaces_endpoint is no address")
	}
	return u, nil
}

// endings are those of the files that DigitalOcean can read.
var endings = [...]string{".img", ".raw", ".vhd", ".vhdx", ".qcow2", ".vdi", ".vmdk"}

// diskImage is the first file that DigitalOcean can read.
func diskImage(files []string) (string, error) {
	for _, f := range files {
		name := strings.ToLower(f)
		for _, packed := range []string{"", ".gz", ".bz2"} {
			if rest, ok := strings.CutSuffix(name, packed); ok && slices.Contains(endings[:], filepath.Ext(rest)) {
				return f, nil
			}
		}
	}
	return "", fmt.Errorf("the artifact has no file that ends in %s, with or without .gz or .bz2: it has %q", strings.Join(endings[:], ", "), files)
}

// Process implements postprocessors.PostProcessor.
func (p *PostProcessor) Process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, bool, error) {
	out, err := p.process(ctx, env, in)
	if err != nil {
		return nil, true, fmt.Errorf("digitalocean-import: %w", err)
	}
	return out, false, nil
}

func (p *PostProcessor) process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, error) {
	file, err := diskImage(in.Files)
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(env.Dir, file)
	}
	if p.sess, err = p.shared.Connect(&p.o.Access); err != nil {
		return nil, err
	}
	key, err := render.String(cmp.Or(p.o.SpaceObjectName, "packer-import-{{timestamp}}"), nil, env.Template)
	if err != nil {
		return nil, fmt.Errorf("space_object_name: %w", err)
	}
	at, err := p.endpoint()
	if err != nil {
		return nil, err
	}
	if p.store, err = p.client(at, p.o.SpacesRegion); err != nil {
		return nil, err
	}
	// The lease of the image tells the account, so it is asked for first.
	ref, err := p.sess.Ref(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask whose the token is: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	env.Events.Say(fmt.Sprintf("Putting %s into the Space %s as %s, where only you can read it", filepath.Base(file), p.o.SpaceName, key))
	id := env.BakeID + strings.ToLower(rand.Text()[:8])
	up := &upload{PostProcessor: p, leases: env.Leases, data: map[string]string{dataID: id, dataRegion: p.o.SpacesRegion, dataSpace: p.o.SpaceName, dataKey: key}}
	if at != nil {
		up.data[dataEndpoint] = at.String()
	}
	if err := up.put(ctx, f, env.Events.Progress); err != nil {
		return nil, fmt.Errorf("put the image into the Space %s: %w", p.o.SpaceName, err)
	}
	address, err := up.address(ctx, max(p.o.Timeout, time.Hour))
	if err != nil {
		return nil, err
	}
	image, err := p.create(ctx, env.Leases, ref, "ingot-"+id, address)
	if err != nil {
		return nil, err
	}
	env.Events.Say(fmt.Sprintf("DigitalOcean makes the image %s (%d)", p.o.ImageName, image))
	regions, err := p.finish(ctx, p.sess, image, address)
	if err != nil {
		return nil, err
	}
	if err := up.done(ctx); err != nil {
		env.Events.Warn(fmt.Sprintf("%s is in the Space %s still, where it costs money: %v", key, p.o.SpaceName, err)) // it is tried again in the end
	}
	return artifact(p.sess, p.o.ImageName, image, regions), nil
}

// create asks DigitalOcean for the image. The API makes another with each call:
// after a call without an answer it is looked for by the name that it has until
// it is finished.
func (p *PostProcessor) create(ctx context.Context, leases builders.Leases, ref docloud.Ref, name, address string) (int, error) {
	lease, err := leases.Intend(ctx, leaseImage, name, ref.Data(map[string]string{builders.UntilRecorded: "yes"}))
	if err != nil {
		return 0, err
	}
	req := &godo.CustomImageCreateRequest{
		Name: name, Url: address, Region: p.o.ImageRegions[0], Distribution: p.o.ImageDistribution, Description: p.o.ImageDescription, Tags: p.o.ImageTags,
	}
	var calls []error
	i, err := docloud.Once(ctx, p.sess, func(ctx context.Context) (*godo.Image, error) {
		i, _, err := p.sess.API.Images.Create(ctx, req)
		calls = append(calls, err)
		return i, err
	}, func(ctx context.Context) (*godo.Image, bool, error) {
		all, err := named(ctx, p.sess, name)
		if len(all) == 0 {
			return nil, false, err
		}
		return &all[0], true, nil
	})
	if err != nil {
		refused := len(calls) == 1 && docloud.Refused(calls[0])
		err = fmt.Errorf("make the image: %w", hide(err, address))
		if refused {
			err = errors.Join(err, leases.Released(context.WithoutCancel(ctx), lease))
		}
		return 0, err
	}
	return i.ID, leases.Created(context.WithoutCancel(ctx), lease, strconv.Itoa(i.ID))
}

// named are the custom images of that name.
func named(ctx context.Context, s *docloud.Session, name string) ([]godo.Image, error) {
	all, err := docloud.Pages(ctx, s.API.Images.ListUser)
	return slices.DeleteFunc(all, func(i godo.Image) bool { return i.Name != name || i.Type != "custom" }), err
}

// hide takes the address of the object out of an error: who has it can read the object.
func hide(err error, address string) error {
	if err != nil && strings.Contains(err.Error(), address) {
		return errors.New(strings.ReplaceAll(err.Error(), address, "the address of the object"))
	}
	return err
}

// finish waits for the image, brings it to its other regions, side by side, and
// gives it its name.
func (p *PostProcessor) finish(ctx context.Context, s *docloud.Session, id int, address string) (regions []string, err error) {
	w := docloud.Wait{What: fmt.Sprintf("DigitalOcean to import image %d", id), Option: "timeout", Timeout: p.o.Timeout, First: 2 * time.Second}
	start := time.Now()
	err = s.Until(ctx, w, func(ctx context.Context, wait time.Duration) (bool, error) {
		if err := s.Pause(ctx, wait); err != nil {
			return false, err
		}
		i, _, err := s.API.Images.GetByID(ctx, id)
		switch {
		case docloud.NotFound(err) && s.Young(start):
			return false, docloud.Later(err)
		case err != nil:
			return false, err
		case i.Status == "deleted" || strings.TrimSpace(i.ErrorMessage) != "":
			return false, hide(fmt.Errorf("DigitalOcean could not import the image: %s", cmp.Or(strings.TrimSpace(i.ErrorMessage), i.Status)), address)
		}
		return i.Status == "available", nil
	})
	if err != nil {
		return nil, err
	}
	regions = []string{p.o.ImageRegions[0]}
	for _, r := range p.o.ImageRegions[1:] {
		if !slices.Contains(regions, r) {
			regions = append(regions, r)
		}
	}
	errs := make([]error, len(regions))
	var wg sync.WaitGroup
	for i, r := range regions[1:] {
		wg.Go(func() {
			if err := s.Transfer(ctx, id, r, p.o.Timeout, "timeout", true, false); err != nil {
				errs[i] = fmt.Errorf("bring the image to %s: %w", r, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	w = docloud.Wait{What: fmt.Sprintf("image %d to take its name", id), Option: "timeout", Timeout: p.o.Timeout}
	err = s.Patiently(ctx, w, func(ctx context.Context) error {
		_, _, err := s.API.Images.Update(ctx, id, &godo.ImageUpdateRequest{Name: p.o.ImageName})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("name the image %d: %w", id, err)
	}
	return regions, nil
}

func artifact(s *docloud.Session, name string, id int, regions []string) *builders.Artifact {
	a := &builders.Artifact{
		BuilderID: "pearkes.digitalocean",
		ID:        fmt.Sprintf("%s:%d", strings.Join(regions, ","), id),
		Text:      fmt.Sprintf("A snapshot was created: '%s' (ID: %d) in regions '%s'", name, id, strings.Join(regions, ",")),
		Destroy:   func(ctx context.Context) error { _, err := s.DeleteImage(ctx, id); return err },
	}
	for _, r := range regions {
		a.Places = append(a.Places, builders.Place{Platform: "digitalocean", Region: r, ID: strconv.Itoa(id)})
	}
	return a
}
