package sshmachine

import (
	"context"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

var _ machine.SSHReachable = (*Machine)(nil)

// SSHAccess implements machine.SSHReachable.
func (m *Machine) SSHAccess() (machine.SSHAccess, bool) {
	if m.cfg.Proxy != nil {
		return machine.SSHAccess{}, false // OpenSSH would need another program for it
	}
	var hops []machine.SSHAccess
	for i, h := range m.cfg.Hops {
		if i == len(m.cfg.Hops)-1 {
			h = m.Hop()
		}
		a, ok := access(h, m.checkers[i])
		if !ok {
			return machine.SSHAccess{}, false
		}
		hops = append(hops, a)
	}
	last := hops[len(hops)-1]
	last.Bastions = hops[:len(hops)-1]
	return last, true
}

func access(h Hop, c *checker) (machine.SSHAccess, bool) {
	a := machine.SSHAccess{Host: h.Host, Port: h.port(), User: h.User, Agent: h.Login.AgentSocket != ""}
	if !h.HostKeys.Ignore || len(h.HostKeys.Known) > 0 {
		for _, k := range c.expected() {
			a.HostKeys = append(a.HostKeys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))))
		}
	}
	if len(h.Login.Keys) > 0 {
		a.PrivateKey, a.Certificate = h.Login.Keys[0].PEM, h.Login.Keys[0].Certificate
	}
	if h.Login.Password != nil {
		p, err := h.Login.Password(context.Background())
		if err != nil {
			return a, false
		}
		a.Password = p
	}
	return a, a.PrivateKey != nil || a.Password != "" || a.Agent
}
