//go:build linux

package amazon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

// chrootCloud is a cloud that this host is an instance of.
type chrootCloud struct {
	*cloud
	mounts string // where volumes are mounted
}

func needVolumes(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		sandboxtest.Missing(t, "volumes are mounted by root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		sandboxtest.Missing(t, "there are no loop devices")
	}
	sandboxtest.Need(t)
	for _, tool := range []string{"mkfs.ext4", "blkid", "mount"} {
		if findTool(tool) == "" {
			sandboxtest.Missing(t, "needs "+tool)
		}
	}
}

// newChrootCloud has one base image, of a tree or a raw disk.
func newChrootCloud(t *testing.T, tree string, o ec2.Options) *chrootCloud {
	t.Helper()
	needVolumes(t)
	o.Images = []ec2.BaseImage{{Name: "small-1.0", Owner: "210987654321", Tree: tree, Size: 1, Created: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	c := &chrootCloud{cloud: newCloud(t, o), mounts: t.TempDir()}
	for _, v := range c.MetadataEnv() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	// With the metadata service in its environment.
	settle := c.env.Settle
	c.env = NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, AnswerTimeout: 2 * time.Second, Speed: 50}))
	c.env.Settle, c.env.DevDir, c.env.SysDir = settle, c.DeviceDir(), t.TempDir()
	var err error
	if c.session, err = c.env.Shared.Connect(t.Context(), &c.access); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, p := range c.Problems() {
			t.Errorf("the emulator: %v", p)
		}
	})
	return c
}

// body is the source block of a bake of the base image.
func (c *chrootCloud) body(more string) string {
	return fmt.Sprintf("region = %q\nsource_ami = %q\nmount_path = %q\nmax_retries = 2\n", testRegions[0], *c.base.ImageId, c.mounts+"/{{.Device}}") + more
}

func decodeInto(t testing.TB, b builders.Builder, body string) {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(body), "source.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, b.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
}

// chrootBake is one bake on it.
type chrootBake struct {
	c       *chrootCloud
	b       *Chroot
	ledger  *memory
	run     *builders.Run
	machine machine.Machine
	said    *strings.Builder
}

func (c *chrootCloud) begin(id, body string) *chrootBake {
	c.t.Helper()
	k := &chrootBake{c: c, b: NewChroot(c.env), ledger: &memory{bake: id}, said: &strings.Builder{}}
	k.run = newRun(c.t, id, k.ledger)
	k.run.Name, k.run.Type = "amazon-chroot.web", "amazon-chroot"
	sink := k.run.Events.Sink
	k.run.Events.Sink = event.Func(func(e event.Event) { k.said.WriteString(e.Text + "\n"); sink.Emit(e) })
	decodeInto(c.t, k.b, body)
	for _, p := range k.b.Check(c.t.Context(), &builders.CheckEnv{Dir: c.t.TempDir()}) {
		if !p.Warning {
			c.t.Fatalf("Check: %s: %s: %s", p.Option, p.Summary, p.Detail)
		}
	}
	c.t.Cleanup(k.release)
	return k
}

func (k *chrootBake) boot() {
	k.c.t.Helper()
	var err error
	if k.machine, err = k.b.Boot(k.c.t.Context(), k.run); err != nil {
		k.c.t.Fatal(err)
	}
}

func (k *chrootBake) sh(line string) string {
	k.c.t.Helper()
	var out bytes.Buffer
	if err := k.machine.Run(k.c.t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		k.c.t.Fatalf("%s: %v\n%s", line, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

func (k *chrootBake) snapshot() *builders.Artifact {
	k.c.t.Helper()
	a, err := k.b.Snapshot(k.c.t.Context(), k.run)
	if err != nil {
		k.c.t.Fatal(err)
	}
	return a
}

// release gives back what is open, but the finished image, as the engine does.
func (k *chrootBake) release() {
	k.c.t.Helper()
	for _, l := range slices.Backward(k.ledger.Open()) {
		if l.Data[builders.UntilRecorded] != "" {
			continue
		}
		if err := k.b.Release(context.Background(), l); err != nil {
			k.c.t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
		} else if err := k.ledger.Released(context.Background(), l); err != nil {
			k.c.t.Error(err)
		}
	}
}

// image is an AMI of the account.
func (c *chrootCloud) image(name string) types.Image {
	c.t.Helper()
	i, ok := c.own(testRegions[0])[name]
	if !ok {
		c.t.Fatalf("there is no AMI %s", name)
	}
	return i
}

// temporary is what is there beside images and their snapshots, mounts included.
func (c *chrootCloud) temporary() []string {
	c.t.Helper()
	var all []string
	used := map[string]bool{}
	for _, i := range c.own(testRegions[0]) {
		for _, s := range snapshotsOf(i) {
			used[s] = true
		}
	}
	for _, l := range c.Left() {
		if l.Kind != "image" && !used[l.ID] {
			all = append(all, l.String())
		}
	}
	there, err := mountsBelow(c.mounts)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range there {
		all = append(all, "mount "+m.point)
	}
	left, err := os.ReadDir(c.mounts)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range left {
		all = append(all, "directory "+e.Name())
	}
	return all
}

func (c *chrootCloud) wantClean(what string) {
	c.t.Helper()
	if left := c.temporary(); len(left) > 0 {
		c.t.Errorf("%s leaves behind:\n%s", what, strings.Join(left, "\n"))
	}
}

// small is a system of busybox, as much like Debian as the bakes need.
func small(t testing.TB) string {
	dir := sandboxtest.Busybox(t)
	for _, d := range []string{"tmp", "proc", "sys", "dev", "usr/sbin", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sandboxtest.Write(t, dir, "etc/os-release", "ID=small\n", 0o644)
	sandboxtest.Write(t, dir, "usr/sbin/service", "#!/bin/sh\necho started >> /started\n", 0o755)
	sandboxtest.Write(t, dir, "bin/systemctl", "#!/bin/sh\necho \"$@\" >> /systemctl-log\n", 0o755)
	if err := os.Symlink("../run/resolve/stub.conf", filepath.Join(dir, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A bake makes an AMI, and a second one, from it, finds what the first has put there.
func TestChrootBakeAndAgain(t *testing.T) {
	for name, nvme := range map[string]bool{"Xen": false, "Nitro": true} {
		t.Run(name, func(t *testing.T) {
			c := newChrootCloud(t, small(t), ec2.Options{NVMe: nvme})
			k := c.begin("bakeone", c.body(`
ami_name             = "first"
root_volume_tags     = { Base = "{{ .SourceAMIName }}" }
pre_mount_commands   = ["echo before {{ .Device }} of {{ .SourceAMIName }}"]
post_mount_commands  = ["echo after > {{ .MountPath }}/after", "test -b {{ .Device }}"]
`))
			c.Plan().Reset()
			k.boot()
			if got := k.sh("cat /after /etc/os-release; echo made by the first > /made; id -u"); got != "after\nID=small\n0" {
				t.Errorf("the tree has %q", got)
			}
			for _, ns := range []string{"mnt", "pid", "uts", "ipc", "net", "user"} {
				ours, err := os.Readlink("/proc/self/ns/" + ns)
				shared := ns == "net" || ns == "user"
				if got := k.sh("readlink /proc/self/ns/" + ns); err != nil || (got == ours) != shared {
					t.Errorf("the namespace of a script is %s, and this host's %s, %v", got, ours, err)
				}
			}
			host, err := os.ReadFile("/etc/resolv.conf")
			if err != nil {
				t.Fatal(err)
			}
			if got := k.sh("cat /etc/resolv.conf"); got != strings.TrimSpace(string(host)) {
				t.Errorf("resolv.conf in the tree: %q", got)
			}
			k.sh("(trap '' TERM; >/tmp/up; while :; do sleep 1; done) >/dev/null 2>&1 & until [ -e /tmp/up ]; do :; done; rm /tmp/up") // a daemon does not hold it up
			if v := k.run.Values; v["ID"] == "" || v["Device"] == "" || v["MountPath"] == "" || v["SourceAMIName"] != "small-1.0" {
				t.Errorf("build values %v", v)
			}
			volume := k.b.volume
			v, err := c.session.Volumes("").Get(t.Context(), volume)
			if err != nil || tagMap(v.Tags)["Base"] != "small-1.0" || tagMap(v.Tags)[tagBuild] != "bakeone" || v.State != types.VolumeStateInUse {
				t.Errorf("the volume: %+v, %v", v, err)
			}
			a := k.snapshot()
			i := c.image("first")
			if a.ID != testRegions[0]+":"+*i.ImageId || a.BuilderID != "mitchellh.amazon.chroot" || a.Parent != *c.base.ImageId {
				t.Errorf("artifact %+v", a)
			}
			if i.Architecture != c.base.Architecture || i.VirtualizationType != c.base.VirtualizationType || aws.ToString(i.RootDeviceName) != aws.ToString(c.base.RootDeviceName) || aws.ToBool(i.EnaSupport) != aws.ToBool(c.base.EnaSupport) {
				t.Errorf("image %+v is not like its source %+v", i, c.base)
			}
			k.release()
			c.wantClean("the bake")
			var order []string
			for _, call := range c.Plan().Calls() {
				if slices.Contains([]string{"CreateVolume", "AttachVolume", "CreateSnapshot", "DetachVolume", "RegisterImage", "DeleteVolume"}, call.Action) {
					order = append(order, call.Action)
				}
			}
			if got := strings.Join(slices.Compact(order), " "); !strings.HasPrefix(got, "CreateVolume AttachVolume CreateSnapshot DetachVolume RegisterImage") {
				t.Errorf("calls: %s", got)
			}
			t.Logf("%d calls", len(c.Plan().Calls()))

			k = c.begin("baketwo", fmt.Sprintf("region = %q\nmount_path = %q\nami_name = \"second\"\nsource_ami_filter {\n  owners = [\"self\"]\n  filters = { name = \"first\" }\n}\n", testRegions[0], c.mounts+"/two"))
			k.boot()
			if got := k.sh("cat /made"); got != "made by the first" {
				t.Errorf("the second bake finds %q", got)
			}
			if got := k.sh("mv /etc/resolv.conf /r; ls /etc /usr/sbin /; cat /started /systemctl-log 2>/dev/null; true"); strings.Contains(got, "bakeone") || strings.Contains(got, "started") {
				t.Errorf("the first bake has left in the image: %s", got)
			}
			k.sh("mv /r /etc/resolv.conf")
			k.snapshot()
			k.release()
			c.wantClean("the second bake")
			if got := c.image("second"); *got.ImageId == *i.ImageId {
				t.Error("the second AMI is the first")
			}
		})
	}
}

// The guard keeps services from being started, lets systemctl do all else, and
// leaves no trace.
func TestChrootGuard(t *testing.T) {
	tree := small(t)
	c := newChrootCloud(t, tree, ec2.Options{NVMe: true})
	k := c.begin("bakeguard", c.body(`ami_name = "guarded"`))
	k.boot()
	k.sh("/usr/sbin/service nginx start; systemctl start nginx; systemctl enable --now nginx; systemctl -q -t service restart x; systemctl list-units")
	if got := k.sh("cat /systemctl-log; test ! -e /started && echo none"); got != "enable nginx\nlist-units\nnone" {
		t.Errorf("through the guard came %q", got)
	}
	if got := k.sh("/usr/sbin/policy-rc.d; echo $?"); got != "101" {
		t.Errorf("policy-rc.d ends with %s", got)
	}
	// A package manager replaces one program, and brings a link.
	k.sh("echo new > /usr/sbin/service.new; mv /usr/sbin/service.new /usr/sbin/service; rm /etc/resolv.conf; ln -s ../run/new.conf /etc/resolv.conf")
	k.snapshot()
	k.release()
	if !strings.Contains(k.said.String(), "/usr/sbin/service") {
		t.Error("nothing is said of what was replaced")
	}
	k = c.begin("bakelook", fmt.Sprintf("region = %q\nmount_path = %q\nami_name = \"look\"\nstart_services = true\ncopy_files = []\nsource_ami = %q\n", testRegions[0], c.mounts+"/look", *c.image("guarded").ImageId))
	k.boot()
	if got := k.sh("cat /usr/sbin/service; readlink /etc/resolv.conf; cat /bin/systemctl; ls /usr/sbin /bin /etc"); !strings.HasPrefix(got, "new\n../run/new.conf\n#!/bin/sh\necho \"$@\"") || strings.Contains(got, "ingot") || strings.Contains(got, "policy-rc.d") {
		t.Errorf("after the bake the image has %s", got)
	}
}

// What the tree had is there again as it was, to the inode.
func TestChrootPutsBackExactly(t *testing.T) {
	tree := small(t)
	sandboxtest.Write(t, tree, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n", 0o700)
	if err := os.Chtimes(filepath.Join(tree, "usr/sbin/policy-rc.d"), time.Unix(1, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	c := newChrootCloud(t, tree, ec2.Options{NVMe: true})
	k := c.begin("bakeexact", c.body("ami_name = \"exact\"\ncopy_files = [\"/etc/resolv.conf\", \"/etc/hosts\"]\n"))
	k.boot()
	before := map[string]string{}
	for _, r := range k.b.put {
		before[r.path] = r.before
	}
	if len(before) < 5 || before["/usr/sbin/policy-rc.d"] == "" || before["/etc/hosts"] != "" {
		t.Fatalf("put into the tree: %v", before)
	}
	if err := k.b.restoreTree(t.Context()); err != nil {
		t.Fatal(err)
	}
	for p, was := range before {
		got := ""
		if k.machine.Run(t.Context(), machine.Command{Line: "test -e " + p + " || test -L " + p}) == nil {
			got = k.sh("LC_ALL=C ls -lnid " + p)
		}
		if got != strings.TrimSpace(was) {
			t.Errorf("%s: %q, was %q", p, got, was)
		}
	}
	// What was not put back is an error, not an image.
	k.b.put = []replaced{{path: "/etc/hosts", before: "17 -rw-r--r-- 1 0 0 4 Jan 1 1970 /etc/hosts", copied: true}}
	if _, err := k.b.Snapshot(t.Context(), k.run); err == nil || !strings.Contains(err.Error(), "/etc/hosts") {
		t.Errorf("an image of a tree that is not in order: %v", err)
	}
}

func TestChrootSuite(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	buildertest.Run(t, buildertest.Options{
		New: func() builders.Builder { return NewChroot(c.env) }, Type: "amazon-chroot",
		Config: c.body("ami_name = \"suite\"\nforce_deregister = true\nforce_delete_snapshot = true\n"), Exists: c.exists,
		Bad: []buildertest.Bad{
			{Name: "source", Config: c.body("ami_name = \"suite\"\nsource_ami_filter {\n  owners = [\"self\"]\n  filters = { name = \"nothing\" }\n}"), Option: "source_ami"},
			{Name: "mounts", Config: c.body("ami_name = \"suite\"\nchroot_mounts = [[\"proc\", \"proc\"]]"), Option: "chroot_mounts.0"},
			{Name: "size", Config: c.body("ami_name = \"suite\"\nroot_volume_size = -1"), Option: "root_volume_size"},
			{Name: "scratch", Config: c.body("ami_name = \"suite\"\nfrom_scratch = true"), Option: "pre_mount_commands"},
			{Name: "late", Config: c.body("ami_name = \"suite\"\npost_mount_commands = [\"{{.Nothing}}\"]"), Option: "post_mount_commands.0"},
			{Name: "region", Config: strings.Replace(c.body("ami_name = \"suite\""), testRegions[0], testRegions[1], 1), Option: "region"},
		},
	})
}

// exists says whether what a lease names is there.
func (c *chrootCloud) exists(l builders.Lease) bool {
	switch l.Kind {
	case leaseMount:
		there, err := mountsBelow(l.Name)
		return err != nil || len(there) > 0
	case leaseAttachment:
		volume, _, _ := strings.Cut(l.Name, "@")
		v, err := c.session.Volumes("").Get(context.Background(), volume)
		return err == nil && slices.ContainsFunc(v.Attachments, func(a types.VolumeAttachment) bool { return a.State != types.VolumeAttachmentStateDetached })
	}
	return slices.ContainsFunc(c.Left(), func(t ec2.Thing) bool {
		switch l.Kind {
		case leaseVolume:
			return t.Kind == "volume" && t.Tags[tagLease] == l.Name && t.Tags[tagBuild] == cmpBake(l, t)
		case leaseImage:
			return (t.Kind == "image" || t.Kind == "snapshot") && t.Tags[tagBuild] == cmpBake(l, t)
		}
		return true // of a kind that this test does not know: it fails
	})
}

// cmpBake is the bake of a lease that may not be in the ledger yet.
func cmpBake(l builders.Lease, t ec2.Thing) string {
	if l.BakeID == "" {
		return t.Tags[tagBuild]
	}
	return l.BakeID
}

// A process that dies at any point leaves what another, which knows only the
// ledger, gives back.
func TestChrootDeathAtEveryLease(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	points := 0
	for n := 1; ; n++ {
		k := c.begin(fmt.Sprintf("dead%d", n), c.body(fmt.Sprintf("ami_name = \"dead-%d\"", n)))
		ctx, die := context.WithCancel(t.Context())
		left := n
		k.run.Leases = dying{k.ledger, func() bool {
			left--
			if left == 0 {
				k.ledger.kill(true)
				die()
			}
			return left <= 0
		}}
		_, err := k.b.Boot(ctx, k.run)
		if err == nil {
			_, err = k.b.Snapshot(ctx, k.run)
		}
		if left > 0 {
			if err != nil {
				t.Fatal(err)
			}
			die()
			break
		}
		points++
		if err == nil {
			t.Errorf("at point %d the process is dead, and its bake succeeds", n)
		}
		// The kernel ends the tree with its process; here the process lives on.
		if k.b.tree != nil {
			if err := k.b.tree.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
		k.ledger.kill(false)
		for _, l := range slices.Backward(k.ledger.Open()) {
			if err := NewChroot(c.env).Release(t.Context(), l); err != nil {
				t.Errorf("at point %d: release %s %s: %v", n, l.Kind, l.Name, err)
			}
			if err := k.ledger.Released(t.Context(), l); err != nil {
				t.Error(err)
			}
		}
		c.wantClean(fmt.Sprintf("death at point %d", n))
		if _, there := c.own(testRegions[0])[fmt.Sprintf("dead-%d", n)]; there {
			t.Errorf("death at point %d leaves its image", n)
		}
		die()
	}
	t.Logf("%d points", points)
	if points < 8 {
		t.Errorf("only %d points were tried", points)
	}
}

// dying is a ledger whose process may die right after a write.
type dying struct {
	*memory
	dies func() bool
}

func (d dying) Intend(ctx context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	l, err := d.memory.Intend(ctx, kind, name, data)
	if d.dies() {
		err = errors.Join(err, errDead)
	}
	return l, err
}

func (d dying) Created(ctx context.Context, l builders.Lease, id string) error {
	if d.dies() {
		return errDead // the call has had effect, and nobody noted it
	}
	return d.memory.Created(ctx, l, id)
}

func (d dying) Released(ctx context.Context, l builders.Lease) error {
	if d.dies() {
		return errDead
	}
	return d.memory.Released(ctx, l)
}

// With the ledger lost, the tags tell: of the volume that is attached and mounted, too.
func TestChrootSweepWithoutLedger(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	k := c.begin("lost", c.body(`ami_name = "lost"`))
	k.boot()
	if err := k.b.tree.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.ledger.leases = nil
	b := NewChroot(c.env)
	decodeInto(t, b, c.body(`ami_name = "lost"`))
	found, err := b.Orphans(t.Context(), 0)
	if err != nil || len(found) != 2 {
		t.Fatalf("orphans %+v, %v", found, err)
	}
	for _, l := range slices.Backward(found) {
		if err := NewChroot(c.env).Release(t.Context(), l); err != nil {
			t.Errorf("release %s: %v", l.Kind, err)
		}
	}
	if err := os.Remove(k.b.path); err != nil { // of the mount point nobody knows
		t.Error(err)
	}
	c.wantClean("the sweep")
}

// Where the wait for the snapshot is over, another process goes on with it.
func TestChrootResume(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	k := c.begin("resumed", c.body(`ami_name = "resumed"`))
	k.boot()
	k.sh("echo kept > /kept")
	impatient := c.access
	impatient.AWSPolling = &awscloud.Polling{DelaySeconds: 1, MaxAttempts: 1}
	var err error
	if k.b.session, err = c.env.Shared.Connect(t.Context(), &impatient); err != nil {
		t.Fatal(err)
	}
	c.Plan().Reset()
	c.Plan().Decide(func(call fault.Call) fault.Fault {
		if call.Action == "DescribeSnapshots" {
			return fault.Hang
		}
		return fault.None
	})
	_, err = k.b.Snapshot(t.Context(), k.run)
	if !errors.Is(err, builders.ErrUnfinished) {
		t.Fatalf("a wait that is over: %v", err)
	}
	k.release()
	c.Plan().Decide(nil)
	a, err := NewChroot(c.env).Resume(t.Context(), k.run, k.ledger.Open())
	if err != nil {
		t.Fatal(err)
	}
	if i := c.image("resumed"); a.ID != testRegions[0]+":"+*i.ImageId {
		t.Errorf("resumed: %+v", a)
	}
	n := 0
	for _, call := range c.Plan().Calls() {
		if call.Action == "CreateSnapshot" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d snapshots were taken", n)
	}
	c.wantClean("the resumed bake")
}

func TestChrootPackageMetadata(t *testing.T) {
	tree := small(t)
	sandboxtest.Write(t, tree, "bin/dpkg-query", "#!/bin/sh\nfor n; do :; done\n[ \"$n\" = nginx ] || exit 1\nprintf 'dpkg\\tinstalled\\tnginx\\t1:1.24.0-2ubuntu7\\tamd64\\n'\n", 0o755)
	c := newChrootCloud(t, tree, ec2.Options{NVMe: true})
	k := c.begin("bakepkg", c.body("ami_name = \"pkg\"\npackage_metadata = \"nginx\"\ntags = { package_arch = \"mine\" }\n"))
	k.boot()
	k.snapshot()
	i := c.image("pkg")
	want := map[string]string{
		"appversion": "nginx-1:1.24.0-2ubuntu7", "package_name": "nginx", "package_version": "1:1.24.0", "package_release": "2ubuntu7", "package_arch": "mine",
		"base_ami_id": *c.base.ImageId, "base_ami_name": "small-1.0", "base_ami_version": "2026-01-01T00:00:00.000Z", tagBuild: "bakepkg",
	}
	if got := tagMap(i.Tags); !maps.Equal(got, want) {
		t.Errorf("tags %v, want %v", got, want)
	}
	if got, want := aws.ToString(i.Description), "name=nginx-1:1.24.0-2ubuntu7, arch=amd64, ancestor_name=small-1.0, ancestor_id="+*c.base.ImageId+", ancestor_version=2026-01-01T00:00:00.000Z"; got != want {
		t.Errorf("description %q, want %q", got, want)
	}
	k.release()
	k = c.begin("bakenopkg", c.body("ami_name = \"nopkg\"\npackage_metadata = \"apache\"\n"))
	k.boot()
	if _, err := k.b.Snapshot(t.Context(), k.run); err == nil || !strings.Contains(err.Error(), "apache") {
		t.Errorf("a package that is not installed: %v", err)
	}
}

// disk is a raw image with a partition table and the tree in its first partition.
func disk(t *testing.T, tree string) string {
	t.Helper()
	if findTool("sfdisk") == "" {
		sandboxtest.Missing(t, "needs sfdisk")
	}
	file, part := filepath.Join(t.TempDir(), "disk.raw"), filepath.Join(t.TempDir(), "part.raw")
	script := `set -e
truncate -s 500M "$2"; mkfs.ext4 -q -d "$3" "$2"
truncate -s 1G "$1"; echo '2048,1024000' | sfdisk -q "$1"
dd if="$2" of="$1" bs=1M seek=1 conv=notrunc,sparse status=none`
	if out, err := exec.Command("sh", "-c", script, "sh", file, part, tree).CombinedOutput(); err != nil {
		t.Fatalf("make a disk: %v: %s", err, out)
	}
	return file
}

// A larger volume's partition and file system grow.
func TestChrootGrows(t *testing.T) {
	c := newChrootCloud(t, disk(t, small(t)), ec2.Options{NVMe: true})
	for _, grow := range []bool{true, false} {
		name := fmt.Sprintf("grow%v", grow)
		more := fmt.Sprintf("ami_name = %q\nroot_volume_size = 2\nroot_volume_encrypt_boot = true\n", name)
		if !grow {
			more += "grow_root = false\n"
		}
		k := c.begin(name, c.body(more))
		k.boot()
		if !strings.HasSuffix(k.b.part, "p1") {
			t.Errorf("mounted is %s", k.b.part)
		}
		var kib int
		if _, err := fmt.Sscan(k.sh("df -kP / | tail -n 1 | awk '{print $2}'"), &kib); err != nil {
			t.Fatal(err)
		}
		if grown := kib > 1500<<10; grown != grow {
			t.Errorf("grow_root %v: the file system has %d KiB", grow, kib)
		}
		k.snapshot()
		i := c.image(name)
		root := rootMapping(i)
		if aws.ToInt32(root.VolumeSize) != 2 || !aws.ToBool(root.Encrypted) {
			t.Errorf("root of the AMI %+v", root)
		}
		k.release()
	}
	c.wantClean("the bakes")
}

// An AMI from nothing: its file system and its content come from commands of this host.
func TestChrootFromScratch(t *testing.T) {
	tree := small(t)
	c := newChrootCloud(t, tree, ec2.Options{NVMe: true})
	body := fmt.Sprintf(`
region                   = %q
mount_path               = %q
ami_name                 = "scratch"
from_scratch             = true
ami_virtualization_type  = "hvm"
root_device_name         = "/dev/xvda"
root_volume_size         = 1
ami_architecture         = "arm64"
boot_mode                = "uefi"
tpm_support              = "v2.0"
command_wrapper          = "env WRAPPED=yes {{ .Command }}"
pre_mount_commands       = ["mkfs.ext4 -q {{ .Device }}", "true"]
post_mount_commands      = ["cp -a %s/. {{ .MountPath }}", "true"]
ami_block_device_mappings {
  device_name           = "/dev/xvda"
  delete_on_termination = true
  volume_type           = "gp3"
}
`, testRegions[0], c.mounts+"/scratch", tree)
	k := c.begin("scratch", body)
	k.boot()
	k.sh("echo scratched > /scratched")
	k.snapshot()
	k.release()
	c.wantClean("the bake")
	i := c.image("scratch")
	root := rootMapping(i)
	if i.Architecture != types.ArchitectureValuesArm64 || i.BootMode != types.BootModeValuesUefi || i.TpmSupport == "" || root.VolumeType != types.VolumeTypeGp3 || aws.ToInt32(root.VolumeSize) != 1 || !aws.ToBool(root.DeleteOnTermination) {
		t.Errorf("image %+v, root %+v", i, root)
	}
}

// Bakes side by side get devices of their own, without a lock.
func TestChrootSideBySide(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{})
	const n = 4
	var bakes []*chrootBake
	for i := range n {
		bakes = append(bakes, c.begin(fmt.Sprintf("side%d", i), c.body(fmt.Sprintf("ami_name = \"side-%d\"", i))))
	}
	done := make(chan error, n)
	for _, k := range bakes {
		go func() {
			m, err := k.b.Boot(t.Context(), k.run)
			if err == nil {
				err = m.Run(t.Context(), machine.Command{Line: "echo " + k.run.BakeID + " > /whose"})
			}
			if err == nil {
				_, err = k.b.Snapshot(t.Context(), k.run)
			}
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	devices := map[string]bool{}
	for _, k := range bakes {
		devices[k.b.device] = true
		k.release()
	}
	if len(devices) != n {
		t.Errorf("%d bakes had the devices %v", n, devices)
	}
	c.wantClean("the bakes")
}

// A name that another has taken meanwhile is no end.
func TestChrootNameTaken(t *testing.T) {
	err := &smithy.GenericAPIError{Code: "InvalidParameterValue", Message: "Invalid value '/dev/sdf' for unixDevice. Attachment point /dev/sdf is already in use"}
	if !nameTaken(err) || nameTaken(&smithy.GenericAPIError{Code: "InvalidParameterValue", Message: "no such device"}) {
		t.Error("the answer is not understood")
	}
}

func TestDeviceOf(t *testing.T) {
	dev, sys := t.TempDir(), t.TempDir()
	e := &Env{DevDir: dev, SysDir: sys}
	put := func(p string) { sandboxtest.Write(t, filepath.Dir(p), filepath.Base(p), "", 0o644) }
	want := func(what, name, given, want string) {
		t.Helper()
		if got, err := e.deviceOf("vol-0abc", name, given); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", what, got, err, want)
		}
	}
	want("nothing there", "/dev/sdf", "", "")
	put(dev + "/nvme1n1")
	sandboxtest.Write(t, sys, "block/nvme1n1/device/serial", "vol0def\n", 0o644)
	want("another's", "/dev/sdf", "", "")
	put(dev + "/nvme2n1")
	sandboxtest.Write(t, sys, "block/nvme2n1/device/serial", "vol0abc   \n", 0o644)
	want("by its serial number", "/dev/sdf", "", dev+"/nvme2n1")
	want("given", "/dev/sdf", dev+"/nvme2n1", dev+"/nvme2n1")
	want("given, not there yet", "/dev/sdf", dev+"/nvme9n1", "")
	if got, err := e.deviceOf("vol-0abc", "/dev/sdf", dev+"/nvme1n1"); err == nil {
		t.Errorf("the volume of another is taken: %s", got)
	}
	if err := os.MkdirAll(dev+"/disk/by-id", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../nvme2n1", dev+"/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0abc"); err != nil {
		t.Fatal(err)
	}
	e.SysDir = t.TempDir()
	want("by its id", "/dev/sdf", "", dev+"/nvme2n1")
	put(dev + "/xvdg")
	if got, err := e.deviceOf("vol-0fff", "/dev/sdg", ""); got != dev+"/xvdg" || err != nil {
		t.Errorf("on Xen: %q, %v", got, err)
	}
	if partitionPath("/dev/nvme1n1", "1") != "/dev/nvme1n1p1" || partitionPath("/dev/xvdf", "2") != "/dev/xvdf2" {
		t.Error("partitions")
	}
}

func TestUnescapeMount(t *testing.T) {
	if got := unescapeMount(`/mnt/a\040b\134c\0`); got != `/mnt/a b\c\0` {
		t.Errorf("got %q", got)
	}
}

// What this host holds busy is named.
func TestChrootBusy(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	k := c.begin("busy", c.body(`ami_name = "busy"`))
	k.boot()
	f, err := os.Open(k.b.path + "/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := holders(k.b.path); !strings.Contains(got, fmt.Sprint(os.Getpid())) {
		t.Errorf("holders: %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := k.b.unmountAll(ctx, k.b.path, ""); err == nil {
		t.Error("a busy file system was unmounted")
	}
}

func TestChrootNotOnAnInstance(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	env := NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, Speed: 50}))
	b := NewChroot(env)
	decodeInto(t, b, c.body(`ami_name = "elsewhere"`))
	ps := b.Check(t.Context(), &builders.CheckEnv{Dir: t.TempDir()})
	if !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Summary == "Not on an instance" && !p.Warning }) {
		t.Errorf("Check: %+v", ps)
	}
	// On any machine it can be validated.
	b = NewChroot(env)
	decodeInto(t, b, c.body(`ami_name = "elsewhere"`))
	if ps := b.Check(t.Context(), &builders.CheckEnv{Dir: t.TempDir(), Validate: true}); len(ps) > 0 {
		t.Errorf("validate: %+v", ps)
	}
}

func TestChrootPolicy(t *testing.T) {
	got := actions((&ChrootSource{}).Policy("eu-west-1"))
	want := []string{
		"ec2:AttachVolume", "ec2:CreateSnapshot", "ec2:CreateTags", "ec2:CreateVolume", "ec2:DeleteSnapshot", "ec2:DeleteVolume", "ec2:DeregisterImage",
		"ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeSnapshots", "ec2:DescribeVolumes", "ec2:DetachVolume", "ec2:RegisterImage",
	}
	if !slices.Equal(got, want) {
		t.Errorf("a plain bake is allowed\n%q\nwant\n%q", got, want)
	}
	key := &ChrootSource{ChrootOptions: ChrootOptions{RootVolumeEncryptBoot: aws.Bool(true), RootVolumeKMSKeyID: "alias/x"}}
	if !slices.Contains(actions(key.Policy("eu-west-1")), "kms:CreateGrant") {
		t.Error("the key of root_volume_kms_key_id is in no policy")
	}
}

// At every call of a bake, and at every fault of it: an AMI comes of it, or can be
// resumed, and nothing else is left.
func TestChrootEveryFault(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	body := func(n int) string { return c.body(fmt.Sprintf("ami_name = \"fault-%d\"\n", n)) }
	bake := func(n int, at int, f fault.Fault) (reached bool) {
		k := c.begin(fmt.Sprintf("fault%d", n), body(n))
		c.Plan().Reset()
		var call fault.Call
		c.Plan().Decide(func(now fault.Call) fault.Fault {
			if now.N != at {
				return fault.None
			}
			call, reached = now, true
			return f
		})
		_, err := k.b.Boot(t.Context(), k.run)
		if err == nil {
			_, err = k.b.Snapshot(t.Context(), k.run)
		}
		c.Plan().Decide(nil)
		name := fmt.Sprintf("call %d (%s), %s", at, call.Action, f)
		unfinished := errors.Is(err, builders.ErrUnfinished)
		for _, l := range slices.Backward(k.ledger.Open()) {
			guards := l.Data[builders.UntilRecorded] != ""
			if guards && (err == nil || unfinished) {
				continue
			}
			if err := NewChroot(c.env).Release(t.Context(), l); err != nil && k.b.tree == nil {
				t.Errorf("%s: release %s: %v", name, l.Kind, err)
			} else if err != nil || k.b.tree != nil {
				if err := k.b.Release(t.Context(), l); err != nil {
					t.Errorf("%s: release %s: %v", name, l.Kind, err)
				}
			}
			if err := k.ledger.Released(t.Context(), l); err != nil {
				t.Error(err)
			}
		}
		if unfinished {
			if _, err := NewChroot(c.env).Resume(t.Context(), k.run, k.ledger.Open()); err != nil && !errors.Is(err, builders.ErrImageLost) {
				t.Errorf("%s: resume: %v", name, err)
			} else if err != nil {
				for _, l := range slices.Backward(k.ledger.Open()) {
					if err := NewChroot(c.env).Release(t.Context(), l); err != nil {
						t.Errorf("%s: release of what is lost: %v", name, err)
					}
				}
			}
		}
		_, there := c.own(testRegions[0])[fmt.Sprintf("fault-%d", n)]
		if err == nil && !there || err != nil && !unfinished && there {
			t.Errorf("%s: the bake ended with %v, and there is an AMI: %v", name, err, there)
		}
		c.wantClean(name)
		return reached
	}
	points := 0
	for at := 1; ; at++ {
		more := false
		for _, f := range fault.Sample(at, fault.All()) {
			points++
			more = bake(points, at, f) || more
			if t.Failed() {
				return
			}
		}
		if !more {
			break
		}
	}
	t.Logf("%d points were tried", points)
	if points < 20 {
		t.Errorf("only %d points were tried", points)
	}
}
