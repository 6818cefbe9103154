package digitaloceanimport

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/s3object"
)

// The kinds of leases.
const (
	leaseObject = "object" // named SPACE/KEY
	leaseUpload = "upload" // of an object in parts; named SPACE/KEY
	leaseImage  = "image"  // named as the image is until it is finished
)

// The keys of the data of what is in a Space.
const (
	dataID       = "import"
	dataRegion   = "region"
	dataEndpoint = "endpoint" // empty: DigitalOcean's own
	dataSpace    = "space"
	dataKey      = "key"
)

// objectOf is the object of a lease.
func objectOf(store *s3.Client, l builders.Lease) *s3object.Object {
	return &s3object.Object{Client: store, Bucket: l.Data[dataSpace], Key: l.Data[dataKey], ID: l.Data[dataID], Begun: l.Created}
}

// Release implements postprocessors.Releaser.
func (p *PostProcessor) Release(ctx context.Context, l builders.Lease) error {
	switch l.Kind {
	case leaseImage:
		return p.releaseImage(ctx, l)
	case leaseObject, leaseUpload:
	default:
		return fmt.Errorf("this Ingot does not know how to give back a %s of %s", l.Kind, l.Builder)
	}
	// A Space's name is its own among all accounts', so that the keys are of its
	// account or are refused.
	store := p.store
	if store == nil {
		var at *url.URL
		var err error
		if text := l.Data[dataEndpoint]; text != "" {
			if at, err = url.Parse(text); err != nil {
				return errors.New("the ledger's endpoint of Spaces is no address")
			}
		}
		if store, err = p.client(at, l.Data[dataRegion]); err != nil {
			return fmt.Errorf("%w (keys that the template gave are not kept)", err)
		}
	}
	o := objectOf(store, l)
	switch {
	case l.Kind == leaseObject:
		return o.Remove(ctx)
	case l.ExternalID == "":
		return o.EndUploads(ctx, "")
	}
	return o.EndUpload(ctx, l.ExternalID)
}

// releaseImage removes the image, by its id or by the name that none but it has.
func (p *PostProcessor) releaseImage(ctx context.Context, l builders.Lease) error {
	s := p.sess
	if s == nil {
		var err error
		if s, err = p.shared.Again(ctx, docloud.RefOf(l.Data)); err != nil {
			return err
		}
	}
	remove := func(ctx context.Context) (none struct{}, found bool, err error) {
		if l.ExternalID != "" {
			id, err := docloud.IDOf(l.ExternalID)
			if err == nil {
				found, err = s.DeleteImage(ctx, id)
			}
			return none, found, err
		}
		all, err := named(ctx, s, l.Name)
		if err != nil {
			return none, false, err
		}
		return none, len(all) > 0, docloud.Each(ctx, all, func(ctx context.Context, i godo.Image) error {
			_, err := s.DeleteImage(ctx, i.ID)
			return err
		})
	}
	if _, _, err := docloud.Search(ctx, s, remove); err != nil { // it may not be seen yet
		return fmt.Errorf("remove the image %s: %w", l.Name, err)
	}
	return nil
}
