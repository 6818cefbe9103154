//go:build linux

package amazon

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/provisioners/shell"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/templates"
)

// The example bakes, through the engine, and a second bake of it starts from the
// first one's AMI and finds its files.
func TestChrootExample(t *testing.T) {
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	store, err := registry.Open(t.Context(), filepath.Join(t.TempDir(), "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, b := range []struct{ owner, base, name, tree string }{
		{"210987654321", "small-*", "ingot-first", "ingot-first\n"},
		{"self", "ingot-first", "ingot-second", "ingot-first\ningot-second\n"},
	} {
		loaded, diags := templates.Load(templates.Options{Path: "../../examples/amazon-chroot", Vars: []string{
			"region=" + testRegions[0], "owner=" + b.owner, "base=" + b.base, "name=" + b.name, "package=", "mounts=" + c.mounts,
		}})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		plan, diags := loaded.Plan(templates.Selection{})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		results, err := bake.Run(t.Context(), plan, bake.Options{
			Components: bake.Components{
				Builders:     map[string]func() builders.Builder{"amazon-chroot": func() builders.Builder { return NewChroot(c.env) }},
				Provisioners: map[string]func() provisioners.Provisioner{"shell": func() provisioners.Provisioner { return shell.New() }},
			},
			Store: store, Events: event.Func(func(e event.Event) { t.Log(e.Kind, e.Step, e.Text, e.Error) }), Dir: t.TempDir(), Template: "examples/amazon-chroot",
		})
		if err != nil || len(results) != 1 || results[0].Err != nil || results[0].Version == "" {
			t.Fatalf("%+v, %v", results, err)
		}
		i := c.image(b.name)
		if tags := tagMap(i.Tags); tags["Name"] != b.name || !strings.HasPrefix(tags["Base"], strings.TrimSuffix(b.base, "*")) {
			t.Errorf("%s: tags %v", b.name, tags)
		}
		for _, id := range snapshotsOf(i) {
			if v, err := c.session.Snapshots("").Get(t.Context(), id); err != nil || !*v.Encrypted {
				t.Errorf("%s: snapshot %+v, %v", b.name, v, err)
			}
		}
		got, err := c.ReadFile(testRegions[0], *i.ImageId, "/etc/ingot/baked")
		if err != nil || string(got) != b.tree {
			t.Errorf("%s: the AMI has %q, %v", b.name, got, err)
		}
		if _, err := c.ReadFile(testRegions[0], *i.ImageId, "/usr/sbin/policy-rc.d"); err == nil {
			t.Errorf("%s: the AMI has the guard", b.name)
		}
		c.wantClean(b.name)
	}
}
