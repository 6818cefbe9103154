package ansible

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
)

var (
	plainHost = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$|^[0-9A-Fa-f]*:[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?$`)
	// A user's name stands in ssh_config and in the inventory.
	plainUser = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@+\\$-]*$`)
)

func loopback(addr string) bool {
	ip := net.ParseIP(addr)
	return ip != nil && ip.IsLoopback()
}

// connect decides how Ansible reaches the machine, and makes what that needs.
// end takes it down.
func (r *run) connect(ctx context.Context) (end func(), err error) {
	r.variables = map[string]string{}
	r.windows = r.m.Platform().OS == "windows"
	forced := r.UseProxy != nil && *r.UseProxy
	if r.env.Values["ConnType"] == "winrm" && !forced {
		return func() {}, r.winrm()
	}
	why := errors.New("use_proxy is true")
	if r.UseProxy == nil && (r.LocalPort != 0 || r.SSHHostKeyFile != "" || r.SSHAuthorizedKeyFile != "") {
		why = errors.New("options of the proxy are set")
	} else if !forced {
		var a machine.SSHAccess
		if a, why = reachable(r.m); why == nil {
			r.how = "by SSH to " + net.JoinHostPort(a.Host, strconv.Itoa(a.Port))
			return r.endSSH, r.sshConfig(a)
		}
		if r.UseProxy != nil {
			r.env.Events.Warn(fmt.Sprintf("use_proxy = false cannot be done here, the proxy is used: %v", why))
		}
	}
	proxy, err := r.proxy(ctx)
	if err != nil {
		return nil, err
	}
	r.how = "by Ingot's proxy (" + why.Error() + ")"
	if err := r.sshConfig(proxy.access); err != nil {
		proxy.Close()
		return nil, err
	}
	return func() { r.endSSH(); proxy.Close() }, nil
}

// reachable says how OpenSSH reaches the machine, or why it does not.
func reachable(m machine.Machine) (machine.SSHAccess, error) {
	s, ok := m.(machine.SSHReachable)
	if !ok {
		return machine.SSHAccess{}, errors.New("the machine is not reached by SSH")
	}
	a, ok := s.SSHAccess()
	if !ok {
		return a, errors.New("only Ingot itself can reach the machine")
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		return a, errors.New("this host has no ssh (Debian: openssh-client)")
	}
	for i, hop := range append([]machine.SSHAccess{a}, a.Bastions...) {
		what := "the machine"
		if i > 0 {
			what = fmt.Sprintf("bastion %d", i)
		}
		switch {
		case !plainHost.MatchString(hop.Host) || hop.Port < 1 || hop.Port > 65535:
			return a, fmt.Errorf("the address of %s is none that ssh can be told: %q", what, net.JoinHostPort(hop.Host, strconv.Itoa(hop.Port)))
		case !plainUser.MatchString(hop.User):
			return a, fmt.Errorf("the user of %s is none that ssh can be told: %q", what, hop.User)
		case len(hop.PrivateKey) > 0 || hop.Agent:
		case i > 0:
			return a, fmt.Errorf("%s has no key, and ssh cannot be told a password for it", what)
		default:
			if _, err := exec.LookPath("sshpass"); err != nil {
				return a, errors.New("its way in is a password, and this host has no sshpass")
			}
		}
	}
	return a, nil
}

// winrm lets Ansible connect to a Windows machine by itself, as Packer does.
func (r *run) winrm() error {
	host, port, user := r.env.Values["Host"], r.env.Values["Port"], r.env.Values["User"]
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 || !plainHost.MatchString(host) || !plainUser.MatchString(user) {
		return fmt.Errorf("the machine's WinRM address %q or user %q is none that Ansible can be told", net.JoinHostPort(host, port), user)
	}
	r.how = "by WinRM to " + net.JoinHostPort(host, port)
	if password := r.env.Values["Password"]; password != "" {
		r.variables["ansible_password"] = password
	}
	if r.AnsibleWinRMUseHTTP {
		r.variables["ansible_winrm_scheme"] = "http"
	}
	return nil
}

// sshConfig writes what OpenSSH must know to reach a, and nothing else.
func (r *run) sshConfig(a machine.SSHAccess) error {
	r.access = &a
	if !a.Agent && len(a.PrivateKey) == 0 {
		r.variables["ansible_password"] = a.Password
	}
	if err := os.Mkdir(filepath.Join(r.dir, "c"), 0o700); err != nil {
		return err
	}
	var config, known bytes.Buffer
	entry := func(pattern, name string, hop machine.SSHAccess) (keyFile string, err error) {
		fmt.Fprintf(&config, "Host %s\n  User %s\n  Port %d\n", pattern, hop.User, hop.Port)
		option := func(name, value string) { fmt.Fprintf(&config, "  %s %s\n", name, value) }
		// A known host key has one name, whatever the host is called.
		option("HostKeyAlias", name)
		if len(hop.HostKeys) > 0 {
			option("StrictHostKeyChecking", "yes")
			option("UserKnownHostsFile", filepath.Join(r.dir, "known_hosts"))
		} else {
			option("StrictHostKeyChecking", "no")
			option("UserKnownHostsFile", "/dev/null")
		}
		option("GlobalKnownHostsFile", "/dev/null")
		option("UpdateHostKeys", "no")
		option("VerifyHostKeyDNS", "no")
		for _, line := range hop.HostKeys {
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
			if err != nil {
				return "", fmt.Errorf("a host key of %s: %w", name, err)
			}
			fmt.Fprintf(&known, "%s %s", name, ssh.MarshalAuthorizedKey(key))
		}
		if len(hop.PrivateKey) > 0 {
			if keyFile, err = r.write(name+".key", append(bytes.TrimRight(hop.PrivateKey, "\n"), '\n')); err != nil {
				return "", err
			}
			option("IdentityFile", keyFile)
			if len(hop.Certificate) > 0 {
				file, err := r.write(name+".key-cert.pub", append(bytes.TrimRight(hop.Certificate, "\n"), '\n'))
				if err != nil {
					return "", err
				}
				option("CertificateFile", file)
			}
		}
		if !hop.Agent {
			option("IdentitiesOnly", "yes")
			option("IdentityAgent", "none")
		}
		if hop.Agent || len(hop.PrivateKey) > 0 {
			option("BatchMode", "yes")
		}
		option("ForwardAgent", "no")
		option("ForwardX11", "no")
		option("PermitLocalCommand", "no")
		option("ServerAliveInterval", "15")
		option("LogLevel", "ERROR")
		return keyFile, nil
	}
	var jumps []string
	for i, hop := range a.Bastions {
		name := fmt.Sprintf("ingot-hop-%d", i+1)
		if _, err := entry(name, name, hop); err != nil {
			return err
		}
		fmt.Fprintf(&config, "  HostName %s\n  ControlMaster no\n  ControlPath none\n", hop.Host)
		jumps = append(jumps, name)
	}
	// In an inventory of the user's own the machine may have any name.
	key, err := entry("* !ingot-hop-*", "ingot-machine", a)
	if err != nil {
		return err
	}
	if jumps != nil {
		fmt.Fprintf(&config, "  ProxyJump %s\n", strings.Join(jumps, ","))
	}
	r.keyFile = key
	if _, err := r.write("known_hosts", known.Bytes()); err != nil {
		return err
	}
	file, err := r.write("ssh_config", config.Bytes())
	r.sshArgs = "-F " + file + " -o ControlMaster=auto -o ControlPersist=60s"
	return err
}

// endSSH ends the connections that ssh keeps open for the next task.
func (r *run) endSSH() {
	sockets, _ := filepath.Glob(filepath.Join(r.dir, "c", "*")) // the pattern is good
	for _, socket := range sockets {
		endMaster(filepath.Join(r.dir, "ssh_config"), socket)
	}
}

var masterPID = regexp.MustCompile(`pid=(\d{1,9})`)

// endMaster asks the process behind the socket to end, and kills it where that does not help.
func endMaster(config, socket string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ask := func(what string) string {
		var said bytes.Buffer
		cmd := exec.Command("ssh", "-F", config, "-o", "ControlPath="+socket, "-O", what, "ingot-machine")
		cmd.Stdout, cmd.Stderr = &said, &said
		_ = local.Exec(ctx, cmd) // it fails when there is nobody behind the socket
		return said.String()
	}
	m := masterPID.FindStringSubmatch(ask("check"))
	if m == nil {
		return
	}
	pid, _ := strconv.Atoi(m[1]) // nine digits always fit
	ask("exit")
	for delay := time.Millisecond; alive(pid); delay = min(2*delay, 50*time.Millisecond) {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // it may just have ended
			}
			return
		}
	}
}
