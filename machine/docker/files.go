package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/ingotbuild/ingot/machine"
)

// Put implements machine.Machine, by the container's tar, which is bound by
// the user's rights and sees what the container sees. A container without one
// is given the files by the engine's archive call. That acts as root: below a
// directory that the user may write to, it may write everywhere; and it does
// not see a tmpfs, so that it is refused there.
func (m *docker) Put(ctx context.Context, dst string, tree machine.Tree) error {
	treeCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := tree.WriteTar(treeCtx, w)
		w.CloseWithError(err)
		wrote <- err
	}()
	var err error
	if m.tar != "" {
		err = m.putByTar(ctx, dst, r)
	} else {
		err = m.putByEngine(ctx, dst, r)
	}
	cancel()
	r.CloseWithError(io.ErrClosedPipe)
	werr := <-wrote
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	// A tree that failed is why the container saw the stream end; a container
	// that failed is why the tree could not go on.
	case werr != nil && !errors.Is(werr, io.ErrClosedPipe) && !errors.Is(werr, context.Canceled):
		return fmt.Errorf("send files for %s: %w", dst, werr)
	case err != nil:
		return fmt.Errorf("write to %s in container %s: %w", dst, m.cfg.Container, err)
	case werr != nil:
		return fmt.Errorf("send files for %s: %w", dst, werr)
	}
	return nil
}

func (m *docker) putByTar(ctx context.Context, dst string, r io.Reader) error {
	// Without the option, GNU tar puts a directory in the place of a link to one.
	how := "tar -x -p --keep-directory-symlink -f -"
	if m.tar != "gnu" {
		// BusyBox does not say which file there was no room for.
		how = "tar -x -p -v -f -"
	}
	d := machine.Quote(pathArg(dst))
	// What follows the archive's end is padding.
	line := "mkdir -p " + d + " && cd " + d + " && " + how + " && while read -r _; do :; done"
	names, stderr := &lastLine{}, &tail{}
	err := m.Run(ctx, machine.Command{Line: line, Stdin: r, Stdout: names, Stderr: stderr})
	if exit, ok := errors.AsType[*machine.ExitError](err); ok && exit.Status != machine.DisconnectStatus {
		at := ""
		if name := names.line(); name != "" {
			at = fmt.Sprintf(" (at %q)", name)
		}
		return fmt.Errorf("%w%s%s", err, said(stderr.String()), at)
	}
	return err
}

func (m *docker) putByEngine(ctx context.Context, dst string, r io.Reader) error {
	d := machine.Quote(pathArg(dst))
	dir, mounts, err := m.place(ctx, "mkdir -p "+d+" && cd "+d+` && { [ -w . ] || { echo "this user may not write there" >&2; exit 1; }; }`)
	if err != nil {
		return err
	}
	u := &upload{m: m, ctx: ctx, dir: dir, known: map[string]bool{".": true}}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = u.entry(h, tr, mounts)
		}
		if err != nil {
			// Where the engine gave up, its reason counts.
			if because := u.end(err); because != nil && errors.Is(err, io.ErrClosedPipe) {
				return because
			}
			return err
		}
	}
	if err := u.end(nil); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r) // the padding
	return err
}

// upload is a tree on its way through the engine's archive call. The engine
// makes directories that the tree does not have as root's, and for all to
// write to. So the tree gets them here; and since the engine keeps a container
// to itself during the call, looking for them parts it into several.
type upload struct {
	m     *docker
	ctx   context.Context
	dir   string
	known map[string]bool // directories in the tree or the container

	tw   *tar.Writer
	pipe *io.PipeWriter
	done chan error // of the call
}

func (u *upload) entry(h *tar.Header, content io.Reader, mounts []string) error {
	name := path.Clean(h.Name)
	if at := path.Join(u.dir, name); !u.m.sees(mounts, at) {
		return unseen(at)
	}
	if u.m.uid != 0 {
		h.Uid, h.Gid, h.Uname, h.Gname = u.m.uid, u.m.gid, "", ""
	}
	var missing []string
	for p := path.Dir(name); !u.known[p] && p != "/" && p != ".."; p = path.Dir(p) {
		if err := u.end(nil); err != nil {
			return err
		}
		u.known[p] = true
		_, err := u.m.cli.ContainerStatPath(u.ctx, u.m.id, client.ContainerStatPathOptions{Path: path.Join(u.dir, p)})
		if err == nil {
			break
		}
		if !errdefs.IsNotFound(err) {
			return u.m.explain(u.ctx, err)
		}
		missing = append(missing, p)
	}
	for _, p := range slices.Backward(missing) {
		if err := u.write(&tar.Header{Typeflag: tar.TypeDir, Format: tar.FormatGNU, Name: p + "/", Mode: 0o755, Uid: h.Uid, Gid: h.Gid, ModTime: time.Now().Truncate(time.Second)}, nil); err != nil {
			return err
		}
	}
	u.known[name] = true
	return u.write(h, content)
}

func (u *upload) write(h *tar.Header, content io.Reader) error {
	if u.tw == nil {
		r, w := io.Pipe()
		u.pipe, u.tw, u.done = w, tar.NewWriter(w), make(chan error, 1)
		go func() {
			_, err := u.m.cli.CopyToContainer(u.ctx, u.m.id, client.CopyToContainerOptions{DestinationPath: u.dir, Content: r})
			r.CloseWithError(io.ErrClosedPipe)
			u.done <- err
		}()
	}
	if err := u.tw.WriteHeader(h); err != nil || content == nil {
		return err
	}
	_, err := io.CopyBuffer(u.tw, content, make([]byte, 64<<10))
	return err
}

// end finishes a call, or breaks it off because of cause.
func (u *upload) end(cause error) error {
	if u.tw == nil {
		return nil
	}
	if cause == nil {
		cause = u.tw.Close()
	}
	u.pipe.CloseWithError(cause)
	u.tw = nil
	if err := <-u.done; err != nil {
		return u.m.explain(u.ctx, err)
	}
	return nil
}

// Get implements machine.Machine, in the way of Put.
func (m *docker) Get(ctx context.Context, src string, into machine.Sink) error {
	getCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		var err error
		if m.tar != "" {
			err = m.getByTar(getCtx, src, w)
		} else {
			err = m.getByEngine(getCtx, src, w)
		}
		w.CloseWithError(err)
		sent <- err
	}()
	serr := into.ReadTar(ctx, r)
	if serr == nil {
		// The sender may still be at the padding after the archive's end.
		if n, _ := io.CopyN(io.Discard, r, 1<<20); n == 1<<20 {
			serr = errors.New("data follow after the end of the tar stream")
		}
	}
	if serr != nil {
		cancel()
	}
	r.CloseWithError(io.ErrClosedPipe)
	err := <-sent
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	// A sink that gave up is why the sender was stopped; a sender that failed
	// is why the sink saw the stream end.
	case err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, io.ErrClosedPipe):
		return fmt.Errorf("read %s in container %s: %w", src, m.cfg.Container, err)
	case serr != nil:
		return fmt.Errorf("take %s from container %s: %w", src, m.cfg.Container, serr)
	}
	return nil
}

func (m *docker) getByTar(ctx context.Context, src string, w io.Writer) error {
	s := pathArg(src)
	line := "if [ -d " + machine.Quote(s) + " ]; then cd " + machine.Quote(s) + " && exec tar -c -f - .; fi\n" +
		need(s) + "cd " + machine.Quote(pathArg(path.Dir(s))) + " && exec tar -c -h -f - " + machine.Quote("./"+path.Base(s))
	stderr := &tail{}
	err := m.Run(ctx, machine.Command{Line: line, Stdout: w, Stderr: stderr})
	if exit, ok := errors.AsType[*machine.ExitError](err); ok && exit.Status != machine.DisconnectStatus {
		return fmt.Errorf("%w%s", err, said(stderr.String()))
	}
	return err
}

func (m *docker) getByEngine(ctx context.Context, src string, w io.Writer) error {
	s := pathArg(src)
	q := machine.Quote(s)
	dir, mounts, err := m.place(ctx, need(s)+"[ -r "+q+` ] || { echo "this user may not read it" >&2; exit 1; }`+"\n"+
		"if [ -d "+q+" ]; then cd "+q+"; else cd "+machine.Quote(pathArg(path.Dir(s)))+" && file=yes; fi")
	if err != nil {
		return err
	}
	isFile := mounts[0] == "yes"
	from := dir + "/."
	name := ""
	if isFile {
		from = path.Join(dir, path.Base(s))
		if !m.sees(mounts, from) {
			return unseen(from)
		}
		stat, err := m.cli.ContainerStatPath(ctx, m.id, client.ContainerStatPathOptions{Path: from})
		if err != nil {
			return m.explain(ctx, err)
		}
		if target := stat.Stat.LinkTarget; stat.Stat.Mode&fs.ModeSymlink != 0 && target != "" {
			if from = target; !m.sees(mounts, from) {
				return unseen(from)
			}
		}
		if name = path.Base(from); !utf8.ValidString(name) {
			// The engine finds nothing of such a name; it is among the others.
			from = path.Dir(from) + "/."
		}
	} else {
		for _, at := range append(mounts, dir) {
			if below(dir, at) && !m.sees(mounts, at) {
				return unseen(at)
			}
		}
	}
	res, err := m.cli.CopyFromContainer(ctx, m.id, client.CopyFromContainerOptions{SourcePath: from})
	if err != nil {
		return m.explain(ctx, err)
	}
	defer res.Content.Close()
	came := 0
	err = retar(w, res.Content, func(h *tar.Header) bool {
		if isFile && path.Clean(h.Name) != name {
			return false
		}
		if isFile {
			h.Name = path.Base(s)
		}
		came++
		return true
	})
	if err == nil && came == 0 {
		err = errors.New("it sent nothing")
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("the Docker engine at %s: %w", m.address, err)
	}
	return err
}

// need is the part of a script that ends it unless src is there.
func need(src string) string {
	return "[ -e " + machine.Quote(src) + " ] || { printf '%s: no such file or directory\\n' " + machine.Quote(src) + " >&2; exit 1; }\n"
}

// place runs a script that goes to a directory, and says which one it is and
// what is mounted in the container. The first of mounts is the script's $file.
func (m *docker) place(ctx context.Context, script string) (dir string, mounts []string, err error) {
	var out bytes.Buffer
	stderr := &tail{}
	err = m.Run(ctx, machine.Command{Line: script + "\n[ $? = 0 ] || exit 1\npwd -P; printf '//\\n%s\\n' \"$file\"\n" +
		`while read -r a b c d at x; do printf '%s\n' "$at"; done </proc/self/mountinfo`, Stdout: &out, Stderr: stderr})
	if err != nil {
		return "", nil, fmt.Errorf("%w%s", err, said(stderr.String()))
	}
	dir, list, ok := strings.Cut(out.String(), "\n//\n")
	if !ok || !path.IsAbs(dir) {
		return "", nil, fmt.Errorf("the container's shell answered %.200q", out.String())
	}
	for line := range strings.Lines(list) {
		mounts = append(mounts, unescapeMount(strings.TrimSuffix(line, "\n")))
	}
	return dir, mounts, nil
}

// sees says whether the engine's archive calls see the same file as the
// container does: whether it lies on a mount that the engine made from a directory.
func (m *docker) sees(mounts []string, file string) bool {
	on := "/"
	for _, at := range mounts {
		if below(at, file) && len(at) > len(on) {
			on = at
		}
	}
	return slices.Contains(m.visible, on)
}

func below(dir, file string) bool {
	return dir == "/" || file == dir || strings.HasPrefix(file, dir+"/")
}

func unseen(file string) error {
	return fmt.Errorf("%s is on a file system that only the container sees, such as a tmpfs, and the container has no tar: install tar in it, or use another path", file)
}

// unescapeMount undoes the octal escapes of /proc/self/mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// retar copies the entries of a tar stream that keep, which may change their
// headers, says yes to.
func retar(w io.Writer, r io.Reader, keep func(*tar.Header) bool) error {
	buf := bufio.NewWriterSize(w, 64<<10)
	tr, tw := tar.NewReader(r), tar.NewWriter(buf)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if !keep(h) {
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// pathArg keeps a path from being taken for an option.
func pathArg(p string) string {
	switch {
	case p == "":
		return "."
	case p[0] == '-':
		return "./" + p
	}
	return p
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

const tailSize = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[max(0, len(p)-tailSize):]...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

// lastLine keeps the last line that was begun.
type lastLine struct{ tail }

func (l *lastLine) line() string {
	s := strings.TrimSuffix(l.String(), "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}
