package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// serve makes the tree the root of this mount namespace, and serves the machine.
func (t *Tree) serve() error {
	mounts, err := t.sources()
	if err != nil {
		return err
	}
	// pivot_root wants a mount point.
	if err := unix.Mount(t.Root, t.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make %s the machine's root: %w", t.Root, err)
	}
	host, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := os.Chdir(t.Root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the machine's root: %w", t.Root, err)
	}
	// From here on, a path that begins with / is one in the tree, wherever the
	// tree's links lead, and one that does not is the host's.
	if err := unix.Fchdir(host); err != nil {
		return err
	}
	for _, m := range mounts {
		if err := m.make(); err != nil && !m.Optional {
			return fmt.Errorf("mount %s (%s) at %s in the machine: %w", m.Source, m.Type, m.Target, err)
		}
	}
	unix.Close(host)
	if err := os.Chdir("/"); err != nil { // the host's root is mounted over it
		return err
	}
	if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := reply(fdControl, hello{Family: osFamily()}, -1); err != nil {
		return err
	}
	unix.Close(fdExe)
	serveAgent(true)
	return nil
}

// sources are the mounts with the host's paths resolved, and relative to its root.
func (t *Tree) sources() ([]Mount, error) {
	var out []Mount
	for _, m := range t.Mounts {
		if filepath.IsAbs(m.Source) {
			p, err := filepath.EvalSymlinks(m.Source)
			if err != nil && !m.Optional {
				return nil, fmt.Errorf("mount %s in the machine: %w", m.Source, err)
			}
			if err != nil {
				continue
			}
			m.Source = "." + p
		}
		out = append(out, m)
	}
	return out, nil
}

func (m Mount) make() error {
	target := filepath.Join("/", m.Target)
	if fi, err := os.Stat(m.Source); m.isBind() && err == nil && !fi.IsDir() {
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	} else if err := os.MkdirAll(target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	switch m.Type {
	case "bind":
		return unix.Mount(m.Source, target, "", unix.MS_BIND, "")
	case "rbind":
		return unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	return unix.Mount(m.Source, target, m.Type, 0, m.Data)
}

func (m Mount) isBind() bool { return m.Type == "bind" || m.Type == "rbind" }
