package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/report"
)

func resumeVerb() verb {
	return verb{
		name: "resume", args: "[BAKE…]", short: "Finish images whose bakes were interrupted",
		long: "BAKE is the id that the interrupted bake has printed; without one every bake that can be finished is. No template is\n" +
			"needed: what is left to do stands in the ledger. Post-processors are not run.",
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			list := fs.Bool("list", false, "only say what could be finished")
			elsewhere := fs.Bool("elsewhere", false, "also what bakes on other hosts or in other containers began; be sure that they are dead")
			ids, err := c.parse(fs, args, 0, math.MaxInt)
			if err != nil {
				return code(err)
			}
			store, err := openRegistry(ctx)
			if err != nil {
				return c.fail(err)
			}
			defer store.Close()
			all, err := bake.Unfinished(ctx, store)
			if err != nil {
				return c.fail(err)
			}
			for _, id := range ids {
				if !slices.ContainsFunc(all, func(u bake.UnfinishedBake) bool { return u.ID == id }) {
					return c.fail(fmt.Errorf("there is no interrupted bake %s whose image can be finished; `ingot resume -list` shows those that there are", id))
				}
			}
			if len(ids) > 0 {
				all = slices.DeleteFunc(all, func(u bake.UnfinishedBake) bool { return !slices.Contains(ids, u.ID) })
			}
			if len(all) == 0 {
				fmt.Fprintln(c.out, "Nothing to resume.")
				return exitOK
			}
			if *list {
				for _, u := range all {
					fmt.Fprintf(c.out, "%s %s of %s, from %s\n", u.ID, u.Name, u.Template, u.Started.Local().Format(time.DateTime))
				}
				return exitOK
			}
			comps, err := components()
			if err != nil {
				return c.fail(err)
			}
			dir, err := os.Getwd()
			if err != nil {
				return c.fail(fmt.Errorf("find the working directory: %w", err))
			}
			rep := report.New(c.out, report.Options{Format: report.Auto, Color: os.Getenv("PACKER_NO_COLOR") == ""})
			failed := false
			for _, u := range all {
				res := bake.Resume(ctx, u, bake.ResumeOptions{Components: comps, Store: store, Events: rep, Dir: dir, Elsewhere: *elsewhere})
				failed = failed || res.Err != nil
			}
			if err := rep.Close(); err != nil {
				return c.fail(fmt.Errorf("write the report: %w", err))
			}
			if failed {
				return exitFailed
			}
			return exitOK
		},
	}
}

// sweepSource gives back what bakes of one source have left, without a ledger.
func (c *cli) sweepSource(ctx context.Context, path, source string, olderThan time.Duration, tf *templateFlags, o bake.SweepOptions) int {
	tf.evaluateData = true
	t, plan, found := c.load(ctx, path, tf, false, false)
	c.diagnose(t, found, tf.color)
	if found.HasErrors() {
		return exitFailed
	}
	var names []string
	for _, b := range plan.Bakes {
		if name := b.Type + "." + b.Source; name == source {
			done, err := bake.SweepSource(ctx, b, olderThan, o)
			for _, l := range done {
				id := l.Name
				if l.ExternalID != "" {
					id += " (" + l.ExternalID + ")"
				}
				fmt.Fprintf(c.out, "%s %s %s of bake %s, from %s\n", gaveBack(o.DryRun), l.Kind, id, l.BakeID, l.Created.Local().Format(time.DateTime))
			}
			if err != nil {
				return c.fail(err)
			}
			if len(done) == 0 {
				fmt.Fprintln(c.out, "Nothing to sweep.")
			}
			return exitOK
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return c.fail(fmt.Errorf("-source: no build of %s uses the source %q; there are %q", path, source, names))
}

func gaveBack(dry bool) string {
	if dry {
		return "would give back"
	}
	return "gave back"
}

var errOlderThan = errors.New("-source gives back what the ledger does not know, so that -older-than must say how old a bake is that runs no more, e.g. -older-than 2h")
