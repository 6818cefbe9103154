//go:build linux

package machines

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
)

// Config describes a machine as a cloud would make it.
type Config struct {
	// ID is the instance's id: user data is applied once for each.
	ID string
	// Hostname inside; default ID.
	Hostname string
	// Root is the disk that the machine boots from.
	Root *Volume
	// Disks are further disks by their device in the machine (/dev/xvdf), where
	// root may read and write them as block devices. Nothing in the machine
	// may mount them or change what its kernel knows of their partitions.
	Disks map[string]*Volume
	// UserData is as the cloud delivers it to the instance, decoded.
	UserData []byte
	// Keys are authorized_keys lines that the cloud itself puts in.
	Keys []string
	// User is the image's default user; default root. Another one is made, with
	// sudo without a password, where the image has none of that name.
	User string
	// NoSSH boots an image without an SSH server: only Run and Dial reach it.
	NoSSH bool
	// Poweroff, unless nil, is called each time that the machine has ended by
	// itself, after its disks are free again. It must not close the Host.
	Poweroff func()
}

// Machine is one instance. It keeps its disks while it is stopped, but others may
// have them then.
type Machine struct {
	h   *Host
	cfg Config

	change sync.Mutex // held while the machine starts or stops
	mu     sync.Mutex // guards what follows
	now    *run       // nil while it is stopped
	out    bytes.Buffer
}

// run is the time between a start and a stop.
type run struct {
	box    *sandbox.Machine
	ctx    context.Context // ends with it
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ended  sync.Once
	taken  []*Volume
	// ready closes when user data has been applied; err says what went wrong then.
	ready chan struct{}
	err   error
}

// Boot starts a machine and returns when its SSH server answers. Scripts and
// commands of the user data that cloud-init runs last, run on then: see Ready.
func (h *Host) Boot(ctx context.Context, cfg Config) (*Machine, error) {
	cfg.Hostname = cmp.Or(cfg.Hostname, cfg.ID)
	cfg.User = cmp.Or(cfg.User, "root")
	if cfg.ID == "" || cfg.Root == nil {
		return nil, errors.New("boot a machine: it needs an id and a disk")
	}
	m := &Machine{h: h, cfg: cfg}
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Start boots a stopped machine again. See Boot.
func (m *Machine) Start(ctx context.Context) (err error) {
	m.change.Lock()
	defer m.change.Unlock()
	return m.start(ctx)
}

func (m *Machine) start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("boot machine %s: %w", m.cfg.ID, err)
		}
	}()
	if m.running() != nil {
		return errors.New("it runs already")
	}
	m.h.mu.Lock()
	if m.h.closed {
		m.h.mu.Unlock()
		return errClosed
	}
	m.h.machines[m] = true
	m.h.mu.Unlock()
	r := &run{ready: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, m.end(context.Background(), r))
		}
	}()
	devices, err := m.takeDisks(ctx, r)
	if err != nil {
		return err
	}
	if r.box, err = m.startBox(ctx, devices); err != nil {
		return err
	}
	m.mu.Lock()
	m.now = r
	m.mu.Unlock()
	r.wg.Go(func() {
		<-r.box.Done()
		m.endedItself(r, false)
	})
	return m.bringUp(ctx, r)
}

// takeDisks makes the machine the one who has its disks, and the further ones devices.
func (m *Machine) takeDisks(ctx context.Context, r *run) (devices map[string]string, err error) {
	devices = map[string]string{}
	take := func(v *Volume, open bool) error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if err := v.take("machine " + m.cfg.ID); err != nil {
			return err
		}
		r.taken = append(r.taken, v)
		if open {
			return v.open(ctx)
		}
		return nil
	}
	if err := take(m.cfg.Root, false); err != nil {
		return nil, fmt.Errorf("its root disk: %w", err)
	}
	for name, v := range m.cfg.Disks {
		dev, ok := strings.CutPrefix(name, "/dev/")
		if !ok || dev == "" || strings.Contains(dev, "/") {
			return nil, fmt.Errorf("its disk %q: want a name such as /dev/xvdf", name)
		}
		if err := take(v, true); err != nil {
			return nil, fmt.Errorf("its disk %s: %w", name, err)
		}
		devices[dev] = v.loop.Name()
	}
	return devices, nil
}

// startBox starts the sandbox machine on the root disk.
func (m *Machine) startBox(ctx context.Context, devices map[string]string) (*sandbox.Machine, error) {
	v := m.cfg.Root
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.raw {
		if err := v.freeze(); err != nil {
			return nil, err
		}
	}
	dirs, img, err := v.lower.dirs()
	if err != nil {
		return nil, err
	}
	shims, err := writeShims(v.dir, v.lower)
	if err != nil {
		return nil, err
	}
	// An overlay that has been mounted once as volatile is not mounted again,
	// because a crash might have come between: it has not, this boot still lasts.
	if err := sandbox.Remove(filepath.Join(v.dir, "work")); err != nil {
		return nil, err
	}
	box, err := sandbox.Start(ctx, sandbox.Config{
		ID: m.cfg.ID, Dir: v.dir, Layers: append([]string{shims}, dirs...), Image: img, Hide: []string{m.h.dir},
		Hostname: m.cfg.Hostname, Network: sandbox.NetworkUser, Devices: devices,
	})
	if err != nil {
		return nil, err
	}
	for _, p := range box.MountPoints() {
		if !slices.Contains(v.made, p) {
			v.made = append(v.made, p)
		}
	}
	v.running = m
	return box, nil
}

// Stop ends the machine as a power button does. It is idempotent.
func (m *Machine) Stop(ctx context.Context) error {
	m.change.Lock()
	defer m.change.Unlock()
	r := m.running()
	if r == nil {
		return nil
	}
	if err := m.end(ctx, r); err != nil {
		return fmt.Errorf("stop machine %s: %w", m.cfg.ID, err)
	}
	return nil
}

// end stops what there is of a run and frees the disks. The caller holds change.
func (m *Machine) end(ctx context.Context, r *run) error {
	r.ended.Do(func() {}) // not by itself
	r.cancel()
	var errs []error
	if r.box != nil {
		errs = append(errs, r.box.Stop(ctx))
	}
	m.mu.Lock()
	m.now = nil
	m.mu.Unlock()
	r.wg.Wait()
	for _, v := range r.taken {
		v.mu.Lock()
		v.running, v.user = nil, ""
		errs = append(errs, v.shut())
		v.mu.Unlock()
	}
	m.h.mu.Lock()
	delete(m.h.machines, m)
	m.h.mu.Unlock()
	return errors.Join(errs...)
}

// endedItself tidies up after a machine that has switched itself off, or starts it again.
func (m *Machine) endedItself(r *run, again bool) {
	r.ended.Do(func() {
		m.h.ends.Add(1)
		go func() { // the run waits for its own goroutines
			defer m.h.ends.Done()
			m.change.Lock()
			if m.running() != r {
				m.change.Unlock()
				return // stopped meanwhile
			}
			err := m.end(context.Background(), r)
			if again && err == nil {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				err = m.start(ctx)
				cancel()
			}
			m.change.Unlock()
			if err != nil {
				m.printf("machine %s ended: %v\n", m.cfg.ID, err)
			}
			if (!again || err != nil) && m.cfg.Poweroff != nil {
				m.cfg.Poweroff()
			}
		}()
	})
}

func (m *Machine) running() *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

var errStopped = errors.New("the machine is stopped")

// Running says whether the machine is up.
func (m *Machine) Running() bool { return m.running() != nil }

// Ready returns when the machine has applied its user data, and what went wrong then.
func (m *Machine) Ready(ctx context.Context) error {
	r := m.running()
	if r == nil {
		return errStopped
	}
	select {
	case <-r.ready:
		return r.err
	case <-r.ctx.Done():
		return errStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Run runs a command in the machine as root, past its SSH server.
func (m *Machine) Run(ctx context.Context, c machine.Command) error {
	r := m.running()
	if r == nil {
		return errStopped
	}
	return r.box.Run(ctx, c)
}

// Dial connects to a port of the machine.
func (m *Machine) Dial(ctx context.Context, port int) (net.Conn, error) {
	r := m.running()
	if r == nil {
		return nil, errStopped
	}
	return r.box.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// Console is what the machine has printed since it was made, its latest 64 KiB.
func (m *Machine) Console() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.out.Bytes()
	return bytes.Clone(b[max(0, len(b)-consoleSize):])
}

const consoleSize = 64 << 10

// Write is the machine's console.
func (m *Machine) write(p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out.Write(p)
	if m.out.Len() > 4*consoleSize {
		m.out.Next(m.out.Len() - consoleSize)
	}
}

func (m *Machine) printf(format string, args ...any) { m.write(fmt.Appendf(nil, format, args...)) }

type console struct{ m *Machine }

func (c console) Write(p []byte) (int, error) {
	c.m.write(p)
	return len(p), nil
}

// pause halts all programs of the machine; what it returns lets them go on.
func (m *Machine) pause() (resume func() error, err error) {
	r := m.running()
	if r == nil {
		return nil, errStopped
	}
	send := func(signal string) error {
		return r.box.Run(r.ctx, machine.Command{Line: "kill -" + signal + " -1"})
	}
	// Where there is no other process, kill says that it found none.
	_ = send("STOP")
	return func() error {
		_ = send("CONT")
		return r.ctx.Err()
	}, nil
}
