package docloud

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/godo"
)

// Regions are the regions, as they were some minutes ago at the earliest.
func (s *Session) Regions(ctx context.Context) ([]godo.Region, error) {
	v, err := s.fact(ctx, "regions", 10*time.Minute, func(ctx context.Context) (any, error) {
		return Pages(ctx, s.API.Regions.List)
	})
	if err != nil {
		return nil, err
	}
	return v.([]godo.Region), nil
}

// Sizes are the sizes of droplets, as they were some minutes ago at the earliest.
func (s *Session) Sizes(ctx context.Context) ([]godo.Size, error) {
	v, err := s.fact(ctx, "sizes", 10*time.Minute, func(ctx context.Context) (any, error) {
		return Pages(ctx, s.API.Sizes.List)
	})
	if err != nil {
		return nil, err
	}
	return v.([]godo.Size), nil
}

// Asked asks once in a process for what is the same for all its bakes.
func (s *Session) Asked(ctx context.Context, name string, ask func(context.Context) error) error {
	_, err := s.fact(ctx, "once "+name, time.Hour, func(ctx context.Context) (any, error) { return nil, ask(ctx) })
	return err
}

// ImageQuery says which images are looked for.
type ImageQuery struct {
	// Name is the whole name; Regex part of it. At most one is given.
	Name  string
	Regex *regexp.Regexp
	// Type is "application", "distribution" or "user"; empty: all.
	Type string
	// Tag is one that the image has.
	Tag string
	// Region is one that the image is in.
	Region string
}

// Images are the images that fit, newest first.
func (s *Session) Images(ctx context.Context, q ImageQuery) ([]godo.Image, error) {
	list := s.API.Images.List
	switch {
	case q.Tag != "":
		list = func(ctx context.Context, o *godo.ListOptions) ([]godo.Image, *godo.Response, error) {
			return s.API.Images.ListByTag(ctx, q.Tag, o)
		}
	case q.Type == "user":
		list = s.API.Images.ListUser
	case q.Type == "application":
		list = s.API.Images.ListApplication
	case q.Type == "distribution":
		list = s.API.Images.ListDistribution
	}
	all, err := Pages(ctx, list)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(i godo.Image) bool {
		switch {
		case q.Name != "" && i.Name != q.Name,
			q.Regex != nil && !q.Regex.MatchString(i.Name),
			q.Region != "" && !slices.Contains(i.Regions, q.Region),
			q.Tag != "" && (!slices.ContainsFunc(i.Tags, func(t string) bool { return strings.EqualFold(t, q.Tag) }) || q.Type == "user" && i.Public),
			i.Status != "" && i.Status != "available":
			return true
		}
		return false
	})
	slices.SortStableFunc(all, func(a, b godo.Image) int {
		if c := created(b).Compare(created(a)); c != 0 {
			return c
		}
		return b.ID - a.ID
	})
	return all, nil
}

func created(i godo.Image) time.Time {
	t, _ := time.Parse(time.RFC3339, i.Created) // unknown is oldest
	return t
}

// CheckTag says what is wrong with a tag.
func CheckTag(tag string) error {
	if !tagForm.MatchString(tag) {
		return fmt.Errorf("%q is no tag of DigitalOcean: a tag has letters, digits, colons, dashes and underscores, at most 255", tag)
	}
	return nil
}

var tagForm = regexp.MustCompile(`^[[:alnum:]:_-]{1,255}$`)

// TagText makes a tag's part of any text.
func TagText(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '-':
			return r
		}
		return '-'
	}, text)
}

// TagImage puts tags on an image, side by side, making those that are not there.
func (s *Session) TagImage(ctx context.Context, id int, tags []string, w Wait) error {
	w.What = fmt.Sprintf("the tags of image %d", id)
	return Each(ctx, tags, func(ctx context.Context, tag string) error {
		ctx = Repeatable(ctx)
		start := time.Now()
		return s.Until(ctx, w, func(ctx context.Context, wait time.Duration) (bool, error) {
			_, err := s.API.Tags.TagResources(ctx, tag, &godo.TagResourcesRequest{Resources: []godo.Resource{{ID: fmt.Sprint(id), Type: godo.ImageResourceType}}})
			switch {
			case err == nil:
				return true, nil
			case NotFound(err) || Pending(err):
				// The tag is not there, or the image can't be seen yet.
				if cerr := s.MakeTag(ctx, tag); cerr != nil {
					return false, cerr
				}
				if !s.MayHeal(err, start) {
					return false, err
				}
				_ = s.Pause(ctx, wait) // Until sees it when ctx ends
				return false, Later(err)
			}
			return false, err
		})
	})
}

// MakeTag makes a tag, if it isn't there.
func (s *Session) MakeTag(ctx context.Context, tag string) error {
	_, _, err := s.API.Tags.Create(Repeatable(ctx), &godo.TagCreateRequest{Name: tag})
	if Pending(err) { // it is there, or it isn't allowed
		if _, _, gerr := s.API.Tags.Get(ctx, tag); gerr == nil {
			return nil
		}
	}
	return err
}

// Each does f for each of all, side by side, and gives all errors.
func Each[T any](ctx context.Context, all []T, f func(context.Context, T) error) error {
	errs := make(chan error, len(all))
	for _, it := range all {
		go func() { errs <- f(ctx, it) }()
	}
	var found []error
	for range all {
		if err := <-errs; err != nil {
			found = append(found, err)
		}
	}
	return errors.Join(found...)
}
