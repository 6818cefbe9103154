package main

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/docgen"
	"github.com/ingotbuild/ingot/rollouts"
)

//go:generate go test -run ^TestReference$ -args -update

var update = flag.Bool("update", false, "write the reference pages instead of comparing them")

// Every component has its options on a page, as the code has them.
func TestReference(t *testing.T) {
	t.Setenv("INGOT_HOME", t.TempDir())
	comps, err := components()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join("..", "..")
	pages := docgen.New(root)
	want := map[string]string{}
	add := func(page, heading string, component, options any) {
		text, err := pages.Component(component, options)
		if err != nil {
			t.Fatal(err)
		}
		want[page] += heading + text
	}
	for _, name := range slices.Sorted(maps.Keys(comps.Builders)) {
		b := comps.Builders[name]()
		add(name+".md", "\n# Builder "+name+"\n\n", b, b.Options())
	}
	want["provisioners.md"] = provisionersHead
	for _, name := range slices.Sorted(maps.Keys(comps.Provisioners)) {
		p := comps.Provisioners[name]()
		add("provisioners.md", "\n## "+name+"\n\n", p, p.Options())
	}
	want["post-processors.md"] = postProcessorsHead
	for _, name := range slices.Sorted(maps.Keys(comps.PostProcessors)) {
		p := comps.PostProcessors[name]()
		add("post-processors.md", "\n## "+name+"\n\n", p, p.Options())
	}
	want["data-sources.md"] = dataSourcesHead
	sources := dataSources()
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		s := sources[name]()
		add("data-sources.md", "\n## "+name+"\n\n", s, s.Options())
	}
	cfg := rollouts.NewConfig("")
	text, err := pages.Options(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	want["rollout.md"] = "\n# Block rollout\n\nHow a service is run; [the guide](../rollouts.md) says what happens with it.\n\n" + text

	want["commands.md"] = commandsPage(t)

	dir := filepath.Join(root, "docs", "reference")
	if *update {
		for page, text := range want {
			if err := os.WriteFile(filepath.Join(dir, page), []byte(docgen.Notice+text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	for page, text := range want {
		have, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || strings.ReplaceAll(string(have), "\r\n", "\n") != docgen.Notice+text {
			t.Errorf("docs/reference/%s does not say what the code says (%v): run `go generate ./cmd/ingot`", page, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if want[e.Name()] == "" {
			t.Errorf("docs/reference/%s describes nothing that there is", e.Name())
		}
	}
}

const provisionersHead = `
# Provisioners

A provisioner block in a build changes the machine. Blocks run in the order of the template. Beside its own options each
one takes these:

- **` + "`name`" + `** is shown in what Ingot prints. (string)
- **` + "`only`" + `** and **` + "`except`" + `** name the sources, as ` + "`type.name`" + `, for which the block runs, or does not. (list of string)
- **` + "`pause_before`" + `** is waited before each try. (duration)
- **` + "`timeout`" + `** bounds each try, the pause not counted. (duration)
- **` + "`max_retries`" + `** is how often a failed block is run again. Default: ` + "`0`" + `. (number)
- **` + "`continue_on_error`" + `** lets the bake go on when the block has failed. Packer does not know it. (bool)
- **` + "`idempotent`" + `** runs the block a second time right after the first, and fails when anything changed. It is refused for
  provisioners that cannot tell. ` + "`ingot build -check-idempotent`" + ` does it for all that can. Packer does not know it. (bool)
- **` + "`override`" + `** has options for one source, by its name: ` + "`{ web = { script = \"web.sh\" } }`" + `. (object)

One ` + "`error-cleanup-provisioner`" + ` block in a build is run on the machine when a step has failed.
`

const dataSourcesHead = `
# Data sources

A ` + "`data`" + ` block reads something while the template is evaluated: ` + "`data \"http\" \"key\" { url = … }`" + ` is then
` + "`data.http.key`" + `. ` + "`ingot build`" + ` and ` + "`ingot console`" + ` read data; ` + "`ingot validate`" + ` does with
` + "`-evaluate-datasources`" + `, and otherwise leaves alone what depends on it. Data and locals may refer to each other.
`

const postProcessorsHead = `
# Post-processors

A post-processor block in a build works on the finished image. Each block starts from what the bake made; the blocks in
one ` + "`post-processors`" + ` block are a chain, in which each starts from what the one before it made. A post-processor that
fails fails the bake, but never removes the image. Beside its own options each one takes these:

- **` + "`name`" + `** is shown in what Ingot prints, and can stand in ` + "`-except`" + `. (string)
- **` + "`only`" + `** and **` + "`except`" + `** name the sources, as ` + "`type.name`" + `, for which the block runs, or does not. (list of string)
- **` + "`keep_input_artifact`" + `** keeps the files that the block has made others of. The post-processors below keep
  them anyway. (bool)
`
