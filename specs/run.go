package specs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/specs/goss"
)

// RunOptions is what a run may be told beyond the spec. The zero value is fine.
type RunOptions struct {
	// Tags, when there are any, leaves only checks that have one of them.
	// SkipTags leaves out checks that have one of them.
	Tags, SkipTags []string
	// MaxOutput is how many bytes the machine may print in one round trip;
	// 0 is 8 MiB.
	MaxOutput int64
	// Events receives a SpecResult for each check once its verdict stands.
	Events event.Scope
	// Address is how this host reaches the machine, for what is asked from
	// outside; empty: as the machine says itself (see machine.Addressed).
	Address string
	// Now is what waivers are held against; zero is the time of the run.
	Now time.Time
}

const defaultMaxOutput = 8 << 20

// Run makes the checks on a machine. The error says that they could not be
// made, or not all of them: the report, which is always there, then has an
// error for each check without an answer. Failing checks are no error.
func (s *Spec) Run(ctx context.Context, m machine.Machine, opt RunOptions) (*Report, error) {
	start := time.Now()
	if opt.Now.IsZero() {
		opt.Now = start
	}
	report := &Report{Schema: Schema, Spec: s.Name, Title: s.Title, Started: start.UTC(), Results: make([]Result, len(s.Checks))}
	var due []int
	for i, c := range s.Checks {
		report.Results[i] = Result{
			Resource: c.Resource, Subject: c.Subject, Title: c.Title, Property: c.Property, Expect: c.Expect,
			Tags: c.Tags, File: c.Range.Filename, Line: c.Range.Start.Line,
		}
		why := opt.skip(c.Tags)
		if why == "" {
			why = c.skip
		}
		if c.goss != nil {
			report.Results[i].Goss = c.goss.row()
		}
		if why != "" {
			report.Results[i].Status, report.Results[i].Message = Skip, Clean(why)
		} else {
			due = append(due, i)
		}
	}
	err := s.rounds(ctx, m, opt, report, due, start)
	for i := range report.Results {
		if r := &report.Results[i]; r.Status == "" { // its turn never came
			r.Status, r.Message = Error, Clean(fmt.Sprintf("not asked: %v", err))
		}
	}
	report.Seconds = time.Since(start).Seconds()
	for i := range report.Results {
		opt.Events.Emit(event.Event{Kind: event.SpecResult, Data: report.Results[i]})
	}
	if err != nil {
		err = fmt.Errorf("spec %s: %w", s.Name, err)
	}
	return report, err
}

func (o RunOptions) skip(tags []string) string {
	has := func(t string) bool { return slices.Contains(tags, t) }
	switch {
	case slices.ContainsFunc(o.SkipTags, has):
		return "it has a tag that is left out"
	case len(o.Tags) > 0 && !slices.ContainsFunc(o.Tags, has):
		return "it has none of the tags that are asked for"
	}
	return ""
}

// rounds asks until every check passed or has had its time.
func (s *Spec) rounds(ctx context.Context, m machine.Machine, opt RunOptions, report *Report, due []int, start time.Time) error {
	asked := &conditions{}
	for len(due) > 0 {
		// What a command or a request does is not known, so it is made only where
		// the spec wants it: not before the platform is known.
		var later []int
		if asked.platform == nil {
			due, later = s.split(due)
		}
		retry, err := s.round(ctx, m, opt, report, due, asked)
		if err != nil {
			return err
		}
		var wait time.Duration
		due = nil
		for _, i := range retry {
			c := s.Checks[i]
			if (c.goss == nil || c.goss.retries == 0) && time.Since(start)+c.RetryInterval > c.RetryWithin {
				continue
			}
			if due = append(due, i); wait == 0 || c.RetryInterval < wait {
				wait = c.RetryInterval
			}
		}
		for _, i := range later {
			if asked.apply(s.Checks[i], &report.Results[i]) {
				due, wait = append(due, i), 0
			}
		}
		if len(due) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return nil
}

// split puts off the commands and requests whose turn depends on the platform.
func (s *Spec) split(due []int) (now, later []int) {
	for _, i := range due {
		if c := s.Checks[i]; len(c.when) > 0 && (c.kind == commands || c.kind.outside != nil || c.goss != nil && c.goss.resource.Kind.Key == "command") {
			later = append(later, i)
		} else {
			now = append(now, i)
		}
	}
	return now, later
}

// round makes the due checks once. It gives those that may pass another time.
func (s *Spec) round(ctx context.Context, m machine.Machine, opt RunOptions, report *Report, due []int, asked *conditions) (retry []int, err error) {
	windows := m.Platform().OS == "windows"
	sections, of := s.sections(due, windows)
	probe := -1
	if asked.platform == nil && slices.ContainsFunc(s.Checks, func(c Check) bool { return len(c.when) > 0 }) {
		probe = len(sections)
		timeout := defaultTimeout
		if windows {
			timeout = windowsTimeout
		}
		sections = append(sections, section{kind: platforms, subjects: []string{""}, timeout: timeout})
	}
	limit := opt.MaxOutput
	if limit <= 0 {
		limit = defaultMaxOutput
	}
	known, seconds := make([]facts, len(sections)), make([]float64, len(sections))
	var scripted []section
	var at []int
	for i, sec := range sections {
		if sec.kind.outside == nil {
			scripted, at = append(scripted, sec), append(at, i)
		}
	}
	wait := newOutside(m, opt).start(ctx, sections, known, seconds)
	var answers []answer
	switch {
	case len(scripted) == 0:
	case windows:
		report.RoundTrips++
		answers, err = askWindows(ctx, m, scripted, limit)
	default:
		report.RoundTrips++
		answers, err = ask(ctx, m, scripted, s.Sudo, limit)
	}
	for n, i := range at {
		sec := sections[i]
		known[i], seconds[i] = facts{}, answers[n].seconds
		failure := answers[n].err
		switch {
		case failure != nil:
		case windows:
			known[i], failure = windowsKinds()[sec.kind.name].read(answers[n].records, sec.subjects)
		default:
			known[i], failure = sec.kind.read(answers[n], sec.subjects)
		}
		if failure != nil {
			known[i] = facts{}
			for _, subject := range sec.subjects {
				known[i][subject] = failure
			}
		}
	}
	wait()
	if err == nil {
		err = ctx.Err()
	}
	if probe >= 0 {
		asked.platform = known[probe][""]
	}
	for n, i := range due {
		c, r := s.Checks[i], &report.Results[i]
		if !asked.apply(c, r) {
			continue
		}
		if of[n] < 0 {
			c.verdict(c.misfit(windows), r, opt.Now)
			continue
		}
		r.Tries++
		r.Seconds = seconds[of[n]]
		if c.goss != nil {
			again := c.goss.verdict(known[of[n]][c.key], report.Results, i)
			if c.sensitive {
				c.goss.hide(r)
			}
			if again && r.Tries <= c.goss.retries {
				retry = append(retry, i)
			}
			continue
		}
		again := c.verdict(known[of[n]][c.key], r, opt.Now)
		if again && c.RetryWithin > 0 {
			retry = append(retry, i)
		}
	}
	return s.together(retry, due), err
}

// together adds the other checks of a goss file's resource to those that are
// made again, because a resource passes as a whole or not at all.
func (s *Spec) together(retry, due []int) []int {
	again := map[*goss.Resource]bool{}
	for _, i := range retry {
		if g := s.Checks[i].goss; g != nil {
			again[g.resource] = true
		}
	}
	if len(again) == 0 {
		return retry
	}
	var all []int
	for _, i := range due {
		if g := s.Checks[i].goss; g != nil && again[g.resource] || slices.Contains(retry, i) {
			all = append(all, i)
		}
	}
	return all
}

// sections gathers the facts that checks need: each once, and those of a kind
// in one section where the kind allows it. of says which section has a check's;
// -1 is for one that such a machine cannot answer.
func (s *Spec) sections(due []int, windows bool) (sections []section, of []int) {
	whole := map[*kind]bool{}
	for _, i := range due {
		whole[s.Checks[i].kind] = true
	}
	for _, i := range due {
		c := s.Checks[i]
		if w := c.kind.wider(); windows || whole[w] {
			c.kind = w
		}
		if c.misfit(windows) != nil {
			of = append(of, -1)
			continue
		}
		if windows && !c.timed {
			c.Timeout = windowsTimeout
		}
		n := slices.IndexFunc(sections, func(x section) bool {
			return x.kind.name == c.kind.name && (!x.kind.each || x.subjects[0] == c.key)
		})
		if n < 0 {
			n = len(sections)
			sections = append(sections, section{kind: c.kind})
		}
		x := &sections[n]
		x.timeout = max(x.timeout, c.Timeout)
		if !slices.Contains(x.subjects, c.key) {
			x.subjects = append(x.subjects, c.key)
		}
		of = append(of, n)
	}
	return sections, of
}

// verdict fills in what a fact means for a check, and says whether a later
// try may come to something else.
func (c Check) verdict(fact any, r *Result, now time.Time) (again bool) {
	var ok bool
	var err error
	r.Actual, r.Message = "", ""
	switch f := fact.(type) {
	case nil:
		err = errors.New("the machine gave no answer")
	case error:
		err = f
	default:
		ok, r.Actual, err = c.judge(fact)
	}
	var gone missing
	switch isMissing := errors.As(err, &gone); {
	case isMissing:
		// What is missing is not there, but neither does it have any property.
		ok, r.Actual, err = false, string(gone), nil
		if !c.presence {
			ok = c.Negate
		}
	case err != nil:
		ok, r.Actual, r.Message = false, "", Clean(c.redact(err.Error()))
	}
	r.Actual = c.redact(r.Actual)
	switch {
	case err != nil:
		r.Status = Error
	case ok != c.Negate:
		r.Status = Pass
	default:
		r.Status = Fail
	}
	r.Actual = Clean(r.Actual)
	if c.sensitive {
		r.Actual = hidden
		if r.Message != "" {
			r.Message = "it could not be found out; the reason is not shown, for the value is sensitive"
		}
	}
	if c.waive != nil && r.Status == Fail {
		return c.waive.apply(r, now)
	}
	return r.Status != Pass && !errors.Is(err, errUnsupported)
}

// redact takes out of a text what the check was given as a secret.
func (c Check) redact(s string) string {
	for _, secret := range c.secrets {
		s = strings.ReplaceAll(s, secret, hidden)
	}
	return s
}
