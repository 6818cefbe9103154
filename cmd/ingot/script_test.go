package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/registry"
)

// The command line as people use it. Beside testscript's own words the scripts have
//
//	exits N ARGS…    run ingot, which must exit with status N
//	nothing-created  neither a machine nor an image nor a bake is there
//	events           the last standard output is JSON lines, each an event
//	[bake]           this host can bake on its own system
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv(asProgram, "1")
			e.Setenv("INGOT_HOME", filepath.Join(e.WorkDir, ".home"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "bake" {
				return false, fmt.Errorf("no condition %q", cond)
			}
			return canBake(t)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":           exits,
			"nothing-created": nothingCreated,
			"events":          events,
		},
	})
}

// canBake says whether a sandbox with base "host" works here, as it must in CI.
func canBake(t *testing.T) (bool, error) {
	why := ""
	for _, f := range sandbox.Probe(t.Context()) {
		if f.Need && !f.OK {
			why = f.What + ": " + f.Text
		}
	}
	if why == "" && os.Geteuid() != 0 {
		why = `base "host" needs root`
	}
	if why != "" && os.Getenv("CI") == "true" {
		return false, errors.New(why)
	}
	return why == "", nil
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: exits N ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("ingot", args[1:]...)
	have := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		have = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if have != want {
		ts.Fatalf("exit status %d, want %d", have, want)
	}
}

func nothingCreated(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("! nothing-created is not supported")
	}
	home := ts.Getenv("INGOT_HOME")
	for _, dir := range []string{"machines", "images/images", "images/blobs", "images/layers", "images/tmp"} {
		err := filepath.WalkDir(filepath.Join(home, dir), func(p string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				ts.Fatalf("%s has been created", p)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		ts.Check(err)
	}
	db := filepath.Join(home, "registry.db")
	if _, err := os.Stat(db); errors.Is(err, fs.ErrNotExist) {
		return
	}
	ctx := context.Background()
	store, err := registry.Open(ctx, db)
	ts.Check(err)
	defer store.Close()
	images, err := store.Images(ctx)
	ts.Check(err)
	bakes, err := store.OpenBakes(ctx)
	ts.Check(err)
	leases, err := store.OpenLeases(ctx)
	ts.Check(err)
	if len(images)+len(bakes)+len(leases) > 0 {
		ts.Fatalf("created: %d images, %d bakes, %d leases", len(images), len(bakes), len(leases))
	}
}

func events(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("! events is not supported")
	}
	n := 0
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var e event.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			ts.Fatalf("no JSON: %v: %s", err, line)
		}
		if e.Kind == "" || e.Time.IsZero() {
			ts.Fatalf("no event: %s", line)
		}
		n++
	}
	if n == 0 {
		ts.Fatalf("no events")
	}
}
