//go:build linux

package digitalocean

import (
	"fmt"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/event"
)

func TestZZ(t *testing.T) {
	d := digitalocean.Realistic().Scale(1.0 / 5)
	c := cloud(t, digitalocean.Options{Durations: d})
	k := begin(t, c, docloud.NewShared(docloud.Tempo{Scale: 5}), source(c, `snapshot_regions = ["fra1"]`))
	start := time.Now()
	c.Plan().Done(func(x fault.Call) { fmt.Printf("%7.3f   %s\n", time.Since(start).Seconds(), x.Action) })
	k.run.Events.Sink = event.Func(func(e event.Event) { fmt.Printf("%7.3f ## %s\n", time.Since(start).Seconds(), e.Text) })
	k.check()
	_, err := k.image(t.Context(), "true")
	fmt.Printf("%7.3f ## snapshotted\n", time.Since(start).Seconds())
	if err != nil {
		t.Fatal(err)
	}
	k.end(err)
	fmt.Printf("%7.3f ## end; path: create %v ssh %v shutdown %v snapshot %v visible %v transfer %v\n", time.Since(start).Seconds(), d.Create, d.SSH, d.Shutdown, d.Snapshot, d.Visible, d.Transfer)
}
