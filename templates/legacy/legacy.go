// Package legacy reads the JSON templates that Packer had before HCL. It
// migrates what older Packers took, and translates the template into HCL.
package legacy

import (
	"reflect"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/ingotbuild/ingot/templates/functions"
)

// Parse translates the JSON template src and returns it as a file of HCL.
// Everything in the file says that it stands where its origin stands in the
// JSON, so that findings point there. name is the file's name in findings. When
// there are errors the file is empty; outdated spellings are warnings.
func Parse(src []byte, name string) (*hcl.File, hcl.Diagnostics) {
	// Without a navigator it does not tell the HCL block of a line of JSON.
	file := &hcl.File{Body: hcl.EmptyBody(), Bytes: src}
	out, diags := upgrade(src, name, false)
	if diags.HasErrors() {
		return file, diags
	}
	text := out.bytes()
	if err := functions.CheckSource(text); err != nil {
		return file, append(diags, failure(hcl.Range{}, "File too large or too deep", "The template %q is refused: in HCL %s.", name, err))
	}
	parsed, wrong := hclsyntax.ParseConfig(text, name, hcl.InitialPos)
	if wrong.HasErrors() {
		return file, append(diags, failure(hcl.Range{}, "Template not translated",
			"The HCL that %q was translated to is wrong, which is a mistake in Ingot. Please report it: %s.", name, wrong.Error()))
	}
	relocate(reflect.ValueOf(parsed.Body), out.at)
	file.Body = parsed.Body
	return file, diags
}

// Upgrade translates the JSON template src into formatted HCL, with comments
// that explain it when annotated is set. name is the file's name in findings.
// The text is nil when there are errors; outdated spellings are warnings.
func Upgrade(src []byte, name string, annotated bool) ([]byte, hcl.Diagnostics) {
	out, diags := upgrade(src, name, annotated)
	if diags.HasErrors() {
		return nil, diags
	}
	return hclwrite.Format(out.bytes()), diags
}

// Fix migrates outdated spellings in the JSON template src and returns it as
// JSON again, indented, its keys in their order. Each change is a warning. name
// is the file's name in findings. The text is nil when src is not a JSON object.
func Fix(src []byte, name string) ([]byte, hcl.Diagnostics) {
	root, diags := readJSON(src, name)
	if diags.HasErrors() {
		return nil, diags
	}
	if root.kind != object {
		return nil, hcl.Diagnostics{failure(root.at, "Not a template", "A template is a JSON object, but this is %s.", root.kind)}
	}
	diags = fix(root)
	var b strings.Builder
	root.write(&b, "")
	return []byte(b.String() + "\n"), diags
}

func upgrade(src []byte, name string, annotated bool) (*lines, hcl.Diagnostics) {
	root, diags := readJSON(src, name)
	if diags.HasErrors() {
		return nil, diags
	}
	diags = fix(root)
	out, more := translate(root, annotated)
	return out, append(diags, more...)
}

func (l *lines) bytes() []byte {
	return []byte(strings.TrimRight(strings.Join(l.text, "\n"), "\n") + "\n")
}

var rangeType = reflect.TypeFor[hcl.Range]()

// relocate gives every range below a syntax tree the place of its line's origin.
func relocate(v reflect.Value, at []hcl.Range) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && strings.HasPrefix(v.Type().Elem().PkgPath(), "github.com/hashicorp/hcl/v2") {
			relocate(v.Elem(), at)
		}
	case reflect.Interface:
		switch e := v.Elem(); {
		case !v.CanSet():
		case e.Kind() == reflect.Pointer:
			relocate(e, at)
		case e.Kind() == reflect.Struct: // a step of a traversal, by value
			moved := reflect.New(e.Type()).Elem()
			moved.Set(e)
			relocate(moved, at)
			v.Set(moved)
		}
	case reflect.Slice:
		for i := range v.Len() {
			relocate(v.Index(i), at)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			relocate(it.Value(), at)
		}
	case reflect.Struct:
		if v.Type() == rangeType {
			r := v.Addr().Interface().(*hcl.Range)
			if i := r.Start.Line - 1; i >= 0 && i < len(at) && at[i].Filename != "" {
				*r = at[i]
			}
			return
		}
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				relocate(f, at)
			}
		}
	}
}
