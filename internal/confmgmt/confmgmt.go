// Package confmgmt is what the provisioners share that run a configuration
// management program on the machine: Puppet, Chef, Salt. They stage everything
// as one tree, run one command that also cleans up, and read from its output
// what changed and what failed.
package confmgmt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/internal/winscript"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Job is one run of a program on a machine.
type Job struct {
	Env     *provisioners.Env
	Machine machine.Machine
	// Windows says which of the two families the machine is of.
	Windows bool
	// What is the program's name in messages, such as Puppet.
	What string
	// Dir is the staging directory on the machine, absolute, with slashes.
	Dir string
	// Tree goes below Dir.
	Tree *machine.Files
	// Secrets are absolute paths on the machine, of files or directories, that
	// are removed whatever happens.
	Secrets []string
	// Clean says that Dir goes, too.
	Clean bool
	// User and Password are who runs Install, Prepare and Command on Windows, by
	// a scheduled task with all of the user's rights. Empty: the login user.
	// Without a Password it is a service account such as SYSTEM.
	User, Password string
	// Install, if any, comes first.
	Install *Install
	// Prepare is a shell text that must succeed before Command is run; what it
	// prints is told when it does not. Empty: nothing.
	Prepare string
	// Command is the program's command line, for sh or, on Windows, for cmd.
	Command string
	// After are command lines that run when Command has ended or was stopped,
	// however it ended, before anything is removed. Their failure is an error.
	After []string
	// Line is told each line of Command's output, cleaned, with its stream.
	Line func(stream, text string)
}

// RunAs sets User and Password, which may be Go templates.
func (j *Job) RunAs(user, password string) (err error) {
	b := j.Env.Bake()
	if j.User, err = b.Render(user, nil); err != nil {
		return fmt.Errorf("elevated_user: %w", err)
	}
	if j.Password, err = b.Render(password, nil); err != nil {
		return fmt.Errorf("elevated_password: %w", err)
	}
	return nil
}

// Install gets a program onto the machine that is not there yet.
type Install struct {
	// Probe is a command that succeeds if the program is there.
	Probe string
	// Command installs it.
	Command string
	// MayFail says that the exit status of Command means little: only Probe counts.
	MayFail bool
}

// Staging and cleaning must not hang, even when the bake was cancelled.
const (
	removeTime = 10 * time.Second
	afterTime  = 60 * time.Second // for each of Job.After
)

// Run puts the tree on the machine, runs the command and cleans up. judge says
// what the command's exit status means; it is asked only if the command ran.
func (j *Job) Run(ctx context.Context, judge func(status int, tail *script.Tail) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &run{Job: j, mark: "ingot-" + rand.Text()}
	if j.Windows {
		r.addBatchFiles()
	}
	j.Tree.Progress = j.Env.Events.Progress
	if err := j.Machine.Put(ctx, j.Dir, j.Tree); err != nil {
		r.cleanUp(ctx, false)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("put the files for %s into %s on the machine: %w", j.What, j.Dir, err)
	}
	if j.Windows {
		return r.windows(ctx, judge)
	}
	return r.unix(ctx, judge)
}

// run is one execution of a Job.
type run struct {
	*Job
	mark string
	w    *watch
}

// watched is where the output of the next command goes.
func (r *run) watched() event.Scope {
	r.w = &watch{mark: r.mark, line: r.Line, tail: script.Tail{Next: r.Env.Events.Sink}}
	scope := r.Env.Events
	scope.Sink = r.w
	return scope
}

// command runs one line with its output watched. err is not that of the exit status.
func (r *run) command(ctx context.Context, line string) (status int, err error) {
	scope := r.watched()
	stdout, stderr := scope.Lines("stdout"), scope.Lines("stderr")
	err = r.Machine.Run(ctx, machine.Command{Line: line, Stdout: stdout, Stderr: stderr})
	stdout.Flush()
	stderr.Flush()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if exit, ok := errors.AsType[*machine.ExitError](err); ok {
		if exit.Status == machine.DisconnectStatus {
			return 0, fmt.Errorf("the connection was lost while %s ran%s", r.What, &r.w.tail)
		}
		return exit.Status, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s was started, but not seen to its end: %w%s", r.What, err, &r.w.tail)
	}
	return 0, nil
}

// began says whether Command was started.
func (r *run) began() bool { return slices.Contains(r.w.marks, "ran") }

func (r *run) unix(ctx context.Context, judge func(int, *script.Tail) error) error {
	status, err := r.command(ctx, r.unixLine())
	if err != nil {
		// Whether the last part of the line ran, nobody has seen.
		r.cleanUp(ctx, r.began())
		return err
	}
	// The line removes only what it can; the machine tells by marks what went wrong.
	var errs []error
	ran := r.began()
	for _, m := range r.w.marks {
		what, detail, _ := strings.Cut(m, " ")
		switch what {
		case "owner":
			errs = append(errs, fmt.Errorf("the staging directory %s on the machine is a link or belongs to another user, who could change what %s runs: remove it first, or choose another one", r.Dir, r.What))
		case "install":
			if r.Install == nil || !r.Install.MayFail {
				errs = append(errs, fmt.Errorf("the installation of %s ended with exit status %s%s", r.What, detail, &r.w.tail))
			} else if status == 0 {
				r.Env.Events.Warn(fmt.Sprintf("the installation of %s ended with exit status %s, but the program is there", r.What, detail))
			}
		case "missing":
			errs = append(errs, fmt.Errorf("%s is not on the machine even after its installation%s", r.What, &r.w.tail))
		case "prepare":
			errs = append(errs, fmt.Errorf("the files of %s could not be put in their places (exit status %s)%s", r.What, detail, &r.w.tail))
		case "after":
			errs = append(errs, fmt.Errorf("the command after %s failed with exit status %s%s", r.What, detail, &r.w.tail))
		case "left":
			errs = append(errs, fmt.Errorf("%s could not be removed from the machine", detail))
		}
	}
	if ran {
		errs = append([]error{judge(status, &r.w.tail)}, errs...)
	} else if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("the machine did not run the command (exit status %d)%s", status, &r.w.tail))
		r.cleanUp(ctx, false)
	}
	return errors.Join(errs...)
}

// unixLine is the one command: check, install, run, clean up. Its exit status
// is that of the program; marks on stderr tell the rest.
func (r *run) unixLine() string {
	tell := func(what string) string { return "echo " + r.mark + " " + what + " >&2" }
	sub := func(text string) string { return "(eval " + machine.Quote(text) + ")" }
	// ls -n is the one way that every Unix has. What another user made, he can change.
	steps := "{ (set -- $(ls -ldn " + machine.Quote(r.Dir) + "); case $1 in d*) [ \"$3\" = 0 ] || [ \"$3\" = \"$(id -u)\" ] ;; *) false ;; esac) || { " + tell("owner") + "; false; }; } &&\n"
	if i := r.Install; i != nil {
		probe := sub(i.Probe) + " >/dev/null 2>&1"
		then := "false"
		if i.MayFail {
			then = "{ " + probe + " || { " + tell("missing") + "; false; }; }"
		}
		steps += "{ " + probe + " || { echo " + machine.Quote("Installing "+r.What) + "; " + sub(i.Command) + " || { " + tell("install $?") + "; " + then + "; }; }; } &&\n"
	}
	if r.Prepare != "" {
		steps += "{ " + sub(r.Prepare) + " || { " + tell("prepare $?") + "; false; }; } &&\n"
	}
	line := steps + "{ " + tell("ran") + "; " + sub(r.Command) + "; s=$?\n"
	for _, a := range r.After {
		line += sub(a) + " || " + tell("after $?") + "\n"
	}
	rm := r.removal()
	return line + rm + "exit $s\n}\n" + rm + "exit 1"
}

// gone are the paths that must not stay.
func (r *run) gone() []string {
	if r.Clean {
		// The secrets first: they go even if something else in Dir cannot.
		return append(slices.Clone(r.Secrets), r.Dir)
	}
	return r.Secrets
}

// removal removes what must not stay. What the program made may be root's.
func (r *run) removal() string {
	var out strings.Builder
	for _, p := range r.gone() {
		rm := "rm -rf " + machine.Quote(p)
		fmt.Fprintf(&out, "%s 2>/dev/null || sudo -n %s || echo %s left %s >&2\n", rm, rm, r.mark, machine.Quote(p))
	}
	return out.String()
}

// cleanUp does what the command itself could not do, or may not have done. It
// is for a machine that outlives the bake, too. began says that Command may
// have been running.
func (r *run) cleanUp(ctx context.Context, began bool) {
	limit := removeTime
	var lines []string
	if began {
		for i := range r.After {
			limit += afterTime
			if r.Windows {
				lines = append(lines, r.batch(afterFile(i)))
			} else {
				lines = append(lines, "(eval "+machine.Quote(r.After[i])+") >/dev/null 2>&1")
			}
		}
	}
	switch gone := len(r.gone()) > 0; {
	case !r.Windows && len(lines)+len(r.gone()) > 0:
		lines = []string{strings.Join(append(lines, r.removal()), "\n")}
	case r.Windows && gone:
		lines = append(lines, r.windowsRemoval())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	for i, line := range lines {
		var said left
		err := r.Machine.Run(ctx, machine.Command{Line: line, Stderr: &said})
		// The last line is the removal.
		if i == len(lines)-1 && (err != nil || said.has(r.mark+" left")) {
			why := ""
			if err != nil {
				why = ": " + err.Error()
			}
			r.Env.Events.Warn(fmt.Sprintf("%s may be left on the machine%s", strings.Join(r.gone(), ", "), why))
		}
	}
}

// left keeps the beginning of what is said.
type left struct{ b []byte }

func (l *left) Write(p []byte) (int, error) {
	if room := 64<<10 - len(l.b); room > 0 {
		l.b = append(l.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (l *left) has(s string) bool { return strings.Contains(string(l.b), s) }

// The names of the batch files that a Windows machine gets.
const (
	runFile      = "ingot-run.cmd"
	elevatedFile = "ingot-elevated.ps1"
	elevatedVars = "ingot-elevated-env.ps1"
)

func afterFile(i int) string { return fmt.Sprintf("ingot-after-%d.cmd", i) }

// addBatchFiles makes the command lines files, since what a Windows machine's
// own shell is, cmd or PowerShell, decides how a line would have to be quoted.
func (r *run) addBatchFiles() {
	lines := []string{"@echo off"}
	if i := r.Install; i != nil {
		lines = append(lines, i.Probe+" >nul 2>nul && goto ingot_have", "echo Installing "+r.What, i.Command)
		if !i.MayFail {
			lines = append(lines, "if errorlevel 1 echo "+r.mark+" install %errorlevel% 1>&2& exit /b 1")
		}
		lines = append(lines, ":ingot_have")
	}
	if r.Prepare != "" {
		lines = append(lines, r.Prepare, "if errorlevel 1 echo "+r.mark+" prepare %errorlevel% 1>&2& exit /b 1")
	}
	lines = append(lines, "echo "+r.mark+" ran 1>&2", r.Command, "")
	trees := []*machine.Files{r.Tree, machine.BytesTree(runFile, []byte(strings.Join(lines, "\r\n")), 0o600)}
	for i, a := range r.After {
		trees = append(trees, machine.BytesTree(afterFile(i), []byte("@echo off\r\n"+a+"\r\n"), 0o600))
	}
	r.Tree = machine.Join(trees...)
	r.Secrets = append(slices.Clone(r.Secrets), path.Join(r.Dir, runFile))
	for i := range r.After {
		r.Secrets = append(r.Secrets, path.Join(r.Dir, afterFile(i)))
	}
}

// batch is the command that runs a batch file, for cmd and PowerShell alike.
func (r *run) batch(name string) string {
	return `cmd.exe /d /c "` + strings.ReplaceAll(path.Join(r.Dir, name), "/", `\`) + `"`
}

// elevated runs a command line as User. err is not that of the exit status.
func (r *run) elevated(ctx context.Context, line string) (status int, err error) {
	runner := &winscript.Runner{
		Machine: r.Machine, Events: r.watched(), Path: path.Join(r.Dir, elevatedFile), EnvPath: path.Join(r.Dir, elevatedVars),
		User: r.User, Password: r.Password, Judge: func(n int) error { status = n; return nil },
	}
	err = runner.Run(ctx, r.What, []byte("& "+line+"\r\nexit $LASTEXITCODE\r\n"))
	return status, err
}

func (r *run) windows(ctx context.Context, judge func(int, *script.Tail) error) error {
	command := r.command
	if r.User != "" {
		command = r.elevated
	}
	status, err := command(ctx, r.batch(runFile))
	if err != nil {
		r.cleanUp(ctx, r.began())
		return err
	}
	var errs []error
	ran := r.began()
	for _, m := range r.w.marks {
		what, detail, _ := strings.Cut(m, " ")
		detail = strings.TrimSpace(detail)
		switch what {
		case "install":
			errs = append(errs, fmt.Errorf("the installation of %s ended with exit status %s%s", r.What, detail, &r.w.tail))
		case "prepare":
			errs = append(errs, fmt.Errorf("the files of %s could not be put in their places (exit status %s)%s", r.What, detail, &r.w.tail))
		}
	}
	if !ran {
		r.cleanUp(ctx, false)
		if errs == nil {
			errs = append(errs, fmt.Errorf("the machine did not run the command (exit status %d)%s", status, &r.w.tail))
		}
		return errors.Join(errs...)
	}
	errs = append(errs, judge(status, &r.w.tail))
	for i := range r.After {
		switch status, err := r.command(ctx, r.batch(afterFile(i))); {
		case ctx.Err() != nil:
			r.cleanUp(ctx, true)
			return ctx.Err()
		case err != nil:
			errs = append(errs, err)
		case status != 0:
			errs = append(errs, fmt.Errorf("the command after %s failed with exit status %d", r.What, status))
		}
	}
	r.cleanUp(ctx, false)
	return errors.Join(errs...)
}

func (r *run) windowsRemoval() string {
	var quoted []string
	for _, p := range r.gone() {
		quoted = append(quoted, "'"+strings.ReplaceAll(p, "'", "''")+"'")
	}
	return `powershell.exe -NoProfile -NonInteractive -Command "foreach ($p in ` + strings.Join(quoted, ",") + `) { if (Test-Path -LiteralPath $p) { Remove-Item -Recurse -Force -ErrorAction Stop -LiteralPath $p } }"`
}

// Facts are environment variables for Facter, joined as Packer's FacterVars is.
func Facts(facts map[string]string, windows bool) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		if windows {
			out = append(out, `SET "FACTER_`+k+"="+facts[k]+`"`)
		} else {
			out = append(out, "FACTER_"+k+"='"+strings.ReplaceAll(facts[k], "'", `'"'"'`)+"'")
		}
	}
	if windows {
		return strings.Join(out, " & ")
	}
	return strings.Join(out, " ")
}

// Quote makes one word of s, for sh or for cmd.
func Quote(s string, windows bool) string {
	if !windows {
		return machine.Quote(s)
	}
	if s != "" && !strings.ContainsAny(s, " \t&|<>^()@,;=%!'") {
		return s
	}
	return `"` + s + `"`
}
