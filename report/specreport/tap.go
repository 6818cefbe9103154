package specreport

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ingotbuild/ingot/specs"
)

// tap writes TAP version 14, without subtests: readers of version 13 take it,
// too.
func tap(w *bytes.Buffer, targets []Target, o Options) error {
	n := 0
	for _, t := range targets {
		for _, r := range t.Reports {
			n += len(r.Results)
		}
		if t.Err != nil {
			n++
		}
	}
	w.WriteString("TAP version 14\n")
	if n == 0 {
		w.WriteString("1..0 # SKIP nothing was checked\n")
		return nil
	}
	fmt.Fprintf(w, "1..%d\n", n)
	n = 0
	point := func(ok bool, name string) {
		n++
		not := "not "
		if ok {
			not = ""
		}
		fmt.Fprintf(w, "%sok %d - %s", not, n, tapText(name))
	}
	for _, t := range targets {
		who := ""
		if len(targets) > 1 {
			who = line(t.Name) + ": "
		}
		for _, rep := range t.Reports {
			for _, r := range rep.Results {
				v := verdict(r)
				point(v == specs.Pass || v == specs.Skip, who+line(rep.Spec)+": "+about(r)+" "+claim(r))
				switch v {
				case specs.Skip:
					w.WriteString(" # SKIP " + tapText(line(r.Message)))
				case specs.Waived:
					w.WriteString(" # TODO " + tapText(line(r.Message)))
				}
				w.WriteByte('\n')
				if v == specs.Pass || v == specs.Skip {
					continue
				}
				pairs := [][2]string{{"state", string(v)}, {"title", line(r.Title)}, {"expected", claim(r)}, {"actual", line(r.Actual)}, {"message", line(r.Message)}, {"at", where(r)}}
				if r.Tries > 1 {
					pairs = append(pairs, [2]string{"tries", fmt.Sprint(r.Tries)})
				}
				tapBlock(w, pairs)
			}
		}
		if t.Err != nil {
			point(false, line(t.Name)+": could not be checked, or not all of it")
			w.WriteByte('\n')
			tapBlock(w, [][2]string{{"state", string(specs.Error)}, {"message", line(t.Err.Error())}})
		}
	}
	return nil
}

// tapText keeps text from being taken for a directive.
func tapText(s string) string {
	return strings.NewReplacer(`\`, `\\`, `#`, `\#`).Replace(s)
}

// tapBlock writes YAML in which every value is a quoted text.
func tapBlock(w *bytes.Buffer, pairs [][2]string) {
	w.WriteString("  ---\n")
	for _, p := range pairs {
		if p[1] != "" {
			fmt.Fprintf(w, "  %s: \"%s\"\n", p[0], strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(p[1]))
		}
	}
	w.WriteString("  ...\n")
}
