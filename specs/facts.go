package specs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// counted defines count N TEXT, which says whether the text has N lines; nl is a newline.
const counted = `nl='
'
count() { k=$1; IFS=$nl; set -f; set -- $2; set +f; unset IFS; [ $# = "$k" ]; }
`

// A kind is one kind of fact about a machine: how it is asked for and how the
// answer is read.
type kind struct {
	name string
	// hidden gives the subject to the script as the variable I, so that it is on
	// no command line. It goes with each.
	hidden bool
	// script gets the subjects as its arguments, and is for a POSIX shell. It has to say outright that
	// something is missing: silence is an error. Empty: the subject is itself
	// the script.
	script string
	// each asks for one subject at a time; otherwise one script asks for all.
	each bool
	// within is a kind whose facts hold all of this one's, and take more to find out.
	// It is asked instead where it is asked anyway, and on Windows.
	within *kind
	// windows says that only Windows has it. How Windows is asked, windowsKinds says.
	windows bool
	// read gives each subject's fact. An error stands for all the subjects.
	read func(a answer, subjects []string) (facts, error)
	// outside gives the fact in place of script and read: it is found out from
	// this host, not by the machine's shell.
	outside func(ctx context.Context, o *outside, key string) (any, error)
}

// facts holds one kind's facts by subject: a value of the kind's own type, or an error.
type facts map[string]any

// missing is the error of a property whose subject does not exist. Such a
// check fails, negated or not: what is missing has no properties.
type missing string

func (m missing) Error() string { return string(m) }

// errUnsupported marks what no retry will change.
var errUnsupported = errors.New("not possible on this machine")

func unsupported(why string) error { return fmt.Errorf("%w: %s", errUnsupported, why) }

// failed is the error of a script that ended with a status of its own.
func failed(a answer, what string) error {
	said := strings.TrimSpace(string(a.errOut))
	if said == "" {
		return fmt.Errorf("%s ended with exit status %d", what, a.status)
	}
	return fmt.Errorf("%s ended with exit status %d: %s", what, a.status, Clean(said))
}

// gone says whether a system call's error, as a tool printed it in English at
// the end of a line, means that a file does not exist.
func gone(said string) bool {
	said = strings.TrimSpace(said)
	said = said[strings.LastIndex(said, ": ")+1:]
	switch strings.TrimSpace(said) {
	case "No such file or directory", "Not a directory":
		return true
	}
	return false
}

func lines(b []byte) []string {
	s := strings.TrimSuffix(string(b), "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// wider is the kind that k is within, or k.
func (k *kind) wider() *kind {
	if k.within != nil {
		return k.within
	}
	return k
}

// one makes the reader of a kind that asks for each subject alone.
func one(read func(a answer) (any, error)) func(answer, []string) (facts, error) {
	return func(a answer, subjects []string) (facts, error) {
		v, err := read(a)
		if err != nil {
			v = err
		}
		return facts{subjects[0]: v}, nil
	}
}

// Packages.

type pkg struct {
	manager  string
	versions []string // of what is installed completely
	state    string   // of what is known but not installed
}

var packages = &kind{
	name: "package",
	script: `if [ -s /var/lib/dpkg/status ] && command -v dpkg-query >/dev/null; then
	echo dpkg
	exec dpkg-query -W -f '${Package}\t${Architecture}\t${db:Status-Status}\t${Version}\n' "$@"
elif command -v apk >/dev/null; then
	echo apk
	exec apk info -v
elif [ -d /var/lib/pacman/local ]; then
	echo pacman
	exec pacman -Q "$@"
elif command -v rpm >/dev/null; then
	echo rpm
	exec rpm -q --qf '%{NAME}\t%{ARCH}\tinstalled\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n' "$@"
fi
echo none`,
	read: readPackages,
}

// notFound is how each package manager says that it does not know a package.
var notFound = map[string]string{
	"dpkg":   "dpkg-query: no packages found matching %s",
	"rpm":    "package %s is not installed",
	"pacman": "error: package '%s' was not found",
}

func readPackages(a answer, subjects []string) (facts, error) {
	out := lines(a.out)
	if len(out) == 0 {
		return nil, failed(a, "the question for packages")
	}
	manager, out := out[0], out[1:]
	said := lines(a.errOut)
	got := map[string]*pkg{}
	know := func(name, state, version string) {
		if got[name] == nil {
			got[name] = &pkg{manager: manager}
		}
		if state == "installed" {
			got[name].versions = append(got[name].versions, version)
		} else {
			got[name].state = state
		}
	}
	switch manager {
	case "dpkg", "rpm":
		// rpm says "not installed" even when it cannot read its database.
		if i := slices.IndexFunc(said, func(l string) bool { return strings.HasPrefix(l, "error: ") }); i >= 0 || a.status > 1 && manager == "dpkg" {
			return nil, failed(a, manager)
		}
		for _, l := range out {
			if f := strings.Split(l, "\t"); len(f) == 4 {
				know(f[0], f[2], f[3])
				know(f[0]+":"+f[1], f[2], f[3]) // Debian's qualified name
				know(f[0]+"."+f[1], f[2], f[3]) // rpm's
			}
		}
	case "pacman":
		for _, l := range out {
			if name, version, ok := strings.Cut(l, " "); ok {
				know(name, "installed", version)
			}
		}
	case "apk":
		for _, l := range out {
			if m := apkLine.FindStringSubmatch(l); m != nil {
				know(m[1], "installed", m[2])
			}
		}
		if a.status != 0 || len(got) == 0 {
			return nil, failed(a, "apk")
		}
	case "none":
		return nil, unsupported("none of dpkg-query, apk, pacman and rpm is there")
	default:
		return nil, fmt.Errorf("an unknown package manager answered: %s", Clean(manager))
	}
	result := facts{}
	for _, s := range subjects {
		switch absent := fmt.Sprintf(notFound[manager], s); {
		case got[s] != nil:
			result[s] = *got[s]
		case manager == "apk", slices.Contains(said, absent), slices.Contains(out, absent):
			result[s] = pkg{manager: manager}
		default:
			result[s] = fmt.Errorf("%s gave no answer for %s; is it a package's exact name?", manager, s)
		}
	}
	return result, nil
}

var apkLine = regexp.MustCompile(`^(\S+?)-(\d[^-\s]*-r\d+)$`)

// Services.

type unit struct {
	init    string // what runs: systemd, openrc, sysv or none
	manager string // what is installed, running or not
	props   map[string]string
	links   []string // boot links of OpenRC and sysv
}

var services = &kind{
	name: "service",
	script: counted + `if [ -d /run/systemd/system ]; then i=systemd
elif [ -e /run/openrc/softlevel ]; then i=openrc
elif read -r c </proc/1/comm && [ "$c" = init ] && [ -d /etc/init.d ]; then i=sysv
else i=none; fi
if [ $i = openrc ]; then m=openrc
elif command -v systemctl >/dev/null; then m=systemd
elif [ -d /etc/runlevels ]; then m=openrc
elif [ -d /etc/init.d ]; then m=sysv
else m=none; fi
echo "Init=$i"; echo "Manager=$m"
printf 'Link=%s\n' /etc/runlevels/*/* /etc/rc[2345S].d/S* /etc/systemd/system/*.wants/* /etc/systemd/system/*.requires/*
echo
if [ $i = systemd ]; then
	exec systemctl show --no-pager -p LoadState -p ActiveState -p SubState -p Result -p UnitFileState -- "$@"
fi
# One line for each, unless one is not known.
a=
if [ $m = systemd ] && [ $# -gt 1 ]; then
	a=$(systemctl is-enabled -- "$@" 2>/dev/null)
	count $# "$a" || a=
fi
for u; do
	if [ $m = systemd ]; then
		if [ -n "$a" ]; then
			s=${a%%"$nl"*} a=${a#*"$nl"}
		else
			s=$(systemctl is-enabled -- "$u" 2>&1 | tail -n 1)
		fi
		case $s in alias)
			case $u in *.*) f=$u;; *) f=$u.service;; esac
			for d in /etc /run /usr/local/lib /usr/lib /lib; do
				if [ -e "$d/systemd/system/$f" ]; then f=$(readlink -f "$d/systemd/system/$f"); break; fi
			done
			s=$(systemctl is-enabled -- "${f##*/}" 2>&1 | tail -n 1)
		esac
		echo "UnitFileState=$s"
	fi
	[ -e "/etc/init.d/$u" ] && echo Script=yes
	case $i in
	openrc) rc-service "$u" status >/dev/null 2>&1; echo "Status=$?";;
	sysv) [ -x "/etc/init.d/$u" ] && { "/etc/init.d/$u" status >/dev/null 2>&1; echo "Status=$?"; };;
	esac
	echo
done`,
	read: readServices,
}

func readServices(a answer, subjects []string) (facts, error) {
	head, rest, _ := strings.Cut(string(a.out), "\n\n")
	common := unit{props: map[string]string{}}
	for _, l := range strings.Split(head, "\n") {
		switch k, v, _ := strings.Cut(l, "="); k {
		case "Init":
			common.init = v
		case "Manager":
			common.manager = v
		case "Link":
			common.links = append(common.links, v)
		}
	}
	if a.status != 0 || common.init == "" || common.manager == "" {
		return nil, failed(a, "the question for services")
	}
	// One block for each service, in order; a block may be empty.
	blocks := [][]string{nil}
	for _, l := range strings.Split(strings.TrimSuffix(rest, "\n"), "\n") {
		if l == "" {
			blocks = append(blocks, nil)
		} else {
			blocks[len(blocks)-1] = append(blocks[len(blocks)-1], l)
		}
	}
	if len(blocks) == len(subjects)+1 && blocks[len(subjects)] == nil {
		blocks = blocks[:len(subjects)]
	}
	if len(blocks) != len(subjects) {
		return nil, fmt.Errorf("%d answers to %d questions for services", len(blocks), len(subjects))
	}
	result := facts{}
	for i, s := range subjects {
		u := unit{init: common.init, manager: common.manager, props: map[string]string{}}
		for _, l := range blocks[i] {
			k, v, _ := strings.Cut(l, "=")
			u.props[k] = v
		}
		for _, l := range common.links {
			name := path.Base(l)
			if path.Base(path.Dir(l)) == "shutdown" {
				continue
			}
			if name == s || name == s+".service" || len(name) > 3 && name[3:] == strings.TrimSuffix(s, ".service") {
				u.links = append(u.links, l)
			}
		}
		result[s] = u
	}
	return result, nil
}

// running says whether the service itself runs, as its manager knows it.
func (u unit) running() (bool, string, error) {
	switch u.init {
	case "windows":
		return u.props["State"] == "Running", "State=" + u.props["State"], nil
	case "systemd":
		load, active := u.props["LoadState"], u.props["ActiveState"]
		if active == "" {
			return false, "", errors.New("systemctl did not say the unit's state")
		}
		actual := fmt.Sprintf("LoadState=%s ActiveState=%s SubState=%s", load, active, u.props["SubState"])
		if r := u.props["Result"]; r != "" && r != "success" {
			actual += " Result=" + r
		}
		return active == "active" || active == "reloading", actual, nil
	case "openrc", "sysv":
		if u.props["Script"] == "" {
			return false, "no such service in /etc/init.d", nil
		}
		actual := "its status command gives " + u.props["Status"]
		switch u.props["Status"] {
		case "0":
			return true, "running", nil
		// The LSB says 1 to 3 for "not running"; OpenRC 3, and 4 to 32 for states between.
		case "1", "2", "3", "4", "8", "16", "32":
			return false, actual, nil
		}
		return false, "", errors.New(actual)
	case "none":
		return false, "", unsupported("no service manager runs here")
	}
	return false, "", fmt.Errorf("an unknown service manager answered: %s", Clean(u.init))
}

// enabled says whether the service starts with the machine.
func (u unit) enabled() (bool, string, error) {
	links := "no boot link"
	if len(u.links) > 0 {
		links = "linked from " + strings.Join(u.links, ", ")
	}
	switch u.manager {
	case "windows":
		return u.props["StartMode"] == "Auto", "StartMode=" + u.startMode(), nil
	case "systemd":
		switch state := u.props["UnitFileState"]; {
		case state == "enabled":
			return true, state, nil
		case state == "generated": // from an init script
			return len(u.links) > 0, "generated, " + links, nil
		case slices.Contains([]string{"enabled-runtime", "linked", "linked-runtime", "alias", "masked", "masked-runtime",
			"static", "indirect", "disabled", "transient"}, state):
			return false, state, nil
		case u.props["LoadState"] == "not-found", state == "not-found", gone(state):
			return false, "no such unit", nil
		default:
			return false, "", fmt.Errorf("systemctl gives the unit file state %q", Clean(state))
		}
	case "openrc", "sysv":
		if u.props["Script"] == "" {
			return false, "no such service in /etc/init.d", nil
		}
		return len(u.links) > 0, links, nil
	case "none":
		return false, "", unsupported("no service manager is installed")
	}
	return false, "", fmt.Errorf("an unknown service manager answered: %s", Clean(u.manager))
}

// Ports.

type listener struct {
	udp  bool
	six  bool // a socket of IPv6, whatever it takes
	addr netip.AddrPort
	// only6 of a [::] listener: "1" when it does not take IPv4, "0" when it
	// does, "" when nobody can tell.
	only6 string
}

func (l listener) String() string {
	if l.udp {
		return "udp " + l.addr.String()
	}
	return "tcp " + l.addr.String()
}

var sockets = &kind{
	name: "port",
	// ss asks the kernel for what listens; /proc/net lists all connections, which
	// takes long where there are many. One that knows 0.0.0.0 or [::] (since 4.14)
	// says the latter of what is for IPv6 only, and * of other sockets of IPv6, or of
	// all that it has from /proc/net. An earlier one says * of all of IPv4. Where there
	// is a *, it has to say v6only, for which it looks at every cgroup, too (-e).
	// It is not heard if it does not, says nothing, or has something to say on stderr.
	script: `nl='
'
w=ss
o=$(ss -H -tunl 2>&1) || o=
case $nl$o in
"$nl") ;;
*" *:"*) w=ss-e ;;
*" 0.0.0.0:"* | *" [::]:"*) ;;
*) w=ss-e ;;
esac
if [ $w = ss-e ]; then
	o=$(ss -H -tunle 2>&1) || o=
	case $o in *" *:"*) case $o in *v6only:*) ;; *) o= ;; esac ;; esac
fi
case $nl$o in *"$nl"[!tu]*) o= ;; esac
if [ -n "$o" ]; then echo "$w$nl$o"; exit 0; fi
{ read -r f </proc/net/tcp; } || exit
f=
for p in tcp tcp6 udp udp6; do [ -e /proc/net/$p ] && f="$f $p"; done
echo "=$f"
cd /proc/net && exec grep -h -E '^ *sl | 0[7A] ' $f`,
	read: readSockets,
}

func readSockets(a answer, subjects []string) (facts, error) {
	if a.status != 0 {
		return nil, failed(a, "the question for listening sockets")
	}
	out := lines(a.out)
	if len(out) == 0 {
		return nil, failed(a, "the question for listening sockets")
	}
	read := readSocketTables
	if out[0] == "ss" || out[0] == "ss-e" {
		read = readSS
	}
	all, err := read(out)
	if err != nil {
		return nil, err
	}
	result := facts{}
	for _, s := range subjects {
		here := []listener{}
		for _, l := range all {
			if strconv.Itoa(int(l.addr.Port())) == s {
				here = append(here, l)
			}
		}
		result[s] = here
	}
	return result, nil
}

var v6only = regexp.MustCompile(` v6only:([01])`)

// readSS reads lines such as
//
//	tcp LISTEN 0 128 [::]:443 [::]:*
//	tcp LISTEN 0 128 [::]:443 [::]:* ino:13 sk:1 v6only:0 <->
func readSS(out []string) (all []listener, err error) {
	extended := out[0] == "ss-e"
	for _, line := range out[1:] {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != "tcp" && f[0] != "udp" {
			return nil, fmt.Errorf("not a line about a socket: %s", Clean(line))
		}
		l := listener{udp: f[0] == "udp"}
		// The last one: the path of a cgroup may be like it.
		if all := v6only.FindAllStringSubmatch(line, -1); extended && all != nil {
			l.six, l.only6 = true, all[len(all)-1][1]
		}
		colon := max(strings.LastIndexByte(f[4], ':'), 0)
		host, _, _ := strings.Cut(f[4][:colon], "%") // a device that it is bound to
		host = strings.Trim(host, "[]")
		if host == "*" && l.six {
			host = "::"
		}
		addr, err := netip.ParseAddr(host)
		port, errPort := strconv.ParseUint(strings.TrimPrefix(f[4][colon:], ":"), 10, 16)
		if err != nil || errPort != nil {
			return nil, fmt.Errorf("not a socket's address: %s", Clean(f[4]))
		}
		l.six = l.six || addr.Is6()
		if !extended && addr == netip.IPv6Unspecified() {
			l.only6 = "1"
		}
		l.addr = netip.AddrPortFrom(addr.Unmap(), uint16(port))
		all = append(all, l)
	}
	return all, nil
}

// readSocketTables reads what is in /proc/net.
func readSocketTables(out []string) (all []listener, err error) {
	names, ok := strings.CutPrefix(out[0], "=")
	if !ok {
		return nil, fmt.Errorf("not a list of tables of sockets: %s", Clean(out[0]))
	}
	tables, table := strings.Fields(names), -1
	for _, l := range out[1:] {
		f := strings.Fields(l)
		if len(f) > 0 && f[0] == "sl" {
			table++
			continue
		}
		// sl, local address, remote address, state, …
		if len(f) < 4 || table < 0 || table >= len(tables) {
			return nil, fmt.Errorf("not a line about a socket: %s", Clean(l))
		}
		udp := strings.HasPrefix(tables[table], "udp")
		if (f[3] == "07") != udp { // connected, or the way there
			continue
		}
		addr, err := parseHexAddr(f[1])
		if err != nil {
			return nil, err
		}
		all = append(all, listener{udp: udp, six: strings.HasSuffix(tables[table], "6"), addr: addr})
	}
	if table+1 != len(tables) {
		return nil, fmt.Errorf("%d of %d tables of sockets came", table+1, len(tables))
	}
	return all, nil
}

// parseHexAddr reads the kernel's notation: 32-bit words, each in the byte
// order of the machine, which is taken to be little-endian.
func parseHexAddr(s string) (netip.AddrPort, error) {
	bad := fmt.Errorf("not a socket's address: %s", Clean(s))
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, errPort := strconv.ParseUint(port, 16, 16)
	if err != nil || errPort != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, bad
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), nil
}

// Files.

type fileStat struct {
	mode                         uint32 // type and permissions, as stat(2) has them
	uid, gid, size, owner, group string
	noOwner                      error // why the owner and the group are not known
}

type file struct {
	link   bool      // the path itself is a symbolic link
	self   *fileStat // the path itself
	target *fileStat // what it leads to
	why    missing   // why there is no target
	// windows: names of accounts and paths know no case.
	windows bool
}

var files = &kind{
	name: "file",
	script: `f='%f:%u:%g:%s:%U:%G:%n'
stat -c "l:$f" -- "$@" 2>/dev/null
l=
for p; do [ -L "$p" ] && l=1; done
[ -z "$l" ] || stat -L -c "t:$f" -- "$@" 2>/dev/null
for p; do
	[ -e "$p" ] && continue
	# What nothing on the way can hide is missing, and need not be asked about.
	d=$p
	until [ -d "$d" ]; do case $d in */*) d=${d%/*}; d=${d:-/};; *) d=.;; esac; done
	c=${p#"$d"}; c=${c#/}; c=$d/${c%%/*}
	e=': No such file or directory'
	if ! [ -x "$d" ] || [ -e "$c" ] || [ -L "$c" ]; then e=$(stat -L -c . -- "$p" 2>&1); fi
	printf 'm:%s:%s\n' "${e##*: }" "$p"
done
exit 0`,
	read: readFiles,
}

func readFiles(a answer, subjects []string) (facts, error) {
	result := facts{}
	got := map[string]file{}
	for _, l := range lines(a.out) {
		tag, rest, _ := strings.Cut(l, ":")
		if tag == "m" {
			reason, p, _ := strings.Cut(rest, ":")
			f := got[p]
			f.target, f.why = nil, missing("no such file")
			if f.link {
				f.why = "a symbolic link to nothing"
			}
			got[p] = f
			if !gone(": " + reason) {
				result[p] = fmt.Errorf("stat: %s", Clean(reason))
			}
			continue
		}
		w := strings.SplitN(rest, ":", 7)
		if len(w) != 7 || tag != "l" && tag != "t" {
			return nil, fmt.Errorf("not a line about a file: %s", Clean(l))
		}
		mode, err := strconv.ParseUint(w[0], 16, 32)
		if err != nil {
			return nil, fmt.Errorf("not a file's mode: %s", Clean(w[0]))
		}
		f, stat := got[w[6]], &fileStat{mode: uint32(mode), uid: w[1], gid: w[2], size: w[3], owner: w[4], group: w[5]}
		if tag == "l" {
			f.self, f.link = stat, mode&0o170000 == 0o120000
		}
		if tag == "t" || !f.link { // what is no link leads to itself
			f.target = stat
		}
		got[w[6]] = f
	}
	for _, s := range subjects {
		f, ok := got[s]
		switch {
		case result[s] != nil:
		case !ok || f.target == nil && f.why == "":
			result[s] = failed(a, "the question for "+s)
		default:
			result[s] = f
		}
	}
	return result, nil
}

// typ is what kind of file a path leads to.
func (s fileStat) typ() string {
	switch s.mode & 0o170000 {
	case 0o100000:
		return "file"
	case 0o040000:
		return "directory"
	case 0o010000:
		return "pipe"
	case 0o140000:
		return "socket"
	case 0o060000:
		return "block device"
	case 0o020000:
		return "character device"
	}
	return "unknown"
}

// maxContent is how much of a file a spec looks at.
const maxContent = 1 << 20

var contents = &kind{
	name:   "content",
	each:   true,
	script: fmt.Sprintf(`exec head -c %d -- "$1"`, maxContent+1),
	read: one(func(a answer) (any, error) {
		switch {
		case a.status != 0 && gone(string(a.errOut)):
			return nil, missing("no such file")
		case a.status != 0:
			return nil, failed(a, "head")
		case len(a.out) > maxContent:
			return nil, fmt.Errorf("the file is longer than the %d bytes that a spec reads", maxContent)
		}
		return string(a.out), nil
	}),
}

var linkTargets = &kind{
	name:   "link target",
	each:   true,
	script: `[ -L "$1" ] || { stat -c . -- "$1" >/dev/null && echo "not a symbolic link" >&2; exit 1; }; exec readlink -- "$1"`,
	read: one(func(a answer) (any, error) {
		said := strings.TrimSpace(string(a.errOut))
		switch {
		case a.status != 0 && gone(said):
			return nil, missing("no such file")
		case a.status != 0 && said == "not a symbolic link":
			return nil, missing(said)
		case a.status != 0:
			return nil, failed(a, "readlink")
		}
		return strings.TrimSuffix(string(a.out), "\n"), nil
	}),
}

// checksum makes the kind of fact that a tool such as sha256sum gives.
func checksum(tool string) *kind {
	return &kind{
		name:   tool,
		each:   true,
		script: `exec ` + tool + ` -- "$1"`,
		read: one(func(a answer) (any, error) {
			sum, _, _ := strings.Cut(strings.TrimPrefix(string(a.out), `\`), " ")
			switch {
			case a.status != 0 && gone(string(a.errOut)):
				return nil, missing("no such file")
			case a.status != 0:
				return nil, failed(a, tool)
			}
			return sum, nil
		}),
	}
}

var sha256sums, md5sums = checksum("sha256sum"), checksum("md5sum")

// Users and groups.

type user struct {
	uid, gid, home, shell string
	primary               string // the primary group's name
	groups                []string
	gids                  []string
	loginDefs
	// windows: uid is a SID, and names know no case.
	windows bool
}

type group struct {
	gid     string
	members []string
	loginDefs
	windows bool // as a user's
}

// lookup is getent, or the whole database where that is missing; status 2
// only says that not all names were found.
const lookup = `g() { if command -v getent >/dev/null; then getent "$@"; r=$?; [ $r = 2 ] && r=0; return $r; else cat "/etc/$1"; fi; }
`

// defs prints where the ids of the system end.
const defs = `[ -r /etc/login.defs ] && sed -n 's/^[[:blank:]]*SYS_\([UG]\)ID_MAX[[:blank:]][[:blank:]]*\([0-9][0-9]*\).*/*\1 \2/p' /etc/login.defs
`

// readDef takes a line that defs prints.
func (d loginDefs) readDef(l string) bool {
	for prefix, name := range map[string]string{"*U ": "sys_user_max", "*G ": "sys_group_max"} {
		if n, ok := strings.CutPrefix(l, prefix); ok {
			d[name] = n
			return true
		}
	}
	return false
}

// accounts is what getent alone can say of users, in one process.
var accounts = &kind{
	name: "account", within: users,
	script: `command -v getent >/dev/null || exec cat /etc/passwd
exec getent passwd "$@"`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status == 2 { // not all names were found
			a.status = 0
		}
		return readUsers(a, subjects, false)
	},
}

var users = &kind{
	name: "user",
	script: lookup + defs + counted + `g passwd "$@" || exit
a=
# GNU's id answers for all at once, unless one is not known.
b=
if [ $# -gt 1 ]; then
	b=$(id -G -- "$@" 2>/dev/null) || b=
	count $# "$b" || b=
fi
for u; do
	if [ -n "$b" ]; then
		i=${b%%"$nl"*} b=${b#*"$nl"}
	else
		i=$(id -G -- "$u" 2>/dev/null) || continue
	fi
	echo "=$u:$i"; a="$a $i"
done
echo +
[ -z "$a" ] || g group $a`,
	read: func(a answer, subjects []string) (facts, error) { return readUsers(a, subjects, true) },
}

func readUsers(a answer, subjects []string, groups bool) (facts, error) {
	if a.status != 0 {
		return nil, failed(a, "the question for users")
	}
	known, gids, names := map[string]user{}, map[string][]string{}, map[string]string{}
	limits, inGroups := loginDefs{}, false
	for _, l := range lines(a.out) {
		f := strings.Split(l, ":")
		switch {
		case limits.readDef(l):
		case strings.HasPrefix(l, "=") && len(f) == 2:
			gids[f[0][1:]] = strings.Fields(f[1])
		case l == "+":
			inGroups = true
		case inGroups && len(f) == 4:
			names[f[2]] = f[0]
		case inGroups:
		case len(f) == 7:
			if _, again := known[f[0]]; !again { // the first line is the one that counts
				known[f[0]] = user{uid: f[2], gid: f[3], home: f[5], shell: f[6]}
			}
		}
	}
	result := facts{}
	for _, s := range subjects {
		u, ok := known[s]
		switch {
		case !ok:
			result[s] = missing("no such user")
		case !groups:
			result[s] = u
		case len(gids[s]) == 0:
			result[s] = errors.New("id did not say the user's groups")
		default:
			u.primary, u.gids, u.loginDefs = names[u.gid], gids[s], limits
			for _, id := range u.gids {
				if n, ok := names[id]; ok {
					u.groups = append(u.groups, n)
				}
			}
			result[s] = u
		}
	}
	return result, nil
}

var groups = &kind{
	name:   "group",
	script: lookup + defs + `g group "$@"`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for groups")
		}
		result, limits := facts{}, loginDefs{}
		for _, l := range lines(a.out) {
			if limits.readDef(l) {
				continue
			}
			f := strings.Split(l, ":")
			if len(f) != 4 || !slices.Contains(subjects, f[0]) || result[f[0]] != nil {
				continue
			}
			g := group{gid: f[2], members: []string{}, loginDefs: limits}
			if f[3] != "" {
				g.members = strings.Split(f[3], ",")
			}
			result[f[0]] = g
		}
		for _, s := range subjects {
			if result[s] == nil {
				result[s] = missing("no such group")
			}
		}
		return result, nil
	},
}

// Processes.

type process struct {
	pid, parent, name, state, uid, gid, user, group string
	threads, rss, vsz, args                         string
	hidden                                          []string // what the machine does not say
}

var processes = &kind{
	name: "process",
	script: `echo "self $$"
if ! [ -r /proc/1/status ]; then echo "the processes of other users are hidden; use sudo" >&2; exit 1; fi
grep -H -E '^(Name|State|PPid|Uid|Gid|Threads|VmRSS|VmSize):' /proc/[0-9]*/status 2>/dev/null
e() {
	i=$(sed -n "s/^$2:[[:blank:]]*[0-9]*[[:blank:]]*\([0-9]*\).*/\1/p" /proc/[0-9]*/status 2>/dev/null | sort -u)
	{ if command -v getent >/dev/null; then getent $1 $i; else cat /etc/$1; fi; } | sed "s/^/$1:/"
}
e passwd Uid
e group Gid
for d in /proc/[0-9]*; do
	{ read -r c <$d/comm; } 2>/dev/null || continue
	for p; do
		case $p in "$c"*) printf 'args %s ' "${d#/proc/}"; tr '\0\n' '  ' <$d/cmdline 2>/dev/null; echo;; esac
	done
done
exit 0`,
	read: readProcesses,
}

func readProcesses(a answer, subjects []string) (facts, error) {
	if a.status != 0 {
		return nil, failed(a, "the question for processes")
	}
	all := map[string]*process{}
	names := map[string]map[string]string{"passwd": {}, "group": {}}
	self := ""
	for _, l := range lines(a.out) {
		if pid, ok := strings.CutPrefix(l, "self "); ok {
			self = pid
		}
		if f := strings.Split(l, ":"); len(f) > 3 && names[f[0]] != nil {
			names[f[0]][f[3]] = f[1]
		}
		if pid, rest, ok := strings.Cut(strings.TrimPrefix(l, "args "), " "); ok && strings.HasPrefix(l, "args ") {
			if all[pid] != nil {
				all[pid].args = strings.TrimSpace(rest)
			}
			continue
		}
		pid, rest, ok := strings.Cut(strings.TrimPrefix(l, "/proc/"), "/status:")
		if !ok {
			continue
		}
		if all[pid] == nil {
			all[pid] = &process{pid: pid}
		}
		p := all[pid]
		key, value, _ := strings.Cut(rest, ":")
		value = strings.TrimSpace(value)
		switch f := strings.Fields(value); {
		case key == "Name":
			p.name = value
		case key == "State":
			p.state = value
		case key == "Threads":
			p.threads = value
		case key == "VmRSS" && len(f) == 2:
			p.rss = f[0]
		case key == "VmSize" && len(f) == 2:
			p.vsz = f[0]
		case key == "PPid":
			p.parent = value
		case key == "Uid" && len(f) == 4:
			p.uid = f[1]
		case key == "Gid" && len(f) == 4:
			p.gid = f[1]
		}
	}
	if all[self] == nil {
		return nil, errors.New("/proc does not list the processes")
	}
	// What only runs for the spec's sake is not part of the machine.
	for p := all[self]; p != nil && p.pid != "1" && slices.Contains([]string{"sh", "dash", "bash", "ash", "busybox", "timeout", "sudo"}, p.name); p = all[p.parent] {
		self = p.pid
	}
	ours := func(p *process) bool {
		for range len(all) {
			if p == nil || p.pid == self {
				return p != nil
			}
			p = all[p.parent]
		}
		return false
	}
	result := facts{}
	for _, s := range subjects {
		here := []process{}
		for _, p := range all {
			if p.name != s[:min(len(s), 15)] || strings.HasPrefix(p.state, "Z") || ours(p) {
				continue
			}
			q := *p
			q.user, q.group = names["passwd"][q.uid], names["group"][q.gid]
			here = append(here, q)
		}
		slices.SortFunc(here, func(a, b process) int { return compareDigits(a.pid, b.pid) })
		result[s] = here
	}
	return result, nil
}

// Commands.

type output struct {
	stdout, stderr string
	status         int
}

var commands = &kind{
	name: "command",
	each: true,
	read: one(func(a answer) (any, error) { return output{string(a.out), string(a.errOut), a.status}, nil }),
}
