// Package sandbox runs a rollout's machines in sandboxes on this host.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/builders"
	boxbuilder "github.com/ingotbuild/ingot/builders/sandbox"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/imagefs"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/rollouts"
)

// Launcher implements rollouts.Launcher.
type Launcher struct {
	stateDir string
	store    registry.Store
	events   event.Scope
	images   *imagefs.Store
	hold     *instance // no machine: what the ledger has for images
}

// Open makes a launcher that keeps its machines below stateDir, their leases in
// store, and from a clean-up the images that it runs, until Close.
func Open(ctx context.Context, stateDir string, store registry.Store, events event.Scope) (_ *Launcher, err error) {
	l := &Launcher{stateDir: stateDir, store: store, events: events}
	if l.hold, err = l.newInstance(ctx, "images of "+events.Bake, ""); err != nil {
		return nil, err
	}
	if err := boxbuilder.LeaseStore(ctx, l.hold.leases, l.hold.id); err != nil {
		return nil, err
	}
	l.images, err = imagefs.Open(boxbuilder.StoreDir(stateDir), events)
	return l, err
}

// Close lets go of the images. Machines must have been stopped.
func (l *Launcher) Close() error {
	if err := l.images.Close(); err != nil {
		return err
	}
	return l.hold.release(context.Background())
}

// newInstance enters a machine in the ledger.
func (l *Launcher) newInstance(ctx context.Context, name, image string) (*instance, error) {
	owner, err := proc.Self()
	if err != nil {
		return nil, err
	}
	id := newID()
	if err := l.store.BeginBake(ctx, registry.Bake{ID: id, Name: name, Image: image, Owner: owner}); err != nil {
		return nil, fmt.Errorf("note the machine in the ledger: %w", err)
	}
	return &instance{id: id, launcher: l, done: make(chan struct{}), leases: &leases{store: l.store, id: id}}, nil
}

// Launch implements rollouts.Launcher.
func (l *Launcher) Launch(ctx context.Context, spec rollouts.InstanceSpec) (_ rollouts.Instance, err error) {
	img, err := l.images.Image(spec.Digest)
	if err != nil {
		return nil, err
	}
	argv := append(slices.Clone(img.Config.Config.Entrypoint), img.Config.Config.Cmd...)
	if len(argv) == 0 {
		return nil, fmt.Errorf("the image of %s says neither entrypoint nor cmd, so there is nothing to run: set cmd in its source block", spec.Version)
	}
	layers, err := l.images.LayerDirs(ctx, spec.Digest)
	if err != nil {
		return nil, err
	}
	if img.OnHost() {
		layers = append(layers, sandbox.HostBase)
	}
	name := "rollout " + spec.Service + " " + spec.Name
	if err := l.removeDead(ctx, name); err != nil {
		return nil, fmt.Errorf("remove what is left of %s from before: %w", spec.Name, err)
	}
	in, err := l.newInstance(ctx, name, spec.Image)
	if err != nil {
		return nil, err
	}
	in.port = spec.Port
	defer func() {
		if err != nil {
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, in.release(cctx))
		}
	}()
	in.m, err = boxbuilder.StartMachine(ctx, l.stateDir, in.leases, sandbox.Config{
		ID: in.id, Layers: layers, Hide: []string{l.stateDir}, Hostname: hostname(spec.Name), Network: sandbox.NetworkUser,
	})
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, kv := range img.Config.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	run, cancel := context.WithCancel(context.Background())
	in.cancel = cancel
	out := l.events.Lines("stdout")
	go func() {
		err := in.m.Exec(run, sandbox.Program{Argv: argv, Dir: img.Config.Config.WorkingDir, User: img.Config.Config.User},
			machine.Command{Env: env, Stdout: out, Stderr: out})
		out.Flush()
		in.end(err)
	}()
	return in, nil
}

// removeDead gives back what machines of that name have left whose supervisor has died.
func (l *Launcher) removeDead(ctx context.Context, name string) error {
	bakes, err := l.store.OpenBakes(ctx)
	if err != nil {
		return err
	}
	dead := map[string]*instance{}
	for _, b := range bakes {
		if alive, known := proc.Alive(b.Owner); b.Name == name && known && !alive {
			dead[b.ID] = &instance{id: b.ID, launcher: l, leases: &leases{store: l.store, id: b.ID}}
		}
	}
	if len(dead) == 0 {
		return nil
	}
	open, err := l.store.OpenLeases(ctx)
	if err != nil {
		return err
	}
	for _, lease := range open {
		if in := dead[lease.BakeID]; in != nil {
			in.leases.open = append(in.leases.open, lease.Lease)
		}
	}
	for _, in := range dead {
		if err := in.release(ctx); err != nil {
			return err
		}
	}
	return nil
}

func newID() string {
	b := make([]byte, 10)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// hostname makes a host name of an instance's name.
func hostname(name string) string {
	h := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	return strings.Trim(h[:min(len(h), 63)], "-")
}

type instance struct {
	id       string
	launcher *Launcher
	m        *sandbox.Machine
	port     int
	leases   *leases
	cancel   context.CancelFunc

	mu       sync.Mutex
	done     chan struct{}
	ended    bool
	stopping bool
	err      error
}

func (in *instance) ID() string            { return in.id }
func (in *instance) Done() <-chan struct{} { return in.done }

// Dial connects from inside the machine, so that the service needs no port on this host.
func (in *instance) Dial(ctx context.Context) (net.Conn, error) {
	return in.m.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(in.port)))
}

func (in *instance) Err() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err
}

func (in *instance) end(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended {
		return
	}
	in.ended = true
	if !in.stopping {
		in.err = errors.New("the service ended by itself")
		if err != nil {
			in.err = fmt.Errorf("the service ended by itself: %w", err)
		}
	}
	close(in.done)
}

// Stop implements rollouts.Instance.
func (in *instance) Stop(ctx context.Context) error {
	in.mu.Lock()
	in.stopping = true
	in.mu.Unlock()
	if err := in.m.Stop(ctx); err != nil {
		return err
	}
	in.cancel()
	<-in.done
	return in.release(ctx)
}

// release gives back what the machine had on this host.
func (in *instance) release(ctx context.Context) error {
	b := boxbuilder.New(boxbuilder.Env{StateDir: in.launcher.stateDir})
	var errs []error
	for _, lease := range slices.Backward(in.leases.Open()) {
		if err := b.Release(ctx, lease); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, in.leases.Released(ctx, lease))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := in.launcher.store.EndBake(ctx, in.id, "success"); err != nil && !errors.Is(err, registry.ErrConflict) {
		return err
	}
	return nil
}

// leases is the ledger for one machine of a fleet.
type leases struct {
	store registry.Store
	id    string
	mu    sync.Mutex
	open  []builders.Lease
}

func (l *leases) Intend(ctx context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	lease, err := l.store.Intend(ctx, builders.Lease{BakeID: l.id, Builder: "sandbox", Kind: kind, Name: name, Data: data})
	if err != nil {
		return lease, fmt.Errorf("write the lease of %s %s into the ledger: %w", kind, name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, lease)
	return lease, nil
}

func (l *leases) Created(ctx context.Context, lease builders.Lease, id string) error {
	return l.store.Created(ctx, lease.ID, id)
}

func (l *leases) Released(ctx context.Context, lease builders.Lease) error {
	if err := l.store.Released(ctx, lease.ID); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = slices.DeleteFunc(l.open, func(x builders.Lease) bool { return x.ID == lease.ID })
	return nil
}

func (l *leases) Open() []builders.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.open)
}
