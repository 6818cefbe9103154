package drift

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/gobwas/glob"
)

// Ignored is what every boot and every network changes, so that it says
// nothing about drift: globs for the paths of files, in which ** crosses
// slashes, and of other kinds "KIND GLOB". Times of files are no facts at all.
// docs/drift.md says why each is here.
func Ignored() []string {
	return []string{
		"/etc/machine-id", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab", "/etc/adjtime", "/etc/fake-hwclock.data",
		"/etc/ssh/ssh_host_*", "/etc/ld.so.cache", "/etc/.updated", "/etc/.pwd.lock", "/etc/udev/hwdb.bin", "/etc/blkid.tab*",
		"/etc/{passwd,group,shadow,gshadow,subuid,subgid}-", "/etc/security/opasswd",
		"/etc/lvm/{archive,backup,cache,devices}/**", "/etc/iscsi/initiatorname.iscsi", "/etc/nvme/host{id,nqn}",
		"/etc/netplan/50-cloud-init.yaml", "/etc/network/interfaces.d/50-cloud-init*", "/etc/resolvconf/run/**", "/etc/dhcpc/**",
		"/etc/cups/subscriptions.conf*", "/etc/printcap", "/etc/console-setup/cached_*",
		"service user@*", "service user-runtime-dir@*", "service getty@*", "service serial-getty@*", "service container-getty@*",
		"service ssh@*", "service sshd@*", "service sshd-session@*",
		"service systemd-{hostnamed,localed,timedated,machined,importd,portabled,homed,coredump,tmpfiles-clean,update-utmp}*",
		"service {packagekit,polkit,fwupd,udisks2,upower,apt-daily,apt-daily-upgrade,dnf-makecache,logrotate,man-db}.service",
	}
}

// Rules say what of a machine is not compared.
type Rules struct {
	// Ignore are further globs of the kinds that Ignored has.
	Ignore []string
}

// matcher says whether something is to be ignored.
type matcher map[string][]*glob.Pattern // by kind

func compileGlob(pattern string) (kind string, g *glob.Pattern, err error) {
	kind = "file"
	if !strings.HasPrefix(pattern, "/") {
		k, rest, ok := strings.Cut(pattern, " ")
		if !ok || !slices.Contains(Kinds(), k) || rest == "" {
			return "", nil, fmt.Errorf("%q is neither a path that begins with / nor \"KIND GLOB\"; the kinds are %s", pattern, strings.Join(Kinds(), ", "))
		}
		kind, pattern = k, rest
	}
	if g, err = glob.Compile(pattern, '/'); err != nil {
		return "", nil, fmt.Errorf("%q is no glob: %w", pattern, err)
	}
	return kind, g, nil
}

// CheckGlob says what is wrong with a pattern for Ignore, if anything.
func CheckGlob(pattern string) error {
	_, _, err := compileGlob(pattern)
	return err
}

func newMatcher(patterns ...string) (matcher, error) {
	m := matcher{}
	for _, p := range patterns {
		kind, g, err := compileGlob(p)
		if err != nil {
			return nil, err
		}
		m[kind] = append(m[kind], g)
	}
	return m, nil
}

func (m matcher) has(kind, name string) bool {
	return slices.ContainsFunc(m[kind], func(g *glob.Pattern) bool { return g.Match(name) })
}

// Kinds are the kinds of changes.
func Kinds() []string {
	return []string{"file", "group", "linux_kernel_parameter", "package", "port", "service", "system", "user"}
}

// Change is one difference between an image and a machine. Want or Have is
// empty where there is no such thing in the image or on the machine.
type Change struct {
	Kind, Name string
	// Property is what of it differs: exist, version, mode, content …
	Property   string
	Want, Have string
}

// Gap is something that was not compared.
type Gap struct {
	Section, Why string
	// Unknown says that the machine was asked and could not say.
	Unknown bool
}

// Compared is what a comparison came to.
type Compared struct {
	Changes []Change
	Gaps    []Gap
	// Same says for each section without changes what is the same.
	Same []string
}

// Compare finds out how a machine differs from an image.
func Compare(image, machine *Facts, rules Rules) (*Compared, error) {
	ignore, err := newMatcher(slices.Concat(Ignored(), rules.Ignore)...)
	if err != nil {
		return nil, err
	}
	c := &comparison{image: image, machine: machine, ignore: ignore}
	c.section("", "the system", c.system)
	c.section(SectionPackages, fmt.Sprintf("%d packages", len(image.Packages.Installed)), c.packages)
	c.section(SectionFiles, "the configuration files", c.files)
	c.section(SectionAccounts, fmt.Sprintf("%d users and %d groups", len(image.Users), len(image.Groups)), c.accounts)
	c.section(SectionServices, fmt.Sprintf("%d services", len(image.Services)), c.services)
	c.section(SectionPorts, fmt.Sprintf("%d ports", len(image.Ports)), c.ports)
	c.section(SectionKernel, fmt.Sprintf("%d kernel parameters", len(image.Kernel)), c.kernel)
	return &c.out, nil
}

type comparison struct {
	image, machine *Facts
	ignore         matcher
	out            Compared
}

func (c *comparison) section(key, same string, compare func()) {
	if why := c.image.Unknown[key]; why != "" {
		c.out.Gaps = append(c.out.Gaps, Gap{Section: key, Why: "the image's are not known: " + why})
		return
	}
	if why := c.machine.Unknown[key]; why != "" {
		c.out.Gaps = append(c.out.Gaps, Gap{Section: key, Why: why, Unknown: true})
		return
	}
	before := len(c.out.Changes)
	compare()
	if len(c.out.Changes) == before {
		c.out.Same = append(c.out.Same, same)
	}
}

func (c *comparison) change(kind, name, property, want, have string) {
	if want != have && !c.ignore.has(kind, name) {
		c.out.Changes = append(c.out.Changes, Change{kind, name, property, want, have})
	}
}

// each compares two maps name by name, in order.
func each[T any](a, b map[string]T, f func(name string, a, b *T)) {
	names := maps.Clone(a)
	if names == nil {
		names = map[string]T{}
	}
	maps.Copy(names, b)
	for _, n := range slices.Sorted(maps.Keys(names)) {
		var x, y *T
		if v, ok := a[n]; ok {
			x = &v
		}
		if v, ok := b[n]; ok {
			y = &v
		}
		f(n, x, y)
	}
}

func or(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (c *comparison) system() {
	c.change("system", "distribution", "id", c.image.Platform.ID, c.machine.Platform.ID)
	c.change("system", "architecture", "arch", c.image.Platform.Arch, c.machine.Platform.Arch)
}

func (c *comparison) packages() {
	if a, b := c.image.Packages.Manager, c.machine.Packages.Manager; a != b {
		c.change("system", "package manager", "name", a, b)
		return
	}
	each(c.image.Packages.Installed, c.machine.Packages.Installed, func(name string, a, b *string) {
		property := "version"
		if a == nil || b == nil {
			property = "be_installed"
		}
		c.change("package", name, property, or(a), or(b))
	})
}

func (c *comparison) accounts() {
	each(c.image.Users, c.machine.Users, func(name string, a, b *User) {
		switch {
		case a == nil:
			c.change("user", name, "exist", "", "uid "+b.UID+", shell "+b.Shell)
		case b == nil:
			c.change("user", name, "exist", "uid "+a.UID, "")
		default:
			c.change("user", name, "uid", a.UID, b.UID)
			c.change("user", name, "gid", a.GID, b.GID)
			c.change("user", name, "home", a.Home, b.Home)
			c.change("user", name, "shell", a.Shell, b.Shell)
			c.change("user", name, "password", a.Password, b.Password)
		}
	})
	each(c.image.Groups, c.machine.Groups, func(name string, a, b *Group) {
		switch {
		case a == nil:
			c.change("group", name, "exist", "", "gid "+b.GID)
		case b == nil:
			c.change("group", name, "exist", "gid "+a.GID, "")
		default:
			c.change("group", name, "gid", a.GID, b.GID)
			c.change("group", name, "members", a.Members, b.Members)
		}
	})
}

func (c *comparison) services() {
	each(c.image.Services, c.machine.Services, func(name string, a, b *string) {
		c.change("service", name, "be_running", or(a), or(b))
	})
}

func (c *comparison) ports() {
	set := func(ports []string) map[string]string {
		m := map[string]string{}
		for _, p := range ports {
			m[p] = "listening"
		}
		return m
	}
	each(set(c.image.Ports), set(c.machine.Ports), func(name string, a, b *string) {
		c.change("port", name, "be_listening", or(a), or(b))
	})
}

func (c *comparison) kernel() {
	each(c.image.Kernel, c.machine.Kernel, func(name string, a, b *string) {
		c.change("linux_kernel_parameter", name, "value", or(a), or(b))
	})
}

var secretFile = regexp.MustCompile("^" + secrets + "$")

func (c *comparison) files() {
	machine := map[string]Tree{}
	for _, t := range c.machine.Files {
		machine[t.Root] = t
	}
	for _, a := range c.image.Files {
		b, ok := machine[a.Root]
		if !ok || a.Depth != b.Depth {
			c.out.Gaps = append(c.out.Gaps, Gap{Section: a.Root, Why: "this Ingot looks at other directories than the one that has baked the image: bake again"})
			continue
		}
		c.tree(a, b)
	}
}

func (c *comparison) tree(a, b Tree) {
	last := a.Last
	if b.Last != "" && (last == "" || b.Last < last) {
		last = b.Last
	}
	if last != "" {
		c.out.Gaps = append(c.out.Gaps, Gap{Section: a.Root, Why: fmt.Sprintf("it holds more than %d entries: those after %s were not compared", maxEntries, last)})
	}
	c.change("file", a.Root, "names with a newline", number(a.Odd), number(b.Odd))
	unseen := 0
	gone := map[string]bool{} // directories that are wholly on one side
	each(a.Entries, b.Entries, func(p string, x, y *Entry) {
		if last != "" && p > last {
			return
		}
		if unit, how, ok := enabled(p, x, y); ok {
			word := func(e *Entry) string {
				if e == nil {
					return ""
				}
				return how
			}
			c.change("service", unit, "be_enabled", word(x), word(y))
			return
		}
		if x == nil || y == nil {
			there := x
			if there == nil {
				there = y
			}
			if there.Type == "d" {
				gone[p] = true
			}
			if gone[path.Dir(p)] && !c.ignore.has("file", path.Dir(p)) {
				return // its directory says it
			}
			want, have := c.words(c.image, x), c.words(c.machine, y)
			c.change("file", p, "exist", want, have)
			return
		}
		if x.Type != y.Type {
			c.change("file", p, "type", c.words(c.image, x), c.words(c.machine, y))
			return
		}
		if x.Type != "l" {
			c.change("file", p, "mode", "0"+x.Mode, "0"+y.Mode)
		}
		if x.UID != y.UID {
			c.change("file", p, "owner", owner(c.image, x.UID), owner(c.machine, y.UID))
		}
		if x.GID != y.GID {
			c.change("file", p, "group", group(c.image, x.GID), group(c.machine, y.GID))
		}
		switch {
		case x.Type == "l":
			c.change("file", p, "link_target", x.Target, y.Target)
		case x.Type != "f" || secretFile.MatchString(p):
		case x.Sum != "" && y.Sum != "":
			if x.Sum != y.Sum {
				c.change("file", p, "content", fmt.Sprintf("sha256 %s, %d bytes", x.Sum, x.Size), fmt.Sprintf("sha256 %s, %d bytes", y.Sum, y.Size))
			}
		case x.Size != y.Size:
			c.change("file", p, "size", number(int(x.Size)), number(int(y.Size)))
		case !c.ignore.has("file", p):
			unseen++
		}
	})
	if unseen > 0 {
		c.out.Gaps = append(c.out.Gaps, Gap{Section: a.Root, Why: fmt.Sprintf("the content of %d files was not compared, only their sizes: they are larger than %d MiB, or beyond the first %d MiB of the directory",
			unseen, maxContent>>20, maxHashed>>20)})
	}
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

var kindsOfFiles = map[string]string{"f": "file", "d": "directory", "l": "link", "p": "pipe", "s": "socket", "b": "block device", "c": "character device", "D": "door"}

func (c *comparison) words(f *Facts, e *Entry) string {
	if e == nil {
		return ""
	}
	if e.Type == "l" {
		return "link to " + e.Target
	}
	return fmt.Sprintf("%s, mode 0%s, of %s", kindsOfFiles[e.Type], e.Mode, owner(f, e.UID))
}

// owner is an id with the name that the machine has for it.
func owner(f *Facts, id int64) string {
	for _, name := range slices.Sorted(maps.Keys(f.Users)) {
		if f.Users[name].UID == fmt.Sprint(id) {
			return fmt.Sprintf("%s (%d)", name, id)
		}
	}
	return fmt.Sprint(id)
}

func group(f *Facts, id int64) string {
	for _, name := range slices.Sorted(maps.Keys(f.Groups)) {
		if f.Groups[name].GID == fmt.Sprint(id) {
			return fmt.Sprintf("%s (%d)", name, id)
		}
	}
	return fmt.Sprint(id)
}

var (
	wantsLink   = regexp.MustCompile(`^/etc/systemd/system/([^/]+)\.(?:wants|requires)/([^/]+)$`)
	runlevel    = regexp.MustCompile(`^/etc/runlevels/([^/]+)/([^/]+)$`)
	rcLink      = regexp.MustCompile(`^/etc/rc([0-6S])\.d/S\d\d([^/]+)$`)
	systemdUnit = regexp.MustCompile(`^/etc/systemd/system/([^/]+)$`)
)

// enabled tells which service a link in /etc enables or masks, for a link that
// is there on one side only.
func enabled(p string, x, y *Entry) (unit, how string, ok bool) {
	e := x
	if e == nil {
		e = y
	}
	if x != nil && y != nil || e.Type != "l" {
		return "", "", false
	}
	if m := wantsLink.FindStringSubmatch(p); m != nil {
		return m[2], "enabled for " + m[1], true
	}
	if m := runlevel.FindStringSubmatch(p); m != nil {
		return m[2], "enabled in runlevel " + m[1], true
	}
	if m := rcLink.FindStringSubmatch(p); m != nil {
		return m[2], "enabled in runlevel " + m[1], true
	}
	if m := systemdUnit.FindStringSubmatch(p); m != nil && e.Target == "/dev/null" {
		return m[1], "masked", true
	}
	return "", "", false
}
