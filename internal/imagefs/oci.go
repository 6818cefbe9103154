package imagefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"
)

// OCIOptions say which image a reference means.
type OCIOptions struct {
	// Platform is os/arch[/variant]. Default: linux and this machine's architecture.
	Platform string
	// Insecure allows a registry without TLS. localhost never needs TLS.
	Insecure bool
}

// OCIBase makes a container image the base. ref is a registry reference
// ("debian:12", "ghcr.io/o/i@sha256:…"), an OCI layout ("oci:dir[:tag]") or the
// output of docker save ("docker-archive:file"). Registry credentials are
// those that docker login has stored.
func (s *Store) OCIBase(ctx context.Context, ref string, opt OCIOptions) (*Base, error) {
	base, err := s.ociBase(ctx, ref, opt)
	if err != nil {
		return nil, fmt.Errorf("base image %s: %w", ref, err)
	}
	base.Kind, base.Ref = KindOCI, ref
	if err := s.ensureLayers(ctx, base.Layers); err != nil {
		return nil, fmt.Errorf("base image %s: %w", ref, err)
	}
	return base, nil
}

func (s *Store) ociBase(ctx context.Context, ref string, opt OCIOptions) (*Base, error) {
	platform := &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if opt.Platform != "" {
		var err error
		if platform, err = v1.ParsePlatform(opt.Platform); err != nil {
			return nil, fmt.Errorf("platform %q: %w", opt.Platform, err)
		}
	}
	if path, ok := strings.CutPrefix(ref, "oci:"); ok {
		img, err := layoutImage(path, *platform)
		if err != nil {
			return nil, err
		}
		return s.pull(ctx, img)
	}
	if path, ok := strings.CutPrefix(ref, "docker-archive:"); ok {
		return s.dockerArchive(ctx, path)
	}
	return s.registryImage(ctx, strings.TrimPrefix(ref, "docker://"), platform, opt.Insecure)
}

func (s *Store) registryImage(ctx context.Context, ref string, platform *v1.Platform, insecure bool) (*Base, error) {
	var nameOpts []name.Option
	if insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	r, err := name.ParseReference(ref, nameOpts...)
	if err != nil {
		return nil, err
	}
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithPlatform(*platform),
	}
	var digest string
	if d, ok := r.(name.Digest); ok {
		digest = d.DigestStr()
	} else if desc, err := remote.Head(r, opts...); err == nil { // HEAD does not count against pull limits
		digest = desc.Digest.String()
	} else {
		desc, err := remote.Get(r, opts...)
		if err != nil {
			return nil, fmt.Errorf("ask the registry: %w", err)
		}
		digest = desc.Digest.String()
	}
	key := digest + " " + platform.String()
	if e := s.cached("oci", key); e != nil {
		return s.storedBase(e.Manifest)
	}
	img, err := remote.Image(r.Context().Digest(digest), opts...)
	if err != nil {
		return nil, fmt.Errorf("ask the registry: %w", err)
	}
	base, err := s.pull(ctx, img)
	if err != nil {
		return nil, err
	}
	return base, s.remember(ctx, "oci", cacheEntry{Key: key, Manifest: base.Fingerprint})
}

func (s *Store) storedBase(digest string) (*Base, error) {
	img, err := s.readImage(digest)
	if err != nil {
		return nil, err
	}
	return &Base{Layers: img.Layers, Config: img.Config, Fingerprint: digest}, nil
}

// layoutImage finds the image that dir[:tag] means.
func layoutImage(path string, platform v1.Platform) (v1.Image, error) {
	tag := ""
	if _, err := os.Stat(path); err != nil {
		if i := strings.LastIndexByte(path, ':'); i > 0 {
			path, tag = path[:i], path[i+1:]
		}
	}
	idx, err := layout.ImageIndexFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("read OCI layout %s: %w", path, err)
	}
	return indexImage(idx, tag, platform, 4)
}

func indexImage(idx v1.ImageIndex, tag string, platform v1.Platform, depth int) (v1.Image, error) {
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Descriptor
	for _, d := range m.Manifests {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			continue
		}
		if tag != "" && d.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		if d.Platform != nil && d.Platform.Architecture != "" && !d.Platform.Satisfies(platform) {
			continue
		}
		found = append(found, d)
	}
	switch {
	case len(found) == 0 && tag != "":
		return nil, fmt.Errorf("the OCI layout has no image tagged %q for %s", tag, platform)
	case len(found) == 0:
		return nil, fmt.Errorf("the OCI layout has no image for %s", platform)
	case len(found) > 1:
		return nil, errors.New("the OCI layout has several images: add :TAG to say which")
	case found[0].MediaType.IsImage():
		return idx.Image(found[0].Digest)
	case depth == 0:
		return nil, errors.New("the OCI layout nests indexes too deeply")
	}
	inner, err := idx.ImageIndex(found[0].Digest)
	if err != nil {
		return nil, err
	}
	return indexImage(inner, "", platform, depth-1)
}

// pull brings an image with its blobs into the store.
func (s *Store) pull(ctx context.Context, img v1.Image) (*Base, error) {
	rawManifest, err := img.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	rawConfig, err := img.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if got := digestOf(rawConfig); got != m.Config.Digest.String() {
		return nil, fmt.Errorf("config has digest %s, the manifest says %s", got, m.Config.Digest)
	}
	if _, err := s.writeBlob(rawConfig); err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, d := range m.Layers {
		g.Go(func() error {
			digest := d.Digest.String()
			if ok, err := s.hasBlob(digest); ok || err != nil {
				return err
			}
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			l, err := img.LayerByDigest(d.Digest)
			if err != nil {
				return fmt.Errorf("layer %s: %w", digest, err)
			}
			r, err := l.Compressed()
			if err != nil {
				return fmt.Errorf("layer %s: %w", digest, err)
			}
			defer r.Close()
			if _, err := s.copyBlob(r, digest); err != nil {
				return fmt.Errorf("layer %s: %w", digest, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	digest, err := s.writeBlob(rawManifest)
	if err != nil {
		return nil, err
	}
	return s.storedBase(digest)
}

// dockerArchive reads what docker save wrote. Its layers are not compressed,
// so they are packed anew.
func (s *Store) dockerArchive(ctx context.Context, path string) (*Base, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	img, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		return nil, fmt.Errorf("read docker archive (it must hold exactly one image): %w", err)
	}
	rawConfig, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	cfg, err := parseConfig(rawConfig)
	if err != nil {
		return nil, err
	}
	base := &Base{Config: *cfg, Fingerprint: digestOf(rawConfig)}
	for _, id := range cfg.RootFS.DiffIDs {
		if e := s.cached("diff", id.String()); e != nil {
			base.Layers = append(base.Layers, e.Layers...)
			continue
		}
		l, err := img.LayerByDiffID(id)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		r, err := l.Uncompressed()
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		packed, err := s.recompress(ctx, r, PackOptions{})
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		if packed.DiffID != id.String() {
			return nil, fmt.Errorf("layer %s: its content is %s: the archive is damaged", id, packed.DiffID)
		}
		if err := s.remember(ctx, "diff", cacheEntry{Key: id.String(), Layers: []Layer{packed}}); err != nil {
			return nil, err
		}
		base.Layers = append(base.Layers, packed)
	}
	after, err := os.Stat(path)
	if err == nil && fileStamp(after) != fileStamp(fi) {
		err = errors.New("it changed while it was read: wait until it is complete")
	}
	return base, err
}
