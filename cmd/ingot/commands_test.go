package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/templates"
)

// flatVerbs are the verbs that run, those behind another one with both names.
func flatVerbs() []verb {
	var all []verb
	for _, v := range verbs() {
		if v.verbs == nil {
			all = append(all, v)
			continue
		}
		for _, sub := range v.verbs() {
			sub.name = v.name + " " + sub.name
			all = append(all, sub)
		}
	}
	return all
}

// commandsPage is the reference page of the command line, as the verbs tell it.
func commandsPage(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(commandsHead, "PACKER_VERSION", templates.PackerVersion))
	for _, v := range flatVerbs() {
		if v.hidden {
			continue
		}
		c := &cli{out: io.Discard, err: io.Discard, v: v}
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n```\ningot %s", v.name, v.short, v.name)
		asked := false
		c.onHelp = func(fs *flag.FlagSet) {
			asked = true
			n := 0
			fs.VisitAll(func(*flag.Flag) { n++ })
			if n > 0 {
				b.WriteString(" [OPTIONS]")
			}
			fmt.Fprintf(&b, "%s\n```\n", strings.TrimRight(" "+v.args, " "))
			if v.long != "" {
				fmt.Fprintf(&b, "\n%s\n", paragraphs(v.long))
			}
			if n > 0 {
				b.WriteString("\n")
			}
			fs.VisitAll(func(f *flag.Flag) {
				arg, text := flag.UnquoteUsage(f)
				fmt.Fprintf(&b, "- **`%s`** %s", strings.TrimSpace("-"+f.Name+" "+arg), text)
				if f.DefValue == "true" {
					b.WriteString(". Default: `true`")
				}
				b.WriteString(".\n")
			})
		}
		if status := v.run(t.Context(), c, []string{"-help"}); status != exitOK || !asked {
			t.Errorf("ingot %s -help: exit status %d", v.name, status)
		}
	}
	return b.String()
}

// paragraphs makes Markdown of a help text: lines that are set in, or are commands, become code.
func paragraphs(s string) string {
	var b strings.Builder
	code := false
	for line := range strings.SplitSeq(s, "\n") {
		if set := strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "ingot "); set != code {
			code = set
			b.WriteString(map[bool]string{true: "\n```\n", false: "```\n\n"}[code])
		}
		b.WriteString(line + "\n")
	}
	if code {
		b.WriteString("```\n")
	}
	return strings.TrimSpace(b.String())
}

const commandsHead = `
# Commands

` + "`ingot COMMAND [OPTIONS] [ARGUMENTS]`" + `. The commands, flags, environment variables and exit codes that Packer has are as
Packer PACKER_VERSION has them. A flag is written ` + "`-x`, `--x`, `-x=value` or `-x value`" + `, before or behind the arguments; a flag that
is true or false needs the ` + "`=`" + `. What chooses builds (` + "`-only`, `-except`" + `) has an effect in build, validate and inspect; elsewhere it is
accepted because Packer does, as are variables in fmt.

**` + "`-machine-readable`" + `** may stand anywhere: standard output is then lines of ` + "`seconds,target,category,data…`" + `, in which a comma
of the data is ` + "`%!(PACKER_COMMA)`" + ` and a line end ` + "`\\n`" + `. Categories: ` + "`ui`" + ` (` + "`say`, `message`, `error`" + `), ` + "`error-count`, `error`" + `,
` + "`artifact-count`, `artifact`, `version`, `version-prelease`, `version-commit`, `packer-version`" + `.

Exit codes: **0** all is well, **1** anything went wrong, **3** ` + "`fmt -check`" + ` found something to lay out, **127** there is no such
command, or none was given. Those of ` + "`ingot spec`" + ` are said there.

Environment variables:

- **` + "`PKR_VAR_name`, `INGOT_VAR_name`" + `** give the template's variable ` + "`name`" + ` a value.
- **` + "`PACKER_LOG`" + `**, unless empty or 0, writes what happens to standard error, as JSON lines without secrets.
- **` + "`PACKER_LOG_PATH`" + `** writes that to a file in its place, which starts empty.
- **` + "`PACKER_NO_COLOR`, `NO_COLOR`" + `**, unless empty, keep colors away.
- **` + "`INGOT_HOME`" + `** is the directory of images and registry.
- **` + "`SOURCE_DATE_EPOCH`" + `** is the time, in seconds since 1970, that no file of an image is newer than.
- **` + "`PACKER_CONFIG`, `PACKER_CONFIG_DIR`, `PACKER_PLUGIN_PATH`, `PACKER_GITHUB_API_TOKEN`, `CHECKPOINT_DISABLE`" + `** have no effect: there
  are no plugins and no global configuration, and Ingot calls nobody.
`

// Wherever help is, every flag of it has a text that is no sentence of its own.
func TestHelp(t *testing.T) {
	for _, v := range flatVerbs() {
		if v.hidden {
			continue
		}
		var out bytes.Buffer
		status := v.run(t.Context(), &cli{out: &out, err: io.Discard, v: v, onHelp: func(fs *flag.FlagSet) {
			fs.VisitAll(func(f *flag.Flag) {
				if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
					t.Errorf("ingot %s -%s has the text %q", v.name, f.Name, f.Usage)
				}
			})
		}}, []string{"-h"})
		if status != exitOK || out.Len() > 0 {
			t.Errorf("ingot %s -h: exit status %d, and says %q", v.name, status, &out)
		}
	}
}
