package specs

import (
	"strings"
	"testing"
)

func TestKernelModules(t *testing.T) {
	src := `
kernel_module "ip_tables" {
	be_loaded = true # pass: loaded
}
kernel_module "ext4" {
	be_loaded = true # pass: built into the kernel
}
kernel_module "ip" {
	be_loaded = true # fail: not loaded
}
kernel_module "usb-storage" {
	should_not { be_loaded = true } # pass
}
kernel_module "dccp" {
	should_not { be_loaded = true } # error: cannot tell
}
kernel_module "unsaid" {
	be_loaded = true # error: no answer
}
`
	expect(t, src, recorded(t, src, map[string]answer{"kernel module": {out: []byte("loaded ip_tables\nbuiltin ext4\nabsent ip\nabsent usb-storage\nunknown dccp\n")}}))
}

func TestMounts(t *testing.T) {
	// From this project's development machine and a Debian 12 server.
	src := `
file "/" {
	be_mounted = true # pass: /dev/vda1 on / type ext4 (errors=remount-ro,noatime,rw)
	be_mounted = { with = { type = "ext4", options = { noatime = true, errors = "remount-ro" } } } # pass
	be_mounted = { with = { type = "xfs" } } # fail: type is ext4
	be_mounted = { with = { options = ["ro"] } } # fail: it has not the option ro
	be_mounted = { with = { options = { errors = "panic" } } } # fail: its option errors is "remount-ro"
	be_mounted = { only_with = { device = "/dev/vda1", options = ["rw", "noatime"] } } # fail: it also has the option errors
	be_mounted = { only_with = { device = "/dev/vda1", options = ["rw", "noatime", "errors=remount-ro"] } } # pass
}
file "/mnt/with blank" {
	be_mounted = { with = { device = "tmpfs" } } # pass
}
file "/data" {
	be_mounted = { with = { device = "/dev/vdc" } } # pass
	should_not { be_mounted = { with = { device = "/dev/vdb" } } } # pass
}
file "/dat" {
	be_mounted = true # fail: nothing is mounted
	should_not { be_mounted = true } # pass
}
`
	// One attribute stands once in a block.
	src = strings.ReplaceAll(src, "\tbe_mounted = {", "}\nfile \"/\" {\n\tbe_mounted = {")
	src = strings.Replace(src, "file \"/mnt/with blank\" {\n}\nfile \"/\" {", "file \"/mnt/with blank\" {", 1)
	src = strings.Replace(src, "file \"/data\" {\n}\nfile \"/\" {", "file \"/data\" {", 1)
	expect(t, src, recorded(t, src, map[string]answer{"mount": {out: []byte(`/dev/vda1 / ext4 rw,noatime,errors=remount-ro 0 0
tmpfs /mnt/with\040blank tmpfs rw,nosuid 0 0
/dev/vdb /data ext4 rw 0 0
/dev/vdc /data ext4 ro 0 0
`)}}))
	expect(t, "file \"/\" {\nbe_mounted = true # error\n}", recorded(t, "file \"/\" {\nbe_mounted = true\n}", map[string]answer{"mount": {}}))
}

func TestFstab(t *testing.T) {
	src := `
fstab {
	have_entry = { mount_point = "/" } # pass
}
fstab {
	have_entry = { mount_point = "/", device = "UUID=1-2", type = "ext4", options = { errors = "remount-ro" }, dump = 0, pass = 1 } # pass
}
fstab {
	have_entry = { mount_point = "/", pass = 2 } # fail: pass is 1
}
fstab {
	have_entry = { mount_point = "/boot" } # fail: no entry for /boot
}
fstab {
	should_not { have_entry = { mount_point = "/old" } } # pass
}
`
	fs := answer{out: []byte("# a comment\nUUID=1-2 / ext4 errors=remount-ro 0 1\n#/dev/sdb /old ext4 defaults 0 0\nbroken\n")}
	expect(t, src, recorded(t, src, map[string]answer{"fstab": fs}))
	none := "fstab {\n\tshould_not { have_entry = { mount_point = \"/\" } } # pass\n}\n"
	expect(t, none, recorded(t, none, map[string]answer{"fstab": {errOut: []byte("cat: /etc/fstab: No such file or directory\n"), status: 1}}))
	denied := "fstab {\n\tshould_not { have_entry = { mount_point = \"/\" } } # error: Permission denied\n}\n"
	expect(t, denied, recorded(t, denied, map[string]answer{"fstab": {errOut: []byte("cat: /etc/fstab: Permission denied\n"), status: 1}}))
}

func TestCron(t *testing.T) {
	src := `
cron {
	have_entry = "17 3 * * * /usr/local/bin/rotate  --all" # pass: 17  3
}
cron {
	have_entry = { entry = "17 3 * * * /usr/local/bin/rotate" } # fail: not in its 4 lines
}
cron {
	have_entry = "@daily  /bin/true" # pass
}
cron {
	should_not { have_entry = "0 0 * * * /bin/false" } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"crontab": {out: []byte("# 0 0 * * * /bin/false\n17  3 *\t* * /usr/local/bin/rotate  --all\n\n@daily /bin/true\n")}}))
	for said, want := range map[string]string{
		"no crontab for root\n":                                   "fail", // Debian, Red Hat
		"crontab: can't open 'root': No such file or directory\n": "fail", // busybox
		"there is no crontab program\n":                           "error",
		"You (www) are not allowed to use this program\n":         "error",
	} {
		src := "cron {\n\thave_entry = \"* * * * * x\" # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"crontab": {errOut: []byte(said), status: 1}}))
	}
}

func TestMailAliases(t *testing.T) {
	src := `
mail_alias "postmaster" {
	be_aliased_to = "root" # pass
	its "targets" { include = "roo" } # fail: [root]
}
mail_alias "ROOT" {
	be_aliased_to = "|/usr/bin/filter a, b" # pass
}
mail_alias "root" {
	be_aliased_to = "ops@example.com" # pass
}
mail_alias "nobody" {
	be_aliased_to = "x" # fail: no such alias
	should_not { be_aliased_to = "x" } # fail: no such alias
}
`
	expect(t, src, recorded(t, src, map[string]answer{"mail alias": {out: []byte("# nobody: x\npostmaster:    root\nroot: admin,\n\t\"|/usr/bin/filter a, b\" , ops@example.com\n")}}))
}

func TestParameters(t *testing.T) {
	src := `
linux_kernel_parameter "net.ipv4.ip_forward" {
	its "value" {
		eq              = 1 # pass
		be_less_than    = 1 # fail: 1
		match           = "^1$" # pass
	}
}
`
	expect(t, src, recorded(t, src, map[string]answer{"kernel parameter": {out: []byte("1\n")}}))
	src = `
linux_kernel_parameter "net.ipv4.tcp_rmem" {
	its "value" {
		eq              = "4096 131072 6291456" # pass
		be_greater_than = 3 # error: not both numbers
	}
}
`
	expect(t, src, recorded(t, src, map[string]answer{"kernel parameter": {out: []byte("4096\t131072\t6291456\n")}}))
	for status, want := range map[int]string{8: "fail: no such kernel parameter", 9: "error: exit status 9", 1: "error"} {
		src := "linux_kernel_parameter \"a.b\" {\n\tits \"value\" { eq = \"\" } # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"kernel parameter": {status: status}}))
	}
}

func TestDocuments(t *testing.T) {
	src := `
command "x" {
	its "stdout_as_json.servers[1].name" { eq = "b" } # pass: "b"
	its "stdout_as_json.servers.[0].port" { be_greater_than = 79 } # pass: 80
	its "stdout_as_json.servers[0].port" { eq = "eighty" } # fail: 80
	its "stdout_as_json.tags" { include = "x" } # pass
	its "stdout_as_json.tags" { eq = "x" } # fail: [x, 1]
	its "stdout_as_json.tags" { match = "x" } # error: it is a list
	its "stdout_as_json.on" { eq = true } # pass
	its "stdout_as_json[\"a.b\"]" { eq = 1.5 } # pass
	its "stdout_as_json.none" { eq = "null" } # pass
	its "stdout_as_json.none.x" { eq = "null" } # fail: nothing at x
	its "stdout_as_json.servers" { include = "[" } # fail
	its "stdout_as_json.nothing" { eq = "" } # fail: there is no "nothing"
	its "stdout_as_json.tags[7]" { eq = "" } # fail: no element 7
	its "stdout_as_yaml.on" { eq = true } # pass
	should_not {
		its "stdout_as_json.nothing" { match = "x" } # fail: there is no
	}
}
`
	doc := `{"servers": [{"name": "a", "port": 80}, {"name": "b"}], "tags": ["x", 1], "on": true, "a.b": 1.5, "none": null}`
	src = strings.ReplaceAll(src, `stdout_as_json["a.b\"]`, `x`)
	src = strings.ReplaceAll(src, `"stdout_as_json[\"a.b\"]"`, `"stdout_as_json.[\"a.b\"]"`)
	expect(t, src, recorded(t, src, map[string]answer{"command": {out: []byte(doc)}}))

	for name, in := range map[string]string{
		"garbage": "{", "nothing": "", "deep": strings.Repeat("[", 1<<20), "laughs": "a: &a [x]\n" + strings.Repeat("b: [*a, *a]\n", 9),
		"deep yaml": strings.Repeat("- ", 1<<19), "deep flow": "a: " + strings.Repeat("{a: ", 1000),
	} {
		for _, as := range []string{"json", "yaml"} {
			src := "command \"x\" {\n\tits \"stdout_as_" + as + ".a\" { not_match = \"x\" }\n}\n"
			r := recorded(t, src, map[string]answer{"command": {out: []byte(in)}})
			if s := r.Results[0].Status; s == Pass {
				t.Errorf("%s as %s passes", name, as)
			}
		}
	}
}

func TestContainRanges(t *testing.T) {
	src := `
file "/my.cnf" {
	contain = { text = "port = 1", from = "^\\[client\\]", to = "^$" } # pass
}
file "/my.cnf" {
	contain = { text = "port = 1", from = "^\\[mysqld\\]" } # fail: not in the lines
}
file "/my.cnf" {
	contain = { text = "port = 2", after = "^\\[mysqld\\]", before = "^\\[" } # pass
}
file "/my.cnf" {
	contain = { text = "x", after = "^\\[none\\]" } # fail: no line begins
}
file "/my.cnf" {
	contain = { text = "port = 2", to = "^\\[mysqld\\]" } # fail
}
file "/my.cnf" {
	contain = ["[mysqld]", "port"] # pass
}
file "/my.cnf" {
	contain = ["[client]", "[mysqld]"] # fail
}
file "/my.cnf" {
	contain = { text = ["port"], from = "mysqld" } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"content": {out: []byte("[client]\nport = 1\n\n[mysqld]\nport = 2\n")}}))
}

func TestAccessReading(t *testing.T) {
	src := `
file "/a" {
	be_readable = { by = "owner" } # pass: 0644
}
file "/a" {
	be_readable   = { by = "others" } # fail: 0644, but /x is 0700
	be_writable   = { by = "group" } # fail: 0644
	be_executable = true # fail: 0644
	should_not { be_readable = { by = "others" } } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"access": {out: []byte("81a4:/x/a\n41c0:/x\n41ed:/\n")}}))
}

func TestKeysAndPasswords(t *testing.T) {
	src := `
user "deploy" {
	have_authorized_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOne me@here" # pass
}
user "deploy" {
	have_authorized_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOn" # fail: not among 4 lines
}
user "deploy" {
	should_not { have_authorized_key = "ssh-ed25519 AAAAoff" } # pass
	its "encrypted_password" { match = "^\\$6\\$" } # pass: (sensitive)
	its "encrypted_password" { eq = "x" } # fail: (sensitive)
	its "minimum_days_between_password_change" { eq = 7 } # pass
	its "maximum_days_between_password_change" { be_less_than = 100000 } # fail: not limited
}
user "daemon" {
	its "encrypted_password" { eq = "*" } # fail: 
}
user "nobody-here" {
	its "encrypted_password" { not_match = "." } # fail
}
`
	r := recorded(t, src, map[string]answer{
		"authorized keys": {out: []byte("# ssh-ed25519 AAAAoff\nrestrict,command=\"a b\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOne x\n#ssh-ed25519 AAAAoff\n\n")},
		"shadow":          {out: []byte("+deploy\n+daemon\ndeploy:$6$salt$hash:19000:7::7:::\n")},
	})
	expect(t, src, r)
	for _, x := range r.Results {
		if strings.Contains(x.Actual+x.Message, "salt") {
			t.Errorf("the hash is shown: %+v", x)
		}
	}
}
