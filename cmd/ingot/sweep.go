package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/userns"
)

func sweepVerb() verb {
	return verb{
		name: "sweep", args: "", short: "Give back what bakes that no longer run have left",
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			dry := fs.Bool("dry-run", false, "only say what would be given back")
			elsewhere := fs.Bool("elsewhere", false, "also what bakes on other hosts or in other containers have left; be sure that they are dead")
			if _, err := c.parse(fs, args, 0, 0); err != nil {
				return code(err)
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
				Components: comps, Store: store, DryRun: *dry, Elsewhere: *elsewhere,
				Events: event.Func(func(e event.Event) {
					if e.Kind == event.Warning {
						fmt.Fprintln(c.err, "Warning:", e.Text)
					}
				}),
			})
			verb := "gave back"
			if *dry {
				verb = "would give back"
			}
			for _, l := range done {
				id := l.Name
				if l.ExternalID != "" {
					id += " (" + l.ExternalID + ")"
				}
				fmt.Fprintf(c.out, "%s %s %s of %s, from %s\n", verb, l.Kind, id, l.Bake.Name, l.Created.Local().Format(time.DateTime))
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
