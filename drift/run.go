package drift

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty/function"
	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/specs"
)

// DefaultParallel is how many machines are looked at at once, DefaultTimeout
// how long one of them may take for everything.
const (
	DefaultParallel = 32
	DefaultTimeout  = 5 * time.Minute
)

// Image is a version that machines were made from.
type Image struct {
	// Ref is its number, such as "web@v3".
	Ref   string
	Facts *Facts
}

// Options say how Run works.
type Options struct {
	Hosts []*Host
	// Open connects to a target. close gives back what that took.
	Open func(ctx context.Context, target string) (m machine.Machine, close func() error, err error)
	// Image looks up a version with its facts; see Host.
	Image func(ctx context.Context, ref, source string) (*Image, error)
	// Functions are those that recorded specs may use.
	Functions map[string]function.Function
	// Parallel and Timeout default to DefaultParallel and DefaultTimeout.
	Parallel int
	Timeout  time.Duration
	// Now is what waivers are held against; zero is the time of the run.
	Now time.Time
}

// Result is what was found on one machine.
type Result struct {
	Host *Host
	// Image is the version it was compared with, by number; empty: with none.
	Image    string
	Compared *Compared
	// Reports are that of the comparison, then those of the specs.
	Reports []*specs.Report
	// Err says why the machine could not be asked, or not everything.
	Err     error
	Elapsed time.Duration
}

// Verdict is Fail for drift or a red spec, Error where that is not known, and
// Pass else.
func (r *Result) Verdict() specs.Status {
	v := specs.Pass
	if r.Err != nil {
		v = specs.Error
	}
	for _, rep := range r.Reports {
		switch rep.Verdict() {
		case specs.Fail:
			return specs.Fail
		case specs.Error:
			v = specs.Error
		}
	}
	return v
}

// Run looks at all machines side by side and returns one result for each, in
// their order. A machine that cannot be looked at does not stop the others.
func Run(ctx context.Context, o Options) []Result {
	if o.Parallel < 1 {
		o.Parallel = DefaultParallel
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	images := map[[2]string]func() (*Image, error){}
	for _, h := range o.Hosts {
		key := [2]string{h.Image, h.Source}
		if h.Image != "" && images[key] == nil {
			img, err := o.Image(ctx, h.Image, h.Source)
			images[key] = func() (*Image, error) { return img, err }
		}
	}
	results := make([]Result, len(o.Hosts))
	var g errgroup.Group
	g.SetLimit(o.Parallel)
	for i, h := range o.Hosts {
		g.Go(func() error {
			start := time.Now()
			results[i] = o.look(ctx, h, images[[2]string{h.Image, h.Source}])
			results[i].Elapsed = time.Since(start)
			return nil
		})
	}
	_ = g.Wait() // what failed stands in the results
	return results
}

// look looks at one machine.
func (o *Options) look(ctx context.Context, h *Host, image func() (*Image, error)) (r Result) {
	r.Host = h
	var problems []error
	defer func() { r.Err = errors.Join(problems...) }()
	over := fmt.Errorf("it took longer than %s", o.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, over)
	defer cancel()
	add := func(err error) {
		if err != nil && context.Cause(ctx) == over && !errors.Is(err, over) {
			err = fmt.Errorf("%w: %w", over, err)
		}
		if err != nil {
			problems = append(problems, err)
		}
	}

	all := h.Specs
	var img *Image
	if image != nil {
		var err error
		if img, err = image(); err != nil {
			add(err)
		} else {
			r.Image = img.Ref
			recorded, err := img.specs(o.Functions)
			add(err)
			all = append(recorded, all...)
		}
	}
	if err := ctx.Err(); err != nil {
		add(err)
		return r
	}
	m, closeMachine, err := o.Open(ctx, h.Target)
	if err != nil {
		add(fmt.Errorf("reach %s: %w", h.Target, err))
		return r
	}
	defer func() {
		if err := closeMachine(); err != nil {
			add(fmt.Errorf("let go of %s: %w", h.Target, err))
		}
	}()
	if img != nil {
		start := time.Now()
		f, err := Gather(ctx, m, img.Facts.Booted, false)
		if err == nil {
			r.Compared, err = Compare(img.Facts, f, h.Rules)
		}
		if err != nil {
			add(err)
		} else {
			rep := h.report(img, r.Compared, o.Now)
			rep.Seconds, rep.RoundTrips = time.Since(start).Seconds(), 1
			r.Reports = append(r.Reports, rep)
		}
	}
	for _, s := range all {
		rep, err := s.Run(ctx, m, specs.RunOptions{Now: o.Now})
		r.Reports = append(r.Reports, rep)
		add(err)
	}
	return r
}

// specs compiles those that held after a clean boot of the image.
func (img *Image) specs(functions map[string]function.Function) ([]*specs.Spec, error) {
	var out []*specs.Spec
	var errs []error
	for _, rec := range img.Facts.Specs {
		if rec == nil {
			continue
		}
		s, diags := rec.Compile(img.Ref, functions)
		if diags.HasErrors() {
			errs = append(errs, fmt.Errorf("the spec %q that is recorded with %s cannot be checked again: %w", rec.Name, img.Ref, diags))
			continue
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

// report says in results what a comparison came to.
func (h *Host) report(img *Image, c *Compared, now time.Time) *specs.Report {
	rep := &specs.Report{Schema: specs.Schema, Spec: "drift from " + img.Ref, Results: []specs.Result{}}
	result := func(kind, name, property string, status specs.Status) *specs.Result {
		rep.Results = append(rep.Results, specs.Result{
			Resource: kind, Subject: specs.Clean(name), Property: property, Status: status,
			File: h.Range.Filename, Line: h.Range.Start.Line, Tries: 1,
		})
		return &rep.Results[len(rep.Results)-1]
	}
	for _, x := range c.Changes {
		r := result(x.Kind, x.Name, x.Property, specs.Fail)
		what := strings.ReplaceAll(x.Property, "_", " ")
		switch {
		case x.Want == "":
			r.Expect, r.Actual = "should not "+presence(x.Property)+", as in "+img.Ref, x.Have
		case x.Have == "":
			r.Expect, r.Actual = "should "+presence(x.Property)+", as in "+img.Ref+": "+x.Want, "it is not there"
		default:
			r.Expect, r.Actual = fmt.Sprintf("should have the %s of %s: %s", what, img.Ref, x.Want), x.Have
		}
		r.Expect, r.Actual = specs.Clean(r.Expect), specs.Clean(r.Actual)
		for _, w := range h.Waivers {
			if !w.covers(x) {
				continue
			}
			if now.Before(w.End) {
				r.Status, r.Message = specs.Waived, specs.Clean("waived until "+w.Until+": "+w.Reason)
				break
			}
			r.Message = specs.Clean("its waiver ended on " + w.Until + ": " + w.Reason)
		}
	}
	for _, g := range c.Gaps {
		status := specs.Skip
		if g.Unknown {
			status = specs.Error
		}
		r := result("drift", g.Section, "compared", status)
		r.Expect, r.Message = "should be as in "+img.Ref, specs.Clean(g.Why)
	}
	for _, s := range c.Same {
		r := result("drift", s, "compared", specs.Pass)
		r.Expect = "should be as in " + img.Ref
	}
	return rep
}

// presence is the half sentence of a property that is there or not.
func presence(property string) string {
	switch property {
	case "be_installed", "be_enabled", "be_listening", "be_running":
		return strings.ReplaceAll(property, "_", " ")
	case "exist":
		return "exist"
	}
	return "have " + strings.ReplaceAll(property, "_", " ")
}
