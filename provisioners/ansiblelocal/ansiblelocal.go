// Package ansiblelocal provisions the machine with the Ansible that is
// installed on it. The playbooks and what they need are put on the machine as
// one tree, and one command runs them there.
package ansiblelocal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/play"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "ansible-local"` block. Exactly one
// of playbook_file and playbook_files must be set. Paths are on this host,
// relative to the working directory, unless said otherwise.
type Options struct {
	// PlaybookFile is the playbook to run.
	PlaybookFile string `cfg:"playbook_file"`
	// PlaybookFiles are several playbooks, run one after another in one run of
	// the command.
	PlaybookFiles []string `cfg:"playbook_files"`
	// PlaybookDir is a directory that is put on the machine as a whole. Playbooks
	// in it are run from there, with all that stands beside them.
	PlaybookDir string `cfg:"playbook_dir"`
	// PlaybookPaths are files and directories to put beside the playbooks.
	PlaybookPaths []string `cfg:"playbook_paths"`
	// RolePaths are directories of roles to put into `roles`, one role each.
	RolePaths []string `cfg:"role_paths"`
	// CollectionPaths are directories of collections to put into `collections`.
	CollectionPaths []string `cfg:"collection_paths"`
	// GroupVars is a directory of variables of groups.
	GroupVars string `cfg:"group_vars"`
	// HostVars is a directory of variables of hosts.
	HostVars string `cfg:"host_vars"`
	// InventoryFile is the inventory to use. Default: a generated one that
	// names 127.0.0.1.
	InventoryFile string `cfg:"inventory_file"`
	// InventoryGroups are the groups that the machine is in, in the generated inventory.
	InventoryGroups []string `cfg:"inventory_groups"`
	// Command is the command on the machine, for its shell. Packer's default
	// has ANSIBLE_FORCE_COLOR=1 in it.
	Command string `cfg:"command"`
	// ExtraArguments are more arguments, for the machine's shell. Go templates
	// with the generated values are rendered.
	ExtraArguments []string `cfg:"extra_arguments" render:"late"`
	// StagingDirectory is where everything is put on the machine. Default: a new
	// directory in /tmp/packer-provisioner-ansible-local.
	StagingDirectory string `cfg:"staging_directory"`
	// CleanStagingDirectory removes that directory afterwards.
	CleanStagingDirectory bool `cfg:"clean_staging_directory"`
	// GalaxyFile names roles and collections that are installed on the machine beforehand.
	GalaxyFile string `cfg:"galaxy_file"`
	// GalaxyCommand is the command on the machine that installs them, for its shell.
	GalaxyCommand string `cfg:"galaxy_command"`
	// GalaxyRolesPath is where roles are installed on the machine. Default:
	// `roles` in the staging directory.
	GalaxyRolesPath string `cfg:"galaxy_roles_path"`
	// GalaxyCollectionsPath is where collections are installed on the machine.
	// Default: `collections` in the staging directory.
	GalaxyCollectionsPath string `cfg:"galaxy_collections_path"`
}

// Provisioner is the ansible-local provisioner.
type Provisioner struct {
	o Options

	changes int
	known   bool
}

// New returns an ansible-local provisioner with the default options.
func New() *Provisioner {
	return &Provisioner{o: Options{Command: "ANSIBLE_NOCOLOR=1 PYTHONUNBUFFERED=1 ansible-playbook", GalaxyCommand: "ansible-galaxy"}}
}

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Changes is how many tasks of the last Provision changed something; known is
// false when the command did not say.
func (p *Provisioner) Changes() (n int, known bool) { return p.changes, p.known }

func (o *Options) playbooks() []string {
	if o.PlaybookFile != "" {
		return []string{o.PlaybookFile}
	}
	return o.PlaybookFiles
}

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o, b := &p.o, env.Bake()
	problems := script.CheckOne(map[string]bool{"playbook_file": o.PlaybookFile != "", "playbook_files": len(o.PlaybookFiles) > 0})
	bad := func(option, summary, detail string) {
		problems = append(problems, config.Problem{Option: option, Summary: summary, Detail: detail})
	}
	const any, file, dir = 0, 1, 2
	check := func(option, p string, want int) {
		info, err := os.Stat(b.Abs(p))
		switch {
		case p == "":
			bad(option, option+" is empty.", "")
		case err != nil:
			bad(option, fmt.Sprintf("%s: %q cannot be read.", option, p), fmt.Sprintf("%v. Relative paths start in the working directory; ${path.root} names the template's.", err))
		case want == file && info.IsDir():
			bad(option, fmt.Sprintf("%s: %q is a directory.", option, p), "")
		case want == dir && !info.IsDir():
			bad(option, fmt.Sprintf("%s: %q is no directory.", option, p), "")
		}
	}
	for _, c := range []struct {
		option, path string
		want         int
	}{
		{"playbook_file", o.PlaybookFile, file}, {"playbook_dir", o.PlaybookDir, dir}, {"group_vars", o.GroupVars, dir},
		{"host_vars", o.HostVars, dir}, {"inventory_file", o.InventoryFile, any}, {"galaxy_file", o.GalaxyFile, file},
	} {
		if c.path != "" {
			check(c.option, c.path, c.want)
		}
	}
	for _, c := range []struct {
		option string
		paths  []string
		want   int
	}{
		{"playbook_files", o.PlaybookFiles, file}, {"playbook_paths", o.PlaybookPaths, any},
		{"role_paths", o.RolePaths, dir}, {"collection_paths", o.CollectionPaths, dir},
	} {
		for i, p := range c.paths {
			check(fmt.Sprintf("%s.%d", c.option, i), p, c.want)
		}
	}
	for i, g := range o.InventoryGroups {
		if err := play.CheckName(g); err != nil {
			bad(fmt.Sprintf("inventory_groups.%d", i), err.Error()+".", "")
		}
	}
	if o.InventoryFile != "" && len(o.InventoryGroups) > 0 {
		problems = append(problems, config.Problem{Option: "inventory_groups", Summary: "inventory_groups has no effect beside inventory_file: nothing is generated.", Warning: true})
	}
	if strings.TrimSpace(o.Command) == "" {
		bad("command", "command is empty.", "")
	}
	if o.StagingDirectory != "" && !path.IsAbs(o.StagingDirectory) {
		bad("staging_directory", fmt.Sprintf("staging_directory %q is not an absolute path.", o.StagingDirectory), "")
	} else if o.CleanStagingDirectory && o.StagingDirectory != "" && path.Dir(path.Clean(o.StagingDirectory)) == "/" {
		bad("clean_staging_directory", fmt.Sprintf("clean_staging_directory would remove %s.", o.StagingDirectory), "Name a directory below it by staging_directory.")
	}
	for _, a := range o.ExtraArguments {
		problems = append(problems, script.CheckTemplate("extra_arguments", a)...)
	}
	return problems
}

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	p.changes, p.known = 0, false
	if m == nil {
		return fmt.Errorf("the ansible-local provisioner needs a machine: %w (communicator = \"none\"?)", machine.ErrNone)
	}
	if s := m.Platform().Shell; s != "" && s != "sh" {
		return fmt.Errorf("the ansible-local provisioner needs a Unix shell, and this machine's is %s; use the ansible provisioner", s)
	}
	r := &run{Options: &p.o, bake: env.Bake(), dir: p.o.StagingDirectory}
	if r.dir == "" {
		r.dir = "/tmp/packer-provisioner-ansible-local/" + rand.Text()
	}
	tree, line, err := r.plan()
	if err != nil {
		return err
	}
	if p.o.CleanStagingDirectory {
		defer r.clean(ctx, env, m)
	}
	env.Events.Say("Uploading the playbooks => " + r.dir)
	tree.Progress = env.Events.Progress
	if err := m.Put(ctx, r.dir, tree); err != nil {
		return fmt.Errorf("upload the playbooks to %s (staging_directory): %w", r.dir, err)
	}
	what := strings.Join(p.o.playbooks(), ", ")
	env.Events.Say("Provisioning with the machine's Ansible: " + what)
	reader := play.NewReader(env.Events.Sink)
	reader.Dir = r.dir + "/"
	scope := env.Events
	scope.Sink = reader
	stdout, stderr := scope.Lines("stdout"), scope.Lines("stderr")
	err = m.Run(ctx, machine.Command{Line: line, Env: map[string]string{"ANSIBLE_SHOW_TASK_PATH_ON_FAILURE": "True"}, Stdout: stdout, Stderr: stderr})
	stdout.Flush()
	stderr.Flush()
	reader.Report(env.Events)
	if err == nil {
		p.changes, p.known = reader.Changes()
		return nil
	}
	exit, ok := errors.AsType[*machine.ExitError](err)
	switch {
	case !ok:
		return fmt.Errorf("%s was not seen to its end: %w", what, err)
	case exit.Status == 127:
		return fmt.Errorf("the machine has no Ansible (or no %s): install it with a shell provisioner before this one (Debian: apt-get install -y ansible-core), or use the ansible provisioner, which runs Ansible here\n%w",
			path.Base(lastWord(p.o.Command)), reader.Error(what, exit.Status))
	}
	return reader.Error("ansible-playbook ("+what+")", exit.Status)
}

func lastWord(s string) string {
	words := strings.Fields(s)
	return words[len(words)-1] // Check has seen to it that there is one
}

// clean removes the staging directory, even when the bake was cancelled: it may hold secrets.
func (r *run) clean(ctx context.Context, env *provisioners.Env, m machine.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := m.Run(ctx, machine.Command{Line: "rm -rf -- " + machine.Quote(r.dir)}); err != nil {
		env.Events.Warn(fmt.Sprintf("%s may be left on the machine: %v", r.dir, err))
	}
}

// run is one execution of the provisioner.
type run struct {
	*Options
	bake script.Bake
	dir  string // on the machine

	tree  []*machine.Files
	names map[string]string // what stands in the tree's root, by name
}

// plan makes the tree, and the command that runs in it.
func (r *run) plan() (*machine.Files, string, error) {
	r.names = map[string]string{}
	if r.PlaybookDir != "" {
		r.tree = append(r.tree, machine.DirTree(r.bake.Abs(r.PlaybookDir), ""))
	}
	var playbooks []string
	for _, file := range r.playbooks() {
		name, err := r.playbook(file)
		if err != nil {
			return nil, "", err
		}
		playbooks = append(playbooks, name)
	}
	for _, c := range []struct {
		below string
		paths []string
	}{{"", r.PlaybookPaths}, {"roles", r.RolePaths}, {"collections", r.CollectionPaths}} {
		for _, p := range c.paths {
			if err := r.add(p, path.Join(c.below, base(p))); err != nil {
				return nil, "", err
			}
		}
	}
	for name, p := range map[string]string{"group_vars": r.GroupVars, "host_vars": r.HostVars} {
		if p != "" {
			if err := r.add(p, name); err != nil {
				return nil, "", err
			}
		}
	}
	inventory := "packer-provisioner-ansible-local.inventory"
	if r.InventoryFile != "" {
		inventory = base(r.InventoryFile)
		if err := r.add(r.InventoryFile, inventory); err != nil {
			return nil, "", err
		}
	} else {
		text := "127.0.0.1\n"
		for _, g := range r.InventoryGroups {
			text += "[" + g + "]\n127.0.0.1\n"
		}
		r.tree = append(r.tree, machine.BytesTree(inventory, []byte(text), 0o600))
	}
	line := "cd " + machine.Quote(r.dir) + " || exit\n"
	if r.GalaxyFile != "" {
		galaxy, err := r.galaxy()
		if err != nil {
			return nil, "", err
		}
		line += galaxy
	} else if len(r.CollectionPaths) > 0 {
		line += r.collections("collections")
	}
	vars := "packer_build_name=" + machine.Quote(r.bake.BuildName) + " packer_builder_type=" + machine.Quote(r.bake.BuilderType)
	if addr := r.bake.Values["PackerHTTPAddr"]; addr != "" {
		vars += " packer_http_addr=" + machine.Quote(addr)
	}
	line += r.Command + " " + machine.Quote(playbooks...) + " --extra-vars " + machine.Quote(vars)
	for _, arg := range r.ExtraArguments {
		text, err := r.bake.Render(arg, nil)
		if err != nil {
			return nil, "", fmt.Errorf("extra_arguments: %w", err)
		}
		line += " " + text
	}
	return machine.Join(r.tree...), line + " -c local -i " + machine.Quote(inventory) + "\n", nil
}

func base(p string) string { return path.Base(filepath.ToSlash(filepath.Clean(p))) }

// playbook is a playbook's path in the tree. One in playbook_dir is there already.
func (r *run) playbook(file string) (string, error) {
	if r.PlaybookDir != "" {
		root := r.bake.Abs(r.PlaybookDir)
		rel, err := filepath.Rel(root, r.bake.Abs(file))
		if err == nil && filepath.IsLocal(rel) {
			return filepath.ToSlash(rel), nil
		}
	}
	return base(file), r.add(file, base(file))
}

// add puts a file or directory into the tree. Two files of one name would hide
// each other; directories of one name become one.
func (r *run) add(p, name string) error {
	abs := r.bake.Abs(p)
	info, err := os.Stat(abs)
	if err != nil {
		return err
	}
	if other, ok := r.names[name]; ok && other != abs && !info.IsDir() {
		return fmt.Errorf("%s and %s would both be %s on the machine", other, abs, name)
	}
	r.names[name] = abs
	if info.IsDir() {
		r.tree = append(r.tree, machine.DirTree(abs, name))
	} else {
		r.tree = append(r.tree, machine.FileTree(abs, name))
	}
	return nil
}

// collections is the line that tells Ansible where collections are.
func (r *run) collections(where string) string {
	if !path.IsAbs(where) {
		where = path.Join(r.dir, where)
	}
	return "export ANSIBLE_COLLECTIONS_PATH=" + machine.Quote(where) + ":\"${ANSIBLE_COLLECTIONS_PATH:-$HOME/.ansible/collections:/usr/share/ansible/collections}\"\n"
}

// galaxy is the part of the command that installs roles and collections.
func (r *run) galaxy() (string, error) {
	text, err := os.ReadFile(r.bake.Abs(r.GalaxyFile))
	if err != nil {
		return "", fmt.Errorf("galaxy_file: %w", err)
	}
	if err := r.add(r.GalaxyFile, base(r.GalaxyFile)); err != nil {
		return "", err
	}
	file := machine.Quote(base(r.GalaxyFile))
	roles, collections := "roles", "collections"
	if r.GalaxyRolesPath != "" {
		roles = r.GalaxyRolesPath
	}
	if r.GalaxyCollectionsPath != "" {
		collections = r.GalaxyCollectionsPath
	}
	line := ""
	wantsRoles, wantsCollections := play.GalaxyHas(text)
	if wantsRoles {
		line += r.GalaxyCommand + " install -r " + file + " -p " + machine.Quote(roles) + " || exit\n"
		if r.GalaxyRolesPath != "" {
			where := roles
			if !path.IsAbs(where) {
				where = path.Join(r.dir, where)
			}
			line += "export ANSIBLE_ROLES_PATH=" + machine.Quote(where) + ":\"${ANSIBLE_ROLES_PATH:-$HOME/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles}\"\n"
		}
	}
	line += r.collections(collections)
	if wantsCollections {
		line += r.GalaxyCommand + " collection install -r " + file + " -p " + machine.Quote(collections) + " || exit\n"
	}
	return line, nil
}
