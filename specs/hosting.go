package specs

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// hostingResources are about containers, virtual machines, ZFS, package
// sources and the settings of PHP and MySQL.
func hostingResources() []resource {
	container := pattern(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	exists := func(k *kind) matcher {
		return ask1(k, true, options(), func(cty.Value, argument) (bool, string, error) { return true, "it is there", nil })
	}
	inspection := func(k *kind) map[string]pathAttribute {
		return map[string]pathAttribute{"": {"PATH", func(rest string) (attribute, error) {
			steps, err := parsePath(rest)
			if err != nil {
				return attribute{}, err
			}
			return get1(k, typeAny, func(doc cty.Value) (value, error) { return walk(doc, steps) }), nil
		}}}
	}
	guest := func(k *kind) map[string]matcher {
		return map[string]matcher{
			"exist":      ask1(k, true, options(), func(g guestState, _ argument) (bool, string, error) { return true, g.state, nil }),
			"be_running": ask1(k, true, options(), func(g guestState, _ argument) (bool, string, error) { return g.state == "running", g.state, nil }),
		}
	}
	kvm := guest(kvms)
	kvm["be_enabled"] = ask1(kvms, true, options(), func(g guestState, _ argument) (bool, string, error) {
		switch g.autostart {
		case "enable":
			return true, "it starts with the host", nil
		case "disable":
			return false, "it does not start with the host", nil
		}
		return false, "", errors.New("virsh did not say whether it starts with the host")
	})
	repository := func(k *kind) map[string]matcher {
		return map[string]matcher{
			"exist": ask1(k, true, options(), func(r repo, _ argument) (bool, string, error) { return true, r.String(), nil }),
			"be_enabled": ask1(k, true, options(), func(r repo, _ argument) (bool, string, error) {
				return r.enabled, r.String(), nil
			}),
		}
	}
	withIni := func(subject string, opts map[string]string) string { return subject + "\x00" + opts["ini"] }
	phpValue := get1(phpConfigs, typeAny, anyValue)
	phpValue.key = withIni
	zfsProperty := func(rest string) (attribute, error) {
		if strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789:_.@-") != "" {
			return attribute{}, errors.New("not a property's name")
		}
		return get1(zfses, typeAny, func(all map[string]string) (value, error) {
			v, ok := all[rest]
			if !ok {
				return value{}, missing("it has no property " + rest)
			}
			return anyValue(v)
		}), nil
	}
	return []resource{
		{
			name: "docker_image", subject: pattern(`^[A-Za-z0-9][A-Za-z0-9_.:/@-]*$`),
			matchers: map[string]matcher{"exist": exists(dockerImages)},
			paths:    inspection(dockerImages),
		},
		{
			name: "docker_container", subject: container,
			matchers: map[string]matcher{
				"exist": exists(dockerContainers),
				"be_running": ask1(dockerContainers, true, options(), func(doc cty.Value, _ argument) (bool, string, error) {
					running, err := walk(doc, []any{"State", "Running"})
					if err != nil {
						return false, "", fmt.Errorf("docker did not say whether it runs: %w", errors.New(err.Error()))
					}
					again, err := walk(doc, []any{"State", "Restarting"})
					state := "running " + running.text
					if err == nil {
						state += ", restarting " + again.text
					}
					return running.text == "true" && again.text != "true", state, nil
				}),
				"have_volume": ask1(dockerContainers, false, volumeArgument, hasVolume),
			},
			paths: inspection(dockerContainers),
		},
		{name: "lxc", subject: container, matchers: guest(lxcs)},
		{name: "kvm", subject: container, matchers: kvm},
		{
			name: "zfs", subject: pattern(`^[A-Za-z][A-Za-z0-9_.:@#/ -]*$`),
			matchers: map[string]matcher{
				"exist": ask1(zfses, true, options(), func(all map[string]string, _ argument) (bool, string, error) { return true, all["type"], nil }),
				"have_property": ask1(zfses, false, propertiesArgument, func(all map[string]string, a argument) (bool, string, error) {
					for i := 0; i+1 < len(a.list); i += 2 {
						if have, ok := all[a.list[i]]; !ok {
							return false, "it has no property " + a.list[i], nil
						} else if have != a.list[i+1] {
							return false, a.list[i] + " is " + have, nil
						}
					}
					return true, "as asked for", nil
				}),
			},
			paths: map[string]pathAttribute{"property.": {"NAME", zfsProperty}},
		},
		{name: "yumrepo", subject: pattern(`^[A-Za-z0-9][A-Za-z0-9_.:/-]*$`), matchers: repository(yumRepos)},
		{name: "ppa", subject: pattern(`^(ppa:)?[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*$`), matchers: repository(ppas)},
		{
			name: "php_config", subject: pattern(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`), options: []string{"ini"},
			attributes: map[string]attribute{"value": phpValue},
		},
		{
			name: "php_extension", subject: pattern(`^[A-Za-z0-9_][A-Za-z0-9_. -]*$`),
			matchers: map[string]matcher{"be_loaded": ask1(phpExtensions, true, options(), func(yes bool, _ argument) (bool, string, error) {
				return yes, map[bool]string{true: "loaded", false: "not loaded"}[yes], nil
			})},
		},
		{
			name: "mysql_config", subject: pattern(`^[A-Za-z0-9_-]+$`),
			attributes: map[string]attribute{"value": get1(mysqlConfigs, typeAny, anyValue)},
		},
	}
}

// Docker. A machine that has podman instead is asked by that.

func inspect(what string) *kind {
	return &kind{
		name: "docker " + what,
		each: true,
		script: `for d in docker podman; do command -v $d >/dev/null && exec $d inspect --type ` + what + ` "$1"; done
echo "neither docker nor podman is there" >&2
exit 99`,
		read: one(func(a answer) (any, error) {
			said := strings.ToLower(string(a.errOut))
			if a.status != 0 && a.status != 99 && (strings.Contains(said, "no such ") || strings.Contains(said, "image not known")) && !strings.Contains(said, "no such file") {
				return nil, missing("no such " + what)
			}
			if a.status != 0 {
				return nil, failed(a, "docker")
			}
			doc, err := decodeJSON(a.out)
			if err != nil {
				return nil, err
			}
			if t := doc.Type(); doc.IsNull() || !t.IsTupleType() || t.Length() != 1 {
				return nil, errors.New("docker's answer is not about one " + what)
			}
			return doc.Index(cty.NumberIntVal(0)), nil
		}),
	}
}

var dockerImages, dockerContainers = inspect("image"), inspect("container")

// volumeArgument reads { container, host }.
func volumeArgument(v cty.Value) (argument, error) {
	return object("container", "host")(v)
}

func hasVolume(doc cty.Value, a argument) (bool, string, error) {
	var said []string
	for i := range 1000 {
		step := func(name string) string {
			x, err := walk(doc, []any{"Mounts", i, name})
			if err != nil {
				return ""
			}
			return x.text
		}
		to, from := step("Destination"), step("Source")
		if to == "" {
			break
		}
		said = append(said, from+" on "+to)
		if to == a.text && (a.opt["host"] == "" || from == a.opt["host"]) {
			return true, from + " on " + to, nil
		}
	}
	if len(said) == 0 {
		return false, "it has no volumes", nil
	}
	return false, strings.Join(said, ", "), nil
}

// Guests.

type guestState struct{ state, autostart string }

var lxcs = &kind{
	name: "lxc",
	each: true,
	script: `command -v lxc-info >/dev/null || { echo "there is no lxc-info" >&2; exit 9; }
exec lxc-info -s -n "$1" 2>&1`,
	read: one(func(a answer) (any, error) {
		said := strings.TrimSpace(string(a.out))
		switch state, ok := strings.CutPrefix(said, "State:"); {
		case ok:
			return guestState{state: strings.ToLower(strings.TrimSpace(state))}, nil
		case strings.HasSuffix(said, "doesn't exist"):
			return nil, missing("no such container")
		case said != "":
			return nil, fmt.Errorf("lxc-info says: %s", Clean(said))
		}
		return nil, failed(a, "lxc-info")
	}),
}

var kvms = &kind{
	name: "kvm",
	each: true,
	script: `command -v virsh >/dev/null || { echo "there is no virsh" >&2; exit 9; }
exec virsh dominfo "$1"`,
	read: one(func(a answer) (any, error) {
		var g guestState
		for _, l := range lines(a.out) {
			switch k, v, _ := strings.Cut(l, ":"); k {
			case "State":
				g.state = strings.TrimSpace(v)
			case "Autostart":
				g.autostart = strings.TrimSpace(v)
			}
		}
		switch {
		case a.status == 0 && g.state != "":
			return g, nil
		case strings.Contains(string(a.errOut), "failed to get domain"):
			return nil, missing("no such machine")
		}
		return nil, failed(a, "virsh")
	}),
}

// ZFS.

var zfses = &kind{
	name: "zfs",
	each: true,
	script: `command -v zfs >/dev/null || { echo "there is no zfs" >&2; exit 9; }
exec zfs get -H -o property,value all "$1"`,
	read: one(func(a answer) (any, error) {
		if a.status != 0 && strings.Contains(string(a.errOut), "dataset does not exist") {
			return nil, missing("no such dataset")
		}
		all := map[string]string{}
		for _, l := range lines(a.out) {
			if k, v, ok := strings.Cut(l, "\t"); ok {
				all[k] = v
			}
		}
		if a.status != 0 || len(all) == 0 {
			return nil, failed(a, "zfs")
		}
		return all, nil
	}),
}

// propertiesArgument reads an object of properties.
func propertiesArgument(v cty.Value) (argument, error) {
	if !v.Type().IsObjectType() && !v.Type().IsMapType() || v.LengthInt() == 0 {
		return argument{}, errors.New("an object such as { compression = \"lz4\" } is expected")
	}
	var a argument
	for it := v.ElementIterator(); it.Next(); {
		k, e := it.Element()
		s, err := asString(e)
		if err != nil {
			return a, fmt.Errorf("%s: %w", k.AsString(), err)
		}
		a.list = append(a.list, k.AsString(), s)
		a.words += " " + k.AsString() + " " + s
	}
	a.words = strings.TrimSpace(a.words)
	return a, nil
}

// Package sources, read from their files: the package managers would take long,
// or go to the network.

type repo struct {
	enabled bool
	file    string
}

func (r repo) String() string {
	if r.enabled {
		return "enabled in " + r.file
	}
	return "disabled in " + r.file
}

// marked prints files, each line behind the file's name.
const marked = `c() { for f; do [ -f "$f" ] || continue; [ -r "$f" ] || { echo "$f cannot be read" >&2; exit 9; }; echo "#file $f"; cat "$f"; echo; done; }
`

var yumRepos = &kind{
	name: "yumrepo",
	script: marked + `[ -d /etc/yum.repos.d ] || [ -d /etc/zypp/repos.d ] || [ -e /etc/yum.conf ] || [ -e /etc/dnf/dnf.conf ] || { echo "there is no yum, dnf or zypper" >&2; exit 9; }
c /etc/yum.conf /etc/dnf/dnf.conf /etc/yum.repos.d/*.repo /etc/distro.repos.d/*.repo /etc/zypp/repos.d/*.repo /usr/share/dnf5/repos.override.d/*.repo /etc/dnf/repos.override.d/*.repo`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for repositories")
		}
		result := facts{}
		file, id := "", ""
		for _, l := range lines(a.out) {
			if f, ok := strings.CutPrefix(l, "#file "); ok {
				file, id = f, ""
				continue
			}
			override := strings.Contains(file, "/repos.override.d/")
			l = strings.TrimSpace(l)
			if strings.HasPrefix(l, "[") && strings.HasSuffix(l, "]") {
				id = l[1 : len(l)-1]
				if slices.Contains(subjects, id) && result[id] == nil && !override {
					result[id] = repo{true, file}
				}
				continue
			}
			k, v, ok := strings.Cut(l, "=")
			if r, known := result[id].(repo); ok && known && strings.TrimSpace(k) == "enabled" {
				switch v = strings.ToLower(strings.TrimSpace(v)); v {
				case "1", "yes", "true", "on":
					result[id] = repo{true, file}
				case "0", "no", "false", "off":
					result[id] = repo{false, file}
				default:
					result[id] = fmt.Errorf("%s has enabled=%s for it", r.file, Clean(v))
				}
			}
		}
		for _, s := range subjects {
			if result[s] == nil {
				result[s] = missing("no such repository")
			}
		}
		return result, nil
	},
}

var ppaHost = regexp.MustCompile(`^https?://(?:[^@/\s]*@)?(?:private-)?(?:ppa\.launchpad\.net|ppa\.launchpadcontent\.net)/([^/\s]+/[^/\s]+)`)

var ppas = &kind{
	name: "ppa",
	script: marked + `[ -d /etc/apt ] || { echo "there is no apt" >&2; exit 9; }
c /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources`,
	read: func(a answer, subjects []string) (facts, error) {
		if a.status != 0 {
			return nil, failed(a, "the question for package sources")
		}
		result, file := facts{}, ""
		know := func(uri string, enabled bool) {
			m := ppaHost.FindStringSubmatch(uri)
			if m == nil {
				return
			}
			for _, s := range []string{m[1], "ppa:" + m[1]} {
				if r, ok := result[s].(repo); slices.Contains(subjects, s) && (!ok || !r.enabled) {
					result[s] = repo{enabled, file}
				}
			}
		}
		// A stanza of a .sources file ends with an empty line.
		var uris []string
		enabled, inURIs := true, false
		end := func() {
			for _, u := range uris {
				know(u, enabled)
			}
			uris, enabled, inURIs = nil, true, false
		}
		for _, l := range lines(a.out) {
			if f, ok := strings.CutPrefix(l, "#file "); ok {
				end()
				file = f
				continue
			}
			if strings.HasSuffix(file, ".sources") {
				k, v, ok := strings.Cut(l, ":")
				switch {
				case strings.TrimSpace(l) == "":
					end()
				case l[0] == '#':
				case (l[0] == ' ' || l[0] == '\t') && inURIs:
					uris = append(uris, strings.Fields(l)...)
				case ok && strings.EqualFold(k, "URIs"):
					uris, inURIs = append(uris, strings.Fields(v)...), true
				case ok && strings.EqualFold(k, "Enabled"):
					v = strings.ToLower(strings.TrimSpace(v))
					enabled, inURIs = v != "no" && v != "false" && v != "0" && v != "off" && v != "without" && v != "disable", false
				case l[0] != ' ' && l[0] != '\t':
					inURIs = false
				}
				continue
			}
			l, off := strings.CutPrefix(strings.TrimSpace(l), "#")
			if f := strings.Fields(l); len(f) > 1 && (f[0] == "deb" || f[0] == "deb-src") {
				for _, w := range f[1:] {
					know(w, !off)
				}
			}
		}
		end()
		for _, s := range subjects {
			if result[s] == nil {
				result[s] = missing("no such source")
			}
		}
		return result, nil
	},
}

// Settings.

// phpConfigs are what the configuration files say, as those count for the
// server too, and PHP's own values otherwise.
var phpConfigs = &kind{
	name: "php setting",
	each: true,
	script: `command -v php >/dev/null || { echo "there is no php" >&2; exit 9; }
[ -z "$2" ] || [ -r "$2" ] || { echo "$2 cannot be read" >&2; exit 9; }
exec php ${2:+-c "$2"} -r '$v = get_cfg_var($argv[1]); if ($v === false) $v = ini_get($argv[1]); if (is_array($v)) $v = implode(",", $v); echo $v === false ? "no" : "yes" . $v;' -- "$1"`,
	read: one(func(a answer) (any, error) {
		said := string(a.out)
		v, yes := strings.CutPrefix(said, "yes")
		switch {
		case a.status == 0 && yes:
			return v, nil
		case a.status == 0 && said == "no":
			return nil, missing("PHP knows no such setting")
		case said != "":
			return nil, fmt.Errorf("php says: %s", Clean(said))
		}
		return nil, failed(a, "php")
	}),
}

var phpExtensions = &kind{
	name: "php extension",
	each: true,
	script: `command -v php >/dev/null || { echo "there is no php" >&2; exit 9; }
exec php -r 'echo extension_loaded($argv[1]) || (function_exists("zend_version") && in_array($argv[1], get_loaded_extensions(true))) ? "yes" : "no";' -- "$1"`,
	read: one(func(a answer) (any, error) {
		switch said := string(a.out); {
		case a.status == 0 && (said == "yes" || said == "no"):
			return said == "yes", nil
		case said != "":
			return nil, fmt.Errorf("php says: %s", Clean(said))
		}
		return nil, failed(a, "php")
	}),
}

// mysqlConfigs are what the server would start with.
var mysqlConfigs = &kind{
	name: "mysql setting",
	script: `for m in mariadbd mysqld /usr/libexec/mariadbd /usr/libexec/mysqld; do command -v $m >/dev/null && exec $m --verbose --help; done
echo "neither mariadbd nor mysqld is there" >&2
exit 9`,
	read: func(a answer, subjects []string) (facts, error) {
		_, table, ok := strings.Cut(string(a.out), "\n-----")
		if a.status != 0 || !ok {
			return nil, failed(a, "the database server")
		}
		all := map[string]string{}
		for _, l := range strings.Split(table, "\n")[1:] {
			if l == "" {
				break
			}
			name, v, _ := strings.Cut(l, " ")
			v = strings.TrimSpace(v)
			if v == "(No default value)" {
				v = ""
			}
			all[strings.ReplaceAll(name, "_", "-")] = v
		}
		if len(all) == 0 {
			return nil, failed(a, "the database server")
		}
		result := facts{}
		for _, s := range subjects {
			if v, ok := all[strings.ReplaceAll(s, "_", "-")]; ok {
				result[s] = v
			} else {
				result[s] = missing("the server knows no such setting")
			}
		}
		return result, nil
	},
}
