package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The program starts itself again under these names.
const (
	argInit  = "ingot-machine"       // sets up the machine from inside its namespaces, and serves it as process 1
	argAgent = "ingot-machine-agent" // serves it beside the image's own init
	argView  = "ingot-view"          // packs a merged tree in a mount namespace of its own
	argTree  = "ingot-tree"          // starts a machine for a caller who is not root; its first argument, for sudo sets the name
	argProbe = "ingot-probe"         // tries what a machine needs
)

// Files that the first process inherits.
const (
	fdControl = 3
	fdExe     = 4
	fdRunning = 5 // the agent closes it when its program runs
	fdStarted = 6 // process 1 closes it when the image's own init has taken over, or says why not
)

// Reexec takes over when this process was started by this package to be part
// of a machine, and never returns then. Call it first thing in main.
//
// tasks is what RunInView can run in this program.
func Reexec(tasks Tasks) {
	switch os.Args[0] {
	case argInit:
		runtime.LockOSThread() // what is unshared and given up belongs to the thread
		err := machineInit()
		// Only a failure comes back; the parent shows it.
		_ = reply(fdControl, hello{Error: err.Error()}, -1)
		os.Exit(1)
	case argAgent:
		unix.Close(fdExe)
		unix.Close(fdRunning)
		serveAgent(false)
	case argView:
		viewMain(tasks)
	case argProbe:
		probeMain()
	}
	if len(os.Args) == 3 && os.Args[1] == argTree {
		err := treeMain(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// boot is what the parent tells the first process.
type boot struct {
	Config
	IP     netip.Addr       `json:"ip,omitzero"`
	MAC    net.HardwareAddr `json:"mac,omitempty"`
	Resolv []byte           `json:"resolv,omitempty"`
	UserNS bool             `json:"user_ns,omitempty"`
}

// hello is what the first process answers when the machine is ready, or failed.
type hello struct {
	Error  string   `json:"error,omitempty"`
	Made   []string `json:"made,omitempty"` // mount points made in the upper directory
	Family string   `json:"family,omitempty"`
}

func machineInit() error {
	unix.CloseOnExec(fdStarted)
	var b boot
	f := os.NewFile(5, "config")
	if err := json.NewDecoder(f).Decode(&b); err != nil {
		return fmt.Errorf("read the machine's configuration: %w", err)
	}
	f.Close()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep the machine's mounts to itself: %w", err)
	}
	// Only now that this process has been put into the machine's cgroup: the
	// namespace takes the current one for its root.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("give the machine a cgroup namespace: %w", err)
	}
	if b.Tree != nil {
		return b.Tree.serve()
	}
	root, err := mountRoot(b.Config, b.UserNS, false)
	if err != nil {
		return err
	}
	made, err := mountSystem(root, &b)
	if err != nil {
		return err
	}
	var tap *os.File
	if b.Network != NetworkHost {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	if b.Network == NetworkUser {
		if tap, err = openTap(b.IP, b.MAC); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
		return fmt.Errorf("set the machine's hostname: %w", err)
	}
	var helper *os.Process
	if b.Init != "" {
		// Started while the host's root is still there: the agent's program may
		// need the host's loader. The pivot below takes it along.
		if helper, err = startAgent(); err != nil {
			return err
		}
	}
	if err := pivot(root); err != nil {
		return err
	}
	if b.Init != "" {
		if _, err := os.Stat(b.Init); err != nil {
			return fmt.Errorf("the image has no init at %s: %w; leave init out to use Ingot's own", b.Init, err)
		}
	}
	passed := -1
	if tap != nil {
		passed = int(tap.Fd())
	}
	if err := reply(fdControl, hello{Made: made, Family: osFamily()}, passed); err != nil {
		return err
	}
	if tap != nil {
		tap.Close()
	}
	if b.Init == "" {
		unix.Close(fdExe)
		serveAgent(false)
		return nil
	}
	_ = helper.Release()
	unix.CloseOnExec(fdControl)
	unix.CloseOnExec(fdExe)
	err = confine()
	if err == nil {
		err = unix.Exec(b.Init, []string{b.Init}, []string{"PATH=" + defaultPath, "container=ingot"})
	}
	// The engine has had its answer, and waits for this one.
	_, _ = unix.Write(fdStarted, []byte(err.Error()))
	return err
}

// readSmall reads the first megabyte of a file of the machine, which is what a
// hostile image makes of it; nil when it is no regular file.
func readSmall(path string) []byte {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	return b
}

// startAgent starts the agent as a process of its own.
func startAgent() (_ *os.Process, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start the machine's agent: %w", err)
		}
	}()
	files := []*os.File{nil, nil, os.Stderr}
	for _, fd := range []uintptr{fdControl, fdExe} {
		fd, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 10)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), "agent") // a copy: this File closes what it holds
		defer f.Close()
		files = append(files, f)
	}
	running, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer running.Close()
	p, err := os.StartProcess("/proc/self/fd/"+strconv.Itoa(fdExe), []string{argAgent}, &os.ProcAttr{
		Env: []string{"PATH=" + defaultPath}, Files: append(files, w),
	})
	w.Close()
	if err != nil {
		return nil, err
	}
	// Until the loader has done its work: the libraries go with the host's root.
	_, _ = running.Read(make([]byte, 1)) // ends when the agent has closed w, or has ended
	return p, nil
}

// confine takes from the calling thread, and from all that it starts, what a
// machine's programs must not have. The thread must be locked.
func confine() error {
	// A session keyring of its own: keys are not kept apart by any namespace.
	_, _ = unix.KeyctlJoinSessionKeyring("ingot-machine")
	return dropCapabilities()
}

func osFamily() string {
	b := readSmall("/etc/os-release")
	if b == nil {
		b = readSmall("/usr/lib/os-release")
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok {
			v = strings.Trim(v, `"'`)
			if len(v) < 64 {
				return v
			}
		}
	}
	return ""
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// mountRoot puts the machine's root together at Dir/root, in this mount namespace.
func mountRoot(c Config, userNS, readOnly bool) (string, error) {
	scratch, root := filepath.Join(c.Dir, "scratch"), filepath.Join(c.Dir, "root")
	for _, d := range []string{scratch, root} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", fmt.Errorf("make the machine's directories: %w", err)
		}
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=0700,size=16m"); err != nil {
		return "", fmt.Errorf("mount a scratch file system at %s: %w", scratch, err)
	}
	layers := slices.Clone(c.Layers)
	if n := len(layers); n > 0 && layers[n-1] == HostBase {
		veil, err := makeVeil(filepath.Join(scratch, "veil"), c.Hide)
		if err != nil {
			return "", err
		}
		layers = append(layers[:n-1], append(veil, "/")...)
		if n > 1 {
			// Layers kept below / cannot stand beside it in one overlay: the host
			// gets an overlay of its own, and that becomes the lowest layer.
			host := filepath.Join(scratch, "host")
			if err := os.Mkdir(host, 0o755); err != nil {
				return "", err
			}
			if err := mountOverlay(scratch, "h", host, unix.MS_NODEV|unix.MS_RDONLY, layers[n-1:], nil, userNS); err != nil {
				return "", err
			}
			layers = append(layers[:n-1], host)
		}
	}
	if c.Image != nil {
		dir := filepath.Join(scratch, "image")
		if err := mountImage(*c.Image, dir); err != nil {
			return "", err
		}
		layers = append(layers, dir)
	}
	if len(layers) == 0 {
		return "", errors.New("a machine needs at least one layer below it")
	}
	if readOnly {
		if len(layers) == 1 { // overlayfs wants two layers when there is no upper one
			empty := filepath.Join(scratch, "empty")
			if err := os.Mkdir(empty, 0o755); err != nil {
				return "", err
			}
			layers = append(layers, empty)
		}
		return root, mountOverlay(scratch, "l", root, unix.MS_NODEV|unix.MS_RDONLY, layers, nil, userNS)
	}
	own := map[string]string{}
	for _, d := range []string{"upper", "work"} {
		own[d] = filepath.Join(c.Dir, d)
		if err := os.MkdirAll(own[d], 0o755); err != nil {
			return "", fmt.Errorf("make the machine's directories: %w", err)
		}
	}
	return root, mountOverlay(scratch, "l", root, unix.MS_NODEV, layers, own, userNS)
}

// mountOverlay mounts layers, topmost first, below the directories own["upper"]
// and own["work"] if there are any. links names a directory to make in scratch.
func mountOverlay(scratch, links, at string, flags uintptr, layers []string, own map[string]string, userNS bool) error {
	// Short names: the options of one mount must fit a page, and paths may
	// hold what overlayfs takes for a separator.
	dir := filepath.Join(scratch, links)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var names []string
	for i, l := range layers {
		names = append(names, strconv.Itoa(i))
		if err := os.Symlink(l, filepath.Join(dir, names[i])); err != nil {
			return err
		}
	}
	opts := []string{"redirect_dir=nofollow", "metacopy=off", "index=off", "lowerdir=" + strings.Join(names, ":")}
	if userNS {
		opts = append(opts, "userxattr")
	}
	for d, p := range own {
		if err := os.Symlink(p, filepath.Join(dir, d)); err != nil {
			return err
		}
		opts = append(opts, d+"dir="+d)
	}
	if own != nil {
		// The upper layer is worth nothing until it is an image, so no fsync in
		// the machine needs to reach the disk.
		opts = append(opts, "volatile")
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	defer os.Chdir("/")
	err := unix.Mount("overlay", at, "overlay", flags, strings.Join(opts, ","))
	if errors.Is(err, unix.EINVAL) { // kernels before 5.10 know no volatile, and user namespaces not all of the others
		rest := slices.DeleteFunc(opts, func(o string) bool { return o == "volatile" || o == "metacopy=off" })
		err = unix.Mount("overlay", at, "overlay", flags, strings.Join(rest, ","))
	}
	if err != nil {
		return fmt.Errorf("mount an overlay of %s: %w; %s", strings.Join(layers, ", "), err, overlayAdvice(err))
	}
	return nil
}

func overlayAdvice(err error) string {
	switch {
	case errors.Is(err, unix.ENODEV):
		return "this kernel has no overlayfs: load the overlay module"
	case errors.Is(err, unix.EPERM):
		return "this user may not mount overlayfs here: run as root, or on Linux 5.11 or newer"
	case errors.Is(err, unix.EINVAL):
		return "the directory's file system cannot carry an overlay (is it overlayfs itself, as in a container?): set INGOT_HOME to a directory on ext4, xfs, btrfs or tmpfs"
	}
	return "the kernel's log (dmesg) may say more"
}

// emptied are directories of the host that a machine sees, but empty; hidden
// are paths it does not see at all: other people's data and what opens doors.
var (
	emptied = map[string]fs.FileMode{
		"/root": 0o700, "/home": 0o755, "/tmp": 0o777 | fs.ModeSticky, "/var/tmp": 0o777 | fs.ModeSticky, "/run": 0o755,
		"/mnt": 0o755, "/media": 0o755, "/srv": 0o755, "/var/log": 0o755, "/var/spool": 0o755, "/var/mail": 0o755, "/var/backups": 0o755,
		"/etc/ssl/private": 0o700,
	}
	hidden = []string{
		"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/machine-id", "/etc/krb5.keytab",
		"/etc/NetworkManager/system-connections", "/etc/wpa_supplicant", "/etc/wireguard", "/etc/openvpn", "/etc/letsencrypt",
		"/etc/kubernetes", "/etc/rancher", "/etc/docker/key.json", "/etc/ppp", "/etc/ipsec.secrets", "/etc/libvirt",
		"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/kubelet", "/var/lib/rancher", "/var/lib/libvirt",
		"/var/lib/postgresql", "/var/lib/mysql", "/var/lib/private", "/var/lib/systemd/random-seed", "/var/lib/NetworkManager",
		"/var/lib/cloud", "/var/cache/apt/archives", "/lost+found", "/.dockerenv", "/swapfile",
	}
)

// makeVeil makes the two layers between a machine and the host's root: one
// with what replaces host paths, above one that whites them out. It stands on
// a file system of its own because overlayfs refuses layers inside each other.
func makeVeil(dir string, more []string) ([]string, error) {
	put, out := filepath.Join(dir, "put"), filepath.Join(dir, "out")
	for _, d := range []string{put, out} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	hide := func(p string) error {
		p = filepath.Clean(p)
		if _, err := os.Lstat(p); err != nil {
			return nil // not there, or not ours to see
		}
		if err := parents(out, p); err != nil {
			return err
		}
		err := unix.Mknod(filepath.Join(out, p), unix.S_IFCHR, 0)
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) {
			return nil // a parent is hidden already
		}
		return err
	}
	keys, _ := filepath.Glob("/etc/ssh/ssh_host_*_key")
	for _, p := range slices.Concat(hidden, keys, more) {
		if err := hide(p); err != nil {
			return nil, fmt.Errorf("hide the host's %s from the machine: %w", p, err)
		}
	}
	for p, mode := range emptied {
		if fi, err := os.Lstat(p); err != nil || !fi.IsDir() {
			continue // absent, or a link to one of the others
		}
		if err := hide(p); err != nil {
			return nil, fmt.Errorf("empty the host's %s for the machine: %w", p, err)
		}
		if err := parents(put, p); err != nil {
			return nil, err
		}
		d := filepath.Join(put, p)
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := os.Chmod(d, mode); err != nil {
			return nil, err
		}
	}
	return []string{put, out}, shadow(put)
}

// shadow gives the machine its accounts without anybody's password.
func shadow(put string) error {
	in, err := os.ReadFile("/etc/shadow")
	if err != nil {
		return nil
	}
	var b strings.Builder
	for line := range strings.Lines(string(in)) {
		f := strings.Split(line, ":")
		if len(f) > 2 {
			if f[1] != "" && f[1][0] != '!' {
				f[1] = "*"
			} else if f[1] != "" {
				f[1] = "!"
			}
			b.WriteString(strings.Join(f, ":"))
		}
	}
	if err := parents(put, "/etc/shadow"); err != nil {
		return err
	}
	p := filepath.Join(put, "etc/shadow")
	if err := os.WriteFile(p, []byte(b.String()), 0o640); err != nil {
		return err
	}
	if fi, err := os.Stat("/etc/shadow"); err == nil {
		if st, ok := fi.Sys().(*unixStat); ok {
			_ = os.Chown(p, int(st.Uid), int(st.Gid))
		}
	}
	return nil
}

// parents makes the directories above p below layer, like the host's own.
func parents(layer, p string) error {
	rel := ""
	for _, part := range strings.Split(strings.Trim(filepath.Dir(p), "/"), "/") {
		if part == "" || part == "." {
			continue
		}
		rel += "/" + part
		fi, err := os.Lstat(rel)
		if err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(layer, rel), 0o700); err != nil {
			if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTDIR) {
				continue
			}
			return err
		}
		if st, ok := fi.Sys().(*unixStat); ok {
			_ = os.Chown(filepath.Join(layer, rel), int(st.Uid), int(st.Gid))
		}
		if err := os.Chmod(filepath.Join(layer, rel), fi.Mode()); err != nil {
			return err
		}
	}
	return nil
}

// devices that programs expect; everything else stays with the host.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// mountSystem mounts what a running system has besides its root, and returns
// the mount points it had to make in the machine's own layer.
func mountSystem(root string, b *boot) (made []string, err error) {
	in := func(p string) string { return filepath.Join(root, p) }
	mkdir := func(p string, mode fs.FileMode) error {
		fi, err := os.Lstat(in(p))
		if err == nil && fi.IsDir() {
			return nil
		}
		if err == nil {
			return fmt.Errorf("the image's /%s is no directory (%s): a machine needs one there", p, fi.Mode().Type())
		}
		if err := os.Mkdir(in(p), mode); err != nil {
			return fmt.Errorf("make /%s in the machine: %w", p, err)
		}
		made = append(made, p)
		return nil
	}
	mount := func(src, p, typ string, flags uintptr, data string) {
		if err == nil {
			if e := unix.Mount(src, in(p), typ, flags, data); e != nil {
				err = fmt.Errorf("mount %s at /%s in the machine: %w", typ, p, e)
			}
		}
	}
	for p, mode := range map[string]fs.FileMode{"proc": 0o555, "sys": 0o555, "dev": 0o755, "run": 0o755, "tmp": 0o777, "etc": 0o755} {
		if err := mkdir(p, mode); err != nil {
			return nil, err
		}
	}
	const ns = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	mount("proc", "proc", "proc", ns, "")
	mount("tmpfs", "dev", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m")
	size := b.TmpSize
	if size == 0 {
		size = DefaultTmpSize
	}
	mount("tmpfs", "tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", size))
	mount("tmpfs", "run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64m")
	if err != nil {
		return nil, err
	}
	for _, p := range []string{"dev/pts", "dev/shm", "dev/mqueue", "run/lock"} {
		if err := os.Mkdir(in(p), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(in("run/lock"), 0o777|fs.ModeSticky); err != nil {
		return nil, err
	}
	pts := "newinstance,ptmxmode=0666,mode=0620"
	if !b.UserNS {
		pts += ",gid=5" // the tty group; a one-to-one user namespace has none
	}
	mount("devpts", "dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, pts)
	mount("shm", "dev/shm", "tmpfs", ns, "mode=1777,size=64m")
	mount("mqueue", "dev/mqueue", "mqueue", ns, "")
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		p := in("dev/" + d)
		if err := os.WriteFile(p, nil, 0o666); err != nil {
			return nil, err
		}
		if err := unix.Mount("/dev/"+d, p, "", unix.MS_BIND, ""); err != nil {
			return nil, fmt.Errorf("give the machine /dev/%s: %w", d, err)
		}
	}
	if err := bindDevices(root, b.Devices); err != nil {
		return nil, err
	}
	for name, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "core": "/proc/kcore"} {
		if err := os.Symlink(to, in("dev/"+name)); err != nil {
			return nil, err
		}
	}
	if b.Network == NetworkHost {
		// sysfs shows the network namespace it is mounted from, and that one is not ours.
		mount("/sys", "sys", "", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			_ = unix.Mount("", in("sys"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|ns, "")
			for _, sub := range []string{"sys/fs/cgroup", "sys/kernel/debug", "sys/kernel/tracing", "sys/kernel/security", "sys/fs/bpf"} {
				_ = unix.Mount("tmpfs", in(sub), "tmpfs", ns|unix.MS_RDONLY, "size=0")
			}
		}
	} else {
		mount("sysfs", "sys", "sysfs", ns|unix.MS_RDONLY, "")
	}
	if err != nil {
		return nil, err
	}
	if b.Init != "" {
		// An init manages its services by cgroup: it gets the machine's own, seen as the root.
		mount("cgroup2", "sys/fs/cgroup", "cgroup2", ns, "")
		// Debian's systemd mounts this itself where it is none, and may not.
		mount("tmpfs", "run/lock", "tmpfs", ns, "mode=1777,size=5m")
		if err != nil {
			return nil, err
		}
	}
	for _, p := range []string{"sys", "sysrq-trigger", "irq", "bus", "fs"} {
		p = in("proc/" + p)
		if unix.Mount(p, p, "", unix.MS_BIND|unix.MS_REC, "") == nil {
			if e := unix.Mount("", p, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|ns, ""); e != nil {
				return nil, fmt.Errorf("make %s read-only in the machine: %w", p, e)
			}
		}
	}
	for _, p := range []string{"proc/kcore", "proc/keys", "proc/timer_list", "proc/sched_debug", "proc/kmsg", "proc/kallsyms"} {
		if _, e := os.Lstat(in(p)); e == nil {
			if e := unix.Mount("/dev/null", in(p), "", unix.MS_BIND, ""); e != nil {
				return nil, fmt.Errorf("hide /%s from the machine: %w", p, e)
			}
		}
	}
	for _, p := range []string{"proc/acpi", "proc/scsi", "proc/asound", "sys/firmware"} {
		if _, e := os.Lstat(in(p)); e == nil {
			if e := unix.Mount("tmpfs", in(p), "tmpfs", ns|unix.MS_RDONLY, "size=0"); e != nil {
				return nil, fmt.Errorf("hide /%s from the machine: %w", p, e)
			}
		}
	}
	return made, identity(root, b)
}

// identityFiles belong to the running machine, not to the image: they are
// written over the image's own for as long as the machine runs, and Restore
// takes them out of the upper layer again.
var identityFiles = []string{"etc/resolv.conf", "etc/hostname", "etc/hosts", "etc/machine-id"}

func identity(root string, b *boot) error {
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + b.Hostname + "\n"
	id := make([]byte, 16)
	if _, err := unix.Getrandom(id, 0); err != nil {
		return err
	}
	content := map[string]string{
		"etc/resolv.conf": string(b.Resolv), "etc/hostname": b.Hostname + "\n", "etc/hosts": hosts,
		"etc/machine-id": fmt.Sprintf("%x\n", id),
	}
	// A directory on the scratch file system: bind mounts keep the machine's
	// versions out of its upper layer.
	dir := filepath.Join(b.Dir, "scratch", "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, f := range identityFiles {
		src, dst := filepath.Join(dir, filepath.Base(f)), filepath.Join(root, f)
		if err := os.WriteFile(src, []byte(content[f]), 0o644); err != nil {
			return err
		}
		fi, err := os.Lstat(dst)
		if err == nil && !fi.Mode().IsRegular() {
			// a link, to where systemd-resolved would be: not here
			if err := os.Remove(dst); err != nil {
				return fmt.Errorf("set the machine's /%s: %w", f, err)
			}
		}
		if err != nil || !fi.Mode().IsRegular() {
			if err := os.WriteFile(dst, nil, 0o644); err != nil {
				return fmt.Errorf("set the machine's /%s: %w", f, err)
			}
		}
		if err := unix.Mount(src, dst, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("set the machine's /%s: %w", f, err)
		}
		_ = unix.Mount("", dst, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "")
	}
	return nil
}

// pivot makes root the root of everything in this mount namespace and lets go of the host's.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change to the machine's root: %w", err)
	}
	if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	return os.Chdir("/")
}

// kept are the capabilities that package managers and daemons need. Not among
// them: mounting, loading modules, setting the clock, raw devices, tracing,
// rebooting. Device nodes can be made, but every file system of the machine is
// nodev, so none can be opened.
var kept = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
	unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT, unix.CAP_MKNOD, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP,
}

func dropCapabilities() error {
	var set [2]uint32
	for _, c := range kept {
		set[c/32] |= 1 << (c % 32)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(kept, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// The inheritable set stays empty: a program run by another user gains nothing.
	data := [2]unix.CapUserData{{Effective: set[0], Permitted: set[0]}, {Effective: set[1], Permitted: set[1]}}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	return nil
}
