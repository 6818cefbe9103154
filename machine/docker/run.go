package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/machine"
)

// frame runs a command line ($1) and marks ($2) both streams: where the
// command begins, with the pid under which all can be found, and where it has
// ended, with its status. The stream of the engine itself has no end mark, so
// that a broken connection looks like the end of a command; and it stays open
// while any process holds it. A shell says on its stderr which signal ended a
// child; some apply a command's redirections to that too, but not a subshell's.
const frame = `exec 3>&2 2>/dev/null
echo "$2 $$"
echo "$2 $$" >&3
(exec "$0" -c "$1" 2>&3 3>&-)
s=$?
echo "$2 $s"
echo "$2 $s" >&3
exit $s`

// Run implements machine.Machine.
func (m *docker) Run(ctx context.Context, c machine.Command) error { return m.run(ctx, m.cfg.User, c) }

func (m *docker) run(ctx context.Context, user string, c machine.Command) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	line, env := encode(c.Line, c.Env)
	mark := token()
	exec, err := m.cli.ExecCreate(ctx, m.id, client.ExecCreateOptions{
		User: user, WorkingDir: m.cfg.Dir, Env: env,
		Cmd:         []string{m.cfg.Shell, "-c", frame, m.cfg.Shell, line, mark},
		AttachStdin: c.Stdin != nil, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return m.explain(ctx, err)
	}
	// A start that is given up half-way may have started the command.
	startCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	conn, err := m.cli.ExecAttach(startCtx, exec.ID, client.ExecAttachOptions{})
	cancel()
	if err != nil {
		return m.explain(ctx, err)
	}
	stdout := newStream(c.Stdout, mark, 2)
	stderr := newStream(c.Stderr, mark, 2)
	closed := make(chan struct{})
	var streamErr error
	go func() {
		defer close(closed)
		_, streamErr = stdcopy.StdCopy(stdout, stderr, conn.Reader)
	}()
	defer func() {
		conn.Close()
		<-closed
	}()
	if c.Stdin != nil {
		go func() {
			// It fails when the command does not want all of it.
			_, _ = io.Copy(conn.Conn, c.Stdin)
			_ = conn.CloseWrite()
		}()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, s := range []*stream{stdout, stderr} {
			select {
			case <-s.marked:
			case <-closed:
			}
		}
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		return m.cancelled(ctx, user, stdout, stderr, closed)
	}
	if !stdout.whole() || !stderr.whole() {
		<-closed
		if ctx.Err() != nil {
			return m.cancelled(ctx, user, stdout, stderr, closed)
		}
		return m.unfinished(user, exec.ID, stdout, stderr, streamErr)
	}
	if err := errors.Join(stdout.failed(), stderr.failed()); err != nil {
		return fmt.Errorf("take the command's output: %w", err)
	}
	status, err := strconv.Atoi(stderr.values[1])
	if err != nil {
		return fmt.Errorf("container %s: the command's status came as %q", m.cfg.Container, stderr.values[1])
	}
	if status != 0 {
		return &machine.ExitError{Status: status}
	}
	return nil
}

// unfinished finds out why a command's streams ended before the command had.
func (m *docker) unfinished(user, execID string, stdout, stderr *stream, streamErr error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan struct{})
	close(done)
	begin := time.Now()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		c, err := m.cli.ContainerInspect(ctx, m.id, client.ContainerInspectOptions{})
		switch {
		case errdefs.IsNotFound(err):
			return &machine.ExitError{Status: machine.DisconnectStatus}
		case err != nil:
			return fmt.Errorf("the connection broke while the command ran, which may go on in the container: %w", m.explain(ctx, err))
		case c.Container.State != nil && (!c.Container.State.Running || c.Container.State.StartedAt != m.startedAt):
			return &machine.ExitError{Status: machine.DisconnectStatus}
		}
		exec, err := m.cli.ExecInspect(ctx, execID, client.ExecInspectOptions{})
		gone := errdefs.IsNotFound(err)
		switch {
		case err != nil && !gone:
			return fmt.Errorf("the connection broke while the command ran, which may go on in the container: %w", m.explain(ctx, err))
		case !gone && !exec.Running && len(stderr.values) == 0 && exec.ExitCode != 0:
			// The engine has told why on the stream.
			return fmt.Errorf("container %s cannot start %s (exit code %d)%s", m.cfg.Container, m.cfg.Shell, exec.ExitCode,
				said(string(stdout.first)+string(stderr.first)))
		case time.Since(begin) < settle || !gone && exec.ExitCode == killed && time.Since(begin) < patience/2:
			// What ended the command may be about to end the container, which kills
			// all that runs in it before the engine says so.
		case exec.Running:
			if err := m.stop(user, stdout, stderr, done); err != nil {
				return fmt.Errorf("the connection broke while the command ran, which may go on in the container: %w", err)
			}
			return fmt.Errorf("the connection to the Docker engine at %s broke while the command ran; it was stopped%s", m.address, because(streamErr))
		case !gone && exec.ExitCode != 0:
			// Something killed the shell around the command.
			return &machine.ExitError{Status: exec.ExitCode}
		default:
			return fmt.Errorf("the connection to the Docker engine at %s broke: the command has ended, but not all of its output came%s", m.address, because(streamErr))
		}
		time.Sleep(wait)
	}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

var errNotBegun = errors.New("it has not told which process it is")

// cancelled stops the command of a context that has ended.
func (m *docker) cancelled(ctx context.Context, user string, stdout, stderr *stream, closed <-chan struct{}) error {
	if err := m.stop(user, stdout, stderr, closed); err != nil && err != errNotBegun {
		return fmt.Errorf("%w; the command may go on in container %s: %w", ctx.Err(), m.cfg.Container, err)
	}
	return ctx.Err()
}

// stop ends a command and all that it started, and waits until it is gone.
// closed says that nothing more can come on its streams. errNotBegun: it has
// not told its process before.
func (m *docker) stop(user string, stdout, stderr *stream, closed <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-stdout.began:
	case <-stderr.began:
	case <-closed:
	case <-ctx.Done():
	}
	begin := ""
	for _, s := range []*stream{stdout, stderr} {
		select {
		case <-s.began:
			begin = s.begin
		default:
		}
	}
	switch {
	case begin != "":
	case ctx.Err() != nil:
		return fmt.Errorf("the Docker engine at %s does not start it, and does not say why", m.address)
	default:
		return errNotBegun
	}
	pid, err := strconv.Atoi(begin)
	if err != nil || pid <= 1 {
		return fmt.Errorf("its process came as %q", begin)
	}
	line := proc.EndScript(pid, "KILL")
	// Root ends what the user may not end, such as what sudo started; without
	// its capabilities it can less than the user.
	for _, u := range []string{"0", user} {
		if err = m.run(ctx, u, machine.Command{Line: line}); err == nil || errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
			return nil // a container that is not running is a conflict
		}
	}
	return err
}

// encode makes a command line and an environment fit the API, whose strings
// are UTF-8. What is not, the shell makes of octal escapes.
func encode(line string, env map[string]string) (string, []string) {
	var list []string
	var exports strings.Builder
	for k, v := range env {
		if utf8.ValidString(v) {
			list = append(list, k+"="+v)
			continue
		}
		// The x's keep line ends, which the substitution would take away, and
		// what looks like an option of printf.
		fmt.Fprintf(&exports, "%s=$(printf 'x%sx'); %s=${%s#x}; %s=${%s%%x}; export %s; ", k, escape(v), k, k, k, k, k)
	}
	line = exports.String() + line
	if !utf8.ValidString(line) {
		line = `eval "$(printf ' ` + escape(line) + `')"`
	}
	return line, list
}

// escape writes s as a format of printf between single quotes.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '%':
			b.WriteString("%%")
		case c >= 0x80 || c == '\'' || c == '\\':
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// stream passes on what a command writes, up to the mark of its end.
type stream struct {
	w      io.Writer
	mark   []byte
	marks  int    // how many end it
	held   []byte // what may be the begin of a mark
	values []string
	begin  string        // the first of values, to be read once began is closed
	first  []byte        // some of what came before the first mark
	began  chan struct{} // the first mark has come
	marked chan struct{} // all marks have come
	err    error         // of w
}

func newStream(w io.Writer, mark string, marks int) *stream {
	if w == nil {
		w = io.Discard
	}
	return &stream{w: w, mark: []byte(mark + " "), marks: marks, began: make(chan struct{}), marked: make(chan struct{})}
}

// Write never fails: the command must not block on its reader.
func (s *stream) Write(p []byte) (int, error) {
	n := len(p)
	if len(s.held) > 0 {
		p = append(s.held, p...)
		s.held = nil
	}
	for len(s.values) < s.marks && len(p) > 0 {
		at := bytes.Index(p, s.mark)
		if at < 0 {
			keep := overlap(p, s.mark)
			s.pass(p[:len(p)-keep])
			s.held = bytes.Clone(p[len(p)-keep:])
			return n, nil
		}
		s.pass(p[:at])
		rest := p[at+len(s.mark):]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			s.held = bytes.Clone(p[at:])
			return n, nil
		}
		s.values = append(s.values, string(rest[:end]))
		if len(s.values) == 1 {
			s.begin = s.values[0]
			close(s.began)
		}
		if len(s.values) == s.marks {
			close(s.marked)
		}
		p = rest[end+1:]
	}
	return n, nil // what a process left behind writes later is nobody's
}

func (s *stream) pass(p []byte) {
	if len(p) == 0 {
		return
	}
	if len(s.values) == 0 && len(s.first) < 1000 {
		s.first = append(s.first, p[:min(len(p), 1000)]...)
	}
	if s.err == nil {
		_, s.err = s.w.Write(p)
	}
}

func (s *stream) whole() bool {
	select {
	case <-s.marked:
		return true
	default:
		return false
	}
}

// overlap is the length of the longest end of p that begins mark.
func overlap(p, mark []byte) int {
	for n := min(len(p), len(mark)-1); n > 0; n-- {
		if bytes.HasPrefix(mark, p[len(p)-n:]) {
			return n
		}
	}
	return 0
}

// failed is the writer's error, once the stream is whole.
func (s *stream) failed() error { return s.err }
