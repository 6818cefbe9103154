//go:build linux

package machines

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
)

// A machine has no systemd to ask for its end, so it is given commands of the
// usual names. They stand in a layer below the machine's own and are no part of
// an image. Like sysvinit's, and systemd's own where no systemd answers them,
// they write to the pipe /run/initctl, where the Host listens.
const (
	powerShim = `#!/bin/sh
# Of the emulated cloud: asks it to switch this machine off.
name=${0##*/} mode=poweroff delay=0
case $name in reboot) mode=reboot ;; shutdown) delay=60 ;; esac
for a; do
	case $a in
	-r | --reboot) mode=reboot ;;
	-h | -P | -H | --halt | --poweroff | -p) mode=poweroff ;;
	-c)
		[ -r /run/shutdown.pid ] && kill "$(cat /run/shutdown.pid)" && rm -f /run/shutdown.pid
		exit
		;;
	-k) exit 0 ;;
	-*) ;;
	now) delay=0 ;;
	+*[!0-9]* | *[!0-9:+]*) [ "$name" != shutdown ] || [ "$delay" != 60 ] || { echo "$name: cannot parse the time $a" >&2; exit 1; } ;;
	*:*) delay=$(($(date -d "$a" +%s) - $(date +%s))); [ $delay -ge 0 ] || delay=$((delay + 86400)) ;;
	+* | [0-9]*) [ "$name" != shutdown ] || delay=$((${a#+} * 60)) ;;
	esac
done
[ -w /run/initctl ] || { echo "$name: only root may do that" >&2; exit 1; }
if [ "$delay" -eq 0 ]; then
	echo $mode >/run/initctl
	exit
fi
trap '' HUP
(sleep $delay && echo $mode >/run/initctl) </dev/null >/dev/null 2>&1 &
echo $! >/run/shutdown.pid
echo "The machine goes down in $((delay / 60)) minutes, use 'shutdown -c' to cancel." >&2
`
	systemctlShim = `#!/bin/sh
# Of the emulated cloud: asks it to switch this machine off; all else is for the real one.
for a; do
	case $a in
	-*) ;;
	poweroff | halt | reboot) exec /usr/local/sbin/$a ;;
	*) break ;;
	esac
done
for p in /usr/bin/systemctl /bin/systemctl; do [ -x $p ] && exec $p "$@"; done
echo "System has not been booted with systemd as init system (PID 1). Can't operate." >&2
exit 1
`
	cloudInitShim = `#!/bin/sh
# Of the emulated cloud: tells when user data has been applied; all else is for the real one.
if [ "$1" = status ]; then
	case " $* " in *" --wait "* | *" -w "*) until [ -e /run/cloud-init/result.json ]; do sleep 0.1; done ;; esac
	state=running
	[ ! -e /run/cloud-init/result.json ] || state=done
	[ ! -e /run/cloud-init/failed ] || state=error
	echo "status: $state"
	[ $state != error ]
	exit
fi
for p in /usr/bin/cloud-init /bin/cloud-init; do [ -x $p ] && exec $p "$@"; done
if [ "$1" = clean ]; then
	rm -rf /var/lib/cloud/* /var/log/cloud-init*.log
	exit
fi
echo "cloud-init $1: this image has no cloud-init" >&2
exit 1
`
)

// shims are the commands, by path.
var shims = map[string]string{
	"usr/local/sbin/shutdown": powerShim, "usr/local/sbin/poweroff": powerShim, "usr/local/sbin/halt": powerShim, "usr/local/sbin/reboot": powerShim,
	"usr/local/bin/systemctl": systemctlShim, "usr/local/bin/cloud-init": cloudInitShim,
}

// writeShims makes the layer in a disk's directory. The commands that people call
// by their full path are there too, where that is a directory of the content.
func writeShims(dir string, s stack) (string, error) {
	layer := filepath.Join(dir, "shims")
	if err := os.RemoveAll(layer); err != nil {
		return "", err
	}
	put := func(name, text string) error {
		p := filepath.Join(layer, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		return os.WriteFile(p, []byte(text), 0o755)
	}
	for name, text := range shims {
		if err := put(name, text); err != nil {
			return "", fmt.Errorf("make the machine's power commands: %w", err)
		}
	}
	for _, d := range []string{"sbin", "usr/sbin"} {
		if !s.hasDir(d) {
			continue
		}
		for _, c := range []string{"shutdown", "poweroff", "halt", "reboot"} {
			if err := put(d+"/"+c, powerShim); err != nil {
				return "", fmt.Errorf("make the machine's power commands: %w", err)
			}
		}
	}
	return layer, nil
}

// hasDir says whether a path is a directory in what a disk holds, as far as that
// can be seen without mounting it.
func (s stack) hasDir(name string) bool {
	var at []string
	for _, l := range s.layers {
		at = append(at, filepath.Join(l.dir, "upper"))
	}
	switch s.kind {
	case kindHost:
		at = append(at, "/")
	case kindTree:
		at = append(at, s.path)
	}
	for _, d := range at {
		if fi, err := os.Lstat(filepath.Join(d, name)); err == nil {
			return fi.IsDir()
		}
	}
	return false
}

// removeShims takes copies of the commands out of a machine's own layer: a change
// of mode or owner is enough to bring them there.
func removeShims(upper string) error {
	root, err := os.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	names := []string{}
	for name := range shims {
		names = append(names, name)
		if b, c := filepath.Dir(name), filepath.Base(name); b == "usr/local/sbin" {
			names = append(names, "sbin/"+c, "usr/sbin/"+c)
		}
	}
	for _, name := range names {
		fi, err := root.Lstat(name)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > 1<<16 {
			continue
		}
		b, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		if s := string(b); s == powerShim || s == systemctlShim || s == cloudInitShim {
			if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// initctl listens to the machine's pipe until it ends.
func (m *Machine) initctl(r *run) {
	for r.ctx.Err() == nil {
		// Opened for writing too, so that it never ends by itself; somebody who
		// kills all processes ends it, though.
		err := r.box.Exec(r.ctx, sandbox.Program{Argv: []string{"/bin/sh", "-c", "exec cat 0<>/run/initctl"}, Dir: "/"},
			machine.Command{Stdout: &powerSink{m: m, r: r}})
		var exit *machine.ExitError
		if !errors.As(err, &exit) || exit.Status < 128 {
			if r.ctx.Err() == nil {
				m.printf("the machine's power commands do not work: %v\n", err)
			}
			return
		}
	}
}

// powerSink reads requests: lines of the shims, and records of sysvinit and systemd.
type powerSink struct {
	m   *Machine
	r   *run
	buf []byte
}

const (
	initctlMagic = 0x03091969
	initctlSize  = 384 // magic, command and run level as 32-bit numbers, and padding
)

func (s *powerSink) Write(p []byte) (int, error) {
	s.buf = append(s.buf, p...)
	for {
		level := ""
		if len(s.buf) >= 4 && binary.LittleEndian.Uint32(s.buf) == initctlMagic {
			if len(s.buf) < initctlSize {
				return len(p), nil
			}
			level = string(s.buf[8])
			s.buf = s.buf[initctlSize:]
		} else {
			line, rest, ok := bytes.Cut(s.buf, []byte("\n"))
			if !ok {
				if len(s.buf) > initctlSize {
					s.buf = nil
				}
				return len(p), nil
			}
			level, s.buf = strings.TrimSpace(string(line)), rest
		}
		switch level {
		case "poweroff", "0":
			s.m.endedItself(s.r, false)
		case "reboot", "6":
			s.m.endedItself(s.r, true)
		}
	}
}
