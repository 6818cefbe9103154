package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/builders"
	boxbuilder "github.com/ingotbuild/ingot/builders/sandbox"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/imagefs"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/rollouts"
	"github.com/ingotbuild/ingot/rollouts/rollouttest"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// fixed launches one image, whatever digest it is asked for.
type fixed struct {
	*Launcher
	digest string
}

func (f *fixed) Launch(ctx context.Context, spec rollouts.InstanceSpec) (rollouts.Instance, error) {
	spec.Digest = f.digest
	return f.Launcher.Launch(ctx, spec)
}

// newLauncher makes a launcher, and a function that makes images of busybox
// that run a command.
func newLauncher(t *testing.T) (l *Launcher, image func(cmd ...string) *fixed) {
	t.Helper()
	sandboxtest.Need(t)
	ctx, state := context.Background(), t.TempDir()
	store, err := registry.Open(ctx, filepath.Join(state, "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	images, err := imagefs.Open(boxbuilder.StoreDir(state), event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Close() })
	base, err := images.DirectoryBase(ctx, sandboxtest.Busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	upper := t.TempDir()
	sandboxtest.Write(t, upper, "www/index.html", "hello\n", 0o644)
	delta, err := images.PackDelta(ctx, upper, imagefs.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l, err = Open(ctx, state, store, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		bakes, err := store.OpenBakes(ctx)
		if err != nil || len(bakes) > 0 {
			t.Errorf("what the ledger takes for running: %+v, %v", bakes, err)
		}
	})
	return l, func(cmd ...string) *fixed {
		t.Helper()
		digest, err := images.WriteImage(ctx, base, delta, imagefs.ImageConfig{Cmd: cmd}, func(string) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return &fixed{l, digest}
	}
}

// nothingLeft checks that no machine is left, nor anything it had.
func (f *fixed) nothingLeft(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	leases, err := f.store.OpenLeases(ctx)
	if err != nil || len(leases) != 1 || leases[0].BakeID != f.hold.id {
		t.Errorf("leases, want only the one for images: %+v, %v", leases, err)
	}
	dirs, err := os.ReadDir(filepath.Join(f.stateDir, "machines"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(dirs) > 0 {
		t.Errorf("directories of machines: %v, %v", dirs, err)
	}
}

func TestLauncher(t *testing.T) {
	_, image := newLauncher(t)
	httpd := []string{"/bin/httpd", "-f", "-p", "8080", "-h", "/www"}
	for _, test := range []struct {
		name string
		cmd  []string
		run  func(*testing.T, *fixed)
	}{
		{"Suite", httpd, func(t *testing.T, f *fixed) {
			rollouttest.Run(t, func(t *testing.T) rollouts.Launcher {
				t.Cleanup(func() { f.nothingLeft(t) })
				return f
			})
		}},
		{"ServiceEndsByItself", []string{"/bin/sh", "-c", "exit 3"}, endsByItself},
		{"NothingToRun", nil, nothingToRun},
		{"RemovesItsPredecessor", httpd, removesItsPredecessor},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := image(test.cmd...)
			test.run(t, f)
			f.nothingLeft(t)
		})
	}
}

var spec = rollouts.InstanceSpec{Service: "web", Color: "blue", Image: "web", Version: "web@v1", Name: "web-blue-v1-0", Port: 8080}

func endsByItself(t *testing.T, l *fixed) {
	in, err := l.Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-in.Done():
	case <-time.After(time.Minute):
		t.Fatal("the service has ended, and the instance runs on")
	}
	if err := in.Err(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("why it ended: %v", err)
	}
	if err := in.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func nothingToRun(t *testing.T, l *fixed) {
	if _, err := l.Launch(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "set cmd in its source block") {
		t.Errorf("an image without a command: %v", err)
	}
}

// A machine whose supervisor was killed is removed by its successor's launch.
func removesItsPredecessor(t *testing.T, l *fixed) {
	ctx := t.Context()
	owner, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	owner.PID, owner.StartTicks = ended.Process.Pid, 1
	dir := filepath.Join(l.stateDir, "machines", "before")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.store.BeginBake(ctx, registry.Bake{ID: "before", Name: "rollout web " + spec.Name, Image: "web", Owner: owner}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.store.Intend(ctx, builders.Lease{BakeID: "before", Builder: "sandbox", Kind: "directory", Name: dir}); err != nil {
		t.Fatal(err)
	}
	in, err := l.Launch(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the predecessor's directory: %v", err)
	}
	if err := in.Stop(ctx); err != nil {
		t.Error(err)
	}
}
