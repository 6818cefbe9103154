package main

import (
	"archive/tar"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	boxbuilder "github.com/ingotbuild/ingot/builders/sandbox"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/state"
	"github.com/ingotbuild/ingot/internal/userns"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
	dockermachine "github.com/ingotbuild/ingot/machine/docker"
	"github.com/ingotbuild/ingot/machine/local"
)

// targetFlags are the flags of every verb that looks at machines which are
// there: -target, and how these are reached.
type targetFlags struct {
	targets list
	way     targetOptions
}

// targetOptions say how targets are reached. They hold for all of a command's.
type targetOptions struct {
	// ssh
	key, jump, sshConfig, knownHosts string
	connectTimeout                   time.Duration
	// image
	init, network string
}

// targetHelp is what the help of such a verb says of targets.
const targetHelp = `A TARGET is
  ssh://[USER@]HOST[:PORT], or as with ssh [USER@]HOST, also an alias of ~/.ssh/config
  docker://CONTAINER        a running container
  image:REF or image:PATH   an image of Ingot's store (web, web@v2, web@production), an OCI layout, a docker archive,
                            a tarball or a directory: a sandbox machine is booted from it and given back
  winrm://USER@HOST[:PORT]  by TLS and NTLM; the password is in INGOT_WINRM_PASSWORD
  local:                    this host`

func (f *targetFlags) add(fs *flag.FlagSet) {
	fs.Var(&f.targets, "target", "the `machine` to look at; may be repeated")
	f.way.add(fs)
}

func (o *targetOptions) add(fs *flag.FlagSet) {
	fs.StringVar(&o.key, "i", "", "ssh: log in with the private key in this `file`, and not with those of ~/.ssh")
	fs.StringVar(&o.jump, "J", "", "ssh: go through these `hosts`, [USER@]HOST[:PORT], commas between")
	fs.StringVar(&o.sshConfig, "F", "", "ssh: read this configuration `file` in place of ~/.ssh/config")
	fs.StringVar(&o.knownHosts, "known-hosts", "", "ssh: look host keys up in this `file` alone")
	fs.DurationVar(&o.connectTimeout, "connect-timeout", 10*time.Second, "ssh, winrm: how long a machine that does not answer is tried again; 10s unless given")
	fs.StringVar(&o.init, "init", "", "image: run the image's own init, by its `path`, e.g. /sbin/init")
	fs.StringVar(&o.network, "network", "user", "image: the machine's network, `user|none|host`: outbound only (unless given), none, or this host's")
}

// target is what the user names, taken apart.
type target struct {
	name string // as it was written
	kind string // ssh, docker, image, winrm, local
	user string // ssh, winrm
	host string // ssh, winrm; the container, the image
	port int    // 0: the usual one
}

// schemes are the words before "://" or ":".
var schemes = []string{"ssh", "docker", "image", "winrm", "local"}

// parseTarget takes a target apart. It looks neither at the disk nor at the net.
func parseTarget(spec string) (target, error) {
	t := target{name: spec}
	// What is wrong may hold a password, so that errors show the text only where it cannot.
	for _, r := range spec {
		if r < ' ' || r == 0x7f {
			return t, errors.New("a target has control characters in its name")
		}
	}
	scheme, rest, slashes := strings.Cut(spec, "://")
	switch {
	case spec == "":
		return t, errors.New("a target is empty")
	case spec == "local" || spec == "local:":
		t.kind = "local"
		return t, nil
	case slashes && scheme == "local":
		return t, errors.New(`this host is written "local:"`)
	case strings.HasPrefix(spec, "image:") && scheme != "image":
		t.kind, rest = "image", strings.TrimPrefix(spec, "image:")
	case slashes && scheme == "image":
		return t, fmt.Errorf("%q: an image is written image:%s", spec, rest)
	case slashes && !slices.Contains(schemes, scheme):
		return t, fmt.Errorf("there are no targets of kind %q.%s There are ssh://, docker://, winrm://, local: and image:NAME", scheme, config.DidYouMean(scheme, schemes))
	case slashes:
		t.kind = scheme
	case strings.HasPrefix(spec, "-"):
		return t, fmt.Errorf("%q is no target: it begins like an option", spec)
	default:
		t.kind, rest = "ssh", spec
		if word, _, ok := strings.Cut(spec, ":"); ok && net.ParseIP(spec) == nil && !strings.Contains(spec, "@") {
			if word == "docker" || word == "winrm" || word == "ssh" {
				return t, fmt.Errorf("%q: write it with two slashes: %s://", spec, word)
			}
			if near := config.Suggest(word, schemes); near != "" {
				return t, fmt.Errorf("there are no targets of kind %q. Did you mean %q?", word, near)
			}
			return t, fmt.Errorf("%q: with a port it is written ssh://%s", spec, spec)
		}
	}
	if t.kind == "docker" || t.kind == "image" {
		if t.host = rest; rest == "" {
			return t, fmt.Errorf("%q does not say which %s", spec, map[string]string{"docker": "container", "image": "image"}[t.kind])
		}
		return t, nil
	}
	host := strings.TrimSuffix(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		t.user, host = host[:i], host[i+1:]
		if slashes {
			if strings.Contains(t.user, ":") {
				return t, fmt.Errorf("the target at %q has a password in it, which every list of processes shows: use a key or an agent, or for winrm INGOT_WINRM_PASSWORD", host)
			}
			u, err := url.PathUnescape(t.user)
			if err != nil {
				return t, fmt.Errorf("%q: the user's name is no part of an address: write %% as %%25", spec)
			}
			t.user = u
		}
		if t.user == "" {
			return t, fmt.Errorf("%q: there is no user's name before the @", spec)
		}
	}
	if h, p, err := net.SplitHostPort(host); slashes && err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return t, fmt.Errorf("%q: %q is no port", spec, p)
		}
		host, t.port = h, int(n)
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	switch {
	case host == "":
		return t, fmt.Errorf("%q names no host", spec)
	case strings.HasPrefix(host, "-") || strings.ContainsAny(host, " /?#[]"):
		return t, fmt.Errorf("%q: %q is no host", spec, host)
	}
	t.host = host
	return t, nil
}

// parseTargets takes all targets apart, and says of every one what is wrong.
func parseTargets(specs []string) ([]target, error) {
	var all []target
	var errs []error
	seen := map[string]bool{}
	for _, s := range specs {
		t, err := parseTarget(s)
		if err == nil && seen[s] {
			err = fmt.Errorf("target %s is given twice", s)
		}
		seen[s] = true
		all, errs = append(all, t), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// enterForTargets runs the program again in a user namespace where a normal
// user needs one for a target, and gives its exit status then.
func enterForTargets(targets []target) (status int, entered bool, err error) {
	has := func(kind string) bool {
		return slices.ContainsFunc(targets, func(t target) bool { return t.kind == kind })
	}
	if !has("image") || !userns.Needed() {
		return 0, false, nil
	}
	if has("local") {
		return 0, true, errors.New("an image needs a user namespace here, in which this host's files would belong to nobody: look at local: in a run of its own, or run as root")
	}
	status, err = userns.Enter()
	return status, true, err
}

// enterForTargets is the function of that name for verbs: what is wrong is said.
func (c *cli) enterForTargets(targets []target) (status int, entered bool) {
	status, entered, err := enterForTargets(targets)
	if err != nil {
		return c.specUsage(err), true
	}
	return status, entered
}

// openTarget connects to the machine, or boots it. close gives everything back
// that it took, also after ctx has ended. What it warns of goes to events.
func openTarget(ctx context.Context, spec string, o targetOptions, events event.Scope) (m machine.Machine, close func() error, err error) {
	t, err := parseTarget(spec)
	if err != nil {
		return nil, nil, err
	}
	switch t.kind {
	case "local":
		m = local.Machine{}
	case "docker":
		m, err = dockermachine.Open(ctx, dockermachine.Config{Container: t.host})
	case "image":
		return openImage(ctx, t, o, events)
	case "winrm":
		m, err = openWinRM(ctx, t, o, events)
	default:
		m, err = openSSH(ctx, t, o, events)
	}
	if err != nil {
		return nil, nil, err
	}
	return m, m.Close, nil
}

func openSSH(ctx context.Context, t target, o targetOptions, events event.Scope) (machine.Machine, error) {
	c := communicator.Defaults()
	c.SSHHost, c.SSHPort, c.SSHUsername = t.host, t.port, t.user
	c.SSHPrivateKeyFile, c.SSHConfigFile, c.SSHKnownHostsFile = o.key, o.sshConfig, o.knownHosts
	c.SSHAgentAuth = os.Getenv("SSH_AUTH_SOCK") != ""
	c.SSHTimeout = max(o.connectTimeout, time.Millisecond)
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	m, _, err := communicator.Connect(ctx, &c, communicator.Target{User: localUser(), Dir: dir, Person: true, Jump: o.jump}, warningsOf(events))
	return m, err
}

// localUser is whose name ssh would log in with.
func localUser() string {
	if os.Geteuid() == 0 && os.Getenv("INGOT_USER_NAMESPACE") != "" {
		return os.Getenv("USER") // root is who the namespace makes of it
	}
	if u, err := user.Current(); err == nil {
		if _, name, ok := strings.Cut(u.Username, `\`); ok { // DOMAIN\user on Windows
			return name
		}
		return u.Username
	}
	return os.Getenv("USER")
}

func openWinRM(ctx context.Context, t target, o targetOptions, events event.Scope) (machine.Machine, error) {
	c := communicator.Defaults()
	c.Communicator = communicator.WinRMKind
	c.WinRMHost, c.WinRMPort, c.WinRMUsername, c.WinRMPassword = t.host, t.port, t.user, os.Getenv("INGOT_WINRM_PASSWORD")
	c.WinRMUseSSL, c.WinRMUseNTLM, c.WinRMTimeout = true, true, max(o.connectTimeout, time.Millisecond)
	switch {
	case t.user == "":
		return nil, errors.New("who logs in? Write winrm://USER@HOST")
	case c.WinRMPassword == "":
		return nil, errors.New("there is no password for WinRM: set INGOT_WINRM_PASSWORD")
	}
	m, _, err := communicator.Connect(ctx, &c, communicator.Target{}, warningsOf(events))
	return m, err
}

// warningsOf passes only warnings on: how a machine is reached is no news here.
func warningsOf(events event.Scope) event.Scope {
	sink := events.Sink
	if sink == nil {
		return events
	}
	events.Sink = event.Func(func(e event.Event) {
		if e.Kind == event.Warning {
			sink.Emit(e)
		}
	})
	return events
}

func openImage(ctx context.Context, t target, o targetOptions, events event.Scope) (machine.Machine, func() error, error) {
	if runtime.GOOS != "linux" {
		return nil, nil, errors.New("an image can be looked into on Linux only, where a sandbox machine is booted from it")
	}
	comps, err := components()
	if err != nil {
		return nil, nil, err
	}
	b := comps.Builders["sandbox"]()
	opts, ok := b.Options().(*boxbuilder.Options)
	if !ok {
		return nil, nil, errors.New("the sandbox builder has other options than it is known for")
	}
	if opts.Base, err = imageBase(ctx, t.host); err != nil {
		return nil, nil, err
	}
	opts.Init, opts.Network = o.init, o.network
	dir, err := os.Getwd()
	if err != nil {
		return nil, nil, fmt.Errorf("find the working directory: %w", err)
	}
	// Where a machine is, its files are to be; and what is wrong is said before it is.
	if _, err := state.Dir(); err != nil {
		return nil, nil, err
	}
	for _, p := range b.Check(ctx, &builders.CheckEnv{Dir: dir}) {
		return nil, nil, errors.New(strings.TrimSpace(p.Summary + ". " + p.Detail))
	}
	store, err := openRegistry(ctx)
	if err != nil {
		return nil, nil, err
	}
	m, giveBack, err := bake.Boot(ctx, bake.BootOptions{
		Builder: b, Type: "sandbox", Name: "look into " + t.name, Store: store, Dir: dir, Events: warningsOf(events),
	})
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return m, func() error { return errors.Join(giveBack(), store.Close()) }, nil
}

// imageBase says in the sandbox builder's words what an image target is. A name
// is looked for in the store first, and then on the disk.
func imageBase(ctx context.Context, name string) (string, error) {
	for _, prefix := range []string{"oci:", "docker-archive:", "docker://"} {
		if strings.HasPrefix(name, prefix) {
			return name, nil
		}
	}
	info, err := os.Stat(name)
	layout := false // with a tag behind it
	if i := strings.LastIndexByte(name, ':'); err != nil && i > 0 {
		_, notThere := os.Stat(filepath.Join(name[:i], "oci-layout"))
		layout = notThere == nil
	}
	if !strings.ContainsAny(name, `/\`) && name != "." && name != ".." {
		_, unknown := resolveImage(ctx, name)
		if unknown == nil {
			return "image:" + name, nil
		}
		if err != nil && !layout {
			return "", fmt.Errorf("%w; and no file or directory here has that name", unknown)
		}
	}
	switch {
	case layout:
		return "oci:" + name, nil
	case err != nil:
		return "", fmt.Errorf("the image cannot be read: %w", err)
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	switch {
	case info.IsDir():
		if _, err := os.Stat(filepath.Join(name, "oci-layout")); err == nil {
			return "oci:" + abs, nil
		}
	case isDockerArchive(name):
		return "docker-archive:" + abs, nil
	}
	return abs, nil
}

// isDockerArchive tells what docker save writes from a tarball of files.
func isDockerArchive(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	const most = 2000 // entries: an archive of layers has a few for each
	for i, r := 0, tar.NewReader(f); i < most; i++ {
		h, err := r.Next()
		if err != nil {
			return false
		}
		if path.Clean(h.Name) == "manifest.json" {
			return true
		}
	}
	return false
}
