//go:build linux

package machines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandbox"
)

// kind is what stands lowest in a stack.
type kind int

const (
	kindBlank kind = iota // nothing at all
	kindHost              // this host's own root
	kindTree              // a directory
	kindRaw               // a disk image
)

// stored is a directory of the Host's that goes with the last that needs it.
type stored struct {
	dir  string
	uses int
}

// stack is what a disk holds, immutable: a base and the changes above it.
type stack struct {
	kind   kind
	path   string    // the tree or the image
	owned  *stored   // unless nil, holds the image
	layers []*stored // topmost first; the changes stand in upper
}

// parts are what a stack shares with others.
func (s stack) parts() []*stored {
	if s.owned != nil {
		return append([]*stored{s.owned}, s.layers...)
	}
	return s.layers
}

// dirs are the layers' directories, topmost first, as the sandbox takes them,
// and the image below them if there is one.
func (s stack) dirs() (dirs []string, img *sandbox.Image, err error) {
	for _, l := range s.layers {
		dirs = append(dirs, filepath.Join(l.dir, "upper"))
	}
	switch s.kind {
	case kindHost:
		return append(dirs, sandbox.HostBase), nil, nil
	case kindTree:
		return append(dirs, s.path), nil, nil
	case kindRaw:
		img, err := findRoot(s.path)
		return dirs, img, err
	}
	return nil, nil, errors.New("the disk is blank")
}

func (h *Host) retain(s stack) stack {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range s.parts() {
		p.uses++
	}
	return s
}

func (h *Host) release(s stack) error {
	var gone []string
	h.mu.Lock()
	for _, p := range s.parts() {
		if p.uses--; p.uses == 0 {
			gone = append(gone, p.dir)
		}
	}
	h.mu.Unlock()
	var errs []error
	for _, d := range gone {
		errs = append(errs, sandbox.Remove(d))
	}
	return errors.Join(errs...)
}

// Content is what a snapshot holds. It never changes.
type Content struct {
	h *Host
	s stack
	// size is what a volume of it has at the least, in bytes; 0: any.
	size int64
}

// HostContent is this host's own root, as a sandbox machine on sandbox.HostBase sees it.
func (h *Host) HostContent() *Content { return &Content{h: h, s: stack{kind: kindHost}} }

// TreeContent is a directory, which must stay as it is.
func (h *Host) TreeContent(dir string) *Content {
	return &Content{h: h, s: stack{kind: kindTree, path: abs(dir)}}
}

// RawContent is a raw disk image, which must stay as it is: an ext4 file system
// on the whole disk or in its first partition (MBR or GPT). Others are content
// too, but no machine boots from them.
func (h *Host) RawContent(file string) *Content {
	c := &Content{h: h, s: stack{kind: kindRaw, path: abs(file)}}
	if fi, err := os.Stat(file); err == nil { // whoever uses it meets the error
		c.size = fi.Size()
	}
	return c
}

func abs(p string) string {
	if a, err := filepath.Abs(p); err == nil {
		return a
	}
	return p
}

// Remove gives the content up: no volume can be made of it any more. Those that
// were live on. What it was given (a tree, a raw file) stays.
func (c *Content) Remove() error {
	c.h.mu.Lock()
	s := c.s
	c.s = stack{}
	c.h.mu.Unlock()
	return c.h.release(s)
}

func (c *Content) stack() (stack, error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.s.kind == kindBlank {
		return stack{}, errors.New("the content has been removed")
	}
	return c.s, nil
}

// maxRead is the largest file that ReadFile reads, in bytes.
const maxRead = 16 << 20

// ReadFile reads a file of the content, by its path there. Links are followed as
// the machine would. Where there is no such file, the error is os.ErrNotExist.
func (c *Content) ReadFile(name string) ([]byte, error) {
	s, err := c.stack()
	if err != nil {
		return nil, err
	}
	c.h.retain(s)
	defer c.h.release(s)
	var out readResult
	if err := c.h.view(context.Background(), s, nil, taskRead, name, &out); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if out.Missing {
		return nil, fmt.Errorf("read %s: %w", name, os.ErrNotExist)
	}
	return out.Data, nil
}

// view runs a task on the merged tree of the directories above and a stack.
func (h *Host) view(ctx context.Context, s stack, above []string, task string, in, out any) error {
	dirs, img, err := s.dirs()
	if err != nil {
		return err
	}
	at, err := h.newDir("layers")
	if err != nil {
		return err
	}
	defer sandbox.Remove(at)
	return sandbox.RunInView(ctx, sandbox.View{Dir: at, Layers: append(above, dirs...), Image: img}, task, in, out)
}

// The tasks that this package does in another process of the same program.
const (
	taskRead = "cloudtest-machines-read"
	taskExt4 = "cloudtest-machines-ext4"
)

// Tasks are what a program that uses this package hands to sandbox.Reexec.
func Tasks() sandbox.Tasks { return sandbox.Tasks{taskRead: readTask, taskExt4: ext4Task} }

// Reexec is sandbox.Reexec with this package's tasks and further ones.
func Reexec(more sandbox.Tasks) {
	tasks := Tasks()
	for k, t := range more {
		tasks[k] = t
	}
	sandbox.Reexec(tasks)
}

type readResult struct {
	Data    []byte `json:"data,omitempty"`
	Missing bool   `json:"missing,omitempty"`
}

func readTask(_ context.Context, tree string, input json.RawMessage) (any, error) {
	var name string
	if err := json.Unmarshal(input, &name); err != nil {
		return nil, err
	}
	// This process does nothing else, so that links may name anything.
	if err := unix.Chroot(tree); err != nil {
		return nil, err
	}
	name = filepath.Clean("/" + name)
	fi, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return readResult{Missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxRead {
		return nil, fmt.Errorf("it is no file of at most %d MiB", maxRead>>20)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return readResult{Data: b}, err
}
