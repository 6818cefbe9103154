// Package imagefs keeps image trees on disk: it resolves bases into overlay
// layers, packs what a bake changed into an OCI layer, and writes finished
// images out as files other tools read.
//
// The work on trees needs Linux. Elsewhere the package compiles, and Open and
// ExportTree return ErrUnsupported.
package imagefs

import (
	"errors"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrUnsupported is returned for work on file trees on anything but Linux.
var ErrUnsupported = errors.New("image trees can only be worked on under Linux")

// ErrNotFound is wrapped by the error for an image the store does not hold.
var ErrNotFound = errors.New("not in the image store")

// Layer is one layer of an image.
type Layer struct {
	// DiffID is the digest (sha256:…) of the uncompressed tar; empty for a
	// directory base, which is packed only when an image is written.
	DiffID string `json:"diff_id,omitempty"`
	// Digest, MediaType and Size (bytes) describe the blob as it is stored.
	Digest    string `json:"digest,omitempty"`
	MediaType string `json:"media_type,omitempty"`
	Size      int64  `json:"size,omitempty"`
	// Dir is the unpacked layer, ready to be an overlay lowerdir. Never write to it.
	Dir string `json:"-"`

	// What PackDelta was told, so that AdoptLayer can make the directory equal to the blob.
	packed packOptions
}

// Kinds of base.
const (
	KindDirectory   = "directory"
	KindTarball     = "tarball"
	KindOCI         = "oci"
	KindDebootstrap = "debootstrap"
	KindImage       = "image"
	// KindHost is the running system: it has no layers here, and an image on
	// it holds the delta only.
	KindHost = "host"
)

// Base is what a bake starts from.
type Base struct {
	Kind string
	// Ref is the base as the user named it.
	Ref string
	// Layers are bottom first.
	Layers []Layer
	// Config holds the base's own environment, user, architecture and so on.
	Config v1.ConfigFile
	// Fingerprint changes when the content of the base does.
	Fingerprint string
	// OnHost: the host's own root belongs below the layers.
	OnHost bool
}

// LowerDirs returns the base's layers as overlay lowerdirs, top first.
func (b *Base) LowerDirs() []string { return lowerDirs(b.Layers) }

func lowerDirs(layers []Layer) []string {
	dirs := make([]string, 0, len(layers))
	for i := len(layers) - 1; i >= 0; i-- {
		dirs = append(dirs, layers[i].Dir)
	}
	return dirs
}

// HostBase is the base of kind host. fingerprint says what the host is made
// of, and may be empty.
func HostBase(fingerprint string) *Base {
	return &Base{Kind: KindHost, OnHost: true, Ref: "host", Fingerprint: fingerprint, Config: emptyConfig("")}
}

// ImageConfig is what an image says about how to run it. Zero fields keep what
// the base says.
type ImageConfig struct {
	Cmd, Entrypoint []string
	Env             []string // NAME=value; replaces the base's value of the same name
	WorkingDir      string
	ExposedPorts    []string // "80" or "80/tcp"
	User            string
	Labels          map[string]string // merged into the base's
	// Architecture is in Go's words (amd64, arm64). Default: the base's, or this machine's.
	Architecture string
	// Created is written into the image; use the epoch for reproducible digests.
	Created time.Time
	// Annotations go into the manifest.
	Annotations map[string]string
}

// Image is an image in the store.
type Image struct {
	Digest string // of the manifest
	// Layers are bottom first; Dir is empty until LayerDirs has unpacked them.
	Layers      []Layer
	Config      v1.ConfigFile
	Annotations map[string]string
}

// Output is one file or directory that was exported.
type Output struct {
	Format string
	Path   string
	Bytes  int64
	// Digest is the file's sha256:…; for an OCI layout, the manifest's.
	Digest string
	// Note says what the user should know, such as how to boot the disk.
	Note string
}

// Media types of layers as the store writes them.
const (
	mediaTar  = "application/vnd.oci.image.layer.v1.tar"
	mediaGzip = mediaTar + "+gzip"
	mediaZstd = mediaTar + "+zstd"

	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
)
