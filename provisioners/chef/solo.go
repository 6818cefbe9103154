package chef

import (
	"context"
	"fmt"
	"strings"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// SoloOptions are the options of a `provisioner "chef-solo"` block.
// chef-solo runs with cookbooks of this host or of the machine, and without a server.
type SoloOptions struct {
	// CookbookPaths are directories of cookbooks on this host.
	CookbookPaths []string `cfg:"cookbook_paths"`
	// RemoteCookbookPaths are directories of cookbooks on the machine, before
	// those of CookbookPaths.
	RemoteCookbookPaths []string `cfg:"remote_cookbook_paths"`
	// RolesPath is the directory of roles on this host.
	RolesPath string `cfg:"roles_path"`
	// DataBagsPath is the directory of data bags on this host.
	DataBagsPath string `cfg:"data_bags_path"`
	// EnvironmentsPath is the directory of environments on this host.
	EnvironmentsPath string `cfg:"environments_path"`
	// StagingDir is the directory on the machine that the files are put into.
	// It stays there, without the secrets. Default: `/tmp/packer-chef-solo`, on
	// Windows `C:/Windows/Temp/packer-chef-solo`.
	StagingDir string `cfg:"staging_directory"`

	common
}

// Solo is the chef-solo provisioner.
type Solo struct {
	o    SoloOptions
	last *report
}

// NewSolo returns a chef-solo provisioner with the default options.
func NewSolo() *Solo { return &Solo{o: SoloOptions{common: common{GuestOSType: "unix"}}} }

var _ provisioners.Idempotent = (*Solo)(nil)

// Options implements provisioners.Provisioner.
func (p *Solo) Options() any { return &p.o }

var soloVars = []string{
	"ChefEnvironment", "ChefLicense", "CookbookPaths", "DataBagsPath", "EncryptedDataBagSecretPath", "EnvironmentsPath", "RolesPath",
	"HasDataBagsPath", "HasEncryptedDataBagSecretPath", "HasEnvironmentsPath", "HasRolesPath",
}

// Check implements provisioners.Provisioner.
func (p *Solo) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o, c := &p.o, &confmgmt.Checks{Bake: env.Bake()}
	c.Paths("cookbook_paths", o.CookbookPaths, confmgmt.Dir)
	for i, p := range o.RemoteCookbookPaths {
		if p == "" {
			c.Bad("remote_cookbook_paths", "Entry %d of remote_cookbook_paths is empty.", i+1)
		}
	}
	c.Path("roles_path", o.RolesPath, confmgmt.Dir)
	c.Path("data_bags_path", o.DataBagsPath, confmgmt.Dir)
	c.Path("environments_path", o.EnvironmentsPath, confmgmt.Dir)
	if o.ChefEnvironment != "" && o.EnvironmentsPath == "" && o.ConfigTemplate == "" {
		c.Bad("chef_environment", "chef_environment is set, but chef-solo finds it only in a directory of environments: set environments_path.")
	}
	o.check(c, o.StagingDir, false, soloVars)
	return c.Problems
}

// Changes implements provisioners.Idempotent.
func (p *Solo) Changes() (int, bool) { return p.last.Changes() }

// Provision implements provisioners.Provisioner.
func (p *Solo) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	p.last = nil
	o := &p.o
	if err := confmgmt.Fit("chef-solo", m, confmgmt.Windows(o.GuestOSType)); err != nil {
		return err
	}
	r := o.newRun(env, m, "chef-solo", o.StagingDir)
	cookbooks := append([]string{}, o.RemoteCookbookPaths...)
	for i, local := range o.CookbookPaths {
		cookbooks = append(cookbooks, r.dir(local, fmt.Sprintf("cookbooks-%d", i)))
	}
	roles, bags, environments := r.dir(o.RolesPath, "roles"), r.dir(o.DataBagsPath, "data_bags"), r.dir(o.EnvironmentsPath, "environments")
	secret, err := r.secret(o.EncryptedDataBagSecretPath, "encrypted_data_bag_secret")
	if err != nil {
		return err
	}
	var list []string
	for _, c := range cookbooks {
		list = append(list, ruby(c))
	}
	paths := strings.Join(list, ",")
	environment := ""
	if environments != "" {
		environment = o.ChefEnvironment
	}
	lines := []string{}
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, setting(name, value))
		}
	}
	add("chef_license", r.license())
	lines = append(lines, "cookbook_path ["+paths+"]")
	add("role_path", roles)
	add("data_bag_path", bags)
	add("encrypted_data_bag_secret", secret)
	add("environment_path", environments)
	add("environment", environment)
	err = r.config("solo.rb", map[string]any{
		"ChefEnvironment": environment, "ChefLicense": r.license(), "CookbookPaths": paths, "DataBagsPath": bags, "EncryptedDataBagSecretPath": secret,
		"EnvironmentsPath": environments, "RolesPath": roles, "HasDataBagsPath": bags != "", "HasEncryptedDataBagSecretPath": secret != "",
		"HasEnvironmentsPath": environments != "", "HasRolesPath": roles != "",
	}, lines)
	if err != nil {
		return err
	}
	p.last = r.report
	return r.run(ctx, "solo.rb", "node.json")
}
