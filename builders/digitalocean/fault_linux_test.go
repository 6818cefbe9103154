//go:build linux

package digitalocean

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/docloud"
)

// TestEveryCallEveryFault lets each call of a bake fail in each way, from the
// first to the last of its release. Whatever comes of it, nothing temporary is
// left; and an image is whole in all regions, or can be resumed to be so, or is
// gone.
func TestEveryCallEveryFault(t *testing.T) {
	type point struct {
		n int
		f fault.Fault
	}
	points := make(chan point)
	var mu sync.Mutex
	tried, outcomes, last := 0, map[string]int{}, 0
	var wg sync.WaitGroup
	const workers = 3
	var clouds [workers]*digitalocean.Cloud
	for i := range clouds {
		clouds[i] = cloud(t, digitalocean.Options{Durations: digitalocean.Durations{Visible: durations().Visible}})
	}
	for i, c := range clouds { // where another process finds the token again
		t.Setenv([...]string{"DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_API_TOKEN"}[i], c.Token())
	}
	for _, c := range clouds {
		wg.Go(func() {
			for p := range points {
				where, outcome := oneFault(t, c, p.n, p.f)
				mu.Lock()
				if where != "" {
					tried++
					outcomes[outcome]++
					last = max(last, p.n)
				}
				mu.Unlock()
			}
		})
	}
	// A bake has about 35 calls, more when it waits; that all were tried is seen
	// by the last ones that were never reached.
	const most = 60
	for n := 1; n <= most; n++ {
		for _, f := range fault.All() {
			points <- point{n, f}
		}
		mu.Lock()
		over := n-last > 6
		mu.Unlock()
		if over {
			break
		}
	}
	close(points)
	wg.Wait()
	t.Logf("%d points: %d calls, with %d faults each: %v", tried, last, len(fault.All()), outcomes)
	if last < 25 || last > most-6 {
		t.Errorf("the last call that could be made to fail is number %d", last)
	}
}

// oneFault bakes with a fault at the nth call. where is empty when there was no
// such call.
func oneFault(t *testing.T, c *digitalocean.Cloud, n int, f fault.Fault) (where, outcome string) {
	// Slower than elsewhere, so that a bake has not many looks that find nothing new.
	const scale = 40
	k := begin(t, c, docloud.NewShared(docloud.Tempo{Scale: scale}), strings.Replace(source(c, `
snapshot_regions    = ["fra1"]
snapshot_tags       = ["web"]
http_timeout        = "1500ms"
http_retry_wait_min = 0.01
http_retry_wait_max = 0.05
http_retry_max      = 2
`), `"suite"`, `"x"`, 1))
	k.b.o.SnapshotName = k.run.BakeID
	fails := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s at call %d, %s: %s", f, n, where, fmt.Sprintf(format, args...))
	}
	var mu sync.Mutex
	c.Plan().Reset()
	c.Plan().Decide(func(call fault.Call) fault.Fault {
		if call.N != n {
			return fault.None
		}
		mu.Lock()
		where = call.Action
		mu.Unlock()
		return f
	})
	a, err := k.image(t.Context(), "echo x >/srv/file")
	if k.machine != nil {
		_ = k.machine.Close()
		k.machine = nil
	}
	// The engine's release, which may meet the fault, and a sweep.
	for _, l := range slices.Backward(k.ledger.Open()) {
		if l.Data[builders.UntilRecorded] != "" && (err == nil || errors.Is(err, builders.ErrUnfinished)) {
			continue
		}
		if k.b.Release(t.Context(), l) == nil {
			_ = k.ledger.Released(t.Context(), l) // to memory
		}
	}
	c.Plan().Decide(nil)
	outcome = "baked"
	switch {
	case errors.Is(err, builders.ErrUnfinished):
		outcome = "resumed"
		if a, err = k.resume(scale); err != nil {
			fails("resume: %v", err)
		}
	case err != nil:
		outcome = "failed"
		if strings.Contains(err.Error(), c.Token()) {
			fails("the error has the token in it: %v", err)
		}
	}
	k.b = New(docloud.NewShared(docloud.Tempo{Scale: scale})) // a process that knows only the ledger
	k.end(err)
	ours := func(r digitalocean.Resource) bool { return strings.Contains(r.String(), k.run.BakeID) }
	regions := 0
	for _, r := range c.Left() {
		if r.Kind == "image" && err == nil && ours(r) {
			regions = len(r.Regions)
			if !slices.Contains(r.Tags, "web") {
				fails("the image lacks its tag")
			}
		} else if ours(r) {
			fails("left: %s (the bake ended with %v)", r, err)
		}
	}
	if err == nil {
		if regions != 2 || !strings.HasPrefix(a.ID, "nyc3,fra1:") {
			fails("the image %s is in %d regions", a.ID, regions)
		}
		if err := a.Destroy(t.Context()); err != nil {
			fails("destroy: %v", err)
		}
		if images := c.Left("image"); slices.ContainsFunc(images, ours) {
			fails("destroyed, and left: %v", images)
		}
	}
	return where, outcome
}
