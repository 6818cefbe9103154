package proc

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestReusedPidIsDead(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	self.StartTicks++
	if alive, known := Alive(self); alive || !known {
		t.Errorf("Alive = %v, %v; want false, true", alive, known)
	}
}

func TestAnotherPidNamespaceIsUnknown(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	boot, _, _ := strings.Cut(self.BootID, " ")
	self.BootID = boot + " pid:[1]"
	if alive, known := Alive(self); alive || known {
		t.Errorf("Alive = %v, %v; want false, false", alive, known)
	}
}

func TestZombieIsDead(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INGOT_TEST_WAIT=1")
	cmd.Stdin = strings.NewReader("\n")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	o, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	o.PID = cmd.Process.Pid
	if o.StartTicks, err = startTicks(o.PID); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	for err == nil { // its output ends as it exits; nobody has waited for it yet
		_, err = out.ReadByte()
	}
	for {
		s, err := readStat(o.PID)
		if err != nil {
			t.Fatal(err)
		}
		if s.state == 'Z' && s.threads <= 1 { // its other threads end by themselves
			break
		}
	}
	if alive, known := Alive(o); alive || !known {
		t.Errorf("Alive = %v, %v; want false, true", alive, known)
	}
}

func TestParseStat(t *testing.T) {
	const tail = " 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"
	for _, test := range []struct {
		text  string
		state byte
		start uint64
		ok    bool
	}{
		{"7 (sh) S" + tail + " 4711 0 0\n", 'S', 4711, true},
		{"7 (a) R 1 ) (b) Z" + tail + " 18446744073709551615 0", 'Z', 1<<64 - 1, true},
		{"7 (sh) S 1 2 3", 0, 0, false},
		{"7 (sh) S" + tail + " -1", 0, 0, false},
		{"7 (sh) Sx" + tail + " 1", 0, 0, false},
		{"7 sh S" + tail + " 1", 0, 0, false},
		{"", 0, 0, false},
	} {
		s, err := parseStat([]byte(test.text))
		if (err == nil) != test.ok || s.state != test.state || s.start != test.start {
			t.Errorf("parseStat(%q) = %+v, %v", test.text, s, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (sh) S 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 4711 0 0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := parseStat(text); err != nil && s != (stat{}) {
			t.Errorf("%+v with error %v", s, err)
		}
	})
}

// A tree ends whole: sessions of their own, those who have lost their parents
// since, those who do not listen. What init has adopted is not of it.
func TestTree(t *testing.T) {
	for name, end := range map[string]func(int){
		"Tree": func(lead int) {
			tree := NewTree(lead)
			tree.Signal(unix.SIGTERM)
			tree.Signal(unix.SIGKILL)
		},
		"EndScript": func(lead int) {
			if out, err := exec.Command("sh", "-c", EndScript(lead, "TERM", "KILL")).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		},
	} {
		cmd := exec.Command("sh", "-c", `setsid sh -c 'trap "" TERM; setsid sleep 1000 & echo $! $$; while :; do sleep 1000; done' &
(setsid sh -c 'echo daemon $$; exec sleep 1000' &)
echo $$; wait`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pids []int
		daemon := 0
		lines := bufio.NewScanner(stdout)
		for (len(pids) < 3 || daemon == 0) && lines.Scan() {
			words := strings.Fields(lines.Text())
			for _, w := range words {
				n, err := strconv.Atoi(w)
				switch {
				case err != nil:
				case words[0] == "daemon":
					daemon = n
				default:
					pids = append(pids, n)
				}
			}
		}
		if len(pids) != 3 || daemon == 0 {
			t.Fatalf("the command said %v, %d", pids, daemon)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		end(cmd.Process.Pid)
		<-ended
		for _, pid := range pids {
			gone := func() bool { s, err := readStat(pid); return err != nil || s.state == 'Z' || s.state == 'X' }
			for i := 0; !gone(); i++ {
				if i == 6000 {
					t.Fatalf("%s: process %d is left", name, pid)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		if err := unix.Kill(daemon, unix.SIGKILL); err != nil {
			t.Errorf("%s: the daemon is gone, too: %v", name, err)
		}
	}
}
