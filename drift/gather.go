package drift

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/specs"
)

// The bounds of what is gathered. What is beyond them is said to be left out.
const (
	maxEntries = 10000    // of one tree
	maxContent = 8 << 20  // bytes of one file that are looked at
	maxHashed  = 24 << 20 // bytes of one tree's files that are looked at, in the order of their names
	maxOutput  = 32 << 20 // bytes that a machine may answer
	maxLines   = 100000   // packages, accounts, ports
	patience   = time.Minute
)

// trees are the places where a system's configuration lies, with how many
// levels of them are looked at. Programs that packages have brought are theirs;
// what is in /usr/local, nobody else accounts for.
var trees = []Tree{
	{Root: "/etc"},
	{Root: "/usr/lib/systemd/system"},
	{Root: "/lib/systemd/system"},
	{Root: "/usr/local", Depth: 4},
	{Root: "/var/spool/cron"},
}

// secrets are files whose content is never looked at: accounts are facts of
// their own, without the hashes.
const secrets = `/etc/(passwd|group|shadow|gshadow|subuid|subgid|security/opasswd)[-+~]?`

const askPlatform = `echo "kernel $(uname -s)"
echo "arch $(uname -m)"
for f in /etc/os-release /usr/lib/os-release; do [ -r $f ] && { sed -n 's/^ID=["'"'"']\{0,1\}\([A-Za-z0-9._-]*\).*/id \1/p' $f; break; }; done
if [ -d /run/systemd/system ]; then echo "init systemd"
elif [ -e /run/openrc/softlevel ]; then echo "init openrc"
elif read -r c </proc/1/comm && [ "$c" = init ]; then echo "init sysv"
else echo "init none"; fi 2>/dev/null
exit 0`

const askPackages = `if [ -s /var/lib/dpkg/status ] && command -v dpkg-query >/dev/null; then
	echo dpkg
	exec dpkg-query -W -f '${db:Status-Status}\t${Package}\t${Architecture}\t${Version}\n'
elif [ -d /lib/apk/db ] && command -v apk >/dev/null; then
	echo apk
	exec apk info -v
elif [ -d /var/lib/pacman/local ]; then
	echo pacman
	exec pacman -Q
elif [ -d /var/lib/rpm ] || [ -d /usr/lib/sysimage/rpm ]; then
	echo rpm
	exec rpm -qa --qf 'installed\t%{NAME}\t%{ARCH}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n'
fi
echo none`

// askFiles takes ROOT DEPTH… and the bounds. A line is the type, mode, owner,
// group, size and path, a tab and a link's target. GNU find prints that itself;
// elsewhere stat does, which writes a link as 'path' -> 'target'. Names with
// newlines are only counted. Sums come after the lines of a tree.
const askFiles = `most=$1 one=$2 all=$3 secret=$4; shift 4
nl='
'
find --version 2>/dev/null | grep -q GNU && gnu=1 || gnu=
entries() {
	if [ -n "$gnu" ]; then
		find "$1" -maxdepth "$2" -xdev -name "*$nl*" -prune -printf 'odd\n' -o -printf '%y %m %U %G %s %p\t%l\n' | sort -k 6
	else
		find "$1" -maxdepth "$2" -xdev -name "*$nl*" -prune -exec echo odd ';' -o \
			-type l -exec stat -c 'x%f %a %u %g %s %n	%N' {} + -o -exec stat -c 'x%f %a %u %g %s %n	' {} + | sort -k 6
	fi
}
while [ $# -gt 1 ]; do
	d=$1 depth=$2; shift 2
	printf 'tree %s\n' "$d"
	[ "$d" = /lib/systemd/system ] && [ -L /lib ] && { echo absent; continue; }
	[ -d "$d" ] && [ ! -L "$d" ] || { echo absent; continue; }
	list=$(entries "$d" "$depth" | awk -v most="$most" '$1 == "odd" { odd++; next } n == most { print "cut"; exit } { n++; print } END { if (odd) print "odd " odd }')
	printf '%s\n' "$list"
	names=$(printf '%s\n' "$list" | awk -v one="$one" -v all="$all" -v secret="^$secret\$" '
		$1 != "f" && $1 !~ /^x8/ || $5 + 0 > one + 0 { next }
		{ s = $0; for (i = 0; i < 5; i++) s = substr(s, index(s, " ") + 1); sub(/\t$/, "", s) }
		s ~ secret { next }
		{ sum += $5; if (sum > all + 0) exit; print s }')
	[ -n "$names" ] && printf '%s\n' "$names" | tr '\n' '\000' | xargs -0 sha256sum | sed 's/^/sum /'
	echo done
done
exit 0`

const askAccounts = `s=/dev/null; [ -r /etc/shadow ] && s=/etc/shadow
awk -F: -v shadow=$s '
function state(p) { return p == "" ? "empty" : p ~ /^[!*xX]/ ? "locked" : "set" }
FILENAME == shadow { st[$1] = state($2); next }
FILENAME == "/etc/passwd" && NF >= 7 && $1 !~ /^[+-]/ { p = state($2); if ($2 == "x") p = shadow == "/dev/null" ? "unknown" : ($1 in st) ? st[$1] : "locked"
	print "user:" $1 ":" $3 ":" $4 ":" p ":" $6 ":" $7 }
FILENAME == "/etc/group" && NF >= 4 && $1 !~ /^[+-]/ { print "group:" $1 ":" $3 ":" $4 }' $s /etc/passwd /etc/group && echo end`

const askServices = `case $1 in
systemd)
	[ -n "$2" ] && systemctl is-system-running --wait >/dev/null 2>&1
	systemctl list-units --all --plain --no-legend --no-pager --full --type=service --state=running,failed | awk 'NF > 3 { print "unit", $1, $3, $4 }'
	echo end;;
openrc)
	rc-status --servicelist | sed -n 's/^ *\([^ ]*\) *\[ *\([a-z]*\) .*/unit \1 \2 \2/p'
	echo end;;
esac`

// The kernel gives a file of /proc/sys in one read or not at all, and shells
// read byte by byte.
const askPorts = `awk '{ print "ephemeral", $1, $2 }' /proc/sys/net/ipv4/ip_local_port_range || exit
for f in tcp tcp6 udp udp6; do
	[ -r /proc/net/$f ] || continue
	awk -v f=$f 'FNR > 1 && (f ~ /^tcp/ && $4 == "0A" || f ~ /^udp/ && $4 == "07") { print f, $2 }' /proc/net/$f
done
echo end`

// parameters are those that configuration sets and that do not follow from the
// hardware.
const parameters = `kernel.randomize_va_space kernel.kptr_restrict kernel.dmesg_restrict kernel.yama.ptrace_scope kernel.sysrq kernel.core_pattern
kernel.core_uses_pid kernel.panic kernel.panic_on_oops kernel.modules_disabled kernel.perf_event_paranoid kernel.unprivileged_bpf_disabled
kernel.unprivileged_userns_clone kernel.kexec_load_disabled kernel.shmmax kernel.shmall kernel.msgmax kernel.sem
fs.protected_hardlinks fs.protected_symlinks fs.protected_fifos fs.protected_regular fs.suid_dumpable fs.aio-max-nr
vm.swappiness vm.overcommit_memory vm.overcommit_ratio vm.max_map_count vm.dirty_ratio vm.dirty_background_ratio vm.mmap_min_addr vm.panic_on_oom
net.core.somaxconn net.core.rmem_max net.core.wmem_max net.core.default_qdisc net.core.bpf_jit_harden
net.ipv4.ip_forward net.ipv4.tcp_syncookies net.ipv4.tcp_timestamps net.ipv4.tcp_congestion_control net.ipv4.tcp_fin_timeout
net.ipv4.tcp_keepalive_time net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_tw_reuse net.ipv4.tcp_rfc1337 net.ipv4.ip_local_port_range
net.ipv4.ip_unprivileged_port_start net.ipv4.ping_group_range
net.ipv4.icmp_echo_ignore_all net.ipv4.icmp_echo_ignore_broadcasts net.ipv4.icmp_ignore_bogus_error_responses
net.ipv4.conf.all.accept_redirects net.ipv4.conf.default.accept_redirects net.ipv4.conf.all.secure_redirects net.ipv4.conf.default.secure_redirects
net.ipv4.conf.all.send_redirects net.ipv4.conf.default.send_redirects net.ipv4.conf.all.accept_source_route net.ipv4.conf.default.accept_source_route
net.ipv4.conf.all.rp_filter net.ipv4.conf.default.rp_filter net.ipv4.conf.all.log_martians net.ipv4.conf.default.log_martians
net.ipv4.conf.all.forwarding net.ipv4.conf.default.forwarding
net.ipv6.conf.all.disable_ipv6 net.ipv6.conf.default.disable_ipv6 net.ipv6.conf.all.forwarding net.ipv6.conf.default.forwarding
net.ipv6.conf.all.accept_ra net.ipv6.conf.default.accept_ra net.ipv6.conf.all.accept_redirects net.ipv6.conf.default.accept_redirects
net.ipv6.conf.all.accept_source_route net.ipv6.conf.default.accept_source_route net.ipv6.bindv6only
net.bridge.bridge-nf-call-iptables user.max_user_namespaces`

// A parameter's dots are the path's slashes; none of these has dots in a part.
const askKernel = `cd /proc/sys || exit
for k; do
	shift; f= r=$k
	while :; do case $r in *.*) f=$f${r%%.*}/ r=${r#*.};; *) f=$f$r; break;; esac; done
	[ -r "$f" ] && set -- "$@" "$f"
done
awk 'FNR == 1 { print FILENAME, $0 }' "$@" && echo end`

// Gather asks a machine for its facts in one round trip, as root. After a clean
// boot of the image, or on a machine that is in use, that is with services,
// ports and kernel parameters. wait has it wait first until the boot is over,
// where the machine's init can tell.
//
// The error says that the machine could not be asked. What it has no answer to
// stands in Unknown.
func Gather(ctx context.Context, m machine.Machine, booted, wait bool) (*Facts, error) {
	args := []string{strconv.Itoa(maxEntries), strconv.Itoa(maxContent), strconv.Itoa(maxHashed), secrets}
	for _, t := range trees {
		depth := t.Depth
		if depth == 0 {
			depth = 64
		}
		args = append(args, t.Root, strconv.Itoa(depth))
	}
	questions := []specs.Question{
		{Script: askPlatform, Timeout: patience},
		{Script: askPackages, Timeout: patience},
		{Script: askFiles, Args: args, Timeout: patience},
		{Script: askAccounts, Timeout: patience},
	}
	if booted {
		waits := ""
		if wait {
			waits = "wait"
		}
		// Which init runs is asked for in the same script, so that it is one round trip.
		services := "set -- \"$({\n" + askPlatform + "\n} | sed -n 's/^init //p')\" \"$1\"\n" + askServices
		questions = append(questions,
			specs.Question{Script: services, Args: []string{waits}, Timeout: patience},
			specs.Question{Script: askPorts, Timeout: patience},
			specs.Question{Script: askKernel, Args: strings.Fields(parameters), Timeout: patience})
	}
	replies, err := specs.RunScripts(ctx, m, questions, true, maxOutput)
	if err != nil {
		return nil, fmt.Errorf("ask for the machine's facts: %w", err)
	}
	f := &Facts{Booted: booted, Unknown: map[string]string{}}
	if f.Platform, err = readPlatform(replies[0]); err != nil {
		return nil, fmt.Errorf("ask which system it is: %w", err)
	}
	unknown := func(section string, err error) {
		if err != nil {
			f.Unknown[section] = specs.Clean(err.Error())
		}
	}
	f.Packages, err = readPackages(replies[1])
	unknown(SectionPackages, err)
	f.Files, err = readFiles(replies[2])
	unknown(SectionFiles, err)
	f.Users, f.Groups, err = readAccounts(replies[3])
	unknown(SectionAccounts, err)
	if !booted {
		for _, s := range []string{SectionServices, SectionPorts, SectionKernel} {
			f.Unknown[s] = "the facts were gathered before the snapshot, and what a clean boot brings was not known"
		}
		return f, nil
	}
	f.Services, err = readServices(replies[4], f.Platform.Init)
	unknown(SectionServices, err)
	f.Ports, err = readPorts(replies[5])
	unknown(SectionPorts, err)
	f.Kernel, err = readKernel(replies[6])
	unknown(SectionKernel, err)
	return f, nil
}

// lines takes a reply apart. What a script said on its error output makes the
// answer doubtful, but that a file has just gone.
func lines(r specs.Reply) ([]string, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	for l := range strings.Lines(string(r.ErrOut)) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasSuffix(l, "No such file or directory") {
			return nil, fmt.Errorf("the machine said: %s", specs.Clean(l))
		}
	}
	if r.Status != 0 {
		return nil, fmt.Errorf("the question ended with exit status %d", r.Status)
	}
	return strings.Split(strings.TrimSuffix(string(r.Out), "\n"), "\n"), nil
}

// whole is lines up to the one that says that all have come.
func whole(r specs.Reply) ([]string, error) {
	ls, err := lines(r)
	switch {
	case err != nil:
		return nil, err
	case ls[len(ls)-1] != "end":
		return nil, errors.New("the answer broke off")
	case len(ls) > maxLines:
		return nil, fmt.Errorf("the answer has more than %d lines", maxLines)
	}
	return ls[:len(ls)-1], nil
}

func wrong(what, line string) error { return fmt.Errorf("not %s: %s", what, specs.Clean(line)) }

// text makes valid UTF-8 of a machine's text, so that two different ones never
// become the same.
func text(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, `"`) {
		return s
	}
	return strconv.QuoteToASCII(s)
}

func readPlatform(r specs.Reply) (Platform, error) {
	ls, err := lines(r)
	if err != nil {
		return Platform{}, err
	}
	var p Platform
	for _, l := range ls {
		switch k, v, _ := strings.Cut(l, " "); k {
		case "kernel":
			p.Kernel = strings.ToLower(text(v))
		case "arch":
			p.Arch = text(v)
		case "id":
			p.ID = text(v)
		case "init":
			p.Init = v
		}
	}
	if p.Kernel != "linux" {
		return p, fmt.Errorf("its kernel is %q, and facts are known of Linux only", specs.Clean(p.Kernel))
	}
	switch p.Init {
	case "systemd", "openrc", "sysv", "none":
		return p, nil
	}
	return p, wrong("an init", p.Init)
}

func readPackages(r specs.Reply) (Packages, error) {
	if r.Err != nil {
		return Packages{}, r.Err
	}
	manager, rest, _ := bytes.Cut(r.Out, []byte("\n"))
	p := Packages{Manager: string(manager), Installed: map[string]string{}}
	if p.Manager == "none" {
		return p, nil
	}
	r.Out = rest
	ls, err := lines(r)
	if err != nil {
		return Packages{}, err
	}
	if len(ls) > maxLines {
		return Packages{}, fmt.Errorf("the answer has more than %d lines", maxLines)
	}
	type one struct{ name, arch, version string }
	var all []one
	names := map[string]int{}
	for _, l := range ls {
		o := one{}
		switch p.Manager {
		case "dpkg", "rpm":
			f := strings.Split(l, "\t")
			if len(f) != 4 || f[1] == "" {
				return Packages{}, wrong("a package", l)
			}
			if f[0] != "installed" {
				continue // its configuration is left, or it is half there
			}
			o = one{f[1], f[2], f[3]}
		case "pacman":
			var ok bool
			if o.name, o.version, ok = strings.Cut(l, " "); !ok || o.name == "" {
				return Packages{}, wrong("a package", l)
			}
		case "apk": // name-1.2.3-r0
			i := strings.LastIndexByte(l, '-')
			if i > 0 {
				i = strings.LastIndexByte(l[:i], '-')
			}
			if i <= 0 {
				return Packages{}, wrong("a package", l)
			}
			o = one{name: l[:i], version: l[i+1:]}
		default:
			return Packages{}, wrong("a package manager that is known", p.Manager)
		}
		names[o.name]++
		all = append(all, o)
	}
	if len(all) == 0 {
		return Packages{}, fmt.Errorf("%s named no package at all", p.Manager)
	}
	arches := map[string]map[string]bool{}
	for _, o := range all {
		if arches[o.name] == nil {
			arches[o.name] = map[string]bool{}
		}
		arches[o.name][o.arch] = true
	}
	for _, o := range all {
		key := text(o.name)
		if len(arches[o.name]) > 1 {
			key += ":" + text(o.arch)
		}
		if have := p.Installed[key]; have != "" {
			vs := append(strings.Fields(have), text(o.version))
			slices.Sort(vs)
			p.Installed[key] = strings.Join(vs, " ")
		} else {
			p.Installed[key] = text(o.version)
		}
	}
	return p, nil
}

func readFiles(r specs.Reply) ([]Tree, error) {
	ls, err := lines(r)
	if err != nil {
		return nil, err
	}
	var out []Tree
	var t *Tree
	for _, l := range ls {
		if t == nil {
			if len(out) == len(trees) || l != "tree "+trees[len(out)].Root {
				return nil, wrong("the tree that was asked for", l)
			}
			out = append(out, Tree{Root: trees[len(out)].Root, Depth: trees[len(out)].Depth, Entries: map[string]Entry{}})
			t = &out[len(out)-1]
			continue
		}
		word, rest, _ := strings.Cut(l, " ")
		switch word {
		case "done":
			if _, ok := t.Entries[t.Root]; !ok {
				return nil, fmt.Errorf("%s is not among what it holds", t.Root)
			}
			t = nil
		case "absent":
			t.Absent = true
			t = nil
		case "cut":
			for p := range t.Entries {
				t.Last = max(t.Last, p)
			}
		case "odd":
			if t.Odd, err = strconv.Atoi(rest); err != nil || t.Odd < 1 {
				return nil, wrong("a number of names", l)
			}
		case "sum":
			if err := t.sum(rest); err != nil {
				return nil, err
			}
		default:
			p, e, err := readEntry(l)
			switch _, twice := t.Entries[p]; {
			case err != nil:
				return nil, err
			case twice || p != t.Root && !strings.HasPrefix(strings.TrimPrefix(p, `"`), t.Root+"/"):
				return nil, wrong("a file of "+t.Root+" that was not named yet", p)
			case len(t.Entries) == maxEntries:
				return nil, fmt.Errorf("%s has more than the %d entries that were asked for", t.Root, maxEntries)
			}
			t.Entries[p] = e
		}
	}
	if t != nil || len(out) != len(trees) {
		return nil, errors.New("the answer broke off")
	}
	return out, nil
}

// sum takes a line of sha256sum.
func (t *Tree) sum(l string) error {
	escaped := strings.HasPrefix(l, `\`)
	l = strings.TrimPrefix(l, `\`)
	if len(l) < 67 || l[64] != ' ' || l[65] != ' ' && l[65] != '*' {
		return wrong("a file's sum", l)
	}
	sum, p := l[:64], l[66:]
	if escaped {
		p = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(p)
	}
	p = text(p)
	e, ok := t.Entries[p]
	if _, err := hex.DecodeString(sum); err != nil || !ok || e.Type != "f" || e.Sum != "" {
		return wrong("the sum of a file that was named", l)
	}
	e.Sum = sum
	t.Entries[p] = e
	return nil
}

// types are find's letters by the type bits of a mode.
var types = map[uint64]string{0o100000: "f", 0o040000: "d", 0o120000: "l", 0o010000: "p", 0o140000: "s", 0o060000: "b", 0o020000: "c"}

// readEntry takes a line of askFiles.
func readEntry(l string) (string, Entry, error) {
	f := strings.SplitN(l, " ", 6)
	bad := wrong("a line about a file", l)
	if len(f) != 6 {
		return "", Entry{}, bad
	}
	e := Entry{Type: f[0]}
	stat := strings.HasPrefix(f[0], "x")
	if stat {
		mode, err := strconv.ParseUint(f[0][1:], 16, 32)
		if e.Type = types[mode&0o170000]; err != nil || e.Type == "" {
			return "", Entry{}, bad
		}
	}
	mode, err1 := strconv.ParseUint(f[1], 8, 16)
	uid, err2 := strconv.ParseUint(f[2], 10, 32)
	gid, err3 := strconv.ParseUint(f[3], 10, 32)
	size, err4 := strconv.ParseUint(f[4], 10, 62)
	if err := errors.Join(err1, err2, err3, err4); err != nil || len(e.Type) != 1 || !strings.Contains("fdlpsbcD", e.Type) {
		return "", Entry{}, bad
	}
	e.Mode, e.UID, e.GID = strconv.FormatUint(mode, 8), int64(uid), int64(gid)
	p, rest := f[5], ""
	switch {
	case e.Type != "l":
		var ok bool
		if p, ok = strings.CutSuffix(p, "\t"); !ok {
			return "", Entry{}, bad
		}
		if e.Type == "f" {
			e.Size = int64(size)
		}
	case !stat: // path, tab, a target of size bytes
		i := len(p) - int(size) - 1
		if size > uint64(len(p)) || i <= 0 || p[i] != '\t' {
			return "", Entry{}, bad
		}
		p, rest = p[:i], p[i+1:]
	default: // path, tab, 'path' -> 'target'
		const quotes = "\t'' -> ''"
		n := len(p) - int(size) - len(quotes)
		if size > uint64(len(p)) || n <= 0 || n%2 != 0 {
			return "", Entry{}, bad
		}
		n /= 2
		p, rest = p[:n], p[n:]
		target, ok := strings.CutPrefix(rest, "\t'"+p+"' -> '")
		if target, ok2 := strings.CutSuffix(target, "'"); ok && ok2 {
			rest = target
		} else {
			return "", Entry{}, bad
		}
	}
	if !strings.HasPrefix(p, "/") {
		return "", Entry{}, bad
	}
	e.Target = text(rest)
	return text(p), e, nil
}

func readAccounts(r specs.Reply) (map[string]User, map[string]Group, error) {
	ls, err := whole(r)
	if err != nil {
		return nil, nil, err
	}
	users, groups := map[string]User{}, map[string]Group{}
	for _, l := range ls {
		f := strings.Split(l, ":")
		for i := range f {
			f[i] = text(f[i])
		}
		switch {
		case f[0] == "user" && len(f) == 7:
			if _, twice := users[f[1]]; !twice { // the first one counts for the system, too
				users[f[1]] = User{UID: f[2], GID: f[3], Password: f[4], Home: f[5], Shell: f[6]}
			}
		case f[0] == "group" && len(f) == 4:
			members := strings.Split(f[3], ",")
			slices.Sort(members)
			if _, twice := groups[f[1]]; !twice {
				groups[f[1]] = Group{GID: f[2], Members: strings.Join(members, ",")}
			}
		default:
			return nil, nil, wrong("an account", f[0])
		}
	}
	if len(users) == 0 {
		return nil, nil, errors.New("there is not one account")
	}
	return users, groups, nil
}

func readServices(r specs.Reply, init string) (map[string]string, error) {
	if init != "systemd" && init != "openrc" {
		return nil, fmt.Errorf("no service manager that can be asked runs here (init: %s)", init)
	}
	ls, err := whole(r)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, l := range ls {
		f := strings.Fields(text(l))
		if len(f) != 4 || f[0] != "unit" {
			return nil, wrong("a service", l)
		}
		state := f[3]
		switch state {
		case "running", "failed":
		case "started":
			state = "running"
		case "crashed":
			state = "failed"
		default:
			continue
		}
		out[f[1]] = state
	}
	return out, nil
}

func readPorts(r specs.Reply) ([]string, error) {
	ls, err := whole(r)
	if err != nil {
		return nil, err
	}
	var lo, hi uint64
	var out []string
	for i, l := range ls {
		f := strings.Fields(l)
		if i == 0 {
			if len(f) != 3 || f[0] != "ephemeral" {
				return nil, wrong("the range of ephemeral ports", l)
			}
			var err1, err2 error
			lo, err1 = strconv.ParseUint(f[1], 10, 16)
			hi, err2 = strconv.ParseUint(f[2], 10, 16)
			if errors.Join(err1, err2) != nil {
				return nil, wrong("the range of ephemeral ports", l)
			}
			continue
		}
		if len(f) != 2 {
			return nil, wrong("a port", l)
		}
		addr, port, _ := strings.Cut(f[1], ":")
		n, err := strconv.ParseUint(port, 16, 16)
		where, err2 := readAddress(addr)
		if err != nil || err2 != nil || !slices.Contains([]string{"tcp", "tcp6", "udp", "udp6"}, f[0]) {
			return nil, wrong("a port", l)
		}
		if strings.HasPrefix(f[0], "udp") && n >= lo && n <= hi {
			continue // a client that waits for an answer
		}
		out = append(out, fmt.Sprintf("%s %d (%s)", f[0], n, where))
	}
	if len(ls) == 0 {
		return nil, errors.New("the answer is empty")
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// readAddress says of an address as the kernel prints it, words in the order
// of the machine's bytes, what of it is the same on every machine.
func readAddress(s string) (string, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return "", wrong("an address", s)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	a, _ := netip.AddrFromSlice(b)
	switch a = a.Unmap(); {
	case a.IsUnspecified():
		return "any address", nil
	case a.IsLoopback():
		return "loopback", nil
	}
	return "an address of its own", nil
}

func readKernel(r specs.Reply) (map[string]string, error) {
	ls, err := whole(r)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	known := strings.Fields(parameters)
	for _, l := range ls {
		k, v, _ := strings.Cut(l, " ")
		k = strings.ReplaceAll(k, "/", ".")
		if !slices.Contains(known, k) {
			return nil, wrong("a kernel parameter that was asked for", l)
		}
		out[k] = strings.Join(strings.Fields(text(v)), " ")
	}
	if len(out) == 0 {
		return nil, errors.New("not one kernel parameter could be read")
	}
	return out, nil
}
