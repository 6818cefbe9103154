package templates

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// ArtifactType is the type of build.NAME.artifact: what a bake that needs
// another one may know of what that one made. version is as "web@v3", files are
// the local files, places are where the image is, one for each region or format.
var ArtifactType = cty.Object(map[string]cty.Type{
	"id": cty.String, "version": cty.String, "files": cty.List(cty.String),
	"places": cty.List(cty.Object(map[string]cty.Type{
		"platform": cty.String, "region": cty.String, "id": cty.String, "digest": cty.String, "location": cty.String,
	})),
})

// Artifacts returns the builds whose artifacts the bake may refer to, as
// attributes of the variable build: build.NAME.artifact, when the build is one
// bake, and build.NAME.artifacts["type.local"]. get gives the artifact of a
// bake, of ArtifactType.
func (b *Bake) Artifacts(get func(*Bake) cty.Value) map[string]cty.Value {
	builds := map[string]map[string]cty.Value{}
	for _, n := range b.Needs {
		if n.BuildName == "" {
			continue // it cannot be referred to
		}
		if builds[n.BuildName] == nil {
			builds[n.BuildName] = map[string]cty.Value{}
		}
		builds[n.BuildName][n.Type+"."+n.Local] = get(n)
	}
	all := map[string]cty.Value{}
	for name, artifacts := range builds {
		attrs := map[string]cty.Value{"artifacts": cty.MapVal(artifacts)}
		if len(artifacts) == 1 {
			for _, v := range artifacts {
				attrs["artifact"] = v
			}
		}
		all[name] = cty.ObjectVal(attrs)
	}
	return all
}

// artifacts is Artifacts before anything is baked.
func (b *Bake) artifacts() map[string]cty.Value {
	return b.Artifacts(func(*Bake) cty.Value { return cty.UnknownVal(ArtifactType) })
}

// connect finds out which bakes need which others first.
func (l *loader) connect() {
	byName := map[string][]*Bake{}
	for _, s := range l.scopes {
		if s.name != "" {
			byName[s.name] = append(byName[s.name], s.bakes...)
		}
		if s.base != "" && s.base != s.name {
			byName[s.base] = append(byName[s.base], s.bakes...)
		}
	}
	c := &connector{l: l, byName: byName}
	for name := range byName {
		c.names = append(c.names, name)
	}
	slices.Sort(c.names)
	for _, s := range l.scopes {
		c.scope(s)
	}
	for _, b := range l.t.bakes {
		if len(b.Needs) > 0 {
			b.Component.Context.Variables["build"] = cty.ObjectVal(b.artifacts())
		}
	}
	l.checkCycles()
}

type connector struct {
	l      *loader
	byName map[string][]*Bake
	names  []string
}

// scope fills in what the bakes of one build need.
func (c *connector) scope(s *buildScope) {
	need := func(bakes, needed []*Bake) {
		for _, b := range bakes {
			for _, n := range needed {
				if !slices.Contains(b.Needs, n) {
					b.Needs = append(b.Needs, n)
				}
			}
		}
	}
	for _, a := range s.dependsOn {
		need(s.bakes, c.dependsOn(s, a))
	}
	// Steps have values of their own under build, so only what is plainly an
	// artifact counts there.
	var bodies []hcl.Body
	for _, p := range s.parts {
		bodies = append(bodies, p.block.Body)
	}
	for _, b := range s.lists {
		bodies = append(bodies, b.Body)
	}
	for _, i := range s.items {
		if def := c.l.specs[label(i.block)]; i.block.Type == "spec" && def != nil {
			bodies = append(bodies, def.Body)
		}
	}
	for _, body := range bodies {
		for _, t := range references(body) {
			if k := key(t, 2); t.RootName() == "build" && (k == "artifact" || k == "artifacts") {
				need(s.bakes, c.refer(t))
			}
		}
	}
	for i, b := range s.bakes {
		for _, t := range references(s.sources[i].Body) {
			if t.RootName() == "build" && key(t, 1) != "" {
				need([]*Bake{b}, c.refer(t))
			}
		}
	}
}

func label(b *hcl.Block) string {
	if len(b.Labels) == 0 {
		return ""
	}
	return b.Labels[0]
}

// refer finds the bakes that a reference to an artifact needs.
func (c *connector) refer(t hcl.Traversal) []*Bake {
	at := t.SourceRange()
	name := key(t, 1)
	bakes, ok := c.byName[name]
	if !ok {
		c.unknown(at, name)
		return nil
	}
	if len(bakes) > 0 && bakes[0].BuildName != name {
		c.l.add(failure(&at, "Ambiguous artifact", "The build %q is several by for_each. Name one, such as build.%s.", name, bakes[0].BuildName))
		return nil
	}
	switch key(t, 2) {
	case "artifact":
		if len(bakes) > 1 {
			c.l.add(failure(&at, "Ambiguous artifact", "The build %q makes %d artifacts. Name one: build.%s.artifacts[%q].", name, len(bakes), name, bakes[0].Type+"."+bakes[0].Local))
		}
	case "artifacts":
		if one := key(t, 3); one != "" {
			bakes = slices.DeleteFunc(slices.Clone(bakes), func(b *Bake) bool { return b.Type+"."+b.Local != one })
			if len(bakes) == 0 {
				c.l.add(failure(&at, "Unknown artifact", "The build %q has no source %q.", name, one))
			}
		}
	}
	return bakes
}

func (c *connector) unknown(at hcl.Range, name string) {
	c.l.add(failure(&at, "Unknown build", "The template has no build named %q.%s What a build finds out about its own machine is known to its provisioners and post-processors only.",
		name, config.DidYouMean(name, c.names)))
}

// dependsOn reads one depends_on attribute: build.name, or a string.
func (c *connector) dependsOn(s *buildScope, a *hcl.Attribute) []*Bake {
	const want = "depends_on must be a list of builds: [build.name], or [\"name\"]."
	exprs, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		r := a.Expr.Range()
		c.l.add(failure(&r, "Invalid depends_on", want))
		return nil
	}
	var needed []*Bake
	for _, e := range exprs {
		name := ""
		if t, diags := hcl.AbsTraversalForExpr(e); !diags.HasErrors() && t.RootName() == "build" && len(t) == 2 {
			name = key(t, 1)
		} else if name = c.l.text(&hcl.Attribute{Name: "depends_on", Expr: e}, s.ctx); name == "" {
			continue
		}
		bakes, ok := c.byName[name]
		if !ok {
			c.unknown(e.Range(), name)
		}
		needed = append(needed, bakes...)
	}
	return needed
}

// checkCycles refuses bakes that wait for one another. An image's version is
// complete when all its bakes are, so images must not wait for one another either.
func (l *loader) checkCycles() {
	if _, cycle := order(l.t.bakes, func(b *Bake) []*Bake { return b.Needs }); cycle != nil {
		l.add(failure(&cycle[0].Range, "Cycle: "+arrows(cycle, func(b *Bake) string { return b.Name }), "Each of these bakes needs the next one first, so none of them can begin."))
		return
	}
	images := map[string][]string{}
	first := map[string]*Bake{}
	var names []string
	for _, b := range l.t.bakes {
		if first[b.Image] == nil {
			first[b.Image] = b
			names = append(names, b.Image)
		}
		for _, n := range b.Needs {
			images[b.Image] = append(images[b.Image], n.Image)
		}
	}
	if _, cycle := order(names, func(name string) []string { return images[name] }); cycle != nil {
		l.add(failure(&first[cycle[0]].Range, "Cycle of images: "+arrows(cycle, quote),
			"The version of an image is complete when all its bakes are, and here bakes of each image need one of the next image first. Give the builds different images: image = \"name\"."))
	}
}
