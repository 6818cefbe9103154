//go:build unix

package specs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestSystem(t *testing.T) {
	if _, err := os.Stat("/proc/sys/kernel/ostype"); err != nil {
		t.Skip("this system has no /proc/sys")
	}
	const src = `
linux_kernel_parameter "kernel.ostype" {
	its "value" { eq = "Linux" } # pass
}
linux_kernel_parameter "kernel/pid_max" {
	its "value" { be_greater_than = 100 } # pass
}
linux_kernel_parameter "net.ipv4.conf.lo.mtu_or_so" {
	its "value" { not_match = "1" } # fail: no such kernel parameter
}
linux_kernel_parameter "net.ipv4" {
	its "value" { eq = "" } # error: a group
}
file "/proc" {
	be_mounted = { with = { type = "proc" } } # pass
}
file "/proc/self" {
	be_mounted = true # fail: nothing is mounted
}
kernel_module "no_such_module" {
	be_loaded = true # `
	want := "fail: not loaded"
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/lib/modules", strings.TrimSpace(string(release)), "modules.builtin")); err != nil {
		want = "error: cannot tell"
	}
	all := src + want + "\n}\n"
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, all, run(t, m, all)) })
	}
}

func TestAccess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can find out what other users may do")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"open": 0o755, "closed": 0o700} {
		if err := os.Mkdir(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "it's"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("su", "-s", "/bin/sh", "nobody", "-c", "test -x "+dir).Run(); err != nil {
		t.Skipf("nobody may not enter %s", dir)
	}
	src := strings.ReplaceAll(`
file "DIR/open/it's" {
	be_readable   = { by = "others" } # pass
	be_writable   = { by = "owner" } # pass
	be_executable = true # fail: 0644
}
file "DIR/open/it's" {
	be_readable = { by_user = "nobody" } # pass
	be_writable = { by_user = "nobody" } # fail: the user may not
	should_not {
		be_executable = { by_user = "root" } # pass
		be_readable   = { by_user = "no-such-user" } # error: no-such-user
	}
}
file "DIR/closed/it's" {
	be_readable = { by = "others" } # fail: 0644, but
	be_writable = { by_user = "root" } # pass
	should_not { be_readable = { by_user = "nobody" } } # pass
}
file "DIR/gone" {
	be_readable = { by_user = "nobody" } # fail: no such file
	should_not { be_readable = true } # fail: no such file
	its "mtime" { be_greater_than = 0 } # fail: no such file
	be_immutable = true # fail: no such file
}
file "DIR/open" {
	its "mtime" { be_greater_than = 1700000000 } # pass
}
`, "DIR", dir)
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}
}

func TestImmutable(t *testing.T) {
	chattr := need(t, "chattr")
	need(t, "lsattr")
	f := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	src := "file \"" + f + "\" {\n\tbe_immutable = true # VERDICT\n}\n"
	plain := strings.Replace(src, "VERDICT", "fail: --", 1)
	if out, err := exec.Command("lsattr", "-d", f).CombinedOutput(); err != nil {
		t.Skipf("this file system has no such flags: %s", out)
	}
	expect(t, plain, run(t, &local{}, plain))
	if out, err := exec.Command(chattr, "+i", f).CombinedOutput(); err != nil {
		t.Skipf("this user cannot make files immutable: %s", out)
	}
	defer exec.Command(chattr, "-i", f).Run()
	fixed := strings.Replace(src, "VERDICT", "pass: i", 1)
	expect(t, fixed, run(t, &local{}, fixed))
}

func TestUserDetails(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root reads /etc/shadow")
	}
	const src = `
user "root" {
	be_is_system_user = true # pass: id 0
	have_authorized_key = "ssh-ed25519 AAAAnotthere" # fail: not among
	its "encrypted_password" { match = "^" } # pass: (sensitive)
}
user "nobody" {
	be_is_system_user = true # fail: id 6553
}
user "no-such-user" {
	have_authorized_key = "ssh-ed25519 AAAAnotthere" # fail: no such user
	its "encrypted_password" { match = "^" } # fail
	should_not { be_is_system_user = true } # fail: no such user
}
group "root" {
	be_is_system_group = true # pass: id 0
}
`
	for name, m := range shells(t) {
		t.Run(name, func(t *testing.T) { expect(t, src, run(t, m, src)) })
	}
}

func TestCrontab(t *testing.T) {
	need(t, "crontab")
	const src = `
cron {
	have_entry = "1 2 3 4 5 /no/such/program" # fail: not in its
}
cron {
	should_not { have_entry = { entry = "1 2 3 4 5 /no/such/program", with_user = "root" } } # pass
}
cron {
	have_entry = { entry = "1 2 3 4 5 x", with_user = "no-such-user" } # error: no such user
	its "table" { not_match = "/no/such/program" } # pass
}
`

	expect(t, src, run(t, &local{}, src))
}
