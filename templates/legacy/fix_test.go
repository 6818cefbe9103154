package legacy

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// fixCases has a case for each fix: what stands in a list, and what is made of it.
var fixCases = []struct {
	fix, list, in, want string
	// ours is set where Packer's fix does something else, and says what.
	ours string
}{
	{"iso-md5", builders, `{"type":"x","iso_md5":"a"}`, `{"type":"x","iso_checksum":"md5:a"}`, ""},
	{"iso-md5", builders, `{"type":"x","iso_checksum":"old","iso_checksum_type":"sha1","iso_md5":"a"}`, `{"type":"x","iso_checksum":"md5:a"}`, ""},
	{"createtime", builders, `{"type":"x","ami_name":"a {{.CreateTime}}"}`, `{"type":"x","ami_name":"a {{timestamp}}"}`, ""},
	{"createtime", builders, `{"type":"x","tags":{"n":"{{ .CreateTime }}"}}`, `{"type":"x","tags":{"n":"{{timestamp}}"}}`, "it changes ami_name only"},
	{"virtualbox-gaattach", builders, `{"type":"virtualbox","guest_additions_attach":true}`, `{"type":"virtualbox-iso","guest_additions_mode":"attach"}`, ""},
	{"virtualbox-gaattach", builders, `{"type":"virtualbox","guest_additions_attach":false}`, `{"type":"virtualbox-iso","guest_additions_mode":"upload"}`, ""},
	{"pp-vagrant-override", postProcessors, `{"type":"vagrant","aws":{"x":1},"virtualbox":{"y":2}}`, `{"type":"vagrant","override":{"aws":{"x":1},"virtualbox":{"y":2}}}`, ""},
	{"pp-vagrant-override", postProcessors, `[{"type":"vagrant","vmware":{},"override":{"libvirt":{}}}]`, `[{"type":"vagrant","override":{"libvirt":{},"vmware":{}}}]`, "it drops the override that is there"},
	{"virtualbox-rename", builders, `{"type":"virtualbox"}`, `{"type":"virtualbox-iso"}`, ""},
	{"vmware-rename", builders, `{"type":"vmware"}`, `{"type":"vmware-iso"}`, ""},
	{"parallels-headless", builders, `{"type":"parallels-iso","headless":true}`, `{"type":"parallels-iso"}`, ""},
	{"parallels-deprecations", builders, `{"type":"parallels-pvm","parallels_tools_host_path":"x","guest_os_distribution":"u"}`, `{"type":"parallels-pvm","guest_os_type":"u"}`, ""},
	{"sshkeypath", builders, `{"type":"x","ssh_key_path":"k"}`, `{"type":"x","ssh_private_key_file":"k"}`, ""},
	{"sshkeypath", builders, `{"type":"x","ssh_key_path":"k","ssh_private_key_file":"new"}`, `{"type":"x","ssh_private_key_file":"new"}`, ""},
	{"sshdisableagent", builders, `{"type":"x","ssh_disable_agent":true}`, `{"type":"x","ssh_disable_agent_forwarding":true}`, ""},
	{"sshdisableagent", builders, `{"type":"x","ssh_disable_agent":"true"}`, `{"type":"x","ssh_disable_agent_forwarding":"true"}`, "it leaves a string"},
	{"scaleway-access-key", builders, `{"type":"scaleway","access_key":"k"}`, `{"type":"scaleway","organization_id":"k"}`, ""},
	{"manifest-filename", postProcessors, `["x",{"type":"manifest","filename":"f"}]`, `["x",{"type":"manifest","output":"f"}]`, ""},
	{"amazon-shutdown_behavior", builders, `{"type":"amazon-ebs","shutdown_behaviour":"stop"}`, `{"type":"amazon-ebs","shutdown_behavior":"stop"}`, ""},
	{"amazon-enhanced-networking", builders, `{"type":"amazon-instance","enhanced_networking":true}`, `{"type":"amazon-instance","ena_support":true}`, ""},
	{"amazon-private-ip", builders, `{"type":"amazon-ebs","ssh_private_ip":true}`, `{"type":"amazon-ebs","ssh_interface":"private_ip"}`, ""},
	{"amazon-private-ip", builders, `{"type":"amazon-ebs","ssh_private_ip":"false"}`, `{"type":"amazon-ebs","ssh_interface":"public_ip"}`, ""},
	{"amazon-private-ip", builders, `{"type":"amazon-ebs","ssh_private_ip":"{{user x}}"}`, `{"type":"amazon-ebs","ssh_private_ip":"{{user x}}"}`, "it fails"},
	{"amazon-temp-sec-cidrs", builders, `{"type":"amazon-ebs","temporary_security_group_source_cidr":"10.0.0.0/8"}`, `{"type":"amazon-ebs","temporary_security_group_source_cidrs":["10.0.0.0/8"]}`, ""},
	{"docker-email", postProcessors, `{"type":"docker-push","login_email":"a@b"}`, `{"type":"docker-push"}`, ""},
	{"docker-tag-tags", postProcessors, `{"type":"docker-tag","tag":"a,b","tags":["c"]}`, `{"type":"docker-tag","tags":["a","b","c"]}`, ""},
	{"powershell-escapes", provisioners, "{\"type\":\"powershell\",\"environment_vars\":[\"A=`$x\",\"B=``y\"],\"elevated_user\":\"a`\\\"b\",\"elevated_password\":\"c`'d\"}", "{\"type\":\"powershell\",\"environment_vars\":[\"A=$x\",\"B=`y\"],\"elevated_user\":\"a\\\"b\",\"elevated_password\":\"c'd\"}", ""},
	{"vmware-compaction", builders, `{"type":"vmware-iso","remote_type":"esx5"}`, `{"type":"vmware-iso","remote_type":"esx5","disk_type_id":"zeroedthick","skip_compaction":true}`, ""},
	{"vmware-compaction", builders, `{"type":"vmware-iso","remote_type":"esx5","disk_type_id":"thick","skip_compaction":false}`, `{"type":"vmware-iso","remote_type":"esx5","disk_type_id":"thick","skip_compaction":true}`, ""},
	{"vmware-compaction", builders, `{"type":"vmware-iso","remote_type":"esx5","disk_type_id":"thin"}`, `{"type":"vmware-iso","remote_type":"esx5","disk_type_id":"thin"}`, ""},
	{"hyperv-deprecations", builders, `{"type":"hyperv-iso","vhd_temp_path":"x"}`, `{"type":"hyperv-iso"}`, ""},
	{"hyperv-vmxc-typo", builders, `{"type":"hyperv-vmcx","clone_from_vmxc_path":"x"}`, `{"type":"hyperv-vmcx","clone_from_vmcx_path":"x"}`, ""},
	{"hyperv-cpu-and-ram", builders, `{"type":"hyperv-iso","cpu":2,"ram_size":512}`, `{"type":"hyperv-iso","cpus":2,"memory":512}`, ""},
	{"clean-image-name", builders, `{"type":"amazon-ebs","ami_name":"{{isotime | clean_ami_name}}"}`, `{"type":"amazon-ebs","ami_name":"{{isotime | clean_resource_name}}"}`, ""},
	{"clean-image-name", builders, `{"type":"googlecompute","labels":{"n":"{{clean_image_name x}}"}}`, `{"type":"googlecompute","labels":{"n":"{{clean_resource_name x}}"}}`, ""},
	{"spot-price-auto-product", builders, `{"type":"amazon-ebs","spot_price":"auto","spot_price_auto_product":"Linux/UNIX"}`, `{"type":"amazon-ebs","spot_price":"auto"}`, ""},
	{"qemu-disk-size", builders, `{"type":"qemu","disk_size":40000}`, `{"type":"qemu","disk_size":"40000M"}`, ""},
	{"qemu-disk-size", builders, `{"type":"qemu","disk_size":"40G"}`, `{"type":"qemu","disk_size":"40G"}`, ""},
	{"galaxy-command", provisioners, `{"type":"ansible-local","galaxycommand":"g"}`, `{"type":"ansible-local","galaxy_command":"g"}`, ""},
	{"comm-config", builders, `{"type":"virtualbox-ovf","ssh_host_port_min":1,"ssh_host_port_max":2,"ssh_skip_nat_mapping":true}`, `{"type":"virtualbox-ovf","host_port_min":1,"host_port_max":2,"skip_nat_mapping":true}`, ""},
	{"ssh-wait-timeout", builders, `{"type":"x","ssh_wait_timeout":"5m"}`, `{"type":"x","ssh_timeout":"5m"}`, ""},
	{"vsphere-iso-net-disk", builders, `{"type":"vsphere-iso","network":"n","networkCard":"c","disk_size":10,"disk_thin_provisioned":true}`, `{"type":"vsphere-iso","network_adapters":[{"network":"n","network_card":"c"}],"storage":[{"disk_size":10,"disk_thin_provisioned":true}]}`, ""},
	{"vsphere-iso-net-disk", builders, `{"type":"vsphere-iso","disk_size":10,"storage":[{"disk_size":5}]}`, `{"type":"vsphere-iso","storage":[{"disk_size":10},{"disk_size":5}]}`, ""},
	{"iso-checksum-type-and-url", builders, `{"type":"x","iso_checksum":"a","iso_checksum_type":"sha256"}`, `{"type":"x","iso_checksum":"sha256:a"}`, ""},
	{"iso-checksum-type-and-url", builders, `{"type":"x","iso_checksum":"a","iso_checksum_type":"sha256","iso_checksum_url":"http://u"}`, `{"type":"x","iso_checksum":"file:http://u"}`, ""},
	{"iso-checksum-type-and-url", builders, `{"type":"x","iso_checksum_type":"none"}`, `{"type":"x","iso_checksum":"none"}`, "it leaves no checksum, which is refused"},
	{"iso-checksum-type-and-url", builders, `{"type":"x","iso_checksum":"md5:a","iso_checksum_type":"md5"}`, `{"type":"x","iso_checksum":"md5:a"}`, "it says md5 twice"},
	{"qemu-host-port", builders, `{"type":"qemu","ssh_host_port_min":1,"ssh_host_port_max":2}`, `{"type":"qemu","host_port_min":1,"host_port_max":2}`, ""},
	{"azure-exclude_from_latest", builders, `{"type":"azure-chroot","shared_image_destination":{"exlude_from_latest":true}}`, `{"type":"azure-chroot","shared_image_destination":{"exclude_from_latest":true}}`, ""},
	{"proxmox-type", builders, `{"type":"proxmox"}`, `{"type":"proxmox-iso"}`, ""},
}

func fixTemplate(list, component string) string {
	if list == builders {
		return `{"builders":[` + component + `]}`
	}
	return `{"builders":[{"type":"null"}],"` + list + `":[` + component + `]}`
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	for into, from := range map[*any][]byte{&x: a, &y: b} {
		if err := json.Unmarshal(from, into); err != nil {
			t.Fatalf("%v in %s", err, from)
		}
	}
	return reflect.DeepEqual(x, y)
}

func TestFixes(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range fixCases {
		tried[c.fix] = true
		t.Run(c.fix, func(t *testing.T) {
			in, want := fixTemplate(c.list, c.in), fixTemplate(c.list, c.want)
			got, diags := Fix([]byte(in), "t.json")
			if diags.HasErrors() || !sameJSON(t, got, []byte(want)) {
				t.Errorf("%s\ngot %s, want %s\n%s", in, got, want, said(diags))
			}
			if changed := !sameJSON(t, []byte(in), got); changed != strings.Contains(said(diags), "("+c.fix+")") {
				t.Errorf("%s: findings %q", in, said(diags))
			}
			again, diags := Fix(got, "t.json")
			if len(diags) > 0 || !bytes.Equal(again, got) {
				t.Errorf("what is fixed is fixed again: %s", said(diags))
			}
			if file, diags := Parse([]byte(in), "t.json"); diags.HasErrors() && c.ours == "" {
				t.Errorf("not translated: %s", said(diags))
			} else if file == nil {
				t.Error("no file")
			}
		})
	}
	for _, name := range Fixes() {
		if !tried[name] {
			t.Errorf("no case for the fix %s", name)
		}
	}
	if len(Fixes()) != 34 {
		t.Errorf("%d fixes", len(Fixes()))
	}
}

// packer finds Packer to compare with.
func packer(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("packer")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("packer is not on the PATH, and in CI it must be")
		}
		t.Skip("there is no packer on the PATH to compare with")
	}
	return path
}

func TestPackerFixes(t *testing.T) {
	program := packer(t)
	file := filepath.Join(t.TempDir(), "t.json")
	fixed := func(template string) []byte {
		if err := os.WriteFile(file, []byte(template), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program, "fix", "-validate=false", file)
		cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1")
		out, err := cmd.Output()
		if err != nil {
			return []byte("null") // it refuses
		}
		return out
	}
	in, want := map[string][]string{}, map[string][]string{}
	for _, c := range fixCases {
		if c.ours != "" {
			if sameJSON(t, fixed(fixTemplate(c.list, c.in)), []byte(fixTemplate(c.list, c.want))) {
				t.Errorf("%s: Packer agrees, although it is said that %s", c.in, c.ours)
			}
			continue
		}
		in[c.list], want[c.list] = append(in[c.list], c.in), append(want[c.list], c.want)
	}
	for list := range in { // all at once: a process for each takes long
		out := fixed(fixTemplate(list, strings.Join(in[list], ",\n")))
		if !sameJSON(t, out, []byte(fixTemplate(list, strings.Join(want[list], ",")))) {
			t.Errorf("Packer makes of %s\n%s", list, out)
		}
	}
}

// A builder without a name is named by its type, also by those who refer to it.
func TestFixFollowsNames(t *testing.T) {
	const in = `{"builders":[{"type":"virtualbox"},{"type":"vmware","name":"q"}],
"provisioners":[{"type":"shell","inline":["x"],"only":["virtualbox"],"override":{"virtualbox":{},"vmware":{}}}],
"post-processors":[[{"type":"manifest","except":["virtualbox","q"]}]]}`
	got, _ := Fix([]byte(in), "t.json")
	want := strings.NewReplacer(`"virtualbox"`, `"virtualbox-iso"`, `"type":"vmware"`, `"type":"vmware-iso"`).Replace(in)
	if !sameJSON(t, got, []byte(want)) {
		t.Errorf("got %s", got)
	}
}

// What is fixed keeps its order and its spelling.
func TestFixWritesAsItRead(t *testing.T) {
	const in = "{\n  \"z\": \"<a> & é \\u0007 \\\"\",\n  \"a\": [\n    1.50,\n    12345678901234567890,\n    true,\n    null,\n    {},\n    []\n  ],\n  \"m\": {\n    \"y\": 1,\n    \"b\": -1e-3\n  }\n}\n"
	got, diags := Fix([]byte(in), "t.json")
	if len(diags) > 0 || string(got) != in {
		t.Errorf("got %s %s", got, said(diags))
	}
}

func TestDocumentListsFixes(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "legacy-json.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Fixes() {
		if !strings.Contains(string(text), "| `"+name+"` |") {
			t.Errorf("docs/legacy-json.md does not list %s", name)
		}
	}
	if n := strings.Count(string(text), "\n| `"); n != len(Fixes()) {
		t.Errorf("docs/legacy-json.md has %d rows for %d fixes", n, len(Fixes()))
	}
}
