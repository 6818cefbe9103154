package specreport

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"time"

	"github.com/ingotbuild/ingot/specs"
)

// The elements and attributes that readers of JUnit's format agree on, and
// file and line, which several of them show.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr,omitempty"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		File    string        `xml:"file,attr,omitempty"`
		Line    int           `xml:"line,attr,omitempty"`
		Failure *junitProblem `xml:"failure"`
		Error   *junitProblem `xml:"error"`
		Skipped *junitSkipped `xml:"skipped"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
	junitSkipped struct {
		Message string `xml:"message,attr"`
	}
)

// junit writes one test suite per machine and spec. A waived check is a
// skipped one: readers know no failure that may be.
func junit(w *bytes.Buffer, targets []Target, o Options) error {
	c, _, seconds := counts(targets)
	all := junitSuites{Name: "ingot", Tests: sum(c), Failures: c.Failed, Errors: c.Errors, Skipped: c.Skipped + c.Waived, Time: inSeconds(seconds)}
	for _, t := range targets {
		for _, rep := range t.Reports {
			c := rep.Counts()
			s := junitSuite{
				Name: line(t.Name) + "/" + line(rep.Spec), Tests: len(rep.Results), Failures: c.Failed, Errors: c.Errors, Skipped: c.Skipped + c.Waived,
				Time: inSeconds(rep.Seconds),
			}
			if !rep.Started.IsZero() {
				s.Timestamp = rep.Started.UTC().Format("2006-01-02T15:04:05") // the schema has no zone
			}
			for _, r := range rep.Results {
				s.Cases = append(s.Cases, junitTest(r))
			}
			all.Suites = append(all.Suites, s)
		}
		if t.Err != nil {
			why := line(t.Err.Error())
			all.Suites = append(all.Suites, junitSuite{Name: line(t.Name), Tests: 1, Errors: 1, Time: inSeconds(0), Cases: []junitCase{
				{Class: "machine", Name: "could not be checked, or not all of it", Time: inSeconds(0), Error: &junitProblem{Message: why, Type: "error", Text: why}},
			}})
		}
	}
	w.WriteString(xml.Header)
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	w.WriteByte('\n')
	return nil
}

func junitTest(r specs.Result) junitCase {
	c := junitCase{Class: line(r.Resource), Name: claim(r), Time: inSeconds(r.Seconds), File: line(r.File), Line: r.Line}
	if r.Subject != "" {
		c.Name = line(r.Subject) + " " + c.Name
	}
	text := "expected: " + claim(r)
	for _, d := range [][2]string{{"actual", r.Actual}, {"reason", r.Message}, {"title", r.Title}, {"at", where(r)}} {
		if d[1] != "" {
			text += "\n" + d[0] + ": " + line(d[1])
		}
	}
	first := line(r.Actual)
	switch verdict(r) {
	case specs.Fail:
		if first == "" {
			first = claim(r)
		}
		c.Failure = &junitProblem{Message: first, Type: "fail", Text: text}
	case specs.Error:
		c.Error = &junitProblem{Message: line(r.Message), Type: "error", Text: text}
	case specs.Skip, specs.Waived:
		c.Skipped = &junitSkipped{Message: line(r.Message)}
	}
	return c
}

func inSeconds(s float64) string {
	return fmt.Sprintf("%.3f", time.Duration(s*float64(time.Second)).Seconds())
}
