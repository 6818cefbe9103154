package winrmtest

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pywinrm is a client that knows nothing of Ingot: what it takes for WinRM, is
// more than our own client's echo.
const pywinrm = `
import sys, winrm
from winrm.exceptions import InvalidCredentialsError
url, transport, user, password, ca, kind = sys.argv[1:7]
def protocol(password):
    return winrm.Protocol(endpoint=url, transport=transport, username=user, password=password,
        server_cert_validation='validate' if ca else 'ignore', ca_trust_path=ca or None, message_encryption=kind,
        operation_timeout_sec=2, read_timeout_sec=20)
p = protocol(password)
shell = p.open_shell(env_vars={'A': 'a<&'})
for i in range(3):
    command = p.run_command(shell, 'do', ['%d' % i, '"<&>"'], console_mode_stdin=False)
    out, err, status = p.get_command_output(shell, command)
    assert (out, err, status) == (('do %d "<&>" a<&' % i).encode() + b'x' * 300000, b'err', i), (out[:100], err, status)
    p.cleanup_command(shell, command)
command = p.run_command(shell, 'silent')
assert p.get_command_output(shell, command)[2] == 9
p.close_shell(shell)
try:
    p.run_command(shell, 'do')
    raise SystemExit('a closed shell ran a command')
except winrm.exceptions.WinRMError as e:
    assert '2150858843' in str(e), e
try:
    protocol('wrong').open_shell()
    raise SystemExit('a wrong password was taken')
except InvalidCredentialsError:
    pass
print('fine')
`

// python is Debian's, since the module is.
const python = "/usr/bin/python3"

func TestPywinrm(t *testing.T) {
	if err := exec.Command(python, "-c", "import winrm").Run(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs pywinrm (Debian: python3-winrm)")
		}
		t.Skip("needs pywinrm (Debian: python3-winrm)")
	}
	// NTLM needs MD4, which OpenSSL keeps among the old things.
	legacy := filepath.Join(t.TempDir(), "openssl.cnf")
	if err := os.WriteFile(legacy, []byte("openssl_conf = a\n[a]\nproviders = b\n[b]\ndefault = c\nlegacy = c\n[c]\nactivate = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		name, transport, encryption string
		tls                         bool
	}{
		{"basic", "plaintext", "never", false}, {"basic over TLS", "ssl", "never", true},
		{"NTLM", "ntlm", "always", false}, {"NTLM over TLS", "ntlm", "never", true},
	} {
		t.Run(way.name, func(t *testing.T) {
			n := 0
			s := New(t, way.tls, func(s *Server) {
				if s.AllowUnencrypted = way.transport != "ntlm"; s.AllowUnencrypted {
					s.Password = "p&<\"'" // that client has Latin 1 in Basic
				}
				s.Run = func(p *Process) int {
					if p.Line == "silent" {
						// Longer than the client's operation timeout.
						for before := s.Count("Receive"); s.Count("Receive") < before+2 && p.Context.Err() == nil; {
							time.Sleep(10 * time.Millisecond)
						}
						return 9
					}
					fmt.Fprintf(p.Stdout, "%s %s%s", p.Line, p.Env["A"], strings.Repeat("x", 300000))
					io.WriteString(p.Stderr, "err")
					n++
					return n - 1
				}
			})
			ca := ""
			if way.tls {
				f, err := os.CreateTemp(t.TempDir(), "ca")
				if err != nil {
					t.Fatal(err)
				}
				f.Write(s.CACert)
				f.Close()
				ca = f.Name()
			}
			cmd := exec.CommandContext(t.Context(), python, "-c", pywinrm, s.http.URL+"/wsman", way.transport, s.User, s.Password, ca, way.encryption)
			cmd.Env = append(os.Environ(), "NO_PROXY=*", "OPENSSL_CONF="+legacy)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasSuffix(string(out), "fine\n") {
				t.Errorf("%v\n%s", err, out)
			}
			if n := s.Shells(); n != 0 {
				t.Errorf("%d shells are left", n)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	s := New(t, false, nil)
	post := func(path, kind, body string, login bool) *http.Response {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, s.http.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		if login {
			r.SetBasicAuth(s.User, s.Password)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if r := post("/wsman", soapType, "x", false); r.StatusCode != 401 || len(r.Header.Values("WWW-Authenticate")) != 2 {
		t.Errorf("without a login: %v", r.Status)
	}
	if r := post("/wsman", soapType, "<x/>", true); r.StatusCode != 500 {
		t.Errorf("garbage: %v", r.Status)
	}
	if r := post("/", soapType, "x", true); r.StatusCode != 404 {
		t.Errorf("another path: %v", r.Status)
	}
	if r := post("/wsman", soapType, strings.Repeat("x", s.MaxEnvelope+1), true); r.StatusCode != 500 {
		t.Errorf("too large: %v", r.Status)
	}
}
