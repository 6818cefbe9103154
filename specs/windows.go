package specs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/ingotbuild/ingot/machine"
)

// On Windows one PowerShell script, which runs in 5.1, asks for all facts. Its
// sections stand in a document of JSON between two lines that begin with a mark
// which nothing on the machine knows before: the mark comes with the script by
// stdin, and none of the sections sees it.
//
//	MARK BEGIN 1234
//	{"sections":[{"kind":"service","ms":120,"late":false,"fault":null,"records":[…]}]}
//	MARK END 1
//
// The first line has the document's length, the last the number of sections.

// A windowsKind is how one kind of fact is asked for on Windows.
type windowsKind struct {
	// script gets the subjects as $s and its time in milliseconds as $ms. It
	// puts out hash tables; anything else is ignored. One without n is about
	// all subjects.
	script string
	// programs says that it starts programs, whose time it watches itself.
	programs bool
	read     func(all []record, subjects []string) (facts, error)
}

// windowsTimeout is the default on Windows, where the first use of a module
// alone may take seconds.
const windowsTimeout = 30 * time.Second

// windowsGrace is how much longer a section with programs may take than they do.
const windowsGrace = 5 * time.Second

// windowsScript is given the mark, the prelude, and for each section its kind,
// its time, the time of its programs, its text, the number of its subjects, and those.
//
// Sections run one after the other in a runspace of their own, in which modules
// stay loaded; after one that is late there is a new one. The document is
// written by hand: ConvertTo-Json of 5.1 turns enums into numbers, cuts what is
// deep into text, makes objects of strings that a provider has decorated, and
// puts out characters that a code page may not have.
const windowsScript = `param($a)
function ConvertTo-Text($v) {
if ($null -eq $v) { return 'null' }
if ($v -is [bool]) { if ($v) { return 'true' } else { return 'false' } }
if ($v -is [Collections.IDictionary]) { return '{' + (@(foreach ($k in $v.GetEnumerator()) { (ConvertTo-Text ([string]$k.Key)) + ':' + (ConvertTo-Text $k.Value) }) -join ',') + '}' }
if ($v -is [Collections.IEnumerable] -and $v -isnot [string]) { return '[' + (@(foreach ($e in $v) { ConvertTo-Text $e }) -join ',') + ']' }
$t = [Convert]::ToString($v, [Globalization.CultureInfo]::InvariantCulture)
$t = $t.Replace('\', '\\').Replace('"', '\"').Replace([string][char]13, '\r').Replace([string][char]10, '\n').Replace([string][char]9, '\t')
'"' + [regex]::Replace($t, '[^ -~]', { param($m) '\u{0:x4}' -f [int][char]$m.Value }) + '"'
}
function Open-Worker {
$r = [Management.Automation.Runspaces.RunspaceFactory]::CreateRunspace()
$r.Open()
$q = [Management.Automation.PowerShell]::Create()
$q.Runspace = $r
[void]$q.AddScript($a[1], $false).Invoke()
$r
}
try { if ([Console]::InputEncoding.CodePage -eq 65001) { [Console]::InputEncoding = New-Object Text.UTF8Encoding $false } } catch { }
$worker = $null
$parts = New-Object Collections.ArrayList
$i = 2
while ($i -lt $a.Count) {
$wait = [int]$a[$i + 1]; $ms = [int]$a[$i + 2]; $text = $a[$i + 3]; $n = [int]$a[$i + 4]
$s = [string[]]@(for ($j = 0; $j -lt $n; $j++) { $a[$i + 5 + $j] })
$section = @{ kind = $a[$i]; late = $false; fault = $null; records = @() }
$i += 5 + $n
$watch = [Diagnostics.Stopwatch]::StartNew()
try {
if (-not $worker) { $worker = Open-Worker }
$p = [Management.Automation.PowerShell]::Create()
$p.Runspace = $worker
[void]$p.AddScript($text, $true).AddArgument($s).AddArgument($ms)
$h = $p.BeginInvoke()
if ($h.AsyncWaitHandle.WaitOne($wait)) {
$section.records = @($p.EndInvoke($h) | Where-Object { $_ -is [Collections.IDictionary] })
} else {
$section.late = $true; $worker = $null
[void]$p.BeginStop($null, $null)
}
} catch {
$e = $_.Exception; while ($e.InnerException) { $e = $e.InnerException }
$section.fault = $e.GetType().Name + ': ' + $e.Message
}
$section.ms = $watch.ElapsedMilliseconds
[void]$parts.Add((ConvertTo-Text $section))
}
$doc = '{"sections":[' + ($parts -join ',') + ']}'
$nl = [string][char]10
[Console]::Out.Write($nl + $a[0] + ' BEGIN ' + $doc.Length + $nl + $doc + $nl + $a[0] + ' END ' + $parts.Count + $nl)
[Console]::Out.Flush()
[Environment]::Exit(0)
`

// windowsPrelude is what the sections share. Out-Each asks about one subject
// after the other; an error of one is its answer. PowerShell may take an error
// of a property for $null, so that what must not fail unseen is a method.
const windowsPrelude = `$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'
function Get-Inner($e) { while ($e.InnerException) { $e = $e.InnerException }; $e }
function Out-Each($names, $ask) {
foreach ($name in $names) {
try {
$answers = @(& $ask $name | Where-Object { $_ -is [Collections.IDictionary] })
if ($answers.Count -ne 1) { throw "$($answers.Count) answers to one question" }
$answer = $answers[0]
} catch { $e = Get-Inner $_.Exception; $answer = @{ error = $e.GetType().Name + ': ' + $e.Message } }
$answer['n'] = $name
$answer
}
}
function Test-Gone($e) { $e -is [IO.FileNotFoundException] -or $e -is [IO.DirectoryNotFoundException] -or $e -is [IO.DriveNotFoundException] }
function Test-Command($name) { [bool](Get-Command -Name $name -ErrorAction SilentlyContinue) }
function Get-Full($n) {
$p = [Environment]::ExpandEnvironmentVariables($n)
if ($p -notmatch '^([A-Za-z]:[\\/]|[\\/]{2})') { throw "$p is no whole path" }
[IO.Path]::GetFullPath($p)
}
function Get-Link($p) {
if (([int][IO.File]::GetAttributes($p) -band 1024) -eq 0) { return '' }
$i = Get-Item -LiteralPath $p -Force
if ('SymbolicLink', 'Junction' -contains $i.LinkType) { [string]@($i.Target)[0] } else { '' }
}
function Get-Final($p) {
for ($k = 0; $k -lt 32; $k++) {
$t = Get-Link $p
if ($t -eq '') { return $p }
$p = [IO.Path]::GetFullPath([IO.Path]::Combine([IO.Path]::GetDirectoryName($p), $t))
}
throw 'the links lead in a circle'
}
function Get-Bytes($p, $max) {
$o = [IO.File]::Open($p, 'Open', 'Read', 'ReadWrite, Delete')
try {
$b = New-Object byte[] $max; $k = 0
while ($k -lt $max) { $g = $o.Read($b, $k, $max - $k); if ($g -le 0) { break }; $k += $g }
} finally { $o.Close() }
[Convert]::ToBase64String($b, 0, $k)
}
function Get-AccountName($sid) { try { $sid.Translate([Security.Principal.NTAccount]).Value } catch { '' } }
function Get-Account($n, $class) {
if ($n -match '[,"\\/]') { throw "$n is no name of a local account" }
try {
$e = [ADSI]"WinNT://$env:COMPUTERNAME/$n,$class"
$e.psbase.RefreshCache()
$e
} catch {
$x = Get-Inner $_.Exception
if (-2147022675, -2147022676, -2147023520, -2147023579, -2147023577 -notcontains $x.HResult) { throw }
}
}
function Get-AccountSid($e) { (New-Object Security.Principal.SecurityIdentifier -ArgumentList ([byte[]]$e.psbase.Properties['objectSid'].Value), 0).Value }
function Get-Related($e, $what) {
foreach ($m in @($e.psbase.Invoke($what))) { [string]$m.GetType().InvokeMember('Name', 'GetProperty', $null, $m, $null) }
}
function Get-ProfilePath($sid) { [string][Microsoft.Win32.Registry]::GetValue("HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion\ProfileList\$sid", 'ProfileImagePath', '') }
function Get-ServiceRow($n) {
if (-not $global:ingotServices) { $global:ingotServices = @(Get-CimInstance -ClassName Win32_Service) }
$x = @($global:ingotServices | Where-Object { $_.Name -eq $n })
if ($x.Count -eq 0) { $x = @($global:ingotServices | Where-Object { $_.DisplayName -eq $n }) }
if ($x.Count -gt 1) { throw "$($x.Count) services have this display name" }
if ($x.Count -eq 1) { $x[0] }
}
function Invoke-Program($file, $arguments, $ms) {
$max = 4194304
$i = New-Object Diagnostics.ProcessStartInfo
$i.FileName = $file; $i.Arguments = $arguments; $i.UseShellExecute = $false
$i.RedirectStandardInput = $true; $i.RedirectStandardOutput = $true; $i.RedirectStandardError = $true
$watch = [Diagnostics.Stopwatch]::StartNew()
$p = [Diagnostics.Process]::Start($i)
$p.StandardInput.Close()
$from = @($p.StandardOutput.BaseStream, $p.StandardError.BaseStream)
$into = @((New-Object IO.MemoryStream), (New-Object IO.MemoryStream))
$buf = @{ 0 = [Array]::CreateInstance([byte], 65536); 1 = [Array]::CreateInstance([byte], 65536) }
$task = @{ 0 = $from[0].ReadAsync($buf[0], 0, 65536); 1 = $from[1].ReadAsync($buf[1], 0, 65536) }
$open = @(0, 1); $end = $ms; $over = $false; $much = $false
while ($open.Count -gt 0) {
if (-not $over -and $p.HasExited) { $over = $true; $end = [Math]::Min($ms, $watch.ElapsedMilliseconds + 500) }
$left = [int]($end - $watch.ElapsedMilliseconds)
if ($left -le 0) { break }
$wait = [Threading.Tasks.Task[]]@(foreach ($k in $open) { $task[$k] })
$k = [Threading.Tasks.Task]::WaitAny($wait, [Math]::Min($left, 50))
if ($k -lt 0) { continue }
$k = $open[$k]; $g = 0
try { $g = $task[$k].Result } catch { }
if ($g -gt 0 -and $into[$k].Length -lt $max) {
$into[$k].Write($buf[$k], 0, $g)
$task[$k] = $from[$k].ReadAsync($buf[$k], 0, 65536)
} else {
if ($g -gt 0) { $much = $true; break }
$open = @($open | Where-Object { $_ -ne $k })
}
}
$late = $false
if (-not $much) { $late = -not $p.WaitForExit([int][Math]::Max(0, $ms - $watch.ElapsedMilliseconds)) }
if ($late -or $much) { & $env:ComSpec /d /c "taskkill /T /F /PID $($p.Id) >nul 2>nul" }
if ($much) { throw 'the program printed more than 4 MiB' }
if ($late) { return @{ late = $true } }
$e = [Console]::OutputEncoding; $u = [Text.Encoding]::UTF8
@{ status = $p.ExitCode; out = [Convert]::ToBase64String($u.GetBytes($e.GetString($into[0].ToArray()))); err = [Convert]::ToBase64String($u.GetBytes($e.GetString($into[1].ToArray()))) }
}
function Invoke-Tool($names, $arguments, $ms) {
foreach ($t in $names) {
if (Get-Command -Name $t -CommandType Application -ErrorAction SilentlyContinue) { return Invoke-Program $env:ComSpec "/d /s /c ""$t $arguments""" $ms }
}
@{ unsupported = "there is no $($names[0])" }
}
`

// A record is one hash table of a section.
type record map[string]any

func (r record) text(k string) string { s, _ := r[k].(string); return s }
func (r record) yes(k string) bool    { b, _ := r[k].(bool); return b }
func (r record) has(k string) bool    { return r[k] != nil }

// need says which of the keys is not there.
func (r record) need(keys ...string) error {
	for _, k := range keys {
		if !r.has(k) {
			return fmt.Errorf("the machine's answer lacks %q", k)
		}
	}
	return nil
}

func (r record) list(k string) []string {
	out := []string{}
	all, _ := r[k].([]any)
	for _, e := range all {
		if s, ok := e.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func (r record) records(k string) []record {
	var out []record
	all, _ := r[k].([]any)
	for _, e := range all {
		if m, ok := e.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func (r record) bytes(k string) ([]byte, error) {
	if err := r.need(k); err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(r.text(k))
	if err != nil {
		return nil, fmt.Errorf("the machine's answer has no base64 in %q", k)
	}
	return b, nil
}

// err is what a record says in place of an answer.
func (r record) err() error {
	switch {
	case r.has("error"):
		return errors.New(Clean(r.text("error")))
	case r.has("missing"):
		return missing(r.text("missing"))
	case r.has("unsupported"):
		return unsupported(Clean(r.text("unsupported")))
	case r.yes("late"):
		return errors.New("it did not end in time, and was ended")
	}
	return nil
}

// common gives what stands for all subjects: an error, or nil.
func common(all []record) error {
	for _, r := range all {
		if !r.has("n") {
			if err := r.err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// complete is common, where a record says at the end that nothing is left out.
func complete(all []record) error {
	if err := common(all); err != nil {
		return err
	}
	for _, r := range all {
		if r.yes("whole") {
			return nil
		}
	}
	return errors.New("the machine's answer is not whole")
}

// named makes the reader of a section that has a record for each subject.
func named(read func(r record) (any, error)) func([]record, []string) (facts, error) {
	return func(all []record, subjects []string) (facts, error) {
		if err := common(all); err != nil {
			return nil, err
		}
		result := facts{}
		for _, r := range all {
			n, ok := r["n"].(string)
			if !ok {
				continue
			}
			if result[n] != nil {
				return nil, fmt.Errorf("the machine gave two answers for %s", Clean(n))
			}
			v, err := any(nil), r.err()
			if err == nil {
				v, err = read(r)
			}
			if err != nil {
				v = err
			}
			result[n] = v
		}
		return unanswered(result, subjects), nil
	}
}

// windowsSection is one section of the document.
type windowsSection struct {
	Kind    string   `json:"kind"`
	MS      string   `json:"ms"`
	Late    bool     `json:"late"`
	Fault   *string  `json:"fault"`
	Records []record `json:"records"`
}

// A document takes the document out of what the script prints, as it arrives.
type document struct {
	mark  string
	allow func(n int) bool
	done  func()

	mu    sync.Mutex
	buf   []byte
	seen  int // no end begins before
	ended bool
}

// Write never fails; what is over the limit is dropped.
func (d *document) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || !d.allow(len(p)) {
		return len(p), nil
	}
	d.buf = append(d.buf, p...)
	end := []byte("\n" + d.mark + " END ")
	if i := bytes.Index(d.buf[d.seen:], end); i >= 0 {
		d.seen += i
		if bytes.IndexByte(d.buf[d.seen+len(end):], '\n') >= 0 {
			d.ended = true
			d.done()
		}
	} else {
		d.seen = max(d.seen, len(d.buf)-len(end)+1)
	}
	return len(p), nil
}

func (d *document) complete() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

// result gives the sections, of which there have to be count.
func (d *document) result(count int) ([]windowsSection, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		return nil, errors.New("the output broke off before its end")
	}
	_, rest, ok := strings.Cut("\n"+string(d.buf), "\n"+d.mark+" BEGIN ")
	length, rest, ok2 := strings.Cut(rest, "\n")
	n, err := strconv.ParseUint(strings.TrimSuffix(length, "\r"), 10, 31)
	if !ok || !ok2 || err != nil || n > uint64(len(rest)) {
		return nil, errors.New("the document has no beginning")
	}
	text, tail := rest[:n], strings.ReplaceAll(rest[n:], "\r", "")
	if want := fmt.Sprintf("\n%s END %d\n", d.mark, count); !strings.HasPrefix(tail, want) {
		return nil, fmt.Errorf("the document does not end where it says, or has not %d parts", count)
	}
	var doc struct {
		Sections []windowsSection `json:"sections"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("the document is damaged: %w", err)
	}
	if len(doc.Sections) != count {
		return nil, fmt.Errorf("the document has %d parts, not %d", len(doc.Sections), count)
	}
	return doc.Sections, nil
}

// said keeps the beginning of the error output.
type said struct {
	mu  sync.Mutex
	buf []byte
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf, p[:min(len(p), 4096-len(s.buf))]...)
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSpace(string(s.buf))
}

// windowsCall is the command that asks all sections.
func windowsCall(sections []section, mark string) machine.Command {
	kinds := windowsKinds()
	args := []string{mark, windowsPrelude}
	for _, s := range sections {
		k := kinds[s.kind.name]
		wait := s.timeout
		if k.programs {
			wait += windowsGrace
		}
		args = append(args, s.kind.name, strconv.FormatInt(wait.Milliseconds(), 10), strconv.FormatInt(s.timeout.Milliseconds(), 10), "param($s, $ms)\n"+k.script, strconv.Itoa(len(s.subjects)))
		args = append(args, s.subjects...)
	}
	line, stdin := powershell.Engine{Policy: "Bypass"}.Call(windowsScript, args...)
	return machine.Command{Line: line, Stdin: stdin}
}

// askWindows is ask for a Windows machine.
func askWindows(ctx context.Context, m machine.Machine, sections []section, maxOutput int64) ([]answer, error) {
	limit := time.Minute // PowerShell may take long to start
	for _, s := range sections {
		limit += s.timeout + windowsGrace
	}
	run, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	var left atomic.Int64
	left.Store(maxOutput)
	allow := func(n int) bool {
		if left.Add(-int64(n)) >= 0 {
			return true
		}
		cancel()
		return false
	}
	doc := &document{mark: rand.Text() + rand.Text(), allow: allow, done: func() { time.AfterFunc(grace, cancel) }}
	errOut := &said{}
	text := powershell.NewStderr(errOut)
	c := windowsCall(sections, doc.mark)
	c.Stdout, c.Stderr = doc, text
	err := m.Run(run, c)
	_ = text.Flush() // said takes everything

	got, why := doc.result(len(sections))
	if why != nil {
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case left.Load() < 0:
			err = fmt.Errorf("the machine printed more than %d bytes", maxOutput)
		case run.Err() != nil && !doc.complete():
			err = fmt.Errorf("the checks did not end within %s", limit)
		default:
			if s := errOut.String(); s != "" {
				why = fmt.Errorf("%w; it said: %s", why, Clean(s))
			}
			if err != nil {
				why = fmt.Errorf("%w (%w)", why, err)
			}
			err = why
		}
	} else {
		err = nil
	}
	answers := make([]answer, len(sections))
	for i := range answers {
		a := &answers[i]
		if err != nil {
			a.err = fmt.Errorf("no answer: %w", err)
			continue
		}
		s := got[i]
		ms, _ := strconv.ParseUint(s.MS, 10, 40)
		a.seconds = float64(ms) / 1000
		a.records = s.Records
		switch {
		case s.Kind != sections[i].kind.name:
			a.err = fmt.Errorf("the machine answered about %s", Clean(s.Kind))
		case s.Late:
			a.err = fmt.Errorf("it did not end within %s", sections[i].timeout)
		case s.Fault != nil:
			a.err = errors.New(Clean(*s.Fault))
		}
	}
	return answers, err
}
