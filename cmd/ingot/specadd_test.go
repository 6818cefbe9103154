package main

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/specs"
)

// newBlock is a block as it is added.
func newBlock(label string) *hclwrite.Block {
	b := hclwrite.NewBlock("file", []string{label})
	b.Body().SetAttributeValue("exist", cty.True)
	return b
}

// TestAddBlocks: what was there stays to the byte, and what comes of it is a spec.
func TestAddBlocks(t *testing.T) {
	const added = "  file \"/x\" {\n    exist = true\n  }\n"
	for old, want := range map[string]string{
		"":                                 "spec \"s\" {\n" + added + "}\n",
		"# only a comment":                 "# only a comment\n\nspec \"s\" {\n" + added + "}\n",
		"locals {\n   a=1\n}\n":            "locals {\n   a=1\n}\n\nspec \"s\" {\n" + added + "}\n",
		"spec \"s\" {}":                    "spec \"s\" {\n" + added + "}",
		"spec \"s\" { title=\"t\" } # c\n": "spec \"s\" {\n  title=\"t\"\n" + added + "} # c\n",
		"spec \"s\" {\n\tuser  \"root\"  { exist=true } # why\n\n}\nlocals{}\n":                 "spec \"s\" {\n\tuser  \"root\"  { exist=true } # why\n\n" + added + "}\nlocals{}\n",
		"spec \"s\" {\n title = \"t\"\n /* c */ }\n":                                            "spec \"s\" {\n title = \"t\"\n /* c */ \n" + added + "}\n",
		"spec \"s\" {\n  # last\n  }\n":                                                         "spec \"s\" {\n  # last\n" + added + "  }\n",
		"spec \"other\" {\n}\n":                                                                 "spec \"other\" {\n}\n\nspec \"s\" {\n" + added + "}\n",
		"spec \"s\" {\n  command \"x\" {\n    its \"stdout\" { eq = <<E\n}\nE\n    }\n  }\n}\n": "spec \"s\" {\n  command \"x\" {\n    its \"stdout\" { eq = <<E\n}\nE\n    }\n  }\n" + added + "}\n",
	} {
		have, err := addBlocks([]byte(old), addOptions{file: "f", spec: "s"}, []*hclwrite.Block{newBlock("/x")})
		if strings.Contains(old, "{ eq = <<E") {
			if err == nil { // HCL has no heredoc in a block of one line
				t.Errorf("%q was taken", old)
			}
			continue
		}
		if err != nil || string(have) != want {
			t.Errorf("%q: %v\nhave %q\nwant %q", old, err, have, want)
			continue
		}
		if f, err := parseSpecFile(have, addOptions{spec: "s"}); err != nil || f.block == nil {
			t.Errorf("%q: %v", have, err)
		} else if unknown, known := f.unknown([]specs.Ask{{Resource: "file", Subject: "/x"}, {Resource: "file", Subject: "/y"}}); len(unknown) != 1 || len(known) != 1 {
			t.Errorf("%q has %v, and not %v", have, known, unknown)
		}
	}
	sudo, err := addBlocks(nil, addOptions{spec: `a "${b}`, sudo: true}, []*hclwrite.Block{newBlock("/x")})
	if want := "spec \"a \\\"$${b}\" {\n  sudo = true\n" + added + "}\n"; err != nil || string(sudo) != want {
		t.Errorf("%v: %q", err, sudo)
	}
	for _, old := range []string{"spec \"s\" {", "spec \"s\" {\n sudo = false\n}", "spec \"s\" {\n}"} {
		if have, err := addBlocks([]byte(old), addOptions{file: "f", spec: "s", sudo: true}, []*hclwrite.Block{newBlock("/x")}); err == nil {
			t.Errorf("%q became %q", old, have)
		}
	}
}

// FuzzAddBlocks: adding to what is HCL gives HCL, in which all that was there still is.
func FuzzAddBlocks(f *testing.F) {
	f.Add("spec \"s\" {}", "/x")
	f.Add("spec \"s\" {\n a = <<E\n}\nE\n}", "/${x}")
	f.Add("spec \"s\" { a = 1 }\n", "%{\"\\")
	f.Fuzz(func(t *testing.T, old, label string) {
		if (specs.Ask{Resource: "file", Subject: "/" + label}).Check() != nil {
			return
		}
		before, diags := hclsyntax.ParseConfig([]byte(old), "f", hcl.InitialPos)
		have, err := addBlocks([]byte(old), addOptions{file: "f", spec: "s"}, []*hclwrite.Block{newBlock("/" + label)})
		if diags.HasErrors() {
			if err == nil {
				t.Fatalf("%q is no HCL, and became %q", old, have)
			}
			return
		}
		if err != nil {
			return // refused: the file stays as it is
		}
		after, diags := hclsyntax.ParseConfig(have, "f", hcl.InitialPos)
		if diags.HasErrors() {
			t.Fatalf("%q became %q: %v", old, have, diags)
		}
		a, b := before.Body.(*hclsyntax.Body), after.Body.(*hclsyntax.Body)
		if len(b.Attributes) != len(a.Attributes) || len(b.Blocks) != len(a.Blocks) && len(b.Blocks) != len(a.Blocks)+1 {
			t.Fatalf("%q became %q", old, have)
		}
		file, err := parseSpecFile(have, addOptions{spec: "s"})
		if err != nil {
			t.Fatal(err)
		}
		if _, known := file.unknown([]specs.Ask{{Resource: "file", Subject: "/" + label}}); len(known) != 1 {
			t.Fatalf("%q does not have it: %q", label, have)
		}
	})
}
