package winrm

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/ingotbuild/ingot/machine"
)

// A tree goes as lines of text, in both directions, through one PowerShell
// process. Windows has had no tar for long, and a zip archive would need twice
// the room and lose times. Words are apart by one space; names and data are
// base64, names of UTF-8 and with slashes.
//
//	R name            where it goes to or comes from: the first line
//	D name            a directory
//	F name size time access
//	                  a file begins: its length, its time in seconds since 1970,
//	                  and r when it is read-only, otherwise w
//	+ data            some of it
//	= sha256          it ends; its hash in hex
//	L name target     a symbolic link
//	H name first      another name of the file first
//	S name            what cannot be sent (only from the machine)
//	. count           the end: how many F, D, L and H there were

// fileData is how much of a file one line has. A multiple of 3 needs no padding.
const fileData = 192 << 10

// putScript takes the lines by PowerShell's pipeline, which reads stdin.
const putScript = `begin {
$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'
$n = 0; $whole = $false; $o = $null; $t = [Text.Encoding]::UTF8; $zero = New-Object DateTime 1970, 1, 1, 0, 0, 0, ([DateTimeKind]::Utc)
function Get-Text($b) { $t.GetString([Convert]::FromBase64String($b)) }
function Get-Place($b) {
$p = [IO.Path]::Combine($root, (Get-Text $b).Replace('/', '\')); [void][IO.Directory]::CreateDirectory([IO.Path]::GetDirectoryName($p))
if ([IO.File]::Exists($p)) { [IO.File]::SetAttributes($p, 'Normal'); [IO.File]::Delete($p) }
$p
}
}
process {
$f = ([string]$_).Split(' ')
switch -CaseSensitive ($f[0]) {
'+' { $b = [Convert]::FromBase64String($f[1]); $o.Write($b, 0, $b.Length); [void]$h.TransformBlock($b, 0, $b.Length, $b, 0) }
'F' { $g = $f; $p = Get-Place $f[1]; $o = [IO.File]::Open($p, 'CreateNew', 'Write'); $h = [Security.Cryptography.SHA256]::Create() }
'=' {
[void]$h.TransformFinalBlock((New-Object byte[] 0), 0, 0); $k = $o.Length; $o.Close(); $o = $null
if ($k -ne [long]$g[2] -or [BitConverter]::ToString($h.Hash).Replace('-', '') -ne $f[1]) { throw "$p did not arrive whole" }
[IO.File]::SetLastWriteTimeUtc($p, $zero.AddSeconds([long]$g[3])); if ($g[4] -eq 'r') { [IO.File]::SetAttributes($p, 'ReadOnly') }
$n++
}
'D' { [void][IO.Directory]::CreateDirectory([IO.Path]::Combine($root, (Get-Text $f[1]).Replace('/', '\'))); $n++ }
'L' { [void](New-Item -ItemType SymbolicLink -Path (Get-Place $f[1]) -Value (Get-Text $f[2]).Replace('/', '\')); $n++ }
'H' { [void](New-Item -ItemType HardLink -Path (Get-Place $f[1]) -Value ([IO.Path]::Combine($root, (Get-Text $f[2]).Replace('/', '\')))); $n++ }
'R' { $root = [IO.Path]::GetFullPath([Environment]::ExpandEnvironmentVariables((Get-Text $f[1]))); [void][IO.Directory]::CreateDirectory($root) }
'.' { $whole = [long]$f[1] -eq $n }
default { throw "a line of the tree begins with $($f[0])" }
}
}
end {
if ($o) { $o.Close() }
if (-not $whole) { throw 'the tree did not arrive whole' }
[Console]::Out.WriteLine(". $n")
}
`

// getScript is given the R line.
const getScript = `$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'
$script:n = 0; $w = [Console]::Out; $t = [Text.Encoding]::UTF8; $zero = New-Object DateTime 1970, 1, 1, 0, 0, 0, ([DateTimeKind]::Utc); $buf = New-Object byte[] 196608
function Get-Name($s) { [Convert]::ToBase64String($t.GetBytes($s)) }
function Send-File($i, $name) {
$s = [IO.File]::Open($i.FullName, 'Open', 'Read', 'ReadWrite')
try {
$h = [Security.Cryptography.SHA256]::Create(); $k = [long]0; $len = $s.Length; $m = 'w'; if ($i.IsReadOnly) { $m = 'r' }
$w.WriteLine('F {0} {1} {2} {3}' -f (Get-Name $name), $len, [long][Math]::Floor(($i.LastWriteTimeUtc - $zero).TotalSeconds), $m)
while ($k -lt $len) {
$g = 0; $max = [Math]::Min($len - $k, $buf.Length)
while ($g -lt $max) { $r = $s.Read($buf, $g, $max - $g); if ($r -le 0) { throw "$($i.FullName) became shorter while it was read" }; $g += $r }
[void]$h.TransformBlock($buf, 0, $g, $buf, 0); $k += $g; $w.WriteLine('+ ' + [Convert]::ToBase64String($buf, 0, $g))
}
[void]$h.TransformFinalBlock($buf, 0, 0); $w.WriteLine('= ' + [BitConverter]::ToString($h.Hash).Replace('-', ''))
$script:n++
} finally { $s.Close() }
}
function Send-Directory($d, $prefix) {
foreach ($i in $d.GetFileSystemInfos()) {
$name = $prefix + $i.Name
if ($i -is [IO.FileInfo]) { Send-File $i $name }
elseif ($i.Attributes -band 1024) { $w.WriteLine('S ' + (Get-Name $name)) }
else { $w.WriteLine('D ' + (Get-Name $name)); $script:n++; Send-Directory $i ($name + '/') }
}
}
$p = $t.GetString([Convert]::FromBase64String(([string]@($input)[0]).Split(' ')[1]))
$p = [IO.Path]::GetFullPath([Environment]::ExpandEnvironmentVariables($p))
if ([IO.File]::Exists($p)) { $i = New-Object IO.FileInfo $p; Send-File $i $i.Name }
elseif ([IO.Directory]::Exists($p)) { Send-Directory (New-Object IO.DirectoryInfo $p) '' }
else { throw "$p does not exist" }
$w.WriteLine(". $script:n"); $w.Flush()
`

var engine = powershell.Engine{Policy: "Bypass"}

// Put implements machine.Machine. %NAME% and $env:NAME in dst are variables of
// the machine. What is there already is replaced, except directories.
func (m *Machine) Put(ctx context.Context, dst string, tree machine.Tree) error {
	tarR, tarW := io.Pipe()
	lineR, lineW := io.Pipe()
	source := make(chan error, 1)
	go func() {
		err := tree.WriteTar(ctx, tarW)
		tarW.CloseWithError(err)
		source <- err
	}()
	encoded := make(chan error, 1)
	var sent int
	go func() {
		out := bufio.NewWriterSize(lineW, largeChunk)
		n, err := encodeTree(tarR, out, dst)
		if err == nil {
			err = out.Flush()
		}
		sent = n
		lineW.CloseWithError(err)
		tarR.CloseWithError(io.ErrClosedPipe)
		encoded <- err
	}()
	answer, err := m.script(ctx, putScript, lineR, nil)
	lineR.CloseWithError(io.ErrClosedPipe)
	encodeErr, sourceErr := <-encoded, <-source
	// What is wrong with the tree comes before what follows from it.
	switch {
	case sourceErr != nil && !errors.Is(sourceErr, io.ErrClosedPipe):
		return sourceErr
	case encodeErr != nil && !errors.Is(encodeErr, io.ErrClosedPipe):
		return encodeErr
	case err != nil:
		return err
	case encodeErr != nil || sourceErr != nil:
		return errors.New("the machine stopped reading before the tree's end")
	}
	if want := fmt.Sprintf(". %d", sent); strings.TrimSpace(strings.TrimPrefix(answer, "\ufeff")) != want {
		return fmt.Errorf("the machine confirmed %.80q instead of %d entries", answer, sent)
	}
	return nil
}

// Get implements machine.Machine. Links to directories below src are left out:
// Windows has many that lead back up.
func (m *Machine) Get(ctx context.Context, src string, into machine.Sink) error {
	tarR, tarW := io.Pipe()
	taken := make(chan error, 1)
	go func() {
		err := into.ReadTar(ctx, tarR)
		tarR.CloseWithError(first(err, io.ErrClosedPipe))
		taken <- err
	}()
	d := &decoder{tar: tar.NewWriter(tarW)}
	_, err := m.script(ctx, getScript, strings.NewReader(rootLine(src)), d)
	if err == nil {
		err = d.finish()
	}
	if n := len(d.left); n > 0 {
		m.events.Warn(fmt.Sprintf("%d links to directories below %s are left out, the first is %s", n, src, oneLine(d.left[0])))
	}
	tarW.CloseWithError(err)
	sinkErr := <-taken
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case sinkErr != nil && err != nil && !errors.Is(err, sinkErr) && !errors.Is(sinkErr, err):
		return fmt.Errorf("get %s: %w", src, err)
	case sinkErr != nil:
		return fmt.Errorf("get %s: %w", src, sinkErr)
	case err != nil && !errors.Is(err, io.ErrClosedPipe):
		return fmt.Errorf("get %s: %w", src, err)
	}
	return nil
}

// script runs a PowerShell script. Its stdout goes to out, or, when that is
// nil, its beginning is the answer.
func (m *Machine) script(ctx context.Context, text string, stdin io.Reader, out io.Writer) (answer string, err error) {
	var said, stderr bytes.Buffer
	if out == nil {
		out = &limited{&said, 4 << 10}
	}
	errs := powershell.NewStderr(&limited{&stderr, 16 << 10})
	err = m.Run(ctx, machine.Command{Line: engine.Line(text), Stdin: stdin, Stdout: out, Stderr: errs})
	if flush := errs.Flush(); err == nil {
		err = flush
	}
	if exit, ok := errors.AsType[*machine.ExitError](err); ok && exit.Status != machine.DisconnectStatus {
		if text := oneLine(stderr.String()); text != "" {
			return "", errors.New(text)
		}
		return "", fmt.Errorf("PowerShell ended with %w, and printed nothing", err)
	}
	return said.String(), err
}

var envWord = regexp.MustCompile(`(?i)\$env:([a-z_][a-z0-9_]*)`)

func rootLine(p string) string {
	return "R " + encodeName(envWord.ReplaceAllString(p, "%${1}%")) + "\r\n"
}

func encodeName(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// encodeTree writes a tar stream as lines, and tells how many entries it had.
func encodeTree(r io.Reader, w io.Writer, dst string) (int, error) {
	if _, err := io.WriteString(w, rootLine(dst)); err != nil {
		return 0, err
	}
	tr := tar.NewReader(r)
	buf := make([]byte, fileData)
	for n := 0; ; {
		h, err := tr.Next()
		if err == io.EOF {
			if _, err := fmt.Fprintf(w, ". %d\r\n", n); err != nil {
				return 0, err
			}
			// The writer of the tree may still pad it.
			_, err := io.Copy(io.Discard, r)
			return n, err
		}
		if err != nil {
			return 0, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if err := windowsName(name); err != nil {
			return 0, err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = encodeFile(tr, w, name, h, buf)
		case tar.TypeDir:
			_, err = fmt.Fprintf(w, "D %s\r\n", encodeName(name))
		case tar.TypeSymlink:
			_, err = fmt.Fprintf(w, "L %s %s\r\n", encodeName(name), encodeName(h.Linkname))
		case tar.TypeLink:
			_, err = fmt.Fprintf(w, "H %s %s\r\n", encodeName(name), encodeName(path.Clean(h.Linkname)))
		default:
			err = fmt.Errorf("%s is neither file, directory nor link (tar type %q)", name, h.Typeflag)
		}
		if err != nil {
			return 0, err
		}
		n++
	}
}

func encodeFile(r io.Reader, w io.Writer, name string, h *tar.Header, buf []byte) error {
	access := "w"
	if h.Mode&0o200 == 0 {
		access = "r"
	}
	if _, err := fmt.Fprintf(w, "F %s %d %d %s\r\n", encodeName(name), h.Size, h.ModTime.Unix(), access); err != nil {
		return err
	}
	sum := sha256.New()
	line := make([]byte, 0, base64.StdEncoding.EncodedLen(len(buf))+4)
	for left := h.Size; left > 0; {
		n, err := io.ReadFull(r, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return err
		}
		left -= int64(n)
		sum.Write(buf[:n])
		line = append(base64.StdEncoding.AppendEncode(append(line[:0], "+ "...), buf[:n]), "\r\n"...)
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "= %X\r\n", sum.Sum(nil))
	return err
}

var reserved = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$`)

// windowsName refuses what Windows has no file of, or another file.
func windowsName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%q cannot be put on a Windows machine: %s", name, why) }
	if !utf8.ValidString(name) {
		return bad("its name is not UTF-8")
	}
	if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
		return bad("it is outside of the tree")
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case strings.ContainsAny(part, `\:*?"<>|`) || strings.IndexFunc(part, func(r rune) bool { return r < ' ' }) >= 0:
			return bad(`a name there has none of \ : * ? " < > | and control characters`)
		case strings.HasSuffix(part, ".") || strings.HasSuffix(part, " "):
			return bad("a name there does not end in a dot or a space")
		case reserved.MatchString(part):
			return bad("this name is a device's")
		}
	}
	return nil
}

// decoder turns the lines of a machine, which are hostile until checked, into
// a tar stream.
type decoder struct {
	tar   *tar.Writer
	line  []byte
	begun bool
	ended bool
	count int
	file  string // the file being read; empty: none
	size  int64  // of it
	got   int64
	sum   hash.Hash
	left  []string // what could not be sent
}

// maxEncodedLine is a little more than the longest line of getScript.
const maxEncodedLine = fileData/3*4 + 1024

// Write implements io.Writer: it takes lines in pieces.
func (d *decoder) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		piece := p
		if i >= 0 {
			piece = p[:i]
		}
		if len(d.line)+len(piece) > maxEncodedLine {
			return 0, errors.New("the machine sent a line that is too long")
		}
		d.line = append(d.line, piece...)
		if i < 0 {
			break
		}
		p = p[i+1:]
		if err := d.take(string(bytes.TrimSuffix(d.line, []byte("\r")))); err != nil {
			return 0, err
		}
		d.line = d.line[:0]
	}
	return total, nil
}

var errLine = errors.New("the machine sent a line that is no part of a tree")

func (d *decoder) take(line string) error {
	if !d.begun {
		d.begun = true
		line = strings.TrimPrefix(line, "\ufeff")
	}
	if d.ended {
		return errLine
	}
	f := strings.Split(line, " ")
	if inFile := f[0] == "+" || f[0] == "="; inFile != (d.file != "") {
		return errLine
	}
	switch {
	case f[0] == "+" && len(f) == 2:
		b, err := base64.StdEncoding.DecodeString(f[1])
		if err != nil {
			return errLine
		}
		if d.got += int64(len(b)); d.got > d.size {
			return fmt.Errorf("more of %s came than was said", d.file)
		}
		d.sum.Write(b)
		_, err = d.tar.Write(b)
		return err
	case f[0] == "=" && len(f) == 2:
		if sum, err := hex.DecodeString(f[1]); err != nil || d.got != d.size || !bytes.Equal(sum, d.sum.Sum(nil)) {
			return fmt.Errorf("%s did not come whole: %d bytes of %d, or changed ones", d.file, d.got, d.size)
		}
		d.file = ""
		d.count++
		return nil
	case f[0] == "." && len(f) == 2:
		if f[1] != strconv.Itoa(d.count) {
			return fmt.Errorf("the machine sent %d entries, and says that they are %.20q", d.count, f[1])
		}
		d.ended = true
		return d.tar.Close()
	case len(f) == 2 || len(f) == 5:
		b, err := base64.StdEncoding.DecodeString(f[1])
		name := strings.ReplaceAll(string(b), `\`, "/")
		if err != nil || name == "" || strings.ContainsRune(name, 0) {
			return errLine
		}
		switch {
		case f[0] == "F" && len(f) == 5:
			return d.startFile(name, f[2:])
		case f[0] == "D" && len(f) == 2:
			d.count++
			return d.tar.WriteHeader(&tar.Header{Format: tar.FormatGNU, Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: time.Now().Truncate(time.Second)})
		case f[0] == "S" && len(f) == 2:
			d.left = append(d.left, name)
			return nil
		}
	}
	return errLine
}

func (d *decoder) startFile(name string, f []string) error {
	size, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil || size < 0 || f[2] != "r" && f[2] != "w" {
		return errLine
	}
	seconds, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return errLine
	}
	mode := int64(0o644)
	if f[2] == "r" {
		mode = 0o444
	}
	d.file, d.size, d.got, d.sum = name, size, 0, sha256.New()
	return d.tar.WriteHeader(&tar.Header{
		Format: tar.FormatGNU, Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size,
		ModTime: time.Unix(min(max(seconds, 0), 1<<33-1), 0),
	})
}

// finish says whether the stream came to its end.
func (d *decoder) finish() error {
	if !d.ended || len(d.line) > 0 {
		return fmt.Errorf("what the machine sent has no end: %w", io.ErrUnexpectedEOF)
	}
	return nil
}
