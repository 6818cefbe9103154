// Package chroot is a directory of this host as a machine: the tree of a system
// that does not run, such as the mounted volume of an image in the making.
package chroot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
)

// Mount is a file system that the commands of a machine see, and nobody else.
type Mount = sandbox.Mount

// Config says what the machine is.
type Config struct {
	// Root is the directory that is the machine's root.
	Root string
	// Mounts are made in the machine, in this order.
	Mounts []Mount
	// Wrap, unless nil, makes of a command line one that runs it as root, such as
	// "sudo …", for a caller who is not.
	Wrap func(line string) (string, error)
}

// Machine runs commands with the directory as their root, as root with all rights.
// They have process, mount, host name and IPC namespaces of their own, and the
// host's network. No path of theirs, and none of Put and Get, leads out of the
// directory by a link; but who is root with all rights can harm the host, through
// its devices where they are mounted.
//
// What was started in it, and what was mounted there, ends with Stop, or with
// this process, however that ends: nothing then keeps the directory busy.
type Machine struct{ *sandbox.Machine }

var (
	_ machine.Machine   = Machine{}
	_ machine.Dialer    = Machine{}
	_ machine.Addressed = Machine{}
)

// Open makes the machine. It needs root, or Wrap, and a program whose main calls sandbox.Reexec.
func Open(ctx context.Context, c Config) (Machine, error) {
	root, err := filepath.EvalSymlinks(c.Root)
	if err != nil {
		return Machine{}, fmt.Errorf("open the tree %s: %w", c.Root, err)
	}
	if root, err = filepath.Abs(root); err != nil {
		return Machine{}, err
	}
	if root == "/" {
		return Machine{}, errors.New("the host's own root cannot be the root of a machine")
	}
	if fi, err := os.Stat(root); err != nil || !fi.IsDir() {
		return Machine{}, fmt.Errorf("open the tree %s: it is no directory", c.Root)
	}
	m, err := sandbox.Start(ctx, sandbox.Config{ID: "chroot", Tree: &sandbox.Tree{Root: root, Mounts: c.Mounts, Wrap: c.Wrap}})
	if err != nil {
		return Machine{}, fmt.Errorf("open the tree %s: %w", c.Root, err)
	}
	return Machine{m}, nil
}
