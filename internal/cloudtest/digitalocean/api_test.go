//go:build linux

package digitalocean_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/godo"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

func TestTokens(t *testing.T) {
	c := start(t, digitalocean.Options{})
	_, _, err := client(t, c, "dop_v1_wrong").Account.Get(t.Context())
	refused(t, err, 401, "Unable to authenticate")
	limited := c.AddToken("account:read", "droplet:create")
	g := client(t, c, limited)
	if _, _, err := g.Account.Get(t.Context()); err != nil {
		t.Error(err)
	}
	_, _, err = g.Keys.List(t.Context(), nil)
	refused(t, err, 403, "ssh_key:read")
	tagged := droplet("web", "debian-12-x64")
	tagged.Tags = []string{"x"}
	_, _, err = g.Droplets.Create(t.Context(), tagged)
	refused(t, err, 403, "tag:create")
	c.RemoveToken(limited)
	_, _, err = g.Account.Get(t.Context())
	refused(t, err, 401, "")
	if left := c.Left(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRateLimit(t *testing.T) {
	c := start(t, digitalocean.Options{RateLimit: 3})
	g := client(t, c, c.Token())
	for i := range 3 {
		_, resp, err := g.Account.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if resp.Rate.Limit != 3 || resp.Rate.Remaining != 2-i || !resp.Rate.Reset.After(time.Now()) {
			t.Errorf("call %d: %+v", i, resp.Rate)
		}
	}
	_, resp, err := g.Account.Get(t.Context())
	refused(t, err, 429, "rate limit exceeded")
	if wait, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || wait < 1 {
		t.Errorf("Retry-After: %q", resp.Header.Get("Retry-After"))
	}
	if other := client(t, c, c.AddToken()); other != nil {
		if _, _, err := other.Account.Get(t.Context()); err != nil {
			t.Errorf("another token: %v", err)
		}
	}
	c.SetRateLimit(0, time.Hour)
	if _, _, err := g.Account.Get(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRefusedDroplets(t *testing.T) {
	c := start(t, digitalocean.Options{Images: []digitalocean.BaseImage{
		{Slug: "debian-12-x64", Name: "12 x64", Distribution: "Debian"},
		{Slug: "far", Name: "far", Distribution: "Debian", Regions: []string{"syd1"}},
		{Slug: "big", Name: "big", Distribution: "Debian", MinDisk: 30},
	}})
	g := client(t, c, c.Token())
	vpc, _, err := g.VPCs.Create(t.Context(), &godo.VPCCreateRequest{Name: "elsewhere", RegionSlug: "fra1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		change func(*godo.DropletCreateRequest)
		says   string
	}{
		{func(r *godo.DropletCreateRequest) { r.Name = "" }, "Name can't be blank"},
		{func(r *godo.DropletCreateRequest) { r.Name = "web_1" }, "Only valid hostname characters"},
		{func(r *godo.DropletCreateRequest) { r.Name = strings.Repeat("x", 256) }, "Only valid hostname characters"},
		{func(r *godo.DropletCreateRequest) { r.Region = "mars1" }, "invalid region"},
		{func(r *godo.DropletCreateRequest) { r.Region = "nyc2" }, "Region is not available"},
		{func(r *godo.DropletCreateRequest) { r.Size = "huge" }, "invalid size"},
		{func(r *godo.DropletCreateRequest) { r.Size = "512mb" }, "Size is not available"},
		{func(r *godo.DropletCreateRequest) { r.Size, r.Region = "c-2", "syd1" }, "Size is not available in this region"},
		{func(r *godo.DropletCreateRequest) { r.Image.Slug = "plan9" }, "invalid image"},
		{func(r *godo.DropletCreateRequest) { r.Image = godo.DropletCreateImage{ID: 17} }, "invalid image"},
		{func(r *godo.DropletCreateRequest) { r.Image.Slug = "far" }, "Image is not available in this region"},
		{func(r *godo.DropletCreateRequest) { r.Image.Slug = "big" }, "smaller disk"},
		{func(r *godo.DropletCreateRequest) { r.Tags = []string{"not a tag"} }, "Tag"},
		{func(r *godo.DropletCreateRequest) { r.UserData = strings.Repeat("#", 64<<10+1) }, "64 KiB"},
		{func(r *godo.DropletCreateRequest) { r.SSHKeys = []godo.DropletCreateSSHKey{{ID: 4711}} }, "invalid key identifiers"},
		{func(r *godo.DropletCreateRequest) { r.VPCUUID = vpc.ID }, "was not found in this region"},
		{func(r *godo.DropletCreateRequest) { r.Volumes = []godo.DropletCreateVolume{{ID: "none"}} }, "Volume none"},
	} {
		r := droplet("web", "debian-12-x64")
		x.change(r)
		_, _, err := g.Droplets.Create(t.Context(), r)
		refused(t, err, 422, x.says)
	}
	for _, k := range []string{"", "ssh-dss AAAA", "no key"} {
		_, _, err := g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: "x", PublicKey: k})
		refused(t, err, 422, "Key invalid")
	}
	_, _, err = g.Tags.Create(t.Context(), &godo.TagCreateRequest{Name: "a b"})
	refused(t, err, 422, "Tag name is invalid")
	if left := c.Left(); len(left) != 1 || left[0].Kind != "vpc" {
		t.Errorf("left: %v", left)
	}
}

func TestFaults(t *testing.T) {
	plan := &fault.Plan{}
	c := start(t, digitalocean.Options{Plan: plan})
	g := client(t, c, c.Token())
	for _, x := range []struct {
		fault  fault.Fault
		status int // 0: no answer
		there  bool
	}{
		{fault.Refuse, 403, false}, {fault.Fail, 500, false}, {fault.Throttle, 429, false},
		{fault.Cut, 0, false}, {fault.CutAfter, 0, true}, {fault.FailAfter, 500, true}, {fault.None, 201, true},
	} {
		plan.Decide(func(call fault.Call) fault.Fault {
			if call.String() == "digitalocean POST /v2/account/keys" {
				return x.fault
			}
			return fault.None
		})
		_, public := newKey(t)
		_, resp, err := g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: x.fault.String(), PublicKey: public})
		if got, _ := status(err); got != x.status && !(err == nil && resp.StatusCode == x.status) {
			t.Errorf("%s: %v", x.fault, err)
		}
		if x.status != 0 && resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: the answer has no request id", x.fault)
		}
		if x.fault == fault.Throttle && resp.Header.Get("Retry-After") == "" {
			t.Error("the throttled call is not told when to come again")
		}
		there := slices.ContainsFunc(c.Left("key"), func(r digitalocean.Resource) bool { return r.Name == x.fault.String() })
		if there != x.there {
			t.Errorf("%s: the key is there: %v", x.fault, there)
		}
	}
}

func TestKeysAndPages(t *testing.T) {
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	var ids []int
	for i := range 5 {
		_, public := newKey(t)
		k, _, err := g.Keys.Create(t.Context(), &godo.KeyCreateRequest{Name: fmt.Sprint("key-", i), PublicKey: public})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, k.ID)
	}
	page, resp, err := g.Keys.List(t.Context(), &godo.ListOptions{Page: 2, PerPage: 2})
	if err != nil || len(page) != 2 || page[0].ID != ids[2] || resp.Meta.Total != 5 {
		t.Errorf("page 2: %v %v", page, err)
	}
	if p := resp.Links.Pages; p == nil || !strings.Contains(p.Next, "page=3") || !strings.Contains(p.Last, "page=3") ||
		!strings.Contains(p.Prev, "page=1") || !strings.Contains(p.First, "page=1") {
		t.Errorf("the links of page 2: %+v", resp.Links.Pages)
	}
	page, resp, err = g.Keys.List(t.Context(), &godo.ListOptions{Page: 9, PerPage: 2})
	if err != nil || len(page) != 0 || !resp.Links.IsLastPage() {
		t.Errorf("page 9: %v %v", page, err)
	}
	k, _, err := g.Keys.GetByID(t.Context(), ids[1])
	if err != nil {
		t.Fatal(err)
	}
	if same, _, err := g.Keys.GetByFingerprint(t.Context(), k.Fingerprint); err != nil || same.ID != k.ID {
		t.Errorf("by fingerprint: %v %v", same, err)
	}
	if k, _, err := g.Keys.UpdateByID(t.Context(), k.ID, &godo.KeyUpdateRequest{Name: "new name"}); err != nil || k.Name != "new name" {
		t.Errorf("renamed: %v %v", k, err)
	}
	if _, err := g.Keys.DeleteByFingerprint(t.Context(), k.Fingerprint); err != nil {
		t.Error(err)
	}
	_, err = g.Keys.DeleteByID(t.Context(), k.ID)
	refused(t, err, 404, "")
}

// TestViolations shows that what is against the description is found at all.
func TestViolations(t *testing.T) {
	c, err := digitalocean.New(digitalocean.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func(method, path, body string) {
		t.Helper()
		r, err := http.NewRequest(method, c.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := (&http.Client{Transport: bearer(c.Token())}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	ask("GET", "/v2/moon", "")
	if v := c.Violations(); len(v) != 1 || !strings.Contains(v[0], "has no such call") {
		t.Errorf("an unknown call: %q", v)
	}
	if !c.Checked() {
		_, reason := digitalocean.Description()
		t.Skip(reason)
	}
	ask("GET", "/v2/regions?per_page=500", "")
	ask("GET", "/v2/regions?per_page=500", "")
	if v := c.Violations(); len(v) != 2 || !strings.Contains(v[1], "request GET /v2/regions") {
		t.Errorf("a request against the description: %q", v)
	}
	c.BreakAnswers()
	ask("GET", "/v2/account", "")
	if v := c.Violations(); len(v) != 3 || !strings.Contains(v[2], "answer 200 to GET /v2/account") {
		t.Errorf("an answer against the description: %q", v)
	}
}

func TestErroredActions(t *testing.T) {
	sandboxtest.Need(t)
	c := start(t, digitalocean.Options{})
	g := client(t, c, c.Token())
	d, _, err := g.Droplets.Create(t.Context(), droplet("web", "debian-12-x64"))
	if err != nil {
		t.Fatal(err)
	}
	d, _ = up(t, g, d.ID)
	ends := func(a *godo.Action, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		until(t, a.Type+" ended", func() bool {
			if a, _, err = g.Actions.Get(t.Context(), a.ID); err != nil {
				t.Fatal(err)
			}
			return a.Status != "in-progress"
		})
		return a.Status
	}
	c.FailActions(func(a digitalocean.Action) bool { return a.Type == "snapshot" && a.Resource == d.ID })
	a, _, err := g.DropletActions.Snapshot(t.Context(), d.ID, "web")
	if s := ends(a, err); s != "errored" || len(c.Left("image")) != 0 {
		t.Errorf("the snapshot ended as %s, %v", s, c.Left("image"))
	}
	c.FailActions(nil)
	// A snapshot of a droplet that runs is allowed.
	a, _, err = g.DropletActions.Snapshot(t.Context(), d.ID, "web")
	if s := ends(a, err); s != "completed" || len(c.Left("image")) != 1 {
		t.Fatalf("the snapshot ended as %s, %v", s, c.Left("image"))
	}
	image, _ := strconv.Atoi(c.Left("image")[0].ID)
	c.FailActions(func(a digitalocean.Action) bool { return a.Type == "transfer" && a.Region == "fra1" })
	for region, want := range map[string]string{"fra1": "errored", "ams3": "completed"} {
		a, _, err := g.ImageActions.Transfer(t.Context(), image, &godo.ActionRequest{"type": "transfer", "region": region})
		if s := ends(a, err); s != want {
			t.Errorf("the transfer to %s ended as %s", region, s)
		}
	}
	if i, _, err := g.Images.GetByID(t.Context(), image); err != nil || !slices.Equal(i.Regions, []string{"nyc3", "ams3"}) {
		t.Errorf("the image: %v %v", i, err)
	}
	_, _, err = g.ImageActions.Transfer(t.Context(), image, &godo.ActionRequest{"type": "transfer", "region": "ams3"})
	refused(t, err, 422, "already available")
	_, _, err = g.ImageActions.Transfer(t.Context(), image, &godo.ActionRequest{"type": "transfer", "region": "nyc2"})
	refused(t, err, 422, "not available in region")

	c.IgnoreShutdown(true)
	a, _, err = g.DropletActions.Shutdown(t.Context(), d.ID)
	if s := ends(a, err); s != "completed" {
		t.Errorf("the shutdown ended as %s", s)
	}
	if d, _, err := g.Droplets.Get(t.Context(), d.ID); err != nil || d.Status != "active" {
		t.Errorf("a deaf droplet after shutdown: %v %v", d.Status, err)
	}
	a, _, err = g.DropletActions.PowerOff(t.Context(), d.ID)
	if s := ends(a, err); s != "completed" {
		t.Errorf("the power off ended as %s", s)
	}
	if d, _, err := g.Droplets.Get(t.Context(), d.ID); err != nil || d.Status != "off" {
		t.Errorf("after power off: %v %v", d.Status, err)
	}

	c.FailActions(func(a digitalocean.Action) bool { return a.Type == "create" })
	bad, resp, err := g.Droplets.Create(t.Context(), droplet("bad", "debian-12-x64"))
	if err != nil {
		t.Fatal(err)
	}
	if s := ends(&godo.Action{ID: resp.Links.Actions[0].ID, Type: "create"}, nil); s != "errored" {
		t.Errorf("the creation ended as %s", s)
	}
	if _, err := g.Droplets.Delete(t.Context(), bad.ID); err != nil {
		t.Error(err)
	}
	if _, err := g.Images.Delete(t.Context(), image); err != nil {
		t.Error(err)
	}
	_, err = g.Images.Delete(t.Context(), image)
	refused(t, err, 404, "")
	base, _, err := g.Images.GetBySlug(t.Context(), "debian-12-x64")
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Images.Delete(t.Context(), base.ID)
	refused(t, err, 403, "")
}
