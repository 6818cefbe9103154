package ssmtunnel

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/ssmtunnel/ssmtest"
)

// A cloud that has the API itself joins the agents to its sessions.
func TestThroughAnAccount(t *testing.T) {
	agents := ssmtest.New(ssmtest.Options{})
	defer agents.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				echo(c)
			}()
		}
	}()
	var ended atomic.Value
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/ssm/") {
			t.Errorf("a call with %q", r.Header.Get("Authorization"))
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		switch action {
		case "StartSession":
			_, _ = w.Write([]byte(`{"SessionId":"s-1","TokenValue":"token-1","StreamUrl":"ws` + strings.TrimPrefix(server.URL, "http") + `/stream/s-1"}`))
		case "TerminateSession":
			ended.Store("s-1")
			_, _ = w.Write([]byte(`{"SessionId":"s-1"}`))
		default:
			t.Errorf("it calls %s", action)
		}
	})
	mux.HandleFunc("GET /stream/s-1", func(w http.ResponseWriter, r *http.Request) {
		agents.Join("s-1", "token-1", target, 22, func(ctx context.Context, port int) (net.Conn, error) {
			if port != 22 {
				t.Errorf("port %d", port)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}).ServeHTTP(w, r)
	})
	dir := t.TempDir()
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1",
		"AWS_CONFIG_FILE": filepath.Join(dir, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials"),
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
	} {
		t.Setenv(k, v)
	}
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	var refuse atomic.Bool
	shared := awscloud.NewShared(awscloud.Options{Guard: func(a netip.AddrPort) error {
		if refuse.Load() {
			return errors.New("the guard refuses it")
		}
		if a.String() != "127.0.0.1:"+port {
			t.Errorf("it dials %s", a)
		}
		return awscloud.LoopbackOnly(a)
	}})
	session, err := shared.Connect(t.Context(), &awscloud.Access{SkipCredentialValidation: true})
	if err != nil {
		t.Fatal(err)
	}
	dial, end, err := Through(t.Context(), session, "eu-west-1", target, 22, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, c, 10000)
	if err := end(); err != nil || ended.Load() != "s-1" {
		t.Errorf("%v, ended %v", err, ended.Load())
	}
	// The guard holds for the WebSocket: the API's connection is there already.
	refuse.Store(true)
	ctx, cancel := context.WithCancelCause(t.Context())
	told := event.Scope{Sink: event.Func(func(e event.Event) {
		if e.Kind == event.Warning {
			cancel(errors.New(e.Text))
		}
	})}
	if _, _, err := Through(ctx, session, "eu-west-1", target, 22, told); err == nil || !strings.Contains(err.Error(), "the guard refuses it") {
		t.Errorf("where the guard refuses: %v", err)
	}
}
