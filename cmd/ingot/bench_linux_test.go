package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmarks measure whole processes, one round of all ways per iteration,
// so that what else the machine does falls on all of them:
//
//	go test ./cmd/ingot -run '^$' -bench . -benchtime 7x
//
// The reported figures are medians. docs/performance.md says more.

// way is one way to do the same thing.
type way struct {
	name string
	// run does it once and returns what it took, in seconds.
	run  func() float64
	took []float64
}

func (w *way) median() float64 {
	t := slices.Sorted(slices.Values(w.took))
	return (t[(len(t)-1)/2] + t[len(t)/2]) / 2
}

// race runs all ways in turn, as often as the benchmark wants, and reports
// each one's median and the first one's ratio to each other.
func race(b *testing.B, ways []*way) {
	for b.Loop() {
		for _, w := range ways {
			unix.Sync() // nobody pays for what the one before has left to write
			w.took = append(w.took, w.run())
		}
	}
	b.ReportMetric(0, "ns/op") // one round of everything says nothing
	for i, w := range ways {
		b.ReportMetric(w.median(), w.name+"-s")
		if i > 0 {
			b.ReportMetric(ways[0].median()/w.median(), ways[0].name+"/"+w.name)
		}
		b.Logf("%-19s median %6.3f s (%.3f to %.3f, n = %d)", w.name, w.median(), slices.Min(w.took), slices.Max(w.took), len(w.took))
	}
}

// missing skips the test or benchmark, or fails it where nothing may be missing.
func missing(b testing.TB, why string) {
	b.Helper()
	if os.Getenv("CI") == "true" {
		b.Fatal(why)
	}
	b.Skip(why)
}

// program builds Ingot as it is released.
func program(b *testing.B) string {
	b.Helper()
	exe := filepath.Join(b.TempDir(), "ingot")
	cmd := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", exe, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	must(b, cmd)
	return exe
}

// must runs a command to its end and returns its standard output and the
// seconds that it took.
func must(b *testing.B, cmd *exec.Cmd) ([]byte, float64) {
	b.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start).Seconds()
	if err != nil {
		b.Fatalf("%s: %v\n%s%s", cmd, err, &stdout, &stderr)
	}
	return stdout.Bytes(), took
}

const install = "DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends --no-download nginx-light"

// makeBase makes Debian minbase with the packages of the job at hand, so that
// a bake needs no network, and without starting services. $1 is where the
// tarball goes.
const makeBase = `set -eu
dir=$(mktemp -d "$1.XXXXXX")
trap 'rm -rf "$dir"' EXIT
debootstrap --variant=minbase bookworm "$dir/tree"
cp /etc/resolv.conf "$dir/tree/etc/"
printf '#!/bin/sh\nexit 101\n' > "$dir/tree/usr/sbin/policy-rc.d"
chmod 0755 "$dir" "$dir/tree" "$dir/tree/usr/sbin/policy-rc.d"
chroot "$dir/tree" apt-get update
chroot "$dir/tree" apt-get clean
chroot "$dir/tree" apt-get install -y --no-install-recommends --download-only nginx-light
tar -C "$dir/tree" --numeric-owner --sort=name -cf "$dir/base.tar" .
mv "$dir/base.tar" "$1"
`

// base returns the tarball that all ways start from, and makes it if need be.
func base(b *testing.B) string {
	b.Helper()
	dir := os.Getenv("INGOT_BENCH_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			b.Fatal(err)
		}
		dir = filepath.Join(cache, "ingot-bench")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(dir, "base.tar")
	if _, err := os.Stat(file); err != nil {
		if _, err := exec.LookPath("debootstrap"); err != nil {
			missing(b, fmt.Sprintf("the base tarball has to be made: %v", err))
		}
		b.Logf("making %s, once", file)
		cmd := exec.CommandContext(b.Context(), "sh", "-c", makeBase, "sh", file)
		cmd.SysProcAttr = ownMounts()
		must(b, cmd)
	}
	return file
}

// ownMounts gives a process a mount namespace, so that nothing stays mounted.
func ownMounts() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
}

// scratch is a directory on the disk that holds the base: os.TempDir may be in memory.
func scratch(b *testing.B, base string) string {
	b.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(base), "run-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

// BenchmarkSandboxInstall installs one package on Debian and makes a layer of
// it: with Ingot, with the usual tools by hand, and with Docker.
func BenchmarkSandboxInstall(b *testing.B) {
	if os.Geteuid() != 0 {
		missing(b, "mount and chroot, which Ingot is measured against, need root")
	}
	tarball := base(b)
	dir := scratch(b, tarball)
	ways := []*way{
		{name: "ingot", run: ingotInstall(b, tarball, dir)},
		{name: "hand", run: handInstall(b, tarball, dir, "")},
		{name: "hand-volatile", run: handInstall(b, tarball, dir, ",volatile")},
	}
	race(b, append(ways, dockerInstalls(b, tarball, dir)...))
}

func ingotInstall(b *testing.B, tarball, dir string) func() float64 {
	exe := program(b)
	out := filepath.Join(dir, "oci")
	template := filepath.Join(dir, "bench.pkr.hcl")
	text := fmt.Sprintf(`
source "sandbox" "debian" {
  base = %q
  output {
    format = "oci"
    path   = %q
  }
}
build {
  name    = "bench"
  sources = ["source.sandbox.debian"]
  provisioner "shell" { inline = [%q] }
}
`, tarball, out, install)
	if err := os.WriteFile(template, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	run := func() float64 {
		cmd := exec.CommandContext(b.Context(), exe, "build", template)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "INGOT_HOME="+filepath.Join(dir, "home"))
		_, took := must(b, cmd)
		if err := os.RemoveAll(out); err != nil {
			b.Fatal(err)
		}
		return took
	}
	run() // unpacks the base, as the others have theirs unpacked
	return run
}

// handInstall is what one writes into a shell script. $1 is the lower
// directory, $2 an empty directory to work in, $3 further mount options.
func handInstall(b *testing.B, tarball, dir, options string) func() float64 {
	const script = `set -eu
cd "$2"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work$3" root
mount -t proc proc root/proc
mount --rbind /dev root/dev
chroot root sh -ec '` + install + `'
umount -R root
tar -C upper --numeric-owner --xattrs -I 'zstd -q -3 -T0' -cf layer.tar.zst .
`
	for _, tool := range []string{"tar", "zstd", "mount", "chroot"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(b, err.Error())
		}
	}
	lower := filepath.Join(dir, "lower")
	if err := os.MkdirAll(lower, 0o755); err != nil {
		b.Fatal(err)
	}
	must(b, exec.CommandContext(b.Context(), "tar", "-C", lower, "--numeric-owner", "-xpf", tarball))
	return func() float64 {
		work, err := os.MkdirTemp(dir, "hand-")
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.CommandContext(b.Context(), "sh", "-c", script, "sh", lower, work, options)
		cmd.SysProcAttr = ownMounts()
		_, took := must(b, cmd)
		if err := os.RemoveAll(work); err != nil {
			b.Fatal(err)
		}
		return took
	}
}

// dockerInstalls returns the builders that the engine and its client have.
func dockerInstalls(b *testing.B, tarball, dir string) []*way {
	name := fmt.Sprintf("ingot-bench-%d", os.Getpid())
	docker := func(ctx context.Context, kit string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "docker", args...)
		cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT="+kit)
		return cmd
	}
	if out, err := docker(b.Context(), "0", "version").CombinedOutput(); err != nil {
		b.Logf("without Docker: no engine answers: %v %s", err, out)
		if os.Getenv("CI") == "true" {
			b.FailNow()
		}
		return nil
	}
	must(b, docker(b.Context(), "0", "import", tarball, name+":base"))
	remove := func(ctx context.Context, tag string) {
		must(b, docker(ctx, "0", "rmi", name+tag))
	}
	b.Cleanup(func() { remove(context.WithoutCancel(b.Context()), ":base") })
	build := func(kit, dockerfile string) *exec.Cmd {
		context := filepath.Join(dir, "docker-"+kit)
		if err := os.MkdirAll(context, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
			b.Fatal(err)
		}
		return docker(b.Context(), kit, "build", "--network=none", "--no-cache", "-t", name+":done", context)
	}
	var ways []*way
	for kit, builder := range []string{"docker-classic", "docker-buildkit"} {
		kit, from := fmt.Sprint(kit), "FROM "+name+":base\n"
		if out, err := build(kit, from+"LABEL probe=yes\n").CombinedOutput(); err != nil {
			b.Logf("without %s: %v: %s", builder, err, bytes.TrimSpace(out))
			continue
		}
		remove(b.Context(), ":done")
		// The image stays in the engine's store, or becomes a file, as the others' do.
		for _, save := range []bool{false, true} {
			w := &way{name: builder, run: func() float64 {
				_, took := must(b, build(kit, from+"RUN "+install+"\n"))
				if save {
					_, more := must(b, docker(b.Context(), kit, "save", "-o", filepath.Join(dir, "docker.tar"), name+":done"))
					took += more
				}
				remove(b.Context(), ":done")
				return took
			}}
			if save {
				w.name += "-save"
			}
			ways = append(ways, w)
		}
	}
	return ways
}

// BenchmarkSandboxQuickstart bakes the quickstart example on this machine's own
// system. own-s is the whole process without the step that compiles the service.
func BenchmarkSandboxQuickstart(b *testing.B) {
	if os.Geteuid() != 0 {
		missing(b, "root is measured; a normal user's bake also enters a user namespace")
	}
	example, err := filepath.Abs("../../examples/quickstart")
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	exe := program(b)
	b.Cleanup(func() { // what the template keeps outside the repository
		if err := os.RemoveAll(fmt.Sprintf("/tmp/ingot-quickstart-%x", sha1.Sum([]byte(dir)))); err != nil {
			b.Error(err)
		}
	})
	steps := map[string]*way{}
	var order []*way
	race(b, []*way{{name: "own", run: func() float64 {
		cmd := exec.CommandContext(b.Context(), exe, "build", "-json", example)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "INGOT_HOME="+filepath.Join(dir, "home"))
		out, took := must(b, cmd)
		for line := range bytes.Lines(out) {
			var e struct {
				Event, Step string
				Seconds     float64
			}
			if err := json.Unmarshal(line, &e); err != nil {
				b.Fatalf("%v in %s", err, line)
			}
			if e.Event != "step-ended" {
				continue
			}
			if steps[e.Step] == nil {
				steps[e.Step] = &way{name: e.Step}
				order = append(order, steps[e.Step])
			}
			steps[e.Step].took = append(steps[e.Step].took, e.Seconds)
			if e.Step == "shell-local compile" {
				took -= e.Seconds
			}
		}
		if len(order) == 0 || steps["shell-local compile"] == nil {
			b.Fatalf("the step that compiles the service is not among the events:\n%s", out)
		}
		return took
	}}})
	for _, w := range order {
		b.Logf("%-20s median %6.3f s", w.name, w.median())
	}
}

// nullTemplate is about as long as the quickstart's, and both programs read it.
const nullTemplate = `
variable "greeting" {
  type    = string
  default = "Hello from version 1"
}
locals {
  program = "${path.root}/null.pkr.hcl"
}
source "null" "host" {
  communicator = "none"
}
build {
  name    = "web"
  sources = ["source.null.host"]
  provisioner "shell-local" {
    inline = ["true"]
  }
  provisioner "file" {
    source      = local.program
    destination = "/usr/local/bin/web"
  }
  provisioner "shell" {
    environment_vars = ["GREETING=${var.greeting}"]
    inline           = ["true"]
  }
  post-processor "manifest" {
    output = "/tmp/manifest.json"
  }
}
`

// largeTemplate has 100 sources on 7,000 lines.
func largeTemplate() string {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "variable \"v%d\" {\n  type    = string\n  default = \"x\"\n}\n\n", i)
		fmt.Fprintf(&b, "locals {\n  l%d = upper(var.v%d)\n}\n\n", i, i)
		fmt.Fprintf(&b, "source \"null\" \"s%d\" {\n  communicator = \"none\"\n}\n\n", i)
		fmt.Fprintf(&b, "build {\n  name        = \"b%d\"\n  description = \"one\"\n  sources     = [\"source.null.s%d\"]\n", i, i)
		for range 6 {
			fmt.Fprintf(&b, "  provisioner \"shell-local\" {\n    environment_vars = [\n      \"A=${local.l%d}\",\n    ]\n    inline = [\n      \"echo ${source.name}\",\n    ]\n  }\n", i)
		}
		b.WriteString("  post-processor \"manifest\" {\n    output = \"m.json\"\n  }\n}\n\n")
	}
	return b.String()
}

// BenchmarkStart measures how long one waits for an answer that needs no work.
func BenchmarkStart(b *testing.B) {
	exe := program(b)
	dir := b.TempDir()
	template := filepath.Join(dir, "null.pkr.hcl")
	if err := os.WriteFile(template, []byte(nullTemplate), 0o600); err != nil {
		b.Fatal(err)
	}
	env := append(os.Environ(), "INGOT_HOME="+filepath.Join(dir, "home"), "CHECKPOINT_DISABLE=1")
	packer, err := exec.LookPath("packer")
	if err != nil {
		b.Logf("without Packer: %v", err)
		if os.Getenv("CI") == "true" {
			b.FailNow()
		}
	}
	large := filepath.Join(dir, "large.pkr.hcl")
	if err := os.WriteFile(large, []byte(largeTemplate()), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, args := range [][]string{{"version"}, {"validate", template}, {"validate", large}} {
		b.Run(args[0]+"/"+filepath.Base(args[len(args)-1]), func(b *testing.B) {
			largest := map[string]int64{} // memory, in KiB
			run := func(exe string) func() float64 {
				return func() float64 {
					cmd := exec.CommandContext(b.Context(), exe, args...)
					cmd.Dir, cmd.Env = dir, env
					_, took := must(b, cmd)
					if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
						largest[exe] = max(largest[exe], usage.Maxrss)
					}
					return took
				}
			}
			ways := []*way{{name: "ingot", run: run(exe)}}
			// Packer starts more than 800 processes for the large template.
			if packer != "" && !slices.Contains(args, large) {
				ways = append(ways, &way{name: "packer", run: run(packer)})
			}
			race(b, ways)
			for name, path := range map[string]string{"ingot": exe, "packer": packer} {
				if largest[path] > 0 { // of Packer's several processes the largest
					b.ReportMetric(float64(largest[path])/1024, name+"-MiB")
				}
			}
		})
	}
}
