//go:build linux

package machines

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/ingotbuild/ingot/internal/sandbox"
)

// Host holds machines, disks and addresses below one directory. Its methods, and
// those of what it gives out, are safe for concurrent use.
type Host struct {
	dir  string
	ends sync.WaitGroup // machines that have ended by themselves and are being tidied up

	mu        sync.Mutex
	closed    bool
	last      int // number of the newest directory
	machines  map[*Machine]bool
	volumes   map[*Volume]bool
	listeners map[*server]bool
	addresses map[netip.Addr]net.PacketConn
}

// New makes a Host in dir, which is made if it is missing and must be empty. What
// an earlier process has left there, as files, is the caller's to remove.
func New(dir string) (*Host, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"layers", "volumes"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("make the machines' directory: %w", err)
		}
		if entries, err := os.ReadDir(filepath.Join(dir, d)); err != nil || len(entries) > 0 {
			return nil, fmt.Errorf("use %s for machines: it holds those of another process: %w", dir, errors.Join(os.ErrExist, err))
		}
	}
	sandbox.Prepare()
	return &Host{
		dir: dir, machines: map[*Machine]bool{}, volumes: map[*Volume]bool{}, listeners: map[*server]bool{}, addresses: map[netip.Addr]net.PacketConn{},
	}, nil
}

// Close stops all machines, takes all devices and listeners away, and removes
// what the Host's directory holds. It is idempotent.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	listeners, running, volumes := slices.Collect(maps.Keys(h.listeners)), slices.Collect(maps.Keys(h.machines)), slices.Collect(maps.Keys(h.volumes))
	addresses := h.addresses
	h.addresses = map[netip.Addr]net.PacketConn{}
	h.mu.Unlock()
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	stopped := make([]error, len(running))
	var wg sync.WaitGroup
	for i, m := range running {
		wg.Go(func() { stopped[i] = m.Stop(context.Background()) })
	}
	wg.Wait()
	h.ends.Wait()
	errs = append(errs, stopped...)
	for _, v := range volumes {
		errs = append(errs, v.drop())
	}
	for _, c := range addresses {
		errs = append(errs, c.Close())
	}
	for _, d := range []string{"layers", "volumes"} {
		errs = append(errs, sandbox.Remove(filepath.Join(h.dir, d)))
	}
	return errors.Join(errs...)
}

var errClosed = errors.New("the host of the machines is closed")

// newDir makes a directory below layers or volumes.
func (h *Host) newDir(kind string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return "", errClosed
	}
	h.last++
	d := filepath.Join(h.dir, kind, strconv.Itoa(h.last))
	if err := os.Mkdir(d, 0o755); err != nil {
		return "", fmt.Errorf("make a place for a disk: %w", err)
	}
	return d, nil
}

// Address returns an address of this host's loopback network that nobody else
// who asks a Host has, in this process or another, until Close. What listens on
// all addresses of this host listens there too.
func (h *Host) Address() (netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return netip.Addr{}, errClosed
	}
	var b [3]byte
	for range 100 {
		_, _ = rand.Read(b[:]) // never fails
		if b[0] == 0 || b[2] == 0 || b[2] == 255 {
			continue // near 127.0.0.1, which others use, or looks like a network
		}
		a := netip.AddrFrom4([4]byte{127, b[0], b[1], b[2]})
		// A socket marks the address as taken, and goes with the process.
		c, err := net.ListenPacket("udp4", netip.AddrPortFrom(a, 9).String())
		if err != nil {
			continue
		}
		h.addresses[a] = c
		return a, nil
	}
	return netip.Addr{}, errors.New("find a free loopback address: 100 tries met taken ones")
}
