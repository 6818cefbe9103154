//go:build linux

package digitalocean_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// store is the genuine S3 client on the cloud's Spaces.
func store(c *digitalocean.Cloud, secret string) *s3.Client {
	access, _ := c.SpacesKeys()
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(c.SpacesURL()), Region: "nyc3", Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
		UsePathStyle: true, RetryMaxAttempts: 1,
	})
}

func code(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestSpaces(t *testing.T) {
	plan := &fault.Plan{}
	c := start(t, digitalocean.Options{Plan: plan, Buckets: []string{"images"}})
	_, secret := c.SpacesKeys()
	s := store(c, secret)
	if _, err := s.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("other"), Key: aws.String("x"), Body: strings.NewReader("x")}); code(err) != "NoSuchBucket" {
		t.Errorf("into a bucket that is not there: %v", err)
	}
	name, key := aws.String("images"), aws.String("a dir/web v1+2.img")
	put := &s3.PutObjectInput{Bucket: name, Key: key, Body: strings.NewReader("an image"), ACL: types.ObjectCannedACLPrivate}
	if _, err := store(c, "wrong").PutObject(t.Context(), put); code(err) != "SignatureDoesNotMatch" {
		t.Errorf("with a wrong secret: %v", err)
	}
	put.Body = strings.NewReader("an image")
	if _, err := s.PutObject(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	if got := c.Left("object"); len(got) != 1 || got[0].ID != "images/a dir/web v1+2.img" {
		t.Errorf("objects: %v", got)
	}
	head, err := s.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: name, Key: key})
	if err != nil || *head.ContentLength != 8 {
		t.Errorf("head: %v %v", head, err)
	}
	plain := c.SpacesURL() + "/images/a%20dir/web%20v1%2B2.img"
	if status, _ := get(t, plain); status != 403 {
		t.Errorf("a private object is read without a signature: %d", status)
	}
	presign := func(good time.Duration) string {
		t.Helper()
		r, err := s3.NewPresignClient(s).PresignGetObject(t.Context(), &s3.GetObjectInput{Bucket: name, Key: key}, s3.WithPresignExpires(good))
		if err != nil {
			t.Fatal(err)
		}
		return r.URL
	}
	u := presign(time.Hour)
	if status, body := get(t, u); status != 200 || body != "an image" {
		t.Errorf("presigned: %d %q", status, body)
	}
	if status, _ := get(t, strings.Replace(u, "X-Amz-Expires=3600", "X-Amz-Expires=7200", 1)); status != 403 {
		t.Errorf("presigned, with a time of one's own: %d", status)
	}
	short := presign(time.Second)
	until(t, "the URL has expired", func() bool {
		status, body := get(t, short)
		return status == 403 && strings.Contains(body, "expired")
	})

	up, err := s.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: name, Key: aws.String("large"), ACL: types.ObjectCannedACLPrivate})
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
	var parts []types.CompletedPart
	for i, b := range [][]byte{first, []byte("the end")} {
		n := aws.Int32(int32(i + 1))
		p, err := s.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: name, Key: aws.String("large"), UploadId: up.UploadId, PartNumber: n, Body: bytes.NewReader(b)})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: n, ETag: p.ETag})
	}
	if len(c.Left("upload")) != 1 {
		t.Errorf("uploads: %v", c.Left("upload"))
	}
	complete := &s3.CompleteMultipartUploadInput{Bucket: name, Key: aws.String("large"), UploadId: up.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{parts[1], parts[0]}}}
	if _, err := s.CompleteMultipartUpload(t.Context(), complete); code(err) != "InvalidPartOrder" && code(err) != "EntityTooSmall" {
		t.Errorf("parts out of order: %v", err)
	}
	complete.MultipartUpload.Parts = parts
	if _, err := s.CompleteMultipartUpload(t.Context(), complete); err != nil {
		t.Fatal(err)
	}
	o, err := s.GetObject(t.Context(), &s3.GetObjectInput{Bucket: name, Key: aws.String("large")})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if b, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(b, append(first, "the end"...)) {
		t.Errorf("the parts do not make the whole: %d bytes, %v", len(b), err)
	}
	up, err = s.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: name, Key: aws.String("large")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: name, Key: aws.String("large"), UploadId: up.UploadId}); err != nil {
		t.Error(err)
	}

	plan.Decide(func(c fault.Call) fault.Fault {
		if c.Service == "spaces" && c.Action == "DELETE object" {
			return fault.CutAfter
		}
		return fault.None
	})
	if _, err := s.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: name, Key: aws.String("large")}); err == nil {
		t.Error("an answer that was cut off arrived")
	}
	plan.Decide(nil)
	if _, err := s.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: name, Key: key}); err != nil {
		t.Error(err)
	}
	if left := c.Left(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: name, Key: key}); err == nil {
		t.Error("a deleted object is there")
	}
}

// TestChunkedUpload sends a body as clients do that sign it in advance.
func TestChunkedUpload(t *testing.T) {
	c := start(t, digitalocean.Options{})
	access, secret := c.SpacesKeys()
	send := func(body, length string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, c.SpacesURL()+"/images/chunked", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		const payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
		for k, v := range map[string]string{"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": length, "X-Amz-Trailer": "x-amz-checksum-crc32", "X-Amz-Content-Sha256": payload} {
			r.Header.Set(k, v)
		}
		if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}, r, payload, "s3", "nyc3", time.Now()); err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for body, want := range map[string]int{
		"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n": 200,
		"5\r\nhello\r\n0\r\n\r\n":            400, // shorter than announced
		"5\r\nhello\r\nx\r\n world\r\n0\r\n": 400,
		"ff\r\nhello":                        400,
	} {
		if got := send(body, "11"); got != want {
			t.Errorf("%q: %d", body, got)
		}
	}
	s := store(c, secret)
	o, err := s.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("images"), Key: aws.String("chunked")})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if b, err := io.ReadAll(o.Body); err != nil || string(b) != "hello world" {
		t.Errorf("stored: %q %v", b, err)
	}
}

// disk makes a qcow2 image of an ext4 file system with one file.
func disk(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"mke2fs", "qemu-img"} {
		if _, err := exec.LookPath(tool); err != nil {
			sandboxtest.Missing(t, "needs "+tool)
		}
	}
	dir := t.TempDir()
	tree, raw, out := filepath.Join(dir, "tree"), filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "etc/motd"), []byte("imported\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "32M"}, {"qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, out}} {
		if b, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c[0], err, b)
		}
	}
	return out
}

func TestImport(t *testing.T) {
	image := disk(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	_, secret := c.SpacesKeys()
	s := store(c, secret)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name, key := aws.String("images"), aws.String("web.qcow2")
	if _, err := s.PutObject(t.Context(), &s3.PutObjectInput{Bucket: name, Key: key, Body: f}); err != nil {
		t.Fatal(err)
	}
	signed, err := s3.NewPresignClient(s).PresignGetObject(t.Context(), &s3.GetObjectInput{Bucket: name, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	ends := func(from string) *godo.Image {
		t.Helper()
		i, _, err := g.Images.Create(t.Context(), &godo.CustomImageCreateRequest{Name: "web", Url: from, Region: "nyc3", Distribution: "Debian", Description: "d", Tags: []string{"imported"}})
		if err != nil {
			t.Fatal(err)
		}
		if i.Status != "NEW" || i.Type != "custom" {
			t.Errorf("a new image: %+v", i)
		}
		until(t, "the import ended", func() bool {
			if i, _, err = g.Images.GetByID(t.Context(), i.ID); err != nil {
				t.Fatal(err)
			}
			return i.Status != "NEW" && i.Status != "pending"
		})
		return i
	}
	i := ends(signed.URL)
	if i.Status != "available" || i.MinDiskSize != 1 || !slices.Equal(i.Tags, []string{"imported"}) {
		t.Fatalf("the image: %+v", i)
	}
	if b, err := c.ReadFile(strconv.Itoa(i.ID), "/etc/motd"); err != nil || string(b) != "imported\n" {
		t.Errorf("in the image: %q %v", b, err)
	}
	a, _, err := g.ImageActions.Transfer(t.Context(), i.ID, &godo.ActionRequest{"type": "transfer", "region": "fra1"})
	done(t, g, a, err)
	if i, _, err := g.Images.Update(t.Context(), i.ID, &godo.ImageUpdateRequest{Name: "new", Description: "new"}); err != nil || i.Name != "new" || i.Distribution != "Debian" {
		t.Errorf("changed: %+v %v", i, err)
	}
	if _, err := g.Images.Delete(t.Context(), i.ID); err != nil {
		t.Error(err)
	}
	if bad := ends(c.SpacesURL() + "/images/web.qcow2"); bad.Status != "deleted" || !strings.Contains(bad.ErrorMessage, "403") {
		t.Errorf("without a signature: %+v", bad)
	}
	if bad := ends("http://192.0.2.1/web.qcow2"); bad.Status != "deleted" || !strings.Contains(bad.ErrorMessage, "loopback") {
		t.Errorf("from elsewhere: %+v", bad)
	}
	c.FailActions(func(a digitalocean.Action) bool { return a.Type == "image_import" })
	if bad := ends(signed.URL); bad.Status != "deleted" || bad.ErrorMessage == "" {
		t.Errorf("a planned failure: %+v", bad)
	}
	_, _, err = g.Images.Create(context.Background(), &godo.CustomImageCreateRequest{Name: "web", Url: signed.URL, Region: "nyc3", Distribution: "Plan 9"})
	refused(t, err, 422, "Distribution")
}
