package imagefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// emptyConfig is that of a base which says nothing about itself.
func emptyConfig(arch string) v1.ConfigFile {
	if arch == "" {
		arch = runtime.GOARCH
	}
	return v1.ConfigFile{OS: "linux", Architecture: arch}
}

// ensureLayers unpacks what is not unpacked yet.
func (s *Store) ensureLayers(ctx context.Context, layers []Layer) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range layers {
		g.Go(func() error { return s.ensureLayer(ctx, &layers[i]) })
	}
	return g.Wait()
}

// DirectoryBase makes a directory the base, as it is. The directory must not
// change while it is in use; it is packed only when an image is written.
func (s *Store) DirectoryBase(ctx context.Context, dir string) (*Base, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, fmt.Errorf("base directory %s: %w", dir, err)
	}
	fp, err := treeFingerprint(ctx, abs)
	if err != nil {
		return nil, fmt.Errorf("base directory: %w", err)
	}
	return &Base{
		Kind: KindDirectory, Ref: dir, Layers: []Layer{{Dir: abs}}, Config: emptyConfig(""), Fingerprint: fp,
	}, nil
}

// TarballBase makes a tar archive the base: plain, gzip, zstd or xz. It is
// unpacked once; while the file stays the same, later calls cost a stat.
func (s *Store) TarballBase(ctx context.Context, file string) (*Base, error) {
	fail := func(err error) (*Base, error) { return nil, fmt.Errorf("base tarball %s: %w", file, err) }
	abs, err := filepath.Abs(file)
	if err != nil {
		return fail(err)
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return fail(err)
	}
	if !fi.Mode().IsRegular() {
		return fail(errors.New("it is not a regular file"))
	}
	before := fileStamp(fi)
	e := s.cached("file", abs)
	if e == nil || e.Stamp != before {
		digest, err := hashFile(abs)
		if err != nil {
			return fail(err)
		}
		if e = s.cached("tar", digest); e == nil {
			l, err := s.addTarball(ctx, abs, digest)
			if err != nil {
				return fail(err)
			}
			e = &cacheEntry{Key: digest, Source: digest, Layers: []Layer{l}}
			if err := s.remember(ctx, "tar", *e); err != nil {
				return fail(err)
			}
		}
		if fi, err = os.Stat(abs); err != nil {
			return fail(err)
		}
		if fileStamp(fi) != before {
			return fail(errors.New("it changed while it was read: wait until it is complete"))
		}
		e.Key, e.Stamp = abs, before
		if err := s.remember(ctx, "file", *e); err != nil {
			return fail(err)
		}
	}
	if err := s.ensureLayers(ctx, e.Layers); err != nil {
		return fail(err)
	}
	return &Base{Kind: KindTarball, Ref: file, Layers: e.Layers, Config: emptyConfig(""), Fingerprint: e.Source}, nil
}

// addTarball stores a tarball as a layer and unpacks it.
func (s *Store) addTarball(ctx context.Context, file, digest string) (Layer, error) {
	f, err := os.Open(file)
	if err != nil {
		return Layer{}, err
	}
	defer f.Close()
	var head [6]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return Layer{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Layer{}, err
	}
	l := Layer{Digest: digest}
	switch compressionOf(head[:n]) {
	case "xz": // OCI has no word for it
		return s.recompress(ctx, f, PackOptions{})
	case "gzip":
		l.MediaType = mediaGzip
	case "zstd":
		l.MediaType = mediaZstd
	default:
		l.MediaType = mediaTar
	}
	var tmp string
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var err error
		l.Size, err = s.importBlob(file, digest)
		return err
	})
	g.Go(func() error {
		var err error
		tmp, l.DiffID, err = s.unpack(gctx, f)
		return err
	})
	if err := g.Wait(); err != nil {
		if tmp != "" {
			os.RemoveAll(tmp)
		}
		return Layer{}, err
	}
	dir, err := s.layerPath(l.DiffID)
	if err != nil {
		return Layer{}, err
	}
	unlock, err := s.lock(ctx, filepath.Base(dir)+".unpack", true)
	if err != nil {
		return Layer{}, err
	}
	defer unlock.Close()
	if s.layerReady(dir) {
		return l, os.RemoveAll(tmp)
	}
	return l, s.installLayer(tmp, dir)
}

// importBlob copies a file whose digest is known into the store.
func (s *Store) importBlob(file, digest string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return s.copyBlob(f, digest)
}

func (s *Store) copyBlob(r io.Reader, digest string) (int64, error) {
	b, err := s.newBlob()
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(b, r); err != nil {
		b.discard()
		return 0, err
	}
	if got := sumDigest(b.sum.Sum(nil)); got != digest {
		b.discard()
		return 0, fmt.Errorf("its content has digest %s, expected %s", got, digest)
	}
	_, err = b.commit()
	return b.size, err
}

// recompress stores a tar in any compression as a layer in the one of opt.
func (s *Store) recompress(ctx context.Context, r io.Reader, opt PackOptions) (Layer, error) {
	plain, done, err := decompress(r)
	if err != nil {
		return Layer{}, err
	}
	defer done()
	return s.newLayer(ctx, opt, packOptions{}, func(fw *frameWriter) error {
		_, err := io.Copy(fw, plain)
		return err
	})
}

// gzipLayer is the same layer compressed with gzip. The result is cached.
func (s *Store) gzipLayer(ctx context.Context, l Layer) (Layer, error) {
	if e := s.cached("gzip", l.Digest); e != nil {
		return e.Layers[0], nil
	}
	fail := func(err error) (Layer, error) {
		return Layer{}, fmt.Errorf("compress layer %s with gzip: %w", l.Digest, err)
	}
	f, err := s.openBlob(l.Digest)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	packed, err := s.recompress(ctx, f, PackOptions{Compression: CompressGzip})
	if err != nil {
		return fail(err)
	}
	if packed.DiffID != l.DiffID {
		return fail(fmt.Errorf("its content is %s, not %s: the store is damaged", packed.DiffID, l.DiffID))
	}
	return packed, s.remember(ctx, "gzip", cacheEntry{Key: l.Digest, Layers: []Layer{packed}})
}

// ImageBase makes an earlier image of this store the base.
func (s *Store) ImageBase(ctx context.Context, digest string) (*Base, error) {
	img, err := s.Image(digest)
	if err != nil {
		return nil, fmt.Errorf("base image: %w", err)
	}
	if err := s.ensureLayers(ctx, img.Layers); err != nil {
		return nil, fmt.Errorf("base image %s: %w", digest, err)
	}
	return &Base{Kind: KindImage, Ref: digest, Layers: img.Layers, Config: img.Config, Fingerprint: digest, OnHost: img.OnHost()}, nil
}
