package specs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

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
	pids := filepath.Join(t.TempDir(), "pids")
	src := `
command ` + strconv.Quote("setsid sleep 6917 & sleep 6917 & echo $$ $! >"+machine.Quote(pids)+"; pgrep -f '^sleep 6917$' >>"+machine.Quote(pids)+"; wait") + ` {
	timeout = "1s"
	its "exit_status" { eq = 0 } # error: did not end within 1s
}
command "echo next" {
	its "stdout" { eq = "next" } # pass
}
`
	r := run(t, m, src)
	expect(t, src, r)
	if r.RoundTrips != 1 {
		t.Errorf("%d round trips", r.RoundTrips)
	}
	said, err := os.ReadFile(pids)
	if err != nil || len(strings.Fields(string(said))) < 3 {
		t.Fatalf("it said %q: %v", said, err)
	}
	for _, s := range strings.Fields(string(said)) {
		pid, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		stat, _ := os.ReadFile("/proc/" + s + "/stat")
		if syscall.Kill(pid, 0) == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %d is left", pid)
		}
	}
}
