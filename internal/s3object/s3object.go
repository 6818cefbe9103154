// Package s3object gives back what an upload has left in a store that speaks
// S3's language, Amazon's own or another.
package s3object

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/ingotbuild/ingot/internal/awscloud"
)

// Mark is the metadata that says whose upload an object is.
const Mark = "ingot-build"

// Object is one that was uploaded, or was to be.
type Object struct {
	Client      *s3.Client
	Bucket, Key string
	// ID is what Mark says of it.
	ID string
	// Own says that no other object can be under the key, or that it was seen to
	// be this one.
	Own bool
	// Begun is when the upload was about to begin.
	Begun time.Time
}

func (o *Object) String() string { return "s3://" + o.Bucket + "/" + o.Key }

// There says whether the object is there, and this one.
func (o *Object) There(ctx context.Context) bool {
	out, err := o.Client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.Bucket, Key: &o.Key})
	return err == nil && out.Metadata[Mark] == o.ID
}

// Remove removes the object, if it is this one. That it isn't there is as good.
func (o *Object) Remove(ctx context.Context) error {
	fail := func(err error) error {
		return fmt.Errorf("remove %s, the uploaded disk: %w", o, awscloud.Explain(err))
	}
	switch out, err := o.Client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &o.Bucket, Key: &o.Key}); {
	case err == nil && out.Metadata[Mark] != o.ID, status(err) == http.StatusNotFound:
		return nil // somebody else's, or nobody's
	case err == nil, status(err) == http.StatusForbidden && o.Own:
	case status(err) == http.StatusForbidden:
		return fmt.Errorf("whether %s is of this bake cannot be told without leave to read it and to list what is there (s3:GetObject, s3:ListBucket): remove it by hand if it is: %w", o, awscloud.Explain(err))
	default:
		return fail(err)
	}
	if _, err := o.Client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &o.Bucket, Key: &o.Key}); err != nil && status(err) != http.StatusNotFound {
		return fail(err)
	}
	return nil
}

// EndUpload ends an upload in parts that is not complete.
func (o *Object) EndUpload(ctx context.Context, id string) error {
	_, err := o.Client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &o.Bucket, Key: &o.Key, UploadId: &id})
	if err != nil && status(err) != http.StatusNotFound {
		return fmt.Errorf("end the upload %s to %s: %w", id, o, awscloud.Explain(err))
	}
	return nil
}

// The call that begins an upload takes no longer than beginTime, with all tries;
// and the store's clock is another by no more than clockSkew.
const (
	beginTime = 30 * time.Minute
	clockSkew = 5 * time.Minute
)

// EndUploads ends the uploads to the key that began when this one did, but for one.
func (o *Object) EndUploads(ctx context.Context, but string) error {
	from, to := o.Begun.Add(-clockSkew), o.Begun.Add(beginTime+clockSkew)
	pages := s3.NewListMultipartUploadsPaginator(o.Client, &s3.ListMultipartUploadsInput{Bucket: &o.Bucket, Prefix: &o.Key})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if status(err) == http.StatusNotFound {
			return nil // without the bucket
		}
		if err != nil {
			return fmt.Errorf("look for an upload to %s that may have begun without an answer: %w", o, awscloud.Explain(err))
		}
		for _, u := range page.Uploads {
			at, id := aws.ToTime(u.Initiated), aws.ToString(u.UploadId)
			if aws.ToString(u.Key) != o.Key || id == but || at.Before(from) || at.After(to) {
				continue
			}
			if err := o.EndUpload(ctx, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// status is the HTTP status that an error came with: the answer to HEAD has no code. 0: none.
func status(err error) int {
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) {
		return resp.HTTPStatusCode()
	}
	return 0
}

// Tries counts the tries of a call.
type Tries int

// Count is one of the call's APIOptions.
func (n *Tries) Count(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("IngotCountTries",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			*n++
			return next.HandleFinalize(ctx, in)
		}), "Retry", middleware.After)
}

// Refused says that a call that failed has had no effect: it was made once at
// most, and answered.
func (n Tries) Refused(ctx context.Context, err error) bool {
	return n <= 1 && !awscloud.IsUnanswered(err) && ctx.Err() == nil
}
