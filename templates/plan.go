package templates

import (
	"slices"
	"time"

	"github.com/gobwas/glob"
	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
)

// Selection chooses among a template's bakes by globs on their full names, in
// which "*" crosses dots; among those of a legacy template by the names themselves.
type Selection struct {
	// Only keeps the bakes that one of the globs matches; empty keeps all.
	Only []string
	// Except leaves out the bakes that one of the globs matches. It also cuts
	// each chain of post-processors before the first whose name, or type when
	// it has no name, one of the globs matches.
	Except []string
}

// Plan is what is to be baked.
type Plan struct {
	// Bakes stand in the order of the template.
	Bakes []*Bake
}

// Bake is one source of one build block.
type Bake struct {
	// Name is the full name, [build.]type.local.
	Name string
	// BuildName is the name of the build block, or empty.
	BuildName string
	// Type and Source are the labels of the source's definition. Local is the
	// name the build gives it, by default Source.
	Type, Source, Local string
	// Image is the image line the artifact is recorded under: the build's image
	// attribute, else its name, else Source.
	Image string
	// Component holds the options of the source, with those the build adds.
	Component *Component
	// Steps are the provisioners and specs in the order of the template.
	Steps []*Step
	// Proofs are the specs that are checked on a machine booted from the finished
	// image (after = snapshot), in the order of the template.
	Proofs []*Step
	// Facts has the machine's facts gathered and recorded with the version.
	Facts bool
	// ErrorCleanup is the provisioner to run when the bake fails, or nil.
	ErrorCleanup *Step
	// PostProcess are chains of post-processors; each chain starts from the
	// bake's artifact.
	PostProcess [][]*Step
	// Needs are the bakes that must have ended well before this one begins.
	Needs []*Bake
	// Range is the use of the source in the build.
	Range hcl.Range
}

func (b *Bake) addChain(chain []*Step) {
	if len(chain) > 0 {
		b.PostProcess = append(b.PostProcess, chain)
	}
}

// StepKind tells what a step is.
type StepKind string

// The kinds of steps.
const (
	Provisioner   StepKind = "provisioner"
	Spec          StepKind = "spec"
	PostProcessor StepKind = "post-processor"
)

// Step is one thing to do in a bake.
type Step struct {
	Kind StepKind
	// Name is the block's name attribute, for a spec its label; may be empty.
	Name      string
	Component *Component
	// PauseBefore is waited before each try. Timeout bounds each try, the pause
	// not counted; 0 is no bound.
	PauseBefore, Timeout time.Duration
	// MaxRetries is how often a failed step is tried again.
	MaxRetries int
	// ContinueOnError lets the bake go on when the step has failed.
	ContinueOnError bool
	// Idempotent has a provisioner run a second time, which must change nothing.
	Idempotent bool
	// After is where the template says after = snapshot; nil: it does not.
	After *hcl.Range
	// KeepInput is a post-processor's keep_input_artifact; nil leaves it to the
	// post-processor.
	KeepInput *bool
}

// Plan selects the bakes to run. That a glob matches nothing is a warning, that
// nothing is left to run is an error.
func (t *Template) Plan(s Selection) (*Plan, hcl.Diagnostics) {
	if len(t.bakes) == 0 {
		return nil, hcl.Diagnostics{failure(nil, "Missing build block", "The template has no build block with a source, so there is nothing to bake.")}
	}
	only, diags := compile("-only", s.Only, t.Legacy)
	except, more := compile("-except", s.Except, t.Legacy)
	diags = append(diags, more...)
	if diags.HasErrors() {
		return nil, diags
	}
	chosen, left := map[*Bake]bool{}, map[*Bake]bool{}
	for _, b := range t.bakes {
		left[b] = matches(except, b.Name)
		chosen[b] = (matches(only, b.Name) || len(only) == 0) && !left[b]
	}
	diags = append(diags, t.addNeeded(chosen, left)...)
	plan := &Plan{}
	copies := map[*Bake]*Bake{}
	for _, b := range t.bakes {
		if !chosen[b] {
			continue
		}
		bake := *b
		bake.PostProcess = nil
		for _, chain := range b.PostProcess {
			bake.addChain(cut(chain, except))
		}
		copies[b] = &bake
		plan.Bakes = append(plan.Bakes, &bake)
	}
	for _, b := range plan.Bakes {
		needs := b.Needs
		b.Needs = nil
		for _, n := range needs {
			b.Needs = append(b.Needs, copies[n])
		}
	}
	if diags.HasErrors() {
		return nil, diags
	}
	var names []string
	for _, b := range t.bakes {
		names = append(names, b.Name)
	}
	for _, p := range append(only, except...) {
		if !p.used {
			diags = append(diags, warning(nil, "Pattern matches nothing", "%s %q matches no bake. Bakes are named [build.]type.name.%s", p.flag, p.text, config.DidYouMean(p.text, names)))
		}
	}
	if len(plan.Bakes) == 0 {
		diags = append(diags, failure(nil, "No builds to run", "-only and -except leave none of the template's %d bakes.", len(t.bakes)))
		return nil, diags
	}
	return plan, diags
}

// addNeeded chooses what the chosen bakes need, and says so. What -except
// leaves out cannot be needed.
func (t *Template) addNeeded(chosen, left map[*Bake]bool) (diags hcl.Diagnostics) {
	var visit func(b *Bake)
	visit = func(b *Bake) {
		for _, n := range b.Needs {
			switch {
			case chosen[n]:
			case left[n]:
				diags = append(diags, failure(&b.Range, "Needed bake left out", "%q needs %q, which -except leaves out. Leave out both, or none.", b.Name, n.Name))
			default:
				chosen[n] = true
				diags = append(diags, warning(&b.Range, "Bake added", "%q needs %q, so that one is baked too, although -only does not choose it.", b.Name, n.Name))
				visit(n)
			}
		}
	}
	for _, b := range t.bakes {
		if chosen[b] {
			visit(b)
		}
	}
	return diags
}

func cut(chain []*Step, except []*pattern) []*Step {
	i := slices.IndexFunc(chain, func(s *Step) bool {
		if s.Name != "" {
			return matches(except, s.Name)
		}
		return matches(except, s.Component.Labels[0])
	})
	if i < 0 {
		return chain
	}
	return chain[:i]
}

type pattern struct {
	flag, text string
	glob       *glob.Pattern
	used       bool
}

// compile makes patterns of globs, or of names that are to match exactly.
func compile(flag string, texts []string, exact bool) (patterns []*pattern, diags hcl.Diagnostics) {
	for _, text := range texts {
		source := text
		if exact {
			source = glob.QuoteMeta(text)
		}
		g, err := glob.Compile(source)
		if err != nil {
			diags = append(diags, failure(nil, "Invalid pattern", "%s %q is no glob: %s.", flag, text, err))
			continue
		}
		patterns = append(patterns, &pattern{flag: flag, text: text, glob: g})
	}
	return patterns, diags
}

// matches asks all patterns, so that each learns whether it is of use.
func matches(patterns []*pattern, name string) bool {
	found := false
	for _, p := range patterns {
		if p.glob.Match(name) {
			p.used, found = true, true
		}
	}
	return found
}
