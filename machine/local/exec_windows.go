package local

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

const shellName = "cmd"

// cmd.exe has quoting rules of its own, so the line is passed as it is.
func shell(line string) *exec.Cmd {
	cmd := exec.Command("cmd")
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: "cmd /S /C \"" + line + "\""}
	return cmd
}

func group(*exec.Cmd) {}

// end is how a command and what it started are ended.
type end struct{ cmd *exec.Cmd }

func ending(cmd *exec.Cmd) end { return end{cmd} }

// Windows has no request to end that reaches every process.
func (e end) ask() { e.kill() }

func (e end) kill() {
	_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(e.cmd.Process.Pid)).Run()
	_ = e.cmd.Process.Kill()
}

func status(s *os.ProcessState) int { return s.ExitCode() }
