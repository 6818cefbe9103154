package goss

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/agext/levenshtein"
	"go.yaml.in/yaml/v3"
)

// What a file may be, so that no template and no include fills the memory.
const (
	maxFile    = 4 << 20 // bytes of one file, before and after its template
	maxFiles   = 1000    // files that include each other
	maxValues  = 500000  // values in all of them, aliases counted each time
	maxNesting = 100     // of values
	maxDepth   = 50      // of includes
)

// Options say what a file's templates get. The zero value is fine.
type Options struct {
	// Vars are files of variables, YAML or JSON; later ones go before earlier ones.
	Vars []string
	// Inline are variables that replace those of the files, as YAML or JSON.
	Inline string
	// Values are variables that replace those of the files and Inline.
	Values map[string]any
	// Stdin is what the file "-" stands for.
	Stdin io.Reader
}

// A Problem is what is wrong with a file, and where.
type Problem struct {
	File string
	// Line counts from 1; 0 is the file as a whole. In a file with templates it
	// is a line of what the template gives, and Rendered says so.
	Line     int
	Rendered bool
	Message  string
}

func (p Problem) Error() string {
	switch {
	case p.Line == 0:
		return p.File + ": " + p.Message
	case p.Rendered:
		return fmt.Sprintf("%s:%d (of what the template gives): %s", p.File, p.Line, p.Message)
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// A File is what a goss file says, with all that it includes.
type File struct {
	// Resources stand in the order of their kinds, and of their keys.
	Resources []Resource
	// Warnings are what works, but hardly as it was meant.
	Warnings []Problem
}

// A Resource is one subject and what is checked of it.
type Resource struct {
	Kind Kind
	// ID is its key in the file; Subject what is asked about.
	ID, Subject string
	Title       string
	Meta        map[string]any
	Skip        bool
	Checks      []Check
	// Timeout is 0 where the file does not say it.
	Timeout    time.Duration
	RetryCount int
	RetryDelay time.Duration
	// Content and AsReader belong to matching.
	Content  any
	AsReader bool
	texts    map[string]string
	bools    map[string]bool
	Headers  []string // request-headers
	File     string
	Line     int
}

// Text gives an option that is a text, or "".
func (r Resource) Text(option string) string { return r.texts[option] }

// Bool gives an option that is true or false.
func (r Resource) Bool(option string) bool { return r.bools[option] }

// Name is what results call the resource: the key, and the subject where that
// is another. A command's own text is left out.
func (r Resource) Name() string {
	if r.Subject != r.ID && r.Kind.Key != "command" {
		return r.ID + ": " + r.Subject
	}
	return r.ID
}

// A Check is one attribute of a resource and what it is held against.
type Check struct {
	Attribute Attribute
	Matcher   Matcher
	Line      int
}

// Load reads a goss file, its variables and what it includes. Everything that
// is wrong is found at once: the error joins Problems.
func Load(path string, opt Options) (*File, error) {
	l := &loader{opt: opt, seen: map[string]string{}}
	if err := l.variables(); err != nil {
		return nil, err
	}
	l.include(path, nil, 0)
	if len(l.problems) == 0 && len(l.resources) == 0 {
		l.fail(source{name: path}, 0, "it checks nothing: there is no resource in it, nor in what it includes")
	}
	if len(l.problems) > 0 {
		var all []error
		for _, p := range l.problems {
			all = append(all, p)
		}
		return nil, errors.Join(all...)
	}
	f := &File{Resources: l.resources, Warnings: l.warnings}
	kinds := Kinds()
	order := func(r Resource) int { return slices.IndexFunc(kinds, func(k Kind) bool { return k.Key == r.Kind.Key }) }
	slices.SortStableFunc(f.Resources, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.ID, b.ID))
	})
	return f, nil
}

type loader struct {
	opt       Options
	vars      map[string]any
	resources []Resource
	seen      map[string]string // where a kind and key stands
	problems  []Problem
	warnings  []Problem
	files     int
	values    int
}

// A source is one file that is being read.
type source struct {
	name     string
	rendered bool
	json     bool
}

func (l *loader) fail(s source, line int, format string, args ...any) {
	if len(l.problems) < 100 {
		l.problems = append(l.problems, Problem{s.name, line, s.rendered && line > 0, fmt.Sprintf(format, args...)})
	}
}

func (l *loader) warn(s source, line int, format string, args ...any) {
	if len(l.warnings) < 100 {
		l.warnings = append(l.warnings, Problem{s.name, line, s.rendered, fmt.Sprintf(format, args...)})
	}
}

// readBounded reads a file that may be a pipe, such as a shell's <(…), but
// waits for none for ever.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(time.Minute)) // works on pipes alone
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	return b, err
}

// reason is what an error says without the path, which stands before it already.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// variables reads what templates know as .Vars.
func (l *loader) variables() error {
	l.vars = map[string]any{}
	for _, name := range l.opt.Vars {
		b, err := readBounded(name)
		if err != nil {
			return Problem{File: name, Message: "the variables cannot be read: " + reason(err)}
		}
		m, err := parseVars(b)
		if err != nil {
			return Problem{File: name, Message: "not variables in YAML or JSON: " + reason(err)}
		}
		merge(l.vars, m)
	}
	if l.opt.Inline != "" {
		m, err := parseVars([]byte(l.opt.Inline))
		if err != nil {
			return fmt.Errorf("the inline variables are not YAML or JSON: %w", err)
		}
		maps.Copy(l.vars, m)
	}
	maps.Copy(l.vars, l.opt.Values)
	return nil
}

func parseVars(b []byte) (map[string]any, error) {
	inner := &loader{}
	s := source{name: "variables"}
	root := inner.parse(b, s)
	var v any
	if root != nil {
		v = inner.value(root, s, 0)
	}
	if len(inner.problems) > 0 {
		return nil, errors.New(inner.problems[0].Message)
	}
	switch v := v.(type) {
	case nil:
		return map[string]any{}, nil
	case map[string]any:
		return v, nil
	}
	return nil, errors.New("names with values are expected")
}

// merge lets what is set in over go before what into has.
func merge(into, over map[string]any) {
	for k, v := range over {
		a, ok1 := into[k].(map[string]any)
		b, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			merge(a, b)
			continue
		}
		if empty(v) && into[k] != nil {
			continue
		}
		into[k] = v
	}
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case int:
		return v == 0
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// include reads one file. chain are the files that led here.
func (l *loader) include(path string, chain []string, line int) {
	s := source{name: path}
	if l.files++; l.files > maxFiles || len(chain) >= maxDepth {
		if l.files <= maxFiles+1 {
			l.fail(s, 0, "the files include more than %d files, or %d levels of them", maxFiles, maxDepth)
		}
		return
	}
	var b []byte
	var err error
	if path == "-" && len(chain) == 0 {
		s.name = "standard input"
		if l.opt.Stdin == nil {
			l.fail(s, 0, "there is none")
			return
		}
		b, err = readAll(l.opt.Stdin)
	} else {
		b, err = readBounded(path)
	}
	if err != nil {
		l.fail(s, 0, "it cannot be read: %s", reason(err))
		return
	}
	switch filepath.Ext(path) {
	case ".yaml", ".yml":
	case ".json":
		s.json = true
	default:
		if path != "-" {
			l.fail(s, 0, "a goss file's name ends in .yaml, .yml or .json")
			return
		}
	}
	if strings.Contains(string(b), "{{") {
		s.rendered = true
		if b, err = l.render(s, b); err != nil {
			l.fail(source{name: s.name}, 0, "%s", err)
			return
		}
	}
	if path == "-" {
		s.json = json.Valid(b)
	}
	if s.json && !json.Valid(b) {
		var v any
		err := json.Unmarshal(b, &v)
		line := 0
		var at *json.SyntaxError
		if errors.As(err, &at) {
			line = 1 + strings.Count(string(b[:min(int(at.Offset), len(b))]), "\n")
		}
		l.fail(s, line, "not JSON: %v", err)
		return
	}
	root := l.parse(b, s)
	if root == nil {
		return
	}
	l.file(root, s, path, chain)
}

// parse reads the first document of a file.
func (l *loader) parse(b []byte, s source) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		msg := strings.TrimPrefix(err.Error(), "yaml: ")
		line := 0
		if rest, ok := strings.CutPrefix(msg, "line "); ok {
			if n, text, ok := strings.Cut(rest, ": "); ok {
				line, _ = strconv.Atoi(n)
				msg = text
			}
		}
		l.fail(s, line, "not YAML: %s", msg)
		return nil
	}
	if len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}

// An entry is a key of a mapping.
type entry struct {
	key   string
	line  int
	value *yaml.Node
}

// entries gives a mapping's keys in order, with those that << brings in, and
// finds keys that stand there twice.
func (l *loader) entries(n *yaml.Node, s source, depth int) ([]entry, bool) {
	n = l.follow(n, s)
	if n == nil {
		return nil, false
	}
	if depth > maxNesting {
		l.fail(s, n.Line, "values are nested more than %d deep", maxNesting)
		return nil, false
	}
	if n.Kind != yaml.MappingNode {
		l.fail(s, n.Line, "names with values are expected, and not %s", describe(n))
		return nil, false
	}
	var own, merged []entry
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Tag == "!!merge" || k.Value == "<<" && k.Kind == yaml.ScalarNode && k.Style == 0 {
			from := []*yaml.Node{v}
			if t := l.follow(v, s); t != nil && t.Kind == yaml.SequenceNode {
				from = t.Content
			}
			for _, f := range from {
				more, ok := l.entries(f, s, depth+1)
				if !ok {
					return nil, false
				}
				merged = append(merged, more...)
			}
			continue
		}
		k = l.follow(k, s)
		if k == nil {
			return nil, false
		}
		if k.Kind != yaml.ScalarNode {
			l.fail(s, k.Line, "a name is a text, and not %s", describe(k))
			return nil, false
		}
		if at, twice := lines[k.Value]; twice {
			l.fail(s, k.Line, "%q stands here a second time; the first is in line %d", k.Value, at)
			continue
		}
		lines[k.Value] = k.Line
		own = append(own, entry{k.Value, k.Line, v})
	}
	for _, e := range merged {
		if _, there := lines[e.key]; !there {
			lines[e.key] = e.line
			own = append(own, e)
		}
	}
	return own, true
}

// follow gives what an alias stands for, and counts what is looked at.
func (l *loader) follow(n *yaml.Node, s source) *yaml.Node {
	if l.values++; l.values > maxValues {
		if l.values == maxValues+1 {
			l.fail(s, n.Line, "the files hold more than %d values", maxValues)
		}
		return nil
	}
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

// value makes a Go value: nil, bool, int, float64, string, []any, map[string]any.
func (l *loader) value(n *yaml.Node, s source, depth int) any {
	line := n.Line
	n = l.follow(n, s)
	if n == nil {
		return nil
	}
	if depth > maxNesting {
		l.fail(s, line, "values are nested more than %d deep", maxNesting)
		return nil
	}
	switch n.Kind {
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			out = append(out, l.value(c, s, depth+1))
			if l.values > maxValues {
				return nil
			}
		}
		return out
	case yaml.MappingNode:
		all, ok := l.entries(n, s, depth)
		if !ok {
			return nil
		}
		out := map[string]any{}
		for _, e := range all {
			out[e.key] = l.value(e.value, s, depth+1)
		}
		return out
	}
	var v any
	if err := n.Decode(&v); err != nil {
		l.fail(s, n.Line, "%q is not what its tag says", n.Value)
		return nil
	}
	switch x := v.(type) {
	case int:
		if s.json {
			return float64(x)
		}
		return x
	case int64:
		return float64(x)
	case uint64:
		return float64(x)
	case time.Time:
		return n.Value
	case []byte:
		return string(x)
	}
	return v
}

// text reads an option that may be any one value.
func (l *loader) text(n *yaml.Node, s source, name string) string {
	n = l.follow(n, s)
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode {
		l.fail(s, n.Line, "%s is a text, and not %s", name, describe(n))
		return ""
	}
	if n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

func (l *loader) boolean(n *yaml.Node, s source, name string) bool {
	v, ok := l.value(n, s, 0).(bool)
	if !ok && n.Tag != "!!null" {
		l.fail(s, n.Line, "%s is true or false, and not %s", name, describe(n))
	}
	return v
}

func (l *loader) number(n *yaml.Node, s source, name string) int {
	switch v := l.value(n, s, 0).(type) {
	case int:
		return v
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int(v)
		}
	}
	if n.Tag != "!!null" {
		l.fail(s, n.Line, "%s is a whole number, and not %s", name, describe(n))
	}
	return 0
}

// maxWait bounds timeouts and delays, as those of the language are.
const maxWait = time.Hour

func (l *loader) milliseconds(n *yaml.Node, s source, name string) time.Duration {
	ms := l.number(n, s, name)
	if ms < 0 || ms > int(maxWait/time.Millisecond) {
		l.fail(s, n.Line, "%s is in milliseconds, from 0 to an hour", name)
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

func (l *loader) file(root *yaml.Node, s source, path string, chain []string) {
	all, ok := l.entries(root, s, 0)
	if !ok {
		return
	}
	kinds := Kinds()
	var includes *yaml.Node
	for _, e := range all {
		if e.key == "gossfile" {
			includes = e.value
			continue
		}
		i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Key == e.key })
		if i < 0 {
			known := []string{"gossfile"}
			for _, k := range kinds {
				known = append(known, k.Key)
			}
			l.fail(s, e.line, "there is no resource %q%s", e.key, suggest(e.key, known))
			continue
		}
		if e.value.Tag == "!!null" {
			continue
		}
		members, ok := l.entries(e.value, s, 0)
		if !ok {
			continue
		}
		for _, m := range members {
			l.resource(kinds[i], m, s)
		}
	}
	if includes != nil && includes.Tag != "!!null" {
		l.includes(includes, s, path, chain)
	}
}

// includes reads what a gossfile block names. What is read later goes before
// what was read earlier, as in goss.
func (l *loader) includes(n *yaml.Node, s source, path string, chain []string) {
	all, ok := l.entries(n, s, 0)
	if !ok {
		return
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	for _, e := range all {
		name, skip := e.key, false
		if t := l.follow(e.value, s); t != nil && t.Tag != "!!null" {
			opts, ok := l.entries(e.value, s, 0)
			if !ok {
				continue
			}
			for _, o := range opts {
				switch o.key {
				case "file":
					name = l.text(o.value, s, "file")
				case "skip":
					skip = l.boolean(o.value, s, "skip")
				case "title", "meta":
				default:
					l.fail(s, o.line, "a gossfile has no attribute %q%s", o.key, suggest(o.key, []string{"file", "skip", "title", "meta"}))
				}
			}
		}
		if skip {
			continue
		}
		if name == "" {
			name = e.key
		}
		full := name
		if !filepath.IsAbs(full) && path != "-" {
			full = filepath.Join(filepath.Dir(path), name)
		}
		found, err := filepath.Glob(full)
		if err != nil {
			l.fail(s, e.line, "%q is not a pattern for file names", name)
			continue
		}
		if len(found) == 0 {
			l.fail(s, e.line, "there is no file %q to include", full)
		}
		line := append(slices.Clone(chain), path)
		for _, f := range found {
			if again := slices.IndexFunc(line, func(p string) bool { return same(p, f) }); again >= 0 {
				l.fail(s, e.line, "the files include each other without end: %s", strings.Join(append(line[again:], f), ", "))
				continue
			}
			l.include(f, line, e.line)
		}
	}
}

func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func (l *loader) resource(k Kind, m entry, s source) {
	r := Resource{Kind: k, ID: m.key, Subject: m.key, texts: map[string]string{}, bools: map[string]bool{}, File: s.name, Line: m.line}
	if t := l.follow(m.value, s); t == nil || t.Tag == "!!null" {
		l.fail(s, m.line, "%s %q says nothing", k.Key, m.key)
		return
	}
	all, ok := l.entries(m.value, s, 0)
	if !ok {
		return
	}
	given := map[string]entry{}
	for _, e := range all {
		if n := l.follow(e.value, s); n != nil && n.Tag == "!!null" && e.key != "content" {
			continue // as if it did not stand there
		}
		switch {
		case e.key == "title":
			r.Title = l.text(e.value, s, "title")
		case e.key == "meta":
			meta, ok := l.value(e.value, s, 0).(map[string]any)
			if !ok {
				l.fail(s, e.line, "meta is names with values")
			}
			r.Meta = meta
		case e.key == "skip":
			r.Skip = l.boolean(e.value, s, "skip")
		case k.Subject != "" && e.key == k.Subject:
			if t := l.text(e.value, s, e.key); t != "" {
				r.Subject = t
			}
		case slices.ContainsFunc(k.Attributes, func(a Attribute) bool { return a.Name == e.key || a.Alias != "" && a.Alias == e.key }):
			given[e.key] = e
		default:
			i := slices.IndexFunc(k.Options, func(o Option) bool { return o.Name == e.key })
			if i < 0 {
				l.fail(s, e.line, "%s has no attribute %q%s", k.Key, e.key, suggest(e.key, k.names()))
				continue
			}
			l.option(&r, k.Options[i], e, s)
		}
	}
	for _, a := range k.Attributes {
		e, ok := given[a.Name]
		if !ok && a.Alias != "" {
			e, ok = given[a.Alias]
		}
		if !ok {
			if a.Required {
				if !r.Skip {
					l.fail(s, m.line, "%s %q does not say %s", k.Key, m.key, a.Name)
				}
				r.Checks = append(r.Checks, Check{Attribute: a, Line: m.line})
			}
			continue
		}
		v := l.value(e.value, s, 0)
		if a.Digits {
			if t, ok := v.(string); ok {
				if n, err := strconv.Atoi(t); err == nil {
					v = n
				}
			}
		}
		if a.Name == "contains" {
			l.warn(s, e.line, "contains is called contents since goss 0.4")
		}
		if list, ok := v.([]any); ok && len(list) == 0 && a.Reader {
			l.warn(s, e.line, "%s of %s %q is an empty list, which asks for nothing; for what is empty write \"\"", a.Name, k.Key, m.key)
			continue
		}
		matcher, err := compile(v, a.Reader || r.AsReader || k.Key == "matching" && asReader(all))
		if err != nil {
			// As in goss, it costs this check alone, which never passes.
			l.warn(s, e.line, "%s of %s %q can't be checked: %s", a.Name, k.Key, m.key, err)
			matcher = Matcher{broken{v, err}, v}
		}
		r.Checks = append(r.Checks, Check{a, matcher, e.line})
	}
	if len(r.Checks) == 0 {
		l.warn(s, m.line, "%s %q checks nothing", k.Key, m.key)
	}
	id := k.Key + "\x00" + r.ID
	if at, twice := l.seen[id]; twice {
		l.warn(s, m.line, "%s %q stands in %s too; only this one holds, as it was read later", k.Key, r.ID, at)
		l.resources = slices.DeleteFunc(l.resources, func(x Resource) bool { return x.Kind.Key == k.Key && x.ID == r.ID })
	}
	l.seen[id] = s.name
	l.resources = append(l.resources, r)
}

func asReader(all []entry) bool {
	return slices.ContainsFunc(all, func(e entry) bool { return e.key == "as-reader" && e.value.Value == "true" })
}

func (l *loader) option(r *Resource, o Option, e entry, s source) {
	switch o.Type {
	case Text:
		r.texts[o.Name] = l.text(e.value, s, o.Name)
	case Texts:
		list, ok := l.value(e.value, s, 0).([]any)
		for _, v := range list {
			t, isText := v.(string)
			name, _, colon := strings.Cut(t, ":")
			if !isText || !colon || strings.TrimSpace(name) == "" || strings.ContainsAny(t, "\r\n\x00") {
				l.fail(s, e.line, "%s has a line that is not \"Name: value\"", o.Name)
				continue
			}
			r.Headers = append(r.Headers, t)
		}
		if !ok {
			l.fail(s, e.line, "%s is a list of texts", o.Name)
		}
	case Bool:
		v := l.boolean(e.value, s, o.Name)
		if r.bools[o.Name] = v; o.Name == "as-reader" {
			r.AsReader = v
		}
	case Number:
		if r.RetryCount = l.number(e.value, s, o.Name); r.RetryCount < 0 || r.RetryCount > 10000 {
			l.fail(s, e.line, "%s is a number from 0 to 10000", o.Name)
		}
	case Milliseconds:
		r.Timeout = l.milliseconds(e.value, s, o.Name)
	case Delay:
		if n := l.follow(e.value, s); n != nil && n.Tag == "!!str" {
			d, err := time.ParseDuration(n.Value)
			if ms, isNumber := strconv.Atoi(n.Value); isNumber == nil {
				d, err = time.Duration(ms)*time.Millisecond, nil
			}
			if err != nil || d < 0 || d > maxWait {
				l.fail(s, e.line, "%s is in milliseconds, or a duration such as 500ms or 2s, up to an hour", o.Name)
			}
			r.RetryDelay = d
			return
		}
		r.RetryDelay = l.milliseconds(e.value, s, o.Name)
	case Any:
		r.Content = l.value(e.value, s, 0)
	}
}

func suggest(given string, known []string) string {
	for _, k := range known {
		if levenshtein.Distance(given, k, nil) < 3 {
			return fmt.Sprintf("; did you mean %q?", k)
		}
	}
	return "; known: " + strings.Join(known, ", ")
}
