// Package windowsrestart restarts a Windows machine and waits for it.
package windowsrestart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "windows-restart"` block.
type Options struct {
	// RestartCommand is the command line that restarts the machine.
	RestartCommand string `cfg:"restart_command"`
	// RestartCheckCommand is a command line that succeeds when the machine is
	// ready. Default: none but that PowerShell runs, and tells that the machine
	// has started since.
	RestartCheckCommand string `cfg:"restart_check_command"`
	// RestartTimeout is for how long to wait for the machine.
	RestartTimeout time.Duration `cfg:"restart_timeout"`
	// CheckRegistry waits until none of registry_keys is there, as they are
	// while more restarts are due.
	CheckRegistry bool `cfg:"check_registry"`
	// RegistryKeys are keys that tell of a due restart, in PowerShell's form.
	RegistryKeys []string `cfg:"registry_keys"`
}

// Provisioner is the windows-restart provisioner.
type Provisioner struct {
	o     Options
	first time.Duration // between the first looks
	slack time.Duration // less than any restart takes
}

// New returns a windows-restart provisioner with the default options.
func New() *Provisioner {
	return &Provisioner{first: 250 * time.Millisecond, slack: 2 * time.Second, o: Options{
		RestartCommand: `shutdown /r /f /t 0 /c "packer restart"`,
		RestartTimeout: 5 * time.Minute,
		RegistryKeys: []string{
			`HKLM:SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending`,
			`HKLM:SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\PackagesPending`,
			`HKLM:Software\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootInProgress`,
		},
	}}
}

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(context.Context, *provisioners.Env) []config.Problem {
	var problems []config.Problem
	for option, line := range map[string]string{"restart_command": p.o.RestartCommand, "restart_check_command": p.o.RestartCheckCommand} {
		if strings.ContainsAny(line, "\r\n") || option == "restart_command" && strings.TrimSpace(line) == "" {
			problems = append(problems, config.Problem{Option: option, Summary: option + " must be one line."})
		}
	}
	if p.o.RestartTimeout <= 0 {
		problems = append(problems, config.Problem{Option: "restart_timeout", Summary: "restart_timeout must be more than 0."})
	}
	return problems
}

// The statuses of shutdown that say that a restart is under way.
const (
	underWay  = 1115
	scheduled = 1190
)

// upScript tells how long Windows has been up, in milliseconds, by a counter
// that no change of the clock moves.
const upScript = `param($a)
[Console]::Out.WriteLine('up ' + [long]([Diagnostics.Stopwatch]::GetTimestamp() * 1000.0 / [Diagnostics.Stopwatch]::Frequency))
`

// pendingScript gets keys, and prints those that exist.
const pendingScript = `param($a)
foreach ($key in $a) { if (Test-Path -LiteralPath $key) { [Console]::Out.WriteLine('pending ' + $key) } }
[Console]::Out.WriteLine('checked')
`

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	if m == nil {
		return fmt.Errorf("the windows-restart provisioner needs a machine: %w (communicator = \"none\"?)", machine.ErrNone)
	}
	before, err := readUptime(ctx, m)
	if err != nil {
		return fmt.Errorf("ask the machine how long it is up: %w", err)
	}
	deadline := time.Now().Add(p.o.RestartTimeout)
	waitCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	env.Events.Say("Restarting the machine")
	tail := &script.Tail{Next: env.Events.Sink}
	scope := env.Events
	scope.Sink = tail
	stdout, stderr := scope.Lines("stdout"), scope.Lines("stderr")
	err = m.Run(waitCtx, machine.Command{Line: p.o.RestartCommand, Stdout: stdout, Stderr: stderr})
	stdout.Flush()
	stderr.Flush()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if exit, ok := errors.AsType[*machine.ExitError](err); ok && !slices.Contains([]int{underWay, scheduled, machine.DisconnectStatus}, exit.Status) {
		return fmt.Errorf("restart_command ended with exit status %d%s", exit.Status, tail)
	} else if err != nil && !ok {
		return fmt.Errorf("restart_command: %w", err)
	}
	env.Events.Say("Waiting for the machine to come back")
	var last error // the cause that the machine itself gave
	for delay := p.first; ; delay = min(2*delay, 5*time.Second) {
		err := p.look(waitCtx, m, before)
		if err == nil {
			env.Events.Say("The machine has restarted")
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if waitCtx.Err() == nil {
			if last == nil || err.Error() != last.Error() {
				env.Events.Say("Not yet: " + err.Error())
			}
			last = err
		}
		if time.Until(deadline) <= delay {
			if last == nil {
				last = err
			}
			return fmt.Errorf("the machine was not back within restart_timeout (%v): %w", p.o.RestartTimeout, last)
		}
		if err := script.Pause(ctx, delay); err != nil {
			return err
		}
	}
}

// lookLimit bounds one look, so that a machine that vanished does not hold it.
const lookLimit = time.Minute

// look says why the machine is not ready.
func (p *Provisioner) look(ctx context.Context, m machine.Machine, before uptime) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	now, err := readUptime(ctx, m)
	if err != nil {
		return err
	}
	// Without a restart, at least the time between the two has been added.
	if now.up-before.up >= now.asked.Sub(before.told)-p.slack {
		return errors.New("it has not gone down yet")
	}
	if line := p.o.RestartCheckCommand; line != "" {
		if err := m.Run(ctx, machine.Command{Line: line}); err != nil {
			return fmt.Errorf("restart_check_command: %w", err)
		}
	}
	if !p.o.CheckRegistry || len(p.o.RegistryKeys) == 0 {
		return nil
	}
	out, err := call(ctx, m, pendingScript, p.o.RegistryKeys...)
	if err != nil {
		return err
	}
	checked := false
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if key, ok := strings.CutPrefix(line, "pending "); ok {
			return fmt.Errorf("another restart is due: %s", key)
		}
		checked = checked || line == "checked"
	}
	if !checked {
		return fmt.Errorf("the registry was not checked; the machine said %.100q", out)
	}
	return nil
}

// uptime is what the machine told between two moments.
type uptime struct {
	up          time.Duration
	asked, told time.Time
}

func readUptime(ctx context.Context, m machine.Machine) (uptime, error) {
	u := uptime{asked: time.Now()}
	out, err := call(ctx, m, upScript)
	if err != nil {
		return u, err
	}
	u.told = time.Now()
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "up "); ok {
			ms, err := strconv.ParseInt(text, 10, 53)
			u.up = time.Duration(ms) * time.Millisecond
			return u, err
		}
	}
	return u, fmt.Errorf("the machine said %.100q", out)
}

// call runs a script of ours and returns what it printed.
func call(ctx context.Context, m machine.Machine, text string, args ...string) (string, error) {
	line, stdin := powershell.Engine{Policy: "bypass"}.Call(text, args...)
	out, errs := &keep{}, &keep{}
	stderr := powershell.NewStderr(errs)
	err := m.Run(ctx, machine.Command{Line: line, Stdin: stdin, Stdout: out, Stderr: stderr})
	_ = stderr.Flush()
	if said := strings.TrimSpace(string(errs.b)); err != nil && said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return string(out.b), err
}

// keep holds the beginning of an output.
type keep struct{ b []byte }

func (k *keep) Write(p []byte) (int, error) {
	k.b = append(k.b, p[:min(len(p), 16<<10-len(k.b))]...)
	return len(p), nil
}
