package templates

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/templates/functions"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
)

type variable struct {
	name      string
	at        hcl.Range
	typ       cty.Type // DynamicPseudoType: any
	optional  *typeexpr.Defaults
	sensitive bool
	rules     hcl.Blocks
	value     cty.Value // NilVal: not set
	from      hcl.Range // where the value was written
}

var variableSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "type"}, {Name: "default"}, {Name: "description"}, {Name: "sensitive"}},
	Blocks:     []hcl.BlockHeaderSchema{{Type: "validation"}},
}

func (l *loader) variable(b *hcl.Block) {
	v := &variable{name: b.Labels[0], at: b.DefRange, from: b.DefRange, typ: cty.DynamicPseudoType}
	if !hclsyntax.ValidIdentifier(v.name) {
		l.add(failure(&b.LabelRanges[0], "Invalid variable name", "A name starts with a letter and has only letters, digits, underscores and dashes."))
	}
	content, diags := config.Content(b.Body, variableSchema)
	l.add(diags...)
	if a := content.Attributes["type"]; a != nil {
		var diags hcl.Diagnostics
		v.typ, v.optional, diags = typeexpr.TypeConstraintWithDefaults(a.Expr)
		l.add(diags...)
	}
	if a := content.Attributes["description"]; a != nil {
		l.literal(a, cty.String)
	}
	if a := content.Attributes["sensitive"]; a != nil {
		s := l.literal(a, cty.Bool)
		v.sensitive = s != cty.NilVal && s.True()
	}
	if a := content.Attributes["default"]; a != nil {
		l.setDefault(v, a)
	}
	v.rules = content.Blocks
	l.declareVariable(v)
}

// variableDefaults reads the shorthand: variables { name = default }.
func (l *loader) variableDefaults(b *hcl.Block) {
	attrs, diags := b.Body.JustAttributes()
	l.add(diags...)
	for _, a := range inOrder(attrs) {
		v := &variable{name: a.Name, at: a.NameRange, typ: cty.DynamicPseudoType}
		l.setDefault(v, a)
		l.declareVariable(v)
	}
}

func (l *loader) declareVariable(v *variable) {
	if first, ok := l.variables[v.name]; ok {
		l.duplicate(v.at, "variable", v.name, first.at)
		return
	}
	l.variables[v.name] = v
}

func (l *loader) setDefault(v *variable, a *hcl.Attribute) {
	value, diags := a.Expr.Value(&hcl.EvalContext{Functions: map[string]function.Function{"env": functions.Env(l.o.Environ)}})
	l.add(diags...)
	if diags.HasErrors() {
		return
	}
	l.set(v, value, a.Expr.Range(), "default")
	if v.typ == cty.DynamicPseudoType && v.value != cty.NilVal && !value.IsNull() &&
		!value.RawEquals(cty.EmptyObjectVal) && !value.RawEquals(cty.EmptyTupleVal) {
		v.typ = value.Type()
	}
}

// set gives a variable a value, if it fits the variable's type. The values
// themselves are kept out of the message: they may be secret.
func (l *loader) set(v *variable, value cty.Value, at hcl.Range, origin string) {
	if v.optional != nil && !value.IsNull() {
		value = v.optional.Apply(value)
	}
	converted, err := convert.Convert(value, v.typ)
	if err != nil {
		subject := at
		if at.Filename == "" {
			subject = v.at
		}
		l.add(failure(&subject, "Invalid value for variable", "The value of %q from %s does not fit the variable's type, %s: %s.", v.name, origin, typeexpr.TypeString(v.typ), err))
		return
	}
	v.value, v.from = converted, at
}

// setText gives a variable a value that was written outside of HCL.
func (l *loader) setText(v *variable, text, origin string) {
	if v.typ == cty.String || v.typ == cty.Number || v.typ == cty.DynamicPseudoType {
		l.set(v, cty.StringVal(text), hcl.Range{}, origin)
		return
	}
	if err := functions.CheckSource([]byte(text)); err != nil {
		l.add(failure(&v.at, "Invalid value for variable", "The value of %q from %s is refused: %s.", v.name, origin, err))
		return
	}
	expr, diags := hclsyntax.ParseExpression([]byte(text), origin, hcl.InitialPos)
	var value cty.Value
	if !diags.HasErrors() {
		value, diags = expr.Value(nil)
	}
	if diags.HasErrors() {
		detail := ""
		if !v.sensitive { // the library's words may quote the value
			detail = " " + diags[0].Detail
		}
		l.add(failure(&v.at, "Invalid value for variable", "The value of %q from %s must be an HCL expression of type %s, such as true, [\"a\", \"b\"] or {k = \"v\"}.%s",
			v.name, origin, typeexpr.TypeString(v.typ), detail))
		return
	}
	l.set(v, value, hcl.Range{}, origin)
}

// literal evaluates an attribute that may not refer to anything. On failure it
// reports and returns NilVal.
func (l *loader) literal(a *hcl.Attribute, t cty.Type) cty.Value {
	v, diags := a.Expr.Value(nil)
	l.add(diags...)
	if diags.HasErrors() {
		return cty.NilVal
	}
	c, err := convert.Convert(v, t)
	if err != nil || c.IsNull() || !c.IsKnown() {
		r := a.Expr.Range()
		l.add(failure(&r, "Wrong type of value", "%q must be a literal %s.", a.Name, t.FriendlyName()))
		return cty.NilVal
	}
	return c
}

func inOrder(attrs hcl.Attributes) []*hcl.Attribute {
	return slices.SortedFunc(maps.Values(attrs), func(a, b *hcl.Attribute) int { return a.NameRange.Start.Byte - b.NameRange.Start.Byte })
}

// assign gives the variables their values, the weakest origin first.
func (l *loader) assign() {
	for _, prefix := range []string{"PKR_VAR_", "INGOT_VAR_"} {
		for _, entry := range l.o.Environ {
			key, value, _ := strings.Cut(entry, "=")
			if name, ok := strings.CutPrefix(key, prefix); ok && l.variables[name] != nil {
				l.setText(l.variables[name], value, "the environment variable "+key)
			}
		}
	}
	for _, file := range l.varFiles {
		l.varFile(file)
	}
	for _, file := range l.o.VarFiles {
		if !strings.HasSuffix(file, ".hcl") && !strings.HasSuffix(file, ".json") {
			l.add(failure(nil, "Unknown kind of variable file", "The name of the variable file %q must end in .hcl or .json.", file))
			continue
		}
		l.varFile(file)
	}
	for _, arg := range l.o.Vars {
		name, value, ok := strings.Cut(arg, "=")
		switch v := l.variables[name]; {
		case !ok:
			// What stands there may be a secret with its name forgotten.
			l.add(failure(nil, "Invalid -var", "-var takes name=value, but there is no \"=\" in it."))
		case name == "":
			l.add(failure(nil, "Invalid -var", "-var takes name=value, but there is no name before the \"=\"."))
		case v == nil && l.o.LaxVars:
			l.t.Undeclared = append(l.t.Undeclared, name)
		case v == nil:
			l.add(failure(nil, "Undefined variable "+name, "-var sets %q, but the template declares no such variable.%s", name, l.suggestVariable(name)))
		default:
			l.setText(v, value, "-var")
		}
	}
	for _, v := range l.variables {
		if v.sensitive && v.value != cty.NilVal {
			l.secret(v.value)
		}
	}
}

func (l *loader) suggestVariable(name string) string {
	return config.DidYouMean(name, slices.Sorted(maps.Keys(l.variables)))
}

func (l *loader) varFile(name string) {
	file, diags := parse(name)
	l.add(diags...)
	if file == nil {
		return
	}
	if !strings.HasSuffix(name, ".json") {
		content, _, _ := file.Body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "variable", LabelNames: []string{"name"}}}})
		for _, b := range content.Blocks {
			l.add(failure(&b.DefRange, "Variable declared in a variable file", "A variable file gives values only: %s = ... . To declare a variable, use a template file.", b.Labels[0]))
		}
		if len(content.Blocks) > 0 {
			return
		}
	}
	attrs, diags := file.Body.JustAttributes()
	l.add(diags...)
	for _, a := range inOrder(attrs) {
		v := l.variables[a.Name]
		if v == nil {
			if l.o.WarnUndeclared {
				l.add(warning(&a.NameRange, "Undefined variable "+a.Name, "%s gives %q a value, but the template declares no such variable.%s", name, a.Name, l.suggestVariable(a.Name)))
			}
			continue
		}
		value, diags := a.Expr.Value(nil)
		l.add(diags...)
		if !diags.HasErrors() {
			l.set(v, value, a.Expr.Range(), name)
		}
	}
}

// checkVariables refuses variables without a value and runs the validations.
func (l *loader) checkVariables() {
	library := l.library("")
	for _, name := range slices.Sorted(maps.Keys(l.variables)) {
		v := l.variables[name]
		if v.value == cty.NilVal {
			l.add(failure(&v.at, `Unset variable "`+name+`"`, "The variable has no default and was not given a value. Use -var '%s=...', a -var-file, or the environment variable PKR_VAR_%s, or add a default.", name, name))
			v.value = cty.UnknownVal(v.typ)
			continue
		}
		for _, rule := range v.rules {
			l.checkRule(v, rule, library)
		}
	}
}

var ruleSchema = &hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "condition", Required: true}, {Name: "error_message", Required: true}}}

func (l *loader) checkRule(v *variable, rule *hcl.Block, library map[string]function.Function) {
	content, diags := config.Content(rule.Body, ruleSchema)
	l.add(diags...)
	if diags.HasErrors() {
		return
	}
	condition := content.Attributes["condition"]
	at := condition.Expr.Range()
	refers := false
	for _, t := range condition.Expr.Variables() {
		if t.RootName() != "var" || member(t) != v.name {
			r := t.SourceRange()
			l.add(failure(&r, "Invalid reference in validation", "The condition of %q may refer to var.%s only.", v.name, v.name))
			return
		}
		refers = true
	}
	if !refers {
		l.add(failure(&at, "Invalid validation condition", "The condition must refer to var.%s, or it checks nothing.", v.name))
		return
	}
	message := l.literal(content.Attributes["error_message"], cty.String)
	if message == cty.NilVal {
		return
	}
	text := message.AsString()
	if first, _ := utf8.DecodeRuneInString(text); !unicode.IsUpper(first) || !strings.ContainsRune(".?!", rune(text[len(text)-1])) {
		r := content.Attributes["error_message"].Expr.Range()
		l.add(failure(&r, "Invalid validation error message", "The message must be a sentence: it starts with an upper-case letter and ends with a full stop, a question mark or an exclamation mark."))
		return
	}
	result, diags := condition.Expr.Value(&hcl.EvalContext{
		Functions: library,
		Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{v.name: v.value})},
	})
	if diags.HasErrors() {
		if v.sensitive {
			l.add(failure(&at, "Validation failed to run", "The condition of %q cannot be evaluated; the reason is withheld because the variable is sensitive.", v.name))
			return
		}
		l.add(diags...)
		return
	}
	result, err := convert.Convert(result, cty.Bool)
	if err != nil || result.IsNull() {
		l.add(failure(&at, "Invalid validation condition", "The condition must be true or false."))
		return
	}
	if result.IsKnown() && result.False() {
		subject := v.from
		if subject.Filename == "" {
			subject = v.at
		}
		l.add(failure(&subject, "Invalid value for variable", "%s\n\nThe validation rule of %q at %s:%d says so.", text, v.name, rule.DefRange.Filename, rule.DefRange.Start.Line))
	}
}

// member returns the attribute of the root that a traversal names, or "".
func member(t hcl.Traversal) string {
	if len(t) < 2 {
		return ""
	}
	switch step := t[1].(type) {
	case hcl.TraverseAttr:
		return step.Name
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String && step.Key.IsKnown() && !step.Key.IsNull() {
			return step.Key.AsString()
		}
	}
	return ""
}
