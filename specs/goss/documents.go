package goss

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/antchfx/xmlquery"
	"github.com/antchfx/xpath"
	"github.com/tidwall/gjson"
)

// inJSON holds what stands at a path of a JSON text against a matcher.
type inJSON struct {
	path string
	want node
}

func newGJSON(v any) (node, error) {
	paths, ok := v.(map[string]any)
	if !ok || len(paths) == 0 {
		return nil, fmt.Errorf("paths with matchers are expected, and not %s", say(v))
	}
	var all []node
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		n, err := parse(paths[p])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		all = append(all, inJSON{p, n})
	}
	return jsonPaths{all}, nil
}

// jsonPaths are the paths of one gjson matcher, which all have to hold.
type jsonPaths struct{ all []node }

func (m jsonPaths) match(actual any, negated bool) Outcome {
	if len(m.all) == 1 {
		return m.all[0].match(actual, negated)
	}
	return and(m).match(actual, negated)
}

func (m jsonPaths) show() any {
	paths := map[string]any{}
	for _, n := range m.all {
		if j, ok := n.(inJSON); ok {
			paths[j.path] = j.want.show()
		}
	}
	return map[string]any{"gjson": paths}
}

// tooDeep says whether brackets nest more than a reader that calls itself bears.
func tooDeep(s string) bool {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '[', '{':
			if depth++; depth > 1000 {
				return true
			}
		case ']', '}':
			depth--
		}
	}
	return false
}

func (m inJSON) match(actual any, negated bool) (o Outcome) {
	chain := Transform{Name: "gjson", Path: m.path}
	broken := func(err error) Outcome {
		o := m.want.match(nil, negated)
		o.Actual, o.Err, o.Transforms, o.Raw = nil, err, []Transform{chain}, actual
		return o
	}
	defer func() {
		if p := recover(); p != nil {
			o = broken(fmt.Errorf("the path %q cannot be followed: %v", m.path, p))
		}
	}()
	var text string
	switch v := actual.(type) {
	case string:
		text = v
	case Reader:
		text = string(v)
	default:
		return broken(fmt.Errorf("a text in JSON is expected, and it is %s", say(actual)))
	}
	if !gjson.Valid(text) || tooDeep(text) {
		return broken(errors.New("it is no JSON, or nested too deep"))
	}
	found := gjson.Get(text, m.path)
	if !found.Exists() {
		return broken(fmt.Errorf("there is nothing at %q", m.path))
	}
	o = m.want.match(found.Value(), negated)
	o.Transforms = append([]Transform{chain}, o.Transforms...)
	o.Raw = actual
	return o
}

func (m inJSON) show() any { return map[string]any{"gjson": map[string]any{m.path: m.want.show()}} }

// inXML holds what an XPath expression gives against a text.
type inXML struct {
	path   string
	expr   *xpath.Expr
	want   string
	result any // as the file has it
}

func newXML(v any) (n node, err error) {
	m, ok := v.(map[string]any)
	path, isText := m["xpath"].(string)
	result, there := m["result"]
	if !ok || !isText || !there || len(m) != 2 {
		return nil, errors.New("xpath, a text, and result are expected")
	}
	defer func() {
		if p := recover(); p != nil {
			n, err = nil, fmt.Errorf("%q is no XPath expression: %v", path, p)
		}
	}()
	if len(path) > 10000 {
		return nil, errors.New("the XPath expression is too long")
	}
	expr, err := xpath.Compile(path)
	if err != nil {
		return nil, fmt.Errorf("%q is no XPath expression: %w", path, err)
	}
	want := fmt.Sprint(result)
	if result == nil {
		want = ""
	}
	return inXML{path, expr, want, result}, nil
}

func (m inXML) match(actual any, negated bool) (o Outcome) {
	o = Outcome{Actual: actual, Expected: m.want, Message: words("satisfied XPath match with intended result", negated)}
	defer func() {
		if p := recover(); p != nil {
			o.OK, o.Err = false, fmt.Errorf("the expression %q cannot be evaluated: %v", m.path, p)
		}
	}()
	var text string
	switch v := actual.(type) {
	case string:
		text = v
	case Reader:
		text = string(v)
	default:
		o.Err = fmt.Errorf("a text in XML is expected, and it is %s", say(actual))
		return o
	}
	if strings.Count(text, "<") > 200000 {
		o.Err = errors.New("the XML is too long")
		return o
	}
	doc, err := xmlquery.Parse(strings.NewReader(text))
	if err != nil {
		o.Err = fmt.Errorf("it is no XML: %w", err)
		return o
	}
	got := ""
	switch v := m.expr.Evaluate(xmlquery.CreateXPathNavigator(doc)).(type) {
	case *xpath.NodeIterator:
		var b strings.Builder
		some := false
		for v.MoveNext() {
			n, ok := v.Current().(*xmlquery.NodeNavigator)
			if !ok {
				continue
			}
			some = true
			b.WriteString(current(n))
		}
		if !some {
			return o
		}
		if m.want == "" { // only asks whether there is a node
			o.OK = true
			return o
		}
		got = b.String()
	case float64:
		got = strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		got = strconv.FormatBool(v)
	case string:
		got = v
	}
	o.OK = got == m.want
	if !o.OK {
		o.Actual = got
		o.Raw = actual
	}
	return o
}

// current writes the node that an iterator stands at, as XML.
func current(n *xmlquery.NodeNavigator) string {
	node := n.Current()
	if n.NodeType() == xpath.AttributeNode {
		var b strings.Builder
		b.WriteString("<" + n.LocalName() + ">")
		b.WriteString(escape(n.Value()))
		b.WriteString("</" + n.LocalName() + ">")
		return b.String()
	}
	return node.OutputXML(true)
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

func (m inXML) show() any {
	return map[string]any{"xml": map[string]any{"xpath": m.path, "result": m.result}}
}
