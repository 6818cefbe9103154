package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	return c, append(c.Env(), "INGOT_EMULATED_CLOUD=50")
}

// ingotIn is ingot with an environment, in the root of the repository.
func ingotIn(home string, env []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(append(os.Environ(), env...), asProgram+"=1", "INGOT_HOME="+home)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func ingotDone(t testing.TB, home string, env []string, args ...string) string {
	t.Helper()
	cmd, out := ingotIn(home, env, args...)
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
	out := ingotDone(t, home, env, "build", "-var", `accounts=["111122223333"]`, "examples/amazon-web")
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
	ingotDone(t, home, env, "build", second)
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
variable "profile" {}
source "amazon-ebs" "small" {
  profile       = var.profile
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
	t       *testing.T
	cloud   *ec2.Cloud
	profile string
	env     []string
	file    string
	n       int
}

// benches is how many bakes go wrong at the same time: each mostly waits.
const benches = 4

// onBenches hands the points of a bake to benches, each with a cloud of its own.
func onBenches(t *testing.T, ways func(point) int, f func(b *faultBench, p point, way int)) {
	var all []*faultBench
	var profiles strings.Builder
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"small.pkr.hcl": smallAMI})
	for i := range benches {
		b := &faultBench{t: t, profile: fmt.Sprintf("cloud%d", i), file: filepath.Join(dir, "small.pkr.hcl")}
		b.cloud, b.env = amazonCloud(t, ec2.Options{})
		b.env = append(b.env, "AWS_ENDPOINT_URL=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_REGION=", "AWS_DEFAULT_REGION=", "AWS_CONFIG_FILE="+filepath.Join(dir, "config"))
		fmt.Fprintf(&profiles, "[profile %s]\nregion = us-east-1\nendpoint_url = %s\naws_access_key_id = %s\naws_secret_access_key = %s\n", b.profile, b.cloud.URL(), ec2.AccessKey, ec2.SecretKey)
		all = append(all, b)
	}
	writeFiles(t, dir, map[string]string{"config": profiles.String()})
	for _, kv := range all[0].env {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	first := all[0]
	if o := first.bake(t.Context()); o.err != nil || o.images != 2 {
		t.Fatalf("without a fault: %+v", o)
	}
	first.cloud.Plan().Reset()
	if o := first.bake(t.Context()); o.err != nil {
		t.Fatal(o.err)
	}
	type job struct {
		point
		way int
	}
	var jobs []job
	for _, p := range points(first.cloud.Plan().Calls()) {
		for way := range ways(p) {
			jobs = append(jobs, job{p, way})
		}
	}
	next := make(chan job, len(jobs))
	for _, j := range jobs {
		next <- j
	}
	close(next)
	t.Run("benches", func(t *testing.T) {
		for _, b := range all {
			t.Run(b.profile, func(t *testing.T) {
				t.Parallel()
				b.t = t
				for j := range next {
					f(b, j.point, j.way)
					if t.Failed() {
						t.Fatalf("at call %s #%d, way %d", j.call, j.nth, j.way)
					}
				}
			})
		}
	})
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
	shared := awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, AnswerTimeout: time.Second, Speed: 50})
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
	t, diags := templates.Load(templates.Options{Path: b.file, Vars: []string{"n=" + name, "profile=" + b.profile}})
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
	b.cloud.Plan().Decide(nil)
	b.cloud.Plan().Done(nil)
	b.cleanUp(store, comps)
	return b.judge(name, o, store, &said)
}

// cleanUp does what the error of a bake says to do: it sweeps what could not be
// given back, and resumes what is unfinished.
func (b *faultBench) cleanUp(store registry.Store, comps bake.Components) {
	b.t.Helper()
	ctx := b.t.Context()
	open, err := store.OpenBakes(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, k := range open { // as if this process had ended
		dead := k.Owner
		dead.PID, dead.StartTicks = 1, 1
		if err := store.AdoptBake(ctx, k.ID, k.Owner, dead); err != nil {
			b.t.Fatal(err)
		}
	}
	if _, err := bake.Sweep(ctx, bake.SweepOptions{Components: comps, Store: store, Events: event.Discard}); err != nil {
		b.t.Errorf("sweep: %v", err)
	}
	unfinished, err := bake.Unfinished(ctx, store)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, u := range unfinished {
		if res := bake.Resume(ctx, u, bake.ResumeOptions{Components: comps, Store: store}); res.Err != nil {
			b.t.Errorf("resume: %v", res.Err)
		}
	}
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

// looks says of a call that it changes nothing, so that its answer is all that
// can be lost.
func (p point) looks() bool {
	return strings.Contains(p.call, " Describe") || strings.Contains(p.call, " Get")
}

// Every call of a bake goes wrong in every way. Whatever becomes of the bake,
// nothing temporary is left, and what is finished is known.
func TestAmazonFaults(t *testing.T) {
	faults := func(p point) []fault.Fault {
		if p.looks() {
			return []fault.Fault{fault.Refuse, fault.Throttle, fault.Hang}
		}
		return []fault.Fault{fault.Refuse, fault.Fail, fault.Throttle, fault.CutAfter, fault.HangAfter}
	}
	var tried, failed atomic.Int32
	onBenches(t, func(p point) int { return len(faults(p)) }, func(b *faultBench, p point, way int) {
		f := faults(p)[way]
		reached := p.at(b.cloud.Plan(), func() fault.Fault { return f }, nil)
		o := b.bake(b.t.Context())
		if !reached() {
			return // the order is left to chance
		}
		tried.Add(1)
		if o.err != nil {
			failed.Add(1)
		}
		if f != fault.Refuse && o.err != nil {
			b.t.Errorf("%s: one fault that can be healed ends the bake: %v", f, o.err)
		}
	})
	t.Logf("%d points: every call refused, failed, throttled, cut off and unanswered; %d bakes failed by it, and nothing was left", tried.Load(), failed.Load())
}

// Ctrl-C before and after each call: everything is given back.
func TestAmazonInterrupts(t *testing.T) {
	var tried atomic.Int32
	onBenches(t, func(point) int { return 2 }, func(b *faultBench, p point, way int) {
		ctx, cancel := context.WithCancel(b.t.Context())
		defer cancel()
		reached := p.at(b.cloud.Plan(), func() fault.Fault {
			if way == 0 {
				cancel()
			}
			return fault.None
		}, func() {
			if way == 1 {
				cancel()
			}
		})
		b.bake(ctx)
		if reached() {
			tried.Add(1)
		}
	})
	t.Logf("%d points: interrupted before and after every call, and nothing was left", tried.Load())
}

// kill -9 before and after each call: sweep gives back what is temporary, and
// resume finishes the image that was begun.
func TestAmazonKills(t *testing.T) {
	var tried, resumed atomic.Int32
	onBenches(t, func(point) int { return 2 }, func(b *faultBench, p point, late int) {
		b.n++
		name := fmt.Sprintf("k%d", b.n)
		home := b.t.TempDir()
		cmd, out := ingotIn(home, b.env, "build", "-var", "n="+name, "-var", "profile="+b.profile, b.file)
		kill := func() { _ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL) }
		var begun atomic.Bool // the image
		reached := p.at(b.cloud.Plan(), func() fault.Fault {
			if late == 0 {
				kill()
				return fault.Cut
			}
			return fault.None
		}, func() {
			if late == 1 {
				kill()
			}
		})
		if err := cmd.Run(); err == nil && reached() {
			return // it had done all that it had to
		}
		b.cloud.Plan().Decide(nil)
		b.cloud.Plan().Done(nil)
		begun.Store(len(imagesNamed(b.cloud, "small-"+name)) > 0)
		if !reached() {
			return
		}
		tried.Add(1)
		said := &strings.Builder{}
		fmt.Fprintln(said, out)
		run := func(verb string) (string, error) {
			cmd, out := ingotIn(home, b.env, verb)
			err := cmd.Run()
			fmt.Fprintln(said, out)
			return out.String(), err
		}
		_, serr := run("sweep")
		rout, rerr := run("resume")
		if !strings.Contains(rout, "Nothing to resume") {
			resumed.Add(1)
		}
		store, err := registry.Open(b.t.Context(), filepath.Join(home, "registry.db"))
		if err != nil {
			b.t.Fatal(err)
		}
		defer store.Close()
		o := b.judge(name, outcome{err: serr}, store, said)
		if serr != nil || begun.Load() && (o.images != 2 || rerr != nil) {
			b.t.Errorf("begun: %v, and %d regions have the image; sweep: %v, resume: %v\n%s", begun.Load(), o.images, serr, rerr, said)
		}
	})
	t.Logf("%d points: killed before and after every call; sweep left nothing, and %d images were finished by resume", tried.Load(), resumed.Load())
}

func imagesNamed(c *ec2.Cloud, name string) (all []ec2.Thing) {
	for _, x := range c.Left() {
		if x.Kind == "image" && x.Name == name {
			all = append(all, x)
		}
	}
	return all
}

// A runner that vanished with its ledger leaves what the tags tell.
func TestAmazonSweepBySource(t *testing.T) {
	cloud, env := amazonCloud(t, ec2.Options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "small.pkr.hcl")
	writeFiles(t, dir, map[string]string{"small.pkr.hcl": smallAMI})
	p := point{"ec2 CreateImage in us-east-1", 2} // the first is a dry run
	cmd, out := ingotIn(t.TempDir(), env, "build", "-var", "n=lost", "-var", "profile=", file)
	reached := p.at(cloud.Plan(), func() fault.Fault {
		_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
		return fault.Cut
	}, nil)
	if err := cmd.Run(); err == nil || !reached() {
		t.Fatalf("not killed: %v\n%s", err, out)
	}
	cloud.Plan().Decide(nil)
	if left := leftovers(cloud); !slices.ContainsFunc(left, func(s string) bool { return strings.HasPrefix(s, "instance ") }) {
		t.Fatalf("left in the cloud: %q", left)
	}
	elsewhere := t.TempDir()
	args := []string{"sweep", "-source", "amazon-ebs.small", "-var", "n=x", "-var", "profile="}
	if said := ingotDone(t, elsewhere, env, append(args, "-older-than", "2h", file)...); !strings.Contains(said, "Nothing to sweep") {
		t.Errorf("what is young was swept:\n%s", said)
	}
	if said := ingotDone(t, elsewhere, env, append(args, "-older-than", "1ms", "-dry-run", file)...); !strings.Contains(said, "would give back instance") {
		t.Errorf("the dry run says\n%s", said)
	}
	said := ingotDone(t, elsewhere, env, append(args, "-older-than", "1ms", file)...)
	if left := leftovers(cloud); len(left) > 0 {
		t.Errorf("left in the cloud: %q after\n%s", left, said)
	}
}
