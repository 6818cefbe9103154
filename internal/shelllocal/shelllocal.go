// Package shelllocal runs scripts on this host, for the provisioner and the
// post-processor of that name.
package shelllocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
)

// Options are the options of a `shell-local` block. Exactly one of inline,
// command, script and scripts must be set.
type Options struct {
	// Inline are commands, run together as one script. Go templates are
	// rendered when the script runs.
	Inline []string `cfg:"inline" render:"late"`
	// Command is one command. Deprecated: use inline.
	Command string `cfg:"command" render:"late"`
	// Script is the path of a script, relative to the working directory.
	Script string `cfg:"script"`
	// Scripts are paths of scripts, run one after another.
	Scripts []string `cfg:"scripts"`
	// InlineShebang is the interpreter of the inline script, without `#!`.
	// Default: `/bin/sh -e`, and none on Windows.
	InlineShebang string `cfg:"inline_shebang"`
	// ExecuteCommand is the command that runs the script and its arguments: Go
	// templates with {{ .Script }}, {{ .Vars }} and the generated values. One
	// element alone is a line for `sh -c`. Default: the script by `/bin/sh -c`,
	// or by `cmd` on Windows, with the variables in its environment.
	ExecuteCommand []string `cfg:"execute_command" render:"late" vars:"Script Vars Command"`
	// EnvironmentVars are variables for the script, as `NAME=value`.
	EnvironmentVars []string `cfg:"environment_vars"`
	// Env are variables for the script. They win over environment_vars.
	Env map[string]string `cfg:"env"`
	// EnvVarFormat is how one variable is written in {{ .Vars }}, with %s for
	// name and value. Default: `%s='%s' `, on Windows `set %s=%s && `.
	EnvVarFormat string `cfg:"env_var_format"`
	// ValidExitCodes are the exit statuses that mean success. Default: 0.
	ValidExitCodes []int `cfg:"valid_exit_codes"`
	// OnlyOn are the operating systems to run on: darwin, freebsd, linux,
	// openbsd, solaris, windows. Elsewhere nothing is run. Default: all.
	OnlyOn []string `cfg:"only_on"`
	// TempfileExtension ends the name of the inline script's temporary file.
	// Default: none, and `.cmd` on Windows.
	TempfileExtension string `cfg:"tempfile_extension"`
	// UseLinuxPathing turns C:\x into /mnt/c/x in {{ .Script }}, for the Linux
	// subsystem of Windows. It cannot be used with inline.
	UseLinuxPathing bool `cfg:"use_linux_pathing"`
}

// Job is what the options are run for.
type Job struct {
	script.Bake
	RunID  string
	Events event.Scope
}

// Check reports everything wrong that can be known beforehand.
func (o *Options) Check(b script.Bake) []config.Problem {
	problems := script.CheckOne(map[string]bool{
		"inline": len(o.Inline) > 0, "command": o.Command != "", "script": o.Script != "", "scripts": len(o.Scripts) > 0,
	})
	bad := func(option, summary string) {
		problems = append(problems, config.Problem{Option: option, Summary: summary})
	}
	if o.Command != "" {
		problems = append(problems, config.Problem{Option: "command", Summary: "command is deprecated: use inline.", Warning: true})
	}
	if o.Script != "" {
		problems = append(problems, b.CheckFiles("script", []string{o.Script})...)
	}
	problems = append(problems, b.CheckFiles("scripts", o.Scripts)...)
	problems = append(problems, o.env().Check()...)
	for _, line := range append(slices.Clone(o.Inline), o.Command) {
		problems = append(problems, script.CheckTemplate("inline", line)...)
	}
	for _, word := range o.ExecuteCommand {
		problems = append(problems, script.CheckTemplate("execute_command", word)...)
	}
	known := []string{"darwin", "freebsd", "linux", "openbsd", "solaris", "windows"}
	for _, name := range o.OnlyOn {
		if !slices.Contains(known, name) {
			bad("only_on", fmt.Sprintf("%q in only_on is none of %s.", name, strings.Join(known, ", ")))
		}
	}
	if o.UseLinuxPathing && (len(o.Inline) > 0 || o.Command != "") {
		bad("use_linux_pathing", "use_linux_pathing needs script or scripts: an inline script's temporary file is outside of the Linux subsystem.")
	}
	return problems
}

func (o *Options) env() script.Env {
	e := script.Env{List: o.EnvironmentVars, Map: o.Env, Format: o.EnvVarFormat, Default: "%s='%s' "}
	if runtime.GOOS == "windows" {
		e.Default = "set %s=%s && "
	}
	return e
}

// Run runs the scripts one after another.
func (o *Options) Run(ctx context.Context, job *Job) error {
	if len(o.OnlyOn) > 0 && !slices.Contains(o.OnlyOn, runtime.GOOS) {
		job.Events.Say(fmt.Sprintf("Skipping shell-local: only_on is %s, and this is %s", strings.Join(o.OnlyOn, ", "), runtime.GOOS))
		return nil
	}
	inline := o.Inline
	if o.Command != "" {
		inline = []string{o.Command}
	}
	if len(inline) > 0 {
		path, err := o.inlineFile(inline, job)
		if err != nil {
			return err
		}
		defer os.Remove(path)
		if err := o.one(ctx, job, "the local inline script", path); err != nil {
			return err
		}
	}
	files := o.Scripts
	if o.Script != "" {
		files = []string{o.Script}
	}
	for _, file := range files {
		if err := o.one(ctx, job, "the local script "+file, job.Abs(file)); err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) inlineFile(lines []string, job *Job) (path string, err error) {
	text, err := script.Inline(lines, job.Bake)
	if err != nil {
		return "", err
	}
	shebang, extension := o.InlineShebang, o.TempfileExtension
	if runtime.GOOS == "windows" {
		if extension == "" {
			extension = ".cmd"
		}
	} else if shebang == "" {
		shebang = "/bin/sh -e"
	}
	if shebang != "" {
		text = "#!" + shebang + "\n" + text
	}
	// A process that is started by another bake while this file is open for
	// writing would inherit it for a moment, in which it cannot be executed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp("", "ingot-shell-*"+extension)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close(), os.Chmod(f.Name(), 0o700)); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func (o *Options) one(ctx context.Context, job *Job, name, path string) error {
	env := o.env()
	vars := env.All(job.Bake)
	argv, err := o.argv(env, vars, job, path)
	if err != nil {
		return err
	}
	job.Events.Say("Running " + name)
	tail := &script.Tail{Next: job.Events.Sink}
	scope := job.Events
	scope.Sink = tail
	stdout, stderr := scope.Lines("stdout"), scope.Lines("stderr")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = job.Dir
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = append(os.Environ(), "PACKER_RUN_UUID="+job.RunID)
	for k, v := range vars {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	err = local.Exec(ctx, cmd)
	stdout.Flush()
	stderr.Flush()
	status := 0
	if err != nil {
		exit, ok := errors.AsType[*machine.ExitError](err)
		if !ok {
			return fmt.Errorf("%s: %w", name, err)
		}
		status = exit.Status
	}
	allowed := o.ValidExitCodes
	if len(allowed) == 0 {
		allowed = []int{0}
	}
	if !slices.Contains(allowed, status) {
		return script.ExitFailure(name, status, allowed, tail)
	}
	return nil
}

func (o *Options) argv(env script.Env, vars map[string]string, job *Job, path string) ([]string, error) {
	windows := runtime.GOOS == "windows"
	if o.UseLinuxPathing && windows {
		path = linuxPath(path)
	}
	text := env.Text(vars, windows)
	argv := o.ExecuteCommand
	switch {
	case len(argv) == 0 && windows:
		argv = []string{"cmd", "/V", "/C", "{{.Vars}}", "call", "{{.Script}}"}
	case len(argv) == 0:
		argv, path = []string{"/bin/sh", "-c", "{{.Vars}} {{.Script}}"}, machine.Quote(path)
		if o.EnvVarFormat == "" {
			text = "" // they are in the environment, where no `ps` shows them
		}
	case len(argv) == 1:
		argv = []string{"/bin/sh", "-c", argv[0]}
	}
	data := map[string]any{"Vars": text, "Script": path, "Command": path}
	rendered := make([]string, len(argv))
	for i, word := range argv {
		var err error
		if rendered[i], err = job.Render(word, data); err != nil {
			return nil, fmt.Errorf("execute_command: %w", err)
		}
	}
	return rendered, nil
}

// linuxPath is where the Linux subsystem of Windows finds the absolute path p.
func linuxPath(p string) string {
	p = strings.ReplaceAll(p, `\`, "/")
	if len(p) > 1 && p[1] == ':' {
		p = "/mnt/" + strings.ToLower(p[:1]) + p[2:]
	}
	return p
}
