package bake_test

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/registry"
)

const (
	lease    = "post-processor \"lease\" { id = \"x\" }\n"
	finished = "guard-a" // what a builder's guarded image is called
)

// baked is the diary of a bake with guard = true up to its post-processors.
func baked(more ...string) []string {
	return append([]string{"create guard-a", "create disk-a", "create vm-a", "boot a", "snapshot a", "release vm-a", "release disk-a"}, more...)
}

// wantLeft checks what is left, once all leases are struck.
func (w *world) wantLeft(leases, resources []string) {
	w.t.Helper()
	slices.Sort(resources)
	if l, r := w.left(); !slices.Equal(l, leases) || !slices.Equal(r, resources) {
		w.t.Errorf("left: leases %q, resources %q; want %q, %q", l, r, leases, resources)
	}
}

func TestPostProcessorLeases(t *testing.T) {
	w := newWorld(t)
	res := w.bake(build("guard = true", lease), bake.Options{})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	w.wrote(baked("create made-x", "create temp-x", "make x of img-a", "give back temp-x", "destroy img-a")...)
	w.wantLeft(nil, []string{finished, "made-x"})
	if open, err := w.store.OpenBakes(t.Context()); err != nil || len(open) > 0 {
		t.Errorf("bakes that have not ended: %v, %v", open, err)
	}
}

// What a failed or cancelled post-processor has leased is given back, at
// whichever point it was, and the image stays.
func TestPostProcessorThatFails(t *testing.T) {
	for _, point := range []string{"create made-x", "create temp-x", "make x of img-a"} {
		for _, cancelled := range []bool{false, true} {
			w := newWorld(t)
			ctx, cancel := context.WithCancel(t.Context())
			w.on[point] = func(ctx context.Context) error {
				if cancelled {
					cancel()
					return ctx.Err()
				}
				return errors.New(point + " is broken")
			}
			res := w.run(ctx, build("guard = true", lease+"post-processor \"make\" { id = \"y\" }"), bake.Options{})[0]
			cancel()
			if want := map[bool]string{false: "is broken (the image is finished and stays", true: "cancelled (the image is"}[cancelled]; res.Err == nil || !strings.Contains(res.Err.Error(), want) || res.Version != "web@v1" {
				t.Errorf("%s, cancelled %t: %+v", point, cancelled, res)
			}
			w.wantLeft(nil, []string{finished})
			if open, err := w.store.OpenBakes(t.Context()); err != nil || len(open) > 0 {
				t.Errorf("%s: bakes that have not ended: %v, %v", point, open, err)
			}
			for _, d := range w.diary {
				if strings.HasPrefix(d, "release ") && strings.HasSuffix(d, "-x") || d == "destroy img-a" {
					t.Errorf("%s: %s", point, d)
				}
			}
		}
	}
}

// What a post-processor cannot give back stays in the ledger, and sweep has the
// same component try again. When it has succeeded, the chain goes on.
func TestPostProcessorReleaseThatFails(t *testing.T) {
	for _, broken := range []bool{false, true} {
		w := newWorld(t)
		w.fail("give back temp-x", 2)
		if broken {
			w.fail("make x of img-a", 1)
		}
		res := w.bake(build("guard = true", "post-processors {\n"+lease+"post-processor \"make\" { id = \"y\" }\n}"), bake.Options{})
		if res.Err == nil || !strings.Contains(res.Err.Error(), "give back temp temp-x: give back temp-x is broken; it stays in the ledger, `ingot sweep` tries again") || res.Version != "web@v1" {
			t.Errorf("result: %+v", res)
		}
		resources := []string{finished}
		if !broken {
			resources = append(resources, "made-x")
		}
		if went := slices.Contains(w.diary, "make y of x"); went == broken {
			t.Errorf("the chain went on: %t", went)
		}
		w.wantLeft([]string{"temp temp-x"}, append(resources, "temp-x"))
		if names, _, err := w.sweep(bake.SweepOptions{}); err == nil || len(names) > 0 {
			t.Errorf("the first sweep: %q, %v", names, err)
		}
		if names, _, err := w.sweep(bake.SweepOptions{}); err != nil || !slices.Equal(names, []string{"temp-x"}) {
			t.Errorf("the second sweep: %q, %v", names, err)
		}
		w.wantLeft(nil, resources)
	}
	// One that cannot give back at all.
	w := newWorld(t)
	res := w.bake(build("", "post-processor \"bare\" { id = \"bare\" }"), bake.Options{})
	if res.Err == nil || !strings.Contains(res.Err.Error(), `temp temp-bare: the post-processor "bare" of this Ingot cannot give anything back`) {
		t.Errorf("error: %v", res.Err)
	}
	if names, _, err := w.sweep(bake.SweepOptions{}); err == nil || !strings.Contains(err.Error(), "cannot give anything back") || len(names) > 0 {
		t.Errorf("sweep: %q, %v", names, err)
	}
	w.wantLeft([]string{"temp temp-bare"}, []string{"made-bare", "temp-bare"})
}

// A ledger that fails: nothing is made without a lease, and what is finished and
// cannot be struck is not destroyed here, nor is what it was made of.
func TestPostProcessorLedgerThatFails(t *testing.T) {
	for point, want := range map[string]string{
		"create temp-x":   "write the id of temp temp-x into the ledger",
		"make x of img-a": "the ledger takes what it has made for unfinished, and the next `ingot sweep` removes it",
	} {
		w := newWorld(t)
		w.on[point] = func(context.Context) error { return w.store.Close() }
		res := w.bake(build("guard = true", lease), bake.Options{})
		if res.Err == nil || !strings.Contains(res.Err.Error(), want) || res.Artifact == nil {
			t.Errorf("%s: %+v", point, res)
		}
		if finished := point != "create temp-x"; w.exists["made-x"] != finished || slices.Contains(w.diary, "destroy img-a") {
			t.Errorf("%s: there is %v; %q", point, w.exists, w.diary)
		}
	}
}

// A bake that dies while a post-processor is at it, at any point: sweep leaves
// the recorded image and nothing else, and ends the bake.
func TestDeathInAPostProcessor(t *testing.T) {
	gone := dead(t)
	for _, point := range []string{"create made-x", "create temp-x", "make x of img-a", "give back temp-x"} {
		w, after := newWorld(t), newWorld(t)
		w.on[point] = func(ctx context.Context) error {
			w.copyTo(ctx, after, gone)
			return nil
		}
		if res := w.bake(build("guard = true", lease), bake.Options{}); res.Err != nil {
			t.Fatal(res.Err)
		}
		left, err := bake.Leftovers(t.Context(), after.store)
		if err != nil || len(left) == 0 {
			t.Fatalf("dead at %s: left %v, %v", point, left, err)
		}
		if u, err := bake.Unfinished(t.Context(), after.store); err != nil || len(u) > 0 {
			t.Errorf("dead at %s: resumable: %v, %v", point, u, err)
		}
		if _, warned, err := after.sweep(bake.SweepOptions{}); err != nil || warned != "" {
			t.Errorf("dead at %s: sweep: %v, %q", point, err, warned)
		}
		want := []string{finished}
		if point == "give back temp-x" {
			want = append(want, "made-x") // it was finished, and struck, before
		}
		after.wantLeft(nil, want)
		for _, d := range after.diary {
			if !strings.HasPrefix(d, "give back ") {
				t.Errorf("dead at %s: %s", point, d)
			}
		}
		if open, err := after.store.OpenBakes(t.Context()); err != nil || len(open) > 0 {
			t.Errorf("dead at %s: bakes that have not ended: %v, %v", point, open, err)
		}
	}
}

// copyTo makes another world of what is there at this moment, the bake's process dead.
func (w *world) copyTo(ctx context.Context, to *world, owner proc.Owner) {
	w.t.Helper()
	open, err := w.store.OpenLeases(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, l := range open {
		if i == 0 {
			b := l.Bake
			b.Owner = owner
			if err := to.store.BeginBake(ctx, b); err != nil {
				w.t.Fatal(err)
			}
		}
		made, err := to.store.Intend(ctx, l.Lease)
		if err == nil && l.ExternalID != "" {
			err = to.store.Created(ctx, made.ID, l.ExternalID)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for _, v := range w.versions("web") {
		if _, err := to.store.Record(ctx, registry.NewVersion{Image: v.Image, Status: v.Status, Artifacts: v.Artifacts}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	to.exists = maps.Clone(w.exists)
}

// A resumed bake gives back by the builder what is the builder's, and nothing else.
func TestResumeLeavesPostProcessorsLeases(t *testing.T) {
	w := newWorld(t)
	w.lease(dead(t), "b1",
		builders.Lease{Kind: "made", Name: "made-x", Builder: "lease", Data: map[string]string{builders.UntilRecorded: "yes"}},
		builders.Lease{Kind: "img", Name: "img-a", Builder: "slow", Data: map[string]string{builders.UntilRecorded: "yes", builders.Resumable: "the plan", "bake": `{"type":"slow","source":"a"}`}},
		builders.Lease{Kind: "vm", Name: "vm-a", Builder: "slow"})
	open, err := bake.Unfinished(t.Context(), w.store)
	if err != nil || len(open) != 1 || open[0].Builder != "slow" {
		t.Fatalf("unfinished: %+v, %v", open, err)
	}
	res := bake.Resume(t.Context(), open[0], bake.ResumeOptions{Components: w.components(), Store: w.store})
	if res.Err != nil || res.Version != "web@v1" {
		t.Errorf("result: %+v", res)
	}
	w.wrote("resume ", "release vm-a")
	w.wantLeft([]string{"made made-x"}, []string{"img-a", "made-x"})
	if names, _, err := w.sweep(bake.SweepOptions{}); err != nil || !reflect.DeepEqual(names, []string{"made-x"}) {
		t.Errorf("swept %q, %v", names, err)
	}
	w.wantLeft(nil, []string{"img-a"})
}
