package communicator

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
	"github.com/ingotbuild/ingot/machine/winrm"
)

func connectWinRM(ctx context.Context, o *Options, t Target, events event.Scope) (machine.Machine, map[string]string, error) {
	cfg := winrm.Config{
		Host: o.WinRMHost, Port: o.WinRMPort, User: o.WinRMUsername, Password: o.WinRMPassword,
		HTTPS: o.WinRMUseSSL, Insecure: o.WinRMInsecure, ServerName: o.WinRMServerName,
		NTLM: o.WinRMUseNTLM, Timeout: o.WinRMTimeout, NoProxy: o.WinRMNoProxy,
	}
	if cfg.User == "" {
		cfg.User = t.User
	}
	if o.WinRMCACertFile != "" {
		var err error
		if cfg.CACert, err = readSmall(abs(t.Dir, o.WinRMCACertFile)); err != nil {
			return nil, nil, fmt.Errorf("winrm_ca_cert_file: %w", err)
		}
	}
	// What the platform tells, it may not know yet; all of it is one wait.
	limit := cfg.Timeout
	deadline := time.Now().Add(limit)
	if cfg.Host == "" && t.Host != nil {
		err := untilKnown(ctx, deadline, func(ctx context.Context) error {
			host, port, err := t.Host(ctx)
			cfg.Host = host
			if port != 0 {
				cfg.Port = port
			}
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("the machine's address was not known within winrm_timeout (%v): %w", limit, err)
		}
	}
	if cfg.Password == "" && t.Password != nil {
		err := untilKnown(ctx, deadline, func(ctx context.Context) (err error) {
			cfg.Password, err = t.Password(ctx)
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("the machine's password was not known within winrm_timeout (%v): %w", limit, err)
		}
	}
	cfg.Timeout = max(time.Until(deadline), time.Second)
	if o.PauseBeforeConnecting > 0 {
		events.Say(fmt.Sprintf("Pausing %v before connecting to the machine", o.PauseBeforeConnecting))
		if err := pause(ctx, o.PauseBeforeConnecting); err != nil {
			return nil, nil, err
		}
	}
	events.Say("Connecting by WinRM to " + cfg.Host + " as " + cfg.User)
	m, err := winrm.Dial(ctx, cfg, events)
	if err != nil {
		return nil, nil, err
	}
	port := cfg.Port
	if port == 0 {
		port = 5985
		if cfg.HTTPS {
			port = 5986
		}
	}
	return m, map[string]string{
		"ConnType": WinRMKind, "Host": cfg.Host, "Port": strconv.Itoa(port), "User": cfg.User,
		"Password": cfg.Password, "WinRMPassword": cfg.Password,
	}, nil
}

// untilKnown asks until the platform knows the answer.
func untilKnown(ctx context.Context, deadline time.Time, ask func(context.Context) error) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for delay := 250 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		err := ask(ctx)
		if !errors.Is(err, sshmachine.ErrNotYet) {
			return err
		}
		if pause(ctx, delay) != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
