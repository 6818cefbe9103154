package amazon

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/internal/config"
)

const goodChroot = "region = \"us-east-1\"\nami_name = \"web\"\nsource_ami = \"ami-0123456789abcdef0\"\n"

func decodeChroot(t *testing.T, body string) *ChrootSource {
	t.Helper()
	o := &ChrootSource{}
	f, diags := hclsyntax.ParseConfig([]byte(body), "x.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, o)
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	o.normalize()
	return o
}

func TestChrootOptionsCheck(t *testing.T) {
	for body, want := range map[string]string{ // "": nothing; "~x": a warning
		"": "",
		"chroot_mounts = [[\"bind\", \"/var/cache\", \"/var/cache\"]]\ncopy_files = []\ncommand_wrapper = \"sudo {{.Command}}\"":         "",
		"mount_options = [\"noatime\"]\nmount_partition = \"2\"\nmount_path = \"/mnt/{{.Device}}\"\nnvme_device_path = \"/dev/nvme1n1\"": "",
		"device_path = \"/dev/xvdf\"\nroot_volume_size = 20\nroot_volume_type = \"io2\"\nroot_volume_tags = { a = \"{{.SourceAMI}}\" }":  "",
		"root_volume_encrypt_boot = true\nroot_volume_kms_key_id = \"alias/x\"":                                                          "",
		"boot_mode = \"uefi\"\nuefi_data = \"AAAA\"\ntpm_support = \"v2.0\"\nami_architecture = \"arm64\"":                               "",
		"root_volume_tag {\nkey = \"a\"\nvalue = \"b\"\n}":                                                                               "",
		"pre_mount_commands = [\"ls {{.Device}}\"]\npost_mount_commands = [\"ls {{.Device}} {{.MountPath}} {{.SourceAMIName}}\"]":        "",
		"pre_mount_commands = [\"ls {{.MountPath}}\"]":                                                                                   "pre_mount_commands.0",
		"post_mount_commands = [\"{{ nothing }}\"]":                                                                                      "post_mount_commands.0",
		"mount_path = \"/mnt/{{.MountPath}}\"":                                                                                           "mount_path",
		"mount_path = \"mnt\"":                                                                                                           "mount_path",
		"mount_partition = \"first\"":                                                                                                    "mount_partition",
		"chroot_mounts = [[\"proc\", \"proc\"]]":                                                                                         "chroot_mounts.0",
		"chroot_mounts = [[\"proc\", \"proc\", \"proc\"]]":                                                                               "chroot_mounts.0",
		"copy_files = [\"etc/hosts\"]":                                                                                                   "copy_files.0",
		"command_wrapper = \"sudo\"":                                                                                                     "command_wrapper",
		"device_path = \"/dev/nvme1n1\"":                                                                                                 "device_path",
		"nvme_device_path = \"nvme1n1\"":                                                                                                 "nvme_device_path",
		"root_volume_kms_key_id = \"alias/x\"":                                                                                           "root_volume_kms_key_id",
		"root_volume_type = \"fast\"":                                                                                                    "root_volume_type",
		"root_volume_type = \"gp2\"\nroot_volume_size = 20000":                                                                           "root_volume_size",
		"root_volume_tags = { \"aws:x\" = \"y\" }":                                                                                       "root_volume_tags.aws:x",
		"ami_architecture = \"sparc\"":                                                                                                   "ami_architecture",
		"boot_mode = \"bios\"":                                                                                                           "boot_mode",
		"tpm_support = \"v2.0\"":                                                                                                         "tpm_support",
		"uefi_data = \"AAAA\"":                                                                                                           "uefi_data",
		"boot_mode = \"uefi\"\nuefi_data = \"?\"":                                                                                        "uefi_data",
		"package_metadata = \"a package\"":                                                                                               "package_metadata",
		"source_ami_filter {\nfilters = { name = \"x\" }\n}":                                                                             "source_ami_filter.owners",
		"from_scratch = true":                                                                                                            "ami_block_device_mappings",
		"from_scratch = true\npre_mount_commands = [\"x\"]":                                                                              "~from_scratch",
		"from_scratch = true\nroot_device_name = \"/dev/sda1\"\nami_block_device_mappings {\ndevice_name = \"/dev/xvda\"\n}": "root_device_name",
	} {
		ps := decodeChroot(t, goodChroot+body).check()
		option, warning := strings.CutPrefix(want, "~")
		if want == "" && len(ps) > 0 {
			t.Errorf("%s: %+v", body, ps)
		}
		if want != "" && !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == option && p.Warning == warning && p.Summary != "" }) {
			t.Errorf("%s: %+v, want %s", body, ps, want)
		}
	}
	if ps := decodeChroot(t, "region = \"us-east-1\"\nami_name = \"web\"").check(); len(ps) == 0 {
		t.Error("no source is no problem")
	}
}

func TestChrootDefaults(t *testing.T) {
	o := decodeChroot(t, goodChroot)
	if o.MountPath != "/mnt/packer-amazon-chroot-volumes/{{.Device}}" || !slices.Equal(o.CopyFiles, []string{"/etc/resolv.conf"}) || o.wrapped() || !o.grows() || o.RootVolumeType != "" {
		t.Errorf("defaults: %+v", o.ChrootOptions)
	}
	if o := decodeChroot(t, goodChroot+"from_scratch = true"); o.CopyFiles != nil || o.RootVolumeType != "gp2" {
		t.Errorf("from scratch: %+v", o.ChrootOptions)
	}
	if o := decodeChroot(t, goodChroot+"copy_files = []\ncommand_wrapper = \"doas {{ .Command }}\""); len(o.CopyFiles) > 0 || !o.wrapped() {
		t.Errorf("set: %+v", o.ChrootOptions)
	}
	if o := decodeChroot(t, goodChroot+"root_volume_encrypt_boot = true\nroot_volume_kms_key_id = \"alias/x\""); !o.encrypts() || o.KMSKeyID != "alias/x" {
		t.Errorf("encryption: %+v", o.AMIOptions)
	}
}
