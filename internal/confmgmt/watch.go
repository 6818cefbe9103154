package confmgmt

import (
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
)

// watch reads output on its way, and takes the marks out of it.
type watch struct {
	mark string
	line func(stream, text string)
	tail script.Tail

	mu    sync.Mutex
	marks []string // what followed the mark
}

// maxMarks is more than a run sets; a machine may repeat them without end.
const maxMarks = 100

// Emit implements event.Sink.
func (w *watch) Emit(e event.Event) {
	if e.Kind != event.Output {
		w.tail.Emit(e)
		return
	}
	// A mark follows on text whose line had no end.
	before, mark, found := strings.Cut(e.Text, w.mark+" ")
	if found {
		w.mu.Lock()
		if len(w.marks) < maxMarks {
			w.marks = append(w.marks, strings.TrimSpace(Clean(mark)))
		}
		w.mu.Unlock()
		if before == "" {
			return
		}
		e.Text = before
	}
	if w.line != nil {
		text := Clean(e.Text)
		w.mu.Lock() // the two streams come side by side
		w.line(e.Stream, text)
		w.mu.Unlock()
	}
	w.tail.Emit(e)
}

var escapes = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])`)

// Clean makes plain text of a line from a machine: no colours, no control
// characters but tabs, nothing that turns the writing direction.
func Clean(s string) string {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c > '~' {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	s = escapes.ReplaceAllString(strings.ToValidUTF8(s, "\ufffd"), "")
	return strings.Map(func(r rune) rune {
		if r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, s)
}

// Said collects messages for an error: each once, the first ones, none too long.
type Said struct {
	list []string
	more bool
}

const (
	saidMost = 12
	saidLong = 1000 // bytes
)

// Add adds a cleaned message.
func (s *Said) Add(text string) {
	text = strings.TrimSpace(text)
	if len(text) > saidLong {
		cut := saidLong
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	switch {
	case text == "" || slices.Contains(s.list, text):
	case len(s.list) == saidMost:
		s.more = true
	default:
		s.list = append(s.list, text)
	}
}

// Any says whether there is a message.
func (s *Said) Any() bool { return len(s.list) > 0 }

// Or is the messages, each on a line of its own, below what an error has to
// say; without messages it is the last lines of the output.
func (s *Said) Or(tail *script.Tail) string {
	if len(s.list) == 0 {
		return tail.String()
	}
	out := ":"
	for _, text := range s.list {
		out += "\n    " + text
	}
	if s.more {
		out += "\n    … and more, in the output above"
	}
	return out
}
