package specs

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	yaml "github.com/zclconf/go-cty-yaml"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// Documents: JSON and YAML, of which an attribute is named by its path.

// documentPath makes the attribute at a path such as servers[0].name of what
// get gives.
func documentPath[F any](k *kind, decode func([]byte) (cty.Value, error), get func(F) string) func(rest string) (attribute, error) {
	return documentAt(k, decode, func(fact F) (string, error) { return get(fact), nil })
}

// documentAt is documentPath of what may not be known.
func documentAt[F any](k *kind, decode func([]byte) (cty.Value, error), get func(F) (string, error)) func(rest string) (attribute, error) {
	return func(rest string) (attribute, error) {
		steps, err := parsePath(rest)
		if err != nil {
			return attribute{}, err
		}
		return get1(k, typeAny, func(fact F) (value, error) {
			text, err := get(fact)
			if err != nil {
				return value{}, err
			}
			doc, err := decode([]byte(text))
			if err != nil {
				return value{}, err
			}
			return walk(doc, steps)
		}), nil
	}
}

// parsePath reads a path: names with dots between them, [n] for an element
// (Serverspec's .[n] too), ["name"] for a name with dots in it.
func parsePath(s string) ([]any, error) {
	var out []any
	for rest := s; rest != ""; {
		rest = strings.TrimPrefix(rest, ".")
		if !strings.HasPrefix(rest, "[") {
			i := strings.IndexAny(rest, ".[")
			if i < 0 {
				i = len(rest)
			}
			if i == 0 {
				return nil, fmt.Errorf("%q is not a path", s)
			}
			out = append(out, rest[:i])
			rest = rest[i:]
			continue
		}
		if m := quotedStep.FindStringSubmatch(rest); m != nil {
			out, rest = append(out, m[1]), rest[len(m[0]):]
		} else if m := indexStep.FindStringSubmatch(rest); m != nil {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				return nil, fmt.Errorf("%q is not a path", s)
			}
			out, rest = append(out, n), rest[len(m[0]):]
		} else {
			return nil, fmt.Errorf("%q is not a path", s)
		}
	}
	return out, nil
}

var (
	quotedStep = regexp.MustCompile(`^\["([^"]+)"\]`)
	indexStep  = regexp.MustCompile(`^\[(\d+)\]`)
)

// walk gives what stands at a path.
func walk(v cty.Value, steps []any) (value, error) {
	for _, s := range steps {
		if v.IsNull() {
			return value{}, missing(fmt.Sprintf("there is nothing at %v", s))
		}
		t := v.Type()
		switch s := s.(type) {
		case string:
			if !t.IsObjectType() || !t.HasAttribute(s) {
				return value{}, missing(fmt.Sprintf("there is no %q", s))
			}
			v = v.GetAttr(s)
		case int:
			if !t.IsTupleType() || s >= t.Length() {
				return value{}, missing(fmt.Sprintf("there is no element %d", s))
			}
			v = v.Index(cty.NumberIntVal(int64(s)))
		}
	}
	t := v.Type()
	switch {
	case v.IsNull():
		return value{text: "null", typ: typeText}, nil
	case t == cty.Number:
		return value{text: v.AsBigFloat().Text('g', -1), typ: typeNumber}, nil
	case t == cty.Bool, t == cty.String:
		s, err := asString(v)
		return value{text: s, typ: typeText}, err
	case t.IsTupleType():
		out := value{typ: typeList, list: []string{}}
		for _, e := range v.AsValueSlice() {
			s, err := plainText(e)
			if err != nil {
				return value{}, err
			}
			out.list = append(out.list, s)
		}
		out.text = "[" + strings.Join(out.list, ", ") + "]"
		return out, nil
	case t.IsObjectType(): // its names, so that include can ask for one
		out := value{typ: typeList, list: []string{}}
		for name := range t.AttributeTypes() {
			out.list = append(out.list, name)
		}
		slices.Sort(out.list)
		out.text = "[" + strings.Join(out.list, ", ") + "]"
		return out, nil
	}
	return value{}, errors.New("what stands there cannot be compared")
}

// plainText is an element of a list: scalars as they are, the rest as JSON.
func plainText(v cty.Value) (string, error) {
	if v.IsNull() {
		return "null", nil
	}
	if t := v.Type(); t == cty.String || t == cty.Number || t == cty.Bool {
		return asString(v)
	}
	b, err := ctyjson.Marshal(v, v.Type())
	return string(b), err
}

// maxDepth bounds how deep a document may be nested, maxAliases how often
// YAML may refer to a part of itself: a small file could unfold without end.
const (
	maxDepth   = 100
	maxAliases = 8
)

func decodeJSON(b []byte) (cty.Value, error) {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == '[' || c == '{'):
			if depth++; depth > maxDepth {
				return cty.NilVal, errors.New("the JSON is nested too deeply")
			}
		case !inString && (c == ']' || c == '}'):
			depth--
		}
	}
	t, err := ctyjson.ImpliedType(b)
	if err != nil {
		return cty.NilVal, fmt.Errorf("it is not JSON: %w", err)
	}
	v, err := ctyjson.Unmarshal(b, t)
	if err != nil {
		return cty.NilVal, fmt.Errorf("it is not JSON: %w", err)
	}
	return v, nil
}

func decodeYAML(b []byte) (cty.Value, error) {
	if len(yamlAlias.FindAllIndex(b, maxAliases+1)) > maxAliases {
		return cty.NilVal, fmt.Errorf("the YAML has more than %d aliases; compare its content", maxAliases)
	}
	depth := 0
	for _, c := range b {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		}
		if depth > maxDepth {
			break
		}
	}
	if depth > maxDepth || yamlDeep.Match(b) {
		return cty.NilVal, errors.New("the YAML is nested too deeply")
	}
	t, err := yaml.ImpliedType(b)
	if err != nil {
		return cty.NilVal, fmt.Errorf("it is not YAML: %w", err)
	}
	v, err := yaml.Unmarshal(b, t)
	if err != nil {
		return cty.NilVal, fmt.Errorf("it is not YAML: %w", err)
	}
	return v, nil
}

var (
	yamlAlias = regexp.MustCompile(`(?m)(^|[\s\[\{,:-])\*[^\s*]`)
	yamlDeep  = regexp.MustCompile(`(?m)^\s*([-?:][ \t]+){100}`)
)

// Who may read, write and execute.

// An access is the modes that decide what a file's owner, group and others may
// do: its own, and those of the directories above.
type access struct {
	mode  uint32
	above []dirMode
}

type dirMode struct {
	path string
	mode uint32
}

var accesses = &kind{
	name: "access",
	each: true,
	script: `p=$(readlink -f -- "$1") && [ -n "$p" ] || { stat -L -c . -- "$1" >/dev/null; exit 9; }
while :; do
	stat -c '%f:%n' -- "$p" || exit 9
	[ "$p" = / ] && exit 0
	p=${p%/*}; p=${p:-/}
done`,
	read: one(func(a answer) (any, error) {
		if a.status != 0 {
			if gone(string(a.errOut)) {
				return nil, missing("no such file")
			}
			return nil, failed(a, "the question for who may use it")
		}
		var all []dirMode
		for _, l := range lines(a.out) {
			m, name, _ := strings.Cut(l, ":")
			mode, err := strconv.ParseUint(m, 16, 32)
			if err != nil {
				return nil, fmt.Errorf("not a file's mode: %s", Clean(l))
			}
			all = append(all, dirMode{name, uint32(mode)})
		}
		if len(all) == 0 {
			return nil, failed(a, "the question for who may use it")
		}
		return access{all[0].mode, all[1:]}, nil
	}),
}

// userAccess is whether one user may, as the kernel decides it.
func userAccess(op string) *kind {
	return &kind{
		name: "access -" + op,
		each: true,
		script: `id -u "$2" >/dev/null || exit 9
stat -L -c . -- "$1" >/dev/null || exit 8
[ "$(id -u)" = 0 ] || [ "$(id -un)" = "$2" ] || { echo "only root can find out what another user may do; use sudo" >&2; exit 9; }
export INGOT_FILE="$1"
t='test -` + op + ` "$INGOT_FILE" && echo yes || echo no'
if [ "$(id -un)" = "$2" ]; then exec sh -c "$t"
elif command -v runuser >/dev/null; then exec runuser -u "$2" -- sh -c "$t"
else exec su -s /bin/sh "$2" -c "$t"; fi`,
		read: one(func(a answer) (any, error) {
			switch said := strings.TrimSpace(string(a.out)); {
			case a.status == 8 && gone(string(a.errOut)):
				return nil, missing("no such file")
			case a.status == 0 && (said == "yes" || said == "no"):
				return said == "yes", nil
			}
			return nil, failed(a, "the question for what the user may do")
		}),
	}
}

// accessMatcher makes be_readable and its like; bit is others' bit.
func accessMatcher(op string, bit uint32) matcher {
	byUser := userAccess(op)
	return matcher{
		kind: accesses,
		argument: func(v cty.Value) (argument, error) {
			a, err := choose(options("by", "by_user"), "by", "owner", "group", "others")(v)
			if err == nil && len(a.opt) > 1 {
				err = errors.New("either by or by_user is expected")
			}
			if err == nil && a.opt["by_user"] != "" {
				err = account(a.opt["by_user"])
			}
			return a, err
		},
		about: func(subject string, a argument, _ map[string]string) (*kind, string) {
			if u := a.opt["by_user"]; u != "" {
				return byUser, subject + "\x00" + u
			}
			return accesses, subject
		},
		test: func(fact any, a argument) (bool, string, error) {
			if yes, ok := fact.(bool); ok {
				if yes {
					return true, "the user may", nil
				}
				return false, "the user may not", nil
			}
			if all, ok := fact.(everyone); ok {
				if a.opt["by"] != "others" {
					return false, "", unsupported("Windows knows no owner's and group's modes; say by_user, or by = \"others\" for everybody")
				}
				return uint32(all)&bit != 0, map[bool]string{true: "everybody may", false: "not everybody may"}[uint32(all)&bit != 0], nil
			}
			f := fact.(access)
			mask := map[string]uint32{"owner": bit << 6, "group": bit << 3, "others": bit, "": bit<<6 | bit<<3 | bit}[a.opt["by"]]
			said := fmt.Sprintf("%04o", f.mode&0o7777)
			if f.mode&mask == 0 {
				return false, said, nil
			}
			for _, d := range f.above {
				if a.opt["by"] == "others" && d.mode&1 == 0 {
					return false, fmt.Sprintf("%s, but %s is %04o", said, d.path, d.mode&0o7777), nil
				}
			}
			return true, said, nil
		},
	}
}

var flags = &kind{
	name: "file flags",
	each: true,
	script: `stat -L -c . -- "$1" >/dev/null || exit 8
command -v lsattr >/dev/null || { echo "there is no lsattr" >&2; exit 9; }
exec lsattr -d -- "$(readlink -f -- "$1")"`,
	read: one(func(a answer) (any, error) {
		f, _, ok := strings.Cut(string(a.out), " ")
		switch {
		case a.status == 8 && gone(string(a.errOut)):
			return nil, missing("no such file")
		case a.status != 0 || !ok || strings.Trim(f, "-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
			return nil, failed(a, "lsattr")
		}
		return f, nil
	}),
}

var labels = &kind{
	name:   "selinux label",
	each:   true,
	script: `exec stat -L -c %C -- "$1"`,
	read: one(func(a answer) (any, error) {
		said := strings.TrimSpace(string(a.out))
		switch {
		case a.status != 0 && gone(string(a.errOut)):
			return nil, missing("no such file")
		case said == "?", strings.Contains(string(a.errOut), "failed to get security context"):
			return nil, missing("it has no label")
		case a.status != 0 || said == "" || said == "%C" || said == "C":
			return nil, failed(a, "stat")
		}
		return said, nil
	}),
}

var mtimes = &kind{
	name:   "mtime",
	each:   true,
	script: `exec stat -L -c %Y -- "$1"`,
	read: one(func(a answer) (any, error) {
		switch {
		case a.status != 0 && gone(string(a.errOut)):
			return nil, missing("no such file")
		case a.status != 0:
			return nil, failed(a, "stat")
		}
		return strings.TrimSpace(string(a.out)), nil
	}),
}

// A containing is what contain asks for beyond one text.
type containing struct {
	lines                   []string
	from, to, after, before *regexp.Regexp
}

// contains reads a text, a list of lines that follow each other, or an object
// that also says between which lines to look.
func contains(v cty.Value) (argument, error) {
	c := &containing{}
	words := ""
	if v.Type().IsObjectType() || v.Type().IsMapType() {
		given, err := members(v, "text", "from", "to", "after", "before")
		if err != nil {
			return argument{}, err
		}
		for _, k := range []string{"from", "to", "after", "before"} {
			if given[k] == cty.NilVal {
				continue
			}
			w, err := patterns(typeText, given[k])
			if err != nil {
				return argument{}, fmt.Errorf("%s: %w", k, err)
			}
			*map[string]**regexp.Regexp{"from": &c.from, "to": &c.to, "after": &c.after, "before": &c.before}[k] = w[0].pattern
			words += " " + k + " /" + w[0].text + "/"
		}
		if c.from != nil && c.after != nil || c.to != nil && c.before != nil {
			return argument{}, errors.New("from and after say the same, as do to and before")
		}
		if v = given["text"]; v == cty.NilVal {
			return argument{}, errors.New("text is missing")
		}
	}
	if v.Type().IsTupleType() || v.Type().IsListType() {
		ws, err := several(typeText, v)
		if err != nil {
			return argument{}, err
		}
		for _, w := range ws {
			c.lines = append(c.lines, w.text)
		}
		return argument{words: "lines " + quoteAll(c.lines) + words, extra: c}, nil
	}
	a, err := text(v)
	a.words += words
	a.extra = c
	return a, err
}

func quoteAll(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, strconv.Quote(s))
	}
	return strings.Join(out, ", ")
}

// holds looks for what is asked for. A range begins with each line that from
// matches, and ends with the next one that to matches, both included; it may
// end with the file.
func (c *containing) holds(content string, a argument) (bool, string, error) {
	if c == nil {
		return value{text: content}.include(a.text)
	}
	start, end := c.from, c.to
	if c.after != nil {
		start = c.after
	}
	if c.before != nil {
		end = c.before
	}
	if start == nil && end == nil && len(c.lines) == 0 {
		return value{text: content}.include(a.text)
	}
	var parts [][]string
	inside := start == nil
	if inside {
		parts = append(parts, nil)
	}
	for _, l := range lines([]byte(content)) {
		began := false
		if !inside && start != nil && start.MatchString(l) {
			inside, began = true, true
			parts = append(parts, nil)
		}
		if inside {
			parts[len(parts)-1] = append(parts[len(parts)-1], l)
			if !began && end != nil && end.MatchString(l) {
				inside = false
			}
		}
	}
	if len(parts) == 0 {
		return false, "no line begins that part", nil
	}
	for _, p := range parts {
		if len(c.lines) == 0 {
			if text := strings.Join(p, "\n"); strings.Contains(text, a.text) {
				return true, "in a part of " + strconv.Itoa(len(p)) + " lines", nil
			}
			continue
		}
		for i := range p {
			n := 0
			for n < len(c.lines) && i+n < len(p) && strings.Contains(p[i+n], c.lines[n]) {
				n++
			}
			if n == len(c.lines) {
				return true, "these lines follow each other", nil
			}
		}
	}
	return false, "not in the lines looked at", nil
}

// moreOfFiles is what the file resource can say beyond stat and content.
func moreOfFiles(r resource) resource {
	for name, m := range map[string]matcher{
		"be_readable":   accessMatcher("r", 4),
		"be_writable":   accessMatcher("w", 2),
		"be_executable": accessMatcher("x", 1),
		"be_immutable": ask1(flags, false, options(), func(f string, _ argument) (bool, string, error) {
			return strings.Contains(f, "i"), f, nil
		}),
		"be_mounted": ask1(mounts, true, mounted, func(m mountEntry, a argument) (bool, string, error) {
			w, _ := a.extra.(mountEntry)
			if ok, why := m.has(w); !ok {
				return false, why, nil
			}
			return true, m.String(), nil
		}),
		"contain": ask1(contents, false, contains, func(content string, a argument) (bool, string, error) {
			c, _ := a.extra.(*containing)
			return c.holds(content, a)
		}),
	} {
		r.matchers[name] = m
	}
	r.matchers["be_version"] = versionMatcher()
	r.attributes["version"] = get1(fileVersions, typeVersion, func(f fileVersion) (value, error) {
		s, err := schemeOf("windows")
		return value{text: f.number, scheme: s}, err
	})
	r.attributes["mtime"] = get1(mtimes, typeNumber, asText)
	r.attributes["selinux_label"] = get1(labels, typeText, asText)
	r.paths = map[string]pathAttribute{
		"content_as_json.": {"PATH", documentPath(contents, decodeJSON, func(s string) string { return s })},
		"content_as_yaml.": {"PATH", documentPath(contents, decodeYAML, func(s string) string { return s })},
	}
	return r
}
