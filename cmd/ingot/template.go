package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/term"

	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/templates"
)

// templateFlags are the flags of every verb that reads a template.
type templateFlags struct {
	vars, varFiles list
	only, except   list
	color          bool
	configType     string
	sequential     bool
	// evaluateData has the template's data sources read.
	evaluateData bool
}

func (f *templateFlags) add(fs *flag.FlagSet) {
	f.only.split, f.except.split = true, true
	fs.Var(&f.vars, "var", "`name=value` of a variable; may be repeated")
	fs.Var(&f.varFiles, "var-file", "`file` of variable values, .hcl or .json; may be repeated")
	fs.Var(&f.only, "only", "take only builds whose full name matches one of these `globs`, commas between")
	fs.Var(&f.except, "except", "leave out builds whose full name matches one of these `globs`, and post-processors so named")
	fs.BoolVar(&f.color, "color", true, "color the output of a terminal")
	fs.StringVar(&f.configType, "config-type", "", "accepted for Packer's users (`json|hcl2`): the name of the template says what it is")
	fs.BoolVar(&f.sequential, "use-sequential-evaluation", false, "accepted for Packer's users: values are always evaluated in the order of what they refer to")
}

// ignored says on standard error which flags that were given have no effect.
func (f *templateFlags) ignored(c *cli) error {
	switch f.configType {
	case "", "json", "hcl2":
	default:
		return fmt.Errorf("-config-type is %q; it can be json or hcl2", f.configType)
	}
	if f.sequential {
		fmt.Fprintf(c.err, "ingot %s: -use-sequential-evaluation has no effect: Ingot evaluates everything in the order of what it refers to.\n", c.v.name)
	}
	return nil
}

// parseTemplate is parse for verbs with templateFlags.
func (c *cli) parseTemplate(fs *flag.FlagSet, f *templateFlags, args []string, least, most int) ([]string, error) {
	rest, err := c.parse(fs, args, least, most)
	if err == nil {
		if err = f.ignored(c); err != nil {
			fmt.Fprintf(c.err, "ingot %s: %v.\n", c.v.name, err)
		}
	}
	return rest, err
}

func (f *templateFlags) options(ctx context.Context, path string) templates.Options {
	return templates.Options{
		Path: path, Stdin: os.Stdin, Vars: f.vars.values, VarFiles: f.varFiles.values, Environ: os.Environ(),
		Context: ctx, Datasources: dataSources(), EvaluateData: f.evaluateData,
	}
}

func (f *templateFlags) selection() templates.Selection {
	return templates.Selection{Only: f.only.values, Except: f.except.values}
}

// load reads the template and says what is wrong with it. There may be a plan
// even then, with what is right.
func (c *cli) load(ctx context.Context, path string, f *templateFlags, warnUndeclared, syntaxOnly bool) (*templates.Template, *templates.Plan, hcl.Diagnostics) {
	o := f.options(ctx, path)
	o.WarnUndeclared, o.SyntaxOnly = warnUndeclared, syntaxOnly
	t, diags := templates.Load(o)
	if syntaxOnly {
		return t, nil, diags
	}
	plan, more := t.Plan(f.selection())
	if !diags.HasErrors() { // otherwise they would only be what comes of these
		diags = append(diags, more...)
	}
	return t, plan, diags
}

// diagnose writes findings to where the output goes, as Packer does.
func (c *cli) diagnose(t *templates.Template, diags hcl.Diagnostics, color bool) {
	text := c.findings(c.out, t, diags, color)
	if text != "" && c.machine != nil && diags.HasErrors() {
		_ = report.WriteMachine(c.machine, time.Now(), "", "ui", "error", strings.TrimSuffix(text, "\n"))
		return
	}
	_, _ = io.WriteString(c.out, text)
}

// remark writes findings beside the output, for verbs whose output is read by programs.
func (c *cli) remark(t *templates.Template, diags hcl.Diagnostics, color bool) {
	_, _ = io.WriteString(c.err, c.findings(c.err, t, diags, color))
}

// findings is the text of findings, without secrets, as it suits w.
func (c *cli) findings(w io.Writer, t *templates.Template, diags hcl.Diagnostics, color bool) string {
	if len(diags) == 0 {
		return ""
	}
	var files map[string]*hcl.File
	mask := func(s string) string { return s }
	if t != nil {
		files, mask = t.Files, report.Mask(t.Secrets())
	}
	width, tty := 80, false
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		tty = os.Getenv("NO_COLOR") == "" && os.Getenv("PACKER_NO_COLOR") == ""
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			width = n
		}
	}
	var b bytes.Buffer
	if err := templates.WriteDiagnostics(&b, files, diags, width, color && tty); err != nil {
		return fmt.Sprintln("Error:", err)
	}
	return mask(b.String())
}
