package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/ingotbuild/ingot/internal/atomicfile"
	"github.com/ingotbuild/ingot/templates"
	"github.com/ingotbuild/ingot/templates/functions"
	"github.com/ingotbuild/ingot/templates/legacy"
)

// acceptTemplateFlags: Packer takes these everywhere, also where they do nothing.
func acceptTemplateFlags(fs *flag.FlagSet) {
	for _, name := range []string{"var", "var-file", "only", "except", "config-type"} {
		fs.Var(&list{}, name, "accepted for Packer's users, without effect (`text`)")
	}
}

func upgradeVerb() verb {
	return verb{
		name: "hcl2_upgrade", args: "TEMPLATE.json", short: "Translate a legacy JSON template into HCL",
		long: "The HCL is written to TEMPLATE.json.pkr.hcl, or where -output-file says; a file that is there is replaced.",
		run: func(_ context.Context, c *cli, args []string) int {
			fs := c.flags()
			acceptTemplateFlags(fs)
			output := fs.String("output-file", "", "the `file` to write; default: the template's name with .pkr.hcl")
			annotated := fs.Bool("with-annotations", false, "add comments that explain the HCL")
			rest, err := c.parse(fs, args, 1, 1)
			if err != nil {
				return code(err)
			}
			src, err := readLegacy(rest[0])
			if err != nil {
				return c.fail(err)
			}
			text, diags := legacy.Upgrade(src, rest[0], *annotated)
			c.showLegacy(rest[0], src, diags)
			if diags.HasErrors() {
				return exitFailed
			}
			if *output == "" {
				*output = rest[0] + ".pkr.hcl"
			}
			err = atomicfile.Write(*output, 0o644, func(w io.Writer) error {
				_, err := w.Write(text)
				return err
			})
			if err != nil {
				return c.fail(fmt.Errorf("write the HCL: %w", err))
			}
			fmt.Fprintf(c.out, "Wrote %s.\n", *output)
			return exitOK
		},
	}
}

func fixVerb() verb {
	return verb{
		name: "fix", args: "TEMPLATE.json", short: "Migrate outdated spellings in a legacy JSON template",
		long: "The migrated template is written to standard output, what was changed to standard error.",
		run: func(_ context.Context, c *cli, args []string) int {
			fs := c.flags()
			acceptTemplateFlags(fs)
			validate := fs.Bool("validate", true, "check the structure of the migrated template")
			rest, err := c.parse(fs, args, 1, 1)
			if err != nil {
				return code(err)
			}
			src, err := readLegacy(rest[0])
			if err != nil {
				return c.fail(err)
			}
			text, diags := legacy.Fix(src, rest[0])
			c.showLegacy(rest[0], src, diags)
			if diags.HasErrors() {
				return exitFailed
			}
			if *validate {
				// Without the values of variables, which fix is not given.
				t, diags := templates.Load(templates.Options{Path: "-", Stdin: bytes.NewReader(text), SyntaxOnly: true})
				if diags.HasErrors() {
					writeDiagnostics(c.err, t.Files, diags)
					return c.fail(fmt.Errorf("the template is not valid after the migration either; -validate=false writes it all the same"))
				}
			}
			if _, err := c.out.Write(text); err != nil {
				return c.fail(fmt.Errorf("write the template: %w", err))
			}
			return exitOK
		},
	}
}

// readLegacy reads a legacy template, with a plain word for what is HCL.
func readLegacy(path string) ([]byte, error) {
	if strings.HasSuffix(path, ".hcl") || strings.HasSuffix(path, ".pkr.json") || strings.HasSuffix(path, ".ingot.json") {
		return nil, fmt.Errorf("%s is in the HCL2 language already; this command takes legacy JSON templates", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, functions.MaxSource+1))
	if err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	return src, nil
}

// showLegacy writes findings to standard error; standard output may be the template.
func (c *cli) showLegacy(name string, src []byte, diags hcl.Diagnostics) {
	writeDiagnostics(c.err, map[string]*hcl.File{name: {Bytes: src}}, diags)
}

func writeDiagnostics(w io.Writer, files map[string]*hcl.File, diags hcl.Diagnostics) {
	if err := templates.WriteDiagnostics(w, files, diags, 80, false); err != nil {
		fmt.Fprintln(w, "Error:", err)
	}
}

// keepStdin puts what stands on standard input into a file without a name, so
// that this program can read it again when it runs itself in a user namespace.
func (c *cli) keepStdin() error {
	f, err := os.CreateTemp("", "ingot-stdin-")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if _, err := io.Copy(f, io.LimitReader(c.in, functions.MaxSource+1)); err != nil {
		return err
	}
	c.in, os.Stdin = f, f
	return c.rewindStdin()
}

func (c *cli) rewindStdin() error {
	_, err := c.in.Seek(0, io.SeekStart)
	return err
}
