package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/rogpeppe/go-internal/diff"

	"github.com/ingotbuild/ingot/internal/atomicfile"
	"github.com/ingotbuild/ingot/templates"
	"github.com/ingotbuild/ingot/templates/functions"
)

// formatted are the endings of the files that fmt lays out.
var formatted = [...]string{".pkr.hcl", ".pkrvars.hcl", ".ingot.hcl"}

func fmtVerb() verb {
	return verb{
		name: "fmt", args: "PATH...", short: "Lay out templates and variable files in the canonical way",
		long: "PATH is a directory, a file that ends in .pkr.hcl, .pkrvars.hcl or .ingot.hcl, or - for standard input,\n" +
			"which goes to standard output. The names of files that were laid out otherwise are printed. JSON files are\n" +
			"left alone, and of a directory also hidden files and those that editors leave (x~, #x#).\n" +
			"With -check the exit status is 3 when there is something to lay out.",
		run: runFmt,
	}
}

type formatter struct {
	c                             *cli
	write, check, diff, recursive bool
	changed, failed               bool
}

func runFmt(ctx context.Context, c *cli, args []string) int {
	flags := c.flags()
	var tf templateFlags
	tf.add(flags)
	f := &formatter{c: c}
	flags.BoolVar(&f.check, "check", false, "write nothing; exit with 3 when something is to be laid out")
	flags.BoolVar(&f.diff, "diff", false, "show what changes")
	flags.BoolVar(&f.write, "write", true, "write the files")
	flags.BoolVar(&f.recursive, "recursive", false, "go into the directories below, too")
	rest, err := c.parseTemplate(flags, &tf, args, 1, len(args))
	if err != nil {
		return code(err)
	}
	for _, path := range rest {
		info, err := os.Stat(path)
		switch {
		case path == "-":
			f.stdin(ctx)
		case err != nil:
			f.fail(err)
		case info.IsDir():
			f.directory(ctx, path)
		case !isFormatted(path):
			f.fail(fmt.Errorf("format %s: its name ends in none of %s", path, strings.Join(formatted[:], ", ")))
		default:
			f.file(path)
		}
	}
	switch {
	case f.failed:
		return exitFailed
	case f.check && f.changed:
		return exitUnformatted
	}
	return exitOK
}

func isFormatted(path string) bool {
	return slices.ContainsFunc(formatted[:], func(ending string) bool { return strings.HasSuffix(path, ending) })
}

// fail says what went wrong with one file; the others are still seen to.
func (f *formatter) fail(err error) {
	f.failed = true
	f.c.fail(err)
}

func (f *formatter) stdin(ctx context.Context) {
	src, err := readSource(f.c.stdin(ctx))
	if err != nil {
		f.fail(fmt.Errorf("read standard input: %w", err))
		return
	}
	if out, ok := f.format("<stdin>", src); ok && !f.check {
		if _, err := f.c.out.Write(out); err != nil {
			f.fail(err)
		}
	}
}

func (f *formatter) directory(ctx context.Context, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.fail(err)
		return
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case ctx.Err() != nil:
			f.fail(ctx.Err())
			return
		case strings.HasPrefix(name, "."), strings.HasSuffix(name, "~"), strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#"):
		case e.IsDir() && f.recursive:
			f.directory(ctx, filepath.Join(dir, name))
		case !e.IsDir() && isFormatted(name):
			f.file(filepath.Join(dir, name))
		}
	}
}

func (f *formatter) file(path string) {
	src, mode, err := readFile(path)
	if err != nil {
		f.fail(err)
		return
	}
	out, ok := f.format(path, src)
	if !ok || bytes.Equal(src, out) {
		return
	}
	fmt.Fprintln(f.c.out, path)
	if f.diff {
		d := diff.Diff("old/"+path, src, "new/"+path, out)
		_, d, _ = bytes.Cut(d, []byte("\n")) // the command line that makes such a diff
		fmt.Fprintf(f.c.out, "%s", d)
	}
	if f.check || !f.write {
		return
	}
	if err := replaceFile(path, mode, out); err != nil {
		f.fail(err)
	}
}

// format lays out source that parses; it has said what is wrong with any other.
func (f *formatter) format(name string, src []byte) ([]byte, bool) {
	if err := functions.CheckSource(src); err != nil {
		f.fail(fmt.Errorf("format %s: %w", name, err))
		return nil, false
	}
	file, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if diags.HasErrors() {
		f.failed = true
		f.c.remark(&templates.Template{Files: map[string]*hcl.File{name: file}}, diags, true)
		return nil, false
	}
	out := templates.Format(src)
	f.changed = f.changed || !bytes.Equal(src, out)
	return out, true
}

// readSource reads a bit more than what is accepted as source.
func readSource(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, functions.MaxSource+1))
}

func readFile(path string) ([]byte, fs.FileMode, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	src, err := readSource(file)
	return src, info.Mode().Perm(), err
}

// replaceFile gives a file new content; where path is a link, the file it leads to.
func replaceFile(path string, mode fs.FileMode, content []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, mode, func(w io.Writer) error {
		if file, ok := w.(*os.File); ok { // whatever the umask
			if err := file.Chmod(mode); err != nil {
				return err
			}
		}
		_, err := w.Write(content)
		return err
	})
}
