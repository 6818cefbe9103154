package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/term"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/state"
	"github.com/ingotbuild/ingot/internal/userns"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/report/specreport"
	"github.com/ingotbuild/ingot/rollouts"
	"github.com/ingotbuild/ingot/templates"
)

func buildVerb() verb {
	return verb{
		name: "build", args: "TEMPLATE", short: "Bake the images that a template describes",
		long: "TEMPLATE is a directory or a file (.pkr.hcl, .pkr.json, .ingot.hcl, .ingot.json), or a legacy JSON template\n(.json, or - for standard input).",
		run:  runBuild,
	}
}

func runBuild(ctx context.Context, c *cli, args []string) int {
	fs := c.flags()
	var tf templateFlags
	tf.add(fs)
	onError := fs.String("on-error", "cleanup", "after a failed step: `cleanup|abort|ask|run-cleanup-provisioner`; cleanup unless given")
	force := fs.Bool("force", false, "replace outputs that exist")
	parallel := fs.Int("parallel-builds", 0, "run at most `n` bakes at once; 0: all")
	asJSON := fs.Bool("json", false, "write events as JSON lines")
	timestamp := fs.Bool("timestamp-ui", false, "put the time before each line")
	debug := fs.Bool("debug", false, "run one bake after the other and say more")
	idempotent := fs.Bool("check-idempotent", false, "run each provisioner that can tell what it changes (such as ansible) a second time, and fail when it changed anything")
	warn := fs.Bool("warn-on-undeclared-var", false, "warn about values in variable files that no variable takes")
	fs.Bool("ignore-prerelease-plugins", false, "accepted for Packer's users: there are no plugins")
	fs.Bool("skip-enforcement", false, "accepted for Packer's users: nothing is enforced from outside of the template")
	var reports specReports
	fs.Var(&reports, "spec-report", "write what the specs found as `format:path`; may be repeated. Formats: "+strings.Join(specreport.Formats(), ", "))
	rest, err := c.parseTemplate(fs, &tf, args, 1, 1)
	if err != nil {
		return code(err)
	}
	mode := bake.OnError(*onError)
	switch mode {
	case bake.OnErrorCleanup, bake.OnErrorAbort, bake.OnErrorAsk, bake.OnErrorRunProvisioner:
	default:
		fmt.Fprintf(c.err, "ingot build: -on-error is %q; it can be cleanup, abort, ask or run-cleanup-provisioner.\n", *onError)
		return exitFailed
	}
	format, out := report.Auto, c.out
	switch {
	case *asJSON && c.machine != nil:
		return c.fail(errors.New("-json and -machine-readable are two formats: use one of them"))
	case *asJSON: // standard output is for the events alone
		format, c.out = report.JSON, c.err
	case c.machine != nil:
		format, out = report.Machine, c.machine
	case c.log != nil && c.logOnTerminal:
		format = report.Plain // the log's lines would run into what is drawn
	}
	if err := reports.check(); err != nil {
		return c.fail(err)
	}
	path := rest[0]
	again := path == "-" && userns.Needed() // this program may run itself again
	if again {
		if err := c.keepStdin(); err != nil {
			return c.fail(fmt.Errorf("read the template from standard input: %w", err))
		}
	}
	tf.evaluateData = true
	t, plan, found := c.load(ctx, path, &tf, *warn, false)
	c.diagnose(t, found, tf.color)
	if found.HasErrors() {
		return exitFailed
	}
	if userns.Needed() && usesSandbox(plan) {
		if again {
			if err := c.rewindStdin(); err != nil {
				return c.fail(fmt.Errorf("read the template from standard input again: %w", err))
			}
		}
		status, err := userns.Enter()
		if err != nil {
			return c.fail(err)
		}
		return status
	}
	dir, err := os.Getwd()
	if err != nil {
		return c.fail(fmt.Errorf("find the working directory: %w", err))
	}
	comps, err := components()
	if err != nil {
		return c.fail(err)
	}
	// Everything that can be refused is refused before anything is created.
	diags, refused := bake.Check(ctx, plan, bake.CheckOptions{Components: comps, Dir: dir, Force: *force})
	services, more := decodeRollouts(t)
	c.diagnose(t, append(diags, more...), tf.color)
	// As in Packer, what is wrong with one bake does not stop the others.
	if more.HasErrors() || len(refused) == len(plan.Bakes) {
		return exitFailed
	}
	store, err := openRegistry(ctx)
	if err != nil {
		return c.fail(err)
	}
	defer store.Close()

	rep := report.New(out, report.Options{
		Format: format, Color: tf.color && os.Getenv("PACKER_NO_COLOR") == "", Verbose: *debug, Timestamp: *timestamp, Secrets: t.Secrets(),
	})
	defer rep.Close()
	var events event.Sink = rep
	if c.log != nil {
		log := report.New(c.log, report.Options{Format: report.JSON, Secrets: t.Secrets()})
		defer log.Close()
		events = event.Func(func(e event.Event) { rep.Emit(e); log.Emit(e) })
	}
	c.sayLeftovers(ctx, store)
	// What is written beside a report would be drawn over.
	say := func(line string) { rep.Emit(event.Event{Time: time.Now(), Kind: event.Warning, Text: line}) }
	c.say.Store(&say)
	defer c.say.Store(nil)

	o := bake.Options{
		Components: comps, Store: store, Events: events, OnError: mode, Parallel: *parallel, Force: *force, Debug: *debug,
		CheckIdempotent: *idempotent, Dir: dir, Template: path, Epoch: sourceDateEpoch(ctx, t.Dir), Rollouts: services, Refused: refused,
	}
	if *debug {
		o.Parallel = 1
	}
	if mode == bake.OnErrorAsk {
		if term.IsTerminal(int(c.in.Fd())) {
			o.Ask = c.ask
		} else {
			fmt.Fprintln(c.err, "-on-error=ask without a terminal to ask on: a failed bake is cleaned up.")
		}
	}
	results, err := bake.Run(ctx, plan, o)
	if err != nil {
		rep.Close()
		return c.fail(err)
	}
	// The images are made and recorded: a report that cannot be written costs none.
	unwritten := reports.write(results, t.Secrets())
	if err := rep.Close(); err != nil {
		return c.fail(fmt.Errorf("write the report: %w", errors.Join(err, unwritten)))
	}
	if unwritten != nil {
		return c.fail(unwritten)
	}
	for _, r := range results {
		if r.Err != nil {
			return exitFailed
		}
	}
	return exitOK
}

func usesSandbox(p *templates.Plan) bool {
	for _, b := range p.Bakes {
		if b.Component.Type == "sandbox" {
			return true
		}
	}
	return false
}

// sayLeftovers tells of what dead bakes have left, before a new one starts.
func (c *cli) sayLeftovers(ctx context.Context, store registry.Store) {
	left, err := bake.Leftovers(ctx, store)
	if err != nil {
		fmt.Fprintln(c.err, "Warning:", err)
		return
	}
	unfinished, err := bake.Unfinished(ctx, store)
	if err != nil {
		fmt.Fprintln(c.err, "Warning:", err)
		return
	}
	for _, u := range unfinished {
		fmt.Fprintf(c.err, "The image of %s, from %s, was never finished: `ingot resume %s` does it.\n", u.Name, u.Started.Local().Format(time.DateTime), u.ID)
	}
	left = slices.DeleteFunc(left, func(l bake.Leftover) bool {
		return slices.ContainsFunc(unfinished, func(u bake.UnfinishedBake) bool { return u.ID == l.BakeID })
	})
	if n := len(left); n > 0 {
		fmt.Fprintf(c.err, "An earlier bake left %d thing(s) behind, the oldest from %s: `ingot sweep -dry-run` shows them, `ingot sweep` gives them back.\n",
			n, left[0].Created.Local().Format(time.DateTime))
	}
}

func (c *cli) ask(ctx context.Context, name, step string, err error) bake.Choice {
	c.tell(fmt.Sprintf("%s failed in %q: %v", name, step, err))
	in := bufio.NewReader(c.in)
	for ctx.Err() == nil {
		c.tell("Type c to clean up and stop, a to stop and leave everything as it is, r to run the step again, and press Enter.")
		line, rerr := in.ReadString('\n')
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "c":
			return bake.ChooseCleanup
		case "a":
			return bake.ChooseAbort
		case "r":
			return bake.ChooseRetry
		}
		if rerr != nil {
			break
		}
	}
	return bake.ChooseCleanup
}

// sourceDateEpoch is the time that no file of an image is newer than:
// SOURCE_DATE_EPOCH, else the time of the last commit of the template's
// repository, else the start of 1980, the oldest time that zip can tell.
func sourceDateEpoch(ctx context.Context, dir string) time.Time {
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
			return time.Unix(n, 0).UTC()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "git", "-C", filepath.Clean(dir), "log", "-1", "--format=%ct").Output()
	if err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64); err == nil {
			return time.Unix(n, 0).UTC()
		}
	}
	return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
}

// decodeRollouts reads the rollout blocks. They are recorded with their images,
// by service, so that a rollout needs no template.
func decodeRollouts(t *templates.Template) (map[string]json.RawMessage, hcl.Diagnostics) {
	var all hcl.Diagnostics
	images := map[string]map[string]rollouts.Config{}
	for _, c := range t.Rollouts {
		name := c.Labels[0]
		cfg := rollouts.NewConfig(name)
		diags := c.Decode(&cfg, nil)
		if !diags.HasErrors() {
			problems := cfg.Check()
			if err := registry.CheckService(name); err != nil {
				problems = append(problems, config.Problem{Summary: err.Error()})
			}
			diags = append(diags, c.Diagnose(problems)...)
		}
		all = append(all, diags...)
		if images[cfg.Image] == nil {
			images[cfg.Image] = map[string]rollouts.Config{}
		}
		images[cfg.Image][name] = cfg
	}
	out := map[string]json.RawMessage{}
	for image, services := range images {
		raw, err := json.Marshal(services)
		if err != nil {
			return nil, append(all, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: err.Error()})
		}
		out[image] = raw
	}
	return out, all
}

// openRegistry opens the registry in Ingot's own directory.
func openRegistry(ctx context.Context) (*registry.SQLite, error) {
	dir, err := state.Dir()
	if err != nil {
		return nil, err
	}
	return registry.Open(ctx, filepath.Join(dir, "registry.db"))
}
