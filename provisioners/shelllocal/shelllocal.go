// Package shelllocal runs scripts on this host while the machine exists.
package shelllocal

import (
	"context"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/shelllocal"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Provisioner is the shell-local provisioner.
type Provisioner struct{ o shelllocal.Options }

// New returns a shell-local provisioner with the default options.
func New() *Provisioner { return &Provisioner{} }

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	return p.o.Check(env.Bake())
}

// Provision implements provisioners.Provisioner. The machine is not used and may be nil.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, _ machine.Machine) error {
	return p.o.Run(ctx, &shelllocal.Job{Bake: env.Bake(), RunID: env.RunID, Events: env.Events})
}
