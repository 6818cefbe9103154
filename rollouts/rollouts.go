// Package rollouts replaces the machines behind a service, blue-green: a new
// fleet is launched beside the one in traffic, proved healthy, given the
// traffic, watched, and kept; or the traffic goes back to where it was.
//
// A Supervisor owns one service: its machines, the proxy before them and the
// rollouts between them. It is driven through a Client, which may go away at
// any time: what has been started is finished, or rolled back, without it.
package rollouts

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// InstanceSpec says what to launch.
type InstanceSpec struct {
	Service string
	// Color is "blue" or "green", Index counts from 0 within the fleet.
	Color string
	Index int
	// Image, Version and Digest name what to run.
	Image, Version, Digest string
	// Name follows from service, colour, version and index, so that what a
	// crash left behind can be found again.
	Name string
	// Port is the service's TCP port inside the machine.
	Port int
}

// Launcher starts machines on one kind of target. It is safe for concurrent
// use. rollouttest.Run is what it has to pass.
type Launcher interface {
	// Launch starts one machine and returns without waiting for the service
	// within. ctx bounds the launch only; the machine runs until Stop. What is
	// left of an earlier machine of the same name is removed first. An error
	// leaves nothing behind.
	Launch(ctx context.Context, spec InstanceSpec) (Instance, error)
}

// Instance is one running machine. All methods are safe for concurrent use.
type Instance interface {
	// ID tells this machine from every other one, also of the same name.
	ID() string
	// Dial opens a connection to the service's port.
	Dial(ctx context.Context) (net.Conn, error)
	// Done is closed when the machine has ended, whoever ended it.
	Done() <-chan struct{}
	// Err says why the machine ended; nil before, and after a Stop.
	Err() error
	// Stop ends the machine and gives back all it had. It returns when nothing
	// is left. To stop what has ended is success.
	Stop(ctx context.Context) error
}

// Journal keeps one document per service, and the history of its changes.
type Journal interface {
	// LoadService returns the document and its revision; nil and 0 when there is none yet.
	LoadService(ctx context.Context, name string) (doc json.RawMessage, rev int64, err error)
	// SaveService replaces the document if rev is still its revision, notes
	// event in the history, and returns the new revision.
	SaveService(ctx context.Context, name string, doc json.RawMessage, rev int64, event string) (int64, error)
}

// Phase is where a service stands. The values are part of the journal and the
// control API and do not change.
type Phase string

const (
	// PhaseNone: no version has been rolled out yet.
	PhaseNone Phase = ""
	// PhaseLaunching: the new fleet is being launched and checked.
	PhaseLaunching Phase = "launching"
	// PhaseHealthy: all of the new fleet has passed its checks.
	PhaseHealthy Phase = "healthy"
	// PhaseSwitching: the traffic is about to move to the new fleet.
	PhaseSwitching Phase = "switching"
	// PhaseSoaking: the new fleet has the traffic and is watched.
	PhaseSoaking Phase = "soaking"
	// PhaseDraining: the new fleet is live; requests on the old one come to their end.
	PhaseDraining Phase = "draining"
	// PhaseHolding: the rollout is done; the old fleet stays up for going back.
	PhaseHolding Phase = "holding"
	// PhaseDone: the rollout is done and there is no old fleet.
	PhaseDone Phase = "done"
	// PhaseRollingBack: the traffic goes, or has gone, back to the old fleet.
	PhaseRollingBack Phase = "rolling_back"
	// PhaseRolledBack: the version from before the rollout is live.
	PhaseRolledBack Phase = "rolled_back"
	// PhaseFailed: the last operation could not be finished nor undone, or
	// there was nothing to go back to. The reason says what is live.
	PhaseFailed Phase = "failed"
)

func (p Phase) resting() bool {
	switch p {
	case PhaseNone, PhaseHolding, PhaseDone, PhaseRolledBack, PhaseFailed:
		return true
	}
	return false
}

// Target is the version to roll out.
type Target struct {
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

func (t Target) check() error {
	for _, f := range []struct{ what, s string }{{"version", t.Version}, {"digest", t.Digest}} {
		if f.s == "" || len(f.s) > 200 {
			return fmt.Errorf("the target's %s is %d bytes long; it must be 1 to 200", f.what, len(f.s))
		}
		for _, r := range f.s {
			if r <= ' ' || r == 0x7f || r == '/' || r == '\\' {
				return fmt.Errorf("the target's %s %q holds a character that no %s has", f.what, f.s, f.what)
			}
		}
	}
	return nil
}

// Update is one line of progress.
type Update struct {
	Time  time.Time `json:"time"`
	Phase Phase     `json:"phase"`
	Text  string    `json:"text"`
	// Warning marks what deserves attention.
	Warning bool `json:"warning,omitempty"`
	// Done marks the last update of an operation. Error is then set when it
	// did not reach what was asked for.
	Done  bool   `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// OutcomeError is the end of a rollout that did not reach its target.
type OutcomeError struct {
	// Phase is PhaseRolledBack, PhaseFailed, or the phase in which the
	// supervisor was stopped; it goes on from there when started again.
	Phase  Phase
	Reason string
}

func (e *OutcomeError) Error() string { return e.Reason }

// BusyError refuses an operation because another one is running.
type BusyError struct{ Running string }

func (e *BusyError) Error() string {
	return "refused: " + e.Running + " is running; wait for its end, then ask again"
}

// Status is what a service is and does.
type Status struct {
	Service string `json:"service"`
	// Address is the proxy's host:port.
	Address string `json:"address"`
	Phase   Phase  `json:"phase"`
	// Reason says why the last operation failed or went back; empty otherwise.
	Reason string `json:"reason,omitempty"`
	// Running names the operation under way; empty when there is none.
	Running string `json:"running,omitempty"`
	// Live is the version that a restart brings back; Next the one being rolled
	// out; Old the one to go back to, until OldUntil.
	Live     *FleetStatus `json:"live,omitempty"`
	Next     *FleetStatus `json:"next,omitempty"`
	Old      *FleetStatus `json:"old,omitempty"`
	OldUntil time.Time    `json:"old_until,omitzero"`
	// Rev is the journal's revision.
	Rev int64 `json:"rev"`
}

// FleetStatus is one fleet at this moment.
type FleetStatus struct {
	Color   string `json:"color"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// InTraffic is true for the fleet that the proxy sends new requests to.
	InTraffic bool `json:"in_traffic"`
	Replicas  int  `json:"replicas"`
	// Healthy is the number of instances that pass their checks.
	Healthy int `json:"healthy"`
	// Requests and Failures count since the fleet was launched, InFlight now.
	Requests  int64            `json:"requests"`
	Failures  int64            `json:"failures"`
	InFlight  int64            `json:"in_flight"`
	Instances []InstanceStatus `json:"instances,omitempty"`
}

// InstanceStatus is one place in a fleet.
type InstanceStatus struct {
	Name    string `json:"name"`
	ID      string `json:"id,omitempty"` // empty while there is none
	Healthy bool   `json:"healthy"`
	// Failures counts launches that failed and instances that died.
	Failures  int    `json:"failures,omitempty"`
	LastError string `json:"last_error,omitempty"`
}
