# What Packer's language has no word for: how the image is proven, and how it is
# run. A service is two machines behind a proxy; a new version goes green before
# blue goes.

rollout "web" {
  image    = "web"
  channel  = "production"
  replicas = 2
  listen   = "127.0.0.1:8808"
  port     = 8080
  soak     = "1s"

  health {
    path     = "/"
    contains = "Hello"
  }
}

# This adds to the build of web.pkr.hcl, so that Packer still reads that file.
# Red means no image.
build {
  name = "web"
  spec "web" {}
}

spec "web" {
  file "/usr/local/bin/web" {
    be_file     = true
    be_mode     = "0755"
    be_owned_by = "root"
  }

  file "/etc/web/greeting" {
    be_mode = "0644"
    its "content" {
      match = "^Hello"
    }
  }

  user "nobody" {
    exist = true
  }

  port "8080" {
    should_not { be_listening = true } # it runs in the machines made from the image, not in this one
  }

  command "/usr/local/bin/web -check" {
    its "exit_status" { eq = 0 }
    its "stdout" { match = "^Hello" }
  }
}
