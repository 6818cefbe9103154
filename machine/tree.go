package machine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// Files is a Tree of files of this host and of bytes in memory. Modes,
// modification times (whole seconds), symbolic links and hard links are kept;
// everything belongs to UID and GID.
//
// The stream is tar in GNU form: BusyBox ignores the long and non-ASCII names
// of the PAX form, and every other tar reads both.
type Files struct {
	// UID and GID own everything on the machine. The default is root.
	UID, GID int
	// Progress, when set, is told how many bytes of file content of how many
	// have been written: at most ten times a second, and at the end.
	Progress func(done, total int64)

	parts []part
}

type part struct {
	path string // on this host; empty: data
	name string // in the tree; for a directory the prefix, which may be empty
	dir  bool
	data []byte
	mode fs.FileMode
}

// FileTree is one file of this host, called name (slash-separated) in the
// tree. A symbolic link is followed.
func FileTree(path, name string) *Files {
	return &Files{parts: []part{{path: path, name: name}}}
}

// DirTree is what stands below the directory path, below prefix in the tree.
// With the prefix "" the directory's own mode and time are not part of it.
// Symbolic links below path stay links.
func DirTree(path, prefix string) *Files {
	return &Files{parts: []part{{path: path, name: prefix, dir: true}}}
}

// BytesTree is one file made of data. Its modification time is the moment of writing.
func BytesTree(name string, data []byte, mode fs.FileMode) *Files {
	return &Files{parts: []part{{name: name, data: data, mode: mode}}}
}

// Join makes one tree of several. Owner and progress are those of the result.
func Join(trees ...*Files) *Files {
	f := &Files{}
	for _, t := range trees {
		f.parts = append(f.parts, t.parts...)
	}
	return f
}

// WriteTar implements Tree.
func (f *Files) WriteTar(ctx context.Context, w io.Writer) error {
	tw := &treeWriter{ctx: ctx, Writer: tar.NewWriter(w), files: f, links: map[fileID]string{}}
	if f.Progress != nil {
		if err := f.walk(ctx, func(e entry) error { tw.total += e.size(); return nil }); err != nil {
			return err
		}
	}
	if err := f.walk(ctx, tw.write); err != nil {
		return err
	}
	if f.Progress != nil {
		f.Progress(tw.done, tw.total)
	}
	return tw.Close()
}

// entry is one file as found on this host, or bytes.
type entry struct {
	path, name string
	info       fs.FileInfo // nil for bytes
	part       part
}

func (e entry) size() int64 {
	switch {
	case e.info == nil:
		return int64(len(e.part.data))
	case e.info.Mode().IsRegular():
		return e.info.Size()
	}
	return 0
}

func (f *Files) walk(ctx context.Context, visit func(entry) error) error {
	for _, p := range f.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Clean(filepath.ToSlash(p.name))
		if !p.dir && (p.name == "" || name == ".") {
			return fmt.Errorf("a file of the tree has no name (source %q)", p.path)
		}
		if path.IsAbs(name) || name == ".." || len(name) > 2 && name[:3] == "../" {
			return fmt.Errorf("%q is no place inside a tree: it must be relative and stay below the tree's root", p.name)
		}
		if p.path == "" {
			if err := visit(entry{name: name, part: p}); err != nil {
				return err
			}
			continue
		}
		info, err := os.Stat(p.path)
		if err != nil {
			return err
		}
		if info.IsDir() != p.dir {
			if p.dir {
				return fmt.Errorf("%s is not a directory", p.path)
			}
			return fmt.Errorf("%s is a directory, not a file", p.path)
		}
		if !p.dir {
			if err := visit(entry{path: p.path, name: name, info: info}); err != nil {
				return err
			}
			continue
		}
		// The walk starts at the target when the directory itself is a link.
		root, err := filepath.EvalSymlinks(p.path)
		if err != nil {
			return err
		}
		err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			rel, err := filepath.Rel(root, file)
			if err != nil {
				return err
			}
			inTree := path.Join(name, filepath.ToSlash(rel))
			if inTree == "." {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return visit(entry{path: file, name: inTree, info: info})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

type treeWriter struct {
	*tar.Writer
	ctx         context.Context
	files       *Files
	links       map[fileID]string // first name of each file with several
	done, total int64
	reported    time.Time
}

func (w *treeWriter) write(e entry) error {
	h := &tar.Header{
		Format: tar.FormatGNU, Typeflag: tar.TypeReg, Name: e.name,
		Uid: w.files.UID, Gid: w.files.GID,
	}
	if e.info == nil {
		h.Mode, h.Size, h.ModTime = tarMode(e.part.mode), e.size(), time.Now().Truncate(time.Second)
		return w.file(h, bytes.NewReader(e.part.data), e.name)
	}
	h.Mode, h.ModTime = tarMode(e.info.Mode()), e.info.ModTime().Truncate(time.Second)
	switch mode := e.info.Mode(); {
	case mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, e.name+"/"
		return w.WriteHeader(h)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(e.path)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, filepath.ToSlash(target)
		return w.WriteHeader(h)
	case !mode.IsRegular():
		return fmt.Errorf("%s is neither file, directory nor symbolic link (%v), and cannot be put on a machine", e.path, mode.Type())
	}
	if id, ok := linkID(e.info); ok {
		if first, ok := w.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			w.done += e.size()
			return w.WriteHeader(h)
		}
		w.links[id] = e.name
	}
	in, err := os.Open(e.path)
	if err != nil {
		return err
	}
	defer in.Close()
	h.Size = e.info.Size()
	return w.file(h, in, e.path)
}

func (w *treeWriter) file(h *tar.Header, content io.Reader, path string) error {
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(w, &counted{w: w, r: io.LimitReader(content, h.Size)})
	if err != nil {
		return err
	}
	if n != h.Size {
		return fmt.Errorf("%s became shorter while it was read (%d of %d bytes)", path, n, h.Size)
	}
	return nil
}

// counted reports what is read through it.
type counted struct {
	w *treeWriter
	r io.Reader
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.w.done += int64(n)
	if report := c.w.files.Progress; report != nil && time.Since(c.w.reported) >= 100*time.Millisecond {
		c.w.reported = time.Now()
		report(c.w.done, c.w.total)
	}
	return n, err
}

// fileID tells files with several names apart.
type fileID struct{ dev, ino uint64 }

func tarMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		mode |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}

// Copy writes tree into sink, on this host.
func Copy(ctx context.Context, tree Tree, sink Sink) error {
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := tree.WriteTar(ctx, w)
		w.CloseWithError(err)
		wrote <- err
	}()
	err := sink.ReadTar(ctx, r)
	r.CloseWithError(io.ErrClosedPipe)
	// The sink stops the tree, or the tree's end stops the sink: the first cause counts.
	if werr := <-wrote; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr
	}
	return err
}
