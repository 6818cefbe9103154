package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/internal/atomicfile"
	"github.com/ingotbuild/ingot/specs"
	"github.com/ingotbuild/ingot/templates/functions"
)

const addHelp = "Without -o the spec is printed. With it, what FILE does not have yet is added to its spec block; all else in it stays.\n" +
	"What is written is looked at twice, so that it holds: a command is run twice, too.\n\n"

func specAddVerb() verb {
	return verb{
		name: "add", args: "RESOURCE [SUBJECT…] -target TARGET", short: "Write a spec of what there is on a machine",
		long: addHelp + "What is missing there is written as should_not. RESOURCE is one of\n" + wrap(specs.Describable()) + "\n" + targetHelp + "\n\n" +
			"Exit status: 0 it is written; 2 the options or FILE are wrong; 3 not everything could be found out.",
		words: specs.Describable,
		run: func(ctx context.Context, c *cli, args []string) int {
			return c.specAdd(ctx, args, 1, func(rest []string) ([]specs.Ask, error) {
				if len(rest) == 1 {
					rest = append(rest, "")
				}
				var asks []specs.Ask
				for _, s := range rest[1:] {
					asks = append(asks, specs.Ask{Resource: rest[0], Subject: s})
				}
				return asks, nil
			})
		},
	}
}

func specAutoaddVerb() verb {
	return verb{
		name: "autoadd", args: "SUBJECT… -target TARGET", short: "Write a spec of everything with a name that is on a machine",
		long: addHelp + "Written is what there is of: " + strings.Join(autoResources, ", ") + ". Files are named by their paths.\n\n" + targetHelp + "\n\n" +
			"Exit status: 0 it is written; 1 there is nothing of a name; 2 the options or FILE are wrong; 3 not everything could be found out.",
		run: func(ctx context.Context, c *cli, args []string) int {
			return c.specAdd(ctx, args, 1, nil)
		},
	}
}

// autoResources are what autoadd looks for, as goss does.
var autoResources = []string{"file", "group", "package", "port", "process", "service", "user"}

func wrap(words []string) string {
	var b strings.Builder
	line := 2
	b.WriteString("  ")
	for i, w := range words {
		if i < len(words)-1 {
			w += ", "
		}
		if line += len(w); line > 118 {
			b.WriteString("\n  ")
			line = 2 + len(w)
		}
		b.WriteString(w)
	}
	return b.String() + "\n"
}

// addOptions are the flags of both.
type addOptions struct {
	file, spec string
	sudo       bool
	timeout    time.Duration
}

func (o *addOptions) add(fs *flag.FlagSet) {
	fs.StringVar(&o.file, "o", "", "add to this `file`, which ends in .ingot.hcl, or make it")
	fs.StringVar(&o.spec, "spec", "", "the `name` of the spec; that of the file unless given, or \"machine\"")
	fs.BoolVar(&o.sudo, "sudo", false, "look as root, by sudo -n, and write sudo = true into the spec")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Minute, "the longest that it may take; 10m unless given")
}

// check says what is wrong, and fills in the spec's name.
func (o *addOptions) check() error {
	if o.file != "" && !strings.HasSuffix(o.file, ".ingot.hcl") {
		return fmt.Errorf("the name of %q must end in .ingot.hcl, where Packer passes over it", o.file)
	}
	if o.spec == "" {
		o.spec = "machine"
		if o.file != "" {
			if base := strings.TrimSuffix(filepath.Base(o.file), ".ingot.hcl"); base != "" {
				o.spec = base
			}
		}
	}
	if strings.ContainsFunc(o.spec, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("the spec's name holds control characters")
	}
	if o.timeout <= 0 {
		return errors.New("-timeout is more than 0")
	}
	return nil
}

// specAdd runs add, or autoadd where there are no asks.
func (c *cli) specAdd(ctx context.Context, args []string, least int, asksOf func(rest []string) ([]specs.Ask, error)) int {
	fs := c.flags()
	var o addOptions
	var tf targetFlags
	o.add(fs)
	tf.add(fs)
	rest, err := c.parse(fs, args, least, 10000)
	if err != nil {
		return specCode(err)
	}
	targets, err := parseTargets(tf.targets.values)
	if err == nil && len(targets) != 1 {
		err = errors.New("one machine is looked at: -target ssh://HOST, docker://CONTAINER, image:REF, or local: for this one")
	}
	err = errors.Join(err, o.check())
	auto := asksOf == nil
	var asks []specs.Ask
	if err == nil {
		if auto {
			asks, err = autoAsks(rest)
		} else {
			asks, err = asksOf(rest)
		}
		asks = unique(asks)
	}
	if err == nil && !auto {
		var errs []error
		for _, a := range asks {
			errs = append(errs, a.Check())
		}
		err = errors.Join(errs...)
	}
	if err != nil {
		return c.specUsage(err)
	}
	if status, entered := c.enterForTargets(targets); entered {
		return status
	}
	file, err := readSpecFile(o)
	if err != nil {
		return c.specUsage(err)
	}
	asks, known := file.unknown(asks)
	for _, a := range known {
		fmt.Fprintf(c.err, "%s %s: %s has it already; it stays as it is.\n", a.Resource, strconv.Quote(a.Subject), o.file)
	}
	if len(asks) == 0 {
		return exitOK
	}
	found, err := describe(ctx, targets[0].name, tf.way, o, asks, c)
	if err != nil {
		fmt.Fprintln(c.err, "Error:", specs.Clean(err.Error()))
		return exitBroken
	}
	status := exitOK
	if auto {
		if found, status = c.onlyThere(rest, found, known); len(found) == 0 {
			return status
		}
	}
	var blocks []*hclwrite.Block
	for _, d := range found {
		what := specs.Clean(strings.TrimSpace(d.Resource + " " + quoted(d.Subject)))
		if d.Missing != "" {
			how := "written as should_not"
			if len(d.Blocks()) == 0 {
				how = "nothing is written"
			}
			fmt.Fprintf(c.err, "%s: %s; %s.\n", what, specs.Clean(d.Missing), how)
		}
		for _, n := range d.Notes {
			fmt.Fprintf(c.err, "%s: %s.\n", what, specs.Clean(n))
		}
		if len(d.Blocks()) == 0 && d.Missing == "" || len(d.Notes) > 0 {
			status = max(status, exitBroken)
		}
		blocks = append(blocks, d.Blocks()...)
	}
	if len(blocks) == 0 {
		return status
	}
	if err := c.writeSpecFile(ctx, o, blocks); err != nil {
		fmt.Fprintln(c.err, "Error:", err)
		return max(status, exitUsage)
	}
	return status
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}

func unique(asks []specs.Ask) (out []specs.Ask) {
	for _, a := range asks {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// autoAsks are what the names could be.
func autoAsks(names []string) ([]specs.Ask, error) {
	var asks []specs.Ask
	for _, n := range names {
		before := len(asks)
		for _, r := range autoResources {
			if a := (specs.Ask{Resource: r, Subject: n}); a.Check() == nil && (r == "file") == strings.HasPrefix(n, "/") {
				asks = append(asks, a)
			}
		}
		if len(asks) == before {
			return nil, fmt.Errorf("%q can be the name of none of %s", n, strings.Join(autoResources, ", "))
		}
	}
	return asks, nil
}

// onlyThere leaves what is there, and says of which names there is nothing.
func (c *cli) onlyThere(names []string, found []specs.Description, known []specs.Ask) ([]specs.Description, int) {
	there := slices.DeleteFunc(slices.Clone(found), func(d specs.Description) bool { return d.Missing != "" || len(d.Blocks()) == 0 })
	status := exitOK
	for _, n := range names {
		of := func(d specs.Description) bool { return d.Subject == n }
		if slices.ContainsFunc(there, of) || slices.ContainsFunc(known, func(a specs.Ask) bool { return a.Subject == n }) {
			continue
		}
		status = exitFailed
		fmt.Fprintf(c.err, "There is nothing of the name %s.\n", specs.Clean(strconv.Quote(n)))
		for _, d := range found {
			if of(d) {
				for _, note := range d.Notes {
					fmt.Fprintf(c.err, "  %s: %s\n", d.Resource, specs.Clean(note))
				}
			}
		}
	}
	return there, status
}

// describe looks at the machine.
func describe(ctx context.Context, name string, way targetOptions, o addOptions, asks []specs.Ask, c *cli) ([]specs.Description, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("it took longer than %v (-timeout)", o.timeout))
	defer cancel()
	m, giveBack, err := openTarget(ctx, name, way, c.warnings())
	if err != nil {
		return nil, because(ctx, err)
	}
	found, err := specs.Describe(ctx, m, asks, o.sudo)
	if err != nil {
		err = because(ctx, err)
	}
	return found, errors.Join(err, giveBack())
}

// specFile is the file to add to, as it was read.
type specFile struct{ block *hclsyntax.Block } // nil: there is none, or no such spec

// readSpecFile reads the file to add to, and refuses one that adding would break.
func readSpecFile(o addOptions) (specFile, error) {
	if o.file == "" {
		return specFile{}, nil
	}
	src, err := os.ReadFile(o.file)
	if errors.Is(err, os.ErrNotExist) {
		if info, err := os.Stat(filepath.Dir(o.file)); err != nil {
			return specFile{}, fmt.Errorf("%s cannot be made: %w", o.file, err)
		} else if !info.IsDir() {
			return specFile{}, fmt.Errorf("%s cannot be made: %s is no directory", o.file, filepath.Dir(o.file))
		}
		return specFile{}, nil
	}
	if err != nil {
		return specFile{}, fmt.Errorf("%s cannot be read: %w", o.file, err)
	}
	return parseSpecFile(src, o)
}

func parseSpecFile(src []byte, o addOptions) (specFile, error) {
	if err := functions.CheckSource(src); err != nil {
		return specFile{}, fmt.Errorf("%s is refused: %w", o.file, err)
	}
	f, diags := hclsyntax.ParseConfig(src, o.file, hcl.InitialPos)
	if diags.HasErrors() {
		return specFile{}, fmt.Errorf("%s is no HCL, and stays as it is: %w", o.file, diags)
	}
	body, ok := f.Body.(*hclsyntax.Body)
	if !ok {
		return specFile{}, fmt.Errorf("%s is no HCL in its native syntax", o.file)
	}
	for _, b := range body.Blocks {
		if b.Type != "spec" || len(b.Labels) != 1 || b.Labels[0] != o.spec {
			continue
		}
		sudo := false
		if a := b.Body.Attributes["sudo"]; a != nil {
			v, diags := a.Expr.Value(nil)
			sudo = diags.HasErrors() || v.Type() == cty.Bool && v.IsKnown() && !v.IsNull() && v.True()
		}
		if o.sudo && !sudo {
			return specFile{}, fmt.Errorf("spec %q in %s has no sudo = true: write it there, or choose another spec by -spec", o.spec, o.file)
		}
		return specFile{b}, nil
	}
	return specFile{}, nil
}

// unknown parts what the spec does not have yet from what it has.
func (f specFile) unknown(asks []specs.Ask) (unknown, known []specs.Ask) {
	for _, a := range asks {
		has := f.block != nil && slices.ContainsFunc(f.block.Body.Blocks, func(b *hclsyntax.Block) bool {
			return b.Type == a.Resource && (len(b.Labels) == 1 && b.Labels[0] == a.Subject || len(b.Labels) == 0 && a.Subject == "")
		})
		if has {
			known = append(known, a)
		} else {
			unknown = append(unknown, a)
		}
	}
	return unknown, known
}

// writeSpecFile adds the blocks to the spec in the file, or prints a spec of them.
func (c *cli) writeSpecFile(ctx context.Context, o addOptions, blocks []*hclwrite.Block) error {
	if o.file == "" {
		text, err := addBlocks(nil, o, blocks)
		if err == nil {
			_, err = c.out.Write(text)
		}
		return err
	}
	mode := os.FileMode(0o644)
	if info, err := os.Stat(o.file); err == nil {
		mode = info.Mode().Perm()
	}
	n := 0
	err := atomicfile.Update(ctx, o.file, mode, func(old []byte) ([]byte, error) {
		// Another may have added meanwhile.
		var file specFile
		if old != nil {
			var err error
			if file, err = parseSpecFile(old, o); err != nil {
				return nil, err
			}
		}
		left := slices.DeleteFunc(slices.Clone(blocks), func(b *hclwrite.Block) bool {
			a := specs.Ask{Resource: b.Type()}
			if labels := b.Labels(); len(labels) == 1 {
				a.Subject = labels[0]
			}
			_, known := file.unknown([]specs.Ask{a})
			return len(known) > 0
		})
		n = len(left)
		if n == 0 {
			return old, nil
		}
		return addBlocks(old, o, left)
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", o.file, err)
	}
	what := "blocks"
	if n == 1 {
		what = "block"
	}
	fmt.Fprintf(c.err, "%d %s written to spec %q in %s.\n", n, what, o.spec, o.file)
	return nil
}

// addBlocks adds blocks to the spec in a file, and leaves all else as it is
// written. What comes of it is valid.
func addBlocks(old []byte, o addOptions, blocks []*hclwrite.Block) ([]byte, error) {
	f := hclwrite.NewEmptyFile()
	for _, b := range blocks {
		f.Body().AppendBlock(b)
	}
	var added strings.Builder
	for line := range strings.Lines(string(hclwrite.Format(f.Bytes()))) { // no value has several
		added.WriteString("  " + line)
	}
	var text []byte
	if file, err := parseSpecFile(old, o); err != nil {
		return nil, err
	} else if spec := file.block; spec != nil {
		open, end := spec.OpenBraceRange.End.Byte, spec.CloseBraceRange.Start.Byte
		before, after := old[:end], old[end:]
		if spec.OpenBraceRange.End.Line == spec.CloseBraceRange.Start.Line {
			inner := ""
			if in := bytes.TrimSpace(old[open:end]); len(in) > 0 {
				inner = "  " + string(in) + "\n"
			}
			before = append(slices.Clone(old[:open]), "\n"+inner...)
		} else if line := before[bytes.LastIndexByte(before, '\n')+1:]; len(bytes.TrimSpace(line)) == 0 {
			// The brace stands alone on its line, which is to stay so.
			before, after = before[:len(before)-len(line)], old[end-len(line):]
		} else {
			before = append(slices.Clone(before), '\n')
		}
		text = slices.Concat(before, []byte(added.String()), after)
	} else {
		text = slices.Clone(old)
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		if len(text) > 0 {
			text = append(text, '\n')
		}
		head := hclwrite.NewEmptyFile()
		b := head.Body().AppendNewBlock("spec", []string{o.spec})
		if o.sudo {
			b.Body().SetAttributeValue("sudo", cty.True)
		}
		opened := bytes.TrimSuffix(bytes.TrimSpace(hclwrite.Format(head.Bytes())), []byte("}"))
		text = append(append(append(text, opened...), added.String()...), "}\n"...)
	}
	if _, diags := hclsyntax.ParseConfig(text, "what would be written", hcl.InitialPos); diags.HasErrors() {
		return nil, diags
	}
	return text, nil
}
