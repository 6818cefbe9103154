package specs

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/specs/goss"
)

// Status is the verdict on a check.
type Status string

const (
	Pass Status = "pass"
	// Fail: it was found out, and it does not hold.
	Fail Status = "fail"
	// Error: it could not be found out.
	Error Status = "error"
	// Skip: the check was not asked for, or does not apply to the machine.
	Skip Status = "skip"
	// Waived: it does not hold, and the spec says why that is to be borne until
	// a day that has not come yet.
	Waived Status = "waived"
)

// Schema is the version of the report's JSON form. It grows when a field
// changes its meaning or goes away.
const Schema = 1

// Report is what one run of a spec found.
type Report struct {
	Schema int    `json:"schema"`
	Spec   string `json:"spec"`
	Title  string `json:"title,omitempty"`
	// After is "snapshot" for a spec that was checked on a machine booted from
	// the finished image, else empty.
	After string `json:"after,omitempty"`
	// Results has one entry for each check, in the template's order.
	Results []Result `json:"results"`
	// Started is when the run began; zero in reports of older versions.
	Started time.Time `json:"started,omitzero"`
	Seconds float64   `json:"seconds"`
	// RoundTrips is how many scripts the machine ran.
	RoundTrips int `json:"round_trips"`
}

// Result is the verdict on one check. Text that comes from the machine has no
// control characters and is cut to a few hundred characters.
type Result struct {
	Resource string `json:"resource"`
	Subject  string `json:"subject"`
	Title    string `json:"title,omitempty"`
	// Property is the matcher or "its …"; Expect says in words what has to hold.
	Property string `json:"property"`
	Expect   string `json:"expect"`
	// Actual is what the machine has instead, or as well.
	Actual string `json:"actual,omitempty"`
	Status Status `json:"status"`
	// Message is why there is no verdict, for Error and Skip; for Waived, and
	// for a Fail whose waiver is over, what the waiver says.
	Message string   `json:"message,omitempty"`
	Tags    []string `json:"tags,omitempty"`
	File    string   `json:"file"`
	Line    int      `json:"line"`
	// Seconds is how long the machine took for the facts, which checks may share.
	Seconds float64 `json:"seconds"`
	// Tries is how often the check was made.
	Tries int `json:"tries"`
	// Goss is what goss' formats print of a goss file's check; nil for others.
	Goss *goss.Row `json:"-"`
}

// Counts is how many checks came to which verdict.
type Counts struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Errors  int `json:"errors"`
	Skipped int `json:"skipped"`
	Waived  int `json:"waived"`
}

// Counts counts the verdicts.
func (r *Report) Counts() Counts {
	var c Counts
	for _, x := range r.Results {
		switch x.Status {
		case Pass:
			c.Passed++
		case Fail:
			c.Failed++
		case Skip:
			c.Skipped++
		case Waived:
			c.Waived++
		default:
			c.Errors++
		}
	}
	return c
}

// Passed says whether nothing failed and nothing stayed unknown.
func (r *Report) Passed() bool {
	c := r.Counts()
	return c.Failed == 0 && c.Errors == 0
}

// Verdict is Fail for a red report, Error for one that is only broken (nothing
// failed, but not all could be found out), and Pass for the others.
func (r *Report) Verdict() Status {
	switch c := r.Counts(); {
	case c.Failed > 0:
		return Fail
	case c.Errors > 0:
		return Error
	}
	return Pass
}

// WriteText writes the report for people: what failed, with what was expected
// and what is, and one line of counts. Verbose adds what passed or was skipped.
func (r *Report) WriteText(w io.Writer, verbose bool) error {
	var b strings.Builder
	for _, x := range r.Results {
		if !verbose && (x.Status == Pass || x.Status == Skip) {
			continue
		}
		what := x.Resource
		if x.Subject != "" {
			what += " " + Clean(strconv.Quote(x.Subject))
		}
		if strings.HasPrefix(x.Property, "its ") {
			what += "  " + Clean(x.Property)
		}
		fmt.Fprintf(&b, "%-5s %s  %s", strings.ToUpper(string(x.Status)), what, Clean(x.Expect))
		if x.Tries > 1 {
			fmt.Fprintf(&b, "   (%d tries)", x.Tries)
		}
		switch {
		case x.Line > 0:
			fmt.Fprintf(&b, "     %s:%d", Clean(x.File), x.Line)
		case x.File != "":
			fmt.Fprintf(&b, "     %s", Clean(x.File))
		}
		b.WriteByte('\n')
		if x.Title != "" && x.Status != Pass {
			fmt.Fprintf(&b, "      %s\n", Clean(x.Title))
		}
		for _, detail := range []string{x.Actual, x.Message} {
			if detail != "" && x.Status != Pass {
				fmt.Fprintf(&b, "      %s\n", Escape(detail))
			}
		}
	}
	c := r.Counts()
	fmt.Fprintf(&b, "%s: %d passed, %d failed", Clean(r.Spec), c.Passed, c.Failed)
	if c.Errors > 0 {
		fmt.Fprintf(&b, ", %s", count(c.Errors, "error"))
	}
	if c.Skipped > 0 {
		fmt.Fprintf(&b, ", %d skipped", c.Skipped)
	}
	if c.Waived > 0 {
		fmt.Fprintf(&b, ", %d waived", c.Waived)
	}
	fmt.Fprintf(&b, " in %.2f s, %s\n", r.Seconds, count(r.RoundTrips, "round trip"))
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// maxText is how many bytes of one text a report shows.
const maxText = 400

// Clean makes text fit for one line of a terminal or a log: control and
// invisible characters are escaped, and what is too long is cut.
func Clean(s string) string {
	cut := ""
	if len(s) > maxText {
		n := maxText
		for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		cut = fmt.Sprintf("… (%d bytes more)", len(s)-n)
		s = s[:n]
	}
	return Escape(s) + cut
}

// Escape escapes the control and invisible characters of a text, as Clean
// does, but leaves it as long as it is. What it has escaped it does not change
// again: it is for what a Result already holds.
func Escape(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
