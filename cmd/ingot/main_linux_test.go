package main

import "github.com/ingotbuild/ingot/internal/cloudtest/machines"

// reexec is for the machines of sandboxes and of emulated clouds.
func reexec() { machines.Reexec(packingTasks()) }
