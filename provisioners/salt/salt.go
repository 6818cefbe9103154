// Package salt provisions the machine with Salt states, without a Salt master,
// and installs Salt there if it is missing.
package salt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "salt-masterless"` block. It fails
// when a state fails, also with versions of Salt whose exit status is 0 then.
type Options struct {
	// LocalStateTree is the directory of states on this host. It replaces
	// RemoteStateTree on the machine.
	LocalStateTree string `cfg:"local_state_tree,required"`
	// LocalPillarRoots is the directory of pillar data on this host. It replaces
	// RemotePillarRoots on the machine, and stays there.
	LocalPillarRoots string `cfg:"local_pillar_roots"`
	// RemoteStateTree and RemotePillarRoots are directories on the machine. They
	// cannot be used with MinionConfig. Default: `/srv/salt` and `/srv/pillar`,
	// on Windows `C:/salt/state` and `C:/salt/pillar`.
	RemoteStateTree   string `cfg:"remote_state_tree"`
	RemotePillarRoots string `cfg:"remote_pillar_roots"`
	// MinionConfig is a minion's configuration file on this host, which becomes
	// /etc/salt/minion, on Windows C:/salt/conf/minion.
	MinionConfig string `cfg:"minion_config"`
	// GrainsFile is a file of grains on this host, which becomes
	// /etc/salt/grains, on Windows C:/salt/conf/grains.
	GrainsFile string `cfg:"grains_file"`
	// CustomState are the states to run, by state.sls, in place of the highstate.
	CustomState string `cfg:"custom_state"`
	// Formulas are directories in git repositories that are put into the state
	// tree, such as
	// `git::https://github.com/saltstack-formulas/vault-formula.git//vault?ref=v1.2.3`.
	// They are fetched by git on this host. What LocalStateTree has is not fetched.
	Formulas []string `cfg:"formulas"`
	// BootstrapArgs are arguments for Salt's bootstrap script, not quoted.
	BootstrapArgs string `cfg:"bootstrap_args"`
	// SkipBootstrap never installs Salt. Otherwise Salt's bootstrap script is
	// downloaded and run if the machine does not have salt-call.
	SkipBootstrap bool `cfg:"skip_bootstrap"`
	// DisableSudo runs the commands without sudo. On Windows there is none.
	DisableSudo bool `cfg:"disable_sudo"`
	// LogLevel is the level of salt-call's log.
	LogLevel string `cfg:"log_level"`
	// NoExitOnFailure makes a failure of Salt a warning.
	NoExitOnFailure bool `cfg:"no_exit_on_failure"`
	// SaltBinDir is the directory of the program salt-call on the machine, if
	// its PATH does not have it.
	SaltBinDir string `cfg:"salt_bin_dir"`
	// SaltCallArgs are further arguments for salt-call, not quoted.
	SaltCallArgs string `cfg:"salt_call_args"`
	// TempConfigDir is the directory on the machine that the files are put into
	// before they are moved, and that is removed afterwards. Default:
	// `/tmp/salt`, on Windows `C:/Windows/Temp/salt`.
	TempConfigDir string `cfg:"temp_config_dir"`
	// GuestOSType is the machine's family, `unix` or `windows`.
	GuestOSType string `cfg:"guest_os_type"`
}

// Provisioner is the salt-masterless provisioner.
type Provisioner struct {
	o    Options
	last *report
}

// New returns a salt-masterless provisioner with the default options.
func New() *Provisioner { return &Provisioner{o: Options{LogLevel: "info", GuestOSType: "unix"}} }

var _ provisioners.Idempotent = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

var logLevels = []string{"", "all", "garbage", "trace", "profile", "debug", "info", "warning", "error", "critical", "quiet"}

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o, c := &p.o, &confmgmt.Checks{Bake: env.Bake()}
	windows := c.GuestOS(o.GuestOSType)
	if o.LocalStateTree == "" {
		c.Bad("local_state_tree", "local_state_tree is empty.")
	}
	c.Path("local_state_tree", o.LocalStateTree, confmgmt.Dir)
	c.Path("local_pillar_roots", o.LocalPillarRoots, confmgmt.Dir)
	c.Path("minion_config", o.MinionConfig, confmgmt.File)
	c.Path("grains_file", o.GrainsFile, confmgmt.File)
	c.Remote("remote_state_tree", o.RemoteStateTree, windows, true)
	c.Remote("remote_pillar_roots", o.RemotePillarRoots, windows, o.LocalPillarRoots != "")
	c.Remote("temp_config_dir", o.TempConfigDir, windows, true)
	if o.MinionConfig != "" {
		for option, v := range map[string]string{"remote_state_tree": o.RemoteStateTree, "remote_pillar_roots": o.RemotePillarRoots} {
			if v != "" {
				c.Bad(option, "%s cannot be used with minion_config, which names the directories itself.", option)
			}
		}
	}
	if o.RemoteStateTree != "" && path.Clean(o.RemoteStateTree) == path.Clean(o.RemotePillarRoots) {
		c.Bad("remote_pillar_roots", "remote_pillar_roots and remote_state_tree are the same directory.")
	}
	if !slices.Contains(logLevels, o.LogLevel) {
		c.Bad("log_level", "log_level is %q: it must be one of%s.", o.LogLevel, strings.Join(logLevels, " "))
	}
	if o.SkipBootstrap && o.BootstrapArgs != "" {
		c.Bad("bootstrap_args", "bootstrap_args is set, and skip_bootstrap says that the script must not run.")
	}
	for i, text := range o.Formulas {
		if _, err := parseFormula(text); err != nil {
			c.Bad("formulas", "Entry %d of formulas: %v.", i+1, err)
		}
	}
	slices.SortStableFunc(c.Problems, func(a, b config.Problem) int { return strings.Compare(a.Option, b.Option) })
	return c.Problems
}

// Changes implements provisioners.Idempotent.
func (p *Provisioner) Changes() (int, bool) { return p.last.Changes() }

// guest is what differs between the families of machines.
type guest struct {
	config, temp, states, pillar string
}

var (
	unix    = guest{config: "/etc/salt", temp: "/tmp/salt", states: "/srv/salt", pillar: "/srv/pillar"}
	windows = guest{config: "C:/salt/conf", temp: "C:/Windows/Temp/salt", states: "C:/salt/state", pillar: "C:/salt/pillar"}
)

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	p.last = nil
	o, b, win := &p.o, env.Bake(), confmgmt.Windows(p.o.GuestOSType)
	if err := confmgmt.Fit("salt-masterless", m, win); err != nil {
		return err
	}
	g := unix
	if win {
		g = windows
	}
	for _, own := range []struct {
		own  string
		into *string
	}{{o.RemoteStateTree, &g.states}, {o.RemotePillarRoots, &g.pillar}, {o.TempConfigDir, &g.temp}} {
		if own.own != "" {
			*own.into = path.Clean(strings.ReplaceAll(own.own, `\`, "/"))
		}
	}
	states, err := withoutGit(b.Abs(o.LocalStateTree), "states")
	if err != nil {
		return err
	}
	trees := []*machine.Files{states}
	moves := []move{{"states", g.states, true}}
	formulas, remove, err := o.fetch(ctx, env, b.Abs(o.LocalStateTree))
	defer remove()
	if err != nil {
		return err
	}
	trees = append(trees, formulas...)
	if o.LocalPillarRoots != "" {
		pillar, err := withoutGit(b.Abs(o.LocalPillarRoots), "pillar")
		if err != nil {
			return err
		}
		trees, moves = append(trees, pillar), append(moves, move{"pillar", g.pillar, true})
	}
	for _, f := range []struct{ local, name string }{{o.MinionConfig, "minion"}, {o.GrainsFile, "grains"}} {
		if f.local != "" {
			trees = append(trees, machine.FileTree(b.Abs(f.local), f.name))
			moves = append(moves, move{f.name, path.Join(g.config, f.name), false})
		}
	}
	r := &report{}
	job := &confmgmt.Job{
		Env: env, Machine: m, Windows: win, What: "Salt", Dir: g.temp, Tree: machine.Join(trees...), Clean: true,
		Prepare: o.prepare(g, moves, win), Command: o.command(g, win), Line: r.line,
	}
	if !o.SkipBootstrap {
		job.Install = o.bootstrap(g, win)
	}
	env.Events.Say("Running Salt: " + job.Command)
	p.last = r
	return job.Run(ctx, func(status int, tail *script.Tail) error {
		err := r.judge(status, tail)
		if err != nil && o.NoExitOnFailure {
			line, _, _ := strings.Cut(err.Error(), "\n")
			env.Events.Warn("no_exit_on_failure: " + line)
			return nil
		}
		return err
	})
}

// withoutGit is what stands below a directory of this host, except .git.
func withoutGit(dir, prefix string) (*machine.Files, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var trees []*machine.Files
	for _, e := range entries {
		if e.Name() == ".git" {
			continue
		}
		at, name := filepath.Join(dir, e.Name()), path.Join(prefix, e.Name())
		info, err := os.Stat(at)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			trees = append(trees, machine.DirTree(at, name))
		} else {
			trees = append(trees, machine.FileTree(at, name))
		}
	}
	return machine.Join(trees...), nil
}

// move is one thing that leaves the staging directory.
type move struct {
	name, to string
	dir      bool // it replaces what is there
}

func (o *Options) sudo(win bool) string {
	if o.DisableSudo || win {
		return ""
	}
	return "sudo "
}

// prepare moves everything into its place.
func (o *Options) prepare(g guest, moves []move, win bool) string {
	if win {
		var lines []string
		back := func(p string) string { return `"` + strings.ReplaceAll(p, "/", `\`) + `"` }
		for _, mv := range moves {
			from, to := back(path.Join(g.temp, mv.name)), back(mv.to)
			if mv.dir {
				lines = append(lines, "if exist "+to+" rmdir /s /q "+to, "if not exist "+from+" mkdir "+from)
			}
			lines = append(lines, "if not exist "+back(path.Dir(mv.to))+" mkdir "+back(path.Dir(mv.to)), "move /y "+from+" "+to+" >nul || exit /b 1")
		}
		return strings.Join(lines, "\r\n")
	}
	sudo := o.sudo(win)
	var steps []string
	for _, mv := range moves {
		from, to := machine.Quote(path.Join(g.temp, mv.name)), machine.Quote(mv.to)
		if mv.dir {
			steps = append(steps, "mkdir -p "+from, sudo+"rm -rf "+to)
		}
		steps = append(steps, sudo+"mkdir -p "+machine.Quote(path.Dir(mv.to)), sudo+"mv "+from+" "+to)
	}
	return strings.Join(steps, " &&\n")
}

func (o *Options) program(win bool) string {
	if o.SaltBinDir == "" {
		return "salt-call"
	}
	return confmgmt.Quote(path.Join(strings.ReplaceAll(o.SaltBinDir, `\`, "/"), "salt-call"), win)
}

// command is Packer's.
func (o *Options) command(g guest, win bool) string {
	line := o.sudo(win) + o.program(win) + " --local"
	if o.CustomState == "" {
		line += " state.highstate"
	} else {
		line += " state.sls " + confmgmt.Quote(o.CustomState, win)
	}
	if o.MinionConfig == "" {
		line += " --file-root=" + confmgmt.Quote(g.states, win) + " --pillar-root=" + confmgmt.Quote(g.pillar, win)
	}
	if !o.NoExitOnFailure {
		line += " --retcode-passthrough"
	}
	level := o.LogLevel
	if level == "" {
		level = "info"
	}
	line += " -l " + level
	if o.SaltCallArgs != "" {
		line += " " + o.SaltCallArgs
	}
	if win {
		// salt-call is a batch file there, which would not come back.
		first := "call " + o.program(win) + " --local "
		return first + "winrepo.update_git_repos\r\n" + first + "pkg.refresh_db\r\ncall " + line
	}
	return line
}

// bootstrap is Salt's own way to be installed.
func (o *Options) bootstrap(g guest, win bool) *confmgmt.Install {
	i := &confmgmt.Install{Probe: "command -v " + o.program(win), MayFail: true}
	if win {
		file := path.Join(g.temp, "bootstrap-salt.ps1")
		i.Probe = "where " + o.program(win)
		i.Command = `powershell -Command "[System.Net.ServicePointManager]::SecurityProtocol = 'Tls12'; Invoke-WebRequest -UseBasicParsing -Uri 'https://winbootstrap.saltproject.io' -OutFile '` + file + `'"` +
			"\r\npowershell -File " + confmgmt.Quote(file, true) + " " + o.BootstrapArgs
		return i
	}
	file := machine.Quote(path.Join(g.temp, "install_salt.sh"))
	i.Command = "{ curl -fL https://bootstrap.saltproject.io -o " + file + " || wget -O " + file + " https://bootstrap.saltproject.io; } && " +
		strings.TrimSpace(o.sudo(win)+"sh "+file+" "+o.BootstrapArgs)
	return i
}

// report is what Salt says of a run.
type report struct {
	summary bool
	changed int
	failed  int
	said    confmgmt.Said

	state   map[string]string // the state that is being read
	key     string
	compile bool // the lines say why the states cannot be compiled
}

// line reads one line of salt-call's output.
func (r *report) line(stream, text string) {
	trimmed := strings.TrimSpace(text)
	switch {
	case strings.HasPrefix(trimmed, "----------"), trimmed == "":
		// A rule ends a state; an empty line may stand in a comment.
		if trimmed != "" && !strings.HasPrefix(text, "              ") {
			r.end()
		}
		return
	case stream == "stderr" || strings.HasPrefix(text, "["):
		// The log. Errors in it matter where there is no summary.
		if strings.HasPrefix(text, "[ERROR") || strings.HasPrefix(text, "[CRITICAL") {
			_, message, _ := strings.Cut(text, "]")
			r.said.Add(message)
		}
		return
	case strings.HasPrefix(text, "Summary for "):
		r.end()
		return
	case trimmed == "Data failed to compile:":
		r.failed++
		r.compile = true
		return
	}
	if _, ok := count(text, "Succeeded:"); ok {
		r.summary = true
		if _, rest, found := strings.Cut(text, "(changed="); found {
			r.changed, _ = number(rest)
		}
		return
	}
	if n, ok := count(text, "Failed:"); ok {
		r.end()
		r.failed += n
		return
	}
	if r.compile {
		r.said.Add(trimmed)
		return
	}
	if key, value, ok := strings.Cut(trimmed, ": "); ok || strings.HasSuffix(trimmed, ":") {
		key = strings.TrimSuffix(key, ":")
		if slices.Contains(keys, key) {
			if key == "ID" {
				r.end()
				r.state = map[string]string{}
			}
			if r.state != nil {
				r.key, r.state[key] = key, strings.TrimSpace(value)
			}
			return
		}
	}
	// A comment goes on in the lines below it.
	if r.state != nil && r.key == "Comment" && len(r.state["Comment"]) < 4<<10 {
		r.state["Comment"] += " · " + trimmed
	}
}

var keys = []string{"ID", "Function", "Name", "Result", "Comment", "Started", "Duration", "Changes"}

// end keeps the state that has been read, if it failed.
func (r *report) end() {
	if s := r.state; s["Result"] == "False" {
		r.said.Add(s["ID"] + " (" + s["Function"] + "): " + s["Comment"])
		if !r.summary {
			r.failed = max(r.failed, 1)
		}
	}
	r.state, r.key = nil, ""
}

// count reads "Succeeded: 2 (changed=1)".
func count(text, word string) (int, bool) {
	rest, ok := strings.CutPrefix(text, word)
	if !ok {
		return 0, false
	}
	return number(strings.TrimLeft(rest, " "))
}

// number reads the digits that s begins with.
func number(s string) (n int, ok bool) {
	for i := 0; i < len(s) && i < 9 && '0' <= s[i] && s[i] <= '9'; i++ {
		n, ok = 10*n+int(s[i]-'0'), true
	}
	return n, ok
}

// Changes is how many states changed something.
func (r *report) Changes() (int, bool) {
	if r == nil || !r.summary {
		return 0, false
	}
	return r.changed, true
}

// judge says whether the run failed.
func (r *report) judge(status int, tail *script.Tail) error {
	r.end()
	switch {
	case status == 127 || status == 126:
		return fmt.Errorf("salt-call or another program of the command was not found on the machine (exit status %d); let skip_bootstrap be false, set salt_bin_dir, or, where there is no sudo, disable_sudo = true%s", status, tail)
	case status != 0:
		return fmt.Errorf("salt-call ended with exit status %d%s", status, r.said.Or(tail))
	case r.failed > 0:
		return errors.New("salt-call ended with exit status 0, but says that states failed" + r.said.Or(tail))
	}
	return nil
}
