// Package machinetest is the suite that every machine passes.
package machinetest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/machine"
)

// patience is far more than any step of the suite takes; it only turns a hang
// into a failure.
const patience = 2 * time.Minute

// Options is what the suite needs to know to try a machine's limits.
type Options struct {
	// SmallDir is a directory on the machine, writable by the machine's user,
	// on a file system of its own with room for less than 128 MiB. Where it is
	// empty the suite mounts a tmpfs on the machine, for which the user must be
	// root there.
	SmallDir string
	// Cut opens the same machine once more, over a connection that breaks when
	// after bytes have passed, both directions counted together; see Link. It
	// closes what it opened when t ends. nil: the machine has no connection.
	Cut func(t *testing.T, after int64) machine.Machine
	// Slow opens the same machine once more, over a connection on which each
	// byte takes SlowDelay; see Link. nil: the machine has no connection.
	Slow func(t *testing.T) machine.Machine
	// Variant says that the suite has run in full for a machine that differs
	// only in details: amounts then stay small.
	Variant bool
	// Beside says that other tests run in this process at the same time, so
	// that what the suite leaves in it cannot be counted.
	Beside bool
}

// SlowDelay is how long each byte is under way, in each direction, on the
// connection of Options.Slow.
const SlowDelay = 20 * time.Millisecond

// Run tests the Unix machine that newMachine makes. newMachine is called once;
// Run closes the machine. Everything on the machine stands below directories
// that `mktemp -d` makes and below Options.SmallDir, and is removed.
func Run(t *testing.T, newMachine func() machine.Machine) { Options{}.Run(t, newMachine) }

// Run is Run with options. In CI, and without -short, the suite works with
// 10,000 files and with 1 GiB; elsewhere with a tenth or less.
func (o Options) Run(t *testing.T, newMachine func() machine.Machine) {
	s := &suite{Options: o, m: newMachine()}
	t.Cleanup(func() {
		if err := s.m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Platform", s.platform},
		{"Quoting", s.quoting},
		{"ExitStatus", s.exitStatus},
		{"Signals", s.signals},
		{"SignalledWhileRunning", s.signalledWhileRunning},
		{"Environment", s.environment},
		{"Streams", s.streams},
		{"Stdin", s.stdin},
		{"Conversation", s.conversation},
		{"BinaryData", s.binaryData},
		{"HugeOutput", s.hugeOutput},
		{"FailingOutputWriter", s.failingWriter},
		{"Background", s.background},
		{"Concurrent", s.concurrent},
		{"Cancel", s.cancel},
		{"CancelStreaming", s.cancelStreaming},
		{"CancelledBefore", s.cancelledBefore},
		{"PutAttributes", s.putAttributes},
		{"PutOverExisting", s.putOverExisting},
		{"PutThroughLinkedDirectory", s.putThroughLinkedDirectory},
		{"ManySmallFiles", s.manySmallFiles},
		{"BigFile", s.bigFile},
		{"DeepPaths", s.deepPaths},
		{"OddNames", s.oddNames},
		{"GetFileAndDirectory", s.getFileAndDirectory},
		{"GetMissing", s.getMissing},
		{"GetIntoFailingSink", s.getIntoFailingSink},
		{"GetEscape", s.getEscape},
		{"PutFailingTree", s.putFailingTree},
		{"PutBelowAFile", s.putBelowAFile},
		{"PutCancelled", s.putCancelled},
		{"GetCancelled", s.getCancelled},
		{"DiskFull", s.diskFull},
		{"CutConnection", s.cutConnection},
		{"SlowLink", s.slowLink},
		{"NothingLeft", s.nothingLeft},
	} {
		t.Run(test.name, test.run)
	}
}

type suite struct {
	Options
	m machine.Machine
}

// full says whether the amounts are those of CI's test run.
func (s *suite) full() bool { return !s.Variant && !testing.Short() && os.Getenv("CI") == "true" }

func (s *suite) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// run returns what the command wrote to stdout.
func (s *suite) run(t *testing.T, line string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	err := s.m.Run(s.ctx(t), machine.Command{Line: line, Stdout: &out, Stderr: &stderr})
	if err != nil {
		t.Fatalf("run %.200q: %v\n%.2000s", line, err, stderr.String())
	}
	return out.String()
}

// dir makes a temporary directory on the machine.
func (s *suite) dir(t *testing.T) string {
	t.Helper()
	dir := strings.TrimSuffix(s.run(t, "mktemp -d"), "\n")
	if !path.IsAbs(dir) {
		t.Fatalf("mktemp -d printed %q", dir)
	}
	t.Cleanup(func() {
		// t's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		q := machine.Quote(dir)
		if err := s.m.Run(ctx, machine.Command{Line: "chmod -R u+rwX " + q + "; rm -rf " + q}); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}

func (s *suite) put(t *testing.T, dst string, tree machine.Tree) {
	t.Helper()
	if err := s.m.Put(s.ctx(t), dst, tree); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

// files is a Sink that keeps all in memory, so that no name must fit this host.
type files map[string]file

type file struct {
	tar.Header
	content []byte
}

func (f files) ReadTar(_ context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		if name := path.Clean(h.Name); name != "." {
			f[name] = file{*h, b}
		}
	}
}

func (s *suite) get(t *testing.T, src string) files {
	t.Helper()
	f := files{}
	if err := s.m.Get(s.ctx(t), src, f); err != nil {
		t.Fatalf("Get: %v", err)
	}
	return f
}

func wantExit(t *testing.T, err error, status int) {
	t.Helper()
	exit, ok := errors.AsType[*machine.ExitError](err)
	if !ok || exit.Status != status {
		t.Errorf("error %v, want exit status %d", err, status)
	}
}

func (s *suite) platform(t *testing.T) {
	p := s.m.Platform()
	if p.OS == "" || p.Arch == "" || p.Shell != "sh" {
		t.Errorf("platform %+v: OS and Arch must be known, and Shell be sh", p)
	}
}

func (s *suite) quoting(t *testing.T) {
	words := []string{
		"plain", "", " ", "two words", "it's", `"double"`, "$HOME", "`id`", "$(id)", `back\slash\n`, "new\nline",
		"tab\t", "*", "?", "[a]", "~", "~root", "#x", "a;b", "a&b", "|", ">x", "<x", "!h", "{a,b}", "(", "%s", "é世界🙂", "bad\xff\xfeutf8", "\x01\x7f",
		"-n", "--", "'", "''", strings.Repeat("long ", 2000),
	}
	for _, w := range words {
		if got := s.run(t, "printf %s "+machine.Quote(w)); got != w && w != "-n" && w != "--" {
			t.Errorf("word %.50q came as %.50q", w, got)
		}
	}
	got := s.run(t, "f() { printf '<%s>' \"$@\"; }; f "+machine.Quote(words...))
	want := "<" + strings.Join(words, "><") + ">"
	if got != want {
		t.Errorf("all words: got %.500q, want %.500q", got, want)
	}
}

func (s *suite) exitStatus(t *testing.T) {
	if err := s.m.Run(s.ctx(t), machine.Command{Line: "exit 0"}); err != nil {
		t.Errorf("exit 0: %v", err)
	}
	for _, n := range []int{1, 2, 3, 100, 126, 127, 128, 255} {
		wantExit(t, s.m.Run(s.ctx(t), machine.Command{Line: fmt.Sprintf("echo out; exit %d", n)}), n)
	}
	wantExit(t, s.m.Run(s.ctx(t), machine.Command{Line: "/no/such/command"}), 127)
	wantExit(t, s.m.Run(s.ctx(t), machine.Command{Line: "false"}), 1)
	if err := s.m.Run(s.ctx(t), machine.Command{Line: "( # a subshell that is not closed"}); err == nil {
		t.Error("a syntax error is no error")
	}
}

func (s *suite) signals(t *testing.T) {
	for _, n := range []int{1, 2, 9, 10, 13, 14, 15} { // HUP INT KILL USR1 PIPE ALRM TERM
		wantExit(t, s.m.Run(s.ctx(t), machine.Command{Line: fmt.Sprintf("kill -%d $$", n)}), 128+n)
	}
	var stderr bytes.Buffer
	wantExit(t, s.m.Run(s.ctx(t), machine.Command{Line: "echo before >&2; kill -KILL $$", Stderr: &stderr}), 137)
	if stderr.String() != "before\n" {
		t.Errorf("stderr %q has more than the command wrote", stderr.String())
	}
}

// signalledWhileRunning: the command has been going for a while, and another one ends it.
func (s *suite) signalledWhileRunning(t *testing.T) {
	for _, test := range []struct {
		line   string
		status int
		said   string
	}{
		{"echo $$; exec sleep 1000", 143, ""},
		{"trap 'echo caught; exit 7' TERM; echo $$; while :; do sleep 0.1; done", 7, "caught\n"},
	} {
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- s.m.Run(s.ctx(t), machine.Command{Line: test.line, Stdout: w})
			w.Close()
		}()
		out := bufio.NewReader(r)
		pid, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("the command did not say its pid: %v (%v)", err, <-done)
		}
		s.run(t, "kill -TERM "+machine.Quote(strings.TrimSpace(pid)))
		said, err := io.ReadAll(out)
		if err != nil || string(said) != test.said {
			t.Errorf("%v, it said %q, want %q", err, said, test.said)
		}
		wantExit(t, <-done, test.status)
	}
}

func (s *suite) environment(t *testing.T) {
	env := map[string]string{
		"PLAIN": "x", "EMPTY": "", "SPACES": " a  b ", "QUOTES": `it's "so"`, "DOLLAR": "$HOME `id`",
		"LINES": "one\ntwo\n", "BACK": `\n\\`, "BYTES": "\xff\x01é", "_under9": "y",
	}
	for name, want := range env {
		var out bytes.Buffer
		err := s.m.Run(s.ctx(t), machine.Command{Line: "printf '<%s>' \"$" + name + `"`, Env: env, Stdout: &out})
		if err != nil || out.String() != "<"+want+">" {
			t.Errorf("%s: %v, got %q, want %q", name, err, out.String(), want)
		}
	}
	if path := s.run(t, `printf %s "$PATH"`); path == "" {
		t.Error("the machine's own environment is missing: PATH is empty")
	}
}

func (s *suite) streams(t *testing.T) {
	var out, stderr bytes.Buffer
	err := s.m.Run(s.ctx(t), machine.Command{Line: "echo out; echo err >&2; printf end", Stdout: &out, Stderr: &stderr})
	if err != nil || out.String() != "out\nend" || stderr.String() != "err\n" {
		t.Errorf("%v, stdout %q, stderr %q", err, out.String(), stderr.String())
	}
	if err := s.m.Run(s.ctx(t), machine.Command{Line: "echo nobody; echo listens >&2"}); err != nil {
		t.Errorf("discarded output: %v", err)
	}
}

func (s *suite) stdin(t *testing.T) {
	if got := s.run(t, "cat; echo end"); got != "end\n" {
		t.Errorf("no stdin: got %q", got)
	}
	var out bytes.Buffer
	if err := s.m.Run(s.ctx(t), machine.Command{Line: "cat; echo end", Stdin: strings.NewReader("in"), Stdout: &out}); err != nil || out.String() != "inend\n" {
		t.Errorf("%v, got %q", err, out.String())
	}
	// Stdin that nobody reads, endless or silent, keeps no command from ending.
	if err := s.m.Run(s.ctx(t), machine.Command{Line: "true", Stdin: endless{}}); err != nil {
		t.Errorf("endless stdin: %v", err)
	}
	silent, w := io.Pipe()
	defer w.Close()
	if err := s.m.Run(s.ctx(t), machine.Command{Line: "true", Stdin: silent}); err != nil {
		t.Errorf("silent stdin: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// conversation shows that neither direction is held back until the end.
func (s *suite) conversation(t *testing.T) {
	in, toMachine := io.Pipe()
	fromMachine, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := s.m.Run(s.ctx(t), machine.Command{Line: "echo ready; read a; echo got $a; read b; echo got $b", Stdin: in, Stdout: out})
		out.CloseWithError(io.EOF)
		in.Close()
		done <- err
	}()
	lines := bufio.NewReader(fromMachine)
	for _, turn := range []struct{ hear, say string }{{"ready\n", "one\n"}, {"got one\n", "two\n"}, {"got two\n", ""}} {
		if line, err := lines.ReadString('\n'); line != turn.hear {
			t.Fatalf("heard %q (%v), want %q", line, err, turn.hear)
		}
		if turn.say != "" {
			if _, err := io.WriteString(toMachine, turn.say); err != nil {
				t.Fatalf("say %q: %v", turn.say, err)
			}
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func allBytes() []byte {
	b := make([]byte, 0, 1024)
	for i := range 1024 {
		b = append(b, byte(i))
	}
	return b
}

func (s *suite) binaryData(t *testing.T) {
	var out, stderr bytes.Buffer
	err := s.m.Run(s.ctx(t), machine.Command{Line: "cat | tee /dev/stderr", Stdin: bytes.NewReader(allBytes()), Stdout: &out, Stderr: &stderr})
	if err != nil || !bytes.Equal(out.Bytes(), allBytes()) || !bytes.Equal(stderr.Bytes(), allBytes()) {
		t.Errorf("%v; stdout or stderr differ from stdin", err)
	}
	dir := s.dir(t)
	s.put(t, dir, machine.BytesTree("bin", allBytes(), 0o600))
	if got := s.run(t, "cat "+machine.Quote(dir+"/bin")); got != string(allBytes()) {
		t.Error("a file that was put differs")
	}
	if got := s.get(t, dir+"/bin")["bin"].content; !bytes.Equal(got, allBytes()) {
		t.Error("a file that was got differs")
	}
}

type counter struct {
	n    int64
	odd  bool
	want byte
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	c.odd = c.odd || bytes.Count(p, []byte{c.want}) != len(p)
	return len(p), nil
}

func (s *suite) hugeOutput(t *testing.T) {
	const size = 64 << 20
	var out counter
	err := s.m.Run(s.ctx(t), machine.Command{Line: "dd if=/dev/zero bs=1048576 count=64 2>/dev/null", Stdout: &out})
	if err != nil || out.n != size || out.odd {
		t.Errorf("%v, %d bytes of %d, damaged: %v", err, out.n, size, out.odd)
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken on purpose")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func (s *suite) failingWriter(t *testing.T) {
	ctx := s.ctx(t)
	err := s.m.Run(ctx, machine.Command{Line: "dd if=/dev/zero bs=1048576 count=4 2>/dev/null", Stdout: brokenWriter{}})
	if err == nil || ctx.Err() != nil {
		t.Errorf("error %v (context: %v), want one: output was lost", err, ctx.Err())
	}
}

// background: a process left behind does not keep Run from returning.
func (s *suite) background(t *testing.T) {
	pid := strings.TrimSpace(s.run(t, "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"))
	s.run(t, "kill "+machine.Quote(pid))
}

func (s *suite) concurrent(t *testing.T) {
	dir := s.dir(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			want := strings.Repeat(fmt.Sprintf("line of %d\n", i), 200)
			name := fmt.Sprintf("f%d", i)
			if err := s.m.Put(s.ctx(t), dir+"/"+name, machine.BytesTree(name, []byte(want), 0o600)); err != nil {
				t.Errorf("Put %d: %v", i, err)
				return
			}
			var out bytes.Buffer
			err := s.m.Run(s.ctx(t), machine.Command{Line: "cat " + machine.Quote(dir+"/"+name+"/"+name) + "; exit " + fmt.Sprint(i), Stdout: &out})
			if exit, ok := errors.AsType[*machine.ExitError](err); i > 0 && (!ok || exit.Status != i) || i == 0 && err != nil {
				t.Errorf("command %d: %v", i, err)
			}
			if out.String() != want {
				t.Errorf("command %d has another's output", i)
			}
		})
	}
	wg.Wait()
}

// cancel: the command, its children, those that ignore SIGTERM and those that
// have a session of their own are gone once the context has ended.
func (s *suite) cancel(t *testing.T) {
	ctx, cancel := context.WithCancel(s.ctx(t))
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- s.m.Run(ctx, machine.Command{Line: "trap '' TERM HUP INT\n" +
			"own=$(command -v setsid); sleep 1000 & a=$!; $own sleep 1000 & c=$!; (sleep 1000 & echo $!; wait) & b=$!; echo $$ $a $b $c ready; while :; do sleep 1000; done", Stdout: w})
		w.Close()
	}()
	var pids []string
	lines := bufio.NewScanner(r)
	ready := false
	for len(pids) < 5 && lines.Scan() {
		for _, word := range strings.Fields(lines.Text()) {
			if word == "ready" {
				ready = true
			} else {
				pids = append(pids, word)
			}
		}
	}
	if !ready || len(pids) != 5 {
		t.Fatalf("the command said %v", pids)
	}
	go io.Copy(io.Discard, r)
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Run has not returned 30 s after its context ended")
	}
	// A process that has ended may remain as a zombie until someone collects it.
	s.run(t, "alive() { kill -0 $1 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' /proc/$1/status 2>/dev/null; }\n"+
		"for p in "+machine.Quote(pids...)+"; do n=0; while alive $p; do n=$((n+1)); "+
		"if [ $n -gt 600 ]; then echo process $p is still there >&2; exit 1; fi; sleep 0.1; done; done")
	if got := s.run(t, "echo still usable"); got != "still usable\n" {
		t.Errorf("afterwards: %q", got)
	}
}

// cancelStreaming: the context ends while both directions are busy.
func (s *suite) cancelStreaming(t *testing.T) {
	ctx, cancel := context.WithCancel(s.ctx(t))
	flowing := make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		done <- s.m.Run(ctx, machine.Command{Line: "cat", Stdin: endless{}, Stdout: writerFunc(func(p []byte) (int, error) {
			once.Do(func() { close(flowing) })
			return len(p), nil
		})})
	}()
	select {
	case <-flowing:
	case err := <-done:
		t.Fatalf("the command ended by itself: %v", err)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Run has not returned 30 s after its context ended")
	}
	if got := s.run(t, "echo still usable"); got != "still usable\n" {
		t.Errorf("afterwards: %q", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s *suite) cancelledBefore(t *testing.T) {
	dir := s.dir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.m.Run(ctx, machine.Command{Line: "touch " + machine.Quote(dir+"/ran")}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if got := s.run(t, "ls "+machine.Quote(dir)); got != "" {
		t.Error("the command ran")
	}
}

// sample makes a tree of this host that has one of everything.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub/empty"), 0o755),
		os.WriteFile(filepath.Join(dir, "script"), []byte("#!/bin/sh\n"), 0o600),
		os.Chmod(filepath.Join(dir, "script"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub/secret"), []byte("s"), 0o600),
		os.WriteFile(filepath.Join(dir, "sub/nothing"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "sub/read-only"), []byte("r"), 0o444),
		os.Symlink("../script", filepath.Join(dir, "sub/link")),
		os.Symlink("missing", filepath.Join(dir, "sub/dangling")),
		os.Link(filepath.Join(dir, "script"), filepath.Join(dir, "twin")),
		os.Chtimes(filepath.Join(dir, "script"), old, old),
		os.Chtimes(filepath.Join(dir, "sub/secret"), old, old),
		os.Chmod(filepath.Join(dir, "sub/empty"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (s *suite) putAttributes(t *testing.T) {
	dst := s.dir(t) + "/made/for it"
	s.put(t, dst, machine.DirTree(sample(t), "p"))
	got := s.get(t, dst)
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	// Which of a file's two names comes first is for the machine's tar to say.
	first, second := "p/script", "p/twin"
	if got[first].Typeflag == tar.TypeLink {
		first, second = second, first
	}
	got["the script"] = got[first]
	for _, want := range []struct {
		name    string
		kind    byte
		mode    int64
		content string
		old     bool
	}{
		{"the script", tar.TypeReg, 0o755, "#!/bin/sh\n", true},
		{"p/sub/secret", tar.TypeReg, 0o600, "s", true},
		{"p/sub/nothing", tar.TypeReg, 0o644, "", false},
		{"p/sub/read-only", tar.TypeReg, 0o444, "r", false},
		{"p/sub/empty", tar.TypeDir, 0o700, "", false},
	} {
		f, ok := got[want.name]
		if !ok || f.Typeflag != want.kind || f.Mode&0o7777 != want.mode || string(f.content) != want.content {
			t.Errorf("%s: present %v, kind %c, mode %o, content %q; want %c, %o, %q", want.name, ok, f.Typeflag, f.Mode, f.content, want.kind, want.mode, want.content)
		}
		if want.old && f.ModTime.Unix() != old.Unix() {
			t.Errorf("%s: time %v, want %v", want.name, f.ModTime.UTC(), old)
		}
	}
	for name, target := range map[string]string{"p/sub/link": "../script", "p/sub/dangling": "missing"} {
		if f := got[name]; f.Typeflag != tar.TypeSymlink || f.Linkname != target {
			t.Errorf("%s: kind %c to %q, want a symbolic link to %q", name, f.Typeflag, f.Linkname, target)
		}
	}
	q := machine.Quote
	s.run(t, "test "+q(dst+"/p/script")+" -ef "+q(dst+"/p/twin"))
	if f := got[second]; f.Typeflag != tar.TypeLink || path.Clean(f.Linkname) != first {
		t.Errorf("%s came back as kind %c to %q, want a hard link to %s", second, f.Typeflag, f.Linkname, first)
	}
}

func (s *suite) putOverExisting(t *testing.T) {
	dir := s.dir(t)
	q := machine.Quote
	s.run(t, "cd "+q(dir)+" && echo old >f && chmod 400 f && echo outside >target && ln -s target link && mkdir d && echo stays >d/stays")
	s.put(t, dir, machine.Join(machine.BytesTree("f", []byte("new"), 0o644), machine.BytesTree("link", []byte("new"), 0o644), machine.BytesTree("d/added", nil, 0o644)))
	if got, want := s.run(t, "cd "+q(dir)+" && cat f target link d/stays && ls d"), "newoutside\nnewstays\nadded\nstays\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// putThroughLinkedDirectory: a directory of the tree meets a link to a
// directory, as lib does in a system whose /lib leads to /usr/lib. The link stays.
func (s *suite) putThroughLinkedDirectory(t *testing.T) {
	dir := s.dir(t)
	q := machine.Quote
	s.run(t, "cd "+q(dir)+" && mkdir -p usr/lib && echo old >usr/lib/old && ln -s usr/lib lib")
	from := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(from, "lib"), 0o755), os.WriteFile(filepath.Join(from, "lib/new"), []byte("new\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	err := s.m.Put(s.ctx(t), dir, machine.DirTree(from, ""))
	got := s.run(t, "cd "+q(dir)+" && test -L lib && cat lib/old && if test -e lib/new; then cat usr/lib/new; fi")
	if err == nil && got != "old\nnew\n" || err != nil && got != "old\n" {
		t.Errorf("%v, and then %q: want the new file where the link leads, or an error and no change", err, got)
	}
}

func (s *suite) manySmallFiles(t *testing.T) {
	n := 1000
	if s.full() {
		n = 10_000
	}
	s.smallFiles(t, s.m, n)
}

func (s *suite) smallFiles(t *testing.T, m machine.Machine, n int) {
	t.Helper()
	trees := make([]*machine.Files, n)
	for i := range trees {
		trees[i] = machine.BytesTree(fmt.Sprintf("d%d/f%d", i%10, i), fmt.Appendf(nil, "content %d", i), 0o644)
	}
	dir := s.dir(t)
	if err := m.Put(s.ctx(t), dir, machine.Join(trees...)); err != nil {
		t.Fatalf("Put: %v", err)
	}
	got := files{}
	if err := m.Get(s.ctx(t), dir, got); err != nil {
		t.Fatalf("Get: %v", err)
	}
	for i := range n {
		if f := got[fmt.Sprintf("d%d/f%d", i%10, i)]; string(f.content) != fmt.Sprintf("content %d", i) {
			t.Fatalf("file %d came back as %q", i, f.content)
		}
	}
}

func (s *suite) bigFile(t *testing.T) {
	size := int64(64 << 20)
	if s.full() {
		size = 1 << 30
	}
	dir := s.dir(t)
	s.put(t, dir, noise{name: "big", size: size})
	if got := strings.TrimSpace(s.run(t, "wc -c <"+machine.Quote(dir+"/big"))); got != fmt.Sprint(size) {
		t.Errorf("%s bytes on the machine, want %d", got, size)
	}
	if err := s.m.Get(s.ctx(t), dir+"/big", noise{name: "big", size: size}); err != nil {
		t.Errorf("Get: %v", err)
	}
	// From and to files of this host.
	here := t.TempDir()
	a, b := filepath.Join(here, "a"), filepath.Join(here, "b")
	part, err := io.ReadAll(noise{size: 8 << 20}.content())
	if err == nil {
		err = os.WriteFile(a, part, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, dir, machine.FileTree(a, "part"))
	if err := s.m.Get(s.ctx(t), dir+"/part", machine.FileSink(b)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(b); err != nil || !bytes.Equal(got, part) {
		t.Errorf("a file of this host came back changed (%v)", err)
	}
}

// noise is a file of random bytes that needs no room on this host: as a tree
// it makes them, as a sink it compares.
type noise struct {
	name string
	size int64
}

func (n noise) content() io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{'i'}), n.size)
}

func (n noise) WriteTar(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n.name, Mode: 0o600, Size: n.size, ModTime: time.Now().Truncate(time.Second)}); err != nil {
		return err
	}
	content := n.content()
	for buf := make([]byte, 64<<10); ; {
		k, err := content.Read(buf)
		if _, werr := tw.Write(buf[:k]); err != nil || werr != nil || ctx.Err() != nil {
			if err == io.EOF {
				err = tw.Close()
			}
			return cmp.Or(ctx.Err(), werr, err)
		}
	}
}

func (n noise) ReadTar(_ context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	h, err := tr.Next()
	if err != nil {
		return err
	}
	if path.Clean(h.Name) != n.name || h.Size != n.size {
		return fmt.Errorf("%q of %d bytes came, not %q of %d", h.Name, h.Size, n.name, n.size)
	}
	want, is, should := n.content(), make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < n.size; {
		k, err := io.ReadFull(tr, is)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if _, err := io.ReadFull(want, should[:k]); err != nil || !bytes.Equal(is[:k], should[:k]) {
			return fmt.Errorf("the file came changed, in the %d bytes from byte %d on", k, at)
		}
		at += int64(k)
	}
	if _, err := tr.Next(); err != io.EOF {
		return fmt.Errorf("after the file: %v", err)
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

func (s *suite) deepPaths(t *testing.T) {
	dir := s.dir(t)
	deep := strings.Repeat("directory-of-thirty-characters/", 60) + strings.Repeat("n", 200)
	s.put(t, dir, machine.BytesTree(deep, []byte("down here"), 0o644))
	if got := s.run(t, "cat "+machine.Quote(dir+"/"+deep)); got != "down here" {
		t.Errorf("on the machine: %q", got)
	}
	if got := s.get(t, dir)[deep]; string(got.content) != "down here" {
		t.Errorf("came back: %q", got.content)
	}
}

func (s *suite) oddNames(t *testing.T) {
	names := []string{"caf\xe9 not UTF-8", "é世界🙂", "new\nline", " spaces ", "-rf", "*", "back\\slash", "it's", "$(id)", "tab\t", "..x", strings.Repeat("ü", 120)}
	if s.m.Platform().OS == "darwin" {
		names = names[1:] // its file system takes UTF-8 only
	}
	dir := s.dir(t)
	var trees []*machine.Files
	for _, n := range names {
		trees = append(trees, machine.BytesTree(n, []byte("in "+n), 0o644))
	}
	s.put(t, dir, machine.Join(trees...))
	got := s.get(t, dir)
	for _, n := range names {
		if string(got[n].content) != "in "+n {
			t.Errorf("%q came back as %q", n, got[n].content)
		}
		if on := s.run(t, "cat "+machine.Quote(dir+"/"+n)); on != "in "+n {
			t.Errorf("%q on the machine: %q", n, on)
		}
		if one := s.get(t, dir+"/"+n); len(one) != 1 || string(one[n].content) != "in "+n {
			t.Errorf("%q by itself: %d entries", n, len(one))
		}
	}
}

func (s *suite) getFileAndDirectory(t *testing.T) {
	dir := s.dir(t)
	s.run(t, "cd "+machine.Quote(dir)+" && mkdir -p d/e && echo 1 >d/f && echo 2 >d/e/g && ln -s d to-d && ln -s d/f to-f")
	for src, want := range map[string]string{
		"d": "e e/g f", "d/": "e e/g f", "d/e/": "g", "d/f": "f", "to-d": "e e/g f", "to-f": "to-f",
	} {
		got := s.get(t, dir+"/"+src)
		var names []string
		for _, n := range []string{"e", "e/g", "f", "g", "to-f"} {
			if f, ok := got[n]; ok {
				names = append(names, n)
				if f.Typeflag != tar.TypeReg && f.Typeflag != tar.TypeDir {
					t.Errorf("%s: entry %s is of kind %c", src, n, f.Typeflag)
				}
			}
		}
		if strings.Join(names, " ") != want || len(got) != len(names) {
			t.Errorf("%s: entries %v of %d, want %s", src, names, len(got), want)
		}
	}
}

func (s *suite) getMissing(t *testing.T) {
	dir := s.dir(t)
	for name, sink := range map[string]machine.Sink{
		"memory": files{}, "directory": machine.DirSink(t.TempDir()), "file": machine.FileSink(filepath.Join(t.TempDir(), "f")),
	} {
		err := s.m.Get(s.ctx(t), dir+"/not there", sink)
		if err == nil || !strings.Contains(err.Error(), "not there") {
			t.Errorf("into %s: error %v, want one that names the file", name, err)
		}
	}
}

type brokenSink struct{}

func (brokenSink) ReadTar(context.Context, io.Reader) error { return errBroken }

func (s *suite) getIntoFailingSink(t *testing.T) {
	dir := s.dir(t)
	s.run(t, "dd if=/dev/zero of="+machine.Quote(dir+"/f")+" bs=1048576 count=4 2>/dev/null")
	if err := s.m.Get(s.ctx(t), dir, brokenSink{}); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want the sink's", err)
	}
}

func (s *suite) getEscape(t *testing.T) {
	top := t.TempDir()
	for name, script := range map[string]string{
		"absolute link": "ln -s /etc/passwd l",
		"climbing link": "ln -s ../../../../etc l",
		"by two links":  "mkdir -p a/b && ln -s ../.. a/b/up && ln -s a/b/up/.. l",
	} {
		dir := s.dir(t)
		s.run(t, "cd "+machine.Quote(dir)+" && "+script)
		into := filepath.Join(top, name)
		if err := s.m.Get(s.ctx(t), dir, machine.DirSink(into)); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Lstat(filepath.Join(into, "l")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the link was kept (%v)", name, err)
		}
	}
}

type brokenTree struct{}

func (brokenTree) WriteTar(_ context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o600, Size: 1 << 20}); err != nil {
		return err
	}
	if _, err := tw.Write(make([]byte, 1000)); err != nil {
		return err
	}
	return errBroken
}

func (s *suite) putFailingTree(t *testing.T) {
	if err := s.m.Put(s.ctx(t), s.dir(t), brokenTree{}); !errors.Is(err, errBroken) {
		t.Errorf("error %v, want the tree's", err)
	}
}

func (s *suite) putBelowAFile(t *testing.T) {
	dir := s.dir(t)
	s.put(t, dir, machine.BytesTree("f", []byte("kept"), 0o600))
	if err := s.m.Put(s.ctx(t), dir+"/f", machine.BytesTree("g", make([]byte, 4<<20), 0o600)); err == nil {
		t.Error("no error, though the destination is a file")
	}
	if got := s.run(t, "cat "+machine.Quote(dir+"/f")); got != "kept" {
		t.Errorf("the file now holds %q", got)
	}
}

// stuckTree tells that it has begun, and ends with its context.
type stuckTree struct{ begun chan struct{} }

func (s stuckTree) WriteTar(ctx context.Context, _ io.Writer) error {
	close(s.begun)
	<-ctx.Done()
	return ctx.Err()
}

func (s *suite) putCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(s.ctx(t))
	tree := stuckTree{make(chan struct{})}
	done := make(chan error, 1)
	dir := s.dir(t)
	go func() { done <- s.m.Put(ctx, dir, tree) }()
	<-tree.begun
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Put has not returned 30 s after its context ended")
	}
}

// getCancelled: the context ends when the first bytes have come.
func (s *suite) getCancelled(t *testing.T) {
	dir := s.dir(t)
	s.run(t, "dd if=/dev/zero of="+machine.Quote(dir+"/f")+" bs=1048576 count=64 2>/dev/null")
	ctx, cancel := context.WithCancel(s.ctx(t))
	done := make(chan error, 1)
	go func() { done <- s.m.Get(ctx, dir, cancelSink(cancel)) }()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Get has not returned 30 s after its context ended")
	}
}

type cancelSink context.CancelFunc

func (s cancelSink) ReadTar(ctx context.Context, r io.Reader) error {
	if _, err := r.Read(make([]byte, 512)); err != nil {
		return err
	}
	s()
	<-ctx.Done()
	return ctx.Err()
}

// diskFull: the error names the file that had no room, what arrived of it is
// not taken for the file, and the machine takes what fits.
func (s *suite) diskFull(t *testing.T) {
	dir, q := s.smallDir(t), machine.Quote
	const name = "too big for it"
	tree := noise{name: name, size: 128 << 20}
	err := s.m.Put(s.ctx(t), dir, tree)
	if err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("error %v, want one that names the file", err)
	}
	if got := s.run(t, fmt.Sprintf("find %s -type f -size %dc", q(dir), tree.size)); got != "" {
		t.Error("there is a file of the full size, though its content cannot be there")
	}
	if err := s.m.Get(s.ctx(t), dir+"/"+name, tree); err == nil {
		t.Error("the file comes back whole, though there was no room for it")
	}
	// The same by a command: its own status says so.
	err = s.m.Run(s.ctx(t), machine.Command{Line: "cat >" + q(dir+"/by cat"), Stdin: tree.content()})
	if exit, ok := errors.AsType[*machine.ExitError](err); !ok || exit.Status == machine.DisconnectStatus {
		t.Errorf("cat into it: error %v, want cat's exit status", err)
	}
	s.run(t, "cd "+q(dir)+" && rm -f "+q(name, "by cat"))
	small := noise{name: name, size: 64 << 10}
	s.put(t, dir, small)
	if err := s.m.Get(s.ctx(t), dir+"/"+name, small); err != nil {
		t.Errorf("a small file afterwards: %v", err)
	}
}

// smallDir makes a directory on the machine on a file system with little room.
func (s *suite) smallDir(t *testing.T) string {
	t.Helper()
	if s.SmallDir != "" {
		dir := s.SmallDir + "/machinetest"
		s.run(t, "mkdir "+machine.Quote(dir))
		t.Cleanup(func() { s.after(t, "rm -rf "+machine.Quote(dir)) })
		return dir
	}
	dir := s.dir(t)
	var out bytes.Buffer
	if err := s.m.Run(s.ctx(t), machine.Command{Line: "mount -t tmpfs -o size=1m tmpfs " + machine.Quote(dir), Stdout: &out, Stderr: &out}); err != nil {
		why := fmt.Sprintf("no tmpfs can be mounted on the machine (%v: %s), and Options.SmallDir is empty", err, strings.TrimSpace(out.String()))
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	t.Cleanup(func() { s.after(t, "umount "+machine.Quote(dir)) })
	return dir
}

// after runs a command of a cleanup, in which t's own context has ended.
func (s *suite) after(t *testing.T, line string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.m.Run(ctx, machine.Command{Line: line}); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}

// cutConnection breaks the connection at many places. What is then said to
// have succeeded must be whole, and a break must not look like the command's own end.
func (s *suite) cutConnection(t *testing.T) {
	if s.Cut == nil {
		t.Skip("the machine has no connection")
	}
	size := int64(256 << 10)
	random, halvings, near := 2, 5, 2
	if s.full() {
		size, random, halvings, near = 1<<20, 6, 12, 6
	}
	tried, broken := 0, 0
	dir, q := s.dir(t), machine.Quote
	s.put(t, dir, noise{name: "there", size: size})
	payload, err := io.ReadAll(noise{size: size}.content())
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() string { return fmt.Sprintf("%s/%d", dir, tried) }
	// Each action says whether all that the machine claims to have done is so.
	type action struct {
		name string
		size int64 // at least so many bytes pass
		run  func(context.Context, machine.Machine) error
		good func() bool
	}
	var actions []action
	add := func(name string, size int64, run func(context.Context, machine.Machine) error, good func() bool) {
		actions = append(actions, action{name, size, run, good})
	}
	var out bytes.Buffer
	add("Run of a few lines", 0, func(ctx context.Context, m machine.Machine) error {
		out.Reset()
		return m.Run(ctx, machine.Command{Line: strings.Repeat("echo line; ", 8), Stdout: &out})
	}, func() bool { return out.String() == strings.Repeat("line\n", 8) })
	add("Run with much output", size, func(ctx context.Context, m machine.Machine) error {
		out.Reset()
		return m.Run(ctx, machine.Command{Line: "cat " + q(dir+"/there"), Stdout: &out})
	}, func() bool { return bytes.Equal(out.Bytes(), payload) })
	add("Run with much input", size, func(ctx context.Context, m machine.Machine) error {
		return m.Run(ctx, machine.Command{Line: "cat >" + q(fresh()), Stdin: bytes.NewReader(payload)})
	}, func() bool { return s.run(t, "cmp "+q(fresh(), dir+"/there")+" && echo same") == "same\n" })
	add("Put", size, func(ctx context.Context, m machine.Machine) error {
		return m.Put(ctx, fresh(), noise{name: "there", size: size})
	}, func() bool { return s.run(t, "cmp "+q(fresh()+"/there", dir+"/there")+" && echo same") == "same\n" })
	add("Put of a few files", 0, func(ctx context.Context, m machine.Machine) error {
		return m.Put(ctx, fresh(), machine.Join(machine.BytesTree("a", []byte("a"), 0o600), machine.BytesTree("b", []byte("b"), 0o600)))
	}, func() bool { return s.run(t, "cd "+q(fresh())+" && cat a b") == "ab" })
	var got files
	add("Get", size, func(ctx context.Context, m machine.Machine) error {
		got = files{}
		return m.Get(ctx, dir+"/there", got)
	}, func() bool { return bytes.Equal(got["there"].content, payload) })

	for _, a := range actions {
		// try reports whether the action succeeded over a connection for n bytes.
		try := func(n int64) bool {
			tried++
			m := s.Cut(t, n)
			err := a.run(s.ctx(t), m)
			if cerr := m.Close(); cerr != nil && err == nil {
				t.Logf("%s, cut after %d bytes: Close: %v", a.name, n, cerr)
			}
			switch exit, ok := errors.AsType[*machine.ExitError](err); {
			case errors.Is(err, context.DeadlineExceeded):
				t.Fatalf("%s, cut after %d bytes: it hangs", a.name, n)
			case ok && exit.Status != machine.DisconnectStatus:
				t.Errorf("%s, cut after %d bytes: %v, as if the command had ended by itself", a.name, n, err)
			case err == nil && n < a.size:
				t.Errorf("%s, cut after %d bytes: success, though %d have to pass", a.name, n, a.size)
			case err == nil && !a.good():
				t.Errorf("%s, cut after %d bytes: success, and not all is there", a.name, n)
			}
			if err != nil {
				broken++
			}
			return err == nil
		}
		for range random {
			try(rand.Int64N(max(a.size, 4<<10)))
		}
		// The last bytes are those by which the end is known: find them.
		fails, works := a.size, a.size+(16<<10)
		for !try(works) {
			if fails, works = works, works+2*(works-a.size); works > a.size+(64<<20) {
				t.Fatalf("%s: it does not succeed with %d bytes either", a.name, fails)
			}
		}
		for range halvings {
			if n := fails + (works-fails)/2; try(n) {
				works = n
			} else {
				fails = n
			}
		}
		for range near {
			try(max(0, works-rand.Int64N(200)))
		}
	}
	t.Logf("%d points tried; at %d of them the action failed", tried, broken)
	if broken == 0 {
		t.Error("nothing ever failed: the connection of Options.Cut does not break")
	}
}

// slowLink: a round trip for each file would take minutes.
func (s *suite) slowLink(t *testing.T) {
	if s.Slow == nil || s.Variant {
		t.Skip("the machine has no connection, or its like has had this test")
	}
	slow := &suite{Options: s.Options, m: s.Slow(t)}
	t.Cleanup(func() { // once its directories are gone
		if err := slow.m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	slow.streams(t)
	slow.stdin(t)
	slow.conversation(t)
	slow.cancel(t)
	const n = 2000
	start := time.Now()
	slow.smallFiles(t, slow.m, n)
	if took := time.Since(start); took > n*2*SlowDelay { // and there and back it would be twice that
		t.Errorf("%d files there and back took %v: is there a round trip for each?", n, took)
	}
}

// nothingLeft: whatever the machine did, and however it ended, this process
// is left with as many goroutines and open files as before.
func (s *suite) nothingLeft(t *testing.T) {
	if s.Beside {
		t.Skip("other tests run in this process at the same time")
	}
	dir, q := s.dir(t), machine.Quote
	s.put(t, dir, noise{name: "f", size: 1 << 20})
	round := func() {
		s.run(t, "echo x; echo y >&2")
		wantExit(t, s.m.Run(s.ctx(t), machine.Command{Line: "cat; exit 3", Stdin: strings.NewReader("in")}), 3)
		_ = s.m.Run(s.ctx(t), machine.Command{Line: "true", Stdin: endless{}})
		_ = s.m.Run(s.ctx(t), machine.Command{Line: "cat " + q(dir+"/f"), Stdout: brokenWriter{}})
		s.put(t, dir, machine.BytesTree("g", []byte("g"), 0o600))
		s.get(t, dir+"/g")
		_ = s.m.Put(s.ctx(t), dir, brokenTree{})
		_ = s.m.Put(s.ctx(t), dir+"/f", noise{name: "g", size: 1 << 20})
		_ = s.m.Get(s.ctx(t), dir, brokenSink{})
		_ = s.m.Get(s.ctx(t), dir+"/missing", files{})
		ctx, cancel := context.WithCancel(s.ctx(t))
		_ = s.m.Get(ctx, dir, cancelSink(cancel))
		ctx, cancel = context.WithCancel(s.ctx(t))
		_ = s.m.Put(ctx, dir, cancelTree(cancel))
		ctx, cancel = context.WithCancel(s.ctx(t))
		_ = s.m.Run(ctx, machine.Command{Line: "echo started; sleep 1000", Stdout: writerFunc(func(p []byte) (int, error) {
			cancel()
			return len(p), nil
		})})
	}
	round() // connections that are kept for the next use are made
	rounds := 6
	if s.Variant {
		rounds = 3
	}
	goroutines, descriptors := runtime.NumGoroutine(), openFiles()
	for range rounds {
		round()
	}
	// What ends a moment later, as Docker's idle connections do after half a minute,
	// has ended; what a round leaves behind is there several times.
	var g, d int
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if g, d = runtime.NumGoroutine(), openFiles(); g < goroutines+rounds && d < descriptors+rounds {
			return
		}
	}
	var stacks bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	t.Errorf("after %d rounds: %d goroutines, before %d; %d open files, before %d\n%s", rounds, g, goroutines, d, descriptors, stacks.String())
}

type cancelTree context.CancelFunc

func (c cancelTree) WriteTar(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "cancelled", Mode: 0o600, Size: 1 << 20}); err != nil {
		return err
	}
	c()
	<-ctx.Done()
	return ctx.Err()
}

// openFiles counts this process's descriptors, where the system can tell.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}
