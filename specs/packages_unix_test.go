//go:build unix

package specs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// database is this host as a machine whose packages are another manager's: the
// script is the same, but for where the real program finds its database.
func database(program, db string) *local {
	return &local{edit: func(line string) string {
		return strings.NewReplacer("/var/lib/dpkg/status", "/nonexistent", "/var/lib/pacman/local", db+"/local",
			"exec "+program+" ", "exec "+program+" --dbpath "+db+" ").Replace(line)
	}}
}

func must(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// Packages that rpmbuild has built and rpm has installed are what rpm says in
// our words: with their epoch, twice, by their architecture, or not there.
func TestRPMDatabase(t *testing.T) {
	need(t, "rpmbuild")
	need(t, "rpm")
	dir := t.TempDir()
	db := filepath.Join(dir, "db")
	for _, p := range []struct{ name, epoch, version, release string }{{"ingot-plain", "", "1.2.3", "4.el9"}, {"ingot-epoch", "32", "9.16~rc1", "1"}, {"ingot-twice", "", "5.14", "1"}, {"ingot-twice", "", "5.14", "2"}} {
		text := fmt.Sprintf("Name: %s\nVersion: %s\nRelease: %s\nSummary: A test\nLicense: MIT\nBuildArch: noarch\n", p.name, p.version, p.release)
		if p.epoch != "" {
			text += "Epoch: " + p.epoch + "\n"
		}
		spec := filepath.Join(dir, p.name+".spec")
		if err := os.WriteFile(spec, []byte(text+"%description\nA test.\n%files\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, dir, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir, spec)
		must(t, dir, "rpm", "--dbpath", db, "-i", "--nodeps", "--oldpackage", "--force", "--justdb",
			filepath.Join(dir, "RPMS", "noarch", p.name+"-"+p.version+"-"+p.release+".noarch.rpm"))
	}
	src := `
package "ingot-plain" {
	be_installed = { with_version = "= 1.2.3" } # pass: 1.2.3-4.el9
	its "version" { eq = "1.2.3-4.el9" } # pass
}
package "ingot-epoch" {
	be_installed = { by = "dnf", with_version = ">= 32:9.16~beta, < 32:9.16" } # pass: 32:9.16~rc1-1
	should_not { be_installed = { with_version = "> 32:9.16" } } # pass
}
package "ingot-twice" {
	be_installed = { with_version = ">= 5.14-2" } # pass: 5.14-1, 5.14-2
	its "version" { eq = "5.14" } # error: several versions are installed
}
package "ingot-plain.noarch" {
	be_installed = true # pass
}
package "ingot" {
	be_installed = true # fail: not installed
}
package "ingot-plain" {
	be_installed = { by = "apt" } # error: the machine's package manager is rpm
}
`
	expect(t, src, run(t, database("rpm", db), src))

	// A database that cannot be read is an error for those that are in it, and
	// for those that are not.
	files, err := filepath.Glob(filepath.Join(db, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src = `
package "ingot-plain" {
	should_not { be_installed = true } # error: rpm
}
package "ingot" {
	should_not { be_installed = true } # error: rpm
}
`
	expect(t, src, run(t, database("rpm", db), src))
}

// The same of packages that pacman has installed.
func TestPacmanDatabase(t *testing.T) {
	need(t, "pacman")
	if os.Getuid() != 0 {
		t.Skip("pacman installs as root only")
	}
	dir := t.TempDir()
	db, root := filepath.Join(dir, "db"), filepath.Join(dir, "root")
	for _, d := range []string{db, root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range [][2]string{{"ingot-plain", "1.2.3-4"}, {"ingot-epoch", "2:1.0rc1-1"}} {
		info := fmt.Sprintf("pkgname = %s\npkgver = %s\npkgdesc = A test\narch = any\nsize = 0\n", p[0], p[1])
		if err := os.WriteFile(filepath.Join(dir, ".PKGINFO"), []byte(info), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, dir, "tar", "-czf", p[0]+".pkg.tar.gz", ".PKGINFO")
		must(t, dir, "pacman", "--config", "/dev/null", "--dbpath", db, "--root", root, "--noconfirm", "-U", p[0]+".pkg.tar.gz")
	}
	src := `
package "ingot-plain" {
	be_installed = { by = "pacman", with_version = "= 1.2.3" } # pass: 1.2.3-4
	its "version" { eq = "1.2.3-4" } # pass
}
package "ingot-epoch" {
	be_installed = { with_version = ">= 2:1.0beta, < 2:1.0" } # pass: 2:1.0rc1-1
}
package "ingot" {
	be_installed = true # fail: not installed
}
`
	expect(t, src, run(t, database("pacman", db), src))

	if err := os.WriteFile(filepath.Join(db, "local", "ALPM_DB_VERSION"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	src = `
package "ingot-plain" {
	should_not { be_installed = true } # error: pacman
}
`
	expect(t, src, run(t, database("pacman", db), src))
}
