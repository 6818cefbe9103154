//go:build linux

package digitalocean_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"
	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// start starts a cloud, and checks at the end that no call was against DigitalOcean's description.
func start(t *testing.T, o digitalocean.Options) *digitalocean.Cloud {
	t.Helper()
	o.Dir = t.TempDir()
	c, err := digitalocean.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing the cloud: %v", err)
		}
		for _, v := range c.Violations() {
			t.Errorf("violation: %s", v)
		}
	})
	return c
}

// client is the genuine godo with a token.
func client(t *testing.T, c *digitalocean.Cloud, token string) *godo.Client {
	t.Helper()
	g, err := godo.New(&http.Client{Transport: bearer(token)}, godo.SetBaseURL(c.URL()))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
}

// status is the HTTP status of an error of godo's, and what it says.
func status(err error) (int, string) {
	var e *godo.ErrorResponse
	if !errors.As(err, &e) {
		return 0, ""
	}
	return e.Response.StatusCode, e.Message
}

func refused(t *testing.T, err error, code int, says string) {
	t.Helper()
	got, message := status(err)
	if got != code || !strings.Contains(message, says) {
		t.Errorf("%v; want %d %q", err, code, says)
	}
}

// until asks again and again until ok, or fails the test.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: it never was", what)
		}
	}
}

func done(t *testing.T, g *godo.Client, a *godo.Action, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "action "+a.Type+" completed", func() bool {
		now, _, err := g.Actions.Get(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.Status == "errored" {
			t.Fatalf("action %s has errored", a.Type)
		}
		return now.Status == "completed"
	})
}

func TestDescription(t *testing.T) {
	c := start(t, digitalocean.Options{})
	if path, reason := digitalocean.Description(); c.Checked() != (path != "") {
		t.Errorf("the description is at %q (%s), and calls are checked: %v", path, reason, c.Checked())
	}
	if !c.Checked() {
		_, reason := digitalocean.Description()
		t.Skip(reason)
	}
}

func TestCatalogue(t *testing.T) {
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	account, _, err := g.Account.Get(t.Context())
	if err != nil || account.Status != "active" {
		t.Errorf("the account: %v %v", account, err)
	}
	var regions []string
	for page := 1; ; page++ {
		some, resp, err := g.Regions.List(t.Context(), &godo.ListOptions{Page: page, PerPage: 5})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range some {
			regions = append(regions, r.Slug)
		}
		if resp.Links.IsLastPage() {
			if resp.Meta.Total != len(regions) {
				t.Errorf("%d regions of %d", len(regions), resp.Meta.Total)
			}
			break
		}
	}
	if !slices.Contains(regions, "nyc3") || len(regions) < 11 || len(slices.Compact(slices.Sorted(slices.Values(regions)))) != len(regions) {
		t.Errorf("the regions: %v", regions)
	}
	sizes, _, err := g.Sizes.List(t.Context(), &godo.ListOptions{PerPage: 200})
	if err != nil || !slices.ContainsFunc(sizes, func(s godo.Size) bool { return s.Slug == "s-1vcpu-1gb" && s.Disk == 25 }) {
		t.Errorf("the sizes: %v %v", sizes, err)
	}
	images, _, err := g.Images.ListDistribution(t.Context(), nil)
	if err != nil || !slices.ContainsFunc(images, func(i godo.Image) bool { return i.Slug == "debian-12-x64" && i.Public }) {
		t.Errorf("the images: %v %v", images, err)
	}
	image, _, err := g.Images.GetBySlug(t.Context(), "ubuntu-24-04-x64")
	if err != nil || image.Distribution != "Ubuntu" {
		t.Errorf("an image by slug: %v %v", image, err)
	}
	if mine, _, err := g.Images.ListUser(t.Context(), nil); err != nil || len(mine) != 0 {
		t.Errorf("images of the user: %v %v", mine, err)
	}
}

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}

// shell runs a command on a droplet as root, and returns what it prints.
func shell(t *testing.T, address string, key ssh.Signer, command string) string {
	t.Helper()
	s, err := ssh.Dial("tcp", address+":22", &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	session, err := s.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.CombinedOutput(command)
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// up waits until a droplet is active and its sshd answers.
func up(t *testing.T, g *godo.Client, id int) (d *godo.Droplet, address string) {
	t.Helper()
	until(t, "droplet active", func() bool {
		var err error
		if d, _, err = g.Droplets.Get(t.Context(), id); err != nil {
			if code, _ := status(err); code == 404 {
				return false
			}
			t.Fatal(err)
		}
		return d.Status == "active"
	})
	address, err := d.PublicIPv4()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "sshd", func() bool {
		c, err := net.Dial("tcp", address+":22")
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return d, address
}

func droplet(name, image string, keys ...*godo.Key) *godo.DropletCreateRequest {
	r := &godo.DropletCreateRequest{Name: name, Region: "nyc3", Size: "s-1vcpu-1gb", SSHKeys: []godo.DropletCreateSSHKey{}, Image: godo.DropletCreateImage{Slug: image}}
	if id, err := strconv.Atoi(image); err == nil {
		r.Image = godo.DropletCreateImage{ID: id}
	}
	for _, k := range keys {
		r.SSHKeys = append(r.SSHKeys, godo.DropletCreateSSHKey{ID: k.ID})
	}
	return r
}

func TestBakeByHand(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{Durations: digitalocean.Realistic().Scale(0.01)})
	c.SetVisible(time.Hour)
	g := client(t, c, c.Token())
	private, public := newKey(t)
	key, _, err := g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "bake", PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "again", PublicKey: public})
	refused(t, err, 422, "already in use")

	want := droplet("web-1", "debian-12-x64", key)
	want.Tags = []string{"bake:1"}
	want.UserData = "#cloud-config\nruncmd:\n- echo from user data >/var/tmp/user-data\n"
	d, resp, err := g.Droplets.Create(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if d.Status != "new" || !d.Locked || len(d.Networks.V4) != 0 || len(resp.Links.Actions) != 1 {
		t.Errorf("a new droplet: %+v, links %+v", d, resp.Links)
	}
	_, _, err = g.Droplets.Get(t.Context(), d.ID)
	refused(t, err, 404, "could not be found")
	if _, _, err := g.Actions.Get(t.Context(), resp.Links.Actions[0].ID); err == nil {
		t.Error("a new action is seen at once")
	}
	c.SetVisible(0)
	d, address := up(t, g, d.ID)
	if tagged, _, err := g.Droplets.ListByTag(t.Context(), "bake:1", nil); err != nil || len(tagged) != 1 || tagged[0].ID != d.ID {
		t.Errorf("droplets by tag: %v %v", tagged, err)
	}
	until(t, "user data applied", func() bool {
		return shell(t, address, private, "cat /var/tmp/user-data 2>/dev/null || true") == "from user data\n"
	})
	if host := shell(t, address, private, "hostname; echo baked >/opt/baked"); host != "web-1\n" {
		t.Errorf("the hostname is %q", host)
	}

	release := c.HoldActions(func(a digitalocean.Action) bool { return a.Type == "shutdown" })
	a, _, err := g.DropletActions.Shutdown(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = g.DropletActions.PowerOff(t.Context(), d.ID)
	refused(t, err, 422, "pending event")
	_, err = g.Droplets.Delete(t.Context(), d.ID)
	refused(t, err, 422, "pending event")
	if d, _, err := g.Droplets.Get(t.Context(), d.ID); err != nil || !d.Locked {
		t.Errorf("while an action is under way: %+v %v", d, err)
	}
	release()
	until(t, "off", func() bool {
		now, _, err := g.DropletActions.Get(t.Context(), d.ID, a.ID)
		if code, _ := status(err); code == 404 {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		return now.Status == "completed"
	})
	if d, _, err := g.Droplets.Get(t.Context(), d.ID); err != nil || d.Status != "off" || d.Locked {
		t.Errorf("after shutdown: %+v %v", d, err)
	}
	if conn, err := net.Dial("tcp", address+":22"); err == nil {
		_ = conn.Close()
		t.Error("somebody listens at the address of a droplet that is off")
	}
	_, _, err = g.DropletActions.PowerOff(t.Context(), d.ID)
	refused(t, err, 422, "already powered off")

	a, _, err = g.DropletActions.Snapshot(t.Context(), d.ID, "web")
	if err != nil {
		t.Fatal(err)
	}
	var snapshots []godo.Image
	until(t, "a snapshot", func() bool {
		if snapshots, _, err = g.Droplets.Snapshots(t.Context(), d.ID, nil); err != nil {
			t.Fatal(err)
		}
		return len(snapshots) == 1
	})
	done(t, g, a, nil)
	image := snapshots[0]
	_, err = g.Tags.TagResources(t.Context(), "no", &godo.TagResourcesRequest{Resources: []godo.Resource{{ID: strconv.Itoa(image.ID), Type: "image"}}})
	refused(t, err, 404, "")
	if _, _, err := g.Tags.Create(t.Context(), &godo.TagCreateRequest{Name: "golden"}); err != nil {
		t.Error(err)
	}
	if _, err := g.Tags.TagResources(t.Context(), "golden", &godo.TagResourcesRequest{Resources: []godo.Resource{{ID: strconv.Itoa(image.ID), Type: "image"}}}); err != nil {
		t.Error(err)
	}
	var transfers []*godo.Action
	for _, r := range []string{"ams3", "fra1"} {
		a, _, err := g.ImageActions.Transfer(t.Context(), image.ID, &godo.ActionRequest{"type": "transfer", "region": r})
		if err != nil {
			t.Fatal(err)
		}
		transfers = append(transfers, a)
	}
	for _, a := range transfers {
		until(t, "transfer", func() bool {
			now, _, err := g.ImageActions.Get(t.Context(), image.ID, a.ID)
			return err == nil && now.Status == "completed"
		})
	}
	found, _, err := g.Images.ListByTag(t.Context(), "golden", nil)
	if len(found) == 1 {
		slices.Sort(found[0].Regions)
	}
	if err != nil || len(found) != 1 || !slices.Equal(found[0].Regions, []string{"ams3", "fra1", "nyc3"}) || found[0].MinDiskSize != 25 {
		t.Errorf("the image: %+v %v", found, err)
	}
	if s, _, err := g.Snapshots.Get(t.Context(), strconv.Itoa(image.ID)); err != nil || s.ResourceID != strconv.Itoa(d.ID) {
		t.Errorf("as a snapshot: %+v %v", s, err)
	}
	if b, err := c.ReadFile(strconv.Itoa(image.ID), "/opt/baked"); err != nil || string(b) != "baked\n" {
		t.Errorf("in the image: %q %v", b, err)
	}
	if _, err := g.Droplets.Delete(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	_, _, err = g.Droplets.Get(t.Context(), d.ID)
	refused(t, err, 404, "")

	small := droplet("web-2", strconv.Itoa(image.ID), key)
	small.Size = "s-1vcpu-512mb-10gb"
	_, _, err = g.Droplets.Create(t.Context(), small)
	refused(t, err, 422, "smaller disk")
	far := droplet("web-2", strconv.Itoa(image.ID), key)
	far.Region = "lon1"
	_, _, err = g.Droplets.Create(t.Context(), far)
	refused(t, err, 422, "Image is not available in this region")
	second := droplet("web-2", strconv.Itoa(image.ID), key)
	second.Region = "fra1"
	d2, _, err := g.Droplets.Create(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	_, address = up(t, g, d2.ID)
	if got := shell(t, address, private, "cat /opt/baked; hostname"); got != "baked\nweb-2\n" {
		t.Errorf("on the second droplet: %q", got)
	}
	if left := c.Left("droplet", "image", "key"); len(left) != 3 {
		t.Errorf("left: %v", left)
	}
}
