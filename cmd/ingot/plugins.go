package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/ingotbuild/ingot/internal/config"
)

func pluginsVerb() verb {
	actions := []string{"installed", "required", "install", "remove"}
	return verb{
		name: "plugins", args: "installed | required TEMPLATE | install SOURCE [VERSION] | remove SOURCE [VERSION]",
		short: "Say which components are built in, and which a template requires",
		long: "Ingot has no plugins: its components are part of it.\n" +
			"  installed          lists them\n" +
			"  required TEMPLATE  lists what the template's required_plugins blocks ask for\n" +
			"  install SOURCE     is there for scripts: it succeeds when the plugin's components are built in\n" +
			"  remove SOURCE      fails: nothing can be removed",
		words: func() []string { return actions },
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			var tf templateFlags
			tf.add(fs)
			fs.Bool("force", false, "accepted for Packer's users")
			binary := fs.String("path", "", "the `file` of a plugin; refused: Ingot runs none")
			rest, err := c.parseTemplate(fs, &tf, args, 0, 3)
			if err != nil {
				return code(err)
			}
			if len(rest) == 0 {
				c.help(c.out, fs)
				return exitFailed
			}
			action, rest := rest[0], rest[1:]
			least, most := 1, 2
			switch action {
			case "installed":
				least, most = 0, 0
			case "required":
				most = 1
			case "install", "remove":
			default:
				fmt.Fprintf(c.err, "ingot plugins: there is no action %q.%s `ingot plugins -help` lists them.\n", action, config.DidYouMean(action, actions))
				return exitFailed
			}
			if len(rest) < least || len(rest) > most {
				fmt.Fprintf(c.err, "ingot plugins %s: wrong number of arguments. `ingot plugins -help` shows what it takes.\n", action)
				return exitFailed
			}
			comps, err := components()
			if err != nil {
				return c.fail(err)
			}
			switch action {
			case "installed":
				for _, line := range builtIn(comps) {
					fmt.Fprintln(c.out, line)
				}
			case "required":
				t, ok := c.requirements(ctx, rest[0], &tf)
				if !ok {
					return exitFailed
				}
				for _, r := range t.Requirements() {
					state := "not part of Ingot"
					if have := ofPlugin(comps, r.Source); len(have) > 0 {
						state = "built in: " + strings.Join(have, ", ")
					}
					fmt.Fprintf(c.out, "%s %s %q %s\n", r.Name, r.Source, r.Version, state)
				}
			case "install":
				have := ofPlugin(comps, rest[0])
				if *binary != "" || len(have) == 0 {
					return c.fail(fmt.Errorf("%s cannot be installed: Ingot runs no plugins, and has only the components that `ingot plugins installed` lists", rest[0]))
				}
				fmt.Fprintf(c.out, "Nothing to install: %s is built in: %s\n", rest[0], strings.Join(have, ", "))
			case "remove":
				return c.fail(fmt.Errorf("%s cannot be removed: the components of Ingot are part of it", rest[0]))
			}
			return exitOK
		},
	}
}
