//go:build linux

package digitalocean

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

// DescriptionEnv names DigitalOcean's OpenAPI description, as JSON or gzipped
// JSON. It is not part of the repository.
const DescriptionEnv = "INGOT_DO_OPENAPI"

// Description finds DigitalOcean's OpenAPI description: where DescriptionEnv
// says, or in the directory shared/reference beside the repository that the working directory
// is in. Without it, reason says what to do.
func Description() (path, reason string) {
	if p := os.Getenv(DescriptionEnv); p != "" {
		return p, ""
	}
	const where = "shared/reference/digitalocean-openapi-slice.json.gz"
	if dir, err := os.Getwd(); err == nil {
		for ; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				p := filepath.Join(filepath.Dir(dir), where)
				if _, err := os.Stat(p); err == nil {
					return p, ""
				}
				break
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", "DigitalOcean's OpenAPI description is neither at ../" + where + " beside the repository nor named by " + DescriptionEnv +
		": calls are not held against it"
}

// description is DigitalOcean's OpenAPI description, ready to judge calls.
type description struct {
	router routers.Router
}

func readDescription(path string) (*description, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("DigitalOcean's OpenAPI description: %w", err)
	}
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("DigitalOcean's OpenAPI description %s: %w", path, err)
		}
		if b, err = io.ReadAll(io.LimitReader(z, 64<<20)); err != nil {
			return nil, fmt.Errorf("DigitalOcean's OpenAPI description %s: %w", path, err)
		}
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		return nil, fmt.Errorf("DigitalOcean's OpenAPI description %s: %w", path, err)
	}
	doc.Servers = nil // this server, whatever its address
	if err := mend(doc); err != nil {
		return nil, fmt.Errorf("DigitalOcean's OpenAPI description %s: %w", path, err)
	}
	router, err := legacy.NewRouter(doc, openapi3.DisableExamplesValidation(), openapi3.DisableSchemaDefaultsValidation(),
		openapi3.DisableSchemaPatternValidation())
	if err != nil {
		return nil, fmt.Errorf("DigitalOcean's OpenAPI description %s: %w", path, err)
	}
	return &description{router}, nil
}

// flaw is one of the description's own faults, and how it is worked around.
type flaw struct {
	what string
	mend func(*openapi3.T) error
}

// flaws are the known faults of the description. Each is mended in our copy in memory only.
func flaws() []flaw {
	return []flaw{
		{"a droplet without backups has null as its next_backup_window: one part of the property's allOf does not say that it may", func(doc *openapi3.T) error {
			return nullable(doc, "droplet", "next_backup_window")
		}},
		{"volumes of a new droplet are given as objects with an id by DigitalOcean's own godo, and not as strings", func(doc *openapi3.T) error {
			p, err := property(doc, "droplet_create", "volumes")
			if err != nil {
				return err
			}
			p.Items.Value.Type = nil
			return nil
		}},
		{"a firewall without tags is sent with null as its tags: one part of the property's allOf does not say that it may", func(doc *openapi3.T) error {
			return nullable(doc, "firewall", "tags")
		}},
		{"the other end of a firewall's rule may have null as its tags in the same way", func(doc *openapi3.T) error {
			return nullable(doc, "firewall_rule_target", "tags")
		}},
		{"a firewall's rule for icmp has no ports, and the description demands them of every rule", func(doc *openapi3.T) error {
			s := doc.Components.Schemas["firewall_rule_base"]
			if s == nil || !slices.Contains(s.Value.Required, "ports") {
				return errors.New("firewall_rule_base does not demand ports")
			}
			s.Value.Required = slices.DeleteFunc(s.Value.Required, func(name string) bool { return name == "ports" })
			return nil
		}},
		{"what a change of a project leaves as it is, godo sends as null", func(doc *openapi3.T) error {
			var errs []error
			for _, name := range []string{"name", "description", "purpose", "environment", "is_default"} {
				errs = append(errs, nullable(doc, "project", name))
			}
			p, err := property(doc, "project", "environment")
			if err == nil {
				p.Enum = append(p.Enum, nil)
			}
			return errors.Join(append(errs, err)...)
		}},
	}
}

func mend(doc *openapi3.T) error {
	for _, f := range flaws() {
		if err := f.mend(doc); err != nil {
			return fmt.Errorf("its fault %q cannot be mended any more: %w", f.what, err)
		}
	}
	return nil
}

// property is a property of one of the description's schemas.
func property(doc *openapi3.T, schema, name string) (*openapi3.Schema, error) {
	var find func(s *openapi3.Schema) *openapi3.Schema
	find = func(s *openapi3.Schema) *openapi3.Schema {
		if p := s.Properties[name]; p != nil {
			return p.Value
		}
		for _, part := range s.AllOf {
			if p := find(part.Value); p != nil {
				return p
			}
		}
		return nil
	}
	if s := doc.Components.Schemas[schema]; s != nil {
		if p := find(s.Value); p != nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("schema %s has no property %s", schema, name)
}

// nullable lets a property be null.
func nullable(doc *openapi3.T, schema, name string) error {
	p, err := property(doc, schema, name)
	if err != nil {
		return err
	}
	p.Nullable = true
	for _, part := range p.AllOf {
		part.Value.Nullable = true
	}
	return nil
}

var judging = &openapi3filter.Options{
	AuthenticationFunc:    func(context.Context, *openapi3filter.AuthenticationInput) error { return nil }, // the emulator's own matter
	IncludeResponseStatus: true,
	MultiError:            true,
}

// checked holds each call and its answer against the description. The calls that the
// description does not have are let through.
func (c *Cloud) checked(next http.Handler) http.Handler {
	if c.spec == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, params, err := c.spec.router.FindRoute(r)
		if err != nil {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			answerError(w, r, badRequest("reading the body: %v", err))
			return
		}
		in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: judging}
		r.Body = io.NopCloser(bytes.NewReader(body))
		wrong := openapi3filter.ValidateRequest(r.Context(), in)
		r.Body = io.NopCloser(bytes.NewReader(body))
		a := &copied{ResponseWriter: w}
		next.ServeHTTP(a, r)
		call := r.Method + " " + route.Path
		// A request that was refused was wrong on purpose, perhaps.
		if wrong != nil && a.status < 300 {
			c.breach("request "+call, brief(wrong), withoutSecrets(body))
		}
		out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: a.status, Header: w.Header(), Options: judging}
		out.SetBodyBytes(a.body.Bytes())
		if err := openapi3filter.ValidateResponse(r.Context(), out); err != nil {
			c.breach(fmt.Sprintf("answer %d to %s", a.status, call), brief(err), a.body.Bytes())
		}
	})
}

// breach notes that a call was against the description: once for each kind of call and reason.
func (c *Cloud) breach(call, reason string, body []byte) {
	const most = 600
	if len(body) > most {
		body = body[:most]
	}
	key := call + ": " + reason
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.breaches[key] {
		c.breaches[key] = true
		c.violations = append(c.violations, key+": "+string(body))
	}
}

// withoutSecrets is a request's body as it may be shown.
func withoutSecrets(body []byte) []byte {
	var o map[string]json.RawMessage
	if json.Unmarshal(body, &o) != nil {
		return nil
	}
	for _, name := range []string{"user_data", "url"} {
		if _, ok := o[name]; ok {
			o[name] = json.RawMessage(`"…"`)
		}
	}
	shown, err := json.Marshal(o)
	if err != nil {
		return nil
	}
	return shown
}

// copied keeps a copy of the answer.
type copied struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (c *copied) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *copied) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	c.body.Write(b)
	return c.ResponseWriter.Write(b)
}

// brief is an error without the schema and the value, which kin-openapi adds.
func brief(err error) string {
	var multi openapi3.MultiError
	if errors.As(err, &multi) {
		var all []string
		for _, e := range multi {
			all = append(all, brief(e))
		}
		return strings.Join(all, "; ")
	}
	var schema *openapi3.SchemaError
	if errors.As(err, &schema) {
		at := strings.Join(schema.JSONPointer(), "/")
		s := "/" + at + ": " + schema.Reason
		if schema.Origin != nil {
			s += " (" + brief(schema.Origin) + ")"
		}
		return s
	}
	s, _, _ := strings.Cut(err.Error(), "\nSchema:")
	return s
}
