package ansible

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

// proxy is an SSH server for Ansible whose sessions are commands and files of
// the machine. It lives as long as one run, and lets in one key.
type proxy struct {
	m       machine.Machine
	sftp    string // command on the machine; empty: served here
	dir     string // private
	warn    func(string)
	access  machine.SSHAccess
	config  *ssh.ServerConfig
	network net.Listener

	ctx    context.Context
	cancel context.CancelFunc
	all    sync.WaitGroup
	mu     sync.Mutex
	conns  map[net.Conn]bool // nil: closed
}

// proxy starts the server.
func (r *run) proxy(ctx context.Context) (_ *proxy, err error) {
	p := &proxy{m: r.m, sftp: r.SFTPCommand, dir: r.dir, warn: r.env.Events.Warn, conns: map[net.Conn]bool{}}
	var hostKey ssh.Signer
	if r.SSHHostKeyFile != "" {
		b, err := os.ReadFile(r.bake.Abs(r.SSHHostKeyFile))
		if err != nil {
			return nil, fmt.Errorf("ssh_host_key_file: %w", err)
		}
		if hostKey, err = ssh.ParsePrivateKey(b); err != nil {
			return nil, fmt.Errorf("ssh_host_key_file %s: %w", r.SSHHostKeyFile, err)
		}
	} else if hostKey, _, err = newKey(r.AnsibleProxyKeyType); err != nil {
		return nil, err
	}
	var accepted ssh.PublicKey
	if r.SSHAuthorizedKeyFile != "" {
		b, err := os.ReadFile(r.bake.Abs(r.SSHAuthorizedKeyFile))
		if err != nil {
			return nil, fmt.Errorf("ssh_authorized_key_file: %w", err)
		}
		if accepted, _, _, _, err = ssh.ParseAuthorizedKey(b); err != nil {
			return nil, fmt.Errorf("ssh_authorized_key_file %s is not a line of a public key: %w", r.SSHAuthorizedKeyFile, err)
		}
		p.access.Agent = true // or wherever else Ansible finds it
	} else {
		var key ssh.Signer
		if key, p.access.PrivateKey, err = newKey(r.AnsibleProxyKeyType); err != nil {
			return nil, err
		}
		accepted = key.PublicKey()
	}
	p.config = &ssh.ServerConfig{
		MaxAuthTries:  6,
		ServerVersion: "SSH-2.0-Ingot",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			// A certificate is another key, whoever signed it.
			if !bytes.Equal(key.Marshal(), accepted.Marshal()) {
				return nil, errors.New("this is not the key of this bake")
			}
			return nil, nil
		},
	}
	p.config.AddHostKey(hostKey)
	p.access.HostKeys = []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostKey.PublicKey())))}
	p.access.User = localUser()
	if p.network, err = listen(r.AnsibleProxyBindAddress, r.LocalPort); err != nil {
		return nil, fmt.Errorf("start the SSH proxy for Ansible (local_port): %w", err)
	}
	addr := p.network.Addr().(*net.TCPAddr)
	p.access.Host, p.access.Port = r.AnsibleProxyBindAddress, addr.Port
	if r.AnsibleProxyHost != "" {
		p.access.Host = r.AnsibleProxyHost
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.all.Go(p.serve)
	return p, nil
}

// listen takes the port, or one of the next nine.
func listen(addr string, port int) (net.Listener, error) {
	for try := 0; ; try++ {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
		if err == nil || port == 0 || try == 9 || port == 65535 {
			return l, err
		}
		port++
	}
}

// newKey makes a key, and its private half as OpenSSH writes it.
func newKey(kind string) (ssh.Signer, []byte, error) {
	var key crypto.Signer
	var err error
	switch strings.ToUpper(kind) {
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "ECDSA":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, nil, err
	}
	return signer, pem.EncodeToMemory(block), nil
}

// Close ends all sessions and what they run, and waits for them.
func (p *proxy) Close() {
	p.cancel()
	p.network.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.all.Wait()
}

func (p *proxy) serve() {
	for {
		c, err := p.network.Accept()
		if err != nil {
			if p.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				p.warn(fmt.Sprintf("the SSH proxy for Ansible takes no more connections: %v", err))
			}
			return
		}
		p.mu.Lock()
		if p.conns == nil {
			p.mu.Unlock()
			c.Close()
			return
		}
		p.conns[c] = true
		p.mu.Unlock()
		p.all.Go(func() {
			p.connection(c)
			c.Close()
			p.mu.Lock()
			delete(p.conns, c)
			p.mu.Unlock()
		})
	}
}

// handshake is how long a client may take to prove who it is.
const handshake = 30 * time.Second

func (p *proxy) connection(c net.Conn) {
	if err := c.SetDeadline(time.Now().Add(handshake)); err != nil {
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(c, p.config)
	if err != nil {
		return // not our Ansible, or one that was stopped
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer conn.Close()
	defer cancel()
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	for nc := range channels {
		if nc.ChannelType() != "session" {
			_ = nc.Reject(ssh.UnknownChannelType, "Ingot forwards nothing") // the connection is gone
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() { p.session(ctx, ch, reqs) })
	}
}

// session serves one command or subsystem.
func (p *proxy) session(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer ch.Close()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel() // the client went away
	started := false
	for req := range reqs {
		var run func() int
		// The command, or the subsystem's name.
		var arg struct{ Text string }
		if req.Type == "exec" || req.Type == "subsystem" {
			if ssh.Unmarshal(req.Payload, &arg) != nil {
				arg.Text = ""
			}
		}
		switch {
		case started:
		case req.Type == "exec" && arg.Text != "":
			run = func() int { return p.exec(ctx, ch, arg.Text) }
		case req.Type == "subsystem" && arg.Text == "sftp" && p.sftp != "":
			run = func() int { return p.command(ctx, ch, p.sftp) }
		case req.Type == "subsystem" && arg.Text == "sftp":
			run = func() int { return p.serveSFTP(ctx, ch) }
		}
		if req.WantReply {
			// A terminal and variables are taken note of, and not had.
			ok := run != nil || req.Type == "pty-req" && !started || req.Type == "window-change"
			if req.Reply(ok, nil) != nil {
				return
			}
		}
		if run == nil {
			continue
		}
		started = true
		running.Go(func() {
			status := run()
			// The client may be gone.
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
			_ = ch.CloseWrite()
			_ = ch.Close()
		})
	}
}

// lost is the status that ssh itself has for a connection that failed, which
// Ansible takes for an unreachable host.
const lost = 255

func (p *proxy) exec(ctx context.Context, ch ssh.Channel, line string) int {
	if words, ok := scpCommand(line); ok {
		return p.scp(ctx, ch, words)
	}
	return p.command(ctx, ch, line)
}

func (p *proxy) command(ctx context.Context, ch ssh.Channel, line string) int {
	err := p.m.Run(ctx, machine.Command{Line: line, Stdin: ch, Stdout: ch, Stderr: ch.Stderr()})
	if exit, ok := errors.AsType[*machine.ExitError](err); ok {
		if exit.Status < 0 || exit.Status > 255 {
			return lost
		}
		return exit.Status
	}
	if err != nil {
		fmt.Fprintf(ch.Stderr(), "the machine did not run the command: %v\n", err)
		return lost
	}
	return 0
}
