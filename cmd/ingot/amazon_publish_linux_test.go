package main

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/registry"
)

// publicAMI is a bake whose AMI is shared, and pointed to, when a machine of it
// has passed.
const publicAMI = `
variable "n" {}
variable "want" { default = "baked" }
source "amazon-ebs" "web" {
  region         = "us-east-1"
  instance_type  = "t3.micro"
  ssh_username   = "admin"
  ami_name       = "web-${var.n}"
  ami_users      = ["111122223333"]
  ssm_parameters = ["/images/web"]
  source_ami_filter {
    filters     = { name = "debian-12-amd64-*" }
    owners      = ["136693071363"]
    most_recent = true
  }
  temporary_security_group_source_cidrs = ["127.0.0.1/32"]
}
build {
  name    = "web"
  sources = ["amazon-ebs.web"]
  provisioner "shell" { inline = ["echo baked | sudo tee /opt/web >/dev/null"] }
  spec "booted" {
    after = snapshot
    command "cat /opt/web" {
      its "stdout" { match = var.want }
    }
  }
}
`

// A red spec after the snapshot: no image, and nothing was ever shared. A green
// one: all of it, after the proof. Killed while it is shared: resume does the rest.
func TestAmazonSharesWhatIsProven(t *testing.T) {
	cloud, env := amazonCloud(t, ec2.Options{})
	dir, home := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "web.pkr.hcl")
	writeFiles(t, dir, map[string]string{"web.pkr.hcl": publicAMI})
	store, err := registry.Open(t.Context(), filepath.Join(home, "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	// shares are the calls that show an image to others, proof the last launch.
	calls := func() (shares []int, proof int) {
		for i, c := range cloud.Plan().Calls() {
			switch c.Action {
			case "ModifyImageAttribute", "PutParameter":
				shares = append(shares, i)
			case "RunInstances":
				proof = i
			}
		}
		return shares, proof
	}
	pointed := func() bool {
		return slices.ContainsFunc(cloud.Left(), func(x ec2.Thing) bool { return x.Kind == "ssm-parameter" })
	}

	cloud.Plan().Reset()
	cmd, out := ingotIn(home, env, "build", "-var", "n=red", "-var", "want=something else", file)
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), `spec "booted" is red`) {
		t.Fatalf("it is not red: %v\n%s", err, out)
	}
	if shares, proof := calls(); len(shares) > 0 || proof == 0 {
		t.Errorf("the red image was shown by %d calls", len(shares))
	}
	if left := cloud.Left(); slices.ContainsFunc(left, func(x ec2.Thing) bool { return x.Kind != "key" }) {
		t.Errorf("left in the cloud: %v\n%s", left, out)
	}

	cloud.Plan().Reset()
	said := ingotDone(t, home, env, "build", "-var", "n=green", file)
	if shares, proof := calls(); len(shares) != 2 || shares[0] < proof || proof == 0 {
		t.Errorf("calls %v share the image, and %d launches the proof\n%s", shares, proof, said)
	}
	if !pointed() || !strings.Contains(said, "[publish] done in ") || !strings.Contains(said, "web@v1: ") {
		t.Errorf("it says\n%s", said)
	}

	cloud.Plan().Reset()
	cmd, out = ingotIn(home, env, "build", "-var", "n=killed", file)
	reached := point{"ssm PutParameter in us-east-1", 1}.at(cloud.Plan(), func() fault.Fault {
		_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
		return fault.Cut
	}, nil)
	if err := cmd.Run(); err == nil || !reached() {
		t.Fatalf("not killed: %v\n%s", err, out)
	}
	cloud.Plan().Decide(nil)
	ingotDone(t, home, env, "sweep")
	said = ingotDone(t, home, env, "resume")
	vs, err := store.Versions(t.Context(), "web")
	if err != nil || len(vs) != 2 || vs[1].Status != registry.StatusReady || !strings.Contains(string(vs[1].SpecSummary), "booted") {
		t.Errorf("recorded: %+v, %v\n%s", vs, err, said)
	}
	if strings.Contains(said, "after 0 seconds") || strings.Contains(said, "incomplete") || !pointed() {
		t.Errorf("resume says\n%s", said)
	}
	if open, err := store.OpenLeases(t.Context()); err != nil || len(open) > 0 {
		t.Errorf("in the ledger: %+v, %v", open, err)
	}
}
