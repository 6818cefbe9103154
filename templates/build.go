package templates

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

var buildSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{
		{Name: "name"}, {Name: "description"}, {Name: "sources"}, {Name: "image"}, {Name: "for_each"}, {Name: "depends_on"}, {Name: "include"},
		{Name: "facts"},
	},
	Blocks: []hcl.BlockHeaderSchema{
		{Type: "source", LabelNames: []string{"reference"}},
		{Type: "provisioner", LabelNames: []string{"type"}},
		{Type: "error-cleanup-provisioner", LabelNames: []string{"type"}},
		{Type: "spec", LabelNames: []string{"name"}},
		{Type: "include", LabelNames: []string{"steps"}},
		{Type: "post-processor", LabelNames: []string{"type"}},
		{Type: "post-processors"},
		{Type: "hcp_packer_registry"},
		{Type: "from", LabelNames: []string{"type"}},
	},
}

var chainSchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "post-processor", LabelNames: []string{"type"}}}}

// The attributes that every block of a kind may have.
type (
	filter struct {
		Only   []string `cfg:"only"`
		Except []string `cfg:"except"`
	}
	running struct {
		PauseBefore     time.Duration `cfg:"pause_before"`
		Timeout         time.Duration `cfg:"timeout"`
		MaxRetries      int           `cfg:"max_retries"`
		ContinueOnError bool          `cfg:"continue_on_error"`
	}
	provisionerAttrs struct {
		Name string `cfg:"name"`
		filter
		running
		Idempotent bool      `cfg:"idempotent"`
		Override   cty.Value `cfg:"override"`
	}
	specAttrs struct {
		filter
		running
	}
	postProcessorAttrs struct {
		Name string `cfg:"name"`
		filter
		Keep *bool `cfg:"keep_input_artifact"`
	}
	useAttrs struct {
		Name string `cfg:"name"`
	}
)

// build turns the build blocks into bakes.
func (l *loader) build() {
	if l.o.SyntaxOnly {
		return
	}
	l.add(l.late...)
	l.hcpRegistry(l.hcp)
	var extensions []*hcl.Block
	for _, b := range l.builds {
		if extends(b) {
			extensions = append(extensions, b)
			continue
		}
		for _, each := range l.instances(b) {
			l.scopes = append(l.scopes, l.buildBlock(b, each))
		}
	}
	for _, b := range extensions {
		l.extend(b)
	}
	for _, s := range l.scopes {
		s.finish()
		l.t.bakes = append(l.t.bakes, s.bakes...)
	}
	l.connect()
	for _, s := range l.scopes {
		for _, bake := range s.bakes {
			s.steps(bake)
		}
		s.outline()
	}
	l.checkStepLists()
	for _, name := range slices.Sorted(maps.Keys(l.rollouts)) {
		b := l.rollouts[name]
		l.t.Rollouts = append(l.t.Rollouts, l.component(b, "rollout", b.Body, l.ctx, l.env("", "")))
	}
	first := map[string]hcl.Range{}
	for _, b := range l.t.bakes {
		if at, ok := first[b.Name]; ok {
			l.add(warning(&b.Range, "Two bakes of one name", "%q is also baked by the build at %s:%d. Give one of the builds a name, or the source a local name, to tell them apart.", b.Name, at.Filename, at.Start.Line))
			continue
		}
		first[b.Name] = b.Range
	}
}

func (l *loader) env(name, typ string) render.Env {
	return render.Env{BuildName: name, BuildType: typ, TemplateDir: l.t.Dir, Version: PackerVersion, Now: l.now}
}

// buildScope is one build, with what extends it. Under for_each a block is
// several builds.
type buildScope struct {
	l *loader
	// name is the build's name, base the name of its block without the key.
	name, base, description string
	ctx                     *hcl.EvalContext // with each
	parts                   []buildPart
	bakes                   []*Bake
	sources                 []*hcl.Block // of the bakes
	// types and locals are the "type.localname" and the local names of all sources.
	types, locals []string
	items         []item
	lists         []*hcl.Block // the step lists it includes
	dependsOn     []*hcl.Attribute
	pending       bool // its sources are not known yet
	// filters are the literal only and except of blocks that one bake has read.
	filters map[*hcl.Block]*filter
}

// buildPart is a build block, or a block that extends it.
type buildPart struct {
	block   *hcl.Block
	content *hcl.BodyContent
}

func (s *buildScope) addPart(b *hcl.Block) *hcl.BodyContent {
	content, diags := config.Content(dynblock.Expand(b.Body, s.ctx), buildSchema)
	s.l.add(diags...)
	s.parts = append(s.parts, buildPart{b, content})
	if a := content.Attributes["depends_on"]; a != nil {
		s.dependsOn = append(s.dependsOn, a)
	}
	if d := s.l.text(content.Attributes["description"], s.ctx); d != "" {
		s.description = d
	}
	s.l.hcpRegistry(content.Blocks.OfType("hcp_packer_registry"))
	for _, b := range content.Blocks.OfType("from") {
		s.l.add(withoutEffect(b))
	}
	return content
}

func (l *loader) buildBlock(b *hcl.Block, each *instance) *buildScope {
	s := &buildScope{l: l, ctx: l.ctx}
	if each != nil {
		s.ctx = each.context(l.ctx)
	}
	content := s.addPart(b)
	s.base = l.text(content.Attributes["name"], s.ctx)
	s.name = s.base
	if each != nil {
		s.name = each.name(s.base, content.Attributes["name"])
	}
	s.use(content, b.DefRange)
	if len(s.bakes) == 0 && !s.pending && !l.diags.HasErrors() {
		l.add(failure(&b.DefRange, "Build without a source", "A build needs at least one source: sources = [\"source.type.name\"] or a source block. "+
			"A build block without one, in a file *.ingot.hcl, adds to the build of the same name."))
	}
	return s
}

// finish completes the bakes once all parts of the build are known.
func (s *buildScope) finish() {
	var image, facts *hcl.Attribute
	var cleanup *hcl.Block
	for _, p := range s.parts {
		if a := p.content.Attributes["image"]; a != nil {
			if image != nil {
				s.l.duplicate(a.Range, "argument", "image", image.Range)
			}
			image = a
		}
		if a := p.content.Attributes["facts"]; a != nil {
			if facts != nil {
				s.l.duplicate(a.Range, "argument", "facts", facts.Range)
			}
			facts = a
		}
		for _, b := range p.content.Blocks.OfType("error-cleanup-provisioner") {
			if cleanup != nil {
				s.l.add(failure(&b.DefRange, "Duplicate error-cleanup-provisioner", "A build has at most one; the first is at %s:%d.", cleanup.DefRange.Filename, cleanup.DefRange.Start.Line))
				break
			}
			cleanup = b
		}
	}
	for _, b := range s.bakes {
		s.types = append(s.types, b.Type+"."+b.Local)
		s.locals = append(s.locals, b.Local)
		b.Image = s.l.text(image, b.Component.Context)
		b.Facts = s.l.yes(facts, b.Component.Context)
		for _, name := range []string{s.name, b.Source} {
			if b.Image == "" {
				b.Image = name
			}
		}
		if s.l.t.Legacy {
			b.Image = imageName(b.Local)
		}
	}
	for _, p := range s.parts {
		s.items = append(s.items, s.sequence(p.content, nil, nil)...)
	}
}

// use makes one bake per source that the build uses, without their steps.
func (s *buildScope) use(content *hcl.BodyContent, at hcl.Range) {
	if a := content.Attributes["sources"]; a != nil {
		r := a.Expr.Range()
		v, diags := a.Expr.Value(s.ctx)
		s.l.add(diags...)
		refs, err := convert.Convert(v, cty.List(cty.String))
		switch {
		case diags.HasErrors():
		case err == nil && !refs.IsWhollyKnown() && s.l.lenient():
			s.l.notYet(r, "sources")
			s.pending = true
		case err != nil || !refs.IsWhollyKnown() || refs.IsNull():
			s.l.add(failure(&r, "Wrong type of value", "\"sources\" must be a list of strings, such as [\"source.type.name\"]."))
		default:
			for _, ref := range refs.AsValueSlice() {
				if !ref.IsNull() {
					s.bake(ref.AsString(), "", nil, r, at)
				}
			}
		}
	}
	for _, b := range content.Blocks.OfType("source") {
		var attrs useAttrs
		remain, diags := config.Take(title(b), b.Body, s.ctx, &attrs)
		s.l.addKnown(diags)
		s.bake(b.Labels[0], attrs.Name, remain, b.DefRange, b.DefRange)
	}
}

// bake adds the bake for one reference to a source. extra is what the build
// adds to the source's options, or nil.
func (s *buildScope) bake(ref, local string, extra hcl.Body, refAt, at hcl.Range) {
	l := s.l
	parts := strings.Split(ref, ".")
	if len(parts) == 3 {
		parts = parts[1:] // Packer takes any word for "source"
	}
	if len(parts) != 2 {
		l.add(failure(&refAt, "Invalid source reference", "%q is no reference to a source. Write \"source.type.name\".", ref))
		return
	}
	key := strings.Join(parts, ".")
	def := l.sources[key]
	if def == nil {
		l.add(failure(&refAt, "Unknown source", "The template declares no source %q %q.%s", parts[0], parts[1], config.DidYouMean(key, slices.Sorted(maps.Keys(l.sources)))))
		return
	}
	if local == "" {
		local = parts[1]
	}
	b := &Bake{BuildName: s.name, Type: parts[0], Source: parts[1], Local: local, Name: parts[0] + "." + local, Range: at}
	if s.name != "" {
		b.Name = s.name + "." + b.Name
	}
	if l.t.Legacy {
		b.Name, b.Source = local, local
	}
	ctx := s.ctx.NewChild()
	ctx.Variables = map[string]cty.Value{"source": cty.ObjectVal(map[string]cty.Value{
		"type": cty.StringVal(b.Type), "name": cty.StringVal(local),
	})}
	body := def.Body
	if extra != nil {
		body = hcl.MergeBodies([]hcl.Body{def.Body, extra})
	}
	b.Component = l.component(def, b.Type, body, ctx, l.env(b.Source, b.Type))
	s.bakes = append(s.bakes, b)
	s.sources = append(s.sources, def)
}

// steps fills in what happens to a bake after its machine runs.
func (s *buildScope) steps(bake *Bake) {
	source := bake.Component.Context
	build := bake.artifacts()
	build["name"] = cty.StringVal(s.name)
	ctx := s.ctx.NewChild()
	ctx.Variables = map[string]cty.Value{"source": source.Variables["source"], "build": cty.ObjectVal(build)}
	for _, i := range s.items {
		if !s.wanted(i, bake) || s.elsewhere(i.block, bake) {
			continue
		}
		switch b := i.block; b.Type {
		case "provisioner", "error-cleanup-provisioner":
			step := s.provisioner(i, bake, ctx)
			if step != nil && b.Type == "provisioner" {
				bake.Steps = append(bake.Steps, step)
			} else if step != nil {
				bake.ErrorCleanup = step
			}
		case "spec":
			switch step := s.spec(i, bake, ctx); {
			case step == nil:
			case step.After != nil:
				bake.Proofs = append(bake.Proofs, step)
			default:
				bake.Steps = append(bake.Steps, step)
			}
		case "post-processor":
			bake.addChain(s.chain(hcl.Blocks{b}, bake, ctx))
		case "post-processors":
			content, diags := config.Content(b.Body, chainSchema)
			s.l.add(diags...)
			bake.addChain(s.chain(content.Blocks, bake, ctx))
		}
	}
}

func (s *buildScope) provisioner(i item, bake *Bake, ctx *hcl.EvalContext) *Step {
	b := i.block
	var attrs provisionerAttrs
	body, diags := config.Take(title(b), b.Body, ctx, &attrs)
	s.l.addKnown(diags)
	if !s.applies(attrs.filter, i, bake) {
		return nil
	}
	if o := attrs.Override; o != cty.NilVal {
		at, _ := config.Locate(b.Body, []string{"override"})
		body = s.override(body, o, at, bake, i.list != "")
	}
	return attrs.running.step(s.l, b, &Step{
		Kind: Provisioner, Name: attrs.Name, Idempotent: attrs.Idempotent,
		Component: s.l.component(b, b.Labels[0], body, ctx, bake.Component.env),
	})
}

// override lays what is written for the bake's local name over a body. In a
// list of steps it may also be for sources of other builds.
func (s *buildScope) override(body hcl.Body, o cty.Value, at hcl.Range, bake *Bake, shared bool) hcl.Body {
	if !o.IsWhollyKnown() && s.l.lenient() {
		s.l.notYet(at, "override")
		return body
	}
	if t := o.Type(); !o.IsKnown() || o.IsNull() || !t.IsObjectType() && !t.IsMapType() {
		s.l.add(failure(&at, "Invalid override", "override must be an object with one object for each source's local name: { name = { option = value } }."))
		return body
	}
	values := o.AsValueMap()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		v := values[name]
		if !shared && !slices.Contains(s.locals, name) {
			s.l.add(warning(&at, "Override without effect", "override names %q, which is no local name of a source of this build.%s", name, config.DidYouMean(name, s.locals)))
		}
		if t := v.Type(); !v.IsKnown() || v.IsNull() || !t.IsObjectType() && !t.IsMapType() {
			s.l.add(failure(&at, "Invalid override", "The override for %q must be an object: { option = value }.", name))
			return body
		}
	}
	if v, ok := values[bake.Local]; ok {
		return &overlay{body, v.AsValueMap(), at}
	}
	return body
}

func (s *buildScope) spec(i item, bake *Bake, ctx *hcl.EvalContext) *Step {
	b := i.block
	var attrs, shared specAttrs
	body, after := s.l.after(b.Body, ctx)
	body, diags := config.Take(title(b), body, ctx, &attrs)
	s.l.addKnown(diags)
	def := b
	if rest, diags := body.JustAttributes(); len(rest) == 0 && !diags.HasErrors() {
		name := b.Labels[0]
		if def = s.l.specs[name]; def == nil {
			s.l.add(failure(&b.DefRange, "Unknown spec", "This spec is empty, so it stands for a top-level spec %q, and there is none.%s", name, config.DidYouMean(name, slices.Sorted(maps.Keys(s.l.specs)))))
			return nil
		}
		var afterShared *hcl.Range
		body, afterShared = s.l.after(def.Body, ctx)
		body, diags = config.Take(title(def), body, ctx, &shared)
		s.l.addKnown(diags)
		after = cmp.Or(after, afterShared)
		attrs.running = attrs.or(shared.running)
	}
	if !s.applies(attrs.filter, i, bake) || !s.applies(shared.filter, item{block: def, list: "spec"}, bake) {
		return nil
	}
	return attrs.running.step(s.l, b, &Step{
		Kind: Spec, Name: b.Labels[0], After: after,
		Component: s.l.component(def, "spec", body, ctx, bake.Component.env),
	})
}

// after reads a spec's after = snapshot. It returns the body without it.
func (l *loader) after(body hcl.Body, ctx *hcl.EvalContext) (rest hcl.Body, at *hcl.Range) {
	content, rest, diags := body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "after"}}})
	a := content.Attributes["after"]
	if diags.HasErrors() || a == nil {
		return body, nil
	}
	if hcl.ExprAsKeyword(a.Expr) == "snapshot" {
		return rest, &a.Range
	}
	switch v, diags := a.Expr.Value(ctx); {
	case diags.HasErrors():
		l.add(diags...)
	case v.Type() == cty.String && v.IsKnown() && !v.IsNull() && v.AsString() == "snapshot":
	default:
		l.add(failure(a.Expr.Range().Ptr(), "Unsuitable value for after", "A spec is checked at its place, or with after = snapshot on a machine that is booted from the finished image."))
	}
	return rest, &a.Range
}

func (s *buildScope) chain(blocks hcl.Blocks, bake *Bake, ctx *hcl.EvalContext) []*Step {
	var chain []*Step
	for _, b := range blocks {
		var attrs postProcessorAttrs
		body, diags := config.Take(title(b), b.Body, ctx, &attrs)
		s.l.addKnown(diags)
		if s.applies(attrs.filter, item{block: b}, bake) {
			chain = append(chain, &Step{
				Kind: PostProcessor, Name: attrs.Name, KeepInput: attrs.Keep,
				Component: s.l.component(b, b.Labels[0], body, ctx, bake.Component.env),
			})
		}
	}
	return chain
}

// or takes from other what r leaves out.
func (r running) or(other running) running {
	r.PauseBefore, r.Timeout = cmp.Or(r.PauseBefore, other.PauseBefore), cmp.Or(r.Timeout, other.Timeout)
	r.MaxRetries = cmp.Or(r.MaxRetries, other.MaxRetries)
	r.ContinueOnError = r.ContinueOnError || other.ContinueOnError
	return r
}

func (r running) step(l *loader, b *hcl.Block, s *Step) *Step {
	for _, wrong := range []struct {
		is     bool
		option string
	}{{r.PauseBefore < 0, "pause_before"}, {r.Timeout < 0, "timeout"}, {r.MaxRetries < 0, "max_retries"}} {
		if wrong.is {
			at, _ := config.Locate(b.Body, []string{wrong.option})
			l.add(failure(&at, "Negative value", "%q cannot be negative.", wrong.option))
		}
	}
	s.PauseBefore, s.Timeout, s.MaxRetries, s.ContinueOnError = r.PauseBefore, r.Timeout, r.MaxRetries, r.ContinueOnError
	return s
}

// applies tells whether only and except let a block apply to a bake.
func (s *buildScope) applies(f filter, i item, bake *Bake) bool {
	if len(f.Only) > 0 && len(f.Except) > 0 {
		s.l.add(failure(&i.block.DefRange, "Both only and except", "Use one of only and except in %s, not both.", title(i.block)))
	}
	for _, name := range slices.Concat(f.Only, f.Except) {
		// What several builds share may name the sources of each.
		if i.list == "" && !slices.Contains(s.types, name) {
			s.l.add(warning(&i.block.DefRange, "No such source", "%s names %q in only or except, which is no source of this build; write \"type.localname\".%s", title(i.block), name, config.DidYouMean(name, s.types)))
		}
	}
	return f.admits(bake)
}

func (f filter) admits(bake *Bake) bool {
	name := bake.Type + "." + bake.Local
	return (len(f.Only) == 0 || slices.Contains(f.Only, name)) && !slices.Contains(f.Except, name)
}

// elsewhere tells at once that a block is for other bakes: with a hundred
// sources, each with steps of its own, few blocks are for any one of them. The
// first bake is not spared: it finds what is wrong with the block.
func (s *buildScope) elsewhere(b *hcl.Block, bake *Bake) bool {
	f, seen := s.filters[b]
	if !seen {
		if s.filters == nil {
			s.filters = map[*hcl.Block]*filter{}
		}
		s.filters[b] = literalFilter(b.Body)
		return false
	}
	return f != nil && !f.admits(bake)
}

// literalFilter returns only and except, or nil when they must be evaluated.
func literalFilter(body hcl.Body) *filter {
	content, _, diags := body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "only"}, {Name: "except"}}})
	if diags.HasErrors() {
		return nil
	}
	f := &filter{}
	for name, into := range map[string]*[]string{"only": &f.Only, "except": &f.Except} {
		a := content.Attributes[name]
		if a == nil {
			continue
		}
		v, diags := a.Expr.Value(nil)
		list, err := convert.Convert(v, cty.List(cty.String))
		if diags.HasErrors() || err != nil || list.IsNull() || !list.IsWhollyKnown() {
			return nil
		}
		for _, e := range list.AsValueSlice() {
			if e.IsNull() {
				return nil
			}
			*into = append(*into, e.AsString())
		}
	}
	return f
}

// text evaluates an attribute that must be a string; "" when it is not there.
func (l *loader) text(a *hcl.Attribute, ctx *hcl.EvalContext) string {
	if a == nil {
		return ""
	}
	v, diags := a.Expr.Value(ctx)
	l.add(diags...)
	if diags.HasErrors() {
		return ""
	}
	s, err := convert.Convert(v, cty.String)
	if err == nil && !s.IsKnown() && l.lenient() {
		l.notYet(a.Expr.Range(), a.Name)
		return notKnown
	}
	if err != nil || s.IsNull() || !s.IsKnown() {
		r := a.Expr.Range()
		l.add(failure(&r, "Wrong type of value", "%q must be a string that is known before the bake.", a.Name))
		return ""
	}
	return s.AsString()
}

// yes evaluates an attribute that must be true or false; false when it is not there.
func (l *loader) yes(a *hcl.Attribute, ctx *hcl.EvalContext) bool {
	if a == nil {
		return false
	}
	v, diags := a.Expr.Value(ctx)
	l.add(diags...)
	if diags.HasErrors() {
		return false
	}
	v, _ = v.UnmarkDeep()
	b, err := convert.Convert(v, cty.Bool)
	if err == nil && !b.IsKnown() && l.lenient() {
		l.notYet(a.Expr.Range(), a.Name)
		return false
	}
	if err != nil || b.IsNull() || !b.IsKnown() {
		r := a.Expr.Range()
		l.add(failure(&r, "Wrong type of value", "%q must be true or false, and known before the bake.", a.Name))
		return false
	}
	return b.True()
}

// notKnown stands for a name that is not known yet.
const notKnown = "not-known-yet"

// notYet warns that a part of the template cannot be checked.
func (l *loader) notYet(at hcl.Range, option string) {
	if l.diags.HasErrors() {
		return // that is why
	}
	l.add(warning(&at, "Value not known yet", "%q depends on a data source, and data sources are not read here, so that what depends on it is not checked. `ingot validate -evaluate-datasources` reads them.", option))
}
