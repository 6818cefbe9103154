package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/templates"
)

// version is set by the release build (-ldflags -X main.version=…).
var version = ""

func versionText() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	if v == "" || v == "(devel)" {
		return "development build"
	}
	return v
}

func versionVerb() verb {
	return verb{
		name: "version", args: "", short: "Show the version of Ingot, and of Packer's language that it reads",
		run: func(_ context.Context, c *cli, args []string) int {
			if _, err := c.parse(c.flags(), args, 0, 0); err != nil {
				return code(err)
			}
			if c.machine != nil {
				for _, line := range [][2]string{{"version", versionText()}, {"version-prelease", ""}, {"version-commit", commit()}, {"packer-version", templates.PackerVersion}} {
					if err := report.WriteMachine(c.machine, time.Now(), "", line[0], line[1]); err != nil {
						return c.fail(err)
					}
				}
			}
			fmt.Fprintf(c.out, "Ingot %s (%s, %s/%s)\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			fmt.Fprintf(c.out, "reads Packer templates as Packer v%s\n", templates.PackerVersion)
			return exitOK
		},
	}
}

// commit is the commit that the program was built from, if the build knew it.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}
