package seal

import (
	"fmt"
	"strings"

	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
)

// A group is what one option removes.
type group struct {
	option string
	title  string // what must not be there, as the proof says it
	on     bool
	// Patterns of absolute paths. ~ stands for the home directories.
	whole  []string // removed, with what is in them
	inside []string // directories: only what is in them is removed
	empty  []string // files: only their content is removed
	logs   bool     // as /var/log
	// later says that what is newer than the sealing is no fault: daemons log on.
	later bool
	key   string // the line with it is removed from authorized_keys
	last  string // more of the script
}

// groups are the groups that are on. key is the bake's key, if it has one.
func (o *Options) groups(key string) (on []group) {
	for _, g := range []group{
		{option: "machine_id", title: "machine id", on: o.MachineID, empty: []string{"/etc/machine-id"}, whole: []string{"/var/lib/dbus/machine-id"}},
		{option: "temporary_key", title: "temporary key", on: o.TemporaryKey && key != "", key: key},
		{option: "authorized_keys", title: "authorized keys", on: o.AuthorizedKeys, whole: []string{"~/.ssh/authorized_keys", "~/.ssh/authorized_keys2"}},
		{option: "known_hosts", title: "known hosts", on: o.KnownHosts, whole: []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts.old"}},
		{option: "cloud_init", title: "state of cloud-init", on: o.CloudInit, whole: []string{
			"/var/lib/cloud/instance", "/var/lib/cloud/instances", "/var/lib/cloud/data", "/var/lib/cloud/sem", "/var/lib/cloud/handlers",
			"/var/lib/cloud/scripts/vendor", "/var/log/cloud-init.log", "/var/log/cloud-init-output.log"},
			later: true},
		{option: "histories", title: "histories", on: o.Histories, whole: []string{
			"~/.bash_history", "~/.zsh_history", "~/.ash_history", "~/.sh_history", "~/.ksh_history", "~/.history", "~/.local/share/fish/fish_history",
			"~/.lesshst", "~/.viminfo", "~/.python_history", "~/.node_repl_history", "~/.mysql_history", "~/.psql_history", "~/.sqlite_history",
			"~/.rediscli_history", "~/.wget-hsts"}},
		{option: "package_caches", title: "package caches", on: o.PackageCaches, whole: []string{
			"/var/cache/apt/archives/*.deb", "/var/cache/apt/archives/partial/*", "/var/cache/apt/*.bin", "/var/lib/apt/lists/*", "/var/cache/debconf/*-old",
			"~/.cache/pip", "~/.npm/_cacache"},
			inside: []string{"/var/cache/dnf", "/var/cache/libdnf5", "/var/cache/yum", "/var/cache/zypp", "/var/cache/apk", "/var/cache/pacman/pkg"}},
		{option: "random_seed", title: "random seed", on: o.RandomSeed, whole: []string{
			"/var/lib/systemd/random-seed", "/var/lib/random-seed", "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed", "/var/lib/seedrng/*",
			"/boot/loader/random-seed", "/boot/efi/loader/random-seed", "/efi/loader/random-seed"}},
		{option: "dhcp_leases", title: "DHCP leases", on: o.DHCPLeases, whole: []string{
			"/var/lib/dhcp/*.lease*", "/var/lib/dhclient/*.lease*", "/var/lib/dhcpcd/*", "/etc/dhcpcd.duid", "/var/lib/wicked/lease-*",
			"/var/lib/NetworkManager/*.lease", "/var/lib/NetworkManager/secret_key", "/var/lib/NetworkManager/timestamps", "/var/lib/NetworkManager/seen-bssids"}},
		{option: "udev_net_rules", title: "persistent names of devices", on: o.UdevNetRules, whole: []string{"/etc/udev/rules.d/70-persistent-*.rules"}},
		{option: "mail", title: "mail", on: o.Mail, empty: []string{"/var/mail/*", "/var/spool/mail/*"}, later: true},
		{option: "tmp", title: "temporary files", on: o.Tmp, inside: []string{"/tmp", "/var/tmp"}, whole: []string{"~/.ansible/tmp", "~/.ansible_async"}, later: true},
		{option: "hostname", title: "host name", on: o.Hostname, empty: []string{"/etc/hostname"}},
		{option: "paths", title: "files of paths", on: len(o.Paths) > 0, whole: o.Paths},
		// Last, for what was done before may have been logged.
		{option: "logs", title: "logs", on: o.Logs, inside: []string{"/var/log/journal", "/var/log/installer", "/var/crash", "/var/lib/systemd/coredump"}, logs: true, later: true},
		// What sshd needs for the next connection goes at the very end.
		{option: "ssh_host_keys", title: "SSH host keys", on: o.SSHHostKeys, whole: []string{"/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/etc/ssh/ssh_host_*-cert.pub"}, last: keyMakers},
	} {
		if g.on {
			on = append(on, g)
		}
	}
	return on
}

// functions are what the script is made of. $t is the token that its own lines
// begin with, $dry is set when nothing is to be removed.
//
//   - each DEPTH PATH EXPRESSION… is find below PATH, without what is kept and
//     without what other file systems are mounted there.
//   - files DEPTH PATH EXPRESSION… removes all files that the expression finds.
//   - whole, inside and empty are as in group; what is not there is passed over.
const functions = `PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
unset IFS
s=0 nl='
'
say() { printf '%s %s\n' "$t" "$*"; }
bad() { s=1; printf '%s\n' "$*" >&2; }
for c in find ls rm rmdir date; do command -v "$c" >/dev/null || { echo "sealing needs the program $c on the machine" >&2; exit 1; }; done
` + there + `sum() {
	r=$(each "$@" -exec ls -lnsd {} + | {
		n=0 b=0
		while read -r k m l u g z r; do
			case $k,$z in *[!0-9,]*|,*|*,|0?*,*|*,0?*) continue;; esac
			n=$((n + 1))
			[ "$z" -le "$((k * 1024))" ] || z=$((k * 1024)) # it has holes
			b=$((b + z))
		done
		echo "$n $b"
	})
	sn=${r% *} sb=${r#* }
	[ "$sn" = 0 ] && return 1
	N=$((N + sn)) B=$((B + sb))
	say path "$sn $sb $2"
}
files() {
	sum "$@" || return 0
	# Twice, for something may vanish while find looks at it.
	[ "$dry" ] || each "$@" -exec rm -f {} + 2>/dev/null || each "$@" -exec rm -f {} + || bad "not all of it could be removed: $2"
}
dirs() { [ "$dry" ] || each "$1" "$2" -depth -type d ! -path '*/systemd-private-*' -exec rmdir {} + 2>/dev/null; }
whole() { for p; do if there "$p"; then files 0 "$p" ! -type d; dirs 0 "$p"; fi; done; }
inside() { for p; do if [ -d "$p" ]; then files 1 "$p" ! -type d; dirs 1 "$p"; fi; done; }
void() {
	sum "$@" -type f -size +0c || return 0
	set -- "$@" -type f -size +0c -exec sh -c 's=0; for f do : >"$f" || s=1; done; exit $s' sh {} +
	[ "$dry" ] || each "$@" 2>/dev/null || each "$@" || bad "not all of it could be emptied: $2"
}
empty() { for p; do if [ -f "$p" ] && [ ! -L "$p" ]; then void 0 "$p"; fi; done; }
unkey() {
	k=$1; shift
	for p; do
		if [ ! -f "$p" ] || [ -L "$p" ]; then continue; fi
		gone=0 left=
		while IFS= read -r l || [ "$l" ]; do
			case $l in *"$k"*) gone=$((gone + ${#l} + 1));; *) left=$left$l$nl;; esac
		done <"$p"
		if [ "$gone" = 0 ] || [ -z "$(each 0 "$p")" ]; then continue; fi
		N=$((N + 1)) B=$((B + gone))
		say path "1 $gone $p"
		[ "$dry" ] || { if [ "$left" ]; then printf %s "$left" >"$p"; else rm -f "$p"; fi; } || bad "the temporary key could not be removed: $p"
	done
}
`

// there PATH says whether something is at the path. What a wildcard such as .*
// makes of the directory's own names is not meant.
const there = `there() {
	case $1/ in */./*|*/../*) return 1;; esac
	[ -e "$1" ] || [ -L "$1" ]
}
`

// findHomes makes the home directories the script's arguments.
const findHomes = `H=/root
home() { case $nl$H$nl in *"$nl$1$nl"*) ;; *) H=$H$nl$1;; esac; }
while IFS=: read -r a b c d e h l; do case $h in /?*) home "$h";; esac; done </etc/passwd
for h in /home/*; do home "$h"; done
IFS=$nl
set -f
set -- $H
set +f
unset IFS
`

// rotated is what marks a log that is written no more.
const rotated = `\( -name '*.gz' -o -name '*.xz' -o -name '*.bz2' -o -name '*.zst' -o -name '*.old' -o -name '*.[0-9]' -o -name '*.[0-9][0-9]' -o -name '*-20[0-9][0-9][0-9][0-9][0-9][0-9]' \)`

// keyMakers warns when a machine without host keys would stay without.
const keyMakers = `if [ "$N" != 0 ] && ! command -v cloud-init >/dev/null &&
	! grep -rqsE 'ssh-keygen -A|sshd-gen-keys|sshd-keygen' /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system /etc/init.d /etc/rc.local /etc/rc.d; then
	say warn 'ssh_host_keys: nothing on this machine makes new host keys, so sshd will not start in a machine made from the image; have a unit run ssh-keygen -A before it'
fi
`

// script seals the machine. Each of its own lines begins with token.
func (o *Options) script(token, key string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "t=%s dry=", token)
	if o.DryRun {
		b.WriteString("1")
	}
	b.WriteString("\n" + functions + o.each() + findHomes)
	// The proof goes by what is older than this.
	b.WriteString("say began \"$(date +%Y%m%d%H%M.%S)\"\n")
	for _, g := range o.groups(key) {
		b.WriteString("N=0 B=0\n")
		if g.option == "machine_id" { // it is how an image says that it wants one
			b.WriteString("[ \"$(cat /etc/machine-id 2>/dev/null)\" = uninitialized ] || ")
		}
		if len(g.empty) > 0 {
			b.WriteString("empty" + words(g.empty) + "\n")
		}
		inHomes, elsewhere := split(g.whole)
		if len(elsewhere) > 0 {
			b.WriteString("whole" + words(elsewhere) + "\n")
		}
		if len(inHomes) > 0 {
			b.WriteString("for h do whole" + homeWords(inHomes) + "; done\n")
		}
		if g.logs {
			b.WriteString("journalctl --relinquish-var </dev/null >/dev/null 2>&1\n")
		}
		if len(g.inside) > 0 {
			b.WriteString("inside" + words(g.inside) + "\n")
		}
		if g.logs {
			b.WriteString("if [ -d /var/log ]; then\nfiles 1 /var/log ! -type d " + rotated + "\nvoid 1 /var/log ! -path '/var/log/journal/*' ! -path '/var/log/installer/*' ! " + rotated + "\nfi\n")
		}
		if g.key != "" {
			b.WriteString("for h do unkey " + machine.Quote(g.key) + homeWords(keyFiles) + "; done\n")
		}
		b.WriteString(g.last)
		fmt.Fprintf(&b, "say group \"$N $B\" %s\n", g.option)
	}
	b.WriteString("say end\nexit $s\n")
	return b.String()
}

var keyFiles = []string{"~/.ssh/authorized_keys", "~/.ssh/authorized_keys2"}

// each defines the function each.
func (o *Options) each() string {
	keep := ""
	for _, k := range o.Keep {
		keep += " ! -path " + machine.Quote(escape(k)) + " ! -path " + machine.Quote(escape(k)+"/*")
	}
	return "each() { d=$1 p=$2; shift 2; find \"$p\" -mindepth \"$d\" -xdev" + keep + " \"$@\"; }\n"
}

// escape has find take a backslash in a pattern for itself.
func escape(pattern string) string { return strings.ReplaceAll(pattern, `\`, `\\`) }

func split(patterns []string) (inHomes, elsewhere []string) {
	for _, p := range patterns {
		if strings.HasPrefix(p, "~/") {
			inHomes = append(inHomes, p)
		} else {
			elsewhere = append(elsewhere, p)
		}
	}
	return inHomes, elsewhere
}

// words are patterns for the shell to expand.
func words(patterns []string) string {
	out := ""
	for _, p := range patterns {
		out += " " + script.QuotePattern(p)
	}
	return out
}

// homeWords are patterns below the home directory $h.
func homeWords(patterns []string) string {
	out := ""
	for _, p := range patterns {
		out += ` "$h"` + script.QuotePattern(strings.TrimPrefix(p, "~"))
	}
	return out
}
