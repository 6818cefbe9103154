//go:build unix

package local_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/machine/machinetest"
)

func TestMachine(t *testing.T) {
	machinetest.Run(t, func() machine.Machine { return local.Machine{} })
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	m := local.Machine{Dir: dir}
	if err := m.Put(t.Context(), "sub", machine.BytesTree("f", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context(), machine.Command{Line: "mv sub/f g"}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := m.Get(t.Context(), "g", machine.FileSink(out)); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(out); string(b) != "x" {
		t.Errorf("got %q", b)
	}
}

// A process that left the group and keeps the output open delays, but does not
// hold up, the end; what the command itself printed is there.
func TestOutputHeldOpenByADaemon(t *testing.T) {
	setsid, err := exec.LookPath("setsid")
	if err != nil {
		skip(t, "setsid is missing (util-linux)")
	}
	var out strings.Builder
	start := time.Now()
	err = local.Machine{}.Run(t.Context(), machine.Command{Line: setsid + " sleep 60 & echo $! said", Stdout: &out})
	if err != nil {
		t.Error(err)
	}
	pid, said, _ := strings.Cut(strings.TrimSpace(out.String()), " ")
	if n, err := strconv.Atoi(pid); err == nil {
		_ = syscall.Kill(n, syscall.SIGKILL)
	}
	if said != "said" || time.Since(start) > 30*time.Second {
		t.Errorf("output %q after %v", out.String(), time.Since(start))
	}
}

const helperEnv = "INGOT_TEST_LOCAL_HELPER"

// TestChildDiesWithUs kills a process that runs a command, without warning.
func TestChildDiesWithUs(t *testing.T) {
	if os.Getenv(helperEnv) != "" {
		err := local.Exec(context.Background(), &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "echo $$; exec sleep 1000"}, Stdout: os.Stdout})
		t.Fatalf("the command ended: %v", err)
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self, "-test.run=^TestChildDiesWithUs$")
	parent.Env = append(os.Environ(), helperEnv+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatalf("the helper said %q", line)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends when the last process that holds it, the child, is gone.
	ended := make(chan struct{})
	go func() { io.Copy(io.Discard, out); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the child outlives its parent")
	}
	_ = parent.Wait()
}

func TestExecCannotStart(t *testing.T) {
	err := local.Exec(t.Context(), &exec.Cmd{Path: "/no/such/program", Stdin: strings.NewReader("x")})
	if _, ok := errors.AsType[*machine.ExitError](err); err == nil || ok {
		t.Errorf("error %v, want one that is no exit status", err)
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
