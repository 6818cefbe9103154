package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	box "github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

func TestMain(m *testing.M) {
	box.Reexec(PackingTasks())
	os.Exit(m.Run())
}

// exists looks for what a lease names.
func exists(stateDir string) func(builders.Lease) bool {
	there := func(pattern string) bool {
		found, err := filepath.Glob(pattern)
		return err != nil || len(found) > 0
	}
	return func(l builders.Lease) bool {
		switch l.Kind {
		case leaseDirectory:
			return there(l.Name)
		case leaseCgroup:
			for _, d := range l.Data {
				if there(d) {
					return true
				}
			}
			return false
		case leaseOutput:
			return there(l.Name) || there(filepath.Join(filepath.Dir(l.Name), "."+filepath.Base(l.Name)+"*"))
		case leaseImage:
			if l.ExternalID == "" {
				return there(filepath.Join(StoreDir(stateDir), "tmp", "*"))
			}
			hex := strings.TrimPrefix(l.ExternalID, "sha256:")
			return there(filepath.Join(StoreDir(stateDir), "images", hex)) || there(filepath.Join(StoreDir(stateDir), "blobs", "sha256", hex))
		}
		return true // of a kind that this test does not know: it fails
	}
}

func TestSuite(t *testing.T) {
	sandboxtest.Need(t)
	for name, config := range map[string]string{
		"host": `base = "host"
			output {
				format = "oci"
				path   = "out.oci"
			}`,
		"busybox": `base = "` + sandboxtest.Busybox(t) + `"
			memory  = "64m"
			output {
				format = "docker-archive"
				path   = "out.tar"
			}
			output {
				format = "tar"
				path   = "tree.tar"
			}`,
	} {
		t.Run(name, func(t *testing.T) {
			if name == "host" && box.InUserNamespace() {
				sandboxtest.Missing(t, `base "host" needs root`)
			}
			state := t.TempDir()
			buildertest.Run(t, buildertest.Options{
				New: func() builders.Builder {
					return New(Env{StateDir: state, Wanted: func(context.Context, string, string) (bool, error) { return false, nil }})
				},
				Config: config, Exists: exists(state),
				Bad: []buildertest.Bad{
					{Name: "base", Config: `base = "/does/not/exist"`, Option: "base"},
					{Name: "network", Config: `network = "wifi"`, Option: "network"},
					{Name: "memory", Config: `memory = "1m"`, Option: "memory"},
				},
			})
		})
	}
}

// TestStateIsHidden: on the host's base a machine does not see Ingot's own directory.
func TestStateIsHidden(t *testing.T) {
	sandboxtest.Need(t)
	if box.InUserNamespace() {
		sandboxtest.Missing(t, `base "host" needs root`)
	}
	// Directories for temporary files are empty in any case.
	dir, err := os.MkdirTemp("/var/lib", "ingot-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	state := filepath.Join(dir, "state")
	b := New(Env{StateDir: state, Wanted: func(context.Context, string, string) (bool, error) { return false, nil }})
	b.opts.Base, b.opts.Network = "host", "none"
	leases := &memory{}
	m, err := b.Boot(t.Context(), &builders.Run{BakeID: "statehidden", Source: "s", Image: "s", Dir: t.TempDir(), Leases: leases, Values: map[string]string{}})
	defer func() {
		for _, l := range slices.Backward(leases.open) {
			if err := b.Release(context.Background(), l); err != nil {
				t.Error(err)
			}
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := m.Run(t.Context(), machine.Command{Line: "ls " + machine.Quote(dir), Stdout: &out}); err != nil || out.String() != "" {
		t.Errorf("the machine sees %q beside what is hidden: %v", out.String(), err)
	}
}
