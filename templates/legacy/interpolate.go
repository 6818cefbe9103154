package legacy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/zclconf/go-cty/cty"
)

// place is where a Go template stands, which decides what it may say.
type place int

const (
	// inBody: an option of a component, which renders what is left of the Go
	// template when it runs.
	inBody place = iota
	// inVariable: the default of a variable, which nothing renders later.
	inVariable
	// inName: the name of a builder, which nothing renders later.
	inName
)

// mustResolve are the functions that Ingot's components do not know, or know
// with another meaning. They become HCL wherever they stand.
var mustResolve = []string{"user", "env", "build", "template_dir", "pwd", "vault", "consul_key", "aws_secretsmanager", "aws_secretsmanager_raw"}

// parseGo parses a Go template. It returns nil for one that is wrong, or
// defines templates of its own.
func parseGo(s string) *parse.Tree {
	t := parse.New("")
	t.Mode = parse.SkipFuncCheck
	set := map[string]*parse.Tree{}
	if _, err := t.Parse(s, "{{", "}}", set); err != nil || len(set) > 1 || t.Root == nil {
		return nil
	}
	return t
}

// calls returns the names of the functions that a node calls.
func calls(n parse.Node) []string {
	var names []string
	walk(n, func(c *parse.CommandNode) {
		if f, ok := c.Args[0].(*parse.IdentifierNode); ok {
			names = append(names, f.Ident)
		}
	})
	return names
}

// walk visits the commands below a node, outermost first.
func walk(n parse.Node, visit func(c *parse.CommandNode)) {
	list := func(nodes []parse.Node) {
		for _, n := range nodes {
			walk(n, visit)
		}
	}
	branch := func(b *parse.BranchNode) {
		walk(b.Pipe, visit)
		list(b.List.Nodes)
		if b.ElseList != nil {
			list(b.ElseList.Nodes)
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		list(n.Nodes)
	case *parse.ActionNode:
		walk(n.Pipe, visit)
	case *parse.PipeNode:
		if n == nil { // template "x" without an argument
			return
		}
		for _, c := range n.Cmds {
			walk(c, visit)
		}
	case *parse.CommandNode:
		visit(n)
		list(n.Args)
	case *parse.ChainNode:
		walk(n.Node, visit)
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.TemplateNode:
		walk(n.Pipe, visit)
	}
}

func resolves(n parse.Node) bool {
	return slices.ContainsFunc(calls(n), func(name string) bool { return slices.Contains(mustResolve, name) })
}

// piece is a part of a string: literal text or an HCL expression.
type piece struct {
	text string
	expr bool
}

// express translates a string that may hold Go templates into an HCL expression.
func (t *translator) express(s string, in place, at hcl.Range) string {
	if !strings.Contains(s, "{{") {
		return quote(s)
	}
	tree := parseGo(s)
	switch {
	case tree == nil && in == inBody && !mentions(s):
		return quote(s) // the component says what is wrong with it
	case tree == nil:
		t.fail(at, "Invalid Go template", "This Go template cannot be read. Check that each \"{{\" is closed and each quote ends.")
		return quote("")
	case in == inBody && !resolves(tree.Root):
		return quote(s)
	}
	var pieces []piece
	for _, n := range tree.Root.Nodes {
		if text, ok := n.(*parse.TextNode); ok {
			pieces = append(pieces, piece{text: string(text.Text)})
			continue
		}
		if action, ok := n.(*parse.ActionNode); ok && (in != inBody || resolves(n)) {
			if expr, ok := t.pipe(action.Pipe, in, at); ok {
				pieces = append(pieces, piece{expr, true})
				continue
			}
		}
		pieces = append(pieces, t.splice(n, in, at)...)
	}
	return join(pieces)
}

// mentions tells whether text that is no Go template was meant to have what
// only this package can resolve.
func mentions(s string) bool {
	return slices.ContainsFunc([]string{"user", "build", "env"}, func(f string) bool {
		return strings.Contains(s, f+" `") || strings.Contains(s, f+" \"")
	})
}

// join makes one HCL expression of pieces.
func join(parts []piece) string {
	var pieces []piece
	for _, p := range parts {
		// Texts are one before they are quoted: "$" and "{" are harmless only apart.
		if last := len(pieces) - 1; last >= 0 && !p.expr && !pieces[last].expr {
			pieces[last].text += p.text
		} else {
			pieces = append(pieces, p)
		}
	}
	if len(pieces) == 1 && pieces[0].expr {
		return pieces[0].text
	}
	var b strings.Builder
	b.WriteString(`"`)
	for i, p := range pieces {
		if p.expr {
			b.WriteString("${" + p.text + "}")
			continue
		}
		lit, dollars := p.text, ""
		if i+1 < len(pieces) && pieces[i+1].expr {
			// Dollars before an interpolation would escape it.
			lit = strings.TrimRight(lit, "$")
			dollars = p.text[len(lit):]
		}
		lit = strings.TrimPrefix(strings.TrimSuffix(quote(lit), `"`), `"`)
		if dollars != "" {
			lit += `${"` + dollars + `"}`
		}
		b.WriteString(lit)
	}
	b.WriteString(`"`)
	return b.String()
}

// quote writes a string as an HCL literal.
func quote(s string) string { return string(hclwrite.TokensForValue(cty.StringVal(s)).Bytes()) }

// splice keeps a part of a Go template to be rendered later, with the values of
// what must be resolved now put into it as strings.
func (t *translator) splice(n parse.Node, in place, at hcl.Range) []piece {
	if in == inName {
		t.fail(at, "Name not known", "The name of a builder may hold user variables and times only, but not %s.", n)
		return nil
	}
	n = n.Copy()
	var values []string
	walk(n, func(c *parse.CommandNode) {
		name, ok := c.Args[0].(*parse.IdentifierNode)
		if !ok || !slices.Contains(mustResolve, name.Ident) {
			return
		}
		expr, ok := t.call(name.Ident, c.Args[1:], "", in, at)
		if !ok {
			t.fail(at, "Cannot be translated", "The call %s cannot be written in HCL. Its arguments must be literals.", c)
			expr = `""`
		}
		t.composed = true
		mark := "\x00" + strconv.Itoa(len(values)) + "\x00"
		c.Args = []parse.Node{&parse.StringNode{NodeType: parse.NodeString, Quoted: mark}}
		values = append(values, "jsonencode("+expr+")")
	})
	var pieces []piece
	late := "" // what remains to be rendered, with any strings for the values
	for i, part := range strings.Split(n.String(), "\x00") {
		v, err := strconv.Atoi(part)
		if i%2 == 1 && err == nil && v < len(values) {
			pieces = append(pieces, piece{values[v], true})
			late += `""`
		} else {
			pieces = append(pieces, piece{text: part})
			late += part
		}
	}
	if err := render.Check(late); err != nil && in == inVariable {
		t.fail(at, "Invalid Go template", "The default of a variable cannot be rendered: %s.", err)
	}
	return pieces
}

// pipe translates a pipeline of functions that HCL has too. last is "" or the
// value that goes into it.
func (t *translator) pipe(p *parse.PipeNode, in place, at hcl.Range) (string, bool) {
	if p == nil || len(p.Decl) > 0 {
		return "", false
	}
	value := ""
	for _, c := range p.Cmds {
		if f, ok := c.Args[0].(*parse.IdentifierNode); ok {
			if value, ok = t.call(f.Ident, c.Args[1:], value, in, at); !ok {
				return "", false
			}
			continue
		}
		var ok bool
		if value, ok = t.operand(c.Args[0], in, at); !ok || len(c.Args) > 1 {
			return "", false
		}
	}
	return value, true
}

func (t *translator) operand(n parse.Node, in place, at hcl.Range) (string, bool) {
	switch n := n.(type) {
	case *parse.StringNode:
		return quote(n.Text), true
	case *parse.NumberNode:
		return strconv.FormatInt(n.Int64, 10), n.IsInt
	case *parse.PipeNode:
		return t.pipe(n, in, at)
	case *parse.IdentifierNode:
		return t.call(n.Ident, nil, "", in, at)
	}
	return "", false
}

// call translates the call of one function. piped is "" or its last argument.
func (t *translator) call(name string, nodes []parse.Node, piped string, in place, at hcl.Range) (string, bool) {
	var args []string
	for _, n := range nodes {
		a, ok := t.operand(n, in, at)
		if !ok {
			return "", false
		}
		args = append(args, a)
	}
	if piped != "" {
		args = append(args, piped)
	}
	if len(args) > 0 && !slices.Contains(mustResolve, name) {
		t.composed = true
	}
	word, literal := "", false
	if len(nodes) == 1 && piped == "" {
		if s, ok := nodes[0].(*parse.StringNode); ok {
			word, literal = s.Text, true
		}
	}
	apply := func(f string, args ...string) (string, bool) { return f + "(" + strings.Join(args, ", ") + ")", true }
	switch n := len(args); {
	case name == "user" && literal:
		return t.reference(word, in, at), true
	case name == "env" && literal:
		if in != inVariable {
			t.fail(at, "env outside of variables", "{{env}} may be used in the values of \"variables\" only. Declare a variable, \"x\": \"{{env `%s`}}\", and write {{user `x`}} here.", word)
		}
		return t.environment(word), true
	case name == "build" && literal && in == inBody:
		if !identifier(word) {
			return "", false
		}
		return "build." + word, true
	case name == "template_dir" && n == 0:
		return "abspath(path.root)", true
	case name == "pwd" && n == 0:
		return "path.cwd", true
	case name == "packer_version" && n == 0:
		return "packer.version", true
	case name == "timestamp" && n == 0:
		return "rfc3339_parse(legacy_isotime()).unix", true
	case name == "isotime" && n < 2:
		return apply("legacy_isotime", args...)
	case name == "strftime" && n == 1:
		return apply("legacy_strftime", args...)
	case name == "uuid" && n == 0:
		return apply("uuidv4")
	case (name == "upper" || name == "lower") && n == 1:
		return apply(name, args...)
	case name == "replace_all" && n == 3:
		return apply("replace", args[2], args[0], args[1])
	case name == "replace" && n == 4 && args[2] == "-1":
		return apply("replace", args[3], args[0], args[1])
	case name == "split" && n == 3:
		return fmt.Sprintf("split(%s, %s)[%s]", args[1], args[0], args[2]), true
	case in == inName:
		return "", false
	case (name == "vault" && n == 2) || (name == "consul_key" || name == "aws_secretsmanager_raw") && n == 1:
		return apply(name, args...)
	case name == "aws_secretsmanager" && (n == 1 || n == 2):
		return apply(name, append(args, "null")[:2]...)
	}
	return "", false
}
