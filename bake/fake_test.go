package bake_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/postprocessors"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/templates"
)

// world is a platform that is a map, a registry that is real, and a diary of
// what has been done.
type world struct {
	t     *testing.T
	store *registry.SQLite
	// on says what is to happen at a point of the diary, in place of success.
	on map[string]func(ctx context.Context) error

	mu     sync.Mutex
	exists map[string]bool // resources by kind and name
	diary  []string
	events []event.Event
	// machine is what builders boot.
	machine machine.Machine
	// orphans are what the platform says was left.
	orphans []builders.Lease
	// more are further provisioners.
	more map[string]func() provisioners.Provisioner
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := registry.Open(context.Background(), filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return &world{t: t, store: store, on: map[string]func(context.Context) error{}, exists: map[string]bool{}, machine: idle{}}
}

// fail makes a point of the diary fail, the first n times that it is reached.
func (w *world) fail(point string, n int) {
	w.on[point] = func(context.Context) error {
		if n--; n >= 0 {
			return errors.New(point + " is broken")
		}
		return nil
	}
}

// note writes into the diary and does what is to happen at this point.
func (w *world) note(ctx context.Context, format string, args ...any) error {
	point := fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.diary = append(w.diary, point)
	f := w.on[point]
	w.mu.Unlock()
	if f != nil {
		return f(ctx)
	}
	return nil
}

// wrote checks the diary and starts it anew.
func (w *world) wrote(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.diary, want) {
		w.t.Errorf("the diary is\n\t%s\nwant\n\t%s", strings.Join(w.diary, "\n\t"), strings.Join(want, "\n\t"))
	}
	w.diary = nil
}

func (w *world) components() bake.Components {
	do := map[string]func() provisioners.Provisioner{"do": func() provisioners.Provisioner { return &provisioner{world: w} }}
	maps.Copy(do, w.more)
	return bake.Components{
		Builders: map[string]func() builders.Builder{
			"fake":   func() builders.Builder { return &builder{world: w} },
			"proven": func() builders.Builder { return &prover{builder{world: w}} },
			"slow":   func() builders.Builder { return &slow{prover{builder{world: w}}} },
			"public": func() builders.Builder { return &public{slow{prover{builder{world: w}}}} },
		},
		Provisioners: do,
		PostProcessors: map[string]func() postprocessors.PostProcessor{
			"make":  func() postprocessors.PostProcessor { return &postProcessor{world: w} },
			"lease": func() postprocessors.PostProcessor { return &leaser{postProcessor{world: w}} },
			"bare":  func() postprocessors.PostProcessor { return bare{&leaser{postProcessor{world: w}}} },
		},
	}
}

func (w *world) plan(template string) *templates.Plan {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "t.pkr.hcl")
	if err := os.WriteFile(file, []byte(template), 0o600); err != nil {
		w.t.Fatal(err)
	}
	t, diags := templates.Load(templates.Options{Path: file})
	if diags.HasErrors() {
		w.t.Fatal(diags)
	}
	plan, diags := t.Plan(templates.Selection{})
	if diags.HasErrors() {
		w.t.Fatal(diags)
	}
	return plan
}

// run bakes a template.
func (w *world) run(ctx context.Context, template string, o bake.Options) []bake.Result {
	w.t.Helper()
	o.Components, o.Store, o.Template = w.components(), w.store, "t.pkr.hcl"
	o.Events = event.Func(func(e event.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	})
	results, err := bake.Run(ctx, w.plan(template), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return results
}

// bake runs a template with one bake.
func (w *world) bake(template string, o bake.Options) bake.Result {
	w.t.Helper()
	return w.run(context.Background(), template, o)[0]
}

// said is all messages and warnings.
func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, e := range w.events {
		if e.Kind == event.Message || e.Kind == event.Warning {
			b.WriteString(e.Text + "\n")
		}
	}
	return b.String()
}

// left are the open leases and the resources that exist.
func (w *world) left() (leases, resources []string) {
	w.t.Helper()
	open, err := w.store.OpenLeases(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range open {
		leases = append(leases, l.Kind+" "+l.Name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.exists {
		resources = append(resources, r)
	}
	slices.Sort(resources)
	return leases, resources
}

// nothingLeft checks that all has been given back and each bake has ended so.
func (w *world) nothingLeft(outcome string) {
	w.t.Helper()
	if leases, resources := w.left(); len(leases)+len(resources) > 0 {
		w.t.Errorf("left: leases %q, resources %q", leases, resources)
	}
	open, err := w.store.OpenBakes(context.Background())
	if err != nil || len(open) > 0 {
		w.t.Errorf("bakes that have not ended: %v, %v", open, err)
	}
	for _, e := range w.ended() {
		if e != outcome {
			w.t.Errorf("the bake's end was %q, want %q", e, outcome)
		}
	}
}

// ended is how each bake ended, by its event.
func (w *world) ended() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		switch {
		case e.Kind != event.BakeEnded:
		case e.Error == "":
			all = append(all, "success")
		case strings.HasPrefix(e.Error, "cancelled"):
			all = append(all, "cancelled")
		default:
			all = append(all, "failed")
		}
	}
	return all
}

// versions are what the registry has of an image.
func (w *world) versions(image string) []registry.Version {
	w.t.Helper()
	vs, err := w.store.Versions(context.Background(), image)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		w.t.Fatal(err)
	}
	return vs
}

// idle is a machine that does nothing.
type idle struct{ machine.Machine }

func (idle) Close() error { return nil }

// builder makes two resources, and a third that guards the image when asked to.
type builder struct {
	world *world
	o     struct {
		Guard    bool   `cfg:"guard"`
		Headless bool   `cfg:"headless"`
		Nowhere  bool   `cfg:"nowhere"`
		Problem  string `cfg:"problem"`
	}
}

func (b *builder) Options() any { return &b.o }

func (b *builder) Check(context.Context, *builders.CheckEnv) []config.Problem {
	if b.o.Problem != "" {
		return []config.Problem{{Option: "problem", Summary: b.o.Problem}}
	}
	return nil
}

func (b *builder) create(ctx context.Context, run *builders.Run, kind string, data map[string]string) error {
	return b.world.create(ctx, run.Leases, run.BakeID, run.Type, kind, kind+"-"+run.Source, data)
}

func (w *world) create(ctx context.Context, leases builders.Leases, bakeID, typ, kind, name string, data map[string]string) error {
	lease, err := leases.Intend(ctx, kind, name, data)
	if err != nil {
		return err
	}
	// The law: by now the ledger on disk has it.
	open, err := w.store.OpenLeases(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(open, func(l registry.OwnedLease) bool {
		return l.Name == name && l.BakeID == bakeID && l.Builder == typ && l.Bake.Outcome == ""
	}) {
		w.t.Errorf("%s is about to be created, and the ledger does not have it", name)
	}
	if err := w.note(ctx, "create %s", name); err != nil {
		return err
	}
	w.mu.Lock()
	w.exists[name] = true
	w.mu.Unlock()
	return leases.Created(ctx, lease, "id-"+name)
}

func (b *builder) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	if b.o.Guard {
		if err := b.create(ctx, run, "guard", map[string]string{builders.UntilRecorded: "yes"}); err != nil {
			return nil, err
		}
	}
	for _, kind := range []string{"disk", "vm"} {
		if err := b.create(ctx, run, kind, nil); err != nil {
			return nil, err
		}
	}
	run.Values["ID"] = "vm-" + run.Source
	if b.o.Headless {
		return nil, nil
	}
	return b.world.machine, b.world.note(ctx, "boot %s", run.Source)
}

func (b *builder) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if err := b.world.note(ctx, "snapshot %s", run.Source); err != nil {
		return nil, err
	}
	a := b.world.artifact("img-" + run.Source)
	if !b.o.Nowhere {
		a.Places = []builders.Place{{Platform: "fake", ID: a.ID, Location: "shelf"}}
	}
	return a, nil
}

// prover is a builder that can boot its image.
type prover struct{ builder }

func (b *prover) BootProof(ctx context.Context, run *builders.Run, a *builders.Artifact) (machine.Machine, error) {
	if err := b.create(ctx, run, "proof", nil); err != nil {
		return nil, err
	}
	return b.world.machine, b.world.note(ctx, "boot %s", a.ID)
}

// slow is a builder whose images can be finished later.
type slow struct{ prover }

func (b *slow) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if err := b.create(ctx, run, "img", map[string]string{builders.UntilRecorded: "yes", builders.Resumable: "the plan"}); err != nil {
		return nil, err
	}
	return b.builder.Snapshot(ctx, run)
}

func (b *slow) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	i := slices.IndexFunc(open, func(l builders.Lease) bool { return l.Data[builders.Resumable] == "the plan" })
	if err := b.world.note(ctx, "resume %s", open[i].ExternalID); err != nil {
		return nil, err
	}
	a := b.world.artifact("img-" + run.Source)
	a.Places = []builders.Place{{Platform: "fake", ID: a.ID, Location: "shelf"}}
	return a, nil
}

// public is a builder whose images others see.
type public struct{ slow }

func (b *public) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	a, err := b.slow.Snapshot(ctx, run)
	return b.shown(ctx, run, a, err)
}

func (b *public) Resume(ctx context.Context, run *builders.Run, open []builders.Lease) (*builders.Artifact, error) {
	a, err := b.slow.Resume(ctx, run, open)
	return b.shown(ctx, run, a, err)
}

func (b *public) shown(ctx context.Context, run *builders.Run, a *builders.Artifact, err error) (*builders.Artifact, error) {
	if err != nil || run.Unproven {
		return a, err
	}
	return a, b.world.note(ctx, "show %s", a.ID)
}

func (b *public) Publish(ctx context.Context, run *builders.Run, a *builders.Artifact) (*builders.Artifact, error) {
	if run.Unproven {
		b.world.t.Error("it is to be published, and is called unproven")
	}
	return b.shown(ctx, run, a, nil)
}

func (b *builder) Release(ctx context.Context, l builders.Lease) error {
	return b.world.release(ctx, l, "release %s")
}

func (w *world) release(ctx context.Context, l builders.Lease, format string) error {
	if err := w.note(ctx, format, l.Name); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.exists, l.Name)
	return nil
}

func (b *builder) Orphans(ctx context.Context, olderThan time.Duration) ([]builders.Lease, error) {
	return b.world.orphans, b.world.note(ctx, "look older than %s", olderThan)
}

func (w *world) artifact(id string) *builders.Artifact {
	return &builders.Artifact{
		BuilderID: "fake", ID: id, Text: id + " on the shelf", Values: map[string]string{"ID": id},
		Destroy: func(ctx context.Context) error { return w.note(ctx, "destroy %s", id) },
	}
}

// provisioner writes into the diary.
type provisioner struct {
	world *world
	o     struct {
		Say     string `cfg:"say,required"`
		Problem string `cfg:"problem"`
	}
}

func (p *provisioner) Options() any { return &p.o }

func (p *provisioner) Check(context.Context, *provisioners.Env) []config.Problem {
	if p.o.Problem != "" {
		return []config.Problem{{Option: "problem", Summary: p.o.Problem}}
	}
	return nil
}

func (p *provisioner) Provision(ctx context.Context, _ *provisioners.Env, _ machine.Machine) error {
	return p.world.note(ctx, "do %s", p.o.Say)
}

// postProcessor makes a new artifact, or what it is told to.
type postProcessor struct {
	world *world
	o     struct {
		ID   string `cfg:"id,required"`
		Out  string `cfg:"out"` // "", "same", "none"
		Keep bool   `cfg:"keep"`
	}
}

func (p *postProcessor) Options() any { return &p.o }

func (p *postProcessor) Check(context.Context, *postprocessors.Env) []config.Problem { return nil }

func (p *postProcessor) Process(ctx context.Context, _ *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, bool, error) {
	if err := p.world.note(ctx, "make %s of %s", p.o.ID, in.ID); err != nil {
		return nil, false, err
	}
	switch p.o.Out {
	case "same":
		return in, true, nil
	case "none":
		return nil, p.o.Keep, nil
	}
	return p.world.artifact(p.o.ID), p.o.Keep, nil
}

// leaser makes its artifact of two resources: the one stays, the other is only
// there meanwhile, and left for the engine to give back.
type leaser struct{ postProcessor }

func (p *leaser) Process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, bool, error) {
	typ := "lease"
	if strings.HasPrefix(p.o.ID, "bare") {
		typ = "bare"
	}
	guard := map[string]string{builders.UntilRecorded: "yes", builders.Resumable: "no"}
	if err := p.world.create(ctx, env.Leases, env.BakeID, typ, "made", "made-"+p.o.ID, guard); err != nil {
		return nil, false, err
	}
	if guard[builders.Resumable] == "" {
		p.world.t.Error("the ledger changes what it is given")
	}
	if err := p.world.create(ctx, env.Leases, env.BakeID, typ, "temp", "temp-"+p.o.ID, nil); err != nil {
		return nil, false, err
	}
	if n := len(env.Leases.Open()); n != 2 {
		p.world.t.Errorf("a post-processor sees %d leases, and has made 2", n)
	}
	return p.postProcessor.Process(ctx, env, in)
}

func (p *leaser) Release(ctx context.Context, l builders.Lease) error {
	return p.world.release(ctx, l, "give back %s")
}

// bare leases, and cannot give back.
type bare struct{ postprocessors.PostProcessor }
