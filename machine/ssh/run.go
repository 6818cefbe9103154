package sshmachine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/machine"
)

const (
	// grace is what a command gets between the request to end and its end.
	grace = 2 * time.Second
	// linger is how long output is awaited from processes that outlive the
	// command, such as a daemon that it started.
	linger = 5 * time.Second
	// startPatience is how long a machine may take from the request to the
	// first byte of the shell.
	startPatience = 2 * time.Minute
)

// boot is the command that every session runs, whatever it is for: it reads the
// text of the real one, so that this is in no list of processes, and neither
// bounded by how long an argument may be nor read by a login shell that is not
// like sh. `read` takes no byte more than the line: what follows is the stdin
// of the command.
const boot = `exec sh -c 'IFS= read -r ingot && eval "$(printf %b "$ingot")"'`

// encode makes one line of a text for boot.
func encode(text string) string {
	var b strings.Builder
	b.Grow(len(text) + len(text)/8)
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\\':
			b.WriteString(`\\`)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\0%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "\n"
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// exports is the shell text that sets the environment.
func exports(env map[string]string) (string, error) {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if !identifier.MatchString(k) {
			return "", fmt.Errorf("%q is no name of an environment variable that a Unix shell can set", k)
		}
		if strings.ContainsRune(env[k], 0) {
			return "", fmt.Errorf("the value of the environment variable %s contains NUL", k)
		}
		b.WriteString("export " + k + "=" + machine.Quote(env[k]) + "\n")
	}
	return b.String(), nil
}

// Run implements machine.Machine, by sh. The environment and the line go to the
// machine as data: they are in no list of processes there.
func (m *Machine) Run(ctx context.Context, c machine.Command) error {
	env, err := exports(c.Env)
	if err != nil {
		return err
	}
	if strings.ContainsRune(c.Line, 0) {
		return errors.New("the command contains NUL")
	}
	j := job{text: env + c.Line, stdin: c.Stdin, stdout: c.Stdout, stderr: c.Stderr}
	if m.cfg.PTY {
		if err := m.inTerminal(ctx, &j); err != nil {
			return err
		}
	}
	return m.do(ctx, j)
}

// inTerminal changes the job into one in a terminal. A terminal has no end of
// input, so that stdin and the text go into files of the machine before.
func (m *Machine) inTerminal(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := "/tmp/.ingot-" + rand.Text()
	j.pty = true
	j.boot = `exec sh -c 'exec <` + name + `; rm -f ` + name + `; IFS= read -r ingot && eval "$(printf %b "$ingot")"'`
	in := j.stdin
	j.stdin = nil
	if in == nil {
		in = strings.NewReader("")
	}
	j.mark = rand.Text()
	put := job{
		text:  "umask 077; set -C; cat >" + name,
		stdin: io.MultiReader(strings.NewReader(encode(j.script())), in),
	}
	var said tail
	put.stderr = &said
	if err := m.do(ctx, put); err != nil {
		return fmt.Errorf("prepare the input of a command in a terminal: %w%s", err, said.after())
	}
	return nil
}

// job is one command on the machine.
type job struct {
	text           string
	stdin          io.Reader
	stdout, stderr io.Writer
	boot           string // instead of the usual one, for a terminal
	mark           string // what tells its output from what login shells say
	pty            bool
	on             *link  // the connection to use, whatever its slots; nil: the machine's
	opened         func() // told once it has its session
}

// script is the text with what tells us its process: a session's shell leads a
// process group, and marks what it says from what a login script has said.
func (j *job) script() string {
	s := "unset ingot\necho " + j.mark + " $$\n"
	if !j.pty {
		s += "echo " + j.mark + " >&2\n"
	}
	return s + j.text + "\n"
}

// do runs a job to its end.
func (m *Machine) do(ctx context.Context, j job) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if j.mark == "" {
		j.mark = rand.Text()
	}
	var c *channel
	var err error
	if j.on != nil {
		if c, err = m.open(ctx, j.on); err == nil {
			c.give = func() {}
		}
	} else {
		c, err = m.session(ctx)
	}
	if err != nil {
		return err
	}
	defer c.free()
	if j.opened != nil {
		j.opened()
	}
	return m.drive(ctx, c, j)
}

// drive runs a job on its channel.
func (m *Machine) drive(ctx context.Context, c *channel, j job) error {
	if err := m.request(c, j); err != nil {
		return err
	}
	p := &process{m: m, c: c, started: make(chan struct{}), failed: make(chan struct{})}
	out := &gate{mark: j.mark + " ", next: orDiscard(j.stdout), opened: func(pid string) { p.begin(pid) }}
	errs := &gate{mark: j.mark, next: orDiscard(j.stderr), open: j.pty}

	var input *failingReader
	if !j.pty {
		input = &failingReader{r: j.stdin}
		go p.feed(encode(j.script()), input)
	}
	drained := make(chan struct{})
	var wg sync.WaitGroup
	for r, g := range map[io.Reader]*gate{c.Channel: out, c.Stderr(): errs} {
		wg.Go(func() {
			if _, err := io.Copy(g, r); err != nil && err != io.EOF {
				p.fail(fmt.Errorf("write the output of the command: %w", err))
				_, _ = io.Copy(io.Discard, r) // so that it can end
			}
		})
	}
	go func() { wg.Wait(); close(drained) }()
	exited, ended := make(chan struct{}), make(chan struct{})
	go func() { p.watch(exited); close(ended) }()

	start := time.NewTimer(startPatience)
	defer start.Stop()
	started := p.started
	for {
		select {
		case <-started:
			started = nil
			start.Stop()
			continue
		case <-start.C:
			c.free()
			leave(drained, out, errs)
			return fmt.Errorf("the machine has not started a shell within %v", startPatience)
		case <-ctx.Done():
			left := p.stop(exited)
			c.free()
			leave(drained, out, errs)
			return errors.Join(ctx.Err(), left)
		case <-p.failed:
			_ = p.stop(exited)
			c.free()
			leave(drained, out, errs)
			return p.err
		case <-exited:
		}
		break
	}
	// The server says that a session has ended once its output has: without
	// that, the end of output may be the end of the connection.
	whole := true
	for waiting := true; waiting; {
		select {
		case <-ended:
			whole, waiting = p.whole, false
		case <-ctx.Done():
			c.free()
			leave(drained, out, errs)
			return ctx.Err()
		case <-time.After(linger):
			if out.writing.Load() || errs.writing.Load() {
				continue // it is the reader of the output who is slow
			}
			waiting = false
		}
	}
	select {
	case <-ended:
		select {
		case <-drained:
		case <-ctx.Done():
			leave(drained, out, errs)
			return ctx.Err()
		}
	default:
		c.free()
		leave(drained, out, errs)
	}
	select {
	case <-p.failed:
		return p.err
	default:
	}
	if p.lost || !whole {
		return &machine.ExitError{Status: machine.DisconnectStatus}
	}
	if !p.running() {
		return fmt.Errorf("the machine did not start a POSIX shell (exit status %d)%s", p.status, said(errs, out))
	}
	if p.status != 0 {
		return &machine.ExitError{Status: p.status}
	}
	return nil
}

// leave gives the output a last moment and then lets go of it: what outlives
// the command must neither hold us up nor write to what is no longer there.
func leave(drained <-chan struct{}, gates ...*gate) {
	select {
	case <-drained:
	case <-time.After(grace):
		for _, g := range gates {
			g.shut.Store(true)
		}
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// request asks for what the job needs. Nothing waits for an answer where the
// output tells it.
func (m *Machine) request(c *channel, j job) error {
	lost := func(err error) error {
		if !c.link.alive() || errors.Is(err, io.EOF) {
			return &machine.ExitError{Status: machine.DisconnectStatus}
		}
		return fmt.Errorf("start a command: %w", err)
	}
	if m.cfg.ForwardAgent {
		if _, err := c.SendRequest("auth-agent-req@openssh.com", false, nil); err != nil {
			return lost(err)
		}
	}
	if j.pty {
		ok, err := c.SendRequest("pty-req", true, ssh.Marshal(&ptyRequest))
		if err != nil {
			return lost(err)
		}
		if !ok {
			return errors.New("the machine refuses a terminal (ssh_pty)")
		}
	}
	line := j.boot
	if line == "" {
		line = boot
	}
	if _, err := c.SendRequest("exec", false, ssh.Marshal(struct{ Command string }{line})); err != nil {
		return lost(err)
	}
	return nil
}

// ptyRequest is a terminal that changes no byte and echoes none.
var ptyRequest = struct {
	Term                         string
	Columns, Rows, Width, Height uint32
	Modes                        string
}{"xterm", 80, 40, 640, 480, string([]byte{
	ssh.ECHO, 0, 0, 0, 0, ssh.OPOST, 0, 0, 0, 0, ssh.ONLCR, 0, 0, 0, 0, 0,
})}

// process is a job that runs.
type process struct {
	m *Machine
	c *channel

	mu      sync.Mutex
	pid     int
	started chan struct{} // closed once pid is known
	failed  chan struct{} // closed once err is set
	err     error

	status int  // once the process has exited
	lost   bool // the connection has gone instead
	whole  bool // once the session has ended: the server ended it
}

func (p *process) begin(pid string) {
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil || n <= 1 {
		n = 0 // never to be killed
	}
	p.mu.Lock()
	p.pid = n
	p.mu.Unlock()
	close(p.started)
}

func (p *process) running() bool {
	select {
	case <-p.started:
		return true
	default:
		return false
	}
}

func (p *process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.failed)
	}
}

// feed writes the text and then the input.
func (p *process) feed(head string, in *failingReader) {
	if _, err := io.WriteString(p.c, head); err != nil {
		return // the end of the command tells more
	}
	if in.r != nil {
		_, err := io.Copy(p.c, in)
		if in.err != nil {
			p.fail(fmt.Errorf("read the input of the command: %w", in.err))
			return // without the end of input that would make it look whole
		}
		if err != nil {
			return // the command does not want all of it
		}
	}
	_ = p.c.CloseWrite()
}

// failingReader tells an error of reading from one of writing.
type failingReader struct {
	r   io.Reader
	err error
}

func (f *failingReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

var signals = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15,
}

// watch waits for how the command ends, which it tells by exited, and then for
// the end of the session.
func (p *process) watch(exited chan<- struct{}) {
	known := false
	for r := range p.c.reqs {
		was := known
		switch r.Type {
		case "exit-status":
			var msg struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &msg) == nil {
				p.status, known = int(msg.Status), true
			}
		case "exit-signal":
			var msg struct {
				Signal      string
				CoreDumped  bool
				Error, Lang string
			}
			if ssh.Unmarshal(r.Payload, &msg) == nil {
				p.status, known = 255, true
				if n, ok := signals[msg.Signal]; ok {
					p.status = 128 + n
				}
			}
		}
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
		if known && !was {
			close(exited)
		}
	}
	// A session that the server has closed cannot be closed again, which is EOF.
	// The end of the whole connection can look like that, but is heard before.
	p.whole = p.c.Channel.Close() == io.EOF && !p.c.link.broken.Load()
	if !known {
		p.lost = true
		close(exited)
	}
}

// killPatience bounds ending a command.
const killPatience = 30 * time.Second

// stop ends what the command is on the machine. It does not fail with the
// context, which has ended.
func (p *process) stop(exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	if !p.c.link.alive() {
		return nil
	}
	// The shell may not have begun yet. What the machine says next is its process.
	select {
	case <-p.started:
	case <-exited:
		return nil
	case <-p.c.link.gone:
		return nil
	case <-ctx.Done():
		return errors.New("the command may still run on the machine, which does not answer")
	}
	p.mu.Lock()
	pid := p.pid
	p.mu.Unlock()
	if pid == 0 {
		return errors.New("the command may still run on the machine: its process is not known")
	}
	err := p.m.aside(ctx, p.c.link, proc.EndScript(pid, "TERM", "KILL"))
	if err != nil && p.c.link.alive() {
		return fmt.Errorf("the command may still run on the machine (process group %d): %w", pid, err)
	}
	return nil
}

// aside runs a script beside what runs, with a connection of its own where
// there is no session left.
func (m *Machine) aside(ctx context.Context, l *link, text string) error {
	if m.slots.try() {
		err := m.do(ctx, job{text: text, on: l})
		m.slots.give()
		if _, refused := errors.AsType[*ssh.OpenChannelError](err); !refused {
			return err
		}
	}
	own, err := m.dialOnce(ctx, dialTimeout)
	if err != nil {
		return err
	}
	defer own.close()
	return m.do(ctx, job{text: text, on: own})
}

// gate lets output pass that comes after the mark.
type gate struct {
	mark   string
	next   io.Writer
	opened func(rest string)

	shut    atomic.Bool // forget all that comes
	writing atomic.Bool // next has not taken yet what came
	mu      sync.Mutex
	open    bool
	before  []byte
}

// maxBefore is more than login scripts say.
const maxBefore = 64 << 10

func (g *gate) Write(p []byte) (int, error) {
	if g.shut.Load() {
		return len(p), nil
	}
	g.writing.Store(true)
	defer g.writing.Store(false)
	if g.passes() {
		return g.next.Write(p)
	}
	rest, ok := g.look(p)
	if ok && len(rest) > 0 {
		if _, err := g.next.Write(rest); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (g *gate) passes() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// look looks for the mark, and returns what follows it.
func (g *gate) look(p []byte) ([]byte, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.before = append(g.before, p...)
	i := bytes.Index(g.before, []byte(g.mark))
	if i < 0 {
		if over := len(g.before) - maxBefore; over > 0 {
			g.before = g.before[over:]
		}
		return nil, false
	}
	head, rest, whole := bytes.Cut(g.before[i+len(g.mark):], []byte("\n"))
	if !whole {
		return nil, false
	}
	g.open, g.before = true, nil
	if g.opened != nil {
		g.opened(string(head))
	}
	return rest, true
}

// said is what came before the marks, for an error.
func said(gates ...*gate) string {
	var all tail
	for _, g := range gates {
		g.mu.Lock()
		all.Write(g.before)
		g.mu.Unlock()
	}
	return all.after()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - 4<<10; over > 0 {
		t.text = t.text[over:]
	}
	return len(p), nil
}

// last is the last line.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimRight(string(t.text), "\n")
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// after is the text as it stands behind an error, if there is any.
func (t *tail) after() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.text), "?"))
	if text == "" {
		return ""
	}
	return ": " + text
}
