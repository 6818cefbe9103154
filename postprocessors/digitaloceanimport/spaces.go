package digitaloceanimport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/s3object"
)

const (
	partSize = 64 << 20
	maxParts = 10000
)

// client talks to Spaces. Only the template and the environment are asked for
// the keys: the machine's own identity at Amazon is nothing here. at is nil where
// Spaces is where DigitalOcean has it.
func (p *PostProcessor) client(at *url.URL, region string) (*s3.Client, error) {
	creds := aws.Credentials{
		AccessKeyID:     cmp.Or(p.o.SpacesKey, os.Getenv("DIGITALOCEAN_SPACES_ACCESS_KEY")),
		SecretAccessKey: cmp.Or(p.o.SpacesSecret, os.Getenv("DIGITALOCEAN_SPACES_SECRET_KEY")),
	}
	if creds.AccessKeyID == "" || creds.SecretAccessKey == "" {
		return nil, errors.New("there are no keys of Spaces: set spaces_key and spaces_secret, or DIGITALOCEAN_SPACES_ACCESS_KEY and DIGITALOCEAN_SPACES_SECRET_KEY in the environment")
	}
	o := s3.Options{
		Region: "us-east-1", // what signatures for Spaces are made with
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return creds, nil
		}),
		BaseEndpoint: aws.String("https://" + region + ".digitaloceanspaces.com"),
		// Spaces does not know the checksums that Amazon has added since.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}
	if at != nil {
		o.BaseEndpoint, o.UsePathStyle = aws.String(at.String()), true
	}
	return s3.New(o), nil
}

// upload is that of one object.
type upload struct {
	*PostProcessor
	leases builders.Leases
	data   map[string]string // what its leases tell
	object builders.Lease
}

// put uploads a file, a large one in parts. What is there when it fails is leased.
func (u *upload) put(ctx context.Context, f *os.File, progress func(done, total int64)) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	if !fi.Mode().IsRegular() || size == 0 {
		return fmt.Errorf("%s is no file with something in it", f.Name())
	}
	space, key := u.data[dataSpace], u.data[dataKey]
	// Whether it is there could not be told later either, if it may not be read.
	_, err = u.store.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &space, Key: &key})
	if _, none := errors.AsType[*types.NotFound](err); err != nil && !none {
		return fmt.Errorf("see whether it is free: %w", awscloud.Explain(err))
	}
	if u.object, err = u.leases.Intend(ctx, leaseObject, space+"/"+key, u.data); err != nil {
		return err
	}
	// One that is to stay is leased until it is whole.
	if err := u.send(ctx, f, size, progress); err != nil || !u.o.SkipClean {
		return err
	}
	return u.leases.Released(context.WithoutCancel(ctx), u.object)
}

func (u *upload) send(ctx context.Context, f *os.File, size int64, progress func(done, total int64)) error {
	space, key := u.data[dataSpace], u.data[dataKey]
	marks := map[string]string{s3object.Mark: u.data[dataID]}
	var tries s3object.Tries
	count := func(o *s3.Options) { o.APIOptions = append(o.APIOptions, tries.Count) }
	// refused strikes leases of what has certainly not come to be.
	refused := func(err error, leases ...builders.Lease) error {
		if tries.Refused(ctx, err) {
			for _, l := range leases {
				err = errors.Join(err, u.leases.Released(ctx, l))
			}
		}
		return err
	}
	if size <= u.part {
		_, err := u.store.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &space, Key: &key, ACL: types.ObjectCannedACLPrivate, Body: f, ContentLength: &size, Metadata: marks,
		}, count)
		if err != nil {
			return refused(err, u.object)
		}
		progress(size, size)
		return nil
	}
	part := max(u.part, (size+maxParts-1)/maxParts)
	lease, err := u.leases.Intend(ctx, leaseUpload, space+"/"+key, u.data)
	if err != nil {
		return err
	}
	up, err := u.store.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &space, Key: &key, ACL: types.ObjectCannedACLPrivate, Metadata: marks}, count)
	if err != nil {
		return refused(err, lease, u.object)
	}
	// A try whose answer was lost has begun an upload too: then the lease has no
	// id, so that all are looked for.
	one := tries == 1
	if one {
		if err := u.leases.Created(context.WithoutCancel(ctx), lease, aws.ToString(up.UploadId)); err != nil {
			return err
		}
	}
	done := make([]types.CompletedPart, (size+part-1)/part)
	var sent atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range done {
		g.Go(func() error {
			n := int32(i + 1)
			length := min(part, size-int64(i)*part)
			out, err := u.store.UploadPart(gctx, &s3.UploadPartInput{
				Bucket: &space, Key: &key, UploadId: up.UploadId, PartNumber: &n, ContentLength: &length,
				Body: io.NewSectionReader(f, int64(i)*part, length),
			})
			if err != nil {
				return fmt.Errorf("part %d of %d: %w", n, len(done), err)
			}
			done[i] = types.CompletedPart{PartNumber: &n, ETag: out.ETag}
			progress(sent.Add(length), size)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	_, err = u.store.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &space, Key: &key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	if err != nil && !objectOf(u.store, u.object).There(ctx) { // the answer to an earlier try may have been lost
		return err
	}
	if one {
		return u.leases.Released(context.WithoutCancel(ctx), lease)
	}
	return nil
}

// address is one by which the object can be read for so long, by whoever has it.
func (u *upload) address(ctx context.Context, lasts time.Duration) (string, error) {
	const longest = 7 * 24 * time.Hour
	r, err := s3.NewPresignClient(u.store).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(u.data[dataSpace]), Key: aws.String(u.data[dataKey])}, s3.WithPresignExpires(min(lasts, longest)))
	if err != nil {
		return "", fmt.Errorf("sign the address of the object: %w", err)
	}
	return r.URL, nil
}

// done removes the object, which has served, unless it is to stay.
func (u *upload) done(ctx context.Context) error {
	if u.o.SkipClean {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if err := objectOf(u.store, u.object).Remove(ctx); err != nil {
		return err
	}
	return u.leases.Released(ctx, u.object)
}
