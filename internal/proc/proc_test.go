package proc

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// TestMain lets the test binary stand in for a process that waits until its
// standard input ends.
func TestMain(m *testing.M) {
	if os.Getenv("INGOT_TEST_WAIT") != "" {
		os.Stdout.WriteString("ready\n")
		bufio.NewReader(os.Stdin).ReadString('\n')
		return
	}
	os.Exit(m.Run())
}

func TestSelfIsAlive(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	if self.Host == "" || self.PID != os.Getpid() {
		t.Errorf("Self() = %+v, want this host and pid %d", self, os.Getpid())
	}
	if runtime.GOOS == "linux" && (self.BootID == "" || self.StartTicks == 0) {
		t.Errorf("Self() = %+v, want a boot id and a start time on Linux", self)
	}
	if alive, known := Alive(self); !alive || !known {
		t.Errorf("Alive(self) = %v, %v", alive, known)
	}
}

func TestAliveFollowsAProcess(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INGOT_TEST_WAIT=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	o, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	o.PID = cmd.Process.Pid
	if o.StartTicks, err = startTicks(o.PID); err != nil {
		t.Fatal(err)
	}
	if alive, known := Alive(o); !alive || !known {
		t.Errorf("while it runs: Alive = %v, %v", alive, known)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if alive, known := Alive(o); alive || !known {
		t.Errorf("after it ended: Alive = %v, %v; want false, true", alive, known)
	}
}

func TestAliveOfOthers(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Owner)) Owner {
		o := self
		change(&o)
		return o
	}
	for _, test := range []struct {
		name  string
		owner Owner
		known bool
	}{
		{"nobody", Owner{}, false},
		{"no pid", with(func(o *Owner) { o.PID = 0 }), false},
		{"a process group", with(func(o *Owner) { o.PID = -1 }), false},
		{"another host", with(func(o *Owner) { o.Host += "-2" }), false},
		{"another boot", with(func(o *Owner) { o.BootID = "another " + o.BootID }), true},
	} {
		if alive, known := Alive(test.owner); alive || known != test.known {
			t.Errorf("%s: Alive = %v, %v; want false, %v", test.name, alive, known, test.known)
		}
	}
}
