//go:build linux

package amazon

import (
	"context"
	"slices"
	"testing"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// A bake makes no call, and what releases it none, that its policy does not allow.
func TestBakeStaysWithinItsPolicy(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
	x := c.bake(t, "bake0000000000000009", ebsBody+`
ami_regions     = ["us-west-2"]
ami_users       = ["210987654321"]
snapshot_users  = ["210987654321"]
deprecate_at    = "2034-01-31T12:00:00Z"
ssm_parameters  = ["/images/web"]
deregistration_protection {
  enabled = true
}
launch_block_device_mappings {
  device_name           = "/dev/xvda"
  volume_size           = 9
  delete_on_termination = false
}
temporary_iam_instance_profile_policy_document {
  Version = "2012-10-17"
  Statement {
    Effect   = "Allow"
    Action   = ["s3:GetObject"]
    Resource = ["*"]
  }
}
`)
	x.boot(t.Context(), t)
	a, err := x.b.Snapshot(t.Context(), x.run)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Places) != 2 {
		t.Errorf("artifact %+v", a)
	}
	if _, err := x.b.Orphans(t.Context(), 0); err != nil {
		t.Error(err)
	}
	// Nothing is kept: what removes a finished image is looked at too.
	open := x.leases.Open()
	for _, l := range slices.Backward(open) {
		if err := x.b.Release(context.Background(), l); err != nil {
			t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
		}
	}
	c.wantNothing("the release")
	allowed := actions(x.b.o.Policy("us-east-1"))
	for _, call := range c.Plan().Calls() {
		action := call.Service + ":" + call.Action
		if !slices.Contains(allowed, action) && action != "sts:GetCallerIdentity" { // which everybody may
			t.Errorf("%s is not in the policy", action)
		}
	}
}
