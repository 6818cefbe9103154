//go:build linux

package digitalocean

// route is one call of the API.
type route struct {
	method, path string
	// scope is what a token with custom scopes needs; "": nothing.
	scope string
	// status is of the answer when all is well.
	status int
	do     func(q *request) (any, error)
}

// table is all that the emulator can do.
func table() []route {
	return []route{
		{"GET", "/v2/account", "account:read", 200, getAccount},
		{"GET", "/v2/regions", "regions:read", 200, listRegions},
		{"GET", "/v2/sizes", "sizes:read", 200, listSizes},

		{"GET", "/v2/account/keys", "ssh_key:read", 200, listKeys},
		{"POST", "/v2/account/keys", "ssh_key:create", 201, createKey},
		{"GET", "/v2/account/keys/{key}", "ssh_key:read", 200, getKey},
		{"PUT", "/v2/account/keys/{key}", "ssh_key:update", 200, updateKey},
		{"DELETE", "/v2/account/keys/{key}", "ssh_key:delete", 204, deleteKey},

		{"GET", "/v2/actions", "actions:read", 200, listActions},
		{"GET", "/v2/actions/{action}", "actions:read", 200, getAction},

		{"GET", "/v2/droplets", "droplet:read", 200, listDroplets},
		{"POST", "/v2/droplets", "droplet:create", 202, createDroplets},
		{"DELETE", "/v2/droplets", "droplet:delete", 204, deleteDropletsByTag},
		{"GET", "/v2/droplets/{droplet}", "droplet:read", 200, getDroplet},
		{"DELETE", "/v2/droplets/{droplet}", "droplet:delete", 204, deleteDroplet},
		{"GET", "/v2/droplets/{droplet}/snapshots", "droplet:read", 200, listDropletSnapshots},
		{"GET", "/v2/droplets/{droplet}/backups", "droplet:read", 200, listDropletBackups},
		{"GET", "/v2/droplets/{droplet}/firewalls", "firewall:read", 200, listDropletFirewalls},
		{"GET", "/v2/droplets/{droplet}/actions", "droplet:read", 200, listDropletActions},
		{"POST", "/v2/droplets/{droplet}/actions", "droplet:update", 201, actOnDroplet},
		{"GET", "/v2/droplets/{droplet}/actions/{action}", "droplet:read", 200, getDropletAction},
		{"POST", "/v2/droplets/actions", "droplet:update", 201, actOnDropletsByTag},

		{"GET", "/v2/images", "image:read", 200, listImages},
		{"POST", "/v2/images", "image:create", 202, createImage},
		{"GET", "/v2/images/{image}", "image:read", 200, getImage},
		{"PUT", "/v2/images/{image}", "image:update", 200, updateImage},
		{"DELETE", "/v2/images/{image}", "image:delete", 204, deleteImage},
		{"GET", "/v2/images/{image}/actions", "image:read", 200, listImageActions},
		{"POST", "/v2/images/{image}/actions", "image:update", 201, actOnImage},
		{"GET", "/v2/images/{image}/actions/{action}", "image:read", 200, getImageAction},

		{"GET", "/v2/snapshots", "snapshot:read", 200, listSnapshots},
		{"GET", "/v2/snapshots/{snapshot}", "snapshot:read", 200, getSnapshot},
		{"DELETE", "/v2/snapshots/{snapshot}", "snapshot:delete", 204, deleteSnapshot},

		{"GET", "/v2/tags", "tag:read", 200, listTags},
		{"POST", "/v2/tags", "tag:create", 201, createTag},
		{"GET", "/v2/tags/{tag}", "tag:read", 200, getTag},
		{"DELETE", "/v2/tags/{tag}", "tag:delete", 204, deleteTag},
		{"POST", "/v2/tags/{tag}/resources", "tag:create", 204, tagResources},
		{"DELETE", "/v2/tags/{tag}/resources", "tag:delete", 204, untagResources},

		{"GET", "/v2/firewalls", "firewall:read", 200, listFirewalls},
		{"POST", "/v2/firewalls", "firewall:create", 202, createFirewall},
		{"GET", "/v2/firewalls/{firewall}", "firewall:read", 200, getFirewall},
		{"PUT", "/v2/firewalls/{firewall}", "firewall:update", 200, updateFirewall},
		{"DELETE", "/v2/firewalls/{firewall}", "firewall:delete", 204, deleteFirewall},
		{"POST", "/v2/firewalls/{firewall}/droplets", "firewall:update", 204, addFirewallDroplets},
		{"DELETE", "/v2/firewalls/{firewall}/droplets", "firewall:update", 204, removeFirewallDroplets},
		{"POST", "/v2/firewalls/{firewall}/tags", "firewall:update", 204, addFirewallTags},
		{"DELETE", "/v2/firewalls/{firewall}/tags", "firewall:update", 204, removeFirewallTags},
		{"POST", "/v2/firewalls/{firewall}/rules", "firewall:update", 204, addFirewallRules},
		{"DELETE", "/v2/firewalls/{firewall}/rules", "firewall:update", 204, removeFirewallRules},

		{"GET", "/v2/vpcs", "vpc:read", 200, listVPCs},
		{"POST", "/v2/vpcs", "vpc:create", 201, createVPC},
		{"GET", "/v2/vpcs/{vpc}", "vpc:read", 200, getVPC},
		{"PUT", "/v2/vpcs/{vpc}", "vpc:update", 200, updateVPC},
		{"PATCH", "/v2/vpcs/{vpc}", "vpc:update", 200, updateVPC},
		{"DELETE", "/v2/vpcs/{vpc}", "vpc:delete", 204, deleteVPC},
		{"GET", "/v2/vpcs/{vpc}/members", "vpc:read", 200, listVPCMembers},

		{"GET", "/v2/projects", "project:read", 200, listProjects},
		{"POST", "/v2/projects", "project:create", 201, createProject},
		{"GET", "/v2/projects/{project}", "project:read", 200, getProject}, // also "default"
		{"PUT", "/v2/projects/{project}", "project:update", 200, updateProject},
		{"PATCH", "/v2/projects/{project}", "project:update", 200, updateProject},
		{"DELETE", "/v2/projects/{project}", "project:delete", 204, deleteProject},
		{"GET", "/v2/projects/{project}/resources", "project:read", 200, listProjectResources},
		{"POST", "/v2/projects/{project}/resources", "project:assign_resource", 200, assignResources},

		{"GET", "/v2/reserved_ips", "reserved_ip:read", 200, listReservedIPs},
		{"POST", "/v2/reserved_ips", "reserved_ip:create", 202, createReservedIP},
		{"GET", "/v2/reserved_ips/{address}", "reserved_ip:read", 200, getReservedIP},
		{"DELETE", "/v2/reserved_ips/{address}", "reserved_ip:delete", 204, deleteReservedIP},
		{"GET", "/v2/reserved_ips/{address}/actions", "reserved_ip:read", 200, listReservedIPActions},
		{"POST", "/v2/reserved_ips/{address}/actions", "reserved_ip:update", 201, actOnReservedIP},
		{"GET", "/v2/reserved_ips/{address}/actions/{action}", "reserved_ip:read", 200, getReservedIPAction},

		{"GET", "/v2/load_balancers", "load_balancer:read", 200, listBalancers},
		{"POST", "/v2/load_balancers", "load_balancer:create", 202, createBalancer},
		{"GET", "/v2/load_balancers/{balancer}", "load_balancer:read", 200, getBalancer},
		{"PUT", "/v2/load_balancers/{balancer}", "load_balancer:update", 200, updateBalancer},
		{"DELETE", "/v2/load_balancers/{balancer}", "load_balancer:delete", 204, deleteBalancer},
		{"POST", "/v2/load_balancers/{balancer}/droplets", "load_balancer:update", 204, addBalancerDroplets},
		{"DELETE", "/v2/load_balancers/{balancer}/droplets", "load_balancer:update", 204, removeBalancerDroplets},
		{"POST", "/v2/load_balancers/{balancer}/forwarding_rules", "load_balancer:update", 204, addBalancerRules},
		{"DELETE", "/v2/load_balancers/{balancer}/forwarding_rules", "load_balancer:update", 204, removeBalancerRules},

		{"GET", "/v2/volumes", "block_storage:read", 200, listVolumes},
		{"POST", "/v2/volumes", "block_storage:create", 201, createVolume},
		{"GET", "/v2/volumes/{volume}", "block_storage:read", 200, getVolume},
		{"DELETE", "/v2/volumes/{volume}", "block_storage:delete", 204, deleteVolume},

		{"GET", "/v2/domains", "domain:read", 200, listDomains},
		{"POST", "/v2/domains", "domain:create", 201, createDomain},
		{"GET", "/v2/domains/{domain}", "domain:read", 200, getDomain},
		{"DELETE", "/v2/domains/{domain}", "domain:delete", 204, deleteDomain},
		{"GET", "/v2/domains/{domain}/records", "domain:read", 200, listRecords},
		{"POST", "/v2/domains/{domain}/records", "domain:update", 201, createRecord},
		{"GET", "/v2/domains/{domain}/records/{record}", "domain:read", 200, getRecord},
		{"PUT", "/v2/domains/{domain}/records/{record}", "domain:update", 200, updateRecord},
		{"PATCH", "/v2/domains/{domain}/records/{record}", "domain:update", 200, updateRecord},
		{"DELETE", "/v2/domains/{domain}/records/{record}", "domain:update", 204, deleteRecord},
	}
}
