package winrm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/winrmtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/winrm"
)

type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(string(e.Kind) + ": " + e.Text + "\n")
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func config(s *winrmtest.Server) winrm.Config {
	return winrm.Config{
		Host: s.Host, Port: s.Port, User: s.User, Password: s.Password, HTTPS: s.CACert != nil, CACert: s.CACert,
		Timeout: time.Minute, NoProxy: true,
	}
}

// ways are the four ways to a machine.
var ways = []struct {
	name      string
	tls, ntlm bool
}{{"basic", false, false}, {"basic over TLS", true, false}, {"NTLM", false, true}, {"NTLM over TLS", true, true}}

func dial(t *testing.T, s *winrmtest.Server, ntlm bool) machine.Machine {
	t.Helper()
	cfg := config(s)
	cfg.NTLM = ntlm
	m, err := winrm.Dial(t.Context(), cfg, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if n := s.Shells(); n != 0 {
			t.Errorf("%d shells are left open", n)
		}
	})
	return m
}

// start gives a machine whose commands are run by run.
func start(t *testing.T, run func(*winrmtest.Process) int) (machine.Machine, *winrmtest.Server, *winrmtest.Emulator) {
	t.Helper()
	e := &winrmtest.Emulator{Root: t.TempDir(), Other: run}
	s := winrmtest.New(t, false, func(s *winrmtest.Server) { s.Run = e.Run })
	return dial(t, s, false), s, e
}

func TestEveryWay(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			e := &winrmtest.Emulator{Root: t.TempDir(), Other: func(p *winrmtest.Process) int {
				in, err := io.ReadAll(p.Stdin)
				fmt.Fprintf(p.Stdout, "%s|%s|%v|%s", p.Line, in, err, p.Env["Secret"])
				fmt.Fprint(p.Stderr, "to stderr ü")
				return 7
			}}
			// A server that insists: in the clear only by TLS.
			s := winrmtest.New(t, way.tls, func(s *winrmtest.Server) {
				s.Run, s.AllowUnencrypted, s.Basic, s.Negotiate = e.Run, !way.ntlm, !way.ntlm, way.ntlm
			})
			m := dial(t, s, way.ntlm)
			if p := m.Platform(); p != (machine.Platform{OS: "windows", Family: "windows", Arch: "amd64", Shell: "cmd"}) {
				t.Errorf("platform %+v", p)
			}
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					var out, errs bytes.Buffer
					line := fmt.Sprintf(`do %d "<&>" 'x' ü`, i)
					err := m.Run(t.Context(), machine.Command{
						Line: line, Env: map[string]string{"Secret": `a<"&` + "\n" + `ü`}, Stdin: strings.NewReader("in ü"), Stdout: &out, Stderr: &errs,
					})
					if exit, ok := errors.AsType[*machine.ExitError](err); !ok || exit.Status != 7 {
						t.Errorf("error %v, want exit status 7", err)
					}
					if want := line + "|in ü|<nil>|a<\"&\nü"; out.String() != want || errs.String() != "to stderr ü" {
						t.Errorf("stdout %q, want %q; stderr %q", out.String(), want, errs.String())
					}
				})
			}
			wg.Wait()
			tree(t, m)
		})
	}
}

// tree puts a tree and gets it back.
func tree(t *testing.T, m machine.Machine) {
	t.Helper()
	dir := t.TempDir()
	big := make([]byte, 700<<10+17)
	r := rand.NewChaCha8([32]byte{'w'})
	r.Read(big)
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub/empty"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub/it's ü $x"), []byte("quoted"), 0o644),
		os.WriteFile(filepath.Join(dir, "nothing"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "big"), big, 0o444),
		os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "twin")),
		os.Chtimes(filepath.Join(dir, "big"), old, old),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time over what is there
		if err := m.Put(t.Context(), `C:\a b\c`, machine.DirTree(dir, "p")); err != nil {
			t.Fatal(err)
		}
	}
	back := t.TempDir()
	if err := m.Get(t.Context(), "c:/a b/c/", machine.DirSink(back)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sub/it's ü $x", "nothing", "big", "twin"} {
		want, _ := os.ReadFile(filepath.Join(dir, name))
		if got, err := os.ReadFile(filepath.Join(back, "p", name)); err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
			t.Errorf("%s: %v, or other content", name, err)
		}
	}
	info, err := os.Stat(filepath.Join(back, "p/big"))
	if err != nil || !info.ModTime().Equal(old) || info.Mode().Perm() != 0o444 {
		t.Errorf("%v; big came back with time %v and mode %v", err, info.ModTime(), info.Mode())
	}
	if info, err := os.Stat(filepath.Join(back, "p/sub/empty")); err != nil || !info.IsDir() {
		t.Errorf("the empty directory: %v", err)
	}
	one := filepath.Join(t.TempDir(), "one")
	if err := m.Get(t.Context(), `c:\a b\c\p\sub\it's ü $x`, machine.FileSink(one)); err != nil {
		t.Error(err)
	} else if b, _ := os.ReadFile(one); string(b) != "quoted" {
		t.Errorf("one file: %q", b)
	}
}

func TestDialFailsAtOnce(t *testing.T) {
	run := (&winrmtest.Emulator{}).Run
	garbage := func(status int, body string) func(string, http.ResponseWriter, *http.Request) bool {
		return func(_ string, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/soap+xml")
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		}
	}
	for name, test := range map[string]struct {
		tls    bool
		server func(*winrmtest.Server)
		config func(*winrm.Config)
		want   string
	}{
		"wrong password":           {false, nil, func(c *winrm.Config) { c.Password = "WRONG" }, "refused the password of user \"Administrator\""},
		"wrong password over NTLM": {false, nil, func(c *winrm.Config) { c.NTLM, c.Password = true, "WRONG" }, "refused the password"},
		"wrong user over NTLM":     {true, nil, func(c *winrm.Config) { c.NTLM, c.User = true, "nobody" }, "refused the password of user \"nobody\""},
		"untrusted certificate":    {true, nil, func(c *winrm.Config) { c.CACert = nil }, "winrm_insecure"},
		"other name":               {true, nil, func(c *winrm.Config) { c.ServerName = "other.test" }, "winrm_insecure"},
		"HTTPS to HTTP":            {false, nil, func(c *winrm.Config) { c.HTTPS = true }, "winrm_port"},
		"garbage":                  {false, func(s *winrmtest.Server) { s.Intercept = garbage(200, "<html><body>hello") }, nil, "is it WinRM"},
		"empty":                    {false, func(s *winrmtest.Server) { s.Intercept = garbage(200, "") }, nil, "is it WinRM"},
		"redirect":                 {false, func(s *winrmtest.Server) { s.Intercept = garbage(302, "") }, nil, "is it WinRM"},
		"access denied": {false, func(s *winrmtest.Server) {
			s.Intercept = garbage(500, string(winrmtest.Fault("w:AccessDenied", 5, "Access is denied.")))
		}, nil, "Remote Management Users"},
		"no encryption": {false, func(s *winrmtest.Server) { s.WeakNTLM = true }, func(c *winrm.Config) { c.NTLM = true }, "does not encrypt"},
		"no user":       {false, nil, func(c *winrm.Config) { c.User = "" }, "winrm_username"},
		"no PEM":        {true, nil, func(c *winrm.Config) { c.CACert = []byte("x") }, "PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			s := winrmtest.New(t, test.tls, func(s *winrmtest.Server) {
				s.Run = run
				if test.server != nil {
					test.server(s)
				}
			})
			cfg := config(s)
			cfg.Timeout = time.Minute
			if test.config != nil {
				test.config(&cfg)
			}
			var events log
			m, err := winrm.Dial(t.Context(), cfg, event.Scope{Sink: &events})
			if err == nil || m != nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			if strings.Contains(err.Error(), "winrm_timeout") {
				t.Errorf("it was tried to the end: %v", err)
			}
			for _, secret := range []string{s.Password, "WRONG"} {
				if strings.Contains(err.Error()+events.String(), secret) {
					t.Errorf("the password is in %v or in %v", err, &events)
				}
			}
		})
	}
}

// TestDialWaits: what a machine that boots does heals.
func TestDialWaits(t *testing.T) {
	var asked atomic.Int32
	e := &winrmtest.Emulator{}
	s := winrmtest.New(t, false, func(s *winrmtest.Server) {
		s.Run = e.Run
		s.Intercept = func(_ string, w http.ResponseWriter, _ *http.Request) bool {
			switch asked.Add(1) {
			case 1:
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				http.NotFound(w, nil)
			case 3: // Basic comes with the setup
				w.Header().Set("WWW-Authenticate", "Negotiate")
				w.WriteHeader(http.StatusUnauthorized)
			case 4:
				panic(http.ErrAbortHandler)
			default:
				return false
			}
			return true
		}
	})
	var events log
	m, err := winrm.Dial(t.Context(), config(s), event.Scope{Sink: &events})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	for _, want := range []string{"503", "404", "winrm_use_ntlm", "unencrypted"} {
		if !strings.Contains(events.String(), want) {
			t.Errorf("%q is not in the events:\n%s", want, &events)
		}
	}
}

func TestDialTimesOutAndIsCancelled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := winrm.Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "u", Password: "p", NoProxy: true, Timeout: 300 * time.Millisecond}
	if _, err := winrm.Dial(t.Context(), cfg, event.Scope{}); err == nil || !strings.Contains(err.Error(), "winrm_timeout (300ms)") {
		t.Errorf("error %v", err)
	}
	cfg.Timeout = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := winrm.Dial(ctx, cfg, event.Scope{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestInsecureWarns(t *testing.T) {
	s := winrmtest.New(t, true, func(s *winrmtest.Server) { s.Run = (&winrmtest.Emulator{}).Run })
	cfg := config(s)
	cfg.CACert, cfg.Insecure = nil, true
	var events log
	m, err := winrm.Dial(t.Context(), cfg, event.Scope{Sink: &events})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if !strings.Contains(events.String(), "warning: winrm_insecure") {
		t.Errorf("events:\n%s", &events)
	}
}

func TestCommandsThatCannotBe(t *testing.T) {
	m, s, _ := start(t, nil)
	before := s.Count("Create")
	for _, c := range []machine.Command{
		{Line: ""}, {Line: "a\nb"}, {Line: strings.Repeat("x", 8192)}, {Line: "a\x01"}, {Line: "a\xff"},
		{Line: "a", Env: map[string]string{"": "x"}}, {Line: "a", Env: map[string]string{"a=b": "x"}}, {Line: "a", Env: map[string]string{"a": "\x00"}},
	} {
		if err := m.Run(t.Context(), c); err == nil {
			t.Errorf("%.40q: no error", c)
		}
	}
	if n := s.Count("Create"); n != before {
		t.Error("the machine was asked")
	}
}

func TestStatus(t *testing.T) {
	m, _, _ := start(t, func(p *winrmtest.Process) int {
		var n int
		fmt.Sscanf(p.Line, "exit %d", &n)
		return n
	})
	for _, n := range []int{0, 1, 255, 259, 3010, 3221225786, -1073741510} {
		err := m.Run(t.Context(), machine.Command{Line: fmt.Sprintf("exit %d", n)})
		exit, ok := errors.AsType[*machine.ExitError](err)
		if n == 0 && err != nil || n != 0 && (!ok || exit.Status != n) {
			t.Errorf("exit %d: %v", n, err)
		}
	}
}

type counter struct {
	n   int64
	odd bool
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	c.odd = c.odd || bytes.Count(p, []byte{'x'}) != len(p)
	return len(p), nil
}

func TestHugeOutput(t *testing.T) {
	const size = 8 << 20
	m, _, _ := start(t, func(p *winrmtest.Process) int {
		block := bytes.Repeat([]byte{'x'}, 1<<20)
		for range size >> 20 {
			if _, err := p.Stdout.Write(block); err != nil {
				return 1
			}
		}
		return 0
	})
	var out counter
	if err := m.Run(t.Context(), machine.Command{Line: "much", Stdout: &out}); err != nil || out.n != size || out.odd {
		t.Errorf("%v, %d bytes, damaged: %v", err, out.n, out.odd)
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken on purpose")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestFailingWriterStopsTheCommand(t *testing.T) {
	ended := make(chan struct{})
	m, _, _ := start(t, func(p *winrmtest.Process) int {
		fmt.Fprint(p.Stdout, "x")
		<-p.Context.Done()
		close(ended)
		return 0
	})
	if err := m.Run(t.Context(), machine.Command{Line: "x", Stdout: brokenWriter{}}); !errors.Is(err, errBroken) {
		t.Errorf("error %v", err)
	}
	<-ended
}

func TestCancelTerminates(t *testing.T) {
	ended := make(chan struct{})
	started := make(chan struct{})
	m, s, _ := start(t, func(p *winrmtest.Process) int {
		fmt.Fprint(p.Stdout, "x")
		<-p.Context.Done()
		close(ended)
		return 0
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := io.Pipe() // an input that never comes
	done := make(chan error)
	go func() {
		done <- m.Run(ctx, machine.Command{Line: "wait", Stdin: r, Stdout: once(func() { close(started) })})
	}()
	<-started
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	<-ended
	if s.Count("Signal") != 1 {
		t.Error("no signal was sent")
	}
	if err := m.Run(ctx, machine.Command{Line: "wait"}); !errors.Is(err, context.Canceled) {
		t.Errorf("afterwards: %v", err)
	}
}

// once is a writer that calls itself with each output.
type once func()

func (o once) Write(p []byte) (int, error) { o(); return len(p), nil }

// TestConversation: input and output are not buffered up.
func TestConversation(t *testing.T) {
	m, _, _ := start(t, func(p *winrmtest.Process) int {
		var word string
		for {
			if _, err := fmt.Fscanln(p.Stdin, &word); err != nil || word == "bye" {
				return 0
			}
			fmt.Fprintf(p.Stdout, "heard %s\n", word)
		}
	})
	in, say := io.Pipe()
	hear, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- m.Run(t.Context(), machine.Command{Line: "talk", Stdin: in, Stdout: out}) }()
	for _, word := range []string{"a", "b"} {
		fmt.Fprintln(say, word)
		var h string
		if _, err := fmt.Fscanf(hear, "heard %s\n", &h); err != nil || h != word {
			t.Fatalf("%v, heard %q", err, h)
		}
	}
	fmt.Fprintln(say, "bye")
	if err := <-done; err != nil { // though the input has not ended
		t.Error(err)
	}
}

func TestSilentCommand(t *testing.T) {
	wait := make(chan struct{})
	m, s, _ := start(t, func(*winrmtest.Process) int { <-wait; return 0 })
	winrm.SetReceive(m, 20*time.Millisecond)
	done := make(chan error)
	before := s.Count("Receive")
	go func() { done <- m.Run(t.Context(), machine.Command{Line: "silent"}) }()
	for s.Count("Receive") < before+4 {
		time.Sleep(time.Millisecond)
	}
	close(wait)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLost: every way that a machine can go away while a command runs gives
// the status that templates know.
func TestLost(t *testing.T) {
	for name, lose := range map[string]func(s *winrmtest.Server, w http.ResponseWriter){
		"reboot": func(s *winrmtest.Server, _ http.ResponseWriter) { go s.Reboot() },
		"shell gone": func(s *winrmtest.Server, w http.ResponseWriter) {
			s.ForgetShells()
			w.WriteHeader(500)
			w.Write(winrmtest.Fault("w:InvalidSelectors", 2150858843, "gone"))
		},
		"aborted": func(s *winrmtest.Server, w http.ResponseWriter) {
			w.WriteHeader(500)
			w.Write(winrmtest.Fault("w:InternalError", 995, "The I/O operation has been aborted"))
		},
		"cut mid-body": func(_ *winrmtest.Server, w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5000")
			io.WriteString(w, "<s:Envelope")
			panic(http.ErrAbortHandler)
		},
		"hangs": func(_ *winrmtest.Server, _ http.ResponseWriter) {}, // until the client's patience, set below, is over
		"503":   func(_ *winrmtest.Server, w http.ResponseWriter) { w.WriteHeader(503) },
	} {
		t.Run(name, func(t *testing.T) {
			var armed atomic.Bool
			var s *winrmtest.Server
			e := &winrmtest.Emulator{Other: func(p *winrmtest.Process) int {
				fmt.Fprint(p.Stdout, "before")
				<-p.Context.Done()
				return 0
			}}
			s = winrmtest.New(t, false, func(s *winrmtest.Server) {
				s.Run = e.Run
				s.Intercept = func(action string, w http.ResponseWriter, r *http.Request) bool {
					if action != "Receive" || !armed.Load() {
						return false
					}
					lose(s, w)
					if name == "reboot" || name == "hangs" {
						<-r.Context().Done()
					}
					return true
				}
			})
			cfg := config(s)
			m, err := winrm.Dial(t.Context(), cfg, event.Scope{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if name == "hangs" {
				winrm.SetReceive(m, 20*time.Millisecond)
				winrm.SetGrace(m, 50*time.Millisecond)
			}
			err = m.Run(t.Context(), machine.Command{Line: "x", Stdout: arm{&armed}})
			exit, ok := errors.AsType[*machine.ExitError](err)
			if !ok || exit.Status != machine.DisconnectStatus {
				t.Errorf("error %v, want the status of a lost connection", err)
			}
		})
	}
}

// arm is a stdout that arms the fault with the first output.
type arm struct{ b *atomic.Bool }

func (a arm) Write(p []byte) (int, error) { a.b.Store(true); return len(p), nil }

// TestDamaged: an answer without sense is an error, and never success.
func TestDamaged(t *testing.T) {
	const head = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Header><RelatesTo>%s</RelatesTo></s:Header><s:Body>`
	for name, body := range map[string]string{
		"garbage":        "\x00\xff<<<",
		"other message":  head + `<ReceiveResponse/></s:Body></s:Envelope>`,
		"too large":      strings.Repeat(" ", 5<<20),
		"no output":      "",
		"entity bombing": `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope">&a;</s:Envelope>`,
	} {
		t.Run(name, func(t *testing.T) {
			var armed atomic.Bool
			e := &winrmtest.Emulator{Other: func(p *winrmtest.Process) int {
				fmt.Fprint(p.Stdout, "x")
				<-p.Context.Done()
				return 0
			}}
			s := winrmtest.New(t, false, func(s *winrmtest.Server) {
				s.Run = e.Run
				s.Intercept = func(action string, w http.ResponseWriter, _ *http.Request) bool {
					if action != "Receive" || !armed.Load() {
						return false
					}
					io.WriteString(w, body)
					return true
				}
			})
			m := dial(t, s, false)
			err := m.Run(t.Context(), machine.Command{Line: "x", Stdout: arm{&armed}})
			if err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestChunksFitTheEnvelope: large chunks at first, and small ones for a machine
// that has small envelopes.
func TestChunksFitTheEnvelope(t *testing.T) {
	for name, limit := range map[string]int{"500 KiB": 500 << 10, "150 KiB": 150 << 10} {
		t.Run(name, func(t *testing.T) {
			for _, way := range ways {
				e := &winrmtest.Emulator{Root: t.TempDir()}
				s := winrmtest.New(t, way.tls, func(s *winrmtest.Server) { s.Run, s.MaxEnvelope, s.AllowUnencrypted = e.Run, limit, !way.ntlm })
				m := dial(t, s, way.ntlm)
				data := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)
				if err := m.Put(t.Context(), "C:/x", machine.BytesTree("f", data, 0o644)); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(filepath.Join(e.Root, "c/x/f"))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %v, or other content", way.name, err)
				}
				// The data are base64 twice.
				messages := s.Count("Send")
				if most := len(data)*4/3/(limit*7/10) + 20; messages > most {
					t.Errorf("%s: %d messages of input for %d bytes, want at most %d", way.name, messages, len(data), most)
				}
				if n := s.Count("Command"); n != 2 { // the greeting's and this one
					t.Errorf("%s: %d commands", way.name, n)
				}
			}
		})
	}
}

type brokenTree struct{}

func (brokenTree) WriteTar(context.Context, io.Writer) error { return errBroken }

func TestPutFailures(t *testing.T) {
	m, _, e := start(t, nil)
	if err := m.Put(t.Context(), "C:/x", brokenTree{}); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want the tree's", err)
	}
	for _, name := range []string{"a:b", "con", "Com1.txt", "x.", "x ", "a\\b", "a\nb", "a\xffb", "a?", "d/nul"} {
		if err := m.Put(t.Context(), "C:/x", machine.BytesTree(name, nil, 0o644)); err == nil || !strings.Contains(err.Error(), "Windows machine") {
			t.Errorf("%q: error %v", name, err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(e.Root, "c"), 0o755), os.WriteFile(filepath.Join(e.Root, "c/file"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := m.Put(t.Context(), "C:/file", machine.BytesTree("g", make([]byte, 4<<20), 0o644)); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("below a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tree := stuckTree{make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- m.Put(ctx, "C:/y", tree) }()
	<-tree.begun
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

type stuckTree struct{ begun chan struct{} }

func (s stuckTree) WriteTar(ctx context.Context, _ io.Writer) error {
	close(s.begun)
	<-ctx.Done()
	return ctx.Err()
}

type brokenSink struct{}

func (brokenSink) ReadTar(context.Context, io.Reader) error { return errBroken }

func TestGetFailures(t *testing.T) {
	m, _, e := start(t, nil)
	if err := m.Put(t.Context(), "C:/x", machine.BytesTree("f", bytes.Repeat([]byte("y"), 1<<20), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := m.Get(t.Context(), "C:/not there", machine.DirSink(t.TempDir())); err == nil || !strings.Contains(err.Error(), "C:/not there does not exist") {
		t.Errorf("missing: %v", err)
	}
	if err := m.Get(t.Context(), "C:/x", brokenSink{}); !errors.Is(err, errBroken) {
		t.Errorf("broken sink: %v", err)
	}
	for name, damage := range map[string]func(string) string{
		"short":      func(l string) string { return strings.Replace(l, "+ eXl5", "+ eXl5\r\n+ ", 1)[:min(len(l), 100000)] },
		"changed":    func(l string) string { return strings.Replace(l, "+ eXl5", "+ eXl4", 1) },
		"no end":     func(l string) string { return strings.TrimPrefix(l, ". 1") },
		"wrong end":  func(l string) string { return strings.Replace(l, ". 1", ". 2", 1) },
		"escape":     func(l string) string { return strings.Replace(l, "F Zg==", "F Li4vZXNjYXBl", 1) },
		"NUL":        func(l string) string { return strings.Replace(l, "F Zg==", "F ZgBm", 1) },
		"negative":   func(l string) string { return strings.Replace(l, " 1048576 ", " -1 ", 1) },
		"huge":       func(l string) string { return strings.Replace(l, " 1048576 ", " 9223372036854775807 ", 1) },
		"no hash":    func(l string) string { return strings.Replace(l, "= ", "= 00", 1) },
		"chatter":    func(l string) string { return "Welcome!\r\n" + l },
		"after end":  func(l string) string { return strings.Replace(l, ". 1", ". 1\r\nD eA==", 1) },
		"long line":  func(l string) string { return strings.Repeat("x", 1<<20) },
		"device":     func(l string) string { return strings.Replace(l, "F ", "X ", 1) },
		"drive name": func(l string) string { return strings.Replace(l, "F Zg==", "F XFxob3N0XHNoYXJl", 1) }, // \\host\share
	} {
		e.Damage(damage)
		dir := t.TempDir()
		if err := m.Get(t.Context(), "C:/x", machine.DirSink(dir)); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(filepath.Join(dir, "../escape")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it escaped", name)
		}
	}
}
