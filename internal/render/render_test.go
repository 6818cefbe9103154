package render

import (
	"strings"
	"testing"
	"time"
)

var env = Env{
	BuildName: "web", BuildType: "null", TemplateDir: "dir", Version: "1.16.0",
	Now: time.Date(2026, 7, 24, 12, 30, 0, 0, time.FixedZone("", 3600)),
}

func TestString(t *testing.T) {
	data := map[string]any{"Path": "/tmp/x", "Vars": "A='1' "}
	for in, want := range map[string]string{
		"":                              "",
		"no braces":                     "no braces",
		"}} { {":                        "}} { {",
		"{{build_name}}-{{build_type}}": "web-null",
		"{{ template_dir }}":            "dir",
		"{{packer_version}}":            "1.16.0",
		"{{timestamp}}":                 "1784892600",
		"{{isotime}}":                   "2026-07-24T11:30:00Z",
		"{{isotime `2006-01-02`}}":      "2026-07-24",
		"{{strftime `%Y%m%d`}}":         "20260724",
		"{{user `x`}}":                  "",
		"{{upper `a`}}{{lower `B`}}":    "Ab",
		"{{build_name | upper}}":        "WEB",
		"{{replace `a` `b` 1 `aa`}}":    "ba",
		"{{replace_all `a` `b` `aa`}}":  "bb",
		"{{split `a-b-c` `-` 1}}":       "b",
		"{{.Vars}} {{ .Path }}":         "A='1'  /tmp/x",
		"{{if .Path}}y{{end}}":          "y",
		"{{ `{{` }}":                    "{{",
	} {
		got, err := String(in, data, env)
		if err != nil || got != want {
			t.Errorf("String(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestStringErrors(t *testing.T) {
	for in, want := range map[string][]string{
		"{{ .Names }}":          {".Names", ".Path", ".Vars"},
		"{{ json . }}":          {`"json"`, "braces"},
		"{{ build `ID` }}":      {"${build.ID}"},
		"{{ env `HOME` }}":      {"default"},
		"{{":                    {"unclosed action"},
		"{{split `a` `-` 1}}":   {"no part 1"},
		"{{isotime `a` `b`}}":   {"one layout"},
		"{{ .Path.Deep.Down }}": {"Deep"},
	} {
		got, err := String(in, map[string]any{"Path": "p", "Vars": ""}, env)
		if err == nil {
			t.Errorf("String(%q) = %q, want an error", in, got)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("String(%q): error %q does not say %q", in, err, w)
			}
		}
	}
	if _, err := String("{{ .X }}", nil, env); err == nil || !strings.Contains(err.Error(), "no values are known") {
		t.Errorf("without data: %v", err)
	}
}

func TestUUIDsDiffer(t *testing.T) {
	got, err := String("{{uuid}} {{uuid}}", nil, env)
	a, b, _ := strings.Cut(got, " ")
	if err != nil || len(a) != 36 || len(b) != 36 || a == b {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"{{.Path}}", "{{timestamp}}", "{{if}}", "{{split `a` `b` 9}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, err := String(s, map[string]any{"Path": "p"}, env)
		if !strings.Contains(s, "{{") && (out != s || err != nil) {
			t.Errorf("String(%q) = %q, %v", s, out, err)
		}
	})
}

func TestCheckNames(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                 "",
		"{{ .Path }} {{ .Vars | upper }}":       "",
		"{{ nope":                               "",
		"{{/* nothing */}}":                     "",
		"{{ range .Vars }}{{ .Name }}{{ end }}": "",
		"{{ .Names }}":                          ".Names",
		"{{ if .Path }}{{ .X }}{{ end }}":       ".X",
		"{{ if .X }}{{ end }}":                  ".X",
		"{{ with .X }}{{ .Y }}{{ end }}":        ".X",
		"{{ upper (lower .X) }}":                ".X",
		"{{ $.X }}":                             ".X",
		"{{ (.X).Y }}":                          ".X",
		"{{ .X.Y }}":                            ".X",
	} {
		err := CheckNames(in, []string{"Path", "Vars"}, Env{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), "{{ "+want+" }} is unknown; known here are .Path, .Vars") {
			t.Errorf("CheckNames(%q) = %v; want %q", in, err, want)
		}
	}
}

func TestCallsThatFailAlways(t *testing.T) {
	for in, want := range map[string]string{
		"x {{ env `HOME` }}":                           "env may only be used",
		"{{ replace `b` `c` `ababa` 2 }}":              "expected integer",
		"{{ split `a-b` `-` 2 }}":                      "no part 2",
		"{{ clean_resource_name `a` }}":                "exists only in sources",
		"{{ vault `a` `b` | upper }}":                  "${vault(…)}",
		"{{ split .Path `-` 2 }}":                      "",
		"{{ if .Path }}{{ env `HOME` }}{{ end }}":      "",
		"{{ $x := env `A` }}":                          "",
		"{{ build_name }} {{ timestamp }} {{ uuid }}":  "",
		"{{- split `a-b` `-` 1 | upper -}} {{ `{{` }}": "",
	} {
		err := CheckNames(in, []string{"Path"}, Env{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("CheckNames(%q) = %v; want %q", in, err, want)
		}
	}
}

func TestFunctionsOfElsewhere(t *testing.T) {
	for in, want := range map[string]string{
		"{{ clean_resource_name `a b` }}": "exists only in sources",
		"{{ vault `a` `b` }}":             "${vault(…)}",
		"{{ consul_key `a` }}":            "${consul_key(…)}",
		"{{ sed `s/a/b/` `a` }}":          "regex_replace",
	} {
		if got, err := String(in, nil, env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("String(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	clean := env
	clean.Clean = func(s string) string { return strings.ReplaceAll(s, " ", "-") }
	if got, err := String("{{ isotime `2006 01` | clean_resource_name }}", nil, clean); err != nil || got != "2026-07" {
		t.Errorf("%q, %v", got, err)
	}
}
