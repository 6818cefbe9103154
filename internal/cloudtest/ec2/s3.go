//go:build linux

package ec2

import (
	"bufio"
	"bytes"
	"crypto/md5" //nolint:gosec // an ETag is one
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// store is a bucket of S3. Its objects are files in the cloud's directory.
type store struct {
	region  string
	made    bool // by a caller
	objects map[string]*object
	uploads map[string]*upload
}

type object struct {
	file, etag, contentType string
	size                    int64
	encryption, key, acl    string
	changed                 time.Time
}

type upload struct {
	name   string
	parts  map[int]*object
	header http.Header
}

// AddBucket makes a bucket.
func (c *Cloud) AddBucket(name, region string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !bucketName.MatchString(name) || c.stores[name] != nil {
		return fmt.Errorf("the bucket %q: its name is malformed or taken", name)
	}
	c.stores[name] = &store{region: region, objects: map[string]*object{}, uploads: map[string]*upload{}}
	return os.MkdirAll(c.storeDir(), 0o700)
}

// s3Action names what a request to S3 asks for.
func s3Action(r *http.Request) string {
	_, name := s3Path(r)
	q := r.URL.Query()
	object := name != ""
	switch r.Method {
	case http.MethodPut:
		switch {
		case object && q.Has("partNumber"):
			return "UploadPart"
		case object:
			return "PutObject"
		}
		return "CreateBucket"
	case http.MethodPost:
		if q.Has("uploads") {
			return "CreateMultipartUpload"
		}
		return "CompleteMultipartUpload"
	case http.MethodDelete:
		switch {
		case q.Has("uploadId"):
			return "AbortMultipartUpload"
		case object:
			return "DeleteObject"
		}
		return "DeleteBucket"
	case http.MethodHead:
		if object {
			return "HeadObject"
		}
		return "HeadBucket"
	}
	switch {
	case object:
		return "GetObject"
	case q.Has("location"):
		return "GetBucketLocation"
	}
	return "ListObjectsV2"
}

func s3Path(r *http.Request) (bucket, name string) {
	bucket, name, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return bucket, name
}

// objectFile is the file that an object's content is in.
func (c *Cloud) objectFile(bucket, name string) (string, error) {
	b := c.stores[bucket]
	if b == nil {
		return "", fail("NoSuchBucket", "The bucket %s does not exist", bucket)
	}
	o := b.objects[name]
	if o == nil {
		return "", fail("NoSuchKey", "The object %s/%s does not exist", bucket, name)
	}
	return o.file, nil
}

func (c *Cloud) serveS3(w http.ResponseWriter, r *http.Request, k *call) {
	k.action = s3Action(r)
	if err := c.admit(k); err != nil {
		c.refuse(w, "s3", err)
		return
	}
	if err := c.doS3(w, r, k); err != nil {
		if r.Method == http.MethodHead {
			var e *apiError
			status := http.StatusInternalServerError
			if errors.As(err, &e) {
				status = e.status
			}
			w.WriteHeader(status)
			return
		}
		c.refuse(w, "s3", err)
	}
}

func (c *Cloud) doS3(w http.ResponseWriter, r *http.Request, k *call) error {
	bucket, name := s3Path(r)
	if k.action == "CreateBucket" {
		if err := c.AddBucket(bucket, k.regionName); err != nil {
			return fail("BucketAlreadyOwnedByYou", "%s", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stores[bucket].made = true
		w.Header().Set("Location", "/"+bucket)
		return nil
	}
	// A body is received before the cloud is locked.
	var got *object
	if k.action == "PutObject" || k.action == "UploadPart" {
		var err error
		if got, err = c.receive(r); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.stores[bucket]
	if b == nil {
		return fail("NoSuchBucket", "The specified bucket does not exist")
	}
	o := b.objects[name]
	if o == nil && slices.Contains([]string{"GetObject", "HeadObject"}, k.action) {
		return fail("NoSuchKey", "The specified key does not exist.")
	}
	q := r.URL.Query()
	up := b.uploads[q.Get("uploadId")]
	if up == nil && slices.Contains([]string{"UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"}, k.action) {
		return fail("NoSuchUpload", "The specified upload does not exist.")
	}
	switch k.action {
	case "DeleteBucket":
		if len(b.objects) > 0 {
			e := fail("BucketNotEmpty", "The bucket you tried to delete is not empty")
			e.status = http.StatusConflict
			return e
		}
		delete(c.stores, bucket)
		w.WriteHeader(http.StatusNoContent)
	case "HeadBucket":
		w.Header().Set("X-Amz-Bucket-Region", b.region)
	case "GetBucketLocation":
		where := b.region
		if where == "us-east-1" {
			where = ""
		}
		return writeXML(w, struct {
			XMLName xml.Name `xml:"LocationConstraint"`
			Region  string   `xml:",chardata"`
		}{Region: where})
	case "PutObject":
		if err := got.describe(r.Header, k); err != nil {
			return err
		}
		b.objects[name] = got
		got.headers(w)
	case "GetObject":
		o.headers(w)
		f, err := os.Open(o.file)
		if err != nil {
			return err
		}
		defer f.Close()
		http.ServeContent(w, r, "", o.changed, f)
	case "HeadObject":
		o.headers(w)
		w.Header().Set("Content-Length", strconv.FormatInt(o.size, 10))
		w.Header().Set("Last-Modified", o.changed.UTC().Format(http.TimeFormat))
	case "DeleteObject":
		delete(b.objects, name) // its file may be what an import reads
		w.WriteHeader(http.StatusNoContent)
	case "CreateMultipartUpload":
		id := randomHex(32)
		b.uploads[id] = &upload{name, map[int]*object{}, r.Header.Clone()}
		return writeXML(w, struct {
			XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
			Bucket   string
			Key      string
			UploadID string `xml:"UploadId"`
		}{Bucket: bucket, Key: name, UploadID: id})
	case "UploadPart":
		n, err := strconv.Atoi(q.Get("partNumber"))
		if err != nil || n < 1 || n > 10000 {
			return fail("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
		}
		up.parts[n] = got
		w.Header().Set("ETag", got.etag)
	case "CompleteMultipartUpload":
		whole, err := c.join(r, up)
		if err != nil {
			return err
		}
		if err := whole.describe(up.header, k); err != nil {
			return err
		}
		b.objects[name] = whole
		delete(b.uploads, q.Get("uploadId"))
		return writeXML(w, struct {
			XMLName  xml.Name `xml:"CompleteMultipartUploadResult"`
			Location string
			Bucket   string
			Key      string
			ETag     string
		}{Location: c.URL() + r.URL.Path, Bucket: bucket, Key: name, ETag: whole.etag})
	case "AbortMultipartUpload":
		delete(b.uploads, q.Get("uploadId"))
		w.WriteHeader(http.StatusNoContent)
	case "ListObjectsV2":
		type entry struct {
			Key          string
			LastModified string
			ETag         string
			Size         int64
		}
		var list []entry
		for _, n := range sortedKeys(b.objects) {
			if strings.HasPrefix(n, q.Get("prefix")) {
				e := b.objects[n]
				list = append(list, entry{n, iso(e.changed), e.etag, e.size})
			}
		}
		return writeXML(w, struct {
			XMLName     xml.Name `xml:"ListBucketResult"`
			Name        string
			KeyCount    int
			IsTruncated bool
			Contents    []entry
		}{Name: bucket, KeyCount: len(list), Contents: list})
	}
	return nil
}

func writeXML(w http.ResponseWriter, v any) error {
	b, err := xml.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = w.Write(b)
	return nil
}

// describe keeps what the headers say of an object.
func (o *object) describe(h http.Header, k *call) error {
	o.contentType, o.acl = h.Get("Content-Type"), h.Get("X-Amz-Acl")
	o.encryption, o.key = h.Get("X-Amz-Server-Side-Encryption"), h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id")
	switch o.encryption {
	case "":
		o.encryption = "AES256"
	case "AES256", "aws:kms", "aws:kms:dsse":
	default:
		return fail("InvalidArgument", "The encryption method %s is not supported", o.encryption)
	}
	if o.key != "" && o.encryption == "AES256" {
		return fail("InvalidArgument", "A KMS key needs the encryption aws:kms")
	}
	if o.key != "" && k.space != nil {
		if why := k.keyTrouble(o.key); why != "" {
			return fail("KMS.NotFoundException", "%s", why)
		}
	}
	o.changed = k.now()
	return nil
}

func (o *object) headers(w http.ResponseWriter) {
	w.Header().Set("ETag", o.etag)
	if o.contentType != "" {
		w.Header().Set("Content-Type", o.contentType)
	}
	w.Header().Set("X-Amz-Server-Side-Encryption", o.encryption)
	if o.key != "" {
		w.Header().Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", o.key)
	}
}

// newFile is an empty file for a part or object.
func (c *Cloud) newFile() (*os.File, error) { return os.CreateTemp(c.storeDir(), "object-") }

// receive writes a request's body into a file.
func (c *Cloud) receive(r *http.Request) (_ *object, err error) {
	f, err := c.newFile()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var body io.Reader = r.Body
	if strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		body = &chunked{r: bufio.NewReader(r.Body)}
	}
	sum := md5.New() //nolint:gosec // an ETag is one
	n, err := io.Copy(io.MultiWriter(f, sum), body)
	if err != nil {
		return nil, fail("IncompleteBody", "%s", err)
	}
	if want := r.Header.Get("X-Amz-Decoded-Content-Length"); want != "" && want != strconv.FormatInt(n, 10) {
		return nil, fail("IncompleteBody", "%d bytes have come of %s", n, want)
	}
	return &object{file: f.Name(), etag: `"` + hex.EncodeToString(sum.Sum(nil)) + `"`, size: n, changed: c.now(), encryption: "AES256"}, nil
}

// join makes one object of an upload's parts, as the request lists them.
func (c *Cloud) join(r *http.Request, up *upload) (_ *object, err error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	var list struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.NewDecoder(bytes.NewReader(body)).Decode(&list); err != nil || len(list.Part) == 0 {
		return nil, fail("MalformedXML", "The XML you provided was not well-formed")
	}
	f, err := c.newFile()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := md5.New() //nolint:gosec // an ETag is one
	whole := &object{file: f.Name(), changed: c.now()}
	last := 0
	for n, p := range list.Part {
		o := up.parts[p.PartNumber]
		switch {
		case o == nil || strings.Trim(o.etag, `"`) != strings.Trim(p.ETag, `"`):
			return nil, fail("InvalidPart", "Part %d could not be found.", p.PartNumber)
		case p.PartNumber <= last:
			return nil, fail("InvalidPartOrder", "The list of parts was not in ascending order.")
		case o.size < 5<<20 && n < len(list.Part)-1:
			return nil, fail("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
		}
		last = p.PartNumber
		raw, err := hex.DecodeString(strings.Trim(o.etag, `"`))
		if err != nil {
			return nil, err
		}
		sum.Write(raw)
		part, err := os.Open(o.file)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(f, part)
		part.Close()
		if err != nil {
			return nil, err
		}
		whole.size += o.size
		_ = os.Remove(o.file) // a part that stays goes with the directory
	}
	whole.etag = fmt.Sprintf(`"%x-%d"`, sum.Sum(nil), len(list.Part))
	return whole, nil
}

// chunked reads a body in aws-chunked encoding; signatures and trailers are skipped.
type chunked struct {
	r    *bufio.Reader
	left int64
	end  bool
}

func (c *chunked) Read(p []byte) (int, error) {
	if c.end {
		return 0, io.EOF
	}
	if c.left == 0 {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		if c.left, err = strconv.ParseInt(size, 16, 64); err != nil || c.left < 0 {
			return 0, fmt.Errorf("malformed chunk %q", size)
		}
		if c.left == 0 {
			c.end = true
			_, _ = io.Copy(io.Discard, c.r) // trailers
			return 0, io.EOF
		}
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if c.left == 0 && err == nil {
		if _, err := c.r.Discard(2); err != nil {
			return n, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// Object is what a test may want to know of an object in S3.
type Object struct {
	Bucket, Name, Encryption, Key, ACL string
	Size                               int64
}

// Objects are all objects of all buckets.
func (c *Cloud) Objects() []Object {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Object
	for _, b := range sortedKeys(c.stores) {
		for _, n := range sortedKeys(c.stores[b].objects) {
			o := c.stores[b].objects[n]
			list = append(list, Object{b, filepath.ToSlash(n), o.encryption, o.key, o.acl, o.size})
		}
	}
	return list
}
