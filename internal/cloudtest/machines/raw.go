//go:build linux

package machines

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandbox"
)

const (
	sector    = 512
	ext4Magic = 0xef53
)

// findRoot finds the ext4 file system of a disk image: on the whole disk, or in
// the first partition.
func findRoot(file string) (*sandbox.Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if isExt4(f, 0) {
		return &sandbox.Image{File: file}, nil
	}
	start, size, ok := firstPartition(f)
	if !ok {
		return nil, fmt.Errorf("%s has neither an ext4 file system nor a partition table: nothing can be booted or read from it", file)
	}
	if !isExt4(f, start) {
		return nil, fmt.Errorf("the first partition of %s has no ext4 file system: nothing can be booted or read from it", file)
	}
	return &sandbox.Image{File: file, Offset: start, Size: size}, nil
}

func isExt4(f io.ReaderAt, at int64) bool {
	b := make([]byte, 2)
	_, err := f.ReadAt(b, at+1024+0x38)
	return err == nil && binary.LittleEndian.Uint16(b) == ext4Magic
}

// firstPartition is where partition 1 begins, and how long it is, in bytes.
func firstPartition(f *os.File) (start, size int64, ok bool) {
	fi, err := f.Stat()
	if err != nil {
		return 0, 0, false
	}
	le := binary.LittleEndian
	b := make([]byte, 2*sector)
	if _, err := f.ReadAt(b, 0); err != nil || b[510] != 0x55 || b[511] != 0xaa {
		return 0, 0, false
	}
	first := b[446:462]
	start, size = int64(le.Uint32(first[8:]))*sector, int64(le.Uint32(first[12:]))*sector
	if first[4] == 0xee {
		if string(b[sector:sector+8]) != "EFI PART" {
			return 0, 0, false
		}
		entry := make([]byte, 48)
		at := le.Uint64(b[sector+72:])
		if at > uint64(fi.Size()/sector) {
			return 0, 0, false
		}
		if _, err := f.ReadAt(entry, int64(at)*sector); err != nil {
			return 0, 0, false
		}
		from, to := le.Uint64(entry[32:]), le.Uint64(entry[40:])
		if to < from || to >= uint64(fi.Size()/sector) {
			return 0, 0, false
		}
		start, size = int64(from)*sector, int64(to-from+1)*sector
	}
	return start, size, start > 0 && size > 0 && start+size <= fi.Size()
}

// addPartition makes a device of the first partition where the kernel has not,
// as one built without partition tables: /dev/loop3p1.
func addPartition(dev *os.File, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	start, size, ok := firstPartition(f)
	if _, err := os.Stat(dev.Name() + "p1"); err == nil || !ok || isExt4(f, 0) {
		return nil
	}
	part := unix.BlkpgPartition{Start: start, Length: size, Pno: 1}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_ADD_PARTITION, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 && errno != unix.EBUSY { // the kernel was faster
		return fmt.Errorf("make a device of partition 1 of %s: %w", dev.Name(), errno)
	}
	return nil
}

// settle brings the file system of a disk image that was mounted when it was
// copied into order, as its next mount would. Other disks stay as they are.
func settle(file string) error {
	img, err := findRoot(file)
	if err != nil {
		return nil // no file system that this package knows
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, img.Offset+1024+0x60); err != nil {
		return err
	}
	const needsRecovery = 4
	if binary.LittleEndian.Uint32(b)&needsRecovery == 0 {
		return nil
	}
	name := file
	if img.Offset > 0 {
		name = fmt.Sprintf("%s?offset=%d", file, img.Offset)
	}
	err = tool(context.Background(), "e2fsck", "-p", name)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil // something was put right
	}
	return err
}

// tool runs a program of the host's that dies with this process.
func tool(ctx context.Context, name string, args ...string) error {
	p, err := exec.LookPath(name)
	if err != nil {
		if p, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			return fmt.Errorf("%s is not installed on this host", name)
		}
	}
	cmd := exec.CommandContext(ctx, p, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

type ext4Input struct {
	File string `json:"file"`
	Size int64  `json:"size"`
}

// ext4Task makes a file system of a tree in a file of a set size.
func ext4Task(ctx context.Context, tree string, input json.RawMessage) (any, error) {
	var in ext4Input
	if err := json.Unmarshal(input, &in); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(in.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(in.Size); err != nil {
		return nil, err
	}
	err = tool(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "-d", tree, in.File)
	if err != nil && strings.Contains(err.Error(), "Could not allocate") {
		err = fmt.Errorf("the content does not fit on a disk of %d MiB: %w", in.Size>>20, err)
	}
	return nil, err
}

// copySparse copies a file's data and leaves its holes holes. to must not exist;
// it gets the given size if that is more.
func copySparse(from, to string, size int64) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			err = errors.Join(fmt.Errorf("copy a disk: %w", err), os.Remove(to))
		}
	}()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(max(size, fi.Size())); err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return out.Truncate(max(size, fi.Size()))
	}
	for at := int64(0); ; {
		start, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole to the end
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := out.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := in.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, end-start); err != nil {
			return err
		}
		at = end
	}
}
