package imagefs

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The same tests pass for root of a user namespace, where overlayfs uses other
// attributes and devices cannot be made.
func TestInUserNamespace(t *testing.T) {
	needRoot(t)
	if probe(t) != "trusted.overlay." {
		t.Skip("in a user namespace already")
	}
	const first, count = 100000, 4000000
	// The directories of go test belong to the real root.
	dir, err := os.MkdirTemp("", "imagefs-userns-")
	do(t, err)
	defer os.RemoveAll(dir)
	do(t, os.Chown(dir, first, first))
	bin := filepath.Join(dir, "test")
	copyFile(t, bin, os.Args[0])
	cmd := exec.Command(bin, "-test.run", "^(TestPackUnpack|TestTarReadsLayer|TestOverlayRoundTrip|TestUnpackHostile|TestUnpackOrder|TestTarballBase|TestImage|TestDeleteAndCollect|TestDeviceNodes)$")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "CI=true") // nothing may be skipped there
	cmd.Dir = dir
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: count}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}, Pdeathsig: syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if _, failed := err.(*exec.ExitError); err != nil && !failed {
		missing(t, "no user namespaces here: "+err.Error())
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A device that may not be made is left out, and what follows it is not.
func TestDeviceNodes(t *testing.T) {
	needRoot(t)
	archive := makeTar(t, entry{tarDevice("dev/null"), ""}, file("dev/after", "x"))
	root, err := unpackTo(t, archive)
	do(t, err)
	if _, err := os.Lstat(filepath.Join(root, "dev/after")); err != nil {
		t.Error(err)
	}
	err = unix.Access(filepath.Join(root, "dev/null"), unix.F_OK)
	if there := err == nil; there != devices(t) {
		t.Errorf("the device is there: %v; devices can be made: %v", there, devices(t))
	}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	do(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	do(t, err)
	_, err = io.Copy(out, in)
	do(t, err)
	do(t, out.Close())
}
