package communicator

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/config"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
)

// Rules say what a builder needs the template to tell.
type Rules struct {
	// Host says that the builder does not know the machine's address.
	Host bool
	// User says that the builder does not know who logs in.
	User bool
	// Login says that the builder has no way to log in of its own: the template
	// must give one.
	Login bool
	// Others are further communicators, which the builder itself has.
	Others []string
}

// Check reports everything wrong with the options. Relative paths start in dir.
func (o *Options) Check(dir string, r Rules) []config.Problem {
	ps := &problems{dir: dir}
	switch kind := o.Kind(); {
	case kind == None || slices.Contains(r.Others, kind):
		return nil
	case kind == SSHKind:
		ps.ssh(&o.SSH, r)
		if o.PauseBeforeConnecting < 0 {
			ps.add("pause_before_connecting", "pause_before_connecting is negative", "")
		}
	case kind == WinRMKind:
		ps.winrm(&o.WinRM, r)
	default:
		ps.add("communicator", fmt.Sprintf("There is no communicator %q", kind),
			"It can be "+strings.Join(append([]string{SSHKind, WinRMKind, None}, r.Others...), ", ")+".")
	}
	return ps.all
}

// Kind is the communicator that is asked for.
func (o *Options) Kind() string {
	if o.Communicator == "" {
		return SSHKind
	}
	return o.Communicator
}

type problems struct {
	dir string
	all []config.Problem
}

func (ps *problems) add(option, summary, detail string) {
	ps.all = append(ps.all, config.Problem{Option: option, Summary: summary, Detail: detail})
}

func (ps *problems) need(option, value string) {
	if value == "" {
		ps.add(option, option+" is missing", `It must be said how the machine is reached, or that there is none: communicator = "none".`)
	}
}

func (ps *problems) oneOf(option, value string, known ...string) {
	if value != "" && !slices.Contains(known, value) {
		ps.add(option, fmt.Sprintf("%s is %q", option, value), "It can be "+strings.Join(known, " or ")+".")
	}
}

func (ps *problems) winrm(o *WinRM, r Rules) {
	if r.Host {
		ps.need("winrm_host", o.WinRMHost)
	}
	ps.need("winrm_username", o.WinRMUsername)
	if r.Login {
		ps.need("winrm_password", o.WinRMPassword)
	}
	ps.port("winrm_port", o.WinRMPort)
	if o.WinRMCACertFile != "" {
		if pem, err := readSmall(abs(ps.dir, o.WinRMCACertFile)); err != nil {
			ps.add("winrm_ca_cert_file", fmt.Sprintf("winrm_ca_cert_file cannot be read: %v", err), "")
		} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			ps.add("winrm_ca_cert_file", "winrm_ca_cert_file has no certificate in PEM form", "")
		}
	}
	for option, given := range map[string]bool{"winrm_ca_cert_file": o.WinRMCACertFile != "", "winrm_server_name": o.WinRMServerName != ""} {
		switch {
		case given && !o.WinRMUseSSL:
			ps.add(option, option+" is given without winrm_use_ssl", "Only TLS has certificates.")
		case given && o.WinRMInsecure:
			ps.add(option, option+" and winrm_insecure are both given", "With winrm_insecure no certificate is checked. Give one of them.")
		}
	}
	if !o.WinRMUseNTLM && strings.Contains(o.WinRMUsername, ":") {
		ps.add("winrm_username", "A user name with a colon cannot log in by Basic", "Set winrm_use_ntlm = true.")
	}
}

func (ps *problems) port(option string, port int) {
	if port < 0 || port > 65535 {
		ps.add(option, fmt.Sprintf("%s is %d, which is no port", option, port), "")
	}
}

// key reports a private key that cannot be used, or its certificate.
func (ps *problems) key(keyOption, file, passOption, passphrase, certOption, certificate string) {
	if file == "" {
		if certificate != "" {
			ps.add(certOption, certOption+" is given without "+keyOption, "A certificate is of use with its key only.")
		}
		return
	}
	if _, err := readKey(ps.dir, file, passphrase, certificate); err != nil {
		option, detail := keyOption, ""
		var cert *certificateError
		switch {
		case errors.As(err, &cert):
			option = certOption
		case errors.Is(err, sshmachine.ErrPassphrase):
			detail = "Give the passphrase as " + passOption + ", as a sensitive variable; or load the key into an ssh-agent and set ssh_agent_auth."
		}
		ps.add(option, fmt.Sprintf("%s cannot be used: %v", option, err), detail)
	}
}

func (ps *problems) ssh(o *SSH, r Rules) {
	w, err := newWay(ps.dir, o)
	if err != nil {
		ps.add("ssh_config_file", err.Error(), "")
		w = &way{}
	}
	alias := w.host(o.SSHHost)
	if r.Host {
		ps.need("ssh_host", o.SSHHost)
	}
	if r.User && alias.user == "" {
		ps.need("ssh_username", o.SSHUsername)
	}
	ways := 0
	for _, given := range []bool{o.SSHAgentAuth, o.SSHPassword != "", o.SSHPrivateKeyFile != ""} {
		if given {
			ways++
		}
	}
	if r.Login && (ways > 1 || ways == 0 && len(alias.keys) == 0) {
		ps.add("", fmt.Sprintf("The source needs one way to log in, and has %d", ways), "Give one of ssh_agent_auth, ssh_password and ssh_private_key_file.")
	}
	if ways == 0 {
		for _, k := range alias.keys {
			if _, err := readKey(ps.dir, k, o.SSHPrivateKeyPassphrase, ""); err != nil && !errors.Is(err, os.ErrNotExist) {
				ps.add("ssh_host", fmt.Sprintf("The IdentityFile of %s cannot be used: %v", o.SSHHost, err), "Set ssh_private_key_passphrase or ssh_agent_auth if it is encrypted.")
			}
		}
	}
	ps.key("ssh_private_key_file", o.SSHPrivateKeyFile, "ssh_private_key_passphrase", o.SSHPrivateKeyPassphrase, "ssh_certificate_file", o.SSHCertificateFile)
	ps.key("ssh_bastion_private_key_file", o.SSHBastionPrivateKeyFile, "ssh_bastion_private_key_passphrase", o.SSHBastionPrivateKeyPassphrase, "ssh_bastion_certificate_file", o.SSHBastionCertificateFile)
	for option, on := range map[string]bool{"ssh_agent_auth": o.SSHAgentAuth, "ssh_bastion_agent_auth": o.SSHBastionAgentAuth, "ssh_agent_forwarding": o.SSHAgentForwarding} {
		if on && os.Getenv("SSH_AUTH_SOCK") == "" {
			ps.add(option, option+" is set, but there is no ssh-agent", "SSH_AUTH_SOCK is not in the environment: start one with `eval $(ssh-agent)` and load a key with ssh-add.")
		}
	}
	if o.SSHAgentForwarding && o.SSHDisableAgentForwarding {
		ps.add("ssh_agent_forwarding", "ssh_agent_forwarding and ssh_disable_agent_forwarding are both set", "Set one of them.")
	}
	if o.TemporaryKeyPairType == "dsa" {
		ps.add("temporary_key_pair_type", "temporary_key_pair_type is dsa, which no SSH server of today takes", "Leave it out, for ed25519.")
	} else if _, err := keyBits(o.TemporaryKeyPairType, o.TemporaryKeyPairBits); err != nil {
		option := "temporary_key_pair_bits"
		if !slices.Contains(keyTypes, o.TemporaryKeyPairType) {
			option = "temporary_key_pair_type"
		}
		ps.add(option, fmt.Sprintf("%s: %v", option, err), "")
	}
	ps.oneOf("ssh_file_transfer_method", o.SSHFileTransferMethod, "scp", "sftp")
	ps.oneOf("ssh_proxy_type", o.SSHProxyType, "socks5", "http")
	for option, port := range map[string]int{"ssh_port": o.SSHPort, "ssh_bastion_port": o.SSHBastionPort, "ssh_proxy_port": o.SSHProxyPort} {
		ps.port(option, port)
	}
	if o.SSHTimeout < 0 || o.SSHWaitTimeout < 0 {
		ps.add("ssh_timeout", "ssh_timeout is negative", "")
	}
	if o.SSHReadWriteTimeout < 0 {
		ps.add("ssh_read_write_timeout", "ssh_read_write_timeout is negative", "")
	}
	if o.SSHHandshakeAttempts < 0 {
		ps.add("ssh_handshake_attempts", "ssh_handshake_attempts is negative", "")
	}
	ciphers, exchanges := sshmachine.Algorithms()
	ps.algorithms("ssh_ciphers", o.SSHCiphers, ciphers)
	ps.algorithms("ssh_key_exchange_algorithms", o.SSHKeyExchangeAlgorithms, exchanges)
	if o.SSHBastionHost != "" {
		if o.SSHBastionPassword == "" && !o.SSHBastionInteractive && !o.SSHBastionAgentAuth && o.SSHBastionPrivateKeyFile == "" && o.SSHPrivateKeyFile == "" && len(w.host(o.SSHBastionHost).keys) == 0 {
			ps.add("ssh_bastion_host", "There is no way to log in to the bastion", "Give ssh_bastion_password, ssh_bastion_private_key_file or ssh_bastion_agent_auth.")
		}
		if o.SSHProxyHost != "" {
			ps.add("ssh_proxy_host", "ssh_proxy_host and ssh_bastion_host are both given", "Give one of them.")
		}
	}
	ps.hostKeys("ssh_host_key", o.SSHHostKey)
	ps.hostKeys("ssh_bastion_host_key", o.SSHBastionHostKey)
	if o.SSHKnownHostsFile != "" {
		path := abs(ps.dir, o.SSHKnownHostsFile)
		if info, err := os.Stat(path); err != nil {
			ps.add("ssh_known_hosts_file", fmt.Sprintf("ssh_known_hosts_file cannot be read: %v", err), "")
		} else if !info.Mode().IsRegular() {
			ps.add("ssh_known_hosts_file", fmt.Sprintf("ssh_known_hosts_file is no regular file: %s", path), "")
		}
	}
	if o.SSHIgnoreHostKey && len(o.SSHHostKey) > 0 {
		ps.add("ssh_ignore_host_key", "ssh_ignore_host_key and ssh_host_key are both set", "Set one of them.")
	}
	if err == nil && o.SSHHost != "" {
		if _, err := w.hops(o); err != nil {
			ps.add("ssh_host", err.Error(), "")
		}
	}
	for option, tunnels := range map[string][]string{"ssh_remote_tunnels": o.SSHRemoteTunnels, "ssh_local_tunnels": o.SSHLocalTunnels} {
		for i, t := range tunnels {
			if _, err := sshmachine.ParseTunnel(t); err != nil {
				ps.add(fmt.Sprintf("%s.%d", option, i), fmt.Sprintf("%q is no tunnel", t), `Write it as "PORT:HOST:PORT".`)
			}
		}
	}
}

func (ps *problems) algorithms(option string, given, known []string) {
	for i, a := range given {
		if !slices.Contains(known, a) {
			ps.add(fmt.Sprintf("%s.%d", option, i), fmt.Sprintf("%q is none that Ingot knows", a), "It can be "+strings.Join(known, ", ")+".")
		}
	}
}

func (ps *problems) hostKeys(option string, keys []string) {
	for i, k := range keys {
		if _, err := parseHostKeys([]string{k}); err != nil {
			ps.add(fmt.Sprintf("%s.%d", option, i), fmt.Sprintf("%s is no public key: %v", option, err), `Write it as ssh-keyscan prints it behind the host: "ssh-ed25519 AAAA…".`)
		}
	}
}

func parseHostKeys(lines []string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	for _, l := range lines {
		k, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(l))
		if err != nil {
			return nil, err
		}
		if len(rest) > 0 {
			return nil, errors.New("it has more than one line")
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// abs makes a path of the template absolute.
func abs(dir, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// maxKeyFile is more than any key has.
const maxKeyFile = 1 << 20

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s has %d bytes", path, info.Size())
	}
	return os.ReadFile(path)
}

// certificateError says that it is the certificate, not the key.
type certificateError struct{ error }

func (e *certificateError) Unwrap() error { return e.error }

func readKey(dir, file, passphrase, certificate string) (sshmachine.Key, error) {
	pem, err := readSmall(abs(dir, file))
	if err != nil {
		return sshmachine.Key{}, err
	}
	key, err := sshmachine.ParseKey(pem, []byte(passphrase), nil, file)
	if err != nil {
		return sshmachine.Key{}, fmt.Errorf("%s: %w", file, err)
	}
	if certificate == "" {
		return key, nil
	}
	cert, err := readSmall(abs(dir, certificate))
	if err == nil {
		key, err = sshmachine.ParseKey(pem, []byte(passphrase), cert, file+" with the certificate "+certificate)
	}
	if err != nil {
		return sshmachine.Key{}, &certificateError{fmt.Errorf("%s: %w", certificate, err)}
	}
	return key, nil
}
