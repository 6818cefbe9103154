package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/rollouts"
)

const serviceTemplate = `
variable "program" {}
variable "greeting" {}
source "sandbox" "s" {
  cmd  = ["/usr/local/bin/web"]
  user = "nobody"
}
build {
  name    = "web"
  sources = ["sandbox.s"]
  provisioner "file" {
    source      = var.program
    destination = "/usr/local/bin/web"
  }
  provisioner "shell" {
    inline = ["chmod 755 /usr/local/bin/web", "mkdir -p /etc/web", "echo '${var.greeting}' > /etc/web/greeting"]
  }
}
rollout "web" {
  port = 8080
  soak = "500ms"
  health {
    contains = "version"
    timeout  = "30s" # the load takes all of a small machine
    deadline = "2m"
  }
}
`

// load asks until it is stopped, over connections that are kept and over new ones.
type load struct {
	stop     context.CancelFunc
	wg       sync.WaitGroup
	asked    atomic.Int64
	mu       sync.Mutex
	failures []string
	answers  map[string]int
}

func startLoad(ctx context.Context, url string) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{stop: cancel, answers: map[string]int{}}
	for i := range 8 {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}, Timeout: 30 * time.Second}
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.ask(client, url)
			}
		})
	}
	return l
}

func (l *load) ask(client *http.Client, url string) {
	l.asked.Add(1)
	text := ""
	res, err := client.Get(url)
	if err == nil {
		var b []byte
		b, err = io.ReadAll(res.Body)
		res.Body.Close()
		text = strings.TrimSpace(string(b))
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s: %s", res.Status, text)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures = append(l.failures, err.Error())
		return
	}
	l.answers[text]++
}

// A new version goes live, and the old one comes back, without a lost request.
func TestRolloutUnderLoad(t *testing.T) {
	w := newWorld(t, serviceTemplate)
	program := filepath.Join(t.TempDir(), "web")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "../../examples/quickstart/web")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the service: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := w.run("rollout", "stop", "web"); err != nil {
			log, _ := os.ReadFile(filepath.Join(w.home, "services/web/log"))
			t.Errorf("rollout stop: %v\n%s\nthe supervisor's log:\n%s", err, out, log)
		}
		w.clean("rollout stop", nil)
	})
	bake := func(n int) {
		t.Helper()
		w.must("build", "-var", "program="+program, "-var", fmt.Sprintf("greeting=version %d", n), ".")
		w.must("promote", fmt.Sprintf("web@v%d", n), "production")
		w.must("rollout", "web")
	}
	status := func() (st rollouts.Status) {
		t.Helper()
		if err := json.Unmarshal([]byte(w.must("rollout", "status", "-json", "web")), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	bake(1)
	url := "http://" + status().Address + "/"
	l := startLoad(t.Context(), url)
	defer l.stop()
	seen := func(text string) func() bool {
		return func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.answers[text] >= 50
		}
	}
	waitFor(t, seen("version 1"))
	bake(2)
	waitFor(t, seen("version 2"))
	if st := status(); st.Live.Version != "web@v2" || st.Old == nil || st.Old.Healthy != 2 {
		t.Errorf("after the rollout: %+v", st)
	}
	w.must("rollout", "back", "web")
	l.mu.Lock()
	l.answers["version 1"] = 0
	l.mu.Unlock()
	waitFor(t, seen("version 1"))
	l.stop()
	l.wg.Wait()
	t.Logf("%d requests through switch and back: %d failed; answers %v", l.asked.Load(), len(l.failures), l.answers)
	if len(l.failures) > 0 {
		t.Errorf("%d requests failed, the first: %s", len(l.failures), l.failures[0])
	}
	if st := status(); st.Live.Version != "web@v1" {
		t.Errorf("after going back: %+v", st)
	}
}
