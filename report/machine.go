package report

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
)

// WriteMachine writes one line of Packer's machine-readable format:
// seconds,target,category,data... The target is a bake, or empty. Commas and
// line ends in the data are written as Packer writes them.
func WriteMachine(w io.Writer, at time.Time, target, category string, data ...string) error {
	escape := strings.NewReplacer(",", "%!(PACKER_COMMA)", "\r", `\r`, "\n", `\n`)
	line := fmt.Sprintf("%d,%s,%s", at.Unix(), escape.Replace(target), category)
	for _, d := range data {
		line += "," + escape.Replace(d)
	}
	_, err := io.WriteString(w, line+"\n")
	return err
}

// machine writes what plain writes as ui lines, and the outcome of every bake
// in lines of their own.
type machine struct {
	plain
	results []result
}

type result struct {
	bake, err string
	made      *builders.Artifact // masked; nil: none
}

func (m *machine) render(out *bytes.Buffer, now time.Time, records []record) {
	var lines bytes.Buffer
	for _, r := range records {
		kind := "say"
		switch {
		case r.Error != "":
			kind = "error"
		case r.Kind == event.Output:
			kind = "message"
		}
		if r.Kind == event.BakeEnded {
			m.results = append(m.results, result{r.Bake, r.Error, r.made})
		}
		lines.Reset()
		m.record(&lines, now, r)
		say(out, now, kind, lines.String())
	}
	lines.Reset()
	m.plain.render(&lines, now, nil)
	say(out, now, "say", lines.String())
}

func (m *machine) end(out *bytes.Buffer, now time.Time) {
	var failed, made []result
	for _, r := range m.results {
		if r.err != "" {
			failed = append(failed, r)
		} else if r.made != nil {
			made = append(made, r)
		}
	}
	write := func(target, category string, data ...string) {
		_ = WriteMachine(out, now, target, category, data...) // a buffer takes everything
	}
	if len(failed) > 0 {
		write("", "error-count", strconv.Itoa(len(failed)))
		for _, r := range failed {
			write(r.bake, "error", r.err)
		}
	}
	for _, r := range made {
		write(r.bake, "artifact-count", "1")
		write(r.bake, "artifact", "0", "builder-id", r.made.BuilderID)
		write(r.bake, "artifact", "0", "id", r.made.ID)
		write(r.bake, "artifact", "0", "string", r.made.Text)
		write(r.bake, "artifact", "0", "files-count", strconv.Itoa(len(r.made.Files)))
		for i, f := range r.made.Files {
			write(r.bake, "artifact", "0", "file", strconv.Itoa(i), f)
		}
		write(r.bake, "artifact", "0", "end")
	}
	var lines bytes.Buffer
	m.summary(&lines, now)
	say(out, now, "say", lines.String())
}

// say writes each line of text that is not empty as a line of the user interface.
func say(out *bytes.Buffer, now time.Time, kind, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		if line != "" {
			_ = WriteMachine(out, now, "", "ui", kind, line)
		}
	}
}
