//go:build linux

package amazon

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// asked is how often the cloud was asked for something.
func (c *cloud) asked(action string) (n int) {
	for _, call := range c.Plan().Calls() {
		if call.Action == action {
			n++
		}
	}
	return n
}

// The cloud has an instance on demand with two vCPUs from the beginning: its HostInstance.
func TestPreflightOfTheQuota(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	spot := "spot_price = \"auto\"\n"
	several := strings.Replace(c.source("spot_instance_types = [\"m5.xlarge\", \"c5.large\"]"), "instance_type = \"t3.micro\"\n", "", 1)
	for _, x := range []struct {
		limit        int
		body, option string
		said         []string
	}{
		{3, c.source(""), "instance_type", []string{"t3.micro needs 2 vCPUs", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", "(L-1216C47A)", "in us-east-1 is 3,", "have 2 of them", "--desired-value 4"}},
		{0, c.source(spot), "instance_type", []string{"All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", "(L-34B43A08)", "is 0,"}},
		{1, several, "spot_instance_types.1", []string{"c5.large needs 2"}},
		{2, several, "", nil},
		{4, c.source(""), "", nil},
		{1, c.source("skip_quota_check = true"), "", nil},
		{1, c.source(spot + "spot_on_demand_fallback = true"), "", nil},
		{1, c.source("tenancy = \"dedicated\""), "", nil},
	} {
		c.connect() // what was answered is remembered
		c.SetQuota(ec2.QuotaVCPUs, x.limit)
		c.Plan().Reset()
		errs, warnings, text := c.findings(x.body, builders.CheckEnv{})
		want := []string{x.option}
		if x.option == "" {
			want = nil
		}
		if !slices.Equal(errs, want) || len(warnings) > 0 {
			t.Errorf("with a quota of %d\n%s\nfinds\n%s", x.limit, x.body, text)
		}
		for _, s := range x.said {
			if !strings.Contains(text, s) {
				t.Errorf("%q is not said:\n%s", s, text)
			}
		}
		if strings.Contains(x.body, "skip_quota_check") && c.asked("GetServiceQuota")+c.asked("DescribeInstances") > 0 {
			t.Errorf("skip_quota_check asks: %v", c.Plan().Calls())
		}
	}
}

func TestPreflightCountsWhatRuns(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	out, err := c.session.EC2("").RunInstances(t.Context(), &ec2api.RunInstancesInput{ImageId: c.base.ImageId, InstanceType: types.InstanceTypeM5Xlarge, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	c.SetQuota(ec2.QuotaVCPUs, 7)
	c.Plan().Reset()
	// Two bakes of one process that begin together ask once.
	for _, body := range []string{c.source(""), strings.Replace(c.source(""), "t3.micro", "c5.large", 1)} {
		errs, _, text := c.findings(body, builders.CheckEnv{})
		if !slices.Equal(errs, []string{"instance_type"}) || !strings.Contains(text, "is 7,") || !strings.Contains(text, "have 6 of them") || !strings.Contains(text, "--desired-value 8") {
			t.Errorf("beside six vCPUs: %s", text)
		}
	}
	if q, i := c.asked("GetServiceQuota"), c.asked("DescribeInstances"); q != 1 || i != 1 {
		t.Errorf("the quota was asked for %d times, instances %d times", q, i)
	}
	// What runs on demand does not count as spot.
	if errs, _, text := c.findings(c.source("spot_price = \"auto\""), builders.CheckEnv{}); len(errs) > 0 {
		t.Errorf("as a spot instance: %s", text)
	}
	c.SetQuota(ec2.QuotaVCPUs, 8)
	c.connect()
	if errs, _, text := c.findings(c.source(""), builders.CheckEnv{}); len(errs) > 0 {
		t.Errorf("it fits: %s", text)
	}
	if _, err := c.session.EC2("").TerminateInstances(t.Context(), &ec2api.TerminateInstancesInput{InstanceIds: []string{*out.Instances[0].InstanceId}}); err != nil {
		t.Fatal(err)
	}
}

// Who may not ask for the quota hears nothing of it.
func TestPreflightWithoutTheQuota(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	c.SetQuota(ec2.QuotaVCPUs, 1)
	for _, denied := range []string{"servicequotas:GetServiceQuota", "ec2:DescribeInstances"} {
		c.connect()
		c.Deny()
		c.Deny(denied)
		c.Plan().Reset()
		errs, warnings, text := c.findings(c.source(""), builders.CheckEnv{})
		if len(errs)+len(warnings) > 0 {
			t.Errorf("without %s: %s", denied, text)
		}
		if c.asked("GetServiceQuota") != 1 || c.asked("DescribeInstances") > 1 {
			t.Errorf("without %s: %v", denied, c.Plan().Calls())
		}
	}
	// EC2 elsewhere has not the quotas of Amazon.
	c.Deny()
	t.Setenv("AWS_ENDPOINT_URL_EC2", c.URL())
	t.Setenv("AWS_ENDPOINT_URL_STS", c.URL())
	t.Setenv("AWS_ENDPOINT_URL", "")
	c.connect()
	c.Plan().Reset()
	if errs, _, text := c.findings(c.source(""), builders.CheckEnv{}); len(errs) > 0 || c.asked("GetServiceQuota")+c.asked("DescribeInstances") > 0 {
		t.Errorf("of EC2 elsewhere: %s", text)
	}
}

func TestQuotaCodes(t *testing.T) {
	for instanceType, want := range map[string][2]string{
		"t3.micro": {"L-1216C47A", "L-34B43A08"}, "im4gn.large": {"L-1216C47A", "L-34B43A08"}, "z1d.large": {"L-1216C47A", "L-34B43A08"},
		"inf2.xlarge": {"L-1945791B", "L-B5D1601B"}, "dl1.24xlarge": {"L-6E869C2A", "L-85EED4F7"}, "trn1.2xlarge": {"L-2C3B7624", "L-6B0D517C"},
		"g5.xlarge": {"L-DB2E81BA", "L-3819A6DF"}, "vt1.3xlarge": {"L-DB2E81BA", "L-3819A6DF"}, "hpc7g.4xlarge": {"L-F7808C92", ""}, "p5.48xlarge": {"L-417A185B", ""},
		"u-6tb1.metal": {}, "mac2.metal": {}, "gr6.4xlarge": {}, "": {}, "t": {},
	} {
		if got := [2]string{quotaCode(instanceType, false), quotaCode(instanceType, true)}; got != want {
			t.Errorf("%q counts towards %q, want %q", instanceType, got, want)
		}
	}
}

func TestWhatCountsTowardsTheQuota(t *testing.T) {
	instance := func(change func(*types.Instance)) types.Instance {
		i := types.Instance{InstanceType: types.InstanceTypeM5Xlarge, CpuOptions: &types.CpuOptions{CoreCount: aws.Int32(2), ThreadsPerCore: aws.Int32(2)}}
		change(&i)
		return i
	}
	for name, x := range map[string]struct {
		change func(*types.Instance)
		want   int
	}{
		"on demand":      {func(*types.Instance) {}, 4},
		"one thread":     {func(i *types.Instance) { i.CpuOptions.ThreadsPerCore = aws.Int32(1) }, 2},
		"spot":           {func(i *types.Instance) { i.InstanceLifecycle = types.InstanceLifecycleTypeSpot }, 0},
		"another family": {func(i *types.Instance) { i.InstanceType = types.InstanceTypeG4dnXlarge }, 0},
		"on a host":      {func(i *types.Instance) { i.Placement = &types.Placement{Tenancy: types.TenancyHost} }, 0},
		"nothing known":  {func(i *types.Instance) { i.CpuOptions = nil }, 0},
	} {
		if got := counted(instance(x.change), "L-1216C47A", false); got != x.want {
			t.Errorf("%s counts as %d, want %d", name, got, x.want)
		}
	}
}
