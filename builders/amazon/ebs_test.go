//go:build linux

package amazon

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/ssmtest"
	"github.com/ingotbuild/ingot/machine"
)

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}

// ebsBody is a source block for the emulated cloud.
const ebsBody = `
region = "us-east-1"
max_retries = 2
ami_name = "suite-{{uuid}}"
instance_type = "t3.micro"
ssh_username = "admin"
source_ami_filter {
  filters     = { name = "debian-12-*" }
  owners      = ["136693071363"]
  most_recent = true
}
`

// builder is a builder of the cloud's, with its options decoded.
func (c *cloud) checked(t *testing.T, body string) *Builder {
	t.Helper()
	b := New(c.env)
	f, diags := hclsyntax.ParseConfig([]byte(strings.ReplaceAll(body, "{{uuid}}", fmt.Sprint(time.Now().UnixNano()))), "x.pkr.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, b.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, p := range b.Check(t.Context(), &builders.CheckEnv{Dir: t.TempDir()}) {
		if !p.Warning {
			t.Fatalf("Check: %+v", p)
		}
		t.Logf("Check warns: %+v", p)
	}
	return b
}

// baked is one bake under test.
type baked struct {
	c       *cloud
	b       *Builder
	run     *builders.Run
	leases  *memory
	machine machine.Machine
}

func (c *cloud) bake(t *testing.T, id, body string) *baked {
	t.Helper()
	m := &memory{bake: id, struck: map[string]bool{}}
	x := &baked{c: c, b: c.checked(t, body), leases: m}
	x.run = newRun(t, id, m)
	x.run.Type, x.run.Source = "amazon-ebs", "web"
	x.run.Events = event.Scope{Sink: event.Func(func(e event.Event) { t.Logf("%s: %s", e.Kind, e.Text) })}
	return x
}

func (x *baked) boot(ctx context.Context, t *testing.T) {
	t.Helper()
	var err error
	if x.machine, err = x.b.Boot(ctx, x.run); err != nil {
		t.Fatal(err)
	}
}

func (x *baked) do(t *testing.T, line string) string {
	t.Helper()
	var out bytes.Buffer
	if err := x.machine.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%s: %v: %s", line, err, &out)
	}
	return out.String()
}

// end gives everything back but the finished image.
func (x *baked) end(t *testing.T) {
	t.Helper()
	open := x.leases.Open()
	for _, l := range slices.Backward(open) {
		if l.Data[builders.UntilRecorded] != "" {
			continue
		}
		if err := x.b.Release(context.Background(), l); err != nil {
			t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
			continue
		}
		_ = x.leases.Released(context.Background(), l)
	}
}

// temporary is what is left beside images and their snapshots.
func (c *cloud) temporary() (left []string) {
	for _, th := range c.Cloud.Left() {
		if th.Kind != "image" && th.Kind != "snapshot" && th.Kind != "key" {
			left = append(left, th.String())
		}
	}
	return left
}

// A whole bake: what was provisioned is in the image, and what was put there
// for the bake is not; nothing temporary is left, and few calls were made.
func TestBake(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
	x := c.bake(t, "bake0000000000000001", ebsBody+"user_data = \"#!/bin/sh\\necho user > /opt/by-user-data\\n\"\nrun_tags = { Team = \"{{ .SourceAMIName }}\" }\n")
	before := len(c.Plan().Calls())
	x.boot(t.Context(), t)
	for k, want := range map[string]string{"BuildRegion": "us-east-1", "SourceAMIOwner": "136693071363", "ID": x.b.run.main.id, "User": "admin", "ConnType": "ssh"} {
		if x.run.Values[k] != want {
			t.Errorf("build.%s is %q, want %q", k, x.run.Values[k], want)
		}
	}
	x.do(t, "sudo mkdir -p /opt && echo hello | sudo tee /opt/file")
	key, host := strings.Fields(x.b.run.key.public)[1], hostKeyMark(x.b.run.main.hostKey)
	if got := x.do(t, "ps -eo args | grep -c '[s]leep 2[0-9][0-9][0-9][0-9]; shutdown -h now' || true; ps -eo args | grep -c '[i]ngot-expires' || true"); strings.HasPrefix(got, "0\n0") {
		t.Error("nothing ends the machine when it expires")
	}
	if got := x.do(t, "sudo cat /opt/by-user-data; sudo grep -rlF -e "+host+" /etc/ssh /var/lib/cloud"); !strings.Contains(got, "user\n") || !strings.Contains(got, "/etc/ssh/ssh_host_ed25519_key") {
		t.Errorf("on the machine: %q", got)
	}
	a, err := x.b.Snapshot(t.Context(), x.run)
	if err != nil {
		t.Fatal(err)
	}
	for _, th := range c.Cloud.Left() {
		if th.Kind == "key" || th.Kind == "image" || th.Kind == "snapshot" {
			continue
		}
		if th.Tags[tagBuild] != x.run.BakeID || th.Tags[tagExpires] == "" || th.Tags[tagSource] != "amazon-ebs.web" {
			t.Errorf("%s is not marked: %v", th, th.Tags)
		}
		if th.Kind != "volume" && !strings.HasPrefix(th.Tags["Team"], "debian-12") {
			t.Errorf("%s has no run_tags: %v", th, th.Tags)
		}
	}
	x.end(t)
	if left := c.temporary(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	calls := map[string]int{}
	for _, call := range c.Plan().Calls()[before:] {
		calls[call.Action]++
	}
	t.Logf("calls: %v", calls)
	// How often is looked depends on how busy this host is, which the cloud's time goes by.
	maps.DeleteFunc(calls, func(action string, _ int) bool { return strings.HasPrefix(action, "Describe") })
	want := map[string]int{"ImportKeyPair": 1, "CreateSecurityGroup": 1, "AuthorizeSecurityGroupIngress": 1, "RunInstances": 1, "StopInstances": 1,
		"CreateImage": 2, "TerminateInstances": 1, "DeleteSecurityGroup": calls["DeleteSecurityGroup"], "DeleteKeyPair": 1} // CreateImage once to ask whether it may be made
	if !maps.Equal(calls, want) {
		t.Errorf("the calls are %v, want %v", calls, want)
	}
	ami := a.Places[0].ID
	if got, err := c.ReadFile("us-east-1", ami, "/opt/file"); err != nil || string(got) != "hello\n" {
		t.Errorf("in the image: %q, %v", got, err)
	}
	// A machine of the image, made by hand, looks for what must not be in it.
	for name, secret := range map[string]string{"/etc/ssh/ssh_host_ed25519_key": host, "/home/admin/.ssh/authorized_keys": key, "/root/.ssh/authorized_keys": key} {
		if got, err := c.ReadFile("us-east-1", ami, name); err == nil && bytes.Contains(got, []byte(secret)) {
			t.Errorf("%s of the image has a key of the bake", name)
		}
	}
	ours, _, _ := strings.Cut(ebsBody, "source_ami_filter {")
	y := c.bake(t, "bake0000000000000002", ours+"source_ami = \""+ami+"\"\n")
	y.boot(t.Context(), t)
	if got := y.do(t, "cat /opt/file; sudo grep -rlF -e "+host+" -e "+key+" /etc /var/lib /var/log /root /home /opt 2>/dev/null || true"); got != "hello\n" {
		t.Errorf("a machine of the image has %q", got)
	}
	_ = y.machine.Close()
	y.end(t)
	if left := c.temporary(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if ps := c.Problems(); len(ps) > 0 {
		t.Errorf("the emulator: %v", ps)
	}
}

// leased says whether what a lease names is there, whoever knows its id.
func (c *cloud) leased(l builders.Lease) bool {
	for _, th := range c.Cloud.Left() {
		if th.State == "shutting-down" {
			continue // nothing can stop that any more
		}
		switch l.Kind {
		case leaseImage:
			_, name, _ := strings.Cut(l.Name, "/")
			if th.Kind == "image" && th.Name == name && strings.HasPrefix(l.Name, th.Region+"/") {
				return true
			}
		case leaseParameter:
			if th.Kind == "ssm-parameter" && strings.HasSuffix(l.Name, th.Name) {
				return true
			}
		case leaseInstance:
			// A volume in use goes with its instance, or becomes available by its end.
			if (th.Kind == "instance" || th.Kind == "volume" && th.State == "available") && th.Tags[tagLease] == l.Name {
				return true
			}
		case leaseRole, leaseProfile:
			if strings.HasSuffix(th.Kind, l.Kind) && th.Name == l.Name {
				return true
			}
		default:
			if th.Kind == l.Kind && th.Tags[tagLease] == l.Name {
				return true
			}
		}
	}
	return false
}

func TestSuite(t *testing.T) {
	sandboxtest.Need(t)
	base := ec2.HostImage()
	base.User = "root"
	c := newCloud(t, ec2.Options{Images: []ec2.BaseImage{base}})
	body := strings.NewReplacer("{{uuid}}", "web", "admin", "root").Replace(ebsBody)
	buildertest.Run(t, buildertest.Options{
		New: func() builders.Builder { return New(c.env) },
		// Its bakes come one after another, and each takes the name from the one before.
		Config: body + "force_deregister = true\nforce_delete_snapshot = true\n",
		Exists: c.leased,
		Bad: []buildertest.Bad{
			{Name: "no such AMI", Config: goodRun, Option: "source_ami"},
			{Name: "no such type", Config: strings.Replace(body, "t3.micro", "t3.tiny", 1), Option: "instance_type"},
			{Name: "key without encryption", Config: body + "kms_key_id = \"alias/x\"", Option: "kms_key_id"},
			{Name: "half of the credentials", Config: body + "access_key = \"x\"", Option: "access_key"},
			{Name: "no such interface", Config: body + "ssh_interface = \"x\"", Option: "ssh_interface"},
		},
	})
	if left := c.temporary(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// use boots the bake's machine, looks at it, and gives everything back.
func (x *baked) use(t *testing.T, look func()) {
	t.Helper()
	defer x.end(t)
	x.boot(t.Context(), t)
	if got := x.do(t, "echo up"); got != "up\n" {
		t.Errorf("the machine says %q", got)
	}
	if look != nil {
		look()
	}
	_ = x.machine.Close()
}

func TestVariants(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Speed: 20, Durations: ec2.Durations{Running: 2 * time.Second, SSH: time.Second, Console: 10 * time.Second, Terminated: 2 * time.Second, Detached: time.Second, Profile: 10 * time.Second},
		Consistency: ec2.Consistency{Delay: 2 * time.Second, Misses: 1}})
	agents := ssmtest.New(ssmtest.Options{})
	defer agents.Close()
	c.OnSession(func(s ec2.Session) http.Handler { return agents.Join(s.ID, s.Token, s.Target, s.Port(), s.Dial) })
	spot := strings.Replace(ebsBody, "instance_type = \"t3.micro\"", "spot_instance_types = [\"t3.micro\", \"t3.small\"]", 1)
	var outcome func(ec2.Launch) ec2.Outcome
	c.OnLaunch(func(l ec2.Launch) ec2.Outcome {
		if outcome == nil {
			return ec2.Outcome{}
		}
		return outcome(l)
	})
	none := ec2.Outcome{Code: "InsufficientInstanceCapacity"}
	disk := "launch_block_device_mappings {\ndevice_name = \"/dev/xvdf\"\nvolume_size = 1\n"
	n := 0
	for _, tc := range []struct {
		name, body string
		outcome    func(ec2.Launch) ec2.Outcome
		look       func(x *baked)
		fails      string // what the error has
		stays      string // the kind of what is left on purpose
	}{
		{name: "spot", body: spot, look: func(x *baked) {
			if !x.b.run.main.spot {
				t.Error("it is no spot instance")
			}
		}},
		{name: "spot, second type", body: spot, outcome: func(l ec2.Launch) ec2.Outcome {
			if l.Type == "t3.micro" {
				return none
			}
			return ec2.Outcome{}
		}},
		{name: "spot, none", body: spot, outcome: func(ec2.Launch) ec2.Outcome { return none }, fails: "InsufficientInstanceCapacity"},
		{name: "spot, then on demand", body: spot + "spot_on_demand_fallback = true\n", outcome: func(l ec2.Launch) ec2.Outcome {
			if l.Spot {
				return none
			}
			return ec2.Outcome{}
		}, look: func(x *baked) {
			if x.b.run.main.spot {
				t.Error("it is taken for a spot instance")
			}
		}},
		{name: "another zone", body: ebsBody, outcome: func(l ec2.Launch) ec2.Outcome {
			if !strings.HasSuffix(l.Zone, "b") {
				return none
			}
			return ec2.Outcome{}
		}},
		{name: "no zone", body: ebsBody, outcome: func(ec2.Launch) ec2.Outcome { return none }, fails: "InsufficientInstanceCapacity"},
		{name: "fails while pending", body: ebsBody, outcome: func(ec2.Launch) ec2.Outcome {
			return ec2.Outcome{StateReason: "Client.VolumeLimitExceeded: Volume limit exceeded"}
		}, fails: "Volume limit exceeded"},
		{name: "temporary profile", body: ebsBody + "temporary_iam_instance_profile_policy_document {\nStatement {\nEffect = \"Allow\"\nAction = [\"s3:GetObject\"]\nResource = [\"*\"]\n}\n}\n"},
		{name: "key from the console", body: ebsBody + "inject_host_key = false\n", look: func(x *baked) {
			if x.b.run.main.hostKey != "" {
				t.Error("a host key was put in")
			}
		}},
		{name: "user data with keys of its own", body: ebsBody + "user_data = \"#cloud-config\\nssh_genkeytypes: [ed25519]\\n\"\n"},
		{name: "Session Manager", body: ebsBody + "ssh_interface = \"session_manager\"\ntemporary_iam_instance_profile_policy_document {\nStatement {\nEffect = \"Allow\"\nAction = [\"ssm:*\"]\nResource = [\"*\"]\n}\n}\n", look: func(x *baked) {
			if x.run.Values["Host"] != "127.0.0.1" {
				t.Errorf("it was reached at %s", x.run.Values["Host"])
			}
		}},
		{name: "a public address", body: ebsBody + "associate_public_ip_address = true\n"},
		{name: "a disk that ends with the bake", body: ebsBody + disk + "}\n"},
		{name: "a disk that stays", body: ebsBody + disk + "delete_on_termination = false\n}\n", stays: "volume"},
		{name: "RSA", body: ebsBody + "temporary_key_pair_type = \"rsa\"\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n++
			outcome = nil
			x := c.bake(t, fmt.Sprintf("variant%03d", n), tc.body)
			outcome = tc.outcome
			if tc.fails != "" {
				_, err := x.b.Boot(t.Context(), x.run)
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("%v, want %q", err, tc.fails)
				}
				x.end(t)
			} else {
				x.use(t, func() {
					if tc.look != nil {
						tc.look(x)
					}
				})
			}
			left := c.temporary()
			if tc.stays == "" && len(left) > 0 || tc.stays != "" && (len(left) != 1 || !strings.HasPrefix(left[0], tc.stays+" ")) {
				t.Errorf("left behind: %q, want %q", left, tc.stays)
			}
			c.Baseline()
		})
	}
}

// A machine that is shut down from within is an image where the template says
// so, and is gone otherwise, with an error that says why.
func TestShutDownFromWithin(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	for option, fails := range map[string]string{"disable_stop_instance = true\n": "", "": `shutdown_behavior = "stop"`} {
		x := c.bake(t, fmt.Sprintf("within%d", len(option)), ebsBody+option)
		x.boot(t.Context(), t)
		host := x.b.run.main.hostKey
		x.do(t, "sudo sh -c 'echo hello >/within; (sleep 1; shutdown -h now) >/dev/null 2>&1 </dev/null &'")
		if fails != "" { // it has ended when it is to be stopped
			if _, err := c.session.WaitInstance(t.Context(), "", x.b.run.main.id, types.InstanceStateNameTerminated, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		a, err := x.b.Snapshot(t.Context(), x.run)
		switch {
		case fails != "" && (err == nil || !strings.Contains(err.Error(), fails)):
			t.Errorf("%q: %v, want %q", option, err, fails)
		case fails == "" && err != nil:
			t.Errorf("%q: %v", option, err)
		case fails == "":
			if host != "" {
				t.Error("a host key was put in that could not be taken out for certain")
			}
			if got, err := c.ReadFile("us-east-1", a.Places[0].ID, "/within"); err != nil || string(got) != "hello\n" {
				t.Errorf("in the image: %q, %v", got, err)
			}
		}
		_ = x.machine.Close()
		x.end(t)
		if left := c.temporary(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// At each call from the launch's preparation to the connection, and at each
// fault of it, for good or once: the bake fails or goes on, and a release by
// another process, which knows only the ledger, leaves nothing.
func TestEveryFaultOfBoot(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	c.env.Settle = 300 * time.Millisecond
	// Without a login, so that nothing waits for a machine to boot.
	bodies := map[string]string{
		"on demand": strings.Replace(ebsBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1) +
			"temporary_iam_instance_profile_policy_document {\nStatement {\nEffect = \"Allow\"\nAction = [\"s3:GetObject\"]\nResource = [\"*\"]\n}\n}\n",
		"spot": strings.NewReplacer("ssh_username = \"admin\"", "communicator = \"none\"", "instance_type = \"t3.micro\"", "spot_instance_types = [\"t3.micro\"]").Replace(ebsBody),
	}
	points, failed, n := 0, 0, 0
	for name, body := range bodies {
		// What is throttled for good is not waited for as long as in life.
		body += "aws_polling {\ndelay_seconds = 1\nmax_attempts = 3\n}\n"
		try := func(t *testing.T, decide func(fault.Call) fault.Fault) []fault.Call {
			n++
			x := c.bake(t, fmt.Sprintf("fault%05d", n), body)
			c.Plan().Reset()
			c.Plan().Decide(decide)
			// A call that never comes through is given up by who waits for the bake.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			_, err := x.b.Boot(ctx, x.run)
			cancel()
			c.Plan().Decide(nil)
			calls := c.Plan().Calls()
			if err != nil {
				failed++
				t.Log(err)
			}
			for _, l := range slices.Backward(x.leases.Open()) {
				if err := New(c.env).Release(t.Context(), l); err != nil {
					t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
				}
			}
			if left := c.temporary(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
				c.Baseline()
			}
			return calls
		}
		seen := map[string]bool{}
		for _, call := range try(t, nil) {
			if seen[call.Action] {
				continue
			}
			seen[call.Action] = true
			for _, f := range fault.Sample(len(seen), []fault.Fault{fault.Refuse, fault.Fail, fault.Throttle, fault.Cut, fault.CutAfter, fault.FailAfter, fault.HangAfter}) {
				for _, once := range []bool{true, false} {
					if f == fault.HangAfter && !once {
						continue
					}
					points++
					t.Run(fmt.Sprintf("%s, %s, %s, once %v", name, call.Action, f, once), func(t *testing.T) {
						hits := 0
						try(t, func(at fault.Call) fault.Fault {
							if at.Action != call.Action || once && hits > 0 {
								return fault.None
							}
							hits++
							return f
						})
					})
				}
			}
		}
	}
	t.Logf("%d points, of which %d bakes failed", points, failed)
	if points < 30 || failed < 10 {
		t.Errorf("only %d points, and %d failures", points, failed)
	}
}
