package functions

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

var start = time.Date(2026, 7, 24, 13, 30, 5, 0, time.FixedZone("", 3600))

// eval evaluates an expression and returns the value as JSON.
func eval(t *testing.T, dir, src string) (string, error) {
	t.Helper()
	expr, diags := hclsyntax.ParseExpression([]byte(src), "test", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	v, diags := expr.Value(&hcl.EvalContext{Functions: All(Options{Dir: dir, Now: start}), Variables: map[string]cty.Value{"unknown": cty.UnknownVal(cty.String)}})
	if diags.HasErrors() {
		return "", diags
	}
	if !v.IsWhollyKnown() {
		return "unknown", nil
	}
	out, err := ctyjson.Marshal(v, v.Type())
	return string(out), err
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFunctions(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) { writeFile(t, filepath.Join(dir, name), text) }
	write("a.txt", "hello")
	write("list.tpl", "%{ for x in names ~}\n${upper(x)}\n%{ endfor ~}\n")
	write("value.tpl", "${names}")
	absolute := filepath.ToSlash(filepath.Join(dir, "a.txt"))
	for src, want := range map[string]string{
		`alltrue([true, "true"])`:                        `true`,
		`alltrue([true, false])`:                         `false`,
		`alltrue([])`:                                    `true`,
		`anytrue([false, true])`:                         `true`,
		`anytrue([])`:                                    `false`,
		`base64gzip("x") != ""`:                          `true`,
		`can(1 + "x")`:                                   `false`,
		`cidrsubnets("10.0.0.0/8", 8, 8)`:                `["10.0.0.0/16","10.1.0.0/16"]`,
		`coalesce(null, "", "x")`:                        `"x"`,
		`convert("1", number)`:                           `1`,
		`endswith("abc", "bc")`:                          `true`,
		`startswith("abc", "bc")`:                        `false`,
		`strcontains("abc", "b")`:                        `true`,
		`file("a.txt")`:                                  `"hello"`,
		`filebase64("` + absolute + `")`:                 `"aGVsbG8="`,
		`fileexists("a.txt")`:                            `true`,
		`fileexists("b.txt")`:                            `false`,
		`fileset(".", "*.txt")`:                          `["a.txt"]`,
		`index(["a", "b"], "b")`:                         `1`,
		`index([1, "b"], 1)`:                             `0`,
		`join("-", sort(["b", "a"]))`:                    `"a-b"`,
		`jsondecode("{\"a\":1}").a`:                      `1`,
		`legacy_isotime()`:                               `"2026-07-24T12:30:05Z"`,
		`legacy_isotime("2006")`:                         `"2026"`,
		`legacy_strftime("%H:%M")`:                       `"12:30"`,
		`length("größe")`:                                `5`,
		`length([1, "a"])`:                               `2`,
		`length({a = 1})`:                                `1`,
		`length(convert([1, 1], set(number)))`:           `1`,
		`lookup({a = "x"}, "b", "y")`:                    `"y"`,
		`replace("a.b", ".", "-")`:                       `"a-b"`,
		`replace("abc", "/b/", "-")`:                     `"abc"`, // no regular expressions, unlike Terraform
		`regex_replace("abc", "b+", "-")`:                `"a-c"`,
		`rfc3339_parse("2026-07-24T12:30:05Z").unix`:     `1784896205`,
		`rfc3339_parse("2026-07-24T12:30:05Z").iso_week`: `30`,
		`unix_timestamp_parse(0).rfc3339`:                `"1970-01-01T00:00:00Z"`,
		`unix_timestamp_parse(0).weekday_name`:           `"Thursday"`,
		`sum([1, 2.5, "3"])`:                             `6.5`,
		`templatefile("list.tpl", {names = ["a", "b"]})`: `"A\nB\n"`,
		`templatefile("value.tpl", {names = ["a"]})`:     `["a"]`,
		`templatefile("value.tpl", {names = unknown})`:   `unknown`,
		`textdecodebase64(textencodebase64("hi", "UTF-16LE"), "UTF-16LE")`: `"hi"`,
		`textencodebase64("hi", "UTF-16LE")`:                               `"aABpAA=="`,
		`try(jsondecode("{"), "no")`:                                       `"no"`,
		`uuidv5("dns", "example.com")`:                                     `"cfbff0d1-9375-5685-968c-48ce8b15ae17"`,
		`yamldecode("a: [1]").a`:                                           `[1]`,
		`yamlencode({a = 1})`:                                              `"\"a\": 1\n"`,
	} {
		got, err := eval(t, dir, src)
		if err != nil || got != want {
			t.Errorf("%s = %s, %v; want %s", src, got, err, want)
		}
	}
}

func TestFunctionErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "self.tpl"), []byte(`${templatefile("self.tpl", {})}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for src, want := range map[string]string{
		`index(["a"], "b")`:                "does not have",
		`index("a", "b")`:                  "list or tuple",
		`length(1)`:                        "must be a string",
		`lookup({a = 1}, "b")`:             "Not enough function arguments",
		`legacy_isotime("a", "b")`:         "only one layout",
		`sum([])`:                          "not be empty",
		`sum(["x"])`:                       "only numbers",
		`sum("x")`:                         "must be a list",
		`rfc3339_parse("yesterday")`:       "must be a time",
		`unix_timestamp_parse(0.5)`:        "whole number",
		`textencodebase64("x", "klingon")`: "no encoding",
		`textdecodebase64("?", "UTF-8")`:   "not base64",
		`templatefile("self.tpl", {})`:     "templatefile",
		`templatefile("none.tpl", {})`:     "none.tpl",
		`templatefile("self.tpl", [])`:     "object",
		`file("none.txt")`:                 "none.txt",
		`vault("a", "b")`:                  "VAULT_TOKEN is not set",
		`consul_key(null)`:                 "must not be null",
		`env("HOME")`:                      "no function named",
	} {
		if got, err := eval(t, dir, src); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s = %s, %v; want an error that says %q", src, got, err, want)
		}
	}
}

func TestTimestampIsNow(t *testing.T) {
	before := time.Now().UTC().Truncate(time.Second)
	got, err := eval(t, "", `timestamp()`)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(`"`+time.RFC3339+`"`, got)
	if err != nil || at.Before(before) || at.After(time.Now()) {
		t.Errorf("timestamp() = %s, %v", got, err)
	}
}

func TestEnv(t *testing.T) {
	f := Env([]string{"A=1", "B=x=y", "A=2", "AB=3"})
	for key, want := range map[string]string{"A": "2", "B": "x=y", "C": "", "": ""} {
		got, err := f.Call([]cty.Value{cty.StringVal(key)})
		if err != nil || got.AsString() != want {
			t.Errorf("env(%q) = %#v, %v; want %q", key, got, err, want)
		}
	}
}

func TestCheckSource(t *testing.T) {
	for _, c := range []struct {
		what string
		src  string
		ok   bool
	}{
		{"plain", strings.Repeat("word ", 10000), true},
		{"large", strings.Repeat("a", MaxSource+1), false},
		{"deep", strings.Repeat("[", maxMarks+1), false},
		{"unary", strings.Repeat("!", maxMarks+1), false},
	} {
		if err := CheckSource([]byte(c.src)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestTemplateFileLimits(t *testing.T) {
	dir := t.TempDir()
	for name, src := range map[string]string{"deep.tpl": "${" + strings.Repeat("!", maxMarks) + "true}", "binary.tpl": "\xff"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := eval(t, dir, fmt.Sprintf("templatefile(%q, {})", name)); err == nil {
			t.Errorf("%s gives %s, want an error", name, got)
		}
	}
}

// A device has no end, and a pipe may be a file of a process.
func TestFilesOfAllKinds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the devices are Linux's")
	}
	for _, f := range []string{"file", "filebase64"} {
		if _, err := eval(t, "", f+`("/dev/zero")`); err == nil || !strings.Contains(err.Error(), "/dev/zero is refused: it is larger than") {
			t.Errorf("%s: %v", f, err)
		}
		if got, err := eval(t, "", f+`("/dev/null")`); got != `""` {
			t.Errorf("%s: %s, %v", f, got, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("piped"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got, err := eval(t, "", fmt.Sprintf(`file("/dev/fd/%d")`, r.Fd())); got != `"piped"` {
		t.Errorf("%s, %v", got, err)
	}
}
