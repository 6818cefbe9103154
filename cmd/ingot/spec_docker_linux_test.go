package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// TestSpecOnDocker checks and writes specs on a running container.
func TestSpecOnDocker(t *testing.T) {
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Os}}").Output(); err != nil || strings.TrimSpace(string(out)) != "linux" {
		sandboxtest.Missing(t, "needs a Docker engine")
	}
	root := sandboxtest.Busybox(t)
	run := func(line string) string {
		t.Helper()
		out, err := exec.Command("sh", "-c", line).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	image := run("tar -C '" + root + "' -c . | docker import -")
	t.Cleanup(func() { run("docker rmi -f " + image) })
	id := run("docker run -d --network none " + image + " /bin/busybox sleep 600")
	t.Cleanup(func() { run("docker rm -f " + id) })
	dir := t.TempDir()
	target := "docker://" + id
	if code, out := ingot(t, dir, "spec", "autoadd", "nobody", "root", "sleep", "/bin/busybox", "-target", target, "-o", "made.ingot.hcl"); code != 0 {
		// Whether a service of that name is there cannot be said without a service manager.
		if code != exitBroken && code != exitFailed {
			t.Errorf("exit %d:\n%s", code, out)
		}
	}
	if code, out := ingot(t, dir, "spec", "check", "made.ingot.hcl", "-target", target, "-v"); code != 0 || !strings.Contains(out, `user "nobody"`) || !strings.Contains(out, `file "/bin/busybox"`) {
		t.Errorf("exit %d:\n%s", code, out)
	}
	run("docker kill " + id)
	if code, out := ingot(t, dir, "spec", "check", "made.ingot.hcl", "-target", target); code != exitBroken || !strings.Contains(out, "is not running") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if code, out := ingot(t, dir, "spec", "check", "made.ingot.hcl", "-target", "docker://no-such-container"); code != exitBroken || !strings.Contains(out, "no container no-such-container") {
		t.Errorf("exit %d:\n%s", code, out)
	}
}
