// Package digitalocean is the data source that finds images of DigitalOcean.
package digitalocean

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/docloud"
)

// Options are the options of a `data "digitalocean-image"` block. It gives the
// attributes `image_id`, a number, and `image_regions`, where the image is.
type Options struct {
	docloud.Access

	// Name is the whole name of the image.
	Name string `cfg:"name"`
	// NameRegex is a regular expression that part of the name fits. Either it or
	// Name must be given.
	NameRegex string `cfg:"name_regex"`
	// Type is "application", "distribution" or "user". Default: all of them.
	Type string `cfg:"type"`
	// Region is a region that the image is in.
	Region string `cfg:"region"`
	// Latest takes the newest of several images, which are an error otherwise.
	Latest bool `cfg:"latest"`
}

// Source is the digitalocean-image data source.
type Source struct {
	shared *docloud.Shared
	o      Options
}

// New returns a digitalocean-image data source. shared is common to all
// components of a process.
func New(shared *docloud.Shared) *Source { return &Source{shared: shared} }

var _ datasources.Source = (*Source)(nil)

// Options implements datasources.Source.
func (s *Source) Options() any { return &s.o }

// Type implements datasources.Source.
func (s *Source) Type() cty.Type {
	return cty.Object(map[string]cty.Type{"image_id": cty.Number, "image_regions": cty.List(cty.String)})
}

// Check implements datasources.Source.
func (s *Source) Check() []config.Problem {
	ps := s.o.Access.Check(false)
	bad := func(option, summary, detail string) {
		ps = append(ps, config.Problem{Option: option, Summary: summary, Detail: detail})
	}
	switch {
	case s.o.Name == "" && s.o.NameRegex == "":
		bad("name", "It is not said which image is looked for", "Give name or name_regex.")
	case s.o.Name != "" && s.o.NameRegex != "":
		bad("name_regex", "name and name_regex are both given", "Give one of them.")
	}
	if _, err := regexp.Compile(s.o.NameRegex); err != nil {
		bad("name_regex", fmt.Sprintf("name_regex is no regular expression: %v", err), "")
	}
	switch s.o.Type {
	case "", "application", "distribution", "user":
	default:
		bad("type", fmt.Sprintf("There is no type %q", s.o.Type), "It can be application, distribution or user.")
	}
	return ps
}

// Read implements datasources.Source.
func (s *Source) Read(ctx context.Context) (cty.Value, error) {
	sess, err := s.shared.Connect(&s.o.Access)
	if err != nil {
		return cty.NilVal, err
	}
	q := docloud.ImageQuery{Name: s.o.Name, Type: s.o.Type, Region: s.o.Region}
	if s.o.NameRegex != "" {
		if q.Regex, err = regexp.Compile(s.o.NameRegex); err != nil {
			return cty.NilVal, err
		}
	}
	found, err := sess.Images(ctx, q)
	switch {
	case err != nil:
		return cty.NilVal, fmt.Errorf("list the images of DigitalOcean: %w", err)
	case len(found) == 0:
		return cty.NilVal, fmt.Errorf("no image of DigitalOcean fits; `doctl compute image list` shows yours, with --public everyone's")
	case len(found) > 1 && !s.o.Latest:
		var names []string
		for _, i := range found[:min(len(found), 5)] {
			names = append(names, fmt.Sprintf("%s (%d, of %s)", i.Name, i.ID, i.Created))
		}
		if len(found) > len(names) {
			names = append(names, "…")
		}
		return cty.NilVal, fmt.Errorf("%d images of DigitalOcean fit: %s; set latest = true to take the newest", len(found), strings.Join(names, ", "))
	}
	regions := cty.ListValEmpty(cty.String)
	if len(found[0].Regions) > 0 {
		var all []cty.Value
		for _, r := range found[0].Regions {
			all = append(all, cty.StringVal(r))
		}
		regions = cty.ListVal(all)
	}
	return cty.ObjectVal(map[string]cty.Value{"image_id": cty.NumberIntVal(int64(found[0].ID)), "image_regions": regions}), nil
}
