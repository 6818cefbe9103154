package report

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
)

type jsonLines struct{}

func (jsonLines) render(out *bytes.Buffer, _ time.Time, records []record) {
	for _, r := range records {
		e := r.Event
		if r.data != nil {
			e.Data = json.RawMessage(r.data)
		}
		line, err := json.Marshal(e)
		if err != nil { // a time or number that JSON does not have
			line, _ = json.Marshal(event.Event{Kind: event.Warning, Bake: e.Bake, Step: e.Step, Text: "an event cannot be encoded: " + err.Error()})
		}
		out.Write(append(line, '\n'))
	}
}

func (jsonLines) next(time.Time) time.Time     { return time.Time{} }
func (jsonLines) end(*bytes.Buffer, time.Time) {}
