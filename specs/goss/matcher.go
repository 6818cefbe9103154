package goss

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Reader is a text that is looked at line by line: a file's contents, a
// command's output, the answer of a web server. A list stands for patterns there.
type Reader string

// A Matcher is what a value is held against.
type Matcher struct {
	node node
	raw  any
}

// Raw is the matcher as the file has it.
func (m Matcher) Raw() any { return m.raw }

// An Outcome is what came of holding a value against a matcher.
type Outcome struct {
	OK bool
	// Err says why nobody can tell. Then OK is false, negated or not.
	Err error
	// Actual is the value as it was compared, Expected what it was held against.
	Actual, Expected any
	// Message stands between the two: "to equal".
	Message string
	// Missing, Extra and Found are elements of lists, or patterns; nil where
	// that is no question.
	Missing, Extra, Found []any
	// Transforms are the changes that led from Raw to Actual.
	Transforms []Transform
	// Raw is the value before that.
	Raw any
}

// A Transform is one change of a value before it is compared.
type Transform struct {
	Name string // to-string, to-numeric, to-array or gjson
	Path string // gjson's
}

// MarshalJSON writes it as goss does: {"to-string":{}}.
func (t Transform) MarshalJSON() ([]byte, error) {
	if t.Name == "gjson" {
		return marshal(map[string]any{t.Name: map[string]any{"Path": t.Path}})
	}
	return marshal(map[string]any{t.Name: struct{}{}})
}

// Match holds a value against the matcher. Values are nil, bool, int, float64,
// string, Reader, []string, []any and map[string]any.
func (m Matcher) Match(actual any) Outcome {
	if m.node == nil {
		return Outcome{Err: errors.New("there is nothing to hold it against")}
	}
	o := m.node.match(plain(actual), false)
	if o.Err != nil {
		o.OK = false
	}
	if o.OK {
		return Outcome{OK: true, Actual: actual, Expected: m.raw, Message: "matches expectation"}
	}
	return o
}

// plain gives lists their one type.
func plain(v any) any {
	if list, ok := v.([]string); ok {
		out := make([]any, len(list))
		for i, s := range list {
			out[i] = s
		}
		return out
	}
	return v
}

// A node is a part of a matcher. negated says that the opposite is asked for,
// which changes the words only; OK is turned round by not.
type node interface {
	match(actual any, negated bool) Outcome
	// show is how results write it.
	show() any
}

// broken stands for a matcher that is none.
type broken struct {
	raw any
	err error
}

func (b broken) match(actual any, _ bool) Outcome {
	return Outcome{Actual: actual, Expected: b.raw, Err: fmt.Errorf("the goss file has no usable matcher here: %w", b.err)}
}

func (b broken) show() any { return b.raw }

// Compile reads a matcher. reader says that a list means patterns.
func Compile(v any, reader bool) (Matcher, error) { return compile(v, reader) }

func compile(v any, reader bool) (Matcher, error) {
	var n node
	var err error
	if list, ok := v.([]any); ok && reader {
		n, err = newPatterns(list, false)
	} else {
		n, err = parse(v)
	}
	return Matcher{n, v}, err
}

// Matchers are the names of all matchers, sorted.
func Matchers() []string { return slices.Sorted(maps.Keys(builders())) }

func builders() map[string]func(any) (node, error) {
	text := func(make func(string) (node, error)) func(any) (node, error) {
		return func(v any) (node, error) {
			s, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("a text is expected, and not %s", say(v))
			}
			return make(s)
		}
	}
	list := func(make func([]node) node) func(any) (node, error) {
		return func(v any) (node, error) {
			all, ok := v.([]any)
			if !ok {
				return nil, fmt.Errorf("a list is expected, and not %s", say(v))
			}
			nodes, err := parseAll(all)
			if err != nil {
				return nil, err
			}
			return make(nodes), nil
		}
	}
	one := func(make func(node) node) func(any) (node, error) {
		return func(v any) (node, error) {
			n, err := parse(v)
			if err != nil {
				return nil, err
			}
			return make(n), nil
		}
	}
	order := func(name string, holds func(int) bool) func(any) (node, error) {
		return func(v any) (node, error) {
			if !isNumber(v) {
				return nil, fmt.Errorf("a number is expected, and not %s", say(v))
			}
			return numeric{name, v, holds}, nil
		}
	}
	return map[string]func(any) (node, error){
		"equal": func(v any) (node, error) { return equal{v}, nil },
		"have-prefix": text(func(s string) (node, error) {
			return textual{"have-prefix", "to have prefix", s, strings.HasPrefix}, nil
		}),
		"have-suffix": text(func(s string) (node, error) {
			return textual{"have-suffix", "to have suffix", s, strings.HasSuffix}, nil
		}),
		"contain-substring": text(func(s string) (node, error) {
			return textual{"contain-substring", "to contain substring", s, strings.Contains}, nil
		}),
		"match-regexp": text(func(s string) (node, error) {
			re, err := regexp.Compile(s)
			if err != nil {
				return nil, err
			}
			return textual{"match-regexp", "to match regular expression", s, func(have, _ string) bool { return re.MatchString(have) }}, nil
		}),
		"have-len": func(v any) (node, error) {
			n, ok := whole(v)
			if !ok {
				return nil, fmt.Errorf("a whole number is expected, and not %s", say(v))
			}
			return length{n}, nil
		},
		"have-key": one(func(n node) node { return hasKey{n} }),
		"have-patterns": func(v any) (node, error) {
			all, ok := v.([]any)
			if !ok {
				return nil, fmt.Errorf("a list is expected, and not %s", say(v))
			}
			return newPatterns(all, true)
		},
		"contain-element":  one(func(n node) node { return element{n} }),
		"contain-elements": list(func(n []node) node { return elements{n, true} }),
		"consist-of":       list(func(n []node) node { return consist{n} }),
		"not":              one(func(n node) node { return not{n} }),
		"and":              list(func(n []node) node { return and{n} }),
		"or":               list(func(n []node) node { return or{n} }),
		"gt":               order("gt", func(c int) bool { return c > 0 }),
		"ge":               order("ge", func(c int) bool { return c >= 0 }),
		"lt":               order("lt", func(c int) bool { return c < 0 }),
		"le":               order("le", func(c int) bool { return c <= 0 }),
		"semver-constraint": text(func(s string) (node, error) {
			c, err := parseConstraint(s)
			if err != nil {
				return nil, err
			}
			return semantic{s, c}, nil
		}),
		"gjson": newGJSON,
		"xml":   newXML,
	}
}

// parse reads a matcher below the top.
func parse(v any) (node, error) {
	switch v := v.(type) {
	case nil:
		return nil, errors.New("a matcher is expected, and there is nothing")
	case string:
		return textual{"", "to equal", v, func(have, want string) bool { return have == want }}, nil
	case int, float64:
		return numeric{"eq", v, func(c int) bool { return c == 0 }}, nil
	case bool:
		return equal{v}, nil
	case []any:
		nodes, err := parseAll(v)
		return elements{nodes, false}, err
	case map[string]any:
		all := builders()
		switch keys := slices.Sorted(maps.Keys(v)); len(keys) {
		case 0:
			return nil, errors.New("a matcher is expected, and there is an empty map")
		case 1:
			make, ok := all[keys[0]]
			if !ok {
				return nil, fmt.Errorf("there is no matcher %q%s", keys[0], suggest(keys[0], Matchers()))
			}
			n, err := make(v[keys[0]])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", keys[0], err)
			}
			return n, nil
		default:
			return nil, fmt.Errorf("one matcher can stand here, and there are %s; and: […] joins several", strings.Join(keys, ", "))
		}
	}
	return nil, fmt.Errorf("no matcher: %s", say(v))
}

func parseAll(list []any) ([]node, error) {
	nodes := make([]node, 0, len(list))
	for _, v := range list {
		n, err := parse(v)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// say names a value in a message.
func say(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return strconv.Quote(v)
	case Reader:
		return strconv.Quote(string(v))
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return fmt.Sprint(v)
}

func isNumber(v any) bool {
	switch v.(type) {
	case int, float64:
		return true
	}
	return false
}

func whole(v any) (int, bool) {
	switch v := v.(type) {
	case int:
		return v, true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int(v), true
		}
	}
	return 0, false
}

// words puts "not" before a message.
func words(message string, negated bool) string {
	if negated {
		return "not " + message
	}
	return message
}

// toText is a value as texts are compared with it.
func toText(v any) (string, []Transform) {
	switch v := v.(type) {
	case string:
		return v, nil
	case Reader:
		return string(v), nil
	case []any:
		all := make([]string, len(v))
		for i, e := range v {
			all[i] = fmt.Sprint(e)
		}
		return strings.Join(all, "\n"), []Transform{{Name: "to-string"}}
	}
	return fmt.Sprint(v), []Transform{{Name: "to-string"}}
}

// textual compares texts.
type textual struct {
	name, message, want string
	holds               func(have, want string) bool
}

func (m textual) match(actual any, negated bool) Outcome {
	have, chain := toText(actual)
	return Outcome{OK: m.holds(have, m.want), Actual: have, Expected: m.want, Message: words(m.message, negated), Transforms: chain, Raw: actual}
}

func (m textual) show() any {
	if m.name == "" {
		return m.want
	}
	return map[string]any{m.name: m.want}
}

// numeric compares numbers.
type numeric struct {
	name  string
	want  any
	holds func(order int) bool
}

func (m numeric) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: m.want, Message: words("to be numerically "+m.name, negated), Raw: actual}
	have := actual
	if !isNumber(actual) {
		o.Transforms = []Transform{{Name: "to-numeric"}}
		var s string
		switch v := actual.(type) {
		case string:
			s = v
		case Reader:
			s = string(v)
		default:
			o.Err = fmt.Errorf("a number is expected, and it is %s", say(actual))
			return o
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil {
			o.Err = fmt.Errorf("it is no number: %s", strconv.Quote(s))
			return o
		}
		have = f
	}
	o.Actual = have
	c, comparable := compareNumbers(have, m.want)
	o.OK = comparable && m.holds(c)
	return o
}

// compareNumbers says how two numbers stand to each other; NaN to nothing.
func compareNumbers(a, b any) (int, bool) {
	if x, ok := a.(int); ok {
		if y, ok := b.(int); ok {
			return compareOrdered(x, y), true
		}
	}
	x, y := float(a), float(b)
	return compareOrdered(x, y), !math.IsNaN(x) && !math.IsNaN(y)
}

func compareOrdered[T int | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func float(v any) float64 {
	if n, ok := v.(int); ok {
		return float64(n)
	}
	f, _ := v.(float64)
	return f
}

func (m numeric) show() any { return map[string]any{m.name: m.want} }

// equal compares values with their types: 5 is neither "5" nor 5.0.
type equal struct{ want any }

func (m equal) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: m.want, Message: words("to equal", negated)}
	if r, ok := actual.(Reader); ok {
		actual = string(r)
	}
	o.OK = reflect.DeepEqual(actual, m.want)
	return o
}

func (m equal) show() any { return m.want }

// length counts the bytes of texts, the elements of lists, the keys of maps.
type length struct{ want int }

func (m length) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: m.want, Message: words("to have length", negated)}
	switch v := actual.(type) {
	case string:
		o.OK = len(v) == m.want
	case Reader:
		o.OK = len(v) == m.want
	case []any:
		o.OK = len(v) == m.want
	case map[string]any:
		o.OK = len(v) == m.want
	default:
		o.Err = fmt.Errorf("%s has no length", say(actual))
	}
	return o
}

func (m length) show() any { return map[string]any{"have-len": m.want} }

// hasKey looks for a key of a map.
type hasKey struct{ key node }

func (m hasKey) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: bare(m.key), Message: words("to have key matching", negated)}
	v, ok := actual.(map[string]any)
	if !ok {
		o.Err = fmt.Errorf("a map is expected, and it is %s", say(actual))
		return o
	}
	for _, k := range slices.Sorted(maps.Keys(v)) {
		inner := m.key.match(k, false)
		if inner.Err == nil && inner.OK {
			o.OK = true
			return o
		}
	}
	return o
}

func (m hasKey) show() any { return map[string]any{"have-key": m.key.show()} }

// bare shows what a matcher compares with.
func bare(n node) any { return n.show() }

// toList is a value as lists are compared with it. A text is its lines.
func toList(v any) ([]any, []Transform, error) {
	split := func(s string) []any { return plain(strings.Split(s, "\n")).([]any) }
	switch v := v.(type) {
	case []any:
		return v, nil, nil
	case map[string]any:
		out := make([]any, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, v[k])
		}
		return out, nil, nil
	case string:
		return split(v), []Transform{{Name: "to-array"}}, nil
	case Reader:
		return split(string(v)), []Transform{{Name: "to-array"}}, nil
	}
	return nil, nil, fmt.Errorf("a list is expected, and it is %s", say(v))
}

// strictList is a list that no text is made into.
func strictList(v any) ([]any, error) {
	switch v.(type) {
	case []any, map[string]any:
		list, _, err := toList(v)
		return list, err
	}
	return nil, fmt.Errorf("a list is expected, and it is %s", say(v))
}

// element looks for one element.
type element struct{ want node }

func (m element) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: bare(m.want), Message: words("to contain element matching", negated), Raw: actual}
	list, chain, err := toList(actual)
	if err != nil {
		o.Err = err
		return o
	}
	if o.Transforms = chain; chain != nil {
		o.Actual = list
	}
	var failure error
	for _, e := range list {
		switch inner := m.want.match(e, false); {
		case inner.Err != nil:
			failure = inner.Err
		case inner.OK:
			o.OK = true
			return o
		}
	}
	o.Err = failure
	return o
}

func (m element) show() any { return map[string]any{"contain-element": m.want.show()} }

// maxPairs bounds how often elements of two lists are held against each other.
const maxPairs = 4 << 20

// pair finds, for as many of the wanted as possible, an element of its own.
// of says which element a wanted one has, or -1.
func pair(have []any, want []node) (of []int, err error) {
	if len(have)*len(want) > maxPairs {
		return nil, fmt.Errorf("a list of %d elements is too long to be held against %d", len(have), len(want))
	}
	fits := make([][]int, len(want))
	for i, w := range want {
		for j, h := range have {
			if o := w.match(h, false); o.Err == nil && o.OK {
				fits[i] = append(fits[i], j)
			}
		}
	}
	of = make([]int, len(want))
	taken := make([]int, len(have))
	for i := range of {
		of[i] = -1
	}
	for j := range taken {
		taken[j] = -1
	}
	// Augmenting paths, with a stack of its own for each wanted one.
	var seen []bool
	var find func(i int) bool
	find = func(i int) bool {
		for _, j := range fits[i] {
			if seen[j] {
				continue
			}
			seen[j] = true
			if taken[j] < 0 || find(taken[j]) {
				of[i], taken[j] = j, i
				return true
			}
		}
		return false
	}
	for i := range want {
		// Most find one that is free.
		if j := slices.IndexFunc(fits[i], func(j int) bool { return taken[j] < 0 }); j >= 0 {
			of[i], taken[fits[i][j]] = fits[i][j], i
			continue
		}
		seen = make([]bool, len(have))
		find(i)
	}
	return of, nil
}

func showAll(nodes []node) []any {
	out := make([]any, len(nodes))
	for i, n := range nodes {
		out[i] = n.show()
	}
	return out
}

// elements looks for several elements, each of its own. Only the named form
// takes a text for its lines.
type elements struct {
	want  []node
	named bool
}

func (m elements) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: showAll(m.want), Message: words("to contain elements matching", negated)}
	var list []any
	var err error
	if m.named {
		list, o.Transforms, err = toList(actual)
		if o.Raw = actual; o.Transforms != nil {
			o.Actual = list
		}
	} else {
		list, err = strictList(actual)
	}
	var of []int
	if err == nil {
		of, err = pair(list, m.want)
	}
	if err != nil {
		o.Err = err
		return o
	}
	found, missing := []any{}, []any(nil)
	for i, w := range m.want {
		if of[i] < 0 {
			missing = append(missing, w.show())
		} else {
			found = append(found, w.show())
		}
	}
	if o.OK = len(missing) == 0; !negated {
		o.Missing, o.Found = missing, found
	}
	return o
}

func (m elements) show() any { return map[string]any{"contain-elements": showAll(m.want)} }

// consist wants these elements and no others, in any order.
type consist struct{ want []node }

func (m consist) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: showAll(m.want), Message: words("to consist of", negated)}
	list, err := strictList(actual)
	var of []int
	if err == nil {
		of, err = pair(list, m.want)
	}
	if err != nil {
		o.Err = err
		return o
	}
	found, missing, extra := []any{}, []any(nil), []any(nil)
	for i, w := range m.want {
		if of[i] < 0 {
			missing = append(missing, w.show())
		} else {
			found = append(found, list[of[i]])
		}
	}
	for j, h := range list {
		if !slices.Contains(of, j) {
			extra = append(extra, h)
		}
	}
	if o.OK = len(missing)+len(extra) == 0; !negated {
		o.Missing, o.Extra, o.Found = missing, extra, found
	}
	return o
}

func (m consist) show() any { return map[string]any{"consist-of": showAll(m.want)} }

// not turns a verdict round; what nobody can tell stays unknown.
type not struct{ inner node }

func (m not) match(actual any, negated bool) Outcome {
	o := m.inner.match(actual, !negated)
	o.OK = !o.OK
	return o
}

func (m not) show() any { return map[string]any{"not": m.inner.show()} }

// and gives what the first says that does not hold.
type and struct{ all []node }

func (m and) match(actual any, negated bool) Outcome {
	if !negated {
		for _, n := range m.all {
			if o := n.match(actual, false); o.Err != nil || !o.OK {
				return o
			}
		}
	}
	o := Outcome{OK: true, Actual: actual, Expected: showAll(m.all), Message: words("to satisfy all of these matchers", negated)}
	for _, n := range m.all {
		inner := n.match(actual, false)
		if o.Err = inner.Err; o.Err != nil {
			return o
		}
		if !inner.OK {
			o.OK = false
			return o
		}
	}
	return o
}

func (m and) show() any { return map[string]any{"and": showAll(m.all)} }

type or struct{ all []node }

func (m or) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: showAll(m.all), Message: words("to satisfy at least one of these matchers", negated)}
	for _, n := range m.all {
		inner := n.match(actual, false)
		if o.Err = inner.Err; o.Err != nil {
			return o
		}
		if inner.OK {
			o.OK = true
			return o
		}
	}
	return o
}

func (m or) show() any { return map[string]any{"or": showAll(m.all)} }

// patterns hold lines against texts and regular expressions.
type patterns struct {
	all   []linePattern
	raw   []any
	named bool
}

type linePattern struct {
	text    string // as the file has it
	inverse bool
	holds   func(line string) bool
}

func newPatterns(list []any, named bool) (node, error) {
	p := patterns{raw: list, named: named}
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("a pattern is a text, and not %s", say(v))
		}
		one := linePattern{text: s}
		rest := s
		if strings.HasPrefix(rest, "!") {
			one.inverse, rest = true, rest[1:]
		}
		if len(rest) > 1 && strings.HasPrefix(rest, "/") && strings.HasSuffix(rest, "/") {
			re, err := regexp.Compile(rest[1 : len(rest)-1])
			if err != nil {
				return nil, err
			}
			one.holds = re.MatchString
		} else {
			rest = strings.TrimPrefix(rest, `\`) // it takes ! and / for what they are
			one.holds = func(line string) bool { return strings.Contains(line, rest) }
		}
		p.all = append(p.all, one)
	}
	return p, nil
}

func (m patterns) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: m.raw, Message: words("to have patterns", negated)}
	text, chain := toText(actual)
	if m.named {
		o.Raw = actual
	}
	if o.Transforms = chain; chain != nil {
		o.Actual = text
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	if text == "" {
		lines = nil
	}
	var found, missing []any
	for _, p := range m.all {
		seen := slices.ContainsFunc(lines, p.holds) || text == "" && p.text == ""
		if seen != p.inverse {
			found = append(found, p.text)
		} else {
			missing = append(missing, p.text)
		}
	}
	if o.OK = len(missing) == 0; !negated {
		o.Missing, o.Found = missing, found
	}
	return o
}

func (m patterns) show() any { return map[string]any{"have-patterns": m.raw} }
