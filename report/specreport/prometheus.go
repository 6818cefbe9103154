package specreport

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/ingotbuild/ingot/specs"
)

// prometheus writes the text exposition format 0.0.4, as the textfile
// collector reads it.
func prometheus(w *bytes.Buffer, targets []Target, o Options) error {
	seen := map[string]bool{}
	family := func(name, help string) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
	}
	sample := func(name string, value float64, labels ...string) {
		var b strings.Builder
		for i := 0; i < len(labels); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%s=\"%s\"", labels[i], strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(labels[i+1]))
		}
		// Two series with the same labels would make the whole file unreadable.
		set := b.String()
		for n := 2; seen[name+"{"+set+"}"]; n++ {
			set = fmt.Sprintf("%s,n=\"%d\"", b.String(), n)
		}
		seen[name+"{"+set+"}"] = true
		if set != "" {
			name += "{" + set + "}"
		}
		fmt.Fprintf(w, "%s %s\n", name, strconv.FormatFloat(value, 'f', -1, 64))
	}
	each := func(f func(t Target, r *specs.Report)) {
		for _, t := range targets {
			for _, r := range t.Reports {
				f(t, r)
			}
		}
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}

	family("ingot_spec_target_passed", "Whether everything was found out about a machine and holds.")
	for _, t := range targets {
		sample("ingot_spec_target_passed", flag(t.Passed()), "target", line(t.Name))
	}
	family("ingot_spec_target_asked", "Whether a machine could be asked everything.")
	for _, t := range targets {
		sample("ingot_spec_target_asked", flag(t.Err == nil), "target", line(t.Name))
	}
	family("ingot_spec_checks", "How many checks of a spec came to which verdict.")
	each(func(t Target, r *specs.Report) {
		c := r.Counts()
		for _, v := range []struct {
			verdict specs.Status
			n       int
		}{{specs.Pass, c.Passed}, {specs.Fail, c.Failed}, {specs.Error, c.Errors}, {specs.Skip, c.Skipped}, {specs.Waived, c.Waived}} {
			sample("ingot_spec_checks", float64(v.n), "target", line(t.Name), "spec", line(r.Spec), "verdict", string(v.verdict))
		}
	})
	family("ingot_spec_check", "The verdict on a check, in a label; the value is 1.")
	each(func(t Target, rep *specs.Report) {
		for _, r := range rep.Results {
			sample("ingot_spec_check", 1, "target", line(t.Name), "spec", line(rep.Spec), "resource", line(r.Resource), "subject", line(r.Subject),
				"check", claim(r), "verdict", string(verdict(r)))
		}
	})
	family("ingot_spec_duration_seconds", "How long the run of a spec took.")
	each(func(t Target, r *specs.Report) {
		sample("ingot_spec_duration_seconds", r.Seconds, "target", line(t.Name), "spec", line(r.Spec))
	})
	family("ingot_spec_start_timestamp_seconds", "When the run of a spec began, in Unix time.")
	each(func(t Target, r *specs.Report) {
		if !r.Started.IsZero() {
			sample("ingot_spec_start_timestamp_seconds", float64(r.Started.UnixMilli())/1000, "target", line(t.Name), "spec", line(r.Spec))
		}
	})
	family("ingot_spec_report_timestamp_seconds", "When this report was written, in Unix time.")
	sample("ingot_spec_report_timestamp_seconds", float64(o.Now.UnixMilli())/1000)
	return nil
}
