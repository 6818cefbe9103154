package sshmachine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ingotbuild/ingot/machine"
)

// way is how files go to and from the machine.
type way int

const (
	byTar way = iota
	bySFTP
	byFrames
)

// way chooses: one tar stream where there is tar, and where it is not
// forbidden sftp before a script.
func (m *Machine) way() way {
	switch {
	case m.cfg.Transfer == "sftp":
		return bySFTP
	case m.about.tar:
		return byTar
	case m.cfg.Transfer == "scp" || m.noSFTP.Load():
		return byFrames
	}
	return bySFTP
}

// instead says whether err is only that there is no sftp, where it need not be.
func (m *Machine) instead(err error) bool {
	if m.cfg.Transfer != "" || !errors.Is(err, errNoSFTP) {
		return false
	}
	m.noSFTP.Store(true)
	return true
}

// unpack takes all of its input, even what follows the end of the archive.
func (m *Machine) unpack() string {
	if m.about.gnuTar {
		return "tar xpf - -b 512 --keep-directory-symlink && cat >/dev/null" // which reads 256 KiB at a time, not 10
	}
	// BusyBox does not say which file there was no room for.
	return "tar xpvf - && cat >/dev/null"
}

// Put implements machine.Machine.
func (m *Machine) Put(ctx context.Context, dst string, tree machine.Tree) error {
	switch m.way() {
	case byTar:
		q := machine.Quote(dst)
		dir := "mkdir -p -- " + q + " && cd -- " + q
		if m.far() {
			return m.putStriped(ctx, dir, tree)
		}
		return m.putStream(ctx, dir+" && "+m.unpack(), tree)
	case bySFTP:
		if err := m.putSFTP(ctx, dst, tree); !m.instead(err) {
			return err
		}
	}
	return m.putFrames(ctx, dst, tree)
}

// putStream runs a script with a tree as its input.
func (m *Machine) putStream(ctx context.Context, text string, tree machine.Tree) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		// Headers and small files by themselves would be a packet each.
		b := bufio.NewWriterSize(w, 256<<10)
		err := tree.WriteTar(writing, b)
		if err == nil {
			err = b.Flush()
		}
		w.CloseWithError(err)
		wrote <- err
	}()
	var names, said tail
	err := m.do(ctx, job{text: text, stdin: r, stdout: &names, stderr: &said})
	r.CloseWithError(io.ErrClosedPipe)
	stop()
	// The tree's own error is the cause, unless the machine stopped it.
	if werr := <-wrote; werr != nil && ctx.Err() == nil && !errors.Is(werr, io.ErrClosedPipe) && !errors.Is(werr, context.Canceled) {
		return werr
	}
	err = transferError(err, &said)
	if at := names.last(); err != nil && at != "" {
		return fmt.Errorf("%w, at %q", err, at)
	}
	return err
}

func transferError(err error, said *tail) error {
	exit, ok := errors.AsType[*machine.ExitError](err)
	switch {
	case err == nil:
		return nil
	case !ok:
		return err
	case exit.Status == machine.DisconnectStatus:
		return errors.New("the connection to the machine was lost in the middle of a transfer")
	}
	if text := said.after(); text != "" {
		return fmt.Errorf("the machine says%s (exit status %d)", text, exit.Status)
	}
	return fmt.Errorf("the transfer ended with exit status %d on the machine", exit.Status)
}

// getScript streams the file or directory $s as tar. A link is followed at the
// top only. ./ keeps odd names from being options.
const getScript = `if [ -d "$s" ]; then cd -- "$s" && exec tar cf - .
elif [ -e "$s" ]; then
	case $s in */*) d=${s%/*}/ b=${s##*/};; *) d=. b=$s;; esac
	cd -- "$d" && exec tar chf - "./$b"
else echo "$s: no such file or directory" >&2; exit 1
fi`

// Get implements machine.Machine.
func (m *Machine) Get(ctx context.Context, src string, into machine.Sink) error {
	switch m.way() {
	case byTar:
		text := "s=" + machine.Quote(src) + "\n" + getScript
		if m.far() {
			return m.getStriped(ctx, text, into)
		}
		return m.getStream(ctx, text, into)
	case bySFTP:
		if err := m.getSFTP(ctx, src, into); !m.instead(err) {
			return err
		}
	}
	return m.getFrames(ctx, src, into)
}

// getStream runs a script whose output is a tree.
func (m *Machine) getStream(ctx context.Context, text string, into machine.Sink) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, w := io.Pipe()
	var said tail
	ran := make(chan error, 1)
	go func() {
		err := m.do(ctx, job{text: text, stdout: w, stderr: &said})
		err = transferError(err, &said)
		w.CloseWithError(err) // nil: the end
		ran <- err
	}()
	err := into.ReadTar(ctx, r)
	r.CloseWithError(io.ErrClosedPipe)
	remote := <-ran
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case remote != nil && !errors.Is(remote, io.ErrClosedPipe):
		return remote
	}
	return err
}
