package goss

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// write makes a file of a directory for the test, and gives its path.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "goss.yaml")
}

// What is wrong is refused with its place, and all of it at once.
func TestLoadErrors(t *testing.T) {
	bomb := "x: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
	for i := range 9 {
		n := string(rune('0' + i))
		m := string(rune('1' + i))
		bomb += "y" + m + ": &a" + m + " [" + strings.Repeat("*a"+n+", ", 10) + "]\n"
	}
	for name, c := range map[string]struct {
		src  string
		want []string
	}{
		"unknown resource":    {"fil: {/x: {exists: true}}", []string{"goss.yaml:1: ", `no resource "fil"; did you mean "file"?`}},
		"unknown attribute":   {"file:\n  /x:\n    exists: true\n    mood: x\n", []string{"goss.yaml:4: ", `file has no attribute "mood"; did you mean "mode"?`}},
		"two at once":         {"file:\n  /x: {exists: true, foobar: 1}\n  /y: {mode: x}\n", []string{"goss.yaml:2: ", "goss.yaml:3: file \"/y\" does not say exists"}},
		"attribute twice":     {"file:\n  /x:\n    exists: true\n    exists: false\n", []string{"goss.yaml:4: ", `"exists" stands here a second time; the first is in line 3`}},
		"resource twice":      {"file:\n  /x: {exists: true}\n  /x: {exists: true}\n", []string{"goss.yaml:3: "}},
		"kind twice":          {"file:\n  /x: {exists: true}\nfile:\n  /y: {exists: true}\n", []string{"goss.yaml:3: "}},
		"timeout":             {"command: {x: {exit-status: 0, timeout: 1s}}", []string{"timeout is a whole number"}},
		"skip":                {"command: {x: {exit-status: 0, skip: 'yes'}}", []string{"skip is true or false"}},
		"header":              {"http: {'http://x': {status: 200, request-headers: [nope]}}", []string{`not "Name: value"`}},
		"nothing":             {"", []string{"it checks nothing"}},
		"only a name":         {"file: {/x: }", []string{"says nothing"}},
		"a list":              {"- x", []string{"names with values are expected, and not a list"}},
		"not YAML":            {"file: [\n", []string{"goss.yaml:", "not YAML"}},
		"no file to include":  {"gossfile: {nothing.yaml: {}}", []string{"there is no file"}},
		"includes itself":     {"gossfile: {goss.yaml: {}}", []string{"the files include each other without end"}},
		"gossfile attribute":  {"gossfile: {x.yaml: {fiel: x}}", []string{`did you mean "file"?`}},
		"template":            {"file: {{ .Vars.nothing }}", []string{"map has no entry for key"}},
		"unknown function":    {"{{ nothing }}", []string{`function "nothing" not defined`}},
		"line of the result":  {"{{ range until 3 }}\n{{ end }}file:\n  /x: {exists: true, foobar: 1}\n", []string{"goss.yaml:5 (of what the template gives): "}},
		"alias bomb":          {bomb + "matching: {x: {content: *a9, matches: []}}", []string{"more than 500000 values"}},
		"nesting":             {"matching: {x: {content: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + ", matches: 1}}", []string{"nested more than 100 deep"}},
		"endless output":      {"{{ range until 100000 }}{{ repeat 100000 \"x\" }}{{ end }}", []string{"gives more than"}},
		"endless list":        {"{{ range until 1000000000 }}{{ end }}", []string{"too long"}},
		"endless recursion":   {`{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}`, []string{"exceeded maximum template depth"}},
		"much out of nothing": {`{{ repeat 2000000000 "x" }}{{ indent 2000000000 "x" }}`, []string{"too much"}},
		"endless file":        {`{{ readFile "/dev/zero" }}`, []string{"longer than"}},
		"fail":                {`{{ fail "not here" }}`, []string{"not here"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "endless file" {
				if _, err := os.Stat("/dev/zero"); err != nil {
					t.Skip("there is no /dev/zero")
				}
			}
			_, err := Load(write(t, map[string]string{"goss.yaml": c.src}), Options{})
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
		})
	}
}

// What is no matcher costs its own check, which never passes.
func TestBrokenMatchers(t *testing.T) {
	for src, want := range map[string]string{
		"file:\n  /x:\n    exists: true\n    mode: {have-prefiks: x}\n": `did you mean "have-prefix"?`,
		"file: {/x: {exists: true, uid: {gt: 1, lt: 3}}}":               "one matcher can stand here, and there are gt, lt",
		"command: {x: {exit-status: 0, stdout: [/(/]}}":                 "missing closing )",
		"file: {/x: {exists: true, uid: {not: {nothing: 1}}}}":          "not: there is no matcher",
	} {
		f, err := Load(write(t, map[string]string{"goss.yaml": src}), Options{})
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		checks := f.Resources[0].Checks
		if len(f.Warnings) != 1 || !strings.Contains(fmt.Sprint(f.Warnings), want) {
			t.Errorf("%s: warnings %v, want %s", src, f.Warnings, want)
		}
		for _, actual := range []any{nil, "x", 2, []any{}} {
			if o := checks[len(checks)-1].Matcher.Match(actual); o.OK || o.Err == nil {
				t.Errorf("%s: %v gives %+v", src, actual, o)
			}
		}
	}
}

// Templates, variables and includes come together as in goss.
func TestLoad(t *testing.T) {
	t.Setenv("GOSS_TEST", "there")
	path := write(t, map[string]string{
		"goss.yaml": `
{{ $m := "db-12" | findStringSubmatch "(?P<name>[a-z]+)-([0-9]+)" }}
{{ $n := "db-12" | findStringSubmatch "([a-z]+)-([0-9]+)" }}
command:
  "{{ .Env.GOSS_TEST }} {{ getEnv "GOSS_TEST_NONE" "or" }} {{ getEnv "GOSS_TEST_NONE" }}{{ "A" | toLower }} {{ "a" | toUpper }} {{ "abc" | regexMatch "^a" }} {{ index $m "name" }} {{ get $n "2" }} {{ range mkSlice 1 2 }}{{ . }}{{ end }}":
    exit-status: "3"
    retry_delay: 2s
  twice: {exit-status: 0}
  kept: &kept {exit-status: 0, timeout: 1500}
  merged: {<<: *kept, exit-status: 7}
matching:
  vars: {content: "{{ .Vars.a.b }} {{ .Vars.a.c }} {{ .Vars.l }} {{ .Vars.inline }} {{ .Vars.value }}", matches: x}
  read: {content: "{{ readFile .Vars.file }}", matches: x}
gossfile:
  sub/*.yaml: {}
  named: {file: more.json}
  left out: {file: nothing.yaml, skip: true}
`,
		"sub/one.yaml":   "gossfile: {../other.yml: {}}\ncommand: {twice: {exit-status: 9}}",
		"other.yml":      "file: {/other: {exists: true, contains: [x]}}",
		"more.json":      `{"user": {"root": {"exists": true, "uid": {"equal": 0}, "meta": {"a": [1]}, "title": "t"}}}`,
		"vars.yaml":      "a: {b: 1, c: 2}\nl: [1, 2]\ninline: x",
		"vars.json":      `{"a": {"c": 3, "b": ""}, "l": [9]}`,
		"secret/of.text": "  trimmed\n",
	})
	dir := filepath.Dir(path)
	f, err := Load(path, Options{
		Vars:   []string{filepath.Join(dir, "vars.yaml"), filepath.Join(dir, "vars.json")},
		Inline: `{"inline": "y", "file": "` + filepath.ToSlash(filepath.Join(dir, "secret/of.text")) + `"}`, Values: map[string]any{"value": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Resource{}
	for _, r := range f.Resources {
		got[r.Kind.Key+" "+r.ID] = r
	}
	for _, want := range []string{"command there or a A true db 12 12", "command twice", "command merged", "matching vars", "file /other", "user root"} {
		if _, ok := got[want]; !ok {
			t.Errorf("there is no %s in %v", want, got)
		}
	}
	if c := got["matching vars"].Content; c != "1 3 [9] y true" {
		t.Errorf("variables: %v", c)
	}
	if c := got["matching read"].Content; c != "trimmed" {
		t.Errorf("readFile: %q", c)
	}
	if r := got["command there or a A true db 12 12"]; r.RetryDelay != 2*time.Second || r.Checks[0].Matcher.Raw() != 3 {
		t.Errorf("%v %v", r.RetryDelay, r.Checks[0].Matcher.Raw())
	}
	if r := got["command merged"]; r.Timeout != 1500*time.Millisecond || r.Checks[0].Matcher.Raw() != 7 {
		t.Errorf("merged: %v %v", r.Timeout, r.Checks[0].Matcher.Raw())
	}
	if m := got["command twice"].Checks[0].Matcher.Raw(); m != 9 {
		t.Errorf("the file that was read later does not hold: %v", m)
	}
	if r := got["user root"]; r.Title != "t" || len(r.Meta) != 1 {
		t.Errorf("%+v", r)
	}
	var warned []string
	for _, w := range f.Warnings {
		warned = append(warned, w.Message)
	}
	if all := strings.Join(warned, "\n"); len(warned) != 2 || !strings.Contains(all, "contains is called contents") || !strings.Contains(all, "stands in") {
		t.Errorf("warnings: %q", warned)
	}
	if f, err := Load("-", Options{Stdin: strings.NewReader(`{"command": {"x": {"exit-status": 1}}}`)}); err != nil || len(f.Resources) != 1 {
		t.Errorf("from standard input: %v %v", f, err)
	}
}

// What the author of a template can loop with is left behind in time; the rest
// is bounded. No text makes the loader panic or hang.
func FuzzLoad(f *testing.F) {
	for _, name := range []string{"matchers.yaml", "machine.yaml", "included.yaml"} {
		b, err := os.ReadFile(filepath.Join("..", "testdata", "goss", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("a: &a [*a]\n")
	f.Add("matching: &m\n  <<: *m\n")
	f.Add("<<: [{<<: {}}]\n")
	f.Add(`{"file": {"/x": {"exists": true, "exists": 1e999}}}`)
	f.Add("matching: {x: {content: !!binary x, matches: !!float .nan}}")
	f.Fuzz(func(t *testing.T, src string) {
		// Templates may do what their author may: files, hosts, time.
		src = strings.ReplaceAll(src, "{{", "{")
		path := filepath.Join(t.TempDir(), "goss.yaml")
		if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := Load(path, Options{})
		if err != nil {
			return
		}
		for _, r := range file.Resources {
			for _, c := range r.Checks {
				for _, v := range []any{nil, true, 3, 2.5, "1.2.3", Reader("a\n{\"a\": [1]}"), []string{"a"}, []any{1, "x"}, map[string]any{"a": 1}, `{"a": {"b": 1}}`, "<a>1</a>", r.Content} {
					c.Matcher.Match(v)
				}
			}
		}
	})
}
