package imagefs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// bootID names this boot of the kernel. What was written without fsync is
// trusted only under the boot that wrote it.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// overlayPrefix finds out which xattrs overlayfs uses here: trusted.* with
// full rights, user.* in a user namespace (mount option userxattr).
func overlayPrefix(dir string) (string, error) {
	err := unix.Setxattr(dir, "trusted.overlay.probe", []byte("y"), 0)
	if err == nil {
		return "trusted.overlay.", unix.Removexattr(dir, "trusted.overlay.probe")
	}
	if errors.Is(err, unix.EPERM) {
		return "user.overlay.", nil
	}
	return "", &fs.PathError{Op: "set extended attribute on", Path: dir, Err: err}
}

// flock takes a lock on an open file. It returns false when the lock is taken
// and wait is false.
func flock(f *os.File, exclusive bool) (bool, error) {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch err {
		case nil:
			return true, nil
		case unix.EWOULDBLOCK:
			return false, nil
		case unix.EINTR:
		default:
			return false, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}

// fileStamp is what changes when a file's content does.
func fileStamp(fi fs.FileInfo) stamp {
	st := fi.Sys().(*syscall.Stat_t)
	return stamp{Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Inode: st.Ino, Device: uint64(st.Dev)}
}

// dieWithUs makes a child process die with this one.
func dieWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// ownNamespaces gives a child its own mounts and processes, which all end with it.
func ownNamespaces(cmd *exec.Cmd) {
	dieWithUs(cmd)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
}

// adoptDir strips from a finished overlay upper directory the attributes that
// only mean something in its own overlay.
func adoptDir(dir, ovl string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		names, err := xattrNames(p)
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, ovl) && name != ovl+"opaque" {
				if err := unix.Lremovexattr(p, name); err != nil {
					return &fs.PathError{Op: "remove " + name + " from", Path: p, Err: err}
				}
			}
		}
		return nil
	})
}

func xattrNames(p string) ([]string, error) {
	var small [512]byte
	buf := small[:]
	for {
		n, err := unix.Llistxattr(p, buf)
		switch err {
		case nil:
			if n == 0 {
				return nil, nil
			}
			return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
		case unix.ERANGE:
			buf = make([]byte, 64<<10) // the kernel's limit for a list
		case unix.ENOTSUP:
			return nil, nil
		default:
			return nil, &fs.PathError{Op: "list extended attributes of", Path: p, Err: err}
		}
	}
}

func xattrValue(p, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Lgetxattr(p, name, buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE {
			return nil, &fs.PathError{Op: "read " + name + " of", Path: p, Err: err}
		}
		buf = make([]byte, 64<<10) // the kernel's limit for a value
	}
}
