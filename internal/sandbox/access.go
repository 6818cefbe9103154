package sandbox

import (
	"context"
	"net"

	"github.com/ingotbuild/ingot/machine"
)

var (
	_ machine.Dialer    = (*Machine)(nil)
	_ machine.Addressed = (*Machine)(nil)
)

// DialContext implements machine.Dialer.
func (m *Machine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return m.Dial(ctx, network, address)
}
