package bake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/templates"
)

// resumeKey is what the engine adds to a lease that is Resumable: what it needs
// to record the image when the process that baked it is gone.
const resumeKey = "bake"

// resumeData is the value of resumeKey.
type resumeData struct {
	Run         string          `json:"run"`             // of the engine; bakes of one run make one version
	Type        string          `json:"type"`            // of the source as the template has it
	Source      string          `json:"source"`          //
	Specs       json.RawMessage `json:"specs,omitempty"` // the reports so far
	Unproven    int             `json:"unproven"`        // specs that are to be checked after the snapshot
	PostProcess int             `json:"postProcess"`     // chains of post-processors
	Rollout     json.RawMessage `json:"rollout,omitempty"`
}

// runLabel, on an incomplete version, names the run that it is of.
const runLabel = "ingot.run"

// resumeData is what resume will have to know of this bake.
func (o *one) resumeData() (string, error) {
	d := resumeData{
		Run: o.run.id, Type: o.bake.Type, Source: o.bake.Source, PostProcess: len(o.bake.PostProcess), Rollout: o.Rollouts[o.bake.Image],
	}
	if o.brun.Unproven {
		d.Unproven = len(o.bake.Proofs)
	}
	if reports := o.specReports(); len(reports) > 0 {
		var err error
		if d.Specs, err = json.Marshal(reports); err != nil {
			return "", fmt.Errorf("note the reports of the specs in the ledger: %w", err)
		}
	}
	b, err := json.Marshal(d)
	return string(b), err
}

// UnfinishedBake is a bake that died, or gave up waiting, while its image came to be.
type UnfinishedBake struct {
	registry.Bake
	// Builder is the type of the builder that can finish it.
	Builder string
	Leases  []registry.OwnedLease
	// Elsewhere: its process cannot be looked up from here, so that it may be
	// at it still.
	Elsewhere bool
}

// Unfinished are the bakes that Resume can go on with, oldest first.
func Unfinished(ctx context.Context, store registry.Store) ([]UnfinishedBake, error) {
	left, err := Leftovers(ctx, store)
	if err != nil {
		return nil, err
	}
	var all []UnfinishedBake
	for _, l := range left {
		if l.Bake.Outcome != "" {
			continue
		}
		i := slices.IndexFunc(all, func(u UnfinishedBake) bool { return u.ID == l.BakeID })
		if i < 0 {
			i = len(all)
			all = append(all, UnfinishedBake{Bake: l.Bake, Elsewhere: l.Elsewhere})
		}
		if resumable(l.OwnedLease) {
			all[i].Builder = l.Builder
		}
		all[i].Leases = append(all[i].Leases, l.OwnedLease)
	}
	return slices.DeleteFunc(all, func(u UnfinishedBake) bool { return !slices.ContainsFunc(u.Leases, resumable) }), nil
}

func resumable(l registry.OwnedLease) bool { return l.Data[builders.Resumable] != "" }

// ResumeOptions say how Resume works.
type ResumeOptions struct {
	Components Components
	Store      registry.Store
	Events     event.Sink
	Dir        string
	// Elsewhere says that a bake whose process cannot be looked up is dead.
	Elsewhere bool
}

// Resume finishes the image of a bake that was interrupted, gives back what
// else it has, and records the version. With an artifact in the result the
// image is finished, whatever the error says. While the image is neither
// finished nor lost the bake stays in the ledger, and may be resumed again.
func Resume(ctx context.Context, u UnfinishedBake, ro ResumeOptions) (res Result) {
	start := time.Now()
	res.Name = u.Name
	if ro.Events == nil {
		ro.Events = event.Discard
	}
	scope := event.Scope{Sink: ro.Events, Bake: u.Name}
	scope.Emit(event.Event{Kind: event.BakeStarted})
	defer func() {
		res.Elapsed = time.Since(start)
		e := event.Event{Kind: event.BakeEnded, Seconds: res.Elapsed.Seconds()}
		if res.Err != nil {
			e.Error = res.Err.Error()
		}
		if res.Artifact != nil {
			e.Text, e.Data = res.Artifact.Text, res.Artifact
		}
		scope.Emit(e)
	}()
	if u.Elsewhere && !ro.Elsewhere {
		res.Err = fmt.Errorf("the bake began on %s and may be running still: left alone (-elsewhere says that it is dead)", u.Owner.Host)
		return res
	}
	newBuilder, ok := ro.Components.Builders[u.Builder]
	if !ok {
		res.Err = fmt.Errorf("this Ingot has no builder %q to finish the image", u.Builder)
		return res
	}
	builder, ok := newBuilder().(builders.Resumer)
	if !ok {
		res.Err = fmt.Errorf("the builder %q of this Ingot cannot finish images", u.Builder)
		return res
	}
	owner, err := proc.Self()
	if err == nil {
		err = ro.Store.AdoptBake(ctx, u.ID, u.Owner, owner)
	}
	if err != nil {
		res.Err = fmt.Errorf("take the bake over: %w", err)
		return res
	}
	var d resumeData
	l := &ledger{store: ro.Store, bakeID: u.ID, builder: u.Builder, unfinished: true}
	for _, lease := range u.Leases {
		if lease.Builder != u.Builder {
			continue // a post-processor's, which sweep gives back
		}
		l.leases = append(l.leases, lease.Lease)
		if s := lease.Data[resumeKey]; s != "" {
			if err := json.Unmarshal([]byte(s), &d); err != nil {
				res.Err = fmt.Errorf("read the ledger's note on %s %s: %w", lease.Kind, lease.Name, err)
				return res
			}
			l.resume = s
		}
	}
	o := &one{
		run:  &run{Options: Options{Components: ro.Components, Store: ro.Store, Events: ro.Events, Dir: ro.Dir, Template: u.Template}, owner: owner, id: d.Run},
		bake: &templates.Bake{Name: u.Name, Type: d.Type, Source: d.Source, Image: u.Image}, builder: builder, ledger: l,
	}
	o.brun = &builders.Run{
		BakeID: u.ID, Name: u.Name, Type: d.Type, Source: d.Source, Image: u.Image, Dir: ro.Dir, Created: u.Started,
		Leases: l, Values: map[string]string{}, Unproven: d.Unproven > 0,
	}
	res.Artifact, res.Err = o.resume(ctx)
	if res.Artifact != nil {
		version, err := o.record(ctx, res.Artifact, d)
		if err != nil {
			res.Err = errors.Join(res.Err, fmt.Errorf("the image is finished (%s) but could not be recorded: %w", res.Artifact.Text, err))
			return res // what guards the image stays: it can be resumed again
		}
		if version.Number > 0 {
			res.Version = version.Ref().String()
			res.Artifact.Text = res.Version + ": " + res.Artifact.Text
		}
		if err := l.settle(context.WithoutCancel(ctx)); err != nil {
			scope.Warn(err.Error())
		}
		if d.Unproven > 0 {
			text := fmt.Sprintf("%d specs were to be checked on a machine booted from the image, and were not: the version is recorded as incomplete", d.Unproven)
			if _, ok := builder.(builders.Publisher); ok {
				text += ", and the image is shown to nobody (no sharing, no parameter that points to it)"
			}
			scope.Warn(text)
		}
		if d.PostProcess > 0 {
			scope.Warn("the post-processors of the template were not run: they need the template")
		}
	}
	if len(l.Open()) == 0 {
		outcome := "success"
		if res.Artifact == nil {
			outcome = "failed"
		}
		if err := ro.Store.EndBake(context.WithoutCancel(ctx), u.ID, outcome); err != nil {
			scope.Warn(fmt.Sprintf("note the end of this bake in the ledger: %v", err))
		}
	}
	return res
}

// resume finishes the image and gives everything else back.
func (o *one) resume(ctx context.Context) (a *builders.Artifact, err error) {
	err = o.step(ctx, "resume", func(ctx context.Context, s event.Scope) error {
		o.brun.Events = s
		a, err = o.builder.(builders.Resumer).Resume(ctx, o.brun, o.ledger.Open())
		return err
	})
	err = cause(ctx, err)
	switch {
	case err == nil:
		o.ledger.unfinished, o.ledger.finished = false, true
	case errors.Is(err, builders.ErrImageLost):
		o.ledger.unfinished = false
	}
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return a, errors.Join(err, o.release(cctx))
}

// record makes a version of the image, and of what the other bakes of its run
// have made, where they were recorded without it.
func (o *one) record(ctx context.Context, a *builders.Artifact, d resumeData) (registry.Version, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	v := registry.NewVersion{
		Image: o.bake.Image, Template: o.Template, Status: registry.StatusReady, Artifacts: o.artifactsOf(a), Rollout: d.Rollout, SpecSummary: d.Specs,
	}
	if len(v.Artifacts) == 0 {
		return registry.Version{}, nil
	}
	if d.Unproven > 0 {
		v.Status = registry.StatusIncomplete
	}
	before, err := o.Store.Versions(ctx, v.Image)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return registry.Version{}, err
	}
	for _, b := range before {
		if slices.ContainsFunc(b.Artifacts, func(x registry.Artifact) bool { return x.BakeID == o.ledger.bakeID }) {
			return b, nil // it died after recording
		}
	}
	for _, b := range slices.Backward(before) {
		if d.Run != "" && b.Labels[runLabel] == d.Run && b.Status == registry.StatusIncomplete {
			v.Artifacts = append(slices.Clone(b.Artifacts), v.Artifacts...)
			if v.SpecSummary, err = joinSpecs(b.SpecSummary, v.SpecSummary); err != nil {
				return registry.Version{}, err
			}
			// Others of the run may be unfinished still.
			v.Labels = b.Labels
			open, err := Unfinished(ctx, o.Store)
			if err != nil {
				return registry.Version{}, err
			}
			if slices.ContainsFunc(open, func(u UnfinishedBake) bool { return u.ID != o.ledger.bakeID && u.run() == d.Run && u.Image == v.Image }) {
				v.Status = registry.StatusIncomplete
			} else if v.Status == registry.StatusReady {
				v.Labels = nil
			}
			break
		}
	}
	return o.Store.Record(ctx, v)
}

// run is the engine's run that the bake was of.
func (u UnfinishedBake) run() string {
	for _, l := range u.Leases {
		var d resumeData
		if s := l.Data[resumeKey]; s != "" && json.Unmarshal([]byte(s), &d) == nil {
			return d.Run
		}
	}
	return ""
}

// joinSpecs joins two lists of reports.
func joinSpecs(a, b json.RawMessage) (json.RawMessage, error) {
	var all []json.RawMessage
	for _, list := range []json.RawMessage{a, b} {
		var some []json.RawMessage
		if len(list) == 0 {
			continue
		}
		if err := json.Unmarshal(list, &some); err != nil {
			return nil, fmt.Errorf("join the reports of the specs: %w", err)
		}
		all = append(all, some...)
	}
	if all == nil {
		return nil, nil
	}
	return json.Marshal(all)
}
