//go:build !linux

package sandbox

import "errors"

// The sandbox cannot run here; templates are only checked.
func writable(string) error { return nil }

func freeSpace(string) (uint64, error) { return 0, errors.ErrUnsupported }
