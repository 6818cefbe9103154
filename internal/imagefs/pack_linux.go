package imagefs

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// node is one directory entry of a tree being walked.
type node struct {
	name string // relative to the tree, "." for its root
	leaf string
	st   unix.Stat_t
	pfd  int // the directory that holds it
}

func (n *node) kind() uint32     { return n.st.Mode & unix.S_IFMT }
func (n *node) isDir() bool      { return n.kind() == unix.S_IFDIR }
func (n *node) mtime() time.Time { return time.Unix(n.st.Mtim.Unix()) }

// walkTree calls visit for the root of a tree and everything below it, a
// directory before what it holds and names in the order of order. It never
// follows a symbolic link or enters a mount. visit may return errSkip for a directory.
func walkTree(ctx context.Context, root string, order func(dirents []*node), visit func(*node) error) error {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(fd)
	n := &node{name: ".", leaf: ".", pfd: fd}
	if err := unix.Fstat(fd, &n.st); err != nil {
		return &os.PathError{Op: "stat", Path: root, Err: err}
	}
	return walkNode(ctx, n, order, visit)
}

var errSkip = errors.New("skip this directory")

func walkNode(ctx context.Context, n *node, order func([]*node), visit func(*node) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := visit(n); err != nil {
		if err == errSkip {
			return nil
		}
		return fmt.Errorf("%q: %w", n.name, err)
	}
	if !n.isDir() {
		return nil
	}
	fd, err := unix.Openat(n.pfd, n.leaf, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory %q: %w", n.name, err)
	}
	d := os.NewFile(uintptr(fd), n.name)
	defer d.Close()
	if n.name != "." {
		// What is mounted in a tree is not part of it; overlayfs sees it so as well.
		var x unix.Statx_t
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &x); err != nil {
			return fmt.Errorf("stat %q: %w", n.name, err)
		}
		if x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return nil
		}
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", n.name, err)
	}
	children := make([]*node, len(names))
	for i, leaf := range names {
		c := &node{name: path.Join(n.name, leaf), leaf: leaf, pfd: fd}
		if err := unix.Fstatat(fd, leaf, &c.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat %q: %w", c.name, err)
		}
		children[i] = c
	}
	order(children)
	for _, c := range children {
		if err := walkNode(ctx, c, order, visit); err != nil {
			return err
		}
	}
	return nil
}

func byName(nodes []*node) {
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.leaf, b.leaf) })
}

// byTarName sorts whiteouts under the names they get in the tar.
func byTarName(nodes []*node) {
	tarName := func(n *node) string {
		if isWhiteout(&n.st) {
			return whiteoutPrefix + n.leaf
		}
		return n.leaf
	}
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(tarName(a), tarName(b)) })
}

// writeTree writes a tree as a tar that depends on its content only: sorted,
// times in whole seconds and not after the epoch, numeric owners.
func writeTree(ctx context.Context, root string, w io.Writer, opt packOptions) error {
	p := &packer{tw: tar.NewWriter(w), opt: opt, links: map[inode]string{}, buf: make([]byte, 256<<10)}
	order := byName
	if opt.overlay {
		order = byTarName
	}
	if err := walkTree(ctx, root, order, p.node); err != nil {
		return err
	}
	return p.tw.Close()
}

type inode struct{ dev, ino uint64 }

type packer struct {
	tw    *tar.Writer
	opt   packOptions
	links map[inode]string
	buf   []byte
}

func (p *packer) node(n *node) error {
	if slices.Contains(p.opt.exclude, n.name) {
		return errSkip
	}
	hdr := &tar.Header{
		Format: tar.FormatPAX, Name: n.name, Mode: int64(n.st.Mode & 0o7777),
		Uid: int(n.st.Uid), Gid: int(n.st.Gid), ModTime: clamp(n.mtime(), p.opt.epoch),
	}
	if p.opt.overlay && isWhiteout(&n.st) {
		dir, leaf := path.Split(n.name)
		return p.tw.WriteHeader(&tar.Header{
			Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: dir + whiteoutPrefix + leaf, ModTime: hdr.ModTime,
		})
	}
	if p.opt.layer && strings.HasPrefix(n.leaf, whiteoutPrefix) {
		return errors.New("a file of this name means a deletion in an OCI image: rename or remove it before the image is made")
	}
	if !n.isDir() && n.st.Nlink > 1 {
		id := inode{uint64(n.st.Dev), n.st.Ino}
		if first, ok := p.links[id]; ok {
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
			return p.tw.WriteHeader(hdr)
		}
		p.links[id] = n.name
	}
	opaque, err := p.xattrs(n, hdr)
	if err != nil {
		return err
	}
	switch n.kind() {
	case unix.S_IFREG:
		hdr.Typeflag = tar.TypeReg
		return p.file(n, hdr)
	case unix.S_IFDIR:
		hdr.Typeflag = tar.TypeDir
		hdr.Name += "/"
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		if hdr.Linkname, err = readlinkat(n); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if n.kind() == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(uint64(n.st.Rdev))), int64(unix.Minor(uint64(n.st.Rdev)))
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	default:
		return nil // a socket: it means nothing without the process that made it
	}
	if err := p.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if opaque {
		return p.tw.WriteHeader(&tar.Header{
			Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: path.Join(n.name, ".wh..wh..opq"), ModTime: hdr.ModTime,
		})
	}
	return nil
}

func (p *packer) xattrs(n *node, hdr *tar.Header) (opaque bool, err error) {
	at := procPath(n.pfd, n.leaf)
	names, err := xattrNames(at)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if isOverlayXattr(name) {
			switch _, key, _ := strings.Cut(name, ".overlay."); {
			case !p.opt.overlay:
			case key == "opaque" && n.isDir():
				v, err := xattrValue(at, name)
				if err != nil {
					return false, err
				}
				opaque = opaque || string(v) == "y"
			case key == "redirect" || key == "metacopy":
				return false, fmt.Errorf("it refers to a lower layer (overlay %s), which an image cannot: mount the overlay with redirect_dir=off,metacopy=off", key)
			}
			continue
		}
		v, err := xattrValue(at, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return false, err
		}
		if strings.Contains(name, "=") {
			return false, fmt.Errorf("extended attribute %q cannot be stored in a tar because of the = in its name", name)
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[xattrRecord+name] = string(v)
	}
	return opaque, nil
}

func (p *packer) file(n *node, hdr *tar.Header) error {
	hdr.Size = n.st.Size
	if hdr.Size == 0 {
		return p.tw.WriteHeader(hdr)
	}
	f, err := openNode(n)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.tw.WriteHeader(hdr); err != nil {
		return err
	}
	for left := hdr.Size; left > 0; {
		k, err := f.Read(p.buf[:min(int64(len(p.buf)), left)])
		if k > 0 {
			left -= int64(k)
			if _, err := p.tw.Write(p.buf[:k]); err != nil {
				return err
			}
		} else if err == io.EOF {
			return errors.New("the file shrank while it was read: something still writes to the tree")
		} else if err != nil {
			return err
		}
	}
	return nil
}

func openNode(n *node) (*os.File, error) {
	fd, err := unix.Openat(n.pfd, n.leaf, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), n.name), nil
}

func readlinkat(n *node) (string, error) {
	buf := make([]byte, unix.PathMax)
	k, err := unix.Readlinkat(n.pfd, n.leaf, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:k]), nil
}

// ClampTimes sets every time below dir that lies after epoch to epoch, and cuts
// the rest to whole seconds, as PackDelta does. A zero epoch only cuts.
func ClampTimes(ctx context.Context, dir string, epoch time.Time) error {
	err := walkTree(ctx, dir, func([]*node) {}, func(n *node) error {
		t := clamp(n.mtime(), epoch)
		if t.Equal(n.mtime()) {
			return nil
		}
		return setTimes(n.pfd, n.leaf, t)
	})
	if err != nil {
		return fmt.Errorf("clamp file times in %s: %w", dir, err)
	}
	return nil
}

// treeFingerprint is a digest over everything but the content of files, for
// which size and time of change stand.
func treeFingerprint(ctx context.Context, dir string) (string, error) {
	h := sha256.New()
	err := walkTree(ctx, dir, byName, func(n *node) error {
		link := ""
		if n.kind() == unix.S_IFLNK {
			var err error
			if link, err = readlinkat(n); err != nil {
				return err
			}
		}
		size := n.st.Size
		if n.isDir() {
			size = 0 // it is the file system's affair
		}
		fmt.Fprintf(h, "%q %o %d %d %d %d.%d %d %q\n",
			n.name, n.st.Mode, n.st.Uid, n.st.Gid, size, n.st.Mtim.Sec, n.st.Mtim.Nsec, n.st.Rdev, link)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read tree %s: %w", dir, err)
	}
	return sumDigest(h.Sum(nil)), nil
}

// measureTree adds up what a tree needs in a file system with 4 KiB blocks.
func measureTree(ctx context.Context, dir string) (treeSize, error) {
	var t treeSize
	seen := map[inode]bool{}
	err := walkTree(ctx, dir, func([]*node) {}, func(n *node) error {
		if !n.isDir() && n.st.Nlink > 1 {
			id := inode{uint64(n.st.Dev), n.st.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		t.inodes++
		switch n.kind() {
		case unix.S_IFDIR:
			t.blocks += max(1, (n.st.Size+4095)/4096)
		case unix.S_IFLNK:
			if n.st.Size >= 60 {
				t.blocks++
			}
		case unix.S_IFREG:
			size := n.st.Size
			if n.st.Blocks*512 < size {
				var err error
				if size, err = dataBytes(n); err != nil {
					return err
				}
			}
			t.blocks += (size + 4095) / 4096
		}
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("measure tree %s: %w", dir, err)
	}
	return t, nil
}

// dataBytes counts what a file holds without its holes.
func dataBytes(n *node) (int64, error) {
	f, err := openNode(n)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total, pos int64
	for {
		data, err := f.Seek(pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return total, nil
		}
		if err != nil {
			return 0, err
		}
		if pos, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
			return 0, err
		}
		total += pos - data
	}
}
