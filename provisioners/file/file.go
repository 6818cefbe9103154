// Package file puts files on the machine, or gets files from it.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "file"` block. Either content, or
// source or sources, must be set.
type Options struct {
	// Source is a file or directory, relative to the working directory, or, for
	// a download, on the machine. Of a directory whose path ends in / only what
	// stands in it is meant, otherwise the directory itself. A download's source
	// may contain the wildcards *, ? and [ ].
	Source string `cfg:"source"`
	// Sources are more of these. All of them go to the one destination.
	Sources []string `cfg:"sources"`
	// Content is the text of the file to put on the machine, with mode 0600.
	Content string `cfg:"content"`
	// Destination is the place on the machine or, for a download, on this host.
	// A file is put into a destination that ends in /, and otherwise takes its
	// name; a directory is always put into it. Missing directories are made.
	Destination string `cfg:"destination,required"`
	// Direction is `upload` or `download`.
	Direction string `cfg:"direction"`
	// Generated says that the sources come into being only during the bake, so
	// that it is no error when they are missing beforehand.
	Generated bool `cfg:"generated"`
}

// Provisioner is the file provisioner.
type Provisioner struct{ o Options }

// New returns a file provisioner with the default options.
func New() *Provisioner { return &Provisioner{Options{Direction: "upload"}} }

var _ provisioners.Provisioner = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

func (o *Options) sources() []string {
	all := append([]string(nil), o.Sources...)
	if o.Source != "" {
		all = append(all, o.Source)
	}
	return all
}

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	var problems []config.Problem
	bad := func(option, summary string) {
		problems = append(problems, config.Problem{Option: option, Summary: summary})
	}
	o, sources := &p.o, p.o.sources()
	upload := o.Direction == "upload"
	if !upload && o.Direction != "download" {
		bad("direction", fmt.Sprintf("direction is %q: it must be upload or download.", o.Direction))
	}
	if o.Destination == "" {
		bad("destination", "destination is empty.")
	}
	switch {
	case o.Content == "" && len(sources) == 0:
		bad("", "There is nothing to transfer: source, sources or content must be set.")
	case o.Content != "" && len(sources) > 0:
		bad("content", "content cannot be used together with source or sources.")
	case o.Content != "" && !upload:
		bad("content", "content cannot be downloaded: use source.")
	case o.Content != "" && strings.HasSuffix(o.Destination, "/"):
		bad("destination", "content has no file name of its own, so destination must be one: it must not end in /.")
	}
	for i, source := range o.Sources {
		if source == "" {
			bad("sources", fmt.Sprintf("Entry %d of sources is empty.", i+1))
		}
	}
	if upload && !o.Generated && len(problems) == 0 && o.Content == "" {
		if _, err := plan(o, bake(env), strings.ReplaceAll(o.Destination, `\`, "/")); err != nil {
			problems = append(problems, config.Problem{Option: err.option, Summary: err.Error(), Detail: "Relative paths start in the working directory; ${path.root} names the template's. Set generated = true if the source comes into being during the bake."})
		}
	}
	return problems
}

func bake(env *provisioners.Env) script.Bake { return script.Bake{Dir: env.Dir} }

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	if m == nil {
		return fmt.Errorf("the file provisioner needs a machine: %w (communicator = \"none\"?)", machine.ErrNone)
	}
	if p.o.Direction == "download" {
		return p.download(ctx, env, m)
	}
	return p.upload(ctx, env, m)
}

func (p *Provisioner) upload(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	destination := p.o.Destination
	if m.Platform().OS == "windows" {
		destination = strings.ReplaceAll(destination, `\`, "/")
	}
	var up upload
	what := "the content"
	if p.o.Content != "" {
		up = upload{path.Dir(destination), machine.BytesTree(path.Base(destination), []byte(p.o.Content), 0o600)}
	} else {
		what = strings.Join(p.o.sources(), ", ")
		var err *sourceError
		if up, err = plan(&p.o, bake(env), destination); err != nil {
			return err
		}
	}
	env.Events.Say("Uploading " + what + " => " + p.o.Destination)
	up.tree.Progress = env.Events.Progress
	if err := m.Put(ctx, up.dir, up.tree); err != nil {
		return fmt.Errorf("upload %s to %s: %w", what, p.o.Destination, err)
	}
	return nil
}

// upload is one tree and the directory on the machine it goes to.
type upload struct {
	dir  string
	tree *machine.Files
}

type sourceError struct {
	option string
	error
}

func (e *sourceError) Unwrap() error { return e.error }

// plan makes one tree of all sources.
func plan(o *Options, b script.Bake, destination string) (upload, *sourceError) {
	into := strings.HasSuffix(destination, "/")
	var trees []*machine.Files
	files := 0
	for i, source := range o.sources() {
		option := "sources"
		if i == len(o.Sources) {
			option = "source"
		}
		local := b.Abs(source)
		info, err := os.Stat(local)
		if err != nil {
			return upload{}, &sourceError{option, fmt.Errorf("the source %q cannot be read: %w", source, err)}
		}
		// Abs loses the trailing slash, and gives "." a name that it must not have.
		slash := strings.HasSuffix(filepath.ToSlash(source), "/")
		base := filepath.Base(filepath.Clean(source))
		switch {
		case !info.IsDir():
			files++
			name := base
			if !into {
				name = path.Base(destination)
			}
			trees = append(trees, machine.FileTree(local, name))
		case slash || base == "." || base == "..":
			trees = append(trees, machine.DirTree(local, ""))
		default:
			trees = append(trees, machine.DirTree(local, base))
		}
	}
	dir := destination
	if files > 0 && !into {
		if len(trees) > 1 {
			return upload{}, &sourceError{"destination", fmt.Errorf("there are %d sources, so the destination %q must be a directory: let it end in /", len(trees), destination)}
		}
		dir = path.Dir(destination)
	}
	return upload{dir, machine.Join(trees...)}, nil
}

func (p *Provisioner) download(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	local := bake(env).Abs(p.o.Destination)
	into := strings.HasSuffix(filepath.ToSlash(p.o.Destination), "/")
	for _, source := range p.o.sources() {
		env.Events.Say("Downloading " + source + " => " + p.o.Destination)
		var err error
		switch {
		case strings.ContainsAny(source, "*?["):
			err = downloadMatches(ctx, m, source, local)
		case strings.HasSuffix(source, "/"):
			err = m.Get(ctx, source, machine.DirSink(local))
		default:
			name := path.Base(source)
			to := local
			if into {
				to = filepath.Join(local, name)
			}
			err = m.Get(ctx, source, machine.NamedFileSink(to, name))
		}
		if err != nil {
			return fmt.Errorf("download %s to %s: %w", source, p.o.Destination, err)
		}
	}
	return nil
}

// downloadMatches gets what the pattern stands for on the machine into the
// directory local: files, and directories as themselves.
func downloadMatches(ctx context.Context, m machine.Machine, pattern, local string) error {
	var out, stderr bytes.Buffer
	line := "for f in " + script.QuotePattern(pattern) + `; do if [ -d "$f" ]; then printf 'd%s\000' "$f"; elif [ -e "$f" ]; then printf 'f%s\000' "$f"; fi; done`
	if err := m.Run(ctx, machine.Command{Line: line, Stdout: &out, Stderr: &stderr}); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	found := 0
	for match := range strings.SplitSeq(out.String(), "\x00") {
		if match == "" {
			continue
		}
		kind, name := match[0], match[1:]
		base := path.Base(name)
		if base == "." || base == ".." { // a pattern such as .* finds them
			continue
		}
		if !filepath.IsLocal(base) {
			return fmt.Errorf("the machine named %q, which cannot be a file here", name)
		}
		into := local
		if kind == 'd' {
			into = filepath.Join(local, base)
		}
		if err := m.Get(ctx, name, machine.DirSink(into)); err != nil {
			return err
		}
		found++
	}
	if found == 0 {
		return errors.New("nothing on the machine matches")
	}
	return nil
}
