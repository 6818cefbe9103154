package templates

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// canonical is the type that a block means by the type it is written with:
// required_plugins may give a plugin another name, and its source address says
// which it is. plugin is that address, or "".
func (l *loader) canonical(written string) (typ, plugin string) {
	for name := written; name != ""; {
		if source, ok := l.plugins[name]; ok {
			return path.Base(source) + strings.TrimPrefix(written, name), source
		}
		i := strings.LastIndexByte(name, '-')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	return written, ""
}

// plugins are the well-known plugins of Packer. The types of a plugin's
// components are its name, or begin with its name and a dash.
var plugins = [...]string{
	"alicloud", "amazon", "anka", "ansible", "arm-image", "azure", "chef", "cloudstack", "converge", "digitalocean", "docker", "exoscale", "external",
	"git", "goss", "googlecompute", "hcloud", "huaweicloud", "hyperone", "hyperv", "ibmcloud", "inspec", "jdcloud", "kubevirt", "libvirt", "linode", "lxc",
	"lxd", "mondoo", "ncloud", "nutanix", "oneandone", "openstack", "oracle", "outscale", "ovh", "parallels", "profitbricks", "proxmox", "puppet", "qemu",
	"salt", "scaleway", "sshkey", "tart", "tencentcloud", "triton", "ucloud", "upcloud", "vagrant", "veertu-anka", "virtualbox", "vmware", "volcengine",
	"vsphere", "vultr", "windows-update", "yandex",
}

// PluginOf says which well-known plugin of Packer a type of component belongs
// to, or "".
func PluginOf(typ string) string {
	i := slices.IndexFunc(plugins[:], func(name string) bool { return typ == name || strings.HasPrefix(typ, name+"-") })
	if i < 0 {
		return ""
	}
	return plugins[i]
}

// BelongsTo says as a sentence which plugin the component belongs to; "" when
// that is not known.
func (c *Component) BelongsTo() string { return belongsTo(c.Type, c.Plugin) }

func (l *loader) belongsTo(written string) string {
	if s := belongsTo(l.canonical(written)); s != "" {
		return " " + s
	}
	return ""
}

func belongsTo(typ, plugin string) string {
	switch name := PluginOf(typ); {
	case plugin != "":
		return fmt.Sprintf("The type belongs to the plugin %s, by required_plugins; Ingot has its components built in and loads no plugins.", plugin)
	case name != "":
		return fmt.Sprintf("The type belongs to Packer's plugin %q; Ingot has its components built in and loads no plugins.", name)
	}
	return ""
}

func quote(s string) string { return strconv.Quote(s) }
