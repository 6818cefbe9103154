package communicator_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/winrmtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
)

// TestWinRM connects with what the template says, and with what the platform
// tells only after a while.
func TestWinRM(t *testing.T) {
	hello := &winrmtest.Emulator{Root: t.TempDir(), Other: func(p *winrmtest.Process) int {
		_, _ = io.WriteString(p.Stdout, "hello\r\n")
		return 0
	}}
	s := winrmtest.New(t, true, func(s *winrmtest.Server) { s.Run = hello.Run })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CACert, 0o600); err != nil {
		t.Fatal(err)
	}
	asked := 0
	notYet := func() error {
		if asked++; asked%2 == 1 {
			return sshmachine.ErrNotYet
		}
		return nil
	}
	for name, test := range map[string]struct {
		options func(*communicator.Options)
		target  communicator.Target
		err     string
	}{
		"the template's": {
			options: func(o *communicator.Options) {
				o.WinRMHost, o.WinRMPort, o.WinRMUsername, o.WinRMPassword = s.Host, s.Port, s.User, s.Password
			},
		},
		"the platform's": {
			target: communicator.Target{
				User:     s.User,
				Host:     func(context.Context) (string, int, error) { return s.Host, s.Port, notYet() },
				Password: func(context.Context) (string, error) { return s.Password, notYet() },
			},
		},
		"no address in time": {
			options: func(o *communicator.Options) { o.WinRMTimeout = 300 * time.Millisecond },
			target:  communicator.Target{User: s.User, Host: func(context.Context) (string, int, error) { return "", 0, sshmachine.ErrNotYet }},
			err:     "address was not known within winrm_timeout",
		},
		"no password at all": {
			target: communicator.Target{
				User: s.User, Host: func(context.Context) (string, int, error) { return s.Host, s.Port, nil },
				Password: func(context.Context) (string, error) { return "", errors.New("the key does not fit") },
			},
			err: "the key does not fit",
		},
		"the wrong password": {
			options: func(o *communicator.Options) {
				o.WinRMHost, o.WinRMPort, o.WinRMUsername, o.WinRMPassword = s.Host, s.Port, s.User, "wrong"
			},
			err: "winrm_password",
		},
		"a certificate of nobody's": {
			options: func(o *communicator.Options) {
				o.WinRMHost, o.WinRMPort, o.WinRMUsername, o.WinRMPassword = s.Host, s.Port, s.User, s.Password
				o.WinRMCACertFile = ""
			},
			err: "certificate",
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := communicator.Defaults()
			o.Communicator, o.WinRMUseSSL, o.WinRMNoProxy, o.WinRMCACertFile = "winrm", true, true, ca
			if test.options != nil {
				test.options(&o)
			}
			m, values, err := communicator.Connect(t.Context(), &o, test.target, event.Scope{})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			var out bytes.Buffer
			if err := m.Run(t.Context(), machine.Command{Line: "greet", Stdout: &out}); err != nil || out.String() != "hello\r\n" {
				t.Errorf("%v, %q", err, out.String())
			}
			for k, want := range map[string]string{"ConnType": "winrm", "Host": s.Host, "Port": strconv.Itoa(s.Port), "User": s.User, "WinRMPassword": s.Password} {
				if values[k] != want {
					t.Errorf("build.%s is %q, want %q", k, values[k], want)
				}
			}
		})
	}
}
