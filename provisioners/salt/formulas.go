package salt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/provisioners"
)

// formula is a directory in a git repository.
type formula struct {
	repo, dir, ref string
}

// parseFormula reads "git::https://host/repo.git//dir?ref=v1".
func parseFormula(text string) (formula, error) {
	rest, ok := strings.CutPrefix(text, "git::")
	if !ok && !strings.Contains(text, ".git//") {
		return formula{}, errors.New("it must be a git address, such as git::https://host/repo.git//directory")
	}
	rest, query, _ := strings.Cut(rest, "?")
	scheme := ""
	if i := strings.Index(rest, "://"); i >= 0 {
		scheme, rest = rest[:i+3], rest[i+3:]
	}
	repo, dir, ok := strings.Cut(rest, "//")
	if dir = strings.Trim(dir, "/"); !ok || dir == "" {
		return formula{}, errors.New("it must name a directory of the repository behind //")
	}
	f := formula{repo: scheme + repo, dir: dir}
	values, err := url.ParseQuery(query)
	if err != nil {
		return formula{}, errors.New("what follows the ? cannot be read")
	}
	f.ref = values.Get("ref")
	for k := range values {
		if k != "ref" && k != "depth" {
			return formula{}, fmt.Errorf("the argument %q is not known, only ref is", k)
		}
	}
	switch {
	case repo == "" || strings.HasPrefix(f.repo, "-") || strings.Contains(f.repo, "::"):
		return formula{}, errors.New("the address of the repository is not usable")
	case !filepath.IsLocal(filepath.FromSlash(f.dir)) || path.Clean(f.dir) != f.dir || f.dir == ".":
		return formula{}, errors.New("the directory must stay inside the repository")
	case strings.HasPrefix(f.ref, "-"):
		return formula{}, errors.New("ref must not begin with -")
	}
	return f, nil
}

// fetch gets the formulas that the local state tree does not have. remove is
// to be called when the trees are not needed any more, also after an error.
func (o *Options) fetch(ctx context.Context, env *provisioners.Env, states string) (trees []*machine.Files, remove func(), err error) {
	remove = func() {}
	var temp string
	for i, text := range o.Formulas {
		f, err := parseFormula(text)
		if err != nil {
			return nil, remove, fmt.Errorf("formulas: entry %d: %w", i+1, err)
		}
		if _, err := os.Stat(filepath.Join(states, filepath.FromSlash(f.dir))); err == nil {
			env.Events.Say("The local state tree has the formula " + f.dir)
			continue
		}
		if temp == "" {
			if temp, err = os.MkdirTemp("", "ingot-formulas-"); err != nil {
				return nil, remove, err
			}
			remove = func() { os.RemoveAll(temp) }
		}
		env.Events.Say("Fetching the formula " + f.dir)
		into := filepath.Join(temp, fmt.Sprint(i))
		type git struct {
			does string
			args []string
		}
		calls := []git{{"clone", []string{"clone", "--quiet", "--", f.repo, into}}}
		if f.ref != "" {
			calls = append(calls, git{"checkout", []string{"-C", into, "-c", "advice.detachedHead=false", "checkout", "--quiet", f.ref, "--"}})
		}
		for _, c := range calls {
			var said bytes.Buffer
			cmd := exec.Command("git", c.args...)
			// Nobody can answer a question, and a formula runs no program here.
			cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=https:http:ssh:git:file")
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := local.Exec(ctx, cmd); err != nil {
				if ctx.Err() != nil {
					return nil, remove, ctx.Err()
				}
				return nil, remove, fmt.Errorf("formulas: entry %d: git %s: %w: %s", i+1, c.does, err, confmgmt.Clean(strings.TrimSpace(said.String())))
			}
		}
		dir, err := filepath.EvalSymlinks(filepath.Join(into, filepath.FromSlash(f.dir)))
		if err != nil {
			return nil, remove, fmt.Errorf("formulas: entry %d: the repository has no directory %s", i+1, f.dir)
		}
		root, err := filepath.EvalSymlinks(into)
		if err != nil {
			return nil, remove, err
		}
		if rel, err := filepath.Rel(root, dir); err != nil || !filepath.IsLocal(rel) {
			return nil, remove, fmt.Errorf("formulas: entry %d: the directory %s leads out of the repository", i+1, f.dir)
		}
		trees = append(trees, machine.DirTree(dir, path.Join("states", f.dir)))
	}
	return trees, remove, nil
}
