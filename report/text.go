package report

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
)

// text is what the formats for people have in common: it follows the bakes and
// writes the lines that stay.
type text struct {
	Options
	bakes []*bake // in the order of their first event
	begun time.Time
}

func newText(o Options) *text { return &text{Options: o} }

type bake struct {
	name           string
	color          string
	started, ended bool
	steps          []*step // running
	done           []event.Event
	err, artifact  string
}

type step struct {
	name         string
	begun, last  time.Time // last: when something was shown
	bytes, total int64
}

// Packer's order.
var colors = [...]string{"32", "36", "35", "33", "34"}

const (
	red    = "31"
	yellow = "33"
)

func (t *text) paint(color, s string) string {
	if !t.Color || s == "" {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// bake finds the bake that an event belongs to. Should two have the same name,
// it is the first that has not ended.
func (t *text) bake(e event.Event) *bake {
	for _, b := range t.bakes {
		if b.name == e.Bake && !b.ended && !(b.started && e.Kind == event.BakeStarted) {
			return b
		}
	}
	b := &bake{name: e.Bake, color: colors[len(t.bakes)%len(colors)]}
	t.bakes = append(t.bakes, b)
	return b
}

func (b *bake) step(name string) *step {
	for _, s := range b.steps {
		if s.name == name {
			return s
		}
	}
	return nil
}

// blamed is the step whose error the bake ended with, if it was one's: others
// may have failed too, before it or while things were given back.
func (b *bake) blamed(err string) string {
	for _, s := range b.done {
		if s.Error != "" && strings.HasPrefix(err, s.Error) {
			return s.Step
		}
	}
	return ""
}

// record writes the lines of one event and keeps what it says of the bake.
func (t *text) record(out *bytes.Buffer, now time.Time, e record) {
	if t.begun.IsZero() {
		t.begun = e.Time
	}
	if e.Bake == "" {
		t.global(out, e)
		return
	}
	b := t.bake(e.Event)
	s := b.step(e.Step)
	if s != nil && e.Kind != event.Progress {
		s.last = now
	}
	switch e.Kind {
	case event.BakeStarted:
		b.started = true
	case event.BakeEnded:
		b.started, b.ended, b.steps = true, true, nil
		took := human(time.Duration(e.Seconds * float64(time.Second)))
		if e.Error == "" {
			b.artifact = e.artifact
			fmt.Fprintf(out, "%s\n", t.paint(b.color, fmt.Sprintf("Build '%s' finished after %s.", b.name, took)))
			return
		}
		b.err = e.Error
		if name := b.blamed(e.Error); !strings.Contains(firstLine(e.Error), name) {
			b.err = name + ": " + e.Error
		}
		fmt.Fprintf(out, "%s\n", t.paint(red, fmt.Sprintf("Build '%s' errored after %s: %s", b.name, took, b.err)))
	case event.StepStarted:
		b.steps = append(b.steps, &step{name: e.Step, begun: e.Time, last: now})
		t.line(out, b, e, "", "["+e.Step+"]")
	case event.StepEnded:
		b.steps = slices.DeleteFunc(b.steps, func(s *step) bool { return s.name == e.Step })
		b.done = append(b.done, e.Event)
		if took := short(e.Seconds); e.Error == "" {
			t.line(out, b, e, "", fmt.Sprintf("[%s] done in %s", e.Step, took))
		} else {
			t.line(out, b, e, red, fmt.Sprintf("[%s] failed after %s: %s", e.Step, took, firstLine(e.Error)))
		}
	case event.Progress:
		if s != nil {
			s.bytes, s.total = e.Bytes, e.Total
		}
	case event.Warning:
		t.line(out, b, e, yellow, "Warning: "+e.Text)
	case event.Output:
		t.line(out, b, e, "", e.Text)
	default:
		text := e.Text
		if e.Error != "" {
			text = strings.TrimPrefix(text+": "+e.Error, ": ")
		}
		if text != "" {
			color := ""
			if e.Error != "" {
				color = red
			}
			t.line(out, b, e, color, text)
		}
	}
}

// global writes what concerns no single bake.
func (t *text) global(out *bytes.Buffer, e record) {
	switch {
	case e.Error != "":
		fmt.Fprintf(out, "%s\n", t.paint(red, strings.TrimPrefix(e.Text+": "+e.Error, ": ")))
	case e.Kind == event.Warning:
		fmt.Fprintf(out, "%s\n", t.paint(yellow, "Warning: "+e.Text))
	case e.Text != "":
		fmt.Fprintf(out, "%s\n", e.Text)
	}
}

// line writes a line about a bake, or several when s has several.
func (t *text) line(out *bytes.Buffer, b *bake, e record, color, s string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		if t.Timestamp {
			out.WriteString(e.Time.Local().Format(time.RFC3339) + ": ")
		}
		out.WriteString(t.paint(b.color, "==> "+b.name+":"))
		if line != "" {
			if color != "" {
				line = t.paint(color, line)
			}
			out.WriteString(" " + line)
		}
		out.WriteByte('\n')
	}
}

// summary says what became of every bake.
func (t *text) summary(out *bytes.Buffer, now time.Time) {
	var good, bad bytes.Buffer
	any := false
	for _, b := range t.bakes {
		if !b.started {
			continue
		}
		any = true
		switch {
		case !b.ended:
			fmt.Fprintf(&bad, "--> %s: it did not come to its end\n", b.name)
		case b.err != "":
			fmt.Fprintf(&bad, "--> %s: %s\n", b.name, t.paint(red, b.err))
		case b.artifact != "":
			fmt.Fprintf(&good, "--> %s: %s\n", b.name, b.artifact)
		}
	}
	if !any {
		return
	}
	fmt.Fprintf(out, "\n==> Wait completed after %s\n", human(now.Sub(t.begun)))
	if t.Verbose {
		t.table(out)
	}
	if bad.Len() > 0 {
		fmt.Fprintf(out, "\n==> Some builds didn't complete successfully and had errors:\n%s", &bad)
	}
	if good.Len() > 0 {
		fmt.Fprintf(out, "\n==> Builds finished. The artifacts of successful builds are:\n%s", &good)
	} else {
		fmt.Fprintf(out, "\n==> Builds finished but no artifacts were created.\n")
	}
}

// table is the duration of every step.
func (t *text) table(out *bytes.Buffer) {
	for _, b := range t.bakes {
		if len(b.done) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n==> %s: seconds per step\n", b.name)
		for _, e := range b.done {
			note := ""
			if e.Error != "" {
				note = " (failed)"
			}
			fmt.Fprintf(out, "%10.1f  %s%s\n", e.Seconds, e.Step, note)
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// short is a duration for a line: 12ms, 3.4s, 2m3s.
func short(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// human is a duration in words, in its two largest units.
func human(d time.Duration) string {
	var words []string
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}, {time.Millisecond, "millisecond"}} {
		if n := d / unit.size; n > 0 {
			d -= n * unit.size
			if n != 1 {
				unit.name += "s"
			}
			words = append(words, fmt.Sprintf("%d %s", n, unit.name))
		}
		if len(words) == 2 {
			break
		}
	}
	if words == nil {
		return "0 seconds"
	}
	return strings.Join(words, " ")
}

// moved is how much a step has moved, if that is known.
func (s *step) moved() string {
	switch {
	case s.total > 0:
		return size(s.bytes) + " of " + size(s.total)
	case s.bytes > 0:
		return size(s.bytes)
	}
	return ""
}

func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n)/1024, "KMGTPE"
	i := 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// plain is one line after another.
type plain struct{ *text }

// silence is after how long a step that says nothing is shown to be running.
const silence = time.Minute

func (p *plain) render(out *bytes.Buffer, now time.Time, records []record) {
	for _, r := range records {
		p.record(out, now, r)
	}
	for _, b := range p.bakes {
		for _, s := range b.steps {
			if now.Sub(s.last) < silence {
				continue
			}
			s.last = now
			line := fmt.Sprintf("[%s] still running after %s", s.name, short(now.Sub(s.begun).Seconds()))
			if moved := s.moved(); moved != "" {
				line += ", " + moved
			}
			p.line(out, b, record{Event: event.Event{Time: now}}, "", line)
		}
	}
}

func (p *plain) next(time.Time) (next time.Time) {
	for _, b := range p.bakes {
		for _, s := range b.steps {
			if due := s.last.Add(silence); next.IsZero() || due.Before(next) {
				next = due
			}
		}
	}
	return next
}

func (p *plain) end(out *bytes.Buffer, now time.Time) { p.summary(out, now) }
