package drift

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gobwas/glob"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/specs"
)

// Inventory is which machines there are and what has to hold on them.
type Inventory struct {
	Hosts []*Host
	// Files are those that were read, for the snippets of diagnostics.
	Files map[string]*hcl.File
}

// Host is one machine to look at.
type Host struct {
	// Name is how it is called in reports, Target how it is reached.
	Name, Target string
	Roles        []string
	// Image is what it was made from, such as "web@production"; empty: not to
	// be compared with an image. Source is the full name of the bake where the
	// version was baked for several; empty: there is one.
	Image, Source string
	Specs         []*specs.Spec
	Rules         Rules
	Waivers       []Waiver
	// Range is where the inventory says it; empty for a target of the command line.
	Range hcl.Range
}

// Waiver bears a change until a day has passed.
type Waiver struct {
	// Kind is a kind of change, Name a glob for what it is about.
	Kind, Name string
	// Property, where given, is the only property that is borne.
	Property string
	Reason   string
	Until    string    // as it is written
	End      time.Time // the first moment at which it does not hold any more
	glob     *glob.Pattern
}

// covers says whether the waiver is about a change.
func (w Waiver) covers(c Change) bool {
	return w.Kind == c.Kind && (w.Property == "" || w.Property == c.Property) && w.glob.Match(c.Name)
}

type (
	hostOptions struct {
		Target     string    `cfg:"target,required"`
		Roles      []string  `cfg:"roles"`
		Attributes cty.Value `cfg:"attributes"`
		Image      string    `cfg:"image"`
		Source     string    `cfg:"source"`
		Ignore     []string  `cfg:"ignore"`
	}
	roleOptions struct {
		Specs      []string  `cfg:"specs"`
		Attributes cty.Value `cfg:"attributes"`
		Image      string    `cfg:"image"`
		Ignore     []string  `cfg:"ignore"`
	}
)

// LoadOptions say which inventory to read.
type LoadOptions struct {
	File string
	// Functions are those that expressions may use.
	Functions map[string]function.Function
}

type role struct {
	options  roleOptions
	waivers  []Waiver
	at       hcl.Range
	specs    []*hcl.Block
	problems bool
}

type inventoryLoader struct {
	o     LoadOptions
	inv   *Inventory
	ctx   *hcl.EvalContext
	diags hcl.Diagnostics
	specs map[string]*hcl.Block // by name, those of the inventory itself
	files map[string][]*hcl.Block
	roles map[string]*role
}

var inventorySchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "ignore"}},
	Blocks: []hcl.BlockHeaderSchema{
		{Type: "role", LabelNames: []string{"name"}}, {Type: "host", LabelNames: []string{"name"}},
		{Type: "spec", LabelNames: []string{"name"}}, {Type: "waive", LabelNames: []string{"kind", "name"}},
	},
}

var waiveSchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "waive", LabelNames: []string{"kind", "name"}}}}

// maxInventory bounds one file, in bytes.
const maxInventory = 16 << 20

// LoadInventory reads an inventory, and compiles every spec for every host. It
// says everything that is wrong at once.
func LoadInventory(o LoadOptions) (*Inventory, hcl.Diagnostics) {
	l := &inventoryLoader{
		o: o, inv: &Inventory{Files: map[string]*hcl.File{}}, ctx: &hcl.EvalContext{Functions: o.Functions},
		specs: map[string]*hcl.Block{}, files: map[string][]*hcl.Block{}, roles: map[string]*role{},
	}
	body := l.parse(o.File, nil)
	if body == nil {
		return l.inv, l.diags
	}
	content, diags := config.Content(body, inventorySchema)
	l.diags = append(l.diags, diags...)
	var everywhere Rules
	if a := content.Attributes["ignore"]; a != nil {
		everywhere.Ignore = l.strings(a)
		l.globs(everywhere.Ignore, a.Expr.Range())
	}
	waivers := l.waivers(content.Blocks.OfType("waive"))
	for _, b := range content.Blocks.OfType("spec") {
		if first := l.specs[b.Labels[0]]; first != nil {
			l.fail(b.DefRange, "Duplicate spec", "The spec %q is already declared at %s:%d.", b.Labels[0], first.DefRange.Filename, first.DefRange.Start.Line)
			continue
		}
		l.specs[b.Labels[0]] = b
	}
	for _, b := range content.Blocks.OfType("role") {
		l.role(b)
	}
	seen := map[string]hcl.Range{}
	for _, b := range content.Blocks.OfType("host") {
		if first, ok := seen[b.Labels[0]]; ok {
			l.fail(b.DefRange, "Duplicate host", "The host %q is already declared at %s:%d.", b.Labels[0], first.Filename, first.Start.Line)
			continue
		}
		seen[b.Labels[0]] = b.DefRange
		if h := l.host(b, everywhere, waivers); h != nil {
			l.inv.Hosts = append(l.inv.Hosts, h)
		}
	}
	if len(seen) == 0 && !l.diags.HasErrors() {
		l.fail(body.MissingItemRange(), "No host", "An inventory has host blocks: host \"web1\" { target = \"ssh://root@web1\" }.")
	}
	return l.inv, l.diags
}

func (l *inventoryLoader) fail(at hcl.Range, summary, format string, args ...any) {
	l.diags = append(l.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at})
}

// parse reads a file, which is named at a place of the inventory or, where that
// is nil, on the command line.
func (l *inventoryLoader) parse(file string, at *hcl.Range) hcl.Body {
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxInventory {
		err = fmt.Errorf("%s has %d bytes, and more than %d are not read", file, info.Size(), maxInventory)
	}
	var src []byte
	if err == nil {
		src, err = os.ReadFile(file)
	}
	if err != nil {
		l.diags = append(l.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "File not readable", Detail: err.Error() + ".", Subject: at})
		return nil
	}
	var f *hcl.File
	var diags hcl.Diagnostics
	if strings.HasSuffix(file, ".json") {
		f, diags = json.Parse(src, file)
	} else {
		f, diags = hclsyntax.ParseConfig(src, file, hcl.InitialPos)
	}
	l.diags = append(l.diags, diags...)
	if f == nil {
		return nil
	}
	l.inv.Files[file] = f
	if diags.HasErrors() {
		return nil
	}
	return f.Body
}

func (l *inventoryLoader) strings(a *hcl.Attribute) (out []string) {
	v, diags := a.Expr.Value(l.ctx)
	l.diags = append(l.diags, diags...)
	if diags.HasErrors() {
		return nil
	}
	v, err := convert.Convert(v, cty.List(cty.String))
	if err != nil || v.IsNull() || !v.IsWhollyKnown() {
		l.fail(a.Expr.Range(), "Wrong type of value", "%q must be a list of strings.", a.Name)
		return nil
	}
	for _, e := range v.AsValueSlice() {
		if e.IsNull() {
			l.fail(a.Expr.Range(), "Wrong type of value", "One of the elements of %q is null.", a.Name)
			return nil
		}
		out = append(out, e.AsString())
	}
	return out
}

func (l *inventoryLoader) globs(patterns []string, at hcl.Range) {
	for _, p := range patterns {
		if err := CheckGlob(p); err != nil {
			l.fail(at, "Unsuitable glob", "%v.", err)
		}
	}
}

func (l *inventoryLoader) waivers(blocks hcl.Blocks) (out []Waiver) {
	for _, b := range blocks {
		var o struct {
			Reason   string `cfg:"reason,required"`
			Until    string `cfg:"until,required"`
			Property string `cfg:"property"`
		}
		if d := config.Decode(b.Body, l.ctx, &o); d.HasErrors() {
			l.diags = append(l.diags, d...)
			continue
		}
		w := Waiver{Kind: b.Labels[0], Name: b.Labels[1], Property: o.Property, Reason: o.Reason, Until: o.Until}
		at := func(name string) hcl.Range {
			r, _ := config.Locate(b.Body, []string{name})
			return r
		}
		if !slices.Contains(Kinds(), w.Kind) {
			l.fail(b.LabelRanges[0], "Unknown kind", "Nothing of kind %q is compared.%s There are %s.", w.Kind, config.DidYouMean(w.Kind, Kinds()), strings.Join(Kinds(), ", "))
		}
		if strings.TrimSpace(w.Reason) == "" {
			l.fail(at("reason"), "Unsuitable value for reason", "Say in words why, e.g. reason = \"fixed in the next release\".")
		}
		day, err := time.Parse(time.DateOnly, w.Until)
		if err != nil {
			l.fail(at("until"), "Unsuitable value for until", "%q is not a day such as \"2031-12-31\".", w.Until)
		}
		w.End = day.AddDate(0, 0, 1)
		if w.glob, err = glob.Compile(w.Name, '/'); err != nil {
			l.fail(b.LabelRanges[1], "Unsuitable glob", "%q is no glob: %v.", w.Name, err)
			continue
		}
		out = append(out, w)
	}
	return out
}

func (l *inventoryLoader) role(b *hcl.Block) {
	name := b.Labels[0]
	if first := l.roles[name]; first != nil {
		l.fail(b.DefRange, "Duplicate role", "The role %q is already declared at %s:%d.", name, first.at.Filename, first.at.Start.Line)
		return
	}
	r := &role{at: b.DefRange}
	l.roles[name] = r
	body := l.own(b.Body, &r.waivers)
	if d := config.Decode(body, l.ctx, &r.options); d.HasErrors() {
		l.diags = append(l.diags, d...)
		r.problems = true
		return
	}
	where := func(option string) hcl.Range {
		at, _ := config.Locate(b.Body, []string{option})
		return at
	}
	l.globs(r.options.Ignore, where("ignore"))
	l.checkAttributes(r.options.Attributes, where("attributes"))
	for _, ref := range r.options.Specs {
		r.specs = append(r.specs, l.named(ref, where("specs"))...)
	}
}

// own takes the waive blocks out of a role or a host.
func (l *inventoryLoader) own(body hcl.Body, into *[]Waiver) hcl.Body {
	content, rest, diags := body.PartialContent(waiveSchema)
	if diags.HasErrors() {
		return body
	}
	*into = l.waivers(content.Blocks)
	return rest
}

// named gives the spec of that name, or the specs of a file.
func (l *inventoryLoader) named(ref string, at hcl.Range) []*hcl.Block {
	if b := l.specs[ref]; b != nil {
		return []*hcl.Block{b}
	}
	if !strings.HasSuffix(ref, ".hcl") && !strings.HasSuffix(ref, ".json") {
		l.fail(at, "Unknown spec", "The inventory has no spec %q, and a file of specs ends in .hcl or .json.%s", ref, config.DidYouMean(ref, slices.Sorted(maps.Keys(l.specs))))
		return nil
	}
	file := ref
	if !filepath.IsAbs(file) {
		file = filepath.Join(filepath.Dir(l.o.File), ref)
	}
	if blocks, ok := l.files[file]; ok {
		return blocks
	}
	l.files[file] = nil
	body := l.parse(file, &at)
	if body == nil {
		return nil
	}
	content, diags := config.Content(body, &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "spec", LabelNames: []string{"name"}}}})
	l.diags = append(l.diags, diags...)
	if len(content.Blocks) == 0 && !diags.HasErrors() {
		l.fail(at, "No spec", "The file %s has no spec block.", file)
	}
	l.files[file] = content.Blocks
	return content.Blocks
}

// checkAttributes wants an object, or nothing.
func (l *inventoryLoader) checkAttributes(v cty.Value, at hcl.Range) bool {
	if v == cty.NilVal {
		return true
	}
	if t := v.Type(); v.IsNull() || !v.IsKnown() || !t.IsObjectType() && !t.IsMapType() {
		l.fail(at, "Wrong type of value", "\"attributes\" must be an object: { port = 80 }.")
		return false
	}
	return true
}

func (l *inventoryLoader) host(b *hcl.Block, everywhere Rules, waivers []Waiver) *Host {
	var o hostOptions
	var own []Waiver
	body := l.own(b.Body, &own)
	if d := config.Decode(body, l.ctx, &o); d.HasErrors() {
		l.diags = append(l.diags, d...)
		return nil
	}
	where := func(option string) hcl.Range {
		at, _ := config.Locate(b.Body, []string{option})
		return at
	}
	h := &Host{Name: b.Labels[0], Target: o.Target, Roles: o.Roles, Image: o.Image, Source: o.Source, Range: b.DefRange}
	l.globs(o.Ignore, where("ignore"))
	h.Rules.Ignore = append(slices.Clone(everywhere.Ignore), o.Ignore...)
	h.Waivers = append(own, waivers...) // the nearest first
	attributes := map[string]cty.Value{}
	from := map[string]string{} // which role an attribute is from
	var blocks []*hcl.Block
	imageFrom := ""
	for _, name := range o.Roles {
		r := l.roles[name]
		if r == nil {
			l.fail(where("roles"), "Unknown role", "There is no role %q.%s", name, config.DidYouMean(name, slices.Sorted(maps.Keys(l.roles))))
			continue
		}
		if r.problems {
			return nil
		}
		h.Rules.Ignore = append(h.Rules.Ignore, r.options.Ignore...)
		h.Waivers = append(h.Waivers, r.waivers...)
		if a := r.options.Attributes; a != cty.NilVal && l.checkAttributes(a, r.at) {
			for k, v := range a.AsValueMap() {
				if other, ok := from[k]; ok && !attributes[k].RawEquals(v) && (o.Attributes == cty.NilVal || !hasAttribute(o.Attributes, k)) {
					l.fail(where("roles"), "Contradicting attributes", "The roles %q and %q give %q different values. Set it in the host's attributes.", other, name, k)
				}
				attributes[k], from[k] = v, name
			}
		}
		if r.options.Image != "" && o.Image == "" {
			if imageFrom != "" && h.Image != r.options.Image {
				l.fail(where("roles"), "Contradicting images", "The roles %q and %q name different images. Set image in the host.", imageFrom, name)
			}
			h.Image, imageFrom = r.options.Image, name
		}
		for _, s := range r.specs {
			if !slices.Contains(blocks, s) {
				blocks = append(blocks, s)
			}
		}
	}
	if a := o.Attributes; a != cty.NilVal && l.checkAttributes(a, where("attributes")) {
		maps.Copy(attributes, a.AsValueMap())
	}
	ctx := l.ctx.NewChild()
	var roles []cty.Value
	for _, r := range o.Roles {
		roles = append(roles, cty.StringVal(r))
	}
	list := cty.ListValEmpty(cty.String)
	if len(roles) > 0 {
		list = cty.ListVal(roles)
	}
	ctx.Variables = map[string]cty.Value{
		"var":  cty.ObjectVal(attributes),
		"host": cty.ObjectVal(map[string]cty.Value{"name": cty.StringVal(h.Name), "target": cty.StringVal(h.Target), "roles": list}),
	}
	for _, s := range blocks {
		spec, d := specs.Compile(s.Body, ctx, s.Labels[0])
		for _, one := range d { // of which host it is said, the place does not show
			one.Detail += fmt.Sprintf(" (For host %q.)", h.Name)
		}
		l.diags = append(l.diags, d...)
		h.Specs = append(h.Specs, spec)
	}
	if h.Image == "" && len(h.Specs) == 0 && (len(o.Roles) == 0 || !l.diags.HasErrors()) {
		l.fail(b.DefRange, "Nothing to look for", "The host %q has neither an image to be compared with nor a role with specs.", h.Name)
	}
	return h
}

func hasAttribute(v cty.Value, name string) bool {
	if v.IsNull() || !v.IsKnown() || !v.CanIterateElements() {
		return false
	}
	_, ok := v.AsValueMap()[name]
	return ok
}
