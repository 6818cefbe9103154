//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}

func TestCommand(t *testing.T) {
	sandboxtest.Need(t)
	t.Setenv("TMPDIR", t.TempDir())
	out := filepath.Join(t.TempDir(), "env")
	code, err := run(0, true, []string{"sh", "-c", "env >" + out + "; exit 7"})
	if err != nil || code != 7 {
		t.Errorf("exit status %d, %v", code, err)
	}
	env, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"DIGITALOCEAN_TOKEN=dop_v1_", "DIGITALOCEAN_API_URL=http://127.0.0.1:", "SPACES_ENDPOINT_URL=http://127.0.0.1:"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("the command's environment lacks %s", want)
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := run(0, false, []string{filepath.Join(t.TempDir(), "missing")}); err == nil {
		t.Error("a command that is not there was run")
	}
}
