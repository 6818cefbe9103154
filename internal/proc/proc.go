// Package proc names a running process so that a later one can tell whether
// it still runs, even when its pid has been given to another process or the
// machine has been started anew.
package proc

import (
	"fmt"
	"os"
)

// Owner names one process on one machine.
type Owner struct {
	// Host is the machine's host name.
	Host string `json:"host"`
	// BootID names what a pid is unique within. On Linux that is the boot and
	// the pid namespace: containers can share a host name and a boot, and the
	// pids of one mean nothing in another. Elsewhere it is empty.
	BootID string `json:"bootId,omitempty"`
	PID    int    `json:"pid"`
	// StartTicks is when the process started, in the kernel's clock ticks
	// since boot. It is 0 where the system doesn't say.
	StartTicks uint64 `json:"startTicks,omitempty"`
}

// Self names this process.
func Self() (Owner, error) {
	host, err := os.Hostname()
	if err != nil {
		return Owner{}, fmt.Errorf("ask for the host name: %w", err)
	}
	o := Owner{Host: host, PID: os.Getpid()}
	if o.BootID, err = bootID(); err != nil {
		return Owner{}, fmt.Errorf("ask which boot this is: %w", err)
	}
	if o.StartTicks, err = startTicks(o.PID); err != nil {
		return Owner{}, fmt.Errorf("ask when this process started: %w", err)
	}
	return o, nil
}

// Alive says whether o still runs. known is false when that can't be told
// from here, as when o runs on another machine or in another container; alive
// is false then too, and the caller must not take o for dead.
//
// Where the system gives no start time (other than Linux), another process
// that has been given o's pid passes for o.
func Alive(o Owner) (alive, known bool) {
	self, err := Self()
	if err != nil || o.PID <= 0 || o.Host == "" || o.Host != self.Host {
		return false, false
	}
	if o.BootID != self.BootID {
		// A different boot of this host means that o is dead, unless only the
		// pid namespace differs: then o's pid can't be looked up from here.
		return false, !sameBoot(o.BootID, self.BootID)
	}
	return running(o)
}
