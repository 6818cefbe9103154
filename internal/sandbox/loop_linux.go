package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Loop says how a file becomes a block device.
type Loop struct {
	ReadOnly bool
	// Offset is where in the file the device begins, in bytes, and Size how
	// long it is; 0: from the beginning, to the end.
	Offset, Size int64
	// Partitions makes devices of the partitions too: /dev/loop3p1.
	Partitions bool
}

// AttachLoop makes a block device of a file and opens it; the File's name is the
// device's path. The kernel takes the device away with its last user: when
// the File is closed, or this process ends however it does, and nothing is
// mounted from it any more. It needs root.
func AttachLoop(file string, o Loop) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a block device of %s: %w", file, err)
		}
	}()
	mode := os.O_RDWR
	flags := uint32(unix.LO_FLAGS_AUTOCLEAR)
	if o.ReadOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	if o.Partitions {
		flags |= unix.LO_FLAGS_PARTSCAN
	}
	back, err := os.OpenFile(file, mode, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	for range 1000 {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), mode, 0)
		if err != nil {
			return nil, err
		}
		cfg := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Offset: uint64(o.Offset), Sizelimit: uint64(o.Size), Flags: flags}}
		copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], filepath.Base(file))
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was faster
			return nil, err
		}
	}
	return nil, errors.New("others take every free loop device first")
}

// mountImage mounts the ext4 file system of a disk image at dir, read-only. The
// loop device goes with the mount.
func mountImage(img Image, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	dev, err := AttachLoop(img.File, Loop{ReadOnly: true, Offset: img.Offset, Size: img.Size})
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := unix.Mount(dev.Name(), dir, "ext4", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount %s as ext4: %w", img.File, err)
	}
	return nil
}

// bindDevices gives the machine the block devices that it is to have.
func bindDevices(root string, devices map[string]string) error {
	for name, dev := range devices {
		if name == "" || filepath.Base(name) != name {
			return fmt.Errorf("give the machine /dev/%s: want a name without a slash", name)
		}
		if fi, err := os.Stat(dev); err != nil {
			return fmt.Errorf("give the machine /dev/%s: %w", name, err)
		} else if fi.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
			return fmt.Errorf("give the machine /dev/%s: %s is no block device", name, dev)
		}
		p := filepath.Join(root, "dev", name)
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("give the machine /dev/%s: %w", name, err)
		}
		f.Close()
		if err := unix.Mount(dev, p, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("give the machine /dev/%s: %w", name, err)
		}
	}
	return nil
}
