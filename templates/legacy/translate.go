package legacy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
)

// lines is HCL text, and for each line the place in the JSON it comes from.
type lines struct {
	text []string
	at   []hcl.Range
}

func (l *lines) add(at hcl.Range, format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if last := len(l.text) - 1; s == "}" && last >= 0 && strings.HasSuffix(l.text[last], "{") {
		l.text[last] += "}"
		return
	}
	l.text = append(l.text, s)
	l.at = append(l.at, at)
}

// comment adds a comment, whatever line ends are in it.
func (l *lines) comment(at hcl.Range, text string) {
	for _, s := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		l.add(at, "# %s", strings.TrimSpace(s))
	}
}

// section appends other lines after an empty one.
func (l *lines) section(o *lines) {
	if len(o.text) == 0 {
		return
	}
	if len(l.text) > 0 && l.text[len(l.text)-1] != "" {
		l.add(hcl.Range{}, "")
	}
	l.text, l.at = append(l.text, o.text...), append(l.at, o.at...)
}

// variable is a user variable of the JSON template.
type variable struct {
	name string // in the JSON
	hcl  string // in the HCL: the same, made an identifier
	at   hcl.Range
	// value is the default; nil: none, a value must be given.
	value     *node
	sensitive bool
	// derived variables have a default that refers to something. HCL does not
	// allow that, so the default is null and the value is that of a local.
	derived bool
	// undeclared variables are used, and "variables" does not name them.
	undeclared bool
}

type builder struct {
	*node
	typ, label string
	name       string // as the JSON has it
	expr       string // the name in HCL
}

type translator struct {
	root      *node
	annotated bool
	diags     hcl.Diagnostics
	// early lets no default of a variable be rendered later than it is used.
	// composed says that a function was applied to some value, which then must
	// not hold what is still to be rendered.
	early, composed bool
	vars            []*variable
	byName          map[string]*variable
	taken           map[string]bool // the HCL names of variables
	environ         map[string]*variable
	current         *variable // whose default is translated
	builders        []*builder
}

func (t *translator) fail(at hcl.Range, summary, format string, args ...any) {
	t.diags = append(t.diags, failure(at, summary, format, args...))
}

// translate turns a template, after the fixes, into HCL.
func translate(root *node, annotated bool) (*lines, hcl.Diagnostics) {
	t := newTranslator(root, annotated)
	out := t.template()
	if t.composed {
		t = newTranslator(root, annotated)
		t.early = true
		out = t.template()
	}
	return out, t.diags
}

func newTranslator(root *node, annotated bool) *translator {
	return &translator{root: root, annotated: annotated, byName: map[string]*variable{}, taken: map[string]bool{}, environ: map[string]*variable{}}
}

var topLevel = []string{"description", "min_packer_version", "variables", "sensitive-variables", builders, provisioners, postProcessors, errorCleanup}

func (t *translator) template() *lines {
	head := &lines{}
	if t.root.kind != object {
		t.fail(t.root.at, "Not a template", "A template is a JSON object with the key \"builders\", but this is %s.", t.root.kind)
		return head
	}
	for _, m := range t.root.members {
		switch {
		case strings.HasPrefix(m.name, "_"):
			if m.value.kind != text {
				t.fail(m.value.at, "Wrong type of value", "A comment must be a string, but %q is %s.", m.name, m.value.kind)
			}
			head.comment(m.at, m.value.text)
		case m.name == "push":
			t.diags = append(t.diags, warning(m.at, "Key without effect", "The service that \"push\" was for has ended. Remove it."))
		case !slices.Contains(topLevel, m.name):
			t.fail(m.at, "Unknown key", "A template has no key %q. Its keys are %s, and comments that start with an underscore.%s",
				m.name, strings.Join(topLevel, ", "), config.DidYouMean(m.name, topLevel))
		}
	}
	t.readVariables()
	t.readBuilders()
	var sources, build lines
	for _, b := range t.builders {
		t.note(&sources, b.at, "A source says how a machine is made. Builds use it by its type and name.")
		sources.add(b.at, "source %s %s {", quote(b.typ), quote(b.label))
		t.options(&sources, b.node, "type", "name")
		sources.add(b.at, "}")
		sources.add(b.at, "")
	}
	t.build(&build)
	out := &lines{}
	out.section(head)
	out.section(t.packer())
	out.section(t.variables())
	out.section(&sources)
	out.section(&build)
	return out
}

// note adds a comment that explains HCL to those who know JSON.
func (t *translator) note(l *lines, at hcl.Range, text string) {
	if t.annotated {
		l.comment(at, text)
	}
}

// want returns a member of the given kind, or nil; another kind is an error.
func (t *translator) want(n *node, name string, k kind) *node {
	v := n.get(name)
	if v == nil || v.kind == k {
		return v
	}
	t.fail(v.at, "Wrong type of value", "%q must be %s, but it is %s.", name, k, v.kind)
	return nil
}

// plugins are the sources of the plugins that Packer needs for what was once
// part of it, by the first word of the types they bring.
var plugins = map[string]string{
	"amazon": "hashicorp/amazon", "ansible": "hashicorp/ansible", "azure": "hashicorp/azure", "digitalocean": "digitalocean/digitalocean",
	"docker": "hashicorp/docker", "googlecompute": "hashicorp/googlecompute", "qemu": "hashicorp/qemu", "vagrant": "hashicorp/vagrant",
	"virtualbox": "hashicorp/virtualbox", "vmware": "hashicorp/vmware", "vsphere": "hashicorp/vsphere",
}

func (t *translator) packer() *lines {
	l := &lines{}
	min := t.want(t.root, "min_packer_version", text)
	needed := map[string]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		word, _, _ := strings.Cut(cmp.Or(n.str("type"), n.text), "-")
		if plugins[word] != "" {
			needed[word] = true
		}
		for _, e := range n.elems {
			visit(e)
		}
	}
	for _, list := range []string{builders, provisioners, postProcessors, errorCleanup} {
		if v := t.root.get(list); v != nil {
			visit(v)
		}
	}
	if min == nil && len(needed) == 0 {
		return l
	}
	at := t.root.at
	if min != nil {
		at = min.at
	}
	at = firstLine(at)
	t.note(l, at, "What Packer needs to read this template. Ingot needs no plugins.")
	l.add(at, "packer {")
	if min != nil {
		l.add(min.at, "required_version = %s", quote(">= "+min.text))
	}
	if len(needed) > 0 {
		l.add(at, "required_plugins {")
		for _, name := range slices.Sorted(maps.Keys(needed)) {
			l.add(at, "%s = {", name)
			l.add(at, "source = \"github.com/%s\"", plugins[name])
			l.add(at, "version = \"~> 1\"")
			l.add(at, "}")
		}
		l.add(at, "}")
	}
	l.add(at, "}")
	return l
}

func identifier(s string) bool { return hclsyntax.ValidIdentifier(s) }

// unique makes a name an identifier that is not taken.
func unique(name string, taken map[string]bool) string {
	var b strings.Builder
	for i, r := range name {
		switch {
		case r == '-' && i > 0 || r == '_' || unicode.IsLetter(r) && identifier(string(r)) || unicode.IsDigit(r) && i > 0:
			b.WriteRune(r)
		case unicode.IsDigit(r):
			b.WriteString("_" + string(r))
		default:
			b.WriteByte('_')
		}
	}
	base := b.String()
	if !identifier(base) {
		base = "_" + strconv.Itoa(len(base))
	}
	made := base
	for i := 2; taken[made]; i++ {
		made = base + "_" + strconv.Itoa(i)
	}
	taken[made] = true
	return made
}

func (t *translator) readVariables() {
	vars := t.want(t.root, "variables", object)
	if vars == nil {
		vars = &node{}
	}
	for _, m := range vars.members {
		if identifier(m.name) {
			t.taken[m.name] = true
		}
	}
	for _, m := range vars.members {
		v := &variable{name: m.name, hcl: m.name, at: span(m), value: m.value}
		if !identifier(m.name) {
			v.hcl = unique(m.name, t.taken)
			t.diags = append(t.diags, warning(m.at, "Variable renamed", "%q cannot be the name of a variable in HCL. There it is %q; use that with -var too.", m.name, v.hcl))
		}
		switch m.value.kind {
		case null:
			v.value = nil
		case text:
			v.derived = t.derived(m.value.text)
			if v.derived && refersTo(m.value.text, m.name) {
				v.value, v.derived = nil, false // such a default is none
			}
		default:
			t.fail(m.value.at, "Wrong type of value", "The default of a variable must be a string or null, but %q is %s. Write it in double quotes.", m.name, m.value.kind)
		}
		t.vars, t.byName[m.name] = append(t.vars, v), v
	}
	if list := t.want(t.root, "sensitive-variables", array); list != nil {
		for _, e := range list.elems {
			v := t.byName[e.text]
			if e.kind != text {
				t.fail(e.at, "Wrong type of value", "\"sensitive-variables\" must be an array of names, but this is %s.", e.kind)
			} else if v == nil {
				t.diags = append(t.diags, warning(e.at, "Undeclared variable", "\"variables\" declares no %q, so it is not sensitive.%s", e.text, t.suggestVariable(e.text)))
			} else {
				v.sensitive = true
			}
		}
	}
}

func (t *translator) suggestVariable(name string) string {
	return config.DidYouMean(name, slices.Sorted(maps.Keys(t.byName)))
}

// refersTo tells whether a default names a user variable.
func refersTo(s, name string) bool {
	tree := parseGo(s)
	if tree == nil {
		return false
	}
	found := false
	walk(tree.Root, func(c *parse.CommandNode) {
		if len(c.Args) != 2 {
			return
		}
		f, ok := c.Args[0].(*parse.IdentifierNode)
		arg, is := c.Args[1].(*parse.StringNode)
		found = found || ok && is && f.Ident == "user" && arg.Text == name
	})
	return found
}

// derived tells whether a default must be the value of a local.
func (t *translator) derived(s string) bool {
	if !strings.Contains(s, "{{") {
		return false
	}
	tree := parseGo(s)
	if tree == nil {
		return true
	}
	for _, n := range tree.Root.Nodes {
		if _, ok := n.(*parse.TextNode); ok || envOf(n) != "" {
			continue
		}
		if t.early || resolves(n) || slices.Contains(calls(n), "uuid") {
			return true
		}
	}
	return false
}

// envOf returns X for {{env `X`}}.
func envOf(n parse.Node) string {
	if a, ok := n.(*parse.ActionNode); ok && len(a.Pipe.Decl) == 0 && len(a.Pipe.Cmds) == 1 && len(a.Pipe.Cmds[0].Args) == 2 {
		f, ok := a.Pipe.Cmds[0].Args[0].(*parse.IdentifierNode)
		if s, is := a.Pipe.Cmds[0].Args[1].(*parse.StringNode); ok && is && f.Ident == "env" {
			return s.Text
		}
	}
	return ""
}

// plain translates a default that is not derived.
func (t *translator) plain(v *variable) string {
	s := v.value.text
	if !strings.Contains(s, "{{") {
		return quote(s)
	}
	if err := render.Check(s); err != nil {
		t.fail(v.value.at, "Invalid Go template", "The default of %q cannot be rendered: %s.", v.name, err)
	}
	tree := parseGo(s)
	if !slices.Contains(calls(tree.Root), "env") {
		return quote(s)
	}
	var pieces []piece
	for _, n := range tree.Root.Nodes {
		if x := envOf(n); x != "" {
			pieces = append(pieces, piece{"env(" + quote(x) + ")", true})
		} else {
			pieces = append(pieces, piece{text: n.String()})
		}
	}
	return join(pieces)
}

// reference is how HCL refers to a variable.
func (t *translator) reference(name string, in place, at hcl.Range) string {
	v := t.byName[name]
	switch {
	case v == nil && in == inVariable:
		t.diags = append(t.diags, warning(at, "Undeclared variable", "\"variables\" declares no %q, so -var or a variable file must give it a value. Declare it.%s", name, t.suggestVariable(name)))
		v = &variable{name: name, hcl: unique(name, t.taken), at: at}
		t.vars, t.byName[name] = append(t.vars, v), v
	case v != nil && v.undeclared && in == inVariable:
		v.value = nil // what others are made of is required, as in Packer
	case v == nil:
		t.diags = append(t.diags, warning(at, "Undeclared variable", "\"variables\" declares no %q, so it is empty unless -var gives it a value. Declare it.%s", name, t.suggestVariable(name)))
		v = &variable{name: name, hcl: unique(name, t.taken), at: at, value: textAt("", at), undeclared: true}
		t.vars, t.byName[name] = append(t.vars, v), v
	}
	if v.derived {
		return "local." + v.hcl
	}
	return "var." + v.hcl
}

// environment is how a local, which cannot read the environment, gets at it.
func (t *translator) environment(name string) string {
	v := t.environ[name]
	if v == nil {
		v = &variable{hcl: unique("env_"+name, t.taken), value: textAt(name, hcl.Range{})}
		t.environ[name] = v
	}
	if t.current != nil {
		v.at, v.sensitive = t.current.at, v.sensitive || t.current.sensitive
	}
	return "var." + v.hcl
}

func (t *translator) variables() *lines {
	var vars, locals lines
	declare := func(v *variable, value string) {
		vars.add(v.at, "variable %s {", quote(v.hcl))
		vars.add(v.at, "type = string")
		if value != "" {
			vars.add(v.at, "default = %s", value)
		}
		if v.sensitive {
			vars.add(v.at, "sensitive = true")
		}
		vars.add(v.at, "}")
		vars.add(v.at, "")
	}
	for i := 0; i < len(t.vars); i++ { // defaults may use what is not declared
		v := t.vars[i]
		t.current = v
		switch {
		case v.value == nil:
			t.note(&vars, v.at, "A variable without a default must be given a value: -var, -var-file or PKR_VAR_"+v.hcl+".")
			declare(v, "")
		case v.derived:
			t.note(&vars, v.at, "The default is local."+v.hcl+", since defaults of variables cannot refer to anything.")
			declare(v, "null")
			expr := t.express(v.value.text, inVariable, v.value.at)
			locals.add(v.at, "local %s {", quote(v.hcl))
			locals.add(v.at, "expression = var.%s == null ? %s : var.%s", v.hcl, expr, v.hcl)
			if v.sensitive {
				locals.add(v.at, "sensitive = true")
			}
			locals.add(v.at, "}")
			locals.add(v.at, "")
		default:
			declare(v, t.plain(v))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.environ)) {
		v := t.environ[name]
		t.note(&vars, v.at, "Only the default of a variable can read the environment.")
		declare(v, "env("+quote(v.value.text)+")")
	}
	vars.section(&locals)
	return &vars
}

func (t *translator) readBuilders() {
	list := t.want(t.root, builders, array)
	if list == nil || len(list.elems) == 0 {
		if !t.diags.HasErrors() {
			t.fail(firstLine(t.root.at), "No builders", "A template needs at least one builder: \"builders\": [{\"type\": \"...\"}].")
		}
		return
	}
	labels := map[string]map[string]bool{}
	first := map[string]*builder{}
	for _, n := range list.elems {
		typ, ok := t.componentType(n, "builder")
		if !ok {
			continue
		}
		b := &builder{node: n, typ: typ, name: typ}
		v := n.get("name")
		if v != nil && v.text != "" && v.kind != array && v.kind != object {
			b.name = v.text
		} else if v != nil && v.kind != text {
			t.fail(v.at, "Wrong type of value", "The name of a builder must be a string, but it is %s.", v.kind)
		}
		b.expr = t.express(b.name, inName, cmp.Or(v, n).at)
		if labels[typ] == nil {
			labels[typ] = map[string]bool{}
		}
		b.label = unique(b.name, labels[typ])
		if o := first[b.name]; o != nil {
			t.fail(firstLine(n.at), "Two builders of one name", "There is a builder %q on line %d already. Give one of them another \"name\".", b.name, o.at.Start.Line)
			continue
		}
		first[b.name] = b
		t.builders = append(t.builders, b)
	}
}

// componentType returns the type of a component.
func (t *translator) componentType(n *node, what string) (string, bool) {
	if n.kind != object {
		t.fail(n.at, "Wrong type of value", "A %s must be an object with a \"type\", but this is %s.", what, n.kind)
		return "", false
	}
	v := t.want(n, "type", text)
	switch {
	case v == nil && n.get("type") == nil:
		t.fail(firstLine(n.at), "Missing type", "Each %s needs a \"type\", the name of its kind.", what)
	case v != nil && !identifier(v.text):
		t.fail(v.at, "Invalid type", "%q cannot be the type of a %s. It must be written out, without Go templates.", v.text, what)
	}
	return n.str("type"), v != nil && identifier(v.text)
}

func (t *translator) build(l *lines) {
	at := firstLine(t.root.at)
	t.note(l, at, "A build runs these steps on the machine of each source.")
	l.add(at, "build {")
	if d := t.want(t.root, "description", text); d != nil {
		l.add(firstLine(d.at), "description = %s", quote(d.text))
	}
	named := slices.ContainsFunc(t.builders, func(b *builder) bool { return quote(b.label) != b.expr })
	if !named && len(t.builders) > 0 {
		var refs []string
		for _, b := range t.builders {
			refs = append(refs, quote("source."+b.typ+"."+b.label))
		}
		addList(l, firstLine(t.builders[0].at), "sources = ", refs, "")
	}
	for _, b := range t.builders {
		if !named {
			break
		}
		at := firstLine(b.at)
		l.add(at, "source %s {", quote("source."+b.typ+"."+b.label))
		l.add(at, "name = %s", b.expr)
		l.add(at, "}")
	}
	for _, list := range []string{provisioners, errorCleanup} {
		v := t.root.get(list)
		switch {
		case v == nil:
		case list == errorCleanup:
			t.provisioner(l, list, v)
		case v.kind != array:
			t.want(t.root, list, array)
		default:
			for _, n := range v.elems {
				t.provisioner(l, "provisioner", n)
			}
		}
	}
	if v := t.want(t.root, postProcessors, array); v != nil {
		for _, n := range v.elems {
			if n.kind != array {
				t.postProcessor(l, n)
				continue
			}
			if len(n.elems) == 0 {
				continue
			}
			t.note(l, firstLine(n.at), "A chain: each takes what the one before it has made.")
			l.add(firstLine(n.at), "post-processors {")
			for _, e := range n.elems {
				t.postProcessor(l, e)
			}
			l.add(firstLine(n.at), "}")
		}
	}
	l.add(at, "}")
}

func (t *translator) provisioner(l *lines, block string, n *node) {
	typ, ok := t.componentType(n, "provisioner")
	if !ok {
		return
	}
	at := firstLine(n.at)
	l.add(at, "%s %s {", block, quote(typ))
	t.filter(l, n)
	for _, name := range []string{"pause_before", "timeout"} {
		if v := n.get(name); v != nil && v.kind == number {
			l.add(v.at, "%s = %s", name, quote(v.text+"ns")) // as Packer reads a number here
		} else if v != nil {
			t.option(l, n.find(name))
		}
	}
	if o := t.want(n, "override", object); o != nil {
		l.add(firstLine(o.at), "override = {")
		for _, m := range o.members {
			if b := t.builder(m.name, m.at, "override"); b != nil {
				t.value(l, b.expr+" = ", m.value, "", span(m))
			}
		}
		l.add(firstLine(o.at), "}")
	}
	t.options(l, n, "type", "only", "except", "pause_before", "timeout", "override")
	l.add(at, "}")
}

func (t *translator) postProcessor(l *lines, n *node) {
	if n.kind == text {
		n = &node{kind: object, at: n.at, members: []*member{{"type", n.at, n}}}
	}
	if n.kind == array {
		t.fail(firstLine(n.at), "Nested chain", "A chain of post-processors cannot hold another chain.")
		return
	}
	typ, ok := t.componentType(n, "post-processor")
	if !ok {
		return
	}
	at := firstLine(n.at)
	if k := n.get("keep_input_artifact"); k != nil && k.kind != boolean {
		t.fail(k.at, "Wrong type of value", "\"keep_input_artifact\" must be true or false, but it is %s.", k.kind)
	}
	l.add(at, "post-processor %s {", quote(typ))
	t.filter(l, n)
	t.options(l, n, "type", "only", "except")
	l.add(at, "}")
}

// filter writes only and except, which name builders.
func (t *translator) filter(l *lines, n *node) {
	for _, name := range []string{"only", "except"} {
		v := n.get(name)
		if v == nil {
			continue
		}
		names := []*node{v}
		if v.kind == array {
			names = v.elems
		}
		var refs []string
		for _, e := range names {
			if e.kind != text {
				t.fail(e.at, "Wrong type of value", "%q must be an array of names of builders, but this is %s.", name, e.kind)
			} else if b := t.builder(e.text, e.at, name); b != nil {
				refs = append(refs, join([]piece{{text: b.typ + "."}, {b.expr, true}}))
				if strings.HasPrefix(b.expr, `"`) {
					refs[len(refs)-1] = `"` + b.typ + "." + b.expr[1:]
				}
			}
		}
		addList(l, firstLine(v.at), name+" = ", refs, "")
	}
}

// builder returns the builder of a name; that there is none is an error.
func (t *translator) builder(name string, at hcl.Range, option string) *builder {
	var names []string
	for _, b := range t.builders {
		if b.name == name {
			return b
		}
		names = append(names, b.name)
	}
	t.fail(at, "No such builder", "%q names the builder %q, which the template does not have.%s", option, name, config.DidYouMean(name, names))
	return nil
}

// options writes the options of a component or a block.
func (t *translator) options(l *lines, n *node, skip ...string) {
	for _, m := range n.members {
		if m.value.kind != null && !slices.Contains(skip, m.name) {
			t.option(l, m)
		}
	}
}

func (t *translator) option(l *lines, m *member) {
	if !identifier(m.name) {
		t.fail(m.at, "Invalid option name", "No option can be named %q.", m.name)
		return
	}
	v := m.value
	at := span(m)
	switch {
	case v.kind == object && slices.Contains(blockOptions, m.name) && blockLike(v):
		t.block(l, m.name, v, at)
	case v.kind == array && len(v.elems) > 0 && !slices.ContainsFunc(v.elems, func(e *node) bool { return !blockLike(e) }):
		for _, e := range v.elems {
			t.block(l, m.name, e, firstLine(e.at))
		}
	case v.kind == text && slices.Contains(listOptions, m.name):
		l.add(at, "%s = %s", m.name, t.commas(v))
	default:
		t.value(l, m.name+" = ", v, "", at)
	}
}

func (t *translator) block(l *lines, name string, v *node, at hcl.Range) {
	l.add(at, "%s {", name)
	t.options(l, v)
	l.add(at, "}")
}

// blockLike tells whether a value can be written as a block.
func blockLike(n *node) bool {
	return n.kind == object && !slices.ContainsFunc(n.members, func(m *member) bool { return !identifier(m.name) })
}

// commas makes a list of a string with commas, as Packer does.
func (t *translator) commas(v *node) string {
	if strings.Contains(v.text, "{{") {
		return "compact(split(\",\", " + t.express(v.text, inBody, v.at) + "))"
	}
	var parts []string
	for _, p := range strings.Split(v.text, ",") {
		if v.text != "" {
			parts = append(parts, quote(p))
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// width is how long a list on one line may be.
const width = 100

// addList writes a list between before and after, on one line if it fits.
func addList(l *lines, at hcl.Range, before string, items []string, after string) {
	line := strings.Join(items, ", ")
	if len(before)+len(line) <= width {
		l.add(at, "%s[%s]%s", before, line, after)
		return
	}
	l.add(at, "%s[", before)
	for _, item := range items {
		l.add(at, "%s,", item)
	}
	l.add(at, "]%s", after)
}

// value writes a value between before and after.
func (t *translator) value(l *lines, before string, v *node, after string, at hcl.Range) {
	switch v.kind {
	case array:
		if !slices.ContainsFunc(v.elems, func(e *node) bool { return e.kind == array || e.kind == object }) {
			var items []string
			for _, e := range v.elems {
				items = append(items, t.scalar(e))
			}
			addList(l, at, before, items, after)
			return
		}
		l.add(at, "%s[", before)
		for _, e := range v.elems {
			t.value(l, "", e, ",", firstLine(e.at))
		}
		l.add(at, "]%s", after)
	case object:
		if len(v.members) == 0 {
			l.add(at, "%s{}%s", before, after)
			return
		}
		l.add(at, "%s{", before)
		for _, m := range v.members {
			key := m.name
			if !identifier(key) || slices.Contains([]string{"for", "if", "true", "false", "null"}, key) {
				key = quote(key)
			}
			t.value(l, key+" = ", m.value, "", span(m))
		}
		l.add(at, "}%s", after)
	default:
		l.add(at, "%s%s%s", before, t.scalar(v), after)
	}
}

func (t *translator) scalar(v *node) string {
	switch v.kind {
	case text:
		return t.express(v.text, inBody, v.at)
	case boolean, number:
		return v.text
	}
	return "null"
}

// span is the place of a member: from its name to the end of its value, or of
// the line.
func span(m *member) hcl.Range {
	if m.at.Start.Line != m.value.at.End.Line {
		return m.at
	}
	at := m.at
	at.End = m.value.at.End
	return at
}

// firstLine is a place cut to its first byte when it has several lines.
func firstLine(at hcl.Range) hcl.Range {
	if at.Start.Line != at.End.Line {
		at.End = at.Start
		at.End.Byte++
		at.End.Column++
	}
	return at
}
