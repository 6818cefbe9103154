// Package ansible provisions the machine with Ansible from this host, by the
// ansible-playbook that is installed here. A machine that OpenSSH can reach is
// reached by OpenSSH itself; for all others Ingot is the SSH server.
package ansible

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/play"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "ansible"` block. Exactly one of
// playbook_file, playbook_files and module must be set.
type Options struct {
	// PlaybookFile is the playbook to run, relative to the working directory.
	PlaybookFile string `cfg:"playbook_file"`
	// PlaybookFiles are several playbooks, run one after another in one run of
	// ansible-playbook. Packer does not know it.
	PlaybookFiles []string `cfg:"playbook_files"`
	// Module is one module to run on the machine without a playbook, such as
	// `ansible.builtin.apt`. Packer does not know it.
	Module string `cfg:"module"`
	// ModuleArgs are the arguments of module. Packer does not know it.
	ModuleArgs map[string]string `cfg:"module_args"`
	// Command is the program to run: a name, or the path of a wrapper.
	Command string `cfg:"command"`
	// ExtraArguments are more arguments for ansible-playbook, one word each. Go
	// templates with the generated values are rendered. Other processes of this
	// host can see them: secrets belong into ansible_env_vars or a file of variables.
	ExtraArguments []string `cfg:"extra_arguments" render:"late" vars:"WinRMPassword SSHPrivateKeyFile"`
	// AnsibleEnvVars are environment variables for Ansible, as `NAME=value`. Go
	// templates with the generated values are rendered. ANSIBLE_HOST_KEY_CHECKING
	// is not taken where the machine's host key is known.
	AnsibleEnvVars []string `cfg:"ansible_env_vars" render:"late" vars:"WinRMPassword SSHPrivateKeyFile"`
	// AnsibleSSHExtraArgs are arguments that only `ssh` gets, not `sftp` and
	// `scp`. Default: `-o IdentitiesOnly=yes`, where the key is not in the agent.
	AnsibleSSHExtraArgs []string `cfg:"ansible_ssh_extra_args" render:"late"`
	// Groups are the inventory groups that the machine is in.
	Groups []string `cfg:"groups"`
	// EmptyGroups are inventory groups that exist and have no host.
	EmptyGroups []string `cfg:"empty_groups"`
	// HostAlias is the machine's name in the inventory.
	HostAlias string `cfg:"host_alias"`
	// User is who Ansible connects as. Default: the user of the connection, or,
	// with the proxy, the one who runs Ingot.
	User string `cfg:"user"`
	// InventoryFile is an inventory of your own, in place of the generated one.
	// All its hosts are reached as the machine is.
	InventoryFile string `cfg:"inventory_file"`
	// InventoryDirectory is where the generated inventory is written, so that
	// the group_vars and host_vars there are found. Default: a private directory.
	InventoryDirectory string `cfg:"inventory_directory"`
	// InventoryFileTemplate is the inventory's line of the machine, a Go
	// template with {{ .HostAlias }}, {{ .Host }}, {{ .User }}, {{ .Port }} and
	// the generated values. It must end with a line end. Default:
	// `{{ .HostAlias }} ansible_host={{ .Host }} ansible_user={{ .User }} ansible_port={{ .Port }}`.
	InventoryFileTemplate string `cfg:"inventory_file_template" render:"late" vars:"HostAlias Host User Port"`
	// KeepInventoryFile leaves the generated inventory where it is, and says where.
	KeepInventoryFile bool `cfg:"keep_inventory_file"`
	// Limit is the pattern of hosts to run on. Default: all of the inventory.
	Limit string `cfg:"limit"`
	// GalaxyFile names roles and collections that are installed beforehand.
	GalaxyFile string `cfg:"galaxy_file"`
	// GalaxyCommand installs them.
	GalaxyCommand string `cfg:"galaxy_command"`
	// GalaxyForceInstall installs over what is there.
	GalaxyForceInstall bool `cfg:"galaxy_force_install"`
	// GalaxyForceWithDeps does so for the dependencies too.
	GalaxyForceWithDeps bool `cfg:"galaxy_force_with_deps"`
	// RolesPath is where roles are installed and looked for. Default: a private
	// directory, which is removed afterwards.
	RolesPath string `cfg:"roles_path"`
	// CollectionsPath is that for collections.
	CollectionsPath string `cfg:"collections_path"`
	// UseProxy says whether Ansible talks to an SSH server in Ingot, which
	// passes everything on, or to the machine itself. Default: to the machine,
	// if OpenSSH can reach it and none of the proxy's own options is set. Packer's
	// default is true.
	UseProxy *bool `cfg:"use_proxy"`
	// LocalPort is the port on which the proxy listens; when it is taken, one of
	// the next nine. 0: any free port.
	LocalPort int `cfg:"local_port"`
	// SSHHostKeyFile is the private host key of the proxy. Default: a new one.
	SSHHostKeyFile string `cfg:"ssh_host_key_file"`
	// SSHAuthorizedKeyFile is the public key that the proxy accepts, and whose
	// private key Ansible finds by itself. Default: a new one.
	SSHAuthorizedKeyFile string `cfg:"ssh_authorized_key_file"`
	// AnsibleProxyKeyType is the type of the proxy's new keys: `ED25519`,
	// `ECDSA` or `RSA`. Packer's default is ECDSA.
	AnsibleProxyKeyType string `cfg:"ansible_proxy_key_type"`
	// AnsibleProxyBindAddress is the loopback address on which the proxy listens.
	AnsibleProxyBindAddress string `cfg:"ansible_proxy_bind_address"`
	// AnsibleProxyHost is the name by which Ansible reaches the proxy. Default:
	// the address on which it listens.
	AnsibleProxyHost string `cfg:"ansible_proxy_host"`
	// SFTPCommand is a command on the machine that serves SFTP to those who ask
	// the proxy for it. Default: the proxy serves it itself, and the machine
	// needs no SFTP server. Packer's default is `/usr/lib/sftp-server -e`.
	SFTPCommand string `cfg:"sftp_command"`
	// UseSFTP transfers files by SFTP. Otherwise they go through the connection
	// that is there, as the input of a command, which takes fewer round trips.
	UseSFTP bool `cfg:"use_sftp"`
	// SkipVersionCheck does not ask ansible-playbook for its version beforehand.
	SkipVersionCheck bool `cfg:"skip_version_check"`
	// AnsibleWinRMUseHTTP talks to a Windows machine by HTTP instead of HTTPS.
	AnsibleWinRMUseHTTP bool `cfg:"ansible_winrm_use_http"`
}

// Provisioner is the ansible provisioner.
type Provisioner struct {
	o        Options
	versions *Versions

	changes int
	known   bool
}

// New returns an ansible provisioner with the default options. All
// provisioners of a program share versions.
func New(versions *Versions) *Provisioner {
	return &Provisioner{versions: versions, o: Options{
		Command: "ansible-playbook", GalaxyCommand: "ansible-galaxy", HostAlias: "default",
		AnsibleProxyKeyType: "ED25519", AnsibleProxyBindAddress: "127.0.0.1",
	}}
}

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Changes is how many tasks of the last Provision changed something; known is
// false when ansible-playbook did not say.
func (p *Provisioner) Changes() (n int, known bool) { return p.changes, p.known }

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) (err error) {
	p.changes, p.known = 0, false
	if m == nil {
		return fmt.Errorf("the ansible provisioner needs a machine: %w (communicator = \"none\"?)", machine.ErrNone)
	}
	dir, err := privateDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	r := &run{Options: &p.o, env: env, m: m, bake: env.Bake(), dir: dir}
	end, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := r.environment(); err != nil {
		return err
	}
	if err := r.galaxy(ctx); err != nil {
		return err
	}
	args, remove, err := r.arguments()
	if err != nil {
		return err
	}
	defer remove()
	return p.play(ctx, r, args)
}

// play runs ansible-playbook.
func (p *Provisioner) play(ctx context.Context, r *run, args []string) error {
	reader := play.NewReader(r.env.Events.Sink)
	r.env.Events.Say("Provisioning with Ansible: " + p.what() + ", " + r.how)
	err := r.exec(ctx, reader, p.o.Command, args...)
	reader.Report(r.env.Events)
	if err == nil {
		p.changes, p.known = reader.Changes()
		return nil
	}
	if exit, ok := errors.AsType[*machine.ExitError](err); ok {
		return reader.Error("ansible-playbook ("+p.what()+")", exit.Status)
	}
	return err
}

func (p *Provisioner) what() string {
	if p.o.Module != "" {
		return "module " + p.o.Module
	}
	return strings.Join(p.o.playbooks(), ", ")
}

func (o *Options) playbooks() []string {
	if o.PlaybookFile != "" {
		return []string{o.PlaybookFile}
	}
	return o.PlaybookFiles
}

// run is one execution of the provisioner.
type run struct {
	*Options
	env  *provisioners.Env
	m    machine.Machine
	bake script.Bake
	dir  string // private, removed afterwards
	how  string // the machine is reached, for people

	access    *machine.SSHAccess // nil: WinRM
	windows   bool
	sshArgs   string // arguments of ssh, sftp and scp
	keyFile   string
	variables map[string]string // Ansible's own, which may be secret
	environ   []string
}

// exec runs a program of Ansible on this host, in the run's environment.
func (r *run) exec(ctx context.Context, reader *play.Reader, command string, args ...string) error {
	scope := r.env.Events
	scope.Sink = reader
	stdout, stderr := scope.Lines("stdout"), scope.Lines("stderr")
	cmd := exec.Command(r.program(command), args...)
	cmd.Dir, cmd.Env = r.env.Dir, r.environ
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := local.Exec(ctx, cmd)
	stdout.Flush()
	stderr.Flush()
	if ctx.Err() != nil {
		reap(r.mark())
	}
	return err
}

// program is a command's path; one with a separator starts in the working directory.
func (r *run) program(command string) string { return program(r.bake, command) }

func program(b script.Bake, command string) string {
	if strings.ContainsRune(command, filepath.Separator) {
		return b.Abs(command)
	}
	return command
}

// mark is in the environment of all that this run starts, and of nothing else.
func (r *run) mark() string { return "ANSIBLE_SSH_CONTROL_PATH_DIR=" + filepath.Join(r.dir, "c") }

// render renders a Go template of the options.
func (r *run) render(option, text string, extra map[string]any) (string, error) {
	data := map[string]any{"WinRMPassword": r.bake.Values["Password"], "SSHPrivateKeyFile": r.keyFile}
	maps.Copy(data, extra)
	out, err := r.bake.Render(text, data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	return out, nil
}

func (r *run) renderAll(option string, texts []string) ([]string, error) {
	var out []string
	for _, text := range texts {
		s, err := r.render(option, text, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// environment makes the environment of the programs of Ansible: this process's,
// and what makes the run as it should be, unless the template wants otherwise.
func (r *run) environment() error {
	given, err := r.renderAll("ansible_env_vars", r.AnsibleEnvVars)
	if err != nil {
		return err
	}
	has := func(name string) bool {
		is := func(kv string) bool { return strings.HasPrefix(kv, name+"=") }
		return slices.ContainsFunc(given, is) || slices.ContainsFunc(os.Environ(), is)
	}
	vars := play.Vars()
	vars["ANSIBLE_PIPELINING"] = "True"
	vars["ANSIBLE_LOCAL_TEMP"] = filepath.Join(r.dir, "tmp")
	if has("ANSIBLE_FORCE_COLOR") {
		delete(vars, "ANSIBLE_NOCOLOR")
	}
	if r.UseSFTP {
		vars["ANSIBLE_SSH_TRANSFER_METHOD"] = "sftp"
	} else if !r.windows { // which has no dd
		vars["ANSIBLE_SSH_TRANSFER_METHOD"] = "piped"
	}
	for name := range vars {
		if has(name) {
			delete(vars, name)
		}
	}
	r.environ = os.Environ()
	for name, value := range vars {
		r.environ = append(r.environ, name+"="+value)
	}
	known := r.access != nil && len(r.access.HostKeys) > 0
	for i, kv := range given {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case name == "ANSIBLE_SSH_ARGS":
			if unquoted := strings.Trim(value, `'"`); len(unquoted) == len(value)-2 {
				value = unquoted // it stands so in many a template
			}
			r.sshArgs += " " + value
			r.environ = append(r.environ, name+"="+value) // for other hosts
		case name == "ANSIBLE_HOST_KEY_CHECKING" && known:
			if !slices.Contains([]string{"true", "yes", "1", "on", "y", "t"}, strings.ToLower(value)) {
				r.env.Events.Say("ANSIBLE_HOST_KEY_CHECKING is left out: the host key is known, and is checked")
			}
		default:
			r.environ = append(r.environ, given[i])
		}
	}
	// What is set last counts.
	r.environ = append(r.environ, r.mark(), "ANSIBLE_SSH_CONTROL_PATH=")
	if known {
		r.environ = append(r.environ, "ANSIBLE_HOST_KEY_CHECKING=True")
	}
	if r.access != nil && (r.InventoryFile != "" || r.InventoryFileTemplate != "") {
		r.environ = append(r.environ, "ANSIBLE_SSH_ARGS="+r.sshArgs) // for there is no host line to have it
	}
	r.environ = append(r.environ, "PACKER_RUN_UUID="+r.env.RunID)
	return nil
}

// arguments are those of ansible-playbook. remove takes away what stands
// outside of the private directory.
func (r *run) arguments() (args []string, remove func(), err error) {
	remove = func() {}
	vars := map[string]string{"packer_build_name": r.env.BuildName, "packer_builder_type": r.env.BuilderType}
	if addr := r.env.Values["PackerHTTPAddr"]; addr != "" {
		vars["packer_http_addr"] = addr
	}
	maps.Copy(vars, r.variables)
	file, err := r.writeJSON("vars.json", vars)
	if err != nil {
		return nil, remove, err
	}
	// Later variables win: the template's over these.
	args = []string{"--extra-vars", "@" + file}
	extra, err := r.renderAll("ansible_ssh_extra_args", r.AnsibleSSHExtraArgs)
	if err != nil {
		return nil, remove, err
	}
	if len(extra) == 0 && r.keyFile != "" {
		extra = []string{"-o IdentitiesOnly=yes"}
	}
	if len(extra) > 0 && r.access != nil {
		args = append(args, "--ssh-extra-args="+strings.Join(extra, " "))
	}
	more, err := r.renderAll("extra_arguments", r.ExtraArguments)
	if err != nil {
		return nil, remove, err
	}
	args = append(args, more...)
	if r.Limit != "" {
		args = append(args, "--limit", r.Limit)
	}
	inventory, remove, err := r.inventory()
	if err != nil {
		return nil, remove, err
	}
	args = append(args, "-i", inventory)
	if r.Module != "" {
		file, err := r.writeJSON("play.json", adHoc(r.Module, r.ModuleArgs))
		return append(args, file), remove, err
	}
	for _, file := range r.playbooks() {
		args = append(args, r.bake.Abs(file))
	}
	return args, remove, nil
}

// adHoc is a playbook of one task, so that a single module is run, reported
// and checked as a play is.
func adHoc(module string, args map[string]string) any {
	task := map[string]any{"name": module, "action": map[string]any{"module": module}}
	if len(args) > 0 {
		task["args"] = args
	}
	return []any{map[string]any{"name": module, "hosts": "all", "gather_facts": false, "tasks": []any{task}}}
}

func (r *run) writeJSON(name string, v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return r.write(name, b)
}

// write makes a file that only this user can read.
func (r *run) write(name string, b []byte) (string, error) {
	file := filepath.Join(r.dir, name)
	return file, os.WriteFile(file, b, 0o600)
}

// privateDir makes a directory for this user alone. Its path is short, because
// sockets stand in it, and plain, because it is read by shells and ssh.
func privateDir() (string, error) {
	base := os.TempDir()
	if len(base) > 60 || machine.Quote(base) != base || strings.Contains(base, "%") {
		base = "/tmp"
	}
	return os.MkdirTemp(base, "ingot-")
}

// localUser is the name of who runs Ingot.
func localUser() string {
	if u, err := user.Current(); err == nil && plainUser.MatchString(u.Username) {
		return u.Username
	}
	return "ingot"
}

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(ctx context.Context, env *provisioners.Env) []config.Problem {
	o, b := &p.o, env.Bake()
	problems := script.CheckOne(map[string]bool{"playbook_file": o.PlaybookFile != "", "playbook_files": len(o.PlaybookFiles) > 0, "module": o.Module != ""})
	bad := func(option, summary, detail string) {
		problems = append(problems, config.Problem{Option: option, Summary: summary, Detail: detail})
	}
	file := func(option, path string, dir bool) {
		info, err := os.Stat(b.Abs(path))
		switch {
		case err != nil:
			bad(option, fmt.Sprintf("%s: %q cannot be read.", option, path), fmt.Sprintf("%v. Relative paths start in the working directory; ${path.root} names the template's.", err))
		case info.IsDir() != dir && dir:
			bad(option, fmt.Sprintf("%s: %q is no directory.", option, path), "")
		case info.IsDir() != dir:
			bad(option, fmt.Sprintf("%s: %q is a directory.", option, path), "")
		}
	}
	for i, path := range o.PlaybookFiles {
		file(fmt.Sprintf("playbook_files.%d", i), path, false)
	}
	for option, path := range map[string]string{
		"playbook_file": o.PlaybookFile, "galaxy_file": o.GalaxyFile, "ssh_host_key_file": o.SSHHostKeyFile, "ssh_authorized_key_file": o.SSHAuthorizedKeyFile,
	} {
		if path != "" {
			file(option, path, false)
		}
	}
	if o.InventoryFile != "" { // a directory is one, too
		if _, err := os.Stat(b.Abs(o.InventoryFile)); err != nil {
			bad("inventory_file", fmt.Sprintf("inventory_file: %q cannot be read.", o.InventoryFile), err.Error())
		}
		for option, set := range map[string]bool{"groups": len(o.Groups) > 0, "empty_groups": len(o.EmptyGroups) > 0, "inventory_file_template": o.InventoryFileTemplate != ""} {
			if set {
				problems = append(problems, config.Problem{Option: option, Summary: option + " has no effect beside inventory_file: nothing is generated.", Warning: true})
			}
		}
	}
	if o.InventoryDirectory != "" {
		file("inventory_directory", o.InventoryDirectory, true)
	}
	if len(o.ModuleArgs) > 0 && o.Module == "" {
		bad("module_args", "module_args needs module.", "")
	}
	if strings.ContainsFunc(o.Module, func(c rune) bool { return c <= ' ' || c == '=' }) {
		bad("module", fmt.Sprintf("module %q is no name of a module: its arguments belong into module_args.", o.Module), "")
	}
	if o.Command == "" {
		bad("command", "command is empty.", "")
	}
	name := func(option, name string) {
		if err := play.CheckName(name); err != nil {
			bad(option, err.Error()+".", "")
		}
	}
	name("host_alias", o.HostAlias)
	for i, g := range o.Groups {
		name(fmt.Sprintf("groups.%d", i), g)
	}
	for i, g := range o.EmptyGroups {
		name(fmt.Sprintf("empty_groups.%d", i), g)
	}
	if o.User != "" && !plainUser.MatchString(o.User) {
		bad("user", fmt.Sprintf("user %q has characters that no inventory can hold.", o.User), "")
	}
	if o.LocalPort < 0 || o.LocalPort > 65535 {
		bad("local_port", fmt.Sprintf("local_port %d is no port: 0 to 65535.", o.LocalPort), "")
	}
	if !slices.Contains([]string{"ED25519", "ECDSA", "RSA"}, strings.ToUpper(o.AnsibleProxyKeyType)) {
		bad("ansible_proxy_key_type", fmt.Sprintf("ansible_proxy_key_type is %q: it must be ED25519, ECDSA or RSA.", o.AnsibleProxyKeyType), "")
	}
	if !loopback(o.AnsibleProxyBindAddress) {
		bad("ansible_proxy_bind_address", fmt.Sprintf("ansible_proxy_bind_address is %q: it must be a loopback address.", o.AnsibleProxyBindAddress), "Whoever reaches the proxy can try to reach the machine.")
	}
	if o.AnsibleProxyHost != "" && !plainHost.MatchString(o.AnsibleProxyHost) {
		bad("ansible_proxy_host", fmt.Sprintf("ansible_proxy_host %q is no host name.", o.AnsibleProxyHost), "")
	}
	for i, kv := range o.AnsibleEnvVars {
		if n, _, ok := strings.Cut(kv, "="); !ok || n == "" {
			bad(fmt.Sprintf("ansible_env_vars.%d", i), fmt.Sprintf("Entry %d of ansible_env_vars is not of the form NAME=value.", i+1), "")
		}
	}
	for option, texts := range map[string][]string{
		"extra_arguments": o.ExtraArguments, "ansible_env_vars": o.AnsibleEnvVars, "ansible_ssh_extra_args": o.AnsibleSSHExtraArgs, "inventory_file_template": {o.InventoryFileTemplate},
	} {
		for _, text := range texts {
			problems = append(problems, script.CheckTemplate(option, text)...)
		}
	}
	slices.SortStableFunc(problems, func(a, b config.Problem) int { return strings.Compare(a.Option, b.Option) })
	if env.Validate {
		return problems
	}
	return append(problems, p.checkPrograms(ctx, b)...)
}

func (p *Provisioner) checkPrograms(ctx context.Context, b script.Bake) []config.Problem {
	var problems []config.Problem
	missing := func(option, command string) bool {
		_, err := exec.LookPath(program(b, command))
		if command == "" || err == nil {
			return false
		}
		problems = append(problems, config.Problem{Option: option, Summary: fmt.Sprintf("The program %q cannot be run: %v.", command, errors.Unwrap(err)),
			Detail: "The ansible provisioner runs Ansible on this host. Install it (Debian and Ubuntu: apt install ansible-core; or pipx install ansible-core), or name the program by " + option + ". The ansible-local provisioner runs the one on the machine."})
		return true
	}
	if p.o.GalaxyFile != "" {
		missing("galaxy_command", p.o.GalaxyCommand)
	}
	if missing("command", p.o.Command) || p.o.Command == "" || p.o.SkipVersionCheck {
		return problems
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if problem := p.versions.check(ctx, program(b, p.o.Command), b.Dir); problem != nil {
		problems = append(problems, *problem)
	}
	return problems
}
