package communicator

import (
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
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
)

// Target is what a builder knows of the machine that it has started.
type Target struct {
	// Host is asked for the machine's address before each attempt; a port of 0
	// is the template's. While the address is not known it returns an error
	// that wraps sshmachine.ErrNotYet. An ssh_host in the template goes before
	// it. Nil: the template's.
	Host func(ctx context.Context) (host string, port int, err error)
	// User logs in where the template does not say who.
	User string
	// HostKeys are the only host keys that the machine can have, in
	// authorized_keys form, when the builder has put them there or has read
	// them in another way. The template's ssh_host_key goes before them.
	HostKeys []string
	// PrivateKey is the temporary key of the bake, in PEM form.
	PrivateKey []byte
	// Password is asked for the password where the template gives none, such as
	// one that the platform makes. It may fail with sshmachine.ErrNotYet.
	Password func(ctx context.Context) (string, error)
	// Fresh says that the machine boots for the first time: it may refuse the
	// login until its key is in place.
	Fresh bool
	// Dir is where relative paths of the template start.
	Dir string
	// Person says that nothing but the command line asks for the connection, so
	// that it is made as ssh makes it for the person who types: Host * of the SSH
	// configuration counts, the local user's name is the default for each hop,
	// and where no key is given those of the configuration, or the usual ones in
	// ~/.ssh, are tried beside the agent's.
	Person bool
	// Jump goes before the ProxyJump of the SSH configuration: "[user@]host[:port],…".
	Jump string
}

// Connect connects to the machine, and returns with it the generated values
// (build.Host, …) that provisioners may use. With the communicator "none" the
// machine is nil.
func Connect(ctx context.Context, o *Options, t Target, events event.Scope) (machine.Machine, map[string]string, error) {
	switch o.Kind() {
	case None:
		return nil, map[string]string{"ConnType": None}, ctx.Err()
	case SSHKind:
		return connectSSH(ctx, o, t, events)
	case WinRMKind:
		return connectWinRM(ctx, o, t, events)
	}
	return nil, nil, fmt.Errorf("there is no communicator %q", o.Kind())
}

func fixed(secret string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return secret, nil }
}

func connectSSH(ctx context.Context, o *Options, t Target, events event.Scope) (machine.Machine, map[string]string, error) {
	cfg, err := sshConfig(o, t, events)
	if err != nil {
		return nil, nil, err
	}
	last := cfg.Hops[len(cfg.Hops)-1]
	for _, h := range cfg.Hops {
		if h.HostKeys.Ignore && len(h.HostKeys.Known) == 0 {
			events.Warn("The host key of " + h.Host + " is not checked: whoever answers there gets the login and all that is sent. Give ssh_host_key, or a known_hosts file, instead.")
			break // once for each bake
		}
	}
	if last.Host != "" {
		events.Say("Connecting by SSH to " + last.String())
	} else {
		events.Say("Waiting for the machine, to connect by SSH as " + last.User)
	}
	m, err := sshmachine.Dial(ctx, cfg)
	if err == nil && o.PauseBeforeConnecting > 0 {
		_ = m.Close() // it is anew what comes after the pause
		events.Say(fmt.Sprintf("The machine can be reached; pausing %v before connecting to it", o.PauseBeforeConnecting))
		if err := pause(ctx, o.PauseBeforeConnecting); err != nil {
			return nil, nil, err
		}
		m, err = sshmachine.Dial(ctx, cfg)
	}
	if err != nil {
		return nil, nil, err
	}
	return m, sshValues(o, t, m.Hop()), nil
}

func sshConfig(o *Options, t Target, events event.Scope) (sshmachine.Config, error) {
	w, err := newWay(t.Dir, &o.SSH)
	if err != nil {
		return sshmachine.Config{}, err
	}
	w.person, w.jump, w.user = t.Person, t.Jump, t.User
	hops, err := w.hops(&o.SSH)
	if err != nil {
		return sshmachine.Config{}, err
	}
	last := &hops[len(hops)-1]
	if last.User == "" {
		last.User = t.User
	}
	if len(last.HostKeys.Known) == 0 {
		if last.HostKeys.Known, err = parseHostKeys(t.HostKeys); err != nil {
			return sshmachine.Config{}, fmt.Errorf("the host keys that the platform told: %w", err)
		}
	}
	if len(t.PrivateKey) > 0 {
		k, err := sshmachine.ParseKey(t.PrivateKey, nil, nil, "this bake")
		if err != nil {
			return sshmachine.Config{}, fmt.Errorf("the temporary key: %w", err)
		}
		last.Login.Keys = append(last.Login.Keys, k)
	}
	if last.Login.Password == nil && t.Password != nil {
		last.Login.Password, last.Login.PasswordFrom = t.Password, "from the platform"
	}
	cfg := sshmachine.Config{
		Hops: hops, Fresh: t.Fresh, Timeout: o.SSHTimeout, HandshakeAttempts: o.SSHHandshakeAttempts,
		KeepAlive: o.SSHKeepAliveInterval, ReadWriteTimeout: o.SSHReadWriteTimeout,
		Ciphers: o.SSHCiphers, KeyExchanges: o.SSHKeyExchangeAlgorithms,
		PTY: o.SSHPty, Transfer: o.SSHFileTransferMethod,
		ForwardAgent: o.SSHAgentForwarding, AgentSocket: os.Getenv("SSH_AUTH_SOCK"), Events: events,
	}
	if t.Person {
		cfg.TimeoutOption = "-connect-timeout"
	}
	if o.SSHWaitTimeout > 0 {
		cfg.Timeout = o.SSHWaitTimeout
	}
	if o.SSHHost == "" {
		cfg.Address = t.Host
	}
	if o.SSHProxyHost != "" {
		cfg.Proxy = &sshmachine.Proxy{Kind: o.SSHProxyType, Host: o.SSHProxyHost, Port: o.SSHProxyPort, User: o.SSHProxyUsername, Password: o.SSHProxyPassword}
		if cfg.Proxy.Port == 0 {
			cfg.Proxy.Port = 1080
		}
	}
	for list, into := range map[*[]string]*[]sshmachine.Tunnel{&o.SSHLocalTunnels: &cfg.LocalTunnels, &o.SSHRemoteTunnels: &cfg.RemoteTunnels} {
		for _, s := range *list {
			tunnel, err := sshmachine.ParseTunnel(s)
			if err != nil {
				return cfg, err
			}
			*into = append(*into, tunnel)
		}
	}
	return cfg, nil
}

// sshValues are the values that provisioners may name.
func sshValues(o *Options, t Target, at sshmachine.Hop) map[string]string {
	v := map[string]string{
		"ConnType": SSHKind, "Host": at.Host, "Port": strconv.Itoa(at.Port), "User": at.User,
		"Password": o.SSHPassword, "WinRMPassword": o.WinRMPassword,
		"SSHAgentAuth": strconv.FormatBool(o.SSHAgentAuth), "SSHPrivateKeyFile": o.SSHPrivateKeyFile,
		"SSHPublicKey": "", "SSHPrivateKey": "",
	}
	if at.Port == 0 {
		v["Port"] = "22"
	}
	if o.SSHPrivateKeyFile != "" {
		v["SSHPrivateKeyFile"] = abs(t.Dir, o.SSHPrivateKeyFile)
	}
	key := t.PrivateKey
	if len(key) == 0 && o.SSHPrivateKeyFile != "" {
		key, _ = readSmall(v["SSHPrivateKeyFile"]) // it was read before
	}
	if len(key) > 0 {
		v["SSHPrivateKey"] = string(key)
	}
	// Only that of a key which is the bake's own: the provisioner seal removes
	// it from the machine.
	if len(t.PrivateKey) > 0 {
		if k, err := sshmachine.ParseKey(t.PrivateKey, nil, nil, ""); err == nil {
			v["SSHPublicKey"] = string(ssh.MarshalAuthorizedKey(k.PublicKey()))
		}
	}
	return v
}

var keyTypes = []string{"", "ed25519", "ecdsa", "rsa"}

func keyBits(kind string, bits int) (int, error) {
	allowed := map[string][]int{"": {0}, "ed25519": {0, 256}, "ecdsa": {0, 256, 384, 521}, "rsa": {0, 2048, 3072, 4096, 8192}}[kind]
	if allowed == nil {
		return 0, fmt.Errorf("there is no type %q; it can be ed25519, ecdsa or rsa", kind)
	}
	if !slices.Contains(allowed, bits) {
		if kind == "rsa" && bits > 2048 && bits <= 16384 {
			return bits, nil
		}
		return 0, fmt.Errorf("a key of type %s cannot have %d bits", strings.TrimSpace(kind+" "), bits)
	}
	if bits == 0 {
		bits = map[string]int{"ecdsa": 521, "rsa": 4096}[kind]
	}
	return bits, nil
}

// NewKey makes the temporary key of a bake as the template wants it: in PEM
// form, and as a line of authorized_keys.
func (o *SSH) NewKey() (private []byte, public string, err error) {
	bits, err := keyBits(o.TemporaryKeyPairType, o.TemporaryKeyPairBits)
	if err != nil {
		return nil, "", err
	}
	var key crypto.Signer
	switch o.TemporaryKeyPairType {
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, bits)
	case "ecdsa":
		curve := map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[bits]
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, "", err
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, "", err
	}
	return pem.EncodeToMemory(block), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))), nil
}

// ClearAuthorizedKeys removes a key from the authorized_keys of the user and of
// root, as ssh_clear_authorized_keys asks for. public is a line of authorized_keys.
func ClearAuthorizedKeys(ctx context.Context, m machine.Machine, public string) error {
	fields := strings.Fields(public)
	if len(fields) < 2 {
		return errors.New("the public key to clear is no line of authorized_keys")
	}
	// grep fails when no line is left, which is as good.
	const script = `for f in "$HOME/.ssh/authorized_keys" /root/.ssh/authorized_keys; do
	for s in '' 'sudo -n'; do
		$s grep -qF -e "$KEY" "$f" 2>/dev/null || continue
		t=$($s grep -vF -e "$KEY" "$f")
		printf '%s\n' "$t" | sed '/^$/d' | $s tee "$f" >/dev/null && break
	done
	grep -qF -e "$KEY" "$f" 2>/dev/null && { echo "$f still has the key" >&2; exit 1; }
done
exit 0`
	var said strings.Builder
	if err := m.Run(ctx, machine.Command{Line: script, Env: map[string]string{"KEY": fields[1]}, Stderr: &said}); err != nil {
		return fmt.Errorf("clear the temporary key from authorized_keys: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// askOnTerminal asks the person at the terminal what a server asks.
func askOnTerminal(h sshmachine.Hop) func(ctx context.Context, question string, echo bool) (string, error) {
	return func(_ context.Context, question string, echo bool) (string, error) {
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err != nil {
			return "", fmt.Errorf("ssh_bastion_interactive asks on the terminal, and there is none: %w", err)
		}
		defer tty.Close()
		// The question comes from the server: it may not paint on the screen.
		fmt.Fprintf(tty, "%s asks: %s", h, strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1
			}
			return r
		}, question))
		defer fmt.Fprintln(tty)
		if echo {
			var answer string
			_, err := fmt.Fscanln(tty, &answer)
			return answer, err
		}
		secret, err := term.ReadPassword(int(tty.Fd()))
		return string(secret), err
	}
}
