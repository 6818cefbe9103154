package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/amazon"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/templates"
)

// amazonCloud is an emulated Amazon, and what a program needs to bake on it.
func amazonCloud(t testing.TB, o ec2.Options) (*ec2.Cloud, []string) {
	t.Helper()
	needSandbox(t)
	o.Dir = t.TempDir()
	c, err := ec2.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range c.Problems() {
			t.Errorf("the emulator itself: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, append(c.Env(), "INGOT_LOOPBACK_ONLY=1")
}

// program is ingot with an environment, in the root of the repository.
func program(home string, env []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(append(os.Environ(), env...), asProgram+"=1", "INGOT_HOME="+home)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func must0(t testing.TB, home string, env []string, args ...string) string {
	t.Helper()
	cmd, out := program(home, env, args...)
	if err := cmd.Run(); err != nil {
		t.Fatalf("ingot %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out.String()
}

// leftovers are what the cloud has but images and their snapshots.
func leftovers(c *ec2.Cloud) (left []string) {
	for _, x := range c.Left() {
		if x.Kind != "image" && x.Kind != "snapshot" {
			left = append(left, x.String())
		}
	}
	return left
}

// amis are the images that the cloud has, by region.
func amis(c *ec2.Cloud) map[string][]ec2.Thing {
	all := map[string][]ec2.Thing{}
	for _, x := range c.Left() {
		if x.Kind == "image" {
			all[x.Region] = append(all[x.Region], x)
		}
	}
	return all
}

// The example bakes as it stands, and its AMI is what the next bake starts from.
func TestAmazonWeb(t *testing.T) {
	if _, err := exec.LookPath("ansible-playbook"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs ansible-playbook")
		}
		t.Skip("needs ansible-playbook")
	}
	cloud, env := amazonCloud(t, ec2.Options{})
	home := t.TempDir()
	out := must0(t, home, env, "build", "-var", `accounts=["111122223333"]`, "examples/amazon-web")
	for _, want := range []string{"web: ", " passed, 0 failed", "amazon-web@v1: ", "eu-central-1: ami-", "us-east-1: ami-"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if left := leftovers(cloud); len(left) > 0 {
		t.Errorf("left in the cloud: %q", left)
	}
	for _, region := range []string{"eu-central-1", "us-east-1"} {
		images := amis(cloud)[region]
		if len(images) != 1 || images[0].State != "available" || images[0].Tags["Name"] != "amazon-web" {
			t.Fatalf("in %s there are %v", region, images)
		}
		site, err := cloud.ReadFile(region, images[0].ID, "opt/web/index.html")
		if err != nil || string(site) != "<h1>Baked by Ingot</h1>\n" {
			t.Errorf("%s has the site %q; %v", images[0].ID, site, err)
		}
		if keys, err := cloud.ReadFile(region, images[0].ID, "home/admin/.ssh/authorized_keys"); err == nil && len(bytes.TrimSpace(keys)) > 0 {
			t.Errorf("%s lets somebody in: %s", images[0].ID, keys)
		}
	}

	second := filepath.Join(t.TempDir(), "second.pkr.hcl")
	writeFiles(t, filepath.Dir(second), map[string]string{"second.pkr.hcl": `
source "amazon-ebs" "second" {
  region        = "us-east-1"
  instance_type = "t3.micro"
  ssh_username  = "admin"
  ami_name      = "second"
  source_ami_filter {
    filters     = { name = "amazon-web-*" }
    owners      = ["self"]
    most_recent = true
  }
}
build {
  sources = ["amazon-ebs.second"]
  provisioner "shell" { inline = ["grep -q 'Baked by Ingot' /opt/web/index.html", "sudo touch /opt/web/second"] }
  spec "inherited" {
    user "web" { exist = true }
    file "/etc/systemd/system/web.service" { be_file = true }
  }
}
`})
	must0(t, home, env, "build", second)
	for _, x := range amis(cloud)["us-east-1"] {
		if x.Name == "second" {
			if _, err := cloud.ReadFile("us-east-1", x.ID, "opt/web/second"); err != nil {
				t.Errorf("the second AMI: %v", err)
			}
		}
	}
	if left := leftovers(cloud); len(left) > 0 {
		t.Errorf("left in the cloud: %q", left)
	}
}

// smallAMI is a bake that makes every kind of call that a common one makes.
const smallAMI = `
variable "n" {}
source "amazon-ebs" "small" {
  region        = "us-east-1"
  instance_type = "t3.micro"
  ssh_username  = "admin"
  ami_name      = "small-${var.n}"
  ami_regions   = ["us-west-2"]
  ami_users     = ["111122223333"]
  tags          = { Base = "{{ .SourceAMI }}" }
  temporary_iam_instance_profile_policy_document {
    Version = "2012-10-17"
    Statement {
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["*"]
    }
  }
  source_ami_filter {
    filters     = { name = "debian-12-amd64-*" }
    owners      = ["136693071363"]
    most_recent = true
  }
  temporary_security_group_source_cidrs = ["127.0.0.1/32"]
}
build {
  name    = "small"
  sources = ["amazon-ebs.small"]
  provisioner "shell" { inline = ["echo ${var.n} | sudo tee /opt/small >/dev/null"] }
}
`

// point is one call of a bake: the nth to an action in a region.
type point struct {
	call string
	nth  int
}

func points(calls []fault.Call) (all []point) {
	seen := map[string]int{}
	for _, c := range calls {
		seen[c.String()]++
		all = append(all, point{c.String(), seen[c.String()]})
	}
	return all
}

// at calls f when the point is reached, with its fault.
func (p point) at(plan *fault.Plan, before func() fault.Fault, after func()) (reached func() bool) {
	var n, m atomic.Int32
	var hit atomic.Bool
	plan.Reset()
	plan.Decide(func(c fault.Call) fault.Fault {
		if c.String() == p.call && int(n.Add(1)) == p.nth {
			hit.Store(true)
			return before()
		}
		return fault.None
	})
	plan.Done(func(c fault.Call) {
		if after != nil && c.String() == p.call && int(m.Add(1)) == p.nth {
			after()
		}
	})
	return hit.Load
}

// faultBench bakes the same thing again and again, each time with one call gone wrong.
type faultBench struct {
	t     *testing.T
	cloud *ec2.Cloud
	env   []string
	file  string
	n     int
}

func newFaultBench(t *testing.T) *faultBench {
	t.Helper()
	cloud, env := amazonCloud(t, ec2.Options{})
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	file := filepath.Join(t.TempDir(), "small.pkr.hcl")
	writeFiles(t, filepath.Dir(file), map[string]string{"small.pkr.hcl": smallAMI})
	return &faultBench{t: t, cloud: cloud, env: env, file: file}
}

// outcome is what has become of one bake.
type outcome struct {
	err    error
	images int // regions that have an AMI of this bake
}

// components are those of the program, with a cloud that soon counts as silent.
func (b *faultBench) components() bake.Components {
	comps, err := components()
	if err != nil {
		b.t.Fatal(err)
	}
	shared := awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, AnswerTimeout: 2 * time.Second})
	env := amazon.NewEnv(shared)
	env.Settle = 10 * time.Millisecond
	comps.Builders["amazon-ebs"] = func() builders.Builder { return amazon.New(env) }
	return comps
}

// bake bakes in this process, sweeps, resumes, and says what there is.
func (b *faultBench) bake(ctx context.Context) outcome {
	b.t.Helper()
	b.n++
	name := fmt.Sprint(b.n)
	store, err := registry.Open(b.t.Context(), filepath.Join(b.t.TempDir(), "registry.db"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer store.Close()
	t, diags := templates.Load(templates.Options{Path: b.file, Vars: []string{"n=" + name}})
	if diags.HasErrors() {
		b.t.Fatal(diags)
	}
	plan, diags := t.Plan(templates.Selection{})
	if diags.HasErrors() {
		b.t.Fatal(diags)
	}
	comps := b.components()
	var said strings.Builder
	_, refused := bake.Check(ctx, plan, bake.CheckOptions{Components: comps})
	var o outcome
	for _, err := range refused {
		o.err = err
	}
	if o.err == nil {
		res, err := bake.Run(ctx, plan, bake.Options{Components: comps, Store: store, Refused: refused, Template: b.file,
			Events: event.Func(func(e event.Event) { fmt.Fprintln(&said, e.Kind, e.Step, e.Text, e.Error) })})
		if err != nil {
			b.t.Fatal(err)
		}
		o.err = res[0].Err
	}
	// The process is alive, so that what it has not given back is its fault.
	b.cloud.Plan().Decide(nil)
	b.cloud.Plan().Done(nil)
	return b.judge(name, o, store, &said)
}

// judge sees whether what there is fits what was said.
func (b *faultBench) judge(name string, o outcome, store registry.Store, said fmt.Stringer) outcome {
	b.t.Helper()
	complain := func(format string, args ...any) {
		b.t.Errorf(format+"\nthe bake's error: %v\n%s", append(args, o.err, said)...)
	}
	if left := leftovers(b.cloud); len(left) > 0 {
		complain("left in the cloud: %q", left)
	}
	available := map[string]bool{}
	for region, images := range amis(b.cloud) {
		for _, x := range images {
			if x.Name != "small-"+name {
				continue
			}
			if x.State != "available" {
				complain("%s", x)
			}
			available[region] = true
		}
	}
	o.images = len(available)
	recorded := 0
	if vs, err := store.Versions(b.t.Context(), "small"); err == nil {
		recorded = len(vs[len(vs)-1].Artifacts)
	} else if !errors.Is(err, registry.ErrNotFound) {
		b.t.Fatal(err)
	}
	if recorded != o.images {
		complain("%d AMIs are in the cloud, and %d in the registry", o.images, recorded)
	}
	leases, err := store.OpenLeases(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, l := range leases {
		complain("in the ledger: %s %s", l.Kind, l.Name)
	}
	return o
}

// Every call of a bake goes wrong in every way. Whatever becomes of the bake,
// nothing temporary is left, and what is finished is known.
func TestAmazonFaults(t *testing.T) {
	b := newFaultBench(t)
	if o := b.bake(t.Context()); o.err != nil || o.images != 2 {
		t.Fatalf("without a fault: %+v", o)
	}
	b.cloud.Plan().Reset()
	if o := b.bake(t.Context()); o.err != nil {
		t.Fatal(o.err)
	}
	calls := points(b.cloud.Plan().Calls())
	tried, failed := 0, 0
	for _, p := range calls {
		for _, f := range fault.All() {
			reached := p.at(b.cloud.Plan(), func() fault.Fault { return f }, nil)
			o := b.bake(t.Context())
			if !reached() {
				continue // an order that is left to chance
			}
			tried++
			if o.err != nil {
				failed++
			}
			if f != fault.Refuse && o.err != nil {
				t.Errorf("%s, %s #%d: one fault that can be healed ends the bake: %v", f, p.call, p.nth, o.err)
			}
			if t.Failed() {
				t.Fatalf("at %s of call %s #%d", f, p.call, p.nth)
			}
		}
	}
	t.Logf("%d points: each of %d calls gone wrong in %d ways; %d bakes failed by it, and nothing was left", tried, len(calls), len(fault.All()), failed)
}

// Ctrl-C before and after each call: everything is given back.
func TestAmazonInterrupts(t *testing.T) {
	b := newFaultBench(t)
	b.cloud.Plan().Reset()
	if o := b.bake(t.Context()); o.err != nil {
		t.Fatal(o.err)
	}
	tried := 0
	for _, p := range points(b.cloud.Plan().Calls()) {
		for _, late := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			stop := func() { cancel() }
			before := func() fault.Fault {
				if !late {
					stop()
				}
				return fault.None
			}
			if !late {
				stop = cancel
			}
			reached := p.at(b.cloud.Plan(), before, func() {
				if late {
					cancel()
				}
			})
			o := b.bake(ctx)
			cancel()
			if reached() {
				tried++
			}
			// After the last region is settled there is nothing to cancel any more.
			if t.Failed() {
				t.Fatalf("interrupted at call %s #%d, late %v: %+v", p.call, p.nth, late, o)
			}
		}
	}
	t.Logf("%d points: interrupted before and after every call, and nothing was left", tried)
}

var resumeID = regexp.MustCompile("ingot resume ([0-9a-f]+)")

// kill -9 before and after each call: sweep gives back what is temporary, and
// resume finishes the image that was begun.
func TestAmazonKills(t *testing.T) {
	b := newFaultBench(t)
	run := func(home, n string, args ...string) (string, error) {
		cmd, out := program(home, b.env, args...)
		err := cmd.Run()
		return out.String(), err
	}
	home := t.TempDir()
	b.cloud.Plan().Reset()
	if out, err := run(home, "", "build", "-var", "n=first", b.file); err != nil {
		t.Fatal(err, out)
	}
	calls := points(b.cloud.Plan().Calls())
	tried, resumed := 0, 0
	for i, p := range calls {
		for _, late := range []bool{false, true} {
			name := fmt.Sprintf("k%d%v", i, late)
			home := t.TempDir()
			cmd, out := program(home, b.env, "build", "-var", "n="+name, b.file)
			kill := func() { _ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL) }
			begun := atomic.Bool{} // the first image is being made
			reached := p.at(b.cloud.Plan(), func() fault.Fault {
				if !late {
					kill()
					return fault.Cut
				}
				return fault.None
			}, func() {
				if late {
					kill()
				}
			})
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			for _, c := range b.cloud.Plan().Calls() {
				if c.Action == "CreateImage" && (late || c.String() != p.call) {
					begun.Store(true)
				}
			}
			b.cloud.Plan().Decide(nil)
			b.cloud.Plan().Done(nil)
			if !reached() {
				continue
			}
			tried++
			said := &strings.Builder{}
			fmt.Fprintln(said, out)
			swept, serr := run(home, "", "sweep")
			fmt.Fprintln(said, swept)
			rout, rerr := run(home, "", "resume")
			fmt.Fprintln(said, rout)
			if !strings.Contains(rout, "Nothing to resume") {
				resumed++
			}
			store, oerr := registry.Open(t.Context(), filepath.Join(home, "registry.db"))
			if oerr != nil {
				t.Fatal(oerr)
			}
			o := b.judge(name, outcome{err: errors.Join(err, serr)}, store, said)
			store.Close()
			if serr != nil {
				t.Errorf("sweep: %v\n%s", serr, said)
			}
			if begun.Load() && (o.images != 2 || rerr != nil) {
				t.Errorf("the image had been begun, and %d regions have it; resume: %v\n%s", o.images, rerr, said)
			}
			if t.Failed() {
				t.Fatalf("killed at call %s #%d, late %v", p.call, p.nth, late)
			}
		}
	}
	t.Logf("%d points: killed before and after every call; sweep left nothing, and %d images were finished by resume", tried, resumed)
}

// A runner that vanished with its ledger leaves what the tags tell.
func TestAmazonSweepBySource(t *testing.T) {
	b := newFaultBench(t)
	p := point{"ec2 CreateImage in us-east-1", 1}
	cmd, out := program(t.TempDir(), b.env, "build", "-var", "n=lost", b.file)
	reached := p.at(b.cloud.Plan(), func() fault.Fault {
		_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
		return fault.Cut
	}, nil)
	if err := cmd.Run(); err == nil || !reached() {
		t.Fatalf("not killed: %v\n%s", err, out)
	}
	b.cloud.Plan().Decide(nil)
	if left := leftovers(b.cloud); !slices.ContainsFunc(left, func(s string) bool { return strings.HasPrefix(s, "instance ") }) {
		t.Fatalf("left in the cloud: %q", left)
	}
	elsewhere := t.TempDir()
	args := []string{"sweep", "-source", "amazon-ebs.small", "-var", "n=x"}
	if said := must0(t, elsewhere, b.env, append(args, "-older-than", "2h", b.file)...); !strings.Contains(said, "Nothing to sweep") {
		t.Errorf("what is young was swept:\n%s", said)
	}
	if said := must0(t, elsewhere, b.env, append(args, "-older-than", "1ms", "-dry-run", b.file)...); !strings.Contains(said, "would give back instance") {
		t.Errorf("the dry run says\n%s", said)
	}
	said := must0(t, elsewhere, b.env, append(args, "-older-than", "1ms", b.file)...)
	if left := leftovers(b.cloud); len(left) > 0 {
		t.Errorf("left in the cloud: %q after\n%s", left, said)
	}
}
