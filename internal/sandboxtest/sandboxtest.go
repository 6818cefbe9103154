// Package sandboxtest is what tests that run sandbox machines share.
package sandboxtest

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/sandbox"
)

// Missing skips the test, or fails it in CI, where nothing may be missing.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Need skips the test where no sandbox machine can run.
func Need(t testing.TB) {
	t.Helper()
	for _, f := range sandbox.Probe(t.Context()) {
		if f.Need && !f.OK {
			Missing(t, f.What+": "+f.Text)
		}
	}
}

// Busybox makes a small system in a new directory: busybox with all its
// applets, and the accounts root and nobody.
func Busybox(t testing.TB) string {
	t.Helper()
	exe, err := exec.LookPath("busybox")
	if err != nil {
		Missing(t, "needs busybox (Debian: busybox-static)")
	}
	f, err := elf.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			Missing(t, exe+" is linked dynamically; a machine of its own needs a static one (Debian: busybox-static)")
		}
	}
	applets, err := exec.Command(exe, "--list").Output()
	if err != nil {
		t.Fatalf("ask busybox for its applets: %v", err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // it becomes the machine's root directory
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "etc", "root", "home"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("bin", filepath.Join(dir, "sbin")); err != nil {
		t.Fatal(err)
	}
	Write(t, dir, "bin/busybox", string(program), 0o755)
	for _, name := range strings.Fields(string(applets)) {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	Write(t, dir, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
	Write(t, dir, "etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
	return dir
}

// Write puts a file into a tree.
func Write(t testing.TB, dir, name, content string, mode os.FileMode) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}
