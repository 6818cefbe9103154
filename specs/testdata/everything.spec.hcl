package "x" {
  be_installed = { with_version = "> 1.0-1" }
  its "version" { eq = "1" }
}
service "x" {
  be_enabled      = { with_level = 3 }
  be_running      = true
  be_monitored_by = { monitor = "monit", with_name = "y" }
  its "property.Restart" { eq = "always" }
}
service "x" {
  be_enabled = true
  be_running = { under = "supervisor" }
}
service "x" {
  be_running = { under = "runit" }
}
package "@babel/core" {
  for_each     = ["gem", "npm", "pip", "pear", "pecl", "rpm"]
  be_installed = { by = each.key, with_version = ">= 1.0" }
}
package "Net::SSLeay" {
  be_installed = { by = "cpan" }
}
port "22" {
  be_listening = true
}
file "/x" {
  exist               = true
  be_file             = true
  be_directory        = true
  be_pipe             = true
  be_socket           = true
  be_block_device     = true
  be_character_device = true
  be_symlink          = true
  be_linked_to        = "/y"
  be_mode             = "0644"
  be_owned_by         = "root"
  be_grouped_into     = "root"
  be_immutable        = true
  contain             = { text = "x", from = "^a", to = "^b" }
  be_readable         = { by = "others" }
  be_writable         = { by_user = "x" }
  be_executable       = true
  be_mounted = { only_with = {
    type    = "ext4",
    options = { rw = true }
  } }
  its "content" { match = "x" }
  its "content_as_json.a[0].b" { eq = 1 }
  its "content_as_yaml.a" { include = 1 }
  its "link_target" { start_with = "1" }
  its "sha256sum" { eq = "1" }
  its "md5sum" { eq = "1" }
  its "mode" { eq = "1" }
  its "owner" { eq = "1" }
  its "group" { eq = "1" }
  its "uid" { eq = "1" }
  its "gid" { be_greater_than = "1" }
  its "size" { be_less_than = "1" }
  its "mtime" { be_in = [1, 2] }
  its "selinux_label" { eq = "1" }
}
user "x" {
  exist                   = true
  be_is_system_user       = true
  have_uid                = 1
  have_home_directory     = "/"
  have_login_shell        = "/bin/sh"
  have_authorized_key     = "ssh-ed25519 AAAA x"
  belong_to_group         = "x"
  belong_to_primary_group = "x"
  its "uid" { eq = 1 }
  its "gid" { eq = 1 }
  its "home" { eq = 1 }
  its "shell" { eq = 1 }
  its "primary_group" { eq = 1 }
  its "groups" { include = 1 }
  its "encrypted_password" { match = "^\\$" }
  its "minimum_days_between_password_change" { eq = 1 }
  its "maximum_days_between_password_change" { eq = 1 }
}
group "x" {
  exist              = true
  be_is_system_group = true
  have_gid           = 1
  its "gid" { eq = 1 }
  its "members" { include = "x" }
}
process "x" {
  be_running = true
  its "count" { eq = 1 }
  its "pid" { eq = 1 }
  its "ppid" { eq = 1 }
  its "user" { eq = 1 }
  its "group" { eq = 1 }
  its "uid" { eq = 1 }
  its "gid" { eq = 1 }
  its "args" { match = "x" }
  its "state" { match = "x" }
  its "threads" { eq = 1 }
  its "rss" { eq = 1 }
  its "vsz" { eq = 1 }
}
command "x" {
  its "stdout" { eq = 1 }
  its "stderr" { eq = 1 }
  its "exit_status" { eq = 1 }
  its "stdout_as_json.a" { eq = 1 }
  its "stdout_as_yaml.a" { match = 1 }
}
kernel_module "x" {
  be_loaded = true
}
linux_kernel_parameter "x" {
  its "value" { eq = 1 }
}
fstab {
  have_entry = {
    mount_point = "/x",
    device      = "/y",
    type        = "ext4",
    options     = ["rw"],
    dump        = 0,
    pass        = 0
  }
}
cron {
  have_entry = { entry = "* * * * * x", with_user = "x" }
  its "table" { match = "x" }
}
mail_alias "x" {
  be_aliased_to = "x"
  its "targets" { include = "x" }
}
cgroup "x" {
  its "memory.max" { eq = "max" }
}
interface "x" {
  exist             = true
  be_up             = true
  have_ipv4_address = "192.0.2.1"
  have_ipv6_address = "2001:db8::1/64"
  its "mtu" { eq = 1 }
  its "speed" { eq = 1 }
  its "ipv4_address" { eq = 1 }
  its "ipv6_address" { eq = 1 }
}
bond "x" {
  exist          = true
  have_interface = "y"
}
bridge "x" {
  exist          = true
  have_interface = "y"
}
default_gateway {
  its "ipaddress" { eq = "192.0.2.1" }
  its "interface" { eq = "x" }
}
routing_table {
  have_entry = { destination = "default", gateway = "192.0.2.1", interface = "x" }
}
host "x" {
  be_resolvable = { by = "dns" }
  be_reachable  = { with = { port = 22, proto = "tcp", timeout = "1s" } }
  its "ipaddress" { eq = 1 }
  its "ipv4_address" { eq = 1 }
  its "ipv6_address" { eq = 1 }
}
host "y" {
  be_resolvable = { by = "hosts" }
  be_reachable  = true
}
iptables {
  have_rule = { rule = "-p tcp", with_table = "nat", with_chain = "INPUT" }
}
ip6tables {
  have_rule = "-P INPUT DROP"
}
nftables {
  have_rule = { rule = "tcp dport 22 accept", with_table = "inet filter", with_chain = "input" }
}
selinux {
  be_enforcing  = { with_policy = "targeted" }
  be_permissive = true
  be_disabled   = true
}
selinux_module "x" {
  be_installed = true
  be_enabled   = true
}
linux_audit_system {
  be_enabled = true
  be_running = true
  its "rules" { match = "x" }
}
x509_certificate "/x" {
  be_certificate = true
  be_valid       = true
  have_purpose   = "SSL server"
  its "subject" { match = "x" }
  its "issuer" { match = "x" }
  its "email" { include = "x" }
  its "fingerprint" { eq = "x" }
  its "sha256_fingerprint" { eq = "x" }
  its "keylength" { be_greater_than = 2047 }
  its "validity_in_days" { be_greater_than = 30 }
  its "subject_alt_names" { include = "DNS:x" }
}
x509_private_key "/x" {
  be_encrypted              = true
  be_valid                  = true
  have_matching_certificate = "/y"
}
docker_image "x" {
  exist = true
  its "Config.Cmd[0]" { eq = "x" }
}
docker_container "x" {
  exist       = true
  be_running  = true
  have_volume = { container = "/x", host = "/y" }
  its "HostConfig.NetworkMode" { eq = "x" }
}
lxc "x" {
  exist      = true
  be_running = true
}
kvm "x" {
  exist      = true
  be_running = true
  be_enabled = true
}
zfs "x" {
  exist         = true
  have_property = { compression = "lz4" }
  its "property.compression" { eq = "lz4" }
}
yumrepo "x" {
  exist      = true
  be_enabled = true
}
ppa "x/y" {
  exist      = true
  be_enabled = true
}
php_config "x" {
  ini = "/etc/php.ini"
  its "value" { eq = 1 }
}
php_extension "x" {
  be_loaded = true
}
mysql_config "x" {
  its "value" { eq = 1 }
}
service "win x" {
  be_installed    = true
  have_start_mode = "Manual"
  have_property   = { StartName = "LocalSystem" }
}
file "C:\\x" {
  be_version = ">= 1"
  its "version" { eq = "1" }
}
user "win x" {
  its "sid" { eq = "x" }
}
group "win x" {
  its "sid" { eq = "x" }
}
package "x y" {
  be_installed = { by = "chocolatey" }
}
package "x" {
  be_installed = { by = "psmodule" }
}
windows_feature "x" {
  be_installed = true
}
windows_hot_fix "KB1" {
  be_installed = true
}
windows_registry_key "HKLM:\\x" {
  exist               = true
  have_property       = "x"
  have_value          = "x"
  have_property_value = { property = "x", type = "dword", value = 1 }
  its "property.x" { eq = 1 }
}
windows_scheduled_task "x" {
  exist      = true
  be_enabled = true
  its "state" { eq = "ready" }
}
windows_firewall "x" {
  exist          = true
  be_enabled     = true
  be_inbound     = true
  be_allowed     = true
  be_tcp         = true
  be_udp         = true
  have_localport = 80
}
iis_website "x" {
  exist                 = true
  be_enabled            = true
  be_running            = true
  be_in_app_pool        = "x"
  have_physical_path    = "C:\\x"
  have_site_bindings    = { port = 80, with_protocol = "http", with_ipaddress = "*", with_host_header = "x" }
  have_virtual_dir      = { virtual_dir = "x", with_path = "C:\\x" }
  have_site_application = { application = "x", with_pool = "x", with_physical_path = "C:\\x" }
}
iis_app_pool "x" {
  exist                      = true
  have_dotnet_version        = "4.0"
  have_32bit_enabled         = true
  have_idle_timeout          = 20
  have_identity_type         = "NetworkService"
  have_periodic_restart      = 1740
  have_user_profile_enabled  = true
  have_username              = "x"
  have_managed_pipeline_mode = "Integrated"
  its "managed_runtime_version" { eq = "v4.0" }
  its "identity_type" { eq = "x" }
}
http "https://machine/x?y=1" {
  method           = "POST"
  body             = "{}"
  headers          = { "Content-Type" = "application/json" }
  host             = "app.example"
  connect_to       = "machine:8443"
  basic_auth       = { user = "u", password = "p" }
  insecure         = true
  follow_redirects = true
  from             = "machine"
  be_reachable     = true
  have_header      = "Server"
  its "status" { eq = 200 }
  its "url" { start_with = "https://" }
  its "protocol" { eq = "HTTP/2.0" }
  its "tls_version" { eq = "TLS 1.3" }
  its "response_time" { be_less_than = 1 }
  its "body" { match = "ok" }
  its "headers.Content-Type" { include = "json" }
  its "body_as_json.status" { eq = "ok" }
  its "certificate.subject" { include = "x" }
  its "certificate.issuer" { include = "x" }
  its "certificate.email" { include = "x" }
  its "certificate.fingerprint" { eq = "x" }
  its "certificate.sha256_fingerprint" { eq = "x" }
  its "certificate.keylength" { eq = 2048 }
  its "certificate.validity_in_days" { be_greater_than = 30 }
  its "certificate.subject_alt_names" { include = "DNS:app.example" }
}
tcp "443" {
  from                   = "runner"
  host                   = "app.example"
  be_reachable           = true
  have_valid_certificate = true
  its "tls_version" { eq = "TLS 1.3" }
  its "certificate.subject" { include = "x" }
  its "certificate.issuer" { include = "x" }
  its "certificate.email" { include = "x" }
  its "certificate.fingerprint" { eq = "x" }
  its "certificate.sha256_fingerprint" { eq = "x" }
  its "certificate.keylength" { eq = 2048 }
  its "certificate.validity_in_days" { be_greater_than = 30 }
  its "certificate.subject_alt_names" { include = "DNS:app.example" }
}
smtp "machine:25" {
  helo                   = "ci.example"
  tls                    = false
  be_reachable           = true
  have_extension         = "STARTTLS"
  have_valid_certificate = true
  its "banner" { match = "ESMTP" }
  its "extensions" { include = "PIPELINING" }
  its "tls_version" { eq = "TLS 1.3" }
  its "certificate.subject" { include = "x" }
  its "certificate.issuer" { include = "x" }
  its "certificate.email" { include = "x" }
  its "certificate.fingerprint" { eq = "x" }
  its "certificate.sha256_fingerprint" { eq = "x" }
  its "certificate.keylength" { eq = 2048 }
  its "certificate.validity_in_days" { be_greater_than = 30 }
  its "certificate.subject_alt_names" { include = "DNS:app.example" }
}
dns "app.example" {
  server        = "machine:5353"
  type          = "A"
  be_resolvable = true
  its "addresses" { include = "192.0.2.1" }
  its "records" { include = "192.0.2.1" }
}
