package puppet

import (
	"context"
	"os"
	"path"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// MasterlessOptions are the options of a `provisioner "puppet-masterless"`
// block. Manifests of this host are applied by `puppet apply`. Its exit statuses
// 0 and 2 (something changed) are success.
type MasterlessOptions struct {
	// ManifestFile is a manifest on this host, or a directory of them, to apply.
	ManifestFile string `cfg:"manifest_file,required"`
	// ManifestDir is a directory of manifests that are put beside it. Puppet
	// gets it as --manifestdir, which Puppet 4 and later refuse.
	ManifestDir string `cfg:"manifest_dir"`
	// ModulePaths are directories of modules on this host.
	ModulePaths []string `cfg:"module_paths"`
	// HieraConfigPath is a Hiera configuration file on this host. Data that it
	// names must be put on the machine by a file provisioner.
	HieraConfigPath string `cfg:"hiera_config_path"`
	// StagingDir is the directory on the machine that the files are put into.
	// Default: `/tmp/packer-puppet-masterless`, on Windows
	// `C:/Windows/Temp/packer-puppet-masterless`.
	StagingDir string `cfg:"staging_directory"`
	// ExecuteCommand is the command that runs puppet, a Go template with
	// {{ .WorkingDir }}, {{ .FacterVars }}, {{ .Sudo }}, {{ .PuppetBinDir }},
	// {{ .Debug }}, {{ .ModulePath }}, {{ .ModulePathJoiner }},
	// {{ .HieraConfigPath }}, {{ .ManifestDir }}, {{ .ManifestFile }} and
	// {{ .ExtraArguments }}. Default: Packer's, as
	// [the guide](../configuration-management.md) has it.
	ExecuteCommand string `cfg:"execute_command" render:"late" vars:"WorkingDir FacterVars Sudo PuppetBinDir Debug ModulePath ModulePathJoiner HieraConfigPath ManifestDir ManifestFile ExtraArguments"`

	common
}

// Masterless is the puppet-masterless provisioner.
type Masterless struct {
	o    MasterlessOptions
	last *report
}

// NewMasterless returns a puppet-masterless provisioner with the default options.
func NewMasterless() *Masterless {
	return &Masterless{o: MasterlessOptions{common: common{GuestOSType: "unix"}}}
}

var _ provisioners.Idempotent = (*Masterless)(nil)

// Options implements provisioners.Provisioner.
func (p *Masterless) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Masterless) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o, c := &p.o, &confmgmt.Checks{Bake: env.Bake()}
	if o.ManifestFile == "" {
		c.Bad("manifest_file", "manifest_file is empty.")
	}
	c.Path("manifest_file", o.ManifestFile, confmgmt.File|confmgmt.Dir)
	c.Path("manifest_dir", o.ManifestDir, confmgmt.Dir)
	c.Paths("module_paths", o.ModulePaths, confmgmt.Dir)
	c.Path("hiera_config_path", o.HieraConfigPath, confmgmt.File)
	o.check(c, "staging_directory", o.StagingDir, o.ExecuteCommand)
	if o.ManifestDir != "" && o.ExecuteCommand == "" {
		c.Problems = append(c.Problems, config.Problem{
			Option: "manifest_dir", Warning: true, Summary: "Puppet 4 and later do not know --manifestdir, and will refuse it.",
			Detail: "Let manifest_file name the directory instead.",
		})
	}
	return c.Problems
}

// Changes implements provisioners.Idempotent.
func (p *Masterless) Changes() (int, bool) { return p.last.Changes() }

// Provision implements provisioners.Provisioner.
func (p *Masterless) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	p.last = nil
	o, b := &p.o, env.Bake()
	if err := confmgmt.Fit("puppet-masterless", m, confmgmt.Windows(o.GuestOSType)); err != nil {
		return err
	}
	r := o.newRun(env, m, o.StagingDir, "packer-puppet-masterless")
	r.execute = o.ExecuteCommand
	r.standard = r.head() + `apply --detailed-exitcodes {{if .Debug}}--debug {{end}}{{if ne .ModulePath ""}}--modulepath={{.ModulePath}} {{end}}` +
		`{{if ne .HieraConfigPath ""}}--hiera_config={{.HieraConfigPath}} {{end}}{{if ne .ManifestDir ""}}--manifestdir={{.ManifestDir}} {{end}}` +
		`{{if ne .ExtraArguments ""}}{{.ExtraArguments}} {{end}}{{.ManifestFile}}`
	for _, name := range []string{"HieraConfigPath", "ManifestDir"} {
		r.paths[name] = ""
	}
	r.paths["ModulePath"] = r.moduleTrees(b, o.ModulePaths)
	if o.HieraConfigPath != "" {
		r.trees = append(r.trees, machine.FileTree(b.Abs(o.HieraConfigPath), "hiera.yaml"))
		r.paths["HieraConfigPath"] = path.Join(r.staging, "hiera.yaml")
	}
	manifests := path.Join(r.staging, "manifests")
	if o.ManifestDir != "" {
		r.trees = append(r.trees, machine.DirTree(b.Abs(o.ManifestDir), "manifests"))
		r.paths["ManifestDir"] = manifests
	}
	local := b.Abs(o.ManifestFile)
	info, err := os.Stat(local)
	if err != nil {
		return err
	}
	if info.IsDir() {
		r.trees = append(r.trees, machine.DirTree(local, "manifests"))
		r.paths["ManifestFile"] = manifests
	} else {
		name := base(o.ManifestFile)
		r.trees = append(r.trees, machine.FileTree(local, path.Join("manifests", name)))
		r.paths["ManifestFile"] = path.Join(manifests, name)
	}
	p.last = r.report
	return r.run(ctx)
}

// Changes is what the run changed.
func (r *report) Changes() (int, bool) {
	if r == nil || !r.known {
		return 0, false
	}
	return r.changes, true
}
