// Package winscript runs scripts on Windows machines, for the provisioners
// powershell and windows-shell. It needs nothing of a machine but a shell that
// can start PowerShell.
package winscript

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
)

// Runner runs scripts in one way.
type Runner struct {
	Machine machine.Machine
	Events  event.Scope
	Engine  powershell.Engine
	// Path is where a script is put. EnvPath is for the variables where they
	// must be in a file, which the login user, administrators and the elevated
	// user can read.
	Path, EnvPath string
	// Vars are the script's variables, EnvText the same as the file has them.
	Vars    map[string]string
	EnvText string
	// Execute is the command line for the script; empty: PowerShell runs it.
	Execute string
	// User is who runs the script by a scheduled task; empty: the login user.
	// Without a Password it is a service account such as SYSTEM.
	User, Password string
	// Debug is for Set-PSDebug -Trace.
	Debug     int
	SkipClean bool
	Allowed   []int // exit statuses; empty: 0
	// Judge, if any, says what the exit status means, in place of Allowed.
	Judge      func(status int) error
	StartRetry time.Duration
}

// Run runs the script called name.
func (r *Runner) Run(ctx context.Context, name string, text []byte) error {
	return script.Start(ctx, name, r.StartRetry, r.Events, func(patience time.Duration) (bool, error) {
		return r.attempt(ctx, name, text, patience)
	})
}

// Every script below gets one array $a. Nothing of the template is part of
// their text.

// runScript: path, content, mark, debug, clean, then names and values.
const runScript = `param($a)
[IO.File]::WriteAllBytes($a[0], [Convert]::FromBase64String($a[1]))
for ($i = 5; $i -lt $a.Count; $i += 2) { [Environment]::SetEnvironmentVariable($a[$i], $a[$i + 1]) }
[Console]::Error.Write($a[2] + [char]10)
$ErrorActionPreference = 'Continue'; $global:LASTEXITCODE = 0; $code = 1
try {
if ($a[3] -ne '0') { Set-PSDebug -Trace ([int]$a[3]) }
& $a[0]
$code = $global:LASTEXITCODE
} catch { [Console]::Error.WriteLine(($_ | Out-String).TrimEnd()) }
finally {
Set-PSDebug -Off
if ($a[4] -eq '1') { [IO.File]::Delete($a[0]) }
}
exit $code
`

// private writes a file that few can read.
const private = `function Write-Private($path, $text, $user) {
[IO.File]::Delete($path); [IO.File]::WriteAllBytes($path, (New-Object byte[] 0))
$acl = New-Object Security.AccessControl.FileSecurity; $acl.SetAccessRuleProtection($true, $false)
$who = @((New-Object Security.Principal.SecurityIdentifier 'S-1-5-18'), (New-Object Security.Principal.SecurityIdentifier 'S-1-5-32-544'), [Security.Principal.WindowsIdentity]::GetCurrent().User)
if ($user) { $who += (New-Object Security.Principal.NTAccount ($user -replace '^\.\\', '')).Translate([Security.Principal.SecurityIdentifier]) }
foreach ($w in $who) { $acl.AddAccessRule((New-Object Security.AccessControl.FileSystemAccessRule $w, 'FullControl', 'Allow')) }
Set-Acl -LiteralPath $path -AclObject $acl
[IO.File]::WriteAllText($path, $text, (New-Object Text.UTF8Encoding $true))
}
`

// installScript: path, content, path and text of the variables.
const installScript = `param($a)
` + private + `[IO.File]::WriteAllBytes($a[0], [Convert]::FromBase64String($a[1]))
if ($a[2]) { Write-Private $a[2] $a[3] '' }
`

// removeScript: the task's name, then paths.
const removeScript = `param($a)
if ($a[0]) {
$service = New-Object -ComObject Schedule.Service; $service.Connect(); $folder = $service.GetFolder('\')
foreach ($task in @($folder.GetTasks(1))) { if ($task.Name -eq $a[0]) { $task.Stop(0); $folder.DeleteTask($a[0], 0) } }
}
for ($i = 1; $i -lt $a.Count; $i++) { [IO.File]::Delete($a[$i]) }
`

// elevatedScript gives the mark before it logs the user in: no retry heals a
// wrong password. Its arguments: path, content, mark, clean, path and text of the variables,
// task, user, password, the task's arguments for cmd.exe, its log.
const elevatedScript = `param($a)
` + private + `$service = New-Object -ComObject Schedule.Service; $service.Connect(); $folder = $service.GetFolder('\')
[IO.File]::WriteAllBytes($a[0], [Convert]::FromBase64String($a[1]))
Write-Private $a[4] $a[5] $a[7]
Write-Private $a[10] '' $a[7]
$code = 1
try {
$t = $service.NewTask(0); $t.Principal.RunLevel = 1; $t.Settings.Hidden = $true; $t.Settings.ExecutionTimeLimit = 'PT0S'
$t.Settings.DisallowStartIfOnBatteries = $false; $t.Settings.StopIfGoingOnBatteries = $false
$x = $t.Actions.Create(0); $x.Path = $env:ComSpec; $x.Arguments = $a[9]
$logon = 1; $secret = $a[8]
if ($secret -eq '') { $logon = 5; $secret = $null }
[Console]::Error.Write($a[2] + [char]10)
[void]$folder.RegisterTaskDefinition($a[6], $t, 6, $a[7], $secret, $logon)
$task = $folder.GetTask($a[6]); [void]$task.Run($null)
$out = [Console]::OpenStandardOutput()
$log = [IO.File]::Open($a[10], 'Open', 'Read', 'ReadWrite, Delete')
try {
do {
Start-Sleep -Milliseconds 200
$task = $folder.GetTask($a[6]); $ended = $task.State -eq 3 -and 267008, 267009, 267011, 267045 -notcontains $task.LastTaskResult
$log.CopyTo($out); $out.Flush()
} until ($ended)
} finally { $log.Close() }
$code = $task.LastTaskResult
} finally {
try { $folder.DeleteTask($a[6], 0) } catch { }
[IO.File]::Delete($a[4]); [IO.File]::Delete($a[10])
if ($a[3] -eq '1') { [IO.File]::Delete($a[0]) }
}
exit $code
`

// runner is the text of a task's process: the variables and the script.
const runner = `$ProgressPreference = 'SilentlyContinue'; $global:LASTEXITCODE = 0
try { . %s; if ('%d' -ne '0') { Set-PSDebug -Trace %[2]d }; & %s; exit $LASTEXITCODE } catch { [Console]::Error.WriteLine(($_ | Out-String).TrimEnd()); exit 1 }
`

// attempt runs the script once. started is false while nothing of it has run.
func (r *Runner) attempt(ctx context.Context, name string, text []byte, patience time.Duration) (started bool, err error) {
	a := &attempt{Runner: r, mark: rand.Text(), tail: &script.Tail{Next: r.Events.Sink}}
	scope := r.Events
	scope.Sink = a.tail
	stdout, stderr := scope.Lines("stdout"), scope.Lines("stderr")
	content := base64.StdEncoding.EncodeToString(text)
	clean := "1"
	if r.SkipClean {
		clean = "0"
	}
	var c machine.Command
	switch {
	case r.User != "":
		// The old log may still be open, so that each has a name of its own.
		a.task = "ingot-" + rand.Text()
		a.log = path.Join(path.Dir(strings.ReplaceAll(r.Path, `\`, "/")), a.task+".log")
		command := r.Execute
		if command == "" {
			command = r.Engine.Line(fmt.Sprintf(runner, powershell.Quote(r.EnvPath), r.Debug, powershell.Quote(r.Path)))
		}
		arguments := `/d /s /c "` + command + ` > "` + strings.ReplaceAll(a.log, "/", `\`) + `" 2>&1"`
		c.Line, c.Stdin = r.Engine.Call(elevatedScript, r.Path, content, a.mark, clean, r.EnvPath, r.EnvText, a.task, r.User, r.Password, arguments, a.log)
	case r.Execute != "":
		if err := r.call(ctx, patience, installScript, r.Path, content, r.EnvPath, r.EnvText); err != nil {
			return false, err
		}
		c.Line = r.Execute
	default:
		args := []string{r.Path, content, a.mark, strconv.Itoa(r.Debug), clean}
		for _, k := range slices.Sorted(maps.Keys(r.Vars)) {
			args = append(args, k, r.Vars[k])
		}
		c.Line, c.Stdin = r.Engine.Call(runScript, args...)
	}
	errs := powershell.NewStderr(stderr)
	gate := script.NewGate(a.mark+"\n", errs)
	c.Stdout = stdout
	if c.Line == r.Execute {
		_, _ = gate.Write([]byte(a.mark + "\n")) // what starts now is the script
	}

	started, err = gate.Run(ctx, r.Machine, c, patience)
	_ = errs.Flush() // into events, which takes everything
	stdout.Flush()
	stderr.Flush()
	switch {
	case ctx.Err() != nil:
		a.removeAfterCancel(ctx)
		return started, ctx.Err()
	case !started:
		return false, err
	}
	return true, a.judge(ctx, name, err)
}

// attempt is one try of a script.
type attempt struct {
	*Runner
	mark, task, log string
	tail            *script.Tail
}

// judge says what the end of a script means.
func (a *attempt) judge(ctx context.Context, name string, err error) error {
	status := 0
	if err != nil {
		exit, ok := errors.AsType[*machine.ExitError](err)
		if !ok {
			return fmt.Errorf("%s was started, but not seen to its end: %w%s", name, err, a.tail)
		}
		status = exit.Status
	}
	allowed := a.Allowed
	if len(allowed) == 0 {
		allowed = []int{0}
	}
	lost := status == machine.DisconnectStatus
	switch {
	case lost && !slices.Contains(allowed, status):
		return fmt.Errorf("the connection was lost while %s ran%s\nIf it reboots the machine, allow the status with valid_exit_codes = [0, %d], or use windows-restart", name, a.tail, machine.DisconnectStatus)
	case lost:
		return a.removeWithin(ctx, a.StartRetry, name)
	case a.Judge != nil:
		return a.Judge(status)
	case !slices.Contains(allowed, status):
		if a.Execute != "" {
			a.removeAfterCancel(ctx)
		}
		return script.ExitFailure(name, status, allowed, a.tail)
	case a.Execute != "" && a.User == "":
		return a.remove(ctx)
	}
	return nil
}

// call runs one of the scripts above that prints nothing when all is well.
func (r *Runner) call(ctx context.Context, patience time.Duration, text string, args ...string) error {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	var said strings.Builder
	errs := powershell.NewStderr(&said)
	line, stdin := r.Engine.Call(text, args...)
	err := r.Machine.Run(ctx, machine.Command{Line: line, Stdin: stdin, Stderr: errs})
	_ = errs.Flush()
	if text := strings.TrimSpace(said.String()); err != nil && text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// left is what may be on the machine and must not stay.
func (a *attempt) left() []string {
	args := []string{a.task}
	if !a.SkipClean {
		args = append(args, a.Path)
	}
	for _, p := range []string{a.EnvPath, a.log} {
		if p != "" {
			args = append(args, p)
		}
	}
	return args
}

func (a *attempt) remove(ctx context.Context) error {
	args := a.left()
	if len(args) == 1 && args[0] == "" {
		return nil
	}
	return a.call(ctx, 0, removeScript, args...)
}

// removeWithin waits for a machine that reboots.
func (a *attempt) removeWithin(ctx context.Context, limit time.Duration, name string) error {
	deadline := time.Now().Add(limit)
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := a.remove(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Until(deadline) <= delay {
			return fmt.Errorf("%s disconnected, and within start_retry_timeout (%v) the machine was not back to have it removed: %w", name, limit, err)
		}
		if err := script.Pause(ctx, delay); err != nil {
			return err
		}
	}
}

// removeAfterCancel matters to a machine that outlives the bake.
func (a *attempt) removeAfterCancel(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.remove(ctx); err != nil {
		a.Events.Warn(fmt.Sprintf("%s may be left on the machine: %v", a.Path, err))
	}
}
