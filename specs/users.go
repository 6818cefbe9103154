package specs

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// moreOfUsers is what the user resource can say beyond /etc/passwd.
func moreOfUsers(r resource) resource {
	r.matchers["be_is_system_user"] = ask1(users, false, options(), func(u user, _ argument) (bool, string, error) {
		if u.windows {
			return builtIn(u.uid)
		}
		return u.system("user", u.uid)
	})
	r.matchers["have_authorized_key"] = ask1(authorizedKeys, false, publicKey, func(keys string, a argument) (bool, string, error) {
		for _, l := range lines([]byte(keys)) {
			f := strings.Fields(l)
			for i := range f {
				if i+1 < len(f) && f[0][0] != '#' && f[i]+" "+f[i+1] == a.text {
					return true, "it is there", nil
				}
			}
		}
		return false, fmt.Sprintf("not among %d lines", len(lines([]byte(keys)))), nil
	})
	days := func(get func(shadow) string) attribute {
		return get1(shadows, typeNumber, func(s shadow) (value, error) {
			if get(s) == "" {
				return value{}, missing("not limited")
			}
			return value{text: get(s)}, nil
		})
	}
	r.attributes["minimum_days_between_password_change"] = days(func(s shadow) string { return s.minimum })
	r.attributes["maximum_days_between_password_change"] = days(func(s shadow) string { return s.maximum })
	r.attributes["sid"] = get1(accounts, typeText, func(u user) (value, error) { return value{text: u.uid}, nil })
	password := get1(shadows, typeText, func(s shadow) (value, error) { return value{text: s.password}, nil })
	password.secret = true
	r.attributes["encrypted_password"] = password
	return r
}

// system says whether an id is below those that people get.
func (d loginDefs) system(what, id string) (bool, string, error) {
	last := d["sys_"+what+"_max"]
	if last == "" {
		last = "999"
	}
	n, err := strconv.ParseUint(id, 10, 32)
	m, err2 := strconv.ParseUint(last, 10, 32)
	if err := errors.Join(err, err2); err != nil {
		return false, "", fmt.Errorf("the machine gave %q and %q for ids", Clean(id), Clean(last))
	}
	return n <= m, fmt.Sprintf("id %d, and system ids end at %d", n, m), nil
}

// loginDefs is what /etc/login.defs says about ids.
type loginDefs map[string]string

// publicKey reads the type and the key of a line as authorized_keys has it.
func publicKey(v cty.Value) (argument, error) {
	a, err := text(v)
	if err != nil {
		return a, err
	}
	f := strings.Fields(a.text)
	i := slices.IndexFunc(f, func(w string) bool { return strings.HasPrefix(w, "AAAA") })
	if i < 1 || i > 1 {
		return a, errors.New("a public key is expected as its file has it: the type, the key, and perhaps a comment")
	}
	key := f[1]
	a.text = f[0] + " " + key
	if len(key) > 24 {
		key = key[:12] + "…" + key[len(key)-12:]
	}
	a.words = f[0] + " " + key
	return a, nil
}

var authorizedKeys = &kind{
	name: "authorized keys",
	each: true,
	script: lookup + `e=$(g passwd "$1") || exit 9
e=$(printf '%s\n' "$e" | grep "^$1:" | head -n 1)
[ -n "$e" ] || exit 8
h=$(printf '%s\n' "$e" | cut -d: -f6)
[ -e "$h" ] || exit 0
[ -r "$h" ] && [ -x "$h" ] || { echo "$h cannot be read; use sudo" >&2; exit 9; }
[ -e "$h/.ssh" ] || exit 0
[ -r "$h/.ssh" ] && [ -x "$h/.ssh" ] || { echo "$h/.ssh cannot be read; use sudo" >&2; exit 9; }
for f in "$h/.ssh/authorized_keys" "$h/.ssh/authorized_keys2"; do
	[ -e "$f" ] || continue
	cat "$f" || exit 9
	echo
done`,
	read: one(func(a answer) (any, error) {
		switch a.status {
		case 8:
			return nil, missing("no such user")
		case 0:
			return string(a.out), nil
		}
		return nil, failed(a, "the question for the user's keys")
	}),
}

// A shadow is a user's line in /etc/shadow. The hash never leaves this package.
type shadow struct{ password, minimum, maximum string }

var shadows = &kind{
	name: "shadow",
	script: lookup + `if [ -e /etc/shadow ] && ! [ -r /etc/shadow ]; then echo "/etc/shadow cannot be read; use sudo" >&2; exit 9; fi
g passwd "$@" | cut -d: -f1 | sed 's/^/+/'
g shadow "$@"`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for passwords")
		}
		known, result := map[string]bool{}, facts{}
		for _, l := range lines(a.out) {
			if name, ok := strings.CutPrefix(l, "+"); ok {
				known[name] = true
			} else if f := strings.Split(l, ":"); len(f) == 9 && slices.Contains(subjects, f[0]) && result[f[0]] == nil {
				result[f[0]] = shadow{f[1], f[3], f[4]}
			}
		}
		for _, s := range subjects {
			switch {
			case result[s] != nil:
			case known[s]:
				result[s] = missing("the user has no line in /etc/shadow")
			default:
				result[s] = missing("no such user")
			}
		}
		return result, nil
	},
}
