//go:build unix && !linux

package proc

import "golang.org/x/sys/unix"

func exists(pid int) (alive, known bool) {
	switch unix.Kill(pid, 0) {
	case nil, unix.EPERM:
		return true, true
	case unix.ESRCH:
		return false, true
	}
	return false, false
}
