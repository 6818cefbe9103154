//go:build linux

package ec2

import (
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// node is one level of a query's dotted names.
type node struct {
	value string
	kids  map[string]*node
}

// queryTree reads dotted names into levels. Empty values are left out, and so
// is the level "member" that the older query interfaces put into lists.
func queryTree(form url.Values) *node {
	root := &node{}
	for name, values := range form {
		value := values[0]
		if value == "" {
			continue
		}
		at := root
		for part := range strings.SplitSeq(name, ".") {
			if part == "member" {
				continue
			}
			if at.kids == nil {
				at.kids = map[string]*node{}
			}
			next := at.kids[part]
			if next == nil {
				next = &node{}
				at.kids[part] = next
			}
			at = next
		}
		at.value = value
	}
	return root
}

// decodeQuery fills the struct that into points to: a parameter belongs to the
// field of its name. A parameter without a field is refused, as EC2 refuses
// what it does not know.
func decodeQuery(form url.Values, into any) error {
	root := queryTree(form)
	for _, common := range []string{"Action", "Version"} {
		delete(root.kids, common)
	}
	return root.decode("", reflect.ValueOf(into).Elem())
}

func (n *node) decode(name string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if err := n.decode(name, p.Elem()); err != nil {
			return err
		}
		v.Set(p)
		return nil
	case reflect.Struct:
		if n.value != "" {
			return fail("UnknownParameter", "The parameter %s is not recognized", name)
		}
		for _, part := range sortedKeys(n.kids) {
			full := strings.TrimPrefix(name+"."+part, ".")
			f := v.FieldByName(part)
			if !f.IsValid() {
				return fail("UnknownParameter", "The parameter %s is not recognized", full)
			}
			if err := n.kids[part].decode(full, f); err != nil {
				return err
			}
		}
		return nil
	case reflect.Slice:
		var at []int
		for part := range n.kids {
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 {
				return fail("UnknownParameter", "The parameter %s.%s is not recognized", name, part)
			}
			at = append(at, i)
		}
		slices.Sort(at)
		list := reflect.MakeSlice(v.Type(), len(at), len(at))
		for k, i := range at {
			part := strconv.Itoa(i)
			if err := n.kids[part].decode(name+"."+part, list.Index(k)); err != nil {
				return err
			}
		}
		v.Set(list)
		return nil
	}
	if len(n.kids) > 0 {
		return fail("UnknownParameter", "The parameter %s.%s is not recognized", name, sortedKeys(n.kids)[0])
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.value)
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(n.value)
		v.SetBool(b)
	case reflect.Int64:
		var i int64
		i, err = strconv.ParseInt(n.value, 10, 64)
		v.SetInt(i)
	case reflect.Float64:
		var f float64
		f, err = strconv.ParseFloat(n.value, 64)
		v.SetFloat(f)
	}
	if err != nil {
		return invalid(name, "%q is no %s", n.value, v.Kind())
	}
	return nil
}

// overlay sets the fields of the struct dst that are not set to those of the
// same name in src, however deep, although the two have different types: a
// launch template's data and the parameters of RunInstances.
func overlay(dst, src reflect.Value) {
	for src.Kind() == reflect.Pointer {
		if src.IsNil() {
			return
		}
		src = src.Elem()
	}
	switch dst.Kind() {
	case reflect.Pointer:
		if dst.IsNil() {
			dst.Set(reflect.New(dst.Type().Elem()))
		}
		overlay(dst.Elem(), src)
	case reflect.Struct:
		for i := range src.NumField() {
			f := dst.FieldByName(src.Type().Field(i).Name)
			if from := src.Field(i); f.IsValid() && !from.IsZero() && (f.IsZero() || f.Kind() == reflect.Pointer && f.Elem().Kind() == reflect.Struct) {
				overlay(f, from)
			}
		}
	case reflect.Slice:
		if src.Len() == 0 {
			return
		}
		list := reflect.MakeSlice(dst.Type(), src.Len(), src.Len())
		for i := range src.Len() {
			overlay(list.Index(i), src.Index(i))
		}
		dst.Set(list)
	default:
		dst.Set(src)
	}
}
