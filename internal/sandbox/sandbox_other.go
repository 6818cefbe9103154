//go:build !linux

package sandbox

import (
	"context"
	"net"
	"os"

	"github.com/ingotbuild/ingot/machine"
)

// Reexec does nothing on this system.
func Reexec(Tasks) {}

// Machine cannot exist on this system.
type Machine struct{ machine.Machine }

// Prepare does nothing on this system.
func Prepare() {}

// Start returns ErrUnsupported on this system.
func Start(context.Context, Config) (*Machine, error) { return nil, ErrUnsupported }

// Dial returns ErrUnsupported on this system.
func (*Machine) Dial(context.Context, string, string) (net.Conn, error) { return nil, ErrUnsupported }

// Address is empty on this system.
func (*Machine) Address() string { return "" }

// Stop does nothing on this system.
func (*Machine) Stop(context.Context) error { return nil }

// Done never closes on this system.
func (*Machine) Done() <-chan struct{} { return nil }

// Err is nil on this system.
func (*Machine) Err() error { return nil }

// Remove does nothing on this system.
func Remove(string) error { return nil }

// RemoveCgroup does nothing on this system.
func RemoveCgroup([]string) error { return nil }

// RunInView returns ErrUnsupported on this system.
func RunInView(context.Context, View, string, any, any) error { return ErrUnsupported }

// PlanCgroup plans nothing on this system.
func PlanCgroup(string) (map[string]string, error) { return nil, nil }

// Restore does nothing on this system.
func Restore(string, []string, []string) error { return nil }

// MountPoints is empty on this system.
func (*Machine) MountPoints() []string { return nil }

// Exec returns ErrUnsupported on this system.
func (*Machine) Exec(context.Context, Program, machine.Command) error { return ErrUnsupported }

// InUserNamespace is false on this system.
func InUserNamespace() bool { return false }

// Loop says how a file becomes a block device.
type Loop struct {
	ReadOnly     bool
	Offset, Size int64
	Partitions   bool
}

// AttachLoop returns ErrUnsupported on this system.
func AttachLoop(string, Loop) (*os.File, error) { return nil, ErrUnsupported }

// Probe says that the sandbox needs Linux.
func Probe(context.Context) []Finding {
	return []Finding{{What: "sandbox", Need: true, Text: ErrUnsupported.Error()}}
}
