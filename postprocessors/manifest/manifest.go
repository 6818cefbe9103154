// Package manifest records what every bake made in a JSON file.
package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/atomicfile"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/postprocessors"
)

// Options are the options of a `post-processor "manifest"` block.
type Options struct {
	// Output is the file that the record is added to. With -force, what an
	// earlier run left there is dropped.
	Output string `cfg:"output"`
	// StripPath records base names instead of paths.
	StripPath bool `cfg:"strip_path"`
	// StripTime leaves out the time of the build.
	StripTime bool `cfg:"strip_time"`
	// CustomData is recorded as it is.
	CustomData map[string]string `cfg:"custom_data"`
}

// PostProcessor is the manifest post-processor.
type PostProcessor struct{ o Options }

// New returns a manifest post-processor with the default options.
func New() *PostProcessor { return &PostProcessor{Options{Output: "packer-manifest.json"}} }

var _ postprocessors.PostProcessor = (*PostProcessor)(nil)

// Options implements postprocessors.PostProcessor.
func (p *PostProcessor) Options() any { return &p.o }

// Check implements postprocessors.PostProcessor.
func (p *PostProcessor) Check(context.Context, *postprocessors.Env) []config.Problem {
	if p.o.Output == "" {
		return []config.Problem{{Option: "output", Summary: "output is empty: it must name the manifest's file."}}
	}
	return nil
}

// The names, their order and what is null or left out are Packer's.
type manifest struct {
	Builds      []json.RawMessage `json:"builds"`
	LastRunUUID string            `json:"last_run_uuid"`
}

type build struct {
	Name        string            `json:"name"`
	BuilderType string            `json:"builder_type"`
	BuildTime   int64             `json:"build_time,omitempty"`
	Files       []file            `json:"files"`
	ArtifactID  string            `json:"artifact_id"`
	RunUUID     string            `json:"packer_run_uuid"`
	CustomData  map[string]string `json:"custom_data"`
}

type file struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// Process implements postprocessors.PostProcessor. It returns its input, which is always kept.
func (p *PostProcessor) Process(ctx context.Context, env *postprocessors.Env, in *builders.Artifact) (*builders.Artifact, bool, error) {
	b := build{Name: env.BuildName, BuilderType: env.BuilderType, ArtifactID: in.ID, RunUUID: env.RunID, CustomData: p.o.CustomData}
	if !p.o.StripTime {
		b.BuildTime = time.Now().Unix()
	}
	dir := script.Bake{Dir: env.Dir}
	for _, name := range in.Files {
		info, err := os.Stat(dir.Abs(name))
		if err != nil {
			return nil, true, fmt.Errorf("manifest: look at the artifact's file: %w", err)
		}
		if p.o.StripPath {
			name = filepath.Base(name)
		}
		b.Files = append(b.Files, file{name, info.Size()})
	}
	record, err := json.Marshal(b)
	if err != nil {
		return nil, true, fmt.Errorf("manifest: %w", err)
	}
	output := dir.Abs(p.o.Output)
	err = os.MkdirAll(filepath.Dir(output), 0o755)
	if err == nil {
		err = atomicfile.Update(ctx, output, 0o664, func(old []byte) ([]byte, error) {
			var m manifest
			if len(old) > 0 {
				if err := json.Unmarshal(old, &m); err != nil {
					return nil, errors.Join(errors.New("what is in it is not a manifest; remove it, or choose another output"), err)
				}
			}
			if env.Force && m.LastRunUUID != env.RunID {
				m.Builds = nil
			}
			m.Builds, m.LastRunUUID = append(m.Builds, record), env.RunID
			return json.MarshalIndent(m, "", "  ")
		})
	}
	if err != nil {
		return nil, true, fmt.Errorf("write the manifest %s: %w", p.o.Output, err)
	}
	return in, true, nil
}
