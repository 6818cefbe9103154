//go:build linux

package amazon

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
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
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/ssmtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
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
	said    *said
}

// said keeps what a bake says.
type said struct {
	mu     sync.Mutex
	events []event.Event
}

// text is all of a kind, or of all kinds where that is "".
func (s *said) text(kind event.Kind) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, e := range s.events {
		if kind == "" || e.Kind == kind {
			fmt.Fprintln(&b, e.Text, e.Error, e.Data)
		}
	}
	return b.String()
}

func (c *cloud) bake(t *testing.T, id, body string) *baked {
	t.Helper()
	m := &memory{bake: id, struck: map[string]bool{}}
	x := &baked{c: c, b: c.checked(t, body), leases: m, said: &said{}}
	x.run = newRun(t, id, m)
	x.run.Type, x.run.Source = "amazon-ebs", "web"
	x.run.Events = event.Scope{Sink: event.Func(func(e event.Event) {
		t.Logf("%s: %s", e.Kind, e.Text)
		x.said.mu.Lock()
		defer x.said.mu.Unlock()
		x.said.events = append(x.said.events, e)
	})}
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

// requests are what a cloud was asked, with what is encoded in it.
type requests struct {
	mu  sync.Mutex
	all []url.Values
}

// record stands before the cloud from now on, and keeps what it is asked.
func (c *cloud) record() *requests {
	c.t.Helper()
	to, err := url.Parse(c.URL())
	if err != nil {
		c.t.Fatal(err)
	}
	r := &requests{}
	proxy := httputil.NewSingleHostReverseProxy(to)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		form, err2 := url.ParseQuery(string(body))
		if err := errors.Join(err, err2); err != nil {
			c.t.Errorf("a request that is no form: %v", err)
		}
		r.mu.Lock()
		r.all = append(r.all, form)
		r.mu.Unlock()
		q.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, q)
	}))
	c.t.Cleanup(s.Close)
	c.t.Setenv("AWS_ENDPOINT_URL", s.URL)
	c.connect()
	return r
}

// having are the requests that have text in any of their values, encoded or not.
func (r *requests) having(text string) (found []url.Values) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, form := range r.all {
		if slices.ContainsFunc(slices.Concat(slices.Collect(maps.Values(form))...), func(v string) bool {
			plain, err := base64.StdEncoding.DecodeString(v)
			return strings.Contains(v, text) || err == nil && bytes.Contains(plain, []byte(text))
		}) {
			found = append(found, form)
		}
	}
	return found
}

// A whole bake: what was provisioned is in the image, and what was put there
// for the bake is not; nothing temporary is left, and few calls were made.
func TestBake(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{Durations: ec2.Realistic(), Speed: 50})
	asked := c.record()
	x := c.bake(t, "bake0000000000000001", ebsBody+"user_data = \"#!/bin/sh\\necho user > /opt/by-user-data\\n\"\nrun_tags = { Team = \"{{ .SourceAMIName }}\" }\n")
	before := len(c.Plan().Calls())
	x.boot(t.Context(), t)
	for k, want := range map[string]string{"BuildRegion": "us-east-1", "SourceAMIOwner": "136693071363", "ID": x.b.run.main.id, "User": "admin", "ConnType": "ssh"} {
		if x.run.Values[k] != want {
			t.Errorf("build.%s is %q, want %q", k, x.run.Values[k], want)
		}
	}
	x.do(t, "sudo mkdir -p /opt && echo hello | sudo tee /opt/file")
	x.do(t, "cloud-init status --wait") // scripts of the user data run on when one can log in
	key, host := strings.Fields(x.b.run.key.public)[1], hostKeyMark(x.b.run.main.hostKey)
	// The group lets this host in at one port, and out whoever wants: as EC2 makes it.
	groups, err := c.session.EC2("").DescribeSecurityGroups(t.Context(), &ec2api.DescribeSecurityGroupsInput{GroupIds: x.b.run.groups})
	if err != nil || len(groups.SecurityGroups) != 1 {
		t.Fatalf("the groups %v: %v", x.b.run.groups, err)
	}
	if got := rules(groups.SecurityGroups[0]); !slices.Equal(got, []string{"in tcp 22-22 127.0.0.1/32", "out -1 0-0 0.0.0.0/0"}) {
		t.Errorf("the temporary group opens %q", got)
	}
	// Who may ask for the user data has this one machine's host key.
	data, err := c.session.EC2("").DescribeInstanceAttribute(t.Context(), &ec2api.DescribeInstanceAttributeInput{InstanceId: &x.b.run.main.id, Attribute: types.InstanceAttributeNameUserData})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := base64.StdEncoding.DecodeString(aws.ToString(data.UserData.Value)); err != nil || !bytes.Contains(got, []byte(host)) {
		t.Errorf("the user data has no host key: %q, %v", got, err)
	}
	ledger, err := json.Marshal(x.leases.Open())
	if err != nil || len(x.leases.Open()) < 3 || bytes.Contains(ledger, []byte("PRIVATE KEY")) {
		t.Errorf("the ledger is %s, %v", ledger, err)
	}
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
	// Only the launch carries a private key: the host's, in its user data.
	private := hostKeyMark(string(x.b.run.key.private))
	if got := asked.having(private); private == "" || len(got) > 0 {
		t.Errorf("the temporary key's private half is told: %v", got)
	}
	if got := asked.having(key); len(got) != 1 || got[0].Get("Action") != "ImportKeyPair" {
		t.Errorf("its public half is told by %v", got)
	}
	if got := asked.having("PRIVATE KEY"); len(got) != 1 || got[0].Get("Action") != "RunInstances" || got[0].Get("InstanceInitiatedShutdownBehavior") != "terminate" || len(asked.having(host)) != 1 {
		t.Errorf("private keys are told by %v", got)
	}
	if got := x.said.text(""); strings.Contains(got, "PRIVATE KEY") || strings.Contains(got, private) || strings.Contains(got, host) {
		t.Errorf("the bake has said %s", got)
	}
	// A finished image is nobody's to sweep by its tags.
	if orphans, err := x.b.Orphans(t.Context(), 0); err != nil || len(orphans) > 0 {
		t.Errorf("orphans %+v, %v", orphans, err)
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
	if other := hostKeyMark(y.b.run.main.hostKey); other == "" || other == host {
		t.Error("two machines have one host key")
	}
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

// rules are what a security group opens, one a line.
func rules(g types.SecurityGroup) (all []string) {
	for way, ps := range map[string][]types.IpPermission{"in": g.IpPermissions, "out": g.IpPermissionsEgress} {
		for _, p := range ps {
			line := fmt.Sprintf("%s %s %d-%d", way, aws.ToString(p.IpProtocol), aws.ToInt32(p.FromPort), aws.ToInt32(p.ToPort))
			for _, r := range p.IpRanges {
				all = append(all, line+" "+aws.ToString(r.CidrIp))
			}
			for _, r := range p.Ipv6Ranges {
				all = append(all, line+" "+aws.ToString(r.CidrIpv6))
			}
			for _, r := range p.UserIdGroupPairs {
				all = append(all, line+" "+aws.ToString(r.GroupId))
			}
		}
	}
	slices.Sort(all)
	return all
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

// wantRole checks that the temporary role is EC2's to take on, has what the
// template says and no more, and was marked by the call that made it.
func wantRole(t *testing.T, x *baked) {
	name := x.b.run.name("")
	role, err := x.c.session.IAM().GetRole(t.Context(), &iam.GetRoleInput{RoleName: &name})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := url.QueryUnescape(aws.ToString(role.Role.AssumeRolePolicyDocument)); err != nil ||
		got != `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}` {
		t.Errorf("who may take the role on: %s, %v", got, err)
	}
	policies, err := x.c.session.IAM().ListRolePolicies(t.Context(), &iam.ListRolePoliciesInput{RoleName: &name})
	if err != nil || !slices.Equal(policies.PolicyNames, []string{"ingot"}) {
		t.Fatalf("the role's policies: %+v, %v", policies, err)
	}
	attached, err := x.c.session.IAM().ListAttachedRolePolicies(t.Context(), &iam.ListAttachedRolePoliciesInput{RoleName: &name})
	if err != nil || len(attached.AttachedPolicies) > 0 {
		t.Errorf("other policies of the role: %+v, %v", attached, err)
	}
	policy, err := x.c.session.IAM().GetRolePolicy(t.Context(), &iam.GetRolePolicyInput{RoleName: &name, PolicyName: aws.String("ingot")})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := url.QueryUnescape(aws.ToString(policy.PolicyDocument)); err != nil ||
		got != `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["*"]}]}` {
		t.Errorf("what the role may: %s, %v", got, err)
	}
	marked := 0
	for _, th := range x.c.Cloud.Left() {
		if th.Kind == "iam-role" || th.Kind == "instance-profile" {
			marked++
			if th.Tags[tagBuild] != x.run.BakeID || th.Tags[tagSource] != "amazon-ebs.web" || th.Tags[tagLease] != name || th.Tags[tagCreated] == "" || th.Tags[tagExpires] == "" {
				t.Errorf("%s is not marked", th)
			}
		}
	}
	if marked != 2 {
		t.Errorf("there are %d of a role and its profile", marked)
	}
	for _, call := range x.c.Plan().Calls() {
		if strings.HasPrefix(call.Action, "Tag") || call.Action == "CreateTags" {
			t.Errorf("%s marks later what was made", call)
		}
	}
}

// A machine whose host key cannot be known is not talked to.
func TestNoConnectionWithoutHostKey(t *testing.T) {
	sandboxtest.Need(t)
	image := ec2.HostImage()
	image.Name, image.Windows = "windows-2022", true
	c := newCloud(t, ec2.Options{Images: []ec2.BaseImage{ec2.HostImage(), image}, Durations: ec2.Durations{Console: time.Hour}})
	for _, windows := range []bool{false, true} {
		t.Run(fmt.Sprintf("Windows %v", windows), func(t *testing.T) {
			body := ebsBody + "inject_host_key = false\naws_polling {\ndelay_seconds = 1\nmax_attempts = 2\n}\n"
			if windows {
				body = strings.Replace(ebsBody, "debian-12-*", "windows-*", 1) + "ssh_password = \"x\"\n"
				if errs, _, text := c.findings(strings.Replace(body, "{{uuid}}", "x", 1), builders.CheckEnv{}); !slices.Equal(errs, []string{"ssh_host_key"}) {
					t.Errorf("the check finds %s", text)
				}
			}
			x := c.bake(t, fmt.Sprintf("unknown%v", windows), body+"ssh_ignore_host_key = true\n")
			defer x.end(t)
			x.b.o.SSHIgnoreHostKey = false // past the check
			c.Plan().Reset()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := x.b.Boot(ctx, x.run)
			if err == nil || !strings.Contains(err.Error(), "the SSH host key of the instance is not known") {
				t.Errorf("Boot: %v", err)
			}
			if looked := slices.ContainsFunc(c.Plan().Calls(), func(call fault.Call) bool { return call.Action == "GetConsoleOutput" }); looked == windows {
				t.Errorf("the console was looked at: %v", looked)
			}
			if n := c.Tried(x.b.run.main.id); n > 0 {
				t.Errorf("%d connections were made", n)
			}
		})
	}
}

// Where nothing can be added to the user data, the bake says that nothing ends the machine.
func TestWarnsWithoutTimer(t *testing.T) {
	sandboxtest.Need(t)
	windows := ec2.HostImage()
	windows.Name, windows.Windows = "windows-2022", true
	c := newCloud(t, ec2.Options{Images: []ec2.BaseImage{ec2.HostImage(), windows}})
	linuxBody := strings.Replace(ebsBody, "ssh_username = \"admin\"", "communicator = \"none\"", 1)
	windowsBody := strings.Replace(linuxBody, "debian-12-*", "windows-*", 1)
	n := 0
	for body, warns := range map[string]bool{
		linuxBody:                             false,
		linuxBody + "user_data = \"hello\"\n": true,
		windowsBody:                           false,
		windowsBody + "user_data = \"version: 1\"\n": true,
	} {
		n++
		x := c.bake(t, fmt.Sprintf("timer%d", n), body)
		if _, err := x.b.Boot(t.Context(), x.run); err != nil {
			t.Fatal(err)
		}
		if got := x.said.text(event.Warning); strings.Contains(got, "does not end itself") != warns {
			t.Errorf("%s\nwarns %q", body, got)
		}
		x.end(t)
	}
}

// The template's own security groups are used as they are, and none is made.
func TestOwnSecurityGroups(t *testing.T) {
	sandboxtest.Need(t)
	c := newCloud(t, ec2.Options{})
	api := c.session.EC2("")
	made, err := api.CreateSecurityGroup(t.Context(), &ec2api.CreateSecurityGroupInput{GroupName: aws.String("open"), Description: aws.String("to everybody")})
	if err != nil {
		t.Fatal(err)
	}
	everybody := types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}
	if _, err := api.AuthorizeSecurityGroupIngress(t.Context(), &ec2api.AuthorizeSecurityGroupIngressInput{GroupId: made.GroupId, IpPermissions: []types.IpPermission{everybody}}); err != nil {
		t.Fatal(err)
	}
	groups := func() (all []string) {
		out, err := api.DescribeSecurityGroups(t.Context(), &ec2api.DescribeSecurityGroupsInput{})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range out.SecurityGroups {
			all = append(all, fmt.Sprint(*g.GroupId, rules(g), tagMap(g.Tags)))
		}
		return all
	}
	before := groups()
	x := c.bake(t, "owngroups", ebsBody+"security_group_ids = [\""+*made.GroupId+"\"]\n")
	c.Plan().Reset()
	x.use(t, func() {
		i, err := c.session.Instances("").Get(t.Context(), x.b.run.main.id)
		if err != nil || len(i.SecurityGroups) != 1 || *i.SecurityGroups[0].GroupId != *made.GroupId {
			t.Errorf("the instance's groups: %+v, %v", i.SecurityGroups, err)
		}
		if got := groups(); !slices.Equal(got, before) {
			t.Errorf("the groups are %q, and were %q", got, before)
		}
	})
	if got := groups(); !slices.Equal(got, before) {
		t.Errorf("after the bake the groups are %q, and were %q", got, before)
	}
	for _, call := range c.Plan().Calls() {
		if strings.Contains(call.Action, "SecurityGroup") && !strings.HasPrefix(call.Action, "Describe") {
			t.Errorf("the bake calls %s", call)
		}
	}
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
	private, public, err := (&communicator.SSH{TemporaryKeyPairType: "ed25519"}).NewKey()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.session.EC2("").ImportKeyPair(t.Context(), &ec2api.ImportKeyPairInput{KeyName: aws.String("mine"), PublicKeyMaterial: []byte(public)}); err != nil {
		t.Fatal(err)
	}
	err = c.session.Wait(t.Context(), awscloud.Wait{What: "the key pair to be known", First: -1}, func(ctx context.Context) (bool, string, error) {
		_, err := c.session.EC2("").DescribeKeyPairs(ctx, &ec2api.DescribeKeyPairsInput{KeyNames: []string{"mine"}})
		return err == nil, "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Baseline()
	none := ec2.Outcome{Code: "InsufficientInstanceCapacity"}
	disk := "launch_block_device_mappings {\ndevice_name = \"/dev/xvdf\"\nvolume_size = 1\n"
	n := 0
	for _, tc := range []struct {
		name, body string
		outcome    func(ec2.Launch) ec2.Outcome
		look       func(t *testing.T, x *baked)
		fails      string // what the error has
		stays      string // the kind of what is left on purpose
	}{
		{name: "spot", body: spot, look: func(t *testing.T, x *baked) {
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
		}, look: func(t *testing.T, x *baked) {
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
		{name: "temporary profile", body: ebsBody + "temporary_iam_instance_profile_policy_document {\nStatement {\nEffect = \"Allow\"\nAction = [\"s3:GetObject\"]\nResource = [\"*\"]\n}\n}\n", look: wantRole},
		{name: "key from the console", body: ebsBody + "inject_host_key = false\n", look: func(t *testing.T, x *baked) {
			if x.b.run.main.hostKey != "" {
				t.Error("a host key was put in")
			}
			if c.Tried(x.b.run.main.id) == 0 {
				t.Error("the emulator counts no connections")
			}
			// Its own keys stay, and what cloud-init keeps.
			if err := x.b.run.clean(t.Context(), x.b.run.main); err != nil {
				t.Fatal(err)
			}
			if got := x.do(t, "sudo wc -l </home/admin/.ssh/authorized_keys; sudo ls /etc/ssh/ssh_host_ed25519_key /var/lib/cloud/instance/user-data.txt"); !strings.HasPrefix(got, "0\n/etc/ssh/ssh_host_ed25519_key\n/var/") {
				t.Errorf("after the cleaning there is %q", got)
			}
		}},
		{name: "a key pair of the account's", body: ebsBody + "ssh_keypair_name = \"mine\"\nssh_private_key_file = \"" + file + "\"\n", look: func(t *testing.T, x *baked) {
			if err := x.b.run.clean(t.Context(), x.b.run.main); err != nil {
				t.Fatal(err)
			}
			if got := x.do(t, "cat /home/admin/.ssh/authorized_keys; sudo ls /etc/ssh"); !strings.Contains(got, strings.Fields(public)[1]) || strings.Contains(got, "ssh_host_ed25519_key\n") {
				t.Errorf("after the cleaning there is %q", got)
			}
		}},
		{name: "user data with keys of its own", body: ebsBody + "user_data = \"#cloud-config\\nssh_genkeytypes: [ed25519]\\n\"\n"},
		{name: "Session Manager", body: ebsBody + "ssh_interface = \"session_manager\"\ntemporary_iam_instance_profile_policy_document {\nStatement {\nEffect = \"Allow\"\nAction = [\"ssm:*\"]\nResource = [\"*\"]\n}\n}\n", look: func(t *testing.T, x *baked) {
			if x.run.Values["Host"] != "127.0.0.1" {
				t.Errorf("it was reached at %s", x.run.Values["Host"])
			}
		}},
		{name: "a public address", body: ebsBody + "associate_public_ip_address = true\n"},
		{name: "keys that stay", body: ebsBody, look: func(t *testing.T, x *baked) {
			x.do(t, "sudo sh -c 'echo "+hostKeyMark(x.b.run.main.hostKey)+" >/var/log/copied; mv /home/admin/.ssh/authorized_keys /opt/keys; ln -s /opt/keys /home/admin/.ssh/authorized_keys'")
			_, err := x.b.Snapshot(t.Context(), x.run)
			if err == nil || !strings.Contains(err.Error(), "still there: /home/admin/.ssh/authorized_keys /var/log/copied") {
				t.Errorf("keys are left in the machine: %v", err)
			}
			if i := slices.IndexFunc(c.Cloud.Left(), func(th ec2.Thing) bool { return th.Kind == "image" }); i >= 0 {
				t.Error("there is an image with them")
			}
		}},
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
						tc.look(t, x)
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
	for n, tc := range []struct {
		body, fails string
		gone        bool // before it could be cleaned
	}{
		{body: ebsBody + "disable_stop_instance = true\n"},
		{body: ebsBody + "disable_stop_instance = true\n", gone: true},
		{body: strings.Replace(ebsBody, "instance_type = \"t3.micro\"", "spot_instance_types = [\"t3.micro\"]", 1) +
			"temporary_iam_instance_profile_policy_document {\nStatement {\nEffect = \"Allow\"\nAction = [\"s3:GetObject\"]\nResource = [\"*\"]\n}\n}\n", fails: `shutdown_behavior = "stop"`},
	} {
		fails := tc.fails
		x := c.bake(t, fmt.Sprintf("within%d", n), tc.body)
		x.boot(t.Context(), t)
		host, key := x.b.run.main.hostKey, strings.Fields(x.b.run.key.public)[1]
		// It may be gone before it has answered.
		err := x.machine.Run(t.Context(), machine.Command{Line: "sudo sh -c 'echo hello >/within; (sleep 1; shutdown -h now) >/dev/null 2>&1 </dev/null &'"})
		if exit, answered := errors.AsType[*machine.ExitError](err); answered && exit.Status != machine.DisconnectStatus {
			t.Fatal(err)
		}
		if fails != "" { // it has ended when it is to be stopped
			if _, err := c.session.WaitInstance(t.Context(), "", x.b.run.main.id, types.InstanceStateNameTerminated, time.Time{}); err != nil {
				t.Fatal(err)
			}
			// What has no timer is there until somebody sweeps.
			for _, kind := range []string{"security-group", "key-pair", "iam-role", "instance-profile", "launch-template"} {
				if !slices.ContainsFunc(c.temporary(), func(th string) bool { return strings.HasPrefix(th, kind+" ") }) {
					t.Errorf("the %s has ended with the instance: %q", kind, c.temporary())
				}
			}
		} else if tc.gone {
			if _, err := c.session.WaitInstance(t.Context(), "", x.b.run.main.id, types.InstanceStateNameStopped, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		a, err := x.b.Snapshot(t.Context(), x.run)
		switch {
		case fails != "" && (err == nil || !strings.Contains(err.Error(), fails)):
			t.Errorf("%d: %v, want %q", n, err, fails)
		case fails == "" && err != nil:
			t.Errorf("%d: %v", n, err)
		case fails == "":
			if host != "" {
				t.Error("a host key was put in that could not be taken out for certain")
			}
			if got, err := c.ReadFile("us-east-1", a.Places[0].ID, "/within"); err != nil || string(got) != "hello\n" {
				t.Errorf("in the image: %q, %v", got, err)
			}
			got, err := c.ReadFile("us-east-1", a.Places[0].ID, "/home/admin/.ssh/authorized_keys")
			warned := strings.Contains(x.said.text(event.Warning), "temporary key could not be taken out")
			if err != nil || bytes.Contains(got, []byte(key)) != warned || tc.gone && !warned {
				t.Errorf("gone %v, warned %v, authorized_keys %q, %v", tc.gone, warned, got, err)
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
			patience := 5 * time.Second
			if decide == nil {
				patience = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := x.b.Boot(ctx, x.run)
			cancel()
			if decide == nil && err != nil {
				t.Fatalf("a bake without a fault: %v", err)
			}
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
