package report

import (
	"strings"
	"unicode"
)

// clean makes text from a machine safe to print: escape sequences, control
// characters and marks that turn the writing direction are dropped, except
// newlines and tabs, and of a line that overwrites itself only the last state
// is left.
func clean(s string) string {
	if isClean(s) {
		return s
	}
	runes := []rune(strings.ToValidUTF8(s, "\ufffd"))
	var out strings.Builder
	var line []rune
	flush := func() {
		out.WriteString(string(line))
		line = line[:0]
	}
	for i := 0; i < len(runes); {
		switch r := runes[i]; {
		case r == '\n':
			flush()
			out.WriteByte('\n')
			i++
		case r == '\r':
			if i+1 < len(runes) && runes[i+1] != '\n' && runes[i+1] != '\r' {
				line = line[:0]
			}
			i++
		case r == '\x1b', r == '\u009b', r == '\u009d', r == '\u0090':
			i += sequence(runes[i:])
		case r != '\t' && unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == '\u2028', r == '\u2029':
			i++
		default:
			line = append(line, r)
			i++
		}
	}
	flush()
	return out.String()
}

func isClean(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\n' && c != '\t') || c > '~' {
			return false
		}
	}
	return true
}

// sequence is the length of the escape sequence that s begins with; of one
// that does not end, only its first character, so that it hides no text.
func sequence(s []rune) int {
	i, kind := 1, s[0]
	if kind == '\x1b' {
		if len(s) == 1 {
			return 1
		}
		i, kind = 2, s[1]
	}
	switch kind {
	case '[', '\u009b': // CSI: parameters, then one final character
		for ; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
			if s[i] < 0x20 || s[i] > 0x7e {
				break
			}
		}
	case ']', 'P', 'X', '^', '_', '\u009d', '\u0090': // a string, up to BEL or ST
		for ; i < len(s) && s[i] != '\n'; i++ {
			switch {
			case s[i] == '\a', s[i] == '\u009c':
				return i + 1
			case s[i] == '\x1b' && i+1 < len(s) && s[i+1] == '\\':
				return i + 2
			}
		}
	default:
		for i = 1; i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f; i++ {
		}
		if i < len(s) && s[i] >= 0x30 && s[i] <= 0x7e {
			return i + 1
		}
	}
	return 1
}
