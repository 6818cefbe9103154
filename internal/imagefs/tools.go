package imagefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tool is a program that others write, and the Debian package it is in.
type tool struct{ name, pkg string }

var (
	toolMke2fs      = tool{"mke2fs", "e2fsprogs"}
	toolMksquashfs  = tool{"mksquashfs", "squashfs-tools"}
	toolMkfsErofs   = tool{"mkfs.erofs", "erofs-utils"}
	toolQemuImg     = tool{"qemu-img", "qemu-utils"}
	toolGrubMkimage = tool{"grub-mkimage", "grub-common"}
	toolDebootstrap = tool{"debootstrap", "debootstrap"}
)

// find looks in PATH, and in the system directories that the PATH of an
// ordinary user lacks.
func (t tool) find() (string, error) {
	p, err := exec.LookPath(t.name)
	if err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, t.name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: install the package %s (Debian, Ubuntu: apt-get install %s)", t.name, t.pkg, t.pkg)
}

// command prepares a child that dies with the context and with this process.
func (t tool) command(ctx context.Context, env []string, args ...string) (*exec.Cmd, error) {
	p, err := t.find()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, p, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.Env = append(cmd.Env, env...)
	cmd.WaitDelay = 10 * time.Second
	dieWithUs(cmd)
	return cmd, nil
}

// run runs the tool and returns what it printed; a failure carries the end of that.
func (t tool) run(ctx context.Context, env []string, args ...string) (string, error) {
	cmd, err := t.command(ctx, env, args...)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = t.wait(ctx, cmd, &out)
	return out.String(), err
}

func (t tool) wait(ctx context.Context, cmd *exec.Cmd, out *bytes.Buffer) error {
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", t.name, context.Cause(ctx))
	}
	if err != nil {
		text := strings.TrimSpace(out.String())
		if len(text) > 2000 {
			text = "…" + text[len(text)-2000:]
		}
		return fmt.Errorf("%s: %w: %s", t.name, err, text)
	}
	return nil
}

// syncAndHash makes a file durable while its digest is computed.
func syncAndHash(p string) (int64, string, error) {
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	synced := make(chan error, 1)
	go func() { synced <- f.Sync() }()
	digest, err := hashFile(p)
	if err = errors.Join(err, <-synced); err != nil {
		return 0, "", err
	}
	size, err := f.Seek(0, io.SeekEnd)
	return size, digest, err
}
