package templates

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// order sorts things so that each stands after those it needs, and otherwise
// as they came. If they need one another in a circle it returns that circle, as
// a path that ends where it began.
func order[T comparable](all []T, needs func(T) []T) (sorted, cycle []T) {
	const under, done = 1, 2
	state := map[T]int{}
	var path []T
	var visit func(T) bool
	visit = func(x T) bool {
		switch state[x] {
		case done:
			return true
		case under:
			cycle = append(slices.Clone(path[slices.Index(path, x):]), x)
			return false
		}
		state[x] = under
		path = append(path, x)
		for _, y := range needs(x) {
			if !visit(y) {
				return false
			}
		}
		path = path[:len(path)-1]
		state[x] = done
		sorted = append(sorted, x)
		return true
	}
	for _, x := range all {
		if !visit(x) {
			return nil, cycle
		}
	}
	return sorted, nil
}

// arrows writes a path.
func arrows[T any](path []T, name func(T) string) string {
	var names []string
	for _, x := range path {
		names = append(names, name(x))
	}
	return strings.Join(names, " -> ")
}

// references lists what a body as it was written refers to, in its blocks too.
func references(body hcl.Body) []hcl.Traversal {
	var found []hcl.Traversal
	if b, ok := body.(*hclsyntax.Body); ok {
		// The callback has nothing to report.
		_ = hclsyntax.VisitAll(b, func(n hclsyntax.Node) hcl.Diagnostics {
			if e, ok := n.(*hclsyntax.ScopeTraversalExpr); ok {
				found = append(found, e.Traversal)
			}
			return nil
		})
		return found
	}
	// In JSON everything is an attribute, and errors are reported by who decodes.
	attrs, _ := body.JustAttributes()
	for _, a := range inOrder(attrs) {
		found = append(found, a.Expr.Variables()...)
	}
	return found
}

// key returns what step i of a traversal names, or "".
func key(t hcl.Traversal, i int) string {
	if i >= len(t) {
		return ""
	}
	return member(hcl.Traversal{t[0], t[i]})
}
