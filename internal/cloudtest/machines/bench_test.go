//go:build linux

package machines

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// BenchmarkBoot boots machines on this host's own system, each with an SSH server.
func BenchmarkBoot(b *testing.B) {
	h := newHost(b)
	for i := 0; b.Loop(); i++ {
		m := boot(b, h, Config{ID: fmt.Sprintf("i-%d", i), Root: volume(b, h, h.HostContent(), 0), User: "admin"})
		b.StopTimer()
		stop(b, m)
		b.StartTimer()
	}
}

// BenchmarkFleet has fifty machines beside each other.
func BenchmarkFleet(b *testing.B) {
	h := newHost(b)
	for b.Loop() {
		var wg sync.WaitGroup
		machines := make([]*Machine, 50)
		for i := range machines {
			v := volume(b, h, h.HostContent(), 0)
			wg.Go(func() {
				var err error
				if machines[i], err = h.Boot(context.Background(), Config{ID: fmt.Sprintf("i-%d", i), Root: v, User: "admin"}); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		if b.Failed() {
			b.FailNow()
		}
		kids, memory := family(b)
		b.ReportMetric(float64(kids)/50, "processes/machine")
		b.ReportMetric(float64(memory)/50/1e6, "MB/machine")
		b.StopTimer()
		for _, m := range machines {
			wg.Go(func() { stop(b, m) })
		}
		wg.Wait()
		b.StartTimer()
	}
}

// family counts the processes below this one, and their proportional memory in bytes.
func family(t testing.TB) (count int, memory int64) {
	t.Helper()
	next := children(t, os.Getpid())
	for len(next) > 0 {
		pid := next[0]
		next = append(next[1:], children(t, pid)...)
		count++
		for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/smaps_rollup", pid))) {
			if f := strings.Fields(line); f[0] == "Pss:" {
				n, err := strconv.ParseInt(f[1], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				memory += n << 10
			}
		}
	}
	return count, memory
}
