package bake_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/registry"
)

const slowly = `
source "slow" "a" {}
build {
  name    = "web"
  sources = ["slow.a"]
}
`

// die makes the process that bakes one that has ended.
func (w *world) die() {
	w.t.Helper()
	ctx := context.Background()
	open, err := w.store.OpenBakes(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range open {
		if err := w.store.AdoptBake(ctx, b.ID, b.Owner, dead(w.t)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// unfinished are the bakes that can be resumed.
func (w *world) unfinished(want int) []bake.UnfinishedBake {
	w.t.Helper()
	all, err := bake.Unfinished(context.Background(), w.store)
	if err != nil || len(all) != want {
		w.t.Fatalf("%d unfinished bakes, want %d; %v", len(all), want, err)
	}
	return all
}

func (w *world) resume(u bake.UnfinishedBake) bake.Result {
	w.t.Helper()
	return bake.Resume(context.Background(), u, bake.ResumeOptions{Components: w.components(), Store: w.store, Events: event.Func(func(e event.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	})})
}

// A wait that is over costs the machine, not the image.
func TestUnfinished(t *testing.T) {
	w := newWorld(t)
	w.on["snapshot a"] = func(context.Context) error { return fmt.Errorf("%w: it takes so long", builders.ErrUnfinished) }
	res := w.bake(slowly, bake.Options{})
	if res.Artifact != nil || !errors.Is(res.Err, builders.ErrUnfinished) || !strings.Contains(res.Err.Error(), "ingot resume ") {
		t.Fatalf("result: %+v", res)
	}
	w.wrote("create disk-a", "create vm-a", "boot a", "create img-a", "snapshot a", "release vm-a", "release disk-a")
	w.unfinished(0) // the process that bakes it lives
	w.die()
	if names, warned, err := w.sweep(bake.SweepOptions{}); len(names) > 0 || err != nil || !strings.Contains(warned, "can still be finished") {
		t.Errorf("sweep gave back %q, warned %q; %v", names, warned, err)
	}
	u := w.unfinished(1)[0]
	w.wrote()
	w.fail("resume id-img-a", 1)
	if res := w.resume(u); res.Err == nil || res.Artifact != nil {
		t.Errorf("result of a resume that fails: %+v", res)
	}
	if res := w.resume(u); res.Err == nil || !errors.Is(res.Err, registry.ErrConflict) {
		t.Errorf("two resume one bake: %+v", res)
	}
	w.die()
	res = w.resume(w.unfinished(1)[0])
	if res.Err != nil || res.Version != "web@v1" || res.Artifact.ID != "img-a" {
		t.Errorf("result: %+v", res)
	}
	v := w.versions("web")[0]
	if v.Status != registry.StatusReady || v.Artifacts[0].Source != "slow.a" || v.Template != "t.pkr.hcl" {
		t.Errorf("recorded: %+v", v)
	}
	w.wrote("resume id-img-a", "resume id-img-a")
	w.unfinished(0)
	if leases, resources := w.left(); len(leases) > 0 || !slices.Equal(resources, []string{"img-a"}) {
		t.Errorf("left: leases %q, resources %q", leases, resources)
	}
}

// A process that dies at any point leaves what resume finishes and sweep gives
// back, in either order.
func TestResumeAfterDeath(t *testing.T) {
	for _, sweepFirst := range []bool{true, false} {
		for _, lost := range []bool{true, false} {
			w := newWorld(t)
			func() {
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				w.on["snapshot a"] = func(context.Context) error {
					// Dead from here on: nothing is given back.
					w.fail("release vm-a", 1)
					w.fail("release disk-a", 1)
					return fmt.Errorf("%w: the network is gone", builders.ErrUnfinished)
				}
				w.run(ctx, slowly, bake.Options{})
			}()
			w.die()
			if sweepFirst {
				if names, _, err := w.sweep(bake.SweepOptions{}); !slices.Equal(names, []string{"vm-a", "disk-a"}) || err != nil {
					t.Errorf("sweep gave back %q; %v", names, err)
				}
			}
			if lost {
				w.on["resume id-img-a"] = func(context.Context) error { return fmt.Errorf("%w: it is gone", builders.ErrImageLost) }
			}
			res := w.resume(w.unfinished(1)[0])
			if (res.Err != nil) != lost || (res.Version == "web@v1") == lost {
				t.Errorf("lost %v: result: %+v", lost, res)
			}
			w.unfinished(0)
			leases, resources := w.left()
			if len(leases) > 0 || len(resources) > 0 && lost || !lost && !slices.Equal(resources, []string{"img-a"}) {
				t.Errorf("lost %v: left: leases %q, resources %q", lost, leases, resources)
			}
			if open, err := w.store.OpenBakes(t.Context()); err != nil || len(open) > 0 {
				t.Errorf("bakes that have not ended: %v, %v", open, err)
			}
		}
	}
}

// What is given up is given back.
func TestSweepUnfinished(t *testing.T) {
	w := newWorld(t)
	w.on["snapshot a"] = func(context.Context) error { return builders.ErrUnfinished }
	w.bake(slowly, bake.Options{})
	w.die()
	if names, _, err := w.sweep(bake.SweepOptions{Unfinished: true}); !slices.Equal(names, []string{"img-a"}) || err != nil {
		t.Errorf("sweep gave back %q; %v", names, err)
	}
	w.unfinished(0)
	if leases, resources := w.left(); len(leases)+len(resources) > 0 {
		t.Errorf("left: leases %q, resources %q", leases, resources)
	}
}

// Of two bakes of one image one is finished later: in the end there is one
// version with both, and it is ready.
func TestResumeOneOfTwo(t *testing.T) {
	w := newWorld(t)
	w.on["snapshot a"] = func(context.Context) error { return builders.ErrUnfinished }
	w.run(context.Background(), `
source "slow" "a" {}
source "slow" "b" {}
build {
  name    = "web"
  sources = ["slow.a", "slow.b"]
}
`, bake.Options{})
	if v := w.versions("web"); len(v) != 1 || v[0].Status != registry.StatusIncomplete {
		t.Fatalf("recorded: %+v", v)
	}
	w.die()
	if res := w.resume(w.unfinished(1)[0]); res.Err != nil || res.Version != "web@v2" {
		t.Errorf("result: %+v", res)
	}
	v := w.versions("web")[1]
	if v.Status != registry.StatusReady || len(v.Artifacts) != 2 || len(v.Labels) > 0 {
		t.Errorf("recorded: %+v", v)
	}
}

// What a clean boot was to prove is not proven by a resume.
func TestResumeUnproven(t *testing.T) {
	w := newWorld(t)
	w.on["snapshot a"] = func(context.Context) error { return builders.ErrUnfinished }
	w.bake(`
source "slow" "a" {}
build {
  name    = "web"
  sources = ["slow.a"]
  spec "up" {
    after = snapshot
    file "/x" { exists = true }
  }
}
`, bake.Options{})
	w.die()
	if res := w.resume(w.unfinished(1)[0]); res.Err != nil {
		t.Fatal(res.Err)
	}
	if v := w.versions("web"); v[0].Status != registry.StatusIncomplete || !strings.Contains(w.said(), "recorded as incomplete") {
		t.Errorf("recorded: %+v; said %s", v, w.said())
	}
}
