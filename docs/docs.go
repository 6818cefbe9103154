// Package docs holds the reference pages, for `ingot docs`.
package docs

import "embed"

// Reference is the directory reference, with one page for each builder and one
// for all of each other kind.
//
//go:embed reference/*.md
var Reference embed.FS
