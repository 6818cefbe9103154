package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const masked = "<sensitive>"

// masker replaces secrets. What it puts in their place is never searched again.
type masker struct{ secrets []string }

// Mask returns a function that replaces the secrets in a text as reports do.
func Mask(secrets []string) func(string) string { return newMasker(secrets).text }

func newMasker(secrets []string) *masker {
	m := &masker{}
	for _, s := range secrets {
		// Output comes line by line, and cleaned.
		for _, form := range append(strings.Split(s, "\n"), s) {
			m.secrets = append(m.secrets, form, strings.TrimRight(form, "\r"), clean(form))
		}
	}
	m.secrets = slices.DeleteFunc(m.secrets, func(s string) bool { return strings.TrimSpace(s) == "" })
	slices.Sort(m.secrets)
	m.secrets = slices.Compact(m.secrets)
	return m
}

// text masks s. All secrets are looked for in s as it is, so that one cannot
// hide a part of another.
func (m *masker) text(s string) string {
	type span struct{ from, to int }
	var spans []span
	for _, secret := range m.secrets {
		short := utf8.RuneCountInString(secret) < 4
		for from := 0; ; {
			i := strings.Index(s[from:], secret)
			if i < 0 {
				break
			}
			i += from
			if to := i + len(secret); !short || alone(s, i, to) {
				spans = append(spans, span{i, to})
			}
			from = i + 1 // they may overlap
		}
	}
	if spans == nil {
		return s
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	var out strings.Builder
	end := 0
	for i, sp := range spans {
		if i == 0 || sp.from >= end {
			out.WriteString(s[end:sp.from] + masked)
		}
		end = max(end, sp.to)
	}
	out.WriteString(s[end:])
	return out.String()
}

// alone reports whether s[from:to] is not part of a longer word.
func alone(s string, from, to int) bool {
	before, _ := utf8.DecodeLastRuneInString(s[:from])
	after, _ := utf8.DecodeRuneInString(s[to:])
	return (from == 0 || !inWord(before)) && (to == len(s) || !inWord(after))
}

func inWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// data encodes v as JSON, masked. What cannot be encoded becomes a text that says so.
func (m *masker) data(v any) []byte {
	if v == nil {
		return nil
	}
	raw, err := json.Marshal(v)
	if err == nil && len(m.secrets) == 0 {
		return raw
	}
	if err == nil {
		var tree any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber() // all digits are kept, and searched
		if err = dec.Decode(&tree); err == nil {
			if raw, err = json.Marshal(m.tree(tree)); err == nil {
				return raw
			}
		}
	}
	raw, _ = json.Marshal(m.text(fmt.Sprintf("%T cannot be encoded: %v", v, err))) // a string always can
	return raw
}

func (m *masker) tree(v any) any {
	switch v := v.(type) {
	case string:
		return m.text(v)
	case json.Number:
		if s := m.text(v.String()); s != v.String() {
			return s
		}
	case []any:
		for i := range v {
			v[i] = m.tree(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[m.text(k)] = m.tree(e)
		}
		return out
	}
	return v
}
