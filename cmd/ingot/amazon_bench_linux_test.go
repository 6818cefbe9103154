package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/amazon"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/templates"
)

var faster = flag.Float64("faster", 10, "how much faster than a real one the emulated cloud of BenchmarkAmazonOverhead is; 1: real pace")

// benchDurations are how long the emulated cloud takes for what a bake waits for.
func benchDurations() ec2.Durations {
	const s = time.Second
	return ec2.Durations{Running: 8 * s, SSH: 3 * s, Stopped: 10 * s, Image: 20 * s, Copy: 15 * s, Terminated: 10 * s, Detached: s}
}

// overhead is what bakes of one run came to.
type overhead struct {
	path, took []float64            // seconds, for each bake
	gaps       map[string][]float64 // seconds between two phases of the cloud's
	calls      map[string]int
	load       string
	// ours and theirs are the processor time of this process, emulator and all, and
	// of the machines, which in a real cloud have processors of their own.
	ours, theirs float64
}

// BenchmarkAmazonOverhead says what a bake on Amazon takes beyond its critical
// path: what the emulated cloud itself takes, and the machines behind it, one
// after another. "first" knows nothing of how long the cloud takes; "later" has
// the timings that one run, and then two, have left.
func BenchmarkAmazonOverhead(b *testing.B) {
	for _, n := range []int{1, 50} {
		b.Run(fmt.Sprintf("bakes=%d", n), func(b *testing.B) {
			file := filepath.Join(b.TempDir(), "bench.pkr.hcl")
			if err := os.WriteFile(file, []byte(benchTemplate(n, "")), 0o600); err != nil {
				b.Fatal(err)
			}
			all := map[string][]*overhead{}
			if limit := loginsAtOnce(b, n); limit > 0 {
				b.Logf("OpenSSH logs in to %d such machines at once, and becomes root, in %.2f s", n, limit)
			}
			for b.Loop() {
				timings := filepath.Join(b.TempDir(), fmt.Sprintf("timings%d.json", len(all["first"])))
				for _, way := range []string{"first", "later", "later"} {
					all[way] = append(all[way], bakeOverhead(b, file, n, timings))
				}
				if o := packerOverhead(b, n); o != nil {
					all["packer"] = append(all["packer"], o)
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, way := range slices.Sorted(maps.Keys(all)) {
				reportOverhead(b, way, all[way], n)
			}
		})
	}
}

// benchTemplate has n sources. endpoint, if any, is for a Packer, whose plugin does
// not take it from the environment.
func benchTemplate(n int, endpoint string) string {
	var s strings.Builder
	if endpoint != "" {
		endpoint = fmt.Sprintf("\n  custom_endpoint_ec2 = %q", endpoint)
	}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%q", fmt.Sprintf("source.amazon-ebs.s%d", i)))
		fmt.Fprintf(&s, `
source "amazon-ebs" "s%d" {
  region        = "us-east-1"%s
  instance_type = "t3.micro"
  ssh_username  = "admin"
  ami_name      = "bench-%d-{{timestamp}}"
  ami_regions   = ["us-west-2"]
  source_ami_filter {
    filters     = { name = "debian-12-amd64-*" }
    owners      = ["136693071363"]
    most_recent = true
  }
  temporary_security_group_source_cidrs = ["127.0.0.1/32"]
}
`, i, endpoint, i)
	}
	return s.String() + `
build {
  name    = "bench"
  sources = [` + strings.Join(names, ", ") + `]
  provisioner "shell" { inline = ["true"] }
}
`
}

// benchCloud is a cloud of its own for each run, so that none finds what another has left.
func benchCloud(b *testing.B) *ec2.Cloud {
	c, env := amazonCloud(b, ec2.Options{Durations: benchDurations(), Speed: *faster})
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		b.Setenv(k, v)
	}
	return c
}

// bakeOverhead bakes once, from the reading of the template on.
func bakeOverhead(b *testing.B, file string, n int, timings string) *overhead {
	b.Helper()
	cloud := benchCloud(b)
	store, err := registry.Open(b.Context(), filepath.Join(b.TempDir(), fmt.Sprintf("registry%d.db", time.Now().UnixNano())))
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	env := amazon.NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, Speed: *faster, TimingsFile: timings}))
	comps, err := components()
	if err != nil {
		b.Fatal(err)
	}
	comps.Builders["amazon-ebs"] = func() builders.Builder { return amazon.New(env) }
	var mu sync.Mutex
	ended := map[string]time.Time{} // by source
	o := &overhead{load: loadNow(), gaps: map[string][]float64{}, calls: map[string]int{}}

	ours, theirs := processorTime(unix.RUSAGE_SELF), processorTime(unix.RUSAGE_CHILDREN)
	start := time.Now()
	t, diags := templates.Load(templates.Options{Path: file})
	if diags.HasErrors() {
		b.Fatal(diags)
	}
	plan, diags := t.Plan(templates.Selection{})
	if diags.HasErrors() {
		b.Fatal(diags)
	}
	ctx := context.WithoutCancel(b.Context())
	if diags, refused := bake.Check(ctx, plan, bake.CheckOptions{Components: comps}); len(refused) > 0 {
		b.Fatal(diags)
	}
	res, err := bake.Run(ctx, plan, bake.Options{Components: comps, Store: store, Template: file, Events: event.Func(func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case e.Kind == event.StepEnded && e.Step == "release":
			o.gaps["(release)"] = append(o.gaps["(release)"], e.Seconds)
		case e.Kind == event.BakeEnded:
			ended[e.Bake[strings.LastIndex(e.Bake, "amazon-ebs."):]] = time.Now()
		}
	})})
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range res {
		if r.Err != nil {
			b.Fatalf("%s: %v", r.Name, r.Err)
		}
	}
	o.measure(b, cloud, start, n, func(source string) time.Time { return ended[source] })
	if left := leftovers(cloud); len(left) > 0 {
		b.Errorf("left in the cloud: %q", left)
	}
	if err := cloud.Close(); err != nil {
		b.Error(err)
	}
	o.ours, o.theirs = processorTime(unix.RUSAGE_SELF)-ours, processorTime(unix.RUSAGE_CHILDREN)-theirs
	return o
}

// processorTime is what this process, or its children that have ended, have used.
func processorTime(who int) float64 {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

func loadNow() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	load, _, _ := strings.Cut(string(text), " ")
	return load
}

// measure takes the bakes apart by what the cloud did.
func (o *overhead) measure(b *testing.B, cloud *ec2.Cloud, start time.Time, n int, ended func(source string) time.Time) {
	b.Helper()
	for _, c := range cloud.Plan().Calls() {
		o.calls[c.Service+" "+c.Action]++
	}
	sources := map[string]string{} // of a bake
	bakes := map[string]map[string]ec2.Phase{}
	for _, p := range cloud.Phases() {
		id := p.Tags["ingot:build"]
		if s := p.Tags["ingot:source"]; s != "" {
			sources[id] = s
		}
		if bakes[id] == nil {
			bakes[id] = map[string]ec2.Phase{}
		}
		bakes[id][p.What] = p
	}
	if len(bakes) != n {
		b.Fatalf("the cloud has seen %d bakes, not %d", len(bakes), n)
	}
	for id, p := range bakes {
		long := func(what string) float64 {
			if p[what].Ended.IsZero() {
				b.Fatalf("bake %s: the cloud has not ended its %q", id, what)
			}
			return p[what].Ended.Sub(p[what].Began).Seconds()
		}
		end := ended(sources[id])
		// The instance is not needed any more when the first image is there.
		o.path = append(o.path, long("boot")+long("stop")+long("image")+max(long("copy"), long("terminate")))
		o.took = append(o.took, end.Sub(start).Seconds())
		gap := func(name string, from, to time.Time) { o.gaps[name] = append(o.gaps[name], to.Sub(from).Seconds()) }
		gap("1 begin to launch", start, p["boot"].Began)
		gap("2 ports answer to stop", p["boot"].Ended, p["stop"].Began)
		gap("3 stopped to image", p["stop"].Ended, p["image"].Began)
		gap("4 image to copy", p["image"].Ended, p["copy"].Began)
		gap("5 copy to end", p["copy"].Ended, end)
		gap("(image to terminate)", p["image"].Ended, p["terminate"].Began)
	}
}

func middle(list []float64) float64 {
	w := way{took: list}
	return w.median()
}

func reportOverhead(b *testing.B, name string, runs []*overhead, n int) {
	b.Helper()
	var whole, calls []float64
	for i, r := range runs {
		whole = append(whole, 100*(slices.Max(r.took)/slices.Max(r.path)-1))
		total := 0
		for _, c := range r.calls {
			total += c
		}
		calls = append(calls, float64(total)/float64(n))
		b.Logf("%s, run %d, %g times as fast, load %s: critical path %.2f s, bake %.2f s (to %.2f); processor time %.1f s here, %.1f s in the machines; %d calls: %v",
			name, i+1, *faster, r.load, middle(r.path), middle(r.took), slices.Max(r.took), r.ours, r.theirs, total, r.calls)
		for _, g := range slices.Sorted(maps.Keys(r.gaps)) {
			b.Logf("    %-24s median %6.3f s (%.3f to %.3f)", g, middle(r.gaps[g]), slices.Min(r.gaps[g]), slices.Max(r.gaps[g]))
		}
	}
	b.ReportMetric(middle(whole), name+"-overhead-%") // of the last bake: they become one version
	b.ReportMetric(middle(calls), name+"-calls/bake")
}

// loginsAtOnce is how many seconds OpenSSH takes to run one command and become
// root on n new machines of the emulated cloud at once: what no bake of so many
// can do without here, where their processors are ours. 0: there is no ssh.
func loginsAtOnce(b *testing.B, n int) float64 {
	b.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		return 0
	}
	cloud := benchCloud(b)
	defer cloud.Close()
	ctx := b.Context()
	conf, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion("us-east-1"))
	if err != nil {
		b.Fatal(err)
	}
	c := ec2api.NewFromConfig(conf)
	key := filepath.Join(b.TempDir(), "key")
	must(b, exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key))
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		b.Fatal(err)
	}
	images, err := c.DescribeImages(ctx, &ec2api.DescribeImagesInput{Owners: []string{"136693071363"}})
	if err != nil || len(images.Images) == 0 {
		b.Fatalf("the image to launch: %+v, %v", images, err)
	}
	groups, err := c.DescribeSecurityGroups(ctx, &ec2api.DescribeSecurityGroupsInput{})
	if err != nil || len(groups.SecurityGroups) == 0 {
		b.Fatalf("the default group: %+v, %v", groups, err)
	}
	group := groups.SecurityGroups[0].GroupId
	_, err = c.AuthorizeSecurityGroupIngress(ctx, &ec2api.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1/32")}},
	}}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.ImportKeyPair(ctx, &ec2api.ImportKeyPairInput{KeyName: aws.String("bench"), PublicKeyMaterial: public}); err != nil {
		b.Fatal(err)
	}
	var run *ec2api.RunInstancesOutput
	for run == nil { // until the key pair is known
		run, err = c.RunInstances(ctx, &ec2api.RunInstancesInput{ImageId: images.Images[0].ImageId, InstanceType: types.InstanceTypeT3Micro, KeyName: aws.String("bench"),
			MinCount: aws.Int32(int32(n)), MaxCount: aws.Int32(int32(n)), SecurityGroupIds: []string{*group}})
		if err != nil && !awscloud.IsNotFound(err) {
			b.Fatal(err)
		}
	}
	var ids, addrs []string
	for _, i := range run.Instances {
		ids = append(ids, *i.InstanceId)
	}
	if err := ec2api.NewInstanceRunningWaiter(c, func(o *ec2api.InstanceRunningWaiterOptions) { o.MinDelay = time.Second }).
		Wait(ctx, &ec2api.DescribeInstancesInput{InstanceIds: ids}, time.Minute); err != nil {
		b.Fatal(err)
	}
	there, err := c.DescribeInstances(ctx, &ec2api.DescribeInstancesInput{InstanceIds: ids})
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range there.Reservations {
		for _, i := range r.Instances {
			addrs = append(addrs, aws.ToString(i.PublicIpAddress))
		}
	}
	if len(addrs) != n {
		b.Fatalf("%d of %d machines", len(addrs), n)
	}
	for _, a := range addrs { // until it answers
		for {
			conn, err := net.DialTimeout("tcp", a+":22", time.Second)
			if err == nil { // a port may be open before an sshd greets
				_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				_, err = io.ReadFull(conn, make([]byte, len("SSH-")))
				conn.Close()
			}
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				b.Fatal(ctx.Err())
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, a := range addrs {
		wg.Go(func() {
			out, err := exec.CommandContext(ctx, "ssh", "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
				"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "admin@"+a, "true; sudo -n sh -c true").CombinedOutput()
			if err != nil {
				b.Errorf("ssh: %v: %s", err, out)
			}
		})
	}
	wg.Wait()
	return time.Since(start).Seconds()
}

// packerOverhead is the same by Packer, if it is there; else nil, and why is logged.
func packerOverhead(b *testing.B, n int) *overhead {
	b.Helper()
	if _, err := exec.LookPath("packer"); err != nil {
		b.Logf("without Packer: %v", err)
		return nil
	}
	plugins, err := exec.CommandContext(b.Context(), "packer", "plugins", "installed").CombinedOutput()
	if err != nil || !strings.Contains(string(plugins), "packer-plugin-amazon") {
		version, _ := exec.CommandContext(b.Context(), "packer", "version").Output()
		b.Logf("without Packer: %s has no installed amazon plugin that it can tell of", strings.TrimSpace(string(version)))
		return nil
	}
	cloud := benchCloud(b)
	o := &overhead{load: loadNow(), gaps: map[string][]float64{}, calls: map[string]int{}}
	file := filepath.Join(b.TempDir(), "packer.pkr.hcl")
	if err := os.WriteFile(file, []byte(benchTemplate(n, os.Getenv("AWS_ENDPOINT_URL"))), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), "packer", "build", "-color=false", file)
	// What would leave this host finds no proxy; loopback needs none.
	cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1", "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=")
	_, took := must(b, cmd)
	o.took = []float64{took}
	for _, c := range cloud.Plan().Calls() {
		o.calls[c.Service+" "+c.Action]++
	}
	// Its things have no mark of the bake: the path is that of the median one.
	long := map[string][]float64{}
	for _, p := range cloud.Phases() {
		if !p.Ended.IsZero() {
			long[p.What] = append(long[p.What], p.Ended.Sub(p.Began).Seconds())
		}
	}
	for _, what := range []string{"boot", "stop", "image", "copy", "terminate"} {
		if len(long[what]) < n {
			b.Fatalf("Packer: %d of %d bakes came to %q", len(long[what]), n, what)
		}
	}
	o.path = []float64{middle(long["boot"]) + middle(long["stop"]) + middle(long["image"]) + max(middle(long["copy"]), middle(long["terminate"]))}
	return o
}
