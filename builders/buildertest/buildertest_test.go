package buildertest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
)

// cloud is a platform in memory; fault names the one thing that its builders do wrong.
type cloud struct {
	fault string
	mu    sync.Mutex
	vms   map[string]string // name to bake
}

func (c *cloud) has(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.vms[name]
	return ok
}

func (c *cloud) set(name, bake string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vms[name] = bake
}

type builder struct {
	*cloud
	opts struct {
		Size string `cfg:"size"`
	}
}

func (b *builder) Options() any { return &b.opts }

func (b *builder) Check(context.Context, *builders.CheckEnv) []config.Problem {
	if b.opts.Size == "huge" && b.fault != "accepts anything" {
		return []config.Problem{{Option: "size", Summary: "There is no such size"}}
	}
	return nil
}

func (b *builder) Boot(ctx context.Context, run *builders.Run) (machine.Machine, error) {
	name := "vm-" + run.BakeID
	if b.fault == "creates before the lease" {
		b.set(name, run.BakeID)
	}
	if _, err := run.Leases.Intend(ctx, "vm", name, nil); err != nil && b.fault != "creates without a lease" {
		return nil, err
	}
	b.set(name, run.BakeID)
	if b.fault == "creates in secret" {
		if _, err := run.Leases.Intend(ctx, "disk", name+"-disk", nil); err != nil {
			return nil, err
		}
		b.set(name+"-disk", run.BakeID)
	}
	run.Values["ID"] = name
	return &vm{}, ctx.Err()
}

func (b *builder) Snapshot(ctx context.Context, run *builders.Run) (*builders.Artifact, error) {
	if ctx.Err() != nil && b.fault != "ignores its context" {
		return nil, ctx.Err()
	}
	a := &builders.Artifact{BuilderID: "cloud", ID: "img", Text: "img", Places: []builders.Place{{Platform: "cloud", ID: "img"}}}
	if b.fault == "is nowhere" {
		a.Places = nil
	}
	return a, nil
}

func (b *builder) Release(_ context.Context, l builders.Lease) error {
	switch {
	case b.fault == "creates in secret" && l.Kind == "disk":
		return nil
	case b.fault == "releases once" && !b.has(l.Name):
		return errors.New("there is no " + l.Name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.vms, l.Name)
	return nil
}

func (b *builder) Orphans(_ context.Context, olderThan time.Duration) (found []builders.Lease, err error) {
	if b.fault == "finds no orphans" || olderThan > time.Minute {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, bake := range b.vms {
		found = append(found, builders.Lease{BakeID: bake, Kind: "vm", Name: name})
	}
	return found, nil
}

// vm understands just what the suite says to it.
type vm struct{ file bytes.Buffer }

func (*vm) Platform() machine.Platform {
	return machine.Platform{OS: "linux", Arch: "amd64", Shell: "sh"}
}
func (*vm) Close() error { return nil }

func (*vm) Run(ctx context.Context, c machine.Command) error {
	switch {
	case c.Line == "exit 7":
		return &machine.ExitError{Status: 7}
	case strings.Contains(c.Line, "sleep"):
		_, _ = io.WriteString(c.Stdout, "up\n")
		<-ctx.Done()
		return ctx.Err()
	}
	_, err := io.WriteString(c.Stdout, "one\ntwo\n")
	return err
}

func (v *vm) Put(ctx context.Context, _ string, tree machine.Tree) error {
	return tree.WriteTar(ctx, &v.file)
}

func (v *vm) Get(ctx context.Context, _ string, into machine.Sink) error {
	return into.ReadTar(ctx, &v.file)
}

const faultEnv = "INGOT_TEST_FAULT"

func TestGoodBuilder(t *testing.T) {
	c := &cloud{fault: os.Getenv(faultEnv), vms: map[string]string{}}
	buildertest.Run(t, buildertest.Options{
		New:    func() builders.Builder { return &builder{cloud: c} },
		Exists: func(l builders.Lease) bool { return c.has(l.Name) },
		Bad:    []buildertest.Bad{{Name: "size", Config: `size = "huge"`, Option: "size"}},
	})
}

// A builder with a fault does not pass.
func TestFaultyBuilders(t *testing.T) {
	for fault, says := range map[string]string{
		"creates before the lease": "exists before its lease is in the ledger",
		"creates without a lease":  "the ledger has failed, and the bake succeeds",
		"creates in secret":        "-disk exists after its release",
		"ignores its context":      "a snapshot whose context had ended made",
		"is nowhere":               "the artifact is in no place",
		"releases once":            "there is no vm-",
		"finds no orphans":         "Orphans does not find the machine",
		"accepts anything":         `want a problem with "size"`,
	} {
		t.Run(fault, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGoodBuilder$")
			cmd.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), says) {
				t.Errorf("the suite, %v, does not say %q:\n%s", err, says, out)
			}
		})
	}
}
