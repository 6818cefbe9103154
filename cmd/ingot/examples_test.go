package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Every example validates as it stands, and examples/README.md tells of it.
func TestExamples(t *testing.T) {
	dir := filepath.Join("..", "..", "examples")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		n++
		t.Run(e.Name(), func(t *testing.T) {
			if !strings.Contains(string(list), "("+e.Name()+"/)") {
				t.Errorf("examples/README.md has no link to %s/", e.Name())
			}
			cmd := exec.Command(os.Args[0], "validate", "examples/"+e.Name())
			cmd.Dir = filepath.Join("..", "..")
			cmd.Env = append(os.Environ(), asProgram+"=1", "INGOT_HOME="+t.TempDir())
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := string(out); got != "The configuration is valid.\n" {
				t.Errorf("validate says more than that all is well:\n%s", got)
			}
		})
	}
	if n == 0 {
		t.Fatal("there are no examples")
	}
}

// What README says to run first.
func TestQuickstart(t *testing.T) {
	ok, err := canBake(t)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.Skip("needs root and a host that can run a sandbox")
	}
	cmd := exec.Command(os.Args[0], "build", "examples/quickstart")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), asProgram+"=1", "INGOT_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"web: 9 passed, 0 failed", "web@v1: sha256:"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
}
