# A web server's image on DigitalOcean, in three regions. Packer reads this file
# too.
#
#   export DIGITALOCEAN_TOKEN=dop_v1_…
#   ingot build examples/digitalocean-web
#
# Without an account, against the emulated DigitalOcean that Ingot is tested on
# (Linux, root), with `ingot` on the PATH:
#
#   go run ./internal/cloudtest/cmd/digitalocean -- ingot build examples/digitalocean-web

variable "region" {
  type    = string
  default = "nyc3"
}

variable "regions" {
  type        = list(string)
  default     = ["fra1", "sgp1"]
  description = "Where the image is needed besides."
}

variable "image" {
  type    = string
  default = "debian-12-x64"
}

source "digitalocean" "web" {
  region           = var.region
  size             = "s-1vcpu-1gb"
  image            = var.image
  ssh_username     = "root"
  snapshot_name    = "web-{{timestamp}}"
  snapshot_regions = var.regions
  snapshot_tags    = ["web"]
}

build {
  name    = "digitalocean-web"
  sources = ["source.digitalocean.web"]

  provisioner "shell" {
    name = "site"
    inline = [
      "mkdir -p /srv/web",
      "echo 'Baked by Ingot' >/srv/web/index.html",
      "chmod 0644 /srv/web/index.html",
    ]
  }
}
