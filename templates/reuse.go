package templates

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// instance is one of the builds that a build block with for_each stands for.
type instance struct {
	key   string
	value cty.Value
}

func (e *instance) context(parent *hcl.EvalContext) *hcl.EvalContext {
	ctx := parent.NewChild()
	ctx.Variables = map[string]cty.Value{"each": cty.ObjectVal(map[string]cty.Value{"key": cty.StringVal(e.key), "value": e.value})}
	return ctx
}

// name is the build's name: the block's with the key, unless the block's own
// name is made with each.
func (e *instance) name(base string, a *hcl.Attribute) string {
	if a == nil || base == "" {
		return e.key
	}
	for _, t := range a.Expr.Variables() {
		if t.RootName() == "each" {
			return base
		}
	}
	return base + "-" + e.key
}

// eachKey keeps names fit for shells, globs and file names.
var eachKey = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// instances evaluates for_each. A block without it is one build, nil.
func (l *loader) instances(b *hcl.Block) []*instance {
	// What else is wrong with the body is reported by who reads all of it.
	content, _, _ := b.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "for_each"}}})
	a := content.Attributes["for_each"]
	if a == nil {
		return []*instance{nil}
	}
	at := a.Expr.Range()
	v, diags := a.Expr.Value(l.ctx)
	l.add(diags...)
	if diags.HasErrors() {
		return nil
	}
	if !v.IsKnown() && !l.o.EvaluateData {
		l.notYet(at, "for_each")
		return []*instance{{notKnown, cty.DynamicVal}}
	}
	wrong := func(format string, args ...any) []*instance {
		l.add(failure(&at, "Invalid for_each", format, args...))
		return nil
	}
	t := v.Type()
	if !v.IsKnown() || v.IsNull() || !v.CanIterateElements() {
		return wrong("for_each must be a map, or a set or a list of strings.")
	}
	if v.LengthInt() == 0 {
		l.add(warning(&at, "Build for nothing", "for_each is empty, so that this build bakes nothing."))
	}
	var all []*instance
	seen := map[string]bool{}
	for it := v.ElementIterator(); it.Next(); {
		key, value := it.Element()
		if !t.IsMapType() && !t.IsObjectType() {
			key = value
		}
		k, err := convert.Convert(key, cty.String)
		if err == nil && !k.IsKnown() && !l.o.EvaluateData {
			l.notYet(at, "for_each")
			return []*instance{{notKnown, cty.DynamicVal}}
		}
		switch {
		case err != nil || k.IsNull() || !k.IsKnown():
			return wrong("for_each must be a map, or a set or a list of strings.")
		case !eachKey.MatchString(k.AsString()):
			return wrong("The key %q becomes part of names, so it must be of letters, digits, \"_\", \"-\" and \".\", and not begin with one of the last two.", k.AsString())
		case seen[k.AsString()]:
			return wrong("The key %q is there twice.", k.AsString())
		}
		seen[k.AsString()] = true
		all = append(all, &instance{k.AsString(), value})
	}
	return all
}

// extends says whether a build block is one that adds to another: it stands in
// a file of Ingot's own and has no sources.
func extends(b *hcl.Block) bool {
	if !strings.HasSuffix(b.DefRange.Filename, ".ingot.hcl") && !strings.HasSuffix(b.DefRange.Filename, ".ingot.json") {
		return false
	}
	content, _, _ := b.Body.PartialContent(&hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: "sources"}},
		Blocks:     []hcl.BlockHeaderSchema{{Type: "source", LabelNames: []string{"reference"}}, {Type: "dynamic", LabelNames: []string{"type"}}},
	})
	for _, inner := range content.Blocks {
		if inner.Type == "source" || inner.Labels[0] == "source" {
			return false
		}
	}
	return content.Attributes["sources"] == nil
}

// extend adds a build block without sources to the builds of its name.
func (l *loader) extend(b *hcl.Block) {
	content, _, _ := b.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "name"}, {Name: "for_each"}}})
	name := l.text(content.Attributes["name"], l.ctx)
	if a := content.Attributes["for_each"]; a != nil {
		l.add(failure(&a.NameRange, "for_each without sources", "for_each belongs to the build block that has the sources."))
	}
	if l.diags.HasErrors() {
		return
	}
	found := false
	var names []string
	for _, s := range l.scopes {
		names = append(names, s.name)
		if name != "" && (s.name == name || s.base == name) {
			s.addPart(b)
			found = true
		}
	}
	switch {
	case name == "":
		l.add(failure(&b.DefRange, "Build without a source", "A build needs at least one source: sources = [\"source.type.name\"] or a source block. To add to another build, give this block its name."))
	case !found:
		l.add(failure(&b.DefRange, "No build to add to", "This build has no sources, so it adds to the build %q, and there is none.%s", name, config.DidYouMean(name, names)))
	}
}

// item is a block of a build's steps.
type item struct {
	block *hcl.Block
	// list is the list of steps it stands in, or "".
	list string
	// includes are the blocks that brought the list in.
	includes []include
}

type include struct {
	item
	filter
}

var stepsSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "include"}},
	Blocks: []hcl.BlockHeaderSchema{
		{Type: "provisioner", LabelNames: []string{"type"}},
		{Type: "spec", LabelNames: []string{"name"}},
		{Type: "include", LabelNames: []string{"steps"}},
	},
}

// sequence are the blocks of a build or a list in the order in which they run:
// the lists of its include attribute come first, those of include blocks stand
// where the blocks stand. path are the lists that are being included.
func (s *buildScope) sequence(content *hcl.BodyContent, path []string, by []include) []item {
	list := ""
	if len(path) > 0 {
		list = path[len(path)-1]
	}
	var items []item
	if a := content.Attributes["include"]; a != nil {
		for _, t := range s.l.traversals(a, "steps", "include must be a list of lists of steps: [steps.name].") {
			items = append(items, s.list(key(t, 1), t.SourceRange(), path, by)...)
		}
	}
	for _, b := range content.Blocks {
		i := item{b, list, by}
		if b.Type != "include" {
			items = append(items, i)
			continue
		}
		inc := include{item: i}
		s.l.addKnown(config.DecodeBlock(title(b), b.Body, s.ctx, &inc.filter))
		items = append(items, s.list(b.Labels[0], b.DefRange, path, append(slices.Clip(by), inc))...)
	}
	return items
}

// list are the items of a list of steps.
func (s *buildScope) list(name string, at hcl.Range, path []string, by []include) []item {
	l := s.l
	b := l.stepLists[name]
	if b == nil {
		l.add(failure(&at, "Unknown steps", "There is no block steps %q.%s", name, config.DidYouMean(name, slices.Sorted(maps.Keys(l.stepLists)))))
		return nil
	}
	if i := slices.Index(path, name); i >= 0 {
		cycle := append(slices.Clone(path[i:]), name)
		l.add(failure(&at, "Cycle: "+arrows(cycle, func(s string) string { return "steps." + s }), "These lists of steps include one another without an end."))
		return nil
	}
	l.usedLists[name] = true
	s.lists = append(s.lists, b)
	content, diags := config.Content(dynblock.Expand(b.Body, s.ctx), stepsSchema)
	l.add(diags...)
	return s.sequence(content, append(slices.Clip(path), name), by)
}

// wanted tells whether the include blocks that brought an item in let it apply.
func (s *buildScope) wanted(i item, bake *Bake) bool {
	for _, inc := range i.includes {
		if !s.applies(inc.filter, inc.item, bake) {
			return false
		}
	}
	return true
}

// checkStepLists looks at the lists that no build includes.
func (l *loader) checkStepLists() {
	for _, name := range slices.Sorted(maps.Keys(l.stepLists)) {
		if !l.usedLists[name] {
			s := &buildScope{l: l, ctx: l.ctx}
			s.list(name, l.stepLists[name].DefRange, nil, nil)
		}
	}
}

// traversals reads an attribute that is a list of references of one kind.
func (l *loader) traversals(a *hcl.Attribute, root, want string) []hcl.Traversal {
	exprs, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		r := a.Expr.Range()
		l.add(failure(&r, "Invalid "+a.Name, "%s", want))
		return nil
	}
	var all []hcl.Traversal
	for _, e := range exprs {
		t, diags := hcl.AbsTraversalForExpr(e)
		if diags.HasErrors() || t.RootName() != root || len(t) != 2 || key(t, 1) == "" {
			r := e.Range()
			l.add(failure(&r, "Invalid "+a.Name, "%s", want))
			continue
		}
		all = append(all, t)
	}
	return all
}
