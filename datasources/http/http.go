// Package http is the data source that reads a URL.
package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/net/http/httpguts"
)

const (
	timeout = 30 * time.Second
	maxBody = 16 << 20
)

// Options are the options of a `data "http"` block. It gives the attributes
// `url`, `body` (text, at most 16 MiB) and `request_headers`, which are, as in
// Packer, the headers of the response. Any status but 2xx is an error. The
// whole exchange may take 30 seconds.
type Options struct {
	// URL is what to read, by http or https.
	URL string `cfg:"url,required"`
	// Method is GET, HEAD, POST, PUT, DELETE, OPTIONS or PATCH.
	Method string `cfg:"method"`
	// RequestHeaders are sent along.
	RequestHeaders map[string]string `cfg:"request_headers"`
	// RequestBody is sent along.
	RequestBody string `cfg:"request_body"`
}

// Source is the http data source.
type Source struct {
	o       Options
	timeout time.Duration
}

// New returns an http data source that sends GET.
func New() *Source { return &Source{o: Options{Method: http.MethodGet}, timeout: timeout} }

var _ datasources.Source = (*Source)(nil)

// Options implements datasources.Source.
func (s *Source) Options() any { return &s.o }

// Type implements datasources.Source.
func (s *Source) Type() cty.Type {
	return cty.Object(map[string]cty.Type{"url": cty.String, "body": cty.String, "request_headers": cty.Map(cty.String)})
}

var methods = [...]string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch,
}

// Check implements datasources.Source.
func (s *Source) Check() []config.Problem {
	var problems []config.Problem
	bad := func(option, summary, detail string) {
		problems = append(problems, config.Problem{Option: option, Summary: summary, Detail: detail})
	}
	if u, err := url.Parse(s.o.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		// The text is not repeated: a URL may hold a password.
		bad("url", "This is no URL that can be read", "Write an address with its scheme: https://example.com/path.")
	}
	if !slices.Contains(methods[:], s.o.Method) {
		bad("method", fmt.Sprintf("There is no method %q", s.o.Method), "It can be "+strings.Join(methods[:], ", ")+", in upper case.")
	}
	for name, value := range s.o.RequestHeaders {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			bad("request_headers."+name, fmt.Sprintf("The header %q cannot be sent", name), "Its name or its value has characters that no header may have.")
		}
	}
	return problems
}

// Read implements datasources.Source.
func (s *Source) Read(ctx context.Context) (cty.Value, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("there was no whole answer within %v", s.timeout))
	defer cancel()
	v, err := s.read(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return v, err
}

func (s *Source) read(ctx context.Context) (cty.Value, error) {
	req, err := http.NewRequestWithContext(ctx, s.o.Method, s.o.URL, strings.NewReader(s.o.RequestBody))
	if err != nil {
		return cty.NilVal, err
	}
	for name, value := range s.o.RequestHeaders {
		req.Header.Set(name, value)
		if strings.EqualFold(name, "Host") {
			req.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return cty.NilVal, err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return cty.NilVal, fmt.Errorf("the server answers %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return cty.NilVal, err
	case len(body) > maxBody:
		return cty.NilVal, fmt.Errorf("the answer is larger than %d MiB", maxBody>>20)
	case !utf8.Valid(body):
		return cty.NilVal, errors.New("the answer is no text in UTF-8")
	}
	headers := map[string]cty.Value{}
	for name, values := range resp.Header {
		headers[name] = cty.StringVal(strings.ToValidUTF8(strings.Join(values, ", "), "\uFFFD"))
	}
	all := cty.MapValEmpty(cty.String)
	if len(headers) > 0 {
		all = cty.MapVal(headers)
	}
	return cty.ObjectVal(map[string]cty.Value{
		"url": cty.StringVal(s.o.URL), "body": cty.StringVal(string(body)), "request_headers": all,
	}), nil
}
