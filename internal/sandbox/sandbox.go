// Package sandbox runs a temporary machine on this Linux host: processes in
// namespaces of their own on an overlay file system, with an agent inside that
// runs commands and moves files. It is what the sandbox builder bakes in and
// what the sandbox rollout target serves from.
//
// The machine's mounts, network devices and processes exist only in its
// namespaces, which end with the process that started it, however that process
// ends. All that can be left behind is the directory and the cgroup that the
// caller named, and Remove takes those away.
//
// A program that uses this package calls Reexec first thing in main, because
// the machine's first process is the same program started again.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Network says how a machine reaches the outside.
type Network string

const (
	// NetworkUser gives the machine a network of its own whose outbound
	// connections are made by this process. It cannot reach this host.
	NetworkUser Network = "user"
	// NetworkHost shares this host's network: its ports collide with the host's.
	NetworkHost Network = "host"
	// NetworkNone leaves only the machine's own loopback.
	NetworkNone Network = "none"
)

// HostBase, as the only element of Config.Layers, stands for this machine's
// own root file system, read-only, without its homes, temporary files and credentials.
const HostBase = "host"

// Config describes a machine.
type Config struct {
	// ID names the machine: its cgroup is ingot-ID. Lower-case letters, digits and dashes.
	ID string `json:"id"`
	// Dir is the machine's own directory, which exists. Upper and work
	// directories are made in it; the machine's changes stand in Dir/upper.
	Dir string `json:"dir"`
	// Layers are the directories below the machine's own, topmost first, in
	// overlayfs form; or HostBase alone, or layers followed by HostBase.
	Layers []string `json:"layers"`
	// Image, unless nil, is the lowest layer, in place of HostBase.
	Image *Image `json:"image,omitempty"`
	// Hide are host paths that a machine on HostBase must not see, besides the usual ones.
	Hide []string `json:"hide,omitempty"`
	// Hostname inside; default "ingot".
	Hostname string `json:"hostname,omitempty"`
	// Network; default NetworkUser.
	Network Network `json:"network,omitempty"`
	// Nameservers, in place of the host's, for NetworkHost. Unused otherwise.
	Nameservers []string `json:"-"`
	// Memory is the limit in bytes, CPUs the share (1.5 is one and a half
	// processors), PIDs the most processes; 0: no limit.
	Memory int64   `json:"-"`
	CPUs   float64 `json:"-"`
	PIDs   int64   `json:"-"`
	// Cgroup is what PlanCgroup gave for ID; empty: no cgroup.
	Cgroup map[string]string `json:"-"`
	// TmpSize bounds /tmp, in bytes; default 2 GiB.
	TmpSize int64 `json:"tmp_size,omitempty"`
	// Init is the path of the image's own init, e.g. /sbin/init, to run as
	// process 1 in place of Ingot's reaper. Empty: the reaper.
	Init string `json:"init,omitempty"`
	// Devices are block devices of the host that root in the machine may read
	// and write, by their names below /dev there. It may do to them all that an
	// open device allows, but mount them.
	Devices map[string]string `json:"devices,omitempty"`
	// Tree, unless nil, is the machine's root itself. Of the other fields, only
	// Cgroup and its limits then count.
	Tree *Tree `json:"tree,omitempty"`
}

// Tree is a directory of the host that is a machine's root itself, with nothing
// above it and the host's network: for a system that is being put together there.
// Its programs have all of root's rights, so that they can do whatever that takes;
// they are kept apart in that they, and what they mount, end with the machine.
type Tree struct {
	// Root is the directory. What is mounted below it is seen in the machine.
	Root string `json:"root"`
	// Mounts are made in the machine alone, in this order.
	Mounts []Mount `json:"mounts,omitempty"`
	// Wrap, unless nil, makes of a command line one that runs it as root: by it
	// this program is started for a caller who is not root. It is run by sh.
	Wrap func(line string) (string, error) `json:"-"`
}

// Mount is one file system of a Tree.
type Mount struct {
	// Type as the kernel knows it, or "bind" or "rbind" for a directory of the host.
	Type string `json:"type"`
	// Source is a path of the host, or what the type takes for one.
	Source string `json:"source"`
	// Target is the path in the machine, which is made if it is missing.
	Target string `json:"target"`
	// Data are the type's own options.
	Data string `json:"data,omitempty"`
	// Optional: the machine does without it where the kernel cannot mount it.
	Optional bool `json:"optional,omitempty"`
}

// Image is an ext4 file system in a file, mounted read-only. Mounting needs root
// outside of any user namespace, and the kernel reads what it is given: no
// image that comes from strangers.
type Image struct {
	File string `json:"file"`
	// Offset is where in the file it begins, Size how long it is, in bytes; 0: the whole file.
	Offset int64 `json:"offset,omitempty"`
	Size   int64 `json:"size,omitempty"`
}

// DefaultTmpSize bounds /tmp where Config.TmpSize is 0.
const DefaultTmpSize = 2 << 30

// stopGrace is how long processes have between SIGTERM and SIGKILL when a machine is stopped.
const stopGrace = 2 * time.Second

// initGrace is that time when the image's own init stops its services.
const initGrace = 30 * time.Second

// ErrUnsupported says that this system cannot run a sandbox at all.
var ErrUnsupported = errors.New("the sandbox needs Linux: namespaces and overlayfs; bake with a cloud, Docker or QEMU builder here, or run Ingot in a Linux machine")

// Finding is one thing that Probe looked at.
type Finding struct {
	What string // "user namespaces"
	OK   bool
	// Need: without it the sandbox cannot work at all.
	Need bool
	// Text says in one sentence what there is, or what to do about what there is not.
	Text string
}

// Tasks is what RunInView can run, by name. It is one table, handed to Reexec
// by main, because the work is done in another process of the same program.
type Tasks map[string]func(ctx context.Context, tree string, input json.RawMessage) (any, error)

// View is a merged, read-only tree of layers, topmost first.
type View struct {
	// Dir is a directory of the view's own, which exists.
	Dir    string   `json:"dir"`
	Layers []string `json:"layers"`
	// Image, unless nil, is the lowest layer.
	Image *Image `json:"image,omitempty"`
}

// Program is what Exec runs.
type Program struct {
	Argv []string
	// Dir is the working directory. Default: /root, or / where there is none.
	Dir string
	// User is a name or number, with ":group" behind it or not. Default: root.
	User string
}
