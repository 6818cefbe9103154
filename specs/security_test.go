package specs

import (
	"strings"
	"testing"
)

func TestSELinux(t *testing.T) {
	const config = "# comment SELINUX=disabled\nSELINUX=enforcing\nSELINUXTYPE=targeted\n"
	for _, c := range []struct{ say, want, out string }{
		{"be_enforcing = true", "pass: now enforcing", "now=1\n" + config},
		{"be_enforcing = { with_policy = \"targeted\" }", "pass", "now=Enforcing\n" + config},
		{"be_enforcing = { with_policy = \"mls\" }", "fail: policy targeted", "now=1\n" + config},
		{"be_enforcing = true", "fail: now permissive, after a boot enforcing", "now=0\n" + config},
		{"be_permissive = true", "fail", "now=0\n" + config},
		{"be_permissive = true", "pass", "now=0\nSELINUX=permissive\n"},
		{"be_disabled = true", "pass", "now=Disabled\nnone\n"},
		{"be_disabled = true", "fail: after a boot enforcing", "now=Disabled\n" + config},
		{"be_disabled = true", "error", "none\n"},
		{"be_disabled = true", "error: gives the mode", "now=Disabled\nSELINUX=off\n"},
	} {
		src := "selinux {\n\t" + c.say + " # " + c.want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"selinux": {out: []byte(c.out)}}))
	}
	src := `
selinux_module "abrt" {
	be_installed = true # pass
	be_enabled   = true # pass
}
selinux_module "zabbix" {
	be_installed = true # pass
	be_enabled   = true # fail: disabled
}
selinux_module "abr" {
	be_installed = true # fail: no such module
	should_not { be_enabled = true } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"selinux module": {out: []byte("400 abrt pp\n100 abrt pp disabled\n100 accountsd pp\n100 zabbix pp disabled\n")}}))
	for want, a := range map[string]answer{
		"pass":                    {out: []byte("No modules.\n")}, // policycoreutils 3.4
		"error: no semodule":      {status: 9, errOut: []byte("there is no semodule\n")},
		"error: Permission":       {status: 1, errOut: []byte("libsemanage.semanage_access_check: Permission denied\n")},
		"error: exit status 0":    {},
		"error: not a line about": {out: []byte("abrt\t1.2\n")},
	} {
		src := "selinux_module \"x\" {\n\tshould_not { be_installed = true } # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"selinux module": a}))
	}
}

// What auditctl 3.0.9 prints, and the form of old ones.
func TestAudit(t *testing.T) {
	src := `
linux_audit_system {
	be_enabled = true # fail: enabled 0
	be_running = true # fail: pid is 0
	its "rules" { eq = "" } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"audit": {out: []byte("enabled 0\nfailure 1\npid 0\nrate_limit 0\nbacklog_limit 64\n")}, "audit rules": {out: []byte("No rules\n")}}))
	src = `
linux_audit_system {
	be_enabled = true # pass
	be_running = true # pass
	its "rules" { match = "^-w /etc/passwd -p wa" } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"audit": {out: []byte("AUDIT_STATUS: enabled=2 flag=1 pid=661 rate_limit=0\n")}, "audit rules": {out: []byte("-w /etc/passwd -p wa -k identity\n")}}))
	src = "linux_audit_system {\n\tshould_not { be_enabled = true } # error: not permitted\n\tits \"rules\" { not_match = \"x\" } # error: must be root\n}\n"
	expect(t, src, recorded(t, src, map[string]answer{"audit": {status: 1, errOut: []byte("Error - Operation not permitted\n")}, "audit rules": {status: 4, errOut: []byte("You must be root to run this program.\n")}}))
}

func TestPacketFilterReaders(t *testing.T) {
	src := `
iptables {
	have_rule = "-p tcp -m tcp --dport 80 -j ACCEPT" # pass
	should_not { have_rule = "--dport 8" } # pass: none of 4 rules
}
iptables {
	have_rule = { rule = "-j ACCEPT", with_chain = "FORWARD" } # fail: none of 1 rules
}
iptables {
	have_rule = "-A INPUT -m comment --comment \"from home\"" # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"iptables": {out: []byte("-P INPUT DROP\n-P FORWARD DROP\n-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n-A INPUT -m comment --comment \"from home\" -j ACCEPT\n")}}))
	for want, a := range map[string]answer{
		"error: Permission":  {status: 4, errOut: []byte("iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n")},
		"error: no iptables": {status: 9, errOut: []byte("there is no iptables\n")},
		"error":              {},
	} {
		src := "iptables {\n\tshould_not { have_rule = \"x\" } # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"iptables": a}))
	}
	for _, bad := range []string{"table inet x {\n", "}\n"} {
		src := "nftables {\n\tshould_not { have_rule = \"x\" } # error: does not hold together\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"nftables": {out: []byte(bad)}}))
	}
	checkRefused(t, `iptables { have_rule = { rule = "x", with_table = "nats" } }`, `did you mean "nat"?`)
	checkRefused(t, `iptables { have_rule = " " }`, "it is empty")
	if got := strings.Join(shellWords(`a  "b c" d"e \" f"  ""`), "|"); got != `a|b c|de " f|` {
		t.Error(got)
	}
}
