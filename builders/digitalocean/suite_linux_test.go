//go:build linux

package digitalocean

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}

// quick is how many times as fast as DigitalOcean the emulated one is.
const quick = 200

// cloud starts an emulated DigitalOcean, and checks in the end that no call was
// against its description. The environment has no other account.
func cloud(t testing.TB, o digitalocean.Options) *digitalocean.Cloud {
	t.Helper()
	sandboxtest.Need(t)
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "DIGITALOCEAN_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	o.Dir = t.TempDir()
	c, err := digitalocean.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the cloud: %v", err)
		}
		for _, v := range c.Violations() {
			t.Errorf("violation of DigitalOcean's description: %s", v)
		}
	})
	return c
}

// durations are those of the emulated cloud.
func durations() digitalocean.Durations {
	d := digitalocean.Realistic().Scale(1.0 / quick)
	d.SSH = 0
	return d
}

func source(c *digitalocean.Cloud, more string) string {
	return fmt.Sprintf(`
api_url       = %q
api_token     = %q
region        = "nyc3"
size          = "s-1vcpu-1gb"
image         = "debian-12-x64"
ssh_username  = "root"
snapshot_name = "suite"
`, c.URL(), c.Token()) + more
}

// exists looks for what a lease names in the emulated account.
func exists(c *digitalocean.Cloud) func(builders.Lease) bool {
	return func(l builders.Lease) bool {
		has := func(kind string, is func(digitalocean.Resource) bool) bool {
			return slices.ContainsFunc(c.Left(kind), is)
		}
		switch l.Kind {
		case leaseKey:
			return has("key", func(r digitalocean.Resource) bool { return r.Name == l.Name })
		case leaseTags:
			return has("tag", func(r digitalocean.Resource) bool { return slices.Contains(strings.Fields(l.Data["tags"]), r.ID) })
		case leaseFirewall:
			return has("firewall", func(r digitalocean.Resource) bool { return r.Name == l.Name })
		case leaseDroplet:
			return has("droplet", func(r digitalocean.Resource) bool {
				return r.ID == l.ExternalID || r.Name == l.Name && slices.Contains(r.Tags, l.Data["tag"])
			})
		case leaseSource: // it takes over a droplet that is there
			return l.ExternalID != "" && has("droplet", func(r digitalocean.Resource) bool { return r.ID == l.Name })
		case leaseSnapshot:
			// The suite's bakes are one after another, with one name.
			return has("image", func(r digitalocean.Resource) bool { return r.Name == l.Name })
		}
		return true
	}
}

func TestSuite(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	shared := docloud.NewShared(docloud.Tempo{Scale: quick})
	good := source(c, "")
	without := func(option string) string {
		return strings.Join(slices.DeleteFunc(strings.Split(good, "\n"), func(l string) bool { return strings.HasPrefix(l, option+" ") }), "\n")
	}
	buildertest.Run(t, buildertest.Options{
		New:    func() builders.Builder { return New(shared) },
		Config: source(c, "snapshot_regions = [\"nyc3\", \"fra1\"]\nsnapshot_tags = [\"suite\"]\n"),
		Exists: exists(c),
		Bad: []buildertest.Bad{
			{Name: "no image", Config: without("image"), Option: "image"},
			{Name: "two images", Config: good + `image_name = "x"`, Option: "image"},
			{Name: "an image's name for a slug", Config: without("image") + "\nimage = \"My Image\"", Option: "image"},
			{Name: "no such image", Config: without("image") + "\nimage = \"debian-7-x64\"", Option: "image"},
			{Name: "no such image by id", Config: without("image") + "\nimage = 4711", Option: "image"},
			{Name: "none of our own", Config: without("image") + "\nimage_name = \"web\"", Option: "image_name"},
			{Name: "none of our own by tag", Config: without("image") + "\nimage_tag = \"web\"", Option: "image_tag"},
			{Name: "no such region", Config: without("region") + "\nregion = \"nyc9\"", Option: "region"},
			{Name: "a region that takes no droplets", Config: without("region") + "\nregion = \"nyc2\"", Option: "region"},
			{Name: "no such target", Config: good + `snapshot_regions = ["fra1", "fra9"]`, Option: "snapshot_regions.1"},
			{Name: "no such size", Config: without("size") + "\nsize = \"s-1vcpu-1tb\"", Option: "size"},
			{Name: "a size of elsewhere", Config: without("size") + "\nsize = \"512mb\"", Option: "size"},
			{Name: "user", Config: without("ssh_username"), Option: "ssh_username"},
			{Name: "token", Config: without("api_token") + "\napi_token = \"dop_v1_nothing\"", Option: "api_token"},
			{Name: "no token", Config: without("api_token"), Option: "api_token"},
			{Name: "two tokens", Config: good + `doctl_context = "x"`, Option: "doctl_context"},
			{Name: "a token over plain http", Config: without("api_url") + "\napi_url = \"http://api.example.com\"", Option: "api_url"},
			{Name: "tags", Config: good + `tags = ["fine", "not fine"]`, Option: "tags.1"},
			{Name: "tags of ours", Config: good + `tags = ["ingot-build-x"]`, Option: "tags.0"},
			{Name: "snapshot tags", Config: good + `snapshot_tags = ["a.b"]`, Option: "snapshot_tags.0"},
			{Name: "droplet name", Config: good + `droplet_name = "a_b"`, Option: "droplet_name"},
			{Name: "vpc", Config: good + `vpc_uuid = "760e09ef-dc84-11e8-981e-3cfdfeaae000"`, Option: "vpc_uuid"},
			{Name: "no such vpc", Config: good + "private_networking = true\nvpc_uuid = \"760e09ef-dc84-11e8-981e-3cfdfeaae000\"", Option: "vpc_uuid"},
			{Name: "private ip", Config: good + `connect_with_private_ip = true`, Option: "connect_with_private_ip"},
			{Name: "user data twice", Config: good + "user_data = \"#!/bin/sh\"\nuser_data_file = \"x\"", Option: "user_data_file"},
			{Name: "user data of no kind", Config: good + `user_data = "hello"`, Option: "user_data"},
			{Name: "user data with host keys", Config: good + `user_data = "#cloud-config\nssh_keys: {rsa_private: x}\n"`, Option: "user_data"},
			{Name: "user data file", Config: good + `user_data_file = "nowhere"`, Option: "user_data_file"},
			{Name: "key id without a key", Config: good + `ssh_key_id = 5`, Option: "ssh_key_id"},
			{Name: "no host key", Config: good + `inject_host_key = false`, Option: "inject_host_key"},
			{Name: "firewall sources", Config: good + `temporary_firewall_source_cidrs = ["1.2.3"]`, Option: "temporary_firewall_source_cidrs.0"},
			{Name: "check over plain http", Config: good + `temporary_firewall_check_url = "http://example.com"`, Option: "temporary_firewall_check_url"},
			{Name: "timeouts", Config: good + `snapshot_timeout = "0s"`, Option: "snapshot_timeout"},
			{Name: "project", Config: good + `project = "nothing"`, Option: "project"},
			{Name: "reserved address", Config: good + `reserved_ip = "192.0.2.1"`, Option: "reserved_ip"},
		},
	})
	for _, r := range c.Left() {
		if r.Kind != "image" && r.ID != "suite" {
			t.Errorf("left: %s", r)
		}
	}
}
