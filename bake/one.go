package bake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/drift"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/postprocessors"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/specs"
	"github.com/ingotbuild/ingot/templates"
)

// one is one bake under way.
type one struct {
	*run
	bake    *templates.Bake
	builder builders.Builder
	brun    *builders.Run
	ledger  *ledger
	machine machine.Machine // nil when nothing has been booted, or there is none to connect to
	booted  bool
	reports map[*templates.Step]*specs.Report // of each spec's last try
	facts   map[string][]byte                 // of the image, in parts
}

func (r *run) bake(ctx context.Context, b *templates.Bake, freeSlot func()) Result {
	start := time.Now()
	o := &one{run: r, bake: b, reports: map[*templates.Step]*specs.Report{}}
	scope := event.Scope{Sink: r.Events, Bake: b.Name}
	scope.Emit(event.Event{Kind: event.BakeStarted})
	res := Result{Name: b.Name}
	a, err := o.image(ctx)
	res.Artifact = a
	l := r.lines[b.Image]
	l.done(ctx, o, a)
	freeSlot() // the others may start; what is left needs no machine
	if a != nil {
		<-l.recorded
		if l.err != nil {
			err = errors.Join(err, fmt.Errorf("the image is finished (%s) but could not be recorded: %w", a.Text, l.err))
		} else if l.version.Number > 0 {
			res.Version = l.version.Ref().String()
			a.Text = res.Version + ": " + a.Text
		}
		switch e := o.ledger.settle(context.WithoutCancel(ctx)); {
		case e != nil && l.err != nil:
			err = errors.Join(err, fmt.Errorf("%w: the ledger takes the image for unfinished, and the next `ingot sweep` removes it; copy it first", e))
		case e != nil:
			scope.Warn(e.Error()) // sweep finds the image in the registry and lets it be
		}
		if e := o.postProcess(ctx, a); e != nil {
			err = errors.Join(err, e)
		}
	}
	res.Elapsed = time.Since(start)
	res.Err = err
	res.Specs = o.specReports()
	outcome := "success"
	switch {
	case errors.Is(err, errCancelled):
		outcome = "cancelled"
	case err != nil:
		outcome = "failed"
	}
	if o.ledger != nil && !o.ledger.kept {
		if e := r.Store.EndBake(context.WithoutCancel(ctx), o.ledger.bakeID, outcome); e != nil {
			scope.Warn(fmt.Sprintf("note the end of this bake in the ledger: %v", e))
		}
	}
	ended := event.Event{Kind: event.BakeEnded, Seconds: res.Elapsed.Seconds()}
	if err != nil {
		ended.Error = err.Error()
	}
	if a != nil {
		ended.Text = a.Text
		ended.Data = a
	}
	scope.Emit(ended)
	return res
}

// image runs the bake up to the finished image and gives everything temporary back.
func (o *one) image(ctx context.Context) (_ *builders.Artifact, err error) {
	if ctx.Err() != nil {
		return nil, errCancelled // it waited for its turn in vain
	}
	b := o.bake
	id := randomID(20)
	if err := o.Store.BeginBake(context.WithoutCancel(ctx), registry.Bake{
		ID: id, Name: b.Name, Image: b.Image, Template: o.Template, Owner: o.owner,
	}); err != nil {
		return nil, fmt.Errorf("note the bake in the ledger: %w", err)
	}
	o.ledger = &ledger{store: o.Store, bakeID: id, builder: b.Component.Type}
	o.brun = &builders.Run{
		BakeID: id, Name: b.Name, Type: b.Component.Type, Source: b.Source, Image: b.Image, Dir: o.Dir, Force: o.Force,
		Created: time.Now(), SourceDateEpoch: o.Epoch, Leases: o.ledger, Events: o.scope(""), Values: map[string]string{},
		Unproven: len(b.Proofs) > 0,
	}
	newBuilder, ok := o.Components.Builders[b.Component.Type]
	if !ok {
		return nil, fmt.Errorf("there is no builder %q", b.Component.Type)
	}
	o.builder = newBuilder()
	if err := o.checkNeedy(ctx, b); err != nil {
		return nil, err
	}
	if d := b.Component.Decode(o.builder.Options(), o.artifacts(b)); d.HasErrors() {
		return nil, d
	}

	// A builder is released on every way out, with a context of its own: the
	// user's has ended when the user wants everything gone.
	leave := false
	defer func() {
		if leave {
			return
		}
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if e := o.release(cctx); e != nil {
			err = errors.Join(err, e)
		}
	}()

	if err := o.step(ctx, "boot", func(ctx context.Context, s event.Scope) error {
		o.brun.Events = s
		o.machine, err = o.builder.Boot(ctx, o.brun)
		return err
	}); err != nil {
		err = cause(ctx, err)
		leave = o.failed(ctx)
		return nil, err
	}
	o.booted = true
	if o.machine != nil {
		defer o.machine.Close()
	}

	if o.CheckIdempotent {
		if names := o.cannotRunAgain(); len(names) > 0 {
			o.scope("").Warn("not checked for idempotence, since they cannot tell whether they change anything: " + strings.Join(names, ", "))
		}
	}
	if leave, err = o.steps(ctx, b.Steps); err != nil {
		return nil, err
	}

	if b.Facts && len(b.Proofs) == 0 {
		if err := o.gather(ctx, false); err != nil {
			return nil, err
		}
	}
	var a *builders.Artifact
	if o.ledger.resume, err = o.resumeData(); err != nil {
		return nil, err
	}
	if a, leave, err = o.making(ctx, "snapshot", func(ctx context.Context) (*builders.Artifact, error) {
		return o.builder.Snapshot(ctx, o.brun)
	}); err != nil {
		return nil, err
	}
	if len(b.Proofs) > 0 {
		m, err := o.bootProof(ctx, a)
		if err == nil {
			defer m.Close()
			leave, err = o.steps(ctx, b.Proofs)
			if err == nil && b.Facts {
				err = o.gather(ctx, true)
			}
		} else {
			leave = o.failed(ctx)
		}
		made := a
		if err == nil {
			a, leave, err = o.publish(ctx, made)
		}
		if err != nil {
			if leave {
				o.scope("").Warn(fmt.Sprintf("the image is left too, and not in the registry: %s", made.Text))
			}
			return nil, err
		}
	}
	o.ledger.finished = true
	return a, nil
}

// making runs a step that makes the image what it is to be. On failure it says
// whether everything is to be left as it is.
func (o *one) making(ctx context.Context, name string, f func(context.Context) (*builders.Artifact, error)) (a *builders.Artifact, leave bool, err error) {
	err = o.step(ctx, name, func(ctx context.Context, s event.Scope) (err error) {
		o.brun.Events = s
		a, err = f(ctx)
		return err
	})
	switch {
	case err == nil:
		return a, false, nil
	case ctx.Err() == nil && errors.Is(err, builders.ErrUnfinished):
		o.ledger.unfinished, o.ledger.kept = true, true
		return nil, false, fmt.Errorf("%w; `ingot resume %s` finishes it, `ingot sweep -unfinished` gives it up", err, o.ledger.bakeID)
	}
	err = cause(ctx, err)
	return nil, o.failed(ctx), err
}

// publish lets others see the image, now that it is proven.
func (o *one) publish(ctx context.Context, a *builders.Artifact) (_ *builders.Artifact, leave bool, err error) {
	p, ok := o.builder.(builders.Publisher)
	if !ok {
		return a, false, nil
	}
	return o.making(ctx, "publish", func(ctx context.Context) (*builders.Artifact, error) {
		o.brun.Unproven = false
		// From here on, a resume goes on with an image that is proven.
		d, err := o.resumeData()
		if err == nil {
			err = o.ledger.renew(ctx, d)
		}
		if err != nil {
			o.brun.Events.Warn(fmt.Sprintf("note in the ledger that the specs after the snapshot have passed: %v", err))
		}
		return p.Publish(ctx, o.brun, a)
	})
}

// steps runs provisioners and specs one after another. On failure it says
// whether everything is to be left as it is.
func (o *one) steps(ctx context.Context, steps []*templates.Step) (leave bool, err error) {
	for _, st := range steps {
		for {
			err := o.runStep(ctx, st)
			if err == nil {
				break
			}
			err = cause(ctx, err)
			if st.ContinueOnError && ctx.Err() == nil {
				o.scope(stepName(st)).Warn(fmt.Sprintf("failed, and the template says to go on: %v", err))
				break
			}
			if o.OnError == OnErrorAsk && o.Ask != nil && ctx.Err() == nil {
				o.askMu.Lock()
				c := o.Ask(ctx, o.bake.Name, stepName(st), err)
				o.askMu.Unlock()
				switch c {
				case ChooseRetry:
					continue
				case ChooseAbort:
					return o.leaveBehind(), err
				}
			}
			return o.failed(ctx), err
		}
	}
	return false, nil
}

// gather finds out what the machine is, for `ingot drift`. Where that cannot be
// found out the image is as good as before: it is recorded without. The error
// is for a bake that has been cancelled.
func (o *one) gather(ctx context.Context, booted bool) error {
	if o.machine == nil {
		o.scope("").Warn("no facts are recorded with the image: this source has no machine to connect to")
		return nil
	}
	err := o.step(ctx, "facts", func(ctx context.Context, s event.Scope) error {
		f, err := drift.Gather(ctx, o.machine, booted, booted)
		if err != nil {
			return err
		}
		for _, st := range o.bake.Proofs {
			rec, err := specs.Record(st.Component.Body, specContext(st, o.extra(o.brun.Values)), st.Name)
			if err != nil {
				s.Warn(fmt.Sprintf("spec %q is not recorded with the image, so that `ingot drift` cannot check it again: %v", st.Name, err))
				continue
			}
			if rec.Left > 0 {
				s.Warn(fmt.Sprintf("of spec %q %d values are sensitive and not recorded: `ingot drift` does not check them", st.Name, rec.Left))
			}
			f.Specs = append(f.Specs, rec)
		}
		if o.facts, err = f.Encode(); err != nil {
			return err
		}
		for section, why := range f.Unknown {
			if booted || section != drift.SectionServices && section != drift.SectionPorts && section != drift.SectionKernel {
				s.Warn(fmt.Sprintf("not among the facts: %s: %s", section, why))
			}
		}
		s.Say("facts: " + f.Summary())
		return nil
	})
	if ctx.Err() != nil {
		return cause(ctx, errors.Join(err, ctx.Err()))
	}
	if err != nil {
		o.scope("").Warn(fmt.Sprintf("no facts are recorded with the image, so that `ingot drift` cannot compare machines with it: %v", err))
	}
	return nil
}

// bootProof boots a machine from the finished image. From then on it is the
// one that steps run on.
func (o *one) bootProof(ctx context.Context, a *builders.Artifact) (machine.Machine, error) {
	o.machine, o.booted = nil, false // the other one has been stopped
	err := o.step(ctx, "boot image", func(ctx context.Context, s event.Scope) (err error) {
		p, ok := o.builder.(builders.Proofer)
		if !ok {
			return fmt.Errorf("a %s source cannot boot the image that it has made", o.bake.Type)
		}
		o.brun.Events = s
		o.machine, err = p.BootProof(ctx, o.brun, a)
		return err
	})
	if err != nil {
		return nil, cause(ctx, err)
	}
	o.booted = true
	return o.machine, nil
}

// failed does what the template and -on-error want after a failed step, and
// says whether everything is to be left as it is.
func (o *one) failed(ctx context.Context) (leave bool) {
	if ctx.Err() != nil {
		return false // whoever cancels wants everything gone
	}
	if c := o.bake.ErrorCleanup; c != nil && o.OnError != OnErrorAbort && o.booted {
		if e := o.runStep(ctx, c); e != nil {
			o.scope(stepName(c)).Warn(fmt.Sprintf("error-cleanup-provisioner: %v", e))
		}
	}
	if o.OnError == OnErrorAbort || o.OnError == OnErrorRunProvisioner {
		return o.leaveBehind()
	}
	return false
}

func (o *one) leaveBehind() bool {
	o.ledger.kept = true
	for _, l := range o.ledger.Open() {
		name := l.Name
		if l.ExternalID != "" {
			name += " (" + l.ExternalID + ")"
		}
		o.scope("").Warn(fmt.Sprintf("left for a look: %s %s; `ingot sweep` gives it back", l.Kind, name))
	}
	return true
}

// release gives back what the builder has leased.
func (o *one) release(ctx context.Context) error { return o.giveBack(ctx, o.ledger, o.builder) }

// giveBack releases every lease of g that is still open, newest first.
func (o *one) giveBack(ctx context.Context, g *ledger, by postprocessors.Releaser) error {
	open := g.Open()
	if len(open) == 0 {
		return nil
	}
	return o.step(ctx, "release", func(ctx context.Context, s event.Scope) error {
		var errs []error
		for i := len(open) - 1; i >= 0; i-- {
			l := open[i]
			if l.Data[builders.UntilRecorded] != "" && g.finished || l.Data[builders.Resumable] != "" && g.unfinished {
				continue
			}
			if err := by.Release(ctx, l); err != nil {
				errs = append(errs, fmt.Errorf("give back %s %s: %w; it stays in the ledger, `ingot sweep` tries again", l.Kind, l.Name, err))
				continue
			}
			if err := g.Released(ctx, l); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

func (o *one) scope(step string) event.Scope {
	return event.Scope{Sink: o.Events, Bake: o.bake.Name, Step: step}
}

// step runs f framed by events, unless ctx has ended before it began.
func (o *one) step(ctx context.Context, name string, f func(context.Context, event.Scope) error) error {
	if ctx.Err() != nil {
		return errCancelled
	}
	s := o.scope(name)
	start := time.Now()
	s.Emit(event.Event{Kind: event.StepStarted})
	err := f(ctx, s)
	e := event.Event{Kind: event.StepEnded, Seconds: time.Since(start).Seconds()}
	if err != nil {
		e.Error = cause(ctx, err).Error()
	}
	s.Emit(e)
	return err
}

func stepName(s *templates.Step) string {
	name := s.Component.Type
	switch s.Kind {
	case templates.Spec:
		name = "spec"
	}
	if s.Name != "" {
		name += " " + s.Name
	}
	if s.After != nil {
		name += " after snapshot"
	}
	return name
}

// runStep runs a provisioner or a spec with its pause, timeout and retries.
func (o *one) runStep(ctx context.Context, st *templates.Step) error {
	return o.step(ctx, stepName(st), func(ctx context.Context, s event.Scope) error {
		var err error
		for try := 0; try <= st.MaxRetries; try++ {
			if try > 0 {
				s.Warn(fmt.Sprintf("try %d of %d failed: %v; once more", try, st.MaxRetries+1, err))
			}
			if err = o.tryStep(ctx, st, s); err == nil || ctx.Err() != nil {
				break
			}
		}
		if err != nil || !o.runsAgain(st) {
			return err
		}
		return o.again(ctx, st, s)
	})
}

func (o *one) tryStep(ctx context.Context, st *templates.Step, s event.Scope) error {
	if st.PauseBefore > 0 {
		s.Say(fmt.Sprintf("pausing %s before this step", st.PauseBefore))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(st.PauseBefore):
		}
	}
	return within(ctx, st, func(ctx context.Context) error { return o.perform(ctx, st, s) })
}

// within bounds what f does by the step's timeout.
func within(ctx context.Context, st *templates.Step, f func(context.Context) error) error {
	if st.Timeout == 0 {
		return f(ctx)
	}
	over := fmt.Errorf("the step's timeout of %s is over", st.Timeout)
	tctx, cancel := context.WithTimeoutCause(ctx, st.Timeout, over)
	defer cancel()
	err := f(tctx)
	if err != nil && context.Cause(tctx) == over && !errors.Is(err, over) {
		// A step that was stopped says so in its own words, if at all.
		err = fmt.Errorf("%w: %w", over, err)
	}
	return err
}

// perform runs a provisioner or a spec once.
func (o *one) perform(ctx context.Context, st *templates.Step, s event.Scope) error {
	if st.Kind == templates.Spec {
		return o.runSpec(ctx, st, s)
	}
	p, err := o.provision(ctx, st, s)
	if o.brun.SkipMachine && errors.Is(err, machine.ErrNone) {
		s.Warn(fmt.Sprintf("skipped: %v", err))
		return nil
	}
	if err != nil {
		return err
	}
	return o.prove(ctx, st, p, s)
}

func (o *one) provision(ctx context.Context, st *templates.Step, s event.Scope) (provisioners.Provisioner, error) {
	newP, ok := o.Components.Provisioners[st.Component.Type]
	if !ok {
		return nil, fmt.Errorf("there is no provisioner %q", st.Component.Type)
	}
	p := newP()
	if d := st.Component.Decode(p.Options(), o.extra(o.brun.Values)); d.HasErrors() {
		return nil, d
	}
	return p, p.Provision(ctx, o.env(st, s), o.machine)
}

func (o *one) env(st *templates.Step, s event.Scope) *provisioners.Env {
	return &provisioners.Env{
		BakeID: o.brun.BakeID, BuildName: o.bake.Source, BuilderType: o.bake.Type, RunID: o.run.id, Dir: o.Dir,
		Values: o.brun.Values, Debug: o.Debug, Events: s, Template: st.Component.RenderEnv(),
	}
}

func (o *one) runSpec(ctx context.Context, st *templates.Step, s event.Scope) error {
	sp, d := specs.Compile(st.Component.Body, specContext(st, o.extra(o.brun.Values)), st.Name)
	if d.HasErrors() {
		return d
	}
	return o.judge(ctx, st, sp, s)
}

// judge runs a spec and keeps its report as the step's.
func (o *one) judge(ctx context.Context, st *templates.Step, sp *specs.Spec, s event.Scope) error {
	if o.machine == nil {
		return fmt.Errorf("spec %q cannot be checked: this source has no machine to connect to", sp.Name)
	}
	rep, err := sp.Run(ctx, o.machine, specs.RunOptions{Events: s})
	var text strings.Builder
	if werr := rep.WriteText(&text, o.Debug); werr != nil {
		return werr
	}
	for line := range strings.Lines(text.String()) {
		s.Say(strings.TrimRight(line, "\n"))
	}
	if st.After != nil {
		rep.After = "snapshot"
	}
	o.reports[st] = rep // what could not be asked is an error in it
	if err != nil {
		return err
	}
	if !rep.Passed() {
		c := rep.Counts()
		return fmt.Errorf("spec %q is red, so there will be no image: %d of %d checks failed, %d could not be made", sp.Name, c.Failed, len(rep.Results), c.Errors)
	}
	return nil
}

// specReports are the reports of the steps so far, in the template's order.
func (o *one) specReports() (all []*specs.Report) {
	for _, st := range slices.Concat(o.bake.Steps, o.bake.Proofs) {
		if rep := o.reports[st]; rep != nil {
			all = append(all, rep)
		}
	}
	return all
}

// postProcess runs every chain on the finished artifact. A failing chain stops
// neither the others nor costs the image.
func (o *one) postProcess(ctx context.Context, a *builders.Artifact) error {
	var errs []error
	keep := len(o.bake.PostProcess) == 0
	for _, chain := range o.bake.PostProcess {
		cur := a
		for i, st := range chain {
			if ctx.Err() != nil {
				return errors.Join(append(errs, errCancelled)...)
			}
			next, kept, left, err := o.postProcessOne(ctx, st, a, cur)
			if err != nil {
				keep = true // what was finished stays
				errs = append(errs, fmt.Errorf("%s: %w (the image is finished and stays: %s)", stepName(st), errors.Join(err, left), a.Text))
				break
			}
			if left != nil {
				errs = append(errs, fmt.Errorf("%s: %w", stepName(st), left))
			}
			if st.KeepInput != nil && *st.KeepInput {
				kept = true
			}
			switch {
			case next == nil:
				keep = keep || i == 0
			case cur == a:
				keep = keep || kept || next == a
			case !kept && next != cur && cur.Destroy != nil:
				if err := cur.Destroy(ctx); err != nil {
					errs = append(errs, fmt.Errorf("%s: remove its input: %w", stepName(st), err))
				}
			}
			if next == nil {
				break
			}
			cur = next
		}
	}
	if !keep && len(errs) == 0 && a.Destroy != nil {
		// The registry names the image, so what post-processors consume are its
		// exported files only.
		if err := a.Destroy(ctx); err != nil {
			errs = append(errs, fmt.Errorf("remove what the post-processors have replaced: %w", err))
		}
	}
	return errors.Join(errs...)
}

// postProcessOne runs a post-processor on cur, which has come of a, and gives
// back what it has leased, but for what it has finished. left is what could not
// be given back; err, that nothing has come of it.
func (o *one) postProcessOne(ctx context.Context, st *templates.Step, a, cur *builders.Artifact) (next *builders.Artifact, kept bool, left, err error) {
	newP, ok := o.Components.PostProcessors[st.Component.Type]
	if !ok {
		return nil, false, nil, fmt.Errorf("there is no post-processor %q", st.Component.Type)
	}
	p := newP()
	g := &ledger{store: o.Store, bakeID: o.ledger.bakeID, builder: st.Component.Type, final: true}
	err = o.step(ctx, stepName(st), func(ctx context.Context, s event.Scope) error {
		values := map[string]string{"ID": a.ID}
		for k, v := range a.Values {
			values[k] = v
		}
		if d := st.Component.Decode(p.Options(), o.extra(values)); d.HasErrors() {
			return d
		}
		var err error
		next, kept, err = p.Process(ctx, &postprocessors.Env{
			BakeID: o.brun.BakeID, BuildName: o.bake.Source, BuilderType: o.bake.Type, RunID: o.run.id, Dir: o.Dir, Force: o.Force,
			Events: s, Template: st.Component.RenderEnv(), Leases: g,
		}, cur)
		return err
	})
	if err != nil {
		err = cause(ctx, err)
	}
	// As with a builder: the user's context may have ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if g.finished = err == nil; g.finished {
		if e := g.settle(ctx); e != nil {
			kept = true
			left = fmt.Errorf("%w: the ledger takes what it has made for unfinished, and the next `ingot sweep` removes it; copy it first", e)
		}
	}
	by, ok := p.(postprocessors.Releaser)
	if !ok {
		by = noReleaser(st.Component.Type)
	}
	return next, kept, errors.Join(left, o.giveBack(ctx, g, by)), err
}

// noReleaser is a component that cannot release anything.
type noReleaser string

func (n noReleaser) Release(context.Context, builders.Lease) error {
	return fmt.Errorf("the post-processor %q of this Ingot cannot give anything back", string(n))
}

// extra are the variables of a component beyond the template's: build.* with
// what is known by now.
func (o *one) extra(values map[string]string) map[string]cty.Value {
	extra := extraValues(o.bake, values, "")
	return withArtifacts(extra, o.artifacts(o.bake))
}

// buildKeys are the generated values that Packer knows of (build.X).
var buildKeys = []string{
	"ID", "Host", "Port", "User", "Password", "ConnType", "PackerRunUUID", "PackerHTTPIP", "PackerHTTPPort", "PackerHTTPAddr",
	"SSHPublicKey", "SSHPrivateKey", "SSHPrivateKeyFile", "SSHAgentAuth", "WinRMPassword",
}

func extraValues(b *templates.Bake, values map[string]string, unknown string) map[string]cty.Value {
	build := map[string]cty.Value{"name": cty.StringVal(b.BuildName)}
	for _, k := range buildKeys {
		build[k] = cty.StringVal(unknown)
	}
	for k, v := range values {
		build[k] = cty.StringVal(v)
	}
	return map[string]cty.Value{"build": cty.ObjectVal(build)}
}

func specContext(st *templates.Step, extra map[string]cty.Value) *hcl.EvalContext {
	c := st.Component.Context.NewChild()
	c.Variables = extra
	return c
}
