# This adds to the build of amazon-web.pkr.hcl, so that Packer still reads that
# file. Red means no image, in no region.
build {
  name = "amazon-web"

  spec "web" {
    user "web" {
      exist            = true
      have_login_shell = "/usr/sbin/nologin"
    }
    file "/opt/web/index.html" {
      its "content" { match = "<h1>.+</h1>" }
    }
    file "/etc/systemd/system/web.service" {
      be_mode     = "0644"
      be_owned_by = "root"
      its "content" { match = "(?m)^User=web$" }
    }
    command "python3 -c 'import http.server'" {
      its "exit_status" { eq = 0 }
    }
  }
}
