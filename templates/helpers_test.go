package templates

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/tools/txtar"
)

// load writes the files of a txtar archive to a directory and loads it. Text
// without file markers is one file, t.pkr.hcl. Paths in o start there.
func load(t testing.TB, archive string, o Options) (*Template, hcl.Diagnostics) {
	t.Helper()
	dir := t.TempDir()
	a := txtar.Parse([]byte(archive))
	if len(a.Files) == 0 {
		a.Files = []txtar.File{{Name: "t.pkr.hcl", Data: []byte(archive)}}
	}
	for _, f := range a.Files {
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.Path = filepath.Join(dir, o.Path)
	var files []string
	for _, f := range o.VarFiles {
		files = append(files, filepath.Join(dir, f))
	}
	o.VarFiles = files
	return Load(o)
}

// mustLoad is load for templates that are right.
func mustLoad(t testing.TB, archive string, o Options) *Template {
	t.Helper()
	template, diags := load(t, archive, o)
	if diags.HasErrors() {
		t.Fatal(text(template, diags))
	}
	return template
}

func mustPlan(t testing.TB, archive string, s Selection) *Plan {
	t.Helper()
	plan, diags := mustLoad(t, archive, Options{}).Plan(s)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return plan
}

// text is what a person gets to read.
func text(template *Template, diags hcl.Diagnostics) string {
	var b strings.Builder
	if err := WriteDiagnostics(&b, template.Files, diags, 0, false); err != nil {
		return err.Error()
	}
	return b.String()
}

// expect checks that there is one finding and that it says all of want and
// points at the line, if line is not 0.
func expect(t *testing.T, template *Template, diags hcl.Diagnostics, severity hcl.DiagnosticSeverity, line int, want ...string) {
	t.Helper()
	if len(diags) != 1 {
		t.Fatalf("%d findings, want 1:\n%s", len(diags), text(template, diags))
	}
	d := diags[0]
	if d.Severity != severity {
		t.Errorf("severity %d, want %d", d.Severity, severity)
	}
	if line > 0 && (d.Subject == nil || d.Subject.Start.Line != line) {
		t.Errorf("points at %v, want line %d", d.Subject, line)
	}
	for _, w := range want {
		if all := d.Summary + "\n" + d.Detail; !strings.Contains(all, w) {
			t.Errorf("does not say %q:\n%s", w, all)
		}
	}
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
