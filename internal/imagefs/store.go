package imagefs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
)

// Store keeps blobs, unpacked layers and images below one directory:
//
//	blobs/sha256/<hex>    layers, configs and manifests, fsynced
//	layers/<diffid hex>   unpacked layers; a cache, written without fsync
//	images/<hex>          one empty file per image: what Collect starts from
//	cache/<kind>-<hex>    what bases were resolved to
//	locks/, tmp/
//
// Any number of processes may use it at once. Whatever a Store has handed out
// is locked against Collect until Close.
type Store struct {
	dir    string
	tmp    string // this Store's own scratch directory
	boot   string
	ovl    string // prefix of overlayfs's xattrs in this namespace
	events event.Scope

	mu   sync.Mutex
	held map[string]*os.File
}

// Open opens the store in dir and creates it if need be. Warnings and progress
// go to events.
func Open(dir string, events event.Scope) (*Store, error) {
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("open image store %s: which boot this is: %w", dir, err)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{dir: dir, boot: boot, events: events, held: map[string]*os.File{}}
	for _, sub := range []string{"blobs/sha256", "layers", "images", "cache", "locks", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	// The scratch directory's lock comes first, so that Collect never takes it for a leftover.
	name := randomName()
	if err := s.hold("tmp-" + name); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s.tmp = filepath.Join(dir, "tmp", name)
	if err := os.Mkdir(s.tmp, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("open image store: %w", err), s.Close())
	}
	if s.ovl, err = overlayPrefix(s.tmp); err != nil {
		return nil, errors.Join(fmt.Errorf("open image store: %w (it must be on a file system with extended attributes)", err), s.Close())
	}
	return s, nil
}

// Close removes the Store's temporary files and lets go of what it handed out.
func (s *Store) Close() error {
	var err error
	if s.tmp != "" {
		err = os.RemoveAll(s.tmp)
		_ = os.Remove(s.path("locks", "tmp-"+filepath.Base(s.tmp)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.held {
		f.Close()
		delete(s.held, name)
	}
	return err
}

// Dir is the directory the store is in.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// ---- locks

// hold takes a shared lock by name and keeps it until Close. Collect leaves
// everything alone whose name is held by anyone.
func (s *Store) hold(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[name] != nil {
		return nil
	}
	// Only Collect takes these exclusively, and only for moments.
	f, err := s.lock(context.Background(), name, false)
	if err != nil {
		return err
	}
	s.held[name] = f
	return nil
}

// lock waits for a lock; closing the file gives it back.
func (s *Store) lock(ctx context.Context, name string, exclusive bool) (*os.File, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		f, err := s.tryLock(name, exclusive)
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another process that holds %s: %w", s.path("locks", name), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// tryLock returns nil when someone else has the lock.
func (s *Store) tryLock(name string, exclusive bool) (*os.File, error) {
	p := s.path("locks", name)
	for {
		f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		ok, err := flock(f, exclusive)
		if !ok || err != nil {
			f.Close()
			return nil, err
		}
		// Collect removes lock files: a lock on a removed one protects nothing.
		now, err1 := os.Stat(p)
		mine, err2 := f.Stat()
		if err1 == nil && err2 == nil && os.SameFile(now, mine) {
			return f, nil
		}
		f.Close()
		if err2 != nil || (err1 != nil && !errors.Is(err1, fs.ErrNotExist)) {
			return nil, errors.Join(err1, err2)
		}
	}
}

// lockRoots is taken to add an image or a cache entry. Collect has it
// exclusively, so it sees either the new root or the locks of who makes it.
func (s *Store) lockRoots(ctx context.Context) (*os.File, error) { return s.lock(ctx, "roots", false) }

// ---- blobs

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// hexOf checks a digest and returns its hex part, which is safe as a file name.
func hexOf(digest string) (string, error) {
	if !digestPattern.MatchString(digest) {
		return "", fmt.Errorf("%q is not a digest: want sha256: and 64 lower-case hex digits", digest)
	}
	return digest[len("sha256:"):], nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return sumDigest(sum[:])
}

func sumDigest(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// blobPath locks the blob against Collect and says where it is, or would be.
func (s *Store) blobPath(digest string) (string, error) {
	h, err := hexOf(digest)
	if err != nil {
		return "", err
	}
	return s.path("blobs", "sha256", h), s.hold(h)
}

func (s *Store) hasBlob(digest string) (bool, error) {
	p, err := s.blobPath(digest)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *Store) openBlob(digest string) (*os.File, error) {
	p, err := s.blobPath(digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w %s", digest, ErrNotFound, s.dir)
	}
	return f, err
}

// readBlob reads a small blob (a manifest, a config) and checks its digest.
func (s *Store) readBlob(digest string) ([]byte, error) {
	f, err := s.openBlob(digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxJSON || digestOf(b) != digest {
		return nil, fmt.Errorf("blob %s in %s is damaged: its content has another digest; remove the file and bake again", digest, s.dir)
	}
	return b, nil
}

const maxJSON = 16 << 20

// blob is one being written; its digest is known at the end.
type blob struct {
	s    *Store
	f    *os.File
	sum  hash.Hash
	size int64
}

func (s *Store) newBlob() (*blob, error) {
	f, err := os.CreateTemp(s.tmp, "blob-")
	if err != nil {
		return nil, err
	}
	return &blob{s: s, f: f, sum: sha256.New()}, nil
}

func (b *blob) Write(p []byte) (int, error) {
	n, err := b.f.Write(p)
	b.sum.Write(p[:n])
	b.size += int64(n)
	return n, err
}

func (b *blob) discard() {
	b.f.Close()
	os.Remove(b.f.Name())
}

// commit makes the blob durable and returns its digest.
func (b *blob) commit() (string, error) {
	defer b.discard()
	digest := sumDigest(b.sum.Sum(nil))
	p, err := b.s.blobPath(digest)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(p); err == nil {
		return digest, nil // the same content: it is there already
	}
	if err := b.f.Chmod(0o444); err != nil {
		return "", err
	}
	if err := b.f.Sync(); err != nil {
		return "", err
	}
	if err := os.Rename(b.f.Name(), p); err != nil {
		return "", err
	}
	return digest, syncDir(filepath.Dir(p))
}

func (s *Store) writeBlob(content []byte) (string, error) {
	b, err := s.newBlob()
	if err != nil {
		return "", err
	}
	if _, err := b.Write(content); err != nil {
		b.discard()
		return "", err
	}
	return b.commit()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ---- unpacked layers

// marker says that an unpacked layer is whole.
type marker struct {
	// Boot is the boot that wrote it: after a power cut, unsynced files may be empty.
	Boot string `json:"boot"`
	// Synced layers are good under any boot.
	Synced bool `json:"synced,omitempty"`
}

// layerPath locks the unpacked layer against Collect and says where it is, or
// would be. In a user namespace file owners and overlay xattrs differ, so
// those layers have names of their own.
func (s *Store) layerPath(diffID string) (string, error) {
	h, err := hexOf(diffID)
	if err != nil {
		return "", err
	}
	if s.ovl != "trusted.overlay." {
		h += "-user"
	}
	return s.path("layers", h), s.hold(h)
}

func (s *Store) layerReady(dir string) bool {
	var m marker
	b, err := os.ReadFile(dir + ".json")
	if err != nil || json.Unmarshal(b, &m) != nil || (m.Boot != s.boot && !m.Synced) {
		return false
	}
	fi, err := os.Stat(dir)
	return err == nil && fi.IsDir()
}

// installLayer moves a whole directory into its place. The caller has the
// layer's unpack lock.
func (s *Store) installLayer(from, dir string) error {
	if err := os.Remove(dir + ".json"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	stale := filepath.Join(s.tmp, "stale-"+randomName())
	if err := os.Rename(dir, stale); err == nil {
		if err := os.RemoveAll(stale); err != nil {
			return err
		}
	}
	if err := os.Rename(from, dir); err != nil {
		return err
	}
	return s.writeJSON(dir+".json", marker{Boot: s.boot}, false)
}

// ensureLayer makes sure that a layer with a blob is unpacked, and sets its Dir.
func (s *Store) ensureLayer(ctx context.Context, l *Layer) error {
	if l.DiffID == "" {
		return nil // a directory base: Dir is the user's own
	}
	dir, err := s.layerPath(l.DiffID)
	if err != nil {
		return err
	}
	l.Dir = dir
	if s.layerReady(dir) {
		return nil
	}
	unlock, err := s.lock(ctx, filepath.Base(dir)+".unpack", true)
	if err != nil {
		return err
	}
	defer unlock.Close()
	if s.layerReady(dir) {
		return nil
	}
	f, err := s.openBlob(l.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	tmp, diffID, err := s.unpack(ctx, f)
	if err != nil {
		return fmt.Errorf("unpack layer %s: %w", l.Digest, err)
	}
	if diffID != l.DiffID {
		os.RemoveAll(tmp)
		return fmt.Errorf("unpack layer %s: its content is %s, not %s as the image says", l.Digest, diffID, l.DiffID)
	}
	return s.installLayer(tmp, dir)
}

// unpack unpacks a compressed tar into a temporary directory, which the caller
// moves or removes, and returns the digest of the tar.
func (s *Store) unpack(ctx context.Context, r io.Reader) (dir, diffID string, err error) {
	tarStream, done, err := decompress(r)
	if err != nil {
		return "", "", err
	}
	defer done()
	ra := newReadAhead(tarStream)
	defer ra.stop()
	dir = filepath.Join(s.tmp, "layer-"+randomName())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", "", err
	}
	skipped, err := unpackTar(ctx, ra, dir, s.ovl)
	if err == nil {
		_, err = io.Copy(io.Discard, ra) // what follows the end marker is part of the digest
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", "", err
	}
	if skipped > 0 {
		s.events.Warn(fmt.Sprintf("%d device nodes were left out of an unpacked layer: this user namespace may not create them", skipped))
	}
	return dir, ra.digest(), nil
}

// AdoptLayer makes a finished upper directory the unpacked form of the layer
// that PackDelta made of it, by renaming it: upper is gone then. It returns false, and leaves
// upper alone, when that cannot be done because upper is on another file
// system; the layer is then unpacked when it is first needed.
func (s *Store) AdoptLayer(ctx context.Context, upper string, l Layer) (bool, error) {
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("keep %s as an unpacked layer: %w", upper, err)
	}
	dir, err := s.layerPath(l.DiffID)
	if err != nil {
		return fail(err)
	}
	unlock, err := s.lock(ctx, filepath.Base(dir)+".unpack", true)
	if err != nil {
		return fail(err)
	}
	defer unlock.Close()
	if s.layerReady(dir) {
		return true, os.RemoveAll(upper)
	}
	tmp := filepath.Join(s.tmp, "adopt-"+randomName())
	if err := os.Rename(upper, tmp); err != nil {
		if isCrossDevice(err) {
			return false, nil
		}
		return fail(err)
	}
	for _, p := range l.packed.exclude {
		if err := removeQuietly(tmp, p); err != nil {
			return fail(err)
		}
	}
	if err := adoptDir(tmp, s.ovl); err != nil {
		return fail(err)
	}
	if err := ClampTimes(ctx, tmp, l.packed.epoch); err != nil {
		return fail(err)
	}
	if err := s.installLayer(tmp, dir); err != nil {
		return fail(err)
	}
	return true, nil
}

// removeQuietly removes what is at p below dir without a trace in the time of
// its parent. Links in the tree lead nowhere else.
func removeQuietly(dir, p string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	parent := filepath.Dir(p)
	fi, err := root.Stat(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := root.RemoveAll(p); err != nil {
		return err
	}
	return root.Chtimes(parent, fi.ModTime(), fi.ModTime())
}

// ---- small files

// writeJSON replaces a file in one step.
func (s *Store) writeJSON(p string, v any, durable bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.tmp, "json-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), p); err != nil {
		return err
	}
	if durable {
		return syncDir(filepath.Dir(p))
	}
	return nil
}

// cacheEntry remembers what a base was resolved to.
type cacheEntry struct {
	Key    string    `json:"key"`
	Made   time.Time `json:"made"`
	Layers []Layer   `json:"layers,omitempty"`
	// Manifest is the manifest's digest when the base is an image.
	Manifest string `json:"manifest,omitempty"`
	Stamp    stamp  `json:"stamp,omitzero"`
	// Source is the digest of what the layer was made from.
	Source string `json:"source,omitempty"`
}

// stamp tells a file from what it was, without reading it.
type stamp struct {
	Size, Mtime, Ctime int64
	Inode, Device      uint64
}

func (s *Store) cachePath(kind, key string) string {
	sum := sha256.Sum256([]byte(key))
	return s.path("cache", kind+"-"+hex.EncodeToString(sum[:]))
}

// cached returns the entry for key, or nil when there is none or something it
// needs is gone. It marks the entry as used.
func (s *Store) cached(kind, key string) *cacheEntry {
	return s.cachedFile(s.cachePath(kind, key))
}

func (s *Store) cachedFile(p string) *cacheEntry {
	e := readEntry(p)
	if e == nil {
		return nil
	}
	for _, l := range e.Layers {
		if ok, err := s.hasBlob(l.Digest); !ok || err != nil {
			return nil
		}
	}
	if e.Manifest != "" {
		if _, err := s.readImage(e.Manifest); err != nil {
			return nil
		}
	}
	now := time.Now()
	_ = os.Chtimes(p, now, now) // only its age is at stake
	return e
}

func readEntry(p string) *cacheEntry {
	b, err := os.ReadFile(p)
	if err != nil {
		return nil
	}
	var e cacheEntry
	if json.Unmarshal(b, &e) != nil {
		return nil
	}
	return &e
}

func (s *Store) remember(ctx context.Context, kind string, e cacheEntry) error {
	unlock, err := s.lockRoots(ctx)
	if err != nil {
		return err
	}
	defer unlock.Close()
	e.Made = time.Now().UTC()
	return s.writeJSON(s.cachePath(kind, e.Key), e, false)
}

// ---- garbage

// Delete forgets an image and removes what nothing else needs. To delete an
// image that is not there is success.
func (s *Store) Delete(ctx context.Context, digest string) error {
	h, err := hexOf(digest)
	if err != nil {
		return err
	}
	if err := os.Remove(s.path("images", h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete image: %w", err)
	}
	_, err = s.Collect(ctx, keepCache)
	return err
}

// CleanUp removes what nothing needs and what crashed processes have left.
func (s *Store) CleanUp(ctx context.Context) error {
	_, err := s.Collect(ctx, keepCache)
	return err
}

// keepCache is how long an unused base stays cached.
const keepCache = 30 * 24 * time.Hour

// Collect removes blobs and layers that no image needs, bases not used for
// longer than unused, and what crashed processes left in tmp. What any open
// Store has handed out stays. It returns the bytes of blobs it removed.
func (s *Store) Collect(ctx context.Context, unused time.Duration) (int64, error) {
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("clean up image store %s: %w", s.dir, err) }
	roots, err := s.lock(ctx, "roots", true)
	if err != nil {
		return fail(err)
	}
	defer roots.Close()
	keep := map[string]bool{}
	mark := func(digests ...string) {
		for _, d := range digests {
			if h, err := hexOf(d); err == nil {
				keep[h], keep[h+"-user"] = true, true
			}
		}
	}
	markImage := func(digest string) error {
		m, err := s.readManifest(digest)
		if err != nil {
			return err
		}
		img, err := s.readImage(digest)
		if err != nil {
			return err
		}
		mark(digest, m.Config.Digest.String())
		for _, l := range img.Layers {
			mark(l.Digest, l.DiffID)
		}
		return nil
	}
	images, err := os.ReadDir(s.path("images"))
	if err != nil {
		return fail(err)
	}
	for _, e := range images {
		// An image that cannot be read stops the clean-up: its layers are unknown.
		if err := markImage("sha256:" + e.Name()); err != nil {
			return fail(err)
		}
	}
	entries, err := os.ReadDir(s.path("cache"))
	if err != nil {
		return fail(err)
	}
	for _, d := range entries {
		p := s.path("cache", d.Name())
		fi, err := d.Info()
		if err != nil {
			continue // replaced meanwhile
		}
		e := readEntry(p)
		if e == nil || time.Since(fi.ModTime()) > unused || (e.Manifest != "" && markImage(e.Manifest) != nil) {
			if err := os.Remove(p); err != nil {
				return fail(err)
			}
			continue
		}
		for _, l := range e.Layers {
			mark(l.Digest, l.DiffID)
		}
	}

	var freed int64
	sweep := func(dir, prefix string, remove func(p string, fi fs.FileInfo) error) error {
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			name := f.Name()
			if keep[name] || filepath.Ext(name) == ".json" {
				continue
			}
			l, err := s.tryLock(prefix+name, true)
			if err != nil {
				return err
			}
			if l == nil {
				continue // in use
			}
			if fi, err := f.Info(); err == nil {
				err = remove(filepath.Join(dir, name), fi)
				if err != nil {
					l.Close()
					return err
				}
			}
			err = os.Remove(l.Name())
			l.Close()
			if err != nil {
				return err
			}
		}
		return nil
	}
	err = errors.Join(
		sweep(s.path("blobs", "sha256"), "", func(p string, fi fs.FileInfo) error {
			freed += fi.Size()
			return os.Remove(p)
		}),
		sweep(s.path("layers"), "", func(p string, _ fs.FileInfo) error {
			if err := os.Remove(p + ".json"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			// Nobody unpacks it: they would hold the layer as well.
			if err := os.Remove(s.path("locks", filepath.Base(p)+".unpack")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return os.RemoveAll(p)
		}),
		sweep(s.path("tmp"), "tmp-", func(p string, _ fs.FileInfo) error { return os.RemoveAll(p) }),
	)
	if err != nil {
		return fail(err)
	}
	return freed, nil
}
