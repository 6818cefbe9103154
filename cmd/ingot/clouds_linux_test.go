package main

import (
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// The example of amazon-chroot bakes on the instance that this host is, and a
// second bake starts from its AMI.
func TestAmazonChroot(t *testing.T) {
	needSandbox(t)
	tree := sandboxtest.Busybox(t)
	sandboxtest.Write(t, tree, "tmp/.keep", "", 0o644) // scripts are put there
	sandboxtest.Write(t, tree, "etc/os-release", "ID=debian\nVERSION_ID=12\n", 0o644)
	for name, nvme := range map[string]bool{"Xen": false, "Nitro": true} {
		t.Run(name, func(t *testing.T) {
			base := ec2.TreeImage(tree, "root")
			cloud, env := amazonCloud(t, ec2.Options{Images: []ec2.BaseImage{ec2.HostImage(), base}, NVMe: nvme})
			env = append(append(env, cloud.MetadataEnv()...), "INGOT_EMULATED_DEVICES="+cloud.DeviceDir())
			home := t.TempDir()
			build := func(name, base, owner string) string {
				t.Helper()
				return ingotDone(t, home, env, "build", "-var", "name="+name, "-var", "base="+base, "-var", "owner="+owner, "-var", "package=",
					"-var", "mounts="+t.TempDir(), "examples/amazon-chroot")
			}
			out := build("ingot-first", base.Name, base.Owner)
			for _, want := range []string{"baked: ", " passed, 0 failed", "web@v1: ", "us-east-1: ami-"} {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
			build("ingot-second", "ingot-first", "self")
			for name, want := range map[string]string{"ingot-first": "ingot-first\n", "ingot-second": "ingot-first\ningot-second\n"} {
				images := imagesNamed(cloud, name)
				if len(images) != 1 || images[0].State != "available" {
					t.Fatalf("images named %q: %v", name, images)
				}
				baked, err := cloud.ReadFile("us-east-1", images[0].ID, "etc/ingot/baked")
				if err != nil || string(baked) != want {
					t.Errorf("%s was baked by %q, want %q; %v", name, baked, want, err)
				}
			}
			if left := leftovers(cloud); len(left) > 0 {
				t.Errorf("left in the cloud: %q", left)
			}
		})
	}
}

// digitalOcean is an emulated DigitalOcean, and what a program needs to bake on it.
func digitalOcean(t *testing.T) (*digitalocean.Cloud, []string) {
	t.Helper()
	needSandbox(t)
	c, err := digitalocean.New(digitalocean.Options{Dir: t.TempDir(), Durations: digitalocean.Realistic().Scale(0.01)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, v := range c.Violations() {
			t.Errorf("against the description of the API: %s", v)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, append(c.Env(), "INGOT_EMULATED_CLOUD=50")
}

// The example bakes as it stands in three regions, the next bake starts from its
// snapshot, and an image that the sandbox has baked is imported.
func TestDigitalOceanWeb(t *testing.T) {
	cloud, env := digitalOcean(t)
	home := t.TempDir()
	out := ingotDone(t, home, env, "build", "examples/digitalocean-web")
	for _, want := range []string{"site: ", "booted: ", " passed, 0 failed", "digitalocean-web@v1: "} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	shown := ingotDone(t, home, env, "show", "digitalocean-web")
	for _, region := range []string{"nyc3", "fra1", "sgp1"} {
		if !strings.Contains(shown, region) {
			t.Errorf("the version is not in %s:\n%s", region, shown)
		}
	}
	temporary := func() (left []string) {
		for _, x := range cloud.Left() {
			if s := x.String(); !strings.HasPrefix(s, "image") && s != "tag web" { // the template's own
				left = append(left, s)
			}
		}
		return left
	}
	if left := temporary(); len(left) > 0 {
		t.Errorf("left in the account: %q", left)
	}

	dir := t.TempDir()
	tree := sandboxtest.Busybox(t)
	writeFiles(t, dir, map[string]string{"second.pkr.hcl": `
data "digitalocean-image" "web" {
  name_regex = "^web-"
  region     = "fra1"
  latest     = true
}
source "digitalocean" "second" {
  region        = "fra1"
  size          = "s-1vcpu-1gb"
  image         = data.digitalocean-image.web.image_id
  ssh_username  = "root"
  snapshot_name = "second"
}
source "sandbox" "disk" {
  base = "` + tree + `"
  output {
    format = "qcow2"
    path   = "disk.qcow2"
  }
}
build {
  sources = ["digitalocean.second"]
  provisioner "shell" { inline = ["grep -q 'Baked by Ingot' /srv/web/index.html"] }
}
build {
  name    = "imported"
  sources = ["sandbox.disk"]
  post-processor "digitalocean-import" {
    spaces_region = "nyc3"
    space_name    = "imports"
    image_name    = "imported"
    image_regions = ["nyc3"]
  }
}
`})
	cmd, said := ingotIn(home, env, "build", "second.pkr.hcl")
	cmd.Dir = dir
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	found := false
	for _, x := range cloud.Left() {
		found = found || strings.Contains(x.String(), "imported")
	}
	if !found {
		t.Errorf("there is no imported image: %v", cloud.Left())
	}
	if left := temporary(); len(left) > 0 {
		t.Errorf("left in the account: %q", left)
	}
}
