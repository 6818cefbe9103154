package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/internal/config"
)

func validateVerb() verb {
	return verb{
		name: "validate", args: "TEMPLATE", short: "Check a template without creating anything",
		looks: true,
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			var tf templateFlags
			tf.add(fs)
			syntax := fs.Bool("syntax-only", false, "check the syntax only: no variables, no components")
			quiet := fs.Bool("no-warn-undeclared-var", false, "do not warn about values in variable files that no variable takes")
			fs.BoolVar(&tf.evaluateData, "evaluate-datasources", false, "read the data sources; otherwise what depends on them is not checked")
			fs.Bool("ignore-prerelease-plugins", false, "accepted for Packer's users: there are no plugins")
			rest, err := c.parseTemplate(fs, &tf, args, 1, 1)
			if err != nil {
				return code(err)
			}
			t, plan, diags := c.load(ctx, rest[0], &tf, !*quiet, *syntax)
			if plan == nil {
				c.diagnose(t, diags, tf.color)
				if diags.HasErrors() {
					return exitFailed
				}
				fmt.Fprintln(c.out, "Syntax-only check passed. Everything looks okay.")
				return exitOK
			}
			dir, err := os.Getwd()
			if err != nil {
				return c.fail(err)
			}
			comps, err := components()
			if err != nil {
				return c.fail(err)
			}
			more, _ := bake.Check(ctx, plan, bake.CheckOptions{Components: comps, Dir: dir, Validate: true})
			_, rollouts := decodeRollouts(t)
			more = append(more, slices.DeleteFunc(rollouts, config.BecauseUnknown)...)
			diags = append(diags, slices.DeleteFunc(more, func(d *hcl.Diagnostic) bool { return told(d, diags) })...)
			c.diagnose(t, diags, tf.color)
			if diags.HasErrors() {
				return exitFailed
			}
			fmt.Fprintln(c.out, "The configuration is valid.")
			return exitOK
		},
	}
}

// told tells whether there is an error before at the same place, so that the
// finding would only say in other words what is wrong there.
func told(d *hcl.Diagnostic, before hcl.Diagnostics) bool {
	return slices.ContainsFunc(before, func(b *hcl.Diagnostic) bool {
		return b.Severity == hcl.DiagError && b.Subject != nil && d.Subject != nil &&
			b.Subject.Filename == d.Subject.Filename && b.Subject.Overlaps(*d.Subject)
	})
}
