// Package report shows people and CI what the events of a run say: a live
// terminal, plain lines, JSON lines, or lines as Packer writes them for machines.
package report

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"golang.org/x/term"
)

// Reporter writes events. Emit masks and queues them, so that a slow writer
// does not hold up a bake. While the writer is behind, progress events are
// dropped; no others are. Only with 32 MiB of text waiting does Emit wait.
type Reporter interface {
	event.Sink
	// Close writes what is left and the summary, and returns the first error of
	// the writer. Events that come later are dropped.
	Close() error
}

// Format is how a Reporter writes.
type Format string

const (
	// Auto is Terminal when the writer is a terminal and the environment does
	// not say otherwise (CI, NO_COLOR, TERM=dumb), else Plain.
	Auto Format = "auto"
	// Terminal lets lines scroll above one live line per running bake.
	Terminal Format = "terminal"
	// Plain is one line per thing that happened, as Packer writes them.
	Plain Format = "plain"
	// JSON is one event per line, and no summary.
	JSON Format = "json"
	// Machine is Packer's machine-readable format: the plain lines as ui lines,
	// then error-count, error, artifact-count and artifact.
	Machine Format = "machine"
)

// Options say how to report. The zero value is Auto without colour.
type Options struct {
	Format Format
	// Color colours the Terminal format.
	Color bool
	// Size is the terminal's width and height in characters, asked for at every
	// redraw. Nil asks the writer; 80 × 24 if it does not know.
	Size func() (columns, rows int)
	// Timestamp puts the time before each line about a bake.
	Timestamp bool
	// Verbose adds the duration of each step to the summary.
	Verbose bool
	// Secrets are replaced by <sensitive> wherever they occur in an event; those
	// of fewer than 4 characters only where they are a word of their own.
	Secrets []string
}

const (
	// maxQueue is from how many waiting events on progress is dropped.
	maxQueue = 1000
	// maxText is from how many waiting bytes on Emit waits.
	maxText = 32 << 20
)

// New returns a Reporter that writes to w until it is closed.
func New(w io.Writer, o Options) Reporter {
	file, _ := w.(*os.File)
	if o.Format == "" || o.Format == Auto {
		o.Format = Plain
		if file != nil && term.IsTerminal(int(file.Fd())) && os.Getenv("CI") == "" && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
			o.Format = Terminal
		}
	}
	if o.Size == nil {
		o.Size = func() (int, int) { return 0, 0 }
		if file != nil {
			o.Size = func() (int, int) {
				columns, rows, _ := term.GetSize(int(file.Fd()))
				return columns, rows
			}
		}
	}
	r := &reporter{w: w, mask: newMasker(o.Secrets), json: o.Format == JSON, most: maxText, wake: make(chan struct{}, 1), done: make(chan struct{})}
	r.space = sync.NewCond(&r.mu)
	switch o.Format {
	case JSON:
		r.view = jsonLines{}
	case Terminal:
		if file != nil {
			enableEscapes(file)
		}
		r.view, r.pace = &terminal{text: newText(o), size: o.Size}, 100*time.Millisecond
	case Machine:
		o.Color = false
		r.view = &machine{plain: plain{newText(o)}}
	default:
		o.Color = false
		r.view = &plain{newText(o)}
	}
	go r.loop()
	return r
}

// record is an event that is ready to be shown: clean and without secrets.
type record struct {
	event.Event
	artifact string             // the text of BakeEnded's artifact, for people
	made     *builders.Artifact // that artifact, as far as it is shown
	data     []byte             // Data, for JSON
}

func (e *record) size() int {
	return 256 + len(e.Bake) + len(e.Step) + len(e.Text) + len(e.Error) + len(e.data) + len(e.artifact)
}

// view turns records into output. It is used by one goroutine.
type view interface {
	// render shows records, of which there may be none.
	render(out *bytes.Buffer, now time.Time, records []record)
	// next is when render has something to show without records; zero: never.
	next(now time.Time) time.Time
	// end shows what comes last.
	end(out *bytes.Buffer, now time.Time)
}

type reporter struct {
	w    io.Writer
	mask *masker
	json bool
	view view
	pace time.Duration // least time between two writes
	most int           // bytes in the queue before Emit waits

	mu     sync.Mutex
	space  *sync.Cond // signalled when the queue was taken
	queue  []record
	text   int // bytes in the queue, about
	closed bool

	wake chan struct{}
	done chan struct{}
	err  error // of the writer; to be read once done is closed
}

// Emit implements event.Sink.
func (r *reporter) Emit(e event.Event) {
	rec := r.prepare(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == event.Progress && len(r.queue) >= maxQueue {
		return
	}
	for r.text > r.most && !r.closed {
		r.space.Wait()
	}
	if r.closed {
		return
	}
	r.queue = append(r.queue, rec)
	r.text += rec.size()
	r.poke()
}

func (r *reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reporter) prepare(e event.Event) record {
	rec := record{Event: e}
	rec.Data = nil
	show := func(s string) string {
		if !r.json {
			s = clean(s)
		}
		return r.mask.text(s)
	}
	rec.Bake, rec.Step, rec.Stream, rec.Text, rec.Error = show(e.Bake), show(e.Step), show(e.Stream), show(e.Text), show(e.Error)
	if r.json {
		rec.data = r.mask.data(e.Data)
		return rec
	}
	if e.Kind == event.BakeEnded {
		rec.artifact = rec.Text
		if a, ok := e.Data.(*builders.Artifact); ok && a != nil {
			rec.artifact = show(a.Text)
			rec.made = &builders.Artifact{BuilderID: show(a.BuilderID), ID: show(a.ID), Text: show(a.Text)}
			for _, f := range a.Files {
				rec.made.Files = append(rec.made.Files, show(f))
			}
		}
	}
	return rec
}

// Close implements Reporter.
func (r *reporter) Close() error {
	r.mu.Lock()
	r.closed = true
	r.space.Broadcast()
	r.poke()
	r.mu.Unlock()
	<-r.done
	return r.err
}

func (r *reporter) loop() {
	defer close(r.done)
	var out bytes.Buffer
	for {
		var timer *time.Timer
		var tick <-chan time.Time
		if next := r.view.next(time.Now()); !next.IsZero() {
			timer = time.NewTimer(time.Until(next))
			tick = timer.C
		}
		select {
		case <-r.wake:
		case <-tick:
		}
		if timer != nil {
			timer.Stop()
		}
		r.mu.Lock()
		records, closed := r.queue, r.closed
		r.queue, r.text = nil, 0
		r.space.Broadcast()
		r.mu.Unlock()

		out.Reset()
		r.view.render(&out, time.Now(), records)
		if closed {
			r.view.end(&out, time.Now())
		}
		if out.Len() > 0 && r.err == nil {
			if _, err := r.w.Write(out.Bytes()); err != nil {
				r.err = fmt.Errorf("write the report: %w", err)
			}
		}
		if closed {
			return
		}
		r.rest()
	}
}

// rest keeps the pace, unless the reporter is closed meanwhile.
func (r *reporter) rest() {
	if r.pace == 0 {
		return
	}
	timer := time.NewTimer(r.pace)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			r.poke() // for the events whose wake was taken here
			return
		case <-r.wake:
			r.mu.Lock()
			closed := r.closed
			r.mu.Unlock()
			if closed {
				r.poke()
				return
			}
		}
	}
}
