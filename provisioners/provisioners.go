// Package provisioners is what changes a running machine. One package per
// provisioner stands below.
package provisioners

import (
	"context"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
)

// Provisioner runs one provisioner block. One value serves one block of one bake.
type Provisioner interface {
	// Options is a pointer to the struct that the block is decoded into.
	Options() any
	// Check reports everything wrong that can be known without a machine:
	// missing scripts, conflicting options.
	Check(ctx context.Context, env *Env) []config.Problem
	// Provision changes the machine. A provisioner that only works locally
	// accepts a nil machine.
	Provision(ctx context.Context, env *Env, m machine.Machine) error
}

// Idempotent is a provisioner that can tell whether a run changed anything.
type Idempotent interface {
	Provisioner
	// Changes says how many things the last Provision has changed. known is
	// false when it cannot be said, for the tool said nothing that could be read.
	Changes() (n int, known bool)
}

// Proven is a provisioner whose work can be proven. The engine runs its proof as
// a spec right after it; red means no image.
type Proven interface {
	Provisioner
	// Proof is the body of a spec about what the last Provision did, or empty
	// when there is nothing to prove. It refers to no variables.
	Proof() []byte
}

// Env is what a provisioner may know about its bake.
type Env struct {
	BakeID string
	// BuildName is the source's definition name, as PACKER_BUILD_NAME has it;
	// BuilderType is the source's type.
	BuildName, BuilderType string
	// RunID is unique to this run of Ingot (PACKER_RUN_UUID).
	RunID string
	// Dir is the working directory that relative paths start from.
	Dir string
	// Values are the generated values that Go templates such as {{ .Host }} may name.
	Values map[string]string
	Debug  bool
	// Validate is true under `ingot validate`: Check does not ask what only the
	// machine that bakes can know, such as which programs it has.
	Validate bool
	// Template is what {{timestamp}} and the like say in strings that the
	// component renders itself.
	Template render.Env
	Events   event.Scope
}

// Bake is what the environment tells scripts and their options.
func (e *Env) Bake() script.Bake {
	return script.Bake{BuildName: e.BuildName, BuilderType: e.BuilderType, Dir: e.Dir, Values: e.Values, Template: e.Template}
}
