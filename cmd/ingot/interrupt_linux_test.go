package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A verb that only looks ends at the first signal, although what it waits for
// cannot be broken off: a template that nobody writes.
func TestLookingEndsAtOnce(t *testing.T) {
	for _, verb := range []string{"validate", "inspect", "init"} {
		t.Run(verb, func(t *testing.T) {
			dir := t.TempDir()
			pipe := filepath.Join(dir, "t.pkr.hcl")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd := exec.CommandContext(t.Context(), self(t), verb, dir)
			cmd.Env = append(os.Environ(), asProgram+"=1", "INGOT_HOME="+t.TempDir())
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // when it is being read
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitFailed || out.String() != "terminated\n" {
				t.Errorf("%v: %s", err, out.String())
			}
		})
	}
}
