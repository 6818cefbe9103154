package amazonimport

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
)

// formats are those that VM Import reads, the default one first.
var formats = [...]string{"ova", "raw", "vmdk", "vhd", "vhdx"}

// disk is the image to import.
type disk struct {
	path, format string
	convert      bool // it is a qcow2, which VM Import does not read
}

// choose takes the disk to import among an artifact's files.
func (o *Options) choose(files []string) (disk, error) {
	var found []disk
	for _, f := range files {
		ext := strings.ToLower(strings.TrimPrefix(filepath.Ext(f), "."))
		if slices.Contains(formats[:], ext) || ext == "qcow2" {
			found = append(found, disk{path: f, format: ext, convert: ext == "qcow2"})
		}
	}
	names := func() string {
		var s []string
		for _, d := range found {
			s = append(s, d.path)
		}
		return strings.Join(s, ", ")
	}
	of := func(format string) (disk, bool) {
		i := slices.IndexFunc(found, func(d disk) bool { return d.format == format })
		if i < 0 {
			return disk{}, false
		}
		return found[i], true
	}
	if o.Format != "" {
		if d, ok := of(o.Format); ok {
			return d, nil
		}
		if len(found) == 0 {
			return disk{}, fmt.Errorf("the artifact has no .%s file", o.Format)
		}
		return disk{}, fmt.Errorf("the artifact has no .%s file, but %s: change format, or what the builder writes", o.Format, names())
	}
	if d, ok := of(formats[0]); ok {
		return d, nil
	}
	// What need not be converted comes first.
	if slices.ContainsFunc(found, func(d disk) bool { return !d.convert }) {
		found = slices.DeleteFunc(found, func(d disk) bool { return d.convert })
	}
	switch len(found) {
	case 0:
		return disk{}, fmt.Errorf("the artifact has no disk image: its files are %q, and it takes a file by .%s or .qcow2. "+
			`A sandbox source writes one with output { format = "raw" }`, files, strings.Join(formats[:], ", ."))
	case 1:
		return found[0], nil
	}
	return disk{}, fmt.Errorf("the artifact has several disk images, %s: say which with format", names())
}

// toVMDK converts the disk into a file beside it, which is leased. A
// stream-optimized VMDK is compressed, and so the least to upload.
func (d *disk) toVMDK(ctx context.Context, events event.Scope, ledger *leases) (done func() error, err error) {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		return nil, fmt.Errorf("VM Import does not read %s, and there is no qemu-img here to convert it: install qemu-utils, "+
			"or have the builder write a raw disk", filepath.Base(d.path))
	}
	path, err := filepath.Abs(filepath.Join(filepath.Dir(d.path), ".ingot-import-"+ledger.id+".vmdk"))
	if err != nil {
		return nil, err
	}
	lease, err := ledger.Intend(ctx, leaseFile, path, nil)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // only its owner may read it
	if err != nil {
		return nil, err
	}
	_ = f.Close()
	done = func() error {
		if err := os.Remove(path); err != nil {
			return err
		}
		return ledger.strike(ctx, lease)
	}
	events.Say(fmt.Sprintf("Converting %s to a compressed VMDK", filepath.Base(d.path)))
	cmd := exec.CommandContext(ctx, tool, "convert", "-f", "qcow2", "-O", "vmdk", "-o", "subformat=streamOptimized", "--", d.path, path)
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("convert %s: %w: %s", d.path, err, bytes.TrimSpace(out))
	}
	d.path, d.format, d.convert = path, "vmdk", false
	return done, nil
}
