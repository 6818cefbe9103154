package powershell_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/ingotbuild/ingot/internal/powershelltest"
	"github.com/ingotbuild/ingot/internal/winrmtest"
)

func hostile() []string {
	return []string{
		"", "plain", "it's", "''", "a‘b", "’; Remove-Item C:\\ -Recurse #", "‚x", "‛", "$env:Path", "$(exit 1)", "`n", "\"", "a\nb", "@'", "'@", "{", "}", "#", "<#", "%PATH%", "&|;", "é世界🙂", "\x01",
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"": "''", "it's": "'it''s'", "a‘b": "'a‘‘b'", "’": "'’’'", "‚‛": "'‚‚‛‛'", `$x"` + "`": `'$x"` + "`'",
	} {
		if got := powershell.Quote(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	scripts := map[string]string{"bad": "Write-Output 'x"}
	for _, s := range hostile() {
		scripts["quoted "+s] = "Write-Output " + powershell.Quote(s) + " | Out-Null\n"
	}
	powershelltest.Parse(t, scripts)
}

// TestLine: nothing in a line means anything to a shell.
func TestLine(t *testing.T) {
	for _, e := range []powershell.Engine{{}, {Pwsh: true, Policy: "bypass"}} {
		for _, s := range hostile() {
			line := e.Line(s)
			if strings.IndexFunc(line, func(r rune) bool {
				return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=- ", r)
			}) >= 0 {
				t.Errorf("%q", line)
			}
			if text, ok := winrmtest.PowerShell(line); !ok || text != s {
				t.Errorf("%q came as %q", s, text)
			}
			if strings.Contains(line, "-ExecutionPolicy") != (e.Policy != "") || strings.HasPrefix(line, "pwsh ") != e.Pwsh {
				t.Errorf("%+v: %s", e, line)
			}
		}
	}
}

func TestCall(t *testing.T) {
	args := hostile()
	line, stdin := powershell.Engine{}.Call("param($a) 'ü'", args...)
	if len(line) > 8000 {
		t.Errorf("the line has %d characters", len(line))
	}
	boot, _ := winrmtest.PowerShell(line)
	powershelltest.Parse(t, map[string]string{"boot": boot})
	sent, err := io.ReadAll(stdin)
	if err != nil {
		t.Fatal(err)
	}
	text, got, ok := winrmtest.Call(&winrmtest.Process{Line: line, Stdin: bytes.NewReader(sent)})
	if !ok || text != "param($a) 'ü'" || !slices.Equal(got, args) {
		t.Errorf("%v: %q with %q", ok, text, got)
	}
	if _, _, ok := winrmtest.Call(&winrmtest.Process{Line: line, Stdin: bytes.NewReader(sent[:len(sent)-8])}); ok {
		t.Error("what was cut was taken for whole")
	}
}

const errorXML = "#< CLIXML\r\n" + `<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04"><Obj S="progress" RefId="0"><TN RefId="0"><T>System.Management.Automation.PSCustomObject</T></TN><MS><I64 N="SourceId">1</I64><PR N="Record"><AV>Preparing modules</AV></PR></MS></Obj><S S="Error">it &lt;failed_x000D__x000A_</S><S S="Error">_x005F_at line 1_x000D__x000A_</S></Objs>`

func TestStderr(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"plain":                       "plain",
		"#< CL":                       "#< CL",
		"#< CLIXMLESS <<<":            "#< CLIXMLESS <<<",
		errorXML:                      "it <failed\r\n_at line 1\r\n",
		errorXML[:len(errorXML)-3]:    errorXML[:len(errorXML)-3],
		"\ufeff" + errorXML + "after": "it <failed\r\n_at line 1\r\nafter",
		errorXML + "\r\n" + errorXML:  "it <failed\r\n_at line 1\r\nit <failed\r\n_at line 1\r\n",
		"#< CLIXML\r\n<Objs></Objs>":  "",
		"an error\n" + errorXML:       "an error\n" + errorXML,
		`#< CLIXML<S S="Error">_xD83D__xDE42_ _xZZZZ_ _x12</S>`: "🙂 _xZZZZ_ _x12",
	} {
		for _, step := range []int{1, 7, 100000} {
			var out bytes.Buffer
			w := powershell.NewStderr(&out)
			for b := range slices.Chunk([]byte(in), step) {
				if n, err := w.Write(b); n != len(b) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			got := out.String()
			if got != want {
				t.Errorf("%.60q in steps of %d: %q, want %q", in, step, got, want)
			}
		}
	}
}

func FuzzStderr(f *testing.F) {
	f.Add([]byte(errorXML), uint8(5))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		var out bytes.Buffer
		w := powershell.NewStderr(&out)
		for c := range slices.Chunk(b, int(step)+1) {
			if n, err := w.Write(c); n != len(c) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte("#< CLIXML")) && !bytes.Equal(out.Bytes(), b) {
			t.Errorf("%q became %q", b, out.Bytes())
		}
	})
}
