// Package script is what the components that run scripts have in common:
// their environment, their text, and what an error says of their output.
package script

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/render"
)

// CheckTemplate reports whether text parses.
func CheckTemplate(option, text string) []config.Problem {
	if err := render.Check(text); err != nil {
		return []config.Problem{{Option: option, Summary: "The Go template in " + option + " cannot be parsed.", Detail: err.Error()}}
	}
	return nil
}

// Bake is what every script is told of its bake.
type Bake struct {
	BuildName, BuilderType string
	Dir                    string            // where relative paths start
	Values                 map[string]string // generated values
	Template               render.Env        // what {{timestamp}} and the like say
}

// Render renders the Go template text, which may name the generated values and
// extra. A name that is neither is an error.
func (b Bake) Render(text string, extra map[string]any) (string, error) {
	return render.String(text, b.data(extra), b.Template)
}

func (b Bake) data(extra map[string]any) map[string]any {
	data := make(map[string]any, len(b.Values)+len(extra))
	for k, v := range b.Values {
		data[k] = v
	}
	maps.Copy(data, extra)
	return data
}

// Abs makes a path of the template absolute.
func (b Bake) Abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	abs, err := filepath.Abs(filepath.Join(b.Dir, path))
	if err != nil {
		return path // the working directory is gone, as the next use of path will say
	}
	return abs
}

// Env is a script's environment as a template gives it.
type Env struct {
	List []string          // environment_vars: "NAME=value"
	Map  map[string]string // env: wins over List
	// Format is a fmt format of name and value; empty: Default, which quotes for sh.
	Format, Default string
}

// Check reports malformed variables and formats.
func (e Env) Check() []config.Problem {
	var problems []config.Problem
	bad := func(option, what string) {
		problems = append(problems, config.Problem{Option: option, Summary: what})
	}
	name := func(option, name string) {
		// Another format may be for something other than a shell, with other rules.
		if name == "" || e.Format == "" && !identifier.MatchString(name) {
			bad(option, fmt.Sprintf("%q is no name of an environment variable: letters, digits and _ only, and no digit first.", name))
		}
	}
	for i, kv := range e.List {
		if k, _, ok := strings.Cut(kv, "="); !ok {
			// The text may be a secret whose name was forgotten.
			bad("environment_vars", fmt.Sprintf("Entry %d of environment_vars is not of the form NAME=value.", i+1))
		} else {
			name("environment_vars", k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.Map)) {
		name("env", k)
	}
	if e.Format != "" && strings.Contains(fmt.Sprintf(e.Format, "k", "v"), "%!") {
		bad("env_var_format", fmt.Sprintf("env_var_format %q must have exactly two %%s: the variable's name and its value.", e.Format))
	}
	return problems
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// All is the whole environment: the built-in variables, then List, then Map.
func (e Env) All(b Bake) map[string]string {
	vars := map[string]string{"PACKER_BUILD_NAME": b.BuildName, "PACKER_BUILDER_TYPE": b.BuilderType}
	if addr := b.Values["PackerHTTPAddr"]; addr != "" {
		vars["PACKER_HTTP_ADDR"] = addr
		vars["PACKER_HTTP_IP"] = b.Values["PackerHTTPIP"]
		vars["PACKER_HTTP_PORT"] = b.Values["PackerHTTPPort"]
	}
	for _, kv := range e.List {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	maps.Copy(vars, e.Map)
	return vars
}

// Text is vars in the format, sorted by name. Single quotes in the values are
// escaped for sh, unless raw.
func (e Env) Text(vars map[string]string, raw bool) string {
	format := e.Format
	if format == "" {
		format = e.Default
	}
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		v := vars[k]
		if !raw {
			v = strings.ReplaceAll(v, "'", `'"'"'`)
		}
		fmt.Fprintf(&out, format, k, v)
	}
	return out.String()
}

// Inline joins lines into one script, each rendered with data.
func Inline(lines []string, b Bake) (string, error) {
	var out strings.Builder
	for i, line := range lines {
		text, err := b.Render(line, nil)
		if err != nil {
			return "", fmt.Errorf("inline line %d: %w", i+1, err)
		}
		out.WriteString(text + "\n")
	}
	return out.String(), nil
}

// Source is what scripts a block names, and how they are run.
type Source struct {
	Inline  []string
	Script  string
	Scripts []string
	// Execute is execute_command.
	Execute string
}

// Check reports what can be known to be wrong before the bake.
func (s Source) Check(b Bake, e Env) []config.Problem {
	problems := CheckOne(map[string]bool{"inline": len(s.Inline) > 0, "script": s.Script != "", "scripts": len(s.Scripts) > 0})
	if s.Script != "" {
		problems = append(problems, b.CheckFiles("script", []string{s.Script})...)
	}
	problems = append(problems, b.CheckFiles("scripts", s.Scripts)...)
	problems = append(problems, e.Check()...)
	problems = append(problems, CheckTemplate("execute_command", s.Execute)...)
	for _, line := range s.Inline {
		problems = append(problems, CheckTemplate("inline", line)...)
	}
	return problems
}

// CheckFiles reports scripts that cannot be read.
func (b Bake) CheckFiles(option string, paths []string) []config.Problem {
	var problems []config.Problem
	for i, p := range paths {
		problem := config.Problem{Option: option}
		info, err := os.Stat(b.Abs(p))
		switch {
		case p == "":
			problem.Summary = fmt.Sprintf("Entry %d of %s is empty.", i+1, option)
		case err != nil:
			problem.Summary = fmt.Sprintf("The script %q cannot be read.", p)
			problem.Detail = fmt.Sprintf("%v. Relative paths start in the working directory; ${path.root} names the template's.", err)
		case info.IsDir():
			problem.Summary = fmt.Sprintf("The script %q is a directory.", p)
		default:
			continue
		}
		problems = append(problems, problem)
	}
	return problems
}

// Tail passes events on and keeps the last 20 lines of output, for an error to
// show. Up to 10 of them are kept for stderr: the two streams race, and what
// went wrong must not be pushed out by what went on.
type Tail struct {
	Next event.Sink

	mu     sync.Mutex
	lines  []event.Event
	stderr int
}

const (
	tailLines  = 20
	tailStderr = 10
)

// Emit implements event.Sink.
func (t *Tail) Emit(e event.Event) {
	if e.Kind == event.Output {
		t.mu.Lock()
		t.keep(e)
		t.mu.Unlock()
	}
	if t.Next != nil {
		t.Next.Emit(e)
	}
}

func (t *Tail) keep(e event.Event) {
	t.lines = append(t.lines, e)
	if e.Stream == "stderr" {
		t.stderr++
	}
	if len(t.lines) <= tailLines {
		return
	}
	drop := 0
	if t.stderr <= tailStderr {
		drop = slices.IndexFunc(t.lines, func(e event.Event) bool { return e.Stream != "stderr" })
	}
	if t.lines[drop].Stream == "stderr" {
		t.stderr--
	}
	t.lines = slices.Delete(t.lines, drop, drop+1)
}

// String is the lines, each on a line of its own, below a heading. Without
// output it says so.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return "; it printed nothing"
	}
	out := "; its last lines were:"
	for _, e := range t.lines {
		out += "\n    " + e.Text
	}
	return out
}

// ExitFailure is the error of a script that ended with a status that is not allowed.
func ExitFailure(what string, status int, allowed []int, tail *Tail) error {
	return fmt.Errorf("%s ended with exit status %d, allowed is %s%s", what, status, strings.Trim(fmt.Sprint(allowed), "[]"), tail)
}

// CheckOne reports whether not exactly one of the options is set.
func CheckOne(set map[string]bool) []config.Problem {
	var given []string
	names := slices.Sorted(maps.Keys(set))
	for _, name := range names {
		if set[name] {
			given = append(given, name)
		}
	}
	switch len(given) {
	case 1:
		return nil
	case 0:
		return []config.Problem{{Summary: "There is nothing to run: one of " + strings.Join(names, ", ") + " must be set."}}
	}
	return []config.Problem{{Option: given[1], Summary: strings.Join(given, " and ") + " are set, but only one of " + strings.Join(names, ", ") + " may be."}}
}

// Pause waits for d, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
