# The AMI of a small web server, in two regions and shared with other accounts.
#
#   ingot build -var 'accounts=["111122223333"]' examples/amazon-web
#
# Without an account at Amazon it bakes on an emulated cloud with real machines,
# on this host alone, as root and with ansible-playbook installed:
#
#   go run ./internal/cloudtest/cmd/ec2 -- go run ./cmd/ingot build examples/amazon-web

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = ">= 1.1"
    }
  }
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "copies" {
  type        = list(string)
  default     = ["us-east-1"]
  description = "Further regions that are to have the AMI."
}

variable "accounts" {
  type        = list(string)
  default     = []
  description = "Accounts that may launch it."
}

variable "base" {
  type        = object({ name = string, owner = string })
  default     = { name = "debian-12-amd64-*", owner = "136693071363" }
  description = "What to start from: the newest AMI of that name and owner."
}

variable "greeting" {
  type    = string
  default = "Baked by Ingot"
}

locals {
  version = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "web" {
  region        = var.region
  instance_type = "t3.small"
  ssh_username  = "admin"

  source_ami_filter {
    filters = {
      name                = var.base.name
      architecture        = "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    owners      = [var.base.owner]
    most_recent = true
  }

  ami_name        = "amazon-web-${local.version}"
  ami_description = "A web server on {{ .SourceAMIName }}"
  ami_regions     = var.copies
  ami_users       = var.accounts

  tags = {
    Name = "amazon-web"
    Base = "{{ .SourceAMI }}"
  }
}

build {
  name    = "amazon-web"
  sources = ["source.amazon-ebs.web"]

  provisioner "shell" {
    name            = "site"
    execute_command = "sudo env {{ .Vars }} sh '{{ .Path }}'"
    env             = { GREETING = var.greeting }
    inline = [
      "useradd --system --home-dir /srv/web --create-home --shell /usr/sbin/nologin web",
      "install -d -o web -g web /opt/web",
      "printf '<h1>%s</h1>\\n' \"$GREETING\" > /opt/web/index.html",
    ]
  }

  provisioner "ansible" {
    playbook_file = "${path.root}/ansible/web.yml"
    user          = "admin"
  }

  post-processor "manifest" {
    output = "/tmp/ingot-amazon-web-${sha1(path.cwd)}/manifest.json"
  }
}
