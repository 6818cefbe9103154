package functions

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/lestrrat-go/strftime"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/ianaindex"
)

func stringsFunc(names []string, f func(args []string) (string, error)) function.Function {
	var params []function.Parameter
	for _, name := range names {
		params = append(params, function.Parameter{Name: name, Type: cty.String})
	}
	return function.New(&function.Spec{
		Params: params,
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			var texts []string
			for _, a := range args {
				texts = append(texts, a.AsString())
			}
			s, err := f(texts)
			if err != nil {
				return cty.NilVal, err
			}
			return cty.StringVal(s), nil
		},
	})
}

func affixFunc(has func(s, part string) bool, part string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "str", Type: cty.String}, {Name: part, Type: cty.String}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.BoolVal(has(args[0].AsString(), args[1].AsString())), nil
		},
	})
}

var base64GzipFunc = stringsFunc([]string{"str"}, func(args []string) (string, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	// Writing to a buffer does not fail.
	_, _ = w.Write([]byte(args[0]))
	_ = w.Close()
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
})

var textEncodeFunc = stringsFunc([]string{"string", "encoding"}, func(args []string) (string, error) {
	enc, err := textEncoding(args[1])
	if err != nil {
		return "", err
	}
	out, err := enc.NewEncoder().String(args[0])
	if err != nil {
		return "", fmt.Errorf("the string has characters that %s does not", args[1])
	}
	return base64.StdEncoding.EncodeToString([]byte(out)), nil
})

var textDecodeFunc = stringsFunc([]string{"source", "encoding"}, func(args []string) (string, error) {
	enc, err := textEncoding(args[1])
	if err != nil {
		return "", err
	}
	raw, err := base64.StdEncoding.DecodeString(args[0])
	if err != nil {
		return "", function.NewArgErrorf(0, "is not base64")
	}
	out, err := enc.NewDecoder().Bytes(raw)
	if err != nil {
		return "", fmt.Errorf("the bytes are no text in %s", args[1])
	}
	return string(out), nil
})

func textEncoding(name string) (encoding.Encoding, error) {
	enc, err := ianaindex.IANA.Encoding(name)
	if err != nil || enc == nil {
		return nil, function.NewArgErrorf(1, "%q is no encoding that is supported; use an IANA name such as UTF-16LE", name)
	}
	return enc, nil
}

var timestampFunc = stringsFunc(nil, func([]string) (string, error) {
	return time.Now().UTC().Format(time.RFC3339), nil
})

// optionalFunc is a function of one string that may be left out.
func optionalFunc(name, missing string, f func(string) (string, error)) function.Function {
	return function.New(&function.Spec{
		VarParam: &function.Parameter{Name: name, Type: cty.String},
		Type:     function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			text := missing
			if len(args) > 1 {
				return cty.NilVal, fmt.Errorf("only one %s may be given", name)
			} else if len(args) == 1 {
				text = args[0].AsString()
			}
			s, err := f(text)
			return cty.StringVal(s), err
		},
	})
}

func legacyIsotimeFunc(now time.Time) function.Function {
	return optionalFunc("layout", time.RFC3339, func(layout string) (string, error) { return now.Format(layout), nil })
}

func legacyStrftimeFunc(now time.Time) function.Function {
	return optionalFunc("format", "", func(format string) (string, error) { return strftime.Format(format, now) })
}

var timeType = map[string]cty.Type{
	"year": cty.Number, "year_day": cty.Number, "day": cty.Number, "month": cty.Number, "month_name": cty.String,
	"weekday": cty.Number, "weekday_name": cty.String, "hour": cty.Number, "minute": cty.Number, "second": cty.Number,
	"iso_year": cty.Number, "iso_week": cty.Number,
}

func timeObject(t time.Time, extra string, v cty.Value) cty.Value {
	number := func(n int) cty.Value { return cty.NumberIntVal(int64(n)) }
	isoYear, isoWeek := t.ISOWeek()
	return cty.ObjectVal(map[string]cty.Value{
		"year": number(t.Year()), "year_day": number(t.YearDay()), "day": number(t.Day()),
		"month": number(int(t.Month())), "month_name": cty.StringVal(t.Month().String()),
		"weekday": number(int(t.Weekday())), "weekday_name": cty.StringVal(t.Weekday().String()),
		"hour": number(t.Hour()), "minute": number(t.Minute()), "second": number(t.Second()),
		"iso_year": number(isoYear), "iso_week": number(isoWeek),
		extra: v,
	})
}

func timeObjectType(extra string, typ cty.Type) cty.Type {
	attrs := map[string]cty.Type{extra: typ}
	for name, t := range timeType {
		attrs[name] = t
	}
	return cty.Object(attrs)
}

var rfc3339ParseFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "timestamp", Type: cty.String}},
	Type:   function.StaticReturnType(timeObjectType("unix", cty.Number)),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		t, err := time.Parse(time.RFC3339, args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgErrorf(0, "must be a time such as 2026-07-24T12:30:00Z")
		}
		return timeObject(t, "unix", cty.NumberIntVal(t.Unix())), nil
	},
})

var unixParseFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "unix_timestamp", Type: cty.Number}},
	Type:   function.StaticReturnType(timeObjectType("rfc3339", cty.String)),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		n, acc := args[0].AsBigFloat().Int64()
		if acc != 0 {
			return cty.NilVal, function.NewArgErrorf(0, "must be a whole number of seconds")
		}
		t := time.Unix(n, 0).UTC()
		return timeObject(t, "rfc3339", cty.StringVal(t.Format(time.RFC3339))), nil
	},
})
