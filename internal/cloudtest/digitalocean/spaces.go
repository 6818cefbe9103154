//go:build linux

package digitalocean

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
)

// spaces is the object store: as much of S3 as an upload needs, with all
// signatures checked. Buckets are addressed by path.
type spaces struct {
	url, access, secret string
	dir                 string
	server              *http.Server
	served              sync.WaitGroup

	mu      sync.Mutex
	buckets []string           // nil: all that are used
	stored  map[string]*object // by bucket/key
	pending map[string]*upload // by id
	last    int                // names files
}

// object is what is stored under a key.
type object struct {
	file, etag, kind string
	size             int64
	modified         time.Time
	public           bool
	meta             http.Header // what the uploader says of it
}

// upload is a multipart upload that is not finished.
type upload struct {
	name, kind string
	public     bool
	meta       http.Header
	begun      time.Time
	parts      map[int]*object
}

// meta are the headers in which an uploader says something of an object.
func meta(h http.Header) http.Header {
	m := http.Header{}
	for k, v := range h {
		if strings.HasPrefix(k, "X-Amz-Meta-") {
			m[k] = v
		}
	}
	return m
}

func newSpaces(dir string, buckets []string, plan *fault.Plan) (*spaces, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the store of Spaces: %w", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("the listener of Spaces: %w", err)
	}
	s := &spaces{
		url: "http://" + l.Addr().String(), access: "DO00" + strings.ToUpper(randomHex(8)), secret: randomHex(22),
		dir: dir, buckets: buckets, stored: map[string]*object{}, pending: map[string]*upload{},
	}
	s.server = &http.Server{Handler: s.handler(plan), ReadHeaderTimeout: time.Minute}
	s.served.Go(func() { _ = s.server.Serve(l) })
	return s, nil
}

func (s *spaces) close() error {
	err := s.server.Close()
	s.served.Wait()
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *spaces) objects() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for name := range s.stored {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func (s *spaces) uploads() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for id, u := range s.pending {
		all = append(all, u.name+" "+id)
	}
	slices.Sort(all)
	return all
}

// wrong is an error as S3 tells it.
type wrong struct {
	status        int
	code, message string
}

func (e *wrong) Error() string { return e.code + ": " + e.message }

func answerWrong(w http.ResponseWriter, r *http.Request, err error) {
	e := &wrong{http.StatusInternalServerError, "InternalError", err.Error()}
	errors.As(err, &e)
	answerXML(w, r, e.status, struct {
		XMLName  xml.Name `xml:"Error"`
		Code     string
		Message  string
		Resource string
	}{Code: e.code, Message: e.message, Resource: r.URL.Path})
}

func answerXML(w http.ResponseWriter, r *http.Request, status int, body any) {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	if err := xml.NewEncoder(&b).Encode(body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // who has gone away wants no answer
	}
}

// handler puts the plan before the store. The plan gets no bodies: they may be large.
// That an object is read is not its business.
func (s *spaces) handler(plan *fault.Plan) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && !r.URL.Query().Has("uploads") {
			s.serve(w, r)
			return
		}
		body := r.Body
		bare := r.Clone(r.Context())
		bare.Body = http.NoBody
		plan.Handler(
			func(r *http.Request, _ []byte) fault.Call {
				action := r.Method + " object"
				for _, sub := range []string{"uploads", "uploadId"} {
					if r.URL.Query().Has(sub) {
						action = r.Method + " upload"
					}
				}
				return fault.Call{Service: "spaces", Action: action}
			},
			func(w http.ResponseWriter, r *http.Request, f fault.Fault) {
				switch f {
				case fault.Refuse:
					answerWrong(w, r, &wrong{http.StatusForbidden, "AccessDenied", "Access Denied"})
				case fault.Throttle:
					answerWrong(w, r, &wrong{http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate."})
				default:
					answerWrong(w, r, &wrong{http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again."})
				}
			},
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = body
				s.serve(w, r)
			})).ServeHTTP(w, bare)
	})
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)

func (s *spaces) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amz-Request-Id", "tx"+randomHex(16))
	if err := s.call(w, r); err != nil {
		answerWrong(w, r, err)
	}
}

func (s *spaces) call(w http.ResponseWriter, r *http.Request) error {
	bucket, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if !bucketName.MatchString(bucket) {
		return &wrong{http.StatusBadRequest, "InvalidBucketName", "The specified bucket is not valid."}
	}
	full := bucket + "/" + name
	q := r.URL.Query()
	signed, err := s.signed(r)
	if err != nil {
		return err
	}
	if !signed {
		s.mu.Lock()
		o := s.stored[full]
		s.mu.Unlock()
		if o == nil || !o.public || r.Method != http.MethodGet && r.Method != http.MethodHead {
			return &wrong{http.StatusForbidden, "AccessDenied", "Access Denied"}
		}
	}
	s.mu.Lock()
	if s.buckets != nil && name == "" && r.Method == http.MethodPut && !slices.Contains(s.buckets, bucket) {
		s.buckets = append(s.buckets, bucket)
	}
	there := s.buckets == nil || slices.Contains(s.buckets, bucket)
	s.mu.Unlock()
	switch {
	case !there:
		return &wrong{http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist."}
	case name == "":
		if r.Method == http.MethodHead || r.Method == http.MethodPut {
			w.WriteHeader(http.StatusOK) // the bucket is there
			return nil
		}
		if r.Method == http.MethodGet && q.Has("uploads") {
			return s.listUploads(w, r, bucket, q.Get("prefix"))
		}
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return s.get(w, r, full)
	case r.Method == http.MethodPut && q.Has("uploadId"):
		return s.putPart(w, r, q.Get("uploadId"), q.Get("partNumber"))
	case r.Method == http.MethodPut && len(r.URL.RawQuery) == 0 || r.Method == http.MethodPut && q.Get("x-id") == "PutObject":
		return s.put(w, r, full)
	case r.Method == http.MethodPost && q.Has("uploads"):
		return s.beginUpload(w, r, bucket, name)
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return s.completeUpload(w, r, bucket, name, q.Get("uploadId"))
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return s.abortUpload(w, q.Get("uploadId"))
	case r.Method == http.MethodDelete:
		s.mu.Lock()
		o := s.stored[full]
		delete(s.stored, full)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		if o != nil {
			return os.Remove(o.file)
		}
		return nil
	}
	return &wrong{http.StatusNotImplemented, "NotImplemented", "the emulator has no " + r.Method + " " + r.URL.RequestURI()}
}

func isPublic(r *http.Request) (bool, error) {
	switch acl := r.Header.Get("X-Amz-Acl"); acl {
	case "", "private":
		return false, nil
	case "public-read":
		return true, nil
	default:
		return false, &wrong{http.StatusBadRequest, "InvalidArgument", "the ACL " + acl + " is not one of private and public-read"}
	}
}

// store reads a body into a file, and checks it against what the headers say of it.
func (s *spaces) store(r *http.Request) (*object, error) {
	public, err := isPublic(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.last++
	o := &object{file: filepath.Join(s.dir, strconv.Itoa(s.last)), kind: r.Header.Get("Content-Type"), modified: time.Now(), public: public, meta: meta(r.Header)}
	s.mu.Unlock()
	f, err := os.OpenFile(o.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	sum, etag := sha256.New(), md5.New()
	body := io.Reader(r.Body)
	if strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") {
		body = &chunked{r: bufio.NewReader(r.Body)}
	}
	o.size, err = io.Copy(io.MultiWriter(f, sum, etag), body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = &wrong{http.StatusBadRequest, "IncompleteBody", "the body ends in the middle"}
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = agrees(r, o.size, sum, etag)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(o.file))
	}
	o.etag = hex.EncodeToString(etag.Sum(nil))
	return o, nil
}

// agrees checks a body's sums and length against the headers.
func agrees(r *http.Request, size int64, sum, etag hash.Hash) error {
	if want := r.Header.Get("X-Amz-Content-Sha256"); len(want) == 64 && want != hex.EncodeToString(sum.Sum(nil)) {
		return &wrong{http.StatusBadRequest, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed."}
	}
	if want := r.Header.Get("Content-Md5"); want != "" && want != base64.StdEncoding.EncodeToString(etag.Sum(nil)) {
		return &wrong{http.StatusBadRequest, "BadDigest", "The Content-MD5 you specified did not match what we received."}
	}
	want := r.ContentLength
	if d := r.Header.Get("X-Amz-Decoded-Content-Length"); d != "" {
		n, err := strconv.ParseInt(d, 10, 64)
		if err != nil {
			return &wrong{http.StatusBadRequest, "InvalidArgument", "the decoded length is no number"}
		}
		want = n
	}
	if want >= 0 && want != size {
		return &wrong{http.StatusBadRequest, "IncompleteBody", fmt.Sprintf("%d bytes were announced and %d came", want, size)}
	}
	return nil
}

// chunked decodes aws-chunked bodies. The signatures of single chunks are not checked.
type chunked struct {
	r    *bufio.Reader
	left int64
	end  bool
}

func (c *chunked) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.end {
			return 0, io.EOF
		}
		line, err := c.line()
		if err != nil {
			return 0, err
		}
		size, _, _ := strings.Cut(line, ";")
		if c.left, err = strconv.ParseInt(size, 16, 64); err != nil || c.left < 0 {
			return 0, &wrong{http.StatusBadRequest, "InvalidRequest", "a chunk's size is no number"}
		}
		if c.left == 0 {
			c.end = true
			// What follows are trailers, up to an empty line or the end.
			for line != "" {
				if line, err = c.line(); err == io.EOF {
					break
				} else if err != nil {
					return 0, err
				}
			}
			return 0, io.EOF
		}
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); c.left == 0 && err == nil {
		_, err = c.line()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *chunked) line() (string, error) {
	b, err := c.r.ReadSlice('\n')
	if err == io.EOF && len(b) == 0 {
		return "", io.EOF
	}
	return strings.TrimRight(string(b), "\r\n"), err
}

func (s *spaces) put(w http.ResponseWriter, r *http.Request, full string) error {
	o, err := s.store(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old := s.stored[full]
	s.stored[full] = o
	s.mu.Unlock()
	w.Header().Set("ETag", `"`+o.etag+`"`)
	w.WriteHeader(http.StatusOK)
	if old != nil {
		return os.Remove(old.file)
	}
	return nil
}

func (s *spaces) get(w http.ResponseWriter, r *http.Request, full string) error {
	s.mu.Lock()
	o := s.stored[full]
	s.mu.Unlock()
	if o == nil {
		return &wrong{http.StatusNotFound, "NoSuchKey", "The specified key does not exist."}
	}
	f, err := os.Open(o.file)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("ETag", `"`+o.etag+`"`)
	maps.Copy(w.Header(), o.meta)
	if o.kind != "" {
		w.Header().Set("Content-Type", o.kind)
	}
	http.ServeContent(w, r, "", o.modified, f)
	return nil
}

func (s *spaces) beginUpload(w http.ResponseWriter, r *http.Request, bucket, name string) error {
	public, err := isPublic(r)
	if err != nil {
		return err
	}
	id := "2~" + randomHex(16)
	s.mu.Lock()
	s.pending[id] = &upload{name: bucket + "/" + name, kind: r.Header.Get("Content-Type"), public: public, meta: meta(r.Header), begun: time.Now(), parts: map[int]*object{}}
	s.mu.Unlock()
	answerXML(w, r, http.StatusOK, struct {
		XMLName               xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket, Key, UploadId string
	}{Bucket: bucket, Key: name, UploadId: id})
	return nil
}

func (s *spaces) listUploads(w http.ResponseWriter, r *http.Request, bucket, prefix string) error {
	type entry struct{ Key, UploadId, Initiated string }
	list := struct {
		XMLName     xml.Name `xml:"ListMultipartUploadsResult"`
		Bucket      string
		IsTruncated bool
		Upload      []entry
	}{Bucket: bucket}
	s.mu.Lock()
	for id, u := range s.pending {
		if b, key, _ := strings.Cut(u.name, "/"); b == bucket && strings.HasPrefix(key, prefix) {
			list.Upload = append(list.Upload, entry{key, id, u.begun.UTC().Format("2006-01-02T15:04:05.000Z")})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list.Upload, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.UploadId, b.UploadId))
	})
	answerXML(w, r, http.StatusOK, list)
	return nil
}

var errNoUpload = &wrong{http.StatusNotFound, "NoSuchUpload", "The specified multipart upload does not exist."}

func (s *spaces) putPart(w http.ResponseWriter, r *http.Request, id, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > 10000 {
		return &wrong{http.StatusBadRequest, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive"}
	}
	o, err := s.store(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	u := s.pending[id]
	if u != nil {
		if old := u.parts[n]; old != nil {
			err = os.Remove(old.file)
		}
		u.parts[n] = o
	}
	s.mu.Unlock()
	if u == nil {
		return errors.Join(errNoUpload, os.Remove(o.file))
	}
	w.Header().Set("ETag", `"`+o.etag+`"`)
	w.WriteHeader(http.StatusOK)
	return err
}

// minPart is the least size of each part but the last.
const minPart = 5 << 20

func (s *spaces) completeUpload(w http.ResponseWriter, r *http.Request, bucket, name, id string) error {
	var in struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.NewDecoder(io.LimitReader(r.Body, 4<<20)).Decode(&in); err != nil || len(in.Part) == 0 {
		return &wrong{http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed."}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.pending[id]
	if u == nil || u.name != bucket+"/"+name {
		return errNoUpload
	}
	s.last++
	o := &object{file: filepath.Join(s.dir, strconv.Itoa(s.last)), kind: u.kind, modified: time.Now(), public: u.public, meta: u.meta}
	sums := md5.New()
	f, err := os.OpenFile(o.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	before := 0
	for i, p := range in.Part {
		part := u.parts[p.PartNumber]
		if part == nil || part.etag != strings.Trim(p.ETag, `"`) {
			return errors.Join(&wrong{http.StatusBadRequest, "InvalidPart", "One or more of the specified parts could not be found."}, os.Remove(o.file))
		}
		if p.PartNumber <= before {
			return errors.Join(&wrong{http.StatusBadRequest, "InvalidPartOrder", "The list of parts was not in ascending order."}, os.Remove(o.file))
		}
		before = p.PartNumber
		if i < len(in.Part)-1 && part.size < minPart {
			return errors.Join(&wrong{http.StatusBadRequest, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size."}, os.Remove(o.file))
		}
		n, err := appendFile(f, part.file)
		if err != nil {
			return errors.Join(err, os.Remove(o.file))
		}
		o.size += n
		sum, _ := hex.DecodeString(part.etag) // our own
		sums.Write(sum)
	}
	o.etag = fmt.Sprintf("%x-%d", sums.Sum(nil), len(in.Part))
	if old := s.stored[u.name]; old != nil {
		err = os.Remove(old.file)
	}
	s.stored[u.name] = o
	delete(s.pending, id)
	answerXML(w, r, http.StatusOK, struct {
		XMLName     xml.Name `xml:"CompleteMultipartUploadResult"`
		Location    string
		Bucket, Key string
		ETag        string
	}{Location: s.url + "/" + u.name, Bucket: bucket, Key: name, ETag: `"` + o.etag + `"`})
	return errors.Join(err, u.remove())
}

func appendFile(to io.Writer, file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(to, f)
}

func (u *upload) remove() error {
	var errs []error
	for _, p := range u.parts {
		errs = append(errs, os.Remove(p.file))
	}
	return errors.Join(errs...)
}

func (s *spaces) abortUpload(w http.ResponseWriter, id string) error {
	s.mu.Lock()
	u := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if u == nil {
		return errNoUpload
	}
	w.WriteHeader(http.StatusNoContent)
	return u.remove()
}
