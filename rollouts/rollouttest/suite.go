// Package rollouttest holds the suite that every rollouts.Launcher passes, and
// fakes for tests of what works with one.
package rollouttest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/rollouts"
)

// patience bounds what a launcher under test may take for one step.
const patience = time.Minute

// Run tests a launcher. open returns one that has launched nothing; it can
// launch image "suite", version "v1", whose service answers GET / on port 8080
// with a status below 500.
func Run(t *testing.T, open func(t *testing.T) rollouts.Launcher) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, ctx context.Context, l rollouts.Launcher)
	}{
		{"serves and stops", testServes},
		{"outlives the launch's context", testOutlives},
		{"side by side", testSideBySide},
		{"same name again", testSameName},
		{"stop is idempotent", testStopTwice},
		{"cancelled launch", testCancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c.test(t, ctx, open(t))
		})
	}
}

func spec(color string, index int) rollouts.InstanceSpec {
	return rollouts.InstanceSpec{
		Service: "suite", Color: color, Index: index,
		Image: "suite", Version: "v1", Digest: "sha256:" + strings.Repeat("0", 64),
		Name: fmt.Sprintf("suite-%s-v1-%d", color, index), Port: 8080,
	}
}

func launch(t *testing.T, ctx context.Context, l rollouts.Launcher, s rollouts.InstanceSpec) rollouts.Instance {
	t.Helper()
	in, err := l.Launch(ctx, s)
	if err != nil {
		t.Fatalf("launching %s: %v", s.Name, err)
	}
	t.Cleanup(func() { stop(t, in) })
	return in
}

func stop(t *testing.T, in rollouts.Instance) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := in.Stop(ctx); err != nil {
		t.Errorf("stopping %s: %v", in.ID(), err)
	}
}

// get asks until the service answers.
func get(t *testing.T, ctx context.Context, in rollouts.Instance) {
	t.Helper()
	tr := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return in.Dial(ctx) },
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://suite/", nil)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := tr.RoundTrip(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode < 500 {
				return
			}
			err = fmt.Errorf("status %s, %v", resp.Status, err)
		}
		select {
		case <-tick.C:
		case <-in.Done():
			t.Fatalf("%s ended: %v; the last answer was: %v", in.ID(), in.Err(), err)
		case <-ctx.Done():
			t.Fatalf("%s does not answer: %v", in.ID(), err)
		}
	}
}

func refuses(t *testing.T, ctx context.Context, in rollouts.Instance) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if c, err := in.Dial(ctx); err == nil {
		c.Close()
		t.Errorf("%s can still be dialled", in.ID())
	}
}

func testServes(t *testing.T, ctx context.Context, l rollouts.Launcher) {
	in := launch(t, ctx, l, spec("blue", 0))
	if in.ID() == "" {
		t.Error("the instance has no id")
	}
	get(t, ctx, in)
	select {
	case <-in.Done():
		t.Fatalf("Done is closed while the instance answers: %v", in.Err())
	default:
	}
	if err := in.Err(); err != nil {
		t.Errorf("Err before the end: %v", err)
	}
	stop(t, in)
	select {
	case <-in.Done():
	default:
		t.Error("Done is open after Stop returned")
	}
	if err := in.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
	refuses(t, ctx, in)
}

func testOutlives(t *testing.T, ctx context.Context, l rollouts.Launcher) {
	lctx, cancel := context.WithCancel(ctx)
	in, err := l.Launch(lctx, spec("blue", 0))
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, in)
	get(t, ctx, in)
}

func testSideBySide(t *testing.T, ctx context.Context, l rollouts.Launcher) {
	a, b, c := launch(t, ctx, l, spec("blue", 0)), launch(t, ctx, l, spec("blue", 1)), launch(t, ctx, l, spec("green", 0))
	if a.ID() == b.ID() || b.ID() == c.ID() || a.ID() == c.ID() {
		t.Errorf("ids repeat: %s, %s, %s", a.ID(), b.ID(), c.ID())
	}
	for _, in := range []rollouts.Instance{a, b, c} {
		get(t, ctx, in)
	}
	stop(t, b)
	refuses(t, ctx, b)
	get(t, ctx, a)
	get(t, ctx, c)
}

func testSameName(t *testing.T, ctx context.Context, l rollouts.Launcher) {
	a := launch(t, ctx, l, spec("blue", 0))
	get(t, ctx, a)
	stop(t, a)
	b := launch(t, ctx, l, spec("blue", 0))
	if a.ID() == b.ID() {
		t.Errorf("two instances have the id %s", a.ID())
	}
	get(t, ctx, b)
	refuses(t, ctx, a)
	stop(t, a) // must not end its successor
	get(t, ctx, b)
}

func testStopTwice(t *testing.T, ctx context.Context, l rollouts.Launcher) {
	in := launch(t, ctx, l, spec("blue", 0))
	stop(t, in)
	stop(t, in)
}

func testCancelled(t *testing.T, ctx context.Context, l rollouts.Launcher) {
	lctx, cancel := context.WithCancel(ctx)
	cancel()
	if in, err := l.Launch(lctx, spec("blue", 0)); err == nil {
		stop(t, in)
		t.Fatal("a launch whose context had ended succeeded")
	}
	get(t, ctx, launch(t, ctx, l, spec("blue", 0))) // nothing is in the way
}
