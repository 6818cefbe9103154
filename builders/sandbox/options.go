// Package sandbox is the builder that bakes on this Linux machine: no account,
// no download, no daemon. The machine is a set of namespaces on an overlay file
// system; what it changes becomes a layer of an OCI image, from which the other
// outputs are made.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/imagefs"
	"github.com/ingotbuild/ingot/internal/sandbox"
)

// Options are what a source "sandbox" block can say.
type Options struct {
	// Base is what the machine starts from: "host" (this machine's own system,
	// read-only, without homes and credentials), a directory, a tarball (plain,
	// .gz, .zst, .xz), an OCI image ("oci:DIR[:TAG]", "docker-archive:FILE",
	// "docker://REFERENCE"), or an earlier image ("image:web@production").
	// Default: "host".
	Base string `cfg:"base"`
	// Debootstrap makes the base with the distribution's own tool, in place of Base.
	Debootstrap *Debootstrap `cfg:"debootstrap,block"`
	// Network is "user" (a network of the machine's own, outbound through this
	// process, default), "host" or "none".
	Network string `cfg:"network"`
	// Hostname of the machine while it is baked. Default: "ingot".
	Hostname string `cfg:"hostname"`
	// Memory limits the machine, e.g. "512m". Default: no limit.
	Memory config.Size `cfg:"memory"`
	// CPUs limits the processors it may use, e.g. 1.5. Default: no limit.
	CPUs float64 `cfg:"cpus"`
	// PIDs limits its processes. Default: no limit.
	PIDs int64 `cfg:"pids"`
	// TmpSize bounds its /tmp, which is no part of the image. Default: "2g".
	TmpSize config.Size `cfg:"tmp_size"`
	// Init runs the image's own init, by its path, as the machine's first
	// process. Default: a small reaper of Ingot's.
	Init string `cfg:"init"`

	// Cmd and Entrypoint are what a machine made from the image runs.
	Cmd        []string `cfg:"cmd"`
	Entrypoint []string `cfg:"entrypoint"`
	// Env are environment variables of that program.
	Env map[string]string `cfg:"env"`
	// WorkingDir is its working directory, User who runs it.
	WorkingDir string `cfg:"working_dir"`
	User       string `cfg:"user"`
	// Expose names the ports it listens on: "80", "53/udp".
	Expose []string `cfg:"expose"`
	// Labels go into the image's configuration.
	Labels map[string]string `cfg:"labels"`

	// Compression of the image's own layer: "zstd" (default), "gzip" or "none".
	// With "gzip", zstd layers of the base become gzip too, for tools that read
	// no zstd.
	Compression string `cfg:"compression"`
	// CompressionLevel of that compression. Default: its own (zstd 3, gzip 6).
	CompressionLevel int `cfg:"compression_level"`

	// Output blocks are the files to write besides the image in Ingot's store.
	Output []Output `cfg:"output,block"`
}

// Debootstrap says what debootstrap is to make. The result is cached by all of
// this, the tool's version and the state of the mirror.
type Debootstrap struct {
	// Suite is the release, e.g. "bookworm".
	Suite string `cfg:"suite,required"`
	// Mirror is where packages come from. Default: debootstrap's own for the suite.
	Mirror string `cfg:"mirror"`
	// Variant: "minbase", "buildd", or "standard" for the full base system. Default: "minbase".
	Variant string `cfg:"variant"`
	// Include are packages to add.
	Include []string `cfg:"include"`
}

func (d *Debootstrap) request() imagefs.Debootstrap {
	return imagefs.Debootstrap{Suite: d.Suite, Mirror: d.Mirror, Variant: d.Variant, Include: d.Include}
}

// Output is one file to write.
type Output struct {
	// Format: "oci" (an OCI layout directory), "docker-archive" (a file for
	// docker load), "tar", "ext4", "raw", "qcow2", "squashfs" or "erofs".
	Format string `cfg:"format,required"`
	// Path of the file or directory, relative to the working directory.
	Path string `cfg:"path,required"`
	// Size of an ext4 file system or a disk. Default: what is needed, with a
	// tenth and 32 MiB to spare.
	Size config.Size `cfg:"size"`
	// Compression of "tar": "zstd" (default), "gzip" or "none"; of "squashfs":
	// "zstd" (default), "gzip", "xz", "lz4" or "lzo"; of "erofs": "none"
	// (default), "lz4" or "lz4hc"; of "qcow2": "none" (default), "zlib" or "zstd".
	Compression string `cfg:"compression"`
	// Bootable puts a boot loader on a raw or qcow2 disk whose tree has a
	// kernel. Default: true where there is one.
	Bootable *bool `cfg:"bootable"`
	// KernelOptions are added to the kernel's command line.
	KernelOptions string `cfg:"kernel_options"`
	// Tag names the image in "oci" and "docker-archive" outputs. Default: the image's name and "latest".
	Tag string `cfg:"tag"`
}

// formats are the outputs, and whether they need the whole tree.
var formats = map[string]bool{
	"oci": false, "docker-archive": false, "tar": true, "ext4": true, "raw": true, "qcow2": true, "squashfs": true, "erofs": true,
}

// Env is what the builder needs of the program around it.
type Env struct {
	// StateDir is where machines and images are kept.
	StateDir string
	// Resolve turns an image reference ("web@production") into the digest of
	// its sandbox image.
	Resolve func(ref string) (digest string, err error)
	// Wanted says whether anything but the given bake names an image: a version
	// in the registry, or another bake that is not recorded yet. Such an image
	// must not be removed.
	Wanted func(ctx context.Context, digest, bakeID string) (bool, error)
}

// Builder implements builders.Builder.
type Builder struct {
	env  Env
	opts Options

	store   *imagefs.Store
	base    *imagefs.Base
	layers  []string
	machine *sandbox.Machine
	dir     string
	proof   *proof
}

// New makes a builder for one bake.
func New(env Env) *Builder {
	return &Builder{env: env, opts: Options{Base: "host", Network: "user", Compression: "zstd"}}
}

// Options implements builders.Builder.
func (b *Builder) Options() any { return &b.opts }

// Check implements builders.Builder.
func (b *Builder) Check(ctx context.Context, env *builders.CheckEnv) []config.Problem {
	var ps []config.Problem
	bad := func(option, detail, format string, args ...any) {
		ps = append(ps, config.Problem{Option: option, Summary: fmt.Sprintf(format, args...), Detail: detail})
	}
	o := &b.opts
	if runtime.GOOS != "linux" && !env.Validate {
		bad("", "", "%v", sandbox.ErrUnsupported)
	}
	switch sandbox.Network(o.Network) {
	case sandbox.NetworkUser, sandbox.NetworkHost, sandbox.NetworkNone:
	default:
		bad("network", `It can be "user", "host" or "none".`, "There is no network %q", o.Network)
	}
	switch o.Compression {
	case "zstd", "gzip", "none":
	default:
		bad("compression", `It can be "zstd", "gzip" or "none".`, "There is no compression %q", o.Compression)
	}
	if o.CPUs < 0 {
		bad("cpus", "Leave it out for no limit.", "cpus is negative")
	}
	if o.PIDs < 0 {
		bad("pids", "Leave it out for no limit.", "pids is negative")
	}
	if o.Memory > 0 && o.Memory < 16<<20 {
		bad("memory", "A machine needs at least 16m for itself.", "%s of memory is too little", o.Memory)
	}
	if o.Init != "" && !filepath.IsAbs(o.Init) {
		bad("init", "Write it as the machine sees it, e.g. /sbin/init.", "init must be an absolute path")
	}
	if o.Debootstrap != nil && o.Base != "host" && o.Base != "" {
		bad("base", "The debootstrap block makes the base: leave base out.", "base and debootstrap cannot both be given")
	}
	least := b.checkBase(env, bad)
	taken := map[string]bool{}
	for i, out := range o.Output {
		opt := fmt.Sprintf("output.%d", i)
		b.checkOutput(env, opt, out, least, bad)
		if p := abs(env.Dir, out.Path); taken[p] {
			bad(opt+".path", "Give each output a path of its own.", "Another output is written to %s already", p)
		} else {
			taken[p] = true
		}
	}
	return ps
}

type badFunc func(option, detail, format string, args ...any)

// checkBase returns a lower bound of what the base takes on a disk.
func (b *Builder) checkBase(env *builders.CheckEnv, bad badFunc) int64 {
	o := &b.opts
	if d := o.Debootstrap; d != nil {
		if err := d.request().Check(); err != nil {
			option := "debootstrap"
			if field, _, ok := strings.Cut(strings.Replace(err.Error(), ":", " ", 1), " "); ok {
				option += "." + field // the text begins with what it is about
			}
			bad(option, "", "debootstrap cannot be asked for this: %v", err)
		}
		if !env.Validate {
			if _, err := exec.LookPath("debootstrap"); err != nil {
				bad("debootstrap", "On Debian: apt-get install debootstrap.", "debootstrap is not installed")
			}
		}
		return 0
	}
	kind, ref := baseKind(o.Base)
	switch kind {
	case "host":
		if !env.Validate && sandbox.InUserNamespace() {
			bad("base", "In a user namespace this machine's files belong to nobody. Run as root, or start from a tarball, an OCI image or a debootstrap block.",
				`Base "host" needs root`)
		}
		return 0
	case "registry":
		return 0
	case "image":
		if env.Validate || b.env.Resolve == nil {
			return 0
		}
		if _, err := b.env.Resolve(ref); err != nil {
			bad("base", "`ingot images` lists what there is.", "The base image cannot be used: %v", err)
		}
		return 0
	}
	p := ref
	if kind == "oci" { // the tag
		if _, err := os.Stat(abs(env.Dir, p)); err != nil {
			if i := strings.LastIndexByte(p, ':'); i > 0 {
				p = p[:i]
			}
		}
	}
	p = abs(env.Dir, p)
	fi, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		bad("base", `It is looked for relative to the working directory; ${path.root} is the template's. A registry image is written "docker://debian:12".`, "The base %s does not exist", p)
	case err != nil:
		bad("base", "", "The base cannot be read: %v", err)
	case fi.IsDir():
		return 0
	default:
		f, err := os.Open(p)
		if err != nil {
			bad("base", "", "The base cannot be read: %v", err)
			return 0
		}
		f.Close()
		return fi.Size()
	}
	return 0
}

// baseKind says what a base is: host, path, oci, docker-archive, registry or image.
func baseKind(base string) (kind, ref string) {
	if base == "" || base == "host" {
		return "host", ""
	}
	for _, k := range []string{"oci", "docker-archive", "image"} {
		if r, ok := strings.CutPrefix(base, k+":"); ok {
			return k, r
		}
	}
	if r, ok := strings.CutPrefix(base, "docker://"); ok {
		return "registry", r
	}
	return "path", base
}

func (b *Builder) checkOutput(env *builders.CheckEnv, opt string, out Output, least int64, bad badFunc) {
	wholeTree, ok := formats[out.Format]
	if !ok {
		var names []string
		for f := range formats {
			names = append(names, f)
		}
		slices.Sort(names)
		detail := "It can be " + strings.Join(names, ", ") + "."
		if near := config.Suggest(out.Format, names); near != "" {
			detail = fmt.Sprintf("Did you mean %q? %s", near, detail)
		}
		bad(opt+".format", detail, "There is no output format %q", out.Format)
		return
	}
	if kind, _ := baseKind(b.opts.Base); wholeTree && kind == "host" && b.opts.Debootstrap == nil {
		bad(opt+".format", `An image on base "host" holds only what the bake changed: it can be written as "oci" or "docker-archive". Use another base, such as a debootstrap block, for a whole file system.`,
			`Base "host" cannot be written as %s`, out.Format)
	}
	if (out.Size != 0 || out.Bootable != nil || out.KernelOptions != "") && !slices.Contains([]string{"ext4", "raw", "qcow2"}, out.Format) {
		bad(opt+".size", "size, bootable and kernel_options are for ext4, raw and qcow2.", "A %s output has no size and no boot loader", out.Format)
	}
	if out.Size != 0 {
		const smallest = 16 << 20
		why := fmt.Sprintf("It takes at least %s.", config.Size(smallest))
		if least > smallest {
			why = fmt.Sprintf("The base alone takes more than %s.", config.Size(least))
		}
		if int64(out.Size) < max(smallest, least) {
			bad(opt+".size", why+" Leave size out to have what is needed.", "A disk of %s is too small", out.Size)
		}
	}
	switch {
	case wholeTree:
		if err := imagefs.CheckOptions(out.Format, imagefs.TreeOptions{Compression: out.Compression, KernelOptions: out.KernelOptions}); err != nil {
			bad(opt, "", "The %s output cannot be made so: %v", out.Format, err)
		}
	case out.Tag == "":
	case out.Format == "oci":
		if err := imagefs.CheckTag(out.Tag); err != nil {
			bad(opt+".tag", "", "%v", err)
		}
	default:
		if err := imagefs.CheckName(out.Tag); err != nil {
			bad(opt+".tag", `Write it as docker images shows it: "web:latest".`, "%v", err)
		}
	}
	p := abs(env.Dir, out.Path)
	if fi, err := os.Lstat(p); err == nil && !env.Force && !env.Validate {
		what := "file"
		if fi.IsDir() {
			what = "directory"
		}
		bad(opt+".path", "Use -force to replace it.", "The output %s %s exists already", what, p)
	}
	if env.Validate {
		return
	}
	dir, err := writableParent(p)
	if err != nil {
		bad(opt+".path", "Choose a place that this user may write to.", "The output cannot be written: %v", err)
	} else if free, err := freeSpace(dir); err == nil && free < uint64(max(int64(out.Size)/8, least)) {
		// A sparse disk rarely takes more than an eighth of its size at first; less than that is hopeless.
		bad(opt+".path", "Free some space, or write elsewhere.", "The disk is too full for this output: %s is free at %s", config.Size(free), dir)
	}
	if err := imagefs.CheckTools(out.Format, out.Bootable != nil && *out.Bootable); err != nil {
		bad(opt+".format", "", "%v", err)
	}
}

// writableParent is the nearest directory above p that exists, if this process may write there.
func writableParent(p string) (string, error) {
	for dir := filepath.Dir(p); ; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue
		}
		if err != nil {
			return "", err
		}
		if !fi.IsDir() {
			return "", fmt.Errorf("%s is not a directory", dir)
		}
		return dir, writable(dir)
	}
}

func abs(dir, p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// treeTask is what exportTree hands to that process.
type treeTask struct {
	Format, File string
	Options      imagefs.TreeOptions
}

// PackingTasks are what this builder has done in a process of its own.
func PackingTasks() sandbox.Tasks {
	return sandbox.Tasks{"export": func(ctx context.Context, tree string, in json.RawMessage) (any, error) {
		var t treeTask
		if err := json.Unmarshal(in, &t); err != nil {
			return nil, err
		}
		return imagefs.ExportTree(ctx, t.Format, tree, t.File, t.Options)
	}}
}
