package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/registry"
)

// supervisor is the process that owns the machines of a service, and how many it has.
func (w *world) supervisor() (owner proc.Owner, machines int) {
	w.t.Helper()
	s, err := registry.Open(context.Background(), filepath.Join(w.home, "registry.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	bakes, err := s.OpenBakes(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range bakes {
		if strings.HasPrefix(b.Name, "rollout ") {
			owner = b.Owner
			machines++
		}
	}
	return owner, machines
}

// A supervisor is killed: its machines end with it, and sweep removes what they
// had. Started again, the service is as it was.
func TestSupervisorIsKilled(t *testing.T) {
	sandboxtest.Need(t)
	tree, address := sandboxtest.Busybox(t), fmt.Sprintf("127.0.0.1:%d", sshtest.FreePort(t))
	w := newWorld(t, `
source "sandbox" "web" {
  base = "`+tree+`"
  cmd  = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
}
build {
  name    = "web"
  sources = ["sandbox.web"]
  provisioner "shell" { inline = ["mkdir /www; echo hello > /www/index.html"] }
}
`)
	sandboxtest.Write(t, w.dir, "t.ingot.hcl", `
rollout "web" {
  image    = "web"
  channel  = "production"
  replicas = 2
  listen   = "`+address+`"
  port     = 8080
  soak     = "0s"
  health {
    timeout  = "30s"
    deadline = "2m"
  }
}
`, 0o600)
	t.Cleanup(func() { _, _ = w.run("rollout", "stop", "web") }) // fails where the test has stopped it
	w.must("build", ".")
	w.must("promote", "-reason", "test", "web@v1", "production")
	w.must("rollout", "web")
	served(t, address)
	owner, machines := w.supervisor()
	if machines != 2 {
		t.Fatalf("the ledger has %d machines, want 2", machines)
	}
	ids := w.bakes()

	if err := syscall.Kill(owner.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { alive, _ := proc.Alive(owner); return !alive })
	if left := w.leftovers(nil); len(left) == 0 {
		t.Error("a killed supervisor has left nothing to sweep: the test is not one")
	}
	if out := w.must("sweep"); !strings.Contains(out, "gave back directory") {
		t.Errorf("sweep: %s", out)
	}
	w.clean("kill -9 of the supervisor and sweep", ids)

	w.must("rollout", "web")
	served(t, address)
	ids = w.bakes()
	w.must("rollout", "stop", "web")
	w.clean("rollout stop", ids)
}

func served(t *testing.T, address string) {
	t.Helper()
	resp, err := http.Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello\n" {
		t.Errorf("the service answers %q, %s, %v", b, resp.Status, err)
	}
}
