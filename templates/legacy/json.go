package legacy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/templates/functions"
)

type kind int

const (
	null kind = iota
	boolean
	number
	text
	array
	object
)

func (k kind) String() string {
	return [...]string{"null", "a bool", "a number", "a string", "an array", "an object"}[k]
}

// node is one value of a JSON document and where it stands.
type node struct {
	kind kind
	// text is the string, or the number or bool as it was written.
	text    string
	elems   []*node
	members []*member
	at      hcl.Range
}

type member struct {
	name  string
	at    hcl.Range // of the name
	value *node
}

// find returns the member of an object, or nil.
func (n *node) find(name string) *member {
	i := slices.IndexFunc(n.members, func(m *member) bool { return m.name == name })
	if i < 0 {
		return nil
	}
	return n.members[i]
}

// get returns the value of a member, or nil when it is not there or null.
func (n *node) get(name string) *node {
	if m := n.find(name); m != nil && m.value.kind != null {
		return m.value
	}
	return nil
}

// str returns the string of a member, or "".
func (n *node) str(name string) string {
	if v := n.get(name); v != nil && v.kind == text {
		return v.text
	}
	return ""
}

func (n *node) remove(name string) {
	n.members = slices.DeleteFunc(n.members, func(m *member) bool { return m.name == name })
}

// set gives a member a value; a new one comes last.
func (n *node) set(name string, v *node) {
	if m := n.find(name); m != nil {
		m.value = v
		return
	}
	n.members = append(n.members, &member{name, v.at, v})
}

// maxDepth is how deep arrays and objects may be nested.
const maxDepth = 100

// reader reads JSON, remembering places.
type reader struct {
	name  string
	src   []byte
	dec   *json.Decoder
	pos   hcl.Pos // where the reader has come to
	diags hcl.Diagnostics
}

// readJSON reads one JSON value. It returns nil when src is not JSON.
func readJSON(src []byte, name string) (*node, hcl.Diagnostics) {
	r := &reader{name: name, src: src, dec: json.NewDecoder(bytes.NewReader(src)), pos: hcl.InitialPos}
	r.dec.UseNumber()
	if err := functions.CheckSource(src); err != nil {
		return nil, hcl.Diagnostics{failure(hcl.Range{}, "File too large or too deep", "The template %q is refused: %s.", name, err)}
	}
	for i := 0; i < len(src); {
		c, size := utf8.DecodeRune(src[i:])
		if c == utf8.RuneError && size == 1 {
			return nil, r.syntax(i, "The file is not UTF-8 text.")
		}
		i += size
	}
	var all json.RawMessage
	if err := json.Unmarshal(src, &all); err != nil {
		return nil, r.explain(err)
	}
	n := r.value(0)
	if r.diags.HasErrors() {
		return nil, r.diags
	}
	return n, nil
}

// explain says what is wrong with text that is not JSON.
func (r *reader) explain(err error) hcl.Diagnostics {
	var wrong *json.SyntaxError
	if !errors.As(err, &wrong) {
		return r.syntax(len(r.src), "The file cannot be read as JSON: "+err.Error()+".")
	}
	at := max(int(wrong.Offset)-1, 0)
	before := bytes.TrimRight(r.src[:min(at, len(r.src))], " \t\r\n")
	var c byte
	if at < len(r.src) {
		c = r.src[at]
	}
	switch {
	case len(bytes.TrimSpace(r.src)) == 0:
		return r.syntax(0, "The file is empty.")
	case (c == ']' || c == '}') && bytes.HasSuffix(before, []byte(",")):
		return r.syntax(len(before)-1, "JSON does not allow a comma before a closing bracket. Remove it.")
	case c == '/' || c == '#':
		return r.syntax(at, "JSON has no comments. Write a top-level key that starts with an underscore instead: \"_comment\": \"...\".")
	case c == '\'':
		return r.syntax(at, "JSON takes double quotes, not single ones.")
	case strings.Contains(wrong.Error(), "unexpected end"):
		return r.syntax(len(r.src), "The file ends before its last bracket or quote is closed.")
	}
	return r.syntax(at, "This is not JSON: "+wrong.Error()+".")
}

func (r *reader) syntax(offset int, detail string) hcl.Diagnostics {
	start := r.advance(offset)
	end := start
	if offset < len(r.src) {
		end = r.advance(offset + 1)
	}
	return hcl.Diagnostics{failure(hcl.Range{Filename: r.name, Start: start, End: end}, "Invalid JSON", "%s", detail)}
}

// advance returns the position of a byte that is not before the last one asked for.
func (r *reader) advance(offset int) hcl.Pos {
	for ; r.pos.Byte < min(offset, len(r.src)); r.pos.Byte++ {
		switch c := r.src[r.pos.Byte]; {
		case c == '\n':
			r.pos.Line, r.pos.Column = r.pos.Line+1, 1
		case utf8.RuneStart(c):
			r.pos.Column++
		}
	}
	return r.pos
}

// token returns the next token and its place.
func (r *reader) token() (json.Token, hcl.Range, error) {
	start := int(r.dec.InputOffset())
	t, err := r.dec.Token()
	for start < len(r.src) && bytes.IndexByte([]byte(" \t\r\n,:"), r.src[start]) >= 0 {
		start++
	}
	at := hcl.Range{Filename: r.name, Start: r.advance(start)}
	at.End = r.advance(int(r.dec.InputOffset()))
	return t, at, err
}

// value reads one value of text that is known to be JSON.
func (r *reader) value(depth int) *node {
	t, at, err := r.token()
	n := &node{at: at}
	if err != nil {
		if err != io.EOF {
			r.diags = append(r.diags, failure(at, "Invalid JSON", "This is not JSON: %s.", err))
		}
		return n
	}
	switch t := t.(type) {
	case string:
		n.kind, n.text = text, t
	case json.Number:
		n.kind, n.text = number, t.String()
		if _, err := strconv.ParseFloat(n.text, 64); err != nil || len(n.text) > 100 {
			r.diags = append(r.diags, failure(at, "Number out of range", "The number is too large or too long."))
		}
	case bool:
		n.kind, n.text = boolean, strconv.FormatBool(t)
	case json.Delim:
		if depth == maxDepth {
			r.diags = append(r.diags, failure(at, "Nested too deeply", "Arrays and objects may be nested %d deep.", maxDepth))
			return n
		}
		n.kind = array
		if t == '{' {
			n.kind = object
		}
		first := map[string]hcl.Range{}
		for r.dec.More() && !r.diags.HasErrors() {
			if n.kind == array {
				n.elems = append(n.elems, r.value(depth+1))
				continue
			}
			key, at, _ := r.token()
			m := &member{at: at}
			m.name, _ = key.(string)
			if f, ok := first[m.name]; ok {
				r.diags = append(r.diags, failure(at, "Duplicate key", "The key %q is given twice in this object; the first is on line %d. Keep one of them.", m.name, f.Start.Line))
			}
			first[m.name] = at
			m.value = r.value(depth + 1)
			n.members = append(n.members, m)
		}
		if !r.diags.HasErrors() {
			_, end, _ := r.token()
			n.at.End = end.End
		}
	}
	return n
}

// write writes a value as JSON, indented by two spaces a level.
func (n *node) write(b *strings.Builder, indent string) {
	inner := indent + "  "
	list := func(open, end string, count int, item func(i int)) {
		b.WriteString(open)
		for i := range count {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString("\n" + inner)
			item(i)
		}
		if count > 0 {
			b.WriteString("\n" + indent)
		}
		b.WriteString(end)
	}
	switch n.kind {
	case null:
		b.WriteString("null")
	case boolean, number:
		b.WriteString(n.text)
	case text:
		b.WriteString(quoteJSON(n.text))
	case array:
		list("[", "]", len(n.elems), func(i int) { n.elems[i].write(b, inner) })
	case object:
		list("{", "}", len(n.members), func(i int) {
			b.WriteString(quoteJSON(n.members[i].name) + ": ")
			n.members[i].value.write(b, inner)
		})
	}
}

func quoteJSON(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string in memory always can be
	return strings.TrimSuffix(b.String(), "\n")
}

func failure(at hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...)}
	if at.Filename != "" {
		d.Subject = &at
	}
	return d
}

func warning(at hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	d := failure(at, summary, format, args...)
	d.Severity = hcl.DiagWarning
	return d
}
