package bake_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/provisioners"
)

// ensure writes a line into a file on the machine, when it is not there, and
// can tell and prove that it did.
type ensure struct {
	o struct {
		Path string `cfg:"path,required"`
		// Always writes it again each time. Mute does not tell what happened.
		Always bool `cfg:"always"`
		Mute   bool `cfg:"mute"`
		// Once breaks when the file is there already.
		Once  bool   `cfg:"once"`
		Proof string `cfg:"proof"`
	}
	changes int
}

func (e *ensure) Options() any { return &e.o }

func (e *ensure) Check(context.Context, *provisioners.Env) []config.Problem { return nil }

func (e *ensure) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	if m == nil {
		return machine.ErrNone
	}
	var out strings.Builder
	f := machine.Quote(e.o.Path)
	line := "grep -qs line " + f + " || { echo line >>" + f + " && echo changed; }"
	if e.o.Always {
		line = "echo line >>" + f + "; echo changed"
	}
	if e.o.Once {
		line = "[ ! -e " + f + " ] || exit 7; " + line
	}
	err := m.Run(ctx, machine.Command{Line: line, Stdout: &out})
	e.changes = strings.Count(out.String(), "changed")
	return err
}

func (e *ensure) Changes() (int, bool) { return e.changes, !e.o.Mute }

func (e *ensure) Proof() []byte { return []byte(e.o.Proof) }

func ensureWorld(t *testing.T) *world {
	w := newWorld(t)
	w.machine = local.Machine{Dir: t.TempDir()}
	w.more = map[string]func() provisioners.Provisioner{"ensure": func() provisioners.Provisioner { return &ensure{} }}
	return w
}

func TestIdempotent(t *testing.T) {
	for name, tc := range map[string]struct {
		options, source string
		flag            bool
		err             string // in the bake's error; empty: it succeeds
		says            string
		runs            int // of the provisioner
	}{
		"not asked for":            {options: "always = true", runs: 1},
		"idempotent":               {options: "idempotent = true", says: "the second run changed nothing", runs: 1},
		"not idempotent":           {options: "idempotent = true\nalways = true", err: "not idempotent: the second run changed 1 thing(s)", runs: 2},
		"by the flag":              {options: "always = true", flag: true, err: "not idempotent: the second run changed 1 thing(s)", runs: 2},
		"unknown is no pass":       {options: "idempotent = true\nmute = true", err: "cannot be said whether the second run changed anything", runs: 1},
		"the second run breaks":    {options: "idempotent = true\nonce = true", err: "ran well once, but not a second time: exit status 7", runs: 1},
		"no try makes it good":     {options: "idempotent = true\nalways = true\nmax_retries = 3", err: "not idempotent", runs: 2},
		"the template may go on":   {options: "idempotent = true\nalways = true\ncontinue_on_error = true", says: "the template says to go on: it is not idempotent", runs: 2},
		"no machine, no second":    {options: "idempotent = true", source: "headless = true", err: machine.ErrNone.Error()},
		"false is as if not there": {options: "idempotent = false\nalways = true", runs: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := ensureWorld(t)
			res := w.bake(build(tc.source, "provisioner \"ensure\" {\npath = \"f\"\n"+tc.options+"\n}\n"), bake.Options{CheckIdempotent: tc.flag})
			if tc.err == "" && res.Err != nil || tc.err != "" && (res.Err == nil || !strings.Contains(res.Err.Error(), tc.err)) {
				t.Errorf("error %v, want one with %q", res.Err, tc.err)
			}
			if (res.Artifact == nil) != (tc.err != "") {
				t.Errorf("artifact %v with error %v", res.Artifact, res.Err)
			}
			if !strings.Contains(w.said(), tc.says) {
				t.Errorf("said %q, want %q in it", w.said(), tc.says)
			}
			if tc.runs == 0 {
				return
			}
			var out strings.Builder
			if err := w.machine.Run(t.Context(), machine.Command{Line: "grep -c line f", Stdout: &out}); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(out.String()); got != fmt.Sprint(tc.runs) {
				t.Errorf("the line was written %s times, want %d", got, tc.runs)
			}
		})
	}
}

// The flag passes over what cannot tell, and says so; the attribute does not.
func TestIdempotentWithoutAccount(t *testing.T) {
	w := ensureWorld(t)
	res := w.bake(build("", `
		provisioner "ensure" { path = "f" }
		provisioner "do" {
			name = "it"
			say  = "one"
		}
		error-cleanup-provisioner "do" { say = "cleanup" }`), bake.Options{CheckIdempotent: true})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	if n := strings.Count(strings.Join(w.diary, "\n"), "do one"); n != 1 {
		t.Errorf("what cannot tell ran %d times", n)
	}
	if want := "cannot tell whether they change anything: do it\n"; !strings.Contains(w.said(), want) {
		t.Errorf("said %q, want %q in it", w.said(), want)
	}

	plan := w.plan(build("", "provisioner \"do\" {\nsay = \"one\"\nidempotent = true\n}\n"))
	diags, refused := bake.Check(t.Context(), plan, bake.CheckOptions{Components: w.components(), Dir: "."})
	if len(refused) != 1 || len(diags) != 1 || !strings.Contains(diags.Error(), "A do provisioner cannot be checked for idempotence") || diags[0].Subject == nil {
		t.Errorf("Check says %v", diags)
	}
	plan = w.plan(build("", "provisioner \"ensure\" {\npath = \"f\"\nidempotent = true\n}\n"))
	if diags, _ := bake.Check(t.Context(), plan, bake.CheckOptions{Components: w.components(), Dir: "."}); len(diags) > 0 {
		t.Errorf("Check says %v", diags)
	}
}

// The second run has the step's timeout for itself.
func TestIdempotentTimeout(t *testing.T) {
	w := ensureWorld(t)
	runs := 0
	w.machine = runner{w.machine, func(ctx context.Context) error {
		if runs++; runs == 1 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	res := w.bake(build("", "provisioner \"ensure\" {\npath = \"f\"\nidempotent = true\ntimeout = \"1s\"\n}\n"), bake.Options{})
	if res.Err == nil || !strings.Contains(res.Err.Error(), "the step's timeout of 1s is over") || runs != 2 {
		t.Errorf("after %d runs: %v", runs, res.Err)
	}
	w.nothingLeft("failed")
}

// runner does something before each command.
type runner struct {
	machine.Machine
	before func(context.Context) error
}

func (r runner) Run(ctx context.Context, c machine.Command) error {
	return errors.Join(r.before(ctx), r.Machine.Run(ctx, c))
}

func TestProof(t *testing.T) {
	for name, tc := range map[string]struct {
		proof, err string
		reports    int
	}{
		"green":        {proof: "command \"cat f\" {\n its \"stdout\" { eq = \"line\" }\n}\n", reports: 1},
		"red":          {proof: "command \"cat f\" {\n its \"stdout\" { eq = \"another\" }\n}\n", err: `spec "ensure" is red, so there will be no image: 1 of 1 checks failed`},
		"none":         {},
		"no such spec": {proof: "colour \"red\" {}", err: "which is a mistake in Ingot"},
		"no language":  {proof: "{", err: "which is a mistake in Ingot"},
	} {
		t.Run(name, func(t *testing.T) {
			w := ensureWorld(t)
			res := w.bake(build("", fmt.Sprintf("provisioner \"ensure\" {\npath = \"f\"\nproof = %q\n}\n", tc.proof)), bake.Options{})
			if tc.err == "" && res.Err != nil || tc.err != "" && (res.Err == nil || !strings.Contains(res.Err.Error(), tc.err)) {
				t.Errorf("error %v, want one with %q", res.Err, tc.err)
			}
			if tc.err != "" {
				w.nothingLeft("failed")
				if n := len(w.versions("web")); n != 0 {
					t.Errorf("there are %d versions", n)
				}
				return
			}
			summary := string(w.versions("web")[0].SpecSummary)
			if n := strings.Count(summary, `"spec":"ensure"`); n != tc.reports {
				t.Errorf("the version has %d reports of the proof, want %d: %s", n, tc.reports, summary)
			}
		})
	}
}
