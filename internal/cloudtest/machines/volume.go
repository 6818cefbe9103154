//go:build linux

package machines

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/internal/sandbox"
)

// Volume is a disk that can be written to. It begins as a tree of layers and
// becomes a raw image when a block device is first made of it.
type Volume struct {
	h    *Host
	dir  string // upper and work of a machine stand here, or the raw image
	size int64

	mu      sync.Mutex
	removed bool
	user    string   // who has it; empty: nobody
	running *Machine // the machine that has it for its root and runs
	loop    *os.File // the block device while there is one
	raw     bool     // all that the disk holds stands in the raw image
	lower   stack    // otherwise: what is below the upper directory
	made    []string // mount points that machines have made in the upper directory
}

// NewVolume makes a disk of size bytes from a content; nil: blank. The size may be
// 0 where there is a content: what that has, or 8 GiB.
func (h *Host) NewVolume(from *Content, size int64) (*Volume, error) {
	v := &Volume{h: h, size: size}
	if from == nil {
		if size <= 0 {
			return nil, errors.New("make a blank disk: it needs a size")
		}
	} else {
		s, err := from.stack()
		if err != nil {
			return nil, fmt.Errorf("make a disk: %w", err)
		}
		if size == 0 {
			v.size = max(from.size, 8<<30)
			if from.size > 0 {
				v.size = from.size
			}
		}
		if v.size < from.size {
			return nil, fmt.Errorf("make a disk of %d bytes: its content has %d", size, from.size)
		}
		v.lower = h.retain(s)
	}
	var err error
	if v.dir, err = h.newDir("volumes"); err != nil {
		return nil, errors.Join(err, h.release(v.lower))
	}
	h.mu.Lock()
	h.volumes[v] = true
	h.mu.Unlock()
	return v, nil
}

// Size is the disk's size in bytes.
func (v *Volume) Size() int64 { return v.size }

func (v *Volume) rawFile() string { return filepath.Join(v.dir, "disk.raw") }
func (v *Volume) upper() string   { return filepath.Join(v.dir, "upper") }

// touched says whether a machine has run on the disk since it last was all lower.
func (v *Volume) touched() bool {
	_, err := os.Lstat(v.upper())
	return err == nil
}

// take makes user the one who has the disk. The caller holds mu.
func (v *Volume) take(user string) error {
	if v.removed {
		return errors.New("the volume has been removed")
	}
	if v.user != "" {
		return fmt.Errorf("the volume is in use by %s", v.user)
	}
	v.user = user
	return nil
}

// Remove takes the disk away. Content made of it stays. It is idempotent.
func (v *Volume) Remove() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.removed {
		return nil
	}
	if v.user != "" {
		return fmt.Errorf("remove a volume: it is in use by %s", v.user)
	}
	v.removed = true
	v.h.mu.Lock()
	delete(v.h.volumes, v)
	v.h.mu.Unlock()
	err := errors.Join(sandbox.Remove(v.dir), v.h.release(v.lower))
	v.lower = stack{}
	return err
}

// Content is a copy of the disk at this moment. The disk of a stopped machine, or
// one that nobody has, costs nothing to copy. A running machine is halted
// for as long as it takes, and what its programs have not written yet is
// missing, as on a disk that is cut off. A disk that is mounted is synced before.
func (v *Volume) Content() (_ *Content, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("image a volume: %w", err)
		}
	}()
	if v.removed {
		return nil, errors.New("it has been removed")
	}
	c := &Content{h: v.h, size: v.size}
	switch {
	case v.raw && v.user == "":
		err = v.freeze()
	case v.raw:
		return v.copyRaw(c)
	case v.running != nil:
		return v.copyUpper(c)
	case v.touched():
		err = v.push()
	}
	if err != nil {
		return nil, err
	}
	if v.lower.kind == kindBlank {
		if err := v.makeRaw(context.Background()); err != nil {
			return nil, err
		}
		if err := v.freeze(); err != nil {
			return nil, err
		}
	}
	c.s = v.h.retain(v.lower)
	return c, nil
}

// freeze makes the raw image the disk's content, which must not change any more.
func (v *Volume) freeze() error {
	if err := settle(v.rawFile()); err != nil {
		return err
	}
	d, err := v.h.newDir("layers")
	if err != nil {
		return err
	}
	to := filepath.Join(d, "disk.raw")
	if err := os.Rename(v.rawFile(), to); err != nil {
		return err
	}
	v.raw, v.lower = false, stack{kind: kindRaw, path: to, owned: &stored{dir: d, uses: 1}}
	return nil
}

// push makes what machines have changed a layer of its own.
func (v *Volume) push() error {
	if err := v.restore(v.dir); err != nil {
		return err
	}
	d, err := v.h.newDir("layers")
	if err != nil {
		return err
	}
	if err := os.Rename(v.upper(), filepath.Join(d, "upper")); err != nil {
		return err
	}
	v.made = nil
	v.lower.layers = append([]*stored{{dir: d, uses: 1}}, v.lower.layers...)
	return nil
}

// restore takes what only a running machine needs out of dir/upper.
func (v *Volume) restore(dir string) error {
	dirs, _, err := v.lower.dirs()
	if err != nil {
		return err
	}
	if err := sandbox.Restore(dir, dirs, v.made); err != nil {
		return err
	}
	return removeShims(filepath.Join(dir, "upper"))
}

func (v *Volume) copyUpper(c *Content) (_ *Content, err error) {
	d, err := v.h.newDir("layers")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sandbox.Remove(d))
		}
	}()
	resume, err := v.running.pause()
	if err != nil {
		return nil, err
	}
	// Whiteouts, attributes and links belong to the layer; cp knows them all.
	err = tool(context.Background(), "cp", "-a", "--reflink=auto", v.upper(), filepath.Join(d, "upper"))
	if err = errors.Join(err, resume()); err != nil {
		return nil, err
	}
	if err := v.restore(d); err != nil {
		return nil, err
	}
	s := v.h.retain(v.lower)
	s.layers = append([]*stored{{dir: d, uses: 1}}, s.layers...)
	c.s = s
	return c, nil
}

func (v *Volume) copyRaw(c *Content) (*Content, error) {
	if v.loop != nil {
		if err := syncDevice(v.loop); err != nil {
			return nil, err
		}
	}
	d, err := v.h.newDir("layers")
	if err != nil {
		return nil, err
	}
	to := filepath.Join(d, "disk.raw")
	if err = copySparse(v.rawFile(), to, 0); err == nil {
		err = settle(to)
	}
	if err != nil {
		return nil, errors.Join(err, sandbox.Remove(d))
	}
	c.s = stack{kind: kindRaw, path: to, owned: &stored{dir: d, uses: 1}}
	return c, nil
}

// syncDevice writes what the kernel keeps of a block device, and of the file
// systems that are mounted from it here, to its file.
func syncDevice(dev *os.File) error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer mounts.Close()
	for s := bufio.NewScanner(mounts); s.Scan(); {
		pre, post, _ := strings.Cut(s.Text(), " - ")
		a, b := strings.Fields(pre), strings.Fields(post)
		if len(a) < 5 || len(b) < 2 || (b[1] != dev.Name() && !strings.HasPrefix(b[1], dev.Name()+"p")) {
			continue
		}
		f, err := os.Open(strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(a[4]))
		if err != nil {
			continue // covered by another mount, or gone
		}
		err = unix.Syncfs(int(f.Fd()))
		f.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", a[4], err)
		}
	}
	return dev.Sync()
}

// makeRaw makes the raw image of all that the disk holds.
func (v *Volume) makeRaw(ctx context.Context) error {
	if v.raw {
		return nil
	}
	var err error
	switch s := v.lower; {
	case s.kind == kindBlank:
		var f *os.File
		if f, err = os.OpenFile(v.rawFile(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			err = errors.Join(f.Truncate(v.size), f.Close())
		}
	case s.kind == kindHost:
		return errors.New("this host's own root is too large to make a block device of: take a TreeContent or a RawContent")
	case s.kind == kindRaw && len(s.layers) == 0 && !v.touched():
		err = copySparse(s.path, v.rawFile(), v.size)
	default:
		var above []string
		if v.touched() {
			if err := v.restore(v.dir); err != nil {
				return err
			}
			above = []string{v.upper()}
		}
		err = v.h.view(ctx, s, above, taskExt4, ext4Input{File: v.rawFile(), Size: v.size}, new(any))
	}
	if err != nil {
		return errors.Join(err, removeIfThere(v.rawFile()))
	}
	s := v.lower
	v.raw, v.lower, v.made = true, stack{}, nil
	return errors.Join(sandbox.Remove(v.upper()), v.h.release(s))
}

func removeIfThere(p string) error {
	if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// open makes a block device of the disk. The caller has taken it.
func (v *Volume) open(ctx context.Context) error {
	if err := v.makeRaw(ctx); err != nil {
		return err
	}
	dev, err := sandbox.AttachLoop(v.rawFile(), sandbox.Loop{Partitions: true})
	if err != nil {
		return err
	}
	v.loop = dev
	if err := addPartition(dev, v.rawFile()); err != nil {
		return errors.Join(err, v.shut())
	}
	return nil
}

// shut takes the block device away, once its last mount is gone.
func (v *Volume) shut() error {
	if v.loop == nil {
		return nil
	}
	err := errors.Join(v.loop.Sync(), v.loop.Close())
	v.loop = nil
	return err
}

// attachedHere is who has a disk that is attached to this host.
const attachedHere = "this host"

// AttachHere makes the disk a block device of this host, e.g. /dev/loop3, with
// its partitions, if it has any, as /dev/loop3p1. A disk that was a tree is made
// an ext4 file system without a partition table. It needs root.
func (v *Volume) AttachHere() (device string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.take(attachedHere); err != nil {
		return "", fmt.Errorf("attach a volume here: %w", err)
	}
	if err := v.open(context.Background()); err != nil {
		v.user = ""
		return "", fmt.Errorf("attach a volume here: %w", err)
	}
	return v.loop.Name(), nil
}

// DetachHere takes the device of AttachHere away. One that is still mounted is an
// error. It does nothing for a disk that is not attached here.
func (v *Volume) DetachHere() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.user != attachedHere {
		return nil
	}
	if at := mountedAt(v.loop.Name()); at != "" {
		return fmt.Errorf("detach a volume: %s is still mounted at %s", v.loop.Name(), at)
	}
	v.user = ""
	return v.shut()
}

// drop is DetachHere for a Host that closes: the device goes as soon as its last
// mount does.
func (v *Volume) drop() error {
	err := v.DetachHere()
	if err == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.user = ""
	return errors.Join(err, v.shut())
}

// mountedAt is where a device or a partition of it is mounted here; empty: nowhere.
func mountedAt(dev string) string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 1 && (f[0] == dev || strings.HasPrefix(f[0], dev+"p")) {
			return f[1]
		}
	}
	return ""
}
