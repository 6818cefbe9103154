package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// EachString calls f for every string in the options that into points to and
// puts the answer in its place; fields tagged `render:"late"` are passed over.
// option names the string as Problem.Option does. It returns the errors of f,
// each with the option it is about.
func EachString(into any, f func(option, s string) (string, error)) []OptionError {
	var errs []OptionError
	eachField("", structOf(into), func(field Field, option, s string) string {
		if field.Late {
			return s
		}
		out, err := f(option, s)
		if err != nil {
			errs = append(errs, OptionError{option, err})
			return s
		}
		return out
	})
	return errs
}

// EachLate calls f for every string in the fields tagged `render:"late"`.
func EachLate(into any, f func(field Field, option, s string)) {
	eachField("", structOf(into), func(field Field, option, s string) string {
		if field.Late {
			f(field, option, s)
		}
		return s
	})
}

// OptionError is an error about one option.
type OptionError struct {
	Option string
	Err    error
}

func eachField(prefix string, v reflect.Value, f func(field Field, option, s string) string) {
	for _, field := range fieldsOf(v.Type()) {
		if field.typ != valueType {
			eachString(field, prefix+field.Name, v.FieldByIndex(field.index), f)
		}
	}
}

func eachString(field Field, path string, v reflect.Value, f func(field Field, option, s string) string) {
	switch v.Kind() {
	case reflect.String:
		// What stays is not written, so that a look may go on beside other readers.
		if is := f(field, path, v.String()); is != v.String() {
			v.SetString(is)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			eachString(field, path, v.Elem(), f)
		}
	case reflect.Struct:
		if v.Type() != valueType {
			eachField(path+".", v, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachString(field, path+"."+strconv.Itoa(i), v.Index(i), f)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(k))
			eachString(field, path+"."+k.String(), elem, f)
			if elem.Kind() != reflect.String || elem.String() != v.MapIndex(k).String() {
				v.SetMapIndex(k, elem)
			}
		}
	}
}

// Locate finds the place in a body that an option's name, as in Problem.Option,
// stands for, as nearly as the body's way of writing allows. It returns false
// when the body does not have the option.
func Locate(body hcl.Body, option []string) (hcl.Range, bool) {
	if len(option) == 0 {
		return hcl.Range{}, false
	}
	name, rest := option[0], option[1:]
	content, _, _ := body.PartialContent(&hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: name}},
		Blocks:     []hcl.BlockHeaderSchema{{Type: name}},
	})
	if content == nil {
		return hcl.Range{}, false
	}
	if attr := content.Attributes[name]; attr != nil {
		expr, at := attr.Expr, attr.Expr.Range()
		for _, word := range rest {
			if i, err := strconv.Atoi(word); err == nil && i >= 0 {
				expr, at = element(expr, i, at)
			} else {
				expr, at = member(expr, word, at)
			}
		}
		return at, true
	}
	blocks := content.Blocks.OfType(name)
	i := 0
	if len(rest) > 0 {
		if n, err := strconv.Atoi(rest[0]); err == nil {
			i, rest = n, rest[1:]
		}
	}
	if i < 0 || i >= len(blocks) {
		return hcl.Range{}, false
	}
	if at, ok := Locate(blocks[i].Body, rest); ok {
		return at, true
	}
	return blocks[i].DefRange, true
}
