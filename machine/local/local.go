// Package local is this host as a machine, and the way to run child processes
// on it that end with their context.
package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/machine"
)

// Machine is this host.
type Machine struct {
	// Dir is where commands run and relative paths start; empty: the current directory.
	Dir string
}

var (
	_ machine.Dialer    = Machine{}
	_ machine.Addressed = Machine{}
)

// DialContext implements machine.Dialer.
func (m Machine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// Address implements machine.Addressed.
func (m Machine) Address() string { return "127.0.0.1" }

// Run implements machine.Machine, by sh (Windows: cmd).
func (m Machine) Run(ctx context.Context, c machine.Command) error {
	cmd := shell(c.Line)
	cmd.Dir = m.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.Env = os.Environ()
	for k, v := range c.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return Exec(ctx, cmd)
}

// Put implements machine.Machine.
func (m Machine) Put(ctx context.Context, dst string, tree machine.Tree) error {
	return machine.Copy(ctx, tree, machine.TrustedDirSink(m.abs(dst)))
}

// Get implements machine.Machine.
func (m Machine) Get(ctx context.Context, src string, into machine.Sink) error {
	path := m.abs(src)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return machine.Copy(ctx, machine.DirTree(path, ""), into)
	}
	return machine.Copy(ctx, machine.FileTree(path, filepath.Base(path)), into)
}

func (m Machine) abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(m.Dir, path)
}

// Platform implements machine.Machine.
func (m Machine) Platform() machine.Platform {
	return machine.Platform{OS: runtime.GOOS, Family: family(), Arch: runtime.GOARCH, Shell: shellName}
}

func family() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if id, ok := strings.CutPrefix(lines.Text(), "ID="); ok {
			return strings.Trim(id, `"'`)
		}
	}
	return ""
}

// Close implements machine.Machine. There is nothing to close.
func (m Machine) Close() error { return nil }

const (
	// grace is what a process group gets between the request to end and its end.
	grace = 2 * time.Second
	// linger is how long output is awaited from processes that outlive the
	// command, such as a daemon that it started.
	linger = 5 * time.Second
)

// Exec runs cmd in a process group of its own. When ctx ends, the group and all
// that came of it is asked to end, is killed 2 seconds later, and ctx's error is
// returned. An
// unsuccessful end gives a *machine.ExitError; any other error means that the
// command could not be started or its output not be written. cmd must not have
// been made with a context.
func Exec(ctx context.Context, cmd *exec.Cmd) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Where a child dies with its parent, it dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	group(cmd)
	cmd.WaitDelay = linger

	// Wait would wait for the end of Stdin, even after that of the command.
	var stdin io.WriteCloser
	in := cmd.Stdin
	if _, isFile := in.(*os.File); in != nil && !isFile {
		cmd.Stdin = nil
		var err error
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		if stdin != nil {
			stdin.Close()
		}
		return err
	}
	if stdin != nil {
		go func() {
			// It fails when the command does not want all of it.
			_, _ = io.Copy(stdin, in)
			stdin.Close()
		}()
	}
	waited := make(chan struct{})
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		end := ending(cmd)
		end.ask()
		select {
		case <-waited:
		case <-time.After(grace):
		}
		end.kill()
	})
	err := cmd.Wait()
	close(waited)
	if !stop() {
		<-killed
		return ctx.Err()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &machine.ExitError{Status: status(exit.ProcessState)}
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	return nil
}
