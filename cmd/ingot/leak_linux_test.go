package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/registry"
)

// needSandbox skips, or in CI fails, where no sandbox can run.
func needSandbox(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("base \"host\" needs root")
	}
	for _, f := range sandbox.Probe(t.Context()) {
		if f.Need && !f.OK {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s: %s", f.What, f.Text)
			}
			t.Skipf("%s: %s", f.What, f.Text)
		}
	}
}

// world is one INGOT_HOME with a template to bake in it.
type world struct {
	t    testing.TB
	home string
	dir  string
}

func newWorld(t testing.TB, template string) *world {
	t.Helper()
	needSandbox(t)
	w := &world{t: t, home: t.TempDir(), dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(w.dir, "t.pkr.hcl"), []byte(template), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// command is the program under test, ready to start.
func (w *world) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), asProgram+"=1", "INGOT_HOME="+w.home, "CI=true")
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func (w *world) run(args ...string) (string, error) {
	cmd, out := w.command(args...)
	err := cmd.Run()
	return out.String(), err
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	out, err := w.run(args...)
	if err != nil {
		w.t.Fatalf("ingot %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// bakes are the ids of the bakes that the ledger has as running.
func (w *world) bakes() []string {
	w.t.Helper()
	s, err := registry.Open(context.Background(), filepath.Join(w.home, "registry.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	open, err := s.OpenBakes(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, b := range open {
		ids = append(ids, b.ID)
	}
	return ids
}

// leftovers says what of a bake is still on this host.
func (w *world) leftovers(ids []string) []string {
	w.t.Helper()
	var left []string
	for _, d := range []string{"machines", "images/tmp"} {
		entries, err := os.ReadDir(filepath.Join(w.home, d))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			w.t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, "directory "+filepath.Join(d, e.Name()))
		}
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), ".tmp-") {
			left = append(left, "output "+e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(w.home)) {
		left = append(left, "a mount below "+w.home)
	}
	for _, id := range ids {
		if id == "" {
			continue
		}
		// Those of the bake's machine, and of the one that was booted from the image.
		groups, _ := filepath.Glob("/sys/fs/cgroup/ingot-" + id + "*")
		more, _ := filepath.Glob("/sys/fs/cgroup/*/ingot-" + id + "*")
		deep, _ := filepath.Glob("/sys/fs/cgroup/*/*/*/ingot-" + id + "*")
		for _, g := range append(append(groups, more...), deep...) {
			left = append(left, "cgroup "+g)
		}
		procs, _ := filepath.Glob("/proc/[0-9]*/cgroup")
		for _, p := range procs {
			if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte("ingot-"+id)) {
				left = append(left, "process "+p)
			}
		}
	}
	s, err := registry.Open(context.Background(), filepath.Join(w.home, "registry.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	leases, err := s.OpenLeases(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range leases {
		left = append(left, fmt.Sprintf("lease %s %s", l.Kind, l.Name))
	}
	bakes, err := s.OpenBakes(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range bakes {
		left = append(left, "running bake "+b.ID)
	}
	return left
}

func (w *world) clean(what string, ids []string) {
	w.t.Helper()
	// What was killed goes when the kernel gets to it.
	deadline := time.Now().Add(time.Minute)
	for {
		left := w.leftovers(ids)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("left behind after %s:\n%s", what, strings.Join(left, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// noImage checks that neither the registry nor the store has an image, and
// that no output has been left.
func (w *world) noImage(after string) {
	w.t.Helper()
	if out := w.must("images"); !strings.Contains(out, "No images yet") {
		w.t.Errorf("after %s there are images:\n%s", after, out)
	}
	for _, p := range []string{filepath.Join(w.home, "images/images/*"), filepath.Join(w.dir, "out.*")} {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			w.t.Errorf("after %s there are %q", after, found)
		}
	}
}

const busyTemplate = `
source "sandbox" "s" {
  memory = "256m"
  cmd    = ["sleep", "300"]
  output {
    format = "oci"
    path   = "out.oci"
  }
  output {
    format = "docker-archive"
    path   = "out.tar"
  }
}
build {
  name    = "busy"
  sources = ["sandbox.s"]
  provisioner "shell" {
    inline = ["for i in $(seq 300); do echo $i > /opt/file$i; done; sleep 300 & mkdir -p /etc/busy; head -c 3000000 /dev/urandom > /etc/busy/blob"]
  }
  provisioner "shell" {
    inline = ["sleep ${var.pause}; exit ${var.status}"]
  }
  spec "booted" {
    after = snapshot
    file "/etc/busy/blob" {
      its "size" { eq = 3000000 }
    }
    process "sleep" {
      be_running = true
      retry { within = "1m" }
    }
    command "booted" {
      name    = var.booted
      timeout = "5m"
      its "exit_status" { eq = 0 }
    }
  }
}
variable "booted" { default = "true" }
variable "pause" { default = "0.05" }
variable "status" { default = "0" }
`

func TestNothingIsLeft(t *testing.T) {
	links := interfaceNames(t)
	t.Run("success", func(t *testing.T) {
		w := newWorld(t, busyTemplate)
		w.must("build", ".")
		w.clean("a successful bake", nil)
		for _, f := range []string{"out.oci/index.json", "out.tar"} {
			if _, err := os.Stat(filepath.Join(w.dir, f)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("failure", func(t *testing.T) {
		w := newWorld(t, busyTemplate)
		out, err := w.run("build", "-var", "status=3", ".")
		if err == nil || !strings.Contains(out, "exit status 3") && !strings.Contains(out, "status: 3") {
			t.Errorf("a failing provisioner: %v\n%s", err, out)
		}
		w.clean("a failed bake", nil)
		if out := w.must("images"); !strings.Contains(out, "No images yet") {
			t.Errorf("a failed bake made an image:\n%s", out)
		}
	})
	t.Run("abort, then sweep", func(t *testing.T) {
		w := newWorld(t, busyTemplate)
		if _, err := w.run("build", "-on-error=abort", "-var", "status=3", "."); err == nil {
			t.Error("a failing provisioner, and no error")
		}
		if left := w.leftovers(nil); len(left) == 0 {
			t.Error("-on-error=abort left nothing to look at")
		}
		if out := w.must("sweep", "-dry-run"); !strings.Contains(out, "would give back directory") {
			t.Errorf("sweep -dry-run: %s", out)
		}
		w.must("sweep")
		w.clean("abort and sweep", nil)
	})
	t.Run("red after the snapshot", func(t *testing.T) {
		w := newWorld(t, busyTemplate)
		out, err := w.run("build", "-var", "booted=false", ".")
		if err == nil || !strings.Contains(out, `spec "booted" is red, so there will be no image: 1 of 3 checks failed`) {
			t.Errorf("a red spec: %v\n%s", err, out)
		}
		w.clean("a bake whose image is red", nil)
		w.noImage("a bake whose image is red")
	})
	t.Run("red after the snapshot, abort, then sweep", func(t *testing.T) {
		w := newWorld(t, busyTemplate)
		out, err := w.run("build", "-on-error=abort", "-var", "booted=false", ".")
		if err == nil || !strings.Contains(out, "-proof; `ingot sweep`") || !strings.Contains(out, "the image is left too, and not in the registry: sha256:") {
			t.Errorf("-on-error=abort after a red spec: %v\n%s", err, out)
		}
		if images, _ := filepath.Glob(filepath.Join(w.home, "images/images/*")); len(images) != 1 {
			t.Errorf("-on-error=abort left %d images to look at", len(images))
		}
		w.must("sweep")
		w.clean("abort and sweep", nil)
		w.noImage("abort and sweep")
	})
	for _, tc := range []struct {
		after, dir, variable string
		signals              []os.Signal
	}{
		{"Ctrl-C", "machines/*", "pause=300", []os.Signal{os.Interrupt}},
		{"Ctrl-C twice and sweep", "machines/*", "pause=300", []os.Signal{os.Interrupt, os.Interrupt}},
		{"Ctrl-C after the snapshot", "machines/*-proof/upper", "booted=sleep 300", []os.Signal{os.Interrupt}},
		{"kill -9 after the snapshot and sweep", "machines/*-proof/upper", "booted=sleep 300", []os.Signal{syscall.SIGKILL}},
	} {
		t.Run(tc.after, func(t *testing.T) {
			w := newWorld(t, busyTemplate)
			cmd, _ := w.command("build", "-var", tc.variable, ".")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool {
				found, _ := filepath.Glob(filepath.Join(w.home, tc.dir))
				return len(found) > 0 && len(w.bakes()) == 1
			})
			ids := w.bakes()
			for _, s := range tc.signals {
				_ = cmd.Process.Signal(s)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("an interrupted bake ended well")
			}
			if len(tc.signals) == 2 || tc.signals[0] == syscall.SIGKILL {
				w.must("sweep")
			}
			w.clean(tc.after, ids)
			w.noImage(tc.after)
		})
	}
	if now := interfaceNames(t); now != links {
		t.Errorf("network interfaces are %s, were %s", now, links)
	}
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited a minute in vain")
		}
	}
}

// interfaceNames are those of this host's network interfaces, without what
// Docker makes and removes for the containers of other tests.
func interfaceNames(t testing.TB) string {
	t.Helper()
	is, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range is {
		if !strings.HasPrefix(i.Name, "veth") && !strings.HasPrefix(i.Name, "br-") && !strings.HasPrefix(i.Name, "docker") {
			names = append(names, i.Name)
		}
	}
	return strings.Join(names, " ")
}

// kill -9 at any instant, then sweep: nothing is left.
func TestKillAnywhere(t *testing.T) {
	points := 200
	if testing.Short() {
		points = 20
	}
	const workers = 2
	links := interfaceNames(t)
	w := newWorld(t, busyTemplate)
	begin := time.Now()
	w.must("build", ".")
	whole := time.Since(begin)

	var mu sync.Mutex
	var killed, finished, owing int
	var wg sync.WaitGroup
	for range workers {
		w := newWorld(t, busyTemplate)
		wg.Go(func() {
			// How long a bake takes changes with what else the machine does: the
			// points are spread over what the last ones took.
			span := whole
			for mine, tries := 0, 0; mine < points/workers && tries < 4*points; tries++ {
				begin := time.Now()
				cmd, out := w.command("build", "-force", ".")
				// Only the process itself: nobody tells its children.
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				var err error
				select {
				case err = <-ended:
				case <-time.After(rand.N(span)):
					_ = cmd.Process.Kill()
					err = <-ended
				}
				mu.Lock()
				if err == nil {
					finished++
					span = time.Since(begin)
				} else if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() {
					t.Errorf("a bake failed by itself: %v\n%s", err, out)
				} else {
					killed++
					mine++
					span += span / 50
				}
				mu.Unlock()
				if _, err := os.Stat(filepath.Join(w.home, "registry.db")); err != nil {
					continue // it had not come that far
				}
				ids := w.bakes()
				if len(w.leftovers(ids)) > 0 {
					mu.Lock()
					owing++
					mu.Unlock()
				}
				if o, err := w.run("sweep"); err != nil {
					t.Errorf("sweep: %v\n%s\nthe bake had said:\n%s", err, o, out)
					return
				}
				if left := settle(w, ids); len(left) > 0 {
					t.Errorf("left behind after kill -9 and sweep:\n%s\nthe bake had said:\n%s", strings.Join(left, "\n"), out)
					return
				}
			}
		})
	}
	wg.Wait()
	if now := interfaceNames(t); now != links {
		t.Errorf("network interfaces are %s, were %s", now, links)
	}
	t.Logf("%d random kill points: %d bakes killed, %d more had finished; %d left something, and none after its sweep", killed, killed, finished, owing)
	if killed < points || owing < points/10 {
		t.Errorf("of %d bakes %d were killed and %d left something: the points are chosen badly", points, killed, owing)
	}
}

// settle waits for what the kernel still has to take away.
func settle(w *world, ids []string) (left []string) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if left = w.leftovers(ids); len(left) == 0 {
			return nil
		}
	}
	return left
}
