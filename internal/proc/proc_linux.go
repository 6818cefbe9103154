package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func bootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	ns, err := os.Readlink("/proc/self/ns/pid") // pid:[4026531836]
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(boot)) + " " + ns, nil
}

func sameBoot(a, b string) bool {
	a, _, _ = strings.Cut(a, " ")
	b, _, _ = strings.Cut(b, " ")
	return a == b
}

func startTicks(pid int) (uint64, error) {
	stat, err := readStat(pid)
	return stat.start, err
}

func running(o Owner) (alive, known bool) {
	stat, err := readStat(o.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		// With hidepid, /proc hides other users' processes; a signal does not.
		return false, errors.Is(unix.Kill(o.PID, 0), unix.ESRCH)
	}
	if err != nil {
		return false, false
	}
	// A zombie has ended; only its parent has not asked how. But while other
	// threads of it are still ending, its files and locks are still held.
	ended := (stat.state == 'Z' || stat.state == 'X') && stat.threads <= 1
	return stat.start == o.StartTicks && !ended, true
}

type stat struct {
	state                  byte   // field 3
	parent, group, session int    // fields 4 to 6
	threads                uint64 // field 20
	start                  uint64 // field 22
}

func readStat(pid int) (stat, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(text)
	if err != nil {
		return stat{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// parseStat reads a line of /proc/<pid>/stat. The second field is the
// program's name in brackets and may hold anything, spaces and brackets too,
// so the fields are counted from the last bracket.
func parseStat(text []byte) (stat, error) {
	i := bytes.LastIndexByte(text, ')')
	fields := bytes.Fields(text[i+1:])
	const state, ids, threads, start = 0, 4 - 3, 20 - 3, 22 - 3 // the third field comes first here
	if i < 0 || len(fields) <= start || len(fields[state]) != 1 {
		return stat{}, errors.New("not a process status as proc(5) describes it")
	}
	ticks, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time: %w", err)
	}
	n, err := strconv.ParseUint(string(fields[threads]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("number of threads: %w", err)
	}
	out := stat{state: fields[state][0], threads: n, start: ticks}
	for i, to := range []*int{&out.parent, &out.group, &out.session} {
		if *to, err = strconv.Atoi(string(fields[ids+i])); err != nil {
			return stat{}, fmt.Errorf("process number: %w", err)
		}
	}
	return out, nil
}
