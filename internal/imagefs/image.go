package imagefs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations of the manifest.
const (
	// annotationBaseKind says what the image was made from. With "host" the
	// image holds only what was changed.
	annotationBaseKind   = "io.github.ingotbuild.base.kind"
	annotationBaseName   = "org.opencontainers.image.base.name"
	annotationBaseDigest = "org.opencontainers.image.base.digest"
)

var portPattern = regexp.MustCompile(`^[0-9]{1,5}(/(tcp|udp|sctp))?$`)

// WriteImage adds an image to the store: the base's layers, the delta on top
// (none if it is the zero Layer), and a config. It returns the digest of the
// manifest. The same arguments give the same digest. intend, unless nil, is
// told the digest before the image counts as one that Collect keeps; its error
// stops that.
func (s *Store) WriteImage(ctx context.Context, base *Base, delta Layer, cfg ImageConfig, intend func(digest string) error) (string, error) {
	digest, err := s.writeImage(ctx, base, delta, cfg)
	if err == nil && intend != nil {
		err = intend(digest)
	}
	if err == nil {
		err = s.addRoot(ctx, digest)
	}
	if err != nil {
		return "", fmt.Errorf("write image: %w", err)
	}
	return digest, nil
}

func (s *Store) writeImage(ctx context.Context, base *Base, delta Layer, cfg ImageConfig) (string, error) {
	layers := slices.Clone(base.Layers)
	for i, l := range layers {
		if l.DiffID == "" {
			var err error
			if layers[i], err = s.directoryLayer(ctx, l.Dir, base.Fingerprint); err != nil {
				return "", err
			}
		}
		// Who asks for gzip has tools that read no zstd, not even below.
		if delta.MediaType == mediaGzip && layers[i].MediaType == mediaZstd {
			var err error
			if layers[i], err = s.gzipLayer(ctx, layers[i]); err != nil {
				return "", err
			}
		}
	}
	packed := len(layers)
	if delta.Digest != "" {
		layers = append(layers, delta)
	}
	if cfg.Created.IsZero() {
		cfg.Created = time.Unix(0, 0)
	}
	cfg.Created = cfg.Created.UTC()
	config, err := mergeConfig(base.Config, cfg)
	if err != nil {
		return "", err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: mediaManifest, Annotations: map[string]string{annotationBaseKind: base.Kind}}
	if base.OnHost {
		m.Annotations[annotationBaseKind] = KindHost
	}
	if base.Kind == KindOCI {
		m.Annotations[annotationBaseName], m.Annotations[annotationBaseDigest] = base.Ref, base.Fingerprint
	}
	maps.Copy(m.Annotations, cfg.Annotations)
	config.RootFS = v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}
	m.Layers = []v1.Descriptor{}
	for _, l := range layers {
		if ok, err := s.hasBlob(l.Digest); err != nil || !ok {
			return "", errors.Join(err, fmt.Errorf("layer %s: %w %s", l.Digest, ErrNotFound, s.dir))
		}
		digest, err1 := v1.NewHash(l.Digest)
		diffID, err2 := v1.NewHash(l.DiffID)
		if err := errors.Join(err1, err2); err != nil {
			return "", fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: ociLayerType(l.MediaType), Size: l.Size, Digest: digest})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	config.History = history(base, packed, len(layers), cfg.Created)

	rawConfig, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	m.Config.MediaType, m.Config.Size = mediaConfig, int64(len(rawConfig))
	configDigest, err := s.writeBlob(rawConfig)
	if err != nil {
		return "", err
	}
	if m.Config.Digest, err = v1.NewHash(configDigest); err != nil {
		return "", err
	}
	rawManifest, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	digest, err := s.writeBlob(rawManifest)
	if err != nil {
		return "", err
	}
	return digest, nil
}

// OnHost says that the image holds only what was changed on a host, so that
// its machines need that host's own root below its layers.
func (img *Image) OnHost() bool { return img.Annotations[annotationBaseKind] == KindHost }

// addRoot makes an image one that Collect keeps.
func (s *Store) addRoot(ctx context.Context, digest string) error {
	unlock, err := s.lockRoots(ctx)
	if err != nil {
		return err
	}
	defer unlock.Close()
	h, err := hexOf(digest)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.path("images", h), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDir(s.path("images"))
}

// ociLayerType turns Docker's name for a layer type into OCI's: the bytes are the same.
func ociLayerType(t string) types.MediaType {
	switch types.MediaType(t) {
	case types.DockerLayer:
		return mediaGzip
	case types.DockerUncompressedLayer:
		return mediaTar
	}
	return types.MediaType(t)
}

// history keeps the base's own where it matches its layers.
func history(base *Base, packed, total int, created time.Time) []v1.History {
	own := 0
	for _, h := range base.Config.History {
		if !h.EmptyLayer {
			own++
		}
	}
	var hs []v1.History
	if own == packed {
		hs = slices.Clone(base.Config.History)
	} else {
		for range packed {
			hs = append(hs, v1.History{Created: v1.Time{Time: created}, CreatedBy: "ingot: " + base.Kind + " base"})
		}
	}
	for range total - packed {
		hs = append(hs, v1.History{Created: v1.Time{Time: created}, CreatedBy: "ingot"})
	}
	return hs
}

func mergeConfig(base v1.ConfigFile, cfg ImageConfig) (*v1.ConfigFile, error) {
	c := base.DeepCopy()
	c.Container, c.Author = "", ""
	//lint:ignore SA1019 a base may still carry it, and it is not ours
	c.DockerVersion = ""
	c.Created = v1.Time{Time: cfg.Created}
	if c.OS == "" {
		c.OS = "linux"
	}
	if cfg.Architecture != "" && cfg.Architecture != c.Architecture {
		c.Architecture, c.Variant = cfg.Architecture, ""
	}
	if cfg.Entrypoint != nil {
		c.Config.Entrypoint = cfg.Entrypoint
		c.Config.Cmd = nil // the base's was meant for the base's entry point
	}
	if cfg.Cmd != nil {
		c.Config.Cmd = cfg.Cmd
	}
	if cfg.WorkingDir != "" {
		c.Config.WorkingDir = cfg.WorkingDir
	}
	if cfg.User != "" {
		c.Config.User = cfg.User
	}
	for _, kv := range cfg.Env {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("environment entry for %q: want NAME=value", name) // never the value: it may be secret
		}
		i := slices.IndexFunc(c.Config.Env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		if i >= 0 {
			c.Config.Env[i] = kv
		} else {
			c.Config.Env = append(c.Config.Env, kv)
		}
	}
	for _, p := range cfg.ExposedPorts {
		if !portPattern.MatchString(p) {
			return nil, fmt.Errorf("exposed port %q: want a number, or a number and /tcp, /udp or /sctp", p)
		}
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		if c.Config.ExposedPorts == nil {
			c.Config.ExposedPorts = map[string]struct{}{}
		}
		c.Config.ExposedPorts[p] = struct{}{}
	}
	if len(cfg.Labels) > 0 {
		if c.Config.Labels == nil {
			c.Config.Labels = map[string]string{}
		}
		maps.Copy(c.Config.Labels, cfg.Labels)
	}
	return c, nil
}

func parseConfig(raw []byte) (*v1.ConfigFile, error) {
	c, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read image config: %w", err)
	}
	return c, nil
}

func (s *Store) readManifest(digest string) (*v1.Manifest, error) {
	raw, err := s.readBlob(digest)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", digest, err)
	}
	return m, nil
}

// readImage reads an image whether or not it is one that was written here.
func (s *Store) readImage(digest string) (*Image, error) {
	m, err := s.readManifest(digest)
	if err != nil {
		return nil, err
	}
	raw, err := s.readBlob(m.Config.Digest.String())
	if err != nil {
		return nil, err
	}
	cfg, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	if len(cfg.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("image %s: its config names %d layers, its manifest %d; only container images can be read",
			digest, len(cfg.RootFS.DiffIDs), len(m.Layers))
	}
	img := &Image{Digest: digest, Config: *cfg, Annotations: m.Annotations}
	for i, d := range m.Layers {
		l := Layer{
			DiffID: cfg.RootFS.DiffIDs[i].String(), Digest: d.Digest.String(), MediaType: string(d.MediaType), Size: d.Size,
		}
		ok, err := s.hasBlob(l.Digest)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("layer %s of image %s: %w %s", l.Digest, digest, ErrNotFound, s.dir)
		}
		img.Layers = append(img.Layers, l)
	}
	return img, nil
}

// Image reads an image back. The error wraps ErrNotFound when it is not in the store.
func (s *Store) Image(digest string) (*Image, error) {
	h, err := hexOf(digest)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.path("images", h)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %s: %w %s", digest, ErrNotFound, s.dir)
	} else if err != nil {
		return nil, err
	}
	return s.readImage(digest)
}

// LayerDirs makes sure that all layers of an image are unpacked and returns
// them as overlay lowerdirs, top first.
func (s *Store) LayerDirs(ctx context.Context, digest string) ([]string, error) {
	img, err := s.Image(digest)
	if err != nil {
		return nil, err
	}
	if err := s.ensureLayers(ctx, img.Layers); err != nil {
		return nil, fmt.Errorf("image %s: %w", digest, err)
	}
	return lowerDirs(img.Layers), nil
}

// hashFile returns a file's sha256:….
func hashFile(p string) (string, error) {
	f, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	ra := newReadAhead(f)
	defer ra.stop()
	if _, err := io.Copy(io.Discard, ra); err != nil {
		return "", err
	}
	return ra.digest(), nil
}
