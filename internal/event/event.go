// Package event is how every part of a bake reports what it does. Components
// emit events; package report turns them into a terminal, plain lines or JSON.
package event

import (
	"bytes"
	"sync"
	"time"
)

// Kind says what an event is about. The values are part of the JSON lines
// format and do not change.
type Kind string

const (
	// BakeStarted and BakeEnded frame everything one bake says. BakeEnded
	// carries Error when the bake failed, and Data the artifact when it did not.
	BakeStarted Kind = "bake-started"
	BakeEnded   Kind = "bake-ended"
	// StepStarted and StepEnded frame one step: boot, a provisioner, a spec,
	// snapshot, release, a post-processor. StepEnded carries Seconds and Error.
	StepStarted Kind = "step-started"
	StepEnded   Kind = "step-ended"
	// Output is one line that a machine or a local command printed.
	Output Kind = "output"
	// Progress says how many Bytes of Total (0: unknown) a step has moved.
	Progress Kind = "progress"
	// Message is a line from Ingot itself, Warning one that deserves attention.
	Message Kind = "message"
	Warning Kind = "warning"
	// SpecResult is the verdict on one check; Data holds the result.
	SpecResult Kind = "spec-result"
)

// Event is one thing that happened. Fields that have no meaning for a kind are empty.
type Event struct {
	Time time.Time `json:"time"`
	Kind Kind      `json:"event"`
	// Bake is the full build name, e.g. "web.sandbox.quickstart"; empty for
	// what concerns the whole run.
	Bake string `json:"bake,omitempty"`
	// Step names the step within the bake, e.g. "boot" or "shell install".
	Step string `json:"step,omitempty"`
	// Stream is "stdout" or "stderr" for Output.
	Stream  string  `json:"stream,omitempty"`
	Text    string  `json:"text,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"`
	Total   int64   `json:"total,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Error   string  `json:"error,omitempty"`
	Data    any     `json:"data,omitempty"`
}

// Sink receives events. Emit is safe for concurrent use and returns quickly.
type Sink interface{ Emit(Event) }

// Func makes a Sink of a function that is safe for concurrent use.
type Func func(Event)

// Emit calls f.
func (f Func) Emit(e Event) { f(e) }

// Discard is a Sink that forgets everything.
var Discard Sink = Func(func(Event) {})

// Scope emits events of one bake and one step, so that components need not
// know which they are part of.
type Scope struct {
	Sink Sink
	Bake string
	Step string
}

// Emit fills in time, bake and step where they are empty, and passes e on.
func (s Scope) Emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Bake == "" {
		e.Bake = s.Bake
	}
	if e.Step == "" {
		e.Step = s.Step
	}
	if s.Sink != nil {
		s.Sink.Emit(e)
	}
}

// Say reports a message.
func (s Scope) Say(text string) { s.Emit(Event{Kind: Message, Text: text}) }

// Warn reports a warning.
func (s Scope) Warn(text string) { s.Emit(Event{Kind: Warning, Text: text}) }

// Progress reports bytes moved so far of total (0: unknown).
func (s Scope) Progress(bytes, total int64) {
	s.Emit(Event{Kind: Progress, Bytes: bytes, Total: total})
}

// Lines returns a writer that emits one Output event per line written to it.
// A line longer than 64 KiB is cut into several. Flush emits an unfinished
// last line. The writer is safe for concurrent use.
func (s Scope) Lines(stream string) *LineWriter { return &LineWriter{scope: s, stream: stream} }

// LineWriter turns a byte stream into Output events.
type LineWriter struct {
	scope  Scope
	stream string
	mu     sync.Mutex
	buf    []byte
}

const maxLine = 64 << 10

// Write never fails.
func (w *LineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.buf = append(w.buf, p...)
			for len(w.buf) >= maxLine {
				w.emit(w.buf[:maxLine])
				w.buf = append(w.buf[:0], w.buf[maxLine:]...)
			}
			break
		}
		w.emit(append(w.buf, p[:i]...))
		w.buf = w.buf[:0]
		p = p[i+1:]
	}
	return n, nil
}

// Flush emits what has been written since the last newline, if anything.
func (w *LineWriter) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) > 0 {
		w.emit(w.buf)
		w.buf = w.buf[:0]
	}
}

func (w *LineWriter) emit(line []byte) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	w.scope.Emit(Event{Kind: Output, Stream: w.stream, Text: string(line)})
}
