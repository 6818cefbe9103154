//go:build unix

package main

import "syscall"

// detached keeps a process alive when this one and its terminal are gone.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
