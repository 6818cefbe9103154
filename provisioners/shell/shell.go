// Package shell runs scripts on the machine by its Unix shell.
package shell

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "shell"` block. Exactly one of
// inline, script and scripts must be set.
type Options struct {
	// Inline are commands, run together as one script. Go templates such as
	// {{ .Host }} are rendered when the script runs.
	Inline []string `cfg:"inline" render:"late"`
	// Script is the path of a script on this host, relative to the working directory.
	Script string `cfg:"script"`
	// Scripts are paths of scripts, run one after another.
	Scripts []string `cfg:"scripts"`
	// InlineShebang is the interpreter of the inline script, without `#!`.
	// Default: `/bin/sh -e`, unless the inline text starts with `#!` itself.
	InlineShebang string `cfg:"inline_shebang"`
	// EnvironmentVars are variables for the script, as `NAME=value`.
	EnvironmentVars []string `cfg:"environment_vars"`
	// Env are variables for the script. They win over environment_vars.
	Env map[string]string `cfg:"env"`
	// EnvVarFormat is how one variable is written, with %s for name and value.
	// Default: `%s='%s' `, or `export %s='%s'\n` with use_env_var_file.
	EnvVarFormat string `cfg:"env_var_format"`
	// UseEnvVarFile puts the variables into a file that only the login user
	// can read, instead of on the command line.
	UseEnvVarFile bool `cfg:"use_env_var_file"`
	// ExecuteCommand is the command that runs the script, a Go template with
	// {{ .Path }}, {{ .Vars }}, {{ .EnvVarFile }} and the generated values.
	// Default: `{{ .Vars }} {{ .Path }}`, or `. {{ .EnvVarFile }} && {{ .Path }}`
	// with use_env_var_file. The script is executable for the login user only,
	// or, when this option is set, readable for everyone, since the command may
	// change the user.
	ExecuteCommand string `cfg:"execute_command" render:"late" vars:"Path Vars EnvVarFile"`
	// RemoteFolder is the existing directory on the machine where the script is put.
	RemoteFolder string `cfg:"remote_folder"`
	// RemoteFile is the script's file name there. Default: a random name.
	RemoteFile string `cfg:"remote_file"`
	// RemotePath is the script's whole path on the machine, and overrides the two.
	RemotePath string `cfg:"remote_path"`
	// Binary keeps CR LF line ends, which are otherwise turned into LF.
	Binary bool `cfg:"binary"`
	// ValidExitCodes are the exit statuses that mean success. Default: 0.
	// 2300218 stands for a lost connection.
	ValidExitCodes []int `cfg:"valid_exit_codes"`
	// ExpectDisconnect makes it no failure that the connection is lost while a
	// script runs, as it is when the script reboots the machine.
	ExpectDisconnect bool `cfg:"expect_disconnect"`
	// StartRetryTimeout is for how long to try again when a script cannot be
	// put on the machine and started. A script that ran is never tried again.
	StartRetryTimeout time.Duration `cfg:"start_retry_timeout"`
	// SkipClean leaves the script on the machine.
	SkipClean bool `cfg:"skip_clean"`
	// PauseAfter is how long to wait after the last script.
	PauseAfter time.Duration `cfg:"pause_after"`
}

// Provisioner is the shell provisioner.
type Provisioner struct{ o Options }

// New returns a shell provisioner with the default options.
func New() *Provisioner {
	return &Provisioner{Options{RemoteFolder: "/tmp", StartRetryTimeout: 5 * time.Minute}}
}

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o := &p.o
	problems := script.Source{Inline: o.Inline, Script: o.Script, Scripts: o.Scripts, Execute: o.ExecuteCommand}.Check(env.Bake(), p.env())
	for option, d := range map[string]time.Duration{"start_retry_timeout": o.StartRetryTimeout, "pause_after": o.PauseAfter} {
		if d < 0 {
			problems = append(problems, config.Problem{Option: option, Summary: option + " is negative."})
		}
	}
	return problems
}

func (p *Provisioner) env() script.Env {
	e := script.Env{List: p.o.EnvironmentVars, Map: p.o.Env, Format: p.o.EnvVarFormat, Default: "%s='%s' "}
	if p.o.UseEnvVarFile {
		e.Default = "export %s='%s'\n"
	}
	return e
}

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	if m == nil {
		return fmt.Errorf("the shell provisioner needs a machine to run commands on: %w (communicator = \"none\"?); shell-local runs scripts on this host", machine.ErrNone)
	}
	if s := m.Platform().Shell; s != "" && s != "sh" {
		return fmt.Errorf("the shell provisioner needs a Unix shell, and this machine's is %s; use the powershell or windows-shell provisioner", s)
	}
	r, err := p.newRun(env, m)
	if err != nil {
		return err
	}
	if len(p.o.Inline) > 0 {
		text, err := script.Inline(p.o.Inline, r.bake)
		if err != nil {
			return err
		}
		if p.o.InlineShebang != "" {
			text = "#!" + p.o.InlineShebang + "\n" + text
		} else if !strings.HasPrefix(text, "#!") {
			text = "#!/bin/sh -e\n" + text
		}
		if err := r.script(ctx, "the inline script", []byte(text)); err != nil {
			return err
		}
	}
	files := p.o.Scripts
	if p.o.Script != "" {
		files = []string{p.o.Script}
	}
	for _, file := range files {
		text, err := os.ReadFile(r.bake.Abs(file))
		if err != nil {
			return err
		}
		if err := r.script(ctx, file, text); err != nil {
			return err
		}
	}
	return script.Pause(ctx, p.o.PauseAfter)
}

// run is one execution of the provisioner.
type run struct {
	*Options
	env           *provisioners.Env
	m             machine.Machine
	bake          script.Bake
	path, envPath string // on the machine; envPath may be empty
	envText       string
	execute       string
}

func (p *Provisioner) newRun(env *provisioners.Env, m machine.Machine) (*run, error) {
	r := &run{Options: &p.o, env: env, m: m, bake: env.Bake()}
	r.path = p.o.RemotePath
	if r.path == "" {
		file := p.o.RemoteFile
		if file == "" {
			file = "script_" + rand.Text() + ".sh"
		}
		r.path = path.Join(p.o.RemoteFolder, file)
	}
	vars := p.env().Text(p.env().All(r.bake), false)
	if p.o.UseEnvVarFile {
		r.envPath = path.Join(p.o.RemoteFolder, "varfile_"+rand.Text()+".sh")
		r.envText, vars = strings.TrimSuffix(vars, "\n")+"\n", ""
	}
	command, shown := p.o.ExecuteCommand, [2]string{r.path, r.envPath}
	if command == "" {
		// Templates in the wild quote for themselves where they have to; ours cannot know.
		shown = [2]string{machine.Quote(r.path), machine.Quote(r.envPath)}
		command = "{{.Vars}} {{.Path}}"
		if p.o.UseEnvVarFile {
			command = ". {{.EnvVarFile}} && {{.Path}}"
		}
	}
	var err error
	r.execute, err = r.bake.Render(command, map[string]any{"Path": shown[0], "EnvVarFile": shown[1], "Vars": vars})
	if err != nil {
		return nil, fmt.Errorf("execute_command: %w", err)
	}
	return r, nil
}

// script runs one script, and starts it again while it cannot be started.
func (r *run) script(ctx context.Context, name string, text []byte) error {
	if !r.Binary {
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	}
	r.env.Events.Say("Provisioning with shell script: " + name)
	return script.Start(ctx, name, r.StartRetryTimeout, r.env.Events, func(patience time.Duration) (bool, error) {
		return r.attempt(ctx, name, text, patience)
	})
}

// attempt uploads, runs and removes a script in one command. It gives up when
// the script has not started within patience (0: no limit).
func (r *run) attempt(ctx context.Context, name string, text []byte, patience time.Duration) (started bool, err error) {
	mark := rand.Text()
	tail := &script.Tail{Next: r.env.Events.Sink}
	scope := r.env.Events
	scope.Sink = tail
	stdout, stderr := scope.Lines("stdout"), scope.Lines("stderr")
	gate := script.NewGate(mark+"\n", stderr)
	var stdin io.Reader = bytes.NewReader(text)
	if r.envPath != "" {
		stdin = io.MultiReader(strings.NewReader(r.envText+mark+"\n"), stdin)
	}

	started, err = gate.Run(ctx, r.m, machine.Command{Line: r.line(mark), Stdin: stdin, Stdout: stdout}, patience)
	stdout.Flush()
	stderr.Flush()
	switch {
	case ctx.Err() != nil:
		r.removeAfterCancel(ctx)
		return started, ctx.Err()
	case !started:
		return false, err
	}
	status := 0
	if err != nil {
		exit, ok := errors.AsType[*machine.ExitError](err)
		if !ok {
			return true, fmt.Errorf("%s was started, but not seen to its end: %w%s", name, err, tail)
		}
		status = exit.Status
	}
	allowed := r.ValidExitCodes
	if len(allowed) == 0 {
		allowed = []int{0}
	}
	switch lost := status == machine.DisconnectStatus; {
	case lost && (r.ExpectDisconnect || slices.Contains(allowed, status)):
		return true, r.removeAfterDisconnect(ctx, name)
	case lost:
		return true, fmt.Errorf("the connection was lost while %s ran%s\nIf it reboots the machine, set expect_disconnect = true", name, tail)
	case !slices.Contains(allowed, status):
		return true, script.ExitFailure(name, status, allowed, tail)
	}
	return true, nil
}

// line is the command that takes the environment file and the script from
// stdin, says mark on stderr once they are in place, runs the script and
// removes both. It uses no variable that the script could see.
func (r *run) line(mark string) string {
	file, envFile := machine.Quote(r.path), machine.Quote(r.envPath)
	all, takeEnv, mode := file, "", "700"
	if r.envPath != "" {
		all += " " + envFile
		// read takes no byte more than the line, so that cat finds the rest.
		takeEnv = "while IFS= read -r l && [ \"$l\" != " + mark + " ]; do printf '%s\\n' \"$l\"; done >" + envFile + " && "
	}
	if r.ExecuteCommand != "" {
		mode = "755"
	}
	line := "(umask 077; set -C; rm -f " + all + " && " + takeEnv + "cat >" + file + " && chmod " + mode + " " + file + ") || exit\n" +
		"echo " + mark + " >&2\n" +
		"(eval " + machine.Quote(r.execute) + ")\n" +
		"s=$?\n"
	if rm := r.removal(); rm != "" {
		line += rm + "\n"
	}
	return line + "exit $s"
}

// removal is the command that removes what must not stay, if anything. The
// environment file never stays: it may hold secrets.
func (r *run) removal() string {
	var paths []string
	if !r.SkipClean {
		paths = append(paths, r.path)
	}
	if r.envPath != "" {
		paths = append(paths, r.envPath)
	}
	if paths == nil {
		return ""
	}
	return "rm -f " + machine.Quote(paths...)
}

// removeAfterDisconnect waits for the machine to come back.
func (r *run) removeAfterDisconnect(ctx context.Context, name string) error {
	line := r.removal()
	if line == "" {
		return nil
	}
	deadline := time.Now().Add(r.StartRetryTimeout)
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := r.m.Run(ctx, machine.Command{Line: line})
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Until(deadline) <= delay {
			return fmt.Errorf("%s disconnected, and within start_retry_timeout (%v) the machine was not back to have it removed: %w\nIf the script switches the machine off, set skip_clean = true", name, r.StartRetryTimeout, err)
		}
		if err := script.Pause(ctx, delay); err != nil {
			return err
		}
	}
}

// removeAfterCancel matters to a machine that outlives the bake.
func (r *run) removeAfterCancel(ctx context.Context) {
	line := r.removal()
	if line == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := r.m.Run(ctx, machine.Command{Line: line}); err != nil {
		r.env.Events.Warn(fmt.Sprintf("%s may be left on the machine: %v", r.path, err))
	}
}
