package ansible

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

// scpRequest is what a client of the old scp protocol asks for.
type scpRequest struct {
	take, recursive, times, dir bool // take: the client sends
	path                        string
}

var scpLine = regexp.MustCompile(`^(?:/usr/bin/)?scp((?: -[a-z]+)+) (?:-- )?('[^']+'|[^\s'"\\$` + "`" + `*?~;&|<>()\[\]{}!#]+)$`)

// scpCommand says whether line starts the other side of the old scp. A path
// that a shell would have to work on is left to the machine's own scp.
func scpCommand(line string) (scpRequest, bool) {
	m := scpLine.FindStringSubmatch(line)
	if m == nil {
		return scpRequest{}, false
	}
	q, way := scpRequest{path: strings.Trim(m[2], "'")}, 0
	for _, flag := range strings.NewReplacer(" ", "", "-", "").Replace(m[1]) {
		switch flag {
		case 't':
			q.take = true
			way++
		case 'f':
			way++
		case 'r':
			q.recursive = true
		case 'p':
			q.times = true
		case 'd':
			q.dir = true
		case 'v', 'q':
		default:
			return q, false
		}
	}
	return q, way == 1
}

// scp speaks the old protocol and moves the files by Put and Get, so that the
// machine needs no scp.
func (p *proxy) scp(ctx context.Context, ch ssh.Channel, q scpRequest) int {
	stage, err := os.MkdirTemp(p.dir, "scp-")
	if err == nil {
		defer os.RemoveAll(stage)
		s := &scpStream{in: bufio.NewReader(ch), out: ch}
		f := &files{ctx: ctx, m: p.m, dir: p.dir}
		// Reads from a client that says nothing end with the bake.
		stop := context.AfterFunc(ctx, func() { ch.Close() })
		defer stop()
		if q.take {
			err = s.take(f, q, stage)
		} else {
			err = s.give(f, q, stage)
		}
	}
	if err != nil {
		// The protocol's way to say so; the client may be gone.
		_, _ = fmt.Fprintf(ch, "\x01scp: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		return 1
	}
	return 0
}

type scpStream struct {
	in  *bufio.Reader
	out io.Writer
}

func (s *scpStream) ok() error {
	_, err := s.out.Write([]byte{0})
	return err
}

// answer waits for the client's consent.
func (s *scpStream) answer() error {
	b, err := s.in.ReadByte()
	if err != nil || b == 0 {
		return err
	}
	text, err := s.line()
	return errors.Join(fmt.Errorf("the client says: %s", text), err)
}

// maxLine is longer than any path.
const maxLine = 8 << 10

func (s *scpStream) line() (string, error) {
	var line []byte
	for len(line) < maxLine {
		b, err := s.in.ReadByte()
		if err != nil {
			return string(line), err
		}
		if b == '\n' {
			return string(line), nil
		}
		line = append(line, b)
	}
	return "", errors.New("a line of the protocol is too long")
}

// take receives files into stage and puts them on the machine.
func (s *scpStream) take(f *files, q scpRequest, stage string) error {
	_, err := f.run("[ -d " + operand(q.path) + " ]")
	isDir := err == nil
	if !isDir && (q.dir || strings.HasSuffix(q.path, "/")) {
		return fmt.Errorf("%s is no directory", q.path)
	}
	if err := s.ok(); err != nil {
		return err
	}
	var names []string
	if err := s.receive(stage, q.recursive, func(name string) { names = append(names, name) }); err != nil {
		return err
	}
	if isDir {
		return f.m.Put(f.ctx, q.path, machine.DirTree(stage, ""))
	}
	if len(names) != 1 {
		return fmt.Errorf("%d files cannot all be %s", len(names), q.path)
	}
	local, name := filepath.Join(stage, names[0]), path.Base(q.path)
	tree := machine.FileTree(local, name)
	if info, err := os.Stat(local); err != nil {
		return err
	} else if info.IsDir() {
		tree = machine.DirTree(local, name)
	}
	return f.m.Put(f.ctx, path.Dir(q.path), tree)
}

// receive reads the entries of one directory into dir, until its end. top is
// told the names, and is nil below the first level.
func (s *scpStream) receive(dir string, recursive bool, top func(string)) error {
	for {
		kind, err := s.in.ReadByte()
		if err == io.EOF && top != nil {
			return nil
		}
		if err != nil {
			return err
		}
		line, err := s.line()
		if err != nil {
			return err
		}
		switch kind {
		case 'T': // times are the machine's
			err = s.ok()
		case 'E':
			if top != nil {
				return errors.New("an end without a beginning")
			}
			return s.ok()
		case 'C', 'D':
			err = s.entry(dir, kind, line, recursive, top)
		case 1, 2:
			return fmt.Errorf("the client says: %s", line)
		default:
			return fmt.Errorf("%q is no message of the protocol", string(kind)+line)
		}
		if err != nil {
			return err
		}
	}
}

func (s *scpStream) entry(dir string, kind byte, line string, recursive bool, top func(string)) error {
	words := strings.SplitN(line, " ", 3)
	if len(words) != 3 {
		return fmt.Errorf("%q is no message of the protocol", line)
	}
	mode, err1 := strconv.ParseUint(words[0], 8, 32)
	size, err2 := strconv.ParseInt(words[1], 10, 64)
	name := words[2]
	if err := errors.Join(err1, err2); err != nil || size < 0 {
		return fmt.Errorf("%q is no message of the protocol", line)
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("refuse the name %q", name)
	}
	if top != nil {
		top(name)
	}
	local := filepath.Join(dir, name)
	if kind == 'D' {
		if !recursive {
			return fmt.Errorf("%q is a directory, and none was asked for", name)
		}
		if err := os.Mkdir(local, 0o700); err != nil {
			return err
		}
		if err := s.ok(); err != nil {
			return err
		}
		if err := s.receive(local, true, nil); err != nil {
			return err
		}
		return os.Chmod(local, fs.FileMode(mode&0o777))
	}
	if err := s.ok(); err != nil {
		return err
	}
	file, err := os.OpenFile(local, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(file, s.in, size)
	if err := errors.Join(err, file.Chmod(fs.FileMode(mode&0o777)|0o400), file.Close()); err != nil {
		return err
	}
	if err := s.answer(); err != nil {
		return err
	}
	return s.ok()
}

// give gets files from the machine into stage and sends them.
func (s *scpStream) give(f *files, q scpRequest, stage string) error {
	if err := s.answer(); err != nil {
		return err
	}
	name := path.Base(q.path)
	local := filepath.Join(stage, name)
	into := stage // a file comes with its name
	if _, err := f.run("[ -d " + operand(q.path) + " ]"); err == nil {
		if !q.recursive {
			return fmt.Errorf("%s: not a regular file", q.path)
		}
		local = filepath.Join(stage, "it")
		into = local
	}
	if err := f.m.Get(f.ctx, q.path, machine.DirSink(into)); err != nil {
		return err
	}
	return s.send(local, name, q)
}

func (s *scpStream) send(local, name string, q scpRequest) error {
	if strings.Contains(name, "\n") {
		return fmt.Errorf("the name %q has a line end, which scp cannot say", name)
	}
	info, err := os.Stat(local)
	if err != nil {
		return err
	}
	say := func(format string, args ...any) error {
		if _, err := fmt.Fprintf(s.out, format, args...); err != nil {
			return err
		}
		return s.answer()
	}
	if q.times {
		if err := say("T%d 0 %d 0\n", info.ModTime().Unix(), info.ModTime().Unix()); err != nil {
			return err
		}
	}
	if info.IsDir() {
		if err := say("D%04o 0 %s\n", info.Mode().Perm(), name); err != nil {
			return err
		}
		entries, err := os.ReadDir(local)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := s.send(filepath.Join(local, e.Name()), e.Name(), q); err != nil {
				return err
			}
		}
		return say("E\n")
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", name)
	}
	if err := say("C%04o %d %s\n", info.Mode().Perm(), info.Size(), name); err != nil {
		return err
	}
	file, err := os.Open(local)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.CopyN(s.out, file, info.Size()); err != nil {
		return err
	}
	return say("\x00")
}
