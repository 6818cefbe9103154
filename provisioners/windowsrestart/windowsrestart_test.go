package windowsrestart

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/powershelltest"
	"github.com/ingotbuild/ingot/internal/winrmtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/winrm"
	"github.com/ingotbuild/ingot/provisioners"
)

// windows is a machine that restarts.
type windows struct {
	mu      sync.Mutex
	booted  time.Time
	down    bool
	pending int // restarts still due
	status  int // of the restart command
	lines   []string
	server  *winrmtest.Server
	// restart is what the restart command does.
	restart func(w *windows)
}

func (w *windows) run(p *winrmtest.Process) int {
	text, args, ok := winrmtest.Call(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case strings.Contains(text, "'up '"):
		fmt.Fprintf(p.Stdout, "up %d\r\n", time.Since(w.booted).Milliseconds())
	case strings.Contains(text, "'pending '"):
		if w.pending > 0 {
			w.pending--
			fmt.Fprintf(p.Stdout, "pending %s\r\n", args[0])
		}
		fmt.Fprint(p.Stdout, "checked\r\n")
	case !ok:
		w.lines = append(w.lines, p.Line)
		if strings.HasPrefix(p.Line, "shutdown") {
			w.restart(w)
			return w.status
		}
	}
	return 0
}

// reboot drops all connections, refuses for a moment, and comes back.
func reboot(w *windows) {
	w.down = true
	go func() {
		w.server.Reboot()
		time.Sleep(100 * time.Millisecond)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.booted, w.down = time.Now(), false
	}()
}

func start(t *testing.T, w *windows) machine.Machine {
	t.Helper()
	w.booted = time.Now().Add(-time.Hour)
	e := &winrmtest.Emulator{Other: w.run}
	w.server = winrmtest.New(t, false, func(s *winrmtest.Server) {
		s.Run = e.Run
		s.Intercept = func(_ string, rw http.ResponseWriter, _ *http.Request) bool {
			w.mu.Lock()
			down := w.down
			w.mu.Unlock()
			if down {
				panic(http.ErrAbortHandler)
			}
			return false
		}
	})
	m, err := winrm.Dial(t.Context(), winrm.Config{Host: w.server.Host, Port: w.server.Port, User: w.server.User, Password: w.server.Password, NoProxy: true, Timeout: time.Minute}, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestRestart(t *testing.T) {
	for name, w := range map[string]*windows{
		"connection lost": {restart: reboot, status: 0},
		"under way":       {restart: reboot, status: 1115, pending: 2},
		"slow to go": {restart: func(w *windows) {
			go func() {
				time.Sleep(200 * time.Millisecond)
				w.mu.Lock()
				reboot(w)
				w.mu.Unlock()
			}()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t, w)
			p := New()
			p.first = 10 * time.Millisecond
			p.o.CheckRegistry, p.o.RestartCheckCommand = true, "echo ready"
			if problems := p.Check(t.Context(), nil); problems != nil {
				t.Fatal(problems)
			}
			if err := p.Provision(t.Context(), &provisioners.Env{}, m); err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if time.Since(w.booted) > time.Minute {
				t.Error("it did not restart")
			}
			if w.pending != 0 || w.lines[0] != `shutdown /r /f /t 0 /c "packer restart"` || w.lines[len(w.lines)-1] != "echo ready" {
				t.Errorf("pending %d, lines %q", w.pending, w.lines)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		w    *windows
		want string
	}{
		"refused":    {&windows{restart: func(*windows) {}, status: 5}, "exit status 5"},
		"never down": {&windows{restart: func(*windows) {}}, "it has not gone down yet"},
		"always due": {&windows{restart: reboot, pending: 1 << 30}, "another restart is due: HKLM:SOFTWARE"},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t, test.w)
			p := New()
			p.first = 10 * time.Millisecond
			p.o.CheckRegistry = true
			// On a busy host a short time may be over before the cause is seen.
			for p.o.RestartTimeout = 3 * time.Second; ; p.o.RestartTimeout *= 4 {
				err := p.Provision(t.Context(), &provisioners.Env{}, m)
				if err != nil && !strings.Contains(err.Error(), test.want) && p.o.RestartTimeout < 30*time.Second {
					continue
				}
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				return
			}
		})
	}
	if err := New().Provision(t.Context(), &provisioners.Env{}, nil); !errors.Is(err, machine.ErrNone) {
		t.Errorf("without a machine: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"restart_command":       func(o *Options) { o.RestartCommand = " " },
		"restart_check_command": func(o *Options) { o.RestartCheckCommand = "a\nb" },
		"restart_timeout":       func(o *Options) { o.RestartTimeout = 0 },
	} {
		p := New()
		change(&p.o)
		if problems := p.Check(t.Context(), nil); len(problems) != 1 || problems[0].Option != want {
			t.Errorf("%s: %v", want, problems)
		}
	}
}

func TestSyntax(t *testing.T) {
	powershelltest.Parse(t, map[string]string{"up": upScript, "pending": pendingScript})
}
