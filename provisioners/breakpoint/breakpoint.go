// Package breakpoint halts a bake until someone presses Enter, to look at the
// machine.
package breakpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "breakpoint"` block.
type Options struct {
	// Note is shown at the breakpoint.
	Note string `cfg:"note"`
	// Disable goes on without a halt.
	Disable bool `cfg:"disable"`
}

// Provisioner is the breakpoint provisioner.
type Provisioner struct {
	o        Options
	terminal func() (io.ReadCloser, error)
}

// New returns a breakpoint provisioner that reads from the controlling terminal.
func New() *Provisioner {
	return &Provisioner{terminal: func() (io.ReadCloser, error) {
		if runtime.GOOS == "windows" {
			return os.Open("CONIN$")
		}
		return os.Open("/dev/tty")
	}}
}

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner. Nothing can be wrong.
func (p *Provisioner) Check(context.Context, *provisioners.Env) []config.Problem { return nil }

// Provision implements provisioners.Provisioner. The machine is not used and
// may be nil. Without a terminal it fails.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, _ machine.Machine) error {
	note := ""
	if p.o.Note != "" {
		note = fmt.Sprintf(" with note %q", p.o.Note)
	}
	if p.o.Disable {
		env.Events.Say("Breakpoint" + note + " is disabled; going on")
		return nil
	}
	tty, err := p.terminal()
	if err != nil {
		return fmt.Errorf("a breakpoint needs a terminal to wait at: %w; set disable = true to go on without", err)
	}
	defer tty.Close()
	env.Events.Say("Halting at breakpoint" + note + ". Press Enter to go on.")
	pressed := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(tty).ReadString('\n')
		pressed <- err
	}()
	select {
	case err := <-pressed:
		if errors.Is(err, io.EOF) {
			return errors.New("the terminal was closed at a breakpoint")
		}
		return err
	case <-ctx.Done():
		return ctx.Err() // the deferred Close ends the read
	}
}
