//go:build linux

package docker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/machinetest"
)

// engine connects to the engine of this host, or skips the test.
func engine(t testing.TB) *client.Client {
	t.Helper()
	cli, address, err := connect("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	if _, err := cli.Ping(t.Context(), client.PingOptions{}); err != nil {
		sandboxtest.Missing(t, "no Docker engine answers on "+address+": "+err.Error())
	}
	return cli
}

// small is a directory of every test container that has room for 1 MiB.
const small = "/small"

// start runs a container of BusyBox whose files change may alter, and returns its id.
func start(t testing.TB, cli *client.Client, change func(dir string)) string {
	t.Helper()
	dir := sandboxtest.Busybox(t)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "tmp"), 0o755), os.Chmod(filepath.Join(dir, "tmp"), os.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Write(t, dir, "etc/os-release", "NAME=Test\nID=\"ingottest\"\n", 0o644)
	if change != nil {
		change(dir)
	}
	var image bytes.Buffer
	if err := machine.DirTree(dir, "").WriteTar(t.Context(), &image); err != nil {
		t.Fatal(err)
	}
	name := "ingot-test-" + strings.ToLower(rand.Text())
	ctx := context.Background()
	res, err := cli.ImageImport(ctx, client.ImageImportSource{Source: &image, SourceName: "-"}, name, client.ImageImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res); err != nil {
		t.Fatal(err)
	}
	res.Close()
	t.Cleanup(func() {
		if _, err := cli.ImageRemove(ctx, name, client.ImageRemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})
	// A volume, because the engine's archive calls do not see a tmpfs of the container.
	if _, err := cli.VolumeCreate(ctx, client.VolumeCreateOptions{Name: name, DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=1777"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := cli.VolumeRemove(ctx, name, client.VolumeRemoveOptions{}); err != nil {
			t.Error(err)
		}
	})
	c, err := cli.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name:   name,
		Config: &container.Config{Image: name, Cmd: []string{"/bin/sleep", "100000"}},
		HostConfig: &container.HostConfig{
			NetworkMode: "none", Binds: []string{name + ":" + small},
			Tmpfs: map[string]string{"/hidden": "size=1m,mode=1777"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})
	if _, err := cli.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	return c.ID
}

func open(t testing.TB, cfg Config) machine.Machine {
	t.Helper()
	m, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// withoutTar also makes dash the shell, since BusyBox's has a tar in itself.
func withoutTar(t testing.TB) func(string) {
	return func(dir string) {
		if err := errors.Join(os.Remove(filepath.Join(dir, "bin/tar")), os.Remove(filepath.Join(dir, "bin/sh"))); err != nil {
			t.Fatal(err)
		}
		copyProgram(t, dir, "dash", "bin/sh")
	}
}

// withGNUTar puts this host's tar in the place of BusyBox's.
func withGNUTar(t testing.TB) func(string) {
	if out, err := exec.Command("tar", "--version").Output(); err != nil || !strings.Contains(string(out), "GNU tar") {
		sandboxtest.Missing(t, "needs GNU tar")
	}
	return func(dir string) {
		withoutTar(t)(dir)
		copyProgram(t, dir, "tar", "bin/tar")
	}
}

// copyProgram puts a program of this host and its libraries into a tree.
func copyProgram(t testing.TB, dir, name, to string) {
	t.Helper()
	exe, err := exec.LookPath(name)
	if err != nil {
		sandboxtest.Missing(t, "needs "+name)
	}
	libs, err := exec.Command("ldd", exe).Output()
	if err != nil {
		sandboxtest.Missing(t, "ldd cannot tell the libraries of "+exe+": "+err.Error())
	}
	for _, from := range append(regexp.MustCompile(`/\S+`).FindAllString(string(libs), -1), exe) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if from == exe {
			sandboxtest.Write(t, dir, to, string(b), 0o755)
		} else {
			sandboxtest.Write(t, dir, from, string(b), 0o755)
		}
	}
}

// link leads to the engine over TCP.
func link(t testing.TB, cli *client.Client, delay time.Duration) *machinetest.Link {
	t.Helper()
	u, err := url.Parse(cli.DaemonHost())
	if err != nil || u.Scheme != "unix" {
		sandboxtest.Missing(t, "the engine at "+cli.DaemonHost()+" is not on a socket of this host")
	}
	return machinetest.NewLink(t, func() (net.Conn, error) { return net.Dial("unix", u.Path) }, delay)
}

func TestSuite(t *testing.T) {
	cli := engine(t)
	for _, test := range []struct {
		name, user string
		change     func(testing.TB) func(string)
		variant    bool
	}{
		{"GNUTar", "", withGNUTar, false},
		{"BusyBoxTarAsUser", "nobody", nil, true},
		{"NoTarAsUser", "65534:65534", withoutTar, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if testing.Short() && test.variant && test.name != "NoTarAsUser" {
				t.Skip("its parts are in the other two")
			}
			var change func(string)
			if test.change != nil {
				change = test.change(t)
			}
			cfg := Config{Container: start(t, cli, change), User: test.user}
			machinetest.Options{
				SmallDir: small,
				Cut: func(t *testing.T, after int64) machine.Machine {
					l := link(t, cli, 0)
					cut := cfg
					cut.Host = "tcp://" + l.Addr()
					m := open(t, cut)
					l.CutAfter(after)
					return m
				},
				Slow: func(t *testing.T) machine.Machine {
					slow := cfg
					slow.Host = "tcp://" + link(t, cli, machinetest.SlowDelay).Addr()
					return open(t, slow)
				},
				Variant: test.variant,
			}.Run(t, func() machine.Machine { return open(t, cfg) })
		})
	}
}

func sh(t testing.TB, m machine.Machine, line string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	if err := m.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &stderr}); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, stderr.String())
	}
	return strings.TrimSpace(out.String())
}

func TestConfig(t *testing.T) {
	cli := engine(t)
	id := start(t, cli, nil)
	m := open(t, Config{Container: id, User: "nobody", Dir: "/etc"})
	defer m.Close()
	if got, want := sh(t, m, "pwd; id -un; cat passwd | wc -l"), "/etc\nnobody\n2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := machine.Platform{OS: "linux", Family: "ingottest", Arch: runtime.GOARCH, Shell: "sh"}
	if got := m.Platform(); got != want {
		t.Errorf("platform %+v, want %+v", got, want)
	}
	relative := open(t, Config{Container: id, Dir: "/tmp", Shell: "/bin/ash"})
	defer relative.Close()
	if err := relative.Put(t.Context(), "-made here", machine.BytesTree("f", []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, m, "ls /tmp"); got != "-made here" {
		t.Errorf("/tmp has %q", got)
	}
}

// A user's files are the user's, whatever owner the tree says; root's are the tree's.
func TestOwner(t *testing.T) {
	cli := engine(t)
	for name, change := range map[string]func(string){"tar": nil, "no tar": withoutTar(t)} {
		id := start(t, cli, change)
		tree := machine.BytesTree("f", nil, fs.ModeSetuid|0o755)
		tree.UID, tree.GID = 12, 34
		for user, want := range map[string]string{"": "12 34 4755", "nobody": "65534 65534 4755"} {
			m := open(t, Config{Container: id, User: user})
			if err := m.Put(t.Context(), "/tmp/of"+user, tree); err != nil {
				t.Errorf("%s, user %q: %v", name, user, err)
			}
			if got := sh(t, m, "stat -c '%u %g %a' /tmp/of"+user+"/f"); got != want {
				t.Errorf("%s, user %q: %s, want %s", name, user, got, want)
			}
			if err := m.Put(t.Context(), "/etc/new", tree); user != "" && err == nil {
				t.Errorf("%s: user %q may write to /etc", name, user)
			}
			m.Close()
		}
	}
}

// What the engine's archive calls do not see is refused, not lost.
func TestHiddenFromTheEngine(t *testing.T) {
	cli := engine(t)
	m := open(t, Config{Container: start(t, cli, withoutTar(t))})
	defer m.Close()
	sh(t, m, "echo secret >/hidden/f && ln -s /hidden /tmp/link && mkdir /tmp/d && ln -s /hidden/f /tmp/d/to-f")
	for _, dst := range []string{"/hidden", "/hidden/sub", "/tmp/link/x"} {
		if err := m.Put(t.Context(), dst, machine.BytesTree("g", nil, 0o600)); err == nil || !strings.Contains(err.Error(), "only the container sees") {
			t.Errorf("Put to %s: %v", dst, err)
		}
	}
	if err := m.Put(t.Context(), "/", machine.BytesTree("hidden/g", nil, 0o600)); err == nil || !strings.Contains(err.Error(), "/hidden/g") {
		t.Errorf("Put to / of hidden/g: %v", err)
	}
	for _, src := range []string{"/hidden", "/hidden/f", "/tmp/link", "/tmp/link/f", "/tmp/d/to-f", "/"} {
		if err := m.Get(t.Context(), src, machine.DirSink(t.TempDir())); err == nil || !strings.Contains(err.Error(), "only the container sees") {
			t.Errorf("Get of %s: %v", src, err)
		}
	}
}

func TestContainerDies(t *testing.T) {
	cli := engine(t)
	big := make([]byte, 64<<20)
	for name, use := range map[string]func(m machine.Machine, begun io.Writer) error{
		"Run": func(m machine.Machine, begun io.Writer) error {
			return m.Run(t.Context(), machine.Command{Line: "echo begun; sleep 1000", Stdout: begun})
		},
		"Put": func(m machine.Machine, begun io.Writer) error {
			return m.Put(t.Context(), "/tmp/x", dribble{begun})
		},
		"Get": func(m machine.Machine, begun io.Writer) error {
			if err := m.Put(t.Context(), "/tmp/d", machine.BytesTree("f", big, 0o600)); err != nil {
				return err
			}
			return m.Get(t.Context(), "/tmp/d", slowSink{begun})
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := start(t, cli, nil)
			m := open(t, Config{Container: id})
			defer m.Close()
			r, w := io.Pipe()
			done := make(chan error, 1)
			go func() {
				err := use(m, w)
				w.Close()
				done <- err
			}()
			if _, err := r.Read(make([]byte, 100)); err != nil {
				t.Fatalf("it did not begin: %v", <-done)
			}
			go io.Copy(io.Discard, r)
			if _, err := cli.ContainerKill(t.Context(), id, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
				t.Fatal(err)
			}
			err := <-done
			if exit, ok := errors.AsType[*machine.ExitError](err); !ok || exit.Status != machine.DisconnectStatus {
				t.Errorf("error %v, want one with the status of a disconnect", err)
			}
			if err := m.Run(t.Context(), machine.Command{Line: "true"}); err == nil || !strings.Contains(err.Error(), "not running") {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// dribble is a tree without end.
type dribble struct{ begun io.Writer }

func (d dribble) WriteTar(ctx context.Context, w io.Writer) error {
	r, pw := io.Pipe()
	go func() {
		_ = machine.BytesTree("f", make([]byte, 1<<30), 0o600).WriteTar(ctx, pw)
		pw.Close()
	}()
	defer r.Close()
	if _, err := io.CopyN(w, r, 4<<20); err != nil {
		return err
	}
	if _, err := d.begun.Write([]byte("x")); err != nil {
		return err
	}
	for {
		if _, err := io.CopyN(w, r, 4<<10); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

type slowSink struct{ begun io.Writer }

func (s slowSink) ReadTar(ctx context.Context, r io.Reader) error {
	if _, err := io.CopyN(s.begun, r, 1<<20); err != nil {
		return err
	}
	for {
		if _, err := io.CopyN(io.Discard, r, 4<<10); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func TestEngineGone(t *testing.T) {
	cli := engine(t)
	l := link(t, cli, 0)
	m := open(t, Config{Container: start(t, cli, nil), Host: "tcp://" + l.Addr()})
	defer m.Close()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- m.Run(t.Context(), machine.Command{Line: "echo begun; sleep 1000", Stdout: w}) }()
	if _, err := r.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	for i, err := range []error{<-done, m.Run(t.Context(), machine.Command{Line: "true"}),
		m.Put(t.Context(), "/tmp/x", machine.BytesTree("f", nil, 0o600)), m.Get(t.Context(), "/etc", machine.DirSink(t.TempDir()))} {
		if err == nil || !strings.Contains(err.Error(), "the Docker engine at tcp://"+l.Addr()+" does not answer") {
			t.Errorf("%d: %v", i, err)
		}
		if _, ok := errors.AsType[*machine.ExitError](err); ok {
			t.Errorf("%d: %v is an exit status", i, err)
		}
	}
}

// A connection that breaks while the engine lives: the command is stopped.
func TestConnectionBroken(t *testing.T) {
	cli := engine(t)
	id := start(t, cli, nil)
	l := link(t, cli, 0)
	m := open(t, Config{Container: id, Host: "tcp://" + l.Addr()})
	defer m.Close()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- m.Run(t.Context(), machine.Command{Line: "echo begun; sleep 1000", Stdout: w}) }()
	if _, err := r.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	l.Break()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "broke while the command ran; it was stopped") {
		t.Errorf("error %v", err)
	}
	idle(t, cli, id)
}

func TestOpenErrors(t *testing.T) {
	cli := engine(t)
	stopped := start(t, cli, nil)
	if _, err := cli.ContainerKill(t.Context(), stopped, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	noShell := start(t, cli, nil)
	for name, test := range map[string]struct {
		cfg Config
		say string
	}{
		"nothing":     {Config{}, "no container is named"},
		"missing":     {Config{Container: "ingot-no-such-container"}, "has no container ingot-no-such-container"},
		"stopped":     {Config{Container: stopped}, "is not running"},
		"no shell":    {Config{Container: noShell, Shell: "/bin/nosh"}, "cannot start /bin/nosh"},
		"no user":     {Config{Container: noShell, User: "nosuch"}, "nosuch"},
		"no dir":      {Config{Container: noShell, Dir: "/etc/passwd"}, "/etc/passwd"},
		"no engine":   {Config{Container: noShell, Host: "unix:///no/such/socket"}, "the Docker engine at unix:///no/such/socket does not answer"},
		"odd address": {Config{Container: noShell, Host: "nonsense"}, "address of the Docker engine"},
	} {
		m, err := Open(t.Context(), test.cfg)
		if err == nil {
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: error %v, want one with %q", name, err, test.say)
		}
	}
}

const helperEnv = "INGOT_TEST_DOCKER_CONTAINER"

// TestContexts finds the engine as the docker command does, each time in a
// process of its own, since docker's library looks at its environment once.
func TestContexts(t *testing.T) {
	if id := os.Getenv(helperEnv); id != "" {
		m := open(t, Config{Container: id})
		defer m.Close()
		sh(t, m, "true")
		return
	}
	cli := engine(t)
	docker, err := exec.LookPath("docker")
	if err != nil {
		sandboxtest.Missing(t, "needs the docker command, to write its configuration")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	id, host, home := start(t, cli, nil), cli.DaemonHost(), t.TempDir()
	cmd := exec.Command(docker, "context", "create", "made", "--docker", "host="+host)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, test := range map[string]struct {
		env  []string
		fail string
	}{
		"by name":     {[]string{"DOCKER_CONTEXT=made"}, ""},
		"by host":     {[]string{"DOCKER_HOST=" + host, "DOCKER_CONTEXT=unknown"}, ""},
		"unknown":     {[]string{"DOCKER_CONTEXT=unknown"}, `docker context "unknown"`},
		"nobody home": {[]string{"DOCKER_HOST=tcp://127.0.0.1:1"}, "does not answer"},
	} {
		cmd := exec.Command(self, "-test.run=^TestContexts$", "-test.v")
		cmd.Env = append(os.Environ(), "DOCKER_HOST=", "DOCKER_CONFIG="+home, helperEnv+"="+id)
		cmd.Env = append(cmd.Env, test.env...)
		out, err := cmd.CombinedOutput()
		if test.fail == "" && err != nil || test.fail != "" && (err == nil || !strings.Contains(string(out), test.fail)) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// idle waits until nothing runs in the container but its first process.
func idle(t testing.TB, cli *client.Client, id string) {
	t.Helper()
	var procs, execs []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		top, err := cli.ContainerTop(t.Context(), id, client.ContainerTopOptions{Arguments: []string{"-o", "pid,stat,args"}})
		if err != nil {
			t.Fatal(err)
		}
		procs = nil
		for _, p := range top.Processes {
			if !strings.HasPrefix(p[1], "Z") {
				procs = append(procs, strings.Join(p, " "))
			}
		}
		c, err := cli.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if execs = c.Container.ExecIDs; len(procs) == 1 && len(execs) == 0 {
			return
		}
	}
	t.Errorf("in the container are left: processes %q, execs %v", procs, execs)
}

// A command's processes hide as well as they can; cancelling finds them.
func TestCancelFindsAll(t *testing.T) {
	cli := engine(t)
	id := start(t, cli, nil)
	for _, user := range []string{"", "nobody"} {
		m := open(t, Config{Container: id, User: user})
		ctx, cancel := context.WithCancel(t.Context())
		err := m.Run(ctx, machine.Command{Line: `trap '' TERM HUP INT
setsid sleep 1000 &
setsid sh -c 'sleep 1000 & setsid sleep 1000 & wait' &
(sleep 1000 &) &
d=$(mktemp -d); cd "$d"
for name in ') Z 1 1 1' 'a
b) 1'; do printf '#!/bin/sh\nsleep 1000; true\n' >"$name" && chmod +x "$name" && { setsid "./$name" & }; done
sleep 0.2
echo ready
while :; do (sleep 1000); done`, Stdout: writer(func(p []byte) (int, error) { cancel(); return len(p), nil })})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("user %q: %v", user, err)
		}
		idle(t, cli, id)
		m.Close()
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// A process that the command leaves behind keeps neither Run nor its output waiting.
func TestLeftBehind(t *testing.T) {
	cli := engine(t)
	m := open(t, Config{Container: start(t, cli, nil)})
	defer m.Close()
	begin := time.Now()
	if got := sh(t, m, "(sleep 0.3; echo late; sleep 1000) & echo said"); got != "said" {
		t.Errorf("got %q", got)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// What looks like a mark is not one.
func TestOutputLikeAMark(t *testing.T) {
	cli := engine(t)
	m := open(t, Config{Container: start(t, cli, nil)})
	defer m.Close()
	var out bytes.Buffer
	if err := m.Run(t.Context(), machine.Command{Line: `printf '\001AAAA 0\n\001'; exit 3`, Stdout: &out}); err == nil || err.Error() != "exit status 3" || out.String() != "\x01AAAA 0\n\x01" {
		t.Errorf("%v, %q", err, out.String())
	}
}

// TestNothingLeft: after all, the process is as before, and so is the container.
func TestNothingLeft(t *testing.T) {
	cli := engine(t)
	id := start(t, cli, nil)
	idle(t, cli, id)
	cli.Close()
	count := func() (int, int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(fds)
	}
	goroutines, descriptors := count()
	for range 3 {
		m := open(t, Config{Container: id})
		sh(t, m, "echo x | cat; (exit 3); true")
		if err := m.Put(t.Context(), "/tmp/d", machine.BytesTree("f", make([]byte, 1<<20), 0o600)); err != nil {
			t.Error(err)
		}
		if err := m.Get(t.Context(), "/tmp/d", machine.DirSink(t.TempDir())); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := m.Run(ctx, machine.Command{Line: "echo x; sleep 1000 & sleep 1000", Stdin: endless{}, Stdout: writer(func(p []byte) (int, error) { cancel(); return len(p), nil })}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		if err := m.Get(ctx, "/tmp/d", slowSink{writer(func(p []byte) (int, error) { cancel(); return len(p), nil })}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	idle(t, cli, id)
	cli.Close()
	var g, d int
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if g, d = count(); g <= goroutines && d <= descriptors {
			return
		}
	}
	t.Errorf("%d goroutines, before %d; %d descriptors, before %d", g, goroutines, d, descriptors)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
