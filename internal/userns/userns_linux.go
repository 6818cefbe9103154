package userns

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	arg = "ingot-user-namespace" // the second start, which waits for its id maps
	env = "INGOT_USER_NAMESPACE" // set in the third, which is the program proper
)

// Needed says whether this process must Enter before it can run a sandbox.
func Needed() bool { return os.Geteuid() != 0 && os.Getenv(env) == "" }

// Reexec takes over when this process was started by Enter. Call it first thing in main.
func Reexec() {
	if os.Args[0] != arg {
		return
	}
	runtime.LockOSThread()
	// The parent writes one byte when the maps are in place.
	ready := os.NewFile(3, "ready")
	if n, err := ready.Read(make([]byte, 1)); n != 1 || err != nil {
		os.Exit(1)
	}
	ready.Close()
	_ = os.Setenv(env, "1")
	err := unix.Exec("/proc/self/exe", append([]string{"ingot"}, os.Args[1:]...), os.Environ())
	fmt.Fprintln(os.Stderr, "start Ingot in its user namespace:", err)
	os.Exit(1)
}

// Enter runs this program again with the same arguments in a user namespace in
// which the user is root, and returns its exit status.
func Enter() (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{arg}, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL}
	uids, gids, whole := ranges()
	if !whole {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	// The terminal's Ctrl-C reaches the child by itself; a signal to this
	// process alone is handed on.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	runtime.LockOSThread() // the death signal follows this thread
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make a user namespace: %w; run as root, or allow it: `sysctl user.max_user_namespaces`, on Ubuntu 24.04 `sysctl kernel.apparmor_restrict_unprivileged_userns=0`", err)
	}
	r.Close()
	if whole {
		for _, m := range []struct {
			tool string
			args []string
		}{{"newuidmap", uids}, {"newgidmap", gids}} {
			if out, err := exec.Command(m.tool, append([]string{strconv.Itoa(cmd.Process.Pid)}, m.args...)...).CombinedOutput(); err != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				return 0, fmt.Errorf("map this user's subordinate ids (%s): %w: %s; see /etc/subuid and /etc/subgid", m.tool, err, strings.TrimSpace(string(out)))
			}
		}
	} else {
		fmt.Fprintln(os.Stderr, "Only one user id can be used in the sandbox: packages that make users will fail. Install newuidmap (Debian: uidmap) and give this user a range in /etc/subuid and /etc/subgid.")
	}
	_, _ = w.Write([]byte{1})
	w.Close()
	go func() {
		for s := range signals {
			if s != unix.SIGINT {
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// ranges are the arguments of newuidmap and newgidmap: this user as root, and
// the user's subordinate ids as the others.
func ranges() (uids, gids []string, ok bool) {
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, nil, false
		}
	}
	u, err := user.Current()
	if err != nil {
		return nil, nil, false
	}
	ustart, usize, ok1 := subordinate("/etc/subuid", u)
	gstart, gsize, ok2 := subordinate("/etc/subgid", u)
	return []string{"0", strconv.Itoa(os.Getuid()), "1", "1", ustart, usize},
		[]string{"0", strconv.Itoa(os.Getgid()), "1", "1", gstart, gsize}, ok1 && ok2
}

func subordinate(file string, u *user.User) (start, size string, ok bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", "", false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		p := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(p) == 3 && (p[0] == u.Username || p[0] == u.Uid) {
			return p[1], p[2], true
		}
	}
	return "", "", false
}
