//go:build linux

package ec2

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
)

// call is one request on its way.
type call struct {
	*Cloud
	service, action string
	regionName      string
	account, caller string // the caller's account and ARN
	*space
	dry    bool
	client string // the address that it comes from
	form   url.Values
}

// operation is one action of a service: its parameters and what it does.
type operation struct {
	request    func() any
	run        func(*call, any) (any, error)
	idempotent bool // it honours ClientToken
	unlocked   bool // it takes the cloud's lock itself
}

func op[In, Out any](f func(*call, *In) (*Out, error)) operation {
	return operation{request: func() any { return new(In) }, run: func(k *call, in any) (any, error) {
		out, err := f(k, in.(*In))
		if err != nil {
			return nil, err
		}
		return out, nil
	}}
}

// once is op for an action that a ClientToken makes happen once.
func once[In, Out any](f func(*call, *In) (*Out, error)) operation {
	o := op(f)
	o.idempotent = true
	return o
}

// answered is what actions answer that have nothing to tell.
type answered struct {
	Return bool `xml:"return"`
}

var done = &answered{true}

// none is what actions take or answer that have nothing.
type none struct{}

// scope finds the access key, region and service in what signs a request:
// the header of SigV4, or the query of a presigned request.
var scope = regexp.MustCompile(`Credential=([^/,]+)/(\d{8})/([^/,]*)/([^/,]+)/aws4_request`)

func (c *Cloud) identify(r *http.Request) *call {
	k := &call{Cloud: c, client: r.RemoteAddr}
	header := r.Header.Get("Authorization")
	if q := r.URL.Query().Get("X-Amz-Credential"); header == "" && q != "" {
		header = "Credential=" + q
	}
	if m := scope.FindStringSubmatch(header); m != nil {
		k.caller, k.regionName, k.service = m[1], m[3], m[4]
	}
	return k
}

// protocol is how a service is spoken to.
type protocol int

const (
	queryEC2 protocol = iota
	queryOld          // IAM, STS
	jsonRPC           // SSM, KMS, Secrets Manager, …
	rest              // S3
)

func protocolOf(service string) protocol {
	switch service {
	case "ec2":
		return queryEC2
	case "iam", "sts":
		return queryOld
	case "s3":
		return rest
	}
	return jsonRPC
}

// actionOf names what a request asks for.
func actionOf(service string, r *http.Request, body []byte) (string, url.Values) {
	switch protocolOf(service) {
	case queryEC2, queryOld:
		form, err := url.ParseQuery(string(body))
		if err != nil {
			form = url.Values{}
		}
		for n, v := range r.URL.Query() {
			form[n] = v
		}
		return form.Get("Action"), form
	case rest:
		return s3Action(r), nil
	}
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	return action, nil
}

func (c *Cloud) handler() http.Handler {
	name := func(r *http.Request, body []byte) fault.Call {
		k := c.identify(r)
		action, _ := actionOf(k.service, r, body)
		return fault.Call{Service: k.service, Action: action, Region: k.regionName}
	}
	refuse := func(w http.ResponseWriter, r *http.Request, f fault.Fault) {
		service := c.identify(r).service
		c.refuse(w, service, faultError(service, f))
	}
	planned := c.o.Plan.Handler(name, refuse, http.HandlerFunc(c.serve))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == checkIPPath && r.Header.Get("Authorization") == "":
			host, _, _ := strings.Cut(r.RemoteAddr, ":")
			_, _ = io.WriteString(w, host+"\n")
		case strings.HasPrefix(r.URL.Path, sessionPath):
			c.serveSession(w, r)
		case c.identify(r).service == "s3" && r.ContentLength > 32<<20:
			c.serve(w, r) // too large for the plan to hold
		default:
			planned.ServeHTTP(w, r)
		}
	})
}

func faultError(service string, f fault.Fault) *apiError {
	switch f {
	case fault.Refuse:
		switch service {
		case "ec2":
			return fail("UnauthorizedOperation", "You are not authorized to perform this operation.")
		case "iam", "sts", "s3":
			return fail("AccessDenied", "Access Denied")
		}
		return fail("AccessDeniedException", "You are not authorized to perform this operation.")
	case fault.Throttle:
		return throttled(service)
	}
	if protocolOf(service) == jsonRPC {
		return fail("InternalServerError", "An internal error occurred")
	}
	return fail("InternalError", "An internal error has occurred")
}

func throttled(service string) *apiError {
	switch service {
	case "ec2":
		return fail("RequestLimitExceeded", "Request limit exceeded.")
	case "iam", "sts":
		return fail("Throttling", "Rate exceeded")
	case "s3":
		return fail("SlowDown", "Please reduce your request rate.")
	}
	return fail("ThrottlingException", "Rate exceeded")
}

const maxRequest = 64 << 20

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	k := c.identify(r)
	if k.service == "s3" {
		c.serveS3(w, r, k)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		c.refuse(w, k.service, fail("MalformedQueryString", "%s", err))
		return
	}
	k.action, k.form = actionOf(k.service, r, body)
	out, err := c.perform(k, body)
	if err != nil {
		c.refuse(w, k.service, err)
		return
	}
	c.answer(w, k, out)
}

// perform does what k asks for.
func (c *Cloud) perform(k *call, body []byte) (any, error) {
	if err := c.admit(k); err != nil {
		return nil, err
	}
	o, ok := c.services[k.service][k.action]
	if !ok {
		return nil, fail("InvalidAction", "The action %s is not valid for this web service: the emulator of %q does not know it", k.action, k.service)
	}
	in := o.request()
	if k.form != nil {
		if err := decodeQuery(k.form, in); err != nil {
			return nil, err
		}
		k.dry = k.form.Get("DryRun") == "true"
	} else if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, in); err != nil {
			return nil, fail("SerializationException", "%s", err)
		}
	}
	if o.unlocked {
		return o.run(k, in)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.idempotent && !k.dry {
		return c.onlyOnce(k, func() (any, error) { return o.run(k, in) })
	}
	return o.run(k, in)
}

// admit checks who calls, whether they may, and whether they call too often.
func (c *Cloud) admit(k *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.service == "" {
		return fail("MissingAuthenticationToken", "Missing Authentication Token")
	}
	id, ok := c.keys[k.caller]
	if !ok {
		switch k.service {
		case "ec2":
			return fail("AuthFailure", "AWS was not able to validate the provided access credentials")
		case "s3":
			return fail("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
		case "iam", "sts":
			return fail("InvalidClientTokenId", "The security token included in the request is invalid.")
		}
		return fail("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	k.account, k.caller = id.account, id.arn
	if err := c.throttle(k); err != nil {
		return err
	}
	if err := c.permitted(k); err != nil {
		return err
	}
	var err error
	k.space, err = c.spaceOf(k.account, k.regionName)
	if err != nil && k.service != "iam" && k.service != "sts" && k.service != "s3" {
		return err
	}
	return nil
}

// commit stands between the checks of an action and its effect: a dry run ends there.
func (k *call) commit() error {
	if k.dry {
		return fail("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	return nil
}

func (c *Cloud) requestID() string {
	return randomHex(8) + "-" + randomHex(4) + "-" + randomHex(4) + "-" + randomHex(4) + "-" + randomHex(12)
}

func (c *Cloud) answer(w http.ResponseWriter, k *call, out any) {
	id := c.requestID()
	if protocolOf(k.service) == jsonRPC {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Header().Set("X-Amzn-Requestid", id)
		_ = json.NewEncoder(w).Encode(out) // who has gone away wants no answer
		return
	}
	body, err := encodeXML(k, out, id)
	if err != nil {
		c.refuse(w, k.service, err)
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("X-Amzn-Requestid", id)
	_, _ = w.Write(body)
}

// encodeXML puts an answer into the envelope of its service.
func encodeXML(k *call, out any, id string) ([]byte, error) {
	ns := map[string]string{
		"ec2": "http://ec2.amazonaws.com/doc/2016-11-15/",
		"iam": "https://iam.amazonaws.com/doc/2010-05-08/",
		"sts": "https://sts.amazonaws.com/doc/2011-06-15/",
	}[k.service]
	inner := xml.StartElement{Name: xml.Name{Local: k.action + "Response"}}
	if k.service != "ec2" {
		inner.Name.Local = k.action + "Result"
	}
	var b bytes.Buffer
	e := xml.NewEncoder(&b)
	if err := e.EncodeElement(out, inner); err != nil {
		return nil, err
	}
	// The answer's own element becomes the envelope, or goes into it.
	text := b.String()
	if k.service == "ec2" {
		_, text, _ = strings.Cut(text, ">")
		return []byte(xml.Header + "<" + k.action + `Response xmlns="` + ns + `"><requestId>` + id + "</requestId>" + text), nil
	}
	return []byte("<" + k.action + `Response xmlns="` + ns + `">` + text + "<ResponseMetadata><RequestId>" + id + "</RequestId></ResponseMetadata></" + k.action + "Response>"), nil
}

// refuse answers an error in the words of the service.
func (c *Cloud) refuse(w http.ResponseWriter, service string, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = fail("InternalError", "%s", err)
		e.status = http.StatusInternalServerError
	}
	id := c.requestID()
	w.Header().Set("X-Amzn-Requestid", id)
	var body any
	type detail struct {
		Type    string `xml:",omitempty"`
		Code    string
		Message string
	}
	kind := "Sender"
	if e.status >= http.StatusInternalServerError {
		kind = "Receiver"
	}
	switch protocolOf(service) {
	case jsonRPC:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(e.status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.code, "message": e.message})
		return
	case queryEC2:
		body = struct {
			XMLName   xml.Name `xml:"Response"`
			Error     detail   `xml:"Errors>Error"`
			RequestID string
		}{Error: detail{"", e.code, e.message}, RequestID: id}
	case queryOld:
		body = struct {
			XMLName   xml.Name `xml:"ErrorResponse"`
			Error     detail
			RequestID string `xml:"RequestId"`
		}{Error: detail{kind, e.code, e.message}, RequestID: id}
	case rest:
		body = struct {
			XMLName   xml.Name `xml:"Error"`
			Code      string
			Message   string
			RequestID string `xml:"RequestId"`
		}{Code: e.code, Message: e.message, RequestID: id}
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(e.status)
	_ = xml.NewEncoder(w).Encode(body)
}

// iso is a time as EC2 writes it.
func iso(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
