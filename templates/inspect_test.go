package templates

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// inspect is load by Inspect.
func inspect(t *testing.T, source string, vars ...string) (*Template, hcl.Diagnostics) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "t.pkr.hcl"), source)
	return Inspect(Options{Path: dir, Vars: vars})
}

func TestInspect(t *testing.T) {
	got, diags := inspect(t, `
packer {
  required_plugins {
    box = {
      source  = "github.com/a/b"
      version = ">= 1.0.0"
    }
  }
}
variable "unset" { type = string }
variable "ruled" {
  default   = 1
  sensitive = true
  validation {
    condition     = var.ruled > 1
    error_message = "More."
  }
}
locals {
  known   = "a"
  unknown = "x${var.unset}"
}
source "null" "a" { option = var.unset }
build {
  name        = "web"
  description = "d"
  source "null.a" { name = "one" }
  provisioner "shell" { name = local.known }
  provisioner "file" { name = var.unset }
  error-cleanup-provisioner "shell-local" {}
  post-processors {
    post-processor "checksum" { name = "sums" }
    post-processor "manifest" {}
  }
}
build { sources = ["null.none"] }
`)
	if diags.HasErrors() {
		t.Fatal(text(got, diags))
	}
	if len(diags) == 0 || !strings.Contains(text(got, diags), "Unknown source") {
		t.Errorf("it does not tell of the unknown source:\n%s", text(got, diags))
	}
	vs, ls := got.Variables(), got.Locals()
	if len(vs) != 2 || vs[0].Name != "ruled" || !vs[0].Sensitive || vs[1].Name != "unset" || vs[1].Value.IsKnown() {
		t.Errorf("variables %+v", vs)
	}
	if len(ls) != 2 || ls[0].Name != "known" || !ls[0].Value.RawEquals(cty.StringVal("a")) || ls[1].Value.IsKnown() {
		t.Errorf("locals %+v", ls)
	}
	if r := got.Requirements(); len(r) != 1 || r[0].Name != "box" || r[0].Source != "github.com/a/b" || r[0].Version != ">= 1.0.0" {
		t.Errorf("requirements %+v", r)
	}
	if len(got.Outlines()) != 2 {
		t.Fatalf("%d outlines", len(got.Outlines()))
	}
	o := got.Outlines()[0]
	if o.Name != "web" || o.Description != "d" || len(o.Bakes) != 1 || o.Bakes[0].Local != "one" {
		t.Errorf("outline %+v", o)
	}
	if len(o.Steps) != 2 || o.Steps[0].Type != "shell" || o.Steps[0].Name != "a" || o.Steps[1].Type != "file" || o.Steps[1].Name != "" {
		t.Errorf("steps %+v", o.Steps)
	}
	if o.ErrorCleanup == nil || o.ErrorCleanup.Type != "shell-local" || len(o.Chains) != 1 || len(o.Chains[0]) != 2 || o.Chains[0][0].Name != "sums" {
		t.Errorf("outline %+v", o)
	}
	if v, diags := got.Evaluate(`"${local.known}-${var.ruled}"`, "in"); diags.HasErrors() || !v.RawEquals(cty.StringVal("a-1")) {
		t.Errorf("%#v %v", v, diags)
	}
	if _, diags := got.Evaluate(`local.none`, "in"); !diags.HasErrors() {
		t.Error("a local that is not there has a value")
	}
	if _, diags := got.Evaluate(strings.Repeat("(", 50_000), "in"); !diags.HasErrors() {
		t.Error("an expression that could exhaust the stack is not refused")
	}
}

func TestInspectRefuses(t *testing.T) {
	for _, c := range []struct {
		source string
		vars   []string
		want   string
	}{
		{"build {", nil, "Unclosed"},
		{"bild {}", nil, "Unsupported block type"},
		{"", []string{"none=1"}, "Undefined variable none"},
	} {
		got, diags := inspect(t, c.source, c.vars...)
		if !diags.HasErrors() || !strings.Contains(text(got, diags), c.want) {
			t.Errorf("%q: want %q, got:\n%s", c.source, c.want, text(got, diags))
		}
	}
}

func TestInspectNothing(t *testing.T) {
	got, diags := Inspect(Options{})
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	if v, diags := got.Evaluate(`upper("a")`, "in"); diags.HasErrors() || !v.RawEquals(cty.StringVal("A")) {
		t.Errorf("%#v %v", v, diags)
	}
}
