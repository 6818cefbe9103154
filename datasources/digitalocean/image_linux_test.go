//go:build linux

package digitalocean

import (
	"os"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}

func TestRead(t *testing.T) {
	sandboxtest.Need(t)
	c, err := digitalocean.New(digitalocean.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, v := range c.Violations() {
			t.Errorf("violation of DigitalOcean's description: %s", v)
		}
	})
	shared := docloud.NewShared(docloud.Tempo{})
	access := docloud.Access{APIURL: c.URL(), APIToken: c.Token()}
	sess, err := shared.Connect(&access)
	if err != nil {
		t.Fatal(err)
	}
	debian, _, err := sess.API.Images.GetBySlug(t.Context(), "debian-12-x64")
	if err != nil {
		t.Fatal(err)
	}
	read := func(o Options) (cty.Value, error) {
		t.Helper()
		s := New(shared)
		s.o = o
		s.o.Access = access
		if ps := s.Check(); len(ps) > 0 {
			t.Fatalf("%+v", ps)
		}
		return s.Read(t.Context())
	}
	v, err := read(Options{Name: debian.Name, Type: "distribution", Region: "fra1"})
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := v.GetAttr("image_id").AsBigFloat().Int64(); int(id) != debian.ID || v.GetAttr("image_regions").LengthInt() != len(debian.Regions) {
		t.Errorf("%#v", v)
	}
	if !v.Type().Equals(New(shared).Type()) {
		t.Errorf("its type is %#v", v.Type())
	}
	if _, err := read(Options{NameRegex: "x64$"}); err == nil || !strings.Contains(err.Error(), "latest") || !strings.Contains(err.Error(), debian.Name) {
		t.Errorf("several: %v", err)
	}
	if _, err := read(Options{NameRegex: "x64$", Latest: true}); err != nil {
		t.Error(err)
	}
	for _, o := range []Options{{Name: "nothing"}, {Name: debian.Name, Type: "user"}, {Name: debian.Name, Region: "nyc9"}} {
		if v, err := read(o); err == nil {
			t.Errorf("%+v: %#v", o, v)
		}
	}
	access.APIToken = "dop_v1_none"
	if _, err := read(Options{Name: debian.Name}); docloud.Status(err) != 401 || strings.Contains(err.Error(), "dop_v1_none") {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	for option, o := range map[string]Options{
		"name":       {},
		"name_regex": {Name: "a", NameRegex: "b"},
		"type":       {Name: "a", Type: "custom"},
		"api_url":    {Name: "a", Access: docloud.Access{APIURL: "x"}},
	} {
		s := New(nil)
		s.o = o
		if ps := s.Check(); len(ps) != 1 || ps[0].Option != option {
			t.Errorf("%s: %+v", option, ps)
		}
	}
	s := New(nil)
	s.o.NameRegex = "("
	if ps := s.Check(); len(ps) != 1 || ps[0].Option != "name_regex" {
		t.Errorf("%+v", ps)
	}
}
