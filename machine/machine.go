// Package machine is the running temporary thing as provisioners and specs see
// it: run a command, put files, get files, nothing else. The transports that
// implement it stand in the packages below, and in the builders that have one
// of their own.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Machine is one running machine. Its methods are safe for concurrent use.
type Machine interface {
	// Run runs a command and returns when it has ended and its output is
	// drained. A command that ended with a status other than 0 gives an
	// *ExitError. When ctx ends, the command and what it started are stopped
	// and ctx's error is returned.
	Run(ctx context.Context, c Command) error
	// Put writes a tree below the directory dst, which is made if it is
	// missing, as one stream however many files there are.
	Put(ctx context.Context, dst string, tree Tree) error
	// Get streams the file or directory src into sink. A directory's entries
	// are named by their path below src; a file is one entry with its base name.
	Get(ctx context.Context, src string, into Sink) error
	// Platform says what runs on the machine.
	Platform() Platform
	// Close gives up the connection. It does not end the machine.
	Close() error
}

// Command is one command for a machine's shell.
type Command struct {
	// Line is handed to the machine's shell as it is (sh -c on Unix). Use
	// Quote for words that are data.
	Line string
	// Env is added to the machine's own environment.
	Env map[string]string
	// Stdin is read to its end or until the command ends; nil is empty input.
	Stdin io.Reader
	// Stdout and Stderr receive the output as it comes; nil discards it.
	Stdout, Stderr io.Writer
}

// ExitError says that a command ended by itself, unsuccessfully.
type ExitError struct {
	// Status is the exit status; 128+n when signal n ended the command.
	Status int
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// ErrNone is in the errors of provisioners that need a machine where there is none.
var ErrNone = errors.New("this source has no machine")

// DisconnectStatus is the pseudo exit status of a command whose machine went
// away while it ran. The number is Packer's (CmdDisconnect), and templates name it.
const DisconnectStatus = 2300218

// Platform describes a machine, as far as it is known.
type Platform struct {
	OS     string // linux, windows, darwin, freebsd
	Family string // the distribution: /etc/os-release's ID, e.g. debian, alpine, rhel
	Arch   string // amd64, arm64, in Go's words
	Shell  string // sh, powershell, cmd
}

// Tree is a set of files to put on a machine.
type Tree interface {
	// WriteTar writes the tree as one tar stream, including its end.
	WriteTar(ctx context.Context, w io.Writer) error
}

// Sink takes a tree that comes from a machine. What it reads is hostile: it
// refuses names that escape it.
type Sink interface {
	ReadTar(ctx context.Context, r io.Reader) error
}

// Quote joins words into one shell command line in which each stays one word.
func Quote(words ...string) string {
	var out []byte
	for i, w := range words {
		if i > 0 {
			out = append(out, ' ')
		}
		if plain(w) {
			out = append(out, w...)
			continue
		}
		out = append(out, '\'')
		for j := range len(w) {
			if w[j] == '\'' {
				out = append(out, `'\''`...)
			} else {
				out = append(out, w[j])
			}
		}
		out = append(out, '\'')
	}
	return string(out)
}

func plain(w string) bool {
	if w == "" {
		return false
	}
	for i := range len(w) {
		c := w[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '/', c == '.', c == '-', c == '_', c == '+', c == ':', c == '@', c == ',', c == '%':
		default:
			return false
		}
	}
	return true
}
