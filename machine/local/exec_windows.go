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

// Windows has no request to end that reaches every process.
func terminate(cmd *exec.Cmd) { kill(cmd) }

func kill(cmd *exec.Cmd) {
	_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(cmd.Process.Pid)).Run()
	_ = cmd.Process.Kill()
}

func status(s *os.ProcessState) int { return s.ExitCode() }
