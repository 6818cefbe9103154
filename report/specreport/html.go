package specreport

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"

	"github.com/ingotbuild/ingot/specs"
)

//go:embed report.html
var page string

type (
	htmlPage struct {
		Verdict specs.Status
		Title   string
		Words   string
		Time    string
		Seconds string
		Counts  []htmlCount
		Red     []htmlCheck
		Targets []htmlTarget
	}
	htmlCount struct {
		Name string
		N    int
	}
	htmlTarget struct {
		Name, Error, Words string
		Verdict            specs.Status
		Specs              []htmlSpec
	}
	htmlSpec struct {
		Name, Title, Words string
		Checks             []htmlCheck
	}
	htmlCheck struct {
		Target, About, Claim, Title, Actual, Reason, At, Word string
		Verdict                                               specs.Status
		Tries                                                 int
	}
)

// html writes one page that needs nothing else: no script, no font, no picture.
func html(w *bytes.Buffer, targets []Target, o Options) error {
	c, _, seconds := counts(targets)
	p := htmlPage{
		Verdict: of(c), Words: inWords(c), Time: o.Now.UTC().Format("2006-01-02 15:04:05 UTC"), Seconds: fmt.Sprintf("%.2f s", seconds),
		Title: map[specs.Status]string{specs.Pass: "passed", specs.Fail: "failed", specs.Error: "could not all be checked"}[of(c)],
		Counts: []htmlCount{
			{"passed", c.Passed}, {"failed", c.Failed}, {"errors", c.Errors}, {"skipped", c.Skipped}, {"waived", c.Waived},
		},
	}
	for _, t := range targets {
		c, _, _ := counts([]Target{t})
		ht := htmlTarget{Name: line(t.Name), Error: why(t), Words: inWords(c), Verdict: of(c)}
		if t.Err != nil {
			p.Red = append(p.Red, htmlCheck{Target: ht.Name, About: "could not be checked, or not all of it", Reason: ht.Error, Verdict: specs.Error, Word: "ERROR"})
		}
		for _, rep := range t.Reports {
			hs := htmlSpec{Name: line(rep.Spec), Title: line(rep.Title), Words: inWords(rep.Counts())}
			for _, r := range rep.Results {
				check := htmlCheck{
					Target: ht.Name, About: about(r), Claim: claim(r), Title: line(r.Title), Actual: line(r.Actual), Reason: line(r.Message), At: where(r),
					Word: marks(verdict(r)).word, Verdict: verdict(r), Tries: r.Tries,
				}
				hs.Checks = append(hs.Checks, check)
				if red(r) {
					p.Red = append(p.Red, check)
				}
			}
			ht.Specs = append(ht.Specs, hs)
		}
		p.Targets = append(p.Targets, ht)
	}
	t, err := template.New("report").Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(w, p)
}
