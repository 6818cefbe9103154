package proc

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Tree is a process that leads a group or a session, and all that came of it:
// the group, the session, and the descendants of each of them, whose sessions
// may be their own. What has been adopted by init before the first Signal, as a
// daemon is, is not of the tree.
type Tree struct {
	lead int
	seen map[int]uint64 // when each process started, by pid
}

// NewTree is the tree of the process lead.
func NewTree(lead int) *Tree { return &Tree{lead: lead, seen: map[int]uint64{}} }

// Signal sends a signal to every process of the tree, also to those that have
// lost their parents since the Signal before. All are held still while the
// others are looked for, so that none can start another unseen.
func (t *Tree) Signal(sig unix.Signal) {
	for t.gather() {
	}
	for pid, start := range t.seen {
		if s, err := readStat(pid); err != nil || s.start != start {
			delete(t.seen, pid)
			continue
		}
		_ = unix.Kill(pid, sig)
	}
	for pid := range t.seen {
		_ = unix.Kill(pid, unix.SIGCONT)
	}
}

// gather says whether it has found more of the tree.
func (t *Tree) gather() (more bool) {
	dir, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		s, err := readStat(pid)
		if err != nil {
			continue
		}
		if start, ok := t.seen[pid]; ok && start == s.start {
			continue
		}
		if _, ok := t.seen[s.parent]; ok || pid == t.lead || s.group == t.lead || s.session == t.lead {
			t.seen[pid], more = s.start, true
			_ = unix.Kill(pid, unix.SIGSTOP)
		}
	}
	return more
}
