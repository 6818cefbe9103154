package bake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/registry"
)

const publicly = `
source "public" "a" {}
build {
  name    = "web"
  sources = ["public.a"]
  spec "clean" {
    after = snapshot
    command "cat ready" {
      its "exit_status" { eq = 0 }
    }
  }
}
`

// until is the diary of publicly up to the proof.
var until = []string{"create disk-a", "create vm-a", "boot a", "create img-a", "snapshot a", "create proof-a", "boot img-a"}

// publicWorld is a world whose proof is green.
func publicWorld(t *testing.T) *world {
	w, dir := provenWorld(t)
	if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestPublishedAfterTheProof(t *testing.T) {
	w := publicWorld(t)
	if res := w.bake(publicly, bake.Options{}); res.Err != nil || res.Version != "web@v1" {
		t.Fatalf("result: %+v", res)
	}
	w.wrote(append(slices.Clone(until), "show img-a", "release proof-a", "release vm-a", "release disk-a")...)
	var steps []string
	for _, e := range w.events {
		if e.Kind == event.StepEnded {
			steps = append(steps, e.Step)
		}
	}
	if want := []string{"boot", "snapshot", "boot image", "spec clean after snapshot", "publish", "release"}; !slices.Equal(steps, want) {
		t.Errorf("the steps are %q, want %q", steps, want)
	}
	if leases, resources := w.left(); len(leases) > 0 || !slices.Equal(resources, []string{"img-a"}) {
		t.Errorf("left: leases %q, resources %q; want the image alone", leases, resources)
	}
}

// Without anything to prove it is part of the snapshot.
func TestPublishedAtOnce(t *testing.T) {
	w := newWorld(t)
	before, _, _ := strings.Cut(publicly, "  spec ")
	if res := w.bake(before+"}\n", bake.Options{}); res.Err != nil {
		t.Fatal(res.Err)
	}
	w.wrote("create disk-a", "create vm-a", "boot a", "create img-a", "snapshot a", "show img-a", "release vm-a", "release disk-a")
}

func TestRedIsNotPublished(t *testing.T) {
	for _, mode := range []bake.OnError{bake.OnErrorCleanup, bake.OnErrorAbort} {
		w, _ := provenWorld(t)
		if res := w.bake(publicly, bake.Options{OnError: mode}); res.Err == nil {
			t.Fatal("the spec is not red")
		}
		if slices.Contains(w.diary, "show img-a") || len(w.versions("web")) > 0 {
			t.Errorf("%v: a red image was shown: %q", mode, w.diary)
		}
		if mode == bake.OnErrorCleanup {
			w.nothingLeft("failed")
		}
	}
}

func TestPublishFails(t *testing.T) {
	w := publicWorld(t)
	w.fail("show img-a", 1)
	res := w.bake(publicly, bake.Options{})
	if res.Err == nil || !strings.Contains(res.Err.Error(), "show img-a is broken") || len(w.versions("web")) > 0 {
		t.Errorf("result: %+v", res)
	}
	w.nothingLeft("failed")
}

// A proven image that could not be shown to all is finished by resume: as one
// that is proven.
func TestPublishUnfinished(t *testing.T) {
	w := publicWorld(t)
	w.on["show img-a"] = func(context.Context) error { return fmt.Errorf("%w: no answer", builders.ErrUnfinished) }
	res := w.bake(publicly, bake.Options{})
	if res.Artifact != nil || !errors.Is(res.Err, builders.ErrUnfinished) || !strings.Contains(res.Err.Error(), "ingot resume ") {
		t.Fatalf("result: %+v", res)
	}
	w.wrote(append(slices.Clone(until), "show img-a", "release proof-a", "release vm-a", "release disk-a")...)
	if leases, resources := w.left(); !slices.Equal(leases, []string{"img img-a"}) || !slices.Equal(resources, []string{"img-a"}) {
		t.Errorf("left: leases %q, resources %q; want the image with one lease", leases, resources)
	}
	w.die()
	delete(w.on, "show img-a")
	if res := w.resume(w.unfinished(1)[0]); res.Err != nil || res.Version != "web@v1" {
		t.Fatalf("result: %+v", res)
	}
	w.wrote("resume id-img-a", "show img-a")
	v := w.versions("web")[0]
	var reports []struct{ Spec string }
	if v.Status != registry.StatusReady || json.Unmarshal(v.SpecSummary, &reports) != nil || len(reports) != 1 || reports[0].Spec != "clean" {
		t.Errorf("recorded: %+v with %s", v, v.SpecSummary)
	}
	if leases, _ := w.left(); len(leases) > 0 {
		t.Errorf("left: leases %q", leases)
	}
}

// What is not proven is not shown by a resume either.
func TestResumeShowsNothingUnproven(t *testing.T) {
	w := publicWorld(t)
	w.on["snapshot a"] = func(context.Context) error { return builders.ErrUnfinished }
	w.bake(publicly, bake.Options{})
	w.die()
	w.wrote("create disk-a", "create vm-a", "boot a", "create img-a", "snapshot a", "release vm-a", "release disk-a")
	res := w.resume(w.unfinished(1)[0])
	if res.Err != nil || res.Elapsed <= 0 {
		t.Fatalf("result: %+v", res)
	}
	w.wrote("resume id-img-a")
	if v := w.versions("web"); v[0].Status != registry.StatusIncomplete || !strings.Contains(w.said(), "shown to nobody") {
		t.Errorf("recorded: %+v; said %s", v, w.said())
	}
	if e := w.events[len(w.events)-1]; e.Kind != event.BakeEnded || e.Seconds != res.Elapsed.Seconds() {
		t.Errorf("the last event is %+v, and it took %s", e, res.Elapsed)
	}
}
