// Package docker is a running Linux container as a machine, reached over the
// Docker Engine's API alone: neither the docker command nor anything but a
// POSIX shell in the container is needed. Windows containers are refused.
package docker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/ingotbuild/ingot/machine"
)

// Config says which container, and how commands run in it.
type Config struct {
	// Container is its name or id. It must be running.
	Container string
	// Host is the engine's address, such as "unix:///var/run/docker.sock",
	// "tcp://10.0.0.5:2376" or "ssh://root@builder". Empty: the engine that the
	// docker command would use, by DOCKER_HOST, DOCKER_CONTEXT or the current
	// context of its configuration. DOCKER_CERT_PATH and DOCKER_TLS_VERIFY hold
	// for tcp:// addresses.
	Host string
	// User runs the commands and owns what is put: a name or number, with
	// ":group" behind it or not. Empty: the container's own user.
	User string
	// Dir is where commands run and relative paths start. Empty: the
	// container's own working directory.
	Dir string
	// Shell is the container's POSIX shell; it is given -c and the command
	// line. Default: /bin/sh.
	Shell string
}

// Open connects to the engine and looks at the container.
func Open(ctx context.Context, cfg Config) (machine.Machine, error) {
	if cfg.Container == "" {
		return nil, errors.New("no container is named")
	}
	if cfg.Shell == "" {
		cfg.Shell = "/bin/sh"
	}
	cli, address, err := connect(cfg.Host)
	if err != nil {
		return nil, err
	}
	m := &docker{cfg: cfg, cli: cli, address: address}
	if err := m.look(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

type docker struct {
	cfg     Config
	cli     *client.Client
	address string // of the engine, to be shown

	id        string // of the container; a name may come to mean another one
	startedAt string
	visible   []string // mount points that the engine's archive calls see
	platform  machine.Platform
	uid, gid  int
	tar       string // gnu, other, or empty: there is none
}

var _ machine.Machine = (*docker)(nil)

// Platform implements machine.Machine.
func (m *docker) Platform() machine.Platform { return m.platform }

// Close implements machine.Machine.
func (m *docker) Close() error { return m.cli.Close() }

// probe needs nothing but a shell.
const probe = `uname -m 2>/dev/null || echo
if ! command -v tar >/dev/null 2>&1; then echo none; else
case "$(tar --version 2>&1)" in *"GNU tar"*) echo gnu;; *) echo other;; esac; fi
u=; g=
while read -r k v x; do case $k in Uid:) u=$v;; Gid:) g=$v;; esac; done </proc/self/status
echo "$u $g"
f=; if [ -r /etc/os-release ]; then while IFS= read -r l; do case $l in ID=*) f=${l#ID=};; esac; done </etc/os-release; fi
printf '%s\n' "$f"`

func (m *docker) look(ctx context.Context) error {
	res, err := m.cli.ContainerInspect(ctx, m.cfg.Container, client.ContainerInspectOptions{})
	if err != nil {
		return m.explain(ctx, err)
	}
	c := res.Container
	if c.State == nil || c.Config == nil || c.ID == "" {
		return fmt.Errorf("the Docker engine at %s says nothing of the state of container %s", m.address, m.cfg.Container)
	}
	if c.Platform == "windows" {
		return fmt.Errorf("container %s is a Windows container: only Linux containers can be used", m.cfg.Container)
	}
	if !c.State.Running {
		return fmt.Errorf("container %s is not running (it is %q): start it first", m.cfg.Container, c.State.Status)
	}
	m.id, m.startedAt = c.ID, c.State.StartedAt
	m.visible = []string{"/", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
	for _, mount := range c.Mounts {
		if mount.Type == "bind" || mount.Type == "volume" {
			m.visible = append(m.visible, path.Clean(mount.Destination))
		}
	}
	var out, stderr bytes.Buffer
	if err := m.Run(ctx, machine.Command{Line: probe, Stdout: &out, Stderr: &stderr}); err != nil {
		return fmt.Errorf("look into container %s: %w%s", m.cfg.Container, err, said(stderr.String()))
	}
	f := strings.Split(out.String(), "\n")
	if len(f) != 5 {
		return fmt.Errorf("look into container %s: its shell %s answered only %.200q", m.cfg.Container, m.cfg.Shell, out.String())
	}
	uid, gid, _ := strings.Cut(f[2], " ")
	var errUID, errGID error
	m.uid, errUID = strconv.Atoi(uid)
	m.gid, errGID = strconv.Atoi(gid)
	if errUID != nil || errGID != nil {
		return fmt.Errorf("look into container %s: its /proc does not tell the user's ids: %.200q", m.cfg.Container, f[2])
	}
	if f[1] != "none" {
		m.tar = f[1]
	}
	m.platform = machine.Platform{OS: "linux", Family: strings.Trim(f[3], `"'`), Arch: goArch(f[0]), Shell: "sh"}
	if f[0] == "" {
		v, err := m.cli.ServerVersion(ctx, client.ServerVersionOptions{})
		if err != nil {
			return m.explain(ctx, err)
		}
		m.platform.Arch = v.Arch
	}
	return nil
}

func goArch(uname string) string {
	switch uname {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "386"
	case "armv6l", "armv7l", "armv8l":
		return "arm"
	}
	return uname
}

// explain says of an error of the engine's API what it means for the machine.
func (m *docker) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errdefs.IsNotFound(err):
		return fmt.Errorf("the Docker engine at %s has no container %s: look with docker ps -a (%w)", m.address, m.cfg.Container, err)
	case client.IsErrConnectionFailed(err):
		return fmt.Errorf("the Docker engine at %s does not answer: is it running, and may this user reach it? (%w)", m.address, err)
	}
	return fmt.Errorf("the Docker engine at %s, container %s: %w", m.address, m.cfg.Container, err)
}

func said(stderr string) string {
	if stderr = strings.TrimSpace(stderr); stderr == "" {
		return ""
	}
	return ": " + stderr
}

// token makes the mark of one command's streams. It begins with a byte that
// text does not have, so that output is hardly ever held back for it.
func token() string { return "\x01" + rand.Text() }

const (
	// settle is how long the engine may need to notice what has happened.
	settle = 3 * time.Second
	// killed is the exit code of what SIGKILL has ended.
	killed = 128 + 9
	// patience bounds what is done after a context has ended.
	patience = 20 * time.Second
)
