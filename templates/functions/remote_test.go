package functions

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// ask evaluates an expression with functions that see environ.
func ask(t *testing.T, o Options, src string) (string, error) {
	t.Helper()
	expr, diags := hclsyntax.ParseExpression([]byte(src), "test", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	v, diags := expr.Value(&hcl.EvalContext{Functions: All(o)})
	if diags.HasErrors() {
		return "", diags
	}
	return v.AsString(), nil
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// vaultAPI answers as the KV stores of a Vault server do.
func vaultAPI(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, errors ...string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": errors})
	}
	if r.Header.Get("X-Vault-Token") != "s.token" || r.Header.Get("X-Vault-Request") != "true" {
		fail(http.StatusForbidden, "permission denied")
		return
	}
	switch r.Header.Get("X-Vault-Namespace") + r.URL.Path {
	case "/v1/secret/data/web":
		_, _ = io.WriteString(w, `{"request_id":"1","data":{"data":{"password":"v2","port":8080,"none":null},"metadata":{"version":3}}}`)
	case "/v1/kv/web", "team/v1/kv/web":
		_, _ = io.WriteString(w, `{"request_id":"1","lease_duration":2764800,"data":{"password":"v1","list":["a"]}}`)
	case "/v1/odd":
		_, _ = io.WriteString(w, `<html>`)
	case "/v1/large":
		_, _ = io.WriteString(w, strings.Repeat("x", maxAnswer+1))
	case "/v1/broken":
		fail(http.StatusBadRequest, "first", "second")
	default:
		fail(http.StatusNotFound)
	}
}

func TestVault(t *testing.T) {
	s := serve(t, vaultAPI)
	environ := []string{"VAULT_ADDR=" + s.URL, "VAULT_TOKEN=s.token"}
	for _, c := range []struct {
		src, want, err string
		more           []string
	}{
		{src: `vault("secret/data/web", "password")`, want: "v2"},
		{src: `vault("/secret/data/web", "port")`, want: "8080"},
		{src: `vault("kv/web", "password")`, want: "v1"},
		{src: `vault("kv/web", "list")`, want: `["a"]`},
		{src: `vault("kv/web", "password")`, more: []string{"VAULT_NAMESPACE=team", "VAULT_CLIENT_TIMEOUT=30"}, want: "v1"},
		{src: `vault("secret/data/web", "pasword")`, err: `no key "pasword"`},
		{src: `vault("secret/data/web", "none")`, err: "no key"},
		{src: `vault("secret/web", "password")`, err: "secret/data/web"},
		{src: `vault("broken", "x")`, err: "400 Bad Request for \"broken\": first; second"},
		{src: `vault("odd", "x")`, err: "not as its API says"},
		{src: `vault("large", "x")`, err: "more than"},
		{src: `vault("kv/web", "password")`, more: []string{"VAULT_TOKEN=other"}, err: "permission denied"},
		{src: `vault("kv/web", "password")`, more: []string{"VAULT_TOKEN="}, err: "VAULT_TOKEN is not set"},
		{src: `vault("kv/web", "password")`, more: []string{"VAULT_ADDR=here"}, err: "VAULT_ADDR is no address"},
		{src: `vault("kv/web", "password")`, more: []string{"VAULT_CLIENT_TIMEOUT=soon"}, err: "VAULT_CLIENT_TIMEOUT"},
		{src: `vault("kv/web", "password")`, more: []string{"VAULT_CACERT=/nothing"}, err: "/nothing"},
	} {
		got, err := ask(t, Options{Environ: append(environ[:2:2], c.more...)}, c.src)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %v = %q, %v; want %q, %q", c.src, c.more, got, err, c.want, c.err)
		}
		if err != nil && strings.Contains(err.Error(), "s.token") {
			t.Errorf("the error tells the token: %v", err)
		}
	}
}

func TestVaultByTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(vaultAPI))
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	environ := []string{"VAULT_ADDR=" + s.URL, "VAULT_TOKEN=s.token"}
	for want, more := range map[string][]string{
		"":     nil,
		"v1":   {"VAULT_CACERT=" + ca},
		"v1 ":  {"VAULT_CAPATH=" + filepath.Dir(ca), "VAULT_TLS_SERVER_NAME=example.com"},
		"v1  ": {"VAULT_SKIP_VERIFY=true"},
	} {
		// An unknown certificate is tried three times, as any connection that fails.
		got, err := ask(t, Options{Environ: append(environ[:2:2], more...)}, `vault("kv/web", "password")`)
		if got != strings.TrimSpace(want) || (err == nil) != (want != "") {
			t.Errorf("%v: %q, %v", more, got, err)
		}
	}
}

func TestTokenStaysWithTheServers(t *testing.T) {
	active := serve(t, vaultAPI)
	standby := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, active.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	environ := []string{"VAULT_ADDR=" + standby.URL, "VAULT_TOKEN=s.token"}
	if got, err := ask(t, Options{Environ: environ}, `vault("kv/web", "password")`); err != nil || got != "v1" {
		t.Errorf("from a standby server: %q, %v", got, err)
	}
	var asked atomic.Int32
	plain := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	s := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	defer s.Close()
	environ = []string{"VAULT_ADDR=" + s.URL, "VAULT_TOKEN=s.token", "VAULT_SKIP_VERIFY=1"}
	if got, err := ask(t, Options{Environ: environ}, `vault("kv/web", "password")`); err == nil || asked.Load() > 0 {
		t.Errorf("the token went to a server without TLS: %q", got)
	}
}

func TestBusyServerIsAskedAgain(t *testing.T) {
	var asked atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		vaultAPI(w, r)
	})
	o := Options{Environ: []string{"VAULT_ADDR=" + s.URL, "VAULT_TOKEN=s.token"}}
	if got, err := ask(t, o, `vault("kv/web", "password")`); err != nil || got != "v1" || asked.Load() != 3 {
		t.Errorf("%q, %v after %d questions", got, err, asked.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.Context = ctx
	if got, err := ask(t, o, `vault("kv/web", "password")`); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("after a cancel: %q, %v", got, err)
	}
}

// One run asks for a secret once and tells the caller of it.
func TestSecretsAreRemembered(t *testing.T) {
	var asked atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1); vaultAPI(w, r) })
	var secrets []string
	funcs := Options{
		Environ: []string{"VAULT_ADDR=" + s.URL, "VAULT_TOKEN=s.token"},
		Secret:  func(s string) { secrets = append(secrets, s) },
	}
	got, err := ask(t, funcs, `join(",", [vault("kv/web", "password"), vault("kv/web", "password"), vault("secret/data/web", "password")])`)
	if err != nil || got != "v1,v1,v2" || asked.Load() != 2 || strings.Join(secrets, ",") != "v1,v2" {
		t.Errorf("%q, %v; %d questions, secrets %q", got, err, asked.Load(), secrets)
	}
}

func TestConsul(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch _, raw := r.URL.Query()["raw"]; {
		case !raw:
			w.WriteHeader(http.StatusBadRequest)
		case r.Header.Get("X-Consul-Token") == "denied":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "Permission denied\n")
		case r.URL.Path == "/v1/kv/web/colour":
			_, _ = io.WriteString(w, "green")
		case r.URL.Path == "/v1/kv/who":
			_, _ = io.WriteString(w, strings.Join([]string{r.Header.Get("X-Consul-Token"), user, password, r.URL.Query().Get("ns")}, "|"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, "from-file\n")
	for _, c := range []struct {
		src, want, err string
		more           []string
	}{
		{src: `consul_key("web/colour")`, want: "green"},
		{src: `consul_key("/web/colour")`, more: []string{"CONSUL_HTTP_ADDR=" + strings.TrimPrefix(s.URL, "http://")}, want: "green"},
		{src: `consul_key("who")`, more: []string{"CONSUL_HTTP_TOKEN=t", "CONSUL_HTTP_AUTH=u:p:q", "CONSUL_NAMESPACE=n"}, want: "t|u|p:q|n"},
		{src: `consul_key("who")`, more: []string{"CONSUL_HTTP_TOKEN_FILE=" + file}, want: "from-file|||"},
		{src: `consul_key("web/color")`, err: `no key "web/color"`},
		{src: `consul_key("")`, err: "must be a key"},
		{src: `consul_key("who")`, more: []string{"CONSUL_HTTP_TOKEN=denied"}, err: "403 Forbidden for \"who\": Permission denied"},
		{src: `consul_key("who")`, more: []string{"CONSUL_HTTP_ADDR=http://"}, err: "CONSUL_HTTP_ADDR"},
		{src: `consul_key("who")`, more: []string{"CONSUL_HTTP_TOKEN_FILE=/nothing"}, err: "/nothing"},
	} {
		got, err := ask(t, Options{Environ: append([]string{"CONSUL_HTTP_ADDR=" + s.URL}, c.more...)}, c.src)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %v = %q, %v; want %q, %q", c.src, c.more, got, err, c.want, c.err)
		}
	}
}

func TestAWSSecretsManager(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var in struct{ SecretId string }
		if r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue" || json.NewDecoder(r.Body).Decode(&in) != nil ||
			!strings.Contains(r.Header.Get("Authorization"), "Credential=AKID/") || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/secretsmanager/") {
			t.Errorf("not as the API wants it: %v", r.Header)
		}
		secrets := map[string]string{"one": `{"password":"p"}`, "two": `{"a":"x","b":12345678901234567890}`, "text": "plain"}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		switch v, ok := secrets[in.SecretId]; {
		case ok:
			_ = json.NewEncoder(w).Encode(map[string]any{"ARN": "arn:aws:secretsmanager:eu-west-1:1:secret:" + in.SecretId, "Name": in.SecretId, "SecretString": v})
		case in.SecretId == "bytes":
			_ = json.NewEncoder(w).Encode(map[string]any{"Name": in.SecretId, "SecretBinary": "AAA="})
		default:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"__type":"ResourceNotFoundException","Message":"Secrets Manager can't find the specified secret."}`)
		}
	})
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": s.URL, "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "SECRET",
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/nothing", "AWS_SHARED_CREDENTIALS_FILE": "/nothing", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	for _, c := range []struct{ src, want, err string }{
		{src: `aws_secretsmanager("one", "password")`, want: "p"},
		{src: `aws_secretsmanager("one", null)`, want: "p"},
		{src: `aws_secretsmanager("two", "b")`, want: "12345678901234567890"},
		{src: `aws_secretsmanager("text", null)`, want: "plain"},
		{src: `aws_secretsmanager_raw("one")`, want: `{"password":"p"}`},
		{src: `aws_secretsmanager("two", null)`, err: "the keys a, b"},
		{src: `aws_secretsmanager("two", "c")`, err: `no key "c", only a, b`},
		{src: `aws_secretsmanager("text", "c")`, err: "plain text"},
		{src: `aws_secretsmanager_raw("bytes")`, err: "no text"},
		{src: `aws_secretsmanager_raw("none")`, err: "ResourceNotFoundException"},
		{src: `aws_secretsmanager_raw(null)`, err: "must not be null"},
	} {
		got, err := ask(t, Options{}, c.src)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s = %q, %v; want %q, %q", c.src, got, err, c.want, c.err)
		}
	}
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	if _, err := ask(t, Options{}, `aws_secretsmanager_raw("one")`); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("without a region: %v", err)
	}
}
