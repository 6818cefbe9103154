package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	box "github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
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
