// Package sleep waits.
package sleep

import (
	"context"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "sleep"` block.
type Options struct {
	// Duration is how long to wait. Zero is no wait.
	Duration time.Duration `cfg:"duration"`
}

// Provisioner is the sleep provisioner.
type Provisioner struct{ o Options }

// New returns a sleep provisioner.
func New() *Provisioner { return &Provisioner{} }

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(context.Context, *provisioners.Env) []config.Problem {
	switch {
	case p.o.Duration < 0:
		return []config.Problem{{Option: "duration", Summary: "duration is negative."}}
	case p.o.Duration == 0:
		return []config.Problem{{Option: "duration", Summary: "duration is not set, so nothing is waited for.", Warning: true}}
	}
	return nil
}

// Provision implements provisioners.Provisioner. The machine is not used and may be nil.
func (p *Provisioner) Provision(ctx context.Context, _ *provisioners.Env, _ machine.Machine) error {
	return script.Pause(ctx, p.o.Duration)
}
