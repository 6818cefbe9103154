// Package powershell runs scripts on the machine by PowerShell.
package powershell

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

// Options are the options of a `provisioner "powershell"` block. Exactly one
// of inline, script and scripts must be set.
type Options struct {
	// Inline are commands, run together as one script. Go templates such as
	// {{ .Host }} are rendered when the script runs.
	Inline []string `cfg:"inline" render:"late"`
	// Script is the path of a script on this host, relative to the working directory.
	Script string `cfg:"script"`
	// Scripts are paths of scripts, run one after another.
	Scripts []string `cfg:"scripts"`
	// EnvironmentVars are variables for the script, as `NAME=value`. Go templates
	// such as {{ .WinRMPassword }} are rendered when the script runs.
	EnvironmentVars []string `cfg:"environment_vars" render:"late"`
	// Env are variables for the script. They win over environment_vars.
	Env map[string]string `cfg:"env" render:"late"`
	// EnvVarFormat is how one variable is written in the file {{ .Vars }}, with
	// %s for name and value. Quotes, backticks and dollar signs of the value are
	// escaped for a text in double quotes. Default: a PowerShell assignment that
	// takes every value.
	EnvVarFormat string `cfg:"env_var_format"`
	// ExecuteCommand is the command line that runs the script, a Go template with
	// {{ .Path }}, {{ .Vars }} (the path of a script that sets the variables) and
	// the generated values. The machine's shell gets it. Default: the script runs
	// in the PowerShell that put it there, with the variables in its environment.
	ExecuteCommand string `cfg:"execute_command" render:"late" vars:"Path Vars"`
	// ElevatedUser runs the script as this user by a scheduled task, with all of
	// the user's rights. SYSTEM and other service accounts need no password.
	ElevatedUser string `cfg:"elevated_user" render:"late"`
	// ElevatedPassword is the user's password. It goes through the input of the
	// command that makes the task, and is on no command line.
	ElevatedPassword string `cfg:"elevated_password" render:"late"`
	// ElevatedExecuteCommand is execute_command for the elevated user.
	ElevatedExecuteCommand string `cfg:"elevated_execute_command" render:"late" vars:"Path Vars"`
	// ElevatedEnvVarFormat is env_var_format for the elevated user.
	ElevatedEnvVarFormat string `cfg:"elevated_env_var_format"`
	// ExecutionPolicy is which scripts may run: allsigned, bypass, default,
	// remotesigned, restricted, undefined, unrestricted, or none for the machine's
	// own. Default: bypass.
	ExecutionPolicy string `cfg:"execution_policy"`
	// UsePwsh runs PowerShell 7 (pwsh) instead of Windows PowerShell.
	UsePwsh bool `cfg:"use_pwsh"`
	// DebugMode traces the script: 1 each line, 2 also variables and calls.
	DebugMode int `cfg:"debug_mode"`
	// RemotePath is the script's whole path on the machine. Default:
	// `c:/Windows/Temp/script-<random>.ps1`.
	RemotePath string `cfg:"remote_path"`
	// RemoteEnvVarPath is the path of the file with the variables, where there
	// has to be one: with execute_command, or with elevated_user. It is removed
	// in any case. Default: `c:/Windows/Temp/packer-ps-env-vars-<random>.ps1`.
	RemoteEnvVarPath string `cfg:"remote_env_var_path"`
	// Binary keeps CR LF line ends, which are otherwise turned into LF.
	Binary bool `cfg:"binary"`
	// ValidExitCodes are the exit statuses that mean success. Default: 0.
	// 2300218 stands for a lost connection.
	ValidExitCodes []int `cfg:"valid_exit_codes"`
	// StartRetryTimeout is for how long to try again when a script cannot be
	// put on the machine and started. A script that ran is never tried again.
	StartRetryTimeout time.Duration `cfg:"start_retry_timeout"`
	// SkipClean leaves the script on the machine.
	SkipClean bool `cfg:"skip_clean"`
	// PauseAfter is how long to wait after the last script.
	PauseAfter time.Duration `cfg:"pause_after"`
}

// Provisioner is the powershell provisioner.
type Provisioner struct{ o Options }

// New returns a powershell provisioner with the default options.
func New() *Provisioner {
	return &Provisioner{Options{ExecutionPolicy: "bypass", StartRetryTimeout: 5 * time.Minute}}
}

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

func policies() []string {
	return []string{"allsigned", "bypass", "default", "none", "remotesigned", "restricted", "undefined", "unrestricted"}
}

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o := &p.o
	problems := script.Source{Inline: o.Inline, Script: o.Script, Scripts: o.Scripts, Execute: o.ExecuteCommand}.Check(env.Bake(), p.env(o.EnvVarFormat))
	bad := func(option, summary string) {
		problems = append(problems, config.Problem{Option: option, Summary: summary})
	}
	if f := o.ElevatedEnvVarFormat; f != "" && strings.Contains(fmt.Sprintf(f, "k", "v"), "%!") {
		bad("elevated_env_var_format", fmt.Sprintf("elevated_env_var_format %q must have exactly two %%s: the variable's name and its value.", f))
	}
	problems = append(problems, script.CheckTemplate("elevated_execute_command", o.ElevatedExecuteCommand)...)
	problems = append(problems, script.CheckTemplate("elevated_user", o.ElevatedUser)...)
	problems = append(problems, script.CheckTemplate("elevated_password", o.ElevatedPassword)...)
	for _, kv := range o.EnvironmentVars {
		problems = append(problems, script.CheckTemplate("environment_vars", kv)...)
	}
	for _, k := range slices.Sorted(maps.Keys(o.Env)) {
		problems = append(problems, script.CheckTemplate("env", o.Env[k])...)
	}
	for option, d := range map[string]time.Duration{"start_retry_timeout": o.StartRetryTimeout, "pause_after": o.PauseAfter} {
		if d < 0 {
			bad(option, option+" is negative.")
		}
	}
	if !slices.Contains(policies(), strings.ToLower(o.ExecutionPolicy)) {
		bad("execution_policy", fmt.Sprintf("The execution_policy %q is none of %s.", o.ExecutionPolicy, strings.Join(policies(), ", ")))
	}
	if o.DebugMode < 0 || o.DebugMode > 2 {
		bad("debug_mode", "debug_mode is 0, 1 or 2.")
	}
	if o.ElevatedUser == "" {
		for option, set := range map[string]bool{
			"elevated_password": o.ElevatedPassword != "", "elevated_execute_command": o.ElevatedExecuteCommand != "",
			"elevated_env_var_format": o.ElevatedEnvVarFormat != "",
		} {
			if set {
				bad(option, option+" is set, but elevated_user is not.")
			}
		}
	} else if o.ExecuteCommand != "" {
		bad("execute_command", "execute_command is not used with elevated_user: set elevated_execute_command.")
	}
	return problems
}

func (p *Provisioner) env(format string) script.Env {
	return script.Env{List: p.o.EnvironmentVars, Map: p.o.Env, Format: format}
}

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	if m == nil {
		return fmt.Errorf("the powershell provisioner needs a machine to run commands on: %w (communicator = \"none\"?); shell-local runs scripts on this host", machine.ErrNone)
	}
	r, err := p.runner(env, m)
	if err != nil {
		return err
	}
	b := env.Bake()
	run := func(name string, text []byte) error {
		env.Events.Say("Provisioning with PowerShell: " + name)
		return r.Run(ctx, name, text)
	}
	if len(p.o.Inline) > 0 {
		text, err := script.Inline(p.o.Inline, b)
		if err != nil {
			return err
		}
		// Windows PowerShell takes a file for UTF-8 only by its mark.
		if err := run("the inline script", append([]byte("\ufeff"), text...)); err != nil {
			return err
		}
	}
	files := p.o.Scripts
	if p.o.Script != "" {
		files = []string{p.o.Script}
	}
	for _, file := range files {
		text, err := os.ReadFile(b.Abs(file))
		if err != nil {
			return err
		}
		if !p.o.Binary {
			text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		}
		if err := run(file, text); err != nil {
			return err
		}
	}
	return script.Pause(ctx, p.o.PauseAfter)
}

func (p *Provisioner) runner(env *provisioners.Env, m machine.Machine) (*winscript.Runner, error) {
	o, b := &p.o, env.Bake()
	vars, err := rendered(p.env(""), b)
	if err != nil {
		return nil, err
	}
	r := &winscript.Runner{
		Machine: m, Events: env.Events, Engine: powershell.Engine{Pwsh: o.UsePwsh}, Path: o.RemotePath, Vars: vars,
		Debug: o.DebugMode, SkipClean: o.SkipClean, Allowed: o.ValidExitCodes, StartRetry: o.StartRetryTimeout,
	}
	if policy := strings.ToLower(o.ExecutionPolicy); policy != "none" {
		r.Engine.Policy = policy
	}
	if r.Path == "" {
		r.Path = "c:/Windows/Temp/script-" + rand.Text() + ".ps1"
	}
	if r.User, err = b.Render(o.ElevatedUser, nil); err != nil {
		return nil, fmt.Errorf("elevated_user: %w", err)
	}
	if r.Password, err = b.Render(o.ElevatedPassword, nil); err != nil {
		return nil, fmt.Errorf("elevated_password: %w", err)
	}
	option, command, format := "execute_command", o.ExecuteCommand, o.EnvVarFormat
	if r.User != "" {
		option, command = "elevated_execute_command", o.ElevatedExecuteCommand
		if o.ElevatedEnvVarFormat != "" {
			format = o.ElevatedEnvVarFormat
		}
	}
	if r.User != "" || command != "" {
		if r.EnvPath = o.RemoteEnvVarPath; r.EnvPath == "" {
			r.EnvPath = "c:/Windows/Temp/packer-ps-env-vars-" + rand.Text() + ".ps1"
		}
		r.EnvText = text(vars, format)
	}
	if r.Execute, err = b.Render(command, map[string]any{"Path": r.Path, "Vars": r.EnvPath}); err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	return r, nil
}

// rendered is the whole environment, with its templates rendered.
func rendered(e script.Env, b script.Bake) (map[string]string, error) {
	vars := e.All(b)
	for k, v := range vars {
		var err error
		if vars[k], err = b.Render(v, nil); err != nil {
			return nil, fmt.Errorf("the variable %s: %w", k, err)
		}
	}
	return vars, nil
}

// text is the script that sets vars.
func text(vars map[string]string, format string) string {
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		if format == "" {
			fmt.Fprintf(&out, "[Environment]::SetEnvironmentVariable(%s, %s)\n", powershell.Quote(k), powershell.Quote(vars[k]))
			continue
		}
		fmt.Fprintf(&out, format, k, inDoubleQuotes.Replace(vars[k]))
		out.WriteByte('\n')
	}
	return out.String()
}

// inDoubleQuotes escapes what means something in PowerShell's double quotes,
// which typographic ones end too.
var inDoubleQuotes = strings.NewReplacer("`", "``", `"`, "`\"", "$", "`$", "\u201c", "`\u201c", "\u201d", "`\u201d", "\u201e", "`\u201e")
