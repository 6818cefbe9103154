//go:build unix

package specs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPHP(t *testing.T) {
	need(t, "php")
	ini := filepath.Join(t.TempDir(), "php.ini")
	if err := os.WriteFile(ini, []byte("memory_limit = 77M\ndisplay_errors = Off\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := fmt.Sprintf(`
php_config "memory_limit" {
	ini = %[1]q
	its "value" { eq = "77M" } # pass
}
php_config "display_errors" {
	ini = %[1]q
	its "value" { eq = "On" } # fail
}
php_config "no.such.setting" {
	its "value" { eq = "" } # fail: no such setting
}
php_config "memory_limit" {
	ini = "/nonexistent/php.ini"
	its "value" { not_match = "x" } # error: cannot be read
}
php_extension "standard" {
	be_loaded = true # pass
}
php_extension "no_such_extension" {
	be_loaded = true # fail: not loaded
}
`, ini)
	expect(t, src, run(t, &local{}, src))
}

func TestVirsh(t *testing.T) {
	need(t, "virsh")
	t.Setenv("LIBVIRT_DEFAULT_URI", "test:///default") // libvirt's own driver for tests, with one machine
	const src = `
kvm "test" {
	exist      = true # pass: running
	be_running = true # pass
	be_enabled = true # fail: does not start
}
kvm "nope" {
	exist = true # fail: no such machine
	should_not { be_running = true } # pass
}
`
	expect(t, src, run(t, &local{}, src))
	t.Setenv("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket=/nonexistent")
	const broken = "kvm \"test\" {\n\tshould_not { exist = true } # error: connect\n}\n"
	expect(t, broken, run(t, &local{}, broken))
}

func TestLXC(t *testing.T) {
	need(t, "lxc-info")
	if os.Getuid() != 0 {
		t.Skip("only root sees the containers")
	}
	const name = "ingot-spec-test"
	dir := filepath.Join("/var/lib/lxc", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("lxc.uts.name = x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const src = `
lxc "ingot-spec-test" {
	exist      = true # pass: stopped
	be_running = true # fail: stopped
}
lxc "ingot-spec-none" {
	exist = true # fail: no such container
	should_not { exist = true } # pass
}
`
	expect(t, src, run(t, &local{}, src))
}

func TestDocker(t *testing.T) {
	need(t, "docker")
	if out, err := exec.Command("docker", "info", "--format", "{{.ServerVersion}}").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI lacks a running docker engine: %s", out)
		}
		t.Skipf("no docker engine runs: %s", out)
	}
	data, err := os.ReadFile(need(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	if err := w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	docker := func(args ...string) {
		t.Helper()
		c := exec.Command("docker", args...)
		if args[0] == "import" {
			c.Stdin = &image
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	name := fmt.Sprintf("ingot-spec-test-%d", os.Getpid())
	host := t.TempDir()
	docker("import", "--change", `CMD ["/busybox", "sleep", "600"]`, "-", name+":1")
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name+":1").Run() })
	docker("create", "--name", name, "--network", "none", "-v", host+":/data", name+":1")
	t.Cleanup(func() { exec.Command("docker", "rm", "-f", name).Run() })
	src := strings.NewReplacer("NAME", name, "HOST", host).Replace(`
docker_image "NAME:1" {
	exist = true # pass
	its "Config.Cmd[1]" { eq = "sleep" } # pass
	its "Config.Cmd" { include = "600" } # pass
}
docker_image "NAME:2" {
	exist = true # fail: no such image
	its "Config.Cmd[1]" { not_match = "x" } # fail: no such image
}
docker_container "NAME" {
	exist       = true # pass
	be_running  = true # fail: running false
	have_volume = { container = "/data", host = "HOST" } # pass
	its "HostConfig.NetworkMode" { eq = "none" } # pass
	should_not { have_volume = { container = "/dat" } } # pass
}
docker_container "NAME-2" {
	be_running = true # fail: no such container
	should_not { have_volume = "/data" } # fail: no such container
}
`)
	expect(t, src, run(t, &local{}, src))
	t.Setenv("DOCKER_HOST", "unix:///nonexistent.sock")
	broken := "docker_image \"x\" {\n\tshould_not { exist = true } # error: \n}\n"
	expect(t, broken, run(t, &local{}, broken))
}
