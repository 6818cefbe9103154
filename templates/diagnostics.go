package templates

import (
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/ingotbuild/ingot/internal/config"
)

// WriteDiagnostics writes findings for people: summary, place, snippet and
// detail, wrapped to width columns (0: not wrapped). It does not tell the values
// of the variables concerned. Snippets, and the words of functions that fail,
// can still hold some: let w hide what Template.Secrets returns.
func WriteDiagnostics(w io.Writer, files map[string]*hcl.File, diags hcl.Diagnostics, width int, color bool) error {
	out := hcl.NewDiagnosticTextWriter(w, files, uint(max(width, 0)), color)
	for _, d := range diags {
		shown := *d
		shown.Detail += suggestion(d)
		// With these the library adds what the variables of the expression are.
		shown.Expression, shown.EvalContext = nil, nil
		// A function of the library that panics says so with the whole stack.
		if before, panicked, ok := strings.Cut(shown.Detail, "panic in function implementation: "); ok {
			panicked, _, _ = strings.Cut(panicked, "\n")
			shown.Detail = before + "it has no result for these arguments (" + panicked + ")."
		}
		if err := out.WriteDiagnostic(&shown); err != nil {
			return err
		}
	}
	return nil
}

// suggestion is the name that was likely meant where var, local or the like has
// no such attribute; "" where there is none.
func suggestion(d *hcl.Diagnostic) string {
	if d.Summary != "Unsupported attribute" || d.Expression == nil {
		return ""
	}
	refers := d.Expression.Variables()
	if len(refers) != 1 {
		return ""
	}
	for ctx := d.EvalContext; ctx != nil; ctx = ctx.Parent() {
		root, ok := ctx.Variables[refers[0].RootName()]
		if !ok {
			continue
		}
		name := member(refers[0])
		if !root.Type().IsObjectType() || name == "" || root.Type().HasAttribute(name) {
			return ""
		}
		return config.DidYouMean(name, slices.Sorted(maps.Keys(root.Type().AttributeTypes())))
	}
	return ""
}

// Format returns HCL source in the canonical layout. Source that does not parse
// is laid out as far as that can be done.
func Format(src []byte) []byte { return hclwrite.Format(src) }
