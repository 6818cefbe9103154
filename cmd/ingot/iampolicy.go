package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ingotbuild/ingot/builders/amazon"
)

func iamPolicyVerb() verb {
	return verb{
		name: "iam-policy", args: "[TEMPLATE]", short: "Print the least IAM policy that a template's Amazon sources need",
		long: "TEMPLATE is the working directory unless given. The policy is JSON, as IAM takes it; AWS is not asked anything. A source\n" +
			"without region counts for the one in AWS_REGION, or for every region.",
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			var tf templateFlags
			tf.add(fs)
			why := fs.Bool("why", false, "say of each action why it is needed, in place of the policy")
			rest, err := c.parseTemplate(fs, &tf, args, 0, 1)
			if err != nil {
				return code(err)
			}
			t, plan, found := c.load(ctx, append(rest, ".")[0], &tf, false, false)
			c.diagnose(t, found, tf.color)
			if found.HasErrors() {
				return exitFailed
			}
			comps, err := components()
			if err != nil {
				return c.fail(err)
			}
			var policies []amazon.Policy
			for _, b := range plan.Bakes {
				newBuilder := comps.Builders[b.Component.Type]
				if newBuilder == nil {
					continue
				}
				o, ok := newBuilder().Options().(interface {
					Policy(region string) amazon.Policy
					RegionOr(other string) string
				})
				if !ok {
					continue
				}
				if d := b.Component.Decode(o, nil); d.HasErrors() {
					c.diagnose(t, d, tf.color)
					return exitFailed
				}
				policies = append(policies, o.Policy(o.RegionOr(cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")))))
			}
			if len(policies) == 0 {
				return c.fail(errors.New("the template has no Amazon source, so that it needs nothing to be allowed at AWS"))
			}
			all := amazon.MergePolicies(policies...)
			if *why {
				fmt.Fprint(c.out, all.Reasons())
				return exitOK
			}
			text, err := all.JSON()
			if err != nil {
				return c.fail(err)
			}
			_, _ = c.out.Write(text)
			return exitOK
		},
	}
}
