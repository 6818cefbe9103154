package specreport

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/specs"
)

// JSONSchema is the version of the formats json and jsonl. It grows when a
// field changes its meaning or goes away; new fields may come at any time.
const JSONSchema = 1

type (
	jsonCounts struct {
		specs.Counts
		// Checks is how many checks there are. Errors may be more than there are
		// checks: a machine that could not be asked is one.
		Checks int `json:"checks"`
	}
	jsonReport struct {
		Schema  int          `json:"schema"`
		Time    time.Time    `json:"time"`
		Verdict specs.Status `json:"verdict"`
		Summary jsonCounts   `json:"summary"`
		Seconds float64      `json:"seconds"`
		Targets []jsonTarget `json:"targets"`
	}
	jsonTarget struct {
		Name    string       `json:"name"`
		Verdict specs.Status `json:"verdict"`
		Error   string       `json:"error,omitempty"`
		Summary jsonCounts   `json:"summary"`
		Specs   []jsonSpec   `json:"specs"`
	}
	jsonSpec struct {
		Spec       string         `json:"spec"`
		Title      string         `json:"title,omitempty"`
		Verdict    specs.Status   `json:"verdict"`
		Summary    jsonCounts     `json:"summary"`
		Started    time.Time      `json:"started,omitzero"`
		Seconds    float64        `json:"seconds"`
		RoundTrips int            `json:"round_trips"`
		Checks     []specs.Result `json:"checks"`
	}
)

// asJSON writes one document.
func asJSON(w *bytes.Buffer, targets []Target, o Options) error {
	c, n, seconds := counts(targets)
	doc := jsonReport{Schema: JSONSchema, Time: o.Now.UTC(), Verdict: of(c), Summary: jsonCounts{c, n}, Seconds: seconds, Targets: []jsonTarget{}}
	for _, t := range targets {
		c, n, _ := counts([]Target{t})
		jt := jsonTarget{Name: line(t.Name), Verdict: of(c), Error: why(t), Summary: jsonCounts{c, n}, Specs: []jsonSpec{}}
		for _, r := range t.Reports {
			js := jsonSpec{
				Spec: line(r.Spec), Title: line(r.Title), Verdict: r.Verdict(), Summary: jsonCounts{r.Counts(), len(r.Results)}, Started: r.Started,
				Seconds: r.Seconds, RoundTrips: r.RoundTrips, Checks: []specs.Result{},
			}
			for _, x := range r.Results {
				js.Checks = append(js.Checks, tidy(x))
			}
			jt.Specs = append(jt.Specs, js)
		}
		doc.Targets = append(doc.Targets, jt)
	}
	e := encoder(w)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}

func encoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

func why(t Target) string {
	if t.Err == nil {
		return ""
	}
	return line(t.Err.Error())
}

// tidy makes every text of a result fit for one line.
func tidy(r specs.Result) specs.Result {
	r.Status = verdict(r)
	for _, s := range []*string{&r.Resource, &r.Subject, &r.Title, &r.Property, &r.Expect, &r.Actual, &r.Message, &r.File} {
		*s = line(*s)
	}
	var tags []string
	for _, t := range r.Tags {
		tags = append(tags, line(t))
	}
	r.Tags = tags
	return r
}

// A Stream writes the format jsonl: a line for each check when its verdict is
// known, and a summary at the end. Its methods are safe for concurrent use.
type Stream struct {
	mu      sync.Mutex
	w       io.Writer
	started bool
	err     error
}

// NewStream makes a stream. Close has to be called at its end.
func NewStream(w io.Writer) *Stream { return &Stream{w: w} }

type (
	lineStart struct {
		Type   string    `json:"type"` // start
		Schema int       `json:"schema"`
		Time   time.Time `json:"time"`
	}
	lineCheck struct {
		Type   string `json:"type"` // check
		Target string `json:"target"`
		Spec   string `json:"spec"`
		specs.Result
	}
	lineTarget struct {
		Type    string       `json:"type"` // target
		Target  string       `json:"target"`
		Verdict specs.Status `json:"verdict"`
		Error   string       `json:"error,omitempty"`
		Summary jsonCounts   `json:"summary"`
	}
	lineSummary struct {
		Type    string       `json:"type"` // summary
		Schema  int          `json:"schema"`
		Time    time.Time    `json:"time"`
		Verdict specs.Status `json:"verdict"`
		Summary jsonCounts   `json:"summary"`
		Targets int          `json:"targets"`
		Seconds float64      `json:"seconds"`
	}
)

// Check writes the line of one check.
func (s *Stream) Check(target, spec string, r specs.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start(time.Now())
	s.line(lineCheck{"check", line(target), line(spec), tidy(r)})
}

// Close writes a line for each target and the summary of all, whose checks
// Check has been told of. It returns the first error of writing.
func (s *Stream) Close(targets []Target) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close(targets, time.Now())
}

func (s *Stream) start(now time.Time) {
	if !s.started {
		s.started = true
		s.line(lineStart{"start", JSONSchema, now.UTC()})
	}
}

func (s *Stream) line(v any) {
	if s.err != nil {
		return
	}
	var b bytes.Buffer // one write a line, so that a reader never sees half of one
	if s.err = encoder(&b).Encode(v); s.err == nil {
		_, s.err = s.w.Write(b.Bytes())
	}
}

func (s *Stream) close(targets []Target, now time.Time) error {
	s.start(now)
	for _, t := range targets {
		c, n, _ := counts([]Target{t})
		s.line(lineTarget{"target", line(t.Name), of(c), why(t), jsonCounts{c, n}})
	}
	c, n, seconds := counts(targets)
	s.line(lineSummary{"summary", JSONSchema, now.UTC(), of(c), jsonCounts{c, n}, len(targets), seconds})
	return s.err
}

func jsonLines(w *bytes.Buffer, targets []Target, o Options) error {
	s := NewStream(w)
	s.start(o.Now)
	for _, t := range targets {
		for _, rep := range t.Reports {
			for _, r := range rep.Results {
				s.Check(t.Name, rep.Spec, r)
			}
		}
	}
	return s.close(targets, o.Now)
}
