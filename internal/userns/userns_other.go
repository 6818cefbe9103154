//go:build !linux

package userns

// Reexec does nothing on this system.
func Reexec() {}

// Enter returns ErrUnsupported on this system.
func Enter() (int, error) { return 0, ErrUnsupported }

// Needed is false on this system.
func Needed() bool { return false }
