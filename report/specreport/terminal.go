package specreport

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/ingotbuild/ingot/specs"
)

// few is how many checks still fit on a screen one a line.
const few = 30

func auto(w *bytes.Buffer, targets []Target, o Options) error {
	if _, all, _ := counts(targets); all > few {
		return dots(w, targets, o)
	}
	return tree(w, targets, o)
}

// A mark is how a verdict is shown: in one character, in a word, in colour.
type mark struct{ dot, word, color string }

func marks(s specs.Status) mark {
	switch s {
	case specs.Pass:
		return mark{".", "ok", "32"}
	case specs.Fail:
		return mark{"F", "FAIL", "31"}
	case specs.Skip:
		return mark{"s", "skip", "36"}
	case specs.Waived:
		return mark{"w", "waived", "33"}
	}
	return mark{"E", "ERROR", "35"}
}

// dots writes one character per check, and what is red below them.
func dots(w *bytes.Buffer, targets []Target, o Options) error {
	for _, t := range targets {
		heading(w, t, targets, o)
		column := 0
		for _, rep := range t.Reports {
			for _, r := range rep.Results {
				if column >= o.Width-1 { // a terminal may wrap once the last column is filled
					w.WriteByte('\n')
					column = 0
				}
				m := marks(verdict(r))
				w.WriteString(paint(o, m.color, m.dot))
				column++
			}
		}
		if column > 0 {
			w.WriteByte('\n')
		}
	}
	failures(w, targets, o)
	return nil
}

// tree writes a line per check below its subject, and what is red once more at
// the end.
func tree(w *bytes.Buffer, targets []Target, o Options) error {
	for _, t := range targets {
		heading(w, t, targets, o)
		for _, rep := range t.Reports {
			name := line(rep.Spec)
			if rep.Title != "" {
				name += ": " + line(rep.Title)
			}
			wrap(w, o, "", "", "", name)
			last := ""
			for _, r := range rep.Results {
				if a := about(r); a != last {
					last = a
					wrap(w, o, "  ", "  ", "", a)
				}
				m := marks(verdict(r))
				text := claim(r)
				if v := verdict(r); v == specs.Skip || v == specs.Waived {
					text += " (" + line(r.Message) + ")"
				}
				wrap(w, o, "    "+paint(o, m.color, fmt.Sprintf("%-6s", m.word))+" ", strings.Repeat(" ", 11), "", text)
			}
		}
	}
	failures(w, targets, o)
	return nil
}

func heading(w *bytes.Buffer, t Target, targets []Target, o Options) {
	if len(targets) > 1 {
		wrap(w, o, "", "", "1", "== "+line(t.Name))
	}
}

// failures writes what is red: what was expected, what is, and where the
// template says so; then the counts.
func failures(w *bytes.Buffer, targets []Target, o Options) {
	c, _, seconds := counts(targets)
	n := 0
	for _, t := range targets {
		for _, rep := range t.Reports {
			for _, r := range rep.Results {
				v := verdict(r)
				if !red(r) && !(o.Verbose && v == specs.Waived) {
					continue
				}
				n++
				m := marks(v)
				text := about(r)
				if len(targets) > 1 {
					text = line(t.Name) + ": " + text
				}
				first := fmt.Sprintf("%3d) ", n) + paint(o, m.color, m.word) + " "
				w.WriteByte('\n')
				wrap(w, o, first, "     ", "1", text)
				detail := func(label, text string) {
					if text != "" {
						wrap(w, o, fmt.Sprintf("     %-10s", label), strings.Repeat(" ", 15), "", text)
					}
				}
				detail("title:", line(r.Title))
				detail("expected:", claim(r))
				detail("actual:", line(r.Actual))
				detail("reason:", line(r.Message))
				if r.Tries > 1 {
					detail("tries:", fmt.Sprint(r.Tries))
				}
				detail("at:", where(r))
			}
		}
		if t.Err != nil {
			n++
			w.WriteByte('\n')
			wrap(w, o, fmt.Sprintf("%3d) ", n)+paint(o, "35", "ERROR")+" ", "     ", "1", line(t.Name))
			wrap(w, o, "     reason:   ", strings.Repeat(" ", 15), "", line(t.Err.Error()))
		}
	}
	if n > 0 {
		w.WriteByte('\n')
	}
	trips := 0
	for _, t := range targets {
		for _, r := range t.Reports {
			trips += r.RoundTrips
		}
	}
	text := inWords(c)
	if len(targets) > 1 {
		good := 0
		for _, t := range targets {
			if t.Passed() {
				good++
			}
		}
		text = fmt.Sprintf("%d of %d machines are good: %s", good, len(targets), text)
	}
	text += fmt.Sprintf(" in %.2f s, %d round trip", seconds, trips)
	if trips != 1 {
		text += "s"
	}
	wrap(w, o, "", "", marks(of(c)).color, text)
}

func paint(o Options, color, s string) string {
	if !o.Color || color == "" {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// wrap writes text behind first, and what does not fit in the width on lines
// behind rest. text is clean; first may be painted already.
func wrap(w *bytes.Buffer, o Options, first, rest, color, text string) {
	cond := &runewidth.Condition{StrictEmojiNeutral: true} // as outside of East Asia
	plain := first
	for strings.Contains(plain, "\x1b[") {
		head, tail, _ := strings.Cut(plain, "\x1b[")
		_, tail, _ = strings.Cut(tail, "m")
		plain = head + tail
	}
	room := max(o.Width-1-cond.StringWidth(plain), 10)
	for prefix := first; ; prefix = rest {
		head := cond.Truncate(text, room, "")
		if len(head) < len(text) {
			if i := strings.LastIndexByte(head, ' '); i > len(head)/2 {
				head = head[:i]
			}
			if head == "" { // not even one character fits
				head = text
			}
		}
		w.WriteString(prefix + paint(o, color, head) + "\n")
		text = strings.TrimPrefix(text[len(head):], " ")
		if text == "" {
			return
		}
		room = max(o.Width-1-cond.StringWidth(rest), 10)
	}
}
