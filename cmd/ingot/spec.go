package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/ingotbuild/ingot/internal/atomicfile"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/report/specreport"
	"github.com/ingotbuild/ingot/specs"
	"github.com/ingotbuild/ingot/specs/goss"
	"github.com/ingotbuild/ingot/templates"
)

func specVerb() verb {
	return verb{
		name: "spec", args: "check|add|autoadd|serve …", short: "Check specs on machines that are there, write them, serve the verdict",
		verbs: func() []verb { return []verb{specCheckVerb(), specAddVerb(), specAutoaddVerb(), specServeVerb()} },
	}
}

func specCheckVerb() verb {
	return verb{
		name: "check", args: "FILE|DIRECTORY… -target TARGET", short: "Check specs on one machine or on many",
		long: "A FILE ends in .ingot.hcl, .pkr.hcl, .ingot.json or .pkr.json, or is - for HCL on standard input; a DIRECTORY is a\n" +
			"template. Every spec block at the top level is checked. Files that end in .yaml, .yml or another .json are goss files.\n\n" + targetHelp + "\n\n" + specStatusHelp,
		run: runSpecCheck,
	}
}

const specStatusHelp = "Exit status: 0 all holds; 1 something does not; 2 the specs or the options are wrong, and nothing was checked;\n" +
	"3 nothing failed, but a machine could not be reached or not everything be found out."

// specFlags are the flags of every verb that reads specs.
type specFlags struct {
	vars, varFiles       list
	names                list
	onlyTags, exceptTags list
	color                bool
	// goss files, and what goss calls them by
	goss, gossVars      list
	gossInline, gossPkg string
	sudo                bool
}

func (f *specFlags) add(fs *flag.FlagSet) {
	f.names.split, f.onlyTags.split, f.exceptTags.split = true, true, true
	fs.Var(&f.vars, "var", "`name=value` of a variable; may be repeated")
	fs.Var(&f.varFiles, "var-file", "`file` of variable values, .hcl or .json; may be repeated")
	fs.Var(&f.names, "spec", "check only the specs with these `names`, commas between")
	fs.Var(&f.onlyTags, "only-tags", "make only checks that have one of these `tags`, commas between")
	fs.Var(&f.exceptTags, "except-tags", "leave out checks that have one of these `tags`, commas between")
	fs.BoolVar(&f.color, "color", true, "color the output of a terminal")
	fs.Var(&f.goss, "g", "a goss `file`, - for standard input; may be repeated")
	fs.Var(&f.gossVars, "vars", "goss files: a `file` of variables, YAML or JSON; may be repeated")
	fs.StringVar(&f.gossInline, "vars-inline", "", "goss files: variables as `YAML` or JSON")
	fs.StringVar(&f.gossPkg, "package", "", "goss files: the package manager, `deb|rpm|apk|pacman`; that of the machine unless given")
	fs.BoolVar(&f.sudo, "sudo", false, "goss files: make the checks as root, by sudo -n; a spec block says so itself")
}

// check says what is missing of what to check.
func (f *specFlags) check(paths []string) error {
	switch {
	case len(paths)+len(f.goss.values) == 0:
		return errors.New("which specs? Name files or directories, or - for standard input")
	case len(f.vars.values) > 0 && !slices.ContainsFunc(paths, func(p string) bool { return !isGoss(p) }):
		return errors.New("-var is for templates; goss files take -vars and -vars-inline")
	}
	return nil
}

// isGoss tells a goss file by its name.
func isGoss(path string) bool {
	return strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, ".yml") ||
		strings.HasSuffix(path, ".json") && !strings.HasSuffix(path, ".ingot.json") && !strings.HasSuffix(path, ".pkr.json")
}

// specSet is what is to be checked.
type specSet struct {
	specs []*specs.Spec
	opt   specs.RunOptions
	// mask hides the secrets of the templates.
	mask func(string) string
}

// specUsage says what is wrong with how a verb was called.
func (c *cli) specUsage(err error) int {
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintf(c.err, "ingot %s: %s\n", c.v.name, line)
	}
	fmt.Fprintf(c.err, "`ingot %s -help` says more.\n", c.v.name)
	return exitUsage
}

// specCode turns parse's error into an exit code.
func specCode(err error) int {
	if errors.Is(err, errHelp) {
		return exitOK
	}
	return exitUsage
}

var errSaid = errors.New("it was said")

// loadSpecs reads and compiles the specs. When it fails it has said why.
func (c *cli) loadSpecs(ctx context.Context, paths []string, f *specFlags) (*specSet, error) {
	set := &specSet{}
	var secrets []string
	failed := false
	templatesRead, undeclared := 0, map[string]int{}
	all := slices.Concat(paths, f.goss.values)
	for i, path := range all {
		if slices.Contains(all[:i], path) {
			fmt.Fprintf(c.err, "ingot %s: %s is given twice.\n", c.v.name, path)
			return nil, errSaid
		}
		if i >= len(paths) || isGoss(path) {
			s, diags := specs.CompileGoss(path, specs.GossOptions{Vars: f.gossVars.values, Inline: f.gossInline, Package: f.gossPkg, Sudo: f.sudo, Stdin: c.in})
			c.remark(nil, diags, f.color)
			failed = failed || diags.HasErrors()
			set.specs = append(set.specs, s)
			continue
		}
		templatesRead++
		found, t, diags := loadSpecFile(ctx, c.in, path, f)
		secrets = append(secrets, t.Secrets()...)
		for _, name := range t.Undeclared {
			undeclared[name]++
		}
		c.remark(t, diags, f.color)
		failed = failed || diags.HasErrors()
		set.specs = append(set.specs, found...)
	}
	for name, n := range undeclared {
		if n == templatesRead {
			fmt.Fprintf(c.err, "ingot %s: -var sets %q, but nothing declares such a variable.\n", c.v.name, name)
			failed = true
		}
	}
	if failed {
		return nil, errSaid
	}
	set.mask = report.Mask(secrets)
	set.opt = specs.RunOptions{Tags: f.onlyTags.values, SkipTags: f.exceptTags.values}
	if err := set.choose(f); err != nil {
		fmt.Fprintf(c.err, "ingot %s: %v\n", c.v.name, err)
		return nil, errSaid
	}
	return set, nil
}

// loadSpecFile reads what one argument names.
func loadSpecFile(ctx context.Context, stdin io.Reader, path string, f *specFlags) ([]*specs.Spec, *templates.Template, hcl.Diagnostics) {
	t, blocks, diags := templates.Specs(templates.Options{
		Path: path, Stdin: stdin, Vars: f.vars.values, VarFiles: f.varFiles.values, Environ: os.Environ(), LaxVars: true,
		Context: ctx, Datasources: dataSources(), EvaluateData: true,
	})
	if diags.HasErrors() {
		return nil, t, diags
	}
	var found []*specs.Spec
	for _, b := range blocks {
		s, more := specs.Compile(b.Body, b.Context, b.Labels[0])
		diags = append(diags, more...)
		found = append(found, s)
	}
	return found, t, diags
}

// choose leaves the specs that are asked for, and refuses to check nothing.
func (s *specSet) choose(f *specFlags) error {
	var names, tags []string
	for _, x := range s.specs {
		names = append(names, x.Name)
	}
	for _, want := range f.names.values {
		if !slices.Contains(names, want) {
			return fmt.Errorf("there is no spec %q; there is %s.%s", want, strings.Join(names, ", "), config.DidYouMean(want, names))
		}
	}
	if len(f.names.values) > 0 {
		s.specs = slices.DeleteFunc(s.specs, func(x *specs.Spec) bool { return !slices.Contains(f.names.values, x.Name) })
	}
	left := 0
	for _, x := range s.specs {
		for _, check := range x.Checks {
			tags = append(tags, check.Tags...)
			has := func(t string) bool { return slices.Contains(check.Tags, t) }
			if !slices.ContainsFunc(f.exceptTags.values, has) && (len(f.onlyTags.values) == 0 || slices.ContainsFunc(f.onlyTags.values, has)) {
				left++
			}
		}
	}
	if left == 0 {
		slices.Sort(tags)
		return fmt.Errorf("-only-tags and -except-tags leave no check; the tags are: %s", strings.Join(slices.Compact(tags), ", "))
	}
	return nil
}

// specOutput is one report to write.
type specOutput struct {
	format, path string // no path: standard output
}

// specOutputs reads the values of -format.
func specOutputs(given []string) ([]specOutput, error) {
	var out []specOutput
	taken := map[string]bool{}
	for _, g := range given {
		format, path, _ := strings.Cut(g, ":")
		if known := specFormats(); !slices.Contains(known, format) {
			return nil, fmt.Errorf("there is no report format %q.%s There are %s", format, config.DidYouMean(format, known), strings.Join(known, ", "))
		}
		if path == "-" {
			path = ""
		}
		if taken[path] {
			return nil, fmt.Errorf("two reports would go to %s: write -format %s:FILE for one of them", nameOf(path), format)
		}
		taken[path] = true
		if path != "" {
			if info, err := os.Stat(filepath.Dir(path)); err != nil {
				return nil, fmt.Errorf("the report %s cannot be written: %w", path, err)
			} else if !info.IsDir() {
				return nil, fmt.Errorf("the report %s cannot be written: %s is no directory", path, filepath.Dir(path))
			}
		}
		out = append(out, specOutput{format, path})
	}
	if !taken[""] {
		out = append(out, specOutput{format: "text"})
	}
	return out, nil
}

func nameOf(path string) string {
	if path == "" {
		return "standard output"
	}
	return path
}

func runSpecCheck(ctx context.Context, c *cli, args []string) int {
	fs := c.flags()
	var sf specFlags
	var tf targetFlags
	var formats list
	sf.add(fs)
	tf.add(fs)
	fs.Var(&formats, "format", "write the report as `"+strings.Join(specFormats(), "|")+"`, with :FILE behind it into a file; may be repeated")
	timeout := fs.Duration("timeout", 10*time.Minute, "the longest that one machine may take, with connecting or booting; 10m unless given, 0: no limit")
	parallel := fs.Int("parallel", 10, "look at `n` machines at once; 10 unless given")
	verbose := fs.Bool("v", false, "show also what passed or was skipped")
	rest, err := c.parse(fs, args, 0, 1000)
	if err != nil {
		return specCode(err)
	}
	if err := sf.check(rest); err != nil {
		return c.specUsage(err)
	}
	if len(tf.targets.values) == 0 {
		return c.specUsage(errors.New("which machine? -target ssh://HOST, docker://CONTAINER, image:REF, or local: for this one"))
	}
	targets, err := parseTargets(tf.targets.values)
	if err != nil {
		return c.specUsage(err)
	}
	outputs, err := specOutputs(formats.values)
	if err != nil {
		return c.specUsage(err)
	}
	if *parallel < 1 || *timeout < 0 {
		return c.specUsage(errors.New("-parallel is at least 1, and -timeout is not negative"))
	}
	if status, entered := c.enterForTargets(targets); entered {
		return status
	}
	set, err := c.loadSpecs(ctx, rest, &sf)
	if err != nil {
		return exitUsage
	}
	found := set.check(ctx, tf.targets.values, tf.way, *timeout, *parallel, c.warnings())
	status := specStatus(found)
	for _, o := range outputs {
		opt := specreport.Options{Verbose: *verbose}
		if err := c.writeSpecReport(o, found, opt, sf.color); err != nil {
			fmt.Fprintln(c.err, "Error:", err)
			status = max(status, exitFailed)
			if status != exitFailed {
				status = exitBroken
			}
		}
	}
	return status
}

// warnings takes what is said beside a report.
func (c *cli) warnings() event.Scope {
	var mu sync.Mutex
	return event.Scope{Sink: event.Func(func(e event.Event) {
		if e.Kind == event.Warning {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintln(c.err, "Warning:", specs.Clean(e.Text))
		}
	})}
}

// check makes the checks on all targets, side by side, and gives what was found
// in the order of the targets.
func (s *specSet) check(ctx context.Context, targets []string, o targetOptions, timeout time.Duration, parallel int, events event.Scope) []specreport.Target {
	found := make([]specreport.Target, len(targets))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, name := range targets {
		g.Go(func() error {
			found[i] = s.checkOne(ctx, name, o, timeout, events)
			return nil
		})
	}
	_ = g.Wait() // what went wrong is in what was found
	return found
}

func (s *specSet) checkOne(ctx context.Context, name string, o targetOptions, timeout time.Duration, events event.Scope) specreport.Target {
	t := specreport.Target{Name: name}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %v (-timeout)", timeout))
		defer cancel()
	}
	m, giveBack, err := openTarget(ctx, name, o, events)
	if err != nil {
		t.Err = s.masked(because(ctx, err))
		return t
	}
	t.Reports, err = s.run(ctx, m)
	if e := giveBack(); e != nil {
		err = errors.Join(err, e)
	}
	t.Err = s.masked(err)
	return t
}

// run makes the checks of all specs on a machine. Once it could not be asked,
// the checks that are left are errors, each by itself.
func (s *specSet) run(ctx context.Context, m machine.Machine) ([]*specs.Report, error) {
	var reports []*specs.Report
	var failure error
	for _, x := range s.specs {
		if failure != nil {
			m = gone{m, failure}
		}
		r, err := x.Run(ctx, m, s.opt)
		if failure == nil && err != nil {
			failure = because(ctx, err)
		}
		reports = append(reports, maskReport(r, s.mask))
	}
	return reports, failure
}

// because gives the reason for which ctx has ended, if it has.
func because(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case errors.Is(cause, context.Canceled):
		return errors.New("cancelled before everything was found out")
	default:
		return cause
	}
}

// gone is a machine that could not be asked before.
type gone struct {
	machine.Machine
	err error
}

func (g gone) Run(context.Context, machine.Command) error { return g.err }

func (s *specSet) masked(err error) error {
	if err == nil {
		return nil
	}
	if text := s.mask(err.Error()); text != err.Error() {
		return errors.New(text)
	}
	return err
}

// specStatus is the exit status for what was found.
func specStatus(found []specreport.Target) int {
	status := exitOK
	for _, t := range found {
		if t.Err != nil {
			status = exitBroken
		}
		for _, r := range t.Reports {
			switch r.Verdict() {
			case specs.Fail:
				return exitFailed
			case specs.Error:
				status = exitBroken
			}
		}
	}
	return status
}

// writeSpecReport writes one report.
func (c *cli) writeSpecReport(o specOutput, found []specreport.Target, opt specreport.Options, color bool) error {
	fail := func(err error) error {
		if err != nil {
			err = fmt.Errorf("write the report to %s: %w", nameOf(o.path), err)
		}
		return err
	}
	if o.path == "" {
		if f, ok := c.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			opt.Color = color && os.Getenv("NO_COLOR") == ""
			opt.Width, _, _ = term.GetSize(int(f.Fd()))
		}
		return fail(writeSpecs(c.out, o.format, found, opt))
	}
	if info, err := os.Stat(o.path); err == nil && !info.Mode().IsRegular() { // such as a pipe
		f, err := os.OpenFile(o.path, os.O_WRONLY, 0)
		if err != nil {
			return fail(err)
		}
		return fail(errors.Join(writeSpecs(f, o.format, found, opt), f.Close()))
	}
	path := o.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return fail(atomicfile.Write(path, 0o644, func(w io.Writer) error { return writeSpecs(w, o.format, found, opt) }))
}

// gossPrefix begins the names of goss' own formats.
const gossPrefix = "goss-"

// specFormats are the names of all formats.
func specFormats() []string {
	all := specreport.Formats()
	for _, f := range goss.Formats() {
		all = append(all, gossPrefix+f)
	}
	return all
}

// writeSpecs writes what was found in one of specFormats.
func writeSpecs(w io.Writer, format string, found []specreport.Target, opt specreport.Options) error {
	name, ok := strings.CutPrefix(format, gossPrefix)
	if !ok {
		return specreport.Write(w, format, found, opt)
	}
	var rows []goss.Row
	o := goss.WriteOptions{Color: opt.Color}
	for _, t := range found {
		var own []goss.Row
		for _, r := range t.Reports {
			own = append(own, r.GossRows()...)
			if o.Start.IsZero() || r.Started.Before(o.Start) {
				o.Start = r.Started
			}
			o.Duration = max(o.Duration, time.Duration(r.Seconds*float64(time.Second)))
		}
		if t.Err != nil {
			err := errors.New(specs.Clean(t.Err.Error()))
			own = append(own, goss.Row{Type: "Machine", ID: specs.Clean(t.Name), Property: "reachable", Result: goss.Fail, Outcome: goss.Outcome{Err: err}})
		}
		for _, r := range own {
			if len(found) > 1 {
				r.ID = specs.Clean(t.Name) + ": " + r.ID
			}
			rows = append(rows, r)
		}
	}
	_, err := goss.Write(w, name, rows, o)
	return err
}
