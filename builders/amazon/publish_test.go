package amazon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
)

// shown is what others can see of the images web-1, and can count on.
func (c *cloud) shown() (all []string) {
	c.t.Helper()
	for _, r := range testRegions {
		add := func(format string, args ...any) { all = append(all, r+": "+fmt.Sprintf(format, args...)) }
		if p, err := parameter(c.t.Context(), c.session.SSM(r), "/images/web"); err != nil {
			c.t.Fatal(err)
		} else if p != nil {
			add("parameter")
		}
		i, ok := c.own(r)["web-1"]
		if !ok {
			continue
		}
		perms, err := c.session.EC2(r).DescribeImageAttribute(c.t.Context(), &ec2api.DescribeImageAttributeInput{ImageId: i.ImageId, Attribute: types.ImageAttributeNameLaunchPermission})
		if err != nil {
			c.t.Fatal(err)
		}
		if n := len(perms.LaunchPermissions); n > 0 {
			add("%d launch permissions", n)
		}
		for _, snap := range snapshotsOf(i) {
			attr, err := c.session.EC2(r).DescribeSnapshotAttribute(c.t.Context(), &ec2api.DescribeSnapshotAttributeInput{SnapshotId: &snap, Attribute: types.SnapshotAttributeNameCreateVolumePermission})
			if err != nil {
				c.t.Fatal(err)
			}
			if n := len(attr.CreateVolumePermissions); n > 0 {
				add("%d permissions of the snapshot", n)
			}
		}
		if aws.ToString(i.DeprecationTime) != "" {
			add("deprecated")
		}
		if p := aws.ToString(i.DeregistrationProtection); p != "" && p != "disabled" {
			add("protected")
		}
	}
	return all
}

// shownIn is what shown gives for regions where all is done.
func shownIn(regions ...string) (all []string) {
	for _, r := range regions {
		for _, what := range []string{"parameter", "2 launch permissions", "1 permissions of the snapshot", "deprecated", "protected"} {
			all = append(all, r+": "+what)
		}
	}
	return all
}

func (c *cloud) unproven(t *testing.T, m *memory, body string) (*builders.Run, *builders.Artifact) {
	t.Helper()
	run := newRun(t, m.bake, m)
	run.Unproven = true
	a, err := MakeImage(t.Context(), run, c.order(m.bake, body, false))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.shown(); len(got) > 0 {
		t.Fatalf("before it is proven others see %q", got)
	}
	return run, a
}

// A red proof leaves nothing that anybody has seen; after a green one all is as
// if there had been no proof.
func TestPublish(t *testing.T) {
	for _, more := range []string{"", "skip_save_build_region = true\n"} {
		c := newCloud(t, ec2.Options{})
		m := &memory{bake: "red"}
		_, a := c.unproven(t, m, threeRegions+more)
		for _, p := range a.Places { // a machine of it is as later ones are
			if i := c.own(p.Region)["web-1"]; i.ImdsSupport != types.ImdsSupportValuesV20 || tagMap(i.Tags)["Base"] != *c.base.ImageId {
				t.Errorf("%s before the proof: %+v", p.Region, i)
			}
		}
		c.release(m)
		if got := c.shown(); len(got) > 0 {
			t.Errorf("after a red proof there is %q", got)
		}

		m = &memory{bake: "green"}
		run, a := c.unproven(t, m, threeRegions+more)
		run.Unproven = false
		c.Plan().Reset()
		b, err := PublishImage(t.Context(), c.env, c.session, run, a)
		if err != nil || b.ID != a.ID || b.Text != a.Text || b.Parent != a.Parent || b.Values["SourceAMIName"] != a.Values["SourceAMIName"] || !slices.Equal(b.Places, a.Places) {
			t.Fatalf("published: %+v, %v; before %+v", b, err, a)
		}
		var regions []string
		for _, r := range testRegions {
			if more == "" || r != testRegions[0] {
				regions = append(regions, r)
			}
		}
		if got, want := c.shown(), shownIn(regions...); !slices.Equal(got, want) {
			t.Errorf("others see %q, want %q", got, want)
		}
		for _, call := range c.Plan().Calls() {
			if call.Action == "CopyImage" || call.Action == "RegisterImage" {
				t.Errorf("publishing calls %s", call)
			}
		}
		c.release(m)
		if got := c.shown(); len(got) > 0 {
			t.Errorf("after a failure that follows there is %q", got)
		}
	}
}

// keep_partial leaves out the region that cannot be shared, also that late.
func TestPublishPartly(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	m := &memory{bake: "b1"}
	run, a := c.unproven(t, m, threeRegions+"keep_partial = true\n")
	c.Plan().Decide(func(call fault.Call) fault.Fault {
		if call.Action == "PutParameter" && call.Region == "us-west-2" {
			return fault.Refuse
		}
		return fault.None
	})
	run.Unproven = false
	b, err := PublishImage(t.Context(), c.env, c.session, run, a)
	c.Plan().Decide(nil)
	if err != nil || len(b.Places) != 2 || strings.Contains(b.ID, "us-west-2") {
		t.Fatalf("published: %+v, %v", b, err)
	}
	if _, ok := c.own("us-west-2")["web-1"]; ok {
		t.Error("the AMI of the region that was left out is there")
	}
	c.release(m)
	c.wantNothing("the release")
}

// Each call of publishing goes wrong, or is where the process dies: what is not
// refused is finished by a resume, and what is refused is taken back.
func TestEveryFaultOfPublish(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	body := strings.Replace(threeRegions, `["us-west-2", "eu-central-1"]`, `["us-west-2"]`, 1)
	publish := func(m *memory, faulty func(fault.Call) fault.Fault) error {
		run, a := c.unproven(t, m, body)
		run.Unproven = false
		c.Plan().Reset()
		c.Plan().Decide(faulty)
		_, err := PublishImage(t.Context(), c.env, c.session, run, a)
		c.Plan().Decide(nil)
		return err
	}
	m := &memory{bake: "f0"}
	if err := publish(m, nil); err != nil {
		t.Fatal(err)
	}
	calls := c.Plan().Calls()
	c.release(m)
	seen := map[string]bool{}
	outcomes := map[string]int{}
	n := 0
	for _, call := range calls {
		for _, f := range fault.Sample(call.N, []fault.Fault{fault.Refuse, fault.Cut, fault.CutAfter}) {
			key := call.Action + " " + call.Region + " " + f.String()
			if seen[key] {
				continue
			}
			seen[key] = true
			n++
			m := &memory{bake: fmt.Sprintf("f%d", n)}
			c.connect()
			err := publish(m, func(x fault.Call) fault.Fault {
				if x.Action == call.Action && x.Region == call.Region {
					return f
				}
				return fault.None
			})
			switch {
			case err == nil:
				outcomes["published"]++
			case errors.Is(err, builders.ErrUnfinished):
				outcomes["unfinished"]++
				// What guards a parameter alone is given back meanwhile, as the engine does.
				for _, l := range slices.Backward(m.Open()) {
					if l.Data[builders.Resumable] == "" {
						if err := errors.Join(c.releaseOne(context.Background(), l), m.Released(context.Background(), l)); err != nil {
							t.Fatal(err)
						}
					}
				}
				// Without a proof it would stay as far as it is.
				if a, err := ResumeImage(t.Context(), c.env, newRun(t, m.bake, m), m.Open()); err != nil || len(a.Places) != 2 {
					t.Fatalf("%s: resumed: %+v, %v", key, a, err)
				}
			default:
				outcomes["failed"]++
				if f != fault.Refuse {
					t.Errorf("%s: %v", key, err)
				}
			}
			if err == nil || errors.Is(err, builders.ErrUnfinished) {
				if got, want := c.shown(), shownIn(testRegions[:2]...); !slices.Equal(got, want) {
					t.Fatalf("%s: others see %q, want %q", key, got, want)
				}
			}
			c.release(m)
			if got := c.shown(); len(got) > 0 {
				t.Fatalf("%s: after all is given back there is %q", key, got)
			}
			c.clearSnapshots()
		}
	}
	if outcomes["failed"] == 0 || outcomes["unfinished"] == 0 {
		t.Errorf("%d faults: %v", n, outcomes)
	}
	t.Logf("%d faults: %v", n, outcomes)
}

// A resume without a proof shows nothing.
func TestResumeUnproven(t *testing.T) {
	c := newCloud(t, ec2.Options{})
	m := &memory{bake: "b1"}
	run, _ := c.unproven(t, m, threeRegions)
	a, err := ResumeImage(t.Context(), c.env, run, m.Open())
	if err != nil || len(a.Places) != 3 {
		t.Fatalf("resumed: %+v, %v", a, err)
	}
	if got := c.shown(); len(got) > 0 {
		t.Errorf("others see %q", got)
	}
	c.release(m)
	c.wantNothing("the release")
}
