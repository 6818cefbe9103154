// Package file is the builder that makes one file of a text, or a copy of
// another file. There is no machine: provisioners that need one are skipped
// with a warning, as Packer skips them without one.
package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
)

// Options are what a source "file" block can say.
type Options struct {
	// Target is the file to make, or to replace. Missing directories above it
	// are made.
	Target string `cfg:"target"`
	// Content is what the file holds. It may then be read by its owner only.
	Content string `cfg:"content"`
	// Source is a file to copy in place of Content.
	Source string `cfg:"source"`
}

// Builder implements builders.Builder.
type Builder struct {
	o      Options
	digest string
}

// New makes a builder for one bake.
func New() *Builder { return &Builder{} }

var _ builders.Builder = (*Builder)(nil)

// Options implements builders.Builder.
func (b *Builder) Options() any { return &b.o }

// Check implements builders.Builder.
func (b *Builder) Check(_ context.Context, env *builders.CheckEnv) []config.Problem {
	var ps []config.Problem
	if b.o.Target == "" {
		ps = append(ps, config.Problem{Option: "target", Summary: "target is missing: it names the file to make"})
	}
	switch {
	case b.o.Content != "" && b.o.Source != "":
		ps = append(ps, config.Problem{Option: "source", Summary: "content and source are both given", Detail: "Give one of them."})
	case b.o.Content == "" && b.o.Source == "":
		ps = append(ps, config.Problem{Option: "content", Summary: "Neither content nor source is given, so the file will be empty", Warning: true})
	case b.o.Source != "" && !env.Validate: // something else may make it until then
		if info, err := os.Stat(abs(env.Dir, b.o.Source)); err != nil {
			ps = append(ps, config.Problem{Option: "source", Summary: fmt.Sprintf("The source cannot be read: %v", err)})
		} else if !info.Mode().IsRegular() {
			ps = append(ps, config.Problem{Option: "source", Summary: fmt.Sprintf("The source %s is no regular file", b.o.Source)})
		}
	}
	return ps
}

func abs(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

const leaseOutput = "output"

// Boot implements builders.Builder. It writes the file, which provisioners on
// this host may want to look at.
func (b *Builder) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	run.Values["ID"] = id
	if err := b.write(ctx, run); err != nil {
		return nil, fmt.Errorf("write %s: %w", b.o.Target, err)
	}
	run.SkipMachine = true
	return nil, nil
}

func (b *Builder) write(ctx context.Context, run *builders.Run) error {
	in, err := b.open(run.Dir)
	if err != nil {
		return err
	}
	defer in.Close()
	if b.digest, err = sum(in); err != nil {
		return err
	}
	target := abs(run.Dir, b.o.Target)
	if info, err := os.Lstat(target); err == nil && info.IsDir() {
		return errors.New("it is a directory")
	}
	if have, err := digest(target); err == nil && have == b.digest {
		return os.Chmod(target, in.mode) // an earlier version's, perhaps, which is not to be given back
	}
	lease := builders.Lease{BakeID: run.BakeID, Name: target}
	if _, err := run.Leases.Intend(ctx, leaseOutput, target, map[string]string{"sha256": b.digest, builders.UntilRecorded: "yes"}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, err := os.OpenFile(partial(lease), os.O_WRONLY|os.O_CREATE|os.O_EXCL, in.mode)
	if err != nil {
		return err
	}
	// What is written may differ from what was read first: the lease's digest
	// then does not match, and the file is left alone by Release.
	if _, err = io.Copy(out, in); err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(partial(lease), target)
}

// content is what is to be written, and with which mode.
type content struct {
	io.ReadSeeker
	io.Closer
	mode fs.FileMode
}

func (b *Builder) open(dir string) (*content, error) {
	if b.o.Source == "" {
		return &content{strings.NewReader(b.o.Content), io.NopCloser(nil), 0o600}, nil
	}
	f, err := os.Open(abs(dir, b.o.Source))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &content{f, f, info.Mode().Perm()}, nil
}

// partial is the file while it is written.
func partial(l builders.Lease) string { return l.Name + ".ingot-" + l.BakeID }

const id = "File"

// Snapshot implements builders.Builder.
func (b *Builder) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	target := abs(run.Dir, b.o.Target)
	return &builders.Artifact{
		BuilderID: "packer.file", ID: id, Text: "Stored file: " + b.o.Target, Files: []string{b.o.Target},
		Places:  []builders.Place{{Platform: "file", Region: b.o.Target, ID: target, Digest: "sha256:" + b.digest, Location: target}},
		Destroy: func(context.Context) error { return remove(target) },
	}, nil
}

// Release implements builders.Builder. A file that is not what the bake has
// written is somebody else's, and stays.
func (b *Builder) Release(_ context.Context, l builders.Lease) error {
	if l.Kind != leaseOutput {
		return fmt.Errorf("the file builder knows no lease of the kind %q", l.Kind)
	}
	if err := remove(partial(l)); err != nil {
		return err
	}
	have, err := digest(l.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || have != l.Data["sha256"] {
		return err
	}
	return remove(l.Name)
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return sum(f)
}

func sum(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Orphans implements builders.Builder. Without the ledger a file of this
// builder is like any other.
func (b *Builder) Orphans(context.Context, time.Duration) ([]builders.Lease, error) { return nil, nil }
