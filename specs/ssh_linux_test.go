package specs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
	"golang.org/x/crypto/ssh"
)

// Over SSH a command whose time is over is ended, with what it has started,
// whatever session that is in; the others have their answers.
func TestTimeIsKeptOverSSH(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{})
	key, err := sshmachine.ParseKey(server.Key, nil, nil, "the test")
	if err != nil {
		t.Fatal(err)
	}
	m, err := sshmachine.Dial(t.Context(), sshmachine.Config{Hops: []sshmachine.Hop{{
		Host: server.Host, Port: server.Port, User: server.User,
		HostKeys: sshmachine.HostKeys{Known: []ssh.PublicKey{server.HostPublicKey()}}, Login: sshmachine.Login{Keys: []sshmachine.Key{key}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// A busy host may not come so far within a second that all have begun.
	var said []string
	for limit := time.Second; len(said) < 3 && limit < time.Minute; limit *= 5 {
		pids := filepath.Join(t.TempDir(), "pids")
		src := fmt.Sprintf(`
command %s {
	timeout = "%s"
	its "exit_status" { eq = 0 } # error: did not end within %[2]s
}
command "echo next" {
	its "stdout" { eq = "next" } # pass
}
`, strconv.Quote("to="+machine.Quote(pids)+`; export to; setsid sh -c 'echo $$ >>"$to"; exec sleep 6917' & sleep 6917 & echo $$ $! >>"$to"; wait`), limit)
		r := run(t, m, src)
		expect(t, src, r)
		if r.RoundTrips != 1 {
			t.Errorf("%d round trips", r.RoundTrips)
		}
		text, err := os.ReadFile(pids)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		said = strings.Fields(string(text))
	}
	if len(said) != 3 {
		t.Fatalf("it said %q", said)
	}
	for _, s := range said {
		pid, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // a killed process ends in its own time
			stat, _ := os.ReadFile("/proc/" + s + "/stat")
			if syscall.Kill(pid, 0) != nil || strings.Contains(string(stat), ") Z ") {
				break
			}
			if time.Now().After(end) {
				t.Errorf("process %d is left: %s", pid, stat)
				break
			}
		}
	}
}
