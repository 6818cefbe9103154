package sshmachine

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
	"slices"
	"strings"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

// errNoSFTP says that the machine has no sftp subsystem.
var errNoSFTP = errors.New("the machine's SSH server has no sftp subsystem")

const (
	// sftpWorkers small files are on their way at once: each takes some round trips.
	sftpWorkers = 32
	// sftpSmall is what is held in memory for that.
	sftpSmall = 256 << 10
)

// withSFTP opens the sftp subsystem for as long as use runs.
func (m *Machine) withSFTP(ctx context.Context, use func(*sftp.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := m.session(ctx)
	if err != nil {
		return err
	}
	defer c.free()
	// What the server says on stderr is in no protocol.
	go func() { _, _ = io.Copy(io.Discard, c.Stderr()) }()
	ok, err := c.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err != nil {
		return fmt.Errorf("start sftp: %w", err)
	}
	if !ok {
		return errNoSFTP
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	client, err := sftp.NewClientPipe(c, c, sftp.UseConcurrentReads(true), sftp.UseConcurrentWrites(true))
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: it does not answer: %v", errNoSFTP, err)
	}
	defer client.Close()
	err = use(client)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !c.link.alive():
		return fmt.Errorf("the connection to the machine was lost in the middle of a transfer (%w)", err)
	}
	return err
}

func (m *Machine) putSFTP(ctx context.Context, dst string, tree machine.Tree) error {
	return m.withSFTP(ctx, func(c *sftp.Client) error {
		return machine.Copy(ctx, tree, &sftpSink{c: c, root: dst, owner: m.Hop().User == "root"})
	})
}

// sftpSink puts a tar stream on the machine, file by file, many at once.
type sftpSink struct {
	c     *sftp.Client
	root  string
	owner bool // the user may give files away
	made  map[string]bool

	jobs chan func() error
	wg   sync.WaitGroup
	mu   sync.Mutex
	err  error
}

func (s *sftpSink) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// ReadTar implements machine.Sink.
func (s *sftpSink) ReadTar(ctx context.Context, r io.Reader) error {
	s.made = map[string]bool{}
	s.jobs = make(chan func() error)
	for range sftpWorkers {
		s.wg.Go(func() {
			for job := range s.jobs {
				if err := job(); err != nil {
					s.mu.Lock()
					if s.err == nil {
						s.err = err
					}
					s.mu.Unlock()
				}
			}
		})
	}
	var dirs []*tar.Header
	err := s.mkdir(s.root)
	if err == nil {
		err = s.read(ctx, tar.NewReader(r), &dirs)
	}
	close(s.jobs)
	s.wg.Wait()
	if err = errors.Join(err, s.failure()); err != nil {
		return err
	}
	for _, h := range slices.Backward(dirs) { // they were writable while they were filled
		if err := s.attributes(path.Join(s.root, h.Name), h); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

func (s *sftpSink) read(ctx context.Context, tr *tar.Reader, dirs *[]*tar.Header) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err := errors.Join(err, ctx.Err(), s.failure()); err != nil {
			return err
		}
		to := path.Join(s.root, h.Name)
		if err := s.mkdir(path.Dir(to)); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			*dirs = append(*dirs, h)
			if err := s.mkdir(to); err != nil {
				return err
			}
			if err := s.c.Chmod(to, fs.FileMode(h.Mode)&fs.ModePerm|0o700); err != nil {
				return named(to, err)
			}
		case tar.TypeSymlink:
			if err := s.replace(to, func() error { return s.c.Symlink(h.Linkname, to) }); err != nil {
				return err
			}
		case tar.TypeLink:
			s.settle() // the first name must be there
			if err := s.replace(to, func() error { return s.c.Link(path.Join(s.root, h.Linkname), to) }); err != nil {
				return err
			}
		case tar.TypeReg:
			if h.Size > sftpSmall {
				if err := s.file(to, h, tr); err != nil {
					return err
				}
				continue
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			s.jobs <- func() error { return s.file(to, h, bytes.NewReader(data)) }
		default:
			return fmt.Errorf("%q is neither file, directory nor link", h.Name)
		}
	}
}

// settle waits for the files that are under way.
func (s *sftpSink) settle() {
	var all sync.WaitGroup
	all.Add(sftpWorkers)
	meet := make(chan struct{})
	for range sftpWorkers {
		s.jobs <- func() error { all.Done(); <-meet; return nil }
	}
	all.Wait()
	close(meet)
}

func named(path string, err error) error { return fmt.Errorf("%s: %w", path, err) }

func (s *sftpSink) mkdir(dir string) error {
	if s.made[dir] {
		return nil
	}
	if err := s.c.MkdirAll(dir); err != nil {
		return named(dir, err)
	}
	s.made[dir] = true
	return nil
}

// replace makes something where there may be something already.
func (s *sftpSink) replace(to string, make func() error) error {
	first := make()
	if first == nil {
		return nil
	}
	// The protocol has one word for all failures, so that it must be tried.
	if info, err := s.c.Lstat(to); err != nil || info.IsDir() {
		return named(to, first)
	}
	if err := s.c.Remove(to); err != nil {
		return named(to, err)
	}
	if err := make(); err != nil {
		return named(to, err)
	}
	return nil
}

func (s *sftpSink) file(to string, h *tar.Header, content io.Reader) error {
	var f *sftp.File
	err := s.replace(to, func() (err error) {
		f, err = s.c.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		return err
	})
	if err != nil {
		return err
	}
	n, err := f.ReadFrom(content)
	if err == nil && n != h.Size {
		err = io.ErrShortWrite
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return named(to, err)
	}
	return s.attributes(to, h)
}

func (s *sftpSink) attributes(to string, h *tar.Header) error {
	if s.owner && (h.Uid != 0 || h.Gid != 0) {
		if err := s.c.Chown(to, h.Uid, h.Gid); err != nil {
			return named(to, err)
		}
	}
	if err := s.c.Chmod(to, h.FileInfo().Mode()); err != nil {
		return named(to, err)
	}
	if err := s.c.Chtimes(to, h.ModTime, h.ModTime); err != nil {
		return named(to, err)
	}
	return nil
}

func (m *Machine) getSFTP(ctx context.Context, src string, into machine.Sink) error {
	return m.withSFTP(ctx, func(c *sftp.Client) error {
		return machine.Copy(ctx, &sftpTree{m: m, c: c, src: src}, into)
	})
}

// sftpTree is a tree on the machine.
type sftpTree struct {
	m   *Machine
	c   *sftp.Client
	src string
}

// found is one file of it. Small ones are read before their turn comes.
type found struct {
	header *tar.Header
	path   string
	data   chan []byte
	err    error
}

// WriteTar implements machine.Tree.
func (s *sftpTree) WriteTar(ctx context.Context, w io.Writer) error {
	info, err := s.c.Stat(s.src)
	if err != nil {
		return named(s.src, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list := make(chan *found, sftpWorkers)
	var walk error
	go func() {
		defer close(list)
		if info.IsDir() {
			walk = s.walk(ctx, list, s.src, "", s.twins(ctx), map[string]string{})
		} else {
			walk = s.add(ctx, list, s.src, path.Base(s.src), info, "")
		}
	}()
	// The walk must have ended when the client is closed.
	defer func() {
		cancel()
		for range list {
		}
	}()
	tw := tar.NewWriter(w)
	for f := range list {
		if err := s.write(tw, f); err != nil {
			return err
		}
	}
	if walk != nil {
		return walk
	}
	return tw.Close()
}

func (s *sftpTree) walk(ctx context.Context, list chan<- *found, dir, name string, twins, first map[string]string) error {
	entries, err := s.c.ReadDirContext(ctx, dir)
	if err != nil {
		return named(dir, err)
	}
	slices.SortFunc(entries, func(a, b fs.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	for _, info := range entries {
		if strings.Contains(info.Name(), "/") || info.Name() == "." || info.Name() == ".." || info.Name() == "" {
			return fmt.Errorf("the machine has a file called %q in %s", info.Name(), dir)
		}
		p, n := path.Join(dir, info.Name()), path.Join(name, info.Name())
		link := ""
		if id := twins[n]; id != "" && info.Mode().IsRegular() {
			if link = first[id]; link == "" {
				first[id] = n
			}
		}
		if err := s.add(ctx, list, p, n, info, link); err != nil {
			return err
		}
		if info.IsDir() {
			if strings.Count(n, "/") > 4096 {
				return fmt.Errorf("%s: the directories never end", dir)
			}
			if err := s.walk(ctx, list, p, n, twins, first); err != nil {
				return err
			}
		}
	}
	return nil
}

// add lists one file; link is the name it had before.
func (s *sftpTree) add(ctx context.Context, list chan<- *found, p, name string, info fs.FileInfo, link string) error {
	f := &found{path: p, header: &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatGNU}}
	if st, ok := info.Sys().(*sftp.FileStat); ok {
		f.header.Mode = int64(st.Mode & 0o7777)
		f.header.Uid, f.header.Gid = int(st.UID), int(st.GID)
	}
	switch mode := info.Mode(); {
	case link != "":
		f.header.Typeflag, f.header.Linkname = tar.TypeLink, link
	case mode.IsDir():
		f.header.Typeflag = tar.TypeDir
		f.header.Name += "/"
	case mode&fs.ModeSymlink != 0:
		target, err := s.c.ReadLink(p)
		if err != nil {
			return named(p, err)
		}
		f.header.Typeflag, f.header.Linkname = tar.TypeSymlink, target
	case !mode.IsRegular():
		return fmt.Errorf("%s is neither file, directory nor symbolic link (%v)", p, mode.Type())
	default:
		f.header.Size = info.Size()
		if f.header.Size <= sftpSmall {
			f.data = make(chan []byte, 1)
			go func() {
				var b bytes.Buffer
				f.err = s.content(&b, f)
				f.data <- b.Bytes()
			}()
		}
	}
	select {
	case list <- f: // full while enough of them are under way
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sftpTree) write(tw *tar.Writer, f *found) error {
	if err := tw.WriteHeader(f.header); err != nil {
		return err
	}
	if f.header.Typeflag != tar.TypeReg {
		return nil
	}
	if f.data == nil {
		return s.content(tw, f)
	}
	data := <-f.data
	if f.err != nil {
		return f.err
	}
	_, err := tw.Write(data)
	return err
}

// content reads a file of just the size that it was listed with.
func (s *sftpTree) content(w io.Writer, f *found) error {
	in, err := s.c.Open(f.path)
	if err != nil {
		return named(f.path, err)
	}
	defer in.Close()
	c := &capped{w: w, left: f.header.Size}
	if _, err := in.WriteTo(c); err != nil && !errors.Is(err, errCapped) {
		return named(f.path, err)
	}
	if c.left != 0 {
		return fmt.Errorf("%s became shorter while it was read", f.path)
	}
	return nil
}

var errCapped = errors.New("enough")

// capped takes left bytes, and fails when there are more.
type capped struct {
	w    io.Writer
	left int64
}

func (c *capped) Write(p []byte) (int, error) {
	take := min(int64(len(p)), c.left)
	n, err := c.w.Write(p[:take])
	c.left -= int64(n)
	if err == nil && take < int64(len(p)) {
		err = errCapped
	}
	return n, err
}

// twinScript names the files with several names, with what is one file. sftp
// cannot tell them apart.
const twinScript = `find . -type f -links +1 -exec sh -c 'for f; do i=$(stat -c %d:%i "$f") && printf "%s\000%s\000" "$i" "$f"; done' sh {} + 2>/dev/null
exit 0`

// twins are the files that have several names. Where the machine cannot say,
// each name becomes a file of its own.
func (s *sftpTree) twins(ctx context.Context) map[string]string {
	if s.m.about.Shell != "sh" {
		return nil
	}
	var out bytes.Buffer
	if err := s.m.do(ctx, job{text: "cd -- " + machine.Quote(s.src) + "\n" + twinScript, stdout: &limited{&out, 64 << 20}}); err != nil {
		return nil
	}
	ids := map[string]string{}
	words := strings.Split(out.String(), "\x00")
	for i := 0; i+1 < len(words); i += 2 {
		ids[path.Clean(words[i+1])] = words[i]
	}
	return ids
}
