//go:build linux

package digitalocean

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/docloud"
)

// varying is what differs between two bakes in the path of a call.
var varying = regexp.MustCompile(`[0-9a-f]{2}(:[0-9a-f]{2}){15}|[0-9a-f-]{36}|[0-9]{6,}|(ingot|for)-[^/]*`)

// point is one call of a bake: the first of its kind, or the second. Further
// looks at the same thing are the same call again.
type point struct {
	action string
	nth    int
	f      fault.Fault
}

// TestEveryCallEveryFault lets each call of a bake fail in each way, from the
// first to the last of its release. Whatever comes of it, nothing temporary is
// left; and an image is whole in all regions, or can be resumed to be so, or is
// gone.
func TestEveryCallEveryFault(t *testing.T) {
	const workers = 3
	var clouds [workers]*digitalocean.Cloud
	for i := range clouds {
		clouds[i] = cloud(t, digitalocean.Options{Durations: digitalocean.Durations{Visible: durations().Visible}})
	}
	for i, c := range clouds { // where another process finds the token again
		t.Setenv([...]string{"DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_API_TOKEN"}[i], c.Token())
	}
	// One bake without a fault says which calls there are.
	if met, outcome := oneFault(t, clouds[0], point{}); met || outcome != "baked" {
		t.Fatalf("a bake without a fault has %s", outcome)
	}
	seen := map[string]int{}
	var all []point
	for _, call := range clouds[0].Plan().Calls() {
		action := varying.ReplaceAllString(call.Action, "*")
		if seen[action]++; seen[action] > 2 || strings.HasPrefix(action, "GET") && seen[action] > 1 {
			continue
		}
		for _, f := range fault.Sample(len(all), fault.All()) {
			all = append(all, point{action, seen[action], f})
		}
	}
	points := make(chan point)
	var mu sync.Mutex
	outcomes := map[string]int{}
	tried := 0
	var wg sync.WaitGroup
	for _, c := range clouds {
		wg.Go(func() {
			for p := range points {
				met, outcome := oneFault(t, c, p)
				mu.Lock()
				if met {
					tried++
				} else {
					outcome = "not met"
				}
				outcomes[outcome]++
				mu.Unlock()
			}
		})
	}
	for _, p := range all {
		points <- p
	}
	close(points)
	wg.Wait()
	t.Logf("%d points at calls of %d kinds: %v", tried, len(seen), outcomes)
	if len(seen) < 15 || tried < len(all)*9/10 {
		t.Errorf("of %d points only %d were tried", len(all), tried)
	}
}

// oneFault bakes with a fault at one call, and says whether it came to it.
func oneFault(t *testing.T, c *digitalocean.Cloud, p point) (met bool, outcome string) {
	// Slower than elsewhere, so that a bake has not many looks that find nothing new.
	const scale = 40
	k := begin(t, c, docloud.NewShared(docloud.Tempo{Scale: scale}), strings.Replace(source(c, `
snapshot_regions    = ["fra1"]
http_timeout        = "1500ms"
http_retry_wait_min = 0.01
http_retry_wait_max = 0.05
http_retry_max      = 2
`), `"suite"`, `"x"`, 1))
	wanted := "for-" + k.run.BakeID // a tag that is not there yet
	k.b.o.SnapshotName, k.b.o.SnapshotTags = k.run.BakeID, []string{wanted}
	fails := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s at %s (%d): %s", p.f, p.action, p.nth, fmt.Sprintf(format, args...))
	}
	var mu sync.Mutex
	count := 0
	c.Plan().Reset()
	c.Plan().Decide(func(call fault.Call) fault.Fault {
		if varying.ReplaceAllString(call.Action, "*") != p.action {
			return fault.None
		}
		mu.Lock()
		defer mu.Unlock()
		if count++; count != p.nth {
			return fault.None
		}
		met = true
		return p.f
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
	ours := func(r digitalocean.Resource) bool {
		return strings.Contains(r.String(), k.run.BakeID) && r.ID != wanted
	}
	regions := 0
	for _, r := range c.Left() {
		if r.Kind == "image" && err == nil && ours(r) {
			regions = len(r.Regions)
			if !slices.Contains(r.Tags, wanted) {
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
	return met, outcome
}
