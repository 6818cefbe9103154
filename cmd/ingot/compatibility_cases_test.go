package main

// The templates for the rows of docs/compatibility.md; see templateRows.

var blockCases = map[string]string{
	"packer": `
packer {}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"packer.required_version": `
packer {
  required_version = ">= 1.9, < 2.0"
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"packer.required_plugins": `
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.0.0"
    }
  }
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"source": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"build": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
build { sources = ["file.b"] }
source "file" "b" {
  target  = "b"
  content = "x"
}
`,
	"build.name": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  name = "web"
}
`,
	"build.description": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  description = "of the web"
}
`,
	"build.sources": `
source "null" "a" { communicator = "none" }
build { sources = [for n in ["a"] : "source.null.${n}"] }
`,
	"build.source": `
source "null" "a" { communicator = "none" }
build {
  source "null.a" {
    communicator = "none"
  }
}
# error: communicator
`,
	"build.source.name": `
source "null" "a" { communicator = "none" }
build {
  source "null.a" {
    name     = "b"
    ssh_host = "added"
  }
}
`,
	"build.provisioner": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    
  }
}
`,
	"build.error-cleanup-provisioner": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  error-cleanup-provisioner "shell-local" {
    inline = ["true"]
  }
}
`,
	"build.post-processor": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processor "manifest" {
    
  }
}
`,
	"build.post-processors": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processors {
    post-processor "checksum" {}
    post-processor "manifest" {}
  }
}
`,
	"build.hcp_packer_registry": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  hcp_packer_registry {
    bucket_name = "web"
  }
}
# warning: without effect
`,
	"build.from": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  from "x" {}
}
# warning: without effect
`,
	"dynamic": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  dynamic "provisioner" {
    for_each = ["x"]
    labels   = ["shell-local"]
    content {
      inline = [provisioner.value]
    }
  }
}
`,
	"variable": `
variable "v" { default = 1 }
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"variable.type": `
variable "v" {
  type    = object({ a = string, b = optional(number, 3) })
  default = { a = "x" }
}
locals { three = [1, 2, 3, 4][var.v.b] }
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"variable.default": `
variable "v" { default = "d" }
locals {
  right = regex("^yes$", var.v == "d" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"variable.description": `
variable "v" {
  default     = 1
  description = "of v"
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"variable.sensitive": `
variable "v" {
  default   = 1
  sensitive = true
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"variable.validation": `
variable "v" {
  default = 1
  validation {
    condition     = var.v > 1
    error_message = "Too small."
  }
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# error: Too small.
`,
	"variables": `
variables { v = "x" }
locals {
  right = regex("^yes$", var.v == "x" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"locals": `
locals { v = upper("x") }
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"local": `
local "v" {
  expression = 1
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"local.expression": `
local "v" {
  expression = 1 + 1
}
locals {
  right = regex("^yes$", local.v == 2 ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"local.sensitive": `
local "v" {
  expression = "secret"
  sensitive  = true
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"data": `
data "null" "n" { input = "x" }
locals { v = data.null.n.output }
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"hcp_packer_registry": `
hcp_packer_registry {
  bucket_name = "web"
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# warning: without effect
`,
	"communicator": `
communicator "ssh" "x" {}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# warning: without effect
`,
	"an unknown block": `
thing "x" {}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# -syntax-only
# error: thing
`,
	"a top-level dynamic": `
dynamic "source" {
  for_each = [1]
  content {}
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# error: dynamic
`,
	"provisioner.name": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    name = "x"
  }
}
`,
	"provisioner.only": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    only = ["null.a"]
  }
}
`,
	"provisioner.except": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    except = ["null.a"]
  }
}
`,
	"provisioner.override": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    override = { a = { inline = ["false"] } }
  }
}
`,
	"provisioner.pause_before": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    pause_before = "1s"
  }
}
`,
	"provisioner.timeout": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    timeout = "5"
  }
}
# error: duration
`,
	"provisioner.max_retries": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    max_retries = 2
  }
}
`,
	"provisioner.continue_on_error": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    continue_on_error = true
  }
}
`,
	"post-processor.name": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processor "manifest" {
    name = "x"
  }
}
`,
	"post-processor.only": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processor "manifest" {
    only = ["null.a"]
  }
}
`,
	"post-processor.except": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processor "manifest" {
    except = ["null.a"]
  }
}
`,
	"post-processor.keep_input_artifact": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processor "manifest" {
    keep_input_artifact = false
  }
}
`,
	"packer_build_name and Packer's other internal options": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["true"]
    packer_build_name = "x"
  }
}
`,
}

var variableCases = map[string]string{
	"the default is weakest": `
-- t.pkr.hcl --
variable "v" { default = "default" }
locals {
  right = regex("^yes$", var.v == "default" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"the environment wins over the default": `
-- t.pkr.hcl --
variable "env" { default = "default" }
locals {
  right = regex("^yes$", var.env == "from the environment" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"*.auto.pkrvars.hcl wins over the environment": `
-- t.pkr.hcl --
variable "env" { default = "default" }
locals {
  right = regex("^yes$", var.env == "auto" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
-- x.auto.pkrvars.hcl --
env = "auto"
`,
	"*.auto.pkrvars.json wins over *.auto.pkrvars.hcl": `
-- t.pkr.hcl --
variable "env" { default = "default" }
locals {
  right = regex("^yes$", var.env == "json" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
-- x.auto.pkrvars.hcl --
env = "auto"
-- a.auto.pkrvars.json --
{"env": "json"}
`,
	"-var-file wins over auto files": `
-- t.pkr.hcl --
variable "env" { default = "default" }
locals {
  right = regex("^yes$", var.env == "given" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
-- x.auto.pkrvars.hcl --
env = "auto"
-- given.pkrvars.hcl --
env = "given"
`,
	"-var wins over all": `
-- t.pkr.hcl --
variable "env" { default = "default" }
locals {
  right = regex("^yes$", var.env == "arg" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# -var env=arg
-- given.pkrvars.hcl --
env = "given"
`,
	"the last -var of a name wins": `
-- t.pkr.hcl --
variable "v" { default = "default" }
locals {
  right = regex("^yes$", var.v == "two" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# -var v=one
# -var v=two
`,
	"auto files are read with a directory only": `
-- t.pkr.hcl --
variable "v" { default = "default" }
locals {
  right = regex("^yes$", var.v == "default" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# path t.pkr.hcl
-- x.auto.pkrvars.hcl --
v = "auto"
`,
	"a string for a string, number or untyped variable is literal": `
-- t.pkr.hcl --
variable "list" {}
locals {
  right = regex("^yes$", var.list == "[1]" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"a string for any other variable is an expression": `
-- t.pkr.hcl --
variable "list" { type = list(number) }
locals {
  right = regex("^yes$", var.list[0] == 1 ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"an undeclared name in the environment is passed over": `
-- t.pkr.hcl --
variable "v" { default = "default" }
locals {
  right = regex("^yes$", true ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"an undeclared name in a file is passed over": `
-- t.pkr.hcl --
variable "v" { default = "default" }
locals {
  right = regex("^yes$", true ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
-- given.pkrvars.hcl --
nobody = 1
`,
	"an undeclared -var is an error": `
-- t.pkr.hcl --
variable "v" { default = "default" }
locals {
  right = regex("^yes$", true ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# -var nobody=1
# error: nobody
`,
	"an unset variable is an error": `
-- t.pkr.hcl --
variable "unset" {}
locals {
  right = regex("^yes$", true ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# error: Unset variable
`,
	"an unset variable is none with -syntax-only": `
-- t.pkr.hcl --
variable "unset" {}
locals {
  right = regex("^yes$", true ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# -syntax-only
`,
	"default = null counts as set": `
-- t.pkr.hcl --
variable "v" { default = null }
locals {
  right = regex("^yes$", var.v == null ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"an error message must be a sentence": `
-- t.pkr.hcl --
variable "v" {
  default = 1
  validation {
    condition     = var.v > 0
    error_message = "no sentence"
  }
}
locals {
  right = regex("^yes$", true ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
# error: sentence
`,
	"a variable file holds literals only": `
-- t.pkr.hcl --
variable "v" { default = "default" }
locals {
  right = regex("^yes$", true ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
-- given.pkrvars.hcl --
v = upper("x")
# error: Function
`,
}

var valueCases = map[string]string{
	"var": `
variable "v" { default = 1 }
locals {
  right = regex("^yes$", var.v == 1 ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"local": `
locals { v = 1 }
locals {
  right = regex("^yes$", local.v == 1 ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"data": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${data.null.n.output}"]
  }
}
data "null" "n" { input = "x" }
`,
	"path.root": `

locals {
  right = regex("^yes$", basename(path.root) != "" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"path.cwd": `

locals {
  right = regex("^yes$", path.cwd == abspath(path.cwd) ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"packer.version": `

locals {
  right = regex("^yes$", packer.version == "1.16.0" ? "yes" : "no")
}
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"packer.iterationID": `
locals { v = packer.iterationID }
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"packer.versionFingerprint": `
locals { v = packer.versionFingerprint }
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
}
`,
	"source.type": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = [regex("^null$", source.type)]
  }
}
`,
	"source.name": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = [regex("^a$", source.name)]
  }
}
`,
	"build.name": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  name = "web"
  provisioner "shell-local" {
    inline = [regex("^web$", build.name)]
  }
}
`,
	"build.ID": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.ID}"]
  }
}
`,
	"build.Host": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.Host}"]
  }
}
`,
	"build.Port": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.Port}"]
  }
}
`,
	"build.User": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.User}"]
  }
}
`,
	"build.Password": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.Password}"]
  }
}
`,
	"build.ConnType": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.ConnType}"]
  }
}
`,
	"build.PackerRunUUID": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.PackerRunUUID}"]
  }
}
`,
	"build.PackerHTTPIP": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.PackerHTTPIP}"]
  }
}
`,
	"build.PackerHTTPPort": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.PackerHTTPPort}"]
  }
}
`,
	"build.PackerHTTPAddr": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.PackerHTTPAddr}"]
  }
}
`,
	"build.SSHPublicKey": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.SSHPublicKey}"]
  }
}
`,
	"build.SSHPrivateKey": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.SSHPrivateKey}"]
  }
}
`,
	"build.SSHPrivateKeyFile": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.SSHPrivateKeyFile}"]
  }
}
`,
	"build.SSHAgentAuth": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.SSHAgentAuth}"]
  }
}
`,
	"build.WinRMPassword": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["${build.WinRMPassword}"]
  }
}
`,
	"{{timestamp}}": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["{{timestamp}}"]
  }
}
`,
	"{{isotime}}": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["{{isotime}}"]
  }
}
`,
	"{{uuid}}": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["{{uuid}}"]
  }
}
`,
	"{{build_name}}": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["{{build_name}}"]
  }
}
`,
	"{{build_type}}": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  provisioner "shell-local" {
    inline = ["{{build_type}}"]
  }
}
`,
	"{{ .Unknown }}": `
source "null" "a" { communicator = "none" }
build {
  sources = ["null.a"]
  post-processor "manifest" {
    output = "{{ .Unknown }}"
  }
}
# error: Unknown
`,
}
