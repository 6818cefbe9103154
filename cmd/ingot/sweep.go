package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/userns"
)

func sweepVerb() verb {
	return verb{
		name: "sweep", args: "[TEMPLATE]", short: "Give back what bakes that no longer run have left",
		long: "What is given back stands in the ledger. With -source it is what the platform of that source of TEMPLATE knows by its\n" +
			"tags, for when the ledger is lost: the working directory is the template unless given.",
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			dry := fs.Bool("dry-run", false, "only say what would be given back")
			elsewhere := fs.Bool("elsewhere", false, "also what bakes on other hosts or in other containers have left; be sure that they are dead")
			unfinished := fs.Bool("unfinished", false, "also images that `ingot resume` could still finish")
			source := fs.String("source", "", "ask the platform of this `source`, such as amazon-ebs.web, what its bakes have left")
			olderThan := fs.Duration("older-than", 0, "with -source: only what bakes that began longer ago have left, e.g. 2h")
			var tf templateFlags
			tf.add(fs)
			rest, err := c.parseTemplate(fs, &tf, args, 0, 1)
			if err != nil {
				return code(err)
			}
			switch {
			case *source == "" && (len(rest) > 0 || *olderThan != 0):
				return c.fail(errors.New("a template and -older-than go with -source alone"))
			case *source != "" && *olderThan <= 0:
				return c.fail(errOlderThan)
			}
			store, err := openRegistry(ctx)
			if err != nil {
				return c.fail(err)
			}
			defer store.Close()
			comps, err := components()
			if err != nil {
				return c.fail(err)
			}
			warn := event.Func(func(e event.Event) {
				if e.Kind == event.Warning {
					fmt.Fprintln(c.err, "Warning:", e.Text)
				}
			})
			if *source != "" {
				return c.sweepSource(ctx, append(rest, ".")[0], *source, *olderThan, &tf, bake.SweepOptions{
					Components: comps, Store: store, DryRun: *dry, Elsewhere: *elsewhere, Events: warn,
				})
			}
			if left, err := bake.Leftovers(ctx, store); err == nil && !*dry && userns.Needed() {
				for _, l := range left {
					if l.Builder == "sandbox" { // its files belong to ids that only root in the namespace owns
						status, err := userns.Enter()
						if err != nil {
							return c.fail(err)
						}
						return status
					}
				}
			}
			done, err := bake.Sweep(ctx, bake.SweepOptions{
				Components: comps, Store: store, DryRun: *dry, Elsewhere: *elsewhere, Unfinished: *unfinished, Events: warn,
			})
			for _, l := range done {
				id := l.Name
				if l.ExternalID != "" {
					id += " (" + l.ExternalID + ")"
				}
				fmt.Fprintf(c.out, "%s %s %s of %s, from %s\n", gaveBack(*dry), l.Kind, id, l.Bake.Name, l.Created.Local().Format(time.DateTime))
			}
			if err != nil {
				return c.fail(err)
			}
			if len(done) == 0 {
				fmt.Fprintln(c.out, "Nothing to sweep.")
			}
			return exitOK
		},
	}
}
