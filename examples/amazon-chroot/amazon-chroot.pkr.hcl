# An AMI without booting anything: on an EC2 instance, the base AMI's volume is
# attached, a package is installed in it, and its snapshot is the new AMI.
#
#   sudo ingot build examples/amazon-chroot                # on an instance in the region
#   sudo ingot build -var base=ingot-nginx-* -var owner=self -var name=ingot-app examples/amazon-chroot
#
# The second bake starts from the first one's AMI.

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "owner" {
  type        = string
  default     = "136693071363" # Debian
  description = "The account that the base AMI is of."
}

variable "base" {
  type        = string
  default     = "debian-12-amd64-2*"
  description = "The base AMI's name; the newest that fits is taken."
}

variable "package" {
  type        = string
  default     = "nginx"
  description = "What the AMI is for; empty: nothing is installed."
}

variable "name" {
  type    = string
  default = "ingot-nginx-{{timestamp}}"
}

variable "mounts" {
  type        = string
  default     = "/mnt/ingot"
  description = "Where the volume is mounted meanwhile."
}

source "amazon-chroot" "web" {
  region   = var.region
  ami_name = var.name

  source_ami_filter {
    owners      = [var.owner]
    most_recent = true
    filters = {
      name             = var.base
      root-device-type = "ebs"
    }
  }

  mount_path               = "${var.mounts}/{{.Device}}"
  root_volume_encrypt_boot = true
  package_metadata         = var.package # name and version go into tags and description

  tags = {
    Name = var.name
    Base = "{{ .SourceAMIName }}"
  }
}

build {
  name    = "web"
  sources = ["source.amazon-chroot.web"]

  # No service is started by this, whatever the packages would do.
  provisioner "shell" {
    env = {
      DEBIAN_FRONTEND = "noninteractive"
      PACKAGE         = var.package
    }
    inline = [
      "if [ -n \"$PACKAGE\" ]; then apt-get update -q && apt-get install -q -y --no-install-recommends \"$PACKAGE\" && apt-get clean; fi",
      "mkdir -p /etc/ingot",
      "echo '${var.name}' >> /etc/ingot/baked",
    ]
  }
}
