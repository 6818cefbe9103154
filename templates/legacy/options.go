package legacy

// blockOptions are options that are blocks in HCL where JSON has one object.
// An option that is not among them becomes an attribute.
var blockOptions = []string{
	"ami_block_device_mappings", "assume_role", "aws_polling", "boot_iso", "content_library_destination", "customize",
	"efi_config", "export", "launch_block_device_mappings", "metadata_options", "network_interface", "placement", "plan_info",
	"security_group_filter", "shared_image_destination", "shared_image_gallery", "shared_image_gallery_destination", "source_ami_filter",
	"spot_options", "subnet_filter", "temporary_iam_instance_profile_policy_document", "vapp", "vault_aws_engine", "vga", "vpc_filter",
}

// listOptions are lists of strings that JSON templates also write as one string
// with commas, mostly to give them by a variable.
var listOptions = []string{
	"ami_groups", "ami_product_codes", "ami_regions", "ami_users", "ansible_env_vars", "boot_command", "cd_files", "checksum_types",
	"empty_groups", "environment_vars", "extra_arguments", "floppy_dirs", "floppy_files", "groups", "inline", "iso_urls", "owners",
	"playbook_paths", "role_paths", "scripts", "security_group_ids", "snapshot_groups", "snapshot_users", "ssh_ciphers",
	"ssh_key_exchange_algorithms", "temporary_security_group_source_cidrs",
}
