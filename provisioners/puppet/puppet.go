// Package puppet provisions the machine with Puppet, which must be installed there.
package puppet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// common are the options that both provisioners have.
type common struct {
	// ExtraArguments are further arguments of puppet, joined with spaces and
	// not quoted. They are Go templates with the variables of ExecuteCommand.
	ExtraArguments []string `cfg:"extra_arguments" render:"late" vars:"WorkingDir FacterVars Sudo PuppetBinDir Debug ModulePath ModulePathJoiner HieraConfigPath ManifestDir ManifestFile PuppetServer PuppetNode ClientCertPath ClientPrivateKeyPath"`
	// Facter are facts for the run. packer_build_name and packer_builder_type
	// are always among them.
	Facter map[string]string `cfg:"facter"`
	// GuestOSType is the machine's family, `unix` or `windows`.
	GuestOSType string `cfg:"guest_os_type"`
	// IgnoreExitCodes makes every exit status of puppet a success. It warns.
	IgnoreExitCodes bool `cfg:"ignore_exit_codes"`
	// PreventSudo runs puppet without sudo. On Windows there is none.
	PreventSudo bool `cfg:"prevent_sudo"`
	// PuppetBinDir is the directory of the program puppet on the machine, if
	// its PATH does not have it.
	PuppetBinDir string `cfg:"puppet_bin_dir"`
	// CleanStagingDir removes the staging directory afterwards, also after a failure.
	CleanStagingDir bool `cfg:"clean_staging_directory"`
	// WorkingDir is the directory on the machine to run puppet in. Default: the
	// staging directory.
	WorkingDir string `cfg:"working_directory"`
	// ElevatedUser and ElevatedPassword are the Windows account to run puppet
	// as, by a scheduled task with all of its rights. Without a password it is a
	// service account such as SYSTEM. Default: who logs in.
	ElevatedUser     string `cfg:"elevated_user" render:"late"`
	ElevatedPassword string `cfg:"elevated_password" render:"late"`
}

func (o *common) check(c *confmgmt.Checks, stagingOption, staging, execute string) {
	windows := c.GuestOS(o.GuestOSType)
	c.Template("execute_command", execute)
	for _, a := range o.ExtraArguments {
		c.Template("extra_arguments", a)
	}
	for _, k := range slices.Sorted(maps.Keys(o.Facter)) {
		switch v := o.Facter[k]; {
		case !factName.MatchString(k):
			c.Bad("facter", "%q is no name of a fact that can be given to puppet: letters, digits and _ only, and no digit first.", k)
		case strings.ContainsAny(v, "\x00") || windows && strings.ContainsAny(v, "\"%\r\n"):
			c.Bad("facter", "The fact %s cannot be given to puppet on this machine: it must not contain \", %% or a line end.", k)
		}
	}
	c.Remote(stagingOption, staging, windows, o.CleanStagingDir)
	if windows && strings.ContainsAny(o.WorkingDir, "\"\r\n") {
		c.Bad("working_directory", "working_directory contains a quote or a line end.")
	}
	c.Elevated(o.ElevatedUser, o.ElevatedPassword, windows)
}

var factName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// run is one execution of puppet.
type run struct {
	*common
	env      *provisioners.Env
	m        machine.Machine
	staging  string
	windows  bool
	trees    []*machine.Files
	secrets  []string
	execute  string            // the template's, or empty
	standard string            // the default command
	paths    map[string]string // variables of the commands that may need quotes
	options  string            // further options, as they are
	report   *report
}

func (o *common) newRun(env *provisioners.Env, m machine.Machine, staging, base string) *run {
	r := &run{common: o, env: env, m: m, windows: confmgmt.Windows(o.GuestOSType), staging: strings.ReplaceAll(staging, `\`, "/"), paths: map[string]string{}, report: &report{}}
	if staging == "" {
		r.staging = "/tmp/" + base
		if r.windows {
			r.staging = "C:/Windows/Temp/" + base
		}
	}
	return r
}

func (r *run) secret(tree *machine.Files, name string) {
	r.trees = append(r.trees, tree)
	r.secrets = append(r.secrets, path.Join(r.staging, name))
}

func (r *run) run(ctx context.Context) error {
	command, err := r.command()
	if err != nil {
		return err
	}
	detailed := strings.Contains(command, "--detailed-exitcodes")
	job := &confmgmt.Job{
		Env: r.env, Machine: r.m, Windows: r.windows, What: "Puppet", Dir: r.staging, Tree: machine.Join(r.trees...),
		Secrets: r.secrets, Clean: r.CleanStagingDir, Command: command, Line: r.report.line,
	}
	if err := job.RunAs(r.ElevatedUser, r.ElevatedPassword); err != nil {
		return err
	}
	r.env.Events.Say("Running Puppet: " + shown(command))
	return job.Run(ctx, func(status int, tail *script.Tail) error {
		err := r.report.judge(status, detailed, tail)
		if err != nil && r.IgnoreExitCodes {
			r.env.Events.Warn("ignore_exit_codes: " + firstLine(err.Error()))
			return nil
		}
		return err
	})
}

// shown is what is told of a command. Facts may be private.
func shown(command string) string {
	if i := strings.Index(command, "puppet apply"); i >= 0 {
		return command[i:]
	}
	if i := strings.Index(command, "puppet agent"); i >= 0 {
		return command[i:]
	}
	return "by execute_command"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// command renders the command line.
func (r *run) command() (string, error) {
	b := r.env.Bake()
	facts := maps.Clone(r.Facter)
	if facts == nil {
		facts = map[string]string{}
	}
	facts["packer_build_name"], facts["packer_builder_type"] = r.env.BuildName, r.env.BuilderType
	r.paths["WorkingDir"] = r.WorkingDir
	if r.WorkingDir == "" {
		r.paths["WorkingDir"] = r.staging
	}
	joiner := ":"
	if r.windows {
		joiner = ";"
	}
	vars := map[string]any{
		"FacterVars": confmgmt.Facts(facts, r.windows), "Sudo": !r.PreventSudo && !r.windows, "PuppetBinDir": r.PuppetBinDir,
		"Debug": r.env.Debug, "ModulePathJoiner": joiner,
	}
	// The two provisioners share extra_arguments, and so the names in it.
	for _, k := range []string{"ModulePath", "HieraConfigPath", "ManifestDir", "ManifestFile", "PuppetServer", "PuppetNode", "ClientCertPath", "ClientPrivateKeyPath"} {
		vars[k] = ""
	}
	for k, v := range r.paths {
		vars[k] = v
	}
	var extra []string
	for i, a := range r.ExtraArguments {
		text, err := b.Render(a, vars)
		if err != nil {
			return "", fmt.Errorf("extra_arguments.%d: %w", i, err)
		}
		extra = append(extra, text)
	}
	if r.options != "" {
		extra = append(extra, r.options)
	}
	vars["ExtraArguments"] = strings.Join(extra, " ")
	command := r.execute
	if command == "" {
		// Templates in the wild quote for themselves where they have to; ours cannot know.
		command = r.standard
		for k, v := range r.paths {
			if v != "" {
				vars[k] = confmgmt.Quote(v, r.windows)
			}
		}
		if r.PuppetBinDir != "" && !r.windows { // on Windows it is escaped already, as Packer wants it
			vars["PuppetBinDir"] = machine.Quote(r.PuppetBinDir)
		}
	}
	text, err := b.Render(command, vars)
	if err != nil {
		return "", fmt.Errorf("execute_command: %w", err)
	}
	return text, nil
}

// head is the beginning of both default commands, which are Packer's.
func (r *run) head() string {
	sep := " "
	if r.windows {
		sep = " && "
	}
	return `cd {{.WorkingDir}} && {{if ne .FacterVars ""}}{{.FacterVars}}` + sep + `{{end}}{{if .Sudo}}sudo -E {{end}}{{if ne .PuppetBinDir ""}}{{.PuppetBinDir}}/{{end}}puppet `
}

// report is what Puppet says of a run.
type report struct {
	puppet  bool // Puppet said something
	others  bool // someone else did, on stderr
	changes int
	applied bool // a catalog was applied to its end
	said    confmgmt.Said
	other   confmgmt.Said // errors that are about no resource

	known bool // set by judge
}

var (
	// A change names the property behind the resource; other events do not.
	change   = regexp.MustCompile(`^Notice: /Stage\[.*?\](?:/[a-z][a-z0-9_]*): `)
	resource = regexp.MustCompile(`^Error: /Stage\[`)
)

// line reads one line of Puppet's console log.
func (r *report) line(stream, text string) {
	switch {
	case stream == "stdout" && text != "", strings.HasPrefix(text, "Error: "), strings.HasPrefix(text, "Warning: "):
		r.puppet = true
	case text != "":
		r.others = true
	}
	switch {
	case change.MatchString(text):
		// What an exec prints looks like a change of its property returns.
		printed := strings.Contains(text, "]/returns: ") && !strings.HasSuffix(text, "]/returns: executed successfully")
		if !printed && !strings.HasSuffix(text, "(noop)") {
			r.changes++
		}
	case strings.HasPrefix(text, "Notice: Applied catalog in "):
		r.applied = true
	case resource.MatchString(text):
		r.said.Add(text)
	case strings.HasPrefix(text, "Error: "):
		r.other.Add(text)
	}
}

// judge says what the exit status means. detailed says that --detailed-exitcodes was asked for.
func (r *report) judge(status int, detailed bool, tail *script.Tail) error {
	if detailed && (status == 2 || status == 6) {
		r.changes = max(r.changes, 1)
	}
	r.known = r.applied
	said := &r.said
	if !said.Any() {
		said = &r.other
	}
	why := ""
	switch {
	case status == 0:
		r.known = r.known || detailed
		return nil
	case !detailed:
	case status == 2 && !r.puppet && r.others:
		// The shell ends with 2, too, when it cannot change the directory.
		why = "Puppet did not start"
	case status == 2:
		r.known = true
		return nil
	case status == 4:
		r.known, why = true, "some resources failed"
	case status == 6:
		r.known, why = true, "some resources failed, others were changed"
	case status == 1:
		why = "the run failed, or another one is in progress"
	}
	switch status {
	case 126, 127:
		return fmt.Errorf("puppet or another program of the command was not found on the machine (exit status %d); install it first, set puppet_bin_dir, or, where there is no sudo, prevent_sudo = true%s", status, tail)
	}
	text := fmt.Sprintf("Puppet ended with exit status %d", status)
	if why != "" {
		text += " (" + why + ")"
	}
	return errors.New(text + said.Or(tail))
}

// moduleTrees stages local module directories and gives their paths there.
func (r *run) moduleTrees(b script.Bake, paths []string) string {
	var remote []string
	for i, p := range paths {
		name := fmt.Sprintf("module-%d", i)
		r.trees = append(r.trees, machine.DirTree(b.Abs(p), name))
		remote = append(remote, path.Join(r.staging, name))
	}
	joiner := ":"
	if r.windows {
		joiner = ";"
	}
	return strings.Join(remote, joiner)
}

func base(p string) string { return path.Base(filepath.ToSlash(filepath.Clean(p))) }
