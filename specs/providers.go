package specs

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// providers are who may have installed a package, by what by calls them. Those
// without a kind of their own are the machine's own package managers.
func providers() map[string]*kind {
	own := map[string]*kind{"apt": nil, "dpkg": nil, "rpm": nil, "yum": nil, "dnf": nil, "zypper": nil, "apk": nil, "pacman": nil}
	for name, k := range map[string]*kind{"gem": gems, "npm": npms, "pip": pips, "pip3": pips, "pear": pears, "pecl": pecls, "cpan": perlModules, "chocolatey": chocolatey, "psmodule": psModules} {
		own[name] = k
	}
	return own
}

// packageArgument reads what be_installed takes.
func packageArgument(v cty.Value) (argument, error) {
	names := []string{}
	for n := range providers() {
		names = append(names, n)
	}
	slices.Sort(names)
	a, err := choose(options("by", "with_version"), "by", names...)(v)
	if err == nil && a.opt["by"] == "cpan" && a.want != nil {
		err = errors.New("versions of Perl modules cannot be compared here; use a command")
	}
	return a, err
}

func packageQuestion(subject string, a argument, _ map[string]string) (*kind, string) {
	if k := providers()[a.opt["by"]]; k != nil {
		return k, subject
	}
	return packages, subject
}

// installedBy is installed, by the manager that is asked for.
func installedBy(p pkg, a argument) (bool, string, error) {
	manager := map[string]string{"apt": "dpkg", "dpkg": "dpkg", "rpm": "rpm", "yum": "rpm", "dnf": "rpm", "zypper": "rpm", "apk": "apk", "pacman": "pacman"}[a.opt["by"]]
	if manager != "" && manager != p.manager {
		return false, "", unsupported("the machine's package manager is " + p.manager)
	}
	return installed(p, a)
}

// listed makes the kind for a manager that lists what it has installed; names
// and versions come from parse, which says whether the list is whole.
func listed(name, script string, normal func(string) string, parse func(out string, have func(name, version string)) error) *kind {
	return &kind{
		name:   name,
		script: script,
		read: func(a answer, subjects []string) (facts, error) {
			if strings.TrimSpace(string(a.errOut)) == "none" {
				return nil, unsupported("there is no " + name)
			}
			got := map[string][]string{}
			if err := parse(string(a.out), func(n, v string) { got[normal(n)] = append(got[normal(n)], v) }); err != nil || a.status > 1 {
				return nil, fmt.Errorf("%w (%v)", failed(a, name), err)
			}
			result := facts{}
			for _, s := range subjects {
				result[s] = pkg{manager: name, versions: got[normal(s)]}
			}
			return result, nil
		},
	}
}

func asIs(s string) string { return s }

var (
	gems = listed("gem", `command -v gem >/dev/null || { echo none >&2; exit 1; }
exec gem list --local --no-details`, asIs, func(out string, have func(string, string)) error {
		n := 0
		for _, l := range strings.Split(out, "\n") {
			if m := gemLine.FindStringSubmatch(l); m != nil {
				n++
				for _, v := range strings.Split(m[2], ", ") {
					v, _, _ = strings.Cut(strings.TrimPrefix(v, "default: "), " ")
					have(m[1], v)
				}
			}
		}
		if n == 0 {
			return errors.New("it lists nothing, not even what comes with Ruby")
		}
		return nil
	})
	gemLine = regexp.MustCompile(`^(\S+) \(([^()]+)\)$`)

	npms = listed("npm", `command -v npm >/dev/null || { echo none >&2; exit 1; }
exec npm ls -g --depth=0 --json`, asIs, func(out string, have func(string, string)) error {
		var list struct {
			Name         *string
			Error        json.RawMessage
			Dependencies map[string]struct {
				Version string
				Missing bool
			}
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return fmt.Errorf("its list is not JSON: %w", err)
		}
		if list.Name == nil && list.Dependencies == nil || list.Error != nil {
			return errors.New("it gives no list")
		}
		for name, d := range list.Dependencies {
			if d.Version != "" && !d.Missing {
				have(name, d.Version)
			}
		}
		return nil
	})

	pips = listed("pip", `export PIP_DISABLE_PIP_VERSION_CHECK=1
for p in pip3 pip; do command -v $p >/dev/null && exec $p list --format=json; done
echo none >&2
exit 1`, func(s string) string {
		return pipSeparators.ReplaceAllString(strings.ToLower(s), "-")
	}, func(out string, have func(string, string)) error {
		var list []struct{ Name, Version string }
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return fmt.Errorf("its list is not JSON: %w", err)
		}
		for _, p := range list {
			have(p.Name, p.Version)
		}
		return nil
	})
	pipSeparators = regexp.MustCompile(`[-_.]+`)

	pears, pecls = pearLike("pear"), pearLike("pecl")
)

func pearLike(tool string) *kind {
	return listed(tool, `command -v `+tool+` >/dev/null || { echo none >&2; exit 1; }
exec `+tool+` list`, strings.ToLower, func(out string, have func(string, string)) error {
		if strings.Contains(out, "(no packages installed") {
			return nil
		}
		_, rows, ok := strings.Cut(out, "\nPACKAGE")
		if !ok {
			return errors.New("it gives no list")
		}
		for _, l := range strings.Split(rows, "\n")[1:] {
			if f := strings.Fields(l); len(f) == 3 {
				have(f[0], f[1])
			}
		}
		return nil
	})
}

// perlModules looks for the module's file: to load it would run it.
var perlModules = &kind{
	name: "cpan",
	each: true,
	script: `command -v perl >/dev/null || { echo "there is no perl" >&2; exit 9; }
exec perl -e '$m = shift; $m =~ s{::}{/}g; for (@INC) { if (-e "$_/$m.pm") { print "yes $_\n"; exit } } print "no\n"' "$1"`,
	read: one(func(a answer) (any, error) {
		said := strings.TrimSpace(string(a.out))
		where, yes := strings.CutPrefix(said, "yes ")
		switch {
		case a.status == 0 && yes:
			return pkg{manager: "cpan", versions: []string{"in " + where}}, nil
		case a.status == 0 && said == "no":
			return pkg{manager: "cpan"}, nil
		}
		return nil, failed(a, "perl")
	}),
}

// Orders of versions.

func whole(v string) (epoch, upstream, revision string) { return "", v, "" }

var (
	gemVersion = regexp.MustCompile(`^[0-9]+(\.[0-9A-Za-z]+)*(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)
	gemPart    = regexp.MustCompile(`[0-9]+|[A-Za-z]+`)
	pipVersion = regexp.MustCompile(`^(?:(\d+)!)?(\d+(?:\.\d+)*)(?:[-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?(\d*))?(?:-(\d+)|[-_.]?(?:post|rev|r)[-_.]?(\d*))?(?:[-_.]?(dev)[-_.]?(\d*))?(?:\+[a-z0-9._-]+)?$`)
	pearPart   = regexp.MustCompile(`[0-9]+|[A-Za-z]+|#`)
)

// compareGem orders as RubyGems does: a word is before a number, and zeros at
// the end do not count.
func compareGem(a, b string) int {
	parts := func(v string) []string { return gemPart.FindAllString(strings.ReplaceAll(v, "-", ".pre."), -1) }
	x, y := parts(a), parts(b)
	for i := range max(len(x), len(y)) {
		p, q := "0", "0"
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		c := 0
		switch {
		case digit(p[0]) && digit(q[0]):
			c = compareDigits(p, q)
		case digit(p[0]):
			c = 1
		case digit(q[0]):
			c = -1
		default:
			c = strings.Compare(p, q)
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// comparePip orders as PEP 440 does; what follows a "+" does not count.
func comparePip(a, b string) int {
	x, y := pipVersion.FindStringSubmatch(strings.ToLower(a)), pipVersion.FindStringSubmatch(strings.ToLower(b))
	if x == nil || y == nil { // valid has refused them
		return strings.Compare(a, b)
	}
	if c := compareDigits(x[1], y[1]); c != 0 {
		return c
	}
	if c := compareGem(x[2], y[2]); c != 0 {
		return c
	}
	// Each part as a rank and a number.
	pre := func(m []string) (string, string) {
		switch {
		case m[3] != "":
			return map[byte]string{'a': "1", 'b': "2", 'p': "3", 'c': "3", 'r': "3"}[m[3][0]], m[4]
		case m[5] == "" && !pipPost(m[0]) && m[7] != "":
			return "0", "" // a development version is before its alphas
		}
		return "4", ""
	}
	post := func(m []string) (string, string) {
		if m[5] != "" || pipPost(m[0]) {
			return "1", m[5] + m[6]
		}
		return "0", ""
	}
	dev := func(m []string) (string, string) {
		if m[7] != "" {
			return "0", m[8]
		}
		return "1", ""
	}
	for _, key := range []func([]string) (string, string){pre, post, dev} {
		r, n := key(x)
		s, o := key(y)
		if c := strings.Compare(r, s); c != 0 {
			return c
		}
		if c := compareDigits(n, o); c != 0 {
			return c
		}
	}
	return 0
}

func pipPost(v string) bool { return pipPostWord.MatchString(v) }

var pipPostWord = regexp.MustCompile(`\d[-_.]?(post|rev|r)([-_.]?\d|[-_.]?$|[-_.]?dev|\+)`)

// comparePear orders as PHP's version_compare does.
func comparePear(a, b string) int {
	rank := func(p string) int {
		switch {
		case digit(p[0]):
			return 5
		case p == "#":
			return 5
		case strings.HasPrefix(p, "dev"):
			return 0
		case strings.HasPrefix(p, "a"):
			return 1
		case strings.HasPrefix(p, "b"):
			return 2
		case strings.HasPrefix(strings.ToLower(p), "rc"):
			return 3
		case strings.HasPrefix(p, "p"):
			return 6
		}
		return -1
	}
	x, y := pearPart.FindAllString(a, -1), pearPart.FindAllString(b, -1)
	for i := range max(len(x), len(y)) {
		switch {
		case i >= len(x):
			return -trailing(rank(y[i]))
		case i >= len(y):
			return trailing(rank(x[i]))
		}
		if c := sign(rank(x[i]) - rank(y[i])); c != 0 {
			return c
		}
		if digit(x[i][0]) && digit(y[i][0]) {
			if c := compareDigits(x[i], y[i]); c != 0 {
				return c
			}
		}
	}
	return 0
}

// trailing says where a version stands that goes on with a part of that rank.
func trailing(rank int) int {
	if rank >= 5 {
		return 1
	}
	return -1
}

// Services under a supervisor of their own, and under watch.

// supervised is what a supervisor says of a service.
type supervised struct {
	running bool
	state   string
}

var supervisor = &kind{
	name: "supervisor",
	each: true,
	script: `command -v supervisorctl >/dev/null || { echo "there is no supervisorctl" >&2; exit 9; }
exec supervisorctl status "$1"`,
	read: one(func(a answer) (any, error) {
		said := strings.TrimSpace(string(a.out))
		if strings.HasSuffix(said, "ERROR (no such process)") || strings.HasSuffix(said, "ERROR (no such group)") {
			return supervised{false, "supervisor knows no such program"}, nil
		}
		if f := strings.Fields(said); len(f) > 1 && a.status != 9 {
			switch f[1] {
			case "RUNNING", "STARTING", "STOPPED", "STOPPING", "BACKOFF", "EXITED", "FATAL":
				return supervised{f[1] == "RUNNING", f[1]}, nil
			}
		}
		if said != "" {
			return nil, fmt.Errorf("supervisorctl says: %s", Clean(said))
		}
		return nil, failed(a, "supervisorctl")
	}),
}

var runit = &kind{
	name: "runit",
	each: true,
	script: `command -v sv >/dev/null || { echo "there is no sv" >&2; exit 9; }
exec sv status "$1"`,
	read: one(func(a answer) (any, error) {
		said := strings.TrimSpace(string(a.out))
		word, rest, _ := strings.Cut(said, ": ")
		switch {
		case word == "run", word == "down", word == "finish":
			return supervised{word == "run", Clean(said)}, nil
		case strings.HasSuffix(rest, "runsv not running"), strings.HasSuffix(rest, "unable to open supervise/ok: file does not exist"):
			return supervised{false, "runsv does not run for it"}, nil
		case strings.HasSuffix(rest, "file does not exist"):
			return supervised{false, "runit knows no such service"}, nil
		case said != "":
			return nil, fmt.Errorf("sv says: %s", Clean(said))
		}
		return nil, failed(a, "sv")
	}),
}

var monit = &kind{
	name: "monit",
	each: true,
	script: `command -v monit >/dev/null || { echo "there is no monit" >&2; exit 9; }
exec monit -B status "$1"`,
	read: one(func(a answer) (any, error) {
		out := string(a.out)
		for _, l := range strings.Split(out, "\n") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(l), "monitoring status"); ok {
				v = strings.TrimSpace(v)
				return supervised{v == "Monitored", v}, nil
			}
		}
		if strings.Contains(out+string(a.errOut), "' not found") {
			return supervised{false, "monit knows no such service"}, nil
		}
		if said := strings.TrimSpace(out); said != "" {
			return nil, fmt.Errorf("monit says: %s", Clean(said))
		}
		return nil, failed(a, "monit")
	}),
}

// unitProperties are what systemd knows of a unit.
var unitProperties = &kind{
	name: "unit property",
	each: true,
	script: `[ -d /run/systemd/system ] || { echo "systemd does not run here" >&2; exit 9; }
exec systemctl show --no-pager -p LoadState -p "$2" -- "$1"`,
	read: one(func(a answer) (any, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for the unit")
		}
		load := ""
		var values []string
		for i, l := range lines(a.out) {
			k, v, ok := strings.Cut(l, "=")
			switch {
			case !ok && i > 0 && len(values) > 0:
				values[len(values)-1] += "\n" + l
			case k == "LoadState" && load == "":
				load = v
				values = append(values, "")
			default:
				values = append(values, v)
			}
		}
		return unitProperty{load, values}, nil
	}),
}

type unitProperty struct {
	load   string
	values []string
}

// moreOfServices is what the service resource can say beyond the init system.
func moreOfServices(r resource) resource {
	r.matchers["be_enabled"] = ask1(services, true, choose(options("under", "with_level"), "under", "systemd", "openrc", "init"), func(u unit, a argument) (bool, string, error) {
		if under := a.opt["under"]; under != "" {
			if ok, why := u.under(under); !ok {
				return false, why, nil
			}
		}
		if level := a.opt["with_level"]; level != "" {
			return u.enabledIn(level)
		}
		return u.enabled()
	})
	running := ask1(services, true, choose(options("under"), "under", "systemd", "openrc", "init", "supervisor", "runit"), func(u unit, a argument) (bool, string, error) {
		if under := a.opt["under"]; under != "" {
			if ok, why := u.under(under); !ok {
				return false, why, nil
			}
		}
		return u.running()
	})
	byInit := running.test
	running.about = func(subject string, a argument, _ map[string]string) (*kind, string) {
		switch a.opt["under"] {
		case "supervisor":
			return supervisor, subject
		case "runit":
			return runit, subject
		}
		return services, subject
	}
	running.test = func(fact any, a argument) (bool, string, error) {
		if s, ok := fact.(supervised); ok {
			return s.running, s.state, nil
		}
		return byInit(fact, a)
	}
	r.matchers["be_running"] = running
	r.matchers["be_monitored_by"] = matcher{
		kind: monit, presence: true,
		argument: func(v cty.Value) (argument, error) {
			a, err := object("monitor", "with_name")(v)
			if err == nil && a.text != "monit" {
				err = errors.New("monit is the one monitor that is known here")
			}
			return a, err
		},
		about: func(subject string, a argument, _ map[string]string) (*kind, string) {
			if n := a.opt["with_name"]; n != "" {
				return monit, n
			}
			return monit, subject
		},
		test: func(fact any, _ argument) (bool, string, error) {
			s := fact.(supervised)
			return s.running, s.state, nil
		},
	}
	r.paths = map[string]pathAttribute{"property.": {"NAME", func(rest string) (attribute, error) {
		if strings.Trim(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			return attribute{}, errors.New("not a property's name")
		}
		at := get1(unitProperties, typeAny, func(p unitProperty) (value, error) {
			values := p.values
			if rest == "LoadState" {
				return value{text: p.load, typ: typeText}, nil
			}
			switch {
			case p.load == "":
				return value{}, errors.New("systemctl did not say the unit's state")
			case p.load == "not-found":
				return value{}, missing("no such unit")
			}
			values = slices.DeleteFunc(slices.Clone(values), func(s string) bool { return s == "" })
			if len(p.values) < 2 { // LoadState alone
				return value{}, missing("systemd knows no property " + rest)
			}
			return anyValue(strings.Join(values, "\n"))
		})
		at.key = func(subject string, _ map[string]string) string { return subject + "\x00" + rest }
		return at, nil
	}}}
	return windowsServices(r)
}

// under says whether that is the init system that runs.
func (u unit) under(name string) (bool, string) {
	if name == "init" {
		name = "sysv"
	}
	return u.init == "none" || u.init == name, "the machine runs under " + u.init
}

// enabledIn says whether a service starts in one runlevel or target.
func (u unit) enabledIn(level string) (bool, string, error) {
	links := "no boot link"
	if len(u.links) > 0 {
		links = "linked from " + strings.Join(u.links, ", ")
	}
	var dirs []string
	switch u.manager {
	case "windows":
		return false, "", unsupported("Windows has no runlevels; say have_start_mode")
	case "systemd":
		target := level
		if n, err := strconv.Atoi(level); err == nil {
			target = map[int]string{0: "poweroff", 1: "rescue", 2: "multi-user", 3: "multi-user", 4: "multi-user", 5: "graphical", 6: "reboot"}[n]
		}
		target = strings.TrimSuffix(target, ".target")
		dirs = []string{target + ".target.wants", target + ".target.requires"}
		if target == "graphical" { // it pulls multi-user in
			dirs = append(dirs, "multi-user.target.wants", "multi-user.target.requires")
		}
		dirs = append(dirs, "rc"+level+".d") // a generated unit
	case "openrc":
		dirs = []string{level}
	case "sysv":
		dirs = []string{"rc" + level + ".d"}
	default:
		return u.enabled()
	}
	if ok, said, err := u.enabled(); err != nil || !ok {
		return ok, said, err
	}
	for _, l := range u.links {
		if f := strings.Split(l, "/"); len(f) > 1 && slices.Contains(dirs, f[len(f)-2]) {
			return true, links, nil
		}
	}
	return false, links, nil
}
