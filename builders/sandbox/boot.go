package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/imagefs"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
)

// The kinds of leases.
const (
	leaseDirectory = "directory" // a machine's own files
	leaseCgroup    = "cgroup"
	leaseImage     = "image"  // an image in the store, until it is recorded
	leaseOutput    = "output" // a file written for it, until then
)

// StoreDir is where images are kept below the state directory.
func StoreDir(stateDir string) string { return filepath.Join(stateDir, "images") }

// LeaseStore leases what the image store is about to hold for one bake, or one
// process: files under way, and in the end the image.
func LeaseStore(ctx context.Context, leases builders.Leases, id string) error {
	_, err := leases.Intend(ctx, leaseImage, id, map[string]string{builders.UntilRecorded: "yes"})
	return err
}

// StartMachine leases what a machine takes on this host and starts it. It
// returns the leases too, for Release.
func StartMachine(ctx context.Context, stateDir string, leases builders.Leases, cfg sandbox.Config) (*sandbox.Machine, error) {
	cfg.Dir = filepath.Join(stateDir, "machines", cfg.ID)
	cgroup, err := sandbox.PlanCgroup(cfg.ID)
	if err != nil {
		return nil, err
	}
	if len(cgroup) > 0 {
		data := map[string]string{}
		for ctl, dir := range cgroup {
			data["dir."+ctl] = dir
		}
		if _, err := leases.Intend(ctx, leaseCgroup, "ingot-"+cfg.ID, data); err != nil {
			return nil, err
		}
		cfg.Cgroup = cgroup
	}
	if _, err := leases.Intend(ctx, leaseDirectory, cfg.Dir, nil); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the machine's directory: %w", err)
	}
	return sandbox.Start(ctx, cfg)
}

// Boot implements builders.Builder.
func (b *Builder) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	sandbox.Prepare()
	// First of all leases, last to be given back: it covers what the store
	// holds for this bake.
	if err := LeaseStore(ctx, run.Leases, run.BakeID); err != nil {
		return nil, err
	}
	var err error
	if b.store, err = imagefs.Open(StoreDir(b.env.StateDir), run.Events); err != nil {
		return nil, err
	}
	if b.base, err = b.resolveBase(ctx, run); err != nil {
		return nil, err
	}
	b.layers = b.base.LowerDirs()
	if b.base.OnHost {
		b.layers = append(b.layers, sandbox.HostBase)
	}
	b.dir = filepath.Join(b.env.StateDir, "machines", run.BakeID)
	b.machine, err = StartMachine(ctx, b.env.StateDir, run.Leases, sandbox.Config{
		ID: run.BakeID, Layers: b.layers, Hide: []string{b.env.StateDir}, Hostname: b.opts.Hostname, Network: sandbox.Network(b.opts.Network),
		Memory: int64(b.opts.Memory), CPUs: b.opts.CPUs, PIDs: b.opts.PIDs, TmpSize: int64(b.opts.TmpSize), Init: b.opts.Init,
	})
	if err != nil {
		return nil, err
	}
	run.Values["ID"] = run.BakeID
	run.Values["ConnType"] = "sandbox"
	return b.machine, nil
}

func (b *Builder) resolveBase(ctx context.Context, run *builders.Run) (*imagefs.Base, error) {
	if d := b.opts.Debootstrap; d != nil {
		return b.store.DebootstrapBase(ctx, d.request())
	}
	kind, ref := baseKind(b.opts.Base)
	switch kind {
	case "host":
		return imagefs.HostBase(hostFingerprint()), nil
	case "oci", "docker-archive":
		return b.store.OCIBase(ctx, kind+":"+abs(run.Dir, ref), imagefs.OCIOptions{})
	case "registry":
		return b.store.OCIBase(ctx, ref, imagefs.OCIOptions{})
	case "image":
		digest, err := b.env.Resolve(ref)
		if err != nil {
			return nil, err
		}
		return b.store.ImageBase(ctx, digest)
	}
	p := abs(run.Dir, ref)
	fi, err := os.Stat(p)
	if err != nil {
		return nil, fmt.Errorf("read the base: %w", err)
	}
	if fi.IsDir() {
		return b.store.DirectoryBase(ctx, p)
	}
	return b.store.TarballBase(ctx, p)
}

// hostFingerprint says which system the host is: an image on base "host" runs
// only where that is the same.
func hostFingerprint() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		b, _ = os.ReadFile("/usr/lib/os-release")
	}
	var id, version string
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "ID="); ok {
			id = strings.Trim(v, "\"'\n")
		}
		if v, ok := strings.CutPrefix(line, "VERSION_ID="); ok {
			version = strings.Trim(v, "\"'\n")
		}
	}
	return id + "-" + version
}

// Snapshot implements builders.Builder.
func (b *Builder) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if err := b.machine.Stop(ctx); err != nil {
		return nil, fmt.Errorf("stop the machine: %w", err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := sandbox.Restore(b.dir, b.layers, b.machine.MountPoints()); err != nil {
		return nil, err
	}
	upper := filepath.Join(b.dir, "upper")
	delta, err := b.store.PackDelta(ctx, upper, imagefs.PackOptions{
		Compression: b.opts.Compression, Level: b.opts.CompressionLevel, Epoch: run.SourceDateEpoch,
	})
	if err != nil {
		return nil, err
	}
	if _, err := b.store.AdoptLayer(ctx, upper, delta); err != nil {
		return nil, err
	}
	cfg := imagefs.ImageConfig{
		Cmd: b.opts.Cmd, Entrypoint: b.opts.Entrypoint, WorkingDir: b.opts.WorkingDir, User: b.opts.User, ExposedPorts: b.opts.Expose,
		Labels: b.opts.Labels, Created: run.SourceDateEpoch,
	}
	for k, v := range b.opts.Env {
		cfg.Env = append(cfg.Env, k+"="+v)
	}
	slices.Sort(cfg.Env)
	digest, err := b.store.WriteImage(ctx, b.base, delta, cfg, func(digest string) error {
		return b.imageLease(ctx, run, digest)
	})
	if err != nil {
		return nil, err
	}
	outputs, err := b.export(ctx, run, digest)
	if err != nil {
		return nil, err
	}
	a, err := b.artifact(digest, outputs)
	if err != nil {
		return nil, err
	}
	// The image itself keeps from now on what it needs.
	return a, b.store.Close()
}

// imageLease notes the digest in the lease that Boot took.
func (b *Builder) imageLease(ctx context.Context, run *builders.Run, digest string) error {
	for _, l := range run.Leases.Open() {
		if l.Kind == leaseImage {
			return run.Leases.Created(ctx, l, digest)
		}
	}
	return errors.New("the ledger has lost the lease of this bake's image")
}

func (b *Builder) artifact(digest string, outputs []imagefs.Output) (*builders.Artifact, error) {
	a := &builders.Artifact{
		BuilderID: "ingot.sandbox", ID: digest, Parent: b.base.Ref,
		Text:   fmt.Sprintf("%s in %s", digest, b.store.Dir()),
		Places: []builders.Place{{Platform: "sandbox", ID: digest, Digest: digest, Location: b.store.Dir()}},
		Values: map[string]string{"ID": digest},
	}
	for _, o := range outputs {
		// An OCI layout is a directory; post-processors want its files.
		err := filepath.WalkDir(o.Path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				a.Files = append(a.Files, p)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list the output %s: %w", o.Path, err)
		}
		a.Places = append(a.Places, builders.Place{Platform: "file", Region: o.Format, ID: o.Path, Digest: o.Digest, Location: o.Path})
		a.Text += fmt.Sprintf("\n%s: %s", o.Format, o.Path)
		if o.Note != "" {
			a.Text += " (" + o.Note + ")"
		}
	}
	if len(outputs) > 0 {
		a.Destroy = func(context.Context) error {
			var errs []error
			for _, o := range outputs {
				errs = append(errs, os.RemoveAll(o.Path))
			}
			return errors.Join(errs...)
		}
	}
	return a, nil
}

// export writes the outputs, those that need no tree beside those that do.
func (b *Builder) export(ctx context.Context, run *builders.Run, digest string) ([]imagefs.Output, error) {
	outs := make([]imagefs.Output, len(b.opts.Output))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	var lower []string
	for i, o := range b.opts.Output {
		p := abs(run.Dir, o.Path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return nil, fmt.Errorf("write output %s: %w", p, err)
		}
		if run.Force {
			if err := os.RemoveAll(p); err != nil {
				return nil, fmt.Errorf("replace output %s: %w", p, err)
			}
		}
		if formats[o.Format] && lower == nil {
			var err error
			if lower, err = b.store.LayerDirs(ctx, digest); err != nil {
				return nil, err
			}
		}
		if _, err := run.Leases.Intend(ctx, leaseOutput, p, map[string]string{builders.UntilRecorded: "yes"}); err != nil {
			return nil, err
		}
		g.Go(func() error {
			start := time.Now()
			var err error
			switch tag := o.Tag; o.Format {
			case "oci":
				if tag == "" {
					tag = "latest"
				}
				outs[i], err = b.store.ExportOCI(gctx, digest, p, tag)
			case "docker-archive":
				if tag == "" {
					tag = run.Image + ":latest"
				}
				outs[i], err = b.store.ExportDockerArchive(gctx, digest, p, tag)
			default:
				outs[i], err = b.exportTree(gctx, run, lower, digest, i, o, p)
			}
			if err != nil {
				return fmt.Errorf("write %s output %s: %w", o.Format, p, err)
			}
			run.Events.Emit(event.Event{Kind: event.Message, Text: fmt.Sprintf("wrote %s: %s (%.1f MB in %.2f s)", o.Format, p, float64(outs[i].Bytes)/1e6, time.Since(start).Seconds())})
			if outs[i].Note != "" {
				run.Events.Say(outs[i].Note)
			}
			return nil
		})
	}
	return outs, g.Wait()
}

func (b *Builder) exportTree(ctx context.Context, run *builders.Run, lower []string, digest string, i int, o Output, p string) (imagefs.Output, error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("view%d", i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return imagefs.Output{}, err
	}
	var out imagefs.Output
	err := sandbox.RunInView(ctx, sandbox.View{Dir: dir, Layers: lower}, "export", treeTask{Format: o.Format, File: p, Options: imagefs.TreeOptions{
		Size: int64(o.Size), Label: "ingot-root", Compression: o.Compression, Epoch: run.SourceDateEpoch,
		Bootable: o.Bootable == nil || *o.Bootable, KernelOptions: o.KernelOptions, Seed: digest,
	}}, &out)
	return out, err
}

// Release implements builders.Builder.
func (b *Builder) Release(ctx context.Context, l builders.Lease) error {
	switch l.Kind {
	case leaseDirectory:
		if b.proof != nil && l.Name == b.proof.dir {
			return b.releaseProof(ctx)
		}
		if b.machine != nil && l.Name == b.dir {
			if err := b.machine.Stop(ctx); err != nil {
				return err
			}
		}
		return sandbox.Remove(l.Name)
	case leaseCgroup:
		var dirs []string
		for _, d := range l.Data {
			dirs = append(dirs, d)
		}
		return sandbox.RemoveCgroup(dirs)
	case leaseOutput:
		return imagefs.RemoveOutput(l.Name)
	case leaseImage:
		return b.releaseImage(ctx, l)
	}
	return fmt.Errorf("the sandbox builder knows no lease of kind %q", l.Kind)
}

// releaseImage removes an image that never came to be recorded, and what a
// dead process has left in the store.
func (b *Builder) releaseImage(ctx context.Context, l builders.Lease) error {
	store := b.store
	if store != nil {
		// What this bake holds would be kept from the clean-up.
		if err := store.Close(); err != nil {
			return err
		}
	}
	store, err := imagefs.Open(StoreDir(b.env.StateDir), event.Scope{})
	if err != nil {
		return err
	}
	defer store.Close()
	if l.ExternalID != "" {
		// The same input gives the same image: another version may be this one.
		if used, err := b.env.Wanted(ctx, l.ExternalID, l.BakeID); err != nil {
			return err
		} else if !used {
			return store.Delete(ctx, l.ExternalID)
		}
	}
	return store.CleanUp(ctx)
}

// Orphans finds machines' directories without asking the ledger.
func (b *Builder) Orphans(_ context.Context, olderThan time.Duration) ([]builders.Lease, error) {
	root := filepath.Join(b.env.StateDir, "machines")
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for machines' directories: %w", err)
	}
	var out []builders.Lease
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || time.Since(fi.ModTime()) < olderThan {
			continue
		}
		id := strings.TrimSuffix(e.Name(), proofSuffix)
		out = append(out, builders.Lease{BakeID: id, Builder: "sandbox", Kind: leaseDirectory, Name: filepath.Join(root, e.Name()), Created: fi.ModTime()})
	}
	return out, nil
}
