package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/term"

	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/templates"
	"github.com/ingotbuild/ingot/templates/functions"
)

func consoleVerb() verb {
	return verb{
		name: "console", args: "[TEMPLATE]", short: "Evaluate expressions with what a template declares",
		long: "From a terminal each line is evaluated as it comes. From anything else all lines are, and the result of\n" +
			"the last one is printed; the exit status is 1 when one of them is wrong.",
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			var tf templateFlags
			tf.add(fs)
			rest, err := c.parseTemplate(fs, &tf, args, 0, 1)
			if err != nil {
				return code(err)
			}
			tf.evaluateData = true
			t, diags := templates.Inspect(tf.options(ctx, append(rest, "")[0]))
			if diags.HasErrors() {
				c.diagnose(t, diags, tf.color)
				return exitFailed
			}
			c.remark(t, diags, tf.color)
			s := &session{c: c, t: t, mask: report.Mask(t.Secrets()), color: tf.color}
			if term.IsTerminal(int(c.in.Fd())) {
				return s.interactive(ctx)
			}
			return s.piped(c.stdin(ctx))
		},
	}
}

const consoleHelp = `Type an expression and press Enter to see its value. It may refer to what the
template declares: var.NAME, local.NAME, and to path.root, path.cwd,
packer.version and every function: upper(var.region).

  variables   shows the variables and locals with their values
  exit        ends the console, as Ctrl-D does

Go templates such as {{timestamp}} are not rendered here.`

// session is one run of the console.
type session struct {
	c     *cli
	t     *templates.Template
	mask  func(string) string
	color bool
}

// eval returns what is shown for a line. Findings have been shown when ok is false.
func (s *session) eval(line string) (text string, ok bool) {
	switch line = strings.TrimSpace(line); line {
	case "", "exit":
		return "", true
	case "help":
		return consoleHelp, true
	case "variables":
		return s.mask(valuesText(s.t)), true
	}
	const name = "<console-input>"
	s.t.Files[name] = &hcl.File{Bytes: []byte(line)} // for the snippet
	v, diags := s.t.Evaluate(line, name)
	if len(diags) > 0 {
		s.c.diagnose(s.t, diags, s.color)
	}
	if diags.HasErrors() {
		return "", false
	}
	return s.mask(valueText(v)), true
}

// piped evaluates all lines and prints the last result, as Packer does: an
// expression is often worked out with the lines before it.
func (s *session) piped(in io.Reader) int {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, functions.MaxSource)
	status, last := exitOK, ""
	for lines.Scan() {
		text, ok := s.eval(lines.Text())
		if !ok {
			status = exitFailed
		}
		last = text
	}
	if err := lines.Err(); err != nil {
		return s.c.fail(fmt.Errorf("read standard input: %w", err))
	}
	fmt.Fprintln(s.c.out, last)
	return status
}

// interactive reads lines from the terminal, which can be edited and recalled.
func (s *session) interactive(ctx context.Context) int {
	fd := int(s.c.in.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return s.c.fail(fmt.Errorf("prepare the terminal: %w", err))
	}
	defer term.Restore(fd, state)
	screen := struct {
		io.Reader
		io.Writer
	}{s.c.stdin(ctx), os.Stdout}
	t := term.NewTerminal(screen, "> ")
	if width, height, err := term.GetSize(fd); err == nil {
		_ = t.SetSize(width, height) // it stays at 80 × 24
	}
	return s.converse(t)
}

// converse answers lines until exit or the end of the input. On a raw terminal
// Ctrl-C is that end, too.
func (s *session) converse(t *term.Terminal) int {
	s.c.out = t // it knows how lines end on a raw terminal
	for {
		line, err := t.ReadLine()
		if errors.Is(err, io.EOF) || strings.TrimSpace(line) == "exit" {
			return exitOK
		}
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			return s.c.fail(fmt.Errorf("read the terminal: %w", err))
		}
		if text, ok := s.eval(line); ok && text != "" {
			fmt.Fprintln(t, text)
		}
	}
}
