package awscloud

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
)

// maxVault bounds what Vault may answer.
const maxVault = 1 << 20

// askVault has Vault's AWS secrets engine make credentials.
func askVault(ctx context.Context, v *VaultEngine, env func(string) string, admit func(netip.AddrPort) error) (p credentials.StaticCredentialsProvider, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	address := env("VAULT_ADDR")
	if address == "" {
		return p, errors.New("VAULT_ADDR is not set")
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return p, errors.New("VAULT_ADDR is no address such as https://vault.example.com:8200")
	}
	token := env("VAULT_TOKEN")
	if token == "" {
		// Where `vault login` leaves it.
		if b, err := os.ReadFile(filepath.Join(env("HOME"), ".vault-token")); err == nil {
			token = strings.TrimSpace(string(b))
		}
	}
	if token == "" {
		return p, errors.New("VAULT_TOKEN is not set, and Vault answers nobody without a token")
	}
	engine := strings.Trim(v.EngineName, "/")
	if engine == "" {
		engine = "aws"
	}
	u = u.JoinPath("v1", engine, "creds", v.Name)
	query := url.Values{}
	if v.RoleARN != "" {
		query.Set("role_arn", v.RoleARN)
	}
	if v.TTL != "" {
		query.Set("ttl", v.TTL)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return p, err
	}
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("X-Vault-Request", "true")
	if ns := env("VAULT_NAMESPACE"); ns != "" {
		req.Header.Set("X-Vault-Namespace", ns)
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := env("VAULT_CACERT"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return p, fmt.Errorf("VAULT_CACERT: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return p, fmt.Errorf("VAULT_CACERT: %s has no certificate", file)
		}
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return admit(ap)
	}}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: tlsConfig}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		// The token goes nowhere else.
		if len(via) > 3 || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return p, fmt.Errorf("ask Vault: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxVault))
	if err != nil {
		return p, fmt.Errorf("read Vault's answer: %w", err)
	}
	var answer struct {
		Data struct {
			AccessKey     string `json:"access_key"`
			SecretKey     string `json:"secret_key"`
			SecurityToken string `json:"security_token"`
		} `json:"data"`
		Errors []string `json:"errors"`
	}
	err = json.Unmarshal(body, &answer)
	switch {
	case resp.StatusCode != http.StatusOK && len(answer.Errors) > 0:
		return p, fmt.Errorf("vault refuses %s: %s: %s", u.Path, resp.Status, strings.Join(answer.Errors, "; "))
	case resp.StatusCode != http.StatusOK:
		return p, fmt.Errorf("vault refuses %s: %s", u.Path, resp.Status)
	case err != nil:
		return p, errors.New("vault's answer is no JSON") // what it is may hold a secret
	case answer.Data.AccessKey == "" || answer.Data.SecretKey == "":
		return p, fmt.Errorf("vault's answer to %s has no access_key and secret_key: is it an AWS secrets engine?", u.Path)
	}
	return credentials.NewStaticCredentialsProvider(answer.Data.AccessKey, answer.Data.SecretKey, answer.Data.SecurityToken), nil
}
