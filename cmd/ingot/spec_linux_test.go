package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/report/specreport"
	"github.com/ingotbuild/ingot/specs"
)

// ingotCommand is the program as a user runs it.
func ingotCommand(ctx context.Context, t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// ingot runs the program and gives its exit status and what it said.
func ingot(t *testing.T, dir string, args ...string) (int, string) {
	t.Helper()
	cmd := ingotCommand(t.Context(), t, dir, args...)
	out, _ := cmd.CombinedOutput() // the status says it
	return cmd.ProcessState.ExitCode(), string(out)
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSpecBySSH checks a spec on several real servers at once, some of which
// are not what they should be.
func TestSpecBySSH(t *testing.T) {
	good, other := sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{})
	noShell := sshtest.Start(t, sshtest.Options{Config: "ForceCommand /bin/false"})
	dies := sshtest.Start(t, sshtest.Options{})
	chatty := sshtest.Start(t, sshtest.Options{Config: `ForceCommand printf '\033[2Jspec: 99 passed\n'`})
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", t.TempDir())
	dir := t.TempDir()
	key := writeFile(t, dir, "key", string(good.Key))
	pub := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(good.Signer().PublicKey())))
	known := ""
	address := map[*sshtest.Server]string{}
	for _, s := range []*sshtest.Server{good, other, noShell, dies, chatty} {
		s.Authorize(pub)
		known += s.KnownHosts()
		address[s] = fmt.Sprintf("ssh://%s@%s:%d", s.User, s.Host, s.Port)
	}
	writeFile(t, dir, "known", known)
	writeFile(t, dir, "wrong", strings.ReplaceAll(good.KnownHosts(), strings.Fields(good.HostKey)[1], strings.Fields(other.HostKey)[1]))
	writeFile(t, dir, "up.ingot.hcl", `spec "up" {
  command "echo $SSH_CONNECTION" {
    its "stdout" { match = "127.0.0.1" }
  }
}`)
	writeFile(t, dir, "port.ingot.hcl", fmt.Sprintf(`spec "port" {
  command "echo $${SSH_CONNECTION##* }" {
    its "stdout" { eq = "%d" }
  }
}`, good.Port))
	// It takes down the server that it is connected to.
	writeFile(t, dir, "dies.ingot.hcl", `spec "dies" {
  command "p=$$; while [ $p -gt 1 ]; do read -r _ n _ q _ </proc/$p/stat; case $n in '(sshd'*) k=\"$k $p\";; esac; p=$q; done; kill -9 $k" {
    its "exit_status" { eq = 0 }
  }
}`)
	check := func(want int, says []string, args ...string) {
		t.Helper()
		args = append([]string{"spec", "check", "-i", key, "-connect-timeout", "1m"}, args...)
		if code, out := ingot(t, dir, args...); code != want {
			t.Errorf("%v: exit %d, want %d:\n%s", args, code, want, out)
		} else {
			for _, s := range says {
				if !strings.Contains(out, s) {
					t.Errorf("%v: it does not say %q:\n%s", args, s, out)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Errorf("%v: a control character came through: %q", args, out)
			}
		}
	}
	both := []string{"-target", address[good], "-target", address[other]}
	check(0, []string{"up: 1 passed"}, append(both, "-known-hosts", "known", "up.ingot.hcl")...)
	check(1, []string{"== " + address[good] + "\nport: 1 passed", "FAIL"}, append(both, "-known-hosts", "known", "port.ingot.hcl")...)
	check(3, []string{"is not the one that is known"}, "-target", address[good], "-known-hosts", "wrong", "up.ingot.hcl")
	check(3, []string{"is not known", "known_hosts file"}, "-target", address[good], "-known-hosts", "/dev/null", "up.ingot.hcl")
	check(3, []string{"ERROR"}, "-target", address[noShell], "-known-hosts", "known", "up.ingot.hcl")
	check(3, []string{"ERROR"}, "-target", address[chatty], "-known-hosts", "known", "up.ingot.hcl")
	check(3, []string{"ERROR", "up: 0 passed, 0 failed, 1 error"}, "-target", address[dies], "-connect-timeout", "10s", "-known-hosts", "known", "dies.ingot.hcl", "up.ingot.hcl")
	thaw := other.Freeze()
	check(3, []string{"-timeout", "up: 1 passed"}, append(both, "-known-hosts", "known", "-timeout", "10s", "up.ingot.hcl")...)
	thaw()
}

// TestSpecOnImage checks specs on machines that are booted for it, and that
// nothing of these is left, however it ends.
func TestSpecOnImage(t *testing.T) {
	sandboxtest.Need(t)
	home, dir := t.TempDir(), t.TempDir()
	t.Setenv("INGOT_HOME", home)
	root := sandboxtest.Busybox(t)
	writeFile(t, dir, "user.ingot.hcl", `spec "user" {
  user "nobody" { exist = true }
  file "/bin/busybox" { be_executable = true }
}`)
	writeFile(t, dir, "long.ingot.hcl", `spec "long" {
  command "echo here; sleep 60" {
    timeout = "1m"
    its "exit_status" { eq = 0 }
  }
}`)
	if code, out := ingot(t, dir, "spec", "check", "user.ingot.hcl", "-target", "image:"+root, "-network", "none"); code != 0 || !strings.Contains(out, "user: 2 passed") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	nothingLeft(t, home)
	if code, out := ingot(t, dir, "spec", "add", "user", "nobody", "root", "none", "-target", "image:"+root, "-network", "none", "-o", "made.ingot.hcl"); code != 0 {
		t.Errorf("exit %d:\n%s", code, out)
	}
	if code, out := ingot(t, dir, "spec", "check", "made.ingot.hcl", "-target", "image:"+root, "-network", "none"); code != 0 {
		t.Errorf("what was written does not hold: exit %d:\n%s", code, out)
	}
	running := func() bool {
		left, err := filepath.Glob(filepath.Join(home, "machines", "*", "upper"))
		return err == nil && len(left) > 0
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		cmd := ingotCommand(t.Context(), t, dir, "spec", "check", "long.ingot.hcl", "-target", "image:"+root, "-network", "none")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sshtest.Wait(t, "the machine", running)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if sig == syscall.SIGINT {
			if code := cmd.ProcessState.ExitCode(); code != exitBroken || !strings.Contains(out.String(), "cancelled") {
				t.Errorf("interrupted: exit %d:\n%s", code, &out)
			}
		} else if code, out := ingot(t, dir, "sweep"); code != 0 || !strings.Contains(out, "gave back directory") {
			t.Errorf("sweep: exit %d:\n%s", code, out)
		}
		nothingLeft(t, home)
	}
}

// TestSpecServe asks the endpoint as load balancers and Prometheus do.
func TestSpecServe(t *testing.T) {
	dir := t.TempDir()
	flag := writeFile(t, dir, "flag", "up\n")
	runs := filepath.Join(dir, "runs")
	writeFile(t, dir, "s.ingot.hcl", fmt.Sprintf(`spec "s" {
  file %q { contain = "up" }
  command "echo run >>%s" {
    its "exit_status" { eq = 0 }
  }
}`, flag, runs))
	cmd := ingotCommand(t.Context(), t, dir, "spec", "serve", "s.ingot.hcl", "-target", "local:", "-listen", "127.0.0.1:0", "-cache", "0s")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 200)
	n, err := stderr.Read(said)
	url := regexp.MustCompile(`http://\S+/`).FindString(string(said[:n]))
	if err != nil || url == "" {
		t.Fatalf("it says %q, %v", said[:n], err)
	}
	get := func(path, accept string) (int, string, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header.Get("Content-Type"), string(b)
	}
	if code, kind, body := get("healthz", "*/*"); code != 200 || !strings.HasPrefix(kind, "text/plain") || !strings.Contains(body, "s: 2 passed") {
		t.Errorf("%d %s %s", code, kind, body)
	}
	if err := os.WriteFile(flag, []byte("down\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, kind, body := get("healthz", "text/html;q=0.5, application/json"); code != 503 || kind != "application/json" || !json.Valid([]byte(body)) {
		t.Errorf("%d %s %s", code, kind, body)
	}
	if code, _, body := get("metrics", ""); code != 200 || !strings.Contains(body, "ingot_spec_target_passed{target=\"local:\"} 0") {
		t.Errorf("%d %s", code, body)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("stopped: %v", err)
	}
}

func testHealth(t *testing.T, src string, targets ...string) *health {
	t.Helper()
	file := writeFile(t, t.TempDir(), "s.ingot.hcl", src)
	var said bytes.Buffer
	c := &cli{out: &said, err: &said}
	set, err := c.loadSpecs(t.Context(), []string{file}, &specFlags{})
	if err != nil {
		t.Fatalf("%v: %s", err, &said)
	}
	h := &health{set: set, timeout: time.Minute, parallel: 2, cache: time.Hour, format: "text", life: t.Context(), slots: make(chan struct{}, maxRequests), events: event.Scope{}}
	h.way.connectTimeout = 300 * time.Millisecond
	for _, name := range targets {
		h.targets = append(h.targets, &kept{name: name})
	}
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// ask makes a request of the handler itself.
func (h *health) ask(method, path, accept string) *recorder {
	r, _ := http.NewRequest(method, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := &recorder{header: http.Header{}}
	h.ServeHTTP(w, r)
	return w
}

type recorder struct {
	header http.Header
	status int
	bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(s int)   { r.status = s }

// TestHealthShares: many requests at once are one run, and the cache gives it again.
func TestHealthShares(t *testing.T) {
	dir := t.TempDir()
	runs, gate := filepath.Join(dir, "runs"), filepath.Join(dir, "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	h := testHealth(t, fmt.Sprintf(`spec "s" {
  command "echo run >>%s; cat %s" {
    its "exit_status" { eq = 0 }
  }
}`, runs, gate), "local:")
	results := make(chan *recorder)
	for range 20 {
		go func() { results <- h.ask("GET", "/healthz", "") }()
	}
	sshtest.Wait(t, "the requests to wait", func() bool { return len(h.slots) == 20 })
	if err := os.WriteFile(gate, nil, 0o600); err != nil { // opens for a writer, and so lets go
		t.Fatal(err)
	}
	for range 20 {
		if r := <-results; r.status != 200 {
			t.Errorf("%d: %s", r.status, r)
		}
	}
	if r := h.ask("GET", "/healthz", ""); r.status != 200 {
		t.Errorf("from the cache: %d: %s", r.status, r)
	}
	if b, err := os.ReadFile(runs); err != nil || string(b) != "run\n" {
		t.Errorf("21 requests made %q, %v", b, err)
	}
}

func TestHealthFormats(t *testing.T) {
	h := testHealth(t, `spec "s" {
  user "root" { exist = true }
}`, "local:")
	for _, tc := range []struct {
		method, path, accept string
		status               int
		kind                 string
	}{
		{"GET", "/healthz", "", 200, "text/plain; charset=utf-8"},
		{"HEAD", "/healthz", "", 200, "text/plain; charset=utf-8"},
		{"GET", "/healthz?format=junit", "text/html", 200, "application/xml"},
		{"GET", "/healthz?format=nothing", "", 400, ""},
		{"GET", "/healthz", "application/vnd.goss-json", 200, "application/vnd.goss-json"},
		{"GET", "/healthz", "application/vnd.goss-rspecish, application/json;q=0.9", 200, "application/vnd.goss-rspecish"},
		{"GET", "/healthz", "application/vnd.goss-none, text/html", 200, "text/html; charset=utf-8"},
		{"GET", "/healthz", "image/png", 406, ""},
		{"GET", "/healthz", "image/png, */*;q=0.1", 200, "text/plain; charset=utf-8"},
		{"GET", "/healthz", ";;;", 200, "text/plain; charset=utf-8"},
		{"GET", "/healthz", "application/json;q=0, text/html;q=x", 200, "text/plain; charset=utf-8"},
		{"POST", "/healthz", "", 405, ""},
		{"GET", "/metrics", "text/html", 200, "text/plain; version=0.0.4; charset=utf-8"},
		{"GET", "/", "", 404, ""},
		{"GET", "/healthz/../etc", "", 404, ""},
	} {
		r := h.ask(tc.method, tc.path, tc.accept)
		if r.status != tc.status || tc.kind != "" && r.header.Get("Content-Type") != tc.kind {
			t.Errorf("%s %s, %q: %d %s: %s", tc.method, tc.path, tc.accept, r.status, r.header.Get("Content-Type"), r)
		}
	}
	for range maxRequests {
		h.slots <- struct{}{}
	}
	if r := h.ask("GET", "/healthz", ""); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d", r.status)
	}
	for range maxRequests {
		<-h.slots
	}
}

// TestHealthBroken: what could not be found out is no health.
func TestHealthBroken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	h := testHealth(t, `spec "s" {
  user "root" { exist = true }
}`, "local:", "ssh://x@"+l.Addr().String())
	if r := h.ask("GET", "/healthz", ""); r.status != 503 || !strings.Contains(r.String(), "s: 1 passed") || !strings.Contains(r.String(), "ERROR") {
		t.Errorf("%d: %s", r.status, r)
	}
	if r := h.ask("GET", "/metrics", ""); r.status != 200 || !strings.Contains(r.String(), " 0\n") {
		t.Errorf("%d: %s", r.status, r)
	}
}

func TestSpecStatus(t *testing.T) {
	report := func(all ...specs.Status) *specs.Report {
		r := &specs.Report{}
		for _, s := range all {
			r.Results = append(r.Results, specs.Result{Status: s})
		}
		return r
	}
	broken := specreport.Target{Err: errors.New("x")}
	for i, tc := range []struct {
		found []specreport.Target
		want  int
	}{
		{[]specreport.Target{{Reports: []*specs.Report{report(specs.Pass, specs.Skip, specs.Waived)}}}, 0},
		{[]specreport.Target{{Reports: []*specs.Report{report(specs.Pass), report(specs.Error)}}}, 3},
		{[]specreport.Target{{Reports: []*specs.Report{report(specs.Error, specs.Fail)}}}, 1},
		{[]specreport.Target{broken, {Reports: []*specs.Report{report(specs.Pass)}}}, 3},
		{[]specreport.Target{broken, {Reports: []*specs.Report{report(specs.Fail)}}}, 1},
	} {
		if have := specStatus(tc.found); have != tc.want {
			t.Errorf("%d: %d, want %d", i, have, tc.want)
		}
	}
}
