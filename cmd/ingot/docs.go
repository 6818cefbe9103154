package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/docs"
	"github.com/ingotbuild/ingot/internal/config"
)

func docsVerb() verb {
	return verb{
		name: "docs", args: "[TYPE]", short: "Print the reference page of a component or command, or list the pages",
		words: func() []string {
			all, _ := readPages() // without pages there are no words
			var types []string
			for _, p := range all {
				types = append(types, p.typ)
			}
			return slices.Compact(types)
		},
		run: func(_ context.Context, c *cli, args []string) int {
			rest, err := c.parse(c.flags(), args, 0, 1)
			if err != nil {
				return code(err)
			}
			all, err := readPages()
			if err != nil {
				return c.fail(err)
			}
			if len(rest) == 0 {
				for _, p := range all {
					fmt.Fprintf(c.out, "%-20s %s\n", p.typ, p.kind)
				}
				return exitOK
			}
			var types []string
			found := false
			for _, p := range all {
				types = append(types, p.typ)
				if p.typ != rest[0] {
					continue
				}
				if found {
					fmt.Fprintln(c.out)
				}
				found = true
				fmt.Fprintf(c.out, "# %s %s\n\n%s\n", p.kind, p.typ, p.text)
			}
			if !found {
				return c.fail(fmt.Errorf("there is no page on %q.%s `ingot docs` lists them", rest[0], config.DidYouMean(rest[0], types)))
			}
			return exitOK
		},
	}
}

// page is the reference of one component, block or command.
type page struct{ kind, typ, text string }

// readPages takes the reference apart, in the order of types: a page headed
// "# Kind type" is about one thing, any other about each of its "## type" sections.
func readPages() ([]page, error) {
	var pages []page
	kinds := map[string]string{"Provisioners": "Provisioner", "Post-processors": "Post-processor", "Commands": "Command"}
	err := fs.WalkDir(docs.Reference, "reference", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := docs.Reference.ReadFile(path)
		if err != nil {
			return err
		}
		_, text, ok := strings.Cut("\n"+string(raw), "\n# ")
		if !ok {
			return fmt.Errorf("the page %s has no heading", path)
		}
		head, text, _ := strings.Cut(text, "\n")
		if kind, typ, ok := strings.Cut(head, " "); ok {
			pages = append(pages, page{kind, typ, strings.TrimSpace(text)})
			return nil
		}
		for _, section := range strings.Split(text, "\n## ")[1:] {
			typ, text, _ := strings.Cut(section, "\n")
			pages = append(pages, page{cmp.Or(kinds[head], head), typ, strings.TrimSpace(text)})
		}
		return nil
	})
	slices.SortStableFunc(pages, func(a, b page) int { return strings.Compare(a.typ, b.typ) })
	return pages, err
}
