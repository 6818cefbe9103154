package winrmtest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
)

// Emulator does on a directory of this host what machine/winrm's scripts do on
// a Windows machine, by the description of their protocol. It knows the scripts
// by their functions and runs none of their text.
type Emulator struct {
	// Root holds the drives: C:\x is Root/c/x.
	Root string
	// Other runs all other commands.
	Other func(*Process) int

	mu     sync.Mutex
	damage func(line string) string
}

// Damage has each later get's lines changed.
func (e *Emulator) Damage(change func(line string) string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.damage = change
}

// PowerShell is the text that a command line gives to PowerShell.
func PowerShell(line string) (text string, ok bool) {
	_, encoded, ok := strings.Cut(line, " -EncodedCommand ")
	b, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(b)%2 != 0 {
		return "", false
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units)), true
}

// Call is a script and its arguments, as internal/powershell sends them.
func Call(p *Process) (text string, args []string, ok bool) {
	if boot, ok := PowerShell(p.Line); !ok || !strings.Contains(boot, "[scriptblock]::Create") {
		return "", nil, false
	}
	b, err := io.ReadAll(p.Stdin)
	if err != nil {
		return "", nil, false
	}
	var fields []string
	for line := range strings.Lines(string(b)) {
		d, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(line, "\r\n"))
		if err != nil || len(d) == 0 {
			return "", nil, false
		}
		fields = append(fields, string(d[1:]))
	}
	if len(fields) < 2 || fields[len(fields)-1] != "end" {
		return "", nil, false
	}
	return fields[0], fields[1 : len(fields)-1], true
}

// Run is a Server's Run.
func (e *Emulator) Run(p *Process) int {
	text, _ := PowerShell(p.Line)
	var err error
	switch {
	case strings.HasPrefix(p.Line, "echo ingot-%PROCESSOR_ARCHITECTURE%"):
		_, err = io.WriteString(p.Stdout, "ingot-AMD64\r\n")
	case strings.Contains(text, "function Get-Place"):
		err = e.put(p)
	case strings.Contains(text, "function Send-Directory"):
		err = e.get(p)
	case e.Other != nil:
		return e.Other(p)
	default:
		err = fmt.Errorf("'%s' is not recognized as an internal or external command", p.Line)
	}
	if err != nil {
		_, _ = fmt.Fprintf(p.Stderr, "%v\r\n", err)
		return 1
	}
	return 0
}

func name(b string) (string, error) {
	d, err := base64.StdEncoding.DecodeString(b)
	return string(d), err
}

// place is where a Windows path stands on this host.
func (e *Emulator) place(p string) (string, error) {
	p = strings.ReplaceAll(p, `\`, "/")
	p = strings.ReplaceAll(p, "%TEMP%", "C:/Windows/Temp")
	if len(p) < 3 || p[1] != ':' || p[2] != '/' {
		return "", fmt.Errorf("the emulator wants whole paths, not %q", p)
	}
	return filepath.Join(e.Root, strings.ToLower(p[:1]), filepath.FromSlash(path.Clean(p[2:]))), nil
}

func (e *Emulator) put(p *Process) error {
	in := bufio.NewReaderSize(p.Stdin, 1<<20)
	var root, file, mode string
	var when time.Time
	var size int64
	var out *os.File
	count, whole := 0, false
	sum := sha256.New()
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF && line == "" {
			break
		}
		if err != nil {
			return err
		}
		f := strings.Split(strings.TrimSuffix(line, "\r\n"), " ")
		var at string
		if strings.Contains("FDLH", f[0]) {
			n, err := name(f[1])
			if err != nil {
				return err
			}
			at = filepath.Join(root, filepath.FromSlash(n))
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return err
			}
			if info, err := os.Lstat(at); err == nil && !info.IsDir() && f[0] != "D" {
				if err := os.Remove(at); err != nil {
					return err
				}
			}
			if f[0] != "F" {
				count++
			}
		}
		switch f[0] {
		case "R":
			n, err := name(f[1])
			if err != nil {
				return err
			}
			if root, err = e.place(n); err != nil {
				return err
			}
			if err := os.MkdirAll(root, 0o755); err != nil {
				return err
			}
		case "D":
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
		case "F":
			if out, err = os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err != nil {
				return err
			}
			file, mode = at, f[4]
			sum.Reset()
			if size, err = strconv.ParseInt(f[2], 10, 64); err != nil {
				return err
			}
			seconds, err := strconv.ParseInt(f[3], 10, 64)
			if err != nil {
				return err
			}
			when = time.Unix(seconds, 0)
		case "+":
			b, err := base64.StdEncoding.DecodeString(f[1])
			if err != nil {
				return err
			}
			sum.Write(b)
			if _, err := out.Write(b); err != nil {
				return err
			}
		case "=":
			info, err := out.Stat()
			if err != nil {
				return err
			}
			if out.Close(); info.Size() != size || fmt.Sprintf("%X", sum.Sum(nil)) != f[1] {
				return fmt.Errorf("%s did not arrive whole", file)
			}
			if err := os.Chtimes(file, when, when); err != nil {
				return err
			}
			if mode == "r" {
				if err := os.Chmod(file, 0o444); err != nil {
					return err
				}
			}
			count++
		case "L":
			n, err := name(f[2])
			if err != nil {
				return err
			}
			if err := os.Symlink(n, at); err != nil {
				return err
			}
		case "H":
			n, err := name(f[2])
			if err != nil {
				return err
			}
			if err := os.Link(filepath.Join(root, n), at); err != nil {
				return err
			}
		case ".":
			whole = f[1] == strconv.Itoa(count)
		default:
			return fmt.Errorf("a line of the tree begins with %q", f[0])
		}
	}
	if !whole {
		return fmt.Errorf("the tree did not arrive whole")
	}
	_, err := fmt.Fprintf(p.Stdout, ". %d\r\n", count)
	return err
}

func (e *Emulator) get(p *Process) error {
	b, err := io.ReadAll(p.Stdin)
	if err != nil {
		return err
	}
	_, encoded, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	src, err := name(encoded)
	if err != nil {
		return err
	}
	root, err := e.place(src)
	if err != nil {
		return err
	}
	e.mu.Lock()
	damage := e.damage
	e.mu.Unlock()
	count := 0
	say := func(format string, args ...any) error {
		line := fmt.Sprintf(format, args...)
		if damage != nil {
			line = damage(line)
		}
		if line == "" {
			return nil
		}
		_, err := io.WriteString(p.Stdout, line+"\r\n")
		return err
	}
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	file := func(at, as string) error {
		data, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		mode := "w"
		if info.Mode()&0o200 == 0 {
			mode = "r"
		}
		if err := say("F %s %d %d %s", encode(as), len(data), info.ModTime().Unix(), mode); err != nil {
			return err
		}
		for r := bytes.NewReader(data); r.Len() > 0; {
			chunk := make([]byte, min(r.Len(), 196608))
			_, _ = io.ReadFull(r, chunk)
			if err := say("+ %s", base64.StdEncoding.EncodeToString(chunk)); err != nil {
				return err
			}
		}
		count++
		return say("= %X", sha256.Sum256(data))
	}
	info, err := os.Stat(root)
	if err != nil {
		return fmt.Errorf("%s does not exist", src)
	}
	if !info.IsDir() {
		if err := file(root, filepath.Base(root)); err != nil {
			return err
		}
	} else {
		err = filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
			if err != nil || at == root {
				return err
			}
			rel, err := filepath.Rel(root, at)
			if err != nil {
				return err
			}
			as := filepath.ToSlash(rel)
			if d.IsDir() {
				count++
				return say("D %s", encode(as))
			}
			if info, err := os.Stat(at); err == nil && info.IsDir() {
				return say("S %s", encode(as))
			}
			return file(at, as)
		})
		if err != nil {
			return err
		}
	}
	return say(". %d", count)
}
