package sandboxtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/sandbox"
)

var notInID = regexp.MustCompile(`[^a-z0-9]+`)

// Start boots a machine on a base: a directory, or sandbox.HostBase. It is gone
// at the end of the test. The test's TestMain must call sandbox.Reexec.
func Start(t testing.TB, base string) *sandbox.Machine {
	t.Helper()
	id := notInID.ReplaceAllString(strings.ToLower(t.Name()), "-")
	// A test may start several.
	cfg := sandbox.Config{ID: fmt.Sprintf("%s-%d-%s", id, os.Getpid(), strings.ToLower(rand.Text()[:6])), Dir: t.TempDir(), Layers: []string{base}}
	var err error
	if cfg.Cgroup, err = sandbox.PlanCgroup(cfg.ID); err != nil {
		t.Fatal(err)
	}
	m, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		var dirs []string
		for _, d := range cfg.Cgroup {
			dirs = append(dirs, d)
		}
		if err := sandbox.RemoveCgroup(dirs); err != nil {
			t.Error(err)
		}
		if err := sandbox.Remove(cfg.Dir); err != nil {
			t.Error(err)
		}
	})
	return m
}
