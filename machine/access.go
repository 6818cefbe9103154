package machine

import (
	"context"
	"errors"
	"net"
)

// Dialer is a machine from which connections can be made.
type Dialer interface {
	Machine
	// DialContext connects to a TCP address as a program on the machine would:
	// a name is resolved there, and 127.0.0.1 is the machine itself. network is
	// "tcp". The connection may know no deadlines: Close ends what waits on it.
	// An error that is ErrCannotDial says nothing about the address.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// ErrCannotDial says that a connection could not even be tried, as opposed to
// one that was tried and came to nothing.
var ErrCannotDial = errors.New("no connection could be tried from the machine")

// Addressed is a machine that may have an address.
type Addressed interface {
	Machine
	// Address is the name or the IP address by which this host reaches the
	// machine; empty when it is not reached by one, as through a bastion.
	Address() string
}

// SSHReachable is a machine that other programs can reach by SSH themselves,
// as the ansible provisioner lets ansible-playbook do.
type SSHReachable interface {
	Machine
	// SSHAccess says how. ok is false when the machine can be reached, but
	// only by this process: its key lives in memory alone, or its way leads
	// through something that OpenSSH cannot be told of.
	SSHAccess() (a SSHAccess, ok bool)
}

// SSHAccess is what an OpenSSH client needs to reach a machine. It holds
// secrets: it never goes into a log, an event or a file that others can read.
type SSHAccess struct {
	Host string
	Port int
	User string
	// PrivateKey is the key in OpenSSH's PEM form, without a passphrase; empty
	// when Agent or Password is the way in.
	PrivateKey []byte
	// Certificate is the line of an OpenSSH certificate for PrivateKey, if any.
	Certificate []byte
	Password    string
	// Agent says that the user's ssh-agent has the key.
	Agent bool
	// HostKeys are the only host keys to accept, in authorized_keys form
	// ("ssh-ed25519 AAAA…"). Empty: the user has opted out of the check.
	HostKeys []string
	// Bastions are the hops before the machine, the nearest first. Theirs are empty.
	Bastions []SSHAccess
}
