package amazon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// artifact is what the bake has made: one AMI in each of the regions.
func (t *tail) artifact(images []*regionImage) *builders.Artifact {
	slices.SortFunc(images, func(a, b *regionImage) int { return strings.Compare(a.region, b.region) })
	a := &builders.Artifact{BuilderID: t.plan.BuilderID, Parent: t.plan.Parent, Values: map[string]string{}}
	var ids, text []string
	made := map[string]types.Image{}
	for _, r := range images {
		ids = append(ids, r.region+":"+r.id())
		text = append(text, r.region+": "+r.id())
		made[r.region] = r.image
		a.Places = append(a.Places, builders.Place{Platform: "amazon", Region: r.region, ID: r.id(), Location: consoleURL(r.region, r.id())})
	}
	a.ID = strings.Join(ids, ",")
	a.Text = "AMIs were created: " + strings.Join(text, ", ")
	maps.Copy(a.Values, t.plan.Values)
	r := t.remover
	foreign := t.plan.foreign()
	a.Destroy = func(ctx context.Context) error { return r.destroy(ctx, made, foreign) }
	return a
}

// destroy deregisters AMIs and deletes their snapshots, side by side. One that is
// protected is not unprotected for that.
// Snapshots that were there before it stay.
func (r remover) destroy(ctx context.Context, images map[string]types.Image, foreign []string) error {
	var errs []error
	for _, region := range slices.Sorted(maps.Keys(images)) {
		i := images[region]
		if err := r.removeImage(ctx, region, i, removal{snapshots: true, keep: foreign}); err != nil {
			errs = append(errs, fmt.Errorf("remove the AMI %s in %s: %w", *i.ImageId, region, awscloud.Explain(err)))
		}
	}
	return errors.Join(errs...)
}

// consoleURL is where people look at an AMI.
func consoleURL(region, id string) string {
	return consolePage(region, "ImageDetails:imageId="+url.QueryEscape(id))
}

// consolePage is a page of EC2's console.
func consolePage(region, page string) string {
	host := region + ".console.aws.amazon.com"
	switch {
	case strings.HasPrefix(region, "cn-"):
		host = region + ".console.amazonaws.cn"
	case strings.HasPrefix(region, "us-gov-"):
		host = "console.amazonaws-us-gov.com"
	}
	return "https://" + host + "/ec2/home?region=" + url.QueryEscape(region) + "#" + page
}
