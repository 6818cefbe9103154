//go:build linux

package sshmachine

import (
	"context"
	"crypto/rand"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/machinetest"
)

// hop is s, with its key.
func hop(t testing.TB, s *sshtest.Server) Hop {
	return Hop{
		Host: s.Host, Port: s.Port, User: s.User,
		HostKeys: HostKeys{Known: []ssh.PublicKey{s.HostPublicKey()}},
		Login:    Login{Keys: []Key{key(t, s.Key)}},
	}
}

func key(t testing.TB, pem []byte) Key {
	t.Helper()
	k, err := ParseKey(pem, nil, nil, "the test")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func dial(t testing.TB, cfg Config) *Machine {
	t.Helper()
	m, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// suite runs the suite, and looks whether files have gone the way they should.
// What is left in the process only TestSuiteKey counts, which runs alone.
func suite(t *testing.T, cfg Config, ways ...way) {
	machinetest.Options{Variant: true, Beside: true}.Run(t, machineOf(t, cfg, ways...))
}

// variant is a suite that may run beside others, and whose parts are in others.
func variant(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("its parts are in the other suites")
	}
	t.Parallel()
}

func machineOf(t *testing.T, cfg Config, ways ...way) func() machine.Machine {
	return func() machine.Machine {
		m, err := Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if want := append(ways, byTar)[0]; m.way() != want {
				t.Errorf("files went way %d, want %d", m.way(), want)
			}
		})
		return m
	}
}

func TestSuiteKey(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	via := func(t *testing.T, delay, timeout time.Duration) (*machinetest.Link, Config) {
		l := machinetest.NewLink(t, func() (net.Conn, error) { return net.Dial("tcp", s.Address()) }, delay)
		h := hop(t, s)
		host, port, err := net.SplitHostPort(l.Addr())
		if err != nil {
			t.Fatal(err)
		}
		h.Host = host
		if h.Port, err = strconv.Atoi(port); err != nil {
			t.Fatal(err)
		}
		return l, Config{Hops: []Hop{h}, Timeout: timeout}
	}
	machinetest.Options{
		Cut: func(t *testing.T, after int64) machine.Machine {
			// Where the cut comes before a command, as long is waited for another connection.
			l, cfg := via(t, 0, 20*time.Second)
			m := dial(t, cfg)
			l.CutAfter(after)
			return m
		},
		Slow: func(t *testing.T) machine.Machine {
			_, cfg := via(t, machinetest.SlowDelay, time.Minute)
			return dial(t, cfg)
		},
	}.Run(t, machineOf(t, Config{Hops: []Hop{hop(t, s)}}))
}

// At a distance long streams are dealt out over several channels, or over
// connections where the server allows no channels.
func TestSuiteFar(t *testing.T) {
	variant(t)
	for _, config := range []string{"", "MaxSessions 2"} {
		t.Run(config, func(t *testing.T) {
			s := sshtest.Start(t, sshtest.Options{Config: config})
			r := sshtest.NewRelay(t, s.Address(), 12*time.Millisecond, 0)
			h := hop(t, s)
			h.Port = r.Port
			m := dial(t, Config{Hops: []Hop{h}})
			if !m.far() {
				t.Errorf("the machine is not far away: %v", time.Duration(m.away.Load()))
			}
			suite(t, Config{Hops: []Hop{h}})
		})
	}
}

func TestSuiteMaxSessions2(t *testing.T) {
	t.Parallel()
	s := sshtest.Start(t, sshtest.Options{Config: "MaxSessions 2"})
	suite(t, Config{Hops: []Hop{hop(t, s)}})
}

func TestSuiteBastion(t *testing.T) {
	t.Parallel()
	s := sshtest.Start(t, sshtest.Options{})
	one, two := sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{})
	suite(t, Config{Hops: []Hop{hop(t, one), hop(t, two), hop(t, s)}})
}

func TestSuiteWithoutTar(t *testing.T) {
	variant(t)
	s := sshtest.Start(t, sshtest.Options{Path: sshtest.Without(t, "tar")})
	suite(t, Config{Hops: []Hop{hop(t, s)}}, bySFTP)
}

func TestSuiteWithoutSFTP(t *testing.T) {
	variant(t)
	s := sshtest.Start(t, sshtest.Options{NoSFTP: true})
	suite(t, Config{Hops: []Hop{hop(t, s)}})
}

func TestSuiteWithoutBoth(t *testing.T) {
	t.Parallel()
	s := sshtest.Start(t, sshtest.Options{Path: sshtest.Without(t, "tar"), NoSFTP: true})
	suite(t, Config{Hops: []Hop{hop(t, s)}}, byFrames)
}

func TestSuiteSFTPByOption(t *testing.T) {
	variant(t)
	s := sshtest.Start(t, sshtest.Options{})
	suite(t, Config{Hops: []Hop{hop(t, s)}, Transfer: "sftp"}, bySFTP)
}

func TestSuiteBusyBox(t *testing.T) {
	variant(t)
	s := sshtest.Start(t, sshtest.Options{Path: sshtest.BusyBox(t)})
	suite(t, Config{Hops: []Hop{hop(t, s)}})
}

func TestSuitePassword(t *testing.T) {
	variant(t)
	for name, interactive := range map[string]bool{"password": false, "keyboard-interactive": true} {
		t.Run(name, func(t *testing.T) {
			s := sshtest.Start(t, sshtest.Options{Password: "correct horse", Interactive: interactive})
			h := hop(t, s)
			h.Login = Login{Password: func(context.Context) (string, error) { return "correct horse", nil }, PasswordFrom: "the test"}
			suite(t, Config{Hops: []Hop{h}})
		})
	}
}

func TestSuiteCertificate(t *testing.T) {
	variant(t)
	ca, caPub := sshtest.NewKey(t)
	s := sshtest.Start(t, sshtest.Options{})
	s.Authorize("cert-authority " + caPub)
	private, public := sshtest.NewKey(t)
	h := hop(t, s)
	k, err := ParseKey(private, nil, certify(t, ca, public, s.User), "the test")
	if err != nil {
		t.Fatal(err)
	}
	h.Login.Keys = []Key{k}
	suite(t, Config{Hops: []Hop{h}})
}

// certify signs a public key for a user.
func certify(t *testing.T, ca []byte, public, user string) []byte {
	t.Helper()
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(ca)
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{
		Key: pub, CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: []string{user}, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": "", "permit-port-forwarding": ""}},
	}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	return ssh.MarshalAuthorizedKey(cert)
}
