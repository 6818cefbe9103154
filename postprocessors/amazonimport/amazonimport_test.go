//go:build linux

package amazonimport

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
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/amazon"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/internal/s3object"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/postprocessors"
)

const (
	region = "us-east-1"
	bucket = "disks"
	bakeID = "bake1"
)

// world is an emulated cloud with a bucket and the role of VM Import, and a
// directory with what a bake has made.
type world struct {
	*ec2.Cloud
	t       *testing.T
	dir     string
	env     *amazon.Env
	session *awscloud.Session
	mu      sync.Mutex
	events  []event.Event
}

func newWorld(t *testing.T, o ec2.Options) *world {
	t.Helper()
	o.Dir, o.Regions = t.TempDir(), []string{region}
	c, err := ec2.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(append(c.Problems(), c.Close())...); err != nil {
			t.Error(err)
		}
	})
	for _, v := range c.Env() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	w := &world{Cloud: c, t: t, dir: t.TempDir()}
	w.env = amazon.NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, Speed: 100}))
	w.env.Settle = 100 * time.Millisecond
	if w.session, err = w.env.Shared.Connect(t.Context(), &awscloud.Access{Region: region, MaxRetries: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.AddBucket(bucket, region); err != nil {
		t.Fatal(err)
	}
	_, err = w.session.IAM().CreateRole(t.Context(), &iam.CreateRoleInput{
		RoleName:                 aws.String("vmimport"),
		AssumeRolePolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"vmie.amazonaws.com"},"Action":"sts:AssumeRole"}]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Baseline()
	c.Plan().Reset()
	return w
}

// file puts a file of random-looking content where a bake would.
func (w *world) file(name string, size int) string {
	w.t.Helper()
	b := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
	if err := os.WriteFile(filepath.Join(w.dir, name), b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// newProcessor makes a post-processor as another process would.
func (w *world) newProcessor() *PostProcessor {
	p := New(w.env)
	p.pace = awscloud.Pace{First: 5 * time.Millisecond, Min: 5 * time.Millisecond, Cap: 20 * time.Millisecond, Timeout: time.Minute, Grace: time.Second}
	p.part = 5 << 20
	return p
}

// process runs the post-processor on an artifact of these files, and does with
// its leases what the engine does.
func (w *world) process(ctx context.Context, change func(*Options), force bool, files ...string) (*builders.Artifact, bool, error) {
	w.t.Helper()
	p, l := w.newProcessor(), &ledger{}
	out, keep, err := w.begin(ctx, p, l, change, force, files...)
	if e := l.release(ctx, p, err == nil); e != nil {
		w.t.Errorf("%v; %v", err, e)
	}
	return out, keep, err
}

// begin runs the post-processor, and leaves what it leaves.
func (w *world) begin(ctx context.Context, p *PostProcessor, l *ledger, change func(*Options), force bool, files ...string) (*builders.Artifact, bool, error) {
	w.t.Helper()
	p.o.Region, p.o.MaxRetries, p.o.S3BucketName = region, 1, bucket
	if change != nil {
		change(&p.o)
	}
	env := &postprocessors.Env{
		BakeID: bakeID, BuildName: "web.sandbox.a", BuilderType: "sandbox", Dir: w.dir, Force: force, Leases: l,
		Template: render.Env{Now: time.Unix(1700000000, 0)},
		Events: event.Scope{Sink: event.Func(func(e event.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		})},
	}
	for _, problem := range p.Check(ctx, env) {
		if !problem.Warning {
			w.t.Fatal(problem)
		}
	}
	return p.Process(ctx, env, &builders.Artifact{BuilderID: "ingot.sandbox", ID: "x", Files: files, Parent: "sha256:1", Values: map[string]string{"ID": "7"}})
}

// said are the texts of the events.
func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s []string
	for _, e := range w.events {
		s = append(s, e.Text)
	}
	return strings.Join(s, "\n")
}

func (w *world) image(id string) types.Image {
	w.t.Helper()
	out, err := w.session.EC2("").DescribeImages(w.t.Context(), &ec2api.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil || len(out.Images) != 1 {
		w.t.Fatalf("the image %s: %v", id, err)
	}
	return out.Images[0]
}

// left are the things that are there, without the records of imports that have ended.
func (w *world) left() []ec2.Thing {
	return slices.DeleteFunc(w.Left(), func(t ec2.Thing) bool {
		return t.Kind == "import-image-task" && (t.State == "completed" || t.State == "deleted")
	})
}

// only sees to it that nothing but an image with one snapshot is there, or nothing at all.
func (w *world) only(ami string) {
	w.t.Helper()
	want := map[string]string{}
	if ami != "" {
		want[ami] = "image"
		want[aws.ToString(w.image(ami).BlockDeviceMappings[0].Ebs.SnapshotId)] = "snapshot"
	}
	for _, t := range w.left() {
		if want[t.ID] != t.Kind {
			w.t.Errorf("left behind: %s", t)
		}
		delete(want, t.ID)
	}
	for id, kind := range want {
		w.t.Errorf("the %s %s is not there", kind, id)
	}
}

func tags(i types.Image) map[string]string {
	m := map[string]string{}
	for _, t := range i.Tags {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}

func TestImport(t *testing.T) {
	w := newWorld(t, ec2.Options{})
	w.file("disk.raw", 12<<20)
	out, keep, err := w.process(t.Context(), func(o *Options) {
		o.Tags = map[string]string{"Team": "web"}
		o.AMIDescription, o.AMIUsers, o.IMDSSupport = "imported", []string{"210987654321"}, "v2.0"
		o.S3Encryption = "AES256"
	}, false, "notes.txt", "disk.raw")
	if err != nil || keep {
		t.Fatalf("%v, keep %v", err, keep)
	}
	if out.BuilderID != "packer.post-processor.amazon-import" || !strings.HasPrefix(out.ID, region+":ami-") || len(out.Places) != 1 || out.Parent != "sha256:1" || out.Values["ID"] != "7" {
		t.Errorf("the artifact %+v", out)
	}
	id := out.Places[0].ID
	w.only(id)
	i := w.image(id)
	if got := tags(i); !strings.HasPrefix(aws.ToString(i.Name), "import-ami-") || got["Team"] != "web" || !strings.HasPrefix(got["ingot:build"], "bake1") ||
		aws.ToString(i.Description) != "imported" || i.ImdsSupport != "v2.0" || string(i.Architecture) != "x86_64" {
		t.Errorf("the AMI %s %s %v %q %v", aws.ToString(i.Name), i.Architecture, got, aws.ToString(i.Description), i.ImdsSupport)
	}
	var progress []int64
	for _, e := range w.events {
		if e.Kind == event.Progress {
			progress = append(progress, e.Bytes)
			if e.Total != 12<<20 {
				t.Errorf("of %d bytes", e.Total)
			}
		}
	}
	if len(progress) != 3 || progress[2] != 12<<20 || !slices.IsSorted(progress) {
		t.Errorf("progress %v", progress)
	}
	for _, want := range []string{"Uploading", "s3://disks/packer-import-1700000000-", "EC2 imports it (import-ami-"} {
		if !strings.Contains(w.said(), want) {
			t.Errorf("it says %q, and not %q", w.said(), want)
		}
	}
	if err := out.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	w.only("")
}

func TestNamedAndEncrypted(t *testing.T) {
	w := newWorld(t, ec2.Options{})
	w.file("disk.ova", 1000)
	w.file("disk.raw", 1000)
	change := func(o *Options) {
		o.AMIName, o.AMIEncrypt, o.SkipClean, o.S3KeyName = "golden-1", true, true, "in/{{ .ID }}.ova"
		o.BootMode, o.Platform, o.Architecture, o.Tags = "uefi", "Linux", "arm64", map[string]string{"Team": "web"}
	}
	out, _, err := w.process(t.Context(), change, false, "disk.raw", "disk.ova")
	if err != nil {
		t.Fatal(err)
	}
	objects := w.Objects()
	if len(objects) != 1 || objects[0].Name != "in/7.ova" || objects[0].ACL != "" && objects[0].ACL != "private" {
		t.Errorf("objects %+v", objects)
	}
	first := out.Places[0].ID
	i := w.image(first)
	if aws.ToString(i.Name) != "golden-1" || !aws.ToBool(i.BlockDeviceMappings[0].Ebs.Encrypted) || tags(i)["Team"] != "web" || string(i.Architecture) != "arm64" || string(i.BootMode) != "uefi" {
		t.Errorf("the AMI %s %+v %s %s %v", aws.ToString(i.Name), i.BlockDeviceMappings[0].Ebs, i.Architecture, i.BootMode, tags(i))
	}
	// Neither an object nor an AMI is written over.
	if _, keep, err := w.process(t.Context(), change, true, "disk.ova"); err == nil || !keep || !strings.Contains(err.Error(), "s3://disks/in/7.ova exists already") {
		t.Errorf("keep %v, %v", keep, err)
	}
	w.Plan().Reset()
	if _, _, err := w.process(t.Context(), change, false, "disk.ova"); err == nil || !strings.Contains(err.Error(), `an AMI named "golden-1" is in us-east-1 already: `+first) {
		t.Errorf("%v", err)
	}
	if slices.ContainsFunc(w.Plan().Calls(), func(c fault.Call) bool { return c.Service == "s3" }) {
		t.Error("it uploads for a name that is taken")
	}
	out, _, err = w.process(t.Context(), func(o *Options) { change(o); o.SkipClean, o.S3KeyName = false, "again.ova" }, true, "disk.ova")
	if err != nil {
		t.Fatal(err)
	}
	if i := w.image(out.Places[0].ID); aws.ToString(i.Name) != "golden-1" || aws.ToString(i.ImageId) == first {
		t.Errorf("with -force: %s %s", aws.ToString(i.ImageId), aws.ToString(i.Name))
	}
}

func TestQcow2IsConverted(t *testing.T) {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		sandboxtest.Missing(t, "qemu-img is not installed")
	}
	w := newWorld(t, ec2.Options{})
	w.file("plain", 3<<20)
	if out, err := exec.CommandContext(t.Context(), tool, "convert", "-f", "raw", "-O", "qcow2", filepath.Join(w.dir, "plain"), filepath.Join(w.dir, "disk.qcow2")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, _, err := w.process(t.Context(), func(o *Options) { o.SkipClean = true }, false, "disk.qcow2")
	if err != nil {
		t.Fatal(err)
	}
	if objects := w.Objects(); len(objects) != 1 || !strings.HasPrefix(objects[0].Name, "packer-import-1700000000-") || !strings.HasSuffix(objects[0].Name, ".vmdk") || objects[0].Size == 0 || objects[0].Size > 1<<20 {
		t.Errorf("objects %+v; want one, compressed", objects)
	}
	_ = w.image(out.Places[0].ID)
	entries, _ := os.ReadDir(w.dir)
	if len(entries) != 2 {
		t.Errorf("files %v are there, and not only the test's two", entries)
	}
	w.file("broken.qcow2", 100)
	if _, _, err := w.process(t.Context(), nil, false, "broken.qcow2"); err == nil || !strings.Contains(err.Error(), "convert ") {
		t.Errorf("a broken disk: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, _, err := w.process(t.Context(), nil, false, "disk.qcow2"); err == nil || !strings.Contains(err.Error(), "qemu-utils") {
		t.Errorf("without qemu-img: %v", err)
	}
	if entries, _ := os.ReadDir(w.dir); len(entries) != 3 {
		t.Errorf("files %v are there, and not only the test's three", entries)
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		format string
		files  []string
		want   string // a file, or part of an error after "!"
	}{
		{"", []string{"a.raw", "b.OVA"}, "b.OVA"},
		{"", []string{"a.txt", "b.vhdx"}, "b.vhdx"},
		{"", []string{"a.qcow2", "b.raw"}, "b.raw"},
		{"", []string{"a.qcow2"}, "a.qcow2"},
		{"raw", []string{"a.vmdk", "b.raw"}, "b.raw"},
		{"", []string{"a.raw", "b.vmdk"}, "!several disk images, a.raw, b.vmdk"},
		{"", []string{"a.qcow2", "b.qcow2"}, "!several disk images"},
		{"", []string{"a.tar"}, `!format = "raw"`},
		{"", nil, "!no disk image"},
		{"vhd", []string{"a.raw"}, "!no .vhd file, but a.raw"},
		{"vhd", nil, "!no .vhd file"},
	} {
		d, err := (&Options{Format: c.format}).choose(c.files)
		if want, bad := strings.CutPrefix(c.want, "!"); bad && (err == nil || !strings.Contains(err.Error(), want)) || !bad && (err != nil || d.path != want) {
			t.Errorf("%q of %v: %+v, %v; want %q", c.format, c.files, d, err, c.want)
		}
		if d.convert != strings.HasSuffix(d.path, "qcow2") {
			t.Errorf("%s: convert %v", d.path, d.convert)
		}
	}
}

func TestCheck(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"":                  func(*Options) {},
		"s3_bucket_name":    func(o *Options) { o.S3BucketName = "" },
		"s3_key_name":       func(o *Options) { o.S3KeyName = "{{" },
		"s3_encryption":     func(o *Options) { o.S3Encryption = "rot13" },
		"s3_encryption_key": func(o *Options) { o.S3EncryptionKey = "k" },
		"license_type":      func(o *Options) { o.LicenseType = "free" },
		"format":            func(o *Options) { o.Format = "qcow2" },
		"architecture":      func(o *Options) { o.Architecture = "vax" },
		"boot_mode":         func(o *Options) { o.BootMode = "bios" },
		"platform":          func(o *Options) { o.BootMode = "uefi" },
		"platform ":         func(o *Options) { o.Platform = "linux" },
		"ami_kms_key":       func(o *Options) { o.AMIKMSKey = "alias/x" },
		"access_key":        func(o *Options) { o.AccessKey = "a" },
		"ami_name":          func(o *Options) { o.AMIName = "a&b" },
		"imds_support":      func(o *Options) { o.IMDSSupport = "v1" },
	} {
		p := New(nil)
		p.o.Region, p.o.S3BucketName = region, bucket
		change(&p.o)
		var got []string
		for _, problem := range p.Check(t.Context(), nil) {
			got = append(got, problem.Option)
		}
		if strings.Join(got, ",") != strings.TrimSpace(want) {
			t.Errorf("problems with %q, want %q", got, want)
		}
	}
}

func TestEarlyRefusals(t *testing.T) {
	w := newWorld(t, ec2.Options{})
	w.file("disk.raw", 1000)
	w.file("empty.raw", 0)
	for name, c := range map[string]struct {
		change func(*Options)
		file   string
		want   string
		s3     bool
	}{
		"no role":   {func(o *Options) { o.RoleName = "other" }, "disk.raw", "service role other", true},
		"no bucket": {func(o *Options) { o.S3BucketName = "nowhere" }, "disk.raw", "NoSuchBucket", true},
		"empty":     {nil, "empty.raw", "empty", false},
		"no file":   {nil, "none.raw", "no such file", false},
		"no key":    {func(o *Options) { o.S3KeyName = `{{ "" }}` }, "disk.raw", "renders to nothing", false},
	} {
		w.Plan().Reset()
		_, keep, err := w.process(t.Context(), c.change, false, c.file)
		if err == nil || !keep || !strings.Contains(err.Error(), "amazon-import: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: keep %v, %v; want %q", name, keep, err, c.want)
		}
		if got := slices.ContainsFunc(w.Plan().Calls(), func(c fault.Call) bool { return c.Action == "CreateMultipartUpload" }); got != c.s3 {
			t.Errorf("%s: uploads: %v", name, got)
		}
		w.only("")
	}
	w.Deny("ec2:ImportImage")
	w.Plan().Reset()
	_, _, err := w.process(t.Context(), nil, false, "disk.raw")
	if err == nil || !strings.Contains(err.Error(), "would not be allowed") || slices.ContainsFunc(w.Plan().Calls(), func(c fault.Call) bool { return c.Service == "s3" }) {
		t.Errorf("without the permission: %v, %v", err, w.Plan().Calls())
	}
}

// The cloud's own reason is told, and nothing stays behind.
func TestTheImportFails(t *testing.T) {
	for action, name := range map[string]string{"ImportImage": "", "CopyImage": "golden-1"} {
		w := newWorld(t, ec2.Options{})
		w.file("disk.raw", 1000)
		w.OnImage(func(m ec2.Making) string {
			if m.Action == action {
				return "ClientError: No valid partitions. Not a valid volume."
			}
			return ""
		})
		_, keep, err := w.process(t.Context(), func(o *Options) { o.AMIName = name }, false, "disk.raw")
		if err == nil || !keep || !strings.Contains(err.Error(), "No valid partitions") {
			t.Errorf("%s: keep %v, %v", action, keep, err)
		}
		w.only("")
	}
}

func TestUnencryptedEndpoint(t *testing.T) {
	w := newWorld(t, ec2.Options{})
	w.file("disk.raw", 1000)
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://s3.example.com")
	w.env = amazon.NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly}))
	if _, _, err := w.process(t.Context(), nil, false, "disk.raw"); err == nil || !strings.Contains(err.Error(), "unencrypted") {
		t.Errorf("%v", err)
	}
}

// Every call of an import fails once in every way, or the bake is cancelled
// there: either all is well, or nothing is left.
func TestEveryFault(t *testing.T) {
	w := newWorld(t, ec2.Options{Durations: ec2.Durations{Import: 40 * time.Millisecond, Copy: 40 * time.Millisecond}})
	w.file("disk.raw", 6<<20)
	change := func(o *Options) { o.AMIName, o.AMIUsers = "golden-1", []string{"210987654321"} }
	w.Plan().Reset()
	out, _, err := w.process(t.Context(), change, false, "disk.raw")
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What is called over and over while something is waited for counts twice.
	var actions []string
	counts := map[string]int{}
	for _, c := range w.Plan().Calls() {
		a := c.Service + " " + c.Action
		if counts[a]++; counts[a] == 1 {
			actions = append(actions, a)
		}
	}
	faults := []fault.Fault{fault.Refuse, fault.Fail, fault.Throttle, fault.CutAfter, fault.FailAfter}
	if testing.Short() {
		faults = []fault.Fault{fault.Refuse, fault.CutAfter}
	}
	points, survived, swept := 0, 0, 0
	try := func(what string, ctx context.Context, decide func(n int) fault.Fault, action string) {
		points++
		n := 0
		var mu sync.Mutex
		w.Plan().Decide(func(c fault.Call) fault.Fault {
			if c.Service+" "+c.Action != action {
				return fault.None
			}
			mu.Lock()
			n++
			f := decide(n)
			mu.Unlock()
			return f
		})
		p, l := w.newProcessor(), &ledger{}
		out, keep, err := w.begin(ctx, p, l, change, false, "disk.raw")
		released := l.release(ctx, p, err == nil) // which may meet the fault
		w.Plan().Decide(nil)
		if released != nil {
			swept++
			if e := l.release(t.Context(), w.newProcessor(), false); e != nil {
				t.Errorf("%s: %v; %v; swept: %v", what, err, released, e)
			}
		}
		l.clean(t, what)
		if err == nil {
			survived++
			if keep {
				t.Errorf("%s: the input is kept", what)
			}
			w.only(out.Places[0].ID)
			if err := out.Destroy(t.Context()); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		} else if !keep {
			t.Errorf("%s: the input is not kept: %v", what, err)
		}
		if left := w.left(); len(left) > 0 {
			t.Fatalf("%s: %v; left behind: %v", what, err, left)
		}
	}
	for _, action := range actions {
		for at := 1; at <= min(counts[action], 2); at++ {
			kinds := fault.Sample(points, faults)
			if at > 1 {
				kinds = []fault.Fault{fault.Refuse, fault.CutAfter}
			}
			for _, f := range kinds {
				try(fmt.Sprintf("%s %d: %s", action, at, f), t.Context(), func(n int) fault.Fault {
					if n == at {
						return f
					}
					return fault.None
				}, action)
			}
			ctx, cancel := context.WithCancel(t.Context())
			try(fmt.Sprintf("%s %d: cancelled", action, at), ctx, func(n int) fault.Fault {
				if n == at {
					cancel()
				}
				return fault.None
			}, action)
			cancel()
		}
	}
	t.Logf("%d points tried at %d calls: %d survived, %d were swept", points, len(actions), survived, swept)
}

// A process that dies at any call, before it has its effect or after, or before
// anything is written into the ledger, leaves what another gives back by the
// ledger alone.
func TestDeathAtEveryPoint(t *testing.T) {
	w := newWorld(t, ec2.Options{Durations: ec2.Durations{Import: 40 * time.Millisecond, Copy: 40 * time.Millisecond}})
	w.file("disk.raw", 6<<20)
	points, kinds := 0, map[string]int{}
	// The second of a kind differs from the first; further ones are looks again.
	const most = 2
	for _, name := range []string{"", "golden-1"} {
		change := func(o *Options) { o.AMIName = name }
		die := func(point string, nth int, f fault.Fault) (reached bool) {
			w.Plan().Reset()
			l := &ledger{}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			var mu sync.Mutex
			n := 0
			at := func(what string) bool {
				mu.Lock()
				defer mu.Unlock()
				if what == point {
					n++
				}
				if what != point || n != nth {
					return false
				}
				reached = true
				return true
			}
			l.before = func(what string) {
				if at("ledger: " + what) {
					l.kill()
					end()
				}
			}
			w.Plan().Decide(func(c fault.Call) fault.Fault {
				switch {
				case l.killed():
					return fault.Cut // the dead make no calls
				case at(c.Service + " " + c.Action):
					l.kill()
					if f == fault.Cut {
						end()
					}
					return f
				}
				return fault.None
			})
			w.Plan().Done(func(fault.Call) {
				if l.killed() {
					end()
				}
			})
			_, _, err := w.begin(ctx, w.newProcessor(), l, change, false, "disk.raw")
			w.Plan().Decide(nil)
			w.Plan().Done(nil)
			what := fmt.Sprintf("%s %d (%s) with ami_name %q", point, nth, f, name)
			if reached {
				points++
				for _, lease := range l.Open() {
					kinds[lease.Kind]++
				}
			}
			l.before, l.dead = nil, false
			// Nobody has heard of an artifact, if there is one: its lease is open.
			if e := l.release(t.Context(), w.newProcessor(), false); e != nil {
				t.Errorf("dead at %s: %v; %v", what, err, e)
			}
			l.clean(t, what)
			if left := w.left(); len(left) > 0 {
				t.Fatalf("dead at %s: %v; left behind: %v", what, err, left)
			}
			return reached
		}
		// One that lives says which points there are.
		w.Plan().Reset()
		l := &ledger{}
		var order []string
		l.before = func(what string) { order = append(order, "ledger: "+what) }
		if _, _, err := w.begin(t.Context(), w.newProcessor(), l, change, false, "disk.raw"); err != nil {
			t.Fatal(err)
		}
		for _, c := range w.Plan().Calls() {
			order = append(order, c.Service+" "+c.Action)
		}
		l.before = nil
		if err := l.release(t.Context(), w.newProcessor(), false); err != nil {
			t.Fatal(err)
		}
		w.only("")
		seen := map[string]int{}
		for _, point := range order {
			if seen[point]++; seen[point] > most {
				continue
			}
			faults := []fault.Fault{fault.Cut, fault.CutAfter}
			if strings.HasPrefix(point, "ledger: ") {
				faults = faults[:1]
			}
			for _, f := range faults {
				// How often something is looked at differs.
				if !die(point, seen[point], f) && seen[point] == 1 {
					t.Errorf("%s is not reached", point)
				}
			}
		}
	}
	for _, kind := range []string{leaseObject, leaseUpload, leaseTask, leaseImage} {
		if kinds[kind] == 0 {
			t.Errorf("no death left a lease of kind %s", kind)
		}
	}
	t.Logf("%d deaths, which left %v", points, kinds)
}

// What a lease does not name is not touched: an object of the same name, an
// upload to it, another account.
func TestReleaseLeavesOthersAlone(t *testing.T) {
	w := newWorld(t, ec2.Options{})
	client := w.session.S3("")
	put := func(id string) {
		t.Helper()
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("k"), Body: strings.NewReader("x"), Metadata: map[string]string{s3object.Mark: id}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: aws.String("k")}); err != nil {
		t.Fatal(err)
	}
	data := map[string]string{
		dataImport: "bake1abcdefgh", dataAccess: (&awscloud.Access{MaxRetries: 1}).Public(), dataRegion: region, dataAccount: w.session.Account, dataBucket: bucket, dataKey: "k",
	}
	release := func(kind, id string, age time.Duration) error {
		return w.newProcessor().Release(t.Context(), builders.Lease{BakeID: bakeID, Builder: "amazon-import", Kind: kind, Name: bucket + "/k", ExternalID: id, Data: data, Created: time.Now().Add(-age)})
	}
	put("another")
	for _, id := range []string{"", "etag"} {
		if err := release(leaseObject, id, time.Hour); err != nil {
			t.Error(err)
		}
	}
	if err := release(leaseUpload, "", time.Hour); err != nil {
		t.Error(err)
	}
	if len(w.left()) != 2 {
		t.Errorf("of somebody's object and upload there is %v", w.left())
	}
	put("bake1abcdefgh")
	// Who may not look cannot tell.
	w.Deny("s3:HeadObject") // as the emulator has it
	if err := release(leaseObject, "", 0); err == nil || !strings.Contains(err.Error(), "cannot be told") {
		t.Errorf("%v", err)
	}
	w.Deny()
	data[dataAccount] = "999999999999"
	if err := release(leaseObject, "", 0); err == nil || !strings.Contains(err.Error(), "the import was in 999999999999") || len(w.left()) != 2 {
		t.Errorf("%v; %v", err, w.left())
	}
	data[dataAccount] = w.session.Account
	if err := errors.Join(release(leaseObject, "", 0), release(leaseUpload, "", 0), release(leaseObject, "", 0), release(leaseUpload, "gone", 0)); err != nil {
		t.Error(err)
	}
	w.only("")
	if err := release("whale", "", 0); err == nil {
		t.Error("a lease of a kind that there is not is given back")
	}
}

// A killed conversion leaves no file, and no lease tells a secret.
func TestLeases(t *testing.T) {
	w := newWorld(t, ec2.Options{})
	l := &ledger{}
	p := w.newProcessor()
	half := filepath.Join(w.dir, ".ingot-import-x.vmdk")
	for range 2 {
		w.file(filepath.Base(half), 10)
		if err := p.Release(t.Context(), builders.Lease{Kind: leaseFile, Name: half}); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
			t.Error("the file is there")
		}
	}
	if err := p.Release(t.Context(), builders.Lease{Kind: leaseFile, Name: half}); err != nil {
		t.Errorf("a file that is gone: %v", err)
	}
	w.file("disk.raw", 1000)
	key, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if key == "" || secret == "" {
		t.Fatal("the cloud has no keys")
	}
	l.before = func(string) {
		if text := fmt.Sprintf("%+v", l.Open()); strings.Contains(text, key) || strings.Contains(text, secret) {
			t.Errorf("the ledger has the keys: %s", text)
		}
	}
	if _, _, err := w.begin(t.Context(), p, l, func(o *Options) { o.AccessKey, o.SecretKey = key, secret }, false, "disk.raw"); err != nil {
		t.Fatal(err)
	}
	for _, lease := range l.Open() {
		if lease.Data[builders.UntilRecorded] == "" {
			t.Errorf("when all is well, the engine is left %+v", lease)
		}
	}
	if err := l.release(t.Context(), w.newProcessor(), false); err != nil {
		t.Error(err)
	}
	w.only("")
}
