// Package powershell makes command lines and script text for PowerShell in
// which data stay data.
package powershell

import (
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// Quote makes s one string literal. PowerShell ends a literal at typographic
// single quotes too, so they are doubled like the plain one.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, r := range s {
		switch r {
		case '\'', '\u2018', '\u2019', '\u201a', '\u201b':
			b.WriteRune(r)
		}
		b.WriteRune(r)
	}
	b.WriteByte('\'')
	return b.String()
}

// Encode is text as -EncodedCommand takes it.
func Encode(text string) string {
	units := utf16.Encode([]rune(text))
	b := make([]byte, 2*len(units))
	for i, u := range units {
		b[2*i], b[2*i+1] = byte(u), byte(u>>8)
	}
	return base64.StdEncoding.EncodeToString(b)
}

// Engine is one of the programs that run PowerShell.
type Engine struct {
	// Pwsh means PowerShell 7 (pwsh) instead of Windows PowerShell.
	Pwsh bool
	// Policy is the execution policy; empty: the machine's own.
	Policy string
}

// Line is the command line that runs text. It holds nothing that cmd,
// PowerShell or sh would take for their own, so that each can start it.
func (e Engine) Line(text string) string {
	exe := "powershell"
	if e.Pwsh {
		exe = "pwsh"
	}
	line := exe + " -NoLogo -NoProfile -NonInteractive -OutputFormat Text"
	if e.Policy != "" {
		line += " -ExecutionPolicy " + e.Policy
	}
	return line + " -EncodedCommand " + Encode(text)
}

// Call is a script that gets its text and its arguments by stdin: they may be
// of any length, and no process list shows them.
//
// PowerShell hands each line of stdin to the command as an element of $input.
// Each is base64 of "." and the text, so that none is empty. The last is a
// mark: a stream that was cut starts nothing.
func (e Engine) Call(text string, args ...string) (line string, stdin io.Reader) {
	var b strings.Builder
	for _, s := range append([]string{text}, append(args, "end")...) {
		b.WriteString(base64.StdEncoding.EncodeToString([]byte("." + s)))
		b.WriteString("\r\n")
	}
	return e.Line(fmt.Sprintf(stage, len(args)+2)), strings.NewReader(b.String())
}

// stage collects the lines and runs the first with the array of the others.
const stage = `$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'
$a = @($input | ForEach-Object { [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($_)).Substring(1) })
$n = %d
if ($a.Count -ne $n -or $a[$n - 1] -ne 'end') { [Console]::Error.WriteLine('ingot: the script did not arrive whole'); exit 1 }
$p = @(for ($i = 1; $i -lt $n - 1; $i++) { $a[$i] })
try { & ([scriptblock]::Create($a[0])) $p } catch { [Console]::Error.WriteLine("$_"); exit 1 }
`
