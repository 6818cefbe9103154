// Package ssmtunnel reaches a TCP port of an EC2 instance through AWS Session
// Manager, without an address, an open port or another program.
//
// Agents since 3.0.196 carry many connections in one session, by smux, which
// is also the library that the agent uses; with older ones each connection is a
// session of its own. The WebSocket under a session may break: it is resumed, and
// the connections notice nothing. The protocol has no half-close: when one side
// of a connection ends, both do.
package ssmtunnel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/datachannel"
)

// Document is the name of the SSM document that forwards a port, for policies.
const Document = "AWS-StartPortForwardingSession"

// Client is what is called of SSM. *ssm.Client is one.
type Client interface {
	StartSession(context.Context, *ssm.StartSessionInput, ...func(*ssm.Options)) (*ssm.StartSessionOutput, error)
	ResumeSession(context.Context, *ssm.ResumeSessionInput, ...func(*ssm.Options)) (*ssm.ResumeSessionOutput, error)
	TerminateSession(context.Context, *ssm.TerminateSessionInput, ...func(*ssm.Options)) (*ssm.TerminateSessionOutput, error)
}

// Config is whom a Tunnel leads to.
type Config struct {
	// Client is of the region of the instance.
	Client Client
	// Target is the instance's id, Port a TCP port in it.
	Target string
	Port   int
	// Events is told of waiting, and of sockets that broke and were resumed.
	Events event.Scope
	// HTTP makes the WebSocket's request; nil: the default client, which heeds
	// HTTPS_PROXY. Its Timeout is not used.
	HTTP *http.Client
	// Patience is how long a broken connection may take to come back; 0: 5 minutes.
	Patience time.Duration
	// Retry is the first pause before a session is tried again, which grows to
	// five times as much; 0: one second. Handshake is how long the agent may
	// take for its part of it; 0: 30 seconds.
	Retry, Handshake time.Duration
	// Settle is the pause between handshake and first data; 0: 100 milliseconds.
	Settle time.Duration
	// Ping is how often an idle WebSocket is tried; 0: 30 seconds.
	Ping time.Duration
}

// Tunnel leads to one port. It is safe for concurrent use.
type Tunnel struct {
	cfg Config
	// turn is held, as its one element, by who looks at the fields below.
	turn    chan struct{}
	current *session
	all     []*session // that have to be ended
	closed  bool
}

// Open begins a session and returns when the agent has taken it. An agent that
// is not there yet is waited for until ctx ends. A connection lasts longer than ctx.
func Open(ctx context.Context, cfg Config) (*Tunnel, error) {
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Minute
	}
	if cfg.Retry == 0 {
		cfg.Retry = time.Second
	}
	if cfg.Handshake == 0 {
		cfg.Handshake = 30 * time.Second
	}
	if cfg.Settle == 0 {
		cfg.Settle = 100 * time.Millisecond
	}
	if cfg.Ping == 0 {
		cfg.Ping = 30 * time.Second
	}
	t := &Tunnel{cfg: cfg, turn: make(chan struct{}, 1)}
	if _, err := t.session(ctx); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	t.release()
	return t, nil
}

// Through opens a tunnel with the credentials of an account's session. The
// guard of the session holds for the tunnel too.
func Through(ctx context.Context, s *awscloud.Session, region, instance string, port int, events event.Scope) (
	dial func(context.Context) (net.Conn, error), close func() error, err error,
) {
	dialer := &net.Dialer{Timeout: 30 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return s.Admit(ap)
	}}
	t, err := Open(ctx, Config{
		Client: s.SSM(region), Target: instance, Port: port, Events: events,
		HTTP: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: 30 * time.Second}},
	})
	if err != nil {
		return nil, nil, err
	}
	return t.DialContext, t.Close, nil
}

func (t *Tunnel) release() { <-t.turn }

// session returns a session that takes a connection, and begins one where there
// is none. When it succeeds, the caller has the turn.
func (t *Tunnel) session(ctx context.Context) (*session, error) {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s, err := t.alive(ctx)
	if err != nil {
		t.release()
	}
	return s, err
}

func (t *Tunnel) alive(ctx context.Context) (*session, error) {
	if t.closed {
		return nil, fmt.Errorf("session manager: %w", net.ErrClosed)
	}
	if t.current != nil && t.current.free() {
		return t.current, nil
	}
	t.current = nil
	s, err := t.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("session manager: no session with %s: %w", t.cfg.Target, err)
	}
	t.current = s
	return s, nil
}

// begin starts a session, as often as it takes.
func (t *Tunnel) begin(ctx context.Context) (*session, error) {
	var last error // why there was none
	for pause := t.cfg.Retry; ; pause = min(pause*3/2, 5*t.cfg.Retry) {
		s, again, err := t.try(ctx)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			if last == nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case !again:
			return nil, err
		}
		if last == nil {
			t.cfg.Events.Say("Waiting for the SSM agent of " + t.cfg.Target)
		}
		last = err
		_ = sleep(ctx, pause)
	}
}

// try starts a session once; again says whether time may help.
func (t *Tunnel) try(ctx context.Context) (s *session, again bool, err error) {
	out, err := t.cfg.Client.StartSession(ctx, &ssm.StartSessionInput{
		Target: aws.String(t.cfg.Target), DocumentName: aws.String(Document),
		Parameters: map[string][]string{"portNumber": {strconv.Itoa(t.cfg.Port)}},
	})
	var absent *types.TargetNotConnected
	if errors.As(err, &absent) {
		return nil, true, fmt.Errorf("its SSM agent has not registered (TargetNotConnected: %s). It needs a running amazon-ssm-agent, "+
			"an instance profile that allows what the policy AmazonSSMManagedInstanceCore allows, and a way to the endpoints of "+
			"ssm and ssmmessages", absent.ErrorMessage())
	}
	if err != nil {
		return nil, false, refused("ssm:StartSession", err)
	}
	if s, err = start(t.cfg, out); err != nil {
		return nil, false, errors.Join(err, t.terminate(aws.ToString(out.SessionId)))
	}
	t.all = append(t.all, s)
	if err = s.handshake(ctx); err == nil {
		return s, false, nil
	}
	s.close()
	var closed *datachannel.ClosedError // by an old agent, for want of a listener
	again = errors.Is(err, errNoHandshake) || errors.As(err, &closed)
	return nil, again, errors.Join(err, t.end(s))
}

// refused adds to an error of the API what it is about, where more is needed than its own text.
func refused(action string, err error) error {
	if denied(err) {
		return fmt.Errorf("these credentials may not call %s, which a tunnel needs: %w", action, err)
	}
	return err
}

func denied(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException"
}

// sleep waits for about d, and says whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d - d/8 + rand.N(d/4+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// DialContext opens a connection to the port. Where the session has ended, it
// begins another, until ctx ends. Whether something listens shows only when the
// connection is used: it then fails with ECONNREFUSED.
func (t *Tunnel) DialContext(ctx context.Context) (net.Conn, error) {
	s, err := t.session(ctx)
	if err != nil {
		return nil, err
	}
	defer t.release()
	return s.dial()
}

// Close ends all connections and sessions. The error is of sessions that could
// not be ended; Session Manager does that itself when they have been idle for a
// while (20 minutes by default) or the instance is gone.
func (t *Tunnel) Close() error {
	t.turn <- struct{}{}
	defer t.release()
	t.closed, t.current = true, nil
	var errs []error
	for _, s := range t.all {
		if s.free() {
			s.flush()
		}
		s.close()
	}
	for _, s := range t.all {
		errs = append(errs, t.end(s))
	}
	t.all = nil
	return errors.Join(errs...)
}

// end waits for a closed session's goroutines and terminates it.
func (t *Tunnel) end(s *session) error {
	<-s.ended
	if s.gone() || s.terminated {
		return nil
	}
	s.terminated = true
	return t.terminate(s.id)
}

func (t *Tunnel) terminate(id string) error {
	// What ended the work must not keep the session from being ended.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := t.cfg.Client.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: aws.String(id)})
	var none *types.DoesNotExistException
	if err == nil || errors.As(err, &none) {
		return nil
	}
	return fmt.Errorf("session manager: the session %s could not be ended: %w", id, refused("ssm:TerminateSession", err))
}
