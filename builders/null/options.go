package null

import "github.com/ingotbuild/ingot/machine/communicator"

// Options are what a source "null" block can say: how a machine that is there
// already is reached, or, with communicator = "none", that there is none.
type Options struct {
	communicator.Options
}
