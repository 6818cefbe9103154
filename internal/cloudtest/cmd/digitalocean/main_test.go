//go:build linux

package main

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// asCommand makes the test's program the command.
const asCommand = "TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestCommand(t *testing.T) {
	sandboxtest.Need(t)
	t.Setenv("TMPDIR", t.TempDir())
	out := filepath.Join(t.TempDir(), "env")
	code, err := run(0, true, []string{"sh", "-c", "env >" + out + "; exit 7"})
	if err != nil || code != 7 {
		t.Errorf("exit status %d, %v", code, err)
	}
	env, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"DIGITALOCEAN_TOKEN=dop_v1_", "DIGITALOCEAN_API_URL=http://127.0.0.1:", "SPACES_ENDPOINT_URL=http://127.0.0.1:"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("the command's environment lacks %s", want)
		}
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := run(0, false, []string{filepath.Join(t.TempDir(), "missing")}); err == nil {
		t.Error("a command that is not there was run")
	}
}

func TestServing(t *testing.T) {
	sandboxtest.Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asCommand+"=1", "TMPDIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for lines := bufio.NewScanner(out); env["SPACES_ENDPOINT_URL"] == "" && lines.Scan(); {
		name, value, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		env[name] = strings.Trim(value, "'")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, env["DIGITALOCEAN_API_URL"]+"/v2/account", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+env["DIGITALOCEAN_TOKEN"])
	if resp, err := http.DefaultClient.Do(r); err != nil {
		t.Error(err)
	} else if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
