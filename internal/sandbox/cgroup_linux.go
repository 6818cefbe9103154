package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is the set of directories, one per hierarchy, that hold one machine.
// All bear the same deterministic name, so that a later process finds them.
type cgroup struct{ dirs map[string]string } // controller ("" for v2) → directory

func cgroupName(id string) string { return "ingot-" + id }

// hierarchies lists where this process stands in each mounted cgroup
// hierarchy: v1 controllers by name, the v2 one under "".
func hierarchies() (map[string]string, error) {
	mounts := map[string]string{}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		pre, post, ok := strings.Cut(s.Text(), " - ")
		a, b := strings.Fields(pre), strings.Fields(post)
		if !ok || len(a) < 5 || len(b) < 3 {
			continue
		}
		switch b[0] {
		case "cgroup2":
			mounts[""] = a[4]
		case "cgroup":
			for _, c := range strings.Split(b[2], ",") {
				switch c {
				case "memory", "pids", "cpu":
					mounts[c] = a[4]
				}
			}
		}
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	at := map[string]string{}
	for line := range bytes.Lines(own) {
		p := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(p) != 3 {
			continue
		}
		if p[0] == "0" {
			if m, ok := mounts[""]; ok {
				at[""] = filepath.Join(m, p[2])
			}
			continue
		}
		for _, c := range strings.Split(p[1], ",") {
			if m, ok := mounts[c]; ok {
				at[c] = filepath.Join(m, p[2])
			}
		}
	}
	return at, nil
}

// v2Parent is where a machine's v2 cgroup can be made with controllers: a
// group that holds processes cannot delegate, so it is the parent of our own
// group, or the root.
func v2Parent(own string) string {
	if _, err := os.Stat(filepath.Join(own, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return own // the root group may hold both
	}
	return filepath.Dir(own)
}

// PlanCgroup says which directories a machine's cgroup will be made of, by
// controller, without making them: what must be written down before Start. It
// is empty where this process may use no cgroups.
func PlanCgroup(id string) (map[string]string, error) {
	at, err := hierarchies()
	if err != nil {
		return nil, fmt.Errorf("read this process's cgroups: %w", err)
	}
	dirs := map[string]string{}
	for ctl, own := range at {
		parent := own
		if ctl == "" {
			parent = v2Parent(own)
		}
		if unix.Access(parent, unix.W_OK) == nil {
			dirs[ctl] = filepath.Join(parent, cgroupName(id))
		}
	}
	return dirs, nil
}

// newCgroup makes the planned directories and sets the limits. A limit that
// cannot be had is an error; without limits, no cgroup at all is fine.
func newCgroup(plan map[string]string, memory int64, cpus float64, pids int64) (*cgroup, error) {
	c := &cgroup{dirs: map[string]string{}}
	var firstErr error
	for ctl, dir := range plan {
		if ctl == "" {
			for _, w := range []string{"+memory", "+pids", "+cpu"} {
				_ = os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"), []byte(w), 0)
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			firstErr = err
			continue
		}
		c.dirs[ctl] = dir
	}
	set := func(what, ctl, v1file, v1val, v2file, v2val string) error {
		if d, ok := c.dirs[ctl]; ok {
			if err := os.WriteFile(filepath.Join(d, v1file), []byte(v1val), 0); err != nil {
				return fmt.Errorf("limit %s in cgroup %s: %w", what, d, err)
			}
			return nil
		}
		if d, ok := c.dirs[""]; ok {
			if err := os.WriteFile(filepath.Join(d, v2file), []byte(v2val), 0); err == nil {
				return nil
			}
		}
		return fmt.Errorf("%s cannot be limited here: this user may not use the %s cgroup controller (%v); run as root or with a delegated cgroup (systemd-run --user --scope -p Delegate=yes), or leave the limit out", what, ctl, firstErr)
	}
	if memory > 0 {
		if err := set("memory", "memory", "memory.limit_in_bytes", strconv.FormatInt(memory, 10), "memory.max", strconv.FormatInt(memory, 10)); err != nil {
			return c, err
		}
	}
	if pids > 0 {
		if err := set("processes", "pids", "pids.max", strconv.FormatInt(pids, 10), "pids.max", strconv.FormatInt(pids, 10)); err != nil {
			return c, err
		}
	}
	if cpus > 0 {
		quota := strconv.Itoa(int(cpus * 100000))
		if err := set("CPU", "cpu", "cpu.cfs_quota_us", quota, "cpu.max", quota+" 100000"); err != nil {
			return c, err
		}
	}
	return c, nil
}

// add moves a process into the cgroup.
func (c *cgroup) add(pid int) error {
	for _, d := range c.dirs {
		if err := os.WriteFile(filepath.Join(d, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("put the machine into cgroup %s: %w", d, err)
		}
	}
	return nil
}

// RemoveCgroup kills whatever runs in a machine's cgroup directories and
// removes them. It is idempotent, and refuses directories that Ingot did not name.
func RemoveCgroup(dirs []string) error {
	var errs []error
	for _, d := range dirs {
		if !strings.HasPrefix(filepath.Base(d), cgroupName("")) {
			errs = append(errs, fmt.Errorf("%s is not a cgroup of Ingot's: left alone", d))
			continue
		}
		errs = append(errs, removeCgroupDir(d))
	}
	return errors.Join(errs...)
}

func removeCgroupDir(dir string) error {
	deadline := time.Now().Add(30 * time.Second) // a busy host may take seconds
	for wait := time.Millisecond; ; wait = min(wait*2, 50*time.Millisecond) {
		err := removeCgroupTree(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, p := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		time.Sleep(wait) // the kernel empties a group some time after its last process is reaped
	}
}

// removeCgroupTree removes the groups that a machine's own init may have made, innermost first.
func removeCgroupTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}
