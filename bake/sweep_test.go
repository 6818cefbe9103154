package bake_test

import (
	"context"
	"errors"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/registry"
)

// sweep returns the names of what was given back, and what was warned of.
func (w *world) sweep(o bake.SweepOptions) (names []string, warned string, err error) {
	w.t.Helper()
	o.Components, o.Store = w.components(), w.store
	o.Events = event.Func(func(e event.Event) { warned += e.Text + "\n" })
	done, err := bake.Sweep(context.Background(), o)
	for _, l := range done {
		names = append(names, l.Name)
	}
	return names, warned, err
}

// dead is a process that has ended.
func dead(t *testing.T) proc.Owner {
	t.Helper()
	o, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "exit 0")
	if err := cmd.Run(); err != nil {
		t.Skipf("needs sh: %v", err)
	}
	o.PID, o.StartTicks = cmd.Process.Pid, 1
	return o
}

// lease enters leases of a bake by owner, which exist, into the ledger.
func (w *world) lease(owner proc.Owner, bakeID string, leases ...builders.Lease) {
	w.t.Helper()
	ctx := context.Background()
	if err := w.store.BeginBake(ctx, registry.Bake{ID: bakeID, Name: "web.fake.a", Image: "web", Owner: owner}); err != nil {
		w.t.Fatal(err)
	}
	for _, l := range leases {
		l.BakeID = bakeID
		if l.Builder == "" {
			l.Builder = "fake"
		}
		if _, err := w.store.Intend(ctx, l); err != nil {
			w.t.Fatal(err)
		}
		w.exists[l.Name] = true
	}
}

// What could not be given back stays in the ledger, and sweep tries again.
func TestReleaseThatFails(t *testing.T) {
	for _, broken := range []bool{false, true} {
		w := newWorld(t)
		w.fail("release disk-a", 2)
		if broken {
			w.fail("do one", 1)
		}
		res := w.bake(build("", doOne), bake.Options{})
		if res.Err == nil || !strings.Contains(res.Err.Error(), "give back disk disk-a: release disk-a is broken; it stays in the ledger, `ingot sweep` tries again") {
			t.Errorf("error: %v", res.Err)
		}
		if (res.Version == "web@v1") == broken || (res.Artifact == nil) != broken {
			t.Errorf("result: %+v", res)
		}
		if leases, resources := w.left(); !reflect.DeepEqual(leases, []string{"disk disk-a"}) || !reflect.DeepEqual(resources, []string{"disk-a"}) {
			t.Errorf("left: leases %q, resources %q", leases, resources)
		}
		// The bake has ended, although its process, this one, has not.
		if names, _, err := w.sweep(bake.SweepOptions{}); err == nil || len(names) > 0 || !strings.Contains(err.Error(), "disk-a is broken") {
			t.Errorf("the first sweep: %q, %v", names, err)
		}
		if names, _, err := w.sweep(bake.SweepOptions{}); err != nil || !reflect.DeepEqual(names, []string{"disk-a"}) {
			t.Errorf("the second sweep: %q, %v", names, err)
		}
		w.nothingLeft("failed")
	}
}

func TestSweep(t *testing.T) {
	w := newWorld(t)
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := self
	elsewhere.Host = "another-host"
	gone := dead(t)
	w.lease(gone, "dead", builders.Lease{Kind: "disk", Name: "dead-disk"}, builders.Lease{Kind: "vm", Name: "dead-vm"})
	w.lease(self, "living", builders.Lease{Kind: "vm", Name: "living-vm"})
	w.lease(elsewhere, "foreign", builders.Lease{Kind: "vm", Name: "foreign-vm"})
	w.lease(gone, "unknown", builders.Lease{Kind: "vm", Name: "unknown-vm", Builder: "no-such"})
	w.lease(gone, "nothing")

	left, err := bake.Leftovers(context.Background(), w.store)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range left {
		names = append(names, l.Name)
		if l.Elsewhere != (l.Name == "foreign-vm") {
			t.Errorf("%s: elsewhere is %t", l.Name, l.Elsewhere)
		}
	}
	if want := []string{"dead-disk", "dead-vm", "foreign-vm", "unknown-vm"}; !reflect.DeepEqual(names, want) {
		t.Errorf("leftovers %q, want %q", names, want)
	}

	names, warned, err := w.sweep(bake.SweepOptions{DryRun: true})
	if want := []string{"unknown-vm", "dead-vm", "dead-disk"}; err != nil || !reflect.DeepEqual(names, want) || !strings.Contains(warned, "foreign-vm belongs to a bake on another-host") {
		t.Errorf("dry run: %q, want %q; %q, %v", names, want, warned, err)
	}
	w.wrote()
	if open, err := w.store.OpenBakes(context.Background()); err != nil || len(open) != 5 {
		t.Errorf("a dry run has ended bakes: %+v, %v", open, err)
	}

	names, _, err = w.sweep(bake.SweepOptions{})
	if want := []string{"dead-vm", "dead-disk"}; !reflect.DeepEqual(names, want) {
		t.Errorf("swept %q, want %q", names, want)
	}
	if err == nil || !strings.Contains(err.Error(), `no builder "no-such"`) {
		t.Errorf("error: %v", err)
	}
	w.wrote("release dead-vm", "release dead-disk")
	open, err := w.store.OpenBakes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	names = nil
	for _, b := range open {
		names = append(names, b.ID)
	}
	if want := []string{"living", "foreign", "unknown"}; !reflect.DeepEqual(names, want) {
		t.Errorf("bakes that run on: %q, want %q", names, want)
	}

	names, _, err = w.sweep(bake.SweepOptions{Elsewhere: true})
	if want := []string{"foreign-vm"}; !reflect.DeepEqual(names, want) {
		t.Errorf("swept elsewhere %q, want %q; %v", names, want, err)
	}
	if leases, _ := w.left(); !reflect.DeepEqual(leases, []string{"vm living-vm", "vm unknown-vm"}) {
		t.Errorf("leases: %q", leases)
	}
}

// A bake that died with its image recorded and the guard not yet struck: the
// image stays. One that died before leaves nothing.
func TestSweepLeavesRecordedImages(t *testing.T) {
	w := newWorld(t)
	guard := map[string]string{builders.UntilRecorded: "yes"}
	w.lease(dead(t), "recorded", builders.Lease{Kind: "guard", Name: "its-guard", Data: guard}, builders.Lease{Kind: "vm", Name: "its-vm"})
	w.lease(dead(t), "unfinished", builders.Lease{Kind: "guard", Name: "other-guard", Data: guard})
	if _, err := w.store.Record(context.Background(), registry.NewVersion{
		Image: "web", Status: registry.StatusReady, Artifacts: []registry.Artifact{{Platform: "fake", ExternalID: "img", BakeID: "recorded"}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.sweep(bake.SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	w.wrote("release other-guard", "release its-vm")
	if leases, resources := w.left(); len(leases) > 0 || !reflect.DeepEqual(resources, []string{"its-guard"}) {
		t.Errorf("left: leases %q, resources %q", leases, resources)
	}
}

// Without a ledger nothing is created; with one that fails later, what has been
// created is still given back.
func TestLedgerThatFails(t *testing.T) {
	w := newWorld(t)
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	if res := w.bake(build("", doOne), bake.Options{}); res.Err == nil || !strings.Contains(res.Err.Error(), "note the bake in the ledger") {
		t.Errorf("error: %v", res.Err)
	}
	w.wrote()

	w = newWorld(t)
	w.on["create vm-a"] = func(context.Context) error { return errors.Join(w.store.Close()) }
	if res := w.bake(build("", doOne), bake.Options{}); res.Err == nil || !strings.Contains(res.Err.Error(), "write the id of vm vm-a into the ledger") {
		t.Errorf("error: %v", res.Err)
	}
	w.wrote("create disk-a", "create vm-a", "release vm-a", "release disk-a")
}

// Without a ledger it is the platform that knows what was left.
func TestSweepSource(t *testing.T) {
	w := newWorld(t)
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	w.lease(self, "running")
	for _, name := range []string{"disk-x", "vm-x", "vm-other", "vm-running"} {
		w.exists[name] = true
	}
	w.orphans = []builders.Lease{
		{BakeID: "gone", Kind: "disk", Name: "disk-x"}, {BakeID: "gone", Kind: "vm", Name: "vm-x", Data: map[string]string{builders.SourceKey: "fake.a"}},
		{BakeID: "gone2", Kind: "vm", Name: "vm-other", Data: map[string]string{builders.SourceKey: "fake.b"}}, {BakeID: "running", Kind: "vm", Name: "vm-running"},
	}
	sweep := func(dry bool) (names []string) {
		done, err := bake.SweepSource(t.Context(), w.plan(build("", "")).Bakes[0], 2*time.Hour, bake.SweepOptions{
			Components: w.components(), Store: w.store, DryRun: dry, Events: event.Discard,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range done {
			names = append(names, l.Name)
		}
		return names
	}
	if names := sweep(true); !reflect.DeepEqual(names, []string{"vm-x", "disk-x"}) {
		t.Errorf("would give back %q", names)
	}
	w.wrote("look older than 2h0m0s")
	if names := sweep(false); !reflect.DeepEqual(names, []string{"vm-x", "disk-x"}) {
		t.Errorf("gave back %q", names)
	}
	w.wrote("look older than 2h0m0s", "release vm-x", "release disk-x")
}
