package specs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// systemResources are about the kernel, mounts, cron and what else a machine
// has one of.
func systemResources() []resource {
	return []resource{
		{
			name: "kernel_module", subject: pattern(`^[A-Za-z0-9_-]+$`),
			matchers: map[string]matcher{
				"be_loaded": ask1(modules, true, options(), func(m module, _ argument) (bool, string, error) { return m.loaded, m.how, nil }),
			},
		},
		{
			name: "linux_kernel_parameter", subject: pattern(`^[A-Za-z0-9_][A-Za-z0-9_.:/@*-]*$`),
			attributes: map[string]attribute{"value": get1(parameters, typeAny, anyValue)},
		},
		{
			name:     "fstab",
			matchers: map[string]matcher{"have_entry": entryMatcher(fstab, fstabEntry, fstabHas)},
		},
		{
			name: "cron",
			matchers: map[string]matcher{
				"have_entry": {
					kind: crontabs, presence: true, argument: object("entry", "with_user"),
					about: func(_ string, a argument, _ map[string]string) (*kind, string) { return crontabs, a.opt["with_user"] },
					test: func(fact any, a argument) (bool, string, error) {
						table := fact.(string)
						for _, l := range lines([]byte(table)) {
							if cronLine(l) == cronLine(a.text) {
								return true, l, nil
							}
						}
						return false, fmt.Sprintf("not in its %d lines", len(lines([]byte(table)))), nil
					},
				},
			},
			attributes: map[string]attribute{"table": get1(cronTables, typeText, asText)},
		},
		{
			name: "mail_alias", subject: pattern(`^[^\s:#"\pC]+$`),
			matchers: map[string]matcher{
				"be_aliased_to": ask1(mailAliases, false, text, func(to []string, a argument) (bool, string, error) {
					return slices.Contains(to, a.text), strings.Join(to, ", "), nil
				}),
			},
			attributes: map[string]attribute{"targets": get1(mailAliases, typeList, func(to []string) (value, error) { return value{list: to}, nil })},
		},
		{
			name: "cgroup", subject: pattern(`^[A-Za-z0-9_.@:\\-]+(/[A-Za-z0-9_.@:\\-]+)*$`),
			paths: map[string]pathAttribute{"": {"FILE", func(rest string) (attribute, error) {
				if !cgroupFile(rest) {
					return attribute{}, errors.New("not a control group's file")
				}
				at := get1(cgroups, typeAny, anyValue)
				at.key = func(subject string, _ map[string]string) string { return subject + "\x00" + rest }
				return at, nil
			}}},
		},
	}
}

func cgroupFile(s string) bool {
	return strings.Contains(s, ".") && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// anyValue is a number when the text is one, as in Serverspec.
func anyValue(s string) (value, error) {
	if t := strings.TrimPrefix(s, "-"); t != "" && strings.Trim(t, "0123456789") == "" {
		return value{text: s, typ: typeNumber}, nil
	}
	return value{text: s, typ: typeText}, nil
}

// Kernel modules.

type module struct {
	loaded bool
	how    string
}

var modules = &kind{
	name: "kernel module",
	script: `l=/proc/modules
if ! [ -e $l ] && [ -e /proc/version ]; then l=/dev/null; fi # this kernel loads no modules
cat $l >/dev/null || exit
for m; do
	n=$(printf %s "$m" | tr - _)
	if grep -q "^$n .* Live " $l; then s=loaded
	elif grep -q "^$n " $l; then s=changing
	elif [ -r "/lib/modules/$(uname -r)/modules.builtin" ]; then
		if tr - _ <"/lib/modules/$(uname -r)/modules.builtin" | grep -q "/$n\.ko\$"; then s=builtin; else s=absent; fi
	elif [ -d "/sys/module/$n" ]; then s=builtin
	else s=unknown; fi
	echo "$s $m"
done`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for kernel modules")
		}
		result := facts{}
		for _, l := range lines(a.out) {
			state, name, _ := strings.Cut(l, " ")
			if !slices.Contains(subjects, name) {
				continue
			}
			switch state {
			case "loaded":
				result[name] = module{true, "loaded"}
			case "builtin":
				result[name] = module{true, "built into the kernel"}
			case "absent":
				result[name] = module{false, "not loaded"}
			case "changing":
				result[name] = module{false, "being loaded or unloaded"}
			case "unknown":
				result[name] = errors.New("it is not loaded, and without /lib/modules/…/modules.builtin one cannot tell whether it is built into the kernel")
			}
		}
		return unanswered(result, subjects), nil
	},
}

// unanswered gives an error to each subject that a reader found nothing about.
func unanswered(result facts, subjects []string) facts {
	for _, s := range subjects {
		if result[s] == nil {
			result[s] = errors.New("the machine gave no answer")
		}
	}
	return result
}

// Kernel parameters.

// parameters are read where the kernel has them; as with sysctl, a name with a
// slash before its first dot is a path in which dots are dots.
var parameters = &kind{
	name: "kernel parameter",
	each: true,
	script: `case $1 in
*/*) p=$1;;
*) p=$(printf %s "$1" | tr . /);;
esac
cat /proc/sys/kernel/ostype >/dev/null || { echo "/proc/sys is not there" >&2; exit 9; }
[ -d "/proc/sys/$p" ] && { echo "$1 is not a parameter but a group of them" >&2; exit 9; }
[ -e "/proc/sys/$p" ] || exit 8
exec cat "/proc/sys/$p"`,
	read: one(func(a answer) (any, error) {
		switch {
		case a.status == 8:
			return nil, missing("no such kernel parameter")
		case a.status != 0:
			return nil, failed(a, "the question for the parameter")
		}
		return strings.ReplaceAll(strings.TrimRight(string(a.out), "\n"), "\t", " "), nil
	}),
}

// Control groups.

var cgroups = &kind{
	name: "cgroup",
	each: true,
	script: `cd /sys/fs/cgroup || exit
d=.
[ -e cgroup.controllers ] || d=${2%%.*}
[ -d "$d" ] || { echo "there is no controller $d" >&2; exit 9; }
[ -d "$d/$1" ] || exit 8
[ -e "$d/$1/$2" ] || exit 7
exec cat "$d/$1/$2"`,
	read: one(func(a answer) (any, error) {
		switch a.status {
		case 0:
			return strings.TrimRight(string(a.out), "\n"), nil
		case 8:
			return nil, missing("no such control group")
		case 7:
			return nil, missing("the control group has no such file")
		}
		return nil, failed(a, "the question for the control group")
	}),
}

// Mounts and fstab.

// A mountEntry is a line about one file system. Empty is not asked for.
type mountEntry struct {
	point, device, typ, dump, pass string
	options                        map[string]string
	only                           bool // nothing but the options that are named
}

// has says whether an entry is as another one wants it, and what differs.
func (m mountEntry) has(w mountEntry) (bool, string) {
	for _, f := range [][3]string{{"mount_point", m.point, w.point}, {"device", m.device, w.device}, {"type", m.typ, w.typ}, {"dump", m.dump, w.dump}, {"pass", m.pass, w.pass}} {
		if f[2] != "" && f[1] != f[2] {
			return false, f[0] + " is " + f[1]
		}
	}
	for _, k := range slices.Sorted(maps.Keys(w.options)) {
		switch have, ok := m.options[k]; {
		case !ok:
			return false, "it has not the option " + k
		case have != w.options[k]:
			return false, "its option " + k + " is " + strconv.Quote(have)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m.options)) {
		if _, ok := w.options[k]; w.only && !ok {
			return false, "it also has the option " + k
		}
	}
	return true, ""
}

func (m mountEntry) String() string {
	var opts []string
	for _, k := range slices.Sorted(maps.Keys(m.options)) {
		if v := m.options[k]; v != "" {
			k += "=" + v
		}
		opts = append(opts, k)
	}
	return fmt.Sprintf("%s on %s type %s (%s)", m.device, m.point, m.typ, strings.Join(opts, ","))
}

// parseMount reads a line of /proc/mounts or of fstab.
func parseMount(l string) (mountEntry, bool) {
	f := strings.Fields(l)
	if len(f) < 3 || f[0][0] == '#' {
		return mountEntry{}, false
	}
	m := mountEntry{device: unescape(f[0]), point: unescape(f[1]), typ: f[2], dump: "0", pass: "0", options: map[string]string{}}
	if len(f) > 3 {
		for _, o := range strings.Split(f[3], ",") {
			k, v, _ := strings.Cut(o, "=")
			m.options[k] = v
		}
	}
	if len(f) > 4 {
		m.dump = f[4]
	}
	if len(f) > 5 {
		m.pass = f[5]
	}
	return m, true
}

// unescape reads the kernel's notation for blanks in a path: \040.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

var mounts = &kind{
	name:   "mount",
	script: `exec cat /proc/self/mounts`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 || len(a.out) == 0 {
			return nil, failed(a, "the question for mounts")
		}
		result := facts{}
		for _, l := range lines(a.out) {
			// The last mount on a directory is the one that is seen.
			if m, ok := parseMount(l); ok && slices.Contains(subjects, m.point) {
				result[m.point] = m
			}
		}
		for _, s := range subjects {
			if result[s] == nil {
				result[s] = missing("nothing is mounted there")
			}
		}
		return result, nil
	},
}

var fstab = &kind{
	name:   "fstab",
	script: `exec cat /etc/fstab`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 && !gone(string(a.errOut)) {
			return nil, failed(a, "the question for /etc/fstab")
		}
		all := []mountEntry{}
		for _, l := range lines(a.out) {
			if m, ok := parseMount(l); ok {
				all = append(all, m)
			}
		}
		result := facts{}
		for _, s := range subjects {
			result[s] = all
		}
		return result, nil
	},
}

func fstabHas(all []mountEntry, w mountEntry) (bool, string) {
	said := "it has no entry for " + w.point
	for _, m := range all {
		ok, why := m.has(w)
		if ok {
			return true, m.String()
		}
		if m.point == w.point {
			said = why
		}
	}
	return false, said
}

// entryMatcher makes a have_entry whose argument is an object.
func entryMatcher[F, W any](k *kind, read func(cty.Value) (W, string, error), has func(F, W) (bool, string)) matcher {
	return matcher{
		kind: k, presence: true,
		argument: func(v cty.Value) (argument, error) {
			w, words, err := read(v)
			return argument{words: words, extra: w}, err
		},
		test: func(fact any, a argument) (bool, string, error) {
			w, ok := a.extra.(W)
			if !ok {
				return false, "", errors.New("nothing is asked for")
			}
			yes, actual := has(fact.(F), w)
			return yes, actual, nil
		},
	}
}

func fstabEntry(v cty.Value) (mountEntry, string, error) {
	m, words, err := readMountEntry(v, "mount_point", "device", "type", "options", "dump", "pass")
	if err == nil && m.point == "" {
		err = errors.New("mount_point is missing")
	}
	return m, words, err
}

// readMountEntry reads an object with some of keys.
func readMountEntry(v cty.Value, keys ...string) (mountEntry, string, error) {
	var m mountEntry
	given, err := members(v, keys...)
	if err != nil {
		return m, "", err
	}
	var words []string
	for _, k := range slices.Sorted(maps.Keys(given)) {
		if k == "options" {
			if m.options, err = mountOptions(given[k]); err != nil {
				return m, "", fmt.Errorf("options: %w", err)
			}
			words = append(words, "options "+strings.TrimSuffix(strings.TrimPrefix(mountEntry{options: m.options}.String(), " on  type  ("), ")"))
			continue
		}
		s, err := asString(given[k])
		if err == nil && s == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			return m, "", fmt.Errorf("%s: %w", k, err)
		}
		switch k {
		case "mount_point":
			m.point = s
		case "device":
			m.device = s
		case "type":
			m.typ = s
		case "dump":
			m.dump = s
		case "pass":
			m.pass = s
		}
		words = append(words, strings.ReplaceAll(k, "_", " ")+" "+s)
	}
	return m, strings.Join(words, ", "), nil
}

// mountOptions reads { noatime = true, mode = "755" } or ["noatime", "mode=755"].
func mountOptions(v cty.Value) (map[string]string, error) {
	out := map[string]string{}
	if !v.CanIterateElements() {
		return nil, errors.New("an object such as { noatime = true } is expected")
	}
	isObject := v.Type().IsObjectType() || v.Type().IsMapType()
	for it := v.ElementIterator(); it.Next(); {
		k, e := it.Element()
		if isObject && e.Type() == cty.Bool && !e.IsNull() {
			if e.False() {
				return nil, errors.New("write should_not { … } to ask that an option be absent")
			}
			out[k.AsString()] = ""
			continue
		}
		s, err := asString(e)
		if err != nil {
			return nil, err
		}
		if isObject {
			out[k.AsString()] = s
		} else {
			name, value, _ := strings.Cut(s, "=")
			out[name] = value
		}
	}
	if len(out) == 0 {
		return nil, errors.New("it names no option")
	}
	return out, nil
}

// mounted reads what be_mounted takes: true, or an object with with or only_with.
func mounted(v cty.Value) (argument, error) {
	if v.Type() == cty.Bool {
		return options()(v)
	}
	given, err := members(v, "with", "only_with")
	if err != nil {
		return argument{}, err
	}
	if len(given) != 1 {
		return argument{}, errors.New("either with or only_with is expected")
	}
	for k, e := range given {
		m, words, err := readMountEntry(e, "device", "type", "options")
		if err != nil {
			return argument{}, fmt.Errorf("%s: %w", k, err)
		}
		m.only = k == "only_with"
		return argument{words: strings.ReplaceAll(k, "_", " ") + " " + words, extra: m}, nil
	}
	return argument{}, nil
}

// Cron.

var crontabs = &kind{
	name: "crontab",
	each: true,
	script: `command -v crontab >/dev/null || { echo "there is no crontab program" >&2; exit 9; }
[ -z "$1" ] || id -u "$1" >/dev/null || exit 9
exec crontab -l ${1:+-u "$1"}`,
	read: one(func(a answer) (any, error) {
		said := string(a.errOut)
		switch {
		case a.status == 0:
			return string(a.out), nil
		case strings.Contains(said, "no crontab for"), gone(said): // the second is busybox's
			return "", nil
		}
		return nil, failed(a, "crontab")
	}),
}

// cronTables is every crontab of the machine together.
var cronTables = &kind{
	name: "all crontabs",
	script: `for f in /etc/crontab /etc/cron.d /etc/crontabs /var/spool/cron /var/spool/cron/crontabs /var/spool/cron/tabs; do
	if [ -d "$f" ]; then
		ls "$f" >/dev/null || exit
		for g in "$f"/*; do [ -f "$g" ] || continue; cat "$g" || exit; done
	elif [ -e "$f" ]; then cat "$f" || exit; fi
done`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for crontabs")
		}
		result := facts{}
		for _, s := range subjects {
			result[s] = string(a.out)
		}
		return result, nil
	},
}

// cronLine is a line of a crontab in which blanks between the times do not count.
func cronLine(l string) string {
	l = strings.TrimSpace(l)
	n := 5
	if strings.HasPrefix(l, "@") {
		n = 1
	}
	var f []string
	for range n {
		i := strings.IndexAny(l, " \t")
		if i < 0 || strings.HasPrefix(l, "#") {
			break
		}
		f = append(f, l[:i])
		l = strings.TrimLeft(l[i:], " \t")
	}
	return strings.Join(append(f, l), " ")
}

// Mail aliases.

var mailAliases = &kind{
	name: "mail alias",
	script: `for f in /etc/aliases /etc/mail/aliases; do [ -e $f ] && exec cat $f; done
echo "there is no /etc/aliases" >&2
exit 8`,
	read: func(a answer, subjects []string) (facts, error) {
		all := map[string][]string{}
		switch a.status {
		case 8, 0:
		default:
			return nil, failed(a, "the question for mail aliases")
		}
		name := ""
		for _, l := range lines(a.out) {
			if strings.HasPrefix(strings.TrimSpace(l), "#") || strings.TrimSpace(l) == "" {
				continue
			}
			if l[0] != ' ' && l[0] != '\t' {
				var ok bool
				if name, l, ok = strings.Cut(l, ":"); !ok {
					name = ""
					continue
				}
				name = strings.ToLower(strings.Trim(strings.TrimSpace(name), `"`))
			}
			for _, to := range splitQuoted(l) {
				if name != "" {
					all[name] = append(all[name], to)
				}
			}
		}
		result := facts{}
		for _, s := range subjects {
			if to := all[strings.ToLower(s)]; to != nil {
				result[s] = to
			} else {
				result[s] = missing("no such alias")
			}
		}
		return result, nil
	},
}

// splitQuoted splits at commas that do not stand in quotes.
func splitQuoted(s string) []string {
	var out []string
	var b strings.Builder
	quoted := false
	take := func() {
		if w := strings.TrimSpace(b.String()); w != "" {
			out = append(out, w)
		}
		b.Reset()
	}
	for _, r := range s {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ',' && !quoted:
			take()
		default:
			b.WriteRune(r)
		}
	}
	take()
	return out
}

// members gives what an object holds, of which only keys are known.
func members(v cty.Value, keys ...string) (map[string]cty.Value, error) {
	if !v.Type().IsObjectType() && !v.Type().IsMapType() || v.IsNull() {
		return nil, fmt.Errorf("an object with %s is expected", strings.Join(keys, ", "))
	}
	given := v.AsValueMap()
	for _, k := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(keys, k) {
			return nil, fmt.Errorf("%q is not expected here%s; known: %s", k, suggest(k, keys), strings.Join(keys, ", "))
		}
	}
	if len(given) == 0 {
		return nil, fmt.Errorf("an object with %s is expected, and this one is empty", strings.Join(keys, ", "))
	}
	return given, nil
}

// object is the argument of a matcher that takes a text, or an object with the
// text as main and some of keys.
func object(main string, keys ...string) func(cty.Value) (argument, error) {
	return func(v cty.Value) (argument, error) {
		if !v.Type().IsObjectType() && !v.Type().IsMapType() {
			a, err := text(v)
			if err == nil && strings.TrimSpace(a.text) == "" {
				err = errors.New("it is empty")
			}
			return a, err
		}
		given, err := members(v, append([]string{main}, keys...)...)
		if err != nil {
			return argument{}, err
		}
		a := argument{opt: map[string]string{}}
		if given[main] == cty.NilVal {
			return a, fmt.Errorf("%s is missing", main)
		}
		for _, k := range append([]string{main}, keys...) {
			if given[k] == cty.NilVal {
				continue
			}
			s, err := asString(given[k])
			if err == nil {
				err = printable(s)
			}
			if err == nil && strings.TrimSpace(s) == "" {
				err = errors.New("it is empty")
			}
			if err != nil {
				return a, fmt.Errorf("%s: %w", k, err)
			}
			if k == main {
				a.text, a.words = s, strconv.Quote(s)
			} else {
				a.opt[k] = s
				a.words += " " + strings.ReplaceAll(k, "_", " ") + " " + s
			}
		}
		return a, nil
	}
}

// choose limits what one key of an argument may be.
func choose(read func(cty.Value) (argument, error), key string, values ...string) func(cty.Value) (argument, error) {
	return func(v cty.Value) (argument, error) {
		a, err := read(v)
		if s, ok := a.opt[key]; err == nil && ok && !slices.Contains(values, s) {
			err = fmt.Errorf("%s is one of %s, not %q%s", key, strings.Join(values, ", "), s, suggest(s, values))
		}
		return a, err
	}
}
