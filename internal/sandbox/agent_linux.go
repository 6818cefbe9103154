package sandbox

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/machine"
	"golang.org/x/sys/unix"
)

type unixStat = syscall.Stat_t

// The agent is asked by messages on the control socket. Each carries one end
// of a stream socket for its own request and answer, and the files that the
// request works on, so that no byte of output passes through the agent.
// They are in gob, because command lines and paths are bytes, not text.
type request struct {
	Op   string // run, put, get, dial, stop
	Line string
	Argv []string
	Dir  string
	User string
	Env  map[string]string
	Path string
	Net  string
	Addr string
}

type answer struct {
	Status int
	Error  string
}

const maxRequest = 16 << 20 // an environment and a command line, generously

// reply sends v, and a file unless it is negative, as one message.
func reply(sock int, v any, fd int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	return unix.Sendmsg(sock, b, oob, nil, 0)
}

// receive takes one message and the files that came with it.
func receive(sock int, buf []byte) (n int, files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return n, files, nil
}

// agent runs inside the machine.
type agent struct {
	mu       sync.Mutex
	children map[int]chan syscall.WaitStatus
	stopping bool        // nothing more is started
	first    bool        // this is process 1
	whole    bool        // programs have all of root's rights
	spawn    chan func() // run by the one thread that programs are started from
}

// serveAgent answers the engine until it goes away. It does not return.
//
// The agent keeps the capabilities it was started with, for it may not start
// itself anew: a base need not have the loader that its program wants. All
// programs are started by one confined thread.
func serveAgent(whole bool) {
	// Nothing in the machine may look into the agent, whose files include the
	// way to the engine.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseOnExec(fdControl)
	// Caught and dropped, not ignored: children would inherit the ignoring.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	a := &agent{children: map[int]chan syscall.WaitStatus{}, first: os.Getpid() == 1, whole: whole, spawn: make(chan func())}
	go a.spawner()
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	go func() {
		for range chld {
			a.reap()
		}
	}()
	buf := make([]byte, 16)
	for {
		n, files, err := receive(fdControl, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			os.Exit(0) // the engine is gone: with process 1 go all the others
		}
		if len(files) > 0 {
			go a.serve(files)
		}
	}
}

func (a *agent) spawner() {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWCGROUP)
	if err == nil && !a.whole {
		err = confine()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "confine the machine's programs:", err)
		os.Exit(1)
	}
	unix.Umask(0o022)
	for f := range a.spawn {
		f()
	}
}

// reap collects every child that has ended: those it started, whose waiters
// are told, and the orphans that process 1 inherits.
func (a *agent) reap() {
	for {
		a.mu.Lock()
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if pid > 0 {
			if c, ok := a.children[pid]; ok {
				delete(a.children, pid)
				c <- ws
			}
		}
		a.mu.Unlock()
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func (a *agent) serve(files []*os.File) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	session, err := net.FileConn(files[0])
	if err != nil {
		return
	}
	defer session.Close()
	files[0].Close()
	dec := gob.NewDecoder(io.LimitReader(session, maxRequest))
	var r request
	if err := dec.Decode(&r); err != nil {
		return
	}
	var ans answer
	switch {
	case r.Op == "run" && len(files) == 4:
		ans = a.run(r, files[1:], session)
	case r.Op == "put" && len(files) == 2:
		ans.Error = errText(machine.TrustedDirSink(r.Path).ReadTar(context.Background(), files[1]))
	case r.Op == "get" && len(files) == 2:
		ans.Error = errText(sendTree(r.Path, files[1]))
	case r.Op == "dial":
		ans.Error = errText(dialAndPass(r, session))
		if ans.Error == "" {
			return
		}
	case r.Op == "stop":
		a.stop()
	default:
		ans.Error = fmt.Sprintf("the machine's agent does not know the request %q", r.Op)
	}
	for _, f := range files[1:] {
		f.Close() // the engine sees the end of the stream before the answer
	}
	_ = gob.NewEncoder(session).Encode(ans)
}

// sendTree streams a directory's entries, or a file as one entry.
func sendTree(src string, w io.Writer) error {
	fi, err := os.Stat(src)
	if err != nil {
		return err
	}
	tree := machine.DirTree(src, "")
	if !fi.IsDir() {
		tree = machine.FileTree(src, filepath.Base(src))
	}
	return tree.WriteTar(context.Background(), w)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (a *agent) run(r request, stdio []*os.File, session net.Conn) answer {
	argv := r.Argv
	if len(argv) == 0 {
		argv = []string{"/bin/sh", "-c", r.Line}
	}
	env := map[string]string{"PATH": defaultPath, "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh", "LANG": "C.UTF-8"}
	for k, v := range r.Env {
		env[k] = v
	}
	cred, err := lookUpUser(r.User)
	if err != nil {
		return answer{Status: 126, Error: err.Error()}
	}
	attr := &os.ProcAttr{Dir: r.Dir, Files: stdio, Sys: &syscall.SysProcAttr{Setsid: true, Credential: cred}}
	for k, v := range env {
		attr.Env = append(attr.Env, k+"="+v)
	}
	if attr.Dir == "" {
		attr.Dir = "/"
		if fi, err := os.Stat("/root"); err == nil && fi.IsDir() && cred == nil {
			attr.Dir = "/root"
		}
	}
	path, err := lookPath(argv[0], env["PATH"])
	if err != nil {
		return answer{Status: 127, Error: err.Error()}
	}
	done := make(chan syscall.WaitStatus, 1)
	var p *os.Process
	started := make(chan struct{})
	a.spawn <- func() {
		a.mu.Lock() // the reaper must not meet a child it does not know
		if a.stopping {
			err = errors.New("the machine is being stopped")
		} else if p, err = os.StartProcess(path, argv, attr); err == nil {
			a.children[p.Pid] = done
		}
		a.mu.Unlock()
		close(started)
	}
	<-started
	if err != nil {
		return answer{Status: 126, Error: fmt.Sprintf("start %s in the machine: %v", argv[0], err)}
	}
	pid := p.Pid
	_ = p.Release()
	// When memory is short, a command goes before the agent does.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("500"), 0)
	for _, f := range stdio {
		f.Close()
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = session.Read(make([]byte, 1)) // ends when the engine gives up, or after the answer
	}()
	select {
	case ws := <-done:
		return answer{Status: status(ws)}
	case <-gone:
		for tree := proc.NewTree(pid); ; {
			tree.Signal(unix.SIGKILL)
			select {
			case ws := <-done:
				tree.Signal(unix.SIGKILL) // what it started between the look and its end
				return answer{Status: status(ws)}
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

func status(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, d := range filepath.SplitList(path) {
		p := filepath.Join(d, name)
		if fi, err := os.Stat(p); err == nil && !fi.IsDir() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no %s in the machine (looked in %s)", name, path)
}

// lookUpUser reads the machine's own accounts. Nil is root.
func lookUpUser(spec string) (*syscall.Credential, error) {
	if spec == "" {
		return nil, nil
	}
	name, group, hasGroup := strings.Cut(spec, ":")
	uid, gid, ok := account("/etc/passwd", name, 3)
	if !ok {
		return nil, fmt.Errorf("the machine has no user %q", name)
	}
	if hasGroup {
		var ok bool
		if gid, _, ok = account("/etc/group", group, 2); !ok {
			return nil, fmt.Errorf("the machine has no group %q", group)
		}
	}
	return &syscall.Credential{Uid: uid, Gid: gid}, nil
}

// account finds a name or number in a file of the form name:x:id:…, and
// returns the id and, when there is one, the number in field next.
func account(file, name string, next int) (id, other uint32, ok bool) {
	for line := range strings.Lines(string(readSmall(file))) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) <= next || (f[0] != name && f[2] != name) {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		m, _ := strconv.ParseUint(f[next], 10, 32)
		return uint32(n), uint32(m), true
	}
	n, err := strconv.ParseUint(name, 10, 32)
	return uint32(n), uint32(n), err == nil
}

// dialAndPass connects from inside the machine and hands the connected socket
// to the engine, which then talks to the machine's service with nothing between.
func dialAndPass(r request, session net.Conn) error {
	c, err := net.DialTimeout(r.Net, r.Addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	fc, ok := c.(interface{ File() (*os.File, error) })
	if !ok {
		return fmt.Errorf("cannot hand out a %s connection", r.Net)
	}
	f, err := fc.File()
	if err != nil {
		return err
	}
	defer f.Close()
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(answer{}); err != nil {
		return err
	}
	_, _, err = session.(*net.UnixConn).WriteMsgUnix(b.Bytes(), unix.UnixRights(int(f.Fd())), nil)
	return err
}

// stop ends every other process: politely, and after a while with SIGKILL. What
// the image's own init starts again then, ends with it.
func (a *agent) stop() {
	a.mu.Lock()
	a.stopping = true
	a.mu.Unlock()
	grace := stopGrace
	if a.first {
		_ = unix.Kill(-1, unix.SIGTERM)
	} else {
		grace = initGrace
		_ = unix.Kill(1, haltSignal())
	}
	deadline := time.Now().Add(grace)
	for wait := time.Millisecond; time.Now().Before(deadline) && !a.alone(); wait = min(2*wait, 50*time.Millisecond) {
		time.Sleep(wait)
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	for a.first && !a.alone() {
		time.Sleep(time.Millisecond)
	}
}

// haltSignal is what makes the image's init stop its services.
func haltSignal() syscall.Signal {
	exe, _ := os.Readlink("/proc/1/exe")
	switch filepath.Base(exe) {
	case "systemd":
		return 37 // SIGRTMIN+3
	case "busybox":
		return unix.SIGUSR2
	}
	return unix.SIGTERM
}

// alone says whether no process is left but this one and process 1.
func (a *agent) alone() bool {
	a.reap()
	return unix.Kill(-1, 0) == unix.ESRCH
}
