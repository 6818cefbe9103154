package sshmachine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

// One channel has a window of 2 MiB: no more is on its way at once, which at
// 40 ms is 50 MB/s, whatever the line could carry. So a long stream to or from
// a machine that is far away is dealt out over several channels, block by
// block, and put together again by fifos on the machine.

const (
	// farAway is from which round trip on the window is felt.
	farAway = 10 * time.Millisecond
	// lanes are the channels of one stream, besides its own.
	lanes = 4
	// block is what is dealt out at a time.
	block = 1 << 20
	// undivided is the length up to which a stream goes through one channel.
	undivided = 2 * block
)

// far says that long streams are to be dealt out.
func (m *Machine) far() bool {
	return m.about.stripes && time.Duration(m.away.Load()) >= farAway
}

// fifos is sh that makes a directory with one fifo for each lane, and removes
// it at the end.
func fifos(dir string) string {
	return "d=" + dir + "\n" + `umask 077; mkdir "$d" && trap 'rm -rf "$d"' EXIT && trap 'exit 1' HUP INT TERM || exit
mkfifo "$d/3" "$d/4" "$d/5" "$d/6" || exit
`
}

// unstripe reads lines of a lane and a size, and prints the blocks they stand for.
const unstripe = `exec 3<"$d/3" 4<"$d/4" 5<"$d/5" 6<"$d/6" || exit
while read -r lane n; do
	[ $lane != end ] || { : >"$d/end"; break; }
	dd bs=$n count=1 iflag=fullblock <&$lane 2>/dev/null || break
done`

// stripe prints the first two blocks of its input, and deals out the others.
const stripe = `n=$(LC_ALL=C dd bs=1048576 count=2 iflag=fullblock 2>&1 >&9) || { echo "$n" >&2; exit 1; }
case $n in 2+0*) ;; *) exit 0;; esac
echo "$KEY" >&2
exec 3>"$d/3" 4>"$d/4" 5>"$d/5" 6>"$d/6" || exit
while :; do for lane in 3 4 5 6; do
	n=$(LC_ALL=C dd bs=1048576 count=1 iflag=fullblock 2>&1 >&$lane) || { echo "$n" >&2; exit 1; }
	case $n in 1+0*) ;; *) exit 0;; esac
done; done`

// lane runs a lane's job, on a connection of its own where no session is left.
func (m *Machine) lane(ctx context.Context, j job) error {
	var said tail
	j.stderr = &said
	if m.slots.try() {
		defer m.slots.give()
		l, err := m.live(ctx)
		if err != nil {
			return err
		}
		j.on = l
		err = m.do(ctx, j)
		if _, refused := errors.AsType[*ssh.OpenChannelError](err); !refused {
			return transferError(err, &said)
		}
	}
	own, err := m.dialOnce(ctx, dialTimeout)
	if err != nil {
		return err
	}
	defer own.close()
	j.on = own
	return transferError(m.do(ctx, j), &said)
}

// wait is sh that waits for the fifo of a lane.
func wait(dir string, lane int) string {
	return fmt.Sprintf("f=%s/%d; until [ -p $f ]; do sleep 0.05 2>/dev/null || sleep 1; done\n", dir, lane+3)
}

// crew is what runs together: the first error ends all.
type crew struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

func newCrew(ctx context.Context) *crew {
	c := &crew{}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

func (c *crew) do(f func(ctx context.Context) error) {
	c.wg.Go(func() {
		if err := f(c.ctx); err != nil {
			c.cancel(err)
		}
	})
}

// end waits for all, and returns the first error.
func (c *crew) end() error {
	c.wg.Wait()
	err := context.Cause(c.ctx)
	c.cancel(nil)
	return err
}

// blocks is a reader of blocks that come over a channel. nil ends it.
type blocks struct {
	ctx  context.Context
	in   <-chan []byte
	left []byte
}

func (b *blocks) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		select {
		case next, ok := <-b.in:
			if !ok {
				return 0, io.EOF
			}
			b.left = next
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		}
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

// putStriped unpacks a tree in the directory that the script dir enters.
func (m *Machine) putStriped(ctx context.Context, dir string, tree machine.Tree) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	all := newCrew(ctx)
	r, w := io.Pipe()
	all.do(func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })()
		err := tree.WriteTar(ctx, w)
		w.CloseWithError(err)
		if errors.Is(err, io.ErrClosedPipe) {
			return nil
		}
		return err
	})
	head := make([]byte, undivided)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		all.cancel(err)
		return all.end()
	}
	if err != nil { // it is short
		all.do(func(ctx context.Context) error {
			var said tail
			err := m.do(ctx, job{text: dir + " && " + m.unpack(), stdin: bytes.NewReader(head[:n]), stderr: &said})
			return transferError(err, &said)
		})
		return all.end()
	}
	at := "/tmp/.ingot-" + rand.Text()
	sizes, control := io.Pipe()
	// The lanes take no session before the command has one that it waits for them in.
	begun := make(chan struct{})
	var queue [lanes]chan []byte
	for i := range queue {
		queue[i] = make(chan []byte, 2)
		all.do(func(ctx context.Context) error {
			select {
			case <-begun:
			case <-ctx.Done():
				return nil
			}
			return m.lane(ctx, job{text: wait(at, i) + "exec cat >$f", stdin: &blocks{ctx: ctx, in: queue[i]}})
		})
	}
	all.do(func(ctx context.Context) error {
		defer r.CloseWithError(io.ErrClosedPipe)
		defer sizes.CloseWithError(io.ErrClosedPipe)
		var said tail
		text := dir + " || exit\n" + fifos(at) + "(" + unstripe + ") | { " + m.unpack() + "; } && [ -e \"$d/end\" ]"
		return transferError(m.do(ctx, job{text: text, stdin: sizes, stderr: &said, opened: func() { close(begun) }}), &said)
	})
	all.do(func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { control.CloseWithError(context.Cause(ctx)) })()
		in := io.MultiReader(bytes.NewReader(head), r)
		for i := 0; ; i = (i + 1) % lanes {
			b := make([]byte, block)
			n, err := io.ReadFull(in, b)
			if n > 0 {
				// The size goes first, since the block may wait for its being read.
				if _, err := fmt.Fprintf(control, "%d %d\n", i+3, n); err != nil {
					return stopped(err)
				}
				select {
				case queue[i] <- b[:n]:
				case <-ctx.Done():
					return nil
				}
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			}
			if err != nil {
				return stopped(err)
			}
		}
		for _, q := range queue {
			close(q)
		}
		_, err := io.WriteString(control, "end 0\n")
		control.Close()
		return stopped(err)
	})
	return all.end()
}

// stopped is no error where the other side tells why.
func stopped(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// getStriped gives a sink the tar stream that a script prints.
func (m *Machine) getStriped(ctx context.Context, text string, into machine.Sink) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, mark := "/tmp/.ingot-"+rand.Text(), rand.Text()
	all := newCrew(ctx)
	r, w := io.Pipe()
	headR, headW := io.Pipe()
	var laneR [lanes]*io.PipeReader
	var laneW [lanes]*io.PipeWriter
	for i := range laneR {
		laneR[i], laneW[i] = io.Pipe()
	}
	shut := func(err error) {
		headR.CloseWithError(err)
		w.CloseWithError(err)
		for i := range laneR {
			laneR[i].CloseWithError(err)
			laneW[i].CloseWithError(err)
		}
	}
	defer context.AfterFunc(all.ctx, func() { shut(context.Cause(all.ctx)) })()

	var once sync.Once
	said := &tail{}
	announce := &marked{mark: mark + "\n", next: said, found: func() {
		once.Do(func() {
			for i := range laneW {
				all.do(func(ctx context.Context) error {
					err := m.lane(ctx, job{text: wait(at, i) + "exec cat <$f", stdout: laneW[i]})
					laneW[i].CloseWithError(err)
					return err
				})
			}
		})
	}}
	all.do(func(ctx context.Context) error {
		// The head ends with the command, which is after the lanes have been
		// filled: they are read beside it.
		script := fifos(at) + "KEY=" + mark + "\n{ (" + text + "); echo $? >\"$d/status\"; } | (" + stripe + ") 9>&1 && read -r s <\"$d/status\" && exit $s"
		err := m.do(ctx, job{text: script, stdout: headW, stderr: announce})
		_, _ = said.Write(announce.held)
		err = transferError(err, said)
		headW.CloseWithError(err)
		return err
	})
	all.do(func(context.Context) error {
		err := func() error {
			n, err := io.CopyN(w, headR, undivided)
			if err == io.EOF && n < undivided {
				return nil
			}
			if err != nil {
				return err
			}
			rest := make(chan error, 1)
			go func() { // nothing may follow but the end
				n, err := io.Copy(io.Discard, headR)
				if n > 0 && err == nil {
					err = errors.New("the machine sent more than it said")
				}
				rest <- err
			}()
			for i := 0; ; i = (i + 1) % lanes {
				n, err := io.CopyN(w, laneR[i], block)
				if err != nil && err != io.EOF {
					return err
				}
				if n < block {
					break
				}
			}
			for i := range laneR {
				if n, err := io.Copy(io.Discard, laneR[i]); err != nil || n > 0 {
					return errors.Join(err, errors.New("the machine's stream is in disorder"))
				}
			}
			return <-rest
		}()
		w.CloseWithError(err)
		return stopped(err)
	})
	all.do(func(ctx context.Context) error {
		err := into.ReadTar(ctx, r)
		r.CloseWithError(io.ErrClosedPipe)
		if err != nil && ctx.Err() != nil {
			return nil // the cause is known
		}
		return err
	})
	return all.end()
}

// marked passes on what is written but the mark, and tells when that came.
type marked struct {
	mark  string
	next  io.Writer
	found func()
	held  []byte
}

func (m *marked) Write(p []byte) (int, error) {
	m.held = append(m.held, p...)
	if i := bytes.Index(m.held, []byte(m.mark)); i >= 0 {
		m.held = append(m.held[:i], m.held[i+len(m.mark):]...)
		m.found()
	}
	keep := min(len(m.held), len(m.mark)-1)
	if _, err := m.next.Write(m.held[:len(m.held)-keep]); err != nil {
		return 0, err
	}
	m.held = append(m.held[:0], m.held[len(m.held)-keep:]...)
	return len(p), nil
}
