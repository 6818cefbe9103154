package specs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// serverspec is its whole vocabulary (2.43): the types, with their matchers,
// the chains of these (be_installed.by), and what its takes (its:version).
const serverspec = `
bond: exist have_interface
bridge: exist have_interface
cgroup: its:NAME
command: its:stdout its:stdout_as_json its:stderr its:exit_status
cron: have_entry have_entry.with_user its:table
default_gateway: its:ipaddress its:interface
docker_container: exist be_running have_volume its:inspection its:[PATH]
docker_image: exist its:inspection its:[PATH]
file: exist be_file be_directory be_symlink be_pipe be_socket be_block_device be_character_device be_mode be_owned_by be_grouped_into be_linked_to be_immutable contain contain.from contain.to contain.after contain.before be_readable be_readable.by be_readable.by_user be_writable be_writable.by be_writable.by_user be_executable be_executable.by be_executable.by_user be_mounted be_mounted.with be_mounted.only_with be_version its:content its:content_as_json its:content_as_yaml its:md5sum its:sha256sum its:mode its:owner its:group its:size its:mtime its:link_target its:selinux_label
fstab: have_entry
group: exist have_gid be_is_system_group its:gid
hadoop_config: its:value
host: be_resolvable be_resolvable.by be_reachable be_reachable.with its:ipaddress its:ipv4_address its:ipv6_address
iis_app_pool: exist have_dotnet_version have_32bit_enabled have_idle_timeout have_identity_type have_periodic_restart have_user_profile_enabled have_username have_managed_pipeline_mode
iis_website: exist be_enabled be_running be_in_app_pool have_physical_path have_site_bindings have_virtual_dir have_site_application
interface: exist be_up have_ipv4_address have_ipv6_address its:speed its:mtu its:ipv4_address its:ipv6_address
ip6tables: have_rule have_rule.with_table have_rule.with_chain
ipfilter: have_rule
ipnat: have_rule
iptables: have_rule have_rule.with_table have_rule.with_chain
json_file: its:content
kernel_module: be_loaded
kvm: exist be_running be_enabled
linux_audit_system: be_enabled be_running its:rules
linux_kernel_parameter: its:value
lxc: exist be_running
mail_alias: be_aliased_to
mysql_config: its:value
package: be_installed be_installed.by(gem) be_installed.by(npm) be_installed.by(pip) be_installed.by(pip3) be_installed.by(pecl) be_installed.by(pear) be_installed.by(cpan) be_installed.by(apt) be_installed.by(rpm) be_installed.by(apk) be_installed.by(pip2) be_installed.by(rvm) be_installed.by(td_agent_gem) be_installed.by(yum) be_installed.by(pkg) be_installed.by(homebrew) be_installed.by(homebrew_cask) be_installed.by(pkgutil) be_installed.with_version its:version
php_config: its:value
php_extension: be_loaded
port: be_listening be_listening.with(tcp) be_listening.with(tcp6) be_listening.with(udp) be_listening.with(udp6) be_listening.on
ppa: exist be_enabled
process: be_running its:user its:group its:count its:args its:pid its:KEYWORD
routing_table: have_entry
selinux: be_disabled be_enforcing be_enforcing.with_policy be_permissive be_permissive.with_policy
selinux_module: be_installed be_installed.with_version be_enabled
service: be_enabled be_enabled.with_level be_enabled.under(systemd) be_enabled.under(init) be_enabled.under(openrc) be_running be_running.under(systemd) be_running.under(init) be_running.under(openrc) be_running.under(supervisor) be_running.under(runit) be_running.under(upstart) be_running.under(daemontools) be_running.under(homebrew) be_monitored_by be_monitored_by.with_name be_monitored_by(god) be_installed have_start_mode have_property its:property
user: exist belong_to_group belong_to_primary_group have_uid have_home_directory have_login_shell have_authorized_key be_is_system_user its:uid its:encrypted_password its:minimum_days_between_password_change its:maximum_days_between_password_change
windows_feature: be_installed be_installed.by(dism) be_installed.by(powershell)
windows_firewall: exist be_enabled be_tcp be_inbound be_allowed have_localport
windows_hot_fix: be_installed be_installed.with_version
windows_registry_key: exist have_property have_value have_property_value
windows_scheduled_task: exist
x509_certificate: be_certificate be_valid have_purpose its:subject its:issuer its:email its:fingerprint its:alias its:keylength its:validity_in_days its:subject_alt_names
x509_private_key: be_valid be_encrypted have_matching_certificate
yumrepo: exist be_enabled
zfs: exist have_property its:property
`

// otherwise says of each word that is not here what stands for it, or why
// there is no sense in it today.
func otherwise() map[string]string {
	return map[string]string{
		"cgroup its:NAME":                           "`its \"memory.max\"`: any file of the group, by its name.",
		"command its:stdout_as_json":                "`its \"stdout_as_json.PATH\"`, and `stdout_as_yaml.PATH`.",
		"docker_container its:inspection":           "`its \"PATH\"`: what stands at the path.",
		"docker_container its:[PATH]":               "`its \"Config.Cmd[0]\"`; `Config.Cmd.[0]` is the same.",
		"docker_image its:inspection":               "`its \"PATH\"`: what stands at the path.",
		"docker_image its:[PATH]":                   "`its \"Config.Cmd[0]\"`; `Config.Cmd.[0]` is the same.",
		"file its:content_as_json":                  "`its \"content_as_json.PATH\"`.",
		"file its:content_as_yaml":                  "`its \"content_as_yaml.PATH\"`.",
		"json_file":                                 "`file` has `its \"content_as_json.PATH\"`.",
		"hadoop_config":                             "It looks into XML files at one place of one old packaging: `file` with `its \"content\"` says which file is meant.",
		"ipfilter":                                  "The packet filter of Solaris and old BSDs, on none of which specs run.",
		"ipnat":                                     "The address translation of Solaris and old BSDs, on none of which specs run.",
		"package be_installed.by(pip2)":             "Python 2 has been out of support since 2020.",
		"package be_installed.by(rvm)":              "It asks for a Ruby that rvm has compiled, which is no package: use a command.",
		"package be_installed.by(td_agent_gem)":     "td-agent has been out of support since 2023: use `command \"fluent-gem list\"`.",
		"package be_installed.by(pkg)":              "FreeBSD's tools differ in nearly every question, and no FreeBSD was at hand to prove the answers.",
		"package be_installed.by(homebrew)":         "macOS is not a system that images are baked of.",
		"package be_installed.by(homebrew_cask)":    "macOS is not a system that images are baked of.",
		"package be_installed.by(pkgutil)":          "macOS is not a system that images are baked of.",
		"process its:KEYWORD":                       "Of ps's keywords: `ppid`, `state`, `threads`, `rss`, `vsz`, `uid`, `gid`. For others use `command \"ps …\"`.",
		"selinux_module be_installed.with_version":  "Modules have had no versions since SELinux's tools of 2014.",
		"service be_running.under(upstart)":         "No supported distribution has upstart any more.",
		"service be_running.under(daemontools)":     "It was last released in 2001; `runit` is its like, and `command \"svstat …\"` works.",
		"service be_running.under(homebrew)":        "macOS is not a system that images are baked of.",
		"service be_monitored_by(god)":              "god was last released in 2013.",
		"service its:property":                      "`its \"property.NAME\"`: any property that systemd knows of the unit, or Windows (Win32_Service) of the service.",
		"windows_hot_fix be_installed.with_version": "The number is the name: `windows_hot_fix \"KB5034439\"`.",
		"x509_certificate its:alias":                "Only openssl's own TRUSTED CERTIFICATE form has it, and no server looks at it.",
		"zfs its:property":                          "`its \"property.NAME\"`.",
	}
}

// chains has an example of each chain, by the name before a parenthesis.
var chains = map[string]string{
	"have_entry.with_user":      `have_entry = { entry = "@daily x", with_user = "root" }`,
	"contain.from":              `contain = { text = "x", from = "a" }`,
	"contain.to":                `contain = { text = "x", to = "a" }`,
	"contain.after":             `contain = { text = "x", after = "a" }`,
	"contain.before":            `contain = { text = "x", before = "a" }`,
	"be_readable.by":            `be_readable = { by = "others" }`,
	"be_readable.by_user":       `be_readable = { by_user = "www-data" }`,
	"be_writable.by":            `be_writable = { by = "group" }`,
	"be_writable.by_user":       `be_writable = { by_user = "www-data" }`,
	"be_executable.by":          `be_executable = { by = "owner" }`,
	"be_executable.by_user":     `be_executable = { by_user = "www-data" }`,
	"be_mounted.with":           `be_mounted = { with = { type = "xfs" } }`,
	"be_mounted.only_with":      `be_mounted = { only_with = { type = "xfs" } }`,
	"be_resolvable.by":          `be_resolvable = { by = "dns" }`,
	"be_reachable.with":         `be_reachable = { with = { port = 22, proto = "tcp", timeout = 3 } }`,
	"have_rule.with_table":      `have_rule = { rule = "-j DROP", with_table = "nat" }`,
	"have_rule.with_chain":      `have_rule = { rule = "-j DROP", with_chain = "INPUT" }`,
	"be_installed.by":           `be_installed = { by = "ARG" }`,
	"be_installed.with_version": `be_installed = { with_version = ">= 1" }`,
	"be_listening.with":         `be_listening = { with = "ARG" }`,
	"be_listening.on":           `be_listening = { on = "127.0.0.1" }`,
	"be_enforcing.with_policy":  `be_enforcing = { with_policy = "targeted" }`,
	"be_permissive.with_policy": `be_permissive = { with_policy = "targeted" }`,
	"be_enabled.with_level":     `be_enabled = { with_level = 3 }`,
	"be_enabled.under":          `be_enabled = { under = "ARG" }`,
	"be_running.under":          `be_running = { under = "ARG" }`,
	"be_monitored_by.with_name": `be_monitored_by = { monitor = "monit", with_name = "x" }`,
	"be_monitored_by":           `be_monitored_by = "ARG"`,
}

// vocabulary gives the words of each type, in order.
func vocabulary() (types []string, words map[string][]string) {
	words = map[string][]string{}
	for _, l := range strings.Split(strings.TrimSpace(serverspec), "\n") {
		typ, rest, _ := strings.Cut(l, ":")
		types = append(types, typ)
		words[typ] = strings.Fields(rest)
	}
	return types, words
}

// here says whether a word of a type is one of ours, by the same name.
func here(t *testing.T, typ, word string) bool {
	t.Helper()
	i := slices.IndexFunc(resources(), func(r resource) bool { return r.name == typ })
	if i < 0 {
		return false
	}
	r := resources()[i]
	if name, ok := strings.CutPrefix(word, "its:"); ok {
		_, ok := r.attributes[name]
		return ok
	}
	name, arg, _ := strings.Cut(strings.TrimSuffix(word, ")"), "(")
	if example, ok := chains[name]; ok && (arg != "" || strings.Contains(name, ".")) {
		label := map[string]string{"port": `"22"`, "file": `"/x"`, "cron": "", "selinux": "", "iptables": "", "ip6tables": "", "selinux_module": `"x"`, "windows_hot_fix": `"KB1"`}
		l, known := label[typ]
		if !known {
			l = `"x"`
		}
		_, diags := parse(t, typ+" "+l+" {\n"+strings.ReplaceAll(example, "ARG", arg)+"\n}\n")
		return !diags.HasErrors()
	}
	_, ok := r.matchers[word]
	return ok
}

// Each word of Serverspec's either works here by the same name, or the guide
// says what stands for it or why it has no sense.
func TestServerspecVocabulary(t *testing.T) {
	types, words := vocabulary()
	reasons, used := otherwise(), map[string]bool{}
	for _, typ := range types {
		for _, w := range words[typ] {
			key := typ
			if reasons[key] == "" {
				key = typ + " " + w
			}
			used[key] = true
			switch works, why := here(t, typ, w), reasons[key]; {
			case works && why != "":
				t.Errorf("%s %s works, and has a reason why not", typ, w)
			case !works && why == "":
				t.Errorf("%s %s neither works nor has a reason", typ, w)
			}
		}
	}
	for key := range reasons {
		if !used[key] {
			t.Errorf("%q is no word of Serverspec's", key)
		}
	}
}

// compatibility is the table in the guide.
func compatibility(t *testing.T) string {
	types, words := vocabulary()
	reasons := otherwise()
	var b strings.Builder
	b.WriteString("\n| Serverspec | The same here | Said otherwise, or not here and why |\n| --- | --- | --- |\n")
	say := func(w string) string { return "`" + strings.Replace(w, "its:", "its ", 1) + "`" }
	for _, typ := range types {
		var same, other []string
		for _, w := range words[typ] {
			switch {
			case reasons[typ] != "":
			case here(t, typ, w):
				same = append(same, say(w))
			default:
				other = append(other, say(w)+": "+reasons[typ+" "+w])
			}
		}
		if reasons[typ] != "" {
			other = []string{reasons[typ]}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", typ, strings.Join(same, ", "), strings.Join(other, " "))
	}
	return b.String() + "\n"
}

// The list above leaves out nothing that the installed Serverspec has.
func TestServerspecIsListed(t *testing.T) {
	files, _ := filepath.Glob("/usr/share/rubygems-integration/all/gems/serverspec-*/lib/serverspec/type/*.rb")
	if len(files) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI lacks ruby-serverspec")
		}
		t.Skip("ruby-serverspec is not installed")
	}
	_, words := vocabulary()
	helpers := strings.Fields("initialize to_s inspect to_ary method_missing command command_result get_inspection check_volume check_volume_pre_1_8 val_to_integer status_of parse_status ver_array protocols options protocol_matcher local_address_matcher valid_ip_address? get_column get_property run_openssl_command_with parse_dates_str_to_map normalize_dn")
	for _, f := range files {
		typ := strings.TrimSuffix(filepath.Base(f), ".rb")
		if typ == "base" || typ == "docker_base" {
			continue
		}
		if words[typ] == nil {
			t.Errorf("Serverspec has a type %s", typ)
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\s*def ([a-z_0-9]+\??)`).FindAllStringSubmatch(string(src), -1) {
			name, asks := strings.CutSuffix(m[1], "?")
			if slices.Contains(helpers, m[1]) {
				continue
			}
			switch {
			case name == "exists" || name == "exist":
				name = "exist"
			case name == "contain":
			case strings.HasPrefix(name, "has_"):
				name = "have_" + name[4:]
			case strings.HasPrefix(name, "belongs_"):
				name = "belong_" + name[8:]
			case asks:
				name = "be_" + name
			default:
				name = "its:" + name
			}
			if !slices.ContainsFunc(words[typ], func(w string) bool { return w == name || strings.HasPrefix(w, name+"(") }) {
				t.Errorf("Serverspec has %s %s", typ, name)
			}
		}
	}
}
