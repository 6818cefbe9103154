//go:build linux

package null

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/buildertest"
	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
)

func TestSuite(t *testing.T) {
	ssh := "ssh_host = \"h\"\nssh_username = \"u\"\nssh_password = \"p\"\n"
	buildertest.Run(t, buildertest.Options{
		New:         func() builders.Builder { return New() },
		Config:      "communicator = \"none\"\nssh_host = \"h\"\nwinrm_timeout = \"1m\"",
		Exists:      func(builders.Lease) bool { return false },
		Machineless: true,
		Bad: []buildertest.Bad{
			{Name: "no options", Config: ``, Option: "ssh_host"},
			{Name: "no user", Config: `ssh_host = "h"`, Option: "ssh_username"},
			{Name: "no way in", Config: "ssh_host = \"h\"\nssh_username = \"u\"", Option: ""},
			{Name: "two ways in", Config: ssh + `ssh_agent_auth = true`, Option: ""},
			{Name: "winrm without a host", Config: "communicator = \"winrm\"\nwinrm_username = \"u\"\nwinrm_password = \"p\"", Option: "winrm_host"},
			{Name: "winrm's authorities", Config: "communicator = \"winrm\"\nwinrm_host = \"h\"\nwinrm_username = \"u\"\nwinrm_password = \"p\"\nwinrm_use_ssl = true\nwinrm_ca_cert_file = \"nowhere\"", Option: "winrm_ca_cert_file"},
			{Name: "winrm's name without TLS", Config: "communicator = \"winrm\"\nwinrm_host = \"h\"\nwinrm_username = \"u\"\nwinrm_password = \"p\"\nwinrm_server_name = \"n\"", Option: "winrm_server_name"},
			{Name: "unknown", Config: `communicator = "docker"`, Option: "communicator"},
		},
	})
}

// TestSSH is the suite with a machine that is there already, which costs no
// lease, and then a look at the machine.
func TestSSH(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	buildertest.Run(t, buildertest.Options{
		New: func() builders.Builder { return New() },
		Config: fmt.Sprintf("ssh_host = %q\nssh_port = %d\nssh_username = %q\nssh_private_key_file = %q\nssh_host_key = [%q]",
			s.Host, s.Port, s.User, s.KeyFile, s.HostKey),
		Exists:      func(builders.Lease) bool { return false },
		Machineless: true,
	})
	b := New()
	b.o.SSHHost, b.o.SSHPort, b.o.SSHUsername, b.o.SSHPrivateKeyFile, b.o.SSHHostKey = s.Host, s.Port, s.User, s.KeyFile, []string{s.HostKey}
	run := &builders.Run{Dir: t.TempDir(), Values: map[string]string{}}
	m, err := b.Boot(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var out bytes.Buffer
	if err := m.Run(t.Context(), machine.Command{Line: "echo $SSH_CONNECTION", Stdout: &out}); err != nil || !bytes.Contains(out.Bytes(), fmt.Append(nil, s.Port)) {
		t.Errorf("%v, %q", err, &out)
	}
	for k, want := range map[string]string{"ID": "Null", "Host": s.Host, "Port": fmt.Sprint(s.Port), "User": s.User, "ConnType": "ssh", "SSHPrivateKeyFile": s.KeyFile, "SSHPrivateKey": string(s.Key)} {
		if run.Values[k] != want {
			t.Errorf("build.%s is %q, want %q", k, run.Values[k], want)
		}
	}
}

func TestArtifact(t *testing.T) {
	a, err := New().Snapshot(t.Context(), &builders.Run{})
	if err != nil || a.ID != "Null" || a.BuilderID != "fnoeding.null" || !slices.Equal(a.Places, nil) {
		t.Errorf("%+v, %v", a, err)
	}
}
