//go:build linux

package digitalocean

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/docloud"
)

var faster = flag.Float64("faster", 5, "how many times as fast as DigitalOcean the cloud of BenchmarkBake is")

// BenchmarkBake measures what a bake takes over what the cloud itself takes for
// it: to make the droplet, to boot it, to shut it down, to take the snapshot and
// show it, and to bring it to another region, one after the other. The cloud, and
// how often it is asked, are -faster times as fast as DigitalOcean; what this
// host does, such as the cryptography of SSH and the droplets themselves, is not.
func BenchmarkBake(b *testing.B) {
	d := digitalocean.Realistic().Scale(1 / *faster)
	path := d.Create + d.SSH + d.Shutdown + d.Snapshot + d.Visible + d.Transfer
	for _, n := range []int{1, 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := cloud(b, digitalocean.Options{Durations: d})
			var took time.Duration
			calls := 0
			for b.Loop() {
				shared := docloud.NewShared(docloud.Tempo{Scale: *faster})
				c.Plan().Reset()
				var all []*bake
				for range n {
					all = append(all, begin(b, c, shared, source(c, `snapshot_regions = ["fra1"]`)))
				}
				start := time.Now()
				var mu sync.Mutex
				var wg sync.WaitGroup
				for _, k := range all {
					wg.Go(func() {
						began := time.Now()
						k.check()
						_, err := k.image(b.Context(), "true")
						if err != nil {
							b.Errorf("%s: %v", k.run.BakeID, err)
						}
						k.end(err)
						mu.Lock()
						defer mu.Unlock()
						took += time.Since(began)
					})
				}
				wg.Wait()
				calls += len(c.Plan().Calls())
				b.Logf("%d bakes in %v; the cloud's part of each is %v", n, time.Since(start).Round(time.Millisecond), path)
			}
			mean := took / time.Duration(b.N*n)
			b.ReportMetric(100*float64(mean-path)/float64(path), "%over")
			b.ReportMetric(float64(calls)/float64(b.N*n), "calls/bake")
			b.ReportMetric(mean.Seconds(), "s/bake")
		})
	}
}

// BenchmarkPacker is the same bake by Packer and its plugin, if they are there.
// Their waits know no pace but the real one: -args -faster 1.
func BenchmarkPacker(b *testing.B) {
	if _, err := exec.LookPath("packer"); err != nil {
		b.Skipf("without Packer: %v", err)
	}
	plugins, err := exec.CommandContext(b.Context(), "packer", "plugins", "installed").CombinedOutput()
	if err != nil || !strings.Contains(string(plugins), "packer-plugin-digitalocean") {
		b.Skip("Packer has no installed digitalocean plugin that it can tell of")
	}
	if *faster != 1 {
		b.Skip("Packer waits at real pace: -args -faster 1")
	}
	d := digitalocean.Realistic()
	d.Visible = 0 // it gives a droplet up that is not found at once
	path := d.Create + d.SSH + d.Shutdown + d.Snapshot + d.Transfer
	c := cloud(b, digitalocean.Options{Durations: d})
	file := filepath.Join(b.TempDir(), "packer.pkr.hcl")
	text := "source \"digitalocean\" \"s\" {\n" + source(c, `snapshot_regions = ["fra1"]`) + "\n}\nbuild {\n  sources = [\"source.digitalocean.s\"]\n  provisioner \"shell\" {\n    inline = [\"true\"]\n  }\n}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	var took time.Duration
	calls := 0
	for b.Loop() {
		c.Plan().Reset()
		cmd := exec.CommandContext(b.Context(), "packer", "build", "-color=false", file)
		// What would leave this host finds no proxy; loopback needs none.
		cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1", "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=")
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		took += time.Since(start)
		calls += len(c.Plan().Calls())
	}
	mean := took / time.Duration(b.N)
	b.ReportMetric(100*float64(mean-path)/float64(path), "%over")
	b.ReportMetric(float64(calls)/float64(b.N), "calls/bake")
	b.ReportMetric(mean.Seconds(), "s/bake")
}
