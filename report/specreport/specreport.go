// Package specreport writes what specs found on one machine or on many, for
// people and for the programs that read test results.
package specreport

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/specs"
)

// Target is what was found on one machine.
type Target struct {
	// Name is how the user calls the machine, e.g. "ssh://root@web1".
	Name string
	// Reports are those of its specs, in order.
	Reports []*specs.Report
	// Err says why the machine could not be asked, or not everything; nil: it could.
	Err error
}

// Passed says whether everything was found out and holds.
func (t *Target) Passed() bool {
	return t.Err == nil && !slices.ContainsFunc(t.Reports, func(r *specs.Report) bool { return !r.Passed() })
}

// Options say how to write. The zero value is fine.
type Options struct {
	// Color colours what people read on a terminal.
	Color bool
	// Verbose shows what passed or was skipped, too, where a format leaves it out.
	Verbose bool
	// Width is how many columns the terminal has; 0 is 80.
	Width int
	// Now is the time of the report; zero is the time of writing.
	Now time.Time
}

// Write writes the results in one of Formats. Whatever a machine says can
// neither break a format nor look like a part of it: control characters are
// escaped, and so is what the format itself gives a meaning to.
func Write(w io.Writer, format string, targets []Target, o Options) error {
	f, ok := formats()[format]
	if !ok {
		return fmt.Errorf("there is no report format %q; there are %s", format, strings.Join(Formats(), ", "))
	}
	if o.Width <= 0 {
		o.Width = 80
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	var b bytes.Buffer // a report is written whole or not at all
	if err := f(&b, targets, o); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Formats are the names of the formats, in order: auto, dots, text and tree
// for people; html and markdown for people elsewhere; github, json, jsonl,
// junit, prometheus and tap for programs.
func Formats() []string {
	return slices.Sorted(maps.Keys(formats()))
}

func formats() map[string]func(*bytes.Buffer, []Target, Options) error {
	return map[string]func(*bytes.Buffer, []Target, Options) error{
		"auto":       auto,
		"dots":       dots,
		"github":     github,
		"html":       html,
		"json":       asJSON,
		"jsonl":      jsonLines,
		"junit":      junit,
		"markdown":   markdown,
		"prometheus": prometheus,
		"tap":        tap,
		"text":       text,
		"tree":       tree,
	}
}

func text(w *bytes.Buffer, targets []Target, o Options) error {
	for _, t := range targets {
		if len(targets) > 1 {
			fmt.Fprintf(w, "== %s\n", specs.Clean(t.Name))
		}
		for _, r := range t.Reports {
			if err := r.WriteText(w, o.Verbose); err != nil {
				return err
			}
		}
		if t.Err != nil {
			fmt.Fprintf(w, "ERROR %s\n", specs.Clean(t.Err.Error()))
		}
	}
	return nil
}

// maxLine is how many bytes of one text a format shows. What a machine said is
// much shorter already; a command in a spec may be longer.
const maxLine = 4 << 10

// line makes text fit for one line. It leaves what a Result holds as it is.
func line(s string) string {
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + fmt.Sprintf("… (%d bytes more)", len(s)-maxLine)
	}
	return specs.Escape(s)
}

// verdict takes what is no known status for one that says that nothing is known.
func verdict(r specs.Result) specs.Status {
	switch r.Status {
	case specs.Pass, specs.Fail, specs.Skip, specs.Waived:
		return r.Status
	}
	return specs.Error
}

func red(r specs.Result) bool {
	v := verdict(r)
	return v == specs.Fail || v == specs.Error
}

// about says what a check is about, e.g. file "/etc/motd".
func about(r specs.Result) string {
	if r.Subject == "" {
		return line(r.Resource)
	}
	return line(r.Resource) + ` "` + line(r.Subject) + `"`
}

// claim says what has to hold, e.g. its content should match /x/.
func claim(r specs.Result) string {
	if strings.HasPrefix(r.Property, "its ") {
		return line(r.Property) + " " + line(r.Expect)
	}
	return line(r.Expect)
}

// where is the place in the template, or empty.
func where(r specs.Result) string {
	if r.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", line(r.File), r.Line)
}

// counts adds up all reports. A machine that could not be asked is one more
// error: a report without checks must not look green.
func counts(targets []Target) (c specs.Counts, all int, seconds float64) {
	for _, t := range targets {
		for _, r := range t.Reports {
			n := r.Counts()
			c.Passed += n.Passed
			c.Failed += n.Failed
			c.Errors += n.Errors
			c.Skipped += n.Skipped
			c.Waived += n.Waived
			all += len(r.Results)
			seconds += r.Seconds
		}
		if t.Err != nil {
			c.Errors++
		}
	}
	return c, all, seconds
}

// of gives the verdict on all that was counted.
func of(c specs.Counts) specs.Status {
	switch {
	case c.Failed > 0:
		return specs.Fail
	case c.Errors > 0:
		return specs.Error
	}
	return specs.Pass
}

func sum(c specs.Counts) int { return c.Passed + c.Failed + c.Errors + c.Skipped + c.Waived }

// inWords is e.g. "3 passed, 1 failed, 1 error".
func inWords(c specs.Counts) string {
	s := fmt.Sprintf("%d passed, %d failed", c.Passed, c.Failed)
	if c.Errors == 1 {
		s += ", 1 error"
	} else if c.Errors > 1 {
		s += fmt.Sprintf(", %d errors", c.Errors)
	}
	if c.Skipped > 0 {
		s += fmt.Sprintf(", %d skipped", c.Skipped)
	}
	if c.Waived > 0 {
		s += fmt.Sprintf(", %d waived", c.Waived)
	}
	return s
}
