package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/imagefs"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
)

// proofSuffix stands behind a bake's id in the name of its second machine.
const proofSuffix = "-proof"

// proof is a machine made from the finished image.
type proof struct {
	dir     string
	images  *imagefs.Store // holds the image's layers
	machine *sandbox.Machine
	end     context.CancelFunc
	ended   chan struct{} // closed when the image's program has ended; nil: it has none
}

// BootProof implements builders.Proofer. The machine starts the image's own init
// where the template names one, otherwise, as a rollout does, its entrypoint
// and cmd.
func (b *Builder) BootProof(ctx context.Context, run *builders.Run, a *builders.Artifact) (_ machine.Machine, err error) {
	id := run.BakeID + proofSuffix
	p := &proof{dir: filepath.Join(b.env.StateDir, "machines", id)}
	if p.images, err = imagefs.Open(StoreDir(b.env.StateDir), run.Events); err != nil {
		return nil, err
	}
	// From here on releaseProof closes the store; without a lease nobody calls it.
	b.proof = p
	defer func() {
		if p.machine == nil {
			err = errors.Join(err, p.images.Close())
		}
	}()
	img, err := p.images.Image(a.ID)
	if err != nil {
		return nil, err
	}
	layers, err := p.images.LayerDirs(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	if img.OnHost() {
		layers = append(layers, sandbox.HostBase)
	}
	m, err := StartMachine(ctx, b.env.StateDir, run.Leases, sandbox.Config{
		ID: id, Layers: layers, Hide: []string{b.env.StateDir}, Hostname: b.opts.Hostname, Network: sandbox.Network(b.opts.Network),
		Memory: int64(b.opts.Memory), CPUs: b.opts.CPUs, PIDs: b.opts.PIDs, TmpSize: int64(b.opts.TmpSize), Init: b.opts.Init,
	})
	if err != nil {
		return nil, err
	}
	p.machine = m
	c := img.Config.Config
	if argv := append(slices.Clone(c.Entrypoint), c.Cmd...); b.opts.Init == "" && len(argv) > 0 {
		p.start(run, sandbox.Program{Argv: argv, Dir: c.WorkingDir, User: c.User}, c.Env)
	}
	return m, nil
}

// start runs the image's program until the machine is given back.
func (p *proof) start(run *builders.Run, program sandbox.Program, environ []string) {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.end, p.ended = cancel, make(chan struct{})
	events := run.Events
	out := events.Lines("stdout")
	go func() {
		defer close(p.ended)
		err := p.machine.Exec(ctx, program, machine.Command{Env: env, Stdout: out, Stderr: out})
		out.Flush()
		switch {
		case ctx.Err() != nil: // the machine is being stopped
		case err != nil:
			events.Warn(fmt.Sprintf("the image's program %s ended: %v", program.Argv[0], err))
		default:
			events.Say(fmt.Sprintf("the image's program %s has ended well", program.Argv[0]))
		}
	}()
}

func (b *Builder) releaseProof(ctx context.Context) error {
	p := b.proof
	if p.end != nil {
		p.end() // what ends from here on is no news
	}
	if p.machine != nil {
		if err := p.machine.Stop(ctx); err != nil {
			return err
		}
	}
	if p.ended != nil {
		<-p.ended
	}
	return errors.Join(sandbox.Remove(p.dir), p.images.Close())
}
