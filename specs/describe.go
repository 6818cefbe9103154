package specs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
)

// Description is what a spec would say of one subject as it is.
type Description struct {
	Resource, Subject string
	// Missing says why there is nothing under that name; empty: there is.
	Missing string
	// Notes say what could not be found out, or is left out, and why.
	Notes []string

	groups [][]setting // one for each block
}

// setting is one check as it stands in a block.
type setting struct {
	negate bool
	its    string // the attribute, where it is one
	name   string // the matcher, or the comparison
	value  cty.Value
}

// aspect is one thing that is looked at to describe a subject.
type aspect struct {
	name string
	kind *kind
	key  string
	read func(fact any) ([]setting, error)
	// alone begins a block for each of the settings.
	alone bool
	// later, when set, puts the question off until the others are answered, and
	// says then whether it is to be asked: it costs the machine a process.
	later func() bool
}

// describer makes the aspects of a resource, for a subject.
type describer struct {
	r       resource
	subject string
	all     []aspect
	looks   []*look // for each of all; nil: not asked
}

// presence are the matchers that ask whether the subject is there at all.
var presence = []string{"exist", "be_installed", "be_loaded", "be_resolvable", "be_certificate"}

// is writes that a matcher holds, or with both that it does not.
func (d *describer) is(both bool, names ...string) *describer {
	for _, name := range names {
		m := d.r.matchers[name]
		a, err := m.argument(cty.True)
		k, key := m.kind, d.subject
		if m.about != nil {
			k, key = m.about(d.subject, a, nil)
		}
		d.all = append(d.all, aspect{name: name, kind: k, key: key, read: func(fact any) ([]setting, error) {
			if err != nil {
				return nil, err
			}
			ok, actual, err := m.test(fact, a)
			switch {
			case err != nil:
				return nil, err
			case !ok && (slices.Contains(presence, name) || d.r.name == "process" || d.r.name == "service" && strings.HasPrefix(actual, "no such")):
				return nil, missing(cmp.Or(actual, "it is not there"))
			case !ok && !both:
				return nil, nil
			}
			return []setting{{negate: !ok, name: name, value: cty.True}}, nil
		}})
	}
	return d
}

// value writes a matcher that takes what an attribute is: "have_uid=uid".
func (d *describer) value(pairs ...string) *describer {
	for _, p := range pairs {
		name, attr, _ := strings.Cut(p, "=")
		d.attribute(attr, func(v value, t valueType) []setting {
			return []setting{{name: name, value: literal(v.text, t)}}
		})
	}
	return d
}

// its writes what attributes are.
func (d *describer) its(names ...string) *describer {
	for _, name := range names {
		d.attribute(name, func(v value, t valueType) []setting {
			if t != typeList {
				return []setting{{its: name, name: "eq", value: literal(v.text, t)}}
			}
			var out []setting
			for _, e := range v.list {
				out = append(out, setting{its: name, name: "include", value: cty.StringVal(e)})
			}
			return out
		})
	}
	return d
}

func (d *describer) attribute(name string, write func(v value, t valueType) []setting) {
	at := d.r.attributes[name]
	key := d.subject
	if at.key != nil {
		key = at.key(d.subject, nil)
	}
	d.all = append(d.all, aspect{name: name, kind: at.kind, key: key, read: func(fact any) ([]setting, error) {
		v, err := at.get(fact)
		if err != nil {
			return nil, err
		}
		return write(v.as(at.typ)), nil
	}})
}

func (d *describer) fact(name string, k *kind, alone bool, read func(fact any) ([]setting, error)) *describer {
	d.all = append(d.all, aspect{name: name, kind: k, key: d.subject, read: read, alone: alone})
	return d
}

// literal is a text as it is written: numbers as such.
func literal(s string, t valueType) cty.Value {
	if n, ok := new(big.Float).SetString(s); t == typeNumber && ok && len(s) <= maxDigits {
		return cty.NumberVal(n)
	}
	return cty.StringVal(s)
}

// maxWritten is how long an output may be that is written into a spec.
const maxWritten = 2000

// describers say what is worth writing of a resource; the first aspect tells
// whether the subject is there.
func describers() map[string]func(d *describer) {
	is := func(both bool, names ...string) func(*describer) {
		return func(d *describer) { d.is(both, names...) }
	}
	return map[string]func(d *describer){
		"package": func(d *describer) {
			d.fact("be_installed", packages, false, func(fact any) ([]setting, error) {
				p := fact.(pkg)
				if err := p.present(); err != nil {
					return nil, err
				}
				if v := slices.Compact(slices.Clone(p.versions)); len(v) == 1 {
					return []setting{{name: "be_installed", value: cty.ObjectVal(map[string]cty.Value{"with_version": cty.StringVal("= " + v[0])})}}, nil
				}
				return []setting{{name: "be_installed", value: cty.True}}, nil
			})
		},
		"service": is(true, "be_enabled", "be_running"),
		"port": func(d *describer) {
			d.fact("be_listening", sockets, true, func(fact any) ([]setting, error) {
				var out []setting
				for _, l := range fact.([]listener) {
					proto := "tcp"
					if l.udp {
						proto = "udp"
					}
					v := cty.ObjectVal(map[string]cty.Value{"with": cty.StringVal(proto), "on": cty.StringVal(l.addr.Addr().String())})
					if !slices.ContainsFunc(out, func(s setting) bool { return s.value.RawEquals(v) }) {
						out = append(out, setting{name: "be_listening", value: v})
					}
				}
				if len(out) == 0 {
					return nil, missing("nothing listens")
				}
				return out, nil
			})
		},
		"file": func(d *describer) {
			link := false
			d.fact("exist", files, false, func(fact any) ([]setting, error) {
				f := fact.(file)
				link = f.link
				switch {
				case f.target == nil && !f.link:
					return nil, f.why
				case f.target == nil:
					return []setting{{name: "be_symlink", value: cty.True}, {negate: true, name: "exist", value: cty.True}}, nil
				}
				out := []setting{{name: "exist", value: cty.True}}
				if f.link {
					out = append(out, setting{name: "be_symlink", value: cty.True})
				}
				if name := "be_" + strings.ReplaceAll(f.target.typ(), " ", "_"); d.r.matchers[name].test != nil {
					out[0].name = name
				}
				return out, nil
			})
			d.fact("be_linked_to", linkTargets, false, func(fact any) ([]setting, error) {
				return []setting{{name: "be_linked_to", value: cty.StringVal(fact.(string))}}, nil
			})
			d.all[1].later = func() bool { return link }
			d.value("be_mode=mode", "be_owned_by=owner", "be_grouped_into=group")
		},
		"user": func(d *describer) {
			d.is(false, "exist").value("have_uid=uid", "belong_to_primary_group=primary_group", "have_home_directory=home", "have_login_shell=shell").its("groups")
		},
		"group":   func(d *describer) { d.is(false, "exist").value("have_gid=gid") },
		"process": is(true, "be_running"),
		"command": func(d *describer) {
			d.fact("its exit_status", commands, false, func(fact any) ([]setting, error) {
				return []setting{{its: "exit_status", name: "eq", value: cty.NumberIntVal(int64(fact.(output).status))}}, nil
			})
			for name, get := range map[string]func(output) string{"stdout": func(o output) string { return o.stdout }, "stderr": func(o output) string { return o.stderr }} {
				d.fact("its "+name, commands, false, func(fact any) ([]setting, error) {
					s := strings.TrimRight(get(fact.(output)), "\n")
					switch {
					case s == "":
						return nil, nil
					case len(s) > maxWritten:
						return nil, fmt.Errorf("it has %d bytes, and at most %d are written", len(s), maxWritten)
					case !utf8.ValidString(s):
						return nil, errors.New("it is no text")
					}
					return []setting{{its: name, name: "eq", value: cty.StringVal(s)}}, nil
				})
			}
			slices.SortFunc(d.all, func(a, b aspect) int { return strings.Compare(a.name, b.name) })
		},
		"interface": func(d *describer) {
			d.is(true, "exist", "be_up").its("mtu")
			d.fact("addresses", interfaces, false, func(fact any) ([]setting, error) {
				var out []setting
				for _, six := range []bool{false, true} {
					v, err := fact.(netDevice).addresses(six)
					if _, none := errors.AsType[missing](err); none {
						continue
					}
					if err != nil {
						return nil, err
					}
					name := map[bool]string{false: "ipv4_address", true: "ipv6_address"}[six]
					for i, a := range strings.Fields(v.text) {
						if i == 0 {
							out = append(out, setting{name: "have_" + name, value: cty.StringVal(a)})
						} else {
							out = append(out, setting{its: name, name: "include", value: cty.StringVal(a)})
						}
					}
				}
				return out, nil
			})
		},
		"bond":                   is(true, "exist"),
		"bridge":                 is(true, "exist"),
		"default_gateway":        func(d *describer) { d.its("ipaddress", "interface") },
		"host":                   is(true, "be_resolvable"),
		"kernel_module":          is(true, "be_loaded"),
		"linux_kernel_parameter": func(d *describer) { d.its("value") },
		"selinux":                is(false, "be_disabled", "be_enforcing", "be_permissive"),
		"selinux_module":         is(true, "be_installed", "be_enabled"),
		"linux_audit_system":     is(true, "be_enabled", "be_running"),
		"x509_certificate": func(d *describer) {
			d.is(true, "be_certificate").its("subject", "issuer", "keylength", "subject_alt_names")
		},
		"docker_image":     is(true, "exist"),
		"docker_container": is(true, "exist", "be_running"),
		"lxc":              is(true, "exist", "be_running"),
		"kvm":              is(true, "exist", "be_running", "be_enabled"),
		"zfs":              is(true, "exist"),
		"yumrepo":          is(true, "exist", "be_enabled"),
		"ppa":              is(true, "exist", "be_enabled"),
		"php_config":       func(d *describer) { d.its("value") },
		"php_extension":    is(true, "be_loaded"),
		"mysql_config":     func(d *describer) { d.its("value") },
	}
}

// Describable are the resources that Describe knows, in order.
func Describable() []string {
	var names []string
	for name := range describers() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Ask is a subject to describe.
type Ask struct{ Resource, Subject string }

// Check says what is wrong with an Ask, if anything.
func (a Ask) Check() error {
	rows := resources()
	i := slices.IndexFunc(rows, func(r resource) bool { return r.name == a.Resource })
	switch {
	case i < 0:
		return fmt.Errorf("there is no resource %q.%s Known: %s", a.Resource, config.DidYouMean(a.Resource, Describable()), strings.Join(Describable(), ", "))
	case describers()[a.Resource] == nil:
		return fmt.Errorf("of %s nothing can be written that holds by itself; there are %s", a.Resource, strings.Join(Describable(), ", "))
	case rows[i].subject == nil && a.Subject != "":
		return fmt.Errorf("a machine has one %s, so that it has no name: leave %q out", a.Resource, a.Subject)
	case rows[i].subject == nil:
		return nil
	case a.Subject == "":
		return fmt.Errorf("which %s?", a.Resource)
	}
	if err := rows[i].fitsPosix(a.Subject); err != nil {
		return fmt.Errorf("%s %q: %w", a.Resource, a.Subject, err)
	}
	// What HCL would write as another text could not be found again.
	if cty.StringVal(a.Subject).AsString() != a.Subject || !utf8.ValidString(a.Subject) {
		return fmt.Errorf("%s %q: it is no text in Unicode's normal form C, which HCL makes of every text", a.Resource, a.Subject)
	}
	return nil
}

// Describe looks at subjects and says what holds, in one round trip or two, and
// makes sure of it in another: what is different then is left out with a note.
// The asks must be good by Check. The error says that the machine could not be
// asked.
func Describe(ctx context.Context, m machine.Machine, asks []Ask, sudo bool) ([]Description, error) {
	if m.Platform().OS == "windows" {
		return nil, errors.New("specs are written of machines with a POSIX shell, which a Windows machine does not have")
	}
	rows, table := resources(), describers()
	out := make([]Description, len(asks))
	all := make([]*describer, len(asks))
	for i, a := range asks {
		if err := a.Check(); err != nil {
			return nil, err
		}
		out[i].Resource, out[i].Subject = a.Resource, a.Subject
		all[i] = &describer{r: rows[slices.IndexFunc(rows, func(r resource) bool { return r.name == a.Resource })], subject: a.Subject}
		table[a.Resource](all[i])
	}
	for _, later := range []bool{false, true} {
		s := &Spec{Name: "what is there", Sudo: sudo}
		var to []*look
		for _, d := range all {
			d.looks = slices.Grow(d.looks, len(d.all))[:len(d.all)]
			for n, x := range d.all {
				if (x.later != nil) != later || later && !x.later() {
					continue
				}
				l := &look{}
				d.looks[n], to = l, append(to, l)
				s.Checks = append(s.Checks, Check{
					Resource: d.r.name, Subject: d.subject, Property: x.name, Timeout: defaultTimeout, kind: x.kind, key: x.key, presence: true,
					judge: func(fact any) (bool, string, error) {
						var err error
						l.got, err = x.read(fact)
						return true, "", err
					},
				})
			}
		}
		r, err := s.Run(ctx, m, RunOptions{})
		if err != nil {
			return nil, err
		}
		for i, result := range r.Results {
			to[i].result = result
		}
	}
	for i, d := range all {
		out[i].fill(d)
	}
	return out, again(ctx, m, out, sudo)
}

// look is what came of asking for one aspect.
type look struct {
	result Result
	got    []setting
}

// fill writes down what came of the looks at a subject.
func (o *Description) fill(d *describer) {
	for n, l := range d.looks {
		switch {
		case l == nil:
		case l.result.Status == Error:
			o.Notes = append(o.Notes, fmt.Sprintf("%s: %s", d.all[n].name, l.result.Message))
		case l.result.Status == Fail && len(o.groups) == 0 && n == 0:
			o.Missing = l.result.Actual
			o.absent(d)
			return
		case l.result.Status == Pass:
			o.add(l.got, d.all[n].alone)
		}
	}
}

func (o *Description) add(got []setting, alone bool) {
	for _, s := range got {
		if alone || len(o.groups) == 0 {
			o.groups = append(o.groups, nil)
		}
		last := &o.groups[len(o.groups)-1]
		*last = append(*last, s)
	}
}

// absent writes that the subject is not there, where there is a word for it.
func (o *Description) absent(d *describer) {
	for _, name := range append(slices.Clone(presence), "be_listening", "be_enabled", "be_running") {
		if m, ok := d.r.matchers[name]; ok && m.presence && m.only != "windows" {
			o.add([]setting{{negate: true, name: name, value: cty.True}}, false)
			return
		}
	}
}

// again makes every setting a check, and leaves those out that do not pass.
func again(ctx context.Context, m machine.Machine, all []Description, sudo bool) error {
	s := &Spec{Name: "whether it holds", Sudo: sudo}
	for i := range all {
		o := &all[i]
		for j, g := range o.groups {
			o.groups[j] = slices.DeleteFunc(g, func(x setting) bool {
				one, err := o.compile(x)
				if err != nil {
					o.Notes = append(o.Notes, fmt.Sprintf("%s is left out: it cannot be written: %s", strings.TrimSpace(x.its+" "+x.name), Clean(err.Error())))
					return true
				}
				s.Checks = append(s.Checks, one)
				return false
			})
		}
	}
	r, err := s.Run(ctx, m, RunOptions{})
	if err != nil {
		return err
	}
	n := 0
	for i := range all {
		o := &all[i]
		for j, g := range o.groups {
			var kept []setting
			for _, x := range g {
				result := r.Results[n]
				if n++; result.Status == Pass {
					kept = append(kept, x)
					continue
				}
				o.Notes = append(o.Notes, fmt.Sprintf("%s is left out: looked at again, it is %s", result.Property, cmp.Or(result.Actual+result.Message, "something else")))
			}
			o.groups[j] = kept
		}
		o.groups = slices.DeleteFunc(o.groups, func(g []setting) bool { return len(g) == 0 })
	}
	return nil
}

// compile makes one setting a check, by way of its text: it is the text that is
// to hold.
func (o *Description) compile(x setting) (Check, error) {
	f := hclwrite.NewEmptyFile()
	f.Body().AppendBlock(block(o.Resource, o.Subject, []setting{x}))
	text := f.Bytes()
	parsed, diags := hclsyntax.ParseConfig(text, "written", hcl.InitialPos)
	if !diags.HasErrors() {
		var s *Spec
		if s, diags = Compile(parsed.Body, nil, "written"); !diags.HasErrors() {
			if len(s.Checks) == 1 && s.Checks[0].Subject == o.Subject {
				return s.Checks[0], nil
			}
			return Check{}, fmt.Errorf("%s %q was written as something else", o.Resource, o.Subject)
		}
	}
	return Check{}, fmt.Errorf("%s %q was written as what cannot be read: %w", o.Resource, o.Subject, diags)
}

// Blocks are the resource blocks that say so. They are none when nothing could
// be found out.
func (o *Description) Blocks() []*hclwrite.Block {
	var out []*hclwrite.Block
	for _, g := range o.groups {
		out = append(out, block(o.Resource, o.Subject, g))
	}
	return out
}

func block(resource, subject string, settings []setting) *hclwrite.Block {
	var labels []string
	if subject != "" {
		labels = []string{subject}
	}
	b := hclwrite.NewBlock(resource, labels)
	write := func(body *hclwrite.Body, negate bool) {
		for _, s := range settings {
			if s.negate == negate && s.its == "" {
				body.SetAttributeValue(s.name, s.value)
			}
		}
		for _, s := range settings {
			if s.negate == negate && s.its != "" {
				body.AppendNewBlock("its", []string{s.its}).Body().SetAttributeValue(s.name, s.value)
			}
		}
	}
	write(b.Body(), false)
	if slices.ContainsFunc(settings, func(s setting) bool { return s.negate }) {
		write(b.Body().AppendNewBlock("should_not", nil).Body(), true)
	}
	return b
}
