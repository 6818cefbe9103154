// Package winrm reaches Windows machines by WinRM: WS-Management over HTTP, as
// MS-WSMV describes it.
//
// The shell of these machines is cmd.exe, which is what WinRM starts: a
// command is one line, and what it starts is in a job that ends with it. Names
// of variables know no case. A command has no terminal, and a status is
// Windows' (32 bits), not a signal's. Trees keep times and the read-only bit;
// of owners and other modes Windows knows nothing, and a file's access list is
// that of its directory.
package winrm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

// Config says how to reach a machine.
type Config struct {
	Host string
	// Port is 5985 when it is 0, or 5986 with HTTPS.
	Port           int
	User, Password string
	// HTTPS encrypts by TLS. The certificate is checked, unless Insecure.
	HTTPS, Insecure bool
	// CACert are the only certificates, in PEM form, that may vouch for the
	// machine's; it may be that itself. Empty: those of this host.
	CACert []byte
	// ServerName is the name to be in the certificate. Empty: Host.
	ServerName string
	// NTLM logs in by NTLMv2 instead of Basic. Without HTTPS it also encrypts
	// each message.
	NTLM bool
	// Timeout is for how long Dial tries. The default is 30 minutes.
	Timeout time.Duration
	// NoProxy goes to the machine directly. Otherwise the way leads through
	// Proxy, or, when that is empty, what the environment names.
	NoProxy bool
	Proxy   string
}

const (
	// maxShells is what Windows Server 2008 R2 allows one user; later ones more.
	maxShells = 5
	// operationTimeout is how long one Receive waits for output.
	operationTimeout = 20 * time.Second
	// sendTimeout bounds how long a command may leave its input unread. That
	// the machine is alive, Receive knows.
	sendTimeout = 10 * time.Minute
	// endTimeout bounds the stopping of a command.
	endTimeout = 10 * time.Second
	// largeChunk fills an envelope of 500 KiB, what Windows allows since Server
	// 2012, smallChunk one of 150 KiB, what it did before.
	largeChunk, smallChunk = 360 << 10, 108 << 10
	// maxLine is what cmd.exe reads, less what WinRM puts before it.
	maxLine = 8191 - 100
)

// Machine is a machine that WinRM reaches.
type Machine struct {
	c        *client
	platform machine.Platform
	slots    chan struct{}
	chunk    atomic.Int64
	receive  time.Duration
	events   event.Scope
}

var _ machine.Machine = (*Machine)(nil)

// Dial connects, and tries again while the machine may still be starting: it
// does not listen yet, resets, or WinRM is being set up. A wrong password, a
// certificate that does not check out, and an answer that is not WinRM's are
// errors at once.
func Dial(ctx context.Context, cfg Config, events event.Scope) (machine.Machine, error) {
	if cfg.Port == 0 {
		cfg.Port = 5985
		if cfg.HTTPS {
			cfg.Port = 5986
		}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Minute
	}
	if cfg.Host == "" || cfg.User == "" {
		return nil, errors.New("WinRM needs a host and a user (winrm_username)")
	}
	if !cfg.NTLM && strings.Contains(cfg.User, ":") {
		return nil, errors.New("a user name with a colon cannot log in by Basic; set winrm_use_ntlm = true")
	}
	c, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("WinRM at %s: %w", cfg.Host, err)
	}
	switch {
	case !cfg.HTTPS && !cfg.NTLM:
		events.Warn("WinRM goes unencrypted, the password and all secrets included: set winrm_use_ssl or winrm_use_ntlm")
	case cfg.HTTPS && cfg.Insecure:
		events.Warn("winrm_insecure: the machine's certificate is not checked; anybody in between can read and change all")
	}
	m := &Machine{c: c, slots: make(chan struct{}, maxShells), receive: operationTimeout, events: events}
	m.chunk.Store(largeChunk)
	if err := m.connect(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Machine) connect(ctx context.Context) error {
	limit := m.c.cfg.Timeout
	deadline := time.Now().Add(limit)
	said := ""
	for delay := 250 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		tryCtx, cancel := context.WithTimeout(ctx, max(time.Until(deadline), time.Millisecond))
		err := m.greet(tryCtx)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			m.c.close()
			return ctx.Err()
		}
		if why := permanent(err); why != "" || time.Until(deadline) <= delay {
			m.c.close()
			if why == "" {
				return fmt.Errorf("WinRM at %s was not reached within winrm_timeout (%v): %w", m.c.url, limit, err)
			}
			return fmt.Errorf("WinRM at %s: %w; %s", m.c.url, err, why)
		}
		if text := err.Error(); text != said {
			said = text
			m.events.Say(fmt.Sprintf("Waiting for WinRM at %s: %s", m.c.url, text))
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// permanent says what to do about an error that waiting does not heal.
func permanent(err error) string {
	if _, ok := errors.AsType[*authError](err); ok {
		return "check winrm_username and winrm_password"
	}
	if _, ok := errors.AsType[*weakError](err); ok {
		return "set winrm_use_ssl = true"
	}
	_, bad := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	if bad || unknown || name {
		return "give the machine a certificate that this host trusts, or set winrm_insecure = true to trust any"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		return "is winrm_port that of HTTPS? Without winrm_use_ssl the port is 5985"
	}
	if f, ok := errors.AsType[*fault](err); ok {
		if f.subcode == "AccessDenied" || f.code == 5 {
			return "the user must be in the machine's group Administrators or Remote Management Users"
		}
		return ""
	}
	if s, ok := errors.AsType[*statusError](err); ok {
		// HTTP.SYS answers 404 and 503 while the WinRM service starts.
		if s.status == http.StatusNotFound || s.status == http.StatusRequestTimeout || s.status == http.StatusTooManyRequests || s.status >= 500 {
			return ""
		}
		return "is it WinRM that listens there?"
	}
	_, other := errors.AsType[*notWinRM](err)
	_, broken := errors.AsType[*damaged](err)
	if other || broken {
		return "is it WinRM that listens there?"
	}
	return ""
}

// greet runs a command to prove that commands run, and learns the platform.
func (m *Machine) greet(ctx context.Context) error {
	var out strings.Builder
	err := m.Run(ctx, machine.Command{Line: "echo ingot-%PROCESSOR_ARCHITECTURE%", Stdout: &limited{w: &out, left: 1000}})
	if err != nil {
		return err
	}
	_, arch, ok := strings.Cut(strings.TrimSpace(out.String()), "ingot-")
	if !ok {
		return &notWinRM{fmt.Errorf("the machine answered %.80q to a first command", out.String())}
	}
	if arch = strings.ToLower(arch); arch == "x86" {
		arch = "386"
	}
	m.platform = machine.Platform{OS: "windows", Family: "windows", Arch: oneLine(arch), Shell: "cmd"}
	return nil
}

// notWinRM is an answer of something else.
type notWinRM struct{ error }

func (e *notWinRM) Unwrap() error { return e.error }

// limited keeps the first bytes.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := p[:min(len(p), l.left)]
	l.left -= len(keep)
	if _, err := l.w.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Platform implements machine.Machine. The shell is cmd: that is what WinRM
// hands a line to.
func (m *Machine) Platform() machine.Platform { return m.platform }

// Close implements machine.Machine.
func (m *Machine) Close() error {
	m.c.close()
	return nil
}

// Run implements machine.Machine. The line is for cmd.exe. A command whose
// machine went away while it ran gives an *machine.ExitError with the status
// machine.DisconnectStatus, wrapped in the reason.
func (m *Machine) Run(ctx context.Context, c machine.Command) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkCommand(c); err != nil {
		return err
	}
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	shell, err := m.openShell(ctx, c.Env)
	if err != nil {
		return first(ctx.Err(), err)
	}
	lost := false
	defer func() {
		if !lost {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
			defer cancel()
			_, _ = m.c.do(end, deleteShell(shell, endTimeout)) // it ends by itself when it is unused
		}
	}()

	rep, err := m.c.do(ctx, runCommand(shell, c.Line, time.Minute))
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if lost = isLost(err); !lost {
			return fmt.Errorf("start the command: %w", err)
		}
		return disconnected(fmt.Errorf("the connection was lost while the command started: %w", err))
	}
	command, err := rep.commandID()
	if err != nil {
		return err
	}

	runCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go m.feed(runCtx, shell, command, c.Stdin, stop)
	status, err := m.drain(runCtx, shell, command, c)
	if err == nil {
		if status != 0 {
			return &machine.ExitError{Status: status}
		}
		return nil
	}
	if cause := context.Cause(runCtx); cause != nil {
		err = cause
	} else if lost = isLost(err); lost {
		return disconnected(fmt.Errorf("the connection was lost while the command ran: %w", err))
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	_, _ = m.c.do(end, signal(shell, command, endTimeout)) // the shell's end also ends it
	return first(ctx.Err(), err)
}

// openShell gives a shell's id. A request that is cut off may have opened a
// shell that nobody knows: once ctx has ended the reply still has a moment.
func (m *Machine) openShell(ctx context.Context, env map[string]string) (string, error) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(endTimeout, cancel) })()
	rep, err := m.c.do(late, createShell(env, time.Minute))
	if err != nil {
		return "", fmt.Errorf("open a shell on the machine: %w", err)
	}
	shell, err := rep.shellID()
	if err != nil {
		return "", &notWinRM{err}
	}
	return shell, nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// isLost says whether an error of a message means that the machine went away.
func isLost(err error) bool {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.gone()
	}
	if s, ok := errors.AsType[*statusError](err); ok {
		return s.status == http.StatusNotFound || s.status >= 500
	}
	for _, known := range []any{new(*authError), new(*schemeError), new(*notWinRM), new(*damaged), new(*writeError)} {
		if errors.As(err, known) {
			return false
		}
	}
	return true
}

func disconnected(err error) error {
	return fmt.Errorf("%w (%w)", err, &machine.ExitError{Status: machine.DisconnectStatus})
}

func checkCommand(c machine.Command) error {
	switch {
	case strings.TrimSpace(c.Line) == "":
		return errors.New("the command is empty")
	case strings.ContainsAny(c.Line, "\r\n"):
		return errors.New("the command has several lines, of which cmd.exe would run the first only")
	case len(c.Line) > maxLine:
		return fmt.Errorf("the command has %d characters, and cmd.exe takes %d", len(c.Line), maxLine)
	case !expressible(c.Line):
		return errors.New("the command has characters that XML, and so WinRM, cannot carry")
	}
	for k, v := range c.Env {
		if k == "" || strings.ContainsAny(k, "=\r\n") || !expressible(k) {
			return fmt.Errorf("%q is no name of an environment variable", k)
		}
		if !expressible(v) {
			return fmt.Errorf("the environment variable %s has characters that XML, and so WinRM, cannot carry", k)
		}
	}
	return nil
}

// damaged is an answer that makes no sense.
type damaged struct{ error }

func (e *damaged) Unwrap() error { return e.error }

// writeError is the failure of one of our own writers.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// drain brings the output until the command has ended.
func (m *Machine) drain(ctx context.Context, shell, command string, c machine.Command) (int, error) {
	for {
		rep, err := m.c.do(ctx, receiveOutput(shell, command, m.receive))
		if f, ok := errors.AsType[*fault](err); ok && f.code == codeTimedOut {
			continue // it is silent
		}
		if err != nil {
			return 0, err
		}
		out, err := rep.output()
		if err != nil {
			return 0, &damaged{err}
		}
		for _, chunk := range out.chunks {
			w := c.Stdout
			if chunk.stderr {
				w = c.Stderr
			}
			if w == nil || len(chunk.data) == 0 { // an end may come as an empty piece
				continue
			}
			if _, err := w.Write(chunk.data); err != nil {
				return 0, &writeError{err}
			}
		}
		if out.done {
			return out.status, nil
		}
	}
}

// feed sends the input and its end. When it fails, the command gets a moment
// to end by itself, since a command that is over takes no input.
func (m *Machine) feed(ctx context.Context, shell, command string, stdin io.Reader, stop context.CancelCauseFunc) {
	fail := func(err error) {
		timer := time.NewTimer(5 * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			stop(fmt.Errorf("send input to the command: %w", err))
		case <-ctx.Done():
		}
	}
	var buf []byte
	for ended := stdin == nil; ; {
		n := 0
		if !ended {
			var err error
			if buf == nil {
				buf = make([]byte, largeChunk)
			}
			n, err = stdin.Read(buf[:m.chunk.Load()])
			if err == io.EOF {
				ended = true
			} else if err != nil {
				stop(err)
				return
			}
		}
		if n == 0 && !ended {
			continue
		}
		if err := m.send(ctx, shell, command, buf[:n], ended); err != nil {
			fail(err)
			return
		}
		if ended {
			return
		}
	}
}

// send sends data, in smaller pieces when the machine's envelopes are small.
func (m *Machine) send(ctx context.Context, shell, command string, data []byte, end bool) error {
	_, err := m.c.do(ctx, sendInput(shell, command, data, end, sendTimeout))
	if err == nil || len(data) <= smallChunk || ctx.Err() != nil || !tooLarge(err) {
		return err
	}
	m.chunk.Store(smallChunk)
	for len(data) > 0 {
		n := min(len(data), smallChunk)
		if _, err := m.c.do(ctx, sendInput(shell, command, data[:n], end && n == len(data), sendTimeout)); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func tooLarge(err error) bool {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.tooLarge()
	}
	s, ok := errors.AsType[*statusError](err)
	return ok && (s.status == http.StatusRequestEntityTooLarge || s.status == http.StatusBadRequest)
}
