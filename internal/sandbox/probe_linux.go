package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Probe tries what a machine needs, for real, below a directory that it
// removes again.
func Probe(ctx context.Context) []Finding {
	var fs []Finding
	try := func(what string, need bool, flags uintptr, good, advice string) bool {
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Args = []string{argProbe, what}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		if flags&unix.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.Output()
		if err == nil {
			fs = append(fs, Finding{What: what, OK: true, Need: need, Text: good})
			return true
		}
		fs = append(fs, Finding{What: what, Need: need, Text: fmt.Sprintf("%v%s: %s", err, out, advice)})
		return false
	}
	base := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET)
	user := uintptr(0)
	if os.Geteuid() != 0 {
		user = unix.CLONE_NEWUSER
		if !try("user namespaces", true, user, "a normal user can bake", "a normal user cannot make namespaces here; run as root, or allow it (`sysctl user.max_user_namespaces`, on Ubuntu 24.04 `kernel.apparmor_restrict_unprivileged_userns`)") {
			return fs
		}
	}
	if !try("namespaces", true, base|user, "mount, PID, UTS, IPC and network namespaces can be made", "run as root, outside an unprivileged container") {
		return fs
	}
	try("overlayfs", true, base|user, "the machine's root can be an overlay", "needs a kernel with overlayfs, and INGOT_HOME on a file system that can carry it (ext4, xfs, btrfs, tmpfs)")
	try("tun device", false, base|user, "network = \"user\" works", "load the tun module (`modprobe tun`), or set network = \"host\" or \"none\"")
	if dirs, err := PlanCgroup("doctor"); err == nil && len(dirs) > 0 {
		fs = append(fs, Finding{What: "cgroups", OK: true, Text: "memory, cpus and pids can be limited"})
	} else {
		fs = append(fs, Finding{What: "cgroups", Text: "limits on memory, CPU and processes need root or a delegated cgroup (`systemd-run --user --scope -p Delegate=yes`)"})
	}
	return fs
}

// probeMain is what a probe does inside its namespaces.
func probeMain() {
	err := func() error {
		if len(os.Args) < 2 || os.Args[1] == "namespaces" || os.Args[1] == "user namespaces" {
			return nil
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		switch os.Args[1] {
		case "overlayfs":
			dir, err := os.MkdirTemp("", "ingot-probe")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				return err
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			lower := filepath.Join(dir, "lower")
			if err := os.Mkdir(lower, 0o755); err != nil {
				return err
			}
			_, err = mountRoot(Config{Dir: dir, Layers: []string{lower}}, InUserNamespace(), false)
			_ = os.Chdir("/")
			return err
		case "tun device":
			f, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
			if err == nil {
				unix.Close(f)
			}
			return err
		}
		return nil
	}()
	if err != nil {
		fmt.Printf(" (%v)", err)
		os.Exit(1)
	}
	os.Exit(0)
}
