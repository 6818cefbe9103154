package imagefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// PackOptions say how a delta becomes a layer.
type PackOptions struct {
	// Compression is CompressZstd (the default), CompressGzip or CompressNone.
	Compression string
	// Level is the compression's own level; 0 is its default (zstd 3, gzip 6).
	Level int
	// Epoch clamps file times: later ones become this. Zero: times are kept.
	Epoch time.Time
	// Exclude are paths relative to the tree that are left out, with all below them.
	Exclude []string
	// Workers compress at the same time; 0: one per CPU. The result is the same.
	Workers int
}

type packOptions struct {
	epoch   time.Time
	exclude []string // clean and relative
	overlay bool     // the tree is an overlay upper directory
	layer   bool     // the tar will be a layer: names of OCI whiteouts are refused
}

func newPackOptions(epoch time.Time, exclude []string, overlay bool) (packOptions, error) {
	o := packOptions{epoch: epoch, overlay: overlay}
	for _, p := range exclude {
		if !filepath.IsLocal(p) || filepath.Clean(p) == "." {
			return o, fmt.Errorf("cannot leave out %q: want a path relative to the tree and inside it", p)
		}
		o.exclude = append(o.exclude, filepath.ToSlash(filepath.Clean(p)))
	}
	return o, nil
}

// clamp cuts to whole seconds, because anything finer would cost an extra tar
// header per file.
func clamp(t, epoch time.Time) time.Time {
	t = time.Unix(t.Unix(), 0)
	if !epoch.IsZero() && t.After(epoch) {
		return time.Unix(epoch.Unix(), 0)
	}
	return t
}

// PackDelta packs an overlay upper directory into an OCI layer in the store:
// overlay whiteouts and opaque directories become OCI's. The same tree gives
// the same bytes. Nothing may write to upper meanwhile.
func (s *Store) PackDelta(ctx context.Context, upper string, opt PackOptions) (Layer, error) {
	po, err := newPackOptions(opt.Epoch, opt.Exclude, true)
	if err == nil {
		var l Layer
		if l, err = s.packTree(ctx, upper, po, opt); err == nil {
			return l, nil
		}
	}
	return Layer{}, fmt.Errorf("pack layer from %s: %w", upper, err)
}

// packTree packs a tree into a blob.
func (s *Store) packTree(ctx context.Context, dir string, po packOptions, opt PackOptions) (Layer, error) {
	po.layer = true
	return s.newLayer(ctx, opt, po, func(fw *frameWriter) error { return writeTree(ctx, dir, fw, po) })
}

// newLayer compresses what write writes into a blob.
func (s *Store) newLayer(ctx context.Context, opt PackOptions, po packOptions, write func(*frameWriter) error) (Layer, error) {
	b, err := s.newBlob()
	if err != nil {
		return Layer{}, err
	}
	fw, err := newFrameWriter(ctx, b, opt.Compression, opt.Level, opt.Workers)
	if err != nil {
		b.discard()
		return Layer{}, err
	}
	if err := errors.Join(write(fw), fw.Close()); err != nil {
		b.discard()
		return Layer{}, err
	}
	l := Layer{DiffID: fw.digest(), Size: b.size, MediaType: mediaZstd, packed: po}
	switch opt.Compression {
	case CompressGzip:
		l.MediaType = mediaGzip
	case CompressNone:
		l.MediaType = mediaTar
	}
	l.Digest, err = b.commit()
	return l, err
}

// directoryLayer packs a directory base. The result is cached by fingerprint.
func (s *Store) directoryLayer(ctx context.Context, dir, fingerprint string) (Layer, error) {
	key := dir + "\x00" + fingerprint
	if e := s.cached("dir", key); e != nil {
		return e.Layers[0], nil
	}
	l, err := s.packTree(ctx, dir, packOptions{}, PackOptions{})
	if err != nil {
		return Layer{}, fmt.Errorf("pack base directory %s: %w", dir, err)
	}
	return l, s.remember(ctx, "dir", cacheEntry{Key: key, Layers: []Layer{l}})
}

// tmpMark stands in the name of an output that is not finished.
const tmpMark = ".tmp-"

// RemoveOutput removes an output and what an export of it that was killed has
// left beside it.
func RemoveOutput(path string) error {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == base || strings.HasPrefix(e.Name(), "."+base+tmpMark) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// writeAtomically lets write fill a temporary file beside path, and renames it
// when it is whole and durable. It returns the file's size and digest.
func writeAtomically(path string, write func(tmp string) error) (size int64, digest string, err error) {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+tmpMark+randomName())
	// Made here, so that it is private from the start whatever tool fills it.
	f, err := os.OpenFile(tmp, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, "", err
	}
	f.Close()
	defer func() {
		if err != nil {
			if rmErr := os.Remove(tmp); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
	}()
	if err := write(tmp); err != nil {
		return 0, "", err
	}
	size, digest, err = syncAndHash(tmp)
	if err != nil {
		return 0, "", err
	}
	if err := os.Chmod(tmp, 0o644); err != nil {
		return 0, "", err
	}
	if err := os.Rename(tmp, path); err != nil {
		return 0, "", err
	}
	return size, digest, syncDir(filepath.Dir(path))
}
