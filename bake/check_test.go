package bake_test

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/ingotbuild/ingot/bake"
)

// Everything wrong is reported at once, where it stands.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	plan := w.plan(`source "fake" "a" {
  problem = "the source is bad"
}
source "fak" "b" {}
source "fake" "c" {
  gaurd = true
}
build {
  sources = ["fake.a", "fak.b", "fake.c"]
  provisioner "do" {
    say     = "one"
    problem = "the step is bad"
  }
  provisioner "doo" {}
  provisioner "do" {}
  spec "s" {
    fiel "/x" {}
  }
  error-cleanup-provisioner "do" {
    say     = "cleanup"
    problem = "the cleanup is bad"
  }
  post-processor "mak" {}
}
`)
	got := map[string]string{}
	diags, _ := bake.Check(context.Background(), plan, bake.CheckOptions{Components: w.components(), Dir: t.TempDir()})
	for _, d := range diags {
		where := fmt.Sprintf("%d: %s", d.Subject.Start.Line, d.Summary)
		if _, twice := got[where]; twice {
			t.Errorf("said twice: %s", where)
		}
		got[where] = d.Detail
	}
	want := map[string]string{
		"2: the source is bad":                  "",
		`4: Unknown builder type "fak"`:         `Did you mean "fake"? There are fake, proven, public, slow.`,
		"6: Unsupported argument":               got["6: Unsupported argument"],
		"12: the step is bad":                   "",
		`14: Unknown provisioner type "doo"`:    `Did you mean "do"? There are do.`,
		"15: Missing required argument":         got["15: Missing required argument"],
		"17: Unsupported block type":            got["17: Unsupported block type"],
		"21: the cleanup is bad":                "",
		`23: Unknown post-processor type "mak"`: `Did you mean "make"? There are bare, lease, make.`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("found\n%q\nwant\n%q", got, want)
	}
	w.wrote() // and nothing was done
}
