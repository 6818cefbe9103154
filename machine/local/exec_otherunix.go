//go:build unix && !linux

package local

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}
