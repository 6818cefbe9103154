package main

import (
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/drift"
)

var (
	hclBlock  = regexp.MustCompile("(?s)```hcl\n(.*?)```")
	docBuild  = regexp.MustCompile(`(?m)^build \{`)
	docLink   = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	docSource = regexp.MustCompile(`(?m)^source "(\w+)" "(\w+)"`)
	docSpec   = regexp.MustCompile(`(?m)^spec "(\w+)"`)
	docHost   = regexp.MustCompile(`(?m)^host "\w+" \{\n  target`)
	docTest   = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)[`/]")
)

// What the documents show can be run, what they link to is there, and the
// tests that they name exist.
func TestDocuments(t *testing.T) {
	root := filepath.Join("..", "..")
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	templates, links, named := 0, 0, 0
	tests := testNames(t, root)
	for _, name := range append(docs, more...) {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(src), "\r\n", "\n")
		for _, m := range hclBlock.FindAllStringSubmatch(text, -1) {
			templates++
			validate(t, filepath.Base(name), m[1])
		}
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
		for _, m := range docTest.FindAllStringSubmatch(text, -1) {
			named++
			if !tests[m[1]] {
				t.Errorf("%s names %s, and there is no such test", name, m[1])
			}
		}
	}
	if templates < 4 || links < 10 || named < 20 {
		t.Errorf("only %d templates, %d links and %d tests were found in the documents", templates, links, named)
	}
}

// validate checks a template, or a fragment with what it lacks.
func validate(t *testing.T, doc, text string) {
	t.Helper()
	first, _, _ := strings.Cut(text, " ")
	inSource := "\nsource \"sandbox\" \"added\" {}\nbuild {\n  sources = [\"sandbox.added\"]\n"
	if docHost.MatchString(text) {
		inventory(t, doc, text)
		return
	}
	switch top := []string{"build", "source", "variable", "locals", "spec", "steps", "data", "packer", "rollout"}; {
	case docBuild.MatchString(text):
	case first == "provisioner":
		text = inSource + text + "}\n"
	case !slices.Contains(top, first): // checks, as they stand in a spec
		text = inSource + "spec \"fragment\" {\n" + text + "}\n}\n"
	default:
		add := inSource
		for _, m := range docSource.FindAllStringSubmatch(text, -1) {
			add += "  source \"" + m[1] + "." + m[2] + "\" {}\n"
		}
		for _, m := range docSpec.FindAllStringSubmatch(text, -1) {
			add += "  spec \"" + m[1] + "\" {}\n"
		}
		text += add + "}\n"
	}
	dir := t.TempDir()
	// What the examples name.
	for name, content := range map[string]string{
		"t.ingot.hcl": text, "ca.pem": certificate(t), "goss.yaml": "file: {/etc: {exists: true}}\n", "vars.yaml": "env: test\n", "site.yml": "- hosts: all\n", "site.pp": "node default {}\n", "modules/web/manifests/init.pp": "class web {}\n",
	} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "validate", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asProgram+"=1", "INGOT_HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "The configuration is valid.\n" {
		t.Errorf("a template in %s: %v\n%s\n%s", doc, err, out, text)
	}
}

// inventory checks an inventory of hosts.
func inventory(t *testing.T, doc, text string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"hosts.hcl": text, "specs/hardening.hcl": "spec \"hardening\" {\n  file \"/\" { be_directory = true }\n}\n"} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if _, diags := drift.LoadInventory(drift.LoadOptions{File: filepath.Join(dir, "hosts.hcl")}); len(diags) > 0 {
		t.Errorf("an inventory in %s: %v\n%s", doc, diags, text)
	}
}

// certificate is one of an authority.
func certificate(t *testing.T) string {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// testNames are the tests that there are.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, "_test.go") {
			return err
		}
		src, err := os.ReadFile(p)
		for _, m := range declared.FindAllStringSubmatch(string(src), -1) {
			names[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
