package machine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ingotbuild/ingot/internal/atomicfile"
)

// DirSink unpacks below the directory dir of this host, which is made if it is
// missing. What comes is taken to be hostile: nothing is written outside dir,
// a symbolic link that leads out of dir is not kept and is an error, devices
// and the like are refused, and setuid, setgid and sticky bits are dropped.
// Files belong to the caller. A stream that ends early is an error.
func DirSink(dir string) Sink { return &dirSink{dir: dir} }

// TrustedDirSink is DirSink for the receiving end of a Put, where the tree is
// to arrive as it is: symbolic links may lead anywhere and all mode bits are
// kept, and, when the process is root, the owner. Links are still not followed
// out of dir.
func TrustedDirSink(dir string) Sink { return &dirSink{dir: dir, trusted: true} }

// FileSink writes the one file that it is given to path, whole or not at all.
// Missing parent directories are made.
func FileSink(path string) Sink { return &fileSink{path: path} }

// NamedFileSink is a FileSink that takes only a file called name, so that the
// one file of a directory is not taken for the directory.
func NamedFileSink(path, name string) Sink { return &fileSink{path, name} }

type dirSink struct {
	dir     string
	trusted bool
}

func (s *dirSink) ReadTar(ctx context.Context, r io.Reader) (err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root, trusted: s.trusted}
	defer func() { err = errors.Join(err, u.finish()) }()
	return readTar(ctx, r, u.entry)
}

type unpacker struct {
	root    *os.Root
	trusted bool
	dirs    []*tar.Header // their modes and times are set last
	links   []string
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := filepath.FromSlash(path.Clean(h.Name))
	if name == "." {
		return nil
	}
	if !filepath.IsLocal(name) {
		return fmt.Errorf("refuse %q: it is outside of %s", h.Name, u.root.Name())
	}
	if err := u.place(name, h, content); err != nil {
		return fmt.Errorf("unpack %q into %s: %w", h.Name, u.root.Name(), err)
	}
	return nil
}

func (u *unpacker) place(name string, h *tar.Header, content io.Reader) error {
	if parent := filepath.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		h.Name = name
		u.dirs = append(u.dirs, h)
		info, err := u.root.Stat(name)
		if err == nil && info.IsDir() {
			return u.root.Chmod(name, info.Mode().Perm()|0o700) // writable while it is filled
		}
		return u.root.Mkdir(name, 0o700)
	}
	// What is there goes first, so that nothing is written through a link.
	if info, err := u.root.Lstat(name); err == nil {
		if info.IsDir() {
			return errors.New("a directory of this name is in the way")
		}
		if err := u.root.Remove(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Close()); err != nil {
			// Half a file would be taken for the file.
			return errors.Join(err, u.root.Remove(name))
		}
		return u.attributes(name, h)
	case tar.TypeSymlink:
		u.links = append(u.links, name)
		if err := u.root.Symlink(filepath.FromSlash(h.Linkname), name); err != nil {
			return err
		}
		return u.owner(name, h)
	case tar.TypeLink:
		first := filepath.FromSlash(path.Clean(h.Linkname))
		info, err := u.root.Lstat(first)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("a hard link to %q, which is not a file", h.Linkname)
		}
		return u.root.Link(first, name)
	}
	return fmt.Errorf("it is neither file, directory nor link (tar type %q)", h.Typeflag)
}

func (u *unpacker) owner(name string, h *tar.Header) error {
	if u.trusted && os.Geteuid() == 0 {
		return u.root.Lchown(name, h.Uid, h.Gid)
	}
	return nil
}

func (u *unpacker) attributes(name string, h *tar.Header) error {
	// Before the mode, since a change of owner takes the setuid bit away.
	if err := u.owner(name, h); err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	if keep := fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky; u.trusted {
		mode &= keep
	} else {
		mode &= fs.ModePerm
	}
	if err := u.root.Chmod(name, mode); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

// finish also runs after a failure, so that no link that leads out stays.
func (u *unpacker) finish() error {
	var errs []error
	if !u.trusted {
		for _, link := range u.links {
			errs = append(errs, u.checkLink(link))
		}
	}
	for _, h := range slices.Backward(u.dirs) {
		if err := u.attributes(h.Name, h); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// checkLink removes the link name if it leads out of the root. Other programs
// will read the tree, without the care that os.Root takes.
func (u *unpacker) checkLink(name string) error {
	target, err := u.root.Readlink(name)
	if err != nil {
		return nil // replaced by a later entry
	}
	_, err = u.root.Stat(name)
	switch {
	case err == nil, errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENOTDIR):
		return nil
	case errors.Is(err, fs.ErrNotExist) && filepath.IsLocal(filepath.Join(filepath.Dir(name), target)):
		return nil
	}
	err = fmt.Errorf("refuse the symbolic link %q: its target %q is outside of %s; get the target by its own path instead", name, target, u.root.Name())
	return errors.Join(err, u.root.Remove(name))
}

type fileSink struct{ path, name string }

func (s *fileSink) ReadTar(ctx context.Context, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(s.path, 0o644, func(w io.Writer) error {
		files := 0
		err := readTar(ctx, r, func(h *tar.Header, content io.Reader) error {
			if h.Typeflag == tar.TypeDir || s.name != "" && path.Clean(h.Name) != s.name {
				return fmt.Errorf("a directory came where %s is to be one file (it has %q)", s.path, h.Name)
			}
			if h.Typeflag != tar.TypeReg {
				return fmt.Errorf("%q is not a regular file (tar type %q)", h.Name, h.Typeflag)
			}
			if files++; files > 1 {
				return fmt.Errorf("more than one file came where %s is to be one", s.path)
			}
			_, err := io.Copy(w, content)
			return err
		})
		if err == nil && files == 0 {
			err = fmt.Errorf("no file came where %s is to be one", s.path)
		}
		return err
	})
}

// maxPadding is how much may follow the end of a tar stream. Writers pad to
// their block size, at most a few hundred KiB.
const maxPadding = 1 << 20

// readTar calls each for every entry up to the stream's proper end.
func readTar(ctx context.Context, r io.Reader, each func(*tar.Header, io.Reader) error) error {
	in := &input{ctx: ctx, r: r}
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read tar stream: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if strings.ContainsRune(h.Name, 0) || strings.ContainsRune(h.Linkname, 0) {
			return fmt.Errorf("refuse %q: its name contains NUL", h.Name)
		}
		if err := each(h, tr); err != nil {
			return err
		}
	}
	// The tar reader takes the end of input for the end of the archive.
	if in.ended {
		return fmt.Errorf("read tar stream: %w: it lacks its end mark, so files may be missing", io.ErrUnexpectedEOF)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(in, maxPadding))
	if err != nil {
		return err
	}
	if n == maxPadding {
		return errors.New("read tar stream: data follow after its end")
	}
	return nil
}

// input remembers whether the end of r was seen.
type input struct {
	ctx   context.Context
	r     io.Reader
	ended bool
}

func (in *input) Read(p []byte) (int, error) {
	if err := in.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := in.r.Read(p)
	if n > 0 && err == io.EOF {
		err = nil // comes again with the next call
	}
	if err == io.EOF {
		in.ended = true
	}
	return n, err
}
