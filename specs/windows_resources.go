package specs

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/zclconf/go-cty/cty"
)

// Kinds that only Windows has; windowsKinds asks for them.
var (
	chocolatey     = &kind{name: "chocolatey", windows: true}
	psModules      = &kind{name: "psmodule", windows: true}
	fileVersions   = &kind{name: "file version", windows: true}
	features       = &kind{name: "windows feature", windows: true}
	hotFixes       = &kind{name: "windows hot fix", windows: true}
	registryKeys   = &kind{name: "registry key", windows: true}
	registryValues = &kind{name: "registry value", windows: true}
	scheduledTasks = &kind{name: "scheduled task", windows: true}
	firewallRules  = &kind{name: "windows firewall", windows: true}
	websites       = &kind{name: "iis website", windows: true}
	appPools       = &kind{name: "iis app pool", windows: true}
)

// misfit says why a check cannot be made on a machine, if that is so.
func (c Check) misfit(windows bool) error {
	switch {
	case c.kind.outside != nil: // the machine need not know
		return nil
	case c.goss != nil && windows:
		return unsupported("goss files ask machines with a POSIX shell")
	}
	other, subject, has := "posix", c.fitWindows, windowsKinds()[c.kind.wider().name].script != ""
	if !windows {
		other, subject, has = "windows", c.fitPosix, !c.kind.windows
	}
	switch {
	case (c.only == other || !has) && windows:
		return unsupported("Windows has no such thing, or specs do not know it there")
	case c.only == other || !has:
		return unsupported("only Windows has such a thing")
	case subject != nil:
		return unsupported(subject.Error())
	}
	return nil
}

// systems marks what only one of the two systems has although the kind of fact
// is on both.
func systems(all []resource) []resource {
	posix := map[string]string{
		"file":    "be_mode be_pipe be_socket be_block_device be_character_device its:mode its:uid its:gid",
		"user":    "have_uid have_login_shell belong_to_primary_group its:uid its:gid its:shell its:primary_group",
		"group":   "have_gid its:gid",
		"process": "its:group its:state its:uid its:gid",
		"bond":    "exist have_interface",
		"bridge":  "exist have_interface",
	}
	windows := map[string]string{
		"service": "be_installed have_start_mode have_property",
		"user":    "its:sid",
		"group":   "its:sid",
	}
	for _, r := range all {
		for only, names := range map[string]string{"posix": posix[r.name], "windows": windows[r.name]} {
			for _, n := range strings.Fields(names) {
				if its, ok := strings.CutPrefix(n, "its:"); ok {
					a := r.attributes[its]
					a.only = only
					r.attributes[its] = a
				} else {
					m := r.matchers[n]
					m.only = only
					r.matchers[n] = m
				}
			}
		}
	}
	return all
}

var windowsRoot = regexp.MustCompile(`^([A-Za-z]:[\\/]|\\\\[^\\/]+[\\/]|%[A-Za-z0-9_()]+%[\\/])`)

// windowsPath takes whole paths, which may begin with a variable: %ProgramFiles%\x.
func windowsPath(label string) error {
	root := windowsRoot.FindString(label)
	if root == "" {
		return errors.New(`a file's path begins with a drive here: C:\…`)
	}
	if strings.ContainsAny(label[len(root):], `<>:"|?*`) {
		return errors.New("it holds characters that no name of a file has on Windows")
	}
	return printable(label)
}

// certificatePath is a file's path, or one into a certificate store.
func certificatePath(label string) error {
	if storePath.MatchString(label) {
		return nil
	}
	return filePath(label)
}

func windowsCertificatePath(label string) error {
	if storePath.MatchString(label) {
		return nil
	}
	return windowsPath(label)
}

var storePath = regexp.MustCompile(`(?i)^cert:\\(LocalMachine|CurrentUser)\\[A-Za-z0-9 ]+\\[0-9a-f]{40}$`)

func samePath(a, b string) bool {
	clean := func(s string) string { return strings.TrimRight(strings.ReplaceAll(s, "/", `\`), `\`) }
	return strings.EqualFold(clean(a), clean(b))
}

// sameAccount compares DOMAIN\name with the same, or with name alone.
func sameAccount(have, want string) bool {
	if !strings.Contains(want, `\`) {
		have = have[strings.LastIndexByte(have, '\\')+1:]
	}
	return have != "" && strings.EqualFold(have, want)
}

func idName(unix string, windows bool) string {
	if windows {
		return "SID "
	}
	return unix + " "
}

// builtIn says whether a SID is of an account that comes with Windows: of the
// domain BUILTIN, or with a relative id below those that people get.
func builtIn(sid string) (bool, string, error) {
	rid, err := strconv.ParseUint(sid[strings.LastIndexByte(sid, '-')+1:], 10, 32)
	if err != nil || !strings.HasPrefix(sid, "S-1-") {
		return false, "", fmt.Errorf("the machine gave %q for a SID", Clean(sid))
	}
	return rid < 1000 || strings.HasPrefix(sid, "S-1-5-32-"), "SID " + sid, nil
}

// powershellText is what PowerShell wrote to its error output.
func powershellText(b []byte) []byte {
	var out strings.Builder
	w := powershell.NewStderr(&out)
	_, _ = w.Write(b) // a builder takes everything
	_ = w.Flush()
	return []byte(out.String())
}

// startMode is Windows' own word, with what it keeps apart.
func (u unit) startMode() string {
	if m := u.props["StartMode"]; m != "Auto" || u.props["DelayedAutoStart"] != "true" {
		return m
	}
	return "Auto (delayed)"
}

// startModes are the words for a start mode: Win32_Service's, and those of
// Get-Service and the management console.
func startModes() map[string]string {
	return map[string]string{
		"auto": "Auto", "automatic": "Auto", "manual": "Manual", "demand": "Manual", "disabled": "Disabled", "boot": "Boot", "system": "System",
		"automatic (delayed start)": "Auto (delayed)", "auto (delayed)": "Auto (delayed)", "delayed-auto": "Auto (delayed)", "automaticdelayedstart": "Auto (delayed)",
	}
}

// windowsServices is what the service resource can say of Windows alone.
func windowsServices(r resource) resource {
	r.matchers["be_installed"] = ask1(services, true, options(), func(u unit, _ argument) (bool, string, error) { return true, "State=" + u.props["State"], nil })
	r.matchers["have_start_mode"] = ask1(services, false, func(v cty.Value) (argument, error) {
		a, err := text(v)
		if mode := startModes()[strings.ToLower(a.text)]; err == nil && mode == "" {
			err = fmt.Errorf("%q is none of Automatic, Automatic (Delayed Start), Manual, Disabled, Boot and System", a.text)
		} else {
			a.text = mode
		}
		return a, err
	}, func(u unit, a argument) (bool, string, error) {
		mode := u.startMode()
		return mode == a.text || a.text == "Auto" && u.props["StartMode"] == "Auto", mode, nil
	})
	r.matchers["have_property"] = ask1(services, false, properties, func(u unit, a argument) (bool, string, error) {
		for i := 0; i+1 < len(a.list); i += 2 {
			name, want := a.list[i], a.list[i+1]
			have, known := "", false
			for k, v := range u.props {
				if strings.EqualFold(k, name) {
					have, known = v, true
				}
			}
			if !known {
				return false, "", missing("the service has no property " + name)
			}
			if !strings.EqualFold(have, want) {
				return false, name + " is " + strconv.Quote(have), nil
			}
		}
		return true, "it has them", nil
	})
	return r
}

// properties reads an object as a list of names and values.
func properties(v cty.Value) (argument, error) {
	if !v.Type().IsObjectType() && !v.Type().IsMapType() || v.LengthInt() == 0 {
		return argument{}, errors.New("an object with properties is expected, such as { StartName = \"LocalSystem\" }")
	}
	var a argument
	for it := v.ElementIterator(); it.Next(); {
		k, e := it.Element()
		s, err := asString(e)
		if err == nil {
			err = printable(s)
		}
		if err != nil {
			return a, fmt.Errorf("%s: %w", k.AsString(), err)
		}
		a.list = append(a.list, k.AsString(), s)
		a.words += ", " + k.AsString() + " " + s
	}
	a.words = strings.TrimPrefix(a.words, ", ")
	return a, nil
}

// fileVersion is what the version resource of a file says: four numbers, and two texts.
type fileVersion struct{ number, file, product string }

func versionMatcher() matcher {
	return ask1(fileVersions, false, func(v cty.Value) (argument, error) {
		a, err := text(v)
		if err == nil {
			a.want, err = parseConstraint(a.text)
		}
		return a, err
	}, func(f fileVersion, a argument) (bool, string, error) {
		s, err := schemeOf("windows")
		if err != nil {
			return false, "", err
		}
		actual := f.number
		if f.product != "" {
			actual += " (product " + f.product + ")"
		}
		if a.text == f.file || a.text == f.product {
			return true, actual, nil
		}
		ok, err := a.want.holds(s, f.number)
		return ok, actual, err
	})
}

// compareWindows orders versions as numbers between dots, where what is left
// out is 0; what follows a "-" is before the same without it.
func compareWindows(a, b string) int {
	a, _, _ = strings.Cut(a, "+")
	b, _, _ = strings.Cut(b, "+")
	a, preA, hasA := strings.Cut(a, "-")
	b, preB, hasB := strings.Cut(b, "-")
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		p, q := "0", "0"
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		if c := compareDigits(p, q); c != 0 {
			return c
		}
	}
	switch {
	case hasA && !hasB:
		return -1
	case hasB && !hasA:
		return 1
	}
	return compareGem(preA, preB)
}

var windowsVersion = regexp.MustCompile(`^\d+(\.\d+)*(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// A registryValue is a value as Windows has it: binary as hex, numbers without a sign.
type registryValue struct {
	kind, text string
	list       []string
}

func (v registryValue) String() string {
	if v.kind == "multistring" {
		return v.kind + " [" + quoteAll(v.list) + "]"
	}
	return v.kind + " " + strconv.Quote(v.text)
}

// is says whether a value is the wanted one. Numbers may be given as 0x…; hex
// of a binary may have blanks.
func (v registryValue) is(want []string) bool {
	if v.kind == "multistring" {
		return slices.Equal(v.list, want)
	}
	if len(want) != 1 {
		return false
	}
	switch v.kind {
	case "string", "expandstring":
		return v.text == want[0]
	case "dword", "qword":
		n, err := strconv.ParseUint(want[0], 0, 64)
		return err == nil && strconv.FormatUint(n, 10) == v.text
	}
	return strings.EqualFold(v.text, strings.NewReplacer(" ", "", ",", "", "-", "").Replace(want[0]))
}

var registryHives = map[string]string{
	"hkey_local_machine": "LocalMachine", "hklm": "LocalMachine", "hkey_current_user": "CurrentUser", "hkcu": "CurrentUser",
	"hkey_classes_root": "ClassesRoot", "hkcr": "ClassesRoot", "hkey_users": "Users", "hku": "Users", "hkey_current_config": "CurrentConfig", "hkcc": "CurrentConfig",
}

// registryPath cuts a key into its hive and its path.
func registryPath(label string) (hive, path string) {
	label = strings.TrimPrefix(label, "Registry::")
	hive, path, _ = strings.Cut(label, `\`)
	return registryHives[strings.TrimSuffix(strings.ToLower(hive), ":")], strings.Trim(path, `\`)
}

func registryLabel(label string) error {
	if hive, _ := registryPath(label); hive == "" {
		return errors.New(`a key begins with its hive, such as HKEY_LOCAL_MACHINE\SOFTWARE or HKLM:\SOFTWARE`)
	}
	return printable(label)
}

func registryKey(subject string) string {
	hive, path := registryPath(subject)
	return hive + "\x00" + path
}

func registryType(s string) (string, error) {
	t := strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(s, ":"), "type_"))
	t = strings.TrimSuffix(t, "_converted")
	if !slices.Contains([]string{"string", "binary", "dword", "qword", "multistring", "expandstring"}, t) {
		return "", fmt.Errorf("%q is none of string, expandstring, multistring, dword, qword and binary", s)
	}
	return t, nil
}

// A registryWant is what a matcher asks of a value. Empty is not asked for.
type registryWant struct {
	property, kind string
	values         []string
}

// registryArgument reads { property, type, value }; main is what a plain text says.
func registryArgument(main string, need ...string) func(cty.Value) (argument, error) {
	return func(v cty.Value) (argument, error) {
		given := map[string]cty.Value{main: v}
		if v.Type().IsObjectType() || v.Type().IsMapType() {
			var err error
			if given, err = members(v, append([]string{"type"}, need...)...); err != nil {
				return argument{}, err
			}
		}
		var w registryWant
		var words []string
		for _, k := range []string{"property", "type", "value"} {
			e, ok := given[k]
			if !ok || e == cty.NilVal {
				if slices.Contains(need, k) {
					return argument{}, fmt.Errorf("%s is missing", k)
				}
				continue
			}
			if k == "value" && (e.Type().IsTupleType() || e.Type().IsListType()) {
				for _, one := range e.AsValueSlice() {
					s, err := asString(one)
					if err != nil {
						return argument{}, fmt.Errorf("value: %w", err)
					}
					w.values = append(w.values, s)
				}
				words = append(words, "value ["+quoteAll(w.values)+"]")
				continue
			}
			s, err := asString(e)
			if err == nil {
				switch k {
				case "property":
					w.property = s
					err = printable(s)
				case "type":
					w.kind, err = registryType(s)
				default:
					w.values = []string{s}
				}
			}
			if err != nil {
				return argument{}, fmt.Errorf("%s: %w", k, err)
			}
			words = append(words, k+" "+strconv.Quote(s))
		}
		return argument{words: strings.Join(words, ", "), extra: w}, nil
	}
}

func registryMatcher(presence bool, arg func(cty.Value) (argument, error)) matcher {
	m := ask1(registryValues, presence, arg, func(v registryValue, a argument) (bool, string, error) {
		w, _ := a.extra.(registryWant)
		ok := (w.kind == "" || w.kind == v.kind) && (w.values == nil || v.is(w.values))
		return ok, v.String(), nil
	})
	m.about = func(subject string, a argument, _ map[string]string) (*kind, string) {
		w, _ := a.extra.(registryWant)
		return registryValues, registryKey(subject) + "\x00" + w.property
	}
	return m
}

type scheduledTask struct {
	enabled bool
	state   string
}

// A firewallRule has the numbers of the protocols as IANA has them.
type firewallRule struct {
	enabled, inbound, allow bool
	protocol, ports         string
}

// firewallMatcher holds for rules of one name that are at one about it.
func firewallMatcher(arg func(cty.Value) (argument, error), is func(r firewallRule, a argument) bool, say func(r firewallRule) string) matcher {
	return ask1(firewallRules, false, arg, func(rules []firewallRule, a argument) (bool, string, error) {
		first := is(rules[0], a)
		var said []string
		for _, r := range rules {
			said = append(said, say(r))
			if is(r, a) != first {
				return false, "", fmt.Errorf("%d rules of this name differ", len(rules))
			}
		}
		return first, strings.Join(slices.Compact(said), "; "), nil
	})
}

// hasPort says whether a port is in a list such as "80,443,5000-5010". A rule
// for any port names none.
func hasPort(list, port string) bool {
	n, _ := strconv.ParseUint(port, 10, 16)
	for _, part := range strings.Split(list, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		low, err := strconv.ParseUint(from, 10, 16)
		high, err2 := strconv.ParseUint(to, 10, 16)
		if strings.EqualFold(strings.TrimSpace(part), port) || err == nil && err2 == nil && n > 0 && low <= n && n <= high {
			return true
		}
	}
	return false
}

// A website is what IIS's configuration says of a site.
type website struct {
	enabled  bool
	state    string
	noState  error // why the state is not known
	bindings []siteBinding
	apps     []siteApp
}

type siteBinding struct{ protocol, info string }

type siteApp struct {
	path, pool string
	dirs       [][2]string // path and physical path
}

// dir gives the physical path of a virtual directory.
func (a siteApp) dir(path string) (string, bool) {
	for _, d := range a.dirs {
		if strings.EqualFold(d[0], path) {
			return d[1], true
		}
	}
	return "", false
}

func (w website) app(path string) (siteApp, error) {
	for _, a := range w.apps {
		if strings.EqualFold(a.path, path) {
			return a, nil
		}
	}
	return siteApp{}, missing("the website has no application " + path)
}

// slashed begins a path in a site with the slash that IIS has there.
func slashed(s string) string { return "/" + strings.Trim(s, "/") }

// cut takes the information of a binding apart: address:port:host, where the
// address of IPv6 stands in brackets.
func (b siteBinding) cut() (address, port, host string) {
	i := strings.LastIndexByte(b.info, ':')
	if i < 0 {
		return b.info, "", ""
	}
	rest, host := b.info[:i], b.info[i+1:]
	if i = strings.LastIndexByte(rest, ':'); i < 0 {
		return rest, "", host
	}
	return rest[:i], rest[i+1:], host
}

func (b siteBinding) has(a argument) bool {
	address, port, host := b.cut()
	want, given := a.opt["with_ipaddress"]
	if given && !strings.EqualFold(want, address) {
		x, err := netip.ParseAddr(want)
		y, err2 := netip.ParseAddr(strings.Trim(address, "[]"))
		if err != nil || err2 != nil || x != y {
			return false
		}
	}
	protocol, byProtocol := a.opt["with_protocol"]
	header, byHeader := a.opt["with_host_header"]
	return port == a.text && (!byProtocol || strings.EqualFold(protocol, b.protocol)) && (!byHeader || strings.EqualFold(header, host))
}

// appPool is an application pool, as its script has it.
type appPool record

func poolText(key string) func(appPool) (value, error) {
	return func(p appPool) (value, error) { return value{text: record(p).text(key)}, nil }
}

func poolMatcher(key string, arg func(cty.Value) (argument, error), same func(have, want string) bool) matcher {
	return ask1(appPools, false, arg, func(p appPool, a argument) (bool, string, error) {
		have := record(p).text(key)
		return same(have, a.text), strconv.Quote(have), nil
	})
}

func poolIs(key, yes, no string) matcher {
	return ask1(appPools, false, options(), func(p appPool, _ argument) (bool, string, error) {
		if record(p).yes(key) {
			return true, yes, nil
		}
		return false, no, nil
	})
}

// number reads a number that is not negative.
func number(v cty.Value) (argument, error) {
	a, err := text(v)
	if err == nil {
		if n, e := strconv.ParseFloat(a.text, 64); e != nil || n < 0 {
			err = fmt.Errorf("%q is not a number of minutes", a.text)
		}
	}
	a.words = a.text
	return a, err
}

func sameNumber(a, b string) bool {
	x, err := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	return err == nil && err2 == nil && x == y
}

// windowsResources are those that no other system has.
func windowsResources() []resource {
	name := pattern(`^[^\s\pC]([^\pC]*[^\s\pC])?$`)
	protocol := func(number string) func(firewallRule, argument) bool {
		return func(r firewallRule, _ argument) bool { return r.protocol == number }
	}
	sayProtocol := func(r firewallRule) string { return "protocol " + r.protocol }
	return []resource{
		{
			name: "windows_feature", subject: name,
			matchers: map[string]matcher{"be_installed": {
				kind: features, presence: true, argument: choose(options("by"), "by", "dism", "powershell"),
				about: func(subject string, a argument, _ map[string]string) (*kind, string) {
					return features, a.opt["by"] + "\x00" + subject
				},
				test: func(fact any, _ argument) (bool, string, error) {
					state := fact.(string)
					return state == "Installed" || state == "Enabled", state, nil
				},
			}},
		},
		{
			name: "windows_hot_fix", subject: pattern(`^(?i)KB\d+$`),
			matchers: map[string]matcher{"be_installed": ask1(hotFixes, true, options(), func(what string, _ argument) (bool, string, error) { return true, what, nil })},
		},
		{
			name: "windows_registry_key", subject: registryLabel,
			matchers: map[string]matcher{
				"exist": {
					kind: registryKeys, presence: true, argument: options(),
					about: func(subject string, _ argument, _ map[string]string) (*kind, string) {
						return registryKeys, registryKey(subject)
					},
					test: func(fact any, _ argument) (bool, string, error) { return true, fact.(string), nil },
				},
				"have_property":       registryMatcher(true, registryArgument("property", "property")),
				"have_value":          registryMatcher(false, registryArgument("value", "value")),
				"have_property_value": registryMatcher(false, registryArgument("", "property", "value")),
			},
			paths: map[string]pathAttribute{"property.": {"NAME", func(rest string) (attribute, error) {
				if err := printable(rest); err != nil {
					return attribute{}, err
				}
				at := get1(registryValues, typeAny, func(v registryValue) (value, error) {
					switch v.kind {
					case "multistring":
						return value{typ: typeList, list: v.list, text: "[" + strings.Join(v.list, ", ") + "]"}, nil
					case "dword", "qword":
						return value{typ: typeNumber, text: v.text}, nil
					}
					return value{typ: typeText, text: v.text}, nil
				})
				at.key = func(subject string, _ map[string]string) string { return registryKey(subject) + "\x00" + rest }
				return at, nil
			}}},
		},
		{
			name: "windows_scheduled_task", subject: name,
			matchers: map[string]matcher{
				"exist":      ask1(scheduledTasks, true, options(), func(t scheduledTask, _ argument) (bool, string, error) { return true, t.state, nil }),
				"be_enabled": ask1(scheduledTasks, true, options(), func(t scheduledTask, _ argument) (bool, string, error) { return t.enabled, t.state, nil }),
			},
			attributes: map[string]attribute{"state": get1(scheduledTasks, typeText, func(t scheduledTask) (value, error) { return value{text: t.state}, nil })},
		},
		{
			name: "windows_firewall", subject: name,
			matchers: map[string]matcher{
				"exist": ask1(firewallRules, true, options(), func(all []firewallRule, _ argument) (bool, string, error) { return true, count(len(all), "rule"), nil }),
				"be_enabled": firewallMatcher(options(), func(r firewallRule, _ argument) bool { return r.enabled }, func(r firewallRule) string {
					return map[bool]string{true: "enabled", false: "disabled"}[r.enabled]
				}),
				"be_inbound": firewallMatcher(options(), func(r firewallRule, _ argument) bool { return r.inbound }, func(r firewallRule) string {
					return map[bool]string{true: "inbound", false: "outbound"}[r.inbound]
				}),
				"be_allowed": firewallMatcher(options(), func(r firewallRule, _ argument) bool { return r.allow }, func(r firewallRule) string {
					return map[bool]string{true: "it allows", false: "it blocks"}[r.allow]
				}),
				"be_tcp": firewallMatcher(options(), protocol("6"), sayProtocol),
				"be_udp": firewallMatcher(options(), protocol("17"), sayProtocol),
				"have_localport": firewallMatcher(text, func(r firewallRule, a argument) bool { return hasPort(r.ports, a.text) }, func(r firewallRule) string {
					return "ports " + strconv.Quote(r.ports)
				}),
			},
		},
		{
			name: "iis_website", subject: name,
			matchers: map[string]matcher{
				"exist": ask1(websites, true, options(), func(w website, _ argument) (bool, string, error) { return true, w.state, nil }),
				"be_enabled": ask1(websites, true, options(), func(w website, _ argument) (bool, string, error) {
					return w.enabled, fmt.Sprintf("serverAutoStart is %v", w.enabled), nil
				}),
				"be_running": ask1(websites, true, options(), func(w website, _ argument) (bool, string, error) {
					return w.state == "Started", w.state, w.noState
				}),
				"be_in_app_pool": ask1(websites, false, text, func(w website, a argument) (bool, string, error) {
					app, err := w.app("/")
					return strings.EqualFold(app.pool, a.text), strconv.Quote(app.pool), err
				}),
				"have_physical_path": ask1(websites, false, text, func(w website, a argument) (bool, string, error) {
					app, err := w.app("/")
					at, ok := app.dir("/")
					if err == nil && !ok {
						err = missing("the website has no root directory")
					}
					return samePath(at, a.text), strconv.Quote(at), err
				}),
				"have_site_bindings": ask1(websites, false, object("port", "with_protocol", "with_ipaddress", "with_host_header"), func(w website, a argument) (bool, string, error) {
					var said []string
					for _, b := range w.bindings {
						said = append(said, b.protocol+" "+b.info)
					}
					return slices.ContainsFunc(w.bindings, func(b siteBinding) bool { return b.has(a) }), strings.Join(said, ", "), nil
				}),
				"have_virtual_dir": ask1(websites, false, object("virtual_dir", "with_path"), func(w website, a argument) (bool, string, error) {
					app, err := w.app("/")
					if err != nil {
						return false, "", err
					}
					at, ok := app.dir(slashed(a.text))
					if !ok {
						return false, "it has no such virtual directory", nil
					}
					want, given := a.opt["with_path"]
					return !given || samePath(at, want), strconv.Quote(at), nil
				}),
				"have_site_application": ask1(websites, false, object("application", "with_pool", "with_physical_path"), func(w website, a argument) (bool, string, error) {
					app, err := w.app(slashed(a.text))
					var none missing
					if errors.As(err, &none) {
						return false, string(none), nil
					}
					at, _ := app.dir("/")
					pool, byPool := a.opt["with_pool"]
					path, byPath := a.opt["with_physical_path"]
					return (!byPool || strings.EqualFold(pool, app.pool)) && (!byPath || samePath(path, at)), fmt.Sprintf("pool %q, at %q", app.pool, at), nil
				}),
			},
		},
		{
			name: "iis_app_pool", subject: name,
			matchers: map[string]matcher{
				"exist": ask1(appPools, true, options(), func(appPool, argument) (bool, string, error) { return true, "it is there", nil }),
				"have_dotnet_version": poolMatcher("runtime", text, func(have, want string) bool {
					return strings.EqualFold(strings.TrimPrefix(have, "v"), strings.TrimPrefix(want, "v"))
				}),
				"have_32bit_enabled":         poolIs("bits32", "32 bits", "64 bits"),
				"have_user_profile_enabled":  poolIs("profile", "it loads the profile", "it does not load the profile"),
				"have_idle_timeout":          poolMatcher("idle", number, sameNumber),
				"have_periodic_restart":      poolMatcher("restart", number, sameNumber),
				"have_identity_type":         poolMatcher("identity", text, strings.EqualFold),
				"have_username":              poolMatcher("user", text, strings.EqualFold),
				"have_managed_pipeline_mode": poolMatcher("pipeline", text, strings.EqualFold),
			},
			attributes: map[string]attribute{
				"managed_runtime_version": get1(appPools, typeText, poolText("runtime")),
				"identity_type":           get1(appPools, typeText, poolText("identity")),
			},
		},
	}
}
