// Package config turns HCL bodies into Go structs. A component's options are
// one struct; from its tags and doc comments come the decoding, the
// validation, the "did you mean" and the reference page.
package config

// Problem is something wrong with a component's options, found by the
// component itself before anything is created. The caller turns it into a
// diagnostic that points at the attribute's place in the template.
type Problem struct {
	// Option is the option's name as the template writes it; empty for the
	// whole block. "output.0.path" points into nested blocks.
	Option string
	// Summary is one sentence: what is wrong. Detail says why and what to do.
	Summary string
	Detail  string
	// Warning marks a problem that does not stop the bake.
	Warning bool
}
