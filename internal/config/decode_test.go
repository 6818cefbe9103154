package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
)

type common struct {
	User string `cfg:"user"`
}

type disk struct {
	Path string        `cfg:"path,required"`
	Size Size          `cfg:"size"`
	Wait time.Duration `cfg:"wait"`
}

type options struct {
	common
	Name        string            `cfg:"name"`
	On          bool              `cfg:"on"`
	Maybe       *bool             `cfg:"maybe"`
	Count       int               `cfg:"count"`
	Small       uint8             `cfg:"small"`
	Ratio       float64           `cfg:"ratio"`
	Timeout     time.Duration     `cfg:"timeout"`
	Memory      Size              `cfg:"memory"`
	Words       []string          `cfg:"words"`
	Codes       []int             `cfg:"codes"`
	Env         map[string]string `cfg:"env"`
	Raw         cty.Value         `cfg:"raw"`
	Disks       []disk            `cfg:"disk,block"`
	Boot        *disk             `cfg:"boot,block"`
	Root        disk              `cfg:"root,block"`
	Command     string            `cfg:"command" render:"late"`
	NotAnOption string
}

func parseBody(t *testing.T, src string) hcl.Body {
	t.Helper()
	var f *hcl.File
	var diags hcl.Diagnostics
	if strings.HasPrefix(src, "{") {
		f, diags = json.Parse([]byte(src), "x.json")
	} else {
		f, diags = hclsyntax.ParseConfig([]byte(src), "x.hcl", hcl.InitialPos)
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return f.Body
}

var testContext = &hcl.EvalContext{Variables: map[string]cty.Value{
	"five": cty.NumberIntVal(5), "unknown": cty.UnknownVal(cty.String),
	"disks": cty.ListVal([]cty.Value{cty.ObjectVal(map[string]cty.Value{"path": cty.StringVal("l")})}),
}}

func TestDecode(t *testing.T) {
	yes := true
	tests := []struct {
		name, src string
		want      options
	}{
		{"nothing", ``, options{}},
		{"plain", "name = \"n\"\non = true\nmaybe = true\ncount = 3\nsmall = 255\nratio = 0.5\nuser = \"u\"",
			options{Name: "n", On: true, Maybe: &yes, Count: 3, Small: 255, Ratio: 0.5, common: common{User: "u"}}},
		{"loose", "name = 5\non = \"true\"\ncount = \"3\"\nratio = \"0.5\"\ncodes = [\"1\", 2]\nwords = [1, true]",
			options{Name: "5", On: true, Count: 3, Ratio: 0.5, Codes: []int{1, 2}, Words: []string{"1", "true"}}},
		{"one for a list", "words = \"a,b\"\ncodes = 7", options{Words: []string{"a,b"}, Codes: []int{7}}},
		{"durations and sizes", "timeout = \"1m30s\"\nmemory = \"512m\"", options{Timeout: 90 * time.Second, Memory: 512 << 20}},
		{"size as number", "memory = 1024", options{Memory: 1024}},
		{"null is not set", "name = null\nwords = null\ndisk = null", options{}},
		{"map", `env = { A = 1, B = "b" }`, options{Env: map[string]string{"A": "1", "B": "b"}}},
		{"map as block", "env {\n A = five\n B = \"b\"\n}", options{Env: map[string]string{"A": "5", "B": "b"}}},
		{"raw", `raw = [1]`, options{Raw: cty.TupleVal([]cty.Value{cty.NumberIntVal(1)})}},
		{"blocks", "disk {\n path = \"a\"\n size = \"1g\"\n}\ndisk {\n path = \"b\"\n wait = \"1s\"\n}\nboot {\n path = \"c\"\n}\nroot {\n path = \"d\"\n}",
			options{Disks: []disk{{Path: "a", Size: 1 << 30}, {Path: "b", Wait: time.Second}}, Boot: &disk{Path: "c"}, Root: disk{Path: "d"}}},
		{"blocks as objects", `disk = [{ path = "a" }, { path = "b", size = null }]` + "\n" + `boot = { path = "c" }`,
			options{Disks: []disk{{Path: "a"}, {Path: "b"}}, Boot: &disk{Path: "c"}}},
		{"blocks as one object", `disk = { path = "a" }`, options{Disks: []disk{{Path: "a"}}}},
		{"blocks from a variable", `disk = disks`, options{Disks: []disk{{Path: "l"}}}},
		{"json", `{"name": "${five}", "disk": [{"path": "a"}, {"path": "b", "//": "note"}], "boot": [{"path": "c"}], "env": {"A": "1"}, "//": "note"}`,
			options{Name: "5", Disks: []disk{{Path: "a"}, {Path: "b"}}, Boot: &disk{Path: "c"}, Env: map[string]string{"A": "1"}}},
		{"packer's own keys", "packer_build_name = \"x\"\npacker_user_variables = {}\npacker_debug = true", options{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got options
			if diags := Decode(parseBody(t, test.src), testContext, &got); diags.HasErrors() {
				t.Fatal(diags)
			}
			if test.want.Raw != cty.NilVal {
				if !got.Raw.RawEquals(test.want.Raw) {
					t.Errorf("raw = %#v", got.Raw)
				}
				got.Raw, test.want.Raw = cty.NilVal, cty.NilVal
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestDecodeKeepsDefaultsAndReplacesLists(t *testing.T) {
	o := options{Name: "default", Words: []string{"old", "older"}, Disks: []disk{{Path: "old"}}, Root: disk{Path: "r", Size: 7}}
	if diags := Decode(parseBody(t, "words = [\"new\"]\ndisk {\n path = \"new\"\n}\nroot {\n path = \"s\"\n}"), nil, &o); diags.HasErrors() {
		t.Fatal(diags)
	}
	want := options{Name: "default", Words: []string{"new"}, Disks: []disk{{Path: "new"}}, Root: disk{Path: "s", Size: 7}}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

func TestDecodeErrors(t *testing.T) {
	tests := []struct {
		name, src string
		line      int
		want      []string
	}{
		{"unknown argument", "nmae = 1", 1, []string{"Unsupported argument", `"nmae"`, `Did you mean "name"?`}},
		{"unknown block", "\ndsik {\n}", 2, []string{"Unsupported block type", `Did you mean "disk"?`}},
		{"unknown in block", "disk {\n path = \"a\"\n sise = 1\n}", 3, []string{"Unsupported argument", `Did you mean "size"?`}},
		{"unknown in object", "disk = [{\n path = \"a\"\n sise = 1\n}]", 3, []string{"Unsupported argument", `"disk.0"`, `Did you mean "size"?`}},
		{"unknown in json", "{\n\"nmae\": 1}", 2, []string{"Unsupported argument", `Did you mean "name"?`}},
		{"block for an argument", "name {\n}", 1, []string{"Unsupported block type", "equals sign"}},
		{"missing in block", "disk {\n}", 1, []string{"Missing required argument", `"path"`, `the block "disk"`}},
		{"missing in object", "\nboot = {}", 2, []string{"Missing required argument", `"path"`, `"boot"`}},
		{"null for a required one", "disk {\n path = null\n}", 1, []string{"Missing required argument"}},
		{"list for a string", "name = []", 1, []string{"Wrong type of value", "a string", "a tuple"}},
		{"word for a number", "count = \"many\"", 1, []string{`"count" must be a number, but it is a string`}},
		{"object for a list", "words = {}", 1, []string{`must be a list of string, but it is an object`}},
		{"fraction", "count = 1.5", 1, []string{"whole number"}},
		{"too large", "small = 256", 1, []string{"out of range"}},
		{"negative", "small = -1", 1, []string{"out of range"}},
		{"huge", "count = 1e30", 1, []string{"out of range"}},
		{"bare duration", "timeout = \"5\"", 1, []string{"Invalid duration", "unit"}},
		{"number as duration", "timeout = 5", 1, []string{"with a unit", "number"}},
		{"bad size", "memory = \"5 bananas\"", 1, []string{"Invalid size", "bananas"}},
		{"element", "words = [\n\"a\",\n[]]", 3, []string{`"words.1" must be a string`}},
		{"null element", "words = [null]", 1, []string{`"words.0"`, "null"}},
		{"member", "env = {\nA = []\n}", 2, []string{`"env.A"`}},
		{"twice", "disk {\n path = \"a\"\n}\ndisk = []", 1, []string{"given twice"}},
		{"two for one", "boot {\n path = \"a\"\n}\nboot {\n path = \"b\"\n}", 4, []string{"Duplicate block", "line 1"}},
		{"unknown value", "name = unknown", 1, []string{"not known"}},
		{"no such variable", "name = nothing", 1, []string{"Unknown variable"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			diags := Decode(parseBody(t, test.src), testContext, &options{})
			if len(diags) != 1 {
				t.Fatalf("%d findings, want 1: %v", len(diags), diags)
			}
			text := diags[0].Summary + ": " + diags[0].Detail
			for _, w := range test.want {
				if !strings.Contains(text, w) {
					t.Errorf("%q does not say %q", text, w)
				}
			}
			if diags[0].Subject == nil || diags[0].Subject.Start.Line != test.line {
				t.Errorf("points at %v, want line %d", diags[0].Subject, test.line)
			}
		})
	}
}

func TestDecodeReportsAllInOrder(t *testing.T) {
	diags := Decode(parseBody(t, "zz1 = 1\ncount = \"x\"\nzz2 = 1\ndisk {\n}\nzz3 = 1"), nil, &options{})
	var lines []int
	for _, d := range diags {
		lines = append(lines, d.Subject.Start.Line)
	}
	if !reflect.DeepEqual(lines, []int{1, 2, 3, 4, 6}) {
		t.Errorf("findings on lines %v: %v", lines, diags)
	}
}

func TestDecodeBlockNamesTheBlock(t *testing.T) {
	diags := DecodeBlock(`source "file" "x"`, parseBody(t, ""), nil, &disk{})
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, `"path" is required in source "file" "x"`) {
		t.Error(diags)
	}
}

func TestTake(t *testing.T) {
	var c common
	rest, diags := Take("x", parseBody(t, "user = \"u\"\nname = \"n\"\ndisk {\n path = \"a\"\n}"), nil, &c)
	if diags.HasErrors() || c.User != "u" {
		t.Fatal(c, diags)
	}
	var o options
	if diags := Decode(rest, nil, &o); diags.HasErrors() || o.User != "" || o.Name != "n" || len(o.Disks) != 1 {
		t.Errorf("%+v %v", o, diags)
	}
}

func TestFields(t *testing.T) {
	var got []string
	for _, f := range Fields(&options{}) {
		s := f.Name + ":" + f.Type
		if f.Late {
			s += ":late"
		}
		for _, sub := range f.Fields {
			s += "/" + sub.Name
			if sub.Required {
				s += "!"
			}
		}
		got = append(got, s)
	}
	want := []string{"user:string", "name:string", "on:bool", "maybe:bool", "count:number", "small:number", "ratio:number", "timeout:duration",
		"memory:size", "words:list of string", "codes:list of number", "env:map of string", "raw:any", "disk:list of block/path!/size/wait",
		"boot:block/path!/size/wait", "root:block/path!/size/wait", "command:string:late"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]Size{
		"0": 0, "1024": 1024, "512m": 512 << 20, "10g": 10 << 30, "1GiB": 1 << 30, "1.5k": 1536, "2 GB": 2 << 30, "3b": 3, "1T": 1 << 40, "1pib": 1 << 50,
	} {
		got, err := ParseSize(in)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
		if again, err := ParseSize(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which reads as %d, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "m", "-1", "1.0001k", "1e3", "0x10", "0b1", "1_000", "1/2", "9999999p", "5xb", "1mm", "NaN", "Inf", strings.Repeat("9", 99)} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestEachString(t *testing.T) {
	o := options{Name: "n", Words: []string{"w"}, Env: map[string]string{"B": "b", "A": "a"}, Disks: []disk{{Path: "p"}}, Boot: &disk{Path: "q"}, Command: "c",
		Raw: cty.StringVal("raw")}
	var seen []string
	errs := EachString(&o, func(option, s string) (string, error) {
		if s == "w" {
			return "", errTest
		}
		if s != "" {
			seen = append(seen, option)
		}
		return s + "!", nil
	})
	if len(errs) != 1 || errs[0].Option != "words.0" || errs[0].Err != errTest {
		t.Error(errs)
	}
	if want := []string{"name", "env.A", "env.B", "disk.0.path", "boot.path"}; !reflect.DeepEqual(seen, want) {
		t.Errorf("seen %v, want %v", seen, want)
	}
	if o.Name != "n!" || o.Env["A"] != "a!" || o.Disks[0].Path != "p!" || o.Boot.Path != "q!" || o.Command != "c" || o.Words[0] != "w" {
		t.Errorf("%+v", o)
	}
}

type testError string

func (e testError) Error() string { return string(e) }

const errTest = testError("test")

func TestLocate(t *testing.T) {
	body := parseBody(t, "name = \"n\"\nwords = [\n\"a\",\n\"b\",\n]\ndisk {\n path = \"a\"\n}\ndisk {\n path = \"b\"\n}\nenv = {\n A = 1\n}\nboot {\n path = \"c\"\n}")
	for option, line := range map[string]int{
		"name": 1, "words": 2, "words.1": 4, "words.9": 2, "disk": 6, "disk.1": 9, "disk.1.path": 10, "disk.1.size": 9, "env.A": 13, "boot.path": 16,
		"disk.2": 0, "disk.-1": 0, "nothing": 0, "": 0,
	} {
		at, ok := Locate(body, strings.Split(option, "."))
		if ok != (line > 0) || ok && at.Start.Line != line {
			t.Errorf("Locate(%q) = %v, %v; want line %d", option, at, ok, line)
		}
	}
	at, ok := Locate(parseBody(t, "{\"disk\": [{},\n{\"path\": 1}]}"), []string{"disk", "1", "path"})
	if !ok || at.Start.Line != 2 {
		t.Errorf("in JSON: %v, %v", at, ok)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"name = 1", "disk {\n}", "disk = [{}]", "boot = [[]]", "env {\n a = 1\n}", "timeout = \"1s\"", "memory = \"1g\"", "raw = null", "words = five", `{"disk": [{"path": null}], "boot": []}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) > 1000 {
			t.Skip("long inputs only make the search slower")
		}
		var file *hcl.File
		var diags hcl.Diagnostics
		if strings.HasPrefix(src, "{") {
			file, diags = json.Parse([]byte(src), "x.json")
		} else {
			file, diags = hclsyntax.ParseConfig([]byte(src), "x.hcl", hcl.InitialPos)
		}
		if diags.HasErrors() {
			return
		}
		for _, d := range Decode(file.Body, testContext, &options{}) {
			if d.Summary == "" || d.Subject == nil {
				t.Errorf("finding without summary or place: %+v", d)
			}
		}
	})
}
