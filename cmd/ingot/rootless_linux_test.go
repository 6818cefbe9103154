package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

const nobody = 65534

// give hands a directory of the test, and all in it, to the user nobody.
func give(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(p, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// A user without any privilege, and without subordinate ids, bakes.
func TestRootless(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user; every other test here runs as a normal user already")
	}
	tree := sandboxtest.Busybox(t)
	w := newWorld(t, `
variable "status" { default = "0" }
source "sandbox" "s" {
  base    = "base.tar"
  network = "none"
  output {
    format = "docker-archive"
    path   = "out.tar"
  }
}
build {
  name    = "rootless"
  sources = ["sandbox.s"]
  provisioner "shell" { inline = ["test $(id -u) = 0", "echo hello > /etc/made", "exit ${var.status}"] }
}
`)
	tar, err := os.Create(filepath.Join(w.dir, "base.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer tar.Close()
	if err := machine.DirTree(tree, "").WriteTar(context.Background(), tar); err != nil {
		t.Fatal(err)
	}
	user := t.TempDir()
	exe := filepath.Join(user, "ingot")
	copyFile(t, os.Args[0], exe) // the test binary's own directory is closed to others
	for _, d := range []string{w.dir, w.home, user} {
		give(t, d)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(exe, args...)
		cmd.Dir = w.dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + user, "TMPDIR=" + user, asProgram + "=1", "INGOT_HOME=" + w.home}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("build", "-var", "status=3", "."); err == nil || !strings.Contains(out, "3") {
		t.Errorf("a failing bake: %v\n%s", err, out)
	}
	if out, err := run("build", "."); err != nil {
		if strings.Contains(out, "make a user namespace") {
			sandboxtest.Missing(t, out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := run("images"); err != nil || !strings.Contains(out, "rootless") {
		t.Errorf("images: %v\n%s", err, out)
	}
	fi, err := os.Stat(filepath.Join(w.dir, "out.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != nobody {
		t.Errorf("the output belongs to user %d, want %d", st.Uid, nobody)
	}
	w.clean("a bake without root", nil)
}
