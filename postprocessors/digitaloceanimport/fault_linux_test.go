//go:build linux

package digitaloceanimport

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/fault"
	"github.com/ingotbuild/ingot/internal/s3object"
)

var number = regexp.MustCompile(`[0-9]{4,}`)

func pointOf(c fault.Call) string {
	return c.Service + " " + number.ReplaceAllString(c.Action, "*")
}

// hard is what makes an import in few calls: in two regions, in parts.
const hard = `
image_regions       = ["nyc3", "fra1"]
http_retry_wait_min = 0.01
http_retry_wait_max = 0.05
http_retry_max      = 2
space_object_name   = "disk"
`

// few has hard take the place of the regions that process sets.
func few(t *testing.T, c *digitalocean.Cloud, ctx context.Context, p *PostProcessor, l *ledger, file string) (*builders.Artifact, error) {
	t.Helper()
	p.part = 8 << 20
	a, s, err := beginWith(t, c, ctx, p, l, file, strings.TrimSpace(hard))
	for _, secret := range []string{c.Token(), "X-Amz-Signature", os.Getenv("DIGITALOCEAN_SPACES_SECRET_KEY")} {
		if text := fmt.Sprintf("%+v %v %s", l.Open(), err, s.text()); strings.Contains(text, secret) {
			t.Errorf("a secret is told: %s", text)
		}
	}
	return a, err
}

// Every call of an import fails once in every way, or the bake is cancelled
// there: either all is well, or nothing is left.
func TestEveryFault(t *testing.T) {
	c := cloud(t)
	raw := disk(t)
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	points := pointsOf(t, c, raw)
	faults := []fault.Fault{fault.Refuse, fault.Fail, fault.Throttle, fault.Cut, fault.CutAfter, fault.FailAfter}
	if testing.Short() {
		faults = []fault.Fault{fault.Refuse, fault.CutAfter}
	}
	tried, survived, swept := 0, 0, 0
	for _, at := range points {
		if strings.HasPrefix(at, "ledger: ") {
			continue
		}
		for _, f := range append(slices.Clone(fault.Sample(tried, faults)), fault.None) {
			tried++
			what := fmt.Sprintf("%s: %s", at, f)
			ctx, cancel := context.WithCancel(t.Context())
			if f == fault.None {
				what = at + ": cancelled"
			}
			var once sync.Once
			c.Plan().Decide(func(call fault.Call) (is fault.Fault) {
				if pointOf(call) == at {
					once.Do(func() {
						if is = f; f == fault.None {
							cancel()
						}
					})
				}
				return is
			})
			p, l := newProcessor(), &ledger{}
			a, err := few(t, c, ctx, p, l, raw)
			cancel()
			released := l.release(t.Context(), p, err == nil) // which may meet the fault
			c.Plan().Decide(nil)
			if released != nil {
				swept++
				if e := l.release(t.Context(), newProcessor(), false); e != nil {
					t.Errorf("%s: %v; %v; swept: %v", what, err, released, e)
				}
			}
			l.clean(t, what)
			if err == nil {
				survived++
				images := c.Left("image")
				if len(images) != 1 || images[0].Name != "imported" || len(images[0].Regions) != 2 {
					t.Errorf("%s: images %v", what, images)
				}
				if err := a.Destroy(t.Context()); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			if left := c.Left(); len(left) > 0 {
				t.Fatalf("%s: %v; left behind: %v", what, err, left)
			}
		}
	}
	t.Logf("%d points tried: %d survived, %d were swept", tried, survived, swept)
}

// pointsOf are the calls and the writes into the ledger of an import that lives.
func pointsOf(t *testing.T, c *digitalocean.Cloud, file string) (points []string) {
	t.Helper()
	l := &ledger{}
	l.before = func(what string) { points = append(points, "ledger: "+what) }
	c.Plan().Reset()
	if _, err := few(t, c, t.Context(), newProcessor(), l, file); err != nil {
		t.Fatal(err)
	}
	for _, call := range c.Plan().Calls() {
		points = append(points, pointOf(call))
	}
	l.before = nil
	if err := l.release(t.Context(), newProcessor(), false); err != nil {
		t.Fatal(err)
	}
	clean(t, c)
	slices.Sort(points)
	return slices.Compact(points)
}

// A process that dies at any call, before it has its effect or after, or before
// anything is written into the ledger, leaves what another gives back by the
// ledger alone.
func TestDeathAtEveryPoint(t *testing.T) {
	c := cloud(t)
	raw := disk(t)
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	deaths, kinds := 0, map[string]int{}
	for _, point := range pointsOf(t, c, raw) {
		faults := []fault.Fault{fault.Cut, fault.CutAfter}
		if strings.HasPrefix(point, "ledger: ") {
			faults = faults[:1]
		}
		for _, f := range faults {
			for nth := 1; nth <= 2; nth++ {
				l := &ledger{}
				ctx, end := context.WithCancel(t.Context())
				var mu sync.Mutex
				n := 0
				at := func(what string) bool {
					mu.Lock()
					defer mu.Unlock()
					if what == point {
						n++
					}
					return what == point && n == nth
				}
				l.before = func(what string) {
					if at("ledger: " + what) {
						l.kill()
						end()
					}
				}
				c.Plan().Decide(func(call fault.Call) fault.Fault {
					switch {
					case l.killed():
						return fault.Cut // the dead make no calls
					case at(pointOf(call)):
						l.kill()
						if f == fault.Cut {
							end()
						}
						return f
					}
					return fault.None
				})
				c.Plan().Done(func(fault.Call) {
					if l.killed() {
						end()
					}
				})
				_, err := few(t, c, ctx, newProcessor(), l, raw)
				end()
				c.Plan().Decide(nil)
				c.Plan().Done(nil)
				reached := l.killed()
				what := fmt.Sprintf("%s %d (%s)", point, nth, f)
				if reached {
					deaths++
					for _, lease := range l.Open() {
						kinds[lease.Kind]++
					}
				} else if nth == 1 {
					t.Errorf("%s is not reached", what)
				}
				l.before, l.dead = nil, false
				// Nobody has heard of an artifact, if there is one: its lease is open.
				if e := l.release(t.Context(), newProcessor(), false); e != nil {
					t.Errorf("dead at %s: %v; %v", what, err, e)
				}
				l.clean(t, what)
				if left := c.Left(); len(left) > 0 {
					t.Fatalf("dead at %s: %v; left behind: %v", what, err, left)
				}
			}
		}
	}
	for _, kind := range []string{leaseObject, leaseUpload, leaseImage} {
		if kinds[kind] == 0 {
			t.Errorf("no death left a lease of kind %s", kind)
		}
	}
	t.Logf("%d deaths, which left %v", deaths, kinds)
}

// What a lease does not name is not touched; what cannot be reached is an error.
func TestReleaseLeavesOthersAlone(t *testing.T) {
	c := cloud(t)
	store, err := func() (*s3.Client, error) {
		p := New(nil)
		at, err := p.endpoint()
		if err != nil {
			return nil, err
		}
		return p.client(at, "nyc3")
	}()
	if err != nil {
		t.Fatal(err)
	}
	put := func(id string) {
		t.Helper()
		if _, err := store.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("images"), Key: aws.String("k"), Body: strings.NewReader("x"), Metadata: map[string]string{s3object.Mark: id}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String("images"), Key: aws.String("k")}); err != nil {
		t.Fatal(err)
	}
	release := func(kind, id string, age time.Duration) error {
		return newProcessor().Release(t.Context(), builders.Lease{
			BakeID: bakeID, Builder: "digitalocean-import", Kind: kind, Name: "images/k", ExternalID: id, Created: time.Now().Add(-age),
			Data: map[string]string{dataID: "x", dataRegion: "nyc3", dataEndpoint: c.SpacesURL(), dataSpace: "images", dataKey: "k", "api_url": c.URL(), "token": "template", "account": "another"},
		})
	}
	put("another")
	for _, err := range []error{release(leaseObject, "", 0), release(leaseUpload, "", time.Hour)} {
		if err != nil {
			t.Error(err)
		}
	}
	if left := c.Left(); len(left) != 2 {
		t.Errorf("of somebody's object and upload there is %v", left)
	}
	put("x")
	for _, err := range []error{release(leaseObject, "", 0), release(leaseUpload, "", 0), release(leaseObject, "", 0), release(leaseUpload, "gone", 0)} {
		if err != nil {
			t.Error(err)
		}
	}
	clean(t, c)
	t.Setenv("DIGITALOCEAN_TOKEN", c.Token())
	if err := release(leaseImage, "", time.Hour); err == nil || !strings.Contains(err.Error(), "the bake was in another") {
		t.Errorf("another account: %v", err)
	}
	if err := release("whale", "", 0); err == nil {
		t.Error("a lease of a kind that there is not is given back")
	}
	t.Setenv("DIGITALOCEAN_SPACES_SECRET_KEY", "wrong")
	if err := release(leaseObject, "", 0); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong keys: %v", err)
	}
	t.Setenv("DIGITALOCEAN_SPACES_SECRET_KEY", "")
	if err := release(leaseObject, "", 0); err == nil || !strings.Contains(err.Error(), "not kept") {
		t.Errorf("no keys: %v", err)
	}
}
