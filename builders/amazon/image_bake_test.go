//go:build linux

package amazon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// encrypt_boot takes no copy: the volumes are encrypted when they are made.
func TestEncryptedAtLaunch(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
	x := c.bake(t, "bake0000000000000011", ebsBody+`
encrypt_boot = true
no_ephemeral = true
launch_block_device_mappings {
  device_name           = "/dev/xvdb"
  volume_size           = 1
  delete_on_termination = true
}
ami_block_device_mappings {
  device_name  = "/dev/sdc"
  virtual_name = "ephemeral0"
}
`)
	x.boot(t.Context(), t)
	a, err := x.b.Snapshot(t.Context(), x.run)
	if err != nil {
		t.Fatal(err)
	}
	x.end(t)
	i, err := c.session.Images("").Get(t.Context(), a.Places[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	disks := 0
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil {
			disks++
			if !aws.ToBool(m.Ebs.Encrypted) {
				t.Errorf("%s is not encrypted", *m.DeviceName)
			}
		}
	}
	if disks != 2 || len(i.BlockDeviceMappings) != 3 {
		t.Errorf("block devices %+v", i.BlockDeviceMappings)
	}
	for _, call := range c.Plan().Calls() {
		if call.Action == "CopyImage" {
			t.Errorf("%s was called", call)
		}
	}
	if err := a.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wantNothing("Destroy")
}

// A process that dies while EC2 makes the image of the instance leaves what
// another finishes, with the ledger alone and although the instance is gone.
func TestResumeWithoutTheInstance(t *testing.T) {
	sandboxtest.Need(t)
	for _, f := range []fault.Fault{fault.CutAfter, fault.Cut} {
		t.Run(f.String(), func(t *testing.T) {
			c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
			x := c.bake(t, "bake0000000000000012", ebsBody+"ami_regions = [\"us-west-2\"]\n")
			x.boot(t.Context(), t)
			ctx, die := context.WithCancel(t.Context())
			dead := false // calls come one after another here
			c.Plan().Decide(func(call fault.Call) fault.Fault {
				if call.Action == "CreateImage" && !dead {
					dead = true
					x.leases.kill(true)
					return f
				}
				if dead {
					die()
					return fault.Cut
				}
				return fault.None
			})
			_, err := x.b.Snapshot(ctx, x.run)
			die()
			c.Plan().Decide(nil)
			if err == nil {
				t.Fatal("the dead process has finished")
			}
			x.leases.kill(false)

			other := New(c.env) // no option is decoded
			for _, l := range slices.Backward(x.leases.Open()) {
				if l.Data[builders.Resumable] == "" {
					if err := other.Release(t.Context(), l); err != nil {
						t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
					}
					_ = x.leases.Released(t.Context(), l)
				}
			}
			run := newRun(t, "bake0000000000000012", x.leases)
			a, err := other.Resume(t.Context(), run, x.leases.Open())
			if f == fault.Cut {
				if !errors.Is(err, builders.ErrImageLost) || len(x.leases.Open()) != 0 {
					t.Errorf("an image that was never begun: %v, leases %+v", err, x.leases.Open())
				}
				c.wantNothing("an image that was never begun")
				return
			}
			if err != nil || len(a.Places) != 2 || a.Values["SourceAMIOwner"] != "136693071363" || !strings.HasPrefix(a.ID, "us-east-1:ami-") {
				t.Fatalf("%+v, %v", a, err)
			}
			if left := c.temporary(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if err := a.Destroy(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.wantNothing("Destroy")
		})
	}
}

// The instance ends while its image is copied, is told so once, and its end
// is no matter of the copies'.
func TestEndsWhileCopied(t *testing.T) {
	sandboxtest.Need(t)
	for name, f := range map[string]fault.Fault{"ended": fault.None, "refused": fault.Refuse} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
			x := c.bake(t, "bake0000000000000031", ebsBody+"ami_regions = [\"us-west-2\"]\n")
			x.boot(t.Context(), t)
			told := make(chan struct{})
			var once sync.Once
			ends, copies := 0, 0
			var mu sync.Mutex
			c.Plan().Decide(func(call fault.Call) fault.Fault {
				switch call.Action {
				case "TerminateInstances":
					mu.Lock()
					ends++
					first := ends == 1
					mu.Unlock()
					once.Do(func() { close(told) })
					if first {
						return f
					}
				case "CopyImage":
					mu.Lock()
					copies++
					mu.Unlock()
					select {
					case <-told:
					case <-time.After(time.Minute):
						t.Error("the instance is not told to end before the copy is begun")
					}
				}
				return fault.None
			})
			a, err := x.b.Snapshot(t.Context(), x.run)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Places) != 2 || copies != 1 {
				t.Errorf("%d places, %d copies", len(a.Places), copies)
			}
			x.end(t)
			want := 1
			if f != fault.None {
				want = 2 // the release has done it
			}
			if ends != want {
				t.Errorf("told to end %d times, want %d", ends, want)
			}
			if left := c.temporary(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}
