// Package sshmachine is a machine that is reached by SSH: one connection, many
// channels, and no trust on first use.
package sshmachine

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/event"
)

// Config says which machine to reach, and how.
type Config struct {
	// Hops are the SSH servers on the way, the nearest first. The last is the machine.
	Hops []Hop
	// Address, when set, is asked for the machine's host and port before each
	// attempt, instead of the last hop. It returns ErrNotYet, possibly wrapped,
	// while they are not known.
	Address func(ctx context.Context) (host string, port int, err error)
	// Proxy is what the first hop is reached through; nil: nothing.
	Proxy *Proxy

	// Fresh says that the machine is booting for the first time: a refused
	// login may then heal, since the key is put there while it boots.
	Fresh bool
	// Timeout bounds connecting, with all attempts, and reconnecting. 0: 5 minutes.
	Timeout time.Duration
	// TimeoutOption is what an error calls Timeout. Default: ssh_timeout.
	TimeoutOption string
	// HandshakeAttempts is how many refused logins are borne, where one can
	// heal: of a Fresh machine, or where it is not 0. Refusals within 5 seconds
	// count as one. 0: as many as Timeout allows.
	HandshakeAttempts int
	// KeepAlive is how often the connection is proved. 0: 5 seconds; negative: never.
	KeepAlive time.Duration
	// ReadWriteTimeout bounds each read and write. 0: no bound.
	ReadWriteTimeout time.Duration

	// Ciphers and KeyExchanges replace what is offered.
	Ciphers, KeyExchanges []string
	// PTY runs commands in a terminal.
	PTY bool
	// ForwardAgent lets the machine use the agent at AgentSocket.
	ForwardAgent bool
	AgentSocket  string
	// Transfer is "sftp" for files by the sftp subsystem, "scp" for never by
	// it, "" for what works best.
	Transfer string
	// LocalTunnels listen here, RemoteTunnels on the machine.
	LocalTunnels, RemoteTunnels []Tunnel

	Events event.Scope
}

// Hop is one SSH server: a bastion, or the machine.
type Hop struct {
	Host string
	Port int // 0: 22
	User string
	// HostKeys decides whether the server is the right one.
	HostKeys HostKeys
	Login    Login
}

// Address is host and port.
func (h Hop) Address() string { return net.JoinHostPort(h.Host, strconv.Itoa(h.port())) }

func (h Hop) port() int {
	if h.Port == 0 {
		return 22
	}
	return h.Port
}

func (h Hop) String() string { return h.User + "@" + h.Address() }

// Tunnel is a port on one side and a place to connect to from the other.
type Tunnel struct {
	Port int
	To   string // host:port
}

// ParseTunnel reads "PORT:HOST:PORT". HOST may be an IPv6 address in brackets.
func ParseTunnel(s string) (Tunnel, error) {
	bad := fmt.Errorf("%q is no tunnel: write it as PORT:HOST:PORT", s)
	first, to, ok := strings.Cut(s, ":")
	if !ok {
		return Tunnel{}, bad
	}
	host, last, err := net.SplitHostPort(to)
	if err != nil || host == "" {
		return Tunnel{}, bad
	}
	port, err1 := parsePort(first)
	toPort, err2 := parsePort(last)
	if err := errors.Join(err1, err2); err != nil {
		return Tunnel{}, bad
	}
	return Tunnel{port, net.JoinHostPort(host, strconv.Itoa(toPort))}, nil
}

func parsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = errors.New("0 is no port")
	}
	return int(n), err
}

// ErrNotYet is in the error of Config.Address while the machine has no address.
var ErrNotYet = errors.New("the machine has no address yet")

// Key is a private key and what an error says of where it is from.
type Key struct {
	ssh.Signer
	From string
	// PEM is the key without a passphrase, and Certificate its certificate if
	// there is one, for other programs that are to reach the machine.
	PEM, Certificate []byte
}

// ErrPassphrase is in the error of ParseKey about a key that is encrypted.
var ErrPassphrase = errors.New("the key is encrypted")

// ParseKey reads a private key in PEM form, and the certificate for it if there
// is one, in authorized_keys form. RSA keys sign with SHA-2 only.
func ParseKey(text, passphrase, certificate []byte, from string) (Key, error) {
	var raw any
	var err error
	if len(passphrase) > 0 {
		raw, err = ssh.ParseRawPrivateKeyWithPassphrase(text, passphrase)
	} else {
		raw, err = ssh.ParseRawPrivateKey(text)
	}
	if _, missing := errors.AsType[*ssh.PassphraseMissingError](err); missing {
		return Key{}, ErrPassphrase
	}
	if err != nil {
		return Key{}, fmt.Errorf("it is no private key that can be read: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return Key{}, err
	}
	if signer.PublicKey().Type() == "ssh-dss" {
		return Key{}, errors.New("it is a DSA key, which no SSH server of today takes; make an ed25519 key")
	}
	if len(certificate) > 0 {
		pub, _, _, _, err := ssh.ParseAuthorizedKey(certificate)
		if err != nil {
			return Key{}, fmt.Errorf("its certificate cannot be read: %w", err)
		}
		cert, ok := pub.(*ssh.Certificate)
		if !ok {
			return Key{}, errors.New("its certificate is a plain public key")
		}
		if signer, err = ssh.NewCertSigner(cert, signer); err != nil {
			return Key{}, fmt.Errorf("its certificate is of another key: %w", err)
		}
	}
	if signer, err = sha2Only(signer); err != nil {
		return Key{}, err
	}
	block, err := ssh.MarshalPrivateKey(raw, "")
	if err != nil {
		return Key{}, err
	}
	return Key{signer, from, pem.EncodeToMemory(block), certificate}, nil
}

// sha2Only keeps RSA signers from falling back to SHA-1.
func sha2Only(s ssh.Signer) (ssh.Signer, error) {
	switch s.PublicKey().Type() {
	case ssh.KeyAlgoRSA, ssh.CertAlgoRSAv01:
	default:
		return s, nil
	}
	as, ok := s.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("the RSA key cannot sign with SHA-2")
	}
	return ssh.NewSignerWithAlgorithms(as, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
}

// Algorithms are the ciphers and key exchanges that exist here, those that are
// weak and must be asked for by name included.
func Algorithms() (ciphers, keyExchanges []string) {
	good, weak := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	return slices.Concat(good.Ciphers, weak.Ciphers), slices.Concat(good.KeyExchanges, weak.KeyExchanges)
}
