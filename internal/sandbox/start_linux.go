package sandbox

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ingotbuild/ingot/machine"
)

// Machine is a running sandbox machine. It implements machine.Machine.
type Machine struct {
	cfg      Config
	control  *os.File
	mu       sync.Mutex // one message at a time on control
	platform machine.Platform
	made     []string
	done     chan struct{}
	err      error
	kill     func()
	cgroup   *cgroup
	cancel   context.CancelFunc // of the network
}

// InUserNamespace says whether this process runs in a user namespace other
// than the system's first, as a normal user's bake does.
func InUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && string(bytes.Join(bytes.Fields(b), []byte(" "))) != "0 0 4294967295"
}

// ownExe is a sealed copy of this program in memory, made once. A machine runs
// the copy: root inside a machine could otherwise reach the program's file
// through /proc, and a long-lived machine outlives an upgrade.
var ownExe = sync.OnceValues(func() (*os.File, error) {
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open this program: %w", err)
	}
	defer src.Close()
	const mfdExec = 0x10
	fd, err := unix.MemfdCreate("ingot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|mfdExec)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("ingot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("copy this program into memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ingot")
	// In the kernel, which is faster; what it will not do is left to io.Copy.
	for n := 1; n > 0 && err == nil; {
		n, err = unix.Sendfile(fd, int(src.Fd()), nil, 1<<30)
	}
	if _, err := io.Copy(f, src); err != nil {
		f.Close()
		return nil, fmt.Errorf("copy this program into memory: %w", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal this program's copy: %w", err)
	}
	return f, nil
})

// Prepare begins in the background what Start would have to wait for. Its
// failure is Start's to report.
func Prepare() { go func() { _, _ = ownExe() }() }

// Start boots a machine and returns when its agent answers. The machine ends
// when Stop is called, when its process 1 ends, or with this process.
func Start(ctx context.Context, cfg Config) (_ *Machine, err error) {
	if cfg.Network == "" {
		cfg.Network = NetworkUser
	}
	if cfg.Tree != nil {
		cfg.Network = NetworkHost
	}
	if cfg.Hostname == "" {
		cfg.Hostname = "ingot"
	}
	b := boot{Config: cfg, UserNS: InUserNamespace()}
	var st station
	if cfg.Network == NetworkUser {
		n, err := sharedNet()
		if err != nil {
			return nil, err
		}
		if st, err = n.join(); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				st.leave()
			}
		}()
		b.IP, b.MAC = st.IP, st.MAC
		b.Resolv = []byte("nameserver " + userGateway + "\n")
	} else if cfg.Network == NetworkHost {
		b.Resolv, _ = os.ReadFile("/etc/resolv.conf")
	}
	exe, err := ownExe()
	if err != nil {
		return nil, err
	}
	cg, err := newCgroup(cfg.Cgroup, cfg.Memory, cfg.CPUs, cfg.PIDs)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the machine's control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	cfgR, cfgW, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer cfgR.Close()
	defer cfgW.Close()
	startedR, startedW, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer startedR.Close()
	defer startedW.Close()

	m := &Machine{cfg: cfg, control: ours, done: make(chan struct{}), cgroup: cg}
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
	if cfg.Network != NetworkHost {
		flags |= unix.CLONE_NEWNET
	}
	var stderr bytes.Buffer
	cmd := &exec.Cmd{
		// By its place among the files the child inherits.
		Path: fmt.Sprintf("/proc/self/fd/%d", fdExe), Args: []string{argInit}, Env: []string{"PATH=" + defaultPath}, Dir: "/",
		Stderr:      &stderr,
		ExtraFiles:  []*os.File{theirs, exe, cfgR, startedW},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL, Setsid: true},
	}
	start, wait, kill := cmd.Start, cmd.Wait, func() { _ = cmd.Process.Kill() }
	if cfg.Tree != nil && cfg.Tree.Wrap != nil {
		w := &wrapped{wrap: cfg.Tree.Wrap, files: []*os.File{theirs, cfgR, startedW}, stderr: &stderr, ctx: ctx}
		start, wait, kill = w.start, w.wait, w.kill
	}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the death signal when the *thread* that forked ends,
		// so that thread waits here for as long as the machine lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := start(); err != nil {
			started <- err
			return
		}
		started <- nil
		m.err = wait()
		close(m.done)
	}()
	if err := <-started; err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the machine's namespaces: %w; %s", err, namespaceAdvice(err))
	}
	m.kill = kill
	fail := func(err error) (*Machine, error) {
		m.kill()
		<-m.done
		ours.Close()
		return nil, err
	}
	if cmd.Process != nil { // wrapped, it is not ours to move
		if err := cg.add(cmd.Process.Pid); err != nil {
			return fail(err)
		}
	}
	stop := context.AfterFunc(ctx, m.kill)
	defer stop()
	if err := json.NewEncoder(cfgW).Encode(b); err != nil {
		return fail(fmt.Errorf("configure the machine: %w", err))
	}
	cfgW.Close()
	theirs.Close()
	startedW.Close()
	buf := make([]byte, 64<<10)
	n, files, err := receive(int(ours.Fd()), buf)
	for _, f := range files[min(1, len(files)):] {
		f.Close()
	}
	if ctx.Err() != nil {
		return fail(fmt.Errorf("start the machine: %w", context.Cause(ctx)))
	}
	if err != nil || n == 0 {
		m.kill()
		<-m.done
		return fail(fmt.Errorf("the machine's first process ended before it was ready: %v %s", m.err, bytes.TrimSpace(stderr.Bytes())))
	}
	var h hello
	if err := json.Unmarshal(buf[:n], &h); err != nil {
		return fail(fmt.Errorf("read the machine's answer: %w", err))
	}
	if h.Error != "" {
		return fail(errors.New(h.Error))
	}
	if cfg.Init != "" {
		// The first answer came from Ingot: the machine is up when its own init runs.
		if why, _ := io.ReadAll(io.LimitReader(startedR, 4<<10)); len(why) > 0 {
			for _, f := range files {
				f.Close()
			}
			return fail(fmt.Errorf("start the image's init %s: %s", cfg.Init, why))
		}
	}
	m.made = h.Made
	m.platform = machine.Platform{OS: "linux", Family: h.Family, Arch: runtime.GOARCH, Shell: "sh"}
	netCtx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	if len(files) > 0 {
		tap := files[0]
		if cfg.Network != NetworkUser {
			tap.Close()
		} else {
			if err := unix.SetNonblock(int(tap.Fd()), true); err != nil {
				cancel()
				return fail(err)
			}
			// A new File, so that the runtime's poller waits on it.
			fd, err := unix.FcntlInt(tap.Fd(), unix.F_DUPFD_CLOEXEC, 3)
			tap.Close()
			if err != nil {
				cancel()
				return fail(err)
			}
			dev := os.NewFile(uintptr(fd), "tap")
			go func() { <-m.done; dev.Close() }()
			go st.serve(netCtx, dev)
		}
	}
	return m, nil
}

func namespaceAdvice(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "this process may not make namespaces: run as root, outside an unprivileged container; on Ubuntu 24.04 see `sysctl kernel.apparmor_restrict_unprivileged_userns`"
	case errors.Is(err, unix.ENOSPC):
		return "the limit of namespaces is reached: see `sysctl user.max_user_namespaces` and its neighbours"
	}
	return "`ingot doctor` says what this machine can do"
}

// Done closes when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err says how the machine's first process ended, once Done is closed.
func (m *Machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Platform says what runs on the machine.
func (m *Machine) Platform() machine.Platform { return m.platform }

// Close gives up nothing: the machine lives until Stop.
func (m *Machine) Close() error { return nil }

// MountPoints are the directories that had to be made in the machine's own
// layer to mount on: they are no part of an image.
func (m *Machine) MountPoints() []string { return m.made }

// Stop ends every process of the machine, politely at first, and the machine.
func (m *Machine) Stop(ctx context.Context) error {
	select {
	case <-m.done:
		return nil
	default:
	}
	wait := 2 * stopGrace
	if m.cfg.Init != "" {
		wait += initGrace
	}
	grace, cancel := context.WithTimeout(ctx, wait)
	_, _ = m.ask(grace, request{Op: "stop"}) // a machine that cannot be asked is killed all the same
	cancel()
	m.kill()
	<-m.done
	m.cancel()
	return m.control.Close()
}

// session sends a request with its files and returns the stream on which the answer comes.
func (m *Machine) session(r request, files ...*os.File) (*net.UnixConn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "session")
	defer theirs.Close()
	f := os.NewFile(uintptr(pair[0]), "session")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	fds := []int{int(theirs.Fd())}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	m.mu.Lock()
	err = unix.Sendmsg(int(m.control.Fd()), []byte{'r'}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	m.mu.Unlock()
	if err == nil {
		err = gob.NewEncoder(c).Encode(r)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("the machine does not answer: %w", err)
	}
	return c.(*net.UnixConn), nil
}

func (m *Machine) await(ctx context.Context, c *net.UnixConn) (answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.CloseWrite() }) // the agent stops what it does
	defer stop()
	answered := make(chan struct{})
	defer close(answered)
	gone := context.AfterFunc(ctx, func() {
		// An agent that is itself stuck must not hold up a cancelled bake.
		select {
		case <-time.After(10 * time.Second):
			_ = c.Close()
		case <-answered:
		case <-m.done:
		}
	})
	defer gone()
	var a answer
	err := gob.NewDecoder(io.LimitReader(c, 1<<20)).Decode(&a)
	if ctx.Err() != nil {
		return a, context.Cause(ctx)
	}
	if err != nil {
		return a, fmt.Errorf("the machine went away: %w", err)
	}
	return a, nil
}

func (m *Machine) ask(ctx context.Context, r request, files ...*os.File) (answer, error) {
	c, err := m.session(r, files...)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	return m.await(ctx, c)
}

// Run implements machine.Machine.
func (m *Machine) Run(ctx context.Context, c machine.Command) error {
	return m.exec(ctx, request{Op: "run", Line: c.Line, Env: c.Env}, c)
}

// Exec runs a program without a shell, in a directory and as a user (a name or
// number, with ":group" behind it or not) of the machine; otherwise it is like Run.
func (m *Machine) Exec(ctx context.Context, p Program, c machine.Command) error {
	return m.exec(ctx, request{Op: "run", Argv: p.Argv, Dir: p.Dir, User: p.User, Env: c.Env}, c)
}

func (m *Machine) exec(ctx context.Context, r request, c machine.Command) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	var theirs []*os.File
	var in *os.File
	closeAll := func() {
		for _, f := range theirs {
			f.Close()
		}
	}
	if c.Stdin == nil {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		theirs = append(theirs, f)
	} else {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		theirs, in = append(theirs, r), w
	}
	var outs []*drain
	for i, w := range []io.Writer{c.Stdout, c.Stderr} {
		if i == 1 && w != nil && sameWriter(c.Stdout, c.Stderr) {
			// One pipe keeps the two in order, and one goroutine writes to the caller's writer.
			theirs = append(theirs, theirs[1])
			break
		}
		r, pw, err := os.Pipe()
		if err != nil {
			closeAll()
			return err
		}
		theirs = append(theirs, pw)
		if w == nil {
			w = io.Discard
		}
		d := &drain{r: r, w: w, done: make(chan struct{})}
		outs = append(outs, d)
	}
	s, err := m.session(r, theirs...)
	closeAll()
	if err != nil {
		for _, d := range outs {
			d.r.Close()
		}
		if in != nil {
			in.Close()
		}
		return err
	}
	defer s.Close()
	for _, d := range outs {
		go d.run()
	}
	if in != nil {
		go func() {
			_, _ = io.Copy(in, c.Stdin) // the command need not read it all
			in.Close()
		}()
		defer in.SetWriteDeadline(time.Now())
	}
	a, err := m.await(ctx, s)
	var werr error
	for _, d := range outs {
		d.finish()
		if werr == nil {
			werr = d.err
		}
	}
	switch {
	case err != nil:
		return err
	case werr != nil:
		return fmt.Errorf("take the command's output: %w", werr)
	case a.Error != "":
		return errors.New(a.Error)
	case a.Status != 0:
		return &machine.ExitError{Status: a.Status}
	}
	return nil
}

// sameWriter compares two writers, which may be of a type that cannot be compared.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }()
	return a == b
}

// drain copies a command's output until its end, or, when something that the
// command left running still holds the stream open, until it is empty.
type drain struct {
	r    *os.File
	w    io.Writer
	err  error // of w
	done chan struct{}
}

func (d *drain) run() {
	defer close(d.done)
	buf := make([]byte, 64<<10)
	var deadline, limit time.Time
	for {
		n, err := d.r.Read(buf)
		if n > 0 {
			if _, werr := d.w.Write(buf[:n]); werr != nil && d.err == nil {
				d.err, d.w = werr, io.Discard // the command must not block on it
			}
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			d.r.Close()
			return
		}
		if err == nil && deadline.IsZero() {
			continue
		}
		// The command has ended, so that all it wrote is in the pipe: a read
		// that has to wait found it empty.
		now := time.Now()
		if limit.IsZero() {
			limit = now.Add(5 * time.Second)
		}
		if (err != nil && !deadline.IsZero()) || now.After(limit) {
			// A daemon goes on writing to what nobody reads; keep it from blocking.
			go func() {
				_ = d.r.SetReadDeadline(time.Time{})
				_, _ = io.Copy(io.Discard, d.r)
				d.r.Close()
			}()
			return
		}
		deadline = now.Add(20 * time.Millisecond)
		_ = d.r.SetReadDeadline(deadline)
	}
}

// finish wakes the reader up once the command has ended, and waits for it.
func (d *drain) finish() {
	_ = d.r.SetReadDeadline(time.Now())
	<-d.done
}

// Put implements machine.Machine.
func (m *Machine) Put(ctx context.Context, dst string, tree machine.Tree) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		err := tree.WriteTar(wctx, w)
		w.Close()
		sent <- err
	}()
	a, err := m.ask(ctx, request{Op: "put", Path: dst}, r)
	cancel()
	_ = w.SetWriteDeadline(time.Now()) // the agent may have given up early
	werr := <-sent
	// A tree that failed is why the agent saw the stream end; an agent that
	// failed is why the tree could not go on.
	ours := werr != nil && !errors.Is(werr, unix.EPIPE) && !errors.Is(werr, context.Canceled) && !errors.Is(werr, os.ErrDeadlineExceeded)
	switch {
	case err != nil:
		return err
	case ours:
		return fmt.Errorf("send files for %s: %w", dst, werr)
	case a.Error != "":
		return fmt.Errorf("write to %s in the machine: %s", dst, a.Error)
	case werr != nil:
		return fmt.Errorf("send files for %s: %w", dst, werr)
	}
	return nil
}

// Get implements machine.Machine.
func (m *Machine) Get(ctx context.Context, src string, into machine.Sink) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	type result struct {
		a   answer
		err error
	}
	got := make(chan result, 1)
	go func() {
		a, err := m.ask(ctx, request{Op: "get", Path: src}, w)
		got <- result{a, err}
	}()
	serr := into.ReadTar(ctx, r)
	r.Close()
	res := <-got
	switch {
	case res.err != nil:
		return res.err
	// A sink that gave up is why the agent could not go on; an agent that
	// failed is why the sink saw the stream end.
	case serr != nil && !errors.Is(serr, io.ErrUnexpectedEOF):
		return fmt.Errorf("take %s from the machine: %w", src, serr)
	case res.a.Error != "":
		return fmt.Errorf("read %s from the machine: %s", src, res.a.Error)
	case serr != nil:
		return fmt.Errorf("take %s from the machine: %w", src, serr)
	}
	return nil
}

// Dial connects to an address as seen from inside the machine; "tcp" and
// "127.0.0.1:80" reach the machine's own port 80.
func (m *Machine) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	cannot := func(err error) error {
		return fmt.Errorf("connect to %s in the machine: %w: %w", addr, machine.ErrCannotDial, err)
	}
	c, err := m.session(request{Op: "dial", Net: network, Addr: addr})
	if err != nil {
		return nil, cannot(err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("connect to %s in the machine: %w", addr, context.Cause(ctx))
		}
		return nil, cannot(err)
	}
	// A refusal may come in several parts.
	var a answer
	if err := gob.NewDecoder(io.MultiReader(bytes.NewReader(buf[:n]), io.LimitReader(c, 1<<20))).Decode(&a); err != nil {
		return nil, cannot(err)
	}
	if a.Error != "" {
		return nil, fmt.Errorf("connect to %s in the machine: %s", addr, a.Error)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, cannot(errors.New("no socket came back"))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, cannot(errors.New("no socket came back"))
	}
	unix.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "dialed")
	defer f.Close()
	return net.FileConn(f)
}

// Address implements machine.Addressed. Only on the host's own network does the
// host reach the machine.
func (m *Machine) Address() string {
	if m.cfg.Network == NetworkHost {
		return "127.0.0.1"
	}
	return ""
}

// Remove takes away a machine's directory, whose machine has ended. It is idempotent.
func Remove(dir string) error {
	// Directories of the machine may be closed even to root in a user
	// namespace; overlayfs makes its work directory 0000.
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the machine's directory: %w", err)
	}
	return nil
}

// Restore takes out of a stopped machine's upper directory what belonged to
// the running machine: mount points and the files of its identity. An image
// that has a machine id, or starts systemd, gets an empty one, which each
// machine made from it fills for itself.
func Restore(dir string, layers, mountPoints []string) error {
	// The machine may have put a link to the host's /etc in place of its own.
	upper, err := os.OpenRoot(filepath.Join(dir, "upper"))
	if err != nil {
		return fmt.Errorf("open the machine's layer: %w", err)
	}
	defer upper.Close()
	remove := identityFiles
	const dbusID = "var/lib/dbus/machine-id" // D-Bus's own copy, or a link
	if fi, err := upper.Lstat(dbusID); err == nil && fi.Mode().IsRegular() {
		remove = append(slices.Clone(remove), dbusID)
	}
	for _, f := range remove {
		if err := upper.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("restore the image's /%s: %w", f, err)
		}
	}
	for _, p := range mountPoints {
		_ = upper.Remove(p) // stays where something else was put
	}
	if len(layers) > 0 && layers[len(layers)-1] == HostBase {
		return nil
	}
	for _, l := range append([]string{upper.Name()}, layers...) {
		fi, err := os.Lstat(filepath.Join(l, "etc/machine-id"))
		filled := err == nil && fi.Mode().IsRegular() && fi.Size() > 0
		_, err = os.Lstat(filepath.Join(l, "usr/lib/systemd/systemd"))
		if !filled && err != nil {
			continue
		}
		if err := upper.MkdirAll("etc", 0o755); err != nil {
			return fmt.Errorf("empty the image's machine id: %w", err)
		}
		if err := upper.WriteFile("etc/machine-id", nil, 0o444); err != nil {
			return fmt.Errorf("empty the image's machine id: %w", err)
		}
		return nil
	}
	return nil
}
