package legacy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// The lists of a template that components stand in.
const (
	builders       = "builders"
	provisioners   = "provisioners"
	postProcessors = "post-processors"
	errorCleanup   = "error-cleanup-provisioner"
)

// renamed is an option that has another name today, or none.
type renamed struct {
	fix string
	in  string
	// types are globs of at most one star, at the end.
	types    []string
	from, to string // to is empty where the option has gone
}

var anyType = []string{"*"}

// renames are the fixes that are nothing but a new name.
var renames = []renamed{
	{"parallels-headless", builders, []string{"parallels-iso", "parallels-pvm"}, "headless", ""},
	{"parallels-deprecations", builders, []string{"parallels-iso", "parallels-pvm"}, "parallels_tools_host_path", ""},
	{"parallels-deprecations", builders, []string{"parallels-iso", "parallels-pvm"}, "guest_os_distribution", "guest_os_type"},
	{"sshkeypath", builders, anyType, "ssh_key_path", "ssh_private_key_file"},
	{"sshdisableagent", builders, anyType, "ssh_disable_agent", "ssh_disable_agent_forwarding"},
	{"scaleway-access-key", builders, []string{"scaleway"}, "access_key", "organization_id"},
	{"manifest-filename", postProcessors, []string{"manifest"}, "filename", "output"},
	{"amazon-shutdown_behavior", builders, []string{"amazon-*"}, "shutdown_behaviour", "shutdown_behavior"},
	{"amazon-enhanced-networking", builders, []string{"amazon-*"}, "enhanced_networking", "ena_support"},
	{"docker-email", postProcessors, []string{"docker-*"}, "login_email", ""},
	{"hyperv-deprecations", builders, []string{"hyperv-iso"}, "vhd_temp_path", ""},
	{"hyperv-vmxc-typo", builders, []string{"hyperv-vmcx"}, "clone_from_vmxc_path", "clone_from_vmcx_path"},
	{"hyperv-cpu-and-ram", builders, []string{"hyperv-*"}, "cpu", "cpus"},
	{"hyperv-cpu-and-ram", builders, []string{"hyperv-*"}, "ram_size", "memory"},
	{"spot-price-auto-product", builders, []string{"amazon-*"}, "spot_price_auto_product", ""},
	{"galaxy-command", provisioners, []string{"ansible-local"}, "galaxycommand", "galaxy_command"},
	{"comm-config", builders, []string{"virtualbox-*"}, "ssh_host_port_min", "host_port_min"},
	{"comm-config", builders, []string{"virtualbox-*"}, "ssh_host_port_max", "host_port_max"},
	{"comm-config", builders, []string{"virtualbox-*"}, "ssh_skip_nat_mapping", "skip_nat_mapping"},
	{"ssh-wait-timeout", builders, anyType, "ssh_wait_timeout", "ssh_timeout"},
	{"qemu-host-port", builders, []string{"qemu"}, "ssh_host_port_min", "host_port_min"},
	{"qemu-host-port", builders, []string{"qemu"}, "ssh_host_port_max", "host_port_max"},
}

// changed are the fixes that do more than rename. They run first and in this
// order: the first of them change the types that the others look for.
var changed = []struct {
	name string
	run  func(f *fixer, name string)
}{
	{"virtualbox-gaattach", (*fixer).guestAdditions},
	{"virtualbox-rename", renameType("virtualbox", "virtualbox-iso")},
	{"vmware-rename", renameType("vmware", "vmware-iso")},
	{"proxmox-type", renameType("proxmox", "proxmox-iso")},
	{"iso-md5", (*fixer).isoMD5},
	{"iso-checksum-type-and-url", (*fixer).isoChecksum},
	{"createtime", inStrings([]string{"{{.CreateTime}}", "{{ .CreateTime }}"}, "{{timestamp}}")},
	{"clean-image-name", inStrings([]string{"clean_ami_name", "clean_image_name"}, "clean_resource_name")},
	{"pp-vagrant-override", (*fixer).vagrantOverride},
	{"amazon-private-ip", (*fixer).privateIP},
	{"amazon-temp-sec-cidrs", (*fixer).sourceCIDRs},
	{"docker-tag-tags", (*fixer).dockerTags},
	{"powershell-escapes", (*fixer).powershellEscapes},
	{"vmware-compaction", (*fixer).compaction},
	{"qemu-disk-size", (*fixer).qemuDiskSize},
	{"vsphere-iso-net-disk", (*fixer).vsphereParts},
	{"azure-exclude_from_latest", (*fixer).azureTypo},
}

// Fixes returns the names of all fixes, sorted. They are the names Packer gives them.
func Fixes() []string {
	var names []string
	for _, r := range renames {
		names = append(names, r.fix)
	}
	for _, c := range changed {
		names = append(names, c.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// fixer migrates what older Packers took. Each change is a warning that says
// what to write.
type fixer struct {
	root  *node
	diags hcl.Diagnostics
}

// fix migrates a template in place.
func fix(root *node) hcl.Diagnostics {
	f := &fixer{root: root}
	for _, c := range changed {
		c.run(f, c.name)
	}
	for _, r := range renames {
		f.each(r.in, r.types, func(n *node) { f.rename(r.fix, n, r.from, r.to) })
	}
	slices.SortStableFunc(f.diags, func(a, b *hcl.Diagnostic) int { return a.Subject.Start.Byte - b.Subject.Start.Byte })
	return f.diags
}

func (f *fixer) say(fix string, at hcl.Range, old, format string, args ...any) {
	f.diags = append(f.diags, warning(at, "Outdated: "+old, "%s \"ingot fix\" does so (%s).", fmt.Sprintf(format, args...), fix))
}

// each calls do for every component of a list whose type one of the globs matches.
func (f *fixer) each(list string, types []string, do func(n *node)) {
	var visit func(n *node)
	visit = func(n *node) {
		switch {
		case n == nil:
		case n.kind == array:
			for _, e := range n.elems {
				visit(e)
			}
		case n.kind == object && slices.ContainsFunc(types, func(t string) bool {
			prefix, open := strings.CutSuffix(t, "*")
			return n.str("type") == t || open && strings.HasPrefix(n.str("type"), prefix)
		}):
			do(n)
		}
	}
	if f.root.kind != object {
		return
	}
	visit(f.root.get(list))
	if list == provisioners {
		visit(f.root.get(errorCleanup))
	}
}

func (f *fixer) rename(fix string, n *node, from, to string) {
	m := n.find(from)
	switch {
	case m == nil:
	case to == "":
		f.say(fix, m.at, from, "%q has no effect any more. Remove it.", from)
		n.remove(from)
	case n.find(to) != nil:
		f.say(fix, m.at, from, "%q is now %q, which is given too and is used. Remove %q.", from, to, from)
		n.remove(from)
	default:
		f.say(fix, m.at, from, "%q is now %q. Write that.", from, to)
		m.name = to
	}
}

func renameType(from, to string) func(f *fixer, name string) {
	return func(f *fixer, name string) {
		f.each(builders, []string{from}, func(n *node) {
			f.say(name, n.get("type").at, from, "The builder %q is now %q. Write that.", from, to)
			n.get("type").text = to
			if n.find("name") != nil {
				return
			}
			// The builder is named by its type, so whatever names it follows.
			f.each(provisioners, anyType, func(p *node) {
				renameIn(p, from, to)
				if o := p.find("override"); o != nil && o.value.kind == object && o.value.find(to) == nil {
					if m := o.value.find(from); m != nil {
						m.name = to
					}
				}
			})
			f.each(postProcessors, anyType, func(p *node) { renameIn(p, from, to) })
		})
	}
}

func renameIn(n *node, from, to string) {
	for _, option := range []string{"only", "except"} {
		if list := n.get(option); list != nil {
			for _, e := range list.elems {
				if e.kind == text && e.text == from {
					e.text = to
				}
			}
		}
	}
}

// inStrings replaces words in the options of builders.
func inStrings(old []string, new string) func(f *fixer, name string) {
	return func(f *fixer, name string) {
		var visit func(n *node)
		visit = func(n *node) {
			for _, word := range old {
				if n.kind == text && strings.Contains(n.text, word) {
					f.say(name, n.at, word, "%q is now %q. Write that.", word, new)
					n.text = strings.ReplaceAll(n.text, word, new)
				}
			}
			for _, e := range n.elems {
				visit(e)
			}
			for _, m := range n.members {
				visit(m.value)
			}
		}
		f.each(builders, anyType, visit)
	}
}

func (f *fixer) guestAdditions(name string) {
	f.each(builders, []string{"virtualbox"}, func(n *node) {
		m := n.find("guest_additions_attach")
		if m == nil || m.value.kind != boolean {
			return
		}
		f.say(name, m.at, m.name, "Write \"guest_additions_mode\": \"attach\", or \"upload\", in place of %q.", m.name)
		n.remove(m.name)
		mode := "upload"
		if m.value.text == "true" {
			mode = "attach"
		}
		n.set("guest_additions_mode", textAt(mode, m.value.at))
	})
}

func (f *fixer) isoMD5(name string) {
	f.each(builders, anyType, func(n *node) {
		if sum := n.get("iso_md5"); sum != nil && sum.kind == text {
			f.say(name, n.find("iso_md5").at, "iso_md5", "Write \"iso_checksum\": \"md5:...\" in place of \"iso_md5\".")
			n.remove("iso_checksum")
			n.remove("iso_checksum_type")
			n.find("iso_md5").name = "iso_checksum"
			sum.text = "md5:" + sum.text
		}
	})
}

func (f *fixer) isoChecksum(name string) {
	f.each(builders, anyType, func(n *node) {
		typ, url := n.find("iso_checksum_type"), n.find("iso_checksum_url")
		for _, m := range []*member{typ, url} {
			if m != nil {
				f.say(name, m.at, m.name, "Write \"iso_checksum\": \"sha256:...\", or \"file:\" with the URL of the file of checksums, in place of %q.", m.name)
			}
		}
		n.remove("iso_checksum_type")
		n.remove("iso_checksum_url")
		switch sum := n.str("iso_checksum"); {
		case url != nil && url.value.kind == text && url.value.text != "":
			n.set("iso_checksum", textAt("file:"+url.value.text, url.value.at))
		case typ == nil || typ.value.kind != text || typ.value.text == "":
		case strings.EqualFold(typ.value.text, "none"):
			n.set("iso_checksum", textAt("none", typ.value.at))
		case sum != "" && !strings.HasPrefix(sum, typ.value.text+":"):
			n.get("iso_checksum").text = typ.value.text + ":" + sum
		}
	})
}

func (f *fixer) vagrantOverride(name string) {
	f.each(postProcessors, []string{"vagrant"}, func(n *node) {
		for _, provider := range []string{"aws", "digitalocean", "virtualbox", "vmware"} {
			m := n.find(provider)
			if m == nil {
				continue
			}
			f.say(name, m.at, provider, "Write what is in %q inside \"override\".", provider)
			n.remove(provider)
			if o := n.get("override"); o == nil || o.kind != object {
				n.set("override", &node{kind: object, at: m.value.at})
			}
			n.get("override").set(provider, m.value)
		}
	})
}

func (f *fixer) privateIP(name string) {
	f.each(builders, []string{"amazon-*"}, func(n *node) {
		m := n.find("ssh_private_ip")
		if m == nil || m.value.kind != boolean && m.value.kind != text {
			return
		}
		private, err := strconv.ParseBool(m.value.text)
		if err != nil {
			return // a template; the builder says that it does not know the option
		}
		f.say(name, m.at, m.name, "Write \"ssh_interface\": \"private_ip\", or \"public_ip\", in place of %q.", m.name)
		n.remove(m.name)
		if n.find("ssh_interface") == nil {
			kind := "public_ip"
			if private {
				kind = "private_ip"
			}
			n.set("ssh_interface", textAt(kind, m.value.at))
		}
	})
}

func (f *fixer) sourceCIDRs(name string) {
	f.each(builders, []string{"amazon-*"}, func(n *node) {
		if m := n.find("temporary_security_group_source_cidr"); m != nil && m.value.kind == text {
			m.value = &node{kind: array, elems: []*node{m.value}, at: m.value.at}
			f.rename(name, n, m.name, m.name+"s")
		}
	})
}

func (f *fixer) dockerTags(name string) {
	f.each(postProcessors, []string{"docker-tag"}, func(n *node) {
		m := n.find("tag")
		if m == nil {
			return
		}
		f.say(name, m.at, m.name, "Write \"tags\", a list, in place of \"tag\".")
		n.remove(m.name)
		tags := &node{kind: array, at: m.value.at}
		for _, old := range []*node{m.value, n.get("tags")} {
			switch {
			case old == nil:
			case old.kind == array:
				tags.elems = append(tags.elems, old.elems...)
			case old.kind == text:
				for _, t := range strings.Split(old.text, ",") {
					tags.elems = append(tags.elems, textAt(t, old.at))
				}
			}
		}
		n.set("tags", tags)
	})
}

func (f *fixer) powershellEscapes(name string) {
	unescape := strings.NewReplacer("`$", "$", "`\"", "\"", "``", "`", "`'", "'")
	f.each(provisioners, []string{"powershell"}, func(n *node) {
		visit := func(v *node) {
			if plain := unescape.Replace(v.text); v.kind == text && plain != v.text {
				f.say(name, v.at, "escaped by hand", "Ingot escapes this value for PowerShell itself. Write it without backquotes.")
				v.text = plain
			}
		}
		for _, option := range []string{"environment_vars", "elevated_user", "elevated_password"} {
			if v := n.get(option); v != nil {
				visit(v)
				for _, e := range v.elems {
					visit(e)
				}
			}
		}
	})
}

func (f *fixer) compaction(name string) {
	f.each(builders, []string{"vmware-iso"}, func(n *node) {
		skip, disk := n.find("skip_compaction"), n.str("disk_type_id")
		if n.str("remote_type") != "esx5" || disk == "thin" || skip != nil && skip.value.text != "false" {
			return
		}
		f.say(name, n.get("type").at, "compaction of a thick disk", "Disks of the type %q cannot be compacted on ESXi. Write \"skip_compaction\": true.", cmp.Or(disk, "zeroedthick"))
		if n.find("disk_type_id") == nil {
			n.set("disk_type_id", textAt("zeroedthick", n.at))
		}
		n.set("skip_compaction", &node{kind: boolean, text: "true", at: n.get("type").at})
	})
}

func (f *fixer) qemuDiskSize(name string) {
	f.each(builders, []string{"qemu"}, func(n *node) {
		size := n.get("disk_size")
		if size == nil || size.kind != number {
			return
		}
		if mib, err := strconv.ParseFloat(size.text, 64); err == nil {
			f.say(name, size.at, "a number as disk_size", "The size has a unit now. Write \"%.0fM\".", mib)
			size.kind, size.text = text, strconv.FormatFloat(mib, 'f', 0, 64)+"M"
		}
	})
}

func (f *fixer) vsphereParts(name string) {
	f.each(builders, []string{"vsphere-iso"}, func(n *node) {
		f.gather(name, n, "network_adapters", [][2]string{{"network", "network"}, {"networkCard", "network_card"}, {"network_card", "network_card"}})
		f.gather(name, n, "storage", [][2]string{{"disk_size", "disk_size"}, {"disk_thin_provisioned", "disk_thin_provisioned"}, {"disk_eagerly_scrub", "disk_eagerly_scrub"}})
	})
}

// gather moves options into a first object of a list.
func (f *fixer) gather(name string, n *node, list string, options [][2]string) {
	first := &node{kind: object}
	for _, o := range options {
		if m := n.find(o[0]); m != nil {
			f.say(name, m.at, m.name, "%q now stands as %q in an object of the list %q. Write it there.", m.name, o[1], list)
			n.remove(m.name)
			first.at = m.value.at
			first.set(o[1], m.value)
		}
	}
	if len(first.members) == 0 {
		return
	}
	all := &node{kind: array, elems: []*node{first}, at: first.at}
	if old := n.get(list); old != nil {
		all.elems = append(all.elems, old.elems...)
	}
	n.set(list, all)
}

func (f *fixer) azureTypo(name string) {
	f.each(builders, []string{"azure-chroot"}, func(n *node) {
		if o := n.get("shared_image_destination"); o != nil && o.kind == object {
			f.rename(name, o, "exlude_from_latest", "exclude_from_latest")
		}
	})
}

func textAt(s string, at hcl.Range) *node { return &node{kind: text, text: s, at: at} }
