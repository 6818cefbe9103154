package specs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/powershelltest"
	"github.com/ingotbuild/ingot/internal/winrmtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/winrm"
)

// The scripts are PowerShell by an independent grammar. What they do on
// Windows, no test here can say.
func TestWindowsSyntax(t *testing.T) {
	scripts := map[string]string{"script": windowsScript, "prelude": windowsPrelude, "bad": windowsScript + "}"}
	for name, k := range windowsKinds() {
		scripts[name] = "param($s, $ms)\n" + k.script
	}
	powershelltest.Parse(t, scripts)
}

// A misspelt command would be found on Windows only.
func TestWindowsCommands(t *testing.T) {
	known := strings.Fields(`Get-Acl Get-CimInstance Get-Command Get-Item Get-Module Get-NetRoute Get-WindowsFeature Get-WindowsOptionalFeature
		Invoke-CimMethod New-Object Resolve-DnsName ForEach-Object Where-Object
		Out-Each Test-Gone Test-Command Get-Inner Get-Full Get-Link Get-Final Get-Bytes Get-AccountName Get-Account Get-AccountSid Get-Related
		Get-ProfilePath Get-ServiceRow Invoke-Program Invoke-Tool ConvertTo-Text Open-Worker`)
	all := windowsScript + windowsPrelude
	for _, k := range windowsKinds() {
		all += k.script
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`\b[A-Z][A-Za-z]+-[A-Z][A-Za-z]+\b`).FindAllString(all, -1) {
		used[m] = true
		if !slices.Contains(known, m) {
			t.Errorf("%s is no command that is known here", m)
		}
	}
	for _, name := range known {
		if !used[name] {
			t.Errorf("%s is not used", name)
		}
	}
	// What is defined here may be used by sections only if the prelude has it.
	for _, m := range regexp.MustCompile(`(?m)^function ([A-Za-z-]+)`).FindAllStringSubmatch(windowsScript, -1) {
		if strings.Contains(windowsPrelude, m[1]) {
			t.Errorf("the prelude uses %s of the script, which its runspace has not", m[1])
		}
	}
}

// Every kind that only Windows has is asked for there, and has no shell script.
func TestWindowsKinds(t *testing.T) {
	kinds := map[string]*kind{}
	for _, c := range everything(t).Checks {
		kinds[c.kind.name] = c.kind
		if err := c.misfit(false); c.kind.windows && !errors.Is(err, errUnsupported) {
			t.Errorf("%s %s on Linux: %v", c.Resource, c.Property, err)
		}
		if (c.Resource == "selinux" || c.Resource == "cron" || c.Resource == "kernel_module") && !errors.Is(c.misfit(true), errUnsupported) {
			t.Errorf("%s is taken for possible on Windows", c.Resource)
		}
	}
	for name, k := range windowsKinds() {
		if kinds[name] == nil && name != "platform" && !strings.HasPrefix(name, "access -") || k.read == nil || k.script == "" {
			t.Errorf("%s is not whole, or in no spec", name)
		}
	}
	for name, k := range kinds {
		if k.windows && (windowsKinds()[name].script == "" || k.script != "" || k.read != nil) {
			t.Errorf("%s is Windows' own, and not whole", name)
		}
	}
}

// A windowsStand stands in for PowerShell on a Windows machine: it answers each
// section with the records that are written down for its kind.
type windowsStand struct {
	answers map[string]string
	edit    func(mark, out string) string // changes what is printed

	mu    sync.Mutex
	asked []string // "kind: subjects"
}

func (w *windowsStand) run(p *winrmtest.Process) int {
	text, args, ok := winrmtest.Call(p)
	if !ok || text != windowsScript || len(args) < 2 || args[1] != windowsPrelude {
		fmt.Fprintln(p.Stderr, "not the script of specs")
		return 1
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var parts []string
	mark := args[0]
	for args = args[2:]; len(args) > 0; {
		kind, n := args[0], 0
		fmt.Sscan(args[4], &n)
		subjects := args[5 : 5+n]
		args = args[5+n:]
		w.asked = append(w.asked, kind+": "+strings.ReplaceAll(strings.Join(subjects, ", "), "\x00", "|"))
		records, ok := w.answers[kind]
		fault := "null"
		if !ok {
			records, fault = "[]", `"CommandNotFoundException: no answer is written down"`
		}
		if strings.HasPrefix(records, "{") { // a section that says something else
			parts = append(parts, strings.Replace(records, "{", `{"kind":"`+kind+`",`, 1))
			continue
		}
		parts = append(parts, fmt.Sprintf(`{"kind":%q,"ms":"12","late":false,"fault":%s,"records":%s}`, kind, fault, records))
	}
	doc := `{"sections":[` + strings.Join(parts, ",") + `]}`
	out := fmt.Sprintf("\n%s BEGIN %d\n%s\n%[1]s END %[4]d\n", mark, len(doc), doc, len(parts))
	if w.edit != nil {
		out = w.edit(mark, out)
	}
	io.WriteString(p.Stdout, out)
	return 0
}

// machine is the stand-in behind WinRM.
func (w *windowsStand) machine(t *testing.T) (machine.Machine, *winrmtest.Server) {
	t.Helper()
	s := winrmtest.New(t, false, func(s *winrmtest.Server) { s.Run = (&winrmtest.Emulator{Other: w.run}).Run })
	m, err := winrm.Dial(t.Context(), winrm.Config{Host: s.Host, Port: s.Port, User: s.User, Password: s.Password, NTLM: true, Timeout: 10 * time.Second, NoProxy: true}, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, s
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func program(n string, status int, out, errOut string) string {
	name, _ := json.Marshal(n)
	return fmt.Sprintf(`{"n":%s,"status":"%d","out":"%s","err":"%s"}`, name, status, b64(out), b64(errOut))
}

// The answers are written from what Microsoft documents of the classes, the
// enumerations and the COM interfaces that the scripts ask.
func TestWindows(t *testing.T) {
	utf16 := "\xff\xfea\x00\r\x00\n\x00\xe4\x00=\x001\x00\r\x00\n\x00"
	w := &windowsStand{answers: map[string]string{
		"platform": `[{"n":"","release":"10.0.20348","codename":"21H2","arch":"AMD64"}]`,
		"package": `[{"id":"Git_is1","name":"Git","version":"2.45.1"},{"id":"{A}","name":"7-Zip 24.08 (x64)","version":"24.08"},
			{"id":"{A}","name":"7-Zip 24.08 (x64)","version":"24.08"},{"id":"{B}","name":"","version":""},{"id":"Odd","name":"Odd","version":"2020 beta"},{"whole":true}]`,
		"chocolatey": `[{"id":"jq","name":"jq","version":"1.7.0-rc1"},{"whole":true}]`,
		"psmodule":   `[{"n":"Pester","versions":["5.5.0","3.4.0"]},{"n":"Nope","versions":[]}]`,
		"npm":        "[" + program("", 0, `{"name":"lib","dependencies":{"corepack":{"version":"0.34.6"}}}`+"\r\n", "") + "]",
		"gem":        `[{"unsupported":"there is no gem"}]`,
		"service": `[{"n":"W3SVC","props":{"Name":"W3SVC","DisplayName":"World Wide Web Publishing Service","State":"Running","StartMode":"Auto","StartName":"LocalSystem","DelayedAutoStart":true,"ExitCode":"0"}},
			{"n":"Spooler","props":{"Name":"Spooler","State":"Stopped","StartMode":"Disabled","DelayedAutoStart":false}},
			{"n":"MSSQL$X","missing":"no such service"},{"n":"Broken","error":"CimException: Access denied "}]`,
		"unit property": `[{"n":"W3SVC\u0000ProcessId","value":"4711"},{"n":"W3SVC\u0000DesktopInteract","value":false},{"n":"W3SVC\u0000Nope","missing":"Win32_Service has no such property"}]`,
		"port":          `[{"proto":"tcp","addr":"0.0.0.0","port":"80"},{"proto":"tcp","addr":"::","port":"80"},{"proto":"tcp","addr":"::","port":"8080"},{"proto":"udp","addr":"fe80::1%4","port":"546"},{"whole":true}]`,
		"process": `[{"pid":"4","ppid":"0","name":"System"},{"pid":"900","ppid":"4","name":"winrshost.exe"},{"pid":"910","ppid":"900","name":"cmd.exe"},
			{"pid":"920","ppid":"910","name":"powershell.exe","args":"powershell -NoLogo","threads":"9","rss":"1","vsz":"1","user":"WEB\\Administrator"},{"pid":"930","ppid":"920","name":"conhost.exe"},
			{"pid":"1000","ppid":"4","name":"w3wp.exe","args":"c:\\w3wp.exe -ap \"web\"","threads":"20","rss":"20480","vsz":"99","user":"IIS APPPOOL\\web"},
			{"pid":"1100","ppid":"4","name":"lsass.exe","args":null,"threads":"5","rss":"9","vsz":"9"},{"whole":true,"self":"920"}]`,
		"file": `[{"n":"C:\\inetpub\\web.config","link":false,"dir":false,"size":"8","uid":"S-1-5-32-544","owner":"BUILTIN\\Administrators","gid":"S-1-5-18","group":"NT AUTHORITY\\SYSTEM"},
			{"n":"C:/Windows","link":false,"dir":true,"size":"0","uid":"S-1-5-80-1","owner":"NT SERVICE\\TrustedInstaller","gid":"S-1-5-18","group":""},
			{"n":"C:\\gone","link":false,"gone":true},{"n":"C:\\dangling","link":true,"gone":true},{"n":"C:\\locked","link":false,"dir":false,"size":"1","noowner":"Attempted to perform an unauthorized operation."},
			{"n":"%TEMP%\\x","error":"UnauthorizedAccessException: Access to the path is denied."}]`,
		"content":      `[{"n":"C:\\inetpub\\web.config","data":"` + b64(utf16) + `"},{"n":"C:\\gone","missing":"no such file"}]`,
		"mtime":        `[{"n":"C:\\inetpub\\web.config","mtime":"1700000000"}]`,
		"sha256sum":    `[{"n":"C:\\inetpub\\web.config","sum":"` + strings.Repeat("a", 64) + `"}]`,
		"link target":  `[{"n":"C:\\dangling","target":"D:\\Data\\"}]`,
		"file version": `[{"n":"C:\\inetpub\\web.config","missing":"it has no version"},{"n":"C:\\app.exe","number":"10.0.20348.1","file":"10.0.20348.1 (WinBuild.160101.0800)","product":"10.0"}]`,
		"access":       `[{"n":"C:\\inetpub\\web.config","sids":["S-1-1-0"],"rules":[{"sid":"S-1-1-0","rights":"1179785","allow":true,"only":false},{"sid":"S-1-1-0","rights":"2032127","allow":true,"only":true}]}]`,
		"access -r":    `[{"n":"C:\\inetpub\\web.config\u0000bob","sids":["S-1-1-0","S-1-5-21-1-2-3-1001","S-1-5-32-545"],"rules":[{"sid":"S-1-5-32-545","rights":"-1610612736","allow":true,"only":false}]}]`,
		"access -w":    `[{"n":"C:\\inetpub\\web.config\u0000bob","sids":["S-1-1-0","S-1-5-32-545"],"rules":[{"sid":"S-1-5-32-545","rights":"2","allow":false,"only":false},{"sid":"S-1-1-0","rights":"2032127","allow":true,"only":false}]}]`,
		"access -x":    `[{"n":"C:\\inetpub\\web.config\u0000CORP\\ann","error":"RuntimeException: CORP\\ann is no name of a local account"}]`,
		"user": `[{"n":"Administrator","sid":"S-1-5-21-1-2-3-500","home":"C:\\Users\\Administrator","groups":["Administrators"]},
			{"n":"Some One","sid":"S-1-5-21-1-2-3-1001","home":"","groups":[]},{"n":"nobody","missing":"no such user"}]`,
		"authorized keys": `[{"n":"Administrator","keys":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me\r\n"}]`,
		"group":           `[{"n":"Remote Desktop Users","sid":"S-1-5-32-555","members":["bob"]}]`,
		"command":         "[" + program("Get-Service w3svc", 0, "Running\r\n", "") + "]",
		"interface":       `[{"name":"Ethernet 2","state":"1","speed":"10000000000","mtu":"1500","addrs":["192.0.2.10/24","fe80::5%7/64"]},{"name":"Idle","state":"2","speed":"-1","mtu":"","addrs":[]},{"whole":true}]`,
		"route":           `[{"to":"0.0.0.0/0","via":"192.0.2.1","dev":"Ethernet 2","metric":"281"},{"to":"192.0.2.0/24","via":"0.0.0.0","dev":"Ethernet 2","metric":"281"},{"to":"fe80::/64","via":"::","dev":"Ethernet 2","metric":"281"},{"whole":true}]`,
		"host":            `[{"n":"db.internal","addrs":["192.0.2.5","2001:db8::5"]}]`,
		"dns":             `[{"n":"db.internal","missing":"the name servers know no address"}]`,
		"hosts":           `[{"n":"db.internal","data":"` + b64("# 192.0.2.9 db.internal\r\n192.0.2.5\tDB.internal db\r\n") + `"}]`,
		"ping":            `[{"n":"db.internal\u00005","why":"no answer to ping: TimedOut"}]`,
		"connect":         `[{"n":"db.internal\u00005432\u00003","why":""}]`,
		"windows feature": `[{"n":"\u0000Web-Server","state":"Installed"},{"n":"dism\u0000IIS-WebServer","state":"DisabledWithPayloadRemoved"},{"n":"\u0000Nope","missing":"no such feature"},{"n":"powershell\u0000Web-Server","unsupported":"there is no Get-WindowsFeature"}]`,
		"windows hot fix": `[{"id":"KB5034439","description":"Security Update"},{"whole":true}]`,
		"registry key":    `[{"n":"LocalMachine\u0000SOFTWARE\\X","values":"3","keys":"0"},{"n":"Users\u0000gone","missing":"no such key"}]`,
		"registry value": `[{"n":"LocalMachine\u0000SOFTWARE\\X\u0000Level","kind":"DWord","text":"4294967295"},{"n":"LocalMachine\u0000SOFTWARE\\X\u0000","kind":"String","text":"main"},
			{"n":"LocalMachine\u0000SOFTWARE\\X\u0000List","kind":"MultiString","list":["a","b"]},{"n":"LocalMachine\u0000SOFTWARE\\X\u0000Raw","kind":"Binary","text":"0AFF"},
			{"n":"LocalMachine\u0000SOFTWARE\\X\u0000Gone","missing":"the key has no such property"}]`,
		"scheduled task":   `[{"n":"\\Ours\\Rotate","enabled":true,"state":"3"},{"n":"Gone","missing":"no such task"}]`,
		"windows firewall": `[{"name":"WinRM HTTPS","enabled":true,"direction":"1","action":"1","protocol":"6","ports":"5986,8000-8010"},{"name":"Twice","enabled":true,"direction":"1","action":"1","protocol":"6","ports":"80"},{"name":"twice","enabled":false,"direction":"1","action":"0","protocol":"17","ports":"*"},{"whole":true}]`,
		"iis website": `[{"n":"Default Web Site","enabled":true,"state":"Started","bindings":[{"protocol":"http","info":"*:80:"},{"protocol":"https","info":"[2001:db8::1]:443:www.example.com"}],
			"apps":[{"path":"/","pool":"DefaultAppPool","dirs":[{"path":"/","at":"C:\\inetpub\\wwwroot"},{"path":"/img","at":"D:\\img"}]},{"path":"/api","pool":"api","dirs":[{"path":"/","at":"D:\\api"}]}]},
			{"n":"Ftp","enabled":false,"state":"","nostate":"The object identifier does not represent a valid object.","bindings":[],"apps":[]}]`,
		"iis app pool": `[{"n":"api","runtime":"v4.0","bits32":true,"pipeline":"Integrated","idle":"20","restart":"1740","identity":"SpecificUser","profile":false,"user":"CORP\\svc"}]`,
	}}
	src := `
title = "x"
package "Git" {
	be_installed = { with_version = ">= 2.9, < 3" } # pass: 2.45.1
	its "version" { eq = "2.45.1.0" } # pass
}
package "7-Zip*" {
	be_installed = { with_version = "= 24.8" } # pass: installed: 24.08 (in windows's order)
}
package "Odd" {
	be_installed = true # pass
	should_not {
		be_installed = { with_version = ">= 1" } # error: not a version
	}
}
package "Gi" {
	be_installed = true # fail: not installed
}
package "git" {
	be_installed = { by = "apt" } # error: not possible on this machine
}
package "jq" {
	be_installed = { by = "chocolatey", with_version = "< 1.7" } # pass: 1.7.0-rc1
}
package "Pester" {
	be_installed = { by = "psmodule", with_version = ">= 5" } # pass: 5.5.0, 3.4.0
}
package "Nope" {
	be_installed = { by = "psmodule" } # fail: not installed
}
package "corepack" {
	be_installed = { by = "npm" } # pass
}
package "rack" {
	be_installed = { by = "gem" } # error: there is no gem
}
service "W3SVC" {
	be_installed    = true # pass
	be_enabled      = true # pass: StartMode=Auto (delayed)
	be_running      = true # pass: State=Running
	have_start_mode = "Automatic" # pass: Auto (delayed)
	have_property   = { StartName = "localsystem", ExitCode = 0 } # pass
	its "property.ProcessId" { be_greater_than = 0 } # pass
	its "property.DesktopInteract" { eq = false } # pass
	its "property.Nope" { eq = 1 } # fail: no such property
	should_not {
		have_start_mode = "Manual" # pass
		have_property   = { Nope = 1 } # fail: no property Nope
		be_enabled = { with_level = 3 } # error: no runlevels
	}
}
service "Spooler" {
	should_not {
		be_enabled = true # pass: Disabled
		be_running = true # pass: Stopped
	}
	have_start_mode = "Automatic (Delayed Start)" # fail: Disabled
}
service "MSSQL$X" {
	be_running = true # fail: no such service
	should_not { be_installed = true } # pass
	have_start_mode = "Manual" # fail: no such service
}
service "Broken" {
	be_running = true # error: CimException: Access denied
}
port "80" {
	be_listening = { with = "tcp", on = "0.0.0.0" } # pass
	should_not { be_listening = { with = "udp" } } # pass
}
port "8080" {
	be_listening = { on = "0.0.0.0" } # error: cannot tell
	should_not { be_listening = { on = "127.0.0.1" } } # pass
}
port "546" {
	be_listening = { with = "udp6", on = "fe80::1" } # pass
}
process "w3wp" {
	be_running = true # pass
	its "user" { eq = "IIS APPPOOL\\web" } # pass
	its "args" { include = "-ap" } # pass
	its "rss" { eq = 20480 } # pass
	its "state" { eq = "x" } # error: not possible on this machine
}
process "powershell.exe" {
	be_running = true # fail: no such process
}
process "conhost" {
	be_running = true # fail: no such process
}
process "LSASS" {
	its "count" { eq = 1 } # pass
	its "args" { eq = "" } # error: does not say
}
file "C:\\inetpub\\web.config" {
	be_file         = true # pass
	be_owned_by     = "Administrators" # pass
	be_grouped_into = "S-1-5-18" # pass
	be_mode         = "0644" # error: not possible on this machine
	be_immutable    = true # error: not possible on this machine
	be_readable     = { by = "others" } # pass: everybody may
	be_writable     = { by = "others" } # fail: not everybody may
	be_executable   = true # error: say by_user
	its "owner" { eq = "BUILTIN\\Administrators" } # pass
	its "content" { eq = "a\nä=1\n" } # pass
	its "content" { match = "=1$" } # pass
	its "size" { eq = 8 } # pass
	its "mtime" { eq = 1700000000 } # pass
	its "sha256sum" { start_with = "aaaa" } # pass
	its "version" { eq = "1" } # fail: no version
	its "mode" { eq = "0644" } # error: not possible on this machine
}
file "C:\\inetpub\\web.config" {
	be_readable   = { by_user = "bob" } # pass
	be_writable   = { by_user = "bob" } # fail: may not
	be_executable = { by_user = "CORP\\ann" } # error: no name of a local account
}
file "C:/Windows" {
	be_directory = true # pass
	be_owned_by  = "NT SERVICE\\trustedinstaller" # pass
}
file "C:\\gone" {
	should_not { exist = true } # pass
	its "content" { not_match = "x" } # fail: no such file
	be_owned_by = "x" # fail: no such file
}
file "C:\\dangling" {
	exist = true # fail: a symbolic link to nothing
	be_symlink = true # pass
	be_linked_to = "D:\\Data\\" # pass
}
file "C:\\locked" {
	exist = true # pass
	should_not { be_owned_by = "x" } # error: its owner could not be read
}
file "%TEMP%\\x" {
	should_not { exist = true } # error: Access to the path is denied
}
file "C:\\app.exe" {
	be_version = ">= 10.0.17763" # pass: 10.0.20348.1
}
file "/etc/passwd" {
	should_not { exist = true } # error: begins with a drive
}
user "Administrator" {
	exist               = true # pass: SID S-1-5-21
	belong_to_group     = "administrators" # pass
	have_home_directory = "c:/users/administrator/" # pass
	be_is_system_user   = true # pass
	have_authorized_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA" # pass
	have_uid            = 0 # error: not possible on this machine
	its "sid" { match = "-500$" } # pass
}
user "Some One" {
	should_not { be_is_system_user = true } # pass
}
user "nobody" {
	exist = true # fail: no such user
	should_not { belong_to_group = "x" } # fail: no such user
}
group "Remote Desktop Users" {
	exist              = true # pass
	be_is_system_group = true # pass
	its "members" { include = "bob" } # pass
}
command "Get-Service w3svc" {
	its "stdout" { eq = "Running" } # pass
	its "exit_status" { eq = 0 } # pass
}
interface "Ethernet 2" {
	be_up             = true # pass: up
	have_ipv4_address = "192.0.2.10/24" # pass
	have_ipv6_address = "fe80::5" # pass
	its "speed" { eq = 10000 } # pass
	its "mtu" { eq = 1500 } # pass
}
interface "Idle" {
	be_up = true # fail: down
	its "mtu" { eq = 1500 } # error: mtu
}
default_gateway {
	its "ipaddress" { eq = "192.0.2.1" } # pass
	its "interface" { eq = "Ethernet 2" } # pass
}
routing_table {
	have_entry = { destination = "192.0.2.0/24", interface = "Ethernet 2" } # pass
}
host "db.internal" {
	be_resolvable = true # pass
	be_reachable  = true # fail: TimedOut
	its "ipv6_address" { eq = "2001:db8::5" } # pass
}
host "db.internal" {
	be_resolvable = { by = "dns" } # fail: know no address
	be_reachable  = { with = { port = 5432, timeout = 3 } } # pass
}
host "db.internal" {
	be_resolvable = { by = "hosts" } # pass: 192.0.2.5
}
windows_feature "Web-Server" {
	be_installed = true # pass: Installed
}
windows_feature "Web-Server" {
	be_installed = { by = "powershell" } # error: there is no Get-WindowsFeature
}
windows_feature "IIS-WebServer" {
	be_installed = { by = "dism" } # fail: DisabledWithPayloadRemoved
}
windows_feature "Nope" {
	be_installed = true # fail: no such feature
}
windows_hot_fix "kb5034439" {
	be_installed = true # pass: Security Update
}
windows_hot_fix "KB1" {
	be_installed = true # fail: not installed
}
windows_registry_key "HKEY_LOCAL_MACHINE\\SOFTWARE\\X" {
	exist               = true # pass
	have_property       = { property = "Level", type = "type_dword" } # pass
	have_value          = "main" # pass
	have_property_value = { property = "Level", value = "0xffffffff" } # pass
	its "property.Level" { eq = 4294967295 } # pass
	its "property.List" { include = "b" } # pass
	should_not {
		have_property       = "Gone" # pass
		have_property_value = { property = "Gone", value = 1 } # fail: no such property
	}
}
windows_registry_key "HKLM:\\SOFTWARE\\X" {
	have_property       = { property = "Level", type = "string" } # fail: dword "4294967295"
	have_property_value = { property = "List", type = "multistring", value = ["a", "b"] } # pass
}
windows_registry_key "HKLM\\SOFTWARE\\X" {
	have_property_value = { property = "Raw", type = "binary", value = "0a ff" } # pass
}
windows_registry_key "HKEY_USERS\\gone" {
	exist = true # fail: no such key
}
windows_scheduled_task "\\Ours\\Rotate" {
	exist      = true # pass: ready
	be_enabled = true # pass
}
windows_scheduled_task "Gone" {
	exist = true # fail: no such task
}
windows_firewall "winrm https" {
	exist          = true # pass
	be_enabled     = true # pass
	be_inbound     = true # pass
	be_allowed     = true # pass
	be_tcp         = true # pass
	have_localport = 8005 # pass
	should_not { have_localport = 80 } # pass
}
windows_firewall "Twice" {
	be_inbound = true # pass
	be_enabled = true # error: 2 rules of this name differ
	should_not { be_tcp = true } # error: 2 rules of this name differ
}
windows_firewall "Gone" {
	be_enabled = true # fail: no such rule
}
iis_website "Default Web Site" {
	be_enabled            = true # pass
	be_running            = true # pass
	be_in_app_pool        = "defaultapppool" # pass
	have_physical_path    = "C:/inetpub/wwwroot" # pass
	have_site_bindings    = { port = 443, with_protocol = "https", with_ipaddress = "2001:db8::1", with_host_header = "www.example.com" } # pass
	have_virtual_dir      = { virtual_dir = "img", with_path = "D:\\img" } # pass
	have_site_application = { application = "/api", with_pool = "api", with_physical_path = "D:\\api" } # pass
	should_not {
		have_site_bindings    = { port = 80, with_protocol = "https" } # pass
		have_site_application = "nope" # pass
	}
}
iis_website "Ftp" {
	should_not { be_running = true } # error: did not say
}
iis_app_pool "api" {
	exist                      = true # pass
	have_dotnet_version        = "4.0" # pass
	have_32bit_enabled         = true # pass
	have_idle_timeout          = 20 # pass
	have_identity_type         = "specificuser" # pass
	have_periodic_restart      = 60 # fail: 1740
	have_user_profile_enabled  = true # fail: does not load
	have_username              = "corp\\svc" # pass
	have_managed_pipeline_mode = "Integrated" # pass
}
cron {
	have_entry = "x" # error: not possible on this machine
}
bridge "Idle" {
	should_not { exist = true } # error: not possible on this machine
}
selinux {
	should_not { be_enforcing = true } # error: not possible on this machine
}
file "C:\\gone" {
	when  = os.family == "windows" && os.arch == "amd64" && os.init == "windows"
	exist = true # fail: no such file
}
file "/etc/x" {
	when  = os.family == "debian"
	exist = true # skip: os.family is "windows"
}
command "Get-Service w3svc" {
	when = os.release == "10.0.20348" && os.codename == "21H2"
	its "stderr" { eq = "" } # pass
}
`
	s, diags := parse(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	m, server := w.machine(t)
	before := server.Count("Command")
	r, err := s.Run(t.Context(), m, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, src, r)
	// One round trip, and one for the command that waits for the platform.
	if n := server.Count("Command") - before; r.RoundTrips != 2 || n != 2 {
		t.Errorf("%d round trips, %d commands", r.RoundTrips, n)
	}
	if n := len(slices.DeleteFunc(slices.Clone(w.asked), func(s string) bool { return !strings.HasPrefix(s, "service: ") })); n != 1 {
		t.Errorf("services were asked for %d times: %v", n, w.asked)
	}
	for _, a := range w.asked {
		if strings.Contains(a, "/etc/") || strings.HasPrefix(a, "crontab") {
			t.Errorf("what Windows cannot answer was asked: %s", a)
		}
	}
}

// What only Windows has is an error elsewhere, and so is what is no subject there.
func TestWindowsElsewhere(t *testing.T) {
	src := `
windows_feature "x" {
	should_not { be_installed = true } # error: only Windows
}
windows_registry_key "HKLM\\x" {
	should_not { exist = true } # error: only Windows
}
iis_website "x" {
	should_not { exist = true } # error: only Windows
}
service "x" {
	should_not { be_installed = true } # error: only Windows
}
package "x" {
	should_not { be_installed = { by = "chocolatey" } } # error: only Windows
}
package "a*" {
	should_not { be_installed = true } # error: not a name
}
service "../x" {
	should_not { be_running = true } # error: not a name
}
package "a b" {
	should_not { be_installed = true } # error: not a name
}
service "a b" {
	should_not { be_running = true } # error: not a name
}
user "a b" {
	should_not { exist = true } # error: not an account's name
}
interface "a b" {
	should_not { exist = true } # error: not a name
}
file "C:\\x" {
	should_not { exist = true } # error: begins with /
}
x509_certificate "Cert:\\LocalMachine\\My\\0123456789012345678901234567890123456789" {
	should_not { be_certificate = true } # error: begins with /
}
file "/x" {
	should_not { be_version = "1" } # error: only Windows
	its "version" { eq = "1" } # error: only Windows
}
`
	s, diags := parse(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	r, err := s.Run(t.Context(), machineOf("linux", nil), RunOptions{})
	if err != nil || r.RoundTrips != 0 {
		t.Errorf("%d round trips, %v", r.RoundTrips, err)
	}
	expect(t, src, r)
}

type bare struct {
	machine.Machine
	os  string
	run func(ctx context.Context, c machine.Command) error
}

func (b bare) Platform() machine.Platform                       { return machine.Platform{OS: b.os} }
func (b bare) Run(ctx context.Context, c machine.Command) error { return b.run(ctx, c) }

func machineOf(os string, run func(context.Context, machine.Command) error) machine.Machine {
	return bare{os: os, run: run}
}

// A document that is not whole, is forged or is about something else passes nothing.
func TestWindowsHostile(t *testing.T) {
	good := map[string]string{
		"service": `[{"n":"a","props":{"State":"Running","StartMode":"Auto"}},{"n":"b","missing":"no such service"}]`,
		"command": "[" + program("x", 0, "y", "") + "]",
	}
	with := func(k, v string) map[string]string {
		out := map[string]string{}
		for n, a := range good {
			out[n] = a
		}
		out[k] = v
		return out
	}
	src := `
service "a" {
	be_running = true
}
service "b" {
	should_not { be_running = true }
}
command "x" {
	its "stdout" { eq = "y" }
}
`
	forged := func(mark string) string {
		doc := `{"sections":[{"kind":"service","ms":"1","late":false,"fault":null,"records":` + good["service"] + `},{"kind":"command","ms":"1","late":false,"fault":null,"records":` + good["command"] + `}]}`
		return fmt.Sprintf("\n%s BEGIN %d\n%s\n%[1]s END 2\n", mark, len(doc), doc)
	}
	for _, c := range []struct {
		name    string
		passed  int
		says    string // in one of the messages
		broken  bool   // Run has an error, too
		answers map[string]string
		edit    func(mark, out string) string
	}{
		{name: "honest", passed: 3},
		{name: "chatty", passed: 3, edit: func(_, out string) string { return "WARNING: a module talks\r\n" + out + "and goes on" }},
		{name: "with carriage returns", passed: 3, edit: func(_, out string) string { return strings.ReplaceAll(out, "\n", "\r\n") }},
		{name: "forged before", says: "no such", edit: func(_, out string) string { return forged("0000") + out }, answers: map[string]string{
			"service": `[{"n":"a","missing":"no such service"},{"n":"b","error":"x"}]`, "command": `[]`}},
		{name: "only forged", broken: true, says: "broke off", edit: func(_, out string) string { return forged("0000") }},
		{name: "silent", broken: true, says: "broke off", edit: func(string, string) string { return "" }},
		{name: "no end", broken: true, says: "broke off", edit: func(mark, out string) string { return out[:strings.LastIndex(out, "\n"+mark)] }},
		{name: "no newline after the end", broken: true, says: "broke off", edit: func(_, out string) string { return strings.TrimSuffix(out, "\n") }},
		{name: "no beginning", broken: true, says: "no beginning", edit: func(mark, out string) string { return out[strings.Index(out, "{")-1:] }},
		{name: "shortened", broken: true, says: "does not end", edit: func(_, out string) string { return strings.Replace(out, `"Running"`, `"Run"`, 1) }},
		{name: "wrong count", broken: true, says: "not 2 parts", edit: func(_, out string) string { return strings.Replace(out, " END 2", " END 3", 1) }},
		{name: "no JSON", broken: true, says: "damaged", edit: func(_, out string) string { return strings.Replace(out, `{"sections"`, `{"sections;`, 1) }},
		{name: "other kind", passed: 1, says: "answered about wervice", edit: func(_, out string) string { return strings.Replace(out, `"kind":"service"`, `"kind":"wervice"`, 1) }},
		{name: "late section", passed: 2, says: "did not end within 30s", answers: with("command", `{"ms":"30000","late":true,"fault":null,"records":[]}`)},
		{name: "late program", passed: 2, says: "did not end in time", answers: with("command", `[{"n":"x","late":true}]`)},
		{name: "faulty section", passed: 1, says: `CimException: \a`, answers: with("service", `{"ms":"1","late":false,"fault":"CimException: \u0007","records":[]}`)},
		{name: "fault and records", passed: 1, says: "half", answers: with("service", `{"ms":"1","late":false,"fault":"half","records":`+good["service"]+`}`)},
		{name: "no records", passed: 1, says: "gave no answer", answers: with("service", `[]`)},
		{name: "null records", passed: 1, says: "gave no answer", answers: with("service", `[null]`)},
		{name: "one is missing", passed: 2, says: "gave no answer", answers: with("service", `[{"n":"b","missing":"no such service"}]`)},
		{name: "twice", passed: 1, says: "two answers for a", answers: with("service", `[{"n":"a","props":{"State":"Running","StartMode":"Auto"}},{"n":"a","props":{"State":"Running","StartMode":"Auto"}},{"n":"b","missing":""}]`)},
		{name: "no state", passed: 2, says: "State", answers: with("service", `[{"n":"a","props":{"StartMode":"Auto"}},{"n":"b","missing":"no such service"}]`)},
		{name: "props of no kind", passed: 2, says: "properties", answers: with("service", `[{"n":"a","props":[1]},{"n":"b","missing":"no such service"}]`)},
		{name: "no base64", passed: 2, says: "base64", answers: with("command", `[{"n":"x","status":"0","out":"%","err":""}]`)},
		{name: "no status", passed: 2, says: "Atoi", answers: with("command", `[{"n":"x","out":"eQ==","err":""}]`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &windowsStand{answers: c.answers, edit: c.edit}
			if w.answers == nil {
				w.answers = good
			}
			s, diags := parse(t, src)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			r, err := s.Run(t.Context(), machineOf("windows", func(_ context.Context, m machine.Command) error {
				if status := w.run(&winrmtest.Process{Line: m.Line, Stdin: m.Stdin, Stdout: m.Stdout, Stderr: m.Stderr}); status != 0 {
					return &machine.ExitError{Status: status}
				}
				return nil
			}), RunOptions{})
			if (err != nil) != c.broken {
				t.Errorf("error %v", err)
			}
			var said strings.Builder
			for _, x := range r.Results {
				said.WriteString(x.Actual + x.Message + "\n")
			}
			if n := r.Counts(); n.Passed != c.passed || !strings.Contains(said.String(), c.says) || strings.ContainsRune(said.String(), 7) {
				t.Errorf("%+v, wanted %d passed and %q in:\n%s", n, c.passed, c.says, &said)
			}
		})
	}

	t.Run("endless", func(t *testing.T) {
		s, _ := parse(t, src)
		r, err := s.Run(t.Context(), machineOf("windows", func(ctx context.Context, c machine.Command) error {
			for ctx.Err() == nil {
				c.Stdout.Write(make([]byte, 4096))
			}
			return ctx.Err()
		}), RunOptions{MaxOutput: 64 << 10})
		if err == nil || !strings.Contains(err.Error(), "printed more than 65536 bytes") || r.Counts().Errors != 3 {
			t.Errorf("%v", err)
		}
	})
	t.Run("no PowerShell", func(t *testing.T) {
		s, _ := parse(t, src)
		r, err := s.Run(t.Context(), machineOf("windows", func(ctx context.Context, c machine.Command) error {
			io.WriteString(c.Stderr, "'powershell' is not recognized as an internal or external command\r\n")
			return &machine.ExitError{Status: 1}
		}), RunOptions{})
		if err == nil || !strings.Contains(err.Error(), "is not recognized") || !strings.Contains(err.Error(), "exit status 1") || r.Counts().Errors != 3 {
			t.Errorf("%v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		s, _ := parse(t, src)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r, err := s.Run(ctx, machineOf("windows", func(ctx context.Context, _ machine.Command) error { <-ctx.Done(); return ctx.Err() }), RunOptions{})
		if !errors.Is(err, context.Canceled) || r.Counts().Errors != 3 {
			t.Errorf("%v", err)
		}
	})
	// What a command left running may hold the connection: the end is the END.
	t.Run("hangs after the end", func(t *testing.T) {
		s, _ := parse(t, src)
		w := &windowsStand{answers: good}
		r, err := s.Run(t.Context(), machineOf("windows", func(ctx context.Context, c machine.Command) error {
			w.run(&winrmtest.Process{Line: c.Line, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
			<-ctx.Done()
			return ctx.Err()
		}), RunOptions{})
		if err != nil || !r.Passed() {
			t.Errorf("%v", err)
		}
	})
}

// The line that starts PowerShell is short however much is asked, and the mark
// is not on it: it comes by stdin.
func TestWindowsLine(t *testing.T) {
	var src strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&src, "file \"C:\\\\%s%d\" {\n\tshould_not { exist = true }\n}\n", strings.Repeat(`long\\`, 20), i)
	}
	s, diags := parse(t, src.String())
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var lines []string
	r, _ := s.Run(t.Context(), machineOf("windows", func(_ context.Context, c machine.Command) error {
		lines = append(lines, c.Line)
		text, args, ok := winrmtest.Call(&winrmtest.Process{Line: c.Line, Stdin: c.Stdin})
		if !ok || text != windowsScript || len(args) != 2+5+2000 {
			t.Errorf("%v, %d words", ok, len(args))
		} else if strings.Contains(c.Line, args[0]) || len(args[0]) < 52 {
			t.Errorf("the mark %q is on the line, or short", args[0])
		}
		return nil
	}), RunOptions{})
	if len(lines) != 1 || len(lines[0]) > 8000 || r.Counts().Errors != 2000 {
		t.Errorf("%d lines, the first of %d characters, %+v", len(lines), len(lines[0]), r.Counts())
	}
}

func TestWindowsTimeouts(t *testing.T) {
	for src, want := range map[string]string{
		"command \"x\" {\n its \"exit_status\" { eq = 0 }\n}\n":                     "35000 30000",
		"command \"x\" {\n timeout = \"10s\"\n its \"exit_status\" { eq = 0 }\n}\n": "15000 10000",
		"timeout = \"2m\"\nservice \"x\" {\n be_running = true\n}\n":                "120000 120000",
	} {
		s, diags := parse(t, src)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		_, _ = s.Run(t.Context(), machineOf("windows", func(_ context.Context, c machine.Command) error {
			_, args, _ := winrmtest.Call(&winrmtest.Process{Line: c.Line, Stdin: c.Stdin})
			if got := args[3] + " " + args[4]; got != want {
				t.Errorf("%s: %s, wanted %s", src, got, want)
			}
			return nil
		}), RunOptions{})
	}
}

func TestWindowsRefuses(t *testing.T) {
	for src, want := range map[string]string{
		`file "C:x" { exist = true }`:                                                         "begins with",
		`file "C:\\a*" { exist = true }`:                                                      "begins with",
		`windows_registry_key "SOFTWARE\\X" { exist = true }`:                                 "begins with its hive",
		`windows_registry_key "HKLM\\X" { have_property = { type = "x" } }`:                   "property is missing",
		`windows_registry_key "HKLM\\X" { have_property = { property = "a", type = "int" } }`: "none of string",
		`windows_hot_fix "5034439" { be_installed = true }`:                                   "not a name",
		`windows_feature "x" { be_installed = { by = "apt" } }`:                               "dism, powershell",
		`service "x" { have_start_mode = "sometimes" }`:                                       "none of Automatic",
		`service "x" { have_property = "x" }`:                                                 "object with properties",
		`iis_app_pool "x" { have_idle_timeout = "long" }`:                                     "number of minutes",
		`x509_certificate "Cert:\\LocalMachine\\My" { be_certificate = true }`:                "begins with",
		`package " x" { be_installed = true }`:                                                "not a name",
		`package "-x" { be_installed = true }`:                                                "not a name",
		"service \"x\\u0001\" {\n be_running = true\n}":                                       "not a name",
	} {
		checkRefused(t, src, want)
	}
}

func TestCompareWindows(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1", "1.0.0.0", 0}, {"10.0.20348.1", "10.0.9", 1}, {"1.7.0-rc1", "1.7", -1}, {"1.7-rc2", "1.7-rc10", -1}, {"2.0+build", "2", 0}, {"24.08", "24.8", 0},
	} {
		if got := compareWindows(c.a, c.b); got != c.want || compareWindows(c.b, c.a) != -c.want {
			t.Errorf("%s and %s: %d", c.a, c.b, got)
		}
	}
}

// A recorded certificate in DER comes through whole, whatever its bytes.
func TestWindowsContent(t *testing.T) {
	der := []byte{0x30, 0x82, 0x0d, 0x0a, 0xff, 0xfe}
	for name, c := range map[string]struct {
		r    record
		want string
	}{
		"der":       {record{"data": base64.StdEncoding.EncodeToString(der)}, string(der)},
		"store":     {record{"data": base64.StdEncoding.EncodeToString(der), "raw": true}, string(der)},
		"text":      {record{"data": b64("a\r\nb\rc\n")}, "a\nb\rc\n"},
		"UTF-8":     {record{"data": b64("\xef\xbb\xbfä\r\n")}, "ä\n"},
		"UTF-16 BE": {record{"data": b64("\xfe\xff\x00a\x00\r\x00\n")}, "a\n"},
		"cut":       {record{"data": b64("\xff\xfea\x00b")}, "a"},
	} {
		if got, err := windowsContent(c.r); got != c.want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	long := record{"data": base64.StdEncoding.EncodeToString(make([]byte, maxContent+1))}
	if _, err := windowsContent(long); err == nil || !strings.Contains(err.Error(), strconv.Itoa(maxContent)) {
		t.Errorf("%v", err)
	}
}

// A certificate of a store comes as the store has it.
func TestWindowsCertificateStore(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, DNSNames: []string{"www.example.com"}, NotAfter: time.Now().Add(100 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	thumb := fmt.Sprintf("%X", sha1.Sum(der))
	path := `Cert:\\LocalMachine\\My\\` + thumb
	w := &windowsStand{answers: map[string]string{
		"content": `[{"n":"` + path + `","data":"` + base64.StdEncoding.EncodeToString(der) + `","raw":true}]`,
	}}
	src := strings.ReplaceAll(`
x509_certificate "PATH" {
	be_certificate = true # pass
	be_valid       = true # pass
	its "keylength" { eq = 256 } # pass
	its "validity_in_days" { be_in = [99, 100] } # pass
	its "subject_alt_names" { include = "DNS:www.example.com" } # pass
}
x509_private_key "C:\\key.pem" {
	should_not { be_encrypted = true } # error: not possible on this machine
}
`, "PATH", path)
	s, diags := parse(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	m, _ := w.machine(t)
	r, err := s.Run(t.Context(), m, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, src, r)
}
