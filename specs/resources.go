package specs

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// A resource is one row of the language: what a block type may say.
type resource struct {
	name string
	// subject says what is wrong with a label, if anything; nil where there is
	// no label, because a machine has one of it.
	subject func(label string) error
	// posix and windows say what is wrong with it on one of the two.
	posix, windows func(label string) error
	matchers       map[string]matcher
	// attributes are what an its block may name; paths those whose names go on
	// with something that only the machine knows, by what they begin with.
	attributes map[string]attribute
	paths      map[string]pathAttribute
	// options are further attributes, each a string, that say more about the subject.
	options []string
	// values are more of these, of other types and with any text in it. They
	// are handed on as JSON.
	values map[string]cty.Type
	// check says what is wrong with a subject and its options together.
	check func(subject string, opts map[string]string) error
	// hides is what else must not be shown when one of the values is sensitive.
	hides func(opts map[string]string) []string
}

// A pathAttribute makes the attribute for the rest of a name.
type pathAttribute struct {
	rest string // what the rest stands for, in the reference
	make func(rest string) (attribute, error)
}

// attribute finds what an its block names.
func (r resource) attribute(name string) (attribute, bool) {
	if a, ok := r.attributes[name]; ok {
		return a, true
	}
	for prefix, p := range r.paths {
		if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" {
			a, err := p.make(rest)
			return a, err == nil
		}
	}
	return attribute{}, false
}

func (r resource) pathNames() []string {
	var names []string
	for prefix, p := range r.paths {
		names = append(names, prefix+p.rest)
	}
	slices.Sort(names)
	return names
}

// A matcher is one yes-or-no question about a subject.
type matcher struct {
	kind *kind
	// presence matchers are false about what is missing; others fail.
	presence bool
	// argument reads what the template gives, and says it in words.
	argument func(v cty.Value) (argument, error)
	test     func(fact any, a argument) (ok bool, actual string, err error)
	// about says which kind is asked what, where that is not kind and the subject.
	about func(subject string, a argument, opts map[string]string) (*kind, string)
	// only is "posix" or "windows" where the other has no such thing.
	only string
}

// An argument is what a matcher compares with. Only the fields that its
// matcher has a use for are set.
type argument struct {
	words string // as an expectation ends: `"root"`, `with version >= 1.24`
	text  string
	mode  uint32
	want  constraint
	proto string
	on    netip.Addr
	opt   map[string]string // what an object says besides, by its keys
	list  []string
	extra any // what only one matcher knows
}

// An attribute is a value of a subject.
type attribute struct {
	kind *kind
	typ  valueType
	get  func(fact any) (value, error)
	// key is what the kind is asked about, where that is not the subject.
	key    func(subject string, opts map[string]string) string
	secret bool   // the value must not be shown
	only   string // as in matcher
}

// resources is everything that a spec can say.
func resources() []resource {
	core := coreResources()
	for i, r := range core {
		switch r.name {
		case "file":
			core[i] = moreOfFiles(r)
		case "user":
			core[i] = moreOfUsers(r)
		case "service":
			core[i] = moreOfServices(r)
		}
	}
	return systems(slices.Concat(core, networkResources(), systemResources(), securityResources(), hostingResources(), windowsResources(), outsideResources()))
}

func coreResources() []resource {
	return []resource{
		{
			name: "package", subject: pattern(`^[^\s\pC-]([^\pC]*[^\s\pC])?$`), posix: pattern(`^@?[A-Za-z0-9._][A-Za-z0-9.+_:@/~-]*$`),
			matchers: map[string]matcher{
				"be_installed": {kind: packages, presence: true, argument: packageArgument, about: packageQuestion, test: func(fact any, a argument) (bool, string, error) {
					return installedBy(fact.(pkg), a)
				}},
			},
			attributes: map[string]attribute{
				"version": get1(packages, typeVersion, func(p pkg) (value, error) {
					if err := p.present(); err != nil {
						return value{}, err
					}
					if v := slices.Compact(slices.Clone(p.versions)); len(v) > 1 {
						return value{}, fmt.Errorf("several versions are installed: %s", strings.Join(v, ", "))
					}
					s, err := schemeOf(p.manager)
					return value{text: p.versions[0], scheme: s}, err
				}),
			},
		},
		{
			name: "service", subject: pattern(`^[^\s\pC-]([^\pC]*[^\s\pC])?$`), posix: pattern(`^[A-Za-z0-9_][A-Za-z0-9:_.@\\-]*$`),
			matchers: map[string]matcher{},
		},
		{
			name: "port", subject: func(label string) error {
				if n, err := strconv.ParseUint(label, 10, 16); err != nil || n == 0 || label[0] == '0' {
					return errors.New("a port is a number from 1 to 65535")
				}
				return nil
			},
			matchers: map[string]matcher{
				"be_listening": ask1(sockets, true, options("with", "on"), listening),
			},
		},
		{
			name: "file", subject: filePath, posix: posixPath, windows: windowsPath,
			matchers: map[string]matcher{
				"exist": ask1(files, true, options(), func(f file, _ argument) (bool, string, error) {
					if f.target == nil {
						return false, string(f.why), nil
					}
					return true, f.target.typ(), nil
				}),
				"be_file":             fileType("file"),
				"be_directory":        fileType("directory"),
				"be_pipe":             fileType("pipe"),
				"be_socket":           fileType("socket"),
				"be_block_device":     fileType("block device"),
				"be_character_device": fileType("character device"),
				"be_symlink": ask1(files, true, options(), func(f file, _ argument) (bool, string, error) {
					switch {
					case f.link:
						return true, "a symbolic link", nil
					case f.target == nil:
						return false, string(f.why), nil
					}
					return false, f.target.typ(), nil
				}),
				"be_linked_to": ask1(linkTargets, false, text, func(target string, a argument) (bool, string, error) {
					return target == a.text, strconv.Quote(target), nil
				}),
				"be_mode": ask1(files, false, octal, func(f file, a argument) (bool, string, error) {
					if f.target == nil {
						return false, "", f.why
					}
					mode := f.target.mode & 0o7777
					return mode == a.mode, fmt.Sprintf("%04o", mode), nil
				}),
				"be_owned_by": ask1(files, false, text, func(f file, a argument) (bool, string, error) {
					if f.target == nil {
						return false, "", f.why
					}
					return f.account(f.target.owner, f.target.uid, a.text)
				}),
				"be_grouped_into": ask1(files, false, text, func(f file, a argument) (bool, string, error) {
					if f.target == nil {
						return false, "", f.why
					}
					return f.account(f.target.group, f.target.gid, a.text)
				}),
			},
			attributes: map[string]attribute{
				"content":     get1(contents, typeText, asText),
				"link_target": get1(linkTargets, typeText, asText),
				"sha256sum":   get1(sha256sums, typeText, asText),
				"md5sum":      get1(md5sums, typeText, asText),
				"mode":        fileAttribute(typeOctal, func(s fileStat) string { return fmt.Sprintf("%04o", s.mode&0o7777) }),
				"owner":       ownerAttribute(func(s fileStat) string { return s.owner }),
				"group":       ownerAttribute(func(s fileStat) string { return s.group }),
				"uid":         fileAttribute(typeNumber, func(s fileStat) string { return s.uid }),
				"gid":         fileAttribute(typeNumber, func(s fileStat) string { return s.gid }),
				"size":        fileAttribute(typeNumber, func(s fileStat) string { return s.size }),
			},
		},
		{
			name: "user", subject: accountName, posix: account,
			matchers: map[string]matcher{
				"exist":    ask1(accounts, true, options(), func(u user, _ argument) (bool, string, error) { return true, idName("uid", u.windows) + u.uid, nil }),
				"have_uid": ask1(accounts, false, text, func(u user, a argument) (bool, string, error) { return equal(u.uid, a.text) }),
				"have_home_directory": ask1(accounts, false, text, func(u user, a argument) (bool, string, error) {
					if u.windows {
						return samePath(u.home, a.text), strconv.Quote(u.home), nil
					}
					return equal(u.home, a.text)
				}),
				"have_login_shell":        ask1(accounts, false, text, func(u user, a argument) (bool, string, error) { return equal(u.shell, a.text) }),
				"belong_to_primary_group": ask1(users, false, text, func(u user, a argument) (bool, string, error) { return nameOrID(u.primary, u.gid, a.text) }),
				"belong_to_group": ask1(users, false, text, func(u user, a argument) (bool, string, error) {
					in := slices.Contains(u.groups, a.text) || slices.Contains(u.gids, a.text)
					if u.windows {
						in = slices.ContainsFunc(u.groups, func(g string) bool { return strings.EqualFold(g, a.text) })
					}
					return in, "in " + strings.Join(u.groups, ", "), nil
				}),
			},
			attributes: map[string]attribute{
				"uid":           get1(accounts, typeNumber, func(u user) (value, error) { return value{text: u.uid}, nil }),
				"gid":           get1(accounts, typeNumber, func(u user) (value, error) { return value{text: u.gid}, nil }),
				"home":          get1(accounts, typeText, func(u user) (value, error) { return value{text: u.home}, nil }),
				"shell":         get1(accounts, typeText, func(u user) (value, error) { return value{text: u.shell}, nil }),
				"primary_group": get1(users, typeText, func(u user) (value, error) { return value{text: u.primary}, nil }),
				"groups":        get1(users, typeList, func(u user) (value, error) { return value{list: u.groups}, nil }),
			},
		},
		{
			name: "group", subject: accountName, posix: account,
			matchers: map[string]matcher{
				"exist": ask1(groups, true, options(), func(g group, _ argument) (bool, string, error) { return true, idName("gid", g.windows) + g.gid, nil }),
				"be_is_system_group": ask1(groups, false, options(), func(g group, _ argument) (bool, string, error) {
					if g.windows {
						return builtIn(g.gid)
					}
					return g.system("group", g.gid)
				}),
				"have_gid": ask1(groups, false, text, func(g group, a argument) (bool, string, error) { return equal(g.gid, a.text) }),
			},
			attributes: map[string]attribute{
				"gid":     get1(groups, typeNumber, func(g group) (value, error) { return value{text: g.gid}, nil }),
				"sid":     get1(groups, typeText, func(g group) (value, error) { return value{text: g.gid}, nil }),
				"members": get1(groups, typeList, func(g group) (value, error) { return value{list: g.members}, nil }),
			},
		},
		{
			name: "process", subject: pattern(`^[^/\pC]+$`),
			matchers: map[string]matcher{
				"be_running": ask1(processes, true, options(), func(p []process, _ argument) (bool, string, error) {
					if len(p) == 0 {
						return false, "no such process", nil
					}
					return true, "pid " + p[0].pid, nil
				}),
			},
			attributes: map[string]attribute{
				"count":   get1(processes, typeNumber, func(p []process) (value, error) { return value{text: strconv.Itoa(len(p))}, nil }),
				"pid":     processAttribute("pid", typeNumber, func(p process) string { return p.pid }),
				"user":    processAttribute("user", typeText, func(p process) string { return p.user }),
				"group":   processAttribute("group", typeText, func(p process) string { return p.group }),
				"args":    processAttribute("args", typeText, func(p process) string { return p.args }),
				"ppid":    processAttribute("ppid", typeNumber, func(p process) string { return p.parent }),
				"state":   processAttribute("state", typeText, func(p process) string { return p.state }),
				"threads": processAttribute("threads", typeNumber, func(p process) string { return p.threads }),
				"rss":     processAttribute("rss", typeNumber, func(p process) string { return p.rss }),
				"vsz":     processAttribute("vsz", typeNumber, func(p process) string { return p.vsz }),
				"uid":     processAttribute("uid", typeNumber, func(p process) string { return p.uid }),
				"gid":     processAttribute("gid", typeNumber, func(p process) string { return p.gid }),
			},
		},
		{
			name: "command", subject: func(label string) error {
				if strings.TrimSpace(label) == "" || strings.ContainsRune(label, 0) {
					return errors.New("a command is a line for sh, or for PowerShell on Windows")
				}
				return nil
			},
			attributes: map[string]attribute{
				"stdout":      get1(commands, typeOutput, func(o output) (value, error) { return value{text: o.stdout}, nil }),
				"stderr":      get1(commands, typeOutput, func(o output) (value, error) { return value{text: o.stderr}, nil }),
				"exit_status": get1(commands, typeNumber, func(o output) (value, error) { return value{text: strconv.Itoa(o.status)}, nil }),
			},
			paths: map[string]pathAttribute{
				"stdout_as_json.": {"PATH", documentPath(commands, decodeJSON, func(o output) string { return o.stdout })},
				"stdout_as_yaml.": {"PATH", documentPath(commands, decodeYAML, func(o output) string { return o.stdout })},
			},
		},
	}
}

// ask1 makes a matcher about facts of type F.
func ask1[F any](k *kind, presence bool, arg func(cty.Value) (argument, error), test func(F, argument) (bool, string, error)) matcher {
	return matcher{kind: k, presence: presence, argument: arg, test: func(fact any, a argument) (bool, string, error) { return test(fact.(F), a) }}
}

// get1 makes an attribute of facts of type F.
func get1[F any](k *kind, t valueType, get func(F) (value, error)) attribute {
	return attribute{kind: k, typ: t, get: func(fact any) (value, error) { return get(fact.(F)) }}
}

func asText(s string) (value, error) { return value{text: s}, nil }

func equal(have, want string) (bool, string, error) { return have == want, strconv.Quote(have), nil }

func nameOrID(name, id, want string) (bool, string, error) {
	return name == want || id == want, fmt.Sprintf("%q (%s)", name, id), nil
}

func (p pkg) present() error {
	switch {
	case len(p.versions) > 0:
		return nil
	case p.state != "":
		return missing("not installed: " + p.state)
	}
	return missing("not installed")
}

func installed(p pkg, a argument) (bool, string, error) {
	if err := p.present(); err != nil {
		return false, err.Error(), nil
	}
	actual := "installed: " + strings.Join(slices.Compact(slices.Clone(p.versions)), ", ")
	if a.want == nil {
		return true, actual, nil
	}
	s, err := schemeOf(p.manager)
	if err != nil {
		return false, "", err
	}
	any := false
	for _, v := range p.versions {
		ok, err := a.want.holds(s, v)
		if err != nil {
			return false, "", err
		}
		any = any || ok
	}
	return any, actual + " (in " + s.name + "'s order)", nil
}

func listening(here []listener, a argument) (bool, string, error) {
	var heard []string
	found, unknown := false, false
	for _, l := range here {
		heard = append(heard, l.String())
		if a.proto != "" && (strings.HasPrefix(a.proto, "udp") != l.udp || strings.HasSuffix(a.proto, "6") && !l.addr.Addr().Is6()) {
			continue
		}
		switch addr := l.addr.Addr(); {
		case !a.on.IsValid(), a.on == addr:
			found = true
		case a.on == netip.IPv4Unspecified() && addr == netip.IPv6Unspecified():
			// It takes IPv4 too, unless it was told not to.
			found = found || l.only6 == "0"
			unknown = unknown || l.only6 == ""
		}
	}
	switch {
	case len(here) == 0:
		return false, "nothing listens", nil
	case !found && unknown:
		return false, "", errors.New("a listener on [::] is there, and without ss on the machine one cannot tell whether it takes IPv4 (on Windows one never can)")
	}
	return found, strings.Join(heard, ", "), nil
}

func fileType(want string) matcher {
	return ask1(files, true, options(), func(f file, _ argument) (bool, string, error) {
		if f.target == nil {
			return false, string(f.why), nil
		}
		return f.target.typ() == want, f.target.typ(), nil
	})
}

func fileAttribute(t valueType, get func(fileStat) string) attribute {
	return get1(files, t, func(f file) (value, error) {
		if f.target == nil {
			return value{}, f.why
		}
		return value{text: get(*f.target)}, nil
	})
}

// ownerAttribute is an attribute that may not be readable where the file is.
func ownerAttribute(get func(fileStat) string) attribute {
	return get1(files, typeText, func(f file) (value, error) {
		switch {
		case f.target == nil:
			return value{}, f.why
		case f.target.noOwner != nil:
			return value{}, f.target.noOwner
		}
		return value{text: get(*f.target)}, nil
	})
}

// account compares the owner or group of a file.
func (f file) account(name, id, want string) (bool, string, error) {
	switch {
	case f.target.noOwner != nil:
		return false, "", f.target.noOwner
	case f.windows:
		return sameAccount(name, want) || strings.EqualFold(id, want), fmt.Sprintf("%q (%s)", name, id), nil
	}
	return nameOrID(name, id, want)
}

// processAttribute is an attribute of processes that all of a name share.
func processAttribute(name string, t valueType, get func(process) string) attribute {
	return get1(processes, t, func(p []process) (value, error) {
		if len(p) == 0 {
			return value{}, missing("no such process")
		}
		for _, q := range p {
			if slices.Contains(q.hidden, name) {
				return value{}, fmt.Errorf("the machine does not say this of process %s", q.pid)
			}
			if get(q) != get(p[0]) {
				return value{}, fmt.Errorf("%d processes of this name differ: %q and %q", len(p), get(p[0]), get(q))
			}
		}
		return value{text: get(p[0])}, nil
	})
}

// What labels may be.

func pattern(re string) func(string) error {
	r := regexp.MustCompile(re)
	return func(label string) error {
		if !r.MatchString(label) {
			return fmt.Errorf("%q is not a name that a machine could know", label)
		}
		return nil
	}
}

var controls = regexp.MustCompile(`\pC`)

func printable(label string) error {
	if controls.MatchString(label) {
		return errors.New("it holds control characters")
	}
	return nil
}

// filePath takes a path of either system.
func filePath(label string) error {
	if path.IsAbs(label) || windowsPath(label) == nil {
		return printable(label)
	}
	return errors.New(`a file's path begins with /, or on Windows with a drive: C:\…`)
}

func posixPath(label string) error {
	if !path.IsAbs(label) {
		return errors.New("a file's path begins with / here")
	}
	return nil
}

// accountName refuses what is no account's name anywhere.
func accountName(label string) error {
	if strings.Trim(label, "0123456789 ") == "" || strings.ContainsAny(label, ":/") || label[0] == '-' {
		return fmt.Errorf("%q is not an account's name; ids are checked by have_uid and have_gid", label)
	}
	return printable(label)
}

// account refuses what would end an option list or be taken for an id.
func account(label string) error {
	if strings.Trim(label, "0123456789") == "" || strings.ContainsAny(label, ":/ ") || label[0] == '-' {
		return fmt.Errorf("%q is not an account's name; ids are checked by have_uid and have_gid", label)
	}
	return printable(label)
}

// What matchers may be given.

// options is the argument of a predicate: true, or an object with some of keys.
func options(keys ...string) func(cty.Value) (argument, error) {
	return func(v cty.Value) (argument, error) {
		var a argument
		if v.Type() == cty.Bool {
			if v.False() {
				return a, errors.New("write should_not { … = true } to ask for the opposite")
			}
			return a, nil
		}
		if len(keys) == 0 {
			return a, errors.New("true is expected")
		}
		if !v.Type().IsObjectType() && !v.Type().IsMapType() {
			return a, fmt.Errorf("true or an object with %s is expected", strings.Join(keys, ", "))
		}
		given := v.AsValueMap()
		for _, k := range slices.Sorted(maps.Keys(given)) {
			if !slices.Contains(keys, k) {
				return a, fmt.Errorf("%q is not expected here%s; known: %s", k, suggest(k, keys), strings.Join(keys, ", "))
			}
			s, err := asString(given[k])
			if err != nil {
				return a, fmt.Errorf("%s: %w", k, err)
			}
			switch k {
			case "with_version":
				a.want, err = parseConstraint(s)
			case "with":
				if !slices.Contains([]string{"tcp", "tcp6", "udp", "udp6"}, s) {
					err = fmt.Errorf("with is tcp, tcp6, udp or udp6, not %q", s)
				}
				a.proto = s
			case "on":
				a.on, err = netip.ParseAddr(s)
				a.on = a.on.Unmap()
			default:
				if err = printable(s); err == nil && s == "" {
					err = fmt.Errorf("%s is empty", k)
				}
				if a.opt == nil {
					a.opt = map[string]string{}
				}
				a.opt[k] = s
			}
			if err != nil {
				return a, err
			}
			a.words += " " + strings.ReplaceAll(k, "_", " ") + " " + s
		}
		a.words = strings.TrimSpace(a.words)
		return a, nil
	}
}

func text(v cty.Value) (argument, error) {
	s, err := asString(v)
	return argument{words: strconv.Quote(s), text: s}, err
}

func octal(v cty.Value) (argument, error) {
	s, err := asString(v)
	if err != nil {
		return argument{}, err
	}
	mode, err := parseMode(s)
	return argument{words: fmt.Sprintf("%04o", mode), mode: mode}, err
}

// parseMode reads permissions the way that chmod does: 644, "644" and "0644" are the same.
func parseMode(s string) (uint32, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o7777 {
		return 0, fmt.Errorf("%q is not a mode; write e.g. \"0644\"", s)
	}
	return uint32(mode), nil
}
