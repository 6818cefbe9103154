package confmgmt

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
)

// Checks collects problems.
type Checks struct {
	Bake     script.Bake
	Problems []config.Problem
}

// Bad adds a problem.
func (c *Checks) Bad(option, format string, args ...any) {
	c.Problems = append(c.Problems, config.Problem{Option: option, Summary: fmt.Sprintf(format, args...)})
}

// Template checks that a Go template parses.
func (c *Checks) Template(option, text string) {
	c.Problems = append(c.Problems, script.CheckTemplate(option, text)...)
}

// The kinds of what stands at a path on this host.
const (
	File = 1 << iota
	Dir
)

// Path checks that something of the kind is there to be read; empty is right.
func (c *Checks) Path(option, p string, kind int) {
	if p != "" {
		c.path(option, p, kind)
	}
}

// Paths is Path for a list, in which nothing may be empty.
func (c *Checks) Paths(option string, list []string, kind int) {
	for i, p := range list {
		if p == "" {
			c.Bad(option, "Entry %d of %s is empty.", i+1, option)
			continue
		}
		c.path(option, p, kind)
	}
}

func (c *Checks) path(option, p string, kind int) {
	at := c.Bake.Abs(p)
	info, err := os.Stat(at)
	if err == nil && !info.IsDir() && info.Mode().IsRegular() && kind&File != 0 {
		var f *os.File
		if f, err = os.Open(at); err == nil {
			f.Close()
		}
	}
	switch {
	case err != nil:
		c.Problems = append(c.Problems, config.Problem{
			Option: option, Summary: fmt.Sprintf("%s: %q cannot be read.", option, p),
			Detail: fmt.Sprintf("%v. Relative paths start in the working directory; ${path.root} names the template's.", err),
		})
	case info.IsDir() && kind&Dir == 0:
		c.Bad(option, "%s: %q is a directory, and must be a file.", option, p)
	case !info.IsDir() && kind&File == 0:
		c.Bad(option, "%s: %q is a file, and must be a directory.", option, p)
	case !info.IsDir() && !info.Mode().IsRegular():
		c.Bad(option, "%s: %q is neither a file nor a directory.", option, p)
	}
}

// GuestOS checks guest_os_type and says whether it is Windows.
func (c *Checks) GuestOS(guest string) (windows bool) {
	switch strings.ToLower(guest) {
	case "", "unix":
	case "windows":
		return true
	default:
		c.Bad("guest_os_type", "guest_os_type is %q: it must be unix or windows.", guest)
	}
	return false
}

// Windows says what guest_os_type, which was checked, stands for.
func Windows(guest string) bool { return strings.EqualFold(guest, "windows") }

// places hold more than one program's files, and must never be removed.
var places = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys",
	"/tmp", "/usr", "/usr/local", "/var", "/var/lib", "/var/tmp", "c:/", "c:/windows", "c:/windows/temp", "c:/users", "c:/program files",
}

var drive = regexp.MustCompile(`^[A-Za-z]:/`)

// Remote checks a directory on the machine. clean says that it will be removed.
func (c *Checks) Remote(option, dir string, windows, clean bool) {
	slashed := strings.ReplaceAll(dir, `\`, "/")
	switch {
	case dir == "":
		return
	case windows && !drive.MatchString(slashed):
		c.Bad(option, "%s is %q: it must be an absolute path with a drive, such as C:/Windows/Temp/x.", option, dir)
	case windows && strings.ContainsAny(dir, "\"%!&^<>|*?\r\n"):
		c.Bad(option, "%s is %q: it must not contain any of \" %% ! & ^ < > | * ?.", option, dir)
	case !windows && !path.IsAbs(dir):
		c.Bad(option, "%s is %q: it must be an absolute path on the machine.", option, dir)
	case strings.ContainsAny(dir, "\x00\r\n"):
		c.Bad(option, "%s contains a line end.", option)
	case clean && slices.Contains(places, strings.ToLower(path.Clean(slashed))):
		c.Bad(option, "%s is %q, which would be removed with all that stands in it: name a directory of its own.", option, dir)
	}
}

// Elevated checks the account that the program runs as, which only Windows has.
func (c *Checks) Elevated(user, password string, windows bool) {
	c.Template("elevated_user", user)
	c.Template("elevated_password", password)
	switch {
	case user != "" && !windows:
		c.Bad("elevated_user", `elevated_user is for Windows: set guest_os_type = "windows", or leave it out and use sudo.`)
	case user == "" && password != "":
		c.Bad("elevated_password", "elevated_password is set, but elevated_user is not.")
	}
}

// Fit says why the machine is not what guest_os_type promises.
func Fit(name string, m machine.Machine, windows bool) error {
	if m == nil {
		return fmt.Errorf("the %s provisioner needs a machine: %w (communicator = \"none\"?)", name, machine.ErrNone)
	}
	p := m.Platform()
	switch {
	case windows && p.OS != "" && p.OS != "windows":
		return fmt.Errorf(`guest_os_type is "windows", and the machine runs %s: set guest_os_type = "unix"`, p.OS)
	case !windows && (p.OS == "windows" || p.Shell != "" && p.Shell != "sh"):
		return fmt.Errorf(`guest_os_type is "unix", and this machine's shell is %s: set guest_os_type = "windows"`, p.Shell)
	}
	return nil
}

// Secret is a file of this host that only the login user can read on the machine.
func Secret(local, name string) (*machine.Files, error) {
	data, err := os.ReadFile(local)
	if err != nil {
		return nil, err
	}
	return machine.BytesTree(name, data, 0o600), nil
}

// SecretDir is Secret for all files below a directory.
func SecretDir(local, name string) (*machine.Files, error) {
	var trees []*machine.Files
	root, err := filepath.EvalSymlinks(local)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		t, err := Secret(p, path.Join(name, filepath.ToSlash(rel)))
		trees = append(trees, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return machine.Join(trees...), nil
}
