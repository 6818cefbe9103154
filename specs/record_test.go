package specs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
)

// What is recorded checks what the spec did, without the template's variables.
func TestRecord(t *testing.T) {
	src := `
title = "of ${var.name}"
sudo  = true
tags  = ["a", var.name]
when  = os.family == (
  var.family
)
file "/etc/x" {
  be_mode = 0644
  its "content" {
    match     = "^${var.name}\\s"
    not_match = var.secret
  }
  should_not {
    be_owned_by = var.name
    its "size" { eq = var.size }
  }
  retry { within = var.wait }
  waive {
    reason = "for ${var.name}"
    until  = "2031-01-01"
  }
}
user "each" {
  for_each = var.users
  name     = "u-${each.key}"
  have_uid = each.value
  when     = os.init == "systemd" && each.value > 1
}
package "hidden" {
  be_installed = { with_version = var.secret }
  tags         = ["x"]
}
port "80" {
  be_listening = { with = "tcp", on = "0.0.0.0" }
}
package "never" {
  for_each     = []
  be_installed = true
}
`
	file := filepath.Join(t.TempDir(), "web.hcl")
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	f, diags := hclparse.NewParser().ParseHCLFile(file)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	ctx := &hcl.EvalContext{Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{
		"name": cty.StringVal(`we"b ${x}`), "family": cty.StringVal("debian"), "secret": cty.StringVal("1.2").Mark("sensitive"),
		"size": cty.NumberIntVal(7), "wait": cty.StringVal("3s"), "users": cty.MapVal(map[string]cty.Value{"a": cty.NumberIntVal(1), "b": cty.NumberIntVal(2)}),
	})}}
	spec, diags := Compile(f.Body, ctx, "web")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	rec, err := Record(f.Body, ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	if rec.Left != 2 || strings.Contains(rec.Source, "1.2") || strings.Contains(rec.Source, "var.") || strings.Contains(rec.Source, "hidden") {
		t.Errorf("%d checks are left out of\n%s", rec.Left, rec.Source)
	}
	again, diags := rec.Compile("web@v1", nil)
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, rec.Source)
	}
	show := func(s *Spec, skip func(Check) bool) string {
		var b strings.Builder
		fmt.Fprintln(&b, s.Name, s.Title, s.Sudo)
		for _, c := range s.Checks {
			if skip(c) {
				continue
			}
			why := ""
			for _, fact := range []platform{{"family": "debian", "init": "systemd"}, {"family": "debian", "init": "none"}, {"family": "alpine"}} {
				for _, w := range c.when {
					ok, _, err := w.holds(fact)
					why += fmt.Sprint(" ", ok, err)
				}
			}
			fmt.Fprintln(&b, c.Resource, c.Subject, c.Property, c.Expect, c.Negate, c.Tags, c.RetryWithin, c.RetryInterval, c.Timeout, c.key, c.waive, why)
		}
		return b.String()
	}
	want := show(spec, func(c Check) bool { return c.sensitive || c.skip != "" && c.Property == "for_each" })
	if got := show(again, func(Check) bool { return false }); got != want {
		t.Errorf("recorded:\n%s\nwant:\n%s\nsource:\n%s", got, want, rec.Source)
	}
}
