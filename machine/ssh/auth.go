package sshmachine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Login is how to log in to one server. All that is given is tried, in the
// order of the fields.
type Login struct {
	Keys []Key
	// AgentSocket is the socket of an ssh-agent whose keys are tried.
	AgentSocket string
	// Password answers both the password and the keyboard-interactive method.
	// It is called only once the host key has been accepted.
	Password func(ctx context.Context) (string, error)
	// PasswordFrom is what errors say of where it is from.
	PasswordFrom string
	// Ask answers what keyboard-interactive asks that is not the password.
	Ask func(ctx context.Context, question string, echo bool) (string, error)
}

// AuthError says that a server has refused every way to log in.
type AuthError struct {
	Who     string   // user@host:port
	Tried   []string // what was tried
	Accepts []string // the methods that the server named
	// Bastion says that it is not the machine that refuses.
	Bastion bool
	Cause   error
}

func (e *AuthError) Error() string {
	who := e.Who
	if e.Bastion {
		who = "the bastion " + who
	}
	tried := "nothing was tried"
	if len(e.Tried) > 0 {
		tried = "tried " + strings.Join(e.Tried, ", ")
	}
	if len(e.Accepts) > 0 {
		tried += "; the server takes " + strings.Join(e.Accepts, ", ")
	}
	return fmt.Sprintf("%s refuses the login: %s (%v)", who, tried, e.Cause)
}

func (e *AuthError) Unwrap() error { return e.Cause }

// attempt notes what is tried to log in.
type attempt struct {
	mu      sync.Mutex
	reached bool // the server was accepted, and login begun
	tried   []string
	accepts []string
	secrets error // why a secret could not be had
}

func (a *attempt) note(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.tried, what) {
		a.tried = append(a.tried, what)
	}
}

// noted is a signer that is noted when it comes to its turn: the library asks
// for the public key before it offers it.
type noted struct {
	ssh.MultiAlgorithmSigner
	note func()
}

func (n noted) PublicKey() ssh.PublicKey { n.note(); return n.MultiAlgorithmSigner.PublicKey() }

func (a *attempt) signer(s ssh.Signer, from string) ssh.Signer {
	what := fmt.Sprintf("%s key %s from %s", strings.TrimPrefix(s.PublicKey().Type(), "ssh-"), ssh.FingerprintSHA256(s.PublicKey()), from)
	note := func() { a.note(what) }
	if m, ok := s.(ssh.MultiAlgorithmSigner); ok {
		return noted{m, note}
	}
	return plainNoted{s, note}
}

type plainNoted struct {
	ssh.Signer
	note func()
}

func (n plainNoted) PublicKey() ssh.PublicKey { n.note(); return n.Signer.PublicKey() }

// methods are the ways of l. What has to be closed afterwards is closed by end.
func (a *attempt) methods(ctx context.Context, l Login) (methods []ssh.AuthMethod, end func()) {
	var conn net.Conn
	end = func() {
		if conn != nil {
			conn.Close()
		}
	}
	if len(l.Keys) > 0 || l.AgentSocket != "" {
		methods = append(methods, ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			var signers []ssh.Signer
			for _, k := range l.Keys {
				signers = append(signers, a.signer(k.Signer, k.From))
			}
			if l.AgentSocket == "" || conn != nil {
				return signers, nil
			}
			fromAgent, c, err := agentSigners(ctx, l.AgentSocket)
			conn = c
			if err != nil {
				a.secrets = err
				a.note("the ssh-agent, which failed")
			} else if len(fromAgent) == 0 {
				a.note("the ssh-agent, which has no keys")
			}
			for _, s := range fromAgent {
				if s, err := sha2Only(s); err == nil {
					signers = append(signers, a.signer(s, "the ssh-agent"))
				}
			}
			return signers, nil
		}))
	}
	if l.Password != nil {
		methods = append(methods, ssh.PasswordCallback(func() (string, error) {
			a.note("password (" + l.PasswordFrom + ")")
			return a.password(ctx, l)
		}))
	}
	if l.Password != nil || l.Ask != nil {
		methods = append(methods, ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
			answers := make([]string, len(questions))
			for i, q := range questions {
				var err error
				// What is shown while it is typed is no password.
				if l.Password != nil && !echos[i] {
					a.note("keyboard-interactive (" + l.PasswordFrom + ")")
					answers[i], err = a.password(ctx, l)
				} else if l.Ask != nil {
					a.note("keyboard-interactive (on the terminal)")
					if answers[i], err = l.Ask(ctx, q, echos[i]); err != nil {
						a.secrets = err
					}
				}
				if err != nil {
					return nil, err
				}
			}
			return answers, nil
		}))
	}
	return methods, end
}

func (a *attempt) password(ctx context.Context, l Login) (string, error) {
	p, err := l.Password(ctx)
	if err != nil {
		a.secrets = err
	}
	return p, err
}

func agentSigners(ctx context.Context, socket string) ([]ssh.Signer, net.Conn, error) {
	conn, err := dialAgent(ctx, socket)
	if err != nil {
		return nil, nil, fmt.Errorf("reach the ssh-agent: %w", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("ask the ssh-agent for its keys: %w", err)
	}
	return signers, conn, nil
}

func dialAgent(ctx context.Context, socket string) (net.Conn, error) {
	if socket == "" {
		return nil, errors.New("SSH_AUTH_SOCK is not set")
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", socket)
}

// refused makes the error of a login that was begun and failed, or nil when err
// is of another kind.
func (a *attempt) refused(h Hop, bastion bool, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.reached {
		return nil
	}
	text := err.Error()
	for _, sign := range []string{"unable to authenticate", "oo many authentication", "no common public key signature algorithm", "disconnect, reason 2:", "disconnect, reason 14:"} {
		if strings.Contains(text, sign) || a.secrets != nil && !errors.Is(a.secrets, ErrNotYet) {
			return &AuthError{Who: h.String(), Tried: a.tried, Accepts: a.accepts, Bastion: bastion, Cause: errors.Join(a.secrets, err)}
		}
	}
	return nil
}
