package main

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/templates"
)

func initVerb() verb {
	return verb{
		name: "init", args: "TEMPLATE", short: "Say whether everything that a template needs is built in",
		long: "There is nothing to install: the components of Ingot are part of it. For each plugin that the template\n" +
			"requires it is said which components stand for it. The exit status is 1 when the template uses a component\n" +
			"that Ingot has not got.",
		looks: true,
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			var tf templateFlags
			tf.add(fs)
			fs.Bool("upgrade", false, "accepted for Packer's users: there is nothing to install")
			fs.Bool("force", false, "accepted for Packer's users: there is nothing to install")
			rest, err := c.parseTemplate(fs, &tf, args, 1, 1)
			if err != nil {
				return code(err)
			}
			t, ok := c.requirements(ctx, rest[0], &tf)
			if !ok {
				return exitFailed
			}
			comps, err := components()
			if err != nil {
				return c.fail(err)
			}
			for _, r := range t.Requirements() {
				if have := ofPlugin(comps, r.Source); len(have) > 0 {
					fmt.Fprintf(c.out, "%s (%s) is built in: %s\n", r.Name, r.Source, strings.Join(have, ", "))
				} else {
					fmt.Fprintf(c.out, "%s (%s) is not part of Ingot\n", r.Name, r.Source)
				}
			}
			missing := missingParts(t, comps)
			for _, m := range missing {
				fmt.Fprintf(c.out, "Missing: %s\n", m)
			}
			if len(missing) > 0 {
				fmt.Fprintln(c.out, "The template needs what this Ingot has not got; `ingot plugins installed` lists what there is.")
				return exitFailed
			}
			fmt.Fprintln(c.out, "Nothing to install: everything that the template uses is built in.")
			return exitOK
		},
	}
}

// requirements reads a template for what it requires.
func (c *cli) requirements(ctx context.Context, path string, tf *templateFlags) (*templates.Template, bool) {
	t, diags := templates.Inspect(tf.options(ctx, path))
	if diags.HasErrors() {
		c.diagnose(t, diags, tf.color)
		return nil, false
	}
	return t, true
}

// ofPlugin lists the components that stand for those of Packer's plugin: they
// are called as the plugin, or as the plugin and what else the name has.
func ofPlugin(comps bake.Components, source string) []string {
	name := path.Base(source)
	var have []string
	for _, line := range builtIn(comps) {
		if typ := line[strings.LastIndexByte(line, ' ')+1:]; typ == name || strings.HasPrefix(typ, name+"-") {
			have = append(have, line)
		}
	}
	return have
}

// builtIn lists the components: what each is, and its type.
func builtIn(comps bake.Components) []string {
	var all []string
	add := func(kind string, names []string) {
		for _, n := range names {
			all = append(all, kind+" "+n)
		}
	}
	add("builder", slices.Sorted(maps.Keys(comps.Builders)))
	add("provisioner", slices.Sorted(maps.Keys(comps.Provisioners)))
	add("post-processor", slices.Sorted(maps.Keys(comps.PostProcessors)))
	add("data", slices.Sorted(maps.Keys(dataSources())))
	return all
}

// missingParts says what the template uses and Ingot has not got, with the first place of each.
func missingParts(t *templates.Template, comps bake.Components) []string {
	seen := builtIn(comps)
	var missing []string
	need := func(kind, typ string, at hcl.Range) {
		if !slices.Contains(seen, kind+" "+typ) {
			seen = append(seen, kind+" "+typ)
			line := fmt.Sprintf("%s %q, on %s line %d", kind, typ, at.Filename, at.Start.Line)
			if plugin := templates.PluginOf(typ); plugin != "" {
				line += fmt.Sprintf(" (of Packer's plugin %q)", plugin)
			}
			missing = append(missing, line)
		}
	}
	for _, o := range t.Outlines() {
		for _, b := range o.Bakes {
			need("builder", b.Component.Type, b.Component.Range)
		}
		steps := o.Steps
		if o.ErrorCleanup != nil {
			steps = append(slices.Clip(steps), *o.ErrorCleanup)
		}
		for _, p := range slices.Concat(append(o.Chains, steps)...) {
			if p.Kind != templates.Spec {
				need(string(p.Kind), p.Component, p.Range)
			}
		}
	}
	return missing
}
