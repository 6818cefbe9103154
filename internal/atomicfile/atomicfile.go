// Package atomicfile writes files so that a reader, or a crash, finds either
// the old content or the new, never a part.
package atomicfile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// Write makes or replaces path with what write writes. A symbolic link at path
// is replaced, not followed. mode is subject to the umask.
func Write(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Update replaces path's content by what change makes of it (nil: there was no
// file), while no other Update of path runs, in this process or another. It
// waits for its turn until ctx ends.
func Update(ctx context.Context, path string, mode fs.FileMode, change func(old []byte) ([]byte, error)) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	content, err := change(old)
	if err != nil {
		return err
	}
	return Write(path, mode, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// lock takes the lock file at path. The file is removed when it is given back,
// so whoever waited for it makes sure that what it locked is still the one in place.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	for {
		l := flock.New(path, flock.SetPermissions(0o600))
		if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
			return nil, fmt.Errorf("wait for the lock %s: %w", path, err)
		}
		mine, err := l.Stat()
		if err == nil {
			var inPlace fs.FileInfo
			if inPlace, err = os.Stat(path); err == nil && os.SameFile(mine, inPlace) {
				return func() {
					os.Remove(path)
					l.Close()
				}, nil
			}
		}
		l.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
