//go:build unix

package specs

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/ingotbuild/ingot/machine"
)

// local runs commands on this host, or in a directory as its root.
type local struct {
	machine.Machine
	shell string // what stands for sh; empty is the host's own
	root  string
	edit  func(string) string // changes each command line

	mu    sync.Mutex
	lines []string // every command line and script so far
}

func (l *local) Platform() machine.Platform { return machine.Platform{OS: "linux", Shell: "sh"} }

func (l *local) Run(ctx context.Context, c machine.Command) error {
	l.mu.Lock()
	l.lines = append(l.lines, c.Line)
	l.mu.Unlock()
	if l.edit != nil {
		c.Line = l.edit(c.Line)
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", c.Line)
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	if c.Stdin != nil {
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() { // it ends with the command, or with what is read
			_, _ = io.Copy(stdin, c.Stdin)
			stdin.Close()
		}()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Chroot: l.root}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // in which a busy host reads what is there
	cmd.Env = os.Environ()
	if l.shell != "" {
		cmd.Env = append(cmd.Env, "PATH="+l.shell+":"+os.Getenv("PATH"))
	}
	if l.root != "" {
		cmd.Path, cmd.Err, cmd.Dir, cmd.Env = "/bin/sh", nil, "/", []string{"PATH=/bin"}
	}
	err := cmd.Start()
	if err == nil { // what it has left in the background is ended too
		defer context.AfterFunc(ctx, func() { _ = cmd.Cancel() })()
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return &machine.ExitError{Status: exit.ExitCode()}
	}
	return err
}

// shells gives a machine for every shell that the script has to work with.
func shells(t *testing.T) map[string]*local {
	t.Helper()
	out := map[string]*local{"host": {}}
	for _, name := range []string{"dash", "bash", "busybox"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Run(name, func(t *testing.T) { need(t, name) })
			continue
		}
		dir := t.TempDir()
		if err := os.Symlink(path, filepath.Join(dir, "sh")); err != nil { // bash is POSIX when it is called sh
			t.Fatal(err)
		}
		out[name] = &local{shell: dir}
	}
	return out
}

// compile compiles the inside of a spec block.
func compile(t testing.TB, src string) *Spec {
	t.Helper()
	f, diags := hclparse.NewParser().ParseHCL([]byte(src), "web.spec.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	s, diags := Compile(f.Body, nil, "web")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return s
}

// run runs a spec that has to be answered in full.
func run(t testing.TB, m machine.Machine, src string) *Report {
	t.Helper()
	s := compile(t, src)
	patient(s)
	r, err := s.Run(t.Context(), m, RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
