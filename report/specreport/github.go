package specreport

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/ingotbuild/ingot/specs"
)

// github writes workflow commands, which become annotations. Every line is a
// command, so that nothing in it can begin one of its own.
func github(w *bytes.Buffer, targets []Target, o Options) error {
	message := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	command := func(kind, file string, n int, title, text string) {
		var p []string
		if file != "" {
			p = append(p, "file="+property.Replace(file), fmt.Sprintf("line=%d", n))
		}
		p = append(p, "title="+property.Replace(title))
		fmt.Fprintf(w, "::%s %s::%s\n", kind, strings.Join(p, ","), message.Replace(text))
	}
	for _, t := range targets {
		for _, rep := range t.Reports {
			for _, r := range rep.Results {
				kind := "error"
				switch v := verdict(r); {
				case v == specs.Waived:
					kind = "warning"
				case !red(r):
					continue
				}
				text := claim(r)
				for _, d := range [][2]string{{"actual", line(r.Actual)}, {"reason", line(r.Message)}} {
					if d[1] != "" {
						text += "\n" + d[0] + ": " + d[1]
					}
				}
				command(kind, line(r.File), r.Line, strings.ToUpper(string(verdict(r)))+" "+about(r)+" on "+line(t.Name), text)
			}
		}
		if t.Err != nil {
			command("error", "", 0, "ERROR "+line(t.Name), line(t.Err.Error()))
		}
	}
	c, _, seconds := counts(targets)
	command("notice", "", 0, "Specs", fmt.Sprintf("%s in %.2f s", inWords(c), seconds))
	return nil
}

// markdown writes a summary, as GitHub and GitLab show it.
func markdown(w *bytes.Buffer, targets []Target, o Options) error {
	c, _, seconds := counts(targets)
	fmt.Fprintf(w, "### Specs: %s\n\n%s in %.2f s.\n", map[specs.Status]string{specs.Pass: "passed", specs.Fail: "failed", specs.Error: "could not all be checked"}[of(c)], inWords(c), seconds)
	w.WriteString("\n| Machine | Spec | Passed | Failed | Errors | Skipped | Waived |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, t := range targets {
		for _, r := range t.Reports {
			c := r.Counts()
			fmt.Fprintf(w, "| %s | %s | %d | %d | %d | %d | %d |\n", cell(t.Name), cell(r.Spec), c.Passed, c.Failed, c.Errors, c.Skipped, c.Waived)
		}
		if t.Err != nil {
			fmt.Fprintf(w, "| %s | %s | | | 1 | | |\n", cell(t.Name), cell(t.Err.Error()))
		}
	}
	head := false
	for _, t := range targets {
		for _, rep := range t.Reports {
			for _, r := range rep.Results {
				if !red(r) && verdict(r) != specs.Waived {
					continue
				}
				if !head {
					head = true
					w.WriteString("\n| | Machine | Check | Expected | Actual | Where |\n| --- | --- | --- | --- | --- | --- |\n")
				}
				actual := r.Actual
				if r.Message != "" {
					actual = strings.TrimSpace(actual + " (" + r.Message + ")")
				}
				fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", marks(verdict(r)).word, cell(t.Name), cell(about(r)), cell(claim(r)), cell(actual), cell(where(r)))
			}
		}
	}
	return nil
}

// cell makes a text fit for a cell of a Markdown table: what Markdown, or what
// GitHub adds to it, may give a meaning is written by its number.
func cell(s string) string {
	var b strings.Builder
	for _, r := range line(s) {
		if r > ' ' && r < 0x7f && !strings.ContainsRune("-,/", r) && !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') {
			fmt.Fprintf(&b, "&#%d;", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
