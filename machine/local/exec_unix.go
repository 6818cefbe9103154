//go:build unix

package local

import (
	"os"
	"os/exec"
	"syscall"

	"github.com/ingotbuild/ingot/internal/proc"
)

const shellName = "sh"

func shell(line string) *exec.Cmd { return exec.Command("/bin/sh", "-c", line) }

func group(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
}

// end is how a command and what it started are ended. The leader of its group
// may be gone, and the others still be there.
type end struct{ tree *proc.Tree }

func ending(cmd *exec.Cmd) end { return end{proc.NewTree(cmd.Process.Pid)} }
func (e end) ask()             { e.tree.Signal(syscall.SIGTERM) }
func (e end) kill()            { e.tree.Signal(syscall.SIGKILL) }

func status(s *os.ProcessState) int {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}
