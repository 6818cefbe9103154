# What Packer has no word for: how the image is proven, on the droplet before its
# snapshot is taken, and on a droplet that is booted from the snapshot.

build {
  name = "digitalocean-web"

  spec "site" {}
  spec "booted" {}
}

spec "site" {
  file "/srv/web/index.html" {
    be_file     = true
    be_mode     = "0644"
    be_owned_by = "root"
    its "content" {
      match = "^Baked by Ingot"
    }
  }
}

spec "booted" {
  after = snapshot

  file "/srv/web/index.html" {
    be_file = true
  }
  command "id -un" {
    its "stdout" { match = "^root" }
  }
}
