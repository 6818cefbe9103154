package sshmachine

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// HostKeys decides whether a server is the right one. Without any of the fields
// no server is.
type HostKeys struct {
	// Known are the only keys to accept. When there are any, Files are not read.
	Known []ssh.PublicKey
	// Files are known_hosts files. They must exist.
	Files []string
	// Name is looked up in Files instead of the address, as ssh's HostKeyAlias.
	Name string
	// Ignore accepts any key.
	Ignore bool
	// Advice is what a HostKeyError says can be done. Default: the options of templates.
	Advice string
}

// HostKeyError says that a server has shown a key that is not accepted. Nothing
// secret has been sent to it.
type HostKeyError struct {
	Host string
	// Got is the key, as a known_hosts file would name it.
	Got string
	// Want are the keys that are known, empty for an unknown host.
	Want []string
	// Revoked says that the key is marked as revoked.
	Revoked bool
	options string
}

func (e *HostKeyError) Error() string {
	switch {
	case e.Revoked:
		return fmt.Sprintf("the host key of %s is revoked: %s. Nothing secret was sent", e.Host, e.Got)
	case len(e.Want) > 0:
		return fmt.Sprintf("the host key of %s is not the one that is known: it shows %s, known is %s. Either the machine was made anew, or someone stands between. Nothing secret was sent; %s",
			e.Host, e.Got, strings.Join(e.Want, ", "), e.options)
	}
	return fmt.Sprintf("the host key of %s is not known: it shows %s. Nothing secret was sent; %s", e.Host, e.Got, e.options)
}

// checker is a HostKeys that is ready for use.
type checker struct {
	HostKeys
	known ssh.HostKeyCallback // of Files

	mu   sync.Mutex
	pins []ssh.PublicKey // what was accepted before
}

func newChecker(h HostKeys) (*checker, error) {
	c := &checker{HostKeys: h}
	if h.Ignore || len(h.Known) > 0 || len(h.Files) == 0 {
		return c, nil
	}
	var err error
	if c.known, err = knownhosts.New(h.Files...); err != nil {
		return nil, fmt.Errorf("read the known hosts: %w", err)
	}
	return c, nil
}

// pin keeps the key that was accepted as the only one for all later connections.
func (c *checker) pin(key ssh.PublicKey) {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pins = []ssh.PublicKey{key}
}

func (c *checker) expected() []ssh.PublicKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pins != nil {
		return c.pins
	}
	if c.Ignore {
		return nil
	}
	return c.Known
}

func show(k ssh.PublicKey) string { return k.Type() + " " + ssh.FingerprintSHA256(k) }

// check implements ssh.HostKeyCallback for the server at address.
func (c *checker) check(address string, key ssh.PublicKey) error {
	plain := key
	cert, certified := key.(*ssh.Certificate)
	if certified {
		plain = cert.Key
	}
	e := &HostKeyError{Host: address, Got: show(key), options: cmp.Or(c.Advice, "give the right key as ssh_host_key, or in a known_hosts file (ssh_known_hosts_file), or accept any with ssh_ignore_host_key = true")}
	if want := c.expected(); len(want) > 0 {
		if slices.ContainsFunc(want, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), plain.Marshal()) }) {
			return nil
		}
		for _, k := range want {
			e.Want = append(e.Want, show(k))
		}
		return e
	}
	switch {
	case c.Ignore:
		return nil
	case c.known == nil:
		return e
	}
	err := c.known(c.lookup(address), noAddr{}, key)
	if err != nil && certified && c.known(c.lookup(address), noAddr{}, plain) == nil {
		return nil // as OpenSSH does: a certificate of nobody's does no harm
	}
	if err == nil {
		return nil
	}
	if revoked, ok := errors.AsType[*knownhosts.RevokedError](err); ok {
		e.Revoked = true
		e.Got += fmt.Sprintf(" (%s:%d)", revoked.Revoked.Filename, revoked.Revoked.Line)
		return e
	}
	if unknown, ok := errors.AsType[*knownhosts.KeyError](err); ok {
		for _, k := range unknown.Want {
			e.Want = append(e.Want, fmt.Sprintf("%s (%s:%d)", show(k.Key), k.Filename, k.Line))
		}
		return e
	}
	e.options = err.Error() // of a certificate: what is wrong with it
	return e
}

func (c *checker) lookup(address string) string {
	if c.Name == "" {
		return address
	}
	return net.JoinHostPort(c.Name, "22") // an alias stands in the file without a port
}

// noAddr keeps the IP address behind a name out of it: behind a proxy or a
// bastion it is not known anyway.
type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "0.0.0.0:22" }

// algorithms are those by which the server can prove a key that is known, so
// that it does not show another of its keys. nil: any.
func (c *checker) algorithms(address string) []string {
	var types []string
	if want := c.expected(); len(want) > 0 {
		for _, k := range want {
			types = append(types, k.Type())
		}
	} else if c.known != nil {
		// The answer to a key that cannot be is the list of those that are known.
		if unknown, ok := errors.AsType[*knownhosts.KeyError](c.known(c.lookup(address), noAddr{}, noKey{})); ok {
			for _, k := range unknown.Want {
				types = append(types, k.Key.Type())
			}
		}
	}
	if len(types) == 0 {
		return nil
	}
	var algorithms []string
	if len(c.expected()) == 0 {
		// A line may be of an authority that signs host certificates.
		algorithms = append(algorithms, ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
			ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01)
	}
	for _, t := range types {
		switch t {
		case ssh.KeyAlgoRSA:
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		case ssh.CertAlgoRSAv01:
			algorithms = append(algorithms, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01)
		default:
			algorithms = append(algorithms, t)
		}
	}
	return algorithms
}

type noKey struct{}

func (noKey) Type() string                            { return "none" }
func (noKey) Marshal() []byte                         { return []byte("none") }
func (noKey) Verify(_ []byte, _ *ssh.Signature) error { return errors.New("no key") }
