package goss

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/rogpeppe/go-internal/diff"
)

// A Result is what came of a row.
type Result int

const (
	Pass Result = iota
	Fail        // also where nobody can tell: Outcome.Err says why
	Skip
)

// A Row is the result of one check.
type Row struct {
	// Type, ID and Property say what was checked: "File", "/etc/passwd", "mode".
	Type, ID, Property string
	Title              string
	Meta               map[string]any
	Result             Result
	Outcome            Outcome
	Start              time.Time
	Duration           time.Duration
}

// Formats are the names that Write takes, sorted.
func Formats() []string {
	return []string{"documentation", "json", "json_oneline", "junit", "nagios", "prometheus", "rspecish", "silent", "structured", "tap"}
}

// FormatOptions are the words that WriteOptions.Options takes, sorted.
func FormatOptions() []string {
	return []string{"exclude_raw", "perfdata", "pretty", "sort", "verbose"}
}

// WriteOptions say how rows are written. The zero value is fine.
type WriteOptions struct {
	// Options are words of FormatOptions. Rows are written in the order they come
	// in, or by type, ID and property with sort.
	Options []string
	Color   bool
	// Start and Duration are those of the whole run.
	Start    time.Time
	Duration time.Duration
}

// Write writes rows in one of goss' formats, and gives the exit status that
// goss ends with: 0, 1 where something failed, and 2 for that in nagios.
// Structured, which is made for programs, is always 0.
func Write(w io.Writer, format string, rows []Row, opt WriteOptions) (status int, err error) {
	for _, o := range opt.Options {
		if !slices.Contains(FormatOptions(), o) {
			return 1, fmt.Errorf("there is no format option %q%s", o, suggest(o, FormatOptions()))
		}
	}
	if slices.Contains(opt.Options, "sort") {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, func(a, b Row) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID)) })
	}
	p := &printer{rows: rows, opt: opt, raw: !slices.Contains(opt.Options, "exclude_raw")}
	for _, r := range rows {
		switch r.Result {
		case Fail:
			p.failed++
		case Skip:
			p.skipped++
		}
	}
	if p.failed > 0 {
		status = 1
	}
	switch format {
	case "rspecish":
		p.rspecish()
	case "documentation":
		p.documentation()
	case "json":
		err = p.json(slices.Contains(opt.Options, "pretty"))
	case "json_oneline":
		err = p.json(false)
	case "structured":
		err, status = p.structured(), 0
	case "junit":
		p.junit()
	case "nagios":
		p.nagios(slices.Contains(opt.Options, "verbose"), slices.Contains(opt.Options, "perfdata"))
		status *= 2
	case "prometheus":
		p.prometheus(slices.Contains(opt.Options, "verbose"))
	case "tap":
		p.tap()
	case "silent":
	default:
		return 1, fmt.Errorf("there is no format %q%s", format, suggest(format, Formats()))
	}
	if err == nil {
		_, err = w.Write(p.Bytes())
	}
	return status, err
}

type printer struct {
	bytes.Buffer
	rows            []Row
	opt             WriteOptions
	raw             bool // say what a value was before it was transformed
	failed, skipped int
}

func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// color puts what a result looks like round a text.
func (p *printer) color(r Result, s string) string {
	if !p.opt.Color {
		return s
	}
	return [...]string{"\x1b[32m", "\x1b[31m", "\x1b[33m"}[r] + s + "\x1b[0m"
}

// seconds is the run's duration as the formats have it.
func (p *printer) seconds() string { return fmt.Sprintf("%.3fs", p.opt.Duration.Seconds()) }

// marshal writes JSON on one line, with < and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Show is a value in JSON, on one line, as messages have it.
func Show(v any) string { return show(v) }

// show is a value in JSON. What has no JSON form, such as a number that is
// none, is shown as Go prints it.
func show(v any) string {
	b, err := marshal(v)
	if err != nil {
		return clean(fmt.Sprint(v))
	}
	return clean(string(b))
}

// clean escapes what could steer a terminal; lines and tabs stay.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n', r == '\t', r == ' ', unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(fmt.Sprintf("%+q", r), "'"))
		}
	}
	return b.String()
}

// message says what came of a row. Compact is all in one line.
func (p *printer) message(r Row, compact bool) string {
	head := clean(oneLine(r.Type) + ": " + oneLine(r.ID) + ": " + oneLine(r.Property) + ":")
	o := r.Outcome
	switch {
	case r.Result == Skip:
		return head + " skipped"
	case r.Result == Pass:
		return head + " matches expectation: " + show(o.Expected)
	}
	var parts []string
	add := func(label, value string) { parts = append(parts, label, value) }
	switch {
	case o.Err != nil:
		add("Error", clean(o.Err.Error()))
	default:
		add("Expected", show(o.Actual))
		add(o.Message, show(o.Expected))
		for _, l := range []struct {
			label string
			list  []any
		}{{"the missing elements were", o.Missing}, {"the extra elements were", o.Extra}} {
			if len(l.list) > 0 {
				add(l.label, show(l.list))
			}
		}
		have, ok1 := o.Actual.(string)
		want, ok2 := o.Expected.(string)
		if ok1 && ok2 && !compact && strings.HasPrefix(o.Message, "to ") {
			add("diff", clean(difference(want, have)))
		}
		if len(o.Transforms) > 0 {
			add("the transform chain was", show(o.Transforms))
			if p.raw {
				add("the raw value was", show(o.Raw))
			}
		}
	}
	if compact {
		for i := range parts {
			parts[i] = strings.Join(strings.Fields(parts[i]), " ")
		}
		return head + " " + strings.Join(parts, " ")
	}
	for i := 1; i < len(parts); i += 2 {
		parts[i] = "    " + strings.ReplaceAll(strings.TrimSuffix(parts[i], "\n"), "\n", "\n    ")
	}
	return head + "\n" + strings.Join(parts, "\n")
}

func oneLine(s string) string { return strings.Join(strings.Split(s, "\n"), `\n`) }

var ones = regexp.MustCompile(`([-+]\d+),1\b`)

// maxDiff is up to where two texts are compared line by line.
const maxDiff = 16 << 10

func difference(want, have string) string {
	if len(want)+len(have) > maxDiff {
		return "(the texts are too long for it)"
	}
	d := string(diff.Diff("test", []byte(want), "actual", []byte(have)))
	_, d, _ = strings.Cut(d, "\n") // it begins with a command
	var out []string
	for _, l := range strings.Split(strings.TrimSuffix(d, "\n"), "\n") {
		switch {
		case strings.HasPrefix(l, `\`):
		case strings.HasPrefix(l, "@@"):
			out = append(out, ones.ReplaceAllString(l, "$1"))
		default:
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// header says a row's title and meta, where it has them.
func (p *printer) header(r Row) {
	if r.Title != "" {
		p.printf("Title: %s\n", clean(oneLine(r.Title)))
	}
	if len(r.Meta) > 0 {
		p.printf("Meta:\n")
		for _, k := range sortedKeys(r.Meta) {
			p.printf("    %s: %s\n", clean(oneLine(k)), clean(oneLine(fmt.Sprint(r.Meta[k]))))
		}
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (p *printer) rspecish() {
	for _, r := range p.rows {
		p.WriteString(p.color(r.Result, [...]string{".", "F", "S"}[r.Result]))
	}
	p.WriteString("\n")
	p.summary()
}

func (p *printer) documentation() {
	for i, r := range p.rows {
		if i == 0 || !sameResource(r, p.rows[i-1]) {
			p.header(r)
		}
		p.WriteString(p.color(r.Result, p.message(r, false)) + "\n")
	}
	p.WriteString("\n")
	p.summary()
}

func sameResource(a, b Row) bool { return a.Type == b.Type && a.ID == b.ID }

// summary lists what failed and what was skipped, and counts.
func (p *printer) summary() {
	p.WriteString("\n")
	var last *Row
	for i, r := range p.rows {
		if r.Result == Pass {
			continue
		}
		switch {
		case last == nil:
			p.WriteString("Failures/Skipped:\n\n")
			p.header(r)
		case !sameResource(*last, r):
			p.WriteString("\n")
			p.header(r)
		}
		p.WriteString(p.color(r.Result, p.message(r, false)) + "\n")
		last = &p.rows[i]
	}
	if last != nil {
		p.WriteString("\n")
	}
	p.printf("Total Duration: %s\n", p.seconds())
	result := Pass
	if p.failed > 0 {
		result = Fail
	}
	p.WriteString(p.color(result, fmt.Sprintf("Count: %d, Failed: %d, Skipped: %d", len(p.rows), p.failed, p.skipped)) + "\n")
}

// matcherResult is an outcome as JSON has it.
type matcherResult struct {
	Actual      any         `json:"actual"`
	Expected    any         `json:"expected"`
	Extra       []any       `json:"extra-elements"`
	Found       []any       `json:"found-elements"`
	Message     string      `json:"message"`
	Missing     []any       `json:"missing-elements"`
	Transforms  []Transform `json:"transform-chain"`
	Untransform any         `json:"untransformed-value"`
}

type jsonRow struct {
	Duration    int64          `json:"duration"`
	End         time.Time      `json:"end-time"`
	Err         *string        `json:"err"`
	Matcher     matcherResult  `json:"matcher-result"`
	Meta        map[string]any `json:"meta"`
	Property    string         `json:"property"`
	ID          string         `json:"resource-id"`
	Type        string         `json:"resource-type"`
	Result      Result         `json:"result"`
	Skipped     bool           `json:"skipped"`
	Start       time.Time      `json:"start-time"`
	Successful  bool           `json:"successful"`
	Summary     string         `json:"summary-line"`
	SummaryLine string         `json:"summary-line-compact"`
	Title       string         `json:"title"`
}

func (p *printer) jsonRows() []jsonRow {
	out := make([]jsonRow, 0, len(p.rows))
	for _, r := range p.rows {
		o := r.Outcome
		j := jsonRow{
			Duration: r.Duration.Nanoseconds(), Start: r.Start, End: r.Start.Add(r.Duration), Meta: r.Meta,
			Property: r.Property, ID: r.ID, Type: r.Type, Result: r.Result, Skipped: r.Result == Skip, Successful: r.Result != Fail,
			Summary: p.message(r, false), SummaryLine: p.message(r, true), Title: r.Title,
		}
		if o.Err != nil {
			s := o.Err.Error()
			j.Err = &s
		} else if r.Result != Skip {
			j.Matcher = matcherResult{o.Actual, o.Expected, o.Extra, o.Found, o.Message, o.Missing, o.Transforms, o.Raw}
			if !p.raw {
				j.Matcher.Untransform = nil
			}
		}
		// A number that is none has no form in JSON.
		for _, v := range []*any{&j.Matcher.Actual, &j.Matcher.Expected, &j.Matcher.Untransform} {
			if _, err := marshal(*v); err != nil {
				*v = fmt.Sprint(*v)
			}
		}
		out = append(out, j)
	}
	return out
}

func (p *printer) json(pretty bool) error {
	doc := map[string]any{
		"results": p.jsonRows(),
		"summary": map[string]any{
			"failed-count": p.failed, "skipped-count": p.skipped, "test-count": len(p.rows), "total-duration": p.opt.Duration.Nanoseconds(),
			"summary-line": fmt.Sprintf("Count: %d, Failed: %d, Skipped: %d, Duration: %s", len(p.rows), p.failed, p.skipped, p.seconds()),
		},
	}
	return p.encode(doc, pretty)
}

func (p *printer) encode(doc any, pretty bool) error {
	e := json.NewEncoder(p)
	if pretty {
		e.SetIndent("", "    ")
	}
	return e.Encode(doc)
}

// structured is JSON with less of a summary.
func (p *printer) structured() error {
	return p.encode(map[string]any{
		"results":      p.jsonRows(),
		"summary":      map[string]any{"test-count": len(p.rows), "failed-count": p.failed, "total-duration": p.opt.Duration.Nanoseconds()},
		"summary-line": fmt.Sprintf("Count: %d, Failed: %d, Duration: %s", len(p.rows), p.failed, p.seconds()),
	}, false)
}

func (p *printer) junit() {
	esc := func(s string) string {
		var b bytes.Buffer
		_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes everything
		return b.String()
	}
	p.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	p.printf("<testsuite name=\"goss\" errors=\"0\" tests=\"%d\" failures=\"%d\" skipped=\"%d\" time=\"%.3f\" timestamp=\"%s\">\n",
		len(p.rows), p.failed, p.skipped, p.opt.Duration.Seconds(), p.opt.Start.UTC().Format(time.RFC3339))
	for _, r := range p.rows {
		name := r.Title
		if name == "" {
			name = r.Type + " " + r.ID + " " + r.Property
		}
		said := esc(p.message(r, true))
		p.printf("<testcase name=\"%s\" time=\"%.3f\">\n", esc(clean(oneLine(name))), r.Duration.Seconds())
		switch r.Result {
		case Fail:
			p.printf("<system-err>%s</system-err>\n<failure>%s</failure>\n", said, said)
		case Skip:
			p.printf("<skipped/><system-out>%s</system-out>\n", said)
		default:
			p.printf("<system-out>%s</system-out>\n", said)
		}
		p.WriteString("</testcase>\n")
	}
	p.WriteString("</testsuite>\n")
}

func (p *printer) nagios(verbose, perfdata bool) {
	word := "OK"
	if p.failed > 0 {
		word = "CRITICAL"
	}
	p.printf("GOSS %s - Count: %d, Failed: %d, Skipped: %d, Duration: %s", word, len(p.rows), p.failed, p.skipped, p.seconds())
	if perfdata {
		p.printf("|total=%d failed=%d skipped=%d duration=%s", len(p.rows), p.failed, p.skipped, p.seconds())
	}
	p.WriteString("\n")
	n := 0
	for _, r := range p.rows {
		if verbose && r.Result == Fail {
			n++
			p.printf("Fail %d - %s\n", n, p.message(r, true))
		}
	}
}

// prometheus counts by what came of the checks, and by resource with verbose.
func (p *printer) prometheus(verbose bool) {
	type group struct {
		labels string
		count  int
		ms     int64
	}
	var groups []group
	outcome := [...]string{"pass", "fail", "skip"}
	label := func(s string) string {
		return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
	}
	for _, r := range p.rows {
		labels := `outcome="` + outcome[r.Result] + `"`
		if verbose {
			labels += `,resource_id="` + label(r.ID) + `"`
		}
		labels += `,type="` + label(strings.ToLower(r.Type)) + `"`
		i := slices.IndexFunc(groups, func(g group) bool { return g.labels == labels })
		if i < 0 {
			i = len(groups)
			groups = append(groups, group{labels: labels})
		}
		groups[i].count++
		groups[i].ms += r.Duration.Milliseconds()
	}
	slices.SortFunc(groups, func(a, b group) int { return cmp.Compare(a.labels, b.labels) })
	run := `outcome="pass"`
	if p.failed > 0 {
		run = `outcome="fail"`
	}
	metric := func(name, help string) { p.printf("# HELP %s %s\n# TYPE %s counter\n", name, help, name) }
	if len(groups) > 0 {
		metric("goss_tests_outcomes_duration_milliseconds", "How long the checks took, in milliseconds; they may share the time.")
		for _, g := range groups {
			p.printf("goss_tests_outcomes_duration_milliseconds{%s} %d\n", g.labels, g.ms)
		}
		metric("goss_tests_outcomes_total", "How many checks came to which outcome.")
		for _, g := range groups {
			p.printf("goss_tests_outcomes_total{%s} %d\n", g.labels, g.count)
		}
	}
	metric("goss_tests_run_duration_milliseconds", "How long the run took, in milliseconds.")
	p.printf("goss_tests_run_duration_milliseconds{%s} %d\n", run, p.opt.Duration.Milliseconds())
	metric("goss_tests_run_outcomes_total", "What came of the run as a whole.")
	p.printf("goss_tests_run_outcomes_total{%s} 1\n", run)
}

func (p *printer) tap() {
	p.printf("1..%d\n", len(p.rows))
	for i, r := range p.rows {
		verdict := [...]string{"ok %d - ", "not ok %d - ", "ok %d - # SKIP "}[r.Result]
		p.printf(verdict, i+1)
		p.WriteString(p.color(r.Result, p.message(r, true)) + "\n")
	}
}
