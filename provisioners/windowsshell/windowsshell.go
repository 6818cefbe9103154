// Package windowsshell runs batch files on the machine by cmd.exe.
package windowsshell

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/internal/winscript"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "windows-shell"` block. Exactly
// one of inline, script and scripts must be set.
type Options struct {
	// Inline are commands, run together as one batch file, which shows none of
	// them. Go templates such as {{ .Host }} are rendered when it runs.
	Inline []string `cfg:"inline" render:"late"`
	// Script is the path of a batch file on this host, relative to the working directory.
	Script string `cfg:"script"`
	// Scripts are paths of batch files, run one after another.
	Scripts []string `cfg:"scripts"`
	// EnvironmentVars are variables for the script, as `NAME=value`.
	EnvironmentVars []string `cfg:"environment_vars"`
	// Env are variables for the script. They win over environment_vars.
	Env map[string]string `cfg:"env"`
	// EnvVarFormat is how one variable is written in {{ .Vars }}, with %s for
	// name and value. Default: `set "%s=%s" && `.
	EnvVarFormat string `cfg:"env_var_format"`
	// ExecuteCommand is the command line that runs the script, a Go template with
	// {{ .Path }}, {{ .Vars }} and the generated values. The variables are then
	// on a command line, where a value can have no double quotes. Default:
	// `{{ .Vars }}"{{ .Path }}"` in effect, with the variables in the environment.
	ExecuteCommand string `cfg:"execute_command" render:"late" vars:"Path Vars"`
	// RemotePath is the script's whole path on the machine. Default:
	// `c:/Windows/Temp/script-<random>.bat`.
	RemotePath string `cfg:"remote_path"`
	// Binary keeps line ends as they are, which otherwise become CR LF.
	Binary bool `cfg:"binary"`
	// ValidExitCodes are the exit statuses that mean success. Default: 0.
	// 2300218 stands for a lost connection.
	ValidExitCodes []int `cfg:"valid_exit_codes"`
	// StartRetryTimeout is for how long to try again when a script cannot be
	// put on the machine and started. A script that ran is never tried again.
	StartRetryTimeout time.Duration `cfg:"start_retry_timeout"`
	// SkipClean leaves the script on the machine.
	SkipClean bool `cfg:"skip_clean"`
}

// Provisioner is the windows-shell provisioner.
type Provisioner struct{ o Options }

// New returns a windows-shell provisioner with the default options.
func New() *Provisioner { return &Provisioner{Options{StartRetryTimeout: 5 * time.Minute}} }

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o := &p.o
	b := env.Bake()
	problems := script.Source{Inline: o.Inline, Script: o.Script, Scripts: o.Scripts, Execute: o.ExecuteCommand}.Check(b, p.env())
	if o.StartRetryTimeout < 0 {
		problems = append(problems, config.Problem{Option: "start_retry_timeout", Summary: "start_retry_timeout is negative."})
	}
	if o.EnvVarFormat != "" && o.ExecuteCommand == "" {
		problems = append(problems, config.Problem{Option: "env_var_format", Summary: "env_var_format is used only with execute_command.", Warning: true})
	}
	if o.ExecuteCommand != "" {
		vars := p.env().All(b)
		for _, k := range slices.Sorted(maps.Keys(vars)) {
			if strings.ContainsAny(vars[k], "\"\r\n\x00") {
				problems = append(problems, config.Problem{
					Option:  "execute_command",
					Summary: fmt.Sprintf("The value of %s has double quotes or line ends, which a command line cannot set.", k),
					Detail:  "Without execute_command the variables go into the environment, whatever is in them.",
				})
			}
		}
	}
	return problems
}

func (p *Provisioner) env() script.Env {
	return script.Env{List: p.o.EnvironmentVars, Map: p.o.Env, Format: p.o.EnvVarFormat, Default: `set "%s=%s" && `}
}

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	if m == nil {
		return fmt.Errorf("the windows-shell provisioner needs a machine to run commands on: %w (communicator = \"none\"?); shell-local runs scripts on this host", machine.ErrNone)
	}
	o, b := &p.o, env.Bake()
	r := &winscript.Runner{
		Machine: m, Events: env.Events, Engine: powershell.Engine{Policy: "bypass"}, Path: o.RemotePath, Vars: p.env().All(b),
		SkipClean: o.SkipClean, Allowed: o.ValidExitCodes, StartRetry: o.StartRetryTimeout,
	}
	if r.Path == "" {
		r.Path = "c:/Windows/Temp/script-" + rand.Text() + ".bat"
	}
	var err error
	if r.Execute, err = b.Render(o.ExecuteCommand, map[string]any{"Path": r.Path, "Vars": p.env().Text(r.Vars, true)}); err != nil {
		return fmt.Errorf("execute_command: %w", err)
	}
	run := func(name string, text []byte) error {
		if !o.Binary {
			text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		}
		env.Events.Say("Provisioning with batch file: " + name)
		return r.Run(ctx, name, text)
	}
	if len(o.Inline) > 0 {
		text, err := script.Inline(o.Inline, b)
		if err != nil {
			return err
		}
		return run("the inline script", []byte("@echo off\n"+text))
	}
	files := o.Scripts
	if o.Script != "" {
		files = []string{o.Script}
	}
	for _, file := range files {
		text, err := os.ReadFile(b.Abs(file))
		if err != nil {
			return err
		}
		if err := run(file, text); err != nil {
			return err
		}
	}
	return nil
}
