package functions

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// maxAnswer bounds what a server may send.
const maxAnswer = 4 << 20

// remote asks servers for secrets and remembers the answers: a template is
// evaluated many times, also by bakes side by side, and has to mean the same
// each time.
type remote struct {
	Options
	mu      sync.Mutex
	answers map[string]func() (string, error)
}

// function makes one function of strings whose answers are remembered. The
// last argument may be null when optional says so; it is "" then.
func (r *remote) function(name string, params []string, optional bool, ask func(ctx context.Context, args []string) (string, error)) function.Function {
	spec := &function.Spec{Type: function.StaticReturnType(cty.String)}
	for i, p := range params {
		spec.Params = append(spec.Params, function.Parameter{Name: p, Type: cty.String, AllowNull: optional && i == len(params)-1})
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		texts := make([]string, len(args))
		for i, a := range args {
			if !a.IsNull() {
				texts[i] = a.AsString()
			}
		}
		s, err := r.once(name+"\x00"+strings.Join(texts, "\x00"), func() (string, error) { return ask(r.context(), texts) })
		if err != nil {
			return cty.NilVal, err
		}
		return cty.StringVal(s), nil
	}
	return function.New(spec)
}

func (r *remote) context() context.Context {
	if r.Context == nil {
		return context.Background()
	}
	return r.Context
}

func (r *remote) once(key string, ask func() (string, error)) (string, error) {
	r.mu.Lock()
	answer, ok := r.answers[key]
	if !ok {
		answer = sync.OnceValues(func() (string, error) {
			s, err := ask()
			if err == nil && r.Secret != nil {
				r.Secret(s)
			}
			return s, err
		})
		r.answers[key] = answer
	}
	r.mu.Unlock()
	return answer()
}

// env is the value of an environment variable, the last one of a name.
func (r *remote) env(name string) string { return lookup(r.Environ, name) }

// flag is an environment variable that is true or false.
func (r *remote) flag(name string, missing bool) bool {
	b, err := strconv.ParseBool(r.env(name))
	if err != nil {
		return missing
	}
	return b
}

// vault reads one key of a secret of a KV store, version 1 or 2.
func (r *remote) vault(ctx context.Context, args []string) (string, error) {
	path, key := strings.Trim(args[0], "/"), args[1]
	token := r.env("VAULT_TOKEN")
	if token == "" {
		return "", errors.New("VAULT_TOKEN is not set, and the server answers nobody without a token")
	}
	address := r.env("VAULT_ADDR")
	if address == "" {
		address = "https://127.0.0.1:8200"
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("VAULT_ADDR is no address such as https://vault.example.com:8200")
	}
	timeout := time.Minute
	if s := r.env("VAULT_CLIENT_TIMEOUT"); s != "" {
		if n, err := strconv.Atoi(s); err == nil {
			timeout = time.Duration(n) * time.Second
		} else if timeout, err = time.ParseDuration(s); err != nil || timeout <= 0 {
			return "", fmt.Errorf("VAULT_CLIENT_TIMEOUT is %q; write seconds or a duration such as 30s", s)
		}
	}
	client, err := trust{
		ca: r.env("VAULT_CACERT"), caDir: r.env("VAULT_CAPATH"), cert: r.env("VAULT_CLIENT_CERT"), key: r.env("VAULT_CLIENT_KEY"),
		name: r.env("VAULT_TLS_SERVER_NAME"), any: r.flag("VAULT_SKIP_VERIFY", false),
	}.client(timeout)
	if err != nil {
		return "", err
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/" + path
	header := http.Header{"X-Vault-Token": {token}, "X-Vault-Request": {"true"}}
	if ns := r.env("VAULT_NAMESPACE"); ns != "" {
		header.Set("X-Vault-Namespace", ns)
	}
	status, body, err := get(ctx, client, u, header)
	if err != nil {
		return "", err
	}
	var answer struct {
		Data   map[string]any
		Errors []string
	}
	switch err := json.Unmarshal(body, &answer); {
	case status == http.StatusNotFound:
		return "", fmt.Errorf("vault has no secret %q; in a KV store of version 2 the path goes on with data/ after the mount, as in secret/data/web", path)
	case status != http.StatusOK:
		return "", fmt.Errorf("vault answers %d %s for %q: %s", status, http.StatusText(status), path, strings.Join(answer.Errors, "; "))
	case err != nil:
		return "", fmt.Errorf("vault's answer for %q is not as its API says", path)
	}
	data := answer.Data
	if inner, ok := data["data"].(map[string]any); ok { // version 2
		data = inner
	}
	v, ok := data[key]
	if !ok || v == nil {
		return "", fmt.Errorf("the secret %q has no key %q", path, key)
	}
	return plain(v)
}

// plain is a value of JSON as a template would write it.
func plain(v any) (string, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}

// consul reads one key of the key/value store.
func (r *remote) consul(ctx context.Context, args []string) (string, error) {
	key := strings.TrimPrefix(args[0], "/")
	if key == "" {
		return "", function.NewArgErrorf(0, "must be a key")
	}
	address := r.env("CONSUL_HTTP_ADDR")
	if address == "" {
		address = "127.0.0.1:8500"
	}
	if !strings.Contains(address, "://") {
		if r.flag("CONSUL_HTTP_SSL", false) {
			address = "https://" + address
		} else {
			address = "http://" + address
		}
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", errors.New("CONSUL_HTTP_ADDR is no address such as 127.0.0.1:8500 or https://consul.example.com")
	}
	client, err := trust{
		ca: r.env("CONSUL_CACERT"), caDir: r.env("CONSUL_CAPATH"), cert: r.env("CONSUL_CLIENT_CERT"), key: r.env("CONSUL_CLIENT_KEY"),
		name: r.env("CONSUL_TLS_SERVER_NAME"), any: !r.flag("CONSUL_HTTP_SSL_VERIFY", true),
	}.client(30 * time.Second)
	if err != nil {
		return "", err
	}
	header := http.Header{}
	token := r.env("CONSUL_HTTP_TOKEN")
	if file := r.env("CONSUL_HTTP_TOKEN_FILE"); token == "" && file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("CONSUL_HTTP_TOKEN_FILE: %w", err)
		}
		token = strings.TrimSpace(string(b))
	}
	if token != "" {
		header.Set("X-Consul-Token", token)
	}
	if user, password, ok := strings.Cut(r.env("CONSUL_HTTP_AUTH"), ":"); ok {
		u.User = url.UserPassword(user, password)
	}
	query := url.Values{"raw": {""}}
	if ns := r.env("CONSUL_NAMESPACE"); ns != "" {
		query.Set("ns", ns)
	}
	u.Path, u.RawQuery = strings.TrimSuffix(u.Path, "/")+"/v1/kv/"+key, query.Encode()
	status, body, err := get(ctx, client, u, header)
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return "", fmt.Errorf("consul has no key %q", key)
	case status != http.StatusOK:
		return "", fmt.Errorf("consul answers %d %s for %q: %s", status, http.StatusText(status), key, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	return string(body), nil
}

// trust is whom a client believes and as whom it goes.
type trust struct {
	ca, caDir, cert, key, name string
	any                        bool
}

func (t trust) client(timeout time.Duration) (*http.Client, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.name, InsecureSkipVerify: t.any}
	files := []string{}
	if t.ca != "" {
		files = append(files, t.ca)
	} else if t.caDir != "" {
		entries, err := os.ReadDir(t.caDir)
		if err != nil {
			return nil, fmt.Errorf("read the trusted certificates: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				files = append(files, filepath.Join(t.caDir, e.Name()))
			}
		}
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the trusted certificates: %w", err)
		}
		if c.RootCAs == nil {
			c.RootCAs = x509.NewCertPool()
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", file)
		}
	}
	if t.cert != "" || t.key != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("read the client's certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: c, ForceAttemptHTTP2: true,
			// One answer is all that is wanted, so nothing is left open.
			DisableKeepAlives: true,
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			// A standby server sends on to the active one, and the token goes along.
			if len(via) > 1 || via[0].URL.Scheme == "https" && next.URL.Scheme != "https" {
				return errors.New("the server sends on to an address that the token must not go to")
			}
			return nil
		},
	}, nil
}

// get asks up to three times while the server is not reached or is busy.
func get(ctx context.Context, client *http.Client, u *url.URL, header http.Header) (status int, body []byte, err error) {
	for try, pause := 0, 250*time.Millisecond; ; try, pause = try+1, 2*pause {
		status, body, err = getOnce(ctx, client, u, header)
		busy := err != nil || status >= 500 || status == http.StatusTooManyRequests
		if !busy || try == 2 || ctx.Err() != nil {
			return status, body, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, nil, context.Cause(ctx)
		case <-timer.C:
		}
	}
}

func getOnce(ctx context.Context, client *http.Client, u *url.URL, header http.Header) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		// The library's error begins with the URL, which it has freed of the password.
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("%s answers with more than %d bytes", u.Host, maxAnswer)
	}
	return resp.StatusCode, body, err
}
