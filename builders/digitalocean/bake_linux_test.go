//go:build linux

package digitalocean

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

// ledger is builders.Leases in memory.
type ledger struct {
	bake string
	mu   sync.Mutex
	all  []builders.Lease
	gone map[string]bool
	// fail is asked before each write.
	fail func(what string, l builders.Lease) error
	// dead is set when the process has been killed: nothing is written any more.
	dead *atomic.Bool
}

var errDead = errors.New("the process is dead")

func (l *ledger) killed() bool { return l.dead != nil && l.dead.Load() }

func (l *ledger) write(what string, lease builders.Lease) error {
	if l.fail == nil {
		return nil
	}
	return l.fail(what, lease)
}

func (l *ledger) Intend(_ context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killed() {
		return builders.Lease{}, errDead
	}
	lease := builders.Lease{ID: fmt.Sprint(len(l.all) + 1), BakeID: l.bake, Builder: "digitalocean", Kind: kind, Name: name, Data: maps.Clone(data), Created: time.Now()}
	l.all = append(l.all, lease)
	return lease, l.write("intend", lease)
}

func (l *ledger) Created(_ context.Context, lease builders.Lease, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killed() {
		return errDead
	}
	for i := range l.all {
		if l.all[i].ID == lease.ID {
			l.all[i].ExternalID = id
		}
	}
	return l.write("created", lease)
}

func (l *ledger) Released(_ context.Context, lease builders.Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killed() {
		return errDead
	}
	if l.gone == nil {
		l.gone = map[string]bool{}
	}
	l.gone[lease.ID] = true
	return l.write("released", lease)
}

func (l *ledger) Open() (open []builders.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lease := range l.all {
		if !l.gone[lease.ID] {
			open = append(open, lease)
		}
	}
	return open
}

// bake is one bake under test.
type bake struct {
	t       testing.TB
	c       *digitalocean.Cloud
	shared  *docloud.Shared
	b       *Builder
	run     *builders.Run
	ledger  *ledger
	machine machine.Machine
	mu      sync.Mutex
	said    []string
}

func tempo() *docloud.Shared { return docloud.NewShared(docloud.Tempo{Scale: quick}) }

var bakes struct {
	sync.Mutex
	n int
}

func begin(t testing.TB, c *digitalocean.Cloud, shared *docloud.Shared, body string) *bake {
	t.Helper()
	bakes.Lock()
	bakes.n++
	id := fmt.Sprintf("testbake%012d", bakes.n)
	bakes.Unlock()
	k := &bake{t: t, c: c, shared: shared, b: New(shared), ledger: &ledger{bake: id}}
	k.run = &builders.Run{
		BakeID: id, Name: "digitalocean.web", Type: "digitalocean", Source: "web", Image: "web", Dir: t.TempDir(), Created: time.Now(),
		Values: map[string]string{}, Leases: k.ledger,
		Events: event.Scope{Sink: event.Func(func(e event.Event) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.said = append(k.said, string(e.Kind)+": "+e.Text)
		})},
	}
	f, diags := hclsyntax.ParseConfig([]byte(body), "source.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, k.b.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return k
}

func (k *bake) says(what string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.said, func(s string) bool { return strings.Contains(s, what) })
}

// check fails on anything that Check finds but warnings.
func (k *bake) check() {
	k.t.Helper()
	for _, p := range k.b.Check(k.t.Context(), &builders.CheckEnv{Dir: k.run.Dir}) {
		if !p.Warning {
			k.t.Fatalf("%+v", p)
		}
	}
}

// problems are what Check finds, by option.
func (k *bake) problems() map[string]string {
	found := map[string]string{}
	for _, p := range k.b.Check(k.t.Context(), &builders.CheckEnv{Dir: k.run.Dir}) {
		found[p.Option] += p.Summary + " " + p.Detail + "\n"
	}
	return found
}

// image bakes an image: what the engine does up to the snapshot, with a script
// for a provisioner.
func (k *bake) image(ctx context.Context, script string) (*builders.Artifact, error) {
	var err error
	if k.machine, err = k.b.Boot(ctx, k.run); err != nil {
		return nil, err
	}
	if k.machine != nil {
		var out bytes.Buffer
		if err := k.machine.Run(ctx, machine.Command{Line: "exec 2>&1\n" + script, Stdout: &out}); err != nil {
			return nil, fmt.Errorf("the script: %w: %s", err, &out)
		}
	}
	return k.b.Snapshot(ctx, k.run)
}

// end gives back as the engine does: after an error that leaves an image to be
// resumed, without what Resume needs; when it is finished, without the image.
// A sweep is another process.
func (k *bake) end(err error) {
	k.t.Helper()
	if k.machine != nil {
		_ = k.machine.Close()
		k.machine = nil
	}
	for _, l := range slices.Backward(k.ledger.Open()) {
		if l.Data[builders.UntilRecorded] != "" && (err == nil || errors.Is(err, builders.ErrUnfinished)) {
			continue
		}
		if rerr := k.b.Release(context.WithoutCancel(k.t.Context()), l); rerr != nil {
			k.t.Errorf("release %s %s: %v", l.Kind, l.Name, rerr)
			continue
		}
		_ = k.ledger.Released(k.t.Context(), l) // to memory
	}
}

// must bakes an image and gives everything else back.
func (k *bake) must(script string) *builders.Artifact {
	k.t.Helper()
	k.check()
	a, err := k.image(k.t.Context(), script)
	if err != nil {
		k.t.Fatal(err)
	}
	k.end(nil)
	return a
}

// resume finishes the image as another process.
func (k *bake) resume(scale float64) (*builders.Artifact, error) {
	other := New(docloud.NewShared(docloud.Tempo{Scale: scale}))
	run := *k.run
	run.Values = map[string]string{}
	return other.Resume(k.t.Context(), &run, k.ledger.Open())
}

// left are the temporary things in the account: everything but images, and the
// tags that the template wants on them.
func left(c *digitalocean.Cloud, wanted ...string) (names []string) {
	for _, r := range c.Left() {
		if r.Kind == "image" || r.Kind == "tag" && slices.Contains(wanted, r.ID) || r.Kind == "reserved_ip" || r.Kind == "project" || r.Kind == "vpc" {
			continue
		}
		names = append(names, r.String())
	}
	return names
}

func nothingLeft(t testing.TB, c *digitalocean.Cloud, wanted ...string) {
	t.Helper()
	for _, name := range left(c, wanted...) {
		t.Errorf("left: %s", name)
	}
}

// number is the image's, as the artifact's id has it.
func number(t testing.TB, a *builders.Artifact) string {
	t.Helper()
	_, n, ok := strings.Cut(a.ID, ":")
	if !ok {
		t.Fatalf("the artifact's id is %q", a.ID)
	}
	return n
}

func TestBake(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	shared := tempo()
	k := begin(t, c, shared, source(c, `
snapshot_regions = ["fra1", "nyc3", "sgp1", "fra1"]
snapshot_tags    = ["web", "env:test"]
tags             = ["builder"]
user_data        = "#cloud-config\nruncmd:\n- echo by-user-data >/srv/user-data\n"
ipv6             = true
monitoring       = true
backups          = true
`))
	a := k.must("until test -s /srv/user-data; do sleep 0.05; done; mkdir -p /srv/web && echo baked >/srv/web/index && ls -R /var/lib/cloud && cat /etc/ssh/ssh_host_ed25519_key.pub")
	if !strings.HasPrefix(a.ID, "nyc3,fra1,sgp1:") || a.BuilderID != "pearkes.digitalocean" || a.Parent != "debian-12-x64" {
		t.Errorf("%+v", a)
	}
	if want := fmt.Sprintf("A snapshot was created: 'suite' (ID: %s) in regions 'nyc3,fra1,sgp1'", number(t, a)); a.Text != want {
		t.Errorf("%q, want %q", a.Text, want)
	}
	if len(a.Places) != 3 || a.Places[2].Region != "sgp1" || a.Places[2].ID != number(t, a) {
		t.Errorf("%+v", a.Places)
	}
	images := c.Left("image")
	if len(images) != 1 || !slices.Equal(images[0].Regions, []string{"nyc3", "fra1", "sgp1"}) && !slices.Equal(images[0].Regions, []string{"nyc3", "sgp1", "fra1"}) {
		t.Errorf("%v", images)
	}
	for _, tag := range []string{"web", "env:test"} {
		if !slices.Contains(images[0].Tags, tag) {
			t.Errorf("the image lacks the tag %s: %v", tag, images[0].Tags)
		}
	}
	if k.run.Values["ID"] == "" || k.run.Values["SSHPublicKey"] == "" || !strings.HasPrefix(k.run.Values["Host"], "127.") {
		t.Errorf("%v", k.run.Values)
	}
	nothingLeft(t, c, "web", "env:test", "builder")

	// What the image has, and what it has not.
	if b, err := c.ReadFile(number(t, a), "/srv/web/index"); err != nil || string(b) != "baked\n" {
		t.Errorf("%q, %v", b, err)
	}
	for _, name := range []string{"/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"} {
		if b, err := c.ReadFile(number(t, a), name); err == nil && strings.Contains(string(b), k.b.m.host.marks()[0]) {
			t.Errorf("the image has the host key of its bake in %s", name)
		}
	}
	if b, _ := c.ReadFile(number(t, a), "/root/.ssh/authorized_keys"); strings.Contains(string(b), strings.Fields(k.b.m.public)[1]) {
		t.Errorf("the image has the key of its bake: %s", b)
	}

	// A second bake begins where the first has ended, by name and by tag.
	for _, base := range []string{`image_name = "suite"`, "image_tag = \"env:test\"\nimage_name = \"suite\"", `image_tag = "web"`, "image = " + number(t, a)} {
		body := strings.Replace(source(c, base), "image         = \"debian-12-x64\"\n", "", 1)
		body = strings.Replace(body, `"suite"`+"\n", `"second"`+"\n", 1)
		k2 := begin(t, c, shared, body)
		a2 := k2.must("grep -q baked /srv/web/index && test ! -e /srv/second && echo again >/srv/second")
		if a2.Parent != number(t, a) {
			t.Errorf("%s: its parent is %q, want %s", base, a2.Parent, number(t, a))
		}
		if err := a2.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := a.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if images := c.Left("image"); len(images) > 0 {
		t.Errorf("left: %v", images)
	}
}

// TestNoKeyStays looks for the keys of the bake everywhere on a machine that was
// booted from the image, where the image was cleaned and where it was not.
func TestNoKeyStays(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	k := begin(t, c, tempo(), source(c, `user_data = "#!/bin/sh\ncp -r /var/lib/cloud /srv/copy\n"`))
	k.check()
	var err error
	if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
		t.Fatal(err)
	}
	mark, key := k.b.m.host.marks()[0], strings.Fields(k.b.m.public)[1]
	look := func(m machine.Machine, dirs string) string {
		t.Helper()
		var out bytes.Buffer
		if err := m.Run(t.Context(), machine.Command{
			Line: "grep -rlF -e \"$MARK\" -e \"$KEY\" " + dirs + " 2>/dev/null; exit 0", Env: map[string]string{"MARK": mark, "KEY": key}, Stdout: &out,
		}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	// The script runs on when the machine can be logged in to.
	if err := k.machine.Run(t.Context(), machine.Command{Line: "cloud-init status --wait"}); err != nil {
		t.Fatal(err)
	}
	const dirs = "/etc /root /home /var/lib/cloud /var/log /tmp /var/tmp /srv"
	before := look(k.machine, dirs)
	if !strings.Contains(before, "/etc/ssh/ssh_host_ed25519_key\n") || !strings.Contains(before, "/root/.ssh/authorized_keys\n") {
		t.Errorf("while it is baked the machine has its keys in %q", before)
	}
	if !strings.Contains(before, "/user-data.txt\n") {
		t.Errorf("the host key is read in %q, and not in the user data", before)
	}
	// A provisioner that copies them somewhere is found out.
	if strings.Contains(before, "/srv/copy") {
		if _, err := k.b.Snapshot(t.Context(), k.run); err == nil || !strings.Contains(err.Error(), "still in: /srv/copy") {
			t.Fatalf("a copy of the host key in /srv: %v", err)
		}
		if err := k.machine.Run(t.Context(), machine.Command{Line: "rm -r /srv/copy"}); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Error("the script of the user data has not copied what cloud-init keeps, so that nothing is tried")
	}
	a, err := k.b.Snapshot(t.Context(), k.run)
	if err != nil {
		t.Fatal(err)
	}
	k.b.m.public = "" // look at the image alone
	m, err := k.b.BootProof(t.Context(), k.run, a)
	if err != nil {
		t.Fatal(err)
	}
	// The droplet was given the same temporary key, and another host key.
	if found := strings.TrimSpace(look(m, dirs)); found != "/root/.ssh/authorized_keys" {
		t.Errorf("a machine from the image has the keys of the bake in %q", found)
	}
	_ = m.Close()
	k.end(nil)
	nothingLeft(t, c)
}

// TestTemporaryKeyAlone: without a host key of the bake, what cloud-init keeps of
// the temporary one goes too, and what else is in the same files stays.
func TestTemporaryKeyAlone(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	k := begin(t, c, tempo(), source(c, "inject_host_key = false\nssh_ignore_host_key = true\n"))
	k.check()
	var err error
	if k.machine, err = k.b.Boot(t.Context(), k.run); err != nil {
		t.Fatal(err)
	}
	if err := k.machine.Run(t.Context(), machine.Command{
		Line: `mkdir -p /var/lib/cloud/instances/i /home/ann/.ssh
printf 'pickle %s pickle' "$KEY" >/var/lib/cloud/instances/i/obj.pkl
printf 'one\nkey %s\ntwo\n' "$KEY" >/var/log/cloud-init.log
printf 'ssh-ed25519 %s bake\n' "$KEY" >/home/ann/.ssh/authorized_keys
printf 'ssh-ed25519 AAAAtheirs mine\nssh-ed25519 %s bake\n' "$KEY" >>/root/.ssh/authorized_keys`,
		Env: map[string]string{"KEY": strings.Fields(k.b.m.public)[1]},
	}); err != nil {
		t.Fatal(err)
	}
	a, err := k.b.Snapshot(t.Context(), k.run)
	if err != nil {
		t.Fatal(err)
	}
	k.end(nil)
	nothingLeft(t, c)
	for name, want := range map[string]string{"/var/log/cloud-init.log": "one\ntwo\n", "/home/ann/.ssh/authorized_keys": "", "/root/.ssh/authorized_keys": "ssh-ed25519 AAAAtheirs mine\n"} {
		if b, err := c.ReadFile(number(t, a), name); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", name, b, err, want)
		}
	}
	if b, err := c.ReadFile(number(t, a), "/var/lib/cloud/instances/i/obj.pkl"); err == nil {
		t.Errorf("cloud-init's memory of the droplet is in the image: %q", b)
	}
}

// overhear puts a proxy before the API, and returns its address and what it has been sent.
func overhear(t testing.TB, c *digitalocean.Cloud) (string, func() []string) {
	t.Helper()
	at, err := url.Parse(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard []string
	next := httputil.NewSingleHostReverseProxy(at)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := httputil.DumpRequest(r, true)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		heard = append(heard, string(text))
		mu.Unlock()
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(heard)
	}
}

func TestPlanHasNoSecret(t *testing.T) {
	c := cloud(t, digitalocean.Options{Durations: durations()})
	at, heard := overhear(t, c)
	k := begin(t, c, tempo(), strings.Replace(source(c, ""), c.URL(), at, 1))
	k.must("true")
	text, err := json.Marshal(k.ledger.all)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	said := strings.Join(k.said, "\n")
	k.mu.Unlock()
	for what, secret := range map[string]string{"token": c.Token(), "host key": k.b.m.host.marks()[0], "private key": "PRIVATE KEY"} {
		if bytes.Contains(text, []byte(secret)) || strings.Contains(said, secret) {
			t.Errorf("the %s is in the ledger, or was said: %s\n%s", what, text, said)
		}
	}

	// DigitalOcean is told the public half of the key to log in with, and of the
	// host key the private one too, in the user data.
	login := (&hostKey{private: string(k.b.m.private)}).marks()
	if len(login) == 0 {
		t.Fatal("the temporary key is of no form that is known here")
	}
	told := map[string]bool{}
	for _, text := range heard() {
		what, _, _ := strings.Cut(text, " HTTP/")
		for _, mark := range login {
			if strings.Contains(text, mark) {
				t.Errorf("%s has the private key to log in with", what)
			}
		}
		begun := strings.Count(text, "BEGIN OPENSSH PRIVATE KEY")
		switch what {
		case "POST /v2/droplets":
			told[what] = begun == 1 && strings.Contains(text, k.b.m.host.marks()[0])
		case "POST /v2/account/keys":
			told[what] = strings.Contains(text, strings.Fields(k.b.m.public)[1])
		}
		if what != "POST /v2/droplets" && strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("%s has a private key", what)
		}
	}
	if !told["POST /v2/droplets"] || !told["POST /v2/account/keys"] {
		t.Errorf("of the keys, DigitalOcean is told otherwise than it should be: %v", told)
	}
	for _, l := range k.ledger.all {
		if l.Data["token"] != "template" {
			t.Errorf("the lease of a %s says that the token was found in %q", l.Kind, l.Data["token"])
		}
	}
}
