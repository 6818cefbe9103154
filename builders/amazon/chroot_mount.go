package amazon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
)

// bootID names the boot of this host, or is "" where the system has no such name.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// wrap puts the command_wrapper around a command line.
func (b *Chroot) wrap(line string) (string, error) {
	if b.o.CommandWrapper == "" {
		return line, nil
	}
	out, err := render.String(b.o.CommandWrapper, map[string]any{"Command": line}, render.Env{Now: time.Now(), Clean: cleanName})
	if err != nil {
		return "", fmt.Errorf("command_wrapper: %w", err)
	}
	return out, nil
}

// command runs a command line on this host, wrapped, and returns what it prints.
// With a status other than 0, what it prints is part of the error.
func (b *Chroot) command(ctx context.Context, line string) (string, error) {
	wrapped, err := b.wrap(line)
	if err != nil {
		return "", err
	}
	var out, stderr bytes.Buffer
	err = local.Machine{}.Run(ctx, machine.Command{Line: wrapped, Env: map[string]string{"PATH": toolPath(), "LC_ALL": "C"}, Stdout: &out, Stderr: &stderr})
	var exit *machine.ExitError
	if errors.As(err, &exit) {
		text := strings.TrimSpace(stderr.String())
		if text == "" {
			text = strings.TrimSpace(out.String())
		}
		return out.String(), fmt.Errorf("%s: %w: %s", line, err, text)
	}
	return out.String(), err
}

// toolPath is the PATH with the directories that root's tools are in.
func toolPath() string {
	return strings.Join(append([]string{os.Getenv("PATH")}, toolDirs[:]...), string(filepath.ListSeparator))
}

// hostCommands runs the template's own commands on this host.
func (b *Chroot) hostCommands(ctx context.Context, option string, lines []string) error {
	for i, line := range lines {
		more := map[string]any{"Device": b.device}
		if b.path != "" {
			more["MountPath"] = b.path
		}
		line, err := b.late(fmt.Sprintf("%s.%d", option, i), line, more)
		if err == nil {
			line, err = b.wrap(line)
		}
		if err != nil {
			return err
		}
		b.run.run.Events.Say("Running on this host: " + line)
		err = b.shown(func(out, stderr *event.LineWriter) error {
			return local.Machine{Dir: b.run.run.Dir}.Run(ctx, machine.Command{Line: line, Env: map[string]string{"PATH": toolPath()}, Stdout: out, Stderr: stderr})
		})
		if err != nil {
			return fmt.Errorf("%s.%d (%s): %w", option, i, line, err)
		}
	}
	return nil
}

func (b *Chroot) shown(run func(out, stderr *event.LineWriter) error) error {
	out, stderr := b.run.run.Events.Lines("stdout"), b.run.run.Events.Lines("stderr")
	defer out.Flush()
	defer stderr.Flush()
	return run(out, stderr)
}

// probe says which file system and which partition table a device begins with.
func (b *Chroot) probe(ctx context.Context, device string) (fs, table string, err error) {
	out, err := b.command(ctx, machine.Quote("blkid", "-p", "-o", "export", "--", device))
	var exit *machine.ExitError
	if errors.As(err, &exit) && exit.Status == 2 {
		return "", "", nil // nothing that it knows
	}
	if err != nil {
		return "", "", fmt.Errorf("look what is on %s: %w", device, err)
	}
	for line := range strings.Lines(out) {
		switch k, v, _ := strings.Cut(strings.TrimSpace(line), "="); k {
		case "TYPE":
			fs = v
		case "PTTYPE":
			table = v
		}
	}
	return fs, table, nil
}

// choosePartition finds what is to be mounted.
func (b *Chroot) choosePartition(ctx context.Context) (number string, err error) {
	number = b.o.MountPartition
	if number == "" {
		fs, table, err := b.probe(ctx, b.device)
		if err != nil {
			return "", err
		}
		if number = "1"; fs != "" && table == "" {
			number = "0"
		}
	}
	if number == "0" {
		b.part = b.device
		return number, nil
	}
	b.part = partitionPath(b.device, number)
	if _, err := os.Stat(b.part); err != nil && findTool("partx") != "" {
		// A kernel may know no partition tables, or have been asked too early.
		_, err = b.command(ctx, machine.Quote("partx", "--update", b.device))
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err != nil {
			b.run.run.Events.Say(fmt.Sprintf("The partitions of %s were not read anew: %v", b.device, err))
		}
	}
	err = b.session.Wait(ctx, awscloud.Wait{What: "the partition " + b.part, Pace: devicePace, Timeout: time.Minute}, func(context.Context) (bool, string, error) {
		_, err := os.Stat(b.part)
		return err == nil, "", nil
	})
	if isTimeout(err) {
		return "", fmt.Errorf(`%s does not appear. mount_partition says which partition of %s is the root; "0" is the whole disk: %w`, b.part, b.device, err)
	}
	return number, err
}

// mount mounts the volume, grown if it is larger than the source AMI's.
func (b *Chroot) mount(ctx context.Context) error {
	number, err := b.choosePartition(ctx)
	if err != nil {
		return err
	}
	grow := b.grew && b.o.grows()
	if grow {
		if err := b.growPartition(ctx, number); err != nil {
			return err
		}
	}
	fs, _, err := b.probe(ctx, b.part)
	if err != nil {
		return err
	}
	if fs == "" {
		return fmt.Errorf("%s has no file system: mount_partition says which partition is the root, and pre_mount_commands can make one", b.part)
	}
	if grow && strings.HasPrefix(fs, "ext") {
		if err := b.growExt(ctx); err != nil {
			return err
		}
	}
	path, err := b.late("mount_path", b.o.MountPath, map[string]any{"Device": filepath.Base(b.device)})
	if err != nil {
		return err
	}
	path = filepath.Clean(path)
	if !filepath.IsAbs(path) || path == "/" {
		return fmt.Errorf("mount_path is %q: it must be a whole path, and not this host's root", path)
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved // as the kernel will list it
	}
	there, err := mountsBelow(path)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return fmt.Errorf("%s is mounted at %s already: set another mount_path, or give back what an earlier bake has left by `ingot sweep`", there[0].source, there[0].point)
	}
	_, err = os.Stat(path)
	made := ""
	if errors.Is(err, os.ErrNotExist) {
		made = "yes"
	}
	dev, err := deviceNumber(b.part)
	if err != nil {
		return err
	}
	l, err := b.run.run.Leases.Intend(ctx, leaseMount, path, b.run.data(dataDevice, dev, dataBoot, bootID(), dataMade, made))
	if err != nil {
		return err
	}
	b.mounted, b.path = l, path
	if made != "" {
		if _, err := b.command(ctx, machine.Quote("mkdir", "-p", "--", path)); err != nil {
			return err
		}
		if resolved, err := filepath.EvalSymlinks(path); err == nil && resolved != path {
			return fmt.Errorf("mount_path leads through a link, to %s: name that", resolved)
		}
	}
	options := slices.Clone(b.o.MountOptions)
	if fs == "xfs" && !slices.Contains(options, "nouuid") {
		options = append(options, "nouuid")
	}
	argv := []string{"mount"}
	if len(options) > 0 {
		argv = append(argv, "-o", strings.Join(options, ","))
	}
	if _, err := b.command(ctx, machine.Quote(append(argv, "--", b.part, path)...)); err != nil {
		return fmt.Errorf("mount the volume: %w", err)
	}
	if err := b.run.run.Leases.Created(context.WithoutCancel(ctx), l, path); err != nil {
		return err
	}
	// What is mounted below it later stays in this namespace.
	if _, err := b.command(ctx, machine.Quote("mount", "--make-private", "--", path)); err != nil {
		return err
	}
	b.run.run.Events.Say(fmt.Sprintf("Mounted %s (%s) at %s.", b.part, fs, path))
	if grow {
		return b.growMounted(ctx, fs)
	}
	return nil
}

// cannotGrow says that a file system stays smaller than its volume: a warning,
// unless the template asks for it.
func (b *Chroot) cannotGrow(why string) error {
	text := fmt.Sprintf("The root's file system stays as large as the source AMI's, although root_volume_size is larger: %s.", why)
	if b.o.GrowRoot != nil {
		return errors.New(text + " grow_root = true asks for it; leave it out to go on without")
	}
	b.run.run.Events.Warn(text)
	return nil
}

func (b *Chroot) growPartition(ctx context.Context, number string) error {
	if number == "0" {
		return nil
	}
	var err error
	switch {
	case findTool("growpart") != "":
		var out string
		out, err = b.command(ctx, machine.Quote("growpart", b.device, number))
		if strings.HasPrefix(out, "NOCHANGE") {
			return nil
		}
	case findTool("sfdisk") != "" && findTool("partx") != "":
		script := "echo ', +' | sfdisk --no-reread --no-tell-kernel -q -N " + machine.Quote(number, b.device) + " && partx --update --nr " + machine.Quote(number, b.device)
		_, err = b.command(ctx, machine.Quote("sh", "-c", script))
	default:
		return b.cannotGrow("neither growpart (cloud-guest-utils) nor sfdisk is on this host")
	}
	if err != nil {
		return b.cannotGrow(err.Error())
	}
	return nil
}

func (b *Chroot) growExt(ctx context.Context) error {
	if findTool("resize2fs") == "" || findTool("e2fsck") == "" {
		return b.cannotGrow("resize2fs (e2fsprogs) is not on this host")
	}
	_, err := b.command(ctx, machine.Quote("e2fsck", "-f", "-p", b.part))
	var exit *machine.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Status == 1) { // 1: it has been put right
		return b.cannotGrow(err.Error())
	}
	if _, err := b.command(ctx, machine.Quote("resize2fs", b.part)); err != nil {
		return b.cannotGrow(err.Error())
	}
	return nil
}

func (b *Chroot) growMounted(ctx context.Context, fs string) error {
	var argv []string
	switch {
	case strings.HasPrefix(fs, "ext"):
		return nil // before it was mounted
	case fs == "xfs":
		argv = []string{"xfs_growfs", b.path}
	case fs == "btrfs":
		argv = []string{"btrfs", "filesystem", "resize", "max", b.path}
	default:
		return b.cannotGrow("Ingot does not know how to grow " + fs)
	}
	if findTool(argv[0]) == "" {
		return b.cannotGrow(argv[0] + " is not on this host")
	}
	if _, err := b.command(ctx, machine.Quote(argv...)); err != nil {
		return b.cannotGrow(err.Error())
	}
	return nil
}

// mountPoint is one line of /proc/self/mountinfo.
type mountPoint struct{ device, point, source string }

// mountPoints are all that this process sees, in the order in which they were mounted.
func mountPoints() ([]mountPoint, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look what is mounted: %w", err)
	}
	var all []mountPoint
	for line := range strings.Lines(string(text)) {
		pre, post, _ := strings.Cut(line, " - ")
		a, z := strings.Fields(pre), strings.Fields(post)
		if len(a) > 4 && len(z) > 1 {
			all = append(all, mountPoint{a[2], unescapeMount(a[4]), unescapeMount(z[1])})
		}
	}
	return all, nil
}

// unescapeMount reads the octal numbers that blanks are written as.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountsBelow are those at a path and below it.
func mountsBelow(path string) ([]mountPoint, error) {
	all, err := mountPoints()
	return slices.DeleteFunc(all, func(m mountPoint) bool { return m.point != path && !strings.HasPrefix(m.point, path+"/") }), err
}

// unmountTime is how long a file system may be busy with what has just ended.
const unmountTime = 30 * time.Second

// unmountAll unmounts what is mounted at a path and below it, if what is at the
// path is the device (major:minor).
func (b *Chroot) unmountAll(ctx context.Context, path, device string) error {
	var failed error
	deadline := time.Now().Add(unmountTime)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		there, err := mountsBelow(path)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(there, func(m mountPoint) bool { return m.point == path && (device == "" || m.device == device) }) {
			return nil // another's, or gone
		}
		if failed != nil && time.Now().After(deadline) {
			return fmt.Errorf("%w%s", failed, holders(path))
		}
		if failed != nil {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(pause):
			}
		}
		failed = nil
		for _, m := range slices.Backward(there) {
			if _, err := b.command(ctx, machine.Quote("umount", "--", m.point)); err != nil {
				failed = fmt.Errorf("unmount %s: %w", m.point, err)
				break
			}
		}
	}
}

// holders says which processes of this host keep a path busy, as far as it is allowed to see.
func holders(path string) string {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return ""
	}
	var found []string
	for _, d := range dirs {
		links, _ := filepath.Glob(d + "/fd/*") // the pattern is right
		for _, l := range append(links, d+"/cwd", d+"/root", d+"/exe") {
			to, err := os.Readlink(l)
			if err == nil && (to == path || strings.HasPrefix(to, path+"/")) {
				name, _ := os.ReadFile(d + "/comm")
				found = append(found, fmt.Sprintf("%s (%s)", filepath.Base(d), strings.TrimSpace(string(name))))
				break
			}
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "; it is used by the processes " + strings.Join(found, ", ") + ": end them and run `ingot sweep`"
}

// unmount unmounts the volume for its snapshot. It must be whole by then.
func (b *Chroot) unmount(ctx context.Context) error {
	if err := b.releaseMount(ctx, b.mounted); err != nil {
		return err
	}
	if !b.o.wrapped() {
		// Another mount namespace may have kept the file system, and what was not
		// written of it yet.
		err := b.session.Wait(ctx, awscloud.Wait{What: b.part + " to be free", Pace: devicePace, Timeout: unmountTime}, func(context.Context) (bool, string, error) {
			f, err := os.OpenFile(b.part, os.O_RDONLY|os.O_EXCL, 0)
			if errors.Is(err, syscall.EBUSY) {
				return false, "mounted by somebody else", nil
			}
			if err != nil {
				return false, "", err
			}
			return true, "", errors.Join(f.Sync(), f.Close())
		})
		if err != nil {
			return fmt.Errorf("see that all is written to the volume: %w", err)
		}
	}
	return b.run.run.Leases.Released(ctx, b.mounted)
}

// releaseMount unmounts what a lease names, if it is of this boot of this host,
// and takes the mount point away if it was made for it.
func (b *Chroot) releaseMount(ctx context.Context, l builders.Lease) error {
	if boot := l.Data[dataBoot]; boot != "" && boot != bootID() {
		return nil // no mount outlives its host's boot
	}
	if err := b.unmountAll(ctx, l.Name, l.Data[dataDevice]); err != nil {
		return err
	}
	if l.Data[dataMade] == "" {
		return nil
	}
	there, err := mountsBelow(l.Name)
	if err != nil || len(there) > 0 { // another's by now
		return err
	}
	err = syscall.Rmdir(l.Name)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		_, err = b.command(ctx, machine.Quote("rmdir", "--", l.Name))
	}
	if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("remove the mount point %s: %w", l.Name, err)
	}
	return nil
}

// unmountVolume unmounts what is mounted of a volume, wherever that is. It knows
// the volume's device only by its serial number.
func (b *Chroot) unmountVolume(ctx context.Context, volume string) error {
	device, err := b.env.deviceOf(volume, "\x00", "")
	if err != nil || device == "" {
		return err
	}
	paths, err := filepath.Glob(partitionPath(device, "*"))
	if err != nil {
		return err
	}
	numbers := map[string]bool{}
	for _, p := range append(paths, device) {
		if n, err := deviceNumber(p); err == nil {
			numbers[n] = true
		}
	}
	all, err := mountPoints()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(all) {
		if numbers[m.device] {
			if err := b.unmountAll(ctx, m.point, m.device); err != nil {
				return err
			}
		}
	}
	return nil
}
