// Package confmgmttest is what the tests of the configuration management
// provisioners share: machines, and a record of events.
package confmgmttest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Start boots a machine on this host's own system, without a network. The
// test's TestMain calls sandbox.Reexec.
func Start(t *testing.T) machine.Machine {
	t.Helper()
	sandboxtest.Need(t)
	if os.Getuid() != 0 || sandbox.InUserNamespace() {
		sandboxtest.Missing(t, "a machine on this host's system needs root")
	}
	id := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()))
	m, err := sandbox.Start(t.Context(), sandbox.Config{
		ID: fmt.Sprintf("%.40s-%d", id, os.Getpid()), Dir: t.TempDir(), Layers: []string{sandbox.HostBase}, Network: sandbox.NetworkNone,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// Sh runs a command that must succeed, and returns what it printed, trimmed.
func Sh(t *testing.T, m machine.Machine, line string) string {
	t.Helper()
	var out bytes.Buffer
	if err := m.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, &out)
	}
	return strings.TrimSpace(out.String())
}

// Program puts an executable shell script into the machine's PATH.
func Program(t *testing.T, m machine.Machine, name, text string) {
	t.Helper()
	if err := m.Put(t.Context(), "/usr/local/bin", machine.BytesTree(name, []byte("#!/bin/sh\n"+text), 0o755)); err != nil {
		t.Fatal(err)
	}
}

// Processes fails the test if a process of the machine has the pattern in its command line.
func Processes(t *testing.T, m machine.Machine, pattern string) {
	t.Helper()
	if got := Sh(t, m, "for p in /proc/[0-9]*; do tr '\\000' ' ' <$p/cmdline 2>/dev/null; echo; done 2>/dev/null | grep -E '"+pattern+"' | grep -v grep || true"); got != "" {
		t.Errorf("processes are left: %s", got)
	}
}

// Log keeps the text of events.
type Log struct {
	// Output, when set, is told each text.
	Output func(string)

	mu   sync.Mutex
	text strings.Builder
}

// Emit implements event.Sink.
func (l *Log) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(string(e.Kind) + ": " + e.Text + "\n")
	if l.Output != nil {
		l.Output(e.Text)
	}
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Env makes a working directory with the files, and an Env whose events are kept.
func Env(t *testing.T, files map[string]string) (*provisioners.Env, *Log) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		sandboxtest.Write(t, dir, name, text, 0o644)
	}
	l := &Log{}
	return &provisioners.Env{BuildName: "web", BuilderType: "sandbox", Dir: dir, Events: event.Scope{Sink: l}}, l
}

// Check fails the test if the provisioner finds a problem.
func Check(t *testing.T, p provisioners.Provisioner, env *provisioners.Env) {
	t.Helper()
	if problems := p.Check(t.Context(), env); problems != nil {
		t.Fatalf("Check: %+v", problems)
	}
}

// Problems are the options that a provisioner finds a problem with, warnings with a ?.
func Problems(t *testing.T, p provisioners.Provisioner, env *provisioners.Env) string {
	t.Helper()
	var out []string
	for _, problem := range p.Check(t.Context(), env) {
		if problem.Summary == "" {
			t.Errorf("a problem with %q says nothing", problem.Option)
		}
		option := problem.Option
		if problem.Warning {
			option += "?"
		}
		out = append(out, option)
	}
	return strings.Join(out, " ")
}

// Changes fails the test if the last run did not change that many things.
func Changes(t *testing.T, p provisioners.Idempotent, want int) {
	t.Helper()
	if n, known := p.Changes(); !known || n != want {
		t.Errorf("%d changes (known: %v), want %d", n, known, want)
	}
}

// Fails fails the test if the error is none, or lacks one of the texts.
func Fails(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
}
