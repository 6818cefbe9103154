package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/sshtest"
)

// TestNullBySSH bakes a null source on a real sshd, as people do.
func TestNullBySSH(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	dir, home := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("payload", "from here\n")
	template := func(key string) string {
		return fmt.Sprintf(`
source "null" "x" {
  ssh_host             = %q
  ssh_port             = %d
  ssh_username         = %q
  ssh_private_key_file = %q
  %s
}
build {
  sources = ["null.x"]
  provisioner "file" {
    source      = "payload"
    destination = "%s/put/"
  }
  provisioner "shell" {
    inline = ["test -f $HOME/put/payload", "echo hello by ${build.ConnType} to {{ .Host }} > $HOME/made"]
  }
  spec "made" {
    file "%s/made" { contain = "hello by ssh to 127.0.0.1" }
    file "%s/put/payload" { be_mode = "0600" }
  }
}
`, s.Host, s.Port, s.User, s.KeyFile, key, s.Home, s.Home, s.Home)
	}
	bake := func(env ...string) (int, string) {
		t.Helper()
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, "build", ".")
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), asProgram+"=1", "INGOT_HOME="+home), env...)
		out, _ := cmd.CombinedOutput() // the status says it
		return cmd.ProcessState.ExitCode(), string(out)
	}

	write("t.ingot.hcl", template(fmt.Sprintf("ssh_host_key = [%q]", s.HostKey)))
	if code, out := bake(); code != 0 || strings.Contains(out, "not checked") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if b, _ := os.ReadFile(filepath.Join(s.Home, "made")); string(b) != "hello by ssh to 127.0.0.1\n" {
		t.Errorf("the machine has %q", b)
	}

	// A host that nobody knows is refused, unless that is asked for.
	write("known", "")
	write("t.ingot.hcl", template(`ssh_known_hosts_file = "known"`))
	if code, out := bake(); code != 1 || !strings.Contains(out, "host key of 127.0.0.1") || !strings.Contains(out, "ssh_ignore_host_key") {
		t.Errorf("an unknown host: exit %d:\n%s", code, out)
	}
	if code, out := bake("INGOT_SSH_IGNORE_HOST_KEY=1"); code != 0 || strings.Count(out, "is not checked") != 1 {
		t.Errorf("opted out: exit %d:\n%s", code, out)
	}
}
