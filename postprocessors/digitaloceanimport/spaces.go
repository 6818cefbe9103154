package digitaloceanimport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// space is one object in a Space.
type space struct {
	client    *s3.Client
	name, key string
	part      int64 // the size of a part of a large object
}

const (
	partSize = 64 << 20
	maxParts = 10000
)

// space is the object that the image is put into. Only the template and the
// environment are asked for the keys: the machine's own identity at Amazon is
// nothing here.
func (p *PostProcessor) space(key string) (*space, error) {
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
		BaseEndpoint: aws.String("https://" + p.o.SpacesRegion + ".digitaloceanspaces.com"),
		// Spaces does not know the checksums that Amazon has added since.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	}
	at, err := p.endpoint()
	if err != nil {
		return nil, err
	}
	if at != nil {
		o.BaseEndpoint, o.UsePathStyle = aws.String(at.String()), true
	}
	return &space{s3.New(o), p.o.SpaceName, key, partSize}, nil
}

// put uploads a file, a large one in parts. What is not whole is not left.
func (s *space) put(ctx context.Context, f *os.File, progress func(done, total int64)) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	if !fi.Mode().IsRegular() || size == 0 {
		return fmt.Errorf("%s is no file with something in it", f.Name())
	}
	if size <= s.part {
		_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &s.name, Key: &s.key, ACL: types.ObjectCannedACLPrivate, Body: f, ContentLength: &size,
		})
		if err == nil {
			progress(size, size)
		}
		return err
	}
	part := max(s.part, (size+maxParts-1)/maxParts)
	up, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &s.name, Key: &s.key, ACL: types.ObjectCannedACLPrivate})
	if err != nil {
		return err
	}
	done := make([]types.CompletedPart, (size+part-1)/part)
	var sent atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range done {
		g.Go(func() error {
			n := int32(i + 1)
			length := min(part, size-int64(i)*part)
			out, err := s.client.UploadPart(gctx, &s3.UploadPartInput{
				Bucket: &s.name, Key: &s.key, UploadId: up.UploadId, PartNumber: &n, ContentLength: &length,
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
	if err = g.Wait(); err == nil {
		_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.name, Key: &s.key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
		})
	}
	if err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		_, aerr := s.client.AbortMultipartUpload(cctx, &s3.AbortMultipartUploadInput{Bucket: &s.name, Key: &s.key, UploadId: up.UploadId})
		var gone *types.NoSuchUpload
		if aerr != nil && !errors.As(aerr, &gone) {
			err = errors.Join(err, fmt.Errorf("give the parts up that are there already: %w", aerr))
		}
	}
	return err
}

// address is one by which the object can be read for so long, by whoever has it.
func (s *space) address(ctx context.Context, lasts time.Duration) (string, error) {
	const longest = 7 * 24 * time.Hour
	r, err := s3.NewPresignClient(s.client).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &s.name, Key: &s.key}, s3.WithPresignExpires(min(lasts, longest)))
	if err != nil {
		return "", fmt.Errorf("sign the address of the object: %w", err)
	}
	return r.URL, nil
}

// remove removes the object. That it isn't there is as good.
func (s *space) remove(ctx context.Context) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.name, Key: &s.key})
	return err
}
