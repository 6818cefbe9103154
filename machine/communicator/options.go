// Package communicator is how builders let a template say how the machine is
// reached: the options for it, their check, and the connection itself.
package communicator

import "time"

// Options are the options by which a source says how its machine is reached.
// Builders embed them, and begin with Defaults.
type Options struct {
	// Communicator is how the machine is reached: "ssh", "winrm", or "none" for
	// no machine at all. Default: "ssh".
	Communicator string `cfg:"communicator"`
	// PauseBeforeConnecting is waited once the machine can be reached. It is
	// then connected to anew.
	PauseBeforeConnecting time.Duration `cfg:"pause_before_connecting"`

	SSH
	WinRM
}

// SSH are the options of the communicator "ssh".
type SSH struct {
	// SSHHost is the address of the machine, or an alias that SSHConfigFile has.
	SSHHost string `cfg:"ssh_host"`
	// SSHPort is its port.
	SSHPort int `cfg:"ssh_port"`
	// SSHUsername is who logs in.
	SSHUsername string `cfg:"ssh_username"`
	// SSHPassword is the password, also for keyboard-interactive logins.
	SSHPassword string `cfg:"ssh_password"`
	// SSHPrivateKeyFile is a file with the private key; `~/` is the home directory.
	SSHPrivateKeyFile string `cfg:"ssh_private_key_file"`
	// SSHPrivateKeyPassphrase decrypts that key. An option of Ingot's own.
	SSHPrivateKeyPassphrase string `cfg:"ssh_private_key_passphrase"`
	// SSHCertificateFile is a file with the certificate of that key.
	SSHCertificateFile string `cfg:"ssh_certificate_file"`
	// SSHAgentAuth takes the keys of the ssh-agent at SSH_AUTH_SOCK.
	SSHAgentAuth bool `cfg:"ssh_agent_auth"`
	// SSHKeypairName names a key pair that the platform knows.
	SSHKeypairName string `cfg:"ssh_keypair_name"`
	// TemporaryKeyPairName names the key pair that is made for the bake.
	TemporaryKeyPairName string `cfg:"temporary_key_pair_name"`
	// TemporaryKeyPairType is "ed25519", "ecdsa" or "rsa". Default: "ed25519"
	// (Packer's is "rsa"; "dsa" is refused, since no server of today takes it).
	TemporaryKeyPairType string `cfg:"temporary_key_pair_type"`
	// TemporaryKeyPairBits is its size. Default: 4096 for rsa, 521 for ecdsa.
	TemporaryKeyPairBits int `cfg:"temporary_key_pair_bits"`
	// SSHCiphers are the ciphers to offer. Default: those that are held to be good.
	SSHCiphers []string `cfg:"ssh_ciphers"`
	// SSHKeyExchangeAlgorithms are the key exchanges to offer. Default: those
	// that are held to be good.
	SSHKeyExchangeAlgorithms []string `cfg:"ssh_key_exchange_algorithms"`
	// SSHClearAuthorizedKeys removes the temporary key from the machine before
	// the image is made.
	SSHClearAuthorizedKeys bool `cfg:"ssh_clear_authorized_keys"`
	// SSHDisableAgentForwarding keeps the agent away from the machine, which is
	// so anyway: Ingot forwards it only with SSHAgentForwarding.
	SSHDisableAgentForwarding bool `cfg:"ssh_disable_agent_forwarding"`
	// SSHAgentForwarding lets what runs on the machine use your ssh-agent, and
	// so log in wherever you can. An option of Ingot's own.
	SSHAgentForwarding bool `cfg:"ssh_agent_forwarding"`
	// SSHPty runs commands in a terminal.
	SSHPty bool `cfg:"ssh_pty"`
	// SSHTimeout bounds the wait for the machine, also after a reboot.
	SSHTimeout time.Duration `cfg:"ssh_timeout"`
	// SSHWaitTimeout is the old name of SSHTimeout.
	SSHWaitTimeout time.Duration `cfg:"ssh_wait_timeout"`
	// SSHHandshakeAttempts is how many refused logins are borne while a machine
	// boots for the first time; refusals within 5 seconds count as one. Where it
	// is set, the same goes for a machine that was there before; otherwise a
	// login that such a machine refuses is an error at once. Default: as many
	// as SSHTimeout has time for.
	SSHHandshakeAttempts int `cfg:"ssh_handshake_attempts"`
	// SSHKeepAliveInterval is how often the connection is proved; negative: never.
	SSHKeepAliveInterval time.Duration `cfg:"ssh_keep_alive_interval"`
	// SSHReadWriteTimeout bounds each read and write on the connection. Default: no bound.
	SSHReadWriteTimeout time.Duration `cfg:"ssh_read_write_timeout"`
	// SSHFileTransferMethod is "sftp" for files by the sftp subsystem only, or
	// "scp" for files by commands only. Default: by one tar stream, and where
	// the machine has no tar by sftp, and without that by sh.
	SSHFileTransferMethod string `cfg:"ssh_file_transfer_method"`

	// SSHHostKey are the only host keys that the machine may have, each as
	// "ssh-ed25519 AAAA…". An option of Ingot's own.
	SSHHostKey []string `cfg:"ssh_host_key"`
	// SSHKnownHostsFile is the known_hosts file to look the host keys of
	// machine and bastions up in. Default: those of the user and the system.
	// An option of Ingot's own.
	SSHKnownHostsFile string `cfg:"ssh_known_hosts_file"`
	// SSHIgnoreHostKey accepts whatever answers as the machine, and warns. So
	// does INGOT_SSH_IGNORE_HOST_KEY=1 in the environment, for templates that
	// are Packer's. An option of Ingot's own.
	SSHIgnoreHostKey bool `cfg:"ssh_ignore_host_key"`
	// SSHConfigFile is the file whose Host blocks SSHHost and SSHBastionHost may
	// name: HostName, Port, User, IdentityFile, ProxyJump, UserKnownHostsFile
	// and HostKeyAlias are taken from there where the template does not say
	// them. Default: `~/.ssh/config`. An option of Ingot's own.
	SSHConfigFile string `cfg:"ssh_config_file"`

	// SSHBastionHost is a host to connect through, or an alias.
	SSHBastionHost string `cfg:"ssh_bastion_host"`
	// SSHBastionPort is its port.
	SSHBastionPort int `cfg:"ssh_bastion_port"`
	// SSHBastionUsername is who logs in there. Default: SSHUsername.
	SSHBastionUsername string `cfg:"ssh_bastion_username"`
	// SSHBastionPassword is the password there.
	SSHBastionPassword string `cfg:"ssh_bastion_password"`
	// SSHBastionInteractive asks on the terminal what the bastion asks.
	SSHBastionInteractive bool `cfg:"ssh_bastion_interactive"`
	// SSHBastionAgentAuth takes the keys of the ssh-agent for it.
	SSHBastionAgentAuth bool `cfg:"ssh_bastion_agent_auth"`
	// SSHBastionPrivateKeyFile is a file with the private key for it. Default:
	// SSHPrivateKeyFile.
	SSHBastionPrivateKeyFile string `cfg:"ssh_bastion_private_key_file"`
	// SSHBastionPrivateKeyPassphrase decrypts that key. An option of Ingot's own.
	SSHBastionPrivateKeyPassphrase string `cfg:"ssh_bastion_private_key_passphrase"`
	// SSHBastionCertificateFile is a file with the certificate of that key.
	SSHBastionCertificateFile string `cfg:"ssh_bastion_certificate_file"`
	// SSHBastionHostKey are the only host keys that the bastion may have. An
	// option of Ingot's own.
	SSHBastionHostKey []string `cfg:"ssh_bastion_host_key"`

	// SSHProxyHost is a proxy to connect through.
	SSHProxyHost string `cfg:"ssh_proxy_host"`
	// SSHProxyPort is its port.
	SSHProxyPort int `cfg:"ssh_proxy_port"`
	// SSHProxyUsername is who logs in there.
	SSHProxyUsername string `cfg:"ssh_proxy_username"`
	// SSHProxyPassword is the password there.
	SSHProxyPassword string `cfg:"ssh_proxy_password"`
	// SSHProxyType is "socks5", or "http" for HTTP CONNECT. Default: "socks5".
	// An option of Ingot's own.
	SSHProxyType string `cfg:"ssh_proxy_type"`

	// SSHRemoteTunnels are ports that the machine listens on, for places that
	// this host reaches: "PORT:HOST:PORT".
	SSHRemoteTunnels []string `cfg:"ssh_remote_tunnels"`
	// SSHLocalTunnels are ports that this host listens on, for places that the
	// machine reaches: "PORT:HOST:PORT".
	SSHLocalTunnels []string `cfg:"ssh_local_tunnels"`
}

// WinRM are the options of the communicator "winrm".
type WinRM struct {
	// WinRMHost is the address of the machine.
	WinRMHost string `cfg:"winrm_host"`
	// WinRMPort is its port. Default: 5985, with WinRMUseSSL 5986.
	WinRMPort int `cfg:"winrm_port"`
	// WinRMUsername is who logs in.
	WinRMUsername string `cfg:"winrm_username"`
	// WinRMPassword is the password.
	WinRMPassword string `cfg:"winrm_password"`
	// WinRMTimeout bounds the wait for the machine.
	WinRMTimeout time.Duration `cfg:"winrm_timeout"`
	// WinRMNoProxy goes around the HTTP proxy.
	WinRMNoProxy bool `cfg:"winrm_no_proxy"`
	// WinRMUseSSL speaks TLS.
	WinRMUseSSL bool `cfg:"winrm_use_ssl"`
	// WinRMInsecure takes any certificate.
	WinRMInsecure bool `cfg:"winrm_insecure"`
	// WinRMUseNTLM logs in by NTLM.
	WinRMUseNTLM bool `cfg:"winrm_use_ntlm"`
	// WinRMCACertFile is a file of certificates in PEM form that alone may vouch
	// for the machine's, which may be that certificate itself. Default: the
	// authorities of this host. Ingot's own.
	WinRMCACertFile string `cfg:"winrm_ca_cert_file"`
	// WinRMServerName is the name that the machine's certificate must have.
	// Default: the host. Ingot's own.
	WinRMServerName string `cfg:"winrm_server_name"`
}

// Defaults are the options as a builder begins with them.
func Defaults() Options {
	return Options{
		Communicator: SSHKind,
		SSH: SSH{
			SSHPort: 22, SSHBastionPort: 22, SSHProxyPort: 1080,
			SSHTimeout: 5 * time.Minute, SSHKeepAliveInterval: 5 * time.Second,
		},
		WinRM: WinRM{WinRMTimeout: 30 * time.Minute},
	}
}

// The kinds of communicators.
const (
	SSHKind   = "ssh"
	WinRMKind = "winrm"
	None      = "none"
)
