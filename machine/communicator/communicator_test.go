//go:build linux

package communicator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
)

func write(t *testing.T, dir, name string, text []byte) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func options(f func(*Options)) *Options {
	o := Defaults()
	o.SSHHost, o.SSHUsername, o.SSHPassword = "h", "u", "p"
	f(&o)
	return &o
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	private, public := sshtest.NewKey(t)
	write(t, dir, "key", private)
	write(t, dir, "public", []byte(public))
	_, k, _ := ed25519.GenerateKey(rand.Reader)
	block, err := ssh.MarshalPrivateKeyWithPassphrase(k, "", []byte("open"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "locked", pem.EncodeToMemory(block))
	write(t, dir, "config", []byte("Host circle\n ProxyJump circle\nHost command\n ProxyCommand nc %h %p\nHost odd\n IdentityFile %Z\n"))
	rules := Rules{Host: true, User: true, Login: true}
	for name, tc := range map[string]struct {
		set     func(*Options)
		option  string // "-": nothing is wrong
		summary string
	}{
		"right":           {func(*Options) {}, "-", ""},
		"none":            {func(o *Options) { *o = Options{Communicator: None} }, "-", ""},
		"key":             {func(o *Options) { o.SSHPassword, o.SSHPrivateKeyFile = "", "key" }, "-", ""},
		"two ways":        {func(o *Options) { o.SSHPrivateKeyFile = "key" }, "", "one way to log in, and has 2"},
		"no way":          {func(o *Options) { o.SSHPassword = "" }, "", "has 0"},
		"missing key":     {func(o *Options) { o.SSHPassword, o.SSHPrivateKeyFile = "", "none" }, "ssh_private_key_file", "no such file"},
		"directory":       {func(o *Options) { o.SSHPassword, o.SSHPrivateKeyFile = "", "/" }, "ssh_private_key_file", "no regular file"},
		"public key":      {func(o *Options) { o.SSHPassword, o.SSHPrivateKeyFile = "", "public" }, "ssh_private_key_file", "no private key"},
		"locked":          {func(o *Options) { o.SSHPassword, o.SSHPrivateKeyFile = "", "locked" }, "ssh_private_key_file", "encrypted"},
		"unlocked":        {func(o *Options) { o.SSHPassword, o.SSHPrivateKeyFile, o.SSHPrivateKeyPassphrase = "", "locked", "open" }, "-", ""},
		"certificate":     {func(o *Options) { o.SSHPassword, o.SSHPrivateKeyFile, o.SSHCertificateFile = "", "key", "public" }, "ssh_certificate_file", "plain public key"},
		"lone cert":       {func(o *Options) { o.SSHCertificateFile = "public" }, "ssh_certificate_file", "without"},
		"no agent":        {func(o *Options) { o.SSHPassword, o.SSHAgentAuth = "", true }, "ssh_agent_auth", "no ssh-agent"},
		"forwarding both": {func(o *Options) { o.SSHAgentForwarding, o.SSHDisableAgentForwarding = true, true }, "ssh_agent_forwarding", "both"},
		"key type":        {func(o *Options) { o.TemporaryKeyPairType = "x" }, "temporary_key_pair_type", "no type"},
		"dsa":             {func(o *Options) { o.TemporaryKeyPairType = "dsa" }, "temporary_key_pair_type", "dsa"},
		"bits":            {func(o *Options) { o.TemporaryKeyPairType, o.TemporaryKeyPairBits = "ecdsa", 100 }, "temporary_key_pair_bits", "100 bits"},
		"transfer":        {func(o *Options) { o.SSHFileTransferMethod = "ftp" }, "ssh_file_transfer_method", "ftp"},
		"port":            {func(o *Options) { o.SSHPort = 70000 }, "ssh_port", "no port"},
		"cipher":          {func(o *Options) { o.SSHCiphers = []string{"rot13"} }, "ssh_ciphers.0", "rot13"},
		"kex":             {func(o *Options) { o.SSHKeyExchangeAlgorithms = []string{"x"} }, "ssh_key_exchange_algorithms.0", `"x"`},
		"bastion":         {func(o *Options) { o.SSHBastionHost = "b" }, "ssh_bastion_host", "no way to log in"},
		"bastion key":     {func(o *Options) { o.SSHBastionHost, o.SSHPassword, o.SSHPrivateKeyFile = "b", "", "key" }, "-", ""},
		"bastion, proxy":  {func(o *Options) { o.SSHBastionHost, o.SSHBastionPassword, o.SSHProxyHost = "b", "p", "p" }, "ssh_proxy_host", "both"},
		"proxy type":      {func(o *Options) { o.SSHProxyHost, o.SSHProxyType = "p", "ftp" }, "ssh_proxy_type", "ftp"},
		"host key":        {func(o *Options) { o.SSHHostKey = []string{public, "junk"} }, "ssh_host_key.1", "no public key"},
		"known hosts":     {func(o *Options) { o.SSHKnownHostsFile = "none" }, "ssh_known_hosts_file", "no such file"},
		"ignore, key":     {func(o *Options) { o.SSHHostKey, o.SSHIgnoreHostKey = []string{public}, true }, "ssh_ignore_host_key", "both"},
		"tunnel":          {func(o *Options) { o.SSHLocalTunnels = []string{"1:h:2", "h:1"} }, "ssh_local_tunnels.1", "no tunnel"},
		"tunnel port":     {func(o *Options) { o.SSHRemoteTunnels = []string{"1:h:99999"} }, "ssh_remote_tunnels.0", "no tunnel"},
		"timeout":         {func(o *Options) { o.SSHTimeout = -1 }, "ssh_timeout", "negative"},
		"no config":       {func(o *Options) { o.SSHConfigFile = "none" }, "ssh_config_file", "no such file"},
		"circle":          {func(o *Options) { o.SSHConfigFile, o.SSHHost = "config", "circle" }, "ssh_host", "circle"},
		"command":         {func(o *Options) { o.SSHConfigFile, o.SSHHost = "config", "command" }, "ssh_host", "ProxyCommand"},
		"token":           {func(o *Options) { o.SSHConfigFile, o.SSHHost = "config", "odd" }, "ssh_host", "%Z"},
		"winrm":           {func(o *Options) { o.Communicator = WinRMKind }, "winrm_username", "missing"},
		"unknown":         {func(o *Options) { o.Communicator = "telnet" }, "communicator", "telnet"},
	} {
		t.Run(name, func(t *testing.T) {
			ps := options(tc.set).Check(dir, rules)
			if tc.option == "-" {
				if len(ps) > 0 {
					t.Errorf("%+v", ps)
				}
				return
			}
			if !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == tc.option && strings.Contains(p.Summary, tc.summary) }) {
				t.Errorf("%+v, want %q at %q", ps, tc.summary, tc.option)
			}
		})
	}
	if ps := (&Options{Communicator: "docker"}).Check(dir, Rules{Others: []string{"docker"}}); len(ps) > 0 {
		t.Errorf("a builder's own communicator: %+v", ps)
	}
	if ps := options(func(o *Options) { o.SSHHost, o.SSHUsername, o.SSHPassword = "", "", "" }).Check(dir, Rules{}); len(ps) > 0 {
		t.Errorf("a builder that knows all: %+v", ps)
	}
}

// warnings collects what a connection warns of.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) Emit(e event.Event) {
	if e.Kind == event.Warning {
		w.mu.Lock()
		w.text = append(w.text, e.Text)
		w.mu.Unlock()
	}
}

// An alias of the SSH configuration leads through two jumps to the machine,
// with keys, users, ports, known hosts and all.
func TestAlias(t *testing.T) {
	s, one, two := sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{})
	home := t.TempDir()
	t.Setenv("HOME", home)
	write(t, home, ".ssh/known_hosts", []byte(one.KnownHosts()+"two-alias "+two.HostKey+"\n"))
	write(t, home, ".ssh/machines", []byte("web "+s.HostKey+"\n"))
	write(t, home, ".ssh/id web", s.Key)
	write(t, home, ".ssh/config", fmt.Appendf(nil, `
Host web
  HostName %s
  Port %d
  User %s
  IdentityFile "~/.ssh/id web"
  UserKnownHostsFile ~/.ssh/machines
  HostKeyAlias web
  ProxyJump two
Host two
  HostName 127.0.0.1
  Port %d
  IdentityFile %s
  HostKeyAlias two-alias
  ProxyJump %s@one:%d
Host one
  HostName 127.0.0.1
  IdentityFile %s
Host *
  User nobody-at-all
`, s.Host, s.Port, s.User, two.Port, two.KeyFile, s.User, one.Port, one.KeyFile))
	// two has no User of its own but that of the last block: a mistake to find.
	o := Defaults()
	o.SSHHost, o.SSHTimeout = "web", time.Minute
	if ps := o.Check(home, Rules{Host: true, User: true, Login: true}); len(ps) > 0 {
		t.Fatalf("%+v", ps)
	}
	if _, _, err := Connect(t.Context(), &o, Target{}, event.Scope{}); err == nil || !strings.Contains(err.Error(), "the bastion nobody-at-all@127.0.0.1") {
		t.Errorf("a bastion that refuses the user: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(home, ".ssh/config"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, home, ".ssh/config", bytes.Replace(text, []byte("Host two\n"), []byte("Host two\n  User "+s.User+"\n"), 1))
	var w warnings
	m, values, err := Connect(t.Context(), &o, Target{}, event.Scope{Sink: &w})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if values["Host"] != s.Host || values["Port"] != fmt.Sprint(s.Port) || values["User"] != s.User || len(w.text) > 0 {
		t.Errorf("values %v, warnings %v", values, w.text)
	}
	access, ok := m.(machine.SSHReachable).SSHAccess()
	if !ok || len(access.Bastions) != 2 || access.Bastions[0].Port != one.Port || access.Bastions[1].Port != two.Port {
		t.Errorf("access %v through %d bastions", ok, len(access.Bastions))
	}
}

// What the builder knows takes the place of what the template does not say.
func TestTarget(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	t.Setenv("HOME", t.TempDir())
	o := Defaults()
	private, public, err := o.NewKey()
	if err != nil || !strings.HasPrefix(public, "ssh-ed25519 ") {
		t.Fatalf("%v: a temporary key of the kind %.20s", err, public)
	}
	s.Authorize(public)
	o.SSHClearAuthorizedKeys, o.PauseBeforeConnecting = true, 50*time.Millisecond
	m, values, err := Connect(t.Context(), &o, Target{
		Host: func(_ context.Context) (string, int, error) { return s.Host, s.Port, nil },
		User: s.User, HostKeys: []string{s.HostKey}, PrivateKey: private, Fresh: true,
	}, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if strings.TrimSpace(values["SSHPublicKey"]) != public || values["SSHPrivateKey"] != string(private) || values["Port"] != fmt.Sprint(s.Port) {
		t.Errorf("values %v", values)
	}
	write(t, s.Home, ".ssh/authorized_keys", []byte("ssh-ed25519 AAAAother mine\n"+public+" temporary\n"))
	if err := ClearAuthorizedKeys(t.Context(), m, public); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(s.Home, ".ssh/authorized_keys")); string(b) != "ssh-ed25519 AAAAother mine\n" {
		t.Errorf("authorized_keys: %q", b)
	}
}

func TestOptOut(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	t.Setenv("HOME", t.TempDir())
	o := options(func(o *Options) {
		o.SSHHost, o.SSHPort, o.SSHUsername, o.SSHPassword, o.SSHPrivateKeyFile = s.Host, s.Port, s.User, "", s.KeyFile
	})
	connect := func() (*warnings, error) {
		var w warnings
		m, _, err := Connect(t.Context(), o, Target{}, event.Scope{Sink: &w})
		if err == nil {
			m.Close()
		}
		return &w, err
	}
	if _, err := connect(); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("an unknown host: %v", err)
	}
	t.Setenv(ignoreEnv, "1")
	if w, err := connect(); err != nil || len(w.text) != 1 {
		t.Errorf("opted out: %v, %v", err, w.text)
	}
	t.Setenv(ignoreEnv, "")
	o.SSHIgnoreHostKey = true
	if w, err := connect(); err != nil || len(w.text) != 1 {
		t.Errorf("opted out: %v, %v", err, w.text)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("Host web\n HostName h\n ProxyJump a@b:1,c\nMatch all\n Port 1\n", "web")
	f.Fuzz(func(t *testing.T, text, host string) {
		c, err := decodeConfig([]byte(text))
		if err != nil || strings.Contains(strings.ToLower(text), "include") {
			return
		}
		w := &way{config: c, file: "config"}
		o := Defaults()
		o.SSHHost, o.SSHUsername, o.SSHPassword = host, "u", "p"
		if hops, err := w.hops(&o.SSH); err == nil && len(hops) > maxHops+1 {
			t.Errorf("%d hops", len(hops))
		}
	})
}
