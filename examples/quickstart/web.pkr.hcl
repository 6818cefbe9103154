# A template as Packer's users know it: variables, a source, a build.

variable "greeting" {
  type        = string
  default     = "Hello from version 1"
  description = "What the service answers."
  validation {
    condition     = length(var.greeting) > 0
    error_message = "The greeting must not be empty."
  }
}

locals {
  # Outside the repository, so that a clean clone stays clean.
  program = "/tmp/ingot-quickstart-${sha1(path.cwd)}/web"
}

# The machine is this host's own system, read-only, with a throw-away layer
# above it: nothing to download.
source "sandbox" "host" {
  base     = "host"
  hostname = "web"
  cmd      = ["/usr/local/bin/web"]
  user     = "nobody"
  expose   = ["8080"]
}

build {
  name    = "web"
  sources = ["source.sandbox.host"]

  provisioner "shell-local" {
    name   = "compile"
    inline = ["go build -C '${path.root}/web' -buildvcs=false -o '${local.program}'"]
  }

  provisioner "file" {
    name        = "program"
    source      = local.program
    destination = "/usr/local/bin/web"
    generated   = true
  }

  provisioner "shell" {
    name = "configure"
    env  = { GREETING = var.greeting }
    inline = [
      "chmod 0755 /usr/local/bin/web",
      "mkdir -p /etc/web",
      "printf '%s\\n' \"$GREETING\" > /etc/web/greeting",
    ]
  }

  post-processor "manifest" {
    output = "/tmp/ingot-quickstart-${sha1(path.cwd)}/manifest.json"
  }
}
