package powershell

import (
	"bytes"
	"encoding/xml"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
)

// Stderr is a writer that turns the XML, which PowerShell may write to stderr
// in place of text, back into text. What is not such XML passes unchanged.
type Stderr struct {
	next io.Writer

	mu    sync.Mutex
	held  []byte
	state int // of the kind below
}

const (
	undecided = iota
	plainText
	clixml
)

const (
	clixmlMark = "#< CLIXML"
	// maxCLIXML is more than any message; beyond it the XML is shown as it is.
	maxCLIXML = 8 << 20
)

// NewStderr returns a Stderr that writes to next. Flush ends it.
func NewStderr(next io.Writer) *Stderr { return &Stderr{next: next} }

// Write implements io.Writer.
func (s *Stderr) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == plainText {
		return s.next.Write(p)
	}
	s.held = append(s.held, p...)
	if s.state == undecided {
		switch held := string(s.held); {
		case strings.HasPrefix(held, clixmlMark), strings.HasPrefix(held, "\ufeff"+clixmlMark):
			s.state = clixml
		case !strings.HasPrefix(clixmlMark, held) && !strings.HasPrefix("\ufeff"+clixmlMark, held):
			return len(p), s.pass()
		}
	}
	if len(s.held) > maxCLIXML {
		return len(p), s.pass()
	}
	return len(p), nil
}

func (s *Stderr) pass() error {
	held := s.held
	s.held, s.state = nil, plainText
	_, err := s.next.Write(held)
	return err
}

// Flush writes what is held back.
func (s *Stderr) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) == 0 {
		return nil
	}
	if s.state == clixml {
		if text, ok := decodeCLIXML(s.held); ok {
			s.held = []byte(text)
		}
	}
	return s.pass()
}

// decodeCLIXML gives the text of the messages in b, without progress records.
// Not ok: b is no whole document.
func decodeCLIXML(b []byte) (text string, ok bool) {
	var out strings.Builder
	// Several documents and plain text may follow each other.
	b = bytes.ReplaceAll(bytes.TrimPrefix(b, []byte("\ufeff")), []byte(clixmlMark), nil)
	d := xml.NewDecoder(bytes.NewReader(b))
	d.Strict = false
	depth, message := 0, 0
	for {
		t, err := d.Token()
		if err != nil {
			return out.String(), err == io.EOF && depth == 0
		}
		switch t := t.(type) {
		case xml.StartElement:
			depth++
			if message == 0 && t.Name.Local == "S" {
				for _, a := range t.Attr {
					if a.Name.Local == "S" && a.Value != "progress" {
						message = depth
					}
				}
			}
		case xml.EndElement:
			if depth == message {
				message = 0
			}
			depth--
		case xml.CharData:
			if message > 0 {
				out.WriteString(unescape(string(t)))
			} else if depth == 0 {
				out.WriteString(strings.TrimLeft(string(t), "\r\n"))
			}
		}
	}
}

// unescape undoes _xHHHH_, a UTF-16 unit each.
func unescape(s string) string {
	if !strings.Contains(s, "_x") {
		return s
	}
	var out strings.Builder
	for s != "" {
		var units []uint16
		for len(s) >= 7 && s[0] == '_' && s[1] == 'x' && s[6] == '_' {
			u, err := strconv.ParseUint(s[2:6], 16, 16)
			if err != nil {
				break
			}
			units, s = append(units, uint16(u)), s[7:]
		}
		if units != nil {
			out.WriteString(string(utf16.Decode(units)))
			continue
		}
		n := strings.IndexByte(s[1:], '_') + 1
		if n == 0 {
			n = len(s)
		}
		out.WriteString(s[:n])
		s = s[n:]
	}
	return out.String()
}
