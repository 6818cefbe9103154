// Package specs proves what a machine is: a spec says in Serverspec's words
// what has to hold, one shell script (on Windows: one of PowerShell) asks the
// machine in one round trip, and the answers are judged here.
//
//	spec "web" {
//	  sudo = true
//	  package "nginx" {
//	    be_installed = { with_version = ">= 1.24" }
//	  }
//	  file "/etc/nginx/nginx.conf" {
//	    be_mode = "0644"
//	    its "content" { not_match = "server_tokens\\s+on" }
//	  }
//	  service "telnet" {
//	    should_not { be_enabled = true }
//	  }
//	}
//
// A block type is a kind of resource, its label the subject; each attribute is
// one check. What cannot be found out is an error and what is missing has no
// properties: neither ever passes.
package specs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

const (
	defaultTimeout  = 10 * time.Second
	defaultInterval = time.Second
	maxTimeout      = time.Hour
)

// Spec is a compiled spec block. It does not change, and may be run on many
// machines at once.
type Spec struct {
	// Name is the block's label, Title what its title says, if anything.
	Name, Title string
	// Sudo says that the checks are made as root.
	Sudo   bool
	Checks []Check
}

// Check is one thing that has to hold.
type Check struct {
	// Resource is the block type, Subject its label or its name attribute. A
	// resource of which a machine has one, such as selinux, has no subject.
	Resource, Subject string
	// Title is what the block's title says, if anything.
	Title string
	// Property is the matcher, e.g. "be_mode", or the attribute, e.g. "its content".
	Property string
	// Expect says in words what has to hold, e.g. "should be mode 0644".
	Expect string
	// Negate says that it is the opposite that has to hold.
	Negate bool
	// Tags are the spec's and the block's own.
	Tags []string
	// Timeout is how long the machine may take for the answer; 10 s, or 30 s on
	// Windows, unless the block or the spec says otherwise.
	Timeout time.Duration
	// RetryWithin is for how long, from the start of the run, a check that does
	// not pass is made again, every RetryInterval. 0 is never.
	RetryWithin, RetryInterval time.Duration
	// Range is where the template says it.
	Range hcl.Range

	kind  *kind
	key   string // what the kind is asked about
	timed bool   // the template says Timeout
	only  string // as in matcher
	// fitPosix and fitWindows say why the subject is none on one of the two.
	fitPosix, fitWindows error
	sensitive            bool     // the actual value must not be shown
	secrets              []string // what a machine may repeat, but no report
	// judge compares; presence is as in matcher.
	judge    func(fact any) (ok bool, actual string, err error)
	presence bool

	goss *gossCheck // of a goss file, which has a judge of its own

	skip  string       // why the check is not made, when that is known already
	when  []*condition // what has to hold for the check to apply
	waive *waiver
}

// Compile reads the body of a spec block. Every name is checked and every
// expression evaluated, so that nothing of the template can fail later.
func Compile(body hcl.Body, ctx *hcl.EvalContext, name string) (*Spec, hcl.Diagnostics) {
	c, rows := &compiler{ctx: ctx, comparisons: comparisons()}, resources()
	content := c.content(body, specSchema(rows))
	spec := &Spec{Name: name}
	all := Check{Timeout: defaultTimeout}
	c.common(content.Attributes, &all)
	spec.Title, all.Title = all.Title, ""
	if a := content.Attributes["sudo"]; a != nil {
		if v, _ := c.value(a, cty.Bool); v != cty.NilVal {
			spec.Sudo = v.True()
		}
	}
	selected := RunOptions{Tags: c.list(content.Attributes["only_tags"]), SkipTags: c.list(content.Attributes["except_tags"])}
	for _, b := range content.Blocks {
		if b.Type == "goss" {
			spec.Checks = append(spec.Checks, c.gossBlock(b, all, spec.Sudo)...)
			continue
		}
		i := slices.IndexFunc(rows, func(r resource) bool { return r.name == b.Type })
		spec.Checks = append(spec.Checks, c.resource(b, rows[i], all)...)
	}
	for i, check := range spec.Checks {
		if check.skip == "" {
			spec.Checks[i].skip = selected.skip(check.Tags)
		}
	}
	if len(content.Blocks) == 0 && !c.diags.HasErrors() {
		c.fail(body.MissingItemRange(), "This spec checks nothing", "Add at least one resource block, e.g. package \"nginx\" { be_installed = true }.")
	}
	return spec, c.diags
}

// specSchema is what stands in a spec.
func specSchema(rows []resource) *hcl.BodySchema {
	schema := attributes("title", "tags", "only_tags", "except_tags", "timeout", "when", "sudo")
	for _, r := range rows {
		header := hcl.BlockHeaderSchema{Type: r.name}
		if r.subject != nil {
			header.LabelNames = []string{"subject"}
		}
		schema.Blocks = append(schema.Blocks, header)
	}
	schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: "goss", LabelNames: []string{"file"}})
	return schema
}

// schema is what stands in a block of this resource.
func (r resource) schema() *hcl.BodySchema {
	meta := []string{"for_each", "skip", "tags", "timeout", "title", "when"}
	if r.subject != nil {
		meta = append(meta, "name")
	}
	schema := attributes(slices.Concat(slices.Sorted(maps.Keys(r.matchers)), r.options, slices.Sorted(maps.Keys(r.values)), meta)...)
	schema.Blocks = []hcl.BlockHeaderSchema{{Type: "its", LabelNames: []string{"attribute"}}, {Type: "retry"}, {Type: "should_not"}, {Type: "waive"}}
	return schema
}

// fitsPosix says why a subject is none for a machine with a POSIX shell.
func (r resource) fitsPosix(subject string) error {
	err := r.subject(subject)
	if err == nil && r.posix != nil {
		err = r.posix(subject)
	}
	return err
}

// negated is what stands in a should_not of this resource.
func (r resource) negated() *hcl.BodySchema {
	schema := attributes(slices.Sorted(maps.Keys(r.matchers))...)
	schema.Blocks = []hcl.BlockHeaderSchema{{Type: "its", LabelNames: []string{"attribute"}}}
	return schema
}

type compiler struct {
	ctx         *hcl.EvalContext
	comparisons map[string]comparison
	diags       hcl.Diagnostics
}

func (c *compiler) fail(at hcl.Range, summary, detail string) {
	c.diags = append(c.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at, EvalContext: c.ctx})
}

func attributes(names ...string) *hcl.BodySchema {
	s := &hcl.BodySchema{}
	for _, n := range names {
		s.Attributes = append(s.Attributes, hcl.AttributeSchema{Name: n})
	}
	return s
}

// content reads a body; HCL itself finds what is unknown and suggests. Where
// it has no suggestion, what is known is listed.
func (c *compiler) content(body hcl.Body, schema *hcl.BodySchema) *hcl.BodyContent {
	content, diags := body.Content(schema)
	for _, d := range diags {
		var known []string
		switch d.Summary {
		case "Unsupported argument":
			for _, a := range schema.Attributes {
				known = append(known, a.Name)
			}
		case "Unsupported block type":
			for _, b := range schema.Blocks {
				known = append(known, b.Type)
			}
		}
		if len(known) > 0 && !strings.Contains(d.Detail, "Did you mean") {
			slices.Sort(known)
			d.Detail += " Known here: " + strings.Join(known, ", ") + "."
		}
	}
	c.diags = append(c.diags, diags...)
	return content
}

// value evaluates an attribute, as type t unless that is NilType. It gives
// NilVal when something is wrong, and says whether the value is sensitive.
func (c *compiler) value(a *hcl.Attribute, t cty.Type) (cty.Value, bool) {
	v, diags := a.Expr.Value(c.ctx)
	c.diags = append(c.diags, diags...)
	if diags.HasErrors() {
		return cty.NilVal, false
	}
	v, marks := v.UnmarkDeep()
	var err error
	switch {
	case !v.IsWhollyKnown():
		c.diags = append(c.diags, config.Unknown(a.Expr.Range(), a.Name))
		return cty.NilVal, false
	case v.IsNull():
		err = fmt.Errorf("it is null, and a check must not vanish unseen")
	case t != cty.NilType:
		v, err = convert.Convert(v, t)
	}
	if err != nil {
		c.fail(a.Expr.Range(), "Unsuitable value for "+a.Name, "The value of "+a.Name+" cannot be used: "+err.Error()+".")
		return cty.NilVal, false
	}
	return v, len(marks) > 0
}

// duration reads a time of at least a second, which is what shells count in.
func (c *compiler) duration(a *hcl.Attribute) time.Duration {
	v, _ := c.value(a, cty.String)
	if v == cty.NilVal {
		return defaultTimeout
	}
	d, err := time.ParseDuration(v.AsString())
	if err != nil || d < time.Second || d > maxTimeout {
		c.fail(a.Expr.Range(), "Unsuitable value for "+a.Name, fmt.Sprintf("%q is not a duration from 1s to 1h, such as \"10s\" or \"2m\".", v.AsString()))
		return defaultTimeout
	}
	return d
}

// common reads what a spec and a resource may both say.
func (c *compiler) common(attrs hcl.Attributes, check *Check) {
	if a := attrs["when"]; a != nil {
		c.when(a, check)
	}
	if a := attrs["title"]; a != nil {
		if v, _ := c.value(a, cty.String); v != cty.NilVal {
			check.Title = v.AsString()
		}
	}
	check.Tags = append(slices.Clone(check.Tags), c.list(attrs["tags"])...)
	if a := attrs["timeout"]; a != nil {
		check.Timeout, check.timed = c.duration(a), true
	}
}

// list reads an attribute that is a list of strings, if it is there.
func (c *compiler) list(a *hcl.Attribute) []string {
	if a == nil {
		return nil
	}
	v, _ := c.value(a, cty.List(cty.String))
	if v == cty.NilVal {
		return nil
	}
	var out []string
	for _, e := range v.AsValueSlice() {
		if e.IsNull() {
			c.fail(a.Expr.Range(), "Unsuitable value for "+a.Name, "One of its elements is null.")
			continue
		}
		out = append(out, e.AsString())
	}
	return out
}

// resource reads one resource block, as often as its for_each says.
func (c *compiler) resource(b *hcl.Block, r resource, check Check) []Check {
	check.Resource, check.Range = r.name, b.DefRange
	if r.subject != nil {
		check.Subject = b.Labels[0]
	}
	content := c.content(b.Body, r.schema())
	a := content.Attributes["for_each"]
	if a == nil {
		return c.instance(b, r, content, check)
	}
	var checks []Check
	outer := c.ctx
	for _, e := range c.elements(a) {
		c.ctx = outer.NewChild()
		c.ctx.Variables = map[string]cty.Value{"each": e}
		before := len(c.diags)
		checks = append(checks, c.instance(b, r, content, check)...)
		if c.diags[before:].HasErrors() {
			break // the others would say the same
		}
	}
	c.ctx = outer
	if len(checks) == 0 && !c.diags.HasErrors() {
		check.Property, check.Expect, check.skip = "for_each", "should hold for each", "for_each has no elements"
		checks = []Check{check}
	}
	return checks
}

// instance reads a resource block for one element of its for_each, if it has one.
func (c *compiler) instance(b *hcl.Block, r resource, content *hcl.BodyContent, check Check) []Check {
	where := b.DefRange
	if r.subject != nil {
		where = b.LabelRanges[0]
	}
	if a := content.Attributes["name"]; a != nil {
		where = a.Expr.Range()
		v, sensitive := c.value(a, cty.String)
		switch {
		case v == cty.NilVal:
			return nil
		case sensitive:
			c.fail(where, "Unsuitable value for name", "A name is shown in every report, and this one is sensitive.")
			return nil
		}
		check.Subject = v.AsString()
	}
	if r.subject != nil {
		if err := r.subject(check.Subject); err != nil {
			c.fail(where, "Unsuitable "+r.name, "The name of this "+r.name+" is refused: "+err.Error()+".")
		}
		if r.posix != nil {
			check.fitPosix = r.posix(check.Subject)
		}
		if r.windows != nil {
			check.fitWindows = r.windows(check.Subject)
		}
	}
	c.common(content.Attributes, &check)
	c.retry(content.Blocks.OfType("retry"), &check)
	if a := content.Attributes["skip"]; a != nil {
		if why := c.reason(a); check.skip == "" {
			check.skip = why
		}
	}
	c.waiver(content.Blocks.OfType("waive"), &check)
	opts := map[string]string{}
	for _, name := range r.options {
		if a := content.Attributes[name]; a != nil {
			if v, _ := c.value(a, cty.String); v != cty.NilVal {
				opts[name] = v.AsString()
				if err := printable(opts[name]); err != nil {
					c.fail(a.Expr.Range(), "Unsuitable value for "+name, "The value of "+name+" cannot be used: "+err.Error()+".")
				}
			}
		}
	}

	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		if a := content.Attributes[name]; a != nil {
			c.typed(a, r.values[name], opts, &check)
		}
	}
	if r.hides != nil && len(check.secrets) > 0 {
		check.secrets = append(check.secrets, r.hides(opts)...)
	}
	if r.check != nil && !c.diags.HasErrors() {
		if err := r.check(check.Subject, opts); err != nil {
			c.fail(where, "Unsuitable "+r.name, "This "+r.name+" cannot be asked: "+err.Error()+".")
		}
	}

	checks := c.assertions(content, r, check, opts)
	for _, n := range content.Blocks.OfType("should_not") {
		negated := check
		negated.Negate = true
		inner := c.content(n.Body, r.negated())
		if len(inner.Attributes)+len(inner.Blocks) == 0 {
			c.fail(n.DefRange, "This should_not checks nothing", "Add a matcher, e.g. "+c.example(r)+".")
		}
		checks = append(checks, c.assertions(inner, r, negated, opts)...)
	}
	if len(checks) == 0 && !c.diags.HasErrors() {
		c.fail(b.DefRange, "This "+r.name+" block checks nothing", "Add a matcher, e.g. "+c.example(r)+".")
	}
	slices.SortStableFunc(checks, func(x, y Check) int { return x.Range.Start.Byte - y.Range.Start.Byte })
	return checks
}

// typed reads one of a resource's values. What is sensitive in it is kept out
// of the report, too, should the machine repeat it.
func (c *compiler) typed(a *hcl.Attribute, t cty.Type, opts map[string]string, check *Check) {
	v, sensitive := c.value(a, t)
	if v == cty.NilVal {
		return
	}
	_ = cty.Walk(v, func(_ cty.Path, v cty.Value) (bool, error) {
		switch {
		case v.IsNull():
			c.fail(a.Expr.Range(), "Unsuitable value for "+a.Name, "A part of it is null.")
			return false, nil
		case sensitive && v.Type() == cty.String && v.AsString() != "":
			check.secrets = append(check.secrets[:len(check.secrets):len(check.secrets)], v.AsString())
		}
		return true, nil
	})
	raw, err := ctyjson.Marshal(v, t)
	if err != nil {
		c.unsuitable(a, err, sensitive)
		return
	}
	opts[a.Name] = string(raw)
}

func (c *compiler) example(r resource) string {
	if len(r.matchers) == 0 {
		names := append(slices.Sorted(maps.Keys(r.attributes)), r.pathNames()...)
		return "its \"" + names[0] + "\" { eq = … }"
	}
	return slices.Sorted(maps.Keys(r.matchers))[0] + " = …"
}

func (c *compiler) retry(blocks hcl.Blocks, check *Check) {
	if len(blocks) > 1 {
		c.fail(blocks[1].DefRange, "Duplicate retry block", "A resource has one retry block.")
	}
	for _, b := range blocks {
		content := c.content(b.Body, &hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "within", Required: true}, {Name: "interval"}}})
		check.RetryInterval = defaultInterval
		if a := content.Attributes["within"]; a != nil {
			check.RetryWithin = c.duration(a)
		}
		if a := content.Attributes["interval"]; a != nil {
			check.RetryInterval = c.duration(a)
		}
	}
}

// assertions reads the matchers and the its blocks of a resource or a should_not.
func (c *compiler) assertions(content *hcl.BodyContent, r resource, proto Check, opts map[string]string) []Check {
	should := "should "
	if proto.Negate {
		should = "should not "
	}
	var out []Check
	for name, a := range content.Attributes {
		m, ok := r.matchers[name]
		if !ok {
			continue
		}
		v, sensitive := c.value(a, cty.NilType)
		if v == cty.NilVal {
			continue
		}
		arg, err := m.argument(v)
		if err != nil {
			c.unsuitable(a, err, sensitive)
			continue
		}
		check := proto
		check.Property, check.Range = name, a.Range
		check.Expect = should + strings.ReplaceAll(name, "_", " ")
		if arg.words != "" {
			check.Expect += " " + hide(sensitive, arg.words)
		}
		check.kind, check.key, check.presence, check.sensitive, check.only = m.kind, proto.Subject, m.presence, sensitive, m.only
		if m.about != nil {
			check.kind, check.key = m.about(proto.Subject, arg, opts)
		}
		check.judge = func(fact any) (bool, string, error) { return m.test(fact, arg) }
		out = append(out, check)
	}
	for _, b := range content.Blocks.OfType("its") {
		out = append(out, c.its(b, r, proto, should, opts)...)
	}
	return out
}

func (c *compiler) its(b *hcl.Block, r resource, proto Check, should string, opts map[string]string) []Check {
	label := b.Labels[0]
	attr, ok := r.attribute(label)
	if !ok {
		known := append(slices.Sorted(maps.Keys(r.attributes)), r.pathNames()...)
		detail := fmt.Sprintf("A %s has no attribute %q%s.", r.name, label, suggest(label, known))
		if len(known) > 0 {
			detail += " Known: " + strings.Join(known, ", ") + "."
		}
		c.fail(b.LabelRanges[0], "Unknown attribute", detail)
		return nil
	}
	var fit []string
	for name, cmp := range c.comparisons {
		if slices.Contains(cmp.types, attr.typ) {
			fit = append(fit, name)
		}
	}
	content := c.content(b.Body, attributes(fit...))
	if len(content.Attributes) == 0 && !c.diags.HasErrors() {
		c.fail(b.DefRange, "This its block checks nothing", "Add a comparison, e.g. "+slices.Min(fit)+" = ….")
	}
	var out []Check
	for name, a := range content.Attributes {
		v, sensitive := c.value(a, cty.NilType)
		if v == cty.NilVal {
			continue
		}
		cmp := c.comparisons[name]
		wants, err := cmp.wants(attr.typ, v)
		if err != nil {
			c.unsuitable(a, err, sensitive)
			continue
		}
		check := proto
		var words []string
		for _, w := range wants {
			if w.pattern != nil {
				words = append(words, "/"+w.text+"/")
			} else if w.number != nil {
				words = append(words, w.text)
			} else {
				words = append(words, fmt.Sprintf("%q", w.text))
			}
		}
		check.Property, check.Range = "its "+label, a.Range
		check.Expect = should + fmt.Sprintf(cmp.words, hide(sensitive, strings.Join(words, ", ")))
		check.Negate = proto.Negate != (name == "not_match")
		check.kind, check.key, check.sensitive, check.only = attr.kind, proto.Subject, sensitive || attr.secret, attr.only
		if attr.key != nil {
			check.key = attr.key(proto.Subject, opts)
		}
		check.judge = func(fact any) (bool, string, error) {
			have, err := attr.get(fact)
			if err != nil {
				return false, "", err
			}
			for _, w := range wants {
				have, typ := have.as(attr.typ)
				ok, actual, err := cmp.test(have, typ, w)
				if ok || err != nil || len(wants) == 1 {
					return ok, actual, err
				}
			}
			have, _ = have.as(attr.typ)
			return false, have.text, nil
		}
		out = append(out, check)
	}
	return out
}

func (c *compiler) unsuitable(a *hcl.Attribute, err error, sensitive bool) {
	detail := "The value of " + a.Name + " cannot be used: " + err.Error() + "."
	if sensitive {
		detail = "The value of " + a.Name + " cannot be used; it is sensitive and not shown."
	}
	c.fail(a.Expr.Range(), "Unsuitable value for "+a.Name, detail)
}

const hidden = "(sensitive)"

func hide(sensitive bool, words string) string {
	if sensitive {
		return hidden
	}
	return words
}

// suggest gives a known name that is close to the given one, as a half sentence.
func suggest(given string, known []string) string {
	for _, k := range known {
		if levenshtein.Distance(given, k, nil) < 3 {
			return fmt.Sprintf("; did you mean %q?", k)
		}
	}
	return ""
}
