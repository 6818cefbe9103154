package amazonimport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/s3object"
)

const (
	maxParts = 10000 // of an upload, says S3
	lanes    = 4     // parts that are sent at a time
)

// upload puts the file into the bucket. Nobody but the account sees the object: it has no ACL, and the bucket's own hold.
func (j *job) upload(ctx context.Context, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size := st.Size()
	if size == 0 || !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no disk image: it is empty, or no file", path)
	}
	client := j.session.S3("")
	// An object that is there is somebody's.
	switch _, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &j.bucket, Key: &j.key}); {
	case err == nil:
		return fmt.Errorf("s3://%s/%s exists already: choose another s3_key_name", j.bucket, j.key)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	// Who may not look may still write. If-None-Match below has the last word.
	j.env.Events.Say(fmt.Sprintf("Uploading %s to s3://%s/%s", path, j.bucket, j.key))
	if j.object, err = j.leases.Intend(ctx, leaseObject, j.bucket+"/"+j.key, nil); err != nil {
		return err
	}
	lease, err := j.leases.Intend(ctx, leaseUpload, j.bucket+"/"+j.key, nil)
	if err != nil {
		return err
	}
	target := objectOf(j.session, j.object)
	var tries s3object.Tries
	begun, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &j.bucket, Key: &j.key, ServerSideEncryption: types.ServerSideEncryption(j.o.S3Encryption), SSEKMSKeyId: optional(j.o.S3EncryptionKey),
		Metadata: map[string]string{s3object.Mark: j.leases.id},
	}, func(o *s3.Options) { o.APIOptions = append(o.APIOptions, tries.Count) })
	if err != nil {
		refused := tries.Refused(ctx, err)
		err = fmt.Errorf("begin the upload to s3://%s/%s: %w", j.bucket, j.key, awscloud.Explain(err))
		if refused {
			err = errors.Join(err, j.leases.strike(ctx, lease), j.leases.strike(ctx, j.object))
		}
		return err
	}
	// A try whose answer was lost has begun an upload too. While that may be there
	// the lease has no id, so that all are looked for.
	one := tries == 1
	if !one {
		if e := target.EndUploads(ctx, aws.ToString(begun.UploadId)); e != nil {
			j.env.Events.Warn(e.Error())
		} else {
			one = true
		}
	}
	if one {
		if err := j.leases.created(ctx, lease, aws.ToString(begun.UploadId)); err != nil {
			return err
		}
	}
	parts, err := j.send(ctx, client, f, size, begun.UploadId)
	if err != nil {
		return fmt.Errorf("upload to s3://%s/%s: %w", j.bucket, j.key, awscloud.Explain(err))
	}
	done, err := client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &j.bucket, Key: &j.key, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}, IfNoneMatch: aws.String("*"),
	})
	if err != nil && target.There(ctx) {
		done, err = &s3.CompleteMultipartUploadOutput{}, nil // the answer to an earlier try was lost
	}
	if err != nil {
		return fmt.Errorf("complete the upload to s3://%s/%s: %w", j.bucket, j.key, awscloud.Explain(err))
	}
	if one {
		if err := j.leases.strike(ctx, lease); err != nil {
			return err
		}
	}
	if j.o.SkipClean {
		return j.leases.strike(ctx, j.object)
	}
	return j.leases.created(ctx, j.object, cmp.Or(aws.ToString(done.ETag), whole))
}

// send sends the parts, a few at a time.
func (j *job) send(ctx context.Context, client *s3.Client, f io.ReaderAt, size int64, id *string) ([]types.CompletedPart, error) {
	part := max(j.part, (size+maxParts-1)/maxParts)
	n := int((size + part - 1) / part)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	parts := make([]types.CompletedPart, n)
	numbers := make(chan int)
	var mu sync.Mutex
	var sent int64
	var work sync.WaitGroup
	for range min(lanes, n) {
		work.Go(func() {
			for i := range numbers {
				at := int64(i) * part
				body := io.NewSectionReader(f, at, min(part, size-at))
				out, err := client.UploadPart(ctx, &s3.UploadPartInput{
					Bucket: &j.bucket, Key: &j.key, UploadId: id, PartNumber: aws.Int32(int32(i + 1)), Body: body, ContentLength: aws.Int64(body.Size()),
				})
				if err != nil {
					stop(err)
					continue
				}
				parts[i] = types.CompletedPart{
					PartNumber: aws.Int32(int32(i + 1)), ETag: out.ETag,
					ChecksumCRC32: out.ChecksumCRC32, ChecksumCRC64NVME: out.ChecksumCRC64NVME, ChecksumSHA256: out.ChecksumSHA256,
				}
				mu.Lock()
				sent += body.Size()
				j.env.Events.Progress(sent, size)
				mu.Unlock()
			}
		})
	}
	for i := range n {
		select {
		case numbers <- i:
		case <-ctx.Done():
		}
	}
	close(numbers)
	work.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if slices.ContainsFunc(parts, func(p types.CompletedPart) bool { return p.ETag == nil }) {
		return nil, errors.New("S3 has not named every part")
	}
	return parts, nil
}

// whole is an object's id where S3 has not told its ETag.
const whole = "whole"

// removeObject removes the disk from the bucket, unless it is to stay. What
// fails here is tried again in the end.
func (j *job) removeObject(ctx context.Context) {
	if j.o.SkipClean {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	l := j.object
	l.ExternalID = whole
	err := objectOf(j.session, l).Remove(ctx)
	if err == nil {
		err = j.leases.strike(ctx, l)
	}
	if err != nil {
		j.env.Events.Warn(err.Error())
	}
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
