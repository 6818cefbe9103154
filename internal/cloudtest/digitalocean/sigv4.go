//go:build linux

package digitalocean

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm = "AWS4-HMAC-SHA256"
	amzTime   = "20060102T150405Z"
	// skew is how far a signature's time may be from ours.
	skew = 15 * time.Minute
	// maxPresigned is for how long a presigned URL may be good.
	maxPresigned = 7 * 24 * time.Hour
)

func denied(code, message string) error { return &wrong{http.StatusForbidden, code, message} }

// signed checks a request's signature (version 4, in the headers or in the
// query). It returns false for a request without one.
func (s *spaces) signed(r *http.Request) (bool, error) {
	q := r.URL.Query()
	var scope, names, signature, when, payload string
	presigned := q.Has("X-Amz-Signature")
	switch {
	case presigned:
		if q.Get("X-Amz-Algorithm") != algorithm {
			return false, denied("AuthorizationQueryParametersError", "the algorithm is not "+algorithm)
		}
		scope, names, signature, when = q.Get("X-Amz-Credential"), q.Get("X-Amz-SignedHeaders"), q.Get("X-Amz-Signature"), q.Get("X-Amz-Date")
		if payload = q.Get("X-Amz-Content-Sha256"); payload == "" {
			payload = "UNSIGNED-PAYLOAD"
		}
		q.Del("X-Amz-Signature")
	case strings.HasPrefix(r.Header.Get("Authorization"), algorithm+" "):
		for part := range strings.SplitSeq(strings.TrimPrefix(r.Header.Get("Authorization"), algorithm+" "), ",") {
			k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch k {
			case "Credential":
				scope = v
			case "SignedHeaders":
				names = v
			case "Signature":
				signature = v
			}
		}
		when, payload = r.Header.Get("X-Amz-Date"), r.Header.Get("X-Amz-Content-Sha256")
	case r.Header.Get("Authorization") != "":
		return false, denied("AccessDenied", "only signatures of version 4 are taken")
	default:
		return false, nil
	}
	at, err := time.Parse(amzTime, when)
	if err != nil {
		return false, denied("AccessDenied", "the signature's date is missing or malformed")
	}
	if presigned {
		good, err := strconv.Atoi(q.Get("X-Amz-Expires"))
		if err != nil || good < 1 || time.Duration(good)*time.Second > maxPresigned {
			return false, denied("AuthorizationQueryParametersError", "X-Amz-Expires must be from 1 to 604800 seconds")
		}
		if time.Now().After(at.Add(time.Duration(good) * time.Second)) {
			return false, denied("AccessDenied", "Request has expired")
		}
		if time.Until(at) > skew {
			return false, denied("AccessDenied", "Request is not yet valid")
		}
	} else if time.Since(at).Abs() > skew {
		return false, denied("RequestTimeTooSkewed", "The difference between the request time and the server's time is too large.")
	}
	parts := strings.Split(scope, "/") // key, day, region, service, aws4_request
	if len(parts) != 5 || parts[0] != s.access || parts[1] != at.Format("20060102") || parts[3] != "s3" || parts[4] != "aws4_request" {
		return false, denied("InvalidAccessKeyId", "The access key or the scope of the signature is not known.")
	}
	headers := strings.Split(names, ";")
	if !slices.Contains(headers, "host") {
		return false, denied("AccessDenied", "the header host must be signed")
	}
	var canonical strings.Builder
	for _, line := range []string{r.Method, escapePath(r.URL.Path), canonicalQuery(q)} {
		canonical.WriteString(line + "\n")
	}
	for _, h := range headers {
		v := strings.Join(r.Header.Values(h), ",")
		switch h {
		case "host":
			v = r.Host
		case "content-length":
			v = strconv.FormatInt(r.ContentLength, 10)
		}
		canonical.WriteString(h + ":" + strings.Join(strings.Fields(v), " ") + "\n")
	}
	canonical.WriteString("\n" + names + "\n" + payload)
	sum := sha256.Sum256([]byte(canonical.String()))
	toSign := strings.Join([]string{algorithm, when, strings.Join(parts[1:], "/"), hex.EncodeToString(sum[:])}, "\n")
	k := []byte("AWS4" + s.secret)
	for _, p := range append(parts[1:], toSign) {
		m := hmac.New(sha256.New, k)
		m.Write([]byte(p))
		k = m.Sum(nil)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(k)), []byte(signature)) {
		return false, denied("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
	}
	return true, nil
}

// escapePath escapes all but what RFC 3986 calls unreserved, and slashes.
func escapePath(s string) string {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		parts[i] = escapeQuery(p)
	}
	return strings.Join(parts, "/")
}

func escapeQuery(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

func canonicalQuery(q url.Values) string {
	var all []string
	for k, vs := range q {
		for _, v := range vs {
			all = append(all, escapeQuery(k)+"="+escapeQuery(v))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "&")
}
