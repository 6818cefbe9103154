package specs

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// A valueType says how an attribute is compared.
type valueType int

const (
	typeText   valueType = iota // exactly
	typeOutput                  // without the newlines at its end, as $(…) has it
	typeNumber
	typeOctal
	typeVersion // in the package manager's order
	typeList
	typeAny // what a document holds: its own type is known only with the value
)

// A value is what an attribute of a subject is.
type value struct {
	text   string
	list   []string
	scheme scheme    // of a version
	typ    valueType // of what is typeAny
}

// as gives a value and its type, which for typeAny only the value knows.
func (v value) as(t valueType) (value, valueType) {
	if t == typeAny {
		return v, v.typ
	}
	return v, t
}

// A comparison is one attribute of an its block.
type comparison struct {
	types []valueType // of what can be compared so
	// wants reads what the template gives.
	wants func(t valueType, v cty.Value) ([]want, error)
	test  func(have value, t valueType, w want) (bool, string, error)
	words string
}

// want is one value that another is compared with.
type want struct {
	text    string
	number  *big.Float
	mode    uint32
	pattern *regexp.Regexp
}

func comparisons() map[string]comparison {
	texts := []valueType{typeText, typeOutput, typeVersion, typeAny}
	scalars := append(texts, typeNumber, typeOctal)
	ordered := []valueType{typeNumber, typeVersion, typeAny}
	return map[string]comparison{
		"eq":         {scalars, single, same, "eq %s"},
		"be_in":      {scalars, several, same, "be in [%s]"},
		"match":      {texts, patterns, matches, "match %s"},
		"not_match":  {texts, patterns, matches, "not match %s"},
		"start_with": {texts, single, startsWith, "start with %s"},
		"include": {[]valueType{typeText, typeOutput, typeList, typeAny}, single, func(h value, t valueType, w want) (bool, string, error) {
			if t == typeList {
				return slices.Contains(h.list, w.text), "[" + strings.Join(h.list, ", ") + "]", nil
			}
			return h.include(w.text)
		}, "include %s"},
		"be_greater_than": {ordered, single, func(h value, t valueType, w want) (bool, string, error) {
			c, err := compare(h, t, w)
			return c > 0, h.text, err
		}, "be greater than %s"},
		"be_less_than": {ordered, single, func(h value, t valueType, w want) (bool, string, error) {
			c, err := compare(h, t, w)
			return c < 0, h.text, err
		}, "be less than %s"},
	}
}

func asString(v cty.Value) (string, error) {
	s, err := convert.Convert(v, cty.String)
	if err != nil || s.IsNull() {
		return "", errors.New("a string or a number is expected")
	}
	return s.AsString(), nil
}

func single(t valueType, v cty.Value) ([]want, error) {
	s, err := asString(v)
	if err != nil {
		return nil, err
	}
	w := want{text: s}
	switch t {
	case typeNumber, typeAny:
		n, err := convert.Convert(v, cty.Number)
		if err == nil {
			w.number = n.AsBigFloat()
		} else if t == typeNumber {
			return nil, fmt.Errorf("%q is not a number", s)
		}
	case typeOctal:
		w.mode, err = parseMode(s)
	case typeVersion:
		if !anyVersion.MatchString(s) {
			err = fmt.Errorf("%q is not a version", s)
		}
	case typeOutput:
		w.text = strings.TrimRight(s, "\n")
	}
	return []want{w}, err
}

func several(t valueType, v cty.Value) ([]want, error) {
	if !v.CanIterateElements() || v.Type().IsObjectType() || v.Type().IsMapType() || v.LengthInt() == 0 {
		return nil, errors.New("a list of values is expected")
	}
	var out []want
	for _, e := range v.AsValueSlice() {
		w, err := single(t, e)
		if err != nil {
			return nil, err
		}
		out = append(out, w...)
	}
	return out, nil
}

// patterns reads one regular expression of Go's; ^ and $ stand for a line's ends.
func patterns(_ valueType, v cty.Value) ([]want, error) {
	s, err := asString(v)
	if err != nil {
		return nil, err
	}
	re, err := regexp.Compile("(?m)" + s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a regular expression: %w", s, err)
	}
	return []want{{text: s, pattern: re}}, nil
}

// maxDigits keeps a machine from giving a number that takes hours to read.
const maxDigits = 40

// compare orders numbers and versions.
func compare(h value, t valueType, w want) (int, error) {
	if t == typeVersion {
		return h.scheme.order(h.text, w.text)
	}
	if t != typeNumber || w.number == nil {
		return 0, fmt.Errorf("%q and %q are not both numbers", Clean(h.text), Clean(w.text))
	}
	n, ok := new(big.Float).SetString(h.text[:min(len(h.text), maxDigits)])
	if !ok || len(h.text) > maxDigits {
		return 0, fmt.Errorf("the machine gave %q for a number", Clean(h.text))
	}
	return n.Cmp(w.number), nil
}

func same(h value, t valueType, w want) (bool, string, error) {
	if t == typeNumber && w.number == nil { // a number of a document and a word
		return false, h.text, nil
	}
	switch t {
	case typeList:
		return false, "[" + strings.Join(h.list, ", ") + "]", nil
	case typeNumber, typeVersion:
		c, err := compare(h, t, w)
		return c == 0, h.text, err
	case typeOctal:
		mode, err := parseMode(h.text)
		return mode == w.mode, h.text, err
	case typeOutput:
		h.text = strings.TrimRight(h.text, "\n")
	}
	return h.text == w.text, strconv.Quote(h.text), nil
}

func matches(h value, t valueType, w want) (bool, string, error) {
	if t == typeList {
		return false, "", errors.New("it is a list; compare one of its elements, or use include")
	}
	return h.find(w.pattern.FindStringIndex(h.text))
}

func startsWith(h value, t valueType, w want) (bool, string, error) {
	if t == typeList {
		return false, "", errors.New("it is a list; compare one of its elements, or use include")
	}
	return strings.HasPrefix(h.text, w.text), strconv.Quote(h.text), nil
}

func (h value) include(s string) (bool, string, error) {
	i := strings.Index(h.text, s)
	if i < 0 {
		return h.find(nil)
	}
	return h.find([]int{i, i + len(s)})
}

// find describes where a text holds something: the line, not the whole text.
func (h value) find(at []int) (bool, string, error) {
	if at != nil {
		n := strings.Count(h.text[:at[0]], "\n")
		from := strings.LastIndexByte(h.text[:at[0]], '\n') + 1
		line, _, _ := strings.Cut(h.text[from:], "\n")
		return true, fmt.Sprintf("line %d: %s", n+1, line), nil
	}
	switch n := strings.Count(strings.TrimSuffix(h.text, "\n"), "\n"); {
	case h.text == "":
		return false, "empty", nil
	case n > 0:
		return false, fmt.Sprintf("not in its %d lines, which begin %s", n+1, strconv.Quote(h.text)), nil
	}
	return false, strconv.Quote(h.text), nil
}
