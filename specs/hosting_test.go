package specs

import (
	"strings"
	"testing"
)

// In docker 28's words, of which only what is asked for is kept.
func TestDockerReading(t *testing.T) {
	const container = `[{"Name": "/web", "State": {"Running": RUN, "Restarting": AGAIN}, "Mounts": [{"Type": "bind", "Source": "/srv/data", "Destination": "/data"}, {"Type": "volume", "Source": "/var/lib/docker/volumes/x/_data", "Destination": "/x"}], "HostConfig": {"NetworkMode": "none"}, "Config": {"Cmd": ["nginx", "-g"], "Labels": {"a.b": "c"}}}]`
	src := `
docker_container "web" {
	exist = true # pass
	be_running = true # pass: running true
	have_volume = { container = "/data", host = "/srv/data" } # pass
	its "HostConfig.NetworkMode" { eq = "none" } # pass
	its "Config.Cmd[1]" { eq = "-g" } # pass
	its "Config.Cmd.[0]" { match = "^ng" } # pass
	its "Config.Labels[\"a.b\"]" { eq = "c" } # pass
	its "Config.Nothing" { not_match = "x" } # fail: there is no "Nothing"
	should_not { have_volume = { container = "/data", host = "/srv" } } # pass
}
`
	up := strings.NewReplacer("RUN", "true", "AGAIN", "false")
	src = strings.ReplaceAll(src, `Labels[\"a.b\"]`, `Labels.[\"a.b\"]`)
	expect(t, src, recorded(t, src, map[string]answer{"docker container": {out: []byte(up.Replace(container))}}))
	for _, c := range []struct {
		want string
		a    answer
	}{
		{"fail: restarting true", answer{out: []byte(strings.NewReplacer("RUN", "true", "AGAIN", "true").Replace(container))}},
		{"fail: running false", answer{out: []byte(strings.NewReplacer("RUN", "false", "AGAIN", "false").Replace(container))}},
		{"fail: no such container", answer{status: 1, out: []byte("[]\n"), errOut: []byte("Error response from daemon: No such container: web\n")}},
		{"error: Cannot connect", answer{status: 1, out: []byte("[]\n"), errOut: []byte("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n")}},
		{"error: no such file", answer{status: 1, errOut: []byte("dial unix /run/docker.sock: connect: no such file or directory\n")}},
		{"error: neither docker", answer{status: 99, errOut: []byte("neither docker nor podman is there\n")}},
		{"error: not about one", answer{out: []byte("[]\n")}},
		{"error: did not say", answer{out: []byte("[{}]\n")}},
		{"error: not about one", answer{out: []byte("null\n")}},
		{"error", answer{}},
	} {
		src := "docker_container \"web\" {\n\tbe_running = true # " + c.want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"docker container": c.a}))
	}
}

func TestGuests(t *testing.T) {
	for want, a := range map[string]answer{
		"pass: running":               {out: []byte("State:          RUNNING\n")},
		"fail: stopped":               {out: []byte("State:          STOPPED\n")},
		"fail: no such container":     {status: 1, out: []byte("x doesn't exist\n")},
		"error: Insufficient":         {status: 1, out: []byte("Insufficent privileges to control x: Insufficient\n")},
		"error: there is no lxc-info": {status: 9, errOut: []byte("there is no lxc-info\n")},
	} {
		src := "lxc \"x\" {\n\tbe_running = true # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"lxc": a}))
	}
	for want, a := range map[string]answer{
		"error: failed to connect": {status: 1, errOut: []byte("error: failed to connect to the hypervisor\n")},
		"fail: no such machine":    {status: 1, errOut: []byte("error: failed to get domain 'x'\n")},
		"fail: shut off":           {out: []byte("Id:             -\nState:          shut off\nAutostart:      enable\n")},
	} {
		src := "kvm \"x\" {\n\tbe_running = true # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"kvm": a}))
	}
}

// In the form that zfs-get(8) promises for -H. No ZFS was at hand.
func TestZFS(t *testing.T) {
	src := `
zfs "tank/data" {
	exist = true # pass: filesystem
	have_property = { compression = "lz4", quota = "10G" } # pass
	its "property.com.example:owner" { eq = "web" } # pass
	its "property.copies" { be_greater_than = 1 } # fail: 1
	its "property.nothing" { not_match = "x" } # fail: no property
	should_not { have_property = { compression = "off" } } # pass
}
`
	expect(t, src, recorded(t, src, map[string]answer{"zfs": {out: []byte("type\tfilesystem\ncompression\tlz4\nquota\t10G\ncopies\t1\ncom.example:owner\tweb\n")}}))
	for want, a := range map[string]answer{
		"pass":                   {status: 1, errOut: []byte("cannot open 'x': dataset does not exist\n")},
		"error: modules":         {status: 1, errOut: []byte("The ZFS modules are not loaded.\n")},
		"error: there is no zfs": {status: 9, errOut: []byte("there is no zfs\n")},
		"error: exit status 0":   {},
	} {
		src := "zfs \"x\" {\n\tshould_not { exist = true } # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"zfs": a}))
	}
}

func TestRepositories(t *testing.T) {
	src := `
yumrepo "baseos" {
	exist      = true # pass
	be_enabled = true # pass: enabled in /etc/yum.repos.d/rocky.repo
}
yumrepo "epel" {
	exist      = true # pass
	be_enabled = true # fail: disabled in /etc/yum.repos.d/epel.repo
}
yumrepo "crb" {
	be_enabled = true # pass: repos.override.d
}
yumrepo "odd" {
	be_enabled = true # error: enabled=perhaps
}
yumrepo "base" {
	exist = true # fail: no such repository
}
`
	expect(t, src, recorded(t, src, map[string]answer{"yumrepo": {out: []byte(`#file /etc/yum.conf
[main]
enabled=0

#file /etc/yum.repos.d/epel.repo
[epel]
name=Extra Packages
enabled = 0
[epel-debuginfo]
enabled=1
#file /etc/yum.repos.d/rocky.repo
# [base]
[baseos]
name=BaseOS
[crb]
enabled=0
[odd]
enabled=perhaps
#file /etc/dnf/repos.override.d/99-config_manager.repo
[crb]
enabled=1
[base]
enabled=1
`)}}))
	src = `
ppa "nginx/stable" {
	exist      = true # pass
	be_enabled = true # pass: enabled in /etc/apt/sources.list.d/nginx.list
}
ppa "ppa:git-core/ppa" {
	be_enabled = true # fail: disabled in /etc/apt/sources.list.d/git.list
}
ppa "ondrej/php" {
	be_enabled = true # pass: php.sources
}
ppa "old/thing" {
	exist      = true # pass
	be_enabled = true # fail: disabled
}
ppa "ondrej/ph" {
	exist = true # fail: no such source
}
`
	expect(t, src, recorded(t, src, map[string]answer{"ppa": {out: []byte(`#file /etc/apt/sources.list.d/git.list
# deb http://ppa.launchpad.net/git-core/ppa/ubuntu focal main
#file /etc/apt/sources.list.d/nginx.list
deb [signed-by=/x] https://ppa.launchpadcontent.net/nginx/stable/ubuntu jammy main
#file /etc/apt/sources.list.d/php.sources
Enabled: yes
Types: deb
URIs: http://deb.debian.org/debian
 https://ppa.launchpadcontent.net/ondrej/php/ubuntu/
Suites: noble

Types: deb
URIs: https://ppa.launchpadcontent.net/old/thing/ubuntu/
Enabled: no
`)}}))
}

// What PHP 8.2 and MariaDB 10.11 print.
func TestSettings(t *testing.T) {
	src := `
mysql_config "max_connections" {
	its "value" { be_greater_than = 100 } # pass
}
mysql_config "bind-address" {
	its "value" { eq = "" } # pass
}
mysql_config "max" {
	its "value" { eq = "" } # fail: no such setting
}
`
	expect(t, src, recorded(t, src, map[string]answer{"mysql setting": {out: []byte("Variables (--variable-name=value)\nand boolean options {FALSE|TRUE}   Value (after reading options)\n------------------------------------------------------------ -------------\nbind-address                                                 (No default value)\nmax-connections                                              151\n\nTo see what values a running server is using\nmax                                     1\n")}}))
	src = "mysql_config \"x\" {\n\tits \"value\" { not_match = \"x\" } # error: exit status 1\n}\n"
	expect(t, src, recorded(t, src, map[string]answer{"mysql setting": {status: 1, errOut: []byte("unknown variable\n")}}))
	for want, a := range map[string]answer{
		"pass":                   {out: []byte("yes128M")},
		"fail: \"\"":             {out: []byte("yes")},
		"fail: no such setting":  {out: []byte("no")},
		"error: PHP Parse":       {status: 255, out: []byte("PHP Parse error\n")},
		"error: there is no php": {status: 9, errOut: []byte("there is no php\n")},
	} {
		src := "php_config \"memory_limit\" {\n\tits \"value\" { eq = \"128M\" } # " + want + "\n}\n"
		expect(t, src, recorded(t, src, map[string]answer{"php setting": a}))
	}
}
