//go:build unix && !linux

package proc

import "syscall"

// Tree is a process that leads a group, and the group.
type Tree struct{ lead int }

// NewTree is the tree of the process lead.
func NewTree(lead int) *Tree { return &Tree{lead: lead} }

// Signal sends a signal to every process of the tree.
func (t *Tree) Signal(sig syscall.Signal) { _ = syscall.Kill(-t.lead, sig) }
