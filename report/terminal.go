package report

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
)

// terminal lets the lines of text scroll above a live line per running bake.
type terminal struct {
	*text
	size  func() (columns, rows int)
	drawn []int // the widths of the live lines on the screen
}

// narrow measures as terminals outside of East Asia do.
func narrow() *runewidth.Condition { return &runewidth.Condition{StrictEmojiNeutral: true} }

func (t *terminal) render(out *bytes.Buffer, now time.Time, records []record) {
	columns, rows := t.size()
	if columns <= 0 || rows <= 0 {
		columns, rows = 80, 24
	}
	t.erase(out, columns)
	for _, r := range records {
		t.record(out, now, r)
	}
	t.draw(out, now, columns, rows)
}

// erase removes the live lines. The cursor stands below them.
func (t *terminal) erase(out *bytes.Buffer, columns int) {
	rows := 0
	for _, width := range t.drawn {
		rows += max(1, (width+columns-1)/columns) // the terminal may have become narrower
	}
	if rows > 0 {
		fmt.Fprintf(out, "\r\x1b[%dA\x1b[J", rows)
	}
	t.drawn = t.drawn[:0]
}

func (t *terminal) draw(out *bytes.Buffer, now time.Time, columns, rows int) {
	var running []*bake
	for _, b := range t.bakes {
		if b.started && !b.ended {
			running = append(running, b)
		}
	}
	// Live lines that do not fit could not be erased.
	most := max(1, rows-2)
	more := 0
	if len(running) > most {
		more = len(running) - most + 1
		running = running[:most-1]
	}
	live := func(color, line string) {
		// The last column stays free: a terminal may wrap once it is filled.
		line = narrow().Truncate(strings.ReplaceAll(line, "\t", " "), columns-1, "...")
		t.drawn = append(t.drawn, narrow().StringWidth(line))
		out.WriteString(t.paint(color, line) + "\n")
	}
	for _, b := range running {
		line := b.name
		if n := len(b.steps); n > 0 {
			s := b.steps[n-1]
			line += "  " + s.name + "  " + now.Sub(s.begun).Truncate(time.Second).String()
			if moved := s.moved(); moved != "" {
				line += "  " + moved
			}
		}
		live(b.color, strings.ReplaceAll(line, "\n", " "))
	}
	if more > 0 {
		live("", fmt.Sprintf("and %d more", more))
	}
}

// next is soon enough to let the seconds run.
func (t *terminal) next(now time.Time) time.Time {
	if len(t.drawn) == 0 {
		return time.Time{}
	}
	return now.Add(time.Second)
}

func (t *terminal) end(out *bytes.Buffer, now time.Time) {
	columns, _ := t.size()
	if columns <= 0 {
		columns = 80
	}
	t.erase(out, columns)
	t.summary(out, now)
}
