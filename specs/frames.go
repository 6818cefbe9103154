package specs

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A frame is what one section of the script printed on one stream.
type frame struct {
	data []byte
	// status is the exit status; -1 when the section did not end by itself.
	status       int
	began, ended time.Time
}

// frames takes one stream of a script apart as it arrives. Around each section
// the script prints a line that no one on the machine can guess. What it reads
// is hostile: anything out of order damages the whole stream.
type frames struct {
	mark  []byte // what every marker begins with, including the newline before it
	count int    // the number of sections that are asked for
	// allow says whether n more bytes may be kept; done is called once, when
	// the last marker has come.
	allow func(n int) bool
	done  func()
	// begun, if any, is told each section that begins as a process of its own. What
	// it returns is called when the section, or the stream, has ended.
	begun func(section int, pid string) (ended func())

	mu      sync.Mutex
	buf     []byte
	scanned int // everything before has been looked at
	open    int // where the data of the open section begins; -1 between sections
	began   time.Time
	running func()
	got     []frame
	ended   bool
	damaged error
}

func newFrames(token string, count int, allow func(int) bool, done func()) *frames {
	return &frames{mark: []byte("\n" + token + " "), count: count, allow: allow, done: done, open: -1}
}

// Write never fails; what is over the limit is dropped.
func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || f.damaged != nil || !f.allow(len(p)) {
		return len(p), nil
	}
	f.buf = append(f.buf, p...)
	for !f.ended && f.damaged == nil {
		i := bytes.Index(f.buf[f.scanned:], f.mark)
		if i < 0 {
			f.scanned = max(f.scanned, len(f.buf)-len(f.mark)+1)
			break
		}
		start := f.scanned + i
		line := f.buf[start+len(f.mark):]
		n := bytes.IndexByte(line, '\n')
		if n < 0 && len(line) < 64 {
			f.scanned = start
			break
		}
		if n < 0 || n > 64 { // no marker is that long
			f.damaged = fmt.Errorf("a marker is out of place: %s", Clean(string(line[:64])))
			break
		}
		f.scanned = start + len(f.mark) + n
		f.marker(string(line[:n]), start, f.scanned+1)
	}
	return len(p), nil
}

// marker takes "B id", "B id pid", "E id status" or "END count". The marker
// stands at buf[start:end].
func (f *frames) marker(line string, start, end int) {
	id := strconv.Itoa(len(f.got))
	word := strings.Split(line, " ")
	switch {
	case f.open < 0 && len(word) > 1 && word[0] == "B" && word[1] == id && len(f.got) < f.count && (len(word) == 2 || len(word) == 3 && isPID(word[2])):
		f.open, f.began = end, time.Now()
		if len(word) == 3 && f.begun != nil {
			f.running = f.begun(len(f.got), word[2])
		}
	case f.open >= 0 && len(word) == 3 && word[0] == "E" && word[1] == id && f.open <= start:
		f.stopped()
		status := -1
		if word[2] != "-" {
			n, err := strconv.ParseUint(word[2], 10, 8)
			if err != nil {
				f.damaged = fmt.Errorf("section %s ended with the status %s", id, Clean(word[2]))
				return
			}
			status = int(n)
		}
		f.got = append(f.got, frame{f.buf[f.open:start:start], status, f.began, time.Now()})
		f.open = -1
	case f.open < 0 && line == "END "+strconv.Itoa(f.count) && len(f.got) == f.count:
		f.ended = true
		f.done()
	default:
		f.damaged = fmt.Errorf("a marker is out of place: %s", Clean(line))
	}
}

func isPID(s string) bool {
	n, err := strconv.ParseUint(s, 10, 31)
	return err == nil && n > 1
}

func (f *frames) stopped() {
	if f.running != nil {
		f.running()
		f.running = nil
	}
}

// result gives the sections that came whole, and why there may be fewer than
// were asked for.
func (f *frames) result() ([]frame, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped()
	switch {
	case f.damaged != nil:
		return nil, f.damaged
	case !f.ended:
		return f.got, fmt.Errorf("the output broke off after %d of %d parts", len(f.got), f.count)
	}
	return f.got, nil
}

// preamble is what came before the first section: where there is no section,
// the reason, e.g. sudo's.
func (f *frames) preamble() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	head, _, _ := bytes.Cut(f.buf, f.mark)
	return strings.TrimSpace(string(head))
}
