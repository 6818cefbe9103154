# Debian with nginx, from nothing: an OCI image for container engines and a disk
# that boots by itself.
#
#   ingot build examples/debian-nginx
#   qemu-system-x86_64 -m 1g -nographic -drive file=dist/debian-nginx.qcow2,if=virtio \
#     -nic user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:8081-:80
#   curl http://127.0.0.1:8081/
#
# (Debian's cloud kernel has no driver for QEMU's default network card.)

variable "mirror" {
  type    = string
  default = "http://deb.debian.org/debian"
}

variable "out" {
  type        = string
  default     = "dist"
  description = "Directory of the outputs."
}

source "sandbox" "debian" {
  debootstrap {
    suite   = "bookworm"
    mirror  = var.mirror
    variant = "minbase"
    include = ["systemd-sysv", "udev", "ca-certificates"]
  }
  cmd    = ["/usr/sbin/nginx", "-g", "daemon off;"]
  expose = ["80"]

  output {
    format = "oci"
    path   = "${var.out}/debian-nginx.oci"
  }
  output {
    format   = "qcow2"
    path     = "${var.out}/debian-nginx.qcow2"
    bootable = true
  }
}

build {
  name    = "debian-nginx"
  sources = ["source.sandbox.debian"]

  provisioner "shell" {
    name = "packages"
    env  = { DEBIAN_FRONTEND = "noninteractive" }
    inline = [
      "apt-get update",
      "apt-get install -y --no-install-recommends nginx-light linux-image-cloud-amd64 grub-pc-bin",
    ]
  }

  provisioner "shell" {
    name = "network"
    inline = [
      "printf '[Match]\\nName=e*\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/80-dhcp.network",
      "systemctl enable systemd-networkd",
      "echo '/dev/disk/by-label/ingot-root / ext4 rw,noatime 0 0' > /etc/fstab",
      "echo 'Baked by Ingot' > /var/www/html/index.html",
    ]
  }

  spec "nginx" {
    package "nginx-light" {
      be_installed = true
    }
    service "nginx" {
      be_enabled = true
    }
    command "nginx -t" {
      its "exit_status" { eq = 0 }
    }
    file "/etc/systemd/network/80-dhcp.network" {
      be_file = true
    }
  }

  # What only this machine should have, and what apt can fetch again. The bake
  # proves that it is gone.
  provisioner "seal" {}

  post-processor "checksum" {
    checksum_types = ["sha256"]
    output         = "${var.out}/debian-nginx.{{.ChecksumType}}"
  }
}
