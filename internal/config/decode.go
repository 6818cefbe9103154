package config

import (
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// packerKeys are what Packer itself adds to a component's options. A template
// may carry them; they mean nothing here.
var packerKeys = [...]string{
	"packer_build_name", "packer_builder_type", "packer_core_version", "packer_debug", "packer_force",
	"packer_on_error", "packer_user_variables", "packer_sensitive_variables",
}

// Decode reads a body into the struct that into points to and reports
// everything wrong with it at once. Options that the body leaves out, or sets
// to null, keep the value the struct has.
//
// A field becomes an option by its tag, `cfg:"name[,required][,block]"`. Its
// type is string, bool, a number, time.Duration, Size, cty.Value, a slice, a map
// of strings, or a pointer to one of these; a struct, a pointer or a slice of
// structs is a nested block. A nested block may also be written as an attribute
// with an object or a list of objects, and a map as a block. Strings, numbers
// and bools are converted into one another where that loses nothing, and a
// single value is accepted for a list of one.
func Decode(body hcl.Body, ctx *hcl.EvalContext, into any) hcl.Diagnostics {
	return DecodeBlock("this block", body, ctx, into)
}

// DecodeBlock is Decode for a body whose errors are to name the block it belongs
// to, such as `provisioner "shell"`.
func DecodeBlock(block string, body hcl.Body, ctx *hcl.EvalContext, into any) hcl.Diagnostics {
	d := &decoder{ctx: ctx}
	d.body(block, body, structOf(into), nil)
	sortDiags(d.diags)
	return d.diags
}

// Take reads the options that into knows out of a body and returns a body
// without them.
func Take(block string, body hcl.Body, ctx *hcl.EvalContext, into any) (hcl.Body, hcl.Diagnostics) {
	d := &decoder{ctx: ctx}
	var remain hcl.Body
	d.body(block, body, structOf(into), &remain)
	sortDiags(d.diags)
	return remain, d.diags
}

// unknown marks a finding as one that only a missing value is the reason of.
type unknown struct{}

// Unknown is the finding that an option's value is not known yet.
func Unknown(at hcl.Range, option string) *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "Value not known yet", Subject: &at, Extra: unknown{},
		Detail: fmt.Sprintf("%q depends on a value that is not known before the bake runs.", option),
	}
}

// BecauseUnknown says whether a finding is none but that a value is not known
// yet. Who checks before the values are known leaves these out; the options
// concerned keep what they had.
func BecauseUnknown(d *hcl.Diagnostic) bool { return d.Extra == unknown{} }

func structOf(into any) reflect.Value {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: options must be a pointer to a struct, not %T", into))
	}
	return v.Elem()
}

// sortDiags puts findings in the order of the file; the library finds
// attributes in the random order of a map.
func sortDiags(diags hcl.Diagnostics) {
	sort.SliceStable(diags, func(i, j int) bool {
		a, b := diags[i].Subject, diags[j].Subject
		if a == nil || b == nil || a.Filename != b.Filename {
			return false
		}
		return a.Start.Byte < b.Start.Byte
	})
}

type decoder struct {
	ctx   *hcl.EvalContext
	diags hcl.Diagnostics
}

func (d *decoder) errorf(at hcl.Range, summary, format string, args ...any) {
	d.diags = append(d.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at,
	})
}

// body decodes one body. With remain it leaves unknown names there, otherwise
// they are errors.
func (d *decoder) body(block string, body hcl.Body, into reflect.Value, remain *hcl.Body) {
	fields := fieldsOf(into.Type())
	schema := &hcl.BodySchema{}
	for _, f := range fields {
		// Both spellings are asked for; JSON then always gives the attribute.
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: f.Name})
		if takesBlocks(f.typ) {
			schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: f.Name})
		}
	}
	var content *hcl.BodyContent
	var diags hcl.Diagnostics
	if remain != nil {
		content, *remain, diags = body.PartialContent(schema)
	} else {
		full := &hcl.BodySchema{Attributes: schema.Attributes, Blocks: schema.Blocks}
		for _, k := range packerKeys {
			full.Attributes = append(full.Attributes[:len(full.Attributes):len(full.Attributes)], hcl.AttributeSchema{Name: k})
		}
		content, diags = body.Content(full)
		diags = suggestAll(diags, schema)
	}
	d.diags = append(d.diags, diags...)
	for _, f := range fields {
		d.field(block, f, content, into.FieldByIndex(f.index))
	}
}

func takesBlocks(t reflect.Type) bool { return t.Kind() == reflect.Map || blockType(t) != nil }

func (d *decoder) field(block string, f Field, content *hcl.BodyContent, into reflect.Value) {
	attr := content.Attributes[f.Name]
	blocks := content.Blocks.OfType(f.Name)
	if attr != nil && len(blocks) > 0 {
		d.errorf(blocks[0].DefRange, "Option given twice",
			"%q is given both as an argument, on line %d, and as a block. Keep one of them.", f.Name, attr.NameRange.Start.Line)
		return
	}
	if attr != nil {
		v, diags := attr.Expr.Value(d.ctx)
		d.diags = append(d.diags, diags...)
		if diags.HasErrors() {
			return
		}
		if v, _ = v.UnmarkDeep(); !v.IsNull() {
			d.assign(f.Name, v, attr.Expr, attr.Expr.Range(), into)
			return
		}
	}
	if len(blocks) > 0 {
		d.blocks(f.Name, blocks, into)
		return
	}
	if f.Required {
		d.errorf(content.MissingItemRange, "Missing required argument", "The argument %q is required in %s, but it is not set.", f.Name, block)
	}
}

func (d *decoder) blocks(name string, blocks hcl.Blocks, into reflect.Value) {
	what := fmt.Sprintf("the block %q", name)
	t := into.Type()
	if t.Kind() == reflect.Slice {
		list := reflect.MakeSlice(t, len(blocks), len(blocks))
		for i, b := range blocks {
			d.body(what, b.Body, settle(list.Index(i)), nil)
		}
		into.Set(list)
		return
	}
	if len(blocks) > 1 {
		d.errorf(blocks[1].DefRange, "Duplicate block", "Only one %q block is allowed; the first is on line %d.", name, blocks[0].DefRange.Start.Line)
		return
	}
	if t.Kind() != reflect.Map {
		d.body(what, blocks[0].Body, settle(into), nil)
		return
	}
	attrs, diags := blocks[0].Body.JustAttributes()
	d.diags = append(d.diags, diags...)
	m := reflect.MakeMap(t)
	for key, a := range attrs {
		v, diags := a.Expr.Value(d.ctx)
		d.diags = append(d.diags, diags...)
		if diags.HasErrors() {
			continue
		}
		v, _ = v.UnmarkDeep()
		elem := reflect.New(t.Elem()).Elem()
		d.assign(name+"."+key, v, a.Expr, a.Expr.Range(), elem)
		m.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), elem)
	}
	into.Set(m)
}

// settle follows a pointer, making what it points to.
func settle(v reflect.Value) reflect.Value {
	if v.Kind() != reflect.Pointer {
		return v
	}
	v.Set(reflect.New(v.Type().Elem()))
	return v.Elem()
}

// assign puts a value into a field. expr is the expression it comes from, to
// point at its parts, or nil.
func (d *decoder) assign(path string, v cty.Value, expr hcl.Expression, at hcl.Range, into reflect.Value) {
	t := into.Type()
	if t == valueType {
		into.Set(reflect.ValueOf(v))
		return
	}
	if !v.IsKnown() {
		d.diags = append(d.diags, Unknown(at, path))
		return
	}
	if v.IsNull() {
		d.errorf(at, "Wrong type of value", "%q must be %s, but it is null.", path, article(typeName(t)))
		return
	}
	if t.Kind() == reflect.Pointer {
		d.assign(path, v, expr, at, settle(into))
		return
	}
	vt := v.Type()
	before := len(d.diags) // what is not whole is not set
	switch {
	case t.Kind() == reflect.Slice:
		if !vt.IsListType() && !vt.IsTupleType() && !vt.IsSetType() {
			if !vt.IsPrimitiveType() && blockType(t) == nil {
				d.wrong(path, t, v, at)
				return
			}
			list := reflect.MakeSlice(t, 1, 1)
			d.assign(path, v, expr, at, list.Index(0))
			into.Set(list)
			return
		}
		elems := v.AsValueSlice()
		list := reflect.MakeSlice(t, len(elems), len(elems))
		for i, e := range elems {
			x, r := element(expr, i, at)
			d.assign(fmt.Sprintf("%s.%d", path, i), e, x, r, list.Index(i))
		}
		if len(d.diags) == before {
			into.Set(list)
		}
	case t.Kind() == reflect.Map:
		if !vt.IsMapType() && !vt.IsObjectType() {
			d.wrong(path, t, v, at)
			return
		}
		m := reflect.MakeMap(t)
		for key, e := range v.AsValueMap() {
			x, r := member(expr, key, at)
			elem := reflect.New(t.Elem()).Elem()
			d.assign(path+"."+key, e, x, r, elem)
			m.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), elem)
		}
		if len(d.diags) == before {
			into.Set(m)
		}
	case t.Kind() == reflect.Struct:
		// A list of one object is how JSON may write a single block.
		if (vt.IsTupleType() || vt.IsListType()) && v.LengthInt() == 1 {
			v = v.AsValueSlice()[0]
			expr, at = element(expr, 0, at)
			vt = v.Type()
		}
		if v.IsNull() || (!vt.IsMapType() && !vt.IsObjectType()) {
			d.wrong(path, t, v, at)
			return
		}
		d.object(path, v, expr, at, into)
	default:
		d.leaf(path, v, at, into)
	}
}

// object decodes a block that is written as an object.
func (d *decoder) object(path string, v cty.Value, expr hcl.Expression, at hcl.Range, into reflect.Value) {
	fields := fieldsOf(into.Type())
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	values := v.AsValueMap()
	for _, key := range sortedKeys(values) {
		if !slices.Contains(names, key) && key != "//" {
			_, r := member(expr, key, at)
			d.errorf(r, "Unsupported argument", "An argument named %q is not expected in %q.%s", key, path, DidYouMean(key, names))
		}
	}
	for _, f := range fields {
		e, ok := values[f.Name]
		switch {
		case ok && !e.IsNull():
			x, r := member(expr, f.Name, at)
			d.assign(path+"."+f.Name, e, x, r, into.FieldByIndex(f.index))
		case f.Required:
			d.errorf(at, "Missing required argument", "The argument %q is required in %q, but it is not set.", f.Name, path)
		}
	}
}

func sortedKeys(m map[string]cty.Value) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// element and member find the part of an expression that a list's element or
// an object's attribute comes from; where there is none, the whole is at.
func element(expr hcl.Expression, i int, at hcl.Range) (hcl.Expression, hcl.Range) {
	if expr != nil {
		if list, diags := hcl.ExprList(expr); !diags.HasErrors() && i < len(list) {
			return list[i], list[i].Range()
		}
	}
	return nil, at
}

func member(expr hcl.Expression, key string, at hcl.Range) (hcl.Expression, hcl.Range) {
	if expr != nil {
		pairs, diags := hcl.ExprMap(expr)
		for _, p := range pairs {
			if k, kd := p.Key.Value(nil); !diags.HasErrors() && !kd.HasErrors() && k.IsWhollyKnown() && !k.IsNull() && k.Type() == cty.String && k.AsString() == key {
				return p.Value, p.Value.Range()
			}
		}
	}
	return nil, at
}

func (d *decoder) leaf(path string, v cty.Value, at hcl.Range, into reflect.Value) {
	t := into.Type()
	kind := t.Kind()
	want := cty.Number
	if kind == reflect.String || t == durationType || t == sizeType {
		want = cty.String
	} else if kind == reflect.Bool {
		want = cty.Bool
	}
	if t == durationType && v.Type() == cty.Number {
		d.errorf(at, "Wrong type of value", "%q must be a duration with a unit, such as \"90s\" or \"5m\", but it is a number.", path)
		return
	}
	c, err := convert.Convert(v, want)
	if err != nil {
		d.wrong(path, t, v, at)
		return
	}
	switch {
	case t == durationType:
		dur, err := time.ParseDuration(c.AsString())
		if err != nil {
			d.errorf(at, "Invalid duration", "%q must be a duration with a unit, such as \"90s\", \"5m\" or \"1h30m\".", path)
			return
		}
		into.SetInt(int64(dur))
	case t == sizeType:
		size, err := ParseSize(c.AsString())
		if err != nil {
			d.errorf(at, "Invalid size", "%q: %s.", path, err)
			return
		}
		into.SetInt(int64(size))
	case kind == reflect.String:
		into.SetString(c.AsString())
	case kind == reflect.Bool:
		into.SetBool(c.True())
	case kind == reflect.Float32 || kind == reflect.Float64:
		f, _ := c.AsBigFloat().Float64()
		into.SetFloat(f)
	default:
		d.integer(path, c.AsBigFloat(), at, into)
	}
}

func (d *decoder) integer(path string, f *big.Float, at hcl.Range, into reflect.Value) {
	switch {
	case !f.IsInt():
		d.errorf(at, "Wrong type of value", "%q must be a whole number.", path)
	case into.CanInt():
		if n, acc := f.Int64(); acc == big.Exact && !into.OverflowInt(n) {
			into.SetInt(n)
			return
		}
		d.errorf(at, "Number out of range", "%q does not fit: the number is too large or too small.", path)
	case into.CanUint():
		if n, acc := f.Uint64(); acc == big.Exact && !into.OverflowUint(n) {
			into.SetUint(n)
			return
		}
		d.errorf(at, "Number out of range", "%q does not fit: the number is negative or too large.", path)
	default:
		d.errorf(at, "Option cannot be decoded", "%q has the Go type %s, which is a mistake in Ingot. Please report it.", path, into.Type())
	}
}

func (d *decoder) wrong(path string, t reflect.Type, v cty.Value, at hcl.Range) {
	d.errorf(at, "Wrong type of value", "%q must be %s, but it is %s.", path, article(typeName(t)), article(v.Type().FriendlyName()))
}

func article(s string) string {
	if strings.ContainsRune("aeio", rune(s[0])) {
		return "an " + s
	}
	return "a " + s
}
