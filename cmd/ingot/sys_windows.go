package main

import "syscall"

// detached keeps a process alive when this one and its console are gone.
func detached() *syscall.SysProcAttr {
	const newProcessGroup, detachedProcess = 0x200, 0x8
	return &syscall.SysProcAttr{CreationFlags: newProcessGroup | detachedProcess}
}
