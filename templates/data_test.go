package templates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/datasources"
	dataHTTP "github.com/ingotbuild/ingot/datasources/http"
	dataNull "github.com/ingotbuild/ingot/datasources/null"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// failing is a data source that cannot be read.
type failing struct{ dataNull.Source }

func (*failing) Read(context.Context) (cty.Value, error) {
	return cty.NilVal, errors.New("the disk is on fire")
}

// secretive is a data source whose data is secret, and which may fail with it.
type secretive struct {
	dataNull.Source
	err error
}

func (*secretive) Secrets() []string { return []string{"hunter2", "a\nb"} }

func (s *secretive) Read(ctx context.Context) (cty.Value, error) {
	if s.err != nil {
		return cty.NilVal, s.err
	}
	return s.Source.Read(ctx)
}

func TestDataMayBeSecret(t *testing.T) {
	for _, fails := range []error{nil, errors.New("no key")} {
		o := Options{EvaluateData: true, Datasources: map[string]func() datasources.Source{
			"secret": func() datasources.Source { return &secretive{Source: *dataNull.New(), err: fails} },
		}}
		template, diags := load(t, `data "secret" "a" { input = "x" }`, o)
		if diags.HasErrors() != (fails != nil) {
			t.Errorf("%v: %v", fails, diags)
		}
		if got := template.Secrets(); !reflect.DeepEqual(got, []string{"a", "a\nb", "b", "hunter2"}) {
			t.Errorf("secrets %q", got)
		}
	}
}

func withData(evaluate bool) Options {
	return Options{EvaluateData: evaluate, Datasources: map[string]func() datasources.Source{
		"http": func() datasources.Source { return dataHTTP.New() },
		"null": func() datasources.Source { return dataNull.New() },
		"fail": func() datasources.Source { return &failing{} },
	}}
}

const dataTemplate = `
variable "v" { default = "x" }
locals {
  a = "${var.v}-${data.null.b.output}"
  c = "${local.a}!"
}
local "secret" {
  expression = data.null.late.output
  sensitive  = true
}
data "null" "late" { input = upper(local.c) }
data "null" "b" { input = "b" }
source "null" "a" {
  output = data.null.late.output
  env    = { A = local.c }
}
build {
  name    = local.c
  sources = ["null.a"]
  provisioner "shell" {
    inline  = [data.null.late.output]
    timeout = "${length(local.c)}s"
  }
}
`

func TestDataIsRead(t *testing.T) {
	template := mustLoad(t, dataTemplate, withData(true))
	b := template.bakes[0]
	if b.Name != "x-b!.null.a" || decoded(t, b, nil) != "X-B!" || b.Steps[0].Timeout.String() != "4s" {
		t.Errorf("%s, %s, %v", b.Name, decoded(t, b, nil), b.Steps[0].Timeout)
	}
	if got := template.Secrets(); !reflect.DeepEqual(got, []string{"X-B!"}) {
		t.Errorf("secrets %q", got)
	}
}

// What depends on data that is not read is unknown, and no fault.
func TestDataIsNotRead(t *testing.T) {
	template, diags := load(t, dataTemplate, withData(false))
	expect(t, template, diags, hcl.DiagWarning, 18, "Value not known yet", `"name"`, "-evaluate-datasources")
	b := template.bakes[0]
	var o componentOptions
	for _, c := range []*Component{b.Component, b.Steps[0].Component} {
		diags := c.Decode(&o, nil)
		if !diags.HasErrors() {
			t.Errorf("%s is decoded", c.Type)
		}
		for _, d := range diags {
			if !config.BecauseUnknown(d) {
				t.Error(d)
			}
		}
	}
	// Everything else is still checked.
	for faulty, want := range map[string]string{
		"timeout = \"5\"":                         "Invalid duration",
		"only = [data.null.b.output, \"null.x\"]": "", // not checked
		"tiemout = data.null.b.output":            "",
		"timeout = data.null.b.outptu":            "does not have an attribute named \"outptu\"",
		"override = data.null.b":                  "Value not known yet",
	} {
		_, diags := load(t, "data \"null\" \"b\" {\n input = \"x\"\n}\nsource \"null\" \"a\" {}\nbuild {\n sources = [\"null.a\"]\n provisioner \"x\" {\n "+faulty+"\n }\n}", withData(false))
		if (len(diags) == 0) != (want == "") || len(diags) > 0 && !strings.Contains(diags.Error(), want) {
			t.Errorf("%s: %v; want %q", faulty, diags, want)
		}
	}
}

func TestUnknownPlaces(t *testing.T) {
	for _, what := range []string{
		"sources = [data.null.b.output]", "sources = [\"null.a\"]\n for_each = [data.null.b.output]", "sources = [\"null.a\"]\n image = data.null.b.output",
		"sources = [\"null.a\"]\n for_each = jsondecode(data.null.b.output)",
	} {
		template, diags := load(t, "data \"null\" \"b\" {\n input = \"x\"\n}\nsource \"null\" \"a\" {}\nbuild {\n "+what+"\n}", withData(false))
		if diags.HasErrors() || len(diags) == 0 || diags[0].Summary != "Value not known yet" {
			t.Errorf("%s:\n%s", what, text(template, diags))
		}
	}
}

func TestDataErrors(t *testing.T) {
	for _, c := range []struct {
		archive string
		line    int
		want    string
	}{
		{"data \"nul\" \"a\" {}", 1, `Unknown data source type "nul"|Did you mean "null"?`},
		{"data \"amazon-ami\" \"a\" {}", 1, `Unknown data source type "amazon-ami"|plugin "amazon"`},
		{"data \"null\" \"a\" {\n inptu = 1\n input = \"x\"\n}", 2, `Did you mean "input"?`},
		{"data \"null\" \"a\" {\n}", 1, `"input" is required in data "null" "a"`},
		{"data \"http\" \"a\" {\n url = \"here\"\n}", 2, "no URL"},
		{"data \"fail\" \"a\" {\n input = \"x\"\n}", 1, `could not be read|data "fail" "a": the disk is on fire`},
		{"data \"null\" \"a\" {\n input = \"x\"\n}\ndata \"null\" \"a\" {\n input = \"x\"\n}", 4, "Duplicate data|null.a"},
		{"data \"null\" {\n input = \"x\"\n}", 1, "Missing name for data"},
		{"data \"null\" \"abc\" {\n input = \"x\"\n}\nlocals {\n x = data.null.abd.output\n}", 5, `Unknown data|Did you mean "null.abc"?`},
		{"data \"null\" \"a\" {\n input = local.b\n}\nlocals {\n b = data.null.c.output\n}\ndata \"null\" \"c\" {\n input = data.null.a.output\n}", 1,
			"Cycle: data.null.a -> local.b -> data.null.c -> data.null.a"},
		{"data \"null\" \"a\" {\n input = data.null.a.output\n}", 1, "Cycle: data.null.a -> data.null.a"},
	} {
		t.Run(c.want, func(t *testing.T) {
			template, diags := load(t, c.archive, withData(true))
			expect(t, template, diags, hcl.DiagError, c.line, strings.Split(c.want, "|")...)
		})
	}
	if template, diags := load(t, "data \"no-such\" \"a\" {}", Options{SyntaxOnly: true}); len(diags) > 0 {
		t.Error(text(template, diags))
	}
}

func TestDataInJSON(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Header.Get("X-Who"))
	}))
	defer server.Close()
	template := mustLoad(t, fmt.Sprintf(`-- t.pkr.json --
{"locals": {"who": "me"},
 "data": {"http": {"x": {"url": %q, "request_headers": {"X-Who": "${local.who}"}}}},
 "source": {"null": {"a": {"output": "${data.http.x.body}"}}},
 "build": {"sources": ["null.a"]}}
`, server.URL), withData(true))
	if got := decoded(t, template.bakes[0], nil); got != "hello me" {
		t.Errorf("got %q", got)
	}
}
