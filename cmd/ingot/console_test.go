package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/term"

	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/templates"
)

// What is typed, with the keys that edit a line, and what stands on the screen.
func TestConsoleConverses(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"t.pkr.hcl": declarations})
	const up, left = "\x1b[A", "\x1b[D"
	for _, c := range []struct {
		name, typed string
		want, not   string
	}{
		{"a value", "var.plain\r", "\r\nx\r\n", ""},
		{"several lines, each answered", "1 + 1\r2 + 2\r", "\r\n4\r\n", ""},
		{"a line edited", "1 + 1" + left + "2\r", "\r\n22\r\n", ""},
		{"a line recalled", "3 * 3\r" + up + " + 1\r", "\r\n10\r\n", ""},
		{"a mistake, and then on", "1 +\r2 + 3\r", "\r\n5\r\n", ""},
		{"a mistake is shown", "nonsense(1)\r", "Error: Call to unknown function", ""},
		{"help", "help\r", "variables   shows", ""},
		{"variables", "variables\r", `var.plain: "x"`, ""},
		{"a secret", "var.secret\r", "<sensitive>", "hunter2"},
		{"exit ends it", "exit\r7 * 7\r", "> exit", "49"},
		{"Ctrl-C ends it", "\x037 * 7\r", "> ", "49"},
		{"Ctrl-D ends it", "\x047 * 7\r", "> ", "49"},
		{"an empty line", "\r1 + 2\r", "\r\n3\r\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			template, diags := templates.Inspect(templates.Options{Path: dir})
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			var screen bytes.Buffer
			s := &session{c: &cli{err: io.Discard}, t: template, mask: report.Mask(template.Secrets())}
			status := s.converse(term.NewTerminal(struct {
				io.Reader
				io.Writer
			}{strings.NewReader(c.typed), &screen}, "> "))
			if status != exitOK {
				t.Errorf("exit status %d", status)
			}
			if !strings.Contains(screen.String(), c.want) {
				t.Errorf("%q is not on the screen:\n%q", c.want, screen.String())
			}
			if c.not != "" && strings.Contains(screen.String(), c.not) {
				t.Errorf("%q is on the screen:\n%q", c.not, screen.String())
			}
		})
	}
}

// Whoever waits for standard input is set free by Ctrl-C.
func TestStdinEndsWithTheContext(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	in := (&cli{in: r}).stdin(ctx)
	if _, err := w.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2)
	if n, err := io.ReadFull(in, buf); n != 2 || err != nil || string(buf) != "ab" {
		t.Fatalf("%d %v %q", n, err, buf)
	}
	if n, err := in.Read(buf); n != 1 || err != nil || buf[0] != 'c' {
		t.Fatalf("%d %v %q", n, err, buf)
	}
	cancel()
	if n, err := in.Read(buf); n != 0 || !errors.Is(err, context.Canceled) {
		t.Fatalf("%d %v", n, err)
	}
}
