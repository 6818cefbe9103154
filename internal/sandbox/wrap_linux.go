package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/machine"
)

// wrapped starts a tree's first process through a command such as sudo. That
// passes no files, so they go by a socket, whose end is also the machine's end.
type wrapped struct {
	ctx    context.Context
	wrap   func(string) (string, error)
	files  []*os.File // control, configuration, started
	stderr *bytes.Buffer

	cmd     *exec.Cmd
	conn    *net.UnixConn
	waiting chan error
}

// wrapLinger is how long the outputs may be held open by what the command started.
const wrapLinger = 5 * time.Second

func (w *wrapped) start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ingot-tree-") // for its owner, and root
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	at := filepath.Join(dir, "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close()
	line, err := w.wrap(machine.Quote(exe, argTree, at))
	if err != nil {
		return err
	}
	w.cmd = exec.Command("/bin/sh", "-c", line)
	w.cmd.Stderr, w.cmd.WaitDelay = w.stderr, wrapLinger
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := w.cmd.Start(); err != nil {
		return err
	}
	// Whoever comes first: the program, its end, or the caller's.
	stop := context.AfterFunc(w.ctx, func() { l.Close() })
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- w.cmd.Wait(); l.Close() }()
	w.conn, err = l.AcceptUnix()
	if err == nil {
		var fds []int
		for _, f := range w.files {
			fds = append(fds, int(f.Fd()))
		}
		_, _, err = w.conn.WriteMsgUnix([]byte{'f'}, unix.UnixRights(fds...), nil)
	}
	if err != nil {
		if w.conn != nil {
			w.conn.Close()
		}
		_ = w.cmd.Process.Signal(unix.SIGTERM) // sudo passes it on
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		why := <-ended
		return fmt.Errorf("%s: %v: %s", line, why, bytes.TrimSpace(w.stderr.Bytes()))
	}
	w.waiting = ended
	return nil
}

func (w *wrapped) wait() error {
	err := <-w.waiting
	w.conn.Close()
	return err
}

func (w *wrapped) kill() { _ = w.conn.CloseWrite() }

// treeMain is the other end: it starts the first process, as root, and waits for
// it, or for the end of who has asked.
func treeMain(at string) error {
	if os.Geteuid() != 0 {
		return errors.New("a tree's machine is started by root: see command_wrapper")
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return err
	}
	raw, err := c.File()
	c.Close()
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := unix.SetNonblock(int(raw.Fd()), false); err != nil {
		return err
	}
	_, files, err := receive(int(raw.Fd()), make([]byte, 16))
	if err != nil || len(files) != 3 {
		return fmt.Errorf("what the machine needs did not come: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	exe, err := ownExe()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the first process ends with the thread that started it
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", fdExe), Args: []string{argInit}, Env: []string{"PATH=" + defaultPath}, Dir: "/", Stderr: os.Stderr,
		ExtraFiles: []*os.File{files[0], exe, files[1], files[2]},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL, Setsid: true,
		},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the machine's namespaces: %w; %s", err, namespaceAdvice(err))
	}
	for _, f := range files {
		f.Close() // their ends must be seen
	}
	go func() {
		_, _ = raw.Read(make([]byte, 1)) // ends with the other side
		_ = cmd.Process.Kill()
	}()
	_ = cmd.Wait() // it is killed in the end
	return nil
}
