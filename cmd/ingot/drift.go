package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty/function"

	"github.com/ingotbuild/ingot/drift"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/report/specreport"
	"github.com/ingotbuild/ingot/specs"
	"github.com/ingotbuild/ingot/templates"
	"github.com/ingotbuild/ingot/templates/functions"
)

func driftVerb() verb {
	return verb{
		name: "drift", args: "-inventory FILE | IMAGE[@VERSION|@CHANNEL] -target TARGET", short: "Find out how machines differ from the image they were made from",
		long: "The facts of an image are recorded when its build says facts = true. Specs that were checked after = snapshot are\n" +
			"checked again.\n\n" + targetHelp + "\n\n" +
			"Exit status: 0 no drift; 1 a machine has drifted, or a spec is red; 2 the inventory or the options are wrong, and no\n" +
			"machine was looked at; 3 nothing has drifted, but a machine could not be reached or not everything be found out.",
		run: runDrift,
	}
}

func runDrift(ctx context.Context, c *cli, args []string) int {
	fs := c.flags()
	var tf targetFlags
	var formats, hosts, ignore list
	tf.add(fs)
	hosts.split = true
	inventory := fs.String("inventory", "", "`file` of hosts, their roles and images")
	fs.Var(&hosts, "host", "look only at the hosts of the inventory with these `names`, commas between")
	fs.Var(&ignore, "ignore", "leave out what this `glob` matches: a path, or \"KIND GLOB\"; may be repeated")
	source := fs.String("source", "", "compare with what this bake has made, by its full `name`, where the version has several")
	fs.Var(&formats, "format", "write the report as `"+strings.Join(specreport.Formats(), "|")+"`, with :FILE behind it into a file; may be repeated")
	asJSON := fs.Bool("json", false, "write what has changed as JSON, in place of a report")
	timeout := fs.Duration("timeout", drift.DefaultTimeout, "the longest that one machine may take; 5m unless given")
	parallel := fs.Int("parallel", drift.DefaultParallel, "look at `n` machines at once; 32 unless given")
	verbose := fs.Bool("v", false, "show also what has not changed")
	color := fs.Bool("color", true, "color the output of a terminal")
	rest, err := c.parse(fs, args, 0, 1)
	if err != nil {
		return specCode(err)
	}
	switch {
	case *inventory != "" && (len(rest) > 0 || len(tf.targets.values) > 0 || *source != ""):
		return c.specUsage(errors.New("-inventory names the machines and their images: leave out IMAGE, -target and -source"))
	case *inventory == "" && len(rest) == 0:
		return c.specUsage(errors.New("which machines? -inventory FILE, or IMAGE -target TARGET"))
	case *inventory == "" && len(tf.targets.values) == 0:
		return c.specUsage(fmt.Errorf("which machines were made from %s? (-target ssh://HOST, docker://CONTAINER, image:REF, local:)", rest[0]))
	case *inventory == "" && len(hosts.values) > 0:
		return c.specUsage(errors.New("-host chooses from an inventory, and there is none"))
	case *parallel < 1 || *timeout <= 0:
		return c.specUsage(errors.New("-parallel is at least 1, and -timeout more than 0"))
	case *asJSON && len(formats.values) > 0:
		return c.specUsage(errors.New("-json and -format are two forms: use one of them"))
	}
	outputs, err := specOutputs(formats.values)
	if err != nil {
		return c.specUsage(err)
	}
	for _, g := range ignore.values {
		if err := drift.CheckGlob(g); err != nil {
			return c.specUsage(fmt.Errorf("-ignore: %w", err))
		}
	}
	o := drift.Options{Parallel: *parallel, Timeout: *timeout, Functions: driftFunctions(ctx, *inventory)}
	if *inventory != "" {
		if o.Hosts, err = c.inventoryHosts(*inventory, o.Functions, hosts.values, *color); err != nil {
			return exitUsage
		}
	} else {
		if _, err := registry.ParseRef(rest[0]); err != nil {
			return c.specUsage(err)
		}
		for _, t := range tf.targets.values {
			o.Hosts = append(o.Hosts, &drift.Host{Name: t, Target: t, Image: rest[0], Source: *source})
		}
	}
	var names []string
	for _, h := range o.Hosts {
		h.Rules.Ignore = append(h.Rules.Ignore, ignore.values...)
		names = append(names, h.Target)
	}
	slices.Sort(names)
	targets, err := parseTargets(slices.Compact(names))
	if err != nil {
		return c.specUsage(err)
	}
	if status, entered := c.enterForTargets(targets); entered {
		return status
	}
	store, err := openRegistry(ctx)
	if err != nil {
		c.fail(err)
		return exitBroken
	}
	defer store.Close()
	o.Image = func(ctx context.Context, ref, source string) (*drift.Image, error) {
		return driftImage(ctx, store, ref, source)
	}
	events := c.warnings()
	o.Open = func(ctx context.Context, target string) (machine.Machine, func() error, error) {
		return openTarget(ctx, target, tf.way, events)
	}
	results := drift.Run(ctx, o)
	found := driftTargets(results)
	status := specStatus(found)
	failed := func(err error) {
		if err != nil {
			fmt.Fprintln(c.err, "Error:", err)
			if status != exitFailed {
				status = exitBroken
			}
		}
	}
	if *asJSON {
		failed(c.json(driftDocument(results)))
		return status
	}
	for _, out := range outputs {
		failed(c.writeSpecReport(out, found, specreport.Options{Verbose: *verbose}, *color))
		if out.path == "" && out.format == "text" {
			writeDriftSummary(c.out, results)
		}
	}
	return status
}

// driftFunctions are what inventories and recorded specs may use; relative
// paths start where the inventory lies.
func driftFunctions(ctx context.Context, inventory string) map[string]function.Function {
	return functions.All(functions.Options{Dir: filepath.Dir(inventory), Now: time.Now(), Environ: os.Environ(), Context: ctx})
}

// inventoryHosts reads an inventory. When it fails it has said why.
func (c *cli) inventoryHosts(file string, funcs map[string]function.Function, only []string, color bool) ([]*drift.Host, error) {
	inv, diags := drift.LoadInventory(drift.LoadOptions{File: file, Functions: funcs})
	if text := c.findings(c.err, &templates.Template{Files: inv.Files}, diags, color); text != "" {
		_, _ = io.WriteString(c.err, text)
	}
	if diags.HasErrors() {
		return nil, errSaid
	}
	if len(only) == 0 {
		return inv.Hosts, nil
	}
	var hosts []*drift.Host
	for _, name := range only {
		i := slices.IndexFunc(inv.Hosts, func(h *drift.Host) bool { return h.Name == name })
		if i < 0 {
			fmt.Fprintf(c.err, "ingot drift: the inventory has no host %q.\n", name)
			return nil, errSaid
		}
		hosts = append(hosts, inv.Hosts[i])
	}
	return hosts, nil
}

// driftImage looks up a version and the facts it was recorded with.
func driftImage(ctx context.Context, store registry.Store, ref, source string) (*drift.Image, error) {
	r, err := registry.ParseRef(ref)
	if err != nil {
		return nil, err
	}
	v, err := store.Resolve(ctx, r)
	if err != nil {
		return nil, err
	}
	all, err := store.Facts(ctx, v.Image, v.Number)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(all))
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("%s was recorded without facts, so that nothing can be compared with it: say facts = true in its build block and bake again", v.Ref())
	case source == "" && len(all) > 1:
		return nil, fmt.Errorf("%s was baked for several platforms: say source = one of %s", v.Ref(), strings.Join(names, ", "))
	case source == "":
		source = names[0]
	case all[source] == nil:
		return nil, fmt.Errorf("%s has no facts of %q; it has those of %s", v.Ref(), source, strings.Join(names, ", "))
	}
	f, err := drift.Decode(all[source])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.Ref(), err)
	}
	return &drift.Image{Ref: v.Ref().String(), Facts: f}, nil
}

func driftTargets(results []drift.Result) []specreport.Target {
	var found []specreport.Target
	for _, r := range results {
		name := r.Host.Name
		if r.Host.Target != name {
			name += " (" + r.Host.Target + ")"
		}
		found = append(found, specreport.Target{Name: name, Reports: r.Reports, Err: r.Err})
	}
	return found
}

// verdictWords are how verdicts on machines are called.
var verdictWords = map[specs.Status]string{specs.Pass: "no drift", specs.Fail: "drift", specs.Error: "broken"}

func writeDriftSummary(w io.Writer, results []drift.Result) {
	n := map[specs.Status]int{}
	for _, r := range results {
		n[r.Verdict()]++
	}
	fmt.Fprintf(w, "%d machine(s): %d without drift, %d with drift, %d broken\n", len(results), n[specs.Pass], n[specs.Fail], n[specs.Error])
}

// driftSchema is the version of the form that -json writes. It grows when a
// field changes its meaning or goes away.
const driftSchema = 1

type driftJSON struct {
	Schema int         `json:"schema"`
	Hosts  []driftHost `json:"hosts"`
}

type driftHost struct {
	Name    string `json:"name"`
	Target  string `json:"target"`
	Image   string `json:"image,omitempty"` // by number
	Verdict string `json:"verdict"`         // no drift, drift, broken
	// Changes are the differences that are not waived, Waived those that are.
	Changes []driftChange   `json:"changes"`
	Waived  []driftChange   `json:"waived,omitempty"`
	Gaps    []driftGap      `json:"not_compared,omitempty"`
	Specs   []*specs.Report `json:"specs,omitempty"`
	Error   string          `json:"error,omitempty"`
	Seconds float64         `json:"seconds"`
}

type driftChange struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Property string `json:"property"`
	Want     string `json:"want,omitempty"`
	Have     string `json:"have,omitempty"`
}

type driftGap struct {
	Section string `json:"section"`
	Why     string `json:"why"`
}

func driftDocument(results []drift.Result) driftJSON {
	doc := driftJSON{Schema: driftSchema, Hosts: []driftHost{}}
	for _, r := range results {
		h := driftHost{
			Name: r.Host.Name, Target: r.Host.Target, Image: r.Image, Verdict: verdictWords[r.Verdict()],
			Changes: []driftChange{}, Seconds: r.Elapsed.Seconds(),
		}
		if r.Err != nil {
			h.Error = specs.Clean(r.Err.Error())
		}
		reports := r.Reports
		if r.Compared != nil {
			for i, x := range r.Compared.Changes {
				one := driftChange{x.Kind, specs.Clean(x.Name), x.Property, specs.Clean(x.Want), specs.Clean(x.Have)}
				if reports[0].Results[i].Status == specs.Waived {
					h.Waived = append(h.Waived, one)
				} else {
					h.Changes = append(h.Changes, one)
				}
			}
			for _, g := range r.Compared.Gaps {
				h.Gaps = append(h.Gaps, driftGap{specs.Clean(g.Section), specs.Clean(g.Why)})
			}
			reports = reports[1:]
		}
		h.Specs = reports
		doc.Hosts = append(doc.Hosts, h)
	}
	return doc
}
