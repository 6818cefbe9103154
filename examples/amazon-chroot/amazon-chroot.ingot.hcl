# Asked in the tree, before there is an AMI of it. Red means no AMI.
build {
  name = "web"
  spec "baked" {}
}

spec "baked" {
  file "/etc/ingot/baked" {
    be_file = true
    its "content" { match = "ingot" }
  }

  file "/etc/os-release" {
    exist = true
  }
}
