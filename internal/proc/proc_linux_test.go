package proc

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
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
