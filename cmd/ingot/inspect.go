package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/templates"
)

func inspectVerb() verb {
	return verb{
		name: "inspect", args: "[TEMPLATE]", short: "Show what is in a template: variables, locals, builds and their steps",
		long:  "TEMPLATE is the working directory unless given. Variables need no value, and only what concerns the syntax is an error.",
		looks: true,
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			var tf templateFlags
			tf.add(fs)
			rest, err := c.parseTemplate(fs, &tf, args, 0, 1)
			if err != nil {
				return code(err)
			}
			t, diags := templates.Inspect(tf.options(ctx, append(rest, ".")[0]))
			if diags.HasErrors() {
				c.diagnose(t, diags, tf.color)
				return exitFailed
			}
			c.remark(t, diags, tf.color)
			chosen := func(*templates.Bake) bool { return true }
			if s := tf.selection(); len(s.Only)+len(s.Except) > 0 {
				plan, diags := t.Plan(s)
				c.diagnose(t, diags, tf.color)
				if diags.HasErrors() {
					return exitFailed
				}
				chosen = func(b *templates.Bake) bool {
					return slices.ContainsFunc(plan.Bakes, func(o *templates.Bake) bool { return o.Name == b.Name })
				}
			}
			mask := report.Mask(t.Secrets())
			fmt.Fprint(c.out, "Packer Inspect: HCL2 mode\n\n")
			fmt.Fprintln(c.out, mask(valuesText(t)))
			var b bytes.Buffer
			writeBuilds(&b, t, chosen)
			fmt.Fprint(c.out, mask(b.String()))
			return exitOK
		},
	}
}

// valuesText shows the variables and locals as Packer does.
func valuesText(t *templates.Template) string {
	var b strings.Builder
	for _, group := range []struct {
		title, prefix string
		values        []templates.Named
	}{{"input-variables", "var", t.Variables()}, {"local-variables", "local", t.Locals()}} {
		fmt.Fprintf(&b, "> %s:\n\n", group.title)
		for _, v := range group.values {
			text := valueText(v.Value)
			if v.Sensitive && v.Value.IsWhollyKnown() {
				text = "<sensitive>" // also where it is empty, a bool or null
			}
			fmt.Fprintf(&b, "%s.%s: %q\n", group.prefix, v.Name, text)
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func writeBuilds(w io.Writer, t *templates.Template, chosen func(*templates.Bake) bool) {
	fmt.Fprint(w, "> builds:\n")
	for i, o := range t.Outlines() {
		var sources, images []string
		for _, b := range o.Bakes {
			if !chosen(b) {
				continue
			}
			sources = append(sources, b.Type+"."+b.Local)
			if usual := cmp.Or(b.BuildName, b.Source); b.Image != usual && !slices.Contains(images, b.Image) {
				images = append(images, b.Image)
			}
		}
		if len(sources) == 0 && len(o.Bakes) > 0 {
			continue
		}
		fmt.Fprintf(w, "\n  > %s:\n", cmp.Or(o.Name, fmt.Sprintf("<unnamed build %d>", i)))
		if o.Description != "" {
			fmt.Fprintf(w, "\n  > Description: %s\n", o.Description)
		}
		section(w, "sources", "<no source>", "\n\n      ", sources)
		if len(images) > 0 {
			section(w, "images", "", "\n      ", images)
		}
		var steps []string
		for _, s := range o.Steps {
			steps = append(steps, partText(s))
		}
		section(w, "provisioners", "<no provisioner>", "\n      ", steps)
		if o.ErrorCleanup != nil {
			section(w, "error-cleanup-provisioner", "", "\n      ", []string{partText(*o.ErrorCleanup)})
		}
		var chains []string
		for i, chain := range o.Chains {
			text := strconv.Itoa(i) + ":"
			for _, p := range chain {
				text += "\n        " + partText(p)
			}
			chains = append(chains, text)
		}
		section(w, "post-processors", "<no post-processor>", "\n\n      ", chains)
	}
	fmt.Fprintln(w)
	if len(t.Rollouts) > 0 {
		fmt.Fprint(w, "> rollouts:\n\n")
		for _, r := range t.Rollouts {
			fmt.Fprintf(w, "  %s\n", r.Labels[0])
		}
		fmt.Fprintln(w)
	}
}

func section(w io.Writer, title, none, between string, lines []string) {
	if len(lines) == 0 {
		lines = []string{none}
	}
	fmt.Fprintf(w, "\n    %s:\n\n      %s\n", title, strings.Join(lines, between))
}

func partText(p templates.Part) string {
	if p.Name == "" {
		return p.Type
	}
	return p.Type + "." + p.Name
}

// valueText writes a value as Packer's console does: a string as it is,
// everything else in a notation near to HCL.
func valueText(v cty.Value) string {
	if v.IsWhollyKnown() && !v.IsNull() && v.Type() == cty.String {
		return v.AsString()
	}
	if !v.IsWhollyKnown() {
		return "<unknown>"
	}
	var b strings.Builder
	writeValue(&b, v, "")
	return b.String()
}

func writeValue(b *strings.Builder, v cty.Value, indent string) {
	t := v.Type()
	switch {
	case v.IsNull():
		b.WriteString("null")
	case t == cty.String:
		fmt.Fprintf(b, "%q", v.AsString())
	case t == cty.Number:
		f := v.AsBigFloat()
		if i, exact := f.Int64(); exact == 0 {
			fmt.Fprint(b, i)
			return
		}
		n, _ := f.Float64()
		fmt.Fprint(b, n)
	case t == cty.Bool:
		fmt.Fprint(b, v.True())
	case t.IsObjectType() || t.IsMapType():
		writeElements(b, v, indent, "{", "}")
	case t.IsTupleType() || t.IsListType() || t.IsSetType():
		writeElements(b, v, indent, "[", "]")
	default:
		b.WriteString(t.FriendlyName())
	}
}

func writeElements(b *strings.Builder, v cty.Value, indent, open, end string) {
	empty := true
	b.WriteString(open)
	for key, e := range v.Elements() {
		if open == "{" && e.IsNull() {
			continue // Packer leaves them out
		}
		empty = false
		b.WriteString("\n  " + indent)
		if open == "{" {
			fmt.Fprintf(b, "%q = ", key.AsString())
		}
		writeValue(b, e, indent+"  ")
		if open == "[" {
			b.WriteString(",")
		}
	}
	if !empty {
		b.WriteString("\n" + indent)
	}
	b.WriteString(end)
}
