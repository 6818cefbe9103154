package ansible

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// reap kills what a run that was cut off has left: newer Ansibles start their
// workers in sessions of their own, which no process group holds. mark is in
// the environment of the run's processes alone.
func reap(mark string) {
	for range 3 { // one that is just being started is found the next time
		found := false
		files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is good
		for _, file := range files {
			environ, err := os.ReadFile(file)
			if err != nil || !bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+mark+"\x00")) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
			}
		}
		if !found {
			return
		}
	}
}
