// Package bake is the engine: it runs a Plan. Each bake goes its own way, side
// by side with the others: boot, provision and prove, snapshot, release,
// record, post-process. Whatever it creates for the time being stands in the
// ledger first, so that Sweep can give it back when this process is gone.
package bake

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/postprocessors"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/specs"
	"github.com/ingotbuild/ingot/templates"
)

// Components is the table of everything built in, by type name.
type Components struct {
	Builders       map[string]func() builders.Builder
	Provisioners   map[string]func() provisioners.Provisioner
	PostProcessors map[string]func() postprocessors.PostProcessor
}

// OnError says what happens to the machine when a step fails.
type OnError string

// The values are Packer's.
const (
	OnErrorCleanup        OnError = "cleanup"                 // give everything back
	OnErrorAbort          OnError = "abort"                   // leave everything for a look
	OnErrorAsk            OnError = "ask"                     // ask the user
	OnErrorRunProvisioner OnError = "run-cleanup-provisioner" // run it, leave the rest
)

// Choice is the answer to OnErrorAsk.
type Choice int

// What a user may choose when a step has failed.
const (
	ChooseCleanup Choice = iota
	ChooseAbort
	ChooseRetry
)

// Options say how a plan is run.
type Options struct {
	Components Components
	Store      registry.Store
	Events     event.Sink
	OnError    OnError
	// Ask is called for OnErrorAsk, one bake at a time. Nil: clean up.
	Ask func(ctx context.Context, bake, step string, err error) Choice
	// Parallel bounds how many bakes run at once; 0: no bound.
	Parallel int
	Force    bool
	Debug    bool
	// CheckIdempotent runs each provisioner that can tell whether it changed
	// anything a second time; the step fails when it did.
	CheckIdempotent bool
	// Refused are bakes of the plan that are not to begin, and why; see Check.
	Refused map[*templates.Bake]error
	// Dir is the working directory, Template the path as the user gave it.
	Dir, Template string
	// Epoch clamps file times in images.
	Epoch time.Time
	// Rollouts are the services' configurations by image, recorded with it.
	Rollouts map[string]json.RawMessage
}

// Result is what one bake came to.
type Result struct {
	Name string
	// Artifact is nil when the bake failed before its image was finished.
	Artifact *builders.Artifact
	// Version is the version recorded, as "web@v3"; empty when none was.
	Version string
	// Err is why the bake failed. With an Artifact the image is finished, and
	// what failed came after: giving things back, recording, a post-processor.
	Err     error
	Elapsed time.Duration
	// Specs are the reports of the specs that ran, in the template's order, also
	// when the bake failed; of a spec that ran several times the last.
	Specs []*specs.Report
}

// cleanupTime bounds giving back what a failed or cancelled bake had.
const cleanupTime = 10 * time.Minute

// recordTime bounds entering an image into the registry.
const recordTime = time.Minute

// Run runs every bake of the plan and returns one result for each, in the
// plan's order. A cancelled ctx ends the bakes and gives back what they have.
// The error is for what concerns all of them; a failed bake is in its result.
func Run(ctx context.Context, plan *templates.Plan, o Options) ([]Result, error) {
	if o.Events == nil {
		o.Events = event.Discard
	}
	owner, err := proc.Self()
	if err != nil {
		return nil, fmt.Errorf("say in the ledger who bakes: %w", err)
	}
	r := &run{Options: o, owner: owner, id: randomID(16), lines: map[string]*line{}}
	for _, b := range plan.Bakes {
		l := r.lines[b.Image]
		if l == nil {
			l = &line{image: b.Image, run: r, recorded: make(chan struct{})}
			r.lines[b.Image] = l
		}
		l.waiting++
	}
	return r.inOrder(ctx, plan.Bakes), nil
}

type run struct {
	Options
	owner proc.Owner
	id    string // PACKER_RUN_UUID
	lines map[string]*line
	askMu sync.Mutex
	// ended has the *Result of each *templates.Bake that has ended.
	ended sync.Map
}

// line collects the artifacts of one image line: they become one version when
// the last of its bakes has ended.
type line struct {
	image string
	run   *run

	mu        sync.Mutex
	waiting   int
	failed    bool
	artifacts []registry.Artifact
	specs     []*specs.Report
	facts     registry.Facts
	recorded  chan struct{}
	version   registry.Version
	err       error
}

// done hands in a bake's artifact, or nil when it failed, and records the
// version if this was the last.
func (l *line) done(ctx context.Context, o *one, a *builders.Artifact) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
	if a == nil {
		l.failed = true
	} else {
		l.specs = append(l.specs, o.specReports()...)
		if o.facts != nil {
			if l.facts == nil {
				l.facts = registry.Facts{}
			}
			l.facts[o.bake.Name] = o.facts
		}
		l.artifacts = append(l.artifacts, o.artifactsOf(a)...)
	}
	if l.waiting > 0 {
		return
	}
	defer close(l.recorded)
	if len(l.artifacts) == 0 {
		return
	}
	v := registry.NewVersion{
		Image: l.image, Template: l.run.Template, Status: registry.StatusReady, Artifacts: l.artifacts,
		Rollout: l.run.Rollouts[l.image], Facts: l.facts,
	}
	if l.failed {
		v.Status = registry.StatusIncomplete
		v.Labels = map[string]string{runLabel: l.run.id}
	}
	if len(l.specs) > 0 {
		v.SpecSummary, l.err = json.Marshal(l.specs)
		if l.err != nil {
			return
		}
	}
	// What is finished is recorded even when the user has given up meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	l.version, l.err = l.run.Store.Record(ctx, v)
}

// artifactsOf are the entries of a bake's artifact in the registry.
func (o *one) artifactsOf(a *builders.Artifact) (all []registry.Artifact) {
	for _, p := range a.Places {
		all = append(all, registry.Artifact{
			Platform: p.Platform, Region: p.Region, ExternalID: p.ID, Digest: p.Digest, Location: p.Location,
			BuilderID: a.BuilderID, BakeID: o.ledger.bakeID, Source: o.bake.Type + "." + o.bake.Source,
		})
	}
	return all
}

// randomID is n lower-case hexadecimal digits.
func randomID(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)[:n]
}

// errCancelled is the cause that a bake reports when the user has stopped it.
var errCancelled = errors.New("cancelled")

// cause makes errCancelled of whatever a step says when ctx ends under it.
func cause(ctx context.Context, err error) error {
	switch {
	case ctx.Err() == nil || errors.Is(err, errCancelled):
		return err
	case errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)):
		return errCancelled
	}
	return fmt.Errorf("%w: %w", errCancelled, err)
}
