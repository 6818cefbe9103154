// Package checksum writes checksum files of an artifact's files.
package checksum

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/atomicfile"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/postprocessors"
)

// Options are the options of a `post-processor "checksum"` block.
type Options struct {
	// ChecksumTypes are any of md5, sha1, sha224, sha256, sha384, sha512. Default: md5.
	ChecksumTypes []string `cfg:"checksum_types"`
	// Output is the checksum file, a Go template with {{ .BuildName }},
	// {{ .BuilderType }} and {{ .ChecksumType }}. It has one line per file: the
	// sum in hexadecimal digits, a tab, the file's base name. An earlier line
	// for the same file is replaced.
	Output string `cfg:"output" render:"late" vars:"BuildName BuilderType ChecksumType"`
}

func newHash(kind string) hash.Hash {
	switch kind {
	case "md5":
		return md5.New()
	case "sha1":
		return sha1.New()
	case "sha224":
		return sha256.New224()
	case "sha256":
		return sha256.New()
	case "sha384":
		return sha512.New384()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// PostProcessor is the checksum post-processor.
type PostProcessor struct{ o Options }

// New returns a checksum post-processor with the default options.
func New() *PostProcessor {
	return &PostProcessor{Options{Output: "packer_{{.BuildName}}_{{.BuilderType}}_{{.ChecksumType}}.checksum"}}
}

var _ postprocessors.PostProcessor = (*PostProcessor)(nil)

// Options implements postprocessors.PostProcessor.
func (p *PostProcessor) Options() any { return &p.o }

// Check implements postprocessors.PostProcessor.
func (p *PostProcessor) Check(context.Context, *postprocessors.Env) []config.Problem {
	problems := script.CheckTemplate("output", p.o.Output)
	if p.o.Output == "" {
		problems = append(problems, config.Problem{Option: "output", Summary: "output is empty: it must name the checksum file."})
	}
	for _, kind := range p.o.ChecksumTypes {
		if newHash(kind) == nil {
			problems = append(problems, config.Problem{Option: "checksum_types", Summary: fmt.Sprintf("%q is none of the checksum types md5, sha1, sha224, sha256, sha384, sha512.", kind)})
		}
	}
	return problems
}

// Process implements postprocessors.PostProcessor. The new artifact has the
// checksum files as well as the input's; the input is always kept.
func (p *PostProcessor) Process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, bool, error) {
	out, err := p.process(ctx, env, in)
	if err != nil {
		return nil, true, fmt.Errorf("checksum: %w", err)
	}
	return out, true, nil
}

func (p *PostProcessor) process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, error) {
	if len(in.Files) == 0 {
		env.Events.Warn("The artifact has no local files, so there is nothing to make a checksum of")
		return in, nil
	}
	kinds := p.o.ChecksumTypes
	if len(kinds) == 0 {
		kinds = []string{"md5"}
	}
	dir := script.Bake{Dir: env.Dir, Values: in.Values, Template: env.Template}
	outputs := map[string]string{} // by type
	for _, kind := range kinds {
		name, err := dir.Render(p.o.Output, map[string]any{"BuildName": env.BuildName, "BuilderType": env.BuilderType, "ChecksumType": kind})
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		outputs[kind] = name
	}
	lines := map[string][]string{} // by output
	for _, file := range in.Files {
		sums, err := sum(ctx, dir.Abs(file), kinds)
		if err != nil {
			return nil, err
		}
		base := filepath.Base(file)
		if strings.ContainsAny(base, "\n\r") {
			return nil, fmt.Errorf("the file name %q has a line break, which a checksum file cannot hold", base)
		}
		for i, kind := range kinds {
			lines[outputs[kind]] = append(lines[outputs[kind]], sums[i]+"\t"+base)
		}
	}
	out := *in
	out.BuilderID = "packer.post-processor.checksum"
	out.Files = slices.Clone(in.Files)
	made := slices.Sorted(maps.Keys(lines))
	for _, name := range made {
		path := dir.Abs(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		err := atomicfile.Update(ctx, path, 0o644, func(old []byte) ([]byte, error) { return merge(old, lines[name]), nil })
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		out.Files = append(out.Files, name)
	}
	out.Destroy = func(ctx context.Context) error {
		var errs []error
		for _, name := range made {
			if err := os.Remove(dir.Abs(name)); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if in.Destroy != nil {
			errs = append(errs, in.Destroy(ctx))
		}
		return errors.Join(errs...)
	}
	return &out, nil
}

// merge adds lines to old, without the old lines for the same files and types.
// Several bakes may share one file.
func merge(old []byte, lines []string) []byte {
	// The length of the sum tells the type.
	key := func(line string) string {
		sum, name, _ := strings.Cut(line, "\t")
		return fmt.Sprint(len(sum), name)
	}
	replaced := map[string]bool{}
	for _, line := range lines {
		replaced[key(line)] = true
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(old)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" && !replaced[key(line)] {
			out.WriteString(line + "\n")
		}
	}
	for _, line := range lines {
		out.WriteString(line + "\n")
	}
	return out.Bytes()
}

// sum makes all sums in one read.
func sum(ctx context.Context, path string, kinds []string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hashes := make([]hash.Hash, len(kinds))
	writers := make([]io.Writer, len(kinds))
	for i, kind := range kinds {
		if hashes[i] = newHash(kind); hashes[i] == nil {
			return nil, fmt.Errorf("unknown checksum type %q", kind)
		}
		writers[i] = hashes[i]
	}
	if _, err := io.Copy(io.MultiWriter(writers...), reader{ctx, f}); err != nil {
		return nil, err
	}
	sums := make([]string, len(kinds))
	for i, h := range hashes {
		sums[i] = fmt.Sprintf("%x", h.Sum(nil))
	}
	return sums, nil
}

type reader struct {
	ctx context.Context
	f   *os.File
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}
