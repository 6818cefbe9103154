//go:build unix

package specs

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/machine"
)

// A claim is one check, said in both languages.
type claim struct {
	resource string // the block's type and label
	says     string // in the block
	about    string // Serverspec's describe …
	should   string // … do it { … } end
	// lies says why Serverspec's verdict is another one. It has to be, then.
	lies string
}

// differ makes the same claims about the same machine by Serverspec and here,
// and compares the verdicts. env is the command before rspec, if any.
func differ(t *testing.T, m *local, env []string, claims []claim) {
	t.Helper()
	if testing.Short() {
		t.Skip("Serverspec takes its time")
	}
	need(t, "rspec")
	if out, err := exec.Command("ruby", "-rserverspec", "-e", "").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI lacks ruby-serverspec: %s", out)
		}
		t.Skip("ruby-serverspec is not installed")
	}
	var ours, theirs strings.Builder
	theirs.WriteString("require 'serverspec'\nset :backend, :exec\n")
	for i, c := range claims {
		fmt.Fprintf(&ours, "%s {\n%s\n}\n", c.resource, strings.ReplaceAll(c.says, "; ", "\n"))
		fmt.Fprintf(&theirs, "describe %s do\n  it('%d') { %s }\nend\n", c.about, i, c.should)
	}
	file := filepath.Join(t.TempDir(), "claims_spec.rb")
	if err := os.WriteFile(file, []byte(theirs.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	result := filepath.Join(filepath.Dir(file), "result.json")
	argv := append(env, "rspec", "--no-color", "--default-path", filepath.Dir(file), "--options", os.DevNull, "--format", "json", "--out", result, file)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = filepath.Dir(file)
	said, runErr := cmd.CombinedOutput()
	data, err := os.ReadFile(result)
	if err != nil {
		t.Fatalf("rspec gave no result: %v, %v: %s", err, runErr, said)
	}
	var report struct {
		Examples []struct{ Description, Status string }
	}
	if err := json.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Examples) != len(claims) {
		t.Fatalf("rspec made %d of %d checks: %s", len(report.Examples), len(claims), said)
	}
	s, diags := parse(t, ours.String())
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if len(s.Checks) != len(claims) {
		t.Fatalf("%d checks of %d claims", len(s.Checks), len(claims))
	}
	patient(s)
	r, err := s.Run(t.Context(), m, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]string{}
	for _, e := range report.Examples {
		verdicts[e.Description] = e.Status
	}
	lies := 0
	for i, c := range claims {
		x := r.Results[i]
		same := (x.Status == Pass) == (verdicts[fmt.Sprint(i)] == "passed")
		switch {
		case same && c.lies != "":
			t.Errorf("%s: both say %s, though %s", c.resource, x.Status, c.lies)
		case !same && c.lies == "":
			t.Errorf("%s { %s }: %s (%s%s), but Serverspec: %s { %s }: %s", c.resource, c.says, x.Status, x.Actual, x.Message, c.about, c.should, verdicts[fmt.Sprint(i)])
		case !same:
			lies++
		}
	}
	t.Logf("%d claims, of which Serverspec is wrong about %d", len(claims), lies)
}

func TestAgainstServerspec(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("some of this is asked as root")
	}
	need(t, "dpkg-query")
	need(t, "ss")
	dir := t.TempDir()
	put := func(name, content string, mode os.FileMode) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("conf", "[one]\nport = 1\n[two]\nport = 2\nroot\n", 0o644)
	put("empty", "", 0o600)
	put("doc.json", `{"a": {"b": [1, "x"]}}`, 0o644)
	put("closed/f", "x", 0o644)
	if err := os.Chmod(filepath.Join(dir, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	for p := dir; p != "/"; p = filepath.Dir(p) { // others may come as far as dir
		if fi, err := os.Stat(p); err == nil && strings.HasPrefix(p, os.TempDir()+"/") {
			os.Chmod(p, fi.Mode()|0o755)
		}
	}
	if err := os.Symlink("conf", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	proc := filepath.Join(dir, "ingot-differ")
	data, err := os.ReadFile(need(t, "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	put("ingot-differ", string(data), 0o755)
	sleeping := exec.Command(proc, "600")
	if err := sleeping.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { sleeping.Process.Kill(); sleeping.Wait() }()

	f := func(name string) string { return filepath.Join(dir, name) }
	fileIs := func(name, says, should, lies string) claim {
		return claim{`file "` + f(name) + `"`, says, "file('" + f(name) + "')", should, lies}
	}
	const gone = "a missing file reads as an empty one there"
	claims := []claim{
		{`package "dpkg"`, `be_installed = true`, "package('dpkg')", "should be_installed", ""},
		{`package "no-such-package"`, `be_installed = true`, "package('no-such-package')", "should be_installed", ""},
		{`package "no-such-package"`, `should_not {; be_installed = true; }`, "package('no-such-package')", "should_not be_installed", ""},
		{`package "dpkg"`, `be_installed = { with_version = "= 0.1" }`, "package('dpkg')", "should be_installed.with_version('0.1')", ""},
		{`package "dpkg"`, `its "version" {; be_greater_than = "1.0"; }`, "package('dpkg')", "expect(subject.version).to be > '1.0'", ""},
		{`package "no-such-gem"`, `be_installed = { by = "gem" }`, "package('no-such-gem')", "should be_installed.by('gem')", ""},
		{`package "rspec-core"`, `be_installed = { by = "gem" }`, "package('rspec-core')", "should be_installed.by('gem')", ""},
		fileIs("conf", `exist = true`, "should exist", ""),
		fileIs("conf", `be_file = true`, "should be_file", ""),
		fileIs("conf", `be_directory = true`, "should be_directory", ""),
		fileIs("link", `be_symlink = true`, "should be_symlink", ""),
		fileIs("link", `be_linked_to = "conf"`, "should be_linked_to 'conf'", ""),
		fileIs("link", `be_linked_to = "con"`, "should be_linked_to 'con'", ""),
		fileIs("none", `exist = true`, "should exist", ""),
		fileIs("conf", `be_mode = 644`, "should be_mode 644", ""),
		fileIs("conf", `be_mode = 600`, "should be_mode 600", ""),
		fileIs("conf", `be_mode = "0644"`, "should be_mode '0644'", "0644 is compared with stat's 644 as text"),
		fileIs("conf", `be_owned_by = "root"`, "should be_owned_by 'root'", ""),
		fileIs("conf", `be_owned_by = "nobody"`, "should be_owned_by 'nobody'", ""),
		fileIs("conf", `be_grouped_into = "root"`, "should be_grouped_into 'root'", ""),
		fileIs("conf", `contain = "port = 2"`, "should contain 'port = 2'", ""),
		fileIs("conf", `contain = "port = 3"`, "should contain 'port = 3'", ""),
		fileIs("conf", `contain = { text = "port = 2", from = "^\\[one\\]", to = "^\\[two\\]" }`, "should contain('port = 2').from(/^\\[one\\]/).to(/^\\[two\\]/)", ""),
		fileIs("conf", `contain = { text = "port = 2", after = "^\\[two\\]" }`, "should contain('port = 2').after(/^\\[two\\]/)", ""),
		fileIs("conf", `its "content" {; match = "ro+t"; }`, "expect(subject.content).to match(/ro+t/)", ""),
		fileIs("conf", `its "size" {; eq = 34; }`, "expect(subject.size).to eq 34", ""),
		fileIs("conf", `its "sha256sum" {; eq = "x"; }`, "expect(subject.sha256sum).to eq 'x'", ""),
		fileIs("doc.json", `its "content_as_json.a.b[1]" {; eq = "x"; }`, "expect(subject.content_as_json['a']['b'][1]).to eq 'x'", ""),
		fileIs("doc.json", `its "content_as_json.a.b[0]" {; eq = 2; }`, "expect(subject.content_as_json['a']['b'][0]).to eq 2", ""),
		fileIs("conf", `be_readable = { by = "others" }`, "should be_readable.by('others')", ""),
		fileIs("conf", `be_writable = { by = "group" }`, "should be_writable.by('group')", ""),
		fileIs("empty", `be_readable = { by = "group" }`, "should be_readable.by('group')", ""),
		fileIs("conf", `be_executable = true`, "should be_executable", ""),
		fileIs("closed/f", `be_readable = { by = "others" }`, "should be_readable.by('others')", "only the file's own mode is looked at, not that of the directory above"),
		fileIs("none", `its "content" {; not_match = "x"; }`, "expect(subject.content).not_to match(/x/)", gone),
		fileIs("none", `should_not {; contain = "x"; }`, "should_not contain 'x'", gone),
		fileIs("none", `its "size" {; eq = 0; }`, "expect(subject.size).to eq 0", gone),
		fileIs("none", `should_not {; be_mode = 644; }`, "should_not be_mode 644", gone),
		{`file "/proc"`, `be_mounted = { with = { type = "proc" } }`, "file('/proc')", "should be_mounted.with(:type => 'proc')", ""},
		{`file "/proc"`, `be_mounted = { with = { type = "ext4" } }`, "file('/proc')", "should be_mounted.with(:type => 'ext4')", ""},
		{`file "/proc/self"`, `be_mounted = true`, "file('/proc/self')", "should be_mounted", ""},
		{`user "root"`, `exist = true`, "user('root')", "should exist", ""},
		{`user "nobody-here"`, `exist = true`, "user('nobody-here')", "should exist", ""},
		{`user "root"`, `have_uid = 0`, "user('root')", "should have_uid 0", ""},
		{`user "root"`, `have_uid = 1`, "user('root')", "should have_uid 1", ""},
		{`user "root"`, `have_login_shell = "/bin/bash"`, "user('root')", "should have_login_shell '/bin/bash'", ""},
		{`user "nobody"`, `have_login_shell = "/bin/bash"`, "user('nobody')", "should have_login_shell '/bin/bash'", ""},
		{`user "root"`, `have_home_directory = "/root"`, "user('root')", "should have_home_directory '/root'", ""},
		{`user "root"`, `belong_to_group = "root"`, "user('root')", "should belong_to_group 'root'", ""},
		{`user "root"`, `belong_to_primary_group = "root"`, "user('root')", "should belong_to_primary_group 'root'", ""},
		{`user "root"`, `belong_to_group = "roo"`, "user('root')", "should belong_to_group 'roo'", "it looks for the letters in the line of id"},
		{`user "backup"`, `have_home_directory = "/var"`, "user('backup')", "should have_home_directory '/var'", "it looks for the word in the path: /var/backups"},
		{`user "nobody-here"`, `its "uid" {; eq = 0; }`, "user('nobody-here')", "expect(subject.uid).to eq 0", "a missing user has the uid of root there"},
		{`user "root"`, `its "encrypted_password" {; eq = "x"; }`, "user('root')", "expect(subject.encrypted_password).to eq 'x'", ""},
		{`user "root"`, `have_authorized_key = "ssh-ed25519 AAAAnot"`, "user('root')", "should have_authorized_key 'ssh-ed25519 AAAAnot'", ""},
		{`group "root"`, `exist = true`, "group('root')", "should exist", ""},
		{`group "root"`, `have_gid = 0`, "group('root')", "should have_gid 0", ""},
		{`group "root"`, `have_gid = 10`, "group('root')", "should have_gid 10", ""},
		{`group "nobody-here"`, `exist = true`, "group('nobody-here')", "should exist", ""},
		{`port "` + port + `"`, `be_listening = true`, "port(" + port + ")", "should be_listening", ""},
		{`port "` + port + `"`, `be_listening = { with = "tcp", on = "127.0.0.1" }`, "port(" + port + ")", "should be_listening.on('127.0.0.1').with('tcp')", ""},
		{`port "` + port + `"`, `be_listening = { with = "udp" }`, "port(" + port + ")", "should be_listening.with('udp')", ""},
		{`port "` + port + `"`, `be_listening = { on = "127.0.0.2" }`, "port(" + port + ")", "should be_listening.on('127.0.0.2')", ""},
		{`port "1"`, `be_listening = true`, "port(1)", "should be_listening", ""},
		{`process "ingot-differ"`, `be_running = true`, "process('ingot-differ')", "should be_running", ""},
		{`process "ingot-differ"`, `its "user" {; eq = "root"; }`, "process('ingot-differ')", "expect(subject.user).to eq 'root'", ""},
		{`process "ingot-differ"`, `its "args" {; match = "600$"; }`, "process('ingot-differ')", "expect(subject.args).to match(/600$/)", ""},
		{`process "ingot-diff"`, `be_running = true`, "process('ingot-diff')", "should be_running", ""},
		{`process "ingot-none"`, `its "user" {; eq = ""; }`, "process('ingot-none')", "expect(subject.user).to eq ''", "a missing process has a user, and it is empty"},
		{`service "ingot-differ"`, `be_running = true`, "service('ingot-differ')", "should be_running", "any process line with that word will do"},
		{`service "no-such-service"`, `be_running = true`, "service('no-such-service')", "should be_running", ""},
		{`service "no-such-service"`, `be_enabled = true`, "service('no-such-service')", "should be_enabled", ""},
		{`command "echo out; echo err >&2; exit 3"`, `its "stdout" {; match = "out"; }`, "command('echo out; echo err >&2; exit 3')", "expect(subject.stdout).to match(/out/)", ""},
		{`command "echo out; echo err >&2; exit 3"`, `its "stderr" {; match = "out"; }`, "command('echo out; echo err >&2; exit 3')", "expect(subject.stderr).to match(/out/)", ""},
		{`command "echo out; echo err >&2; exit 3"`, `its "exit_status" {; eq = 3; }`, "command('echo out; echo err >&2; exit 3')", "expect(subject.exit_status).to eq 3", ""},
		{`command "echo '{\"a\": 1}'"`, `its "stdout_as_json.a" {; eq = 1; }`, `command("echo '{\"a\": 1}'")`, "expect(subject.stdout_as_json['a']).to eq 1", ""},
		{`linux_kernel_parameter "kernel.ostype"`, `its "value" {; eq = "Linux"; }`, "linux_kernel_parameter('kernel.ostype')", "expect(subject.value).to eq 'Linux'", ""},
		{`linux_kernel_parameter "vm.swappiness"`, `its "value" {; be_greater_than = 1000; }`, "linux_kernel_parameter('vm.swappiness')", "expect(subject.value).to be > 1000", ""},
		{`linux_kernel_parameter "vm.no_such_thing"`, `its "value" {; eq = ""; }`, "linux_kernel_parameter('vm.no_such_thing')", "expect(subject.value).to eq ''", "a missing parameter has a value, and it is empty"},
		{`host "localhost"`, `be_resolvable = true`, "host('localhost')", "should be_resolvable", ""},
		{`host "localhost"`, `be_resolvable = { by = "hosts" }`, "host('localhost')", "should be_resolvable.by('hosts')", ""},
		{`host "name.invalid"`, `be_resolvable = { by = "hosts" }`, "host('name.invalid')", "should be_resolvable.by('hosts')", ""},
		{`interface "lo"`, `exist = true`, "interface('lo')", "should exist", ""},
		{`interface "lo"`, `have_ipv4_address = "127.0.0.1/8"`, "interface('lo')", "should have_ipv4_address('127.0.0.1/8')", ""},
		{`interface "lo"`, `have_ipv4_address = "127.0.0.2"`, "interface('lo')", "should have_ipv4_address('127.0.0.2')", ""},
		{`interface "lo"`, `be_up = true`, "interface('lo')", "should be_up", "the kernel says no more than \"unknown\" of lo's link, which is up"},
		{`interface "none0"`, `exist = true`, "interface('none0')", "should exist", ""},
	}
	if _, err := exec.LookPath("php"); err == nil {
		claims = append(claims,
			claim{`php_config "memory_limit"`, `its "value" {; eq = "-1"; }`, "php_config('memory_limit')", "expect(subject.value).to eq '-1'", ""},
			claim{`php_extension "standard"`, `be_loaded = true`, "php_extension('standard')", "should be_loaded", ""},
			claim{`php_extension "none"`, `be_loaded = true`, "php_extension('none')", "should be_loaded", ""})
	}
	differ(t, &local{}, nil, claims)
}

// The same in a network of its own.
func TestNetworkAgainstServerspec(t *testing.T) {
	need(t, "iptables")
	need(t, "brctl") // Serverspec's
	const setup = `ip link set lo up && ip link add br0 type bridge && ip link add ve0 type veth peer name ve1 &&
ip link set ve1 master br0 up && ip link set ve0 up && ip addr add 10.9.8.7/24 dev ve0 && ip route add default via 10.9.8.1 &&
ip route add 10.7.0.0/16 via 10.9.8.2 && iptables -A INPUT -p tcp --dport 8080 -j ACCEPT && iptables -t nat -A POSTROUTING -j MASQUERADE` + carrier
	m := inNetwork(t, &local{}, setup)
	env := []string{"unshare", "-n", "-m", "sh", "-c", "mount -t sysfs none /sys && { " + setup + "\n} >&2 || exit 1\nexec \"$@\"", "sh"}
	differ(t, m, env, []claim{
		{`interface "ve0"`, `be_up = true`, "interface('ve0')", "should be_up", ""},
		{`interface "ve0"`, `have_ipv4_address = "10.9.8.7/24"`, "interface('ve0')", "should have_ipv4_address('10.9.8.7/24')", ""},
		{`interface "ve0"`, `its "mtu" {; eq = 1500; }`, "interface('ve0')", "expect(subject.mtu).to eq 1500", ""},
		{`bridge "br0"`, `exist = true`, "bridge('br0')", "should exist", ""},
		{`bridge "br0"`, `have_interface = "ve1"`, "bridge('br0')", "should have_interface 've1'", ""},
		{`bridge "br0"`, `have_interface = "ve0"`, "bridge('br0')", "should have_interface 've0'", ""},
		{`bond "br0"`, `exist = true`, "bond('br0')", "should exist", "any interface passes for a bond"},
		{`default_gateway`, `its "ipaddress" {; eq = "10.9.8.1"; }`, "default_gateway", "expect(subject.ipaddress).to eq '10.9.8.1'", ""},
		{`default_gateway`, `its "interface" {; eq = "ve0"; }`, "default_gateway", "expect(subject.interface).to eq 've0'", ""},
		{`routing_table`, `have_entry = { destination = "10.7.0.0/16", gateway = "10.9.8.2", interface = "ve0" }`, "routing_table", "should have_entry(:destination => '10.7.0.0/16', :gateway => '10.9.8.2', :interface => 've0')", ""},
		{`routing_table`, `have_entry = { destination = "10.7.0.0/16", gateway = "10.9.8.3" }`, "routing_table", "should have_entry(:destination => '10.7.0.0/16', :gateway => '10.9.8.3')", ""},
		{`routing_table`, `have_entry = { destination = "10.6.0.0/16" }`, "routing_table", "should have_entry(:destination => '10.6.0.0/16')", ""},
		{`iptables`, `have_rule = "-A INPUT -p tcp -m tcp --dport 8080 -j ACCEPT"`, "iptables", "should have_rule('-A INPUT -p tcp -m tcp --dport 8080 -j ACCEPT')", ""},
		{`iptables`, `have_rule = { rule = "-j MASQUERADE", with_table = "nat", with_chain = "POSTROUTING" }`, "iptables", "should have_rule('-j MASQUERADE').with_table('nat').with_chain('POSTROUTING')", ""},
		{`iptables`, `have_rule = "-j DROP"`, "iptables", "should have_rule('-j DROP')", ""},
		{`iptables`, `have_rule = "--dport 80"`, "iptables", "should have_rule('--dport 80')", "it looks for the letters, and 8080 begins with them"},
	})
}

// The same with certificates and keys.
func TestX509AgainstServerspec(t *testing.T) {
	openssl := need(t, "openssl")
	dir := t.TempDir()
	line := "genrsa -out K 2048 && O req -x509 -new -days 100 -key K -subj /CN=www -addext subjectAltName=DNS:www.example.com -addext extendedKeyUsage=serverAuth -out C && O genrsa -out K2 2048"
	line = strings.NewReplacer("K2", dir+"/2.key", "K ", dir+"/1.key ", "C ", dir+"/1.pem ", "O ", machine.Quote(openssl)+" ").Replace(line)
	if out, err := exec.Command("sh", "-c", openssl+" "+line).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cert, key, other := dir+"/1.pem", dir+"/1.key", dir+"/2.key"
	differ(t, &local{}, nil, []claim{
		{`x509_certificate "` + cert + `"`, `be_certificate = true`, "x509_certificate('" + cert + "')", "should be_certificate", ""},
		{`x509_certificate "` + key + `"`, `be_certificate = true`, "x509_certificate('" + key + "')", "should be_certificate", ""},
		{`x509_certificate "` + cert + `"`, `be_valid = true`, "x509_certificate('" + cert + "')", "should be_valid", ""},
		{`x509_certificate "` + cert + `"`, `have_purpose = "SSL server"`, "x509_certificate('" + cert + "')", "should have_purpose 'SSL server'", ""},
		{`x509_certificate "` + cert + `"`, `have_purpose = "SSL client"`, "x509_certificate('" + cert + "')", "should have_purpose 'SSL client'", ""},
		{`x509_certificate "` + cert + `"`, `its "keylength" {; eq = 2048; }`, "x509_certificate('" + cert + "')", "expect(subject.keylength).to eq 2048", ""},
		{`x509_certificate "` + cert + `"`, `its "validity_in_days" {; be_greater_than = 98; }`, "x509_certificate('" + cert + "')", "expect(subject.validity_in_days).to be > 98", ""},
		{`x509_certificate "` + cert + `"`, `its "validity_in_days" {; be_greater_than = 200; }`, "x509_certificate('" + cert + "')", "expect(subject.validity_in_days).to be > 200", ""},
		{`x509_certificate "` + cert + `"`, `its "subject_alt_names" {; include = "DNS:www.example.com"; }`, "x509_certificate('" + cert + "')", "expect(subject.subject_alt_names).to include 'DNS:www.example.com'", ""},
		{`x509_private_key "` + key + `"`, `be_valid = true`, "x509_private_key('" + key + "')", "should be_valid", ""},
		{`x509_private_key "` + cert + `"`, `be_valid = true`, "x509_private_key('" + cert + "')", "should be_valid", ""},
		{`x509_private_key "` + key + `"`, `be_encrypted = true`, "x509_private_key('" + key + "')", "should be_encrypted", ""},
		{`x509_private_key "` + key + `"`, `have_matching_certificate = "` + cert + `"`, "x509_private_key('" + key + "')", "should have_matching_certificate '" + cert + "'", ""},
		{`x509_private_key "` + other + `"`, `have_matching_certificate = "` + cert + `"`, "x509_private_key('" + other + "')", "should have_matching_certificate '" + cert + "'", ""},
	})
}
