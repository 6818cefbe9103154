// Command ingot bakes immutable machine images from HCL templates, proves
// them, promotes them from one environment to the next and rolls them out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/userns"
	"github.com/ingotbuild/ingot/report"
)

// verb is one word of the command line.
type verb struct {
	name  string
	args  string // what stands behind the name in the usage line
	short string // one line, for the list of verbs
	long  string // what else the verb's own help says
	run   func(ctx context.Context, c *cli, args []string) int
	// words can stand as the first argument; for completion. May be nil.
	words func() []string
	// hidden verbs are started by Ingot itself.
	hidden bool
	// looks says that the verb only looks: there is nothing to give back, and
	// the first Ctrl-C ends it, whatever it waits for.
	looks bool
	// verbs are the words of which one stands behind this one; then it has no
	// run of its own. May be nil.
	verbs func() []verb
}

// The exit codes, which are Packer's.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2   // ingot spec: the specs or the options are wrong, nothing was checked
	exitBroken      = 3   // ingot spec: nothing failed, but not everything could be found out
	exitUnformatted = 3   // fmt -check found something to format
	exitUnknown     = 127 // no such verb, or none given
)

func verbs() []verb {
	return []verb{
		initVerb(), fmtVerb(), validateVerb(), inspectVerb(), consoleVerb(), buildVerb(), upgradeVerb(), fixVerb(),
		imagesVerb(), showVerb(), promoteVerb(), historyVerb(), driftVerb(), rolloutVerb(), specVerb(), resumeVerb(), sweepVerb(), iamPolicyVerb(), doctorVerb(),
		docsVerb(), pluginsVerb(), completionVerb(), versionVerb(),
		completeVerb(), supervisorVerb(),
	}
}

// cli is what every verb works with.
type cli struct {
	in       *os.File
	out, err io.Writer
	// machine is where -machine-readable lines go; nil: not asked for. What is
	// written to out then comes as ui lines.
	machine io.Writer
	// log takes what PACKER_LOG asks for; nil: nothing asked for.
	log           io.Writer
	logOnTerminal bool
	// onHelp takes the flags of a verb instead of showing its help; may be nil.
	onHelp func(*flag.FlagSet)
	// v is the verb that runs, looks its field for who stops it.
	v     verb
	looks atomic.Bool
	// say takes a line for the user while a report is drawn; nil: err does.
	say *atomic.Pointer[func(string)]
}

// tell shows the user a line at once.
func (c *cli) tell(line string) {
	if say := c.say.Load(); say != nil {
		(*say)(line)
		return
	}
	fmt.Fprintln(c.err, line)
}

func main() {
	sandbox.Reexec(packingTasks())
	userns.Reexec()
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr, say: new(atomic.Pointer[func(string)])}
	ctx, stop := c.interruptible()
	code := c.start(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// interruptible returns a context that the first Ctrl-C, SIGTERM or SIGHUP
// ends, so that everything is given back; the second ends the process at once.
func (c *cli) interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var stopped atomic.Bool
	go func() {
		s, ok := <-ch
		if !ok {
			return
		}
		if c.looks.Load() {
			fmt.Fprintln(os.Stderr, signalName(s))
			os.Exit(exitFailed)
		}
		if !stopped.Load() {
			c.tell(signalName(s) + ": stopping and cleaning up; once more to stop at once")
		}
		cancel()
		if _, ok := <-ch; ok {
			fmt.Fprintln(os.Stderr, "stopped; `ingot sweep` gives back what is left")
			os.Exit(exitFailed)
		}
	}()
	return ctx, func() {
		stopped.Store(true)
		signal.Stop(ch)
		close(ch)
		cancel()
	}
}

func signalName(s os.Signal) string {
	if s == os.Interrupt {
		return "interrupted"
	}
	return s.String()
}

// start sees to what holds for every verb, and runs the one that is asked for.
func (c *cli) start(ctx context.Context, args []string) int {
	asked := func(a string) bool { return a == "-machine-readable" || a == "--machine-readable" }
	if slices.ContainsFunc(args, asked) { // anywhere, as with Packer
		args = slices.DeleteFunc(slices.Clone(args), asked)
		c.machine = c.out
		c.out = sayer{c.machine}
	}
	closeLog, err := c.openLog(args)
	if err != nil {
		return c.fail(err)
	}
	code := run(ctx, c, args)
	closeLog(code)
	return code
}

// sayer writes what each Write is given as one line for machines.
type sayer struct{ w io.Writer }

func (s sayer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return len(p), report.WriteMachine(s.w, time.Now(), "", "ui", "say", strings.TrimSuffix(string(p), "\n"))
}

func run(ctx context.Context, c *cli, args []string) int {
	if len(args) == 0 {
		usage(c.out)
		return exitUnknown
	}
	name := strings.TrimLeft(args[0], "-")
	switch {
	case args[0] == "-h" || name == "help":
		if len(args) > 1 {
			return run(ctx, c, append(slices.Clone(args[1:]), "-help"))
		}
		usage(c.out)
		return exitOK
	case args[0] != name && (name == "autocomplete-install" || name == "autocomplete-uninstall"):
		return c.autocomplete(name == "autocomplete-install")
	case args[0] == "-v" || args[0] == "-version" || args[0] == "--version":
		name = "version"
	case strings.HasPrefix(args[0], "-"):
		usage(c.out)
		return exitUnknown
	}
	var names []string
	if name == "plugin" {
		name = "plugins"
	}
	for _, v := range verbs() {
		if v.name == name {
			return c.enter(ctx, v, args[1:])
		}
		if !v.hidden {
			names = append(names, v.name)
		}
	}
	fmt.Fprintf(c.err, "ingot has no command %q.", name)
	if near := config.Suggest(name, names); near != "" {
		fmt.Fprintf(c.err, " Did you mean %q?", near)
	}
	fmt.Fprintln(c.err, " `ingot help` lists them.")
	return exitUnknown
}

// enter runs a verb, or the one behind it.
func (c *cli) enter(ctx context.Context, v verb, args []string) int {
	c.v = v
	if v.verbs == nil {
		c.looks.Store(v.looks)
		return v.run(ctx, c, args)
	}
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	if name == "help" && len(args) > 0 {
		name, args = args[0], []string{"-help"}
	}
	var names []string
	for _, sub := range v.verbs() {
		if sub.name == name {
			sub.name = v.name + " " + name
			return c.enter(ctx, sub, args)
		}
		names = append(names, sub.name)
	}
	switch name {
	case "help", "-h", "-help", "--help":
		c.helpOfMany(c.out)
		return exitOK
	case "":
		c.helpOfMany(c.err)
	default:
		fmt.Fprintf(c.err, "ingot %s has no command %q.%s `ingot %s -help` lists them.\n", v.name, name, config.DidYouMean(name, names), v.name)
	}
	return exitUsage
}

// helpOfMany is the help of a verb with others behind it.
func (c *cli) helpOfMany(w io.Writer) {
	fmt.Fprintf(w, "Usage: ingot %s COMMAND [OPTIONS] [ARGUMENTS]\n\n%s.\n\nCommands:\n", c.v.name, c.v.short)
	for _, sub := range c.v.verbs() {
		fmt.Fprintf(w, "  %-12s %s\n", sub.name, sub.short)
	}
	if c.v.long != "" {
		fmt.Fprintf(w, "\n%s\n", c.v.long)
	}
	fmt.Fprintf(w, "\n`ingot %s COMMAND -help` says more.\n", c.v.name)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Usage: ingot COMMAND [OPTIONS] [ARGUMENTS]\n\nIngot bakes immutable machine images.\n\nCommands:\n")
	for _, v := range verbs() {
		if !v.hidden {
			fmt.Fprintf(w, "  %-12s %s\n", v.name, v.short)
		}
	}
	fmt.Fprint(w, "\n`ingot COMMAND -help` says more.\n")
}

// flags makes the verb's flag set; parse reads it.
func (c *cli) flags() *flag.FlagSet {
	fs := flag.NewFlagSet(c.v.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // parse speaks for it
	return fs
}

// errHelp says that help was asked for and given.
var errHelp = errors.New("help")

// parse reads flags before, between and behind the arguments, which it
// returns. It has said what is wrong when it returns an error.
func (c *cli) parse(fs *flag.FlagSet, args []string, least, most int) ([]string, error) {
	var rest []string
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			if c.onHelp != nil {
				c.onHelp(fs)
			} else {
				c.help(c.out, fs)
			}
			return nil, errHelp
		}
		if err != nil {
			fmt.Fprint(c.err, "ingot ", c.v.name, ": ", err, ".")
			if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
				var known []string
				fs.VisitAll(func(f *flag.Flag) { known = append(known, f.Name) })
				if near := config.Suggest(name, known); near != "" {
					fmt.Fprintf(c.err, " Did you mean -%s?", near)
				}
			}
			fmt.Fprintf(c.err, " `ingot %s -help` lists the options.\n", c.v.name)
			return nil, err
		}
		args = fs.Args()
		if len(args) == 0 {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}
	if len(rest) < least || len(rest) > most {
		err := fmt.Errorf("it takes %s", c.v.args)
		fmt.Fprintf(c.err, "ingot %s: wrong number of arguments: %v.\nUsage: ingot %s [OPTIONS] %s\n", c.v.name, err, c.v.name, c.v.args)
		return nil, err
	}
	return rest, nil
}

func (c *cli) help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprintf(w, "Usage: ingot %s [OPTIONS] %s\n\n%s.\n", c.v.name, c.v.args, c.v.short)
	if c.v.long != "" {
		fmt.Fprintf(w, "\n%s\n", c.v.long)
	}
	var lines []string
	fs.VisitAll(func(f *flag.Flag) {
		arg, text := flag.UnquoteUsage(f)
		if arg != "" {
			arg = " " + arg
		}
		lines = append(lines, fmt.Sprintf("  -%s%s\n        %s\n", f.Name, arg, text))
	})
	if len(lines) > 0 {
		fmt.Fprint(w, "\nOptions:\n", strings.Join(lines, ""))
	}
}

// code turns parse's error into an exit code.
func code(err error) int {
	if errors.Is(err, errHelp) {
		return exitOK
	}
	return exitFailed
}

// stdin is standard input, reading from which ends with ctx.
func (c *cli) stdin(ctx context.Context) io.Reader { return endingReader{ctx, c.in} }

type endingReader struct {
	ctx context.Context
	r   io.Reader
}

func (e endingReader) Read(p []byte) (int, error) {
	type result struct {
		data []byte
		err  error
	}
	// A read from a terminal cannot be broken off: it is left behind.
	done := make(chan result, 1)
	go func() {
		data := make([]byte, len(p))
		n, err := e.r.Read(data)
		done <- result{data[:n], err}
	}()
	select {
	case r := <-done:
		return copy(p, r.data), r.err
	case <-e.ctx.Done():
		return 0, e.ctx.Err()
	}
}

// fail says what went wrong and returns the exit code for it.
func (c *cli) fail(err error) int {
	if c.machine != nil {
		_ = report.WriteMachine(c.machine, time.Now(), "", "ui", "error", "Error: "+err.Error())
		return exitFailed
	}
	fmt.Fprintln(c.err, "Error:", err)
	return exitFailed
}

// list is a flag that may be given several times, and may hold several values
// with commas between when split is set.
type list struct {
	values []string
	split  bool
}

func (l *list) String() string { return strings.Join(l.values, ",") }

func (l *list) Set(s string) error {
	if !l.split {
		l.values = append(l.values, s)
		return nil
	}
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p != "" && !slices.Contains(l.values, p) {
			l.values = append(l.values, p)
		}
	}
	return nil
}
