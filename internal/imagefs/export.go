package imagefs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Formats of outputs.
const (
	FormatOCI           = "oci"            // an OCI layout directory
	FormatDockerArchive = "docker-archive" // a file for docker load
	FormatTar           = "tar"
	FormatExt4          = "ext4"
	FormatRaw           = "raw"   // a disk with a partition table
	FormatQcow2         = "qcow2" // the same, for QEMU
	FormatSquashfs      = "squashfs"
	FormatErofs         = "erofs"
)

// CheckTools says whether the programs that a format needs are installed; the
// error names the packages. Bootable disks need one program more.
func CheckTools(format string, bootable bool) error {
	var need []tool
	switch format {
	case FormatOCI, FormatDockerArchive, FormatTar:
	case FormatExt4:
		need = []tool{toolMke2fs}
	case FormatRaw:
		need = []tool{toolMke2fs}
	case FormatQcow2:
		need = []tool{toolMke2fs, toolQemuImg}
	case FormatSquashfs:
		need = []tool{toolMksquashfs}
	case FormatErofs:
		need = []tool{toolMkfsErofs}
	default:
		return fmt.Errorf("unknown output format %q: want oci, docker-archive, tar, ext4, raw, qcow2, squashfs or erofs", format)
	}
	if bootable && (format == FormatRaw || format == FormatQcow2) {
		need = append(need, toolGrubMkimage)
	}
	var err error
	for _, t := range need {
		_, e := t.find()
		err = errors.Join(err, e)
	}
	return err
}

// ---- from the store

var tagPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// ExportOCI writes an image as an OCI layout directory. Blobs are hard links
// where possible. An OCI layout that is there is replaced; anything else is not.
func (s *Store) ExportOCI(ctx context.Context, digest, dir, tag string) (Output, error) {
	fail := func(err error) (Output, error) {
		return Output{}, fmt.Errorf("export image %s to %s: %w", digest, dir, err)
	}
	img, err := s.Image(digest)
	if err != nil {
		return fail(err)
	}
	if CheckTag(tag) != nil {
		return fail(fmt.Errorf("tag %q: want up to 128 letters, digits, dots, dashes and underscores", tag))
	}
	old, err := os.ReadDir(dir)
	if err == nil && len(old) > 0 {
		if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
			return fail(errors.New("the directory is not empty and not an OCI layout: choose another path"))
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	dir = filepath.Clean(dir)
	tmp := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".tmp-"+randomName())
	defer os.RemoveAll(tmp)
	size, err := s.writeLayout(ctx, img, tmp, tag)
	if err != nil {
		return fail(err)
	}
	away := tmp + "-old"
	replaced := os.Rename(dir, away)
	if replaced != nil && !errors.Is(replaced, fs.ErrNotExist) {
		return fail(replaced)
	}
	if err := os.Rename(tmp, dir); err != nil {
		if replaced == nil {
			err = errors.Join(err, os.Rename(away, dir))
		}
		return fail(err)
	}
	if err := errors.Join(os.RemoveAll(away), syncDir(filepath.Dir(dir))); err != nil {
		return fail(err)
	}
	return Output{Format: FormatOCI, Path: dir, Bytes: size, Digest: digest}, nil
}

func (s *Store) writeLayout(ctx context.Context, img *Image, dir, tag string) (int64, error) {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return 0, err
	}
	m, err := s.readManifest(img.Digest)
	if err != nil {
		return 0, err
	}
	var total int64
	digests := []string{img.Digest, m.Config.Digest.String()}
	for _, l := range img.Layers {
		digests = append(digests, l.Digest)
	}
	done := map[string]bool{}
	var manifestSize int64
	for _, d := range digests {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if done[d] {
			continue
		}
		done[d] = true
		p, err := s.blobPath(d)
		if err != nil {
			return 0, err
		}
		n, err := linkOrCopy(p, filepath.Join(blobs, filepath.Base(p)))
		if err != nil {
			return 0, err
		}
		if d == img.Digest {
			manifestSize = n
		}
		total += n
	}
	h, err := v1.NewHash(img.Digest)
	if err != nil {
		return 0, err
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: mediaIndex, Manifests: []v1.Descriptor{{
		MediaType: mediaManifest, Size: manifestSize, Digest: h,
		Annotations: map[string]string{"org.opencontainers.image.ref.name": tag},
		Platform:    &v1.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant},
	}}}
	raw, err := json.Marshal(index)
	if err != nil {
		return 0, err
	}
	for name, content := range map[string][]byte{
		"index.json": raw, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
	} {
		if err := writeSynced(filepath.Join(dir, name), content); err != nil {
			return 0, err
		}
		total += int64(len(content))
	}
	return total, errors.Join(syncDir(blobs), syncDir(dir))
}

func writeSynced(p string, content []byte) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func linkOrCopy(from, to string) (int64, error) {
	fi, err := os.Stat(from)
	if err != nil {
		return 0, err
	}
	if os.Link(from, to) == nil {
		return fi.Size(), nil
	}
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	return n, errors.Join(err, out.Sync(), out.Close())
}

// ExportDockerArchive writes an image as a file for docker load. tag is
// "name:tag" as docker images shows it; empty: the image gets no name. The
// layers are not compressed, which every Docker can read.
func (s *Store) ExportDockerArchive(ctx context.Context, digest, file, tag string) (Output, error) {
	img, err := s.Image(digest)
	if err == nil {
		var out Output
		out.Bytes, out.Digest, err = writeAtomically(file, func(tmp string) error {
			return s.writeDockerArchive(ctx, img, tmp, tag)
		})
		out.Format, out.Path = FormatDockerArchive, file
		if err == nil {
			return out, nil
		}
	}
	return Output{}, fmt.Errorf("export image %s to %s: %w", digest, file, err)
}

func (s *Store) writeDockerArchive(ctx context.Context, img *Image, file, tag string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := s.readManifest(img.Digest)
	if err != nil {
		return err
	}
	config, err := s.readBlob(m.Config.Digest.String())
	if err != nil {
		return err
	}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	e := entry{Config: m.Config.Digest.Hex + ".json", RepoTags: []string{}, Layers: []string{}}
	if tag != "" {
		e.RepoTags = append(e.RepoTags, tag)
	}
	done := map[string]bool{}
	for _, l := range img.Layers {
		name := strings.TrimPrefix(l.DiffID, "sha256:") + ".tar"
		e.Layers = append(e.Layers, name)
		if done[name] {
			continue
		}
		done[name] = true
		if err := s.appendLayer(ctx, f, name, l); err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	manifest, err := json.Marshal([]entry{e})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(f)
	for _, x := range []struct {
		name    string
		content []byte
	}{{e.Config, config}, {"manifest.json", manifest}} {
		if err := tw.WriteHeader(archiveHeader(x.name, int64(len(x.content)))); err != nil {
			return err
		}
		if _, err := tw.Write(x.content); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), f.Close())
}

// archiveHeader is the same on every machine, and always one block long.
func archiveHeader(name string, size int64) *tar.Header {
	return &tar.Header{Format: tar.FormatGNU, Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}
}

// appendLayer writes a layer, decompressed, as one file of a tar. Its size is
// known only afterwards, so the header is written last.
func (s *Store) appendLayer(ctx context.Context, f *os.File, name string, l Layer) error {
	const block = 512
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	in, err := s.openBlob(l.Digest)
	if err != nil {
		return err
	}
	defer in.Close()
	plain, done, err := decompress(in)
	if err != nil {
		return err
	}
	defer done()
	ra := newReadAhead(plain)
	defer ra.stop()
	if _, err := f.Seek(block, io.SeekCurrent); err != nil {
		return err
	}
	size, err := io.Copy(f, ctxReader{ctx, ra})
	if err != nil {
		return err
	}
	if got := ra.digest(); got != l.DiffID {
		return fmt.Errorf("its content is %s, not %s: the store is damaged", got, l.DiffID)
	}
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(archiveHeader(name, size)); err != nil {
		return err
	}
	if _, err := f.WriteAt(head.Bytes(), start); err != nil {
		return err
	}
	end := start + block + (size+block-1)/block*block
	if err := f.Truncate(end); err != nil { // zeros up to the next block
		return err
	}
	_, err = f.Seek(end, io.SeekStart)
	return err
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// ---- from a tree

// compressions are what an output's Compression can be, besides empty.
var compressions = map[string][]string{
	FormatTar: {"zstd", "gzip", "none"}, FormatSquashfs: {"zstd", "gzip", "xz", "lz4", "lzo"},
	FormatErofs: {"none", "lz4", "lz4hc"}, FormatQcow2: {"none", "zlib", "zstd"},
}

// CheckOptions says what is wrong with the options of a tree's format that can
// be known without the tree.
func CheckOptions(format string, opt TreeOptions) error {
	known, ok := compressions[format]
	switch {
	case opt.Compression == "":
	case !ok && opt.Compression != "none":
		return fmt.Errorf("%s has no compression: use qcow2, squashfs or erofs for one", format)
	case ok && !slices.Contains(known, opt.Compression):
		return fmt.Errorf("unknown compression %q: %s has %s", opt.Compression, format, strings.Join(known, ", "))
	}
	if i := strings.IndexAny(opt.KernelOptions, unsafeForGrub); i >= 0 {
		return fmt.Errorf("kernel options hold %q, which the boot loader's parser would not pass on", opt.KernelOptions[i])
	}
	return nil
}

// CheckTag says whether an OCI layout can have the tag.
func CheckTag(tag string) error {
	if len(tag) > 128 || !tagPattern.MatchString(tag) {
		return fmt.Errorf("tag %q: want 1 to 128 letters, digits, _, . and -, not starting with . or -", tag)
	}
	return nil
}

// CheckName says whether a docker archive can have the name, with its tag.
func CheckName(ref string) error {
	_, err := name.NewTag(ref)
	return err
}

// TreeOptions say how a tree becomes a file.
type TreeOptions struct {
	// Epoch clamps file times and is the file system's own time of creation.
	// Zero: file times are kept, and the file system's is 1970.
	Epoch time.Time
	// Seed is what UUIDs are derived from; the image's manifest digest is a
	// good one. Empty: the tree itself.
	Seed string
	// Compression: tar has zstd (default), gzip, none; squashfs zstd (default),
	// gzip, xz, lz4, lzo; erofs none (default), lz4, lz4hc; qcow2 none
	// (default), zlib, zstd. ext4 and raw have none.
	Compression string
	// Level is the compression's own level; 0 is the default (squashfs: zstd 3).
	Level int
	// Exclude leaves paths out of a tar. The other formats refuse it.
	Exclude []string

	// Size of an ext4 file system, or of a whole disk, in bytes. 0: as needed,
	// with a tenth and 32 MiB to spare.
	Size int64
	// Label and UUID of the file system. Empty: no label, a UUID from Seed.
	Label, UUID string

	// Bootable puts a boot loader for BIOS on a disk. Where that cannot be
	// done the disk is made without one, and the Output's Note says why.
	Bootable bool
	// KernelOptions are added to "root=UUID=… ro console=ttyS0".
	KernelOptions string
}

// ExportTree writes a tree, usually a merged overlay mounted read-only, to a
// file of one of the formats tar, ext4, raw, qcow2, squashfs, erofs. The file
// appears when it is whole; an older one is replaced then. The same tree and
// options give the same bytes.
func ExportTree(ctx context.Context, format, tree, file string, opt TreeOptions) (Output, error) {
	out := Output{Format: format, Path: file}
	fail := func(err error) (Output, error) {
		return Output{}, fmt.Errorf("export %s to %s as %s: %w", tree, file, format, err)
	}
	if format == FormatOCI || format == FormatDockerArchive {
		return fail(errors.New("this format is exported from the store"))
	}
	if err := CheckOptions(format, opt); err != nil {
		return fail(err)
	}
	if err := CheckTools(format, false); err != nil {
		return fail(err)
	}
	if len(opt.Exclude) > 0 && format != FormatTar {
		return fail(errors.New("paths can be left out of a tar only: remove them from the tree first"))
	}
	tree, err := filepath.Abs(tree)
	if err != nil {
		return fail(err)
	}
	if opt.Seed == "" && format != FormatTar {
		if opt.Seed, err = treeFingerprint(ctx, tree); err != nil {
			return fail(err)
		}
	}
	if opt.UUID == "" {
		opt.UUID = uuidFrom(opt.Seed)
	} else if !uuidPattern.MatchString(opt.UUID) {
		return fail(fmt.Errorf("%q is not a UUID", opt.UUID))
	}
	out.Bytes, out.Digest, err = writeAtomically(file, func(tmp string) error {
		switch format {
		case FormatTar:
			return exportTar(ctx, tree, tmp, opt)
		case FormatExt4:
			return exportExt4(ctx, tree, tmp, 0, opt)
		case FormatSquashfs:
			return exportSquashfs(ctx, tree, tmp, opt)
		case FormatErofs:
			return exportErofs(ctx, tree, tmp, opt)
		}
		var err error
		out.Note, err = exportDisk(ctx, format, tree, tmp, opt)
		return err
	})
	if err != nil {
		return fail(err)
	}
	return out, nil
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// uuidFrom derives a UUID of version 8 (RFC 9562: made from what one likes).
func uuidFrom(seed string) string {
	u := sha256.Sum256([]byte("ingot file system " + seed))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func exportTar(ctx context.Context, tree, file string, opt TreeOptions) error {
	po, err := newPackOptions(opt.Epoch, opt.Exclude, false)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fw, err := newFrameWriter(ctx, f, opt.Compression, opt.Level, 0)
	if err != nil {
		return err
	}
	return errors.Join(writeTree(ctx, tree, fw, po), fw.Close(), f.Close())
}

// epochEnv makes tools that follow the reproducible-builds convention clamp
// file times and stop asking the clock.
func epochEnv(opt TreeOptions) []string {
	if opt.Epoch.IsZero() {
		return nil
	}
	return []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", opt.Epoch.Unix())}
}

func exportSquashfs(ctx context.Context, tree, file string, opt TreeOptions) error {
	comp := opt.Compression
	if comp == "" {
		comp = "zstd"
	}
	args := []string{tree, file, "-noappend", "-no-progress", "-quiet", "-xattrs", "-comp", comp}
	switch {
	case comp == "lz4" || comp == "xz":
		if opt.Level != 0 {
			return fmt.Errorf("compression %s has no levels in squashfs", comp)
		}
	case comp == "zstd" && opt.Level == 0:
		args = append(args, "-Xcompression-level", "3") // its own default, 15, takes ten times as long
	case opt.Level != 0:
		args = append(args, "-Xcompression-level", fmt.Sprint(opt.Level))
	}
	env := epochEnv(opt)
	if env == nil {
		args = append(args, "-mkfs-time", "0")
	}
	_, err := toolMksquashfs.run(ctx, env, args...)
	return err
}

func exportErofs(ctx context.Context, tree, file string, opt TreeOptions) error {
	args := []string{"-U", opt.UUID}
	switch c := opt.Compression; c {
	case "", "none":
	case "lz4", "lz4hc":
		if opt.Level != 0 {
			c = fmt.Sprintf("%s,%d", c, opt.Level)
		}
		args = append(args, "-z"+c)
	}
	env := epochEnv(opt)
	if env == nil {
		args = append(args, "--preserve-mtime")
	}
	_, err := toolMkfsErofs.run(ctx, env, append(args, file, tree)...)
	return err
}
