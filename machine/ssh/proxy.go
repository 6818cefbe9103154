package sshmachine

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"golang.org/x/net/proxy"
)

// Proxy is what the first connection goes through.
type Proxy struct {
	Kind           string // "socks5" or "http"
	Host           string
	Port           int
	User, Password string
}

func (p *Proxy) address() string { return net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) }

// proxyError says that it is the proxy that refuses, and for good.
type proxyError struct{ error }

func (e proxyError) Unwrap() error { return e.error }

func (p *Proxy) dial(ctx context.Context, address string) (net.Conn, error) {
	if p.Kind == "http" {
		return p.connect(ctx, address)
	}
	var auth *proxy.Auth
	if p.User != "" || p.Password != "" {
		auth = &proxy.Auth{User: p.User, Password: p.Password}
	}
	d, err := proxy.SOCKS5("tcp", p.address(), auth, &net.Dialer{})
	if err != nil {
		return nil, err
	}
	conn, err := d.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("through the SOCKS proxy %s: %w", p.address(), err)
	}
	return conn, nil
}

// maxAnswer bounds what a proxy may answer before the connection is there.
const maxAnswer = 64 << 10

func (p *Proxy) connect(ctx context.Context, address string) (net.Conn, error) {
	fail := func(err error) error { return fmt.Errorf("through the HTTP proxy %s: %w", p.address(), err) }
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.address())
	if err != nil {
		return nil, fail(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	head := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if p.User != "" || p.Password != "" {
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.User+":"+p.Password)) + "\r\n"
	}
	limit := &io.LimitedReader{R: conn, N: maxAnswer}
	r := bufio.NewReader(limit)
	_, err = io.WriteString(conn, head+"\r\n")
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
		if resp.StatusCode == http.StatusProxyAuthRequired || resp.StatusCode == http.StatusForbidden {
			err = proxyError{err}
		}
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fail(err)
	}
	// The server speaks first: its words may have come with the answer.
	early, _ := r.Peek(r.Buffered())
	return &readAhead{Conn: conn, early: early}, nil
}

// readAhead is a connection of which some bytes have been read already.
type readAhead struct {
	net.Conn
	early []byte
}

func (c *readAhead) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
