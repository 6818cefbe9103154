package config

import (
	"reflect"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// Field describes one option of an options struct.
type Field struct {
	// Name is the option's name as a template writes it.
	Name string
	// Type is "string", "bool", "number", "duration", "size", "any", "block",
	// "list of ..." or "map of ...".
	Type string
	// Required says that leaving the option out is an error.
	Required bool
	// Late says that Go-template strings in it are left for the component to
	// render, with values that exist only when it runs.
	Late bool
	// Vars are the names that these values have there, beside those of the build.
	Vars []string
	// Fields are the options of a block, nil for all other types.
	Fields []Field

	index []int
	typ   reflect.Type
}

// Fields lists the options of a struct, or of a pointer to one, in the order of
// its fields. Embedded structs are part of the struct that embeds them; fields
// without a cfg tag are no options.
func Fields(into any) []Field {
	t := reflect.TypeOf(into)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	fields := fieldsOf(t)
	for i := range fields {
		if b := blockType(fields[i].typ); b != nil && b != t {
			fields[i].Fields = Fields(reflect.New(b).Interface())
		}
	}
	return fields
}

// fieldsOf lists the options of t itself, without those of its blocks.
func fieldsOf(t reflect.Type) []Field {
	var fields []Field
	for f := range t.Fields() {
		tag, ok := f.Tag.Lookup("cfg")
		if !ok && f.Anonymous && f.Type.Kind() == reflect.Struct {
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append(append([]int{}, f.Index...), inner.index...)
				fields = append(fields, inner)
			}
			continue
		}
		if !ok || !f.IsExported() {
			continue
		}
		words := strings.Split(tag, ",")
		field := Field{Name: words[0], Type: typeName(f.Type), Late: f.Tag.Get("render") == "late", Vars: strings.Fields(f.Tag.Get("vars")), index: f.Index, typ: f.Type}
		for _, w := range words[1:] {
			field.Required = field.Required || w == "required"
		}
		fields = append(fields, field)
	}
	return fields
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
	valueType    = reflect.TypeFor[cty.Value]()
)

// blockType is the struct that a field of type t holds one or more of as
// nested blocks, or nil when t is no such type.
func blockType(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct && t != valueType {
		return t
	}
	return nil
}

func typeName(t reflect.Type) string {
	switch t {
	case durationType:
		return "duration"
	case sizeType:
		return "size"
	case valueType:
		return "any"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map of " + typeName(t.Elem())
	case reflect.Struct:
		return "block"
	default:
		return "number"
	}
}
