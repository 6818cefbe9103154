package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/internal/atomicfile"
	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/report/specreport"
	"github.com/ingotbuild/ingot/specs"
)

// specReports are the values of -spec-report.
type specReports []specReport

type specReport struct{ format, path string }

// String implements flag.Value.
func (s *specReports) String() string { return "" }

// Set implements flag.Value.
func (s *specReports) Set(v string) error {
	format, path, ok := strings.Cut(v, ":")
	switch {
	case !ok || path == "":
		return errors.New("write FORMAT:PATH, e.g. junit:specs.xml")
	case !slices.Contains(specreport.Formats(), format):
		return fmt.Errorf("there is no report format %q; there are %s", format, strings.Join(specreport.Formats(), ", "))
	case path == "-":
		return errors.New("standard output is for the build's own; name a file")
	case slices.ContainsFunc(*s, func(r specReport) bool { return filepath.Clean(r.path) == filepath.Clean(path) }):
		return fmt.Errorf("two reports would be written to %s", path)
	}
	*s = append(*s, specReport{format, path})
	return nil
}

// check says, before anything is baked, what could not be written afterwards.
func (s specReports) check() error {
	for _, r := range s {
		if fi, err := os.Stat(filepath.Dir(r.path)); err != nil {
			return fmt.Errorf("-spec-report=%s:%s: %w; make the directory first", r.format, r.path, err)
		} else if !fi.IsDir() {
			return fmt.Errorf("-spec-report=%s:%s: %s is not a directory", r.format, r.path, filepath.Dir(r.path))
		}
		if fi, err := os.Stat(r.path); err == nil && fi.IsDir() {
			return fmt.Errorf("-spec-report=%s:%s: it is a directory; name a file", r.format, r.path)
		}
	}
	return nil
}

// write writes every report, and tells of all that it could not write.
func (s specReports) write(results []bake.Result, secrets []string) error {
	if len(s) == 0 {
		return nil
	}
	targets := bakeTargets(results, report.Mask(secrets))
	var errs []error
	for _, r := range s {
		err := writeReport(r, targets)
		if summary := os.Getenv("GITHUB_STEP_SUMMARY"); err == nil && r.format == "github" && summary != "" {
			err = appendReport(summary, "markdown", targets)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("write the spec report %s:%s: %w", r.format, r.path, err))
		}
	}
	return errors.Join(errs...)
}

func writeReport(r specReport, targets []specreport.Target) error {
	if fi, err := os.Stat(r.path); err == nil && !fi.Mode().IsRegular() { // such as /dev/stderr
		return appendReport(r.path, r.format, targets)
	}
	path := r.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return atomicfile.Write(path, 0o644, func(w io.Writer) error {
		return specreport.Write(w, r.format, targets, specreport.Options{})
	})
}

func appendReport(path, format string, targets []specreport.Target) error {
	var b bytes.Buffer
	if err := specreport.Write(&b, format, targets, specreport.Options{}); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, fs.FileMode(0o644))
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}

// bakeTargets makes a target of each bake. A bake that failed while its specs
// are green, or before them, must not look green.
func bakeTargets(results []bake.Result, mask func(string) string) []specreport.Target {
	var targets []specreport.Target
	for _, res := range results {
		t := specreport.Target{Name: mask(res.Name)}
		green := true
		for _, rep := range res.Specs {
			green = green && rep.Passed()
			t.Reports = append(t.Reports, maskReport(rep, mask))
		}
		if res.Err != nil && green {
			t.Err = errors.New(mask(res.Err.Error()))
		}
		targets = append(targets, t)
	}
	return targets
}

// maskReport is a copy of a report without secrets.
func maskReport(rep *specs.Report, mask func(string) string) *specs.Report {
	out := *rep
	out.Spec, out.Title = mask(rep.Spec), mask(rep.Title)
	out.Results = slices.Clone(rep.Results)
	for i := range out.Results {
		r := &out.Results[i]
		for _, s := range []*string{&r.Subject, &r.Title, &r.Property, &r.Expect, &r.Actual, &r.Message} {
			*s = mask(*s)
		}
		r.Tags = slices.Clone(r.Tags)
		for j := range r.Tags {
			r.Tags[j] = mask(r.Tags[j])
		}
	}
	return &out
}
