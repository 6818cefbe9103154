//go:build linux

package sshmachine_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/provisioners/shell"
)

// The benchmarks set Ingot beside OpenSSH's own client, and Packer where there
// is one, in one run: go test -run - -bench . -benchtime 1x ./machine/ssh

// place is an sshd, straight and behind 40 ms.
type place struct {
	s    *sshtest.Server
	port int
}

func places(b *testing.B, f func(b *testing.B, p place)) {
	s := sshtest.Start(b, sshtest.Options{})
	for _, ms := range []int{0, 40} {
		b.Run(fmt.Sprintf("%dms", ms), func(b *testing.B) {
			p := place{s, s.Port}
			if ms > 0 {
				p.port = sshtest.NewRelay(b, s.Address(), time.Duration(ms)*time.Millisecond, 0).Port
			}
			f(b, p)
		})
	}
}

func (p place) config(b testing.TB) sshmachine.Config {
	k, err := sshmachine.ParseKey(p.s.Key, nil, nil, "the test")
	if err != nil {
		b.Fatal(err)
	}
	return sshmachine.Config{Hops: []sshmachine.Hop{{
		Host: p.s.Host, Port: p.port, User: p.s.User,
		HostKeys: sshmachine.HostKeys{Known: []ssh.PublicKey{p.s.HostPublicKey()}}, Login: sshmachine.Login{Keys: []sshmachine.Key{k}},
	}}}
}

func (p place) dial(b testing.TB) *sshmachine.Machine {
	m, err := sshmachine.Dial(b.Context(), p.config(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.Close() })
	return m
}

// ssh is a command line of OpenSSH's client.
func (p place) ssh(more string) string {
	return fmt.Sprintf("ssh -q -F none -i %s -p %d -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null %s %s@127.0.0.1", p.s.KeyFile, p.port, more, p.s.User)
}

func sh(b testing.TB, script string) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := exec.CommandContext(b.Context(), "bash", "-ec", "set -o pipefail; "+script).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v: %s", script, err, out)
	}
	return time.Since(start)
}

// packer runs a null source with provisioners, for at most three minutes.
func (p place) packer(b *testing.B, provisioners string) (time.Duration, bool) {
	exe, err := exec.LookPath("packer")
	if err != nil {
		return 0, false
	}
	dir := b.TempDir()
	text := fmt.Sprintf("source \"null\" \"x\" {\n ssh_host = \"127.0.0.1\"\n ssh_port = %d\n ssh_username = %q\n ssh_private_key_file = %q\n}\nbuild {\n sources = [\"null.x\"]\n%s\n}\n", p.port, p.s.User, p.s.KeyFile, provisioners)
	if err := os.WriteFile(filepath.Join(dir, "t.pkr.hcl"), []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "build", "t.pkr.hcl")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1", "PACKER_CONFIG_DIR="+dir)
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
		b.Logf("packer: %v: %.500s", err, out)
		return 0, false
	}
	if ctx.Err() != nil {
		b.ReportMetric(time.Since(start).Seconds(), "packer-more-than-s")
		return 0, false
	}
	return time.Since(start), true
}

// report compares one run of each. Other work on the host hits both alike, so
// that they take turns, and the best of each counts.
func report(b *testing.B, times int, ours, theirs func() time.Duration, packer func() (time.Duration, bool)) {
	b.Helper()
	best, peer := time.Duration(1<<62), time.Duration(1<<62)
	for range times {
		peer = min(peer, theirs())
		best = min(best, ours())
	}
	b.ReportMetric(best.Seconds(), "ingot-s")
	b.ReportMetric(peer.Seconds(), "openssh-s")
	b.ReportMetric(best.Seconds()/peer.Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
	if packer != nil {
		if d, ok := packer(); ok {
			b.ReportMetric(d.Seconds(), "packer-s")
		}
	}
}

func timed(b *testing.B, f func() error) func() time.Duration {
	return func() time.Duration {
		b.Helper()
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
}

func BenchmarkFiles5000(b *testing.B) {
	dir := b.TempDir()
	data := make([]byte, 4<<10)
	for i := range 5000 {
		_, _ = rand.Read(data)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	places(b, func(b *testing.B, p place) {
		n := 0
		to := func() string { n++; return filepath.Join(p.s.Home, fmt.Sprintf("files%d-%d", p.port, n)) }
		report(b, 3, timed(b, func() error {
			m, err := sshmachine.Dial(b.Context(), p.config(b))
			if err != nil {
				return err
			}
			defer m.Close()
			return m.Put(b.Context(), to(), machine.DirTree(dir, ""))
		}), func() time.Duration {
			d := to()
			return sh(b, "tar cf - -C "+dir+" . | "+p.ssh("")+" 'mkdir -p "+d+" && tar xf - -C "+d+"'")
		}, func() (time.Duration, bool) {
			d := to()
			if err := os.MkdirAll(d, 0o755); err != nil {
				b.Fatal(err)
			}
			return p.packer(b, fmt.Sprintf("provisioner \"file\" {\n source = \"%s/\"\n destination = %q\n}", dir, d))
		})
	})
}

func BenchmarkFile500MB(b *testing.B) {
	name := filepath.Join(b.TempDir(), "big")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, 500<<20); err != nil {
		b.Fatal(err)
	}
	f.Close()
	places(b, func(b *testing.B, p place) {
		to := filepath.Join(p.s.Home, "big-here")
		report(b, 2, timed(b, func() error {
			m, err := sshmachine.Dial(b.Context(), p.config(b))
			if err != nil {
				return err
			}
			defer m.Close()
			return m.Put(b.Context(), to, machine.FileTree(name, "big"))
		}), func() time.Duration { return sh(b, p.ssh("")+" 'cat >"+p.s.Home+"/big' <"+name) }, func() (time.Duration, bool) {
			return p.packer(b, fmt.Sprintf("provisioner \"file\" {\n source = %q\n destination = %q\n}", name, p.s.Home+"/packer"))
		})
	})
}

func BenchmarkFile500MBDownload(b *testing.B) {
	places(b, func(b *testing.B, p place) {
		there, here := filepath.Join(p.s.Home, "big"), filepath.Join(b.TempDir(), "big")
		sh(b, "head -c 500M /dev/urandom >"+there)
		report(b, 2, timed(b, func() error {
			m, err := sshmachine.Dial(b.Context(), p.config(b))
			if err != nil {
				return err
			}
			defer m.Close()
			return m.Get(b.Context(), there, machine.FileSink(here))
		}), func() time.Duration { return sh(b, p.ssh("")+" 'cat "+there+"' >"+here) }, nil)
	})
}

func BenchmarkScripts20(b *testing.B) {
	places(b, func(b *testing.B, p place) {
		ctl := filepath.Join(b.TempDir(), "c")
		if len(ctl) > 90 {
			dir, err := os.MkdirTemp("", "b")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { os.RemoveAll(dir) })
			ctl = filepath.Join(dir, "c")
		}
		var blocks strings.Builder
		for range 20 {
			blocks.WriteString("provisioner \"shell\" {\n inline = [\"true\"]\n}\n")
		}
		report(b, 3, timed(b, func() error {
			m, err := sshmachine.Dial(b.Context(), p.config(b))
			if err != nil {
				return err
			}
			defer m.Close()
			for range 20 {
				pr := shell.New()
				pr.Options().(*shell.Options).Inline = []string{"true"}
				if err := pr.Provision(b.Context(), &provisioners.Env{}, m); err != nil {
					return err
				}
			}
			return nil
		}), func() time.Duration {
			mux := p.ssh("-S " + ctl)
			return sh(b, p.ssh("-M -N -f -S "+ctl)+" >/dev/null 2>&1 </dev/null; for i in $(seq 20); do echo true | "+mux+" 'cat >/tmp/s.$$ && chmod 700 /tmp/s.$$ && sh /tmp/s.$$; rm -f /tmp/s.$$'; done; "+p.ssh("-O exit -S "+ctl)+" 2>/dev/null")
		}, func() (time.Duration, bool) { return p.packer(b, blocks.String()) })
	})
}

// BenchmarkParallel50 is 50 machines side by side, each with a file and three scripts.
func BenchmarkParallel50(b *testing.B) {
	places(b, func(b *testing.B, p place) {
		start := time.Now()
		var most runtime.MemStats
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				m, err := sshmachine.Dial(b.Context(), p.config(b))
				if err != nil {
					b.Error(err)
					return
				}
				defer m.Close()
				if err := m.Put(b.Context(), filepath.Join(p.s.Home, fmt.Sprint("p", i)), machine.BytesTree("f", make([]byte, 1<<20), 0o600)); err != nil {
					b.Error(err)
				}
				for range 3 {
					pr := shell.New()
					pr.Options().(*shell.Options).Inline = []string{"true"}
					if err := pr.Provision(b.Context(), &provisioners.Env{}, m); err != nil {
						b.Error(err)
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		peak := uint64(0)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
				runtime.ReadMemStats(&most)
				peak = max(peak, most.Sys-most.HeapReleased)
				continue
			case <-done:
				tick.Stop()
			}
			break
		}
		b.ReportMetric(time.Since(start).Seconds(), "s")
		b.ReportMetric(float64(peak)/(1<<20), "MiB")
		b.ReportMetric(0, "ns/op")
	})
}

// BenchmarkRun is one command on a machine that is connected.
func BenchmarkRun(b *testing.B) {
	places(b, func(b *testing.B, p place) {
		m := p.dial(b)
		for b.Loop() {
			if err := m.Run(b.Context(), machine.Command{Line: "true"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
