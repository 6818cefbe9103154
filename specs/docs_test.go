package specs

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

//go:generate go test -run ^TestDocs$ -args -update

var update = flag.Bool("update", false, "write the tables of docs/specs.md instead of comparing them")

const (
	tableBegin = "<!-- Written by `go generate ./specs` from the code. Do not edit. -->\n"
	tableEnd   = "<!-- End of what is written. -->\n"
)

// The guide lists what a spec can say, as the code has it.
func TestDocs(t *testing.T) {
	name := filepath.Join("..", "docs", "specs.md")
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	src = bytes.ReplaceAll(src, []byte("\r\n"), []byte("\n"))
	parts := strings.Split(string(src), tableBegin)
	if len(parts) != 5 {
		t.Fatalf("%s has lost the marks between which the tables stand", name)
	}
	want := parts[0]
	for i, table := range []string{tables(), onWindows(), compatibility(t), gossTables()} {
		_, after, ok := strings.Cut(parts[i+1], tableEnd)
		if !ok {
			t.Fatalf("%s has lost the end of a table", name)
		}
		want += tableBegin + table + tableEnd + after
	}
	switch {
	case want == string(src):
	case *update:
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("docs/specs.md does not say what the code says: run `go generate ./specs`")
	}
}

// onWindows lists what a Windows machine can be asked.
func onWindows() string {
	var b strings.Builder
	b.WriteString("\n| Resource | On Windows |\n| --- | --- |\n")
	fits := func(k *kind, only string) bool { return only != "posix" && windowsKinds()[k.wider().name].script != "" }
	for _, r := range resources() {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(r.matchers)) {
			if m := r.matchers[name]; fits(m.kind, m.only) {
				words = append(words, "`"+name+"`")
			}
		}
		for _, name := range slices.Sorted(maps.Keys(r.attributes)) {
			if a := r.attributes[name]; fits(a.kind, a.only) {
				words = append(words, "`its "+name+"`")
			}
		}
		for _, prefix := range slices.Sorted(maps.Keys(r.paths)) {
			if a, err := r.paths[prefix].make("x"); err == nil && fits(a.kind, a.only) {
				words = append(words, "`its "+prefix+r.paths[prefix].rest+"`")
			}
		}
		if len(words) > 0 {
			fmt.Fprintf(&b, "| `%s` | %s |\n", r.name, strings.Join(words, ", "))
		}
	}
	return b.String() + "\n"
}

func tables() string {
	types := map[valueType]string{
		typeText: "text", typeOutput: "output", typeNumber: "number", typeOctal: "mode", typeVersion: "version", typeList: "list", typeAny: "any",
	}
	code := func(names []string) string {
		if len(names) == 0 {
			return ""
		}
		return "`" + strings.Join(names, "`, `") + "`"
	}
	var b strings.Builder
	b.WriteString("\n| Resource | Matchers | Attributes for `its` |\n| --- | --- | --- |\n")
	for _, r := range resources() {
		var attrs []string
		for _, name := range slices.Sorted(maps.Keys(r.attributes)) {
			attrs = append(attrs, fmt.Sprintf("`%s` (%s)", name, types[r.attributes[name].typ]))
		}
		for _, name := range r.pathNames() {
			attrs = append(attrs, "`"+name+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r.name, code(slices.Sorted(maps.Keys(r.matchers))), strings.Join(attrs, ", "))
	}
	b.WriteString("\n| Comparison | For attributes that are |\n| --- | --- |\n")
	all := comparisons()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var fit []string
		for _, typ := range all[name].types {
			fit = append(fit, types[typ])
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.Join(fit, ", "))
	}
	return b.String() + "\n"
}
