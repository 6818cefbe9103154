package imagefs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unpacker turns a layer tar into a directory that can be an overlay lowerdir:
// OCI whiteouts become overlay's. Archives are hostile: every name is resolved
// inside the root directory, by the kernel.
type unpacker struct {
	ctx  context.Context
	root int    // the directory unpacked into
	ovl  string // "trusted.overlay." or "user.overlay."

	// The directory of the last entry: archives come directory by directory.
	curDir string
	curFD  int

	dirs    []dirTime
	skipped int
	buf     []byte
}

// dirTime is set at the end, because creating files changes it.
type dirTime struct {
	name  string
	mtime time.Time
}

// unpackTar unpacks into dir, which is empty, and returns how many device
// nodes it had to leave out because this user namespace may not create them.
func unpackTar(ctx context.Context, r io.Reader, dir, ovl string) (int, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	u := &unpacker{ctx: ctx, root: root, ovl: ovl, curFD: -1, buf: make([]byte, 256<<10)}
	defer u.forget()
	tr := tar.NewReader(r)
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("not a tar archive, or a damaged one: %w", err)
		}
		if err := u.entry(hdr, tr); err != nil {
			return 0, fmt.Errorf("entry %q: %w", hdr.Name, err)
		}
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		pfd, leaf, err := u.parent(d.name)
		if err == nil {
			err = setTimes(pfd, leaf, d.mtime)
		}
		// A later entry may have put something else in its place.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return 0, fmt.Errorf("set time of %q: %w", d.name, err)
		}
	}
	return u.skipped, nil
}

// cleanName makes a name relative to the root, "." for the root itself.
func cleanName(name string) (string, error) {
	for c := range strings.SplitSeq(name, "/") {
		if c == ".." {
			return "", errors.New("the name leads out of the archive; the archive is hostile or damaged")
		}
	}
	return path.Clean("./" + strings.TrimLeft(name, "/")), nil
}

func (u *unpacker) forget() {
	if u.curFD >= 0 {
		unix.Close(u.curFD)
	}
	u.curFD = -1
}

// parent opens the directory that holds name, and creates it if need be.
// Symbolic links on the way are followed inside the root only.
func (u *unpacker) parent(name string) (int, string, error) {
	dir, leaf := path.Split(name)
	dir = path.Clean("./" + dir)
	if u.curFD >= 0 && u.curDir == dir {
		return u.curFD, leaf, nil
	}
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(u.root, dir, how)
	if (err == unix.ENOENT || err == unix.ENOTDIR) && dir != "." {
		if err := u.makeDir(dir); err != nil {
			return -1, "", err
		}
		fd, err = unix.Openat2(u.root, dir, how)
	}
	if err != nil {
		return -1, "", fmt.Errorf("open directory %q: %w", dir, err)
	}
	u.forget()
	u.curDir, u.curFD = dir, fd
	return fd, leaf, nil
}

// makeDir makes a directory that the archive names, or only implies.
func (u *unpacker) makeDir(name string) error {
	pfd, leaf, err := u.parent(name)
	if err != nil {
		return err
	}
	err = unix.Mkdirat(pfd, leaf, 0o755)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(pfd, leaf, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if !isWhiteout(&st) {
			return nil
		}
		// The whiteout hides what lies below; so must the directory.
		if err := unix.Unlinkat(pfd, leaf, 0); err != nil {
			return err
		}
		if err := unix.Mkdirat(pfd, leaf, 0o755); err != nil {
			return err
		}
		if err := u.setOpaque(pfd, leaf); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := fchmodat(pfd, leaf, 0o755); err != nil { // whatever the umask
		return err
	}
	u.dirs = append(u.dirs, dirTime{name, time.Unix(0, 0)})
	return nil
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// procPath names a directory entry for calls that have no *at form.
func procPath(pfd int, leaf string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", pfd, leaf)
}

func (u *unpacker) setOpaque(pfd int, leaf string) error {
	if err := unix.Lsetxattr(procPath(pfd, leaf), u.ovl+"opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("mark as opaque: %w", err)
	}
	return nil
}

// fchmodat is only used on directories and files that this unpacker has just made.
func fchmodat(pfd int, leaf string, mode uint32) error { return unix.Fchmodat(pfd, leaf, mode, 0) }

func setTimes(pfd int, leaf string, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(pfd, leaf, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

const whiteoutPrefix = ".wh."

func (u *unpacker) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid >= math.MaxUint32 || hdr.Gid >= math.MaxUint32 {
		return fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	pfd, leaf, err := u.parent(name)
	if err != nil {
		return err
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return errors.New("the root of the archive is not a directory")
		}
		leaf = "."
		u.dirs = append(u.dirs, dirTime{name, hdr.ModTime})
		return u.setMeta(pfd, leaf, hdr)
	}
	if rest, ok := strings.CutPrefix(leaf, whiteoutPrefix); ok {
		return u.whiteout(pfd, path.Dir(name), rest)
	}
	mode := uint32(hdr.Mode & 0o7777)
	if hdr.Typeflag == tar.TypeDir {
		return u.dir(pfd, leaf, name, hdr)
	}
	if hdr.Typeflag == tar.TypeLink {
		return u.hardLink(pfd, leaf, name, hdr.Linkname)
	}
	isFile := hdr.Typeflag == tar.TypeReg || hdr.Typeflag == tar.TypeCont || hdr.Typeflag == tar.TypeGNUSparse
	create := func() error {
		if isFile {
			return u.file(pfd, leaf, hdr, r)
		}
		switch hdr.Typeflag {
		case tar.TypeSymlink:
			return unix.Symlinkat(hdr.Linkname, pfd, leaf)
		case tar.TypeChar:
			return mknod(pfd, leaf, unix.S_IFCHR|mode, hdr)
		case tar.TypeBlock:
			return mknod(pfd, leaf, unix.S_IFBLK|mode, hdr)
		case tar.TypeFifo:
			return unix.Mknodat(pfd, leaf, unix.S_IFIFO|mode, 0)
		}
		return fmt.Errorf("unknown type %q", hdr.Typeflag)
	}
	err = create()
	if err == unix.EEXIST {
		if err := u.remove(pfd, leaf); err != nil {
			return err
		}
		err = create()
	}
	if err == unix.EPERM && (hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock) {
		u.skipped++
		return nil
	}
	if err != nil {
		return err
	}
	if isFile {
		return nil // done by its descriptor
	}
	if err := u.setMeta(pfd, leaf, hdr); err != nil {
		return err
	}
	return setTimes(pfd, leaf, hdr.ModTime)
}

func mknod(pfd int, leaf string, mode uint32, hdr *tar.Header) error {
	return unix.Mknodat(pfd, leaf, mode, int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))))
}

func (u *unpacker) dir(pfd int, leaf, name string, hdr *tar.Header) error {
	opaque := false
	err := unix.Mkdirat(pfd, leaf, 0o700)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(pfd, leaf, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = nil
		} else {
			opaque = isWhiteout(&st)
			if err := u.remove(pfd, leaf); err != nil {
				return err
			}
			err = unix.Mkdirat(pfd, leaf, 0o700)
		}
	}
	if err != nil {
		return err
	}
	if opaque {
		if err := u.setOpaque(pfd, leaf); err != nil {
			return err
		}
	}
	u.dirs = append(u.dirs, dirTime{name, hdr.ModTime})
	return u.setMeta(pfd, leaf, hdr)
}

// file writes a regular file. Runs of zeros become holes.
func (u *unpacker) file(pfd int, leaf string, hdr *tar.Header, r io.Reader) error {
	fd, err := unix.Openat(pfd, leaf, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), leaf)
	defer f.Close()
	hole := false
	for left := hdr.Size; left > 0; {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		b := u.buf[:min(int64(len(u.buf)), left)]
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		left -= int64(len(b))
		if hole = len(b) == len(u.buf) && b[0] == 0 && bytes.Count(b, []byte{0}) == len(b); hole {
			_, err = f.Seek(int64(len(b)), io.SeekCurrent)
		} else {
			_, err = f.Write(b)
		}
		if err != nil {
			return err
		}
	}
	if hole {
		if err := f.Truncate(hdr.Size); err != nil {
			return err
		}
	}
	// Owner first: a change of owner takes the setuid bit and capabilities away.
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", hdr.Uid, hdr.Gid, err)
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode&0o7777)); err != nil {
		return err
	}
	if err := u.setXattrs(pfd, leaf, hdr); err != nil {
		return err
	}
	return setTimes(pfd, leaf, hdr.ModTime)
}

func (u *unpacker) setMeta(pfd int, leaf string, hdr *tar.Header) error {
	if err := unix.Fchownat(pfd, leaf, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", hdr.Uid, hdr.Gid, err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := fchmodat(pfd, leaf, uint32(hdr.Mode&0o7777)); err != nil {
			return err
		}
	}
	return u.setXattrs(pfd, leaf, hdr)
}

const xattrRecord = "SCHILY.xattr."

func (u *unpacker) setXattrs(pfd int, leaf string, hdr *tar.Header) error {
	for k, v := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrRecord)
		// An archive must not steer overlayfs.
		if !ok || isOverlayXattr(name) {
			continue
		}
		err := unix.Lsetxattr(procPath(pfd, leaf), name, []byte(v), 0)
		if err == unix.ENOTSUP || (err == unix.EPERM && name != "security.capability") {
			continue // labels of a security module, or what this namespace may not set
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
	}
	return nil
}

func isOverlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

func (u *unpacker) hardLink(pfd int, leaf, name, target string) error {
	target, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	if target == name {
		return nil
	}
	// parent closes the descriptor it gave before.
	pfd, err = unix.FcntlInt(uintptr(pfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pfd)
	tfd, tleaf, err := u.parent(target)
	if err != nil {
		return err
	}
	err = unix.Linkat(tfd, tleaf, pfd, leaf, 0)
	if err == unix.EEXIST {
		if err := u.remove(pfd, leaf); err != nil {
			return err
		}
		u.forget() // it may have been removed
		if tfd, tleaf, err = u.parent(target); err != nil {
			return err
		}
		err = unix.Linkat(tfd, tleaf, pfd, leaf, 0)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

// whiteout hides rest, in the directory dir that pfd is, from the layers below.
func (u *unpacker) whiteout(pfd int, dir, rest string) error {
	switch {
	case rest == ".wh..opq":
		return u.setOpaque(pfd, ".")
	case strings.HasPrefix(rest, whiteoutPrefix):
		return nil // another tool's bookkeeping
	case rest == "" || rest == "." || rest == "..":
		return errors.New("a whiteout of nothing; the archive is hostile or damaged")
	}
	err := unix.Mknodat(pfd, rest, unix.S_IFCHR, 0)
	if err != unix.EEXIST {
		return err
	}
	// It stands in this layer as well, which a whiteout does not touch; but a
	// directory must not let the lower one shine through.
	var st unix.Stat_t
	if err := unix.Fstatat(pfd, rest, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return u.setOpaque(pfd, rest)
	}
	return nil
}

// remove clears the way for a later entry of the same name.
func (u *unpacker) remove(pfd int, leaf string) error {
	err := unix.Unlinkat(pfd, leaf, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	return os.RemoveAll(procPath(pfd, leaf)) // does not follow links
}
