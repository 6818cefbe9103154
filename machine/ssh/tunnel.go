package sshmachine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

var (
	_ machine.Dialer    = (*Machine)(nil)
	_ machine.Addressed = (*Machine)(nil)
)

// DialContext implements machine.Dialer by the connection, as ssh -W does. The
// machine's sshd has to allow it (AllowTcpForwarding).
func (m *Machine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	cannot := func(err error) error {
		return fmt.Errorf("connect to %s through SSH: %w: %w", address, machine.ErrCannotDial, err)
	}
	if network != "tcp" {
		return nil, cannot(fmt.Errorf("SSH carries no %s", network))
	}
	link, err := m.live(ctx)
	if err != nil {
		return nil, cannot(err)
	}
	conn, err := link.DialContext(ctx, "tcp", address)
	if err == nil {
		return conn, nil
	}
	refused, ok := errors.AsType[*ssh.OpenChannelError](err)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("connect to %s through SSH: %w", address, ctx.Err())
	case ok && refused.Reason == ssh.Prohibited:
		return nil, cannot(fmt.Errorf("%w (AllowTcpForwarding of the machine's sshd?)", err))
	case !ok || refused.Reason != ssh.ConnectionFailed:
		return nil, cannot(err)
	}
	return nil, fmt.Errorf("connect to %s through SSH: %w", address, err)
}

// Address implements machine.Addressed.
func (m *Machine) Address() string {
	if m.cfg.Proxy != nil || len(m.cfg.Hops) > 1 {
		return "" // only what is in between knows the way
	}
	return m.Hop().Host
}

// localTunnels listen here for as long as the machine is in use.
func (m *Machine) localTunnels() error {
	for _, t := range m.cfg.LocalTunnels {
		l, err := net.Listen("tcp", loopback(t.Port))
		if err != nil {
			return fmt.Errorf("ssh_local_tunnels: %w", err)
		}
		stop := context.AfterFunc(m.life, func() { l.Close() })
		m.work.Go(func() {
			defer stop()
			m.serve(m.life, l, func(ctx context.Context) (net.Conn, error) {
				link, err := m.live(ctx)
				if err != nil {
					return nil, err
				}
				return link.DialContext(ctx, "tcp", t.To)
			})
		})
	}
	return nil
}

// remoteTunnels listen on the machine, for as long as the connection lasts.
func (m *Machine) remoteTunnels(link *link) error {
	for _, t := range m.cfg.RemoteTunnels {
		l, err := link.Listen("tcp", loopback(t.Port))
		if err != nil {
			return fmt.Errorf("ssh_remote_tunnels: listen on port %d of the machine: %w", t.Port, err)
		}
		link.used.Go(func() {
			ctx, cancel := context.WithCancel(m.life)
			go func() { <-link.gone; cancel() }()
			m.serve(ctx, l, func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", t.To)
			})
		})
	}
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// serve joins each connection that comes to one that dial makes.
func (m *Machine) serve(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error)) {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer in.Close()
			dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
			out, err := dial(dialCtx)
			cancel()
			if err != nil {
				m.cfg.Events.Warn(fmt.Sprintf("A connection through a tunnel failed: %v", err))
				return
			}
			defer out.Close()
			defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
			join(in, out)
		})
	}
}

// join copies both ways until both have ended.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	for _, d := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, err := io.Copy(d[0], d[1])
			if half, ok := d[0].(interface{ CloseWrite() error }); ok && err == nil {
				_ = half.CloseWrite()
				return
			}
			d[0].Close()
			d[1].Close()
		})
	}
	both.Wait()
}
